r"""Autoregressive layers: invertible maps of which one direction takes one pass, and the other D.

A layer moves dimension i by a monotone map whose parameters a masked network decides from the
dimensions before it, and from features of the data point. So its Jacobian is triangular, and the
logarithm of its determinant a sum over the dimensions. The way back goes dimension by dimension:
each needs those before it.

References: germain2015, kingma2016, papamakarios2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from taut.networks.couplings import check_sizes, monotone
from taut.networks.masked import Masked

__all__ = ["Autoregressive"]


class Autoregressive(nn.Module):
    r"""Creates autoregressive layers, each of which takes the dimensions in the opposite order of
    the one before; together they are the identity at first.

    Args:
        dim: D, at least 2: of one dimension nothing would be conditioned on.
        num_features: F, of a data point, that every layer sees.
        layers: Number of layers.
        hidden: Width of each hidden layer of their networks, which have a linear path beside them;
            () for that alone. Below D - 1 they see fewer dimensions than there are.
        bins: Bins of a rational-quadratic spline; 0 for an affine map.
        density: Whether the inverse takes one pass and the map D, so that densities are fast;
            otherwise it is the other way round, and samples are.

    Raises:
        ValueError: a number is too small.
    """

    def __init__(
        self,
        dim: int,
        num_features: int,
        layers: int,
        hidden: Sequence[int],
        bins: int = 0,
        density: bool = False,
    ) -> None:
        super().__init__()
        if dim < 2:
            raise ValueError(
                "an autoregressive flow needs at least 2 latent dimensions: each is moved given "
                "those before it"
            )
        check_sizes(layers, num_features, bins)
        self.dim, self.bins, self.density = dim, bins, density
        outputs = 3 * bins - 1 if bins else 2
        self.networks = nn.ModuleList(
            Masked(dim, outputs, num_features, hidden) for _ in range(layers)
        )

    @property
    def slow_inverse(self) -> bool:
        """Whether the inverse takes D passes."""
        return not self.density

    def forward(
        self, u: Tensor, features: Tensor | None, inverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        layers = list(enumerate(self.networks))
        total = torch.zeros_like(u[..., 0])
        for number, network in reversed(layers) if inverse else layers:
            if number % 2:
                u = u.flip(-1)
            one_pass = inverse == self.density
            u, slope = (self._pass if one_pass else self._passes)(u, features, network)
            total = total + slope.sum(-1)
            if number % 2:
                u = u.flip(-1)
        return u, total

    def _pass(
        self, x: Tensor, features: Tensor | None, network: nn.Module
    ) -> tuple[Tensor, Tensor]:
        return monotone(x, network(x, features), self.bins, self.density)

    def _passes(
        self, y: Tensor, features: Tensor | None, network: nn.Module
    ) -> tuple[Tensor, Tensor]:
        """Returns x of which ``_pass`` makes y, one dimension after the other, and the logarithm of
        its slope.
        """
        x, slope = torch.zeros_like(y), torch.zeros_like(y)
        places = torch.arange(self.dim, device=y.device)
        for place in range(self.dim):
            found, slope = monotone(y, network(x, features), self.bins, not self.density)
            x = torch.where(places == place, found, x)
        return x, slope  # the last pass has seen all that any dimension sees
