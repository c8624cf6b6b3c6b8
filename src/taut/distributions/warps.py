r"""Logistic distributions seen through the marginal of the data: masses at points, bounds, grids
and any skew, in one density.

A *warp* is an ascending map $G$ from the values of a column to the real line, close to the logit of
their distribution function in the training data. With $m$ and $s$ from the latent variable

$$ P(x \le t \mid z) = \sigma\bigl((G(t) - m(z)) / s(z)\bigr), $$

so that $m = 0, s = 1$ gives back the marginal of the data, whatever its shape, and only the
dependence has to be learned.

* Where G is continuous the density is its derivative: $\sigma'((G(x) - m) / s) \, G'(x) / s$.
* Where G jumps from a to b the value has a probability of its own, $\sigma((b - m) / s) - \sigma((a
  - m) / s)$: an *atom*. With atoms p is a *mixed* measure, log P at the atoms and log density
  elsewhere: it is normalised, and it compares with other mixed measures of the same atoms only,
  never with a pure density.
* Of levels all is probability: $\sigma((G(x + 1/2) - m) / s) - \sigma((G(x - 1/2) - m) / s)$, the
  end levels taking the tails.

G is given by knots (x, y) and is linear between them (linear in log x where x grows by more than a
half from one to the next); beyond the last ones it goes on likewise, so that tails are exponential,
or powers, but for the ends that nothing passed in
training: beyond them, and between levels, lies the share ``distributions.OUTSIDE``, so that
tomorrow's rows are improbable and not impossible.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn import functional

from taut.distributions import OUTSIDE

__all__ = ["MAX_KNOTS", "Warped", "fit_knots", "heights", "padded"]

MAX_KNOTS = 258
MIDPOINTS = 64
# of a segment: frequencies of fewer rows would be mostly noise, and cost more than their shape
# gains
ROWS_EACH = 20
LEAST_RISE = 1e-5
"""From a knot to the next, so that it remains one in float32: 258 of them move a logit by 0.003."""
STEEP = 1.5
"""From a knot to one that is so many times larger, G is linear in log x."""


class Heights(NamedTuple):
    """What a warp makes of values.

    G below and above them, their difference, log G' where G is continuous, and the atoms.
    """

    lower: Tensor
    upper: Tensor
    gap: Tensor  # of an atom; anything positive elsewhere
    log_slope: Tensor
    atom: Tensor


def heights(value: Tensor, knots: Tensor, whole: bool) -> Heights:
    r"""Returns the heights of values.

    Args:
        value: (\*, \*event).
        knots: (\*event, 2, M): x and y of each element, ascending, padded with infinity; an x that
            comes twice is an atom.
        whole: Whether values are levels, each the interval from half below to half above.
    """
    if whole:
        lower, above = _height(value - 0.5, knots, False)
        upper, below = _height(value + 0.5, knots, False)
        # Inside a segment the difference of two heights would be all rounding where there are many
        # levels.
        gap = torch.where(
            above == below, above.exp(), (upper - lower).clamp(min=torch.finfo(value.dtype).tiny)
        )
        return Heights(
            lower, upper, gap, torch.zeros_like(value), torch.ones_like(value, dtype=torch.bool)
        )
    y, log_slope = _height(value, knots, True)
    first, after = (_search(knots[..., 0, :], value, right) for right in (False, True))
    atom = after - first > 1
    last = knots.shape[-1] - 1
    lower = torch.where(atom, _at(knots[..., 1, :], first.clamp(max=last)), y)
    upper = torch.where(atom, _at(knots[..., 1, :], (after - 1).clamp(min=0)), y)
    gap = torch.where(atom, upper - lower, 1.0)
    return Heights(lower, upper, gap, torch.where(atom, 0.0, log_slope), atom)


class Warped(Distribution):
    r"""Creates logistic distributions of $G(x)$, of which x has atoms, bounds and a grid as G has.

    Args:
        loc: m, (\*, \*event).
        scale: s, likewise.
        knots: Of G, (\*event, 2, M).
        low: Smallest value, (\*event), minus infinity where none is known.
        high: Largest value, likewise.
        whole: Whether values are the integers low, ..., high.
        cut: Whether reals may stop at an end that is no atom, so that the logistic is cut off
            there.
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
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.knots, self.low, self.high, self.whole, self.cut = knots, low, high, whole, cut
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Warped:
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return Warped(
            loc, scale, self.knots, self.low, self.high, self.whole, self.cut, validate_args=False
        )

    @property
    def support(self) -> constraints.Constraint:
        if self.whole:
            return constraints.integer_interval(self.low, self.high)
        return constraints.interval(self.low, self.high)

    @property
    def reach(self) -> constraints.Constraint:
        """Where its mass or density is not zero: wider than the support, which is what
        it is for.
        """
        return constraints.real

    def log_prob(self, value: Tensor) -> Tensor:
        near = value.round() if self.whole else value
        inside = torch.minimum(torch.maximum(near, self.low), self.high)
        log_p = self._log_inside_support(inside)
        ends = self.low.isfinite().to(value) + self.high.isfinite()
        # Beyond each end lies a share of what is left for there, of integers or a half of Cauchy's.
        distance = (near - inside).abs()
        if self.whole:
            tail = math.log(4) - (distance * (distance + 1) * (distance + 2)).log()
        else:
            unit = self._width()
            tail = math.log(2 / math.pi) - unit.log() - torch.log1p((distance / unit).square())
        beyond = math.log(OUTSIDE) + tail - ends.clamp(min=1).log()
        rest = torch.where(ends > 0, math.log1p(-OUTSIDE), 0.0)
        log_p = torch.where(distance > 0, beyond, log_p + rest)
        if self.whole:  # with the same small share a level has noise between -1/2 and 1/2 on it
            log_p = log_p + torch.where(value == near, math.log1p(-OUTSIDE), math.log(OUTSIDE))
        return log_p

    def _width(self) -> Tensor:
        r"""Returns how far the knots reach, (\*event)."""
        x = self.knots[..., 0, :]
        width = _pick(x, _last(x)) - x[..., 0]
        return torch.where(width > 0, width, 1.0)

    def _log_inside_support(self, value: Tensor) -> Tensor:
        at = heights(value, self.knots, self.whole)
        below, above = (at.upper - self.loc) / self.scale, (at.lower - self.loc) / self.scale
        at_low, at_high = at.atom & (value <= self.low), at.atom & (value >= self.high)
        inner = torch.log(-torch.expm1(-at.gap / self.scale))
        inside = torch.where(
            at_low | at_high, 0.0, torch.where(at.atom, inner, at.log_slope - self.scale.log())
        )
        log_p = torch.where(at_high, 0.0, functional.logsigmoid(below)) + torch.where(
            at_low, 0.0, functional.logsigmoid(-above)
        )
        return log_p + inside - (self._log_inside() if self.cut else 0.0)

    @property
    def mean(self) -> Tensor:
        """The mean of the midpoints of 64 parts of equal probability.

        Of a tail so heavy that it has no mean, what is usual.
        """
        p = (
            torch.arange(MIDPOINTS, dtype=self.loc.dtype, device=self.loc.device) + 0.5
        ) / MIDPOINTS
        return self.quantile(p.view(-1, *(1 for _ in self.loc.shape))).mean(0)

    def quantile(self, p: Tensor) -> Tensor:
        r"""Returns the smallest x with $P(X \le x) \ge p$."""
        if self.cut:
            cut_low, cut_high = self._cuts()
            first, last = self._ends()
            start = torch.where(cut_low, torch.sigmoid(first), 0.0)
            p = start + p * (torch.where(cut_high, torch.sigmoid(last), 1.0) - start)
        x = _inverse(self.loc + self.scale * torch.logit(p), self.knots, not self.whole)
        x = torch.ceil(x - 0.5) if self.whole else x
        return torch.minimum(torch.maximum(x, self.low), self.high)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            return self.quantile(torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device))

    def _cuts(self) -> tuple[Tensor, Tensor]:
        r"""Returns at which ends, (\*event), values stop without an atom, so that the logistic is
        cut off there.
        """
        x = self.knots[..., 0, :]
        last = _last(x)
        ends = (_pick(x, last) > _pick(x, last - 1)) & self.high.isfinite()
        return (x[..., 0] < x[..., 1]) & self.low.isfinite(), ends

    def _ends(self) -> tuple[Tensor, Tensor]:
        y = self.knots[..., 1, :]
        return (y[..., 0] - self.loc) / self.scale, (
            _pick(y, _last(self.knots[..., 0, :])) - self.loc
        ) / self.scale

    def _log_inside(self) -> Tensor:
        """Returns the log-probability of what is left where values are cut off."""
        (cut_low, cut_high), (first, last) = self._cuts(), self._ends()
        both = torch.log(-torch.expm1(first - last))
        log_p = torch.where(cut_high, functional.logsigmoid(last), 0.0) + torch.where(
            cut_low, functional.logsigmoid(-first), 0.0
        )
        return log_p + torch.where(cut_low & cut_high, both, 0.0)


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
    r"""Returns how many of the entries of a table (\*event, M), ascending, are below (or equal to)
    each value, (\*, \*event).
    """
    flat = table.reshape(-1, table.shape[-1]).contiguous()
    return torch.searchsorted(
        flat, value.reshape(-1, len(flat)).T.contiguous(), right=right
    ).T.reshape(value.shape)


