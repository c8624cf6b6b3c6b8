r"""Likelihood of a table: a family for each kind of column, one decoder for all of them.

$$ p(x \mid z) = \prod_{\mathrm{families}} \; \prod_{i \in \mathrm{family}} p_i(x_i \mid z) $$

The columns of one family are evaluated together, each family being one of the likelihoods for
arrays, given its slice of the shared decoder's output instead of a decoder: a step costs as many
calls as there are families, however many columns.

References: nazabal2020.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MixtureSameFamily, constraints

from taut.data.tables.kind import Grid, Kind
from taut.data.tables.kinds import KINDS
from taut.distributions.observed import terms
from taut.likelihoods import counts as counts_module
from taut.likelihoods import levels as levels_module
from taut.likelihoods import reals as reals_module
from taut.likelihoods import warped as warped_module
from taut.likelihoods.common import full, takes_total
from taut.likelihoods.counts import NegativeBinomial
from taut.likelihoods.levels import Bernoulli, Categorical, Ordinal
from taut.likelihoods.reals import LogNormal, StudentT
from taut.likelihoods.warped import WarpedLevels, WarpedLogistic
from taut.model import Likelihood
from taut.networks import MLP, Network, NetworkFactory
from taut.types import Context

__all__ = ["ColumnSupport", "Columns", "Family", "Joint", "reach_of"]

LikelihoodFactory = Callable[..., Likelihood]

USUAL_OF_GRIDS: tuple[LikelihoodFactory, ...] = (
    NegativeBinomial,
    StudentT,
    LogNormal,
    WarpedLogistic,
)
"""What numbers on a grid have where no likelihood is named and ``warp`` does not ask for more."""


class Family(NamedTuple):
    """The columns of one family given z.

    The kind of the first of them, which columns (as an index), how many levels at most, the
    distribution.
    """

    kind: Kind
    columns: Tensor
    num_levels: int
    distribution: Distribution


class Joint(Distribution):
    r"""Creates the joint distribution of the columns of a table, independent given z.

    Its ``mean`` is what one would fill in: the expectation of a number, the most probable
    level of a category.

    Args:
        families: The distributions, which together cover the columns 0, ..., C-1.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, families: Sequence[Family]) -> None:
        self.families = tuple(families)
        self._order = torch.cat([f.columns for f in families]).argsort()
        super().__init__(
            families[0].distribution.batch_shape,
            torch.Size((len(self._order),)),
            validate_args=False,
        )

    def expand(self, batch_shape: Any, _instance: Any = None) -> Joint:
        return Joint(
            [f._replace(distribution=f.distribution.expand(batch_shape)) for f in self.families]
        )

    @property
    def support(self) -> constraints.Constraint:
        return ColumnSupport(self.families, self._order)

    @property
    def mean(self) -> Tensor:
        return self._join([typical(f) for f in self.families])

    def log_prob(self, value: Tensor) -> Tensor:
        total: Any = sum(f.distribution.log_prob(value[..., f.columns]) for f in self.families)
        return total

    def terms(self, value: Tensor) -> Tensor:
        r"""Returns the log-density of each column, (\*batch, C): zero where it is missing."""
        return self._join([terms(f.distribution, value[..., f.columns]) for f in self.families])

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self._join([f.distribution.sample(torch.Size(sample_shape)) for f in self.families])

    def _join(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts), -1)[..., self._order]


def typical(family: Family) -> Tensor:
    r"""Returns the mean of numbers, the most probable of levels, (\*batch, columns)."""
    mean: Tensor = family.distribution.mean
    if family.kind.nominal:
        return level_probs(family).argmax(0).to(mean)
    return mean


def level_probs(family: Family) -> Tensor:
    r"""Returns the probability of each level of nominal columns, (levels, \*batch, columns)."""
    shape = family.distribution.batch_shape + family.distribution.event_shape
    levels = torch.arange(
        family.num_levels, dtype=torch.get_default_dtype(), device=family.columns.device
    )
    values = levels.view(-1, *(1 for _ in shape)).expand(-1, *shape)
    return terms(family.distribution, values).exp()


