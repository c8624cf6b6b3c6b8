"""Networks, which know shapes and nothing of probability.

A network is built as ``Network(in_shape, out_shape, context_dim, ...)`` and maps (*, *in_shape) to
(*, *out_shape). Parts take the *class* of a network, or a ``functools.partial`` of one, and give it
the shapes themselves, so that the user writes the choices only: ``MLP(hidden=(200, 200),
activation="tanh")``.

Read ``dense`` first; ``convolutions`` and ``residual`` are for images, ``unet`` goes from image to
image, and ``maps`` is of models whose states are maps. ``masked`` lets each part of
its input see those before it; ``couplings`` and ``autoregressive`` are the bijections of the flows.
"""

# ruff: noqa: F403 (a network is public where its own module says so, and nowhere else)
from taut.networks import convolutions, dense, residual, unet
from taut.networks.common import (
    Network,
    NetworkFactory,
    check_positive,
    inverse_positive,
    inverse_softplus,
    positive,
)
from taut.networks.convolutions import *
from taut.networks.dense import *
from taut.networks.residual import *
from taut.networks.unet import *

__all__ = ["Network", "NetworkFactory", "check_positive"]
__all__ += ["inverse_positive", "inverse_softplus", "positive"]
__all__ += convolutions.__all__
__all__ += dense.__all__
__all__ += residual.__all__
__all__ += unet.__all__
