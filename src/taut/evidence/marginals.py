r"""Smooth marginals of columns of real numbers: mixtures of t or normal distributions, after a
logarithm or not.

$$ p(x) = \sum_{k=1}^{K} w_k \, t_\nu\bigl((h(x) - m_k) / s_k\bigr) \, h'(x) / s_k, $$

with K up to 8, $\nu$ = 3 or infinity (a normal distribution) and h the identity or, for positive
numbers, the logarithm: the combination that predicts a quarter of the training data best from the
other three.
"""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["ENTRIES", "WIDE", "Reals"]

# Points that stand for the rows of a column in a fit; TAIL of them at each end are single rows.
POINTS, TAIL = 256, 16
COMPONENTS, DEGREES, STEPS = (1, 2, 3, 5, 8), (3.0, math.inf), 40
ROWS_EACH = 20  # rows for each component, at least
FLOOR = 1e-4  # of a component's scale, as a share of the data's: the likelihoods have the same
# Columns: of more than this, mixtures are small, and counts are drawn towards a negative binomial,
# which takes no time.
WIDE = 500
ENTRIES = 2**22  # numbers in memory at a time


class _Mixtures(NamedTuple):
    """Mixtures of K components for each of C columns."""

    log_weights: Tensor  # (C, K)
    loc: Tensor
    scale: Tensor
    df: float  # degrees of freedom of all components

    def log_prob(self, y: Tensor) -> Tensor:
        """Returns the log-density of points (C, n)."""
        return torch.logsumexp(self.log_terms(y), -1)

    def log_terms(self, y: Tensor) -> Tensor:
        d = (y[..., None] - self.loc[:, None]) / self.scale[:, None]
        log_p = -0.5 * d.square() - 0.5 * math.log(2 * math.pi)
        if math.isfinite(self.df):
            df = self.df
            log_gammas = math.lgamma((df + 1) / 2) - math.lgamma(df / 2)
            unit = log_gammas - 0.5 * math.log(df * math.pi)
            log_p = unit - (df + 1) / 2 * torch.log1p(d.square() / df)
        return log_p + (self.log_weights - self.scale.log())[:, None]

    def below(self, y: Tensor) -> Tensor:
        """Returns the distribution function at points (C, n)."""
        d = (y[..., None] - self.loc[:, None]) / self.scale[:, None]
        share = torch.special.ndtr(d)
        if math.isfinite(self.df):  # three degrees of freedom
            u = d / math.sqrt(3)
            share = 0.5 + (u / (1 + u.square()) + u.atan()) / math.pi
        return (share * self.log_weights.exp()[:, None]).sum(-1)


def _fitted(y: Tensor, weights: Tensor, components: int, df: float) -> _Mixtures:
    """Returns mixtures fitted to weighted points (C, P), around 0 with a scale around 1, by
    expectation maximisation.
    """
    rows = weights.sum(1, keepdim=True)
    share = weights.cumsum(1) / rows
    quantiles = (torch.arange(components, dtype=y.dtype) + 0.5) / components
    place = torch.searchsorted(share, quantiles.expand(len(y), -1).contiguous())
    loc = y.gather(1, place.clamp(max=y.shape[1] - 1))
    squares = (y - loc.mean(1, keepdim=True)).square().clamp(max=100)
    spread = (weights * squares).sum(1, keepdim=True) / rows
    scale = spread.sqrt().clamp(min=FLOOR).expand_as(loc) / components**0.5
    log_weights = torch.full_like(loc, -math.log(components))
    mixtures = _Mixtures(log_weights, loc, scale, df)
    closed_form = components == 1 and not math.isfinite(df)
    for _ in range(1 if closed_form else STEPS):
        shares = torch.softmax(mixtures.log_terms(y), -1) * weights[..., None]
        total = shares.sum(1) + 1e-12
        pull = shares
        if math.isfinite(df):
            d = (y[..., None] - mixtures.loc[:, None]) / mixtures.scale[:, None]
            pull = shares * (df + 1) / (df + d.square())
        loc = (pull * y[..., None]).sum(1) / (pull.sum(1) + 1e-300)
        variance = (pull * (y[..., None] - loc[:, None]).square()).sum(1) / total
        log_weights = (total / total.sum(1, keepdim=True)).log()
        mixtures = _Mixtures(log_weights, loc, variance.sqrt().clamp(min=FLOOR), df)
    return mixtures


def _points(y: Tensor) -> tuple[Tensor, Tensor]:
    """Returns points (C, P) that stand for the values of columns (C, n), and their weights; NaN has
    none.
    """
    ordered = y.sort(1).values
    sums = torch.nn.functional.pad(ordered.nan_to_num(0.0).cumsum(1), (1, 0))
    count = (~y.isnan()).sum(1, keepdim=True)
    ends = torch.arange(TAIL)
    shares = torch.linspace(0, 1, POINTS - 2 * TAIL + 1, dtype=torch.float64)
    inner = shares * (count - 2 * TAIL) + TAIL
    edges = torch.cat([ends.expand(len(y), -1), inner.round().long(), count - TAIL + 1 + ends], 1)
    edges = torch.where(count <= POINTS, torch.minimum(torch.arange(POINTS + 1), count), edges)
    weights = edges.diff(dim=1).double()
    return sums.gather(1, edges).diff(dim=1) / weights.clamp(min=1), weights


