"""The referee agrees with closed forms, and taut's densities and estimates agree with
the referee.
"""

from __future__ import annotations

import math

import instances
import numpy as np
import pytest
import torch
from quadrature import FAMILIES, Oracle
from torch.distributions import MultivariateNormal
from ztest import assert_mean

import taut
from taut import likelihoods
from taut.distributions.observed import terms

# whose moments are not written there
WARPED = (
    likelihoods.WarpedCounts,
    likelihoods.WarpedGrid,
    likelihoods.WarpedLevels,
    likelihoods.WarpedLogistic,
)
# Of a part that the referee knows every row is compared with what is written there.
KNOWN_LIKELIHOODS = {"Columns", *FAMILIES}
KNOWN_PRIORS = {"GaussianMixture", "IndependentBernoulli", "StandardNormal"}


def _rows(parts: list, known: set[str]) -> list[int]:
    names = [type(part).__name__ for part in parts]
    assert known <= set(names)
    return [row for row, name in enumerate(names) if name in known]


LIKELIHOODS = _rows([part for part, _ in instances.make_likelihoods()], KNOWN_LIKELIHOODS)
PRIORS = _rows(instances.make_priors(), KNOWN_PRIORS)


def linear(dim_z: int, seed: int = 0) -> tuple[taut.VAE, MultivariateNormal]:
    """Returns a linear model with its exact p(x)."""
    torch.manual_seed(seed)
    likelihood = taut.Normal(
        (4,), dim_z, "per_feature", decoder=taut.Linear, data_loc=3.0, data_scale=2.0
    )
    posterior = taut.FullCovarianceNormal((4,), dim_z, taut.Linear)
    model = taut.VAE(taut.StandardNormal(dim_z), likelihood, posterior)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    weight, bias = likelihood.decoder.map.weight, likelihood.decoder.map.bias
    w, loc = 2 * weight, 3 + 2 * bias
    scale = likelihood(torch.zeros(1, dim_z)).base_dist.scale[0]
    covariance = (w @ w.T + torch.diag(scale**2)).detach()
    return model, MultivariateNormal(loc.detach(), covariance)


@pytest.mark.parametrize("dim_z", [1, 2])
@pytest.mark.parametrize("factor", [0.0, 1.0, 10.0])
def test_log_evidence_of_a_linear_model_is_its_closed_form(dim_z: int, factor: float) -> None:
    model, exact = linear(dim_z)
    oracle = Oracle(model)
    for row in exact.mean + factor * torch.randn(3, 4):
        assert oracle.log_evidence(row) == pytest.approx(float(exact.log_prob(row)), abs=1e-8)


def test_conditional_moments_and_information_are_their_closed_forms() -> None:
    model, exact = linear(2)
    oracle, row = Oracle(model), exact.sample()
    rest = [0, 2, 3]
    of_rest = MultivariateNormal(exact.mean[rest], exact.covariance_matrix[rest][:, rest])
    conditional = float(exact.log_prob(row) - of_rest.log_prob(row[rest]))
    assert oracle.log_conditional(row, [1]) == pytest.approx(conditional, abs=1e-8)
    gap = row.clone()
    gap[1] = math.nan
    gain = exact.covariance_matrix[1, rest] @ torch.linalg.inv(
        exact.covariance_matrix[rest][:, rest]
    )
    mean = exact.mean[1] + gain @ (row[rest] - exact.mean[rest])
    variance = exact.covariance_matrix[1, 1] - gain @ exact.covariance_matrix[rest, 1]
    filled, spread = oracle.predictive(gap)
    assert filled[1] == pytest.approx(float(mean), abs=1e-6)
    assert spread[1] == pytest.approx(float(variance), abs=1e-6)
    # p(z|x) of a linear model is Gaussian: its rate is the information, its bound log p(x).
    center, covariance = oracle.posterior_moments(row)
    tril = np.linalg.cholesky(covariance)
    assert oracle.elbo(row, center, tril) == pytest.approx(float(exact.log_prob(row)), abs=1e-6)
    assert oracle.rate(center, tril) == pytest.approx(oracle.information(row), abs=1e-6)


@pytest.mark.parametrize("row", LIKELIHOODS)
def test_the_densities_of_every_likelihood_are_those_written_here(row: int) -> None:
    part, data = instances.make_likelihoods()[row]
    x = getattr(instances, data)(3)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model = taut.VAE(taut.StandardNormal(instances.LATENT), part, instances.make_posteriors()[0])
    z = 2 * torch.randn(5, instances.LATENT)
    oracle = Oracle(model)
    for datum in x:
        log_p, mean, _ = oracle.terms(z.numpy(), datum.numpy())
        given = part(z[:, None])
        own = terms(given, datum[None]).detach().numpy()[:, 0]
        np.testing.assert_allclose(log_p, own, rtol=1e-9, atol=1e-9)
        if data != "columns" and not isinstance(part, WARPED):
            np.testing.assert_allclose(mean, given.mean.detach().numpy()[:, 0], rtol=1e-6)


@pytest.mark.parametrize("row", PRIORS)
def test_the_densities_of_every_prior_are_those_written_here(row: int) -> None:
    prior = instances.make_priors()[row]
    likelihood = taut.Bernoulli(instances.EVENT, instances.LATENT, instances.SMALL)
    oracle = Oracle(taut.VAE(prior, likelihood, instances.make_posteriors()[0]))
    z = prior().sample((7,))
    np.testing.assert_allclose(
        oracle.log_prior(z.numpy()), prior().log_prob(z).detach(), rtol=1e-10
    )


def test_importance_sampling_agrees_on_a_trained_model() -> None:
    torch.set_default_dtype(torch.float32)
    x = torch.randn(300, 2) @ torch.randn(2, 5) + 0.3 * torch.randn(300, 5)
    small = "Residual(hidden=(16,))"
    run = taut.fit(x, latent_dim=2, encoder=small, decoder=small, max_epochs=30, learning_rate=0.01)
    evidence = taut.importance(run.model, x[:30], 500)
    oracle = Oracle(run.model)
    exact = torch.tensor([oracle.log_evidence(row) for row in x[:30]])
    assert bool(evidence.reliable.all())
    assert_mean((evidence.log_evidence - exact).exp(), 1.0)  # the mean weight has no bias
    elbos = torch.tensor([oracle.elbo(row, *oracle.moments_of(row)) for row in x[:30]])
    assert_mean(evidence.elbo - elbos, 0.0)
