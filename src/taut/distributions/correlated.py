"""A Gaussian with a covariance, by the factor L of it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

__all__ = ["CorrelatedNormal"]


class CorrelatedNormal(MultivariateNormal):
    r"""A Gaussian that knows the density of its own samples by their noise.

    With $z = m + L \epsilon$

    $$ \log q(z) = -\tfrac12 \lVert \epsilon \rVert^2 - \sum_i \log L_{ii}
       - \tfrac{D}{2} \log 2\pi, $$

    where solving for it again would multiply the rounding of z from row to row.
    """

    noise: Tensor

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-density of any z, whose noise is solved for."""
        found: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
        return found

    def rsample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Returns samples and their log-density."""
        shape = self._extended_shape(sample_shape)
        self.noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self._made(self.noise), self._log_prob_of(self.noise)

    def log_prob_at(self, z: Tensor, noise: Tensor) -> Tensor:
        r"""Returns the log-density at z of this Gaussian, or of a copy, that made z of some noise.

        Its value is that of the noise, and its gradients those of z and of the parameters, each
        with the other held fixed:

        $$ d \log q(z) = -(L^{-\top} \epsilon)^\top (dz - dm - dL \, \epsilon)
           - \sum_i d \log L_{ii}. $$
        """
        lower = self.scale_tril.detach().expand(*noise.shape[:-1], -1, -1)
        slope = torch.linalg.solve_triangular(lower.mT, noise.detach()[..., None], upper=True)
        moved = z - self._made(noise.detach())
        return self._log_prob_of(noise.detach()) - (slope[..., 0] * (moved - moved.detach())).sum(
            -1
        )

    def _made(self, noise: Tensor) -> Tensor:
        made: Tensor = self.loc + (self.scale_tril @ noise[..., None])[..., 0]
        return made

    def _log_prob_of(self, noise: Tensor) -> Tensor:
        width = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = 0.5 * noise.shape[-1] * math.log(2 * math.pi)
        return -0.5 * noise.square().sum(-1) - width - constant
