"""Two processes do what one does.

The same steps, the same evaluation, each message once, and an end when one of them dies.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import Ranks
from torch import Tensor, nn

import taut
from taut import ELBO
from taut.build.config import TrainingConfig
from taut.data import prepare
from taut.system import parallel
from taut.system.errors import ParallelError, UsageError
from taut.system.parallel import Share
from taut.training import pace
from taut.training.graph import CannotCompileError
from taut.training.loop import State, first_batch, run_steps, validate
from taut.training.step import Learner


@pytest.fixture(scope="module")
def two() -> Iterator[Ranks]:
    ranks = Ranks()
    yield ranks
    ranks.close()


# --- Together -------------------------------------------------------------------------------------


def test_one_process_is_left_alone() -> None:
    with parallel.ranks():
        assert (parallel.rank(), parallel.world(), parallel.main()) == (0, 1, True)
        assert not torch.distributed.is_initialized()
    assert list(parallel.in_order(range(3), lambda task: task + 1)) == [1, 2, 3]
    assert parallel.on_main(lambda: 5) == 5
    assert not parallel.agreed(False)
    assert parallel.share(7) == Share(0, 7, 7, 1.0)


def _in_order(count: int) -> tuple[list[Any], list[int]]:
    computed = []

    def compute(task: int) -> list[int]:
        computed.append(task)
        # what uses it itself is alone in there
        return list(parallel.in_order([task, -task], lambda x: 10 * x))

    return list(parallel.in_order(range(count), compute)), computed


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_tasks_are_divided_and_their_results_come_in_order(two: Ranks, count: int) -> None:
    (results, own), (same, others) = two(_in_order, count)
    assert results == same == [[10 * i, -10 * i] for i in range(count)]
    assert (own, others) == (list(range(0, count, 2)), list(range(1, count, 2)))


def _fails(where: str) -> str:
    def fail(*_: object) -> None:
        raise UsageError(f"no {where}")

    def third(task: int) -> None:
        if task == 3:
            fail()

    try:
        if where == "main":
            parallel.on_main(fail)
        else:
            list(parallel.in_order(range(5), third))
    except UsageError as error:
        return str(error)
    return "nothing"


@pytest.mark.parametrize("where", ["main", "task"])
def test_an_error_of_one_is_an_error_of_all(two: Ranks, where: str) -> None:
    assert two(_fails, where) == [f"no {where}"] * 2


def _who() -> tuple[Any, ...]:
    own = parallel.rank()
    checked = []
    for shift in (0, own):
        try:
            checked.append(
                parallel.check_same(
                    {"a": torch.arange(3.0) + shift, "b": torch.tensor(1)}, "after step 7"
                )
            )
        except ParallelError as error:
            checked.append(str(error).partition(":")[0])
    total = parallel.sum_over_ranks(torch.tensor([1.0, float(own)]))()
    agreed = parallel.agreed(own == 1), parallel.agreed(False)
    return own, parallel.world(), parallel.on_main(lambda: own), agreed, checked, total.tolist()


def test_the_ranks_agree(two: Ranks) -> None:
    wrong = "the weights of process 1 are not those of process 0 after step 7"
    assert two(_who) == [(own, 2, 0, (True, False), [None, wrong], [2.0, 1.0]) for own in range(2)]


def _shares(totals: list[int]) -> list[tuple[Any, ...]]:
    return [tuple(parallel.share(total)) for total in totals]


def test_every_row_is_in_one_share(two: Ranks) -> None:
    """Shares differ by a row at most; where there is none to be had, a copy counts nothing."""
    assert list(zip(*two(_shares, [7, 8, 1]), strict=True)) == [
        ((0, 3, 7, 1.0), (3, 4, 7, 1.0)),
        ((0, 4, 8, 1.0), (4, 4, 8, 1.0)),
        ((0, 1, 1, 0.0), (0, 1, 1, 1.0)),
    ]


# --- Noise ----------------------------------------------------------------------------------------

K, B = 3, 7
DRAWS = {
    "rsample": lambda x: torch.distributions.Normal(x, 1.0).rsample((K,)),
    "normal": lambda x: torch.distributions.Normal(x, 2.0).sample((K,)),
    "bernoulli": lambda x: torch.distributions.Bernoulli(x).sample((K,)),
    "categorical": lambda x: torch.distributions.Categorical(x).sample((K,)).T,
    "uniform": lambda x: torch.rand(x.shape) + x,
    "rand_like": lambda x: torch.rand_like(x[None].expand(K, -1, -1)),
    "bits": lambda x: torch.empty_like((255 * x).byte()).random_(0, 255),
    "dropout": lambda x: nn.functional.dropout(x, 0.4),
    "shared": lambda x: torch.randn(2, 11),
}


def _drawn(name: str, whole: Tensor) -> Tensor:
    own = parallel.share(len(whole))
    torch.manual_seed(5)
    with own.noise(K):
        drawn = DRAWS[name](own.of(whole))
        assert not DRAWS[name](own.of(whole)).equal(drawn)
    return drawn.numpy()


@pytest.mark.parametrize("name", [name for name in DRAWS if name != "shared"])
def test_noise_does_not_depend_on_the_number_of_ranks(two: Ranks, name: str) -> None:
    """Bit for bit, with shares of 3 and 4 rows."""
    torch.set_default_dtype(torch.float32)
    whole = torch.rand(B, 5)
    torch.manual_seed(5)
    alone = DRAWS[name](whole)
    axis = 1 if alone.shape[:2] == (K, B) else 0
    parts = [torch.from_numpy(part) for part in two(_drawn, name, whole)]
    assert torch.cat(parts, axis).equal(alone)


def test_noise_of_no_datum_differs_from_rank_to_rank(two: Ranks) -> None:
    a, b = two(_drawn, "shared", torch.rand(B, 5))
    assert not (a == b).any()


# --- Training -------------------------------------------------------------------------------------

OBJECTIVES = {
    "elbo": ELBO(),
    "dreg": taut.DReG(num_samples=3),
    "score": taut.ScoreFunction(num_samples=2),
    "sticking": taut.StickingTheLanding(num_samples=2),
}
Trained = tuple[list[float], np.ndarray, float]
SETTINGS = TrainingConfig(
    batch_size=11, learning_rate=1e-2, averaging=0.9, max_epochs=3, patience=10.0
)


class Partial(taut.VAE):
    """A model with a part that no step uses and one that is frozen."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.unused = nn.Linear(2, 2)
        self.posterior.requires_grad_(False)


