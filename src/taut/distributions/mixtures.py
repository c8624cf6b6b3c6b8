r"""Mixtures of Gaussians with diagonal covariances whose densities are products of matrices."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal

from taut.system.precision import wide_dtype

__all__ = ["mixture"]


def mixture(logits: Tensor, members: Distribution) -> MixtureSameFamily:
    r"""Returns $\sum_k \pi_k p_k(z)$.

    Args:
        logits: Those of $\pi$, (\*batch, K).
        members: $p_k$, of batch shape (\*batch, K).
    """
    weights = Categorical(logits=logits, validate_args=False)
    kind = MixtureSameFamily
    if type(getattr(members, "base_dist", None)) is Normal and len(members.event_shape) == 1:
        kind = DiagonalMixture
    return kind(weights, members, validate_args=False)


class DiagonalMixture(MixtureSameFamily):
    r"""Creates $\sum_k \pi_k \mathcal{N}(z; m_k, \operatorname{diag} s_k^2)$.

    The squares are multiplied out,

    $$ \sum_j \frac{(z_j - m_{kj})^2}{s_{kj}^2} = \sum_j z_j^2 s_{kj}^{-2}
       - 2 \sum_j z_j \frac{m_{kj}}{s_{kj}^2} + \sum_j \frac{m_{kj}^2}{s_{kj}^2}, $$

    so that the densities of K components at N points of D dimensions are two products of matrices,
    not N K D differences. The three sums are large where a component is narrow and far from zero,
    and cancel near it: they are float64, which keeps them right to 1e-12 of the largest.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        normal: Normal = self.component_distribution.base_dist  # type: ignore[attr-defined]
        dtype = wide_dtype(value.device)
        z, loc = value.to(dtype), normal.loc.to(dtype)
        precision = normal.scale.to(dtype).square().reciprocal()
        weighted = loc * precision
        # z[..., j] with the batch's own components: (*sample, *batch, D) and (*batch, K, D)
        batch = "bcdefg"[: precision.dim() - 2]
        rule = f"...{batch}j,{batch}kj->...{batch}k"
        squares = (
            torch.einsum(rule, z.square(), precision)
            - 2 * torch.einsum(rule, z, weighted)
            + (loc * weighted).sum(-1)
        )
        volumes = precision.log().sum(-1) - loc.shape[-1] * math.log(2 * math.pi)
        shares = self.mixture_distribution.logits.to(dtype)
        return torch.logsumexp(shares + 0.5 * (volumes - squares), -1).to(value.dtype)
