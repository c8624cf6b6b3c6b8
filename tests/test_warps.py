"""Warped logistics.

Normalised for any location and scale, the marginal of the data at zero, samples that follow the
density.
"""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from ztest import assert_mean

from taut import likelihoods
from taut.data.tables.kind import Grid
from taut.distributions import OUTSIDE, warps
from taut.distributions.warps import Warped, fit_knots, padded
from taut.networks import positive

RNG = np.random.default_rng(0)
PLACES = [(0.0, 1.0), (2.5, 0.3), (-3.0, 0.7), (-9.0, 0.05)]


def spiked() -> np.ndarray:
    return np.where(RNG.random(1500) < 0.7, 0, RNG.gamma(1, 3, 1500))


def capped() -> np.ndarray:
    return np.minimum(10, 8 + 3 * RNG.normal(size=1500))


REALS = {  # values, atoms, support
    "zeros": (spiked(), [0.0], (0.0, math.inf)),
    "capped": (capped(), [10.0], (-math.inf, 10.0)),
    "both": (np.clip(RNG.normal(size=900), -1, 1), [-1.0, 1.0], (-1.0, 1.0)),
    "an atom inside": (
        np.where(RNG.random(900) < 0.3, 2.0, 5 * RNG.normal(size=900)),
        [2.0],
        (-math.inf, math.inf),
    ),
    "cut": (100 * RNG.random(900), [], (0.0, 100.0)),
    "skewed": (
        np.where(RNG.random(900) < 0.2, 0, np.exp(10 + 2 * RNG.normal(size=900))),
        [0.0],
        (0.0, math.inf),
    ),
    "plain": (RNG.standard_t(3, 900), [], (-math.inf, math.inf)),
    "few": (np.array([1.0, 2.0]), [], (-math.inf, math.inf)),
    "one": (np.array([3.0]), [], (-math.inf, math.inf)),
}
LEVELS = {
    "uniform": (RNG.choice(37, 1500), (0.0, 36.0)),
    "two peaks": (np.where(RNG.random(900) < 0.5, 2, 17), (0.0, 20.0)),
    "two": (RNG.choice(2, 60), (0.0, 1.0)),
    "wide": (RNG.choice(11_000, 1500), (0.0, 12_000.0)),
    "few in many": (RNG.choice([0, 6, 12, 25, 1000], 1500), (0.0, 1000.0)),
    "zeros": (np.where(RNG.random(900) < 0.8, 0, RNG.poisson(300, 900)), (0.0, 600.0)),
    "from 3": (3 + np.random.default_rng(1).choice(5, 300), (3.0, 7.0)),  # a lowest level counts
}


def made(
    name: str, loc: float, scale: float, whole: bool = False
) -> tuple[Warped, np.ndarray, list[float]]:
    if whole:
        values, support = LEVELS[name]
        atoms: list[float] = []
    else:
        values, atoms, support = REALS[name]
    knots = padded(fit_knots(values.astype(float), np.array(atoms), support, whole))[None]
    low, high = (torch.tensor([end]) for end in support)
    cut = not whole and bool(torch.isfinite(torch.tensor(support)).any())
    return (
        Warped(torch.tensor([loc]), torch.tensor([scale]), knots, low, high, whole, cut),
        values,
        atoms,
    )


def integral(d: Warped, low: float, high: float) -> float:
    """By Gauss and Legendre on each segment, the tails in steps that grow up to 1e40 units and
    more.
    """
    x = d.knots[0, 0]
    x = x[x.isfinite()].unique()
    steps = torch.logspace(-3, 80 if d.scale < 1 else 40, 1500)
    fine = torch.linspace(0, 1, 33)  # a scale of 0.05 is a sharp peak in a wide segment
    edges = [(x[:-1, None] + (x[1:] - x[:-1])[:, None] * fine).flatten()]
    if high == math.inf:
        edges.append(x[-1] + (x[-1] - x[0]) * steps)
    if low == -math.inf:
        edges.append(x[0] - (x[-1] - x[0]) * steps)
    nodes, weights = (torch.tensor(t) for t in np.polynomial.legendre.leggauss(64))
    cells = torch.cat(edges).unique()
    a, b = cells[:-1, None], cells[1:, None]
    points = (a + b) / 2 + (b - a) / 2 * nodes
    density = d.log_prob(points.reshape(-1, 1))[:, 0].exp().reshape(points.shape)
    return float((density * weights * (b - a) / 2).sum())


