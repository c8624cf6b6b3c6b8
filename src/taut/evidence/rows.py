r"""log p(x) of any row, by the cheapest method that its own health calls reliable, and openly
unsure where none is.

The encoder is trained on rows like those of its training data. Of any other row it knows little:
its posterior may lie anywhere, and importance sampling from there may find nothing of p(x). Each
row therefore climbs a ladder until a method is reliable:

0. importance sampling from the encoder's posterior: ``importance``, and what the ELBO and its parts
  are measured by;
1. from the same posterior with a *defensive* half of prior samples, so that no weight exceeds $2 \,
  p(x \mid z)$;
2. from the data point's own best Gaussian, found by gradient ascent, with such a half;
3. annealing that starts from that mixture.

With discrete latent variables of few values the sum over all of them is exact and comes first
(``enumeration``). Two checks send
a row up: k-hat, and a few draws of the prior, which must not see more of p(x) than the posterior
does. The choice looks at no estimate: the largest of several lower bounds is none. A row that is
not reliable at the end has the estimate whose own error is smallest: a method that failed by
millions of nats says nothing.

The ladder has a budget: so many rows climb, those without a number and of the worst k-hat first,
and so many reach annealing. What is left of it measures rows of few effective samples again, k-hat
or not: of those the ones pass that drew no large weight, and so they are too low together.

References: owen2000, vehtari2024.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    MixtureSameFamily,
    MultivariateNormal,
    constraints,
)
from torch.nn import functional

from taut.data import Rows
from taut.data.rows import Joined
from taut.distributions.correlated import CorrelatedNormal, density, told
from taut.evidence.annealing import Path, annealing, can_move, support_of
from taut.evidence.ascent import best_members, is_real
from taut.evidence.enumeration import enumeration_blocks, states_of, too_many
from taut.evidence.importance import (
    Defensive,
    Proposal,
    importance,
    posterior_proposal,
    prior_proposal,
)
from taut.evidence.results import (
    METHODS,
    WEIGHTLESS,
    Estimate,
    Evidence,
    count_methods,
    in_parts,
    never_rows,
    no_error,
    some_rows,
)
from taut.model import Model, evaluating, frozen
from taut.models.exact import ExactModel
from taut.models.stepwise import StepwiseModel
from taut.objectives import log_mean_exp
from taut.system.defaults import silent
from taut.system.seeds import derive, generator, stream
from taut.types import Context
from taut.use.blocks import device_of, some_of

OPTIMUM, ANNEALING, DEFENSIVE, ENUMERATION, EXACT = 1, 2, 3, 4, 5
DOUBTFUL = 0.05  # share of rows without a reliable log p(x) from which on there is a warning
# of the weights of all samples, the share of a single one at the end of an ascent from which on
# samples are seldom there; and of p(x), that from which on it matters
MISSED = 0.05
SAMPLES = 2000  # of the better proposals, at least
CHECK = 256  # draws of the prior
CHECKED = 8  # latent dimensions up to which they see anything
SURPRISE = 0.1  # nats, besides two errors, by which the prior may see more than the posterior
BLOCK = 128  # rows that climb together
MAX_ELEMENTS = 2**22  # of x decoded at a time
PILOT = 500  # samples from which a Gaussian starts
ROUNDS = 8  # of matching it to weighted samples
STEPS = 150  # of an ascent
ASIDE = (2.0, 8.0)  # times as far out as the prior's scale does an ascent begin, too
REACH = 0.5  # first step of the ascent in z
FEW = 100.0  # effective samples
EVEN = 0.9  # share of the samples that is effective where weights are all alike
CHAINS = 16
TEMPERATURES = 400

__all__ = [
    "METHODS", "RowEvidence", "believed", "log_evidence", "own_gaussians", "settle",
    "settle_together",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class RowEvidence:
    """log p(x) of N rows, each by the method that its health allows; tensors are (N,), float64, in
    nats.

    Args:
        first: Importance sampling from the encoder's posterior, of all rows.
        log_evidence: log p(x); NaN or infinite where no method gave a number.
        log_evidence_error: Its Monte Carlo standard error.
        method: Number of the method in ``METHODS``.
        reliable: Whether the estimate and its error can be believed.
    """

    first: Evidence
    log_evidence: Tensor
    log_evidence_error: Tensor
    method: Tensor
    reliable: Tensor

    def of(self, rows: Tensor) -> RowEvidence:
        """Returns the same of some rows."""
        tensors = (self.log_evidence, self.log_evidence_error, self.method, self.reliable)
        return RowEvidence(self.first.of(rows), *(values[rows] for values in tensors))

    @property
    def methods(self) -> list[str]:
        """The name of each row's method; ``none`` for a row without a number."""
        return [
            METHODS[m] if known else "none"
            for m, known in zip(self.method.tolist(), self.known.tolist(), strict=True)
        ]

    @property
    def known(self) -> Tensor:
        """Whether there is a number."""
        return self.log_evidence.isfinite()

    @property
    def never(self) -> Tensor:
        """Whether the model gives it no probability: minus infinity is its number, exactly."""
        return self.reliable & (self.log_evidence == -torch.inf)

    @property
    def order(self) -> Tensor:
        """The rows from the least likely one on; those without a number come first."""
        return torch.where(self.known, self.log_evidence, -torch.inf).argsort(stable=True)

    @property
    def gap(self) -> Tensor:
        """The inference gap, log p(x) - ELBO."""
        found = self.log_evidence - self.first.elbo
        return torch.full_like(found, torch.nan) if self.first.weightless else found

    @property
    def gap_error(self) -> Tensor:
        """Monte Carlo standard error of the gap: of the first method both share their samples."""
        apart = torch.hypot(self.log_evidence_error, self.first.elbo_error)
        return torch.where(self.method == 0, self.first.gap_error, apart)

    @property
    def warnings(self) -> list[str]:
        """What keeps the numbers from being believed, a line each."""
        n, first = len(self.method), self.first
        doubtful = int((~self.reliable & self.known).sum())
        lines = []
        if first.weightless:
            lines.append(WEIGHTLESS)
        elif first.num_samples == 1:
            lines.append(
                "one sample: log p(x) is the ELBO itself and no Monte Carlo error is known; use "
                "more samples"
            )
        elif doubtful and bool(first.khat.isnan().all()):
            lines.append(
                f"{first.num_samples} samples are too few to tell by k-hat if log p(x) and its "
                f"error can be believed"
            )
        elif doubtful >= DOUBTFUL * n:
            lines.append(
                f"log p(x) is probably too low for {doubtful} of {n} rows, and its error too "
                f"small: {first.num_samples} samples do not suffice"
            )
        if bool(self.never.any()):
            lines.append(never_rows(self.never))
        if not bool((self.known | self.never).all()):
            lines.append(some_rows(~(self.known | self.never)))
        elif not bool((first.elbo.isfinite() | self.never).all()):
            lines.append(some_rows(~(first.elbo.isfinite() | self.never), "ELBO"))
        return lines + no_error(self.log_evidence_error[self.known], first.num_samples)

    def impossible(self, rows: Sequence[int]) -> RowEvidence:
        """Returns the same, but that some rows hold a value of no probability.

        Minus infinity is their log p(x), exactly.
        """
        index, never = (
            torch.tensor(rows, dtype=torch.long),
            torch.tensor(-torch.inf, dtype=torch.float64),
        )
        first = replace(
            self.first,
            **{
                n: getattr(self.first, n).index_fill(0, index, never)
                for n in ("log_evidence", "elbo")
            },
        )
        reliable = self.reliable.index_fill(0, index, True)
        return replace(
            self,
            first=first,
            log_evidence=self.log_evidence.index_fill(0, index, never),
            reliable=reliable,
        )

    def _how(self) -> str:
        if bool((self.method == EXACT).all()):
            return "exact: z is summed or integrated out in closed form"
        return "importance sampling; where it fails, better proposals and annealing"

    def to_dict(self, groups: Tensor | None = None) -> dict[str, Any]:
        """Returns the summary as plain values for JSON.

        That of the first method with log p(x) by the best; see ``Evidence``.
        """
        share = self.first.khat.isnan().all()
        return {
            **self.first.to_dict(groups),
            "method": self._how(),
            "log_evidence": Estimate.of(
                self.log_evidence, self.log_evidence_error, groups
            ).to_dict(),
            "inference_gap": Estimate.of(self.gap, self.gap_error, groups).to_dict(),
            "by": {
                name: count
                for name, count in count_methods(self.method, self.known).items()
                if count
            },
            "reliable_share": None if bool(share) else float(self.reliable.double().mean()),
            "warnings": self.warnings,
        }


