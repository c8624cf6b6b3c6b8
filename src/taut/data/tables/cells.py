"""Reads one column of a ``pyarrow.Table`` as texts, truth values, numbers or days, whatever it was
stored as.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from taut.data.tables.words import MISSING, quoted, value_text

if TYPE_CHECKING:
    import pyarrow as pa

NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|(?i:inf|infinity))", re.ASCII)
INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
DATE = re.compile(
    r"\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d(?::?\d\d)?)?)?", re.ASCII
)
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
TICKS = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
"""Ticks of a timestamp's unit in a day."""
HELD = {"text": "texts", "bool": "truth values", "number": "numbers", "date": "dates"}
"""What cells of a family are called in messages."""


class Cells(NamedTuple):
    """The cells of one column of one piece.

    Args:
        family: ``"text"``, ``"bool"``, ``"number"``, ``"date"`` or ``"null"`` (nothing but
            missing).
        type: How a value is written again (``Column.type``).
        numbers: (N,) the values of a bool, number or date (days), NaN where missing; empty for
            text.
        texts: The different texts, in the order of their first rows.
        place: (N,) each row's text, -1 where missing; empty unless text.
        tokens: The texts that were read as missing, with their counts.
        declared: Whether the source says that these are levels (a dictionary column, a pandas
            Categorical).
        order: The levels in their order, if the source declares one.
    """

    family: str
    type: str
    numbers: np.ndarray
    texts: list[str]
    place: np.ndarray
    tokens: dict[str, int]
    declared: bool = False
    order: tuple[str, ...] = ()

    @property
    def missing(self) -> np.ndarray:
        if self.family == "text":
            return self.place < 0
        return np.isnan(self.numbers)


class Tokens:
    """Creates the test for what means missing: the default texts, and the user's further texts and
    numbers.

    Args:
        further: The person's; ``"-999"`` is also the number -999, however it is written.
        levels: Texts that are levels of this column and therefore not missing.
    """

    def __init__(self, further: Sequence[str] = (), levels: Sequence[str] = ()) -> None:
        self.texts = {*MISSING, *(t.strip() for t in further)} - set(levels)
        self.numbers = {x for x in as_numbers(further).tolist() if not math.isnan(x)}
        self.days = {x for x in as_days(further)[0].tolist() if not math.isnan(x)}
        self.levels = set(levels)

    def __contains__(self, text: str) -> bool:
        if text in self.levels:
            return False
        text = text.strip()
        return text in self.texts or bool(
            self.numbers and NUMBER.fullmatch(text) and float(text) in self.numbers
        )


def read_cells(column: pa.ChunkedArray, tokens: Tokens) -> Cells | str:
    """Returns the cells of a column, or what is wrong with its type and what to do about it."""
    import pyarrow as pa

    order: tuple[str, ...] | None
    declared, order, kind = False, (), column.type
    if pa.types.is_dictionary(kind):
        declared, kind = True, kind.value_type
        order = _declared_order(column) if column.type.ordered else ()
        column = column.cast(kind)
    if order is None:
        return "declares its levels in two different orders; write it with one"
    if pa.types.is_null(kind):
        return _numbers("null", "float", np.full(len(column), np.nan), set())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _texts(column, tokens)._replace(
            declared=declared, order=tuple(t for t in order if t not in tokens)
        )
    if pa.types.is_boolean(kind):
        cells = _numbers(
            "bool", "bool", column.cast(pa.uint8()).cast(pa.float64()).to_numpy(), set()
        )
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = column.cast(pa.float64(), safe=False).to_numpy()
        cells = _numbers(
            "number", "int" if pa.types.is_integer(kind) else "float", values, tokens.numbers
        )
    elif pa.types.is_date(kind):
        cells = _numbers(
            "date", "date", _days(column.cast(pa.date32()).cast(pa.int32()), 1), tokens.days
        )
    elif pa.types.is_timestamp(kind):
        days = _days(column.cast(pa.int64()), TICKS[kind.unit])
        cells = _numbers(
            "date", "timestamp" if kind.tz is None else "timestamp UTC", days, tokens.days
        )
    else:
        return f"holds {quoted(kind)} values, {_remedy(kind)}"
    return cells._replace(declared=declared, order=order)


def as_numbers(texts: Sequence[str]) -> np.ndarray:
    """Returns each text as a number, NaN where it is none."""
    values = (float(t) if NUMBER.fullmatch(t := text.strip()) else math.nan for text in texts)
    return np.fromiter(values, np.float64, len(texts))


