r"""Distributions that torch lacks, or has in a form that is not good enough.

Four over integer levels, three over counts, a continuous Bernoulli that is normalised everywhere, a Student t that stays right
for large degrees of freedom, a log-normal density that is not zero below zero, and a Bernoulli whose log-probability is one pass.

*Levels* are the integers low, ..., high: the 256 values of a grey pixel, the 17 of scikit-learn's digits, a mark from 1 to 5.
Low and high are numbers, or tensors that give each element its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Categorical, Chi2, Distribution, Gamma, constraints
from torch.distributions import LogNormal as TorchLogNormal
from torch.distributions import StudentT as TorchStudentT
from torch.nn import functional

from taut.precision import wide

__all__ = [
    "OUTSIDE",
    "Bernoulli",
    "Binomial",
    "CategoricalLevels",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "LogNormal",
    "NegativeBinomial",
    "Ordinal",
    "Poisson",
    "StudentT",
    "ZeroInflated",
]

OUTSIDE = 2.0**-24
"""Share of the mass that is kept for what training never saw: below the rounding of float32, enough for a finite log p(x).

Integers and a range that were seen in training are not a law: tomorrow's rows may hold a half, or a value beyond. With exact
zeros, one such value would make the mean of log p(x) over a test set minus infinity.
"""


class Bernoulli(TorchBernoulli):
    r"""Creates torch's Bernoulli with $\log p(x) = -\mathrm{softplus}((1 - 2x) \ell)$: fewer passes, no large differences."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        wrong = (1 - 2 * value) * self.logits
        if wrong.requires_grad:
            return -functional.softplus(wrong, threshold=40.0)  # beyond it exp(-40) is below any rounding
        # In place: evaluations of log p(x) spend much of theirs here, and a new tensor of a megabyte costs more than filling it.
        return torch.ops.aten.softplus.out(wrong, 1, 40.0, out=wrong).neg_()

    def expand(self, batch_shape: Any, _instance: Any = None) -> Bernoulli:
        return Bernoulli(logits=self.logits.expand(batch_shape), validate_args=False)


