"""``taut refit``: another prior under the same encoder and decoder, and what it gains."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_tighten import BITS, REAL, SMALL, call, tensors
from torch.distributions import Independent, Normal
from ztest import limit

import taut
from taut.runs.fit import evaluate, resume, train_run
from taut.runs.folder import Stored, data_of
from taut.runs.gain import before_of, gain_of_prior
from taut.runs.measure import _settled
from taut.runs.refit import refit
from taut.system import storage
from taut.system.errors import UsageError
from taut.training import checkpoint

FEW = SMALL | {"max_epochs": 3}
MIXTURE = "GaussianMixture(components=3)"


@pytest.fixture(autouse=True)
def _alone(_seeded: None) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with finished runs of bits, one with a prior that shares the encoder."""
    folder = tmp_path_factory.mktemp("made")
    before, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    np.save(folder / "bits.npy", BITS)
    taut.fit(folder / "bits.npy", folder / "bits", **FEW)
    taut.fit(folder / "bits.npy", folder / "vamp", **FEW, prior="VampPrior(components=5)")
    torch.set_default_dtype(before)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for kind in ("bits", "vamp"):
        shutil.copytree(made / kind, tmp_path / kind)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refitted(kind: str, out: str = "new", **settings: Any) -> Stored:
    """Returns a run with another prior, trained and measured."""
    run, data, state = refit(taut.load(kind), out, **{"prior": MIXTURE, "max_epochs": 9} | settings)
    for _ in train_run(run, data, state):
        pass
    for _ in evaluate(run, data):
        pass
    return run


@pytest.mark.parametrize("kind", ["bits", "vamp"])
@pytest.mark.parametrize("prior", [MIXTURE, "VampPrior(components=7)"])
def test_the_prior_alone_is_another(here: Path, kind: str, prior: str) -> None:
    """In the weights and in every checkpoint, to the bit; the old prior is kept as it was."""
    run = refitted(kind, prior=prior)
    expected = tensors(kind, "likelihood") | tensors(kind, "posterior")
    assert tensors("new", "likelihood") | tensors("new", "posterior") == expected
    for step in Path("new", "checkpoints").glob("step-*"):
        for name, tensor in checkpoint.load(step).tensors.items():
            copy, _, rest = name.partition(".")
            if copy != "optimizer" and rest in expected:
                assert tensor.numpy().tobytes() == expected[rest]
    loaded = taut.load("new")
    assert loaded.config.model.prior == prior
    trained = {n for n, p in loaded.model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in loaded.model.named_parameters() if n.startswith("prior.")}
    z, old = torch.randn(9, 2), taut.load(kind).model
    before = before_of(run)
    assert before is not None
    with torch.no_grad():
        was, now = (m.latent_prior().log_prob(z) for m in (old, before))
        assert torch.equal(was, now)
        assert float((loaded.model.latent_prior().log_prob(z) - was).abs().min()) > 1e-4


def test_the_gain_is_that_of_the_closed_form() -> None:
    r"""Of one Gaussian instead of another under a Gaussian q, $\mathbb{E}_q[\log p - \log p']$ is
    known, and so is log p(x) of a linear model; alpha 1e-6 each.
    """
    torch.set_default_dtype(torch.float64)
    problem = taut.LinearGaussian(4, 2, 0.7)
    loc, scale = torch.tensor([0.5, -0.3]), torch.tensor([0.8, 1.3])

    class Moved(taut.Prior):
        def forward(self, context: Any = None) -> torch.distributions.Distribution:
            return Independent(Normal(loc, scale), 1)

    posterior = taut.DiagonalNormal((4,), 2, taut.Linear)
    old = problem.model(posterior).eval()
    new = taut.VAE(Moved(), old.likelihood, posterior).eval()
    x = problem.sample(40)
    evidence = []
    for model in (new, old):
        blocks = [taut.importance(model, x, 200, seed=3)]
        evidence.append(_settled(model, x, blocks, 3))
    found = gain_of_prior(new, old, x, tuple(evidence), None, 3)
    with torch.no_grad():
        q = old.encode(x).base_dist
        second = (q.scale**2 + (q.loc - loc) ** 2) / scale**2 - (q.scale**2 + q.loc**2)
        gain = (-0.5 * second - scale.log()).sum(1)
    off = found["elbo"]["value"] - float(gain.mean())
    assert abs(off) < limit(1) * found["elbo"]["mc_error"]
    with torch.no_grad():
        at = old.decode(torch.cat([torch.zeros(1, 2), torch.eye(2)])[:, None]).mean[:, 0]
    weight, noise = at[1:] - at[0], 0.7**2 * torch.eye(4)
    exact = [
        torch.distributions.MultivariateNormal(
            at[0] + m @ weight, weight.T @ torch.diag(s**2) @ weight + noise
        ).log_prob(x)
        for m, s in ((loc, scale), (torch.zeros(2), torch.ones(2)))
    ]
    off = found["log_evidence"]["value"] - float((exact[0] - exact[1]).mean())
    assert abs(off) < limit(1) * found["log_evidence"]["mc_error"]


