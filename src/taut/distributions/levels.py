r"""Distributions over integer levels low, ..., high: the 256 values of a grey pixel, a mark from 1
to 5.

Low and high are numbers, or tensors that give each element its own.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Categorical, Distribution, constraints
from torch.nn import functional

__all__ = [
    "OUTSIDE",
    "Bernoulli",
    "CategoricalLevels",
    "DiscretizedLogistic",
    "Ordinal",
    "WarpedPixels",
]


OUTSIDE = 2.0**-24
"""Share of the mass for values that training never saw: below the rounding of float32, and enough
for a finite log p(x).

Training rows may hold only integers in a range, and new rows still a half, or a value beyond. If
their probability were exactly zero, one such value would make the mean log p(x) of a test set minus
infinity.
"""


def log_beyond(distance: Tensor) -> Tensor:
    r"""Returns $\log 4 / (d (d + 1) (d + 2))$, the log-probabilities of the integers d > 0, of sum
    1; of a sum of logarithms, since the product overflows from 2^43 on in float32.
    """
    return math.log(4) - distance.log() - (distance + 1).log() - (distance + 2).log()


class Bernoulli(TorchBernoulli):
    r"""Creates torch's Bernoulli with $\log p(x) = -\mathrm{softplus}((1 - 2x) \ell)$, which takes
    fewer passes and has no large differences.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        wrong = (1 - 2 * value) * self.logits
        if wrong.requires_grad:
            # Beyond the threshold exp(-40) is below any rounding.
            return -functional.softplus(wrong, threshold=40.0)
        # In place: evaluations of log p(x) spend much of their time here, and a new tensor of a
        # megabyte costs more than filling it.
        return torch.ops.aten.softplus.out(wrong, 1, 40.0, out=wrong).neg_()

    def expand(self, batch_shape: Any, _instance: Any = None) -> Bernoulli:
        return Bernoulli(logits=self.logits.expand(batch_shape), validate_args=False)


