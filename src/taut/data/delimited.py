"""Reads delimited text (.csv, .tsv, .txt, also gzipped) as a table of text: what a column means is decided elsewhere.

pyarrow reads fast but forgives much: a quote that is never closed swallows the rest of the file, and text after a closing
quote is glued on. So a file with quotes, or with as many rows as it should not have, is also read by Python's strict reader,
which knows the lines at fault.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from taut.data.column import MISSING
from taut.errors import DataError, UsageError, shown

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["read_csv"]

DELIMITERS = ",;\t|"
BOMS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
MAX_BYTES = 16 * 2**30
SAMPLE_BYTES, SAMPLE_ROWS = 2**18, 1000
LISTED = 10
NUMBER = re.compile(r"\s*[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?\s*")
GROUPED_BY_COMMA = r"^[+-]?[1-9]\d{0,2}(,\d{3})+$"  # 1,234 is 1.234 in one country and 1234 in another
GROUPED_BY_POINT = r"^[+-]?[1-9]\d{0,2}(\.\d{3})+$"
POINTS_AND_COMMAS = r"^[+-]?[\d.,]*\d[\d.,]*([eE][+-]?\d+)?$"


def read_csv(
    path: Path,
    *,
    delimiter: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    missing_values: Sequence[str] = (),
) -> tuple[pa.Table, list[str]]:
    """Returns the file as a table whose columns are all text, and notes on how it was read.

    The first line names the columns. Numbers with a decimal comma come out with a point where a whole column is such
    numbers; every other value comes out as it stands in the file.

    Args:
        path: The file; gzipped ones are known by their content.
        delimiter: Character between fields (or ``"tab"``); ``None`` finds which of comma, semicolon, tab and bar.
        decimal: ``"."`` or ``","``; ``None`` finds out.
        encoding: A name that Python knows; ``None`` is UTF-8, or what a byte order mark says.
        missing_values: Texts that stand for a missing entry besides the usual: a column of numbers may hold them.

    Fails:
        UsageError: an option is none of the above.
        DataError: the file is empty, damaged or no text, or its rows do not agree with its header.
    """
    delimiter = "\t" if delimiter in ("tab", r"\t") else delimiter
    if delimiter is not None and (len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0'):
        raise UsageError(f"--delimiter takes one character, such as ',' or ';', or tab; not {delimiter!a}")
    if decimal not in (None, ".", ","):
        raise UsageError(f"--decimal takes '.' or ',', not {decimal!a}")
    where = shown(path)
    data = _utf8(_bytes(path, where), encoding, where).rstrip(b"\r\n")
    if not data.strip():
        raise DataError(f"{where}: is empty; give a file whose first line names the columns")
    with _long_fields():
        between = delimiter or _sniffed(data)
        table, notes = _parsed(data, between, where, delimiter is None)
    table, comma, unsure = _with_points(table, decimal, {*MISSING, *missing_values})
    found = [f"delimiter {'tab' if between == chr(9) else repr(between)}"] if delimiter is None and between != "," else []
    found += ["decimal comma"] if decimal is None and comma else []
    notes = ([f"read with {' and '.join(found)}"] if found else []) + notes + unsure
    return table, [f"{where}: {note}" for note in notes]


@contextmanager
def _long_fields() -> Iterator[None]:
    """Python's reader ends at a field of 131,072 characters, whether a quote is not closed or the text is so long."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _bytes(path: Path, where: str) -> bytes:
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        if not packed:
            return stream.read()
        data = bytearray()
        try:
            with gzip.GzipFile(fileobj=stream) as plain:
                while (piece := plain.read(2**24)) and len(data) <= MAX_BYTES:
                    data += piece
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise DataError(f"{where}: is truncated or damaged ({shown(error)}); write or download it again") from error
    if len(data) > MAX_BYTES:
        raise DataError(f"{where}: unpacks to more than 16 GiB; convert it to Parquet if that is meant")
    return bytes(data)


