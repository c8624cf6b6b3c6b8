"""Files of a run: written atomically, checked when read, never pickled.

A write goes to a temporary name, is flushed to the disk and then renamed, so that a reader finds
the old file or the new one. safetensors loads a flipped bit without complaint, therefore a manifest
with the SHA-256 of each file stands beside them.

A folder may come from someone else. So a temporary name cannot be foreseen, no link is followed,
and only regular files of a sensible size are read: a link to a file outside would be overwritten, a
pipe would be waited for, a device read for ever.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import safetensors.torch
from torch import Tensor

from taut.system import records
from taut.system.errors import StorageError, TautWarning, shown

__all__ = [
    "Lines",
    "add_to_manifest",
    "as_json",
    "clear_temporary",
    "commit_folder",
    "fingerprinted",
    "read_checked",
    "read_checked_json",
    "read_file",
    "read_json",
    "read_lines",
    "read_manifest",
    "read_shapes",
    "read_tensors",
    "remove_folder",
    "temporary_folder",
    "unbroken",
    "write_bytes",
    "write_json",
    "write_manifest",
    "write_tensors",
]

MANIFEST = "manifest.json"
TEMPORARY = ".taut-"
MOST_JSON = 2**26  # bytes
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
PAUSES = (0.5, 2.0)  # seconds before a full disk is tried again: others free space too
# Not all systems have all of them.
NOFOLLOW, NONBLOCK, CLOEXEC, BINARY = (
    getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY")
)
FLAGS = NOFOLLOW | NONBLOCK | CLOEXEC | BINARY
T = TypeVar("T")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file so that it is there whole or not at all; a full disk is tried three times.

    Fails:
        StorageError: the system refuses (no space, no permission), or a link has the name.
    """
    if path.is_symlink():
        raise StorageError(
            f"cannot write {shown(path)}: it is a link, and links are not followed; remove it"
        )
    try:
        patient(lambda: _write(path, content))
    except OSError as error:
        before = "; the file there before is unchanged" if path.exists() else ""
        raise StorageError(
            f"cannot write {shown(path)}: {error.strerror or error}{before}"
        ) from None


def patient(write: Callable[[], T]) -> T:
    """Returns what a function returns.

    Where the disk is full it is called again, twice, after a pause.
    """
    for pause in PAUSES:
        try:
            return write()
        except OSError as error:
            if error.errno not in FULL:
                raise
            time.sleep(pause)
    return write()


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    try:
        with os.fdopen(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FLAGS, 0o666), "wb"
        ) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


class Lines:
    """Creates a file that lines are added to.

    A disk that stays full costs lines and is warned of once: what they say of a training is not
    worth its end.

    Args:
        path: The file.
        keep: Whether the lines in it stay.
    """

    def __init__(self, path: Path, *, keep: bool) -> None:
        self.path, self._warned = path, False
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | FLAGS
        try:
            self._file = os.open(path, flags | (0 if keep else os.O_TRUNC), 0o666)
        except OSError as error:
            _refuse(path, error, "write")
        _check_regular(path, os.fstat(self._file))

    def add(self, line: str) -> None:
        """Writes a line, whole or not at all."""
        content = (line + "\n").encode()
        size = os.fstat(self._file).st_size

        def write() -> None:
            try:
                if os.write(self._file, content) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                os.ftruncate(self._file, size)
                raise

        try:
            patient(write)
        except OSError as error:
            self._warn(error)

    def sync(self) -> None:
        """Returns when the lines are on the disk."""
        try:
            os.fsync(self._file)
        except OSError as error:
            self._warn(error)

    def close(self) -> None:
        os.close(self._file)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            reason = error.strerror or error
            warnings.warn(
                f"cannot write {shown(self.path)}: {reason}; lines of it are lost",
                TautWarning,
                stacklevel=3,
            )
        self._warned = True


