"""Data in a program's memory: prepared for training, however few rows there are, and returned in
their own form.

``prepare`` is for files: it wants ten rows and refuses a constant column. Here both are accepted: a
program tries small pieces, and columns that do not vary in one of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from taut.data.counts import problems as count_problems
from taut.data.dataset import MIN_ROWS, Dataset
from taut.data.problems import problems
from taut.data.schema import Kind, Schema, infer, listing
from taut.data.sparse import SparseRows
from taut.data.split import Copies, copies_of, fingerprint, row_hashes, split_hashes
from taut.data.tables.column import Column
from taut.data.tables.numeric_notes import number_notes
from taut.data.tables.prepare import Asked, prepare_tables, to_table
from taut.data.tables.words import float_storage
from taut.system.errors import DataError

__all__ = [
    "MIN_TRAIN",
    "as_table",
    "completed",
    "from_array",
    "from_counts",
    "from_table",
    "given_back",
    "without_rows",
]

MIN_TRAIN = 2


def from_table(table: Any, asked: Asked, validation: float) -> Dataset:
    """Returns the data of an Arrow table, with a share held out for validation unless there are
    fewer than 10 rows.
    """
    shares = (_share(table.num_rows, validation), 0.0)
    made = prepare_tables([table], ["X"], asked, shares, MIN_TRAIN)
    return _dataset(made.schema, made.parts, made.notes, made.fingerprint, made.copies)


def from_counts(counts: SparseRows, validation: float) -> Dataset:
    """Returns the data of sparse counts, likewise."""
    advice = (
        "a sparse X holds counts; give other numbers dense: X.toarray(), or sparse_output=False "
        "where it was made"
    )
    wrong, notes = count_problems(counts, "X, which is sparse", advice)
    if wrong:
        raise DataError(wrong)
    hashes, shares = counts.row_hashes(), (_share(len(counts), validation), 0.0)
    copies = copies_of(hashes, *shares, None, by_nature=True)
    parts = split_hashes(hashes, *shares, copies.most)
    schema = Schema("count", counts.shape[1:], 0.0, counts.largest())
    rows = [counts.subset(part) for part in parts]
    return _dataset(schema, rows, [*notes, *copies.notes], counts.fingerprint(), copies)


def from_array(
    array: np.ndarray, kind: Kind | None, levels: tuple[int, int] | None, validation: float
) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """Returns the data of an array (N, C), a mask of the columns they hold, (C,), and the smallest
    value of each column, (C,), which is the value of a constant one.

    A column of real numbers that is constant in the training rows is omitted: its density would
    have no bound.

    Raises:
        DataError: a value cannot be learnt from, or every column is constant.
    """
    schema = infer(array, kind, levels)
    hashes, shares = row_hashes(array), (_share(len(array), validation), 0.0)
    copies = copies_of(hashes, *shares, None, by_nature=schema.discrete)
    parts = split_hashes(hashes, *shares, copies.most)
    low, high = (f.reduce(array[parts[0]], 0) for f in (np.fmin, np.fmax))
    kept = (low != high) | schema.discrete
    if not kept.any():
        raise DataError(
            "X: every column is constant in training, there is nothing to learn; check how it was "
            "made"
        )
    notes = []
    if not kept.all():
        notes.append(f"columns (from 0) {listing(np.flatnonzero(~kept))} are constant, omitted")
    if len(copies.divided):
        notes += copies.notes
    if array.dtype.kind == "f" and schema.discrete:
        notes.append(
            f"integers stored as {array.dtype}, read as {schema.kind}; kind='real' reads them as "
            f"real numbers"
        )
    array = array[:, kept]
    schema = infer(array, schema.kind, levels)
    for rows, name in ((array, "X"), (array[parts[0]], "X, its training rows")):
        if wrong := problems(rows, schema, name, MIN_TRAIN):
            raise DataError(wrong)
    stored = array.astype(float_storage())
    tensors = [torch.from_numpy(stored[part]) for part in parts]
    return _dataset(schema, tensors, notes, fingerprint(array), copies), kept, low


def _share(rows: int, validation: float) -> float:
    return validation if rows >= MIN_ROWS else 0.0


def _dataset(
    schema: Schema, parts: Sequence[Any], notes: Sequence[str], mark: str, copies: Copies
) -> Dataset:
    train, validation, test = parts
    return Dataset(
        schema=schema,
        train=train,
        validation=validation,
        test=test,
        train_labels=None,
        validation_labels=None,
        test_labels=None,
        notes=(*notes, *number_notes(train, schema)),
        fingerprint=mark,
        name="",
        binarize="none",
        divided=copies.divided,
    )


def as_table(array: np.ndarray, columns: Sequence[Column]) -> Any:
    """Returns an array (N, C) with the content of a table of these columns as such a table."""
    import pyarrow as pa

    cells = [array[:, i] for i in range(len(columns))]
    if array.dtype == object:
        cells = [values.tolist() for values in cells]
    arrays = [pa.array(values, from_pandas=True) for values in cells]
    return pa.table(arrays, names=[column.name for column in columns])


def without_rows(frame: Any) -> Any:
    """Returns a frame with the same columns and types, and no rows."""
    if hasattr(frame, "iloc"):
        return frame.iloc[:0].reset_index(drop=True)
    if type(frame).__module__.partition(".")[0] == "polars":
        return frame.clear()
    return None


def given_back(values: np.ndarray, schema: Schema, like: Any, types: Any) -> Any:
    """Returns codes (N, C) that a model made as a frame with all columns of the source; ids are
    missing, constants have their value.

    A column has the type of the source's column if that can hold its values: a count beyond a uint8
    stays an int64.

    Args:
        values: The codes of the modelled columns.
        schema: The schema of the table.
        like: The source without its rows, of pandas, polars or Arrow.
        types: The Arrow types as which its columns were read.
    """
    import pyarrow as pa

    made = to_table(values, schema.written)
    written = dict(zip(made.column_names, made.columns, strict=True))
    parts = {
        c.name: written[c.name] if c.name in written else _not_modelled(c, len(values))
        for c in schema.columns
    }
    library, table = type(like).__module__.partition(".")[0], pa.table(parts)
    if library == "polars":
        return _of_polars(table, like)
    if library == "pandas":
        types = [_any_decimal(kind) for kind in types]
    columns = [_cast(c, c.cast, kind) for c, kind in zip(table.columns, types, strict=True)]
    if library == "pandas":
        return _of_pandas(columns, like)
    return pa.table(columns, names=table.column_names)


def _any_decimal(kind: Any) -> Any:
    """Returns an Arrow type, widened if it is a decimal: pandas' have any number of digits."""
    import pyarrow as pa

    if pa.types.is_decimal(kind):
        return pa.decimal128(38, kind.scale)
    return kind


