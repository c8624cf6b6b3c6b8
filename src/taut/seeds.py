"""Randomness is derived from (seed, stream, step) and never stored: step 37 draws the same noise in whatever process runs it.

A resumed run needs no state of a generator, and two streams (initialisation, batches, noise, evaluation) never disturb each
other: drawing one more validation sample does not change the training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["derive", "generator", "stream"]


def derive(seed: int, name: str, step: int = 0) -> int:
    """Returns a 63-bit seed for one step of one stream.

    Examples:
        >>> derive(0, "noise", 1) == derive(0, "noise", 1), derive(0, "noise", 1) == derive(0, "noise", 2)
        (True, False)
    """
    digest = hashlib.blake2b(f"{seed}/{name}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, name: str, step: int = 0) -> torch.Generator:
    """Returns a CPU generator for one step of one stream."""
    return torch.Generator().manual_seed(derive(seed, name, step))


@contextmanager
def stream(seed: int, name: str, step: int = 0) -> Iterator[None]:
    """Runs a block on torch's own generators seeded for one step of one stream; afterwards they are as they were before."""
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, name, step))
        yield
