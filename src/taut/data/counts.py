"""Counts: read from the AnnData files they come in, and checked to be counts before a model sees
them.

Counts live in many places of an AnnData file (X, raw, layers), and X is often normalised. Which
place is read is never
guessed: if X holds no counts but another place does, the person must say which is meant.
"""

from __future__ import annotations

import difflib
import math
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from taut.data.sparse import BLOCK, SparseRows, check_numbers, float_dtype, from_scipy, only_counts
from taut.system.errors import DataError, TautError, UsageError, shown
from taut.system.memory import check_fits

__all__ = [
    "SparseRows",
    "from_anndata",
    "from_scipy",
    "look_first",
    "problems",
    "read_h5ad",
    "to_obsm",
]

MAX_RATIO = 1032  # deflate cannot pack tighter, so a large array that claims more lies
Read = tuple[SparseRows | np.ndarray, np.ndarray | None, list[str], list[str]]
LOOK_SECONDS = 5
LOOK_BYTES = 10_000_000  # for each of which another second is given
LOOK_MEMORY = 2**30
FULL = 75  # exit code where that does not suffice
LOOK = """
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[2]), int(sys.argv[2])))
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[3]), int(sys.argv[3])))
except ImportError:
    pass  # not on Windows
import h5py

def look(name, item):
    for key in item.attrs:
        item.attrs[key]
    if getattr(item, "dtype", None) == object:
        item[()]

try:
    with h5py.File(sys.argv[1], "r") as file:
        look("", file)
        file.visititems(look)
except Exception as error:
    full = isinstance(error, MemoryError) or "alloc" in str(error)
    sys.exit(75 if full else 0)
"""


class _Source(NamedTuple):
    """An AnnData in memory or in a file.

    ``matrices`` are X, raw and the layers, in memory or yet to be read.
    """

    where: str
    matrices: dict[str, Any]
    obs: Any
    var_names: Any
    raw_names: Any


