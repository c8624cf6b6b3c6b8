"""Data as a program holds them: understood for a training in memory, however few rows there are,
and given back as they came.

``prepare`` is for a person's files: it wants ten rows and refuses a constant column. Here both are
expected: a program tries small pieces, and columns that do not vary in one of them.
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
from taut.data.schema import Kind, Schema, infer, listing, problems
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
    """Returns the data of an Arrow table, a share held out for validation unless there are fewer
    than 10 rows.
    """
    made = prepare_tables(
        [table], ["X"], asked, (_share(table.num_rows, validation), 0.0), MIN_TRAIN
    )
    return _dataset(made.schema, made.parts, made.notes, made.fingerprint, made.copies)


def from_counts(counts: SparseRows, validation: float) -> Dataset:
    """Returns the data of sparse counts, likewise."""
    dense = (
        "a sparse X holds counts; give other numbers dense: X.toarray(), or sparse_output=False "
        "where it was made"
    )
    wrong, notes = count_problems(counts, "X, which is sparse", dense)
    if wrong:
        raise DataError(wrong)
    hashes, shares = counts.row_hashes(), (_share(len(counts), validation), 0.0)
    copies = copies_of(hashes, *shares, None, by_nature=True)
    parts = split_hashes(hashes, *shares, copies.most)
    schema = Schema("count", counts.shape[1:], 0.0, counts.largest())
    told = [*notes, *copies.notes]
    return _dataset(
        schema, [counts.subset(part) for part in parts], told, counts.fingerprint(), copies
    )


def from_array(
    array: np.ndarray, kind: Kind | None, levels: tuple[int, int] | None, validation: float
) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """Returns the data of an array (N, C), which columns they hold, (C,), and the value of those
    that are constant, (C,).

    A column of real numbers that is constant in the training rows is left out: its density would
    have no bound.
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
    notes = (
        [f"columns (from 0) {listing(np.flatnonzero(~kept))} are constant, left out"]
        if not kept.all()
        else []
    )
    notes += copies.notes if len(copies.divided) else []
    if array.dtype.kind == "f" and schema.discrete:
        notes.append(
            f"integers stored as {array.dtype}, read as {schema.kind}; kind='real' reads them as "
            f"real numbers"
        )
    array = array[:, kept]
    schema = infer(array, schema.kind, levels)
    wrong = problems(array, schema, "X", MIN_TRAIN) or problems(
        array[parts[0]], schema, "X, its training rows", MIN_TRAIN
    )
    if wrong:
        raise DataError(wrong)
    stored = array.astype(float_storage())
    rows = [torch.from_numpy(stored[part]) for part in parts]
    return _dataset(schema, rows, notes, fingerprint(array), copies), kept, low


def _share(rows: int, validation: float) -> float:
    return validation if rows >= MIN_ROWS else 0.0


def _dataset(
    schema: Schema, parts: Sequence[Any], notes: Sequence[str], mark: str, copies: Copies
) -> Dataset:
    train, validation, test = parts
    divided = copies.divided
    return Dataset(
        schema,
        train,
        validation,
        test,
        None,
        None,
        None,
        (*notes, *number_notes(train, schema)),
        mark,
        "",
        "none",
        divided=divided,
    )


def as_table(array: np.ndarray, columns: Sequence[Column]) -> Any:
    """Returns an array (N, C) that holds what a table of these columns does as one."""
    import pyarrow as pa

    cells = [
        array[:, i].tolist() if array.dtype == object else array[:, i] for i in range(len(columns))
    ]
    return pa.table(
        [pa.array(values, from_pandas=True) for values in cells], names=[c.name for c in columns]
    )


def without_rows(frame: Any) -> Any:
    """Returns the columns of a frame and their types alone, with nothing of its rows."""
    if hasattr(frame, "iloc"):
        return frame.iloc[:0].reset_index(drop=True)
    if type(frame).__module__.partition(".")[0] == "polars":
        return frame.clear()
    return None


