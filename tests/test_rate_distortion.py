"""The rate-distortion curve of one decoder: closed forms, chains beside them; and of a study."""

from __future__ import annotations

import itertools
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from test_cells import run
from torch import Tensor
from torch.distributions import MultivariateNormal

import taut
from taut import likelihoods
from taut.build.config import Config
from taut.evidence import rate_distortion as module
from taut.evidence.rate_distortion import affine_of, rate_distortion
from taut.runs.assemble import merge
from taut.runs.curve import _run_at, betas_of, study
from taut.runs.folder import read_data
from taut.runs.telling import Telling


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.set_default_dtype(torch.float64)


BETAS = (0.1, 1.0, 10.0, 100.0)


def log_z(problem: taut.LinearGaussian, x: Tensor, beta: float) -> Tensor:
    """Returns log of the integral of p(z) p(x|z)^beta: p(x|z)^beta is a Normal of variance s^2 /
    beta times what does not depend on z.
    """
    w, sigma = problem.likelihood.weight, problem.likelihood.scale
    size = len(w)
    covariance = w @ w.T + sigma**2 / beta * torch.eye(size)
    narrow = 0.5 * size * ((1 - beta) * math.log(2 * math.pi * sigma**2) - math.log(beta))
    return MultivariateNormal(problem.likelihood.bias, covariance).log_prob(x) + narrow


def problem_and_data() -> tuple[taut.LinearGaussian, Tensor]:
    problem = taut.LinearGaussian(5, 2, scale=0.6)
    return problem, problem.sample(40)


def test_rate_and_distortion_are_the_parts_of_the_closed_form() -> None:
    """-log Z = R + beta D of each datum, at any beta; D is its derivative, R a divergence."""
    problem, x = problem_and_data()
    points = rate_distortion(problem.model(), x, BETAS)
    assert [p.method for p in points] == ["exact"] * 4
    for point in points:
        total = point.rate.value + point.beta * point.distortion.value
        expected = -float(log_z(problem, x, point.beta).mean().detach())
        assert total == pytest.approx(expected, abs=1e-10 * max(1, point.beta))
        b = torch.tensor(point.beta, requires_grad=True)
        (slope,) = torch.autograd.grad(_mean_log_z(problem, x, b), b)
        assert point.distortion.value == pytest.approx(-float(slope), abs=1e-10)


def _mean_log_z(problem: taut.LinearGaussian, x: Tensor, beta: Tensor) -> Tensor:
    w, sigma = problem.likelihood.weight.detach(), problem.likelihood.scale
    covariance = w @ w.T + sigma**2 / beta * torch.eye(len(w))
    narrow = 0.5 * len(w) * ((1 - beta) * math.log(2 * math.pi * sigma**2) - beta.log())
    normal = MultivariateNormal(problem.likelihood.bias.detach(), covariance)
    return (normal.log_prob(x) + narrow).mean()


def test_at_weight_one_the_sum_is_the_evidence() -> None:
    problem, x = problem_and_data()
    (point,) = rate_distortion(problem.model(), x, [1.0])
    expected = -float(problem.log_evidence(x).mean().detach())
    assert point.rate.value + point.distortion.value == pytest.approx(expected, abs=1e-10)


def test_the_rate_is_the_divergence_of_the_optimum() -> None:
    """At weight 1 the optimum is the posterior."""
    problem, x = problem_and_data()
    (point,) = rate_distortion(problem.model(), x, [1.0])
    q = problem.posterior(x)
    prior = MultivariateNormal(torch.zeros(2), torch.eye(2))
    rate = torch.distributions.kl_divergence(q, prior).mean()
    assert point.rate.value == pytest.approx(float(rate.detach()), abs=1e-10)


def test_chains_find_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 5 Monte Carlo errors, which are small."""
    problem, x = problem_and_data()
    exact = rate_distortion(problem.model(), x[:16], BETAS[:3])
    monkeypatch.setattr(module, "affine_of", lambda model, x: None)
    chains = rate_distortion(problem.model(), x[:16], BETAS[:3], num_chains=32)
    for a, b in zip(exact, chains, strict=True):
        assert b.method == "annealing"
        assert b.unreliable <= 2
        for one, other in ((a.rate, b.rate), (a.distortion, b.distortion)):
            assert other.mc_error is not None
            assert abs(one.value - other.value) < 5 * other.mc_error
            assert other.mc_error < 0.5


def test_few_temperatures_are_made_up_for_by_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a step from the prior: without weights the distortion is that of chains on their way."""
    problem, x = problem_and_data()
    problem.likelihood.weight.data *= 0.3
    (exact,) = rate_distortion(problem.model(), x[:6], [1.0])
    monkeypatch.setattr(module, "affine_of", lambda model, x: None)
    (found,) = rate_distortion(problem.model(), x[:6], [1.0], num_chains=800, max_temperatures=1)
    assert found.distortion.mc_error
    assert abs(found.distortion.value - exact.distortion.value) < 5 * found.distortion.mc_error
    assert found.distortion.mc_error < 0.2


