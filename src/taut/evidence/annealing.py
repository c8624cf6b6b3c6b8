r"""Annealed importance sampling (AIS) with Hamiltonian Monte Carlo: log p(x) where no single
proposal is good enough.

A path of unnormalised densities leads from a normalised start r(z), the posterior $q(z \mid x)$ or
the prior, to the joint density:

$$ \log f_\beta(z) = (1 - \beta) \log r(z) + \beta \log p(x, z),
   \qquad U(z) = \log p(x, z) - \log r(z). $$

A chain starts with $z_0 \sim r$ and moves at each temperature $0 = \beta_0 < \dots < \beta_T = 1$
by a transition that leaves $f_{\beta_t}$ invariant; $\log w = \sum_t (\beta_t - \beta_{t-1}) \,
U(z_{t-1})$ then has $\mathbb{E}[w] = p(x)$ exactly, however short the chains are, so $\log \frac1C
\sum_c w_c$ is a lower bound of log p(x) in expectation. With T = 1 it is importance sampling.

*The reverse* starts from an exact draw of p(z|x), walks back, and gives an upper bound in
expectation, $-\log \frac1C \sum_c 1/w_c$. Exact draws exist for data that the model itself made, z
first and then x. Both directions on such data are a
*sandwich*: its width bounds the error of the estimator on this model.

Invariance holds only for a transition that does not look at its chain's past. Hence the step size,
the mass matrix and the schedule are chosen in a *pilot run* with noise of its own, never in the run
that yields the weights. The pilot measures the thermodynamic length $\Lambda = \int_0^1
\sqrt{\mathrm{Var}_\beta[U]} \, d\beta$; temperatures equally spaced in it are the best schedule,
and for chains that mix well $\mathrm{Var}[\log w] \approx \Lambda^2 / T$, from which follows the T
that is needed.

References: neal2001, grosse2015, wu2017, gelman1998, chatterjee2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    biject_to,
    constraints,
)

from taut.distributions.correlated import CorrelatedNormal, density, told
from taut.evidence.importance import Defensive, Proposal, in_nats
from taut.evidence.results import Estimate
from taut.model import Model, evaluating, frozen
from taut.objectives import log_mean_exp
from taut.system.counting import check_count
from taut.system.memory import Chunks
from taut.system.precision import home, wide
from taut.system.seeds import derive, stream
from taut.types import Context, Data
from taut.use.blocks import Block, blocks_of, some_of
from taut.use.door import takes_model_and_data

__all__ = [
    "Annealed", "Path", "Plan", "annealing", "annealing_blocks", "can_move", "pilot", "rows_for",
    "simulate", "support_of", "transition",
]  # fmt: skip

ACCEPTANCE = 0.8  # aimed at by the pilot
LEAPFROG = 4  # steps of a transition
PILOT_TRANSITIONS = 6  # at each temperature of the pilot
PILOT_STEP = 0.7  # thermodynamic length between the temperatures of the pilot
PILOT_LIMIT = 100  # temperatures of the pilot
VARIANCE = 0.1  # aimed at for log w of a chain, by the number of temperatures
PILOT_CHAINS = 8  # at least, so that their variance means something
ROWS = 1600  # chains x data that move together
MAX_ELEMENTS = 2**21  # of x in them
SIMULATED = 256  # data made at a time
NORMAL = 1.959964  # 97.5 % quantile of the normal distribution
CHECKED, COARSE = 100, 0.1  # samples whose density is solved for, and nats that it may be off
SPREAD = 0.5  # variance of log w of a data point's chains up to which they agree


@dataclass(frozen=True, eq=False)
class Annealed:
    r"""What C chains say about log p(x) of each of N data; tensors are (N,), float64, in nats.

    Args:
        num_chains: C.
        direction: "lower bound in expectation" or, in reverse, "upper bound in expectation".
        log_evidence: The estimate of log p(x).
        log_evidence_error: Its Monte Carlo standard error, such that 1.96 of it are a 95 %
            interval; NaN for one chain. In reverse the chains of a data point share their start,
            which it does not see: there only the scatter over data is an honest error.
        ess: Effective number of chains, between 1 and C.
        spread: Variance of log w over the chains.
        acceptance: Share of the proposals that were accepted, in the mean over temperatures.
        num_temperatures: T.
        length: Thermodynamic length $\Lambda$ that the pilot found.
    """

    num_chains: int
    direction: str
    log_evidence: Tensor
    log_evidence_error: Tensor
    ess: Tensor
    spread: Tensor
    acceptance: Tensor
    num_temperatures: Tensor
    length: Tensor

    @classmethod
    def concatenate(cls, parts: list[Annealed]) -> Annealed:
        """Returns the estimates of several blocks of data as one."""
        names = [f.name for f in fields(cls) if f.name not in ("num_chains", "direction")]
        return cls(
            parts[0].num_chains,
            parts[0].direction,
            *(torch.cat([getattr(p, name) for p in parts]) for name in names),
        )

    @property
    def reliable(self) -> Tensor:
        """Whether the estimate of each data point can be believed, (N,): its chains agree, and they
        moved.

        They agree if the variance of their log w is at most one half. The ESS is no ground: it is
        large by chance just where the one large weight was missed.
        """
        return (self.spread <= SPREAD) & (self.acceptance > 0.3) & (self.num_chains > 3)

    @property
    def warnings(self) -> list[str]:
        """What keeps the numbers from being believed, a line each."""
        doubtful = int((~self.reliable).sum())
        if not doubtful:
            return []
        return [
            f"annealing: the chains of {doubtful} of {len(self.ess)} rows disagree, or hardly moved"
        ]

    def to_dict(self) -> dict[str, Any]:
        """Returns the summary as plain values for JSON."""
        errors = self.log_evidence_error if self.direction.startswith("lower") else None
        return {
            "method": "annealed importance sampling with Hamiltonian Monte Carlo",
            "direction": self.direction,
            "unit": "nats per datum",
            "num_data": len(self.ess),
            "num_chains": self.num_chains,
            "num_temperatures": float(self.num_temperatures.double().mean()),
            "log_evidence": Estimate.of(self.log_evidence, errors).to_dict(),
            "ess": {"mean": float(self.ess.mean()), "smallest": float(self.ess.min())},
            "acceptance": float(self.acceptance.mean()),
            "thermodynamic_length": float(self.length.mean()),
            "reliable_share": float(self.reliable.double().mean()),
            "warnings": self.warnings,
        }


@takes_model_and_data("taut.annealing", "audit()")
def annealing(
    model: Model,
    x: Data,
    num_chains: int = 16,
    *,
    start: str | Proposal = "posterior",
    exact: Tensor | None = None,
    max_temperatures: int = 1000,
    context: Context | None = None,
    seed: int = 0,
) -> Annealed:
    r"""Returns the annealed estimate of log p(x) for each data point.

    Args:
        model: A model with continuous latent variables; it is evaluated in evaluation mode.
        x: Data, (N, \*event).
        num_chains: C, for each data point.
        start: r(z): "posterior", "prior", or a proposal. For a posterior whose density costs D
            passes it is the Gaussian of its mean and variances.
        exact: One exact draw of p(z|x) for each data point, (N, D), from ``simulate``: the chains
            then run in reverse.
        max_temperatures: Largest T, if the pilot asks for more.
        context: What the model is conditioned on, (N, C).
        seed: The same seed gives the same numbers.

    Raises:
        ValueError: the latent variables are discrete, so that nothing can flow along their
            gradient.
    """
    blocks = annealing_blocks(
        model,
        x,
        num_chains,
        start=start,
        exact=exact,
        max_temperatures=max_temperatures,
        context=context,
        seed=seed,
    )
    return Annealed.concatenate(list(blocks))


def annealing_blocks(
    model: Model,
    x: Data,
    num_chains: int = 16,
    *,
    start: str | Proposal = "posterior",
    exact: Tensor | None = None,
    max_temperatures: int = 1000,
    context: Context | None = None,
    seed: int = 0,
) -> Iterator[Annealed]:
    """Yields the estimates of one block of data after the other, for those who show progress or
    stop early.
    """
    num_chains = check_count("num_chains", num_chains)
    max_temperatures = check_count("max_temperatures", max_temperatures)
    if not len(x):
        raise ValueError("the number of data points must be at least 1, not 0")
    if isinstance(start, str) and start not in ("posterior", "prior"):
        raise ValueError(f"unknown start {start!r}: 'posterior' or 'prior'")
    rows = rows_for(x, num_chains)

    def estimate(block: Block) -> Annealed:
        number, here, part, c = block
        z = some_of(exact, here, part.device)
        direction = "forward" if z is None else "reverse"
        with frozen(model):
            with stream(seed, "pilot", number):
                r = start if isinstance(start, str) else start(here, part, c)
                path = Path(model, part, c, r)
                plan = pilot(path, num_chains, max_temperatures)
            with stream(derive(seed, "annealing"), direction, number):
                return _run(path, plan, num_chains, z)

    yield from blocks_of(model, x, rows, estimate, context=context)


def rows_for(x: Data, num_chains: int) -> int:
    """Returns how many rows move together."""
    most = min(ROWS, MAX_ELEMENTS // max(1, x[0].numel()))
    return max(1, most // max(num_chains, PILOT_CHAINS))


def support_of(distribution: Distribution) -> constraints.Constraint | None:
    """Returns where a distribution lives; a mixture lives where its components do."""
    support = distribution.support
    while isinstance(support, constraints.MixtureSameFamilyConstraint):
        support = support.base_constraint
    return support


def simulate(
    model: Model, num_data: int, *, context: Context | None = None, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Returns z, (N, D), drawn from the prior and x drawn from p(x|z): each z is an exact draw of
    the posterior of its x.

    Args:
        model: The model.
        num_data: N.
        context: What the model is conditioned on, (N, C).
        seed: The same seed gives the same data.
    """
    with torch.no_grad(), evaluating(model), stream(seed, "simulate"):
        prior = model.latent_prior(context)
        z = prior.sample(torch.Size(() if prior.batch_shape else (num_data,)))
        x = []
        for first in range(0, len(z), SIMULATED):
            rows = slice(first, first + SIMULATED)
            decoded = model.decode(z[rows][None], some_of(context, rows))
            x.append(decoded.sample()[0])
    return z, torch.cat(x)