@pytest.mark.parametrize("name", REALS)
@pytest.mark.parametrize(("loc", "scale"), PLACES)
def test_atoms_and_density_together_are_one(name: str, loc: float, scale: float) -> None:
    d, _, atoms = made(name, loc, scale)
    masses = sum(float(d.log_prob(torch.tensor([[a]])).exp()) for a in atoms)
    left = OUTSIDE if math.isfinite(float(d.low)) or math.isfinite(float(d.high)) else 0.0
    inside = masses + integral(d, float(d.low), float(d.high))
    assert inside == pytest.approx(1 - left, abs=1e-10)


def test_every_level_has_its_own_frequency_only_where_enough_rows_say_it() -> None:
    """Thirty rows say nothing about 250 levels each; a thousand say it about ten."""
    rows = np.random.default_rng(1)
    few = fit_knots(rows.choice(250, 30).astype(float), np.array([]), (0.0, 249.0), True)
    many = fit_knots(rows.choice(10, 1000).astype(float), np.array([]), (0.0, 9.0), True)
    assert few.shape[1] < 30
    assert many[0].tolist() == [-0.5, *(np.arange(9) + 0.5), 9.5]


def usual(d: Warped) -> float:
    """Returns the mean by a million quantiles, evenly spaced in the logit."""
    logit = torch.linspace(-34, 34, 1_000_001)[:, None]
    weight = torch.sigmoid(logit) * torch.sigmoid(-logit)
    x = warps.inverse(d.loc + d.scale * logit, d.knots, d.bend)
    x = torch.minimum(torch.maximum(torch.ceil(x - 0.5) if d.whole else x, d.low), d.high)
    return float((weight * x).sum() / weight.sum())


RARE = {
    "one in a hundred": (np.where(RNG.random(3000) < 0.01, 2000, 0), (0.0, 2000.0)),
    "a rare top": (np.where(RNG.random(3000) < 0.01, 255, RNG.choice(10, 3000)), (0.0, 255.0)),
    "gains": (np.where(RNG.random(3000) < 0.05, RNG.geometric(1e-3, 3000), 0), (0.0, 99999.0)),
}


@pytest.mark.parametrize("name", RARE)
@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1.0), (1.0, 0.5), (-1.0, 0.5), (2.0, 0.3)])
def test_the_mean_holds_what_is_rare(name: str, loc: float, scale: float) -> None:
    """A level of probability 1/200 was in none of 64 equal parts, and the mean 0. Now each part of
    a tail has at most a sixth of what lies beyond it, and is taken inside: 9 % of a single jump.
    """
    values, ends = RARE[name]
    knots = padded(fit_knots(values.astype(float), np.array([]), ends, True))[None]
    low, high = (torch.tensor([end]) for end in ends)
    place = torch.tensor([loc]), torch.tensor([scale])
    d = Warped(*place, knots, low, high, True, False)
    expected = usual(d)
    assert float(d.mean) == pytest.approx(expected, rel=0.09)
    # of a mixture of such, and of others that have none of it
    locs = torch.tensor([loc, -30.0]).repeat(32)[:, None]
    both = Warped(locs, place[1].expand(64, 1), knots, low, high, True, False)
    share = torch.full((64, 1), 1 / 64)
    alone = usual(Warped(locs[1], place[1], knots, low, high, True, False))
    found = float(both.mean_of_mixture(share))
    assert found == pytest.approx((expected + alone) / 2, rel=0.09)


@pytest.mark.parametrize("name", ["zeros", "capped", "both", "an atom inside", "cut", "plain"])
@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1.0), (1.0, 0.5), (-1.0, 0.5)])
def test_the_mean_of_reals(name: str, loc: float, scale: float) -> None:
    """Within a hundredth of the spread of the values."""
    d, values, _ = made(name, loc, scale, False)
    if d.cut:
        expected = float(d.quantile((torch.arange(1e6)[:, None] + 0.5) / 1e6).mean())
    else:
        expected = usual(d)
    assert float(d.mean) == pytest.approx(expected, abs=0.01 * values.std())