def test_chains_of_a_nonlinear_decoder_agree_with_a_grid() -> None:
    """One dimension: sums over 4,001 points, for bits."""
    likelihood = taut.Bernoulli((6,), 1, partial(taut.MLP, hidden=(5,)))
    for parameter in likelihood.parameters():
        parameter.data += torch.randn_like(parameter)
    encoder = taut.DiagonalNormal((6,), 1, taut.Linear)
    model = taut.VAE(taut.StandardNormal(1), likelihood, encoder)
    x = torch.randint(0, 2, (12, 6)).double()
    z = torch.linspace(-9, 9, 4001)
    with torch.no_grad():
        fit = likelihood(z[:, None, None]).log_prob(x[None])  # (points, N)
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(z)[:, None]
    for point in rate_distortion(model, x, (0.5, 1.0, 8.0), num_chains=64):
        joint = prior + point.beta * fit + math.log(float(z[1] - z[0]))
        mass = joint.softmax(0)
        distortion = -(mass * fit).sum(0)
        rate = -joint.logsumexp(0) - point.beta * distortion
        assert point.rate.mc_error
        assert point.distortion.mc_error
        apart = abs(point.distortion.value - float(distortion.mean()))
        assert apart < 5 * point.distortion.mc_error < 0.5
        assert abs(point.rate.value - float(rate.mean())) < 5 * point.rate.mc_error < 0.5
        assert point.method == "annealing"


def test_the_curve_falls_and_its_rate_rises() -> None:
    problem, x = problem_and_data()
    points = rate_distortion(problem.model(), x, BETAS)
    for before, after in itertools.pairwise(points):
        assert after.rate.value > before.rate.value
        assert after.distortion.value < before.distortion.value


def test_which_decoders_are_affine() -> None:
    problem, x = problem_and_data()
    found = affine_of(problem.model(), x)
    assert found is not None
    torch.testing.assert_close(found.weight, problem.likelihood.weight.data, atol=1e-10, rtol=0)
    torch.testing.assert_close(found.bias, problem.likelihood.bias.data, atol=1e-10, rtol=0)
    gaps = x.clone()
    gaps[3, 1] = math.nan
    assert affine_of(problem.model(), gaps) is None
    encoder = taut.DiagonalNormal((5,), 2, taut.Linear)
    settings = {"data_loc": 1.0, "data_scale": 2.0}
    for decoder, scale, affine in (
        (taut.Linear, "shared", True),
        (taut.Linear, "per_feature", True),
        (taut.Linear, "per_entry", False),
        (partial(taut.MLP, hidden=(4,)), "shared", False),
    ):
        part = taut.Normal((5,), 2, scale, decoder=decoder, **settings)
        for parameter in part.parameters():
            parameter.data += 0.5 * torch.randn_like(parameter)
        model = taut.VAE(taut.StandardNormal(2), part, encoder)
        assert (affine_of(model, x) is not None) == affine, (decoder, scale)
    log_normal = likelihoods.LogNormal((5,), 2, "shared", decoder=taut.Linear)
    assert affine_of(taut.VAE(taut.StandardNormal(2), log_normal, encoder), x) is None
    mixture = taut.VAE(taut.GaussianMixture(2), problem.likelihood, encoder)
    assert affine_of(mixture, x) is None


def test_weights_must_be_positive() -> None:
    problem, x = problem_and_data()
    for betas in ((), (0.0, 1.0), (1.0, math.inf)):
        with pytest.raises(ValueError, match="positive weights beta"):
            rate_distortion(problem.model(), x, betas)
    bits = taut.BinaryLatents()
    with pytest.raises(ValueError, match="continuous latent variables"):
        rate_distortion(bits.model(), bits.sample(3), [1.0])


# --- Studies --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    path = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    edge = rng.integers(0, 5, 300)
    images = np.arange(5)[None, :] < edge[:, None]
    np.save(path / "x.npy", (images[:, None] & np.ones((1, 5, 1), bool)).astype(np.uint8))
    done = run("curve", path / "x.npy", "--beta", "0.5,8", *QUICK, "--out", path / "study")
    assert done.exit_code == 0, done.stderr
    torch.set_default_dtype(before)
    return path


QUICK = ("--latent-dim", "2", "--max-epochs", "15", "--threads", "1", "--num-samples", "50")


