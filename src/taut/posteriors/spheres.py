"""Directions: z on the unit sphere."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.distributions import Distribution

from taut.distributions import sphere
from taut.features import Features, Standardize
from taut.model import Posterior
from taut.networks import MLP, NetworkFactory, check_positive, positive
from taut.posteriors.common import MIN_SCALE
from taut.types import Context

__all__ = ["PowerSpherical"]


class PowerSpherical(Posterior):
    r"""Creates $q(z \mid x) \propto (1 + \mu(x) \cdot z)^{\kappa(x)}$ on the unit sphere of D
    dimensions, for a ``UniformSphere`` prior.

    The concentration is $\kappa = 2 / s^2$: where the spread s is small, it is the standard
    deviation of the angle in each of D - 1 directions. Its floor keeps samples apart. z has D - 1
    degrees of freedom, and all directions are alike to the prior: for data on a sphere or a circle
    (angles, times of day, orientations), not for many unrelated latent numbers.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D, at least 2.
        encoder: Network from x to the direction of $\mu$ and the raw s, (D + 1,).
        context_dim: C.
        data_loc: Mean of the training data, in the user's units.
        data_scale: Standard deviation of the training data, likewise.
        features: What the encoder sees of a datum, instead of its standardized values.
        min_scale: Smallest s, in radians.

    Raises:
        ValueError: there is one latent dimension, or ``min_scale`` is not positive.

    References: decao2020, davidson2018.
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
        sphere.check_dim(latent_dim)
        self.latent_dim, self.min_scale = latent_dim, check_positive(min_scale)
        self.features = features or Standardize(event_shape, data_loc, data_scale)
        self.encoder = encoder(self.features.out_shape, (latent_dim + 1,), context_dim)

    def parameters_seen(self, seen: Tensor, context: Context | None = None) -> dict[str, Tensor]:
        direction, raw = self.encoder(seen, context).split([self.latent_dim, 1], -1)
        spread = self.min_scale + positive(raw[..., 0])
        return {"loc": direction, "concentration": 2 / spread.square()}

    def distribution(self, parameters: dict[str, Tensor]) -> Distribution:
        return sphere.PowerSpherical(parameters["loc"], parameters["concentration"])
