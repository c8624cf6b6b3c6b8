"""Gaps.

What is missing is integrated out exactly, by every objective, estimator, gap and sampler, and
filled in by its mean.
"""

from __future__ import annotations

from pathlib import Path

import instances
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal
from ztest import assert_mean

import taut
from taut.distributions.observed import Observed, terms
from taut.evidence.ascent import best_gaussians
from taut.evidence.cells import _means, _picked, cell_scores, impute
from taut.evidence.gaps import decompose, optima_blocks
from taut.features import ColumnFeatures, Split, Standardize, Totals


def with_gaps(x: Tensor, share: float = 0.4) -> Tensor:
    """Returns data with random gaps; one row is whole and one holds nothing at all."""
    missing = torch.rand(x.shape) < share
    missing[0], missing[1] = False, True
    return torch.where(missing, torch.nan, x)


def marginal(problem: taut.LinearGaussian, x: Tensor, context: Tensor | None = None) -> Tensor:
    """log p of the observed features of each row, from the sub-matrix of the covariance, written
    out row by row.
    """
    w, sigma = problem.likelihood.weight, problem.likelihood.scale
    loc = (problem.prior.loc(context) @ w.T + problem.likelihood.shift(context)).expand(x.shape)
    covariance = w @ w.T + sigma**2 * torch.eye(len(w))
    result = []
    for row, mean in zip(x, loc, strict=True):
        there = ~row.isnan()
        part = (
            torch.distributions.MultivariateNormal(mean[there], covariance[there][:, there])
            if there.any()
            else None
        )
        result.append(torch.zeros(()) if part is None else part.log_prob(row[there]))
    return torch.stack(result)