def test_what_was_gained_is_printed_and_kept(here: Path) -> None:
    result = call("refit", "bits", "--out", "new", "--prior", MIXTURE, "--max-epochs", 30)
    assert result.exit_code == 0, result.stderr
    info, old = storage.read_json(Path("new/run.json")), taut.load("bits").evaluation()
    names = ("elbo", "log_evidence", "inference_gap", "num_samples")
    assert info["refitted"] == {
        "from": "bits",
        "before": {k: old[k] for k in names},
        "prior": "StandardNormal()",
    }
    found = taut.load("new").evaluation()
    gain = found["gain_of_prior"]
    line = (
        "gained by the prior, row by row: "
        f"ELBO {gain['elbo']['value']:+.3f} ± {gain['elbo']['test_error']:.3f}, "
        f"log p(x) {gain['log_evidence']['value']:+.3f} ± {gain['log_evidence']['test_error']:.3f}"
        " nats"
    )
    assert result.stdout.splitlines()[-1] == line
    # the ELBO before and after, by other draws
    rise = found["elbo"]["value"] - old["elbo"]["value"]
    errors = [e["mc_error"] for e in (gain["elbo"], found["elbo"], old["elbo"])]
    assert abs(rise - gain["elbo"]["value"]) < limit(1) * math.hypot(*errors)
    # a paired difference is known far better than either side
    assert gain["elbo"]["test_error"] < 0.5 * found["elbo"]["test_error"]


def test_a_mixture_of_codes_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in two clusters, seen by a linear model, which cannot bend them into one: a prior of two
    Gaussians gains more than three errors.
    """
    monkeypatch.chdir(tmp_path)
    sides = np.where(np.arange(200)[:, None] % 2, 3.0, -3.0)
    x = (sides + 0.3 * np.random.default_rng(0).normal(size=(200, 4))).astype(np.float32)
    linear = {"encoder": "Linear()", "decoder": "Linear()", "likelihood": "Normal()"}
    run = taut.fit(x, **SMALL | linear | {"max_epochs": 20, "learning_rate": 0.02})
    new = run.refit("GaussianMixture(components=2)", max_epochs=20)
    assert new.path == Path(f"runs/{run.path.name}-refit-1")
    gain = new.evaluation()["gain_of_prior"]["elbo"]
    assert gain["value"] > 3 * gain["test_error"]
    assert new.encode(x).shape == (200, 2)


def test_stopped_and_resumed_it_ends_in_the_same_bits(here: Path) -> None:
    refitted("bits", "whole", max_epochs=25)  # three intervals
    run, data, state = refit(taut.load("bits"), "cut", prior=MIXTURE, max_epochs=25)
    records = train_run(run, data, state)
    next(records)
    records.close()
    shutil.rmtree("bits")  # the folder has all it needs
    again, _, state = resume("cut")
    assert state.step == 100
    assert not any(p.requires_grad for p in again.model.posterior.parameters())
    result = call("resume", "cut")
    assert result.exit_code == 0, result.stderr
    found, expected = (
        {p.name: p.read_bytes() for p in Path(folder).iterdir() if p.is_file()}
        for folder in ("cut", "whole")
    )
    assert found == expected


def test_refit_and_tighten_follow_each_other(here: Path) -> None:
    refitted("bits", max_epochs=1)
    result = call("tighten", "new", "--out", "tight", "--max-epochs", 1)
    assert result.exit_code == 0, result.stderr
    info = storage.read_json(Path("tight/run.json"))
    assert "refitted" not in info
    assert tensors("tight", "prior") == tensors("new", "prior")
    result = call(
        "refit", "tight", "--out", "again", "--prior", MIXTURE, "--max-epochs", 1, "--json"
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["gain_of_prior"]["elbo"]["value"] is not None
    info = storage.read_json(Path("again/run.json"))
    assert "tightened" not in info
    assert info["refitted"]["prior"] == MIXTURE
    assert tensors("again", "posterior") == tensors("tight", "posterior")


MISTAKES = [
    (["--prior", "StandardNormal()"], "StandardNormal() has nothing to fit"),
    (["--prior", "Flwo()"], "no prior is called 'Flwo'"),
    (["--prior", "IndependentBernoulli()"], "are over different spaces"),
    (["--prior", "VampPrior(components=97)"], "97 pseudo-inputs"),
    (["--prior", "Flow(bins=1)"], "bins must be 0"),
    (["--out", "bits", "--overwrite"], "bits is the run that is refitted"),
]


@pytest.mark.parametrize(("flags", "words"), MISTAKES)
def test_what_cannot_be_is_said_in_a_line(here: Path, flags: list[str], words: str) -> None:
    result = call("refit", "bits", *flags)
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()[-1:]
    assert words in line
    assert not Path("runs").exists()


def test_an_exact_model_and_draws_of_its_own_are_refused(here: Path) -> None:
    exact = taut.fit(REAL.astype(np.float32), "exact", model="FactorAnalysis(latent_dim=2)")
    with pytest.raises(UsageError, match="which has no prior that could be another"):
        exact.refit()
    with pytest.raises(UsageError, match="a prior that learns from its own draws"):
        refit(taut.load("bits"), "no", simulated=0.5)
    assert not Path("no").exists()


def test_the_prior_that_was_there_is_not_imported_unasked(here: Path) -> None:
    refitted("bits", max_epochs=1)
    path = Path("new/run.json")
    info = storage.read_json(path)
    info["refitted"]["prior"] = "elsewhere:Prior()"
    storage.write_json(path, storage.fingerprinted(info))
    storage.write_manifest(Path("new"))
    with pytest.raises(UsageError, match="names a part of the outside module 'elsewhere'"):
        taut.load("new")


def test_data_of_a_refitted_run_are_those_of_the_first(here: Path) -> None:
    new, old = refitted("bits", max_epochs=1, seed=7), taut.load("bits")
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(data_of(new), part), getattr(data_of(old), part))
