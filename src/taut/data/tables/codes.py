"""Turns the cells of a table into codes, one float64 a cell with NaN for missing, and codes back
into cells.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from taut.data.tables.cells import (
    HELD,
    TICKS,
    Cells,
    Tokens,
    as_days,
    as_numbers,
    days_of,
    read_cells,
    yyyymmdd,
)
from taut.data.tables.column import Column
from taut.data.tables.formula import CONTRADICTING, Formula, agreeing
from taut.data.tables.notation import days_in, numbers_in
from taut.data.tables.notes import FROM_0
from taut.data.tables.oddities import (
    MANY,
    Coded,
    drift,
    infinite,
    odd_values,
    wrong_type,
    wrong_values,
)
from taut.data.tables.seen import some
from taut.data.tables.words import FORMULA, decimals, nearest_to, quoted, value_text
from taut.system.errors import DataError, UsageError, and_more, shown

if TYPE_CHECKING:
    import pyarrow as pa

TRUTH = {
    word: truth
    for truth, words in ((False, "0 false f no n"), (True, "1 true t yes y"))
    for word in words.split()
}


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
        tokens = further
        if column.levels:
            tokens = Tokens(missing_values, column.levels)
        cells = read_cells(table.column(places[column.name]), tokens)
        if isinstance(cells, str):
            problems.append(f"column {quoted(column.name)} {cells}")
            continue
        encode_one = _level_codes if column.rules.nominal else _numeric_codes
        values[:, j], told, wrong = encode_one(cells, column, first_row)
        problems += wrong
        notes += told
    for column in columns:
        if column.formula and column.name in places and not problems:
            cells = read_cells(table.column(places[column.name]), further)
            wrong, told = _completed(values, modelled, column, cells)
            problems, notes = problems + wrong, notes + told
    return values, [where + line for line in problems], [where + line for line in notes]


def _completed(
    values: np.ndarray, modelled: Sequence[Column], column: Column, cells: Cells | str
) -> tuple[list[str], list[str]]:
    """Fills the gaps that a derived column closes, in place: those of rows that lack one of its
    parts.

    Returns problems and notes: how many gaps were filled, and how many rows contradict the formula,
    which is a problem where they are many, and by more than the rounding of every part explains.
    """
    assert isinstance(column.sum, Formula)
    if isinstance(cells, str) or cells.family not in ("number", "text"):
        return [], []
    total = _number_codes(cells, column).values
    parts = [j for j, c in enumerate(modelled) if c.name in column.sum.factors]
    numbers = {modelled[j].name: modelled[j].values(values[:, j]) for j in parts}
    lone = ~np.isnan(total) & (np.isnan(values[:, parts]).sum(1) == 1)
    closed, notes = 0, []
    for j in parts:
        here = lone & np.isnan(values[:, j])
        if here.any():
            closed += int(here.sum())
            found = column.sum.solved(modelled[j].name, total, numbers)[here]
            values[here, j] = modelled[j].settled(modelled[j].codes(found))
    if closed:
        notes.append(
            f"{closed:,} missing entries follow from {quoted(column.name)} = {column.formula}"
        )
    numbers = {modelled[j].name: plain_numbers(modelled[j], values[:, j]) for j in parts}
    blur = 0.0 if column.step else closeness(column)
    agree = agreeing(column.sum, numbers, total, last_digit(column), blur)
    wrong = np.flatnonzero(~agree)
    if not len(wrong):
        return [], notes
    first = int(wrong[0])
    line = (
        f"{len(wrong):,} of {np.count_nonzero(~np.isnan(total)):,} rows contradict "
        f"{quoted(column.name)} = {column.formula}, the first is row {first} {FROM_0}, which has "
        f"{total[first]:.15g}, not {column.sum.of(numbers)[first]:.15g}; correct them, or the "
        f"formula"
    )
    far = np.abs(total - column.sum.of(numbers)) > closeness(column)
    if np.count_nonzero(far) > CONTRADICTING * len(total):
        return [line], notes
    return [], [*notes, line]


def decode(values: np.ndarray, columns: Sequence[Column]) -> pa.Table:
    """Returns the table of the codes (N, C) of the modelled columns, in the given order; NaN
    becomes null.

    Texts, truth values, integers, floats and dates are written as they were read. Integers that a
    density made (kind real or positive) stay floats if any is none.

    Raises:
        UsageError: the codes have another number of columns, or one is not a level of its column.
        DataError: a date lies beyond what a date can hold.
    """
    import pyarrow as pa

    modelled = [c for c in columns if c.modelled]
    if values.ndim != 2 or values.shape[1] != len(modelled):
        raise UsageError(f"codes of shape {values.shape} do not fit {len(modelled)} columns")
    numbers = numbers_of(values, columns)
    made = [c for c in columns if c.name in numbers]
    return pa.table([_decoded(numbers[c.name], c) for c in made], names=[c.name for c in made])


def in_own_words(codes: np.ndarray, column: Column) -> list[str | None]:
    """Returns the cells that codes of a column, (N,), were read from, in texts that can be read
    again: what lies off the grid or outside of the range of the training stays there. None is
    missing.
    """
    gone = np.isnan(codes)
    if column.levels:
        return [None if no else column.levels[int(x)] for no, x in zip(gone, codes, strict=True)]
    unit = column.rules.unit(column)
    exact, rounded = plain_numbers(column, codes), column.values(codes)
    near = np.abs(exact - rounded) <= 2.0**-23 * np.abs(codes) * unit  # what single precision keeps
    cells = _decoded(np.where(near, rounded, exact), column).to_pylist()
    return [None if cell is None else in_full(cell) for cell in cells]


def in_full(cell: Any) -> str:
    """Returns a cell as a text; of a number all digits that there are, and no more."""
    return f"{cell:.15g}" if isinstance(cell, float) else str(cell)


def numbers_of(codes: np.ndarray, columns: Sequence[Column]) -> dict[str, np.ndarray]:
    """Returns the numbers (of levels their codes) that the codes of the modelled columns, (N, C),
    stand for, and those that follow from them, by name.
    """
    modelled = [c for c in columns if c.modelled]
    numbers = {c.name: c.values(codes[:, j]) for j, c in enumerate(modelled)}
    for column in columns:
        if column.kind == "key":
            numbers[column.name] = column.high + 1 + np.arange(len(codes))
        if isinstance(column.sum, Formula) and column.sum.factors.keys() <= numbers.keys():
            numbers[column.name] = column.values(column.settled(column.sum.of(numbers)))
    return numbers


def plain_numbers(column: Column, codes: np.ndarray) -> np.ndarray:
    """Returns the numbers that codes stand for as they are, on a grid or not."""
    return np.asarray(codes * column.rules.unit(column) + column.offset)


def last_digit(column: Column) -> float:
    """Returns the size of the last digit of a column of numbers, 0 where it has none."""
    if not column.step:
        return 0.0
    return float(10.0 ** -decimals(column.step))


def closeness(column: Column) -> float:
    """Returns how far a derived column may be from a formula that somebody stated.

    Whole numbers are what it says; of others, whose parts were rounded too, the last digit may be
    off by one; where there is none, what single precision keeps.
    """
    if not column.step:
        return 1e-6 * max(abs(column.low), abs(column.high))
    places = decimals(column.step)
    if not places:
        return 0.51
    return float(1.01 * 10.0**-places)


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
    if twice:
        return [*lines, f"{_names(twice)} names more than one column; rename all but one"]
    return lines


def _names(names: Sequence[str]) -> str:
    return ", ".join(quoted(n) for n in names[:10]) + and_more(names, 10)


def _numeric_codes(
    cells: Cells, column: Column, first_row: int
) -> tuple[np.ndarray, list[str], list[str]]:
    """Returns the codes, notes and problems."""
    reads_dates = column.rules.reads == "date"
    coded = _day_codes(cells, column) if reads_dates else _number_codes(cells, column)
    problems = wrong_type(coded, column, first_row)
    problems = problems or wrong_values(coded.values, column, first_row)
    notes = odd_values(coded.values, column, first_row) + drift(coded.values, column)
    return column.codes(coded.values), notes, problems


def _number_codes(cells: Cells, column: Column) -> Coded:
    if cells.family in ("number", "null"):
        return _all_right(cells.numbers)
    if cells.family != "text":
        return _all_wrong(cells, HELD[cells.family])
    plain = as_numbers(cells.texts)
    if column.notation:
        plain = np.where(np.isnan(plain), numbers_in(cells.texts, column.notation), plain)
    return _parsed(cells, plain)


def _day_codes(cells: Cells, column: Column) -> Coded:
    if column.type == "yyyymmdd" and cells.family in ("number", "text"):
        return _digit_codes(_number_codes(cells, column))
    if cells.family in ("date", "null"):
        return _all_right(cells.numbers)
    if cells.family != "text":
        return _all_wrong(cells, HELD[cells.family])
    plain = as_days(cells.texts)[0]
    if column.notation:
        plain = np.where(np.isnan(plain), days_in(cells.texts, column.notation)[0], plain)
    return _parsed(cells, plain)


def _digit_codes(numbers: Coded) -> Coded:
    """Returns the days of integers such as 20240131."""
    if (numbers.wrong >= 0).any():
        return numbers
    days = days_of(numbers.values)
    wrong = np.isnan(days) & ~np.isnan(numbers.values)
    others = np.unique(numbers.values[wrong])
    which = np.searchsorted(others, np.where(wrong, numbers.values, -np.inf))
    return Coded(days, np.where(wrong, which, -1), [value_text(x) for x in others])


def _all_right(values: np.ndarray) -> Coded:
    return Coded(values, np.full(len(values), -1), ())


def _all_wrong(cells: Cells, what: str) -> Coded:
    wrong = np.where(cells.missing, -1, 0)
    return Coded(np.full(len(wrong), np.nan), wrong, (what,))


def _parsed(cells: Cells, values: np.ndarray) -> Coded:
    wrong = np.where(np.isnan(values), np.arange(len(values)), -1)
    return Coded(
        np.append(values, np.nan)[cells.place], np.append(wrong, -1)[cells.place], cells.texts
    )


def _as_sampled(text: str) -> str:
    """Returns a text without the apostrophe that a CSV file of ``taut sample`` has before what a
    spreadsheet would run.
    """
    if text[:1] == "'" and text[1:].startswith(FORMULA):
        return text[1:]
    return text


def _level_codes(
    cells: Cells, column: Column, first_row: int
) -> tuple[np.ndarray, list[str], list[str]]:
    """Texts are compared as they are, but as numbers or truth values where the column holds such.

    Returns the codes, notes and problems.
    """
    if cells.family == "date":
        wrong = _all_wrong(cells, "dates")
        return wrong.values, [], wrong_type(wrong, column, first_row)
    endless = infinite(cells.numbers, column, first_row)
    texts, place = _level_texts(cells, column)
    plain = _comparable(cells, column)
    codes = {plain(level): code for code, level in enumerate(column.levels)}
    if not any(plain(text) in codes for text in texts) and (truths := _truths(texts, column)):
        plain, codes = (lambda text: TRUTH.get(text.strip().lower())), truths
    found = [codes.get(plain(text), codes.get(plain(_as_sampled(text)), np.nan)) for text in texts]
    values = np.array([*found, np.nan], np.float64)[place]
    unseen = np.isnan(values) & (place >= 0)
    if not unseen.any():
        return values, [], endless
    counts = Counter(texts[i] for i in place[unseen].tolist())
    held = (
        f"{unseen.sum():,} values of {quoted(column.name)} are levels never seen in training "
        f"({some(list(counts))})"
    )
    if MANY <= unseen.sum() == (place >= 0).sum():
        all_new = (
            f"all {held}; it was trained on {some(column.levels)}: write them like that, or leave "
            f"them empty"
        )
        return values, [], endless or [all_new]
    return values, [f"{held}: read as missing"], endless


def _level_texts(cells: Cells, column: Column) -> tuple[Sequence[str], np.ndarray]:
    """Returns the different texts of a column, and the place of each cell among them (-1:
    missing).
    """
    texts: Sequence[str] = cells.texts
    place = np.full(len(cells.numbers), -1)
    if cells.family in ("bool", "number"):
        numbers, index = np.unique(cells.numbers[~cells.missing], return_inverse=True)
        texts = [_number_level(v, cells) for v in numbers.tolist()]
        place[~cells.missing] = index
    elif cells.family == "text":
        place = cells.place
    if column.notation:
        worn = numbers_in(texts, column.notation).tolist()
        texts = [
            text if math.isnan(x) else value_text(x) for text, x in zip(texts, worn, strict=True)
        ]
    return texts, place


def _truths(texts: Sequence[str], column: Column) -> dict[object, int]:
    """Returns the code of each truth value if the column holds two, as whatever words, and so do
    all of the texts.
    """
    own: dict[object, int] = {
        TRUTH.get(level.strip().lower()): code for code, level in enumerate(column.levels)
    }
    same = set(own) == {False, True} and all(text.strip().lower() in TRUTH for text in texts)
    if same and texts:
        return own
    return {}


def _comparable(cells: Cells, column: Column) -> Callable[[str], object]:
    """Returns what makes level texts equal that say the same.

    A reader may take a file of 01 and 02 for numbers.
    """
    if "bool" in (column.type, cells.family):
        return str.lower
    if column.type in ("int", "float"):
        return _as_number
    unique = len({_as_number(level) for level in column.levels}) == len(column.levels)
    if cells.family == "number" and unique:
        return _as_number
    return str


def _number_level(value: float, cells: Cells) -> str:
    if cells.family == "bool":
        return ("false", "true")[int(value)]
    return value_text(value)


def _as_number(text: str) -> object:
    number = as_numbers([text])[0].item()
    if number == number:
        return number
    return text


def _decoded(x: np.ndarray, column: Column) -> pa.Array:
    import pyarrow as pa

    gone = np.isnan(x)
    if column.rules.nominal:
        if not np.isin(x[~gone], np.arange(len(column.levels))).all():
            raise UsageError(
                f"column {quoted(column.name)}: codes must be 0..{len(column.levels) - 1}"
            )
        return _level_array(column).take(pa.array(np.where(gone, 0, x).astype(np.int64), mask=gone))
    if column.rules.reads == "date":
        return _days_array(x, gone, column)
    if column.type == "int" and np.all(gone | (x == np.trunc(x)) & (np.abs(x) < 2**63)):
        return pa.array(np.where(gone, 0, x).astype(np.int64), mask=gone)
    return pa.array(x, mask=gone)


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
        zone = "UTC" if column.type.endswith("UTC") else None
        kind, width, per_day = pa.timestamp("us", zone), 64, TICKS["us"]
    ticks = np.round(x * per_day)
    beyond = ~gone & ~(np.abs(ticks) < 2.0 ** (width - 1))
    if beyond.any():
        raise DataError(
            f"{beyond.sum():,} values of {quoted(column.name)} are {x[beyond][0]:.3g} days from "
            f"1970: not dates"
        )
    return pa.array(np.where(gone, 0, ticks).astype(f"int{width}"), mask=gone).cast(kind)