def _model(kind: type[taut.VAE] = taut.VAE, dropout: float = 0.0) -> taut.VAE:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    network = partial(taut.MLP, hidden=(6,), dropout=dropout)
    return kind(
        taut.StandardNormal(2),
        taut.Bernoulli((5,), 2, decoder=network),
        taut.DiagonalNormal((5,), 2, network),
    )


def _data() -> Any:
    grey = np.random.default_rng(0).integers(0, 256, (57, 5)).astype(np.uint8)
    return prepare(grey, binarize="dynamic", validation_fraction=0.3, test_fraction=0.0)


def _trained(
    model: taut.VAE,
    objective: taut.Objective,
    config: TrainingConfig = SETTINGS,
    recorded: bool = False,
) -> Trained:
    """Trains for 12 steps; returns the bounds of each step, the weights and the
    validation bound.
    """
    bounds = []
    learner = Learner(model, objective, config)
    if recorded:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("torch._inductor.compile", lambda graph, *_, **__: graph)
            learner.compile(first_batch(_data(), config))
    state = State(12)
    for step in range(12):
        state.step = step
        bounds.append(run_steps(learner, _data(), state, step + 1)[0])
    validation, _ = validate(model, objective, _data().validation, 0, rows=4)
    return bounds, torch.cat([p.detach().flatten() for p in model.parameters()]).numpy(), validation


def _trained_by_name(name: str, recorded: bool = False) -> Trained:
    if name == "partial":
        return _trained(_model(Partial), ELBO(), recorded=recorded)
    if name == "dropout":
        return _trained(_model(dropout=0.3), taut.IWAE(num_samples=2), recorded=recorded)
    if name == "tiny":
        return _trained(_model(), ELBO(), dataclasses.replace(SETTINGS, batch_size=1), recorded)
    if name == "simulated":
        return _trained(
            _model(Partial), ELBO(), dataclasses.replace(SETTINGS, simulated=0.5), recorded
        )
    return _trained(_model(), OBJECTIVES[name], recorded=recorded)


