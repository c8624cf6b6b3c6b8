"""One step of training, in two forms that do the same: eager, and one compiled graph.

A ``Learner`` holds all that a step changes: the weights, AdamW's moments, the running average, the sums of an interval. The
eager form calls the objective, differentiates and updates with torch's own fused AdamW. The compiled form is the same sequence of
operations on tensors, recorded once by running it on tensors without content (``make_fx``) and handed as a whole to torch's
compiler: bound, gradient, clipping, update and average become one graph in which everything but the multiplications is fused.
Recording sees through distributions, closed-form KLs and hooks, so that no part has to be written for it; a part whose Python
depends on the numbers in a tensor cannot be recorded, says so, and is trained eagerly.

Noise is drawn by the same calls in either form, so one seed gives the same step up to rounding; ``compile`` verifies that.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from taut import parallel
from taut.config import TrainingConfig
from taut.model import Model
from taut.networks import Network
from taut.objectives import Bound, Objective
from taut.parallel import Share
from taut.seeds import generator_states, set_generator_states, set_seed, untouched

__all__ = ["CannotCompileError", "Learner", "Step"]

BETAS, EPS = (0.9, 0.999), 1e-8  # AdamW's own defaults
AGREEMENT = 1e-2  # of what two steps do in either form, relative to its norm: rounding is far below, other noise far above


def _isnan(x: Tensor) -> Tensor:
    return x.ne(x)


def _nan_to_num(x: Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None) -> Tensor:
    y, most = torch.where(x.ne(x), nan or 0.0, x), torch.finfo(x.dtype).max
    for found, value in ((math.inf, most if posinf is None else posinf), (-math.inf, -most if neginf is None else neginf)):
        y = y if value == found else torch.where(x.eq(found), value, y)
    return y


# What torch's compiler computes number by number, in a form that it computes sixteen at a time.
FASTER: dict[Any, Callable[..., Any]] = {torch.ops.aten.isnan.default: _isnan, torch.ops.aten.nan_to_num.default: _nan_to_num}

# What was compiled, by model: a graph takes all tensors as arguments, and so serves every learner of a model like it.
_GRAPHS: WeakKeyDictionary[Model, dict[Any, Callable[..., Any]]] = WeakKeyDictionary()


class CannotCompileError(Exception):
    """The step of this model cannot be recorded, or the machine has no compiler; the message says why, in one line."""


class Step(nn.Module):
    """One evaluation of the objective as a module: DDP averages gradients only of what runs through ``forward``."""

    def __init__(self, model: Model, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, x: Tensor, progress: float | Tensor) -> Bound:
        return self.objective(self.model, x, None, progress)


class Learner:
    """Creates what a training changes, for a model that is trained in place.

    Args:
        model: The model.
        objective: What is maximised.
        config: Rates and sizes.
    """

    def __init__(self, model: Model, objective: Objective, config: TrainingConfig) -> None:
        self.model, self.objective, self.config = model, objective, config
        self.average = copy.deepcopy(model) if config.averaging else model
        self.module = Step(model, objective)
        self.forward: Callable[..., Bound] = self.module
        if parallel.world() > 1:
            parallel.check_divisible(model, objective)
            self.forward = parallel.wrapped(self.module)
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        self.averaged: list[Tensor] = [p for p in self.average.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trainable, lr=0.0, weight_decay=config.weight_decay, fused=True)
        for p in self.trainable:  # torch makes them in the first step; a compiled one needs them before
            moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            self.optimizer.state[p] = {"step": torch.zeros((), device=p.device), **moments}
        device = next(model.parameters()).device
        self.total = torch.zeros((), dtype=torch.float64, device=device)  # of the bounds of an interval, over its finite steps
        self.skipped = torch.zeros((), dtype=torch.float64, device=device)
        self._graph: Callable[..., Any] | None = None
        self._inputs: list[Tensor] = []

    @contextmanager
    def interval(self) -> Iterator[None]:
        """Runs a block of steps: parts in training mode, sums from zero; then the averaged model gets the model's buffers."""
        self.module.train()
        for part in self.model.children():
            if not any(p.requires_grad for p in part.parameters()):
                part.eval()  # a frozen part is seen as it will be used: no dropout, and no statistics that move
        self.total.zero_()
        self.skipped.zero_()
        self._inputs = self._tensors()
        with _networks_in(self.module, self.config.precision):
            yield
        if self._graph is not None:
            self._count_all()
        if self.average is not self.model:
            for kept, buffer in zip(self.average.buffers(), self.model.buffers(), strict=True):
                kept.copy_(buffer)

    def step(
        self, x: Tensor, rate: float, decay: float, progress: float, own: Share | None = None, micro_batches: int = 1
    ) -> None:
        r"""Takes one step on x, (B, \*event); one whose loss or gradient is not finite changes nothing and is counted.

        Args:
            x: Data.
            rate: Learning rate.
            decay: Of the running average.
            progress: Share of the training that is done.
            own: Which rows of a larger batch these are, where several processes take a step together.
            micro_batches: In how many parts the gradient of one process is computed, where memory is short; from 2 on the
                form is eager.
        """
        if self._graph is not None and micro_batches > 1:
            self._count_all()
            self._graph = None
        if self._graph is not None:
            self._graph(*self._inputs, x, _scalars(rate, decay, progress))
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
            (parallel.world() * loss).backward()  # DDP takes the mean over the ranks, and a sum is needed
            loss, value = sums().unbind()
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.trainable if p.grad is not None], foreach=True)
        finite = torch.isfinite(norm) & torch.isfinite(loss) & torch.isfinite(value)
        # The fused optimizer divides the gradient by grad_scale and leaves weights and moments alone where found_inf is 1:
        # clipping and skipping cost no synchronisation with the device.
        self.optimizer.grad_scale = (norm / self.config.clip_norm).clamp(min=1.0).float()  # type: ignore[attr-defined]
        self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        if self.average is not self.model:
            with torch.no_grad():
                torch._foreach_lerp_(self.averaged, list(self.trainable), 1 - decay)
        self.total += torch.where(finite, value, 0.0)
        self.skipped += ~finite

    def _count_all(self) -> None:
        """Tells all weights how many steps were taken: the compiled form counts in the first."""
        for p in self.trainable[1:]:
            self.optimizer.state[p]["step"].copy_(self.optimizer.state[self.trainable[0]]["step"])

    def _accumulate(self, x: Tensor, progress: float, count: int) -> tuple[Tensor, Tensor]:
        """Adds up the gradient over parts of x, each with its rows of the noise of all; returns loss and value of all."""
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
        """Goes over to the compiled form of the step, for batches like x, after taking two steps in either form on copies.

        A model is compiled once, for each objective, shape and number of threads.

        Fails:
            CannotCompileError: the step cannot be recorded or compiled, or the two forms disagree.
        """
        config = self.config
        how = (config.averaging > 0, config.clip_norm, config.weight_decay, config.precision, torch.get_num_threads())
        key = (self.objective, x.shape, tuple(p.requires_grad for p in self.model.parameters()), *how)
        known = _GRAPHS.setdefault(self.model, {})
        self.lay_out(torch.channels_last)
        if key in known:
            self._graph = known[key]
            return
        with untouched():  # and outside of an interval: each of the steps makes its own
            try:
                graph = self.record(x)
                with torch.no_grad(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of torch's compiler about itself
                    graph = torch._inductor.compile(
                        graph, [*self._tensors(), x, _scalars(0.0, 0.0, 0.0)], options=_options(x.device)
                    )
                self._verify(graph, x)
            except Exception as error:  # whatever torch's compiler says: the eager form is always there
                self.lay_out(torch.contiguous_format)
                if isinstance(error, CannotCompileError):
                    raise
                reason = str(error).strip().partition("\n")[0][:200]
                raise CannotCompileError(f"{type(error).__name__}: {reason}") from None
        self._graph = known[key] = graph

    def lay_out(self, memory_format: torch.memory_format) -> None:
        """Lays out the weights of convolutions and what is kept for each: contiguous for eager steps, channels last for compiled.

        So each form is fastest; in the compiled one Adam finds weight and gradient in one order.
        """
        states = [s for p in self.trainable for s in self.optimizer.state[p].values()]
        for tensor in (*self.trainable, *self.averaged, *states):
            if tensor.dim() == 4:
                tensor.data = tensor.data.contiguous(memory_format=memory_format)

    def record(self, x: Tensor) -> GraphModule:
        """Returns a step on batches like x as one graph of torch's elementary operations, not compiled yet.

        Fails:
            CannotCompileError: what the step does depends on the numbers in a tensor.
        """
        tensors = [*self._tensors(), x, _scalars(0.0, 0.0, 0.0)]
        try:
            with untouched(), self.interval():
                graph = make_fx(self._recorded, FASTER, tracing_mode="fake", _allow_non_fake_inputs=True)(*tensors)
        except (DataDependentOutputException, GuardOnDataDependentSymNode):
            raise CannotCompileError("a part of it depends on the numbers in a tensor") from None
        return graph

    def twin(self) -> Learner:
        """Returns a learner on a copy of the model, which steps in the same form: to try something out."""
        twin = Learner(copy.deepcopy(self.model), self.objective, self.config)
        twin._graph = self._graph
        return twin

    def _tensors(self) -> list[Tensor]:
        """Returns what a step reads and changes, in the order in which ``_recorded`` takes it apart."""
        states = [self.optimizer.state[p] for p in self.trainable]
        averaged = self.averaged if self.average is not self.model else []
        return [
            *(p.detach() for p in self.trainable),
            *(a.detach() for a in averaged),
            *(s["exp_avg"] for s in states),
            *(s["exp_avg_sq"] for s in states),
            *(s["step"] for s in states[:1]),
            *(t.detach() for t in self._fixed().values()),
            self.total,
            self.skipped,
        ]

    def _fixed(self) -> dict[str, Tensor]:
        """Returns frozen parameters and buffers, by name."""
        frozen = {n: p for n, p in self.module.named_parameters() if not p.requires_grad}
        return frozen | dict(self.module.named_buffers())

    def _recorded(self, *tensors: Tensor) -> None:
        """One step as operations on given tensors: what ``step`` does, AdamW (Loshchilov and Hutter, 2019) written out."""
        *rest, total, skipped, x, scalars = tensors
        count = len(self.trainable)
        groups = [rest[i * count : (i + 1) * count] for i in range(4 if self.average is not self.model else 3)]
        weights, *averaged, first, second = groups
        steps, *fixed = rest[len(groups) * count :]
        names = [n for n, p in self.module.named_parameters() if p.requires_grad]
        leaves = [w.detach().requires_grad_() for w in weights]
        given = dict(zip(names, leaves, strict=True)) | dict(zip(self._fixed(), fixed, strict=True))
        rate, decay, progress = scalars.unbind()
        bound: Bound = functional_call(self.module, given, (x, progress))
        loss, value = -bound.surrogate.mean(), bound.value.mean()
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(loss, leaves, allow_unused=True)
        with torch.no_grad():
            there = [g for g in gradients if g is not None]
            norm = torch.stack([g.square().sum() for g in there]).sum().sqrt()
            finite = torch.isfinite(norm) & torch.isfinite(loss) & torch.isfinite(value)
            clip = (norm / self.config.clip_norm).clamp(min=1.0).float()  # as the fused optimizer wants it
            taken = steps + finite
            correction1, correction2 = (1 - beta ** taken.double() for beta in BETAS)
            kept = 1 - rate * self.config.weight_decay
            numbers = 1 / clip.double(), 1 / correction2.sqrt(), rate / correction1, kept, finite.double(), 1 - decay
            factors = torch.stack(numbers)  # computed once a step: a bare scalar is worked out anew for every 16 elements
            for w, m, v, g in zip(weights, first, second, gradients, strict=True):
                if g is None:  # as in torch's own: a weight without a gradient stays
                    continue
                unclip, unbias, size, kept, valid, _ = factors.to(w.dtype).unbind()
                g = g * unclip
                new_m, new_v = torch.lerp(m, g, 1 - BETAS[0]), BETAS[1] * v + (1 - BETAS[1]) * g.square()
                new_w = w * kept - size * new_m / (new_v.sqrt() * unbias + EPS)
                for old, new in ((w, new_w), (m, new_m), (v, new_v)):
                    old.copy_(torch.where(valid > 0, new, old))
            for group in averaged:
                for a, w in zip(group, weights, strict=True):
                    a.add_((w - a) * factors[-1].to(w.dtype))
            steps.copy_(taken)
            total += torch.where(finite, value, 0.0)
            skipped += ~finite

    def _verify(self, graph: Callable[..., Any], x: Tensor) -> None:
        """Takes the same step in both forms on copies, from the same noise, and compares what it did to the weights."""
        trials = [self.twin(), self.twin()]
        trials[1]._graph = graph
        for trial in trials:
            with trial.interval():
                for seed, progress in ((1, 0.0), (2, 0.7)):
                    set_seed(seed)
                    trial.step(x, 1e-3, 0.9, progress)
        # The moments are linear in the gradients; in the update a rounding can turn the sign where a gradient is nearly zero.
        eager, compiled = ([trial.optimizer.state[w]["exp_avg"] for w in trial.trainable] for trial in trials)
        apart = [e - c for e, c in zip(eager, compiled, strict=True)]
        kept = [[*trial.trainable, *trial.averaged] for trial in trials]
        weights = [w - v for w, v in zip(*kept, strict=True)]
        moved = [w - v for w, v in zip(kept[0], [*self.trainable, *self.averaged], strict=True)]
        off = [_norm(apart) / _norm(eager), _norm(weights) / _norm(moved)]
        bounds = [float(trial.total) for trial in trials]
        if not (all(each <= AGREEMENT for each in off) and math.isclose(*bounds, rel_tol=AGREEMENT)):
            raise CannotCompileError(
                f"the compiled step is not the eager one (bounds {bounds[0]:.6g}, {bounds[1]:.6g}; "
                f"gradients apart by {off[0]:.1g}, weights by {off[1]:.1g})"
            )


@contextmanager
def _networks_in(module: nn.Module, precision: str) -> Iterator[None]:
    """Computes the networks in a precision for a block; what they return, and so the bound, is in torch's default one."""
    low = precision == "bfloat16"
    networks = [m for m in module.modules() if isinstance(m, Network)] if low else []
    for network in networks:
        network.forward = partial(_in_bfloat16, network.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for network in networks:
            del network.forward  # what the class has


def _in_bfloat16(forward: Callable[..., Tensor], x: Tensor, *rest: Any) -> Tensor:
    with torch.autocast(x.device.type, torch.bfloat16):
        return forward(x, *rest).to(torch.get_default_dtype())


def _scalars(rate: float, decay: float, progress: float) -> Tensor:
    return torch.tensor([rate, decay, progress], dtype=torch.float64)


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.nn.utils.get_total_norm(tensors))


def _options(device: torch.device) -> dict[str, Any]:
    # Noise from torch's own generators, as in the eager form; on a processor the calls between kernels are compiled too.
    return {"fallback_random": True} | ({"cpp_wrapper": True} if device.type == "cpu" else {"triton.cudagraphs": True})
