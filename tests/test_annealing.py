"""Annealing against closed forms.

Unbiased in both directions, a sandwich, and transitions that leave their density alone.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import (
    Gamma,
    Independent,
    LogNormal,
    MultivariateNormal,
    NegativeBinomial,
    Poisson,
)
from ztest import assert_mean, limit

import taut
from taut import posteriors
from taut.evidence import annealing as module
from taut.evidence.annealing import Annealed, annealing, annealing_blocks, simulate
from taut.system.seeds import stream


class Off(taut.Posterior):
    """The exact posterior, moved by half a standard deviation and scaled."""

    def __init__(self, problem: taut.LinearGaussian, width: float = 0.8) -> None:
        super().__init__()
        self._problem, self.width = problem, width

    def forward(self, x, context=None):
        exact = self._problem.posterior(x, context)
        return MultivariateNormal(
            exact.mean + 0.5 * exact.stddev, self.width**2 * exact.covariance_matrix
        )


class GammaPoisson:
    """z ~ Gamma(3, 2), x ~ Poisson(z): x is negative binomial, and z lives on the
    positive numbers.
    """

    class Prior(taut.Prior):
        def forward(self, context=None):
            return Independent(Gamma(torch.full((1,), 3.0), torch.full((1,), 2.0)), 1)

    class Likelihood(taut.Likelihood):
        def forward(self, z, context=None):
            return Independent(Poisson(z), 1)

    class Posterior(taut.Posterior):
        def forward(self, x, context=None):
            return Independent(LogNormal((x + 3).log() - 1.2, torch.full_like(x, 0.7)), 1)

    @classmethod
    def model(cls) -> taut.VAE:
        return taut.VAE(cls.Prior(), cls.Likelihood(), cls.Posterior())

    @staticmethod
    def log_evidence(x: torch.Tensor) -> torch.Tensor:
        return NegativeBinomial(3.0, probs=torch.tensor(1 / 3)).log_prob(x)[:, 0]


@pytest.mark.parametrize("start", ["posterior", "prior"])
@pytest.mark.parametrize("context_dim", [0, 2])
def test_weights_are_unbiased_in_both_directions(start: str, context_dim: int) -> None:
    """E[w] = p(x) forward, and E[1/w] = 1/p(x) from exact draws, however few temperatures there
    are.

    From the prior the noise is larger: at a scale of 1 the reverse weights, of mean 1, reach 570 in
    1,500, so that their mean is far from normal and a z-test says nothing.
    """
    scale, n = {"posterior": 1.0, "prior": 4.0}[start], 1500
    problem = taut.LinearGaussian(dim_x=4, dim_z=2, scale=scale, context_dim=context_dim)
    model = problem.model(Off(problem))
    context = torch.randn(n, context_dim) if context_dim else None
    z, x = simulate(model, n, context=context, seed=3)
    truth = problem.log_evidence(x, context).detach()
    options = {"start": start, "max_temperatures": 3, "context": context}
    forward = annealing(model, x, 4, seed=1, **options)
    assert_mean((forward.log_evidence - truth).exp(), 1.0)
    backward = annealing(model, x, 4, seed=1, exact=z, **options)
    assert_mean((truth - backward.log_evidence).exp(), 1.0)
    assert (forward.direction, backward.direction) == (
        "lower bound in expectation",
        "upper bound in expectation",
    )
    assert bool((forward.num_temperatures <= 3).all())


@pytest.mark.parametrize("start", ["posterior", pytest.param("prior", marks=pytest.mark.slow)])
def test_agrees_with_the_exact_evidence_and_brackets_it(start: str) -> None:
    problem = taut.LinearGaussian(dim_x=12, dim_z=4, scale=0.3)
    model = problem.model(Off(problem, 0.5))
    z, x = simulate(model, 60, seed=1)
    truth = problem.log_evidence(x).detach()
    forward, backward = (annealing(model, x, 16, start=start, seed=2, exact=e) for e in (None, z))
    error = float(forward.log_evidence_error.square().sum().sqrt()) / 60
    assert abs(float((forward.log_evidence - truth).mean())) < 4 * error < 0.15
    assert bool(
        ((forward.log_evidence - truth).abs() < limit(60) * forward.log_evidence_error + 0.3).all()
    )
    below, above = forward.log_evidence - truth, backward.log_evidence - truth
    # each side is right to within its four standard errors
    for side, sign in (
        (below, -1),
        (above, 1),
    ):
        assert sign * float(side.mean()) > -4 * float(side.std()) / 60**0.5
    assert abs(float((above - below).mean())) < 0.2
    assert float(forward.reliable.double().mean()) > (0.9 if start == "posterior" else 0.5)
    assert float(forward.acceptance.min()) > 0.5


def test_the_error_is_that_of_repetition() -> None:
    """z = (estimate - truth) / error over 800 repetitions.

    Of variance 1 but for the uncertain errors of few chains.
    """
    problem = taut.LinearGaussian(dim_x=4, dim_z=2, scale=1.0)
    x = problem.sample(1).expand(800, -1)
    a = annealing(problem.model(Off(problem)), x, 64, max_temperatures=4, seed=5)
    z = (a.log_evidence - problem.log_evidence(x[:1]).item()) / a.log_evidence_error
    assert abs(float(z.var()) - 1) < limit(1) * math.sqrt(2 / 800) + 0.1


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_transitions_leave_their_density_invariant(beta: float) -> None:
    """Geweke's joint test at beta = 1: z | x by transitions and x | z by the likelihood, in turn,
    leave z ~ p(z).

    At another temperature f is Gaussian in z too, and chains that start in it stay in it.
    False-alarm rate 1e-6.
    """
    problem, chains = taut.LinearGaussian(dim_x=3, dim_z=2, scale=0.8), 6000
    model = problem.model(Off(problem))
    z, x = simulate(model, chains, seed=2)
    step, scale = (
        torch.full((chains,), 0.7 if beta < 1 else 1.1),
        (problem.posterior(x[:1]).stddev * torch.tensor([0.8, 1.1])).expand(chains, 2),
    )
    if beta < 1:  # f is proportional to q^(1 - beta) p(z|x)^beta, a product of Gaussians
        q, p = model.encode(x), problem.posterior(x)
        precision = (1 - beta) * q.precision_matrix + beta * p.precision_matrix
        weighted = (1 - beta) * q.precision_matrix @ q.mean[
            ..., None
        ] + beta * p.precision_matrix @ p.mean[..., None]
        f = MultivariateNormal(
            torch.linalg.solve(precision, weighted)[..., 0], precision_matrix=precision
        )
        z = f.sample()
    accepted = []
    for number in range(8):
        with torch.no_grad(), stream(number, "geweke"):
            path = module.Path(model, x, None, "posterior")
            point = path.at(z[None])
            for _ in range(2):
                point, moved = module.transition(path, point, beta, step, scale)
                accepted.append(moved)
            z = point.u[0]
            x = model.decode(z[None]).sample()[0] if beta == 1 else x
    # else the test of acceptance would test nothing
    assert 0.3 < float(torch.stack(accepted).double().mean()) < 0.97
    if beta < 1:
        # white, if f is still its density
        z = torch.linalg.solve(f.scale_tril, (z - f.mean)[..., None])[..., 0]
    assert_mean(
        torch.cat([z, z.square(), z.prod(1, keepdim=True), z**3], 1),
        torch.tensor([0.0, 0, 1, 1, 0, 0, 0]),
    )


def test_a_pilot_has_noise_of_its_own_and_chooses_by_thermodynamic_length() -> None:
    """For q = N(0, I) and p(z|x) = N(m, I) U is Gaussian with variance |m|^2 at every temperature.

    Length |m|.
    """
    m = torch.tensor([1.5, 2.0])

    class Unit(taut.Likelihood):
        def forward(self, z, context=None):  # p(z) p(x|z) is proportional to N(z; m, I)
            return Independent(torch.distributions.Normal(z * 0 + 0.0, 1.0), 1)

    class Prior(taut.Prior):
        def forward(self, context=None):
            return Independent(torch.distributions.Normal(m, torch.ones(2)), 1)

    class Standard(taut.Posterior):
        def forward(self, x, context=None):
            return Independent(torch.distributions.Normal(torch.zeros(len(x), 2), torch.ones(2)), 1)

    model = taut.VAE(Prior(), Unit(), Standard())
    a = annealing(model, torch.zeros(80, 2), 20)
    # the standard deviation of U in 20 chains of 80 data, at some 5 temperatures: known to 2 %
    assert float(a.length[0]) == pytest.approx(2.5, rel=0.1)
    assert float(a.num_temperatures[0]) == math.ceil(float(a.length[0]) ** 2 / module.VARIANCE)
    truth = torch.distributions.Normal(0.0, 1.0).log_prob(torch.zeros(2)).sum()
    assert abs(float((a.log_evidence - truth).mean())) < 4 * float(a.log_evidence.std()) / 80**0.5
    variance = float(a.log_evidence.var()) * 20  # of log w of one chain, nearly
    assert 0.5 * module.VARIANCE < variance < 2 * module.VARIANCE


def test_the_exact_posterior_needs_one_temperature_and_has_no_error() -> None:
    problem = taut.LinearGaussian()
    x = problem.sample(7)
    a = annealing(problem.model(), x, 5)
    torch.testing.assert_close(a.log_evidence, problem.log_evidence(x).detach(), rtol=0, atol=1e-10)
    assert a.num_temperatures.tolist() == [1] * 7
    assert float(a.log_evidence_error.max()) < 1e-10
    torch.testing.assert_close(a.ess, torch.full((7,), 5.0))


@pytest.mark.parametrize("start", ["posterior", "prior"])
def test_latent_variables_with_a_boundary(start: str) -> None:
    model = GammaPoisson.model()
    z, x = simulate(model, 400, seed=4)
    truth = GammaPoisson.log_evidence(x)
    for exact, sign in ((None, 1), (z, -1)):
        a = annealing(model, x, 8, start=start, exact=exact, max_temperatures=5)
        assert_mean((sign * (a.log_evidence - truth)).exp(), 1.0)


def test_discrete_latent_variables_are_refused_with_a_word() -> None:
    problem = taut.BinaryLatents()
    model = problem.model(posteriors.IndependentBernoulli((6,), 3, taut.Linear))
    with pytest.raises(
        ValueError, match=r"continuous latent variables.*is discrete.*importance sampling works"
    ):
        annealing(model, problem.sample(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"start": "middle"}, "'posterior' or 'prior'"), ({"num_chains": 0}, "at least 1")],
)
def test_wrong_arguments_are_refused(options, message: str) -> None:
    problem = taut.LinearGaussian()
    with pytest.raises(ValueError, match=message):
        annealing(problem.model(), problem.sample(2), **options)


def test_one_datum_and_one_chain() -> None:
    problem = taut.LinearGaussian()
    x = problem.sample(1)
    a = annealing(problem.model(Off(problem)), x, 1)
    assert bool(a.log_evidence_error.isnan().all())
    assert not bool(a.reliable.any())
    assert a.to_dict()["log_evidence"]["mc_error"] is None
    assert len(a.warnings) == 1


def test_more_chains_than_move_together_are_those_of_one_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = taut.LinearGaussian()
    model, x = problem.model(Off(problem)), problem.sample(1)
    expected = annealing(model, x, 8, max_temperatures=4).log_evidence
    monkeypatch.setattr(module, "ROWS", 4)
    assert torch.equal(annealing(model, x, 8, max_temperatures=4).log_evidence, expected)


def test_disagreeing_chains_are_not_reliable() -> None:
    like = Annealed(16, "lower", *(torch.ones(3) for _ in range(7)))
    moved, agree = torch.full((3,), 0.8), torch.full((3,), 0.1)
    assert (
        replace(like, spread=torch.tensor([0.6, 4.0, math.nan]), acceptance=moved).reliable.tolist()
        == [False] * 3
    )
    assert not replace(like, spread=agree, acceptance=torch.full((3,), 0.2)).reliable.any()
    assert not replace(like, num_chains=3, spread=agree, acceptance=moved).reliable.any()
    assert replace(like, spread=agree, acceptance=moved).reliable.all()


def test_luck_does_not_make_chains_reliable() -> None:
    """log w ~ N(-2, 4): the ESS of 16 is above a third of them where the large weight was missed.

    The variance is not fooled.
    """
    from taut.evidence.annealing import SPREAD

    log_w = 2 * torch.randn(16, 20000) - 2
    share = log_w.softmax(0)
    lucky = 1 / share.square().sum(0) >= 16 / 3
    assert float(lucky.double().mean()) > 0.1
    assert float((log_w.var(0) <= SPREAD).double().mean()) < 1e-3


def test_blocks_are_the_whole_and_leave_no_trace() -> None:
    problem = taut.LinearGaussian()
    model, x = problem.model(Off(problem)), problem.sample(250)
    model.train()
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    blocks = list(annealing_blocks(model, x, 16))
    assert torch.equal(torch.rand(1), expected)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert [len(b.ess) for b in blocks] == [100, 100, 50]
    assert torch.equal(
        Annealed.concatenate(blocks).log_evidence, annealing(model, x, 16).log_evidence
    )


def test_a_run_follows_its_plan_with_noise_that_the_pilot_has_not_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights are unbiased only for transitions that do not look at their own chains.

    Steps are the plan's, noise is new.
    """
    problem = taut.LinearGaussian(dim_x=4, dim_z=2)
    model = problem.model(Off(problem))
    z, x = simulate(model, 3)
    plans, streams, used = [], [], []
    plan, transition = module._plan, module.transition

    def planned(*arguments):
        plans.append(plan(*arguments))
        return plans[-1]

    def streamed(*key):
        streams.append(key)
        return stream(*key)

    def moved(path, point, beta, step, scale):
        used.append((len(plans), step, scale))
        return transition(path, point, beta, step, scale)

    monkeypatch.setattr(module, "_plan", planned)
    monkeypatch.setattr(module, "stream", streamed)
    monkeypatch.setattr(module, "transition", moved)
    annealing(model, x, 8, max_temperatures=9)
    own = [(step, scale) for done, step, scale in used if done]
    assert len(own) == len(plans[0].steps) - 1 > 2  # at the last temperature nothing moves any more
    assert all(
        a is s and b is c
        for (a, b), s, c in zip(own, plans[0].steps, plans[0].scales, strict=False)
    )
    used.clear()
    annealing(model, x, 8, exact=z, max_temperatures=9)
    own = [(step, scale) for done, step, scale in used if done == 2]
    back = zip(own, reversed(plans[1].steps), reversed(plans[1].scales), strict=True)
    assert all(a is s and b is c for (a, b), s, c in back)
    assert len(set(streams)) == 3  # of the pilot, the same for both directions, and of each of them


