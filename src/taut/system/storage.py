"""Files of a run: written atomically, checked when read, never pickled.

A write goes to a temporary name, is flushed to the disk and then renamed, so that a reader finds
the old file or the new one. safetensors loads a flipped bit without complaint, so a manifest next
to the files holds the SHA-256 of each.

A folder may come from someone else. So temporary names are random, links are not followed, and only
regular files of a sensible size are read: otherwise a link could make taut overwrite a file
outside, a pipe would be waited for, and a device read for ever.
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
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    "copy_folder",
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
FLAGS = 0
for _name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
    FLAGS |= getattr(os, _name, 0)  # no system has all of them
T = TypeVar("T")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file so that it is there whole or not at all; a full disk is tried three times.

    Raises:
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
    """Returns the result of a function; if the disk is full it is called again, twice, after
    pauses.
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
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FLAGS, 0o666)
        with os.fdopen(descriptor, "wb") as file:
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
    """Creates a file to which lines are added.

    If the disk stays full, lines are lost and a warning is given once: they are not worth ending a
    training.

    Args:
        path: The file.
        keep: Whether its present lines stay.
    """

    def __init__(self, path: Path, *, keep: bool) -> None:
        self.path, self._warned = path, False
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | FLAGS
        if not keep:
            flags |= os.O_TRUNC
        try:
            self._file = os.open(path, flags, 0o666)
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
        """Waits until the lines are on the disk."""
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
        most: Largest size, in bytes.

    Raises:
        StorageError: it is missing, is not a regular file or is too large.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | FLAGS), "rb") as file:
            found = os.fstat(file.fileno())
            _check_regular(path, found)
            if most is not None and found.st_size > most:
                raise StorageError(
                    f"{shown(path)} is damaged: it has {found.st_size:,} bytes, more than "
                    f"{most:,}; restore it from a copy"
                )
            return file.read()
    except OSError as error:
        _refuse(path, error, "read")


def _check_regular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise StorageError(
            f"{shown(path)} is not a regular file, and is not read: restore it from a copy"
        )


def _refuse(path: Path, error: OSError, what: str) -> NoReturn:
    reason = error.strerror or error
    if path.is_symlink():
        reason = "it is a link, and links are not followed; put the file itself in its place"
    raise StorageError(f"cannot {what} {shown(path)}: {reason}") from None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a mapping as JSON; NaN and infinity are refused, since JSON has neither."""
    write_bytes(path, as_json(value))


def as_json(value: Mapping[str, Any]) -> bytes:
    """Returns a mapping as the bytes of a JSON file."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors as safetensors."""
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    # Cloned, so that two names for one tensor (tied weights) are written twice: safetensors would
    # refuse them.
    write_bytes(path, safetensors.torch.save({k: v.clone() for k, v in plain.items()}))


