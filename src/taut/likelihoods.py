r"""Likelihoods $p(x \mid z)$, one class per kind of observation.

Each is a normalised density or mass *of the datum in the user's own units*: standardizing happens inside, and its Jacobian
is in the density because the location and the scale of the distribution are those of the user's data. A raw decoder output
of zero means "like the marginal of the training data" (but for ``ContinuousBernoulli``, where it means uniform), so that
training starts from the baseline.

Each takes the class of a network (or a ``functools.partial`` of one) as ``decoder``, from z (D,) to P parameters of each
element, (P, \*event).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical as CategoricalDistribution
from torch.distributions import Distribution, MixtureSameFamily
from torch.distributions import LogNormal as LogNormalDistribution
from torch.distributions import Normal as NormalDistribution
from torch.nn import functional

from taut import distributions
from taut.missing import Observed
from taut.model import Likelihood
from taut.networks import MLP, NetworkFactory, positive
from taut.types import Context

__all__ = [
    "Bernoulli",
    "Binomial",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "LogNormal",
    "NegativeBinomial",
    "Normal",
    "Ordinal",
    "Poisson",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
]


class Bernoulli(Likelihood):
    r"""Creates $p(x \mid z) = \prod_i \mathrm{Bernoulli}(x_i; \sigma(\ell_i(z)))$ for data that are 0 or 1.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D.
        decoder: Network from z to the logits, (1, \*event).
        context_dim: C.
        log_frequencies: Log-probabilities of 0 and 1 in the training data, (\*event, 2): what raw zero stands for.
    """

    offset: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        log_frequencies: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.event_dims = len(event_shape)
        f = torch.zeros(*event_shape, 2) if log_frequencies is None else log_frequencies
        self.register_buffer("offset", f[..., 1] - f[..., 0])
        self.decoder = decoder((latent_dim,), (1, *event_shape), context_dim)

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        logits = self.decoder(z, context).squeeze(-1 - self.event_dims) + self.offset
        return _independent(distributions.Bernoulli(logits=logits, validate_args=False), self.event_dims, 0.0)


class Categorical(Likelihood):
    r"""Creates $p(x \mid z) = \prod_i \mathrm{Categorical}(x_i; \mathrm{softmax}(\ell_i(z)))$ over the levels low, ..., high.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D.
        low: The smallest level, or that of each element.
        high: The largest level, likewise: an element gives the levels beyond its own exactly zero.
        decoder: Network from z to the logits, (levels, \*event).
        context_dim: C.
        log_frequencies: Log-probabilities of the levels in the training data, (\*event, levels): what raw zero stands for.
    """

    offset: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        low: int | Tensor,
        high: int | Tensor,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        log_frequencies: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.event_dims = len(event_shape)
        self.low, self.high = _range(low, high, event_shape)
        self.register_buffer("offset", _log_frequencies(log_frequencies, self.low, self.high, event_shape))
        self.decoder = decoder((latent_dim,), (self.offset.shape[-1], *event_shape), context_dim)

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        logits = self.decoder(z, context).movedim(-1 - self.event_dims, -1) + self.offset
        return _independent(
            distributions.CategoricalLevels(logits, self.low, self.high, validate_args=False), self.event_dims, self.low
        )


class DiscretizedLogistic(Likelihood):
    r"""Creates a mixture of logistic distributions rounded to the levels low, ..., high, for each element.

    Unlike ``Categorical`` it knows that 7 is close to 8, and its size does not grow with the number of levels.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D.
        low: The smallest level, or that of each element.
        high: The largest level, likewise.
        components: Number of logistic distributions mixed for each element.
        min_scale: Smallest scale, in levels; with 0.01 a level can have all but e^-50 of the mass.
        decoder: Network from z to (loc, raw scale, logit) of each component, (2, \*event) where there is only one.
        context_dim: C.
        data_loc: Mean of the training data, in levels.
        data_scale: Standard deviation of the training data, in levels.

    References: kingma2016, salimans2017.
    """

    data_loc: Tensor
    data_scale: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        low: int | Tensor,
        high: int | Tensor,
        components: int = 1,
        min_scale: float = 0.01,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float = 0.0,
        data_scale: Tensor | float = 1.0,
    ) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"components must be at least 1, not {components}")
        self.event_dims, self.components, self.min_scale = len(event_shape), components, min_scale
        self.low, self.high = _range(low, high, event_shape)
        self.register_buffer("data_loc", _full(data_loc, event_shape))
        self.register_buffer("data_scale", _full(data_scale, event_shape))
        parameters = 2 if components == 1 else 3 * components
        self.decoder = decoder((latent_dim,), (parameters, *event_shape), context_dim)
        # Components that start alike would stay alike: each starts at its own quantile of the data.
        quantiles = (torch.arange(components) + 0.5) / components
        self.register_buffer("start", quantiles.logit(), persistent=False)

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        raw = self.decoder(z, context).movedim(-1 - self.event_dims, -1)
        if self.components == 1:
            return _independent(self._logistic(raw[..., 0], raw[..., 1], ...), self.event_dims, self.low)
        loc, scale, logits = raw.unflatten(-1, (3, -1)).unbind(-2)
        parts = self._logistic(loc + self.start, scale, (..., None))
        mixture = MixtureSameFamily(CategoricalDistribution(logits=logits, validate_args=False), parts, validate_args=False)
        return _independent(mixture, self.event_dims, self.low)

    def _logistic(self, loc: Tensor, raw_scale: Tensor, each: Any) -> Distribution:
        data_loc, data_scale = self.data_loc[each], self.data_scale[each]
        low, high = (end[each] if isinstance(end, Tensor) else end for end in (self.low, self.high))
        # A logistic distribution of scale s has standard deviation s pi / sqrt(3), about 1.8 s: hence the half.
        scale = self.min_scale + 0.5 * data_scale * positive(raw_scale)
        return distributions.DiscretizedLogistic(data_loc + data_scale * loc, scale, low, high, validate_args=False)


class Normal(Likelihood):
    r"""Creates $p(x \mid z) = \prod_i \mathcal{N}(x_i; m_i(z), \sigma_i^2)$ for real numbers.

    The scale is *learned* unless a number fixes it: a squared error with a variance that nobody chose is no likelihood.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D.
        scale: "per_feature" (one learned $\sigma_i$ each), "shared" (one learned $\sigma$), "per_datum" ($\sigma(z)$, decoded)
            or the fixed $\sigma$ itself in the user's units.
        min_scale: Smallest learned scale, as a share of the data's standard deviation: a density has no upper limit.
        decoder: Network from z to m in standardized units, (1, \*event).
        context_dim: C.
        data_loc: Mean of the training data, in the user's units.
        data_scale: Standard deviation of the training data, likewise.

    References: rybkin2021.
    """

    data_loc: Tensor
    data_scale: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        scale: str | float = "per_feature",
        min_scale: float = 1e-4,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float = 0.0,
        data_scale: Tensor | float = 1.0,
    ) -> None:
        super().__init__()
        if isinstance(scale, str) and scale not in ("per_feature", "shared", "per_datum"):
            raise ValueError(f"unknown scale {scale!r}: 'per_feature', 'shared', 'per_datum' or a positive number")
        if not isinstance(scale, str) and not scale > 0:
            raise ValueError(f"scale must be positive, not {scale}")
        self.event_dims, self.scale, self.min_scale = len(event_shape), scale, min_scale
        data_scale = _full(data_scale, event_shape)
        if scale != "per_feature":  # one sigma for all elements has one unit: the pooled one
            data_scale = data_scale.square().mean().sqrt().expand(tuple(event_shape)).clone()
        self.register_buffer("data_loc", _full(data_loc, event_shape))
        self.register_buffer("data_scale", data_scale)
        self.raw_scale: nn.Parameter | None = None
        if scale == "per_feature":
            self.raw_scale = nn.Parameter(torch.zeros(tuple(event_shape)))
        elif scale == "shared":
            self.raw_scale = nn.Parameter(torch.zeros(()))
        # The scale of a whole datum is the mean of one more map of raw scales: it needs no network of its own.
        self.decoder = decoder((latent_dim,), (2 if scale == "per_datum" else 1, *event_shape), context_dim)

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        raw = self.decoder(z, context).movedim(-1 - self.event_dims, 0)
        loc = self.data_loc + self.data_scale * raw[0]
        if not isinstance(self.scale, str):
            scale = torch.full((), float(self.scale), dtype=loc.dtype, device=loc.device)
        elif self.raw_scale is not None:
            scale = self.data_scale * (self.min_scale + positive(self.raw_scale))
        else:
            event = tuple(range(-self.event_dims, 0))
            scale = self.data_scale * (self.min_scale + positive(raw[1].mean(event, keepdim=True)))
        return _independent(NormalDistribution(loc, scale.expand_as(loc), validate_args=False), self.event_dims, self.data_loc)


class ContinuousBernoulli(Likelihood):
    r"""Creates $p(x \mid z) = \prod_i C(\lambda_i) \lambda_i^{x_i} (1 - \lambda_i)^{1 - x_i}$ for reals in [0, 1].

    It is the density that a cross-entropy on grey levels leaves unnormalised.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D.
        decoder: Network from z to the logits of $\lambda$, (1, \*event).
        context_dim: C.

    References: loaiza2019.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        self.event_dims = len(event_shape)
        self.decoder = decoder((latent_dim,), (1, *event_shape), context_dim)

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        logits = self.decoder(z, context).squeeze(-1 - self.event_dims)
        return _independent(distributions.ContinuousBernoulli(logits, validate_args=False), self.event_dims, 0.5)


