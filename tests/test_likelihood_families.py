"""Likelihoods of tables and counts.

Normalised, with the moments they claim, right in float32 and at the edges of their range.
"""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor
from ztest import ALPHA, assert_mean

from taut import likelihoods as lk
from taut.distributions import (
    OUTSIDE,
    Bernoulli,
    Binomial,
    CategoricalLevels,
    DiscretizedLogistic,
    LogNormal,
    NegativeBinomial,
    Ordinal,
    Poisson,
    StudentT,
    ZeroInflated,
)
from taut.networks import MLP, Linear

SMALL = partial(MLP, hidden=(5,))
INF = math.inf


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# of three elements; the last has one level only
LOW, HIGH = (
    f64(2.0, -3.0, 0.0),
    f64(8.0, -1.0, 0.0),
)


def wild(part: torch.nn.Module, std: float = 1.0) -> torch.nn.Module:
    """Gives a part weights far from their gentle initial ones."""
    for p in part.parameters():
        torch.nn.init.normal_(p, std=std)
    return part


def zero(part: lk.Likelihood, context: Tensor | None = None) -> torch.distributions.Distribution:
    """The distribution at a decoder output of zero, of a batch of one."""
    for p in part.decoder.parameters():
        torch.nn.init.zeros_(p)
    return part(torch.randn(1, 1, 2), context)


def terms(part: lk.Likelihood, x: Tensor) -> Tensor:
    """log p of each element at seven points z: (len(x), 7, elements) for x (len(x), elements)."""
    return part(torch.linspace(-2, 2, 7)[:, None]).base_dist.log_prob(x[:, None])


# --- Total mass and moments -----------------------------------------------------------------------

FREQUENCIES = torch.stack(
    [f64(0.1, 0.2, 0.3, 0.4), f64(0.5, 0.25, 0.25, 0.0), f64(1.0, 0.0, 0.0, 0.0)]
).log()

FINITE = {
    "categorical": lambda: lk.Categorical((3,), 1, LOW, HIGH, SMALL),
    "logistic": lambda: lk.DiscretizedLogistic(
        (3,), 1, LOW, HIGH, decoder=SMALL, data_loc=(LOW + HIGH) / 2, data_scale=1.5
    ),
    "logistic mixture": lambda: lk.DiscretizedLogistic(
        (3,), 1, LOW, HIGH, 3, decoder=SMALL, data_loc=LOW, data_scale=1.5
    ),
    "binomial": lambda: lk.Binomial((3,), 1, LOW, HIGH, SMALL),
    "binomial, one range": lambda: lk.Binomial(
        (3,), 1, -4, 9, SMALL, data_loc=torch.tensor([-4.0, 9.0, 2.0])
    ),
    "ordinal": lambda: lk.Ordinal((3,), 1, LOW, HIGH, SMALL),
    "ordinal, one range": lambda: lk.Ordinal((3,), 1, 0, 3, SMALL, log_frequencies=FREQUENCIES),
}


@pytest.mark.parametrize("centre", [0.3, 150.2, 298.9])
def test_small_variances_of_large_levels_have_digits(centre: float) -> None:
    """In float32 the difference of two squares of 300 has none beyond a hundredth."""
    cutpoints = (torch.arange(299.0) + 0.5 - centre) / 0.3
    ordinal = Ordinal(torch.zeros(1), cutpoints)
    levels = torch.arange(300.0)
    p = ordinal.log_prob(levels).exp()
    mean = p @ levels
    variance = float(p @ (levels - mean).square())
    rough = Ordinal(torch.zeros(1).float(), cutpoints.float())
    assert float(rough.variance) == pytest.approx(variance, rel=1e-4)
    logits = ordinal.log_prob(levels)[None]
    levels_of = CategoricalLevels(logits.float(), 0)
    assert float(levels_of.variance) == pytest.approx(variance, rel=1e-4)


