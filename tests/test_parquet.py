"""Parquet files come out whole or a row group at a time, each group read once, and damage is named
by its row group.
"""

from __future__ import annotations

import datetime
from collections import Counter
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from taut.data.readers import kind_of
from taut.data.tables.parquet import MAX_ROWS, num_bytes, read_parquet, row_groups
from taut.data.tables.parquet_rows import ParquetRows, block_order
from taut.system.errors import DataError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.parquet"


def write(
    path: Path, rows: int = 100, group: int = 10, start: int = 0, **options: object
) -> np.ndarray:
    """Writes the columns i and i / 2 (i from ``start``) and returns them as float32."""
    i = np.arange(start, start + rows)
    pq.write_table(pa.table({"i": i, "half": i / 2}), path, row_group_size=group, **options)
    return np.stack([i, i / 2], 1).astype(np.float32)


class Encode:
    """Encodes the two columns of ``write`` and counts how often each first row was asked for."""

    def __init__(self) -> None:
        self.calls: Counter[int] = Counter()

    def __call__(self, table: pa.Table, first_row: int) -> np.ndarray:
        assert table["i"][0].as_py() == first_row
        self.calls[first_row] += 1
        return np.stack([column.to_numpy() for column in table.columns], 1)


# --- whole files ---


DAY = datetime.date(2024, 2, 29)
MOMENT = datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(pa.array([DAY, None]), id="B44 dates"),
        pytest.param(
            pa.array([MOMENT, None], pa.timestamp("us", "UTC")), id="B44 timestamps with a zone"
        ),
        pytest.param(pa.array([datetime.timedelta(seconds=5), None]), id="B44 durations"),
        pytest.param(pa.array([Decimal("1.50"), None]), id="B45 decimal"),
        pytest.param(pa.array([[1, 2], None]), id="B45 list"),
        pytest.param(pa.array([{"a": 1, "b": "x"}, None]), id="B45 struct"),
        pytest.param(pa.array(["b", None]).dictionary_encode(), id="B45 dictionary"),
        pytest.param(
            pa.DictionaryArray.from_arrays(
                pa.array([1, None], pa.int8()), ["b", "a"], ordered=True
            ),
            id="B45 ordered",
        ),
        pytest.param(pa.nulls(2), id="B45 null"),
        pytest.param(pa.array([b"\0", None]), id="B45 binary"),
        pytest.param(pa.array([np.float16(0.5), None], pa.float16()), id="B45 half floats"),
        pytest.param(pa.array([0.5, float("nan")]), id="NaN stays NaN"),
    ],
)
def test_types_survive(path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"x": column}), path)
    read = read_parquet(path)["x"]
    # the type of its numbers may change, the levels and their order may not
    if pa.types.is_dictionary(column.type):
        assert (read.type.value_type, read.type.ordered) == (
            column.type.value_type,
            column.type.ordered,
        )
        assert read.chunk(0).dictionary.to_pylist() == column.dictionary.to_pylist()
    else:
        assert read.type == column.type
    assert str(read.to_pylist()) == str(column.to_pylist())


def test_a_file_in_groups_is_read_whole(path: Path) -> None:
    data = write(path, rows=25)
    assert np.array_equal(Encode()(read_parquet(path), 0), data)
    assert [table.num_rows for table in row_groups(path)] == [10, 10, 5]
    assert num_bytes(path) == 4 * 25 * 2


def test_a_folder_is_one_file_in_the_order_of_names(tmp_path: Path) -> None:
    write(tmp_path / "b.parquet", rows=15, start=15)
    write(tmp_path / "a.parquet", rows=15)
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "._a.parquet").write_bytes(b"what macOS leaves behind")
    assert read_parquet(tmp_path)["i"].to_pylist() == list(range(30))
    assert [table["i"].to_pylist() for table in row_groups(tmp_path)] == [
        list(range(10)),
        list(range(10, 15)),
        list(range(15, 25)),
        list(range(25, 30)),
    ]
    assert num_bytes(tmp_path) == 4 * 30 * 2


def test_the_index_of_pandas_is_dropped(path: Path) -> None:
    pd.DataFrame({"x": [1, 2, 3]}, index=[7, 8, 9])[:2].to_parquet(path)
    assert pq.read_table(path).column_names == ["x", "__index_level_0__"]
    assert read_parquet(path).to_pydict() == {"x": [1, 2]}
    assert num_bytes(path) == 4 * 2