class _Point(NamedTuple):
    """Where the chains are.

    U, unconstrained, (C, B, D), the log-densities of start and joint there and their gradients.
    """

    u: Tensor
    log_start: Tensor
    log_joint: Tensor
    grad_start: Tensor
    grad_joint: Tensor

    def log_density(self, beta: float) -> Tensor:
        return (1 - beta) * self.log_start + beta * self.log_joint

    def gradient(self, beta: float) -> Tensor:
        return (1 - beta) * self.grad_start + beta * self.grad_joint

    @property
    def energy(self) -> Tensor:
        """U, (C, B)."""
        return self.log_joint - self.log_start


class Path:
    """The densities between start and joint for a block of data, over unconstrained u with z =
    T(u).
    """

    def __init__(
        self, model: Model, x: Tensor, context: Tensor | None, start: str | Distribution
    ) -> None:
        whole = (x, context)
        x, context = model.split(x, context)
        self.prior = model.latent_prior(context)
        support = support_of(self.prior)
        if support is not None and support.is_discrete:
            raise ValueError(
                f"annealing needs continuous latent variables: the prior "
                f"{type(self.prior).__name__} is discrete, and "
                "Hamiltonian Monte Carlo follows a gradient in z; importance sampling works for it"
            )
        self.decode: Callable[[Tensor], Distribution] = lambda z: model.decode(z, context)
        self.x = x
        if isinstance(start, str):
            start = _fast(model.encode(*whole)) if start == "posterior" else self.prior
        self.start = _told_by_z(start)
        if not self.start.batch_shape:
            self.start = self.start.expand(torch.Size((len(x),)))
        self.transform = _unconstrained(support)
        self.chunks = Chunks(ROWS)  # of chains

    def draw(self, num_chains: int) -> _Point:
        return self.at(self.transform.inv(self.start.sample(torch.Size((num_chains,)))))

    def at(self, u: Tensor) -> _Point:
        """Returns a point with its densities and gradients: one pass through the
        decoder and back.
        """
        parts = list(self.chunks(len(u), lambda own: self._at(own.of(u))))
        if len(parts) == 1:
            return parts[0]
        return _Point(*map(torch.cat, zip(*parts, strict=True)))

    def _at(self, u: Tensor) -> _Point:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            z = self.transform(u)
            jacobian = self.transform.log_abs_det_jacobian(u, z)
            if jacobian.dim() == u.dim():
                jacobian = jacobian.sum(-1)
            log_start = self.start.log_prob(z) + jacobian
            log_joint = self.decode(z).log_prob(self.x) + self.prior.log_prob(z) + jacobian
            (grad_start,) = torch.autograd.grad(log_start.sum(), u, retain_graph=True)
            (grad_joint,) = torch.autograd.grad(log_joint.sum(), u)
        return _Point(u.detach(), log_start.detach(), log_joint.detach(), grad_start, grad_joint)


