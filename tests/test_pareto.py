"""k-hat: the known tail of Pareto draws, another library's fit, and the edges of what
it can tell.
"""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

import taut
from taut.evidence import pareto as module
from taut.evidence.pareto import pareto_k, tail_length, tail_surplus, threshold


def largest(log_weights: torch.Tensor) -> torch.Tensor:
    return log_weights.topk(tail_length(len(log_weights)) + 1, dim=0).values


@pytest.mark.parametrize("shape", [0.1, 0.3, 0.5, 0.7, 1.2])
def test_recovers_the_tail_of_pareto_draws(shape: float) -> None:
    """w = e^(kE) with E exponential is Pareto with tail index k.

    K = 50,000 has a tail of 671, and there are 100 data.
    """
    k = pareto_k(
        largest(shape * torch.distributions.Exponential(torch.tensor(1.0)).sample((50_000, 100)))
    )
    m = tail_length(50_000)
    expected = (m * shape + 5) / (m + 10)  # drawn toward 1/2 with the weight of ten
    error = (1 + shape) / math.sqrt(m)  # asymptotic standard error of the maximum-likelihood shape
    # z of 5 on the mean has a false-alarm rate of 6e-7; the fit's bias is of order 1 / M, for which
    # ten such are allowed
    assert abs(k.mean().item() - expected) < 5 * error / 10 + 10 / m
    # of the spread: the standard deviation of 100 has a standard error of 7 %
    assert 0.6 < k.std().item() / error < 1.4


@pytest.mark.parametrize("shape", [0.2, 0.8])
def test_agrees_with_the_maximum_likelihood_of_scipy(shape: float) -> None:
    log_w = shape * torch.distributions.Exponential(torch.tensor(1.0)).sample((1_000_000, 1))
    tail = largest(log_w)
    weights = (tail[:, 0] - tail.max()).exp().sort().values
    exceedances = (weights[1:] - weights[0]).numpy()
    reference, _, _ = stats.genpareto.fit(exceedances / exceedances.mean(), shape, floc=0)
    m = len(exceedances)
    # posterior mean and maximum likelihood differ by the order of 1 / M = 3e-4; ten such are
    # allowed
    assert pareto_k(tail).item() == pytest.approx((m * reference + 5) / (m + 10), abs=10 / m)


@pytest.mark.parametrize("num_samples", [30, 100, 500])
def test_equals_the_published_algorithm_written_out(num_samples: int) -> None:
    """Zhang and Stephens 2009 with Vehtari et al.'s prior, a datum and a grid point at a time."""
    tail = largest(2 * torch.randn(num_samples, 4))
    for datum in range(4):
        w = sorted(math.exp(v - tail[:, datum].max().item()) for v in tail[:, datum].tolist())
        x = [v - w[0] for v in w[1:]]
        m, grid = len(x), 30 + int(len(x) ** 0.5)
        b = [
            1 / x[-1] + (1 - (grid / (j - 0.5)) ** 0.5) / (3 * x[int(m / 4 + 0.5) - 1])
            for j in range(1, grid + 1)
        ]
        k = [sum(math.log(1 - t * v) for v in x) / m for t in b]
        profile = [m * (math.log(-t / s) - s - 1) for t, s in zip(b, k, strict=True)]
        weight = [1 / sum(math.exp(other - own) for other in profile) for own in profile]
        mean = sum(u * t for u, t in zip(weight, b, strict=True))
        expected = (sum(math.log(1 - mean * v) for v in x) + 5) / (m + 10)
        assert pareto_k(tail)[datum].item() == pytest.approx(expected, abs=1e-10)


