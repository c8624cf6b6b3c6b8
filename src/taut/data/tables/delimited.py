"""Reads delimited text (.csv, .tsv, .txt, also packed) as a table of text: what a column means is
decided elsewhere.

pyarrow reads fast but forgives much: a quote that is never closed swallows the rest of the file,
and text after a closing quote is glued on. So a file with quotes, or with as many rows as it should
not have, is also read by Python's strict reader, which knows the lines at fault.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from taut.data.tables.dialect import NUMBER, before_header, plain, repeats_a_row
from taut.data.tables.packed import unpacked, utf8
from taut.data.tables.points import ungrouped, with_points
from taut.data.tables.words import MISSING, quoted
from taut.system.errors import DataError, UsageError, and_more, shown

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["read_csv"]

DELIMITERS = ",;\t|"
SAMPLE_BYTES, SAMPLE_ROWS = 2**18, 1000
LISTED = 10


def read_csv(
    path: Path,
    *,
    delimiter: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    missing_values: Sequence[str] = (),
) -> tuple[pa.Table, list[str]]:
    """Returns the file as a table whose columns are all text, and notes on how it was read.

    The first line names the columns, but for what stands before it (``dialect``). Numbers with a
    decimal comma come out with a point where a whole column is such numbers; every other value
    comes out as it stands in the file.

    Args:
        path: The file; gzipped ones are known by their content.
        delimiter: Character between fields (or ``"tab"``); ``None`` finds which of comma,
            semicolon, tab and bar.
        decimal: ``"."`` or ``","``; ``None`` finds out.
        encoding: A name that Python knows; ``None`` is UTF-8, or what a byte order mark says.
        header: Whether the first line names the columns; without one they are named 0, 1, ...
            ``None`` believes so, but refuses names that are values of their columns.
        missing_values: Texts that stand for a missing entry besides the usual: a column of numbers
            may hold them.

    Raises:
        UsageError: an option is none of the above.
        DataError: the file is empty, damaged or no text, or its rows do not agree with its header.
    """
    if delimiter in ("tab", r"\t"):
        delimiter = "\t"
    if delimiter is not None and (
        len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0'
    ):
        raise UsageError(
            f"--delimiter takes one character, such as ',' or ';', or tab; not {delimiter!a}"
        )
    if decimal not in (None, ".", ","):
        raise UsageError(f"--decimal takes '.' or ',', not {decimal!a}")
    where = shown(path)
    data = utf8(unpacked(path, where), encoding, where).rstrip(b"\r\n")
    if not data.strip():
        raise DataError(f"{where}: is empty; give a file whose first line names the columns")
    data, said, notes = plain(data, delimiter)
    with _long_fields():
        between = said or _sniffed(data)
        if header is not False and (skipped := before_header(data, between)):
            notes.append(f"{skipped} lines before the header were skipped")
            data = data.split(b"\n", skipped)[skipped]
        table, told = _parsed(data, between, where, delimiter is None, header)
    if decimal == ".":
        table = ungrouped(table, {*MISSING, *missing_values})
    table, comma, unsure = with_points(table, decimal, {*MISSING, *missing_values})
    found = []
    if said is None and between != ",":
        found.append("delimiter " + ("tab" if between == "\t" else repr(between)))
    if decimal is None and comma:
        found.append("decimal comma")
    if found:
        notes.append(f"read with {' and '.join(found)}")
    notes += told + unsure
    return table, [f"{where}: {note}" for note in notes]


@contextmanager
def _long_fields() -> Iterator[None]:
    """Python's reader ends at a field of 131,072 characters, whether a quote is not closed or the
    text is so long.
    """
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _sniffed(data: bytes) -> str:
    """Returns the delimiter by which most rows have as many fields as the header, and most fields
    are numbers.
    """
    text = data[:SAMPLE_BYTES].decode(errors="ignore")
    if len(data) > SAMPLE_BYTES:
        text = text[: text.rfind("\n") + 1] or text

    def score(delimiter: str) -> tuple[bool, float, float, int]:
        rows = list(
            islice(
                filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)),
                SAMPLE_ROWS,
            )
        )
        widths = Counter(len(row) for row in rows[1:] or rows)
        width, count = widths.most_common(1)[0]
        if width == 1:
            return False, 0.0, 0.0, 1
        cells = [cell for row in rows[1:] for cell in row]
        numbers = sum(NUMBER.fullmatch(cell) is not None for cell in cells) / max(1, len(cells))
        return len(rows[0]) == width, count / widths.total(), numbers, width

    return max(DELIMITERS, key=score)


def _parsed(
    data: bytes, delimiter: str, where: str, sniffed: bool, header: bool | None
) -> tuple[pa.Table, list[str]]:
    import pyarrow as pa
    import pyarrow.csv

    names, named, notes = _names(data, delimiter, where, header)
    # names may repeat, so the header is read as a row, and cut off
    fields = list(map(str, range(len(names))))
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data.lstrip(b"\r\n")),
            pyarrow.csv.ReadOptions(column_names=fields, block_size=2**24),
            pyarrow.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, ignore_empty_lines=len(names) > 1
            ),
            pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(fields, pa.string()), strings_can_be_null=False
            ),
        )
        rows, failure = table.num_rows, "is read differently by two readers"
    except pa.ArrowInvalid as error:
        rows, failure = -1, f"cannot be read ({shown(error)})"
    problems: list[str] = []
    if b'"' in data or rows != data.count(b"\n") + 1:
        strict_rows, blank, problems = _strictly(data, delimiter, len(names))
        more = problems
        if more and sniffed and delimiter != ",":
            problems.append(
                f"the delimiter {delimiter!r} was found from the first rows; --delimiter gives "
                f"another"
            )
        if not problems and rows != strict_rows:
            problems = [f"{failure}; check its quotes and line ends, or save it again"]
        if blank:
            notes.append(f"{blank} blank lines were skipped")
    if problems:
        raise DataError([f"{where}: {problem}" for problem in _name_problems(names) + problems])
    if named:
        table = table.slice(1)
    if not table.num_rows:
        raise DataError(
            f"{where}: has a header but no rows; give a file with at least one row of data"
        )
    table, names, lines = _without_nameless(table, names)
    problems = _name_problems(names)
    if named and header is None and not problems:
        problems, doubts = _row_for_names(table, names)
        lines += doubts
    if problems:
        raise DataError([f"{where}: {problem}" for problem in problems])
    return table.rename_columns(names), notes + lines


def _without_nameless(table: pa.Table, names: list[str]) -> tuple[pa.Table, list[str], list[str]]:
    """Leaves an empty last column out, and names a first one without name that numbers or names the
    rows: an index.
    """
    import pyarrow.compute as pc

    lines = []
    if (
        len(names) > 1
        and not names[-1]
        and pc.all(pc.equal(pc.utf8_trim_whitespace(table.column(-1)), "")).as_py()
    ):
        table, names = table.select(range(len(names) - 1)), names[:-1]
        lines.append("each line ends with a delimiter; the empty last column was omitted")
    if (
        not names[0]
        and "index" not in names
        and pc.count_distinct(table.column(0)).as_py() == table.num_rows
    ):
        names = ["index", *names[1:]]
        lines.append("column 0 (from 0) has no name and names the rows; it is called 'index'")
    return table, names, lines


def _row_for_names(table: pa.Table, names: list[str]) -> tuple[list[str], list[str]]:
    """Returns what is wrong with a first line that is a row, and what to know of one
    that may be.
    """
    if names == list(map(str, range(len(names)))):
        return [], []
    first = [column.slice(0, SAMPLE_ROWS).to_pylist() for column in table.columns]
    same = repeats_a_row(names, [[text.strip() for text in column] for column in first])
    if not same:
        return [], []
    numbers = any(NUMBER.fullmatch(names[i]) for i in same)
    which = (
        f"line 1: {quoted(names[same[0]])} names column {same[0]} (from 0) and is also one of its "
        f"values"
    )
    ways = "--no-header if line 1 is a row, --header if it names the columns"
    certain = numbers or 1 < len(same) >= len(names) / 2
    if certain:
        return ([f"{which}; {ways}"], [])
    return ([], [f"{which}; {ways}"])


def _names(
    data: bytes, delimiter: str, where: str, header: bool | None
) -> tuple[list[str], bool, list[str]]:
    """Returns the names, whether they are the first line, and notes."""
    reader = csv.reader(_lines(data), delimiter=delimiter)
    try:
        names = [name.strip() for name in next(filter(None, reader))]
    except csv.Error as error:
        raise DataError(f"{where}: line 1: {_broken(error)}") from error
    numbered = list(map(str, range(len(names))))
    if header is False and names != numbered:  # what taut writes of such a table has its names
        return numbered, False, [f"no header: the columns are named 0 to {len(names) - 1}"]
    if len(names) >= 3 and names == numbered:  # pandas writes an array so
        return names, True, [f"the columns are named by their numbers, 0 to {len(names) - 1}"]
    if header is None and all(NUMBER.fullmatch(name) for name in names):
        some = shown(", ".join(names[:3])) + ", ..." * (len(names) > 3)
        raise DataError(
            f"{where}: line 1 holds only numbers ({some}): a header is missing; --no-header, or "
            f"add a first line with names"
        )
    return names, True, []


def _lines(data: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(data), "utf-8", newline="")


def _name_problems(names: list[str]) -> list[str]:
    places: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        places.setdefault(name, []).append(i)
    empty = places.pop("", [])
    lines = []
    if empty:
        index = " (pandas writes its index so: save with index=False)" if empty == [0] else ""
        lines.append(
            f"line 1: columns {_listing(empty)} (from 0) have no name; name or remove them{index}"
        )
    for name, repeated in places.items():
        if len(repeated) > 1:
            lines.append(
                f"line 1: columns {_listing(repeated)} (from 0) are all named {shown(name)}; give "
                f"each its own name"
            )
    return lines


def _listing(places: list[int]) -> str:
    return ", ".join(map(str, places[:LISTED])) + and_more(places, LISTED)


def _strictly(data: bytes, delimiter: str, width: int) -> tuple[int, int, list[str]]:
    """Returns how many rows there are, how many blank lines, and a line for each problem."""
    reader = csv.reader(_lines(data), delimiter=delimiter, strict=True)
    rows, blank, line = 0, 0, 1
    ragged: list[tuple[int, int]] = []
    broken = []
    try:
        for row in reader:
            rows += 1
            # before the header, a blank line is not a missing entry
            if not row and (width > 1 or rows == blank + 1):
                blank += 1
            elif len(row) != width and row:
                ragged.append((line, len(row)))
            line = reader.line_num + 1
    except csv.Error as error:
        broken = [f"line {line}: {_broken(error)}"]
    return rows - blank, blank, _ragged(ragged, rows - blank - 1, width, delimiter) + broken


def _broken(error: csv.Error) -> str:
    if "expected after" in str(error):
        return "text follows a closing quote; write a quote inside a quoted field twice"
    return "a quote opens and is never closed; close it, or remove it"


def _ragged(ragged: list[tuple[int, int]], rows: int, width: int, delimiter: str) -> list[str]:
    widths = {found for _, found in ragged}
    if len(ragged) == rows > 1 and len(widths) == 1:
        found = widths.pop()
        names = "name every column" if found > width else "remove the names without a column"
        comma = ""
        if delimiter == "," and width == 1:
            comma = ", or --delimiter ';' if its commas separate no columns"
        return [
            f"line 1: the header has {_fields(width)}, but every row has {_fields(found)}; "
            f"{names}{comma}"
        ]
    more = f"put quotes around a field that holds {delimiter!r}"
    lines = [
        f"line {line}: expected {_fields(width)}, found {found}; "
        f"{more if found > width else 'complete the row'}"
        for line, found in ragged[:LISTED]
    ]
    if len(ragged) > LISTED:
        lines.append(f"{len(ragged) - LISTED} more rows have too few or too many fields")
    return lines


def _fields(count: int) -> str:
    return f"{count} field{'s' * (count != 1)}"
