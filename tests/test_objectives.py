"""Every objective against closed forms.

Its value, its gradient in expectation, its variance where that is known.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from instances import (
    FREE_BITS,
    OBJECTIVES,
    Check,
    exact_elbo,
    is_elbo,
    is_importance_weighted,
    mean_over_posterior,
)
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, kl_divergence
from ztest import assert_mean

import taut
from taut import posteriors
from taut.model import Draw, frozen
from taut.networks import inverse_softplus, positive

REPARAMETERIZED = [o for o, _, reparameterized in OBJECTIVES if reparameterized]
ANY_POSTERIOR = [o for o, _, reparameterized in OBJECTIVES if not reparameterized]
ALL = [o for o, _, _ in OBJECTIVES]


def problem_and_mean_field(dim_z: int = 2) -> tuple[taut.LinearGaussian, taut.VAE, Tensor]:
    """A linear-Gaussian problem, a model of it with a wrong posterior, and one datum, (1, 5)."""
    problem = taut.LinearGaussian(5, dim_z)
    return problem, problem.model(taut.DiagonalNormal((5,), dim_z, taut.Linear)), problem.sample(1)


def test_the_mean_over_the_posterior_is_that_of_the_closed_forms() -> None:
    problem, model, x = problem_and_mean_field()
    elbo = mean_over_posterior(model, x, lambda log_w: log_w)
    torch.testing.assert_close(elbo, exact_elbo(problem, model, x)[0], rtol=0, atol=1e-10)
    evidence = mean_over_posterior(model, x, torch.exp).log()
    torch.testing.assert_close(evidence, problem.log_evidence(x)[0], rtol=0, atol=1e-10)


# --- Values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ALL, ids=repr)
def test_value_is_the_evidence_under_the_exact_posterior(objective: taut.Objective) -> None:
    problem = taut.LinearGaussian()
    x = problem.sample(11)
    torch.testing.assert_close(
        objective(problem.model(), x).value, problem.log_evidence(x), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("objective", ALL, ids=repr)
def test_value_is_the_conditional_evidence_under_a_context(objective: taut.Objective) -> None:
    problem = taut.LinearGaussian(context_dim=3)
    context = torch.randn(11, 3)
    x = problem.sample(11, context)
    value = objective(problem.model(), x, context).value
    torch.testing.assert_close(value, problem.log_evidence(x, context), rtol=0, atol=1e-10)
    assert not torch.allclose(value, problem.log_evidence(x, context.flip(0)))


@pytest.mark.parametrize("objective", ANY_POSTERIOR, ids=repr)
def test_value_is_the_evidence_for_discrete_latents(objective: taut.Objective) -> None:
    problem = taut.BinaryLatents()
    x = problem.sample(11)
    torch.testing.assert_close(
        objective(problem.model(), x).value, problem.log_evidence(x), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize(
    ("objective", "check"),
    [
        pytest.param(o, check, id=repr(o))
        for o, check, _ in [*OBJECTIVES, (FREE_BITS, is_elbo, True)]
    ],
)
@pytest.mark.parametrize("progress", [0.1, 1.0])
def test_value_is_the_bound_it_is_named_after(
    objective: taut.Objective, check: Check, progress: float
) -> None:
    """Whatever beta, warm-up, free bits and baselines do."""
    problem, model, x = problem_and_mean_field()
    value = objective(model, x.expand(100_000, -1), None, progress).value
    check(value, problem, model, x)


def test_bounds_are_ordered() -> None:
    problem, model, x = problem_and_mean_field()
    many = x.expand(50_000, -1)
    values = [
        o(model, many).value
        for o in (taut.ELBO(), taut.IWAE(num_samples=2), taut.IWAE(num_samples=20))
    ]
    values.append(problem.log_evidence(x).expand(50_000))
    for lower, higher in itertools.pairwise(values):
        assert (
            lower.mean() + 5 * (lower.var() / 50_000 + higher.var() / 50_000).sqrt() < higher.mean()
        )


def test_value_carries_no_gradient_and_surrogate_does() -> None:
    _, model, x = problem_and_mean_field()
    for objective in ALL:
        bound = objective(model, x)
        assert not bound.value.requires_grad
        assert bound.surrogate.requires_grad
        assert bound.target is None or not bound.target.requires_grad


# --- Gradients ------------------------------------------------------------------------------------


def gradients(
    objective: Any, model: taut.VAE, x: Tensor, batch: int = 2000, repeats: int = 100
) -> Tensor:
    """Independent estimates of the gradient with respect to all parameters, (repeats, P)."""
    parameters = list(model.parameters())
    found = []
    for _ in range(repeats):
        surrogate = objective(model, x.expand(batch, -1)).surrogate.mean()
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(surrogate, parameters)]))
    return torch.stack(found)


@pytest.mark.parametrize(
    "objective",
    [o for o, check, _ in OBJECTIVES if check is is_elbo and getattr(o, "beta", 1) == 1],
    ids=repr,
)
def test_elbo_gradient_is_that_of_the_closed_form(objective: taut.Objective) -> None:
    problem, model, x = problem_and_mean_field()
    expected = torch.autograd.grad(exact_elbo(problem, model, x).sum(), list(model.parameters()))
    assert_mean(gradients(objective, model, x), torch.cat([g.flatten() for g in expected]))


@pytest.mark.parametrize(
    "objective",
    [o for o, check, _ in OBJECTIVES if check is is_importance_weighted and o.num_samples == 5],
    ids=repr,
)
def test_importance_weighted_gradient_is_that_of_the_bound(objective: taut.Objective) -> None:
    """The reference is the plain reparameterized gradient of an IWAE written out here, from
    log-densities by hand.
    """

    def by_hand(model: taut.VAE, x: Tensor) -> taut.Bound:
        q = model.encode(x).base_dist
        z = q.loc + q.scale * torch.randn(5, *q.loc.shape)
        log_q = (-0.5 * ((z - q.loc) / q.scale) ** 2 - q.scale.log()).sum(-1)
        log_p = -0.5 * ((z - model.prior.bias) ** 2).sum(-1)
        mean = z @ model.likelihood.weight.T + model.likelihood.bias
        log_x = -0.5 * ((x - mean) ** 2).sum(-1) / model.likelihood.scale**2
        bound = (log_x + log_p - log_q).exp().mean(0).log()
        return taut.Bound(bound.detach(), bound)

    _, model, x = problem_and_mean_field()
    a, b = gradients(objective, model, x), gradients(by_hand, model, x)
    assert_mean(a - b, torch.zeros(a.shape[1]))


@pytest.mark.parametrize("objective", ANY_POSTERIOR, ids=repr)
def test_discrete_gradient_is_that_of_the_enumerated_bound(objective: taut.Objective) -> None:
    """Two bits.

    The expectation over all draws of K samples is a finite sum, and so is its gradient.
    """
    problem = taut.BinaryLatents(dim_x=4, num_bits=2)
    model = problem.model(posteriors.IndependentBernoulli((4,), 2, taut.Linear))
    x = problem.sample(1)
    k = objective.num_samples
    log_q = model.encode(x).log_prob(problem.states[:, None])[:, 0]
    log_w = (
        model.decode(problem.states[:, None]).log_prob(x)[:, 0]
        + model.prior().log_prob(problem.states)
        - log_q
    )
    draws = torch.cartesian_prod(*[torch.arange(4)] * k)
    bounds = (
        log_w[draws].logsumexp(1) - torch.tensor(k).log()
        if isinstance(objective, taut.VIMCO)
        else log_w[draws].mean(1)
    )
    expected = torch.autograd.grad(
        (log_q[draws].sum(1).exp() * bounds).sum(), list(model.parameters())
    )
    assert_mean(gradients(objective, model, x), torch.cat([g.flatten() for g in expected]))


def exact_one_dimensional() -> tuple[taut.LinearGaussian, taut.VAE]:
    """In one latent dimension a mean-field posterior can be exact.

    Its network is set to the closed form.
    """
    problem = taut.LinearGaussian(5, 1)
    q = taut.DiagonalNormal((5,), 1, taut.Linear, min_scale=1e-30)  # no floor
    w, b, sigma = problem.likelihood.weight, problem.likelihood.bias, problem.likelihood.scale
    with torch.no_grad():
        precision = 1 + (w.T @ w).squeeze() / sigma**2
        q.encoder.map.weight[0] = w[:, 0] / sigma**2 / precision
        q.encoder.map.bias[0] = -(b @ w[:, 0]) / sigma**2 / precision
        q.encoder.map.weight[1] = 0
        q.encoder.map.bias[1] = inverse_softplus(precision.rsqrt().item()) - inverse_softplus(1.0)
    return problem, problem.model(q)


@pytest.mark.parametrize(
    "objective", [taut.DReG(num_samples=8), taut.StickingTheLanding(num_samples=8)], ids=repr
)
def test_encoder_gradient_vanishes_at_the_exact_posterior(objective: taut.Objective) -> None:
    problem, model = exact_one_dimensional()
    x = problem.sample(6)
    torch.testing.assert_close(model.encode(x).mean, problem.posterior(x).mean, rtol=0, atol=1e-12)
    found = torch.autograd.grad(
        objective(model, x).surrogate.mean(), list(model.posterior.parameters())
    )
    assert max(float(g.abs().max()) for g in found) < 1e-12
    noisy = torch.autograd.grad(
        taut.ELBO(num_samples=8, analytic_kl=False)(model, x).surrogate.mean(),
        list(model.posterior.parameters()),
    )
    assert max(float(g.abs().max()) for g in noisy) > 1e-3  # the plain gradient does not


@pytest.mark.parametrize(
    "objective", [taut.DReG(num_samples=50), taut.StickingTheLanding(num_samples=50)], ids=repr
)
def test_noise_in_the_encoder_is_the_same_when_it_is_evaluated_again(
    objective: taut.Objective,
) -> None:
    """With dropout, log q must be that of the q which z came from.

    Else the weights mean nothing, and lie above log p(x).
    """
    problem = taut.LinearGaussian()
    q = taut.DiagonalNormal((5,), 2, lambda *shapes: taut.MLP(*shapes, dropout=0.5)).train()
    model, x = problem.model(q), problem.sample(7)
    plain = (
        taut.IWAE(num_samples=50) if isinstance(objective, taut.DReG) else taut.ELBO(num_samples=50)
    )
    torch.testing.assert_close(
        at_same_noise(objective, model, x).value,
        at_same_noise(plain, model, x).value,
        rtol=0,
        atol=1e-10,
    )


class Square(taut.Model):
    """log w = z^2 with z ~ N(mu, 1), one mu a datum: d/dmu E[z^2] = 2 mu has known variances."""

    def __init__(self, mu: float, batch: int) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.full((batch, 1), mu))

    def encode(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        return Independent(Normal(self.mu, torch.ones_like(self.mu)), 1)

    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        return Independent(Normal(z, 1.0), 1)

    def sample(self, num_samples: int, *, context: Tensor | None = None) -> Tensor:
        return torch.zeros(num_samples, 1)

    def draw(
        self, x: Tensor, num_samples: int = 1, *, reparameterize: bool = True, **_: Any
    ) -> Draw:
        q = self.encode(x)
        z = q.rsample((num_samples,)) if reparameterize else q.sample((num_samples,))
        log_q = q.log_prob(z)
        return Draw(z, z.square().squeeze(-1), log_q.detach(), log_q, q, q, q)


@pytest.mark.parametrize(
    ("objective", "variance"),
    [(taut.ELBO(), 4.0), (taut.ScoreFunction(num_samples=1, baseline="none"), 87.0)],
    ids=repr,
)
def test_variance_of_the_gradient_of_a_square(objective: taut.Objective, variance: float) -> None:
    """At mu = 2 reparameterization has variance 4 and the score function mu^4 + 14 mu^2 + 15 = 87,
    21.8 times as much.
    """
    n = 1_000_000
    model = Square(2.0, n)
    objective(model, torch.zeros(n, 1)).surrogate.sum().backward()
    gradient = model.mu.grad.flatten()
    assert_mean(gradient, 4.0)
    assert_mean((gradient - 4.0).square(), variance)


# --- Surrogates -----------------------------------------------------------------------------------


def at_same_noise(
    objective: taut.Objective, model: taut.VAE, x: Tensor, progress: float = 1.0
) -> taut.Bound:
    torch.manual_seed(5)
    return objective(model, x, None, progress)


def test_beta_weighs_the_rate_and_warm_up_grows_it() -> None:
    _, model, _ = problem_and_mean_field()
    x = torch.randn(7, 5)
    plain, four = at_same_noise(taut.ELBO(), model, x), at_same_noise(taut.ELBO(beta=4.0), model, x)
    rate = kl_divergence(model.encode(x), model.prior())
    torch.testing.assert_close(plain.surrogate - four.surrogate, 3 * rate, rtol=0, atol=1e-10)
    torch.testing.assert_close(plain.value, four.value, rtol=0, atol=0)
    torch.testing.assert_close(four.target, four.surrogate.detach(), rtol=0, atol=0)
    assert plain.target is None
    warming = taut.ELBO(beta=4.0, warmup=0.5)
    for progress, beta in ((0.0, 0.0), (0.25, 2.0), (0.5, 4.0), (0.75, 4.0)):
        bound = at_same_noise(warming, model, x, progress)
        torch.testing.assert_close(
            plain.surrogate - bound.surrogate, (beta - 1) * rate, rtol=0, atol=1e-10
        )
        torch.testing.assert_close(bound.value, plain.value, rtol=0, atol=0)


def test_free_bits_are_free_in_each_dimension_by_its_mean_rate() -> None:
    _, model, _ = problem_and_mean_field()
    x = torch.randn(7, 5)
    q = model.encode(x).base_dist
    rate = kl_divergence(q, model.prior().base_dist).detach()
    between = float(rate.mean(0).mean())  # one dimension above, one below
    assert bool((rate.mean(0) > between).any())
    assert bool((rate.mean(0) < between).any())
    plain, free = (
        at_same_noise(taut.ELBO(), model, x),
        at_same_noise(taut.ELBO(free_bits=between), model, x),
    )
    paid = torch.where(rate.mean(0) > between, rate, between).sum(-1)
    torch.testing.assert_close(
        plain.surrogate + rate.sum(-1) - free.surrogate, paid, rtol=0, atol=1e-10
    )


def test_vimco_puts_the_geometric_mean_of_the_others_in_the_place_of_each_weight() -> None:
    """Any function of the others leaves the gradient unbiased, so only the surrogate itself shows
    which one it is.
    """
    _, model, x = problem_and_mean_field()
    torch.manual_seed(5)
    draw = model.draw(x, 3, reparameterize=False)
    a, b, c = draw.log_weight.exp()
    bound = ((a + b + c) / 3).log()
    without = [
        (((b * c).sqrt() + b + c) / 3).log(),
        (((a * c).sqrt() + a + c) / 3).log(),
        (((a * b).sqrt() + a + b) / 3).log(),
    ]
    expected = bound + ((bound - torch.stack(without)) * draw.log_posterior).sum(0)
    torch.testing.assert_close(
        at_same_noise(taut.VIMCO(num_samples=3), model, x).surrogate, expected, rtol=0, atol=1e-10
    )


def test_free_bits_refuse_a_posterior_that_does_not_factorise() -> None:
    problem = taut.LinearGaussian()
    with pytest.raises(ValueError, match="factorise"):
        FREE_BITS(problem.model(), problem.sample(2))


@pytest.mark.parametrize("objective", REPARAMETERIZED, ids=repr)
def test_discrete_posteriors_are_refused_by_those_that_reparameterize(
    objective: taut.Objective,
) -> None:
    problem = taut.BinaryLatents()
    with pytest.raises(ValueError, match="cannot be reparameterized"):
        objective(problem.model(), problem.sample(2))


# --- The model ------------------------------------------------------------------------------------


def test_draw_is_what_it_says() -> None:
    problem, model, _ = problem_and_mean_field()
    x = problem.sample(4)
    draw = model.draw(x, 3)
    torch.testing.assert_close(
        draw.log_joint, problem.likelihood(draw.z).log_prob(x) + problem.prior().log_prob(draw.z)
    )
    torch.testing.assert_close(draw.log_weight, draw.log_joint - model.encode(x).log_prob(draw.z))
    given = model.draw(x, 3, proposal=problem.posterior(x))
    torch.testing.assert_close(
        given.log_weight, problem.log_evidence(x).expand(3, 4), rtol=0, atol=1e-10
    )


def test_stop_posterior_stops_its_parameters_and_not_its_samples() -> None:
    _, model, _ = problem_and_mean_field()
    x = torch.randn(4, 5)
    draw = model.draw(x, 3, stop_posterior=True)
    z = draw.z.detach().requires_grad_()
    through = torch.autograd.grad(model.encode(x).log_prob(z).sum(), z)[0]
    torch.testing.assert_close(
        torch.autograd.grad(draw.log_posterior.sum(), draw.z, retain_graph=True)[0], through
    )
    parameters = list(model.posterior.parameters())
    expected = torch.autograd.grad((draw.z * through).sum(), parameters, retain_graph=True)
    found = torch.autograd.grad(draw.log_posterior.sum(), parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_a_given_posterior_cannot_be_stopped() -> None:
    problem, model, x = problem_and_mean_field()
    with pytest.raises(ValueError, match="no parameters to stop"):
        model.draw(x, 3, stop_posterior=True, proposal=problem.posterior(x))


@pytest.mark.parametrize("num_samples", [1, 4])
def test_a_forgotten_independent_is_refused_and_never_broadcast(num_samples: int) -> None:
    class Forgot(taut.Likelihood):
        def forward(self, z, context=None):
            return Independent(Normal(z @ torch.ones(2, 5), 1.0), 2)

    _, model, _ = problem_and_mean_field()
    model.likelihood = Forgot()
    with pytest.raises(
        ValueError, match=r"log_likelihood of Forgot has shape \(\d,\), not \(\d, 4\)"
    ):
        model.draw(torch.randn(4, 5), num_samples)


def test_a_scale_that_overflowed_is_a_number_to_skip_and_not_an_exception() -> None:
    parts = taut.StandardNormal(2), taut.Normal((5,), 2), taut.DiagonalNormal((5,), 2, taut.Linear)
    model, x = taut.VAE(*parts), torch.randn(3, 5)
    with torch.no_grad():
        model.posterior.encoder.map.bias[-1] = torch.nan
    for objective in (taut.ScoreFunction(), taut.VIMCO(), taut.ELBO()):
        assert bool(objective(model, x).surrogate.isnan().all())


def test_frozen_gives_back_what_was_trainable() -> None:
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    with frozen(layer):
        assert not any(p.requires_grad for p in layer.parameters())
    assert [p.requires_grad for p in layer.parameters()] == [True, False]


def test_sample_has_the_moments_of_the_model() -> None:
    problem = taut.LinearGaussian()
    x = problem.model().sample(200_000)
    w, b = problem.likelihood.weight, problem.likelihood.bias
    assert_mean(x, b)
    covariance = w @ w.T + problem.likelihood.scale**2 * torch.eye(5)
    assert_mean((x - b)[:, :, None] * (x - b)[:, None], covariance)


def test_sample_under_a_context() -> None:
    problem = taut.LinearGaussian(context_dim=2)
    context = torch.randn(3, 2)
    x = problem.model().sample(100_000, context=context)
    loc = problem.prior.loc(context) @ problem.likelihood.weight.T + problem.likelihood.shift(
        context
    )
    assert_mean(x, loc)


def test_positive_is_one_at_zero() -> None:
    assert positive(torch.tensor(0.0)).item() == pytest.approx(1.0, abs=1e-12)
