"""Checkpoints: a folder each, ``checkpoints/step-000001200``, that is there whole or not at all.

It is written under a temporary name and renamed when everything in it is on the disk, so a kill at any moment leaves the
one before. The last two are kept.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path

from taut.errors import StorageError, shown
from taut.storage import (
    commit_folder,
    read_checked_json,
    read_tensors,
    remove_folder,
    write_json,
    write_manifest,
    write_tensors,
)
from taut.training.loop import State

__all__ = ["latest", "load", "save"]

KEPT = 2


def save(folder: Path, state: State) -> None:
    """Writes the state of a training below a folder of checkpoints, and removes all but the last two."""
    scalars = {f.name: getattr(state, f.name) for f in dataclasses.fields(state) if f.name != "tensors"}
    if scalars["best_target"] == -math.inf:  # JSON has no infinity
        scalars["best_target"] = None
    temporary = folder / ".tmp"
    try:
        folder.mkdir(exist_ok=True)
        for stray in (temporary, *folder.glob(".step-*")):  # left by a kill
            shutil.rmtree(stray, ignore_errors=True)
        temporary.mkdir()
        write_tensors(temporary / "state.safetensors", state.tensors)
        write_json(temporary / "state.json", scalars)
        write_manifest(temporary)
        commit_folder(temporary, folder / f"step-{state.step:09d}")
        for old in _steps(folder)[:-KEPT]:
            remove_folder(old)
    except (OSError, StorageError) as error:
        shutil.rmtree(temporary, ignore_errors=True)  # a full disk needs the space
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot write a checkpoint in {shown(folder)}: {error.strerror or error}") from None


def latest(folder: Path) -> Path:
    """Returns the newest checkpoint below a folder.

    Fails:
        StorageError: there is none.
    """
    steps = _steps(folder)
    if not steps:
        raise StorageError(f"no checkpoint in {shown(folder)}: nothing was trained yet, so run `taut fit` again with --overwrite")
    return steps[-1]


def load(checkpoint: Path) -> State:
    """Returns the state that a checkpoint holds.

    Fails:
        StorageError: it is damaged; the one before it is named, if there is one.
    """
    try:
        tensors = read_tensors(checkpoint / "state.safetensors")
        scalars = read_checked_json(checkpoint / "state.json")
    except StorageError as error:
        older = [p for p in _steps(checkpoint.parent) if p.name < checkpoint.name]
        mend = f"; remove {shown(checkpoint)} to go on from {older[-1].name}" if older else ""
        raise StorageError(f"{error}{mend}") from None
    if scalars["best_target"] is None:
        scalars["best_target"] = -math.inf
    return State(**scalars, tensors=tensors)


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))
