"""Frames come through as they are: types, missing entries, levels and their order."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from taut.data import check_against, fill, prepare
from taut.data.in_memory import given_back
from taut.data.tables.frames import from_frame
from taut.system.errors import DataError

DAY = datetime.date(2024, 2, 29)
MOMENT = datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC)
ORDERED = pd.CategoricalDtype(["low", "high", "never"], ordered=True)


@pytest.mark.parametrize(
    ("values", "dtype", "arrow", "expected"),
    [
        pytest.param([1.5, np.nan], "float64", pa.float64(), [1.5, None], id="NaN is missing"),
        pytest.param([1, pd.NA], "Int64", pa.int64(), [1, None], id="nullable integers"),
        pytest.param([True, pd.NA], "boolean", pa.bool_(), [True, None], id="nullable booleans"),
        pytest.param([0.5, pd.NA], "Float32", pa.float32(), [0.5, None], id="nullable floats"),
        pytest.param(["a", pd.NA], "string", None, ["a", None], id="nullable text"),
        pytest.param([1, None], pd.ArrowDtype(pa.int8()), pa.int8(), [1, None], id="Arrow's types"),
        pytest.param(
            ["a", None, np.nan, "NA"],
            object,
            pa.string(),
            ["a", None, None, "NA"],
            id="objects: text",
        ),
        pytest.param(
            [1, "a", None, 2.5],
            object,
            pa.string(),
            ["1", "a", None, "2.5"],
            id="B38 objects: mixed",
        ),
        pytest.param(
            [True, 1, pd.NA],
            object,
            pa.string(),
            ["True", "1", None],
            id="objects: booleans and numbers",
        ),
        pytest.param(
            [2**70, 1], object, pa.string(), [str(2**70), "1"], id="objects: huge integers"
        ),
        pytest.param([DAY, None], object, pa.date32(), [DAY, None], id="B44 dates"),
        pytest.param(
            [MOMENT, pd.NaT],
            "datetime64[ns, UTC]",
            pa.timestamp("ns", "UTC"),
            [MOMENT, None],
            id="B44 zones",
        ),
        pytest.param(
            ["2024-03", "NaT"], "period[M]", pa.string(), ["2024-03", None], id="B44 periods"
        ),
        pytest.param([[1], [2, 3]], object, pa.list_(pa.int64()), [[1], [2, 3]], id="B45 lists"),
        pytest.param(
            [{"a": 1}, None],
            object,
            pa.struct([("a", pa.int64())]),
            [{"a": 1}, None],
            id="B45 structs",
        ),
        pytest.param([None, None], object, pa.null(), [None, None], id="B45 nothing"),
        pytest.param([0.0, 2.0], pd.SparseDtype(float, 0.0), pa.float64(), [0.0, 2.0], id="sparse"),
    ],
)
def test_columns_of_pandas(
    values: list[object], dtype: object, arrow: pa.DataType | None, expected: list[object]
) -> None:
    table = from_frame(pd.DataFrame({"x": pd.Series(values, dtype=dtype)}))
    assert table.to_pydict() == {"x": expected}
    assert arrow is None or table["x"].type == arrow


@pytest.mark.parametrize("dtype", [ORDERED, pd.CategoricalDtype(["b", "a"])])
def test_categories_of_pandas_stay_levels_in_their_order(dtype: pd.CategoricalDtype) -> None:
    levels = list(dtype.categories)
    column = from_frame(pd.DataFrame({"x": pd.Series([levels[1], None, levels[0]], dtype=dtype)}))[
        "x"
    ]
    assert column.type == pa.dictionary(pa.int8(), pa.string(), ordered=dtype.ordered)
    assert column.chunk(0).dictionary.to_pylist() == levels
    assert column.to_pylist() == [levels[1], None, levels[0]]


def test_categories_that_are_no_text_are_levels_too() -> None:
    frame = pd.DataFrame(
        {
            "cut": pd.cut([1.0, 2.0, 9.0], [0, 5, 10]),
            "numbers": pd.Categorical([3, 1, 3]),
            "mixed": pd.Categorical([1, "a", 1]),
            "alike": pd.Categorical([1, "1", None]),  # one text for two levels
        }
    )
    table = from_frame(frame)
    assert table["cut"].to_pylist() == ["(0, 5]", "(0, 5]", "(5, 10]"]
    assert table["cut"].type == pa.dictionary(pa.int8(), pa.string(), ordered=True)
    assert table["numbers"].to_pylist() == [3, 1, 3]
    assert table["mixed"].to_pylist() == ["1", "a", "1"]
    assert table["alike"].to_pylist() == ["1", "1", None]


def test_the_index_of_pandas_is_dropped_and_names_become_text() -> None:
    frame = pd.DataFrame([[1, 2, 3, 4]], index=["row"], columns=[0, "0", ("a", "b"), None])
    assert from_frame(frame).column_names == ["0", "0", "('a', 'b')", "None"]
    assert [column.to_pylist() for column in from_frame(frame).columns] == [[1], [2], [3], [4]]


def test_a_column_that_is_sliced_keeps_its_rows() -> None:
    frame = pd.DataFrame({"x": [1, 2, 3, 4], "y": list("abcd")})[::2]
    assert from_frame(frame).to_pydict() == {"x": [1, 3], "y": ["a", "c"]}


def test_polars() -> None:
    frame = pl.DataFrame(
        {
            "t": ["x", None],
            "e": pl.Series(["b", "a"], dtype=pl.Enum(["b", "a", "c"])),
            "c": pl.Series(["q", None], dtype=pl.Categorical),
            "f": [0.5, None],
            "d": [DAY, None],
            "m": [MOMENT, None],
        }
    )
    table = from_frame(frame)
    assert table.to_pydict() == frame.to_dict(as_series=False)
    assert table["t"].type == pa.large_string()
    assert table["e"].chunk(0).dictionary.to_pylist() == ["b", "a", "c"]
    assert [table[name].type.ordered for name in "ec"] == [True, False]


def test_a_polars_column_that_arrow_has_no_type_for_is_refused() -> None:
    with pytest.raises(
        DataError,
        match=r"the frame: a column has a type that cannot be read \(.*_pli128.*\); convert or "
        r"drop it",
    ):
        from_frame(pl.DataFrame({"x": pl.Series([1], dtype=pl.Int128)}))


class Stream:
    """Offers its table by Arrow's protocol and by nothing else."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)