class CategoricalLevels(Categorical):
    r"""Creates a categorical distribution whose outcomes are the integers low, low + 1, ... and so have a mean.

    Args:
        logits: Unnormalised log-probabilities, (\*, levels).
        low: The smallest level.
        high: The largest level where an element has fewer than there are logits; those beyond it must be -inf.
    """

    def __init__(
        self, logits: Tensor, low: int | Tensor, high: int | Tensor | None = None, validate_args: bool | None = None
    ) -> None:
        self.low, self.high = low, low + logits.shape[-1] - 1 if high is None else high
        super().__init__(logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> CategoricalLevels:
        return CategoricalLevels(self.logits.expand(*batch_shape, -1), self.low, self.high, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(self.low, self.high)

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

    With $\sigma$ the logistic function, $a = (x + 1/2 - m) / s$, $b = (x - 1/2 - m) / s$ and $\epsilon = 2^{-24}$,

    $$ p(x) = \sigma(a) - \sigma(b) = \sigma(a) \, \sigma(-b) \, (1 - e^{-1/s}), \quad
       p(\mathrm{low}) = (1 - \epsilon) \, \sigma(a), \quad p(\mathrm{high}) = (1 - \epsilon) \, \sigma(-b): $$

    as a product it has no cancellation, hence needs no clamp. The rest of each tail lies beyond its end, a distance d away with
    the share $4 / (d (d + 1) (d + 2))$. All of this has the share $1 - \epsilon$; with the share $\epsilon$ x is such an integer
    plus uniform noise between -1/2 and 1/2, a density. So any number is possible, if improbable. Samples are levels.

    Args:
        loc: m, in levels.
        scale: s, in levels.
        low: The smallest level.
        high: The largest level; an element whose only level is low has all its mass there.

    References: kingma2016, salimans2017.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012 (torch's own protocol)

    def __init__(
        self, loc: Tensor, scale: Tensor, low: int | Tensor, high: int | Tensor, validate_args: bool | None = None
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
        """Where its mass or density is not zero: wider than the support, which is what it is for."""
        return constraints.real

    @property
    def mean(self) -> Tensor:
        # E[x] = low + the sum of P(x > level) over the levels below the last.
        low, high = (
            torch.as_tensor(end, dtype=self.loc.dtype, device=self.loc.device)[..., None] for end in (self.low, self.high)
        )
        edges = low + torch.arange(int((high - low).max()), dtype=self.loc.dtype, device=self.loc.device) + 0.5
        above = torch.sigmoid((self.loc[..., None] - edges) / self.scale[..., None])
        return self.low + torch.where(edges < high, above, 0.0).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        whole: Any = value.round()
        share = torch.where(value == whole, 1 - OUTSIDE, OUTSIDE).to(value)
        inside = whole.clamp(self.low, self.high)
        distance = (whole - inside).abs()
        beyond = math.log(4 * OUTSIDE) - (distance * (distance + 1) * (distance + 2)).log()
        rest = 1 - OUTSIDE * ((inside == self.low).to(value) + (inside == self.high))  # a single level has both tails
        ends = torch.where(distance > 0, beyond, rest.log()) + share.log()
        upper = (inside + 0.5 - self.loc) / self.scale
        lower = (inside - 0.5 - self.loc) / self.scale
        log_below = torch.where(inside >= self.high, 0.0, functional.logsigmoid(upper))
        log_above = torch.where(inside <= self.low, 0.0, functional.logsigmoid(-lower))
        inner = (inside > self.low) & (inside < self.high)
        return log_below + log_above + torch.where(inner, torch.log(-share * torch.expm1(-1 / self.scale)), ends)

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


class LogNormal(TorchLogNormal):
    r"""Creates torch's log-normal density with the share $\epsilon = 2^{-24}$ of its mass at and below zero.

    Where training saw positive numbers only, a zero of tomorrow is improbable and not impossible. With u = -x and the median
    $e^m$, the density there is $\epsilon \cdot 2 e^{-m} (1 + u e^{-m})^{-3}$. Samples stay above zero.

    Args:
        loc: m, the mean of log x.
        scale: Standard deviation of log x.
    """

    reach = constraints.real
    """Where its density is not zero: wider than the support, which is what it is for."""

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogNormal:
        return LogNormal(self.loc.expand(batch_shape), self.scale.expand(batch_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        above = value > 0
        log_x = torch.where(above, value, 1.0).log()
        y = (log_x - self.loc) / self.scale
        density = math.log1p(-OUTSIDE) - 0.5 * math.log(2 * math.pi) - 0.5 * y.square() - self.scale.log() - log_x
        beyond = math.log(2 * OUTSIDE) - self.loc - 3 * functional.softplus((-value).clamp(min=0).log() - self.loc)
        return torch.where(above, density, beyond)


class Poisson(Distribution):
    r"""Creates the Poisson distribution over counts with the logarithm of its rate: $\log p(x) = x l - e^l - \log x!$.

    torch's own has no gradient where a rate has rounded to zero, and loses a tenth of a nat in float32 at 100,000 counts.

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
        return _count_log_prob(value, -self.mean, lambda x, l: x * l - l.exp() - torch.lgamma(x + 1), self.log_rate)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return torch.poisson(self.mean.expand(self._extended_shape(sample_shape)))


class NegativeBinomial(Distribution):
    r"""Creates the negative binomial distribution over counts with mean $\mu$ and variance $\mu + \mu^2 / r$.

    With $d = \log \mu - \log r$,

    $$ \log p(x) = \log \frac{\Gamma(x + r)}{\Gamma(r) \, r^x} - \log x! + x \log \mu - (x + r) \, \mathrm{softplus}(d). $$

    From r = 10,000 on the first term is Stirling's $(x + r - 1/2) \log(1 + x / r) - x - x / (12 r (x + r))$, exact to 1e-14:
    the difference of two logarithms of the gamma function would be all rounding, and so r can go to the Poisson limit.

    Args:
        log_mean: $\log \mu$.
        log_concentration: $\log r$, the inverse dispersion.
    """

    arg_constraints = {"log_mean": constraints.real, "log_concentration": constraints.real}  # noqa: RUF012
    support = constraints.nonnegative_integer

    def __init__(self, log_mean: Tensor, log_concentration: Tensor, validate_args: bool | None = None) -> None:
        self.log_mean, self.log_concentration = torch.broadcast_tensors(log_mean, log_concentration)
        super().__init__(self.log_mean.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> NegativeBinomial:
        log_mean, log_concentration = self.log_mean.expand(batch_shape), self.log_concentration.expand(batch_shape)
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
        return _count_log_prob(value, at_zero, _negative_binomial, self.log_mean, self.log_concentration)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            share = Gamma(self.log_concentration.exp(), 1.0, validate_args=False).sample(sample_shape)
            return torch.poisson(share * (self.log_mean - self.log_concentration).exp())


def _negative_binomial(x: Tensor, log_mean: Tensor, log_r: Tensor) -> Tensor:
    r = log_r.exp()
    exact = torch.lgamma(x + r) - torch.lgamma(r) - x * log_r
    stirling = (x + r - 0.5) * torch.log1p(x / r) - x - x / (12 * r * (x + r))
    rising = torch.where(r < 1e4, exact, stirling)
    return rising - torch.lgamma(x + 1) + x * log_mean - (x + r) * functional.softplus(log_mean - log_r, threshold=40.0)


def _count_log_prob(value: Tensor, at_zero: Tensor, log_mass: Callable[..., Tensor], *parameters: Tensor) -> Tensor:
    """Returns ``at_zero`` where the count is zero, and ``log_mass(count, *parameters)`` elsewhere, computed in float64.

    Most counts are zero in the data that have many, and there neither of the two costs applies: terms of a hundred thousand that
    cancel to a few nats, and logarithms of the gamma function.
    """
    shape = torch.broadcast_shapes(value.shape, at_zero.shape)
    index = value.expand(shape).reshape(-1).nonzero().squeeze(-1)
    taken = (wide(t.expand(shape).reshape(-1).index_select(0, index)) for t in (value, *parameters))
    return at_zero.expand(shape).reshape(-1).index_copy(0, index, log_mass(*taken).to(at_zero)).view(shape)


class ZeroInflated(Distribution):
    r"""Creates a distribution over counts that is 0 with a share $\pi = \sigma(g)$, and otherwise follows another.

    $$ p(x) = (1 - \pi) \, p_0(x) + \pi \, [x = 0], \quad \log (1 - \pi) = -\mathrm{softplus}(g). $$

    Args:
        base: $p_0$, a distribution over counts that has a mean and a variance.
        logits: g, of the shape of the base.
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012 (torch's own protocol)
    support = constraints.nonnegative_integer

    def __init__(self, base: Distribution, logits: Tensor, validate_args: bool | None = None) -> None:
        self.base, self.logits = base, logits
        super().__init__(base.batch_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ZeroInflated:
        return ZeroInflated(self.base.expand(batch_shape), self.logits.expand(batch_shape), validate_args=False)

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(-self.logits) * self.base.mean

    @property
    def variance(self) -> Tensor:
        return torch.sigmoid(-self.logits) * (self.base.variance + torch.sigmoid(self.logits) * self.base.mean.square())

    def log_prob(self, value: Tensor) -> Tensor:
        base = self.base.log_prob(value)
        mixed = torch.where(value == 0, torch.logaddexp(self.logits, base), base)
        return mixed - functional.softplus(self.logits, threshold=40.0)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            x = self.base.sample(sample_shape)
            return torch.where(torch.rand_like(x) < torch.sigmoid(self.logits), 0.0, x)


class Ordinal(Distribution):
    r"""Creates a distribution over ordered levels low, low + 1, ... with $P(x \le \mathrm{low} + l) = \sigma(c_l - m)$.

    With $c_{-1} = -\infty$, and $c = \infty$ after the last level,

    $$ p(\mathrm{low} + l) = \sigma(c_l - m) - \sigma(c_{l-1} - m)
       = \sigma(c_l - m) \, \sigma(m - c_{l-1}) \, (1 - e^{c_{l-1} - c_l}). $$

    Args:
        loc: m.
        cutpoints: c, ascending, (\*, levels - 1); an element with fewer levels has $\infty$ from its last level on.
        low: The smallest level.
    """

    arg_constraints = {"loc": constraints.real, "cutpoints": constraints.independent(constraints.real, 1)}  # noqa: RUF012

    def __init__(self, loc: Tensor, cutpoints: Tensor, low: int | Tensor = 0, validate_args: bool | None = None) -> None:
        self.loc = loc.expand(torch.broadcast_shapes(loc.shape, cutpoints.shape[:-1]))
        self.cutpoints, self.low = cutpoints, low
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Ordinal:
        return Ordinal(self.loc.expand(batch_shape), self.cutpoints, self.low, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(self.low, self.low + (self.cutpoints < math.inf).sum(-1))

    @property
    def mean(self) -> Tensor:
        return self.low + self._above.sum(-1)

    @property
    def variance(self) -> Tensor:
        # E[l^2] is the sum of (2 l + 1) P(x > low + l).
        odd = 2 * torch.arange(self.cutpoints.shape[-1], dtype=self.loc.dtype, device=self.loc.device) + 1
        return self._above @ odd - self._above.sum(-1).square()

    @property
    def _above(self) -> Tensor:
        return torch.sigmoid(self.loc[..., None] - self.cutpoints)

    def log_prob(self, value: Tensor) -> Tensor:
        edges = functional.pad(functional.pad(self.cutpoints, (1, 0), value=-math.inf), (0, 1), value=math.inf)
        index, edges = torch.broadcast_tensors((value - self.low).long().unsqueeze(-1), edges)
        lower, upper = edges.gather(-1, index[..., :1]).squeeze(-1), edges.gather(-1, index[..., :1] + 1).squeeze(-1)
        gap = torch.where(lower < upper, upper - lower, 0.0)  # a level beyond the last lies between inf and inf
        inner = torch.log(-torch.expm1(-gap))
        return functional.logsigmoid(upper - self.loc) + functional.logsigmoid(self.loc - lower) + inner

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            noise = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).logit(eps=0.0)
            return self.low + ((self.loc + noise)[..., None] > self.cutpoints).sum(-1).to(self.loc.dtype)


class Binomial(Distribution):
    r"""Creates low + a binomial distribution of high - low trials, over the levels low, ..., high.

    It is computed in float64: terms of ten thousands cancel to a few nats where there are many levels.

    Args:
        logits: Log-odds of one trial.
        low: The smallest level.
        high: The largest level.
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, logits: Tensor, low: int | Tensor, high: int | Tensor, validate_args: bool | None = None) -> None:
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
        return (choices + k * logits - n * functional.softplus(logits, threshold=40.0)).to(self.logits)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            n = torch.as_tensor(self.high - self.low, dtype=self.logits.dtype, device=self.logits.device)
            return self.low + torch.binomial(n.expand(shape), torch.sigmoid(self.logits).expand(shape))


class StudentT(TorchStudentT):
    r"""Creates torch's Student t with its normaliser in float64, once for each element.

    $\log \Gamma((\nu + 1) / 2) - \log \Gamma(\nu / 2)$ is the difference of two large numbers where $\nu$ is large: in float32
    torch's density is off by 0.005 nats an element at $\nu = 10^4$ and by 0.9 at $10^8$: something to be learned.

    Args:
        df: $\nu$, degrees of freedom.
        loc: Location.
        scale: Scale; the standard deviation is $\sqrt{\nu / (\nu - 2)}$ times as large.
    """

    def __init__(self, df: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self._each_df = df  # torch's df is expanded to the whole batch
        self.df, self.loc, self.scale = torch.broadcast_tensors(df, loc, scale)
        self._chi2 = Chi2(self.df, validate_args=False)  # torch's own would check it in every step
        Distribution.__init__(self, self.df.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> StudentT:
        return StudentT(self._each_df, self.loc.expand(batch_shape), self.scale.expand(batch_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        df, half = self._each_df, wide(self._each_df) / 2
        log_normalizer = torch.lgamma(half + 0.5) - torch.lgamma(half) - 0.5 * torch.log(2 * math.pi * half)
        y = (value - self.loc) / self.scale
        return log_normalizer.to(y) - self.scale.log() - (df + 1) / 2 * torch.log1p(y.square() / df)
