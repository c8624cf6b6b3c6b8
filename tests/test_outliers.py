"""Odd rows at a stated rate of false alarms: the rank among rows that were held out."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from typer.testing import CliRunner
from ztest import limit

import taut
from taut.cli.app import app
from taut.data.rows import Joined
from taut.evidence import importance, settle
from taut.evidence.outliers import oddity, threshold
from taut.evidence.rows import settle_together
from taut.system.errors import TautWarning, UsageError

USUAL = torch.tensor([-3.0, -1.0, -2.0, -5.0])


def test_p_values_are_ranks() -> None:
    found = oddity(torch.tensor([-9.0, -5.0, -2.5, 0.0, torch.nan]), USUAL, 0.2)
    # 1 + those at most as probable, of 4 + 1
    torch.testing.assert_close(found.p_value, torch.tensor([1, 2, 3, 5, 1]) / 5)
    torch.testing.assert_close(found.typicality, torch.tensor([2, 4, 5, 2, 2]) / 5)
    assert found.flagged.tolist() == [True, False, False, False, True]


@pytest.mark.parametrize("rate", [0.2, 0.3, 0.5, 0.8])
def test_of_usual_rows_no_more_than_the_rate_are_flagged(rate: float) -> None:
    """All orders of five values, one of them the new row: exactly floor(5 rate) of 5."""
    flagged = 0
    for values in itertools.permutations([-5.0, -4.0, -2.0, -1.0, 3.0]):
        new, usual = torch.tensor(values[:1]), torch.tensor(values[1:])
        flag = bool(oddity(new, usual, rate).flagged)
        assert flag == (float(new) < threshold(usual, rate))
        flagged += flag
    assert flagged == math.floor(5 * rate + 1e-9) * 24


def test_equal_values_are_no_false_alarms() -> None:
    assert not bool(oddity(torch.zeros(3), torch.zeros(4), 0.2).flagged.any())
    assert threshold(torch.zeros(4), 0.2) == 0.0


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.5, math.nan, 2.0])
def test_a_rate_that_is_not_one_is_refused(rate: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        oddity(USUAL, USUAL, rate)
    with pytest.raises(UsageError, match="between 0 and 1"):
        threshold(USUAL, rate)


def test_too_few_rows_held_out_are_refused_with_how_many_are_needed() -> None:
    with pytest.raises(UsageError, match=r"at least 99 rows .* there are 4"):
        oddity(USUAL, USUAL, 0.01)
    assert len(oddity(torch.zeros(1), torch.zeros(99), 0.01).p_value) == 1
    assert threshold(USUAL, 0.01) == -math.inf


def test_how_a_row_is_measured_does_not_depend_on_how_many_rows_there_are() -> None:
    """Sixty of 300 rows climb, which all need it alike. Of the first 100 it is a hypergeometric
    number of them, 20 with a standard deviation of 3.3: a false alarm in a million runs.

    With a budget for each part all of the first 60 would, and rows of a long file would look odd.
    """
    torch.set_default_dtype(torch.float64)
    model = taut.VAE(
        taut.StandardNormal(2),
        taut.Normal((3,), 2, decoder=taut.Linear),
        taut.DiagonalNormal((3,), 2, taut.Linear),
    ).eval()
    parts = [torch.randn(100, 3), torch.randn(200, 3)]
    firsts = [importance(model, x, 20) for x in parts]
    firsts = [replace(first, khat=torch.full_like(first.khat, torch.inf)) for first in firsts]
    few, many = settle_together(model, parts, firsts, climbing=60, annealed=0)
    climbed = int((few.method > 0).sum())
    assert climbed + int((many.method > 0).sum()) == 60
    assert abs(climbed - 20) < limit(1) * 3.3
    # and each row has its own number
    for rows, x in zip((few, many), parts, strict=True):
        assert len(rows.log_evidence) == len(x)
        exact = importance(model, x, 4000, seed=1)
        z = (rows.log_evidence - exact.log_evidence) / torch.hypot(
            rows.log_evidence_error, exact.log_evidence_error
        )
        assert z.abs().max() < 10  # of another row it is thousands
    alone = settle(model, parts[0], firsts[0], climbing=60, annealed=0)
    one = settle_together(model, parts[:1], firsts[:1], climbing=60, annealed=0)[0]
    assert torch.equal(alone.log_evidence, one.log_evidence)


def test_parts_that_are_joined_are_read_as_one() -> None:
    parts = [torch.arange(6).view(3, 2), torch.arange(6, 10).view(2, 2)]
    order = torch.tensor([4, 0, 2, 3, 1])
    rows, whole = Joined(parts, order), torch.cat(parts)[order]
    assert (rows.shape, rows.dtype, len(rows)) == (whole.shape, whole.dtype, 5)
    for index in (slice(1, 4), torch.tensor([3, 0, 3]), slice(0, 0), 2):
        assert torch.equal(rows[index], whole[index])
    assert torch.equal(torch.cat(list(rows.split(2))), whole)
    assert torch.equal(rows.to(torch.device("cpu"))[:], whole)


def test_the_estimator_predicts_as_scikit_learn_s_do() -> None:
    """A row times 30 is odd. Of 1,000 usual ones 5 % are called odd.

    Beyond 4 errors of 100 held-out rows (of a Beta distribution: 0.022) in 1 of 10,000 seeds.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 4)) @ rng.normal(size=(4, 4))
    estimator = taut.VAEstimator(max_epochs=3, num_samples=20, random_state=0, flag=0.05)
    estimator.fit(x[:1000])
    labels = estimator.predict(x[1000:])
    assert set(labels) == {-1, 1}
    assert abs((labels == -1).mean() - 0.05) < 4 * 0.022
    far = x[1000:1010] * 30
    assert_array_equal(estimator.predict(far), -1)
    assert_array_equal(
        estimator.decision_function(far), estimator.score_samples(far) - estimator.offset_
    )


