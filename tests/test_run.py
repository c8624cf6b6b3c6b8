"""The run folder: the same seed gives the same bits, whatever happens on the way.

A damaged one is never believed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import taut
from taut.build.config import Config
from taut.data import Dataset, Schema
from taut.runs.fit import evaluate, resume, start, train_run
from taut.runs.folder import Stored, abandon, data_of, find_device, make_folder
from taut.runs.measure import draw_pictures
from taut.system import storage
from taut.system.errors import DataError, DivergedError, StorageError, TautError, UsageError
from taut.training import checkpoint
from taut.training.loop import Record

RNG = np.random.default_rng(0)
BITS = (RNG.random((60, 4, 4)) < 0.4).astype(np.uint8)
REAL = RNG.normal(size=(60, 3))
# 48 training rows make 6 steps an epoch: 50 epochs are 300 steps, three intervals of 100.
SMALL: dict[str, Any] = {
    "latent_dim": 2,
    "encoder": "MLP(hidden=(8,))",
    "decoder": "MLP(hidden=(8,))",
    "max_epochs": 50,
    "batch_size": 8,
    "num_samples": 6,
    "checkpoint_seconds": 0,
    "patience": 5,
    "threads": 1,
}
QUICK = SMALL | {"max_epochs": 1}
FILES = {
    "run.json",
    "history.jsonl",
    "model.safetensors",
    "evaluation.json",
    "samples.png",
    "reconstructions.png",
}


@pytest.fixture(autouse=True)
def _single_precision(_seeded: None) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_num_threads(threads)


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the files of a folder but for what its clock says."""
    files = (path for path in folder.iterdir() if path.is_file() and path.name != checkpoint.CLOCK)
    return {path.name: path.read_bytes() for path in files}


def test_a_checkpoint_says_how_long_the_training_took_and_adds_what_went_before(
    tmp_path: Path,
) -> None:
    np.save(tmp_path / "bits.npy", BITS)
    run = taut.fit(tmp_path / "bits.npy", tmp_path / "run", **QUICK)
    folder = run.path / "checkpoints"
    first = checkpoint.seconds_trained(folder)
    assert first is not None
    (checkpoint.latest(folder) / checkpoint.CLOCK).write_text("1000.0\n")
    extended, data, state = resume(run.path, max_epochs=2)
    for _ in train_run(extended, data, state):
        pass
    assert 1000 < (checkpoint.seconds_trained(folder) or 0) < 1000 + 600
    for damage in ("", "nan\n", "-1\n", "long\n"):
        (checkpoint.latest(folder) / checkpoint.CLOCK).write_text(damage)
        assert checkpoint.seconds_trained(folder) is None
        assert checkpoint.load(checkpoint.latest(folder)).seconds == 0
    assert checkpoint.seconds_trained(tmp_path / "nothing") is None