def test_a_tail_that_has_no_mean_counts_up_to_twice_the_last_knot() -> None:
    knots = torch.tensor([[[1.0, 2.0, 4.0], [-1.0, 0.0, 1.0]]])
    free = torch.full((1,), math.inf)
    d = Warped(torch.zeros(1), torch.full((1,), 2.0), knots, -free, free, False, False)
    u = (torch.arange(1e6)[:, None] + 0.5) / 1e6
    top = torch.maximum(torch.tensor(8.0), d.quantile(torch.tensor([1 - 1 / 128])))
    expected = float(torch.minimum(d.quantile(u), top).mean())
    assert float(d.mean) == pytest.approx(expected, rel=0.01)


def test_parts_of_the_probability_are_all_of_it_and_exact_for_exponential_tails() -> None:
    p, weight = (torch.cat(part) for part in zip(*warps.parts(torch.zeros(1)), strict=True))
    assert len(warps.parts(p)) == warps.MIDPOINTS
    assert float(weight.sum()) == pytest.approx(warps.MIDPOINTS, abs=1e-12)
    # the mean of -log(1 - u)
    assert float(weight @ -torch.log1p(-p)) == pytest.approx(warps.MIDPOINTS, rel=1e-4)


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize(("loc", "scale"), PLACES)
def test_levels_sum_to_one_and_have_a_mean(name: str, loc: float, scale: float) -> None:
    d, _, _ = made(name, loc, scale, True)
    levels = torch.arange(float(d.low), float(d.high) + 1)
    # A share lies beyond the ends, and the same share of all between the levels.
    p = d.log_prob(levels[:, None])[:, 0].exp() / (1 - OUTSIDE) ** 2
    assert float(p.sum()) == pytest.approx(1, abs=1e-10)
    distance = torch.arange(1.0, 1e4)[:, None]
    beyond = [
        float(d.log_prob(end + step).exp().sum())
        for end, step in ((d.low, -distance), (d.high, distance))
    ]
    # What 4 / (d (d + 1) (d + 2)) leaves from d on is 2 / (d (d + 1)).
    assert sum(beyond) / (1 - OUTSIDE) == pytest.approx(OUTSIDE * (1 - 2e-8), rel=1e-10)
    between = d.log_prob(levels[:, None] + 0.25)[:, 0].exp()
    assert float(between.sum()) == pytest.approx(OUTSIDE * (1 - OUTSIDE), rel=1e-10)
    close = 1e-9 if len(levels) < warps.FEW_LEVELS else 0.01
    assert float(d.mean) == pytest.approx(float(p @ levels), rel=close)


@pytest.mark.parametrize("name", REALS)
def test_at_zero_it_is_the_marginal_of_the_data(name: str) -> None:
    d, values, atoms = made(name, 0.0, 1.0)
    for atom in atoms:  # the shares are (rank + 1/2) / (n + 1)
        assert float(d.log_prob(torch.tensor([[atom]])).exp()) == pytest.approx(
            (values == atom).mean(), abs=1.5 / len(values)
        )
    if (
        len(values) > 500
        # knots are quantiles: a quarter of the data lies below the first quartile, but for half a
        # segment
    ):
        for p in (0.25, 0.5, 0.75):
            x = float(d.quantile(torch.tensor([p])))
            assert (values < x).mean() - 0.02 <= p <= (values <= x).mean() + 0.02


