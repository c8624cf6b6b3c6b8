"""What good data become: exact values, kinds, parts and bits.

Refusals are in test_data_bad_input.py.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet as pq
from scipy.sparse import csr_array
from sklearn.utils import Bunch

from taut.data import (
    Dataset,
    Schema,
    batch,
    check_against,
    draw_bits,
    fill,
    fingerprint,
    infer,
    num_duplicates,
    prepare,
    problems,
    read,
    split,
    to_table,
)
from taut.data.readers import Options
from taut.data.split import copies_of, row_hashes, split_hashes
from taut.data.tables.formula import parse
from taut.data.tables.notes import FROM_0
from taut.data.tables.toml import to_toml
from taut.system.errors import DataError, UsageError
from taut.types import image_layout


@pytest.fixture(autouse=True)
def _single_precision(_seeded: None) -> None:
    torch.set_default_dtype(torch.float32)


RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 4, 5), dtype=np.uint8)


def idx_bytes(array: np.ndarray, code: int) -> bytes:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return (
        bytes([0, 0, code, array.ndim])
        + sizes
        + array.astype(array.dtype.newbyteorder(">")).tobytes()
    )


# ------------------------------------------------------------------------------------------ reading


def test_digits_are_the_bundled_levels():
    array, labels, name, *_ = read("digits")
    assert (array.shape, array.dtype, array.min(), array.max()) == ((1797, 8, 8), np.uint8, 0, 16)
    assert labels is not None
    assert labels.shape == (1797,)
    np.testing.assert_array_equal(read(name).data, array)


@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "u2", "i2", "i4", "u8", "i8", "f4", "f8", ">i2", ">f4", ">f8"]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_gives_the_same_values_native_and_contiguous(tmp_path: Path, dtype: str, order: str):
    values = np.arange(24).reshape(4, 3, 2).astype(dtype, order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "a.npy", values)
    array, labels, name, *_ = read(tmp_path / "a.npy")
    np.testing.assert_array_equal(array, values)
    assert array.dtype == values.dtype.newbyteorder("=")
    assert array.flags.c_contiguous
    assert labels is None
    np.testing.assert_array_equal(read(name).data, values)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_npy_of_either_version_of_its_header_is_read(tmp_path: Path, version: tuple[int, int]):
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, GREY, version)
    np.testing.assert_array_equal(read(tmp_path / "a.npy").data, GREY)


def test_float16_and_bool_are_widened_exactly(tmp_path: Path):
    np.save(tmp_path / "half.npy", np.array([[0.1, -2.5]], np.float16))
    half = read(tmp_path / "half.npy").data
    assert half.dtype == np.float32
    np.testing.assert_array_equal(half, np.array([[0.1, -2.5]], np.float16).astype(np.float32))
    bits = read(np.array([[True, False]])).data
    assert (bits.dtype, bits.tolist()) == (np.uint8, [[1, 0]])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_by_key_by_syntax_and_alone(tmp_path: Path, save):
    path = tmp_path / "a.npz"
    save(path, one=GREY, two=GREY[:3].astype(">f8", order="F"))
    np.testing.assert_array_equal(read(path, "one").data, GREY)
    two = read(f"{path}:two")
    np.testing.assert_array_equal(two.data, GREY[:3])
    np.testing.assert_array_equal(read(two.name).data, GREY[:3])
    save(path, only=GREY)
    np.testing.assert_array_equal(read(path).data, GREY)


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(0x08, "u1"), (0x09, "i1"), (0x0B, "i2"), (0x0C, "i4"), (0x0D, "f4"), (0x0E, "f8")],
)
@pytest.mark.parametrize("name", ["a.idx", "train-images-idx3-ubyte", "a.idx3-ubyte", "plain.bin"])
def test_idx_plain_and_packed(tmp_path: Path, code: int, dtype: str, name: str):
    values = np.arange(-12, 12).reshape(4, 3, 2).astype(dtype)
    (tmp_path / name).write_bytes(idx_bytes(values, code))
    (tmp_path / (name + ".gz")).write_bytes(gzip.compress(idx_bytes(values, code)))
    for path in (tmp_path / name, tmp_path / (name + ".gz")):
        array = read(path).data
        np.testing.assert_array_equal(array, values)
        assert array.dtype == np.dtype(dtype)


def test_tensors_and_arrays_in_memory():
    tensor = torch.arange(6.0).reshape(3, 2).T.requires_grad_()
    array, labels, name, *_ = read(tensor)
    assert (array.tolist(), array.flags.c_contiguous, labels, name) == (
        [[0, 2, 4], [1, 3, 5]],
        True,
        None,
        "",
    )
    assert read(torch.tensor([[1.5]], dtype=torch.bfloat16)).data.tolist() == [[1.5]]
    frozen = np.arange(6).reshape(3, 2)
    frozen.flags.writeable = False
    assert read(frozen).data.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_openml_is_read_with_its_labels(monkeypatch: pytest.MonkeyPatch):
    def fetch(name: str, *, as_frame: bool, parser: str) -> Bunch:
        assert (name, as_frame, parser) == ("iris", False, "liac-arff")
        target = np.array(["a", "b"], dtype=object)
        return Bunch(
            data=np.eye(2),
            target=target,
            feature_names=["u", "v"],
            categories={"class": ["a", "b"]},
        )

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    array, labels, name, *_ = read("openml:iris")
    assert (array.tolist(), name) == ([[1, 0], [0, 1]], "openml:iris")
    assert labels is not None
    assert (labels.tolist(), labels.dtype.kind) == (["a", "b"], "U")


@pytest.mark.parametrize("target", [None, np.array([0, 1])])
def test_openml_without_labels_or_with_numbers_as_labels(
    monkeypatch: pytest.MonkeyPatch, target: np.ndarray | None
):
    bunch = Bunch(data=np.eye(2), target=target, feature_names=["u", "v"], categories={})
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda name, **options: bunch)
    labels = read("openml:iris").labels
    assert labels is target


# ------------------------------------------------------------------------------------------- schema


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 1]], np.uint8), ("binary", 0, 1)),
        (np.array([[0.0, 1.0]]), ("binary", 0, 1)),
        (np.array([[0, 7]], np.uint8), ("levels", 0, 255)),
        (np.array([[-3, 7]], np.int16), ("levels", -3, 7)),
        (np.array([[2.0, 9.0]]), ("levels", 2, 9)),
        (np.array([[0, 65535]]), ("levels", 0, 65535)),
        (np.array([[0, 65536]]), ("real", 0, 65536)),
        (np.array([[0.5, 1.0]], np.float32), ("real", 0.5, 1)),
        (np.array([[np.nan, 0.0, 5.0]]), ("levels", 0, 5)),
        (np.array([[np.inf, 0.25, -5.0]]), ("real", -5, 0.25)),
    ],
)
def test_kind_follows_from_the_values(values: np.ndarray, expected: tuple[str, float, float]):
    schema = infer(values)
    assert (schema.kind, schema.low, schema.high) == expected
    assert schema.event_shape == values.shape[1:]


def test_kind_and_levels_are_overridable():
    grey = np.array([[0, 7]], np.uint8)
    assert infer(grey, "real") == Schema("real", (2,), 0, 7)
    assert infer(grey, "binary") == Schema("binary", (2,), 0, 1)
    assert infer(grey, levels=(0, 16)) == Schema("levels", (2,), 0, 16)
    assert infer(np.array([[0.2, 7.5]]), "levels") == Schema("levels", (2,), 0, 8)
    with pytest.raises(UsageError, match="LOW < HIGH"):
        infer(grey, levels=(16, 0))
    with pytest.raises(UsageError, match="kind levels"):
        infer(grey, "real", levels=(0, 16))
    with pytest.raises(UsageError, match="65536"):
        infer(np.array([[0, 70000]]), "levels")
    with pytest.raises(DataError, match="no finite value"):
        infer(np.full((3, 2), np.nan))


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((28, 20), (1, 28, 20, None)),
        ((28, 20, 3), (3, 28, 20, 2)),
        ((3, 28, 20), (3, 28, 20, 0)),
        ((1, 28, 28), (1, 28, 28, 0)),
        ((3, 5, 4), (4, 3, 5, 2)),
    ],
)
def test_image_layout(shape: tuple[int, ...], layout: tuple[int, int, int, int | None]):
    assert image_layout(shape) == layout


@pytest.mark.parametrize("shape", [(), (5,), (5, 6, 7), (3, 4, 4, 3)])
def test_no_image_layout(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="not an image"):
        image_layout(shape)
    assert not Schema("real", shape, 0, 1).is_image


def test_schema_describes_counts_and_returns_from_json():
    schema = Schema("levels", (8, 8), 0, 16)
    assert schema.describe() == "8x8 images, 17 levels 0..16"
    assert (schema.num_levels, schema.num_elements, schema.discrete, schema.is_image) == (
        17,
        64,
        True,
        True,
    )
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema
    assert Schema("binary", (3, 3), 0, 1).describe() == "3x3 arrays, binary"
    assert Schema("binary", (3, 3), 0, 1).num_levels == 2
    assert Schema("real", (13,), -1.5, 2).describe() == "13 columns, real values -1.5..2"
    assert not Schema("real", (13,), -1.5, 2).discrete
    with pytest.raises(UsageError, match="no levels"):
        _ = Schema("real", (13,), -1.5, 2).num_levels
    for broken in (
        {},
        {"kind": "x", "event_shape": [1], "low": 0, "high": 1},
        {**schema.to_dict(), "low": 99},
    ):
        with pytest.raises(UsageError):
            Schema.from_dict(broken)


def test_sound_data_have_no_problems():
    for array in (GREY, GREY / 255, (GREY > 9).astype(np.float32), GREY.astype(np.int64) - 77):
        assert problems(array, infer(array), "data", 10) == []


def test_a_single_row_can_be_scored_but_not_learned_from():
    schema = Schema("real", (2,), 0, 1)
    rows = np.array([[0.5, 0.25]] * 2)
    assert problems(rows[:1], schema, "data") == []
    assert problems(rows, schema, "data", training=False) == []
    assert len(problems(rows, schema, "data")) == 1


# -------------------------------------------------------------------------------------------- split


def test_split_is_the_hash_ranking():
    from hashlib import blake2b

    order = sorted(range(40), key=lambda i: blake2b(GREY[i].tobytes(), digest_size=16).digest())
    train, validation, test = split(GREY, 0.2, 0.1)
    assert test.tolist() == sorted(order[:4])
    assert validation.tolist() == sorted(order[4:12])
    assert train.tolist() == sorted(order[12:])
    assert train.dtype == np.int64


def test_split_ignores_row_order_and_the_sign_of_zero():
    rows = RNG.standard_normal((50, 3)).round(1) + 0.0
    rows[0, 0] = 0.0
    shuffled = rows[RNG.permutation(50)]
    negative = np.where(shuffled == 0, -0.0, shuffled)
    for before, after in zip(split(rows, 0.2, 0.2), split(negative, 0.2, 0.2), strict=True):
        np.testing.assert_array_equal(
            np.sort(rows[before], axis=0), np.sort(shuffled[after], axis=0)
        )


@pytest.mark.parametrize(
    "shares", [(0.1, 0.1), (0.4, 0.5), (0.0, 0.3), (0.3, 0.0), (0.0, 0.0), (0.01, 0.01)]
)
def test_copies_stay_on_one_side_and_every_part_has_rows(shares: tuple[float, float]):
    rows = np.concatenate([np.repeat(np.arange(4), 8), np.arange(4, 12)])[:, None]
    parts = split(rows, *shares)
    assert sorted(np.concatenate(parts).tolist()) == list(range(40))
    held = [set(rows[part, 0].tolist()) for part in parts]
    assert sum(map(len, held)) == 12
    for part, share in zip(parts, (1.0, *shares), strict=True):
        assert (len(part) > 0) == (share > 0)


def test_split_refuses_the_impossible():
    with pytest.raises(DataError, match="only 2 distinct rows"):
        split(np.array([[1], [2], [1]]), 0.1, 0.1)
    for shares in ((0.5, 0.5), (-0.1, 0.1), (math.nan, 0.1)):
        with pytest.raises(UsageError, match="below 1"):
            split(GREY, *shares)


def bits(share: float, rows: int, columns: int):
    return lambda rng: (rng.random((rows, columns)) < share).astype(np.uint8)


def survey(rng: np.random.Generator) -> np.ndarray:
    """Six questions of five answers that one opinion decides."""
    opinion = rng.normal(size=(1500, 1))
    return np.clip(np.round(2 + opinion + 0.5 * rng.normal(size=(1500, 6))), 0, 4).astype(np.uint8)


def contingency(rng: np.random.Generator) -> np.ndarray:
    patterns = np.stack(np.meshgrid(range(2), range(2), range(6)), -1).reshape(-1, 3)
    return patterns[rng.choice(24, 1000, p=rng.dirichlet(np.ones(24)))].astype(np.uint8)


@pytest.mark.parametrize(
    "draw",
    [bits(0.003, 400, 50), bits(0.02, 2000, 30), survey, contingency],
    ids=["sparse", "bits", "survey", "contingency"],
)
def test_rows_that_repeat_by_nature_leave_every_part_like_the_data(draw):
    """50 seeds.

    Each part within a fifth of its size, each pattern's share in training within four standard
    errors; a pattern of at least five rows, of which one side alone would be more, to within two
    rows.
    """
    for seed in range(50):
        x = draw(np.random.default_rng(seed))
        hashes = row_hashes(x)
        copies = copies_of(hashes, 0.1, 0.1, None, by_nature=True)
        parts = split_hashes(hashes, 0.1, 0.1, copies.most)
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(x)))
        for part, share in zip(parts, (0.8, 0.1, 0.1), strict=True):
            assert abs(len(part) - share * len(x)) <= 0.2 * share * len(x)
        _, group, sizes = np.unique(hashes, return_inverse=True, return_counts=True)
        for part, share in zip(parts, (0.8, 0.1, 0.1), strict=True):
            there = np.bincount(group[part], minlength=len(sizes))
            assert np.all(np.abs(there - share * sizes)[sizes > 4] < 2)
        trained = np.bincount(group[parts[0]], minlength=len(sizes))
        assert np.all(np.abs(trained - 0.8 * sizes) <= 4 * np.sqrt(0.16 * sizes) + 1e-9)


def test_divided_rows_are_split_alike_in_any_order():
    x = survey(np.random.default_rng(0))
    shuffled = x[np.random.default_rng(1).permutation(len(x))]
    for by in (None, "rows"):
        held = []
        for rows in (x, shuffled):
            hashes = row_hashes(rows)
            parts = split_hashes(
                hashes, 0.1, 0.2, copies_of(hashes, 0.1, 0.2, by, by_nature=True).most
            )
            held.append([sorted(map(bytes, rows[part])) for part in parts])
        assert held[0] == held[1]
    assert [len(part) for part in held[0]] == [1050, 150, 300]


def test_who_decides_on_copies_and_what_is_said(tmp_path: Path):
    x = survey(np.random.default_rng(0))
    own = prepare(x)
    assert len(own.divided) == (np.unique(row_hashes(x), return_counts=True)[1] > 4).sum() > 50
    (note,) = said(own)
    assert "occur more than 4 times" in note
    assert "divided among the parts" in note
    assert "--split copies" in note
    together = prepare(x, split="copies")
    assert not len(together.divided)
    assert "copies stay on one side" in together.notes[0]
    parts = [
        set(map(bytes, p.numpy())) for p in (together.train, together.validation, together.test)
    ]
    assert parts[0].isdisjoint(parts[1] | parts[2])
    alone = prepare(x, split="rows")
    assert [len(p) for p in (alone.train, alone.validation, alone.test)] == [1200, 150, 150]
    assert "each is split by itself" in alone.notes[0]
    with pytest.raises(UsageError, match="--split is rows or copies, not 'row'"):
        prepare(x, split="row")


def test_sparse_counts_and_streamed_tables_are_divided_by_the_same_rule(tmp_path: Path):
    x = survey(np.random.default_rng(0))
    divided = (np.unique(row_hashes(x), return_counts=True)[1] > 4).sum()
    sparse = prepare(csr_array(x))
    names = [f"q{i}" for i in range(x.shape[1])]
    table = pa.table(dict(zip(names, x.T, strict=True)))
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=400)
    held = prepare(table)
    streamed = prepare(tmp_path / "x.parquet", options=Options(stream=True))
    assert len(sparse.divided) == len(held.divided) == len(streamed.divided) == divided
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(streamed, part)[:], getattr(held, part)[:])
        assert abs(len(getattr(sparse, part)) - len(getattr(held, part))) < 4
    (note,) = [note for note in sparse.notes if "repeat another" in note]
    assert note in held.notes


def test_copied_rows_of_real_numbers_and_images_stay_on_one_side():
    """Nobody measures the same real numbers twice.

    Ten copies of each were made, to balance classes, say.
    """
    reals, pictures = (
        RNG.standard_normal((60, 3)),
        RNG.integers(0, 256, (60, 8, 8)).astype(np.uint8),
    )
    for distinct in (reals, pictures):
        data = prepare(distinct.repeat(10, 0))
        assert not len(data.divided)
        parts = [
            {bytes(np.ascontiguousarray(row)) for row in p.numpy()}
            for p in (data.train, data.validation, data.test)
        ]
        assert parts[0].isdisjoint(parts[1] | parts[2])
    # but what is larger than a fifth of a part would be all of it
    spoilt = np.concatenate([reals, np.zeros((40, 3))])
    data = prepare(spoilt, levels=None)
    assert len(data.divided) == 1
    assert [int((p == 0).all(1).sum()) for p in (data.train, data.validation, data.test)] == [
        32,
        4,
        4,
    ]


@pytest.mark.parametrize(
    "shares", [(0.1, 0.1), (0.4, 0.5), (0.0, 0.3), (0.3, 0.0), (0.0, 0.0), (0.01, 0.01)]
)
def test_every_part_has_rows_where_copies_are_divided(shares: tuple[float, float]):
    for sizes in ((20, 20), (5, 35), (39, 1), (6, 6, 6, 1, 1), (12, 1)):
        hashes = row_hashes(np.repeat(np.arange(len(sizes)), sizes)[:, None])
        for by in (None, "rows"):
            parts = split_hashes(
                hashes, *shares, copies_of(hashes, *shares, by, by_nature=True).most
            )
            assert sorted(np.concatenate(parts).tolist()) == list(range(sum(sizes)))
            for part, share in zip(parts, (1.0, *shares), strict=True):
                assert (len(part) > 0) == (share > 0)


def test_duplicates_are_counted():
    assert num_duplicates(np.array([[1], [2], [1], [1], [3], [2]])) == 3


def test_fingerprint_names_shape_dtype_and_bytes():
    same = fingerprint(GREY)
    assert same == fingerprint(np.asfortranarray(GREY))
    assert len(same) == 32
    changed = GREY.copy()
    changed[0, 0, 0] ^= 1
    others = {fingerprint(x) for x in (changed, GREY.reshape(40, 20), GREY.astype(np.int8))}
    assert len(others | {same}) == 4


# ------------------------------------------------------------------------------------------ numbers


def columns_of_columns() -> pa.Table:
    r, n = np.random.default_rng(0), 2000
    net, celsius = r.lognormal(3, 0.6, n).round(2), r.normal(15, 8, n).round(1)
    tax = (net * r.choice([0.07, 0.19], n)).round(2)
    gaps = [r.random(n) < 0.2 for _ in range(3)]
    return pa.table(
        {
            "net": pa.array(net, mask=gaps[0]),
            "tax": pa.array(tax, mask=gaps[1]),
            "gross": pa.array((net + tax).round(2), mask=gaps[2]),
            "c": celsius,
            "f": (1.8 * celsius + 32).round(1),
            "other": celsius + 0.2 * r.normal(size=n),
        }
    )


def test_columns_that_are_a_function_of_others_are_computed(tmp_path):
    table = columns_of_columns()
    data = prepare(table)
    notes = [note for note in data.notes if "in every row" in note]
    assert "'gross' = net + tax in every row: it is computed, and not modelled" in notes[0]
    assert "'f' = 1.8 * c + 32 in every row" in notes[1]
    assert [c.name for c in data.schema.modelled] == ["net", "tax", "c", "other"]
    # A row that lacks one of the three has the third.
    frame = table.to_pandas()
    lacks = frame[["net", "tax", "gross"]].isna().sum(1)
    coded = check_against(frame, data.schema)
    assert int(torch.isnan(coded.rows[:, :2]).any(1).sum()) == int((lacks >= 2).sum())
    filled = fill(table, coded.rows, data.schema)[0].to_pandas()
    lone = lacks == 1
    off = (filled.gross - filled.net - filled.tax)[lone]
    assert float(off.abs().max()) < 1e-9
    assert not filled[lone][["net", "tax", "gross"]].isna().any().any()
    # What is made holds it, in the order of the source.
    made = to_table(torch.tensor([[10.25, 2.5, 20.0, 1.0]]), data.schema.written)
    assert made.column_names == table.column_names
    assert made.to_pylist()[0] == {
        "net": 10.25, "tax": 2.5, "gross": 12.75, "c": 20.0, "f": 68.0, "other": 1.0
    }  # fmt: skip


def test_a_formula_that_is_stated_is_kept_or_contradicted(tmp_path):
    r = np.random.default_rng(1)
    low = r.integers(0, 90, 400)
    frame = pa.table({"low": low, "high": low + r.integers(1, 9, 400), "wide": 2 * low + 3})
    path = tmp_path / "schema.toml"
    path.write_text('[columns.wide]\nkind = "derived"\nformula = "2 * low + 3"\n')
    data = prepare(frame, schema=path)
    assert data.schema.columns[2].describe()[1] == "= 2 * low + 3"
    assert [c.name for c in data.schema.modelled] == ["low", "high"]
    again = to_toml(data.schema.columns, ())
    assert 'formula = "2 * low + 3"' in again
    for formula, line in (
        ("low + high", "rows contradict 'wide' = low + high, the first is row"),
        ("low + hihg", "its formula has 'hihg', which is not a column of numbers"),
        ("low high", "cannot read 'high' in its formula"),
        ("3", "its formula names no column"),
    ):
        path.write_text(f'[columns.wide]\nkind = "derived"\nformula = "{formula}"\n')
        with pytest.raises((DataError, UsageError), match=re.escape(line)):
            prepare(frame, schema=path)


@pytest.mark.parametrize(
    ("text", "factors", "constant"),
    [
        ("net + tax", {"net": 1.0, "tax": 1.0}, 0.0),
        ("-net + 2.5e1 * tax - 3", {"net": -1.0, "tax": 25.0}, -3.0),
        ('"net pay" - 0.5 * x2 + 1.8', {"net pay": 1.0, "x2": -0.5}, 1.8),
        ('2 a + 3 "b \\" c"', {"a": 2.0, 'b " c': 3.0}, 0.0),
    ],
)
def test_formulas_there_and_back(text, factors, constant):
    formula = parse(text)
    assert (formula.factors, formula.constant) == (factors, constant)
    assert parse(str(formula)) == formula


def test_columns_that_are_a_function_of_others_are_said():
    north = (5413000 + RNG.normal(0, 3, 500)).round(2)  # stored without its offset
    table = pa.table(
        {
            "north": north,
            "h": RNG.normal(size=500),
            "near": (north - 5400000).round(2),
            "half": RNG.normal(size=500),
        }
    )
    (note,) = [note for note in prepare(table).notes if "in every row" in note]
    assert "'near' = north - 5400000 in every row" in note
    x = RNG.normal(size=(500, 5))
    x = np.column_stack([x, x[:, 1], x[:, 0] - 2.5 * x[:, 2] + x[:, 3], x.sum(1)])
    (note,) = said(prepare(x))
    assert note.startswith(
        "column 5 (from 0) = column 1 (from 0); "
        "column 6 (from 0) = column 0 (from 0) - 2.5 column 2 (from 0) + column 3 (from 0); "
        "column 7 (from 0) is a linear function of 5 other columns, to the last digit"
    )
    counts = RNG.poisson(500, (500, 3))
    sums = prepare(np.column_stack([counts, counts[:, 0] + counts[:, 1]]))
    (note,) = [note for note in sums.notes if "to the last digit" in note]
    assert note.startswith("column 3 (from 0) = column 0 (from 0) + column 1 (from 0)")
    assert said(prepare(np.column_stack([x[:, :5], x[:, 0] + 1e-3 * RNG.normal(size=500)]))) == ()


NEAR = np.random.default_rng(5)
CENTS = NEAR.lognormal(5, 1, 400).round(2)


@pytest.mark.parametrize(
    ("part", "total"),
    [
        ((CENTS * 10).round(1), (CENTS * 10).round(1) + 0.1 * NEAR.integers(-1, 2, 400)),
        (CENTS, 2 * CENTS + 0.01 * NEAR.integers(0, 2, 400)),
        (CENTS.round(), CENTS.round() / 2 + 0.01 * NEAR.integers(0, 2, 400)),
        (np.arange(400) * 97, np.arange(400) * 97 + NEAR.integers(0, 4, 400)),
        (10**9 + np.arange(400) * 9, 10**9 + np.arange(400) * 9 + NEAR.integers(0, 3, 400)),
        (1e6 + CENTS / 3, 1e6 + CENTS / 3 + 0.01 * NEAR.normal(size=400)),
    ],
)
def test_columns_a_last_digit_apart_are_modelled(part, total):
    table = pa.table({"part": part, "total": total.round(9), "z": NEAR.normal(size=400).round(3)})
    data = prepare(table)
    assert [c.kind for c in data.schema.columns].count("derived") == 0
    assert not [note for note in data.notes if "it is computed" in note or "last digit" in note]
    if np.abs(part).max() < 1e6:  # beyond, an array keeps no last digit
        bare = prepare(np.column_stack([part, total, NEAR.normal(size=400)]).round(3))
        assert not [note for note in bare.notes if "last digit" in note]


def test_dates_seconds_apart_are_no_formula():
    start = np.datetime64("2024-01-01") + NEAR.integers(0, 10**6, 400).astype("timedelta64[s]")
    end = start + NEAR.integers(0, 60, 400).astype("timedelta64[s]")
    table = pa.table({"start": start, "end": end, "z": NEAR.normal(size=400)})
    assert not [note for note in prepare(table).notes if "last digit" in note]
    table = pa.table({"start": start, "end": start + np.timedelta64(86400, "s"), "z": CENTS})
    assert [note for note in prepare(table).notes if "'end' = 'start' + 1, to the last" in note]
    late = start + np.timedelta64(86400, "s")
    late[::40] += np.timedelta64(1, "s")
    table = pa.table({"start": start, "end": late, "z": CENTS})
    assert not [note for note in prepare(table).notes if "to the last digit" in note]


def test_a_formula_that_few_rows_contradict_is_said_and_not_used():
    twice = 2 * CENTS
    twice[7] += 0.01
    data = prepare(pa.table({"x": CENTS, "y": twice.round(2), "z": NEAR.normal(size=400)}))
    assert [c.kind for c in data.schema.columns].count("derived") == 0
    (note,) = [note for note in data.notes if "but for" in note]
    assert f"'y' = 2 * x but for 1 of 400 rows, the first is row 7 {FROM_0}" in note
    # new rows of a table whose formula held in every row are held to it
    data = prepare(pa.table({"x": CENTS, "y": (2 * CENTS).round(2), "z": CENTS[::-1]}))
    new = pa.table({"x": CENTS, "y": twice.round(2), "z": CENTS[::-1]}).to_pandas()
    (note,) = [n for n in check_against(new, data.schema).notes if "contradict" in n]
    assert "1 of 400 rows contradict 'y' = 2 * x, the first is row 7" in note


@pytest.mark.parametrize(
    ("total", "line"),
    [
        (CENTS / 3, "* x in every row, rounded to 0.01"),
        (CENTS / 2, "= 0.5 * x in every row, rounded to 0.01"),
        ((CENTS - 32) / 1.8, "in every row, rounded to 0.01"),
        (1.0936133 * CENTS, "in every row, rounded to 0.01"),
        (np.floor(0.0864 * CENTS), "in every row, rounded to 1:"),
        (CENTS[::-1] - 2 * CENTS, "= -2 * x + z in every row: it"),
    ],
)
def test_factors_that_round_are_found_and_give_every_row(total, line):
    data = prepare(pa.table({"x": CENTS, "z": CENTS[::-1], "y": total.round(2)}))
    (note,) = [note for note in data.notes if "it is computed" in note]
    assert line in note
    (column,) = [c for c in data.schema.columns if c.kind == "derived"]
    made = column.settled(column.sum.of({"x": CENTS, "z": CENTS[::-1]}))
    assert np.abs(made - total.round(2)).max() < 0.01 * (1 + (total == CENTS / 2).all()) + 1e-9


def test_a_wild_value_is_said():
    x = RNG.standard_t(3, size=(500, 3))
    assert said(prepare(x)) == ()
    x[:, 1] = -1e6 * (np.arange(500) < 300)
    x[:, 1] += RNG.normal(size=500)
    # two places, either of many rows
    assert not any("largest" in note for note in said(prepare(x)))
    x[:, 2] = np.where(np.arange(500) % 3 > 0, 0.0, x[:, 2])
    x[RNG.permutation(500)[:5], 2] = 1e7
    (note,) = [note for note in said(prepare(x)) if "largest" in note]
    assert note.startswith("column 2 (from 0): the largest |x - median| is")


# ------------------------------------------------------------------------------------------ prepare


def said(data: Dataset) -> tuple[str, ...]:
    """The notes but for the one that such small data always get."""
    return tuple(note for note in data.notes if "fewer than 10 for each" not in note)


def test_digits_prepared():
    data = prepare("digits")
    assert data.schema == Schema("levels", (8, 8), 0, 16)
    assert [len(x) for x in (data.train, data.validation, data.test)] == [1437, 180, 180]
    assert (data.train.dtype, data.name, data.binarize, data.notes) == (
        torch.uint8,
        "digits",
        "none",
        (),
    )
    array, labels, _, *_ = read("digits")
    assert labels is not None
    _, _, test = split(array, 0.1, 0.1)
    np.testing.assert_array_equal(data.test.numpy(), array[test])
    np.testing.assert_array_equal(data.test_labels, labels[test])
    assert data.fingerprint == fingerprint(array)
    assert prepare("digits", kind="real").schema.kind == "real"
    assert prepare("digits", levels=(0, 20)).schema.num_levels == 21


def test_the_split_does_not_depend_on_how_levels_are_stored():
    as_bytes, as_floats = prepare(GREY), prepare(GREY.astype(np.float64), levels=(0, 255))
    assert torch.equal(as_bytes.test, as_floats.test)
    assert as_floats.train.dtype == torch.uint8
    assert said(as_floats) == (
        "integers stored as float64, read as levels; --kind real reads them as real numbers",
    )


@pytest.mark.parametrize(
    ("array", "default", "stored"),
    [
        (GREY, torch.float32, torch.uint8),
        (GREY > 99, torch.float32, torch.uint8),
        (GREY.astype(np.int16) * 3, torch.float32, torch.float32),
        (GREY.astype(np.int16) - 9, torch.float32, torch.float32),
        (GREY / 254, torch.float32, torch.float32),
        (GREY / 254, torch.float64, torch.float64),
        ((GREY / 254).astype(np.float32), torch.float64, torch.float32),
    ],
)
def test_storage_is_as_small_as_the_values_allow(
    array: np.ndarray, default: torch.dtype, stored: torch.dtype
):
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        data = prepare(array, validation_fraction=0, test_fraction=0)
        rows = batch(data.train, torch.arange(40))
    finally:
        torch.set_default_dtype(before)
    assert data.train.dtype == stored
    assert rows.dtype == default
    held = array.astype(np.float32 if stored == torch.float32 else np.float64)
    np.testing.assert_array_equal(rows.numpy(), held)
    assert len(data.validation) == len(data.test) == 0
    assert data.validation.shape[1:] == (4, 5)


def test_shape_reshapes_rows_of_both_sources():
    flat = GREY.reshape(40, 20)
    data = prepare(flat, shape=(4, 5), test=flat[:7])
    assert data.schema.event_shape == (4, 5)
    np.testing.assert_array_equal(data.test.numpy(), GREY[:7])
    assert prepare(np.arange(40), shape=(1,)).schema.event_shape == (1,)


def test_an_official_test_set_is_kept_whole_and_compared(tmp_path: Path):
    np.savez(
        tmp_path / "a.npz",
        train=GREY,
        test=GREY[[3, 3, 5]] ^ np.array([0, 1, 0], np.uint8)[:, None, None],
    )
    data = prepare(tmp_path / "a.npz", key="train", test=f"{tmp_path / 'a.npz'}:test")
    assert [len(x) for x in (data.train, data.validation, data.test)] == [36, 4, 3]
    assert said(data) == (
        "2 of 3 rows of the test set are also in the data: its score is optimistic",
    )
    assert data.name == f"{tmp_path / 'a.npz'}:train"
    assert len(data.fingerprint) == 65


def test_notes_say_what_a_person_should_know():
    repeated = np.concatenate([GREY, GREY[:10]])
    assert said(prepare(repeated)) == (
        "10 of 50 rows (20 %) repeat another; copies stay on one side",
    )
    for divided in (
        GREY / 255,
        (GREY / 255).astype(np.float32),
        GREY.astype(np.float32) * np.float32(1 / 255),
    ):
        assert "k/255" in prepare(divided).notes[0]
    assert said(prepare(GREY / 254)) == ()
    table = RNG.standard_normal((40, 3))
    table[:30, 1] = 0.0
    assert "columns (from 0) 1 repeat one value" in prepare(table).notes[0]
    ids = np.arange(2**24, 2**24 + 80 * 70000, 70000).reshape(40, 2)
    assert "lose digits in float32" in prepare(ids).notes[0]
    offset = np.stack([RNG.standard_normal(40), 3e7 + 4 * RNG.standard_normal(40)], 1)
    assert (
        "columns (from 0) 1 hardly vary compared with their size, so float32 rounds them"
        in prepare(offset).notes[0]
    )
    bits = np.where(GREY > 99, np.uint8(255), np.uint8(0))
    assert said(prepare(bits)) == (
        "only two values, 0 and 255: --binarize threshold makes them bits",
    )


def test_few_rows_are_noted():
    few = (
        "32 training rows are fewer than 10 for each of 10 latent dimensions: expect a simple "
        "model and wide errors"
    )
    assert prepare(GREY).notes == (f"{few}, or give more data",)
    enough = RNG.standard_normal((64, 5))  # of five columns a model makes five latent dimensions
    assert len(prepare(enough[:60]).notes) == 1
    assert prepare(enough).notes == ()


def test_a_density_of_integers_and_of_rounded_numbers_is_noted():
    assert said(prepare(GREY, kind="real")) == (
        "integers, read as real: a density of integers has no bound; without --kind real they are "
        "levels",
    )
    table = RNG.standard_normal((2000, 3))
    table[:, 1] = table[:, 1].round(1)
    (note,) = said(prepare(table))
    assert note.startswith(
        "columns (from 0) 1 are rounded to few different values: their density may have no bound"
    )
    assert said(prepare(table[:1000])) == ()  # so few numbers repeat by chance


def test_dense_counts_say_what_sparse_ones_say():
    counts = RNG.poisson(3.0, (60, 9))
    counts[0], counts[1] = 0, 100_000 * counts[1] + 1
    low, high = np.sort(counts.sum(1))[[1, -1]]
    assert said(prepare(counts, kind="count")) == (
        "the training data: 1 of 60 rows (from 0: 0) are all zero; they are kept",
        f"the training data: the sums of the rows span {low}..{high}, more than a factor of 10^4; "
        f"are all rows alike?",
    )


def test_importing_and_preparing_leave_global_state_alone():
    torch.manual_seed(3)
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    data = prepare(GREY, binarize="dynamic")
    batch(data.train, torch.arange(5), True, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == dtype
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


# --------------------------------------------------------------------------------------------- bits


def test_bits_have_exactly_the_probability_of_their_grey():
    sure = torch.tensor([0, 255], dtype=torch.uint8).repeat(100_000)
    assert torch.equal(draw_bits(sure), torch.tensor([0.0, 1.0]).repeat(100_000))
    # 256 binomial counts of n = 40000 draws, each within 7 sd + 1 for the lattice: false alarm 256
    # * 2.6e-12 < 1e-9
    n = 40_000
    counts = draw_bits(
        torch.arange(256, dtype=torch.uint8).expand(n, 256), torch.Generator().manual_seed(0)
    ).sum(0)
    p = torch.arange(256) / 255
    assert ((counts - n * p).abs() <= 7 * (n * p * (1 - p)).sqrt() + 1).all()
    # all of them together, where one byte of noise alone would be 15 sd low: 7 sd, false alarm
    # 2.6e-12
    assert abs((counts - n * p).sum()) <= 7 * (n * p * (1 - p)).sum().sqrt()


def test_where_the_first_byte_does_not_decide_the_bits_are_independent(monkeypatch):
    def tied(noise: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        noise.view(torch.uint8)[:] = 64
        noise[:, -1] = torch.arange(len(noise))  # seeds that are as alike as can be
        return noise

    monkeypatch.setattr(torch.Tensor, "random_", tied)
    n, p = 2000, 64 / 255
    bits = draw_bits(torch.full((n, 500), 64, dtype=torch.uint8)).double() - p
    # the mean, and the correlation with the next column, the next row and the one across: 7 sd
    # each, false alarm 1.1e-11
    for other in (
        torch.ones_like(bits),
        bits.roll(1, 1),
        bits.roll(1, 0),
        bits.roll((1, -1), (0, 1)),
    ):
        scale = other.square().mean().sqrt() * math.sqrt(p * (1 - p) / bits.numel())
        assert abs((bits * other).mean()) <= 7 * scale


def test_a_brighter_grey_is_never_a_darker_bit():
    # with one generator state both see the same r, and r < x implies r < x + 1
    low, high = torch.arange(255, dtype=torch.uint8), torch.arange(1, 256, dtype=torch.uint8)
    a = draw_bits(low.expand(2000, 255), torch.Generator().manual_seed(5))
    b = draw_bits(high.expand(2000, 255), torch.Generator().manual_seed(5))
    assert (b >= a).all()


def test_float_probabilities_are_used_as_they_are():
    p = torch.tensor([0.0, 0.25, 1.0]).expand(100_000, 3)
    bits = draw_bits(p, torch.Generator().manual_seed(0))
    assert bits.dtype == torch.get_default_dtype()
    assert bits.sum(0)[[0, 2]].tolist() == [0, 100_000]
    # 7 sd of a binomial of n = 100000, p = 1/4: false alarm 2.6e-12
    assert abs(bits.sum(0)[1].item() - 25_000) <= 7 * math.sqrt(100_000 * 0.1875)


def test_dynamic_keeps_training_grey_and_fixes_the_rest():
    data = prepare(GREY, binarize="dynamic", seed=1)
    grey = prepare(GREY)
    assert data.schema == Schema("binary", (4, 5), 0, 1)
    assert torch.equal(data.train, grey.train)
    for bits in (data.validation, data.test):
        assert bits.dtype == torch.uint8
        assert set(bits.unique().tolist()) == {0, 1}
    again, other = (prepare(GREY, binarize="dynamic", seed=seed) for seed in (1, 2))
    assert torch.equal(again.test, data.test)
    assert not torch.equal(other.test, data.test)  # equal by chance: below 2^-26 for 80 such pixels
    index, generator = torch.tensor([3, 0, 3]), torch.Generator().manual_seed(9)
    drawn = batch(data.train, index, True, generator)
    assert torch.equal(drawn, draw_bits(grey.train[index], torch.Generator().manual_seed(9)))


def test_dynamic_reads_grey_in_the_unit_interval():
    by_255 = prepare((GREY / 255).astype(np.float32), binarize="dynamic")
    # k/255 is recognised and stored as the byte k
    assert torch.equal(by_255.train, prepare(GREY).train)
    reals = prepare(GREY / 254.5 * 0.99, binarize="dynamic", validation_fraction=0, test_fraction=0)
    np.testing.assert_array_equal(reals.train.numpy(), (GREY / 254.5 * 0.99).astype(np.float32))


def test_threshold_is_at_one_half():
    edge = np.repeat(np.array([[0, 127, 128, 255]], np.uint8), 12, axis=0)
    edge[:, 0] = np.arange(12) * 20  # distinct grey rows; only two distinct bit rows
    data = prepare(edge, binarize="threshold", validation_fraction=0, test_fraction=0)
    assert data.train[0].tolist() == [0, 0, 1, 1]
    assert data.train[:, 0].tolist() == [int(v >= 128) for v in edge[:, 0]]
    assert data.train.dtype == torch.uint8
    reals = prepare(edge / 256, binarize="threshold", validation_fraction=0, test_fraction=0)
    assert torch.equal(reals.train, data.train)  # 127/256 < 1/2 = 128/256
    divided = prepare(edge / 255, binarize="threshold", validation_fraction=0, test_fraction=0)
    assert torch.equal(divided.train, data.train)


def test_bits_given_as_official_test_set_stay_as_they_are():
    bits = (GREY[:6] > 99).astype(np.uint8)
    for how in ("dynamic", "threshold"):
        assert torch.equal(prepare(GREY, binarize=how, test=bits).test, torch.from_numpy(bits))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------ check_against


def test_new_data_are_stored_as_the_test_set_was():
    for how in ("none", "dynamic", "threshold"):
        data = prepare(GREY, test=GREY[:7], binarize=how, seed=4)  # type: ignore[arg-type]
        new = check_against(GREY[:7].reshape(7, 20), data.schema, binarize=how, seed=4)  # type: ignore[arg-type]
        assert torch.equal(new.rows, data.test)
        assert (new.rows.dtype, new.notes, new.table) == (data.test.dtype, (), None)
    assert torch.equal(
        check_against(GREY[:1], Schema("levels", (4, 5), 0, 255)).rows, torch.from_numpy(GREY[:1])
    )


def test_new_data_of_another_scale_are_noted():
    schema = Schema("real", (2,), -3, 3)
    assert check_against(np.full((4, 2), 8.9), schema).notes == ()
    assert check_against(np.full((4, 2), [9.5, np.nan]), schema).notes == (
        "the mean is 9.5, far from the -3..3 of the training: is it the same data, in the same "
        "unit?",
    )
    assert check_against(np.full((4, 2), np.nan), schema).notes == ()


def test_checked_data_do_not_share_memory():
    mine = np.ones((3, 2), np.float32) / 2
    theirs = check_against(mine, Schema("real", (2,), 0, 1)).rows
    theirs[0, 0] = 9
    assert mine[0, 0] == 0.5