def _fast(q: Distribution) -> Distribution:
    """Returns the posterior, or the Gaussian of its mean and variances where its density costs a
    pass for each dimension: chains ask for it at every step.
    """
    if not getattr(q, "slow_density", False):
        return q
    normal = Normal(q.mean.detach(), q.stddev.detach(), validate_args=False)
    return Independent(normal, 1, validate_args=False)


def _told_by_z(r: Distribution) -> Distribution:
    """Returns a start whose density at a z that is given is right, as chains ask for it.

    The noise of a Gaussian that is far from round cannot be solved for: it is replaced by that of
    its mean and variances, as the start of these rows.
    """
    if isinstance(r, Defensive):
        return Defensive(_told_by_z(r.base), _told_by_z(r.prior), r.share)
    if not isinstance(r, MultivariateNormal):
        return r
    z, log_r = told(r, CHECKED)
    wrong = (density(r, z.to(r.loc.dtype), r.loc.dtype) - log_r).abs().amax(0)
    round_ = torch.diag_embed(r.stddev)
    lower = torch.where((wrong < COARSE)[..., None, None], r.scale_tril, round_)
    return CorrelatedNormal(r.loc, scale_tril=lower, validate_args=False)


def can_move(support: constraints.Constraint | None) -> bool:
    """Returns whether chains can move within a support."""
    if support is not None and support.is_discrete:
        return False
    try:
        _unconstrained(support)
    except ValueError:
        return False
    return True