def _utf8(data: bytes, encoding: str | None, where: str) -> bytes:
    """Returns the text as UTF-8 without a byte order mark."""
    encoding = encoding or next((name for mark, name in BOMS.items() if data.startswith(mark)), None)
    try:
        if encoding is not None:
            data = data.decode(encoding).encode()
    except LookupError as error:
        raise UsageError(f"--encoding {shown(encoding)} is not known; give one such as utf-8, latin-1 or utf-16") from error
    except UnicodeError as error:
        raise DataError(f"{where}: is not {shown(encoding)} ({shown(error)}); leave --encoding away, or give another") from error
    data = data.removeprefix(b"\xef\xbb\xbf")
    if (at := data.find(b"\0")) >= 0:
        sample = data[: 2**10]
        wide = "be" if at == 0 else "le" if sample.count(b"\0") > len(sample) / 4 else ""
        mend = f"--encoding utf-16-{wide} if it is that" if wide else "it is damaged or no text: write it again as text"
        raise DataError(f"{where}: line {_line(data, at)}: holds a NUL byte; {mend}")
    try:
        if not data.isascii():
            data.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: {_undecodable(data, error.start)}") from error
    return data


def _undecodable(data: bytes, at: int) -> str:
    # Bytes 0x80 to 0x9f are quotes and letters in Windows' encoding, and in latin-1 nothing that one would type.
    likely = "cp1252" if any(0x80 <= byte < 0xA0 for byte in data[at : at + 2**20]) else "latin-1"
    before, after = data[max(0, at - 20) : at], data[at : at + 20]
    word = (before.splitlines() or [b""])[-1] + after.splitlines()[0]
    text = shown(word.decode(likely, "replace"))
    return f"is not UTF-8: line {_line(data, at)}, byte {data[at]:#x}; --encoding {likely} if it should read {text!r} there"


def _line(data: bytes, at: int) -> int:
    return data.count(b"\n", 0, at) + 1


def _sniffed(data: bytes) -> str:
    """Returns the delimiter by which most rows have as many fields as the header, and most fields are numbers."""
    text = data[:SAMPLE_BYTES].decode(errors="ignore")
    text = text if len(data) <= SAMPLE_BYTES else text[: text.rfind("\n") + 1] or text

    def score(delimiter: str) -> tuple[bool, float, float, int]:
        rows = list(islice(filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)), SAMPLE_ROWS))
        widths = Counter(len(row) for row in rows[1:] or rows)
        width, count = widths.most_common(1)[0]
        if width == 1:
            return False, 0.0, 0.0, 1
        cells = [cell for row in rows[1:] for cell in row]
        numbers = sum(NUMBER.fullmatch(cell) is not None for cell in cells) / max(1, len(cells))
        return len(rows[0]) == width, count / widths.total(), numbers, width

    try:
        return max(DELIMITERS, key=score)
    except csv.Error:  # an unclosed quote; whatever the delimiter, that is what will be reported
        return ","


def _parsed(data: bytes, delimiter: str, where: str, sniffed: bool) -> tuple[pa.Table, list[str]]:
    import pyarrow as pa
    import pyarrow.csv

    names, notes = _names(data, delimiter, where)
    fields = list(map(str, range(len(names))))  # names may repeat, so the header is read as a row, and cut off
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data.lstrip(b"\r\n")),
            pyarrow.csv.ReadOptions(column_names=fields, block_size=2**24),
            pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, ignore_empty_lines=len(names) > 1),
            pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(fields, pa.string()), strings_can_be_null=False),
        )
        rows, failure = table.num_rows, "is read differently by two readers"
    except pa.ArrowInvalid as error:
        rows, failure = -1, f"cannot be read ({shown(error)})"
    problems = _name_problems(names)
    if b'"' in data or rows != data.count(b"\n") + 1:
        strict_rows, blank, more = _strictly(data, delimiter, len(names))
        problems += more
        if more and sniffed and delimiter != ",":
            problems.append(f"the delimiter {delimiter!r} was found from the first rows; --delimiter gives another")
        if not problems and rows != strict_rows:
            problems = [f"{failure}; check its quotes and line ends, or save it again"]
        notes += [f"{blank} blank lines were skipped"] if blank else []
    if problems:
        raise DataError([f"{where}: {problem}" for problem in problems])
    if rows == 1:
        raise DataError(f"{where}: has a header but no rows; give a file with at least one row of data")
    return table.slice(1).rename_columns(names), notes


