"""Reasons: the tail probability of an entry given the others, in closed form and by draws."""

from __future__ import annotations

import math

import instances
import pytest
import torch
from test_exact_models import fitted, gappy
from torch import Tensor
from torch.distributions import Normal
from ztest import assert_mean

import taut
from taut.data.schema import Schema
from taut.evidence.cells import cell_scores
from taut.evidence.tails import _tail, entry_tails
from taut.models.factor_analysis import FactorAnalysis
from taut.runs.reasons import reasons

DENSITIES = torch.zeros(4, dtype=torch.bool)


def conditional(problem: taut.LinearGaussian, x: Tensor, column: int) -> Tensor:
    """How many standard deviations an entry lies from its conditional mean, (N,)."""
    w, sigma = problem.likelihood.weight.detach(), problem.likelihood.scale
    precision = torch.linalg.inv(w @ w.T + sigma**2 * torch.eye(len(w)))
    without = x.clone()
    without[:, column] = torch.nan
    mean = problem.conditional_mean(without).detach()[:, column]
    return (x[:, column] - mean) * precision[column, column].sqrt()


def test_a_tail_is_the_share_of_draws_that_are_at_most_as_probable() -> None:
    scores = torch.tensor([[-2, -4, -7], [-1, -3, -2], [-2, -1, -2], [-5, -2, -1]]).double()
    values = torch.arange(12.0).view(4, 3)
    tails = _tail(scores[0], values, scores, DENSITIES[:3])
    # The second and the third lie one and five nats below the least probable draw.
    expected = torch.tensor([0.75, 0.25 * math.exp(-1), 0.25 * math.exp(-5)]).double()
    torch.testing.assert_close(tails, expected, rtol=0, atol=1e-10)


