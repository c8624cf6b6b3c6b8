"""How a training runs on this machine: number of steps, threads, eager or compiled. What is not
given is measured.

Measured on copies of the model, before the first step; the choice is stored with the run, so that a
resumed one adds in the same order. A training of seconds is not measured: it runs in one thread and
eagerly, the same on every machine.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time

import torch

from taut.build.config import TrainingConfig
from taut.data import Dataset
from taut.model import Model
from taut.objectives import Objective
from taut.system.errors import UsageError
from taut.system.parallel import agreed, on_main, world
from taut.system.seeds import untouched
from taut.training.graph import CannotCompileError
from taut.training.loop import State, batch_size, first_batch, run_steps, validate
from taut.training.step import Learner

__all__ = ["choose", "plan_steps"]

BRIEF = 20.0  # seconds of training below which nothing is measured
COMPILING = (
    30.0  # seconds it takes at most the first time, where a model and a machine are what is usual
)
# at least, of the time that a step of two data takes eagerly, which is all calls and no arithmetic
SAVED = 0.5
CLEARLY = 0.95  # share of the time below which another way is taken
MOST_THREADS = 64


def choose(
    model: Model, objective: Objective, data: Dataset, config: TrainingConfig
) -> tuple[TrainingConfig, str]:
    """Returns the configuration with threads and form of the step decided, and torch set to the
    threads.

    Beside it a line that says why, empty where all was given.

    Args:
        model: The model, on its device; it is not changed.
        objective: What is maximised.
        data: Training and validation data, on the device of the model.
        config: What is given in it is kept.

    Fails:
        UsageError: ``compile="on"`` was asked for and is not possible.
    """
    together = ""
    if world() > 1:  # torchrun gives each process its threads
        config, together = (
            dataclasses.replace(config, threads=torch.get_num_threads()),
            f"{world()} processes, each ",
        )
    if config.threads is not None and config.compile == "off":
        torch.set_num_threads(config.threads)
        return config, f"{together}eager" if together else ""
    learner = Learner(copy.deepcopy(model), objective, config)
    on_processor = learner.total.device.type == "cpu"
    most = torch.get_num_threads() if config.threads is None else config.threads
    threads = 1 if config.threads is None and on_processor else most
    torch.set_num_threads(threads)
    seconds = _seconds(learner, data, 3, 0.0)
    steps = math.inf
    if config.minutes is None or config.max_epochs is not None:
        steps = _epochs(data, config) * len(data.train) / batch_size(data, config)
    if config.minutes is not None:
        steps = min(steps, 60 * config.minutes / seconds)
    eager = f"eager, {_threads(threads)}"
    measured = {eager: seconds}
    if steps * seconds > BRIEF:
        tried = [threads] if config.threads is not None or not on_processor else _doubling(most)
        for count in tried:
            torch.set_num_threads(count)
            name = f"eager, {_threads(count)}"
            measured[name] = _seconds(learner, data)
            if measured[name] < CLEARLY * measured[eager]:
                threads, eager = count, name
        torch.set_num_threads(threads)
    form, why = eager, ""
    saving = 0.0
    if config.compile == "auto" and steps * measured[eager] > COMPILING:
        saving = SAVED * steps * _overhead(learner, first_batch(data, config)[:2])
    if config.compile == "on" or saving > COMPILING:
        try:
            compiled = Learner(model, objective, config)
            compiled.compile(first_batch(data, config))
        except CannotCompileError as error:
            if config.compile == "on":
                raise UsageError(
                    f"training.compile on: not possible for this model here ({error}); leave it "
                    f"away"
                ) from None
            why = f"; not compiled: {error}"
        else:
            name = f"compiled, {_threads(threads)}"
            measured[name] = _seconds(compiled.twin(), data)
            if config.compile == "on" or measured[name] < CLEARLY * measured[eager]:
                form = name
            else:
                compiled.lay_out(torch.contiguous_format)
    # A training of seconds leaves the same files each time, and so no milliseconds.
    listing = (
        "; ".join(f"{name} {1e3 * s:.3g} ms" for name, s in measured.items())
        if len(measured) > 1
        else ""
    )
    note = together + form + (f" ({listing})" if listing else "") + why
    return dataclasses.replace(
        config, threads=threads, compile="on" if form.startswith("compiled") else "off"
    ), note


def plan_steps(model: Model, objective: Objective, data: Dataset, config: TrainingConfig) -> int:
    """Returns the number of steps of the whole training, so that the schedule is known before the
    first one.
    """
    per_epoch = len(data.train) / batch_size(data, config)
    if config.minutes is None:
        return max(1, math.ceil(_epochs(data, config) * per_epoch))
    epochs = math.inf if config.max_epochs is None else config.max_epochs
    learner = Learner(model, objective, config)
    if config.compile == "on":
        learner.compile(first_batch(data, config))
    learner = learner.twin()
    seconds = _seconds(learner, data, 50)
    if len(data.validation):
        start = time.perf_counter()
        validate(learner.model, objective, data.validation, config.seed)
        seconds += (time.perf_counter() - start) / min(max(per_epoch, 100), 2000)
    return max(1, math.ceil(min(epochs * per_epoch, config.minutes * 60 / seconds)))


def _epochs(data: Dataset, config: TrainingConfig) -> float:
    per_epoch = len(data.train) / batch_size(data, config)
    return config.max_epochs or min(
        max(20_000 / per_epoch, 20), 2000 if data.schema.is_rows else 500
    )


def _seconds(learner: Learner, data: Dataset, count: int = 10, at_least: float = 0.2) -> float:
    """Returns the seconds of a step: the fastest of three runs after one to warm up, each of so
    many steps or seconds.

    They are those of the first rank, so that all decide alike.
    """
    trial, best = State(total_steps=10**9), math.inf
    with untouched():
        run_steps(learner, data, trial, 1)
        for _ in range(3):
            start, steps = time.perf_counter(), 0
            while not steps or not agreed(time.perf_counter() - start >= at_least):
                run_steps(learner, data, trial, count)
                steps += count
            best = min(best, (time.perf_counter() - start) / steps)
    return on_main(lambda: best)


def _overhead(learner: Learner, x: torch.Tensor) -> float:
    """Returns the seconds that an eager step takes however few data it has."""
    with untouched(), learner.interval():
        start = time.perf_counter()
        for _ in range(20):
            learner.step(x, 0.0, 0.0, 0.0)
        seconds = (time.perf_counter() - start) / 20
    return on_main(lambda: seconds)


def _doubling(most: int) -> list[int]:
    counts = [1]
    while counts[-1] < min(most, MOST_THREADS):
        counts.append(min(2 * counts[-1], most))
    return counts


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"
