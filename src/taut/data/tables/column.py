"""Says what one column of a table is: its kind, its levels and how its values are written again."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from taut.data.tables.formula import Formula, parse
from taut.data.tables.kind import Grid, Kind
from taut.data.tables.kinds import KINDS
from taut.data.tables.words import MAX_ATOMS, quoted, unknown
from taut.system.errors import UsageError, shown

ENDS = ("", "low", "high", "both")
TYPES = ("text", "bool", "int", "float", "date", "timestamp", "timestamp UTC", "yyyymmdd")


@dataclass(frozen=True)
class Column:
    """Creates the description of one column.

    A model sees *codes*: the number of a level; of ``levels`` (value - offset) / step; of any other
    number value - offset, taken in float64, so that what is stored in float32 keeps the last digit
    of numbers that hardly vary next to their size.

    Args:
        name: Its header.
        kind: One of ``KINDS``.
        levels: The texts of the levels in the order of their codes 0, 1, ... (binary, category,
            ordinal).
        low: Smallest value in the user's units: of the support for ``levels``, otherwise of the
            values seen.
        high: Largest value, likewise.
        missing: How many missing entries were seen.
        type: How a value is written again, one of ``TYPES``. A timestamp that had a zone is written
            in UTC.
        mean: Mean of the values seen (count, levels, real, positive, date).
        std: Their standard deviation.
        rows: How many rows were seen.
        offset: What is subtracted before a number is stored.
        step: Distance of the grid that the values lie on (0.01 for cents), 0 where there is none.
            Of ``levels`` it belongs to the support, otherwise what a model makes is rounded to it.
        atoms: Of ``mixed`` and ``date``, the values that have a probability of their own,
            ascending.
        bounded: Which of low and high no value can pass, of ``mixed``: one of ``ENDS``.
        notation: In what dress its numbers or dates were read, empty if in none
            (``taut.data.tables.notation``).
        formula: Of ``derived``, the sum of other columns that it is (``taut.data.tables.formula``).
    """

    name: str
    kind: str
    levels: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    missing: int = 0
    type: str = "float"
    mean: float = 0.0
    std: float = 0.0
    rows: int = 0
    offset: float = 0.0
    step: float = 0.0
    atoms: tuple[float, ...] = ()
    bounded: str = ""
    notation: str = ""
    formula: str = ""

    def __post_init__(self) -> None:
        if problem := self._problem():
            raise UsageError(f"column {quoted(self.name)}: {problem}")

    def _problem(self) -> str:
        """Returns what is wrong with the fields, or nothing."""
        for what, word, words in (
            ("kind", self.kind, KINDS),
            ("type", self.type, TYPES),
            ("bounded", self.bounded, ENDS),
        ):
            if word not in words:
                return unknown(what, word, words)
        if len(set(self.levels)) != len(self.levels):
            return "its levels are not all different"
        if needed := self.rules.wrong_levels(len(self.levels)):
            return f"kind {self.kind} needs {needed}, not {len(self.levels)}"
        if not self.low <= self.high:
            return f"low must not exceed high, but {self.low:g} > {self.high:g}"
        ascending = list(self.atoms) == sorted(set(self.atoms))
        if self.formula and self.kind != "derived":
            return f"kind {self.kind} has no formula"
        if self.formula and not isinstance(self.sum, Formula):
            return self.sum
        if self.step < 0 or not ascending or len(self.atoms) > MAX_ATOMS:
            return (
                f"step must not be negative, atoms at most {MAX_ATOMS} different numbers, ascending"
            )
        return ""

    @property
    def rules(self) -> Kind:
        """All that follows from the kind."""
        return KINDS[self.kind]

    @property
    def sum(self) -> Formula | str:
        """The formula of a derived column, empty without one, or what is wrong with it."""
        if not self.formula:
            return ""
        return parse(self.formula)

    @property
    def modelled(self) -> bool:
        return self.rules.modelled

    @property
    def discrete(self) -> bool:
        return self.rules.discrete

    @property
    def num_levels(self) -> int:
        return self.rules.num_levels(self)

    def codes(self, values: Any) -> Any:
        """Returns what a model sees of numbers (days, of dates) in the user's units, in float64."""
        return self.rules.codes(self, values)

    def values(self, codes: Any) -> Any:
        """Returns the numbers that codes stand for.

        The inverse of ``codes``, on the grid to the last digit.
        """
        return self.rules.values(self, codes)

    def settled(self, codes: Any) -> Any:
        """Returns codes that a model made, moved to the grid and into the range of the data where
        the column has one.
        """
        return self.rules.settled(self, codes)

    @property
    def support(self) -> tuple[float, float]:
        """The ends of the support in codes; infinite where no bound is known."""
        return self.rules.support(self)

    @property
    def grid(self) -> Grid | None:
        """The grid of its codes, if its kind sees numbers through one and they lie on one."""
        return self.rules.grid(self)

    def describe(self) -> tuple[str, str, str]:
        """Returns (kind, what it holds, share missing), each at most 60 characters for
        a terminal.
        """
        share = 100 * self.missing / max(1, self.rows)
        missing = "< 0.1 %" if share < 0.1 else f"{share:.1f} %"
        return self.kind, self.rules.held(self), missing if self.missing else ""

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "levels": list(self.levels), "atoms": list(self.atoms)}

    @classmethod
    def from_dict(cls, fields_: Mapping[str, Any]) -> Column:
        """Returns the column that ``to_dict`` described.

        Raises:
            UsageError: a field is missing, unknown or of the wrong type.
        """
        try:
            values = {"formula": ""} | dict(fields_)  # which earlier releases did not have
            names = [field.name for field in fields(cls)]
            if "name" in values and (lacking := [name for name in names if name not in values]):
                raise TypeError(
                    f"{', '.join(lacking)} missing: it was written by another version of taut; "
                    f"train again"
                )
            _check_types(values)
            values["levels"] = tuple(values["levels"])
            values["atoms"] = tuple(float(a) for a in values["atoms"])
            for field in fields(cls):
                if field.type in ("float", "int"):
                    read = {"float": float, "int": int}[field.type]
                    values[field.name] = read(values[field.name])
            numbers = [values[key] for key in ("low", "high", "mean", "std", "offset", "step")]
            if not all(map(math.isfinite, [*numbers, *values["atoms"]])):
                raise ValueError("low, high, mean, std, offset, step and atoms must be finite")
            return cls(**values)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"not a column ({type(error).__name__}: {shown(error)})") from error


def _check_types(values: Mapping[str, Any]) -> None:
    """Raises an error where a text or a list is none."""
    texts = isinstance(values["name"], str) and isinstance(values["formula"], str)
    if not texts or not isinstance(values["levels"], list | tuple):
        raise TypeError("name and formula must be texts, levels a list")
    if not all(isinstance(level, str) for level in values["levels"]):
        raise TypeError("levels must be texts")
    if not re.fullmatch(r"|DMY|MDY|YMD|[^#]{0,12}#[.,][^#]{0,16}", values.get("notation", "")):
        raise ValueError("its notation is unknown")
    if not isinstance(values["atoms"], list | tuple) or not isinstance(values["bounded"], str):
        raise TypeError("atoms must be a list of numbers, bounded a text")
