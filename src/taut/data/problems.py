"""Everything that keeps an array from being data of a schema: a line each with count, place and
remedy, all at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from taut.data.counts import problems as count_problems
from taut.data.schema import MAX_LEVELS, Schema, chunks, finite_range, integers_only, listing
from taut.data.tables.words import exact_integers, float_storage, quoted

__all__ = ["flat_columns", "found", "outside_levels", "problems", "too_few"]


def problems(
    array: np.ndarray,
    schema: Schema,
    name: str,
    min_rows: int = 1,
    *,
    training: bool = True,
    beyond: bool = False,
) -> list[str]:
    """Returns everything that keeps ``array`` from being data of ``schema``: a line each with
    count, place and remedy.

    Args:
        array: The data, N first.
        schema: The expected kind and shape of a data point.
        name: The name of the data in the lines.
        min_rows: Fewest rows allowed.
        training: Also refuse data that can be scored but not learnt from: constant columns and
            identical rows.
        beyond: Whether integers in rows of columns may lie outside the levels, as those of new data
            may.
    """
    lines = []
    if array.shape[1:] != schema.event_shape:
        one = " (give one row as shape (1, ...))" if array.shape == schema.event_shape else ""
        way = "reshape with --shape"
        if not training:
            way = "give rows of that shape"
        lines.append(
            f"{name}: rows have shape {array.shape[1:]}, but {schema.event_shape} is needed{one}; "
            f"{way}"
        )
    if len(array) < min_rows:
        lines.append(too_few(name, len(array), min_rows))
    if array.dtype.kind == "f":
        if array.ndim > 2:
            remedy = "only rows of a table can have gaps, so fill them or drop those data"
            lines += found(name, array, np.isnan, "NaN", remedy)
        lines += found(name, array, np.isinf, "infinite", "replace them or drop the rows")
    lines += _outside(array, schema, name)
    if not beyond or array.ndim > 2:
        lines += outside_levels(array, schema, name, "correct them, or {}")
    if training and len(array) > 1:
        if all((rows == array[0]).all() for rows in chunks(array)):
            lines.append(
                f"{name}: all {len(array)} rows are identical, there is nothing to learn; check "
                f"how they were saved"
            )
        elif array.ndim == 2:
            lines += flat_columns(chunks(array), schema, name)
    return lines


def too_few(name: str, rows: int, least: int) -> str:
    """Returns the line about data of too few rows."""
    count = "1 row is" if rows == 1 else f"{rows} rows are"
    return f"{name}: {count} too few: at least {least} are needed; give more data"


def flat_columns(pieces: Iterable[np.ndarray], schema: Schema, name: str) -> list[str]:
    """Returns a line if columns hold no value at all, and one if real columns are constant once
    stored: their density has no bound.

    Args:
        pieces: The rows, (n, C) each.
        schema: The schema of the rows.
        name: The name of the data in the lines.
    """
    low = high = np.array(np.nan)
    for rows in pieces:
        with np.errstate(over="ignore"):
            stored = rows.astype(float_storage())
        low, high = np.fmin(low, np.fmin.reduce(stored)), np.fmax(high, np.fmax.reduce(stored))
    real = np.array([not c.discrete for c in schema.modelled] or not schema.discrete)
    constant = f"are constant in {np.dtype(float_storage()).name}, where a density is infinite"
    lines = []
    for flat, wrong in ((np.isnan(low), "hold no value at all"), ((low == high) & real, constant)):
        which = np.flatnonzero(flat)
        if not len(which):
            continue
        if schema.columns:
            names = listing([quoted(schema.modelled[i].name) for i in which])
            remedy = 'remove them, or set kind = "id" in a schema file'
        else:
            names, remedy = f"(from 0) {listing(which)}", "remove them"
        lines.append(f"{name}: columns {names} {wrong}; {remedy}")
    return lines


def _outside(array: np.ndarray, schema: Schema, name: str) -> list[str]:
    low, high = schema.low, schema.high
    if schema.kind == "count":
        return count_problems(array, name)[0]
    if schema.kind == "binary":
        return found(name, array, _no_bit, "neither 0 nor 1", _remedy_of_binary(array))
    if schema.kind == "real":
        return _outside_real(array, schema, name)
    lines = []
    if max(-low, high) > exact_integers():
        storage = np.dtype(float_storage()).name
        lines.append(
            f"{name}: levels {low:.0f}..{high:.0f} are too large to be told apart in {storage}; "
            f"subtract {low:.0f}"
        )
    if array.dtype.kind == "f":
        smallest, largest = finite_range(array)
        remedy = "use --kind real"
        if smallest >= 0 and largest <= 1:
            factor = high if high > 1 else 255
            remedy = f"multiply by {factor:g} and round if they were divided by it"
        lines += found(name, array, _fractional, "not integers", remedy)
    return lines


def _no_bit(x: np.ndarray) -> np.ndarray:
    return np.isfinite(x) & (x != 0) & (x != 1)


def _fractional(x: np.ndarray) -> np.ndarray:
    return np.isfinite(x) & (x != np.trunc(x))


def outside_levels(array: np.ndarray, schema: Schema, name: str, advice: str) -> list[str]:
    """Returns a line if integers lie outside the levels of a schema.

    ``{}`` in the advice is replaced by the option that would make them levels.
    """
    low, high, (smallest, largest) = schema.low, schema.high, finite_range(array)
    if schema.kind != "levels" or (low <= smallest and largest <= high):
        return []
    least, most = math.floor(min(low, smallest)), math.ceil(max(high, largest))
    remedy = "use --kind real"
    if most - least < MAX_LEVELS:
        remedy = f"train with --levels {least}:{most}"

    def outside(x: np.ndarray) -> np.ndarray:
        return np.isfinite(x) & ((x < low) | (x > high))

    levels = f"outside the levels {low:g}..{high:g}"
    return found(name, array, outside, levels, advice.format(remedy))


def _outside_real(array: np.ndarray, schema: Schema, name: str) -> list[str]:
    largest = float(np.finfo(float_storage()).max)
    lines = []
    if array.dtype == np.float64 and float_storage() == np.float32:

        def beyond(x: np.ndarray) -> np.ndarray:
            return np.isfinite(x) & (np.abs(x) > largest)

        remedy = "rescale, or drop the column"
        lines = found(name, array, beyond, "beyond the range of float32", remedy)
    if schema.low >= 0 and schema.high <= 1:
        low, high = finite_range(array)
        if low >= 0 and 1 < high <= 255 and integers_only(array):
            lines.append(
                f"{name}: holds levels up to {high:g} where values in [0, 1] are expected; divide "
                f"by 255"
            )
    return lines


def _remedy_of_binary(array: np.ndarray) -> str:
    low, high = finite_range(array)
    if low >= 0 and (high <= 1 or (high <= 255 and integers_only(array))):
        return "grey values: use --binarize dynamic or threshold, or omit --kind"
    return "omit --kind binary"


def found(
    name: str, array: np.ndarray, test: Callable[[np.ndarray], np.ndarray], wrong: str, remedy: str
) -> list[str]:
    """Returns one line with count, share and first place of the values that ``test`` marks, or
    none.

    Args:
        name: The name of the data in the line.
        array: The data, N first.
        test: Marks the values, given some rows.
        wrong: What is wrong with them, such as "infinite".
        remedy: What to do.
    """
    count, row, first = 0, 0, ""
    for rows in chunks(array):
        marked = test(rows)
        here = int(np.count_nonzero(marked))
        if here and not count:
            first = _place(row, np.unravel_index(int(marked.argmax()), marked.shape))
        count, row = count + here, row + len(rows)
    if not count:
        return []
    share = f"{100 * count / array.size:.3g} %"
    values = f"{count} values ({share}) are {wrong}, the first at {first} (from 0)"
    return [f"{name}: {values}; {remedy}"]


def _place(row: int, place: Sequence[Any]) -> str:
    """Returns the words for a place, the first axis of which counts from ``row``."""
    first, *rest = (int(i) for i in place)
    where = f"row {row + first}"
    if not rest:
        return where
    return f"{where}, column {rest[0]}" if len(rest) == 1 else f"{where}, element {tuple(rest)}"
