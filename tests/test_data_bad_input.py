"""Every bad input answers with the right error class and one line per problem.

What, where and how to mend it.
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import urllib.error
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.utils import Bunch

from taut.data import Schema, arrays, check_against, prepare, problems, read
from taut.system.errors import DataError, TautError, UsageError

GREY = np.random.default_rng(0).integers(0, 256, (40, 4, 5), dtype=np.uint8)
REAL = np.random.default_rng(1).standard_normal((40, 3))


@pytest.fixture(autouse=True)
def _single_precision(_seeded: None) -> None:
    torch.set_default_dtype(torch.float32)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=array.dtype == object)
    return stream.getvalue()


def npy_header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def header(shape: str, descr: str = "<f8") -> bytes:
    return npy_header(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n")


def npz(compression: int = zipfile.ZIP_DEFLATED, **members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]


def idx(*shape: int, code: int = 8, content: bytes = b"") -> bytes:
    return bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + content


class Bomb:
    """Unpickling this would leave a trace."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, ("unpickled",)


FILES = [
    # file name, contents, what the line must say (all of it), what else is given
    ("empty.npy", b"", ["empty.npy", "file is empty"]),
    ("a.npy", b"hello, I am text", ["not a .npy file", "numpy.save"]),
    ("a.npy", b"\x93NUMPY", ["not a .npy file"]),
    ("a.npy", npy_header("{'descr': __import__('os').mkdir('unpickled')}"), ["header is damaged"]),
    ("a.npy", npy_header("(" * 5000), ["header is damaged"]),
    ("a.npy", npy(np.array([Bomb()], dtype=object)), ["Python objects", "never unpickles"]),
    ("a.npy", pickle.dumps(Bomb()), ["not a .npy file"]),
    ("a.npy", npy(GREY)[:-3], ["(40, 4, 5)", "800 bytes", "797 bytes", "truncated"]),
    ("a.npy", npy(GREY) + npy(GREY), ["several arrays"]),
    ("a.npy", header("(1000000, 1000000)"), ["8000000000000 bytes", "0 bytes follow"]),
    ("a.npy", header("(-2, -4)") + bytes(64), ["(-2, -4)", "damaged"]),
    ("a.npy", header("(" + "1, " * 70 + ")") + bytes(8), ["70 axes"]),
    ("a.npy", header(f"(0, {2**80})"), ["is empty"]),
    ("a.npy", npy(np.array(3.0)), ["0-d", "first axis"]),
    ("a.npy", npy(np.zeros((0, 3))), ["is empty", "(0, 3)"]),
    ("a.npy", npy(np.zeros((3, 0))), ["is empty", "(3, 0)"]),
    ("a.npy", npy(np.zeros((3, 2), complex)), ["complex", "two real columns"]),
    ("a.npy", npy(np.array([["a"]])), ["text", "numbers"]),
    ("a.npy", npy(np.array([[b"a"]])), ["text", "numbers"]),
    ("a.npy", npy(np.array([["2020-01-01"]], "M8[D]")), ["dates", "numbers"]),
    ("a.npy", npy(np.array([[1]], "m8[D]")), ["durations", "float64"]),
    ("a.npy", npy(np.zeros(3, [("x", "f8")])), ["records", "plain array"]),
    ("a.npy", npy(np.zeros(3, [("ä", "f8")])), ["a.npy"]),
    ("a.npy", npy(np.zeros((3, 2), np.longdouble)), ["save them as float64"]),
    ("a.npz", b"no zip at all", ["not an .npz file", "numpy.savez"]),
    ("a.npz", npy(GREY), ["not an .npz file"]),
    ("a.npz", npz(), ["holds no arrays"]),
    ("a.npz", npz(x=npy(GREY))[:-40], ["truncated or damaged"]),
    ("a.npz", flipped(npz(zipfile.ZIP_STORED, x=npy(GREY)), 400), ["damaged", "CRC"]),
    ("a.npz", flipped(npz(x=npy(GREY)), 200), ["a.npz", "damaged"]),
    ("a.npz", npz(x=npy(GREY), y=npy(REAL)), ["2 arrays", "--key", "x (40, 4, 5)", "y (40, 3)"]),
    ("a.npz", npz(x=header("(1000000, 1000000)")), [":x", "8000000000000 bytes", "0 bytes follow"]),
    ("a.npz", npz(x=npy(np.array([Bomb()], dtype=object))), [":x", "never unpickles"]),
    ("a.npz", npz(x=pickle.dumps(Bomb())), [":x", "not a .npy file"]),
    ("a.idx", b"\x00\x00", ["not an idx file", "0000"]),
    ("t-idx3-ubyte", b"<html>not found</html>", ["not an idx file", "3c68746d"]),
    ("a.idx", idx(2, 3, content=bytes(5)), ["truncated", "(2, 3)", "6 bytes"]),
    ("a.idx", idx(2, 3)[:7], ["truncated"]),
    ("a.idx", idx(2, 3, content=bytes(7)), ["more than the 6 bytes"]),
    ("a.idx", idx(2**32 - 1, 2**32 - 1, 2**32 - 1), ["truncated"]),
    ("a.idx", idx(0, 2**32 - 1, 2**32 - 1), ["is empty"]),
    ("a.gz", gzip.compress(b"text"), ["not an idx file", "74657874"]),
    ("a.idx.gz", gzip.compress(idx(2, 3, content=bytes(6)))[:-9], ["truncated or damaged"]),
    (
        "a.idx.gz",
        flipped(gzip.compress(idx(2, 3, content=bytes(6))), -6),
        ["truncated or damaged", "CRC"],
    ),
    ("a.idx.gz", gzip.compress(idx(2, 3, content=bytes(5))), ["is truncated"]),
    ("a.idx.gz", gzip.compress(idx(2**32 - 1, 2**32 - 1)), ["truncated", "header claims"]),
    ("a.pt", b"anything", [".pt", "pickles", "save the array as .npy"]),
    ("a.pkl", pickle.dumps(Bomb()), [".pkl", "pickles"]),
    ("a.joblib", pickle.dumps(Bomb()), [".joblib", "pickles"]),
    ("a.csv", b"1,2\n3,4\n", ["line 1 holds only numbers (1, 2)", "a header is missing"]),
    ("a.xlsx", b"anything", ["is not an .xlsx file", "save it again"]),
    ("a.doc", b"anything", ["cannot read .doc", "supported: .csv, .tsv"]),
    ("noname", b"abc", ["without a suffix", "supported"]),
]


