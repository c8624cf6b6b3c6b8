"""A Gaussian with a covariance, by the factor L of it."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from taut.system.precision import wide_dtype

__all__ = ["CorrelatedNormal", "density", "told", "told_apart"]


def told(q: Distribution, count: int) -> tuple[Tensor, Tensor]:
    """Returns samples, (K, B, D), and their log-densities, (K, B), as the samples were made.

    Asking for the density of a sample again would multiply its rounding where there is a
    covariance, or cost a pass for each dimension. Samples of a Gaussian with a covariance are wide:
    only so can the density of another one be told there (``density``).
    """
    if hasattr(q, "told"):
        return q.told(count)
    shape = torch.Size((count,))
    if isinstance(q, MultivariateNormal):
        q = CorrelatedNormal(q.loc, scale_tril=q.scale_tril, validate_args=False)
        return q.told(count)
    if getattr(q, "slow_density", False):
        found: tuple[Tensor, Tensor] = cast(Any, q).rsample_and_log_prob(shape)
        return found
    z = q.rsample(shape) if q.has_rsample else q.sample(shape)
    return z, density(q, z, z.dtype)


def told_apart(q: Distribution) -> bool:
    """Returns whether the density of a sample should not be asked for again: see ``told``."""
    return (
        hasattr(q, "told") or isinstance(q, MultivariateNormal) or getattr(q, "slow_density", False)
    )


def density(q: Distribution, z: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the log-density of any z, which may be wider than the parameters of q, of a dtype."""
    if not len(z):
        return z.new_zeros(z.shape[:-1])
    if isinstance(q, MultivariateNormal):
        return CorrelatedNormal(q.loc, scale_tril=q.scale_tril, validate_args=False).log_prob(z)
    if hasattr(q, "told"):  # it knows what to do with wide ones
        return q.log_prob(z)
    return q.log_prob(z.to(dtype))


class CorrelatedNormal(MultivariateNormal):
    r"""A Gaussian that knows the density of its own samples by their noise.

    With $z = m + L \epsilon$

    $$ \log q(z) = -\tfrac12 \lVert \epsilon \rVert^2 - \sum_i \log L_{ii}
       - \tfrac{D}{2} \log 2\pi, $$

    where solving for it again would multiply the rounding of z from row to row.
    """

    noise: Tensor

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-density of any z, whose noise is solved for, in float64."""
        own = self._wide()
        found: Tensor = MultivariateNormal.log_prob(own, value.to(own.loc))
        return found.to(value)

    def told(self, count: int) -> tuple[Tensor, Tensor]:
        """Returns samples and their log-density, in float64."""
        shape = self._extended_shape(torch.Size((count,)))
        return self.made_of(torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device))

    def made_of(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what is made of some noise and its log-density, in float64."""
        own = self._wide()
        noise = noise.to(own.loc)
        return own._made(noise), own._log_prob_of(noise)

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

    def _wide(self) -> CorrelatedNormal:
        dtype = wide_dtype(self.loc.device)
        loc, lower = self.loc.to(dtype), self.scale_tril.to(dtype)
        return CorrelatedNormal(loc, scale_tril=lower, validate_args=False)

    def _made(self, noise: Tensor) -> Tensor:
        made: Tensor = self.loc + (self.scale_tril @ noise[..., None])[..., 0]
        return made

    def _log_prob_of(self, noise: Tensor) -> Tensor:
        width = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = 0.5 * noise.shape[-1] * math.log(2 * math.pi)
        return -0.5 * noise.square().sum(-1) - width - constant
