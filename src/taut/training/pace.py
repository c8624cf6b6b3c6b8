"""The pace of a training on this machine: number of steps, threads, eager or compiled.

Whatever the configuration does not give is measured on copies of the model, before the first step.
The choice is stored with the run, so that a resumed one adds in the same order. A training of
seconds is not measured: it runs in one thread and eagerly, the same on every machine.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time

import torch

from taut.build.config import TrainingConfig
from taut.build.usual import FEW_IMAGES
from taut.data import Dataset
from taut.model import Model
from taut.objectives import Objective
from taut.system.errors import UsageError
from taut.system.parallel import agreed, on_main, world
from taut.system.seeds import untouched
from taut.training.graph import CannotCompileError
from taut.training.loop import LEAST, MOST, State, batch_size, first_batch, run_steps, validate
from taut.training.step import Learner

__all__ = ["choose", "epochs_of", "plan_steps"]

BRIEF = 20.0  # seconds of training below which nothing is measured
COMPILING = 30.0  # seconds that compiling takes at most, for usual models and machines
# Least share that compiling saves of an eager step on two rows, which is calls without arithmetic.
SAVED = 0.5
AMPLE = 0.1  # share of the time given up to which a few steps tell that all of them fit
CLEARLY = 0.95  # share of the time below which another way is taken
MOST_THREADS = 64
COUNT_STEPS = 1000


def choose(
    model: Model, objective: Objective, data: Dataset, config: TrainingConfig
) -> tuple[TrainingConfig, str]:
    """Returns the configuration with threads and form of the step decided, and sets torch's
    threads.

    Also returns a one-line explanation, empty if nothing had to be decided.

    Args:
        model: The model, on its device; it is not changed.
        objective: The objective to maximise.
        data: Training and validation data, on the device of the model.
        config: The configuration; values that it gives are kept.

    Raises:
        UsageError: ``compile="on"`` was asked for and is not possible.
    """
    together = ""
    if world() > 1:  # torchrun gives each process its threads
        config = dataclasses.replace(config, threads=torch.get_num_threads())
        together = f"{world()} processes, each "
    if config.threads is not None and config.compile == "off":
        torch.set_num_threads(config.threads)
        return config, together and f"{together}eager"
    learner = Learner(copy.deepcopy(model), objective, config)
    counts = _thread_counts(config, learner.total.device)
    threads = counts[0]
    torch.set_num_threads(threads)
    seconds = _seconds(learner, data, 3, 0.0)
    steps = _steps_ahead(data, config, seconds)
    eager = f"eager, {_threads(threads)}"
    measured = {eager: seconds}
    if steps * seconds > BRIEF:
        for count in counts:
            torch.set_num_threads(count)
            name = f"eager, {_threads(count)}"
            measured[name] = _seconds(learner, data)
            if measured[name] < CLEARLY * measured[eager]:
                threads, eager = count, name
        torch.set_num_threads(threads)
    form, failure = eager, ""
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
                    f"training.compile on: not possible for this model here ({error}); omit it"
                ) from None
            failure = f"; not compiled: {error}"
        else:
            name = f"compiled, {_threads(threads)}"
            measured[name] = _seconds(compiled.twin(), data)
            if config.compile == "on" or measured[name] < CLEARLY * measured[eager]:
                form = name
            else:
                compiled.lay_out(torch.contiguous_format)
    listing = ""
    if len(measured) > 1:  # a training of seconds leaves the same files each time: no milliseconds
        listing = "; ".join(f"{name} {1e3 * s:.3g} ms" for name, s in measured.items())
        listing = f" ({listing})"
    chosen = "on" if form.startswith("compiled") else "off"
    config = dataclasses.replace(config, threads=threads, compile=chosen)
    return config, together + form + listing + failure


def plan_steps(model: Model, objective: Objective, data: Dataset, config: TrainingConfig) -> int:
    """Returns the number of steps of the whole training: the schedule must know it before the
    first.
    """
    per_epoch = len(data.train) / batch_size(data, config)
    if config.minutes is None:
        return max(1, math.ceil(epochs_of(data, config) * per_epoch))
    given = config.max_epochs is not None or data.schema.is_count_matrix
    epochs = epochs_of(data, config) if given else math.inf
    learner = Learner(model, objective, config)
    if config.compile == "on":
        learner.compile(first_batch(data, config))
    learner = learner.twin()
    checks = 0.0  # seconds a step, of looking at the validation rows
    if len(data.validation):
        start = time.perf_counter()
        validate(learner.model, objective, data.validation, config.seed)
        taken = (time.perf_counter() - start) / min(max(per_epoch, LEAST), MOST)
        checks = on_main(lambda: taken)
    steps, time_given = epochs * per_epoch, 60 * config.minutes
    seconds = _seconds(learner, data, 3, 0.0) + checks
    if steps * seconds > AMPLE * time_given:
        seconds = _seconds(learner, data, 50) + checks
    return max(1, math.ceil(min(steps, time_given / seconds)))


def epochs_of(data: Dataset, config: TrainingConfig) -> float:
    """Returns the passes over the data: those given, or as many as some 20,000 steps take, 1,000
    for a matrix of counts, whose warm-up is a share of them.
    """
    if config.max_epochs:
        return config.max_epochs
    per_epoch = len(data.train) / batch_size(data, config)
    if data.schema.is_count_matrix:
        return min(max(COUNT_STEPS / per_epoch, 20), 500)
    most = 2000 if data.schema.is_rows else 500
    if config.objective == FEW_IMAGES["objective"]:
        most = max(most, 1000)  # regularised, they overfit late
    return min(max(20_000 / per_epoch, 20), most)


def _steps_ahead(data: Dataset, config: TrainingConfig, seconds: float) -> float:
    """Returns the number of steps of the training if one takes so many seconds."""
    steps = math.inf
    if config.minutes is None or config.max_epochs is not None or data.schema.is_count_matrix:
        steps = epochs_of(data, config) * len(data.train) / batch_size(data, config)
    if config.minutes is not None:
        steps = min(steps, 60 * config.minutes / seconds)
    return steps


def _thread_counts(config: TrainingConfig, device: torch.device) -> list[int]:
    """Returns the numbers of threads to try: the one that is given, or doubling ones on a
    processor.
    """
    if config.threads is not None:
        return [config.threads]
    most = torch.get_num_threads()
    if device.type != "cpu":
        return [most]
    counts = [1]
    while counts[-1] < min(most, MOST_THREADS):
        counts.append(min(2 * counts[-1], most))
    return counts


def _seconds(learner: Learner, data: Dataset, count: int = 10, at_least: float = 0.2) -> float:
    """Returns the seconds of a step on the first rank, so that all ranks decide alike.

    They are those of the fastest of three runs after one step to warm up. A run repeats ``count``
    steps until ``at_least`` so many seconds have passed.
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
    """Returns the seconds that an eager step takes however few rows it has."""
    with untouched(), learner.interval():
        start = time.perf_counter()
        for _ in range(20):
            learner.step(x, 0.0, 0.0, 0.0)
        seconds = (time.perf_counter() - start) / 20
    return on_main(lambda: seconds)


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"