def test_levels_are_summed_once_each() -> None:
    p = torch.tensor([0.5, 0.3, 0.15, 0.05]).double()
    values = torch.tensor([[1, 2, 3], [0, 0, 0], [2, 3, 0], [1, 2, 1], [3, 3, 1], [2, 2, 0]])
    scores = p.log()[values]
    tails = _tail(scores[0], values.double(), scores, ~DENSITIES[:3])
    expected = torch.tensor([0.5, 0.2, 0.05]).double()
    torch.testing.assert_close(tails, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("exact", [False, True])
def test_the_tail_of_a_gaussian_is_that_of_both_sides(exact: bool) -> None:
    problem = taut.LinearGaussian(4, 2)
    model: taut.Model = problem.model()
    if exact:
        model = FactorAnalysis((4,), 2, min_scale=1e-6)
        passes = list(
            model.double().maximize(problem.sample(4000), problem.sample(100), max_passes=50)
        )
        assert passes
    x = problem.sample(60)
    tails = entry_tails(model, x, cell_scores(model, x, 2000).value, DENSITIES, 100)
    for column in range(4):
        if exact:
            without = x.clone()
            without[:, column] = torch.nan
            # Of a Gaussian log p falls by half the square of its distance.
            top = _top(model, without, column)
            log_p = model.cell_scores(x)[:, column]
            off = (2 * (top - log_p).clamp(min=0)).sqrt().detach()
        else:
            off = conditional(problem, x, column)
        truth = 2 * Normal(0.0, 1.0).cdf(-off.abs())
        sure = truth > 0.1  # below, the tail goes on as an exponential one
        mean = (1 + 100 * truth) / 101
        assert_mean((tails[:, column] - mean)[sure] / (truth * (1 - truth))[sure].sqrt(), 0.0)


def _top(model: taut.Model, without: Tensor, column: int) -> Tensor:
    """The log-density at the conditional mean."""
    whole = without.clone()
    whole[:, column] = model.typical(without)[:, column]
    return model.cell_scores(whole)[:, column]


def test_far_beyond_the_draws_the_tail_has_the_right_size() -> None:
    """Eight standard deviations: 1.2e-15. The least of 200 draws lies at 2.0 to 4.6 (1e-3 by
    chance), where the exponential tail begins: its log is off by 0.5 z^2 less -log(201) there,
    and by log(8) + log(sqrt(pi / 2)) at the end.
    """
    problem = taut.LinearGaussian(4, 2)
    x = problem.sample(40)
    w, sigma = problem.likelihood.weight.detach(), problem.likelihood.scale
    precision = torch.linalg.inv(w @ w.T + sigma**2 * torch.eye(4))
    off = conditional(problem, x, 1)
    x[:, 1] += (8 - off) / precision[1, 1].sqrt()
    scores = torch.full((40, 4), torch.nan)
    scores[:, 1] = -32 + 0.5 * torch.log(precision[1, 1] / (2 * math.pi))
    tails = entry_tails(problem.model(), x, scores, DENSITIES)
    assert torch.equal(tails.isnan(), scores.isnan())
    log_truth = math.log(2) + float(torch.special.log_ndtr(torch.tensor(-8.0)))
    low, high = 0.5 * 2.0**2 - math.log(201), 0.5 * 4.6**2 - math.log(201)
    end = -32 - log_truth
    error = tails[:, 1].log() - log_truth
    assert (error > end + low - 0.05).all()
    assert (error < end + high + 0.05).all()


def test_a_wild_number_is_a_better_reason_than_a_rare_level() -> None:
    """By nats it is not: the level has 6.9 less than log 1, the number 6.8 less than its mode."""
    kinds, levels = ["category", "real"], [3, 0]
    frequencies = torch.tensor([[0.6, 0.399, 0.001], [0.0, 0.0, 0.0]]).log()
    likelihood = taut.likelihoods.Columns(
        kinds,
        levels,
        1,
        decoder=taut.networks.Linear,
        log_frequencies=frequencies,
        real=taut.Normal,
    )
    for parameter in likelihood.decoder.parameters():
        torch.nn.init.zeros_(parameter)
    posterior = taut.DiagonalNormal((2,), 1, encoder=taut.networks.Linear)
    for parameter in posterior.parameters():
        torch.nn.init.zeros_(parameter)
    model = taut.VAE(taut.StandardNormal(1), likelihood, posterior)
    family = likelihood(torch.zeros(1, 1)).families[1]
    x = torch.cat([torch.tensor([[2.0]]), 3.7 * family.distribution.stddev.detach()], 1)
    scores = cell_scores(model, x, 100).value
    tails = entry_tails(model, x, scores, torch.tensor([True, False]), 2000)
    assert float(scores[0, 0]) == pytest.approx(math.log(0.001), rel=1e-6)
    assert float(tails[0, 0]) == pytest.approx(0.001, rel=1e-3)
    assert float(tails[0, 1]) < 0.001  # 2.2e-4: two or more of 2,000 draws beyond, 7 % by chance


def test_a_level_of_a_hidden_tree_has_the_probability_of_all_that_are_no_more_probable() -> None:
    model, x = fitted(taut.HiddenTree), gappy(40)
    nominal = [c for c, number in enumerate(instances.NUM_LEVELS) if number]
    scores = torch.full(x.shape, torch.nan)
    scores[:, nominal] = model.cell_scores(x)[:, nominal]
    tails = entry_tails(model, x, scores, torch.tensor(instances.NUM_LEVELS) > 0, 400)
    assert torch.equal(tails.isnan(), scores.isnan())
    for column in nominal:
        each = []
        for level in range(instances.NUM_LEVELS[column]):
            other = x.clone()
            other[:, column] = level
            each.append(model.cell_scores(other)[:, column].exp())
        p, there = torch.stack(each, 1), ~x[:, column].isnan()
        own = p.gather(1, x[:, column, None].nan_to_num(0).long())
        truth = torch.where(p <= own + 1e-9, p, 0.0).sum(1)[there]
        # Six errors of a share of 400 draws: some 200 numbers, 4e-7 by chance.
        error = (truth * (1 - truth)).clamp(min=0).div(400).sqrt() + 1 / 401
        assert ((tails[there, column] - truth).abs() <= 6 * error).all()


def test_the_reasons_of_a_row_begin_with_the_smallest_tail() -> None:
    """By nats below the median of its column it is x2; by probability x1, which is far off."""
    problem = taut.LinearGaussian(3, 2)
    x = problem.sample(30)
    x[4, 1] += 40.0
    scores = cell_scores(problem.model(), x, 500).value
    scores[torch.arange(30) != 4, 2] = 1e6
    fitted = _Fitted(problem.model())
    found = reasons(fitted, x, scores.sum(1), scores)
    assert [each["row"] for each in found[:1]] == [4]
    assert len(found) == 5
    first = found[0]
    assert {each["column"] for each in first["reasons"]} == {"x0", "x1", "x2"}
    tails = [each["tail"] for each in first["reasons"]]
    assert tails == sorted(tails)
    assert first["reasons"][0]["column"] == "x1"
    assert first["log_evidence"] == pytest.approx(float(scores[4].sum()))


class _Fitted:
    """A model and the schema of rows of three real numbers."""

    def __init__(self, model: taut.Model) -> None:
        self.model, self.schema = model, Schema("real", (3,), -9.0, 9.0)
