"""Numbers of one name are one number: at the end of fit, by score, in the audit and its report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from taut.cli.app import app
from taut.evidence.clock import Clock, Whole
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


def printed(*arguments: object) -> dict[str, object]:
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
        assert isinstance(one, dict)
        assert isinstance(other, dict)
        assert f"{one['value']:.3f}" == f"{other['value']:.3f}", name
    little = ["--num-samples", "100", "--num-chains", "4", "--max-temperatures", "5"]
    audited = printed("audit", run, *little, "--num-data", "12", "--json")
    page = (run / "report.html").read_text().replace("&#8722;", "−")
    best = audited["log_evidence"]
    assert isinstance(best, dict)
    assert f"<strong>{plus_minus(best)} nats</strong>" in page


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
