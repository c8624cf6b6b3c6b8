r"""What a network sees of a datum: numbers of a convenient size, in place of the user's units,
codes and gaps.

Each is a module with fixed buffers and an ``out_shape``; what is missing becomes zero, and where a
schema says that entries can be missing the mask goes along, so that the encoder can tell a mean
from a gap. ``Condition`` and ``Totals`` give the *context*
instead: what a model is conditioned on, taken from the datum itself.

References: mattei2019.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from taut.distributions.warps import MAX_KNOTS, heights
from taut.types import Context, Data

__all__ = ["ColumnFeatures", "Condition", "Features", "Split", "Standardize", "Totals"]

FAR = 20.0
"""Standard deviations.

Beyond them a network sees a wild value as one that is merely far, or a single one in the training
data would take all weights with it. What the likelihood makes of the value is not touched.
"""


class Features(nn.Module, abc.ABC):
    r"""Abstract map from data (B, \*event) to what a network sees, (B, \*out_shape)."""

    out_shape: tuple[int, ...]

    @abc.abstractmethod
    def forward(self, x: Data) -> Tensor:
        r"""Returns the features, (B, \*out_shape)."""


class Standardize(Features):
    r"""Creates the map (x - loc) / scale from the user's units to units a network likes.

    Args:
        event_shape: Shape of one datum.
        loc: Mean of the training data.
        scale: Standard deviation of the training data.
        missing: Whether entries may be missing: the mask is stacked on the values then, (2,
            \*event).
        counts: Whether x is a count, so that log(1 + x) is standardized; location and scale are
            those of the logarithm then.
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        loc: Tensor | float = 0.0,
        scale: Tensor | float = 1.0,
        missing: bool = False,
        counts: bool = False,
    ) -> None:
        super().__init__()
        self.missing, self.counts = missing, counts
        self.out_shape = (2, *event_shape) if missing else tuple(event_shape)
        self.register_buffer("loc", torch.as_tensor(loc, dtype=torch.get_default_dtype()).clone())
        self.register_buffer(
            "scale", torch.as_tensor(scale, dtype=torch.get_default_dtype()).clone()
        )

    def forward(self, x: Data) -> Tensor:
        values = (
            (((x.log1p() if self.counts else x) - self.loc) / self.scale)
            .nan_to_num(0.0)
            .clamp(-FAR, FAR)
        )
        if not self.missing:
            return values
        return torch.stack([values, x.isnan().to(values)], 1)


class ColumnFeatures(Features):
    r"""Creates the features of a table: categories one-hot, logarithms of positive numbers and
    counts, all standardized.

    Args:
        num_levels: Of each column, (C,): the number of levels of a category, and 0 for what is a
            number.
        logarithm: Of each column: "none", "log" (positive), "log1p" (counts) or "warp" (mixed
            numbers).
        loc: Mean of each column, after the logarithm, (C,).
        scale: Standard deviation of each column, likewise.
        missing: Whether entries may be missing: C zeros and ones are joined then.
        knots: Of the warp of each column, (C, 2, M): a mixed number is seen as what its warp makes
            of it, 1.8 being one unit.
    """

    numbers: Tensor
    owner: Tensor
    level: Tensor
    shift: Tensor
    plain: Tensor
    knots: Tensor
    warped: Tensor
    warped_numbers: Tensor
    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        num_levels: Sequence[int],
        logarithm: Sequence[str],
        loc: Tensor,
        scale: Tensor,
        missing: bool = False,
        knots: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.missing = missing
        warped = [i for i, name in enumerate(logarithm) if name == "warp"]
        blank = torch.zeros(len(warped), 2, MAX_KNOTS)
        self.register_buffer("knots", blank if knots is None else knots[warped].clone())
        numbers = [i for i, levels in enumerate(num_levels) if not levels]
        owners = [(i, level) for i, levels in enumerate(num_levels) for level in range(levels)]
        self.out_shape = (len(numbers) + len(owners) + missing * len(num_levels),)

        def fixed(name: str, values: Sequence[int], dtype: torch.dtype = torch.long) -> None:
            self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)

        fixed("numbers", numbers)
        fixed("owner", [i for i, _ in owners])
        fixed("level", [level for _, level in owners], torch.get_default_dtype())
        fixed("shift", [logarithm[i] == "log1p" for i in numbers], torch.get_default_dtype())
        fixed("plain", [logarithm[i] in ("none", "warp") for i in numbers], torch.bool)
        fixed("warped", warped)
        fixed("warped_numbers", [numbers.index(i) for i in warped])
        self.register_buffer("loc", loc[numbers].clone())
        self.register_buffer("scale", scale[numbers].clone())

    def forward(self, x: Data) -> Tensor:
        numbers = x[:, self.numbers]
        shifted = torch.where(self.plain, 1.0, numbers) + self.shift
        # A zero among positive numbers is as good as missing here.
        logarithm = torch.where(shifted > 0, shifted, torch.nan).log()
        numbers = torch.where(self.plain, numbers, logarithm)
        values = (numbers - self.loc) / self.scale
        if len(self.warped):
            values = values.index_copy(
                -1, self.warped_numbers, self._warped_values(x[:, self.warped])
            )
        values = values.nan_to_num(0.0, torch.inf, -torch.inf)
        parts = [values.clamp(-FAR, FAR), (x[:, self.owner] == self.level).to(values)]
        return torch.cat([*parts, x.isnan().to(values)] if self.missing else parts, 1)

    def _warped_values(self, x: Tensor) -> Tensor:
        gaps = x.isnan()
        at = heights(torch.where(gaps, 0.0, x), self.knots, False)
        return torch.where(gaps, torch.nan, (at.lower + at.upper).clamp(-20, 20) / 3.6)


