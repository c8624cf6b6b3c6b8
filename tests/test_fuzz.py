"""A few damaged files for each reader and for a run folder; ``make slow`` tries many."""

from __future__ import annotations

from pathlib import Path

import fuzz
import pytest

from taut.data import h5ad, prepare
from taut.system.errors import DataError


@pytest.mark.parametrize("name", fuzz.READERS)
def test_a_damaged_file_is_read_or_refused_in_a_line(name: str) -> None:
    assert fuzz.fuzz(fuzz.READERS[name], fuzz._read, 12) == []


def test_a_damaged_run_folder_is_used_or_refused_in_a_line() -> None:
    assert fuzz.fuzz(fuzz._run_folder, fuzz._use, 60) == []


def test_a_file_in_which_the_library_never_ends_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    circles = h5ad.LOOK.replace(
        "def look(name, item):", "def look(name, item):\n    while True: pass"
    )
    monkeypatch.setattr(h5ad, "LOOK", circles)
    monkeypatch.setattr(h5ad, "LOOK_SECONDS", 1)
    with pytest.raises(DataError, match=r"x\.h5ad: is damaged: reading it does not end"):
        prepare(fuzz._h5ad(tmp_path))
