"""The hook of a training: each row of the history, to a function or to a tracker, and what a
tracker that fails costs.
"""

from __future__ import annotations

import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_hub import line
from test_tighten import call

import taut
from taut.runs.folder import FILES
from taut.system.errors import TautWarning, UsageError


@pytest.fixture(autouse=True)
def _single_precision(_seeded: None) -> None:
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32))
    return Path("rows.npy")


FEW = {
    **{"max_epochs": 250, "num_samples": 20, "latent_dim": 1, "patience": 1.0, "verbose": False},
    **{"compile": "off", "threads": 1, "encoder": "Linear()", "decoder": "Linear()"},
}


class Tracker:
    """A stand-in for the three packages, with the calls that they have."""

    def __init__(self, broken: str = "") -> None:
        self.broken, self.told = broken, []

    def _tell(self, *what: Any) -> None:
        if what[0] == self.broken:
            raise ConnectionError("the tracker cannot be reached\nat all")
        self.told.append(what)

    def SummaryWriter(self, log_dir: str, purge_step: int | None = None) -> SimpleNamespace:
        self._tell("open", log_dir, purge_step)
        return SimpleNamespace(
            add_scalar=lambda tag, value, step: self._tell("row", step, {tag: value}),
            flush=lambda: None,
            close=lambda: self._tell("close"),
        )

    def start_run(self, *, run_name: str, nested: bool) -> None:
        self._tell("open", run_name, nested)

    def log_params(self, params: dict[str, Any]) -> None:
        self._tell("settings", params)

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self._tell("row", step, metrics)

    def end_run(self) -> None:
        self._tell("close")

    def init(self, *, name: str, config: dict[str, Any], reinit: str) -> SimpleNamespace:
        self._tell("open", name, reinit)
        self._tell("settings", config)
        return SimpleNamespace(log=self.log_metrics, finish=self.end_run)


MODULES = {"tensorboard": "torch.utils.tensorboard", "mlflow": "mlflow", "wandb": "wandb"}


def rows_of(told: list[Any]) -> dict[int, dict[str, float]]:
    rows: dict[int, dict[str, float]] = {}
    for what, *rest in told:
        if what == "row":
            rows.setdefault(rest[0], {}).update(rest[1])
    return rows


def test_a_function_is_given_the_rows_of_the_history(data: Path) -> None:
    rows: list[dict[str, Any]] = []
    run = taut.fit(data, "run", log=rows.append, **FEW)
    assert len(rows) > 1
    assert rows == run.history()


@pytest.mark.parametrize("name", MODULES)
def test_a_tracker_is_given_the_rows_and_the_settings_alone(
    data: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Tracker()
    monkeypatch.setitem(sys.modules, MODULES[name], fake)
    run = taut.fit(data, "run", log=name, **FEW)
    history = run.history()
    assert rows_of(fake.told) == {
        row["step"]: {k: float(v) for k, v in row.items() if k != "step" and v is not None}
        for row in history
    }
    assert fake.told[-1] == ("close",)
    if name == "tensorboard":
        assert fake.told[0] == ("open", str(Path("run", "tensorboard")), None)
    else:
        assert fake.told[0][:2] == ("open", "run")
        (settings,) = [rest[0] for what, *rest in fake.told if what == "settings"]
        assert settings["model.latent_dim"] == 1
        assert settings["training.objective"] == "ELBO()"
        assert all(key.startswith(("model.", "training.")) for key in settings)
        assert str(data.resolve().parent) not in str(fake.told)


@pytest.mark.parametrize("when", ["open", "row", "close"])
def test_a_tracker_that_fails_costs_its_log_and_not_the_training(
    data: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Tracker(broken=when)
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = taut.fit(data, "run", log="mlflow", **FEW)
    said = [str(w.message) for w in caught if w.category is TautWarning]
    assert said == [
        "mlflow gets no more rows: the tracker cannot be reached; the training goes on, and "
        "history.jsonl has them all"
    ]
    assert len(run.history()) > 1
    assert run.evaluation()["num_data"]


def test_what_a_function_raises_ends_the_training_with_its_state_saved(data: Path) -> None:
    def stop(row: Any) -> None:
        raise KeyError(row["step"])

    with pytest.raises(KeyError):
        taut.fit(data, "run", log=stop, **FEW)
    assert any(Path("run", "checkpoints").glob("step-*"))


def test_the_command_refuses_before_it_reads_and_goes_on_where_it_stopped(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in MODULES.values():
        monkeypatch.setitem(sys.modules, module, None)
    words = "--log tensorboard needs its package: pip install tensorboard"
    assert line("fit", "no.csv", "--log", "tensorboard") == words
    assert "did you mean 'wandb'?" in line("fit", data, "--log", "wand")
    with pytest.raises(UsageError, match="pip install wandb"):
        taut.fit(data, "run", log="wandb")
    assert not Path("run").exists()
    first, again = Tracker(), Tracker()
    monkeypatch.setitem(sys.modules, MODULES["tensorboard"], first)
    command = ("fit", data, "--out", "run", "--log", "tensorboard", "--latent-dim", 1)
    made = call(*command, "--num-samples", 20, "--max-epochs", 100, "--set", "training.patience=1")
    assert made.exit_code == 0, made.output
    monkeypatch.setitem(sys.modules, MODULES["tensorboard"], again)
    longer = call("resume", "run", "--max-epochs", 200, "--log", "tensorboard")
    assert longer.exit_code == 0, longer.output
    last = max(rows_of(first.told))
    assert again.told[0] == ("open", str(Path("run", "tensorboard")), last + 1)
    assert min(rows_of(again.told)) > last
    assert "tensorboard" in FILES  # a run folder with it is replaced as one without


def test_the_names_are_those_of_the_help() -> None:
    from taut.cli.options import LogTo
    from taut.runs.logs import LOGS

    (option,) = LogTo.__metadata__
    assert option.metavar == f"<{'|'.join(LOGS)}>"


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_itself_reads_what_was_written(data: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = taut.fit(data, "run", log="tensorboard", **FEW)
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    seen = [(e.step, e.value) for e in events.Scalars("bound")]
    assert seen == [(r["step"], pytest.approx(r["bound"], rel=1e-6)) for r in run.history()]
