"""Networks, which know shapes and nothing of probability.

A network is built as ``Network(in_shape, out_shape, context_dim, ...)`` and maps (*, *in_shape) to
(*, *out_shape). Parts take the *class* of a network, or a ``functools.partial`` of one, and give it
the shapes themselves, so that the user writes the choices only: ``MLP(hidden=(200, 200),
activation="tanh")``.
"""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from taut.system.products import Affine
from taut.types import image_layout

__all__ = ["MLP", "ConvDecoder", "ConvEncoder", "GatedMLP", "Linear", "Network", "Residual"]


class Tanh(nn.Module):
    r"""Creates $\tanh x = 2 \sigma(2 x) - 1$: right to the rounding of 1, and faster than torch's
    own on a processor.
    """

    def forward(self, x: Tensor) -> Tensor:
        return 2 * torch.sigmoid(2 * x) - 1


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
}


class Network(nn.Module, abc.ABC):
    """Abstract network.

    A subclass takes ``(in_shape, out_shape, context_dim=0, ...)``, in this order.
    """

    @abc.abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        r"""Returns the output for x (\*, B, \*in_shape) and context (B, C): (\*, B,
        \*out_shape).
        """


NetworkFactory = Callable[[tuple[int, ...], tuple[int, ...], int], Network]


