"""When the stages of an audit end, how far it is, and what time is left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

from taut.system.defaults import never, silent
from taut.system.parallel import agreed

__all__ = ["Clock", "Report", "Whole"]

T = TypeVar("T")


class Whole(NamedTuple):
    """How far a computation of several stages is.

    Args:
        number: Of the stage, from 1.
        stages: How many there are.
        share: Of the whole that is done.
        left: Seconds that are left for the whole, as far as its stages can be foretold; None where
            nothing is known yet.
    """

    number: int = 1
    stages: int = 1
    share: float = 0.0
    left: float | None = None


FORETOLD = 0.05  # share of the work after which its pace foretells the rest
Report = Callable[[str, float, Whole], None]  # told a stage, its share done, and the whole


class Clock:
    """Says when a stage is to stop.

    At the user's word, or when its share of the time and of all before it is over.
    """

    def __init__(
        self,
        minutes: float | None = None,
        stop: Callable[[], bool] = never,
        report: Report = silent,
    ) -> None:
        self.minutes, self.word, self.told = minutes, stop, report
        self.began, self.share, self.cut = time.monotonic(), 0.0, False
        self.title, self.entered = "", self.began
        self.work: dict[str, float] = {}

    def expect(self, work: Mapping[str, float]) -> None:
        """Takes down the stages that are to come, each with its work in any unit."""
        self.work = dict(work)

    def stage(self, title: str, share: float) -> bool:
        """Begins a stage; returns whether it is to be run at all."""
        over = self.over()
        self.title, self.share, self.entered = title, self.share + share, time.monotonic()
        self.report(0.0)
        return not over

    def report(self, share: float) -> None:
        """Tells how much of the stage is done."""
        self.told(self.title, share, self.whole(share))

    def whole(self, share: float) -> Whole:
        """Returns how far the whole is: what is left of this stage by its own pace, once a tenth of
        it is done, and the stages that follow by the pace of all so far, once a twentieth of all
        is done.
        """
        titles = list(self.work)
        if self.title not in titles:
            return Whole(share=share)
        place, now = titles.index(self.title), time.monotonic()
        own, before, after = self._parts(place)
        done, total = before + share * own, before + own + after
        if done <= 0 or total <= 0:
            return Whole(place + 1, len(titles))
        pace = (now - self.began) / done
        left = pace * (own * (1 - share) + after)
        if share >= 0.1:
            left = (now - self.entered) * (1 - share) / share + pace * after
        if done < FORETOLD * total and after:
            left = math.inf  # that little says nothing of stages of another kind
        if self.minutes is not None:
            left = min(left, max(0.0, self.began + 60 * self.minutes - now))
        return Whole(place + 1, len(titles), done / total, left if left < math.inf else None)

    def _parts(self, place: int) -> tuple[float, float, float]:
        """Returns the work of a stage, of those before it and of those after it."""
        work = list(self.work.values())
        return work[place], sum(work[:place]), sum(work[place + 1 :])

    def over(self) -> bool:
        late = self.minutes is not None and time.monotonic() - self.began > 60 * self.minutes * max(
            self.share, 1e-3
        )
        over = agreed(self.word() or late)
        self.cut = self.cut or over
        return over

    def blocks(self, blocks: Iterable[T], size: Callable[[T], int], total: int) -> list[T]:
        """Returns the blocks that the time allows, the first one in any case."""
        done, rows = [], 0
        for block in blocks:
            done.append(block)
            rows += size(block)
            self.report(rows / total)
            if rows < total and self.over():
                break
        return done
