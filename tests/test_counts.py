"""Sparse rows equal dense ones, an .h5ad file gives the same numbers however it stores them, and
bad counts are refused.
"""

from __future__ import annotations

import sys
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from scipy import sparse

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import anndata

from taut.data.counts import problems
from taut.data.dataset import prepare
from taut.data.h5ad import from_anndata, read_h5ad, to_obsm
from taut.data.in_memory import from_counts
from taut.data.readers import Options
from taut.data.sparse import SparseRows, from_scipy
from taut.system.errors import DataError, UsageError

COUNTS = np.random.default_rng(0).poisson(0.4, (12, 7)).astype(np.float32)
COUNTS[3] = 0
LOGGED = np.log1p(COUNTS)


def rows_of(array: np.ndarray = COUNTS) -> SparseRows:
    return SparseRows(sparse.csr_array(array))


def annotated(x: Any, obs: dict[str, Any] | None = None, **parts: Any) -> anndata.AnnData:
    import pandas as pd

    names = [f"cell{i}" for i in range(12)]
    var = pd.DataFrame(index=[f"gene{i}" for i in range(7)])
    return anndata.AnnData(x, obs=pd.DataFrame(obs or {}, index=names), var=var, **parts)


def with_raw(x: Any, raw: Any) -> anndata.AnnData:
    adata = annotated(raw)
    adata.raw = adata
    adata.X = x
    return adata


def saved(folder: Path, adata: anndata.AnnData) -> Path:
    path = folder / "cells.h5ad"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.write_h5ad(path)
    return path


def dense(counts: SparseRows | np.ndarray) -> np.ndarray:
    return counts[:].numpy() if isinstance(counts, SparseRows) else counts


# -- SparseRows
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "index",
    [
        0,
        -1,
        3,
        slice(None),
        slice(2, 9, 3),
        slice(4, 4),
        torch.tensor([5, 0, 5, 3, -2]),
        torch.tensor([], dtype=torch.long),
    ],
    ids=str,
)
def test_rows_are_indexed_like_a_tensor(index: Any) -> None:
    torch.testing.assert_close(
        rows_of()[index], torch.from_numpy(COUNTS).double()[index], rtol=0, atol=0
    )


def test_rows_have_what_a_part_of_a_dataset_needs() -> None:
    rows = rows_of()
    assert (len(rows), rows.shape, rows.dtype, rows.device.type) == (
        12,
        (12, 7),
        torch.float64,
        "cpu",
    )
    torch.set_default_dtype(torch.float32)
    assert rows.dtype == rows[:2].dtype == torch.float32
    torch.set_default_dtype(torch.float16)
    assert rows.dtype == torch.float32
    with pytest.raises(IndexError):
        rows[torch.tensor([12])]


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, ">i4", "f2", ">f8"])
def test_rows_of_a_dense_array(dtype: Any) -> None:
    array = COUNTS.astype(dtype)
    assert np.array_equal(SparseRows.of(array)[:].numpy(), array)
    assert SparseRows.of(array)._values.dtype == torch.uint8
    assert dtype is bool or SparseRows.of(array).fingerprint() == rows_of().fingerprint()


def test_the_largest_value() -> None:
    assert (SparseRows.of(COUNTS).largest(), SparseRows.of(0 * COUNTS).largest()) == (
        COUNTS.max(),
        0.0,
    )


def test_split_gives_consecutive_blocks() -> None:
    blocks = list(rows_of().split(5))
    assert [len(block) for block in blocks] == [5, 5, 2]
    assert np.array_equal(torch.cat(blocks).numpy(), COUNTS)


def test_to_moves_the_sparse_rows_and_leaves_the_first_where_they_were() -> None:
    rows = rows_of()
    moved = rows.to(torch.device("meta"))
    assert (moved.device.type, moved.shape, rows.device.type) == ("meta", (12, 7), "cpu")


