"""How well a model fills in entries that were hidden, beside a Gaussian's conditional means."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import taut
from taut.evidence import filling
from taut.evidence.filling import PARTS, filling_losses
from taut.models import FactorAnalysis
from taut.system.seeds import generator

COLUMNS = 5


def test_the_losses_of_a_gaussian_are_those_of_its_conditional_means() -> None:
    model = FactorAnalysis((COLUMNS,), 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    mean, w = model.loc[0].detach(), model.factors[0].detach()
    noise = model.log_scale[0].detach().exp().clamp_min(model.min_scale)
    covariance = w @ w.T + noise.square().diag()
    x, train = torch.randn(40, COLUMNS), 2 * torch.randn(300, COLUMNS)
    found = filling_losses(model, x, train, ["real"] * COLUMNS, list(range(COLUMNS)), seed=3)
    part = torch.rand(x.shape, generator=generator(3, "filling")).argsort(1) % PARTS
    losses = torch.zeros_like(x)
    for row, own, lost in zip(x, part, losses, strict=True):
        for number in own.unique():
            gap = own == number
            gain = covariance[gap][:, ~gap] @ torch.linalg.inv(covariance[~gap][:, ~gap])
            lost[gap] = (mean[gap] + gain @ (row - mean)[~gap] - row[gap]).square()
    expected = (losses / train.var(0, correction=0)).mean(1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def test_what_is_typical_loses_1_and_only_what_is_there_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A level is wrong or right, and a row without entries has no loss."""
    x = torch.stack([torch.randn(500), torch.randint(0, 3, (500,)).to(torch.float64)], 1)
    x[:200, 1] = 2.0
    x[::5, 0] = x[7] = torch.nan
    typical = torch.stack([x[:, 0].nanmean(), torch.tensor(2.0)])

    def impute(model: Any, rows: Tensor, count: int, **named: Any) -> taut.Imputed:
        every = torch.ones(len(rows))
        filled = torch.where(rows.isnan(), typical, rows)
        return taut.Imputed(filled, rows[None][:0], every, every.bool())

    monkeypatch.setattr(filling, "impute", impute)
    model = taut.VAE.__new__(taut.VAE)
    few = filling_losses(model, x[7:9], x, ["real", "category"], [0, 1])  # of most parts no entry
    assert few.isnan().tolist() == [True, False]
    found = filling_losses(model, x, x, ["real", "category"], [0, 1])
    assert bool(found[7].isnan())
    columns = torch.stack([(x[:, 0] - typical[0]).square(), (x[:, 1] != 2.0).double()], 1)
    columns[x.isnan()] = torch.nan
    expected = (columns / columns.nanmean(0)).nanmean(1)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10, equal_nan=True)
    # of no training row with a level none is typical: a wrong one loses 1
    gone = torch.where(torch.tensor([False, True]), torch.nan, x)
    alone = filling_losses(model, x, gone, ["real", "category"], [0, 1])
    unit = torch.stack([columns[:, 0].nanmean(), torch.tensor(1.0)])
    torch.testing.assert_close(alone, (columns / unit).nanmean(1), equal_nan=True)
