"""Distributions over counts 0, 1, 2, ..., accurate from 1 to 2^53."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma, constraints
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn import functional

from taut.system.precision import wide

__all__ = ["Binomial", "Multinomial", "NegativeBinomial", "Poisson", "ZeroInflated"]


LARGEST_COUNT = 2.0**53
POISSON = 80.0  # logarithm of the largest concentration
MANY_COUNTS = 1e8  # from here on, terms of x log x would leave only rounding of a log-probability


class Poisson(Distribution):
    r"""Creates the Poisson distribution over counts with the logarithm of its rate: $\log p(x) = x
    l - e^l - \log x!$.

    torch's own has no gradient where a rate has rounded to zero, and loses a tenth of a nat in
    float32 at 100,000 counts.

    Args:
        log_rate: l.
    """

    arg_constraints = {"log_rate": constraints.real}  # noqa: RUF012 (torch's own protocol)
    support = constraints.nonnegative_integer

    def __init__(self, log_rate: Tensor, validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Poisson:
        return Poisson(self.log_rate.expand(batch_shape), validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.log_rate.exp()

    @property
    def variance(self) -> Tensor:
        return self.mean

    def log_prob(self, value: Tensor) -> Tensor:
        return _count_log_prob(
            value, -self.mean, lambda x, l: x * l - l.exp() - torch.lgamma(x + 1), self.log_rate
        )

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return _poisson(self.mean.expand(self._extended_shape(sample_shape)))


class NegativeBinomial(Distribution):
    r"""Creates the negative binomial distribution over counts with mean $\mu$ and variance $\mu +
    \mu^2 / r$.

    With $d = \log \mu - \log r$,

    $$ \log p(x) = \log \frac{\Gamma(x + r)}{\Gamma(r) \, r^x} - \log x!
       + x \log \mu - (x + r) \, \mathrm{softplus}(d). $$

    Beyond $r = e^{80}$ it is the Poisson distribution for all counts that floats hold, and r, of
    which float32 has no more than $e^{88}$, grows no more. From r = 10,000 on the first term is
    Stirling's $(x + r - 1/2) \log(1 + x / r) - x - x / (12 r (x + r))$, exact to 1e-14: the
    difference of two logarithms of the gamma function would be all rounding, and so r can go to
    the Poisson limit.

    Args:
        log_mean: $\log \mu$.
        log_concentration: $\log r$, the inverse dispersion.
    """

    arg_constraints = {"log_mean": constraints.real, "log_concentration": constraints.real}  # noqa: RUF012
    support = constraints.nonnegative_integer

    def __init__(
        self, log_mean: Tensor, log_concentration: Tensor, validate_args: bool | None = None
    ) -> None:
        log_concentration = log_concentration.clamp(max=POISSON)
        self.log_mean, self.log_concentration = torch.broadcast_tensors(log_mean, log_concentration)
        super().__init__(self.log_mean.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> NegativeBinomial:
        log_mean = self.log_mean.expand(batch_shape)
        log_concentration = self.log_concentration.expand(batch_shape)
        return NegativeBinomial(log_mean, log_concentration, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.log_mean.exp()

    @property
    def variance(self) -> Tensor:
        return self.mean + (2 * self.log_mean - self.log_concentration).exp()

    def log_prob(self, value: Tensor) -> Tensor:
        d = self.log_mean - self.log_concentration
        at_zero = -self.log_concentration.exp() * functional.softplus(d, threshold=40.0)
        return _count_log_prob(
            value, at_zero, _negative_binomial, self.log_mean, self.log_concentration
        )

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            # a share of e^-90 is zero in float32, and its inverse infinite
            log_mean, log_r = wide(self.log_mean), wide(self.log_concentration)
            share = Gamma(log_r.exp(), 1.0, validate_args=False).sample(sample_shape)
            return _poisson(share * (log_mean - log_r).exp()).to(self.log_mean)


def _poisson(rate: Tensor) -> Tensor:
    """Returns Poisson draws; 2^53 for rates beyond it, where floats cannot count and a draw would
    wrap around.
    """
    drawn = torch.poisson(rate.clamp(max=LARGEST_COUNT).nan_to_num(LARGEST_COUNT))
    return torch.where(rate < LARGEST_COUNT, drawn, LARGEST_COUNT)


def _negative_binomial(x: Tensor, log_mean: Tensor, log_r: Tensor) -> Tensor:
    r = log_r.exp()
    if get_proxy_mode() is None and bool((x > MANY_COUNTS).any()):
        few = x <= MANY_COUNTS
        of_few = _negative_binomial(torch.where(few, x, 1.0), log_mean, log_r)
        return torch.where(few, of_few, _saddle(x, log_mean.exp(), r))
    exact = torch.lgamma(x + r) - torch.lgamma(r) - x * log_r
    stirling = (x + r - 0.5) * torch.log1p(x / r) - x - x / (12 * r * (x + r))
    rising = torch.where(r < 1e4, exact, stirling)
    softplus = functional.softplus(log_mean - log_r, threshold=40.0)
    return rising - torch.lgamma(x + 1) + x * log_mean - (x + r) * softplus


def _saddle(x: Tensor, mean: Tensor, r: Tensor) -> Tensor:
    r"""Returns the same for large counts by Loader's expansion, in which no terms cancel: accurate
    at any x that a float64 holds.

    With $n = x + r$, $p = r / (\mu + r)$, $q = 1 - p$ and $D(a) = (1 + a) \log (1 + a) - a$,

    $$ \log p(x) = \log (r / n) + \delta(n) - \delta(r) - \delta(x) - n p \, D(a_r)
       - n q \, D(a_x) - \tfrac12 \log (2 \pi r x / n), $$

    where $n p (1 + a_r) = r$, $n q (1 + a_x) = x$, and $\delta$ is the error of Stirling's formula.
    """
    n, total = x + r, mean + r
    far_r, far_x = (mean - x) / n, (x - mean) * r / (n * mean)
    deviance = n * r / total * _deviance(far_r) + n * mean / total * _deviance(far_x)
    series = _stirling_error(n) - _stirling_error(r) - _stirling_error(x)
    return (r / n).log() + series - deviance - 0.5 * (2 * math.pi * r * x / n).log()


def _deviance(a: Tensor) -> Tensor:
    """Returns (1 + a) log(1 + a) - a, without cancellation where a is small."""
    small = a.abs() < 1e-3
    series = a.square() * (0.5 - a * (1 / 6 - a * (1 / 12 - a * (1 / 20 - a / 30))))
    return torch.where(small, series, (1 + a) * torch.log1p(a) - a)


def _stirling_error(x: Tensor) -> Tensor:
    r"""Returns $\log \Gamma(x + 1) - (x + 1/2) \log x + x - \log (2 \pi) / 2$."""
    large = x.clamp(min=15.0)
    square = large.square()
    series = (1 / 12 - (1 / 360 - (1 / 1260 - 1 / 1680 / square) / square) / square) / large
    plain = torch.lgamma(x + 1) - (x + 0.5) * x.log() + x - 0.5 * math.log(2 * math.pi)
    return torch.where(x < 15, plain, series)


def _count_log_prob(
    value: Tensor, at_zero: Tensor, log_mass: Callable[..., Tensor], *parameters: Tensor
) -> Tensor:
    """Returns ``at_zero`` for counts of zero, and ``log_mass(count, *parameters)`` for others,
    computed in float64.

    In data of many counts most are zero. They need neither the precision (terms of a hundred
    thousand that cancel to a few nats) nor the logarithms of the gamma function.
    """
    shape = torch.broadcast_shapes(value.shape, at_zero.shape)
    index = value.expand(shape).reshape(-1).nonzero().squeeze(-1)
    taken = (wide(t.expand(shape).reshape(-1).index_select(0, index)) for t in (value, *parameters))
    log_p = at_zero.expand(shape).reshape(-1)
    return log_p.index_copy(0, index, log_mass(*taken).to(at_zero)).view(shape)


class ZeroInflated(Distribution):
    r"""Creates a distribution over counts that is 0 with a share $\pi = \sigma(g)$, and otherwise
    follows another.

    $$ p(x) = (1 - \pi) \, p_0(x) + \pi \, [x = 0], \quad \log (1 - \pi) = -\mathrm{softplus}(g). $$

    Args:
        base: $p_0$, a distribution over counts that has a mean and a variance.
        logits: g, of the shape of the base.
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012 (torch's own protocol)
    support = constraints.nonnegative_integer

    def __init__(
        self, base: Distribution, logits: Tensor, validate_args: bool | None = None
    ) -> None:
        self.base, self.logits = base, logits
        super().__init__(base.batch_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ZeroInflated:
        base, logits = self.base.expand(batch_shape), self.logits.expand(batch_shape)
        return ZeroInflated(base, logits, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(-self.logits) * self.base.mean

    @property
    def variance(self) -> Tensor:
        between = torch.sigmoid(self.logits) * self.base.mean.square()
        return torch.sigmoid(-self.logits) * (self.base.variance + between)

    def log_prob(self, value: Tensor) -> Tensor:
        base = self.base.log_prob(value)
        mixed = torch.where(value == 0, torch.logaddexp(self.logits, base), base)
        return mixed - functional.softplus(self.logits, threshold=40.0)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            x = self.base.sample(sample_shape)
            return torch.where(torch.rand_like(x) < torch.sigmoid(self.logits), 0.0, x)


class Binomial(Distribution):
    r"""Creates low + a binomial distribution of high - low trials, over the levels low, ..., high.

    It is computed in float64: terms of ten thousands cancel to a few nats where there are many
    levels.

    Args:
        logits: Log-odds of one trial.
        low: The smallest level.
        high: The largest level.
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012 (torch's own protocol)

    def __init__(
        self,
        logits: Tensor,
        low: int | Tensor,
        high: int | Tensor,
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.low, self.high = logits, low, high
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Binomial:
        return Binomial(self.logits.expand(batch_shape), self.low, self.high, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(self.low, self.high)

    @property
    def mean(self) -> Tensor:
        return self.low + (self.high - self.low) * torch.sigmoid(self.logits)

    @property
    def variance(self) -> Tensor:
        return (self.high - self.low) * torch.sigmoid(self.logits) * torch.sigmoid(-self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        n = wide(torch.as_tensor(self.high - self.low, device=value.device))
        k, logits = wide(value - self.low), wide(self.logits)
        choices = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
        log_p = choices + k * logits - n * functional.softplus(logits, threshold=40.0)
        return log_p.to(self.logits)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            logits = self.logits
            n = torch.as_tensor(self.high - self.low, dtype=logits.dtype, device=logits.device)
            # of 65,535 trials some fail where float32 knows p to 6e-8 only
            p = torch.sigmoid(wide(logits)).expand(shape)
            return self.low + torch.binomial(wide(n).expand(shape), p).to(logits)


class Multinomial(Distribution):
    r"""Creates the multinomial distribution of counts given their total n.

    With probabilities $p = \mathrm{softmax}(l)$,

    $$ \log p(x) = \log n! - \sum_i \log x_i! + \sum_i x_i \log p_i. $$

    n is that of the counts themselves. Where some are missing (NaN) it is the one that was given,
    and those missing are one class together, which has the rest. It is computed in float64, since
    terms of millions cancel to a few hundred nats.

    Args:
        logits: l, (\*, \*event).
        total: n where it does not follow from the counts, (\*).
        event_dims: Number of axes of a data point.
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, logits: Tensor, total: Tensor, event_dims: int) -> None:
        split = logits.ndim - event_dims
        self.logits, self.total = logits, total.expand(logits.shape[:split])
        super().__init__(logits.shape[:split], logits.shape[split:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Multinomial:
        batch, event = torch.Size(batch_shape), self.event_shape
        return Multinomial(self.logits.expand(batch + event), self.total.expand(batch), len(event))

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.nonnegative_integer, len(self.event_shape))

    @property
    def _flat(self) -> Tensor:
        return self.logits.reshape(*self.batch_shape, -1)

    @property
    def mean(self) -> Tensor:
        share = self._flat.softmax(-1)
        return (self.total[..., None] * share).view(self.logits.shape)

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self._flat.softmax(-1).view(self.logits.shape))

    def log_prob(self, value: Tensor) -> Tensor:
        x = wide(value.reshape(*value.shape[: value.ndim - len(self.event_shape)], -1))
        missing = x.isnan()
        x = torch.where(missing, 0.0, x)
        log_p = wide(self._flat).log_softmax(-1)
        seen = x.sum(-1)
        rest = torch.where(missing.any(-1), wide(self.total) - seen, 0.0)
        of_rest = torch.where(missing, log_p, -torch.inf).logsumexp(-1)
        of_rest = torch.where(rest > 0, of_rest, 0.0)  # of nothing missing it is minus infinity
        never = ((x < 0) | (x != x.round())).any(-1) | (rest < 0)
        x, rest = x.clamp(min=0), rest.clamp(min=0)
        choices = torch.lgamma(seen + rest + 1) - torch.lgamma(rest + 1)
        choices = choices - torch.lgamma(x + 1).sum(-1)
        total = choices + (x * log_p).sum(-1) + rest * of_rest
        return torch.where(never, -torch.inf, total).to(self.logits)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws the counts of halves, of halves of them and so on: few steps for many counts."""
        with torch.no_grad():
            share = wide(self._flat).softmax(-1)
            size = share.shape[-1]
            levels = [functional.pad(share, (0, 2 ** (size - 1).bit_length() - size))]
            while levels[-1].shape[-1] > 1:
                levels.append(levels[-1].unflatten(-1, (-1, 2)).sum(-1))
            shape = self._extended_shape(sample_shape)
            drawn = wide(self.total).expand(shape[: len(shape) - len(self.event_shape)])[..., None]
            for below, above in zip(levels[-2::-1], levels[:0:-1], strict=True):
                left = (below[..., ::2] / above).nan_to_num(0.0).clamp(0.0, 1.0)
                first = torch.binomial(drawn.contiguous(), left.expand(drawn.shape).contiguous())
                drawn = torch.stack([first, drawn - first], -1).flatten(-2)
            return drawn[..., :size].reshape(shape).to(self.logits)
