"""What the posteriors share: the floor of a scale."""

from __future__ import annotations

from torch import Tensor

from taut.networks import positive

__all__ = ["MIN_SCALE", "floored"]

MIN_SCALE = 1e-4


def floored(raw: Tensor, loc: Tensor, min_scale: float) -> Tensor:
    """Returns positive scales that are at least ``min_scale`` of the prior's unit, and of the
    distance from its centre.

    The second keeps samples apart from each other in the precision of numbers as large as their
    mean.
    """
    return positive(raw) + min_scale * (1 + loc.abs())
