"""Mixtures and hidden trees against sums over all their states, to rounding."""

from __future__ import annotations

import itertools
import math

import instances
import numpy as np
import pytest
import torch
from test_instances import check_measures
from torch import Tensor
from ztest import assert_mean

import taut
from taut.build.model import describe_part
from taut.data.tables.kinds import KINDS
from taut.distributions import OUTSIDE, warps
from taut.distributions.trees import CategoricalTree, Tree, downward, upward
from taut.models import cells, emissions, structure, trees
from taut.models.exact import ExactModel
from taut.system.errors import UsageError
from taut.use import tasks

MODELS = (taut.Mixture, taut.HiddenTree)
EXACT = {"rtol": 0, "atol": 1e-10}


def gappy(n: int) -> Tensor:
    """Returns a column of each kind, of which a fifth is missing; the first row wholly. Dates are
    on a grid, so that common ones have cells.
    """
    x = instances.columns(n)
    date = instances.KINDS.index("date")
    x[:, date] = x[:, date].round(decimals=1)
    x[torch.rand_like(x) < 0.2] = torch.nan
    x[0] = torch.nan
    return x


def fitted(kind: type, num_states: int = 2) -> ExactModel:
    """Returns a model of a column of each kind after three steps of EM on a hundred rows."""
    model, x = instances.of_columns(kind, num_states), gappy(100)
    model.begin(x, num_states)
    for _ in range(3):
        model.update(model.expect(x)[1])
    return model.requires_grad_(False)


def every_z(model: ExactModel) -> Tensor:
    prior = model.latent_prior()
    states = range(prior.num_states)
    return torch.tensor(list(itertools.product(states, repeat=prior.event_shape[0]))).double()


