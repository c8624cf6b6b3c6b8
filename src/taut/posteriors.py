r"""Approximate posteriors $q(z \mid x)$: amortized inference, one encoder for all data.

Each takes the class of a network (or a ``functools.partial`` of one) as ``encoder``, which sees the ``features`` of x: by default
x standardized with the location and scale of the training data.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, MultivariateNormal, Normal

from taut.features import Features, Standardize
from taut.model import Posterior
from taut.networks import MLP, NetworkFactory, positive
from taut.types import Context, Data

__all__ = ["DiagonalNormal", "FullCovarianceNormal", "IndependentBernoulli"]


class DiagonalNormal(Posterior):
    r"""Creates $q(z \mid x) = \mathcal{N}(m(x), \mathrm{diag}(s(x)^2))$, the mean-field Gaussian.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D.
        encoder: Network from x to (m, raw s), (2, D).
        context_dim: C.
        data_loc: Mean of the training data, in the user's units.
        data_scale: Standard deviation of the training data, likewise.
        features: What the encoder sees of a datum, in place of its standardized values.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        encoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float = 0.0,
        data_scale: Tensor | float = 1.0,
        features: Features | None = None,
    ) -> None:
        super().__init__()
        self.features = features or Standardize(event_shape, data_loc, data_scale)
        self.encoder = encoder(self.features.out_shape, (2, latent_dim), context_dim)

    def forward(self, x: Data, context: Context | None = None) -> Distribution:
        loc, raw_scale = self.encoder(self.features(x), context).unbind(-2)
        return Independent(Normal(loc, positive(raw_scale), validate_args=False), 1, validate_args=False)


class FullCovarianceNormal(Posterior):
    r"""Creates $q(z \mid x) = \mathcal{N}(m(x), L(x) L(x)^\top)$ with a lower-triangular $L$ of positive diagonal.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D.
        encoder: Network from x to D means, D raw diagonal and D(D-1)/2 lower entries of L.
        context_dim: C.
        data_loc: Mean of the training data, in the user's units.
        data_scale: Standard deviation of the training data, likewise.
        features: What the encoder sees of a datum, in place of its standardized values.
    """

    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        encoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float = 0.0,
        data_scale: Tensor | float = 1.0,
        features: Features | None = None,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.features = features or Standardize(event_shape, data_loc, data_scale)
        rows, columns = torch.tril_indices(latent_dim, latent_dim, offset=-1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.encoder = encoder(self.features.out_shape, (2 * latent_dim + len(rows),), context_dim)

    def forward(self, x: Data, context: Context | None = None) -> Distribution:
        d = self.latent_dim
        loc, raw_diagonal, lower = self.encoder(self.features(x), context).split([d, d, len(self.rows)], -1)
        scale_tril = torch.diag_embed(positive(raw_diagonal))
        scale_tril[..., self.rows, self.columns] = lower
        return MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)


class IndependentBernoulli(Posterior):
    r"""Creates $q(z \mid x) = \prod_j \mathrm{Bernoulli}(z_j; \sigma(\ell_j(x)))$: not to be reparameterized.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D, the number of bits.
        encoder: Network from x to the D logits.
        context_dim: C.
        data_loc: Mean of the training data, in the user's units.
        data_scale: Standard deviation of the training data, likewise.
        features: What the encoder sees of a datum, in place of its standardized values.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        encoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float = 0.0,
        data_scale: Tensor | float = 1.0,
        features: Features | None = None,
    ) -> None:
        super().__init__()
        self.features = features or Standardize(event_shape, data_loc, data_scale)
        self.encoder = encoder(self.features.out_shape, (latent_dim,), context_dim)

    def forward(self, x: Data, context: Context | None = None) -> Distribution:
        logits = self.encoder(self.features(x), context)
        return Independent(Bernoulli(logits=logits, validate_args=False), 1, validate_args=False)
