"""What a whole column holds, gathered piece by piece in one pass.

The result depends on the rows and their order alone, not on where a reader cuts them: means and
variances are summed in blocks of a fixed size, and different values are counted exactly up to the
row that brings the ``CAP``-th of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from taut.data.tables.cells import INTEGER, Cells, as_days, as_numbers, merged_order
from taut.data.tables.notation import Dress, days_in, find, numbers_in
from taut.data.tables.words import quoted

CAP = 100_001
"""Different values that are counted; beyond, only that there are more."""
BLOCK = 65_536
SENTINELS = (-999999, -99999, -32768, -9999, -999, -99, 999, 9999, 99999, 999999)
DATE_SENTINELS = (-719162, -25567, 0, 2932896)
"""0001-01-01, 1900-01-01, 1970-01-01 and 9999-12-31 as days.

What programs write for no date, or for no end.
"""
WIDER = {"float": ("int",), "timestamp": ("date",), "timestamp UTC": ("date", "timestamp")}
"""Types that a type takes in when pieces differ."""


class Numbers:
    """Creates the summary of a column's numbers; ``add`` takes the next rows.

    ``count``, ``low``, ``high``, ``integers`` and the moments are those of the finite values.
    """

    def __init__(self, sentinels: Sequence[int] = SENTINELS) -> None:
        self.count, self.integers = 0, True
        self.low = self.inner_low = math.inf
        self.high = self.inner_high = -math.inf
        self.infinite, self.first_infinite = 0, (0, 0.0)
        self.sentinels = dict.fromkeys(sentinels, 0)
        self.values, self.counts = np.zeros(0), np.zeros(0, np.int64)
        self.capped_at: int | None = None  # how many values the first CAP different ones took
        self._top, self._top_count = math.nan, 0
        self._blocks: list[tuple[int, float, float, float, float]] = []
        self._rest = np.zeros(0)

    def add(self, values: np.ndarray, row: int) -> None:
        endless = np.flatnonzero(np.isinf(values))
        if len(endless) and not self.infinite:
            self.first_infinite = row + int(endless[0]), float(values[endless[0]])
        self.infinite += len(endless)
        values = values[np.isfinite(values)]
        if not len(values):
            return
        self._tally(values)
        self.count += len(values)
        self.integers = self.integers and bool(np.all(values == np.trunc(values)))
        self.low, self.high = (
            min(self.low, float(values.min())),
            max(self.high, float(values.max())),
        )
        # of dates the day counts, whatever the time
        whole = values
        if 0 in self.sentinels:
            whole = np.floor(values)
        inner = values[~np.isin(whole, list(self.sentinels))]
        if len(inner) < len(values):
            self.sentinels = {
                s: n + int(np.count_nonzero(whole == s)) for s, n in self.sentinels.items()
            }
        if len(inner):
            self.inner_low, self.inner_high = (
                min(self.inner_low, inner.min()),
                max(self.inner_high, inner.max()),
            )
        self._rest = np.concatenate([self._rest, values])
        while len(self._rest) >= BLOCK:
            self._blocks.append(_moments(self._rest[:BLOCK]))
            self._rest = self._rest[BLOCK:]

    @property
    def distinct(self) -> int:
        return len(self.values)

    @property
    def all_different(self) -> bool:
        """Whether no integer repeats (as far as the first ``CAP`` and the range can tell, if there
        are more).
        """
        if self.capped_at is None:
            return self.distinct == self.count
        return self.distinct == self.capped_at and self.high - self.low >= self.count - 1

    @property
    def most_common(self) -> tuple[float, int]:
        if self.capped_at is not None:
            return self._top, self._top_count
        return float(self.values[self.counts.argmax()]), int(self.counts.max())

    def moments(self) -> tuple[float, float, float, float]:
        """Returns mean and standard deviation of x, then of log x (NaN unless every x
        is positive).
        """
        blocks = list(self._blocks)
        if len(self._rest):
            blocks.append(_moments(self._rest))
        counts = np.array([b[0] for b in blocks], np.float64)
        moments: list[float] = []
        # numbers near the end of float64 are refused later
        with np.errstate(over="ignore", invalid="ignore"):
            for k in (1, 3):
                means, squares = (
                    np.array([b[k] for b in blocks]),
                    np.array([b[k + 1] for b in blocks]),
                )
                mean = float(np.sum(counts * means) / counts.sum())
                square = float(np.sum(squares + counts * (means - mean) ** 2))
                moments += [mean, math.sqrt(square / self.count)]
        return moments[0], moments[1], moments[2], moments[3]

    def _tally(self, values: np.ndarray) -> None:
        if self.capped_at is not None:
            self._top_count += int(np.count_nonzero(values == self._top))
            return
        new, first = np.unique(values, return_index=True)
        first = np.sort(first[~np.isin(new, self.values)])
        room = CAP - self.distinct
        cut = len(values) if len(first) < room else int(first[room - 1]) + 1
        merged, place = np.unique(np.concatenate([self.values, values[:cut]]), return_inverse=True)
        weights = np.concatenate([self.counts, np.ones(cut, np.int64)])
        self.values, self.counts = merged, np.bincount(place, weights).astype(np.int64)
        if len(first) >= room:
            self._top, self._top_count = self.most_common
            self.capped_at = self.count + cut
            self._tally(values[cut:])


class Texts:
    """Creates the summary of a column's texts, and of the numbers or dates that they may all be."""

    def __init__(self) -> None:
        self.count = 0
        self.counts: dict[str, int] = {}
        self.numbers, self.days, self.day_type = Numbers(), Numbers(DATE_SENTINELS), "date"
        # of those that are neither plain numbers nor ISO dates, as the first of them show it
        self.dress = Dress()
        self.plain: tuple[int, str] = (0, "")  # how many values wear no dress, and one of them
        self.dressed: tuple[int, str] = (0, "")  # how many do
        self.integers = True
        self.padded = ""  # the first text such as 007, which does not stay itself as a number
        self.first_other: dict[
            str, tuple[int, str]
        ] = {}  # of "number" and "date": the first text that is none, and its row
        self.others = {"number": 0, "date": 0}

    def add(self, texts: list[str], index: np.ndarray, row: int) -> None:
        times = np.bincount(index[index >= 0], minlength=len(texts)).tolist()
        for text, n in zip(texts, times, strict=True):
            if text in self.counts:
                self.counts[text] += n
            elif len(self.counts) < CAP:
                self.counts[text] = n
        self.count += sum(times)
        numbers, (days, day_type) = as_numbers(texts), as_days(texts)
        other = np.flatnonzero(np.isnan(numbers) & np.isnan(days))
        if len(other) and self.dress == Dress():
            self.dress = find(texts[i] for i in other)
        if len(other) and self.dress.notation:
            worn = [texts[i] for i in other]
            numbers[other] = numbers_in(worn, self.dress.notation)
            days[other], worn_type = days_in(worn, self.dress.notation)
            day_type = max(day_type, worn_type)
        self._count_dress(numbers if "#" in self.dress.notation else days, other, texts, times)
        self.day_type = max(self.day_type, day_type)
        for what, values, into in (("number", numbers, self.numbers), ("date", days, self.days)):
            into.add(np.append(values, np.nan)[index], row)
            self._others(what, np.isnan(values), texts, index, row)
        if not self.others["number"]:
            mark = self.dress.notation.partition("#")[2][:1] or "."
            whole = (
                INTEGER.fullmatch(t.strip())
                or (x.is_integer() and mark not in t and "e" not in t.lower())
                for t, x in zip(texts, numbers.tolist(), strict=True)
            )
            self.integers = self.integers and all(whole)
            self.padded = self.padded or next((t for t in texts if _padded(t)), "")

    def _count_dress(
        self, values: np.ndarray, other: np.ndarray, texts: list[str], times: list[int]
    ) -> None:
        dressed = np.zeros(len(texts), bool)
        dressed[other] = True
        kept = dict.fromkeys(("plain", "dressed"), (0, ""))
        for name, here in (("plain", ~dressed), ("dressed", dressed)):
            which = np.flatnonzero(here & ~np.isnan(values))
            held, first = getattr(self, name)
            if len(which):
                kept[name] = held + sum(times[i] for i in which), first or texts[which[0]]
            else:
                kept[name] = held, first
        self.plain, self.dressed = kept["plain"], kept["dressed"]

    def _others(
        self, what: str, other: np.ndarray, texts: list[str], index: np.ndarray, row: int
    ) -> None:
        rows = np.flatnonzero(np.append(other, False)[index])
        self.others[what] += len(rows)
        if len(rows):
            self.first_other.setdefault(what, (row + int(rows[0]), texts[index[rows[0]]]))

    @property
    def distinct(self) -> int:
        return len(self.counts)

    def unread(self, what: str) -> list[str]:
        """Returns the different texts that are not numbers, or not dates (those counted, in the
        order of their rows).
        """
        held = list(self.counts)
        plain = as_numbers(held) if what == "number" else as_days(held)[0]
        left = [held[i] for i in np.flatnonzero(np.isnan(plain))]
        notation = self.dress.notation
        worn = numbers_in(left, notation) if what == "number" else days_in(left, notation)[0]
        return [text for text, value in zip(left, worn, strict=True) if np.isnan(value)]

    @property
    def share_different(self) -> float:
        """One over how often a text repeats (of the first ``CAP``, if there are more)."""
        return self.distinct / sum(self.counts.values())


