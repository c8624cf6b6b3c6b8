"""``taut choose``: the smallest candidate that is as good as the best, whoever is killed."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from hurried import hurry
from test_tighten import call

import taut
from taut.build.config import Config
from taut.cli.loop import _split
from taut.runs import choose as room
from taut.runs.choose import (
    candidates_of,
    choose,
    join,
    shares_of,
    smallest_within_one_error,
)
from taut.system import locks, storage
from taut.system.errors import StorageError, UsageError

RNG = np.random.default_rng(0)
RANK = 2
WEIGHT = RNG.normal(size=(RANK, 6))
FACTORS = ",".join(f"FactorAnalysis(latent_dim={d})" for d in (1, 2, 3, 4))
CANDIDATES = candidates_of({"model.model": FACTORS.replace("),", ")|").split("|")})


@pytest.fixture(autouse=True)
def _alone(_seeded: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    x = RNG.normal(size=(400, RANK)) @ WEIGHT + 0.5 * RNG.normal(size=(400, 6))
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(room, "PAUSE", 0.01)
    hurry(monkeypatch, "marginals", "trees")
    yield
    torch.set_num_threads(threads)


def chosen(answer: dict[str, Any]) -> str:
    (row,) = [row for row in answer["rows"] if row["chosen"]]
    return str(row["candidate"])


def test_commas_in_brackets_do_not_separate() -> None:
    several, single = _split(["model.model=Mixture(),Flow(a=(1, 2), b=3)", "training.seed=3"])
    assert several == {"model.model": ["Mixture()", "Flow(a=(1, 2), b=3)"]}
    assert single == ["training.seed=3"]
    both = candidates_of({"a.b": ["1", "2"], "a.c": ["x", "y"]})
    assert both == [{"a.b": b, "a.c": c} for b in "12" for c in "xy"]


@pytest.mark.parametrize("text", ["2,", ",2", "2,,3"])
def test_a_value_that_is_empty_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"model\.latent_dim=.*a value between commas is empty"):
        _split([f"model.latent_dim={text}"])


def test_no_candidate_is_trained_twice() -> None:
    twice = candidates_of({"model.latent_dim": ["2", "3", "2"]})
    with pytest.raises(UsageError, match="latent_dim=2 is a candidate twice"):
        room.choose("x.npy", "out", candidates=twice, minutes=1.0)


def test_settings_of_a_candidate_are_kept_where_its_model_has_them() -> None:
    """Those of every model but one written VAE were dropped: a diffusion ran on for 10,000 passes
    where 2 were asked for.
    """
    given = Config.from_dict(
        {
            "model": {"latent_dim": 3, "decoder": "MLP(hidden=(8,))", "prior": "Flow()"},
            "training": {"max_epochs": 2, "learning_rate": 0.01, "objective": "IWAE()"},
        }
    )
    whole = {"latent_dim": 3, "decoder": "MLP(hidden=(8,))", "prior": "Flow()"}
    for spec, parts, passes in (
        ("VAE", whole, 2),
        ("VAE()", whole, 2),
        ("HierarchicalVAE(levels=2)", whole, 2),
        ("MaskedDiffusion()", {"decoder": "MLP(hidden=(8,))"}, 2),
        ("GAN()", {"latent_dim": 3, "decoder": "MLP(hidden=(8,))"}, 2),
        ("Mixture()", {}, None),
    ):
        made = room._settings(given, {"model.model": spec})
        found = {k: v for k, v in dataclasses.asdict(made.model).items() if v is not None}
        assert found == {"model": spec, **parts}, spec
        assert made.training.max_epochs == passes, spec
        assert (made.training.objective == "IWAE()") == (parts == whole)
    halved = room._halved([{"model.model": s} for s in ("VAE()", "Mixture()", "VAE")] + [{}])
    assert halved == [0, 2, 3]


def test_the_smallest_within_one_error() -> None:
    def row(parameters: int, value: float | None, error: float) -> dict[str, Any]:
        return {"parameters": parameters, "difference": {"value": value, "error": error}}

    rows = [row(9, 0.0, 0.0), row(5, -0.1, 0.1), row(3, -0.11, 0.1), row(1, None, 0.1)]
    assert smallest_within_one_error(rows) == 1
    assert smallest_within_one_error([row(9, 0.0, 0.0), row(9, -0.1, 1.0)]) == 0
    assert smallest_within_one_error([row(2, 0.0, 0.0), row(9, -0.1, 1.0)]) == 0


def test_the_true_rank_is_chosen_and_differences_are_paired() -> None:
    answer = choose("x.npy", "study", candidates=CANDIDATES, minutes=9, baselines=False)
    assert chosen(answer) == "model=FactorAnalysis(latent_dim=2)"
    with pytest.raises(taut.UsageError, match=r"study exists: choose another --out$"):
        choose("x.npy", "study", candidates=CANDIDATES, minutes=9, baselines=False)
    assert [row["run"] for row in answer["rows"]] == ["run-1", "run-2", "run-3", "run-4"]
    runs = [taut.load(Path("study", row["run"])) for row in answer["rows"]]
    data = runs[0].data()
    with torch.no_grad():
        each = torch.stack([run.model.log_prob(data.validation).double() for run in runs])
    best = int(each.mean(1).argmax())
    for row, values in zip(answer["rows"], each, strict=True):
        apart = values - each[best]
        assert row["difference"]["value"] == pytest.approx(float(apart.mean()), abs=1e-5)
        error = float(apart.std()) / len(apart) ** 0.5
        assert row["difference"]["error"] == pytest.approx(error, abs=1e-5)
    with torch.no_grad():
        test = runs[1].model.log_prob(data.test).double().mean()
    assert answer["test"]["log_evidence"]["value"] == pytest.approx(float(test), abs=1e-5)
    page = Path("study", "report.html").read_text()
    assert "smallest within one standard error" in page
    assert 'href="run-2/"' in page


@pytest.mark.parametrize("number", [-math.inf, math.inf, math.nan])
def test_a_candidate_without_a_number_for_a_row_is_not_compared(
    number: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one by which a row is impossible, whose mean was taken for a very small number."""
    measured: list[Any] = []

    def first_is_without(*args: Any) -> Any:
        rows = evidence_of(*args)
        if not measured:
            rows.log_evidence[3] = number
        measured.append(rows)
        return rows

    evidence_of = room.evidence_of
    monkeypatch.setattr(room, "evidence_of", first_is_without)
    answer = choose("x.npy", "study", candidates=CANDIDATES[:2], minutes=9, baselines=False)
    assert answer["failed"] == ["model=FactorAnalysis(latent_dim=1)"]
    assert [row["run"] for row in answer["rows"]] == ["run-2"]