def test_categories_that_differ_by_row_group_survive(path: Path) -> None:
    values = ["a", "b", "c", "d", None, "a"]
    pq.write_table(pa.table({"x": pa.array(values).dictionary_encode()}), path, row_group_size=2)
    assert read_parquet(path)["x"].to_pylist() == values


def test_one_huge_row_group_comes_in_pieces_B47(path: Path) -> None:
    rows = 2 * MAX_ROWS + 100
    write(path, rows, group=rows)
    tables = list(row_groups(path))
    assert [table.num_rows for table in tables] == [MAX_ROWS, MAX_ROWS, 100]
    assert pa.concat_tables(tables)["i"].to_pylist() == list(range(rows))


# --- damage ---


def test_a_truncated_file_is_refused_B46(path: Path) -> None:
    write(path)
    path.write_bytes(path.read_bytes()[:-20])
    for read in (read_parquet, num_bytes, row_groups):
        with pytest.raises(DataError) as caught:
            read(path)
        [line] = caught.value.problems
        assert line.startswith(f"{path}: is not a Parquet file, or truncated or damaged (")
        assert line.endswith("); write it again")


def damage(path: Path, group: int) -> None:
    column = pq.read_metadata(path).row_group(group).column(1)
    # in the last page, behind its header
    last = column.data_page_offset + column.total_compressed_size - 20
    content = bytearray(path.read_bytes())
    content[last : last + 4] = bytes(255 - byte for byte in content[last : last + 4])
    path.write_bytes(content)


@pytest.mark.parametrize(
    "options", [{"write_page_checksum": True, "compression": "none"}, {"compression": "gzip"}]
)
def test_every_damaged_row_group_is_named_B46(path: Path, options: dict[str, object]) -> None:
    write(path, use_dictionary=False, **options)
    damage(path, 3)
    damage(path, 7)
    with pytest.raises(DataError) as caught:
        read_parquet(path)
    assert [line.split(" is damaged (")[0] for line in caught.value.problems] == [
        f"{path}: row group {group} of 10 (from 0)" for group in (3, 7)
    ]
    assert all(
        line.endswith("); write or download the file again") for line in caught.value.problems
    )


def test_a_damaged_row_group_is_named_when_it_is_reached_B46(path: Path) -> None:
    data = write(path, use_dictionary=False, compression="none", write_page_checksum=True)
    damage(path, 3)
    rows = ParquetRows(path, Encode(), 2)
    assert np.array_equal(rows[:30], data[:30])
    with pytest.raises(DataError, match=r"row group 3 of 10 \(from 0\) is damaged"):
        rows[torch.tensor([35])]
    assert np.array_equal(rows[40:], data[40:])


def test_a_damaged_huge_row_group_is_named_once_B46(path: Path) -> None:
    write(
        path,
        3 * MAX_ROWS,
        group=3 * MAX_ROWS,
        use_dictionary=False,
        compression="none",
        write_page_checksum=True,
    )
    damage(path, 0)
    with pytest.raises(DataError) as caught:
        read_parquet(path)
    assert [line.split(" is damaged (")[0] for line in caught.value.problems] == [
        f"{path}: row group 0 of 1 (from 0)"
    ]


def test_files_of_other_columns_are_all_named(tmp_path: Path) -> None:
    for name, columns in {
        "a": {"x": [1]},
        "b": {"x": ["a"]},
        "c": {"x": [1], "y": [1]},
        "d": {"x": [2]},
    }.items():
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    with pytest.raises(DataError) as caught:
        read_parquet(tmp_path)
    same = f"where {tmp_path}/a.parquet has"
    assert caught.value.problems == [
        f"{tmp_path}/b.parquet: has x string {same} x int64; write all files of a folder with the "
        f"same columns",
        f"{tmp_path}/c.parquet: has y int64 {same} no column; write all files of a folder with the "
        f"same columns",
    ]


def test_nothing_to_read_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_parquet(tmp_path)
    assert caught.value.problems == [
        f"{tmp_path}: holds no .parquet files; give a folder that does, or a file"
    ]
    pq.write_table(pa.table({"x": pa.array([], pa.int64())}), path)
    with pytest.raises(DataError) as caught:
        read_parquet(path)
    assert caught.value.problems == [
        f"{path}: has no rows; give a file with at least one row of data"
    ]


