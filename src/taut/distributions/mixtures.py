r"""Mixtures of Gaussians whose densities are products of matrices."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from taut.system.precision import wide_dtype

__all__ = ["mixture"]

MOST = 2**24  # numbers of noise at once, of all components


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
    elif isinstance(members, MultivariateNormal):
        kind = CorrelatedMixture
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


class CorrelatedMixture(MixtureSameFamily):
    r"""Creates $\sum_k \pi_k \mathcal{N}(z; m_k, L_k L_k^\top)$.

    The noise $L_k^{-1} z - L_k^{-1} m_k$ of N points under all K components is one product of
    matrices, instead of a solution for each pair, which copies $L_k$ for each point. It is float64,
    since the inverse of a narrow L is large.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        normal = self.component_distribution
        assert isinstance(normal, MultivariateNormal)
        dtype = wide_dtype(normal.loc.device)
        lower, z = normal.scale_tril.to(dtype), value.to(dtype)
        size = lower.shape[-1]
        one = torch.eye(size, dtype=dtype, device=lower.device)
        inverse = torch.linalg.solve_triangular(lower, one, upper=False)
        middle = (inverse @ normal.loc.to(dtype)[..., None])[..., 0]  # (*batch, K, D)
        widths = lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        shares = self.mixture_distribution.logits.to(dtype)
        offset = shares - widths - 0.5 * size * math.log(2 * math.pi)
        batch = "bcdefg"[: lower.dim() - 3]
        rule = f"...{batch}j,{batch}kij->...{batch}ki"
        many = z.dim() > len(batch) + 1  # an axis of samples, to take in parts
        found = []
        for part in (
            z.split(max(1, MOST * len(z) // (z.numel() * lower.shape[-3]))) if many else [z]
        ):
            noise = torch.einsum(rule, part, inverse) - middle
            found.append(torch.logsumexp(offset - 0.5 * noise.square().sum(-1), -1))
        return torch.cat(found).to(value.dtype) if many else found[0].to(value.dtype)
