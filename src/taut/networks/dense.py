"""Fully connected networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from taut.networks.common import Network, activation_of, check_widths, flat, joined
from taut.system.products import Affine

__all__ = ["MLP", "GatedMLP", "Linear", "Residual"]


class Linear(Network):
    """Creates an affine map: with it a VAE with a Normal likelihood is probabilistic PCA."""

    def __init__(
        self, in_shape: Sequence[int], out_shape: Sequence[int], context_dim: int = 0
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        self.map = Affine(math.prod(in_shape) + context_dim, math.prod(out_shape))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        seen = joined(flat(x, len(self.in_shape)), context)
        return self.map(seen).unflatten(-1, self.out_shape)


class MLP(Network):
    """Creates a multilayer perceptron.

    Args:
        in_shape: Shape of one input.
        out_shape: Shape of one output.
        context_dim: C, features of the context, joined to the input.
        hidden: Width of each hidden layer.
        activation: One of tanh, relu, leaky_relu, gelu, silu, elu, softplus.
        dropout: Probability that a hidden unit is dropped in training.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        context_dim: int = 0,
        hidden: Sequence[int] = (200, 200),
        activation: str = "silu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        self.hidden, self.activation, self.dropout = check_widths(hidden), activation, dropout
        widths = [math.prod(in_shape) + context_dim, *hidden]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [Affine(a, b), activation_of(activation)]
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers, Affine(widths[-1], math.prod(out_shape)))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        seen = joined(flat(x, len(self.in_shape)), context)
        return self.layers(seen).unflatten(-1, self.out_shape)


class Residual(MLP):
    """Creates an affine map and a multilayer perceptron that is added to it, zero at first.

    With it in encoder and decoder, training starts at a linear model: at the best one, where the
    data are rows of real numbers (``taut.build.start``). Its arguments are those of ``MLP``.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        context_dim: int = 0,
        hidden: Sequence[int] = (200, 200),
        activation: str = "silu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(in_shape, out_shape, context_dim, hidden, activation, dropout)
        self.linear = Affine(math.prod(in_shape) + context_dim, math.prod(out_shape))
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        seen = joined(flat(x, len(self.in_shape)), context)
        return (self.linear(seen) + self.layers(seen)).unflatten(-1, self.out_shape)


class GatedMLP(Network):
    r"""Creates a multilayer perceptron of gated linear units, $(W x + b) \odot \sigma(V x + c)$ a
    layer, and an affine map.

    A unit is linear where its gate is open, and its gradient does not fade. A layer has twice the
    weights of one of an ``MLP`` of the same width.

    Args:
        in_shape: Shape of one input.
        out_shape: Shape of one output.
        context_dim: C, features of the context, joined to the input.
        hidden: Width of each hidden layer.
        dropout: Probability that a hidden unit is dropped in training.

    References: dauphin2017, tomczak2018.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        context_dim: int = 0,
        hidden: Sequence[int] = (300, 300),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        self.hidden, self.dropout = check_widths(hidden), dropout
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        widths = [math.prod(in_shape) + context_dim, *hidden]
        self.layers = nn.ModuleList(Affine(a, 2 * b) for a, b in itertools.pairwise(widths))
        self.head = Affine(widths[-1], math.prod(out_shape))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        units = joined(flat(x, len(self.in_shape)), context)
        for layer in self.layers:
            units = self.drop(functional.glu(layer(units), -1))
        return self.head(units).unflatten(-1, self.out_shape)
