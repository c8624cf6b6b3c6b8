"""A VAE with several levels: linear networks set to the exact posterior of a linear hierarchy, one
level beside the plain VAE, and runs from a file to an audit.
"""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from instances import OBJECTIVES
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from ztest import assert_mean, limit

import taut
from taut.evidence.annealing import simulate
from taut.evidence.levels_section import rates_of_groups
from taut.evidence.rows import log_evidence
from taut.networks.common import inverse_positive
from taut.problems import _regression

PLAIN = [objective for objective, _, _ in OBJECTIVES]
DIM_X, WIDTH = 5, 8
SMALL = partial(taut.MLP, hidden=(8,))


def linear_problem(levels: int, dim_x: int = DIM_X) -> taut.LinearHierarchy:
    problem = taut.LinearHierarchy(dim_x, (1,) * levels)
    for p in problem.prior.parameters():
        nn.init.normal_(p, std=0.7)
    with torch.no_grad():
        problem.prior.top.bias.zero_()  # the top prior of the model is N(0, I)
    return problem


def linear_model(levels: int) -> taut.HierarchicalVAE:
    normal = partial(taut.Normal, (DIM_X,), scale=0.7, decoder=taut.Linear)
    made = taut.HierarchicalVAE(
        (DIM_X,),
        1,
        normal,
        levels=levels,
        width=WIDTH,
        encoder=taut.Linear,
        network=taut.Linear,
        min_scale=1e-300,
    )
    for p in made.parameters():
        nn.init.zeros_(p)
    return made


def keep(network: nn.Module, rows: slice, columns: slice) -> None:
    """Lets a linear network carry numbers on as they are."""
    network.map.weight[rows, columns] = torch.eye(rows.stop - rows.start)


def solved(
    problem: taut.LinearHierarchy, levels: int, model: taut.HierarchicalVAE | None = None
) -> taut.HierarchicalVAE:
    """Returns a model of zeros with the weights of the exact posterior of a problem.

    The state of level l lists the z above it, and each u is x.
    """
    model = model or linear_model(levels)
    dim_x = len(problem.likelihood.weight)
    mean, covariance = problem.moments(torch.zeros(1, dim_x))
    slope = problem.moments(torch.eye(dim_x))[0] - mean  # (dim_x, D)
    down, up = model.prior, model.posterior
    likelihood = model.likelihood.decoder.map
    with torch.no_grad():
        likelihood.weight[:dim_x, -1:] = problem.likelihood.weight
        likelihood.bias[:dim_x] = problem.likelihood.bias
        for number in range(1, levels):
            network, first = down.networks[number - 1], number == 1
            row, column = slice(number - 1, number), 0 if first else WIDTH
            keep(network, row, slice(column, column + 1))
        if levels > 1:
            keep(up.encoder, slice(0, dim_x), slice(0, dim_x))
        for number in range(levels):
            above, own = slice(0, number), slice(number, number + 1)
            gain, rest = _regression(covariance, above, own)
            prior_gain, bias, scale = problem.prior.group(number, None)
            loc = mean[0, own] - gain[0] @ mean[0, above]
            of_x = slope[:, own].T - gain[0] @ slope[:, above].T
            raw = inverse_positive(rest[0, 0].sqrt() / scale)
            if number == 0:  # the last of the pass from the bottom up
                top = (up.networks[-1] if levels > 1 else up.encoder).map
                top.weight[0, :dim_x], top.bias[0], top.bias[1] = of_x[0], loc[0], raw[0]
                continue
            head = down.heads[number - 1].map
            head.weight[0, :number], head.bias[0] = prior_gain[0], bias[0]
            head.bias[1] = inverse_positive(torch.tensor(scale))
            head = up.heads[number - 1].map
            head.weight[0, :number] = (gain[0] - prior_gain)[0] / scale
            head.weight[0, WIDTH : WIDTH + dim_x] = of_x[0] / scale
            head.bias[0], head.bias[1] = (loc - bias)[0] / scale, raw[0]
    return model


