"""AnnData, in memory and in .h5ad files: the counts of cells and genes.

Counts live in many places of an AnnData (X, raw, layers), and X is often normalised. The place to
read is never guessed: if X does not hold counts but another place does, the user must name it.
"""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from taut.data.counts import pieces
from taut.data.sparse import SparseRows, check_numbers, from_scipy, only_counts
from taut.system.errors import DataError, TautError, UsageError, and_more, did_you_mean, shown
from taut.system.memory import check_fits

__all__ = ["from_anndata", "look_first", "read_h5ad", "to_obsm"]

MAX_RATIO = 1032  # deflate cannot pack tighter, so a large array that claims more lies
Read = tuple[SparseRows | np.ndarray, np.ndarray | None, list[str], list[str], Any]
LOOK_SECONDS = 5
LOOK_BYTES = 10_000_000  # for each of these another second is given
LOOK_MEMORY = 2**30
FULL = 75  # exit code if that memory does not suffice
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
    """An AnnData in memory or in a file; ``matrices`` are X, raw and the layers, perhaps not read
    yet.
    """

    where: str
    matrices: dict[str, Any]
    obs: Any
    var_names: Any
    raw_names: Any


def read_h5ad(path: Path, *, layer: str | None = None, labels: str | None = None) -> Read:
    """Returns (counts, labels or None, names of the variables, notes, obs) of an .h5ad file;
    nothing else in it is read.

    Args:
        path: The file.
        layer: A name in ``adata.layers``, ``"raw"`` for ``adata.raw.X``, or ``"X"`` for X whatever
            it holds. By default X, unless only another place holds counts.
        labels: The column of ``adata.obs`` that labels the rows; none is guessed.

    Raises:
        UsageError: anndata is not installed, the file is missing, or has no such layer or column.
        DataError: the file is damaged, older than anndata 0.7, or must be asked for with ``layer``.
    """
    where = shown(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # anndata warns about the formats that it reads
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
            f"{where}: is not an .h5ad file, or truncated or damaged ({_brief(error)}); download "
            f"it again"
        ) from error