@pytest.mark.parametrize("recorded", [False, True], ids=["eager", "recorded"])
@pytest.mark.parametrize("name", [*OBJECTIVES, "partial", "dropout", "tiny", "simulated"])
def test_two_processes_train_as_one(two: Ranks, name: str, recorded: bool) -> None:
    """Steps of 11 rows in shares of 5 and 6, of 1 row and none.

    In float64, so that only the order of sums differs.
    """
    alone = _trained_by_name(name)
    for bounds, weights, validation in two(_trained_by_name, name, recorded):
        np.testing.assert_allclose(bounds, alone[0], rtol=1e-9)
        np.testing.assert_allclose(weights, alone[1], rtol=1e-7, atol=1e-9)
        assert validation == pytest.approx(alone[2], rel=1e-7)


def _gradients(bare: bool) -> list[float]:
    learner = Learner(_model(), ELBO(), SETTINGS)
    if bare:
        learner.forward = learner.module
    own, x = parallel.share(7), (torch.arange(35.0) % 2).view(7, 5)
    torch.manual_seed(3)
    learner.step(own.of(x), 0.0, 0.9, 1.0, own if parallel.world() > 1 else None)
    return torch.cat([p.grad.flatten() for p in learner.trainable]).tolist()


def test_gradients_are_added_up_only_through_the_wrapper(two: Ranks) -> None:
    """The trap of DDP.

    A module that is called without its wrapper learns from one's own rows alone, and nobody says
    so.
    """
    joined, bare = two(_gradients, False), two(_gradients, True)
    assert joined[0] == joined[1]
    assert bare[0] != bare[1]
    np.testing.assert_allclose(joined[0], _gradients(False), rtol=1e-9, atol=1e-12)


def _uncompiled() -> tuple[str, str]:
    """Returns why no step is compiled where the first rank alone could, and the form that a
    training of minutes takes then.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "torch._inductor.compile", lambda graph, *_, **__: graph if parallel.main() else 1 / 0
        )
        learner = Learner(_model(), ELBO(), SETTINGS)
        try:
            learner.compile(first_batch(_data(), SETTINGS))
            reason = "nothing"
        except CannotCompileError as error:
            reason = str(error)
        patch.setattr(pace, "COMPILING", 0.0)
        _, note = pace.choose(_model(), ELBO(), _data(), SETTINGS)
    return reason, note


def test_all_processes_compile_or_none(two: Ranks) -> None:
    """One whose compiler fails would wait for gradients that the others never send."""
    (first, note), (second, _) = two(_uncompiled)
    assert (first, second) == ("another process cannot", "ZeroDivisionError: division by zero")
    assert note == "2 processes, each eager, 1 thread; not compiled: another process cannot"


def _form(seconds: float) -> tuple[str, str]:
    """Returns the form that is chosen where a step takes so many seconds, compiled ones half as
    many on the first rank alone.
    """

    def measured(learner: Learner, *_: Any) -> float:
        compiled = learner._graph is not None and parallel.main()
        return parallel.on_main(lambda: 0.5 * seconds if compiled else seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch._inductor.compile", lambda graph, *_, **__: graph)
        patch.setattr(pace, "_seconds", measured)
        patch.setattr(pace, "_overhead", measured)
        config, note = pace.choose(_model(), ELBO(), _data(), SETTINGS)
    return config.compile, note


def test_the_form_of_the_step_is_chosen_for_all(two: Ranks) -> None:
    compiled = (
        "2 processes, each compiled, 1 thread (eager, 1 thread 1e+05 ms; compiled, 1 thread 5e+04 "
        "ms)"
    )
    assert two(_form, 100.0) == [("on", compiled)] * 2
    assert two(_form, 1e-3) == [("off", "2 processes, each eager, 1 thread")] * 2


def _timed() -> tuple[float, float]:
    learner = Learner(_model(), ELBO(), SETTINGS)
    return pace._seconds(learner, _data(), 1, 0.0), pace._overhead(
        learner, first_batch(_data(), SETTINGS)[:2]
    )


def test_times_are_those_of_one_process(two: Ranks) -> None:
    """What is decided by them is then decided alike."""
    first, second = two(_timed)
    assert first == second


def _refused(name: str) -> str:
    model: Any = _model()
    if name == "batch norm":
        model.unused = nn.BatchNorm1d(3)
    try:
        Learner(model, ELBO(free_bits=0.5) if name == "free bits" else ELBO(), SETTINGS)
    except UsageError as error:
        return str(error)
    return "nothing"


def test_what_needs_the_whole_batch_is_refused(two: Ranks) -> None:
    assert all(
        "train in one process" in text
        for text in two(_refused, "free bits") + two(_refused, "batch norm")
    )
    assert two(_refused, "else") == ["nothing"] * 2


# --- Commands -------------------------------------------------------------------------------------

# A linear network would start at factor analysis, which of such rows is the best there is.
FIT = [
    "--encoder",
    "MLP()",
    "--model",
    "VAE",
    "--latent-dim",
    "2",
    "--max-epochs",
    "40",
    "--batch-size",
    "11",
    "--num-samples",
    "50",
    "--device",
    "cpu",
    "--threads",
    "1",
]
QUICK = ["--set", "training.averaging=0.9", "--set", "training.checkpoint_seconds=0"]


def _alone(*arguments: object) -> None:
    from typer.testing import CliRunner

    from taut.cli.app import app

    threads = torch.get_num_threads()
    # as the ranks: sums of another number of threads are rounded otherwise
    torch.set_num_threads(1)
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output


def _history(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(two: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training by one process and by two.

    A table with gaps whose parts have odd numbers of rows.
    """
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(91, 2)) @ rng.normal(size=(2, 4)) + 0.3 * rng.normal(size=(91, 4))
    x[rng.random(x.shape) < 0.1] = np.nan
    np.save(folder / "x.npy", x)
    np.save(folder / "many.npy", np.tile(x, (7, 1)))  # blocks of 256 rows: two and a half
    torch.set_default_dtype(torch.float32)
    _alone("fit", folder / "x.npy", "--out", folder / "one", *FIT, *QUICK)
    printed = two.taut("fit", folder / "x.npy", "--out", folder / "two", *FIT, *QUICK)
    assert [each.code for each in printed] == [0, 0], printed
    return folder