def _unconstrained(support: constraints.Constraint | None) -> Any:
    """Returns the transform from unconstrained u to z.

    A prior that does not say where it lives is taken to live everywhere.
    """
    if support is None:
        return biject_to(constraints.real_vector)
    try:
        return biject_to(support)
    except NotImplementedError:
        raise ValueError(
            f"annealing knows no way to move within the support of the prior, {support}"
        ) from None


class Plan(NamedTuple):
    """What the pilot chose.

    For each temperature above zero its beta, the step sizes, (B,), and the scales of u, (B, D).
    """

    betas: list[float]
    steps: list[Tensor]
    scales: list[Tensor]
    length: float


def transition(
    path: Path, point: _Point, beta: float, step: Tensor, scale: Tensor
) -> tuple[_Point, Tensor]:
    """Returns the chains after one Hamiltonian transition that leaves f_beta invariant, and who
    accepted, (C, B).
    """
    # jitter: no trajectory is periodic
    size = (step * (0.8 + 0.4 * torch.rand_like(point.log_joint)))[..., None]
    momentum = torch.randn_like(point.u)
    start = point.log_density(beta) - 0.5 * momentum.square().sum(-1)
    new, left = point, torch.zeros_like(point.log_joint, dtype=torch.bool)
    for _ in range(LEAPFROG):
        momentum = momentum + 0.5 * size * scale * new.gradient(beta)
        u = new.u + size * scale * momentum
        left |= ~u.isfinite().all(-1)
        new = path.at(torch.where(left[..., None], point.u, u))
        momentum = momentum + 0.5 * size * scale * new.gradient(beta)
    log_ratio = new.log_density(beta) - 0.5 * momentum.square().sum(-1) - start
    # A trajectory that left the numbers is rejected; the comparison is false for NaN.
    accepted = (torch.rand_like(log_ratio).log() < log_ratio) & ~left
    return _choose(accepted, new, point), accepted


