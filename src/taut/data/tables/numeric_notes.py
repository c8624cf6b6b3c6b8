"""What a user should know about the numbers of the training rows.

Wild values, and columns that are a function of others.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import torch

from taut.data.rows import Rows, blocks
from taut.data.schema import Schema
from taut.data.tables.codes import last_digit
from taut.data.tables.column import Column
from taut.data.tables.formula import Formula, neat
from taut.data.tables.words import float_storage, quoted
from taut.system.errors import and_more

__all__ = ["MOST", "SOME", "linear_functions", "number_notes", "spread", "written_to"]

SOME = 4000  # rows that are looked at to tell how columns hang together
MOST = 300  # columns
WILD = 1000.0  # quartiles' distances from the median
# root mean square of what others leave of a column, in its standard deviations: more is no rounding
CLOSE = 0.02
DIGITS = tuple(10.0**-k for k in range(7))  # last digits that numbers without a column may have


def spread(values: np.ndarray) -> tuple[float, float]:
    """Returns the median of finite values and the distance of their quartiles, of those that are
    not the median if it is 0.

    A value that fills half of a column says nothing of the spread of the others. NaN and 0 where
    there is nothing to tell.
    """
    values = values[np.isfinite(values)]
    if len(values) < 8:
        return float("nan"), 0.0
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    if high > low:
        return float(median), float(high - low)
    others = values[values != median]
    if len(others) < 8:
        return float(median), 0.0
    low, high = np.quantile(others, [0.25, 0.75])
    return float(median), float(high - low)


def number_notes(rows: Rows, schema: Schema) -> list[str]:
    """Returns a line for wild values of real columns, and one for columns that are a linear
    function of others.
    """
    if schema.kind == "binary" or len(schema.event_shape) != 1 or len(rows) < 8:
        return []
    some = rows[torch.arange(0, len(rows), -(-len(rows) // SOME))].double().numpy()
    return [*_wild(rows, some, schema), *_functions(some, schema)]


def _label(schema: Schema, i: int) -> str:
    if schema.columns:
        return quoted(schema.modelled[i].name)
    return f"column {i} (from 0)"


def _wild(rows: Rows, some: np.ndarray, schema: Schema) -> list[str]:
    if schema.columns:
        rules = [c.rules for c in schema.modelled]
        dense = [not r.discrete and not r.transform.startswith("log") for r in rules]
    else:
        dense = [schema.kind == "real"] * schema.num_elements
    real = np.flatnonzero(dense)
    if not len(real):
        return []
    median, distance = np.array([spread(some[:, i]) for i in real]).T
    away = np.zeros(len(real))
    for block in blocks(rows) if isinstance(rows, torch.Tensor) else [torch.from_numpy(some)]:
        away = np.fmax(
            away, np.nanmax(np.abs(block[:, real].double().numpy() - median), axis=0, initial=0.0)
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        times = np.where(distance > 0, away / distance, 0.0)
    wild = np.flatnonzero(times > WILD)
    if not len(wild):
        return []
    worst = wild[times[wild].argmax()]
    label = _label(schema, int(real[worst]))
    return [
        f"{label}{and_more(wild, 1)}: the largest |x - median| is {times[worst]:.2g} times the "
        f"quartiles' distance; correct it if it is a slip of a digit or a unit, since a model "
        f"spends its means on such values"
    ]


def _functions(some: np.ndarray, schema: Schema) -> list[str]:
    """Finds columns that are a linear function of those before them, up to the rounding of the
    numbers as they stand.
    """
    columns = schema.modelled
    numeric = [i for i in range(some.shape[1]) if not columns or not columns[i].levels]
    codes = some[:, numeric]
    codes = codes[np.isfinite(codes).all(1)]
    if not 2 <= len(numeric) <= MOST or len(codes) < 2 * len(numeric) + 20:
        return []
    x = codes
    if columns:
        each = zip(numeric, codes.T, strict=True)
        x = np.column_stack([columns[i].values(code) for i, code in each])
    found, kept = [], ""
    for j, used, slopes, constant in linear_functions(x, codes):
        labels = {i: _label(schema, numeric[i]) for i in [j, *used]}
        grains = {
            i: _grain(x[:, i], codes[:, i], columns[numeric[i]] if columns else None)
            for i in [j, *used]
        }
        values = {labels[i]: grains[i].values for i in used}
        parts = {labels[i]: float(slope) for i, slope in zip(used, slopes, strict=True)}
        blur = grains[j].blur + sum(
            abs(f) * grains[i].blur for i, f in zip(used, slopes, strict=True)
        )
        best = neat(Formula(parts, constant), values, grains[j].values, grains[j].unit, blur)
        if best is not None and best[1].all():
            found.append(_told(labels[j], best[0]))
            if not all(grain.unit for grain in grains.values()):
                kept = f" that {np.dtype(float_storage()).name} keeps"
    if not found:
        return []
    how = "omit it"
    if columns:
        how += ' (kind = "id" in a --schema FILE)'
    return [
        f"{'; '.join(found[:3])}{and_more(found, 3)}, to the last digit{kept} in {len(codes):,} "
        f"training rows: a density of such columns has no bound, and a gap is better filled by the "
        f"formula: {how} and compute it afterwards"
    ]


def linear_functions(
    x: np.ndarray, codes: np.ndarray
) -> Iterator[tuple[int, list[int], np.ndarray, float]]:
    """Yields the columns that are a linear function of others before them, up to the rounding of
    the numbers: which, of which, their factors and the constant.

    Args:
        x: Numbers without gaps, (N, C).
        codes: As what they are stored, (N, C).
    """
    mean, scale = x.mean(0), x.std(0)
    z = (x - mean) / np.where(scale > 0, scale, 1.0)
    coarse = np.array([_rounding(value, code) for value, code in zip(x.T, codes.T, strict=True)])
    left = np.abs(np.diag(np.linalg.qr(z, mode="r"))) / len(z) ** 0.5
    free = [j for j in range(x.shape[1]) if left[j] > CLOSE]
    for j in np.flatnonzero((left <= CLOSE) & (scale > 0)):
        before = [i for i in free if i < j]
        weights = np.linalg.lstsq(z[:, before], z[:, j], rcond=None)[0]
        used = [i for i, weight in zip(before, weights, strict=True) if abs(weight) > 0.01]
        slopes = np.linalg.lstsq(x[:, used] - mean[used], x[:, j] - mean[j], rcond=None)[0]
        rest = np.abs(x[:, j] - mean[j] - (x[:, used] - mean[used]) @ slopes).max()
        rounding = coarse[j] + float(np.abs(slopes) @ coarse[used])
        if used and rest <= min(rounding, 0.05 * scale[j]):
            yield int(j), used, slopes, float(mean[j] - mean[used] @ slopes)


def _rounding(values: np.ndarray, codes: np.ndarray) -> float:
    """Returns how far a value can be from what was meant.

    The least distance of two values, and what storing codes rounds.
    """
    different = np.unique(values)
    if len(different) < 2:
        return 0.0
    unit = float(np.ptp(values) / np.ptp(codes))
    return float(np.diff(different).min()) + 4 * unit * float(
        np.finfo(float_storage()).eps * np.abs(codes).max()
    )


def _sign(number: float) -> str:
    return " - " if number < 0 else " + "


def _told(label: str, formula: Formula) -> str:
    """Returns a formula, of labels, for people."""
    if len(formula.factors) > 3:
        return f"{label} is a linear function of {len(formula.factors)} other columns"
    text = ""
    for part, factor in formula.factors.items():
        size = "" if abs(factor) == 1 else f"{abs(factor):.15g} "
        text += f"{_sign(factor)}{size}{part}"
    if formula.constant:
        text += f"{_sign(formula.constant)}{abs(formula.constant):.15g}"
    return f"{label} = {text.removeprefix(' + ').strip()}"


class _Grain(NamedTuple):
    """Numbers as they were meant, (N,), the size of their last digit (0 for none), and how far they
    may be from it.
    """

    values: np.ndarray
    unit: float
    blur: float


def _grain(values: np.ndarray, codes: np.ndarray, column: Column | None) -> _Grain:
    """Returns numbers without what storing their codes lost, where their last digit is known."""
    stored = float(np.finfo(float_storage()).eps * np.abs(codes).max())
    if column is None:
        unit = next(
            (
                u
                for u in DIGITS
                if np.all(np.abs(values - np.round(values / u) * u) <= max(stored, 1e-9 * u))
            ),
            0.0,
        )
        scale = 1.0
    else:
        dates = column.rules.reads == "date"
        unit = column.step if dates else last_digit(column)
        scale = column.rules.unit(column)
    if unit > 2 * scale * stored:
        return _Grain(np.round(values / unit) * unit, unit, 0.0)
    return _Grain(values, 0.0, 4 * scale * stored)


def written_to(values: np.ndarray) -> float:
    """Returns how far numbers without a grid may be from what was meant: half of the last of their
    significant digits, or what a sum in their precision loses.
    """
    own = np.unique(values[np.isfinite(values)])
    own = own[np.unique(np.linspace(0, len(own) - 1, min(1000, len(own))).astype(int))]
    largest, single = float(np.abs(own).max()), own.astype(np.float32)
    if np.array_equal(single, own):
        own = single
    texts = [np.format_float_scientific(x) for x in own]
    digits = max(len(Decimal(text).normalize().as_tuple().digits) for text in texts)
    least = 2 * largest * float(np.finfo(own.dtype).eps)
    return max(0.5 * 10.0 ** (1 - digits) * largest, least)
