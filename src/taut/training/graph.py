"""The compiled form of a step: recorded as operations on tensors, compiled by torch, and compared
with the eager form.

The step is recorded once, by running it on tensors without content (``make_fx``), and compiled as a
whole: bound, gradient, clipping, update and average become one graph in which everything but the
multiplications is fused. Of several processes each has two graphs, bound and gradient in the one
and the update in the other, between which gradients are added up over the ranks. Recording sees
through distributions, closed-form KLs and hooks, so that no part has to be written for it; a part
whose Python depends on the numbers in a tensor cannot be recorded, says so, and is trained eagerly.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from taut.objectives import Bound
from taut.system import parallel, signals
from taut.system.parallel import Share
from taut.system.seeds import set_seed, untouched

if TYPE_CHECKING:
    from taut.training.step import Learner

__all__ = ["CannotCompileError", "Graph", "compiled", "record", "scalars"]

BETAS, EPS = (0.9, 0.999), 1e-8  # AdamW's own defaults
# Largest difference between what two steps do in either form, relative to its norm: rounding is far
# below, other noise far above.
AGREEMENT = 1e-2

Graph = Callable[..., Any]  # one step on all the tensors that it reads and changes
Gradients = Sequence[Tensor | None]  # of each weight; None where the loss does not depend on it


class CannotCompileError(Exception):
    """The step of this model cannot be recorded, or the machine has no compiler.

    The message says why, in one line.
    """


def _isnan(x: Tensor) -> Tensor:
    return x.ne(x)


def _nan_to_num(
    x: Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    most = torch.finfo(x.dtype).max
    y = torch.where(x.ne(x), nan or 0.0, x)
    for found, given, usual in ((math.inf, posinf, most), (-math.inf, neginf, -most)):
        value = usual if given is None else given
        if value != found:
            y = torch.where(x.eq(found), value, y)
    return y


# What torch's compiler computes number by number, in a form that it computes sixteen at a time.
FASTER: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.isnan.default: _isnan,
    torch.ops.aten.nan_to_num.default: _nan_to_num,
}


def compiled(learner: Learner, x: Tensor) -> Graph:
    """Returns the compiled step of a learner, after comparing it with the eager one.

    The ranks succeed or fail together.

    Args:
        learner: It is not changed.
        x: A batch; where there are several processes, all of its rows.

    Raises:
        CannotCompileError: the step cannot be recorded or compiled, or the two forms disagree.
    """
    failed: Exception | None = None
    graph: Graph | None = None
    # Called outside an interval: recording and comparing each open their own.
    with untouched(), _quiet(), warnings.catch_warnings():
        # The compiler warns about itself, and DDP about weights that are channels last.
        warnings.simplefilter("ignore")
        try:
            graph = record(learner, x, _compile)
        except Exception as error:  # whatever torch's compiler raises: the eager form remains
            signals.check()
            failed = error
        try:
            if parallel.agreed(graph is None):
                raise failed or CannotCompileError("another process cannot")
            assert graph is not None
            _verify(learner, graph, x)
        except CannotCompileError:
            raise
        except Exception as error:
            signals.check()
            reason = str(error).strip().partition("\n")[0][:200]
            raise CannotCompileError(f"{type(error).__name__}: {reason}") from None
    return graph


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps from the terminal what torch's compiler logs about itself, such as a slower call."""
    logger = logging.getLogger("torch._inductor")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def record(
    learner: Learner,
    x: Tensor,
    finished: Callable[[GraphModule, list[Tensor]], Graph] | None = None,
) -> Graph:
    """Returns a step on batches like x as a graph of torch's elementary operations.

    Of several processes each has two graphs, with a sum over the ranks between them.

    Args:
        learner: It is not changed.
        x: A batch; where there are several processes, all of its rows.
        finished: Compiles a graph, given arguments to try it on; by default the graph is returned
            as recorded.

    Raises:
        CannotCompileError: the course of the step depends on the numbers in a tensor.
    """

    def traced(function: Callable[..., Any], *arguments: Tensor) -> Graph:
        recorder = make_fx(function, FASTER, tracing_mode="fake", _allow_non_fake_inputs=True)
        try:
            with untouched(), learner.interval():
                graph = recorder(*arguments)
        except (DataDependentOutputException, GuardOnDataDependentSymNode):
            raise CannotCompileError("a part of it depends on the numbers in a tensor") from None
        return graph if finished is None else finished(graph, list(arguments))

    own, tensors, numbers = parallel.divided(len(x)), learner.tensors(), scalars(0.0, 0.0, 0.0)
    if own is None:

        def whole(*given: Tensor) -> None:
            _update(learner, given, *_differentiated(learner, given))

        return traced(whole, *tensors, x, numbers)

    arguments = [*tensors, own.of(x), numbers]
    # Of the gradients that the loss has, by the number of their weight; known once recorded.
    shapes: dict[int, torch.Size] = {}

    def differentiate(*given: Tensor) -> Tensor:
        loss, value, gradients = _differentiated(learner, given, own)
        present = {i: g for i, g in enumerate(gradients) if g is not None}
        shapes.update({i: g.shape for i, g in present.items()})
        return torch.cat([part.flatten() for part in (loss, value, *present.values())])

    def update(summed: Tensor, *given: Tensor) -> None:
        sizes = [shape.numel() for shape in shapes.values()]
        loss, value, *pieces = summed.split([1, 1, *sizes])
        gradients: list[Tensor | None] = [None] * len(learner.trainable)
        for (i, shape), piece in zip(shapes.items(), pieces, strict=True):
            gradients[i] = piece.view(shape)
        _update(learner, given, loss[0], value[0], gradients)

    first = traced(differentiate, *arguments)
    with torch.no_grad():
        second = traced(update, first(*(each.clone() for each in arguments)), *arguments)
    return lambda *given: second(parallel.sum_over_ranks(first(*given))(), *given)


