"""What a model takes from its training data: locations, scales, frequencies, knots.

Robust where rows are wild.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from taut.data import Dataset, Schema, blocks
from taut.data.tables.numeric_notes import spread
from taut.data.tables.words import float_storage
from taut.distributions.grids import fit_cells
from taut.distributions.warps import MAX_KNOTS, fit_knots, padded

__all__ = ["Statistics", "summarize"]


# A table of frequencies larger than this (entries) is not made: levels of large images are modelled
# without one.
MAX_FREQUENCIES = 50_000_000

FENCE = 20.0  # robust standard deviations: beyond them a number is taken to be wild


class Statistics(NamedTuple):
    r"""What a model takes from the training data before the first step; missing entries count for
    nothing.

    Args:
        loc: Mean of each element, (\*event), in the user's units; of real numbers, wild ones pulled
            in.
        scale: Standard deviation of each element, (\*event), likewise; 0 for an element that never
            varies.
        log_loc: Mean of log x where x is positive by kind, of log(1 + x) for counts; (\*event).
        log_scale: Standard deviation of the same.
        log_frequencies: Log-probabilities of the levels, (\*event, levels), each level with a
            pseudo-count: one half for bits (Krichevsky and Trofimov), else the one under which each
            training row is best predicted from the others; None for reals. Of a table -inf beyond
            the levels of a column.
        mean_total: Mean of the sum of a row.
        rows: Number of training rows.
        knots: Of a table: of the marginals of its levels, mixed numbers and dates, (columns, 2,
            knots); see ``warps``.
        cells: Of a table: of the marginals of its columns on a grid, likewise; see ``grids``.
        histogram: Of images of levels: the probabilities of the levels among all pixels, (levels,),
            each with a pseudo-count.
    """

    loc: Tensor
    scale: Tensor
    log_loc: Tensor
    log_scale: Tensor
    log_frequencies: Tensor | None
    mean_total: float = 1.0
    rows: int = 0
    knots: Tensor | None = None
    cells: Tensor | None = None
    histogram: Tensor | None = None


def summarize(dataset: Dataset) -> Statistics:
    """Returns the statistics of the training data, read in blocks of rows."""
    schema = dataset.schema
    # Grey levels to be binarised are stored as bytes, p = x / 255, or as p itself.
    grey = 255.0 if dataset.binarize == "dynamic" and dataset.train.dtype == torch.uint8 else 1.0

    def read() -> Iterator[Tensor]:
        return (block.double() / grey for block in blocks(dataset.train))

    real = _real_elements(schema)
    count, loc, variance = _moments(_resisting(read, real))
    # a binarised grey level varies by p (1 - p), more than the level itself does
    if dataset.binarize == "dynamic":
        variance = loc * (1 - loc)
    log_loc, log_variance = torch.zeros_like(loc), torch.ones_like(loc)
    if (shift := _log_shift(schema)) is not None:
        _, log_loc, log_variance = _moments(
            _resisting(lambda: ((block + shift).log() for block in read()), real)
        )
    dtype = torch.get_default_dtype()
    frequencies = _frequencies(dataset, loc, count)
    return Statistics(
        loc.to(dtype),
        variance.sqrt().to(dtype),
        log_loc.to(dtype),
        log_variance.sqrt().to(dtype),
        None if frequencies is None else frequencies.log().to(dtype),
        float((loc[schema.rest] if schema.context else loc).sum()),
        len(dataset.train),
        _knots(dataset),
        _cells(dataset),
        _histogram(dataset),
    )


def _knots(dataset: Dataset) -> Tensor | None:
    """Returns the knots of the warps of the columns that have one, infinity for the others.

    None where none has.
    """
    columns = dataset.schema.modelled
    warped = [i for i, c in enumerate(columns) if c.rules.warped]
    if not warped:
        return None
    knots = torch.full((len(columns), 2, MAX_KNOTS), torch.inf)
    for place, seen in zip(warped, _observed(dataset, warped), strict=True):
        column = columns[place]
        # As stored, or an atom would not be recognised.
        atoms = np.asarray(column.codes(column.atoms)).astype(float_storage()).astype(np.float64)
        knots[place] = padded(fit_knots(seen, atoms, column.support, column.discrete))
    return knots


def _cells(dataset: Dataset) -> Tensor | None:
    """Returns the knots of the warps of the columns on a grid, infinity for the others.

    None where none is on one.
    """
    columns = dataset.schema.modelled
    grids = {i: grid for i, c in enumerate(columns) if (grid := c.grid)}
    if not grids:
        return None
    made = {}
    for (i, grid), seen in zip(grids.items(), _observed(dataset, list(grids)), strict=True):
        made[i] = fit_cells(grid.place(seen), (grid.first, grid.last))
    most = max(knots.shape[1] for knots in made.values())
    cells = torch.full((len(columns), 2, most), torch.inf)
    for i, knots in made.items():
        cells[i] = padded(knots, most)
    return cells


def _observed(dataset: Dataset, which: list[int]) -> Iterator[np.ndarray]:
    """Returns the observed training codes of columns, one after the other."""
    parts = [block[:, which].double().numpy() for block in blocks(dataset.train)]
    return (values[~np.isnan(values)] for values in np.concatenate(parts).T)


def _real_elements(schema: Schema) -> Tensor:
    r"""Returns which elements are real numbers outside images, (\*event)."""
    if schema.kind == "table":
        return torch.tensor([not c.discrete for c in schema.modelled])
    return torch.full(schema.event_shape, schema.kind == "real" and not schema.is_image)


def _resisting(
    read: Callable[[], Iterator[Tensor]], real: Tensor
) -> Callable[[], Iterator[Tensor]]:
    """Returns a reader whose real numbers are pulled to within FENCE robust standard deviations of
    the median.

    One wild value, a slip of the unit or of a digit, would otherwise make a scale of its own, on
    which the column is a constant. The fence is so far out that the mean and the standard deviation
    of regular data are what they were, to the bit.
    """
    if not bool(real.any()):
        return read
    some = torch.cat([block[:: max(1, len(block) * real.numel() // 2**16)] for block in read()])
    low, high = (torch.full(real.shape, end, dtype=torch.float64) for end in (-math.inf, math.inf))
    for index in real.nonzero().tolist():
        place = tuple(index)
        median, distance = spread(some[(slice(None), *place)].numpy())
        if distance > 0:
            # the quartiles of a Normal are 1.349 standard deviations apart
            reach = FENCE * distance / 1.349
            low[place], high[place] = median - reach, median + reach
    return lambda: (block.clamp(low, high) for block in read())


def _moments(read: Callable[[], Iterator[Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the number of observed entries of each element, their mean and their variance, in two
    passes.
    """

    def total(function: Callable[[Tensor], Tensor]) -> Tensor:
        return cast(Tensor, sum(torch.where(b.isfinite(), function(b), 0.0).sum(0) for b in read()))

    count = total(torch.ones_like)
    loc = total(lambda b: b) / count
    return count, loc, total(lambda b: (b - loc).square()) / count


