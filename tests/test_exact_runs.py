"""Runs of models whose log p(x) is exact: every number of a run is the model's own, without an
error, and of a hidden tree and a VAE the better one is kept.

Numbers are compared with ``log_prob`` of the model to 1e-10. The two choices were made so clear, by
planted tables, that their paired differences are more than five standard errors: a table without a
difference passes with a probability below 1e-6.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner, Result

import taut
from taut.build.config import Config, ModelConfig, TrainingConfig
from taut.build.spec import known
from taut.build.usual import exact_of, parts_named
from taut.cli.app import app
from taut.cli.options import PARTS
from taut.contrast import ImplicitModel
from taut.data import prepare
from taut.evidence import cells, importance, settle
from taut.evidence.annealing import annealing
from taut.evidence.exact_baseline import in_words
from taut.models import MixtureOfFactorAnalysers
from taut.models.exact import ExactModel
from taut.models.stepwise import StepwiseModel
from taut.runs import candidates, fit
from taut.runs.measure import exact_of_run, log_prob_of
from taut.system import locks, parallel, storage
from taut.system.errors import StorageError, TautWarning, UsageError
from taut.training import checkpoint

TREE = "HiddenTree(num_states=4)"
QUICK = {"max_epochs": 8, "threads": 1, "num_samples": 20}


@pytest.fixture(autouse=True)
def _alone(_seeded: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads, before = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    for variable in [v for v in os.environ if v.startswith("TAUT_")]:
        monkeypatch.delenv(variable)
    yield
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, before)


def planted(rows: int = 400, groups: int = 3, seed: int = 0) -> pd.DataFrame:
    """A mixture: a group, given which a category, a bit, a level and a number are independent."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, rows)
    noise = rng.random((2, rows)) < 0.1
    return pd.DataFrame(
        {
            "word": np.array(list("xyzuvw"))[(group + noise[0]) % groups],
            "bit": np.where((group == 1) ^ noise[1], "yes", "no"),
            "level": rng.poisson(1 + 3 * group),
            "number": 2.0 * group + 0.3 * rng.normal(size=rows),
        }
    )