def test_levels_that_are_all_seen_have_their_frequencies() -> None:
    d, values, _ = made("uniform", 0.0, 1.0, True)
    counts = np.bincount(values, minlength=37)
    # no level was seen once: the unseen share one count
    expected = torch.tensor((counts + 1 / 37) / 1501)
    p = d.log_prob(torch.arange(37.0)[:, None])[:, 0].exp() / (1 - OUTSIDE) ** 2
    torch.testing.assert_close(p, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", REALS)
@pytest.mark.parametrize(("loc", "scale"), PLACES[:3])
def test_samples_follow_the_density(name: str, loc: float, scale: float) -> None:
    d, _, atoms = made(name, loc, scale)
    x = d.sample(torch.Size((20_000,)))
    assert bool(d.support.check(x).all())
    for atom in atoms:
        assert_share(x == atom, d.log_prob(torch.tensor([[atom]])).exp()[0])
    for p in (0.1, 0.5, 0.9):  # P(X <= q(p)) = p unless q(p) is an atom
        q = d.quantile(torch.full((1,), p))
        if float(q) not in atoms:
            assert_mean((x <= q).double(), torch.tensor([p]))


@pytest.mark.parametrize("name", LEVELS)
def test_sampled_levels_follow_the_mass(name: str) -> None:
    d, values, _ = made(name, 0.5, 0.6, True)
    x = d.sample(torch.Size((20_000,)))
    for level in np.unique(values)[:5]:
        assert_share(x == level, d.log_prob(torch.tensor([[float(level)]])).exp()[0])


def assert_share(marked: Tensor, expected: Tensor) -> None:
    """What is expected, or not, fewer than 20 times in 20,000 is left out, for there the binomial
    is not normal.
    """
    if 1e-3 < float(expected) < 1 - 1e-3:
        assert_mean(marked.double(), expected)


@pytest.mark.parametrize("name", [*REALS, *LEVELS])
def test_float32_is_the_same_distribution(name: str) -> None:
    for whole, table in ((False, REALS), (True, LEVELS)):
        if name not in table:
            continue
        d, values, _ = made(name, 0.7, 0.5, whole)
        parts = (t.float() for t in (d.loc, d.scale, d.knots, d.low, d.high))
        single = Warped(*parts, d.whole, d.cut)
        # knots that are rounded at 6e-8 of themselves, in segments that may be 1e-5 high
        x = torch.tensor(np.unique(values)[:400, None]).float()
        ours, exact = (
            single.log_prob(x),
            Warped(*(t.double() for t in parts_of(single)), d.whole, d.cut).log_prob(x.double()),
        )
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=2e-2)


def parts_of(d: Warped) -> tuple[Tensor, ...]:
    return d.loc, d.scale, d.knots, d.low, d.high


def test_little_lies_outside_the_ends_and_gradients_are_numbers() -> None:
    loc, scale = torch.zeros(1, requires_grad=True), torch.ones(1, requires_grad=True)
    for name in REALS:
        d, values, atoms = made(name, 0.0, 1.0)
        own = Warped(loc, scale, d.knots, d.low, d.high, False, d.cut)
        if math.isfinite(float(d.high)):
            # A half of Cauchy's distribution as wide as the knots: its middle is one width away.
            far = float(d.knots[0, 0][d.knots[0, 0].isfinite()].diff().sum()) * torch.tan(
                torch.linspace(0, math.pi / 2, 2001)[1:-1]
            )
            density = own.log_prob(d.high + far[:, None])[:, 0].exp().detach()
            ends = 1 + math.isfinite(float(d.low))
            assert float(torch.trapezoid(density, far)) == pytest.approx(OUTSIDE / ends, rel=1e-3)
        x = torch.tensor([*atoms, *values[:50]])[:, None]
        slopes = torch.autograd.grad(own.log_prob(x).sum(), (loc, scale))
        assert all(bool(s.isfinite().all()) for s in slopes), name
        h = 1e-6  # against central differences
        for place, slope in enumerate(slopes):
            moved = [
                Warped(
                    loc + (place == 0) * e,
                    scale + (place == 1) * e,
                    d.knots,
                    d.low,
                    d.high,
                    False,
                    d.cut,
                )
                .log_prob(x)
                .sum()
                for e in (-h, h)
            ]
            assert float(slope) == pytest.approx(
                float((moved[1] - moved[0]).detach()) / (2 * h), rel=1e-5, abs=1e-4
            )


