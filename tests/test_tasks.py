"""How good a model is at a task, in the task's own units: closed forms, and z-tests whose
false-alarm rate is that of ``ztest.limit``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import ks_2samp, norm
from sklearn.impute import KNNImputer
from sklearn.neighbors import KNeighborsClassifier
from ztest import limit

import taut
from taut.evidence.columns import ColumnFacts
from taut.evidence.section import Effort, Scene
from taut.evidence.task_data import Sheet, by_bootstrap, rows_of_forests
from taut.evidence.task_embedding import Embedding, labels_of_neighbours, mixing
from taut.evidence.task_gaps import (
    DRAWS,
    GapsFilled,
    covered,
    fill_by_neighbours,
    fill_by_trees,
    fill_by_typical,
)
from taut.evidence.task_odd import OddRows, found_share, planted
from taut.evidence.task_synthetic import (
    SyntheticRows,
    distances,
    independent_rows,
    told_apart,
)

Array = np.ndarray[Any, Any]


def sheet(train: Array, test: Array, nominal: list[bool], ordered: list[bool] | None = None) -> Any:
    count = train.shape[1]
    flags = np.array(nominal), np.array(ordered or [False] * count)
    names = [f"c{i}" for i in range(count)]
    kinds = ["category" if each else "real" for each in nominal]
    return Sheet(names, kinds, *flags, train, test, np.arange(count))


def facts(x: torch.Tensor, kinds: tuple[str, ...] = ()) -> ColumnFacts:
    names = [f"c{i}" for i in range(x.shape[1])]
    return ColumnFacts(names, torch.zeros(x.shape, dtype=torch.float64), kinds=kinds)


# --- Gaps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("nominal", [False, True])
@pytest.mark.parametrize("levels", [2, 3, 7, 10**6])
def test_the_interval_holds_nine_tenths_of_exchangeable_values(nominal: bool, levels: int) -> None:
    """Of any 100 values, each the truth in turn: exactly 90 on the whole, ties or not."""
    values = np.random.default_rng(levels).integers(levels, size=DRAWS + 1).astype(float)
    draws = np.stack([np.delete(values, i) for i in range(DRAWS + 1)], 1)
    assert_allclose(covered(values, draws, nominal).mean(), 0.9, atol=1e-12)


def test_a_value_beyond_all_draws_is_not_covered_and_one_amid_them_is() -> None:
    draws = np.arange(DRAWS, dtype=float)[:, None].repeat(4, 1)
    assert covered(np.array([-1.0, 500.0, 49.5, 4.5]), draws, False).tolist() == [0, 0, 1, 1]


def test_neighbours_are_scikit_learn_s() -> None:
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(80, 5)) * [1, 2, 3, 4, 5], rng.normal(size=(40, 5))
    train[rng.random(train.shape) < 0.2] = np.nan
    test[rng.random(test.shape) < 0.3] = np.nan
    test = test[~np.isnan(test).all(1)]
    own = sheet(train, test, [False] * 5)
    spread, centre = np.nanstd(train, 0), np.nanmean(train, 0)
    imputer = KNNImputer(n_neighbors=10).fit((train - centre) / spread)
    expected = imputer.transform((test - centre) / spread) * spread + centre
    assert_allclose(fill_by_neighbours(own, test), expected, rtol=1e-10)


def test_simple_methods_fill_levels_with_levels() -> None:
    """A level that is a function of a number: trees find it, the mode is the most frequent."""
    rng = np.random.default_rng(0)
    number = rng.normal(size=600)
    level = np.digitize(number, [-0.5, 0.8]).astype(float)
    train, test = np.stack([number, level], 1)[:400], np.stack([number, level], 1)[400:]
    left = test.copy()
    left[:, 1] = np.nan
    own = sheet(train, test, [False, True])
    assert set(fill_by_typical(own, left)[:, 1]) == {1.0}
    found = fill_by_trees(own, left, 400, 0)[:, 1]
    assert (found == test[:, 1]).mean() > 0.97
    ordered = sheet(train, test, [False, True], [False, True])
    median = np.sort(train[:, 1])[(len(train) - 1) // 2]
    assert set(fill_by_typical(ordered, left)[:, 1]) == {median}


def test_the_bootstrap_s_error_is_that_of_a_mean() -> None:
    """Within the scatter of 200 resamples: 5 % each, tested at ``limit(1)`` of them."""
    x = np.random.default_rng(0).normal(size=400)
    value, error = by_bootstrap(lambda counts: counts @ x / counts.sum(1), len(x), 0)
    assert_allclose(value, x.mean(), atol=1e-12)
    assert abs(error / (x.std() / 20) - 1) < limit(1) * 0.05


def test_forests_take_fewer_rows_where_columns_are_many() -> None:
    few, many = (sheet(np.zeros((5000, c)), np.zeros((9, c)), [False] * c) for c in (5, 200))
    assert rows_of_forests(few, 6.0, 4000) == 4000
    assert rows_of_forests(many, 6.0, 4000) < 100
    assert rows_of_forests(few, 0.0, 4000) == 1


@pytest.fixture(scope="module")
def gaussian() -> tuple[taut.LinearGaussian, Scene]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        problem = taut.LinearGaussian(6, 2, 0.5)
        x, train = problem.sample(3000), problem.sample(1000)
        scene = Scene(problem.model(), x, train, effort=Effort(task_seconds=1e9))
    torch.set_default_dtype(before)
    scene.columns = facts(x)
    return problem, scene


def test_gaps_are_filled_to_the_conditional_deviation(
    gaussian: tuple[taut.LinearGaussian, Scene],
) -> None:
    """The exact model: the mean square is the conditional variance, nine tenths are covered, and
    no other method is better.
    """
    problem, scene = gaussian
    found = GapsFilled.run(scene)
    w = problem.likelihood.weight.detach()
    covariance = w @ w.T + 0.25 * torch.eye(6)
    conditional = 1 / torch.linalg.inv(covariance).diagonal()
    columns = found["columns"]
    assert [c["name"] for c in columns] == [f"c{i}" for i in range(6)]
    for i, column in enumerate(columns):
        model, mean = column["model"], column["typical"]
        # the other columns of a row are hidden too, one in ten: a little more than the least
        low = float(conditional[i].sqrt()) - limit(12) * model["test_error"]
        assert model["value"] > low
        assert model["value"] < float(covariance[i, i].sqrt())
        spread = float(covariance[i, i].sqrt())
        assert abs(mean["value"] - spread) < limit(12) * mean["test_error"] + 4 * spread / 1000**0.5
    inside = found["coverage"]
    assert abs(inside["value"] - 0.9) < limit(1) * inside["test_error"]
    whole = found["whole"]["number"]
    assert whole["model"]["value"] == min(whole[m]["value"] for m in whole if m != "columns")


def test_the_error_of_what_is_filled_in_is_the_gaussian_s(
    gaussian: tuple[taut.LinearGaussian, Scene],
) -> None:
    """Row by row against the conditional covariance of the very entries that are hidden."""
    from taut.evidence.task_data import sheet_of
    from taut.evidence.task_gaps import _by_model

    problem, scene = gaussian
    own = sheet_of(scene, 1500)
    hidden = np.random.default_rng(0).random(own.test.shape) < 0.1
    filled, draws = _by_model(scene, own, hidden, 0)
    w = problem.likelihood.weight.detach().numpy()
    covariance = w @ w.T + 0.25 * np.eye(6)
    mean = problem.likelihood.bias.detach().numpy()
    off, drawn = [], []
    for row, gap, guess, each in zip(own.test, hidden, filled, draws.swapaxes(0, 1), strict=True):
        if not gap.any():
            continue
        gain = covariance[np.ix_(gap, ~gap)] @ np.linalg.inv(covariance[np.ix_(~gap, ~gap)])
        expected = mean[gap] + gain @ (row - mean)[~gap]
        left = covariance[np.ix_(gap, gap)] - gain @ covariance[np.ix_(~gap, gap)]
        assert_allclose(guess[gap], expected, atol=1e-8)
        off.append(((row[gap] - guess[gap]) ** 2 - np.diag(left)).mean())
        drawn.append(((each[:, gap] - expected) ** 2 - np.diag(left)).mean())
        assert_allclose(guess[~gap], row[~gap])
    for values in (off, drawn):
        z = np.mean(values) / (np.std(values) / len(values) ** 0.5)
        assert abs(z) < limit(2)


def test_gaps_say_what_they_need(gaussian: tuple[taut.LinearGaussian, Scene]) -> None:
    _, scene = gaussian
    few = Scene(scene.model, scene.x[:5], scene.train)
    assert GapsFilled.lacks(few) == ""  # neither columns nor images
    few.columns = scene.columns
    assert "20 rows" in str(GapsFilled.lacks(few))
    dear = Scene(scene.model, scene.x, scene.train, effort=Effort(task_seconds=1e-3))
    dear.columns = scene.columns
    why = str(GapsFilled.lacks(dear))
    assert "--task-seconds" in why
    named = float(why.rpartition(" ")[2])
    enough = Scene(scene.model, scene.x, scene.train, effort=Effort(task_seconds=named))
    enough.columns = scene.columns
    assert GapsFilled.lacks(enough) is None
    assert GapsFilled.lacks(Scene(scene.model, scene.x)) == "the training data are not at hand"


# --- Odd rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.333])
def test_of_rows_without_an_error_the_stated_rate_is_found(rate: float) -> None:
    """Each compared with all others: exactly floor(rate N) of N."""
    usual = np.random.default_rng(0).normal(size=300)
    found = found_share(usual, np.arange(300), usual, rate, 0)
    assert found["value"] == int(rate * 300 + 1e-9) / 300


def test_a_row_without_a_number_is_found() -> None:
    scores = np.array([np.nan, -np.inf, 5.0])
    found = found_share(scores, np.arange(3), np.arange(200.0), 0.01, 0)
    assert_allclose(found["value"], 2 / 3)


def mixed() -> Any:
    rng = np.random.default_rng(0)
    numbers, levels = rng.normal(size=(400, 2)), rng.integers(3, size=(400, 2)).astype(float)
    rows = np.concatenate([numbers, levels], 1)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    return sheet(rows[:200], rows[200:], [False, False, True, True])


@pytest.mark.parametrize(
    ("kind", "entries"), [("swap", 2), ("unit", 1), ("level", 1), ("number", 1)]
)
def test_an_error_is_of_its_kind(kind: str, entries: int) -> None:
    own = mixed()
    rows, origin, where = planted(own, kind, 100, 0)
    before = own.test[origin]
    assert len(rows) == 100
    assert len(set(origin)) == 100
    assert (where.sum(1) == entries).all()
    assert (where == ((rows != before) & ~np.isnan(before))).all()
    assert where[:, own.nominal].any() == (kind == "level")
    assert where[:, ~own.nominal].any() == (kind != "level")
    if kind == "unit":
        assert_allclose(rows[where], 10 * before[where])
    if kind == "swap":
        assert_allclose(rows[:, [1, 0]][where[:, [1, 0]]], before[where])
    if kind in ("level", "number"):
        assert set(rows[where]) <= set(
            own.train[:, np.flatnonzero(own.nominal == (kind == "level"))].ravel()
        )


def test_the_range_of_a_column_is_kept_where_its_kind_has_one() -> None:
    values = np.arange(1.0, 41.0)[:, None]
    own = sheet(values, values, [False])._replace(kinds=["levels"])
    rows, origin, _ = planted(own, "unit", 40, 0)
    assert sorted(own.test[origin, 0]) == [1, 2, 3, 4]
    assert rows.max() <= 40


def test_an_error_is_found_with_the_power_of_the_normal() -> None:
    """One normal column: ten times x lies beyond the quantiles of 1 % with a known probability."""
    torch.manual_seed(0)
    problem = taut.LinearGaussian(1, 1, 0.5)
    x, train = problem.sample(4000), problem.sample(4000)
    scene = Scene(problem.model(), x, train, effort=Effort(task_seconds=1e9))
    scene.columns = facts(x)
    found = OddRows.run(scene)
    assert found is not None
    assert found["rate"] == 0.01
    scale = float((problem.likelihood.weight.detach().square().sum() + 0.25).sqrt())
    centre = float(problem.likelihood.bias.detach())
    low, high = ((centre + t * norm.ppf(0.995) * scale) / 10 for t in (-1, 1))
    power = 1 - norm.cdf(high, centre, scale) + norm.cdf(low, centre, scale)
    unit = found["kinds"]["unit"]["model"]
    assert abs(unit["found"]["value"] - power) < limit(2) * unit["found"]["test_error"]
    assert unit["right"]["value"] == 1.0  # there is one column
    other = found["kinds"]["number"]["model"]["found"]
    assert abs(other["value"] - 0.01) < limit(2) * other["test_error"]
    assert "swap" not in found["kinds"]
    assert "level" not in found["kinds"]


def test_the_reason_is_the_planted_entry(gaussian: tuple[taut.LinearGaussian, Scene]) -> None:
    """The exact model of columns that hang together names more planted entries than neighbours."""
    _, scene = gaussian
    found = OddRows.run(scene)
    assert found is not None
    unit = found["kinds"]["unit"]
    assert unit["model"]["right"]["value"] > 0.8
    assert unit["model"]["found"]["value"] > 0.5
    number = found["kinds"]["number"]
    assert number["model"]["found"]["value"] > number["forest"]["found"]["value"]


def test_of_few_rows_the_smallest_p_value_is_the_rate(
    gaussian: tuple[taut.LinearGaussian, Scene],
) -> None:
    """Of 40 rows none has a p-value of 1 %, and large errors are found all the same."""
    _, scene = gaussian
    few = Scene(scene.model, scene.x[:40], scene.train, effort=scene.effort)
    few.columns = scene.columns
    found = OddRows.run(few)
    assert found is not None
    assert found["rate"] == 1 / 40
    assert found["kinds"]["unit"]["model"]["found"]["value"] > 0.5


# --- Synthetic rows -------------------------------------------------------------------------------


def test_rows_of_the_truth_are_not_told_apart(gaussian: tuple[taut.LinearGaussian, Scene]) -> None:
    """Areas of 1/2 by z-tests; columns that are drawn independently are told apart."""
    _, scene = gaussian
    found = SyntheticRows.run(scene)["statistics"]
    for name in ("told_apart", "nearer", "member", "member_log_p"):
        estimate = found[name]["model"]
        assert abs(estimate["value"] - 0.5) < limit(4) * estimate["test_error"], name
    apart = found["told_apart"]["independent"]
    assert apart["value"] - 0.5 > limit(1) * apart["test_error"]
    # a perfect model has the distance of the training rows, up to the scatter of both
    model, train, other = (found["pairs"][side] for side in ("model", "train", "independent"))
    both = 2**0.5 * model["test_error"]
    assert abs(model["value"] - train["value"]) < limit(1) * both
    assert other["value"] - train["value"] > limit(1) * both


def test_copied_rows_are_seen() -> None:
    """A model that repeats half of its training rows: three in four are right by areas."""
    torch.manual_seed(0)
    problem = taut.LinearGaussian(6, 2, 0.5)
    x, train = problem.sample(400), problem.sample(400)

    class Copies(taut.VAE):
        def sample(self, num_samples: int, **_: Any) -> torch.Tensor:
            return train[torch.randint(100, 300, (num_samples,))]

    model = problem.model()
    model.__class__ = Copies
    scene = Scene(model, x, train, effort=Effort(task_seconds=1e9))
    scene.columns = facts(x)
    found = SyntheticRows.run(scene)["statistics"]
    for name in ("nearer", "member"):
        estimate = found[name]["model"]
        assert estimate["value"] - 0.5 > limit(2) * estimate["test_error"]


def test_distances_by_hand_and_by_scipy() -> None:
    rng = np.random.default_rng(0)
    made, real = rng.normal(size=(50, 1)), rng.normal(size=(70, 1)) + 0.5
    own = sheet(rng.normal(size=(90, 1)), real, [False])
    found = distances(own, made, real, 0)
    expected = ks_2samp(made[:, 0], real[:, 0], method="asymp").statistic
    assert_allclose(found["columns"]["value"], expected, atol=1e-12)
    assert "pairs" not in found
    levels = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    same = np.array([[0.0, 0], [0, 0], [1, 1], [1, 1]])
    own = sheet(levels, levels, [True, True])
    found = distances(own, same, levels, 0)
    assert_allclose(found["columns"]["value"], 0.0, atol=1e-12)
    assert_allclose(found["pairs"]["value"], 0.5, atol=1e-12)


def test_independent_rows_keep_their_columns_and_nothing_else() -> None:
    train = np.random.default_rng(0).integers(5, size=(2000, 1)).repeat(2, 1).astype(float)
    made = independent_rows(train, 4000, 0)
    assert set(made[:, 0]) == set(train[:, 0])
    agree = (made[:, 0] == made[:, 1]).mean()
    shares = np.bincount(train[:, 0].astype(int)) / len(train)
    expected = (shares**2).sum()
    assert abs(agree - expected) < limit(1) * (expected * (1 - expected) / 4000) ** 0.5


def test_boosted_trees_tell_what_they_can() -> None:
    rng = np.random.default_rng(0)
    made, real = rng.normal(size=(300, 2)), rng.normal([3.0, 0.0], size=(300, 2))
    found = told_apart(sheet(real, real, [False, False]), made, real, 0)
    expected = norm.cdf(3 / 2**0.5)  # P(a < b) of two normals three apart
    assert abs(found["value"] - expected) < 0.02


# --- Embedding ------------------------------------------------------------------------------------


def test_labels_of_neighbours_are_scikit_learn_s() -> None:
    rng = np.random.default_rng(0)
    train, test, labels = (
        rng.normal(size=(200, 3)),
        rng.normal(size=(80, 3)),
        rng.integers(4, size=200),
    )
    expected = KNeighborsClassifier(15).fit(train, labels).predict(test)
    assert (labels_of_neighbours(train, labels, test) == expected).all()


def test_mixing_by_hand() -> None:
    """Two labels far apart; of the first the neighbours are of any batch, as all its rows are."""
    train = np.concatenate([np.zeros(30), np.full(30, 9.0)])[:, None]
    train[45:] += 1.0  # the second label's batches lie apart
    batches, labels = np.arange(60) % 2, np.repeat([0, 1], 30)
    batches[30:45], batches[45:] = 0, 1
    apart = mixing(
        train, np.array([[9.0], [10.0]]), (batches, np.array([0, 1])), (labels, np.ones(2, int))
    )
    assert_allclose([apart["value"], apart["test_error"]], [0.0, 0.0], atol=1e-12)
    own = np.zeros(2, int)
    some = mixing(train[:15], np.zeros((2, 1)), (batches[:15], own), (labels[:15], own))
    assert_allclose(some["value"], 1.0, atol=1e-12)  # all 15 are neighbours
    lone = mixing(train[30:45], train[:2], (batches[30:45], own), (labels[30:45], own + 1))
    assert lone["value"] is None


def test_batches_at_random_are_mixed() -> None:
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(900, 2)), rng.integers(2, size=900)
    batches = (rng.random(900) < 0.2 + 0.5 * labels).astype(int)
    x[:, 0] += 30 * labels
    pair = [(each[:500], each[500:]) for each in (x, batches, labels)]
    found = mixing(*pair[0], pair[1], pair[2])
    assert abs(found["value"] - 1) < 5 * found["test_error"]  # 6e-7 by chance
    assert 0.005 < found["test_error"] < 0.04


def test_labels_stand_beside_their_rows() -> None:
    """Rows that are their own label, in the order in which an audit looks at them."""
    from taut.data import Dataset
    from taut.runs.audit import _labels, some_rows, training_rows

    rows = torch.arange(300.0)[:, None]
    parts = {"train": rows, "test": rows, "binarize": None}
    named = {f"{part}_labels": np.arange(300) for part in ("train", "test")}
    data = object.__new__(Dataset)
    vars(data).update(parts | named)
    found = _labels(data, "test", (50, 70), 7)
    assert found is not None
    assert (found[0] == training_rows(data, 70, 7)[:, 0].numpy()).all()
    assert (found[1] == some_rows(rows, 50, 7, "audit")[:, 0].numpy()).all()
    assert _labels(data, "given", (50, 70), 7) is None
    vars(data)["train_labels"] = None
    assert _labels(data, "test", (50, 70), 7) is None


def test_the_embedding_knows_the_labels_that_it_decides(
    gaussian: tuple[taut.LinearGaussian, Scene],
) -> None:
    _, scene = gaussian
    assert scene.train is not None
    z = [scene.model.embed(part)[:, 0].detach() for part in (scene.train, scene.x)]
    labels = tuple(np.where(part > 0, "above", "below") for part in z)
    own = Scene(scene.model, scene.x, scene.train, labels=labels, effort=scene.effort)
    own.columns = scene.columns
    assert Embedding.lacks(own) is None
    assert Embedding.lacks(scene) == ""
    found = Embedding.run(own)
    right = found["right"]
    assert found["labels"] == 2
    assert right["model"]["value"] > 0.95
    most = max(set(labels[0]), key=list(labels[0]).count)
    assert_allclose(right["most"]["value"], (labels[1] == most).mean(), atol=1e-12)
    difference = right["model"]["value"] - right["components"]["value"]
    assert_allclose(found["gain"]["value"], difference, atol=1e-12)
    turned = Scene(scene.model, scene.x, scene.train, effort=scene.effort)
    turned.columns, turned.labels = scene.columns, (labels[0], labels[1][::-1])
    assert Embedding.run(turned)["right"]["model"]["value"] < 0.7  # of other rows