@pytest.mark.parametrize("context_dim", [0, 2])
def test_the_problem_with_gaps_is_its_marginal(context_dim: int) -> None:
    problem = taut.LinearGaussian(5, 2, context_dim=context_dim)
    context = torch.randn(20, context_dim) if context_dim else None
    x = with_gaps(problem.sample(20, context))
    torch.testing.assert_close(
        problem.log_evidence(x, context), marginal(problem, x, context), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize(
    "objective",
    [o for o, _, reparameterized in instances.OBJECTIVES if reparameterized],
    ids=lambda o: repr(o),
)
def test_every_bound_is_the_marginal_of_what_was_observed(objective: taut.Objective) -> None:
    problem = taut.LinearGaussian(5, 2)
    x = with_gaps(problem.sample(20))
    bound = objective(problem.model(), x)
    torch.testing.assert_close(bound.value, marginal(problem, x).detach(), rtol=0, atol=1e-10)
    bound.surrogate.sum().backward()
    for parameter in (*problem.likelihood.parameters(), *problem.prior.parameters()):
        if parameter.grad is not None:
            assert not parameter.grad.isnan().any()


def test_the_gradient_is_that_of_the_marginal() -> None:
    """With the exact posterior the gradient of the bound to the decoder is that of log p(x_obs),
    sample by sample in the mean.
    """
    problem = taut.LinearGaussian(4, 2)
    x = with_gaps(problem.sample(6))
    (exact,) = torch.autograd.grad(marginal(problem, x).sum(), problem.likelihood.weight)
    draws = 20_000
    gradients = []
    for _ in range(20):
        bound = taut.ELBO(num_samples=draws // 20, analytic_kl=False)(problem.model(), x)
        (gradient,) = torch.autograd.grad(bound.surrogate.sum(), problem.likelihood.weight)
        gradients.append(gradient.flatten())
    assert_mean(torch.stack(gradients), exact.flatten())


def test_importance_sampling_and_annealing_with_gaps_are_exact() -> None:
    problem = taut.LinearGaussian(5, 2)
    x = with_gaps(problem.sample(12))
    evidence = taut.importance(problem.model(), x, 20)
    torch.testing.assert_close(
        evidence.log_evidence, marginal(problem, x).detach(), rtol=0, atol=1e-10
    )
    worse = problem.model(Wide(problem))
    annealed = taut.annealing(worse, x, num_chains=64, max_temperatures=60)
    error = (
        annealed.log_evidence - marginal(problem, x).detach()
    ) / annealed.log_evidence_error.clamp(min=1e-9)
    # 12 data at 5.5 standard errors: false alarm about 5e-7 if Normal
    assert error.abs().max() < 5.5


class Wide(taut.Posterior):
    """The exact posterior mean, off by so many standard deviations, with a scale half as large
    again.
    """

    def __init__(self, problem: taut.LinearGaussian, shift: float = 0.0) -> None:
        super().__init__()
        self._problem, self.shift = problem, shift

    def forward(self, x: Tensor, context: Tensor | None = None) -> Independent:
        exact = self._problem.posterior(x, context)
        return Independent(Normal(exact.mean + self.shift * exact.stddev, 1.5 * exact.stddev), 1)


def test_gaps_of_a_wrong_posterior_are_its_divergences() -> None:
    """log p(x_obs) - ELBO is KL(q, p(z | x_obs)), and a fit of each datum's own posterior closes
    what amortization left.
    """
    problem = taut.LinearGaussian(5, 2)
    model = problem.model(Wide(problem))
    x = with_gaps(problem.sample(8))
    evidence = taut.importance(model, x, 4000)
    optima = list(optima_blocks(model, x, evaluation_samples=4000))
    gaps = decompose(evidence, None, optima)
    exact = problem.posterior(x)
    q = torch.distributions.MultivariateNormal(
        exact.mean, torch.diag_embed((1.5 * exact.stddev) ** 2)
    )
    kl = torch.distributions.kl_divergence(q, exact)
    difference = evidence.log_evidence - evidence.elbo - kl.detach()
    assert (difference.abs() < 6 * evidence.gap_error + 1e-9).all()
    # The best diagonal Normal has the precision's diagonal: its divergence is half the log of
    # (diagonal product / determinant).
    precision = exact.precision_matrix
    best = 0.5 * (precision.diagonal(dim1=-2, dim2=-1).log().sum(-1) - precision.logdet()).detach()
    assert (gaps.log_evidence - gaps.elbo_best - best).abs().max() < 0.02


@pytest.mark.parametrize("num_samples", [2, 10])
def test_imputation_is_the_conditional_mean(num_samples: int) -> None:
    problem = taut.LinearGaussian(6, 2)
    x = with_gaps(problem.sample(30))
    filled = impute(problem.model(), x, num_samples).values
    torch.testing.assert_close(filled, problem.conditional_mean(x).detach(), rtol=0, atol=1e-8)
    observed = ~x.isnan()
    assert torch.equal(filled[observed], x[observed])


def test_imputation_by_a_wrong_posterior_converges_to_the_conditional_mean() -> None:
    problem = taut.LinearGaussian(5, 2)
    x = with_gaps(problem.sample(20))
    filled = impute(problem.model(Wide(problem, shift=0.7)), x, 50_000)
    error = (filled.values - problem.conditional_mean(x).detach()).abs().max()
    assert error < 0.05  # some 100 entries of standard error below 0.7 / sqrt(2 * 8,000)
    assert (filled.ess > 5_000).all()


def test_rows_that_the_encoder_fails_are_filled_in_by_better_proposals() -> None:
    """Three rows of twenty have an encoder that is five standard deviations off: they alone are
    filled in again, each with its own values.
    """
    problem = taut.LinearGaussian(5, 2)
    x = with_gaps(problem.sample(20))
    whole, other = problem.model(), problem.model(Wide(problem, shift=5.0))
    model = problem.model(_Sometimes(whole.posterior, other.posterior, x[[3, 7, 12]]))
    filled = impute(model, x, 400)
    error = (filled.values - problem.conditional_mean(x).detach()).abs()
    # Samples of a posterior of deviation 0.7 at most: six errors, 100 numbers, 2e-7 by chance.
    limit = torch.full((20, 1), 1e-8)
    limit[[3, 7, 12]] = (6 * 0.7 / filled.ess[[3, 7, 12], None].sqrt()).to(limit)
    assert (error <= limit).all()
    assert filled.reliable.all()
    assert (filled.ess[[3, 7, 12]] > 400).all()


class _Sometimes(taut.Posterior):
    """The one posterior, and for a few rows another."""

    def __init__(self, one: taut.Posterior, other: taut.Posterior, rows: Tensor) -> None:
        super().__init__()
        self.one, self.other, self.rows = one, other, rows

    def forward(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        q, wrong = self.one(x, context), self.other(x, context)
        same = (x.nan_to_num(-99)[:, None] == self.rows.nan_to_num(-99)).all(-1).any(-1)[:, None]
        loc = torch.where(same, wrong.mean, q.mean)
        tril = torch.where(
            same[..., None], torch.diag_embed(wrong.stddev), q.scale_tril.expand(len(x), -1, -1)
        )
        return MultivariateNormal(loc, scale_tril=tril)


def test_multiple_imputations_are_draws_of_the_conditional() -> None:
    # most of the variance is that of x given z: a mean is no draw
    problem = taut.LinearGaussian(4, 2, scale=2.0)
    x = problem.sample(1)
    x[0, :2] = torch.nan
    model = problem.model(Wide(problem, shift=0.7))  # the draws are right by their weights alone
    draws = torch.cat(
        [
            impute(model, x.expand(50, -1), 2000, num_imputations=20, seed=s).draws
            for s in range(10)
        ],
        1,
    )
    assert torch.equal(draws[..., 2:], x[0, 2:].expand_as(draws[..., 2:]))
    w, sigma = problem.likelihood.weight.detach(), problem.likelihood.scale
    covariance = w @ w.T + sigma**2 * torch.eye(4)
    gain = covariance[:2, 2:] @ torch.linalg.inv(covariance[2:, 2:])
    conditional = covariance[:2, :2] - gain @ covariance[2:, :2]
    # One imputation of each of the 500 copies: the others of a copy share its 2,000 points z.
    one = draws[0, :, :2] - problem.conditional_mean(x).detach()[0, :2]
    assert_mean(one, torch.zeros(2))
    assert_mean(one.square(), conditional.diagonal())
    assert_mean(one[:, :1] * one[:, 1:], conditional[0, 1:])


def test_the_score_of_an_entry_is_its_log_probability_given_the_others() -> None:
    problem = taut.LinearGaussian(4, 2)
    x = with_gaps(problem.sample(10), 0.2)
    scores = cell_scores(problem.model(), x, 50_000)
    assert torch.equal(scores.value.isnan(), x.isnan())
    assert torch.equal(scores.reliable, ~x.isnan())
    for row, element in (~x.isnan()).nonzero().tolist():
        without = x[row : row + 1].clone()
        without[0, element] = torch.nan
        exact = (problem.log_evidence(x[row : row + 1]) - problem.log_evidence(without)).detach()
        assert abs(float(scores.value[row, element] - exact)) < 0.15


def test_half_of_the_draws_have_not_seen_the_entry() -> None:
    problem = taut.LinearGaussian(4, 2)
    model, gaps = problem.model(), list[Tensor]()
    encode = model.encode

    def noted(rows: Tensor, context: Tensor | None = None) -> torch.distributions.Distribution:
        gaps.append(rows.isnan())
        return encode(rows, context)

    model.encode = noted
    cell_scores(model, problem.sample(3), 20, improve=False)
    for element in range(4):
        assert any(bool(g[:, element].all()) for g in gaps)


def test_scores_of_entries_and_their_errors_hold_where_the_encoder_is_far_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Thirty posterior scales away, the answers are the closed form's, and the errors cover it. An
    ascent a row is enough for nearly all entries.
    """
    climbed = []

    def counted(model: taut.Model, x: Tensor, **given: int) -> torch.distributions.Distribution:
        climbed.append(len(x))
        return best_gaussians(model, x, **given)

    monkeypatch.setattr("taut.evidence.cells.best_gaussians", counted)
    problem = taut.LinearGaussian(4, 2)
    x = problem.sample(60)
    scores = cell_scores(problem.model(Wide(problem, shift=30.0)), x)
    exact = torch.empty_like(x)
    for element in range(4):
        without = x.clone()
        without[:, element] = torch.nan
        exact[:, element] = (problem.log_evidence(x) - problem.log_evidence(without)).detach()
    assert scores.reliable.all()
    assert float((scores.value - exact).abs().quantile(0.9)) < 0.3
    z = (scores.value - exact) / scores.error
    assert sum(climbed) < 60 + 60  # of 240 entries
    assert_mean(z.mean(1), torch.zeros(()))  # entries of a row share samples
    assert 0.5 < float(z.square().mean()) < 1.5  # 240 of them: a standard error of some 0.1


def test_imputations_of_rows_far_from_the_encoder_are_draws_and_do_not_repeat() -> None:
    problem = taut.LinearGaussian(4, 2, scale=2.0)
    x = problem.sample(1)
    x[0, :2] = torch.nan
    found = impute(problem.model(Wide(problem, shift=30.0)), x.expand(40, -1), num_imputations=20)
    assert found.reliable.all()
    assert all(len(found.draws[:, row, 0].unique()) == 20 for row in range(40))
    mean = problem.conditional_mean(x).detach()[0, :2]
    w, sigma = problem.likelihood.weight.detach(), problem.likelihood.scale
    covariance = w @ w.T + sigma**2 * torch.eye(4)
    gain = covariance[:2, 2:] @ torch.linalg.inv(covariance[2:, 2:])
    conditional = covariance[:2, :2] - gain @ covariance[2:, :2]
    assert (found.values[:, :2] - mean).abs().max() < 0.3  # of a spread of two and more
    assert_mean((found.draws[..., :2] - mean).mean(0), torch.zeros(2))
    spread = (found.draws[..., :2] - mean).square().mean((0, 1)) / conditional.diagonal()
    assert ((spread > 0.8) & (spread < 1.2)).all()  # of 800 draws: a standard error of 0.05


def test_a_row_that_no_latent_point_explains_keeps_its_gaps_and_spoils_no_other() -> None:
    problem = taut.LinearGaussian(4, 2)
    x = with_gaps(problem.sample(6))
    x[2] = torch.tensor([torch.nan, 1e200, -1e200, 1e200])  # their squares overflow
    alone = torch.arange(6) != 2
    found = impute(problem.model(), x, num_imputations=3)
    assert found.values[2, 0].isnan()
    assert found.draws[:, 2, 0].isnan().all()
    assert found.ess[2] == 0
    assert not found.reliable[2]
    assert not found.values[alone].isnan().any()
    torch.testing.assert_close(
        found.values[alone], problem.conditional_mean(x[alone]).detach(), rtol=0, atol=1e-8
    )


def test_picks_are_as_even_as_the_shares() -> None:
    """Of 10 systematic picks a share of 0.25 gets two or three, and one of 0.5 gets five, in a
    random order.
    """
    share = torch.tensor([[0.25, 0.25, 0.5]]).T.expand(-1, 500)
    picked = _picked(share, 10)
    counts = torch.stack([(picked == k).sum(0) for k in range(3)])
    assert ((counts[:2] == 2) | (counts[:2] == 3)).all()
    assert (counts[2] == 5).all()
    assert_mean((picked[0] == 2).double(), torch.tensor(0.5))


def test_what_is_missing_costs_nothing_and_leaves_the_rest_alone() -> None:
    base = Normal(torch.randn(3, 4, 2), 1.0)
    observed = Observed(base, 1, 0.0)
    x = torch.randn(4, 2)
    whole = Independent(base, 1)
    assert torch.equal(observed.log_prob(x), whole.log_prob(x))
    gap = x.clone()
    gap[2, 1] = torch.nan
    each = terms(observed, gap)
    assert (each[:, 2, 1] == 0).all()
    torch.testing.assert_close(
        observed.log_prob(gap)[:, 2], base.log_prob(x)[:, 2, 0], rtol=0, atol=1e-14
    )
    assert torch.equal(observed.expand((5, 3, 4)).log_prob(x)[3], observed.log_prob(x))
    with pytest.raises(ValueError, match="does not say how much each element"):
        terms(whole, x)


@pytest.mark.parametrize("number", range(len(instances.make_likelihoods())))
def test_every_likelihood_has_gaps_without_a_nan_in_its_gradient(number: int) -> None:
    part, kind = instances.make_likelihoods()[number]
    x = getattr(instances, kind)(6)
    z = torch.randn(3, 6, instances.LATENT)
    if isinstance(part, taut.Multinomial):  # no product over the entries (test_multinomial)
        x[:, 0] = torch.nan
        part(z).log_prob(x).sum().backward()
        assert not any(p.grad.isnan().any() for p in part.parameters())
        return
    whole = terms(part(z), x)
    missing = torch.rand(x.shape) < 0.5
    gap = torch.where(missing, torch.nan, x)
    each = terms(part(z), gap)
    torch.testing.assert_close(each, torch.where(missing, 0.0, whole), rtol=0, atol=1e-12)
    torch.testing.assert_close(part(z).log_prob(gap), each.flatten(2).sum(-1), rtol=0, atol=1e-10)
    part(z).log_prob(gap).sum().backward()
    assert not any(p.grad.isnan().any() for p in part.parameters() if p.grad is not None)


def test_the_encoder_sees_a_mean_and_a_mask_for_a_gap() -> None:
    x = torch.tensor([[3.0, torch.nan], [torch.nan, 4.0]])
    features = Standardize((2,), torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]), missing=True)
    assert features.out_shape == (2, 2)
    assert features(x).tolist() == [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.5], [1.0, 0.0]]]
    x = torch.tensor([[3.0, -0.5]])
    assert torch.equal(Standardize((2,))(x), x)  # no location and no scale


def test_the_features_of_a_table_are_standardized_logarithms_and_hot_levels() -> None:
    kinds = ["none", "log", "log1p", "none"]
    loc, scale = torch.tensor([1.0, 0.5, 0.25, 0.0]), torch.tensor([2.0, 0.5, 0.25, 1.0])
    features = ColumnFeatures([0, 0, 0, 3], kinds, loc, scale, missing=True)
    x = torch.tensor([[3.0, 2.0, 0.0, 2.0], [torch.nan, torch.nan, torch.nan, torch.nan]])
    one = torch.tensor(2.0).log().item()
    expected = [[1.0, (one - 0.5) / 0.5, -1.0, 0, 0, 1, 0, 0, 0, 0], [0.0] * 6 + [1.0] * 4]
    torch.testing.assert_close(features(x), torch.tensor(expected))
    assert features.out_shape == (10,)
    assert ColumnFeatures([0, 0, 0, 3], kinds, loc, scale).out_shape == (6,)


def test_given_columns_are_a_context_and_the_total_of_a_row_can_be_one() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, torch.nan]])
    split = Split([1], 3, Standardize((1,), 2.0, 3.0))
    rest, context = split(x)
    assert rest[:, 0].tolist() == [1.0, 4.0]
    assert context.tolist() == [[0.0], [1.0]]
    same, total = Totals(3.0)(x)
    assert same is x
    torch.testing.assert_close(total, torch.tensor([[2.0], [3.0]]).log())
    assert float(Totals(1.0)(torch.zeros(1, 4))[1]) == pytest.approx(-0.6931471805599453)


def test_bits_per_dimension_count_what_is_observed(tmp_path: Path) -> None:
    """A fair coin is one bit, half of them missing or none.

    Log p(x) of a row is of its observed entries alone.
    """
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (600, 20)).astype(float)
    x[rng.random(x.shape) < 0.5] = np.nan
    small = {"encoder": "MLP(hidden=(8,))", "decoder": "MLP(hidden=(8,))", "num_samples": 20}
    run = taut.fit(x, tmp_path / "run", latent_dim=2, max_epochs=3, **small)  # type: ignore[arg-type]
    found = run.evaluation()["bits_per_dimension"]
    assert found["baseline"]["value"] == pytest.approx(1, abs=0.01)
    assert found["log_evidence"]["value"] == pytest.approx(1, abs=0.01)
    effort = taut.Effort(100, 2, 10, optimum_steps=5, simulated=4, naive=4, train=20, samples=20)
    audited = taut.audit_run(run, x[:30], effort=effort)["bits_per_dimension"]
    assert audited["log_evidence"]["value"] == pytest.approx(1, abs=0.02)


def test_the_means_of_a_table_are_those_of_its_gaps() -> None:
    """Of no gap there is none to compute: other columns of the rows may have the gaps. 32 equal
    draws of z have the mean of each, of which every pair gives a part.
    """
    z = torch.randn(4, instances.LATENT).expand(32, -1, -1)
    joint = instances.make_columns_on_grids()(z)
    share = torch.full((32, 4), 1 / 32)
    numbers = [family for family in joint.families if not family.kind.nominal]
    assert numbers
    for family in numbers:
        mean = family.distribution.mean[0]
        for gaps in (mean.isnan(), ~mean.isnan(), torch.rand_like(mean) < 0.5):
            found = _means(family.distribution, share, gaps)
            assert found.shape == mean.shape
            torch.testing.assert_close(found[gaps], mean[gaps])