def surface(rows: int = 800) -> pd.DataFrame:
    """Numbers on a surface that winds through eight dimensions, with a little noise."""
    rng = np.random.default_rng(0)
    place = rng.uniform(-3, 3, (rows, 2))
    ways = rng.normal(size=(2, 8))
    values = np.sin(place @ ways) + 0.02 * rng.normal(size=(rows, 8))
    return pd.DataFrame(values, columns=[f"c{i}" for i in range(8)])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> taut.Run:
    """A hidden tree that was fitted to a planted table with gaps, in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    folder = tmp_path_factory.mktemp("exact")
    table = planted()
    table.loc[::7, "number"] = np.nan
    table.loc[::5, "word"] = None
    table.to_csv(folder / "table.csv", index=False)
    made = taut.fit(str(folder / "table.csv"), folder / "run", model=TREE, **QUICK)
    torch.set_default_dtype(before)
    return made


def log_prob(run: taut.Run, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return run.model.log_prob(x)


def rows_of(run: taut.Run) -> torch.Tensor:
    return run.data().test.to(torch.get_default_dtype())


def command(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


# --- What is measured -----------------------------------------------------------------------------


def test_evidence_is_the_models_own(run: taut.Run) -> None:
    x = rows_of(run)
    log_p = log_prob(run, x)
    first = importance(run.model, x, 50)
    rows = settle(run.model, x, first)
    for found in (first.log_evidence, first.elbo, rows.log_evidence, first.curve[:, -1]):
        assert torch.allclose(found, log_p, atol=1e-10, rtol=0)
    for error in (first.log_evidence_error, first.elbo_error, rows.log_evidence_error):
        assert bool((error == 0).all())
    assert bool(rows.reliable.all())
    assert set(rows.methods) == {"exact"}
    assert torch.allclose(first.rate + first.distortion, -log_p, atol=1e-10, rtol=0)
    evaluation = run.evaluation()
    assert abs(evaluation["log_evidence"]["value"] - float(log_p.mean())) < 1e-10
    assert evaluation["by"] == {"exact": len(x)}
    assert evaluation["inference_gap"]["value"] == 0
    assert evaluation["warnings"] == []


def test_a_given_proposal_is_sampled(run: taut.Run) -> None:
    """The exact posterior as the proposal of importance sampling says what the sum says."""
    x = rows_of(run)[:10]
    posterior = importance(run.model, x, 30, proposal=lambda rows, x, c: run.model.encode(x, c))
    assert torch.allclose(posterior.log_evidence, log_prob(run, x), atol=1e-10, rtol=0)
    assert bool(torch.isneginf(posterior.khat).all())


def test_scores_of_rows_and_cells(run: taut.Run) -> None:
    x = rows_of(run)
    scored = run.score(cells=True)
    log_p = log_prob(run, x)
    assert np.abs(scored["log_evidence"] - log_p.numpy()).max() < 1e-10
    assert set(scored["method"]) == {"exact"}
    for i, column in enumerate(run.schema.modelled):
        without = x.clone()
        without[:, i] = torch.nan
        expected = (log_p - log_prob(run, without)).numpy()
        there = ~x[:, i].isnan().numpy()
        found = scored[f"log_p({column.name})"].to_numpy()
        assert np.abs(found - expected)[there].max() < 1e-10
        assert np.isnan(found[~there]).all()
        assert (scored[f"log_p_error({column.name})"][there] == 0).all()


def test_gaps_are_filled_and_nothing_else_is_changed(run: taut.Run) -> None:
    x = rows_of(run)
    filled = cells.impute(run.model, x, 50, num_imputations=3)
    gaps = x.isnan()
    assert bool(gaps.any())
    for values in (filled.values, *filled.draws):
        assert torch.equal(values[~gaps], x[~gaps])
        assert not bool(values.isnan().any())
    assert bool(filled.reliable.all())


def test_codes_samples_and_reconstructions(run: taut.Run) -> None:
    x = rows_of(run)
    z = run.encode()
    states = run.model.encode(x).marginals.detach().flatten(1).numpy()
    assert np.abs(z.to_numpy() - states).max() < 1e-10
    draws = run.encode(num_samples=5)
    assert draws.shape == (len(x), 5, len(run.schema.modelled))
    assert set(np.unique(draws)) <= {0.0, 1.0, 2.0, 3.0}
    assert list(run.sample(7).columns) == list(run.sample(7).columns)
    assert len(run.sample(7)) == 7
    assert len(run.reconstruct()) == len(x)
    assert len(run.reconstruct(draw=True)) == len(x)


def test_samples_have_the_frequencies_of_the_planted_table(run: taut.Run) -> None:
    """Of 4,000 samples the share of a word; the z-test has a false-alarm rate of 1e-5, next to what
    400 rows tell of it.
    """
    share = (run.sample(4000)["word"] == "x").mean()
    assert abs(share - 1 / 3) < 4.4 * (1 / 4000 + 1 / 250) ** 0.5 * (2 / 9) ** 0.5


# --- The audit ------------------------------------------------------------------------------------


def test_the_audit_says_that_every_gap_is_zero(run: taut.Run) -> None:
    audit = run.audit(effort=taut.Effort(num_samples=100, samples=30))
    x = rows_of(run)
    assert abs(audit["log_evidence"]["value"] - float(log_prob(run, x).mean())) < 1e-10
    assert audit["log_evidence"]["by"]["exact"] == len(x)
    assert audit["evidence"]["exact"]["off_by"] < 1e-10
    exact = "the posterior is exact: every gap is zero"
    for name in ("annealing", "sandwich", "gaps", "naive"):
        assert audit[name] is None
        assert audit["missing"][name] == exact
    page = (run.path / "report.html").read_text()
    assert "is exact, without a Monte Carlo error" in page
    assert "every gap is zero" in page
    assert "importance sampling" not in page.partition("How this was measured")[0]
    text = command("report", run.path)
    assert text.exit_code == 0, text.stderr


def test_an_audit_on_the_command_line(run: taut.Run) -> None:
    done = command("audit", run.path, "--num-data", 20, "--num-samples", 50)
    assert done.exit_code == 0, done.stderr
    assert "log p(x) is by its closed form for 20" in done.stdout
    assert "by annealing" not in done.stderr
    notes = [line for line in done.stdout.splitlines() if "every gap is zero" in line]
    assert len(notes) == 1


# --- The folder -----------------------------------------------------------------------------------


def test_a_run_is_the_same_from_its_folder_and_from_its_seed(run: taut.Run, tmp_path: Path) -> None:
    x = rows_of(run)
    loaded = taut.load(run.path)
    assert torch.equal(log_prob(loaded, x), log_prob(run, x))
    info = json.loads((run.path / "run.json").read_text())
    assert info["config"]["model"] == {**dict.fromkeys(ModelConfig.__annotations__), "model": TREE}
    assert info["ended"] in ("epochs", "patience")
    again = taut.fit(str(run.path.parent / "table.csv"), tmp_path / "r", model=TREE, **QUICK)
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    history = run.history()
    assert [line["step"] for line in history] == list(range(1, len(history) + 1))
    best = max(line["validation"] for line in history)
    assert abs(best - float(log_prob(run, run.data().validation).mean())) < 1e-10


def test_what_the_training_chooses_is_written_down(tmp_path: Path) -> None:
    chosen = taut.fit(planted(200), tmp_path / "r", model="Mixture", **QUICK)
    written = json.loads((tmp_path / "r" / "run.json").read_text())["config"]["model"]["model"]
    assert written == str(
        taut.to_spec(
            chosen.model, ["event_shape", "kinds", *["low", "high"], "num_levels", "knots"]
        )
    )
    assert chosen.model.num_states is not None
    assert taut.load(tmp_path / "r").model.num_states == chosen.model.num_states
    assert "passes" in repr(chosen)


@pytest.mark.parametrize("after", [1, 3])
def test_a_training_that_was_stopped_ends_in_the_same_bits(
    run: taut.Run, tmp_path: Path, after: int
) -> None:
    config = Config(model=ModelConfig(model=TREE), training=TrainingConfig(max_epochs=8, threads=1))
    source = str(run.path.parent / "table.csv")
    stopped, data, state = fit.start(source, tmp_path / "r", config)
    records = fit.train_run(stopped, data, state)
    for _ in range(after):
        next(records)
    with pytest.raises(KeyboardInterrupt):
        records.throw(KeyboardInterrupt())
    assert not (tmp_path / "r" / storage.MANIFEST).exists()
    kept = checkpoint.load_last(tmp_path / "r" / "checkpoints")[1]
    assert kept.step == after
    resumed, data, state = fit.resume(tmp_path / "r")
    made = [record.step for record in fit.train_run(resumed, data, state)]
    assert made == list(range(after + 1, 9))
    list(fit.evaluate(resumed, data))
    loaded = taut.load(tmp_path / "r")
    assert [line["step"] for line in loaded.history()] == list(range(1, 9))
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name]), name


def test_a_training_that_had_ended_is_only_measured(run: taut.Run, tmp_path: Path) -> None:
    config = Config(model=ModelConfig(model=TREE), training=TrainingConfig(max_epochs=4, threads=1))
    source = str(run.path.parent / "table.csv")
    made, data, state = fit.start(source, tmp_path / "r", config)
    list(fit.train_run(made, data, state))
    resumed, data, state = fit.resume(tmp_path / "r")
    assert list(fit.train_run(resumed, data, state)) == []
    list(fit.evaluate(resumed, data))
    for name, value in made.model.state_dict().items():
        assert torch.equal(value, taut.load(tmp_path / "r").model.state_dict()[name]), name


def test_ctrl_c_ends_with_code_130_and_can_be_resumed(tmp_path: Path) -> None:
    planted(3000, groups=6).to_csv(tmp_path / "t.csv", index=False)
    words = ["fit", "t.csv", "--model", "HiddenTree(num_states=64)", "--max-epochs", "4000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "taut", *words, "--out", "r", "--set", "training.patience=1"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    history = tmp_path / "r" / "history.jsonl"
    end = time.monotonic() + 120
    while not (history.exists() and history.read_text().count("\n") > 2):
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "the state is saved: go on with `taut resume r`" in said
    assert checkpoint.load_last(tmp_path / "r" / "checkpoints")[1].step >= 3


def test_minutes_are_obeyed(tmp_path: Path) -> None:
    table = planted(3000, groups=6)
    began = time.monotonic()
    made = taut.fit(
        table, tmp_path / "r", model="HiddenTree(num_states=64)", minutes=0.02, max_epochs=4000
    )
    assert made.info["ended"] == "time"
    assert time.monotonic() - began < 60
    assert len(made.history()) < 4000


# --- What is refused ------------------------------------------------------------------------------


def refused(*words: object) -> str:
    done = command("fit", *words)
    assert done.exit_code == 2, (done.exit_code, done.output)
    assert "Traceback" not in done.output
    return done.stderr.strip().splitlines()[-1]


def test_one_line_for_each_wrong_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    planted(60).to_csv("t.csv", index=False)
    assert "no model is called 'Nope'; choose from VAE, " in refused("t.csv", "--model", "Nope")
    assert "did you mean 'Mixture'?" in refused("t.csv", "--model", "Mixtures")
    tree = ("t.csv", "--model", "HiddenTree")
    for name, value in (
        ("prior", "StandardNormal"),
        ("likelihood", "Columns"),
        ("posterior", "DiagonalNormal"),
        ("encoder", "MLP"),
        ("decoder", "MLP"),
        ("latent-dim", "3"),
        ("objective", "ELBO"),
    ):
        line = refused(*tree, f"--{name}", value)
        assert f"{name.replace('-', '_')} is of a VAE" in line
        assert "--model VAE" in line
    assert "models all columns together" in refused(*tree, "--condition", "bit")
    assert "such as --prior" in refused("t.csv", "--model", "VAE(prior=3)")
    many = refused("t.csv", "--model", "HiddenTree(num_states=100)")
    assert "100 states need at least as many training rows" in many
    assert "num_states must be at least 1" in refused("t.csv", "--model", "Mixture(num_states=0)")
    assert "has no argument 'states'" in refused("t.csv", "--model", "Mixture(states=4)")
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


def test_rows_in_a_file_and_several_processes_are_for_a_vae(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    planted(120).to_parquet("t.parquet")
    line = refused("t.parquet", "--stream", "--model", "HiddenTree")
    assert "give --no-stream, or take --model VAE" in line
    monkeypatch.setattr(parallel, "world", lambda: 2)
    assert "is trained in one process" in refused("t.parquet", "--model", "HiddenTree")


def test_a_constant_column_is_said_and_omitted(tmp_path: Path) -> None:
    table = planted(100).assign(same=3.0)
    made = taut.fit(table, tmp_path / "r", model=TREE, **QUICK)
    assert "same" not in [c.name for c in made.schema.modelled]
    assert any("same" in note for note in made.info["notes"])


def test_what_has_no_meaning_for_an_exact_model(run: taut.Run, tmp_path: Path) -> None:
    for words, expected in (
        (("tighten", run.path), "there is nothing to tighten"),
        (("gradients", run.path), "there are no gradients to compare"),
        (("resume", run.path, "--max-epochs", 9), "cannot be made longer"),
        (("score", run.path, "--regret", "--out", tmp_path / "s.csv"), "none is better"),
    ):
        done = command(*words)
        assert done.exit_code == 2, done.output
        assert expected in done.stderr.strip().splitlines()[-1]
    np.save(tmp_path / "z.npy", np.full((2, 4), 0.5))
    done = command("decode", run.path, tmp_path / "z.npy", "--out", tmp_path / "x.csv")
    assert done.exit_code == 3
    assert "are categories" in done.stderr
    np.save(tmp_path / "z.npy", np.array([[0.0, 1.0, 2.0, 3.0]]))
    done = command("decode", run.path, tmp_path / "z.npy", "--out", tmp_path / "x.csv")
    assert done.exit_code == 0, done.stderr
    with pytest.raises(ValueError, match="discrete"):
        annealing(run.model, rows_of(run)[:2])


def test_names_of_models() -> None:
    whole = (ExactModel, StepwiseModel, taut.VAE, ImplicitModel)
    assert set(PARTS["model"]) == {"VAE", *(name for base in whole for name in known(base))}
    assert exact_of(ModelConfig()) is None
    assert exact_of(ModelConfig(model="VAE")) is None
    assert str(exact_of(ModelConfig(model="Mixture"))) == "Mixture()"
    assert parts_named(ModelConfig(model="VAE")) == []
    assert parts_named(ModelConfig(latent_dim=2, prior="StandardNormal")) == ["latent_dim", "prior"]
    with pytest.raises(UsageError, match="no model is called 'HiddenTre'; did you mean"):
        exact_of(ModelConfig(model="HiddenTre"))


# --- Which model is kept --------------------------------------------------------------------------


def chosen(table: pd.DataFrame, folder: Path, **settings: Any) -> tuple[taut.Run, dict[str, Any]]:
    made = taut.fit(table, folder / "run", threads=1, num_samples=100, **settings)
    return made, made.info["candidates"]


def test_a_planted_mixture_is_given_to_the_tree(tmp_path: Path) -> None:
    made, numbers = chosen(planted(1000), tmp_path, max_epochs=15)
    assert isinstance(made.model, taut.HiddenForest)
    tree, vae = numbers["models"]
    assert numbers["kept"] == tree["model"] == made.config.model.model
    assert vae["model"] == "VAE()"
    x = made.data().validation
    assert abs(tree["value"] - float(log_prob(made, x).mean())) < 1e-6
    apart = numbers["difference"]
    assert abs(tree["value"] - vae["value"] - apart["value"]) < 1e-10
    assert apart["value"] > 5 * apart["test_error"]
    loaded = taut.load(made.path)
    assert torch.equal(log_prob(loaded, x), log_prob(made, x))
    assert "exact_baseline" not in made.evaluation()
    assert made.history()[-1]["learning_rate"] == 0
    audit = made.audit(num_data=20, effort=taut.Effort(num_samples=20, samples=20))
    assert audit["candidates"] == numbers
    first = (made.path / "report.html").read_text().partition("<main>")[2]
    assert first.strip().startswith(f'<p class="verdict">Kept: {numbers["kept"]}')


def planes(rows: int = 300) -> np.ndarray:
    """Rows of two groups, on a plane each."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 2, rows)[:, None]
    plane = rng.normal(size=(2, rows, 2)) @ rng.normal(size=(2, 2, 5))
    return np.where(group, plane[0] + 6, plane[1]) + 0.1 * rng.normal(size=(rows, 5))


