r"""What training rows say of one column before there are states: its grid, its warp, its cells.

A level is a cell. A number has a cell of its own, a *spike*, where it is an atom or so common that
a state may give it a share of its own; every other number lies on the scale of the warp.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from taut.data.tables.kind import Grid, Kind
from taut.distributions import warps
from taut.distributions.grids import fit_cells

__all__ = ["Marginal", "of_levels", "of_numbers"]

COMMON = 10  # rows of a spike, at least
COMMON_SHARE = 0.01  # of the rows, likewise
FAR = 0.05  # share of the marginal in what is no spike
LEAST_VARIANCE = 1e-3  # of heights


class Marginal(NamedTuple):
    """One column in the training rows.

    Args:
        cells: The numbers of the cells, ascending: of levels or of spikes.
        base: The shares of the cells, then those of the Normal and of the marginal, of numbers.
        knots: Of the warp, (2, M).
        start: Value of cell 0.
        step: Width of a cell, 0 where the numbers lie on no grid.
        moments: Mean and variance of the heights.
    """

    cells: np.ndarray
    base: np.ndarray
    knots: np.ndarray = np.zeros((2, 0))
    start: float = 0.0
    step: float = 1.0
    moments: tuple[float, float] = (0.0, math.pi**2 / 3)


def of_levels(values: np.ndarray, levels: int) -> Marginal:
    """Returns what a column of levels is: each is a cell."""
    held = np.bincount(values.astype(int), minlength=levels).astype(float)
    # Levels without rows share the probability of the levels of one row (Good and Turing).
    empty = held == 0
    new = min(0.5 * (held.sum() + 1), max(1.0, np.count_nonzero(held == 1))) if empty.any() else 0.0
    held[empty] = new / max(1, empty.sum())
    return Marginal(np.arange(levels, dtype=float), held / held.sum())


def of_numbers(
    kind: Kind,
    values: np.ndarray,
    ends: tuple[float, float],
    grid: Grid | None,
    atoms: np.ndarray,
) -> Marginal:
    """Returns what a column of numbers is.

    Args:
        kind: Its kind.
        values: Its values in the training rows, without gaps.
        ends: Smallest and largest value, infinite where none is known.
        grid: The grid of its values, if it is known.
        atoms: Values with a probability of their own where there is no grid.
    """
    if grid is None and kind.discrete:
        grid = Grid(first=max(ends[0], 0.0) if kind.word == "count" else ends[0], last=ends[1])
    if grid is None and not len(atoms) and (step := step_of(values)):
        start = values.min() - round(values.min() / step) * step
        grid = Grid(float(start), step)
    if grid is None:
        return _on_a_line(kind, values, ends, atoms)
    support = grid.first, grid.last
    cells = np.sort(np.clip(grid.place(values), *support))
    spikes, base = _spikes(cells, np.array(grid.atoms), 0.5)
    # The other half of their rows is in the warp, so that both together are the marginal.
    rank = np.arange(len(cells)) - np.searchsorted(cells, cells)
    seen = cells[~np.isin(cells, spikes) | (rank % 2 == 0)]
    if not len(cells):
        first = max(support[0], -2.0)
        seen = np.arange(first, min(support[1], max(support[0], 0.0) + 2.0) + 1)
    knots = fit_cells(seen, support)
    at = warps.heights(_column(seen), warps.padded(knots, knots.shape[1])[None], True, True)
    middle = 0.5 * (at.lower + at.upper)
    return Marginal(spikes, base, knots, grid.start, grid.step, _moments(middle))


def _on_a_line(
    kind: Kind, values: np.ndarray, ends: tuple[float, float], atoms: np.ndarray
) -> Marginal:
    spikes, base = _spikes(values, atoms, 1.0, fewest=math.inf)
    plain = values[~np.isin(values, atoms)]
    if kind.transform == "log":
        plain, ends = np.log(plain), (-math.inf, math.inf)
    if not len(plain):  # the standard logistic distribution
        return Marginal(spikes, base, np.array([[-1.0, 1.0], [-1.0, 1.0]]), 0.0, 0.0)
    knots = warps.fit_knots(plain, plain[:0], ends, False)
    at = warps.heights(_column(plain), warps.padded(knots)[None], False)
    return Marginal(spikes, base, knots, 0.0, 0.0, _moments(at.upper))


def _column(values: np.ndarray) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)[:, None]


def _moments(heights: Tensor) -> tuple[float, float]:
    return float(heights.mean()), float(heights.var(correction=0)) + LEAST_VARIANCE


def _spikes(
    cells: np.ndarray, atoms: np.ndarray, share: float, fewest: float = COMMON
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers of the spikes, and the shares of them, of the Normal and of the marginal.

    A spike begins with such a share of the rows of its value; the rest is seen through the warp.
    """
    seen, counts = np.unique(cells, return_counts=True)
    often = counts >= max(fewest, COMMON_SHARE * len(cells))
    own = np.union1d(seen[often], atoms)
    times = np.zeros(len(own))
    there = np.isin(own, seen)
    times[there] = counts[np.searchsorted(seen, own[there])]
    held = share * (times + 0.5 * np.isin(own, atoms))
    rest = len(cells) - held.sum() + 1.0
    base = np.append(held, rest * np.array([1 - FAR, FAR]))
    return own, base / base.sum()


def step_of(values: np.ndarray) -> float:
    """Returns the step of the grid that values lie on, 0 where they lie on none."""
    seen = np.unique(values)
    for decimals in range(5):
        scaled = seen * 10.0**decimals
        whole = scaled.round()
        if (
            np.abs(scaled - whole).max(initial=0.0) < 1e-3
            and np.abs(whole).max(initial=0.0) < 2**22
        ):
            step = np.gcd.reduce(np.diff(whole).astype(np.int64)) if len(seen) > 1 else 0
            return float(step) / 10.0**decimals
    return 0.0