def _independent(distribution: Distribution, event_dims: int, fill: Tensor | float) -> Distribution:
    """Returns independent elements, of which those that are NaN in a datum drop out; ``fill`` is any value of their support."""
    return Observed(distribution, event_dims, fill)


def _full(value: Tensor | float, event_shape: Sequence[int]) -> Tensor:
    return torch.as_tensor(value, dtype=torch.get_default_dtype()).expand(tuple(event_shape)).clone()


def _range(low: int | Tensor, high: int | Tensor, event_shape: Sequence[int]) -> tuple[int | Tensor, int | Tensor]:
    """Returns the ends of the levels: numbers, or buffers (they follow from the data and so are not stored with the weights)."""
    if not isinstance(low, Tensor) and not isinstance(high, Tensor):
        return int(low), int(high)
    return nn.Buffer(_full(low, event_shape), persistent=False), nn.Buffer(_full(high, event_shape), persistent=False)


def _log_frequencies(given: Tensor | None, low: int | Tensor, high: int | Tensor, event_shape: Sequence[int]) -> Tensor:
    """Returns log-frequencies (*event, levels), all zero where none are given, and -inf beyond the levels of an element."""
    last = torch.as_tensor(high - low)
    level = torch.arange(int(last.max()) + 1)
    frequencies = torch.zeros(*event_shape, len(level)) if given is None else given
    return frequencies.masked_fill(level > last[..., None], -torch.inf)


