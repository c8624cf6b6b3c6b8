"""Commands that judge a run: audit, gradients, report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from taut.cli import bars, terminal
from taut.cli.files import load_run
from taut.cli.options import HeldOut, Json, Key, RunArg, Seed, Threads, Trust, count, option
from taut.system import signals
from taut.system.errors import shown

__all__ = ["audit", "gradients", "report"]


def audit(
    run: RunArg,
    data: HeldOut = None,
    key: Key = None,
    num_data: Annotated[int, count("Rows looked at, chosen at random if there are more.")] = 1000,
    num_samples: Annotated[int, count("Samples per row (K) of importance sampling.")] = 5000,
    num_chains: Annotated[int, count("Chains of annealing for each row.")] = 16,
    max_temperatures: Annotated[int, count("Most temperatures of annealing.")] = 400,
    minutes: Annotated[
        float | None,
        option(
            "Time for all of it; what it does not allow is skipped.",
            type_="float",
            low=0.0,
            words="at least 0",
        ),
    ] = None,
    task_seconds: Annotated[
        float,
        option(
            "CPU seconds for the tasks, about: gaps, odd rows, synthetic rows, embedding.",
            type_="float",
            low=0.0,
            words="at least 0",
        ),
    ] = 30.0,
    threads: Threads = None,
    seed: Seed = 0,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Say how good a model is, how loose its bound, why, and what would buy the next nat.

    It writes audit.json and report.html into the run folder.

    Examples:
        taut audit runs/wine-1
        taut audit runs/wine-1 --num-data 200 --minutes 3
    """
    loaded = load_run(run, trust)
    from taut.evidence.audit import Effort
    from taut.runs.audit import audit_run

    _set_threads(threads)
    effort = Effort(
        num_samples=num_samples,
        num_chains=num_chains,
        max_temperatures=max_temperatures,
        task_seconds=task_seconds,
        minutes=minutes,
    )
    with _interruptible() as stop:
        with bars.stages() as report:
            result = audit_run(
                loaded,
                data,
                key=key,
                num_data=num_data,
                effort=effort,
                seed=seed,
                stop=stop,
                report=report,
            )
        if as_json:
            typer.echo(json.dumps(result, indent=2))
        else:
            terminal.show_audit(result)
            terminal.answer(
                f"\nthe report is {shown(run / 'report.html')}, its numbers are in "
                f"{shown(run / 'audit.json')}"
            )


def gradients(
    run: RunArg,
    batch_size: Annotated[int, count("Training rows in the batch.")] = 100,
    num_samples: Annotated[int, count("Samples per row (K) of every estimator.")] = 8,
    repeats: Annotated[int, count("Independent gradients of each estimator.", 2)] = 100,
    threads: Threads = None,
    seed: Seed = 0,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Compare gradient estimators on the run's own model and data: bias, variance, signal and
    cost.

    Examples:
        taut gradients runs/digits-1 --repeats 200
    """
    loaded = load_run(run, trust)
    from taut.evidence.clock import Whole
    from taut.evidence.gradients import KINDS
    from taut.runs.audit import gradients_run

    _set_threads(threads)
    with _interruptible() as stop:
        with bars.stages() as report:
            done, began = 0, time.monotonic()

            def counted() -> bool:
                nonlocal done
                done += 1
                share = done / (len(KINDS) * repeats)
                left = (time.monotonic() - began) * (1 - share) / share
                report("gradients", share, Whole(share=share, left=max(0.0, left)))
                return stop()

            result = gradients_run(
                loaded,
                batch_size=batch_size,
                num_samples=num_samples,
                repeats=repeats,
                seed=seed,
                stop=counted,
            )
        if as_json:
            typer.echo(json.dumps(result, indent=2))
        else:
            terminal.show_gradients(result)
            terminal.answer(f"\nthe numbers are in {shown(run / 'gradients.json')}")


def report(run: RunArg, trust: Trust = None) -> None:
    """Render report.html again from audit.json and gradients.json.

    Examples:
        taut report runs/wine-1
    """
    loaded = load_run(run, trust)
    from taut.runs.audit import write_report

    terminal.answer(shown(write_report(loaded)))


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Gives a function that is true once Ctrl-C or SIGTERM came, so that what is done is kept; the
    second one ends at once.

    The exit code of the first one comes at the end, when what was done is kept and shown.
    """
    asked: list[int] = []

    def ask(number: int) -> bool:
        if asked:
            return False
        asked.append(number)
        terminal.message("stopping after this block; once more to stop at once")
        return True

    with signals.asking(ask):
        yield lambda: bool(asked)
    if asked:
        terminal.message("stopped: what was done is kept")
        raise typer.Exit(128 + asked[0])


def _set_threads(threads: int | None) -> None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
