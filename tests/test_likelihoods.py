"""Every likelihood is normalised, has the moments it claims and is a density in the user's own
units.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from ztest import assert_mean

import taut
from taut.distributions import (
    OUTSIDE,
    Bernoulli,
    CategoricalLevels,
    ContinuousBernoulli,
    DiscretizedLogistic,
)

LEVELS = torch.arange(2.0, 9.0, dtype=torch.float64)


def single(likelihood: taut.Likelihood, values: Tensor) -> Tensor:
    """log p of each value for a datum of one element, at one z: (len(values), points of z)."""
    z = torch.linspace(-2, 2, 7)[:, None]  # 7 points, D = 1
    return likelihood(z[None]).log_prob(values.reshape(-1, 1, 1))


def wild(part: taut.Likelihood, std: float = 1.5) -> taut.Likelihood:
    """Gives a part weights far from their gentle initial ones."""
    for p in part.parameters():
        torch.nn.init.normal_(p, std=std)
    return part


@pytest.mark.parametrize(
    ("part", "support"),
    [
        (lambda: taut.Bernoulli((1,), 1), torch.tensor([0.0, 1.0])),
        (lambda: taut.Categorical((1,), 1, 2, 8), LEVELS),
        (lambda: taut.DiscretizedLogistic((1,), 1, 2, 8, data_loc=5.0, data_scale=2.0), LEVELS),
        (
            lambda: taut.DiscretizedLogistic(
                (1,), 1, 2, 8, components=4, data_loc=5.0, data_scale=2.0
            ),
            LEVELS,
        ),
        (
            lambda: taut.DiscretizedLogistic((1,), 1, 0, 255, data_loc=128.0, data_scale=60.0),
            torch.arange(256.0),
        ),
    ],
)
def test_masses_sum_to_one(part, support: Tensor) -> None:
    built, whole = part(), 0.0
    # all integers have mass, together all but the share of the other numbers
    if isinstance(built, taut.DiscretizedLogistic):
        support, whole = torch.arange(-2000.0, 2256.0), math.log1p(-OUTSIDE)
    total = single(wild(built), support.double()).logsumexp(0)
    torch.testing.assert_close(total, torch.full_like(total, whole), rtol=0, atol=1e-12)


@pytest.mark.parametrize("differentiated", [False, True])  # another formula in each
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_bernoulli_is_its_closed_form_at_any_logit(
    differentiated: bool, dtype: torch.dtype, rounding: float
) -> None:
    logit = torch.cat([torch.linspace(-60, 60, 241), torch.tensor([-300.0, 300.0])])
    bits = Bernoulli(logits=logit.to(dtype).requires_grad_(differentiated), validate_args=False)
    for value, right in ((1.0, -torch.log1p((-logit).exp())), (0.0, -torch.log1p(logit.exp()))):
        log_prob = bits.log_prob(torch.full_like(bits.logits, value)).detach()
        torch.testing.assert_close(log_prob, right.to(dtype), rtol=rounding, atol=0)
    assert torch.equal(bits.logits, logit.to(dtype))  # not what was computed in place


@pytest.mark.parametrize("scale", ["per_feature", "shared", "per_datum", "per_entry", 2.5])
def test_normal_integrates_to_one_in_the_users_units(scale) -> None:
    part = wild(taut.Normal((1,), 1, scale, data_loc=1000.0, data_scale=50.0), std=0.2)
    x = torch.linspace(-20_000, 22_000, 2_000_001)
    # The trapezoid rule is exact to rounding for a smooth density whose tails are inside the grid.
    integral = torch.trapezoid(single(part, x).exp(), x, dim=0)
    torch.testing.assert_close(integral, torch.ones_like(integral), rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", [0.0, 0.005, -0.0099, 0.0101, 1.0, -3.0, 17.0, -50.0, 500.0])
def test_continuous_bernoulli_integrates_to_one_at_any_logit(
    logit: float, dtype: torch.dtype
) -> None:
    """torch's own loses two thirds of its mass at 50 in float32, where its clamp sets in."""
    nodes, weights = _gauss_legendre(200)
    # all but e^-40 of the mass lies within 40 / |l| of the end that is favoured: the nodes go there
    width = min(1.0, 40 / abs(logit)) if logit else 1.0
    x = width * nodes if logit <= 0 else 1 - width * nodes
    d = ContinuousBernoulli(torch.tensor(logit, dtype=dtype))
    total = (width * weights * d.log_prob(x).double().exp()).sum().item()
    # float32: l x is rounded at |l| eps, 3e-5 for 500, in the exponent; the series is exact to
    # 4e-12
    assert total == pytest.approx(1, abs=1e-4 if dtype == torch.float32 else 1e-8)
    mean = (width * weights * x * d.log_prob(x).double().exp()).sum().item()
    assert d.mean.item() == pytest.approx(mean, abs=1e-4 if dtype == torch.float32 else 1e-6)


