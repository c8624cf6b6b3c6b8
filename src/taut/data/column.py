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

from taut.errors import UsageError, shown

LEVEL_KINDS = ("binary", "category", "ordinal")
NUMBER_KINDS = ("count", "levels", "real", "positive")
KINDS = (*LEVEL_KINDS, *NUMBER_KINDS, "date", "id", "constant")
MAX_LEVELS = 65_536
MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None")
TYPES = ("text", "bool", "int", "float", "date", "timestamp", "timestamp UTC")


@dataclass(frozen=True)
class Column:
    """Creates the description of one column.

    Args:
        name: Its header.
        kind: One of ``KINDS``.
        levels: The texts of the levels in the order of their codes 0, 1, ... (binary, category, ordinal).
        low: Smallest value in the units of the codes: of the support for ``levels``, otherwise of the values seen.
        high: Largest value, likewise.
        missing: How many missing entries were seen.
        type: How a value is written again, one of ``TYPES``. A timestamp that had a zone is written in UTC.
        mean: Mean of the values seen (count, levels, real, positive, date).
        std: Their standard deviation.
        rows: How many rows were seen.
        notation: In what dress its numbers or dates were read, empty if in none (``taut.data.notation``).
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
    notation: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"column {quoted(self.name)}: {unknown('kind', self.kind, KINDS)}")
        if self.type not in TYPES:
            raise UsageError(f"column {quoted(self.name)}: {unknown('type', self.type, TYPES)}")
        if len(set(self.levels)) != len(self.levels):
            raise UsageError(f"column {quoted(self.name)}: its levels are not all different")
        if (self.kind in LEVEL_KINDS and len(self.levels) < 2) or (self.kind == "binary" and len(self.levels) > 2):
            needed = "two levels" if self.kind == "binary" else "two levels or more"
            raise UsageError(f"column {quoted(self.name)}: kind {self.kind} needs {needed}, not {len(self.levels)}")
        if not self.low <= self.high:
            raise UsageError(f"column {quoted(self.name)}: low must not exceed high, but {self.low:g} > {self.high:g}")

    @property
    def modelled(self) -> bool:
        return self.kind not in ("id", "constant")

    @property
    def discrete(self) -> bool:
        return self.kind in (*LEVEL_KINDS, "count", "levels")

    @property
    def num_levels(self) -> int:
        return int(self.high - self.low) + 1 if self.kind == "levels" else len(self.levels)

    def describe(self) -> tuple[str, str, str]:
        """Returns (kind, what it holds, share missing), each at most 60 characters for a terminal."""
        if self.kind == "constant":
            what = quoted(self.levels[0]) if self.levels else _number(self.low, self.type)
        elif self.kind in LEVEL_KINDS:
            what = _listed(self.levels)
        elif self.kind == "id":
            what = "left out"
        else:
            what = f"{_number(self.low, self.type)} .. {_number(self.high, self.type)}"
            what = f"{self.num_levels:,} levels: {what}" if self.kind == "levels" else what
        share = 100 * self.missing / max(1, self.rows)
        return self.kind, what, "" if not self.missing else "< 0.1 %" if share < 0.1 else f"{share:.1f} %"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "levels": list(self.levels)}

    @classmethod
    def from_dict(cls, fields_: Mapping[str, Any]) -> Column:
        """Returns the column that ``to_dict`` described.

        Fails:
            UsageError: a field is missing, unknown or of the wrong type.
        """
        try:
            values = dict(fields_)
            if not isinstance(values["name"], str) or not isinstance(values["levels"], list | tuple):
                raise TypeError("name must be a text, levels a list")
            if not all(isinstance(level, str) for level in values["levels"]):
                raise TypeError("levels must be texts")
            if not re.fullmatch(r"|DMY|MDY|YMD|[^#]{0,12}#[.,][^#]{0,16}", values.get("notation", "")):
                raise ValueError("its notation is unknown")
            values["levels"] = tuple(values["levels"])
            for field in fields(cls):
                if field.type in ("float", "int"):
                    values[field.name] = {"float": float, "int": int}[field.type](values[field.name])
            if not all(math.isfinite(values[key]) for key in ("low", "high", "mean", "std")):
                raise ValueError("low, high, mean and std must be finite")
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
    return str(int(value)) if math.isfinite(value) and value == math.trunc(value) else repr(float(value))


def day_text(days: float) -> str:
    """Returns days since 1970-01-01 as a date for people."""
    try:
        return (datetime.datetime(1970, 1, 1) + datetime.timedelta(days=days)).strftime("%Y-%m-%d")
    except (OverflowError, ValueError):
        return f"day {days:.6g}"


def entry_problems(header: str, entry: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with what a schema file says of one column: its kind, levels, low and high."""
    say = f"column {quoted(header)}: "
    keys = ("kind", "levels", "low", "high")
    lines = [say + unknown("key", key, keys) for key in entry if key not in keys]
    kind, levels = entry.get("kind"), entry.get("levels", ())
    bounds = [entry[key] for key in ("low", "high") if key in entry]
    if kind is not None and kind not in KINDS:
        return [*lines, say + unknown("kind", kind, KINDS)]
    if "levels" in entry and kind not in LEVEL_KINDS:
        lines.append(f"{say}levels belong to the kinds {', '.join(LEVEL_KINDS)}; set kind to one of them, or remove levels")
    elif not isinstance(levels, list | tuple) or not all(isinstance(level, str) for level in levels):
        lines.append(f'{say}levels must be a list of texts, such as ["low", "high"]')
    elif "levels" in entry and (len(set(levels)) < max(2, len(levels)) or (kind == "binary" and len(levels) != 2)):
        needed = "two" if kind == "binary" else "two or more"
        lines.append(f"{say}levels must be {needed} different texts, not {_listed(tuple(levels))}")
    if bounds and kind != "levels":
        lines.append(f'{say}low and high belong to the kind levels; set kind = "levels", or remove them')
    elif any(isinstance(b, bool) or not isinstance(b, int | float) or b != b or b % 1 for b in bounds):
        lines.append(f"{say}low and high must be integers")
    elif len(bounds) == 2 and not 0 < bounds[1] - bounds[0] < MAX_LEVELS:
        lines.append(f"{say}needs low < high and at most {MAX_LEVELS:,} levels, not {bounds[0]:.15g}..{bounds[1]:.15g}")
    return lines


def float_storage() -> type[np.float32] | type[np.float64]:
    """Returns the type in which numbers other than bytes are stored: float64 only if torch computes in it."""
    return np.float64 if torch.get_default_dtype() == torch.float64 else np.float32


def exact_integers() -> int:
    """Returns the largest integer up to which stored floats hold every integer."""
    return int(2 ** (np.finfo(float_storage()).nmant + 1))


def is_id_name(name: str) -> bool:
    """Returns whether a header says that its column names the rows."""
    return re.fullmatch(r"(?i:id|index|key|uuid|.*_id|__index_level_\d+__)|.*[a-z](Id|ID)", name, re.DOTALL) is not None


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
    if type_.startswith(("date", "timestamp")):
        return day_text(value)
    return f"{int(value):,}" if value == math.trunc(value) and abs(value) < 1e15 else f"{value:.6g}"
