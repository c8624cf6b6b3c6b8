r"""Likelihoods $p(x \mid z)$, one class per kind of observation.

Each is a normalised density or mass *of the datum in the user's own units*: standardizing happens inside, and its Jacobian
is in the density because the location and the scale of the distribution are those of the user's data. A raw decoder output
of zero means "like the marginal of the training data" (but for ``ContinuousBernoulli``, where it means uniform), so that
training starts from the baseline.

Each takes the class of a network (or a ``functools.partial`` of one) as ``decoder``, from z (D,) to P parameters of each
element, (P, \*event).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Categorical as CategoricalDistribution
from torch.distributions import Distribution, Independent, MixtureSameFamily
from torch.distributions import Normal as NormalDistribution

from taut import distributions
from taut.model import Likelihood
from taut.networks import MLP, NetworkFactory, positive
from taut.types import Context

__all__ = ["Bernoulli", "Categorical", "ContinuousBernoulli", "DiscretizedLogistic", "Normal"]


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
        return _independent(distributions.Bernoulli(logits=logits, validate_args=False), self.event_dims)


class Categorical(Likelihood):
    r"""Creates $p(x \mid z) = \prod_i \mathrm{Categorical}(x_i; \mathrm{softmax}(\ell_i(z)))$ over the levels low, ..., high.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D.
        low: The smallest level.
        high: The largest level.
        decoder: Network from z to the logits, (levels, \*event).
        context_dim: C.
        log_frequencies: Log-probabilities of the levels in the training data, (\*event, levels): what raw zero stands for.
    """

    offset: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        low: int,
        high: int,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        log_frequencies: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.event_dims, self.low = len(event_shape), int(low)
        levels = int(high) - self.low + 1
        zeros = torch.zeros(*event_shape, levels)
        self.register_buffer("offset", zeros if log_frequencies is None else log_frequencies.clone())
        self.decoder = decoder((latent_dim,), (levels, *event_shape), context_dim)

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        logits = self.decoder(z, context).movedim(-1 - self.event_dims, -1) + self.offset
        return _independent(distributions.CategoricalLevels(logits, self.low, validate_args=False), self.event_dims)


class DiscretizedLogistic(Likelihood):
    r"""Creates a mixture of logistic distributions rounded to the levels low, ..., high, for each element.

    Unlike ``Categorical`` it knows that 7 is close to 8, and its size does not grow with the number of levels.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D.
        low: The smallest level.
        high: The largest level.
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
        low: int,
        high: int,
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
        self.event_dims, self.low, self.high = len(event_shape), int(low), int(high)
        self.components, self.min_scale = components, min_scale
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
            loc, scale = raw.unbind(-1)
            return _independent(self._logistic(loc, scale, self.data_loc, self.data_scale), self.event_dims)
        loc, scale, logits = raw.unflatten(-1, (3, -1)).unbind(-2)
        parts = self._logistic(loc + self.start, scale, self.data_loc[..., None], self.data_scale[..., None])
        mixture = MixtureSameFamily(CategoricalDistribution(logits=logits, validate_args=False), parts, validate_args=False)
        return _independent(mixture, self.event_dims)

    def _logistic(self, loc: Tensor, raw_scale: Tensor, data_loc: Tensor, data_scale: Tensor) -> Distribution:
        # A logistic distribution of scale s has standard deviation s pi / sqrt(3), about 1.8 s: hence the half.
        scale = self.min_scale + 0.5 * data_scale * positive(raw_scale)
        return distributions.DiscretizedLogistic(data_loc + data_scale * loc, scale, self.low, self.high, validate_args=False)


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
        return _independent(NormalDistribution(loc, scale.expand_as(loc), validate_args=False), self.event_dims)


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
        return _independent(distributions.ContinuousBernoulli(logits, validate_args=False), self.event_dims)


def _independent(distribution: Distribution, event_dims: int) -> Distribution:
    return Independent(distribution, event_dims, validate_args=False)


def _full(value: Tensor | float, event_shape: Sequence[int]) -> Tensor:
    return torch.as_tensor(value, dtype=torch.get_default_dtype()).expand(tuple(event_shape)).clone()
