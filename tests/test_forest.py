"""Mixtures of hidden trees against sums over all trees and states, to rounding."""

from __future__ import annotations

import itertools
import math

import instances
import pytest
import torch
from test_exact_models import EXACT, PARENTS, gappy, planted
from test_instances import check_measures
from torch import Tensor
from ztest import assert_mean

import taut
from taut.build.model import describe_exact
from taut.models.exact import ExactModel
from taut.models.structure import mutual_information, spanning_tree
from taut.models.trees import blurred
from taut.system.seeds import generator

TREES = 3


def fitted(num_states: int = 2) -> taut.HiddenForest:
    """Returns a forest of a column of each kind whose trees differ, after two passes each."""
    model = instances.of_columns(taut.HiddenForest, num_states, num_trees=TREES)
    for _ in model.maximize(gappy(100), torch.zeros(0, len(instances.KINDS)), max_passes=2):
        pass
    assert len({tuple(tree.parents.tolist()) for tree in model.used}) > 1
    model.log_weight.copy_(torch.tensor([0.5, 0.2, 0.3]).log())
    return model.requires_grad_(False)


def rounded(rows: int, seed: int) -> Tensor:
    """Returns three dependent columns that were rounded to a tenth of a standard deviation, but for
    one number in 50, which was rounded to a thousandth. Half of the last one is zero.
    """
    random = generator(seed, "rows")
    z = torch.randn(rows, 1, generator=random)
    x = 0.7 * z + 0.7 * torch.randn(rows, 3, generator=random)
    fine = torch.rand(rows, 3, generator=random) < 0.02
    x = torch.where(fine, x.round(decimals=3), x.round(decimals=1))
    x[:, 2] *= torch.rand(rows, generator=random) < 0.5
    return x


@pytest.mark.parametrize("kind", [taut.HiddenForest, taut.Mixture])
def test_what_numbers_were_rounded_to_is_not_learned(
    kind: type[taut.HiddenForest | taut.Mixture],
) -> None:
    """Rows moved by a hundredth of a standard deviation are as likely as they were; without blur
    they are not. The mean density within a third of the blur's scale of a value that half of the
    rows share is at most that of a Normal of that scale, within a third.
    """
    train, x, lost = rounded(600, 0), rounded(300, 1), {}
    moved = x + 0.01 * x.std(0) * torch.randn(x.shape, generator=generator(2, "moved"))
    scale = 0.03 * float(train[:, 2].std())
    for blur in (None, 0.0):
        model = kind((3,), "real", num_states=16, blur=blur)
        for _ in model.maximize(train, x[:0], max_passes=10):
            pass
        with torch.no_grad():
            lost[blur] = float((model.log_prob(x) - model.log_prob(moved)).mean())
            at = torch.full((201, 3), torch.nan)
            at[:, 2] = torch.linspace(-1, 1, 201) * scale / 3
            density = float(model.log_prob(at).exp().mean())
        share = float((train[:, 2] == 0).double().mean())
        limit = share / (scale * math.sqrt(2 * math.pi))
        assert (density < 4 / 3 * limit) == (blur is None)
    assert abs(lost[None]) < 0.3
    assert lost[0.0] > 10


def test_blur_is_noise_of_a_share_of_each_columns_scale() -> None:
    """Four comparisons; columns of other scales, one with gaps."""
    x = torch.randn(4000, 2, generator=generator(0, "x")) * torch.tensor([1.0, 50.0])
    x[::7, 0] = torch.nan
    assert blurred(x, x, 0.0, 0)[0] is x
    never = torch.tensor([[1.0, torch.nan], [2.0, torch.nan]])
    assert blurred(never, torch.tensor([[1.0, 5.0]]), 0.03, 0)[1][0, 1] == 5
    for kinds, grids in ((["real", "category"], None), (["levels"] * 2, None), (["real"], [None])):
        with pytest.raises(ValueError, match="no grid is known"):
            taut.HiddenForest(
                (len(kinds),), kinds, num_levels=[3] * len(kinds), grids=grids, blur=0.1
            )
    train, validation = (each - x for each in blurred(x, x, 0.5, 0))
    assert torch.equal(train.isnan(), x.isnan())
    for c in (0, 1):
        there = ~x[:, c].isnan()
        ratio = (train[there, c] / (0.5 * x[there, c].std(correction=0))).square()
        assert_mean(ratio, 1.0)
        both = train[there, c] * validation[there, c]
        assert_mean(both, 0.0)