TABLE = pa.table({"x": [1, None], "y": pa.array(["a", "b"]).dictionary_encode()})


@pytest.mark.parametrize(
    "make", [lambda t: t, lambda t: t.to_batches()[0], lambda t: t.to_reader(), Stream]
)
def test_arrow(make: object) -> None:
    assert from_frame(make(TABLE)).equals(TABLE)


@pytest.mark.parametrize(
    "source",
    [
        np.zeros((2, 2)),
        torch.zeros(2),
        "digits",
        [[1]],
        {"x": [1]},
        None,
        pd.Series([1]),
        pl.Series([1]),
        pa.array([1]),
        pa.chunked_array([[1]]),
    ],
    ids=lambda source: type(source).__name__,
)
def test_what_is_no_frame_is_none(source: object) -> None:
    assert from_frame(source) is None


def test_nothing_is_imported_for_it() -> None:
    code = (
        "import sys, taut.data.tables.frames as f; f.from_frame([1]); print({'pandas', 'polars', "
        "'pyarrow'} & set(sys.modules))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "set()\n"
    )


def _calls(function: Callable[[], object]) -> int:
    """Returns how many calls of Python functions, generators' steps among them, something takes.

    Time without a clock.
    """
    count = 0

    def counted(frame: object, event: str, arg: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(counted)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def test_wide_frames_cost_as_many_calls_as_they_have_columns() -> None:
    """Twice the columns take at most twice the calls.

    A search of all columns for each would take four times as many.
    """
    r = np.random.default_rng(0)
    frames = [
        pd.DataFrame(r.normal(size=(12, n))).mask(r.random((12, n)) < 0.1).add_prefix("x")
        for n in (100, 200, 400)
    ]
    schemas = [prepare(frame).schema for frame in frames]
    values = [np.zeros(frame.shape) for frame in frames]
    tables = [from_frame(frame) for frame in frames]
    for act in (
        lambda i: prepare(frames[i]),
        lambda i: check_against(frames[i], schemas[i]),
        lambda i: fill(tables[i], values[i], schemas[i])[0],
        lambda i: given_back(values[i], schemas[i], frames[i][:0], tables[i].schema.types),
    ):
        act(0)  # what is made at the first use
        counts = [_calls(partial(act, i)) for i in range(3)]
        assert counts[2] - counts[1] < 2.2 * (counts[1] - counts[0])


def test_names_are_found_once_however_many_columns_there_are() -> None:
    schema = prepare(pd.DataFrame({"x": np.arange(12) / 7, "y": np.arange(12) / 3})).schema
    assert schema.modelled is schema.modelled
    assert schema.rest is schema.rest


def test_complex_numbers_are_refused() -> None:
    frame = pd.DataFrame({"a": np.arange(60) * 1j, "b": np.arange(60.0)})
    with pytest.raises(DataError, match="column a holds complex numbers; give the real and"):
        prepare(frame)


def test_numbers_beyond_the_storage_have_one_line_and_no_warning(
    recwarn: pytest.WarningsRecorder,
) -> None:
    torch.set_default_dtype(torch.float32)
    x = np.random.default_rng(0).normal(size=80)
    data = prepare(pd.DataFrame({"a": x, "b": x[::-1] ** 2}))
    with pytest.raises(DataError, match="beyond the range of float32"):
        check_against(pd.DataFrame({"a": [1e39, 1e308], "b": [1.0, 2.0]}), data.schema)
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]
