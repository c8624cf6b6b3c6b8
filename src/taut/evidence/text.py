"""How a number and a text of the audit are shown, the same in tables, sentences and figures.

An error is shown to two significant digits, and a value to the decimals of its error. Where there
are two errors that is the test-set error: it is the one of the number as a statement about new
data. A number without an error has three significant digits, a count all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["decimals", "error_of", "number", "plain", "plus_minus", "share"]

ABSENT, UNKNOWN = "not measured", "not known"
DECIMALS = 6  # at most
SMALL, LARGE = 1e-4, 1e9  # beyond them, a power of ten
SPACE = "\N{NO-BREAK SPACE}"


def number(value: float | None, error: float | None = None) -> str:
    """Returns a number as text, with the decimals that its error allows.

    Args:
        value: The number.
        error: Its standard error; without one it gets three significant digits.

    Examples:
        >>> number(-86.4446, 1.2535), number(1.2535, 1.2535), number(0.00374), number(425284)
        ('−86.4', '1.3', '0.00374', '425,284')
        >>> number(3.4e-62), number(None), number(-math.inf), number(math.nan)
        ('3.40e−62', 'not measured', '−∞', 'not known')
    """
    if value is None:
        return ABSENT
    if math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    places = _places(value, error)
    if abs(value) >= LARGE or (places > DECIMALS and 0 < abs(value) < SMALL):
        mantissa, exponent = f"{value:.{1 if error == value else 2}e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    text = f"{value:,.{min(max(places, 0), DECIMALS)}f}".replace("-", "−")
    if not text.strip("−0.,"):  # what rounds to zero has no sign
        return text.removeprefix("−")
    return text


def _places(value: float, error: float | None) -> int:
    """Returns the decimals of a number: those of its error, or three significant digits."""
    if error:
        return decimals(error)
    return decimals(value) + 1 if value else 0


def decimals(value: float) -> int:
    """Returns the decimals of two significant digits of a number; the rounding itself may carry.

    Examples:
        >>> decimals(0.0132), decimals(0.0996), decimals(1.25), decimals(170.0)
        (3, 2, 1, -1)
    """
    return 1 - int(f"{abs(value):.1e}".split("e")[1])


def error_of(estimate: Mapping[str, Any]) -> float | None:
    """Returns the error that an estimate is shown with.

    The test-set error, or the Monte Carlo error where it has no other.
    """
    test = estimate.get("test_error")
    if test is None:
        return estimate.get("mc_error")
    return test


def plus_minus(estimate: Mapping[str, Any] | None) -> str:
    r"""Returns an estimate as text, its error beside it.

    Examples:
        >>> plus_minus({"value": 2.6194, "mc_error": 0.004, "test_error": 0.1376})
        '2.62\xa0±\xa00.14'
    """
    if estimate is None:
        return ABSENT
    if estimate["value"] is None:
        return UNKNOWN
    error = error_of(estimate)
    text = number(estimate["value"], error)
    if error is None:
        return text
    return f"{text}{SPACE}±{SPACE}{number(error, error)}"


def share(value: float | None) -> str:
    r"""Returns a share as a percentage.

    Examples:
        >>> share(0.07333), share(0.99666), share(1.0)
        ('7.33\xa0%', '99.7\xa0%', '100\xa0%')
    """
    if value is None:
        return ABSENT
    return f"{100 * value:.3g}{SPACE}%"


def plain(value: Any) -> Any:
    """Returns plain values whose texts can stand in a page, with None for a number that is not
    finite.

    What cannot be printed (control characters, marks that turn the direction of writing, halves of
    a character) becomes an escape, so that a name can neither break the page nor look like another
    one.
    """
    if isinstance(value, Mapping):
        return {plain(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, str):
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
