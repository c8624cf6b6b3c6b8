r"""What each latent dimension means: traversals, the Jacobian of the decoder, maps of the rows.

Dimensions are told in the order of their rate, $\mathbb{E}_x \mathrm{KL}(q(z_j \mid x) \,\|\,
p(z_j))$: one without a rate means nothing. A traversal moves one dimension from the 2.5 % to the
97.5 % quantile of z ~ q(z|x) over the rows, where the decoder was trained, and keeps the others at
their means. The Jacobian $\partial \mathbb{E}[x_i \mid z] / \partial z_j$, its mean over the rows,
says what a small step does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.functional import jvp

from taut.data import New
from taut.data.tables.prepare import to_table
from taut.evidence.annealing import support_of
from taut.evidence.ascent import is_real
from taut.evidence.latents import DEAD, encoded
from taut.evidence.text import number
from taut.model import Model
from taut.models.exact import ExactModel
from taut.models.stepwise import StepwiseModel
from taut.report import latent as figures
from taut.runs.curve import decoder_curve, read_curve
from taut.runs.disentangle import columns_for
from taut.runs.fitted import Fitted, Source
from taut.runs.folder import Stored
from taut.runs.looks import plot
from taut.system.counting import check_count
from taut.system.errors import DataError, UsageError, shown
from taut.system.seeds import generator
from taut.use import pictures, tasks
from taut.use.blocks import Block, blocks_of
from taut.use.export import shortest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "KINDS",
    "Traversal",
    "by_rate",
    "check_latent",
    "check_line",
    "in_words",
    "jacobian",
    "picture",
    "plane",
    "traversal",
]

KINDS = ("map", "traversal", "curve", "history")
ENDS = (0.025, 0.975)
STEPS, MOST = 7, 6  # of a traversal, and dimensions shown
ROWS = 2000  # looked at, at most
UMAP_ROWS = 5000  # placed by UMAP, at most
UMAP_LEAST = 4  # it fails with fewer
UMAP_NEIGHBOURS = 15  # as usual there
BETAS = (0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True, eq=False)
class Traversal:
    r"""What the decoder makes of points along latent dimensions.

    Args:
        dimensions: Their numbers, that of the highest rate first.
        rates: Their rates, nats; None where they are not known.
        places: Where each dimension was put, (dimensions, S).
        values: What was decoded, (dimensions, S, \*event), in the user's units.
        spread: Standard deviation of each element of the data, (\*event).
        fitted: The model.
    """

    dimensions: tuple[int, ...]
    rates: tuple[float, ...] | None
    places: Tensor
    values: Tensor
    spread: Tensor
    fitted: Fitted

    @property
    def titles(self) -> list[str]:
        """What each dimension is, in words."""
        titles = [f"z{dimension}" for dimension in self.dimensions]
        if self.rates is not None:
            titles = [f"{t}, {number(r)} nats" for t, r in zip(titles, self.rates, strict=True)]
        ends = self.places[:, [0, -1]].tolist()
        return [f"{t}: from {a:.2f} to {b:.2f}" for t, (a, b) in zip(titles, ends, strict=True)]

    def moved(self) -> list[list[tuple[str, float, str]]]:
        """Returns for each dimension the columns that move, the farthest first: the name, the
        change from one end to the other in standard deviations of the column (1 for another level
        of a column without order), and both ends in the user's words.
        """
        schema, result = self.fitted.schema, []
        names = schema.element_names
        columns = [schema.modelled[i] for i in schema.rest] if schema.kind == "table" else None
        for values in self.values.flatten(2):
            first, last = values[0], values[-1]
            change = (last - first) / self.spread.flatten().clamp_min(1e-12)
            told = [[number(float(v)) for v in end] for end in (first, last)]
            if columns is not None:
                nominal = torch.tensor([c.rules.nominal for c in columns])
                change = torch.where(nominal, (first != last).to(change), change)
                told = in_words(torch.stack([first, last]), columns)
            order = change.abs().argsort(descending=True, stable=True).tolist()
            rows = [(names[i], float(change[i]), f"{told[0][i]} → {told[1][i]}") for i in order]
            result.append([row for row in rows if row[1]])
        return result

    def figure(self) -> Figure:
        """Returns strips of images, or the columns that move most."""
        schema = self.fitted.schema
        if not schema.is_image:
            return figures.traversal_bars(self.moved(), self.titles)
        sheets = [pictures.grid(v, schema.low, schema.high, len(v)) for v in self.values]
        return figures.traversal_images(sheets, self.titles)


def in_words(codes: Tensor, columns: Sequence[Any]) -> list[list[str]]:
    """Returns rows of codes in the words of the table."""
    table = to_table(shortest(codes), columns)
    lists = [table.column(i).to_pylist() for i in range(len(columns))]
    return [[_told(column[row]) for column in lists] for row in range(len(codes))]


def _told(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def check_latent(run: Fitted) -> None:
    """Refuses a model without a latent vector."""
    if isinstance(run.model, ExactModel | StepwiseModel):
        raise UsageError(f"{type(run.model).__name__} has no latent vector to look at: train a VAE")


def check_line(run: Fitted, x: Tensor) -> None:
    """Refuses latent variables that no small step leads along."""
    check_latent(run)
    prior = run.model.latent_prior(run.model.split(x[:1].to(torch.get_default_dtype()))[1])
    if not is_real(support_of(prior)):
        raise UsageError(
            "the latent variables are categories or a sphere, and a traversal steps along a line: "
            "draw a map instead"
        )


def _some(new: New, seed: int) -> Tensor:
    """Returns the rows to look at, all of them or 2,000 drawn at random."""
    rows = torch.randperm(len(new.rows), generator=generator(seed, "meaning"))[:ROWS]
    return torch.as_tensor(new.rows[rows.sort().values])


def by_rate(means: Tensor, rates: Tensor | None) -> list[int]:
    """Returns dimensions in the order of their rate, or of the variance of their means."""
    weight = means.var(0) if rates is None else rates.mean(0)
    return weight.argsort(descending=True, stable=True).tolist()


def _told_apart(means: Tensor, rates: Tensor | None) -> list[int]:
    """Returns the six dimensions of the highest rate, without those that carry nothing."""
    order = by_rate(means, rates)
    if rates is None:
        return order[:MOST]
    paid = [d for d in order if float(rates[:, d].mean()) >= DEAD]
    return (paid or order[:1])[:MOST]


def traversal(
    run: Fitted,
    new: New,
    *,
    dimensions: Sequence[int] | None = None,
    steps: int = STEPS,
    draw: bool = False,
    seed: int = 0,
) -> Traversal:
    """Returns what the decoder makes of points along latent dimensions.

    Args:
        run: The run.
        new: Rows, which say where z lies; of a model that is conditioned, all is given what the
            first of them is.
        dimensions: Their numbers; by default the six of the highest rate, of those that
            carry 0.01 nats or more.
        steps: Points along each, at least 2.
        draw: Whether to draw from p(x|z) instead of its mean.
        seed: The same seed gives the same draws.

    Raises:
        UsageError: the model has no latent vector, or no such dimension.
    """
    steps = check_count("steps", steps, 2)
    x = _some(new, seed)
    check_line(run, x)
    z, means, rates, _, _ = encoded(run.model, x, None, seed)
    chosen = list(dimensions) if dimensions is not None else _told_apart(means, rates)
    if not chosen or not all(0 <= d < z.shape[1] for d in chosen) or steps < 2:
        raise UsageError(f"dimensions are numbered from 0 to {z.shape[1] - 1}, and steps from 2")
    low, high = torch.quantile(z[:, chosen], torch.tensor(ENDS, dtype=z.dtype), dim=0)
    places = torch.stack([torch.linspace(0, 1, steps, dtype=z.dtype)] * len(chosen))
    places = low[:, None] + places * (high - low)[:, None]
    points = means.mean(0).expand(len(chosen), steps, -1).clone()
    for i, dimension in enumerate(chosen):
        points[i, :, dimension] = places[i]
    dtype = torch.get_default_dtype()
    with torch.no_grad():
        first = x[:1].to(dtype)
        own, context = run.model.split(first)
        spread = _modelled(run.model, x.to(dtype)).double()
    flat = points.flatten(0, 1).to(dtype)
    values = tasks.decode(run.model, flat, draw=draw, context=context, seed=seed).double()
    known = None if rates is None else tuple(rates.mean(0)[chosen].tolist())
    return Traversal(
        tuple(chosen),
        known,
        places,
        values.unflatten(0, (len(chosen), steps)),
        _spread(spread).reshape(own.shape[1:]),
        run,
    )


def _modelled(model: Model, x: Tensor) -> Tensor:
    return model.split(x)[0]


def _spread(x: Tensor) -> Tensor:
    """Returns the standard deviation of each element over the rows that have it."""
    there = ~x.isnan()
    count = there.sum(0).clamp_min(1)
    mean = x.nan_to_num(0).sum(0) / count
    return ((x - mean).nan_to_num(0).square().sum(0) / count).sqrt()


def jacobian(run: Fitted, new: New, *, seed: int = 0) -> Tensor:
    r"""Returns $\partial \mathbb{E}[x_i \mid z] / \partial z_j$ at the posterior means, its mean
    over the rows, (D, \*event), in the user's units; 0 of columns without order, whose most
    probable level has no slope.

    Args:
        run: The run.
        new: Rows.
        seed: Which rows are looked at, if there are more than 2,000.

    Raises:
        UsageError: the model has no latent vector, or p(x|z) no mean.
    """
    x = _some(new, seed)
    check_line(run, x)

    def of_block(block: Block) -> Tensor:
        z = run.model.point(block.x)
        context = run.model.split(block.x)[1]

        def decoded(z: Tensor) -> Tensor:
            return tasks.mean_of(run.model.decode(z[None], context))[0]

        slopes = []
        for direction in torch.eye(z.shape[1]).to(z):
            tangent = direction.expand_as(z)
            slopes.append(jvp(decoded, z, tangent)[1].sum(0))
        return torch.stack(slopes).double().cpu()

    parts = list(blocks_of(run.model, x, tasks.ROWS, of_block))
    return torch.stack(parts).sum(0) / len(x)


def picture(
    run: Stored | Path,
    kind: str,
    source: Source | None = None,
    new: New | None = None,
    *,
    colour: Any = None,
    by: str = "rates",
    dimensions: Sequence[int] | None = None,
    draw: bool = False,
    seed: int = 0,
) -> Figure:
    """Returns a figure of a run, or of the folder of a study.

    Args:
        run: The run, or the folder of a study.
        kind: map, traversal, curve or history.
        source: The data as the user gave them, where columns are named.
        new: Their rows.
        colour: What a map is coloured by: a column of the data, or a file with one.
        by: The plane of a map: "rates" (the two dimensions of the highest rate), "pca" (principal
            components of the posterior means) or "umap".
        dimensions: Of a traversal, or the two of a map.
        draw: Whether a traversal draws from p(x|z).
        seed: The same seed gives the same picture.

    Raises:
        UsageError: another kind, or nothing to draw.
    """
    if kind not in KINDS:
        raise UsageError(f"a picture is one of {', '.join(KINDS)}, not {shown(kind)}")
    if isinstance(run, Path):
        if kind != "curve":
            raise UsageError(f"{shown(run)} is a study: its picture is `curve`")
        return figures.curve(read_curve(run))
    if kind == "history":
        return plot(run)
    if new is None:
        raise UsageError(f"a picture of the {kind} needs data")
    if kind == "curve":
        return decoder_curve(run, new.rows, BETAS, seed=seed).figure()
    if kind == "traversal":
        return traversal(run, new, dimensions=dimensions, draw=draw, seed=seed).figure()
    return _map(run, source, new, colour, by, dimensions, seed)


def _map(
    run: Fitted,
    source: Source | None,
    new: New,
    colour: Any,
    by: str,
    dimensions: Sequence[int] | None,
    seed: int,
) -> Figure:
    check_latent(run)
    values, name = None, ""
    if colour is not None:
        columns = columns_for(run, source, new, colour)
        if len(columns) != 1:
            raise UsageError(
                f"a map is coloured by one column, and there are {len(columns)}: name one of "
                f"{', '.join(map(shown, columns))}"
            )
        ((name, column),) = columns.items()
        values = np.asarray(column, object)
        if len(values) != len(new.rows):
            raise DataError(f"{len(values)} values for {len(new.rows)} rows: one each")
    rows = torch.randperm(len(new.rows), generator=generator(seed, "meaning"))[:ROWS].sort().values
    _, means, rates, _, _ = encoded(run.model, new.rows[rows], None, seed)
    points, axes = plane(means, rates, by, dimensions, seed)
    return figures.latent_map(points, axes, None if values is None else values[rows.numpy()], name)


def plane(
    means: Tensor, rates: Tensor | None, by: str, dimensions: Sequence[int] | None, seed: int
) -> tuple[np.ndarray, tuple[str, str]]:
    """Returns rows as points of a plane, (N, 2), and what its axes are."""
    if by == "rates":
        chosen = list(dimensions) if dimensions is not None else by_rate(means, rates)[:2]
        if len(chosen) == 1:
            chosen = [*chosen, *(d for d in range(means.shape[1]) if d != chosen[0])][:2]
        if len(chosen) != 2 or not all(0 <= d < means.shape[1] for d in chosen):
            raise UsageError("a map needs two latent dimensions that there are: name them")
        words = [f"z{d}" for d in chosen]
        if rates is not None:
            words = [f"z{d}, {number(float(rates[:, d].mean()))} nats" for d in chosen]
        return means[:, chosen].numpy(), (words[0], words[1])
    if by == "pca":
        if means.shape[1] < 2:
            raise UsageError(
                "principal components need two latent dimensions, and there is one: the plane of "
                "rates has it"
            )
        centred = means - means.mean(0)
        _, scales, directions = torch.linalg.svd(centred, full_matrices=False)
        share = scales.square() / scales.square().sum()
        words = [f"component {i + 1}, {100 * float(share[i]):.0f} %" for i in range(2)]
        return (centred @ directions[:2].T).numpy(), (words[0], words[1])
    if by == "umap":
        return _umap(means, seed)
    raise UsageError(f"--by {shown(by)}: rates, pca or umap")


def _umap(means: Tensor, seed: int) -> tuple[np.ndarray, tuple[str, str]]:
    """Returns the plane in which neighbours stay neighbours; of many rows some are placed, and the
    others are NaN.

    References: mcinnes2018.
    """
    try:
        import umap
    except ImportError:
        raise UsageError("UMAP needs umap-learn: pip install 'taut[umap]'") from None
    if len(means) < UMAP_LEAST:
        raise UsageError(f"UMAP needs {UMAP_LEAST} rows, and there are {len(means)}")
    placed = torch.randperm(len(means), generator=generator(seed, "umap"))[:UMAP_ROWS].sort().values
    near = min(UMAP_NEIGHBOURS, len(placed) - 1)
    # one process: with a seed it has no other way, and would warn
    fitted = umap.UMAP(n_neighbors=near, random_state=seed % 2**32, n_jobs=1)
    points = np.full((len(means), 2), np.nan)
    points[placed.numpy()] = fitted.fit_transform(means[placed].numpy())
    rest = ""
    if len(placed) < len(means):
        rest = f", {len(placed):,} of {len(means):,} rows"
    return points, (f"UMAP 1{rest}", "UMAP 2")