class Condition(nn.Module, abc.ABC):
    """Abstract rule for what a model is conditioned on, taken from the datum.

    P(x) becomes p(the rest of x | context).
    """

    context_dim: int

    @abc.abstractmethod
    def forward(self, x: Data) -> tuple[Tensor, Context]:
        r"""Returns what is modelled, (B, \*event), and the context, (B, C)."""

    @abc.abstractmethod
    def context(self, values: Tensor) -> Context:
        """Returns the context, (N, C), for values of what is given, (N, number of them)."""

    def join(self, x: Data, modelled: Tensor) -> Data:
        r"""Returns whole data, (B, \*event).

        What is given as in x, and the rest as in ``modelled``.
        """
        return modelled


class Split(Condition):
    """Creates the rule that some columns of a table are the context of the others.

    Args:
        columns: Numbers of the columns that are the context.
        num_columns: Of the whole table.
        features: What a network sees of the context.
    """

    given: Tensor
    rest: Tensor

    def __init__(self, columns: Sequence[int], num_columns: int, features: Features) -> None:
        super().__init__()
        self.register_buffer("given", torch.tensor(columns), persistent=False)
        rest = [i for i in range(num_columns) if i not in set(columns)]
        self.register_buffer("rest", torch.tensor(rest), persistent=False)
        self.features, self.context_dim = features, features.out_shape[0]

    def forward(self, x: Data) -> tuple[Tensor, Context]:
        return x[:, self.rest], self.context(x[:, self.given])

    def context(self, values: Tensor) -> Context:
        return self.features(values)

    def join(self, x: Data, modelled: Tensor) -> Data:
        whole = x.clone()
        whole[:, self.rest] = modelled
        return whole


class Totals(Condition):
    """Creates the rule that the total of a row of counts (its library size) is its context: p(x |
    total).

    The context is log(total / mean total); a total of zero counts as half a count there, for which
    every mean is next to zero.

    Args:
        mean_total: Mean total of the training data.
    """

    mean_total: Tensor

    def __init__(self, mean_total: float | Tensor = 1.0) -> None:
        super().__init__()
        self.context_dim = 1
        self.register_buffer(
            "mean_total", torch.as_tensor(mean_total, dtype=torch.get_default_dtype()).clone()
        )

    def forward(self, x: Data) -> tuple[Tensor, Context]:
        return x, self.context(x.nan_to_num(0.0).flatten(1).sum(1, keepdim=True))

    def context(self, values: Tensor) -> Context:
        return (values.clamp(min=0.5) / self.mean_total).log()