# A count that training never saw starts at this rate, half a count in 5,000 data: at zero one such count would be impossible.
UNSEEN_RATE = 1e-4


class Poisson(Likelihood):
    r"""Creates $p(x \mid z) = \prod_i \mathrm{Poisson}(x_i; \lambda_i e^{m_i(z)})$ for counts; $\lambda$ is the mean of the data.

    An element whose training data are all zero starts at a rate of 1e-4, half a count in 5,000 data.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D.
        library: Whether rates are proportional to a row's total: the first column of the context is then the logarithm of
            (total of the row / mean total) and is added to the log of each rate.
        decoder: Network from z to m, (1, \*event).
        context_dim: C.
        data_loc: Mean of the training data.
    """

    data_loc: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        library: bool = False,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float = 1.0,
    ) -> None:
        super().__init__()
        _check_library(library, context_dim)
        self.event_dims, self.library = len(event_shape), library
        self.register_buffer("data_loc", _rates(data_loc, event_shape))
        self.decoder = decoder((latent_dim,), (1, *event_shape), context_dim)

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        raw = self.decoder(z, context).squeeze(-1 - self.event_dims)
        log_rate = _log_mean(raw, self.data_loc, context, self.library)
        return _independent(distributions.Poisson(log_rate, validate_args=False), self.event_dims, 0.0)