def scalars(rate: float, decay: float, progress: float) -> Tensor:
    """Returns the numbers that change from step to step, as a graph takes them."""
    return torch.tensor([rate, decay, progress], dtype=torch.float64)


def _taken_apart(
    learner: Learner, tensors: Sequence[Tensor]
) -> tuple[list[Sequence[Tensor]], Tensor, Sequence[Tensor]]:
    """Returns the tensors of a step in three parts.

    First a group each for weights, running averages (where they are kept) and both moments, then
    the number of steps, then everything that follows.
    """
    count = len(learner.trainable)
    kinds = 3 + (learner.average is not learner.model)
    steps, *rest = tensors[kinds * count :]
    return [tensors[i * count : (i + 1) * count] for i in range(kinds)], steps, rest


def _differentiated(
    learner: Learner, tensors: Sequence[Tensor], own: Share | None = None
) -> tuple[Tensor, Tensor, Gradients]:
    """Returns loss, value and the gradients of the loss at given tensors; where rows are shared,
    this process's part of each.
    """
    groups, _, (*fixed, _, _, x, numbers) = _taken_apart(learner, tensors)
    names = [n for n, p in learner.module.named_parameters() if p.requires_grad]
    leaves = [w.detach().requires_grad_() for w in groups[0]]
    given = dict(zip(names, leaves, strict=True)) | dict(zip(learner.fixed(), fixed, strict=True))
    mean = torch.mean if own is None else own.mean
    with nullcontext() if own is None else own.noise(learner.objective.num_samples):
        bound: Bound = functional_call(learner.module, given, (x, numbers[2]))
    loss, value = -mean(bound.surrogate), mean(bound.value)
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    return loss.detach(), value.detach(), gradients