def from_anndata(adata: Any, layer: str | None = None, *, labels: str | None = None) -> Read:
    """Returns (counts, labels or None, names of the variables, notes, obs) of an AnnData object,
    also a backed one.

    Args:
        adata: The object; it is not changed.
        layer: As for ``read_h5ad``.
        labels: As for ``read_h5ad``.

    Raises:
        UsageError: there is no such layer or column.
        DataError: the place to read must be named with ``layer``, or does not hold numbers.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw, raw_names = None, adata.var_names  # those of a layer that is called raw
        if adata.raw is not None:
            raw, raw_names = adata.raw.X, adata.raw.var_names
        matrices = _named({"X": adata.X, "raw": raw}, adata.layers)
        source = _Source("the AnnData", matrices, adata.obs, adata.var_names, raw_names)
        return _read(source, layer, labels)


def to_obsm(adata: Any, embedding: Any, key: str = "X_taut") -> None:
    """Writes an embedding into ``adata.obsm[key]``.

    Args:
        adata: The AnnData object.
        embedding: One row for each row of ``adata``, in its order: an array or a tensor (N, D).
        key: The name in ``obsm``; what was there is replaced.

    Raises:
        UsageError: the embedding has another shape.
    """
    if isinstance(embedding, Tensor):
        embedding = embedding.detach().cpu().numpy()
    array = np.array(embedding)
    if array.ndim != 2 or len(array) != adata.n_obs:
        raise UsageError(
            f"the embedding has shape {array.shape}, but ({adata.n_obs}, dimensions) is needed: "
            f"embed these very rows"
        )
    adata.obsm[key] = array


def look_first(path: Path, where: str) -> None:
    """Refuses a damaged HDF5 file on which the library would loop for ever, or fill the memory.

    No signal reaches Python there. So another process first reads names, attributes and values
    without a fixed length, within limits of processor seconds and memory.

    Raises:
        DataError: it needs more.
    """
    size = path.stat().st_size
    limits = [LOOK_SECONDS + size // LOOK_BYTES, LOOK_MEMORY + 20 * size]
    command = [sys.executable, "-c", LOOK, str(path), *map(str, limits)]
    done = subprocess.run(command, capture_output=True, check=False)
    # Any other fault is reported when the file is read.
    if done.returncode < 0 or done.returncode == FULL:
        needs = "does not end" if done.returncode < 0 else "needs more memory than it can hold"
        raise DataError(f"{where}: is damaged: reading it {needs}; download it again")


def _check_size(part: Any, where: str) -> None:
    if not hasattr(part, "shape"):
        return
    claimed = math.prod(part.shape or ()) * part.dtype.itemsize
    held = part.id.get_storage_size()
    if claimed > max(2**30, MAX_RATIO * held):
        raise DataError(
            f"{where}: claims {claimed} bytes where the file holds {held}; it is damaged, download "
            f"it again"
        )


def _file_source(file: Any, where: str) -> _Source:
    from anndata.io import read_elem

    lacking = [part for part in ("obs", "var") if part not in file]
    if lacking:
        raise DataError(
            f"{where}: is an HDF5 file, but not an .h5ad: it has no {' and no '.join(lacking)}; "
            f"save it with anndata"
        )
    if not all(hasattr(file[part], "keys") for part in ("obs", "var")) or "raw.X" in file:
        raise DataError(
            f"{where}: was written by an anndata before 0.7; read it with anndata.read_h5ad and "
            f"write it again"
        )
    raw = file.get("raw", {})
    matrices = _named({"X": file.get("X"), "raw": raw.get("X")}, file.get("layers", {}))
    names = raw_names = read_elem(file["var"]).index
    if "X" in raw:  # else a layer may be called raw
        raw_names = read_elem(raw["var"]).index
    return _Source(where, matrices, read_elem(file["obs"]), names, raw_names)


def _named(places: dict[str, Any], layers: Any) -> dict[str, Any]:
    """Returns X and raw, if they exist, and the layers; X and raw hide layers of those names."""
    held = {name: matrix for name, matrix in places.items() if matrix is not None}
    return held | {name: layers[name] for name in layers if name not in held}


def _read(source: _Source, layer: str | None, labels: str | None) -> Read:
    where, obs = source.where, source.obs
    chosen = _choose(source, layer)
    counts = _load(source.matrices[chosen], f"{where}, {_place(chosen)}")
    columns = source.var_names
    if chosen == "raw":
        columns = source.raw_names
    names = [str(name) for name in columns]
    if tuple(counts.shape) != (len(obs), len(names)):
        raise DataError(
            f"{where}, {_place(chosen)}: has shape {tuple(counts.shape)}, but there are {len(obs)} "
            f"obs_names and {len(names)} var_names; the file is damaged, write it again"
        )
    notes = [*_repeated("obs_names", obs.index), *_repeated("var_names", names)]
    if labels is not None:
        return counts, _labels(source, labels, notes), names, notes, obs
    if len(obs.columns):
        notes.append(f"obs columns: {_list(obs.columns)}")
    return counts, None, names, notes, obs


def _choose(source: _Source, layer: str | None) -> str:
    """Returns the name of the matrix to read."""
    where, matrices = source.where, source.matrices
    if layer is not None:
        if layer not in matrices:
            hint = _hint(layer, matrices, "--layer")
            raise UsageError(f"{where}: has no layer {shown(layer)}; {hint}")
        return layer
    others = [name for name in matrices if name != "X"]
    if "X" not in matrices:
        remedy = "and neither raw nor layers; save it with its counts"
        if others:
            remedy = f"choose with --layer: {_list(others)}"
        raise DataError(f"{where}: holds no X; {remedy}")
    if not only_counts(_stored(matrices["X"])):
        counts = [name for name in others if only_counts(_stored(matrices[name]))]
        if counts:
            first, *further = counts
            also = f"; counts are also in: {_list(further)}" if further else ""
            raise DataError(
                f"{where}: X holds no counts, but {_place(first)} does; --layer {shown(first)} "
                f"reads it, --layer X reads X as it is{also}"
            )
    return "X"


def _hint(word: str, known: Iterable[str], option: str) -> str:
    """Returns the known word nearest to a wrong one, as a question, and all that are known."""
    words = list(known)
    return f"{did_you_mean(word, words)}{option} takes one of: {_list(words) or 'none'}"


def _stored(matrix: Any) -> Iterator[np.ndarray]:
    """Returns the stored values of a matrix in memory or in a file, a block at a time."""
    matrix = _plain(matrix)
    if hasattr(matrix, "keys"):  # a sparse matrix in a file
        return pieces(matrix["data"])
    if hasattr(matrix, "tocsr"):
        return pieces(matrix.data)
    return pieces(matrix)


def _plain(matrix: Any) -> Any:
    """Returns the numpy array of a view, the HDF5 group within a backed AnnData's matrix, or any
    other matrix itself.
    """
    if isinstance(matrix, np.ndarray):
        return np.asarray(matrix)
    return getattr(matrix, "group", matrix)


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
    if array.dtype == bool:
        array = array.astype(np.uint8)
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))


def _labels(source: _Source, column: str, notes: list[str]) -> np.ndarray:
    columns = [str(name) for name in source.obs.columns]
    if column not in columns:
        hint = _hint(column, columns, "labels")
        raise UsageError(f"{source.where}: obs has no column {shown(column)}; {hint}")
    values = source.obs[column]
    missing = int(values.isna().sum())
    if missing:
        notes.append(
            f"labels {shown(column)}: {missing} of {len(values)} are missing, read as 'nan'"
        )
    array = values.to_numpy()
    if array.dtype.kind in "biuf":
        return array
    return values.astype(object).where(values.notna(), "nan").to_numpy().astype(str)


def _repeated(kind: str, names: Iterable[Any]) -> list[str]:
    times = Counter(str(name) for name in names)
    repeated = [name for name, count in times.items() if count > 1]
    if not repeated:
        return []
    copies = times.total() - len(times)
    return [
        f"{kind}: {copies} repeat an earlier one ({_list(repeated)}); they are told apart by number"
    ]


def _place(name: str) -> str:
    if name in ("X", "raw"):
        return name
    return f"layer {shown(name)}"


def _list(names: Iterable[Any]) -> str:
    names = [shown(name) for name in names]
    return ", ".join(names[:20]) + and_more(names, 20)


def _brief(error: Exception) -> str:
    text = shown(" ".join(str(error).split()) or type(error).__name__)
    if len(text) <= 200:
        return text
    return f"{text[:200]}..."
