r"""What each gradient estimator costs, and how noisy it is, on one model and one batch.

An estimator is asked R times, independently, for the gradient g of its surrogate, averaged over the
batch. None of the R gradients of P elements is kept. With $\bar g_r$ the mean of the first r,

$$ t_r = \frac{r - 1}{r} \, \lVert g_r - \bar g_{r-1} \rVert^2, \qquad r = 2, \dots, R, $$

are the squares of Helmert's contrasts. Each has the total variance $V = \operatorname{tr} \Sigma$
as its mean, whatever the distribution, and their average is exactly the unbiased sample variance.
They are independent for Gaussian gradients and nearly so for others, hence the standard error of V
is $s_t / \sqrt{R - 1}$, but for a share of order $\log R / R$.

The *signal* is $U = \lVert \bar g_R \rVert^2 - V / R$, unbiased for $\lVert \mu \rVert^2$ where
$\mu = \mathbb{E} g$. Its variance is $4 \mu^\top \Sigma \mu / R + 2 \operatorname{tr} \Sigma^2 / (R
(R - 1))$. What is reported is 4 / R times the mean of $\frac{r - 1}{r} [(g_r - \bar g_{r-1})^\top
\bar g_r]^2$ with weights r. The two factors are uncorrelated, and for Gaussian gradients the result
has mean $4 \mu^\top \Sigma \mu / R + 8 \operatorname{tr} \Sigma^2 / (R (R + 2))$: right for a
signal that can be seen, and for none an error twice too large. The signal-to-noise ratio of one
gradient is $\sqrt{U / V}$.

*Bias* is looked for by comparing with another estimator of the same target. The parameters are cut
into M runs, and each is summed with fixed random signs; each sum of the mean gradient is compared
in a t-test of two samples, with the smaller of their degrees of freedom. Its t is given as a normal
deviate z by Wallace's approximation, and the largest of M judged by Bonferroni.

*Work* is variance times cost, relative to the same reference: the time to a mean of the same
precision.

References: rainforth2018, roeder2017, tucker2019, mnih2016, wallace1959.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from taut.evidence.results import Estimate, finite
from taut.model import Model, evaluating
from taut.objectives import (
    ELBO,
    IWAE,
    VIMCO,
    DReG,
    Objective,
    ScoreFunction,
    StickingTheLanding,
    StraightThrough,
)
from taut.system.defaults import never
from taut.system.seeds import generator, stream
from taut.types import Context, Data
from taut.use.blocks import some_of

__all__ = ["gradients"]

DIRECTIONS = 16  # M, sums in which a bias is looked for
SIGNIFICANT = 2.0  # standard errors that a signal must be above zero for a ratio to be given
ROUNDING = 1000.0  # units in the last place of the gradient's norm that a sum may be off by


class _Kind(NamedTuple):
    """A row of the table; the first of its target that can be had is the reference of
    the others.
    """

    name: str
    target: str
    make: Callable[[int], Objective]
    least: int = 1  # samples
    pathwise: bool = True  # does it need a posterior that can be reparameterized?


ANALYTIC = "reparameterization, analytic KL"
KINDS = (
    _Kind("reparameterization", "ELBO", lambda k: ELBO(k, analytic_kl=False)),
    _Kind(ANALYTIC, "ELBO", lambda k: ELBO(k, analytic_kl=True)),
    _Kind("sticking the landing", "ELBO", StickingTheLanding),
    _Kind(
        "score function, leave-one-out",
        "ELBO",
        lambda k: ScoreFunction(k, "leave_one_out"),
        2,
        False,
    ),
    _Kind("score function, no baseline", "ELBO", lambda k: ScoreFunction(k, "none"), 1, False),
    _Kind("IWAE", "L_K", IWAE),
    _Kind("DReG", "L_K", DReG),
    _Kind("VIMCO", "L_K", VIMCO, 2, False),
)
# of posteriors that have a relaxation
RELAXED = (_Kind("straight-through (biased)", "ELBO", StraightThrough, 1, False),)


def gradients(
    model: Model,
    x: Data,
    *,
    num_samples: int = 8,
    repeats: int = 200,
    seed: int = 0,
    context: Context | None = None,
    stop: Callable[[], bool] = never,
) -> dict[str, Any]:
    r"""Returns variance, signal, bias and cost of the gradient estimators at one batch, as plain
    values for JSON.

    The noise is that of sampling z: the batch stays the same, and the noise of drawing it comes on
    top, the same for all estimators of one target. They take turns, so that after ``stop`` there is
    a table of them all, from fewer repeats.

    Args:
        model: Any model; it is evaluated in evaluation mode. Parameters that require no gradient
            are omitted.
        x: The batch, (B, \*event).
        num_samples: K, for all of them.
        repeats: R, at least 2; with fewer than some 30 the errors themselves are rough.
        seed: The same seed gives the same numbers, times excepted.
        context: What the model is conditioned on, (B, C).
        stop: Asked before each gradient; what has been done by then is returned.

    Returns:
        ``num_samples``, ``repeats``, ``num_data``, the numbers of ``parameters`` of the "encoder"
        (posterior) and the "decoder" (likelihood and prior), and ``estimators``, a list. Each has a
        ``name``, the specification of its ``objective``, the ``target`` it maximises ("ELBO" or
        "L_K"), and either the ``reason`` why it could not be measured, or

        * ``reference``: the name of the estimator of the same target that the relative numbers are
          relative to;
        * ``repeats``: how many there were;
        * ``bound``: the target, nats per datum;
        * ``seconds``: CPU seconds of one gradient; null on an accelerator, where they would say
          little;
        * ``encoder`` and ``decoder``, null without parameters: the total ``variance`` of the
          gradient, ``relative_variance``, ``signal_to_noise``, ``work`` and ``bias``.

        A number has a ``value`` and an ``mc_error``. Where the signal is within two standard errors
        of zero the value of ``signal_to_noise`` is null and its error the ratio that a signal of
        one standard error would have. ``bias`` is null for the reference, with which the others are
        compared; else it has ``z``, the largest in absolute value, how many ``comparisons`` it is
        the largest of, and its ``p_value``.

    Raises:
        ValueError: the model has nothing to train, or there are no samples, no data,
            or fewer than two repeats.

    References: rainforth2018, roeder2017, tucker2019, mnih2016.
    """
    if num_samples < 1 or repeats < 2 or not len(x):
        numbers = f"{num_samples}, {repeats} and {len(x)}"
        raise ValueError(
            f"num_samples must be at least 1, repeats 2 and the number of data 1, not {numbers}"
        )
    groups = {
        name: [p for p in part.parameters() if p.requires_grad]
        for name, part in model.halves.items()
    }
    if not any(groups.values()):
        raise ValueError("no parameter of the model requires a gradient")
    device = next(p.device for group in groups.values() for p in group)
    x = x.to(device=device, dtype=torch.get_default_dtype())
    context = some_of(context, slice(None), device)
    sizes = {name: sum(p.numel() for p in group) for name, group in groups.items()}
    signs = {
        name: 2
        * torch.randint(2, (size,), generator=generator(seed, f"gradients, {name}")).double()
        - 1
        for name, size in sizes.items()
        if size
    }
    with evaluating(model):
        with stream(seed, "gradients"), torch.no_grad():
            reasons = _reasons(model, x, context, num_samples)
            kinds = KINDS + RELAXED if hasattr(model.encode(x, context), "relaxed") else KINDS
        runs = {k: _Run(k.make(num_samples), groups, signs) for k in kinds if k.name not in reasons}
        _repeat(runs, model, x, context, repeats, seed, stop)
    rows: list[dict[str, Any]] = []
    references: dict[str, tuple[str, _Run]] = {}
    for kind in kinds:
        run = runs.get(kind)
        row = {
            "name": kind.name,
            "objective": repr(run.objective) if run else None,
            "target": kind.target,
        }
        if run is None or run.failure:
            rows.append({**row, "reason": run.failure if run else reasons[kind.name]})
        else:
            name, reference = references.setdefault(kind.target, (kind.name, run))
            rows.append({**row, "reference": name, **run.to_dict(reference)})
    return {
        "num_samples": num_samples,
        "repeats": repeats,
        "num_data": len(x),
        "parameters": sizes,
        "estimators": rows,
    }


def _reasons(model: Model, x: Tensor, context: Tensor | None, num_samples: int) -> dict[str, str]:
    """Returns why an estimator cannot be had, by its name."""
    reasons = {
        k.name: f"needs num_samples of at least {k.least}" for k in KINDS if num_samples < k.least
    }
    if not model.encode(x, context).has_rsample:
        return reasons | {
            k.name: "needs a posterior that can be reparameterized" for k in KINDS if k.pathwise
        }
    if any(group.analytic_rate is None for group in model.draw(x, context=context).groups):
        reasons[ANALYTIC] = "the KL of these distributions has no closed form"
    return reasons


def _repeat(
    runs: Mapping[_Kind, _Run],
    model: Model,
    x: Tensor,
    context: Tensor | None,
    repeats: int,
    seed: int,
    stop: Callable[[], bool],
) -> None:
    for number in range(repeats + 1):
        for kind, run in runs.items():
            if stop():
                return
            with stream(seed, f"gradients, {kind.name}", number), torch.enable_grad():
                # The first is thrown away: what torch sets up once would count as a cost of it.
                run.add(model, x, context, keep=number > 0)


class _Run:
    """The repeats of one estimator."""

    def __init__(
        self,
        objective: Objective,
        groups: Mapping[str, list[nn.Parameter]],
        signs: Mapping[str, Tensor],
    ) -> None:
        self.objective, self.groups = objective, groups
        self.moments = {name: _Moments(s) for name, s in signs.items()}
        self.seconds: list[float] = []
        self.values: list[Tensor] = []

    def add(self, model: Model, x: Tensor, context: Tensor | None, keep: bool) -> None:
        parameters = [p for group in self.groups.values() for p in group]
        start = time.process_time()
        bound = self.objective(model, x, context)
        found = iter(
            torch.autograd.grad(
                bound.surrogate.mean(), parameters, allow_unused=True, materialize_grads=True
            )
        )
        seconds = time.process_time() - start
        if not keep:
            return
        self.seconds.append(seconds if x.device.type == "cpu" else math.nan)
        self.values.append(bound.value.cpu().double())
        for name, moments in self.moments.items():
            moments.add(
                torch.cat([next(found).flatten() for _ in self.groups[name]]).cpu().double()
            )

    @property
    def failure(self) -> str | None:
        if len(self.values) < 2:
            return "stopped"
        if not all(math.isfinite(sum(m.squares)) for m in self.moments.values()):
            return "a gradient was not finite"
        return None

    def to_dict(self, reference: _Run) -> dict[str, Any]:
        values = torch.stack(self.values)
        own, other = _mean(self.seconds), _mean(reference.seconds)
        cost = _ratio(own, other) if self is not reference else _Number(1.0, 0.0)
        unit = ROUNDING * torch.finfo(next(p for g in self.groups.values() for p in g).dtype).eps
        found: dict[str, Any] = {
            "repeats": len(values),
            "bound": Estimate.of(values.mean(0), values.std(0) / math.sqrt(len(values))).to_dict(),
            "seconds": own.to_dict(),
        }
        for name in self.groups:
            m, base = self.moments.get(name), reference.moments.get(name)
            if m is None or base is None:
                found[name] = None
                continue
            noise = _ratio(m.variance, base.variance) if m is not base else _Number(1.0, 0.0)
            found[name] = {
                "variance": m.variance.to_dict(),
                "relative_variance": noise.to_dict(),
                "signal_to_noise": m.signal_to_noise.to_dict(),
                "work": _product(noise, cost).to_dict(),
                "bias": None if m is base else _bias(m, base, unit),
            }
        return found


class _Moments:
    """The mean of independent gradients (P,) so far, and of each of them the few numbers that
    errors and tests need.
    """

    def __init__(self, signs: Tensor) -> None:
        self.signs, self.mean, self.count = signs, torch.zeros_like(signs), 0
        self.squares: list[float] = []  # t_r
        self.slopes: list[float] = []  # what estimates mu' Sigma mu
        self.sums: list[Tensor] = []  # with signs, (M,) each

    def add(self, gradient: Tensor) -> None:
        self.count += 1
        step = gradient - self.mean
        self.mean.add_(step, alpha=1 / self.count)
        if self.count > 1:
            share = (self.count - 1) / self.count
            self.squares.append(share * float(step @ step))
            self.slopes.append(share * float(step @ self.mean) ** 2)
        parts = (self.signs * gradient).tensor_split(min(DIRECTIONS, len(gradient)))
        self.sums.append(torch.stack([part.sum() for part in parts]))

    @property
    def variance(self) -> _Number:
        return _mean(self.squares)

    @property
    def signal(self) -> _Number:
        weight = torch.arange(2, self.count + 1).double()
        slope = float(weight @ torch.tensor(self.slopes).double() / weight.sum())
        return _Number(
            float(self.mean @ self.mean) - self.variance.value / self.count,
            math.sqrt(4 * slope / self.count),
        )

    @property
    def signal_to_noise(self) -> _Number:
        signal, variance = self.signal, self.variance
        if not variance.value:
            return _Number(math.nan, math.nan)
        if signal.value < SIGNIFICANT * signal.error:
            return _Number(math.nan, math.sqrt(signal.error / variance.value))
        square = _ratio(signal, variance)
        return _Number(math.sqrt(square.value), square.error / (2 * math.sqrt(square.value)))


def _bias(own: _Moments, reference: _Moments, unit: float) -> dict[str, Any]:
    """Returns the largest deviation of two means.

    One of ``unit`` of the gradient's norm is rounding, and counts as an error.
    """
    a, b = torch.stack(own.sums), torch.stack(reference.sums)
    rounding = unit * math.sqrt(float(own.mean @ own.mean) + own.variance.value)
    difference = a.mean(0) - b.mean(0)
    error = (a.var(0) / len(a) + b.var(0) / len(b) + rounding**2).sqrt()
    t = torch.where(difference == 0, 0.0, difference / error)
    freedom = min(len(a), len(b)) - 1
    z = (
        (8 * freedom + 1)
        / (8 * freedom + 3)
        * (freedom * (t.square() / freedom).log1p()).sqrt()
        * t.sign()
    )
    largest = float(z[z.abs().argmax()])
    return {
        "z": largest,
        "comparisons": len(z),
        "p_value": min(1.0, len(z) * math.erfc(abs(largest) / math.sqrt(2))),
    }


class _Number(NamedTuple):
    value: float
    error: float

    def to_dict(self) -> dict[str, float | None]:
        return Estimate(self.value, finite(self.error), None).to_dict()


def _mean(values: Sequence[float]) -> _Number:
    t = torch.tensor(values, dtype=torch.float64)
    error = math.nan
    if len(t) > 1:
        error = float(t.std()) / math.sqrt(len(t))
    return _Number(float(t.mean()), error)


def _ratio(a: _Number, b: _Number) -> _Number:
    """Returns a / b with its error to first order, as if a and b were independent."""
    if not b.value:
        return _Number(math.nan, math.nan)
    return _Number(
        a.value / b.value, math.hypot(a.error, a.value / b.value * b.error) / abs(b.value)
    )


def _product(a: _Number, b: _Number) -> _Number:
    return _Number(a.value * b.value, math.hypot(a.value * b.error, b.value * a.error))
