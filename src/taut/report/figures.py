"""The figures of the report, as SVG.

Each is a picture of numbers of the audit: a label in it is one of them, and nothing is computed
here but where it stands. Text stays text, and the colour of ink is ``currentColor``, so that a
figure follows the page it is on, and alone, as a file, the reader's scheme. What differs in colour
differs in shape, too. The same numbers give the same bytes. An empty string means that there was
nothing to draw.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from taut.evidence.section import at_least_zero
from taut.evidence.text import plain, plus_minus

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "bounds", "calibration", "columns", "dimensions", "drawn", "emblem", "gaps", "inline",
    "staircase", "study", "variance",
]  # fmt: skip

WIDTH = 480  # of each figure, in points
BLUE, ORANGE = "#2f7fd6", "#d0711c"  # at least 3:1 on white and on the dark page
STYLE: dict[Any, Any] = {
    "figure.dpi": 72,  # a point is a unit of the figure
    "svg.fonttype": "none",
    "svg.hashsalt": "taut",
    "text.parse_math": False,
    "font.size": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 12,
}
ALONE = "svg{color:#1b1f24}@media(prefers-color-scheme:dark){svg{color:#e6e8eb}}"
BAR, THICK = 0.02, 0.045  # where the stack of gaps stands, and how wide, in widths of the figure
MARGIN = 10  # points left of the words of an axis: a reader's letters may be wider
FALL = 3.0  # how far the curve is followed below all that must be seen, in heights of that
ACROSS, PANELS, PANEL = 3, 9, 130  # of the columns: in a line, in all, and the height of one
LABEL = 36  # height of a label of two lines


def drawn(audit: Mapping[str, Any]) -> dict[str, str]:
    """Returns the figures that there are numbers for, by the name of the section."""
    figures = {"evidence": bounds(audit)}
    sections = (
        ("gaps", gaps),
        ("latents", dimensions),
        ("calibration", calibration),
        ("column_shapes", columns),
    )
    for name, draw in sections:
        if audit.get(name):
            figures[name] = draw(audit[name])
    return {name: svg for name, svg in figures.items() if svg}


class _Emblem(NamedTuple):
    """What the leading picture shows.

    Args:
        history: Epochs and the held-out bound.
        kept: The point whose weights were kept.
        before: Where the ELBO stood before a tightening, and its label.
        ceiling: log p(x).
        ends: The names of log p(x) and ELBO, with their estimates, where they are known.
        parts: What is left between them.
    """

    history: list[tuple[float, float]]
    kept: tuple[float, float]
    before: tuple[float, str] | None
    ceiling: Mapping[str, Any]
    ends: list[tuple[str, Mapping[str, Any]]]
    parts: list[_Part]

    def heights(self) -> list[float]:
        """Returns all heights that must be seen."""
        heights = [e["value"] for _, e in self.ends]
        heights += [y for part in self.parts for y in part[:2]]
        if self.history:
            heights += [self.kept[1], max(value for _, value in self.history)]
        if self.before:
            heights.append(self.before[0])
        return heights


def emblem(audit: Mapping[str, Any]) -> str:
    """Returns the picture that leads the report: the bound rising under log p(x), and the parts of
    what is left.

    The bound of the training was measured on other data than the rest, so its curve is moved as a
    whole: the step whose weights were kept stands at what those weights have on the data of the
    audit.

    Args:
        audit: What ``taut audit`` found, with ``history``; nats. Gaps, history or log p(x) may be
            missing.
    """
    shown = _emblem(plain(audit))
    seen = shown.heights()
    if not seen:
        return ""
    low, high, band = min(seen), max(seen), shown.ceiling.get("mc_error") or 0.0
    span = max(high - low, band, 1e-6)
    # The first epochs may lie far below: they are outside the picture, so that what is left can be
    # seen. What came after the kept step is in it, unless that is out of all proportion.
    lowest = min([low, *(value for _, value in shown.history)])
    last = min([low, *(value for epoch, value in shown.history if epoch >= shown.kept[0])])
    bottom = max(low - 0.7 * span, lowest - 0.2 * span)
    bottom = min(bottom, max(last, low - FALL * span) - 0.1 * span)
    with _style():
        figure, width = _figure(330), 0.45 if shown.history else 0.0
        right = figure.add_axes((0.13 + width, 0.14, 0.87 - width, 0.84))
        right.set(xlim=(0, 0.87 - width), ylim=(bottom, high + max(0.2 * span, 1.3 * band)))
        right.axis("off")
        if shown.history:
            left = figure.add_axes((0.13, 0.14, width, 0.84), sharey=right)
            _draw_course(left, right, shown, 0.01 * span)
        _stack(right, shown.parts, shown.ends)
        _make_room(*figure.axes)
        told = [f"{name} {plus_minus(e)}" for name, e in shown.ends]
        told += [f"{part.name} {part.size}" for part in shown.parts]
        return _svg(figure, "emblem", "The bound under log p(x)", f"In nats: {'; '.join(told)}.")


def _emblem(audit: Mapping[str, Any]) -> _Emblem:
    names = ("evidence", "gaps", "log_evidence")
    evidence, found, ceiling = (audit.get(name) or {} for name in names)
    elbo = found.get("elbo") or evidence.get("elbo") or {}
    history, kept = _course(audit, elbo)
    both = (("log p(x)", ceiling), ("ELBO", elbo))
    ends = [(name, e) for name, e in both if e.get("value") is not None]
    parts = _parts(found, evidence, ceiling)
    return _Emblem(history, kept, _before(audit, elbo), ceiling, ends, parts)


def _draw_course(left: Axes, right: Axes, shown: _Emblem, above: float) -> None:
    """Draws the course of the training on the left, with log p(x) across and the ELBO before."""
    epochs, values = zip(*shown.history, strict=True)
    several = len(epochs) > 1
    left.plot(
        epochs,
        values,
        "-" if several else "o",
        color="black",
        linewidth=2,
        clip_on=several,
        gid="history",
    )
    left.plot(*shown.kept, "o", color="black", markersize=6, clip_on=False, gid="kept")
    left.set(xlabel="epochs", ylabel="bound, in nats", xlim=(0, max(epochs)))
    _fit(left)
    if shown.ceiling.get("value") is not None:
        _ceiling(left, shown.ceiling)
        level = [shown.ceiling["value"]] * 2
        right.plot([0, BAR + THICK], level, color="black", linewidth=1.5, linestyle="--")
    if shown.before:
        height, label = shown.before
        left.axhline(height, color="black", linewidth=1, linestyle=":", gid="before")
        left.text(max(epochs), height + above, f"{label} ", size=11, ha="right", va="bottom")


def _course(
    audit: Mapping[str, Any], elbo: Mapping[str, Any]
) -> tuple[list[tuple[float, float]], tuple[float, float]]:
    """Returns the epochs of the training with the held-out bound, moved to the data of the audit,
    and the point that was kept.
    """
    lines = [h for h in audit.get("history") or [] if h["validation"] is not None]
    if not lines:
        return [], (0.0, 0.0)
    best = [h for h in lines if h.get("best")]
    if not best:
        best = [max(lines, key=lambda h: float(h["validation"]))]
    kept, level, shift = best[-1], _trained(audit, elbo), 0.0
    if level is not None:
        shift = level - kept["validation"]
    points = [(h["epoch"], h["validation"] + shift) for h in lines]
    return points, (kept["epoch"], kept["validation"] + shift)


def _trained(audit: Mapping[str, Any], elbo: Mapping[str, Any]) -> float | None:
    """Returns the bound that the training raised, on the data of the audit: the ELBO, or the bound
    of K samples.
    """
    objective = str((audit.get("model") or {}).get("objective") or "")
    size = re.match(r"(?:IWAE|DReG|VIMCO)\(.*num_samples=(\d+)", objective)
    if not size:
        return elbo.get("value")
    curve = (audit.get("evidence") or {}).get("curve") or []
    below = [c["value"] for c in curve if c["num_samples"] <= int(size[1])]
    return below[-1] if below else None


def _before(audit: Mapping[str, Any], elbo: Mapping[str, Any]) -> tuple[float, str] | None:
    """Returns where the ELBO before a tightening stands, below the ELBO by what was gained on the
    same data, and its label.
    """
    tightened = audit.get("tightened") or {}
    before, after = ((tightened.get(when) or {}).get("elbo") for when in ("before", "after"))
    if not before or before["value"] is None:
        return None
    if not after or after["value"] is None or elbo.get("value") is None:
        return before["value"], f"before: ELBO {plus_minus(before)}"
    return elbo["value"] - (after["value"] - before["value"]), "before it was tightened"


def bounds(audit: Mapping[str, Any]) -> str:
    """Returns the picture of the bounds over the number of samples, under the levels that annealing
    and all methods found.

    Args:
        audit: What ``taut audit`` found; nats.
    """
    curve = [c for c in (audit.get("evidence") or {}).get("curve") or [] if c["value"] is not None]
    if not curve:
        return ""
    best = audit.get("log_evidence") or {}
    annealed = (audit.get("annealing") or {}).get("log_evidence") or {}
    with _style():
        figure = _figure(300)
        axes = figure.add_axes((0.13, 0.16, 0.85, 0.82))
        names = ("num_samples", "value", "mc_error")
        x, y, errors = ([c[name] or 0.0 for c in curve] for name in names)
        label = "importance sampling with K samples"
        line, *_ = axes.errorbar(
            x, y, errors, color=BLUE, marker="o", markersize=5, linewidth=1.5, label=label
        )
        line.set_gid("curve")
        _level(axes, best, "log p(x), by the first reliable method", "black", "-", "best")
        if annealed.get("value") != best.get("value"):  # two lines on each other would be one
            _level(axes, annealed, "log p(x), by annealing", ORANGE, "--", "annealed")
        axes.set(xscale="log", xlabel="samples K", ylabel="bound, in nats")
        _powers(axes)
        _fit(axes)
        axes.legend(loc="lower right")
        return _svg(
            figure,
            "bounds",
            "The bound over the number of samples",
            "It rises toward log p(x) with more samples.",
        )


def _level(
    axes: Axes, level: Mapping[str, Any], label: str, colour: str, line: str, name: str
) -> None:
    """Draws an estimate of log p(x) across, with its Monte Carlo error."""
    value, error = level.get("value"), level.get("mc_error") or 0.0
    if value is None:
        return
    axes.axhline(value, color=colour, linestyle=line, linewidth=1.5, label=label, gid=name)
    axes.axhspan(value - error, value + error, color=colour, alpha=0.15, linewidth=0)


def gaps(found: Mapping[str, Any]) -> str:
    """Returns the picture of the gaps: where each begins and ends between the ELBO and log p(x).

    Args:
        found: The section ``gaps`` of the audit; nats per data point.
    """
    rows = [
        ("inference gap", "inference_gap", "elbo", "log_evidence", "none", ""),
        ("amortization: the encoder", "amortization_gap", "elbo", "elbo_best", ORANGE, "///"),
        ("approximation: the family", "approximation_gap", "elbo_best", "log_evidence", BLUE, ""),
        (
            "of it, a full covariance closes",
            "full_covariance_gain",
            "elbo_best",
            "elbo_full",
            BLUE,
            "xxx",
        ),
    ]
    known = {name: at_least_zero(found.get(name)) for _, name, *_ in rows}
    found = {**found, **{name: e for name, e in known.items() if e is not None}}
    rows = [
        row
        for row in rows
        if row[1] in found and all(found[name]["value"] is not None for name in row[1:4])
    ]
    if not rows:
        return ""
    height = 50 + 48 * len(rows)
    ends = [found[name]["value"] for row in rows for name in row[2:4]]
    with _style():
        figure = _figure(height)
        axes = figure.add_axes((0.04, 42 / height, 0.92, 1 - 44 / height))
        for i, (label, name, start, end, colour, hatch) in enumerate(rows):
            first, last = found[start]["value"], found[end]["value"]
            axes.barh(
                i,
                last - first,
                0.4,
                first,
                color=colour,
                hatch=hatch,
                edgecolor="black",
                linewidth=0.8,
                gid=name,
            )
            side, place = "right", max(first, last)
            if first + last <= min(ends) + max(ends):
                side, place = "left", min(first, last)
            axes.text(place, i - 0.27, f"{label}, {plus_minus(found[name])}", va="bottom", ha=side)
        axes.set(ylim=(len(rows) - 0.6, -0.75), yticks=[], xlabel="bound, in nats")
        axes.locator_params("x", nbins=4)  # numbers of three decimals need the room
        axes.spines["left"].set_visible(False)
        told = "; ".join(f"{label} {plus_minus(found[name])}" for label, name, *_ in rows)
        return _svg(figure, "gaps", "The gaps between the ELBO and log p(x)", f"In nats: {told}.")


def dimensions(latents: Mapping[str, Any]) -> str:
    """Returns the picture of what each latent dimension carries, sorted; what is dead or noisy has
    a mark of its own.

    Args:
        latents: The section ``latents`` of the audit; the rate of each dimension in nats per
            data point, or where that is not known the variance of its posterior mean.
    """
    found = latents["dimensions"]
    what, words = "rate", "rate, in nats"
    if found["rate"] is None:
        what, words = "mean_variance", "variance of the posterior mean"
    values = [max(value or 0.0, 0.0) for value in found[what]]  # no rate is below zero
    order = sorted(range(len(values)), key=lambda j: -values[j])
    kind = {**dict.fromkeys(latents["dead"], "dead"), **dict.fromkeys(latents["noisy"], "noisy")}
    with _style():
        figure = _figure(260)
        axes = figure.add_axes((0.13, 0.13, 0.85, 0.84))
        for name, label, colour, hatch, mark in (
            ("active", "active", BLUE, "", "s"),
            ("noisy", "noisy: paid for, but the same for all", ORANGE, "///", "^"),
            ("dead", "dead: carries nothing", "black", "", "x"),
        ):
            places = [i for i, j in enumerate(order) if kind.get(j, "active") == name]
            if places:
                heights = [values[order[i]] for i in places]
                axes.bar(
                    places, heights, 0.8, color=colour, hatch=hatch, edgecolor="black", linewidth=0
                )
                marked = [] if mark == "s" else places  # a bar speaks for itself
                axes.plot(
                    marked,
                    [0.0] * len(marked),
                    mark,
                    color=colour,
                    markersize=5,
                    clip_on=False,
                    label=label,
                    gid=name,
                )
        axes.set(
            ylabel=words,
            xticks=[],
            ylim=(0, None),
        )
        axes.set_xlabel("latent dimensions, sorted", labelpad=10)
        _fit(axes)
        axes.legend(loc="upper right")
        return _svg(
            figure,
            "dimensions",
            "What each latent dimension carries",
            "Active, noisy and dead dimensions, sorted.",
        )


def calibration(found: Mapping[str, Any]) -> str:
    """Returns the histogram of ranks of the true z among draws of q; it is flat where q is the
    posterior.

    Args:
        found: The section ``calibration`` of the audit.
    """
    counts = found["histogram"]
    with _style():
        figure = _figure(220)
        axes = figure.add_axes((0.14, 0.2, 0.84, 0.68))
        axes.bar(range(len(counts)), counts, 0.9, color=BLUE)
        flat = sum(counts) / len(counts)
        axes.axhline(
            flat, color="black", linestyle="--", linewidth=1.5, label="where q is the posterior"
        )
        axes.set(
            xlabel="rank of the true z among draws of q",
            ylabel="count",
            xticks=[0, len(counts) - 1],
        )
        axes.set_xticklabels(["lowest", "highest"])
        _fit(axes)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1))
        return _svg(
            figure,
            "calibration",
            "Ranks of the true z among draws of q",
            f"Verdict: {found['verdict']}.",
        )


def columns(found: Mapping[str, Any]) -> str:
    """Returns the picture of columns in data and samples: a panel for each of those that differ
    most, with bars for the data and diamonds for the samples.

    Args:
        found: The section ``column_shapes`` of the audit.
    """
    shown = found["columns"][:PANELS]
    if not shown:
        return ""
    lines = -(-len(shown) // ACROSS)
    height = 30 + PANEL * lines
    with _style():
        figure = _figure(height)
        for i, column in enumerate(shown):
            line, place = divmod(i, ACROSS)
            bottom = height - 30 - PANEL * (line + 1) + 28
            left, width = (place + 0.06) / ACROSS, 0.88 / ACROSS
            axes = figure.add_axes((left, bottom / height, width, (PANEL - 54) / height))
            bins = range(len(column["bins"]))
            labels = {}
            if not i:
                labels = {"data": "held-out data", "samples": "samples"}
            bars = axes.bar(bins, column["data"], 0.8, color=BLUE, label=labels.get("data"))
            for k, bar in enumerate(bars):
                bar.set_gid(f"data-{i}-{k}")
            axes.plot(
                bins, column["samples"], "D", color=ORANGE, markersize=5, clip_on=False,
                label=labels.get("samples"), gid=f"samples-{i}",
            )  # fmt: skip
            axes.set_title(_short(column["name"], 20), size=12, loc="left", pad=4)
            axes.set(ylim=(0, None), yticks=[], xlim=(-0.6, len(bins) - 0.4), xticks=[])
            axes.spines["left"].set_visible(False)
            ends = {0.0: ("left", column["bins"][0]), 1.0: ("right", column["bins"][-1])}
            for x, (side, word) in ends.items():
                axes.text(
                    x, -0.06, _short(word, 12), size=10.5, ha=side, va="top",
                    transform=axes.transAxes,
                )  # fmt: skip
        figure.legend(loc="upper right", ncols=2)
        names = ", ".join(column["name"] for column in shown)
        return _svg(figure, "columns", "Columns of data and of samples", f"Of {names}.")


def _short(words: str, most: int) -> str:
    """Returns words of so many letters at most."""
    if len(words) <= most:
        return words
    return f"{words[: most - 1]}…"


def variance(found: Mapping[str, Any]) -> str:
    """Returns the picture of the variance of gradient estimators, relative to the reference of the
    same target.

    Args:
        found: What ``taut gradients`` found.
    """
    rows = [row for row in plain(found)["estimators"] if "reason" not in row]
    height = 80 + 26 * len(rows)
    drawn = False
    with _style():
        figure = _figure(height)
        axes = figure.add_axes((0.45, 44 / height, 0.5, 1 - 76 / height))
        for part, colour, mark, face, shift in (
            ("encoder", BLUE, "o", BLUE, -0.14),
            ("decoder", ORANGE, "s", "none", 0.14),
        ):
            known = [
                (i + shift, row[part]["relative_variance"])
                for i, row in enumerate(rows)
                if row[part]
            ]
            # zero is nowhere on this axis
            points = [(y, n["value"], n["mc_error"] or 0.0) for y, n in known if n["value"]]
            if points:
                y, x, errors = zip(*points, strict=True)
                line, *_ = axes.errorbar(
                    x, y, None, errors, mark, color=colour, markerfacecolor=face, label=part
                )
                line.set_gid(part)
            drawn = drawn or bool(points)
        if not drawn:
            return ""
        axes.axvline(1, color="black", linewidth=1, linestyle="--")
        axes.set(
            xscale="log",
            xlabel="variance, relative to the reference",
            ylim=(len(rows) - 0.5, -0.5),
            yticks=range(len(rows)),
        )
        axes.set_yticklabels([f"{row['name']} ({row['target']})" for row in rows], size=10.5)
        _powers(axes)
        figure.legend(loc="upper right", ncols=2)
        return _svg(
            figure,
            "variance",
            "Variance of the gradient estimators",
            "For encoder and decoder; the table has the numbers.",
        )


def staircase(steps: Sequence[Mapping[str, Any]]) -> str:
    """Returns the picture of an improvement: the nats that its kept changes gained, step upon step,
    and at each change what was predicted (hollow, up to the most that there can be) and what came
    true (solid), with two errors.

    Args:
        steps: Those of ``improve.json``.
    """
    done = [step for step in steps if step["came_true"] is not None]
    if not done:
        return ""
    level, levels = 0.0, [0.0]
    with _style():
        figure = _figure(230)
        axes = figure.add_axes((0.12, 0.2, 0.86, 0.66))
        for i, step in enumerate(done):
            marks = {"predicted": (-0.12, "D", "white"), "came_true": (0.12, "o", BLUE)}
            for name, (aside, shape, fill) in marks.items():
                found = step[name]
                if found is None:
                    continue
                least, error = found["value"], 2 * (found["error"] or 0.0)
                above = found.get("most", least) - least + 2 * found.get("most_error", error / 2)
                axes.errorbar(
                    i + 1 + aside, level + least, [[error], [above]], fmt=shape,
                    color=BLUE, markerfacecolor=fill, markersize=6, linewidth=1,
                    label=None if i else name.replace("_", " "),
                )  # fmt: skip
            level += step["came_true"]["value"] if step["kept"] else 0.0
            levels.append(level)
        axes.step(range(len(levels)), levels, where="post", color=ORANGE, linewidth=1.5)
        axes.axhline(0.0, color="#000000", linewidth=0.5)
        axes.set(xticks=range(1, len(levels)), xlabel="change", ylabel="nats gained")
        figure.legend(loc="upper right", ncols=2)
        kept = sum(step["kept"] for step in done)
        said = f"{kept} of {len(done)} changes were kept and gained {level:.2f} nats."
        return _svg(figure, "staircase", "What each change gained", said)


def study(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the picture of a study: how far each candidate lies below the best, with one standard
    error, by its size.

    Args:
        rows: Those of the answer in ``answer.json``.
    """
    if not rows:
        return ""
    with _style():
        figure = _figure(230)
        axes = figure.add_axes((0.14, 0.2, 0.84, 0.66))
        for row in rows:
            colour, shape = (ORANGE, "D") if row["chosen"] else (BLUE, "o")
            apart = row["difference"]
            axes.errorbar(
                row["parameters"], apart["value"] or 0.0, apart["error"] or 0.0, fmt=shape,
                color=colour, markersize=6, linewidth=1,
            )  # fmt: skip
        axes.axhline(0.0, color="#000000", linewidth=0.5)
        axes.set_xscale("log")
        axes.set(xlabel="numbers that are learned", ylabel="nats above the best")
        _powers(axes)
        chosen = next(row["candidate"] for row in rows if row["chosen"])
        return _svg(figure, "study", "Candidates by their size", f"Chosen: {chosen}.")