def test_a_compiled_search_says_nothing() -> None:
    """torch writes to stderr, once a program, where the values of a search are not contiguous; its
    compiler had chosen so.
    """
    code = (
        "import torch\n"
        "from torch.fx.experimental.proxy_tensor import make_fx\n"
        "from taut.distributions.warps import _search\n"
        "sizes = (1, 2, 3, 12)\n"
        "tables = [torch.randn(c, 9).sort()[0] for c in sizes]\n"
        "values = [torch.randn(4, 33, c) for c in sizes]\n"
        "def searched(*x):\n"
        "    found = [_search(t, 2 * v + 1, True) for t, v in zip(tables, x)]\n"
        "    return tuple(1.5 * each for each in found)\n"
        "graph = make_fx(searched, tracing_mode='fake', _allow_non_fake_inputs=True)(*values)\n"
        "options = {'cpp_wrapper': True}\n"
        "compiled = torch._inductor.compile(graph, values, options=options)\n"
        "pairs = zip(compiled(*values), searched(*values))\n"
        "print(all(torch.equal(a, b) for a, b in pairs))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_without_knots_it_is_the_standard_logistic_distribution() -> None:
    likelihood, z = likelihoods.WarpedLogistic((3,), 2), torch.randn(4, 5, 2)
    x = torch.linspace(-0.9, 0.9, 15).view(5, 3)
    made = likelihood(z)
    loc, scale = made.base_dist.loc, made.base_dist.scale
    y = (x - loc) / scale
    expected = functional.logsigmoid(y) + functional.logsigmoid(-y) - scale.log()
    torch.testing.assert_close(made.log_prob(x), expected.sum(-1), rtol=0, atol=1e-10)


def test_normal_scores_are_the_logit_of_the_middle_of_the_probability() -> None:
    """Of levels by the probabilities of their marginal, of the standard logistic distribution, and
    of cells of a grid; a gap stays a gap.
    """
    levels = likelihoods.WarpedLevels((1,), 2, low=2, high=6).double()
    ends = (levels.low, levels.high)
    zero = torch.zeros(1, dtype=torch.float64)
    marginal = Warped(zero, zero + 1, levels.knots, *ends, True, False, False)
    x = torch.arange(2.0, 7.0, dtype=torch.float64)[:, None]
    p = marginal.log_prob(x).exp()
    expected = (p.cumsum(0) - p / 2).logit() / 1.8
    # the knots were made in float32
    torch.testing.assert_close(levels.scores(x), expected, rtol=0.0, atol=1e-6)
    assert levels.scores(torch.full((1, 1), math.nan)).isnan().all()
    plain = likelihoods.WarpedLogistic((1,), 2).double()
    x = torch.tensor([[-3.0], [0.0], [2.5]], dtype=torch.float64)
    torch.testing.assert_close(plain.scores(x), x / 1.8, rtol=0.0, atol=1e-10)
    scale = torch.tensor([0.05, 0.4, 1.0], dtype=torch.float64)
    raw = plain.start_scale(scale)
    found = plain.min_scale + (1 - plain.min_scale) * positive(raw)
    torch.testing.assert_close(found, scale, rtol=1e-10, atol=0.0)
    grids = [Grid(start=10.0, step=0.5)]
    grid = likelihoods.WarpedGrid((1,), 2, grids).double()
    cells = likelihoods.WarpedGrid((1,), 2).double()
    n = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    torch.testing.assert_close(grid.scores(10 + 0.5 * n), cells.scores(n), rtol=0.0, atol=1e-10)
    assert float(cells.scores(n).diff(dim=0).min()) > 0


@pytest.mark.parametrize("low", [-math.inf, -1.0])
def test_the_gradient_of_a_value_is_a_number_inside_and_beyond_the_ends(low: float) -> None:
    made = likelihoods.WarpedLogistic((1,), 2, low=torch.tensor([low]), high=torch.tensor([9.0]))
    zero = torch.zeros(1, dtype=torch.float64)
    given = (made.knots.double(), made.low.double(), made.high.double(), False, made.cut, True)
    distribution = Warped(zero + 0.3, zero + 1.2, *given)
    x = torch.tensor([[2.0], [-3.0], [11.0]], dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(distribution.log_prob(x).sum(), x)
    with torch.no_grad():
        ends = [distribution.log_prob(x + step) for step in (1e-6, -1e-6)]
    torch.testing.assert_close(found, (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-8)
