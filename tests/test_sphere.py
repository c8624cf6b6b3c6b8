"""Unit vectors: densities and moments against quadrature, gradients through samples by z-tests, and
a model whose exact posterior is a von Mises-Fisher distribution.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence
from ztest import assert_mean

import taut
from taut import posteriors, priors
from taut.distributions import PowerSpherical, UniformSphere, VonMisesFisher, sphere
from taut.evidence.annealing import annealing, can_move
from taut.evidence.gaps import optima_blocks
from taut.evidence.rows import log_evidence

NUM = 40_000
CASES = [(2, 1.0), (3, 5.0), (5, 2.0), (10, 50.0), (50, 1000.0)]


def first(dim: int) -> Tensor:
    return torch.eye(dim)[0]


def integral(dim: int, function) -> Tensor:
    """Returns the integral over the sphere of a function of the angle to the first axis, by Gauss's
    rule.
    """
    node, weight = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(400))
    angle = 0.5 * math.pi * (node + 1)
    ring = (dim - 2) * angle.sin().log() + sphere.log_area(dim - 1)
    return (0.5 * math.pi * weight * ring.exp() * function(angle)).sum()


def around(dim: int, angle: Tensor) -> Tensor:
    """Returns points at some angles to the first axis, (G, d)."""
    z = torch.zeros(len(angle), dim)
    z[:, 0], z[:, 1] = angle.cos(), angle.sin()
    return z


@pytest.mark.parametrize("family", [PowerSpherical, VonMisesFisher])
@pytest.mark.parametrize(("dim", "kappa"), CASES)
def test_density_mean_variance_and_divergence_are_those_of_quadrature(
    family, dim: int, kappa: float
) -> None:
    q = family(first(dim), torch.tensor(kappa))

    def mean(function) -> Tensor:
        return integral(dim, lambda a: q.log_prob(around(dim, a)).exp() * function(a))

    close = {"rtol": 0, "atol": 1e-10}
    torch.testing.assert_close(mean(torch.ones_like), torch.tensor(1.0), **close)
    torch.testing.assert_close(mean(torch.cos), q.mean[0], **close)
    divergence = kl_divergence(q, UniformSphere(torch.zeros(dim)))
    found = mean(lambda a: q.log_prob(around(dim, a)) + sphere.log_area(dim))
    torch.testing.assert_close(found, divergence, **close)
    if family is PowerSpherical:
        along = mean(lambda a: (a.cos() - q.mean[0]).square())
        across = mean(lambda a: a.sin().square()) / (dim - 1)
        torch.testing.assert_close(along, q.variance[0], **close)
        torch.testing.assert_close(across, q.variance[1], **close)


@pytest.mark.parametrize(
    ("dim", "kappa", "log_c", "divergence"),
    [
        (3, 5.0, -5.228393753, 1.303085),
        (5, 2.0, -3.649803041, 0.342699),
        (10, 50.0, -40.507323555, 8.391899),
        (50, 1000.0, -875.499978561, 74.814808),
    ],
)
def test_von_mises_fisher_has_its_known_constants(dim, kappa, log_c, divergence) -> None:
    q = VonMisesFisher(first(dim), torch.tensor(kappa))
    assert float(q.log_prob(first(dim)) - kappa) == pytest.approx(log_c, abs=1e-9)
    found = float(kl_divergence(q, UniformSphere(torch.zeros(dim))))
    assert found == pytest.approx(divergence, abs=6e-7)


def test_the_mean_of_von_mises_fisher_and_its_slope_are_known_and_it_has_no_samples() -> None:
    kappa = torch.tensor(2.0, requires_grad=True)
    length = VonMisesFisher(first(5), kappa).mean[0]
    (slope,) = torch.autograd.grad(length, kappa)
    assert length.item() == pytest.approx(0.361107, abs=1e-6)
    assert slope.item() == pytest.approx(0.147389, abs=1e-6)
    with pytest.raises(NotImplementedError, match=r"13\.5 % off .* take PowerSpherical"):
        VonMisesFisher(first(5), kappa).rsample()


@pytest.mark.parametrize(("dim", "kappa"), CASES)
def test_samples_have_the_moments_and_their_gradients_the_slopes(dim: int, kappa: float) -> None:
    """z-tests, alpha 1e-6 each: E[z] = k / (k + d - 1) mu, its slope in k, and in mu the projector
    away from it.
    """
    concentration = torch.full((NUM,), kappa, requires_grad=True)
    loc = torch.randn(dim)
    loc = (loc / loc.norm()).repeat(NUM, 1).requires_grad_()
    q = PowerSpherical(loc, concentration)
    z, mu = q.rsample(), loc[0].detach()
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(NUM), rtol=0, atol=1e-12)
    assert_mean(z, q.mean[0])
    assert_mean((z - q.mean).square(), q.variance[0])
    along, across = torch.randn(2, dim)
    slope, _ = torch.autograd.grad((z @ mu).sum(), (concentration, loc), retain_graph=True)
    assert_mean(slope, (dim - 1) / (kappa + dim - 1) ** 2)
    (turned,) = torch.autograd.grad((z @ along).sum(), loc)
    share = kappa / (kappa + dim - 1)
    assert_mean(turned @ across, share * (along @ across - (along @ mu) * (mu @ across)))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("length", [1.0, 1e-30, 1e30])
def test_around_an_axis_or_its_opposite_nothing_is_divided_by_zero(sign: float, length) -> None:
    """z-test of the mean, alpha 1e-6; a reflection across mu - e_1 has no length there."""
    loc = (sign * length * first(4)).repeat(20_000, 1).requires_grad_()
    q = PowerSpherical(loc, torch.tensor(3.0).expand(20_000))
    z = q.rsample()
    assert_mean(z, 0.5 * sign * first(4))
    (gradient,) = torch.autograd.grad(z[:, 1].sum(), loc)
    # the mean turns by half of the angle that mu is moved by
    assert_mean(length * gradient[:, 1], 0.5)


def test_a_direction_of_zeros_is_the_first_axis_and_the_opposite_has_density_zero() -> None:
    q = PowerSpherical(torch.zeros(2, 3), torch.tensor([1.0, 9.0]))
    torch.testing.assert_close(q.mean, torch.tensor([1 / 3, 9 / 11])[:, None] * first(3))
    assert q.log_prob(-first(3)).isneginf().all()


@pytest.mark.parametrize("kappa", [1e-3, 7.99, 8.01, 1e3, 1e6, 1e8])
@pytest.mark.parametrize("dim", [2, 9])
def test_float32_knows_densities_and_divergences_of_the_smallest_spread(dim, kappa) -> None:
    """Samples of float32 judged in both precisions; sqrt(k d) units of rounding from the samples'
    own, a few from the sums of terms of up to 40 nats.
    """
    exact = PowerSpherical(torch.randn(5, dim), torch.full((5,), kappa))
    short = PowerSpherical(exact.loc.float(), exact.concentration.float())
    z = short.sample((200,))
    allowed = torch.finfo(torch.float32).eps * (10 * math.sqrt(kappa * dim) + 100)
    exact = PowerSpherical(short.loc.double(), exact.concentration)
    assert float((short.log_prob(z) - exact.log_prob(z.double())).abs().max()) < allowed
    there = kl_divergence(exact, UniformSphere(torch.zeros(dim)))
    found = kl_divergence(short, UniformSphere(torch.zeros(dim)))
    assert float((found - there).abs().max()) < allowed


class Rotated(taut.Likelihood):
    """x ~ N(r z, s^2 I): given x, z is von Mises-Fisher about x with concentration r |x| / s^2."""

    radius, scale = 2.0, 1.5

    def forward(self, z: Tensor, context: Tensor | None = None) -> Independent:
        return Independent(Normal(self.radius * z, self.scale), 1)

    def posterior(self, x: Tensor) -> VonMisesFisher:
        return VonMisesFisher(x, self.radius * x.norm(dim=-1) / self.scale**2)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x, z) - log p(z|x), the same for each z."""
        z = first(x.shape[-1]).expand_as(x)
        log_prior = UniformSphere(torch.zeros(x.shape[-1])).log_prob(z)
        return self(z).log_prob(x) + log_prior - self.posterior(x).log_prob(z)


