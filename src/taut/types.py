"""Names for shapes, which signatures use for their tensors.

Axes are K samples, B batch, D latent, always in that order. jaxtyping is a development dependency:
if it is installed the names carry shapes, and the tests check them at every call; otherwise they
are plain tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
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

__all__ = ["Context", "Data", "Latent", "PerDatum", "PerSample", "image_layout"]


def image_layout(shape: Sequence[int]) -> tuple[int, int, int, int | None]:
    """Returns (channels, height, width, axis of the channels or None) of an image (H, W), (H, W, C)
    or (C, H, W).

    Raises:
        ValueError: the shape is none of these, with 1, 3 or 4 channels.

    Examples:
        >>> image_layout((28, 28)), image_layout((3, 32, 32)), image_layout((32, 32, 3))
        ((1, 28, 28, None), (3, 32, 32, 0), (3, 32, 32, 2))
    """
    if len(shape) == 2:
        return 1, shape[0], shape[1], None
    if len(shape) == 3 and shape[2] in (1, 3, 4):
        return shape[2], shape[0], shape[1], 2
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        return shape[0], shape[1], shape[2], 0
    raise ValueError(
        f"{tuple(shape)} is not an image: (H, W), (H, W, C) or (C, H, W) with C = 1, 3 or 4 are"
    )
