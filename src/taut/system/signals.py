"""Ctrl-C and SIGTERM, obeyed between two steps and never inside one.

A handler raises wherever Python happens to be, also in an operator called from C++, which turns the
error into another one, or drops it. So a signal within ``held`` is noted, and obeyed at the end of
the block. The first signal that is obeyed begins the end of the process; later ones (people press
Ctrl-C twice) must not disturb the saving, and are noted only, up to a limit in case it hangs.
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
    """The state of signals in this process."""

    on: bool = False  # whether the handler is taut's
    held: int = 0  # depth of nested ``held`` blocks
    came: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    ending: bool = False
    over: bool = False
    ask: Callable[[int], bool] | None = None


_watch = _Watch()


@contextmanager
def watched(*, command: bool = False) -> Iterator[None]:
    """Handles signals for a block, in which they are obeyed outside ``held`` only.

    It has no effect inside another ``watched`` block, or in a thread.

    Args:
        command: Whether to handle SIGTERM too. A program that uses taut keeps its own handler of
            SIGTERM, as of a SIGINT that it handles itself.
    """
    global _watch
    own = threading.current_thread() is threading.main_thread() and not _watch.on
    numbers = []
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        numbers.append(signal.SIGINT)
    if command:
        numbers.append(signal.SIGTERM)
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
    """Creates a block in which no signal is obeyed; those that arrive are obeyed at its end."""

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
    """Asks a function about each signal of a block; if it returns True, nothing is raised."""
    before, _watch.ask = _watch.ask, ask
    try:
        yield
    finally:
        _watch.ask = before


def came() -> int:
    """Returns the signal that ends the process, or 0; an error after it is its consequence."""
    ends = _watch.on and _watch.ending and _watch.came
    return _watch.came[0] if ends else 0


def check() -> None:
    """Raises the signal that ends the process again, where C++ or a compiler turned it into
    another error.
    """
    if number := came():
        raise _error(number)


def ending() -> None:
    """Makes signals be noted only, from now on: the work is done, and the process is about to
    end.
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
