"""Convolutions, for images of any size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from taut.networks.common import Network, activation_of, flat, joined
from taut.system.products import Affine
from taut.types import image_layout

__all__ = ["ConvDecoder", "ConvEncoder"]


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
        image_channels, height, width, _ = image_layout(in_shape)
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
        features = self.convolutions(to_maps(x, self.in_shape)).flatten(1).unflatten(0, batch)
        return self.head(joined(features, context)).unflatten(-1, self.out_shape)


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
        image_channels, height, width, _ = image_layout(out_shape[1:])
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
        features = joined(flat(x, len(self.in_shape)), context)
        batch = features.shape[:-1]
        image = self.convolutions(self.stem(features).reshape(-1, *self._start))
        return to_images(image, self.out_shape).unflatten(0, batch)


def to_maps(x: Tensor, shape: Sequence[int]) -> Tensor:
    r"""Returns images (\*, \*shape) as maps, (N, C, H, W)."""
    axis, image = image_layout(shape)[3], x.reshape(-1, *shape)
    if axis is None:
        image = image.unsqueeze(1)
    elif axis == 2:
        image = image.movedim(-1, 1)
    return image.contiguous()


def to_images(maps: Tensor, shape: Sequence[int]) -> Tensor:
    r"""Returns maps (N, P C, H, W) as P parameters of each element of an image, (N, P,
    \*image).
    """
    axis, image = image_layout(shape[1:])[3], maps.unflatten(1, (shape[0], -1))
    if axis is None:
        image = image.squeeze(2)
    elif axis == 2:
        image = image.movedim(2, -1)
    return image


def _pyramid(height: int, width: int, channels: int) -> tuple[list[tuple[int, int]], list[int]]:
    sides = [(-(-height // 2), -(-width // 2))]
    while min(sides[-1]) > 4:
        h, w = sides[-1]
        sides.append((-(-h // 2), -(-w // 2)))
    return sides, [channels * min(2**i, 8) for i in range(len(sides))]