def test_subsets_keep_their_order_and_their_own_values_only() -> None:
    part = rows_of().subset(np.array([7, 3, 7, 0]))
    assert np.array_equal(part[:].numpy(), COUNTS[[7, 3, 7, 0]])
    assert np.array_equal(part.subset(np.array([2, 1]))[:].numpy(), COUNTS[[7, 3]])
    assert len(part._values) == np.count_nonzero(COUNTS[[7, 3, 7, 0]])
    assert part.subset(np.array([], dtype=np.int64)).shape == (0, 7)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (255, torch.uint8),
        (256, torch.int16),
        (2**15, torch.int32),
        (2**31, torch.int64),
        (2**63, torch.float64),
        (0.5, torch.float64),
    ],
)
def test_values_are_kept_in_the_smallest_type_that_holds_them(
    value: float, dtype: torch.dtype
) -> None:
    rows = rows_of(np.array([[0.0, value], [1.0, 0.0]]))
    assert rows._values.dtype == dtype
    assert rows[0].tolist() == [0.0, value]


@pytest.mark.parametrize("form", ["bsr", "coo", "csc", "csr", "dia", "dok", "lil"])
@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_every_format_gives_the_same_rows(form: str, kind: str, dtype: Any) -> None:
    made = (
        sparse.csr_array(COUNTS.astype(dtype))
        if kind == "array"
        else sparse.csr_matrix(COUNTS.astype(dtype))
    )
    rows = from_scipy(made.asformat(form))
    assert np.array_equal(rows[:].numpy(), COUNTS)
    assert rows._values.dtype == torch.uint8


def test_integers_beyond_int64_become_floats() -> None:
    rows = SparseRows.of(np.array([[0, 2**63 + 2**60]], np.uint64))
    assert (rows._values.dtype, rows[0].tolist()) == (torch.float64, [0.0, float(2**63 + 2**60)])


def test_booleans_are_zeros_and_ones() -> None:
    assert np.array_equal(from_scipy(sparse.csr_array(COUNTS > 0))[:].numpy(), COUNTS > 0)


@pytest.mark.parametrize("form", ["coo", "csr", "csc"])
def test_repeated_entries_are_added_up_without_wrapping_around(form: str) -> None:
    data, at = np.array([200, 100, 7], np.uint8), np.array([0, 0, 1])
    if form == "coo":
        matrix: Any = sparse.coo_array((data, (at, at)), shape=(2, 2))
    else:
        matrix = {"csr": sparse.csr_array, "csc": sparse.csc_array}[form](
            (data, at, np.array([0, 2, 3])), shape=(2, 2)
        )
    assert from_scipy(matrix)[:].tolist() == [[300.0, 0.0], [0.0, 7.0]]


def test_hashes_depend_on_the_values_alone() -> None:
    tidy = sparse.csr_array(np.array([[0, 3, 0, 4], [1, 0, 0, 0], [0, 3, 0, 4]]))
    shuffled = sparse.csr_matrix(
        (
            np.array([4.0, 0.0, 3.0, -0.0, 1.0, 1.0, 4.0, 2.0]),
            np.array([3, 0, 1, 2, 0, 1, 3, 1]),
            np.array([0, 3, 5, 8]),
        ),
        (3, 4),
    )
    before = shuffled.data.copy()
    assert np.array_equal(SparseRows(tidy).row_hashes(), SparseRows(shuffled).row_hashes())
    assert SparseRows(tidy).fingerprint() == SparseRows(shuffled).fingerprint()
    assert np.array_equal(shuffled.data, before)
    hashes = SparseRows(tidy).row_hashes()
    assert (hashes.dtype, hashes[0] == hashes[2], hashes[0] == hashes[1]) == (
        np.dtype("S16"),
        True,
        False,
    )
    # also where another row makes the stored type wider
    assert rows_of(np.array([[0, 3, 0, 4], [0, 0, 0, 70000]])).row_hashes()[0] == hashes[0]


@pytest.mark.parametrize(
    "changed",
    [COUNTS[::-1], COUNTS[:, ::-1], COUNTS[:-1], np.pad(COUNTS, ((0, 0), (0, 1))), 2 * COUNTS],
)
def test_the_fingerprint_names_exactly_these_counts(changed: np.ndarray) -> None:
    assert len(rows_of().fingerprint()) == 32
    assert rows_of(changed).fingerprint() != rows_of().fingerprint()