def enumerated(model: ExactModel, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns every z, (Z, n), its log p(z), and log p(x, z), (Z, B)."""
    z = every_z(model)
    log_prior = model.latent_prior().log_prob(z)
    each = z[:, None].expand(-1, len(x), -1)
    return z, log_prior, log_prior[:, None] + model.decode(each).log_prob(x)


@pytest.mark.parametrize("kind", MODELS)
def test_log_p_and_the_posterior_are_sums_over_all_states(kind: type) -> None:
    model, x = fitted(kind), gappy(9)
    z, log_prior, joint = enumerated(model, x)
    log_p = joint.logsumexp(0).detach()
    torch.testing.assert_close(log_prior.logsumexp(0), torch.tensor(0.0), **EXACT)
    torch.testing.assert_close(model.log_prob(x), log_p, **EXACT)
    assert float(log_p[0]) == pytest.approx(0, abs=1e-10)  # all missing
    q, share = model.encode(x), joint - log_p
    common = model._terms(x).common.sum(0)
    torch.testing.assert_close(q.log_normalizer + common, log_p, **EXACT)
    each = z[:, None].expand(-1, len(x), -1)
    torch.testing.assert_close(q.log_prob(each), share, **EXACT)
    hot = torch.nn.functional.one_hot(z.long(), 2).double()  # (Z, n, S)
    torch.testing.assert_close(q.marginals, torch.einsum("zb,zns->bns", share.exp(), hot), **EXACT)
    torch.testing.assert_close(model.embed(x), q.marginals.flatten(1), **EXACT)
    prior = torch.einsum("z,zns->ns", log_prior.exp(), hot)
    torch.testing.assert_close(model.latent_prior().marginals, prior, **EXACT)
    assert torch.equal(q.mode, z[share.argmax(0)])
    assert torch.equal(model.latent_prior().mode, z[log_prior.argmax()])


@pytest.mark.parametrize("kind", MODELS)
def test_posterior_samples_have_the_posterior_s_frequencies(kind: type) -> None:
    model, x = fitted(kind), gappy(4)
    q = model.encode(x)
    z = q.sample(torch.Size((20_000,)))
    hot = torch.nn.functional.one_hot(z.long(), 2).double()
    assert_mean(hot[..., 0], q.marginals[..., 0])
    if z.shape[-1] > 1:  # of each edge, too
        parents = torch.tensor([max(p, 0) for p in q.tree.parents])
        every, _, joint = enumerated(model, x)
        share = (joint - joint.logsumexp(0)).exp()
        same = (every == every[:, parents]).double()
        assert_mean((z == z[..., parents]).double(), torch.einsum("zb,zn->bn", share, same))


@pytest.mark.parametrize("kind", MODELS)
def test_every_estimator_returns_log_p(kind: type) -> None:
    """Every sample has the same weight: ELBO = IWAE = importance sampling = log p(x)."""
    model, x = fitted(kind), gappy(9)
    log_p = model.log_prob(x)
    draw = model.draw(x, 7)
    torch.testing.assert_close(draw.log_weight, log_p.expand(7, -1), **EXACT)
    evidence = taut.importance(model, x, num_samples=100)
    torch.testing.assert_close(evidence.log_evidence, log_p.detach(), **EXACT)
    torch.testing.assert_close(evidence.elbo, log_p.detach(), **EXACT)
    assert float(evidence.log_evidence_error.abs().max()) < 1e-10
    # equal weights, and samples that differ, or nothing would be known
    several = model.encode(x).marginals.amax(-1).amin(-1) < 0.9
    assert bool(evidence.reliable[several].all())
    assert int(several.sum()) > 4
    for objective in (taut.ELBO(), taut.IWAE(num_samples=5), taut.VIMCO(num_samples=5)):
        torch.testing.assert_close(objective(model, x).value.mean(), log_p.mean(), **EXACT)
    with pytest.raises(ValueError, match="annealing needs continuous latent variables"):
        taut.annealing(model, x, num_chains=2)


@pytest.mark.parametrize("kind", MODELS)
def test_conditionals_scores_and_filled_gaps_are_exact(kind: type) -> None:
    model, x = fitted(kind), gappy(9)
    joint = enumerated(model, x)[2]
    log_p = joint.logsumexp(0)
    given = torch.rand_like(x) < 0.5
    some = enumerated(model, torch.where(given, x, torch.nan))[2].logsumexp(0)
    torch.testing.assert_close(model.log_prob_given(x, given), log_p - some, **EXACT)
    found = taut.cell_scores(model, x)
    for i in range(x.shape[1]):
        without = x.clone()
        without[:, i] = torch.nan
        expected = log_p - enumerated(model, without)[2].logsumexp(0)
        there = ~x[:, i].isnan()
        torch.testing.assert_close(found.value[there, i], expected.detach()[there], **EXACT)
        assert bool(found.value[~there, i].isnan().all())
    assert torch.equal(found.reliable, ~x.isnan())
    # the general way, an entry at a time, is the same
    general = ExactModel.cell_scores(model, x).detach()
    torch.testing.assert_close(found.value, general, equal_nan=True, **EXACT)

    share = (joint - log_p).exp().detach()
    z = every_z(model)[:, None].expand(-1, len(x), -1)
    likelihood = model.decode(z)
    filled = taut.impute(model, x, num_imputations=3)
    assert torch.equal(filled.values[~x.isnan()], x[~x.isnan()])
    assert torch.equal(filled.draws[:, ~x.isnan()], x[~x.isnan()].expand(3, -1))
    assert not bool(filled.draws.isnan().any())
    for i, row in enumerate(instances.COLUMN_KINDS):
        gaps = x[:, i].isnan()
        if not row.num_levels:
            expected = (share * likelihood.mean[..., i]).sum(0).detach()
        else:
            levels = torch.full((row.num_levels, *z.shape[:2], x.shape[1]), torch.nan)
            levels[..., i] = torch.arange(row.num_levels).double()[:, None, None]
            each = torch.stack([likelihood.log_prob(level).exp() for level in levels])
            probs = (each * share).sum(1).detach()  # (levels, B)
            expected = probs.argmax(0).double()
            if row.kind == "ordinal":
                expected = (probs.cumsum(0) < 0.5).sum(0).double()
        torch.testing.assert_close(filled.values[gaps, i], expected[gaps], **EXACT)


@pytest.mark.parametrize("kind", MODELS)
def test_a_gap_is_a_sum_over_what_may_be_there(kind: type) -> None:
    model, x = fitted(kind), instances.columns(5)
    for i, row in enumerate(instances.COLUMN_KINDS):
        if row.num_levels:
            without = x.clone()
            without[:, i] = torch.nan
            each = []
            for level in range(row.num_levels):
                whole = x.clone()
                whole[:, i] = level
                each.append(model.log_prob(whole))
            total = torch.stack(each).logsumexp(0)
            torch.testing.assert_close(model.log_prob(without), total, **EXACT)


@pytest.mark.parametrize("kind", MODELS)
def test_em_never_falls(kind: type) -> None:
    """One batch of all rows and a step of 1: log p of rows and pseudo-counts."""
    model, x = instances.of_columns(kind, 3), gappy(200)
    model.begin(x, 3)
    before = -math.inf
    for number in range(60):
        total, expected = model.expect(x)
        assert total == pytest.approx(float(model.log_prob(x).detach().sum()), abs=1e-8)
        reached = total + float(model.log_prior().detach())
        assert reached >= before - 1e-9 * abs(reached), number
        if number < 5:  # it rises, too
            assert reached > before + 1e-3
        before = reached
        model.update(expected)


def test_expected_counts_are_gradients() -> None:
    """d log p / d log A of an edge is the expected number of rows on it, of a cell likewise."""
    model, x = fitted(taut.HiddenTree, 3).requires_grad_(), gappy(50)
    own, tree = model.emissions, model.tree()
    start, steps = (part.detach().requires_grad_() for part in tree[1:])
    table = own.tables().detach().requires_grad_()
    loc = own.loc
    terms = own.terms(own.see(x), table)
    up = upward(Tree(tree.parents, start, steps), terms.each)
    up.log_normalizer.sum().backward()
    _, expected = model.expect(x, 2.0)
    torch.testing.assert_close(expected.start, 2 * start.grad, **EXACT)
    torch.testing.assert_close(expected.edges, 2 * steps.grad, **EXACT)
    torch.testing.assert_close(expected.cells.table, 2 * table.grad, **EXACT)
    # of a Normal: the gradient with respect to its location
    number, total, _ = expected.cells.normal
    pull = (total - number * loc) / (2 * own.log_scale).exp()
    torch.testing.assert_close(pull.detach(), 2 * loc.grad, rtol=0, atol=1e-8)


def test_passes_over_a_tree_need_no_large_potentials() -> None:
    """An entry of log-probability -5,000 in every state, and one impossible in all but one."""
    model = fitted(taut.HiddenTree, 3)
    tree, n = model.tree(), len(model.parents)
    potentials = torch.randn(n, 4, 3)
    potentials[2] -= 5000
    potentials[4, :, 1:] = -torch.inf
    log_z = upward(tree, potentials).log_normalizer
    potentials[2] += 5000
    torch.testing.assert_close(
        log_z + 5000, upward(tree, potentials).log_normalizer, rtol=0, atol=1e-9
    )
    q = CategoricalTree(tree, potentials)
    torch.testing.assert_close(q.marginals.sum(-1), torch.ones(4, n), **EXACT)
    torch.testing.assert_close(q.marginals[:, 4], torch.eye(3)[:1].expand(4, -1), **EXACT)
    up = upward(tree, potentials)
    edges = downward(tree, up).edges
    torch.testing.assert_close(edges.sum((1, 2)), 4.0 * (model.parents >= 0), **EXACT)


@pytest.mark.parametrize("kind", MODELS)
def test_every_emission_is_normalised(kind: type) -> None:
    model = fitted(kind)
    for parameter in model.parameters():  # also where training does not lead
        parameter.data += 0.2 * torch.randn_like(parameter)
    z = model.latent_prior().sample(torch.Size((1, 3)))
    measured = instances.measured("columns")
    # Lines fine enough for the least of a hundred values; that of the mixed one misses its atom.
    t = torch.linspace(-16, 16, 60_001) + 1e-5
    step = (t[1] - t[0]).item()
    mixed, positive = instances.KINDS.index("mixed"), instances.KINDS.index("positive")
    line = instances.Measure(t.sinh(), t.cosh() * step, step)
    measured[mixed] = ((mixed,), [instances.integers(0, 0), line])
    above, below = (instances.Measure(s * t.exp(), t.exp() * step, step) for s in (1, -1))
    measured[positive] = ((positive,), [above, below])
    check_measures(model.decode(z), measured)


def test_positive_numbers_leave_their_share_at_and_below_zero() -> None:
    """As a log-normal column of a VAE does, about the median of the training rows, in every
    state.
    """
    x = torch.randn(4001, 1).exp()
    model = of_one("positive", x)
    assert float(model.emissions.step) == 0
    odd = torch.tensor([[0.0], [-0.0], [-0.3], [-7.0], [-1e30]])
    u, median = -odd[:, 0] / x.median(), x.median()
    share = math.log(2 * OUTSIDE) - median.log() - 3 * u.log1p()
    torch.testing.assert_close(model.log_prob(odd), share.double(), rtol=0, atol=2e-2)
    t = torch.linspace(-40, 40, 40_001)[:, None]
    mass = model.log_prob(-t.exp()).exp() @ t.exp()[:, 0] * 80 / 40_000
    assert float(mass) == pytest.approx(OUTSIDE, rel=1e-9)
    for z in (0.0, 1.0):
        there = model.decode(torch.full((1, 1), z))
        assert bool(there.support.check(odd).all())
        torch.testing.assert_close(there.log_prob(odd), model.log_prob(odd), **EXACT)


def of_one(kind: str, x: Tensor, passes: int = 5, **ends: float) -> taut.Mixture:
    """Returns a mixture of two states of one column."""
    model = taut.Mixture((1,), [kind], 2, [0], **{k: torch.tensor([v]) for k, v in ends.items()})
    model.begin(x, 2)
    for _ in range(passes):
        model.update(model.expect(x)[1])
    return model.requires_grad_(False)


def test_an_integer_column_of_many_values_is_normalised() -> None:
    """Common values, cells between them, and what lies beyond."""
    x = torch.cat([torch.full((200, 1), 70.0), torch.randint(0, 3000, (3000, 1)).double()])
    model = of_one("levels", x, passes=20, low=0.0, high=3000.0)
    values = torch.arange(-100_000.0, 100_000.0)[:, None]
    total = model.log_prob(values).detach().exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-7)
    # at its maximum the likelihood gives a common value its frequency
    share = (x == 70).double().mean().item()
    assert model.log_prob(x[:1]).exp().item() == pytest.approx(share, rel=0.02)
    counts = of_one("count", x, low=0.0)
    values = torch.arange(0.0, 200_000.0)[:, None]
    # beyond the largest count lies about one row of the 3,200, and little of it above 200,000
    total = counts.log_prob(values).exp().sum().item()
    assert 1 - 1 / 3200 < total < 1 + 1e-9
    assert bool((counts.log_prob(torch.tensor([[-1.0]])) == -torch.inf).all())


def test_what_training_never_saw_is_improbable_and_not_impossible() -> None:
    x = torch.randint(0, 9, (400, 1)).double()
    model = of_one("levels", x, low=0.0, high=8.0)
    odd = model.log_prob(torch.tensor([[9.0], [-3.0], [2.5], [1e6]]))
    assert bool((odd > -60).all())
    assert bool((odd < -15).all())
    real = of_one("real", torch.randn(400, 1))
    # the tail of the marginal is exponential, and no Normal's: steps of the same size cost the same
    far = real.log_prob(torch.tensor([[20.0], [40.0], [60.0], [10_020.0]])).diff()
    assert float(far[0]) == pytest.approx(float(far[1]), abs=1e-6)
    assert float(far[0]) > -150
    words = taut.Mixture((1,), ["category"], 2, [3])
    impossible = words.log_prob(torch.tensor([[3.0], [-1.0], [0.5]]))
    assert bool((impossible == -torch.inf).all())
    support = words.decode(torch.zeros(1, 1)).support
    assert support.check(torch.tensor([[2.0], [3.0], [0.5]])).tolist() == [True, False, False]


def test_no_density_is_above_the_data_s_own_precision() -> None:
    """A price of 9.99 in a third of the rows is a cell of one cent, not a spike without width."""
    x = (torch.randn(900, 1).exp() * 10).mul(100).round() / 100
    x[::3] = 9.99
    model = of_one("positive", x, low=0.0)
    density = model.log_prob(x[:1]).exp()
    assert float(density) == pytest.approx(1 / 3 / 0.01, rel=0.05)
    line = torch.linspace(9.9, 10.1, 20_001)[:, None]
    there = model.log_prob(line).exp()
    assert float(there.max()) <= 1 / 0.01
    cell = (line - 9.99).abs() < 0.0051
    assert float(there[~cell[:, 0]].max()) < 1.0
    # without a grid no value has a cell
    free = torch.randn(900, 1)
    free[::3] = free[0, 0]
    assert of_one("real", free).log_prob(free[:1]).exp().item() < 100
    # an atom that the schema knows is a probability
    knots = warps.padded(warps.fit_knots(free[:, 0].numpy(), free[:1, 0].numpy(), (-9, 9), False))
    atoms = taut.Mixture((1,), ["mixed"], 2, [0], knots=knots.to(free)[None])
    atoms.begin(free, 2)
    atoms.update(atoms.expect(free)[1])
    assert atoms.log_prob(free[:1]).exp().item() == pytest.approx(1 / 3, rel=0.02)


@pytest.mark.parametrize("kind", MODELS)
def test_samples_have_the_model_s_own_means(kind: type) -> None:
    model = fitted(kind)
    x = tasks.sample(model, 20_000, seed=1)
    share = model.latent_prior().marginals  # (n, S)
    means = model.emissions.means(model.emissions.tables())
    expected = (share * means).sum(-1).detach()
    near = [
        i for i, row in enumerate(instances.COLUMN_KINDS) if row.num_levels or row.kind == "levels"
    ]
    assert_mean(x[:, near], expected[near])
    # of densities: the share below a quarter, from their own distribution functions
    for i, row in enumerate(instances.COLUMN_KINDS):
        if row.kind in ("real", "date"):
            line = torch.linspace(-12, 0.25, 20_001)
            at = torch.full((len(line), x.shape[1]), torch.nan)
            at[:, i] = line
            below = torch.trapezoid(model.log_prob(at).exp(), line).detach()
            assert abs(float((x[:, i] < 0.25).double().mean() - below)) < 0.02
    assert bool(model.decode(torch.zeros(1, len(model.parents))).support.check(x).all())


def test_a_sample_of_a_cell_is_one_of_its_values() -> None:
    x = torch.cat([torch.full((500, 1), 7.0), torch.randint(10, 900, (500, 1)).double()])
    model = of_one("levels", x, low=0.0, high=900.0)
    drawn = model.sample(20_000)
    values = torch.arange(0.0, 901.0)
    expected = model.log_prob(values[:, None]).exp()
    found = torch.stack([(drawn[:, 0] == 7).double(), (drawn[:, 0] < 300).double()], 1)
    assert_mean(found, torch.stack([expected[7], expected[:300].sum()]))


# --- Structure ------------------------------------------------------------------------------------


def test_mutual_information_by_hand() -> None:
    x = torch.stack([torch.randint(0, 3, (500,)), torch.randint(0, 2, (500,))], 1).double()
    x = torch.cat([x, (x[:, :1] + x[:, 1:]) % 3, torch.randn(500, 1)], 1)
    x[torch.rand_like(x) < 0.1] = torch.nan
    sizes = torch.tensor([3, 2, 3, 20])
    there = (~x.isnan()).double()
    chance = torch.outer(sizes - 1, sizes - 1) / (2 * there.T @ there)
    found = structure.mutual_information(x) + chance.numpy()
    for i, j in itertools.combinations(range(3), 2):
        both = x[~x[:, [i, j]].isnan().any(1)][:, [i, j]].long()
        counts = torch.zeros(3, 3)
        for a, b in both.tolist():
            counts[a, b] += 1
        p = counts / counts.sum()
        independent = p.sum(1, keepdim=True) * p.sum(0)
        expected = torch.where(p > 0, p * (p / independent).log(), 0.0).nansum()
        assert found[i, j] == pytest.approx(float(expected), abs=1e-12)
        assert found[j, i] == pytest.approx(found[i, j], abs=1e-12)
    # twenty bins of equal shares
    assert found[3, 3] == pytest.approx(math.log(20), abs=0.01)


def test_bins_in_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x = gappy(300)
    whole = structure.mutual_information(x)
    monkeypatch.setattr(structure, "BLOCK", 30)
    np.testing.assert_allclose(structure.mutual_information(x), whole, rtol=0, atol=1e-12)


PARENTS = [-1, 0, 0, 1, 1, 2]


def planted(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Returns rows of a known tree of three states a column, and their log-probability."""
    noise = torch.Generator().manual_seed(seed)
    step = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.2, 0.1, 0.7]])
    z = torch.zeros(n, 6, dtype=torch.long)
    log_p = torch.full((n,), -math.log(3))
    z[:, 0] = torch.randint(0, 3, (n,), generator=noise)
    for j, parent in enumerate(PARENTS[1:], 1):
        share = step[z[:, parent]]
        z[:, j] = torch.multinomial(share, 1, generator=noise)[:, 0]
        log_p += share.gather(1, z[:, j : j + 1])[:, 0].log()
    return z.double(), log_p


