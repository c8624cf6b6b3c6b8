"""Several groups of latent variables: a linear hierarchy, known in closed form."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from instances import OBJECTIVES
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from ztest import assert_mean

import taut
from taut.distributions import Chain
from taut.evidence.annealing import simulate
from taut.evidence.ascent import best_gaussians
from taut.evidence.cells import cell_scores, impute
from taut.evidence.latents import latents
from taut.evidence.rows import log_evidence
from taut.model import Draw, Model
from taut.use import tasks

PLAIN = [objective for objective, _, _ in OBJECTIVES]


def problem_of(dims: tuple[int, ...] = (2, 2), context_dim: int = 0) -> taut.LinearHierarchy:
    problem = taut.LinearHierarchy(5, dims, context_dim=context_dim)
    for p in problem.prior.parameters():
        nn.init.normal_(p, std=0.7)
    return problem


def data_of(problem: taut.LinearHierarchy, context_dim: int, n: int = 6) -> tuple[Tensor, ...]:
    context = torch.randn(n, context_dim) if context_dim else None
    x = problem.sample(n, context)
    x[0, 1] = x[2, :4] = torch.nan  # gaps
    return x, context


class MeanField(taut.Posterior):
    """Groups that see x and the one above them, each factorised: not the exact posterior."""

    def __init__(self, dim_x: int, dims: tuple[int, ...]) -> None:
        super().__init__()
        above = [sum(dims[:i]) for i in range(len(dims))]
        self.groups = [(f"z{i}", d) for i, d in enumerate(dims, 1)]
        self.maps = nn.ModuleList(nn.Linear(dim_x + a, d) for a, d in zip(above, dims, strict=True))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        x = x.nan_to_num(0.0)

        def conditional(number: int, above: Tensor | None) -> Distribution:
            seen = x
            if above is not None:
                shape = torch.broadcast_shapes(above.shape[:-1], x.shape[:-1])
                seen = torch.cat([x.expand(*shape, -1), above.expand(*shape, -1)], -1)
            loc = self.maps[number](seen)
            return Independent(Normal(loc, 0.6 * torch.ones_like(loc)), 1)

        return Chain(self.groups, conditional, x.shape[:1])


class FactorisedPrior(taut.Prior):
    """A prior of the same groups that factorises over the dimensions of each."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.groups = [(f"z{i}", d) for i, d in enumerate(dims, 1)]
        self.maps = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(dims))

    def forward(self, context: Tensor | None = None) -> Distribution:
        def conditional(number: int, above: Tensor | None) -> Distribution:
            loc = torch.zeros(self.groups[0][1])
            if above is not None:
                loc = self.maps[number - 1](above[..., -self.maps[number - 1].in_features :])
            return Independent(Normal(loc, torch.ones_like(loc)), 1)

        return Chain(self.groups, conditional)


