"""Devices without float64, such as Apple's MPS.

The core of taut on one that raises at the sight of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hurried import hurry
from no_float64 import OnDevice, no_float64

import taut
from taut.evidence import settle
from taut.evidence.audit import Effort
from taut.runs import fit as fits
from taut.use import tasks

SMALL = {
    "encoder": "MLP(hidden=(8,))",
    "decoder": "MLP(hidden=(8,))",
    "max_epochs": 2,
    "latent_dim": 2,
}
DATA = {
    "StudentT()": lambda: torch.randn(80, 4),
    "LogNormal()": lambda: torch.randn(80, 4).exp(),
    "Binomial()": lambda: torch.randint(0, 9, (80, 4)).float(),
    "Ordinal()": lambda: torch.randint(0, 9, (80, 4)).float(),
    "DiscretizedLogistic()": lambda: torch.randint(0, 9, (80, 4)).float(),
    "NegativeBinomial()": lambda: torch.randint(0, 9, (80, 4)).float(),
}


@pytest.fixture(autouse=True)
def _device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch.set_default_dtype(torch.float32)
    hurry(monkeypatch)  # each operation takes ten times as long there
    with no_float64() as device:
        monkeypatch.setattr(fits, "find_device", lambda name: device)
        yield


def test_the_device_refuses_float64_and_does_not_mix() -> None:
    x = torch.ones(2, 2).to("lazy")
    assert isinstance(x, OnDevice)
    with pytest.raises(TypeError, match="no float64"):
        x.double()
    with pytest.raises(RuntimeError, match="two devices"):
        x + torch.ones(2, 2)


SELDOM = pytest.mark.slow  # a family of each kind is enough for every day


@pytest.mark.parametrize(
    "likelihood",
    [
        "StudentT()",
        "Ordinal()",
        pytest.param("NegativeBinomial()", marks=SELDOM),
        pytest.param("LogNormal()", marks=SELDOM),
        pytest.param("Binomial()", marks=SELDOM),
        pytest.param("DiscretizedLogistic()", marks=SELDOM),
    ],
)
def test_training_there_gives_the_numbers_of_the_processor(
    likelihood: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = DATA[likelihood]()
    settings = SMALL | {"likelihood": likelihood}
    settings |= {"kind": "count"} if likelihood.startswith("Negative") else {}
    there = taut.fit(x, **settings).evaluation()
    monkeypatch.setattr(fits, "find_device", torch.device)
    here = taut.fit(x, device="cpu", **settings).evaluation()
    # float32 all the way: a few units in the sixth place
    for name in (
        "elbo",
        "log_evidence",
        "rate",
    ):
        assert there[name]["value"] == pytest.approx(here[name]["value"], rel=1e-4, abs=1e-4)


def test_every_estimator_runs_there() -> None:
    x = torch.randn(80, 4)
    run = taut.fit(x, **SMALL)
    model = run.model.to("lazy")
    here = taut.importance(taut.fit(x, **SMALL).model.cpu(), x[:10], 50)
    torch.testing.assert_close(
        taut.importance(model, x[:10], 50).elbo, here.elbo, rtol=1e-4, atol=1e-4
    )
    far = 1000 * x[:4]
    assert bool(settle(model, far, taut.importance(model, far, 50)).known.all())
    gaps = torch.where(torch.rand(20, 4) < 0.2, torch.nan, x[:20])
    assert not taut.impute(model, gaps).values.isnan().any()
    assert len(taut.cell_scores(model, x[:3]).value) == 3
    assert tasks.sample(model, 4).shape == (4, 4)
    effort = Effort(50, 4, 10, 10, simulated=4, naive=4, train=40, samples=20)
    audit = taut.audit(model, x[:20], train=x[20:], effort=effort)
    assert audit["gaps"] is not None
    assert audit["sandwich"] is not None
    assert taut.gradients(model, x[:10], repeats=3)["estimators"]
