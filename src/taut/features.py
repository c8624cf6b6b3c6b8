r"""Features: a data point as a network sees it, in numbers of a convenient size instead of the
user's units, codes and gaps.

Each is a module with fixed buffers and an ``out_shape``. Missing entries become zero, and if the
schema allows them the mask is added, so that the encoder can tell a mean from a gap. ``Split`` and
``Totals`` give the *context* of a conditional model, taken from the data point itself.

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
"""Standard deviations at which a network sees all values that are farther away.

A single wild value in the training data would otherwise spoil all weights. The likelihood still
gets the value itself.
"""


class Features(nn.Module, abc.ABC):
    r"""Abstract map from data (B, \*event) to features (B, \*out_shape)."""

    out_shape: tuple[int, ...]

    @abc.abstractmethod
    def forward(self, x: Data) -> Tensor:
        r"""Returns the features, (B, \*out_shape)."""


class Standardize(Features):
    r"""Creates the map (x - loc) / scale from the user's units to units that suit a network.

    Args:
        event_shape: Shape of one data point.
        loc: Mean of the training data.
        scale: Standard deviation of the training data.
        missing: Whether entries may be missing: the mask is then stacked on the values, (2,
            \*event).
        counts: Whether x is a count: then log(1 + x) is standardized, and location and scale are
            those of the logarithm.
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
        dtype = torch.get_default_dtype()
        self.register_buffer("loc", torch.as_tensor(loc, dtype=dtype).clone())
        self.register_buffer("scale", torch.as_tensor(scale, dtype=dtype).clone())

    def forward(self, x: Data) -> Tensor:
        numbers = x.log1p() if self.counts else x
        values = ((numbers - self.loc) / self.scale).nan_to_num(0.0).clamp(-FAR, FAR)
        if not self.missing:
            return values
        return torch.stack([values, x.isnan().to(values)], 1)