def test_a_run_flags_rows_by_those_it_held_out(tmp_path: object) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 3))
    run = taut.fit(x, f"{tmp_path}/run", max_epochs=3, threads=1, verbose=False)
    new = np.concatenate([rng.normal(size=(50, 3)), rng.normal(size=(5, 3)) + 20])
    scores = run.score(new, num_samples=100, flag=0.05, verbose=False)
    usual = run.score(num_samples=100, verbose=False)["log_evidence"]
    assert len(usual) == 60
    below = (usual[None] <= scores["log_evidence"][:, None]).sum(1)
    np.testing.assert_allclose(scores["p_value"], (1 + below) / 61, rtol=1e-6)
    assert_array_equal(scores["flagged"], scores["p_value"] <= 0.05)
    assert scores["flagged"][50:].all()
    with pytest.raises(UsageError, match="give data"):
        run.score(flag=0.05)


def test_it_is_said_among_which_rows_odd_ones_are_ranked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(120, 2))
    np.save("x.npy", x)
    for part, fraction in (("test", 0.1), ("validation", 0.0)):
        settings = {"model": "FactorAnalysis()", "threads": 1, "test_fraction": fraction}
        run = taut.fit("x.npy", part, verbose=False, **settings)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", TautWarning)
            run.score(x, flag=0.2, verbose=False)
        words = ["score", part, "x.npy", "--flag", "0.2", "--out", "s.csv", "--overwrite"]
        said = CliRunner().invoke(app, words)
        told = CliRunner().invoke(app, [*words, "--json"])
        assert f"of rows like the 12 {part} rows, at most 20 % would be" in said.stdout
        warned = ["there are no test rows" in str(line.message) for line in caught]
        found = json.loads(told.stdout)
        assert found["flagged"]["part"] == part
        for there in (
            "there are no test rows" in said.stdout,
            any(warned),
            any("there are no test rows" in line for line in found["warnings"]),
        ):
            assert there == (part == "validation")