def _of_polars(table: Any, like: Any) -> Any:
    import polars

    frame: Any = polars.from_arrow(table)
    columns = zip(frame.get_columns(), frame.columns, like.dtypes, strict=True)
    return frame.with_columns(
        [_cast(series, series.cast, kind).alias(name) for series, name, kind in columns]
    )


def _of_pandas(columns: Sequence[Any], like: Any) -> Any:
    import pandas

    series = [_as_series(c, kind) for c, kind in zip(columns, like.dtypes, strict=True)]
    frame = pandas.concat(series, axis=1)
    frame.columns = like.columns
    return frame


def _cast(column: Any, cast: Callable[[Any], Any], kind: Any) -> Any:
    """Returns a column of another type, or as it is if that type cannot hold its values."""
    if str(kind).lower() == "null":  # the type of a column without values, which is an id
        return column
    impossible: tuple[type[Exception], ...] = (
        ValueError,
        TypeError,
        NotImplementedError,
        *_errors_of_polars(),
    )
    try:
        return cast(kind)
    except impossible:
        return column


def _levels(categories: Any) -> dict[Any, Any]:
    """Returns the levels of a pandas Categorical, also by their texts, as which they are read if
    they are neither text nor numbers.
    """
    return {str(level): level for level in categories} | {level: level for level in categories}


def _errors_of_polars() -> tuple[type[Exception], ...]:
    polars: Any = sys.modules.get("polars")
    if polars is None:
        return ()
    return (polars.exceptions.PolarsError,)


def _as_series(column: Any, kind: Any) -> Any:
    """Returns an Arrow column as a series of a pandas type, if that can hold it."""
    import pandas

    if hasattr(column.type, "value_type"):
        column = column.cast(column.type.value_type)
    series = column.to_pandas()
    if series.dtype == kind or (str(kind) == "object" and series.dtype.kind not in "iufb"):
        return series
    if isinstance(kind, pandas.CategoricalDtype):
        levels = _levels(kind.categories)
        values = [levels.get(value) for value in column.to_pylist()]
        return pandas.Series(pandas.Categorical(values, dtype=kind))
    made = _cast(series, series.astype, kind)
    whole = made.dtype.kind in "iu" and series.dtype.kind in "iuf"
    if whole and not bool((made == series).fillna(True).all()):
        return series  # numpy wraps numbers that are too large
    return made


def _not_modelled(column: Column, rows: int) -> Any:
    import pyarrow as pa

    if column.kind == "id":
        return pa.nulls(rows, pa.string())
    if column.levels:
        value: Any = column.levels[0]
        if column.type == "bool":
            value = value.lower() == "true"
        return pa.array([value] * rows)
    kind = "date" if column.type.startswith(("date", "timestamp")) else "real"
    return to_table(np.full((rows, 1), column.low), [replace(column, kind=kind)]).column(0)


def completed(frame: Any, table: Any, filled: Any) -> Any:
    """Returns a frame with those cells of ``filled`` that differ from ``table``, as which the frame
    was read.

    The types of its columns stay, and so does every other cell, bit for bit.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    library = type(frame).__module__.partition(".")[0]
    if library == "polars":
        import polars

        types = {name: kind for name, kind in frame.schema.items() if kind != polars.Null}
        return polars.DataFrame(filled).cast(types)
    if library != "pandas":
        return filled
    result = frame.copy()
    for i in range(table.num_columns):
        old, new = table.column(i), filled.column(i)
        if pa.types.is_float16(new.type):  # Arrow cannot compare them
            new = new.cast(pa.float32())
        if old.equals(new):
            continue
        same = pc.equal(old.cast(new.type), new).fill_null(False)
        rows = np.flatnonzero(~same.to_numpy())
        made, column = new.take(rows).to_pylist(), result.iloc[:, i]
        if hasattr(column, "sparse"):  # a sparse column takes no new values
            dense = column.sparse.to_dense()
            dense.iloc[rows] = made
            result.isetitem(i, dense.astype(column.dtype))
        else:
            levels = _levels(column.cat.categories) if hasattr(column, "cat") else {}
            result.iloc[rows, i] = [levels.get(value, value) for value in made]
    return result
