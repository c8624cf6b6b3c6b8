"""A masked network: each part of its input from those before it, in one pass.

A unit has a degree m and sees the parts up to m, by way of units of at most that degree; what is
said of a part comes from units of a lower degree than it.

References: germain2015.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from taut.networks.dense import Residual
from taut.system.products import Affine

__all__: list[str] = []  # a network that is named here could be asked for on the command line


class Masked(Residual):
    r"""Creates a network from D parts, (\*, D \* ``width``), to D vectors, (\*, D, ``outputs``), of
    which the i-th sees the parts before it and all features: an affine map and a perceptron, both
    zero at first.

    Args:
        dim: D.
        outputs: Outputs of each dimension.
        num_features: F.
        hidden: Width of each hidden layer.
        width: Numbers of each part: one of a dimension, the levels of a code.

    References: germain2015.
    """

    def __init__(
        self, dim: int, outputs: int, num_features: int, hidden: Sequence[int], width: int = 1
    ) -> None:
        super().__init__((dim * width,), (dim, outputs), num_features, hidden)
        # a unit of degree m sees the dimensions up to m; features come before all
        parts = torch.arange(dim).repeat_interleave(width)
        given = torch.cat([parts, torch.full((num_features,), -1)])
        answers = torch.arange(dim).repeat_interleave(outputs)
        lowest, degrees = -1 if num_features else 0, given
        for place, units in zip(range(0, len(self.layers) - 1, 2), self.hidden, strict=True):
            own = lowest + torch.arange(units) * (dim - 1 - lowest) // units
            self.layers[place] = MaskedAffine(own[:, None] >= degrees)
            degrees = own
        self.layers[-1] = MaskedAffine(answers[:, None] > degrees)
        self.linear = MaskedAffine(answers[:, None] > given)
        for layer in (self.layers[-1], self.linear):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)


class MaskedAffine(Affine):
    """Creates an affine map some of whose weights are zero for ever.

    Args:
        mask: Which are not, (outputs, inputs).
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.times(x, self.weight * self.mask)