def check(error: TautError, parts: list[str], lines: int = 1) -> None:
    text = str(error)
    assert len(text.splitlines()) == lines, text
    for part in parts:
        assert part in text, text


@pytest.mark.parametrize(
    ("name", "content", "parts"), FILES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_bad_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, parts: list[str]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(tmp_path / name)
    check(caught.value, [str(tmp_path / name), *parts])
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize(
    ("source", "key", "error", "parts"),
    [
        ("tiles.npy", None, UsageError, ["tiles.npy", "no such file", "did you mean files.npy?"]),
        ("digit", None, UsageError, ["did you mean digits?"]),
        ("nowhere/a.npy", None, UsageError, ["nowhere/a.npy", "folder does not exist"]),
        ("files.npy/a.npy", None, UsageError, ["files.npy/a.npy"]),
        ("a\0b.npy", None, UsageError, [r"'a\x00b.npy'", "no such file"]),
        ("a\nb.npy", None, UsageError, [r"'a\nb.npy'", "no such file"]),
        ("x" * 5000, None, UsageError, ["cannot be read", "too long"]),
        ("", None, DataError, [".: the folder holds no images"]),
        (
            ".",
            None,
            DataError,
            [".: the folder holds no images", "3 other files", ".npy: 1", ".npz: 1", ".png"],
        ),
        ("fifo", None, UsageError, ["not a regular file"]),
        ("two.npz", "fist", DataError, ["no array fist", "did you mean first?", "second (40, 3)"]),
        ("two.npz:fist", None, DataError, ["did you mean first?"]),
        ("two.npz:first", "first", UsageError, ["given twice"]),
        ("files.npy", "first", UsageError, ["--key", "omit it"]),
        ("digits", "first", UsageError, ["--key", "omit it"]),
        (np.zeros((2, 2)), "first", UsageError, ["--key", "in memory"]),
        ([[1.0]], None, UsageError, ["not list"]),
        (np.array([[None]]), None, DataError, ["Python objects"]),
        (np.array(1.0), None, DataError, ["0-d"]),
        (np.ma.masked_array([[1.0, 2.0]], [[True, False]]), None, DataError, ["masked"]),
        (torch.zeros(2, 2, dtype=torch.complex64), None, DataError, ["complex"]),
        (torch.zeros(2, 2).to_sparse(), None, DataError, ["sparse", "dense"]),
        (torch.zeros(2, 2, device="meta"), None, DataError, ["cannot become an array"]),
    ],
    ids=lambda v: v[:20].encode().hex() if isinstance(v, str) else "",
)
def test_bad_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source, key, error: type[TautError], parts
):
    monkeypatch.chdir(tmp_path)
    np.save("files.npy", GREY)
    np.savez("two.npz", first=GREY, second=REAL)
    os.mkfifo("fifo")
    with pytest.raises(error) as caught:
        read(source, key)
    check(caught.value, parts)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    np.save(tmp_path / "a.npy", GREY)
    (tmp_path / "a.csv").write_text("x\n1\n")
    monkeypatch.setattr(Path, "open", refuse)
    for name in ("a.npy", "a.csv"):
        with pytest.raises(UsageError, match=rf"{name}: cannot be read \(Permission denied\)"):
            read(tmp_path / name)