def test_does_not_depend_on_the_scale_of_the_weights_or_their_order() -> None:
    tail = largest(torch.randn(1000, 5))
    torch.testing.assert_close(pareto_k(tail + 700.0), pareto_k(tail), rtol=0, atol=1e-9)
    torch.testing.assert_close(pareto_k(tail.flip(0)), pareto_k(tail), rtol=0, atol=0)
    together = pareto_k(tail)
    alone = torch.cat([pareto_k(tail[:, i : i + 1]) for i in range(5)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-12)


def test_constant_weights_are_exact_and_no_exception() -> None:
    tail = torch.full((30, 2), -300.0)
    tail[:, 1] = torch.randn(30)
    k = pareto_k(tail)
    assert k[0] == -math.inf
    assert math.isfinite(k[1])


def test_a_tail_too_short_or_with_zero_weights_cannot_tell() -> None:
    assert pareto_k(torch.randn(5, 3)).isnan().all()
    tail = torch.randn(30, 2)
    tail[3, 1] = -math.inf
    assert pareto_k(tail).isnan().tolist() == [False, True]
    assert pareto_k(torch.full((30, 1), -math.inf)).isnan().all()


def test_ties_at_the_cutoff_have_a_finite_fit() -> None:
    """Discrete latents have few different weights."""
    tail = torch.cat(
        [torch.zeros(25, 1), torch.log(torch.tensor([[2.0], [2.0], [3.0], [3.0], [5.0]]))]
    )
    assert -1 < pareto_k(tail).item() < 2


def test_threshold_and_tail_length_are_the_published_rule() -> None:
    assert threshold(100) == pytest.approx(0.5)
    assert threshold(1000) == pytest.approx(2 / 3)
    assert threshold(10**6) == 0.7
    assert threshold(1) == -math.inf
    assert (tail_length(100), tail_length(10_000), tail_length(500)) == (20, 300, 68)


@pytest.mark.parametrize("num_samples", [600, 2000])
def test_streaming_keeps_the_whole_tail(num_samples: int) -> None:
    """The tail that is kept chunk by chunk is that of all weights.

    K-hat equals the one of the weights drawn by hand.
    """
    from taut.system.seeds import stream

    problem = taut.LinearGaussian()
    model, x = problem.model(taut.DiagonalNormal((5,), 2, taut.Linear)), problem.sample(1)
    with stream(0, "importance", 0), torch.no_grad():
        q = model.encode(x)
        sizes = [512] * (num_samples // 512) + [num_samples % 512]
        draws = [model.draw(x, n, reparameterize=False, proposal=q).log_weight for n in sizes]
    expected = pareto_k(largest(torch.cat(draws)))
    torch.testing.assert_close(
        taut.importance(model, x, num_samples).khat, expected, rtol=0, atol=1e-10
    )


def test_says_when_the_error_can_be_believed() -> None:
    """z ~ N(0, s^2) weighted to N(0, 1) has k = max(0, 1 - s^2) in closed form."""

    def k(scale: float) -> torch.Tensor:
        z = scale * torch.randn(20_000, 200)
        return pareto_k(largest(0.5 * z**2 * (1 / scale**2 - 1)))

    limit = threshold(20_000)
    assert (
        k(0.4) > limit
    ).double().mean().item() > 0.8  # k = 0.84, and 0.14 / error = 2 standard errors above
    assert (k(1.3) < limit).double().mean().item() == 1.0


def test_the_surplus_of_the_tail_is_the_integral_of_the_fitted_quantiles() -> None:
    """The trapezoid rule in log v on the square of 1 + s (v^-k - 1) / k, down to v = 1 / (1000 M),
    with k at most 0.7.
    """
    shape = torch.tensor([-0.4, 0.2, 0.3, 0.5, 0.65, 1.2]).repeat_interleave(5)
    tail = largest(
        shape * torch.distributions.Exponential(torch.tensor(1.0)).sample((1000, len(shape)))
    )
    m = len(tail) - 1
    ordered = (tail - tail.amin(0)).exp().sort(0).values[1:].T
    fitted, scale = module._fit(ordered - 1)
    torch.testing.assert_close(fitted, pareto_k(tail), rtol=0, atol=1e-9)
    k = fitted.clamp_max(0.7)[:, None]
    assert bool((fitted > 0.7).any())
    y = torch.linspace(0, math.log(1000 * m), 100_001)  # -log v
    square = (1 + scale[:, None] * torch.expm1(k * y) / k).square()
    expected = m * torch.trapezoid(square * (-y).exp(), y) - ordered.square().sum(1)
    expected /= ordered[:, -1].square()
    assert bool((expected > 0).any() & (expected < 0).any())
    # the rule is off by h^2 / 12 times a slope of at most some 100, and h is 1.2e-4
    torch.testing.assert_close(tail_surplus(tail), expected.clamp_min(0), rtol=1e-6, atol=1e-6)


def test_there_is_no_surplus_where_there_is_no_tail() -> None:
    tail = torch.randn(30, 3)
    tail[:, 1] = -300.0
    tail[3, 2] = -math.inf
    assert tail_surplus(tail)[1:].tolist() == [0, 0]
    assert tail_surplus(torch.randn(5, 3)).tolist() == [0, 0, 0]
    heavy = torch.arange(6.0)[:, None]  # weights that grow by e each
    assert tail_surplus(heavy).item() > 1  # five above the cutoff are the fewest
    assert tail_surplus(heavy[1:]).item() == 0


def test_one_weight_beside_which_all_others_are_nothing_has_no_shape() -> None:
    """Log-weights of a proposal far off spread over thousands of nats: their fit had been 0.29."""
    for spread in (1e2, 1e3, 1e6):
        log_weight = spread * torch.linspace(0, 1, 69)[:, None]
        assert float(pareto_k(log_weight)) == math.inf
    known = torch.linspace(0, 3, 69)[:, None]
    assert float(pareto_k(known)) < 1