def days_of(numbers: np.ndarray) -> np.ndarray:
    """Returns integers such as 20240131 as days since 1970-01-01, NaN where one is not a date of
    the years 1800 to 2199.
    """
    whole = np.where(
        np.isfinite(numbers) & (numbers == np.trunc(numbers)) & (np.abs(numbers) < 1e8), numbers, 0
    ).astype(np.int64)
    year, month, day = whole // 10_000, whole // 100 % 100, whole % 100
    right = (year >= 1800) & (year < 2200) & (month >= 1) & (month <= 12) & (day >= 1)
    months = np.where(right, (year - 1970) * 12 + month - 1, 0)
    first = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    following = (months + 1).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    return np.where(right & (day <= following - first), first + day - 1.0, np.nan)


def yyyymmdd(days: np.ndarray) -> np.ndarray:
    """Returns days since 1970-01-01 as numbers such as 20240131.

    The inverse of ``days_of``, NaN where there is none.
    """
    whole = np.where(np.isfinite(days), np.round(days), 0).astype(np.int64)
    months = whole.astype("datetime64[D]").astype("datetime64[M]")
    day = whole - months.astype("datetime64[D]").astype(np.int64) + 1
    month = months.astype(np.int64)
    numbers = (1970 + month // 12) * 10_000 + (month % 12 + 1) * 100 + day
    return np.where(np.isfinite(days), numbers.astype(np.float64), np.nan)


def as_days(texts: Sequence[str]) -> tuple[np.ndarray, str]:
    """Returns each ISO date or time as days since 1970-01-01 in UTC, NaN where it is none.

    And their ``Column.type``.
    """
    days, kind = np.full(len(texts), np.nan), "date"
    for i, text in enumerate(texts):
        if DATE.fullmatch(text := text.strip()) is None:
            continue
        try:
            time = datetime.datetime.fromisoformat(text)
            zoned = time.tzinfo is not None
            moment = time if zoned else time.replace(tzinfo=datetime.UTC)
            days[i] = (moment - EPOCH) / datetime.timedelta(days=1)
        except ValueError:
            continue
        if zoned:
            kind = "timestamp UTC"
        elif kind == "date" and len(text) > 10:
            kind = "timestamp"
    return days, kind


def _texts(column: pa.ChunkedArray, tokens: Tokens) -> Cells:
    import pyarrow as pa

    encoded = column.cast(pa.large_string()).combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    texts = encoded.dictionary.to_pylist()
    index = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)
    gone = np.array([t in tokens for t in texts], bool)
    if not gone.any():
        return _cells_of_texts(texts, index, {})
    counts = np.bincount(index[index >= 0], minlength=len(texts))
    read = {t: int(n) for t, n, g in zip(texts, counts, gone, strict=True) if g}
    moved = np.append(np.where(gone, -1, np.cumsum(~gone) - 1), -1)
    kept = [t for t, g in zip(texts, gone, strict=True) if not g]
    return _cells_of_texts(kept, moved[index], read)


def _cells_of_texts(texts: list[str], place: np.ndarray, read: dict[str, int]) -> Cells:
    if texts:
        return Cells("text", "text", np.full(0, np.nan), texts, place, read)
    return Cells("null", "text", np.full(len(place), np.nan), texts, place, read)


def _numbers(family: str, type_: str, values: np.ndarray, missing: set[float]) -> Cells:
    values = np.array(values, np.float64)
    if missing:
        values[np.isin(values, list(missing))] = np.nan
    return Cells(family, type_, values, [], np.zeros(0, np.int64), {})


def _days(ticks: pa.ChunkedArray, per_day: int) -> np.ndarray:
    return np.asarray(ticks.to_numpy(), np.float64) / per_day


def merged_order(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...] | None:
    """Returns the longer of two orders of levels, or None if the shorter contradicts it."""
    short, long = sorted((one, other), key=len)
    if tuple(level for level in long if level in set(short)) == short:
        return long
    return None


def _declared_order(column: pa.ChunkedArray) -> tuple[str, ...] | None:
    order: tuple[str, ...] = ()
    for chunk in column.chunks:
        levels = chunk.dictionary.to_pylist()
        merged = merged_order(order, tuple(map(_level_text, levels)))
        if merged is None:
            return None
        order = merged
    return order


def _level_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value
    return value_text(value)


def _remedy(kind: pa.DataType) -> str:
    import pyarrow as pa

    if pa.types.is_time(kind) or pa.types.is_duration(kind):
        return "which are not supported; give them as a number, such as seconds"
    if pa.types.is_nested(kind):
        return "several in one cell; give each entry a column of its own"
    return (
        'which are not supported; give them as text or numbers, or omit them (kind = "id" in '
        "a schema file)"
    )