def log_evidence(
    model: Model,
    x: Rows,
    num_samples: int = 500,
    *,
    context: Context | None = None,
    seed: int = 0,
    climbing: int = 1000,
    annealed: int = 100,
) -> RowEvidence:
    r"""Returns log p(x) of each data point, by the best method that it needs.

    Args:
        model: Any model.
        x: Data, (N, \*event).
        num_samples: K of the first method.
        context: What the model is conditioned on, (N, C).
        seed: The same seed gives the same numbers.
        climbing: Rows that climb, at most.
        annealed: Rows that reach annealing, at most.
    """
    first = importance(model, x, num_samples, context=context, seed=seed)
    return settle(model, x, first, context=context, seed=seed, climbing=climbing, annealed=annealed)


def settle(
    model: Model,
    x: Rows,
    first: Evidence,
    *,
    context: Context | None = None,
    seed: int = 0,
    climbing: int = 1000,
    annealed: int = 100,
    advance: Callable[[int, int], None] = silent,
) -> RowEvidence:
    r"""Returns log p(x) of each data point, given what importance sampling from the posterior says.

    Args:
        model: Any model.
        x: Data, (N, \*event).
        first: Their ``importance``.
        context: What the model is conditioned on, (N, C).
        seed: The same seed gives the same numbers.
        climbing: Rows that climb, at most.
        annealed: Rows that reach annealing, at most.
        advance: Told how many more of the climbing rows are done, and how many climb.
    """
    if isinstance(model, ExactModel):
        value, error = first.log_evidence, first.log_evidence_error
        known = torch.ones_like(value, dtype=torch.bool)
        return RowEvidence(
            first, value, error, torch.full_like(known, EXACT, dtype=torch.long), known
        )
    if isinstance(model, StepwiseModel):  # no other proposal would serve
        value, error = first.log_evidence, first.log_evidence_error
        by = torch.zeros(len(value), dtype=torch.long)
        return RowEvidence(first, value, error, by, first.reliable & value.isfinite())
    ladder = _Ladder(model, x, first, context, derive(seed, "rows"))
    with torch.no_grad(), evaluating(model), frozen(model):
        ladder.climb(climbing, annealed, advance)
    return RowEvidence(first, ladder.value, ladder.error, ladder.method, ladder.reliable)


