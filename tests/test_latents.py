"""Use of the latent space against closed forms of Gaussian encoders on Gaussian data."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal
from ztest import assert_mean, limit

import taut
from taut import posteriors
from taut.evidence.latents import BINS, calibration, latents, mixture, prior_gain
from taut.evidence.scale import scale_check


class Encoder(taut.Posterior):
    """q(z|x) = N(A x, diag(s^2)), or with a full covariance."""

    def __init__(self, a: torch.Tensor, scale: torch.Tensor, full: bool = False) -> None:
        super().__init__()
        self.a, self.scale, self.full = a, scale, full

    def forward(self, x, context=None):
        loc = x @ self.a.T
        if self.full:
            return MultivariateNormal(loc, scale_tril=torch.diag(self.scale).expand(len(x), -1, -1))
        return Independent(Normal(loc, self.scale.expand_as(loc)), 1)


A, SCALE = torch.tensor([[0.5, 0.3], [0.4, -0.1]]), torch.tensor([0.8, 1.0])


def gaussian_model(
    full: bool = False, a: torch.Tensor = A, scale: torch.Tensor = SCALE
) -> taut.VAE:
    dtype = torch.get_default_dtype()
    return taut.LinearGaussian(2, len(scale)).model(Encoder(a.to(dtype), scale.to(dtype), full))


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_information_marginal_kl_and_total_correlation_are_their_closed_forms(full: bool) -> None:
    r"""For x ~ N(0, I) the aggregate posterior is N(0, C) with C = A A^T + S: I = (log|C| - log|S|)
    / 2, and so on.

    The data are a grid of normal quantiles, so that no number depends on which data were drawn;
    0.01 nat is three standard errors of the draws of z, and more than the bias of 3600 components.
    """
    grid = Normal(0.0, 1.0).icdf((torch.arange(60) + 0.5) / 60)
    x = torch.cartesian_prod(grid, grid)
    x = x / x.std(0, correction=0)
    a, s = A.double(), SCALE.double().square()
    c = a @ a.T + torch.diag(s)
    information = 0.5 * float(c.logdet() - s.log().sum())
    marginal_kl = 0.5 * float(c.trace() - 2 - c.logdet())
    correlation = 0.5 * float(c.diagonal().log().sum() - c.logdet())
    assert min(information, marginal_kl, correlation) > 0.01
    # one z for each datum and seed
    found = [latents(gaussian_model(full), x, seed=seed) for seed in range(6)]

    def mean(name: str, way: str) -> float:
        return sum(f[name][way]["value"] for f in found) / len(found)

    for way in ("own", "left_out"):
        assert mean("information", way) == pytest.approx(information, abs=0.01)
        assert mean("marginal_kl", way) == pytest.approx(marginal_kl, abs=0.01)
        assert mean("total_correlation", way) == pytest.approx(correlation, abs=0.01)
    assert mean("information", "own") < mean("information", "left_out")
    assert found[0]["information_limit"] == pytest.approx(math.log(3600))
    per_dimension = 0.5 * ((a @ a.T).diagonal() + s - 1 - s.log())  # E KL of each
    assert found[0]["dimensions"]["rate"] == pytest.approx(per_dimension.tolist(), abs=1e-9)
    assert found[0]["dimensions"]["mean_variance"] == pytest.approx(
        (a @ a.T).diagonal().tolist(), abs=1e-9
    )
    assert found[0]["active_units"] == 2
    assert found[0]["warnings"] == []


def test_two_data_by_hand() -> None:
    model = gaussian_model()
    x = torch.tensor([[0.0, 0.0], [2.0, 1.0]])
    found = latents(model, x, seed=3)
    from taut.system.seeds import stream

    with stream(3, "latents", 0), torch.no_grad():
        draw = model.draw(x, reparameterize=False)
    each = draw.groups[0].posterior.log_prob(draw.z[0][:, None])  # (2 points, 2 components)
    own = (each.diagonal() - (each.logsumexp(1) - math.log(2))).mean().item()
    left = (each.diagonal() - each.flip(1).diagonal()).mean().item()
    assert found["information"]["own"]["value"] == pytest.approx(own, abs=1e-10)
    assert found["information"]["left_out"]["value"] == pytest.approx(left, abs=1e-10)
    rate = (draw.log_posterior - draw.log_prior).mean().item()
    assert found["rate"]["value"] == pytest.approx(rate, abs=1e-10)
    assert found["marginal_kl"]["own"]["value"] == pytest.approx(rate - own, abs=1e-10)


def test_each_datum_leaves_out_its_own_component_in_every_block() -> None:
    model, x, z = gaussian_model(), torch.randn(300, 2), torch.randn(300, 2)  # blocks have 256
    each = model.encode(x).log_prob(z[:, None])  # (points, components)
    whole, left, *_ = mixture(model, x, None, z)
    torch.testing.assert_close(whole, each.logsumexp(1) - math.log(300), rtol=0, atol=1e-10)
    others = each.masked_fill(torch.eye(300, dtype=torch.bool), -math.inf)
    torch.testing.assert_close(left, others.logsumexp(1) - math.log(299), rtol=0, atol=1e-10)


def test_saturated_information_is_said() -> None:
    model = gaussian_model(scale=torch.tensor([0.001, 0.001]))
    found = latents(model, torch.randn(50, 2))
    assert found["information"]["own"]["value"] == pytest.approx(math.log(50), abs=1e-6)
    assert "log N = 3.91" in found["warnings"][0]


def test_dead_noisy_and_active_dimensions_are_told_apart() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    found = latents(gaussian_model(a=a, scale=torch.tensor([0.5, 1.0, 0.3])), torch.randn(100, 2))
    assert (found["dead"], found["noisy"], found["active_units"], found["latent_dim"]) == (
        [1],
        [2],
        1,
        3,
    )
    expected = 0.5 * (0.09 - 1 - math.log(0.09))
    assert found["noisy_rate"]["value"] == pytest.approx(expected, abs=1e-6)


def test_a_better_prior_buys_its_kl() -> None:
    """The aggregate posterior N(m, C) is one Gaussian.

    It buys KL(N(m, C), N(0, I)), less what fitting it costs.
    """
    model, shift = gaussian_model(), torch.tensor([1.0, 2.0])
    x, train = torch.randn(4000, 2) + shift, torch.randn(20000, 2) + shift
    a = A.double()
    c, m = a @ a.T + torch.diag(SCALE.double().square()), a @ shift.double()
    expected = 0.5 * float(c.trace() + m @ m - 2 - c.logdet())
    gain = prior_gain(model, train, x)
    assert abs(gain.value - expected) < limit(1) * gain.test_error
    assert gain.test_error < 0.05
    assert prior_gain(model, train[:30], x) is None
    alone = latents(model, x)["prior_gain"]  # half of them fit, half measure
    assert abs(alone["value"] - expected) < limit(1) * alone["test_error"]


def test_a_clustered_space_needs_more_than_one_gaussian() -> None:
    centre = torch.tensor([-3.0, 3.0])[torch.randint(2, (6000,))]
    x = torch.stack([centre, torch.zeros(6000)], 1) + 0.1 * torch.randn(6000, 2)
    a, scale = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([0.2, 1.0])
    gain = prior_gain(gaussian_model(a=a, scale=scale), x[:4000], x[4000:])
    v = 0.04 + 0.01  # of each of two well separated components
    expected = 0.5 * (v + 9 - 1 - math.log(v)) - math.log(2)
    # fitting five components costs some 15 / 2 / 3000
    assert abs(gain.value - expected) < limit(1) * gain.test_error + 0.01


def test_discrete_latents_have_information_and_no_gaussian_prior() -> None:
    problem = taut.BinaryLatents()
    model = problem.model(posteriors.IndependentBernoulli((6,), 3, taut.Linear))
    x = problem.sample(200)
    found = latents(model, x)
    assert found["prior_gain"] is None
    assert 0 < found["information"]["own"]["value"] < 3 * math.log(2)
    assert found["total_correlation"] is not None
    assert found["rate"]["value"] == pytest.approx(
        taut.importance(model, x, 500).rate.mean().item(), abs=0.3
    )


def test_one_datum_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        latents(gaussian_model(), torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("width", "shift", "verdict"),
    [(0.6, 0.0, "too narrow"), (1.6, 0.0, "too wide"), (1.0, 0.5, "off-centre")],
)
def test_calibration_names_what_is_wrong(width: float, shift: float, verdict: str) -> None:
    problem = taut.LinearGaussian(dim_x=4, dim_z=2)

    class Off(taut.Posterior):
        def forward(self, x, context=None):
            exact = problem.posterior(x)
            return MultivariateNormal(
                exact.mean + shift * exact.stddev, width**2 * exact.covariance_matrix
            )

    found = calibration(problem.model(Off()))
    assert verdict in found["verdict"]
    assert found["p_value"] < 1e-6
    assert found["spread"] == pytest.approx(math.sqrt(1 + shift**2) / width, rel=0.1)
    assert sum(found["histogram"]) == 2000
    assert len(found["histogram"]) == BINS


def test_the_exact_posterior_is_calibrated() -> None:
    """Over 200 runs the p-values of a single dimension are uniform, and the coverage is 0.9 on
    average.
    """
    problem = taut.LinearGaussian(dim_x=3, dim_z=1)
    runs = [calibration(problem.model(), 200, seed=seed) for seed in range(200)]
    p = torch.tensor([r["p_value"] for r in runs])
    assert_mean(p, 0.5)
    assert_mean(p.square(), 1 / 3)
    assert_mean(torch.tensor([r["coverage_90"]["value"] for r in runs]), 0.9)
    assert runs[0]["verdict"].startswith("calibrated")


def test_discrete_posteriors_are_calibrated_too() -> None:
    problem = taut.BinaryLatents()
    assert calibration(problem.model())["p_value"] > 1e-6
    assert (
        calibration(problem.model(posteriors.IndependentBernoulli((6,), 3, taut.Linear)))["spread"]
        is None
    )


def test_the_scale_of_a_normal_likelihood_is_checked_by_its_residuals() -> None:
    """x = W z + b + noise of twice the model's scale, under the exact posterior of the right model.

    E e^2 is known.
    """
    event, n = (3,), 20000
    model = taut.VAE(
        taut.StandardNormal(2),
        taut.Normal(event, 2, 0.5, decoder=taut.Linear),
        taut.DiagonalNormal(event, 2, taut.Linear),
    )
    with torch.no_grad():
        for p in [*model.likelihood.parameters(), *model.posterior.parameters()]:
            p.zero_()
    x = torch.randn(n, 3) * torch.tensor([0.5, 1.0, 0.25])  # e = x / 0.5 has variances 1, 4, 1/4
    found = scale_check(model, x)
    expected = sum(0.5 * (v - 1 - math.log(v)) for v in (1.0, 4.0, 0.25))
    assert found["gain"]["value"] == pytest.approx(
        expected, abs=limit(1) * found["gain"]["test_error"]
    )
    assert found["factor"] == pytest.approx(
        {"median": 1.0, "smallest": 0.5, "largest": 2.0}, rel=0.05
    )
    assert found["at_floor"] is None
    learned = taut.Normal(event, 2, min_scale=0.3, decoder=taut.Linear)
    with torch.no_grad():
        learned.raw_scale.fill_(-30.0)  # as far down as it goes
    assert scale_check(taut.VAE(model.prior, learned, model.posterior), x)["at_floor"] == 1.0
    assert (
        scale_check(
            taut.VAE(model.prior, taut.Bernoulli(event, 2, taut.Linear), model.posterior),
            (x > 0).double(),
        )
        is None
    )


def test_a_prior_is_not_measured_on_the_data_it_was_fitted_to() -> None:
    """Here the aggregate posterior is the prior, so that nothing can be gained, and what is fitted
    to 37 rows loses. The posterior is narrow: wide ones would be other z of the same rows.

    The mean over 60 runs is some ten standard errors below zero; on its own data every fit would
    gain.
    """
    model = gaussian_model(a=0.96 * torch.eye(2), scale=torch.tensor([0.28, 0.28]))
    gains = torch.tensor(
        [
            latents(model, torch.randn(100, 2), seed=seed)["prior_gain"]["value"]
            for seed in range(60)
        ]
    )
    assert float(gains.mean()) < -limit(1) * float(gains.std()) / 60**0.5


def test_a_scale_is_not_measured_on_the_data_it_was_fitted_to() -> None:
    """The first, third, ...

    of the data find the factor 2, and the others, whose residuals are 1, are worse off with it.
    """
    model = taut.VAE(
        taut.StandardNormal(2),
        taut.Normal((3,), 2, 0.5, decoder=taut.Linear),
        taut.DiagonalNormal((3,), 2, taut.Linear),
    )
    with torch.no_grad():
        for p in [*model.likelihood.parameters(), *model.posterior.parameters()]:
            p.zero_()
    found = scale_check(model, torch.tensor([1.0, -0.5, -1.0, 0.5])[:, None].expand(4, 3))
    assert found["gain"]["value"] == pytest.approx(3 * (0.5 * (1 - 1 / 4) - math.log(2)), abs=1e-10)
    assert found["factor"] == pytest.approx({"median": 2.0, "smallest": 2.0, "largest": 2.0})
