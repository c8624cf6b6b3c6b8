"""What the user should know about columns.

What may mean missing, what keeps one from being numbers, what storage may lose.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from taut.data.tables.cells import as_days
from taut.data.tables.column import Column
from taut.data.tables.notation import (
    affix,
    days_in,
    is_time_of_day,
    numbers_in,
    two_digit_year,
    units,
)
from taut.data.tables.seen import Numbers, Seen, Texts, some
from taut.data.tables.words import (
    MISSING,
    day_text,
    float_storage,
    quoted,
    value_text,
)
from taut.system.errors import shown

SUSPICIOUS = {
    "?",
    "-",
    ".",
    "..",
    "--",
    "---",
    "unknown",
    "missing",
    "n.a.",
    "n.a",
    "n.d.",
    "n.d",
    "n/d",
    "#n/a",
    "<na>",
} | {
    *("no data", "not available", "not applicable", "(blank)", "(missing)"),
    *("#div/0!", "#value!", "#ref!", "#num!", "#null!", "#name?"),
}
ABSENT = SUSPICIOUS | {
    "nd",
    "nil",
    "none",
    "*",
    "na.",
    "unk",
    "undefined",
    "empty",
    "error",
    "-nan",
    "1.#qnan",
    "-1.#ind",
}
"""What stands for a missing entry, wherever it stands; and what does so among numbers."""
FROM_0 = "(from 0, header not counted)"
MANY, FEW = 20, 0.05
"""So many different numbers are not levels, and such a share of other texts among them are
mistakes, or stand for missing.
"""


class View(NamedTuple):
    """A column after rule 1.

    Texts that are all numbers are numbers, texts that are all dates are dates.
    """

    family: str
    type: str
    numbers: Numbers


CIRCLES = {(0, 23), (1, 24), (1, 12), (0, 11), (0, 6), (1, 7)}  # hours, months, days of the week
ROUND = re.compile(r"hour|month|week|dow|dir|angle|azimuth|bearing|heading", re.IGNORECASE)


def mixed(texts: Texts) -> str:
    """Says that most values of a column that is read otherwise are numbers, or dates, and which is
    the first that is none.
    """
    for what, values in (("number", texts.numbers), ("date", texts.days)):
        most = 0.5 if values.distinct >= MANY else 0.1
        if 0 < texts.others[what] < most * texts.count:
            row, text = texts.first_other[what]
            share = (
                f"{texts.count - texts.others[what]:,} of its {texts.count:,} values are {what}s"
            )
            return f"; {share}, the first that is none ({quoted(text)}) in row {row} {FROM_0}"
    return ""


def strays(seen: Seen) -> str:
    """Returns what is wrong with a column of many different numbers, or dates, that holds other
    texts; else nothing.

    A few may be any texts, and are mistakes or stand for missing; more than that are if their words
    say so.
    """
    texts = seen.texts
    for what, values in (("number", texts.numbers), ("date", texts.days)):
        if not texts.others[what] or values.distinct < MANY:
            continue
        row, first = texts.first_other[what]
        words = list(dict.fromkeys([first, *texts.unread(what)]))
        absent = all(word.strip().lower() in ABSENT for word in words)
        if texts.others[what] <= FEW * texts.count or absent:
            share = (
                f"{texts.count - texts.others[what]:,} of its {texts.count:,} values are {what}s"
            )
            means = f"--missing-values '{shown(first.strip())}' if that means missing"
            kinds = 'kind = "category" or "id" in a --schema FILE'
            return (
                f"{share}, but not {some(words)}, the first in row {row} {FROM_0}; correct the "
                f"file, or {means}, or {kinds}"
            )
    return ""


def disguise(seen: Seen) -> str:
    """Returns why a column of texts that nearly are numbers or dates is neither; else nothing."""
    texts = seen.texts
    keep = 'kind = "category" or "id" in a --schema FILE keeps or omits the texts'
    if texts.dress.problem:
        return f"{texts.dress.problem}; {keep}"
    held = list(texts.counts)
    if texts.distinct >= MANY and all(map(is_time_of_day, held)):
        first = held[0].strip()
        return (
            f"holds times of day such as {quoted(first)}; give them as a number, such as minutes, "
            f"or {keep}"
        )
    if texts.distinct < MANY or not affix(texts.dress.notation):
        return ""
    worn = units(texts.unread("number"))
    if worn and len(worn) <= 3 and texts.others["number"] < texts.count / 2 + 1:
        unit, other = affix(texts.dress.notation), next(iter(worn))
        which = (
            f"numbers with {quoted(unit)} and with {quoted(other)}, such as {quoted(worn[other])}"
        )
        return f"holds {which}; write them in one unit, or {keep}"
    return ""


def two_notations(seen: Seen) -> str:
    """Returns what is wrong with dates of which some have the year first, and others do not.

    Else nothing.
    """
    (plain, one), (dressed, other) = seen.texts.plain, seen.texts.dressed
    if (
        seen.family != "text"
        or seen.texts.dress.notation not in ("DMY", "MDY")
        or not plain
        or not dressed
    ):
        return ""
    held = (
        f"holds dates in two notations, {quoted(one)} ({plain:,} values) and {quoted(other)} "
        f"({dressed:,})"
    )
    return f"{held}; write them in one, YYYY-MM-DD"


def dress_notes(label: str, seen: Seen, view: View) -> list[str]:
    """Says as what the texts were read that are numbers or dates in another dress than the plain
    one.
    """
    texts, notation = seen.texts, seen.texts.dress.notation
    if seen.family != "text" or not texts.dressed[0]:
        return []
    text = texts.dressed[1]
    if view.family == "text":
        if "#" in notation and not texts.others["number"]:
            number = value_text(float(numbers_in([text], notation)[0]))
            keep = 'kind = "real" in a schema file reads them so'
            return [
                f"{label} holds texts such as {quoted(text)}, which may be numbers ({number}); "
                f"{keep}"
            ]
        return []
    if view.family == "number":
        read = value_text(float(numbers_in([text], notation)[0]))
        without = ""
        if affix(notation) and texts.plain[0]:
            without = f"; {texts.plain[0]:,} values are without {quoted(affix(notation))}"
        return [f"{label} holds numbers such as {quoted(text)}, read as {read}{without}"]
    if notation == "YMD":
        return [
            f"{label} holds dates such as {quoted(text)}, read as "
            f"{day_text(float(days_in([text], notation)[0][0]))}"
        ]
    order = {"DMY": "day, month, year", "MDY": "month, day, year"}[notation]
    short = ""
    if any(map(two_digit_year, texts.counts)):
        days = view.numbers
        short = (
            f"; years of two digits are taken as 1969 to 2068, which gives {day_text(days.low)} to "
            f"{day_text(days.high)}: write four digits where that is wrong"
        )
    return [f"{label} holds dates such as {quoted(text)}, read as {order}{short}"]


def _suspicious(text: str) -> bool:
    return text.strip().lower() in SUSPICIOUS


def only_other(seen: Seen) -> str:
    """Returns the suspicious text that is all that keeps a column from being numbers, if there is
    one.
    """
    first, others = seen.texts.first_other.get("number"), seen.texts.others["number"]
    only = (
        first is not None
        and _suspicious(first[1])
        and seen.texts.counts.get(first[1], 0) == others < seen.texts.count
    )
    if first is not None and only:
        return first[1]
    return ""


def may_mean(text: str, count: int) -> str:
    return (
        f"{quoted(text)} ({count:,} values) may mean missing: --missing-values "
        f"'{shown(text.strip())}'"
    )


def sentinel_notes(label: str, seen: Seen, view: View) -> list[str]:
    if view.family == "text":
        only = " (all its other values are numbers)" if only_other(seen) else ""
        marks = [(quoted(t), n, t.strip()) for t, n in seen.texts.counts.items() if _suspicious(t)]
    elif view.family == "number":
        only, numbers = "", view.numbers
        reach = numbers.inner_high - numbers.inner_low
        # the only one below 0 need not be as far
        below = numbers.inner_low - (1 if numbers.inner_low >= 0 else 3) * reach
        far = [s for s in numbers.sentinels if s < below or s > numbers.inner_high + 3 * reach]
        marks = [(str(s), numbers.sentinels[s], str(s)) for s in far if numbers.sentinels[s] >= 3]
    elif view.family == "date":
        only, marks = "", _day_marks(seen, view.numbers)
    else:
        return []
    way = "--missing-values={}" if view.family == "number" else "--missing-values '{}'"
    return [
        f"{m} in {label} ({n:,} values) may mean missing: {way.format(shown(t))}{only}"
        for m, n, t in marks
    ]


def _day_marks(seen: Seen, numbers: Numbers) -> list[tuple[str, int, str]]:
    """The days that databases write for no date or for no end, where they lie apart from all
    others.
    """
    reach = (numbers.inner_high - numbers.inner_low) / 10
    low, high = numbers.inner_low - reach, numbers.inner_high + reach
    fewest = dict.fromkeys(numbers.sentinels, 3) | dict.fromkeys(
        (min(numbers.sentinels), max(numbers.sentinels)), 1
    )
    far = [s for s, n in numbers.sentinels.items() if n >= fewest[s] and not low <= s <= high]
    as_written = {}
    if far and seen.family == "text":
        held = list(seen.texts.counts)
        days = as_days(held)[0]
        days = np.where(np.isnan(days), days_in(held, seen.texts.dress.notation)[0], days)
        as_written = {s: held[int(np.argmax(np.floor(days) == s))].strip() for s in far}
    names = {s: as_written.get(s, day_text(s)) for s in far}
    return [(quoted(names[s]), numbers.sentinels[s], names[s]) for s in far if np.isfinite(reach)]


def precision_notes(label: str, column: Column, problems: list[str]) -> list[str]:
    """What storing in float32 loses."""
    if column.rules.nominal:
        return []
    storage, notes = float_storage(), []
    precision = np.dtype(storage).name
    ends = float(column.codes(column.low)), float(column.codes(column.high))
    largest = max(map(abs, ends))
    if largest > min(float(np.finfo(storage).max), 1e150):
        problems.append(
            f"column {label} holds values up to {largest:.3g}, beyond the range of {precision}; "
            f"rescale it"
        )
        return []
    if storage(ends[0]) == storage(ends[1]):
        same = f"is constant in {precision}, where a density is infinite"
        problems.append(f"column {label} {same}; subtract its mean, or remove it")
        return []
    finest = float(np.spacing(storage(largest)))
    if column.type.startswith("timestamp") and finest * 1440 > max(1 / 60, column.step * 1440):
        notes.append(
            f"{label} is stored in {precision} as days: times are kept to {finest * 1440:.2g} "
            f"minutes"
        )
    return notes + column.rules.stored(label, column, largest)


def circle_notes(label: str, column: Column) -> list[str]:
    """What goes round, such as 359 degrees and 0: no family knows that its ends are neighbours."""
    low, high, step = column.low, column.high, column.step or 1.0
    degrees = low == 0 and high <= 360 <= high + step and high > 300
    named = ROUND.search(column.name) is not None and (low, high) in CIRCLES
    if not column.rules.goes_round or not (degrees or named):
        return []
    remedy = "where that matters, give its sine and cosine as two columns"
    return [
        f"{label} may go round from {high:g} to {low:g}, which its family does not know; {remedy}"
    ]


def unbounded_notes(densities: Sequence[tuple[str, Numbers]]) -> list[str]:
    """Where a density may have no bound: a line each for all columns of one value, and of few."""
    commonest = [(label, numbers.count, *numbers.most_common) for label, numbers in densities]
    heavy = [
        (label, f"{times:,} of {count:,} are {value:.6g}")
        for label, count, value, times in commonest
        if times > count / 2
    ]
    few = [
        (label, f"{numbers.distinct:,} in {numbers.count:,}")
        for label, numbers in densities
        if numbers.capped_at is None
        and numbers.count > 1000
        and numbers.distinct < numbers.count / 10
    ]
    few = [pair for pair in few if pair[0] not in dict(heavy)]
    lines = []
    for found, what in (
        (heavy, "more than half of the values are one value"),
        (few, "rounded, few different values"),
    ):
        if found:
            label, how = found[0]
            why = "a density may have no bound there, so log p(x) can grow without end"
            lines.append(f"{what} in {label} ({how}){_more(found)}: {why}")
    return lines


def token_notes(seen: Sequence[Seen]) -> list[str]:
    """The texts that were read as missing although the user may have meant them, each once."""
    lines = []
    for token in dict.fromkeys(t for s in seen for t in s.tokens if t.strip()):
        holders = [s for s in seen if token in s.tokens]
        if token.strip() in MISSING:
            count = sum(s.tokens[token] for s in holders)
            held = (
                f"{quoted(token)} in {quoted(holders[0].name)}{_more(holders)} ({count:,} values) "
                f"is read as missing"
            )
            lines.append(f"{held}; levels in a schema file that name it keep it")
    return lines


def _more(columns: Sequence[object]) -> str:
    others = len(columns) - 1
    if others:
        return f" and {others} more column{'s' * (others > 1)}"
    return ""