def _names(data: bytes, delimiter: str, where: str) -> tuple[list[str], list[str]]:
    reader = csv.reader(_lines(data), delimiter=delimiter)
    try:
        names = [name.strip() for name in next(filter(None, reader))]
    except csv.Error as error:
        raise DataError(f"{where}: line 1: {_broken(error)}") from error
    if len(names) >= 3 and names == list(map(str, range(len(names)))):  # pandas writes an array so
        return names, [f"the columns are named by their numbers, 0 to {len(names) - 1}"]
    if all(NUMBER.fullmatch(name) for name in names):
        some = shown(", ".join(names[:3])) + ", ..." * (len(names) > 3)
        raise DataError(f"{where}: line 1 holds only numbers ({some}): a header is missing; add a first line with names")
    return names, []


def _lines(data: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(data), "utf-8", newline="")


def _name_problems(names: list[str]) -> list[str]:
    places: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        places.setdefault(name, []).append(i)
    empty = places.pop("", [])
    index = " (pandas writes its index so: save with index=False)" if empty == [0] else ""
    lines = [f"line 1: columns {_listing(empty)} (from 0) have no name; name or remove them{index}"] if empty else []
    for name, repeated in places.items():
        if len(repeated) > 1:
            lines.append(f"line 1: columns {_listing(repeated)} (from 0) are all named {shown(name)}; give each its own name")
    return lines


def _listing(places: list[int]) -> str:
    more = f" and {len(places) - LISTED} more" if len(places) > LISTED else ""
    return ", ".join(map(str, places[:LISTED])) + more


def _strictly(data: bytes, delimiter: str, width: int) -> tuple[int, int, list[str]]:
    """Returns how many rows there are, how many blank lines, and a line for each problem."""
    reader = csv.reader(_lines(data), delimiter=delimiter, strict=True)
    rows, blank, line = 0, 0, 1
    ragged: list[tuple[int, int]] = []
    broken = []
    try:
        for row in reader:
            rows += 1
            if not row and (width > 1 or rows == blank + 1):  # before the header, a blank line is no missing entry
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
        comma = ", or --delimiter ';' if its commas separate no columns" if delimiter == "," and width == 1 else ""
        return [f"line 1: the header has {_fields(width)}, but every row has {_fields(found)}; {names}{comma}"]
    more = f"put quotes around a field that holds {delimiter!r}"
    lines = [
        f"line {line}: expected {_fields(width)}, found {found}; {more if found > width else 'complete the row'}"
        for line, found in ragged[:LISTED]
    ]
    return lines + ([f"{len(ragged) - LISTED} more rows have too few or too many fields"] if len(ragged) > LISTED else [])


def _fields(count: int) -> str:
    return f"{count} field{'s' * (count != 1)}"


def _with_points(table: pa.Table, decimal: str | None, missing: set[str]) -> tuple[pa.Table, bool, list[str]]:
    """Returns the table with decimal points, whether there were decimal commas, and a note on what can be read two ways."""
    import pyarrow.compute as pc

    if decimal == ".":
        return table, False, []
    commas, notes, sure = [], [], decimal == ","
    for i, column in enumerate(table.columns):
        if not _all(column.slice(0, SAMPLE_ROWS), POINTS_AND_COMMAS, missing) or not _any(column, ","):
            continue
        if _parses(column, missing) and not _any(column, "."):
            commas.append(i)
            sure = sure or not _all(column.filter(pc.match_substring(column, ",")), GROUPED_BY_COMMA, missing)
        elif _all(column, POINTS_AND_COMMAS, missing):
            read = f"holds points and commas in numbers, such as {_example(column, ',')}, and is read as text"
            notes.append(f"column {shown(table.column_names[i])} {read}; remove what groups the thousands")
    for i, name in enumerate(table.column_names):
        column = table.column(i)
        if sure and i in commas:
            table = table.set_column(i, name, pc.replace_substring(column, ",", "."))
        elif i in commas:
            read = f"holds numbers such as {_example(column, ',')}, and is read as text"
            notes.append(f"column {shown(name)} {read}; --decimal , if that is a decimal comma, else remove the commas")
        elif (sure or notes) and _any(column, ".") and _all(column, GROUPED_BY_POINT, missing):
            read = f"holds numbers such as {_example(column, '.')}, read with a decimal point although other columns hold commas"
            notes.append(f"column {shown(name)} {read}; remove the points if they group thousands")
    return table, sure and bool(commas), notes


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
