"""The gaps against closed forms.

On linear-Gaussian problems the mean-field optimum and both gaps are known.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import (
    Independent,
    Laplace,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    kl_divergence,
)
from torch.distributions.transforms import AffineTransform
from ztest import limit

import taut
from taut import posteriors
from taut.evidence import Evidence
from taut.evidence.ascent import TOLERANCE, best_gaussians
from taut.evidence.gaps import Gaps, Optima, best_evidence, decompose, optima_blocks


class MeanField(taut.Posterior):
    """The best diagonal Normal, N(mean, 1 / diag(precision)), moved by ``shift`` of its scales and
    scaled by ``width``.
    """

    def __init__(
        self, problem: taut.LinearGaussian, shift: float = 0.0, width: float = 1.0
    ) -> None:
        super().__init__()
        self._problem, self.shift, self.width = problem, shift, width

    def forward(self, x, context=None):
        exact = self._problem.posterior(x, context)
        scale = exact.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
        return Independent(Normal(exact.mean + self.shift * scale, self.width * scale), 1)


def gaps_of(model: taut.VAE, x: torch.Tensor, context: torch.Tensor | None = None) -> Gaps:
    evidence = taut.importance(model, x, 4000, context=context)
    return decompose(
        evidence,
        None,
        list(optima_blocks(model, x, steps=400, evaluation_samples=4000, context=context)),
    )


@pytest.mark.parametrize("context_dim", [0, 2])
def test_both_gaps_are_their_closed_forms(context_dim: int) -> None:
    r"""Approximation: (sum log P_ii - log |P|) / 2 for the precision P. Amortization.

    The KL of a moved and scaled Normal.
    """
    problem = taut.LinearGaussian(dim_x=4, dim_z=3, scale=0.5, context_dim=context_dim)
    context = torch.randn(200, context_dim) if context_dim else None
    x = problem.sample(200, context)
    exact = problem.posterior(x, context)
    precision = exact.precision_matrix[0].detach()
    approximation = 0.5 * float(precision.diagonal().log().sum() - precision.logdet())
    shift, width = 0.7, 1.3
    amortization = 3 * 0.5 * (width**2 - 1 - 2 * math.log(width) + shift**2)
    assert approximation > 0.1
    # KL(N(m + shift s, width^2 s^2), N(m, P^-1)) with s_i^2 = 1 / P_ii has cross terms shift^2 s_i
    # s_j P_ij too
    s = precision.diagonal().rsqrt()
    cross = 0.5 * shift**2 * float(s @ precision @ s) - 3 * 0.5 * shift**2
    gaps = gaps_of(problem.model(MeanField(problem, shift, width)), x, context)
    found = gaps.summary()
    assert found["approximation_gap"].value == pytest.approx(approximation, abs=0.01)
    assert found["amortization_gap"].value == pytest.approx(amortization + cross, abs=0.01)
    assert found["inference_gap"].value == pytest.approx(
        approximation + amortization + cross, abs=0.01
    )
    assert found["full_covariance_gain"].value == pytest.approx(approximation, abs=0.01)
    torch.testing.assert_close(
        gaps.elbo_best, problem.log_evidence(x, context) - approximation, atol=0.15, rtol=0
    )
    total = found["approximation_gap"].value + found["amortization_gap"].value
    assert total == pytest.approx(found["inference_gap"].value, abs=1e-12)
    assert gaps.warnings == []


def test_a_family_that_holds_the_posterior_has_no_approximation_gap() -> None:
    problem = taut.LinearGaussian(dim_x=5, dim_z=2)

    class Off(taut.Posterior):
        def forward(self, x, context=None):
            exact = problem.posterior(x)
            return MultivariateNormal(exact.mean + 0.5, 0.6 * exact.covariance_matrix)

    x = problem.sample(30)
    optima = list(optima_blocks(problem.model(Off()), x))
    assert optima[0].full is None  # the family is that already
    torch.testing.assert_close(
        optima[0].own.elbo, problem.log_evidence(x).detach(), atol=0.01, rtol=0
    )
    q = problem.model(Off()).encode(x)
    gaps = decompose(taut.importance(problem.model(Off()), x, 2000), None, optima)
    torch.testing.assert_close(
        gaps.elbo_best - gaps.elbo, kl_divergence(q, problem.posterior(x)), atol=0.2, rtol=0
    )
    assert "full_covariance_gain" not in gaps.summary()


def test_the_best_posterior_is_a_fixed_point() -> None:
    """From the optimum nothing moves.

    The gradient without the score term vanishes at the exact posterior, for every sample.
    """
    problem = taut.LinearGaussian(dim_x=5, dim_z=2)
    x = problem.sample(10)
    optima = next(optima_blocks(problem.model(), x, steps=20, evaluation_samples=10))
    torch.testing.assert_close(
        optima.own.log_evidence, problem.log_evidence(x).detach(), atol=1e-9, rtol=0
    )
    torch.testing.assert_close(optima.own.ess, torch.full((10,), 10.0), atol=1e-8, rtol=0)


def test_errors_are_paired_and_those_of_repetition() -> None:
    problem = taut.LinearGaussian(dim_x=5, dim_z=2)
    x = problem.sample(1).expand(400, -1)
    gaps = gaps_of(problem.model(MeanField(problem, 0.5)), x)
    gap, errors = (
        gaps.log_evidence - gaps.elbo_best,
        (gaps.log_evidence_error**2 + gaps.elbo_best_error**2).sqrt(),
    )
    # 400 repetitions: their variance is known to sqrt(2 / 400); each optimum is another one by some
    # 0.01 nat
    assert abs(float(gap.var() / errors.square().mean()) - 1) < limit(1) * math.sqrt(2 / 400) + 0.1
    found = gaps.summary()["approximation_gap"]
    assert found.mc_error == pytest.approx(float(errors.square().sum().sqrt()) / 400)
    assert found.test_error == pytest.approx(float(gap.std()) / 20)
    # here both sides have an error
    gap, errors = gaps.elbo_best - gaps.elbo, (gaps.elbo_best_error**2 + gaps.elbo_error**2).sqrt()
    found = gaps.summary()["amortization_gap"]
    assert found.mc_error == pytest.approx(float(errors.square().sum().sqrt()) / 400)
    assert found.test_error == pytest.approx(float(gap.std()) / 20)


def test_the_most_reliable_estimate_is_chosen() -> None:
    yes, no = torch.tensor([True]), torch.tensor([False])

    def candidate(method: int, value: float, error: float, reliable: torch.Tensor):
        return method, torch.tensor([value]), torch.tensor([error]), reliable

    def choose(*candidates):
        value, error, method, reliable = best_evidence(list(candidates))
        return value.item(), error.item(), method.item(), reliable.item()

    assert choose(candidate(2, -5.0, 0.2, yes), candidate(0, -4.0, 0.1, yes)) == (
        -5.0,
        0.2,
        2,
        True,
    )
    assert choose(candidate(2, -5.0, 0.1, no), candidate(1, -6.0, 0.2, yes)) == (-6.0, 0.2, 1, True)
    assert choose(candidate(2, -5.0, 0.5, no), candidate(1, -4.5, 0.1, no)) == (-5.0, 0.5, 2, False)
    assert choose(candidate(2, math.nan, math.nan, no), candidate(0, -4.0, 0.1, yes)) == (
        -4.0,
        0.1,
        0,
        True,
    )


class Peaked(taut.Posterior):
    """A Laplace distribution some of its scales away from the exact mean.

    A family whose best member nobody knows.
    """

    def __init__(self, problem: taut.LinearGaussian, shift: float) -> None:
        super().__init__()
        self._problem, self.shift = problem, shift

    def forward(self, x, context=None):
        exact = self._problem.posterior(x)
        scale = exact.stddev / math.sqrt(2)
        return Independent(Laplace(exact.mean + self.shift * scale, scale), 1)


def test_unreached_optima_and_unreliable_evidence_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Steps that end with a rate of almost zero are not taken for an arrival.

    Every block starts with the full one.
    """
    monkeypatch.setattr("taut.evidence.gaps.starts", lambda model, x, context, q, *rest: ([q], []))
    problem = taut.LinearGaussian(dim_x=12, dim_z=4, scale=0.1)
    model = problem.model(MeanField(problem, 300.0))
    x = problem.sample(20)
    optima = list(optima_blocks(model, x, steps=20, evaluation_samples=50))
    assert not optima[0].arrived.any()
    gaps = decompose(taut.importance(model, x, 50), None, optima)
    assert any("of 20 of 20 rows was not quite reached" in line for line in gaps.warnings)
    assert any("no estimate of log p(x) is reliable" in line for line in gaps.warnings)
    assert gaps.to_dict()["reliable_share"] < 0.5
    assert gaps.to_dict()["arrived_share"] == 0.0


