"""Runs of a generator without a density, and of its density."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_tighten import call
from torch import Tensor

import taut
from taut.runs.fit import evaluate, resume, start, train_run
from taut.runs.tighten import tighten
from taut.system.errors import UsageError

D = 2
LINES = np.random.default_rng(5).normal(size=(300, 2)) @ np.random.default_rng(6).normal(
    size=(2, 5)
) + 0.3 * np.random.default_rng(7).normal(size=(300, 5))
FEW: dict[str, Any] = {
    "model": "GAN()",
    "latent_dim": D,
    "encoder": "MLP(hidden=(8,))",
    "decoder": "MLP(hidden=(8,))",
    "max_epochs": 30,
    "batch_size": 32,
    "threads": 1,
    "checkpoint_seconds": 0,
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    np.save("lines.npy", LINES)
    yield tmp_path
    torch.set_num_threads(threads)


def finished(run: Any, data: Any, state: Any) -> Any:
    for _ in train_run(run, data, state):
        pass
    for _ in evaluate(run, data):
        pass
    return run


def test_a_run_is_loaded_and_goes_on_to_the_bit(here: Path) -> None:
    run = taut.fit("lines.npy", "whole", **FEW)
    again = taut.load("whole")
    assert np.array_equal(again.sample(10), run.sample(10))
    config = again.config
    new, data, state = start("lines.npy", "stopped", config)
    with closing(train_run(new, data, state)) as records:
        list(itertools.islice(records, 2))
    finished(*resume("stopped"))
    for name in ("model.safetensors", "history.jsonl", "evaluation.json"):
        assert Path("stopped", name).read_bytes() == Path("whole", name).read_bytes(), name
    found = again.evaluation()
    assert 0 <= found["samples"]["coverage"]["samples"]["value"] <= 1
    assert "no density" in repr(again)


def test_the_last_weights_are_kept_and_not_those_of_a_lucky_critic(here: Path) -> None:
    run = taut.fit("lines.npy", "run", **FEW | {"patience": 0.01})
    history = run.history()
    assert [line["best"] for line in history] == [False] * (len(history) - 1) + [True]
    assert run.info["ended"] == "epochs"


def test_the_density_is_that_of_the_frozen_generator_and_the_fitted_width(here: Path) -> None:
    """Of a linear generator log p(x) is known for every width: the width that is fitted is that of
    the largest mean over the training rows, within 5 %.
    """
    settings = FEW | {"decoder": "Linear()", "max_epochs": 5}
    run = taut.fit("lines.npy", "gan", **settings)
    new = finished(
        *tighten(
            run,
            "observed",
            posterior="FullCovarianceNormal()",
            encoder="Linear()",
            max_epochs=60,
            learning_rate=1e-2,
            objective="ELBO()",
        )
    )
    before, after = run.model.likelihood.state_dict(), new.model.likelihood.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["raw_scale"]
    model, data = new.model, run.data()
    weight, bias = model.likelihood.decoder.map.weight, model.likelihood.decoder.map.bias
    unit = model.likelihood.data_scale
    w, b = (unit[:, None] * weight).double(), (model.likelihood.data_loc + unit * bias).double()

    def exact(sigma: float, x: Tensor) -> Tensor:
        covariance = w @ w.T + sigma**2 * torch.eye(5, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(b, covariance).log_prob(x.double())

    widths = np.linspace(0.1, 3.0, 600)
    with torch.no_grad():
        best = widths[np.argmax([float(exact(s, data.train).mean()) for s in widths])]
        scale = float(model.decode(torch.zeros(1, 1, D)).stddev.flatten()[0])
        assert scale == pytest.approx(best, rel=0.05)
        error = new.evaluation()["log_evidence"]["mc_error"]
        expected = float(exact(scale, data.test).mean())
    assert abs(new.evaluation()["log_evidence"]["value"] - expected) < 5 * error + 1e-3
    assert new.info["observed"] == {"from": "gan"}
    found = taut.compare("observed", "gan", num_data=30, num_samples=20)
    assert found.to_dict()["runs"][1]["no_density"]
    assert next(cells for title, cells in found.rows() if title == "log p(x)")[1] == "no density"


@pytest.mark.parametrize(
    "command",
    [
        ["score", "run"],
        ["encode", "run"],
        ["impute", "run"],
        ["reconstruct", "run"],
        ["audit", "run"],
        ["gradients", "run"],
        ["refit", "run"],
        ["sample", "run", "--mean"],
        ["tighten", "run", "--simulated", "0.5"],
    ],
)
def test_what_a_gan_does_not_have_is_refused_in_one_line(command: list[str], here: Path) -> None:
    taut.fit("lines.npy", "run", **FEW | {"max_epochs": 1})
    found = call(*command)
    assert found.exit_code == 2, found.stdout
    said = [line for line in found.stderr.splitlines() if line.startswith("taut:")]
    assert len(said) == 1
    assert "density" in said[0] or "--mean" in said[0] or "--simulated" in said[0]


def test_a_gan_of_levels_is_not_told_of_a_command_that_would_refuse_it(here: Path) -> None:
    np.save("levels.npy", np.random.default_rng(0).integers(0, 5, (60, 4)))
    few = ["--model", "GAN()", "--max-epochs", "1", "--threads", "1", "--latent-dim", "2"]
    made = call("fit", "levels.npy", *few, "--out", "run")
    assert made.exit_code == 0, made.stderr
    assert "taut tighten" not in made.stderr.partition("next:")[2]
    refused = call("tighten", "run")
    assert refused.exit_code == 2
    for said in (made.stdout, refused.stderr, call("score", "run").stderr):
        assert "--kind real" in said


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"objective": "ELBO()"}, "has no density, and so no bound"),
        ({"posterior": "DiagonalNormal()"}, "posterior is of a VAE"),
        ({"kind": "count"}, "another --kind"),
        ({"model": "GAN(loss='hinge')"}, "loss must be"),
        ({"likelihood": "StudentT()"}, "whose scale is not decoded"),
    ],
)
def test_what_a_gan_cannot_be_trained_with_is_refused(
    settings: dict[str, Any], words: str, here: Path
) -> None:
    np.save("counts.npy", np.arange(120).reshape(60, 2))
    name = "counts.npy" if "kind" in settings else "lines.npy"
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        taut.fit(name, "run", **FEW | settings)
    assert not Path("run").exists()


def test_a_game_is_for_a_gan_alone(here: Path) -> None:
    with pytest.raises(UsageError, match=r"Adversarial.* is for a GAN"):
        taut.fit("lines.npy", "run", objective="Adversarial()", max_epochs=1)
