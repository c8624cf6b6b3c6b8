"""The baseline: independent marginals of the same data. A model that does not beat it has learned no dependence."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, LogNormal, Normal

from taut.build import Statistics
from taut.data import Rows, Schema, blocks
from taut.distributions import NegativeBinomial
from taut.types import PerDatum
from taut.warps import Warped

__all__ = ["independent_marginals"]


def independent_marginals(statistics: Statistics, x: Rows, schema: Schema) -> PerDatum | None:
    r"""Returns log p(x) under a product of marginals fitted to the training data, (N,), nats; what is missing drops out.

    Levels have their smoothed frequencies; reals a Normal each, with the pooled scale for an element that never varied (the
    density of a constant has no limit); positive numbers a log-Normal; counts a negative binomial by its moments, a Poisson
    where they vary no more than one. In a table, levels, mixed numbers and dates have the marginal that their
    likelihood starts from.

    Args:
        statistics: Of the training data.
        x: Data, (N, \*event).
        schema: What a datum is.

    Returns:
        None where the levels are too many for a table of frequencies.
    """
    if schema.kind in ("binary", "levels"):
        if statistics.log_frequencies is None:
            return None
        table = statistics.log_frequencies.double().flatten(0, -2)
        return torch.cat([_looked_up(table, b.flatten(1).double() - schema.low).sum(-1) for b in blocks(x)])
    if schema.kind == "table":
        return torch.cat([torch.stack([_column(statistics, schema, b, i) for i in schema.rest]).sum(0) for b in blocks(x)])
    loc, scale = statistics.loc.double(), statistics.scale.double()
    if schema.kind == "count":
        return torch.cat([_observed(_counts(loc, scale), b.double()).flatten(1).sum(1) for b in blocks(x)])
    scale = torch.where(scale > 0, scale, scale.square().mean().sqrt())
    return torch.cat([_observed(Normal(loc, scale), b.double()).flatten(1).sum(1) for b in blocks(x)])


def _column(statistics: Statistics, schema: Schema, block: Tensor, i: int) -> Tensor:
    column = schema.modelled[i]
    loc, scale = statistics.loc[i].double(), statistics.scale[i].double()
    values = block[:, i].double()
    if column.levels:
        assert statistics.log_frequencies is not None
        return _looked_up(statistics.log_frequencies[i : i + 1].double(), values[:, None])[:, 0]
    if column.kind == "count":
        return _observed(_counts(loc, scale), values)
    if column.kind in ("levels", "mixed", "date"):
        assert statistics.knots is not None
        knots, zero = statistics.knots[i : i + 1].double(), torch.zeros(1, dtype=torch.float64)
        low, high = (torch.tensor([end], dtype=torch.float64) for end in column.support)
        marginal = Warped(zero, zero + 1, knots, low, high, column.kind == "levels", column.kind == "mixed")
        return _observed(marginal, values[:, None])[:, 0]
    if column.kind == "positive":
        return _observed(LogNormal(statistics.log_loc[i].double(), statistics.log_scale[i].double()), values)
    return _observed(Normal(loc, scale), values)


def _counts(loc: Tensor, scale: Tensor) -> Distribution:
    """A negative binomial by its moments; a count that was never above zero has the mean that the likelihood starts it at."""
    mean = loc.clamp(min=1e-4)
    excess = (scale.square() - mean).clamp(min=1e-8)
    return NegativeBinomial(mean.log(), (mean.square() / excess).clamp(max=1e8).log())


def _looked_up(table: Tensor, values: Tensor) -> Tensor:
    """Returns the entry of each column of ``values`` (N, columns) in its row of ``table`` (columns, levels); 0 where missing."""
    missing = values.isnan()
    index = values.nan_to_num(0.0).long()
    return torch.where(missing, 0.0, table.gather(1, index.T).T)


def _observed(distribution: Distribution, values: Tensor) -> Tensor:
    missing = values.isnan()
    fill = distribution.mean.expand_as(values).round() if isinstance(distribution, NegativeBinomial) else distribution.mean
    return torch.where(missing, 0.0, distribution.log_prob(torch.where(missing, fill, values)))
