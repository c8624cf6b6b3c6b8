"""Shapes by name, so that a signature says what its tensors are.

Axes are K samples, B batch, D latent, always in that order. jaxtyping is a development dependency: where it is installed
the names carry shapes, and the tests check them at every call; where it is not, they are plain tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    Data = Tensor
    Context = Tensor
    Latent = Tensor
    PerSample = Tensor
    PerDatum = Tensor
else:
    try:
        from jaxtyping import Float, Shaped
    except ImportError:
        Data = Context = Latent = PerSample = PerDatum = Tensor
    else:
        Data = Shaped[Tensor, "B *event"]
        Context = Float[Tensor, "B C"]
        Latent = Float[Tensor, "K B D"]
        PerSample = Float[Tensor, "K B"]
        PerDatum = Float[Tensor, "B"]

__all__ = ["Context", "Data", "Latent", "PerDatum", "PerSample"]
