"""Gaussians: mean-field, and with a covariance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from taut.distributions.correlated import CorrelatedNormal
from taut.features import Features, Standardize
from taut.model import Posterior
from taut.networks import MLP, NetworkFactory, check_positive
from taut.posteriors.common import MIN_SCALE, floored
from taut.types import Context

__all__ = ["DiagonalNormal", "FullCovarianceNormal"]

# largest correlation of rounding errors: with it float32 knows the noise of a sample to a
# thousandth
STEEP = 1e4


class DiagonalNormal(Posterior):
    r"""Creates $q(z \mid x) = \mathcal{N}(m(x), \mathrm{diag}(s(x)^2))$, the mean-field Gaussian.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D.
        encoder: Network from x to (m, raw s), (2, D).
        context_dim: C.
        data_loc: Mean of the training data, in the user's units.
        data_scale: Standard deviation of the training data, likewise.
        features: What the encoder sees of a datum, instead of its standardized values.
        min_scale: Smallest scale, in units of the prior and of the mean's distance from its centre.
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
        min_scale: float = MIN_SCALE,
    ) -> None:
        super().__init__()
        self.latent_dim, self.min_scale = latent_dim, check_positive(min_scale)
        self.features = features or Standardize(event_shape, data_loc, data_scale)
        self.encoder = encoder(self.features.out_shape, (2, latent_dim), context_dim)

    def parameters_seen(self, seen: Tensor, context: Context | None = None) -> dict[str, Tensor]:
        loc, raw_scale = self.encoder(seen, context).unbind(-2)
        return {"loc": loc, "scale": floored(raw_scale, loc, self.min_scale)}

    def distribution(self, parameters: dict[str, Tensor]) -> Distribution:
        normal = Normal(parameters["loc"], parameters["scale"], validate_args=False)
        return Independent(normal, 1, validate_args=False)


class FullCovarianceNormal(Posterior):
    r"""Creates $q(z \mid x) = \mathcal{N}(m(x), L(x) L(x)^\top)$ with a lower-triangular $L$ of
    positive diagonal.

    The density of z needs $L^{-1} (z - m)$. An entry of L that is huge beside the diagonal entries
    of its row and its column makes that a difference of large numbers, so entries are bounded by
    their product, smoothly and far above what data ask for. From row to row the rounding of z grows
    all the same: the density of a sample is that of the noise that it was made of
    (``CorrelatedNormal``).

    Args:
        event_shape: Shape of one datum.
        latent_dim: D.
        encoder: Network from x to D means, D raw diagonal and D(D-1)/2 lower entries of L.
        context_dim: C.
        data_loc: Mean of the training data, in the user's units.
        data_scale: Standard deviation of the training data, likewise.
        features: What the encoder sees of a datum, instead of its standardized values.
        min_scale: Smallest scale, in units of the prior and of the mean's distance from its centre.
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
        min_scale: float = MIN_SCALE,
    ) -> None:
        super().__init__()
        self.latent_dim, self.min_scale = latent_dim, check_positive(min_scale)
        self.features = features or Standardize(event_shape, data_loc, data_scale)
        rows, columns = torch.tril_indices(latent_dim, latent_dim, offset=-1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.encoder = encoder(self.features.out_shape, (2 * latent_dim + len(rows),), context_dim)

    def parameters_seen(self, seen: Tensor, context: Context | None = None) -> dict[str, Tensor]:
        d = self.latent_dim
        loc, raw_diagonal, lower = self.encoder(seen, context).split([d, d, len(self.rows)], -1)
        scale = floored(raw_diagonal, loc, self.min_scale)
        known = STEEP * scale / (1 + loc.abs() + scale)  # in units of the rounding of z
        limit = scale[..., self.rows] * known[..., self.columns]
        scale_tril = torch.diag_embed(scale)
        scale_tril[..., self.rows, self.columns] = lower / (1 + (lower / limit).square()).sqrt()
        return {"loc": loc, "scale_tril": scale_tril}

    def distribution(self, parameters: dict[str, Tensor]) -> Distribution:
        loc, scale_tril = parameters["loc"], parameters["scale_tril"]
        return CorrelatedNormal(loc, scale_tril=scale_tril, validate_args=False)