def test_a_folder_that_must_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UsageError, match=r"the folder cannot be read \(Permission denied\)"):
        read(tmp_path)


def test_zip_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(arrays, "MAX_UNCOMPRESSED_BYTES", 10**6)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(10**6 + 1, np.uint8), y=np.ones(3))
    with pytest.raises(DataError, match=r"a\.npz:x: unpacks to .* \(limit 16\)"):
        read(tmp_path / "a.npz", "x")
    assert read(tmp_path / "a.npz", "y").data.tolist() == [1, 1, 1]


def test_every_truncation_and_flip_is_one_line_or_the_same_values(tmp_path: Path):
    small = GREY[:2, :2, :2]
    packed = gzip.compress(idx(8, content=bytes(8)), mtime=0)
    whole = {"a.npy": npy(small), "a.npz": npz(x=npy(small)), "a.idx.gz": packed}
    for name, content in whole.items():
        path = tmp_path / name
        damaged = [content[:end] for end in range(len(content))] + [
            flipped(content, i) for i in range(len(content))
        ]
        for bad in damaged:
            path.write_bytes(bad)
            try:
                array = read(path).data
            except DataError as error:
                check(error, [name])
            else:  # a flip in a time stamp or a name harms nothing; a .npy has no checksum
                assert name == "a.npy" or array.tobytes() == (
                    small.tobytes() if name == "a.npz" else bytes(8)
                )


@pytest.mark.parametrize(
    ("failure", "parts"),
    [
        (urllib.error.URLError("no route"), ["openml:x", "did not answer", "no route"]),
        (TimeoutError("timed out\nbadly"), ["did not answer", r"timed out\nbadly"]),
        (ValueError("No active dataset x"), ["cannot be fetched", "No active dataset x"]),
        (
            Bunch(data=np.eye(2), target=None, feature_names=["a", "b"], categories={"b": ["u"]}),
            ["categories", ": b"],
        ),
        (
            Bunch(data="sparse", target=None, feature_names=["a"], categories={}),
            ["sparse", "dense"],
        ),
    ],
    ids=["network", "timeout", "unknown", "categories", "sparse"],
)
def test_openml_failures(monkeypatch: pytest.MonkeyPatch, failure: object, parts: list[str]):
    def fetch(*_: object, **__: object) -> object:
        if isinstance(failure, Exception):
            raise failure
        return failure

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    with pytest.raises(DataError) as caught:
        read("openml:x")
    check(caught.value, parts)


def put(array: np.ndarray, value: float, *place: int) -> np.ndarray:
    changed = array.copy()
    changed[place] = value
    return changed


