"""How good a model is at a task, in the task's own units: closed forms, and z-tests whose
false-alarm rate is that of ``ztest.limit``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.impute import KNNImputer
from ztest import limit

import taut
from taut.evidence.columns import ColumnFacts
from taut.evidence.section import Effort, Scene
from taut.evidence.task_data import Sheet, by_bootstrap, rows_of_forests
from taut.evidence.task_gaps import (
    DRAWS,
    GapsFilled,
    covered,
    fill_by_neighbours,
    fill_by_trees,
    fill_by_typical,
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
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    problem = taut.LinearGaussian(6, 2, 0.5)
    x, train = problem.sample(3000), problem.sample(1000)
    scene = Scene(problem.model(), x, train, effort=Effort(task_seconds=1e9))
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
