"""What a kind of column is, and what levels and numbers have in common; each kind: ``kinds.py``.

A kind is named by its ``word`` in schema files and run folders. It says what cells it can hold, how
they become codes and values again, what a schema file may say of it, what the encoder sees, which
likelihood it usually has, and what is odd about new values.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from taut.data.tables import shape
from taut.data.tables.seen import Numbers
from taut.data.tables.words import (
    decimals,
    float_storage,
    listed_levels,
    number_text,
    value_text,
)

if TYPE_CHECKING:
    from taut.data.tables.column import Column

__all__ = ["KINDS", "Grid", "Kind", "Level", "Number", "Odd", "Shape", "words_that_take"]

KINDS: dict[str, Kind] = {}

Odd = tuple[np.ndarray, str, str]
"""Which values (N,), what they are, and what to do about it."""


class Shape(NamedTuple):
    """What a column of numbers looks like: fields of ``Column``."""

    low: float
    high: float
    step: float
    offset: float
    atoms: tuple[float, ...] = ()
    bounded: str = ""


class Grid(NamedTuple):
    """The grid of a column of numbers, in codes.

    Args:
        start: Value of cell 0.
        step: Width of a cell.
        first: Number of the first cell, minus infinity where no end is known.
        last: Number of the last one, likewise.
        atoms: Numbers of the cells whose values have a probability and no density.
    """

    start: float = 0.0
    step: float = 1.0
    first: float = -math.inf
    last: float = math.inf
    atoms: tuple[float, ...] = ()

    def place(self, codes: np.ndarray) -> np.ndarray:
        """Returns the numbers of the cells of codes."""
        return np.asarray(np.round((codes - self.start) / self.step))


MOST_CELLS = 2**22  # beyond it float32 does not hold the middle between two numbers of cells


class Kind(abc.ABC):
    """Abstract kind of column.

    Its methods take the ``Column``, a description, or the ``Numbers`` that were seen.
    """

    word: ClassVar[str]
    told: ClassVar[str] = ""  # what a schema file says of it
    modelled = True
    made = False  # does a made row have it, though no model sees it?
    names_rows = False  # does it go with each row into every result?
    discrete = False  # are its codes integers?
    nominal = False  # are they the numbers of levels?
    ordered = False  # have its levels an order?
    keeps_text = False  # are texts such as 01234 levels, and not numbers?
    ranged = False  # does a model's likelihood know the range of the data?
    goes_round = False  # may its ends be neighbours, as those of hours are?
    unbounded = False  # may its density grow without limit where values repeat?
    cells: tuple[str, ...] = ("number",)  # what it can hold: text, bool, number, date
    reads = "number"  # as what texts are read
    needs = "numbers"
    entries: frozenset[str] = frozenset()  # what a schema file may say, besides kind
    family = ""  # the argument of ``likelihoods.Columns`` that it belongs to
    usual = ""  # the likelihood of that family
    celled = ""  # the one that sees its numbers through the cells of a grid, if it has one
    warped = False  # does that likelihood start from the knots of the marginal?
    transform = "none"  # what the encoder sees of a number: none, log, log1p, warp

    def __init_subclass__(cls) -> None:
        if "word" in vars(cls):
            KINDS[cls.word] = cls()

    # What it can be

    def holds(self, family: str, numbers: Numbers) -> bool:
        """Returns whether it can hold cells of a family."""
        return family in self.cells

    def refuses(self, numbers: Numbers, distinct: int) -> str:
        """Returns why it cannot hold these values, of which so many differ, or nothing."""
        return ""

    def wrong_levels(self, count: int) -> str:
        """Returns how many levels it needs, if it cannot have so many."""
        return ""

    def keeps_order(self, order: Sequence[str]) -> bool:
        """Returns whether it takes over the order that a source declares."""
        return False

    # Codes

    def codes(self, column: Column, values: Any) -> Any:
        return np.asarray(values, np.float64)

    def values(self, column: Column, codes: Any) -> Any:
        return np.asarray(codes, np.float64)

    def unit(self, column: Column) -> float:
        """Returns the size of one code in the user's units."""
        return 1.0

    def settled(self, column: Column, codes: Any) -> Any:
        """Returns codes that a model made, as they are written."""
        return codes

    def support(self, column: Column) -> tuple[float, float]:
        return -math.inf, math.inf

    def num_levels(self, column: Column) -> int:
        return len(column.levels)

    def grid(self, column: Column) -> Grid | None:
        return None

    # Words

    @abc.abstractmethod
    def held(self, column: Column) -> str:
        """Returns what it holds, for a terminal."""

    def entry(self, column: Column) -> dict[str, Any]:
        """Returns what a schema file says of a column, besides its kind."""
        return {}

    def stored(self, label: str, column: Column, largest: float) -> list[str]:
        """Returns notes on what storing values up to ``largest`` loses."""
        return []

    # New values

    def wrong(self, column: Column, x: np.ndarray) -> list[Odd]:
        """Returns values that cannot be stored."""
        return []

    def foreign(self, column: Column, x: np.ndarray) -> list[Odd]:
        """Returns values that it cannot hold, which are refused where they are many."""
        return []

    def odd(self, column: Column, x: np.ndarray) -> list[Odd]:
        """Returns values that the training never saw the like of; last, how to expect them."""
        return []

    # What a model takes

    def hot(self, column: Column) -> int:
        """Returns how many features of the encoder its levels are; 0 for one number."""
        return 0

    def log_shift(self, column: Column) -> float:
        """Returns what is added before the logarithm is taken, NaN where none is."""
        if column.low > 0 and not column.offset:
            return 0.0
        return math.nan


