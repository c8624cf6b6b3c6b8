"""Numbers and dates in the dress that people give them: currency, percent, units, brackets, marks
of a country, names of months.

A column has one notation, found from its values and kept with the model, so that "150 lb" is never
taken for kilograms later. It is a short text: ``"$#."`` is a dollar sign, a number with a decimal
point, nothing after it; ``"#,%"`` a number with a decimal comma and a percent sign; ``"DMY"``,
``"MDY"`` and ``"YMD"`` are orders of day, month and year. Plain numbers and ISO dates need none.
"""

from __future__ import annotations

import datetime
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

__all__ = [
    "ORDERS",
    "Dress",
    "affix",
    "days_in",
    "find",
    "is_currency",
    "is_time_of_day",
    "numbers_in",
    "units",
]

SAMPLE = 400
LIKELY = 0.5  # of the sample that must be in a notation before the whole column is tried
ORDERS = ("DMY", "MDY", "YMD")
SPACES = dict.fromkeys(map(ord, "\u00a0\u202f\u2009\u2007\u2002"), " ")
MARKS = {**SPACES, 0x2212: "-", 0x2019: "'"}
CODES = {
    "USD",
    "EUR",
    "GBP",
    "JPY",
    "CHF",
    "CAD",
    "AUD",
    "CNY",
    "INR",
    "SEK",
    "NOK",
    "DKK",
    "PLN",
    "CZK",
    "HUF",
    "BRL",
    "MXN",
    "ZAR",
    "TRY",
    "RUB",
    "KRW",
    "SGD",
    "HKD",
    "NZD",
    "Fr.",
    "SFr.",
    "Rs",
    "Rs.",
    "kr",
    "kr.",
}
BODY = r"\d+(?:[ '.,]\d+)*[.,]?|[.,]\d+"
DRESSED = re.compile(
    r"(?P<open>\()?\s*(?P<sign>[+-]?)\s*(?P<prefix>[^\d\s+\-()',]{0,4})\s*(?P<inner>[+-]?)\s*"
    rf"(?P<body>{BODY})(?P<exponent>[eE][+-]?\d+)?(?P<minus>-?)\s*"
    r"(?P<suffix>(?:[^\W\d_]|[%‰°€$£¥₹²³µ])[^\s(),;:=_#@?!*<>]{0,11})?(?P<last>-?)\s*(?P<close>\))?"
)
ONLY_POINT = ("$", "£")  # whose countries write 1,234.50
MONTH_NAMES = (
    ("january", "february", "march", "april", "may", "june"),
    ("july", "august", "september", "october", "november", "december"),
)
MONTHS = {name: 6 * i + j + 1 for i, half in enumerate(MONTH_NAMES) for j, name in enumerate(half)}
MONTHS |= {name[:3]: month for name, month in MONTHS.items()} | {"sept": 9}
CLOCK = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d)(?P<part>\.\d{1,9})?)?"
    r"(?:\s?(?P<half>[AaPp])\.?[Mm]\.?)?"
)
ZONE = r"(?:\s?(?P<zone>Z|UTC|GMT|[+-]\d\d:?\d\d|[+-]\d\d))?"
REST = rf"(?:(?:T|,?\s+){CLOCK}{ZONE})?(?P<utc>\s(?:UTC|GMT))?"
DATES = (
    re.compile(
        rf"(?P<y>\d{{4}})(?P<by>[-/.])(?P<m>\d{{1,2}})(?P=by)(?P<d>\d{{1,2}}){REST}", re.ASCII
    ),
    re.compile(
        rf"(?P<a>\d{{1,2}})(?P<by>[-/.])(?P<b>\d{{1,2}})(?P=by)(?P<y>\d{{4}}|\d\d){REST}", re.ASCII
    ),
    re.compile(
        rf"(?:[A-Za-z]{{3,9}},?\s+)?(?P<name>[A-Za-z]{{3,9}})\.?\s+(?P<d>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<y>\d{{4}}){REST}"
    ),
    re.compile(
        rf"(?:[A-Za-z]{{3,9}},?\s+)?(?P<d>\d{{1,2}})(?:st|nd|rd|th)?\.?[-\s/](?P<name>[A-Za-z]{{3,9}})\.?,?[-\s/](?P<y>\d{{4}}|\d\d){REST}"
    ),
    re.compile(r"(?P<y>\d{4})[-/](?P<m>\d\d)", re.ASCII),
    re.compile(r"(?P<y>\d{4})-?Q(?P<q>[1-4])", re.ASCII),
    re.compile(
        r"(?P<y>\d{4})-(?P<m>\d\d)-(?P<d>\d\d)/\d{4}-\d\d-\d\d", re.ASCII
    ),  # a week of pandas
)
TIME = re.compile(rf"{CLOCK}{ZONE}", re.ASCII)
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class Dress(NamedTuple):
    """What a column's texts wear.

    Args:
        notation: The notation, empty if none was found.
        problem: Why there is none although there nearly is: what is wrong and what to do.
    """

    notation: str = ""
    problem: str = ""