def inline(svg: str) -> str:
    """Returns an SVG file as a part of a page.

    Without the name of its language and the style that it has alone.
    """
    return re.sub(r' xmlns="[^"]*"|<style>[^<]*</style>', "", svg)


class _Part(NamedTuple):
    """A part of what is left between ELBO and log p(x).

    Where it begins and ends, its name and its size.
    """

    start: float
    end: float
    name: str
    size: str


def _parts(
    found: Mapping[str, Any], evidence: Mapping[str, Any], ceiling: Mapping[str, Any]
) -> list[_Part]:
    """Returns the parts of what is left between ELBO and log p(x), from below."""
    rows: list[tuple[Any, Any, str, Any]] = []
    if found:
        names = (
            ("elbo", "elbo_best", "amortization"),
            ("elbo_best", "log_evidence", "approximation"),
        )
        rows = [
            (found[a]["value"], found[b]["value"], f"{name} gap", _gap(found, name))
            for a, b, name in names
        ]
    elif evidence and ceiling:
        gap = evidence["inference_gap"]
        if evidence["log_evidence"]["value"] != ceiling["value"]:
            gap = None  # log p(x) is by another method, and so is the gap
        gap = at_least_zero(gap)
        rows = [(evidence["elbo"]["value"], ceiling["value"], "inference gap", gap)]
    return [
        _Part(a, b, name, f"{plus_minus(e)} nats" if e else "")
        for a, b, name, e in rows
        if a is not None and b is not None
    ]