@pytest.mark.parametrize("block", [1, 2**22])
def test_moments_and_totals_equal_the_dense_ones(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taut.data.sparse.BLOCK", block)
    # hardly varies beside its size, which one pass could not tell
    array = COUNTS + np.array([0, 0, 0, 0, 0, 0, 1e6])
    mean, std = rows_of(array).column_moments()
    assert (mean.dtype, std.dtype, rows_of(array).totals().dtype) == (torch.float64,) * 3
    # sums of 12 numbers up to 1e6 in float64: relative errors of some 12 * 1e-16, also of squares
    # of deviations
    np.testing.assert_allclose(mean, array.mean(0), rtol=1e-14)
    np.testing.assert_allclose(std, array.std(0), rtol=1e-8)
    assert rows_of(array).totals().tolist() == array.sum(1).tolist()


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (sparse.csr_array((0, 3)), r"the matrix: has shape \(0, 3\); rows and columns are needed"),
        (sparse.coo_array(np.array([1, 0, 2])), r"has shape \(3,\)"),
        (sparse.csr_array(np.array([[1j]])), "holds complex128 values, not numbers"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused(matrix: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        from_scipy(matrix)


@pytest.mark.parametrize("form", [sparse.csr_array, sparse.csc_array])
@pytest.mark.parametrize("wrong", [-1, 99])
def test_indices_outside_the_matrix_are_refused(form: Any, wrong: int) -> None:
    matrix = form(COUNTS)
    matrix.indices[4] = wrong
    with pytest.raises(
        DataError, match=r"the matrix: its sparse indices are damaged .*; write it again"
    ):
        from_scipy(matrix)


def test_a_large_matrix_is_never_made_dense(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    at = rng.integers(0, 4186, 780_212), rng.integers(0, 13_488, 780_212)
    matrix = sparse.coo_array((np.ones(780_212, np.float32), at), shape=(4186, 13_488)).tocsr()
    path = tmp_path / "large.h5ad"
    anndata.AnnData(matrix).write_h5ad(path)
    tracemalloc.start()
    try:
        rows, _, names, *_ = read_h5ad(path)
        assert problems(rows, "cells")[0] == []
        assert isinstance(rows, SparseRows)
        rows.column_moments(), rows.totals(), rows.row_hashes(), rows.subset(np.arange(4000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (rows.shape, len(names)) == ((4186, 13_488), 13_488)
    # torch's own memory is not traced; its largest tensors here are 780,212 numbers of 8 bytes, 6
    # MB
    assert peak < 100e6  # a dense copy has 226 MB even in float32


# -- AnnData
# --------------------------------------------------------------------------------------------------

STORED = {
    "dense": COUNTS,
    "dense int64": COUNTS.astype(np.int64),
    "csr": sparse.csr_matrix(COUNTS),
    "csr array": sparse.csr_array(COUNTS),
    "csc": sparse.csc_matrix(COUNTS),
}


@pytest.mark.parametrize("where", ["X", "raw", "layer"])
@pytest.mark.parametrize("stored", STORED)
def test_b34_every_way_to_store_counts_gives_equal_numbers(
    stored: str, where: str, tmp_path: Path
) -> None:
    x = STORED[stored]
    if where == "layer":
        adata, layer = annotated(LOGGED, layers={"counts": x}), "counts"
    else:
        adata, layer = (annotated(x), None) if where == "X" else (with_raw(LOGGED, x), "raw")
    path = saved(tmp_path, adata)
    backed = anndata.read_h5ad(path, backed="r")
    try:
        for counts, labels, names, notes, _ in (
            read_h5ad(path, layer=layer),
            from_anndata(adata, layer),
            from_anndata(adata[:], layer),
            from_anndata(backed, layer),
        ):
            assert isinstance(counts, np.ndarray if stored.startswith("dense") else SparseRows)
            assert np.array_equal(dense(counts), COUNTS)
            assert (labels, names, notes) == (None, [f"gene{i}" for i in range(7)], [])
    finally:
        backed.file.close()


def test_raw_may_have_more_variables_than_x() -> None:
    adata = with_raw(LOGGED, COUNTS)[:, :3]
    counts, _, names, *_ = from_anndata(adata, "raw")
    assert (counts.shape, names[-1]) == ((12, 7), "gene6")
    assert from_anndata(adata, "X")[2] == ["gene0", "gene1", "gene2"]


@pytest.mark.parametrize("in_file", [True, False])
def test_a_layer_that_is_called_raw_has_the_variables_of_x(in_file: bool, tmp_path: Path) -> None:
    """It was refused as a damaged file, or as of no variables."""
    adata = annotated(LOGGED, layers={"raw": COUNTS})
    source: Any = adata
    if in_file:
        source = saved(tmp_path, adata)
    read = (from_anndata, read_h5ad)[in_file]
    counts, _, names, *_ = read(source, layer="raw")
    assert np.array_equal(dense(counts), COUNTS)
    assert names == [f"gene{i}" for i in range(7)]
    with pytest.raises(DataError, match="X holds no counts, but raw does"):
        read(source)


@pytest.mark.parametrize(
    "logged", [LOGGED, sparse.csr_matrix(LOGGED), -COUNTS, np.where(COUNTS == 0, np.nan, COUNTS)]
)
def test_b34_x_without_counts_is_never_silently_replaced(logged: Any, tmp_path: Path) -> None:
    path = saved(tmp_path, with_raw(logged, sparse.csr_matrix(COUNTS)))
    expected = (
        f"{path}: X holds no counts, but raw does; --layer raw reads it, --layer X reads X as it is"
    )
    with pytest.raises(DataError) as refused:
        read_h5ad(path)
    assert refused.value.problems == [expected]
    np.testing.assert_array_equal(
        dense(read_h5ad(path, layer="X")[0]),
        logged.toarray() if sparse.issparse(logged) else logged,
    )


def test_all_places_with_counts_are_named() -> None:
    adata = annotated(
        LOGGED, layers={"scaled": LOGGED - 1, "umi\n": COUNTS, "spliced": sparse.csc_matrix(COUNTS)}
    )
    with pytest.raises(
        DataError,
        match=r"X holds no counts, but layer 'umi\\n' does; .*; counts are also in: spliced$",
    ):
        from_anndata(adata)


def test_x_is_read_as_it_is_where_no_place_holds_counts() -> None:
    counts, *_ = from_anndata(annotated(sparse.csr_matrix(LOGGED), layers={"scaled": LOGGED - 1}))
    assert np.array_equal(dense(counts), LOGGED)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (
            "count",
            r"cells.h5ad: has no layer count; did you mean counts\? --layer takes one of: X, raw, "
            r"counts$",
        ),
        ("zz\n", r"has no layer 'zz\\n'; --layer takes one of: X, raw, counts$"),
    ],
)
def test_b34_a_wrong_layer_lists_the_layers(layer: str, words: str, tmp_path: Path) -> None:
    adata = with_raw(COUNTS, COUNTS)
    adata.layers["counts"] = COUNTS
    with pytest.raises(UsageError, match=words):
        read_h5ad(saved(tmp_path, adata), layer=layer)


def test_b34_a_file_without_x_asks_for_a_layer(tmp_path: Path) -> None:
    adata = with_raw(None, COUNTS)
    path = saved(tmp_path, adata)
    with pytest.raises(DataError, match=r"holds no X; choose with --layer: raw$"):
        read_h5ad(path)
    assert np.array_equal(dense(read_h5ad(path, layer="raw")[0]), COUNTS)
    with pytest.raises(DataError, match=r"the AnnData: holds no X; and neither raw nor layers"):
        from_anndata(annotated(None))


def test_labels_are_read_when_asked_for_and_listed_otherwise(tmp_path: Path) -> None:
    kinds = np.array(["neuron", "glia"] * 6, dtype=object)
    path = saved(tmp_path, annotated(COUNTS, {"cell_type": kinds, "batch": np.arange(12)}))
    assert read_h5ad(path)[1:4] == (
        None,
        [f"gene{i}" for i in range(7)],
        ["obs columns: cell_type, batch"],
    )
    _, labels, _, notes, _ = read_h5ad(path, labels="cell_type")
    assert labels is not None
    assert (labels.tolist(), labels.dtype.kind, notes) == (kinds.tolist(), "U", [])
    batch = read_h5ad(path, labels="batch")[1]
    assert batch is not None
    assert (batch.tolist(), batch.dtype.kind) == (list(range(12)), "i")
    with pytest.raises(
        UsageError,
        match=r"obs has no column celltype; did you mean cell_type\? labels takes one of: "
        r"cell_type, b",
    ):
        read_h5ad(path, labels="celltype")


def test_missing_labels_are_counted() -> None:
    _, labels, _, notes, _ = from_anndata(
        annotated(COUNTS, {"kind": ["a", None, "b"] * 4}), labels="kind"
    )
    assert labels is not None
    assert labels[:3].tolist() == ["a", "nan", "b"]
    assert notes == ["labels kind: 4 of 12 are missing, read as 'nan'"]


def test_b35_repeated_names_are_noted(tmp_path: Path) -> None:
    adata = annotated(COUNTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.obs_names = ["a", "a", "a", *"bcdefghij"]
        adata.var_names = [*"xxyyz", "\x1b[31m", "w"]
    notes = read_h5ad(saved(tmp_path, adata))[3]
    assert notes == [
        "obs_names: 2 repeat an earlier one (a); they are told apart by number",
        "var_names: 2 repeat an earlier one (x, y); they are told apart by number",
    ]


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_b35_a_truncated_file_is_one_line(share: float, tmp_path: Path) -> None:
    path = saved(tmp_path, annotated(sparse.csr_matrix(COUNTS)))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        DataError,
        match=r"cells.h5ad: is not an .h5ad file, or truncated or damaged \(.*\); download it "
        r"again$",
    ) as refused:
        read_h5ad(path)
    assert len(str(refused.value).splitlines()) == 1


def change_indices(file: h5py.File) -> None:
    file["X/indices"][3] = 1_000_000


def change_pointers(file: h5py.File) -> None:
    file["X/indptr"][-1] = 10**9


def claim_rows(file: h5py.File) -> None:
    del file["X"]
    file.create_dataset("X", (10**7, 10**6), "f4", chunks=(1000, 1000), compression="gzip")


def text(file: h5py.File) -> None:
    del file["X"]
    file["X"] = np.full((12, 7), b"no")


def fewer_rows(file: h5py.File) -> None:
    del file["X"]
    file["X"] = COUNTS[:5]


def old(file: h5py.File) -> None:
    del file["obs"]
    file["obs"] = np.zeros(12, dtype=[("index", "S5"), ("n", "i4")])


def no_obs(file: h5py.File) -> None:
    del file["obs"], file["var"]


def unknown_encoding(file: h5py.File) -> None:
    file["X"].attrs["encoding-type"] = "of the future\n"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (change_indices, "cells.h5ad, X: its sparse indices are damaged"),
        (change_pointers, "damaged"),
        (
            claim_rows,
            "cells.h5ad, X: claims 40000000000000 bytes where the file holds 0; it is damaged, "
            "download it again",
        ),
        (text, r"X: holds .* values, not numbers; save it as integers or float32$"),
        (
            fewer_rows,
            r"X: has shape \(5, 7\), but there are 12 obs_names and 7 var_names; the file is "
            r"damaged, write it again",
        ),
        (
            old,
            "was written by an anndata before 0.7; read it with anndata.read_h5ad and write it "
            "again",
        ),
        (
            no_obs,
            "is an HDF5 file, but not an .h5ad: it has no obs and no var; save it with anndata",
        ),
        (unknown_encoding, "is not an .h5ad file, or truncated or damaged"),
    ],
)
def test_b35_a_damaged_or_foreign_file_is_one_line(damage: Any, words: str, tmp_path: Path) -> None:
    path = saved(tmp_path, annotated(sparse.csr_matrix(COUNTS)))
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(DataError, match=words) as refused:
        read_h5ad(path)
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("content", [b"", b"gene,cell\n1,2\n"])
def test_b35_what_is_no_hdf5_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.h5ad"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x.h5ad: is not an .h5ad file, or truncated"):
        read_h5ad(path)


@pytest.mark.parametrize("name", ["absent.h5ad", "."])
def test_a_missing_file_is_a_usage_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file; give an \.h5ad file"):
        read_h5ad(tmp_path / name)


@pytest.mark.parametrize(
    "error", [PermissionError(13, "no\nway"), BlockingIOError(11, "no way, it is locked")]
)
def test_a_file_that_may_not_be_read_is_a_usage_error(
    error: OSError, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: Any) -> None:
        raise error

    path = saved(tmp_path, annotated(COUNTS))
    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(UsageError, match=r"cells.h5ad: cannot be read \(\[Errno 1.\] no way.*\)$"):
        read_h5ad(path)


def test_anndata_is_an_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(
        UsageError, match=r"needs anndata to be read; pip install 'taut\[anndata\]'"
    ):
        read_h5ad(tmp_path / "cells.h5ad")


@pytest.mark.parametrize(
    "embedding",
    [np.arange(24.0).reshape(12, 2), torch.arange(24.0, requires_grad=True).reshape(12, 2)],
)
def test_an_embedding_goes_into_obsm(embedding: Any) -> None:
    adata = annotated(COUNTS)
    to_obsm(adata, embedding)
    to_obsm(adata, embedding, key="X_mine")
    assert (
        adata.obsm["X_taut"].tolist()
        == adata.obsm["X_mine"].tolist()
        == np.arange(24.0).reshape(12, 2).tolist()
    )


@pytest.mark.parametrize("shape", [(11, 2), (12,), (12, 2, 1)])
def test_an_embedding_of_other_rows_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        UsageError, match=r"the embedding has shape .*, but \(12, dimensions\) is needed"
    ):
        to_obsm(annotated(COUNTS), np.zeros(shape))