def read_h5ad(path: Path, *, layer: str | None = None, labels: str | None = None) -> Read:
    """Returns (counts, labels or None, names of the variables, notes) of an .h5ad file; only what
    is asked for is read.

    Args:
        path: The file.
        layer: A name in ``adata.layers``, ``"raw"`` for ``adata.raw.X``, or ``"X"`` for X whatever
            it holds. Without it, X is read, unless X holds no counts but another place does.
        labels: The column of ``adata.obs`` that labels the rows; none is guessed.

    Fails:
        UsageError: anndata is not installed, the file is missing, or has no such layer or column.
        DataError: the file is damaged, older than anndata 0.7, or must be asked for with ``layer``.
    """
    where = shown(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # anndata warns of the formats that it reads
            import anndata  # noqa: F401
            import h5py
    except ImportError as error:
        raise UsageError(
            f"{where}: needs anndata to be read; pip install 'taut[anndata]'"
        ) from error
    if not path.is_file():
        raise UsageError(f"{where}: no such file; give an .h5ad file")
    look_first(path, where)
    try:
        with warnings.catch_warnings(), h5py.File(path, "r") as file:
            warnings.simplefilter("ignore")
            file.visititems(lambda name, part: _check_size(part, f"{where}, {shown(name)}"))
            return _read(_file_source(file, where), layer, labels)
    except (TautError, MemoryError):
        raise
    except (PermissionError, BlockingIOError) as error:
        raise UsageError(f"{where}: cannot be read ({_brief(error)})") from error
    except Exception as error:  # a damaged file raises whatever h5py, anndata and pandas meet
        raise DataError(
            f"{where}: is no .h5ad file, or truncated or damaged ({_brief(error)}); download it "
            f"again"
        ) from error


def from_anndata(adata: Any, layer: str | None = None, *, labels: str | None = None) -> Read:
    """Returns (counts, labels or None, names of the variables, notes) of an AnnData object, also a
    backed one.

    Args:
        adata: The object; it is not changed.
        layer: As for ``read_h5ad``.
        labels: As for ``read_h5ad``.

    Fails:
        UsageError: there is no such layer or column.
        DataError: the place to read must be said with ``layer``, or holds no numbers.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw, raw_names = (None, ()) if adata.raw is None else (adata.raw.X, adata.raw.var_names)
        matrices = _named({"X": adata.X, "raw": raw}, adata.layers)
        return _read(
            _Source("the AnnData", matrices, adata.obs, adata.var_names, raw_names), layer, labels
        )


def to_obsm(adata: Any, embedding: Any, key: str = "X_taut") -> None:
    """Writes an embedding into ``adata.obsm[key]``.

    Args:
        adata: The AnnData object.
        embedding: One row for each row of ``adata``, in its order: an array or a tensor (N, D).
        key: The name in ``obsm``; what was there is replaced.

    Fails:
        UsageError: the embedding has another shape.
    """
    array = np.array(
        embedding.detach().cpu().numpy() if isinstance(embedding, Tensor) else embedding
    )
    if array.ndim != 2 or len(array) != adata.n_obs:
        raise UsageError(
            f"the embedding has shape {array.shape}, but ({adata.n_obs}, dimensions) is needed: "
            f"embed these very rows"
        )
    adata.obsm[key] = array


def look_first(path: Path, where: str) -> None:
    """Refuses a damaged HDF5 file in which the library goes round in circles, or fills the memory.

    No signal reaches Python there. So another process reads the names and attributes first, and all
    that has no fixed length, within so many seconds of a processor and so much memory.
    """
    size = path.stat().st_size
    limits = [LOOK_SECONDS + size // LOOK_BYTES, LOOK_MEMORY + 20 * size]
    command = [sys.executable, "-c", LOOK, str(path), *map(str, limits)]
    done = subprocess.run(command, capture_output=True, check=False)
    # What else is wrong is said where the file is read.
    if done.returncode < 0 or done.returncode == FULL:
        what = "does not end" if done.returncode < 0 else "needs more memory than it can hold"
        raise DataError(f"{where}: is damaged: reading it {what}; download it again")


def _check_size(part: Any, where: str) -> None:
    if hasattr(part, "shape"):
        claimed, held = (
            math.prod(part.shape or ()) * part.dtype.itemsize,
            part.id.get_storage_size(),
        )
        if claimed > max(2**30, MAX_RATIO * held):
            raise DataError(
                f"{where}: claims {claimed} bytes where the file holds {held}; it is damaged, "
                f"download it again"
            )


def _file_source(file: Any, where: str) -> _Source:
    from anndata.io import read_elem

    lacking = [part for part in ("obs", "var") if part not in file]
    if lacking:
        raise DataError(
            f"{where}: is an HDF5 file, but no .h5ad: it has no {' and no '.join(lacking)}; save "
            f"it with anndata"
        )
    if not all(hasattr(file[part], "keys") for part in ("obs", "var")) or "raw.X" in file:
        raise DataError(
            f"{where}: was written by an anndata before 0.7; read it with anndata.read_h5ad and "
            f"write it again"
        )
    raw = file.get("raw", {})
    matrices = _named({"X": file.get("X"), "raw": raw.get("X")}, file.get("layers", {}))
    raw_names = read_elem(raw["var"]).index if "raw" in matrices else ()
    return _Source(where, matrices, read_elem(file["obs"]), read_elem(file["var"]).index, raw_names)


def _named(places: dict[str, Any], layers: Any) -> dict[str, Any]:
    """X and raw, where there are such, and the layers; a layer called X or raw is
    hidden by them.
    """
    held = {name: matrix for name, matrix in places.items() if matrix is not None}
    return held | {name: layers[name] for name in layers if name not in held}


def _read(source: _Source, layer: str | None, labels: str | None) -> Read:
    where, obs = source.where, source.obs
    chosen = _choose(source, layer)
    counts = _load(source.matrices[chosen], f"{where}, {_place(chosen)}")
    names = [str(name) for name in (source.raw_names if chosen == "raw" else source.var_names)]
    if tuple(counts.shape) != (len(obs), len(names)):
        raise DataError(
            f"{where}, {_place(chosen)}: has shape {tuple(counts.shape)}, but there are {len(obs)} "
            f"obs_names and"
            f" {len(names)} var_names; the file is damaged, write it again"
        )
    notes = [*_repeated("obs_names", obs.index), *_repeated("var_names", names)]
    if labels is None and len(obs.columns):
        notes.append(f"obs columns: {_list(obs.columns)}")
    return counts, None if labels is None else _labels(source, labels, notes), names, notes


def _choose(source: _Source, layer: str | None) -> str:
    where, matrices = source.where, source.matrices
    others = [name for name in matrices if name != "X"]
    if layer is not None and layer not in matrices:
        nearest = difflib.get_close_matches(layer, matrices, n=1)
        hint = f"did you mean {shown(nearest[0])}? " if nearest else ""
        raise UsageError(
            f"{where}: has no layer {shown(layer)}; {hint}--layer takes one of: "
            f"{_list(matrices) or 'none'}"
        )
    if layer is None and "X" not in matrices:
        mend = (
            f"choose with --layer: {_list(others)}"
            if others
            else "and neither raw nor layers; save it with its counts"
        )
        raise DataError(f"{where}: holds no X; {mend}")
    if layer is None and not only_counts(_stored(matrices["X"])):
        counts = [name for name in others if only_counts(_stored(matrices[name]))]
        if counts:
            raise DataError(
                f"{where}: X holds no counts, but {_place(counts[0])} does; --layer "
                f"{shown(counts[0])} reads it,"
                f" --layer X reads X as it "
                f"is{'; counts are also in: ' + _list(counts[1:]) if counts[1:] else ''}"
            )
    return layer or "X"


def _stored(matrix: Any) -> Iterator[np.ndarray]:
    """The stored values of a matrix in memory or in a file, a block at a time."""
    matrix = _plain(matrix)
    return _chunks(
        matrix["data"]
        if hasattr(matrix, "keys")
        else matrix.data
        if hasattr(matrix, "tocsr")
        else matrix
    )


def _plain(matrix: Any) -> Any:
    """The numpy array of a view; the HDF5 group of what a backed AnnData wraps.

    Anything else as it is.
    """
    return (
        np.asarray(matrix) if isinstance(matrix, np.ndarray) else getattr(matrix, "group", matrix)
    )


def _chunks(data: Any) -> Iterator[Any]:
    step = max(1, BLOCK * data.shape[0] // max(1, data.size))
    return (data[start : start + step] for start in range(0, data.shape[0], step))


def _load(matrix: Any, where: str) -> SparseRows | np.ndarray:
    matrix = _plain(matrix)
    if hasattr(matrix, "file"):  # of h5py
        from anndata.io import read_elem

        parts = matrix.values() if hasattr(matrix, "keys") else [matrix]
        check_fits(sum(part.nbytes for part in parts), where, "store it sparse (CSR)")
        matrix = read_elem(matrix)
    if hasattr(matrix, "tocsr"):
        return from_scipy(matrix, where)
    array = np.asarray(matrix)
    check_numbers(array, where)
    return np.ascontiguousarray(
        array.astype(np.uint8 if array.dtype == bool else array.dtype.newbyteorder("="), copy=False)
    )


def _labels(source: _Source, column: str, notes: list[str]) -> np.ndarray:
    columns = [str(name) for name in source.obs.columns]
    if column not in columns:
        nearest = difflib.get_close_matches(column, columns, n=1)
        hint = f"did you mean {shown(nearest[0])}? " if nearest else ""
        raise UsageError(
            f"{source.where}: obs has no column {shown(column)}; {hint}--labels takes one of: "
            f"{_list(columns) or 'none'}"
        )
    values = source.obs[column]
    missing = int(values.isna().sum())
    if missing:
        notes.append(
            f"labels {shown(column)}: {missing} of {len(values)} are missing, read as 'nan'"
        )
    array = values.to_numpy()
    return (
        array
        if array.dtype.kind in "biuf"
        else values.astype(object).where(values.notna(), "nan").to_numpy().astype(str)
    )


def _repeated(what: str, names: Iterable[Any]) -> list[str]:
    repeated = {
        name: count - 1 for name, count in Counter(str(name) for name in names).items() if count > 1
    }
    more = (
        f"{what}: {sum(repeated.values())} repeat an earlier one ({_list(repeated)}); they are "
        f"told apart by number"
    )
    return [more] if repeated else []


def _place(name: str) -> str:
    return name if name in ("X", "raw") else f"layer {shown(name)}"


def _list(names: Iterable[Any]) -> str:
    names = [shown(name) for name in names]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _brief(error: Exception) -> str:
    text = shown(" ".join(str(error).split()) or type(error).__name__)
    return text if len(text) <= 200 else f"{text[:200]}..."


def problems(
    counts: SparseRows | np.ndarray, name: str, advice: str = "", columns: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Returns (problems, notes) of data of kind count, a line each, in one pass over the non-zero
    values.

    Args:
        counts: The counts (N, C), sparse or dense.
        name: What to call the data in the lines.
        advice: What to do where the numbers are no counts.
        columns: The names of the columns, if they have any.
    """
    marked: dict[str, tuple[int, str]] = {}
    stored, low, high = 0, 0.0, 0.0
    totals, row_seen, column_seen = (
        np.zeros(len(counts)),
        np.zeros(len(counts), bool),
        np.zeros(math.prod(counts.shape[1:]), bool),
    )
    for rows, columns_of, values in _nonzero(counts):
        finite = values[np.isfinite(values)]
        stored, low, high = (
            stored + len(values),
            min(low, finite.min(initial=0)),
            max(high, finite.max(initial=0)),
        )
        totals += np.bincount(rows, values, minlength=len(counts))
        row_seen[rows], column_seen[columns_of] = True, True
        for what, places in _wrong(values).items():
            if len(places):
                column = columns_of[places[0]]
                called = f" ({shown(columns[column])})" if len(columns) else ""
                count, first = marked.get(
                    what, (0, f"row {rows[places[0]]}, column {column}{called}")
                )
                marked[what] = count + len(places), first
    lines = []
    for what, (count, first) in marked.items():
        share = f"{100 * count / stored:.3g} % of those not zero"
        lines.append(
            f"{name}: {count} values ({share}) are {what}, the first at {first} (from 0); "
            f"{_mend(what, low, high, advice)}"
        )
    return lines, _notes(name, row_seen, column_seen, totals, high, columns) if not lines else []


def _nonzero(
    counts: SparseRows | np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    if isinstance(counts, SparseRows):
        yield from (
            (rows.cpu().numpy(), columns.cpu().numpy(), x.cpu().numpy())
            for rows, columns, x in counts.blocks()
        )
        return
    start = 0
    for block in _chunks(counts.reshape(len(counts), -1)):
        rows, columns = np.nonzero(block)
        yield rows + start, columns, block[rows, columns].astype(np.float64)
        start += len(block)


def _wrong(values: np.ndarray) -> dict[str, np.ndarray]:
    finite = np.isfinite(values)
    return {
        "NaN": np.flatnonzero(np.isnan(values)),
        "infinite": np.flatnonzero(np.isinf(values)),
        "negative": np.flatnonzero(finite & (values < 0)),
        "not integers": np.flatnonzero(finite & (values != np.trunc(values))),
        "too large": np.flatnonzero(finite & (np.abs(values) > _exact())),
    }


def _exact() -> int:
    """The largest integer up to which the floats of a batch hold every integer: 2^24 in float32."""
    return int(2 / torch.finfo(float_dtype()).eps)


def _mend(what: str, low: float, high: float, advice: str) -> str:
    advice = advice or "counts are needed"
    if what == "negative":
        return f"the smallest is {low:.6g}: {advice}"
    if what == "not integers":
        look = ", so they look log-normalised" if high < 20 else ""
        return f"the largest is {high:.6g}{look}: {advice}"
    if what == "too large":
        return (
            f"the largest is {high:.0f}, and only up to {_exact()} are integers exact once stored; "
            f"drop the columns"
        )
    return "counts cannot be missing or infinite, so drop the rows or the columns"


def _notes(
    name: str,
    row_seen: np.ndarray,
    column_seen: np.ndarray,
    totals: np.ndarray,
    high: float,
    columns: Sequence[str],
) -> list[str]:
    lines = []
    if high == 1:
        more = "which give mass to 2 and more; a dense array of them is modelled as bits"
        lines.append(f"{name}: holds nothing but 0 and 1, read as counts, {more}")
    for what, seen in (("rows", row_seen), ("columns", column_seen)):
        if not seen.all():
            empty = np.flatnonzero(~seen)
            called = [
                f"{i} {shown(columns[i])}" if what == "columns" and len(columns) else str(i)
                for i in empty[:10]
            ]
            first = ", ".join(called) + (", ..." if len(empty) > 10 else "")
            lines.append(
                f"{name}: {len(empty)} of {len(seen)} {what} (from 0: {first}) are all zero; they "
                f"are kept"
            )
    least, most = totals[row_seen].min(initial=np.inf), totals.max(initial=0)
    if most > 1e4 * least:
        lines.append(
            f"{name}: the sums of the rows span {least:.0f}..{most:.0f}, more than a factor of "
            f"10^4; are all rows alike?"
        )
    return lines
