r"""Distributions that torch lacks, or has in a form that is not good enough.

Two over integer levels, a continuous Bernoulli that is normalised everywhere, and a Bernoulli whose log-probability is one pass.

*Levels* are the integers low, ..., high: the 256 values of a grey pixel, the 17 of scikit-learn's digits, a mark from 1 to 5.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Categorical, Distribution, constraints
from torch.nn import functional

__all__ = ["Bernoulli", "CategoricalLevels", "ContinuousBernoulli", "DiscretizedLogistic"]


class Bernoulli(TorchBernoulli):
    r"""Creates torch's Bernoulli with $\log p(x) = -\mathrm{softplus}((1 - 2x) \ell)$: fewer passes, no large differences."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return -functional.softplus((1 - 2 * value) * self.logits, threshold=40.0)  # beyond it exp(-40) is below any rounding

    def expand(self, batch_shape: Any, _instance: Any = None) -> Bernoulli:
        return Bernoulli(logits=self.logits.expand(batch_shape), validate_args=False)


class CategoricalLevels(Categorical):
    r"""Creates a categorical distribution whose outcomes are the integers low, low + 1, ... and so have a mean.

    Args:
        logits: Unnormalised log-probabilities, (\*, levels).
        low: The smallest level.
    """

    def __init__(self, logits: Tensor, low: int, validate_args: bool | None = None) -> None:
        self.low = low
        super().__init__(logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> CategoricalLevels:
        return CategoricalLevels(self.logits.expand(*batch_shape, -1), self.low, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(self.low, self.low + self._num_events - 1)

    @property
    def mean(self) -> Tensor:
        return self.low + self.probs @ self._levels

    @property
    def variance(self) -> Tensor:
        return self.probs @ self._levels.square() - (self.probs @ self._levels).square()

    @property
    def _levels(self) -> Tensor:
        return torch.arange(self._num_events, dtype=self.probs.dtype, device=self.probs.device)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        index, logits = torch.broadcast_tensors((value - self.low).long().unsqueeze(-1), self.logits)
        return logits.gather(-1, index[..., :1]).squeeze(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return (super().sample(sample_shape) + self.low).to(self.logits.dtype)  # type: ignore[no-untyped-call]


class DiscretizedLogistic(Distribution):
    r"""Creates a logistic distribution rounded to the levels low, ..., high; the end levels take the tails.

    With $\sigma$ the logistic function, $a = (x + 1/2 - m) / s$ and $b = (x - 1/2 - m) / s$,

    $$ p(x) = \sigma(a) - \sigma(b) = \sigma(a) \, \sigma(-b) \, (1 - e^{-1/s}), \quad
       p(\mathrm{low}) = \sigma(a), \quad p(\mathrm{high}) = \sigma(-b): $$

    as a product it has no cancellation, hence needs no clamp.

    Args:
        loc: m, in levels.
        scale: s, in levels.
        low: The smallest level.
        high: The largest level.

    References: kingma2016, salimans2017.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, loc: Tensor, scale: Tensor, low: int, high: int, validate_args: bool | None = None) -> None:
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
    def mean(self) -> Tensor:
        # E[x] = low + the sum of P(x > level) over the levels below the last.
        edges = torch.arange(self.low, self.high, dtype=self.loc.dtype, device=self.loc.device) + 0.5
        return self.low + torch.sigmoid((self.loc[..., None] - edges) / self.scale[..., None]).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        upper = (value + 0.5 - self.loc) / self.scale
        lower = (value - 0.5 - self.loc) / self.scale
        log_below = functional.logsigmoid(upper)
        log_above = functional.logsigmoid(-lower)
        inner = log_below + log_above + torch.log(-torch.expm1(-1 / self.scale))
        return torch.where(value <= self.low, log_below, torch.where(value >= self.high, log_above, inner))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            noise = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).logit(eps=0.0)
            return (self.loc + self.scale * noise).round().clamp(self.low, self.high)


class ContinuousBernoulli(Distribution):
    r"""Creates the density $p(x) = e^{l x} \, l / (e^l - 1)$ on [0, 1].

    torch's own clamps the probability inside its normaliser: in float32 it integrates to 0.32 at a logit of 50. Here, with
    $a = |l|$, $\log p(x) = l x - \max(l, 0) + \log (a / (1 - e^{-a}))$, and a series where a is small.

    Args:
        logits: l, any real numbers.

    References: loaiza2019.
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012 (torch's own protocol)
    support = constraints.unit_interval

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ContinuousBernoulli:
        return ContinuousBernoulli(self.logits.expand(batch_shape), validate_args=False)

    @property
    def mean(self) -> Tensor:
        small, l = self._small()
        return torch.where(small, 0.5 + self.logits / 12, 1 / -torch.expm1(-l) - 1 / l)

    def log_prob(self, value: Tensor) -> Tensor:
        small, l = self._small()
        a, size = l.abs(), self.logits.abs()
        log_normalizer = torch.where(small, size / 2 - size**2 / 24, a.log() - torch.log(-torch.expm1(-a)))
        return self.logits * value - functional.relu(self.logits) + log_normalizer

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            small, l = self._small()
            u = torch.rand(shape, dtype=l.dtype, device=l.device)
            a = l.abs()  # the quantile function for -a, mirrored where l is positive
            x = torch.where(small, u, torch.log1p(u * torch.expm1(-a)) / -a)
            return torch.where(l > 0, 1 - x, x)

    def _small(self) -> tuple[Tensor, Tensor]:
        """Returns where the logit is too small for the closed form, and the logits with 1 in those places."""
        small = self.logits.abs() < 0.01  # the next term of the series is below 4e-12
        return small, torch.where(small, 1.0, self.logits)