class Turned(taut.Posterior):
    """A power spherical distribution about x, of another concentration and a little aside."""

    def __init__(self, share: float = 1.0, aside: float = 0.0) -> None:
        super().__init__()
        self.share, self.aside = share, aside

    def forward(self, x: Tensor, context: Tensor | None = None) -> PowerSpherical:
        loc = x / x.norm(dim=-1, keepdim=True) + self.aside * first(x.shape[-1]).flip(-1)
        return PowerSpherical(loc, self.share * Rotated().posterior(x).concentration)


def model_on(dim: int, posterior: taut.Posterior) -> tuple[taut.VAE, Tensor]:
    model = taut.VAE(priors.UniformSphere(dim), Rotated(), posterior)
    return model, model.sample(6)


@pytest.mark.parametrize(("dim", "share"), [(2, 0.05), (5, 0.15)])
def test_importance_sampling_and_bounds_on_a_sphere_are_right(dim: int, share: float) -> None:
    """z-tests of E[w] = p(x) and E[log w] = log p(x) - KL, the latter by quadrature; alpha 1e-6.

    Opposite to mu the density is zero: for the weights to have a third moment, the concentration
    is below (d - 1) / 4.
    """
    model, x = model_on(dim, Turned(share))
    log_p = model.likelihood.log_evidence(x)
    draw = model.draw(x, 20_000)
    assert_mean((draw.log_weight - log_p).exp(), 1.0)
    concentration = model.likelihood.posterior(x).concentration
    assert float(share * concentration.max()) < (dim - 1) / 4
    for row, kappa in enumerate(concentration):
        q = PowerSpherical(first(dim), share * kappa)
        p = VonMisesFisher(first(dim), kappa)

        def divergence(a: Tensor, q=q, p=p) -> Tensor:
            log_q = q.log_prob(around(dim, a))
            return log_q.exp() * (log_q - p.log_prob(around(dim, a)))

        assert_mean(draw.log_weight[:, row], log_p[row] - integral(dim, divergence))
    found = taut.importance(model, x, 2000)
    assert bool(found.reliable.all())
    assert bool(((found.log_evidence - log_p).abs() < 5 * found.log_evidence_error).all())
    torch.testing.assert_close(model.point(x), x / x.norm(dim=-1, keepdim=True))