class Seen:
    """Creates the summary of one column; ``add`` takes the next piece, in order."""

    def __init__(self, name: str) -> None:
        self.name, self.family, self.type = name, "null", "float"
        self.rows = self.missing = 0
        self.declared = False
        self.order: tuple[str, ...] = ()
        self.problem = ""
        self.tokens: dict[str, int] = {}
        self.numbers, self.texts = Numbers(), Texts()
        self.days = Numbers(DATE_SENTINELS)

    def add(self, cells: Cells | str) -> None:
        if isinstance(cells, str):
            self.problem = self.problem or cells
            return
        row, self.rows = self.rows, self.rows + len(cells.missing)
        self.missing += int(np.count_nonzero(cells.missing))
        for text, n in cells.tokens.items():
            self.tokens[text] = self.tokens.get(text, 0) + n
        if cells.family == "null":
            return
        self._merge_type(cells, row)
        if cells.family == "text":
            self.texts.add(cells.texts, cells.place, row)
        elif cells.family == "date":
            self.days.add(cells.numbers, row)
        else:
            self.numbers.add(cells.numbers, row)

    def _merge_type(self, cells: Cells, row: int) -> None:
        if self.family == "null":
            self.family, self.type, self.declared = cells.family, cells.type, cells.declared
        elif self.family != cells.family:
            held = (
                f"holds {self.family} values up to row {row - 1} and {cells.family} values from "
                f"there"
            )
            self.problem = (
                self.problem
                or f"{held} (from 0, header not counted); write the whole column as one type"
            )
        elif cells.type in WIDER and self.type in WIDER[cells.type]:
            self.type = cells.type
        order = merged_order(self.order, cells.order)
        if order is None:
            self.problem = (
                self.problem or "declares its levels in two different orders; write it with one"
            )
        else:
            self.order = order


def _moments(x: np.ndarray) -> tuple[int, float, float, float, float]:
    log = np.full(len(x), np.nan)
    if x.min() > 0:
        log = np.log(x)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, log_mean = float(x.mean()), float(log.mean())
        return (
            len(x),
            mean,
            float(np.sum((x - mean) ** 2)),
            log_mean,
            float(np.sum((log - log_mean) ** 2)),
        )


def _padded(text: str) -> bool:
    digits = text.strip().lstrip("+-")
    return len(digits) > 1 and digits[0] == "0" and digits[1] in "0123456789"


def some(texts: Sequence[str]) -> str:
    """Returns the first three texts for a message."""
    return ", ".join(quoted(t) for t in texts[:3]) + (", ..." if len(texts) > 3 else "")