class ColumnFeatures(Features):
    r"""Creates the features of a table: categories one-hot, logarithms of positive numbers and
    counts, all standardized.

    Args:
        num_levels: Number of levels of each column, (C,); 0 for a number.
        logarithm: For each column "none", "log" (positive), "log1p" (counts) or "warp" (mixed
            numbers).
        loc: Mean of each column, after the logarithm, (C,).
        scale: Standard deviation of each column, likewise.
        missing: Whether entries may be missing: C zeros and ones are then joined.
        knots: Knots of the warp of each column, (C, 2, M): a mixed number is seen through its warp,
            in units of 1.8.
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
        of_warped = torch.zeros(len(warped), 2, MAX_KNOTS)
        if knots is not None:
            of_warped = knots[warped].clone()
        self.register_buffer("knots", of_warped)
        numbers = [i for i, levels in enumerate(num_levels) if not levels]
        owners: list[int] = []  # column and level of each one-hot feature
        level_numbers: list[int] = []
        for i, levels in enumerate(num_levels):
            owners += [i] * levels
            level_numbers += range(levels)
        self.out_shape = (len(numbers) + len(owners) + missing * len(num_levels),)

        def fixed(name: str, values: Sequence[int], dtype: torch.dtype = torch.long) -> None:
            self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)

        fixed("numbers", numbers)
        fixed("owner", owners)
        fixed("level", level_numbers, torch.get_default_dtype())
        fixed("shift", [logarithm[i] == "log1p" for i in numbers], torch.get_default_dtype())
        fixed("plain", [logarithm[i] in ("none", "warp") for i in numbers], torch.bool)
        fixed("warped", warped)
        fixed("warped_numbers", [numbers.index(i) for i in warped])
        self.register_buffer("loc", loc[numbers].clone())
        self.register_buffer("scale", scale[numbers].clone())

    def forward(self, x: Data) -> Tensor:
        numbers = x[:, self.numbers]
        shifted = torch.where(self.plain, 1.0, numbers) + self.shift
        # A zero among positive numbers counts as missing here.
        logarithm = torch.where(shifted > 0, shifted, torch.nan).log()
        numbers = torch.where(self.plain, numbers, logarithm)
        values = (numbers - self.loc) / self.scale
        if len(self.warped):
            warped = self._warped_values(x[:, self.warped])
            values = values.index_copy(-1, self.warped_numbers, warped)
        values = values.nan_to_num(0.0, torch.inf, -torch.inf)
        parts = [values.clamp(-FAR, FAR), (x[:, self.owner] == self.level).to(values)]
        if self.missing:
            parts.append(x.isnan().to(values))
        return torch.cat(parts, 1)

    def _warped_values(self, x: Tensor) -> Tensor:
        gaps = x.isnan()
        at = heights(torch.where(gaps, 0.0, x), self.knots, False)
        return torch.where(gaps, torch.nan, (at.lower + at.upper).clamp(-20, 20) / 3.6)


class Condition(nn.Module, abc.ABC):
    """Abstract rule for the context of a conditional model, taken from the data point: p(x) becomes
    p(the rest of x | context).
    """

    context_dim: int

    @abc.abstractmethod
    def forward(self, x: Data) -> tuple[Tensor, Context]:
        r"""Returns the modelled part of x, (B, \*event), and the context, (B, C)."""

    @abc.abstractmethod
    def context(self, values: Tensor) -> Context:
        """Returns the context, (N, C), from the given values, (N, number of them)."""

    def join(self, x: Data, modelled: Tensor) -> Data:
        r"""Returns whole data, (B, \*event): the given part from x, and the rest from
        ``modelled``.
        """
        return modelled


class Split(Condition):
    """Creates the rule that some columns of a row are the context of the others.

    Args:
        columns: Numbers of the columns that are the context.
        num_columns: Number of columns of the whole row.
        features: The features of the context.
        totals: The rule for the total of the others, where that is given, too: it is the first
            feature of the context, and the last of the given values.
    """

    given: Tensor
    rest: Tensor

    def __init__(
        self,
        columns: Sequence[int],
        num_columns: int,
        features: Features,
        totals: Totals | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("given", torch.tensor(columns), persistent=False)
        rest = [i for i in range(num_columns) if i not in set(columns)]
        self.register_buffer("rest", torch.tensor(rest), persistent=False)
        self.features, self.totals = features, totals
        self.context_dim = features.out_shape[0] + (totals is not None)

    def forward(self, x: Data) -> tuple[Tensor, Context]:
        rest, given = x[:, self.rest], x[:, self.given]
        if self.totals is None:
            return rest, self.features(given)
        return rest, torch.cat([self.totals(rest)[1], self.features(given)], 1)

    def context(self, values: Tensor) -> Context:
        if self.totals is None:
            return self.features(values)
        total = self.totals.context(values[:, -1:])
        return torch.cat([total, self.features(values[:, :-1])], 1)

    def join(self, x: Data, modelled: Tensor) -> Data:
        whole = x.clone()
        whole[:, self.rest] = modelled
        return whole


class Totals(Condition):
    """Creates the rule that the total of a row of counts (its library size) is its context: p(x |
    total).

    The context is log(total / mean total); a total of zero counts as half a count there, for which
    every mean is almost zero.

    Args:
        mean_total: Mean total of the training data.
    """

    mean_total: Tensor

    def __init__(self, mean_total: float | Tensor = 1.0) -> None:
        super().__init__()
        self.context_dim = 1
        mean = torch.as_tensor(mean_total, dtype=torch.get_default_dtype())
        self.register_buffer("mean_total", mean.clone())

    def forward(self, x: Data) -> tuple[Tensor, Context]:
        return x, self.context(x.nan_to_num(0.0).flatten(1).sum(1, keepdim=True))

    def context(self, values: Tensor) -> Context:
        return (values.clamp(min=0.5) / self.mean_total).log()