# -- problems
# --------------------------------------------------------------------------------------------------

BASE = np.array([[4, 0, 1], [0, 2, 0], [3, 0, 5]], dtype=np.float64)


def changed(**at: float) -> np.ndarray:
    array = BASE.copy()
    for place, value in at.items():
        array[int(place[1]), int(place[2])] = value
    return array


LAYER = "counts are needed"


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (BASE, []),
        (
            changed(_11=-2, _22=-7),
            [
                "2 values (40 % of those not zero) are negative, the first at row 1, column 1 "
                "(from 0); the smallest is -7:"
                f" {LAYER}"
            ],
        ),
        (
            changed(_00=0.6931, _20=1.5),
            [
                "2 values (40 % of those not zero) are not integers, the first at row 0, column 0 "
                "(from 0); the largest is 5,"
                f" so they look log-normalised: {LAYER}"
            ],
        ),
        (
            changed(_22=20.5),
            [
                "1 values (20 % of those not zero) are not integers, the first at row 2, column 2 "
                "(from 0); the largest is"
                f" 20.5: {LAYER}"
            ],
        ),
        (
            changed(_01=np.nan, _02=np.inf, _10=-np.inf),
            [
                "1 values (14.3 % of those not zero) are NaN, the first at row 0, column 1 (from "
                "0); counts cannot be missing or"
                " infinite, so drop the rows or the columns",
                "2 values (28.6 % of those not zero) are infinite, the first at row 0, column 2 "
                "(from 0); counts cannot be"
                " missing or infinite, so drop the rows or the columns",
            ],
        ),
        (
            changed(_11=2**24 + 1),
            [
                "1 values (20 % of those not zero) are too large, the first at row 1, column 1 "
                "(from 0); the largest is"
                " 16777217, and only up to 16777216 are integers exact once stored; drop the "
                "columns"
            ],
        ),
    ],
    ids=[
        "good",
        "B31 negative",
        "B31 log-normalised",
        "B31 not integers",
        "NaN and infinite",
        "beyond 2^24",
    ],
)
@pytest.mark.parametrize("form", [SparseRows, np.asarray])
@pytest.mark.parametrize("block", [1, 2**22])
def test_b31_what_is_no_count_is_refused(
    array: np.ndarray, expected: list[str], form: Any, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taut.data.sparse.BLOCK", block)
    monkeypatch.setattr("taut.data.counts.BLOCK", block)
    torch.set_default_dtype(torch.float32)
    counts = SparseRows(sparse.csr_array(array)) if form is SparseRows else array
    assert problems(counts, "cells") == ([f"cells: {line}" for line in expected], [])


def test_counts_up_to_2_53_are_exact_in_double_precision() -> None:
    assert problems(changed(_11=2**24 + 1), "cells")[0] == []


@pytest.mark.parametrize("form", [rows_of, np.asarray])
def test_b32_empty_rows_and_columns_are_kept_and_noted(form: Any) -> None:
    array = np.zeros((5, 4), np.int64)
    array[1, 2], array[3, 0] = 3, 1
    lines, notes = problems(form(array), "cells")
    assert lines == []
    assert notes == [
        "cells: 3 of 5 rows (from 0: 0, 2, 4) are all zero; they are kept",
        "cells: 2 of 4 columns (from 0: 1, 3) are all zero; they are kept",
    ]


@pytest.mark.parametrize("form", [rows_of, np.asarray])
def test_b32_zeros_alone_divide_nothing(form: Any) -> None:
    lines, notes = problems(form(np.zeros((13, 2))), "new")
    assert lines == []
    assert notes == [
        "new: 13 of 13 rows (from 0: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...) are all zero; they are "
        "kept",
        "new: 2 of 2 columns (from 0: 0, 1) are all zero; they are kept",
    ]


def test_dense_counts_of_more_axes_are_checked_too() -> None:
    array = np.array([[[4, 0.5]], [[1, 2]]])
    assert problems(array, "cells")[0][0].startswith(
        "cells: 1 values (25 % of those not zero) are not integers, the first at row 0,"
    )


@pytest.mark.parametrize("form", [rows_of, np.asarray])
@pytest.mark.parametrize(("high", "noted"), [(20_000, []), (20_001, ["2..20001"])])
def test_b33_a_wide_span_of_library_sizes_is_noted(form: Any, high: int, noted: list[str]) -> None:
    notes = problems(form(np.array([[1, 1], [high, 0], [high - 1, 1]])), "cells")[1]
    assert notes == [
        f"cells: the sums of the rows span {s}, more than a factor of 10^4; are all rows alike?"
        for s in noted
    ]


def dense_file(path: Path, matrix: np.ndarray, **options: Any) -> Path:
    made = anndata.AnnData(matrix.astype("f4"), **options)
    made.var_names = [f"GENE{i}" for i in range(matrix.shape[1])]
    made.write_h5ad(path)
    return path


TALLY = np.random.default_rng(0).poisson(1.0, (300, 20)).astype("f4")
NORMALISED = np.log1p(TALLY / TALLY.sum(1, keepdims=True) * 1e4)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        (NORMALISED, "are not integers, the first at row 0, column"),
        (NORMALISED - NORMALISED.mean(0), "are negative, the first at row 0, column"),
        (
            np.where(np.arange(20) + np.arange(300)[:, None] == 7, -1, TALLY),
            "are negative, the first at row 0, column 7 (GENE7)",
        ),
        (
            np.where(np.arange(20) + np.arange(300)[:, None] == 9, np.nan, TALLY),
            "are NaN, the first at row 0, column 9 (GENE9)",
        ),
    ],
)
def test_what_is_no_count_in_a_file_is_refused_however_it_is_stored(
    tmp_path: Path, matrix: np.ndarray, said: str, form: Any
) -> None:
    path = tmp_path / "cells.h5ad"
    made = anndata.AnnData(form(matrix.astype("f4")))
    made.var_names = [f"GENE{i}" for i in range(20)]
    made.write_h5ad(path)
    with pytest.raises(DataError) as caught:
        prepare(path)
    assert said in str(caught.value)
    assert (
        "NaN" in said
        or "no matrix of the file holds counts; give raw counts with another --layer or file"
        in str(caught.value)
    )
    if form is np.asarray and "NaN" not in said:
        assert prepare(path, kind="real").schema.kind == "real"


