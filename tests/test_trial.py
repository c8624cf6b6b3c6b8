"""A short trial of training the encoder on: what it closes of a planted gap."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from instances import make_hierarchies
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from ztest import limit

import taut
from taut import posteriors, priors
from taut.evidence.audit import Effort, audit
from taut.evidence.finding import show, worth
from taut.evidence.gaps_section import GapsSection, _tried
from taut.evidence.section import Scene
from taut.evidence.trial import STEPS, trial
from taut.model import Posterior
from taut.system.errors import UsageError

SCALE, ROWS = 0.5, 1000


class Shifted(Posterior):
    """The exact posterior, its mean off by a vector that can be learned."""

    def __init__(self, problem: taut.LinearGaussian, shift: float) -> None:
        super().__init__()
        self.exact = problem
        self.shift = nn.Parameter(torch.full((2,), shift))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Independent:
        exact = self.exact.posterior(x)
        return Independent(Normal(exact.mean + self.shift, exact.stddev), 1)


@pytest.fixture
def problem() -> taut.LinearGaussian:
    """Its posterior has independent dimensions: the columns of its weights are orthonormal."""
    torch.manual_seed(0)
    made = taut.LinearGaussian(5, 2, scale=SCALE)
    with torch.no_grad():
        made.likelihood.weight.copy_(torch.linalg.qr(torch.randn(5, 2)).Q)
    return made


def gap(shift: float) -> float:
    """The KL between two Gaussians of variance 1 / (1 + 1 / sigma^2) in each of two dimensions."""
    return shift**2 * (1 + 1 / SCALE**2)


def left(shift: float, steps: int) -> float:
    """What is left of the shift: the path derivative of the gap has no noise here, and Adam at the
    rates of a trial can be followed exactly.
    """
    own = torch.tensor(shift, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([own], lr=1.0)
    for step in range(steps):
        adam.param_groups[0]["lr"] = 4e-4 * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        own.grad = own.detach() * (1 + 1 / SCALE**2)
        adam.step()
    return own.item()


@pytest.mark.parametrize(("shift", "steps"), [(0.05, STEPS), (0.4, STEPS), (0.4, 100), (0.4, 0)])
def test_a_trial_closes_what_its_steps_reach(
    problem: taut.LinearGaussian, shift: float, steps: int
) -> None:
    """False alarms: four comparisons at ALPHA 1e-6 in all."""
    model = problem.model(Shifted(problem, shift))
    before = copy.deepcopy(model.state_dict())
    value, error = trial(model, problem.sample(300), problem.sample(ROWS), steps=steps, seed=1)
    assert value.shape == error.shape == (ROWS,)
    expected = gap(shift) - gap(left(shift, steps))
    of_mean = float(error.square().sum().sqrt() / ROWS)
    assert of_mean < gap(shift) / 10
    assert abs(float(value.mean()) - expected) <= limit(4) * of_mean
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    if not steps:  # the same noise before and after
        assert not value.any()
    if steps == STEPS:
        assert expected > (0.95 if shift < 0.1 else 0.3) * gap(shift)


def test_few_rows_are_joined_by_rows_that_the_model_draws(
    problem: taut.LinearGaussian, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen = problem.model(Shifted(problem, 0.1)), []
    redraw = taut.VAE.redraw

    def noted(self: taut.VAE, x: Tensor) -> Tensor:
        seen.append(len(x))
        return redraw(self, x)

    monkeypatch.setattr(taut.VAE, "redraw", noted)
    trial(model, problem.sample(300), problem.sample(5), steps=3)
    assert seen == [50, 50, 50]
    trial(model, problem.sample(10_000), problem.sample(5), steps=3)
    assert len(seen) == 3


def test_a_trial_asks_every_ten_steps_whether_to_stop(problem: taut.LinearGaussian) -> None:
    model, asked = problem.model(Shifted(problem, 0.1)), []

    def stop() -> bool:
        asked.append(len(asked))
        return len(asked) == 3

    x = problem.sample(20)
    assert trial(model, x, x[:5], steps=500, stop=stop) is None
    assert len(asked) == 3
    assert trial(model, x, x[:5], steps=11, stop=lambda: False) is not None


def test_a_richer_family_that_cannot_be_built_ends_no_audit(problem: taut.LinearGaussian) -> None:
    def make() -> taut.VAE:
        raise UsageError("parts of the user's own")

    model = problem.model(Shifted(problem, 0.1))
    data = problem.sample(20)
    scene = Scene(model, data, train=data, richer={"Broken()": make})
    zero, sure = ({"value": v, "test_error": 0.01, "mc_error": 0.0} for v in (0.0, 1.0))
    gaps = {"num_data": 20, "amortization_gap": zero, "approximation_gap": sure}
    assert _tried(scene, gaps, None) == {"trials": []}


def test_a_posterior_that_is_not_its_own_is_not_tried(problem: taut.LinearGaussian) -> None:
    """There is nothing to learn, the prior would move with the encoder, or both share their states;
    models without a posterior of their own have none.
    """
    model = problem.model(Shifted(problem, 0.1))
    assert model.own_posterior() is model.posterior
    assert problem.model().own_posterior() is None
    posterior = posteriors.DiagonalNormal((5,), 2)
    shared = taut.VAE(priors.VampPrior(3), problem.likelihood, posterior)
    assert shared.own_posterior() is None
    assert all(model.own_posterior() is None for model in make_hierarchies())
    assert taut.Mixture((1,), ["category"], 2, [3]).own_posterior() is None


def test_the_finding_is_worth_what_a_trial_closes(problem: taut.LinearGaussian) -> None:
    model = problem.model(Shifted(problem, 0.5))
    effort = Effort(
        num_samples=200, max_temperatures=20, simulated=10, samples=50, task_seconds=0.1
    )
    found = audit(model, problem.sample(60), train=problem.sample(300), effort=effort)
    gaps, finding = found["gaps"], found["findings"][0]
    assert finding["name"] == "amortization gap"
    assert finding["nats"] == gaps["trial_gain"]["value"] > 0
    gap = gaps["amortization_gap"]
    assert gaps["trial_gain"]["value"] < gap["value"] == finding["most"]
    assert gap["test_error"] == finding["most_error"] > 0
    least, most = f"{finding['nats']:.2f} ± {finding['error']:.2f}", show(gap)
    assert worth(finding) == f"{least} nats of ELBO, at most {most.removesuffix(' nats')}"
    assert f"in a trial of {STEPS} steps" in " ".join(map(str, finding.values()))


def test_what_a_finding_is_worth_has_both_errors() -> None:
    known = {"nats": 0.3, "error": 0.05, "most": 2.5, "most_error": 0.2, "raises": "ELBO"}
    assert worth(known) == "0.30 ± 0.05 nats of ELBO, at most 2.50 ± 0.20"
    assert worth(known | {"most": 0.2}) == "0.30 ± 0.05 nats of ELBO"
    assert worth({"nats": 0.3, "error": None, "raises": ""}) == "0.30 nats"
    assert worth({"nats": 0.0, "raises": ""}) == "harmless"
    assert worth({"nats": None}) == ""


def test_the_most_that_a_family_can_be_worth_is_what_the_ascents_reached() -> None:
    """Its parts are of the same rows: their errors add up at most."""
    parts = {"amortization_gap": {"value": 0.5, "test_error": 0.1}, "full_covariance_gain": None}
    assert GapsSection(parts)._reached() == {"value": 0.5, "test_error": 0.1}
    both = parts | {"full_covariance_gain": {"value": 2.0, "test_error": 0.2}}
    reached = GapsSection(both)._reached()
    assert reached == {"value": 2.5, "test_error": pytest.approx(0.3, abs=1e-12)}