def one_line(error: pytest.ExceptionInfo[TautError], *words: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def finish_run(path: Path) -> None:
    run, data, state = resume(path)
    for _ in train_run(run, data, state):
        pass
    for _ in evaluate(run, data):
        pass


# ------------------------------------------------------------------------------------ what is there


def test_a_run_leaves_everything_and_each_file_has_its_checksum(tmp_path: Path):
    np.save(tmp_path / "bits.npy", BITS)
    run = taut.fit(tmp_path / "bits.npy", tmp_path / "run", **SMALL)
    found = contents(tmp_path / "run")
    assert found.keys() == FILES | {"manifest.json"}
    assert json.loads(found["manifest.json"]) == {
        name: hashlib.sha256(found[name]).hexdigest() for name in FILES
    }
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "step-000000200",
        "step-000000300",
    ]
    assert [line["step"] for line in run.history()] == [100, 200, 300]
    assert [line["epoch"] for line in run.history()] == pytest.approx([100 / 6, 200 / 6, 50])
    info = json.loads(found["run.json"])
    assert info["source"] == str(tmp_path / "bits.npy")
    assert info["rows"] == {"train": 48, "validation": 6, "test": 6}
    assert info["total_steps"] == 300
    assert Config.from_dict(info["config"]) == run.config
    # resolved: what followed from the data is written down
    assert run.config.model.likelihood == "Bernoulli()"
    for name in ("samples.png", "reconstructions.png"):
        assert found[name].startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize(
    ("count", "shown"),
    [(95, [0, 9, 19, 28, 38, 47, 57, 66, 76, 85]), (10, list(range(10))), (3, [0, 1, 2])],
)
def test_reconstructions_are_spread_over_rows_that_are_sorted_by_class(
    count: int, shown: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    grids: list[torch.Tensor] = []
    monkeypatch.setattr(
        "taut.runs.measure.pictures.grid", lambda x, *_: grids.append(x) or torch.zeros(1, 1)
    )
    monkeypatch.setattr("taut.runs.measure.pictures.to_png", lambda *_: b"")
    rows = torch.arange(count, dtype=torch.float32)[:, None, None].expand(-1, 4, 4)
    data = Dataset(
        Schema("levels", (4, 4), 0.0, 99.0),
        rows[:1],
        rows[:0],
        rows,
        None,
        None,
        None,
        (),
        "",
        "",
        "none",
    )
    model = taut.VAE(taut.StandardNormal(2), taut.Normal((4, 4), 2), taut.DiagonalNormal((4, 4), 2))
    draw_pictures(model, data, 0)
    assert [x.shape[0] for x in grids] == [40, 40, *[len(shown)] * 3]
    assert grids[2][:, 0, 0].tolist() == shown


def test_loading_gives_the_model_that_was_measured(tmp_path: Path):
    trained = taut.fit(BITS, tmp_path / "run", **QUICK)
    run = taut.load(tmp_path / "run")
    assert not run.model.training
    assert run.config == trained.config
    assert run.model.state_dict().keys() == trained.model.state_dict().keys()
    assert all(
        torch.equal(v, trained.model.state_dict()[k]) for k, v in run.model.state_dict().items()
    )
    result = run.evaluation()
    assert result["data"] == "test"
    x = data_of(run, BITS).test
    again = taut.importance(run.model, x, num_samples=6, seed=run.config.training.seed).to_dict()
    del again["method"]  # a row that it cannot tell would have another
    assert {k: result[k] for k in again} == again


def test_the_weights_are_the_best_ones_of_the_validation(tmp_path: Path):
    taut.fit(BITS, tmp_path / "run", **SMALL)
    state = checkpoint.load(checkpoint.latest(tmp_path / "run" / "checkpoints"))
    kept = storage.read_tensors(tmp_path / "run" / "model.safetensors")
    assert {f"best.{k}": v.tolist() for k, v in kept.items()} == {
        k: v.tolist() for k, v in state.tensors.items() if k.startswith("best.")
    }


@pytest.mark.parametrize(
    ("data", "settings", "part", "pictures"),
    [
        (BITS, {}, "test", True),
        (BITS, {"test_fraction": 0}, "validation", True),
        (BITS, {"test_fraction": 0, "validation_fraction": 0}, "train", True),
        (REAL, {}, "test", False),
        (REAL, {"test": REAL[:7]}, "test", False),
    ],
)
def test_what_is_measured(
    tmp_path: Path, data: np.ndarray, settings: dict[str, Any], part: str, pictures: bool
):
    run = taut.fit(data, tmp_path / "run", **QUICK | settings)
    result = run.evaluation()
    assert result["data"] == part
    assert (
        result["num_data"]
        == {"train": 60, "validation": 6, "test": 7 if "test" in settings else 6}[part]
    )
    assert (tmp_path / "run" / "samples.png").exists() == pictures
    assert ("bits_per_dimension" in result) == pictures  # bits per dimension are of discrete data
    if pictures:
        bits = result["bits_per_dimension"]["elbo"]["value"]
        assert bits == pytest.approx(-result["elbo"]["value"] / (16 * math.log(2)), rel=1e-12)


def test_nothing_to_measure_on_is_refused_before_training(tmp_path: Path):
    grey = np.arange(60 * 4, dtype=np.uint8).reshape(60, 4)
    with pytest.raises(DataError) as caught:
        taut.fit(
            grey,
            tmp_path / "run",
            binarize="dynamic",
            test_fraction=0,
            validation_fraction=0,
            **QUICK,
        )
    one_line(caught, "nothing is held out", "--test FILE")
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------- same bits


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path: Path):
    np.save(tmp_path / "bits.npy", BITS)
    folders = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(folders))  # what the user did before makes no difference
        taut.fit(
            tmp_path / "bits.npy",
            tmp_path / name,
            **QUICK | {"seed": seed, "objective": "IWAE(num_samples=2)"},
        )
        folders.append(contents(tmp_path / name))
    assert folders[0] == folders[1]
    for name in ("history.jsonl", "model.safetensors", "evaluation.json", "samples.png"):
        assert folders[0][name] != folders[2][name]


