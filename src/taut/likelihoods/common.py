"""What the likelihoods share: independent elements with gaps, and statistics as buffers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from taut.distributions.observed import Observed

__all__ = ["full", "independent"]


def independent(distribution: Distribution, event_dims: int, fill: Tensor | float) -> Distribution:
    """Returns independent elements, of which those that are NaN in a datum drop out.

    ``fill`` is any value of their support.
    """
    return Observed(distribution, event_dims, fill)


def full(value: Tensor | float, event_shape: Sequence[int]) -> Tensor:
    return (
        torch.as_tensor(value, dtype=torch.get_default_dtype()).expand(tuple(event_shape)).clone()
    )
