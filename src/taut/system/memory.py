"""Memory: where it is short, rows go in smaller chunks with the same numbers, or data are refused
before they are loaded.

Where there is enough of it, freed memory is kept for the tensors that come next.
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

# The words of torch's allocators on three systems, of the libraries that an accelerator calls, and
# (the last three) of a process with little address space.
WORDS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "STATUS_ALLOC_FAILED",
    "Cannot allocate memory",
    "failed to map segment",
    "can't start new thread",
)
# Copies of the data held at once while they are read, checked and split; 3.6 to 6.2 were measured.
COPIES = 3
MEMINFO = Path("/proc/meminfo")
OWN_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# For both versions of Linux's control groups: the start of the line that names a process's group,
# the folder of the groups, the files with limit and usage, and the part of it that can be freed.
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
KEPT = 128 * 2**20  # bytes of freed memory that are kept
LARGEST = 32 * 2**20  # bytes of a tensor; the memory of larger ones is returned at once
T = TypeVar("T")


def out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that memory ran out."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    rust = type(error).__name__ == "PanicException"  # of a library in Rust
    if not rust and not isinstance(error, RuntimeError | ImportError):
        return False
    return any(words in str(error) for words in WORDS)


class Chunks:
    """Creates a way through rows in chunks, which are halved for good when one does not fit into
    memory.

    Args:
        most: Rows of a chunk at first.
        least: Rows of a chunk that is not divided further: its error is raised.
    """

    def __init__(self, most: int, least: int = 1) -> None:
        self.most, self.least = most, least

    def __call__(self, total: int, compute: Callable[[Share], T]) -> Iterator[T]:
        """Yields the result for each share of ``total`` rows; zero rows are one share."""
        first = 0
        while True:
            rows = min(self.most, total - first)
            try:
                result = compute(Share(first, rows, total, 1.0))
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error) or rows <= self.least:
                    raise
                self.most = (rows + 1) // 2
                continue  # leaves this block first: the error keeps what its frames allocated
            yield result
            first += rows
            if first >= total:
                return


@lru_cache(maxsize=1)
def keep_freed() -> None:
    """Makes the C library of Linux (glibc) keep some freed memory, for the rest of this process.

    By default it returns the free end of its heap to the system and asks for it again: to get a
    tensor of a megabyte then takes longer than to fill it, and an evaluation makes thousands.
    Settings of the user's own (``MALLOC_...``, ``GLIBC_TUNABLES``) are respected.
    """
    own = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if sys.platform != "linux" or own:
        return
    with suppress(OSError, AttributeError):  # another C library, which has no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGEST)
        mallopt(M_TRIM_THRESHOLD, KEPT)


def available() -> int | None:
    """Returns the number of bytes available without swapping; ``None`` except on Linux."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", MEMINFO.read_text(), re.MULTILINE)
    except OSError:
        return None
    if found is None:
        return None
    return min([1024 * int(found[1]), *_left_in_groups()])


def _left_in_groups() -> Iterator[int]:
    """Yields the bytes left under each limit that a container or batch system has set, by control
    groups of Linux.
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
                    details = (group / "memory.stat").read_text()
                    found = re.search(rf"^{cache} (\d+)$", details, re.MULTILINE)
                    if found is not None:
                        free += int(found[1])
                    yield free


def check_fits(num_bytes: int, where: str, remedy: str) -> None:
    """Refuses data that certainly do not fit into memory, before they are read.

    Args:
        num_bytes: Size of the data.
        where: Name of the data.
        remedy: What to do, other than giving fewer rows or using a larger machine.

    Raises:
        OutOfMemoryError: they need more memory than is available.
    """
    needed, there = COPIES * num_bytes, available()
    if there is not None and needed > there:
        held, needs, free = (f"{size / 2**30:.3g} GiB" for size in (num_bytes, needed, there))
        sizes = f"{held} of data need at least {needs} of memory, {free} are free"
        raise OutOfMemoryError(
            f"{where}: {sizes}: {remedy}, give fewer rows, or take a machine with more"
        )