# --- rows on demand ---


def test_rows_are_indexed_like_a_tensor(path: Path) -> None:
    data = torch.from_numpy(write(path))
    rows = ParquetRows(path, Encode(), 2)
    assert (len(rows), rows.shape, rows.dtype) == (100, (100, 2), torch.float32)
    index = torch.tensor([99, 0, 0, 57, 12, -1])
    for asked in (
        index,
        index.int(),
        slice(5, 25),
        slice(90, None),
        slice(50, 10, -7),
        slice(3, 3),
        41,
        -2,
        torch.tensor([], dtype=torch.long),
    ):
        found = rows[asked]
        assert found.dtype == torch.float32
        assert (
            found.tolist()
            == np.asarray(data)[
                asked if not isinstance(asked, torch.Tensor) else asked.numpy()
            ].tolist()
        )
    assert torch.equal(torch.cat(list(rows.split(7))), data)
    assert [len(block) for block in rows.split(30)] == [30, 30, 30, 10]


@pytest.mark.parametrize(
    "index", [torch.tensor([0.5]), torch.tensor([True]), torch.tensor(3), torch.tensor([[1]])]
)
def test_an_index_that_is_no_vector_of_integers_is_refused(path: Path, index: torch.Tensor) -> None:
    write(path)
    with pytest.raises(TypeError, match="rows are taken by a vector of integers"):
        ParquetRows(path, Encode(), 2)[index]


@pytest.mark.parametrize("index", [100, -101])
def test_an_index_beyond_the_rows_is_refused(path: Path, index: int) -> None:
    write(path)
    with pytest.raises(IndexError, match="row numbers go from 0 to 99"):
        ParquetRows(path, Encode(), 2)[torch.tensor([0, index])]


def test_a_batch_reads_each_group_once_and_the_cached_ones_first(path: Path) -> None:
    write(path)
    encode = Encode()
    rows = ParquetRows(path, encode, 2, cache=2)
    rows[torch.tensor([85, 95])]
    # groups 8 and 9 are at hand, although 0 to 2 would throw them out
    rows[torch.tensor([5, 15, 95, 85, 25, 6])]
    assert encode.calls == {80: 1, 90: 1, 0: 1, 10: 1, 20: 1}


def test_the_groups_least_recently_used_go_first(path: Path) -> None:
    write(path)
    encode = Encode()
    rows = ParquetRows(path, encode, 2, cache=2)
    for row in (0, 10, 1, 20, 2, 11):
        rows[row]
    assert encode.calls == {0: 1, 10: 2, 20: 1}


@pytest.mark.parametrize("cache", [1, 3])
def test_blocks_and_slices_read_each_group_once(path: Path, cache: int) -> None:
    write(path)
    encode = Encode()
    rows = ParquetRows(path, encode, 2, cache=cache)
    assert sum(len(block) for block in rows.split(7)) == 100
    assert set(encode.calls.values()) == {1}
    rows = ParquetRows(path, encode, 2, cache=cache)
    assert len(rows[:]) == 100
    assert set(encode.calls.values()) == {2}


def test_the_cache_holds_no_more_groups_than_it_may(path: Path) -> None:
    write(path)
    held = []

    def encode(table: pa.Table, first_row: int) -> np.ndarray:
        held.append(len(rows._cached))  # at the moment when another is made
        return np.zeros((table.num_rows, 2))

    rows = ParquetRows(path, encode, 2, cache=3)
    rows[torch.randperm(100)]
    assert held == [0, 1, 2] + [2] * 7
    assert [codes.dtype for codes in rows._cached.values()] == [np.float32] * 3


def test_an_epoch_in_block_order_reads_each_group_once(path: Path) -> None:
    data = torch.from_numpy(write(path, rows=1000, group=50))
    encode = Encode()
    rows = ParquetRows(path, encode, 2, cache=4)
    order = block_order(rows.blocks, 2, torch.Generator().manual_seed(3))
    for index in order.split(16):
        assert torch.equal(rows[index], data[index])
    assert encode.calls == dict.fromkeys(range(0, 1000, 50), 1)