def test_rows_of_real_numbers_are_given_to_factor_analysers(tmp_path: Path) -> None:
    made, numbers = chosen(planes(), tmp_path, max_epochs=2)
    assert isinstance(made.model, MixtureOfFactorAnalysers)
    assert made.model.num_components >= 2
    analysers, vae = numbers["models"]
    assert numbers["kept"] == analysers["model"] == made.config.model.model
    assert vae["model"] == "VAE()"
    apart = numbers["difference"]
    assert apart["value"] > 5 * apart["test_error"]
    x = made.data().validation
    assert abs(analysers["value"] - float(log_prob(made, x).mean())) < 1e-5
    # the limit of its own passes, not that of the VAE's
    assert made.config.training.max_epochs == candidates.PASSES[candidates.FACTORS]
    assert made.info["ended"] in ("plan", "patience")


def test_a_vae_of_real_numbers_has_factor_analysers_as_its_baseline(tmp_path: Path) -> None:
    made = taut.fit(planes(120), tmp_path / "r", **QUICK, latent_dim=2)
    assert isinstance(made.model, taut.VAE)
    analysers = exact_of_run(made)
    assert isinstance(analysers, MixtureOfFactorAnalysers)
    known = log_prob_of(analysers, made.data().test)
    assert abs(made.evaluation()["exact_baseline"]["value"] - float(known.mean())) < 1e-9