def test_the_randomness_of_the_user_is_left_alone(tmp_path: Path):
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    taut.fit(BITS, tmp_path / "run", **QUICK)
    taut.load(tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


# ------------------------------------------------------------------------------------------ stopped

# One process imports taut; for each job it forks a child that trains and that a signal meets at the
# n-th call of a function.
HELPER = textwrap.dedent("""
    import importlib, json, os, sys
    from pathlib import Path
    import torch, taut, taut.cli.app, taut.training.loop
    # what a training imports, once for all children
    import PIL.Image, safetensors.torch, taut.evidence.verdict, taut.runs.fit

    weights = torch.nn.Parameter(torch.zeros(3))
    weights.grad = torch.ones(3)
    # likewise what an optimizer needs
    torch.optim.AdamW([weights], fused=True).step()

    def run(job):
        os.chdir(job["cwd"])
        taut.training.loop.LEAST = job["interval"]
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(job["out"] + "." + name, os.O_WRONLY | os.O_CREAT), descriptor)
        count = 0
        module, name = job["at"].rsplit(".", 1)
        owner = importlib.import_module(module)
        original = getattr(owner, name)
        def patched(*args, **kwargs):
            nonlocal count
            count += 1
            if count == job["n"]:
                os.kill(os.getpid(), job["signal"])
            return original(*args, **kwargs)
        setattr(owner, name, patched)
        sys.argv = ["taut", *job["args"]]
        taut.cli.app.main()

    statuses = []
    for job in json.load(sys.stdin):
        child = os.fork()
        if child == 0:
            code = 0
            try:
                run(job)
            except SystemExit as exit:
                code = exit.code or 0
            except BaseException:
                code = 99
            sys.stdout.flush(); sys.stderr.flush()
            os._exit(code)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(statuses))
""")

# 12 epochs are 72 steps, three intervals of 24.
EPOCHS, INTERVAL = 12, 24
STEP, SYNC, CAPTURE = "taut.training.loop.batch", "os.fsync", "taut.training.loop._capture"
RECORD, SHOW = "json.dumps", "taut.cli.terminal._text"
# batch: one call a step. _capture: one call before the first step and one after each interval.
# _text: one call a line shown. fsync: 1, 2 run.json; an interval makes 9: 1 history, 2 + 2 + 2 the
# files of the checkpoint, 2 its folder; later, each file 2.
KILLS = [(SYNC, n) for n in (12, 13, 14, 16, 18, 19, 20, 21, 29, 30, 31, 33, 36)] + [
    (STEP, 29),
    (STEP, 71),
    (CAPTURE, 3),
]
EARLY = [(STEP, 1), (STEP, 19), (SYNC, 3), (SYNC, 10)]
STOPS = [
    (STEP, 1),
    (STEP, 19),
    (STEP, 37),
    (STEP, 72),
    (CAPTURE, 3),
    (SYNC, 14),
    (SYNC, 19),
    (RECORD, 5),
    (RECORD, 6),
    (SHOW, 9),
    (SHOW, 10),
    (SYNC, 32),
]


@pytest.fixture
def _short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taut.training.loop.LEAST", INTERVAL)


@pytest.fixture(scope="module")
def stopped(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[tuple[str, int, int], int]]:
    """A run that nothing stopped, and runs that a signal stopped, by the place, the count and the
    signal; with exit codes.
    """
    folder = tmp_path_factory.mktemp("stopped")
    np.save(folder / "bits.npy", BITS)
    flags = [
        f
        for k, v in SMALL.items()
        if k not in ("checkpoint_seconds", "patience", "max_epochs")
        for f in (f"--{k.replace('_', '-')}", str(v))
    ]
    flags += ["--set", "training.checkpoint_seconds=0", "--set", "training.patience=5"]
    # nothing is measured before the first step
    flags += [
        "--max-epochs",
        str(EPOCHS),
        "--threads",
        "1",
        "--set",
        "training.compile=off",
    ]
    signals = [signal.SIGTERM, signal.SIGINT]
    wanted = [(at, n, int(signal.SIGKILL)) for at, n in KILLS + EARLY]
    wanted += [(at, n, int(signals[i % 2])) for i, (at, n) in enumerate(STOPS)]
    wanted += [(STEP, 10**9, 0)]
    jobs = [
        {
            "cwd": str(folder),
            "at": at,
            "n": n,
            "signal": number,
            "interval": INTERVAL,
            "out": str(folder / name(at, n, number)),
            "args": ["fit", "bits.npy", "--out", name(at, n, number), *flags],
        }
        for at, n, number in wanted
    ]
    result = subprocess.run(
        [sys.executable, "-c", HELPER],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
    )
    codes = dict(zip(wanted, json.loads(result.stdout), strict=True))
    assert codes[STEP, 10**9, 0] == 0, (folder / f"{name(STEP, 10**9, 0)}.stderr").read_text()
    return folder, codes


def name(at: str, n: int, number: int) -> str:
    return f"{at.rpartition('.')[2]}-{n}-{number}"


def assert_like_the_unbroken_run(folder: Path, path: Path) -> None:
    unbroken = contents(folder / name(STEP, 10**9, 0))
    assert unbroken.keys() == FILES | {"manifest.json"}
    assert contents(path) == unbroken
    found, expected = (
        checkpoint.latest(p / "checkpoints") for p in (path, folder / name(STEP, 10**9, 0))
    )
    assert contents(found) == contents(expected)


@pytest.mark.usefixtures("_short_intervals")
@pytest.mark.parametrize(("at", "n"), KILLS)
def test_killed_anywhere_a_resumed_run_ends_in_the_same_bits(
    stopped: tuple[Path, dict[tuple[str, int, int], int]], at: str, n: int
):
    folder, codes = stopped
    assert codes[at, n, signal.SIGKILL] == -signal.SIGKILL
    path = folder / name(at, n, signal.SIGKILL)
    with pytest.raises(StorageError) as caught:
        taut.load(path)
    one_line(caught, f"{path} is not finished: run `taut resume {path}` first")
    finish_run(path)
    assert_like_the_unbroken_run(folder, path)


@pytest.mark.parametrize(("at", "n"), EARLY)
def test_killed_before_the_first_checkpoint_there_is_nothing_to_resume(
    stopped: tuple[Path, dict[tuple[str, int, int], int]], at: str, n: int
):
    folder, codes = stopped
    assert codes[at, n, signal.SIGKILL] == -signal.SIGKILL
    path = folder / name(at, n, signal.SIGKILL)
    with pytest.raises(StorageError) as caught:
        resume(path)
    one_line(caught, "no checkpoint", "nothing was trained yet", "`taut fit` again")
    assert make_folder(path, "", overwrite=False) == path  # and for that it is free
    assert [p.name for p in path.iterdir()] == [".lock"]
    abandon(path)
    assert not path.exists()


@pytest.mark.usefixtures("_short_intervals")
@pytest.mark.parametrize(
    ("number", "at", "n"),
    [((signal.SIGTERM, signal.SIGINT)[i % 2], *s) for i, s in enumerate(STOPS)],
)
def test_stopped_anywhere_the_state_is_saved_and_a_resumed_run_ends_in_the_same_bits(
    stopped: tuple[Path, dict[tuple[str, int, int], int]], number: int, at: str, n: int
):
    folder, codes = stopped
    path = folder / name(at, n, number)
    lines = path.with_suffix(".stderr").read_text().splitlines()
    assert codes[at, n, number] == {signal.SIGTERM: 143, signal.SIGINT: 130}[number], lines
    assert lines[-1] == f"taut: stopped, the state is saved: go on with `taut resume {path.name}`"
    assert not any("Traceback" in line for line in lines)
    finish_run(path)
    assert_like_the_unbroken_run(folder, path)


@pytest.mark.usefixtures("_short_intervals")
def test_a_line_of_the_history_that_a_kill_cut_off_is_dropped(
    stopped: tuple[Path, dict[tuple[str, int, int], int]], tmp_path: Path
):
    folder, _ = stopped
    path = tmp_path / "run"
    shutil.copytree(folder / name(STEP, 10**9, 0), path)
    for file in ("manifest.json", "model.safetensors", "evaluation.json"):
        (path / file).unlink()
    shutil.rmtree(path / "checkpoints" / "step-000000072")
    (path / ".taut-0123456789abcdef").write_bytes(b"half a file")
    history = (path / "history.jsonl").read_bytes()
    (path / "history.jsonl").write_bytes(history[:-20])
    run, _, state = resume(path)
    assert state.step == 48
    assert (path / "history.jsonl").read_bytes() == b"".join(history.splitlines(True)[:2])
    assert [line["step"] for line in run.history()] == [24, 48]
    finish_run(path)
    assert_like_the_unbroken_run(folder, path)


def test_the_clock_ends_a_run_after_an_interval_and_it_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = Config.from_dict(
        {
            "model": {k: SMALL[k] for k in ("latent_dim", "encoder", "decoder")},
            "training": {
                "max_epochs": 50,
                "batch_size": 8,
                "minutes": 1e-9,
                "checkpoint_seconds": 1e9,
            },
        }
    )
    run, data, state = start(BITS, tmp_path / "run", config)
    state.total_steps = 300  # as planned where the clock runs slower
    records = list(train_run(run, data, state))
    assert [record.step for record in records] == [100]
    saved = checkpoint.load(checkpoint.latest(tmp_path / "run" / "checkpoints"))
    assert (saved.step, saved.done) == (100, True)


# ----------------------------------------------------------------------------------------- extended


def extended(path: Path, **more: Any) -> tuple[Stored, list[Record]]:
    run, data, state = resume(path, source=BITS, **more)
    records = list(train_run(run, data, state))
    for _ in evaluate(run, data):
        pass
    return run, records


def test_why_a_training_ended_is_kept(tmp_path: Path):
    assert taut.fit(BITS, tmp_path / "a", **QUICK).info["ended"] == "epochs"
    run = taut.fit(BITS, tmp_path / "b", **SMALL | {"learning_rate": 0.0, "patience": 0.3})
    assert (run.info["ended"], run.history()[-1]["step"]) == ("patience", 200)
    assert (
        taut.fit(BITS, tmp_path / "c", **QUICK | {"minutes": 1e-9, "max_epochs": None}).info[
            "ended"
        ]
        == "time"
    )
    assert taut.fit(BITS, tmp_path / "d", **QUICK | {"minutes": 10.0}).info["ended"] == "epochs"
    for name, ended in (("a", "epochs"), ("b", "patience"), ("c", "time"), ("d", "epochs")):
        assert taut.load(tmp_path / name).info["ended"] == ended
    assert (
        taut.load(tmp_path / "a")
        .evaluation()["unfinished"][0]
        .endswith("train on with `taut resume RUN --max-epochs 2`")
    )
    assert taut.load(tmp_path / "b").evaluation()["unfinished"] == []


def test_a_finished_run_is_extended_with_a_schedule_of_its_own(tmp_path: Path):
    """300 steps and then 300 more.

    The second half has the rates of the first, and Adam goes on where it was.
    """
    before = taut.fit(BITS, tmp_path / "run", **SMALL)
    first, weights = before.history(), before.model.state_dict()
    (tmp_path / "run" / "audit.json").write_text("{}")
    run, records = extended(tmp_path / "run", max_epochs=100)
    assert [r.step for r in records] == [400, 500, 600]
    assert [r.learning_rate for r in records] == [line["learning_rate"] for line in first]
    assert run.history()[:3] == first
    assert [line["step"] for line in run.history()] == [100, 200, 300, 400, 500, 600]
    loaded = taut.load(tmp_path / "run")
    assert loaded.info["extended"] == [300]
    assert (loaded.info["total_steps"], loaded.info["ended"]) == (600, "epochs")
    assert loaded.config.training.max_epochs == 100
    assert not (tmp_path / "run" / "audit.json").exists()  # it was of other weights
    best = max(run.history(), key=lambda line: line["validation"])
    changed = any(not torch.equal(v, weights[k]) for k, v in loaded.model.state_dict().items())
    assert changed == (best["step"] > 300)  # the best of the whole are kept
    with pytest.raises(
        UsageError, match="100 passes over its training data: give --max-epochs a larger number"
    ):
        resume(tmp_path / "run", source=BITS, max_epochs=100)
    taut.load(tmp_path / "run")  # it is finished still


def test_an_extended_run_that_is_stopped_ends_in_the_bits_of_one_that_is_not(tmp_path: Path):
    for name in ("whole", "stopped"):
        taut.fit(BITS, tmp_path / name, **SMALL)
    extended(tmp_path / "whole", max_epochs=100)
    run, data, state = resume(tmp_path / "stopped", source=BITS, max_epochs=100)
    with contextlib.closing(train_run(run, data, state)) as records:
        next(records)
    extended(tmp_path / "stopped")
    assert contents(tmp_path / "whole") == contents(tmp_path / "stopped")


@pytest.mark.parametrize("kill", ["manifest", "checkpoint"])
def test_a_kill_while_a_run_is_extended_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill: str
):
    taut.fit(BITS, tmp_path / "run", **SMALL)
    before = contents(tmp_path / "run")

    write, last = storage.write_json, "state.json" if kill == "manifest" else "run.json"

    def killed(path: Path, value: Any) -> None:
        if path.name == last:
            raise KeyboardInterrupt
        write(path, value)

    monkeypatch.setattr(storage, "write_json", killed)
    monkeypatch.setattr(checkpoint, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path / "run", source=BITS, max_epochs=100)
    monkeypatch.undo()
    _, records = extended(tmp_path / "run")
    if kill == "manifest":  # as it was
        assert records == []
        assert contents(tmp_path / "run") == before
    else:  # the new plan, which the checkpoint has
        assert [r.step for r in records] == [400, 500, 600]
        assert taut.load(tmp_path / "run").info["ended"] == "epochs"


