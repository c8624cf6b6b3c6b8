r"""Likelihoods $p(x \mid z)$, one class per kind of observation.

Each is a normalised density or mass *of the data point in the user's own units*: standardizing
happens inside, and its Jacobian is in the density because the location and the scale of the
distribution are those of the user's data. A raw decoder output of zero means "like the marginal of
the training data" (but for ``ContinuousBernoulli``, where it means uniform), so that training
starts from the baseline.

Each takes the class of a network (or a ``functools.partial`` of one) as ``decoder``, from z (D,) to
P parameters of each element, (P, \*event):

$$ p(x \mid z) = \prod_{i \,\mathrm{observed}} p(x_i \mid \eta_i(z)). $$

Read ``reals`` first; ``levels`` and ``counts`` are as it is, ``warped`` starts from the marginal of
the data, and ``columns`` gives each column of a table a family of its own.
"""

# ruff: noqa: F403 (a likelihood is public where its own module says so, and nowhere else)
from taut.likelihoods import counts, levels, reals, warped
from taut.likelihoods.columns import Columns
from taut.likelihoods.common import LocationScale
from taut.likelihoods.counts import *
from taut.likelihoods.levels import *
from taut.likelihoods.reals import *
from taut.likelihoods.warped import *

__all__ = ["Columns", "LocationScale"]
__all__ += counts.__all__
__all__ += levels.__all__
__all__ += reals.__all__
__all__ += warped.__all__
