r"""Distributions that torch lacks, or has in a form that is not good enough.

``levels`` over integers in a range, ``counts`` over 0, 1, 2, ..., ``reals``, ``warps`` (any
marginal, by its quantiles), ``observed``, which omits missing entries from a sum, and ``chain``,
several groups of latent variables as one.
"""

from taut.distributions.chain import Chain
from taut.distributions.counts import Binomial, NegativeBinomial, Poisson, ZeroInflated
from taut.distributions.levels import (
    OUTSIDE,
    Bernoulli,
    CategoricalLevels,
    DiscretizedLogistic,
    Ordinal,
)
from taut.distributions.observed import Observed
from taut.distributions.reals import ContinuousBernoulli, LogNormal, StudentT

__all__ = [
    "OUTSIDE",
    "Bernoulli",
    "Binomial",
    "CategoricalLevels",
    "Chain",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "LogNormal",
    "NegativeBinomial",
    "Observed",
    "Ordinal",
    "Poisson",
    "StudentT",
    "ZeroInflated",
]
