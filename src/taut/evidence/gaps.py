r"""Why a bound is loose: inference gap = approximation gap + amortization gap.

For one data point let $\mathcal{L}[q] = \mathbb{E}_q[\log p(x, z) - \log q(z)] = \log p(x) -
\mathrm{KL}(q \,\|\, p(z \mid x))$ and let $q^*$ be the best member of the posterior's own family
*for this data point*, found by gradient ascent on its own parameters. Then

$$ \underbrace{\log p(x) - \mathcal{L}[q]}_{\text{inference}} =
   \underbrace{\log p(x) - \mathcal{L}[q^*]}_{\text{approximation: the family}} +
   \underbrace{\mathcal{L}[q^*] - \mathcal{L}[q]}_{\text{amortization: the encoder}} $$

and the best Gaussian with a full covariance says how much of the approximation gap a richer family
would close. How they are found is in ``taut.evidence.ascent``. An optimum that is not quite reached
moves nats from the amortization to the approximation
gap: which data did not arrive, and how much the last block of steps still gained, is reported
    beside it.

References: cremer2018.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from taut.distributions.correlated import CorrelatedNormal
from taut.evidence.annealing import Annealed
from taut.evidence.ascent import Best, best_members, check_family, members, starts
from taut.evidence.importance import Proposal, importance
from taut.evidence.results import Estimate, Evidence, count_methods, in_html
from taut.model import Model, evaluating, frozen
from taut.system.seeds import derive, stream
from taut.types import Context, Data, PerDatum
from taut.use.blocks import Block, blocks_of, device_of, some_of

__all__ = [
    "Gaps",
    "Optima",
    "best_evidence",
    "decompose",
    "latent_dim_of",
    "optima_blocks",
]

DATA = 100  # fitted together
MAX_ELEMENTS = 2**21  # of x decoded at a time, and half of those of the covariances


class Optima(NamedTuple):
    """The best posterior of each data point: what importance sampling with it as proposal says, and
    whether it was reached.

    Args:
        own: Within the family of the model's posterior.
        full: Among Gaussians with full covariance; None where the family itself is that, or where
            they were not looked for.
        rise: What the last block of steps still gained, for the family and for the Gaussians, (N,
            2), nats.
        arrived: Whether that is nothing, to ``ascent.TOLERANCE`` and with its error, (N, 2).
    """

    own: Evidence
    full: Evidence | None
    rise: Tensor
    arrived: Tensor


@dataclass(frozen=True, eq=False)
class Gaps:
    """The gaps of N data, (N,) each, in nats, with Monte Carlo standard errors.

    Args:
        log_evidence: log p(x) by the method named for each data point.
        log_evidence_error: Its error.
        method: Its number in ``results.METHODS``.
        reliable: Whether the chosen estimate is reliable by its own health.
        elbo: L[q], the encoder's.
        elbo_error: Its error.
        elbo_best: L[q*], the best within the family.
        elbo_best_error: Its error.
        elbo_full: L of the best Gaussian with full covariance; None where the family is that.
        elbo_full_error: Its error.
        rise: See ``Optima``.
        arrived: Likewise.
    """

    log_evidence: Tensor
    log_evidence_error: Tensor
    method: Tensor
    reliable: Tensor
    elbo: Tensor
    elbo_error: Tensor
    elbo_best: Tensor
    elbo_best_error: Tensor
    elbo_full: Tensor | None
    elbo_full_error: Tensor | None
    rise: Tensor
    arrived: Tensor

    def summary(self, groups: Tensor | None = None) -> dict[str, Estimate]:
        """Returns the means over the data with paired errors, by name.

        For ``groups`` see ``Estimate.of``.
        """

        def difference(a: Tensor, a_error: Tensor, b: Tensor, b_error: Tensor) -> Estimate:
            return Estimate.of(a - b, (a_error.square() + b_error.square()).sqrt(), groups)

        log_p, elbo = (self.log_evidence, self.log_evidence_error), (self.elbo, self.elbo_error)
        best = (self.elbo_best, self.elbo_best_error)
        result = {
            "log_evidence": Estimate.of(*log_p, groups),
            "elbo": Estimate.of(*elbo, groups),
            "elbo_best": Estimate.of(*best, groups),
            "inference_gap": difference(*log_p, *elbo),
            "approximation_gap": difference(*log_p, *best),
            "amortization_gap": difference(*best, *elbo),
        }
        if self.elbo_full is not None and self.elbo_full_error is not None:
            result["elbo_full"] = Estimate.of(self.elbo_full, self.elbo_full_error, groups)
            result["full_covariance_gain"] = difference(self.elbo_full, self.elbo_full_error, *best)
        return result

    @property
    def warnings(self) -> list[str]:
        """What keeps the numbers from being believed, a line each."""
        lines = []
        doubtful = int((~self.reliable).sum())
        if doubtful:
            lines.append(
                f"for {doubtful} of {len(self.reliable)} rows no estimate of log p(x) is "
                f"reliable: a lower bound in expectation stands for it, and the approximation gap "
                f"is at least what is said, in expectation"
            )
        away = int((~self.arrived).any(1).sum())
        if away:
            lines.append(
                f"the best posterior of {away} of {len(self.arrived)} rows was not quite "
                f"reached: their amortization gap is at least what is said, and their "
                f"approximation gap at most"
            )
        return lines

    def to_dict(self, groups: Tensor | None = None) -> dict[str, Any]:
        """Returns the summary as plain values for JSON."""
        return {
            "num_data": len(self.elbo),
            **{name: estimate.to_dict() for name, estimate in self.summary(groups).items()},
            "log_evidence_by": count_methods(self.method, self.log_evidence.isfinite()),
            "reliable_share": float(self.reliable.double().mean()),
            "rise": {
                "family": float(self.rise[:, 0].mean()),
                "full_covariance": float(self.rise[:, 1].mean()),
            },
            "arrived_share": float(self.arrived.all(1).double().mean()),
            "warnings": self.warnings,
        }

    def _repr_html_(self) -> str:
        return in_html(f"Gaps of {len(self.elbo)} rows", self.summary(), self.warnings)


def optima_blocks(
    model: Model,
    x: Data,
    *,
    steps: int = 200,
    num_samples: int = 8,
    evaluation_samples: int = 1000,
    full: bool = True,
    context: Context | None = None,
    seed: int = 0,
) -> Iterator[Optima]:
    r"""Yields the best posteriors of one block of data after the other.

    Args:
        model: A model whose posterior can be reparameterized.
        x: Data, (N, \*event).
        steps: Steps of Adam in two blocks; a data point that arrives needs one or two, one that
            does not up to ``ascent.BLOCKS``.
        num_samples: Samples of a step for each data point.
        evaluation_samples: K of the evaluation with fresh samples afterwards.
        full: Whether the best Gaussians with full covariance are looked for, too:
            nearly half of the work. The best members of the family are the same without them.
        context: What the model is conditioned on, (N, C).
        seed: The same seed gives the same numbers.

    Raises:
        ValueError: the posterior cannot be reparameterized, or its family cannot be read off its
            distribution.
    """
    latent_dim = latent_dim_of(model, x, context)
    rows = min(
        DATA,
        MAX_ELEMENTS // (num_samples * max(1, x[0].numel())),
        2 * MAX_ELEMENTS // latent_dim**2,
    )

    def optima(block: Block) -> Optima:
        number, _, part, c = block
        with stream(seed, "optimum", number), frozen(model):
            q, prior = model.encode(part, c), model.latent_prior(model.split(part, c)[1])
            check_family(q)
            own_starts, full_starts = starts(model, part, c, q, prior, num_samples)
            own = best_members(model, part, c, own_starts, steps, num_samples)
            wide = None
            if full and full_starts and not isinstance(q, MultivariateNormal):
                scale = torch.diag_embed(own.q.stddev)
                widened = CorrelatedNormal(own.q.mean, scale_tril=scale, validate_args=False)
                candidates = [*full_starts, widened]
                wide = best_members(model, part, c, candidates, steps, num_samples)

        def measured(best: Best, name: str) -> Evidence:
            own_seed, proposal = derive(seed, name, number), _rows_of(best)
            return importance(
                model, part, evaluation_samples, context=c, seed=own_seed, proposal=proposal
            )

        both = (own, wide or own)
        return Optima(
            measured(own, "own"),
            None if wide is None else measured(wide, "full"),
            torch.stack([best.rise for best in both], 1),
            torch.stack([best.arrived for best in both], 1),
        )

    yield from blocks_of(model, x, max(1, rows), optima, context=context)


def latent_dim_of(model: Model, x: Data, context: Context | None = None) -> int:
    """Returns D."""
    device = device_of(model)
    one = x[:1].to(device=device, dtype=torch.get_default_dtype())
    with torch.no_grad(), evaluating(model):
        q = model.encode(one, some_of(context, slice(1), device))
    return q.event_shape.numel()


def best_evidence(
    candidates: Sequence[tuple[int | Tensor, PerDatum, PerDatum, Tensor]],
) -> tuple[PerDatum, PerDatum, Tensor, Tensor]:
    """Returns for each data point the first reliable estimate of log p(x), its error, its method
    and whether it is reliable.

    Where none is reliable the first one that is a number stands. The choice looks at no estimate
    and at no error: the smallest error belongs to the sample that missed the large weights, and the
    largest of several lower bounds is none.

    Args:
        candidates: (method, estimates, errors, whether reliable) in the order of preference, with
            (N,) each.
    """
    method = torch.stack([torch.as_tensor(c[0]).expand(len(c[1])) for c in candidates])
    values, errors, reliable = (
        torch.stack(column) for column in list(zip(*candidates, strict=True))[1:]
    )
    known = values.isfinite()
    reliable = reliable & known
    chosen = (known.int() + reliable.int()).argmax(0, keepdim=True)  # of equal ones the first
    value, error, method = (column.gather(0, chosen)[0] for column in (values, errors, method))
    return value, error, method, reliable.any(0)


def decompose(evidence: Evidence, annealed: Annealed | None, optima: list[Optima]) -> Gaps:
    """Returns the gaps of the first data, as many as there are optima for.

    Args:
        evidence: Importance sampling from the encoder's posterior.
        annealed: Annealing, of at least as many data, where there is one.
        optima: Blocks of best posteriors.
    """
    own = Evidence.concatenate([o.own for o in optima])
    fulls = [o.full for o in optima if o.full is not None]
    full = Evidence.concatenate(fulls) if fulls else None
    n, proposal = len(own.elbo), full or own
    candidates = []
    if annealed is not None and len(annealed.ess) >= n:
        candidates.append(
            (2, annealed.log_evidence[:n], annealed.log_evidence_error[:n], annealed.reliable[:n])
        )
    candidates += [
        (1, proposal.log_evidence, proposal.log_evidence_error, proposal.reliable),
        (0, evidence.log_evidence[:n], evidence.log_evidence_error[:n], evidence.reliable[:n]),
    ]
    return Gaps(
        *best_evidence(candidates),
        evidence.elbo[:n],
        evidence.elbo_error[:n],
        own.elbo,
        own.elbo_error,
        None if full is None else full.elbo,
        None if full is None else full.elbo_error,
        torch.cat([o.rise for o in optima]),
        torch.cat([o.arrived for o in optima]),
    )


def _rows_of(best: Best) -> Proposal:
    """Returns the best members as a proposal."""

    def proposal(rows: slice, x: Data, context: Context | None) -> Distribution:
        return members(best.q, rows)

    return proposal