def test_gaps_move_within_the_family_and_annealing_says_that_it_cannot() -> None:
    """The best member of each datum has at least the bound of the one about the true direction."""
    model, x = model_on(3, Turned(3.0, aside=0.7))
    (found,) = list(optima_blocks(model, x, steps=60))
    assert found.full is None
    near = taut.importance(taut.VAE(model.prior, model.likelihood, Turned()), x, 4000)
    error = (found.own.elbo_error.square() + near.elbo_error.square()).sqrt()
    assert bool((found.own.elbo > near.elbo - 5 * error - 0.01).all())
    log_p = model.likelihood.log_evidence(x)
    assert bool((found.own.elbo < log_p + 5 * found.own.elbo_error).all())
    assert not can_move(model.prior().support)
    with pytest.raises(ValueError, match=r"no way to move within .* the unit sphere"):
        annealing(model, x, 4)


def test_rows_that_the_encoder_does_not_serve_are_looked_at_again_on_a_sphere() -> None:
    """A posterior that looks the wrong way: the prior's share of the samples helps, unless p(z|x)
    is too narrow for it. No chain can anneal there, and the row stays doubtful.
    """
    model, x = model_on(3, Turned(40.0, aside=-3.0))
    log_p = model.likelihood.log_evidence(x)
    found = log_evidence(model, x)
    assert bool(found.reliable.all())
    assert bool(((found.log_evidence - log_p).abs() < 5 * found.log_evidence_error).all())
    model.likelihood.scale = 0.01
    assert not bool(log_evidence(model, model.sample(2)).reliable.any())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: priors.UniformSphere(1), "at least 2 latent dimensions"),
        (lambda: posteriors.PowerSpherical((3,), 1), "at least 2 latent dimensions"),
        (lambda: posteriors.PowerSpherical((3,), 2, min_scale=0.0), "min_scale must be positive"),
    ],
)
def test_what_a_sphere_cannot_be_is_said(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
