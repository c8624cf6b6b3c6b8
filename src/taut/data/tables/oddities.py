"""What is wrong with the values of a trained column, and what is only unlike them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from taut.data.tables.column import Column
from taut.data.tables.words import quoted

MAX_DRIFT = 10.0
MANY = 10  # values of a column, from which on it can be the wrong column as a whole


class Coded(NamedTuple):
    """Numbers (N,) with NaN for missing, and which text each cell says that is not one (-1: it is
    one).
    """

    values: np.ndarray
    wrong: np.ndarray
    texts: Sequence[str]


def wrong_type(coded: Coded, column: Column, first_row: int) -> list[str]:
    """Returns a line about cells that are not of the column's type."""
    rows = np.flatnonzero(coded.wrong >= 0)
    if not len(rows):
        return []
    text = coded.texts[coded.wrong[rows[0]]]
    first = f"the first ({quoted(text)}) in row {first_row + rows[0]} (from 0, header not counted)"
    remedy = "correct them, or list what means missing in --missing-values"
    share = _share(len(rows), coded.values, column)
    return [f"{share} are not {column.rules.needs}, {first}; {remedy}"]


def wrong_values(x: np.ndarray, column: Column, first_row: int) -> list[str]:
    """Returns a line for each sort of values that cannot be stored, or are not the column's though
    most are so.
    """
    most = max(MANY, int(np.isfinite(x).sum())) / 2
    tests = column.rules.wrong(column, x)
    tests += [test for test in column.rules.foreign(column, x) if test[0].sum() > most]
    found = [_found(x, *test, column, first_row) for test in tests if test[0].any()]
    return infinite(x, column, first_row) + found


def odd_values(x: np.ndarray, column: Column, first_row: int) -> list[str]:
    """Returns a line for values that the training never saw the like of.

    Their family gives them little mass, but not none.
    """
    remedy = (
        "log p(x) of their rows is finite, but low; train with {} in a schema file to expect them"
    )
    return [
        _found(x, marked, what, remedy.format(how), column, first_row)
        for marked, what, how in column.rules.odd(column, x)
        if marked.any()
    ]


def infinite(x: np.ndarray, column: Column, first_row: int) -> list[str]:
    """Returns a line about infinite values."""
    marked = np.isinf(x)
    if not marked.any():
        return []
    remedy = "replace them, or list inf or -inf in --missing-values"
    return [_found(x, marked, "infinite", remedy, column, first_row)]


def drift(x: np.ndarray, column: Column) -> list[str]:
    """Returns a line where the mean is far from that of the training data."""
    finite = x[np.isfinite(x)]
    if not len(finite) or column.std <= 0:
        return []
    away = abs(float(finite.mean()) - column.mean) / column.std
    if away <= MAX_DRIFT:
        return []
    return [
        f"the mean of {quoted(column.name)} lies {away:,.0f} standard deviations from that of the "
        f"training data; check its unit"
    ]


def _found(
    x: np.ndarray, marked: np.ndarray, what: str, remedy: str, column: Column, first_row: int
) -> str:
    row = int(marked.argmax())
    extreme = (
        f"largest {x[marked].max():.6g}, first {x[row]:.6g} in row {first_row + row} (from 0, "
        f"header not counted)"
    )
    return f"{_share(int(marked.sum()), x, column)} are {what} ({extreme}); {remedy}"


def _share(count: int, x: np.ndarray, column: Column) -> str:
    return f"{count:,} values ({100 * count / len(x):.3g} %) of {quoted(column.name)}"