def settle_together(
    model: Model,
    parts: Sequence[Rows],
    firsts: Sequence[Evidence],
    *,
    seed: int = 0,
    climbing: int = 1000,
    annealed: int = 100,
    advance: Callable[[int, int], None] = silent,
) -> list[RowEvidence]:
    r"""Returns log p(x) of each data point of several parts, which share the budget: how a row is
    measured does not depend on the part that it is of.

    So the rank of a row of one part among the rows of another keeps its rate. If each part had a
    budget of its own, a part of many rows would have fewer of them measured well, and look less
    likely than a part of few.

    Args:
        model: Any model.
        parts: Data, (N, \*event) each.
        firsts: Their ``importance``.
        seed: The same seed gives the same numbers.
        climbing: Rows that climb, at most, of all parts.
        annealed: Rows that reach annealing, at most, of all parts.
        advance: Told how many more of the climbing rows are done, and how many climb.
    """
    sizes = [len(part) for part in parts]
    options: dict[str, Any] = {"climbing": climbing, "annealed": annealed, "advance": advance}
    if len(parts) == 1:
        return [settle(model, parts[0], firsts[0], seed=seed, **options)]
    # Of rows that need it alike the first climb: no part may come first.
    order = torch.randperm(sum(sizes), generator=generator(seed, "together"))
    first, x = Evidence.concatenate(firsts).of(order), Joined(parts, order)
    rows = settle(model, x, first, seed=seed, **options)
    return [rows.of(own) for own in order.argsort().split(sizes)]


