"""The affine layer of all networks: torch's ``nn.Linear``, its products computed by the faster of two libraries.

On a processor torch multiplies float32 matrices with MKL, which on processors of other makers than its own runs at half of what
oneDNN, also inside torch, gets out of the same cores. Which is faster here is measured once a process, in a few milliseconds.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Affine"]

FEWEST_ROWS = 16  # below it the call costs more than the product
CLEARLY = 0.8  # share of MKL's time from which on oneDNN is taken: a choice that noise does not turn


class Affine(nn.Linear):
    """Creates $x W^T + b$ as ``nn.Linear`` does."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self._onednn = _onednn_is_faster()  # asked here, and not where a step is recorded on tensors without content

    def forward(self, x: Tensor) -> Tensor:
        usual = x.dtype != torch.float32 or x.device.type != "cpu" or torch.is_autocast_enabled("cpu")
        if not self._onednn or usual or x.numel() < FEWEST_ROWS * self.in_features:
            return super().forward(x)
        rows = x.reshape(-1, self.in_features)
        return _multiply(rows, self.weight, self.bias).unflatten(0, x.shape[:-1])


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
        return (
            _multiply(gradient, weight.T, None) if needs_x else None,  # differentiable itself, where that is asked for
            _multiply(gradient.T, x.T, None) if needs_weight else None,
            gradient.sum(0) if needs_bias else None,
        )


# An operator of our own, since torch's compiler wants the weights of its own one packed, as in a model that is not trained.
_library = torch.library.Library("taut", "DEF")
_library.define("product(Tensor x, Tensor weight, Tensor? bias) -> Tensor")


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


_library.impl("product", _onednn, "CPU")
torch.library.register_fake("taut::product", lambda x, weight, bias: x.new_empty(len(x), len(weight)), lib=_library)
_product = torch.ops.taut.product.default


@lru_cache(maxsize=1)
def _onednn_is_faster() -> bool:
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    x, weight, bias = (torch.ones(shape, dtype=torch.float32, device="cpu") for shape in ((128, 400), (400, 400), (400,)))
    times = {True: [0.0], False: [0.0]}
    with torch.no_grad():
        for _ in range(8):
            for onednn, runs in times.items():
                start = time.perf_counter()
                _product(x, weight, bias) if onednn else nn.functional.linear(x, weight, bias)
                runs.append(time.perf_counter() - start)
    return min(times[True][2:]) < CLEARLY * min(times[False][2:])