@pytest.mark.parametrize("shift", [30.0, -100_000.0])
def test_the_optimum_is_found_from_far_away(shift: float) -> None:
    """With the encoder at 30 or 100,000 scales, and a hundredth as wide, the best members are what
    they are from nearby.
    """
    problem = taut.LinearGaussian(dim_x=8, dim_z=3, scale=0.3)
    x = problem.sample(30)
    precision = problem.posterior(x).precision_matrix[0].detach()
    short = 0.5 * float(precision.diagonal().log().sum() - precision.logdet())
    optima = next(
        optima_blocks(problem.model(MeanField(problem, shift, 0.01)), x, evaluation_samples=4000)
    )
    assert optima.arrived.all()
    assert float(optima.rise.abs().max()) <= TOLERANCE  # of the block that arrived
    assert float(
        (optima.own.elbo - problem.log_evidence(x).detach() + short).mean()
    ) == pytest.approx(0.0, abs=0.01)
    torch.testing.assert_close(
        optima.full.log_evidence, problem.log_evidence(x).detach(), atol=0.01, rtol=0
    )


def test_other_families_of_place_and_scale_get_there_too() -> None:
    """A Laplace family 200 scales off ends where it does from nearby."""
    problem = taut.LinearGaussian(dim_x=4, dim_z=2, scale=0.5)
    x = problem.sample(10)
    far, near = (
        next(optima_blocks(problem.model(Peaked(problem, s)), x, evaluation_samples=4000))
        for s in (200.0, 0.0)
    )
    assert torch.cat([far.arrived, near.arrived]).all()
    torch.testing.assert_close(far.own.elbo, near.own.elbo, atol=0.1, rtol=0)


