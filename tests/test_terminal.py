"""What the terminal says of numbers: a sentence, a remedy where it matters, rows by their lines."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import csv
from typer.testing import CliRunner

import taut
from taut.cli import files, terminal
from taut.cli.app import app
from taut.cli.terminal import Units, verdict
from taut.data import Schema
from taut.evidence.baseline import independent_marginals
from taut.runs.folder import data_of
from taut.system.parallel import in_order, telling

ROWS, IMAGES = Units("row", "column"), Units("image", "pixel")
ARRAY = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def _single(_seeded: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)


def evaluated(value: float | None, error: float = 0.1, **more: Any) -> dict[str, Any]:
    gain = {"value": value, "mc_error": 0.01, "test_error": error}
    return {"gain": gain, "reliable_share": 1.0, **more}


def test_a_good_model_is_called_good_and_its_gain_is_a_factor():
    words = verdict(evaluated(math.log(12)), ROWS)
    assert words.startswith(
        "Good: 2.48 ± 0.10 nats per row better than knowing each column alone: it gives an unseen "
        "row 12 times the probability"
    )
    assert words.endswith("(One nat is e = 2.7 times the probability.)")
    assert "10^174 times" in verdict(evaluated(400.0), IMAGES)
    assert "nats per image better than knowing each pixel alone" in verdict(evaluated(9.0), IMAGES)


@pytest.mark.parametrize(("value", "error"), [(0.09, 0.001), (0.29, 0.1), (-0.3, 0.1)])
def test_a_gain_below_a_tenth_of_a_nat_or_three_errors_is_weak(value: float, error: float):
    assert verdict(evaluated(value, error), ROWS).startswith(
        f"Weak: the model is hardly better than knowing each column alone ({value:.2f} ± "
    )


@pytest.mark.parametrize(("error", "shown"), [(68123.9, "± 68123.90"), (None, "± unknown")])
def test_a_gain_that_is_not_known_is_neither_good_nor_weak(error: float | None, shown: str):
    gain = {"value": 26.0, "mc_error": error, "test_error": error}
    words = verdict({"gain": gain, "reliable_share": 1.0}, ROWS)
    assert words.startswith("Unclear: nothing tells if the model is better than knowing each")
    assert f"(26.00 {shown} nats per row)" in words


@pytest.mark.parametrize("value", [26.0, 0.05, -26.0])
def test_one_row_tells_nothing_of_another(value: float):
    """Its Monte Carlo error is not that of the gain."""
    gain = {"value": value, "mc_error": 0.15, "test_error": None}
    words = verdict({"gain": gain, "reliable_share": 1.0}, ROWS)
    assert words.startswith("Unclear: ")
    assert f"({value:.2f} ± unknown nats per row)" in words


def test_what_is_worse_is_not_called_hardly_better():
    words = verdict(evaluated(-14.7, 1.2), ROWS)
    assert words.startswith("Weak: the model is worse than knowing each column alone (-14.70 ± ")
    words = verdict(evaluated(-14.7, 1.2, reliable_share=0.0), ROWS)
    assert words.startswith("Weak: nothing shows that the model is better than knowing each ")
    assert "(at least -14.70 ± 1.20 nats per row)" in words


def test_a_training_that_was_cut_is_not_called_good():
    words = verdict(evaluated(2.0, unfinished=["training was cut"]), ROWS)
    assert words.startswith("Not trained to the end, but 2.00 ± 0.10 nats per row better")


def test_what_is_known_from_below_is_said_to_be_at_least_so_much():
    for share, at_least in ((1.0, False), (0.96, False), (0.9, True), (None, True)):
        words = verdict(evaluated(2.0, reliable_share=share), ROWS)
        assert ("at least 2.00" in words) == at_least, share
    for nothing in ({}, {"gain": None}, evaluated(None)):
        assert verdict(nothing, ROWS) == ""


def test_the_gain_is_the_paired_difference_to_the_baseline():
    np.save("x.npy", ARRAY)
    run = taut.fit("x.npy", "run", latent_dim=2, max_epochs=1, num_samples=5)
    found, data = run.evaluation(), data_of(run)
    assert found["gain"]["value"] == pytest.approx(
        found["log_evidence"]["value"] - found["baseline"]["value"], abs=1e-9
    )
    x = data.test.to(torch.float32)
    evidence = taut.importance(run.model, x, num_samples=5, seed=run.config.training.seed)
    baseline = independent_marginals(data, data.test)
    assert baseline is not None
    if found["by"] == {"importance": len(x)}:
        each = evidence.log_evidence - baseline
        expected = float(each.std() / math.sqrt(len(each)))
        assert found["gain"]["test_error"] == pytest.approx(expected, rel=1e-6)


def numbers(reliable: float, warnings: list[str]) -> dict[str, Any]:
    estimate = {"value": -1.0, "mc_error": 0.1, "test_error": 0.2}
    return {
        "num_data": 200, "data": "test", "elbo": estimate, "log_evidence": estimate,
        "ess": {"mean": 30.8, "smallest": 1.0}, "khat": {"reliable_share": reliable},
        "by": {"importance": 150, "annealing": 50}, "reliable_share": reliable,
        "num_samples": 500, "active_units": 2, "latent_dim": 3, "warnings": warnings,
    }  # fmt: skip


@pytest.mark.parametrize("verbose", [False, True])
def test_the_remedy_stands_where_a_twentieth_of_the_rows_is_doubtful(
    capsys: pytest.CaptureFixture[str], verbose: bool
):
    for reliable, remedy in ((1.0, False), (0.955, False), (0.945, True), (0.0, True)):
        terminal.show_numbers(numbers(reliable, []), ROWS, "runs/a", verbose)
        text = capsys.readouterr().out
        assert ("`taut audit runs/a` measures log p(x) properly" in text) == remedy, reliable
        assert ("effective sample size 30.8 on average, at least 1.0" in text) == verbose
        assert ("annealing for 50" in text) == verbose
        assert "200 test rows" in text
        assert "nats per row" in text


def test_rows_are_named_by_their_lines_where_those_are_known(tmp_path: Path):
    chosen = torch.zeros(30, dtype=torch.bool)
    assert terminal.name_rows(chosen, 2) == ""
    chosen[[4, 7]] = True
    assert terminal.name_rows(chosen) == "2 of 30 rows (4, 7)"
    assert terminal.name_rows(chosen, 2) == "2 of 30 rows (4, 7; lines 6, 9 of the file)"
    assert terminal.name_rows(chosen, most=1) == "2 of 30 rows (4, ...)"
    Path("a.csv").write_text("x,y\n1,2\n3,4\n5,6\n")
    assert files.first_line("a.csv", 3) == 2
    assert files.first_line("a.csv", 4) == 1  # no header
    assert files.first_line("a.csv", 2) is None  # a row of several lines, or lines that are no rows
    assert files.first_line("a.npy", 3) is None
    assert files.first_line(None, 3) is None


def test_a_path_is_shown_as_it_is_typed(tmp_path: Path):
    assert terminal.typed(tmp_path / "data" / "a.csv") == "data/a.csv"
    assert terminal.typed("data/a.csv") == "data/a.csv"
    assert terminal.typed("/elsewhere/a.csv") == "/elsewhere/a.csv"
    assert terminal.typed("digits") == "digits"


def test_units_are_those_of_the_schema():
    image = Schema("binary", (8, 8), 0.0, 1.0)
    assert terminal.units_of(image) == IMAGES
    assert terminal.units_of(Schema("real", (8,), -1.0, 1.0)) == ROWS


def test_blocks_are_told_of_once_each_and_those_within_them_never():
    told: list[int | None] = []

    def compute(task: int) -> int:
        return sum(in_order(range(task), lambda inner: inner))

    with telling(told.append):
        assert list(in_order(range(4), compute)) == [0, 0, 1, 3]
        assert list(in_order(iter([5]), compute)) == [10]
    assert list(in_order(range(2), compute)) == [0, 0]
    assert told == [4, 4, 4, 4, None]


def test_blocks_are_told_of_again_after_an_error():
    told: list[int | None] = []
    with telling(told.append):
        with pytest.raises(ZeroDivisionError):
            list(in_order(range(2), lambda task: 1 // task))
        assert list(in_order(range(1), lambda task: task)) == [0]
    assert told == [1]


def test_ctrl_c_before_the_first_step_leaves_nothing_that_blocks(monkeypatch: pytest.MonkeyPatch):
    np.save("x.npy", ARRAY)
    flags = ["fit", "x.npy", "--out", "run", "--max-epochs", "1", "--num-samples", "5"]

    def stop(*arguments: Any, **settings: Any) -> Any:
        raise KeyboardInterrupt

    for place in ("taut.runs.fit.paced", "taut.runs.fit.train"):
        with monkeypatch.context() as patch:
            patch.setattr(place, stop)
            result = CliRunner().invoke(app, flags)
        assert result.exit_code == 130, result.stderr
        assert result.stderr.splitlines()[-1] == "taut: stopped"
        assert not Path("run").exists(), place
    result = CliRunner().invoke(app, flags)
    assert result.exit_code == 0, result.stderr


def test_fit_ends_with_what_to_do_next_in_commands_that_work():
    rng = np.random.default_rng(1)
    z = rng.normal(size=120)
    lines = [f"{a:.3f},{a + b:.3f}" for a, b in zip(z, rng.normal(size=120) / 3, strict=True)]
    lines[5] = "," + lines[5].split(",")[1]
    Path("my table.csv").write_text("\n".join(["x,y", *lines]) + "\n")
    flags = ["fit", "my table.csv", "--max-epochs", "2", "--num-samples", "5", "--out", "my run"]
    result = CliRunner().invoke(app, flags)
    assert result.exit_code == 0, result.stderr
    told = result.stderr.splitlines()
    at = next(i for i, line in enumerate(told) if line.startswith("done in "))
    commands = [line.partition("#")[0].strip() for line in told[at + 1 :]]
    assert commands == [
        "taut audit 'my run'",
        "taut impute 'my run' 'my table.csv'",
        "taut score 'my run' 'my table.csv' --cells",
    ]
    assert "data       my table.csv: a table" in result.stderr
    filled = CliRunner().invoke(app, ["impute", "my run", "my table.csv"])
    assert filled.stdout == "1 cells filled (0.42 %), in imputed.csv\n"
    Path("empty.csv").write_text("x,y\n,\n,\n")
    none = CliRunner().invoke(app, ["impute", "my run", "empty.csv", "--out", "all.csv"])
    assert none.stdout == "4 cells filled (100 %), in all.csv\n"
    again = CliRunner().invoke(app, ["impute", "my run", "imputed.csv", "--out", "again.csv"])
    assert again.stdout == "no cell is missing: again.csv holds the same rows\n"
    scored = CliRunner().invoke(app, ["score", "my run", "my table.csv", "--cells"])
    assert scored.exit_code == 0, scored.stderr
    rows = [line for line in scored.stdout.splitlines() if line.startswith("  row ")]
    assert len(rows) == 5
    for line in rows:
        number = int(line.split()[1])
        assert line.startswith(f"  row {number} (line {number + 2} of the file): log p(x) ")
    assert scored.stdout.splitlines()[-1] == "the numbers of each row are in scores.csv"
    flags = ["score", "my run", "my table.csv", "--cells", "--out", "more.csv", "--json"]
    told = CliRunner().invoke(app, flags)
    assert told.exit_code == 0, told.stderr
    oddest = json.loads(told.stdout)["oddest"]
    values = csv.read_csv("more.csv").to_pydict()
    assert [f"  row {found['row']}" for found in oddest] == [
        line.partition(" (")[0] for line in rows
    ]
    for found in oddest:
        tails = [each["tail"] for each in found["reasons"]]
        assert tails == sorted(tails)
        for each in found["reasons"]:
            assert each["log_p"] == pytest.approx(values[f"log_p({each['column']})"][found["row"]])


def test_a_tail_is_shown_as_far_as_it_can_be_believed(capsys: pytest.CaptureFixture[str]) -> None:
    reasons = [
        {"column": "pressure", "tail": tail, "log_p": -30.0, "median": 1.0}
        for tail in (3e-84, 2.4e-9, 0.031)
    ]
    found = {"row": 3, "log_evidence": -40.0, "reasons": reasons}
    terminal.show_oddest([found], columns=2, first_line=2)
    assert capsys.readouterr().out.splitlines()[-1] == (
        "  row 3 (line 5 of the file): log p(x) -40.0: pressure <1e-10 (-30.0; 1.0), "
        "pressure 2e-09 (-30.0; 1.0)"
    )
    terminal.show_oddest([])
    assert capsys.readouterr().out == ""
