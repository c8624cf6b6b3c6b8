r"""From maps to maps: the networks of models whose states are maps of an image, (C, H, W).

A state is carried flat, (\*, C H W), as any vector is, so that what joins and splits vectors joins
and splits the channels of maps.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from taut.networks.common import Network
from taut.networks.convolutions import to_images, to_maps
from taut.networks.residual import Block
from taut.types import image_layout

Shape = tuple[int, int, int]  # channels, height, width


def halved(side: tuple[int, int]) -> tuple[int, int]:
    """Returns half of a side, rounding up."""
    return -(-side[0] // 2), -(-side[1] // 2)


def resized(maps: Tensor, side: tuple[int, int]) -> Tensor:
    """Returns maps (N, C, H, W) at another side: the means of two by two where that is ``halved``,
    else the nearest value.
    """
    here = (maps.shape[-2], maps.shape[-1])
    if here == side:
        return maps
    if side == halved(here):
        return functional.avg_pool2d(maps, 2, ceil_mode=True)
    return functional.interpolate(maps, size=side)


class Larger(nn.Module):
    """Creates the map to another side by the nearest values."""

    def __init__(self, side: tuple[int, int]) -> None:
        super().__init__()
        self.side = side

    def forward(self, maps: Tensor) -> Tensor:
        return functional.interpolate(maps, size=self.side)


class Maps(Network):
    r"""Creates a network from flat maps to maps, of any side that is not smaller or is ``halved``:
    a convolution that changes the size, residual blocks, and one that gives the channels of the
    result. It is linear but for what the blocks add, which is nothing at first.

    Args:
        in_map: Shape of the maps that it is given.
        out_map: Shape of its maps.
        out_shape: What those are as numbers: as many.
        channels: Channels of the blocks.
        blocks: Residual blocks.

    References: he2016, vahdat2020.
    """

    def __init__(
        self, in_map: Shape, out_map: Shape, out_shape: Sequence[int], channels: int, blocks: int
    ) -> None:
        super().__init__()
        self.in_map, self.out_shape = in_map, tuple(out_shape)
        smaller = out_map[1:] == halved(in_map[1:]) != in_map[1:]
        self.layers = nn.Sequential(
            nn.Identity() if smaller else Larger(out_map[1:]),
            nn.Conv2d(in_map[0], channels, 3, stride=1 + smaller, padding=1),
            *(Block(channels, "silu") for _ in range(blocks)),
            nn.Conv2d(channels, out_map[0], 1),
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        maps: Tensor = self.layers(x.reshape(-1, *self.in_map))
        return maps.reshape(*x.shape[:-1], *self.out_shape)


class FromImage(Maps):
    """Creates the same from an image as ``Features`` shows it: with gaps, which of its elements
    are missing is shown too.

    Args:
        shown: Shape of what is shown.
        event_shape: Shape of the image.
        out_map: Shape of its maps.
        out_shape: What those are as numbers.
        channels: Channels of the blocks.
        blocks: Residual blocks.
    """

    def __init__(
        self,
        shown: Sequence[int],
        event_shape: Sequence[int],
        out_map: Shape,
        out_shape: Sequence[int],
        channels: int,
        blocks: int,
    ) -> None:
        own, height, width, _ = image_layout(event_shape)
        times = shown[0] if len(shown) > len(event_shape) else 1
        super().__init__((times * own, height, width), out_map, out_shape, channels, blocks)
        self.shown, self.event_shape = tuple(shown), tuple(event_shape)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        batch = x.shape[: x.dim() - len(self.shown)]
        maps: Tensor = self.layers(to_maps(x, self.event_shape).reshape(-1, *self.in_map))
        return maps.reshape(*batch, *self.out_shape)


class ToImage(Network):
    """Creates the decoder of flat maps: blocks at their side, and one at that of the image.

    Args:
        in_shape: (C H W,).
        out_shape: (P, *image).
        context_dim: 0.
        in_map: (C, H, W).
        channels: Channels of the blocks.
        blocks: Residual blocks at the side of the maps.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        context_dim: int = 0,
        *,
        in_map: Shape,
        channels: int,
        blocks: int,
    ) -> None:
        super().__init__()
        self.in_map, self.out_shape = in_map, tuple(out_shape)
        own, height, width, _ = image_layout(out_shape[1:])
        self.layers = nn.Sequential(
            nn.Conv2d(in_map[0], channels, 3, padding=1),
            *(Block(channels, "silu") for _ in range(blocks)),
            Larger((height, width)),
            Block(channels, "silu"),
            nn.Conv2d(channels, out_shape[0] * own, 3, padding=1),
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        image = self.layers(x.reshape(-1, *self.in_map))
        return to_images(image, self.out_shape).unflatten(0, x.shape[:-1])
