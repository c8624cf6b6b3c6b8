"""What a longer training would buy, on courses whose continuation is known.

And what is said of a training that was cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from taut.build.config import TrainingConfig
from taut.evidence.doctor import diagnose, named, nothing_found, unfinished
from taut.evidence.progress import as_long_again

COURSES: dict[
    str, Callable[[Any], Any]
] = {  # over the sum of the rates, in units of that of the training
    "fast exponential": lambda u: -5 * np.exp(-u / 0.2),
    "exponential": lambda u: -5 * np.exp(-u / 0.5),
    "slow exponential": lambda u: -5 * np.exp(-u / 2),
    "root": lambda u: -2 * (u + 0.02) ** -0.5,
    "hyperbola": lambda u: -2 / (u + 0.02),
    "logarithm": lambda u: np.log(u + 0.01),
}


def history(
    course: Callable[[Any], Any], lines: int = 60, noise: float = 0.0, seed: int = 0
) -> list[dict[str, Any]]:
    """Returns the history of a training under the usual schedule, the noise of neighbouring lines
    correlated by a half.
    """
    share = np.arange(1, lines + 1) / lines
    rate = 2e-3 * 0.5 * (1 + np.cos(np.pi * share))
    done = np.cumsum(1 + np.cos(np.pi * (share - 0.5 / lines)))
    shocks, error = np.random.default_rng(seed).normal(size=lines), np.zeros(lines)
    for i in range(lines):
        error[i] = 0.5 * error[i - 1] + math.sqrt(0.75) * shocks[i] if i else shocks[i]
    bounds = course(done / done[-1]) + noise * error - 90
    values = zip(bounds.tolist(), rate.tolist(), strict=True)
    return [
        {"step": 100 * i + 100, "epoch": i + 1.0, "validation": v, "learning_rate": r}
        for i, (v, r) in enumerate(values)
    ]


@pytest.mark.parametrize("name", COURSES)
def test_as_long_again_is_foretold_within_its_error(name: str) -> None:
    """Two errors hold the truth without noise, and in 90 % of 40 noisy histories.

    Without noise the error is below a third.
    """
    course = COURSES[name]
    truth = float(course(np.array(2.0)) - course(np.array(1.0)))
    for lines in (20, 60, 200):
        found = as_long_again(history(course, lines))
        assert found is not None
        assert abs(found["value"] - truth) < 2 * found["error"]
        assert found["error"] < max(0.33 * truth, 0.05)
    noisy = [as_long_again(history(course, 100, 0.01, seed)) for seed in range(40)]
    hits = [
        abs(f["value"] - truth) < 2 * f["error"] for f in noisy if f is not None and f["error"] > 0
    ]
    assert len(hits) >= 20  # else the best bound came early, and nothing is to be gained
    assert np.mean(hits) >= 0.9


@pytest.mark.parametrize("name", COURSES)
@pytest.mark.parametrize("noise", [0.1, 0.3, 1.0])
def test_what_a_falling_rate_gains_is_not_promised_again(name: str, noise: float) -> None:
    """The noise of steps holds the bound down by so many nats at the peak rate. Two errors hold the
    truth in 90 % of 40 histories.
    """
    course = COURSES[name]
    truth = float(course(np.array(2.0)) - course(np.array(1.0)))

    def held_down(lines: int, scatter: float = 0.0, seed: int = 0) -> list[dict[str, Any]]:
        known = history(course, lines, scatter, seed)
        peak = max(line["learning_rate"] for line in known)
        return [
            {**line, "validation": line["validation"] - noise * line["learning_rate"] / peak}
            for line in known
        ]

    for lines in (20, 60, 200):
        found = as_long_again(held_down(lines))
        assert found is not None
        assert abs(found["value"] - truth) < 2 * found["error"]
    noisy = [as_long_again(held_down(100, 0.01, seed)) for seed in range(40)]
    assert np.mean([abs(f["value"] - truth) < 2 * f["error"] for f in noisy if f]) >= 0.9


def test_the_error_is_that_of_the_shape_and_not_of_the_level() -> None:
    """A bound of -9000 nats has the same rises, and one of three nats a line three times of
    everything.
    """
    one = as_long_again(history(COURSES["exponential"]))
    far = as_long_again(
        [{**h, "validation": h["validation"] - 9000} for h in history(COURSES["exponential"])]
    )
    steep = as_long_again(history(lambda u: 3 * COURSES["exponential"](u)))
    assert one is not None
    assert far is not None
    assert steep is not None
    assert far["value"] == pytest.approx(one["value"], rel=0.02)
    assert steep["value"] == pytest.approx(3 * one["value"], rel=1e-3)
    assert steep["error"] == pytest.approx(3 * one["error"], rel=1e-2)


def test_what_cannot_be_extrapolated() -> None:
    lines = history(COURSES["exponential"])
    assert as_long_again([]) is None
    assert as_long_again([{**line, "validation": None} for line in lines]) is None
    first = as_long_again(lines[:1])
    assert first == {"value": None, "error": None, "last": None}
    few = as_long_again(history(COURSES["exponential"], 6))
    assert few is not None
    assert few["value"] is None
    assert few["last"] == pytest.approx(
        history(COURSES["exponential"], 6)[5]["validation"] - lines_at(6, 4), abs=1e-12
    )
    falling = as_long_again(history(lambda u: -((u - 0.5) ** 2)))
    assert falling == {"value": 0.0, "error": 0.0, "last": 0.0}


def lines_at(lines: int, number: int) -> float:
    return float(history(COURSES["exponential"], lines)[number - 1]["validation"])


def audited(
    course: Callable[[Any], Any], ended: str | None, lines: int = 60, minutes: float | None = None
) -> dict[str, Any]:
    return {"history": history(course, lines), "training": {"ended": ended, "minutes": minutes}}


def test_a_training_that_was_cut_is_the_first_finding() -> None:
    number = {"value": 5.0, "mc_error": 0.0, "test_error": 0.1}
    gaps = dict.fromkeys(("amortization_gap", "approximation_gap", "inference_gap"), number)
    dead = {"dead": [0, 1], "latent_dim": 2, "rate": number, "noisy": [], "active_units": 0}
    found = diagnose({**audited(COURSES["exponential"], "epochs"), "gaps": gaps, "latents": dead})
    assert [f["name"] for f in found] == [
        "training was cut",
        "collapse",
        "amortization gap",
        "approximation gap",
    ]
    truth = 5 * (math.exp(-2) - math.exp(-4))
    assert found[0]["nats"] == pytest.approx(truth, abs=2 * found[0]["error"])
    assert found[0]["command"] == "taut resume RUN --max-epochs 120"
    (found,) = diagnose(audited(COURSES["exponential"], "time", minutes=1.5))
    assert found["command"] == "taut resume RUN --minutes 1.5"
    (short,) = diagnose(audited(COURSES["exponential"], "time", lines=3, minutes=1))
    assert short["nats"] is None
    assert "too short to say" in short["evidence"]
    (line,) = unfinished(history(COURSES["root"]), "time", TrainingConfig(minutes=2.0))
    assert line.startswith(
        "training was cut: the time was up while the held-out bound still rose; "
    )
    assert line.endswith("train on with `taut resume RUN --minutes 2`")
    assert named(line, "runs/my run").endswith("`taut resume 'runs/my run' --minutes 2`")
    assert named(line, "a\x1b") == line


def test_passes_of_em_are_cut_by_their_limit_alone() -> None:
    """The limit is of each number of states, and the history of all of them; a plan that was made
    to its end leaves nothing to do.
    """
    passes = [{**line, "learning_rate": 0.0} for line in history(COURSES["exponential"], 190)]

    def said(ended: str, **limits: float) -> list[str]:
        tree = "HiddenTree(num_states=16)"
        return unfinished(passes, ended, TrainingConfig(**limits), tree)

    (line,) = said("epochs", max_epochs=40)
    assert line.endswith("`taut fit DATA --model 'HiddenTree(num_states=16)' --max-epochs 80`")
    (line,) = said("time", max_epochs=40)  # of a model that was fitted next to a VAE
    assert line.endswith("`taut fit DATA --model 'HiddenTree(num_states=16)'`")
    (line,) = said("time", max_epochs=40, minutes=3.0)
    assert line.endswith("--minutes 3`")
    assert said("plan") == said("patience") == []


def test_nothing_worth_changing_is_said_of_a_training_that_came_to_its_end_and_of_no_other() -> (
    None
):
    clean = "no gap above 0.1 nat in the bound"
    flat = COURSES["fast exponential"]
    assert nothing_found({}) == clean  # a model that is no run
    for ended in ("patience", "epochs", "time"):
        audit = audited(flat if ended != "patience" else COURSES["exponential"], ended)
        assert diagnose(audit) == []
        assert nothing_found(audit).startswith(clean + "; training had come to its end")
    unknown = [
        {**audited(flat, "epochs"), "missing": {"gaps": "no gradient"}},
        {**audited(flat, "epochs"), "stopped": "time"},
        {"history": [], "training": {"ended": "epochs"}},
        audited(COURSES["exponential"], None, lines=3),
        audited(COURSES["exponential"], None),
    ]
    for audit in unknown:
        assert diagnose(audit) == []
        assert nothing_found(audit).startswith("nothing found in what was measured")
    assert "not measured: gaps" in nothing_found(unknown[0])
    assert "nothing was held out to tell" in nothing_found(unknown[2])
    assert "its history is too short" in nothing_found(unknown[3])
    assert "may add" in nothing_found(unknown[4])
    # for images alone
    assert nothing_found({**audited(flat, "epochs"), "missing": {"blur": ""}}).startswith(clean)
