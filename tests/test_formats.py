"""Arrow, Feather, JSON lines, Excel, 10x and Matrix Market files are read.

Others are refused with a command.
"""

from __future__ import annotations

import bz2
import dataclasses
import datetime
import gzip
import io
import lzma
import random
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pytest
import scipy.io
import scipy.sparse

from taut.data.dataset import prepare
from taut.data.readers import Options, kind_of, read
from taut.data.sources import KINDS
from taut.system.errors import DataError, OutOfMemoryError, UsageError

COLUMNS = {"x": [0.5, 1.5, None] * 10, "k": ["a", "b", "c"] * 10, "n": list(range(30))}
COUNTS = np.random.default_rng(0).poisson(1.0, (40, 12))


@pytest.fixture
def table() -> pa.Table:
    return pa.table(COLUMNS)


def write_table(table: pa.Table, path: Path) -> None:
    if path.suffix == ".feather":
        pyarrow.feather.write_feather(table, path)
    elif path.suffix == ".arrow":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    elif path.suffix == ".ipc":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    elif path.suffix == ".jsonl":
        import json

        path.write_text("\n".join(json.dumps(row) for row in table.to_pylist()) + "\n")
    else:
        import openpyxl

        book = openpyxl.Workbook()
        book.active.append(table.column_names)
        for row in table.to_pylist():
            book.active.append(list(row.values()))
        book.save(path)


@pytest.mark.parametrize("suffix", [".feather", ".arrow", ".ipc", ".jsonl", ".xlsx"])
def test_tables_of_other_formats_are_read_and_damaged_ones_refused(
    tmp_path: Path, table: pa.Table, suffix: str
) -> None:
    path = tmp_path / f"t{suffix}"
    write_table(table, path)
    source = read(path)
    assert (kind_of(path).name, source.is_table, source.data.to_pydict()) == (
        "tables of another format",
        True,
        COLUMNS,
    )
    assert [c.kind for c in prepare(path).schema.columns] == ["positive", "category", "levels"]
    content = path.read_bytes()
    for spoilt in (content[: len(content) // 2], b"x" * len(content), b""):
        path.write_bytes(spoilt)
        with pytest.raises(DataError):
            read(path)


def test_excel_sheets_of_several_types_and_several_sheets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    for row in (
        ["n", "mixed", "day", None],
        [1, 2, datetime.datetime(2021, 1, 2), None],
        [None] * 4,
        [2.5, "b", None, None],
    ):
        book.active.append(row)
    book.create_sheet("more")
    book.save(path := tmp_path / "t.xlsx")
    source = read(path)
    assert source.data.to_pydict() == {
        "n": [1.0, 2.5],
        "mixed": ["2", "b"],
        "day": [datetime.datetime(2021, 1, 2), None],
    }
    assert source.notes == (f"{path}: only its first sheet is read, not more",)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(
        UsageError,
        match=r"needs openpyxl to be read; pip install 'taut\[excel\]', or save the sheet as CSV",
    ):
        read(path)


def test_an_excel_file_that_unpacks_to_more_than_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch
) -> None:
    path = tmp_path / "bomb.xlsx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", b"0" * 2**26)
    monkeypatch.setattr("taut.system.memory.available", lambda: 2**26)
    with pytest.raises(OutOfMemoryError):
        read(path)


def ten_x(path: Path) -> None:
    cells = scipy.sparse.csr_matrix(COUNTS)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        for name, values in (
            ("data", cells.data),
            ("indices", cells.indices),
            ("indptr", cells.indptr),
            ("shape", [12, 40]),
        ):
            group[name] = values


def mtx(path: Path, matrix: np.ndarray) -> None:
    scipy.io.mmwrite(stream := io.BytesIO(), scipy.sparse.coo_matrix(matrix))
    path.write_bytes(
        gzip.compress(stream.getvalue()) if path.suffix == ".gz" else stream.getvalue()
    )


@pytest.mark.parametrize(
    "name", ["c.h5", "c.mtx", "c.mtx.gz", "matrix.mtx", "matrix.mtx.gz", "c.npz"]
)
@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
def test_counts_of_other_formats_are_read_and_damaged_ones_refused(
    tmp_path: Path, name: str, kind: str
) -> None:
    path = file = tmp_path / name
    if name == "c.h5":
        ten_x(path)
    elif name == "c.npz":
        scipy.sparse.save_npz(path, scipy.sparse.csr_matrix(COUNTS).asformat(kind))
    elif name.startswith("matrix"):
        mtx(path, COUNTS.T)
        path = tmp_path
    else:
        mtx(path, COUNTS)
    source = read(path)
    np.testing.assert_array_equal(source.data[slice(0, 40)].numpy(), COUNTS)
    assert prepare(path).schema.kind == "count"
    content = file.read_bytes()
    for spoilt in (content[: len(content) // 3], b"none" + content[4:]):
        file.write_bytes(spoilt)
        with pytest.raises(DataError):
            read(path)


@pytest.mark.parametrize("sizes", ["3 3 999999999999", "99999999999 2 1", "-3 3 1"])
def test_a_matrix_market_header_that_claims_more_than_the_file_holds_is_refused(
    tmp_path: Path, sizes: str
) -> None:
    path = tmp_path / "c.mtx"
    path.write_text(f"%%MatrixMarket matrix coordinate integer general\n{sizes}\n1 1 5\n")
    with pytest.raises(DataError):
        read(path)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        (
            "x.mat",
            "python -c \"import numpy, scipy.io; numpy.save('x.npy', "
            "scipy.io.loadmat('x.mat')['NAME'])\"",
        ),
        ("x.dcm", "numpy.save('x.npy', pydicom.dcmread('x.dcm').pixel_array[None])"),
        ("x.xls", "pandas.read_excel('x.xls').to_parquet('x.parquet')"),
        ("x.json", "pandas.read_json('x.json').to_parquet('x.parquet')"),
        ("x.hdf5", "h5py.File('x.hdf5')['NAME'][:]"),
    ],
)
def test_what_is_not_read_is_refused_with_the_command_that_converts(
    tmp_path: Path, name: str, command: str
) -> None:
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(DataError, match="convert it: ") as caught:
        read(tmp_path / name)
    assert command in str(caught.value)


