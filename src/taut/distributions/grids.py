r"""Numbers on a grid: each has a cell, whose probability follows from the warp of the data.

Numbers that are written to a last digit (cents, tenths of a degree) lie on a grid. A density there
has no bound: it can grow on values that repeat for as long as it is trained. Here a cell of width
$h$ about the grid point $x$ has the probability

$$ P(x \mid z) = \sigma\bigl((G(x + h/2) - m(z)) / s(z)\bigr) - \sigma\bigl((G(x - h/2) - m(z)) /
   s(z)\bigr), $$

with the warp G of the training data (``warps``), and the density $P / h$ is constant over it: it
integrates to one, compares with any other density, and is never above $1 / h$.

Values that repeat have edges of their own in G, so that each has the mass that it has in the data;
all others share a smooth background (``fit_cells``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from taut.distributions.levels import OUTSIDE
from taut.distributions.warps import ROWS_EACH, STEEP, Warped

__all__ = ["Counted", "Gridded", "fit_cells"]

MOST_REPEATED = 8192  # values with a mass of their own
SEGMENTS = 96  # of the background
LEAST_RISE = 2e-6  # from a knot to the next, so that it remains a rise in float32


class Counted(Warped):
    """Creates distributions of counts: those of cells from 0, and nothing below or between them."""

    @property
    def support(self) -> constraints.Constraint:
        return constraints.nonnegative_integer

    reach = support

    def log_prob(self, value: Tensor) -> Tensor:
        possible = self.support.check(value)
        return torch.where(possible, super().log_prob(value.where(possible, 0.0)), -torch.inf)


class Gridded(Distribution):
    r"""Creates distributions of numbers on a grid.

    Args:
        cells: The distribution of the number n of the cell of each element, (\*batch, \*event).
        start: Value of cell 0, (\*event).
        step: Width h of the cells, likewise.
        atoms: Numbers of the cells whose values have a probability and no density, (\*event, A),
            padded with infinity.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, cells: Warped, start: Tensor, step: Tensor, atoms: Tensor) -> None:
        self.cells, self.start, self.step, self.atoms = cells, start, step, atoms
        super().__init__(cells.batch_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Gridded:
        return Gridded(self.cells.expand(batch_shape), self.start, self.step, self.atoms)

    def at(self, rows: Tensor, columns: Tensor) -> Gridded:
        """Returns the distributions of some entries: see ``Warped.at``."""
        own = (self.start[columns], self.step[columns], self.atoms[columns])
        return Gridded(self.cells.at(rows, columns), *own)

    @property
    def support(self) -> constraints.Constraint:
        low, high = self._values(self.cells.low), self._values(self.cells.high)
        return constraints.interval(low - self.step / 2, high + self.step / 2)

    @property
    def reach(self) -> constraints.Constraint:
        """The values with a mass or density above zero; the support is what it is meant for."""
        return constraints.real

    @property
    def mean(self) -> Tensor:
        return self._values(self.cells.mean)

    def mean_of_mixture(self, share: Tensor) -> Tensor:
        """Returns the mean of a mixture: see ``Warped.mean_of_mixture``."""
        return self._values(self.cells.mean_of_mixture(share))

    def log_prob(self, value: Tensor) -> Tensor:
        # a number so large that no cell of it has one is as far out as cells go
        most = torch.finfo(value.dtype).max / 4
        place = ((value - self.start) / self.step).clamp(-most, most)
        near = place.round()
        log_p = self.cells.log_prob(near)
        density = log_p - self.step.log()
        if not self.atoms.shape[-1]:
            return density
        # As far as storage tells them apart.
        close = 1e-3 + 4 * torch.finfo(value.dtype).eps * value.abs() / self.step
        exact = log_p + math.log1p(-OUTSIDE)
        at_atom = torch.where((place - near).abs() <= close, exact, density + math.log(OUTSIDE))
        return torch.where((near[..., None] == self.atoms).any(-1), at_atom, density)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self._values(self.cells.sample(sample_shape))

    def _values(self, cells: Tensor) -> Tensor:
        return self.start + self.step * cells


def fit_cells(cells: np.ndarray, support: tuple[float, float]) -> np.ndarray:
    """Returns the knots (2, M) of the warp of a column's cells.

    Values that come at least so often have a mass of their own, their frequency less a discount
    (absolute discounting); the others, and the discounts, are a smooth background. How often, and
    how large a discount, is what predicts each row best from all others.

    Args:
        cells: The numbers of the cells of the training data, without missing ones.
        support: The first and the last cell, infinite where no end is known.
    """
    seen, counts = np.unique(cells.astype(np.float64), return_counts=True)
    tries = [_Cells(seen, counts, support, least) for least in _often(counts)]
    return max(tries, key=lambda tried: tried.score).knots()


def _often(counts: np.ndarray) -> list[int]:
    """Returns how often a value may have to come to have a mass of its own."""
    most = int(counts.max())
    ladder = [2, 3, 4, 5, 7, 10, 15, 25, 50, 100, 300, 1000]
    few = [n for n in ladder if n <= most and np.count_nonzero(counts >= n) <= MOST_REPEATED]
    return [most + 1, *few]


class _Cells:
    """The marginal in which values that come at least ``least`` times have their own mass.

    ``score`` is the mean log-probability of a row given all others.
    """

    def __init__(
        self, seen: np.ndarray, counts: np.ndarray, support: tuple[float, float], least: int
    ) -> None:
        often = counts >= least
        self.own, self.times = seen[often], counts[often]
        self.n, self.rest = int(counts.sum()), int(counts[~often].sum())
        self.support = support
        self.edges, self.shares = _background(seen, seen[~often], counts[~often], support)
        log_smooth = np.log(np.maximum(self._below(seen + 0.5) - self._below(seen - 0.5), 1e-12))
        scores = {d: self._score(counts, often, log_smooth, least, d) for d in _DISCOUNTS}
        self.discount = max(scores, key=scores.__getitem__)
        self.score = scores[self.discount]

    def _score(
        self,
        counts: np.ndarray,
        often: np.ndarray,
        log_smooth: np.ndarray,
        least: int,
        discount: float,
    ) -> float:
        background = self.rest + discount * len(self.own) + 1
        # A value without one of its rows may be one of the others.
        alone = np.where(often, background + least - 1 - discount, background - 1)
        left = np.where(counts > least, counts - 1 - discount, 0.0)
        mass = left + np.where(often & (counts > least), background, alone) * np.exp(log_smooth)
        return float((counts * np.log(mass)).sum() / self.n - math.log(self.n))

    def _below(self, x: np.ndarray) -> np.ndarray:
        """Returns the share of the background below x."""
        return np.interp(np.arcsinh(x), np.arcsinh(self.edges), self.shares)

    def knots(self) -> np.ndarray:
        x = np.unique(np.concatenate([self.edges, self.own - 0.5, self.own + 0.5]))
        mass = np.append(0.0, (self.times - self.discount).cumsum())[np.searchsorted(self.own, x)]
        mass = mass + self._below(x) * (self.rest + self.discount * len(self.own))
        share = (mass + 0.5) / (mass[-1] + 1)
        y = np.log(share) - np.log1p(-share)
        rises = np.maximum(np.diff(y), LEAST_RISE)
        return _with_tails(x, y[0] + np.append(0.0, rises.cumsum()), self.support)


_DISCOUNTS = (0.0, 0.25, 0.5, 0.75, 0.95)


def _background(
    seen: np.ndarray, rest: np.ndarray, times: np.ndarray, support: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns edges of cells and the share of the background below each.

    The edges lie at quantiles that are evenly spaced in the logit, so that tails are resolved.
    """
    ends = np.array([min(seen[0], support[0]) - 0.5, max(seen[-1], support[1]) + 0.5])
    ends = np.where(np.isfinite(ends), ends, [seen[0] - 0.5, seen[-1] + 0.5])
    if not len(rest):
        return ends, np.array([0.0, 1.0])
    m = int(times.sum())
    reach = max(0.0, math.log(max(m, 12) / 5 - 1))
    number = min(SEGMENTS, max(2, m // ROWS_EACH))
    shares = 1 / (1 + np.exp(-np.linspace(-reach, reach, number)))
    total = times.cumsum()
    taken = rest[np.minimum(np.searchsorted(total, shares * m), len(rest) - 1)]
    edges = np.unique(np.concatenate([ends, taken + 0.5, [rest[0] - 0.5, rest[-1] + 0.5]]))
    below = np.append(0, total)[np.searchsorted(rest, edges)]
    shares = (below + 0.5) / (m + 1)
    shares[0], shares[-1] = 0.0, 1.0
    return edges, shares


def _with_tails(x: np.ndarray, y: np.ndarray, support: tuple[float, float]) -> np.ndarray:
    """Returns knots with one more beyond each end that nothing bounds.

    It continues the last two units of y, but no steeper than four units of y from the median to
    the end: neither the mass of a value that repeats nor a range that ends sharply is a slope that
    new rows keep to.
    """
    low, high = (math.isfinite(end) for end in support)
    middle = x[np.abs(y).argmin()]
    if not low:
        k = min(int(np.searchsorted(y, y[0] + 2.0)), len(x) - 1)
        away = max((x[k] - x[0]) / (y[k] - y[0]), (middle - x[0]) / 4)
        x, y = np.append(x[0] - away, x), np.append(y[0] - 1.0, y)
    if not high:
        k = max(int(np.searchsorted(y, y[-1] - 2.0)) - 1, 0)
        slope = y[-1] - y[k]
        if x[k] > 0 and x[-1] > STEEP * x[k]:  # a power, as G is linear in log x there
            ratio = STEEP + 0.1
            x = np.append(x, x[-1] * ratio)
            y = np.append(y, y[-1] + slope * math.log(ratio) / math.log(x[-2] / x[k]))
        else:
            away = max((x[-1] - x[k]) / slope, (x[-1] - middle) / 4)
            x, y = np.append(x, x[-1] + away), np.append(y, y[-1] + 1.0)
    return np.stack([x, y])
