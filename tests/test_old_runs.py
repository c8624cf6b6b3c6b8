"""Run folders that the release before made (format 1): they load, score, sample and go on.

``tests/runs`` holds one of binary images and one of a table with gaps, both trained on data in
memory, and what that release said of their rows with 500 samples and seed 0.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pytest
import torch
from safetensors.torch import load_file

import taut
from taut.runs.fit import evaluate, resume, train_run
from taut.runs.folder import data_of
from taut.system.errors import DataError, StorageError

HERE = Path(__file__).parent / "runs"
NAMES = ("bits", "table")


@pytest.fixture(autouse=True)
def _single_precision(_seeded: None) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_num_threads(threads)


def source(name: str) -> Any:
    if name == "bits":
        return np.load(HERE / "v1-bits.npy")
    empty = csv.ConvertOptions(strings_can_be_null=True)
    return csv.read_csv(HERE / "v1-table.csv", convert_options=empty)


def expected(name: str) -> dict[str, list[Any]]:
    return json.loads((HERE / "v1-expected.json").read_text())[name]


@pytest.mark.parametrize("name", NAMES)
def test_every_row_has_the_log_evidence_and_the_embedding_it_had(name: str):
    """The noise is the same, and float32 sums may be ordered otherwise: 1e-4 nats."""
    run, old = taut.load(HERE / f"v1-{name}"), expected(name)
    assert run.info["format"] == 1
    scores, z = run.score(source(name)), run.encode(source(name))
    value = np.asarray(scores["log_evidence"])
    np.testing.assert_allclose(value, old["log_evidence"], rtol=0, atol=1e-4)
    # the error holds a tail that is fitted to few weights, which feels their rounding
    error = np.asarray(scores["log_evidence_error"])
    np.testing.assert_allclose(error, old["error"], rtol=0.05)
    z = z if name == "bits" else np.stack([z[f"z{i}"] for i in range(2)], 1)
    np.testing.assert_allclose(z, old["embedding"], rtol=0, atol=1e-5)


def test_samples_are_what_they_were():
    """The first of two, as the old code drew it with seed 0; numbers on the grid of the data."""
    bits = taut.load(HERE / "v1-bits").sample(2)
    assert bits[0].tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert bits.dtype == np.uint8
    row = taut.load(HERE / "v1-table").sample(2).iloc[0]
    assert (row["member"], row["visits"]) == ("yes", 4)
    assert [row["height"], row["weight"]] == pytest.approx([177.2348, 72.7889], abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_of_its_measurement_are_read(name: str):
    found = taut.load(HERE / f"v1-{name}").evaluation()
    assert found["by"] == {"importance": found["num_data"]}


@pytest.mark.parametrize("name", NAMES)
def test_a_stopped_training_goes_on_to_the_weights_that_it_would_have_had(
    name: str, tmp_path: Path
):
    path, whole = tmp_path / "run", HERE / f"v1-{name}"
    shutil.copytree(whole, path)
    for file in ("manifest.json", "model.safetensors", "evaluation.json"):
        (path / file).unlink()
    shutil.rmtree(sorted((path / "checkpoints").iterdir())[-1])
    run, data, state = resume(path, source=source(name))
    assert state.step == 200
    list(train_run(run, data, state))
    list(evaluate(run, data))
    before, after = (load_file(p / "model.safetensors") for p in (whole, path))
    for key, tensor in before.items():  # the steps round otherwise
        torch.testing.assert_close(after[key], tensor, rtol=0, atol=2e-4)
    again = taut.load(path)
    assert again.info["format"] == 2
    assert data_of(again, source(name)).fingerprint == again.info["fingerprint"]


def test_other_data_are_refused_as_ever():
    table = source("table")
    run = taut.load(HERE / "v1-table")
    assert len(data_of(run, table).train) == 64
    with pytest.raises(DataError, match="these are not the data of"):
        data_of(run, table.slice(1))


def test_a_run_with_dates_says_that_it_cannot_be_read(tmp_path: Path):
    path = tmp_path / "run"
    shutil.copytree(HERE / "v1-table", path)
    info = json.loads((path / "run.json").read_text())
    info["schema"]["columns"][0] |= {"kind": "date", "type": "date"}
    (path / "run.json").write_text(json.dumps(info))
    taut.system.storage.write_manifest(path)
    with pytest.raises(
        StorageError, match=r"modelled dates \(height\) in another way: train again"
    ):
        taut.load(path)


def test_frames_of_arrow_come_back_with_their_gaps_filled():
    table = source("table")
    filled = taut.load(HERE / "v1-table").impute(table)
    assert isinstance(filled, pa.Table)
    assert sum(c.null_count for c in filled.columns) == 0
    for name in table.column_names:
        old, new = table[name].to_pylist(), filled[name].to_pylist()
        assert [v for v in old if v is not None] == [
            w for v, w in zip(old, new, strict=True) if v is not None
        ]
