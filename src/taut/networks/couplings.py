r"""Coupling layers: invertible maps that cost the same in both directions.

A layer leaves half of the dimensions as they are, and moves each of the others by a monotone map
whose parameters a network decides from those that stay, and from features of the data point. So its
Jacobian is triangular, and the logarithm of its determinant a sum over the dimensions that move.

References: dinh2017, durkan2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from taut.distributions.flows import rational_quadratic
from taut.networks.dense import MLP

__all__ = ["Couplings", "check_sizes", "monotone"]

MOST_SCALE = 2.0  # log of the largest factor of an affine layer


class Couplings(nn.Module):
    r"""Creates layers of couplings, each of which moves the half of the dimensions that the one
    before left; together they are the identity at first.

    Args:
        dim: D, at least 2: of one dimension nothing would stay.
        num_features: F, of a data point, that every layer sees.
        layers: Number of couplings.
        hidden: Width of each hidden layer of their networks; () for a linear one.
        bins: Bins of a rational-quadratic spline; 0 for an affine map.

    Raises:
        ValueError: a number is too small.
    """

    def __init__(
        self, dim: int, num_features: int, layers: int, hidden: Sequence[int], bins: int
    ) -> None:
        super().__init__()
        if dim < 2:
            raise ValueError(
                "a coupling flow needs at least 2 latent dimensions: each layer moves some given "
                "the others"
            )
        check_sizes(layers, num_features, bins)
        self.dim, self.bins = dim, bins
        outputs = 3 * bins - 1 if bins else 2
        self.networks = nn.ModuleList()
        for number in range(layers):
            stay, move = self._halves(number)
            network = MLP((len(stay),), (len(move), outputs), num_features, hidden)
            for parameter in network.layers[-1].parameters():
                nn.init.zeros_(parameter)
            self.networks.append(network)

    def _halves(self, number: int) -> tuple[list[int], list[int]]:
        """Returns the dimensions that a layer leaves and those that it moves."""
        halves = list(range(0, self.dim, 2)), list(range(1, self.dim, 2))
        return halves[number % 2], halves[1 - number % 2]

    def forward(
        self, u: Tensor, features: Tensor | None, inverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        numbers = range(len(self.networks))
        total = torch.zeros_like(u[..., 0])
        for number in reversed(numbers) if inverse else numbers:
            stay, move = self._halves(number)
            raw = self.networks[number](u[..., stay], features)
            moved, slope = monotone(u[..., move], raw, self.bins, inverse)
            u = torch.cat([u[..., stay], moved], -1)[..., self._order(number)]
            total = total + slope.sum(-1)
        return u, total

    def _order(self, number: int) -> list[int]:
        """Returns where each dimension stands behind those that stay and those that move."""
        stay, move = self._halves(number)
        places = {dimension: place for place, dimension in enumerate(stay + move)}
        return [places[dimension] for dimension in range(self.dim)]


def check_sizes(layers: int, num_features: int, bins: int) -> None:
    """Refuses numbers of which no layers can be made.

    Raises:
        ValueError: a number is too small.
    """
    if not isinstance(layers, int) or layers < 1:
        raise ValueError(f"layers must be at least 1, not {layers!r}")
    if not isinstance(num_features, int) or num_features < 0:
        raise ValueError(f"num_features must be at least 0, not {num_features!r}")
    if not isinstance(bins, int) or bins < 0 or bins == 1:
        raise ValueError(f"bins must be 0 (an affine map) or at least 2, not {bins!r}")


def monotone(x: Tensor, raw: Tensor, bins: int, inverse: bool) -> tuple[Tensor, Tensor]:
    r"""Returns a rising map of x, elementwise, and the logarithm of its slope.

    Args:
        x: (\*,).
        raw: (\*, 3 bins - 1) of a spline, or (\*, 2): shift and raw scale; zeros are the identity.
        bins: Bins of the spline; 0 for an affine map.
        inverse: Whether the inverse is wanted.
    """
    if bins:
        return rational_quadratic(x, raw, inverse)
    shift = raw[..., 0]
    log_scale = MOST_SCALE * torch.tanh(raw[..., 1] / MOST_SCALE)
    if inverse:
        return (x - shift) * torch.exp(-log_scale), -log_scale
    return x * torch.exp(log_scale) + shift, log_scale
