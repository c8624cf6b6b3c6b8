r"""Vectors of a codebook: N discrete variables, each of which is one of K vectors of width W.

z is the N vectors next to each other, $D = N W$. A density is looked up by the vector that z is
nearest to, so that no two vectors may be equal.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

from taut.distributions.codes import Codes, Listed

__all__ = ["CodebookVectors", "Quantized"]

NEAR = 1e-5  # of the largest number of a codebook, by which a vector may be off


class CodebookVectors(Listed):
    """Creates the set of N joined vectors of a codebook.

    Args:
        codebook: The vectors, (K, W).
        codes: N.
    """

    def __init__(self, codebook: Tensor, codes: int) -> None:
        super().__init__(codes, len(codebook))
        self.codebook = codebook.detach()

    def check(self, value: Tensor) -> Tensor:
        if value.shape[-1] != self.codes * self.codebook.shape[1]:
            return torch.zeros(value.shape[:-1], dtype=torch.bool, device=value.device)
        off = _distances(value, self.codebook).amin(-1)
        return (off <= NEAR * self.codebook.abs().max()).all(-1)

    def states(self, number: Tensor) -> Tensor:
        return self.codebook[self.digits(number)].flatten(-2)


class Quantized(Distribution):
    r"""Creates $\prod_n \pi_n(k_n)$ over z of N vectors of a codebook.

    Args:
        log_probs: $\log \pi$, (\*, N, K).
        codebook: The vectors, (K, W).
        point: What the vectors are near to, (\*, N, W), where they are those of an encoder: its
            gradient stands for theirs.
        commitment: Weight of the mean squared distance to it in ``penalty``.
    """

    arg_constraints: dict[str, Any] = {  # noqa: RUF012 (torch's own protocol)
        "log_probs": constraints.independent(constraints.real, 2)
    }
    has_rsample = False

    def __init__(
        self,
        log_probs: Tensor,
        codebook: Tensor,
        point: Tensor | None = None,
        commitment: float = 0.0,
    ) -> None:
        self.log_probs, self.codebook = log_probs, codebook
        self.point, self.commitment = point, commitment
        self.codes = log_probs.shape[-2]
        event = torch.Size((self.codes * codebook.shape[1],))
        super().__init__(log_probs.shape[:-2], event, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return CodebookVectors(self.codebook, self.codes)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Quantized:
        shape = torch.Size(batch_shape)
        log_probs = self.log_probs.expand(*shape, *self.log_probs.shape[-2:])
        point = None if self.point is None else self.point.expand(*shape, *self.point.shape[-2:])
        return Quantized(log_probs, self.codebook, point, self.commitment)

    def like(self, parameters: dict[str, Tensor]) -> Quantized:
        """Returns the distribution over the same vectors with other probabilities."""
        return Quantized(parameters["log_probs"], self.codebook)

    @property
    def mean(self) -> Tensor:
        return (self.log_probs.exp() @ self.codebook).flatten(-2)

    @property
    def variance(self) -> Tensor:
        square = (self.log_probs.exp() @ self.codebook.square()).flatten(-2)
        return (square - self.mean.square()).clamp_min(0)  # below zero by rounding alone

    @property
    def penalty(self) -> Tensor | None:
        """The commitment: how far the vectors are from the point, squared, on average, (B,)."""
        if self.point is None:
            return None
        square = (self.point[..., None, :] - self.codebook).square().sum(-1)
        return self.commitment * (self.log_probs.exp() * square).sum((-2, -1))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self._drawn(torch.Size(sample_shape)).detach()

    def relaxed(self, sample_shape: Any, temperature: float) -> tuple[Tensor, Tensor]:
        """Returns samples of z, whose gradient is that of the codebook, and the point for each.

        Raises:
            ValueError: there is no point.

        References: vandenoord2017.
        """
        if self.point is None:
            raise ValueError("these vectors are near to nothing: they are not those of an encoder")
        z = self._drawn(torch.Size(sample_shape))
        return z, self.point.flatten(-2).expand(z.shape)

    def _drawn(self, sample_shape: torch.Size) -> Tensor:
        one_hot = Codes(self.log_probs.detach()).sample(sample_shape)
        level = one_hot.unflatten(-1, self.log_probs.shape[-2:]).argmax(-1)
        return self.codebook[level].flatten(-2)

    def attached(self, z: Tensor) -> Tensor:
        """Returns vectors of the codebook again, with its gradient."""
        return self.codebook[_distances(z, self.codebook).argmin(-1)].flatten(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        level = _distances(value, self.codebook).argmin(-1, keepdim=True)
        shape = torch.broadcast_shapes(level.shape[:-1], self.log_probs.shape[:-1])
        log_probs = self.log_probs.expand(*shape, -1)
        return log_probs.gather(-1, level.expand(*shape, -1))[..., 0].sum(-1)

    def entropy(self) -> Tensor:
        return -_expected(self.log_probs, self.log_probs)


def _distances(z: Tensor, codebook: Tensor) -> Tensor:
    r"""Returns how far each of the vectors of z, (\*, N W), is from those of a codebook, (\*, N,
    K).
    """
    vectors = z.detach().unflatten(-1, (-1, codebook.shape[1]))
    return (vectors[..., None, :] - codebook.detach()).square().sum(-1).sqrt()


def _expected(log_probs: Tensor, values: Tensor) -> Tensor:
    """Returns means of values; one of no probability may be infinite."""
    return (log_probs.exp() * torch.where(log_probs == -torch.inf, 0.0, values)).sum((-2, -1))


@register_kl(Quantized, Quantized)  # type: ignore[untyped-decorator]
def _kl_quantized(p: Quantized, q: Quantized) -> Tensor:
    return _expected(p.log_probs, p.log_probs - q.log_probs)
