"""Gaussians that a bijection bends."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from taut.distributions.flows import Flow
from taut.features import Features, Standardize
from taut.model import Posterior
from taut.networks import MLP, Network, NetworkFactory, check_positive
from taut.networks.autoregressive import Autoregressive
from taut.networks.couplings import Couplings
from taut.posteriors.common import MIN_SCALE, floored
from taut.types import Context

__all__ = ["CouplingFlow", "InverseAutoregressive"]


class BentNormal(Posterior):
    """Abstract diagonal Gaussian that a bijection bends, which sees features of the encoder."""

    latent_dim: int
    num_features: int
    min_scale: float
    encoder: Network

    def parameters_seen(self, seen: Tensor, context: Context | None = None) -> dict[str, Tensor]:
        sizes = [self.latent_dim, self.latent_dim, self.num_features]
        loc, raw_scale, features = self.encoder(seen, context).split(sizes, -1)
        return {
            "loc": loc,
            "scale": floored(raw_scale, loc, self.min_scale),
            "features": torch.tanh(features),
        }


class CouplingFlow(BentNormal):
    r"""Creates $q(z \mid x)$ as the law of $m(x) + s(x) \odot f(u; h(x))$, $u \sim \mathcal{N}(0,
    I)$, where coupling layers f, the same for all data, see features h(x) of the encoder.

    It starts as the diagonal Gaussian, and its samples and densities cost the same. Posteriors that
    are curved or have several modes need it; for one that is merely tilted ``FullCovarianceNormal``
    is cheaper.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D, at least 2.
        encoder: Network from x to D means, D raw scales and the features h.
        context_dim: C.
        data_loc: Mean of the training data, in the user's units.
        data_scale: Standard deviation of the training data, likewise.
        features: What the encoder sees of a datum, instead of its standardized values.
        min_scale: Smallest scale, in units of the prior and of the mean's distance from its centre.
        layers: Number of couplings.
        hidden: Width of each hidden layer of their networks; () for linear ones.
        num_features: Number of features h.
        bins: Bins of the splines that the couplings are; 0 for affine ones.

    Raises:
        ValueError: there is one latent dimension, or a number is too small.

    References: dinh2017, durkan2019, rezende2015.
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
        layers: int = 4,
        hidden: Sequence[int] = (64,),
        num_features: int = 32,
        bins: int = 8,
    ) -> None:
        super().__init__()
        self.latent_dim, self.min_scale = latent_dim, check_positive(min_scale)
        self.couplings = Couplings(latent_dim, num_features, layers, hidden, bins)
        self.layers, self.hidden, self.bins = layers, tuple(hidden), bins
        self.num_features = num_features
        self.features = features or Standardize(event_shape, data_loc, data_scale)
        self.encoder = encoder(
            self.features.out_shape, (2 * latent_dim + num_features,), context_dim
        )

    def distribution(self, parameters: dict[str, Tensor]) -> Distribution:
        return Flow(**parameters, bijection=self.couplings)


class InverseAutoregressive(BentNormal):
    r"""Creates $q(z \mid x)$ as the law of $m(x) + s(x) \odot f(u; h(x))$, $u \sim \mathcal{N}(0,
    I)$, where each of the autoregressive layers f, the same for all data, makes $u_i
    \mapsto e^{a_i} u_i + b_i$ with a and b of $u_{<i}$ and of features h(x) of the encoder.

    It starts as the diagonal Gaussian. A sample with its log-density costs one pass through the
    layers. The density of a z that is given costs D: where it is asked for (``StickingTheLanding``,
    ``DReG``, ``taut score`` of doubtful rows) a latent dimension costs as much as a layer. ``ELBO``
    and ``IWAE`` ask for none, nor does importance sampling from q. Annealing starts at the Gaussian
    of q's mean and variances, and an audit looks at the latent space of fewer rows.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D, at least 2.
        encoder: Network from x to D means, D raw scales and the features h.
        context_dim: C.
        data_loc: Mean of the training data, in the user's units.
        data_scale: Standard deviation of the training data, likewise.
        features: What the encoder sees of a datum, instead of its standardized values.
        min_scale: Smallest scale, in units of the prior and of the mean's distance from its centre.
        layers: Number of autoregressive layers, whose orders alternate.
        hidden: Width of each hidden layer of their networks; () for linear ones. At least D - 1
            lets each dimension see all before it.
        num_features: Number of features h.
        bins: Bins of the splines that the layers are; 0 for affine ones.

    Raises:
        ValueError: there is one latent dimension, or a number is too small.

    References: kingma2016, germain2015, rezende2015.
    """

    slow_density = True

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
        layers: int = 4,
        hidden: Sequence[int] = (128,),
        num_features: int = 32,
        bins: int = 0,
    ) -> None:
        super().__init__()
        self.latent_dim, self.min_scale = latent_dim, check_positive(min_scale)
        self.autoregressive = Autoregressive(latent_dim, num_features, layers, hidden, bins)
        self.layers, self.hidden, self.bins = layers, tuple(hidden), bins
        self.num_features = num_features
        self.features = features or Standardize(event_shape, data_loc, data_scale)
        self.encoder = encoder(
            self.features.out_shape, (2 * latent_dim + num_features,), context_dim
        )

    def distribution(self, parameters: dict[str, Tensor]) -> Distribution:
        return Flow(**parameters, bijection=self.autoregressive)
