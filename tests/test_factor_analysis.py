"""Factor analysis and mixtures of it against the joint Gaussian, to rounding; EM never falls."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from ztest import assert_mean

import taut
from taut.models import FactorAnalysis, MixtureOfFactorAnalysers
from taut.models.exact import Pass

COLUMNS, FACTORS, COMPONENTS = 5, 2, 3
UNITS = {"data_loc": torch.arange(1.0, 6.0), "data_scale": torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0])}
EXACT = {"rtol": 0.0, "atol": 1e-10}


def wild(model: FactorAnalysis | MixtureOfFactorAnalysers) -> None:
    """Gives a model parameters that no fit made."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()


def analysis() -> FactorAnalysis:
    model = FactorAnalysis((COLUMNS,), FACTORS, **UNITS)
    wild(model)
    return model


def mixture() -> MixtureOfFactorAnalysers:
    model = MixtureOfFactorAnalysers((COLUMNS,), COMPONENTS, FACTORS, **UNITS)
    wild(model)
    return model


def rows(n: int = 7) -> Tensor:
    """Returns rows of which the second has a gap, the third no cell and the fourth a single one."""
    x = UNITS["data_loc"] + UNITS["data_scale"] * torch.randn(n, COLUMNS)
    x[1, 2] = x[2, :] = x[3, 1:] = torch.nan
    return x


def joint(model: FactorAnalysis | MixtureOfFactorAnalysers, c: int) -> tuple[Tensor, Tensor]:
    """Returns mean and covariance of (x, z) of a component, from the generative formula."""
    scale = UNITS["data_scale"]
    w = scale[:, None] * model.factors[c]
    noise = scale * model.log_scale[c].exp().clamp_min(model.min_scale)
    loc = UNITS["data_loc"] + scale * model.loc[c]
    top = torch.cat([w @ w.T + noise.square().diag(), w], 1)
    covariance = torch.cat([top, torch.cat([w.T, torch.eye(FACTORS)], 1)])
    return torch.cat([loc, torch.zeros(FACTORS)]), covariance


def gaussian_log_prob(x: Tensor, loc: Tensor, covariance: Tensor) -> Tensor:
    """Returns the log-density of the observed cells of each row, from their own Gaussian."""
    found = []
    for row in x:
        there = ~row.isnan()
        if not there.any():
            found.append(torch.zeros(()))
            continue
        here = MultivariateNormal(
            loc[:COLUMNS][there], covariance[:COLUMNS, :COLUMNS][there][:, there]
        )
        found.append(here.log_prob(row[there]))
    return torch.stack(found)