@pytest.mark.parametrize("name", FINITE)
def test_masses_over_levels_sum_to_one_and_have_their_mean_and_variance(name: str) -> None:
    part = wild(FINITE[name]())
    levels = torch.arange(-4.0, 10.0)[:, None].expand(-1, 3)
    d = part(torch.linspace(-2, 2, 7)[:, None]).base_dist
    inside = torch.stack([d.support.check(level.expand(7, 3)) for level in levels])
    # outside its support an element has no mass to be summed; what lies inside is evaluated one
    # level at a time
    mass = (
        torch.stack(
            [
                d.log_prob(torch.where(i, x, part.low)).exp()
                for i, x in zip(inside, levels, strict=True)
            ]
        )
        * inside
    )
    # at most, and nothing of it farther than 2 away on average
    outside = 3 * OUTSIDE if name.startswith("logistic") else 0.0
    torch.testing.assert_close(mass.sum(0), torch.ones(7, 3), rtol=0, atol=1e-10 + outside)
    mean = (mass * levels[:, None]).sum(0)
    torch.testing.assert_close(d.mean, mean, rtol=0, atol=1e-10 + 10 * outside)
    if not name.startswith("logistic"):
        variance = (mass * (levels[:, None] - mean) ** 2).sum(0)
        torch.testing.assert_close(d.variance, variance, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", FINITE)
def test_support_is_each_elements_own_range(name: str) -> None:
    part = FINITE[name]()
    support, last = part(torch.zeros(1, 1)).base_dist.support, part.high
    if name == "ordinal, one range":
        last = torch.tensor([3.0, 2.0, 0.0])
    low, high = (torch.as_tensor(end, dtype=torch.float64).expand(3) for end in (part.low, last))
    for value, inside in (
        (low, True),
        (high, True),
        (low - 1, False),
        (high + 1, False),
        (low + 0.5, False),
    ):
        assert support.check(value).flatten().tolist() == [inside] * 3


COUNTS = {
    "poisson": lambda m: Poisson(m.log()),
    "negative binomial": lambda m: NegativeBinomial(
        m.log(), f64(0.05, 1.0, 300.0, 9_999.0, 10_001.0, 9e5, 1e8).log()[:, None]
    ),
    "zero-inflated": lambda m: ZeroInflated(
        NegativeBinomial(m.log(), f64(0.7).log()), f64(-50.0, 0.3, 5.0, -0.3)
    ),
    "zero-inflated Poisson": lambda m: ZeroInflated(Poisson(m.log()), f64(0.3, -0.3, 5.0, -50.0)),
}


@pytest.mark.parametrize("name", COUNTS)
def test_masses_of_counts_sum_to_one_and_have_their_mean_and_variance(name: str) -> None:
    d = COUNTS[name](f64(1e-8, 0.3, 4.0, 19.0))
    x = torch.arange(20_001.0).reshape(-1, *(1 for _ in d.batch_shape))
    log_p = d.log_prob(x)
    mass = log_p.exp()
    # Beyond the last count the ratio of neighbours only falls to mu / (mu + r) < 0.998, so the tail
    # is below 500 times the last mass, of x^2 times the mass below 500 * 2 * 20,000^2: where that
    # is below 1e-12 the sums are whole.
    assert float(log_p[-1].max() + math.log(500 * 2 * 20_000**2)) < math.log(1e-12)
    # 1e-10 by the rounding of log p: 1e-16 times terms of (x + r) log(1 + mu / r) at most, 1e4
    # times 1e-16
    torch.testing.assert_close(mass.sum(0), torch.ones(d.batch_shape), rtol=0, atol=1e-10)
    torch.testing.assert_close((mass * x).sum(0), d.mean.expand(d.batch_shape), rtol=1e-9, atol=0)
    torch.testing.assert_close(
        (mass * (x - d.mean) ** 2).sum(0), d.variance.expand(d.batch_shape), rtol=1e-9, atol=0
    )


SCALES = ["per_feature", "shared", "per_datum", "per_entry"]


@pytest.mark.parametrize("scale", SCALES)
def test_lognormal_integrates_to_one_in_the_users_units(scale: str) -> None:
    part = wild(
        lk.LogNormal((3,), 1, scale, log_loc=f64(0.0, 10.0, -7.0), log_scale=f64(1.0, 0.1, 3.0)),
        # a scale for each entry that is decoded varies more: all of it must be within the grid
        std={"per_entry": 0.1}.get(scale, 0.3),
    )
    # dx = e^y dy, and in y the trapezoid rule is exact for a Gaussian
    y = torch.linspace(-150, 150, 100_001)[:, None]
    mass = torch.trapezoid((terms(part, y.exp().expand(-1, 3)) + y[:, None]).exp(), y[:, 0], dim=0)
    torch.testing.assert_close(mass, torch.full((7, 3), 1 - OUTSIDE), rtol=0, atol=1e-12)
    below = torch.trapezoid(
        (terms(part, -y.exp().expand(-1, 3)) + y[:, None]).exp(), y[:, 0], dim=0
    )
    torch.testing.assert_close(below, torch.full((7, 3), OUTSIDE), rtol=1e-9, atol=0)
    median = part(torch.linspace(-2, 2, 7)[:, None]).base_dist.loc
    torch.testing.assert_close(
        terms(part, f64(0.0).expand(1, 3))[0], math.log(2 * OUTSIDE) - median, rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("scale", SCALES)
def test_student_t_integrates_to_one_and_has_its_variance_in_the_users_units(scale: str) -> None:
    unit = f64(1.0, 50.0, 1e-3)
    part = wild(lk.StudentT((3,), 1, scale, data_loc=1000 * unit, data_scale=unit), std=0.3)
    d = part(torch.linspace(-2, 2, 7)[:, None]).base_dist
    # x = m + s sinh u: the tails x^-3 fall as e^-2u
    u = torch.linspace(-60, 60, 20_001)[:, None, None]
    x = d.loc + d.scale * u.sinh()
    density = (d.log_prob(x) + d.scale.log() + u.cosh().log()).exp()
    # the trapezoid rule converges as e^(-2 pi w / step), w = 1.5 the distance of the nearest
    # singularity: to rounding
    torch.testing.assert_close(
        torch.trapezoid(density, u[:, 0, 0], dim=0), torch.ones(7, 3), rtol=0, atol=1e-9
    )
    variance = torch.trapezoid(density * (x - d.loc) ** 2, u[:, 0, 0], dim=0)
    torch.testing.assert_close(variance, d.variance, rtol=1e-9, atol=0)


# --- Raw zero is the marginal ---------------------------------------------------------------------


def test_raw_zero_has_the_mean_and_the_variance_of_the_counts() -> None:
    # the second varies less than a Poisson's: it starts at r = 5, ten means
    loc, scale = (
        f64(3.0, 0.5, 40.0),
        f64(4.0, 0.6, 7.0),
    )
    assert zero(lk.Poisson((3,), 2, data_loc=loc)).mean[0, 0].tolist() == pytest.approx(
        loc.tolist(), rel=1e-14
    )
    for dispersion in ("per_feature", "per_datum"):
        d = zero(lk.NegativeBinomial((3,), 2, dispersion, data_loc=loc, data_scale=scale))
        torch.testing.assert_close(d.mean[0, 0], loc)
        torch.testing.assert_close(d.variance[0, 0], f64(16.0, 0.5 + 0.25 / 5, 49.0))
        inflated = zero(
            lk.ZeroInflatedNegativeBinomial((3,), 2, dispersion, data_loc=loc, data_scale=scale)
        )
        torch.testing.assert_close(inflated.mean[0, 0], 0.99 * loc)


def test_an_element_of_few_counts_stays_near_its_mean() -> None:
    for part in (lk.Poisson, lk.NegativeBinomial, lk.ZeroInflatedNegativeBinomial):
        built = part((3,), 2, data_loc=2.0, data_total=f64(0.0, 200.0, 1800.0))
        assert built.known.tolist() == pytest.approx([0.0, 0.5, 0.9])
        z = torch.randn(1, 4, 2)
        raw = built.decoder(z).flatten(-2)[..., :3]
        base = built(z).base_dist
        log_mean = base.log_rate if part is lk.Poisson else getattr(base, "base", base).log_mean
        torch.testing.assert_close(log_mean, math.log(2.0) + built.known * raw)
        assert part((3,), 2).known.tolist() == [1.0] * 3


def test_counts_that_training_never_saw_start_at_half_a_count_in_5000() -> None:
    part = lk.NegativeBinomial((2,), 2, data_loc=f64(0.0, 3.0), data_scale=f64(1.0, 3.0))
    torch.testing.assert_close(zero(part).mean[0, 0], f64(1e-4, 3.0))
    assert (10 * part.raw_concentration).tolist() == pytest.approx(
        [math.log(1e-2), math.log(9 / 6)]
    )
    torch.testing.assert_close(zero(lk.Poisson((1,), 2, data_loc=0.0)).mean[0, 0], f64(1e-4))


def test_raw_zero_has_the_frequencies_of_the_levels() -> None:
    d = zero(
        lk.Ordinal((3,), 2, 0, 3, log_frequencies=FREQUENCIES + 5.0)
    ).base_dist  # unnormalised: only ratios count
    p = torch.stack(
        [d.log_prob(torch.full((1, 1, 3), float(level))).exp()[0, 0] for level in range(4)], -1
    )
    torch.testing.assert_close(p, FREQUENCIES.exp(), rtol=0, atol=1e-14)
    assert bool((p[FREQUENCIES == -INF] == 0).all())
    d = zero(lk.Categorical((3,), 2, 0, 3, log_frequencies=FREQUENCIES)).base_dist
    torch.testing.assert_close(d.probs[0, 0], FREQUENCIES.exp())
    assert bool((d.probs[0, 0][FREQUENCIES == -INF] == 0).all())


def test_raw_zero_of_rare_levels_keeps_their_frequencies() -> None:
    frequencies = f64(0.5, 1e-9, 0.5 - 2e-9, 1e-9)
    d = zero(lk.Ordinal((), 2, 1, 4, log_frequencies=frequencies.log())).base_dist
    p = torch.stack([d.log_prob(torch.tensor(float(level))).exp()[0, 0] for level in range(1, 5)])
    # cutpoints of about 20 are rounded at 4e-15, of about 1 at 1e-16, which is 1e-7 of the gap of
    # 4e-9 between two of them
    torch.testing.assert_close(p, frequencies, rtol=1e-6, atol=0)


def test_raw_zero_of_the_others_has_the_moments_of_the_data() -> None:
    d = zero(lk.Binomial((3,), 2, LOW, HIGH, data_loc=f64(3.5, -3.0, 0.0)))
    # an element that never leaves an end starts within 1e-4 of it; one with a single level has it
    # always
    torch.testing.assert_close(d.mean[0, 0], f64(3.5, -3.0 + 2e-4, 0.0))
    loc, scale = f64(10.0, -3.0), f64(1.0, 7.0)
    d = zero(lk.StudentT((2,), 2, data_loc=loc, data_scale=scale))
    torch.testing.assert_close(d.mean[0, 0], loc)
    # min_scale adds its 1e-4 to the learned share
    torch.testing.assert_close(d.stddev[0, 0], 1.0001 * scale)
    assert d.base_dist.df.unique().tolist() == pytest.approx([10.0])
    d = zero(lk.LogNormal((2,), 2, log_loc=loc, log_scale=scale)).base_dist.base_dist
    torch.testing.assert_close(d.mean[0, 0], loc)
    torch.testing.assert_close(d.stddev[0, 0], 1.0001 * scale)


@pytest.mark.parametrize("family", [lk.LogNormal, lk.StudentT])
def test_scales_are_shared_as_they_say(family: type) -> None:
    z, common = (
        torch.randn(4, 5, 2),
        {"log_scale" if family is lk.LogNormal else "data_scale": f64(1.0, 2.0, 3.0)},
    )
    scale = {
        s: (
            b.base_dist
            if hasattr(b := wild(family((3,), 2, s, **common), 0.3)(z).base_dist, "base_dist")
            else b
        ).scale
        for s in SCALES
    }
    assert len(scale["shared"].unique()) == 1
    assert all(len(s.unique()) == 1 for s in scale["per_datum"].flatten(0, 1))
    assert len(scale["per_datum"][..., 0].unique()) == 20
    assert len(scale["per_feature"].unique()) == 3
    assert len(scale["per_entry"].unique()) == 60


# --- Special cases and limits ---------------------------------------------------------------------


def test_ordinal_with_two_levels_and_binomial_with_one_trial_are_bernoulli() -> None:
    logit, bit = torch.linspace(-40, 40, 161), torch.tensor([[0.0], [1.0]])
    expected = Bernoulli(logits=logit, validate_args=False).log_prob(bit)
    # P(x = 0) = sigmoid(c - m), so c = 0.7 and m = l + 0.7
    ordinal = Ordinal(logit + 0.7, torch.tensor([0.7]))
    torch.testing.assert_close(ordinal.log_prob(bit), expected, rtol=1e-13, atol=1e-15)
    # l - softplus(l) is rounded at 40 times 1e-16
    torch.testing.assert_close(
        Binomial(logit, 0, 1).log_prob(bit), expected, rtol=1e-13, atol=1e-14
    )
    torch.testing.assert_close(
        Binomial(logit, 4, 5).log_prob(bit + 4), expected, rtol=1e-13, atol=1e-14
    )


def test_binomial_is_torchs_in_float64() -> None:
    n, logits = torch.tensor([1.0, 7.0, 255.0]), torch.tensor([-3.0, 0.5, 2.0])
    for k in (0.0, 1.0):
        expected = torch.distributions.Binomial(n, logits=logits).log_prob(k * n)
        torch.testing.assert_close(
            Binomial(logits, LOW, LOW + n).log_prob(LOW + k * n), expected, rtol=0, atol=1e-11
        )


def test_ordinal_is_the_difference_of_its_distribution_function() -> None:
    cutpoints, loc = torch.tensor([-1.0, 0.5, 2.5]), torch.linspace(-3, 3, 13)[:, None]
    cdf = torch.sigmoid(torch.cat([torch.tensor([-INF]), cutpoints, torch.tensor([INF])]) - loc)
    levels = torch.arange(4.0)
    torch.testing.assert_close(
        Ordinal(loc, cutpoints, 2).log_prob(levels + 2).exp(), cdf.diff(dim=-1), rtol=0, atol=1e-15
    )


def test_negative_binomial_goes_to_the_poisson() -> None:
    x, m = torch.arange(60.0)[:, None], f64(1e-8, 0.5, 20.0)
    poisson = torch.distributions.Poisson(m).log_prob(x)
    for r in (1e8, 1e12, 1e30):
        # log NB - log Poisson = ((x - mu)^2 - x) / (2 r) + O(x^3 / r^2), which is 59^3 / 10^16 =
        # 2e-11 here
        torch.testing.assert_close(
            NegativeBinomial(m.log(), f64(r).log()).log_prob(x),
            poisson + ((x - m) ** 2 - x) / (2 * r),
            rtol=0,
            atol=2e-11,
        )


@pytest.mark.parametrize("log_r", [80.0, 90.0, 500.0])
def test_negative_binomial_of_any_concentration_is_the_poisson_in_float32(log_r: float) -> None:
    """e^90 is more than float32 holds: log p(0) was minus infinity, and each draw 2^53.

    The mean of 2,000 draws; 6 errors: 2e-9.
    """
    single = torch.float32
    m = torch.tensor([1e-8, 0.05, 20.0], dtype=single)
    x = torch.arange(60.0, dtype=single)[:, None]
    q = NegativeBinomial(m.log(), torch.full_like(m, log_r))
    poisson = torch.distributions.Poisson(m.double()).log_prob(x.double())
    torch.testing.assert_close(q.log_prob(x).double(), poisson, rtol=5e-6, atol=1e-7)
    draws = q.sample(torch.Size((2000,)))
    assert draws.dtype == single
    assert bool(((draws.mean(0) - m).abs() < 6 * (m / 2000).sqrt()).all())


def test_negative_binomial_of_no_concentration_draws_zeros() -> None:
    """A share of e^-90, times its inverse, was infinite in float32. Its p(0) is 1 - 1e-37."""
    q = NegativeBinomial(torch.full((500,), 9.0), torch.full((500,), -90.0))
    assert not q.expand(torch.Size((500,))).sample().any()
    single = NegativeBinomial(q.log_mean.float(), q.log_concentration.float())
    assert not single.sample().any()


def test_a_binomial_of_many_trials_draws_by_a_probability_that_float64_knows() -> None:
    """0.02 of 65,535 trials fail on average; float32 knows that to a tenth. 6 errors: 2e-9."""
    logits = torch.full((20_000,), 15.0, dtype=torch.float32)
    failed = 65535 - Binomial(logits, 0, 65535).sample().double()
    mean = 65535 * torch.sigmoid(torch.tensor(-15.0))
    assert abs(float(failed.mean() - mean)) < 6 * math.sqrt(float(mean) / 20_000)


def test_negative_binomial_at_zero_is_its_closed_form_at_any_mean() -> None:
    d = torch.linspace(-60, 60, 121)
    log_p = NegativeBinomial(d + 0.7, f64(0.7)).log_prob(torch.tensor(0.0))
    torch.testing.assert_close(
        log_p, -math.exp(0.7) * torch.logaddexp(torch.tensor(0.0), d), rtol=1e-14, atol=0
    )


@pytest.mark.parametrize("family", [lk.NegativeBinomial, lk.ZeroInflatedNegativeBinomial])
def test_dispersion_is_decoded_where_it_says_so(family: type) -> None:
    part = family((2,), 2, "per_datum", decoder=Linear, data_loc=3.0, data_scale=4.0)
    z = torch.randn(5, 2)

    def base() -> NegativeBinomial:
        d = part(z).base_dist
        return d.base if isinstance(d, ZeroInflated) else d

    before = base()
    with torch.no_grad():
        part.decoder.map.bias[-2:] += f64(1.0, -2.0)  # the last map is log r
    assert torch.equal(base().log_mean, before.log_mean)
    torch.testing.assert_close(
        base().log_concentration, before.log_concentration + f64(1.0, -2.0), rtol=0, atol=1e-14
    )
    fixed = family((2,), 2, decoder=Linear, data_loc=3.0, data_scale=4.0)
    assert (part.decoder.map.out_features, fixed.decoder.map.out_features) == (
        (6, 4) if family.maps == 2 else (4, 2)
    )


def test_zero_inflation_with_share_zero_changes_nothing_and_is_a_mixture_otherwise() -> None:
    x = torch.arange(30.0)[:, None]
    base = NegativeBinomial(f64(0.1, 3.0, 20.0).log(), f64(0.4, 2.0, 9.0).log())
    assert torch.equal(ZeroInflated(base, torch.full((3,), -INF)).log_prob(x), base.log_prob(x))
    share = torch.sigmoid(f64(-2.0, 0.0, 3.0))
    expected = (1 - share) * base.log_prob(x).exp() + share * (x == 0)
    torch.testing.assert_close(
        ZeroInflated(base, share.logit()).log_prob(x).exp(), expected, rtol=1e-12, atol=0
    )


def test_one_range_for_all_and_the_same_range_for_each_are_one() -> None:
    loc, scale, x = (
        5 * torch.randn(9, 3),
        0.1 + torch.rand(9, 3),
        torch.randint(2, 9, (9, 3)).double(),
    )
    one, each = (
        DiscretizedLogistic(loc, scale, 2, 8),
        DiscretizedLogistic(loc, scale, f64(2, 2, 2), f64(8, 8, 8)),
    )
    assert torch.equal(one.log_prob(x), each.log_prob(x))
    assert torch.equal(one.mean, each.mean)
    # as it was before elements had ranges of their own
    upper, lower = (
        torch.nn.functional.logsigmoid((x + 0.5 - loc) / scale),
        torch.nn.functional.logsigmoid(-(x - 0.5 - loc) / scale),
    )
    inner = upper + lower + torch.log(-torch.expm1(-1 / scale))
    expected = torch.where(x <= 2, upper, torch.where(x >= 8, lower, inner))
    # which an end level gives up
    torch.testing.assert_close(one.log_prob(x), expected, rtol=0, atol=2.1 * OUTSIDE)
    logits = torch.randn(9, 3, 7)
    assert torch.equal(
        CategoricalLevels(logits, 2).log_prob(x),
        CategoricalLevels(logits, f64(2, 2, 2)).log_prob(x),
    )
    assert torch.equal(
        CategoricalLevels(logits, 2).mean, CategoricalLevels(logits, f64(2, 2, 2)).mean
    )


# --- The exposure of a row ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family", [lk.Poisson, lk.NegativeBinomial, lk.ZeroInflatedNegativeBinomial]
)
def test_library_multiplies_the_means_by_the_rows_share(family: type) -> None:
    part = family((2, 3), 2, library=True, decoder=Linear, context_dim=2, data_loc=2.0)
    with torch.no_grad():
        part.decoder.map.weight[:, 2:] = (
            0.0  # what the decoder makes of the context is another matter
        )
    z, context = torch.randn(4, 5, 2), torch.randn(5, 2)
    d, plain = part(z, context), part(z, torch.zeros(5, 2))
    torch.testing.assert_close(
        d.mean, plain.mean * context[:, 0].exp()[:, None, None], rtol=1e-12, atol=0
    )
    part.data_loc *= 3.0
    tripled = part(z, torch.zeros(5, 2))
    x = torch.randint(0, 5, (5, 2, 3)).double()
    part.data_loc /= 3.0
    same = part(z, torch.full((5, 2), math.log(3.0)))
    torch.testing.assert_close(same.log_prob(x), tripled.log_prob(x), rtol=1e-13, atol=0)


# --- Gradients ------------------------------------------------------------------------------------


def grads(log_p: Tensor, *parameters: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(log_p.sum(), parameters, retain_graph=True))


@pytest.mark.parametrize("log_r", [math.log(0.01), 0.0, math.log(9_000.0), math.log(1e5)])
def test_gradients_of_the_negative_binomial_are_those_of_the_naive_formula(log_r: float) -> None:
    x = torch.tensor([0.0, 0.0, 1.0, 2.0, 17.0, 400.0])[:, None]
    log_mean, log_r_, logits = (
        f64(-3.0, 0.0, 3.0).requires_grad_(),
        f64(log_r).requires_grad_(),
        f64(-2.0, 0.0, 1.0).requires_grad_(),
    )
    m, r = log_mean.exp(), log_r_.exp()
    naive = (
        torch.lgamma(x + r)
        - torch.lgamma(r)
        - torch.lgamma(x + 1)
        + r * torch.log(r / (r + m))
        + x * torch.log(m / (r + m))
    )
    ours = NegativeBinomial(log_mean, log_r_)
    # the naive formula is the inexact one: at r = 1e5 its terms of 1e6 are rounded at 1e-10, their
    # slopes likewise
    torch.testing.assert_close(ours.log_prob(x), naive, rtol=1e-9, atol=1e-8)
    torch.testing.assert_close(
        grads(ours.log_prob(x), log_mean, log_r_),
        grads(naive, log_mean, log_r_),
        rtol=1e-8,
        atol=1e-7,
    )
    few = x[:3]
    mixed = torch.log(
        torch.sigmoid(-logits) * NegativeBinomial(log_mean, log_r_).log_prob(few).exp()
        + torch.sigmoid(logits) * (few == 0)
    )
    torch.testing.assert_close(
        grads(ZeroInflated(ours, logits).log_prob(few), log_mean, log_r_, logits),
        grads(mixed, log_mean, log_r_, logits),
        rtol=1e-8,
        atol=1e-12,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_student_t_is_finite_however_far_out(dtype: torch.dtype) -> None:
    """The square of what float32 holds is more than it holds; one power of ten costs the same."""
    x = (10.0 ** torch.arange(10, 38).double()).to(dtype)
    far = StudentT(*(torch.tensor(v, dtype=dtype) for v in (3.5, 7.0, 0.02))).log_prob(x)
    expected = torch.distributions.StudentT(3.5, 7.0, 0.02).log_prob(x.double())
    torch.testing.assert_close(far.double(), expected, rtol=1e-6, atol=0)
    step = torch.full_like(far[1:], -4.5 * math.log(10))
    torch.testing.assert_close(far.diff(), step, rtol=0, atol=2e-4)


def test_gradients_of_the_others_are_those_of_the_naive_formula() -> None:
    x = torch.arange(4.0)[:, None]
    rate = f64(-3.0, 0.0, 3.0).requires_grad_()
    naive = x * rate - rate.exp() - torch.lgamma(x + 1)
    torch.testing.assert_close(
        grads(Poisson(rate).log_prob(x), rate), grads(naive, rate), rtol=1e-12, atol=0
    )
    loc, cutpoints = f64(-1.0, 0.3, 2.0).requires_grad_(), f64(-1.0, 0.5, 2.5).requires_grad_()
    edges = torch.cat([torch.tensor([-50.0]), cutpoints, torch.tensor([50.0])])
    naive = torch.sigmoid(edges - loc[:, None]).diff(dim=-1).log().T
    torch.testing.assert_close(
        grads(Ordinal(loc, cutpoints).log_prob(x), loc, cutpoints),
        grads(naive, loc, cutpoints),
        rtol=1e-10,
        atol=1e-13,
    )
    logits = f64(-1.0, 0.3, 2.0).requires_grad_()
    naive = x * torch.sigmoid(logits).log() + (3 - x) * torch.sigmoid(-logits).log()
    torch.testing.assert_close(
        grads(Binomial(logits, 0, 3).log_prob(x), logits),
        grads(naive, logits),
        rtol=1e-12,
        atol=1e-13,
    )
    df, scale = f64(2.5, 10.0, 300.0).requires_grad_(), f64(0.1, 1.0, 30.0).requires_grad_()
    naive = torch.distributions.StudentT(df, 1.0, scale).log_prob(x)
    torch.testing.assert_close(
        StudentT(df, torch.ones(3), scale).log_prob(x), naive, rtol=1e-12, atol=1e-12
    )
    ours = grads(StudentT(df, torch.ones(3), scale).log_prob(x), df, scale)
    torch.testing.assert_close(ours, grads(naive, df, scale), rtol=1e-10, atol=1e-12)


def test_levels_that_an_element_lacks_get_no_gradient() -> None:
    part = lk.Ordinal((3,), 1, 0, 3, Linear, log_frequencies=FREQUENCIES)
    x = torch.tensor([[3.0, 2.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    part(torch.randn(3, 1)).log_prob(x).sum().backward()
    assert torch.equal(part.raw_cutpoints.grad == 0, ~part.present)
    # its only level has probability one, whatever the decoder says
    assert part.raw_scale.grad[2] == 0
    part = lk.Categorical((3,), 1, 0, 3, Linear, log_frequencies=FREQUENCIES)
    part(torch.randn(3, 1)).log_prob(x).sum().backward()
    assert torch.equal(
        part.decoder.map.bias.grad.view(4, 3).T == 0, (FREQUENCIES == -INF) | (FREQUENCIES == 0)
    )


# --- float32 --------------------------------------------------------------------------------------


def exact_negative_binomial(x: float, log_mean: Tensor, log_r: Tensor) -> Tensor:
    """log p in float64 by the product (r + k) / (k + 1).

    No gamma function, and no large difference.
    """
    m, r, k = log_mean.double().exp(), log_r.double().exp(), torch.arange(x, dtype=torch.float64)
    ratio = ((r[..., None] + k) * (m / (r + m))[..., None] / (k + 1)).log().sum(-1)
    return ratio - r * torch.log1p(m / r)


@pytest.mark.parametrize("x", [0.0, 1.0, 3.0, 1_000.0, 100_000.0])
def test_negative_binomial_in_float32(x: float) -> None:
    """From means of 1e-8 to 1e5 and r from 1e-2 to 1e8.

    At x = 100,000 the plain formula is off by a tenth of a nat and more.
    """
    log_mean, log_r = (
        torch.linspace(math.log(1e-8), math.log(1e5), 14),
        torch.linspace(math.log(1e-2), math.log(1e8), 11)[:, None],
    )
    log_mean, log_r = log_mean.float(), log_r.float()
    log_p = NegativeBinomial(log_mean, log_r).log_prob(torch.tensor(x, dtype=torch.float32))
    assert log_p.dtype == torch.float32
    # float32 rounds the result at 6e-8 of itself; at x = 0 also log mu - log r, up to 37, at 2e-6
    # of r softplus of it
    torch.testing.assert_close(
        log_p.double(),
        exact_negative_binomial(x, log_mean, log_r),
        rtol=4e-6 if x == 0 else 2e-7,
        atol=0,
    )


def test_float32_at_extremes() -> None:
    rate = torch.tensor([-110.0, -18.0, 0.0, 11.5], dtype=torch.float32)
    x = torch.tensor([[0.0], [1.0], [98_716.0]], dtype=torch.float32)
    expected = torch.distributions.Poisson(rate.double().exp()).log_prob(x.double())
    torch.testing.assert_close(Poisson(rate).log_prob(x).double(), expected, rtol=3e-7, atol=1e-37)
    logits, levels = (
        torch.tensor([-60.0, -3.0, 0.001], dtype=torch.float32),
        torch.tensor([[0.0], [30_000.0], [65_535.0]]),
    )
    expected = torch.distributions.Binomial(65_535, logits=logits.double()).log_prob(levels)
    torch.testing.assert_close(
        Binomial(logits, 0, 65_535).log_prob(levels.float()).double(),
        expected,
        rtol=1e-7,
        atol=1e-8,
    )
    y = torch.linspace(-30, 30, 7, dtype=torch.float32)
    for df in (2.001, 10.0, 1e4, 1e6, 1e8):
        df_ = torch.tensor(df, dtype=torch.float32)
        expected = torch.distributions.StudentT(df_.double()).log_prob(y.double())
        ours = StudentT(
            df_, torch.zeros(1, dtype=torch.float32), torch.ones(1, dtype=torch.float32)
        ).log_prob(y)
        torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=0)
    loc, scale = (
        torch.tensor([-60.0, 0.0, 60.0], dtype=torch.float32),
        torch.tensor(3.0, dtype=torch.float32),
    )
    values = torch.tensor([[1e-30], [1.0], [1e30]], dtype=torch.float32)
    expected = torch.distributions.LogNormal(loc.double(), scale.double()).log_prob(values.double())
    ours = LogNormal(loc, scale).log_prob(values)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=0)
    below = LogNormal(torch.tensor([-100.0, 85.0]).float(), scale).log_prob(
        torch.tensor([[0.0], [-1e-3], [-1e30]]).float()
    )
    exact = LogNormal(torch.tensor([-100.0, 85.0]), scale.double()).log_prob(
        torch.tensor([[0.0], [-1e-3], [-1e30]])
    )
    torch.testing.assert_close(below.double(), exact, rtol=1e-6, atol=0)


def test_a_rate_that_underflows_still_has_its_gradient() -> None:
    """torch's Poisson gives NaN there: 0 / 0."""
    log_rate = torch.tensor([-200.0, -200.0], dtype=torch.float32, requires_grad=True)
    (slope,) = grads(Poisson(log_rate).log_prob(torch.tensor([0.0, 3.0])), log_rate)
    assert slope.tolist() == [0.0, 3.0]
    log_mean = torch.tensor([-200.0, -200.0], dtype=torch.float32, requires_grad=True)
    (slope,) = grads(
        NegativeBinomial(log_mean, torch.tensor(0.0)).log_prob(torch.tensor([0.0, 3.0])), log_mean
    )
    assert slope.tolist() == [0.0, 3.0]


def test_counts_outside_the_support_have_no_probability() -> None:
    assert Poisson(torch.zeros(2)).log_prob(torch.tensor([-1.0, -2.0])).tolist() == [-INF, -INF]
    assert NegativeBinomial(torch.zeros(2), torch.tensor(0.3)).log_prob(
        torch.tensor([-1.0, -2.0])
    ).tolist() == [-INF, -INF]
    assert Binomial(torch.zeros(2), 0, 3).log_prob(torch.tensor([-1.0, 4.0])).tolist() == [
        -INF,
        -INF,
    ]


# --- Samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("d", "most"),
    [
        (lambda: Poisson(f64(0.2, 4.0).log()), 12),
        (lambda: NegativeBinomial(f64(0.5, 4.0).log(), f64(0.4, 1e7).log()), 12),
        (
            lambda: ZeroInflated(
                NegativeBinomial(f64(1.0, 6.0).log(), f64(0.4, 3.0).log()), f64(-1.0, 0.5)
            ),
            14,
        ),
        (lambda: Ordinal(f64(0.3, -1.0), torch.tensor([[-1.0, 0.5, 2.0], [0.0, 1.0, INF]])), 3),
        (lambda: Binomial(f64(-1.0, 0.4), f64(0.0, 2.0), f64(5.0, 3.0)), 5),
        (
            lambda: DiscretizedLogistic(f64(1.0, 2.4), f64(0.9, 0.5), f64(0.0, 2.0), f64(5.0, 3.0)),
            5,
        ),
        (
            lambda: CategoricalLevels(
                torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, -INF]]), f64(0.0, 2.0), f64(2.0, 3.0)
            ),
            3,
        ),
    ],
)
def test_samples_follow_the_mass(d, most: int) -> None:
    d, n = d(), 50_000
    x = d.sample((n,))
    assert bool(d.support.check(x).all())
    for element in range(2):
        levels = torch.arange(most + 1.0)
        inside = levels[d.support.check(levels[:, None].expand(-1, 2))[:, element]]
        p = torch.stack(
            [
                d.log_prob(torch.where(torch.arange(2) == element, level, x[0]))[element].exp()
                for level in inside
            ]
        )
        seen = torch.stack([(x[:, element] == level).sum() for level in inside])
        z = (seen - n * p) / (n * p * (1 - p)).sqrt()
        # Two-sided z over at most 15 levels: by Bonferroni 5.7 is passed by chance with probability
        # 2e-7. A level that is expected fewer than 20 times in 50,000 is left out, for there the
        # binomial is not normal.
        assert float(z[n * p > 20].abs().max()) < 5.7, z
    assert ALPHA > 15 * 2 * 1.2e-8


