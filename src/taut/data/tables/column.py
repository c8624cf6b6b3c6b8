"""Says what one column of a table is: its kind, its levels and how its values are written again."""

from __future__ import annotations

import datetime
import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch

from taut.system.errors import UsageError, shown

LEVEL_KINDS = ("binary", "category", "ordinal")
NUMBER_KINDS = ("count", "levels", "real", "positive", "mixed")
KINDS = (*LEVEL_KINDS, *NUMBER_KINDS, "date", "id", "constant")
MAX_LEVELS = 65_536
MAX_ATOMS = 8
ENDS = ("", "low", "high", "both")
MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None")
TYPES = ("text", "bool", "int", "float", "date", "timestamp", "timestamp UTC", "yyyymmdd")


@dataclass(frozen=True)
class Column:
    """Creates the description of one column.

    A model sees *codes*: the number of a level; of ``levels`` (value - offset) / step; of any other
    number value - offset, taken in float64, so that what is stored in float32 keeps the last digit
    of numbers that hardly vary beside their size.

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

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"column {quoted(self.name)}: {unknown('kind', self.kind, KINDS)}")
        if self.type not in TYPES:
            raise UsageError(f"column {quoted(self.name)}: {unknown('type', self.type, TYPES)}")
        if len(set(self.levels)) != len(self.levels):
            raise UsageError(f"column {quoted(self.name)}: its levels are not all different")
        if (self.kind in LEVEL_KINDS and len(self.levels) < 2) or (
            self.kind == "binary" and len(self.levels) > 2
        ):
            needed = "two levels" if self.kind == "binary" else "two levels or more"
            raise UsageError(
                f"column {quoted(self.name)}: kind {self.kind} needs {needed}, not "
                f"{len(self.levels)}"
            )
        if not self.low <= self.high:
            raise UsageError(
                f"column {quoted(self.name)}: low must not exceed high, but {self.low:g} > "
                f"{self.high:g}"
            )
        if self.bounded not in ENDS:
            raise UsageError(
                f"column {quoted(self.name)}: {unknown('bounded', self.bounded, ENDS)}"
            )
        if (
            self.step < 0
            or list(self.atoms) != sorted(set(self.atoms))
            or len(self.atoms) > MAX_ATOMS
        ):
            wanted = (
                f"step must not be negative, atoms at most {MAX_ATOMS} different numbers, ascending"
            )
            raise UsageError(f"column {quoted(self.name)}: {wanted}")

    @property
    def modelled(self) -> bool:
        return self.kind not in ("id", "constant")

    @property
    def discrete(self) -> bool:
        return self.kind in (*LEVEL_KINDS, "count", "levels")

    @property
    def num_levels(self) -> int:
        return (
            int(self.codes(self.high) - self.codes(self.low)) + 1
            if self.kind == "levels"
            else len(self.levels)
        )

    def codes(self, values: Any) -> Any:
        """Returns what a model sees of numbers (days, of dates) in the user's units, in float64."""
        shifted = np.asarray(values, np.float64) - self.offset
        return np.round(shifted / self._unit, 6) if self.kind == "levels" else shifted

    def values(self, codes: Any) -> Any:
        """Returns the numbers that codes stand for.

        The inverse of ``codes``, on the grid to the last digit.
        """
        numbers = (
            np.asarray(codes, np.float64) * (self._unit if self.kind == "levels" else 1.0)
            + self.offset
        )
        if not self.step:
            return numbers
        if self.kind == "date":
            return np.round(numbers / self.step) * self.step
        return np.round(numbers, max(decimals(self.step), decimals(self.low)))

    def settled(self, codes: Any) -> Any:
        """Returns codes that a model made, moved to the grid and into the range of the data where
        the column has one.
        """
        made = np.asarray(codes, np.float64)
        if self.kind in ("count", "levels"):
            made = np.round(made)
        elif self.step:
            start = self.codes(self.low)
            made = start + np.round((made - start) / self.step) * self.step
        elif self.type == "int":
            made = np.round(made)
        ranged = self.kind in ("levels", "mixed", "date")
        return np.clip(made, self.codes(self.low), self.codes(self.high)) if ranged else made

    @property
    def support(self) -> tuple[float, float]:
        """The ends of the support in codes; infinite where no bound is known."""
        if self.kind == "levels":
            return float(self.codes(self.low)), float(self.codes(self.high))
        low = self.low if self.bounded in ("low", "both") else -math.inf
        high = self.high if self.bounded in ("high", "both") else math.inf
        return float(self.codes(low)), float(self.codes(high))

    @property
    def _unit(self) -> float:
        return self.step or 1.0

    def describe(self) -> tuple[str, str, str]:
        """Returns (kind, what it holds, share missing), each at most 60 characters for
        a terminal.
        """
        if self.kind == "constant":
            what = quoted(self.levels[0]) if self.levels else _number(self.low, self.type)
        elif self.kind in LEVEL_KINDS:
            what = _listed(self.levels)
        elif self.kind == "id":
            what = "left out"
        else:
            what = f"{_number(self.low, self.type)} .. {_number(self.high, self.type)}"
            what = f"{self.num_levels:,} levels: {what}" if self.kind == "levels" else what
            what += (
                f", steps of {self.step:.6g}"
                if self.step not in (0.0, 1.0) and self.kind != "date"
                else ""
            )
            held = ", ".join(_number(atom, self.type) for atom in self.atoms[:2]) + (
                ", ..." if len(self.atoms) > 2 else ""
            )
            what += (
                f", and {held} itself"
                if len(self.atoms) == 1
                else f", and {held} themselves"
                if self.atoms
                else ""
            )
        share = 100 * self.missing / max(1, self.rows)
        return (
            self.kind,
            what,
            "" if not self.missing else "< 0.1 %" if share < 0.1 else f"{share:.1f} %",
        )

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "levels": list(self.levels), "atoms": list(self.atoms)}

    @classmethod
    def from_dict(cls, fields_: Mapping[str, Any]) -> Column:
        """Returns the column that ``to_dict`` described.

        Fails:
            UsageError: a field is missing, unknown or of the wrong type.
        """
        try:
            values = dict(fields_)
            if lacking := [
                f.name for f in fields(cls) if f.name not in values and "name" in values
            ]:
                raise TypeError(
                    f"{', '.join(lacking)} missing: it was written by another version of taut; "
                    f"train again"
                )
            if not isinstance(values["name"], str) or not isinstance(
                values["levels"], list | tuple
            ):
                raise TypeError("name must be a text, levels a list")
            if not all(isinstance(level, str) for level in values["levels"]):
                raise TypeError("levels must be texts")
            if not re.fullmatch(
                r"|DMY|MDY|YMD|[^#]{0,12}#[.,][^#]{0,16}", values.get("notation", "")
            ):
                raise ValueError("its notation is unknown")
            if not isinstance(values["atoms"], list | tuple) or not isinstance(
                values["bounded"], str
            ):
                raise TypeError("atoms must be a list of numbers, bounded a text")
            values["levels"], values["atoms"] = (
                tuple(values["levels"]),
                tuple(float(a) for a in values["atoms"]),
            )
            for field in fields(cls):
                if field.type in ("float", "int"):
                    values[field.name] = {"float": float, "int": int}[field.type](
                        values[field.name]
                    )
            numbers = [values[key] for key in ("low", "high", "mean", "std", "offset", "step")]
            if not all(map(math.isfinite, [*numbers, *values["atoms"]])):
                raise ValueError("low, high, mean, std, offset, step and atoms must be finite")
            return cls(**values)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"not a column ({type(error).__name__}: {shown(error)})") from error


