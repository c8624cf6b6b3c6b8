"""Counts that a caller gives: samples, imputations, rows to look at."""

from __future__ import annotations

import operator
from typing import Any

from taut.system.errors import UsageError

__all__ = ["CountError", "check_count"]


class CountError(UsageError, ValueError):
    """A count is not a whole number, or too small."""


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Returns a count as an int, in the words of the command line where it is none.

    Args:
        name: Its argument.
        value: What was given; a whole number of numpy is one, and a bool is none.
        least: The smallest count.

    Raises:
        CountError: it is not a whole number, or below ``least``.

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
    return count