def test_parts_hold_their_rows_and_no_others(path: Path) -> None:
    data = torch.from_numpy(write(path))
    everything = ParquetRows(path, Encode(), 2)
    chosen = np.array([0, 3, 19, 20, 21, 55, 99])
    part = everything.subset(chosen)
    assert part.shape == (7, 2)
    assert torch.equal(part[:], data[chosen])
    assert part.blocks.tolist() == [0, 2, 3, 5, 5, 5, 6, 6, 6, 6, 7]
    assert torch.equal(part.subset(np.array([1, 4]))[:], data[chosen[[1, 4]]])
    assert torch.equal(ParquetRows(path, Encode(), 2, rows=chosen)[:], data[chosen])
    assert sum(len(codes) for codes in part._cached.values()) == 7
    assert torch.equal(everything[:], data)
    assert part.subset(np.array([], dtype=np.int64)).shape == (0, 2)


def test_rows_of_several_files(tmp_path: Path) -> None:
    data = [
        write(tmp_path / "a.parquet", rows=15),
        write(tmp_path / "b.parquet", rows=15, start=15),
    ]
    for paths in (tmp_path, [tmp_path / "a.parquet", tmp_path / "b.parquet"]):
        rows = ParquetRows(paths, Encode(), 2)
        assert np.array_equal(rows[:], np.concatenate(data))
        assert rows.blocks.tolist() == [0, 10, 15, 25, 30]


def test_moving_keeps_the_cache(path: Path) -> None:
    write(path)
    encode = Encode()
    rows = ParquetRows(path, encode, 2)
    rows[5]
    assert rows.to(torch.device("meta"))[5].device == torch.device("meta")
    assert rows[5].device == torch.device("cpu")
    assert encode.calls == {0: 1}


def test_a_huge_row_group_is_streamed_and_said_B47(path: Path) -> None:
    count = 3 * MAX_ROWS + 100
    data = torch.from_numpy(write(path, count, group=count))
    encode = Encode()
    rows = ParquetRows(path, encode, 2, cache=1)
    assert rows.notes == [
        f"{path}: one row group of 196,708 rows: rewriting the file with row groups of 50,000 "
        f"trains faster"
    ]
    assert rows.blocks.tolist() == [0, MAX_ROWS, 2 * MAX_ROWS, 3 * MAX_ROWS, count]
    assert torch.equal(torch.cat(list(rows.split(10_000))), data)
    assert set(encode.calls.values()) == {1}
    index = torch.tensor([count - 1, 0, 2 * MAX_ROWS, MAX_ROWS - 1, 5])  # back and forth
    assert torch.equal(rows[index], data[index])
    for row in index.tolist():
        assert torch.equal(rows[row], data[row])


def test_huge_row_groups_side_by_side_B47(path: Path) -> None:
    group = MAX_ROWS + 10
    data = torch.from_numpy(write(path, 2 * group, group=group))
    rows = ParquetRows(path, Encode(), 2, cache=1)
    assert rows.notes == [
        f"{path}: 2 row groups of up to 65,546 rows: rewriting the file with row groups of 50,000 "
        f"trains faster"
    ]
    assert torch.equal(torch.cat(list(rows.split(5000))), data)
    for row in (2 * group - 1, 0, group, group - 1):
        assert torch.equal(rows[row], data[row])


def test_many_small_row_groups_are_said(path: Path) -> None:
    write(path, rows=90)
    assert ParquetRows(path, Encode(), 2).notes == [
        f"{path}: 9 row groups of 10 rows on average: rewriting the file with row groups of 50,000 "
        f"trains faster"
    ]
    write(path, rows=80)
    assert ParquetRows(path, Encode(), 2).notes == []


# --- the order of an epoch ---

BLOCKS = np.array([0, 10, 10, 25, 27, 60, 64])


@pytest.mark.parametrize("window", [1, 2, 4, 6, 100])
def test_block_order_holds_every_row_once_window_by_window(window: int) -> None:
    order = block_order(BLOCKS, window, torch.Generator().manual_seed(0))
    assert order.sort().values.tolist() == list(range(64))
    # The generator permutes the blocks first, so the windows are known.
    blocks = torch.randperm(6, generator=torch.Generator().manual_seed(0)).tolist()
    done = 0
    for start in range(0, 6, window):
        rows = sorted(
            row for i in blocks[start : start + window] for row in range(BLOCKS[i], BLOCKS[i + 1])
        )
        assert sorted(order[done : done + len(rows)].tolist()) == rows
        done += len(rows)


