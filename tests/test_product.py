"""``audit`` and ``tighten`` on every kind of model: likelihood x condition x gaps x prior x
posterior.

The suite takes each likelihood once, with the rest of the product in turn, so that each of the
others meets several of them; `make slow` takes the whole product.
"""

from __future__ import annotations

import html
import itertools
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from hurried import hurry

import taut
from taut.cli import terminal
from taut.evidence.audit import Effort
from taut.runs import audit
from taut.runs.fit import evaluate, train_run
from taut.runs.tighten import tighten

RNG = np.random.default_rng(0)
ROWS = 120
Z = RNG.normal(size=(ROWS, 2)) @ RNG.normal(size=(2, 4))
NET = "MLP(hidden=(4,))"
TINY: dict[str, Any] = {
    "latent_dim": 2,
    "encoder": NET,
    "decoder": NET,
    "max_epochs": 1,
    "batch_size": 16,
    "num_samples": 10,
    "threads": 1,
}
LEAST = Effort(
    num_samples=20,
    num_chains=2,
    max_temperatures=3,
    optimum_steps=3,
    simulated=3,
    naive=3,
    train=30,
    samples=12,
)
COUNTS = RNG.poisson(np.exp(Z).clip(max=30))
ARRAYS: dict[str, np.ndarray] = {
    "binary": (Z > 0).astype(float),
    "levels": np.digitize(Z, [-1, 0, 1]),
    "real": Z,
    "count": COUNTS,
    "fraction": 1 / (1 + np.exp(-Z)),
    "positive": np.exp(Z),
}
TABLE = pd.DataFrame(
    {
        "category": RNG.choice(["a", "b", "c"], ROWS),
        "real": Z[:, 0],
        "flag": Z[:, 1] > 0,
        "count": COUNTS[:, 2] + 40,
        "positive": np.exp(3 * Z[:, 3]),
        "other": Z[:, 2] + RNG.normal(size=ROWS),
    }
)
SCALES = ("per_feature", "shared", "per_datum", "per_entry")


class Kind(NamedTuple):
    likelihood: str
    data: str  # a key of ARRAYS, or table
    condition: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.likelihood + "".join(f" given {c}" for c in self.condition)


KINDS = [
    Kind("Columns()", "table"),
    Kind("Columns()", "table", ("category",)),
    Kind("Columns()", "table", ("real", "flag")),
    Kind("Bernoulli()", "binary"),
    Kind("ContinuousBernoulli()", "fraction"),
    *(
        Kind(name, "levels")
        for name in (
            "Categorical()",
            "DiscretizedLogistic()",
            "DiscretizedLogistic(components=2)",
            "Ordinal()",
            "Binomial()",
        )
    ),
    *(
        Kind(f"{name}(scale='{scale}')", "real")
        for name in ("Normal", "StudentT")
        for scale in SCALES
    ),
    Kind("Normal(scale=0.5)", "real"),
    *(Kind(f"LogNormal(scale='{scale}')", "positive") for scale in SCALES),
    *(
        Kind(f"{name}({library})", "count")
        for library in ("", "library=True")
        for name in (
            "Poisson",
            "NegativeBinomial",
            "ZeroInflatedNegativeBinomial",
        )
    ),
    Kind("NegativeBinomial(dispersion='per_datum', library=True)", "count"),
    Kind("ZeroInflatedNegativeBinomial(dispersion='per_datum')", "count"),
]
LATENTS = [
    *itertools.product(
        ("StandardNormal()", "GaussianMixture(components=2)"),
        ("DiagonalNormal()", "FullCovarianceNormal()"),
    ),
    ("Flow(layers=2, hidden=(8,))", "CouplingFlow(layers=2, hidden=(8,), num_features=4)"),
    (
        "Flow(layers=2, hidden=(8,), bins=0, kind='autoregressive')",
        "InverseAutoregressive(layers=2, hidden=(8,), num_features=4)",
    ),
    ("UniformSphere()", "PowerSpherical()"),
    ("VampPrior(components=4)", "DiagonalNormal()"),
    ("IndependentBernoulli()", "IndependentBernoulli()"),
    ("AutoregressiveCategorical(hidden=(4,))", "Categorical(codes=2, levels=3)"),
    ("Codebook()", "VectorQuantized(codes=2, levels=3, width=2)"),
]
DISCRETE = [posterior for _, posterior in LATENTS[-3:]]
WHOLE = [
    case
    for case in itertools.product(KINDS, (False, True), LATENTS)
    if not (case[0].data == "count" and case[1])
]
# arrays of counts have no gaps
SOME = [
    (kind, i % 2 == 1 and kind.data != "count", LATENTS[i % len(LATENTS)])
    for i, kind in enumerate(KINDS)
]


