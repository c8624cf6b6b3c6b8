"""Likelihoods of real numbers: densities in the user's own units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions import Normal as NormalDistribution

from taut import distributions
from taut.distributions.observed import Observed
from taut.likelihoods.common import LocationScale, Scale, raw_scale
from taut.model import Likelihood
from taut.networks import MLP, NetworkFactory, inverse_positive, positive
from taut.types import Context

__all__ = ["ContinuousBernoulli", "LogNormal", "Normal", "StudentT"]

NEARLY_NORMAL = 100.0  # degrees of freedom that a Student t has where it starts as a Normal


class Normal(LocationScale):
    r"""Creates $p(x \mid z) = \prod_i \mathcal{N}(x_i; m_i(z), \sigma_i^2)$ for real numbers.

    The scale is *learned* unless a number fixes it: a squared error with a variance that nobody
    chose is not a likelihood. Its arguments are those of ``LocationScale``, but that ``scale`` can
    also be the fixed $\sigma$ itself, in the user's units.

    Raises:
        ValueError: ``scale`` is an unknown word, or a number that is not positive.

    References: rybkin2021.
    """

    data_scale: Tensor

    def learn_scale(self, event_shape: Sequence[int], data_scale: Tensor | float) -> None:
        fixed = not isinstance(self.scale, str)
        if fixed and not float(self.scale) > 0:
            raise ValueError(f"scale must be positive, not {self.scale}")
        try:
            learned = Scale("shared" if fixed else self.scale, event_shape, 0.0, data_scale)
        except ValueError as error:
            raise ValueError(f"{error}, or a positive number") from None
        # They lie here and not in a module of their own: the names of weights that were stored.
        self.register_buffer("data_scale", learned.unit)
        self.raw_scale = None if fixed else learned.raw

    @property
    def scale_floor(self) -> Tensor | None:
        """The smallest scales that can be learned, in the units of the data; None of a fixed."""
        if isinstance(self.scale, str):
            return self.min_scale * self.data_scale
        return None

    def scaled(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        if not isinstance(self.scale, str):
            scale = torch.full((), float(self.scale), dtype=raw.dtype, device=raw.device)
        else:
            own = raw_scale(self.scale, self.raw_scale, raw, self.event_dims)
            scale = self.data_scale * (self.min_scale + positive(own))
        return self.data_scale, scale

    @property
    def own_scale(self) -> Tensor:
        return cast(Tensor, self.raw_scale)

    def distribution(self, loc: Tensor, scale: Tensor) -> Distribution:
        return NormalDistribution(loc, scale, validate_args=False)


class LogNormal(LocationScale):
    r"""Creates $p(x \mid z) = \prod_i \mathcal{N}(\log x_i; m_i(z), \sigma_i^2) / x_i$ for positive
    numbers.

    It is a density of x itself, not of its logarithm: its bound can be compared with that of any
    other density of x. Its arguments are those of ``LocationScale``, location and scale being those
    of the logarithm.

    Args:
        log_loc: Mean of the logarithm of the training data.
        log_scale: Standard deviation of the logarithm of the training data.
    """

    loc_name = "log_loc"
    fill = 1.0

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
        super().__init__(
            event_shape, latent_dim, scale, min_scale, decoder, context_dim, log_loc, log_scale
        )

    def distribution(self, loc: Tensor, scale: Tensor) -> Distribution:
        return distributions.LogNormal(loc, scale, validate_args=False)


class StudentT(LocationScale):
    r"""Creates $p(x \mid z) = \prod_i t_{\nu_i}((x_i - m_i(z)) / \sigma_i) / \sigma_i$ for real
    numbers with outliers.

    The degrees of freedom $\nu_i > 2$ are learned, one for each element, and start at 10, with the
    variance of the data. Its arguments are those of ``LocationScale``.
    """

    def learn_shape(self, event_shape: Sequence[int]) -> None:
        self.raw_df = nn.Parameter(torch.zeros(tuple(event_shape)))

    def spread(self, scale: Tensor) -> Tensor:
        with torch.no_grad():
            self.raw_df.copy_(inverse_positive(torch.full_like(scale, (NEARLY_NORMAL - 2) / 8)))
        return scale * math.sqrt((NEARLY_NORMAL - 2) / NEARLY_NORMAL / 0.8)

    def distribution(self, loc: Tensor, scale: Tensor) -> Distribution:
        # A t of 10 degrees of freedom and scale s has the variance s^2 10 / 8.
        df, scale = 2 + 8 * positive(self.raw_df), math.sqrt(0.8) * scale
        return distributions.StudentT(df, loc, scale, validate_args=False)


class ContinuousBernoulli(Likelihood):
    r"""Creates $p(x \mid z) = \prod_i C(\lambda_i) \lambda_i^{x_i} (1 - \lambda_i)^{1 - x_i}$ for
    reals in [0, 1].

    It is the density that a cross-entropy on grey levels leaves unnormalised.

    Args:
        event_shape: Shape of one data point.
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
        made = distributions.ContinuousBernoulli(logits, validate_args=False)
        return Observed(made, self.event_dims, 0.5)
