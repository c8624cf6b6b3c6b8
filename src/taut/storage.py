"""Files of a run: written atomically, checked when read, never pickled.

A write goes to a temporary name, is flushed to the disk and then renamed, so that a reader finds the old file or the new
one. safetensors loads a flipped bit without complaint, therefore a manifest with the SHA-256 of each file stands beside them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from taut.errors import StorageError, shown

__all__ = [
    "add_to_manifest", "as_json", "commit_folder", "read_checked", "read_checked_json", "read_json", "read_tensors",
    "remove_folder", "write_bytes", "write_json", "write_manifest", "write_tensors",
]  # fmt: skip

MANIFEST = "manifest.json"


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file so that it is there whole or not at all.

    Fails:
        StorageError: the system refuses (no space, no permission).
    """
    temporary = path.with_name(f".{path.name[:240]}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        before = "; the file there before is unchanged" if path.exists() else ""
        raise StorageError(f"cannot write {shown(path)}: {error.strerror or error}{before}") from None


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


def write_manifest(folder: Path, names: Iterable[str] | None = None) -> None:
    """Writes the SHA-256 of the named files of a folder (all of them by default) beside them."""
    chosen = names or (p.name for p in folder.iterdir() if p.is_file() and p.name != MANIFEST and not p.name.startswith("."))
    write_json(folder / MANIFEST, {name: _sha256((folder / name).read_bytes()) for name in sorted(chosen)})


def add_to_manifest(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files into a finished folder and their SHA-256 into its manifest; what the manifest says of others stays."""
    manifest = read_json(folder / MANIFEST)
    for name, content in files.items():
        write_bytes(folder / name, content)
        manifest[name] = _sha256(content)
    write_json(folder / MANIFEST, dict(sorted(manifest.items())))


def commit_folder(temporary: Path, final: Path) -> None:
    """Gives a fully written folder its final name: a half-written one is never seen under it."""
    _sync_folder(temporary)
    if final.exists():
        remove_folder(final)
    temporary.rename(final)
    _sync_folder(final.parent)


def remove_folder(folder: Path) -> None:
    """Removes a folder so that a half-removed one is never seen under its name."""
    trash = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(trash, ignore_errors=True)
    folder.rename(trash)
    shutil.rmtree(trash)


def read_checked(path: Path) -> bytes:
    """Returns the content of a file after checking it against the manifest beside it.

    Fails:
        StorageError: it is missing, is not in the manifest or differs from it.
    """
    manifest = read_json(path.parent / MANIFEST)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {shown(path)}: {error.strerror or error}") from None
    if manifest.get(path.name) != _sha256(content):
        raise StorageError(f"{shown(path)} is damaged: its SHA-256 is not the one in {MANIFEST}; restore it from a copy")
    return content


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file after checking it against the manifest beside it."""
    try:
        return safetensors.torch.load(read_checked(path))
    except safetensors.SafetensorError as error:
        raise StorageError(f"{shown(path)} is no safetensors file: {error}") from None


def read_checked_json(path: Path) -> dict[str, Any]:
    """Returns the mapping in a JSON file after checking it against the manifest beside it."""
    return _mapping(read_checked(path), path)


def read_json(path: Path) -> dict[str, Any]:
    """Returns the mapping in a JSON file.

    Fails:
        StorageError: it is missing or is not a JSON object.
    """
    try:
        return _mapping(path.read_bytes(), path)
    except OSError as error:
        raise StorageError(f"cannot read {shown(path)}: {error.strerror or error}") from None


def _mapping(content: bytes, path: Path) -> dict[str, Any]:
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
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
