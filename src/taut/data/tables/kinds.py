"""The kinds of columns, one class each: all that taut knows of a kind is here.

A new kind is one class; ``KINDS`` finds it by its word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from taut.data.tables import shape
from taut.data.tables.cells import days_of
from taut.data.tables.kind import KINDS, MOST_CELLS, Grid, Kind, Level, Number, Odd
from taut.data.tables.seen import Numbers
from taut.data.tables.words import (
    MAX_LEVELS,
    exact_integers,
    float_storage,
    number_text,
    quoted,
)

if TYPE_CHECKING:
    from taut.data.tables.column import Column

__all__ = ["KINDS"]

REAL = 'kind = "real"'
LARGE_REMEDY = 'omit the column with kind = "id" in a schema file, or divide it'

# --- Levels ---------------------------------------------------------------------------------------


class Binary(Level):
    word = family = "binary"
    usual = "Bernoulli"

    def wrong_levels(self, count: int) -> str:
        if count == 2:
            return ""
        return "two levels"

    def keeps_order(self, order: Sequence[str]) -> bool:
        return len(order) == 2


class Category(Level):
    word = family = "category"
    usual = "Categorical"
    keeps_text = True

    def hot(self, column: Column) -> int:
        return len(column.levels)


class Ordinal(Level):
    word = family = "ordinal"
    usual = "Ordinal"
    keeps_text = ordered = True

    def keeps_order(self, order: Sequence[str]) -> bool:
        return True


# --- Numbers --------------------------------------------------------------------------------------


class Count(Number):
    word = family = "count"
    usual, celled = "NegativeBinomial", "WarpedCounts"
    discrete = True
    transform = "log1p"

    def refuses(self, numbers: Numbers, distinct: int) -> str:
        if not numbers.integers:
            return "needs integers, but it holds others; choose real or positive"
        if numbers.low < 0:
            return f"needs integers from 0, but it holds {numbers.low:.15g}; choose levels or real"
        if numbers.high >= 2**53:
            return (
                f"holds integers up to {numbers.high:.3g}, which no float tells apart from 2^53 "
                f'on; omit the column (kind = "id"), or divide it'
            )
        return ""

    def on_grid(self, column: Column, made: np.ndarray) -> np.ndarray:
        return np.round(made)

    def support(self, column: Column) -> tuple[float, float]:
        return 0.0, math.inf

    def grid(self, column: Column) -> Grid | None:
        if column.high >= MOST_CELLS:
            return None
        return Grid(first=0.0)

    def offset(self, numbers: Numbers, step: float, low: float) -> float:
        return 0.0

    def stored(self, label: str, column: Column, largest: float) -> list[str]:
        if largest <= exact_integers():
            return []
        return [
            f"{label} holds integers up to {largest:,.0f}; {np.dtype(float_storage()).name} tells "
            f"them apart only to {exact_integers():,}"
        ]

    def wrong(self, column: Column, x: np.ndarray) -> list[Odd]:
        large = "integers from 2^53 on, which floats do not tell apart"
        return [*super().wrong(column, x), (np.isfinite(x) & (x >= 2.0**53), large, LARGE_REMEDY)]

    def foreign(self, column: Column, x: np.ndarray) -> list[Odd]:
        finite = np.isfinite(x)
        small = x[finite].min(initial=0) >= 0 and x[finite].max(initial=0) < 20
        remedy = "give raw counts"
        if small:
            remedy = f"they look log-normalised: {remedy}"
        return [
            (finite & (x != np.trunc(x)), "not integers", remedy),
            (finite & (x < 0), "negative", "give raw counts"),
        ]

    def log_shift(self, column: Column) -> float:
        return 1.0


class Levels(Number):
    word = family = "levels"
    usual = "WarpedLevels"
    discrete = ranged = warped = goes_round = True
    entries = frozenset({"low", "high", "step"})

    def codes(self, column: Column, values: Any) -> Any:
        return np.round(super().codes(column, values) / self.unit(column), 6)

    def unit(self, column: Column) -> float:
        return column.step or 1.0

    def on_grid(self, column: Column, made: np.ndarray) -> np.ndarray:
        return np.round(made)

    def support(self, column: Column) -> tuple[float, float]:
        return float(self.codes(column, column.low)), float(self.codes(column, column.high))

    def num_levels(self, column: Column) -> int:
        low, high = self.support(column)
        return int(high - low) + 1

    def step(
        self, numbers: Numbers, entry: Mapping[str, Any], low: float, high: float
    ) -> float | str:
        step = float(entry.get("step", shape.step_of(numbers)))
        if not step:
            return (
                ": kind levels needs numbers on a grid, such as step = 0.5, but it holds others; "
                "choose real"
            )
        if "step" not in entry and numbers.count < shape.MIN_ROWS:
            step = min(step, 1.0)
        steps = [(end - numbers.low) / step for end in (low, high)]
        if any(abs(count - round(count)) > 1e-6 for count in steps):
            places = (low, high, numbers.low + step)
            step = math.gcd(*(round((v - numbers.low) / 1e-6) for v in places)) * 1e-6
        if (high - low) / step >= MAX_LEVELS:
            return (
                f" spans {(high - low) / step + 1:,.0f} levels, at most {MAX_LEVELS:,} are taken; "
                f"use count or real"
            )
        return step

    def offset(self, numbers: Numbers, step: float, low: float) -> float:
        plain = step == 1.0 and max(abs(numbers.low), abs(numbers.high)) < 2**20
        if plain or numbers.distinct < 2 or not numbers.low:
            return 0.0
        return low

    def held(self, column: Column) -> str:
        return f"{self.num_levels(column):,} levels: {super().held(column)}"

    def entry(self, column: Column) -> dict[str, Any]:
        ends = {"low": column.low, "high": column.high}
        if column.step == 1.0:
            return ends
        return ends | super().entry(column)

    def foreign(self, column: Column, x: np.ndarray) -> list[Odd]:
        finite = np.isfinite(x)
        if column.step in (0.0, 1.0):
            remedy = f"correct them, or train with {REAL}"
            return [(finite & (x != np.trunc(x)), "not integers", remedy)]
        off = f"not on the grid of steps of {column.step:g}"
        return [(finite & self._off_grid(column, x), off, f"train with {REAL}")]

    def odd(self, column: Column, x: np.ndarray) -> list[Odd]:
        finite, low, high = np.isfinite(x), column.low, column.high
        step = column.step or 1.0
        # whole steps beyond the ends, as a schema file must have them; rounded, since 1.04 - 0.85
        # is more than 19 hundredths by a digit that nobody wrote
        below, above = (low - x[finite]) / step, (x[finite] - high) / step
        least = low - step * np.ceil(below.max(initial=0.0).round(6))
        most = high + step * np.ceil(above.max(initial=0.0).round(6))
        whole = column.step in (0.0, 1.0)
        grid = "not integers" if whole else f"not on the grid of {column.step:g}"
        outside = f"outside the levels {low:.15g}..{high:.15g}"
        wider = f"low = {least:.15g} and high = {most:.15g}"
        return [
            (finite & self._off_grid(column, x), grid, REAL),
            (finite & ((x < low) | (x > high)), outside, wider),
        ]

    def _off_grid(self, column: Column, x: np.ndarray) -> np.ndarray:
        codes = self.codes(column, x)
        off: np.ndarray = codes != np.round(codes)
        return off


class _Stepped(Number):
    """What the densities share whose grid may be finer than their storage."""

    celled = "WarpedGrid"

    def stored(self, label: str, column: Column, largest: float) -> list[str]:
        finest = float(np.spacing(float_storage()(largest)))
        if not column.step or finest <= column.step:
            return []
        return [
            f"{label} spans more than {np.dtype(float_storage()).name} tells apart: its values are "
            f"kept to {finest:.2g}, its last digit is {column.step:.2g}"
        ]


class Real(_Stepped):
    word = family = "real"
    usual = "StudentT"
    unbounded = True
    entries = frozenset({"step"})


class Positive(Number):
    word = family = "positive"
    usual, celled = "LogNormal", "WarpedGrid"
    unbounded = True
    transform = "log"
    entries = frozenset({"step"})

    def refuses(self, numbers: Numbers, distinct: int) -> str:
        if numbers.low > 0:
            return ""
        return f"needs numbers above 0, but it holds {numbers.low:.15g}; choose real"

    def grid(self, column: Column) -> Grid | None:
        found = super().grid(column)
        if found is None:
            return None
        return found._replace(first=math.floor(-found.start / found.step) + 1.0)

    def offset(self, numbers: Numbers, step: float, low: float) -> float:
        return 0.0

    def wrong(self, column: Column, x: np.ndarray) -> list[Odd]:
        storage = np.finfo(float_storage())
        tiny = float(storage.tiny)
        small = f"above 0 and below {tiny:.3g}, the smallest {storage.dtype.name}"
        marked = np.isfinite(x) & (x > 0) & (x < tiny)
        return [*super().wrong(column, x), (marked, small, "give their logarithms")]

    def odd(self, column: Column, x: np.ndarray) -> list[Odd]:
        return [(np.isfinite(x) & (x <= 0), "not above 0", REAL)]


class Mixed(_Stepped):
    word = family = "mixed"
    told = "a density, and atoms with a probability of their own"
    usual = "WarpedLogistic"
    ranged = warped = True
    transform = "warp"
    entries = frozenset({"low", "high", "step", "atoms"})

    def atoms(self, numbers: Numbers, entry: Mapping[str, Any]) -> tuple[float, ...]:
        return tuple(sorted(float(a) for a in entry.get("atoms", shape.atoms_of(numbers))))

    def bounded(self, numbers: Numbers, atoms: tuple[float, ...], entry: Mapping[str, Any]) -> str:
        if not entry:
            return shape.ends_of(numbers, atoms)
        given = [end for end in ("low", "high") if end in entry]
        if len(given) == 2:
            return "both"
        return "".join(given)

    def held(self, column: Column) -> str:
        return super().held(column) + _atoms_text(column)

    def entry(self, column: Column) -> dict[str, Any]:
        ends = {"low": column.low, "high": column.high}
        known = {end: value for end, value in ends.items() if column.bounded in (end, "both")}
        return {"atoms": column.atoms} | known | super().entry(column)

    def odd(self, column: Column, x: np.ndarray) -> list[Odd]:
        if not column.bounded:
            return []
        codes, (low, high) = self.codes(column, x), self.support(column)
        past = np.isfinite(x) & ((codes < low) | (codes > high))
        where = {
            "low": f"below {column.low:g}",
            "high": f"above {column.high:g}",
            "both": f"outside {column.low:g}..{column.high:g}",
        }[column.bounded]
        return [(past, f"{where}, which the training data never pass", REAL)]


class Date(Number):
    """Days since 1970-01-01 in UTC."""

    word = "date"
    family, usual, celled = Mixed.family, Mixed.usual, Mixed.celled
    ranged = warped = True
    cells = ("date",)
    reads = "date"
    needs = "dates (YYYY-MM-DD)"

    def holds(self, family: str, numbers: Numbers) -> bool:
        """Integers such as 20240131 are dates, too."""
        if family != "number":
            return super().holds(family, numbers)
        return not bool(np.isnan(days_of(numbers.values)).any())

    def rounded(self, column: Column, numbers: np.ndarray) -> np.ndarray:
        return np.asarray(np.round(numbers / column.step) * column.step)

    def step(
        self, numbers: Numbers, entry: Mapping[str, Any], low: float, high: float
    ) -> float | str:
        return shape.tick_of(numbers)

    def atoms(self, numbers: Numbers, entry: Mapping[str, Any]) -> tuple[float, ...]:
        return shape.atoms_of(numbers)

    def held(self, column: Column) -> str:
        low, high = (number_text(end, column.type) for end in (column.low, column.high))
        return f"{low} .. {high}{_atoms_text(column)}"


def _atoms_text(column: Column) -> str:
    if not column.atoms:
        return ""
    held = ", ".join(number_text(atom, column.type) for atom in column.atoms[:2])
    if len(column.atoms) == 1:
        return f", and {held} itself"
    if len(column.atoms) > 2:
        held += ", ..."
    return f", and {held} themselves"


# --- Columns that no model sees -------------------------------------------------------------------


class Derived(Number):
    """A linear function of other columns."""

    word = "derived"
    told = "computed from others by its formula"
    modelled = False
    made = True
    entries = frozenset({"formula", "step"})

    def offset(self, numbers: Numbers, step: float, low: float) -> float:
        return 0.0

    def held(self, column: Column) -> str:
        return f"= {column.formula}"

    def entry(self, column: Column) -> dict[str, Any]:
        return {"formula": column.formula} | super().entry(column)


class Id(Kind):
    word = "id"
    told = "omitted"
    modelled = False
    names_rows = True

    def held(self, column: Column) -> str:
        return "omitted"


class Key(Kind):
    """Whole numbers that are all different: made rows go on counting."""

    word = "key"
    told = "omitted, and counted on in made rows"
    modelled = False
    made = names_rows = True
    needs = "whole numbers that are all different"

    def refuses(self, numbers: Numbers, distinct: int) -> str:
        if numbers.integers and numbers.all_different and -(2**53) < numbers.high < 2**53:
            return ""
        return f"needs {self.needs}"

    def held(self, column: Column) -> str:
        return f"{column.low:.0f} .. {column.high:.0f}, made rows count on"


class Constant(Kind):
    word = "constant"
    told = "omitted"
    modelled = False
    cells = ("text", "bool", "number", "date")

    def refuses(self, numbers: Numbers, distinct: int) -> str:
        if distinct <= 1:
            return ""
        return 'needs one value, but it holds several; kind = "id" omits it'

    def held(self, column: Column) -> str:
        if column.levels:
            return quoted(column.levels[0])
        return number_text(column.low, column.type)