def quoted(text: object, width: int = 40) -> str:
    """Returns a text in quotes, escaped and cut, for a message."""
    string = str(text)
    string = string if len(string) <= width else string[: width - 3] + "..."
    return f"'{string}'" if string.isprintable() else shown(string)


def unknown(what: str, word: object, words: Iterable[str]) -> str:
    """Returns a line that names the nearest right word, and all of them if they are few."""
    words = list(words)
    nearest = nearest_to(word, words)
    listed = f"; it is one of {', '.join(quoted(w) for w in words)}" if len(words) <= 12 else ""
    return f"unknown {what} {quoted(word)}{nearest}{listed}"


def nearest_to(word: object, words: Iterable[str]) -> str:
    """Returns ``; did you mean 'x'?`` or nothing."""
    near = difflib.get_close_matches(str(word)[:200], [w for w in words if len(w) <= 200], n=1)
    return f"; did you mean {quoted(near[0])}?" if near else ""


def value_text(value: float) -> str:
    """Returns a number as the text of a level: ``3``, ``0.5``."""
    return (
        str(int(value))
        if math.isfinite(value) and value == math.trunc(value)
        else repr(float(value))
    )


def decimals(value: float) -> int:
    """Returns how many decimals a number has, 12 at most."""
    for k in range(12):
        scaled = abs(value) * 10**k
        if abs(scaled - round(scaled)) <= 1e-9 * max(1.0, scaled) and (round(scaled) or not value):
            return k
    return 12


def day_text(days: float) -> str:
    """Returns days since 1970-01-01 as a date for people."""
    try:
        return (datetime.datetime(1970, 1, 1) + datetime.timedelta(days=days)).strftime("%Y-%m-%d")
    except (OverflowError, ValueError):
        return f"day {days:.6g}"