class Plain(Model):
    """A model that is no VAE, made of functions alone."""

    def __init__(self, inner: taut.VAE) -> None:
        super().__init__()
        self.inner = inner

    def encode(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        return self.inner.encode(x, context)

    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        return self.inner.decode(z, context)

    def latent_prior(self, context: Tensor | None = None) -> Distribution:
        return self.inner.latent_prior(context)

    def draw(self, x: Tensor, num_samples: int = 1, **options: object) -> Draw:
        return self.inner.draw(x, num_samples, **options)  # type: ignore[arg-type]

    @property
    def halves(self) -> dict[str, nn.Module]:
        return self.inner.halves


# --- The problem itself ---------------------------------------------------------------------------


def test_the_evidence_is_the_integral_over_both_groups() -> None:
    problem = problem_of((1, 1))
    x, _ = data_of(problem, 0)
    side = torch.linspace(-12, 12, 801)
    z = torch.cartesian_prod(side, side)[:, None].expand(-1, len(x), -1)
    sums = problem.model().log_joint(z, x).logsumexp(0) + 2 * math.log(side[1] - side[0])
    torch.testing.assert_close(sums, problem.log_evidence(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("context_dim", [0, 2])
def test_one_group_is_the_linear_gaussian_model(context_dim: int) -> None:
    problem, plain = problem_of((3,), context_dim), taut.LinearGaussian(5, 3, 0.7, context_dim)
    plain.prior.load_state_dict(problem.prior.top.state_dict())
    plain.likelihood.load_state_dict(problem.likelihood.state_dict())
    x, context = data_of(problem, context_dim)
    torch.testing.assert_close(
        problem.log_evidence(x, context), plain.log_evidence(x, context), rtol=0, atol=1e-10
    )
    mean, covariance = problem.moments(x, context)
    exact = plain.posterior(x, context)
    torch.testing.assert_close(mean, exact.mean, rtol=0, atol=1e-10)
    torch.testing.assert_close(covariance, exact.covariance_matrix, rtol=0, atol=1e-10)


def test_samples_have_the_moments_of_the_closed_form() -> None:
    problem = problem_of((2, 1, 2))
    with torch.no_grad():
        loc, covariance = problem._joint(None)
        z = problem.prior().sample(torch.Size((100_000,)))
    assert_mean(z, loc)
    assert_mean(((z - loc)[:, :, None] * (z - loc)[:, None]).flatten(1), covariance.flatten())


# --- Objectives and estimators --------------------------------------------------------------------


@pytest.mark.parametrize("context_dim", [0, 2])
@pytest.mark.parametrize("dims", [(2, 2), (2, 3, 1)])
@pytest.mark.parametrize("objective", PLAIN, ids=repr)
def test_every_objective_is_the_evidence_under_the_exact_posterior(
    objective: taut.Objective, dims: tuple[int, ...], context_dim: int
) -> None:
    problem = problem_of(dims, context_dim)
    x, context = data_of(problem, context_dim)
    value = objective(problem.model(), x, context).value
    torch.testing.assert_close(value, problem.log_evidence(x, context), rtol=0, atol=1e-10)


@pytest.mark.parametrize("context_dim", [0, 2])
@pytest.mark.parametrize("dims", [(2, 2), (2, 3, 1)])
def test_every_estimator_is_the_evidence_under_the_exact_posterior(
    dims: tuple[int, ...], context_dim: int
) -> None:
    problem = problem_of(dims, context_dim)
    x, context = data_of(problem, context_dim)
    model, exact = Plain(problem.model()), problem.log_evidence(x, context).detach()
    found = taut.importance(model, x, 50, context=context)
    annealed = taut.annealing(model, x, 4, context=context)
    settled = log_evidence(model, x, 50, context=context)
    for value in (found.log_evidence, found.elbo, annealed.log_evidence, settled.log_evidence):
        torch.testing.assert_close(value, exact, rtol=0, atol=1e-10)
    _, simulated = simulate(model, len(x), context=context)
    assert simulated.shape == x.shape


def test_a_row_far_away_climbs_to_its_own_gaussian() -> None:
    """The encoder knows nothing of it; its best Gaussian is the exact posterior of the joined z."""
    problem = problem_of((2, 2))
    model = problem.model(MeanField(5, (2, 2)))
    x = 5 * problem.sample(3)
    found = log_evidence(Plain(model), x, 200)
    assert found.reliable.all()
    error = (found.log_evidence - problem.log_evidence(x).detach()).abs()
    assert bool((error <= 5 * found.log_evidence_error + 1e-6).all())
    best = best_gaussians(Plain(model), x)
    mean, _ = problem.moments(x)
    torch.testing.assert_close(best.mean, mean.detach(), rtol=0, atol=0.02)


def test_entries_are_filled_and_judged_by_the_exact_conditionals() -> None:
    problem = problem_of((2, 2))
    x, _ = data_of(problem, 0)
    filled = impute(Plain(problem.model()), x, 4000).values
    mean, _ = problem.moments(x)
    lowest = mean[:, 2:] @ problem.likelihood.weight.T + problem.likelihood.bias
    expected = torch.where(x.isnan(), lowest, x).detach()
    torch.testing.assert_close(filled, expected, rtol=0, atol=0.1)
    scores = cell_scores(Plain(problem.model()), x, 2000)
    without = x.clone()
    without[:, 4] = torch.nan
    exact = (problem.log_evidence(x) - problem.log_evidence(without)).detach()
    assert bool(((scores.value[:, 4] - exact).abs() <= 5 * scores.error[:, 4] + 1e-6).all())


# --- Rates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("context_dim", [0, 2])
@pytest.mark.parametrize("dims", [(2, 2), (2, 3, 1)])
def test_the_rate_of_each_group_is_its_closed_form(dims: tuple[int, ...], context_dim: int) -> None:
    """Points that have the posterior's mean and covariance integrate what is quadratic exactly."""
    problem = problem_of(dims, context_dim)
    x, context = data_of(problem, context_dim)
    mean, covariance = problem.moments(x, context)
    size = mean.shape[1]
    steps = math.sqrt(size) * torch.linalg.cholesky(covariance).movedim(-1, 0)  # (D, B, D)
    draw = problem.model().draw(x, context=context, given=torch.cat([mean + steps, mean - steps]))
    rates = torch.stack([group.rate for group in draw.groups], 1)
    torch.testing.assert_close(rates, problem.rates(x, context), rtol=0, atol=1e-10)
    total = draw.log_likelihood.mean(0) - rates.sum(1)
    torch.testing.assert_close(total, problem.log_evidence(x, context), rtol=0, atol=1e-10)
    assert [(g.name, g.slice.stop - g.slice.start) for g in draw.groups] == problem.prior.groups


def test_free_bits_are_paid_in_each_group() -> None:
    dims = (2, 3)
    model = taut.VAE(FactorisedPrior(dims), problem_of(dims).likelihood, MeanField(5, dims))
    x = torch.randn(8, 5)
    torch.manual_seed(3)
    draw = model.draw(x, 4)
    free = 0.3
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


def test_latents_are_of_all_groups() -> None:
    dims = (2, 2)
    problem = problem_of(dims)
    model = taut.VAE(FactorisedPrior(dims), problem.likelihood, MeanField(5, dims))
    x = problem.sample(50)
    found = latents(Plain(model), x)
    assert found["latent_dim"] == 4
    assert len(found["dimensions"]["rate"]) == 4
    rates = model.draw(x, 2000).groups
    expected = float(sum(group.rate.mean().detach() for group in rates))
    assert sum(found["dimensions"]["rate"]) == pytest.approx(expected, abs=0.3)


# --- Gradients ------------------------------------------------------------------------------------


def gradients(objective: taut.Objective, model: taut.VAE, x: Tensor, repeats: int) -> Tensor:
    parameters = list(model.parameters())
    found = []
    for _ in range(repeats):
        loss = objective(model, x.expand(400, -1)).surrogate.mean()
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    return torch.stack(found)


@pytest.mark.parametrize("kind", [taut.DReG, taut.VIMCO], ids=lambda k: k.__name__)
def test_gradients_agree_with_the_reparameterized_one_of_the_same_bound(kind: type) -> None:
    """The one hook on the joined z leaves the gradient of every group unbiased; alpha 1e-6."""
    problem = problem_of((1, 2))
    model = problem.model(MeanField(5, (1, 2)))
    x = torch.full((1, 5), 0.5)  # a far datum would have gradients too noisy to tell by
    a = gradients(kind(num_samples=3), model, x, 150)
    b = gradients(taut.IWAE(num_samples=3), model, x, 150)
    assert_mean(a - b, 0.0)
    assert b.mean(0).abs().max() > 0.1  # there is a gradient to agree on


def test_no_gradient_is_left_under_the_exact_posterior() -> None:
    """Sticking the landing and DReG have no variance where q is exact, in any group."""
    problem = problem_of((2, 2))
    x = problem.sample(4)
    shift = nn.Parameter(torch.zeros(4))

    class Shifted(taut.Posterior):
        def forward(self, x: Tensor, context: Tensor | None = None) -> Distribution:
            mean, covariance = problem.moments(x, context)
            return taut.problems._gaussian_chain(problem.prior.groups, mean + shift, covariance)

    for objective in (taut.StickingTheLanding(num_samples=3), taut.DReG(num_samples=3)):
        model = problem.model(Shifted())
        model.posterior.shift = shift
        loss = objective(model, x).surrogate.sum()
        (gradient,) = torch.autograd.grad(loss, shift)
        torch.testing.assert_close(gradient, torch.zeros(4), rtol=0, atol=1e-10)


# --- What a draw carries --------------------------------------------------------------------------


def test_a_given_z_is_evaluated_and_not_drawn() -> None:
    problem = problem_of((2, 2))
    x, _ = data_of(problem, 0)
    model, z = problem.model(), torch.randn(7, len(x), 4)
    draw = model.draw(x, given=z)
    assert draw.z is z
    torch.testing.assert_close(draw.log_joint, model.log_joint(z, x), rtol=0, atol=1e-10)
    torch.testing.assert_close(draw.log_posterior, model.encode(x).log_prob(z))
    other = Independent(Normal(torch.zeros(len(x), 4), 2.0), 1)
    weighed = model.draw(x, proposal=other, given=z)
    torch.testing.assert_close(weighed.log_weight, draw.log_joint - other.log_prob(z))
    assert weighed.groups == ()  # nothing is known of the groups of such a proposal


class Halved(taut.VAE):
    """Looks at its latent variables by chance, and pays a penalty."""

    def draw(self, x: Tensor, num_samples: int = 1, **options: object) -> Draw:
        draw = super().draw(x, num_samples, **options)  # type: ignore[arg-type]
        return draw._replace(complete=self.whole, penalty=self.pays)


@pytest.mark.parametrize("objective", PLAIN, ids=repr)
def test_a_penalty_is_minimised_and_not_reported(objective: taut.Objective) -> None:
    problem = problem_of((2, 2))
    model = Halved(problem.prior, problem.likelihood, MeanField(5, (2, 2)))
    x = problem.sample(5)
    model.whole, model.pays = True, None
    torch.manual_seed(1)
    free = objective(model, x)
    model.pays = torch.arange(5.0)
    torch.manual_seed(1)
    paid = objective(model, x)
    torch.testing.assert_close(free.value, paid.value, rtol=0, atol=0)
    torch.testing.assert_close(free.surrogate - torch.arange(5.0), paid.surrogate)


def test_a_draw_that_is_not_complete_has_an_elbo_and_no_weight() -> None:
    problem = problem_of((2, 2))
    model = Halved(problem.prior, problem.likelihood, MeanField(5, (2, 2)))
    model.whole, model.pays = False, None
    x = problem.sample(5)
    for objective in (taut.ELBO(), taut.StickingTheLanding(), taut.ScoreFunction()):
        assert objective(model, x).value.shape == (5,)
    for objective in (taut.IWAE(), taut.DReG(), taut.VIMCO()):
        with pytest.raises(ValueError, match="and not the weights of importance sampling"):
            objective(model, x)


class _Doubled(Distribution):
    """2 e with e ~ N(0, I): its inverse must not be asked for at its own samples."""

    arg_constraints: ClassVar[dict] = {}
    has_rsample = True

    def rsample_and_log_prob(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        e = torch.randn(*shape, *self.batch_shape, *self.event_shape)
        log_prob = Normal(0.0, 1.0).log_prob(e) - math.log(2)
        return 2 * e, log_prob.sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        raise AssertionError("inverted")


def test_a_distribution_that_gives_both_at_once_is_not_inverted() -> None:
    problem = taut.LinearGaussian()

    class Flow(taut.Posterior):
        def forward(self, x: Tensor, context: Tensor | None = None) -> Distribution:
            return _Doubled(x.shape[:1], torch.Size((2,)), validate_args=False)

    draw = problem.model(Flow()).draw(problem.sample(4), 6)
    expected = Independent(Normal(torch.zeros(2), 2.0), 1).log_prob(draw.z)
    torch.testing.assert_close(draw.log_posterior, expected, rtol=0, atol=1e-10)


def test_posteriors_are_parameters_and_a_distribution() -> None:
    x = torch.randn(6, 5)
    for posterior in (
        taut.DiagonalNormal((5,), 3),
        taut.FullCovarianceNormal((5,), 3),
        taut.posteriors.IndependentBernoulli((5,), 3),
    ):
        parameters = posterior.parameters_at(x)
        q = posterior.distribution({name: p[2:4] for name, p in parameters.items()})
        z = torch.ones(1, 2, 3)
        torch.testing.assert_close(q.log_prob(z), posterior(x[2:4]).log_prob(z))
    exact = taut.LinearGaussian().model().posterior
    with pytest.raises(NotImplementedError, match="ExactPosterior has no parameters"):
        exact.parameters_at(x)


def test_samples_reconstructions_and_embeddings_of_a_hierarchy() -> None:
    problem = problem_of((2, 2))
    model, x = problem.model(), problem.sample(5)
    assert tasks.sample(model, 7).shape == (7, 5)
    assert tasks.encode(model, x, 3).shape == (5, 3, 4)
    with pytest.raises(taut.UsageError, match="Chain has no mean"):
        tasks.encode(model, x)


def test_nothing_outside_the_models_reaches_for_their_parts() -> None:
    source = Path(taut.__file__).parent
    for room in ("evidence", "use", "report", "training"):
        for path in (source / room).rglob("*.py"):
            found = re.findall(
                r"\bmodel\.(?:prior|posterior|likelihood)\b(?! ==).*", path.read_text()
            )
            found = [line for line in found if "config" not in line]
            assert not found, (path, found)