@torch.no_grad()
def _update(
    learner: Learner, tensors: Sequence[Tensor], loss: Tensor, value: Tensor, gradients: Gradients
) -> None:
    """Changes given tensors as a step does, AdamW (Loshchilov and Hutter, 2019) written out."""
    groups, steps, rest = _taken_apart(learner, tensors)
    weights, *averaged, first, second = groups
    *_, total, skipped, _, numbers = rest
    rate, decay, _ = numbers.unbind()
    norm = torch.stack([g.square().sum() for g in gradients if g is not None]).sum().sqrt()
    finite = torch.isfinite(norm) & torch.isfinite(loss) & torch.isfinite(value)
    # float32, as the fused optimizer has it
    clip = (norm / learner.config.clip_norm).clamp(min=1.0).float()
    taken = steps + finite
    correction1, correction2 = (1 - beta ** taken.double() for beta in BETAS)

    def at(own: Tensor) -> Tensor:
        """Returns the numbers of a step at a learning rate. They are stacked, so that they are
        computed once a step: a bare scalar is computed again for every 16 elements.
        """
        sizes = (own / correction1, 1 - own * learner.config.weight_decay)
        per_step = (1 / clip.double(), 1 / correction2.sqrt(), *sizes, finite.double(), 1 - decay)
        return torch.stack(per_step)

    factors = {share: at(share * rate) for share in {1.0, *learner.shares}}
    every = zip(weights, first, second, gradients, learner.shares, strict=True)
    for w, m, v, g, share in every:
        if g is None:  # a weight without a gradient stays, as in torch's own AdamW
            continue
        unclip, unbias, size, kept, valid, _ = factors[share].to(w.dtype).unbind()
        g = g * unclip
        new_m, new_v = torch.lerp(m, g, 1 - BETAS[0]), BETAS[1] * v + (1 - BETAS[1]) * g.square()
        new_w = w * kept - size * new_m / (new_v.sqrt() * unbias + EPS)
        for old, new in ((w, new_w), (m, new_m), (v, new_v)):
            old.copy_(torch.where(valid > 0, new, old))
    for group in averaged:
        for a, w in zip(group, weights, strict=True):
            a.add_((w - a) * factors[1.0][-1].to(w.dtype))
    steps.copy_(taken)
    total += torch.where(finite, value, 0.0)
    skipped += ~finite


def _compile(graph: GraphModule, arguments: list[Any]) -> Graph:
    options = {"fallback_random": True}  # noise from torch's own generators, as in the eager form
    if arguments[0].device.type == "cpu":
        options["cpp_wrapper"] = True  # the calls between kernels are compiled too
    else:
        options["triton.cudagraphs"] = True
    with torch.no_grad():
        return torch._inductor.compile(graph, arguments, options=options)


def _verify(learner: Learner, graph: Graph, x: Tensor) -> None:
    """Takes the same steps in both forms on copies, with the same noise, and compares how they
    changed the weights.
    """
    own = parallel.divided(len(x))
    if own is not None:
        x = own.of(x)
    trials = [learner.twin(), learner.twin(graph)]
    for trial in trials:
        with trial.interval():
            for seed, progress in ((1, 0.0), (2, 0.7)):
                set_seed(seed)
                trial.step(x, 1e-3, 0.9, progress, own)
    # The moments are linear in the gradients; in the update a rounding can turn the sign where a
    # gradient is nearly zero.
    eager, other = (trial.moments("exp_avg") for trial in trials)
    apart = [e - c for e, c in zip(eager, other, strict=True)]
    kept = [[*trial.trainable, *trial.averaged] for trial in trials]
    weights = [w - v for w, v in zip(*kept, strict=True)]
    moved = [w - v for w, v in zip(kept[0], [*learner.trainable, *learner.averaged], strict=True)]
    off = [_norm(apart) / _norm(eager), _norm(weights) / _norm(moved)]
    bounds = [float(trial.total) for trial in trials]
    if not (all(each <= AGREEMENT for each in off) and math.isclose(*bounds, rel_tol=AGREEMENT)):
        raise CannotCompileError(
            f"the compiled step is not the eager one (bounds {bounds[0]:.6g}, {bounds[1]:.6g}; "
            f"gradients apart by {off[0]:.1g}, weights by {off[1]:.1g})"
        )


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.nn.utils.get_total_norm(tensors))
