r"""A U-Net: an image in, numbers of each of its elements out.

The image is halved, rounding up, until its shorter side is at most 4, and grows again through the
same sizes; at each the features of the way down are joined to those of the way up, so that what is
small is not lost in what is far. What is given beside the image, such as the time of a diffusion,
shifts the channels of every block:

$$ u \leftarrow u + W_2 * f(\mathrm{norm}(W_1 * f(\mathrm{norm}(u)) + A c)). $$

The norm is that of one image, so that none depends on its neighbours. $W_2$ and the last layer are
zero at first: the network begins as zeros.

References: ronneberger2015, ho2020.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from taut.networks.common import Network, activation_of, zeroed
from taut.networks.convolutions import to_images, to_maps
from taut.networks.maps import halved, resized
from taut.networks.residual import Attention
from taut.system.products import Affine
from taut.types import image_layout

__all__ = ["UNet"]


class Shifted(nn.Module):
    """Creates a residual block whose channels a context shifts, the identity at the start.

    Args:
        channels: Channels.
        context_dim: C.
        activation: Name of the activation.
        dropout: Probability that a value is dropped in training.
    """

    def __init__(self, channels: int, context_dim: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.enter = nn.Sequential(
            nn.GroupNorm(1, channels),
            activation_of(activation),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.shift = Affine(context_dim, channels) if context_dim else None
        self.leave = nn.Sequential(
            nn.GroupNorm(1, channels),
            activation_of(activation),
            nn.Dropout(dropout),
            zeroed(nn.Conv2d(channels, channels, 3, padding=1)),
        )

    def forward(self, maps: Tensor, context: Tensor | None) -> Tensor:
        units: Tensor = self.enter(maps)
        if self.shift is not None:
            units = units + self.shift(context)[..., None, None]
        out: Tensor = maps + self.leave(units)
        return out


class Stage(nn.ModuleList):
    """Creates blocks one after the other, each given the context."""

    def forward(self, maps: Tensor, context: Tensor | None) -> Tensor:
        for block in self:
            maps = block(maps, context)
        return maps


class UNet(Network):
    """Creates a U-Net for images of any size, (H, W), (H, W, C) or (C, H, W), zero at first.

    Args:
        in_shape: Shape of one image.
        out_shape: (P, *image): P numbers of each element of an image of the same size.
        context_dim: C, features of the context, which shift the channels of each block.
        channels: Channels at the size of the image; each smaller size doubles them, up to 4 times
            as many.
        blocks: Residual blocks at each size, on the way down and on the way up.
        activation: One of tanh, relu, leaky_relu, gelu, silu, elu, softplus.
        dropout: Probability that a hidden value of a block is dropped in training.
        attention: Whether self-attention follows the blocks of the smallest size.

    Raises:
        ValueError: ``channels`` or ``blocks`` is below 1, x is not an image, or the result is of
            another size.

    References: ronneberger2015, ho2020, vaswani2017.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        context_dim: int = 0,
        channels: int = 32,
        blocks: int = 1,
        activation: str = "silu",
        dropout: float = 0.0,
        attention: bool = False,
    ) -> None:
        super().__init__()
        if min(channels, blocks) < 1:
            raise ValueError(f"channels and blocks must be at least 1, not {channels} and {blocks}")
        own, height, width, _ = image_layout(in_shape)
        out, *side, _ = image_layout(out_shape[1:])
        if side != [height, width]:
            raise ValueError(f"a U-Net makes images of the size that it is given, not {out_shape}")
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        self.channels, self.blocks, self.activation = channels, blocks, activation
        self.dropout, self.attention = dropout, attention
        self.sides = [(height, width), halved((height, width))]
        while min(self.sides[-1]) > 4:
            self.sides.append(halved(self.sides[-1]))
        widths = [channels * min(2**i, 4) for i in range(len(self.sides))]

        def stage(size: int) -> Stage:
            return Stage(Shifted(size, context_dim, activation, dropout) for _ in range(blocks))

        before = [own, *widths[:-1]]
        self.enter = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=1 + (i > 0), padding=1)
            for i, (a, b) in enumerate(zip(before, widths, strict=True))
        )
        self.down = nn.ModuleList(map(stage, widths))
        self.lowest = Attention(widths[-1]) if attention else nn.Identity()
        above = widths[-2::-1]
        self.join = nn.ModuleList(
            nn.Conv2d(a + b, b, 3, padding=1) for a, b in zip(widths[:0:-1], above, strict=True)
        )
        self.up = nn.ModuleList(map(stage, above))
        self.leave = nn.Sequential(
            nn.GroupNorm(1, channels),
            activation_of(activation),
            zeroed(nn.Conv2d(channels, out_shape[0] * out, 3, padding=1)),
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        batch = x.shape[: x.dim() - len(self.in_shape)]
        if context is not None:
            context = context.expand(*batch, -1).reshape(-1, context.shape[-1])
        maps, kept = to_maps(x, self.in_shape), []
        for enter, stage in zip(self.enter, self.down, strict=True):
            maps = stage(enter(maps), context)
            kept.append(maps)
        maps = self.lowest(kept.pop())
        for join, stage in zip(self.join, self.up, strict=True):
            other = kept.pop()
            side = (other.shape[-2], other.shape[-1])
            maps = stage(join(torch.cat([resized(maps, side), other], 1)), context)
        return to_images(self.leave(maps), self.out_shape).unflatten(0, batch)