def test_block_order_is_a_function_of_the_generator() -> None:
    generator = torch.Generator().manual_seed(5)
    first, second = (block_order(BLOCKS, 2, generator).tolist() for _ in range(2))
    torch.manual_seed(1234)
    assert block_order(BLOCKS, 2, torch.Generator().manual_seed(5)).tolist() == first
    assert first != second


def test_block_order_permutes_rows_inside_a_window() -> None:
    # One block: each of 3! orders is as likely. Of 6000, each comes 1000 times, sd 28.9; five sd:
    # false alarms below 4e-6.
    generator = torch.Generator().manual_seed(0)
    counts = Counter(
        tuple(block_order(np.array([0, 3]), 1, generator).tolist()) for _ in range(6000)
    )
    assert len(counts) == 6
    assert max(abs(count - 1000) for count in counts.values()) < 5 * 28.9


def test_folders_that_are_columns_are_read_as_such(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "y": np.arange(6) / 2,
            "k": ["a", "b/c", None] * 2,
            "year": [2020, 2020, 2020, 2021, 2021, 2021],
        }
    )
    frame.to_parquet(tmp_path / "part", partition_cols=["year", "k"])
    assert kind_of(tmp_path / "part").name == "Parquet files"
    table = read_parquet(tmp_path / "part")
    rows = sorted(zip(*table.select(["y", "year", "k"]).to_pydict().values(), strict=True))
    assert rows == [
        (0, "2020", "a"),
        (0.5, "2020", "b/c"),
        (1, "2020", None),
        (1.5, "2021", "a"),
        (2, "2021", "b/c"),
        (2.5, "2021", None),
    ]
    assert num_bytes(tmp_path / "part") == 4 * 6 * 3
    assert pa.concat_tables(row_groups(tmp_path / "part")).equals(table)


def test_parts_of_other_order_and_narrower_types_are_taken_in(tmp_path: Path) -> None:
    parts = {
        "a": {
            "n": pa.nulls(2),
            "x": pa.array([1, 2]),
            "t": pa.array([0, 1], pa.timestamp("us")),
            "k": pa.array(["p", "q"]),
        },
        "b": {
            "k": pa.array(["r"]).dictionary_encode(),
            "x": pa.array([0.5]),
            "n": pa.array([3.5]),
            "t": pa.array([2], pa.timestamp("ms")),
        },
        "c": {
            "x": pa.array([7], pa.int8()),
            "n": pa.array([4]),
            "t": pa.array([3000], pa.timestamp("ns")),
            "k": pa.array(["s"]),
        },
    }
    for name, columns in parts.items():
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    table = read_parquet(tmp_path)
    assert table.column_names == ["n", "x", "t", "k"]
    assert table["n"].to_pylist() == [None, None, 3.5, 4.0]
    assert table["x"].to_pylist() == [1.0, 2.0, 0.5, 7.0]
    assert table["t"].cast(pa.int64()).to_pylist() == [0, 1, 2000, 3]
    assert table["k"].to_pylist() == ["p", "q", "r", "s"]
    pq.write_table(pa.table({"n": ["z"], "x": [1], "t": [1], "k": ["s"]}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match="has t int64 where"):
        read_parquet(tmp_path)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_text_that_is_not_utf_8_is_refused_with_its_place(path: Path, kind: pa.DataType) -> None:
    texts = pa.array(["ab", "cdef", "gh"] * 4)
    spoilt = pa.Array.from_buffers(
        pa.string(),
        12,
        [None, texts.buffers()[1], pa.py_buffer(b"ab\xff\xfeefgh" + b"abcdefgh" * 3)],
    )
    table = pa.table({"i": np.arange(12), "s": pa.array(["ok"] * 12)})
    values = (
        spoilt.dictionary_encode()
        if pa.types.is_dictionary(kind)
        else spoilt
        if kind == pa.string()
        else spoilt.cast(kind)
    )
    pq.write_table(table.set_column(1, "s", values), path, row_group_size=6)
    for read in (read_parquet, lambda path: list(row_groups(path))):
        with pytest.raises(DataError) as caught:
            read(path)
        assert caught.value.problems[0] == (
            f"{path}: column s, row group 0 (from 0): holds text that is not UTF-8; write it again "
            f"as UTF-8"
        )
