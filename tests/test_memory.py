"""Where memory is short, the numbers are what they would have been, or the data are refused in one
line before they are read.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import os
import platform
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_cli import call
from torch import Tensor, nn

import taut
from taut.build.config import Config, TrainingConfig
from taut.data import prepare
from taut.evidence import importance
from taut.evidence.annealing import annealing
from taut.runs.fit import evaluate, resume, start, train_run
from taut.system.errors import OutOfMemoryError, UsageError
from taut.system.memory import COPIES, Chunks, available, check_fits, out_of_memory
from taut.system.parallel import Share
from taut.training import checkpoint
from taut.training.graph import Graph, record
from taut.training.loop import State, first_batch, run_steps, train, validate
from taut.training.step import Learner
from taut.use import tasks

WORDS = (
    "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 137438953472 "
    "bytes."
)
SETTINGS = TrainingConfig(
    batch_size=11, learning_rate=1e-2, averaging=0.9, compile="off", threads=1, patience=10.0
)
OBJECTIVES = {
    "elbo": taut.ELBO(),
    "dreg": taut.DReG(num_samples=3),
    "sticking": taut.StickingTheLanding(num_samples=2),
    "score": taut.ScoreFunction(num_samples=2),
    "vimco": taut.VIMCO(num_samples=3),
}


class Narrow(taut.Bernoulli):
    """A likelihood for which memory is too short beyond so many data, or so many
    samples of them.
    """

    limit = 10**9
    samples = 10**9
    failures = 0

    def forward(self, z: Tensor, context: Tensor | None = None) -> Any:
        if z.shape[-2] > Narrow.limit or z.numel() > Narrow.samples * z.shape[-1]:
            Narrow.failures += 1
            raise RuntimeError(WORDS)
        return super().forward(z, context)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what there is room for."""
    monkeypatch.setattr(Narrow, "failures", 0)

    def room(limit: int = 10**9, samples: int = 10**9) -> None:
        monkeypatch.setattr(Narrow, "limit", limit)
        monkeypatch.setattr(Narrow, "samples", samples)

    return room


def _model(dropout: float = 0.0) -> taut.VAE:
    torch.manual_seed(0)
    network = partial(taut.MLP, hidden=(6,), dropout=dropout)
    return taut.VAE(
        taut.StandardNormal(2),
        Narrow((5,), 2, decoder=network),
        taut.DiagonalNormal((5,), 2, network),
    )


def _data() -> Any:
    grey = np.random.default_rng(0).integers(0, 256, (57, 5)).astype(np.uint8)
    return prepare(grey, binarize="dynamic", validation_fraction=0.3, test_fraction=0.0)


def _trained(
    objective: taut.Objective, steps: int = 12, dropout: float = 0.0, **changed: Any
) -> tuple[taut.VAE, State, list[Any]]:
    model, state = _model(dropout), State(steps)
    records = list(
        train(model, objective, _data(), dataclasses.replace(SETTINGS, **changed), state)
    )
    return model, state, records


def _apart(a: State, b: State) -> float:
    assert a.tensors.keys() == b.tensors.keys()
    return max(float((a.tensors[k] - b.tensors[k]).abs().max()) for k in a.tensors)


# --- Training -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("room", "parts"), [(6, 2), (3, 4), (1, 11)])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_in_micro_batches_is_the_step(narrow: Any, name: str, room: int, parts: int) -> None:
    """Weights, moments and running average to rounding, after twelve steps with dynamic
    binarization and dropout.
    """
    _, whole, [record] = _trained(OBJECTIVES[name], dropout=0.3)
    narrow(room)
    _, state, [again] = _trained(OBJECTIVES[name], dropout=0.3)
    assert (record.micro_batches, again.micro_batches, state.micro_batches) == (1, parts, parts)
    assert _apart(whole, state) < 1e-11
    assert again.bound == pytest.approx(record.bound, rel=1e-12)
    assert again.validation == pytest.approx(record.validation, rel=1e-12)
    assert (again.step, again.skipped, again.rollbacks) == (12, 0, 0)


