"""The training loop, on one page.

``train`` is a generator: it computes, and after each interval hands over a ``Record`` to whoever renders and writes. It
prints nothing and knows no path. Between two records ``State`` is complete: what a checkpoint must hold, and nothing else.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from taut.config import TrainingConfig
from taut.data import Dataset, Rows, batch, blocks
from taut.data.parquet import ParquetRows, block_order
from taut.errors import DivergedError
from taut.model import Model, evaluating
from taut.objectives import Bound, Objective
from taut.seeds import derive, generator, set_seed, stream, untouched

__all__ = ["Record", "State", "finish", "plan_steps", "train", "validate"]

LR_WARMUP = 0.02  # share of the steps over which the rate grows
MAX_ROLLBACKS = 3
WINDOW = 4  # row groups of a file that are shuffled together: half of what its cache holds
MAX_SKIPPED = 0.05  # share of an interval's steps that may be skipped before the interval is undone


class Record(NamedTuple):
    """What happened in one interval of steps; bounds in nats per datum."""

    step: int  # steps done so far
    epoch: float  # passes over the training data so far
    bound: float  # mean value of the objective over the interval, in training mode
    validation: float | None  # mean value on the validation data, with the weights that would be kept
    learning_rate: float  # of the last step
    skipped: int  # steps skipped so far, for a loss or gradient that was not finite
    rollbacks: int  # intervals undone so far
    best: bool  # whether these weights are the best so far


@dataclass
class State:
    """Where a training stands: everything that a resumed one needs beside its configuration and its data."""

    total_steps: int
    step: int = 0
    lr_scale: float = 1.0
    skipped: int = 0
    rollbacks: int = 0
    best_step: int = 0
    best_target: float = -math.inf
    done: bool = False
    tensors: dict[str, Tensor] = field(default_factory=dict)


class Step(nn.Module):
    """One evaluation of the objective as a module: DDP averages gradients only of what runs through ``forward``."""

    def __init__(self, model: Model, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, x: Tensor, progress: float) -> Bound:
        return self.objective(self.model, x, None, progress)


def train(model: Model, objective: Objective, data: Dataset, config: TrainingConfig, state: State) -> Iterator[Record]:
    """Trains the model in place until the planned steps are done or the validation bound stays behind its best.

    Args:
        model: The model; with a ``state`` that holds tensors it goes on from there.
        objective: What is maximised.
        data: Training and validation data, on the device of the model.
        config: Rates and sizes.
        state: Updated before each record; ``finish`` takes the weights to keep from it.

    Fails:
        DivergedError: non-finite numbers remained after three rollbacks, each at half the rate.
    """
    average = copy.deepcopy(model) if config.averaging else model
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=0.0, weight_decay=config.weight_decay, fused=True
    )
    best = {k.removeprefix("best."): v for k, v in state.tensors.items() if k.startswith("best.")}
    if state.tensors:
        _restore(state.tensors, model, optimizer, average)
    else:
        if len(data.validation) and not all(p.requires_grad for p in model.parameters()):
            _, state.best_target = validate(average, objective, data.validation, config.seed)  # what is trained on can get worse
            best = {k: v.clone() for k, v in average.state_dict().items()}
        state.tensors = _capture(model, optimizer, average, best)
    interval = min(max(math.ceil(len(data.train) / config.batch_size), 100), 2000)
    warm = getattr(objective, "warmup", 0.0)  # early stopping and the choice of the best wait for it
    while not state.done:
        until = min(state.step + interval, state.total_steps)
        with untouched():
            bound, skipped = _run(model, objective, data, config, state, until, optimizer, average)
        if skipped > MAX_SKIPPED * (until - state.step):
            _roll_back(model, objective, data, config, state, optimizer, average)
            continue
        validation, improved = None, False
        progress = until / state.total_steps
        if len(data.validation):
            validation, target = validate(average, objective, data.validation, config.seed)
            improved = progress >= warm and target > state.best_target  # false for NaN
            validation = validation if math.isfinite(validation) else None
        if improved:
            state.best_step, state.best_target = until, target
            best = {k: v.clone() for k, v in average.state_dict().items()}
        state.step, state.skipped = until, state.skipped + skipped
        waited = (until - max(state.best_step, warm * state.total_steps)) / state.total_steps
        state.done = until == state.total_steps or (validation is not None and waited > config.patience)
        state.tensors = _capture(model, optimizer, average, best)
        rate = _rate(until - 1, config, state)
        epoch = until * _batch_size(data, config) / len(data.train)
        yield Record(until, epoch, bound, validation, rate, state.skipped, state.rollbacks, improved)


def _run(
    model: Model,
    objective: Objective,
    data: Dataset,
    config: TrainingConfig,
    state: State,
    until: int,
    optimizer: torch.optim.AdamW,
    average: Model,
) -> tuple[float, int]:
    """Runs the steps of one interval; returns the mean bound over the finite ones and how many were skipped."""
    step_module = Step(model, objective).train()
    for part in model.children():
        if not any(p.requires_grad for p in part.parameters()):
            part.eval()  # a frozen part is seen as it will be used: no dropout, and no statistics that move
    trainable: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    averaged: list[Tensor] = [p for p in average.parameters() if p.requires_grad]
    device = next(model.parameters()).device
    total, skipped = torch.zeros((), dtype=torch.float64, device=device), torch.zeros((), device=device)
    size = _batch_size(data, config)
    drawn = round(config.simulated * size)
    for step in range(state.step, until):
        set_seed(derive(config.seed, "step", step))
        index = _rows(config.seed, data.train, size, step).to(device)
        x = batch(data.train, index, data.binarize == "dynamic")
        if drawn:
            with torch.no_grad():
                x = torch.cat([x[drawn:], model.sample(drawn).to(x)])
        bound = step_module(x, step / state.total_steps)
        loss, value = -bound.surrogate.mean(), bound.value.mean()
        optimizer.zero_grad()
        loss.backward()
        gradients = [p.grad for p in trainable if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        finite = torch.isfinite(norm) & torch.isfinite(loss) & torch.isfinite(value)
        # The fused optimizer divides the gradient by grad_scale and leaves weights and moments alone where found_inf is 1:
        # clipping and skipping cost no synchronisation with the device.
        optimizer.grad_scale = (norm / config.clip_norm).clamp(min=1.0).float()  # type: ignore[attr-defined]
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimizer.param_groups[0]["lr"] = _rate(step, config, state)
        optimizer.step()
        if average is not model:
            decay = min(config.averaging, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(averaged, trainable, 1 - decay)
        total += torch.where(finite, value, 0.0)
        skipped += ~finite
    if average is not model:
        for kept, buffer in zip(average.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)
    count = until - state.step
    return float(total) / max(count - int(skipped), 1), int(skipped)


def validate(model: Model, objective: Objective, x: Rows, seed: int, rows: int = 2048) -> tuple[float, float]:
    """Returns the mean value of the objective and of its target on x, with the same noise at every call.

    The target is what the objective maximises; it differs from the value where that is reweighted (beta, free bits).
    """
    value = target = 0.0
    with torch.no_grad(), evaluating(model):
        for number, block in enumerate(blocks(x, most=max(1, rows // objective.num_samples))):
            with stream(seed, "validation", number):
                bound = objective(model, block.to(torch.get_default_dtype()))
            value += float(bound.value.sum(dtype=torch.float64))
            target += float((bound.value if bound.target is None else bound.target).sum(dtype=torch.float64))
    return value / len(x), target / len(x)


def plan_steps(model: Model, objective: Objective, data: Dataset, config: TrainingConfig) -> int:
    """Returns the number of steps of the whole training, so that the schedule is known before the first one."""
    per_epoch = len(data.train) / _batch_size(data, config)
    if config.max_epochs is not None or config.minutes is None:
        epochs = config.max_epochs or min(max(20_000 / per_epoch, 20), 2000 if data.schema.is_rows else 500)
        if config.minutes is None:
            return max(1, math.ceil(epochs * per_epoch))
    else:
        epochs = math.inf
    trial, count = State(total_steps=10**9), 50
    trial_model = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(trial_model.parameters(), lr=0.0, fused=True)
    seconds = []
    with untouched():
        for _ in range(3):  # the first one warms up; the faster of the others counts
            start = time.perf_counter()
            _run(trial_model, objective, data, config, trial, count, optimizer, copy.deepcopy(model))
            seconds.append((time.perf_counter() - start) / count)
    if len(data.validation):
        start = time.perf_counter()
        validate(trial_model, objective, data.validation, config.seed)
        seconds = [s + (time.perf_counter() - start) / min(max(per_epoch, 100), 2000) for s in seconds]
    return max(1, math.ceil(min(epochs * per_epoch, config.minutes * 60 / min(seconds[1:]))))


def finish(model: Model, state: State) -> None:
    """Gives the model the weights to keep: the best on the validation data, else the running average, else the last."""
    best = "best." if any(k.startswith("best.") for k in state.tensors) else "average."
    model.load_state_dict({k.removeprefix(best): v for k, v in state.tensors.items() if k.startswith(best)})
    model.eval()


def _batch_size(data: Dataset, config: TrainingConfig) -> int:
    return min(config.batch_size, len(data.train))


def _rate(step: int, config: TrainingConfig, state: State) -> float:
    warm = max(1.0, LR_WARMUP * state.total_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * step / state.total_steps))
    return config.learning_rate * state.lr_scale * min((step + 1) / warm, 1.0) * cosine


@lru_cache(maxsize=2)
def _permutation(seed: int, rows: int, epoch: int, bounds: tuple[int, ...]) -> Tensor:
    """Returns the order of an epoch; of rows that stay in a file it keeps those near each other that are read together."""
    own = generator(seed, "order", epoch)
    return block_order(np.array(bounds), WINDOW, own) if bounds else torch.randperm(rows, generator=own)


def _rows(seed: int, data: Rows, size: int, step: int) -> Tensor:
    """Returns the rows of one step: batches run on across epochs, so all are of one size and none is lost."""
    bounds = tuple(data.blocks.tolist()) if isinstance(data, ParquetRows) else ()
    epoch, start = divmod(step * size, len(data))
    here = _permutation(seed, len(data), epoch, bounds)[start : start + size]
    if len(here) == size:
        return here
    return torch.cat([here, _permutation(seed, len(data), epoch + 1, bounds)[: size - len(here)]])


def _capture(model: Model, optimizer: torch.optim.AdamW, average: Model, best: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{k}": v for k, v in state.items()}
    return {k: v.detach().clone() for k, v in tensors.items()} | {f"best.{k}": v for k, v in best.items()}


def _restore(tensors: dict[str, Tensor], model: Model, optimizer: torch.optim.AdamW, average: Model) -> None:
    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v.clone() for k, v in tensors.items() if k.startswith(prefix)}

    model.load_state_dict(part("model."))
    average.load_state_dict(part("average."))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in part("optimizer.").items():
        number, key = name.split(".", 1)
        moments.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _roll_back(
    model: Model,
    objective: Objective,
    data: Dataset,
    config: TrainingConfig,
    state: State,
    optimizer: torch.optim.AdamW,
    average: Model,
) -> None:
    """Undoes the interval and halves the rate, or gives up with a diagnosis."""
    if state.rollbacks == MAX_ROLLBACKS:
        reason = _diagnose(model, objective, data, config, state)
        raise DivergedError(
            f"training diverged after step {state.step}: {reason}; {MAX_ROLLBACKS} rollbacks at half the rate each "
            f"did not help (last rate {config.learning_rate * state.lr_scale:.2g}). The weights of step {state.step} are kept. "
            "Try a lower learning rate, or look for extreme values in the data with `taut check`"
        )
    _restore(state.tensors, model, optimizer, average)
    state.rollbacks += 1
    state.lr_scale /= 2


def _diagnose(model: Model, objective: Objective, data: Dataset, config: TrainingConfig, state: State) -> str:
    """Returns which term of the bound, or whose gradient, is not finite."""
    size = _batch_size(data, config)
    for step in range(state.step, min(state.step + 2000, state.total_steps)):
        with stream(config.seed, "step", step):
            x = batch(data.train, _rows(config.seed, data.train, size, step), data.binarize == "dynamic")
            try:
                draw = model.draw(x, objective.num_samples, reparameterize=False)
            except (ValueError, RuntimeError) as error:  # a distribution that checks what it is given
                return f"the posterior cannot be sampled at step {step} ({str(error).partition(chr(10))[0]})"
        for term in ("log_likelihood", "log_prior", "log_posterior"):
            values = getattr(draw, term)
            if not torch.isfinite(values).all():
                count = int((~torch.isfinite(values)).sum())
                return f"{term} is not finite for {count} of {values.numel()} samples at step {step}"
        model.zero_grad()
        with stream(config.seed, "step", step):
            (-objective(model, x, None, step / state.total_steps).surrogate.mean()).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                return f"the gradient of {name} is not finite at step {step}"
    return "a loss or a gradient was not finite"