def test_fit_is_the_same_by_two(runs: Path) -> None:
    """In float32, with sums in another order.

    Rounding alone is between them, and what it grows to in 266 steps.
    """
    one, two = (_history(runs / name) for name in ("one", "two"))
    assert [line["step"] for line in one] == [line["step"] for line in two] == [100, 200, 266]
    assert [line["bound"] for line in two] == pytest.approx(
        [line["bound"] for line in one], rel=1e-4
    )
    assert [line["validation"] for line in two] == pytest.approx(
        [line["validation"] for line in one], rel=1e-3
    )
    assert one != two  # to the bit
    # a model that is exact, as the baseline, is fitted by one process alone
    assert {path.name for path in (runs / "one").iterdir()} == {
        "exact",
        *(path.name for path in (runs / "two").iterdir()),
    }


def test_a_training_of_minutes_ends_by_one_clock(two: Ranks, runs: Path, tmp_path: Path) -> None:
    """The number of steps is measured, and each process measures another."""
    minutes = ["--minutes", "0.003", "--set", "training.max_epochs=1000"]
    first, second = two.taut(
        "fit", runs / "x.npy", "--out", tmp_path / "run", *FIT, *minutes, *QUICK
    )
    assert (first.code, second) == (0, (0, "", "")), first.err + second.err
    assert _history(tmp_path / "run")[-1]["step"] > 0