def test_a_study_holds_a_run_for_each_weight(folder: Path) -> None:
    found = json.loads((folder / "study" / "curve.json").read_text())
    assert [row["beta"] for row in found["runs"]] == [0.5, 8.0]
    low, high = found["runs"]
    assert low["rate"]["value"] > high["rate"]["value"]
    assert low["distortion"]["value"] < high["distortion"]["value"]
    for row in found["runs"]:
        loaded = taut.load(row["run"])
        assert loaded.config.training.objective == f"ELBO(beta={row['beta']:.3g})"
        known = loaded.evaluation()
        total = -known["rate"]["value"] - known["distortion"]["value"]
        assert row["elbo"]["value"] == pytest.approx(total, abs=1e-4)  # at beta 1, whatever beta
        assert set(row["sharpness"]) == {"reconstructions", "samples"}
        assert row["classifier"] is None  # 30 rows are too few


def test_a_study_goes_on_with_what_is_missing(folder: Path) -> None:
    manifest = folder / "study" / "beta-0.5" / "manifest.json"
    before = manifest.stat().st_mtime_ns
    options = ("--beta", "0.5,2,8", *QUICK, "--out", folder / "study", "--json")
    done = run("curve", folder / "x.npy", *options)
    assert [row["beta"] for row in json.loads(done.stdout)["runs"]] == [0.5, 2.0, 8.0]
    assert manifest.stat().st_mtime_ns == before
    done = run("picture", folder / "study", "curve", "--out", folder / "c.svg")
    assert done.exit_code == 0, done.stderr
    done = run("picture", folder / "study", "map", "--out", folder / "m.svg")
    assert "is a study" in done.stderr
    file = folder / "study" / "curve.json"
    whole = file.read_text()
    for broken in ("{", whole.replace("0.5", "0.6", 1)):
        file.write_text(broken)
        done = run("picture", folder / "study", "curve", "--out", folder / "d.svg")
        assert (done.exit_code, done.stderr.count("\n")) == (5, 1)
        assert "curve.json is damaged" in done.stderr
    file.write_text(whole)


def test_a_run_starts_from_the_weights_of_the_one_before(folder: Path, tmp_path: Path) -> None:
    before = taut.load(folder / "study" / "beta-8")
    config = before.config.to_dict()
    config["training"] |= {"learning_rate": 0.0, "max_epochs": 1, "objective": None}
    config = Config.from_dict(config)
    data, path = read_data(str(folder / "x.npy"), config), tmp_path / "next"
    after = _run_at(4.0, data, path, config, before, Telling(False))
    for name, value in before.model.state_dict().items():
        torch.testing.assert_close(after.model.state_dict()[name], value, rtol=0, atol=1e-6)


def test_the_curve_of_a_decoder_is_told_in_lines(folder: Path) -> None:
    one = folder / "study" / "beta-0.5"
    done = run("curve", one, "--beta", "0.5,1", "--num-data", "5")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.count("annealing") == 2
    assert " ± " in done.stdout
    assert "\N{REPLACEMENT CHARACTER}" not in done.stdout
    done = run("curve", one, "--beta", "1", "--max-epochs", "3")
    assert "trains nothing" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--beta", "1..x"), "write it like --beta 0.1..16"),
        (("--beta", "0,1"), "write it like --beta 0.1..16"),
        (("--model", "FactorAnalysis()", "--beta", "1"), "objective is of a VAE"),
    ],
)
def test_what_has_no_curve_is_refused(
    folder: Path, arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    reals = tmp_path / "r.npy"
    np.save(reals, np.random.default_rng(0).normal(size=(60, 3)))
    done = run("curve", reals, *arguments, "--out", tmp_path / "s")
    assert done.exit_code == 2, done.output
    assert words in done.stderr


def test_a_folder_of_other_runs_is_refused(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.random.default_rng(1).integers(0, 2, (80, 5, 5)))
    options = ("--beta", "0.5", *QUICK, "--out", folder / "study")
    done = run("curve", tmp_path / "y.npy", *options)
    assert "a run of other data or aims" in done.stderr
    for changed, words in (
        (("--max-epochs", "3"), "was trained with training.max_epochs = 15"),
        (("--latent-dim", "3"), "was trained with model.latent_dim = 2"),
    ):  # which was taken for what was asked for
        done = run("curve", folder / "x.npy", *options, *changed)
        assert done.exit_code == 2, done.output
        assert words in done.stderr
    with pytest.raises(taut.UsageError, match="omit the objective"):
        study("digits", [1.0], tmp_path / "z", merge(Config(), {"objective": "IWAE()"}))


def test_ranges_hold_one_and_are_of_equal_ratios() -> None:
    assert betas_of("0.25..8") == [0.25, 0.5, 1, 2, 4, 8]
    assert betas_of("1..32") == [1, 2, 4, 8, 16, 32]
    assert 1.0 in betas_of("0.1..16")
    assert betas_of("4,1,4") == [1, 4]
