"""The baseline: independent marginals of the same data. A model that does not beat it has learned no dependence."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from taut.build import Statistics
from taut.data import Schema
from taut.types import PerDatum

__all__ = ["independent_marginals"]


def independent_marginals(statistics: Statistics, x: Tensor, schema: Schema) -> PerDatum | None:
    r"""Returns log p(x) under a product of marginals fitted to the training data, (N,), nats.

    Levels have their smoothed frequencies; reals a Normal each, with the pooled scale for an element that never varied (the
    density of a constant has no limit).

    Args:
        statistics: Of the training data.
        x: Data, (N, \*event).
        schema: What a datum is.

    Returns:
        None where the levels are too many for a table of frequencies.
    """
    if schema.discrete:
        if statistics.log_frequencies is None:
            return None
        table = statistics.log_frequencies.double().flatten(0, -2)
        element = torch.arange(len(table))
        return torch.cat([table[element, b.flatten(1).long() - int(schema.low)].sum(-1) for b in x.split(1024)])
    scale = statistics.scale.double()
    scale = torch.where(scale > 0, scale, scale.square().mean().sqrt())
    return Independent(Normal(statistics.loc.double(), scale), scale.dim()).log_prob(x.double())