def test_temperatures_are_equally_spaced_in_length() -> None:
    steps, scales = (
        [torch.tensor([v]) for v in (1.0, 2.0, 4.0)],
        [torch.tensor([[v]]) for v in (1.0, 3.0, 5.0)],
    )
    plan = module._plan([0.0, 0.1, 1.0], [0.0, 1.0, 2.0], steps, scales, 4)
    assert plan.betas == pytest.approx([0.05, 0.1, 0.55, 1.0])
    assert torch.cat(plan.steps).tolist() == pytest.approx([1.5, 2.0, 3.0, 4.0])
    assert torch.cat(plan.scales)[:, 0].tolist() == pytest.approx([2.0, 3.0, 4.0, 5.0])
    # 2^2 / 0.1
    assert len(module._plan([0.0, 1.0], [0.0, 2.0], steps[:2], scales[:2], 1000).betas) == 40


def test_from_the_prior_the_posterior_does_not_matter() -> None:
    problem = taut.LinearGaussian()
    x = problem.sample(4)
    found = [
        annealing(problem.model(Off(problem, width)), x, 4, start="prior", max_temperatures=5)
        for width in (0.3, 3.0)
    ]
    assert torch.equal(found[0].log_evidence, found[1].log_evidence)


def test_in_reverse_only_the_scatter_over_data_is_an_error() -> None:
    problem = taut.LinearGaussian()
    model = problem.model(Off(problem))
    z, x = simulate(model, 5)
    forward, backward = (
        annealing(model, x, 4, exact=e, max_temperatures=3).to_dict()["log_evidence"]
        for e in (None, z)
    )
    assert forward["mc_error"] > 0
    assert backward["mc_error"] is None
    assert backward["test_error"] > 0


def test_chains_that_disagree_by_many_nats_do_not_cost_millions_of_them() -> None:
    """exp of the variance of log w is not in nats: one row spoiled the mean of 180."""
    log_w = torch.tensor([[0.0], [-30.0], [5.0], [-12.0]])
    share = log_w.softmax(0)
    error = module._error(4 * share, log_w.var(0))
    assert log_w.var(0) > 100  # its exponential would be 1e50
    assert 1 < error < 1 + log_w.var(0)
    small = 0.01 * log_w  # chains that agree keep the error that they had
    exact = torch.maximum((4 * small.softmax(0)).var(0), torch.expm1(small.var(0))) / 4
    expected = exact.sqrt() * module._student(3) / module.NORMAL
    torch.testing.assert_close(module._error(4 * small.softmax(0), small.var(0)), expected)