def _choose(accepted: Tensor, new: _Point, old: _Point) -> _Point:
    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(accepted if a.dim() == accepted.dim() else accepted[..., None], a, b)

    return _Point(*(pick(a, b) for a, b in zip(new, old, strict=True)))


def pilot(path: Path, num_chains: int, max_temperatures: int, end: float = 1.0) -> Plan:
    """Walks from start to joint in steps of about equal thermodynamic length, adapting the
    transitions on the way.

    Args:
        path: The densities.
        num_chains: Chains that walk, 8 at least.
        max_temperatures: Most temperatures of the plan.
        end: The last beta; more than 1 goes beyond the joint.
    """
    point = path.draw(max(num_chains, PILOT_CHAINS))
    scale = path.transform.inv(path.start.sample(torch.Size((100,)))).std(0)
    step = torch.full(
        (point.u.shape[1],),
        0.5 * point.u.shape[-1] ** -0.25,
        dtype=point.u.dtype,
        device=point.u.device,
    )
    betas, lengths, steps, scales = [0.0], [0.0], [step], [scale]
    while betas[-1] < end:
        speed = _speed(point)
        last = len(betas) >= PILOT_LIMIT or not betas[-1] + PILOT_STEP / max(speed, 1e-12) < end
        beta = end
        if not last:
            beta = betas[-1] + PILOT_STEP / speed
        visited = []
        for _ in range(PILOT_TRANSITIONS):
            point, accepted = transition(path, point, beta, step, scale)
            step = step * (0.5 * (accepted.to(step).mean(0) - ACCEPTANCE)).exp()
            visited.append(point.u)
        scale = _scale(torch.cat(visited[PILOT_TRANSITIONS // 2 :]))
        after = _speed(point)
        lengths.append(lengths[-1] + (beta - betas[-1]) * 0.5 * (speed + after))
        betas.append(beta)
        steps.append(step)
        scales.append(scale)
    return _plan(betas, lengths, steps, scales, max_temperatures)


def _speed(point: _Point) -> float:
    """Returns the standard deviation of U, of the data where it is a number.

    One wild data point does not decide for all.
    """
    variance = point.energy.var(0)
    known = variance[variance.isfinite()]
    if not len(known):
        return 0.0
    return float(known.mean().sqrt())


def _scale(u: Tensor) -> Tensor:
    """Returns the scale of each dimension for each data point, (B, D), from (S, B, D).

    Own variances drawn toward the common.
    """
    own, common = u.var(0), u.var(0).mean(0)
    return (0.5 * own + 0.5 * common).sqrt()


def _plan(
    betas: list[float], lengths: list[float], steps: list[Tensor], scales: list[Tensor], limit: int
) -> Plan:
    """Returns temperatures at equal steps of thermodynamic length, with the pilot's transitions
    interpolated.
    """
    length = lengths[-1]
    number = max(1, min(limit, math.ceil(length**2 / VARIANCE)))
    chosen: list[tuple[float, Tensor, Tensor]] = []
    i = 1
    for t in range(1, number + 1):
        target = length * t / number
        while i < len(betas) - 1 and lengths[i] < target:
            i += 1
        width = lengths[i] - lengths[i - 1]
        share = 1.0
        if width > 0:
            share = min(1.0, (target - lengths[i - 1]) / width)
        beta = betas[i - 1] + share * (betas[i] - betas[i - 1])
        if t == number:
            beta = betas[-1]
        chosen.append(
            (
                beta,
                torch.lerp(steps[i - 1], steps[i], share),
                torch.lerp(scales[i - 1], scales[i], share),
            )
        )
    return Plan([c[0] for c in chosen], [c[1] for c in chosen], [c[2] for c in chosen], length)


def _run(path: Path, plan: Plan, num_chains: int, exact: Tensor | None) -> Annealed:
    """Returns the estimate of the chains that run with a plan.

    Forward from the start, or back from exact draws.
    """
    size = (num_chains, len(path.x))
    log_w, acceptance = (
        torch.zeros(size, dtype=torch.float64, device=home(path.x.device)) for _ in range(2)
    )
    temperatures = list(
        zip([0.0, *plan.betas[:-1]], plan.betas, plan.steps, plan.scales, strict=True)
    )
    direction, sign = "lower", 1
    if exact is None:
        point = path.draw(num_chains)
        for before, beta, step, scale in temperatures:
            log_w += (beta - before) * wide(point.energy)
            if beta < 1:
                point, accepted = transition(path, point, beta, step, scale)
                acceptance += wide(accepted)
    else:
        direction, sign = "upper", -1
        point = path.at(path.transform.inv(exact).expand(num_chains, -1, -1))
        for before, beta, step, scale in reversed(temperatures):
            point, accepted = transition(path, point, beta, step, scale)
            acceptance += wide(accepted)
            log_w += (beta - before) * wide(point.energy)
    log_mean = log_mean_exp(sign * log_w)
    share = (sign * log_w - log_mean).exp() / num_chains
    spread = torch.full_like(log_mean, math.nan)
    if num_chains > 1:
        spread = log_w.var(0)
    error = _error(num_chains * share, spread)
    moves = len(temperatures) - (exact is None)
    like = accepted_share = torch.ones_like(log_mean)
    if moves:
        accepted_share = acceptance.mean(0) / moves
    return Annealed(
        num_chains,
        f"{direction} bound in expectation",
        (sign * log_mean).cpu(),
        error.cpu(),
        (1 / share.square().sum(0)).cpu(),
        spread.cpu(),
        accepted_share.cpu(),
        (len(temperatures) * like).cpu(),
        (plan.length * like).cpu(),
    )


def _error(weight: Tensor, spread: Tensor) -> Tensor:
    r"""Returns the standard error of the log of a mean of C weights, given relative to it, (C, B).

    It is the larger of the delta method's and that of a log-normal with the variance of log w: few
    chains seldom hold the large weights that make the first one right. And it is widened so that
    1.96 of it are the 95 % of Student's t with C - 1 degrees. Chains that disagree by many nats
    tell only its order of magnitude (``in_nats``).
    """
    chains = len(weight)
    if chains < 2:
        return torch.full_like(spread, math.nan)
    error = torch.maximum(weight.var(0), torch.expm1(spread)).div(chains).sqrt()
    return in_nats(error * _student(chains - 1) / NORMAL)


def _student(df: int) -> float:
    """Returns the 97.5 % quantile of Student's t, by its expansion in 1 / df."""
    z, n = NORMAL, df
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3