LEVELS = [1, 2, 3, 4]


# --- Closed form ----------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("objective", PLAIN, ids=repr)
def test_every_objective_is_the_evidence_under_the_exact_posterior(
    objective: taut.Objective, levels: int
) -> None:
    problem = linear_problem(levels)
    x = problem.sample(6)
    value = objective(solved(problem, levels), x).value
    torch.testing.assert_close(value, problem.log_evidence(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("levels", LEVELS)
def test_every_estimator_is_the_evidence_under_the_exact_posterior(levels: int) -> None:
    problem = linear_problem(levels)
    x, exact = problem.sample(6), problem.log_evidence
    model = solved(problem, levels)
    found = taut.importance(model, x, 50)
    annealed = taut.annealing(model, x, 4)
    settled = log_evidence(model, x, 50)
    for value in (found.log_evidence, found.elbo, annealed.log_evidence, settled.log_evidence):
        torch.testing.assert_close(value, exact(x).detach(), rtol=0, atol=1e-10)
    _, simulated = simulate(model, len(x))
    assert simulated.shape == x.shape


@pytest.mark.parametrize("levels", LEVELS)
def test_the_rate_of_each_level_is_its_closed_form(levels: int) -> None:
    """Points that have the posterior's mean and covariance integrate what is quadratic exactly."""
    problem = linear_problem(levels)
    x = problem.sample(6)
    mean, covariance = problem.moments(x)
    steps = math.sqrt(levels) * torch.linalg.cholesky(covariance).movedim(-1, 0)
    steps = steps.expand(levels, len(x), levels)
    model = solved(problem, levels)
    draw = model.draw(x, given=torch.cat([mean + steps, mean - steps]))
    rates = torch.stack([group.rate for group in draw.groups], 1)
    torch.testing.assert_close(rates, problem.rates(x), rtol=0, atol=1e-10)
    total = draw.log_likelihood.mean(0) - rates.sum(1)
    torch.testing.assert_close(total, problem.log_evidence(x), rtol=0, atol=1e-10)


def test_the_rates_that_are_reported_are_those_of_the_closed_form() -> None:
    """A z-test of three means, whose error is that of the draws alone; alpha 1e-6."""
    problem = linear_problem(3)
    x = problem.sample(40)
    found = rates_of_groups(solved(problem, 3), x)
    assert [level["name"] for level in found] == ["z1", "z2", "z3"]
    for level, rate in zip(found, problem.rates(x).mean(0).tolist(), strict=True):
        assert abs(level["value"] - rate) < limit(3) * level["mc_error"] + 1e-10


def test_samples_have_the_moments_of_the_closed_form() -> None:
    problem = linear_problem(3)
    with torch.no_grad():
        loc, covariance = problem._joint(None)
        z = solved(problem, 3).latent_prior().sample(torch.Size((100_000,)))
    assert_mean(z, loc)
    assert_mean(((z - loc)[:, :, None] * (z - loc)[:, None]).flatten(1), covariance.flatten())


def test_the_point_of_a_row_is_the_mean_of_a_gaussian() -> None:
    problem = linear_problem(3)
    x = problem.sample(4)
    mean, _ = problem.moments(x)
    model = solved(problem, 3)
    torch.testing.assert_close(model.embed(x), mean, rtol=0, atol=1e-10)
    torch.testing.assert_close(model.point(x), mean, rtol=0, atol=1e-10)


# --- One pass -------------------------------------------------------------------------------------


def own_model(levels: int, **settings: object) -> taut.HierarchicalVAE:
    normal = partial(taut.Normal, (DIM_X,), decoder=SMALL)
    model = taut.HierarchicalVAE((DIM_X,), 2, normal, levels=levels, width=6, **settings)
    for p in model.prior.heads.parameters():
        nn.init.normal_(p, std=0.3)
    return model


@pytest.mark.parametrize("levels", LEVELS)
def test_a_draw_is_what_its_distributions_say_of_it(levels: int) -> None:
    model, x = own_model(levels), torch.randn(3, DIM_X)
    draw = model.draw(x, 4)
    p, q = model.latent_prior(), model.encode(x)
    torch.testing.assert_close(draw.log_prior, p.log_prob(draw.z))
    torch.testing.assert_close(draw.log_posterior, q.log_prob(draw.z))
    torch.testing.assert_close(draw.log_likelihood, model.decode(draw.z).log_prob(x))
    again = model.draw(x, given=draw.z)
    stopped = model.draw(x, given=draw.z, stop_posterior=True)
    weighed = model.draw(x, given=draw.z, proposal=q)
    for other in (again, stopped, weighed):
        torch.testing.assert_close(other.log_weight, draw.log_weight)
    names = [f"z{i}" for i in range(1, levels + 1)] if levels > 1 else ["z"]
    assert [group.name for group in draw.groups] == names
    # each level alone, of an expanded chain too
    wide = q.expand(torch.Size((4, 3)))
    torch.testing.assert_close(wide.log_prob(draw.z), draw.log_posterior)
    for number, group in enumerate(draw.groups):
        above = draw.z[..., : group.slice.start] if number else None
        part = q.conditional(number, above)
        torch.testing.assert_close(part.log_prob(draw.z[..., group.slice]), group.log_posterior)


@pytest.mark.parametrize("stop_posterior", [False, True])
def test_a_draw_costs_a_pass_of_the_states(stop_posterior: bool) -> None:
    """And two more where q is frozen in its density and live in its draw."""
    model, passes = own_model(3), []
    for network in model.prior.networks:
        network.register_forward_hook(lambda *_: passes.append(1))
    model.draw(torch.randn(2, DIM_X), 3, stop_posterior=stop_posterior)
    assert len(passes) == 2 * (3 if stop_posterior else 1)


def test_the_posterior_is_relative_to_the_prior() -> None:
    """A head that says nothing has no rate, wherever the prior has moved: at every level."""
    model, x = own_model(3), torch.randn(3, DIM_X)
    for p in [*model.posterior.heads.parameters(), *model.posterior.networks[-1].parameters()]:
        nn.init.zeros_(p)
    for group in model.draw(x, 4).groups:
        torch.testing.assert_close(group.rate, torch.zeros(3), rtol=0, atol=1e-6)
        assert group.slice.start == 0 or group.prior.mean.abs().max() > 0.01


def test_a_state_keeps_those_above_it() -> None:
    model, z = own_model(3), torch.randn(1, 2, 6)
    for p in model.prior.networks[-1].parameters():
        nn.init.zeros_(p)
    other = z.clone()
    other[..., :2] += 1
    assert (model.decode(z).mean - model.decode(other).mean).abs().min() > 1e-4


def test_one_level_is_the_vae() -> None:
    model, x = own_model(1, encoder=SMALL), torch.randn(7, DIM_X)
    posterior = taut.DiagonalNormal((DIM_X,), 2, SMALL)
    vae = taut.VAE(taut.StandardNormal(2), model.likelihood, posterior)
    posterior.load_state_dict(model.posterior.state_dict())
    for objective in PLAIN:
        found = []
        for each in (model, vae):
            torch.manual_seed(5)
            bound = objective(each, x)
            parameters = [*each.posterior.parameters(), *each.likelihood.parameters()]
            gradient = torch.autograd.grad(bound.surrogate.sum(), parameters)
            found.append(torch.cat([bound.value, *(g.flatten() for g in gradient)]))
        torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-10)
    assert model.posterior.state_dict().keys() == posterior.state_dict().keys()
    assert torch.equal(model.embed(x), vae.embed(x))


# --- Gradients ------------------------------------------------------------------------------------


def gradients(objective: taut.Objective, model: taut.VAE, x: Tensor, repeats: int) -> Tensor:
    parameters = list(model.parameters())
    found = []
    for _ in range(repeats):
        loss = objective(model, x.expand(400, *x.shape[1:])).surrogate.mean()
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    return torch.stack(found)


@pytest.mark.parametrize("kind", [taut.DReG, taut.VIMCO], ids=lambda k: k.__name__)
def test_gradients_agree_with_the_reparameterized_one_of_the_same_bound(kind: type) -> None:
    """The states that p and q share included; alpha 1e-6."""
    normal = partial(taut.Normal, (DIM_X,), scale=1.0, decoder=taut.Linear)
    settings = {"levels": 2, "width": 3, "encoder": taut.Linear, "network": taut.Linear}
    model = taut.HierarchicalVAE((DIM_X,), 1, normal, **settings)
    for p in model.parameters():
        nn.init.normal_(p, std=0.4)
    x = torch.full((1, DIM_X), 0.5)
    a = gradients(kind(num_samples=3), model, x, 150)
    b = gradients(taut.IWAE(num_samples=3), model, x, 150)
    assert_mean(a - b, 0.0)
    assert b.mean(0).abs().max() > 0.1  # there is a gradient to agree on


@pytest.mark.parametrize("kind", [taut.DReG, taut.StickingTheLanding], ids=lambda k: k.__name__)
def test_no_gradient_of_q_is_left_under_the_exact_posterior(kind: type) -> None:
    problem = linear_problem(3)
    model, x = solved(problem, 3), problem.sample(4)
    loss = kind(num_samples=3)(model, x).surrogate.sum()
    for gradient in torch.autograd.grad(loss, list(model.posterior.parameters())):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)