def test_two_modes_are_both_seen() -> None:
    r"""x = |z| + noise with q at the wrong side of a prior that is lopsided.

    The better mode is that of the prior.
    """

    class Likelihood(taut.Likelihood):
        def forward(self, z, context=None):
            return Independent(Normal((z.square() + 1e-6).sqrt(), 0.1), 1)

    class Prior(taut.Prior):
        def forward(self, context=None):
            return Independent(Normal(torch.ones(1), 1.0), 1)

    class Posterior(taut.Posterior):
        def forward(self, x, context=None):
            return Independent(Normal(-x - 0.05, 0.1), 1)

    x = torch.tensor([[1.5], [2.0]])
    own = next(
        optima_blocks(taut.VAE(Prior(), Likelihood(), Posterior()), x, evaluation_samples=2000)
    ).own
    scale = math.sqrt(1 + 0.1**2)  # x given z > 0 is N(1, 1 + 0.01), to e^-100
    torch.testing.assert_close(own.elbo, Normal(1.0, scale).log_prob(x)[:, 0], atol=0.01, rtol=0)


def test_best_gaussians_are_the_exact_posteriors() -> None:
    problem = taut.LinearGaussian(dim_x=5, dim_z=2)
    x = problem.sample(10)
    best = best_gaussians(problem.model(MeanField(problem, 500.0, 0.1)), x)
    assert best.batch_shape == (10,)
    assert float(kl_divergence(best, problem.posterior(x)).detach().max()) < 0.01