@pytest.mark.parametrize("logit", [0.001, 2.0, -2.0, 80.0])
def test_continuous_bernoulli_samples_have_its_moments(logit: float) -> None:
    d = ContinuousBernoulli(torch.full((3,), logit))
    x = d.sample((100_000,))
    assert bool(d.support.check(x).all())
    assert_mean(x, d.mean)
    if abs(logit) > 1:  # E[x^2] = 1 / (1 - e^-l) - 2 E[x] / l, by parts
        assert_mean(x**2, 1 / -torch.expm1(-d.logits) - 2 * d.mean / d.logits)


def _gauss_legendre(order: int) -> tuple[Tensor, Tensor]:
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(order)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


def test_change_of_units_costs_its_jacobian() -> None:
    """The same model of the data in metres and in centimetres.

    Log p differs by log 100 an element, nothing else.
    """
    metres = taut.Normal((3,), 2, data_loc=1.7, data_scale=0.1)
    centimetres = taut.Normal((3,), 2, data_loc=170.0, data_scale=10.0)
    centimetres.load_state_dict(
        {
            **metres.state_dict(),
            "data_loc": torch.full((3,), 170.0),
            "data_scale": torch.full((3,), 10.0),
        }
    )
    z, x = torch.randn(4, 5, 2), 1.7 + 0.1 * torch.randn(5, 3)
    difference = metres(z).log_prob(x) - centimetres(z).log_prob(100 * x)
    torch.testing.assert_close(
        difference, torch.full_like(difference, 3 * math.log(100)), rtol=0, atol=1e-10
    )


def test_uniform_eight_bit_data_have_eight_bits() -> None:
    part = taut.Categorical((5, 5), 2, 0, 255)
    for p in part.parameters():
        torch.nn.init.zeros_(p)
    x = torch.randint(0, 256, (10, 5, 5)).double()
    bits = -part(torch.randn(1, 10, 2)).log_prob(x) / (25 * math.log(2))
    torch.testing.assert_close(bits, torch.full_like(bits, 8.0), rtol=0, atol=1e-12)


def test_raw_zero_is_the_marginal_of_the_data() -> None:
    def zero(part: taut.Likelihood) -> torch.distributions.Distribution:
        for p in part.decoder.parameters():
            torch.nn.init.zeros_(p)
        return part(torch.randn(1, 1, 2))

    frequencies = torch.tensor([[0.2, 0.8], [0.5, 0.5], [0.99, 0.01]])
    torch.testing.assert_close(
        zero(taut.Bernoulli((3,), 2, log_frequencies=frequencies.log())).mean[0, 0],
        frequencies[:, 1],
    )
    table = torch.rand(3, 7).softmax(-1)
    mass = zero(taut.Categorical((3,), 2, 2, 8, log_frequencies=table.log())).base_dist.probs[0, 0]
    torch.testing.assert_close(mass, table)
    normal = zero(taut.Normal((3,), 2, data_loc=10.0, data_scale=torch.tensor([1.0, 2.0, 3.0])))
    torch.testing.assert_close(normal.mean[0, 0], torch.full((3,), 10.0))
    # min_scale adds its 1e-4 to the learned share of the data's scale
    torch.testing.assert_close(normal.stddev[0, 0], 1.0001 * torch.tensor([1.0, 2.0, 3.0]))


def test_normal_scales_are_shared_as_they_say() -> None:
    z = torch.randn(4, 5, 2)
    common = {"data_loc": torch.zeros(3), "data_scale": torch.tensor([1.0, 2.0, 3.0])}
    shared = wild(taut.Normal((3,), 2, "shared", **common), std=0.3)(z).stddev
    assert len(shared.unique()) == 1
    datum = wild(taut.Normal((3,), 2, "per_datum", **common), std=0.3)(z).stddev
    assert all(len(s.unique()) == 1 for s in datum.flatten(0, 1))
    assert len(datum[..., 0].unique()) == 20
    feature = wild(taut.Normal((3,), 2, "per_feature", **common), std=0.3)(z).stddev
    assert len(feature.unique()) == 3
    fixed = wild(taut.Normal((3,), 2, 0.25, **common), std=0.3)(z).stddev
    assert fixed.unique().tolist() == [0.25]