def test_seeds_share_the_split_and_widen_the_error() -> None:
    settings = {"training.max_epochs": "1", "model.encoder": "Linear()", "training.threads": "1"}
    candidates = [{**settings, "model.latent_dim": str(d)} for d in (1, 2)]
    answer = choose("x.npy", "study", candidates=candidates, minutes=9, seeds=2, baselines=False)
    runs = [taut.load(Path("study", f"run-{n}")) for n in (1, 2, 3, 4)]
    assert [run.config.training.seed for run in runs] == [0, 0, 1, 1]
    assert len({run.info["data_seed"] for run in runs}) == 1
    first, other = (run.data() for run in (runs[0], runs[2]))
    assert torch.equal(first.validation, other.validation)
    assert not torch.equal(*(next(runs[n].model.parameters()) for n in (0, 2)))
    known = [json.loads(Path("study", f"run-{n}.json").read_text()) for n in (1, 3)]
    each = np.array([one["log_evidence"] for one in known])
    found = answer["rows"][0]["log_evidence"]
    assert found["value"] == pytest.approx(each.mean())
    of_rows = each.mean(0).std(ddof=1) / each.shape[1] ** 0.5
    of_seeds = each.mean(1).std(ddof=1) / 2**0.5
    assert found["error"] == pytest.approx(np.hypot(of_rows, of_seeds))
    assert runs[0].evaluation()["data"] == "validation"


def test_exact_models_are_candidates_where_the_data_allow() -> None:
    answer = choose("x.npy", "study", candidates=CANDIDATES[1:2], minutes=9)
    names = [row["candidate"].removeprefix("model=") for row in answer["rows"]]
    assert names == ["FactorAnalysis(latent_dim=2)", *room.BASELINES]
    assert chosen(answer) in names[0] or "FactorAnalysis" in chosen(answer)