class Level(Kind):
    """Abstract kind whose codes are the numbers of levels, each a text."""

    discrete = nominal = True
    cells = ("text", "bool", "number")
    needs = "levels"
    entries = frozenset({"levels"})

    def wrong_levels(self, count: int) -> str:
        if count >= 2:
            return ""
        return "two levels or more"

    def held(self, column: Column) -> str:
        return listed_levels(column.levels)

    def entry(self, column: Column) -> dict[str, Any]:
        return {"levels": column.levels}


class Number(Kind):
    """Abstract kind whose codes are numbers, less an offset."""

    def codes(self, column: Column, values: Any) -> Any:
        return np.asarray(values, np.float64) - column.offset

    def values(self, column: Column, codes: Any) -> Any:
        numbers = np.asarray(codes, np.float64) * self.unit(column) + column.offset
        if column.step:
            return self.rounded(column, numbers)
        return numbers

    def rounded(self, column: Column, numbers: np.ndarray) -> np.ndarray:
        """Returns numbers on the grid, to the last digit."""
        return np.round(numbers, max(decimals(column.step), decimals(column.low)))

    def settled(self, column: Column, codes: Any) -> Any:
        made = self.on_grid(column, np.asarray(codes, np.float64))
        if not self.ranged:
            return made
        return np.clip(made, self.codes(column, column.low), self.codes(column, column.high))

    def on_grid(self, column: Column, made: np.ndarray) -> np.ndarray:
        """Returns codes moved to the grid of the data, where there is one."""
        if column.step:
            start = self.codes(column, column.low)
            return np.asarray(start + np.round((made - start) / column.step) * column.step)
        if column.type == "int":
            return np.round(made)
        return made

    def support(self, column: Column) -> tuple[float, float]:
        low = column.low if column.bounded in ("low", "both") else -math.inf
        high = column.high if column.bounded in ("high", "both") else math.inf
        return float(self.codes(column, low)), float(self.codes(column, high))

    def grid(self, column: Column) -> Grid | None:
        """Returns the grid of a density; cells are wider than the step where there would be too
        many.
        """
        if not (self.celled and column.step):
            return None
        steps = (column.high - column.low) / column.step
        step = column.step * max(1, math.ceil(steps / MOST_CELLS))
        low = float(self.codes(column, column.low))
        grid = Grid(low - round(low / step) * step, step)
        first, last = grid.place(np.array(self.support(column)))
        atoms = grid.place(self.codes(column, column.atoms))
        return grid._replace(first=first, last=last, atoms=tuple(atoms.tolist()))

    # From the numbers that were seen

    def shaped(self, numbers: Numbers, entry: Mapping[str, Any]) -> Shape | str:
        """Returns what a column of such numbers looks like, a schema file saying some of it, or
        what is wrong.
        """
        low, high = float(entry.get("low", numbers.low)), float(entry.get("high", numbers.high))
        if numbers.low < low or numbers.high > high:
            held = f"{value_text(numbers.low)}..{value_text(numbers.high)}"
            return (
                f" holds {held}, outside its levels {low:.15g}..{high:.15g}; correct the values, "
                f"or low and high"
            )
        step = self.step(numbers, entry, low, high)
        if isinstance(step, str):
            return step
        atoms = self.atoms(numbers, entry)
        offset = self.offset(numbers, step, low)
        return Shape(low, high, step, offset, atoms, self.bounded(numbers, atoms, entry))

    def step(
        self, numbers: Numbers, entry: Mapping[str, Any], low: float, high: float
    ) -> float | str:
        """Returns the grid that the numbers lie on, or why they cannot."""
        return float(entry.get("step", shape.step_of(numbers)))

    def atoms(self, numbers: Numbers, entry: Mapping[str, Any]) -> tuple[float, ...]:
        """Returns the values that have a probability of their own."""
        return ()

    def bounded(self, numbers: Numbers, atoms: tuple[float, ...], entry: Mapping[str, Any]) -> str:
        """Returns which ends nothing passes: one of ``column.ENDS``."""
        return ""

    def offset(self, numbers: Numbers, step: float, low: float) -> float:
        """Returns what is subtracted before numbers are stored."""
        return shape.offset_of(numbers, step)

    # Words

    def held(self, column: Column) -> str:
        low, high = (number_text(end, column.type) for end in (column.low, column.high))
        steps = "" if column.step in (0.0, 1.0) else f", steps of {column.step:.6g}"
        return f"{low} .. {high}{steps}"

    def entry(self, column: Column) -> dict[str, Any]:
        if column.step and "step" in self.entries:
            return {"step": column.step}
        return {}

    # New values

    def wrong(self, column: Column, x: np.ndarray) -> list[Odd]:
        storage = np.finfo(float_storage())
        largest = np.maximum(np.abs(x), np.abs(self.codes(column, x)))  # a code may be larger
        beyond = np.isfinite(x) & (largest > float(storage.max))
        return [(beyond, f"beyond the range of {storage.dtype.name}", "rescale the column")]


def words_that_take(entry: str) -> list[str]:
    """Returns the words of the kinds of which a schema file may say this."""
    return [word for word, kind in KINDS.items() if entry in kind.entries]
