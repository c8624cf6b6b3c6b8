r"""Priors $p(z)$: what the latent variables look like before any datum is seen."""

from __future__ import annotations

from collections.abc import Sequence

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

from taut.couplings import Couplings
from taut.distributions.flows import Flow as FlowDistribution
from taut.model import Prior
from taut.networks import positive
from taut.types import Context

__all__ = ["Flow", "GaussianMixture", "IndependentBernoulli", "StandardNormal"]


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


class Flow(Prior):
    r"""Creates $p(z)$ as the law of $m + s \odot f(u)$, $u \sim \mathcal{N}(0, I)$, with learned
    coupling layers f, means and scales: a standard Normal at first.

    Args:
        latent_dim: D, at least 2.
        layers: Number of couplings.
        hidden: Width of each hidden layer of their networks.
        bins: Bins of the splines that the couplings are; 0 for affine ones.
        min_scale: Smallest scale.

    Raises:
        ValueError: there is one latent dimension, or a number is too small.

    References: dinh2017, durkan2019.
    """

    def __init__(
        self,
        latent_dim: int,
        layers: int = 4,
        hidden: Sequence[int] = (64,),
        bins: int = 8,
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__()
        if not min_scale > 0:
            raise ValueError(f"min_scale must be positive, not {min_scale}")
        self.couplings = Couplings(latent_dim, 0, layers, hidden, bins)
        self.layers, self.hidden, self.bins = layers, tuple(hidden), bins
        self.min_scale = min_scale
        self.loc = nn.Parameter(torch.zeros(latent_dim))
        self.raw_scale = nn.Parameter(torch.zeros(latent_dim))

    def forward(self, context: Context | None = None) -> Distribution:
        scale = self.min_scale + positive(self.raw_scale)
        return FlowDistribution(self.loc, scale, None, self.couplings)