def test_killed_anywhere_the_study_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at each place where something was just written or is about to be: the same answer."""
    few = CANDIDATES[:2]
    whole = choose("x.npy", "whole", candidates=few, minutes=9, baselines=False)

    class Killed(BaseException):
        pass

    calls = at = 0
    while calls >= at:
        at, calls, out = at + 4, 0, Path(f"killed-{at}")

        def dying(function: Any, at: int = at) -> Any:
            def wrapped(*given: Any, **named: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == at:
                    raise Killed
                return function(*given, **named)

            return wrapped

        with monkeypatch.context() as patch:
            for place in ("start", "carry_out", "load", "evidence_of"):
                patch.setattr(room, place, dying(getattr(room, place)))
            patch.setattr(storage, "write_json", dying(storage.write_json))
            patch.setattr(optuna.Study, "tell", dying(optuna.Study.tell))
            try:
                found = choose("x.npy", out, candidates=few, minutes=9, baselines=False)
            except Killed:
                found = None
        locks.release_all()  # as the system does
        if found is None and (out / room.STUDY).exists():
            found = join(None, out)
        assert found in (None, whole), at


SHORT = {"training.max_epochs": "9", "model.encoder": "Linear()", "training.threads": "1"}
SHORT |= {"model.decoder": "Linear()", "model.latent_dim": "2"}
RATES = ("1e-7", "3e-2", "1e-6", "1e-5")
HALVED = [{**SHORT, "training.learning_rate": rate} for rate in RATES]


def test_rungs_end_with_the_whole_and_one_candidate() -> None:
    assert shares_of(1, 3) == [1.0]
    assert shares_of(9, None) == [1.0]
    assert shares_of(4, 2) == [0.25, 0.5, 1.0]
    assert len(shares_of(10, 3)) == 4
    wanted = [{"model.latent_dim": "1"}] * 4 + [{"model.model": "Mixture()"}]
    # 4 trainings of a quarter, 2 of another, one of the last half, and the exact model.
    assert room._whole_minutes(wanted, 2, 3.0) == pytest.approx(1.0)
    assert room._whole_minutes(wanted, None, 10.0) == pytest.approx(2.0)


def passes_of(folder: str) -> list[int]:
    infos = [taut.load(Path(folder, f"run-{n}")).config for n in range(1, 5)]
    return [int(config.training.max_epochs or 0) for config in infos]


def test_halving_finds_what_the_grid_finds_with_fewer_passes() -> None:
    grid = choose("x.npy", "grid", candidates=HALVED, minutes=9, baselines=False)
    halved = choose("x.npy", "halved", candidates=HALVED, minutes=9, baselines=False, halving=2)
    assert chosen(halved) == chosen(grid)
    assert "learning_rate=3e-2" in chosen(grid)
    assert passes_of("grid") == [9] * 4
    assert sorted(passes_of("halved")) == [3, 3, 5, 9]
    stopped = [row.get("stopped") for row in halved["rows"]]
    made = sorted(passes or 9 for passes in stopped)  # 8, 8 and 13 steps, which are whole
    assert made == pytest.approx([3.2, 3.2, 5.2, 9])
    assert stopped[1] is None
    rungs = [storage.read_unbroken_json(Path("halved", f"rung-{n}.json")) for n in (1, 2)]
    assert [len(rung["kept"]) for rung in rungs] == [2, 1]
    assert [len(rung["rows"]) for rung in rungs] == [4, 2]
    best = rungs[0]["rows"][0]
    assert best["difference"] == {"value": 0.0, "error": 0.0}
    ends = [Path("halved", f"run-{n}", "history.jsonl").read_text().splitlines() for n in (1, 2)]
    assert [json.loads(lines[-1])["step"] for lines in ends] == [8, 23]  # 2.5 steps a pass
    assert not any(row.get("stopped") for row in grid["rows"])


@pytest.mark.parametrize(
    "places",
    [
        {"carry_out": 5, "_enqueue": 6},
        pytest.param({"resume": 1, "_decided": 1}, marks=pytest.mark.slow),
    ],
)
def test_killed_in_a_rung_the_halving_goes_on(
    places: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed as it resumes, trains, writes the decision or enqueues by halves: the same answer."""
    given: dict[str, Any] = {"minutes": 9, "baselines": False, "halving": 2}
    whole = choose("x.npy", "whole", candidates=HALVED, **given)

    class Killed(BaseException):
        pass

    for place, at in places.items():
        calls, own = 0, getattr(room, place)

        def dying(*args: Any, own: Any = own, at: int = at, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                raise Killed
            return own(*args, **named)

        with monkeypatch.context() as patch:
            patch.setattr(room, place, dying)
            with pytest.raises(Killed):
                choose("x.npy", f"at-{place}", candidates=HALVED, **given)
        locks.release_all()
        assert join(None, f"at-{place}") == whole, place


@pytest.mark.slow
def test_processes_join_and_one_is_killed(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(taut.__file__).parent.parent)}
    taught = ["--set", "training.max_epochs=200,201,202,203", "--set", "model.latent_dim=2"]
    taught += ["--set", "training.checkpoint_seconds=0", "--set", "training.threads=1"]

    def worker(*words: str) -> Any:
        command = [sys.executable, "-m", "taut", "choose", "x.npy", *words]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

    first = worker("--out", "study", "--no-baselines", "--minutes", "60", *taught)
    while not any(Path("study").glob("run-1/checkpoints/step-*")) and first.poll() is None:
        pass
    others = [worker("--join", "study") for _ in range(2)]
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert [other.wait() for other in others] == [0, 0]
    answer = json.loads(Path("study", room.ANSWER).read_text())
    assert len(answer["rows"]) == 4
    assert not answer["failed"]