def test_half_of_a_batch_that_the_model_draws_is_the_same_too(narrow: Any) -> None:
    _, whole, _ = _trained(taut.ELBO(), simulated=0.5)
    narrow(6)
    _, state, _ = _trained(taut.ELBO(), simulated=0.5)
    assert state.micro_batches == 2
    assert _apart(whole, state) < 1e-11


def test_another_noise_would_be_seen() -> None:
    _, a, _ = _trained(taut.ELBO(), dropout=0.3)
    _, b, _ = _trained(taut.ELBO(), dropout=0.3, seed=1)
    assert _apart(a, b) > 1e-3


def test_micro_batches_stay_once_memory_ran_out(narrow: Any) -> None:
    """The first step is tried whole, in halves and in quarters; none after it."""
    narrow(3)
    _, state, _ = _trained(taut.ELBO(), steps=5)
    assert state.micro_batches == 4
    assert Narrow.failures - math.ceil(math.log2(len(_data().validation) / 3)) == 2


def test_one_row_that_does_not_fit_is_the_error_it_was(narrow: Any) -> None:
    narrow(0)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        _trained(taut.ELBO())
    assert Narrow.failures == 5  # 1, 2, 4, 8, 11 parts


def test_another_error_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def wrong(*_: Any) -> None:
        calls.append(1)
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(Narrow, "forward", wrong)
    with pytest.raises(RuntimeError, match="shapes differ"):
        _trained(taut.ELBO())
    assert len(calls) == 1


@pytest.mark.parametrize("what", ["free_bits", "BatchNorm1d"])
def test_what_couples_the_rows_is_not_divided(narrow: Any, what: str) -> None:
    narrow(6)
    model = _model()
    if what == "BatchNorm1d":
        model.posterior = nn.Sequential(nn.BatchNorm1d(5), model.posterior)  # type: ignore[assignment]
        model.posterior.forward = lambda x, context=None: model.posterior[1](model.posterior[0](x))  # type: ignore[index]
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        list(
            train(
                model,
                taut.ELBO(free_bits=0.1 if what == "free_bits" else 0.0),
                _data(),
                SETTINGS,
                State(12),
            )
        )
    assert Narrow.failures == 1


def test_a_compiled_step_goes_on_eagerly(narrow: Any) -> None:
    """In the midst of an interval, after steps that the graph took.

    With the counts of all weights, and no step lost.
    """
    data, runs = _data(), []
    for fails in (False, True):
        learner, state = Learner(_model(), taut.ELBO(), SETTINGS), State(12)

        recorded = record(learner, first_batch(data, SETTINGS))

        def graph(
            *tensors: Tensor,
            own: Learner = learner,
            recorded: Graph = recorded,
            fails: bool = fails,
        ) -> None:
            if fails and float(own.optimizer.state[own.trainable[0]]["step"]) == 7:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            recorded(*tensors)

        learner._graph = graph
        bound, skipped = run_steps(learner, data, state, 12)
        counts = {float(each["step"]) for each in learner.optimizer.state.values()}
        runs.append((bound, torch.cat([p.detach().flatten() for p in learner.trainable])))
        assert (skipped, counts, state.micro_batches) == (0, {12.0}, 2 if fails else 1)
        assert (learner._graph is None) is fails
    assert runs[0][0] == pytest.approx(runs[1][0], rel=1e-9)
    torch.testing.assert_close(runs[0][1], runs[1][1], rtol=1e-7, atol=1e-9)


# --- Recorded, and gone on with -------------------------------------------------------------------


