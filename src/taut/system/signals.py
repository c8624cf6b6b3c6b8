"""Ctrl-C and SIGTERM, which are obeyed between two steps and never inside one.

A handler that raises does so wherever Python happens to be: also in an operator that C++ has
called, which makes another error of it, or none. So within ``held`` a signal is noted, and obeyed
at the end of the block. The first one that is obeyed begins the end: what follows it (people press
Ctrl-C twice) must not disturb the saving, and is noted only. For a process that hangs there is a
limit to that.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType

__all__ = ["Terminated", "asking", "came", "check", "ending", "held", "watched"]

MOST = 4  # signals; the last of them ends the process as a kill would, which a run folder survives


class Terminated(BaseException):
    """SIGTERM arrived."""


@dataclass
class _Watch:
    """What is known of signals in this process."""

    on: bool = False  # whether the handler is ours
    held: int = 0  # blocks that we are in
    came: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    ending: bool = False
    over: bool = False
    ask: Callable[[int], bool] | None = None


_watch = _Watch()


@contextmanager
def watched(*, command: bool = False) -> Iterator[None]:
    """Has signals obeyed outside of ``held`` only, for a block; it does nothing in another one, or
    in a thread.

    Args:
        command: Whether SIGTERM is ours too. Of a program that uses taut it is left alone, as is a
            SIGINT that it handles itself.
    """
    global _watch
    own = threading.current_thread() is threading.main_thread() and not _watch.on
    numbers = (
        [signal.SIGINT] if signal.getsignal(signal.SIGINT) is signal.default_int_handler else []
    )
    numbers += [signal.SIGTERM] if command else []
    if not own or not numbers:
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    _watch = _Watch(on=True)
    try:
        for number in numbers:
            signal.signal(number, _arrived)
        yield
    finally:
        if not _watch.over:
            for number, handler in before.items():
                signal.signal(number, handler)
            _watch.on = False


class held:  # noqa: N801 (used as a function is)
    """Creates a block in which no signal is obeyed; those that came are at its end."""

    def __enter__(self) -> None:
        _watch.held += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _watch.held -= 1
        while _watch.waiting and not _watch.held and not _watch.ending:
            _obey(_watch.waiting.pop(0))


@contextmanager
def asking(ask: Callable[[int], bool]) -> Iterator[None]:
    """Asks a function about each signal of a block; where it says true nothing is raised.

    It has taken note.
    """
    before, _watch.ask = _watch.ask, ask
    try:
        yield
    finally:
        _watch.ask = before


def came() -> int:
    """Returns the signal that began the end, or 0.

    An error that follows it is taken for its consequence.
    """
    return _watch.came[0] if _watch.on and _watch.ending and _watch.came else 0


def check() -> None:
    """Raises the signal that began the end again, where C++ or a compiler has made another error of
    it.
    """
    if number := came():
        raise _error(number)


def ending() -> None:
    """Has signals noted only, from now on: the work is done, and the process takes a
    moment to go.
    """
    _watch.over = _watch.ending = True


def _arrived(number: int, frame: object) -> None:
    _watch.came.append(number)
    if len(_watch.came) >= MOST:
        os._exit(128 + number)
    _watch.waiting.append(number)
    if not _watch.held and not _watch.ending:
        _watch.waiting.pop()
        _obey(number)


def _obey(number: int) -> None:
    if _watch.ask is not None and _watch.ask(number):
        return
    _watch.ending = True
    raise _error(number)


def _error(number: int) -> BaseException:
    return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