def conditional(row: Tensor, loc: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and covariance of (x, z) given the observed cells of a row."""
    there = torch.cat([~row.isnan(), torch.zeros(FACTORS, dtype=torch.bool)])
    if not there.any():
        return loc, covariance
    gain = torch.linalg.solve(covariance[there][:, there], covariance[there]).T
    off = row[~row.isnan()] - loc[there]
    return loc + gain @ off, covariance - gain @ covariance[there]


def by_component(model: MixtureOfFactorAnalysers, x: Tensor) -> Tensor:
    """Returns log p(x, c), (B, C), by enumeration."""
    log_weight = model.logits.log_softmax(0)
    parts = [log_weight[c] + gaussian_log_prob(x, *joint(model, c)) for c in range(COMPONENTS)]
    return torch.stack(parts, 1)


def test_evidence_and_posterior_are_those_of_the_joint_gaussian():
    model, x = analysis(), rows()
    loc, covariance = joint(model, 0)
    torch.testing.assert_close(model.log_prob(x), gaussian_log_prob(x, loc, covariance), **EXACT)
    q = model.encode(x)
    for number, row in enumerate(x):
        mean, left = conditional(row, loc, covariance)
        torch.testing.assert_close(q.mean[number], mean[COLUMNS:], **EXACT)
        found = q.covariance_matrix[number]
        torch.testing.assert_close(found, left[COLUMNS:, COLUMNS:], **EXACT)


def test_the_mixture_is_the_sum_over_its_components():
    model, x = mixture(), rows()
    expected = by_component(model, x)
    torch.testing.assert_close(model.log_prob(x), expected.logsumexp(1), **EXACT)
    q = model.encode(x)
    torch.testing.assert_close(q.component.probs, expected.softmax(1), **EXACT)
    for c in range(COMPONENTS):
        for number, row in enumerate(x):
            mean, left = conditional(row, *joint(model, c))
            torch.testing.assert_close(q.factors.mean[number, c], mean[COLUMNS:], **EXACT)
            found = q.factors.covariance_matrix[number, c]
            torch.testing.assert_close(found, left[COLUMNS:, COLUMNS:], **EXACT)


def test_gaps_are_filled_with_their_conditional_mean():
    for model in (analysis(), mixture()):
        x = rows()
        filled = model.typical(x)
        components = len(model.logits)
        for number, row in enumerate(x):
            means = torch.stack([conditional(row, *joint(model, c))[0] for c in range(components)])
            share = torch.ones(1)
            if components > 1:
                share = by_component(model, x[number : number + 1]).softmax(1)[0]
            expected = torch.where(row.isnan(), share @ means[:, :COLUMNS], row)
            torch.testing.assert_close(filled[number], expected, **EXACT)


@pytest.mark.parametrize("make", [analysis, mixture])
def test_what_is_given_and_what_is_left_add_up(make):
    """log p(a, b) = log p(b) + log p(a given b), the second a Gaussian's conditional."""
    model = make()
    x = rows()[4:]
    given = x.clone()
    given[:, :2] = torch.nan
    components = len(model.logits)
    parts = []
    for c in range(components):
        loc, covariance = joint(model, c)
        here = []
        for row, partly in zip(x, given, strict=True):
            mean, left = conditional(partly, loc, covariance)
            here.append(MultivariateNormal(mean[:2], left[:2, :2]).log_prob(row[:2]))
        parts.append(torch.stack(here))
    share = torch.zeros(len(x), 1)
    if components > 1:
        share = by_component(model, given).log_softmax(1)
    expected = (torch.stack(parts, 1) + share).logsumexp(1)
    torch.testing.assert_close(model.log_prob(x) - model.log_prob(given), expected, **EXACT)


@pytest.mark.parametrize("make", [analysis, mixture])
def test_every_estimator_returns_the_evidence_at_any_sample(make):
    model, x = make(), rows()
    expected = model.log_prob(x)
    draw = model.draw(x, 3)
    torch.testing.assert_close(draw.log_weight, expected.expand(3, -1), rtol=0.0, atol=1e-9)
    for objective in (taut.ELBO(num_samples=2, analytic_kl=False), taut.IWAE(num_samples=4)):
        torch.testing.assert_close(objective(model, x).value, expected, rtol=0.0, atol=1e-9)
    evidence = taut.importance(model, x, num_samples=10)
    torch.testing.assert_close(evidence.log_evidence, expected, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("make", [analysis, mixture])
def test_samples_of_model_and_posterior_have_their_moments(make):
    """False alarms: one in a million for each mean."""
    model = make()
    x = model.sample(20_000)
    components = len(model.logits)
    weight = model.logits.softmax(0)
    loc = torch.stack([joint(model, c)[0] for c in range(components)])
    assert_mean(x, weight @ loc[:, :COLUMNS])
    second = torch.stack(
        [joint(model, c)[1] + torch.outer(loc[c], loc[c]) for c in range(components)]
    )
    expected = (weight[:, None, None] * second).sum(0)[:COLUMNS, :COLUMNS]
    assert_mean(x[:, :, None] * x[:, None, :], expected)
    q = model.encode(rows()[:2])
    z = q.sample(torch.Size((20_000,)))
    assert_mean(z, q.mean)
    assert_mean((z - q.mean).square(), q.variance)


def falls(passes: list[Pass]) -> float:
    return max(a.training - b.training for a, b in pairwise(passes))


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("latent_dim", [None, 2])
def test_no_pass_lowers_the_likelihood(gaps: bool, components: int, latent_dim: int | None):
    x = torch.randn(150, 2) @ torch.randn(2, COLUMNS) + 0.3 * torch.randn(150, COLUMNS)
    x[:50] += 4
    if gaps:
        x[torch.rand_like(x) < 0.3] = torch.nan
    model = MixtureOfFactorAnalysers((COLUMNS,), components, latent_dim)
    passes = list(model.maximize(x[:100], x[100:], max_passes=60))
    assert falls(passes) < 1e-9
    best = max(p.validation for p in passes)
    assert model.log_prob(x[100:]).mean().item() == pytest.approx(best, abs=1e-9)
    assert passes[0].training < passes[-1].training - 0.5
    assert [p.number for p in passes] == list(range(1, len(passes) + 1))
    assert passes[-1].share == 1.0


@pytest.mark.parametrize("gaps", [False, True])
def test_a_long_fit_is_a_stationary_point_of_the_likelihood(gaps: bool):
    """The gradient of log p(x) is zero there, with the noise above its floor."""
    x = torch.randn(400, 2) @ torch.randn(2, 8) + torch.randn(400, 8)
    if gaps:
        x[torch.rand_like(x) < 0.2] = torch.nan
    model = FactorAnalysis((8,), 2)
    list(model.maximize(x, x[:0], max_passes=1000, tolerance=0.0))
    model.log_prob(x).mean().backward()
    for parameter in (model.loc, model.factors, model.log_scale):
        assert float(parameter.grad.abs().max()) < 1e-6
    assert model.log_scale.exp().min().item() > model.min_scale


def test_one_scale_for_all_is_what_probabilistic_pca_says():
    """Where all columns have equal noise, factor analysis is PCA and a little overfitting."""
    x = torch.randn(500, 2) @ torch.randn(2, COLUMNS) + 0.5 * torch.randn(500, COLUMNS)
    pca = taut.probabilistic_pca(x, 2)
    model = FactorAnalysis((COLUMNS,), 2)
    last = list(model.maximize(x, x[:0], max_passes=500))[-1]
    parameters = COLUMNS - 1  # more than PCA has: twice the gain is a chi-square of so many
    assert 0 <= 500 * (last.training - pca.log_likelihood) < parameters / 2 + 5 * parameters**0.5


def test_the_number_of_factors_is_found():
    x = taut.LinearGaussian(dim_x=8, dim_z=3).sample(2000)
    model = FactorAnalysis((8,))
    list(model.maximize(x[:1500], x[1500:], max_passes=2000))
    assert model.num_factors == 3
    blank = FactorAnalysis((8,))
    blank.load_state_dict(model.state_dict())
    torch.testing.assert_close(blank.log_prob(x), model.log_prob(x), rtol=0.0, atol=0.0)


def test_groups_that_are_apart_are_found():
    centre = torch.tensor([[8.0] * COLUMNS, [-8.0] * COLUMNS, [0.0] * COLUMNS])
    label = torch.arange(300) % 3
    x = centre[label] + torch.randn(300, COLUMNS)
    model = MixtureOfFactorAnalysers((COLUMNS,), 3, 1)
    list(model.maximize(x, x[:0], max_passes=50, seed=1))
    assigned = model.encode(x).component.probs.argmax(1)
    pairs = {(int(a), int(b)) for a, b in zip(label, assigned, strict=True)}
    assert len(pairs) == 3


def test_the_scale_of_the_noise_has_a_floor():
    """Two equal columns: the likelihood of factor analysis without a floor has no maximum."""
    x = torch.randn(200, 1).expand(-1, 3) * torch.tensor([1.0, 1.0, 5.0])
    model = FactorAnalysis((3,), 1, min_scale=0.1)
    list(model.maximize(x, x[:0], max_passes=300))
    z = torch.zeros(1, 1, 1)
    torch.testing.assert_close(model.decode(z).stddev[0, 0], 0.1 * x.std(0, correction=0), **EXACT)


def test_a_fit_that_is_stopped_has_the_best_so_far():
    x = torch.randn(100, COLUMNS)
    model = FactorAnalysis((COLUMNS,), 1)
    passes = model.maximize(x[:80], x[80:], max_passes=50)
    seen = [next(passes), next(passes), next(passes)]
    passes.close()
    best = max(p.validation for p in seen)
    assert model.log_prob(x[80:]).mean().item() == pytest.approx(best, abs=1e-9)


def test_units_are_inside_the_density():
    x = torch.randn(200, 3)
    small, large = FactorAnalysis((3,), 1), FactorAnalysis((3,), 1)
    list(small.maximize(x, x[:0], max_passes=30))
    list(large.maximize(1000 * x + 5, x[:0], max_passes=30))
    shifted = large.log_prob(1000 * x + 5) + 3 * math.log(1000)
    torch.testing.assert_close(shifted, small.log_prob(x), rtol=0.0, atol=1e-8)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FactorAnalysis((3, 4)), "for rows of columns, and not for data points of 2 axes"),
        (
            lambda: FactorAnalysis((2,), kinds=["real", "category"]),
            "one of the columns is category",
        ),
        (lambda: FactorAnalysis((2,), 0), "latent_dim must be at least 1, not 0"),
        (lambda: FactorAnalysis((2,), most_factors=0), "most_factors must be at least 1, not 0"),
        (lambda: FactorAnalysis((2,), min_scale=0.0), "min_scale must be positive, not 0.0"),
        (lambda: MixtureOfFactorAnalysers((2,), 0), "num_components must be at least 1, not 0"),
        (
            lambda: next(
                MixtureOfFactorAnalysers((2,), 9).maximize(torch.ones(8, 2), torch.ones(1, 2))
            ),
            "needs at least 9 training rows, not 8",
        ),
        (
            lambda: next(FactorAnalysis((2,)).maximize(torch.ones(8, 2), torch.ones(0, 2))),
            "chosen on validation rows, and there are none: give latent_dim",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, words: str):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_number_of_components_is_chosen_on_validation_rows() -> None:
    """Three planted groups far apart: one and two components are worse, eight overfit or level."""
    group = torch.randint(0, 3, (400,))
    x = 4.0 * torch.nn.functional.one_hot(group, 3).double() + torch.randn(400, 3)
    train, validation = x[:300], x[300:]
    model = MixtureOfFactorAnalysers((3,), latent_dim=1).double()
    passes = list(model.maximize(train, validation, max_passes=60))
    reached = {}
    for components in (1, 2, 4, 8, 16, 32):
        one = MixtureOfFactorAnalysers((3,), components, 1).double()
        every = one.maximize(train, validation, max_passes=60)
        reached[components] = max(p.validation for p in every)
    first = next(c for c in reached if c == 32 or not reached[2 * c] > reached[c])
    assert model.num_components == first > 2
    assert model.log_prob(validation).mean().item() == pytest.approx(reached[first], abs=1e-9)
    assert [p.number for p in passes] == list(range(1, len(passes) + 1))
    assert sorted(p.share for p in passes) == [p.share for p in passes]
    assert passes[-1].share <= 1
    # a blank model takes its shapes from the weights
    blank = MixtureOfFactorAnalysers((3,), latent_dim=1).double()
    blank.load_state_dict(model.state_dict())
    assert torch.equal(blank.log_prob(x), model.log_prob(x))
    with pytest.raises(ValueError, match="give num_components"):
        next(iter(MixtureOfFactorAnalysers((3,)).maximize(train, x[:0])))
    # stopped early it has the best so far
    stopped = MixtureOfFactorAnalysers((3,), latent_dim=1).double()
    steps = stopped.maximize(train, validation, max_passes=60)
    seen = [next(steps) for _ in range(len(passes) - 1)]
    steps.close()
    best = max(p.validation for p in seen)
    assert stopped.log_prob(validation).mean().item() == pytest.approx(best, abs=1e-9)


def test_in_float32_the_density_is_that_of_float64() -> None:
    """Noise of a thirtieth under factors of a column's size: squares of thousands that cancel."""
    torch.set_default_dtype(torch.float32)
    model = FactorAnalysis((12,), latent_dim=3)
    with torch.no_grad():
        model.factors.copy_(torch.randn_like(model.factors))
        model.log_scale.fill_(math.log(0.03))
    x = model.sample(200)
    wide = copy.deepcopy(model).double().log_prob(x.double())
    torch.testing.assert_close(model.log_prob(x), wide.float(), rtol=1e-6, atol=1e-5)