def test_samples_of_the_densities() -> None:
    d = wild(lk.StudentT((3,), 2, data_loc=5.0, data_scale=2.0), 0.3)(torch.zeros(1, 2)).base_dist
    y = (d.sample((50_000,)) - d.loc) / d.scale
    # y^2 / (nu + y^2) is Beta(1/2, nu/2), so that nu / (nu + y^2) has the mean nu / (nu + 1)
    assert_mean(d.df / (d.df + y**2), d.df / (d.df + 1))
    assert_mean(y.tanh(), 0.0)
    d = wild(lk.LogNormal((3,), 2, log_loc=5.0, log_scale=2.0), 0.3)(torch.zeros(1, 2)).base_dist
    y = (d.sample((50_000,)).log() - d.loc) / d.scale
    assert_mean(y, 0.0)
    assert_mean(y**2, 1.0)


# --- What the rest of taut relies on --------------------------------------------------------------

RANGED = {"low": LOW, "high": HIGH, "decoder": SMALL}
PARTS = {
    "poisson": (lambda: lk.Poisson((3,), 2, decoder=SMALL, data_loc=4.0), f64(0, 3, 9)),
    "nb": (
        lambda: lk.NegativeBinomial((3,), 2, decoder=SMALL, data_loc=4.0, data_scale=3.0),
        f64(0, 3, 9),
    ),
    "nb datum": (
        lambda: lk.NegativeBinomial((3,), 2, "per_datum", decoder=SMALL, data_loc=4.0),
        f64(0, 3, 9),
    ),
    "zinb": (
        lambda: lk.ZeroInflatedNegativeBinomial((3,), 2, decoder=SMALL, data_loc=4.0),
        f64(0, 3, 9),
    ),
    "zinb datum": (
        lambda: lk.ZeroInflatedNegativeBinomial((3,), 2, "per_datum", decoder=SMALL),
        f64(0, 3, 9),
    ),
    "lognormal": (lambda: lk.LogNormal((3,), 2, "per_datum", decoder=SMALL), f64(0.1, 1, 10)),
    "student": (lambda: lk.StudentT((3,), 2, "shared", decoder=SMALL), f64(-3, 0, 30)),
    "ordinal": (
        lambda: lk.Ordinal((3,), 2, 0, 3, SMALL, log_frequencies=FREQUENCIES),
        f64(3, 1, 0),
    ),
    "ordinal ranges": (lambda: lk.Ordinal((3,), 2, **RANGED), f64(5, -2, 0)),
    "binomial": (lambda: lk.Binomial((3,), 2, **RANGED), f64(5, -2, 0)),
    "categorical": (lambda: lk.Categorical((3,), 2, **RANGED), f64(5, -2, 0)),
    "logistic": (lambda: lk.DiscretizedLogistic((3,), 2, **RANGED), f64(5, -2, 0)),
    "pixels": (
        lambda: lk.WarpedPixels((3,), 2, -2, 5, decoder=SMALL, histogram=torch.arange(1.0, 9.0)),
        f64(5, -2, 0),
    ),
    "logistic mixture": (
        lambda: lk.DiscretizedLogistic((3,), 2, components=2, **RANGED),
        f64(5, -2, 0),
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_missing_element_drops_out_of_the_density_and_of_its_gradient(name: str) -> None:
    make, x = PARTS[name]
    part, z = wild(make(), 0.3), torch.randn(2, 4, 2, requires_grad=True)
    gap = x.clone()
    gap[1] = math.nan
    d = part(z)
    kept = d.base_dist.log_prob(x)[..., [0, 2]].sum(-1)
    log_p = d.log_prob(gap.expand(4, 3))
    torch.testing.assert_close(log_p, kept, rtol=1e-12, atol=1e-12)
    parameters = [z, *part.decoder.parameters()]
    # the tolerance is that of float64: the same terms in another order
    torch.testing.assert_close(
        torch.autograd.grad(log_p.sum(), parameters, retain_graph=True),
        torch.autograd.grad(kept.sum(), parameters),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("name", PARTS)
def test_expanding_and_repeating_data_change_nothing(name: str) -> None:
    make, x = PARTS[name]
    d = wild(make(), 0.3)(torch.randn(4, 2))
    # to rounding: a vectorised function is not the same, in the last bit, at every place of a
    # tensor
    close = partial(torch.testing.assert_close, rtol=1e-13, atol=1e-13)
    close(d.expand((5, 4)).log_prob(x), d.log_prob(x).expand(5, 4))
    close(d.expand((5, 4)).mean, d.mean.expand(5, 4, 3))
    close(d.log_prob(x.expand(6, 1, 3)), d.log_prob(x).expand(6, 4))
    assert d.sample((6,)).shape == (6, 4, 3)


@pytest.mark.parametrize("name", PARTS)
def test_a_stored_part_is_loaded_into_one_built_without_statistics(name: str) -> None:
    make, x = PARTS[name]
    part, blank = wild(make(), 0.3), make()
    for key, value in blank.state_dict().items():
        value.fill_(True if key == "present" else 0.0)
    blank.load_state_dict(part.state_dict())
    z = torch.randn(4, 2)
    assert torch.equal(blank(z).log_prob(x), part(z).log_prob(x))


def test_levels_that_an_element_lacks_are_stored() -> None:
    part = wild(lk.Ordinal((3,), 2, 0, 3, SMALL, log_frequencies=FREQUENCIES), 0.3)
    blank = lk.Ordinal((3,), 2, 0, 3, SMALL)
    blank.load_state_dict(part.state_dict())
    z, x = (
        torch.randn(4, 2),
        torch.tensor([[3.0, 2.0, 0.0], [3.0, 3.0, 1.0], [0.0, 1.0, 2.0], [1.0, 0.0, 3.0]]),
    )
    assert torch.equal(blank(z).base_dist.log_prob(x), part(z).base_dist.log_prob(x))
    assert blank(z).base_dist.log_prob(x)[1:, 2].tolist() == [-INF] * 3


def test_ranges_of_the_elements_move_with_the_part_and_are_not_stored() -> None:
    part = lk.DiscretizedLogistic((3,), 2, LOW, HIGH, decoder=SMALL)
    assert part.to(torch.float32).low.dtype == torch.float32
    assert {"low", "high"}.isdisjoint(part.state_dict())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: lk.NegativeBinomial((2,), 1, "per_gene"),
            "unknown dispersion 'per_gene': 'per_feature' or 'per_datum'",
        ),
        (
            lambda: lk.LogNormal((2,), 1, "per_pixel"),
            "unknown scale 'per_pixel': 'per_feature', 'shared', 'per_datum' or 'per_entry'",
        ),
        (lambda: lk.StudentT((2,), 1, "each"), "unknown scale 'each'"),
        (lambda: lk.Poisson((2,), 1, library=True), "library=True needs a context"),
        (
            lambda: lk.ZeroInflatedNegativeBinomial((2,), 1, library=True),
            "library=True needs a context",
        ),
        (
            lambda: lk.Poisson((2,), 1, True, lambda i, o, c: Linear(i, o), 1)(torch.zeros(1, 1)),
            "is not for the model to guess",
        ),
        (
            lambda: lk.Ordinal((), 1, 0, 2, log_frequencies=f64(0.0, -INF, 0.0)),
            "a level of frequency zero lies below one",
        ),
        (
            lambda: lk.Ordinal((), 1, 0, 2, log_frequencies=f64(-INF, 0.0, 0.0)),
            "a level of frequency zero lies below one",
        ),
    ],
)
def test_refuses(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("r", [0.01, 3.0, 14.0, 1e5])
@pytest.mark.parametrize("x", [1.1e8, 1e12, 1e15, 1e17])
def test_large_counts_have_no_rounding_noise(x: float, r: float) -> None:
    """A negative binomial of a large mean is a gamma distribution on integers, but for terms of the
    order of r / mean.
    """
    for share in (0.9, 1.0, 1.02):
        mean = x / share
        d = NegativeBinomial(torch.tensor([math.log(mean)]), torch.tensor([math.log(r)]))
        ours = d.log_prob(torch.tensor([x]))
        exact = torch.distributions.Gamma(r, r / torch.tensor([math.exp(math.log(mean))])).log_prob(
            torch.tensor([x])
        )
        # a mean known to 1e-16 of its logarithm, 39, is known to 7e-15 of itself: times r (x -
        # mean) / mean
        assert float(ours) == pytest.approx(float(exact), abs=2e-8 + 10 * r * (1 + r) / mean)


def test_the_two_formulas_for_counts_agree_where_they_meet() -> None:
    log_mean, log_r = torch.linspace(18, 19, 5), torch.linspace(-4, 12, 9)[:, None]
    below = NegativeBinomial(log_mean, log_r).log_prob(torch.tensor(1e8))
    above = NegativeBinomial(log_mean, log_r).log_prob(torch.tensor(1e8 + 1))
    # of log p from a count to the next
    slope = (1e8 + torch.exp(log_r)) / 1e8 - 1 - torch.exp(log_r) / log_mean.exp()
    torch.testing.assert_close(above - below, slope - 1 / 1e8, rtol=1e-2, atol=3e-6)


def test_a_rate_beyond_what_floats_count_is_that_limit() -> None:
    x = Poisson(torch.tensor([40.0, 800.0])).sample((50,))
    assert bool((x == 2.0**53).all())
