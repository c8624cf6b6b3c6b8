"""A U-Net: zeros at first, any size, and what it joins by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from taut.networks import UNet

SIZES = [(5, 5), (3, 8, 6), (12, 17, 1), (1, 1), (9, 2)]


def moved(image: tuple[int, ...], context_dim: int = 2, **settings: object) -> UNet:
    """Returns a U-Net of which nothing is zero."""
    network = UNet(image, (2, *image), context_dim, channels=3, **settings).eval()
    for p in network.parameters():
        nn.init.normal_(p, std=0.3)
    return network


@pytest.mark.parametrize("image", SIZES)
def test_it_begins_as_zeros_of_any_size(image: tuple[int, ...]) -> None:
    network = UNet(image, (2, *image), 2, channels=3, attention=True)
    found = network(torch.randn(4, 3, *image), torch.randn(3, 2))
    assert torch.equal(found, torch.zeros(4, 3, 2, *image))


@pytest.mark.parametrize("image", SIZES[:3])
@pytest.mark.parametrize("attention", [False, True])
def test_a_gradient_reaches_every_weight(image: tuple[int, ...], attention: bool) -> None:
    """After three steps: what is zero at first hides what comes before it."""
    network = UNet(image, (2, *image), 2, channels=2, blocks=2, attention=attention)
    x, context = torch.randn(4, *image), torch.randn(4, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        (network(x, context) - 1).square().mean().backward()
        optimizer.step()
    for name, parameter in network.named_parameters():
        grad = parameter.grad
        assert grad is not None
        if name == "lowest.seen.bias":  # that of the keys changes no share
            grad = grad[-len(grad) // 3 :]
        assert float(grad.abs().amax()) > 0, name


@pytest.mark.parametrize("image", SIZES)
def test_an_image_does_not_see_its_neighbours(image: tuple[int, ...]) -> None:
    network, x, context = moved(image), torch.randn(4, 3, *image), torch.randn(3, 2)
    whole = network(x, context)
    alone = network(x[2, 1:2], context[1:2])
    torch.testing.assert_close(whole[2, 1:2], alone, rtol=0, atol=1e-10)


def test_the_layout_of_the_channels_does_not_matter() -> None:
    first, last = moved((3, 9, 7)), moved((9, 7, 3))
    last.load_state_dict(first.state_dict())
    x, context = torch.randn(2, 3, 9, 7), torch.randn(2, 2)
    found = last(x.movedim(1, -1), context).movedim(-1, 2)
    torch.testing.assert_close(first(x, context), found, rtol=0, atol=1e-10)


def test_sizes_are_halved_to_four() -> None:
    assert UNet((28, 20), (1, 28, 20)).sides == [(28, 20), (14, 10), (7, 5), (4, 3)]
    assert UNet((4, 4), (1, 4, 4)).sides == [(4, 4), (2, 2)]
    assert [len(stage) for stage in UNet((9, 9), (1, 9, 9), blocks=2).up] == [2, 2]


@torch.no_grad()
def test_a_pixel_is_seen_from_far_and_from_near() -> None:
    """The lower size carries it to the other corner; without that its own place still knows it."""
    network, x = moved((16, 16), 0), torch.randn(1, 16, 16)
    for norm in network.modules():
        if isinstance(norm, nn.GroupNorm):  # it alone carries a little to everywhere
            norm.weight.zero_()
    other = x.clone()
    other[0, 3, 3] += 1
    change = (network(x) - network(other)).abs()[0].amax(0)
    assert float(change.amax()) == 0  # a norm of weight zero hides all but the shifts
    network = moved((16, 16), 0)
    for norm in network.modules():
        if isinstance(norm, nn.GroupNorm):
            norm.forward = lambda maps: maps
    change = (network(x) - network(other)).abs()[0].amax(0)
    assert float(change[15, 15]) > 0
    for join in network.join:
        join.weight[:, : join.in_channels - join.out_channels] = 0  # of the lower size
    change = (network(x) - network(other)).abs()[0].amax(0)
    assert float(change[3, 3]) > 0
    assert float(change[15, 15]) == 0


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"channels": 0}, "channels and blocks must be at least 1, not 0 and 1"),
        ({"blocks": 0}, "channels and blocks must be at least 1, not 32 and 0"),
        ({"out_shape": (1, 4, 5)}, "images of the size that it is given"),
        ({"in_shape": (5,)}, "is not an image"),
        ({"activation": "reluu"}, "unknown activation"),
    ],
)
def test_what_is_refused(settings: dict, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        UNet(**{"in_shape": (4, 4), "out_shape": (1, 4, 4)} | settings)