def find(texts: Iterable[str]) -> Dress:
    """Returns the notation of texts that are neither plain numbers nor ISO dates, as far as one is
    sure.

    Args:
        texts: The different texts of a column that are not, in the order of their rows.
    """
    texts = list(texts)
    sample = list(islice(texts, SAMPLE))
    if not sample:
        return Dress()
    if sum(_date(t) is not None for t in sample) >= LIKELY * len(sample):
        return _of_dates(texts)
    if sum(_matched(t) is not None for t in sample) >= LIKELY * len(sample):
        return _of_numbers(texts)
    return Dress()


def numbers_in(texts: Sequence[str], notation: str) -> np.ndarray:
    """Returns each text as a number of a notation, NaN where it is none."""
    if "#" not in notation:
        return np.full(len(texts), np.nan)
    prefix, _, rest = notation.partition("#")
    decimal, suffix = rest[0], rest[1:]
    return np.fromiter((_number(t, prefix, decimal, suffix) for t in texts), np.float64, len(texts))


def days_in(texts: Sequence[str], notation: str) -> tuple[np.ndarray, str]:
    """Returns each text as days since 1970-01-01 in UTC, NaN where it is not a date of a notation.

    And their ``Column.type``.
    """
    days, kind = np.full(len(texts), np.nan), "date"
    if notation not in ORDERS:
        return days, kind
    for i, text in enumerate(texts):
        found = _date(text)
        if found is None:
            continue
        try:
            time = _time(found, notation)
        except ValueError:
            continue
        zoned = found["zone"] is not None or found["utc"] is not None
        days[i] = (time - EPOCH) / datetime.timedelta(days=1)
        if zoned:
            kind = "timestamp UTC"
        elif kind == "date" and found["hour"] is not None:
            kind = "timestamp"
    return days, kind


def affix(notation: str) -> str:
    """Returns what stands before or behind the numbers of a notation, if anything."""
    prefix, _, rest = notation.partition("#")
    if "#" in notation:
        return prefix or rest[1:]
    return ""


def is_currency(sign: str) -> bool:
    """Returns whether a sign or a short word is of a currency."""
    return sign in CODES or any(unicodedata.category(c) == "Sc" for c in sign)


def is_time_of_day(text: str) -> bool:
    """Returns whether a text is a time such as 12:34 or 7:05:00 pm, without a date."""
    return TIME.fullmatch(text.strip()) is not None


def units(texts: Iterable[str]) -> dict[str, str]:
    """Returns the different things that stand before or behind the numbers, each with its first
    text.
    """
    found: dict[str, str] = {}
    for text in texts:
        if (match := _matched(text)) is not None and (
            worn := match["prefix"] or match["suffix"] or ""
        ):
            found.setdefault(worn, text)
    return found


def _matched(text: str) -> re.Match[str] | None:
    match = DRESSED.fullmatch(text.strip().translate(MARKS))
    if match is None or (match["open"] is None) != (match["close"] is None):
        return None
    prefix = match["prefix"]
    if prefix and not is_currency(prefix):  # R12 and P7 name things
        return None
    signs = [
        match["sign"],
        match["inner"],
        match["minus"],
        match["last"],
        "-" if match["open"] else "",
    ]
    if sum(map(bool, signs)) <= 1:
        return match
    return None


def _of_numbers(texts: Sequence[str]) -> Dress:
    matches = [m for t in texts if (m := _matched(t)) is not None]
    worn = Counter((m["prefix"] or "", m["suffix"] or "") for m in matches)
    dressed = {pair: n for pair, n in worn.items() if pair != ("", "")}
    prefix, suffix = max(dressed, key=lambda pair: dressed[pair], default=("", ""))
    bracketed = any(m["open"] for m in matches)
    decimal, why = _decimal([m["body"] for m in matches], prefix + suffix, bracketed)
    if why or not decimal:
        return Dress("", why)
    return Dress(f"{prefix}#{decimal}{suffix}")


def _decimal(bodies: Sequence[str], worn: str, bracketed: bool) -> tuple[str, str]:
    """Returns the decimal mark (nothing where these are not numbers), or why it cannot be told."""
    sure: dict[str, str] = {}
    doubtful: dict[str, str] = {}
    wrong = 0
    for body in bodies:
        values = {mark: x for mark in ".," if (x := _value(body, mark)) is not None}
        if not values:
            wrong += 1
        elif len(values) == 1:
            sure.setdefault(next(iter(values)), body)
        elif values["."] != values[","]:
            doubtful.setdefault("," if "," in body else ".", body)
    if wrong > (1 - LIKELY) * len(bodies):
        return "", ""
    if len(sure) == 2:
        one, two = sure["."], sure[","]
        return (
            "",
            f"holds numbers with decimal points and with decimal commas, {one!r} and {two!r}; "
            f"write them with one",
        )
    if sure:
        return next(iter(sure)), ""
    english = bracketed or any(sign in worn for sign in ONLY_POINT)
    if (
        not doubtful
        or (list(doubtful) == [","] and english)
        or (list(doubtful) == ["."] and not is_currency(worn))
    ):
        return ".", ""
    body = next(iter(doubtful.values()))
    plain, small = re.sub("[,.]", "", body), re.sub("[,.]", ".", body)
    way = "write them without that mark, or, in a text file, give --decimal . or --decimal ,"
    return "", f"holds numbers such as {body!r}, which may be {plain} or {small}; {way}"