def test_a_zarr_folder_and_an_address_are_refused_with_a_command(tmp_path: Path) -> None:
    (tmp_path / "c.zarr").mkdir()
    (tmp_path / "c.zarr" / ".zgroup").write_text("{}")
    with pytest.raises(
        DataError, match=r"convert it: .*anndata.read_zarr\('c.zarr'\).write_h5ad\('c.h5ad'\)"
    ):
        read(tmp_path / "c.zarr")
    with pytest.raises(
        UsageError,
        match=r"is an address, and only files are read; fetch it first: curl -LO "
        r"https://x\.org/t\.csv",
    ):
        read("https://x.org/t.csv")


TEXT = "price;when;w\n" + "".join(
    f"${i * 37.5:,.2f};{1 + i % 28:02d}.{1 + i % 12:02d}.2021;{i} kg\n" for i in range(60)
)


def archive(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("t.csv", content)
    return stream.getvalue()


PACK = {
    ".csv": bytes,
    ".csv.gz": gzip.compress,
    ".csv.bz2": bz2.compress,
    ".csv.xz": lzma.compress,
    ".csv.zip": archive,
}


@pytest.mark.parametrize(
    "name",
    [
        "t.feather",
        "t.arrow",
        "t.ipc",
        "t.jsonl",
        "t.xlsx",
        "c.h5",
        "c.mtx",
        "c.mtx.gz",
        "c.npz",
        *(f"x{s}" for s in PACK),
    ],
)
def test_flipped_cut_and_spliced_files_are_read_or_refused_in_one_line(
    tmp_path: Path, table: pa.Table, name: str
) -> None:
    path = tmp_path / name
    if name[0] == "t":
        write_table(table, path)
    elif name[0] == "x":
        path.write_bytes(PACK[name[1:]](TEXT.encode()))
    elif name == "c.h5":
        ten_x(path)
    elif name == "c.npz":
        scipy.sparse.save_npz(path, scipy.sparse.csr_matrix(COUNTS))
    else:
        mtx(path, COUNTS)
    prepare(path)
    good, draw = path.read_bytes(), random.Random(name)
    for _ in range(25):
        spoilt = bytearray(good)
        i, j = sorted(draw.randrange(len(good)) for _ in range(2))
        how = draw.choice(["flip", "cut", "splice"])
        if how == "flip":
            for _ in range(draw.choice([1, 3, 10])):
                spoilt[draw.randrange(len(spoilt))] = draw.randrange(256)
        path.write_bytes(
            {"flip": spoilt, "cut": good[:i], "splice": good[:i] + good[j:] + good[i:j]}[how]
        )
        with suppress(DataError):
            prepare(path)


def test_every_option_of_reading_is_meant_for_a_kind_of_source() -> None:
    meant = [name for kind in KINDS for name in kind.options]
    assert sorted(meant) == sorted(field.name for field in dataclasses.fields(Options))
    assert len({kind.name for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.parquet", "Parquet files"),
        ("a.PQ", "Parquet files"),
        ("a.csv.gz", "text tables"),
        ("a.xlsx", "tables of another format"),
        ("a.h5", "matrices of counts"),
        ("a.mtx.gz", "matrices of counts"),
        ("a.h5ad", ".h5ad files"),
        ("a.npy", "arrays"),
        ("digits", "arrays"),
        ("openml:wine", "arrays"),
        ("x" * 5000, "arrays"),
    ],
)
def test_a_source_has_one_kind_by_its_name(name: str, kind: str) -> None:
    assert kind_of(name).name == kind
    with pytest.raises(UsageError, match=r"is read as .*: omit it"):
        read(name, None, Options(crop=True))


def test_a_folder_is_of_the_kind_of_what_lies_in_it(tmp_path: Path) -> None:
    assert kind_of(tmp_path).name == "images"
    (tmp_path / "a.parquet").touch()
    assert kind_of(tmp_path).name == "Parquet files"
    (tmp_path / "matrix.mtx").touch()
    assert kind_of(tmp_path).name == "matrices of counts"
