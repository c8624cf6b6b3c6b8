"""The audit on models with a planted fault, each of which the doctor must name first, and on
healthy ones, which have none.
"""

from __future__ import annotations

import json
import math

import pytest
import torch
from hurried import hurry
from test_gaps import MeanField
from torch import nn

import taut
from taut import posteriors
from taut.evidence.audit import Effort, audit
from taut.evidence.best import best, log_evidence
from taut.evidence.doctor import diagnose
from taut.evidence.importance import curve_sizes
from taut.evidence.overfitting import overfitting
from taut.evidence.sandwich import sandwich
from taut.system.seeds import derive

QUICK = Effort(
    num_samples=500,
    num_chains=8,
    max_temperatures=50,
    optimum_steps=150,
    simulated=20,
    naive=20,
    train=2000,
    samples=300,
)


def linear(weight: torch.Tensor, scale: float = 0.5) -> taut.LinearGaussian:
    problem = taut.LinearGaussian(*weight.shape, scale)
    with torch.no_grad():
        problem.likelihood.weight.copy_(weight)
        problem.likelihood.bias.zero_()
    return problem


ORTHOGONAL = torch.tensor([[1.0, 1, 1, 1, 0, 0], [1, -1, 1, -1, 0, 0]]).T
CORRELATED = torch.tensor([[1.0, 1, 1, 1, 1, 1], [1.0, 1, 1, 1, 1, 0.7]]).T


def healthy() -> dict:
    problem = linear(ORTHOGONAL)
    return check(problem.model(), problem.sample(400), problem.sample(2000))


def check(model: taut.VAE, x: torch.Tensor, train: torch.Tensor | None) -> dict:
    baseline = None
    if train is not None:
        baseline = torch.distributions.Normal(train.mean(0), train.std(0)).log_prob(x).sum(1)
    return audit(model, x, train=train, baseline=baseline, effort=QUICK)


def small_encoder() -> dict:
    # the family holds the exact posterior, and every mean is off by 1.5 of its scales
    problem = linear(ORTHOGONAL)
    return check(problem.model(MeanField(problem, 1.5)), problem.sample(300), problem.sample(2000))


def poor_family() -> dict:
    problem = linear(CORRELATED)
    return check(problem.model(MeanField(problem)), problem.sample(300), problem.sample(2000))


def simple_prior() -> dict:
    problem = linear(torch.ones(6, 1), 0.3)

    def clusters(
        n: int,
    ) -> torch.Tensor:  # z is at -1 or 1, not normal, with the prior's mean and variance
        z = 2.0 * torch.randint(2, (n, 1)) - 1 + 0.1 * torch.randn(n, 1)
        return z @ torch.ones(1, 6) + 0.3 * torch.randn(n, 6)

    return check(problem.model(), clusters(600), clusters(2000))


def overfitted() -> dict:
    problem = linear(ORTHOGONAL, 1.0)
    train, x = problem.sample(15), problem.sample(400)
    best = taut.probabilistic_pca(train, 3)  # nine directions and a scale, fitted to fifteen rows
    fitted = linear(best.weight, best.scale)
    with torch.no_grad():
        fitted.likelihood.bias.copy_(best.loc)
    return check(fitted.model(), x, train)


def collapsed() -> dict:
    problem = linear(torch.zeros(6, 2))
    return check(problem.model(), problem.sample(400), problem.sample(2000))


def floored() -> dict:
    problem = linear(ORTHOGONAL, 0.1)
    train, x = problem.sample(1000), problem.sample(400)
    settings = {
        "latent_dim": 2,
        "max_epochs": 60,
        "encoder": "Linear()",
        "decoder": "Linear()",
        "learning_rate": 0.03,
    }
    run = taut.fit(train, **settings, likelihood="Normal(min_scale=0.5)")
    return check(run.model, x, train)


