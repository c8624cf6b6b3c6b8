"""One step of training, in two equivalent forms: eager, and one compiled graph.

A ``Learner`` holds all that a step changes: the weights, AdamW's moments, the running average, the
sums of an interval. The eager form calls the objective, differentiates and updates with torch's own
fused AdamW. The compiled form (``training/graph.py``) is the same sequence of operations as one
graph. Noise is drawn by the same calls in either form, so one seed gives the same step up to
rounding; ``compile`` verifies that.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from taut.build.config import TrainingConfig
from taut.model import Model
from taut.networks import Network
from taut.objectives import Bound, Objective
from taut.system import parallel
from taut.system.memory import keep_freed
from taut.system.parallel import Share
from taut.system.precision import wide_dtype
from taut.system.seeds import generator_states, set_generator_states, stream
from taut.system.signals import held
from taut.training.graph import CannotCompileError, Graph, compiled, scalars

__all__ = ["Learner", "Step"]

GENTLE = 0.2  # share of the learning rate that the parts have which ``training.gentle`` names

# Compiled steps, by model: a graph takes all tensors as arguments, so every learner of a model can
# use it, be it one that measures the pace or the one that trains.
_GRAPHS: WeakKeyDictionary[Model, dict[Any, Graph]] = WeakKeyDictionary()


class Step(nn.Module):
    """One evaluation of the objective as a module.

    DDP averages gradients only of what runs through ``forward``.
    """

    def __init__(self, model: Model, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, x: Tensor, progress: float | Tensor) -> Bound:
        return self.objective(self.model, x, None, progress)


class Learner:
    """Creates everything that training changes, for a model that is trained in place.

    Args:
        model: The model.
        objective: The objective to maximise.
        config: Rates and sizes.
    """

    def __init__(self, model: Model, objective: Objective, config: TrainingConfig) -> None:
        keep_freed()
        self.model, self.objective, self.config = model, objective, config
        with stream(config.seed, "opponent"):
            objective.prepare(model)
        self.average = copy.deepcopy(model) if config.averaging else model
        self.module = Step(model, objective)
        self.forward: Callable[..., Bound] = self.module
        if parallel.world() > 1:
            parallel.check_divisible(model, objective)
            self.forward = parallel.wrapped(self.module)
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        self.averaged: list[Tensor] = [p for p in self.average.parameters() if p.requires_grad]
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        # Of the learning rate, for each weight.
        self.shares = [GENTLE if _within(name, config.gentle) else 1.0 for name in names]
        alike = [
            {"params": [p for p, s in zip(self.trainable, self.shares, strict=True) if s == share]}
            for share in sorted(set(self.shares))
        ]
        self.optimizer = torch.optim.AdamW(
            alike,
            lr=0.0,
            betas=objective.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        # Torch makes the moments in the first step; a compiled step needs them before.
        for p in self.trainable:
            moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            self.optimizer.state[p] = {"step": torch.zeros((), device=p.device), **moments}
        device = next(model.parameters()).device
        # Over an interval: the sum of the bounds of its finite steps, and the number of the others.
        self.total = torch.zeros((), dtype=wide_dtype(device), device=device)
        self.skipped = torch.zeros((), dtype=wide_dtype(device), device=device)
        self._graph: Graph | None = None
        self._inputs: list[Tensor] = []

    @contextmanager
    def interval(self) -> Iterator[None]:
        """Runs a block of steps, with parts in training mode and sums that start at zero.

        Afterwards the averaged model gets the model's buffers.
        """
        self.module.train()
        for part in self.model.modules():
            own = [p.requires_grad for p in part.parameters()]
            if own and not any(own):
                # A frozen part is seen as it will be used: no dropout, no moving statistics.
                part.eval()
        self.total.zero_()
        self.skipped.zero_()
        self._inputs = self.tensors()
        with _networks_in(self.module, self.config.precision):
            yield
        if self._graph is not None:
            self._count_all()
        if self.average is not self.model:
            for kept, buffer in zip(self.average.buffers(), self.model.buffers(), strict=True):
                kept.copy_(buffer)

    def step(
        self,
        x: Tensor,
        rate: float,
        decay: float,
        progress: float,
        own: Share | None = None,
        micro_batches: int = 1,
    ) -> None:
        r"""Takes one step on x, (B, \*event).

        A step whose loss or gradient is not finite changes nothing and is counted.

        Args:
            x: Data points.
            rate: Learning rate.
            decay: Decay of the running average.
            progress: Share of the training that is done, from 0 to 1.
            own: The rows of a larger batch that these are, where several processes take a step
                together.
            micro_batches: Number of parts in which one process computes the gradient, where memory
                is short; from 2 on the form is eager.
        """
        with held():
            self._take(x, rate, decay, progress, own, micro_batches)

    def _take(
        self,
        x: Tensor,
        rate: float,
        decay: float,
        progress: float,
        own: Share | None,
        micro_batches: int,
    ) -> None:
        if self._graph is not None and micro_batches > 1:
            self._count_all()
            self._graph = None
        if self._graph is not None:
            self._graph(*self._inputs, x, scalars(rate, decay, progress))
            return
        self.optimizer.zero_grad()
        if own is None and micro_batches > 1:
            loss, value = self._accumulate(x, progress, micro_batches)
        elif own is None:
            bound = self.forward(x, progress)
            loss, value = -bound.surrogate.mean(), bound.value.mean()
            loss.backward()
        else:
            with own.noise(self.objective.num_samples):
                bound = self.forward(x, progress)
            loss, value = -own.mean(bound.surrogate), own.mean(bound.value)
            sums = parallel.sum_over_ranks(torch.stack([loss.detach(), value]))
            scaled = parallel.world() * loss  # DDP takes the mean over the ranks; the sum is needed
            scaled.backward()
            loss, value = sums().unbind()
        gradients = [p.grad for p in self.trainable if p.grad is not None]
        foreach = None  # torch decides: it refuses the fused form on MPS
        if self.total.device.type in ("cpu", "cuda"):
            foreach = True
        norm = torch.nn.utils.get_total_norm(gradients, foreach=foreach)
        finite = torch.isfinite(norm) & torch.isfinite(loss) & torch.isfinite(value)
        # The fused optimizer divides the gradient by grad_scale and changes neither weights nor
        # moments where found_inf is 1: clipping and skipping cost no synchronisation.
        self.optimizer.grad_scale = (norm / self.config.clip_norm).clamp(min=1.0).float()  # type: ignore[attr-defined]
        self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        for group, share in zip(self.optimizer.param_groups, sorted(set(self.shares)), strict=True):
            group["lr"] = rate * share
        self.optimizer.step()
        if self.average is not self.model:
            with torch.no_grad():
                torch._foreach_lerp_(self.averaged, list(self.trainable), 1 - decay)
        self.total += torch.where(finite, value, 0.0)
        self.skipped += ~finite

    def _count_all(self) -> None:
        """Gives all weights the number of steps taken: the compiled form counts in the first."""
        for p in self.trainable[1:]:
            self.optimizer.state[p]["step"].copy_(self.optimizer.state[self.trainable[0]]["step"])

    def _accumulate(self, x: Tensor, progress: float, count: int) -> tuple[Tensor, Tensor]:
        """Adds up the gradient over parts of x, each with its rows of the noise for the whole.

        Returns loss and value of the whole.
        """
        before = generator_states()
        loss, value = torch.zeros_like(self.total), torch.zeros_like(self.total)
        for own in parallel.shares(len(x), count):
            set_generator_states(before)
            with own.noise(self.objective.num_samples):
                bound = self.forward(own.of(x), progress)
            part = -own.mean(bound.surrogate)
            part.backward()
            loss, value = loss + part.detach(), value + own.mean(bound.value)
        return loss, value

    def compile(self, x: Tensor) -> None:
        """Switches to the compiled form of the step, for batches like x, after comparing two steps
        in either form on copies.

        A model is compiled once for each objective, shape, share and number of threads.

        Args:
            x: A batch; where there are several processes, all of its rows.

        Raises:
            CannotCompileError: the step cannot be recorded or compiled, or the two forms disagree.
        """
        if not self.objective.compiles:
            raise CannotCompileError(f"{self.objective} takes eager steps")
        config, own = self.config, parallel.divided(len(x))
        if own is not None and x.device.type != "cpu":
            raise CannotCompileError("several processes on accelerators take eager steps")
        key = (
            self.objective,
            x.shape,
            tuple(p.requires_grad for p in self.model.parameters()),
            config.averaging > 0,
            config.clip_norm,
            config.weight_decay,
            config.gentle,
            config.precision,
            torch.get_num_threads(),
            own,
        )
        known = _GRAPHS.setdefault(self.model, {})
        self.lay_out(torch.channels_last)
        if key not in known:
            try:
                known[key] = compiled(self, x)
            except CannotCompileError:
                self.lay_out(torch.contiguous_format)
                raise
        self._graph = known[key]

    def lay_out(self, memory_format: torch.memory_format) -> None:
        """Lays out the weights of convolutions, their averages and moments: contiguous for eager
        steps, channels last for compiled ones.

        Each form is fastest so; in the compiled one Adam finds weight and gradient in one order.
        """
        moments = [*self.moments("exp_avg"), *self.moments("exp_avg_sq")]
        for tensor in (*self.trainable, *self.averaged, *moments):
            if tensor.dim() == 4:
                tensor.data = tensor.data.contiguous(memory_format=memory_format)

    def twin(self, graph: Graph | None = None) -> Learner:
        """Returns a learner on a copy of the model, for trials; it steps in the same form, or by
        the given graph.
        """
        twin = Learner(copy.deepcopy(self.model), self.objective, self.config)
        twin._graph = graph or self._graph
        return twin

    def tensors(self) -> list[Tensor]:
        """Returns the tensors that a step reads and changes, in the order in which a graph takes
        them.
        """
        tensors: list[Tensor] = [*self.trainable]
        if self.average is not self.model:
            tensors += self.averaged
        tensors += [*self.moments("exp_avg"), *self.moments("exp_avg_sq")]
        tensors += self.moments("step")[:1]
        tensors += [*self.fixed().values(), self.total, self.skipped]
        return [tensor.detach() for tensor in tensors]

    def moments(self, name: str) -> list[Tensor]:
        """Returns one of AdamW's tensors for each weight: ``exp_avg``, ``exp_avg_sq``, ``step``."""
        return [self.optimizer.state[p][name] for p in self.trainable]

    def fixed(self) -> dict[str, Tensor]:
        """Returns frozen parameters and buffers, by name."""
        frozen = {n: p for n, p in self.module.named_parameters() if not p.requires_grad}
        return frozen | dict(self.module.named_buffers())


def _within(name: str, parts: tuple[str, ...]) -> bool:
    """Returns whether a weight belongs to one of the parts that are named."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


@contextmanager
def _networks_in(module: nn.Module, precision: str) -> Iterator[None]:
    """Computes the networks in a precision for a block; their outputs, and so the bound, have
    torch's default one.
    """
    networks = []
    if precision == "bfloat16":
        networks = [m for m in module.modules() if isinstance(m, Network)]
    for network in networks:
        network.forward = partial(_in_bfloat16, network.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for network in networks:
            del network.forward  # back to that of the class


def _in_bfloat16(forward: Callable[..., Tensor], x: Tensor, *rest: Any) -> Tensor:
    with torch.autocast(x.device.type, torch.bfloat16):
        return forward(x, *rest).to(torch.get_default_dtype())
