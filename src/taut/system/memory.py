"""What is done where memory is short: rows in smaller chunks, with the same numbers; or a word
before anything is loaded.

And where there is enough: what was freed is kept for what comes next.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from taut.system.errors import OutOfMemoryError
from taut.system.parallel import Share

__all__ = ["Chunks", "available", "check_fits", "keep_freed", "out_of_memory"]

# torch's words: of its allocators on three systems, and of the libraries that an accelerator calls.
WORDS = (
    "out of memory", "can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED",
    "Cannot allocate "
    "memory", "failed to map segment", "can't start new thread",  # little address space
)  # fmt: skip
COPIES = (
    3  # of the data, held at once while they are read, checked and split; 3.6 to 6.2 were measured
)
MEMINFO = Path("/proc/meminfo")
OWN_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# The line of a process, where its group is, and the files: the limit, what is used, and the name of
# what of it can be given back.
GROUP_VERSIONS = (
    ("0::", "", "memory.max", "memory.current", "inactive_file"),
    (
        r"\d+:[\w,]*memory[\w,]*:",
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as <malloc.h> has them
# bytes: kept in all, and of one tensor; larger ones go back at once
KEPT, LARGEST = (
    128 * 2**20,
    32 * 2**20,
)
T = TypeVar("T")


def out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that memory ran out."""
    if isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno == errno.ENOMEM
    ):
        return True
    rust = type(error).__name__ == "PanicException"  # of a library in Rust
    return (rust or isinstance(error, RuntimeError | ImportError)) and any(
        words in str(error) for words in WORDS
    )


class Chunks:
    """Goes through rows in chunks, which are halved, from then on, when one does not fit into
    memory.

    Args:
        most: Rows of a chunk.
        least: Rows that are not divided any more: the error is raised.
    """

    def __init__(self, most: int, least: int = 1) -> None:
        self.most, self.least = most, least

    def __call__(self, total: int, compute: Callable[[Share], T]) -> Iterator[T]:
        """Yields what is computed of each share of so many rows; an empty block is one share."""
        first = 0
        while True:
            rows = min(self.most, total - first)
            try:
                result = compute(Share(first, rows, total, 1.0))
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error) or rows <= self.least:
                    raise
                self.most = (rows + 1) // 2
                continue  # out of here first: the error holds on to what its frames have allocated
            yield result
            first += rows
            if first >= total:
                return


@lru_cache(maxsize=1)
def keep_freed() -> None:
    """Has the C library of Linux (glibc) keep some memory that was freed, for this process and from
    now on.

    By default it gives what is freed at the end of its heap back to the system and asks for it
    anew: to get a tensor of a megabyte then takes longer than to fill it, and an evaluation makes
    thousands. Whoever has set ``MALLOC_...`` or ``GLIBC_TUNABLES`` is left alone.
    """
    if sys.platform == "linux" and not any(
        name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ
    ):
        with suppress(OSError, AttributeError):  # another C library, without this
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(M_MMAP_THRESHOLD, LARGEST)
            mallopt(M_TRIM_THRESHOLD, KEPT)


def available() -> int | None:
    """Returns how many bytes can be had without swapping.

    ``None`` where the system does not tell (it is Linux that does).
    """
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", MEMINFO.read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else min([1024 * int(found[1]), *_left_in_groups()])


def _left_in_groups() -> Iterator[int]:
    """Yields what is left of each limit that a container or a batch system has set.

    Control groups of Linux.
    """
    try:
        own = OWN_GROUPS.read_text()
    except OSError:
        return
    for line, place, limit, used, cache in GROUP_VERSIONS:
        for path in re.findall(rf"^{line}/(.*)$", own, re.MULTILINE):
            folder = GROUPS / place / path
            for group in (folder, *folder.parents):
                # no such file above the last group, and "max" where there is no limit
                with suppress(OSError, ValueError):
                    free = int((group / limit).read_text()) - int((group / used).read_text())
                    found = re.search(
                        rf"^{cache} (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE
                    )
                    yield free + (0 if found is None else int(found[1]))


def check_fits(num_bytes: int, where: str, mend: str) -> None:
    """Refuses data that are certain not to fit, before they are read.

    Args:
        num_bytes: Of the data themselves.
        where: What they are called.
        mend: What to do, beside fewer rows and a larger machine.

    Fails:
        OutOfMemoryError: they need more than there is.
    """
    needed, there = COPIES * num_bytes, available()
    if there is not None and needed > there:
        held, needs, free = (f"{size / 2**30:.3g} GiB" for size in (num_bytes, needed, there))
        sizes = f"{held} of data need at least {needs} of memory, {free} are free"
        raise OutOfMemoryError(
            f"{where}: {sizes}: {mend}, give fewer rows, or take a machine with more"
        )
