"""Likelihoods of real numbers: densities in the user's own units."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions import Normal as NormalDistribution

from taut import distributions
from taut.likelihoods.common import full, independent
from taut.model import Likelihood
from taut.networks import MLP, NetworkFactory, positive
from taut.types import Context

__all__ = ["ContinuousBernoulli", "LogNormal", "Normal", "StudentT"]


class Normal(Likelihood):
    r"""Creates $p(x \mid z) = \prod_i \mathcal{N}(x_i; m_i(z), \sigma_i^2)$ for real numbers.

    The scale is *learned* unless a number fixes it: a squared error with a variance that nobody
    chose is no likelihood.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D.
        scale: "per_feature" (one learned $\sigma_i$ each), "shared" (one learned $\sigma$),
            "per_datum" ($\sigma(z)$, decoded) or the fixed $\sigma$ itself in the user's units.
        min_scale: Smallest learned scale, as a share of the data's standard deviation: a density
            has no upper limit.
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
            raise ValueError(
                f"unknown scale {scale!r}: 'per_feature', 'shared', 'per_datum' or a positive "
                f"number"
            )
        if not isinstance(scale, str) and not scale > 0:
            raise ValueError(f"scale must be positive, not {scale}")
        self.event_dims, self.scale, self.min_scale = len(event_shape), scale, min_scale
        data_scale = full(data_scale, event_shape)
        if scale != "per_feature":  # one sigma for all elements has one unit: the pooled one
            data_scale = data_scale.square().mean().sqrt().expand(tuple(event_shape)).clone()
        self.register_buffer("data_loc", full(data_loc, event_shape))
        self.register_buffer("data_scale", data_scale)
        self.raw_scale: nn.Parameter | None = None
        if scale == "per_feature":
            self.raw_scale = nn.Parameter(torch.zeros(tuple(event_shape)))
        elif scale == "shared":
            self.raw_scale = nn.Parameter(torch.zeros(()))
        # The scale of a whole datum is the mean of one more map of raw scales: it needs no network
        # of its own.
        self.decoder = decoder(
            (latent_dim,), (2 if scale == "per_datum" else 1, *event_shape), context_dim
        )

    @property
    def scale_floor(self) -> Tensor | None:
        """The smallest scales that can be learned, in the units of the data; None of a fixed."""
        return self.min_scale * self.data_scale if isinstance(self.scale, str) else None

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
        return independent(
            NormalDistribution(loc, scale.expand_as(loc), validate_args=False),
            self.event_dims,
            self.data_loc,
        )


class ContinuousBernoulli(Likelihood):
    r"""Creates $p(x \mid z) = \prod_i C(\lambda_i) \lambda_i^{x_i} (1 - \lambda_i)^{1 - x_i}$ for
    reals in [0, 1].

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
        return independent(
            distributions.ContinuousBernoulli(logits, validate_args=False), self.event_dims, 0.5
        )


class LogNormal(Likelihood):
    r"""Creates $p(x \mid z) = \prod_i \mathcal{N}(\log x_i; m_i(z), \sigma_i^2) / x_i$ for positive
    numbers.

    It is a density of x itself, not of its logarithm: its bound can be compared with that of any
    other density of x.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D.
        scale: "per_feature" (one learned $\sigma_i$ each), "shared" (one learned $\sigma$) or
            "per_datum" ($\sigma(z)$, decoded).
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
        self.register_buffer("log_loc", full(log_loc, event_shape))
        self.decoder = decoder(
            (latent_dim,), (2 if scale == "per_datum" else 1, *event_shape), context_dim
        )

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        raw = self.decoder(z, context).movedim(-1 - self.event_dims, 0)
        loc = self.log_loc + self.learned.unit * raw[0]
        scale = self.learned(raw).expand_as(loc)
        return independent(
            distributions.LogNormal(loc, scale, validate_args=False), self.event_dims, 1.0
        )


class StudentT(Likelihood):
    r"""Creates $p(x \mid z) = \prod_i t_{\nu_i}((x_i - m_i(z)) / \sigma_i) / \sigma_i$ for real
    numbers with outliers.

    The degrees of freedom $\nu_i > 2$ are learned, one for each element, and start at 10, with the
    variance of the data.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D.
        scale: "per_feature" (one learned $\sigma_i$ each), "shared" (one learned $\sigma$) or
            "per_datum" ($\sigma(z)$, decoded).
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
        self.register_buffer("data_loc", full(data_loc, event_shape))
        self.decoder = decoder(
            (latent_dim,), (2 if scale == "per_datum" else 1, *event_shape), context_dim
        )

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        raw = self.decoder(z, context).movedim(-1 - self.event_dims, 0)
        loc = self.data_loc + self.learned.unit * raw[0]
        # A t of 10 degrees of freedom and scale s has the variance s^2 10 / 8.
        scale = math.sqrt(0.8) * self.learned(raw).expand_as(loc)
        df = 2 + 8 * positive(self.raw_df)
        return independent(
            distributions.StudentT(df, loc, scale, validate_args=False),
            self.event_dims,
            self.data_loc,
        )


class _Scale(nn.Module):
    """The learned scale of a location-scale density, in units of the data's.

    The same three choices as ``Normal`` has.
    """

    unit: Tensor

    def __init__(
        self, choice: str, event_shape: Sequence[int], min_scale: float, data_scale: Tensor | float
    ) -> None:
        super().__init__()
        if choice not in ("per_feature", "shared", "per_datum"):
            raise ValueError(f"unknown scale {choice!r}: 'per_feature', 'shared' or 'per_datum'")
        self.event_dims, self.min_scale = len(event_shape), min_scale
        unit = full(data_scale, event_shape)
        self.register_buffer(
            "unit",
            unit
            if choice == "per_feature"
            else unit.square().mean().sqrt().expand_as(unit).clone(),
        )
        shape = tuple(event_shape) if choice == "per_feature" else ()
        self.raw = None if choice == "per_datum" else nn.Parameter(torch.zeros(shape))

    def forward(self, decoded: Tensor) -> Tensor:
        """Returns the scale, from the last of the maps that were decoded where it is decoded."""
        event = tuple(range(-self.event_dims, 0))
        raw = decoded[-1].mean(event, keepdim=True) if self.raw is None else self.raw
        return self.unit * (self.min_scale + positive(raw))