def _gap(found: Mapping[str, Any], name: str) -> Any:
    """Returns a gap; the one of the family is a divergence, and never below zero."""
    gap = found[f"{name}_gap"]
    return at_least_zero(gap) if name == "approximation" else gap


def _stack(
    axes: Axes, parts: Sequence[_Part], ends: Sequence[tuple[str, Mapping[str, Any]]]
) -> None:
    """Draws the parts on top of each other.

    Their names and those of the two ends stand next to them, and never on each other.
    """
    labels = [(e["value"], f"{name}\n{plus_minus(e)}") for name, e in ends]
    for part in parts:
        height, name = part.end - part.start, part.name.replace(" ", "_")
        colour, hatch = {"amortization gap": (ORANGE, "///"), "approximation gap": (BLUE, "")}.get(
            part.name, ("none", "")
        )
        axes.bar(
            BAR,
            height,
            THICK,
            part.start,
            align="edge",
            color=colour,
            hatch=hatch,
            edgecolor="black",
            linewidth=0.8,
            gid=name,
        )
        labels.append((part.start + height / 2, f"{part.name}\n{part.size}"))
    low, place = axes.get_ylim()
    label = LABEL * (place - low) / (axes.figure.bbox.height * axes.get_position().height)
    for y, words in sorted(labels, reverse=True):
        place = min(place, y + label / 2) - label  # where the label ends below
        axes.plot(
            [BAR + THICK + 0.01, BAR + THICK + 0.035],
            [y, place + label / 2],
            color="black",
            linewidth=0.5,
        )
        axes.text(
            BAR + THICK + 0.045, place + label / 2, words.strip(), va="center", linespacing=1.2
        )


