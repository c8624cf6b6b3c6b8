"""What holds between columns in every row: ``start <= end``, ``net + tax <= gross``.

A model does not know of it: some of what it makes would contradict it. Such rows are drawn again
(``kept``), and what is left are draws of the model given that the constraint holds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from taut.data.tables.codes import numbers_of
from taut.data.tables.column import Column
from taut.data.tables.formula import Formula, parse
from taut.data.tables.notes import FROM_0
from taut.data.tables.words import nearest_to, quoted
from taut.system.errors import UsageError, and_more

__all__ = [
    "Constraint",
    "constrained",
    "constraint_of",
    "contradiction",
    "holding",
    "kept",
    "learned",
    "settled",
]

ROUNDING = 1e-9  # of the larger side, by which a sum of floats may pass what it equals
# A constraint is learned where chance alone, columns shuffled, would break it in so many rows and
# in such a share of them: then a table that never breaks it does not do so by accident.
FEWEST, SHARE = 50, 0.05
MOST = 50  # columns that are compared, each with each
TRIES = 100  # rows drawn, at most, for each that is wanted
SIGN = re.compile(r"([<>]=?)")


class Constraint(NamedTuple):
    """One sum of columns is at most, or where ``strict`` less than, another."""

    less: Formula
    more: Formula
    strict: bool = False

    def __str__(self) -> str:
        return f"{self.less} {'<' if self.strict else '<='} {self.more}"

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys([*self.less.factors, *self.more.factors]))

    def holds(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns for each row whether the constraint holds; true where a column is missing."""
        less, more = self.less.of(values), self.more.of(values)
        if self.strict:
            return np.asarray(~(less >= more))
        slack = ROUNDING * np.fmax(np.abs(less), np.abs(more))
        return np.asarray(~(less > more + slack))


def constraint_of(text: str, columns: Sequence[Column]) -> Constraint:
    """Returns the constraint that a text states.

    Raises:
        UsageError: it cannot be read, or a column is none of numbers or dates, or of both.
    """
    say = f"constraint {quoted(text)}: "
    parts = SIGN.split(text)
    if len(parts) != 3:
        raise UsageError(f"{say}write two sums of columns with <=, <, >= or > between them")
    sides = [parse(side) for side in (parts[0], parts[2])]
    for side in sides:
        if isinstance(side, str):
            raise UsageError(say + side.replace("its formula", "it"))
    left, right = (side for side in sides if isinstance(side, Formula))
    sign = parts[1]
    less, more = (left, right) if sign.startswith("<") else (right, left)
    found = Constraint(less, more, "=" not in sign)
    numeric = {c.name: c for c in columns if _numeric(c)}
    for name in found.names:
        if name not in numeric:
            raise UsageError(
                f"{say}{quoted(name)} is not a column of numbers or dates that a model "
                f"sees{nearest_to(name, list(numeric))}"
            )
    if len({_unit(numeric[name]) for name in found.names}) > 1:
        raise UsageError(f"{say}dates compare with dates, numbers with numbers")
    return found


def _numeric(column: Column) -> bool:
    return (column.modelled or bool(column.formula)) and not column.levels


def _unit(column: Column) -> str:
    return "date" if column.rules.reads == "date" else "number"


def holding(codes: np.ndarray, columns: Sequence[Column], constraints: Sequence[str]) -> np.ndarray:
    """Returns for each row of codes of the modelled columns, (N, C), whether all constraints
    hold.
    """
    values = numbers_of(codes, columns)
    every = [constraint_of(text, columns).holds(values) for text in constraints]
    return np.all(every, axis=0) if every else np.ones(len(codes), bool)


def constrained(columns: Sequence[Column], constraints: Sequence[str]) -> list[int]:
    """Returns the places, among the modelled columns, of those that constraints name, or that what
    they name follows from.
    """
    named = {n for text in constraints for n in constraint_of(text, columns).names}
    parts = {
        n for c in columns if c.name in named and isinstance(c.sum, Formula) for n in c.sum.factors
    }
    modelled = [c for c in columns if c.modelled]
    return [i for i, c in enumerate(modelled) if c.name in named | parts]


def contradiction(text: str, rows: np.ndarray, total: int) -> str:
    """Returns the line that says how many rows, by number, break a constraint."""
    return (
        f"{len(rows):,} of {total:,} rows contradict {text}, the first is row {rows[0]} {FROM_0}; "
        f"correct them, or the constraint"
    )


def kept(
    draw: Callable[[int, int], np.ndarray],
    wanted: int,
    columns: Sequence[Column],
    constraints: Sequence[str],
) -> np.ndarray:
    """Returns rows of codes for which all constraints hold: the others are drawn again.

    Args:
        draw: Returns the rows of a round: given its number, and how many.
        wanted: How many rows.
        columns: What the rows are.
        constraints: What must hold.

    Raises:
        UsageError: fewer than one row in ``TRIES`` holds.
    """
    rows, drawn, number = np.empty((0, 0)), 0, 0
    while len(rows) < wanted:
        if drawn >= TRIES * wanted:
            raise UsageError(
                f"only {len(rows):,} of {drawn:,} rows that the model made keep "
                f"{' and '.join(constraints[:3])}{and_more(constraints, 3)}: train longer, or "
                f"state other constraints in a schema file"
            )
        share = max(len(rows), 1) / drawn if drawn else 1.0
        more = math.ceil((wanted - len(rows)) / share)
        made = draw(number, min(more, 10 * wanted))
        good = made[holding(settled(made, columns), columns, constraints)]
        rows = np.concatenate([rows, good]) if len(rows) else good
        drawn, number = drawn + len(made), number + 1
    return rows[:wanted]


def settled(codes: np.ndarray, columns: Sequence[Column]) -> np.ndarray:
    """Returns codes that a model made, (N, C), as they are written: on the grid and in range."""
    modelled = [c for c in columns if c.modelled]
    each = [c.settled(x) for c, x in zip(modelled, codes.T, strict=True)]
    return np.column_stack(each)


def learned(codes: np.ndarray, columns: Sequence[Column]) -> list[str]:
    """Returns the constraints a <= b between two columns that hold in every row, and would not by
    chance; those that follow from others are left out.

    Args:
        codes: Those of the modelled columns, (N, C).
        columns: All columns.
    """
    numeric = [c for c in columns if c.modelled and _numeric(c)]
    if not 2 <= len(numeric) <= MOST:
        return []
    values = numbers_of(codes, columns)
    below = {
        (a.name, b.name)
        for a in numeric
        for b in numeric
        if a is not b and _unit(a) == _unit(b) and _never_above(values[a.name], values[b.name])
    }
    middle = {(a, c) for a, b in below for b2, c in below if b == b2}
    return [
        str(Constraint(Formula({a: 1.0}), Formula({b: 1.0})))
        for a, b in sorted(below - middle, key=lambda pair: list(values).index(pair[0]))
    ]


def _never_above(a: np.ndarray, b: np.ndarray) -> bool:
    """Returns whether a <= b in every row, where shuffled rows would break it often."""
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    if not len(a) or (a > b).any():
        return False
    chance = float(np.searchsorted(np.sort(b), a, side="left").mean()) / len(b)
    return chance >= SHARE and chance * len(a) >= FEWEST