def test_time_is_given_to_a_run_that_was_cut(tmp_path: Path):
    taut.fit(BITS, tmp_path / "run", **QUICK | {"minutes": 1e-9, "max_epochs": None})
    run, data, state = resume(tmp_path / "run", source=BITS, minutes=0.01)
    assert state.since == state.step
    assert state.total_steps > state.step
    assert (run.config.training.minutes, run.config.training.max_epochs) == (0.01, None)
    list(train_run(run, data, state))
    assert run.info["ended"] == "time"


# ----------------------------------------------------------------------------------------- diverged


class Breaking(taut.Objective):
    """An ELBO that is NaN from some progress on."""

    num_samples = 1

    def __init__(self, after: float = 0.0) -> None:
        self.after = after

    def __call__(
        self, model: taut.Model, x: Any, context: Any = None, progress: float = 1.0
    ) -> taut.Bound:
        bound = taut.ELBO()(model, x, context, progress)
        return bound._replace(
            surrogate=bound.surrogate
            * (math.nan if progress > self.after and progress < 1 else 1.0)
        )


@pytest.mark.parametrize(("after", "step"), [(0.0, 0), (0.5, 100)])
def test_a_training_that_diverges_keeps_the_last_finite_weights(
    tmp_path: Path, after: float, step: int
):
    run, data, state = start(BITS, tmp_path / "run", settings(SMALL))
    run.objective = Breaking(after)
    with pytest.raises(DivergedError) as caught:
        list(train_run(run, data, state))
    one_line(caught, f"diverged after step {step}:", "not finite at step", "3 rollbacks")
    saved = checkpoint.load(checkpoint.latest(tmp_path / "run" / "checkpoints"))
    assert saved.step == step
    assert all(bool(v.isfinite().all()) for v in saved.tensors.values())
    assert any(k.startswith("model.") for k in saved.tensors)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def settings(values: dict[str, Any]) -> Config:
    sections = Config().to_dict()
    return Config.from_dict(
        {s: {k: v for k, v in values.items() if k in names} for s, names in sections.items()}
    )