def believed(model: Model, x: Rows, first: Evidence, *, seed: int = 0) -> Tensor:
    r"""Returns which rows' importance sampling can be believed, (N,): by its weights, and because a
    few draws of the prior see no more of p(x).

    Args:
        model: Any model.
        x: Data, (N, \*event).
        first: Their ``importance``.
        seed: The same seed gives the same answer.
    """
    ladder = _Ladder(model, x, first, None, derive(seed, "rows"))
    with torch.no_grad(), evaluating(model), frozen(model):
        if ladder.prior().event_shape.numel() <= CHECKED:
            ladder.check()
    return ladder.reliable


def own_gaussians(model: Model, x: Rows, *, seed: int = 0) -> Distribution | None:
    r"""Returns a Gaussian close to p(z|x) of each row, batch shape (N,), wherever it lies; None
    where z is bounded, or in so many dimensions that looking about would find nothing.

    Args:
        model: Any model.
        x: Data, (N, \*event).
        seed: The same seed gives the same Gaussians.
    """
    search = _Search(model, x, None)
    with torch.no_grad(), evaluating(model), frozen(model):
        prior = search.prior()
        if not is_real(support_of(prior)) or prior.event_shape.numel() > CHECKED:
            return None
        best = search.best(torch.arange(len(x)), derive(seed, "own Gaussians"))
    return CorrelatedNormal(best.loc, scale_tril=best.factor, validate_args=False)


