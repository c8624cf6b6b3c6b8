"""What stands around the rows of a text table: Excel's ``sep=`` line, comments, lines before the
header, blanks as delimiters.

Each is found from the first rows and taken away, so that what is left is one header and its rows;
each gives a note.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from itertools import islice
from typing import NamedTuple

__all__ = ["NUMBER", "Plain", "plain", "repeats_a_row"]

SAMPLE_BYTES = 2**18
MOST_BEFORE = 50  # lines before a header
NUMBER = re.compile(r"\s*[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?\s*")
SEP = re.compile(rb'"?sep=([,;:|\t]|\\t)"?[ \t]*\r?\n', re.IGNORECASE)
COMMENT = re.compile(rb"^#[^\n]*\n?", re.MULTILINE)
BLANKS = re.compile(rb"[ \t]+")
ENDS = re.compile(rb"^[ \t]+|[ \t]+(?=\r?$)", re.MULTILINE)


class Plain(NamedTuple):
    """A header and its rows, the delimiter if it was said or is certain, and what was
    taken away.
    """

    data: bytes
    delimiter: str | None
    notes: list[str]


def plain(data: bytes, delimiter: str | None) -> Plain:
    """Returns a text table without what is not its header or a row.

    Args:
        data: UTF-8, as it stands in the file.
        delimiter: What the user said, if anything.
    """
    notes: list[str] = []
    if (match := SEP.match(data)) is not None:
        said = match[1].decode().replace("\\t", "\t")
        data = data[match.end() :]
        delimiter = delimiter or said
        notes.append(
            "the first line, sep=" + ("tab" if said == "\t" else said) + ", says the delimiter"
        )
    data, lines = _without_comments(data)
    notes += lines
    if delimiter in (None, " ") and b'"' not in data and _has_blanks(data, delimiter is not None):
        data, delimiter = BLANKS.sub(b"\t", ENDS.sub(b"", data)), "\t"
        notes.append("read with blanks as delimiter")
    return Plain(data, delimiter, notes)


def before_header(data: bytes, delimiter: str) -> int:
    """Returns how many lines stand before the header.

    Short ones, and then a row of names as wide as all rows below it.
    """
    if b"\n" not in data:
        return 0
    text = data[:SAMPLE_BYTES].decode(errors="ignore")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: list[tuple[int, list[str]]] = []
    start = 0
    for row in islice(reader, 4 * MOST_BEFORE):
        while len(row) > 1 and not row[-1].strip():
            row.pop()
        rows.append((start, row))
        start = reader.line_num
    filled = [row for _, row in rows if row]
    width = Counter(len(row) for row in filled).most_common(1)[0][0] if filled else 0
    if width < 3 or (filled and len(filled[0]) > width / 2):
        return 0
    for i, (line, row) in enumerate(rows[: MOST_BEFORE + 1]):
        if len(row) >= width:
            below = [r for _, r in rows[i + 1 :] if len(r) >= width - 1]
            names = (
                len(set(row)) == len(row)
                and all(name.strip() for name in row)
                and not NUMBER.fullmatch(row[0])
            )
            numbers = any(
                not NUMBER.fullmatch(row[j]) and _mostly_numbers(below, j) for j in range(width - 1)
            )
            years = sum(NUMBER.fullmatch(name) is not None for name in row) > len(row) / 2
            if len(below) >= 3 and names and (numbers or years):
                return line
            return 0
        if len(row) > width / 2:
            return 0
    return 0


def _mostly_numbers(rows: list[list[str]], column: int) -> bool:
    return (
        sum(NUMBER.fullmatch(row[column]) is not None for row in rows if column < len(row))
        > len(rows) / 2
    )


def repeats_a_row(names: list[str], values: list[list[str]]) -> list[int]:
    """Returns the columns whose name is also one of their values: a file without header has its
    first row for names.

    Args:
        names: The names.
        values: Of each column the first values.
    """
    return [
        i
        for i, (name, column) in enumerate(zip(names, values, strict=True))
        if name and name in column
    ]


def _without_comments(data: bytes) -> tuple[bytes, list[str]]:
    if not data.startswith(b"#"):
        return data, []
    head = b""
    body = data
    while body.startswith(b"#"):
        head, _, body = body.partition(b"\n")
    names = head.lstrip(b"#").strip()
    first = body.lstrip(b"\r\n").partition(b"\n")[0].strip()
    # numpy.savetxt(header=...) writes it so
    if _is_header(names.decode(), first.decode(errors="ignore")):
        return names + b"\n" + COMMENT.sub(b"", body), ["line 1 names the columns behind a #"]
    if b'"' in data:
        skipped = data[: len(data) - len(body)].count(b"\n")
    else:
        skipped, body = len(COMMENT.findall(data)), COMMENT.sub(b"", data)
    return body, [f"{skipped} lines that begin with # were skipped"]


def _is_header(names: str, first: str) -> bool:
    for split in (",", ";", "\t", "|", None):
        fields, cells = names.split(split), first.split(split)
        if 1 < len(fields) == len(cells):
            numbers = [NUMBER.fullmatch(cell) is not None for cell in cells]
            return any(numbers) and not any(NUMBER.fullmatch(name) for name in fields)
    return False


def _has_blanks(data: bytes, asked: bool) -> bool:
    """Whether every line has as many words as the first, of which many are numbers, and no other
    delimiter is there.
    """
    text = data[:SAMPLE_BYTES].decode(errors="ignore")
    lines = text.splitlines()[:2000]
    if len(data) > len(text):
        lines = lines[:-1]
    lines = [line for line in lines if line.strip()]
    if asked:
        return True
    if len(lines) < 2 or any(c in line for line in lines[:20] for c in ";\t|"):
        return False
    words = [line.split() for line in lines]
    if (
        {len(row) for row in words} != {len(words[0])}
        or len(words[0]) < 2
        or any("," in w for w in words[0])
    ):
        return False
    cells = [cell for row in words[1:] for cell in row]
    return sum(NUMBER.fullmatch(cell) is not None for cell in cells) >= len(cells) / 3