# ------------------------------------------------------------------------------------------ refused


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    np.save(folder / "bits.npy", BITS)
    before = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    taut.fit(folder / "bits.npy", folder / "run", **QUICK)
    torch.set_default_dtype(before[0])
    torch.set_num_threads(before[1])
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("file", ["run.json", "model.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_run_is_not_loaded(copy: Path, file: str, damage: str):
    content = (copy / file).read_bytes()
    at = content.index(b'"run.json": "') + 20 if file == "manifest.json" else len(content) - 40
    flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    (copy / file).write_bytes({"flip": flipped, "truncate": content[:-30], "empty": b""}[damage])
    with pytest.raises(StorageError) as caught:
        taut.load(copy)
    one_line(caught, str(copy), "damaged")


def test_a_damaged_evaluation_is_not_believed(copy: Path):
    text = (copy / "evaluation.json").read_text()
    (copy / "evaluation.json").write_text(text.replace("-1", "-2", 1))
    with pytest.raises(StorageError) as caught:
        taut.load(copy).evaluation()
    one_line(caught, "evaluation.json is damaged")


@pytest.mark.parametrize("file", ["model.safetensors", "evaluation.json"])
def test_a_missing_file_is_named(copy: Path, file: str):
    (copy / file).unlink()
    with pytest.raises(StorageError) as caught:
        taut.load(copy).evaluation()
    one_line(caught, "cannot read", file, "No such file")


def edit(path: Path, **changes: Any) -> None:
    info = json.loads((path / "run.json").read_bytes())
    info = {k: v for k, v in (info | changes).items() if v is not ...}
    (path / "run.json").write_text(json.dumps(info))
    storage.write_manifest(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"format": 3, "taut": "9.9"},
            ["has format 3", "made by taut 9.9", "reads formats 1 and 2"],
        ),
        ({"format": ...}, ["has format None"]),
        ({"config": ...}, ["run.json is damaged", "config is missing"]),
        (
            {"config": {"training": {"sed": 1, "batch_size": 0}}},
            ["run.json is damaged", "'seed'", "; training.batch_size"],
        ),
        ({"config": [1]}, ["run.json is damaged"]),
        ({"schema": {"kind": "bits"}}, ["run.json is damaged"]),
        ({"schema": 5}, ["run.json is damaged"]),
    ],
)
def test_a_run_json_that_says_something_else(copy: Path, changes: dict[str, Any], words: list[str]):
    edit(copy, **changes)
    with pytest.raises(StorageError) as caught:
        taut.load(copy)
    one_line(caught, str(copy), *words)


