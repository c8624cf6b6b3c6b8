r"""Residual convolutional networks, with self-attention where the image is smallest.

The encoder and the decoder are those of ``convolutions`` with residual blocks between the
convolutions that change the size:

$$ u \leftarrow u + W_2 * f(W_1 * f(u)), $$

in which $W_2$ is zero at first, so that training starts at the plain network. Nothing is normalised
over a batch: log p(x) of a data point would depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from taut.networks.common import activation_of, zeroed
from taut.networks.convolutions import ConvDecoder, ConvEncoder

__all__ = ["ResidualConvDecoder", "ResidualConvEncoder"]


class Block(nn.Module):
    """Creates a residual block with the activations first, the identity at the start.

    References: he2016.
    """

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        last = nn.Conv2d(channels, channels, 3, padding=1)
        self.layers = nn.Sequential(
            activation_of(activation),
            nn.Conv2d(channels, channels, 3, padding=1),
            activation_of(activation),
            zeroed(last),
        )

    def forward(self, image: Tensor) -> Tensor:
        return image + self.layers(image)


class Attention(nn.Module):
    r"""Creates $u_i + V \sum_j \mathrm{softmax}_j(q_i^\top k_j / \sqrt C) \, v_j$ over the
    places i of an image: one head, the identity at the start.

    References: vaswani2017.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.seen = nn.Conv2d(channels, 3 * channels, 1)
        self.last = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, image: Tensor) -> Tensor:
        query, key, value = self.seen(image).flatten(2).mT.chunk(3, -1)  # (B, places, C) each
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = image + self.last(mixed.mT.unflatten(2, image.shape[2:]))
        return out


class ResidualConvEncoder(ConvEncoder):
    """Creates a residual convolutional encoder for images of any size, (H, W), (H, W, C) or
    (C, H, W).

    Each convolution halves the sides (rounding up) until the shorter one is at most 4, residual
    blocks follow it, and a linear layer joins the context.

    Args:
        in_shape: Shape of one image.
        out_shape: Shape of one output.
        context_dim: C, features of the context, joined after the convolutions.
        channels: Channels of the first convolution; each further one doubles them, up to 8 times as
            many.
        activation: One of tanh, relu, leaky_relu, gelu, silu, elu, softplus.
        blocks: Residual blocks at each size.
        attention: Whether self-attention follows the blocks of the smallest size, for what lies far
            apart in images of 32 pixels or more.

    Raises:
        ValueError: ``blocks`` is negative.

    References: he2016, vaswani2017.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        context_dim: int = 0,
        channels: int = 32,
        activation: str = "silu",
        blocks: int = 1,
        attention: bool = False,
    ) -> None:
        self.blocks, self.attention = blocks, attention
        super().__init__(in_shape, out_shape, context_dim, channels, activation)

    def stage(self, channels: int, lowest: bool) -> list[nn.Module]:
        attended = self.attention and lowest
        return _stage(channels, self.blocks, attended, self.activation)


class ResidualConvDecoder(ConvDecoder):
    """Creates a residual convolutional decoder, the mirror of ``ResidualConvEncoder``, for images
    of any size.

    Args:
        in_shape: Shape of one input.
        out_shape: (P, *image): P parameters of each element of an image (H, W), (H, W, C) or (C, H,
            W).
        context_dim: C, features of the context, joined to the input.
        channels: Channels of the last hidden layer; each earlier one doubles them, up to 8 times as
            many.
        activation: One of tanh, relu, leaky_relu, gelu, silu, elu, softplus.
        blocks: Residual blocks at each size but that of the image.
        attention: Whether self-attention follows the blocks of the smallest size.

    Raises:
        ValueError: ``blocks`` is negative.

    References: he2016, vaswani2017.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        context_dim: int = 0,
        channels: int = 32,
        activation: str = "silu",
        blocks: int = 1,
        attention: bool = False,
    ) -> None:
        self.blocks, self.attention = blocks, attention
        super().__init__(in_shape, out_shape, context_dim, channels, activation)

    def stage(self, channels: int, lowest: bool) -> list[nn.Module]:
        attended = self.attention and lowest
        return _stage(channels, self.blocks, attended, self.activation)


def _stage(channels: int, blocks: int, attention: bool, activation: str) -> list[nn.Module]:
    if blocks < 0:
        raise ValueError(f"blocks must be 0 or more, not {blocks}")
    made: list[nn.Module] = [Block(channels, activation) for _ in range(blocks)]
    if attention:
        made.append(Attention(channels))
    return made