def _value(body: str, decimal: str) -> float | None:
    """Returns the number that digits and marks are with a decimal mark, or None if they
    are none.
    """
    whole, _, part = body.partition(decimal)
    groups = re.split(r"[ '.,]", whole)
    marks = {c for c in whole if not c.isdigit()}
    grouped = (
        len(marks) == 1
        and 1 <= len(groups[0]) <= 3
        and all(len(g) in (2, 3) for g in groups[1:])
        and len(groups[-1]) == 3
    )
    if (part and not part.isdigit()) or (marks and not grouped):
        return None
    return float(f"{''.join(groups) or '0'}.{part or '0'}")


def _number(text: str, prefix: str, decimal: str, suffix: str) -> float:
    match = _matched(text)
    if match is None or (
        (match["prefix"] or "", match["suffix"] or "") not in ((prefix, suffix), ("", ""))
    ):
        return math.nan
    value = _value(match["body"], decimal)
    if value is None:
        return math.nan
    if match["exponent"] is not None:
        value = float(f"{value!r}{match['exponent']}")
    negative = match["open"] or "-" in (
        match["sign"],
        match["inner"],
        match["minus"],
        match["last"],
    )
    if negative:
        return -value
    return value


def _date(text: str) -> dict[str, str | None] | None:
    text = text.strip().translate(SPACES)
    if not any(c.isdigit() for c in text[:20]):
        return None
    for pattern in DATES:
        if (match := pattern.fullmatch(text)) is not None:
            found = match.groupdict()
            name = found.get("name")
            if name is None or name.lower() in MONTHS:
                return {"zone": None, "utc": None, "hour": None, **found}
    return None


def two_digit_year(text: str) -> bool:
    """Returns whether a text is a date whose year is of two digits."""
    found = _date(text)
    return found is not None and len(found.get("y") or "") == 2


def _time(found: dict[str, str | None], order: str) -> datetime.datetime:
    year = int(found["y"] or 0)
    if len(found["y"] or "") == 2:
        year += 2000 if year < 69 else 1900  # as POSIX has it
    if found.get("a") is not None:
        if order == "YMD":
            raise ValueError("the order of day and month is not known")
        day, month = int(found["a"] or 0), int(found["b"] or 0)
        if order != "DMY":
            day, month = month, day
    elif found.get("q") is not None:
        day, month = 1, 3 * int(found["q"] or 1) - 2
    else:
        name = found.get("name")
        day, month = (
            int(found.get("d") or 1),
            MONTHS[name.lower()] if name else int(found["m"] or 0),
        )
    moment = datetime.datetime(year, month, day, tzinfo=datetime.UTC)
    if found["hour"] is None:
        return moment
    hour, half = int(found["hour"]), (found.get("half") or "").lower()
    if half:
        if not 1 <= hour <= 12:
            raise ValueError("no such hour")
        hour %= 12
        if half == "p":
            hour += 12
    moment = moment.replace(
        hour=hour, minute=int(found["minute"] or 0), second=int(found["second"] or 0)
    )
    moment += datetime.timedelta(seconds=float(f"0{found['part'] or ''}"))
    zone = found["zone"] or "Z"
    if zone[0] in "+-":
        digits = zone[1:].replace(":", "").ljust(4, "0")
        shift = datetime.timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
        if zone[0] == "+":
            moment -= shift
        else:
            moment += shift
    return moment


def _of_dates(texts: Sequence[str]) -> Dress:
    numeric = [(f, t) for t in texts if (f := _date(t)) is not None and f.get("a") is not None]
    if not numeric:
        return Dress("YMD")
    fits: dict[str, Callable[[int, int], bool]] = {
        "DMY": lambda a, b: b > 12,
        "MDY": lambda a, b: a > 12,
    }
    against = {
        order: next((t for f, t in numeric if excluded(int(f["a"] or 0), int(f["b"] or 0))), "")
        for order, excluded in fits.items()
    }
    possible = [order for order, text in against.items() if not text]
    if len(possible) == 1:
        return Dress(possible[0])
    if not possible:
        either = [np.isnan(days_in(texts, order)[0]) for order in fits]
        if (either[0] & either[1]).any():  # numbers of versions look so, too
            return Dress()
        one, two = against.values()
        held = (
            f"holds dates of the order month, day ({one!r}) and of the order day, month ({two!r})"
        )
        return Dress("", f"{held}; write them in one notation, YYYY-MM-DD")
    if all(f["by"] == "." for f, _ in numeric):
        return Dress("DMY")  # nobody writes 12.31.2021
    held = f"holds dates such as {numeric[0][1]!r}, whose day and month cannot be told apart"
    return Dress("", f"{held}; write them as YYYY-MM-DD")
