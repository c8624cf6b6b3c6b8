"""What is written is what was computed: types, texts, gaps.

A spreadsheet gets no formula, an observed cell no new bit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from pyarrow import csv, parquet

from taut.data import fill, prepare, to_table
from taut.runs.folder import check_target
from taut.system.errors import UsageError
from taut.use.export import ARRAYS, NUMBERS, TABLES, write_numbers, write_table


@pytest.fixture(autouse=True)
def _single_precision(_seeded: None) -> None:
    torch.set_default_dtype(torch.float32)


def mixed(n: int = 60) -> pa.Table:
    rng = np.random.default_rng(0)
    gap = rng.random((n, 4)) < 0.3
    return pa.table(
        {
            "weight": pa.array(rng.normal(size=n) / 3, pa.float64(), mask=gap[:, 0]),
            "kind": pa.array(
                rng.choice(["a", "b", "=1+1", "?"], n).tolist(), pa.string(), mask=gap[:, 1]
            ).dictionary_encode(),
            "year": pa.array(rng.integers(1990, 2020, n), pa.int16(), mask=gap[:, 2]),
            "seen": pa.array(rng.integers(0, 10_000, n), pa.int32(), mask=gap[:, 3]).cast(
                pa.date32()
            ),
            "note": [f"n{i}" for i in range(n)],
        }
    )


def test_what_was_observed_stays_to_the_bit_and_what_was_not_is_filled() -> None:
    table = mixed()
    data = prepare(table, missing_values=("?",), test_fraction=0.0, validation_fraction=0.0)
    assert [c.name for c in data.schema.modelled] == ["weight", "kind", "year", "seen"]
    values = torch.where(data.train.isnan(), 1.0, data.train)
    filled = fill(table, values, data.schema)[0]
    assert filled.column_names == table.column_names
    for name in table.column_names:
        old, new = table[name], filled[name]
        old = old.cast(old.type.value_type) if pa.types.is_dictionary(old.type) else old
        assert new.type == old.type
        gone = (
            old.is_null()
            if name != "kind"
            else pc.or_(old.is_null(), pc.fill_null(pc.equal(old, "?"), False))
        )
        assert new.filter(pc.invert(gone)).equals(old.filter(pc.invert(gone)))
        assert new.null_count == 0
    assert filled["weight"].filter(table["weight"].is_null()).unique().to_pylist() == [1.0]
    assert filled["kind"].filter(table["kind"].is_null()).unique().to_pylist() == [
        data.schema.modelled[1].levels[1]
    ]
    # made values stay in the range
    assert filled["year"].filter(table["year"].is_null()).unique().to_pylist() == [1990]


def test_a_level_that_was_never_seen_stays_what_it_is() -> None:
    schema = prepare(mixed(), missing_values=("?",)).schema
    table = mixed(3).set_column(1, "kind", pa.array(["never", None, "a"]))
    filled, count = fill(table, np.ones((3, 4)), schema)
    lacking = sum(table[name].null_count for name in table.column_names)
    assert count == lacking - sum(filled[name].null_count for name in table.column_names)
    assert filled["kind"].to_pylist() == ["never", schema.modelled[1].levels[1], "a"]


def test_a_column_without_gaps_is_the_same_column() -> None:
    table = mixed()
    schema = prepare(table).schema
    whole = table.set_column(0, "weight", pa.array(np.linspace(0, 1, 60)))
    filled, _ = fill(whole, np.full((60, 4), 1.0), schema)
    assert filled.column("weight").equals(whole.column("weight"))


def test_numbers_that_are_whole_in_the_data_are_written_whole() -> None:
    schema = prepare(mixed(), missing_values=("?",)).schema
    table = to_table(
        np.array([[0.25, 1, 2001.6, 365.0], [np.nan, np.nan, np.nan, np.nan]]), schema.modelled
    )
    assert table.to_pylist()[0]["year"] == 2002
    assert str(table.to_pylist()[0]["seen"]) == "1971-01-01"
    assert set(table.to_pylist()[1].values()) == {None}


def test_a_spreadsheet_gets_no_formula(tmp_path: Path) -> None:
    bad = ["=1+1", "+1", "-x", "@cmd", "\tx", "fine", "it's", "a,b", "-", None]
    table = pa.table({"=head": bad, "number": [-1.5] * 10})
    write_table(table, tmp_path / "a.csv")
    text = (tmp_path / "a.csv").read_bytes().decode().split("\n")
    assert text[0].startswith("'=head") or text[0].startswith('"\'=head"')
    read = csv.read_csv(
        tmp_path / "a.csv", convert_options=csv.ConvertOptions(column_types={"'=head": pa.string()})
    )
    assert read["'=head"].to_pylist()[:9] == [
        "'=1+1",
        "+1",
        "'-x",
        "'@cmd",
        "'\tx",
        "fine",
        "it's",
        "a,b",
        "'-",
    ]
    assert read["number"].to_pylist() == [-1.5] * 10
    write_table(table, tmp_path / "a.parquet")
    assert parquet.read_table(tmp_path / "a.parquet").equals(table)


def test_a_number_is_no_formula_and_a_persons_own_table_stays_as_it_is(tmp_path: Path) -> None:
    table = pa.table({"x": ["-1.524", "+3", "-1e-5", "-.5", "=1+1", "-x"]})
    write_table(table, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().replace('"', "").split() == [
        "x",
        "-1.524",
        "+3",
        "-1e-5",
        "-.5",
        "'=1+1",
        "'-x",
    ]
    write_table(table, tmp_path / "own.csv", own=True)
    assert (tmp_path / "own.csv").read_text().replace('"', "").split() == [
        "x",
        *table["x"].to_pylist(),
    ]


def test_a_filled_number_that_does_not_fit_widens_its_column() -> None:
    table = pa.table(
        {"n": pa.array([1, 60_000, None] * 19 + [7, 8, 9], pa.uint16()), "b": ["x", "y", "x"] * 20}
    )
    schema = prepare(table).schema
    values = np.full((60, 2), 1.0)
    values[:, [c.name for c in schema.modelled].index("n")] = -3.4
    filled = fill(table, values, schema)[0]
    assert filled["n"].type == pa.int64()
    assert filled["n"].to_pylist()[:3] == [1, 60_000, -3]


def test_numbers_are_written_exactly(tmp_path: Path) -> None:
    values = torch.randn(5, 3, dtype=torch.float64)
    for name in ("a.npy", "a.csv", "a.parquet"):
        write_numbers(values, tmp_path / name, ["x", "y", "z"])
    assert np.array_equal(np.load(tmp_path / "a.npy"), values.numpy())
    for read in (csv.read_csv(tmp_path / "a.csv"), parquet.read_table(tmp_path / "a.parquet")):
        assert read.column_names == ["x", "y", "z"]
        assert np.array_equal(np.stack([c.to_numpy() for c in read.columns], 1), values.numpy())


@pytest.mark.parametrize(
    ("name", "formats", "words"),
    [
        ("a.txt", TABLES, "name it .csv, or .parquet"),
        ("a.csv", ARRAYS, "name it .npy"),
        ("there.npy", NUMBERS, "exists"),
        ("folder.npy", NUMBERS, "not a file"),
        ("none/a.npy", NUMBERS, "no folder"),
    ],
)
def test_a_bad_target_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    formats: tuple[str, ...],
    words: str,
) -> None:
    (tmp_path / "there.npy").write_text("")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(UsageError, match=words) as caught:
        check_target(tmp_path / name, formats, overwrite=False, inputs=())
    assert "\n" not in str(caught.value)
    with monkeypatch.context() as patch:  # whoever runs the tests may write anywhere
        patch.setattr("os.access", lambda *_: False)
        with pytest.raises(UsageError, match="cannot be written to: choose another --out"):
            check_target(tmp_path / "new.npy", NUMBERS, overwrite=False, inputs=())
    if name == "there.npy":
        assert check_target(tmp_path / name, formats, overwrite=True, inputs=()) == tmp_path / name
