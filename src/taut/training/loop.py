"""The training loop, on one page.

``train`` is a generator: it computes, and after each interval yields a ``Record`` to the caller,
who renders and writes. It prints nothing and knows no path. Between two records ``State`` is
complete: it is exactly what a checkpoint must hold.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from taut.build.config import TrainingConfig
from taut.data import Dataset, Rows, batch, block_size
from taut.data.tables.parquet_rows import ParquetRows, block_order
from taut.model import Model, evaluating
from taut.objectives import Objective
from taut.system import parallel
from taut.system.errors import DivergedError
from taut.system.memory import Chunks, out_of_memory
from taut.system.parallel import Share
from taut.system.precision import wide
from taut.system.seeds import derive, generator, set_seed, stream, untouched
from taut.system.signals import held, watched
from taut.training.graph import CannotCompileError
from taut.training.step import Learner

__all__ = [
    "Record",
    "State",
    "batch_size",
    "finish",
    "first_batch",
    "run_steps",
    "train",
    "validate",
]

LR_WARMUP = 0.02  # share of the steps over which the rate grows
MAX_ROLLBACKS = 3
WINDOW = 4  # row groups of a file that are shuffled together: half of those in its cache
LEAST, MOST = 100, 2000  # steps of an interval, which is an epoch where that lies between
MAX_SKIPPED = 0.05  # share of an interval's steps that may be skipped before the interval is undone


class Record(NamedTuple):
    """One interval of steps; bounds in nats per data point."""

    step: int  # steps done so far
    epoch: float  # passes over the training data so far
    bound: float  # mean value of the objective over the interval, in training mode
    validation: float | None  # the same on the validation data, with the weights to be kept
    learning_rate: float  # of the last step
    skipped: int  # steps skipped so far, for a loss or gradient that was not finite
    rollbacks: int  # intervals undone so far
    best: bool  # whether these weights are the best so far
    micro_batches: int  # parts in which a step is taken; more than one once memory ran out


@dataclass
class State:
    """The state of a training: all that a resumed one needs, apart from configuration and data."""

    total_steps: int
    step: int = 0
    lr_scale: float = 1.0
    skipped: int = 0
    rollbacks: int = 0
    best_step: int = 0
    best_target: float = -math.inf
    done: bool = False
    tensors: dict[str, Tensor] = field(default_factory=dict)
    micro_batches: int = 1
    since: int = 0  # step at which the present schedule began: above 0 if training was extended
    seconds: float = 0.0  # of training so far, as a clock on the wall tells it


def train(
    model: Model, objective: Objective, data: Dataset, config: TrainingConfig, state: State
) -> Iterator[Record]:
    """Trains the model in place until the planned steps are done or the validation bound has not
    improved for long.

    Args:
        model: The model; it starts from the tensors of ``state`` if there are any.
        objective: The objective to maximise.
        data: Training and validation data, on the device of the model.
        config: Rates and sizes.
        state: Updated before each record; ``finish`` takes the weights to keep from it.

    Yields:
        A record after each interval of steps.

    Raises:
        DivergedError: non-finite numbers remained after three rollbacks, each at half the rate.
    """
    learner = Learner(model, objective, config)
    average = learner.average
    best = _part(state.tensors, "best.")
    # Where memory was too short, or this machine has no compiler, the training goes on eagerly.
    if config.compile == "on" and state.micro_batches == 1:
        with suppress(CannotCompileError):
            learner.compile(first_batch(data, config))
    if state.tensors:
        _restore(state.tensors, learner)
    else:
        frozen = not all(p.requires_grad for p in model.parameters())
        if len(data.validation) and (frozen or model.started):
            # A part is frozen, or the model is a fit already: training may make it worse than now.
            _, state.best_target = validate(average, objective, data.validation, config.seed)
            best = _copied(average.state_dict())
        state.tensors = _capture(learner, best)
    parallel.check_same(model.state_dict(), f"at step {state.step}")
    interval = min(max(math.ceil(len(data.train) / config.batch_size), LEAST), MOST)
    warm = objective.warmup  # early stopping and the choice of the best wait for it
    while not state.done:
        until = min(state.step + interval, state.total_steps)
        with untouched():
            bound, skipped = run_steps(learner, data, state, until)
        if skipped > MAX_SKIPPED * (until - state.step):
            _roll_back(learner, data, state)
            continue
        validation, improved = None, False
        progress = until / state.total_steps
        if len(data.validation):
            validation, target = validate(average, objective, data.validation, config.seed)
            improved = progress >= warm and target > state.best_target  # false for NaN
            if not math.isfinite(validation):
                validation = None
        if improved:
            state.best_step, state.best_target = until, target
            best = _copied(average.state_dict())
        state.step, state.skipped = until, state.skipped + skipped
        waited = (until - max(state.best_step, warm * state.total_steps)) / state.total_steps
        too_long = validation is not None and waited > config.patience
        state.done = until == state.total_steps or too_long
        state.tensors = _capture(learner, best)
        parallel.check_same(model.state_dict(), f"after step {until}")
        rate = _rate(until - 1, config, state)
        epoch = until * batch_size(data, config) / len(data.train)
        yield Record(
            step=until,
            epoch=epoch,
            bound=bound,
            validation=validation,
            learning_rate=rate,
            skipped=state.skipped,
            rollbacks=state.rollbacks,
            best=improved,
            micro_batches=state.micro_batches,
        )


def run_steps(learner: Learner, data: Dataset, state: State, until: int) -> tuple[float, int]:
    """Runs the steps of one interval; returns the mean bound of the finite ones and the number of
    skipped ones.

    A step for which memory is too short is taken again in twice as many micro-batches, as are all
    that follow.
    """
    config, model = learner.config, learner.model
    device = learner.total.device
    size = batch_size(data, config)
    drawn = round(config.simulated * size)
    own = parallel.divided(size)

    def take(step: int) -> None:
        set_seed(derive(config.seed, "step", step))
        index = _rows(config.seed, data.train, size, step).to(device)
        if own is not None and not drawn:
            with own.noise():
                x = batch(data.train, own.of(index), data.binarize == "dynamic")
        else:
            x = batch(data.train, index, data.binarize == "dynamic")
        if drawn:
            with torch.no_grad():
                x = torch.cat([x[drawn:], model.redraw(x[:drawn])])
            if own is not None:
                x = own.of(x)
        rate, progress = _rate(step, config, state), step / state.total_steps
        decay = min(config.averaging, (1 + step) / (10 + step))
        learner.step(x, rate, decay, progress, own, state.micro_batches)

    step = state.step
    with watched(), learner.interval():
        while step < until:
            try:
                with held():
                    take(step)
                step += 1
            except (MemoryError, RuntimeError) as error:
                whole = own is not None or parallel.indivisible(model, learner.objective)
                if whole or state.micro_batches >= size or not out_of_memory(error):
                    raise
                state.micro_batches = min(2 * state.micro_batches, size)
    skipped = int(learner.skipped)
    return float(learner.total) / max(until - state.step - skipped, 1), skipped


def validate(
    model: Model, objective: Objective, x: Rows, seed: int, rows: int = 2048
) -> tuple[float, float]:
    """Returns the mean value of the objective and of its target on x, in nats, with the same noise
    at every call.

    The objective maximises its target, which differs from the value if that is reweighted (beta,
    free bits).
    """
    size = block_size(x, most=max(1, rows // objective.num_samples))
    chunks = Chunks(size, least=size if objective.couples_rows else 1)

    def compute(first: int) -> list[tuple[float, float]]:
        block = x[first : first + size].to(torch.get_default_dtype())

        def sums(own: Share) -> tuple[float, float]:
            number, samples = first // size, objective.num_samples
            with held(), stream(seed, "validation", number), own.noise(samples):
                bound = objective(model, own.of(block))
            target = bound.value if bound.target is None else bound.target
            return float(wide(bound.value).sum()), float(wide(target).sum())

        return list(chunks(len(block), sums))

    with torch.no_grad(), evaluating(model):
        blocks = parallel.in_order(range(0, len(x), size), compute)
        parts = list(itertools.chain.from_iterable(blocks))
    value, target = (sum(each) / len(x) for each in zip(*parts, strict=True))
    return value, target


def finish(model: Model, state: State) -> None:
    """Gives the model the weights to keep: the best on the validation data, else the running
    average, else the last.
    """
    kept = _part(state.tensors, "best.") or _part(state.tensors, "average.")
    if hasattr(model, "opponent"):  # of its training alone
        del model.opponent
        kept = {k: v for k, v in kept.items() if not k.startswith("opponent.")}
    model.load_state_dict(kept)
    model.eval()


def batch_size(data: Dataset, config: TrainingConfig) -> int:
    """Returns the number of data points of a step: at most all there are."""
    return min(config.batch_size, len(data.train))


def first_batch(data: Dataset, config: TrainingConfig) -> Tensor:
    """Returns a batch to try a step on: the first rows."""
    with stream(config.seed, "trial"):
        return batch(data.train, torch.arange(batch_size(data, config)), data.binarize == "dynamic")


def _rate(step: int, config: TrainingConfig, state: State) -> float:
    done, whole = step - state.since, state.total_steps - state.since
    warm = max(1.0, LR_WARMUP * whole)
    cosine = 0.5 * (1 + math.cos(math.pi * done / whole))
    return config.peak * state.lr_scale * min((done + 1) / warm, 1.0) * cosine


@lru_cache(maxsize=2)
def _permutation(seed: int, rows: int, epoch: int, bounds: tuple[int, ...]) -> Tensor:
    """Returns the order of an epoch; rows in a file that are read together stay near each other."""
    own = generator(seed, "order", epoch)
    if bounds:
        return block_order(np.array(bounds), WINDOW, own)
    return torch.randperm(rows, generator=own)


def _rows(seed: int, data: Rows, size: int, step: int) -> Tensor:
    """Returns the rows of one step.

    Batches run on across epochs, so all have one size and no row is lost.
    """
    bounds = tuple(data.blocks.tolist()) if isinstance(data, ParquetRows) else ()
    epoch, start = divmod(step * size, len(data))
    here = _permutation(seed, len(data), epoch, bounds)[start : start + size]
    if len(here) == size:
        return here
    return torch.cat([here, _permutation(seed, len(data), epoch + 1, bounds)[: size - len(here)]])


def _capture(learner: Learner, best: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors = {f"model.{k}": v for k, v in learner.model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in learner.average.state_dict().items()}
    for number, state in learner.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{k}": v for k, v in state.items()}
    return _copied(tensors) | {f"best.{k}": v for k, v in best.items()}


def _restore(tensors: dict[str, Tensor], learner: Learner) -> None:
    learner.model.load_state_dict(_part(tensors, "model."))
    learner.average.load_state_dict(_part(tensors, "average."))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _copied(_part(tensors, "optimizer.")).items():
        number, key = name.split(".", 1)
        moments.setdefault(int(number), {})[key] = tensor
    groups = learner.optimizer.state_dict()["param_groups"]
    learner.optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Returns the tensors whose names start with a prefix, under their names without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in tensors.items()}


def _roll_back(learner: Learner, data: Dataset, state: State) -> None:
    """Undoes the interval and halves the rate, or gives up with a diagnosis.

    Raises:
        DivergedError: it was undone as often as allowed.
    """
    if state.rollbacks == MAX_ROLLBACKS:
        reason = _diagnose(learner, data, state)
        rate = learner.config.peak * state.lr_scale
        raise DivergedError(
            f"training diverged after step {state.step}: {reason}; {MAX_ROLLBACKS} rollbacks at "
            f"half the rate each did not help (last rate {rate:.2g}). The weights of step "
            f"{state.step} are kept. Try a lower learning rate, or look for extreme values in the "
            f"data with `taut check`"
        )
    _restore(state.tensors, learner)
    state.rollbacks += 1
    state.lr_scale /= 2


def _diagnose(learner: Learner, data: Dataset, state: State) -> str:
    """Returns the first term of the bound, or gradient, that is not finite, as a clause."""
    if state.micro_batches > 1:  # memory is too short for the whole batch that is needed here
        return "a loss or a gradient was not finite"
    model, objective, config = learner.model, learner.objective, learner.config
    size = batch_size(data, config)
    for step in range(state.step, min(state.step + 2000, state.total_steps)):
        with stream(config.seed, "step", step):
            rows = _rows(config.seed, data.train, size, step)
            x = batch(data.train, rows, data.binarize == "dynamic")
            try:
                draw = model.draw(x, objective.num_samples, reparameterize=False)
            except (ValueError, RuntimeError) as error:  # a distribution that checks its parameters
                reason = str(error).partition("\n")[0]
                return f"the posterior cannot be sampled at step {step} ({reason})"
        for term in ("log_likelihood", "log_prior", "log_posterior"):
            values = getattr(draw, term)
            count = int((~torch.isfinite(values)).sum())
            if count:
                of = f"{count} of {values.numel()} samples"
                return f"{term} is not finite for {of} at step {step}"
        model.zero_grad()
        with stream(config.seed, "step", step):
            (-objective(model, x, None, step / state.total_steps).surrogate.mean()).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                return f"the gradient of {name} is not finite at step {step}"
    return "a loss or a gradient was not finite"
