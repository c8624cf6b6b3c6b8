"""Figures of the latent space, for matplotlib: each takes plain numbers and returns a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curve", "latent_map", "traversal_bars", "traversal_images"]

MARKERS = "osD^vP*Xhp<>"  # what differs in colour differs in shape, too
LEVELS = len(MARKERS)  # told apart at most
BARS = 8  # columns shown for each dimension


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def latent_map(
    points: np.ndarray, axes: tuple[str, str], values: np.ndarray | None = None, name: str = ""
) -> Figure:
    """Returns rows as points of a plane.

    Args:
        points: (N, 2).
        axes: What the two directions are.
        values: What the points are coloured by, (N,): numbers, or labels, of which the commonest 12
            are told apart; a missing one is grey.
        name: Of the values.
    """
    figure = _figure(6, 5)
    plane: Axes = figure.subplots()
    plane.set(xlabel=axes[0], ylabel=axes[1])
    if values is None:
        plane.plot(*points.T, ".", alpha=0.5, gid="rows")
        return figure
    flat = [None if v is None or v != v else v for v in values.tolist()]
    known = np.array([v is not None for v in flat])
    own = [v for v in flat if v is not None]
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in own)
    levels = sorted(set(own), key=lambda v: (-own.count(v), str(v)))
    plane.plot(*points[~known].T, ".", color="0.7", gid="missing")
    if numbers and len(levels) > LEVELS:
        colours = np.array(own, float)
        x, y = points[known].T
        drawn = plane.scatter(x, y, c=colours, s=12, cmap="viridis", gid="rows")
        figure.colorbar(drawn, label=name)
        return figure
    for i, level in enumerate(levels[:LEVELS]):
        there, mark = np.array([v == level for v in flat]), MARKERS[i]
        plane.plot(
            *points[there].T, mark, markersize=4, alpha=0.7, label=str(level), gid=f"rows-{i}"
        )
    others = np.array([v in levels[LEVELS:] for v in flat])
    if others.any():
        plane.plot(*points[others].T, ".", color="0.6", label="others")
    figure.legend(title=name, loc="outside right upper")
    return figure


def traversal_images(sheets: Sequence[np.ndarray], titles: Sequence[str]) -> Figure:
    """Returns a strip of images for each dimension, from one end to the other.

    Args:
        sheets: A strip each, (height, width, 3), bytes.
        titles: What each strip is of.
    """
    height, width = sheets[0].shape[:2]
    figure = _figure(8, 0.4 + len(sheets) * (0.35 + 8 * height / width))
    for axes, sheet, title in zip(
        figure.subplots(len(sheets), 1, squeeze=False)[:, 0], sheets, titles, strict=True
    ):
        axes.imshow(sheet)
        axes.set_title(title, loc="left", size=9)
        axes.set_axis_off()
    return figure


def traversal_bars(
    moved: Sequence[Sequence[tuple[str, float, str]]], titles: Sequence[str]
) -> Figure:
    """Returns which columns move most along each dimension.

    Args:
        moved: Of each dimension the columns: name, change in standard deviations of the column,
            and what it changes from and to, in the user's words.
        titles: What each dimension is.
    """
    rows = [list(each[:BARS]) for each in moved]
    figure = _figure(8, sum(0.7 + 0.3 * len(each) for each in rows))
    panels = figure.subplots(
        len(rows), 1, squeeze=False, gridspec_kw={"height_ratios": [1 + len(r) for r in rows]}
    )[:, 0]
    for axes, columns, title in zip(panels, rows, titles, strict=True):
        places = range(len(columns))
        axes.barh(places, [change for _, change, _ in columns], 0.6)
        labels = [f"{name}: {words}" for name, _, words in columns]
        axes.set_yticks(places, labels, size=8)
        axes.invert_yaxis()
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(title, loc="left", size=9)
    panels[-1].set_xlabel("change, in standard deviations of the column")
    return figure


def curve(found: Mapping[str, Any]) -> Figure:
    """Returns distortion over rate, and of images sharpness over rate beside it.

    Args:
        found: What ``taut curve --json`` prints.
    """
    runs, decoder = found.get("runs") or [], found.get("decoder") or []
    sharp = [row for row in runs if row.get("sharpness")]
    figure = _figure(10 if sharp else 6, 4)
    plane, *rest = figure.subplots(1, 2 if sharp else 1, squeeze=False)[0]
    for points, label, line in (
        (runs, "runs, each trained at its beta", "o-"),
        (decoder, "one decoder, its best encoders", "s--"),
    ):
        if not points:
            continue
        x, y = ([p[name]["value"] for p in points] for name in ("rate", "distortion"))
        errors = [[p[name]["test_error"] or 0.0 for p in points] for name in ("rate", "distortion")]
        plane.errorbar(x, y, errors[1], errors[0], line, label=label, capsize=2)
        for point, place in zip(points, zip(x, y, strict=True), strict=True):
            offset = {"xytext": (5, 5), "textcoords": "offset points", "size": 8}
            plane.annotate(f"{point['beta']:.3g}", place, **offset)
    plane.set(xlabel="rate, nats", ylabel="distortion, nats", title="Rate and distortion, by beta")
    plane.legend()
    if sharp:
        rates = [row["rate"]["value"] for row in sharp]
        for name, line in (("reconstructions", "o-"), ("samples", "s--")):
            rest[0].plot(rates, [row["sharpness"][name] for row in sharp], line, label=name)
        words = "high-frequency energy of means, data = 1"
        rest[0].set(xlabel="rate, nats", ylabel=words, title="Sharpness", ylim=(0, None))
        rest[0].legend()
    return figure
