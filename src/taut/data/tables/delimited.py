"""Reads delimited text (.csv, .tsv, .txt, also packed) as a table of text: what a column means is
decided elsewhere.

pyarrow reads fast but forgives much: a quote that is never closed swallows the rest of the file,
and text after a closing quote is glued on. So a file with quotes, or with as many rows as it should
not have, is also read by Python's strict reader, which knows the lines at fault.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

from taut.data.tables.dialect import NUMBER, before_header, plain, repeats_a_row
from taut.data.tables.words import MISSING, quoted
from taut.system.errors import DataError, UsageError, shown
from taut.system.memory import check_fits

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["read_csv"]

DELIMITERS = ",;\t|"
BOMS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
MAX_BYTES = 16 * 2**30
SAMPLE_BYTES, SAMPLE_ROWS = 2**18, 1000
LISTED = 10
GROUPED_BY_COMMA = (
    r"^[+-]?[1-9]\d{0,2}(,\d{3})+$"  # 1,234 is 1.234 in one country and 1234 in another
)
GROUPED_BY_POINT = r"^[+-]?[1-9]\d{0,2}(\.\d{3})+$"
POINTS_AND_COMMAS = r"^[+-]?[\d.,]*\d[\d.,]*([eE][+-]?\d+)?$"


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

    Fails:
        UsageError: an option is none of the above.
        DataError: the file is empty, damaged or no text, or its rows do not agree with its header.
    """
    delimiter = "\t" if delimiter in ("tab", r"\t") else delimiter
    if delimiter is not None and (
        len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0'
    ):
        raise UsageError(
            f"--delimiter takes one character, such as ',' or ';', or tab; not {delimiter!a}"
        )
    if decimal not in (None, ".", ","):
        raise UsageError(f"--decimal takes '.' or ',', not {decimal!a}")
    where = shown(path)
    data = _utf8(_bytes(path, where), encoding, where).rstrip(b"\r\n")
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
        table = _ungrouped(table, {*MISSING, *missing_values})
    table, comma, unsure = _with_points(table, decimal, {*MISSING, *missing_values})
    found = (
        [f"delimiter {'tab' if between == chr(9) else repr(between)}"]
        if said is None and between != ","
        else []
    )
    found += ["decimal comma"] if decimal is None and comma else []
    notes += ([f"read with {' and '.join(found)}"] if found else []) + told + unsure
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


def _bytes(path: Path, where: str) -> bytes:
    """Returns what a file holds, unpacked; how it is packed is known by its first bytes."""
    with path.open("rb") as stream:
        magic = stream.read(6)
        stream.seek(0)
        try:
            if magic.startswith(b"\x1f\x8b"):
                return _unpacked(gzip.GzipFile(fileobj=stream), where)
            if magic.startswith(b"BZh"):
                return _unpacked(bz2.BZ2File(stream), where)
            if magic.startswith(b"\xfd7zXZ\0"):
                return _unpacked(lzma.LZMAFile(stream), where)
            if magic.startswith(b"PK\x03\x04"):
                return _from_zip(stream, where)
        except (
            gzip.BadGzipFile,
            zlib.error,
            EOFError,
            lzma.LZMAError,
            zipfile.BadZipFile,
            RuntimeError,
            ValueError,
        ) as error:
            raise DataError(
                f"{where}: is truncated or damaged ({shown(error)}); write or download it again"
            ) from error
        except OSError as error:
            # a damaged archive asks to seek before its start
            if error.errno is not None and not magic.startswith(b"PK"):
                raise
            raise DataError(
                f"{where}: is truncated or damaged ({shown(error)}); write or download it again"
            ) from error
        return stream.read()


def _from_zip(stream: io.BufferedReader, where: str) -> bytes:
    with zipfile.ZipFile(stream) as archive:
        names = [
            name
            for name in archive.namelist()
            if not name.endswith("/") and not name.startswith("__MACOSX/")
        ]
        if len(names) != 1:
            held = ", ".join(shown(name) for name in names[:5]) or "nothing"
            raise DataError(
                f"{where}: holds {len(names)} files ({held}); give an archive of one table, or "
                f"unpack it"
            )
        with archive.open(names[0]) as member:
            return _unpacked(cast(io.BufferedIOBase, member), where)


def _unpacked(stream: io.BufferedIOBase, where: str) -> bytes:
    """Reads a piece at a time: a few bytes may unpack to more than there is memory."""
    data = bytearray()
    with stream:
        while piece := stream.read(2**24):
            data += piece
            if len(data) > MAX_BYTES:
                raise DataError(
                    f"{where}: unpacks to more than 16 GiB; convert it to Parquet if that is meant"
                )
            check_fits(
                len(data), where, "convert it to Parquet, which can stay on the disk (--stream)"
            )
    return bytes(data)


