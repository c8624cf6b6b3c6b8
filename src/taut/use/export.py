"""Writing what a model gives: arrays, tables and images, in the format that the name of the file
asks for.

A spreadsheet runs what looks like a formula: in a CSV file a text (or a column's name) that begins
with ``=``, ``+``, ``-``, ``@`` or a tab, and is not a number, gets an apostrophe before it. Parquet
keeps every text as it is, and so does the user's own table that was only filled in.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from taut.data.schema import told_apart
from taut.data.tables.words import FORMULA
from taut.system.storage import write_bytes
from taut.use import pictures

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "ARRAYS",
    "CELLS",
    "IMAGES",
    "NUMBERS",
    "TABLES",
    "shortest",
    "write_images",
    "write_numbers",
    "write_table",
]

TABLES = (".csv", ".parquet")
NUMBERS = (".npy", ".csv", ".parquet")
ARRAYS = (".npy",)
CELLS = (".h5ad",)
IMAGES = (".npy", ".png")
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


def write_numbers(
    values: torch.Tensor,
    out: Path,
    names: Sequence[str] = (),
    words: Mapping[str, Sequence[str]] | None = None,
    ids: Mapping[str, Any] | None = None,
) -> None:
    """Writes an array; in a table each column has its name, x0, x1, ... where none are given.

    Args:
        values: The numbers, (N, C).
        out: The file.
        names: Of the columns.
        words: What stands in a table for the numbers of a column, by its name.
        ids: Columns that name the rows; in a table they come first.
    """
    array = values.numpy()
    if out.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        write_bytes(out, buffer.getvalue())
        return
    import pyarrow as pa

    names = names or [f"x{i}" for i in range(array.shape[1])]
    columns = {name: array[:, i] for i, name in enumerate(names)} | dict(words or {})
    ids = dict(ids or {})
    titles = told_apart([*ids, *columns])
    write_table(pa.table([*ids.values(), *columns.values()], titles), out)


def shortest(values: torch.Tensor) -> np.ndarray:
    """Returns numbers as float64 that are written as they would be in their own type.

    70.26934, not 70.26934051513672.
    """
    return values.numpy().astype(str).astype(np.float64)


def write_images(values: torch.Tensor, out: Path, low: float, high: float) -> None:
    """Writes images, as an array or as one picture of them all."""
    if out.suffix == ".npy":
        write_numbers(values, out)
    else:
        write_bytes(out, pictures.to_png([pictures.grid(values, low, high, 10)]))


def write_table(table: pa.Table, out: Path, *, own: bool = False) -> None:
    """Writes a table; what is missing is an empty field in CSV and a null in Parquet.

    Args:
        table: The table.
        out: The file.
        own: Whether it is the user's own table, whose cells stay as they are.
    """
    sink = io.BytesIO()
    if out.suffix == ".parquet":
        import pyarrow.parquet as parquet

        parquet.write_table(table, sink)
    else:
        _write_csv(table if own else _without_formulas(table), sink)
    write_bytes(out, sink.getvalue())


def _write_csv(table: pa.Table, sink: io.BytesIO) -> None:
    """Writes texts in quotes only if one of them needs them.

    Then pyarrow puts all of them in quotes.
    """
    from pyarrow import ArrowInvalid, csv

    try:
        csv.write_csv(table, sink, csv.WriteOptions(quoting_style="none"))
    except ArrowInvalid:
        sink.seek(0)
        sink.truncate()
        csv.write_csv(table, sink, csv.WriteOptions(quoting_style="needed"))


def _without_formulas(table: pa.Table) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    def harmless(column: Any) -> Any:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            return column
        escaped = pc.replace_substring_regex(column, pattern=r"^([=+\-@\t\r])", replacement=r"'\1")
        return pc.if_else(pc.match_substring_regex(column, NUMBER), column, escaped)

    names = [f"'{name}" if name.startswith(FORMULA) else name for name in table.column_names]
    return pa.table([harmless(column) for column in table.columns], names=names)
