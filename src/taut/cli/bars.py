"""How far a computation is: bars on a terminal, lines elsewhere; on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from taut.cli.terminal import message, stderr
from taut.system.defaults import silent
from taut.system.errors import clause

if TYPE_CHECKING:
    from taut.evidence.clock import Report, Whole

__all__ = ["blocks", "progress", "stages"]


@contextmanager
def progress(title: str, total: int, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """Gives a function that advances a bar on a terminal, and prints a line each tenth of the way
    elsewhere.

    Args:
        title: What is done.
        total: How many steps or rows there are.
        quiet: Whether nothing is printed elsewhere.
    """
    console = stderr()
    if console.is_terminal:
        with _bar(title, total) as update:
            yield update
        return
    if quiet:
        yield silent
        return
    done, told = 0, 0

    def advance(amount: int, note: str) -> None:
        nonlocal done, told
        done += amount
        if done * 10 // total > told:
            told = done * 10 // total
            message(f"{title} {100 * done // total} %{clause(', {}', note)}")

    yield advance


@contextmanager
def _bar(title: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Gives a function that advances a bar with the time that is left."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=stderr(), transient=True) as bar:
        task = bar.add_task(title, total=total, note="")

        def update(amount: int, note: str = "", total: int | None = None) -> None:
            if total is not None:
                bar.update(task, total=total)
            bar.update(task, advance=amount, note=note)

        yield update


@contextmanager
def blocks(title: str) -> Iterator[None]:
    """Shows a bar on a terminal while blocks of rows are computed; elsewhere nothing."""
    from taut.system.parallel import telling

    if not stderr().is_terminal:
        yield
        return
    with _bar(title, None) as update, telling(lambda total: update(1, total=total)):
        yield


@contextmanager
def stages(quiet: bool = False) -> Iterator[Report]:
    """Gives a function that is told the stage of a long computation, how much of it is done, and
    how far the whole is.

    A bar of the whole on a terminal, a line for each stage elsewhere.

    Args:
        quiet: Whether nothing is printed elsewhere.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from taut.runs.telling import clock

    console, current = stderr(), ""
    if not console.is_terminal and quiet:
        yield silent
        return
    if not console.is_terminal:

        def say(title: str, share: float, whole: Whole) -> None:
            nonlocal current
            if title != current:
                left = clause(", about {} left for all", clock(whole.left))
                message(f"{whole.number} of {whole.stages}: {title}{left}")
            current = title

        yield say
        return
    columns = (
        TextColumn("{task.fields[place]} {task.description:<34}"),
        BarColumn(20),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0, place="", left="")

        def show(title: str, share: float, whole: Whole) -> None:
            place, left = (
                f"{whole.number}/{whole.stages}",
                clause("about {} left", clock(whole.left)),
            )
            bar.update(task, description=title, completed=whole.share, place=place, left=left)

        yield show