def test_rows_of_real_numbers_are_given_to_hidden_trees_where_they_may_be_kept() -> None:
    data = prepare(planes(), seed=0)
    assert candidates.rivals(data, True) == [candidates.FOREST, candidates.FACTORS]
    assert candidates.rivals(data, False) == [candidates.FACTORS]


def test_a_table_of_real_numbers_has_the_better_of_two_exact_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pd.DataFrame(planes().round(6), columns=list("abcde"))
    data = prepare(frame, seed=0)
    assert candidates.rivals(data, True) == [candidates.FOREST, candidates.FACTORS]
    assert candidates.in_short(data, True) == "hidden trees, factor analysers"
    for spec in candidates.PASSES:
        monkeypatch.setitem(candidates.PASSES, spec, 10)
    run = taut.fit(frame, tmp_path / "r", model="VAE", **QUICK)
    fits = [candidates._Fit(spec, run, data) for spec in candidates.rivals(data, True)]
    for one in fits:
        list(one.passes())
    low, high = sorted(fits, key=lambda one: one.reached)
    assert high.reached > low.reached + 0.5
    kept = exact_of_run(run)
    assert type(kept) is type(high.model)
    assert abs(float(log_prob_of(kept, data.validation).mean()) - high.reached) < 1e-6


def test_no_factor_analyser_where_its_density_could_exceed_the_precision_of_the_data() -> None:
    """Its scale is at least 0.03 of a column's, its density at most 1 / (0.03 sqrt(2 pi))."""
    x = planes()
    step = candidates.FINE * x[:, 0].std()
    for share, names in (
        (0.9, [candidates.FOREST, candidates.FACTORS]),
        (1.2, [candidates.FOREST]),
    ):
        frame = pd.DataFrame(x.round(6), columns=list("abcde"))
        digit = 10.0 ** np.floor(np.log10(step * share))
        frame["a"] = (x[:, 0] / x[:, 0].std() / candidates.FINE / share).round() * digit
        assert candidates.rivals(prepare(frame, seed=0), True) == names
    with_word = frame.assign(word=["x", "y"] * 150)
    assert candidates.rivals(prepare(with_word, seed=0), True) == [candidates.FOREST]
    wide = np.random.default_rng(0).normal(size=(60, 129))
    assert candidates.rivals(prepare(wide, seed=0), True) == []
    assert candidates.rivals(prepare(wide.reshape(60, 3, 43), seed=0), True) == []