def test_resume_by_two(two: Ranks, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "two", tmp_path / "run")
    for path in ("manifest.json", "evaluation.json", "model.safetensors"):
        (tmp_path / "run" / path).unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000000266")
    first, second = two.taut("resume", tmp_path / "run")
    assert (first.code, second) == (0, (0, "", "")), first.err + second.err
    for name in ("history.jsonl", "evaluation.json", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (runs / "two" / name).read_bytes(), name


COMMANDS = {
    "score": ["score", "--num-samples", "20", "--cells"],
    "encode": ["encode", "--num-samples", "3"],
    "impute": ["impute", "--num-samples", "20", "--num-imputations", "2"],
    "reconstruct": ["reconstruct", "--draw"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_evaluation_by_two_is_that_of_one_to_the_bit(
    two: Ranks, runs: Path, tmp_path: Path, name: str
) -> None:
    torch.set_default_dtype(torch.float32)
    command, *options = COMMANDS[name]
    written = []
    for where in ("one", "two"):
        (tmp_path / where).mkdir()
        line = (
            command,
            runs / "one",
            runs / ("many.npy" if name == "encode" else "x.npy"),
            *options,
            "--out",
            tmp_path / where / "x.npy",
        )
        if where == "one":
            _alone(*line)
        else:
            first, second = two.taut(*line)
            assert (first.code, second) == (0, (0, "", "")), first.err + second.err
        written.append({path.name: path.read_bytes() for path in (tmp_path / where).iterdir()})
    assert written[0] == written[1]


def test_samples_by_two_are_those_of_one_to_the_bit(two: Ranks, runs: Path, tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    line = ("sample", runs / "one", "--num-samples", "1500")  # of several blocks
    _alone(*line, "--out", tmp_path / "one.npy")
    first, second = two.taut(*line, "--out", tmp_path / "two.npy")
    assert (first.code, second) == (0, (0, "", "")), first.err + second.err
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "two.npy").read_bytes()


def test_an_audit_by_two_is_that_of_one(two: Ranks, runs: Path) -> None:
    torch.set_default_dtype(torch.float32)
    line = (
        "audit",
        runs / "one",
        "--num-samples",
        "50",
        "--num-chains",
        "4",
        "--max-temperatures",
        "3",
        "--num-data",
        "9",
    )
    _alone(*line)

    def written() -> str:
        """Returns the file without the moment and the time that it took."""
        return re.sub(r'"(date|seconds)": .*', "", (runs / "one" / "audit.json").read_text())

    alone = written()
    (runs / "one" / "audit.json").unlink()
    first, second = two.taut(*line)
    assert (first.code, second) == (0, (0, "", "")), first.err + second.err
    assert written() == alone


def test_an_error_is_said_once_and_ends_both(two: Ranks, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    cases = {
        2: [
            "fit",
            runs / "x.npy",
            "--out",
            runs / "one",
        ],  # the first process alone looks at the folder
        3: ["fit", tmp_path / "bad.csv", "--out", tmp_path / "run"],  # both read the data
    }
    for code, line in cases.items():
        first, second = two.taut(*line)
        assert (first.code, second.code) == (code, code)
        lines = (first.err + second.err).splitlines()
        assert len(lines) == len(set(lines)) > 0, lines
        assert all(line.startswith("taut: ") for line in lines), lines
    first, second = two.taut("fit", "--nonsense")
    assert (first.code, second) == (2, (2, "", ""))
    # for one process: the other has nothing to do
    first, second = two.taut("check", runs / "x.npy")
    assert (first.code, second) == (0, (0, "", ""))


def _claims() -> tuple[bool, int]:
    if parallel.rank() == 1:
        claimed = parallel.claim(5)
        parallel.on_main(lambda: None)
    else:
        parallel.on_main(lambda: None)
        claimed = parallel.claim(7)
    return claimed


def test_who_fails_first_speaks_and_all_end_with_its_code(two: Ranks) -> None:
    assert two(_claims) == [(False, 5), (True, 5)]


@pytest.mark.slow  # torchrun starts five interpreters
def test_a_killed_process_is_an_error_and_torchrun_goes_on_from_the_last_checkpoint(
    runs: Path, tmp_path: Path
) -> None:
    """The last measurement and every line of the history are those of the unbroken training by two,
    to the bit.
    """
    torchrun = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "1",
    ]
    fit = [
        str(Path(__file__).parent / "killed.py"),
        "fit",
        str(runs / "x.npy"),
        "--out",
        str(tmp_path / "run"),
        *FIT,
        *QUICK,
    ]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")} | {
        "OMP_NUM_THREADS": "1"
    }
    done = subprocess.run(
        [sys.executable, *torchrun, *fit],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    # torchrun ends the other process, which may be before it can say why
    said = re.findall(
        "taut: another process was lost|taut: stopped, the state is saved", done.stderr
    )
    assert len(said) <= 1, done.stderr
    assert len(re.findall(r"exitcode: -9\)", done.stderr)) == 1, done.stderr
    assert len(re.findall("started again: resuming at step 200 of 266", done.stderr)) == 1, (
        done.stderr
    )
    for name in ("history.jsonl", "evaluation.json", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (runs / "two" / name).read_bytes(), name
