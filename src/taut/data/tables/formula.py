"""Columns that are a linear function of others: gross = net + tax.

Their density has no bound, and a gap in them, or in one of the others, is filled exactly. So no
model sees them: they are computed. A formula is a sum of columns, each with a factor, and of a
number: ``net + tax``, ``1.8 * celsius + 32``, ``"net pay" - 0.5 * tax``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

__all__ = ["CONTRADICTING", "Formula", "agreeing", "neat", "on_grid", "parse"]

CONTRADICTING = 0.05  # share of the rows that contradict a formula: more refute it
NEAR = 1e-3  # units from the grid that are the float's own

NUMBER = r"\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?"
TERM = re.compile(
    rf"\s*(?P<sign>[+-])?\s*(?:(?P<factor>{NUMBER})\s*(?P<times>\*)?\s*)?"
    r'(?P<name>"(?:[^"\\]|\\.)*"|[^\W\d]\w*)?\s*'
)


class Formula(NamedTuple):
    """The sum of some columns, each times its factor, and a constant."""

    factors: dict[str, float]
    constant: float = 0.0

    def __str__(self) -> str:
        text = ""
        for name, factor in self.factors.items():
            plain = re.fullmatch(r"[^\W\d]\w*", name) is not None
            size = "" if abs(factor) == 1 else f"{abs(factor):.15g} * "
            text += f" {'-' if factor < 0 else '+'} {size}{name if plain else json.dumps(name)}"
        if self.constant:
            text += f" {'-' if self.constant < 0 else '+'} {abs(self.constant):.15g}"
        if text.startswith(" - "):
            return f"-{text[3:]}"
        return text[3:]

    def of(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the sum for each row, NaN where a column is missing."""
        parts = (factor * values[name] for name, factor in self.factors.items())
        return np.asarray(sum(parts) + self.constant)

    def solved(self, name: str, total: np.ndarray, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the column that makes the sum the total."""
        others = Formula({k: f for k, f in self.factors.items() if k != name}, self.constant)
        return np.asarray((total - others.of(values)) / self.factors[name])


def parse(text: str) -> Formula | str:
    """Returns the formula of a text, or what is wrong with it."""
    factors: dict[str, float] = {}
    constant, at = 0.0, 0
    while at < len(text):
        term = TERM.match(text, at)
        assert term is not None  # it may match nothing at all
        sign, number, times, name = term.group("sign", "factor", "times", "name")
        unclear = (name is None and (number is None or times is not None)) or (at and sign is None)
        if unclear or not term.group():
            return (
                f"cannot read {text[at:].strip()[:30]!r} in its formula; write a sum such as "
                f"net + tax, 1.8 * celsius + 32"
            )
        size = float(number or 1) * (-1 if sign == "-" else 1)
        if name is None:
            constant += size
        else:
            plain = json.loads(name) if name.startswith('"') else name
            factors[plain] = factors.get(plain, 0.0) + size
        at = term.end()
    if not factors or not all(factors.values()):
        return "its formula names no column; write a sum such as net + tax"
    return Formula(factors, constant)


def agreeing(
    formula: Formula,
    values: Mapping[str, np.ndarray],
    total: np.ndarray,
    unit: float,
    blur: float = 0.0,
) -> np.ndarray:
    """Returns which rows the formula gives, (N,), but for rounding that its factors or its constant
    cause; a row that lacks a number contradicts nothing.

    Factors such as 1, 2 and -1 cause none: what they make of numbers on the grid lies on the grid.
    Of other rows the total is the formula rounded, half a unit away at most; where the constant
    alone puts all halfway (y = 2 x + 0.005) they are rounded one way, or the formula says nothing.

    Args:
        formula: What the total is to be.
        values: The columns that it names.
        total: What it is.
        unit: The last digit of the total, 0 where it has none.
        blur: How far numbers may be from what was meant, in a sum, because of how they are stored.
    """
    linear = Formula(formula.factors).of(values)
    size = sum((abs(f * values[name]) for name, f in formula.factors.items()), np.abs(total))
    slack = blur + 8 * np.finfo(np.float64).eps * (size + abs(formula.constant))
    off = total - linear - formula.constant
    if not unit:
        return np.asarray(~(np.abs(off) > slack))
    slack = slack + 2 * NEAR * unit
    plain = on_grid(linear, unit) & on_grid(total, unit)
    if on_grid(np.array(formula.constant), unit):
        return np.asarray(~(np.abs(off) > np.where(plain, slack, unit / 2 + slack)))
    agree = ~(np.abs(off) > unit / 2 + slack)
    halfway = agree & plain & (np.abs(off) >= unit / 2 - slack)
    up, down = halfway & (off > 0), halfway & (off < 0)
    return np.asarray(agree & ~(up if up.sum() < down.sum() else down))


def on_grid(values: np.ndarray, unit: float) -> np.ndarray:
    """Returns which numbers are whole units, up to what a float loses."""
    steps = values / unit
    return np.asarray(np.abs(steps - np.round(steps)) <= NEAR + 1e-15 * np.abs(steps))


def neat(
    formula: Formula,
    values: Mapping[str, np.ndarray],
    total: np.ndarray,
    unit: float,
    blur: float = 0.0,
) -> tuple[Formula, np.ndarray] | None:
    """Returns the formula with the fewest digits that gives every row, or else the one that gives
    the most, if they are nearly all, and which rows agree; None if none does.

    The arguments are those of ``agreeing``.
    """
    best = _fewest_digits(formula, values, total, unit, blur)
    if unit and (best is None or not (best[1].all() or _exact(*best, values, total, unit))):
        closest = _fewest_digits(_closest(formula, values, total), values, total, unit, blur)
        if closest is not None and closest[1].all():
            return closest
    return best


def _fewest_digits(
    formula: Formula,
    values: Mapping[str, np.ndarray],
    total: np.ndarray,
    unit: float,
    blur: float,
) -> tuple[Formula, np.ndarray] | None:
    best: tuple[Formula, np.ndarray] | None = None
    few, tried = CONTRADICTING * np.count_nonzero(~np.isnan(total)), set()
    for digits in range(1, 16):
        factors = {name: _rounded(factor, digits) for name, factor in formula.factors.items()}
        rest = total - Formula(factors).of(values)
        ends = float(np.nanmax(rest) + np.nanmin(rest)) / 2, float(np.nanmedian(rest))
        constants = [0.0, *(round(end, places) for places in range(13) for end in ends)]
        for constant in dict.fromkeys(constants):
            key = (*factors.values(), constant)
            if key in tried or np.sum(np.abs(rest - constant) > 0.51 * unit + blur) > 2 * few + 1:
                continue
            tried.add(key)
            agree = agreeing(Formula(factors, constant), values, total, unit, blur)
            if agree.all():
                return Formula(factors, constant), agree
            most = few if best is None else np.count_nonzero(~best[1]) - 1
            if np.count_nonzero(~agree) <= most:
                best = Formula(factors, constant), agree
                if unit and _exact(*best, values, total, unit):
                    return best
    return best


def _exact(
    formula: Formula,
    agree: np.ndarray,
    values: Mapping[str, np.ndarray],
    total: np.ndarray,
    unit: float,
) -> bool:
    """Returns whether the rows that agree do so to the last digit, without any rounding.

    Then the others contradict: factors with more digits would only bend to them.
    """
    return bool(np.nanmax(np.abs(total - formula.of(values))[agree]) < 0.01 * unit)


def _closest(
    formula: Formula, values: Mapping[str, np.ndarray], total: np.ndarray, most: int = 2000
) -> Formula:
    """Returns the formula whose largest distance from the total is the least.

    Least squares know the factors only as well as the rounding lets them; a formula such as
    x / 3, of endless digits, is in every row within half a unit only if it is fitted to that.
    """
    from scipy.optimize import linprog

    parts = np.column_stack([values[name] for name in formula.factors])
    off = total - formula.of(values)
    known = np.flatnonzero(~np.isnan(off))
    parts, off = parts[known], off[known]
    middle, scale = parts.mean(0), parts.std(0)
    unit = float(np.abs(off).max())
    if not unit or not scale.all():
        return formula
    design = np.column_stack([(parts - middle) / scale, np.ones(len(parts))])
    some = np.unique(np.linspace(0, len(off) - 1, min(most, len(off))).astype(int))
    better = np.zeros(design.shape[1])
    for _ in range(5):
        ends = np.column_stack([np.vstack([design[some], -design[some]]), -np.ones(2 * len(some))])
        found = linprog(
            np.eye(design.shape[1] + 1)[-1],
            A_ub=ends,
            b_ub=np.concatenate([off[some], -off[some]]) / unit,
            bounds=(None, None),
        )
        if found.x is None:
            return formula
        better = found.x[:-1] * unit
        worst = np.abs(off - design @ better)
        if worst.max() <= worst[some].max() * (1 + 1e-9):
            break
        some = np.union1d(some, np.argsort(worst)[-200:])
    steps = better[:-1] / scale
    factors = {
        name: factor + float(step)
        for (name, factor), step in zip(formula.factors.items(), steps, strict=True)
    }
    return Formula(factors, formula.constant + float(better[-1] - middle @ steps))


def _rounded(number: float, digits: int) -> float:
    if not number:
        return 0.0
    return round(number, digits - 1 - math.floor(math.log10(abs(number))))
