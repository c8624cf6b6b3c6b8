"""Names, numbers and levels as they stand in messages, and in what numbers are stored."""

from __future__ import annotations

import datetime
import difflib
import math
import re
from collections.abc import Iterable

import numpy as np
import torch

from taut.system.errors import shown

MAX_LEVELS = 65_536
MAX_ATOMS = 8
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with what a text begins that a spreadsheet runs
MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None")


def quoted(text: object, width: int = 40) -> str:
    """Returns a text in quotes, escaped and cut, for a message."""
    string = str(text)
    if not (len(string) <= width):
        string = string[: width - 3] + "..."
    if string.isprintable():
        return f"'{string}'"
    return shown(string)


def unknown(what: str, word: object, words: Iterable[str]) -> str:
    """Returns a line that names the nearest right word, and all of them if they are few."""
    words = list(words)
    nearest = nearest_to(word, words)
    listed = f"; it is one of {', '.join(quoted(w) for w in words)}" if len(words) <= 13 else ""
    return f"unknown {what} {quoted(word)}{nearest}{listed}"


def nearest_to(word: object, words: Iterable[str]) -> str:
    """Returns ``; did you mean 'x'?`` or nothing."""
    near = difflib.get_close_matches(str(word)[:200], [w for w in words if len(w) <= 200], n=1)
    if near:
        return f"; did you mean {quoted(near[0])}?"
    return ""


def value_text(value: float) -> str:
    """Returns a number as the text of a level: ``3``, ``0.5``."""
    if math.isfinite(value) and value == math.trunc(value):
        return str(int(value))
    return repr(float(value))


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


def float_storage() -> type[np.float32] | type[np.float64]:
    """Returns the type in which numbers other than bytes are stored.

    Float64 only if torch computes in it.
    """
    if torch.get_default_dtype() == torch.float64:
        return np.float64
    return np.float32


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


def listed_levels(levels: tuple[str, ...], width: int = 60) -> str:
    """Returns how many levels there are, and as many of them as fit."""
    text = f"{len(levels):,} levels: "
    for i, level in enumerate(levels):
        more = ", ..." * (i < len(levels) - 1)
        item = ", " * (i > 0) + shown(level[:20] + "..." * (len(level) > 20))
        if len(text + item + more) > width:
            return text.rstrip() + "," * (i > 0) + " ..."
        text += item
    return text


def number_text(value: float, type_: str) -> str:
    """Returns a number, or a date, for people."""
    if type_.startswith(("date", "timestamp", "yyyymmdd")):
        return day_text(value)
    if value == math.trunc(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.6g}"
