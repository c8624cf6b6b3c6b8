"""Commands that turn findings and questions into better models unattended: improve, choose."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taut.build.config import gather
from taut.cli import bars, terminal
from taut.cli.options import (
    READING,
    TRAINING,
    Config,
    DataArg,
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

__all__ = ["choose", "improve"]

OUTSIDE = re.compile(r",(?![^(\[]*[)\]])")  # a comma that no brackets hold
Values = Annotated[str | None, option("Values, separated by commas.", type_="v1,v2")]
FIRST = READING | {"The model": TRAINING["The model"]}
Minutes = Annotated[
    float,
    option("Time for all of it.", type_="float", low=1e-9, words="above 0"),
]
# what an improvement is begun with, where nothing else is said
USUAL: dict[str, Any] = {
    "minutes": 60.0,
    "gain": 0.2,
    "trials": 8,
    "max_epochs": None,
    "num_data": 500,
    "guesses": True,
    "seed": 0,
}


@with_settings(FIRST)
def improve(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN|DATA", help="A run, data for a first one, or its own folder."),
    ],
    *,
    minutes: Minutes = USUAL["minutes"],
    gain: Annotated[
        float,
        option(
            "Nats that a finding must promise to be worth a training.",
            type_="float",
            low=0.0,
            words="at least 0",
        ),
    ] = USUAL["gain"],
    trials: Annotated[int, count("Changes that are tried, at most.")] = USUAL["trials"],
    max_epochs: Annotated[
        int | None, count("Passes over the training data of each training, at most.")
    ] = USUAL["max_epochs"],
    num_data: Annotated[int, count("Validation rows that are looked at, at most.")] = USUAL[
        "num_data"
    ],
    guesses: Annotated[
        bool,
        option(
            "Whether changes whose worth no audit tells are tried, once no finding is worth one.",
            "--guesses/--no-guesses",
        ),
    ] = USUAL["guesses"],
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
    typed = config or set_ or any(value not in (None, "false") for value in flags.values())
    given: dict[str, Any] = {
        "minutes": minutes,
        "gain": gain,
        "trials": trials,
        "max_epochs": max_epochs,
        "num_data": num_data,
        "guesses": guesses,
        "seed": seed,
    }
    terminal.reading(run)
    from taut.report.staircase import improvement
    from taut.runs.improve import STATE, again
    from taut.runs.improve import improve as improve_run

    with _going_on(f"taut improve {shown(out or 'FOLDER')}"):
        if (Path(run) / STATE).exists():
            if typed or out is not None:
                raise UsageError(f"{shown(run)} goes on as it was begun: omit all settings")
            asked = {name: value for name, value in given.items() if value != USUAL[name]}
            found = again(run, tell=_telling(), asked=asked)
        else:
            found = improve_run(
                run,
                out,
                **given,
                config=settings if typed or not (Path(run) / "run.json").is_file() else None,
                tell=_telling(),
            )
    _show(found, improvement(found), as_json)


@with_settings(READING)
def choose(
    data: DataArg,
    *,
    vary: Annotated[
        list[str] | None,
        option(
            "Values of any setting, such as model.latent_dim=2,5,10; repeatable.",
            "--set",
            type_="section.name=v1,v2",
        ),
    ] = None,
    latent_dim: Values = None,
    prior: Values = None,
    posterior: Values = None,
    likelihood: Values = None,
    objective: Values = None,
    model: Values = None,
    minutes: Minutes = 60.0,
    seeds: Annotated[int, count("Trainings of each candidate.")] = 1,
    baselines: Annotated[
        bool, option("Whether exact models are candidates too.", "--baselines/--no-baselines")
    ] = True,
    halving: Annotated[
        int | None,
        count("Successive halving: one in so many candidates goes on to more passes.", 2),
    ] = None,
    join: Annotated[
        Path | None, option("A study to take candidates of, with other processes.", type_="folder")
    ] = None,
    out: NewFolder = None,
    config: Config = None,
    as_json: Json = False,
    flags: Any = None,
) -> None:
    """Train candidates and say which is the smallest that is as good as the best.

    They are compared row by row by log p(x) of validation rows; the test rows are read once, for
    the chosen one. Settings with several values, separated by commas, make the candidates.

    Examples:
        taut choose table.csv --latent-dim 2,5,10 --minutes 30
        taut choose digits --prior "StandardNormal(),Flow()" --set training.weight_decay=0,0.01
        taut choose table.csv --latent-dim 2,3,5,8,10,15,20,30,50 --halving 3
        taut choose table.csv --join runs/table-study-1
    """
    options = {
        "model.latent_dim": latent_dim,
        "model.prior": prior,
        "model.posterior": posterior,
        "model.likelihood": likelihood,
        "training.objective": objective,
        "model.model": model,
    }
    sets = [f"{place}={value}" for place, value in options.items() if value is not None]
    several, single = _split([*(vary or ()), *sets])
    settings = gather(flags, config, single)
    terminal.reading(data)
    from taut.report.staircase import study
    from taut.runs.choose import candidates_of
    from taut.runs.choose import choose as choose_run
    from taut.runs.choose import join as join_study

    folder = shown(join or out or "FOLDER")
    with _going_on(f"taut choose {shown(data)} --join {folder}"):
        if join is not None:
            typed = config or any(value not in (None, "false") for value in flags.values())
            own = (minutes, seeds, baselines, halving, out) == (
                USUAL["minutes"],
                1,
                True,
                None,
                None,
            )
            if several or single or typed or not own:
                raise UsageError("--join takes the candidates of the study: omit all settings")
            found = join_study(data, join, tell=_telling())
        else:
            found = choose_run(
                data,
                out,
                candidates=candidates_of(several),
                minutes=minutes,
                seeds=seeds,
                baselines=baselines,
                halving=halving,
                config=settings,
                tell=_telling(),
            )
    _show(found, study(found), as_json)


def _split(sets: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Returns the settings of several values, by SECTION.NAME, and those of one."""
    several, single = {}, []
    for each in sets:
        place, _, text = each.partition("=")
        values = [value.strip() for value in OUTSIDE.split(text)]
        if len(values) > 1 and "" in values:
            raise UsageError(f"{place}={shown(text)}: a value between commas is empty; omit it")
        if len(values) > 1:
            several[place] = values
        else:
            single.append(each)
    return several, single


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

        @contextmanager
        def progress(self, title: str, total: float) -> Iterator[Callable[[float, str], None]]:
            with bars.progress(title, max(1, int(total)), quiet=True) as advance:
                yield advance

        @contextmanager
        def stages(self) -> Iterator[Report]:
            with bars.stages(quiet=True) as report:
                yield report

    return Bars(True)