@pytest.fixture(autouse=True)
def _alone(_seeded: None) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_num_threads(threads)


def written(path: Path, kind: Kind, gaps: bool) -> Path:
    """Returns a file of data for a likelihood."""
    chance, share = np.random.default_rng(1), 0.2 if gaps else 0.0
    if kind.data == "table":
        TABLE.mask(chance.random(TABLE.shape) < share).to_csv(path / "data.csv", index=False)
        return path / "data.csv"
    np.save(path / "data.npy", np.where(chance.random(Z.shape) < share, np.nan, ARRAYS[kind.data]))
    return path / "data.npy"


def audited_and_tightened(
    path: Path, kind: Kind, gaps: bool, latents: tuple[str, str]
) -> tuple[dict[str, Any], taut.Run]:
    """Fits, audits and tightens a model of one kind, and returns the audit and the
    tightened run.
    """
    prior, posterior = latents
    discrete = posterior in DISCRETE
    settings = TINY | {"prior": prior, "posterior": posterior, "condition": kind.condition}
    settings |= {"objective": "VIMCO(num_samples=4)"} if discrete else {}
    settings |= {"latent_dim": None} if "codes" in posterior else {}
    settings |= {} if kind.data == "table" else {"likelihood": kind.likelihood}
    settings |= {"kind": "count"} if kind.data == "count" else {}
    run = taut.fit(written(path, kind, gaps), path / "run", **settings)
    found = audit.audit_run(run, effort=LEAST)
    more = {"objective": "ScoreFunction(num_samples=4)"} if discrete else {}
    new, data, state = tighten(run, path / "tight", max_epochs=2, **more)
    assert new.config.training.simulated == 0.5
    for _ in train_run(new, data, state):
        pass
    for _ in evaluate(new, data):
        pass
    for part in ("prior", "likelihood"):
        for name, value in getattr(run.model, part).state_dict().items():
            assert torch.equal(getattr(new.model, part).state_dict()[name], value), name
    return found, new


def assert_all_is_said(found: dict[str, Any], kind: Kind, latents: tuple[str, str]) -> None:
    """Asserts that each section holds numbers, or says why it does not where it should."""
    conditioned = bool(kind.condition) or "library=True" in kind.likelihood
    discrete = latents[1] in DISCRETE
    expected = {"blur"} | (set() if "Normal(" in kind.likelihood[:7] else {"scale"})
    expected |= {"calibration", "samples", "sandwich"} if conditioned else set()
    expected |= {"annealing", "gaps", "sandwich"} if discrete else set()
    expected |= {"annealing", "sandwich"} if latents[1] == "PowerSpherical()" else set()
    assert found["missing"].keys() - {"baseline"} == expected
    for name, why in found["missing"].items():
        assert found[name] is None
        assert bool(why) == (name not in ("blur", "scale", "baseline"))
    assert found["log_evidence"]["value"] is not None
    assert math.isfinite(found["evidence"]["elbo"]["value"])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    # drawn elsewhere, and slowly
    monkeypatch.setattr(sys.modules["taut.report.render"], "_figures", lambda audit, gradients: {})


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("kind", "gaps", "latents"), SOME, ids=lambda value: str(value).replace("\n", "")
)
def test_each_likelihood(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: Kind,
    gaps: bool,
    latents: tuple[str, str],
):
    found, new = audited_and_tightened(tmp_path, kind, gaps, latents)
    assert_all_is_said(found, kind, latents)
    assert math.isfinite(new.evaluation()["elbo"]["value"])
    terminal.show_audit(found)
    shown = capsys.readouterr().out
    for why in {why for why in found["missing"].values() if why}:
        names = [name for name, other in found["missing"].items() if other == why]
        assert f"note: not measured: {', '.join(names)}: {why}" in shown.splitlines()
        page = (tmp_path / "run" / "report.html").read_text()
        assert re.search(f"Not measured: [^<]*: {re.escape(html.escape(why))}", page)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("kind", "gaps", "latents"), WHOLE, ids=lambda value: str(value).replace("\n", "")
)
def test_the_whole_product(tmp_path: Path, kind: Kind, gaps: bool, latents: tuple[str, str]):
    found, _ = audited_and_tightened(tmp_path, kind, gaps, latents)
    assert_all_is_said(found, kind, latents)