class _Segment(NamedTuple):
    x0: Tensor
    x1: Tensor
    y0: Tensor
    y1: Tensor
    steep: Tensor  # whether G is linear in log x here


def _segment(knots: Tensor, after: Tensor, bend: bool) -> _Segment:
    """Returns the segment of each value, of which ``after`` says how many knots lie at or below it.

    Tails have the outermost.
    """
    place = torch.minimum((after - 1).clamp(min=0), (_last(knots[..., 0, :]) - 1).expand_as(after))
    x0, x1 = _at(knots[..., 0, :], place), _at(knots[..., 0, :], place + 1)
    y0, y1 = _at(knots[..., 1, :], place), _at(knots[..., 1, :], place + 1)
    steep = (x0 > 0) & (x1 > STEEP * x0) & bend
    # a segment without width is an atom, whose own values are looked up elsewhere
    wide = torch.where(x1 > x0, x1, x0 + 1)
    return _Segment(x0, wide, y0, y1, steep)


def _height(value: Tensor, knots: Tensor, bend: bool) -> tuple[Tensor, Tensor]:
    """Returns G(value) and log G'(value)."""
    s = _segment(knots, _search(knots[..., 0, :], value, True), bend)
    log_width = torch.where(s.steep, s.x1 / torch.where(s.steep, s.x0, 1.0), math.e).log()
    # as if linear, at x0
    width = torch.where(s.steep, torch.where(s.steep, s.x0, 1.0) * log_width, s.x1 - s.x0)
    curved = s.steep & (value > s.x0)
    ratio = torch.where(curved, value / torch.where(curved, s.x0, 1.0), 1.0)
    share = torch.where(curved, ratio.log() / log_width, (value - s.x0) / width)
    rise = s.y1 - s.y0
    return s.y0 + rise * share, rise.log() - width.log() - ratio.log()


