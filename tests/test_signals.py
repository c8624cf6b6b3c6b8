"""Ctrl-C and SIGTERM: obeyed between two steps, once, however often and wherever they come.

With real signals.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import taut
import taut.runs.fit
import taut.training.checkpoint
from taut.__main__ import main as started
from taut.system import signals
from taut.system.signals import Terminated, held, watched

INT, TERM = int(signal.SIGINT), int(signal.SIGTERM)
BITS = (np.random.default_rng(0).random((60, 4, 4)) < 0.4).astype(np.uint8)
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "PYTHONPATH": str(Path(taut.__file__).parents[1]),
}  # fmt: skip
FLAGS = [
    "--latent-dim",
    "2",
    "--encoder",
    "MLP(hidden=(8,))",
    "--decoder",
    "MLP(hidden=(8,))",
    "--num-samples",
    "6",
    "--batch-size",
    "40",
    "--threads",
    "1",
    "--set",
    "training.checkpoint_seconds=0",
    "--set",
    "training.patience=9",
]


@pytest.fixture(autouse=True)
def _handlers(_seeded: None) -> Iterator[None]:
    before, threads = {n: signal.getsignal(n) for n in (INT, TERM)}, torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    yield
    assert {n: signal.getsignal(n) for n in (INT, TERM)} == before  # what was taken is given back
    torch.set_num_threads(threads)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def send_within(number: int, done: list[str]) -> None:
    with held():
        with held():
            send(number)
            done.append("inner")
        done.append("outer")


# ---------------------------------------------------------------------------------------- the block


@pytest.mark.parametrize(("number", "error"), [(INT, KeyboardInterrupt), (TERM, Terminated)])
def test_a_signal_is_obeyed_at_the_end_of_what_is_held(number: int, error: type[BaseException]):
    done = []
    with watched(command=True):
        with pytest.raises(error):
            send_within(number, done)
        assert signals.came() == number
    assert done == ["inner", "outer"]


def test_an_error_of_the_block_gives_way_to_the_signal():
    def fail() -> None:
        with held():
            send(INT)
            raise RuntimeError("API call failed")

    with watched(), pytest.raises(KeyboardInterrupt):
        fail()


def test_outside_of_it_a_signal_is_obeyed_at_once_and_the_next_ones_are_not():
    with watched(command=True):
        with pytest.raises(Terminated):
            send(TERM)
        for number in (INT, TERM):
            send(number)  # the end has begun
        with held():
            pass


def test_a_question_is_asked_first_and_a_second_signal_may_be_obeyed():
    asked: list[int] = []

    def ask(number: int) -> bool:
        asked.append(number)
        return len(asked) == 1

    with watched(command=True), signals.asking(ask):
        send(INT)
        with pytest.raises(Terminated):
            send(TERM)
    assert asked == [INT, TERM]


def test_a_program_keeps_what_it_handles_itself():
    got: list[int] = []
    before = signal.signal(INT, lambda number, frame: got.append(number))
    try:
        with watched(), held():
            send(INT)
            assert got == [INT]
    finally:
        signal.signal(INT, before)
    assert signals.came() == 0


# ------------------------------------------------------------------------------------ in a training


def in_products(
    model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, call: int, times: int = 1
) -> None:
    """Has the products of a model sent a signal from within our own operator, which C++ calls."""
    for part in model.modules():
        if hasattr(part, "_onednn"):
            part._onednn = True
    count, original = 0, torch.ops.mkldnn._linear_pointwise

    def product(*arguments: object) -> object:
        nonlocal count
        count += 1
        if count == call:
            for _ in range(times):
                send(INT)
        return original(*arguments)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", product)


@pytest.mark.parametrize(
    "call", [1, 2, 3, 5, 7, 200]
)  # forward and backward, of the first step and later
def test_no_step_is_broken_off_within_an_operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
):
    settings = {
        "latent_dim": 2,
        "encoder": "MLP(hidden=(8,))",
        "decoder": "MLP(hidden=(8,))",
        "batch_size": 40,
    }
    path = tmp_path / "run"
    run, data, state = taut.runs.fit.start(
        BITS, path, taut.runs.fit.merge(taut.Config(), settings | {"threads": 1})
    )
    in_products(run.model, monkeypatch, call, times=2)
    with pytest.raises(KeyboardInterrupt) as caught:
        list(taut.runs.fit.train_run(run, data, state))
    frames = {frame.name for frame in traceback.extract_tb(caught.value.__traceback__)}
    assert not frames & {"product", "_onednn", "_product", "forward", "backward"}, frames
    # and a second one did not stop that
    assert taut.training.checkpoint.latest(path / "checkpoints").name == "step-000000000"


# -------------------------------------------------------------------------------------- the command

# As a person's process: real signals, some of them twice at once, at a random time after the
# training has begun.
COMMAND = textwrap.dedent("""
    import os, sys
    from taut.cli import app
    from taut.runs import fit
    original = fit.train
    def train(*arguments):
        for number, record in enumerate(original(*arguments)):
            if number == 0:
                os.write(int(os.environ["READY"]), b"x")
            yield record
    fit.train = train
    app.main()
