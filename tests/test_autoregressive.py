"""Autoregressive flows: masks, log-determinant and inverse against autograd, total probability, the
exact posterior of a linear model, and who asks for the density that costs D passes.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal
from ztest import assert_mean

import taut
from taut import posteriors, priors
from taut.distributions.flows import Flow
from taut.evidence.annealing import Path, annealing
from taut.evidence.ascent import members
from taut.evidence.gaps import optima_blocks
from taut.evidence.latents_section import LatentSpace
from taut.evidence.section import Scene
from taut.networks.autoregressive import Autoregressive
from taut.networks.masked import Masked

CASES = list(itertools.product([2, 5], [0, 5], [False, True]))


def autoregressive(dim: int, bins: int = 0, density: bool = False, **settings: Any):
    sizes = {"num_features": 3, "layers": 3, "hidden": (6, 5)} | settings
    result = Autoregressive(dim, bins=bins, density=density, **sizes)
    with torch.no_grad():
        for parameter in result.parameters():
            parameter.normal_(0, 0.2)
    return result


def jacobian_of(function, point: Tensor) -> Tensor:
    return torch.autograd.functional.jacobian(function, point)


@pytest.mark.parametrize("num_features", [0, 3])
@pytest.mark.parametrize("dim", [2, 3, 7])
def test_an_output_sees_all_dimensions_before_it_and_no_other(dim: int, num_features: int) -> None:
    network = Masked(dim, 2, num_features, (9, 8))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
        network.linear.weight.zero_()  # what follows is the perceptron's
    u, h = torch.randn(1, dim), torch.randn(1, num_features) if num_features else None
    jacobian = jacobian_of(lambda u: network(u, h)[0], u)[:, :, 0]  # (D, 2, D)
    seen = jacobian.abs() > 1e-12
    before = torch.ones(dim, dim).tril(-1).bool()[:, None].expand(-1, 2, -1)
    assert bool((seen == before).all())
    if h is not None:
        of_features = jacobian_of(lambda h: network(u, h)[0], h)
        assert bool((of_features.abs() > 1e-12).all())


@pytest.mark.parametrize(("dim", "bins", "density"), CASES)
def test_the_log_determinant_is_that_of_the_jacobian(dim: int, bins: int, density: bool) -> None:
    f, h = autoregressive(dim, bins, density), torch.randn(4, 3)
    u = torch.randn(4, dim) * torch.tensor([0.5, 1.0, 2.0, 6.0])[:, None]
    y, log_det = f(u, h)
    for row in range(4):
        here = h[row : row + 1]
        jacobian = jacobian_of(lambda point, here=here: f(point[None], here)[0][0], u[row])
        torch.testing.assert_close(log_det[row], jacobian.slogdet()[1], rtol=0, atol=1e-10)
    back, log_back = f(y, h, inverse=True)
    torch.testing.assert_close(back, u, rtol=0, atol=1e-8)
    torch.testing.assert_close(log_back, -log_det, rtol=0, atol=1e-8)


def test_zeros_are_the_identity() -> None:
    u = torch.randn(4, 5)
    for bins, density in itertools.product([0, 8], [False, True]):
        y, log_det = Autoregressive(5, 0, 4, (8,), bins, density)(u, None)
        torch.testing.assert_close(y, u, rtol=0, atol=1e-12)
        torch.testing.assert_close(log_det, torch.zeros(4), rtol=0, atol=1e-12)


def summed(q: Flow) -> tuple[Tensor, Tensor]:
    """Points of a fine grid, sinh-spaced to 1,490 scales, (G, 1, 2), and the mass that q says each
    has, (G, 1).
    """
    line = torch.linspace(-8, 8, 641)
    z = q.loc + q.scale * torch.cartesian_prod(line.sinh(), line.sinh())[:, None]
    weight = torch.cartesian_prod(line.cosh(), line.cosh()).prod(1, keepdim=True)
    with torch.no_grad():
        density = torch.cat([q.log_prob(part).exp() for part in z.split(50_000)])
    return z, density * weight * q.scale.prod() * (line[1] - line[0]) ** 2


@pytest.mark.parametrize("density", [False, True])
def test_a_density_integrates_to_one_and_is_that_of_its_samples(density: bool) -> None:
    """z-tests of two moments against sums over a grid; alpha 1e-6 each."""
    f = autoregressive(2, 0, density)
    q = Flow(torch.randn(1, 2), torch.rand(1, 2) + 0.5, torch.randn(1, 3), f)
    grid, mass = summed(q)
    torch.testing.assert_close(mass.sum(0), torch.ones(1), rtol=0, atol=1e-9)
    z, log_q = q.rsample_and_log_prob((20_000,))
    torch.testing.assert_close(q.log_prob(z), log_q, rtol=0, atol=1e-6)
    for function in (lambda z: torch.tanh(z).sum(-1), lambda z: torch.sin(z[..., 0] + z[..., 1])):
        assert_mean(function(z), (mass * function(grid)).sum(0))


def passes(f: Autoregressive) -> list[int]:
    """Returns a list that each pass through a network of f adds to."""
    made: list[int] = []
    for network in f.networks:
        network.register_forward_hook(lambda *_: made.append(1))
    return made


@pytest.mark.parametrize("density", [False, True])
def test_one_direction_costs_a_pass_a_layer_and_the_other_as_many_as_dimensions(density) -> None:
    f = autoregressive(5, density=density)
    made, u = passes(f), torch.randn(4, 5)
    f(u, torch.zeros(4, 3), inverse=density)
    assert len(made) == 3
    f(u, torch.zeros(4, 3), inverse=not density)
    assert len(made) == 3 + 3 * 5


class Tilted(taut.Posterior):
    """The exact posterior of a linear model: one layer without a hidden one, z_i = m_i + L_ii (u_i
    + sum_j<i L_ij / L_ii u_j).
    """

    slow_density = True

    def __init__(self, problem: taut.LinearGaussian, shift: float = 0.0) -> None:
        super().__init__()
        self.problem, self.shift = problem, shift
        self.tril = problem.posterior(problem.sample(1)).scale_tril[0]
        dim = len(self.tril)
        self.f = Autoregressive(dim, 1, 1, ())
        tilt = self.tril / self.tril.diagonal()[:, None]
        with torch.no_grad():
            self.f.networks[0].linear.weight.view(dim, 2, -1)[:, 0, :dim] = tilt

    def forward(self, x: Tensor, context: Tensor | None = None) -> Flow:
        loc = self.problem.posterior(x).mean + self.shift
        return Flow(loc, self.tril.diagonal().expand_as(loc), torch.zeros(len(x), 1), self.f)


def test_a_linear_layer_is_the_exact_posterior_of_a_linear_model() -> None:
    """All weights are log p(x), of five dimensions, and so the ELBO is; importance sampling and
    the bound ask for no density of a given z.
    """
    problem = taut.LinearGaussian(7, 5, 0.7)
    x, posterior = problem.sample(4), Tilted(problem)
    made = passes(posterior.f)
    model = problem.model(posterior)
    log_p = problem.log_evidence(x)
    draw = model.draw(x, 7)
    torch.testing.assert_close(draw.log_weight, log_p.expand(7, -1), rtol=0, atol=1e-10)
    found = taut.importance(model, x, 50)
    torch.testing.assert_close(found.elbo, log_p, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.log_evidence, log_p, rtol=0, atol=1e-10)
    assert len(made) == 3  # of two draws and the mean; a density of given points takes five
    given = model.draw(x, given=draw.z)
    torch.testing.assert_close(given.log_weight, draw.log_weight, rtol=0, atol=1e-10)


def test_annealing_starts_at_the_gaussian_of_mean_and_variances() -> None:
    """z-test of E[w] = p(x), alpha 1e-6; no step of a chain asks for the density of the flow."""
    problem = taut.LinearGaussian(7, 5, 0.7)
    posterior = Tilted(problem)
    model, x = problem.model(posterior), problem.sample(2)
    start = Path(model, x, None, "posterior").start
    assert isinstance(start, Independent)
    exact = problem.posterior(x)
    torch.testing.assert_close(start.mean, exact.mean, rtol=0, atol=1e-8)
    # 512 points stand for the normal: their correlations are not quite zero
    torch.testing.assert_close(start.stddev, exact.stddev, rtol=0.02, atol=0.0)
    made = passes(posterior.f)
    found = annealing(model, x, 64, max_temperatures=5)
    assert len(made) < 10
    off = (found.log_evidence - problem.log_evidence(x)).abs()
    assert bool((off < 5 * found.log_evidence_error).all())


def test_gaps_fit_the_family_of_each_datum_without_its_inverse() -> None:
    """A flow whose place is wrong comes back to it, and its bound to log p(x); alpha 1e-6."""
    problem = taut.LinearGaussian(4, 2, 0.7)
    posterior = Tilted(problem, shift=0.3)
    made = passes(posterior.f)
    x = problem.sample(3)
    model = problem.model(posterior)
    (found,) = list(optima_blocks(model, x, steps=40, full=False))
    assert len(made) < 40 * 12  # two for a step: of the sample alone
    off = (found.own.elbo - problem.log_evidence(x)).abs()
    assert bool((off < 5 * found.own.elbo_error + 0.05).all())
    part = members(posterior(x), torch.tensor([2, 0]))
    z = torch.randn(6, 3, 2)
    torch.testing.assert_close(
        part.log_prob(z[:, [2, 0]]), posterior(x).log_prob(z)[:, [2, 0]], rtol=0, atol=1e-10
    )


def test_an_audit_takes_few_rows_where_their_densities_cost_most() -> None:
    """Of N rows N^2 densities of 5 passes each: those of N / sqrt(5) rows cost what N^2 of one
    would.
    """
    problem = taut.LinearGaussian(7, 5, 0.7)
    x = problem.sample(50)
    found = LatentSpace.run(Scene(problem.model(Tilted(problem)), x))
    assert found["num_data"] == 22
    assert LatentSpace.run(Scene(problem.model(), x))["num_data"] == 50


def test_a_posterior_is_the_diagonal_normal_until_its_layers_bend() -> None:
    x, z = torch.randn(6, 4), torch.randn(3, 6, 2)
    small = partial(taut.MLP, hidden=(7,))
    q = posteriors.InverseAutoregressive((4,), 2, small)
    loc, scale = (q.parameters_at(x)[name] for name in ("loc", "scale"))
    expected = Normal(loc, scale).log_prob(z).sum(-1)
    torch.testing.assert_close(q(x).log_prob(z), expected, rtol=0, atol=1e-10)


def test_a_prior_of_three_dimensions_is_bent_given_all_those_before() -> None:
    """The density by hand: one affine layer takes z_i to (z_i - b_i) e^-a_i."""
    prior = priors.Flow(3, layers=1, hidden=(), bins=0, kind="autoregressive")
    network = prior.autoregressive.networks[0]
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.normal_(0, 0.5)
    z, p = torch.randn(5, 3), prior()
    y = (z - p.loc) / p.scale
    shift, raw = network(y, None).unbind(-1)
    log_scale = 2 * torch.tanh(raw / 2)
    each = Normal(shift, log_scale.exp()).log_prob(y) - p.scale.log()
    torch.testing.assert_close(p.log_prob(z), each.sum(-1), rtol=0, atol=1e-10)
    assert not p.slow_density


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: posteriors.InverseAutoregressive((3,), 1), "at least 2 latent dimensions"),
        (lambda: posteriors.InverseAutoregressive((3,), 2, layers=0), "layers must be at least 1"),
        (lambda: posteriors.InverseAutoregressive((3,), 2, bins=1), "bins must be 0"),
        (lambda: priors.Flow(1, kind="autoregressive"), "at least 2 latent dimensions"),
        (lambda: priors.Flow(2, kind="radial"), "unknown kind 'radial'"),
    ],
)
def test_what_a_flow_cannot_be_is_said(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
