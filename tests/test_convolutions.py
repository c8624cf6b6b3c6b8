"""Residual convolutional networks: the plain ones at the start, and attention by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import taut
from taut.networks.residual import Attention, Block, ResidualConvDecoder, ResidualConvEncoder

SIZES = [(5, 5), (3, 8, 6), (12, 17, 1), (33, 47)]


def pair(image: tuple[int, ...], blocks: int = 2) -> tuple[taut.Network, taut.Network]:
    """Returns an encoder to 6 numbers and a decoder from 3, of two parameters an element."""
    given = {"channels": 3, "blocks": blocks, "attention": True}
    encoder = ResidualConvEncoder(image, (6,), **given)
    return encoder, ResidualConvDecoder((3,), (2, *image), **given)


@pytest.mark.parametrize("image", SIZES)
def test_training_starts_at_the_plain_network_at_any_size(image: tuple[int, ...]) -> None:
    encoder, decoder = pair(image)
    plain = taut.ConvEncoder(image, (6,), channels=3), taut.ConvDecoder((3,), (2, *image), 0, 3)
    x, z = torch.randn(4, *image), torch.randn(4, 3)
    for residual, other, given in ((encoder, plain[0], x), (decoder, plain[1], z)):
        # the same layers in the same order, but for what is the identity
        kept = [m for m in residual.convolutions if not isinstance(m, Block | Attention)]
        other.convolutions = nn.Sequential(*kept)
        for name in ("head", "stem"):
            if hasattr(residual, name):
                setattr(other, name, getattr(residual, name))
        assert len(residual.convolutions) - len(kept) >= 3
        torch.testing.assert_close(residual(given), other(given), rtol=0, atol=1e-10)


@pytest.mark.parametrize("image", SIZES)
def test_a_gradient_reaches_every_weight(image: tuple[int, ...]) -> None:
    """After one step: until then a last layer that is zero hides those before it."""
    for network, given in zip(
        pair(image), (torch.randn(6, *image), torch.randn(6, 3)), strict=True
    ):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            network(given).square().sum().backward()
            optimizer.step()
        for name, parameter in network.named_parameters():
            grad = parameter.grad
            assert grad is not None
            # The bias of the keys adds the same to all scores of a query, which changes nothing;
            # a single place has no scores at all.
            if "seen" in name:
                grad = grad[-3 if grad.dim() == 1 else 0 :]
            assert float(grad.abs().amax()) > 0, name


def test_a_block_by_hand() -> None:
    block, x = Block(2, "relu"), torch.randn(3, 2, 4, 5)
    first, last = block.layers[1], block.layers[3]
    nn.init.normal_(last.weight)
    inner = nn.functional.conv2d(x.relu(), first.weight, first.bias, padding=1).relu()
    expected = x + nn.functional.conv2d(inner, last.weight, last.bias, padding=1)
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-10)


def test_attention_by_hand() -> None:
    attention, x = Attention(2), torch.randn(3, 2, 4, 5)
    nn.init.normal_(attention.last.weight)
    places = x.flatten(2)
    seen = torch.einsum("oc,bcp->bop", attention.seen.weight[..., 0, 0], places)
    query, key, value = (seen + attention.seen.bias[:, None]).split(2, 1)
    share = (torch.einsum("bcp,bcq->bpq", query, key) / math.sqrt(2)).softmax(-1)
    mixed = torch.einsum("bpq,bcq->bcp", share, value)
    out = torch.einsum("oc,bcp->bop", attention.last.weight[..., 0, 0], mixed)
    torch.testing.assert_close(attention(x), x + out.view_as(x), rtol=0, atol=1e-10)


def test_blocks_and_attention_stand_where_they_are_asked_for() -> None:
    for blocks, attention in ((0, False), (2, False), (1, True)):
        for network in (
            ResidualConvEncoder((32, 32), (2,), 0, 2, "silu", blocks, attention),
            ResidualConvDecoder((2,), (1, 32, 32), 0, 2, "silu", blocks, attention),
        ):
            kinds = [type(m) for m in network.convolutions]
            levels = kinds.count(nn.Conv2d) + kinds.count(nn.ConvTranspose2d)
            assert levels == 3  # 32 to 16, 8 and 4
            assert kinds.count(Block) == blocks * levels
            assert kinds.count(Attention) == int(attention)
    with pytest.raises(ValueError, match="blocks must be 0 or more, not -1"):
        ResidualConvEncoder((8, 8), (2,), blocks=-1)
