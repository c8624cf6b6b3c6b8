r"""Priors $p(z)$: what the latent variables look like before any datum is seen."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
)

from taut.model import Prior
from taut.networks import positive
from taut.types import Context

__all__ = ["GaussianMixture", "IndependentBernoulli", "StandardNormal"]


class StandardNormal(Prior):
    r"""Creates $p(z) = \mathcal{N}(0, I)$.

    Args:
        latent_dim: D.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent_dim))
        self.register_buffer("scale", torch.ones(latent_dim))

    def forward(self, context: Context | None = None) -> Distribution:
        return Independent(
            Normal(self.loc, self.scale, validate_args=False), 1, validate_args=False
        )


class IndependentBernoulli(Prior):
    r"""Creates $p(z) = \prod_j \mathrm{Bernoulli}(z_j; \sigma(\ell_j))$ with learned logits $\ell$,
    zero at first.

    Args:
        latent_dim: D, the number of bits.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(latent_dim))

    def forward(self, context: Context | None = None) -> Distribution:
        return Independent(
            Bernoulli(logits=self.logits, validate_args=False), 1, validate_args=False
        )


class GaussianMixture(Prior):
    r"""Creates $p(z) = \sum_c \pi_c \prod_j \mathcal{N}(z_j; m_{cj}, s_{cj}^2)$ with learned
    weights, means and scales.

    It starts as components of scale 1 around points near zero: close to a standard Normal.

    Args:
        latent_dim: D.
        components: Number of components.
        min_scale: Smallest scale of a component, in units of the scales at the start: no component
            collapses to a point.

    References: tomczak2018.
    """

    def __init__(self, latent_dim: int, components: int = 20, min_scale: float = 1e-3) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"components must be at least 1, not {components}")
        if not min_scale > 0:
            raise ValueError(f"min_scale must be positive, not {min_scale}")
        self.components, self.min_scale = components, min_scale
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(0.5 * torch.randn(components, latent_dim))
        self.raw_scale = nn.Parameter(torch.zeros(components, latent_dim))

    def forward(self, context: Context | None = None) -> Distribution:
        scale = self.min_scale + positive(self.raw_scale)
        parts = Independent(Normal(self.loc, scale, validate_args=False), 1, validate_args=False)
        return MixtureSameFamily(
            Categorical(logits=self.logits, validate_args=False), parts, validate_args=False
        )
