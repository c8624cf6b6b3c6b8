"""Data as the user handed them over, and what a model makes of them in the same kind: frames with
their names, index and types, arrays with their shape and type, an AnnData as a copy.

Where no frame was handed over (a file, the held-out rows, samples), a table is a frame of the
library that the model was trained on in this session, else of pandas where that is installed, else
of Arrow.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taut.data import New, Schema, fill
from taut.data.h5ad import to_obsm
from taut.data.in_memory import completed, given_back, without_rows
from taut.data.schema import told_apart
from taut.data.tables.frames import from_frame
from taut.system.errors import UsageError
from taut.use.export import shortest

__all__ = ["Handed", "ids_of", "library_of", "made"]

FRAMES = ("pandas", "polars", "pyarrow")
LIBRARIES = ("pandas", "polars", "pyarrow", "anndata", "torch", "numpy")
NO_GAPS = "counts have no missing entries: there is nothing to impute; reconstruct smooths them"


def library_of(source: Any) -> str:
    """Returns the library of a frame, an array or an AnnData; empty for anything else."""
    for each in type(source).__mro__:
        name = each.__module__.partition(".")[0]
        if name in LIBRARIES:
            return name
    if hasattr(source, "__arrow_c_stream__"):
        return "pyarrow"
    return ""


def made(values: Tensor, schema: Schema, like: Any = None, *, mean: bool = False) -> Any:
    r"""Returns rows that a model made, (N, \*event): a frame of a table, else an array.

    Args:
        values: The rows.
        schema: What a row is.
        like: A frame without rows, of the library and with the types that are wanted.
        mean: Whether they are means, which need not be whole numbers.
    """
    if schema.kind == "table":
        return _frame_of_codes(shortest(values), schema, like)
    array = values.numpy()
    if mean or not schema.discrete:
        return array
    if schema.kind != "count" and schema.low >= 0 and schema.high <= 255:
        return array.astype(np.uint8)
    return array.astype(np.int64)


@dataclass(eq=False)
class Handed:
    """What the user handed over.

    Args:
        source: A frame, an array, an AnnData, the name of a file; None for the held-out rows.
        new: The same, coded for the model.
        schema: What a row is.
        like: The columns of the frame that the model was trained on, if it was one.
    """

    source: Any
    new: New
    schema: Schema
    like: Any = None

    def named(self, columns: Mapping[str, Any], prefix: str = "") -> Any:
        """Returns numbers with a name each, (N,) by column: a frame with the index of the source
        and its ids, a record array, or a copy of an AnnData with them in ``obs``.

        Args:
            columns: The numbers.
            prefix: Of their names in an AnnData.
        """
        plain = {name: _array(values) for name, values in columns.items()}
        if library_of(self.source) == "anndata":
            result = _copied(self.source)
            for name, values in plain.items():
                result.obs[f"{prefix}{name}"] = values
            return result
        if self.schema.kind == "table":
            own = library_of(self.source) == "pandas"  # a str has a method of that name
            ids = self._ids()
            titles = told_apart([*ids, *plain])  # a row may be named by a column called z0
            columns = dict(zip(titles, [*ids.values(), *plain.values()], strict=True))
            return _frame(columns, self._library, self.source.index if own else None)
        types = [(name, values.dtype) for name, values in plain.items()]
        return np.rec.fromarrays(list(plain.values()), dtype=types)

    def embedding(self, z: Tensor, names: Sequence[str], key: str = "X_taut") -> Any:
        """Returns a point for each row, (N, D): a frame, an array or a tensor, or a copy of an
        AnnData with them in ``obsm``.
        """
        if library_of(self.source) == "anndata":
            result = _copied(self.source)
            to_obsm(result, z, key)
            return result
        if self.schema.kind == "table":
            return self.named({name: z[:, i] for i, name in enumerate(names)})
        if isinstance(self.source, Tensor):
            return z.to(self.source.device)
        return z.numpy()

    def rows(self, values: Tensor, *, mean: bool, layer: str = "taut") -> Any:
        r"""Returns rows like those of the source, (N, \*event): a frame of its columns and types,
        an array of its shape, or a copy of an AnnData with them in a layer.
        """
        source = self.source
        if library_of(source) == "anndata":
            if values.shape[1] != source.n_vars:
                raise UsageError(
                    f"the model is of the {values.shape[1]} genes of .raw, and layers are for "
                    f"{source.n_vars}: give adata.raw.to_adata()"
                )
            result = _copied(source)
            result.layers[layer] = values.numpy()
            return result
        if self.schema.kind == "table":
            return self._table_rows(values)
        if isinstance(source, Tensor | np.ndarray):
            return _like_array(values, source, whole=self.schema.discrete and not mean)
        return made(values, self.schema, mean=mean)

    def filled(self, values: Tensor) -> Any:
        r"""Returns the source with its missing entries from values, (N, \*event)."""
        source, table = self.source, self.new.table
        if self.schema.kind == "count" or library_of(source) == "anndata":
            raise UsageError(NO_GAPS)
        if table is not None:
            whole, _ = fill(table, shortest(values), self.schema)
            if from_frame(source) is None:  # the name of a file
                return _of_arrow(whole, self._library)
            return completed(source, table, whole)
        if isinstance(source, Tensor):
            whole = values.reshape(source.shape).to(source)
            return torch.where(source.isnan(), whole, source)
        if isinstance(source, np.ndarray):
            result = source.copy()
            if source.dtype.kind == "f":
                gaps = np.isnan(source)
                result[gaps] = values.reshape(source.shape).numpy()[gaps]
            return result
        return made(values, self.schema, self.like, mean=True)

    @property
    def _library(self) -> str:
        own = library_of(self.source)
        if own in FRAMES:
            return own
        return _usual_library(self.like)

    def _ids(self) -> dict[str, Any]:
        """Returns the columns of a table that name its rows, as they came."""
        ids = ids_of(self.new, self.schema)
        if library_of(self.source) == "pandas":
            places = list(map(str, self.source.columns))
            return {name: self.source.iloc[:, places.index(name)].array for name in ids}
        return ids

    def _table_rows(self, values: Tensor) -> Any:
        """Returns codes as a frame of the columns that the source has of the table."""
        table = self.new.table
        if table is None or from_frame(self.source) is None:
            return _frame_of_codes(shortest(values), self.schema, self.like)
        places = {name: i for i, name in enumerate(table.column_names)}
        columns = tuple(c for c in self.schema.columns if c.name in places)
        index = [places[c.name] for c in columns]
        like: Any = self.source
        if library_of(like) == "pandas":
            like = like.iloc[:, index]
        else:
            like = like.select([c.name for c in columns])
        types = table.select(index).schema.types
        frame = given_back(
            shortest(values), replace(self.schema, columns=columns), without_rows(like), types
        )
        return self._with_ids(frame)

    def _with_ids(self, frame: Any) -> Any:
        ids, library = self._ids(), library_of(self.source)
        if library == "pandas":
            for name, values in ids.items():
                frame.isetitem(list(map(str, frame.columns)).index(name), values)
            frame.index = self.source.index
        elif library == "polars":
            frame = frame.with_columns(**{name: self.source.get_column(name) for name in ids})
        else:
            for name, values in ids.items():
                frame = frame.set_column(frame.column_names.index(name), name, values)
        return frame


def ids_of(new: New, schema: Schema) -> dict[str, Any]:
    """Returns the columns of a table that name its rows, as Arrow columns, or the names of cells;
    none of other data.
    """
    table = new.table
    if table is None:
        return {} if new.names is None else {"cell": new.names}
    names = {c.name for c in schema.columns if c.rules.names_rows}
    return {name: table.column(i) for i, name in enumerate(table.column_names) if name in names}


def _array(values: Any) -> Any:
    return np.asarray(values)


def _copied(adata: Any) -> Any:
    if adata.isbacked:
        return adata.to_memory()
    return adata.copy()


def _like_array(values: Tensor, source: Any, *, whole: bool) -> Any:
    """Returns values in the shape of an array, and in its type if that can hold them."""
    shaped = values.reshape(source.shape)
    if isinstance(source, Tensor):
        if whole or source.is_floating_point():
            return shaped.to(source)
        return shaped.to(source.device)
    array = shaped.numpy()
    if whole or source.dtype.kind == "f":
        return array.astype(source.dtype)
    return array


def _usual_library(like: Any) -> str:
    own = library_of(like)
    if own in FRAMES:
        return own
    if importlib.util.find_spec("pandas"):
        return "pandas"
    return "pyarrow"


def _frame(columns: Mapping[str, Any], library: str, index: Any = None) -> Any:
    """Returns a frame of a library from arrays, or Arrow columns, by name."""
    if library == "pyarrow":
        import pyarrow as pa

        return pa.table(dict(columns))
    if library == "polars":
        import polars

        return polars.DataFrame(dict(columns))
    import pandas

    values = {k: v.to_pandas() if hasattr(v, "to_pandas") else v for k, v in columns.items()}
    return pandas.DataFrame(values, index=index)


def _of_arrow(table: Any, library: str) -> Any:
    if library == "polars":
        import polars

        return polars.from_arrow(table)
    if library == "pandas":
        return table.to_pandas()
    return table


def _frame_of_codes(codes: np.ndarray, schema: Schema, like: Any) -> Any:
    """Returns the frame of codes that a model made; without an example of the types of its columns
    those that Arrow gives them.
    """
    import pyarrow as pa

    if like is not None:
        types: Any = from_frame(like)
        return given_back(codes, schema, like, types.schema.types)
    plain = given_back(codes, schema, pa.table({}), [pa.null()] * len(schema.columns))
    return _of_arrow(plain, _usual_library(None))
