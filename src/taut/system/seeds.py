"""Randomness, derived from (seed, stream, step) and never stored: step 37 draws the same noise in
any process.

So a resumed run needs no state of a generator, and two streams (initialisation, batches, noise,
evaluation) never disturb each other: one more validation sample does not change the training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = [
    "accelerator",
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
    """Runs a block with torch's own generators seeded for one step of one stream, then restores
    them.
    """
    with untouched():
        set_seed(derive(seed, name, step))
        yield


@contextmanager
def untouched() -> Iterator[None]:
    """Runs a block, then restores the state of torch's own generators."""
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
    """Returns the states of torch's own generators."""
    states = [torch.default_generator.get_state()]
    return states + [module.get_rng_state() for module in _accelerators()]


def set_generator_states(states: list[torch.Tensor]) -> None:
    """Restores the states of torch's own generators."""
    torch.default_generator.set_state(states[0])
    for module, state in zip(_accelerators(), states[1:], strict=True):
        module.set_rng_state(state)


def accelerator() -> torch.device | None:
    """Returns the accelerator that is here, if any.

    A torch that was built for one names it whether or not it is there: PyPI's wheels for Linux are
    built for CUDA, and most machines that they run on have no GPU.
    """
    return torch.accelerator.current_accelerator(check_available=True)


def _accelerators() -> list[Any]:
    device = accelerator()
    return [] if device is None else [torch.get_device_module(device)]
