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

__all__ = ["Formula", "neat", "parse"]

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


def neat(
    formula: Formula, values: Mapping[str, np.ndarray], total: np.ndarray, close: float
) -> Formula | None:
    """Returns the formula with the fewest digits that gives the total of every row, up to
    ``close``; None if none does.
    """
    for digits in range(1, 13):
        factors = {name: _rounded(factor, digits) for name, factor in formula.factors.items()}
        rest = total - Formula(factors).of(values)
        middle = float(np.nanmax(rest) + np.nanmin(rest)) / 2
        for constant in (0.0, *(round(middle, places) for places in range(13))):
            if float(np.nanmax(np.abs(rest - constant))) <= close:
                return Formula(factors, constant)
    return None


def _rounded(number: float, digits: int) -> float:
    return round(number, digits - 1 - math.floor(math.log10(abs(number))))
