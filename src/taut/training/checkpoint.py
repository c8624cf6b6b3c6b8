"""Checkpoints: one folder each, ``checkpoints/step-000001200``, which exists whole or not at all.

It is written under a temporary name and renamed when everything in it is on the disk, so a kill at
any moment leaves the one before. The last two are kept; if the last is damaged, training resumes
from the other.
"""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
import warnings
from pathlib import Path

from taut.system import records
from taut.system.errors import StorageError, TautWarning, shown
from taut.system.storage import (
    clear_temporary,
    commit_folder,
    read_checked_json,
    read_tensors,
    remove_folder,
    temporary_folder,
    write_json,
    write_manifest,
    write_tensors,
)
from taut.training.loop import State

__all__ = ["latest", "load", "load_last", "save", "seconds_trained"]

KEPT = 2
NAME = re.compile(r"step-\d{9,}")
OF_OTHER_FILES = ("tensors", "seconds")
SCALARS = [f.name for f in dataclasses.fields(State) if f.name not in OF_OTHER_FILES]
CLOCK = "seconds.txt"  # the only file that two equal trainings do not share


def save(folder: Path, state: State) -> None:
    """Writes the state of a training below a folder of checkpoints; keeps only the last two."""
    scalars = {name: getattr(state, name) for name in SCALARS}
    if scalars["best_target"] == -math.inf:  # JSON has no infinity
        scalars["best_target"] = None
    temporary: Path | None = None
    try:
        folder.mkdir(exist_ok=True)
        _check(folder)
        clear_temporary(folder)  # left by a kill
        temporary = temporary_folder(folder)
        write_tensors(temporary / "state.safetensors", state.tensors)
        write_json(temporary / "state.json", scalars)
        write_manifest(temporary)
        (temporary / CLOCK).write_text(f"{state.seconds:.3f}\n", "utf-8")
        commit_folder(temporary, folder / f"step-{state.step:09d}")
        for old in _steps(folder)[:-KEPT]:
            remove_folder(old)
    except (OSError, StorageError) as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)  # a full disk needs the space
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"cannot write a checkpoint in {shown(folder)}: {error.strerror or error}"
        ) from None


def latest(folder: Path) -> Path:
    """Returns the newest checkpoint below a folder.

    Raises:
        StorageError: there is none.
    """
    steps = _steps(folder)
    if not steps:
        raise StorageError(
            f"no checkpoint in {shown(folder)}: nothing was trained yet, so run `taut fit` again"
        )
    return steps[-1]


def load_last(folder: Path) -> tuple[Path, State]:
    """Returns the path and the state of the last undamaged checkpoint below a folder, and warns of
    damaged ones.

    Raises:
        StorageError: there is none.
    """
    first: StorageError | None = None
    latest(folder)
    for path in reversed(_steps(folder)):
        try:
            state = load(path)
        except StorageError as error:
            first = first or error
            continue
        if first is not None:
            warnings.warn(f"{first}; resuming from {path.name}", TautWarning, stacklevel=2)
        return path, state
    assert first is not None
    raise first


def seconds_trained(folder: Path) -> float | None:
    """Returns the seconds that a training took, by its last checkpoint below a folder: of one that
    was killed and went on, those whose steps count. None where nothing says so.
    """
    steps = _steps(folder)
    return _seconds(steps[-1]) if steps else None


def _seconds(checkpoint: Path) -> float | None:
    """Returns what the clock of a checkpoint says; nothing rests on it, so no harm is an error."""
    try:
        found = float((checkpoint / CLOCK).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if 0 < found < math.inf else None


def load(checkpoint: Path) -> State:
    """Returns the state that a checkpoint holds.

    Raises:
        StorageError: it is damaged.
    """
    tensors = read_tensors(checkpoint / "state.safetensors")
    path = checkpoint / "state.json"
    scalars = records.checked(read_checked_json(path), records.STATE, path)
    if not scalars.keys() <= set(SCALARS) or not 0 <= scalars["step"] <= scalars["total_steps"]:
        raise StorageError(
            f"{shown(path)} is damaged: it is not the state of a training; restore it from a copy"
        )
    if scalars["best_target"] is None:
        scalars["best_target"] = -math.inf
    return State(**scalars, tensors=tensors, seconds=_seconds(checkpoint) or 0.0)


def _steps(folder: Path) -> list[Path]:
    _check(folder)
    found = [
        path
        for path in folder.glob("step-*")
        if NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    ]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def _check(folder: Path) -> None:
    if folder.is_symlink():
        raise StorageError(
            f"{shown(folder)} is a link, and links are not followed; put the folder itself in its "
            f"place"
        )