def test_posteriors_without_a_gradient_or_a_known_family_are_refused() -> None:
    problem = taut.BinaryLatents()
    model = problem.model(posteriors.IndependentBernoulli((6,), 3, taut.Linear))
    with pytest.raises(ValueError, match="a Bernoulli posterior cannot be reparameterized"):
        next(optima_blocks(model, problem.sample(2)))

    class Flow(taut.Posterior):
        def forward(self, x, context=None):
            return Independent(
                TransformedDistribution(Normal(x[:, :2], 1.0), [AffineTransform(1.0, 2.0)]), 1
            )

    linear = taut.LinearGaussian()
    with pytest.raises(
        ValueError, match="family of a TransformedDistribution posterior cannot be read"
    ):
        next(optima_blocks(linear.model(Flow()), linear.sample(2)))


def test_blocks_are_the_whole_and_leave_no_trace() -> None:
    problem = taut.LinearGaussian()
    model, x = problem.model(MeanField(problem, 0.5)), problem.sample(130)
    model.train()
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    blocks: list[Optima] = list(optima_blocks(model, x, steps=3, evaluation_samples=10))
    assert torch.equal(torch.rand(1), expected)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert [len(b.own.ess) for b in blocks] == [100, 30]
    again = list(optima_blocks(model, x, steps=3, evaluation_samples=10))
    assert torch.equal(
        Evidence.concatenate([b.own for b in blocks]).elbo,
        Evidence.concatenate([b.own for b in again]).elbo,
    )


def test_the_best_of_the_family_is_the_same_without_the_full_gaussians() -> None:
    problem = taut.LinearGaussian()
    model, x = problem.model(MeanField(problem, 0.5)), problem.sample(12)
    (both,) = optima_blocks(model, x, steps=3, evaluation_samples=10)
    (own,) = optima_blocks(model, x, steps=3, evaluation_samples=10, full=False)
    assert both.full is not None
    assert own.full is None
    assert torch.equal(own.own.elbo, both.own.elbo)
    assert torch.equal(own.arrived[:, 0], both.arrived[:, 0])


@pytest.mark.parametrize("full", [False, True])
def test_the_unit_of_z_does_not_matter(full: bool) -> None:
    """With z in other units the ascent takes the same way, to rounding."""
    x, weight, factor = torch.randn(5, 3), torch.randn(3, 2), torch.tensor([[0.5, 0.0], [0.3, 0.2]])

    def fitted(unit: float) -> Optima:
        class Prior(taut.Prior):
            def forward(self, context=None):
                return Independent(Normal(torch.zeros(2), unit), 1)

        class Likelihood(taut.Likelihood):
            def forward(self, z, context=None):
                return Independent(Normal(z / unit @ weight.T, 0.3), 1)

        class Posterior(taut.Posterior):
            def forward(self, x, context=None):
                loc = 0.3 * unit * x[:, :2]
                if full:
                    return MultivariateNormal(loc, scale_tril=unit * factor.expand(len(x), 2, 2))
                return Independent(Normal(loc, unit * factor.diagonal().expand(len(x), 2)), 1)

        return next(
            optima_blocks(
                taut.VAE(Prior(), Likelihood(), Posterior()), x, steps=30, evaluation_samples=50
            )
        )

    one, other = fitted(1.0), fitted(100.0)
    torch.testing.assert_close(other.own.elbo, one.own.elbo, rtol=0, atol=1e-8)
    torch.testing.assert_close(other.rise, one.rise, rtol=0, atol=1e-8)
    if not full:
        torch.testing.assert_close(other.full.elbo, one.full.elbo, rtol=0, atol=1e-8)