def test_a_planted_tree_is_recovered() -> None:
    x, _ = planted(4000, 0)
    test, truth = planted(4000, 1)
    model = taut.HiddenTree((6,), ["category"] * 6, 3, [3] * 6)
    for _ in model.maximize(x[:3600], x[3600:], max_passes=30):
        pass
    edges = {frozenset((j, p)) for j, p in enumerate(model.parents.tolist()) if p >= 0}
    assert edges == {frozenset((j, p)) for j, p in enumerate(PARENTS) if p >= 0}
    assert model.parents.tolist()[0] == -1 or model.parents.tolist().count(-1) == 1
    loss = (truth - model.log_prob(test)).mean().item()
    assert -0.01 < loss < 0.03
    # columns that are independent given one category: a mixture would need more states
    plain = taut.Mixture((6,), ["category"] * 6, 3, [3] * 6)
    for _ in plain.maximize(x[:3600], x[3600:], max_passes=30):
        pass
    assert (model.log_prob(test) - plain.log_prob(test)).mean().item() > 0.3


@pytest.mark.parametrize("kind", [*MODELS, taut.HiddenForest])
def test_a_cell_far_out_hides_nothing_of_the_others(kind: type) -> None:
    """In float32 log p of a row of -1e7 has no digits left for its other entries; those of what the
    states have in common are needed by none of them.
    """
    model, x = instances.of_columns(kind, 3), instances.columns(200)
    for _ in model.maximize(x[:150], x[150:], max_passes=4):
        pass
    far, real = x[:20].float().double(), instances.KINDS.index("real")
    far[:, real] += 1e7
    other = [c for c in range(far.shape[1]) if c != real]
    scores = model.requires_grad_(False).cell_scores(far)[:, other]
    gaps = far.clone()
    gaps[:, instances.KINDS.index("ordinal")] = torch.nan
    gaps[:, instances.KINDS.index("count")] = torch.nan
    filled = model.typical(gaps)[:, other]
    torch.set_default_dtype(torch.float32)
    rough = model.float().requires_grad_(False)
    assert float(rough.log_prob(far.float()).max()) < -1e5
    torch.testing.assert_close(
        rough.cell_scores(far.float())[:, other].double(), scores, rtol=0, atol=2e-3
    )
    found = rough.typical(gaps.float())[:, other].double()
    torch.testing.assert_close(found, filled, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("kind", [*MODELS, taut.HiddenForest])
def test_an_impossible_entry_is_the_odd_one_and_the_others_are_as_without_it(kind: type) -> None:
    """A count of -1: log p(x) is minus infinity, and what the others are given the rest is
    known.
    """
    model, x = instances.of_columns(kind, 2), instances.columns(80)
    for _ in model.maximize(x[:60], x[60:], max_passes=3):
        pass
    count = instances.KINDS.index("count")
    odd, without = x[:9].clone(), x[:9].clone()
    odd[:, count], without[:, count] = -1.0, torch.nan
    assert bool((model.log_prob(odd) == -torch.inf).all())
    scores, expected = model.cell_scores(odd), model.cell_scores(without)
    assert bool((scores[:, count] == -torch.inf).all())
    expected[:, count] = -torch.inf
    torch.testing.assert_close(scores, expected, **EXACT)
    odd[:, instances.KINDS.index("real")] = without[:, instances.KINDS.index("real")] = torch.nan
    filled, expected = model.typical(odd), model.typical(without)
    torch.testing.assert_close(filled, expected, **EXACT)


@pytest.mark.parametrize("rare", [0.05, 0.004])
def test_the_mean_of_a_state_holds_what_is_rare(rare: float) -> None:
    """Counts that are seldom above zero: the mean by a sum over all that have a probability."""
    torch.manual_seed(0)
    x = torch.where(torch.rand(2000) < rare, (100 * torch.randn(2000).exp()).round(), 0.0)[:, None]
    free = torch.tensor([math.inf])
    model = taut.Mixture((1,), ["count"], 2, [0], low=torch.zeros(1), high=free)
    for _ in model.maximize(x[:1800], x[1800:], max_passes=3):
        pass
    model.requires_grad_(False)
    own, counts = model.emissions, torch.arange(200_000.0)[:, None]
    for state in range(2):
        log_p = own.given(counts, torch.full(counts.shape, state))
        expected = float(counts[:, 0] @ log_p[:, 0].exp())
        assert float(own.means(own.tables())[0, state]) == pytest.approx(expected, rel=0.05)


# --- Training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_training_is_the_same_again_and_keeps_the_best_pass(kind: type) -> None:
    x, validation = gappy(60), gappy(200)[1:]
    # what is learnt of the training rows is wrong of the others: the last pass is not the best
    x[:, 2], validation[:, 2] = (x[:, 0] == 1).double(), (validation[:, 0] != 1).double()
    models = [instances.of_columns(kind, 4) for _ in range(2)]
    runs = [list(m.maximize(x, validation, max_passes=10, seed=3)) for m in models]
    assert runs[0] == runs[1]
    best = max(one.validation for one in runs[0])
    assert models[0].log_prob(validation).mean().item() == pytest.approx(best, abs=1e-12)
    assert [one.number for one in runs[0]] == list(range(1, len(runs[0]) + 1))
    other = instances.of_columns(kind, 4)
    assert list(other.maximize(x, validation, max_passes=10, seed=4)) != runs[0]
    # with slack it keeps the last pass that is not worse by more
    late = instances.of_columns(kind, 4, slack=100.0)
    last = list(late.maximize(x, validation, max_passes=10, seed=3))[-1]
    assert late.log_prob(validation).mean().item() == pytest.approx(last.validation, abs=1e-12)
    assert last.validation < best
    # of 250 planned passes the limit leaves 10
    assert late.limited
    # stopped early, it has the best so far
    stopped = instances.of_columns(kind, 4)
    steps = stopped.maximize(x, validation, max_passes=10, seed=3)
    seen = [next(steps), next(steps)]
    steps.close()
    assert seen == runs[0][:2]
    reached = stopped.log_prob(validation).mean().item()
    assert reached == pytest.approx(max(one.validation for one in seen), abs=1e-12)


def test_a_pass_takes_every_row_and_keeps_the_mean_of_its_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """90 rows in batches of 40: two whole ones and one of 10, each for all 90."""
    monkeypatch.setattr(trees, "BATCH", 40)
    taken, steps = [], []
    expect, update = trees._LatentTree.expect, trees._LatentTree.update

    def watched(model: ExactModel, x: emissions.Seen, weight: float = 1.0) -> object:
        taken.append((x.row.shape[1], weight))
        return expect(model, x, weight)

    def noted(model: ExactModel, *given: object) -> None:
        update(model, *given)
        steps.append(model.start.exp())

    monkeypatch.setattr(trees._LatentTree, "expect", watched)
    monkeypatch.setattr(trees._LatentTree, "update", noted)
    model, x = instances.of_columns(taut.Mixture, 2), gappy(90)
    list(model.maximize(x, x[:0], max_passes=1))
    assert taken == [(40, 90 / 40), (40, 90 / 40), (10, 9.0)]
    torch.testing.assert_close(model.start.exp(), torch.stack(steps).mean(0), **EXACT)


@pytest.mark.parametrize("kind", [taut.Mixture, taut.HiddenTree])
def test_rows_seen_once_are_those_seen_alone(kind: type[ExactModel]) -> None:
    """What the emissions see of all rows serves each batch; too many rows are seen batch by batch,
    and the passes are the same.
    """
    model, x = fitted(kind, 3), gappy(50)
    seen, rows = model.emissions.see(x), torch.tensor([31, 4, 4, 17, 0])
    for some in (seen.of(rows), model.emissions.see(x[rows])):
        torch.testing.assert_close(model._log_prob(some), model.log_prob(x[rows]), **EXACT)
        total, expected = model.expect(some)
        assert total == pytest.approx(float(model.log_prob(x[rows]).sum()), abs=1e-9)
        for part, own in zip(expected.cells, model.expect(x[rows])[1].cells, strict=True):
            torch.testing.assert_close(part, own, **EXACT)
    assert len(seen.of(rows).interval.number) < len(seen.interval.number)


def test_too_many_rows_are_seen_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    passes, x = [], gappy(90)
    for kept in (trees.KEPT, 0):
        monkeypatch.setattr(trees, "KEPT", kept)
        torch.manual_seed(0)
        model = instances.of_columns(taut.Mixture, 3)
        passes.append(list(model.maximize(x[:60], x[60:], max_passes=3)))
    assert [p.validation for p in passes[0]] == pytest.approx([p.validation for p in passes[1]])


def test_the_number_of_states_is_chosen_on_validation_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "FEWEST", 1)
    monkeypatch.setattr(trees, "MOST", 16)
    x, _ = planted(3000, 0)
    model = taut.Mixture((6,), ["category"] * 6, None, [3] * 6)
    passes = list(model.maximize(x[:2500], x[2500:], max_passes=12))
    reached = {}
    for states in (1, 2, 4, 8, 16):
        one = taut.Mixture((6,), ["category"] * 6, states, [3] * 6)
        reached[states] = max(p.validation for p in one.maximize(x[:2500], x[2500:], max_passes=12))
    sizes = [s for s in reached if s == 1 or reached[s] > reached[s // 2]]
    first = next((s for s in reached if s not in sizes), 32) // 2
    assert model.num_states == first > 1
    assert str(describe_part(model)) == f"Mixture(num_states={first})"
    assert [p.number for p in passes] == list(range(1, len(passes) + 1))
    assert sorted(p.share for p in passes) == [p.share for p in passes]
    assert model.log_prob(x[2500:]).mean().item() == pytest.approx(reached[first], abs=1e-12)


@pytest.mark.parametrize("kind", MODELS)
def test_saved_weights_give_a_blank_model_its_shapes(kind: type) -> None:
    model, x = fitted(kind, 3), gappy(7)
    saved = model.state_dict()
    for states in (3, None):
        blank = instances.of_columns(kind, states)
        blank.load_state_dict(saved)
        assert torch.equal(blank.log_prob(x), model.log_prob(x))
        shaped = instances.of_columns(kind, states)
        shaped.allocate({name: tuple(value.shape) for name, value in saved.items()})
        assert {k: v.shape for k, v in shaped.state_dict().items()} == {
            k: v.shape for k, v in saved.items()
        }


@pytest.mark.parametrize("kind", MODELS)
def test_parts_of_rows_are_rows(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = fitted(kind), gappy(20)
    log_p, (total, expected) = model.log_prob(x), model.expect(x)
    scores, filled = model.cell_scores(x), model.typical(x)
    monkeypatch.setattr(trees, "ELEMENTS", 40)
    torch.testing.assert_close(model.log_prob(x), log_p, **EXACT)
    torch.testing.assert_close(model.cell_scores(x), scores, equal_nan=True, **EXACT)
    torch.testing.assert_close(model.typical(x), filled, **EXACT)
    again, counted = model.expect(x)
    assert again == pytest.approx(total, abs=1e-9)
    torch.testing.assert_close(counted.edges, expected.edges, **EXACT)
    torch.testing.assert_close(counted.cells.table, expected.cells.table, **EXACT)


def test_images_and_bits() -> None:
    bits = (torch.rand(60, 3, 4) < 0.3).double()
    model = taut.HiddenTree((3, 4), "binary", 2, low=0, high=1)
    for _ in model.maximize(bits[:50], bits[50:], max_passes=3):
        pass
    assert model.sample(5).shape == (5, 3, 4)
    assert model.cell_scores(bits[:2]).shape == (2, 3, 4)
    draw = model.draw(bits[:2], 3)
    torch.testing.assert_close(draw.log_weight, model.log_prob(bits[:2]).expand(3, 2), **EXACT)
    grey = torch.randint(0, 256, (60, 2, 2)).double()
    levels = taut.Mixture((2, 2), "levels", 3, low=0, high=255)
    for _ in levels.maximize(grey[:50], grey[50:], max_passes=2):
        pass
    assert bool(((levels.sample(9) >= 0) & (levels.sample(9) <= 255)).all())


def test_log_p_has_gradients() -> None:
    model, x = fitted(taut.HiddenTree).requires_grad_(), gappy(5)
    model.log_prob(x).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert not bool(parameter.grad.isnan().any()), name
    # tables are normalised whatever the gradient does: one added to all cells changes nothing
    own = model.emissions
    shift = torch.randn(len(own.kinds), 2)
    before = model.log_prob(x)
    own.table.data += shift[own.owner]
    torch.testing.assert_close(model.log_prob(x), before, **EXACT)


def test_bad_input_is_one_line() -> None:
    with pytest.raises(ValueError, match="num_states must be at least 1, not 0"):
        taut.HiddenTree((2,), "binary", 0)
    with pytest.raises(ValueError, match="slack is in nats and not negative, and it is -1"):
        taut.HiddenTree((2,), "binary", slack=-1)
    model = taut.Mixture((2,), "binary", 9)
    with pytest.raises(UsageError, match="9 states need at least as many training rows"):
        model.begin(torch.ones(8, 2), 9)
    tree = Tree((-1, 2, 1), torch.zeros(1), torch.zeros(3, 1, 1))
    with pytest.raises(ValueError, match="lead to its root"):
        upward(tree, torch.zeros(3, 1, 1))
    with pytest.raises(ValueError, match="one root"):
        upward(tree._replace(parents=(-1, -1, 0)), torch.zeros(3, 1, 1))
    with pytest.raises(NotImplementedError, match="one shape"):
        fitted(taut.Mixture).encode(gappy(3)).expand((4,))


def test_a_constant_column_and_one_that_is_all_missing() -> None:
    x = torch.stack([torch.full((40,), 2.0), torch.full((40,), torch.nan), torch.randn(40)], 1)
    for kind, held in itertools.product(MODELS, (x[30:], x[:0])):  # also without validation rows
        model = kind((3,), ["real", "real", "real"], 2)
        passes = list(model.maximize(x[:30], held, max_passes=3))
        assert math.isnan(passes[-1].validation) == (not len(held))
        assert bool(model.log_prob(x).isfinite().all())
        assert bool((model.typical(x)[:, 0] - 2).abs().max() < 1.0)


def test_spikes_and_the_grid_of_a_column_by_hand() -> None:
    """A grid of 0.25, of which 1.5 is common: a cell of its own, with half of its rows."""
    values = np.concatenate([np.full(300, 1.5), np.arange(1200) * 0.25])
    made = cells.of_numbers(KINDS["real"], values, (-math.inf, math.inf), None, np.zeros(0))
    assert (made.start + made.step * made.cells).tolist() == [1.5]
    assert made.step == 0.25
    assert made.base.sum() == pytest.approx(1)
    assert made.base[0] == pytest.approx(0.5 * 301 / 1501, rel=1e-6)
    assert cells.step_of(np.array([0.0, 0.2, 0.5])) == pytest.approx(0.1)
    assert cells.step_of(np.array([0.0, 2.0, 5.0])) == 1.0
    assert cells.step_of(np.array([0.0, math.pi, 4.0])) == 0.0


def test_the_share_of_a_normal_between_two_heights() -> None:
    """Narrow cells by their middle, wide ones by the difference in the nearer tail; the moments are
    those of a fine sum.
    """
    model = taut.Mixture((1,), ["real"], 1).requires_grad_(False)
    own = model.emissions
    own.loc.data, own.log_scale.data = torch.tensor([[0.5]]), torch.tensor([[2.0]]).log()
    for low, high in ((-3.0, 4.0), (30.0, 31.0), (-40.0, -38.5), (0.5, 0.5003)):
        line = torch.linspace(low, high, 200_001)
        density = torch.distributions.Normal(0.5, 2.0).log_prob(line).exp()
        mass = torch.trapezoid(density, line)
        ends = (torch.tensor([end]) for end in (low, high, high - low))
        found = own.normals(emissions.Interval(torch.zeros(1, dtype=torch.long), *ends))
        assert float(found[0].exp() / mass) == pytest.approx(1, abs=1e-7)
        for power, moment in ((1, found[1]), (2, found[2])):
            expected = torch.trapezoid(density * line**power, line) / mass
            assert float(moment / expected) == pytest.approx(1, abs=1e-6)