def given_back(values: np.ndarray, schema: Schema, like: Any, types: Any) -> Any:
    """Returns codes (N, C) that a model made as a frame with all columns of the source: an id is
    unknown, a constant known.

    A column has the type of the source's where that can hold its values: a count beyond a uint8
    stays an int64.

    Args:
        values: The codes of the modelled columns.
        schema: Of the table.
        like: The source without its rows, of pandas, polars or Arrow.
        types: The Arrow types that its columns were read as.
    """
    import pyarrow as pa

    made = iter(to_table(values, schema.modelled).columns)
    parts = {
        c.name: next(made) if c.modelled else _left_out(c, len(values)) for c in schema.columns
    }
    library, table = type(like).__module__.partition(".")[0], pa.table(parts)
    if library == "polars":
        import polars

        frame: Any = polars.from_arrow(table)
        made_as = [
            _cast(s, s.cast, kind) for s, kind in zip(frame.get_columns(), like.dtypes, strict=True)
        ]
        return frame.with_columns(
            [s.alias(name) for s, name in zip(made_as, frame.columns, strict=True)]
        )
    if library == "pandas":  # whose Decimal has any number of digits
        types = [
            pa.decimal128(38, kind.scale) if pa.types.is_decimal(kind) else kind for kind in types
        ]
    columns = [_cast(c, c.cast, kind) for c, kind in zip(table.columns, types, strict=True)]
    if library != "pandas":
        return pa.table(columns, names=table.column_names)
    import pandas

    frame = pandas.concat(
        [_of_pandas(c, kind) for c, kind in zip(columns, like.dtypes, strict=True)], axis=1
    )
    frame.columns = like.columns
    return frame


def _cast(column: Any, cast: Callable[[Any], Any], kind: Any) -> Any:
    """Returns a column of another type, or as it is if that type cannot hold its values."""
    if str(kind).lower() == "null":  # of a column without values, which an id is
        return column
    wrong: tuple[type[Exception], ...] = (
        ValueError,
        TypeError,
        NotImplementedError,
        *_errors_of_polars(),
    )
    try:
        return cast(kind)
    except wrong:
        return column


def _levels(categories: Any) -> dict[Any, Any]:
    """Returns the levels of a pandas Categorical by their texts, as which they are read if they are
    neither text nor numbers.
    """
    return {str(level): level for level in categories} | {level: level for level in categories}


def _errors_of_polars() -> tuple[type[Exception], ...]:
    polars: Any = sys.modules.get("polars")
    return () if polars is None else (polars.exceptions.PolarsError,)


def _of_pandas(column: Any, kind: Any) -> Any:
    """Returns an Arrow column as a series of a pandas type, if that can hold it."""
    import pandas

    column = column.cast(column.type.value_type) if hasattr(column.type, "value_type") else column
    series = column.to_pandas()
    if series.dtype == kind or (str(kind) == "object" and series.dtype.kind not in "iufb"):
        return series
    if isinstance(kind, pandas.CategoricalDtype):
        levels = _levels(kind.categories)
        return pandas.Series(
            pandas.Categorical([levels.get(value) for value in column.to_pylist()], dtype=kind)
        )
    made = _cast(series, series.astype, kind)
    whole = made.dtype.kind in "iu" and series.dtype.kind in "iuf"
    # numpy wraps what is too large
    return series if whole and not bool((made == series).fillna(True).all()) else made


def _left_out(column: Column, rows: int) -> Any:
    import pyarrow as pa

    if column.kind == "id":
        return pa.nulls(rows, pa.string())
    if column.levels:
        value = column.levels[0]
        return pa.array([value.lower() == "true" if column.type == "bool" else value] * rows)
    kind = "date" if column.type.startswith(("date", "timestamp")) else "real"
    return to_table(np.full((rows, 1), column.low), [replace(column, kind=kind)]).column(0)


def completed(frame: Any, table: Any, filled: Any) -> Any:
    """Returns a frame with the cells of ``filled`` where these are not those of ``table``, as which
    it was read.

    The types of its columns stay what they are, and so does every other cell, bit for bit.
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
        if not old.equals(new):
            same = pc.equal(old.cast(new.type), new).fill_null(False)
            rows = np.flatnonzero(~same.to_numpy())
            made, column = new.take(rows).to_pylist(), result.iloc[:, i]
            if hasattr(column, "sparse"):  # which takes no new values
                dense = column.sparse.to_dense()
                dense.iloc[rows] = made
                result.isetitem(i, dense.astype(column.dtype))
            else:
                levels = _levels(column.cat.categories) if hasattr(column, "cat") else {}
                result.iloc[rows, i] = [levels.get(value, value) for value in made]
    return result
