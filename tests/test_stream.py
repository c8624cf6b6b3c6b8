"""A file that stays on disk gives the model of the same rows in memory, and a training that was
stopped the same bits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

import taut
from taut.build.config import Config
from taut.data import Options, prepare
from taut.data.tables.parquet_rows import ParquetRows
from taut.runs.fit import resume, start, train_run
from taut.runs.folder import data_of
from taut.training import loop

ON, OFF = Options(stream=True), Options(stream=False)


@pytest.fixture(autouse=True)
def _single_precision(_seeded: None) -> None:
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    z = rng.normal(size=900)
    gaps = rng.random(900) < 0.1
    table = pa.table(
        {
            "a": pa.array(z + rng.normal(size=900), mask=gaps),
            "b": np.where(z > 0, "up", "down").tolist(),
            "c": rng.poisson(np.exp(z)) * 300,
        }
    )
    parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=70)
    return tmp_path / "rows.parquet"


def settings(**training: object) -> Config:
    training = {"max_epochs": 8, "batch_size": 32, "checkpoint_seconds": 0.0} | training
    small = {"encoder": "MLP(hidden=(8,))", "decoder": "MLP(hidden=(8,))", "latent_dim": 2}
    return Config.from_dict(
        {
            "data": {"stream": True},
            "training": training,
            "model": small,
            "evaluation": {"num_samples": 5},
        }
    )


def test_streamed_rows_are_those_in_memory(file: Path) -> None:
    streamed, whole = prepare(file, options=ON), prepare(file, options=OFF)
    assert isinstance(streamed.train, ParquetRows)
    assert streamed.streamed
    assert streamed.schema == whole.schema
    assert streamed.fingerprint == whole.fingerprint
    for part in ("train", "validation", "test"):
        a, b = getattr(streamed, part), getattr(whole, part)
        np.testing.assert_array_equal(a[torch.arange(len(a))].numpy(), b.numpy())
    assert set(whole.notes) < set(streamed.notes)  # one more, about its small row groups


def test_an_epoch_takes_every_row_once_and_few_row_groups_at_a_time(file: Path) -> None:
    data = prepare(file, options=ON).train
    n, size = len(data), 32
    rows = torch.cat([loop._rows(3, data, size, step) for step in range(2 * n // size + 1)])
    assert sorted(rows[:n].tolist()) == list(range(n))
    assert sorted(rows[n : 2 * n].tolist()) == list(range(n))
    assert not torch.equal(rows[:n], rows[n : 2 * n])
    assert isinstance(data, ParquetRows)
    groups = torch.from_numpy(np.searchsorted(data.blocks, rows[:n].numpy(), side="right"))
    # Windows of four groups follow each other: no stretch of a batch touches more than two windows.
    assert all(len(groups[i : i + size].unique()) <= 8 for i in range(0, n, size))


def test_a_stopped_streamed_training_goes_on_to_the_same_bits(file: Path, tmp_path: Path) -> None:
    def train(path: Path, stop_after: int | None) -> None:
        run, data, state = start(file, path, settings())
        records = train_run(run, data, state)
        for number, _ in enumerate(records):
            if number == stop_after:
                break
        records.close()

    train(tmp_path / "whole", None)
    train(tmp_path / "stopped", 0)
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    run, data, state = resume(tmp_path / "stopped")
    assert isinstance(data.train, ParquetRows)
    assert 0 < state.step < state.total_steps
    for _ in train_run(run, data, state):
        pass
    whole, again = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped")
    )
    assert whole == again


def test_a_streamed_run_is_measured_and_read_again(file: Path, tmp_path: Path) -> None:
    config = settings(max_epochs=2)
    run = taut.fit(str(file), tmp_path / "run", config=config)
    assert run.config.data.stream is True
    memory = taut.fit(
        prepare_table(file),
        tmp_path / "memory",
        config=Config.from_dict({**config.to_dict(), "data": {}}),
    )
    assert run.info["fingerprint"] == memory.info["fingerprint"]
    # The order of the batches differs, the data do not: the baseline is the same number.
    assert run.evaluation()["baseline"] == memory.evaluation()["baseline"]
    assert isinstance(data_of(taut.load(tmp_path / "run")).train, ParquetRows)


def prepare_table(file: Path) -> pa.Table:
    return parquet.read_table(file)


@pytest.mark.parametrize("streamed", [True, False])
def test_where_the_rows_are_is_decided_once(
    file: Path, tmp_path: Path, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for a test set that is larger than memory: it follows the training data."""
    config = Config.from_dict(
        {**settings(max_epochs=1).to_dict(), "data": {"stream": streamed, "test": str(file)}}
    )
    run, data, _ = start(file, tmp_path / "run", config)
    monkeypatch.setattr("taut.data.sources._free_memory", lambda: 1000 if not streamed else 10**12)
    again = data_of(run)
    for part in (data.train, data.test, again.train, again.test):
        assert isinstance(part, ParquetRows) is streamed


def test_a_folder_with_something_else_in_it_is_refused(file: Path) -> None:
    (file.parent / "note.txt").write_text("x")
    with pytest.raises(taut.DataError, match=r"note\.txt next to Parquet files"):
        prepare(file.parent)


def test_a_file_is_streamed_only_where_it_would_fill_the_memory(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not prepare(file).streamed
    monkeypatch.setattr("taut.data.sources._free_memory", lambda: 1000)
    assert prepare(file).streamed
