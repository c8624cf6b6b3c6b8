"""log p(x) of each data point by the first reliable method, and whether it can be believed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from taut.evidence.annealing import Annealed
from taut.evidence.gaps import Optima, best_evidence, decompose
from taut.evidence.results import Estimate, Evidence, both, count_methods
from taut.evidence.rows import settle
from taut.model import Model
from taut.system.seeds import derive
from taut.types import Data

__all__ = ["METHODS", "Best", "best", "log_evidence", "settled"]

# log p(x), its error, the number of its method, whether it is reliable
Best = tuple[Tensor, Tensor, Tensor, Tensor]
METHODS = {
    "importance": "importance sampling",
    "defensive": "importance sampling with a share of the prior",
    "importance_from_optimum": "importance sampling from the best Gaussian",
    "annealing": "annealing",
    "enumeration": "the sum over all latent values",
    "exact": "its closed form",
    "none": "no method",
}


def best(evidence: Evidence, annealed: Annealed | None, optima: list[Optima]) -> Best:
    """Returns log p(x) of the first data points by the first reliable method, its error, its method
    and whether it is reliable.
    """
    if optima:
        gaps = decompose(evidence, annealed, optima)
        return gaps.log_evidence, gaps.log_evidence_error, gaps.method, gaps.reliable
    own = (0, evidence.log_evidence, evidence.log_evidence_error, evidence.reliable)
    if annealed is None:
        return best_evidence([own])
    m = len(annealed.ess)
    other = (2, annealed.log_evidence, annealed.log_evidence_error, annealed.reliable)
    return best_evidence([other, (0, own[1][:m], own[2][:m], own[3][:m])])


def settled(model: Model, x: Data, evidence: Evidence, best: Best, seed: int) -> Best:
    """Returns the same where the rows that none of these methods can tell have climbed the ladder
    of ``rows``.
    """
    rows = (~best[3]).nonzero()[:, 0]
    if not len(rows):
        return best
    found = settle(model, x[rows], evidence.of(rows), seed=derive(seed, "settle"))
    ladder = (found.log_evidence, found.log_evidence_error, found.method, found.reliable)
    value, error, method, reliable = (column.clone() for column in best)
    taken = found.known & (found.reliable | ~value[rows].isfinite())
    for column, new in zip((value, error, method, reliable), ladder, strict=True):
        column[rows[taken]] = new[taken]
    return value, error, method, reliable


def log_evidence(evidence: Evidence, best: Best, groups: Tensor | None) -> dict[str, Any]:
    """Returns log p(x) of all data points by the best method of each, and which those were.

    Where the better estimates exist for the first ones alone, their mean difference to importance
    sampling corrects the rest.
    """
    n = len(evidence.ess)
    value, error, method, reliable = best
    m = len(value)
    # what is not a number is not reliable
    reliable = reliable & value.isfinite() & error.isfinite()
    if m == n:
        estimate = Estimate.of(value, error, groups)
    else:
        correction = Estimate.of(value - evidence.log_evidence[:m], error)
        rest = Estimate.of(evidence.log_evidence, evidence.log_evidence_error, groups)
        # Taken as independent, though they share samples and rows: too large rather than too small.
        errors = (
            both(correction.mc_error, rest.mc_error),
            both(correction.test_error, rest.test_error),
        )
        estimate = Estimate(rest.value + correction.value, *errors, rest.without)
    return {
        **estimate.to_dict(),
        "num_data": n,
        "num_unknown": int((~torch.cat([value, evidence.log_evidence[m:]]).isfinite()).sum()),
        "by": count_methods(method, value.isfinite()),
        "reliable_share": float(reliable.double().mean()),
        "above_importance": Estimate.of(value - evidence.log_evidence[:m]).to_dict(),
    }
