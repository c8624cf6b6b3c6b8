r"""Priors $p(z)$: what the latent variables look like before any datum is seen."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal

from taut.model import Prior
from taut.types import Context

__all__ = ["IndependentBernoulli", "StandardNormal"]


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
        return Independent(Normal(self.loc, self.scale, validate_args=False), 1, validate_args=False)


class IndependentBernoulli(Prior):
    r"""Creates $p(z) = \prod_j \mathrm{Bernoulli}(z_j; \sigma(\ell_j))$ with learned logits $\ell$, zero at first.

    Args:
        latent_dim: D, the number of bits.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(latent_dim))

    def forward(self, context: Context | None = None) -> Distribution:
        return Independent(Bernoulli(logits=self.logits, validate_args=False), 1, validate_args=False)
