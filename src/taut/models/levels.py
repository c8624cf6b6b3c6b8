r"""The sizes and the networks of the levels of a hierarchy: of vectors, or of maps of an image.

Levels are numbered from the top, 0, to L - 1. A map is carried flat, so that a hierarchy need not
know which of the two it is made of.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from taut.features import Features
from taut.networks import Linear, NetworkFactory, Residual
from taut.networks.common import zeroed
from taut.networks.maps import FromImage, Maps, Shape, ToImage, halved, resized
from taut.types import image_layout

__all__ = ["Levels", "MapLevels", "VectorLevels"]


class Levels(abc.ABC):
    """Abstract choice of the networks of a hierarchy.

    Args:
        sizes: Numbers of the z of each level, the top first.
        widths: Numbers of the states of each level.
    """

    decoder: NetworkFactory | None = None
    """What decodes the last state and z, where that is not for the user to say."""

    def __init__(self, sizes: Sequence[int], widths: Sequence[int]) -> None:
        self.sizes, self.widths = list(sizes), list(widths)

    def __len__(self) -> int:
        return len(self.sizes)

    def told(self, number: int) -> tuple[int, ...]:
        """Returns the shape of what the pass from the bottom up says to a level: the parameters of
        q at the top, u below it.
        """
        return (2, self.sizes[0]) if number == 0 else (self.widths[number],)

    @abc.abstractmethod
    def encoder(self, features: Features, context_dim: int) -> nn.Module:
        """Returns the network from what is seen of x to what is said to the last level."""

    @abc.abstractmethod
    def up(self, number: int) -> nn.Module:
        """Returns the network from the u of the level below to what is said to a level."""

    @abc.abstractmethod
    def down(self, number: int) -> nn.Module:
        """Returns the network from state and z of the level above to the state of one."""

    @abc.abstractmethod
    def prior_head(self, number: int) -> nn.Module:
        """Returns the network from a state to the parameters of p, (2, D): those of N(0, 1) at
        first.
        """

    @abc.abstractmethod
    def posterior_head(self, number: int) -> nn.Module:
        """Returns the network from a state and u to the parameters of q, (2, D)."""

    @abc.abstractmethod
    def carried(self, state: Tensor, source: int, target: int) -> Tensor:
        """Returns a state of one level as one of another, which what is new there is added to."""


class VectorLevels(Levels):
    """Creates levels of vectors.

    Args:
        latent_dim: Numbers of each z.
        levels: L.
        width: Numbers of each state.
        encoder: Network from x to u.
        network: The others.
    """

    def __init__(
        self,
        latent_dim: int,
        levels: int,
        width: int,
        encoder: NetworkFactory,
        network: NetworkFactory | None,
    ) -> None:
        super().__init__([latent_dim] * levels, [width] * levels)
        self.own, self.network = encoder, network or partial(Residual, hidden=(width,))

    def encoder(self, features: Features, context_dim: int) -> nn.Module:
        return self.own(features.out_shape, self.told(len(self) - 1), context_dim)

    def up(self, number: int) -> nn.Module:
        return self.network((self.widths[number],), self.told(number), 0)

    def down(self, number: int) -> nn.Module:
        above = self.sizes[number - 1] + (self.widths[number - 1] if number > 1 else 0)
        return self.network((above,), (self.widths[number],), 0)

    def prior_head(self, number: int) -> nn.Module:
        return zeroed(Linear((self.widths[number],), (2, self.sizes[number])))

    def posterior_head(self, number: int) -> nn.Module:
        return self.network((2 * self.widths[number],), (2, self.sizes[number]), 0)

    def carried(self, state: Tensor, source: int, target: int) -> Tensor:
        return state


class MapLevels(Levels):
    """Creates levels of maps: the last is half as high and wide as the image, rounding up, each
    one above it half of that, and one value at the least.

    Args:
        event_shape: Shape of an image.
        latent_dim: Channels of each z.
        levels: L.
        channels: Channels of each state.
        blocks: Residual blocks of a network.

    Raises:
        ValueError: x is not an image.
    """

    def __init__(
        self, event_shape: Sequence[int], latent_dim: int, levels: int, channels: int, blocks: int
    ) -> None:
        try:
            _, height, width, _ = image_layout(event_shape)
        except ValueError as error:
            raise ValueError(f"channels is for images, and {error}: omit it") from None
        sides = [halved((height, width))]
        while len(sides) < levels:
            sides.append(halved(sides[-1]))
        self.sides = sides[::-1]
        areas = [high * wide for high, wide in self.sides]
        super().__init__([latent_dim * n for n in areas], [channels * n for n in areas])
        self.event_shape = tuple(event_shape)
        self.latent_dim, self.channels, self.blocks = latent_dim, channels, blocks
        last = self.shape(latent_dim + (channels if levels > 1 else 0), levels - 1)
        self.decoder = partial(ToImage, in_map=last, channels=channels, blocks=blocks)

    def shape(self, channels: int, number: int) -> Shape:
        return channels, *self.sides[number]

    def spoken(self, number: int) -> Shape:
        """Returns the maps of what is said to a level."""
        return self.shape(2 * self.latent_dim if number == 0 else self.channels, number)

    def encoder(self, features: Features, context_dim: int) -> nn.Module:
        if context_dim:
            raise ValueError("maps are not given a context: omit channels")
        last = len(self) - 1
        return FromImage(
            features.out_shape,
            self.event_shape,
            self.spoken(last),
            self.told(last),
            self.channels,
            self.blocks,
        )

    def up(self, number: int) -> nn.Module:
        below = self.shape(self.channels, number + 1)
        return self._maps(below, self.spoken(number), self.told(number))

    def down(self, number: int) -> nn.Module:
        above = self.latent_dim + (self.channels if number > 1 else 0)
        here = self.shape(self.channels, number)
        return self._maps(self.shape(above, number - 1), here, (self.widths[number],))

    def prior_head(self, number: int) -> nn.Module:
        here, found = self.shape(self.channels, number), self.shape(2 * self.latent_dim, number)
        head = Maps(here, found, (2, self.sizes[number]), self.channels, 0)
        zeroed(head.layers[-1])
        return head

    def posterior_head(self, number: int) -> nn.Module:
        both, found = self.shape(2 * self.channels, number), 2 * self.latent_dim
        return self._maps(both, self.shape(found, number), (2, self.sizes[number]))

    def _maps(self, source: Shape, target: Shape, out_shape: tuple[int, ...]) -> Maps:
        return Maps(source, target, out_shape, self.channels, self.blocks)

    def carried(self, state: Tensor, source: int, target: int) -> Tensor:
        if self.sides[source] == self.sides[target]:
            return state
        maps = state.reshape(-1, *self.shape(self.channels, source))
        return resized(maps, self.sides[target]).reshape(*state.shape[:-1], -1)
