"""What a person should know about columns: what may mean missing, what keeps one from being numbers, what storage may lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from taut.data.column import LEVEL_KINDS, MISSING, Column, exact_integers, float_storage, quoted
from taut.data.columns_cells import as_days, as_numbers
from taut.data.columns_seen import Numbers, Seen, some
from taut.errors import shown

SUSPICIOUS = ("?", "-", ".", "unknown")
FROM_0 = "(from 0, header not counted)"
MANY, FEW = 20, 0.05
"""So many different numbers are no levels, and such a share of other texts among them are mistakes, or stand for missing."""


class View(NamedTuple):
    """A column after rule 1: texts that are all numbers are numbers, texts that are all dates are dates."""

    family: str
    type: str
    numbers: Numbers


def mixed(first: Mapping[str, tuple[int, str]], others: Mapping[str, int], count: int) -> str:
    for what in ("number", "date"):
        if 0 < others[what] < 0.1 * count:
            row, text = first[what]
            share = f"{count - others[what]:,} of its {count:,} values are {what}s"
            return f"; {share}, the first that is none ({quoted(text)}) in row {row} {FROM_0}"
    return ""


def strays(seen: Seen) -> str:
    """Returns what is wrong with a column of many different numbers, or dates, that holds a few other texts; else nothing."""
    texts = seen.texts
    for what, values, parsed in (("number", texts.numbers, as_numbers), ("date", texts.days, lambda t: as_days(t)[0])):
        if 0 < texts.others[what] <= FEW * texts.count and values.distinct >= MANY:
            held = list(texts.counts)
            row, first = texts.first_other[what]
            words = list(dict.fromkeys([first, *(held[i] for i in np.flatnonzero(np.isnan(parsed(held))))]))
            share = f"{texts.count - texts.others[what]:,} of its {texts.count:,} values are {what}s"
            means = f"--missing-values '{shown(first.strip())}' if that means missing"
            kinds = 'kind = "category" or "id" in a --schema FILE'
            return f"{share}, but not {some(words)}, the first in row {row} {FROM_0}; correct the file, or {means}, or {kinds}"
    return ""


def _suspicious(text: str) -> bool:
    return text.strip().lower() in SUSPICIOUS


def only_other(seen: Seen) -> str:
    """Returns the suspicious text that is all that keeps a column from being numbers, if there is one."""
    first, others = seen.texts.first_other.get("number"), seen.texts.others["number"]
    only = first is not None and _suspicious(first[1]) and seen.texts.counts.get(first[1], 0) == others < seen.texts.count
    return first[1] if first is not None and only else ""


def may_mean(text: str, count: int) -> str:
    return f"{quoted(text)} ({count:,} values) may mean missing: --missing-values '{shown(text.strip())}'"


def sentinel_notes(label: str, seen: Seen, view: View) -> list[str]:
    if view.family == "text":
        only = " (all its other values are numbers)" if only_other(seen) else ""
        marks = [(quoted(t), n, t.strip()) for t, n in seen.texts.counts.items() if _suspicious(t)]
    elif view.family == "number":
        only, numbers = "", view.numbers
        reach = 3 * (numbers.inner_high - numbers.inner_low)
        far = [s for s in numbers.sentinels if s < numbers.inner_low - reach or s > numbers.inner_high + reach]
        marks = [(str(s), numbers.sentinels[s], str(s)) for s in far if numbers.sentinels[s] >= 3]
    else:
        return []
    way = "--missing-values={}" if view.family == "number" else "--missing-values '{}'"
    return [f"{m} in {label} ({n:,} values) may mean missing: {way.format(shown(t))}{only}" for m, n, t in marks]


def precision_notes(label: str, column: Column, problems: list[str]) -> list[str]:
    """What storing in float32 loses."""
    storage, notes = float_storage(), []
    if column.kind in LEVEL_KINDS:
        return []
    precision, ends = np.dtype(storage).name, (float(column.codes(column.low)), float(column.codes(column.high)))
    largest = max(map(abs, ends))
    if largest > min(float(np.finfo(storage).max), 1e150):
        problems.append(f"column {label} holds values up to {largest:.3g}, beyond the range of {precision}; rescale it")
        return []
    if storage(ends[0]) == storage(ends[1]):
        same = f"is constant in {precision}, where a density is infinite"
        problems.append(f"column {label} {same}; subtract its mean, or remove it")
        return []
    if column.kind == "count" and largest > exact_integers():
        notes.append(f"{label} holds integers up to {largest:,.0f}; {precision} tells them apart only to {exact_integers():,}")
    finest = float(np.spacing(storage(largest)))
    if column.type.startswith("timestamp") and finest * 1440 > max(1 / 60, column.step * 1440):
        notes.append(f"{label} is stored in {precision} as days: times are kept to {finest * 1440:.2g} minutes")
    if column.kind in ("real", "mixed") and column.step and finest > column.step:
        few = f"{label} spans more than {precision} tells apart: its values are kept to {finest:.2g}"
        notes.append(f"{few}, its last digit is {column.step:.2g}")
    return notes


def unbounded_notes(densities: Sequence[tuple[str, Numbers]]) -> list[str]:
    """Where a density may have no bound: a line each for all columns of one value, and of few."""
    commonest = [(label, numbers.count, *numbers.most_common) for label, numbers in densities]
    heavy = [(label, f"{times:,} of {count:,} are {value:.6g}") for label, count, value, times in commonest if times > count / 2]
    few = [
        (label, f"{numbers.distinct:,} in {numbers.count:,}")
        for label, numbers in densities
        if numbers.capped_at is None and numbers.count > 1000 and numbers.distinct < numbers.count / 10
    ]
    few = [pair for pair in few if pair[0] not in dict(heavy)]
    lines = []
    for found, what in ((heavy, "more than half of the values are one value"), (few, "rounded, few different values")):
        if found:
            label, how = found[0]
            why = "a density may have no bound there, so log p(x) can grow without end"
            lines.append(f"{what} in {label} ({how}){_more(found)}: {why}")
    return lines


def token_notes(seen: Sequence[Seen]) -> list[str]:
    """The texts that were read as missing although a person may have meant them, each once."""
    lines = []
    for token in dict.fromkeys(t for s in seen for t in s.tokens if t.strip()):
        holders = [s for s in seen if token in s.tokens]
        if token.strip() in MISSING:
            count = sum(s.tokens[token] for s in holders)
            held = f"{quoted(token)} in {quoted(holders[0].name)}{_more(holders)} ({count:,} values) is read as missing"
            lines.append(f"{held}; levels in a schema file that name it keep it")
    return lines


def _more(columns: Sequence[object]) -> str:
    others = len(columns) - 1
    return f" and {others} more column{'s' if others > 1 else ''}" if others else ""
