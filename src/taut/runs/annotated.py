"""An AnnData for results: the user's own with all that is in it, or one of the names that are
known of its cells and genes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from taut.data import New, Schema
from taut.data.schema import told_apart
from taut.system.errors import UsageError
from taut.system.storage import write_bytes

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["annotated", "sampled", "write_h5ad"]


def annotated(source: str | None, new: New, schema: Schema) -> AnnData:
    """Returns the AnnData of a file that was read, or one of its counts, cells and genes.

    Args:
        source: The name of the file; None for the rows that a run held out.
        new: Its rows.
        schema: What a row is.
    """
    anndata = _anndata()
    if source is not None and Path(source).suffix.lower() == ".h5ad":
        return anndata.read_h5ad(source)
    counts = _sparse(new.rows, schema)
    obs = {c.name: _levels(new.rows, i, c) for i, c in _given(schema)}
    return _made(counts, schema, obs, new.names)


def sampled(values: Tensor, schema: Schema, given: Mapping[str, Any]) -> AnnData:
    """Returns rows that a model made, (N, C), with the names of its columns and what was given."""
    obs = {name: np.full(len(values), str(value), object) for name, value in given.items()}
    return _made(_sparse(values, schema), schema, obs, None)


def write_h5ad(adata: AnnData, out: Path) -> None:
    """Writes an .h5ad file, whole or not at all."""
    import h5py
    from anndata.io import write_elem

    adata.strings_to_categoricals()
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        write_elem(file, "/", adata)
    write_bytes(out, buffer.getvalue())


def _anndata() -> Any:
    try:
        import anndata
    except ImportError as error:
        raise UsageError("an .h5ad file needs anndata: pip install 'taut[anndata]'") from error
    return anndata


def _made(x: Any, schema: Schema, obs: Mapping[str, Any], names: Any) -> AnnData:
    anndata = _anndata()
    import pandas

    cells = names if names is not None else np.arange(x.shape[0])
    frame = pandas.DataFrame(dict(obs), index=pandas.Index(np.asarray(cells).astype(str)))
    genes = pandas.DataFrame(index=pandas.Index(told_apart(schema.names) or schema.element_names))
    made: AnnData = anndata.AnnData(x, frame, genes)
    return made


def _sparse(rows: Any, schema: Schema) -> Any:
    """Returns rows without what is given, as a sparse matrix of counts or an array of numbers."""
    from scipy.sparse import csr_matrix, vstack

    own = slice(None) if not schema.context else slice(len(schema.rest))
    parts = [part[:, own].numpy() for part in rows.split(4096)]
    if schema.kind == "count":
        return vstack([csr_matrix(part) for part in parts], format="csr")
    return np.concatenate(parts)


def _given(schema: Schema) -> list[tuple[int, Any]]:
    return list(zip(schema.given, schema.context, strict=False))


def _levels(rows: Any, place: int, column: Any) -> np.ndarray:
    """Returns the levels of a column of the context, (N,)."""
    codes = np.concatenate([part[:, place].numpy() for part in rows.split(4096)])
    return np.array(column.levels, object)[codes.astype(np.int64)]