@pytest.mark.parametrize(
    ("make", "first"),
    [
        (small_encoder, "amortization gap"),
        (poor_family, "approximation gap"),
        (simple_prior, "prior"),
        (overfitted, "overfitting"),
        (collapsed, "collapse"),
        (floored, "scale at its floor"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_planted_fault_is_the_first_finding(make, first: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = make()["findings"]
    assert [f["name"] for f in found][:1] == [first], found
    worth = [f["nats"] for f in found if f["nats"] is not None]
    assert worth == sorted(worth, reverse=True)
    assert min(worth, default=0.0) >= 0


def test_a_healthy_model_has_no_finding_and_every_section() -> None:
    found = healthy()
    assert found["findings"] == []
    json.dumps(found, allow_nan=False)
    problem = linear(ORTHOGONAL)
    assert found["gaps"]["inference_gap"]["value"] == pytest.approx(0, abs=1e-9)
    assert found["log_evidence"]["reliable_share"] == 1.0
    assert found["sandwich"]["width"]["value"] == pytest.approx(0, abs=1e-9)
    absent = [name for name, value in found.items() if value is None]
    tasks = ["task_gaps", "task_odd", "task_synthetic", "task_embedding"]
    of_a_run = ["after_training", "exact_baseline", "columns", "column_shapes"]
    of_others = ["enumeration", "blur", "levels", "steps", "stopped"]
    assert set(absent) == {*of_a_run, *of_others, *tasks}
    torch.manual_seed(0)
    x = linear(ORTHOGONAL).sample(400)
    expected = problem.log_evidence(x).detach()
    assert found["log_evidence"]["value"] == pytest.approx(
        expected.mean().item(), abs=4 * expected.std().item() / 20
    )


def test_a_fitted_healthy_model_has_none_either(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    problem = linear(ORTHOGONAL)
    train = problem.sample(2000)
    run = taut.fit(
        train,
        latent_dim=2,
        max_epochs=40,
        encoder="Linear()",
        decoder="Linear()",
        learning_rate=0.02,
    )
    assert check(run.model, problem.sample(500), train)["findings"] == []


def test_a_row_without_a_number_is_found_and_is_not_reliable() -> None:
    class Broken(taut.Likelihood):
        def forward(self, z, context=None):
            return torch.distributions.Independent(
                torch.distributions.Normal(z, 1.0, False), 1, validate_args=False
            )

    class Overflowing(taut.Posterior):
        def forward(self, x, context=None):
            far = (x.abs() > 1e6).any(1, keepdim=True)
            q = torch.distributions.Normal(torch.where(far, torch.nan, x / 2), 0.7, False)
            return torch.distributions.Independent(q, 1, validate_args=False)

    x = torch.randn(40, 2)
    x[7, 1] = 1e8
    x[9] = torch.inf
    found = audit(
        taut.VAE(taut.StandardNormal(2), Broken(), Overflowing()),
        x,
        effort=Effort(50, 2, 3, 3, 3, 3, 3, 3),
    )
    count = found["log_evidence"]["num_unknown"]
    assert count >= 1
    assert found["log_evidence"]["reliable_share"] <= 1 - count / 40
    (finding,) = [f for f in found["findings"] if f["name"] == "rows without a number"]
    assert finding["evidence"].startswith(f"{count} of 40 rows")
    json.dumps(found, allow_nan=False)


def test_what_cannot_be_measured_is_said() -> None:
    problem = taut.BinaryLatents()
    model = problem.model(posteriors.IndependentBernoulli((6,), 3, taut.Linear))
    found = check(model, problem.sample(50), None)
    assert found["annealing"] is None
    assert found["gaps"] is None
    assert any("no annealing" in n and "discrete" in n for n in found["notes"])
    assert any("no gaps" in n and "cannot be reparameterized" in n for n in found["notes"])
    by = found["log_evidence"]["by"]
    # three bits can be summed where k-hat fails
    assert by["importance"] + by.get("enumeration", 0) == 50
    assert found["overfitting"] is None


@pytest.mark.parametrize(("n", "num_samples"), [(1, 500), (2, 1), (3, 20)])
def test_few_data_and_few_samples(n: int, num_samples: int) -> None:
    problem = linear(ORTHOGONAL)
    posterior = taut.DiagonalNormal((6,), 2, taut.Linear)
    found = audit(
        problem.model(posterior),
        problem.sample(n),
        effort=Effort(num_samples, 4, 5, 20, simulated=3, naive=2),
    )
    json.dumps(found, allow_nan=False)
    assert found["num_data"] == n


def test_stopping_keeps_what_is_done() -> None:
    problem = linear(ORTHOGONAL)
    model, x = problem.model(MeanField(problem)), problem.sample(200)
    found = audit(model, x, effort=QUICK, stop=lambda: True)
    assert (found["stopped"], found["num_data"]) == ("stopped", 32)  # one block
    assert found["gaps"] is None
    assert found["latents"] is None
    stages: list[str] = []

    def started(title: str, share: float, _: object) -> None:
        if share:
            stages.append(title)

    found = audit(
        model, x, effort=QUICK, stop=lambda: "log p(x) by annealing" in stages, report=started
    )
    assert (found["num_data"], found["annealing"]["num_data"], found["gaps"]) == (200, 200, None)
    json.dumps(found, allow_nan=False)
    assert audit(model, x, effort=QUICK)["stopped"] is None
    brief = audit(model, x, effort=Effort(**{**QUICK.__dict__, "minutes": 0.0}))
    assert brief["stopped"] == "time"
    assert brief["num_data"] == 32


def test_better_estimates_of_the_first_data_correct_the_rest() -> None:
    """Where annealing stopped after 100 of 300 data, log p(x) of all is importance sampling plus
    the mean difference there.
    """
    from taut.evidence.annealing import Annealed

    problem = linear(CORRELATED)
    evidence = taut.importance(problem.model(), problem.sample(300), 50)
    better = evidence.log_evidence[:100] + 0.5
    fine = torch.ones(100)
    annealed = Annealed(
        16,
        "lower bound in expectation",
        better,
        0.01 * fine,
        16 * fine,
        0.1 * fine,
        0.9 * fine,
        fine,
        fine,
    )
    from dataclasses import replace

    # with the exact posterior there is none of importance sampling
    error = torch.linspace(0.01, 0.03, 300, dtype=torch.float64)
    doubtful = replace(
        evidence,
        khat=torch.full((300,), 2.0),
        ess=torch.full((300,), 1.0),
        log_evidence_error=error,
    )
    found = log_evidence(doubtful, best(doubtful, annealed, []), None)
    assert found["value"] == pytest.approx(evidence.log_evidence.mean().item() + 0.5, abs=1e-9)
    assert found["test_error"] == pytest.approx(
        evidence.log_evidence.std().item() / 300**0.5, abs=1e-9
    )
    both = (0.01**2 / 100 + error.square().sum().item() / 300**2) ** 0.5
    assert found["mc_error"] == pytest.approx(both, rel=1e-9)
    assert found["by"] == {"importance": 0, "importance_from_optimum": 0, "annealing": 100}
    assert found["num_data"] == 300


def estimate(value: float, error: float = 0.01) -> dict[str, float]:
    return {"value": value, "mc_error": 0.0, "test_error": error}


def test_findings_need_a_number_that_is_large_and_sure() -> None:
    def gaps(value: float, error: float) -> list[str]:
        sections = {name: estimate(0.0) for name in ("approximation_gap", "inference_gap")}
        return [
            f["name"]
            for f in diagnose({"gaps": {**sections, "amortization_gap": estimate(value, error)}})
        ]

    assert gaps(0.5, 0.1) == ["amortization gap"]
    assert gaps(0.5, 0.2) == []  # within three standard errors
    assert gaps(0.09, 0.001) == []  # not worth it
    assert diagnose({}) == []


def test_findings_of_dimensions_samples_and_scales() -> None:
    space = {
        "active_units": 1,
        "latent_dim": 6,
        "dead": [1, 2, 3, 4],
        "noisy": [5],
        "noisy_rate": estimate(0.7),
        "rate": estimate(2.0),
        "prior_gain": None,
    }
    curve = [{"num_samples": 10, **estimate(-5.0)}, {"num_samples": 100, **estimate(-4.5)}]
    doubtful = {
        "log_evidence": {**estimate(-4.0), "reliable_share": 0.3},
        "evidence": {"curve": curve},
    }
    scale = {
        "gain": estimate(1.5),
        "factor": {"median": 1.0, "smallest": 0.5, "largest": 2.0},
        "at_floor": None,
    }
    found = diagnose({"latents": space, "scale": scale, **doubtful})
    assert [(f["name"], f["nats"]) for f in found] == [
        ("scale", 1.5),
        ("noisy dimensions", 0.7),
        ("too few samples", 0.5),
        ("dead dimensions", 0.0),
    ]
    assert "30%" in found[2]["evidence"]
    gain = diagnose({"gain_over_baseline": estimate(0.05), "baseline": estimate(-7.0)})
    assert [f["name"] for f in gain] == ["baseline"]


def test_commands_of_findings_are_commands() -> None:
    """Every command that the doctor names is one that taut has, with its options and with parts
    that can be built.
    """
    import re
    import shlex

    from typer.testing import CliRunner

    from taut.build.spec import parse
    from taut.cli.app import app

    number, no = estimate(1.0), estimate(0.0)
    space = {
        "active_units": 1,
        "latent_dim": 9,
        "dead": [1] * 7,
        "noisy": [5],
        "noisy_rate": number,
        "rate": number,
        "prior_gain": number,
    }
    gaps = dict.fromkeys(
        ("amortization_gap", "approximation_gap", "inference_gap", "full_covariance_gain"), number
    )
    factor = {"median": 1.0, "smallest": 0.5, "largest": 2.0}
    over = {
        "log_evidence": {"difference": number},
        "elbo": {"difference": number},
        "num_samples": 5,
    }
    whole = {
        "latents": space, "gaps": gaps, "overfitting": over, "gain_over_baseline": no,
        "log_evidence": {**number, "reliable_share": 0.1},
    }  # fmt: skip
    few = {
        **whole,
        "gaps": {k: v for k, v in gaps.items() if k != "full_covariance_gain"},
        "latents": {**space, "dead": list(range(9))},
    }
    found = [
        f
        for floor in (None, 0.5)
        for audited in (whole, few)
        for f in diagnose(
            {**audited, "scale": {"gain": number, "factor": factor, "at_floor": floor}}
        )
    ]
    assert len({f["name"] for f in found}) == 11
    for line in {f["command"] for f in found}:
        words = shlex.split(line)
        output = CliRunner().invoke(app, [words[1], "--help"]).output
        for option in re.findall(r"--[a-z-]+", line):
            assert option in output, line
        for word in words[2:]:
            if "(" in word:
                parse(word)


def test_modules_without_parameters_are_audited_too() -> None:
    class Fixed(taut.Likelihood):
        def forward(self, z, context=None):
            return torch.distributions.Independent(torch.distributions.Normal(z, 0.5), 1)

    class Known(taut.Posterior):
        def forward(self, x, context=None):
            return torch.distributions.Independent(torch.distributions.Normal(0.8 * x, 0.2**0.5), 1)

    model = taut.VAE(taut.StandardNormal(2), Fixed(), Known())
    assert not list(nn.ModuleList([model]).parameters())
    x = 1.25**0.5 * torch.randn(200, 2)
    found = audit(model, x, train=1.25**0.5 * torch.randn(500, 2), effort=QUICK)
    assert found["gaps"]["inference_gap"]["value"] == pytest.approx(0, abs=1e-9)


def test_overfitting_compares_the_same_bound_of_the_same_number_of_samples() -> None:
    problem = linear(CORRELATED)
    model, x, train = problem.model(MeanField(problem, 1.0)), problem.sample(40), problem.sample(50)
    evidence = taut.importance(model, x, 2000, seed=3)
    found = overfitting(model, train, evidence, None, 0)
    assert (found["num_data"], found["num_samples"]) == (40, 500)
    seen, held = (
        taut.importance(model, train[:40], 500, seed=derive(0, "train")),
        evidence.curve[:, curve_sizes(2000).index(500)],
    )
    expected = {"train": seen.log_evidence.mean().item(), "held_out": held.mean().item()}
    found = {side: value["value"] for side, value in found["log_evidence"].items()}
    assert found == pytest.approx(
        {**expected, "difference": expected["train"] - expected["held_out"]}, abs=1e-12
    )


def test_the_sandwich_has_its_upper_slice_above() -> None:
    """With three temperatures the sides are apart by much more than their errors."""
    problem = linear(CORRELATED, 0.2)
    found = sandwich(
        problem.model(MeanField(problem, 2.0)),
        Effort(num_samples=20, num_chains=4, max_temperatures=3, simulated=200),
        0,
    )
    upper, lower, sampled = (found[name]["value"] for name in ("upper", "lower", "importance"))
    assert found["width"]["value"] == pytest.approx(upper - lower, abs=1e-10)
    assert found["importance_short_by"]["value"] == pytest.approx(upper - sampled, abs=1e-10)
    assert found["width"]["value"] > 5 * found["width"]["test_error"]


def test_a_mixture_as_prior_is_audited_in_all_sections() -> None:
    """The prior that the doctor itself recommends."""
    model = taut.VAE(
        taut.GaussianMixture(2, components=3),
        taut.Normal((4,), 2, decoder=taut.Linear),
        taut.DiagonalNormal((4,), 2, taut.Linear),
    )
    found = audit(model, torch.randn(30, 4), train=torch.randn(100, 4), effort=QUICK)
    assert found["notes"] == []
    assert found["annealing"]["num_data"] == 30
    assert found["gaps"]["full_covariance_gain"] is not None
    assert found["latents"]["prior_gain"] is not None


def test_one_wild_value_does_not_lose_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    model = taut.VAE(
        taut.StandardNormal(2),
        taut.Normal((6,), 2, decoder=taut.Linear),
        taut.DiagonalNormal((6,), 2, taut.Linear),
    )
    problem = linear(ORTHOGONAL)
    x = problem.sample(24)
    endless = dict.fromkeys(("value", "mc_error", "test_error"), math.inf)
    found_scale = {"gain": endless, "factor": dict.fromkeys(("median", "smallest", "largest"), 1.0)}
    monkeypatch.setattr("taut.evidence.scale.scale_check", lambda *_, **__: found_scale)
    for size in (1e5, 1e30):
        x[7, 3] = size
        little = Effort(50, 4, 10, 20, simulated=5, naive=5, train=200, samples=20)
        found = audit(model, x.clone(), train=problem.sample(200), effort=little)
        json.dumps(found, allow_nan=False)
        assert found["scale"]["gain"]["value"] is None
        assert found["annealing"]["num_data"] == 24


def test_a_boundary_of_z_keeps_the_gaps_of_the_own_family() -> None:
    from test_annealing import GammaPoisson

    class Wide(taut.Posterior):
        def forward(self, x, context=None):  # the exact one is Gamma(x + 3, 3)
            return torch.distributions.Independent(
                torch.distributions.Gamma((x + 3) / 2, torch.full_like(x, 1.5)), 1
            )

    model = taut.VAE(GammaPoisson.Prior(), GammaPoisson.Likelihood(), Wide())
    found = audit(model, torch.poisson(torch.full((40, 1), 1.5)), effort=QUICK)
    assert "full_covariance_gain" not in found["gaps"]
    assert found["gaps"]["amortization_gap"]["value"] > 0.05
    # the family holds it
    assert found["gaps"]["approximation_gap"]["value"] == pytest.approx(0, abs=0.01)
    json.dumps(found, allow_nan=False)


def test_a_single_datum_supports_no_finding_and_a_stopped_audit_no_clean_bill() -> None:
    alone = {"value": 52.0, "mc_error": 0.01, "test_error": None}
    over = {"log_evidence": {"difference": alone}, "elbo": {"difference": alone}, "num_samples": 5}
    assert diagnose({"overfitting": over, "gain_over_baseline": {**alone, "value": -1.0}}) == []
    unknown = {"value": None, "mc_error": None, "test_error": None}
    assert (
        diagnose({"gain_over_baseline": unknown, "scale": {"gain": unknown, "at_floor": 0.5}}) == []
    )


def test_a_richer_family_is_only_recommended_where_it_helps() -> None:
    names = ("approximation_gap", "inference_gap")
    gaps = {
        **{n: estimate(2.0) for n in names},
        "amortization_gap": estimate(0.0),
        "full_covariance_gain": estimate(0.0),
    }
    (found,) = diagnose({"gaps": gaps})
    assert "tighten" not in found["command"]
    (found,) = diagnose({"gaps": {**gaps, "full_covariance_gain": estimate(1.5)}})
    assert "FullCovarianceNormal" in found["command"]