""")


def stopped(
    folder: Path, out: str, flags: list[str], numbers: list[int], wait: float
) -> tuple[int, list[str]]:
    """Returns code and lines of a training that real signals met so many seconds after its first
    interval.
    """
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "fit", "bits.npy", "--out", out, *FLAGS, *flags],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[write],
        env=ENVIRONMENT | {"READY": str(write)},
    )
    os.close(write)
    os.read(read, 1)  # nothing, where the process has gone
    os.close(read)
    time.sleep(wait)
    for number in numbers:
        process.send_signal(number)
    _, errors = process.communicate(timeout=200)
    return process.returncode, errors.splitlines()


def assert_stopped(folder: Path, out: str, number: int, code: int, lines: list[str]) -> None:
    assert code == {INT: 130, TERM: 143}[number], "\n".join(lines)
    assert lines[-1] == f"taut: stopped, the state is saved: go on with `taut resume {out}`"
    assert not any("Traceback" in line for line in lines)
    assert sum(line.startswith("taut: ") for line in lines) == 1


@pytest.mark.parametrize("numbers", [[INT, INT, INT], [TERM, INT]])
def test_pressed_more_than_once(tmp_path: Path, numbers: list[int]):
    np.save(tmp_path / "bits.npy", BITS)
    flags = ["--max-epochs", "100000", "--set", "training.compile=off"]
    code, lines = stopped(tmp_path, "run", flags, numbers, 0.2)
    # which of them comes first is the system's choice
    assert code in {128 + number for number in numbers}, lines
    assert_stopped(tmp_path, "run", code - 128, code, lines)
    assert re.fullmatch(
        r"step-\d{9}", taut.training.checkpoint.latest(tmp_path / "run" / "checkpoints").name
    )


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_twenty_signals_into_compiled_steps(tmp_path: Path):
    """Ten of each.

    One line, its code, and a resumed training that ends in the bits of one that was not stopped.
    """
    np.save(tmp_path / "bits.npy", BITS)
    flags = ["--max-epochs", "1500", "--set", "training.compile=on"]
    code, lines = stopped(tmp_path, "whole", flags, [], 0)
    assert code == 0, lines
    expected = (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert (
        json.loads((tmp_path / "whole" / "run.json").read_bytes())["config"]["training"]["compile"]
        == "on"
    )
    waits = np.random.default_rng(1).uniform(0, 0.4, 20)
    for number, (wait, kind) in enumerate(zip(waits, [INT, TERM] * 10, strict=True)):
        out = f"run-{number}"
        code, lines = stopped(tmp_path, out, flags, [kind], float(wait))
        assert_stopped(tmp_path, out, kind, code, lines)
        if number < 4:  # each kind twice: a resumed training is compiled again
            command = [sys.executable, "-m", "taut", "resume", out]
            done = subprocess.run(
                command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            assert (tmp_path / out / "model.safetensors").read_bytes() == expected


def test_ctrl_c_while_the_command_is_read_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Read(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "taut.cli.app", Read("taut.cli.app"))
    with pytest.raises(SystemExit) as end:
        started()
    assert end.value.code == 130
    assert capsys.readouterr().err == "taut: stopped\n"
