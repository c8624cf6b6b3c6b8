r"""How well a model fills in gaps, by which one of two is kept where the data have gaps.

Each observed entry of a row is hidden once, with a fifth of the others, and filled in by what is
left. The loss of a number or an ordered level is its squared distance, that of a level without an
order whether it is wrong; each in units of what the mean or the most frequent level of the training
rows would have lost, so that 1 is the loss of a model that knows no more than the columns.

References: mattei2019.
"""

from __future__ import annotations

import torch
from torch import Tensor

from taut.data.tables.kinds import KINDS
from taut.evidence.cells import impute
from taut.model import Model
from taut.system.seeds import derive, generator
from taut.types import PerDatum

__all__ = ["filling_losses"]

PARTS = 5  # of the entries of a row, each hidden once
SAMPLES = 300  # K


def filling_losses(
    model: Model, x: Tensor, train: Tensor, kinds: list[str], columns: list[int], *, seed: int = 0
) -> PerDatum:
    """Returns the mean loss of the observed entries of each row, (N,), float64; NaN for one that
    has none.

    Args:
        model: The model.
        x: Rows that it was not trained on, (N, C); NaN is missing.
        train: Training rows, (M, C), that the units follow from.
        kinds: The word of the kind of each column that is modelled, (A,).
        columns: Their numbers in a row, (A,).
        seed: The same seed hides the same entries.
    """
    nominal = torch.tensor([KINDS[k].nominal and not KINDS[k].ordered for k in kinds])
    truth, known = x[:, columns].double(), train[:, columns].double()
    typical = known.nanmean(0)
    for i in (nominal & ~typical.isnan()).nonzero()[:, 0].tolist():
        typical[i] = known[~known[:, i].isnan(), i].mode().values
    unit = _losses(typical.expand_as(known), known, nominal).nanmean(0)
    unit = torch.where(unit > 0, unit, 1.0)
    observed = ~truth.isnan()
    part = torch.rand(truth.shape, generator=generator(seed, "filling")).argsort(1) % PARTS
    losses = torch.full_like(truth, torch.nan)
    for number in range(PARTS):
        hidden = observed & (part == number)
        rows = hidden.any(1).nonzero()[:, 0]
        if not len(rows):
            continue
        left = x[rows].clone()
        left[:, columns] = left[:, columns].masked_fill(hidden[rows], torch.nan)
        own = derive(seed, "filling", number)
        filled = impute(model, left, SAMPLES, improve=False, seed=own).values.double()
        found = filled[:, columns]
        # what is not filled in counts as what is typical
        found = torch.where(found.isnan(), typical, found)
        lost = _losses(found, truth[rows], nominal) / unit
        losses[rows] = torch.where(hidden[rows], lost, losses[rows])
    return losses.nanmean(1)


def _losses(values: Tensor, truth: Tensor, nominal: Tensor) -> Tensor:
    """Returns the loss of each entry, (N, A); NaN where the truth is missing."""
    wrong = torch.where(truth.isnan(), torch.nan, (values != truth).double())
    return torch.where(nominal, wrong, (values - truth).square())