def test_a_run_records_it_and_resumes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the memory is there again: the numbers are those of one unbroken run,
    to the bit.
    """
    bits = np.random.default_rng(0).integers(0, 2, (300, 8)).astype(np.uint8)
    np.save(tmp_path / "bits.npy", bits)
    config = Config.from_dict(
        {
            "model": {
                "latent_dim": 2,
                "encoder": "MLP(hidden=(4,))",
                "decoder": "MLP(hidden=(4,))",
            },
            "training": {
                "max_epochs": 105,
                "batch_size": 240,
                "patience": 10.0,
                "checkpoint_seconds": 0.0,
                "threads": 1,
            },
            "evaluation": {"num_samples": 20},
        }
    )
    forward, room = taut.Bernoulli.forward, [130]

    def narrow(self: Any, z: Tensor, context: Tensor | None = None) -> Any:
        if z.shape[0] * z.shape[1] > room[0] and self.training:
            raise RuntimeError(WORDS)
        return forward(self, z, context)

    monkeypatch.setattr(taut.Bernoulli, "forward", narrow)
    run, data, state = start(tmp_path / "bits.npy", tmp_path / "whole", config)
    list(train_run(run, data, state))
    run, data, state = start(tmp_path / "bits.npy", tmp_path / "cut", config)
    records = train_run(run, data, state)
    next(records)
    records.close()
    saved = checkpoint.load(checkpoint.latest(tmp_path / "cut" / "checkpoints"))
    assert (saved.step, saved.micro_batches) == (100, 2)
    room[0] = 10**9
    run, data, state = resume(tmp_path / "cut")
    list(train_run(run, data, state))
    for _ in evaluate(run, data):
        pass
    lines = [(tmp_path / name / "history.jsonl").read_text() for name in ("whole", "cut")]
    assert lines[0] == lines[1]
    assert [json.loads(line)["micro_batches"] for line in lines[0].splitlines()] == [2, 2]


def test_it_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("bits.npy", np.random.default_rng(0).integers(0, 2, (60, 8)).astype(np.uint8))
    forward = taut.Bernoulli.forward

    def narrow(self: Any, z: Tensor, context: Tensor | None = None) -> Any:
        if z.shape[1] > 16 and self.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, z, context)

    monkeypatch.setattr(taut.Bernoulli, "forward", narrow)
    small = ["--latent-dim", "2", "--max-epochs", "2", "--batch-size", "32", "--num-samples", "20"]
    result = call("fit", "bits.npy", "--out", "run", *small, "--set", "training.compile=off")
    assert result.exit_code == 0, result.stderr
    line = "memory was short: each step was taken in 2 micro-batches, with the same result"
    assert result.stderr.count(line) == 1


# --- Evaluation -----------------------------------------------------------------------------------


def test_chunks_are_halved_from_then_on() -> None:
    tried: list[Share] = []

    def compute(own: Share) -> int:
        tried.append(own)
        if own.rows > 3:
            raise MemoryError
        return own.rows

    chunks = Chunks(16)
    assert list(chunks(11, compute)) == [3, 3, 3, 2]
    assert [own.rows for own in tried] == [11, 6, 3, 3, 3, 2]
    assert [own.first for own in tried[2:]] == [0, 3, 6, 9]
    tried.clear()
    assert list(chunks(4, compute)) == [3, 1]
    assert list(Chunks(16)(0, compute)) == [0]
    with pytest.raises(MemoryError):
        list(Chunks(16, least=8)(8, compute))


def test_importance_sampling_with_fewer_samples_at_a_time(narrow: Any) -> None:
    """The same samples.

    Equal to rounding, also where a chunk is no divisor of what is drawn at a time.
    """
    x = torch.bernoulli(torch.full((40, 5), 0.5))
    whole = importance(_model(), x, 150, seed=3)
    narrow(samples=32 * 7)
    again = importance(_model(), x, 150, seed=3)
    assert Narrow.failures == 4  # 64, 32, 16, 8
    assert again.num_samples == 150
    for field in dataclasses.fields(whole):
        if field.name != "num_samples":
            a, b = getattr(whole, field.name), getattr(again, field.name)
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, equal_nan=True, msg=field.name)


def test_annealing_with_fewer_chains_at_a_time(narrow: Any) -> None:
    x = (torch.rand(3, 5, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    whole = annealing(_model(), x, 7, seed=3, max_temperatures=5)
    narrow(samples=3 * 3)
    again = annealing(_model(), x, 7, seed=3, max_temperatures=5)
    assert Narrow.failures == 2  # 8 and 4 chains of the pilot
    torch.testing.assert_close(again.log_evidence, whole.log_evidence, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(again.acceptance, whole.acceptance, rtol=1e-6, atol=0)


@pytest.mark.parametrize("objective", [taut.ELBO(), taut.DReG(num_samples=3), taut.ELBO(beta=2.0)])
def test_validation_in_smaller_blocks(narrow: Any, objective: taut.Objective) -> None:
    x = torch.bernoulli(torch.full((100, 5), 0.5))
    whole = validate(_model(), objective, x, 7)
    narrow(13)
    assert validate(_model(), objective, x, 7) == pytest.approx(whole, rel=1e-12)
    assert Narrow.failures == 3  # 100, 50, 25


def test_what_is_made_of_data_in_smaller_blocks(narrow: Any) -> None:
    """Samples, reconstructions, decoded points and draws of the posterior, with their noise."""
    x = torch.bernoulli(torch.full((300, 5), 0.5))

    def made() -> list[Tensor]:
        model = _model()
        return [
            tasks.sample(model, 300, seed=1),
            tasks.sample(model, 300, mean=True, seed=1),
            tasks.reconstruct(model, x, draw=True, seed=2),
            tasks.decode(model, torch.linspace(-1, 1, 600).reshape(300, 2), draw=True, seed=2),
            tasks.sample(model, 0),
        ]

    whole = made()
    narrow(50)
    for a, b in zip(whole, made(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert Narrow.failures == 4 * 3


def test_draws_of_the_posterior_in_smaller_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.bernoulli(torch.full((300, 5), 0.5))
    whole = tasks.encode(_model(), x, 4, seed=1)
    forward = taut.DiagonalNormal.forward

    def narrow(self: Any, x: Tensor, context: Tensor | None = None) -> Any:
        if len(x) > 50:
            raise MemoryError
        return forward(self, x, context)

    monkeypatch.setattr(taut.DiagonalNormal, "forward", narrow)
    torch.testing.assert_close(tasks.encode(_model(), x, 4, seed=1), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError(WORDS), True),
        (
            RuntimeError(
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
            ),
            True,
        ),
        (RuntimeError("shapes differ"), False),
        (UsageError("out of memory"), False),
    ],
)
def test_which_errors_are_of_memory(error: Exception, is_one: bool) -> None:
    assert out_of_memory(error) is is_one


# --- Before anything is read ----------------------------------------------------------------------


def _files(folder: Path) -> dict[str, tuple[Path, int]]:
    """Returns files and the bytes of data that they are known to hold before they are read."""
    array = np.random.default_rng(0).integers(0, 256, (100, 20)).astype(np.uint8)
    np.save(folder / "a.npy", array)
    np.savez_compressed(folder / "a.npz", a=np.zeros((100, 20), np.float32))
    idx = b"\0\0\x08\x02" + np.array([100, 20], ">u4").tobytes() + array.tobytes()
    (folder / "a-ubyte.gz").write_bytes(gzip.compress(idx))
    (folder / "a.csv").write_text("a,b\n" + "0.25,0.5\n" * 222)
    sizes = {"a.npy": 2000, "a.npz": 8000, "a-ubyte.gz": 2000, "a.csv": 2002}
    return {name: (folder / name, size) for name, size in sizes.items()}


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a-ubyte.gz", "a.csv"])
def test_data_that_cannot_fit_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path, size = _files(tmp_path)[name]
    monkeypatch.setattr("taut.data.arrays._fill", None)  # nothing is read
    monkeypatch.setattr("taut.data.tables.delimited.read_csv", None)
    monkeypatch.setattr("taut.system.memory.available", lambda: COPIES * size - 1)
    with pytest.raises(
        OutOfMemoryError, match=r"need at least .* GiB of memory, .* GiB are free"
    ) as caught:
        prepare(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 6
    monkeypatch.setattr("taut.system.memory.available", lambda: COPIES * size)
    with pytest.raises(TypeError):  # read
        prepare(path)


def test_counts_that_cannot_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anndata, sparse = pytest.importorskip("anndata"), pytest.importorskip("scipy.sparse")
    matrix = sparse.csr_matrix(np.random.default_rng(0).poisson(0.5, (50, 10)).astype(np.float32))
    anndata.AnnData(matrix).write_h5ad(tmp_path / "a.h5ad")
    size = matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
    monkeypatch.setattr("taut.system.memory.available", lambda: COPIES * size - 1)
    with pytest.raises(OutOfMemoryError, match=r"a\.h5ad, X: .* store it sparse"):
        prepare(tmp_path / "a.h5ad")
    monkeypatch.setattr("taut.system.memory.available", lambda: COPIES * size)
    prepare(tmp_path / "a.h5ad")


def test_the_line_says_what_is_needed_what_there_is_and_how_to_mend_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("taut.system.memory.available", lambda: 8 * 2**30)
    sizes = "x.csv: 4 GiB of data need at least 12 GiB of memory, 8 GiB are free"
    with pytest.raises(OutOfMemoryError) as caught:
        check_fits(4 * 2**30, "x.csv", "convert it")
    assert str(caught.value) == f"{sizes}: convert it, give fewer rows, or take a machine with more"
    monkeypatch.setattr("taut.system.memory.available", lambda: None)
    check_fits(2**60, "x.csv", "convert it")  # a system that does not tell


def test_the_command_ends_with_the_code_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a.npy", np.zeros((100, 20)))
    monkeypatch.setattr("taut.system.memory.available", lambda: 1000)
    result = call("check", str(tmp_path / "a.npy"))
    assert result.exit_code == 6
    assert "save it as a smaller type" in result.stderr.replace("\n", " ")


def test_available_memory_is_what_the_kernel_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text(
        "MemTotal:  24684092 kB\nMemFree:  100 kB\nMemAvailable:   2000 kB\n"
    )
    monkeypatch.setattr("taut.system.memory.OWN_GROUPS", tmp_path / "none")
    for file, value in (("meminfo", 2_048_000), ("nothing", None)):
        monkeypatch.setattr("taut.system.memory.MEMINFO", tmp_path / file)
        assert available() == value


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("0::/jobs/7", ("", "memory.max", "memory.current", "inactive_file")),
        (
            "3:cpuset:/\n4:memory:/jobs/7",
            ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
)
def test_available_memory_is_what_the_limits_of_a_container_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, files: tuple[str, ...]
) -> None:
    place, limit, used, cache = files
    (tmp_path / "meminfo").write_text("MemAvailable:   2000 kB\n")
    (tmp_path / "own").write_text(f"1:cpu:/\n{line}\n")
    for name, own in (("MEMINFO", "meminfo"), ("OWN_GROUPS", "own"), ("GROUPS", "groups")):
        monkeypatch.setattr(f"taut.system.memory.{name}", tmp_path / own)
    job = tmp_path / "groups" / place / "jobs" / "7"
    job.mkdir(parents=True)
    for group, most in ((job, "max"), (job.parent, "90000")):
        (group / limit).write_text(f"{most}\n")
        (group / used).write_text("60000\n")
        (group / "memory.stat").write_text(f"anon 1\n{cache} 500\nactive_file 7\n")
    assert available() == 90_000 - 60_000 + 500
    (job / limit).write_text("60001\n")
    assert available() == 501
    for group in (job, job.parent):
        (group / limit).write_text("9223372036854771712\n")  # version 1 for no limit
    assert available() == 2_048_000


# --- Enough memory --------------------------------------------------------------------------------

FAULTS = """
import resource, torch
from taut.model import evaluating
torch.set_num_threads(1)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        [torch.ones(250_000) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with evaluating(torch.nn.Linear(1, 1)):
    faults()
    print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives memory back")
@pytest.mark.parametrize(
    "told", [{}, {"MALLOC_TRIM_THRESHOLD_": "100000"}], ids=["by us", "by a person"]
)
def test_what_was_freed_is_kept_unless_a_person_said_how(told: dict[str, str]) -> None:
    """Pages that the system hands out.

    8 MB are freed and asked for fifty times, 1,950 pages of 4 KiB each.
    """
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))
    } | told
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True
    )
    pages = int(done.stdout)
    assert pages > 50_000 if told else pages < 500
