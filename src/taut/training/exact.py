"""The training of a model that is exact: passes of expectation maximisation, as a training loop.

``train`` yields the same records as ``taut.training.loop``; a pass is its step. A signal is obeyed
between two passes. Nothing of a pass is stored: from one seed all passes are the same again, so a
training that was stopped makes those that it had made once more and goes on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator
from contextlib import closing

import torch
from torch import Tensor

from taut.build.config import TrainingConfig
from taut.data import Dataset, Rows, batch
from taut.models.exact import ExactModel, Pass
from taut.system.errors import DivergedError, UsageError
from taut.system.seeds import generator, stream
from taut.system.signals import held, watched
from taut.training.loop import Record, State

__all__ = ["PASSES", "in_memory", "train_exact", "why_ended"]

PASSES = 200  # of expectation maximisation, at most


def train_exact(
    model: ExactModel, data: Dataset, config: TrainingConfig, state: State
) -> Generator[Record, None, None]:
    """Trains the model in place until its passes are done, or no better on the validation rows.

    Args:
        model: The model.
        data: Training and validation data.
        config: The number of passes and the seed.
        state: Updated before each record; passes that it has behind it are made again without one.

    Yields:
        A record after each pass; ``state.total_steps`` is what is planned by then.

    Raises:
        UsageError: the model refuses these rows, such as fewer than it has states.
        DivergedError: log p(x) is not a number.
    """
    most, done, finished = config.max_epochs or PASSES, state.step, state.done
    if finished:
        return
    with closing(_passes(model, data, most, config.seed)) as passes:
        for found in passes:
            validation = found.validation if math.isfinite(found.validation) else None
            aim = found.training if validation is None else validation
            improved = aim > state.best_target
            if improved:
                state.best_step, state.best_target = found.number, aim
            if found.number <= done:
                continue
            state.step = found.number
            planned = round(found.number / found.share) if found.share > 0 else most
            state.total_steps = max(state.step, planned)
            state.tensors = {f"model.{k}": v.clone() for k, v in model.state_dict().items()}
            yield Record(
                step=found.number,
                epoch=float(found.number),
                bound=found.training,
                validation=validation,
                learning_rate=0.0,
                skipped=0,
                rollbacks=0,
                best=improved,
                micro_batches=1,
            )
            if state.done:  # the time was up
                return
    state.done = True


def why_ended(model: ExactModel, state: State, late: bool) -> str:
    """Returns what ended the passes: ``time``, ``epochs`` (their limit), ``plan`` (the model had
    made all that it wanted) or ``patience`` (nothing grew any more).
    """
    if late:
        return "time"
    if model.limited:
        return "epochs"
    if state.step >= state.total_steps:
        return "plan"
    return "patience"


def _passes(
    model: ExactModel, data: Dataset, passes: int, seed: int
) -> Generator[Pass, None, None]:
    """Fits the model to the training rows in place and yields each pass; stopped early it has the
    best parameters so far.

    Raises:
        UsageError: the model refuses these rows.
        DivergedError: log p(x) is not a number.
    """
    device = next(iter(model.state_dict().values())).device
    train = in_memory(data.train, data.binarize == "dynamic", seed).to(device)
    validation = in_memory(data.validation).to(device)
    with closing(_iterate(model, train, validation, passes, seed)) as found:
        for each in found:
            if math.isnan(each.training):
                raise DivergedError(
                    f"log p(x) of the training rows is not a number after pass {each.number}: look "
                    "for extreme values in the data with `taut check`"
                )
            yield each


def _iterate(
    model: ExactModel, train: Tensor, validation: Tensor, passes: int, seed: int
) -> Generator[Pass, None, None]:
    iterator = iter(model.maximize(train, validation, max_passes=passes, seed=seed))
    try:
        for number in itertools.count():
            with watched(), held(), torch.no_grad(), stream(seed, "maximize", number):
                found = next(iterator, None)
            if found is None:
                return
            yield found
    except ValueError as error:
        raise UsageError(f"{type(model).__name__}: {error}") from error
    finally:
        if hasattr(iterator, "close"):
            iterator.close()


def in_memory(rows: Rows, dynamic: bool = False, seed: int = 0) -> Tensor:
    r"""Returns rows as a tensor, (N, \*event); bits of grey levels are drawn once."""
    whole = batch(rows, torch.arange(len(rows)), dynamic, generator(seed, "bits"))
    return whole.to(torch.get_default_dtype())
