"""What torchrun tells a process about itself, read without torch: the command line asks at once."""

from __future__ import annotations

import os

__all__ = ["is_launched", "launched", "restarts"]


def is_launched() -> bool:
    """Returns whether this is one of several processes, whether they are joined or not."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def launched() -> int:
    """Returns the rank that the environment gives this process, whether it has joined the others or
    not.
    """
    return int(os.environ.get("RANK", "0")) if is_launched() else 0


def restarts() -> int:
    """Returns how often torchrun has restarted the processes."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
