"""The ground truth is checked against what does not use it.

Identities, enumeration by hand, published figures.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from sklearn import datasets

import taut


@pytest.mark.parametrize("context_dim", [0, 3])
def test_linear_gaussian_obeys_bayes(context_dim: int) -> None:
    """log p(x) = log p(x, z) - log p(z | x) at any z."""
    problem = taut.LinearGaussian(5, 2, context_dim=context_dim)
    context = torch.randn(4, context_dim) if context_dim else None
    x, z = torch.randn(4, 5), torch.randn(4, 2)
    joint = problem.likelihood(z, context).log_prob(x) + problem.prior(context).log_prob(z)
    evidence = joint - problem.posterior(x, context).log_prob(z)
    torch.testing.assert_close(problem.log_evidence(x, context), evidence, rtol=0, atol=1e-10)


def test_linear_gaussian_evidence_is_the_gaussian_density_by_hand() -> None:
    problem = taut.LinearGaussian(3, 1, scale=0.5)
    w, b = problem.likelihood.weight.detach(), problem.likelihood.bias.detach()
    x = torch.randn(3)
    covariance = w @ w.T + 0.25 * torch.eye(3)
    square = (x - b) @ torch.linalg.inv(covariance) @ (x - b)
    by_hand = -0.5 * (3 * math.log(2 * math.pi) + math.log(torch.linalg.det(covariance)) + square)
    torch.testing.assert_close(
        problem.log_evidence(x[None])[0].detach(), by_hand, rtol=0, atol=1e-10
    )


def test_binary_latents_are_enumerated() -> None:
    problem = taut.BinaryLatents(dim_x=4, num_bits=3)
    x = problem.sample(5)
    total = torch.zeros(5)
    for bits in itertools.product((0.0, 1.0), repeat=3):
        z = torch.tensor(bits)
        p_z = torch.sigmoid(problem.prior.logits)
        prior = torch.where(z == 1, p_z, 1 - p_z).prod()
        p_x = torch.sigmoid(problem.likelihood.weight @ z + problem.likelihood.bias)
        total = total + prior * torch.where(x == 1, p_x, 1 - p_x).prod(-1)
    torch.testing.assert_close(problem.log_evidence(x), total.log(), rtol=0, atol=1e-10)
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)))
    assert problem.log_evidence(every).exp().sum().item() == pytest.approx(1, abs=1e-10)


def test_binary_posterior_is_normalised_and_has_its_mean() -> None:
    problem = taut.BinaryLatents(num_bits=4)
    q = problem.posterior(problem.sample(5))
    assert (q.batch_shape, q.event_shape) == ((5,), (4,))
    mass = q.log_prob(problem.states[:, None]).exp()
    torch.testing.assert_close(mass.sum(0), torch.ones(5), rtol=0, atol=1e-10)
    torch.testing.assert_close(
        q.mean, (mass[..., None] * problem.states[:, None]).sum(0), rtol=0, atol=1e-10
    )


# shared/reference/numbers.md, section 9: mean log p(x) a row and sigma^2 of probabilistic PCA on
# z-scored data (ddof 0).
PUBLISHED = [
    ("iris", 1, -4.680897, 0.360501),
    ("iris", 2, -3.686255, 0.083736),
    ("wine", 1, -17.004467, 0.691179),
    ("wine", 5, -15.212645, 0.322363),
    ("breast_cancer", 2, -31.684860, 0.393823),
    ("breast_cancer", 5, -24.625057, 0.183189),
]


@pytest.mark.parametrize(("name", "latent_dim", "log_likelihood", "variance"), PUBLISHED)
def test_probabilistic_pca(
    name: str, latent_dim: int, log_likelihood: float, variance: float
) -> None:
    x = getattr(datasets, f"load_{name}")().data
    x = torch.from_numpy((x - x.mean(0)) / x.std(0))
    fit = taut.probabilistic_pca(x, latent_dim)
    # six decimals are published
    assert fit.log_likelihood == pytest.approx(log_likelihood, abs=1e-6)
    assert fit.scale**2 == pytest.approx(variance, abs=1e-6)
    covariance = fit.weight @ fit.weight.T + fit.scale**2 * torch.eye(x.shape[1])
    direct = torch.distributions.MultivariateNormal(fit.loc, covariance).log_prob(x).mean()
    assert direct.item() == pytest.approx(fit.log_likelihood, abs=1e-9)


@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_a_linear_vae_trained_by_fit_is_probabilistic_pca(beta: float, tmp_path) -> None:
    """It reaches the maximum likelihood to 0.01 nat, and its active units are those with lambda_j >
    beta sigma^2.
    """
    torch.set_default_dtype(torch.float32)
    x = datasets.load_wine().data
    x = (x - x.mean(0)) / x.std(0)
    run = taut.fit(
        x,
        tmp_path / "run",
        test=x,
        validation_fraction=0.0,
        latent_dim=3,
        likelihood='Normal(scale="shared")',
        encoder="Linear()",
        decoder="Linear()",
        objective=taut.ELBO(beta=beta),
        batch_size=178,
        max_epochs=2000,
        learning_rate=3e-2,
        num_samples=100,
    )
    exact, result = taut.probabilistic_pca(torch.from_numpy(x), 3), run.evaluation()
    variance = run.model.likelihood(torch.zeros(1, 1, 3)).variance[0, 0, 0].item()
    rates = torch.distributions.kl_divergence(
        run.model.encode(torch.from_numpy(x).float()).base_dist, run.model.prior().base_dist
    ).mean(0)
    # Lucas et al. 2019: the rate of an active dimension is (1/2) log(lambda_j / (beta sigma^2)),
    # that of the others zero.
    expected = (0.5 * (exact.eigenvalues[:3] / (beta * variance)).log()).clamp_min(0)
    torch.testing.assert_close(
        rates.detach().double().sort(descending=True).values, expected, rtol=0, atol=0.02
    )
    assert result["active_units"] == int((exact.eigenvalues[:3] > beta * variance).sum())
    assert result["active_units"] == {1.0: 3, 4.0: 1}[beta]
    if beta == 1:
        assert result["log_evidence"]["value"] == pytest.approx(exact.log_likelihood, abs=0.01)
        assert result["elbo"]["value"] == pytest.approx(exact.log_likelihood, abs=0.01)
        assert variance == pytest.approx(exact.scale**2, abs=0.005)
    # in float32 densities of some 20 nats are known to 20 eps, 2e-6
    assert result["elbo"]["value"] == pytest.approx(
        -(result["rate"]["value"] + result["distortion"]["value"]), abs=1e-5
    )
