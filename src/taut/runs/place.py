"""Where a run goes: the folder that is made for it, and the files that are written next to it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from taut.system import locks, parallel, storage
from taut.system.errors import UsageError, clause, shown

__all__ = ["FILES", "abandon", "check_apart", "check_target", "free_folder", "make_folder", "stem"]

BUNDLED = "digits"  # data that come with scikit-learn, whatever file has the name
FROM_FOLDERS = (".png", ".parquet")  # formats of results that are read from a folder, too

FILES = {
    "run.json",
    "history.jsonl",
    "checkpoints",
    "exact",
    "before",
    "model.safetensors",
    "evaluation.json",
    "samples.png",
    "reconstructions.png",
    "map.png",
    "traversal.png",
    "audit.json",
    "gradients.json",
    "report.html",
    "README.md",
    "tensorboard",
    storage.MANIFEST,
}


def make_folder(out: str | Path | None, name: str, overwrite: bool | None) -> Path:
    """Makes the folder of a new run and returns it: a given one, or the next free one below runs/.

    With None for ``overwrite`` nothing is replaced, and no option is named that would.

    Raises:
        UsageError: it cannot be made, or exists and is not to be replaced.
    """
    if out is None:
        return _next_folder(name)
    path = Path(out)
    where = shown(path)
    try:
        if path.exists() and not overwrite and not _nothing_trained(path):
            remedy = "" if overwrite is None else ", or --overwrite to replace it"
            raise UsageError(f"{where} exists: choose another --out{remedy}")
        if path.is_dir() and (inside := {p.name for p in path.iterdir() if not _passing(p.name)}):
            if "run.json" not in inside and not inside <= FILES:
                raise UsageError(
                    f"{where} is not a run folder, so it is not replaced: choose another --out"
                )
            if foreign := sorted(n for n in inside - FILES if not n.startswith(".")):
                raise UsageError(
                    f"{where} holds {shown(foreign[0])}, which is not of the run: move it, or "
                    f"choose another --out"
                )
        path.mkdir(parents=True, exist_ok=True)
        locks.acquire(path)
        _empty(path)
    except OSError as error:
        raise UsageError(
            f"cannot make the folder {where}: {error.strerror or error}; choose another --out"
        ) from None
    return path


def free_folder(folder: Path, files: Collection[str], overwrite: bool) -> None:
    """Checks that a folder can be made, or replaced, before anything is computed for it.

    Args:
        folder: The folder.
        files: What it will hold: a folder with anything else in it is not replaced.
        overwrite: Whether one that exists is to be replaced.

    Raises:
        UsageError: it exists, holds other things, or there is no folder to make it in.
    """
    where = shown(folder)
    if folder.exists() and not overwrite:
        raise UsageError(f"{where} exists: choose another folder, or --overwrite to replace it")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{where} is not a folder: choose another")
    if folder.exists() and (other := {path.name for path in folder.iterdir()} - set(files)):
        raise UsageError(f"{where} holds other things ({shown(min(other))}): choose another folder")
    parent = folder.absolute().parent
    if not parent.is_dir():
        raise UsageError(f"there is no folder {shown(folder.parent)} to make {where} in")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"{shown(parent)} cannot be written to: choose another folder")


def abandon(path: Path) -> None:
    """Removes a folder in which nothing was trained, so that the next try finds its name free."""
    with suppress(OSError):
        if _nothing_trained(path):
            _empty(path)
            locks.release(path)
            path.rmdir()
    locks.release(path)


def _nothing_trained(path: Path) -> bool:
    """Returns whether a folder is empty, or what a training that was stopped before its first
    checkpoint left behind.
    """
    if path.is_symlink() or not path.is_dir():
        return False
    inside = {p.name for p in path.iterdir() if not _passing(p.name)}
    kept = {
        "model.safetensors",
        "evaluation.json",
        "audit.json",
        "gradients.json",
        storage.MANIFEST,
    }
    return inside <= FILES - kept and not any((path / "checkpoints").glob("[!.]*"))


def _passing(name: str) -> bool:
    return name == locks.LOCK or name.startswith(storage.TEMPORARY)


def _empty(path: Path) -> None:
    """Removes all that is in a folder but its lock."""
    for each in path.iterdir():
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        elif each.name != locks.LOCK:
            each.unlink()


def _next_folder(name: str) -> Path:
    """Makes the next free folder below runs/; two trainings that start at once get two."""
    start, number = stem(name), 1
    while True:
        path = Path("runs") / f"{start}-{number}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise UsageError(
                f"cannot make the folder {path}: {error.strerror or error}; choose another with "
                f"--out"
            ) from None
        else:
            locks.acquire(path)
            return path


def stem(name: str) -> str:
    """Returns what the folders of runs on some data are called, less their number."""
    return (
        re.sub(r"[^\w.-]+", "_", Path(name.removeprefix("openml:")).name).partition(".")[0]
        or "array"
    )


def check_apart(out: Path, inputs: Iterable[Any]) -> None:
    """Refuses a place where what is read would be replaced by what is made of it, however either of
    them is spelled: by a link, from the root, with another name of the same file.

    Args:
        out: A file, or the folder of a run.
        inputs: Names of what is read; anything but the name of something that exists is left alone.

    Raises:
        UsageError: one of them is that file, or lies in that folder.
    """
    for given in inputs:
        named = isinstance(given, str | Path) and given != BUNDLED
        if named and _replaced(out, Path(given)):
            other = shown(given) if str(given) != str(out) else ""
            raise UsageError(
                f"{shown(out)} holds what is read{clause(' ({})', other)}, which is never "
                "replaced: choose another --out"
            )


def _replaced(out: Path, read: Path) -> bool:
    with suppress(OSError, ValueError):  # the name of something else, too long for a file
        if out.samefile(read):
            return True
        there, place = read.resolve(strict=True), out.resolve(strict=True)
        if place.is_dir():
            return there.is_relative_to(place)
        return place.suffix in FROM_FOLDERS and place.is_relative_to(there)
    return False


def check_target(out: Path, formats: Sequence[str], overwrite: bool, inputs: Iterable[Any]) -> Path:
    """Returns the file to write after checking, before anything is computed, that its format is
    known and its place free.

    Args:
        out: The file.
        formats: Its endings.
        overwrite: Whether a file that exists is replaced.
        inputs: What is read, which is never replaced.

    Raises:
        UsageError: another ending, a file that exists or is read, a folder that does not exist, a
            run folder that is in use.
    """
    where = shown(out)
    if out.suffix not in formats:
        raise UsageError(f"cannot write {where}: name it {', or '.join(formats)}")
    if out.exists() and not out.is_file():
        raise UsageError(f"{where} is not a file: choose another --out")
    check_apart(out, inputs)
    if out.exists() and not overwrite:
        raise UsageError(f"{where} exists: choose another --out, or --overwrite to replace it")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {shown(out.parent)} to write {shown(out.name)} into")
    if not os.access(out.absolute().parent, os.W_OK):  # told before the work, not after it
        raise UsageError(f"{shown(out.parent)} cannot be written to: choose another --out")
    if out.is_symlink():
        raise UsageError(f"{where} is a link, and links are not followed: give the file itself")
    if (out.parent / "run.json").exists():
        if out.name in FILES:
            raise UsageError(f"{where} is a file of the run itself: choose another --out")
        parallel.on_main(lambda: locks.acquire(out.parent))  # another process may be writing there
    return out
