"""Flows: the log-determinant is that of autograd's Jacobian, the inverse inverts, densities
integrate to one, and a linear flow is the exact posterior of a linear model.
"""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal
from ztest import assert_mean

import taut
from taut import posteriors, priors
from taut.distributions.flows import EDGE, Flow, rational_quadratic
from taut.evidence.ascent import members
from taut.evidence.gaps import optima_blocks
from taut.networks.couplings import Couplings


def couplings(dim: int, num_features: int = 3, bins: int = 8, layers: int = 3) -> Couplings:
    result = Couplings(dim, num_features, layers, (6,), bins)
    with torch.no_grad():
        for parameter in result.parameters():
            parameter.normal_(0, 0.4)
    return result


CASES = list(itertools.product([2, 5], [0, 8], [1, 3]))


@pytest.mark.parametrize(("dim", "bins", "layers"), CASES)
def test_the_log_determinant_is_that_of_the_jacobian(dim: int, bins: int, layers: int) -> None:
    f, h = couplings(dim, 3, bins, layers), torch.randn(4, 3)
    for scale in (0.5, 2.0, 8.0):
        u = scale * torch.randn(4, dim)
        y, log_det = f(u, h)
        for row in range(4):
            here = h[row : row + 1]

            def one(point: Tensor, features: Tensor = here) -> Tensor:
                return f(point[None], features)[0][0]

            jacobian = torch.autograd.functional.jacobian(one, u[row])
            torch.testing.assert_close(log_det[row], jacobian.slogdet()[1], rtol=0, atol=1e-10)
        back, log_back = f(y, h, inverse=True)
        torch.testing.assert_close(back, u, rtol=0, atol=1e-8)
        torch.testing.assert_close(log_back, -log_det, rtol=0, atol=1e-8)


@pytest.mark.parametrize("bins", [2, 5, 8])
def test_a_spline_rises_joins_smoothly_and_is_the_identity_beyond(bins: int) -> None:
    raw = torch.randn(3 * bins - 1)
    x = torch.linspace(-2 * EDGE, 2 * EDGE, 40_001)
    y, log_slope = rational_quadratic(x, raw.expand(len(x), -1))
    assert bool((y.diff() > 0).all())
    outside = x.abs() >= EDGE
    torch.testing.assert_close(y[outside], x[outside], rtol=0, atol=1e-12)
    torch.testing.assert_close(log_slope[outside], torch.zeros(int(outside.sum())))
    # a slope that were not continuous would jump at a knot by more than a grid step's change
    numeric = y.diff() / x.diff()
    middle = rational_quadratic((x[1:] + x[:-1]) / 2, raw.expand(len(x) - 1, -1))[1].exp()
    torch.testing.assert_close(numeric, middle, rtol=0.02, atol=0.0)


def test_zeros_are_the_identity() -> None:
    x = torch.linspace(-7, 7, 99)
    for inverse in (False, True):
        y, log_slope = rational_quadratic(x, torch.zeros(99, 23), inverse)
        torch.testing.assert_close(y, x, rtol=0, atol=1e-12)
        torch.testing.assert_close(log_slope, torch.zeros(99), rtol=0, atol=1e-12)
    for bins in (0, 8):
        u = torch.randn(4, 5)
        y, log_det = Couplings(5, 0, 4, (8,), bins)(u, None)
        torch.testing.assert_close(y, u, rtol=0, atol=1e-12)
        torch.testing.assert_close(log_det, torch.zeros(4), rtol=0, atol=1e-12)


def flow(bins: int, batch: tuple[int, ...] = (3,)) -> Flow:
    loc, scale = torch.randn(*batch, 2), torch.rand(*batch, 2) + 0.5
    return Flow(loc, scale, torch.randn(*batch, 3), couplings(2, 3, bins))


def summed(q: Flow) -> tuple[Tensor, Tensor]:
    """Points of a fine grid, (G, 1, 2), and the mass that q says each has, (G, 1)."""
    line = torch.linspace(-8, 8, 641)
    z = q.loc + q.scale * torch.cartesian_prod(line, line)[:, None]
    with torch.no_grad():
        density = torch.cat([q.log_prob(part).exp() for part in z.split(20_000)])
    return z, density * q.scale.prod() * (line[1] - line[0]) ** 2


