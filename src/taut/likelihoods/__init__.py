r"""Likelihoods $p(x \mid z)$, one class per kind of observation.

Each is a normalised density or mass *of the datum in the user's own units*: standardizing happens
inside, and its Jacobian is in the density because the location and the scale of the distribution
are those of the user's data. A raw decoder output of zero means "like the marginal of the training
data" (but for ``ContinuousBernoulli``, where it means uniform), so that training starts from the
baseline.

Each takes the class of a network (or a ``functools.partial`` of one) as ``decoder``, from z (D,) to
P parameters of each element, (P, \*event):

$$ p(x \mid z) = \prod_{i \,\mathrm{observed}} p(x_i \mid \eta_i(z)). $$

Read ``reals`` first; ``levels`` and ``counts`` are as it is, ``warped`` starts from the marginal of
the data, and ``columns`` gives each column of a table a family of its own.
"""

from taut.likelihoods.columns import Columns
from taut.likelihoods.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from taut.likelihoods.levels import Bernoulli, Binomial, Categorical, DiscretizedLogistic, Ordinal
from taut.likelihoods.reals import ContinuousBernoulli, LogNormal, Normal, StudentT
from taut.likelihoods.warped import WarpedLevels, WarpedLogistic

__all__ = [
    "Bernoulli",
    "Binomial",
    "Categorical",
    "Columns",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "LogNormal",
    "NegativeBinomial",
    "Normal",
    "Ordinal",
    "Poisson",
    "StudentT",
    "WarpedLevels",
    "WarpedLogistic",
    "ZeroInflatedNegativeBinomial",
]
