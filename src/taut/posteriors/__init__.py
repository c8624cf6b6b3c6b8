r"""Approximate posteriors $q(z \mid x)$: amortized inference, one encoder for all data.

Each takes the class of a network (or a ``functools.partial`` of one) as ``encoder``, which sees the
``features`` of x: by default x standardized with the location and scale of the training data.

An encoder says nothing sensible of rows far from those it was trained on, but what it says stays a
distribution that can be drawn from: it sees no difference beyond ``features.FAR`` standard
deviations, and the scales of a Gaussian have a floor, ``min_scale``. Without it they would shrink
until all samples are equal, which looks just like the exact posterior.

Read ``gaussian`` first; ``flows`` bend it, ``spheres`` and ``codes`` are for other latent spaces.
"""

# ruff: noqa: F403 (a posterior is public where its own module says so, and nowhere else)
from taut.posteriors import codes, flows, gaussian, spheres
from taut.posteriors.codes import *
from taut.posteriors.flows import *
from taut.posteriors.gaussian import *
from taut.posteriors.spheres import *

__all__: list[str] = []
__all__ += codes.__all__
__all__ += flows.__all__
__all__ += gaussian.__all__
__all__ += spheres.__all__