class _NegativeBinomial(Likelihood):
    """What the two negative binomials share: their constructor, and the distribution without zero inflation."""

    data_loc: Tensor
    maps = 1

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        dispersion: str = "per_feature",
        library: bool = False,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float = 1.0,
        data_scale: Tensor | float = 1.5,
    ) -> None:
        super().__init__()
        if dispersion not in ("per_feature", "per_datum"):
            raise ValueError(f"unknown dispersion {dispersion!r}: 'per_feature' or 'per_datum'")
        _check_library(library, context_dim)
        self.event_dims, self.dispersion, self.library = len(event_shape), dispersion, library
        self.register_buffer("data_loc", _rates(data_loc, event_shape))
        excess = _full(data_scale, event_shape).square() - self.data_loc
        moments = torch.where(excess > 0, self.data_loc.square() / excess, torch.inf)
        self.log_concentration = nn.Parameter(moments.clamp(1e-2, 1e4).log())
        maps = self.maps + (dispersion == "per_datum")
        self.decoder = decoder((latent_dim,), (maps, *event_shape), context_dim)

    def _base(self, raw: Tensor, context: Context | None) -> Distribution:
        log_mean = _log_mean(raw[0], self.data_loc, context, self.library)
        log_concentration = self.log_concentration + raw[-1] if self.dispersion == "per_datum" else self.log_concentration
        return distributions.NegativeBinomial(log_mean, log_concentration, validate_args=False)


class NegativeBinomial(_NegativeBinomial):
    r"""Creates $p(x \mid z) = \prod_i \mathrm{NB}(x_i; \mu_i, r_i)$ for counts that vary more than a Poisson's.

    The mean is $\mu_i = \lambda_i e^{m_i(z)}$ with $\lambda$ the mean of the data, the variance $\mu_i + \mu_i^2 / r_i$. An
    element starts with the r that gives the variance of the data, between 0.01 and 10,000; one whose training data are all zero
    starts at a mean of 1e-4, half a count in 5,000 data.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D.
        dispersion: "per_feature" (one learned $r_i$ each) or "per_datum" ($r_i(z)$, decoded).
        library: Whether means are proportional to a row's total: the first column of the context is then the logarithm of
            (total of the row / mean total) and is added to the log of each mean.
        decoder: Network from z to m, and log r relative to that of the element if decoded, (1 or 2, \*event).
        context_dim: C.
        data_loc: Mean of the training data.
        data_scale: Standard deviation of the training data.
    """

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        raw = self.decoder(z, context).movedim(-1 - self.event_dims, 0)
        return _independent(self._base(raw, context), self.event_dims, 0.0)


class ZeroInflatedNegativeBinomial(_NegativeBinomial):
    r"""Creates $p(x \mid z) = \prod_i \{(1 - \pi_i(z)) \, \mathrm{NB}(x_i; \mu_i, r_i) + \pi_i(z) \, [x_i = 0]\}$ for counts.

    It is ``NegativeBinomial`` with a share $\pi$ of zeros of another origin, which starts at 1%.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D.
        dispersion: "per_feature" (one learned $r_i$ each) or "per_datum" ($r_i(z)$, decoded).
        library: Whether means are proportional to a row's total, as in ``NegativeBinomial``.
        decoder: Network from z to m, the logit of the share relative to 1%, and log r if decoded, (2 or 3, \*event).
        context_dim: C.
        data_loc: Mean of the training data.
        data_scale: Standard deviation of the training data.
    """

    maps = 2

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        raw = self.decoder(z, context).movedim(-1 - self.event_dims, 0)
        logits = raw[1] + math.log(0.01 / 0.99)
        mixed = distributions.ZeroInflated(self._base(raw, context), logits, validate_args=False)
        return _independent(mixed, self.event_dims, 0.0)