class Columns(Likelihood):
    r"""Creates the likelihood of a table, a family for each kind of column.

    Args:
        kinds: Of each column: binary, category, ordinal, count, levels, real, date, positive or
            mixed (``taut.data.tables.kinds``).
        num_levels: Of each column, 0 for numbers.
        latent_dim: D.
        decoder: Network from z to the parameters of all columns.
        context_dim: C.
        data_loc: Mean of each column in the training data, in its own units.
        data_scale: Standard deviation of each column, likewise.
        data_total: Sum of each column, likewise.
        log_loc: Mean of the logarithm of each positive column.
        log_scale: Standard deviation of it.
        low: Smallest level of each column of levels, and what no value of a mixed one lies below
            (minus infinity: unknown).
        high: Largest level, likewise.
        log_frequencies: Log-probabilities of the levels of each column, (columns, most levels),
            -inf beyond its own.
        knots: Of the marginal of each column of levels, mixed numbers or dates, (columns, 2,
            knots): see ``warps``.
        grids: The grid of each column of numbers that lie on one.
        cells: Knots of the marginal of each such column, (columns, 2, knots): see ``grids``.
        warp: Whether counts, and numbers on a grid, of kinds for which no likelihood is named, are
            seen through their marginal (``WarpedCounts``, ``WarpedGrid``).
        binary: Likelihood of the binary columns.
        category: Of those with unordered levels.
        ordinal: Of those with ordered levels.
        levels: Of numbers on a grid in a known range.
        count: Of counts.
        real: Of real numbers.
        positive: Of positive numbers.
        mixed: Of real numbers with atoms or sharp edges, and of dates.

    References: nazabal2020.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        num_levels: Sequence[int],
        latent_dim: int,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float = 0.0,
        data_scale: Tensor | float = 1.0,
        data_total: Tensor | float = math.inf,
        log_loc: Tensor | float = 0.0,
        log_scale: Tensor | float = 1.0,
        low: Tensor | float = 0.0,
        high: Tensor | float = 1.0,
        log_frequencies: Tensor | None = None,
        knots: Tensor | None = None,
        grids: Sequence[Grid | None] | None = None,
        cells: Tensor | None = None,
        warp: bool = False,
        binary: LikelihoodFactory = Bernoulli,
        category: LikelihoodFactory = Categorical,
        ordinal: LikelihoodFactory = Ordinal,
        levels: LikelihoodFactory = WarpedLevels,
        count: LikelihoodFactory = NegativeBinomial,
        real: LikelihoodFactory = StudentT,
        positive: LikelihoodFactory = LogNormal,
        mixed: LikelihoodFactory = WarpedLogistic,
    ) -> None:
        super().__init__()
        self.binary, self.category, self.ordinal, self.levels = binary, category, ordinal, levels
        self.count, self.real, self.positive, self.mixed = count, real, positive, mixed
        self.warp = warp
        self.grids = [
            grid if warp and getattr(self, KINDS[word].family, None) in USUAL_OF_GRIDS else None
            for word, grid in zip(kinds, grids or [None] * len(kinds), strict=True)
        ]
        statistics = {
            "data_loc": data_loc,
            "data_scale": data_scale,
            "data_total": data_total,
            "log_loc": log_loc,
            "log_scale": log_scale,
        }
        ranges = {"low": low, "high": high}
        given = {name: full(value, (len(kinds),)) for name, value in (statistics | ranges).items()}
        frequencies = _uniform(num_levels) if log_frequencies is None else log_frequencies
        self.groups = _groups(kinds, num_levels, [grid is not None for grid in self.grids])
        self.parts, self.sizes = nn.ModuleList(), []
        for kind, index, most in self.groups:
            outputs: list[_Slice] = []
            here = torch.tensor(index)
            fill: dict[str, Any] = {name: given[name][here] for name in statistics}
            fill |= {
                "event_shape": (len(index),),
                "latent_dim": latent_dim,
                "context_dim": context_dim,
            }
            fill["decoder"] = partial(_make_slice, outputs)
            if kind.nominal:
                fill |= {"low": 0, "high": most - 1, "log_frequencies": frequencies[here, :most]}
            elif kind.ranged:
                fill |= {name: given[name][here] for name in ranges}
            if knots is not None:
                fill["knots"] = knots[here]
            family = getattr(self, kind.family, None) or _named(kind.usual)
            if found := [grid for i in index if (grid := self.grids[i]) is not None]:
                family = _named(kind.celled)
                fill |= {"grids": found, "cells": None if cells is None else cells[here]}
            self.parts.append(_filled(family, fill))
            self.sizes.append(sum(math.prod(o.out_shape) for o in outputs))
            self.register_buffer(f"index_{len(self.parts) - 1}", here, persistent=False)
        self.decoder = decoder((latent_dim,), (sum(self.sizes),), context_dim)

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        raws = self.decoder(z, context).split(self.sizes, -1)
        return Joint(
            [
                Family(kind, getattr(self, f"index_{i}"), most, part(raw, context))
                for i, ((kind, _, most), part, raw) in enumerate(
                    zip(self.groups, self.parts, raws, strict=True)
                )
            ]
        )


def _named(name: str) -> LikelihoodFactory:
    """Returns the likelihood that a kind names."""
    found: LikelihoodFactory = next(
        getattr(module, name)
        for module in (levels_module, counts_module, reals_module, warped_module)
        if name in module.__all__
    )
    return found


def _filled(family: LikelihoodFactory, fill: dict[str, Any]) -> Likelihood:
    """Returns the likelihood of the columns of a family, given those arguments that it has."""
    if takes_total(family):
        raise ValueError(
            "a likelihood of rows given their totals (Multinomial, library=True) is for a matrix "
            "of counts, not for columns of a table"
        )
    wanted = inspect.signature(family).parameters
    return family(**{name: value for name, value in fill.items() if name in wanted})


def _groups(
    kinds: Sequence[str], num_levels: Sequence[int], on_grids: Sequence[bool]
) -> list[tuple[Kind, list[int], int]]:
    """Returns (kind, columns, most levels) of each family.

    Levels are padded, so columns with very unequal numbers stay apart; so do numbers on a grid
    and others.
    """
    groups: dict[tuple[str, int, bool], list[int]] = {}
    for i, (word, levels) in enumerate(zip(kinds, num_levels, strict=True)):
        kind = KINDS[word]
        padded = 1 << (levels - 1).bit_length() if kind.nominal else 0
        groups.setdefault((kind.family, padded, on_grids[i]), []).append(i)
    return [
        (KINDS[kinds[index[0]]], index, max(num_levels[i] for i in index))
        for _, index in sorted(groups.items())
    ]


def _uniform(num_levels: Sequence[int]) -> Tensor:
    level = torch.arange(max([2, *num_levels]))
    return torch.where(level < torch.tensor(num_levels)[:, None], 0.0, -torch.inf).to(
        torch.get_default_dtype()
    )


class _Slice(Network):
    """What a family has for a decoder.

    Its part of the shared decoder's output, in the shape it asked for.
    """

    def __init__(self, out_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.out_shape = out_shape

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return x.unflatten(-1, self.out_shape)


def _make_slice(
    made: list[_Slice], in_shape: tuple[int, ...], out_shape: tuple[int, ...], context_dim: int = 0
) -> _Slice:
    made.append(_Slice(tuple(out_shape)))
    return made[-1]


class ColumnSupport(constraints.Constraint):
    """The support of each column; what is missing is in it."""

    def __init__(
        self,
        families: Sequence[Family],
        order: Tensor,
        of: Callable[[Distribution], Any] | None = None,
    ) -> None:
        self._order = order
        self._parts = [(f.columns, (of or _elementwise)(f.distribution)) for f in families]
        self.is_discrete = all(part.is_discrete for _, part in self._parts)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        parts = [part.check(value[..., columns]) for columns, part in self._parts]
        return torch.cat(parts, -1)[..., self._order]


def _elementwise(distribution: Distribution) -> constraints.Constraint:
    support: Any = distribution.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def reach_of(distribution: Distribution) -> constraints.Constraint | None:
    r"""Returns where a density or a mass is not zero, for each element of a data point, (\*batch,
    \*event).

    It is the support, but of families that leave a little beyond the range of the training
    (``distributions.OUTSIDE``).
    """
    if isinstance(distribution, Joint):
        return ColumnSupport(distribution.families, distribution._order, reach_of)
    single: Any = distribution
    while isinstance(single, Independent):
        single = single.base_dist
    if isinstance(single, MixtureSameFamily):
        single = single.component_distribution
    return getattr(single, "reach", None) or (
        None if distribution.support is None else _elementwise(distribution)
    )
