r"""Distributions that torch lacks, or has in a form that is not good enough.

Each is normalised to rounding, over all of its support:

$$ \sum_x p(x) = 1 \quad \text{or} \quad \int p(x) \, dx = 1, $$

and where values beyond the range of the training are possible, they share $2^{-24}$ of the mass.

Read ``observed`` first, which integrates out missing entries. ``levels`` are over integers in a
range, ``counts`` over 0, 1, 2, ..., ``reals`` over real numbers, ``warps`` start from any marginal,
by its quantiles; ``flows`` and ``sphere`` are of latent variables, and ``chain`` is several groups
of them as one. Most are elementwise; a likelihood sums them over a data point.
"""

from taut.distributions.chain import Chain
from taut.distributions.counts import Binomial, Multinomial, NegativeBinomial, Poisson, ZeroInflated
from taut.distributions.levels import (
    OUTSIDE,
    Bernoulli,
    CategoricalLevels,
    DiscretizedLogistic,
    Ordinal,
    WarpedPixels,
)
from taut.distributions.observed import Observed
from taut.distributions.reals import ContinuousBernoulli, LogNormal, StudentT
from taut.distributions.sphere import PowerSpherical, UniformSphere, VonMisesFisher

__all__ = [
    "OUTSIDE",
    "Bernoulli",
    "Binomial",
    "CategoricalLevels",
    "Chain",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "LogNormal",
    "Multinomial",
    "NegativeBinomial",
    "Observed",
    "Ordinal",
    "Poisson",
    "PowerSpherical",
    "StudentT",
    "UniformSphere",
    "VonMisesFisher",
    "WarpedPixels",
    "ZeroInflated",
]
