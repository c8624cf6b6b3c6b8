"""Float64 where it exists.

An accelerator without it, such as Apple's MPS, leaves sums to the processor.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

__all__ = ["has_float64", "home", "wide", "wide_dtype"]


@cache
def has_float64(kind: str) -> bool:
    """Returns whether a kind of device, such as "cpu" or "mps", has float64."""
    if kind == "cpu":
        return True
    try:
        torch.zeros((), dtype=torch.float64, device=kind)
    except (TypeError, RuntimeError):
        return False
    return True


def home(device: torch.device) -> torch.device:
    """Returns the device on which float64 sums of a device's tensors are kept: itself or the
    processor.
    """
    return device if has_float64(device.type) else torch.device("cpu")


def wide(x: Tensor) -> Tensor:
    """Returns a tensor in float64, on the processor if its own device has none."""
    return x.to(home(x.device)).double()


def wide_dtype(device: torch.device) -> torch.dtype:
    """Returns the widest dtype that a device has for a running sum that stays on it."""
    return torch.float64 if has_float64(device.type) else torch.float32