class Binomial(Likelihood):
    r"""Creates low + $\mathrm{Binomial}(x_i; n_i, \sigma(\ell_i(z)))$ with n = high - low, for each element.

    An element that never leaves an end of its range in training starts within 1e-4 of it.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D.
        low: The smallest level, or that of each element.
        high: The largest level, likewise.
        decoder: Network from z to the logits, (1, \*event).
        context_dim: C.
        data_loc: Mean of the training data, in levels; the middle of the range if not given.
    """

    offset: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        low: int | Tensor,
        high: int | Tensor,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float | None = None,
    ) -> None:
        super().__init__()
        self.event_dims = len(event_shape)
        self.low, self.high = _range(low, high, event_shape)
        first, last = _full(low, event_shape), _full(high, event_shape)
        loc = (first + last) / 2 if data_loc is None else _full(data_loc, event_shape)
        self.register_buffer("offset", ((loc - first) / (last - first).clamp(min=1)).logit(eps=1e-4))
        self.decoder = decoder((latent_dim,), (1, *event_shape), context_dim)

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        logits = self.decoder(z, context).squeeze(-1 - self.event_dims) + self.offset
        return _independent(distributions.Binomial(logits, self.low, self.high, validate_args=False), self.event_dims, self.low)


class Ordinal(Likelihood):
    r"""Creates $P(x_i \le \mathrm{low} + l \mid z) = \sigma(c_{il} - s_i m_i(z))$ for levels that have an order and no distances.

    The cutpoints c ascend and are learned, and so is the scale s, one for each element. At m = 0 the levels start with the
    frequencies of the training data; one whose frequency is given as zero, after the last that occurs, has no probability at all.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D.
        low: The smallest level, or that of each element.
        high: The largest level, likewise.
        decoder: Network from z to m, (1, \*event).
        context_dim: C.
        log_frequencies: Log-probabilities of the levels in the training data, (\*event, levels).
    """

    present: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        low: int | Tensor,
        high: int | Tensor,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        log_frequencies: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.event_dims = len(event_shape)
        self.low, self.high = _range(low, high, event_shape)
        p = _log_frequencies(log_frequencies, self.low, self.high, event_shape).double().softmax(-1)
        if bool(((p > 0).int().diff(dim=-1) > 0).any()):
            raise ValueError("a level of frequency zero lies below one that occurs: only levels after the last can be absent")
        below, above = p.cumsum(-1)[..., :-1], p.flip(-1).cumsum(-1).flip(-1)[..., 1:]
        cutpoints = below.log() - above.log()
        gaps = cutpoints.diff(dim=-1)
        raw = torch.cat([cutpoints[..., :1], gaps + torch.log(-torch.expm1(-gaps))], -1)  # the inverse of softplus
        self.register_buffer("present", above > 0)
        self.raw_cutpoints = nn.Parameter(raw.masked_fill(~self.present, 0.0).to(torch.get_default_dtype()))
        self.raw_scale = nn.Parameter(torch.zeros(tuple(event_shape)))
        self.decoder = decoder((latent_dim,), (1, *event_shape), context_dim)

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        loc = positive(self.raw_scale) * self.decoder(z, context).squeeze(-1 - self.event_dims)
        first, gaps = self.raw_cutpoints[..., :1], functional.softplus(self.raw_cutpoints[..., 1:])
        cutpoints = torch.where(self.present, torch.cat([first, gaps], -1).cumsum(-1), torch.inf)
        return _independent(distributions.Ordinal(loc, cutpoints, self.low, validate_args=False), self.event_dims, self.low)


class _Scale(nn.Module):
    """The learned scale of a location-scale density, in units of the data's: the same three choices as ``Normal`` has."""

    unit: Tensor

    def __init__(self, choice: str, event_shape: Sequence[int], min_scale: float, data_scale: Tensor | float) -> None:
        super().__init__()
        if choice not in ("per_feature", "shared", "per_datum"):
            raise ValueError(f"unknown scale {choice!r}: 'per_feature', 'shared' or 'per_datum'")
        self.event_dims, self.min_scale = len(event_shape), min_scale
        unit = _full(data_scale, event_shape)
        self.register_buffer("unit", unit if choice == "per_feature" else unit.square().mean().sqrt().expand_as(unit).clone())
        shape = tuple(event_shape) if choice == "per_feature" else ()
        self.raw = None if choice == "per_datum" else nn.Parameter(torch.zeros(shape))

    def forward(self, decoded: Tensor) -> Tensor:
        """Returns the scale, from the last of the maps that were decoded where it is decoded."""
        event = tuple(range(-self.event_dims, 0))
        raw = decoded[-1].mean(event, keepdim=True) if self.raw is None else self.raw
        return self.unit * (self.min_scale + positive(raw))