class _Search:
    """Where p(z|x) of each row lies."""

    def __init__(self, model: Model, x: Rows, context: Tensor | None) -> None:
        self.model, self.x, self.context = model, x, context
        self.device = device_of(model)

    def given(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns rows and their context, on the model's device."""
        here = rows.to(self.x.device) if isinstance(self.x, Tensor) else rows
        x = self.x[here].to(device=self.device, dtype=torch.get_default_dtype())
        return x, some_of(self.context, rows, self.device)

    def prior(self) -> Distribution:
        """The prior, of the first row where there is a context."""
        x, context = self.given(torch.arange(1))
        return self.model.latent_prior(self.model.split(x, context)[1])

    def defended(self, proposal: Proposal) -> Proposal:
        prior = prior_proposal(self.model)
        return lambda here, x, context: Defensive(
            proposal(here, x, context), prior(here, x, context)
        )

    def best(self, rows: Tensor, seed: int) -> _Own:
        """Returns a Gaussian close to p(z|x) of each row.

        First modes are looked for, from what is best of draws from the posterior and the prior, and
        from both sides of it; then samples around them are weighted and matched by a Gaussian, and
        its samples again, until enough of them carry the weight. In many dimensions weighted
        samples say too little, and the bound is followed by its gradient from the highest mode.
        """
        x, context = self.given(rows)
        with stream(seed, "best"):
            start = self.defended(posterior_proposal(self.model))
            pilot = start(slice(None), x, context)
            assert isinstance(pilot, Defensive)
            prior, (z, log_r) = pilot.prior, told(pilot, PILOT)
            z = z.to(x.dtype)
            log_joint = self.weights(x, context, log_r, z) + log_r.cpu().double()
            best = log_joint.argmax(0).to(z.device)[None, :, None].expand(1, *z.shape[1:])
            drawn = prior.sample(torch.Size((100,)))
            centre, unit = drawn.mean(0), drawn.std(0)
            way = torch.randn(len(ASIDE), *unit.shape, device=z.device).to(z)
            far = torch.tensor(ASIDE, device=z.device).to(z)[:, None, None]
            aside = far * unit * functional.normalize(way, dim=-1) * unit.shape[-1] ** 0.5
            starts = torch.cat([z.gather(0, best), centre + aside, centre - aside])
            ends, height = self.ascend(x, context, prior, starts)
            factor = torch.diag_embed(unit)
            if ends.shape[-1] > CHECKED:
                top = height.argmax(0)
                loc = ends[top, torch.arange(len(top), device=top.device)]
                normal = CorrelatedNormal(loc, scale_tril=factor, validate_args=False)
                return _Own(*_fitted(self.model, x, context, normal), ends, height, unit)
            around = MultivariateNormal(
                ends.transpose(0, 1), scale_tril=factor[:, None], validate_args=False
            )
            even = Categorical(logits=torch.zeros_like(height.T), validate_args=False)
            proposal: Distribution = MixtureSameFamily(even, around, validate_args=False)
            for _ in range(ROUNDS):
                pilot = Defensive(proposal, prior, 0.2)
                z, log_r = told(pilot, PILOT)
                z = z.to(x.dtype)
                mean, covariance, arrived = _moments(
                    z.cpu().double(), self.weights(x, context, log_r, z)
                )
                loc, factor = mean.to(z), torch.linalg.cholesky(covariance).to(z)
                proposal = MultivariateNormal(loc, scale_tril=factor, validate_args=False)
                if arrived:
                    break
        return _Own(loc, factor, ends, height, unit)

    def weights(self, x: Tensor, context: Tensor | None, log_r: Tensor, z: Tensor) -> Tensor:
        """Returns the log-weights of samples z (K, B, D) of a density r; one that is no number is
        none.
        """
        log_weight = self.model.log_joint(z, x, context) - log_r
        return log_weight.cpu().double().nan_to_num(-torch.inf)

    def ascend(
        self, x: Tensor, context: Tensor | None, prior: Distribution, z: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns where log p(x, z) is large, uphill from z, (S, B, D), and how large it is, (S,
        B).
        """
        path, z = Path(self.model, x, context, prior), z.clone()
        optimizer = torch.optim.Adam([z], lr=REACH)
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = REACH * (1 - step / STEPS)
            z.grad = -path.at(z).grad_joint.nan_to_num(0.0, 0.0, 0.0)
            optimizer.step()
        return z, path.at(z).log_joint.nan_to_num(-torch.inf)


class _Ladder(_Search):
    """What is known of each row so far, and the methods."""

    def __init__(
        self, model: Model, x: Rows, first: Evidence, context: Tensor | None, seed: int
    ) -> None:
        super().__init__(model, x, context)
        self.first, self.seed = first, seed
        self.num_samples = max(SAMPLES, first.num_samples)
        self.value, self.error = first.log_evidence.clone(), first.log_evidence_error.clone()
        self.method = torch.zeros(len(self.value), dtype=torch.long)
        self.reliable = first.reliable & first.log_evidence.isfinite()

    def climb(self, climbing: int, annealed: int, advance: Callable[[int, int], None]) -> None:
        prior = self.prior()
        support, self.latent_dim = support_of(prior), prior.event_shape.numel()
        if not too_many(states_of(prior), len(self.value), self.x[:1].numel()):
            self.enumerate()
            return
        if self.latent_dim <= CHECKED:
            self.check()
        rows = self.doubtful()[:climbing]
        states = (self.value, self.error, self.method, self.reliable)
        before = [state.clone() for state in states]
        self.reliable[rows] = False  # to be measured again
        size = max(1, min(BLOCK, MAX_ELEMENTS // max(1, self.x[:1].numel()) // PILOT))
        for number, some in enumerate(in_parts(rows, size)):
            annealed -= self.lift(some, annealed, support, derive(self.seed, "ladder", number))
            advance(len(some), len(rows))
        kept = before[-1] & ~self.reliable  # believed before, and nothing better was found
        for state, was in zip(states, before, strict=True):
            state[kept] = was[kept]

    def doubtful(self) -> Tensor:
        """The rows that climb, those that need it most first."""
        number = self.value.isfinite()
        # So few samples were asked for that nothing can be said of them: only what has no number
        # climbs.
        if bool(self.first.khat.isnan().all()):
            return (~number).nonzero()[:, 0]
        badness = torch.where(number, self.first.khat.nan_to_num(torch.inf), torch.inf)
        rows = badness.argsort(descending=True, stable=True)
        # Of rows with few effective samples those pass whose largest weights did not happen to be
        # drawn: they are too low together, by more than each alone would show.
        enough = min(FEW, EVEN * self.first.num_samples)  # all alike is no luck
        few = self.reliable & (self.first.ess < enough)
        lucky = rows[few[rows]]
        return torch.cat([rows[~self.reliable[rows]], lucky[self.first.ess[lucky].argsort()]])

    def lift(
        self, rows: Tensor, annealed: int, support: constraints.Constraint | None, seed: int
    ) -> int:
        """Takes a block of rows up, and returns how many of them reached annealing."""
        proposal, best = posterior_proposal(self.model), None
        if is_real(support) and self.latent_dim <= CHECKED:
            best = self.best(rows, seed)
        left = self.sample(rows, proposal, DEFENSIVE, seed, best)
        if is_real(support) and len(left):
            best = self.best(left, seed) if best is None else best.of(torch.isin(rows, left))
            rows = left
            left = self.sample(rows, best.proposal, OPTIMUM, seed, best)
            proposal = best.of(torch.isin(rows, left)).proposal
        rows = left[:annealed]
        if not len(rows) or not can_move(support):
            return 0
        x, context = self.given(rows)
        start = self.defended(proposal)
        found = annealing(
            self.model,
            x,
            CHAINS,
            start=start,
            max_temperatures=TEMPERATURES,
            context=context,
            seed=seed,
        )
        self.take(rows, ANNEALING, found.log_evidence, found.log_evidence_error, found.reliable)
        return len(rows)

    def take(
        self, rows: Tensor, method: int, value: Tensor, error: Tensor, reliable: Tensor
    ) -> None:
        """Takes what a method says of rows, where it is a number that can be believed, or one with
        a smaller error than what is there.
        """
        before = self.error[rows].nan_to_num(torch.inf)
        before[~self.value[rows].isfinite()] = torch.inf
        known = value.isfinite() & (reliable | (error <= before))
        rows, value, error, reliable = rows[known], value[known], error[known], reliable[known]
        self.value[rows], self.error[rows], self.reliable[rows], self.method[rows] = (
            value,
            error,
            reliable,
            method,
        )

    def sample(
        self, rows: Tensor, proposal: Proposal, method: int, seed: int, best: _Own | None
    ) -> Tensor:
        """Tries a proposal with a defensive share of prior samples, and returns the rows that it
        leaves: those whose weights say so, and in few dimensions those that are high where it
        seldom looks.
        """
        x, context = self.given(rows)
        seed = derive(seed, METHODS[method])
        found = importance(
            self.model,
            x,
            self.num_samples,
            context=context,
            seed=seed,
            proposal=self.defended(proposal),
        )
        reliable = found.reliable
        if best is not None and self.latent_dim <= CHECKED:
            with stream(seed, "covered"):
                r = self.defended(proposal)(slice(None), x, context)
                weight = best.height.cpu().double() - density(r, best.ends, x.dtype).cpu().double()
            much = found.log_evidence + math.log(MISSED)
            seldom = weight > much + math.log(self.num_samples)
            reliable = reliable & ~(seldom & (best.mass.cpu().double() > much)).any(0)
        self.take(rows, method, found.log_evidence, found.log_evidence_error, reliable)
        return rows[~self.reliable[rows]]

    def check(self) -> None:
        """Doubts the rows of which a few draws of the prior see more than the posterior does.

        It lies elsewhere.
        """
        for first in range(0, len(self.value), BLOCK):
            rows = torch.arange(first, min(first + BLOCK, len(self.value)))
            x, context = self.given(rows)
            with stream(self.seed, "check", first // BLOCK):
                prior = prior_proposal(self.model)(slice(None), x, context)
                z, log_r = told(prior, CHECK)
                log_weight = self.weights(x, context, log_r, z.to(x.dtype))
            seen = log_mean_exp(log_weight)
            error = (log_weight - seen).exp().std(0) / CHECK**0.5
            allowed = SURPRISE + 2 * torch.hypot(self.error[rows], error)
            more = seen > self.value[rows] + allowed
            # equal weights are better evidence
            self.reliable[rows] &= ~more | torch.isneginf(self.first.khat[rows])

    def enumerate(self) -> None:
        """Sums over all values of z."""
        first = 0
        for found in enumeration_blocks(self.model, self.x, context=self.context):
            rows = torch.arange(first, first + len(found.elbo))
            known = torch.ones_like(rows, dtype=torch.bool)
            self.take(rows, ENUMERATION, found.log_evidence, found.error, known)
            first += len(rows)


class _Own(NamedTuple):
    """What is known of p(z|x) of each row: mean and factor of a Gaussian, (B, D) and (B, D, D),
    where ascents ended, (S, B, D), log p(x, z) there, (S, B), and the scale of the prior, (B, D).
    """

    loc: Tensor
    factor: Tensor
    ends: Tensor
    height: Tensor
    unit: Tensor

    @property
    def mass(self) -> Tensor:
        """The most that p(x) has about each end, (S, B), if it is no wider there than the prior."""
        volume = self.unit.log().sum(-1) + 0.5 * self.unit.shape[-1] * math.log(2 * math.pi)
        return self.height + volume

    def of(self, rows: Tensor) -> _Own:
        """Returns the same of some rows."""
        here = rows.to(self.loc.device)
        ends, height = self.ends[:, here], self.height[:, here]
        return _Own(self.loc[here], self.factor[here], ends, height, self.unit[here])

    @property
    def proposal(self) -> Proposal:
        """The Gaussian, with wide copies."""
        return _gaussian(self.loc, self.factor)


def _gaussian(loc: Tensor, factor: Tensor) -> Proposal:
    """Returns Gaussians as a proposal, a third of each three times as wide.

    A posterior may be longer than its Gaussian.
    """

    def proposal(here: slice, x: Tensor, context: Tensor | None) -> Distribution:
        own, wide = (
            MultivariateNormal(loc[here], scale_tril=c * factor[here], validate_args=False)
            for c in (1, 3)
        )
        return Defensive(own, wide, 1 / 3)

    return proposal


def _fitted(
    model: Model, x: Tensor, context: Tensor | None, start: CorrelatedNormal
) -> tuple[Tensor, Tensor]:
    best = best_members(model, x, context, [start], STEPS, 8).q
    assert isinstance(best, MultivariateNormal)
    return best.mean, best.scale_tril


def _moments(z: Tensor, log_weight: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Returns mean and covariance of weighted samples (K, B, D), of weights to a power at which
    enough samples count.

    And whether enough of them count without.
    """
    log_weight = torch.where(log_weight.isfinite().any(0), log_weight, 0.0)
    power = torch.ones_like(log_weight[0])
    few = max(20.0, 2.0 * z.shape[-1])
    for _ in range(60):
        share = (power * log_weight).softmax(0)
        power = torch.where(1 / share.square().sum(0) < few, 0.7 * power, power)
    share = (power * log_weight).softmax(0)
    loc = (share[..., None] * z).sum(0)
    apart = z - loc
    covariance = torch.einsum("kb,kbi,kbj->bij", share, apart, apart)
    unit = covariance.diagonal(dim1=-2, dim2=-1).mean(-1) + 1e-8
    return (
        loc,
        1.2 * covariance + 1e-3 * torch.diag_embed(unit[:, None].expand_as(loc)),
        bool((power == 1).all()),
    )
