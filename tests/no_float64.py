"""A device that has no float64, made of the processor: what Apple's MPS is to taut.

A tensor on it wraps one of the processor. Every operation runs there, and one that makes or meets
float64 raises what MPS raises; so does one that mixes devices, unless a single number does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

# a kind that torch knows, runs backward in the caller's thread, and nobody has
DEVICE = torch.device("lazy")
WIDE = (torch.float64, torch.complex128)


class OnDevice(Tensor):
    """A tensor on the device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        if inner.dtype in WIDE:
            raise TypeError("this device has no float64")
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=DEVICE, requires_grad=inner.requires_grad,
        )  # fmt: skip

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner.detach()

    def __repr__(self, **_: Any) -> str:
        return f"on device: {self.inner}"

    def tolist(self) -> Any:
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return run(func, args, dict(kwargs or {}))


def run(func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """Runs an operation on the processor and puts its results where the device would have them."""
    there = [t for t in _tensors((args, kwargs)) if isinstance(t, OnDevice)]
    here = [t for t in _tensors((args, kwargs)) if not isinstance(t, OnDevice)]
    moves = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
    if there and not moves and any(t.dim() for t in here):
        raise RuntimeError(f"{func}: tensors on two devices")
    target = kwargs.get("device")
    on_device = bool(there) if target is None else torch.device(target).type == DEVICE.type
    if target is not None:
        kwargs["device"] = torch.device("cpu")
    if func is torch.ops.aten.copy_.default:
        on_device = isinstance(args[0], OnDevice)
    own = {id(t.inner): t for t in there}
    bare_args, bare = tree_map(_bare, args), tree_map(_bare, kwargs)
    result = func(*bare_args, **bare)

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in own:
            return own[id(value)]
        return OnDevice(value) if on_device else value

    return tree_map(wrap, result)


class _Factories(TorchDispatchMode):
    """Catches the operations that make tensors on the device out of none."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return run(func, args, dict(kwargs or {}))


class _Numbers(TorchFunctionMode):
    """Makes ``torch.tensor`` and ``torch.as_tensor``, which dispatch nothing, reach the device."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        made = func in (torch.tensor, torch.as_tensor) and device is not None
        if made and torch.device(device).type == DEVICE.type:
            return func(*args, **(kwargs | {"device": None})).to(DEVICE)
        return func(*args, **kwargs)


@contextmanager
def no_float64() -> Iterator[torch.device]:
    """Runs a block in which ``DEVICE`` exists, and has the fused optimizers that MPS has."""
    fused = [*_foreach_utils._get_fused_kernels_supported_devices(), DEVICE.type]
    name = "torch.optim.optimizer._get_fused_kernels_supported_devices"
    own = mock.patch(name, return_value=fused)
    with own, _Numbers(), _Factories():
        yield DEVICE


def _bare(value: Any) -> Any:
    return value.inner if isinstance(value, OnDevice) else value


def _tensors(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map(lambda v: found.append(v) if isinstance(v, Tensor) else None, tree)
    return found