def test_data_with_gaps_keep_what_fills_them_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """log p(x) of the tree is surely higher. Where it loses as much as the VAE by
    filling in, it is kept; where it surely loses more, it is not.
    """
    asked, table = list[taut.Model](), planted(400)
    table.loc[::4, "number"] = np.nan

    def losses(model: taut.Model, x: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        asked.append(model)
        noise = torch.rand(len(x), generator=torch.Generator().manual_seed(len(asked) % 2)) / 10
        return noise + (worse if isinstance(model, ExactModel) else 0.0)

    monkeypatch.setattr(candidates, "filling_losses", losses)
    for worse, kept in ((0.0, "HiddenForest"), (0.5, "VAE")):
        made, numbers = chosen(table, tmp_path / kept, max_epochs=8)
        assert numbers["kept"].startswith(kept)
        assert made.config.model.model == numbers["kept"]
        found, apart = numbers["filling"], numbers["difference"]
        assert apart["value"] > 0
        apart_by = found["vae"]["value"] - found["exact"]["value"]
        assert abs(found["value"] - apart_by) < 1e-10
        assert abs(found["value"] + worse) < 0.1
        said = in_words(numbers)
        assert f"Kept: {numbers['kept']}" in said
        assert (" more. It fills in hidden entries" in said) == (kept == "VAE")
    assert len(asked) == 4
    worse, known = -0.5, candidates.log_prob_of  # a row without a number decides before filling
    gone = torch.tensor([0])
    monkeypatch.setattr(
        candidates, "log_prob_of", lambda model, x: known(model, x).index_fill(0, gone, -torch.inf)
    )
    numbers = chosen(table, tmp_path / "without", max_epochs=2)[1]
    assert numbers["filling"]["value"] > 0
    assert numbers["kept"] == "VAE()"
    monkeypatch.setattr(candidates, "log_prob_of", known)
    assert "filling" not in chosen(planted(), tmp_path / "whole", max_epochs=2)[1]


@pytest.mark.parametrize(
    ("lacking", "nats", "filling", "better"),
    [
        (1, (9.0, 1.0), (9.0, 1.0), False),
        (-1, (-9.0, 1.0), (-9.0, 1.0), True),
        (0, (0.1, 1.0), None, True),
        (0, (-0.1, 1.0), None, False),
        (0, (None, None), None, False),
        (0, (-9.0, 1.0), (2.1, 1.0), True),  # sure of both: whoever has gaps needs them filled
        (0, (9.0, 1.0), (-2.1, 1.0), False),
        (0, (9.0, 1.0), (-1.9, 1.0), True),  # sure of log p(x) alone
        (0, (-9.0, 1.0), (1.9, 1.0), False),
        (0, (1.9, 1.0), (-0.1, 1.0), False),  # sure of neither
        (0, (-1.9, 1.0), (0.1, 1.0), True),
        (0, (-9.0, None), (0.1, None), True),
    ],
)
def test_which_model_is_kept(lacking: int, nats: Any, filling: Any, better: bool) -> None:
    def estimate(values: Any) -> dict[str, Any]:
        return {} if values is None else dict(zip(("value", "test_error"), values, strict=True))

    assert candidates.exact_is_better(lacking, estimate(nats), estimate(filling)) == better


@pytest.mark.slow
def test_a_winding_surface_is_given_to_the_vae(tmp_path: Path) -> None:
    made, numbers = chosen(surface(), tmp_path, max_epochs=150)
    assert isinstance(made.model, taut.VAE)
    assert numbers["kept"] == "VAE()"
    assert numbers["difference"]["value"] < -5 * numbers["difference"]["test_error"]
    evaluation = made.evaluation()
    tree = exact_of_run(made)
    assert tree is not None
    x = made.data().test
    known = log_prob_of(tree, x)
    assert evaluation["exact_baseline"]["model"] == made.info["exact"]["model"]
    assert abs(evaluation["exact_baseline"]["value"] - float(known.mean())) < 1e-9
    gain = evaluation["log_evidence"]["value"] - evaluation["exact_baseline"]["value"]
    assert abs(evaluation["gain_over_exact"]["value"] - gain) < 1e-6


def test_a_tree_that_beats_a_vae_is_said_first(tmp_path: Path) -> None:
    made = taut.fit(planted(), tmp_path / "r", model="VAE", **QUICK)
    assert isinstance(made.model, taut.VAE)
    assert "candidates" not in made.info
    audit = made.audit(num_data=40, effort=taut.Effort(num_samples=50, minutes=0.0))
    tree = exact_of_run(made)
    assert tree is not None
    assert audit["exact_baseline"]["model"] == made.info["exact"]["model"]
    assert audit["exact_baseline"]["gain"]["value"] < 0
    names = [finding["name"] for finding in audit["findings"]]
    assert "exact baseline" in names
    page = (made.path / "report.html").read_text().partition("<main>")[2]
    assert "fitted in seconds and exact, is better than this model" in page.partition("</p>")[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"latent_dim": 2},
        {"prior": "StandardNormal"},
        {"objective": "ELBO"},
        {"model": "VAE"},
        {"validation_fraction": 0.0},
    ],
)
def test_who_names_a_part_gets_a_vae(tmp_path: Path, settings: dict[str, Any]) -> None:
    made = taut.fit(planted(120), tmp_path / "r", **QUICK | settings)
    assert isinstance(made.model, taut.VAE)
    assert "candidates" not in made.info
    assert ("exact" in made.info) == ("validation_fraction" not in settings)


