"""What the networks share: shapes, activations, and how a raw output becomes positive."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Network"]


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


def check_positive(value: float, name: str = "min_scale", limit: float = math.inf) -> float:
    """Returns a number that a part was given.

    Raises:
        ValueError: it is not above zero, or not below the limit.
    """
    if not value > 0:
        raise ValueError(f"{name} must be positive, not {value}")
    if not value < limit:
        raise ValueError(f"{name} must be below {limit:g}, not {value}")
    return value


def activation_of(name: str) -> nn.Module:
    """Returns the activation of a name.

    Raises:
        ValueError: there is none.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}: one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def flat(x: Tensor, event_dims: int) -> Tensor:
    return x.flatten(x.dim() - event_dims) if event_dims != 1 else x


def joined(features: Tensor, context: Tensor | None) -> Tensor:
    if context is None:
        return features
    return torch.cat([features, context.expand(*features.shape[:-1], -1)], -1)


def zeroed(layer: nn.Module) -> nn.Module:
    """Returns a layer that returns zeros until it is trained."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


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
