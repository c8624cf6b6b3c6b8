"""Randomness is derived from (seed, stream, step) and never stored: step 37 draws the same noise in
whatever process runs it.

A resumed run needs no state of a generator, and two streams (initialisation, batches, noise,
evaluation) never disturb each
other: drawing one more validation sample does not change the training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = [
    "derive",
    "generator",
    "generator_states",
    "replaying",
    "set_generator_states",
    "set_seed",
    "stream",
    "untouched",
]


def derive(seed: int, name: str, step: int = 0) -> int:
    """Returns a 63-bit seed for one step of one stream.

    Examples:
        >>> one = derive(0, "noise", 1)
        >>> one == derive(0, "noise", 1), one == derive(0, "noise", 2)
        (True, False)
    """
    digest = hashlib.blake2b(f"{seed}/{name}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, name: str, step: int = 0) -> torch.Generator:
    """Returns a CPU generator for one step of one stream."""
    return torch.Generator().manual_seed(derive(seed, name, step))


def set_seed(seed: int) -> None:
    """Seeds torch's own generators: the processor's and, where there is one, the accelerator's.

    ``torch.manual_seed`` does this too, and walks the stack at each call, which a small training
    step would feel.
    """
    torch.default_generator.manual_seed(seed)
    for module in _accelerators():
        module.manual_seed(seed)


@contextmanager
def stream(seed: int, name: str, step: int = 0) -> Iterator[None]:
    """Runs a block on torch's own generators seeded for one step of one stream.

    Afterwards they are as they were before.
    """
    with untouched():
        set_seed(derive(seed, name, step))
        yield


@contextmanager
def untouched() -> Iterator[None]:
    """Runs a block, then puts torch's own generators back to where they were."""
    before = generator_states()
    try:
        yield
    finally:
        set_generator_states(before)


@contextmanager
def replaying(states: list[torch.Tensor]) -> Iterator[None]:
    """Runs a block on the same noise again, from where torch's own generators stood."""
    with untouched():
        set_generator_states(states)
        yield


def generator_states() -> list[torch.Tensor]:
    """Returns where torch's own generators stand."""
    return [
        torch.default_generator.get_state(),
        *(module.get_rng_state() for module in _accelerators()),
    ]


def set_generator_states(states: list[torch.Tensor]) -> None:
    """Puts torch's own generators to where they stood."""
    torch.default_generator.set_state(states[0])
    for module, state in zip(_accelerators(), states[1:], strict=True):
        module.set_rng_state(state)


def _accelerators() -> list[Any]:
    device = torch.accelerator.current_accelerator()
    return [] if device is None else [torch.get_device_module(device)]