def _inverse(y: Tensor, knots: Tensor, bend: bool) -> Tensor:
    """Returns the x at which G reaches y: the atom where it jumps over y."""
    s = _segment(knots, _search(knots[..., 1, :], y, True), bend)
    share = (y - s.y0) / (s.y1 - s.y0)
    base = torch.where(s.steep, s.x0, 1.0)
    ratio = torch.where(s.steep, s.x1 / base, math.e)
    width = torch.where(s.steep, base * ratio.log(), s.x1 - s.x0)
    x = torch.where(s.steep & (share > 0), base * ratio ** share.clamp(min=0), s.x0 + width * share)
    place = torch.minimum(
        (_search(knots[..., 1, :], y, True) - 1).clamp(min=0),
        (_last(knots[..., 0, :]) - 1).expand(y.shape),
    )
    jump = _at(knots[..., 0, :], place) == _at(knots[..., 0, :], place + 1)
    return torch.where(jump, s.x0, x)


def fit_knots(
    values: np.ndarray, atoms: np.ndarray, support: tuple[float, float], whole: bool
) -> np.ndarray:
    """Returns the knots (2, M) of the warp of a column's values.

    Args:
        values: The codes of the training data, those that are missing left out.
        atoms: Codes that have a probability of their own.
        support: Smallest and largest code, infinite where no end is known.
        whole: Whether codes are the integers of the support.
    """
    seen, counts = np.unique(values.astype(np.float64), return_counts=True)
    x, y = (
        _level_knots(seen, counts, support) if whole else _mixed_knots(seen, counts, atoms, support)
    )
    return np.stack([x, y[0] + np.append(0.0, np.maximum(np.diff(y), LEAST_RISE).cumsum())])


def padded(knots: np.ndarray) -> Tensor:
    """Returns knots (2, m) with infinity up to ``MAX_KNOTS`` of them, as all columns have them."""
    return functional.pad(torch.from_numpy(knots), (0, MAX_KNOTS - knots.shape[1]), value=torch.inf)


def _logit(share: np.ndarray) -> np.ndarray:
    return np.log(share) - np.log1p(-share)


def _level_knots(seen: np.ndarray, counts: np.ndarray, support: tuple[float, float]) -> np.ndarray:
    """Levels that were not seen share the probability that the levels seen once have (Good and
    Turing), spread evenly.
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
        common = seen if few else often
        spread = seen[:0] if few else seen[np.searchsorted(counts.cumsum(), shares * n)]
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
    """Knots at quantiles that are evenly spaced in the logit, so that tails are resolved.

    Each segment holds 5 values or more.
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
    xs, ys = (
        np.concatenate([x, jumps, jumps])[order],
        _logit(np.concatenate([shares, lower, upper])[order]),
    )
    if len(xs) < 2:  # one value and no more: a segment of width one about it
        xs, ys = np.array([xs[0] - 0.5, xs[0] + 0.5]), np.array([-1.0, 1.0])
    return np.stack([xs, ys])