def test_free_bits_are_paid_in_each_level() -> None:
    model, x, free = own_model(2), torch.randn(8, DIM_X), 0.3
    torch.manual_seed(3)
    draw = model.draw(x, 4)
    expected = draw.log_likelihood.mean(0)
    for group in draw.groups:
        p, q = group.prior.base_dist, group.posterior.base_dist
        rate = (  # of Gaussians, written out
            p.scale.log() - q.scale.log()
            + (q.scale.square() + (q.loc - p.loc).square()) / (2 * p.scale.square()) - 0.5
        )  # fmt: skip
        rate = rate.mean(0) if rate.dim() == 3 else rate
        expected = expected - torch.where(rate.mean(0) > free, rate, free).sum(-1)
    torch.manual_seed(3)
    surrogate = taut.ELBO(num_samples=4, free_bits=free)(model, x).surrogate
    torch.testing.assert_close(surrogate, expected, rtol=0, atol=1e-10)


def test_free_bits_of_a_level_are_paid_by_it_as_a_whole() -> None:
    """One lies above them and pays all, the other lies below and pays them: it has no gradient."""
    model, x = own_model(2), torch.randn(8, DIM_X)
    torch.manual_seed(3)
    draw = model.draw(x, 4)
    low, high = sorted(draw.groups, key=lambda group: group.rate.mean().item())
    free = (low.rate.mean() + high.rate.mean()).item() / 2
    torch.manual_seed(3)
    bound = taut.ELBO(num_samples=4, free_bits=free, free_bits_of="level")(model, x)
    expected = draw.log_likelihood.mean(0) - high.rate - free
    torch.testing.assert_close(bound.surrogate, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(bound.value, draw.elbo.mean(0).detach(), rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="free_bits_of must be 'dimension' or 'level'"):
        taut.ELBO(free_bits_of="row")


@pytest.mark.parametrize("name", ["levels", "width", "latent_dim"])
@pytest.mark.parametrize("value", [0, -1, True])
def test_sizes_that_are_refused(name: str, value: object) -> None:
    settings = {"latent_dim": 2, "likelihood": partial(taut.Normal, (3,)), name: value}
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1"):
        taut.HierarchicalVAE((3,), **settings)


def test_a_proposal_that_is_no_chain_is_weighed_without_groups() -> None:
    model, x = own_model(2), torch.randn(3, DIM_X)
    other = Independent(Normal(torch.zeros(3, 4), 2.0), 1)
    draw = model.draw(x, 5, proposal=other)
    torch.testing.assert_close(draw.log_weight, model.log_joint(draw.z, x) - other.log_prob(draw.z))
    assert draw.groups == ()
