"""Counts and amounts that a caller gives: samples, imputations, rows to look at, minutes."""

from __future__ import annotations

import math
import operator
from typing import Any

from taut.system.errors import UsageError

__all__ = ["COMPLETIONS", "CountError", "check_amount", "check_count"]

COMPLETIONS = 10_000  # of each row that has gaps, at most: all are in memory at once


class CountError(UsageError, ValueError):
    """A count is not a whole number, an amount not a number, or either too small or too large."""


def check_count(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """Returns a count as an int, in the words of the command line where it is none.

    Args:
        name: Its argument.
        value: What was given; a whole number of numpy is one, and a bool is none.
        least: The smallest count.
        most: The largest; None for any.

    Raises:
        CountError: it is not a whole number, below ``least`` or above ``most``.

    Examples:
        >>> check_count("num_samples", 3)
        3
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        count = operator.index(value)
    except TypeError:
        raise CountError(
            f"{name}: expected a whole number of at least {least}, not {value!r}"
        ) from None
    if count < least:
        raise CountError(f"{name}: expected at least {least}, not {count}")
    if most is not None and count > most:
        raise CountError(f"{name}: expected at most {most}, not {count}")
    return count


def check_amount(name: str, value: Any, *, above: bool = False) -> float:
    """Returns an amount as a float, in the words of the command line where it is none.

    Args:
        name: Its argument.
        value: What was given; a bool is no number.
        above: Whether it must be above 0, and not 0.

    Raises:
        CountError: it is not a finite number, or too small.

    Examples:
        >>> check_amount("gain", 0)
        0.0
    """
    words = "above 0" if above else "of at least 0"
    try:
        if isinstance(value, bool | str):
            raise TypeError
        amount = float(value)
    except (TypeError, ValueError):
        raise CountError(f"{name}: expected a number {words}, not {value!r}") from None
    if not math.isfinite(amount) or amount < 0 or (above and not amount):
        raise CountError(f"{name}: expected a number {words}, not {amount:g}")
    return amount