def entry_problems(header: str, entry: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with what a schema file says of one column.

    Its kind, levels, low, high, step and atoms.
    """
    say = f"column {quoted(header)}: "
    keys = ("kind", "levels", "low", "high", "step", "atoms")
    lines = [say + unknown("key", key, keys) for key in entry if key not in keys]
    kind, levels = entry.get("kind"), entry.get("levels", ())
    if kind is not None and kind not in KINDS:
        return [*lines, say + unknown("kind", kind, KINDS)]
    if "levels" in entry and kind not in LEVEL_KINDS:
        lines.append(
            f"{say}levels belong to the kinds {', '.join(LEVEL_KINDS)}; set kind to one of them, "
            f"or remove levels"
        )
    elif not isinstance(levels, list | tuple) or not all(
        isinstance(level, str) for level in levels
    ):
        lines.append(f'{say}levels must be a list of texts, such as ["low", "high"]')
    elif "levels" in entry and (
        len(set(levels)) < max(2, len(levels)) or (kind == "binary" and len(levels) != 2)
    ):
        needed = "two" if kind == "binary" else "two or more"
        lines.append(f"{say}levels must be {needed} different texts, not {_listed(tuple(levels))}")
    return lines + [say + line for line in _number_problems(kind, entry)]


def _number_problems(kind: Any, entry: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with low, high, step and atoms."""
    bounds = [entry[key] for key in ("low", "high") if key in entry]
    if bounds and kind not in ("levels", "mixed"):
        return [
            'low and high belong to the kinds levels and mixed; set kind = "levels" or "mixed", or '
            "remove them"
        ]
    if "step" in entry and kind not in ("levels", "mixed", "real", "positive"):
        return [
            'step belongs to the kinds levels, mixed, real and positive; set kind = "levels" or '
            "another, or remove it"
        ]
    if "atoms" in entry and kind != "mixed":
        return ['atoms belong to the kind mixed; set kind = "mixed", or remove them']
    step, atoms = entry.get("step", 1), entry.get("atoms", [])
    if not _is_number(step) or not 0 < step < math.inf:
        return ["step must be a number above 0"]
    if (
        not isinstance(atoms, list | tuple)
        or not all(map(_is_number, atoms))
        or len(atoms) > MAX_ATOMS
    ):
        return [f"atoms must be a list of at most {MAX_ATOMS} numbers, such as [0]"]
    if not all(map(_is_number, bounds)):
        return [
            "low and high must be integers" if kind == "levels" else "low and high must be numbers"
        ]
    if kind == "levels" and any(abs(b / step - round(b / step)) > 1e-6 for b in bounds):
        return [
            "low and high must be integers"
            if step == 1
            else f"low and high must be multiples of step, {step:g}"
        ]
    if (
        len(bounds) == 2
        and kind == "levels"
        and not 0 < (bounds[1] - bounds[0]) / step < MAX_LEVELS
    ):
        return [
            f"needs low < high and at most {MAX_LEVELS:,} levels, not "
            f"{bounds[0]:.15g}..{bounds[1]:.15g}"
        ]
    return ["needs low < high"] if len(bounds) == 2 and not bounds[0] < bounds[1] else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def float_storage() -> type[np.float32] | type[np.float64]:
    """Returns the type in which numbers other than bytes are stored.

    Float64 only if torch computes in it.
    """
    return np.float64 if torch.get_default_dtype() == torch.float64 else np.float32


def exact_integers() -> int:
    """Returns the largest integer up to which stored floats hold every integer."""
    return int(2 ** (np.finfo(float_storage()).nmant + 1))


def is_id_name(name: str) -> bool:
    """Returns whether a header says that its column names the rows."""
    return (
        re.fullmatch(
            r"(?i:id|index|key|uuid|.*_id|__index_level_\d+__)|.*[a-z](Id|ID)", name, re.DOTALL
        )
        is not None
    )


def _listed(levels: tuple[str, ...], width: int = 60) -> str:
    text = f"{len(levels):,} levels: "
    for i, level in enumerate(levels):
        more = "" if i == len(levels) - 1 else ", ..."
        item = ("" if i == 0 else ", ") + shown(level[:20] + "..." if len(level) > 20 else level)
        if len(text + item + more) > width:
            return text.rstrip() + (", ..." if i else " ...")
        text += item
    return text


def _number(value: float, type_: str) -> str:
    if type_.startswith(("date", "timestamp", "yyyymmdd")):
        return day_text(value)
    return f"{int(value):,}" if value == math.trunc(value) and abs(value) < 1e15 else f"{value:.6g}"