@pytest.mark.parametrize("how", [taut.load, resume])
def test_weights_of_another_model(copy: Path, how: Any):
    config = json.loads((copy / "run.json").read_bytes())["config"]
    config["model"]["encoder"] = "MLP(hidden=(9,))"
    edit(copy, config=config)
    with pytest.raises(StorageError) as caught:
        how(copy)
    one_line(caught, "does not fit the model in run.json", "is (8,", "not (9,")


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.mkdir, ("unpickled",))


@pytest.mark.parametrize(
    "file", ["model.pt", "model.pth", "run.pkl", "a.ckpt", "a.pickle", "pytorch_model.bin"]
)
@pytest.mark.parametrize("how", [taut.load, resume])
def test_a_pickle_is_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, how: Any
):
    monkeypatch.chdir(tmp_path)
    Path(file).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UsageError) as caught:
        how(file)
    one_line(caught, f"{file} is never unpickled", "taut fit")
    assert not Path("unpickled").exists()


def test_a_pickle_in_the_place_of_the_weights_is_never_opened(
    copy: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(copy)
    (copy / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    storage.write_manifest(copy)
    with pytest.raises(StorageError) as caught:
        taut.load(copy)
    one_line(caught, "model.safetensors is damaged: it is not a safetensors file")
    assert not Path("unpickled").exists()


def test_what_is_no_run(tmp_path: Path):
    for path, words in (
        (tmp_path, "no run.json in it"),
        (tmp_path / "nothing", "is not a run folder"),
        (tmp_path / "a\x1b[2J\n", r"a\x1b[2J\n' is not a run folder"),
    ):
        with pytest.raises(UsageError) as caught:
            taut.load(path)
        one_line(caught, words)


@pytest.mark.parametrize("change", ["value", "order", "shape", "dtype", "gone"])
def test_other_data_are_refused(copy: Path, finished: Path, tmp_path: Path, change: str):
    path = tmp_path / "bits.npy"
    changed = BITS.copy()
    changed[7, 1, 1] ^= 1
    arrays = {
        "value": changed,
        "order": BITS[::-1],
        "shape": BITS.reshape(60, 16),
        "dtype": BITS.astype(np.int64),
    }
    if change in arrays:
        np.save(path, arrays[change])
    edit(copy, source=str(path))
    with pytest.raises(TautError) as caught:
        resume(copy)
    if change == "gone":
        assert isinstance(caught.value, UsageError)
        one_line(caught, "bits.npy", "no such file")
    else:
        assert isinstance(caught.value, DataError)
        one_line(
            caught, f"{path}: these are not the data of {copy}", "fingerprint", "original file"
        )
    run, data, _ = resume(copy, source=finished / "bits.npy")  # where they are now
    assert data.fingerprint == run.info["fingerprint"]


def test_data_in_memory_are_asked_for_again(tmp_path: Path):
    run = taut.fit(BITS, tmp_path / "run", test=BITS[:5], **QUICK)
    with pytest.raises(UsageError) as caught:
        data_of(run)
    one_line(caught, "was trained on an array in memory")
    with pytest.raises(UsageError) as caught:
        data_of(run, BITS)
    one_line(caught, "test set", "array in memory")
    with pytest.raises(DataError) as wrong:
        data_of(run, BITS, BITS[:6])
    one_line(wrong, "fingerprint")
    assert torch.equal(data_of(run, BITS, BITS[:5]).test, torch.from_numpy(BITS[:5]))


@pytest.mark.parametrize("as_path", [True, False])
def test_files_are_found_again_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_path: bool
):
    np.savez(tmp_path / "d.npz", x=BITS, y=BITS[:9])
    monkeypatch.chdir(tmp_path)
    kind = Path if as_path else str
    run = taut.fit(kind("d.npz"), "run", key="x", test=kind("d.npz:y"), **QUICK)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = data_of(taut.load("../run"))
    assert len(again.train) + len(again.validation) == 60
    assert torch.equal(again.test, torch.from_numpy(BITS[:9]))
    np.savez(tmp_path / "moved.npz", x=BITS)
    assert data_of(run, "../moved.npz", "../d.npz:y").fingerprint == again.fingerprint


# ----------------------------------------------------------------------------------- parts, folders

MODULE = """
import taut

class MyLikelihood(taut.Likelihood):
    def __init__(self, event_shape, latent_dim, power: float = 1.0, decoder=taut.MLP):
        super().__init__()
        self.power, self.inner = power, taut.Bernoulli(event_shape, latent_dim, decoder)

    def forward(self, z, context=None):
        return self.inner(z * self.power)

class MyPrior(taut.Prior):
    def __init__(self, latent_dim, scale=1.0):
        super().__init__()
        self.scale, self.latent_dim = scale, latent_dim

    def forward(self, context=None):
        import torch
        normal = torch.distributions.Normal(torch.zeros(self.latent_dim), self.scale)
        return torch.distributions.Independent(normal, 1)

class MyPosterior(taut.Posterior):
    def __init__(self, event_shape, latent_dim, encoder=taut.MLP):
        super().__init__()
        self.inner = taut.DiagonalNormal(event_shape, latent_dim, encoder=encoder)

    def forward(self, x, context=None):
        return self.inner(x)

class MyObjective(taut.Objective):
    num_samples = 1

    def __init__(self, weight=1.0):
        self.weight = weight

    def __call__(self, model, x, context=None, progress=1.0):
        bound = taut.ELBO()(model, x, context, progress)
        return bound._replace(surrogate=self.weight * bound.surrogate)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "mymod_of_run.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "mymod_of_run"
    sys.modules.pop("mymod_of_run", None)


@pytest.mark.parametrize("written", [True, False], ids=["as text", "as instances"])
def test_parts_of_ones_own_train_and_load_only_if_trusted(
    tmp_path: Path, module: str, written: bool
):
    texts = {
        "likelihood": f"{module}:MyLikelihood(power=2.0)",
        "prior": f"{module}:MyPrior(scale=1.5)",
        "posterior": f"{module}:MyPosterior()",
        "objective": f"{module}:MyObjective(weight=2.0)",
    }
    trained = taut.fit(BITS, "texts", **QUICK | texts)
    if not written:
        import mymod_of_run as mine

        parts = {
            "likelihood": mine.MyLikelihood((4, 4), 2, power=2.0),
            "prior": mine.MyPrior(2, scale=1.5),
            "objective": mine.MyObjective(weight=2.0),
        }
        taut.fit(BITS, "run", **QUICK | texts | parts | {"decoder": "MLP()"})
    config = json.loads(Path("texts" if written else "run", "run.json").read_bytes())["config"]
    assert config["model"]["likelihood"] == texts["likelihood"]
    assert config["model"]["prior"] == texts["prior"]
    assert config["training"]["objective"] == texts["objective"]
    path = Path("texts" if written else "run")
    with pytest.raises(UsageError) as caught:
        taut.load(path)
    one_line(caught, f"names a part of the outside module '{module}'", f"--trust {module}")
    run = taut.load(path, trust=[module])
    assert type(run.model.likelihood).__name__ == "MyLikelihood"
    assert run.model.likelihood.power == 2.0
    if written:
        assert all(
            torch.equal(v, trained.model.state_dict()[k]) for k, v in run.model.state_dict().items()
        )


def test_an_outside_module_is_not_even_imported_unless_trusted(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "evil_module.py").write_text(
        "from pathlib import Path\nPath('imported').write_text('')\n"
    )
    monkeypatch.chdir(tmp_path)
    config = json.loads((copy / "run.json").read_bytes())["config"]
    for section, part, text in (
        ("model", "prior", "evil_module:Prior()"),
        ("model", "decoder", "MLP(activation=evil_module:Act())"),
        ("training", "objective", "evil_module.Objective()"),
    ):
        changed = {s: dict(v) for s, v in config.items()}
        changed[section][part] = text
        edit(copy, config=changed)
        for how in (taut.load, resume):
            with pytest.raises(UsageError) as caught:
                how(copy)
            one_line(caught, "evil_module", "--trust evil_module")
    assert not Path("imported").exists()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"prior": "StandardNormal(latent_dim=5)"}, ["latent_dim follows from the data"]),
        ({"likelihood": "Bernoulli(event_shape=(3,))"}, ["event_shape follows from the data"]),
        ({"encoder": "MLP(hidden=(-3,))"}, ["MLP(hidden=(-3,))"]),
        ({"posterior": "IndependentBernoulli()"}, ["IndependentBernoulli", "different spaces"]),
        (
            {"prior": "IndependentBernoulli()", "posterior": "IndependentBernoulli()"},
            ["do not go together", "IndependentBernoulli", "ScoreFunction(num_samples=8)"],
        ),
        ({"device": "meta"}, ["no device 'meta' here; there is cpu"]),
        ({"device": "gpu"}, ["no device 'gpu' here; there is cpu"]),
        ({"latent_dims": 3}, ["latent_dims", "unknown"]),
    ],
)
def test_what_does_not_go_together_is_refused_before_a_folder_is_made(
    tmp_path: Path, wrong: dict[str, Any], words: list[str]
):
    with pytest.raises(UsageError) as caught:
        taut.fit(BITS, tmp_path / "run", **QUICK | wrong)
    one_line(caught, *(w for w in words if w != "MLP(hidden=(-3,))"))
    assert not (tmp_path / "run").exists()


def test_a_pace_that_is_not_possible_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("torch._inductor.compile", lambda *_, **__: 1 / 0)
    with pytest.raises(UsageError, match="compile on: not possible"):
        start(BITS, tmp_path / "run", settings(QUICK | {"compile": "on"}))
    assert list(tmp_path.iterdir()) == []


def test_folders_are_numbered_and_never_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for file in ("bits.v2.npy", "b c\x1b[31m;rm.npy", "..npy"):
        np.save(file, BITS)
    runs = [
        start(data, None, settings(QUICK))[0].path
        for data in ("bits.v2.npy", "bits.v2.npy", "b c\x1b[31m;rm.npy", BITS)
    ]
    assert [str(p) for p in runs] == [
        "runs/bits-1",
        "runs/bits-2",
        "runs/b_c_31m_rm-1",
        "runs/array-1",
    ]


def test_overwriting_replaces_a_run_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    config = settings(QUICK)

    def make(out: str, overwrite: bool) -> None:
        start(BITS, out, config, overwrite=overwrite)

    make("run", False)
    (Path("run") / "checkpoints" / "step-000000007").mkdir(parents=True)
    for path, words in (
        ("run", "exists: choose another --out, or --overwrite"),
        ("file", "exists"),
    ):
        Path("file").write_bytes(b"mine")
        with pytest.raises(UsageError) as caught:
            make(path, False)
        one_line(caught, words)
    Path("empty").mkdir()
    make("empty", False)  # there is nothing to lose
    make("empty", False)  # and neither is where nothing was trained
    make("run", True)
    assert sorted(p.name for p in Path("run").iterdir()) == [".lock", "run.json"]
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("mine")
    np.save("run/data.npy", BITS)
    for path, words in (
        ("file", "File exists"),
        ("mine", "is not a run folder"),
        ("run", "holds data.npy"),
        (".", "is not a run"),
    ):
        with pytest.raises(UsageError) as caught:
            make(path, True)
        one_line(caught, words, "choose another --out")
    assert Path("file").read_bytes() == b"mine"
    assert Path("mine/thesis.txt").read_text() == "mine"
    assert Path("run/data.npy").exists()
    assert Path("run/run.json").exists()


def test_devices():
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type in ("cpu", "cuda", "mps", "xpu")


def test_a_full_disk_in_training_keeps_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    np.save(tmp_path / "bits.npy", BITS)
    run, data, state = start(tmp_path / "bits.npy", tmp_path / "run", settings(SMALL))
    original = storage.write_bytes

    def write(path: Path, content: bytes) -> None:
        if state.step >= 200:
            raise StorageError(f"cannot write {path}: No space left on device")
        original(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_bytes", write)
        with pytest.raises(StorageError) as caught:
            list(train_run(run, data, state))
    one_line(caught, "No space left on device")
    resumed, _, state = resume(tmp_path / "run")
    assert state.step == 100
    assert [line["step"] for line in resumed.history()] == [100]


def test_the_run_of_a_config_is_the_run_of_its_settings(tmp_path: Path):
    by_name = taut.fit(BITS, tmp_path / "a", **QUICK)
    by_config = taut.fit(BITS, tmp_path / "b", config=dataclasses.replace(settings(QUICK)))
    assert by_name.config == by_config.config
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (
        tmp_path / "b" / "model.safetensors"
    ).read_bytes()
