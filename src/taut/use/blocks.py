"""Going over data in blocks: the one loop behind every evaluation.

Each block is on the model's device, in evaluation mode and without gradients. A block has noise of
its own, so that no number depends on the batch, on the thread or on the process that computed it;
several processes take blocks in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from taut.model import Model, evaluating
from taut.system.parallel import in_order
from taut.system.seeds import stream
from taut.types import Context, Data

__all__ = ["Block", "blocks_of", "device_of", "some_of"]

R = TypeVar("R")


class Block(NamedTuple):
    r"""Some rows of the data.

    Args:
        number: Of the block, from 0.
        rows: Where they stand in the data.
        x: Their values, (B, \*event), on the model's device, in torch's default precision.
        context: Their context, (B, C).
    """

    number: int
    rows: slice
    x: Data
    context: Context | None


def blocks_of(
    model: Model,
    x: Any,
    size: int,
    function: Callable[[Block], R],
    *,
    context: Tensor | None = None,
    seed: int = 0,
    name: str = "",
) -> Iterator[R]:
    r"""Yields what a function makes of each block of data.

    Args:
        model: Any model.
        x: Data, (N, \*event), a tensor or rows. No rows are one block of none.
        size: Rows of a block.
        function: What is done with a block.
        context: What the model is conditioned on, (N, C).
        seed: The same seed gives the same noise.
        name: Of the stream of noise that the function runs on; without one it seeds its own.
    """
    device = device_of(model)

    def compute(first: int) -> R:
        rows = slice(first, min(first + size, len(x)))
        values = x[rows].to(device=device, dtype=torch.get_default_dtype())
        block = Block(first // size, rows, values, some_of(context, rows, device))
        noise = stream(seed, name, block.number) if name else nullcontext()
        with torch.no_grad(), noise:
            return function(block)

    with evaluating(model):
        yield from in_order(range(0, max(len(x), 1), size), compute)


def some_of(
    values: Tensor | None, rows: slice | Tensor, device: torch.device | None = None
) -> Tensor | None:
    """Returns some rows of values that need not be there, such as a context."""
    if values is None:
        return None
    return values[rows].to(device or values.device)


def device_of(model: Model) -> torch.device:
    """Returns where a model lives: one without parameters, on the processor."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))