def test_a_process_that_ends_last_waits_for_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process holds the folder while it writes the answer: two looks later it is free."""
    choose("x.npy", "study", candidates=CANDIDATES[:2], minutes=9, baselines=False)
    looks = []

    def free(path: Path) -> bool:
        looks.append(path)
        return len(looks) > 2 and locks.acquire(path)

    monkeypatch.setattr(room, "_free", free)
    answer = room.join("x.npy", "study")
    assert answer == json.loads(Path("study", room.ANSWER).read_text())
    assert looks == [Path("study")] * 3


def test_bad_input_is_one_line_before_anything_is_made(tmp_path: Path) -> None:
    np.save("y.npy", RNG.normal(size=(60, 6)))
    choose("x.npy", "study", candidates=CANDIDATES[:1], minutes=9, baselines=False)
    there = set(tmp_path.iterdir())
    for words, said in (
        (("--set", "model.latent_dims=2,3"), "unknown model.latent_dims"),
        (("--set", "latent_dim=2,3"), "unknown section"),
        (("--latent-dim", "2,many"), "model.latent_dim: expected a whole number"),
        (("--prior", "StandardNormal(),Nothing()"), "Nothing"),
        (("--prior", "StandardNormal(),UniformSphere()"), "prior=UniformSphere()"),
        (("--set", "data.test_fraction=0.1,0.2"), "candidates are models of the same data"),
        (("--model", FACTORS, "--minutes", "0.01"), "a training needs at least 1 s"),
        (("--latent-dim", "1,2", "--halving", "1"), "halving"),
        (("--set", "data.validation_fraction=0"), "without validation rows"),
        (("--join", "nothing"), "is not a study"),
        (("--join", "study", "--latent-dim", "2"), "omit all settings"),
        (("--join", "study", "--minutes", "5"), "omit all settings"),
        (("--join", "study", "--seeds", "2"), "omit all settings"),
        (("--join", "study", "--no-baselines"), "omit all settings"),
        (("--join", "study", "--out", "o"), "omit all settings"),
        (("--join", "study", "--kind", "real"), "omit all settings"),
    ):
        result = call("choose", "x.npy", *words)
        assert result.exit_code == 2, (words, result.stderr)
        assert said in result.stderr
        assert set(tmp_path.iterdir()) == there
    for minutes in (-1, math.nan, math.inf, "9"):
        with pytest.raises(UsageError, match="minutes: expected a number above 0"):
            choose("x.npy", candidates=CANDIDATES[:1], minutes=minutes)
    assert set(tmp_path.iterdir()) == there
    result = call("choose", "y.npy", "--join", "study")
    assert result.exit_code == 2
    assert "these are not the data of study" in result.stderr


def test_the_command_prints_the_table() -> None:
    result = call("choose", "x.npy", "--model", FACTORS, "--no-baselines", "--out", "study")
    assert result.exit_code == 0, result.stderr
    assert "chosen: model=FactorAnalysis(latent_dim=2) (run-2)" in result.stdout
    again = call("choose", "x.npy", "--join", "study")
    assert again.stdout == result.stdout


def test_values_may_be_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "join", lambda *_, **__: {})
    values = [{"model.latent_dim": 2, "training.weight_decay": 0.1}]
    taut.choose("x.npy", "numbers", candidates=values, minutes=9, baselines=False)
    known = storage.read_unbroken_json(Path("numbers") / room.STUDY)
    assert known["candidates"] == [{"model.latent_dim": "2", "training.weight_decay": "0.1"}]


def test_where_optuna_is_missing_no_folder_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"pip install 'taut\[choose\]'"):
        choose("x.npy", "without", candidates=CANDIDATES, minutes=9, baselines=False)
    assert not Path("without").exists()


def test_a_journal_that_ends_in_half_a_line_goes_on_and_a_damaged_one_is_refused() -> None:
    """A process that was killed as it wrote; the next line was added to that half."""
    answer = choose("x.npy", "out", candidates=CANDIDATES[:2], minutes=1.0, baselines=False)
    journal = Path("out", room.JOURNAL)
    whole = journal.read_bytes()
    Path("out", room.ANSWER).unlink()
    journal.write_bytes(whole[:-20])
    assert join("x.npy", "out")["rows"] == answer["rows"]
    for content in (b"", b"[1,2]\n", b"nothing\nat all\n", b'{"op_code":99}\n'):
        journal.write_bytes(content)
        with pytest.raises(StorageError, match=r"journal\.log is damaged.*restore it from a copy"):
            join("x.npy", "out")
    journal.unlink()
    with pytest.raises(StorageError, match=r"cannot read out.journal\.log"):
        join("x.npy", "out")
    outside = Path("outside.txt")
    outside.write_bytes(whole)
    journal.symlink_to(outside.resolve())
    with pytest.raises(StorageError, match="links are not followed"):
        join("x.npy", "out")
    assert outside.read_bytes() == whole