def test_discretized_logistic_equals_the_difference_of_its_distribution_function() -> None:
    loc, scale = torch.tensor([3.3, 8.9, -2.0]), torch.tensor([0.7, 0.3, 5.0])
    d = DiscretizedLogistic(loc, scale, 2, 8)
    cdf = torch.sigmoid((LEVELS[:, None] + 0.5 - loc) / scale)
    mass = torch.cat([cdf[:1], cdf[1:-1] - cdf[:-2], 1 - cdf[-2:-1]])
    rest = (1 - OUTSIDE) * torch.where((LEVELS == 2) | (LEVELS == 8), 1 - OUTSIDE, 1.0)[:, None]
    torch.testing.assert_close(d.log_prob(LEVELS[:, None]).exp(), rest * mass, rtol=0, atol=1e-15)
    torch.testing.assert_close(d.mean, (LEVELS[:, None] * mass).sum(0), rtol=0, atol=1e-10)


def test_discretized_logistic_leaves_a_share_beyond_its_ends_and_between_its_levels() -> None:
    loc, scale = torch.tensor([3.3, 8.9, -2.0]), torch.tensor([0.7, 0.3, 5.0])
    d = DiscretizedLogistic(loc, scale, 2, 8)
    below, above = torch.sigmoid((2.5 - loc) / scale), torch.sigmoid((loc - 7.5) / scale)
    far = torch.arange(1.0, 4001.0)[:, None]  # beyond 4,000 lies 2 / (4001 * 4002) of the share
    for tail, x in ((below, 2 - far), (above, 8 + far)):
        torch.testing.assert_close(
            d.log_prob(x).exp().sum(0) / tail, torch.full((3,), OUTSIDE), rtol=2e-7, atol=0
        )
        torch.testing.assert_close(
            d.log_prob(x[:1]).exp()[0], OUTSIDE * (1 - OUTSIDE) * tail * 4 / 6, rtol=1e-12, atol=0
        )
    # a density of the width 1 about each integer: it integrates to the share
    for level in torch.arange(-3.0, 12.0):
        for x in (level - 0.4, level + 0.25):
            torch.testing.assert_close(
                d.log_prob(x),
                d.log_prob(level) + math.log(OUTSIDE / (1 - OUTSIDE)),
                rtol=0,
                atol=1e-12,
            )
    one = DiscretizedLogistic(loc, scale, 4, 4)
    integers = torch.arange(-3000.0, 3000.0)[:, None]
    torch.testing.assert_close(
        one.log_prob(integers).logsumexp(0),
        torch.full((3,), math.log1p(-OUTSIDE)),
        rtol=0,
        atol=1e-12,
    )
    in_float32 = DiscretizedLogistic(loc.float(), scale.float(), 2, 8).log_prob(
        torch.tensor([[1e6], [-7.0], [4.5]]).float()
    )
    torch.testing.assert_close(
        in_float32.double(), d.log_prob(torch.tensor([[1e6], [-7.0], [4.5]])), rtol=1e-5, atol=0
    )


def test_discretized_logistic_has_no_cancellation_far_from_its_centre() -> None:
    """At 60 scales from the centre both distribution functions round to 1, but the mass is e^-59.5
    (1 - e^-1) to 1e-10.
    """
    d = DiscretizedLogistic(torch.tensor(0.0), torch.tensor(1.0), -100, 100)
    expected = -59.5 + math.log(1 - math.exp(-1)) + math.log1p(-OUTSIDE)
    assert float(d.log_prob(torch.tensor(60.0))) == pytest.approx(expected, abs=1e-10)


def test_levels_have_a_mean_and_a_variance() -> None:
    logits = torch.randn(4, 7)
    d, p = CategoricalLevels(logits, 2), logits.softmax(-1)
    torch.testing.assert_close(d.mean, (p * LEVELS).sum(-1))
    torch.testing.assert_close(d.variance, (p * LEVELS**2).sum(-1) - (p * LEVELS).sum(-1) ** 2)
    torch.testing.assert_close(d.expand((3, 4)).mean, d.mean.expand(3, 4))


@pytest.mark.parametrize(
    "distribution",
    [
        lambda: DiscretizedLogistic(torch.tensor(3.3), torch.tensor(0.9), 2, 8),
        lambda: CategoricalLevels(torch.randn(7), 2),
    ],
)
def test_samples_follow_the_mass(distribution) -> None:
    d, n = distribution(), 100_000
    counts = torch.stack([(d.sample((n,)) == level).sum() for level in LEVELS])
    p = d.log_prob(LEVELS).exp()
    z = (counts - n * p) / (n * p * (1 - p)).sqrt()
    # Two-sided binomial z over 7 levels; by Bonferroni 5.4 is passed by chance with probability
    # 5e-7.
    assert float(z.abs().max()) < 5.4