def _log_shift(schema: Schema) -> Tensor | None:
    """Returns what is added to each element before its logarithm is taken: 1 to counts.

    NaN where none is.
    """
    if schema.kind == "table":
        shifts = [c.rules.log_shift(c) for c in schema.modelled]
        return torch.tensor(shifts, dtype=torch.float64)
    if schema.kind == "count":
        return torch.ones(schema.event_shape, dtype=torch.float64)
    if schema.kind == "real" and schema.low > 0:
        return torch.zeros(schema.event_shape, dtype=torch.float64)
    return None


def _frequencies(dataset: Dataset, loc: Tensor, count: Tensor) -> Tensor | None:
    schema = dataset.schema
    if schema.kind == "table":
        return _column_frequencies(dataset)
    if schema.kind not in ("binary", "levels"):
        return None
    if schema.num_levels * schema.num_elements > MAX_FREQUENCIES:
        return None
    if schema.kind == "binary":
        counts, extra = torch.stack([count * (1 - loc), count * loc], -1), 0.5
    else:
        counts = _level_counts(dataset)
        extra = _pseudo_count(counts)
    return (counts + extra) / (count[..., None] + extra * schema.num_levels)


def _histogram(dataset: Dataset) -> Tensor | None:
    """Returns the smoothed frequencies of the levels among all pixels; None without levels."""
    schema = dataset.schema
    if schema.kind != "levels" or not schema.is_image:
        return None
    counts = torch.zeros(schema.num_levels, dtype=torch.float64)
    for block in blocks(dataset.train):
        levels = (block - schema.low).long()
        counts += torch.bincount(levels.flatten(), minlength=schema.num_levels)
    counts += _pseudo_count(counts)
    return counts / counts.sum()


def _level_counts(dataset: Dataset) -> Tensor:
    r"""Returns how often each level of each element is, (\*event, levels)."""
    schema = dataset.schema
    size = schema.num_levels * schema.num_elements
    first = torch.arange(schema.num_elements) * schema.num_levels - int(schema.low)
    counts = torch.zeros(size, dtype=torch.float64)
    for block in blocks(dataset.train):
        there = block == block  # what is missing is NaN
        places = torch.where(there, block, schema.low).flatten(1).long() + first
        counts += torch.bincount(places[there.flatten(1)], minlength=size)
    return counts.view(*schema.event_shape, schema.num_levels)


def _column_frequencies(dataset: Dataset) -> Tensor:
    """Returns the smoothed frequencies of the levels of each column, zero beyond them and for
    numbers, (columns, levels).
    """
    columns = dataset.schema.modelled
    sizes = [len(c.levels) for c in columns]
    most = max([2, *sizes])
    counts = torch.zeros(len(columns), most, dtype=torch.float64)
    for block in blocks(dataset.train):
        for i in (i for i, size in enumerate(sizes) if size):
            counts[i] += torch.bincount(block[:, i][~block[:, i].isnan()].long(), minlength=most)
    for i, size in enumerate(sizes):
        if size:
            extra = 0.5 if size == 2 else _pseudo_count(counts[i, :size])
            counts[i, :size] = (counts[i, :size] + extra) / (counts[i].sum() + extra * size)
    return counts


def _pseudo_count(counts: Tensor) -> float:
    r"""Returns the pseudo-count of each level under which every row is best predicted from the
    others, of six.

    Too few make a level that was not seen impossible, too many drown what was: a weak baseline
    would flatter the model. The sum of the log-probabilities of each row given the rest is
    $\sum_l c_l \log (c_l - 1 + a) / (n - 1 + a L)$.
    """
    n, levels = counts.sum(-1), counts.shape[-1]
    seen = counts[counts > 0]  # a few of 65,536 levels

    def left_out(extra: float) -> float:
        total = (n * (n - 1 + extra * levels).log()).sum()
        return float((seen * (seen - 1 + extra).log()).sum() - total)

    return max((1 / levels, 0.01, 0.03, 0.1, 0.3, 1.0), key=left_out)
