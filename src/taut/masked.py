r"""A masked network: each code from those before it, in one pass.

Every unit has a rank. One of rank r sees the codes 1 to r alone, by way of units of at most that
rank, and the outputs of code n see units of rank below n.

References: germain2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from taut.networks import check_widths

__all__ = ["MaskedMLP"]


class MaskedMLP(nn.Module):
    r"""Creates a network from N joined vectors of K numbers, (\*, N K), to N vectors of K numbers,
    (\*, N, K), of which the n-th depends on those before it alone; zero at first.

    Args:
        codes: N.
        levels: K.
        hidden: Width of each hidden layer.
    """

    def __init__(self, codes: int, levels: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.codes, self.levels = codes, levels
        order = torch.arange(codes).repeat_interleave(levels)
        inner = [torch.arange(width) % codes for width in check_widths(hidden)]
        ranks = [order + 1, *inner]
        self.layers = nn.ModuleList(nn.Linear(len(a), len(b)) for a, b in pairwise([*ranks, order]))
        for number, (below, above) in enumerate(pairwise([*ranks, order])):
            mask = (below <= above[:, None]).to(torch.get_default_dtype())
            self.register_buffer(f"mask{number}", mask, persistent=False)
        last = cast(nn.Linear, self.layers[-1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    @property
    def first(self) -> Tensor:
        """Any parameter: of its device and precision are samples."""
        return cast(nn.Linear, self.layers[0]).weight

    def forward(self, z: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            if number:
                z = functional.silu(z)
            linear = cast(nn.Linear, layer)
            z = functional.linear(z, linear.weight * getattr(self, f"mask{number}"), linear.bias)
        return z.unflatten(-1, (self.codes, self.levels))
