"""Points and commas in columns of text: decimal marks, or groups of thousands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taut.system.errors import shown

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ungrouped", "with_points"]

SAMPLE_ROWS = 1000
GROUPED_BY_COMMA = (
    r"^[+-]?[1-9]\d{0,2}(,\d{3})+$"  # 1,234 is 1.234 in one country and 1234 in another
)
GROUPED_BY_POINT = r"^[+-]?[1-9]\d{0,2}(\.\d{3})+$"
POINTS_AND_COMMAS = r"^[+-]?[\d.,]*\d[\d.,]*([eE][+-]?\d+)?$"


def with_points(
    table: pa.Table, decimal: str | None, missing: set[str]
) -> tuple[pa.Table, bool, list[str]]:
    """Returns the table with decimal points, whether there were decimal commas, and a note on what
    can be read two ways.

    Where commas are decimal marks, points that stand before three digits each group thousands.
    """
    import pyarrow.compute as pc

    if decimal == ".":
        return table, False, []
    commas, notes, sure, grouped = [], [], decimal == ",", False
    for i, column in enumerate(table.columns):
        if not _all(column.slice(0, SAMPLE_ROWS), POINTS_AND_COMMAS, missing) or not _any(
            column, ","
        ):
            continue
        if _parses(column, missing) and not _any(column, "."):
            commas.append(i)
            sure = sure or not _all(
                column.filter(pc.match_substring(column, ",")), GROUPED_BY_COMMA, missing
            )
        elif _all(column, POINTS_AND_COMMAS, missing):
            grouped = True  # such texts are understood later, by all that the column holds
    for i, name in enumerate(table.column_names):
        column = table.column(i)
        pointed = column.filter(pc.match_substring(column, "."))
        points = (
            _any(column, ".")
            and _all(pointed, GROUPED_BY_POINT, missing)
            and _all(column, POINTS_AND_COMMAS, missing)
        )
        if sure and i in commas:
            table = table.set_column(i, name, pc.replace_substring(column, ",", "."))
        elif sure and points:
            example = _example(column, ".")
            table = table.set_column(i, name, pc.replace_substring(column, ".", ""))
            why = ", since other columns hold decimal commas; correct the file if it is none"
            notes.append(
                f"column {shown(name)} holds numbers such as {example}, whose point is read as one "
                f"that groups thousands{'' if decimal else why}"
            )
        elif i in commas:
            read = f"holds numbers such as {_example(column, ',')}, and is read as text"
            notes.append(
                f"column {shown(name)} {read}; --decimal , if that is a decimal comma, --decimal . "
                f"if it groups thousands"
            )
        elif (notes or grouped) and points:
            read = (
                f"holds numbers such as {_example(column, '.')}, read with a decimal point "
                f"although other columns hold commas"
            )
            notes.append(f"column {shown(name)} {read}; remove the points if they group thousands")
    return table, sure and bool(commas), notes


def ungrouped(table: pa.Table, missing: set[str]) -> pa.Table:
    """Returns the table without the commas that group thousands, where a column holds
    nothing else.
    """
    import pyarrow.compute as pc

    for i, name in enumerate(table.column_names):
        column = table.column(i)
        if _any(column, ",") and _all(
            column.filter(pc.match_substring(column, ",")), GROUPED_BY_COMMA, missing
        ):
            table = table.set_column(i, name, pc.replace_substring(column, ",", ""))
    return table


def _any(column: pa.ChunkedArray, character: str) -> bool:
    import pyarrow.compute as pc

    return bool(pc.any(pc.match_substring(column, character)).as_py())


def _all(column: pa.ChunkedArray, pattern: str, missing: set[str]) -> bool:
    import pyarrow.compute as pc

    return bool(pc.all(pc.match_substring_regex(_present(column, missing), pattern)).as_py())


def _parses(column: pa.ChunkedArray, missing: set[str]) -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        pc.cast(pc.replace_substring(_present(column, missing), ",", "."), pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _present(column: pa.ChunkedArray, missing: set[str]) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pc.utf8_trim_whitespace(column)
    return text.filter(pc.invert(pc.is_in(text, value_set=pa.array(sorted(missing), pa.string()))))


def _example(column: pa.ChunkedArray, character: str) -> str:
    import pyarrow.compute as pc

    return shown(repr(column.filter(pc.match_substring(column, character))[0].as_py()))