def _utf8(data: bytes, encoding: str | None, where: str) -> bytes:
    """Returns the text as UTF-8 without a byte order mark."""
    encoding = encoding or next(
        (name for mark, name in BOMS.items() if data.startswith(mark)), None
    )
    try:
        if encoding is not None:
            data = data.decode(encoding).encode()
    except LookupError as error:
        raise UsageError(
            f"--encoding {shown(encoding)} is not known; give one such as utf-8, latin-1 or utf-16"
        ) from error
    except UnicodeError as error:
        raise DataError(
            f"{where}: is not {shown(encoding)} ({shown(error)}); leave --encoding away, or give "
            f"another"
        ) from error
    data = data.removeprefix(b"\xef\xbb\xbf")
    if (at := data.find(b"\0")) >= 0:
        sample = data[: 2**10]
        wide = "be" if at == 0 else "le" if sample.count(b"\0") > len(sample) / 4 else ""
        mend = (
            f"--encoding utf-16-{wide} if it is that"
            if wide
            else "it is damaged or no text: write it again as text"
        )
        raise DataError(f"{where}: line {_line(data, at)}: holds a NUL byte; {mend}")
    try:
        if not data.isascii():
            data.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: {_undecodable(data, error.start)}") from error
    return data


def _undecodable(data: bytes, at: int) -> str:
    # Bytes 0x80 to 0x9f are quotes and letters in Windows' encoding, and in latin-1 nothing that
    # one would type.
    likely = "cp1252" if any(0x80 <= byte < 0xA0 for byte in data[at : at + 2**20]) else "latin-1"
    before, after = data[max(0, at - 20) : at], data[at : at + 20]
    word = (before.splitlines() or [b""])[-1] + after.splitlines()[0]
    text = shown(word.decode(likely, "replace"))
    return (
        f"is not UTF-8: line {_line(data, at)}, byte {data[at]:#x}; --encoding {likely} if it "
        f"should read {text!r} there"
    )


def _line(data: bytes, at: int) -> int:
    return data.count(b"\n", 0, at) + 1


def _sniffed(data: bytes) -> str:
    """Returns the delimiter by which most rows have as many fields as the header, and most fields
    are numbers.
    """
    text = data[:SAMPLE_BYTES].decode(errors="ignore")
    text = text if len(data) <= SAMPLE_BYTES else text[: text.rfind("\n") + 1] or text

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

    try:
        return max(DELIMITERS, key=score)
    except csv.Error:  # an unclosed quote; whatever the delimiter, that is what will be reported
        return ","


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
        notes += [f"{blank} blank lines were skipped"] if blank else []
    if problems:
        raise DataError([f"{where}: {problem}" for problem in _name_problems(names) + problems])
    table = table.slice(1) if named else table
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
        lines.append("each line ends with a delimiter; the empty last column was left out")
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
    return ([f"{which}; {ways}"], []) if certain else ([], [f"{which}; {ways}"])


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
        mend = "--no-header, or add a first line with names"
        raise DataError(f"{where}: line 1 holds only numbers ({some}): a header is missing; {mend}")
    return names, True, []


def _lines(data: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(data), "utf-8", newline="")


def _name_problems(names: list[str]) -> list[str]:
    places: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        places.setdefault(name, []).append(i)
    empty = places.pop("", [])
    index = " (pandas writes its index so: save with index=False)" if empty == [0] else ""
    lines = (
        [f"line 1: columns {_listing(empty)} (from 0) have no name; name or remove them{index}"]
        if empty
        else []
    )
    for name, repeated in places.items():
        if len(repeated) > 1:
            lines.append(
                f"line 1: columns {_listing(repeated)} (from 0) are all named {shown(name)}; give "
                f"each its own name"
            )
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
            # before the header, a blank line is no missing entry
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
        comma = (
            ", or --delimiter ';' if its commas separate no columns"
            if delimiter == "," and width == 1
            else ""
        )
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
    return lines + (
        [f"{len(ragged) - LISTED} more rows have too few or too many fields"]
        if len(ragged) > LISTED
        else []
    )


def _fields(count: int) -> str:
    return f"{count} field{'s' * (count != 1)}"


def _with_points(
    table: pa.Table, decimal: str | None, missing: set[str]
) -> tuple[pa.Table, bool, list[str]]:
    """Returns the table with decimal points, whether there were decimal commas, and a note on what
    can be read two ways.
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
        if sure and i in commas:
            table = table.set_column(i, name, pc.replace_substring(column, ",", "."))
        elif i in commas:
            read = f"holds numbers such as {_example(column, ',')}, and is read as text"
            notes.append(
                f"column {shown(name)} {read}; --decimal , if that is a decimal comma, --decimal . "
                f"if it groups thousands"
            )
        elif (
            (sure or notes or grouped)
            and _any(column, ".")
            and _all(column, GROUPED_BY_POINT, missing)
        ):
            read = (
                f"holds numbers such as {_example(column, '.')}, read with a decimal point "
                f"although other columns hold commas"
            )
            notes.append(f"column {shown(name)} {read}; remove the points if they group thousands")
    return table, sure and bool(commas), notes


def _ungrouped(table: pa.Table, missing: set[str]) -> pa.Table:
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
