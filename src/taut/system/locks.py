"""One writer for each run folder: a lock that names its process, and does no harm after a kill.

The file ``.lock`` holds the process, its start time, and its host. Where the system supports it the
file is locked too (flock), so that it is free as soon as its process ends, in whatever way. A lock
of this host whose process has ended, or started at another time, is taken over; a lock of another
host is not, since its process cannot be seen from here.
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from taut.system.errors import StorageError, UsageError, shown
from taut.system.storage import FLAGS, clear_temporary

__all__ = ["LOCK", "acquire", "locked", "release", "release_all"]

LOCK = ".lock"
MOST = 4096  # bytes of a lock that are read
_held: dict[Path, int] = {}  # the open file of each folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder for a block, or continues to hold it.

    Raises:
        UsageError: another process writes there.
    """
    ours = acquire(folder)
    try:
        yield
    finally:
        if ours:
            release(folder)


def acquire(folder: Path) -> bool:
    """Takes the lock of a folder for this process, until it is released; returns False if this
    process held it already.

    Raises:
        UsageError: another process writes there.
        StorageError: the folder cannot be written into.
    """
    key = folder.resolve()
    if key in _held:
        return False
    path = key / LOCK
    try:
        file = _opened(path, folder)
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, json.dumps(_own()).encode())
    except OSError as error:
        reason = "it is a link" if error.errno == errno.ELOOP else error.strerror or error
        raise StorageError(f"cannot write {shown(folder / LOCK)}: {reason}") from None
    if not _held:
        atexit.register(release_all)
    _held[key] = file
    clear_temporary(key)
    return True


def release(folder: Path) -> None:
    """Releases the lock of a folder, if this process holds it."""
    file = _held.pop(folder.resolve(), None)
    if file is None:
        return
    path = folder.resolve() / LOCK
    with suppress(OSError):
        # The folder may have been moved, and another one created in its place.
        if os.name == "posix" and _same(path, file):
            path.unlink()
    os.close(file)
    if os.name != "posix":  # an open file cannot be removed there
        with suppress(OSError):
            path.unlink()


def release_all() -> None:
    """Releases all locks of this process."""
    for folder in list(_held):
        release(folder)


def _forget() -> None:
    """Leaves the locks to the process that this one was forked from."""
    for file in _held.values():
        os.close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _opened(path: Path, folder: Path) -> int:
    """Returns the open lock, which only this process holds.

    Raises:
        UsageError: another process holds it.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | FLAGS, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise StorageError(f"{shown(folder / LOCK)} is not a regular file; remove it")
            free = _flocked(file)
            if not _same(path, file):  # its owner has just removed it
                os.close(file)
                continue
            holder = _holder(file)
            if not free or (holder and not _gone(holder)):
                raise UsageError(_refusal(folder, holder))
        except BaseException:
            os.close(file)
            raise
        return file


def _flocked(file: int) -> bool:
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Any other error: a disk without flock, where the content of the file decides.
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _same(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _holder(file: int) -> dict[str, object]:
    """Returns the content of a lock; empty if its process was killed before it wrote any."""
    try:
        os.lseek(file, 0, os.SEEK_SET)
        found = json.loads(os.read(file, MOST))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _own() -> dict[str, object]:
    return {"pid": os.getpid(), "began": _began(os.getpid()), "host": socket.gethostname()}


def _began(pid: int) -> str:
    """Returns the start time of a process, as the system writes it; empty except on Linux."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _gone(holder: dict[str, object]) -> bool:
    """Returns whether the process of a lock has ended, as far as can be told from here."""
    pid = holder.get("pid")
    if not isinstance(pid, int) or isinstance(pid, bool) or not 0 < pid < 2**31:
        return True  # not a lock that taut wrote
    # On Windows asking would send a signal.
    if holder.get("host") != socket.gethostname() or os.name != "posix":
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # it runs, as another user
    began, noted = _began(pid), holder.get("began")
    another = bool(began and noted and began != noted)
    return another or pid == os.getpid()


def _refusal(folder: Path, holder: dict[str, object]) -> str:
    pid, host = shown(holder.get("pid", "unknown")), holder.get("host")
    if not holder or host == socket.gethostname():
        return (
            f"{shown(folder)} is in use: process {pid} writes into it; wait until it is done, or "
            f"stop it"
        )
    where = f"process {pid} on {shown(host)} writes into it, or was killed"
    return (
        f"{shown(folder)} is in use: {where}; if it is not running any more, remove "
        f"{shown(folder / LOCK)}"
    )