def _ceiling(axes: Axes, ceiling: Mapping[str, Any]) -> None:
    """Draws log p(x) across, with its Monte Carlo error: the bound is of the same data."""
    value, error = ceiling["value"], ceiling.get("mc_error")
    if error:
        axes.axhspan(
            value - error, value + error, color="black", alpha=0.12, linewidth=0, gid="band"
        )
    axes.axhline(value, color="black", linewidth=1.5, linestyle="--", gid="ceiling")


def _fit(axes: Axes) -> None:
    """Moves the left side of axes to the right until the numbers and the words next to it are in
    the figure.
    """
    box = axes.get_tightbbox()
    if box is None:
        return
    place, missing = axes.get_position(), max(0.0, (MARGIN - box.x0) / WIDTH)
    axes.set_position((place.x0 + missing, place.y0, place.width - missing, place.height))


def _make_room(right: Axes, *left: Axes) -> None:
    """Moves axes to the left, and ends what is left of them there, until their words are in the
    figure.
    """
    ends = [text.get_window_extent().x1 for text in right.texts]
    missing = max([0.0, *(end - WIDTH + MARGIN for end in ends)]) / WIDTH
    x, y, width, height = right.get_position().bounds
    right.set_position((x - missing, y, width, height))
    for each in left:
        x, y, width, height = each.get_position().bounds
        each.set_position((x, y, width - missing, height))


def _powers(axes: Axes) -> None:
    """Labels the powers of ten of a logarithmic axis as plain numbers."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


@contextmanager
def _style() -> Iterator[None]:
    """Draws with settings of our own, whatever the user's are."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure((WIDTH / 72, height / 72))


def _svg(figure: Figure, name: str, title: str, description: str) -> str:
    """Returns a figure as an SVG file.

    Ink is currentColor, names are those of this figure alone, and it says what it shows.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    body = buffer.getvalue().split("</metadata>", 1)[1]
    body = re.sub(r"<style[^>]*>\*\{[^<]*</style>", "", body)
    body = re.sub(r'( id="|url\(#)', rf"\1{name}-", body).replace(
        'xlink:href="#', f'href="#{name}-'
    )
    body = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", body).replace(
        "#000000", "currentColor"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {figure.bbox.width:g} '
        f'{figure.bbox.height:g}" role="img" '
        f'fill="currentColor" aria-labelledby="{name}-title {name}-desc"><title '
        f'id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-desc">{html.escape(description)}</desc><style>{ALONE}</style>{body}'
    )