def every_z(model: taut.HiddenForest) -> Tensor:
    columns = len(instances.KINDS)
    ranges = [range(TREES), *[range(2)] * columns]
    return torch.tensor(list(itertools.product(*ranges))).double()


def enumerated(model: taut.HiddenForest, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns every z, (Z, 1 + n), its log p(z), and log p(x, z), (Z, B)."""
    z = every_z(model)
    log_prior = model.latent_prior().log_prob(z)
    each = z[:, None].expand(-1, len(x), -1)
    return z, log_prior, log_prior[:, None] + model.decode(each).log_prob(x)


def test_log_p_and_the_posterior_are_sums_over_trees_and_states() -> None:
    model, x = fitted(), gappy(9)
    z, log_prior, joint = enumerated(model, x)
    log_p = joint.logsumexp(0)
    torch.testing.assert_close(log_prior.logsumexp(0), torch.tensor(0.0), **EXACT)
    weight = torch.stack([log_prior[z[:, 0] == m].logsumexp(0) for m in range(TREES)])
    torch.testing.assert_close(weight, model.log_weight, **EXACT)
    torch.testing.assert_close(model.log_prob(x), log_p, **EXACT)
    assert float(log_p[0]) == pytest.approx(0, abs=1e-10)  # all missing
    q, share = model.encode(x), joint - log_p
    each = z[:, None].expand(-1, len(x), -1)
    torch.testing.assert_close(q.log_prob(each), share, **EXACT)
    torch.testing.assert_close(q.log_normalizer + model._separate(x)[1], log_p, **EXACT)
    expected = [
        ((z[:, 0] == m) & (z[:, 1 + j] == s)).double() @ share.exp()
        for m, j, s in itertools.product(range(TREES), range(len(instances.KINDS)), range(2))
    ]
    torch.testing.assert_close(model.embed(x), torch.stack(expected, 1), **EXACT)
    point = model.point(x)
    torch.testing.assert_close(
        point[:, 0],
        torch.stack([share[z[:, 0] == m].logsumexp(0) for m in range(TREES)]).argmax(0).double(),
    )
    for row, found in enumerate(point):
        own = model.used[int(found[0])]
        assert torch.equal(found[1:], own.point(x[row : row + 1])[0])


def test_samples_have_the_frequencies() -> None:
    model, x = fitted(), gappy(3)
    every, _, joint = enumerated(model, x)
    share = (joint - joint.logsumexp(0)).exp()
    z = model.encode(x).sample(torch.Size((20_000,)))
    # the state of a node and the tree together
    for m in range(TREES):
        hot = ((every[:, :1] == m) & (every[:, 1:] == 1)).double()
        both = ((z[..., :1] == m) & (z[..., 1:] == 1)).double()
        assert_mean(both, share.T @ hot)
    prior = model.latent_prior().expand(torch.Size((2,))).sample(torch.Size((10_000,)))
    assert prior.shape == (10_000, 2, 1 + len(instances.KINDS))
    weights = torch.tensor([0.5, 0.2, 0.3]).repeat(2)
    assert_mean(torch.nn.functional.one_hot(prior[..., 0].long(), TREES).double(), weights)
    # rows that a tree draws are its own: a bit beside the number of the tree
    c = instances.KINDS.index("binary")
    drawn = model.decode(prior[:, 0]).sample()[:, c]
    one = torch.full((1, len(instances.KINDS)), torch.nan)
    one[0, c] = 1
    expected = torch.stack([tree.log_prob(one).exp()[0] for tree in model.used])
    hot = torch.nn.functional.one_hot(prior[:, 0, 0].long(), TREES).double()
    assert_mean(drawn[:, None] * hot, expected * model.log_weight.exp())


def test_every_estimator_returns_log_p() -> None:
    model, x = fitted(), gappy(9)
    log_p = model.log_prob(x)
    draw = model.draw(x, 7)
    torch.testing.assert_close(draw.log_weight, log_p.expand(7, -1), **EXACT)
    evidence = taut.importance(model, x, num_samples=100)
    torch.testing.assert_close(evidence.log_evidence, log_p, **EXACT)
    torch.testing.assert_close(evidence.elbo, log_p, **EXACT)


def test_conditionals_scores_and_filled_gaps_are_exact() -> None:
    model, x = fitted(), gappy(9)
    z, _, joint = enumerated(model, x)
    given = torch.rand_like(x) < 0.5
    some = enumerated(model, torch.where(given, x, torch.nan))[2].logsumexp(0)
    expected = joint.logsumexp(0) - some
    torch.testing.assert_close(model.log_prob_given(x, given), expected, **EXACT)
    # a score an entry at a time, by the difference of two sums
    general = ExactModel.cell_scores(model, x)
    torch.testing.assert_close(model.cell_scores(x), general, equal_nan=True, **EXACT)
    share = (joint - joint.logsumexp(0)).exp()
    likelihood = model.decode(z[:, None].expand(-1, len(x), -1))
    filled = model.typical(x)
    for i, row in enumerate(instances.COLUMN_KINDS):
        if not row.num_levels:
            value = (share * likelihood.mean[..., i]).sum(0)
        else:
            levels = torch.full((row.num_levels, len(z), *x.shape), torch.nan)
            levels[..., i] = torch.arange(row.num_levels).double()[:, None, None]
            each = torch.stack([likelihood.log_prob(level).exp() for level in levels])
            probs = (each * share).sum(1)
            value = probs.argmax(0).double()
            if row.kind == "ordinal":
                value = (probs.cumsum(0) < 0.5).sum(0).double()
        torch.testing.assert_close(filled[:, i], value, **EXACT)


def test_what_a_row_emits_is_normalised() -> None:
    model = fitted()
    z = model.latent_prior().sample(torch.Size((1, 3)))
    z[0, :, 0] = torch.arange(TREES)
    measured = instances.measured("columns")
    t = torch.linspace(-16, 16, 60_001) + 1e-5
    step = (t[1] - t[0]).item()
    mixed, positive = instances.KINDS.index("mixed"), instances.KINDS.index("positive")
    line = instances.Measure(t.sinh(), t.cosh() * step, step)
    measured[mixed] = ((mixed,), [instances.integers(0, 0), line])
    measured[positive] = ((positive,), [instances.Measure(t.exp(), t.exp() * step, step)])
    check_measures(model.decode(z), measured)


def test_a_pair_that_no_tree_can_have_is_in_the_next() -> None:
    """Three columns, each pair dependent given the third: a tree has two of the three pairs."""
    z = torch.randint(0, 2, (6000, 3)).double()
    x = torch.stack([(z[:, i] + z[:, (i + 1) % 3]) for i in range(3)], 1)
    train, validation, test = x[:3000], x[3000:4000], x[4000:]
    shape = {"kinds": ["category"] * 3, "num_levels": [3] * 3, "num_states": 4}
    model = taut.HiddenForest((3,), num_trees=3, **shape)
    information = mutual_information(train)
    passes = list(model.maximize(train, validation, max_passes=20))
    edges = [
        {frozenset((j, p)) for j, p in enumerate(tree.parents.tolist()) if p >= 0}
        for tree in model.used
    ]
    first = spanning_tree(information)
    assert edges[0] == {frozenset((j, p)) for j, p in enumerate(first) if p >= 0}
    assert len(edges) == 1 or edges[0] != edges[1]
    best = max(one.validation for one in passes)
    assert model.log_prob(validation).mean().item() == pytest.approx(best, abs=1e-9)
    alone = model.used[0].log_prob(test).mean().item()
    assert model.log_prob(test).mean().item() > alone - 0.01


def test_trees_are_added_as_long_as_the_validation_rows_gain() -> None:
    x, _ = planted(1500, 0)
    shape = {"kinds": ["category"] * 6, "num_levels": [3] * 6}
    forest = taut.HiddenForest((6,), num_trees=5, num_states=3, **shape)
    passes = list(forest.maximize(x[:1200], x[1200:], max_passes=8, seed=1))
    again = taut.HiddenForest((6,), num_trees=5, num_states=3, **shape)
    assert list(again.maximize(x[:1200], x[1200:], max_passes=8, seed=1)) == passes
    assert [p.number for p in passes] == list(range(1, len(passes) + 1))
    assert sorted(p.share for p in passes) == [p.share for p in passes]
    used = len(forest.used)
    assert used < 5  # one tree is the truth
    best = max(one.validation for one in passes)
    assert forest.log_prob(x[1200:]).mean().item() == pytest.approx(best, abs=1e-9)
    torch.testing.assert_close(forest.log_weight[:used], torch.full((used,), -math.log(used)))
    # the first is the hidden tree of the same seed
    tree = taut.HiddenTree((6,), num_states=3, **shape)
    alone = list(tree.maximize(x[:1200], x[1200:], max_passes=8, seed=1))
    assert passes[: len(alone)] == [p._replace(share=p.share / 5) for p in alone]
    edges = {frozenset((j, p)) for j, p in enumerate(forest.used[0].parents.tolist()) if p >= 0}
    assert edges == {frozenset((j, p)) for j, p in enumerate(PARENTS) if p >= 0}


def test_stopped_early_it_has_the_best_so_far() -> None:
    x, validation = gappy(120), gappy(200)
    whole = instances.of_columns(taut.HiddenForest, 3, num_trees=3)
    passes = list(whole.maximize(x, validation, max_passes=4))
    assert len(whole.used) > 1
    for stop in (1, 3, 6, 7, len(passes) - 1):
        model = instances.of_columns(taut.HiddenForest, 3, num_trees=3)
        steps = model.maximize(x, validation, max_passes=4)
        seen = [next(steps) for _ in range(stop)]
        steps.close()
        assert seen == passes[:stop]
        reached = model.log_prob(validation).mean().item()
        assert reached == pytest.approx(max(one.validation for one in seen), abs=1e-9), stop


def test_saved_weights_give_a_blank_forest_its_shapes() -> None:
    x, validation = gappy(120), gappy(200)
    model = instances.of_columns(taut.HiddenForest, 3, num_trees=3)
    for _ in model.maximize(x, validation, max_passes=2):
        pass
    model._weigh(2)  # the last one was of no use
    assert str(describe_exact(model)) == "HiddenForest(num_trees=3, num_states=3)"
    for states in (3, None):
        blank = instances.of_columns(taut.HiddenForest, states, num_trees=3)
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        blank.allocate(shapes)
        blank.load_state_dict(model.state_dict())
        assert torch.equal(blank.log_prob(x), model.log_prob(x))
        assert len(blank.used) == 2


def test_bad_numbers_are_one_line() -> None:
    with pytest.raises(ValueError, match="num_trees must be at least 1, not 0"):
        taut.HiddenForest((2,), "binary", 0)
    with pytest.raises(ValueError, match="num_states must be at least 1, not 0"):
        taut.HiddenForest((2,), "binary", num_states=0)