def read_file(path: Path, most: int | None = None) -> bytes:
    """Returns the content of a regular file.

    Args:
        path: The file; a link is not followed.
        most: Bytes that it may have.

    Fails:
        StorageError: it is missing, is not a regular file or is too large.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | FLAGS), "rb") as file:
            found = os.fstat(file.fileno())
            _check_regular(path, found)
            if most is not None and found.st_size > most:
                size = f"{found.st_size:,} bytes, more than {most:,}"
                raise StorageError(
                    f"{shown(path)} is damaged: it has {size}; restore it from a copy"
                )
            return file.read()
    except OSError as error:
        _refuse(path, error, "read")


def _check_regular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise StorageError(
            f"{shown(path)} is not a regular file, and is left alone: restore it from a copy"
        )


def _refuse(path: Path, error: OSError, what: str) -> NoReturn:
    reason = error.strerror or error
    if path.is_symlink():
        reason = "it is a link, and links are not followed; put the file itself in its place"
    raise StorageError(f"cannot {what} {shown(path)}: {reason}") from None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a mapping as JSON; NaN and infinity are refused, since JSON has none."""
    write_bytes(path, as_json(value))


def as_json(value: Mapping[str, Any]) -> bytes:
    """Returns a mapping as the bytes of a JSON file."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors as safetensors."""
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    # Two names for one tensor (tied weights) are written twice: safetensors would refuse them.
    write_bytes(path, safetensors.torch.save({k: v.clone() for k, v in plain.items()}))


