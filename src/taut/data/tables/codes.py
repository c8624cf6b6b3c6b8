"""Turns the cells of a table into codes, one float64 a cell with NaN for missing, and codes back
into cells.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from taut.data.tables.cells import (
    TICKS,
    Cells,
    Tokens,
    as_days,
    as_numbers,
    days_of,
    read_cells,
    yyyymmdd,
)
from taut.data.tables.column import (
    LEVEL_KINDS,
    Column,
    float_storage,
    nearest_to,
    quoted,
    value_text,
)
from taut.data.tables.notation import days_in, numbers_in
from taut.data.tables.seen import some
from taut.system.errors import DataError, UsageError, shown

if TYPE_CHECKING:
    import pyarrow as pa

MAX_DRIFT = 10.0
LARGE_MEND = 'leave the column out with kind = "id" in a schema file, or divide it'
MANY = 10  # values of a column, from which on it can be the wrong column as a whole
TRUTH = {
    word: truth
    for truth, words in ((False, "0 false f no n"), (True, "1 true t yes y"))
    for word in words.split()
}


class _Coded(NamedTuple):
    """(N,) codes with NaN for missing, and what each cell that is not of the right type says (-1.

    Of the right type).
    """

    values: np.ndarray
    wrong: np.ndarray
    texts: Sequence[str]


def encode(
    table: pa.Table,
    columns: Sequence[Column],
    name: str,
    *,
    missing_values: Sequence[str] = (),
    first_row: int = 0,
) -> tuple[np.ndarray, list[str], list[str]]:
    """Returns the codes (N, C) of the modelled columns, what is wrong with the table, and what a
    person should know.

    Columns are found by name, in any order; ids and constants may be absent. Levels that are not
    the column's are missing and noted; where none is the column's, or a cell is wrong in any other
    way, its code means nothing and a line says so. Numbers that a column of integers cannot hold
    keep their code, unless they are most of it: they have no probability.

    Args:
        table: The rows.
        columns: What its columns are.
        name: What to call the data in the lines.
        missing_values: Texts and numbers that mean missing, besides ``MISSING``.
        first_row: The number of the table's first row, for the lines.
    """
    where = f"{shown(name)}: "
    problems, notes = _header_problems(table.column_names, columns), []
    modelled = [c for c in columns if c.modelled]
    # a search for each would take long: a table may have 10,000 columns
    times = Counter(table.column_names)
    places = {header: i for i, header in enumerate(table.column_names) if times[header] == 1}
    further = Tokens(missing_values)
    values = np.full((table.num_rows, len(modelled)), np.nan)
    for j, column in enumerate(modelled):
        if column.name not in places:
            continue
        tokens = Tokens(missing_values, column.levels) if column.levels else further
        cells = read_cells(table.column(places[column.name]), tokens)
        if isinstance(cells, str):
            problems.append(f"column {quoted(column.name)} {cells}")
        elif column.kind in LEVEL_KINDS and cells.family == "date":
            problems += _wrong_type(_all_wrong(cells, "dates"), column, first_row)
        elif column.kind in LEVEL_KINDS:
            values[:, j], lines, wrong = _level_codes(cells, column)
            problems += _infinite(cells.numbers, column, first_row) or wrong
            notes += lines
        else:
            coded = (
                _day_codes(cells, column) if column.kind == "date" else _number_codes(cells, column)
            )
            values[:, j] = column.codes(coded.values)
            problems += _wrong_type(coded, column, first_row) or _wrong_values(
                coded.values, column, first_row
            )
            notes += _outside(coded.values, column, first_row) + _drift(coded.values, column)
    return values, [where + line for line in problems], [where + line for line in notes]


def decode(values: np.ndarray, columns: Sequence[Column]) -> pa.Table:
    """Returns the table of the codes (N, C) of the modelled columns, in the given order; NaN
    becomes null.

    Texts, truth values, integers, floats and dates are written as they were read. Integers that a
    density made (kind real or positive) stay floats if any is none.

    Fails:
        UsageError: the codes have another number of columns, or one is no level of its column.
        DataError: a date lies beyond what a date can hold.
    """
    import pyarrow as pa

    modelled = [c for c in columns if c.modelled]
    if values.ndim != 2 or values.shape[1] != len(modelled):
        raise UsageError(f"codes of shape {values.shape} do not fit {len(modelled)} columns")
    cells = [_decoded(_numbers(values[:, j], column), column) for j, column in enumerate(modelled)]
    return pa.table(cells, names=[c.name for c in modelled])


def _header_problems(headers: list[str], columns: Sequence[Column]) -> list[str]:
    times, known = Counter(headers), {c.name for c in columns}
    absent = [c.name for c in columns if c.modelled and c.name not in times]
    extra = [h for h in times if h not in known]
    twice = [h for h, n in times.items() if n > 1]
    lines = []
    if absent:
        near = nearest_to(absent[0], extra)
        lines.append(
            f"{len(absent)} of {len(columns)} columns are missing: "
            f"{_names(absent)}{near or '; add them'}"
        )
    if extra:
        near = nearest_to(extra[0], absent)
        lines.append(
            f"{len(extra)} columns are not the model's: {_names(extra)}{near or '; remove them'}"
        )
    return (
        [*lines, f"{_names(twice)} names more than one column; rename all but one"]
        if twice
        else lines
    )


def _names(names: Sequence[str]) -> str:
    return ", ".join(quoted(n) for n in names[:10]) + (
        f" and {len(names) - 10} more" if len(names) > 10 else ""
    )


def _number_codes(cells: Cells, column: Column) -> _Coded:
    if cells.family in ("number", "null"):
        return _all_right(cells.numbers)
    if cells.family == "text":
        plain = as_numbers(cells.texts)
        return _parsed(
            cells,
            np.where(np.isnan(plain), numbers_in(cells.texts, column.notation), plain)
            if column.notation
            else plain,
        )
    return _all_wrong(cells, "truth values" if cells.family == "bool" else "dates")


def _day_codes(cells: Cells, column: Column) -> _Coded:
    if column.type == "yyyymmdd" and cells.family in ("number", "text"):
        numbers = _number_codes(cells, column)
        if (numbers.wrong >= 0).any():
            return numbers
        days = days_of(numbers.values)
        wrong = np.isnan(days) & ~np.isnan(numbers.values)
        others = [value_text(x) for x in np.unique(numbers.values[wrong])]
        which = np.searchsorted(
            np.unique(numbers.values[wrong]), np.where(wrong, numbers.values, -np.inf)
        )
        return _Coded(days, np.where(wrong, which, -1), others)
    if cells.family in ("date", "null"):
        return _all_right(cells.numbers)
    if cells.family == "text":
        plain = as_days(cells.texts)[0]
        return _parsed(
            cells,
            np.where(np.isnan(plain), days_in(cells.texts, column.notation)[0], plain)
            if column.notation
            else plain,
        )
    return _all_wrong(cells, "truth values" if cells.family == "bool" else "numbers")


def _all_right(values: np.ndarray) -> _Coded:
    return _Coded(values, np.full(len(values), -1), ())


def _all_wrong(cells: Cells, what: str) -> _Coded:
    wrong = np.where(cells.missing, -1, 0)
    return _Coded(np.full(len(wrong), np.nan), wrong, (what,))


def _parsed(cells: Cells, values: np.ndarray) -> _Coded:
    wrong = np.where(np.isnan(values), np.arange(len(values)), -1)
    return _Coded(
        np.append(values, np.nan)[cells.place], np.append(wrong, -1)[cells.place], cells.texts
    )


def _level_codes(cells: Cells, column: Column) -> tuple[np.ndarray, list[str], list[str]]:
    """Texts are compared as they are, but as numbers or truth values where the column holds such.

    Returns the codes, notes and problems.
    """
    if cells.family in ("bool", "number"):
        numbers, index = np.unique(cells.numbers[~cells.missing], return_inverse=True)
        texts = [_number_level(v, cells) for v in numbers.tolist()]
        place = np.full(len(cells.numbers), -1)
        place[~cells.missing] = index
    else:
        texts, place = (
            cells.texts,
            cells.place if cells.family == "text" else np.full(len(cells.numbers), -1),
        )
    if column.notation:
        worn = numbers_in(texts, column.notation).tolist()
        texts = [
            text if math.isnan(x) else value_text(x) for text, x in zip(texts, worn, strict=True)
        ]
    plain = _comparable(cells, column)
    codes = {plain(level): code for code, level in enumerate(column.levels)}
    if not any(plain(text) in codes for text in texts) and (truths := _truths(texts, column)):
        plain, codes = (lambda text: TRUTH.get(text.strip().lower())), truths
    code = np.array([codes.get(plain(text), np.nan) for text in texts] + [np.nan], np.float64)
    values = code[place]
    unseen = np.isnan(values) & (place >= 0)
    if not unseen.any():
        return values, [], []
    counts = Counter(texts[i] for i in place[unseen].tolist())
    held = (
        f"{unseen.sum():,} values of {quoted(column.name)} are levels never seen in training "
        f"({some(list(counts))})"
    )
    if MANY <= unseen.sum() == (place >= 0).sum():
        return (
            values,
            [],
            [
                f"all {held}; it was trained on {some(column.levels)}: write them like that, or "
                f"leave them empty"
            ],
        )
    return values, [f"{held}: read as missing"], []


def _truths(texts: Sequence[str], column: Column) -> dict[object, int]:
    """Returns the code of each truth value if the column holds two, as whatever words, and so do
    all of the texts.
    """
    own: dict[object, int] = {
        TRUTH.get(level.strip().lower()): code for code, level in enumerate(column.levels)
    }
    same = set(own) == {False, True} and all(text.strip().lower() in TRUTH for text in texts)
    return own if same and texts else {}


def _comparable(cells: Cells, column: Column) -> Callable[[str], object]:
    """Returns what makes level texts equal that say the same.

    A reader may take a file of 01 and 02 for numbers.
    """
    if "bool" in (column.type, cells.family):
        return str.lower
    if column.type in ("int", "float"):
        return _as_number
    unique = len({_as_number(level) for level in column.levels}) == len(column.levels)
    return _as_number if cells.family == "number" and unique else str


def _number_level(value: float, cells: Cells) -> str:
    return ("false", "true")[int(value)] if cells.family == "bool" else value_text(value)


def _as_number(text: str) -> object:
    number = as_numbers([text])[0].item()
    return number if number == number else text


def _wrong_type(coded: _Coded, column: Column, first_row: int) -> list[str]:
    rows = np.flatnonzero(coded.wrong >= 0)
    if not len(rows):
        return []
    text = coded.texts[coded.wrong[rows[0]]]
    needed = (
        "dates (YYYY-MM-DD)"
        if column.kind == "date"
        else "levels"
        if column.kind in LEVEL_KINDS
        else "numbers"
    )
    first = f"the first ({quoted(text)}) in row {first_row + rows[0]} (from 0, header not counted)"
    mend = "mend them, or list what means missing in --missing-values"
    return [f"{_share(len(rows), coded.values, column)} are no {needed}, {first}; {mend}"]


def _wrong_values(x: np.ndarray, column: Column, first_row: int) -> list[str]:
    finite, integer = np.isfinite(x), x == np.trunc(x)
    storage = np.finfo(float_storage())
    tests = [
        (
            finite & (np.abs(x) > float(storage.max)),
            f"beyond the range of {storage.dtype.name}",
            "rescale the column",
        ),
    ]
    if column.kind == "count":
        large = "integers from 2^53 on, which floats do not tell apart"
        tests.append((finite & (x >= 2.0**53), large, LARGE_MEND))
    if column.kind == "positive":
        small = f"above 0 and below {float(storage.tiny):.3g}, the smallest {storage.dtype.name}"
        tests.append((finite & (x > 0) & (x < float(storage.tiny)), small, "give their logarithms"))
    impossible = []
    if column.kind == "count" or (column.kind == "levels" and column.step in (0.0, 1.0)):
        impossible.append((finite & ~integer, "not integers", _integer_mend(x[finite], column)))
    if column.kind == "count":
        impossible.append((finite & (x < 0), "negative", "give raw counts"))
    if column.kind == "levels" and column.step not in (0.0, 1.0):
        off = f"not on the grid of steps of {column.step:g}"
        impossible.append((finite & ~_on_grid(x, column), off, 'train with kind = "real"'))
    tests += [test for test in impossible if test[0].sum() > max(MANY, finite.sum()) / 2]
    found = [
        _found(x, marked, column, what, mend, first_row)
        for marked, what, mend in tests
        if marked.any()
    ]
    return _infinite(x, column, first_row) + found


def _on_grid(x: np.ndarray, column: Column) -> np.ndarray:
    codes = column.codes(x)
    on_grid: np.ndarray = codes == np.round(codes)
    return on_grid


def _outside(x: np.ndarray, column: Column, first_row: int) -> list[str]:
    """Returns a line for values that the training never saw the like of.

    Their family gives them little mass, but not none.
    """
    finite, real = np.isfinite(x), 'kind = "real"'
    odd = []
    if column.kind == "positive":
        odd.append((finite & (x <= 0), "not above 0", real))
    if column.kind == "levels":
        low, high = column.low, column.high
        least, most = x[finite].min(initial=low), x[finite].max(initial=high)
        wider = f"low = {np.floor(least) if least < low else low:.15g}"
        wider += f" and high = {np.ceil(most) if most > high else high:.15g}"
        grid = (
            "not integers" if column.step in (0.0, 1.0) else f"not on the grid of {column.step:g}"
        )
        odd.append((finite & ~_on_grid(x, column), grid, real))
        odd.append(
            (
                finite & ((x < low) | (x > high)),
                f"outside the levels {low:.15g}..{high:.15g}",
                wider,
            )
        )
    if column.kind == "mixed" and column.bounded:
        low, high = column.support
        past = finite & ((column.codes(x) < low) | (column.codes(x) > high))
        name, held = {
            "low": ("below", f"{column.low:g}"),
            "high": ("above", f"{column.high:g}"),
            "both": ("outside", f"{column.low:g}..{column.high:g}"),
        }[column.bounded]
        odd.append((past, f"{name} {held}, which the training data never pass", real))
    mend = (
        "log p(x) of their rows is finite, but low; train with {} in a schema file to expect them"
    )
    return [
        _found(x, marked, column, what, mend.format(how), first_row)
        for marked, what, how in odd
        if marked.any()
    ]


def _infinite(x: np.ndarray, column: Column, first_row: int) -> list[str]:
    mend = "replace them, or list inf or -inf in --missing-values"
    return (
        [_found(x, np.isinf(x), column, "infinite", mend, first_row)] if np.isinf(x).any() else []
    )


def _integer_mend(finite: np.ndarray, column: Column) -> str:
    if column.kind == "count" and finite.min(initial=0) >= 0 and finite.max(initial=0) < 20:
        return "they look log-normalised: give raw counts"
    return (
        "give raw counts" if column.kind == "count" else 'correct them, or train with kind = "real"'
    )


def _found(
    x: np.ndarray, marked: np.ndarray, column: Column, what: str, mend: str, first_row: int
) -> str:
    row = int(marked.argmax())
    extreme = (
        f"largest {x[marked].max():.6g}, first {x[row]:.6g} in row {first_row + row} (from 0, "
        f"header not counted)"
    )
    return f"{_share(int(marked.sum()), x, column)} are {what} ({extreme}); {mend}"


def _share(count: int, x: np.ndarray, column: Column) -> str:
    return f"{count:,} values ({100 * count / len(x):.3g} %) of {quoted(column.name)}"


def _drift(x: np.ndarray, column: Column) -> list[str]:
    finite = x[np.isfinite(x)]
    if not len(finite) or column.std <= 0:
        return []
    drift = abs(float(finite.mean()) - column.mean) / column.std
    far = (
        f"the mean of {quoted(column.name)} lies {drift:,.0f} standard deviations from that of the "
        f"training data"
    )
    return [f"{far}; check its unit"] if drift > MAX_DRIFT else []


def _numbers(codes: np.ndarray, column: Column) -> np.ndarray:
    return (
        np.asarray(codes, np.float64)
        if column.kind in LEVEL_KINDS
        else np.asarray(column.values(codes))
    )


def _decoded(x: np.ndarray, column: Column) -> pa.Array:
    import pyarrow as pa

    gone = np.isnan(x)
    if column.kind in LEVEL_KINDS:
        if not np.isin(x[~gone], np.arange(len(column.levels))).all():
            raise UsageError(
                f"column {quoted(column.name)}: codes must be 0..{len(column.levels) - 1}"
            )
        return _level_array(column).take(pa.array(np.where(gone, 0, x).astype(np.int64), mask=gone))
    if column.kind == "date":
        return _days_array(x, gone, column)
    whole = column.type == "int" and bool(np.all(gone | (x == np.trunc(x)) & (np.abs(x) < 2**63)))
    return (
        pa.array(np.where(gone, 0, x).astype(np.int64), mask=gone)
        if whole
        else pa.array(x, mask=gone)
    )


def _level_array(column: Column) -> pa.Array:
    import pyarrow as pa

    reads: dict[str, tuple[Any, pa.DataType]] = {
        "bool": (lambda text: text.lower() == "true", pa.bool_()),
        "int": (int, pa.int64()),
        "float": (float, pa.float64()),
    }
    read, kind = reads.get(column.type, (str, pa.string()))
    return pa.array([read(level) for level in column.levels], kind)


def _days_array(x: np.ndarray, gone: np.ndarray, column: Column) -> pa.Array:
    import pyarrow as pa

    if column.type == "yyyymmdd":
        return pa.array(np.where(gone, 0, yyyymmdd(x)).astype(np.int64), mask=gone)
    if column.type == "date":
        kind, width, per_day = pa.date32(), 32, 1
    else:
        kind, width, per_day = (
            pa.timestamp("us", "UTC" if column.type.endswith("UTC") else None),
            64,
            TICKS["us"],
        )
    ticks = np.round(x * per_day)
    beyond = ~gone & ~(np.abs(ticks) < 2.0 ** (width - 1))
    if beyond.any():
        raise DataError(
            f"{beyond.sum():,} values of {quoted(column.name)} are {x[beyond][0]:.3g} days from "
            f"1970: no dates"
        )
    return pa.array(np.where(gone, 0, ticks).astype(f"int{width}"), mask=gone).cast(kind)
