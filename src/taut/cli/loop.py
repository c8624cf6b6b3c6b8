"""Commands that turn findings and questions into better models unattended: improve, choose."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taut.build.config import gather
from taut.cli import bars, terminal
from taut.cli.options import (
    READING,
    TRAINING,
    Config,
    Json,
    NewFolder,
    Seed,
    count,
    option,
    with_settings,
)
from taut.system.errors import UsageError, shown
from taut.system.signals import Terminated

if TYPE_CHECKING:
    from taut.evidence.clock import Report
    from taut.report.staircase import Lines
    from taut.runs.telling import Telling

__all__ = ["improve"]

FIRST = READING | {"The model": TRAINING["The model"]}
Minutes = Annotated[
    float,
    option("Time for all of it.", type_="float", low=1e-9, words="above 0"),
]


@with_settings(FIRST)
def improve(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN|DATA", help="A run, data for a first one, or its own folder."),
    ],
    *,
    minutes: Minutes = 60.0,
    gain: Annotated[
        float,
        option(
            "Nats that a finding must promise to be worth a training.",
            type_="float",
            low=0.0,
            words="at least 0",
        ),
    ] = 0.2,
    trials: Annotated[int, count("Changes that are tried, at most.")] = 8,
    max_epochs: Annotated[
        int | None, count("Passes over the training data of each training, at most.")
    ] = None,
    num_data: Annotated[int, count("Validation rows that are looked at, at most.")] = 500,
    out: NewFolder = None,
    config: Config = None,
    set_: Annotated[
        list[str] | None,
        option("Any setting of the first model; repeatable.", "--set", type_="section.name=value"),
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
    flags: Any = None,
) -> None:
    """Carry out findings one by one, and keep what made the model better on validation rows.

    Each change has its nats predicted and measured; the test rows are read once, at the end. Given
    the folder that it made it goes on where it was stopped.

    Examples:
        taut improve runs/digits-1 --minutes 30
        taut improve digits --minutes 60 --gain 0.5
        taut improve runs/digits-1-improved-1
    """
    settings = gather(flags, config, set_ or ())
    terminal.reading(run)
    from taut.report.staircase import improvement
    from taut.runs.improve import STATE, again
    from taut.runs.improve import improve as improve_run

    with _going_on(f"taut improve {shown(out or 'FOLDER')}"):
        if (Path(run) / STATE).exists():
            found = again(run, tell=_telling())
        else:
            found = improve_run(
                run,
                out,
                minutes=minutes,
                gain=gain,
                trials=trials,
                max_epochs=max_epochs,
                num_data=num_data,
                config=settings,
                seed=seed,
                tell=_telling(),
            )
    _show(found, improvement(found), as_json)


def _show(found: Any, lines: Lines, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        terminal.show_lines(lines)


@contextmanager
def _going_on(command: str) -> Iterator[None]:
    """Says how to go on where a signal stops it."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as stop:
        stop.args = (f"stopped, what is done is kept: go on with `{command}`",)
        raise


def _telling() -> Telling:
    """Returns what tells of a computation as the other commands do."""
    from taut.runs.telling import Telling

    class Bars(Telling):
        def line(self, text: str) -> None:
            terminal.message(text)

        def progress(
            self, title: str, total: float
        ) -> AbstractContextManager[Callable[[float, str], None]]:
            return bars.progress(title, max(1, int(total)), quiet=True)

        def stages(self) -> AbstractContextManager[Report]:
            return bars.stages(quiet=True)

    return Bars(True)
