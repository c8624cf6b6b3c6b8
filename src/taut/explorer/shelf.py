"""The runs that a page shows, finished or still in training."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taut.explorer.views import View, look_at
from taut.runs import folder
from taut.runs.folder import Stored
from taut.system import records, storage
from taut.system.errors import StorageError, UsageError, shown

__all__ = ["Shelf"]

POINTS = 1000  # of a curve


@dataclass
class Entry:
    """A run folder, and what was read of it."""

    path: Path
    data: str
    run: Stored | None = None
    view: View | None = None
    weights: Any = None  # the SHA-256 of those that the view is of


class Shelf:
    """Creates the list of runs.

    Args:
        paths: Their folders.
        trust: Outside modules that they may import.
        source: A file of rows to look at; by default those that each run held out.
        key: Which array of an .npz file.

    Raises:
        StorageError: a folder is damaged.
        UsageError: it is not a run.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        trust: Sequence[str] = (),
        source: str | None = None,
        key: str | None = None,
    ) -> None:
        self.trust, self.source, self.key = trust, source, key
        self.entries: list[Entry] = []
        self._compared: dict[str, Any] | None = None
        self.loading = threading.Lock()  # UMAP and the rest may ask for a view at once
        for path in paths:
            _, _, schema = folder.described(folder.run_folder(path), trust)
            self.entries.append(Entry(path, schema.describe()))
        for number in range(len(self.entries)):
            if self.finished(number):
                self.view(number)

    def __len__(self) -> int:
        return len(self.entries)

    def finished(self, number: int) -> bool:
        """Returns whether a run has ended."""
        return (self.entries[number].path / storage.MANIFEST).exists()

    def there(self, number: int) -> bool:
        """Returns whether the folder of a run is still there."""
        return self.entries[number].path.is_dir()

    def about(self) -> list[dict[str, Any]]:
        """Returns what each run is called and whether it has ended."""
        names = [entry.path.resolve().name for entry in self.entries]
        return [
            {
                "name": shown(name if names.count(name) == 1 else entry.path),
                "data": shown(entry.data),
                "finished": self.finished(number),
            }
            for number, (name, entry) in enumerate(zip(names, self.entries, strict=True))
        ]

    def notes(self) -> list[str]:
        """Returns what there is to say of the rows that runs are looked at with, each line once."""
        views = [entry.view for entry in self.entries if entry.view is not None]
        return list(dict.fromkeys(note for view in views for note in view.notes))

    def view(self, number: int) -> View:
        """Returns the view of a run, which is loaded when it is first asked for, and again where
        another one has its folder since: the numbers in its files are of that one.

        Raises:
            StorageError: it is damaged.
            UsageError: it is in training, or gone.
        """
        with self.loading:
            return self._view(number)

    def _view(self, number: int) -> View:
        entry = self.entries[number]
        if not self.there(number):
            raise UsageError("the run is gone: its folder was moved or removed")
        if not self.finished(number):
            raise UsageError("the run is in training: its latent space is seen when it ends")
        weights = storage.read_manifest(entry.path).get("model.safetensors")
        if entry.view is None or weights != entry.weights:
            entry.run = folder.load(entry.path, trust=self.trust)
            entry.view = look_at(entry.run, self.source, self.key)
            entry.weights, self._compared = weights, None
        return entry.view

    def history(self, number: int) -> dict[str, Any]:
        """Returns the curves of a training, so far."""
        entry, done = self.entries[number], self.finished(number)
        try:
            lines = storage.read_lines(entry.path / "history.jsonl", records.HISTORY)
        except StorageError:
            if done:
                raise
            lines = []  # the last line is being written, or the first not yet
        every = max(1, len(lines) // POINTS)
        best = [line["step"] for line in lines if line["best"]]
        lines = [*lines[:-1:every], *lines[-1:]]
        curves = {name: [line.get(name) for line in lines] for name in CURVES}
        return {"finished": done, "best": best[-1] if best else None, **curves}

    def comparison(self, compare: Callable[[Sequence[Stored]], dict[str, Any]]) -> dict[str, Any]:
        """Returns the runs side by side, which is computed once."""
        runs = [self.view(i).run for i in range(len(self))]
        if self._compared is None:
            self._compared = compare(runs)
        return self._compared


CURVES = ("step", "epoch", "bound", "validation", "learning_rate")