class Linear(Network):
    """Creates an affine map: with it a VAE with a Normal likelihood is probabilistic PCA."""

    def __init__(
        self, in_shape: Sequence[int], out_shape: Sequence[int], context_dim: int = 0
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        self.map = Affine(math.prod(in_shape) + context_dim, math.prod(out_shape))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        joined = _join(_flatten(x, len(self.in_shape)), context)
        return self.map(joined).unflatten(-1, self.out_shape)


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
        joined = _join(_flatten(x, len(self.in_shape)), context)
        return self.layers(joined).unflatten(-1, self.out_shape)


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
        joined = _join(_flatten(x, len(self.in_shape)), context)
        return (self.linear(joined) + self.layers(joined)).unflatten(-1, self.out_shape)


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

    References: dauphin2017, tomczak2018.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        context_dim: int = 0,
        hidden: Sequence[int] = (300, 300),
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        self.hidden = check_widths(hidden)
        widths = [math.prod(in_shape) + context_dim, *hidden]
        self.layers = nn.ModuleList(Affine(a, 2 * b) for a, b in itertools.pairwise(widths))
        self.head = Affine(widths[-1], math.prod(out_shape))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        units = _join(_flatten(x, len(self.in_shape)), context)
        for layer in self.layers:
            units = functional.glu(layer(units), -1)
        return self.head(units).unflatten(-1, self.out_shape)


class ConvEncoder(Network):
    """Creates a convolutional encoder for images of any size, (H, W), (H, W, C) or (C, H, W).

    Each convolution halves the sides (rounding up) until the shorter one is at most 4; a linear
    layer joins the context.

    Args:
        in_shape: Shape of one image.
        out_shape: Shape of one output.
        context_dim: C, features of the context, joined after the convolutions.
        channels: Channels of the first convolution; each further one doubles them, up to 8 times as
            many.
        activation: One of tanh, relu, leaky_relu, gelu, silu, elu, softplus.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        context_dim: int = 0,
        channels: int = 32,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        self.channels, self.activation = channels, activation
        image_channels, height, width, self._axis = image_layout(in_shape)
        sides, widths = _pyramid(height, width, channels)
        layers: list[nn.Module] = []
        for a, b, side in zip([image_channels, *widths[:-1]], widths, sides, strict=True):
            layers.append(nn.Conv2d(a, b, 3, stride=2, padding=1))
            layers += [*self.stage(b, lowest=side is sides[-1]), activation_of(activation)]
        self.convolutions = nn.Sequential(*layers)
        self.head = Affine(widths[-1] * math.prod(sides[-1]) + context_dim, math.prod(out_shape))

    def stage(self, channels: int, lowest: bool) -> list[nn.Module]:
        """Returns what follows a convolution to so many channels, the last one or not."""
        return []

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        batch = x.shape[: x.dim() - len(self.in_shape)]
        image = x.reshape(-1, *self.in_shape)
        if self._axis is None:
            image = image.unsqueeze(1)
        elif self._axis == 2:
            image = image.movedim(-1, 1)
        features = self.convolutions(image.contiguous()).flatten(1).unflatten(0, batch)
        return self.head(_join(features, context)).unflatten(-1, self.out_shape)


class ConvDecoder(Network):
    """Creates a convolutional decoder, the mirror of ``ConvEncoder``, for images of any size.

    Args:
        in_shape: Shape of one input.
        out_shape: (P, *image): P parameters of each element of an image (H, W), (H, W, C) or (C, H,
            W).
        context_dim: C, features of the context, joined to the input.
        channels: Channels of the last hidden layer; each earlier one doubles them, up to 8 times as
            many.
        activation: One of tanh, relu, leaky_relu, gelu, silu, elu, softplus.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        context_dim: int = 0,
        channels: int = 32,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        self.channels, self.activation = channels, activation
        image_channels, height, width, self._axis = image_layout(out_shape[1:])
        sides, widths = _pyramid(height, width, channels)
        self._start = (widths[-1], *sides[-1])
        self.stem = Affine(math.prod(in_shape) + context_dim, math.prod(self._start))
        layers: list[nn.Module] = []
        targets = [*reversed(sides[:-1]), (height, width)]
        outs = [*reversed(widths[:-1]), out_shape[0] * image_channels]
        side, last = sides[-1], widths[-1]
        for target, out in zip(targets, outs, strict=True):
            # A stride of 2 turns side n into 2n - 1 or 2n: the output padding decides which, so
            # that odd sides are right.
            padding = tuple(t - (2 * s - 1) for t, s in zip(target, side, strict=True))
            layers += [
                *self.stage(last, lowest=side is sides[-1]),
                activation_of(activation),
                nn.ConvTranspose2d(last, out, 3, 2, 1, output_padding=padding),  # type: ignore[arg-type]
            ]
            side, last = target, out
        self.convolutions = nn.Sequential(*layers)

    def stage(self, channels: int, lowest: bool) -> list[nn.Module]:
        """Returns what precedes a convolution from so many channels, the first one or not."""
        return []

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        features = _join(_flatten(x, len(self.in_shape)), context)
        batch = features.shape[:-1]
        image = self.convolutions(self.stem(features).reshape(-1, *self._start))
        image = image.unflatten(1, (self.out_shape[0], -1))
        if self._axis is None:
            image = image.squeeze(2)
        elif self._axis == 2:
            image = image.movedim(2, -1)
        return image.unflatten(0, batch)


def _pyramid(height: int, width: int, channels: int) -> tuple[list[tuple[int, int]], list[int]]:
    sides = [(-(-height // 2), -(-width // 2))]
    while min(sides[-1]) > 4:
        h, w = sides[-1]
        sides.append((-(-h // 2), -(-w // 2)))
    return sides, [channels * min(2**i, 8) for i in range(len(sides))]


def check_widths(hidden: Sequence[int]) -> tuple[int, ...]:
    """Returns the widths of hidden layers.

    Raises:
        ValueError: they are not a list of positive whole numbers.
    """
    listed = isinstance(hidden, Sequence)
    if not listed or not all(isinstance(width, int) and width > 0 for width in hidden):
        raise ValueError(
            f"hidden must list the widths of the layers, such as (200, 200), not {hidden!r}"
        )
    return tuple(hidden)


def activation_of(name: str) -> nn.Module:
    """Returns the activation of a name.

    Raises:
        ValueError: there is none.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}: one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def _flatten(x: Tensor, event_dims: int) -> Tensor:
    return x.flatten(x.dim() - event_dims) if event_dims != 1 else x


def _join(features: Tensor, context: Tensor | None) -> Tensor:
    if context is None:
        return features
    return torch.cat([features, context.expand(*features.shape[:-1], -1)], -1)


def inverse_softplus(y: float) -> float:
    """Returns the x with softplus(x) = y, so that a raw output of 0 can stand for any positive
    value.
    """
    return y + math.log(-math.expm1(-y))


def inverse_positive(y: Tensor) -> Tensor:
    """Returns the raw value with positive(raw) = y."""
    return y + torch.log(-torch.expm1(-y)) - inverse_softplus(1.0)


def positive(raw: Tensor) -> Tensor:
    """Returns softplus(raw + c), c being such that a raw 0 gives 1: positive, and linear for large
    values, where exp would explode.
    """
    return functional.softplus(raw + inverse_softplus(1.0))
