"""Numbers of one name are one number: at the end of fit, by score, in the audit and its report."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from taut.cli.app import app
from taut.evidence.after_training import AfterTraining, _difference
from taut.evidence.clock import Clock, Whole
from taut.evidence.results import Estimate
from taut.evidence.text import plus_minus

QUICK = [
    "--latent-dim", "2", "--encoder", "MLP(hidden=(8,))", "--decoder", "MLP(hidden=(8,))",
    "--max-epochs", "3", "--batch-size", "16", "--threads", "1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _float32(_seeded: None) -> Iterator[None]:
    before, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)
    torch.set_num_threads(threads)


def printed(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.stderr
    return dict(json.loads(result.stdout))


def test_log_p_of_fit_is_that_of_score_and_that_of_the_audit_is_that_of_the_report(
    tmp_path: Path,
) -> None:
    """The same rows, samples and seed: all rows are reliable, so that no method but importance
    sampling comes in. The audit takes more samples and better methods, and says so; its page shows
    its own number.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 1)) + rng.normal(size=(120, 4))
    np.save(tmp_path / "x.npy", x)
    run = tmp_path / "run"
    fitted = printed("fit", tmp_path / "x.npy", *QUICK, "--out", run, "--json")
    scored = printed("score", run, "--out", tmp_path / "s.csv", "--json")
    assert fitted["by"] == scored["by"]
    for name in ("log_evidence", "elbo", "rate", "distortion", "inference_gap"):
        one, other = fitted[name], scored[name]
        assert f"{one['value']:.3f}" == f"{other['value']:.3f}", name
    little = ["--num-samples", "100", "--num-chains", "4", "--max-temperatures", "5"]
    audited = printed("audit", run, *little, "--num-data", "12", "--json")
    page = (run / "report.html").read_text().replace("&#8722;", "−")
    best = audited["log_evidence"]
    assert f"<strong>{plus_minus(best)} nats</strong>" in page
    assert (
        f"After training, log p(x) of all 12 test rows was measured as "
        f"{plus_minus(fitted['log_evidence'])} with K = 500; this audit measures the same 12 with "
        f"K = 100 and differs by "
    ) in page


def test_log_p_of_an_exact_model_is_the_same_in_fit_and_audit(tmp_path: Path) -> None:
    """The same rows, whose log p(x) has a closed form: every digit that is shown is the same."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(120, 1)) + rng.normal(size=(120, 4)))
    run = tmp_path / "run"
    exact = ["--model", "FactorAnalysis()", "--max-epochs", "3", "--threads", "1"]
    fitted = printed("fit", tmp_path / "x.npy", *exact, "--out", run, "--json")
    audited = printed("audit", run, "--task-seconds", "0", "--json")
    for name in ("log_evidence", "baseline"):
        one, other = fitted[name], audited[name]
        assert f"{one['value']:.6f}" == f"{other['value']:.6f}", name
        assert plus_minus(one) == plus_minus(other), name
    page = (run / "report.html").read_text()
    said = plus_minus(fitted["log_evidence"])
    assert (
        f"After training, log p(x) of all 12 test rows was measured as {said}; this audit measures "
        f"the same 12 in closed form."
    ) in page


def test_a_part_of_the_rows_differs_by_the_draw_of_them() -> None:
    """Of 6 numbers, all 20 ways to draw 3: the mean of the squared errors that are told is the mean
    of the squared differences, exactly. Of all rows there is no draw, only samples.
    """
    values = torch.tensor([1.0, 2.0, 4.0, 7.0, 11.0, 12.5], dtype=torch.float64)
    whole = Estimate.of(values, torch.zeros_like(values)).to_dict()
    told, true = [], []
    for part in itertools.combinations(range(6), 3):
        some = values[list(part)]
        now = Estimate.of(some, torch.zeros_like(some)).to_dict()
        found = _difference(now, whole, 0.5)
        assert found["value"] is not None
        assert found["test_error"] is not None
        told.append(found["test_error"] ** 2)
        true.append(found["value"] ** 2)
    assert np.mean(told) == pytest.approx(np.mean(true), abs=1e-12)
    before = {"value": 1.0, "mc_error": 0.3, "test_error": 2.0}
    now = {"value": 1.5, "mc_error": 0.4, "test_error": 2.0}
    assert _difference(now, before, 0.0) == {"value": 0.5, "mc_error": 0.5, "test_error": None}
    assert _difference(now, {**before, "value": None}, 0.0)["value"] is None


def test_a_number_after_training_that_was_not_reliable_is_called_so() -> None:
    values = {
        **{"value": -80.47, "mc_error": 0.02, "test_error": 0.5},
        **{"num_data": 360, "num_samples": 500, "part": "test", "reliable_share": 0.6},
        "here": {"num_data": 180, "num_samples": 5000},
        "difference": {"value": 0.4, "mc_error": 0.03, "test_error": 0.5},
    }
    assert AfterTraining(values, "image").line().replace("\N{NO-BREAK SPACE}", " ") == (
        "After training, log p(x) of all 360 test images was measured as −80.47 ± 0.50 with "
        "K = 500, reliable for 60 % of them; this audit measures 180 of them, drawn at random, "
        "with K = 5,000 and differs by 0.40 ± 0.50 (the error of the draw and of the samples)."
    )


def test_the_time_left_follows_from_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of stages with work 2, 1 and 3: after the first took 20 s, 10 s a unit remain for the rest;
    inside of a stage its own pace counts.
    """
    now = [100.0]
    monkeypatch.setattr("taut.evidence.clock.time.monotonic", lambda: now[0])
    told: list[tuple[str, float, Whole]] = []
    clock = Clock(report=lambda *given: told.append(given))
    clock.expect({"a": 2.0, "b": 1.0, "c": 3.0})
    clock.stage("a", 0.3)
    now[0] += 20
    clock.stage("b", 0.3)
    now[0] += 30
    clock.report(0.5)
    titles, shares, wholes = zip(*told, strict=True)
    assert (titles, shares) == (("a", "b", "b"), (0.0, 0.0, 0.5))
    assert wholes[0] == Whole(1, 3, 0.0, None)
    assert wholes[1] == Whole(2, 3, 2 / 6, 40.0)
    # b took 30 s for its half; c is 3 units at 50 s for the 2.5 that are done
    assert wholes[2] == Whole(2, 3, 2.5 / 6, 30.0 + 60.0)
    late = Clock(minutes=1.0, report=lambda *given: told.append(given))
    late.expect({"a": 1.0, "b": 99.0})
    late.stage("a", 0.5)
    now[0] += 20
    late.stage("b", 0.5)
    assert told[-1][2].left == 40.0  # what the minutes allow


def test_a_little_work_foretells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exact model's first stage is a hundredth of the work: its pace said hours for seconds."""
    now, told = [100.0], list[Whole]()
    monkeypatch.setattr("taut.evidence.clock.time.monotonic", lambda: now[0])
    clock = Clock(report=lambda _title, _share, whole: told.append(whole))
    clock.expect({"a": 1.0, "b": 4.0, "c": 95.0})
    for stage in "abc":
        clock.stage(stage, 0.3)
        now[0] += 20
    assert [whole.left for whole in told] == [None, None, 40.0 / 5 * 95]
