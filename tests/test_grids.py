"""Numbers on a grid: normalised, never above their precision, values that repeat as often as in
the data, and what is chosen for them predicts new rows.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from ztest import assert_mean

import taut
from taut import likelihoods
from taut.data import prepare
from taut.data.tables.kind import Grid
from taut.distributions import OUTSIDE
from taut.distributions.grids import Gridded, _background, _Cells, _often, fit_cells
from taut.distributions.warps import Warped, heights, inverse, padded
from taut.evidence.baseline import marginals_of_columns

RNG = np.random.default_rng(0)
PLACES = [(0.0, 1.0), (2.5, 0.3), (-3.0, 0.7), (-9.0, 0.05)]
INF = math.inf
DATA = {  # numbers of cells, the first and the last
    "incomes": (np.where(RNG.random(2000) < 0.4, 0, (9 + RNG.normal(size=2000)) ** 5), 0, INF),
    "round": (np.where(RNG.random(2000) < 0.5, RNG.integers(1, 9, 2000) * 1000,
                       RNG.integers(1, 9000, 2000)), -INF, INF),
    "both signs": (2000 * RNG.standard_t(2, 2000), -INF, INF),
    "few": (RNG.choice([3, 5, 70_000], 900), 0, INF),
    "bounded": (RNG.integers(0, 101, 3000), 0, 100),
    "single": (np.array([4.0, 4.0]), -INF, INF),
    "all different": (RNG.choice(10**6, 2000, replace=False), 0, INF),
}  # fmt: skip


def cells_of(name: str, loc: float = 0.0, scale: float = 1.0) -> tuple[Warped, np.ndarray]:
    values, low, high = DATA[name]
    values = np.round(values).astype(float)
    knots = torch.from_numpy(fit_cells(values, (low, high)))[None]
    ends = (torch.tensor([float(end)]) for end in (low, high))
    parts = torch.tensor([loc]), torch.tensor([scale])
    return Warped(*parts, knots, *ends, whole=True, cut=False, bend=True), values


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize(("loc", "scale"), PLACES)
def test_the_cells_of_a_range_sum_to_its_probability(name: str, loc: float, scale: float) -> None:
    d, values = cells_of(name, loc, scale)
    middle = float(np.floor(np.median(values)))
    n = torch.arange(max(float(d.low), middle - 20_000), min(float(d.high), middle + 20_000) + 1)
    total = float(d.log_prob(n[:, None]).exp().sum())
    at = heights(n[[0, -1], None], d.knots, True, True)
    last = torch.where(n[-1] < d.high, torch.sigmoid((at.upper[1] - loc) / scale), 1.0)
    first = torch.where(n[0] > d.low, torch.sigmoid((at.lower[0] - loc) / scale), 0.0)
    ends = OUTSIDE if math.isfinite(float(d.low)) or math.isfinite(float(d.high)) else 0.0
    assert total == pytest.approx(float((last - first) * (1 - ends) * (1 - OUTSIDE)), abs=1e-10)


@pytest.mark.parametrize("name", DATA)
def test_the_inverse_of_a_warp_is_its_inverse_and_its_slope_that_of_autograd(name: str) -> None:
    d, values = cells_of(name)
    x = torch.tensor(np.append(values, [values.max() + 3e5]))[:, None] + 0.2
    x.requires_grad_()
    at = heights(x, d.knots, False, True)
    (slope,) = torch.autograd.grad(at.lower.sum(), x)
    torch.testing.assert_close(at.log_slope, slope.log(), rtol=1e-10, atol=1e-10)
    back = inverse(at.lower.detach(), d.knots, True)
    torch.testing.assert_close(back, x.detach(), rtol=1e-9, atol=1e-7)


def test_single_entries_have_the_distributions_that_they_have_in_their_rows() -> None:
    parts = [cells_of(name, loc) for name, loc in (("incomes", 0.3), ("bounded", -0.5))]
    most = max(d.knots.shape[-1] for d, _ in parts)
    knots = torch.cat([padded(d.knots[0].numpy(), most)[None] for d, _ in parts])
    low, high = (torch.cat([getattr(d, end) for d, _ in parts]) for end in ("low", "high"))
    loc, scale = torch.randn(3, 5, 2), torch.rand(3, 5, 2) + 0.5
    cells = Warped(loc, scale, knots, low, high, whole=True, cut=False, bend=True)
    atoms = torch.tensor([[0.0], [INF]])
    whole = Gridded(cells, torch.tensor([1.0, -7.0]), torch.tensor([0.5, 10.0]), atoms)
    rows, columns = torch.tensor([4, 0, 2, 2]), torch.tensor([1, 0, 1, 0])
    some, x = whole.at(rows, columns), whole.sample()
    assert torch.equal(some.mean, whole.mean[:, rows, columns])
    assert torch.equal(some.log_prob(x[:, rows, columns]), whole.log_prob(x)[:, rows, columns])


def test_a_mixture_of_equal_parts_has_their_mean_and_one_of_others_theirs() -> None:
    """32 equal parts give each of the 64 midpoints as often. Of parts that differ each gives 4,
    which in 64 parts are within a tenth of the spread of one.
    """
    d, _ = cells_of("incomes", 0.3)

    def made(loc: Tensor) -> Gridded:
        cells = Warped(loc, torch.ones_like(loc), d.knots, d.low, d.high, True, False, True)
        return Gridded(cells, torch.tensor([5.0]), torch.tensor([2.0]), torch.tensor([[INF]]))

    equal = made(torch.full((32, 1), 0.3))
    found = equal.mean_of_mixture(torch.full((32, 1), 1 / 32))
    torch.testing.assert_close(found, equal.mean[0], rtol=1e-10, atol=0)
    parts, share = made(torch.linspace(-0.5, 0.5, 64)[:, None]), torch.randn(64, 1).softmax(0)
    whole = (share * parts.mean).sum(0)
    spread = float(parts.sample(torch.Size((100,))).std())
    assert abs(float(parts.mean_of_mixture(share) - whole)) < 0.1 * spread


@pytest.mark.parametrize("name", DATA)
def test_values_that_repeat_are_as_frequent_as_in_the_data(name: str) -> None:
    d, values = cells_of(name)
    seen, counts = np.unique(values, return_counts=True)
    often = counts >= 0.05 * len(values)
    p = d.log_prob(torch.from_numpy(seen[often])[:, None]).exp().numpy()[:, 0]
    # Less a discount of at most one row, and half a row for each tail.
    np.testing.assert_allclose(p, counts[often] / len(values), atol=2.5 / len(values))


def test_the_background_ends_with_the_last_cells_that_were_seen() -> None:
    cells, free = np.arange(3.0, 50.0), (-np.inf, np.inf)
    edges, shares = _background(cells, cells, np.ones(47, int), free)
    assert (edges[0], edges[-1], shares[0], shares[-1]) == (2.5, 49.5, 0.0, 1.0)
    some = cells[2:-2]  # those at the ends have a mass of their own
    edges, _ = _background(cells, some, np.ones(43, int), free)
    assert edges[:2].tolist() == [2.5, 4.5]
    assert edges[-2:].tolist() == [47.5, 49.5]


def test_discounts_go_to_the_background() -> None:
    """Of values that come twice each has two rows less the discount, of all rows and one more."""
    r = np.random.default_rng(1)
    values = r.choice(10**6, 1000, replace=False).astype(float)
    twice = np.sort(values[:500])
    seen, counts = np.unique(np.concatenate([values, twice]), return_counts=True)
    made = _Cells(seen, counts, (0, INF), 2)
    assert made.discount > 0
    parts = torch.zeros(1), torch.ones(1), torch.from_numpy(made.knots())[None]
    ends = torch.tensor([0.0]), torch.tensor([INF])
    p = Warped(*parts, *ends, True, False, True).log_prob(torch.from_numpy(twice)[:, None]).exp()
    assert float(p.mean()) == pytest.approx((2 - made.discount) / 1501, rel=0.01)


@pytest.mark.parametrize("name", ["incomes", "few", "all different", "round"])
def test_the_tail_is_that_of_the_data_also_where_the_largest_value_repeats(name: str) -> None:
    d, values = cells_of(name)
    beyond = torch.tensor([[np.floor(1.5 * values.max())]])
    assert float(d.log_prob(beyond)) > -40


def test_the_density_is_never_above_the_precision_and_atoms_are_apart() -> None:
    d, _ = cells_of("incomes", 1.0, 1e-3)
    made = Gridded(d, torch.tensor([0.0]), torch.tensor([0.01]), torch.tensor([[0.0]]))
    x = torch.cat([torch.arange(0, 10**4) / 100, torch.linspace(0, 1000, 999)])[:, None]
    assert float(made.log_prob(x).max()) <= math.log(100) + 1e-12
    atom, near, off = (float(made.log_prob(torch.tensor([[v]]))) for v in (0.0, 1e-9, 0.003))
    assert atom == near == pytest.approx(float(d.log_prob(torch.zeros(1, 1))), abs=1e-6)
    assert off == pytest.approx(atom + math.log(OUTSIDE) + math.log(100), abs=1e-6)


def test_what_is_chosen_predicts_new_rows_as_well_as_any_choice() -> None:
    """Round numbers get a mass each, numbers that all differ a smooth density."""
    for name in ("round", "all different", "incomes"):
        values, low, high = DATA[name]
        values = np.round(values).astype(float)
        train, new = values[::2], torch.from_numpy(values[1::2])[:, None]
        seen, counts = np.unique(train, return_counts=True)

        def mean(knots: np.ndarray, low: float = low, new: Tensor = new) -> float:
            parts = torch.zeros(1), torch.ones(1), torch.from_numpy(knots)[None]
            ends = torch.tensor([float(low)]), torch.tensor([INF])
            return float(Warped(*parts, *ends, True, False, True).log_prob(new).mean())

        tries = [_Cells(seen, counts, (low, high), n).knots() for n in _often(counts)]
        chosen = mean(fit_cells(train, (low, high)))
        assert chosen > max(map(mean, tries)) - 0.05
        masses = np.count_nonzero(np.isin(np.arange(1000, 9000, 1000) - 0.5,
                                          fit_cells(train, (low, high))[0]))  # fmt: skip
        assert masses == 8 if name == "round" else True


def test_samples_follow_the_masses() -> None:
    d, values = cells_of("round", 0.4, 0.8)
    made = Gridded(d, torch.tensor([5.0]), torch.tensor([0.25]), torch.empty(1, 0))
    drawn = made.sample(torch.Size([20_000]))[:, 0]
    assert bool((((drawn - 5) / 0.25) % 1 == 0).all())
    seen, counts = np.unique(values, return_counts=True)
    for n in seen[counts.argsort()[-5:]]:
        x = 5 + 0.25 * n
        mass = float(made.log_prob(torch.tensor([[x]])).exp()) * 0.25
        assert_mean((drawn == x).double(), mass)


def test_single_precision_keeps_the_probabilities() -> None:
    for name in DATA:
        d, values = cells_of(name, 0.3, 0.7)
        parts = (t.float() for t in (d.loc, d.scale, d.knots, d.low, d.high))
        single = Warped(*parts, True, False, True)
        x = torch.from_numpy(np.unique(values))[:, None]
        off = single.log_prob(x.float()).double() - d.log_prob(x)
        # A mass of 1e-5 is a difference of heights that are rounded at 2e-7.
        assert float(off.abs().max()) < 0.05, name


def test_a_decoder_of_zero_is_the_marginal_and_a_folder_gives_it_back() -> None:
    values = np.round(DATA["round"][0]).astype(float)
    knots = torch.from_numpy(fit_cells(values, (-INF, INF)))[None]
    zero = likelihoods.WarpedGrid((1,), 2, [Grid(step=0.5)], decoder=taut.Linear, cells=knots)
    with torch.no_grad():
        for parameter in zero.parameters():
            parameter.zero_()
    x = torch.from_numpy(values)[:, None] / 2
    d, _ = cells_of("round")
    expected = d.log_prob(2 * x).sum(-1) + math.log(2)
    torch.testing.assert_close(zero(torch.randn(1, 2)).log_prob(x), expected)
    other = likelihoods.WarpedGrid((1,), 2, [Grid(step=0.5)], decoder=taut.Linear)
    assert other.knots.shape != zero.knots.shape
    other.load_state_dict(zero.state_dict())
    torch.testing.assert_close(other(torch.zeros(1, 2)).log_prob(x), expected)


@pytest.mark.parametrize("decimals", [True, False])
def test_a_grid_that_is_mostly_empty_keeps_the_frequencies_of_what_repeats(
    decimals: bool, tmp_path: Path
) -> None:
    """Alcohol in tenths of a per cent, and a few wines with four decimals more (or hundreds, and a
    few odd numbers): told as 50,000 levels, each value had a thousandth of its frequency. What a
    held-out value may cost is the entropy of the 51 values, which is log 51, and a little.
    """
    unit = 1.0 if decimals else 1000.0
    generator = np.random.default_rng(1)
    values = generator.integers(90, 141, 4000) / 10 * unit
    values[::300] += 0.0333 * unit if decimals else 37.0
    lines = [f"{v:.4f}".rstrip("0").rstrip(".") for v in values]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["alcohol,b", *(f"{v},{i % 9}" for i, v in enumerate(lines))]) + "\n")
    data = prepare(path)
    column = data.schema.modelled[0]
    assert column.kind != "levels"
    found = marginals_of_columns(data, data.test)
    assert found is not None
    nats = float(found[:, 0].mean()) + math.log(column.step)
    assert -math.log(51) - 0.35 < nats < -math.log(51) + 0.1