@pytest.mark.parametrize("bins", [0, 8])
def test_a_density_integrates_to_one(bins: int) -> None:
    mass = summed(flow(bins, (1,)))[1].sum(0)
    torch.testing.assert_close(mass, torch.ones(1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("bins", [0, 8])
def test_samples_have_the_density_that_is_said(bins: int) -> None:
    """z-tests of two moments against sums over a grid; alpha 1e-6 each."""
    q = flow(bins, (1,))
    z, log_q = q.rsample_and_log_prob((20_000,))
    torch.testing.assert_close(q.log_prob(z), log_q, rtol=0, atol=1e-6)
    grid, mass = summed(q)
    for function in (lambda z: torch.tanh(z).sum(-1), lambda z: torch.sin(z[..., 0])):
        assert_mean(function(z), (mass * function(grid)).sum(0))


def test_mean_and_variance_are_exact_of_a_gaussian_and_near_of_a_bent_one() -> None:
    q = flow(8)
    plain = Flow(q.loc, q.scale, q.features, Couplings(2, 3, 2, (4,), 8))
    torch.testing.assert_close(plain.mean, q.loc, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(plain.stddev, q.scale, rtol=1e-10, atol=1e-10)
    z = q.sample((20_000,))
    assert float(((q.mean - z.mean(0)) / q.scale).detach().abs().max()) < 0.1
    assert float((q.stddev / z.std(0)).log().detach().abs().max()) < 0.1


def test_a_linear_flow_is_the_exact_posterior_of_a_linear_model() -> None:
    r"""Two affine couplings with linear networks hold every Gaussian of two dimensions: set to the
    exact posterior, all weights are log p(x).
    """
    problem = taut.LinearGaussian(4, 2, 0.7)
    exact = problem.posterior(problem.sample(1))
    tril = exact.scale_tril[0]

    class Tilted(taut.Posterior):
        def __init__(self) -> None:
            super().__init__()
            self.couplings = Couplings(2, 0, 1, (), 0)
            affine = self.couplings.networks[0].layers[-1]
            with torch.no_grad():
                # z_2 = m_2 + L_22 (u_2 + (L_21 / L_22) u_1)
                affine.weight[0, 0] = tril[1, 0] / tril[1, 1]

        def forward(self, x: Tensor, context: Tensor | None = None) -> Flow:
            loc = problem.posterior(x).mean
            return Flow(loc, tril.diagonal().expand_as(loc), None, self.couplings)

    x = problem.sample(5)
    draw = problem.model(Tilted()).draw(x, 7)
    expected = problem.log_evidence(x).expand(7, -1)
    torch.testing.assert_close(draw.log_weight, expected, rtol=0, atol=1e-10)


def test_a_flow_learns_a_posterior_that_no_gaussian_is() -> None:
    """Given x = z_1^2 - z_2 + noise the posterior is a parabola: a flow leaves less than a quarter
    of the gap that a full covariance does (a tenth, in five seeds).
    """

    class Parabola(taut.Likelihood):
        def forward(self, z: Tensor, context: Tensor | None = None) -> MultivariateNormal:
            mean = z[..., :1].square() - z[..., 1:]
            return MultivariateNormal(mean, scale_tril=0.5 * torch.eye(1))

    def gap(posterior: taut.Posterior) -> float:
        model, x = taut.VAE(taut.StandardNormal(2), Parabola(), posterior), torch.ones(64, 1)
        optimizer = torch.optim.Adam(posterior.parameters(), 1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
        for _ in range(400):
            optimizer.zero_grad()
            (-taut.ELBO()(model, x).surrogate.mean()).backward()
            optimizer.step()
            schedule.step()
        return float(taut.importance(model.eval(), x, 2000).gap.mean())

    small = partial(taut.MLP, hidden=(32,))
    bent = gap(posteriors.CouplingFlow((1,), 2, small, layers=2, hidden=(32,)))
    assert bent < 0.25 * gap(taut.FullCovarianceNormal((1,), 2, small))


def test_members_of_a_flow_are_moved_by_their_parameters() -> None:
    q = flow(8)
    part = members(q, torch.tensor([2, 0]))
    z = torch.randn(6, 2, 2)
    whole = torch.zeros(6, 3, 2).index_copy(1, torch.tensor([2, 0]), z)
    torch.testing.assert_close(part.log_prob(z), q.log_prob(whole)[:, [2, 0]])


def test_gaps_fit_a_flow_per_datum() -> None:
    """A flow whose place is wrong comes back to it: the best member has the closed form's bound."""
    problem = taut.LinearGaussian(4, 2, 0.7)

    class Shifted(taut.Posterior):
        def __init__(self) -> None:
            super().__init__()
            self.couplings = Couplings(2, 0, 2, (4,), 0)

        def forward(self, x: Tensor, context: Tensor | None = None) -> Flow:
            exact = problem.posterior(x)
            return Flow(exact.mean + 0.5, exact.stddev, exact.mean.new_zeros(len(x), 1), self.none)

        def none(self, u: Tensor, features: Tensor, inverse: bool = False) -> tuple:
            return self.couplings(u, None, inverse)

    x = problem.sample(3)
    model = problem.model(Shifted())
    (found,) = list(optima_blocks(model, x))
    precision = torch.linalg.inv(problem.posterior(x).covariance_matrix)[0]
    gap = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
    best = problem.log_evidence(x) - gap
    off = (found.own.elbo - best).abs()
    assert bool((off < 5 * found.own.elbo_error + 0.01).all())


def test_a_prior_is_the_normal_of_its_place_and_scale_until_its_layers_bend() -> None:
    prior = priors.Flow(3)
    with torch.no_grad():
        prior.loc.normal_()
        prior.raw_scale.normal_()
    scale = 1e-3 + torch.nn.functional.softplus(prior.raw_scale + math.log(math.e - 1))
    z = torch.randn(5, 3)
    expected = Normal(prior.loc, scale).log_prob(z).sum(-1)
    torch.testing.assert_close(prior().log_prob(z), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: posteriors.CouplingFlow((3,), 1), "at least 2 latent dimensions"),
        (lambda: priors.Flow(1), "at least 2 latent dimensions"),
        (lambda: priors.Flow(2, layers=0), "layers must be at least 1"),
        (lambda: priors.Flow(2, bins=1), "bins must be 0"),
        (lambda: posteriors.CouplingFlow((3,), 2, num_features=-1), "num_features must be"),
        (lambda: priors.Flow(2, min_scale=0.0), "min_scale must be positive"),
    ],
)
def test_what_a_flow_cannot_be_is_said(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