def test_a_layer_that_holds_no_counts_is_not_asked_for_again(tmp_path: Path) -> None:
    path = dense_file(
        tmp_path / "cells.h5ad", TALLY, layers={"logged": sparse.csr_matrix(NORMALISED)}
    )
    with pytest.raises(
        DataError, match="counts are not in --layer logged; give raw counts with another --layer"
    ):
        prepare(path, options=Options(layer="logged"))


def test_genes_that_are_never_seen_are_named_and_bits_are_told(tmp_path: Path) -> None:
    bits = (TALLY > 0).astype("f4")
    bits[:, 7] = 0
    notes = prepare(dense_file(tmp_path / "cells.h5ad", bits)).notes
    assert any(
        "1 of 20 columns (from 0: 7 GENE7) are all zero; they are kept" in note for note in notes
    )
    assert any("holds nothing but 0 and 1, read as counts" in note for note in notes)


def test_a_sparse_matrix_of_other_numbers_is_told_to_be_made_dense() -> None:
    weights = sparse.random(200, 30, 0.1, random_state=0, format="csr")
    with pytest.raises(
        DataError, match=r"give other numbers dense: \.toarray\(\), or sparse_output=False"
    ):
        prepare(weights)
    with pytest.raises(
        DataError, match=r"give other numbers dense: X\.toarray\(\), or sparse_output=False"
    ):
        from_counts(SparseRows(weights), 0.1)
