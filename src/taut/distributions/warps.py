r"""Logistic distributions seen through the marginal of the data: masses at points, bounds, grids
and any skew, in one density.

A *warp* is an ascending map $G$ from the values of a column to the real line, close to the logit of
their distribution function in the training data. With $m$ and $s$ from the latent variable

$$ P(x \le t \mid z) = \sigma\bigl((G(t) - m(z)) / s(z)\bigr), $$

so that $m = 0, s = 1$ is the marginal of the data, whatever its shape, and only the dependence has
to be learned.

* Where G is continuous the density is its derivative: $\sigma'((G(x) - m) / s) \, G'(x) / s$.
* Where G jumps from a to b the value has a probability of its own, $\sigma((b - m) / s) - \sigma((a
  - m) / s)$: an *atom*. With atoms p is a *mixed* measure, log P at the atoms and log density
  elsewhere: it is normalised, and it compares with other mixed measures of the same atoms only,
  never with a pure density.
* Levels have probabilities only: $\sigma((G(x + 1/2) - m) / s) - \sigma((G(x - 1/2) - m) / s)$, the
  end levels taking the tails.

G is given by knots (x, y) and is linear between them (linear in log x where x grows by more than a
half from one to the next). Beyond the last ones it continues in the same way, so that tails are
exponential, or powers. Beyond an end that nothing passed in training, and between levels, lies the
share ``distributions.OUTSIDE``, so that new rows are improbable there, but not impossible.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn import functional

from taut.distributions import OUTSIDE
from taut.distributions.levels import log_beyond

__all__ = ["MAX_KNOTS", "Warped", "fit_knots", "heights", "inverse", "most", "padded", "parts"]

MAX_KNOTS = 258
MIDPOINTS = 64
TURNS = 16  # of a mixture: each part of the probability is given by one distribution in so many
EACH = 4  # parts for each halving of a tail, down to a probability of 2^-LEAST
LEAST = 16
USUAL = 1 - 0.5 / MIDPOINTS
FEW_LEVELS, OF_EACH = 1024, 128  # summed one by one, and of each part of a mixture
# Rows of a segment at least: frequencies of fewer would be mostly noise, and cost more than their
# shape gains.
ROWS_EACH = 20
# From a knot to the next, so that it remains a rise in float32: 258 of them move a logit by 0.003.
LEAST_RISE = 1e-5
STEEP = 1.5  # from a knot to one more than so many times as large, G is linear in log x


class Heights(NamedTuple):
    r"""A warp at some values, each (\*, \*event)."""

    lower: Tensor  # G just below
    upper: Tensor  # G just above
    gap: Tensor  # their difference at an atom; anything positive elsewhere
    log_slope: Tensor  # log G' where G is continuous
    atom: Tensor  # whether G jumps


def heights(value: Tensor, knots: Tensor, whole: bool, bend: bool | None = None) -> Heights:
    r"""Returns the heights of values.

    Args:
        value: (\*, \*event).
        knots: (\*event, 2, M): x and y of each element, ascending, padded with infinity; an x that
            comes twice is an atom.
        whole: Whether values are levels, each the interval from half below to half above.
        bend: Whether G is linear in log x on wide segments; by default where values are not levels.
    """
    bend = not whole if bend is None else bend
    if whole:
        return _whole_heights(value, knots, bend)
    y, log_slope = _height(value, _segment_of(value, knots, bend))
    first, after = (_search(knots[..., 0, :], value, right) for right in (False, True))
    atom = after - first > 1
    last = knots.shape[-1] - 1
    lower = torch.where(atom, _at(knots[..., 1, :], first.clamp(max=last)), y)
    upper = torch.where(atom, _at(knots[..., 1, :], (after - 1).clamp(min=0)), y)
    gap = torch.where(atom, upper - lower, 1.0)
    return Heights(lower, upper, gap, torch.where(atom, 0.0, log_slope), atom)


def _whole_heights(value: Tensor, knots: Tensor, bend: bool) -> Heights:
    one, other = (_segment_of(value + half, knots, bend) for half in (-0.5, 0.5))
    lower, slope = _height(value - 0.5, one)
    upper, _ = _height(value + 0.5, other)
    # Within a segment of many levels the difference of two heights would be mostly rounding.
    difference = (upper - lower).clamp(min=torch.finfo(value.dtype).tiny)
    within = slope.exp()
    if bend:
        curved = one.steep & (value - 0.5 >= one.x0)
        middle = torch.where(curved, value, 1.0)
        ratio = torch.log1p(0.5 / middle) - torch.log1p(-0.5 / middle)
        within = torch.where(curved, within * (middle - 0.5) * ratio, within)
        # The line below a bend meets it within the level.
        apart = (one.x0 != other.x0) | (one.steep & (value - 0.5 < one.x0) & (value + 0.5 > one.x0))
    else:
        apart = one.x0 != other.x0
    gap = torch.where(apart, difference, within)
    everywhere = torch.ones_like(value, dtype=torch.bool)
    return Heights(lower, upper, gap, torch.zeros_like(value), everywhere)


class Warped(Distribution):
    r"""Creates distributions of x in which $G(x)$ is logistic, with the atoms, bounds and grid of
    G.

    Args:
        loc: m, (\*, \*event).
        scale: s, likewise.
        knots: The knots of G, (\*event, 2, M).
        low: Smallest value, (\*event), minus infinity where none is known.
        high: Largest value, likewise.
        whole: Whether values are the integers low, ..., high.
        cut: Whether reals may stop at an end that is not an atom, so that the logistic is cut off
            there.
        bend: Whether G is linear in log x on wide segments; by default where values are not whole.
        levels: The most levels that an element has, which is asked of the ends if it is not given.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012 (torch's own protocol)

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        knots: Tensor,
        low: Tensor,
        high: Tensor,
        whole: bool,
        cut: bool,
        bend: bool | None = None,
        levels: float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.knots, self.low, self.high, self.whole, self.cut = knots, low, high, whole, cut
        self.levels = float((high - low).max()) + 1 if levels is None else levels
        self.bend = not whole if bend is None else bend
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Warped:
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return self._like(loc, scale, self.knots, self.low, self.high)

    def at(self, rows: Tensor, columns: Tensor) -> Warped:
        r"""Returns the distributions of some entries, (\*, n), of those of a batch (\*, B) of rows
        (C,).
        """
        loc, scale = self.loc[..., rows, columns], self.scale[..., rows, columns]
        own = (self.knots[columns], self.low[columns], self.high[columns])
        return self._like(loc, scale, *own)

    def _like(self, loc: Tensor, scale: Tensor, knots: Tensor, low: Tensor, high: Tensor) -> Warped:
        given = (self.whole, self.cut, self.bend, self.levels)
        return type(self)(loc, scale, knots, low, high, *given, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        if self.whole:
            return constraints.integer_interval(self.low, self.high)
        return constraints.interval(self.low, self.high)

    @property
    def reach(self) -> constraints.Constraint:
        """The values with a mass or density above zero; the support is what it is meant for."""
        return constraints.real

    def log_prob(self, value: Tensor) -> Tensor:
        near = value.round() if self.whole else value
        inside = torch.minimum(torch.maximum(near, self.low), self.high)
        log_p = self._log_inside_support(inside)
        ends = self.low.isfinite().to(value) + self.high.isfinite()
        # Beyond each end lies its share of OUTSIDE, on integers or as a half of Cauchy's density.
        distance = (near - inside).abs()
        away = torch.where(distance > 0, distance, 1.0)  # no gradient meets the logarithm of 0
        if self.whole:
            tail = log_beyond(away)
        else:
            unit = self._width()
            # log(1 + r^2), whose square overflows far out
            spread = 2 * (away.log() - unit.log())
            spread = torch.logaddexp(torch.zeros_like(spread), spread)
            tail = math.log(2 / math.pi) - unit.log() - spread
        beyond = math.log(OUTSIDE) + tail - ends.clamp(min=1).log()
        rest = torch.where(ends > 0, math.log1p(-OUTSIDE), 0.0)
        log_p = torch.where(distance > 0, beyond, log_p + rest)
        if self.whole:  # with the same small share a level has noise between -1/2 and 1/2 on it
            log_p = log_p + torch.where(value == near, math.log1p(-OUTSIDE), math.log(OUTSIDE))
        return log_p

    def _width(self) -> Tensor:
        r"""Returns the distance from the first knot to the last, (\*event)."""
        x = self.knots[..., 0, :]
        width = _pick(x, _last(x)) - x[..., 0]
        return torch.where(width > 0, width, 1.0)

    def _log_inside_support(self, value: Tensor) -> Tensor:
        at = heights(value, self.knots, self.whole, self.bend)
        below, above = (at.upper - self.loc) / self.scale, (at.lower - self.loc) / self.scale
        at_low, at_high = at.atom & (value <= self.low), at.atom & (value >= self.high)
        inner = torch.log(-torch.expm1(-at.gap / self.scale))
        within = torch.where(at.atom, inner, at.log_slope - self.scale.log())
        inside = torch.where(at_low | at_high, 0.0, within)
        log_below = torch.where(at_high, 0.0, functional.logsigmoid(below))
        log_above = torch.where(at_low, 0.0, functional.logsigmoid(-above))
        log_p = log_below + log_above + inside
        return log_p - self._log_inside() if self.cut else log_p

    @property
    def mean(self) -> Tensor:
        """The mean: of few levels a sum over them, else by parts of the probability (see
        ``parts``), those of a tail that is a power up to twice the last knot: a usual value even
        where it is so heavy that it has no mean.
        """
        if (edges := self._edges(FEW_LEVELS)) is not None:
            return self._sum(edges)
        p, weight = (torch.cat(part) for part in zip(*parts(self.loc), strict=True))
        return self._weighed(p, weight / MIDPOINTS)

    def mean_of_mixture(self, share: Tensor) -> Tensor:
        r"""Returns the mean of a mixture of the K distributions along the first axis, (n,).

        Each of them gives 4 of its 64 parts, and the next pair of them the next 4: whatever
        they have in common is as exact as ``mean``, at a sixteenth of its cost.

        Args:
            share: Their weights, (K, n), of sum 1.
        """
        if (edges := self._edges(OF_EACH)) is not None:
            return (share * self._sum(edges)).sum(0)
        total, every = torch.zeros_like(self.loc[0]), parts(self.loc)
        for turn in range(TURNS):
            first = torch.arange(2 * turn, len(share), 2 * TURNS)
            pairs = torch.stack([first, first + 1], 1).flatten()  # mirrored samples stay opposite
            pairs = pairs[pairs < len(share)].to(share.device)
            if not len(pairs):
                break
            ends = self.knots, self.low, self.high
            own = self._like(self.loc[pairs], self.scale[pairs], *ends)
            p, weight = (torch.cat(part) for part in zip(*every[turn::TURNS], strict=True))
            total = total + (share[pairs] * own._weighed(p, weight * TURNS / MIDPOINTS)).sum(0)
        return total

    def _edges(self, most: int) -> Tensor | None:
        r"""Returns G between the levels, (\*event, edges), infinite after the last of an element;
        None where they are more.
        """
        if not self.whole or self.levels > most:
            return None
        number = torch.arange(int(self.levels) - 1, dtype=self.loc.dtype, device=self.loc.device)
        edge = self.low + number.view(-1, *(1 for _ in self.low.shape)) + 0.5
        height, _ = _height(edge, _segment_of(edge, self.knots, self.bend))
        return torch.where(edge < self.high, height, torch.inf).movedim(0, -1)

    def _sum(self, edges: Tensor) -> Tensor:
        """Returns low + the sum of P(x > level) over the levels below the last."""
        loc, scale = self.loc[..., None], self.scale[..., None]
        parts = (torch.sigmoid((loc - some) / scale).sum(-1) for some in edges.split(64, -1))
        return self.low + sum(parts, torch.zeros_like(self.loc))

    def _weighed(self, p: Tensor, weight: Tensor) -> Tensor:
        """Returns the sum of quantiles, (Q,), times weights, but those of a tail that is a power up
        to twice the last knot, or what is usual beyond that.
        """
        rest = (-1, *(1 for _ in self.loc.shape))
        x = self.quantile(p.view(rest))
        if self.bend:
            x = torch.minimum(
                x, torch.maximum(most(self.knots), self.quantile(p.new_tensor(USUAL)))
            )
        return (weight.view(rest) * x).sum(0)

    def quantile(self, p: Tensor) -> Tensor:
        r"""Returns the smallest x with $P(X \le x) \ge p$."""
        if self.cut:
            cut_low, cut_high = self._cuts()
            first, last = self._ends()
            start = torch.where(cut_low, torch.sigmoid(first), 0.0)
            p = start + p * (torch.where(cut_high, torch.sigmoid(last), 1.0) - start)
        x = inverse(self.loc + self.scale * torch.logit(p), self.knots, self.bend)
        if self.whole:
            x = torch.ceil(x - 0.5)
        return torch.minimum(torch.maximum(x, self.low), self.high)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            return self.quantile(torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device))

    def _cuts(self) -> tuple[Tensor, Tensor]:
        r"""Returns masks, (\*event), of the low and high ends at which values stop without an atom,
        so that the logistic is cut off there.
        """
        x = self.knots[..., 0, :]
        last = _last(x)
        ends = (_pick(x, last) > _pick(x, last - 1)) & self.high.isfinite()
        return (x[..., 0] < x[..., 1]) & self.low.isfinite(), ends

    def _ends(self) -> tuple[Tensor, Tensor]:
        x, y = self.knots[..., 0, :], self.knots[..., 1, :]
        first, last = y[..., 0], _pick(y, _last(x))
        return (first - self.loc) / self.scale, (last - self.loc) / self.scale

    def _log_inside(self) -> Tensor:
        """Returns the log-probability of the values between the ends that are cut off."""
        (cut_low, cut_high), (first, last) = self._cuts(), self._ends()
        both = torch.log(-torch.expm1(first - last))
        log_below = torch.where(cut_high, functional.logsigmoid(last), 0.0)
        log_above = torch.where(cut_low, functional.logsigmoid(-first), 0.0)
        return log_below + log_above + torch.where(cut_low & cut_high, both, 0.0)


def parts(like: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Returns of each of 64 parts of equal probability where the distribution function is taken,
    (q,), and with which weights, (q,), of sum 1.

    Towards either tail they are divided into such that each holds at most a sixth of what lies
    beyond it, taken where minus the logarithm of the tail is at its mean: of an exponential tail,
    whose quantiles are linear in that, the mean is exact.
    """
    found: list[tuple[Tensor, Tensor]] = []
    for u, weight in _TAIL:
        part = (torch.tensor(each, dtype=torch.double).to(like) for each in (u, weight))
        found.append((next(part), next(part)))
    return [*found, *((1 - u, weight) for u, weight in reversed(found))]


def _tail() -> list[tuple[list[float], list[float]]]:
    """Returns that of the 32 lower parts, the outermost first."""
    found = []
    for k in range(MIDPOINTS // 2):
        ends = np.array([k, k + 1]) / MIDPOINTS
        geometric = 2.0 ** -(np.arange(EACH, EACH * LEAST + 1) / EACH)
        inner = geometric[(geometric > ends[0] + 1e-9) & (geometric < ends[1] - 1e-9)]
        if k * (1 - 2 ** (-1 / EACH)) > 1:  # a part is smaller than that already
            inner = inner[:0]
        a, b = np.array(list(pairwise(np.sort(np.append(ends, inner))))).T
        log_a = np.log(np.where(a > 0, a, 1.0))
        u = np.exp((b * np.log(b) - a * log_a) / (b - a) - 1)
        found.append((u.tolist(), ((b - a) * MIDPOINTS).tolist()))
    return found


_TAIL = _tail()  # made once: what writes a graph cannot follow it


def most(knots: Tensor) -> Tensor:
    r"""Returns twice the last knot where the tail beyond it is a power, else infinity,
    (\*event).
    """
    x = knots[..., 0, :]
    last = _last(x)
    end, before = _pick(x, last), _pick(x, last - 1)
    return torch.where((before > 0) & (end > STEEP * before), 2 * end, torch.inf)


def _last(x: Tensor) -> Tensor:
    """Returns the number of the last knot of each element."""
    return (x.isfinite().sum(-1) - 1).clamp(min=1)


def _pick(table: Tensor, index: Tensor) -> Tensor:
    return table.gather(-1, index[..., None]).squeeze(-1)


def _at(table: Tensor, index: Tensor) -> Tensor:
    r"""Returns the entries of a table (\*event, M) at an index (\*, \*event)."""
    flat = table.reshape(-1, table.shape[-1])
    return flat.gather(-1, index.reshape(-1, len(flat)).T).T.reshape(index.shape)


def _search(table: Tensor, value: Tensor, right: bool) -> Tensor:
    r"""Returns the number of entries of a table (\*event, M), ascending, that are below (or equal
    to) each value, (\*, \*event).
    """
    flat = table.reshape(-1, table.shape[-1]).contiguous()
    # Stacked: torch's compiler drops the copy of a transposed tensor, and torch warns of it.
    values = torch.stack(value.reshape(-1, len(flat)).unbind(1))
    return torch.searchsorted(flat, values, right=right).T.reshape(value.shape)


class _Segment(NamedTuple):
    x0: Tensor
    x1: Tensor
    y0: Tensor
    y1: Tensor
    steep: Tensor  # whether G is linear in log x here


def _segment(knots: Tensor, after: Tensor, bend: bool) -> _Segment:
    """Returns the segment of each value, given the number of knots at or below it; tails have the
    outermost ones.
    """
    place = torch.minimum((after - 1).clamp(min=0), (_last(knots[..., 0, :]) - 1).expand_as(after))
    x0, x1 = _at(knots[..., 0, :], place), _at(knots[..., 0, :], place + 1)
    y0, y1 = _at(knots[..., 1, :], place), _at(knots[..., 1, :], place + 1)
    steep = (x0 > 0) & (x1 > STEEP * x0) & bend
    # A segment without width is an atom, whose own values are looked up elsewhere.
    wide = torch.where(x1 > x0, x1, x0 + 1)
    return _Segment(x0, wide, y0, y1, steep)


def _segment_of(value: Tensor, knots: Tensor, bend: bool) -> _Segment:
    return _segment(knots, _search(knots[..., 0, :], value, True), bend)


def _height(value: Tensor, s: _Segment) -> tuple[Tensor, Tensor]:
    """Returns G(value) and log G'(value) on its segment."""
    log_width = torch.where(s.steep, s.x1 / torch.where(s.steep, s.x0, 1.0), math.e).log()
    # Of the line that touches at x0, where G is linear in log x.
    width = torch.where(s.steep, torch.where(s.steep, s.x0, 1.0) * log_width, s.x1 - s.x0)
    curved = s.steep & (value > s.x0)
    ratio = torch.where(curved, value / torch.where(curved, s.x0, 1.0), 1.0)
    share = torch.where(curved, ratio.log() / log_width, (value - s.x0) / width)
    rise = s.y1 - s.y0
    return s.y0 + rise * share, rise.log() - width.log() - ratio.log()


def inverse(y: Tensor, knots: Tensor, bend: bool) -> Tensor:
    """Returns the x at which G reaches y: the atom where it jumps over y."""
    after = _search(knots[..., 1, :], y, True)
    s = _segment(knots, after, bend)
    share = (y - s.y0) / (s.y1 - s.y0)
    base = torch.where(s.steep, s.x0, 1.0)
    ratio = torch.where(s.steep, s.x1 / base, math.e)
    width = torch.where(s.steep, base * ratio.log(), s.x1 - s.x0)
    x = torch.where(s.steep & (share > 0), base * ratio ** share.clamp(min=0), s.x0 + width * share)
    place = torch.minimum((after - 1).clamp(min=0), (_last(knots[..., 0, :]) - 1).expand(y.shape))
    jump = _at(knots[..., 0, :], place) == _at(knots[..., 0, :], place + 1)
    return torch.where(jump, s.x0, x)


def fit_knots(
    values: np.ndarray, atoms: np.ndarray, support: tuple[float, float], whole: bool
) -> np.ndarray:
    """Returns the knots (2, M) of the warp of a column's values.

    Args:
        values: The codes of the training data, without missing ones.
        atoms: Codes that have a probability of their own.
        support: Smallest and largest code, infinite where no end is known.
        whole: Whether codes are the integers of the support.
    """
    seen, counts = np.unique(values.astype(np.float64), return_counts=True)
    if whole:
        x, y = _level_knots(seen, counts, support)
    else:
        x, y = _mixed_knots(seen, counts, atoms, support)
    rises = np.maximum(np.diff(y), LEAST_RISE)
    return np.stack([x, y[0] + np.append(0.0, rises.cumsum())])


def padded(knots: np.ndarray, most: int = MAX_KNOTS) -> Tensor:
    """Returns knots (2, m) with infinity up to as many as all columns have."""
    return functional.pad(torch.from_numpy(knots), (0, most - knots.shape[1]), value=torch.inf)


def _logit(share: np.ndarray) -> np.ndarray:
    return np.log(share) - np.log1p(-share)


def _level_knots(seen: np.ndarray, counts: np.ndarray, support: tuple[float, float]) -> np.ndarray:
    """Returns knots between levels, at most as many as allowed.

    Unseen levels share the probability of the levels seen once (Good and Turing), spread evenly.
    """
    low, high = support
    levels, n = high - low + 1, counts.sum()
    unseen = min(0.5 * levels, max(1.0, float(np.count_nonzero(counts == 1))))
    if levels <= MAX_KNOTS - 2 and n >= ROWS_EACH * levels:
        edges = np.arange(low, high) + 0.5
    else:
        few = len(seen) <= 120 and n >= ROWS_EACH * len(seen)
        often = seen[counts >= max(10.0, 5 * n / len(seen))][:70]
        shares = np.linspace(0, 1, int(min(96, max(3, n // ROWS_EACH))) + 1)[1:-1]
        common, spread = often, seen[np.searchsorted(counts.cumsum(), shares * n)]
        if few:
            common, spread = seen, seen[:0]
        edges = np.unique(
            np.concatenate([common - 0.5, common + 0.5, spread + 0.5, [low + 0.5, high - 0.5]])
        )
        edges = edges[(edges > low) & (edges < high)]
    below = np.append(0, counts.cumsum())[np.searchsorted(seen, edges)]
    y = _logit((below + unseen * (edges + 0.5 - low) / levels) / (n + unseen))
    ends = np.array([[low - 0.5, high + 0.5], [y[0] - 2.0, y[-1] + 2.0]])
    return np.concatenate([ends[:, :1], np.stack([edges, y]), ends[:, 1:]], 1)


def _mixed_knots(
    seen: np.ndarray, counts: np.ndarray, atoms: np.ndarray, support: tuple[float, float]
) -> np.ndarray:
    """Returns knots at quantiles that are evenly spaced in the logit, so that tails are resolved;
    each segment holds 5 values or more.
    """
    n, total = counts.sum(), np.append(0, counts.cumsum())
    lone = ~np.isin(seen, atoms)
    rest, times = seen[lone], counts[lone]
    x = np.array([support[0], support[1]])
    x = np.setdiff1d(x[np.isfinite(x)], atoms)
    if len(rest):
        m = times.sum()
        reach = max(0.0, math.log(max(m, 12) / 5 - 1))
        shares = 1 / (1 + np.exp(-np.linspace(-reach, reach, int(min(96, max(2, m // ROWS_EACH))))))
        taken = rest[np.minimum(np.searchsorted(times.cumsum(), shares * m), len(rest) - 1)]
        x = np.unique(np.concatenate([x, taken, rest[[0, -1]]]))
    place = np.searchsorted(seen, x)
    equal = np.where(np.isin(x, seen), counts[np.minimum(place, len(seen) - 1)], 0)
    end = np.where(x <= support[0], 0.25, np.where(x >= support[1], 0.75, 0.5))
    shares = (total[place] + 0.5 * equal + end) / (n + 1)
    jumps = atoms[np.isin(atoms, seen)] if len(rest) else atoms
    lower = (total[np.searchsorted(seen, jumps)] + 0.25) / (n + 1)
    upper = (total[np.searchsorted(seen, jumps, side="right")] + 0.75) / (n + 1)
    order = np.lexsort([np.concatenate([shares, lower, upper]), np.concatenate([x, jumps, jumps])])
    xs = np.concatenate([x, jumps, jumps])[order]
    ys = _logit(np.concatenate([shares, lower, upper])[order])
    if len(xs) < 2:  # a single value: a segment of width one about it
        xs, ys = np.array([xs[0] - 0.5, xs[0] + 0.5]), np.array([-1.0, 1.0])
    return np.stack([xs, ys])