class CategoricalLevels(Categorical):
    r"""Creates a categorical distribution whose outcomes are the integers low, low + 1, ... and so
    have a mean.

    Args:
        logits: Unnormalised log-probabilities, (\*, levels).
        low: The smallest level.
        high: The largest level, for elements with fewer levels than logits; the logits beyond it
            must be -inf.
    """

    def __init__(
        self,
        logits: Tensor,
        low: int | Tensor,
        high: int | Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.low, self.high = low, low + logits.shape[-1] - 1 if high is None else high
        super().__init__(logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> CategoricalLevels:
        logits = self.logits.expand(*batch_shape, -1)
        return CategoricalLevels(logits, self.low, self.high, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(self.low, self.high)

    @property
    def mean(self) -> Tensor:
        return self.low + self.probs @ self._levels

    @property
    def variance(self) -> Tensor:
        # about the mean: the squares of large levels leave no digits of a small variance
        apart = self._levels - (self.probs @ self._levels)[..., None]
        return (self.probs * apart.square()).sum(-1)

    @property
    def _levels(self) -> Tensor:
        return torch.arange(self._num_events, dtype=self.probs.dtype, device=self.probs.device)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        level = (value - self.low).long().unsqueeze(-1)
        index, logits = torch.broadcast_tensors(level, self.logits)
        return logits.gather(-1, index[..., :1]).squeeze(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return (super().sample(sample_shape) + self.low).to(self.logits.dtype)  # type: ignore[no-untyped-call]


class DiscretizedLogistic(Distribution):
    r"""Creates a logistic distribution rounded to the levels low, ..., high; the end levels take
    the tails.

    With $\sigma$ the logistic function, $a = (x + 1/2 - m) / s$, $b = (x - 1/2 - m) / s$ and
    $\epsilon = 2^{-24}$,

    $$ p(x) = \sigma(a) - \sigma(b) = \sigma(a) \, \sigma(-b) \, (1 - e^{-1/s}), \quad
       p(\mathrm{low}) = (1 - \epsilon) \, \sigma(a), \quad
       p(\mathrm{high}) = (1 - \epsilon) \, \sigma(-b): $$

    as a product it has no cancellation, hence needs no clamp. The rest of each tail lies beyond its
    end, a distance d away with the share $4 / (d (d + 1) (d + 2))$. All of this has the share $1 -
    \epsilon$; with the share $\epsilon$ x is such an integer plus uniform noise between -1/2 and
    1/2, a density. So any number is possible, if improbable. Samples are levels.

    Args:
        loc: m, in levels.
        scale: s, in levels.
        low: The smallest level.
        high: The largest level; an element whose only level is low has all its mass there.

    References: kingma2016, salimans2017.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012 (torch's own protocol)

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        low: int | Tensor,
        high: int | Tensor,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.low, self.high = low, high
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiscretizedLogistic:
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return DiscretizedLogistic(loc, scale, self.low, self.high, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(self.low, self.high)

    @property
    def reach(self) -> constraints.Constraint:
        """The values with a mass or density above zero; the support is what it is meant for."""
        return constraints.real

    @property
    def mean(self) -> Tensor:
        # E[x] = low + the sum of P(x > level) over the levels below the last.
        like: dict[str, Any] = {"dtype": self.loc.dtype, "device": self.loc.device}
        low = torch.as_tensor(self.low, **like)[..., None]
        high = torch.as_tensor(self.high, **like)[..., None]
        edges = low + torch.arange(int((high - low).max()), **like) + 0.5
        above = torch.sigmoid((self.loc[..., None] - edges) / self.scale[..., None])
        return self.low + torch.where(edges < high, above, 0.0).sum(-1)

    def _cell(self, level: Tensor) -> tuple[Tensor, Tensor, Tensor | float]:
        """Returns the lower and upper edge of levels, and their distance."""
        return level - 0.5, level + 0.5, 1.0

    def log_prob(self, value: Tensor) -> Tensor:
        whole: Any = value.round()
        share = torch.where(value == whole, 1 - OUTSIDE, OUTSIDE).to(value)
        inside = whole.clamp(self.low, self.high)
        distance = (whole - inside).abs()
        beyond = math.log(OUTSIDE) + log_beyond(distance)
        # A single level has both tails.
        rest = 1 - OUTSIDE * ((inside == self.low).to(value) + (inside == self.high))
        ends = torch.where(distance > 0, beyond, rest.log()) + share.log()
        below, above, width = self._cell(inside)
        upper, lower = (above - self.loc) / self.scale, (below - self.loc) / self.scale
        log_below = torch.where(inside >= self.high, 0.0, functional.logsigmoid(upper))
        log_above = torch.where(inside <= self.low, 0.0, functional.logsigmoid(-lower))
        inner = (inside > self.low) & (inside < self.high)
        log_width = torch.log(-share * torch.expm1(-width / self.scale))
        return log_below + log_above + torch.where(inner, log_width, ends)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            noise = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).logit(eps=0.0)
            return (self.loc + self.scale * noise).round().clamp(self.low, self.high)


class WarpedPixels(DiscretizedLogistic):
    r"""Creates a logistic distribution of G(x), G being an ascending map of the levels low, ...,
    high that all elements share.

    It is ``DiscretizedLogistic`` with the edge $l + 1/2$ between two levels moved to $g_l$:

    $$ p(l) = \sigma((g_l - m) / s) - \sigma((g_{l-1} - m) / s), \quad
       g_{\mathrm{low} - 1} = -\infty, \; g_\mathrm{high} = \infty. $$

    Beyond the levels, and between them, lies the same share of the mass.

    Args:
        loc: m, in units of g.
        scale: s, likewise.
        edges: g, (levels - 1,), ascending.
        widths: $g_l - g_{l-1}$, (levels,), more exact than the edges can tell; those of the two end
            levels are any positive numbers.
        low: The smallest level.
    """

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        edges: Tensor,
        widths: Tensor,
        low: int,
        validate_args: bool | None = None,
    ) -> None:
        self.edges, self.widths = edges, widths
        super().__init__(loc, scale, low, low + len(edges), validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> WarpedPixels:
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        low = int(self.low)
        return WarpedPixels(loc, scale, self.edges, self.widths, low, validate_args=False)

    @property
    def mean(self) -> Tensor:
        # Some levels at a time: a tensor of 65,536 of them for each pixel fits nowhere.
        loc, scale = self.loc[..., None], self.scale[..., None]
        parts = (torch.sigmoid((loc - some) / scale).sum(-1) for some in self.edges.split(64))
        return self.low + sum(parts, torch.zeros_like(self.loc))

    def _cell(self, level: Tensor) -> tuple[Tensor, Tensor, Tensor | float]:
        at, last = (level - self.low).long(), len(self.edges) - 1
        return self.edges[(at - 1).clamp(min=0)], self.edges[at.clamp(max=last)], self.widths[at]

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            noise = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).logit(eps=0.0)
            above = torch.searchsorted(self.edges, self.loc + self.scale * noise)
            return (self.low + above).to(self.loc.dtype)


class Ordinal(Distribution):
    r"""Creates a distribution over ordered levels low, low + 1, ... with $P(x \le \mathrm{low} + l)
    = \sigma(c_l - m)$.

    With $c_{-1} = -\infty$, and $c = \infty$ after the last level,

    $$ p(\mathrm{low} + l) = \sigma(c_l - m) - \sigma(c_{l-1} - m)
       = \sigma(c_l - m) \, \sigma(m - c_{l-1}) \, (1 - e^{c_{l-1} - c_l}). $$

    Args:
        loc: m.
        cutpoints: c, ascending, (\*, levels - 1); an element with fewer levels has $\infty$ from
            its last level on.
        low: The smallest level.
    """

    arg_constraints = {  # noqa: RUF012 (torch's own protocol)
        "loc": constraints.real,
        "cutpoints": constraints.independent(constraints.real, 1),
    }

    def __init__(
        self,
        loc: Tensor,
        cutpoints: Tensor,
        low: int | Tensor = 0,
        validate_args: bool | None = None,
    ) -> None:
        self.loc = loc.expand(torch.broadcast_shapes(loc.shape, cutpoints.shape[:-1]))
        self.cutpoints, self.low = cutpoints, low
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Ordinal:
        return Ordinal(self.loc.expand(batch_shape), self.cutpoints, self.low, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        steps = (self.cutpoints < math.inf).sum(-1)
        return constraints.integer_interval(self.low, self.low + steps)

    @property
    def mean(self) -> Tensor:
        return self.low + self._above.sum(-1)

    @property
    def variance(self) -> Tensor:
        # E[(x - c)^2] is a sum of (2 l + 1) P(x > c + l) and of (2 l + 1) P(x < c - l): about the
        # level next to the mean nothing cancels.
        edge = torch.arange(self.cutpoints.shape[-1], dtype=self.loc.dtype, device=self.loc.device)
        mean = self._above.sum(-1, keepdim=True)
        away = edge - mean.round()
        upper = away >= 0
        beyond = torch.where(upper, self._above, self._below)
        square = (torch.where(upper, 2 * away + 1, -2 * away - 1) * beyond).sum(-1)
        shift = (torch.where(upper, 1.0, -1.0) * beyond).sum(-1)
        return square - shift.square()

    @property
    def _above(self) -> Tensor:
        return torch.sigmoid(self.loc[..., None] - self.cutpoints)

    @property
    def _below(self) -> Tensor:
        return torch.sigmoid(self.cutpoints - self.loc[..., None])

    def log_prob(self, value: Tensor) -> Tensor:
        below = functional.pad(self.cutpoints, (1, 0), value=-math.inf)
        edges = functional.pad(below, (0, 1), value=math.inf)
        index, edges = torch.broadcast_tensors((value - self.low).long().unsqueeze(-1), edges)
        lower = edges.gather(-1, index[..., :1]).squeeze(-1)
        upper = edges.gather(-1, index[..., :1] + 1).squeeze(-1)
        # A level beyond the last lies between inf and inf.
        gap = torch.where(lower < upper, upper - lower, 0.0)
        inner = torch.log(-torch.expm1(-gap))
        log_below = functional.logsigmoid(upper - self.loc)
        log_above = functional.logsigmoid(self.loc - lower)
        return log_below + log_above + inner

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            noise = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).logit(eps=0.0)
            passed = ((self.loc + noise)[..., None] > self.cutpoints).sum(-1)
            return self.low + passed.to(self.loc.dtype)