LEVELS = Schema("levels", (4, 5), 0, 16)
VALUES = [
    # array, schema, what the lines must say, how many lines
    (put(REAL, np.nan, 7, 2), Schema("real", (3,), -9, 9), [], 0),  # missing
    (
        np.where(np.arange(3) == 1, np.nan, REAL),
        Schema("real", (3,), -9, 9),
        ["columns (from 0) 1 hold no value at all"],
        1,
    ),
    (
        put(REAL[:, None], np.nan, 7, 0, 2),
        Schema("real", (1, 3), -9, 9),
        ["1 values (0.833 %) are NaN", "row 7, element (0, 2)"],
        1,
    ),
    (
        put(REAL, np.inf, 7, 2),
        Schema("real", (3,), -9, 9),
        ["infinite", "row 7, column 2", "drop"],
        1,
    ),
    (
        put(REAL, 1e39, 7, 2),
        Schema("real", (3,), -9, 9),
        ["beyond the range of float32", "rescale"],
        1,
    ),
    (put(REAL, 1e30, 7, 2)[:, 2:], Schema("real", (1,), -9, 9), [], 0),
    (
        np.c_[REAL, np.ones(40), 1e9 + REAL[:, :1]],
        Schema("real", (5,), -9, 9),
        ["columns (from 0) 3, 4 are constant in float32", "remove them"],
        1,
    ),
    (REAL, Schema("real", (4,), -9, 9), ["(3,)", "(4,) is needed", "--shape"], 1),
    (GREY[0], Schema("levels", (4, 5), 0, 255), ["give one row as shape (1, ...)"], 1),
    (np.ones((12, 4, 5)), Schema("real", (4, 5), 0, 9), ["all 12 rows are identical"], 1),
    (GREY, LEVELS, ["outside the levels 0..16", "--levels 0:255", "row 0, element (0, 0)"], 1),
    (GREY % 17 / 16, LEVELS, ["not integers", "multiply by 16"], 1),
    (GREY % 17 * 0.5, LEVELS, ["not integers", "--kind real"], 1),
    (
        GREY % 17 + 1e8,
        Schema("levels", (4, 5), 1e8, 1e8 + 16),
        ["too large", "subtract 100000000"],
        1,
    ),
    (
        GREY,
        Schema("binary", (4, 5), 0, 1),
        ["neither 0 nor 1", "--binarize dynamic or threshold", "omit --kind"],
        1,
    ),
    (
        GREY / 255,
        Schema("binary", (4, 5), 0, 1),
        ["neither 0 nor 1", "--binarize dynamic or threshold"],
        1,
    ),
    (
        REAL,
        Schema("binary", (3,), 0, 1),
        ["(100 %) are neither 0 nor 1", "omit --kind binary"],
        1,
    ),
    (GREY, Schema("real", (4, 5), 0, 1), ["levels up to 255", "[0, 1]", "divide by 255"], 1),
    (
        put(put(GREY / 1.0, np.nan, 1, 0, 0), 0.5, 2, 0, 0)[:5],
        LEVELS,
        ["5 rows", "NaN", "not integers", "outside"],
        4,
    ),
]


@pytest.mark.parametrize(("array", "schema", "parts", "lines"), VALUES, ids=range(len(VALUES)))
def test_bad_values(array: np.ndarray, schema: Schema, parts: list[str], lines: int):
    found = problems(array, schema, "data", min_rows=10 if lines == 4 else 1)
    assert all(line.startswith("data: ") for line in found)
    if lines:
        check(DataError(found), parts, lines)
    else:
        assert found == []