class LogNormal(Likelihood):
    r"""Creates $p(x \mid z) = \prod_i \mathcal{N}(\log x_i; m_i(z), \sigma_i^2) / x_i$ for positive numbers.

    It is a density of x itself, not of its logarithm: its bound can be compared with that of any other density of x.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D.
        scale: "per_feature" (one learned $\sigma_i$ each), "shared" (one learned $\sigma$) or "per_datum" ($\sigma(z)$, decoded).
        min_scale: Smallest scale, as a share of that of the data: a density has no upper limit.
        decoder: Network from z to m in standardized units, (1 or 2, \*event).
        context_dim: C.
        log_loc: Mean of the logarithm of the training data.
        log_scale: Standard deviation of the logarithm of the training data.
    """

    log_loc: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        scale: str = "per_feature",
        min_scale: float = 1e-4,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        log_loc: Tensor | float = 0.0,
        log_scale: Tensor | float = 1.0,
    ) -> None:
        super().__init__()
        self.event_dims, self.scale, self.min_scale = len(event_shape), scale, min_scale
        self.learned = _Scale(scale, event_shape, min_scale, log_scale)
        self.register_buffer("log_loc", _full(log_loc, event_shape))
        self.decoder = decoder((latent_dim,), (2 if scale == "per_datum" else 1, *event_shape), context_dim)

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        raw = self.decoder(z, context).movedim(-1 - self.event_dims, 0)
        loc = self.log_loc + self.learned.unit * raw[0]
        scale = self.learned(raw).expand_as(loc)
        return _independent(LogNormalDistribution(loc, scale, validate_args=False), self.event_dims, 1.0)


class StudentT(Likelihood):
    r"""Creates $p(x \mid z) = \prod_i t_{\nu_i}((x_i - m_i(z)) / \sigma_i) / \sigma_i$ for real numbers with outliers.

    The degrees of freedom $\nu_i > 2$ are learned, one for each element, and start at 10, with the variance of the data.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D.
        scale: "per_feature" (one learned $\sigma_i$ each), "shared" (one learned $\sigma$) or "per_datum" ($\sigma(z)$, decoded).
        min_scale: Smallest scale, as a share of that of the data: a density has no upper limit.
        decoder: Network from z to m in standardized units, (1 or 2, \*event).
        context_dim: C.
        data_loc: Mean of the training data, in the user's units.
        data_scale: Standard deviation of the training data, likewise.
    """

    data_loc: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        scale: str = "per_feature",
        min_scale: float = 1e-4,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float = 0.0,
        data_scale: Tensor | float = 1.0,
    ) -> None:
        super().__init__()
        self.event_dims, self.scale, self.min_scale = len(event_shape), scale, min_scale
        self.learned = _Scale(scale, event_shape, min_scale, data_scale)
        self.raw_df = nn.Parameter(torch.zeros(tuple(event_shape)))
        self.register_buffer("data_loc", _full(data_loc, event_shape))
        self.decoder = decoder((latent_dim,), (2 if scale == "per_datum" else 1, *event_shape), context_dim)

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        raw = self.decoder(z, context).movedim(-1 - self.event_dims, 0)
        loc = self.data_loc + self.learned.unit * raw[0]
        # A t of 10 degrees of freedom and scale s has the variance s^2 10 / 8.
        scale = math.sqrt(0.8) * self.learned(raw).expand_as(loc)
        df = 2 + 8 * positive(self.raw_df)
        return _independent(distributions.StudentT(df, loc, scale, validate_args=False), self.event_dims, self.data_loc)


def _rates(data_loc: Tensor | float, event_shape: Sequence[int]) -> Tensor:
    loc = _full(data_loc, event_shape)
    return torch.where(loc > 0, loc, UNSEEN_RATE)


def _check_library(library: bool, context_dim: int) -> None:
    if library and context_dim < 1:
        raise ValueError("library=True needs a context: its first column is the log of (total of the row / mean total)")


def _log_mean(raw: Tensor, data_loc: Tensor, context: Context | None, library: bool) -> Tensor:
    log_mean = data_loc.log() + raw
    if not library:
        return log_mean
    if context is None:
        raise ValueError("library=True needs the context: how many counts a datum has in all is not for the model to guess")
    return log_mean + context[:, 0].view(-1, *(1 for _ in data_loc.shape))
