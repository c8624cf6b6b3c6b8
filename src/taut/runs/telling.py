"""What a program in Python sees of a long computation: lines on stderr, in a terminal or a notebook
and nowhere else. The command line has its own, in ``cli``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from taut.evidence.clock import Report, Whole
from taut.system.errors import clause, shown

__all__ = ["Telling", "clock"]

PAUSE = 0.2  # seconds between two changes of the line
WIDTH = 100


class Telling:
    """Creates what tells of a computation, or is silent.

    Args:
        verbose: Whether it tells; None: where stderr is a terminal or the output of a notebook.
    """

    def __init__(self, verbose: bool | None = None) -> None:
        if verbose is None:
            verbose = _watched()
        self.on = verbose

    def line(self, text: str) -> None:
        """Tells a line."""
        if self.on:
            sys.stderr.write(f"taut: {shown(text)}\n")
            sys.stderr.flush()

    @contextmanager
    def progress(self, title: str, total: float) -> Iterator[Callable[[float, str], None]]:
        """Gives a function that is told how much more is done of a total, and a remark.

        One line is written again and again, and removed at the end.
        """
        if not self.on:
            yield lambda amount, remark: None
            return
        began = last = time.monotonic()
        done = 0.0

        def advance(amount: float, remark: str) -> None:
            nonlocal done, last
            done += amount
            now = time.monotonic()
            if now - last < PAUSE:
                return
            last = now
            share = min(1.0, done / max(total, 1e-9))
            text = f"taut: {title} {share:.0%}{_left(now - began, share)}"
            _rewrite(text + clause(", {}", remark))

        try:
            yield advance
        finally:
            _rewrite("")

    @contextmanager
    def stages(self) -> Iterator[Report]:
        """Gives a function that is told the stage of a long computation, its share done and how far
        the whole is.
        """
        last = 0.0

        def report(title: str, share: float, whole: Whole) -> None:
            nonlocal last
            if self.on and time.monotonic() - last >= PAUSE:
                last = time.monotonic()
                place = f"{whole.number} of {whole.stages}: "
                left = clause(", about {} left for all", clock(whole.left))
                _rewrite(f"taut: {place}{title} {min(share, 1.0):.0%}{left}")

        try:
            yield report
        finally:
            if self.on:
                _rewrite("")


def _watched() -> bool:
    """Returns whether somebody sees stderr now."""
    if sys.stderr is None:
        return False
    return sys.stderr.isatty() or type(sys.stderr).__module__.partition(".")[0] == "ipykernel"


def _left(seconds: float, share: float) -> str:
    if share < 0.02:
        return ""
    return f", {clock(seconds * (1 - share) / share)} left"


def clock(seconds: float | None) -> str:
    """Returns a time as minutes and seconds; nothing where it is not known."""
    if seconds is None:
        return ""
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"


def _rewrite(text: str) -> None:
    line = shown(text)[:WIDTH]
    sys.stderr.write(f"\r{line:<{WIDTH}}\r{line}")
    sys.stderr.flush()