@pytest.mark.parametrize(
    ("arguments", "error", "parts", "lines"),
    [
        (
            {"source": GREY[:9]},
            DataError,
            ["the training data: 9 rows are too few", "at least 10"],
            1,
        ),
        ({"source": np.arange(40)}, DataError, ["one-dimensional", "--shape 1"], 1),
        ({"source": GREY, "shape": (4, 6)}, DataError, ["20 values", "--shape 4x6, 24 values"], 1),
        ({"source": GREY, "shape": (0, 6)}, UsageError, ["--shape 0x6", "at least 1"], 1),
        (
            {"source": GREY, "binarize": "often"},
            UsageError,
            ["none, dynamic, threshold", "'often'"],
            1,
        ),
        (
            {"source": GREY, "binarize": "dynamic", "kind": "levels"},
            UsageError,
            ["omit --kind levels"],
            1,
        ),
        (
            {"source": GREY, "binarize": "dynamic", "levels": (1, 9)},
            UsageError,
            ["not 1..9", "(x - 1) / 8"],
            1,
        ),
        ({"source": "digits", "binarize": "threshold"}, UsageError, ["not 0..16", "x / 16"], 1),
        (
            {"source": GREY > 9, "binarize": "dynamic"},
            DataError,
            ["binary already", "omit --binarize"],
            1,
        ),
        (
            {"source": REAL, "binarize": "dynamic"},
            DataError,
            ["outside [0, 1]", "--binarize needs"],
            1,
        ),
        ({"source": GREY + 1.5, "binarize": "dynamic"}, DataError, ["outside [0, 1]"], 1),
        ({"source": GREY, "kind": "binary"}, DataError, ["--binarize dynamic or threshold"], 1),
        (
            {"source": GREY, "kind": "real", "levels": (0, 9)},
            UsageError,
            ["--levels 0:9", "kind levels"],
            1,
        ),
        (
            {"source": GREY, "validation_fraction": 0.5, "test_fraction": 0.5},
            UsageError,
            ["below 1"],
            1,
        ),
        ({"source": np.r_[GREY[:1]].repeat(12, 0)}, DataError, ["identical"], 1),
        (
            {"source": np.r_[[[1.5, 2]], np.zeros((11, 2))]},
            DataError,
            ["distinct rows", "3 parts"],
            1,
        ),
        (
            {"source": put(REAL, -np.inf, 0, 0), "test": put(REAL[:, :2], np.inf, 1, 1)},
            DataError,
            [
                "the training data: 1 values (0.833 %) are infinite",
                "row 0, column 0",
                "the test data: rows have shape (2,)",
                "the test data: 1 values (1.25 %) are infinite",
                "row 1, column 1",
            ],
            3,
        ),
        (
            {"source": GREY % 17 + 0.0, "test": GREY[:3] + 0.0},
            DataError,
            ["the test data", "--levels 0:2"],
            1,
        ),
        (
            {"source": GREY / 255, "kind": "levels"},
            DataError,
            ["not integers", "multiply by 255 and round"],
            1,
        ),
        (
            {"source": csr_array(GREY[:, 0]), "binarize": "dynamic"},
            UsageError,
            ["--binarize is for dense arrays"],
            1,
        ),
        (
            {"source": csr_array(GREY[:, 0]), "levels": (0, 255)},
            UsageError,
            ["--levels is for dense arrays"],
            1,
        ),
        (
            {"source": csr_array(GREY[:, 0]), "kind": "real"},
            UsageError,
            ["for --kind real give it dense"],
            1,
        ),
    ],
    ids=range(22),
)
def test_prepare_refuses(arguments: dict, error: type[TautError], parts: list[str], lines: int):
    with pytest.raises(error) as caught:
        prepare(**arguments)
    check(caught.value, parts, lines)


def test_a_column_constant_in_the_training_rows_alone_is_refused():
    table = np.c_[REAL, np.zeros(40)]
    refused = 0
    # whichever row is held out, if it alone differs the training rows are constant
    for row in range(40):
        changed = put(table, 1.0, row, 3)
        try:
            data = prepare(changed, validation_fraction=0, test_fraction=0.1)
        except DataError as error:
            refused += 1
            check(error, ["its training rows: columns (from 0) 3 are constant in float"])
        else:
            assert data.train[:, 3].unique().tolist() == [0, 1]
    assert 0 < refused < 40


@pytest.mark.parametrize(
    ("array", "binarize", "parts"),
    [
        (GREY[:, :3], "none", ["(3, 5)", "(4, 5) is needed"]),
        (GREY / 255, "none", ["not integers", "multiply by 16"]),
        (GREY[0], "none", ["(1, ...)"]),
        (GREY[:, :3], "dynamic", ["(3, 5)"]),
        (GREY + 0.5, "threshold", ["outside [0, 1]"]),
        (put(GREY / 255, np.nan, 0, 0, 0), "dynamic", ["NaN"]),
    ],
    ids=range(6),
)
def test_check_against_refuses(array: np.ndarray, binarize, parts: list[str]):
    schema = LEVELS if binarize == "none" else Schema("binary", (4, 5), 0, 1)
    with pytest.raises(DataError) as caught:
        check_against(array, schema, binarize=binarize)
    check(caught.value, ["the data: ", *parts], len(caught.value.problems))


def test_check_against_lists_everything():
    with pytest.raises(DataError) as caught:
        check_against(put(put(GREY + 0.0, np.nan, 0, 0, 0), 0.5, 0, 0, 1), LEVELS)
    assert len(caught.value.problems) == 3