def test_few_rows_get_a_vae_alone(tmp_path: Path) -> None:
    made = taut.fit(planted(40), tmp_path / "r", **QUICK)
    assert isinstance(made.model, taut.VAE)
    assert "exact" not in made.info


def test_rows_that_a_tree_refuses_get_a_vae(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = "HiddenTree(num_states=500)"
    monkeypatch.setattr(candidates, "rivals", lambda data, competes: [many])
    monkeypatch.setitem(candidates.PASSES, many, 40)
    with pytest.warns(TautWarning, match="no baseline by a model that is exact: .*500 states"):
        made = taut.fit(planted(120), tmp_path / "r", **QUICK)
    assert isinstance(made.model, taut.VAE)
    assert "exact" not in json.loads((tmp_path / "r" / "run.json").read_text())


def test_the_choice_is_the_same_after_a_kill_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after each write of the end: what is resumed keeps the same model, to the bit."""
    whole = taut.fit(planted(150), tmp_path / "whole", **QUICK)
    assert isinstance(whole.model, taut.HiddenForest)
    first, data, ended = fit.start(planted(150), tmp_path / "first", configured())
    list(candidates.fit_exact(first, data))
    list(fit.train_run(first, data, ended))
    locks.release(first.path)
    for number in range(1, 6):
        shutil.copytree(first.path, tmp_path / f"{number}")
        made, data, _ = fit.resume(tmp_path / f"{number}", source=planted(150))
        fit.finish(made.model, ended)
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            killed_after(patch, number)
            list(candidates.compare(made, data))
            list(fit.evaluate(made, data))
        locks.release(made.path)
        if (made.path / storage.MANIFEST).exists():
            continue
        resumed, data, state = fit.resume(made.path, source=planted(150))
        list(candidates.fit_exact(resumed, data))
        list(fit.train_run(resumed, data, state))
        list(candidates.compare(resumed, data))
        list(fit.evaluate(resumed, data))
        loaded = taut.load(made.path)
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, loaded.model.state_dict()[name]), (number, name)
        assert loaded.history() == whole.history()


def configured() -> Config:
    training = TrainingConfig(max_epochs=8, threads=1)
    return Config.from_dict({"training": vars(training), "evaluation": {"num_samples": 20}})


def killed_after(patch: pytest.MonkeyPatch, number: int) -> None:
    """Has the writes to a folder stop after so many of them."""
    done = 0
    for name in ("write_tensors", "write_json", "write_bytes"):
        write = getattr(storage, name)

        def counted(*given: Any, write: Any = write, **named: Any) -> Any:
            nonlocal done
            if done == number:
                raise KeyboardInterrupt
            done += 1
            return write(*given, **named)

        patch.setattr(storage, name, counted)


def test_a_longer_training_is_compared_again(tmp_path: Path) -> None:
    planted(150).to_csv(tmp_path / "t.csv", index=False)
    made = taut.fit(str(tmp_path / "t.csv"), tmp_path / "r", model="VAE", **QUICK)
    resumed, data, state = fit.resume(made.path, max_epochs=10)
    assert "candidates" not in resumed.info
    list(fit.train_run(resumed, data, state))
    list(fit.evaluate(resumed, data))
    assert "exact_baseline" in taut.load(made.path).evaluation()


def test_the_command_line_prints_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    planted(150).to_csv("t.csv", index=False)
    done = command("fit", "t.csv", "--max-epochs", 5, "--threads", 1, "--out", "r")
    assert done.exit_code == 0, done.stderr
    info = json.loads(Path("r/run.json").read_text())
    assert f"Kept: {info['candidates']['kept']}, with a log p(x) of -" in done.stdout
    assert "VAE() has -" in done.stdout
    assert "--model VAE trains the other." in done.stdout
    assert "hidden trees and a VAE, of which the best one is kept" in done.stderr
    again = command("resume", "r", "--json")
    assert json.loads(again.stdout)["candidates"] == info["candidates"]


def test_a_damaged_baseline_is_one_line(tmp_path: Path) -> None:
    made = taut.fit(planted(150), tmp_path / "r", model="VAE", **QUICK)
    folder = next((made.path / "exact").glob("step-*"))
    (folder / "state.safetensors").write_bytes(b"nothing")
    with pytest.raises(StorageError, match="is damaged"):
        exact_of_run(taut.load(made.path))


# --- Every model ----------------------------------------------------------------------------------


def numbers(rows: int = 150) -> pd.DataFrame:
    """Three columns of two groups, on a plane each."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 2, rows)
    plane = rng.normal(size=(rows, 2)) @ rng.normal(size=(2, 3))
    values = plane + 5 * group[:, None] + 0.2 * rng.normal(size=(rows, 3))
    values[::6, 1] = np.nan
    return pd.DataFrame(values, columns=["a", "b", "c"])


@pytest.mark.parametrize("name", sorted(known(ExactModel)))
def test_every_exact_model_makes_a_whole_run(name: str, tmp_path: Path) -> None:
    """From the default of its arguments: fitted, loaded, scored, filled in, audited."""
    made = taut.fit(numbers(), tmp_path / "r", model=name, **QUICK)
    loaded = taut.load(tmp_path / "r")
    x = rows_of(made)
    known_here = log_prob(made, x)
    assert torch.equal(log_prob(loaded, x), known_here)
    scored = loaded.score(numbers().iloc[:20], cells=True)
    assert bool(scored["reliable"].all())
    again = importance(made.model, x, 20, proposal=lambda rows, x, c: made.model.encode(x, c))
    assert torch.allclose(again.log_evidence, known_here, atol=1e-9, rtol=0)
    whole = loaded.impute(numbers())
    assert not whole.isna().to_numpy().any()
    assert np.array_equal(whole["a"], numbers()["a"])
    assert len(loaded.sample(5)) == len(loaded.reconstruct(numbers().iloc[:5])) == 5
    assert len(loaded.encode(numbers().iloc[:5])) == 5
    audit = made.audit(num_data=12, effort=taut.Effort(num_samples=20, samples=12))
    assert audit["evidence"]["exact"]["off_by"] < 1e-9
    assert audit["gaps"] is None
    assert (tmp_path / "r" / "report.html").exists()


@pytest.mark.parametrize("name", ["HiddenTree", "Mixture"])
def test_images_have_exact_models_too(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bits = (rng.random((80, 4, 4)) < 0.4).astype(np.uint8)
    made = taut.fit(bits, tmp_path / "r", model=f"{name}(num_states=2)", **QUICK)
    assert (tmp_path / "r" / "samples.png").exists()
    x = rows_of(made)
    assert abs(made.evaluation()["log_evidence"]["value"] - float(log_prob(made, x).mean())) < 1e-10
    assert made.sample(3).shape == (3, 4, 4)
    audit = made.audit(num_data=8, effort=taut.Effort(num_samples=20, samples=8))
    assert audit["blur"] is None or audit["blur"]["num_data"]