def fingerprinted(value: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a mapping with its own SHA-256 added, for a file that no manifest names yet."""
    plain = {k: v for k, v in value.items() if k != "sha256"}
    return {**plain, "sha256": _sha256(as_json(plain))}


def unbroken(value: Mapping[str, Any]) -> bool:
    """Returns whether a mapping agrees with the SHA-256 in it; one without is accepted."""
    return "sha256" not in value or fingerprinted(value)["sha256"] == value["sha256"]


def write_manifest(folder: Path, names: Iterable[str] | None = None) -> None:
    """Writes the SHA-256 of the named files of a folder (by default all) into its manifest."""
    if not names:
        present = [path.name for path in folder.iterdir() if path.is_file()]
        names = [name for name in present if name != MANIFEST and not name.startswith(".")]
    sums = {name: _sha256((folder / name).read_bytes()) for name in sorted(names)}
    write_json(folder / MANIFEST, sums)


def add_to_manifest(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files into a finished folder and their SHA-256 into its manifest; its other entries
    stay.

    Before a file is replaced the manifest names both the old and the new content: a kill at any
    moment leaves a file that agrees with it.
    """
    manifest = read_manifest(folder)
    sums = {name: _sha256(content) for name, content in files.items()}
    known = {name: [*_sums(manifest, name), new] for name, new in sums.items()}
    write_json(folder / MANIFEST, dict(sorted((manifest | known).items())))
    for name, content in files.items():
        write_bytes(folder / name, content)
    write_json(folder / MANIFEST, dict(sorted((manifest | sums).items())))


def _sums(manifest: Mapping[str, Any], name: str) -> list[str]:
    """Returns the SHA-256 sums that a manifest allows for a file: several if a replacement was cut
    off.
    """
    found = manifest.get(name, [])
    return [found] if isinstance(found, str) else found


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the manifest of a folder: for each file its SHA-256, or several that it may have."""
    return records.checked(read_json(folder / MANIFEST), records.MANIFEST, folder / MANIFEST)


def temporary_folder(folder: Path) -> Path:
    """Makes a folder with a random name, to be committed or removed."""
    path = folder / f"{TEMPORARY}{secrets.token_hex(8)}"
    path.mkdir()
    return path


def clear_temporary(folder: Path) -> None:
    """Removes the remains of writes that were killed, from a folder with no other writer now."""
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


def copy_folder(source: Path, target: Path, without: Sequence[str] = ()) -> None:
    """Copies what is in a folder into another one that is there.

    Args:
        source: The folder.
        target: Where its files go.
        without: Patterns of names that stay behind.

    Raises:
        StorageError: a file cannot be read or written; the line names the first.
    """
    ignore = shutil.ignore_patterns(*without)
    try:
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=ignore)
    except shutil.Error as error:  # a list of (from, to, why)
        _, place, why = error.args[0][0]
        reason = os.strerror(errno.ENOSPC) if os.strerror(errno.ENOSPC) in str(why) else why
        raise StorageError(f"cannot write {shown(place)}: {shown(reason)}") from None


def remove_folder(folder: Path) -> None:
    """Removes a folder so that a half-removed one is never seen under its name."""
    trash = folder.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    folder.rename(trash)
    shutil.rmtree(trash)


def read_checked(path: Path) -> bytes:
    """Returns the content of a file after checking it against the manifest of its folder.

    Raises:
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
    commands = {"audit.json": "audit", "gradients.json": "gradients", "report.html": "report"}
    if path.name not in commands:
        return "restore it from a copy"
    command = f"taut {commands[path.name]} {shown(path.parent)}"
    return f"make it again with `{command}`, or restore it from a copy"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file after checking it against the manifest of its
    folder.
    """
    try:
        return safetensors.torch.load(read_checked(path))
    except safetensors.SafetensorError as error:
        raise StorageError(f"{shown(path)} is not a safetensors file: {error}") from None


def read_lines(path: Path, shape: Any) -> list[dict[str, Any]]:
    """Returns the mappings in a file of JSON lines, each of one shape.

    Raises:
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

    Raises:
        StorageError: the file does not exist, or its size is not the one that its header gives.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | FLAGS), "rb") as file:
            found = os.fstat(file.fileno())
            _check_regular(path, found)
            length = int.from_bytes(file.read(8), "little")
            header = {}
            if 2 <= length <= min(MOST_JSON, found.st_size - 8):
                header = json.loads(file.read(length))
        tensors = {name: each for name, each in header.items() if name != "__metadata__"}
        size = max(each["data_offsets"][1] for each in tensors.values())
        shapes = {str(name): tuple(int(n) for n in each["shape"]) for name, each in tensors.items()}
        if found.st_size != 8 + length + size or any(math.prod(s) > size for s in shapes.values()):
            raise ValueError
    except OSError as error:
        _refuse(path, error, "read")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise StorageError(
            f"{shown(path)} is damaged: it is not a safetensors file, or not the whole of one; "
            f"restore it from a copy"
        ) from None
    return shapes


def read_checked_json(path: Path) -> dict[str, Any]:
    """Returns the mapping in a JSON file after checking it against the manifest of its folder."""
    return _mapping(read_checked(path), path)


def read_json(path: Path) -> dict[str, Any]:
    """Returns the mapping in a JSON file.

    Raises:
        StorageError: it is missing or is not a JSON object.
    """
    return _mapping(read_file(path, MOST_JSON), path)


def read_unbroken_json(path: Path) -> dict[str, Any]:
    """Returns the mapping in a JSON file after checking it against the SHA-256 in it.

    Raises:
        StorageError: it is missing, is not a JSON object or is not as it was written.
    """
    value = read_json(path)
    if not unbroken(value):
        raise StorageError(f"{shown(path)} is damaged: restore it from a copy")
    return value


def _mapping(content: bytes | str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{shown(path)} is damaged: it is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise StorageError(f"{shown(path)} is damaged: it does not hold a JSON object")
    return value


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Flushes the names in a folder to the disk, except on Windows, which cannot open a folder."""
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
