"""Takes data frames as they are in memory and hands them on as an Arrow table.

pandas and polars are never imported here: a frame of theirs can only come from a program that has
done so.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from taut.system.errors import DataError, shown

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["from_frame", "without_views"]


def from_frame(source: object) -> pa.Table | None:
    """Returns a pandas, polars or Arrow frame as an Arrow table, or ``None`` if ``source`` is no
    frame.

    Of a pandas frame the index is dropped, NaN is missing, sparse columns become dense, and what
    Arrow has no type for (columns of several types, intervals, periods) becomes text.

    Args:
        source: A pandas or polars ``DataFrame``, a pyarrow ``Table`` or ``RecordBatch``, or
            whatever offers ``__arrow_c_stream__``.

    Raises:
        DataError: a column has a type that cannot be read.
    """
    pandas = sys.modules.get("pandas")
    # half imported, pandas has none
    if pandas is not None and isinstance(source, getattr(pandas, "DataFrame", ())):
        return _from_pandas(source, pandas)
    if not (hasattr(source, "__arrow_c_stream__") or hasattr(source, "__arrow_c_array__")):
        return None
    import pyarrow as pa

    try:
        return without_views(pa.table(source))
    except pa.ArrowInvalid as error:
        if not hasattr(source, "columns"):  # a single column
            return None
        raise DataError(
            f"the frame: a column has a type that cannot be read ({shown(error)}); convert or drop "
            f"it"
        ) from error


def without_views(table: pa.Table) -> pa.Table:
    """Returns a table whose texts and levels are plain strings.

    Polars has views of them, which Arrow can hardly do anything with.
    """
    import pyarrow as pa

    for i, field in enumerate(table.schema):
        kind = plain = field.type
        if pa.types.is_string_view(kind):
            plain = pa.large_string()
        elif pa.types.is_dictionary(kind) and pa.types.is_string_view(kind.value_type):
            plain = pa.dictionary(kind.index_type, pa.large_string(), kind.ordered)
        if plain is not kind:
            table = table.set_column(i, field.with_type(plain), table.column(i).cast(plain))
    return table


def _from_pandas(frame: Any, pandas: Any) -> pa.Table:
    import pyarrow as pa

    columns = [_column(frame.iloc[:, i], pandas) for i in range(frame.shape[1])]
    return pa.Table.from_arrays(columns, names=[str(name) for name in frame.columns])


def _column(series: Any, pandas: Any) -> Any:
    import pyarrow as pa

    if isinstance(series.dtype, pandas.SparseDtype):
        series = series.sparse.to_dense()
    if series.dtype.kind == "c":
        raise DataError(
            f"the frame: column {shown(series.name)} holds complex numbers; give the real and the "
            f"imaginary part as two columns"
        )
    try:
        if (
            isinstance(series.dtype, pandas.CategoricalDtype)
            and series.cat.categories.dtype.kind in "OV"
        ):
            # pandas.cut gives intervals
            array = pa.array(series.cat.rename_categories(list(map(str, series.cat.categories))))
        else:
            array = pa.array(series, from_pandas=True)
        if not isinstance(array.type, pa.BaseExtensionType):
            return array
    except (
        ValueError,
        TypeError,
        NotImplementedError,
        OverflowError,
    ):  # pyarrow's errors of type are of the first three
        pass
    return pa.array(
        [None if gone else str(value) for value, gone in zip(series, series.isna(), strict=True)],
        pa.string(),
    )