class _Scaled(NamedTuple):
    """Columns in units of their quartiles, after a logarithm or not."""

    loc: Tensor
    scale: Tensor
    log: bool
    valid: Tensor  # whether every training value has a logarithm

    @classmethod
    def of(cls, train: Tensor, log: bool) -> _Scaled:
        valid, values = torch.ones(len(train), dtype=torch.bool), train
        if log:
            valid, values = ~(train <= 0).any(1), train.clamp(min=1e-300).log()
        ordered = values.sort(1).values  # missing values come last
        last = (~train.isnan()).sum(1, keepdim=True) - 1
        shares = torch.tensor([[0.25, 0.5, 0.75]], dtype=torch.float64)
        low, loc, high = ordered.gather(1, (shares * last).round().long().clamp(min=0)).unbind(1)
        spread = (ordered - loc[:, None]).square().nanmean(1).sqrt()
        scale = torch.where(high > low, (high - low) / 1.349, spread)
        return cls(loc.nan_to_num(0.0), torch.where(scale > 0, scale, 1.0), log, valid)

    def at(self, columns: Tensor) -> _Scaled:
        return _Scaled(self.loc[columns], self.scale[columns], self.log, self.valid[columns])

    def to_y(self, x: Tensor) -> Tensor:
        """Returns values (C, n) in these units: NaN for those without a logarithm."""
        values = torch.where(x > 0, x, math.nan).log() if self.log else x
        return (values - self.loc[:, None]) / self.scale[:, None]

    def log_slope(self, y: Tensor) -> Tensor:
        """Returns log dy/dx at y."""
        slope = -self.scale.log()[:, None].expand_as(y)
        return slope - (y * self.scale[:, None] + self.loc[:, None]) if self.log else slope


class _Fit(NamedTuple):
    """Some columns, with their marginals."""

    columns: Tensor
    scaled: _Scaled
    mixtures: _Mixtures


class Reals:
    """The marginals of columns of real numbers, fitted to training values (C, n)."""

    def __init__(self, train: Tensor) -> None:
        self.rows = (~train.isnan()).sum(1).double()
        self.plain = _Scaled.of(train, False)
        self.fits: list[_Fit] = []
        for columns in torch.arange(len(train)).split(ENTRIES // (1000 * max(COMPONENTS))):
            self.fits += self._chosen(train, columns)

    def _chosen(self, train: Tensor, columns: Tensor) -> list[_Fit]:
        """Returns the fits of some columns that predict every fourth row best from the others."""
        held = torch.arange(train.shape[1]) % 4 == 3
        numbers = COMPONENTS if len(train) <= WIDE else COMPONENTS[:2]
        options, scores = [], []
        for log in (False, True):
            scaled = _Scaled.of(train[columns], log)
            able = scaled.valid.nonzero()[:, 0]
            unit = scaled.at(able)
            y = unit.to_y(train[columns[able]])
            points, told = _points(y[:, ~held]), y[:, held][:, :1000]
            rows = self.rows[columns[able]]
            for components, df in product(numbers, DEGREES):
                log_p = _fitted(*points, components, df).log_prob(told) + unit.log_slope(told)
                few = (rows < components * ROWS_EACH) & (components > 1)
                score = torch.full((len(columns),), -math.inf, dtype=torch.float64)
                score[able] = log_p.nansum(1).masked_fill(few, -math.inf)
                scores.append(score)
                options.append((log, components, df))
        best = torch.stack(scores).argmax(0)
        fits = []
        for number in best.unique().tolist():
            log, components, df = options[number]
            mine = columns[best == number]
            scaled = _Scaled.of(train[mine], log)
            points = _points(scaled.to_y(train[mine]))
            fits.append(_Fit(mine, scaled, _fitted(*points, components, df)))
        return fits

    def log_prob(self, x: Tensor) -> Tensor:
        """Returns the log-density of values (C, n), 0 where they are missing."""
        result = torch.zeros_like(x)
        for columns, scaled, mixtures in self.fits:
            y = scaled.to_y(x[columns])
            near = (mixtures.log_prob(y) + scaled.log_slope(y)).nan_to_num(-math.inf)
            wide, plain, n = self._wide(columns)
            y = plain.to_y(x[columns])
            far = wide.log_prob(y) + plain.log_slope(y)
            result[columns] = torch.logaddexp(near + (n / (n + 1)).log(), far - (n + 1).log())
        return torch.where(x.isnan(), 0.0, result)

    def below(self, x: Tensor) -> Tensor:
        """Returns the distribution function at values (C, n)."""
        result = torch.zeros_like(x)
        for columns, scaled, mixtures in self.fits:
            wide, plain, n = self._wide(columns)
            near = mixtures.below(scaled.to_y(x[columns])).nan_to_num(0.0)
            result[columns] = (n * near + wide.below(plain.to_y(x[columns]))) / (n + 1)
        return result

    def _wide(self, columns: Tensor) -> tuple[_Mixtures, _Scaled, Tensor]:
        """Returns a wide t distribution, its units, and the number of rows.

        It counts as one more row, so that no value has a density of zero.
        """
        zero = torch.zeros(len(columns), 1, dtype=torch.float64)
        wide = _Mixtures(zero, zero, zero + 3, 3.0)
        return wide, self.plain.at(columns), self.rows[columns, None]
