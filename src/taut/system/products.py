"""The affine layer of all networks: torch's ``nn.Linear``, its products computed by the faster of
two libraries.

On a processor torch multiplies float32 matrices with MKL, which on processors of other makers than
its own is slower than oneDNN, also inside torch: 0.54 of its rate on an AMD EPYC with AVX-512
(``benchmarks/speed.py``, the two rows of multiplications alone).
"""

from __future__ import annotations

import platform
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Affine", "as_torch"]

FEWEST_ROWS = 24  # below it the call, through Python, costs more than the faster product saves
MAKERS = ("AuthenticAMD", "HygonGenuine")  # as Linux and Windows name them
CPUINFO = Path("/proc/cpuinfo")


class Affine(nn.Linear):
    """Creates $x W^T + b$ as ``nn.Linear`` does."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        # asked here, and not where a step is recorded on tensors without content
        self._onednn = _onednn_is_faster()

    def forward(self, x: Tensor) -> Tensor:
        return self.times(x, self.weight)

    def times(self, x: Tensor, weight: Tensor) -> Tensor:
        """Returns $x W^T + b$ for a W that is made of the weights."""
        single = x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        possible = self._onednn and single and x.device.type == "cpu"
        if not possible or x.numel() < FEWEST_ROWS * self.in_features:
            return functional.linear(x, weight, self.bias)
        # oneDNN reads no rows that are dense along neither axis
        rows = x.reshape(-1, self.in_features).contiguous()
        return _multiply(rows, weight, self.bias).unflatten(0, x.shape[:-1])


def as_torch(module: nn.Module) -> nn.Module:
    """Returns a module, all of whose affine layers now multiply as torch does."""
    for layer in module.modules():
        if isinstance(layer, Affine):
            layer._onednn = False
    return module


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if torch.is_grad_enabled():
        return _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return _product(x, weight, bias)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        of_x = of_weight = of_bias = None
        if needs_x:
            of_x = _multiply(gradient, weight.T, None)  # can be differentiated again
        if needs_weight:
            # the copy is fused when compiled
            of_weight = _multiply(gradient.T.contiguous(), x.T, None)
        if needs_bias:
            of_bias = gradient.sum(0)
        return of_x, of_weight, of_bias


# An operator of our own: for torch's own, its compiler wants the weights packed, which suits only a
# model that is not trained.
_library = torch.library.Library("taut", "DEF")
_library.define("product(Tensor x, Tensor weight, Tensor? bias) -> Tensor")


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


_library.impl("product", _onednn, "CPU")
torch.library.register_fake(
    "taut::product", lambda x, weight, bias: x.new_empty(x.shape[0], weight.shape[0]), lib=_library
)
_product = torch.ops.taut.product.default


@lru_cache(maxsize=1)
def _onednn_is_faster() -> bool:
    """Returns whether the processor is one on which MKL is slow.

    Its maker's name decides, not a measurement, since a resumed run must add in the same order.
    """
    has_operator = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if not torch.backends.mkldnn.is_available() or not has_operator:
        return False
    try:
        processor = CPUINFO.read_text()
    except OSError:
        processor = platform.processor()
    return any(maker in processor for maker in MAKERS)