def fingerprinted(value: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a mapping with the SHA-256 of itself, for a file that no manifest names yet."""
    plain = {k: v for k, v in value.items() if k != "sha256"}
    return {**plain, "sha256": _sha256(as_json(plain))}


def unbroken(value: Mapping[str, Any]) -> bool:
    """Returns whether a mapping has the SHA-256 that it names.

    One that names none is taken as it is.
    """
    return "sha256" not in value or fingerprinted(value)["sha256"] == value["sha256"]


def write_manifest(folder: Path, names: Iterable[str] | None = None) -> None:
    """Writes the SHA-256 of the named files of a folder (all of them by default) beside them."""
    chosen = names or (
        p.name
        for p in folder.iterdir()
        if p.is_file() and p.name != MANIFEST and not p.name.startswith(".")
    )
    write_json(
        folder / MANIFEST, {name: _sha256((folder / name).read_bytes()) for name in sorted(chosen)}
    )


def add_to_manifest(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files into a finished folder and their SHA-256 into its manifest; what the manifest
    says of others stays.

    Before a file is replaced the manifest names what was there and what is to come: a kill at any
    moment leaves a file that it knows.
    """
    manifest = read_manifest(folder)
    sums = {name: _sha256(content) for name, content in files.items()}
    known = {name: [*_sums(manifest, name), new] for name, new in sums.items()}
    write_json(folder / MANIFEST, dict(sorted((manifest | known).items())))
    for name, content in files.items():
        write_bytes(folder / name, content)
    write_json(folder / MANIFEST, dict(sorted((manifest | sums).items())))


def _sums(manifest: Mapping[str, Any], name: str) -> list[str]:
    """Returns what a manifest allows a file to be.

    One sum, or several where a replacement was cut off.
    """
    found = manifest.get(name, [])
    return [found] if isinstance(found, str) else found


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the manifest of a folder: for each file its SHA-256, or several that it may have."""
    return records.checked(read_json(folder / MANIFEST), records.MANIFEST, folder / MANIFEST)


def temporary_folder(folder: Path) -> Path:
    """Makes a folder with a name that cannot be foreseen, to be committed or removed."""
    path = folder / f"{TEMPORARY}{secrets.token_hex(8)}"
    path.mkdir()
    return path


def clear_temporary(folder: Path) -> None:
    """Removes what a kill has left of writes into a folder that nobody else writes into now."""
    for stray in folder.glob(f"{TEMPORARY}*"):
        with suppress(OSError):
            if stray.is_dir() and not stray.is_symlink():
                shutil.rmtree(stray)
            else:
                stray.unlink()


def commit_folder(temporary: Path, final: Path) -> None:
    """Gives a fully written folder its final name: a half-written one is never seen under it."""
    _sync_folder(temporary)
    if final.exists():
        remove_folder(final)
    temporary.rename(final)
    _sync_folder(final.parent)


def remove_folder(folder: Path) -> None:
    """Removes a folder so that a half-removed one is never seen under its name."""
    trash = folder.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    folder.rename(trash)
    shutil.rmtree(trash)


def read_checked(path: Path) -> bytes:
    """Returns the content of a file after checking it against the manifest beside it.

    Fails:
        StorageError: it is missing, is not in the manifest or differs from it.
    """
    manifest = read_manifest(path.parent)
    content = read_file(path, MOST_JSON if path.suffix == ".json" else None)
    if _sha256(content) not in _sums(manifest, path.name):
        raise StorageError(
            f"{shown(path)} is damaged: its SHA-256 is not the one in {MANIFEST}; {_remedy(path)}"
        )
    return content


def _remedy(path: Path) -> str:
    made = {"audit.json": "audit", "gradients.json": "gradients", "report.html": "report"}.get(
        path.name
    )
    again = f"make it again with `taut {made} {shown(path.parent)}`, or "
    return f"{again if made else ''}restore it from a copy"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file after checking it against the manifest
    beside it.
    """
    try:
        return safetensors.torch.load(read_checked(path))
    except safetensors.SafetensorError as error:
        raise StorageError(f"{shown(path)} is no safetensors file: {error}") from None


def read_lines(path: Path, shape: Any) -> list[dict[str, Any]]:
    """Returns the mappings in a file of JSON lines, each of one shape.

    Fails:
        StorageError: it is missing, or a line is something else.
    """
    try:
        lines = read_file(path, MOST_JSON).decode().splitlines()
    except UnicodeDecodeError:
        raise StorageError(
            f"{shown(path)} is damaged: it is not text; restore it from a copy"
        ) from None
    return [records.checked(_mapping(line, path), shape, path) for line in lines]


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the tensors in a safetensors file, from its header alone.

    Fails:
        StorageError: there is no such file, or its size is not the one that its header tells.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | FLAGS), "rb") as file:
            found = os.fstat(file.fileno())
            _check_regular(path, found)
            length = int.from_bytes(file.read(8), "little")
            header = (
                json.loads(file.read(length))
                if 2 <= length <= min(MOST_JSON, found.st_size - 8)
                else {}
            )
        tensors = {name: each for name, each in header.items() if name != "__metadata__"}
        size = max(each["data_offsets"][1] for each in tensors.values())
        shapes = {str(name): tuple(int(n) for n in each["shape"]) for name, each in tensors.items()}
        if found.st_size != 8 + length + size or any(math.prod(s) > size for s in shapes.values()):
            raise ValueError
    except OSError as error:
        _refuse(path, error, "read")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        what = "it is no safetensors file, or not all of one"
        raise StorageError(f"{shown(path)} is damaged: {what}; restore it from a copy") from None
    return shapes


def read_checked_json(path: Path) -> dict[str, Any]:
    """Returns the mapping in a JSON file after checking it against the manifest beside it."""
    return _mapping(read_checked(path), path)


def read_json(path: Path) -> dict[str, Any]:
    """Returns the mapping in a JSON file.

    Fails:
        StorageError: it is missing or is not a JSON object.
    """
    return _mapping(read_file(path, MOST_JSON), path)


def _mapping(content: bytes | str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{shown(path)} is damaged: it is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise StorageError(f"{shown(path)} is damaged: it holds no JSON object")
    return value


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Has the names in a folder on the disk, where the system can do that: Windows
    opens no folder.
    """
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks
            raise
    finally:
        os.close(descriptor)
