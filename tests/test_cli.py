"""The command line: results on stdout, the rest on stderr.

Every mistake is one line and an exit code, and never a traceback.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hurried import hurry
from pyarrow import csv, parquet
from typer.testing import CliRunner, Result

import taut
from taut.cli.app import app
from taut.runs.folder import data_of
from taut.system import storage
from taut.training import checkpoint

RNG = np.random.default_rng(0)
BITS = (RNG.random((60, 4, 4)) < 0.4).astype(np.uint8)
REAL = RNG.normal(size=(60, 3))
GREY = RNG.integers(0, 256, (60, 4, 4), dtype=np.uint8)
MLP = "MLP(hidden=(8,))"
QUICK = [
    "--latent-dim",
    "2",
    "--encoder",
    MLP,
    "--decoder",
    MLP,
    "--max-epochs",
    "1",
    "--num-samples",
    "5",
    "--threads",
    "1",
]
DONE, BUG, USAGE, DATA, DIVERGED, STORAGE, MEMORY = range(7)


@pytest.fixture(autouse=True)
def _alone(_seeded: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    for variable in [v for v in os.environ if v.startswith("TAUT_")]:
        monkeypatch.delenv(variable)
    yield
    signal.signal(signal.SIGTERM, before)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and with two finished runs, of images and of a table."""
    folder = tmp_path_factory.mktemp("made")
    before, threads, handler = (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        signal.getsignal(signal.SIGTERM),
    )
    torch.set_default_dtype(torch.float32)
    np.save(folder / "bits.npy", BITS)
    np.save(folder / "real.npy", REAL)
    np.save(folder / "grey.npy", GREY)
    for name in ("bits", "real"):
        result = CliRunner().invoke(
            app, ["fit", str(folder / f"{name}.npy"), "--out", str(folder / f"run-{name}"), *QUICK]
        )
        assert result.exit_code == DONE, result.stderr
    torch.set_default_dtype(before)
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, handler)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the folder that the command is called in."""
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def call(*arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env=environment)


def refused(result: Result, code: int, *words: str, lines: int = 1) -> None:
    """Asserts that a command ended in an exit code and lines that hold some words, and showed
    nothing else.
    """
    shown = result.stderr.splitlines()
    messages = [line for line in shown if line.startswith("taut: ")]
    assert result.exit_code == code, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert shown[-len(messages) :] == messages
    assert len(messages) == lines, shown
    for word in words:
        assert word in "\n".join(messages)


# ----------------------------------------------------------------------------------------- it works


def test_fit_writes_a_run_and_prints_the_numbers_in_it(here: Path):
    result = call("fit", "bits.npy", "--out", "new", *QUICK)
    assert result.exit_code == DONE
    numbers = taut.load("new").evaluation()
    table = {line.split("  ")[0]: line.split()[-6:] for line in result.stdout.splitlines()}
    for title, key in (("ELBO", "elbo"), ("log p(x)", "log_evidence")):
        estimate = numbers[key]
        expected = [f"{estimate[k]:.3f}" for k in ("value", "mc_error", "test_error")]
        bits = numbers["bits_per_dimension"][key]
        assert table[title] == [*expected, f"{bits['value']:.4f}", "±", f"{bits['test_error']:.4f}"]
    assert result.stdout.splitlines()[-1] == "samples.png and reconstructions.png are in new"
    for line in (
        "likelihood Bernoulli(), which follows from the data",
        "rows       train 48, validation 6, test 6",
    ):
        assert line in result.stderr.splitlines()
    assert re.search(
        r"^training 100 %, epoch 1, held-out bound -\d+\.\d\d nats$", result.stderr, re.MULTILINE
    )
    assert "measuring 100 %" in result.stderr.splitlines()


def test_two_fits_of_a_seed_are_the_same_to_the_bit(here: Path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert call("fit", "bits.npy", "--out", name, "--seed", seed, *QUICK).exit_code == DONE
    for file in ("history.jsonl", "model.safetensors", "evaluation.json", "samples.png"):
        assert Path("a", file).read_bytes() == Path("b", file).read_bytes()
    assert (
        Path("a", "model.safetensors").read_bytes() != Path("c", "model.safetensors").read_bytes()
    )


JSON = [
    (
        ["fit", "bits.npy", "--out", "new", *QUICK],
        {"run", "elbo", "log_evidence", "baseline", "bits_per_dimension", "warnings"},
    ),
    (["resume", "run-bits"], {"run", "elbo", "log_evidence", "baseline", "bits_per_dimension"}),
    (["check", "bits.npy"], {"schema", "rows", "notes", "fingerprint"}),
    (["sample", "run-bits", "--num-samples", "3"], {"file", "shape"}),
    (["reconstruct", "run-bits"], {"file", "shape"}),
    (["encode", "run-bits"], {"file", "shape"}),
    (["decode", "run-bits", "z.npy"], {"file", "shape"}),
    (
        ["score", "run-bits", "--num-samples", "3"],
        {"file", "elbo", "log_evidence", "num_data", "ess", "warnings"},
    ),
    (
        ["score", "run-bits", "--num-samples", "1"],
        {"file", "elbo", "log_evidence", "num_data", "ess", "warnings"},
    ),
]


@pytest.mark.parametrize(("arguments", "keys"), JSON)
def test_json_is_all_there_is_on_stdout(here: Path, arguments: list[str], keys: set[str]):
    np.save("z.npy", np.zeros((3, 2)))

    def strict(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    result = call(*arguments, "--json")
    assert result.exit_code == DONE
    found = json.loads(result.stdout, parse_constant=strict)
    assert found.keys() >= keys
    if "file" in found:
        assert Path(found["file"]).is_file()


def test_what_a_run_is_asked_is_what_python_gives(here: Path):
    run = taut.load("run-bits")
    test = data_of(run).test
    x = test.to(torch.float32)
    assert call("encode", "run-bits").exit_code == DONE
    with torch.no_grad():
        np.testing.assert_array_equal(np.load("embedding.npy"), run.model.encode(x).mean.numpy())
    np.save("all.npy", BITS)
    assert (
        call("encode", "run-bits", "all.npy", "--out", "all-1.npy", "--seed", 1).exit_code == DONE
    )
    assert (
        call("encode", "run-bits", "all.npy", "--out", "all-2.npy", "--seed", 2).exit_code == DONE
    )
    # deterministic, whatever the seed
    assert Path("all-1.npy").read_bytes() == Path("all-2.npy").read_bytes()
    assert np.load("all-1.npy").shape == (60, 2)

    assert call("decode", "run-bits", "embedding.npy").exit_code == DONE
    assert call("reconstruct", "run-bits").exit_code == DONE
    np.testing.assert_array_equal(np.load("decoded.npy"), np.load("reconstructions.npy"))

    np.save("test.npy", test.numpy())
    assert call("score", "run-bits", "--num-samples", 7, "--seed", 3).exit_code == DONE
    assert (
        call(
            "score", "run-bits", "test.npy", "--num-samples", 7, "--seed", 3, "--out", "given.csv"
        ).exit_code
        == DONE
    )
    # by default the held-out test rows
    assert Path("scores.csv").read_bytes() == Path("given.csv").read_bytes()
    evidence = taut.importance(run.model, test, num_samples=7, seed=3)
    names = ["log_evidence", "log_evidence_error", "reliable", "method", "ess", "khat", "elbo"]
    columns = [getattr(evidence, name) for name in names if name != "method"]
    assert Path("scores.csv").read_text().splitlines()[0] == ",".join(f'"{name}"' for name in names)
    written = np.loadtxt("scores.csv", delimiter=",", skiprows=1, usecols=(0, 1, 2, 4, 5, 6))
    # every digit of every number
    np.testing.assert_array_equal(written, torch.stack([c.double() for c in columns], 1).numpy())
    assert (
        call(
            "score", "run-bits", "--num-samples", 7, "--seed", 3, "--out", "scores.parquet"
        ).exit_code
        == DONE
    )
    table = parquet.read_table("scores.parquet")
    assert table.column_names == names
    assert set(table.column("method").to_pylist()) == {"importance"}
    np.testing.assert_array_equal(
        np.stack([table.column(n).to_numpy() for n in names if n != "method"], 1), written
    )
    assert call("encode", "run-bits", "--out", "embedding.parquet").exit_code == DONE
    table = parquet.read_table("embedding.parquet")
    assert table.column_names == ["z0", "z1"]
    np.testing.assert_array_equal(
        np.stack([c.to_numpy() for c in table.columns], 1), np.load("embedding.npy")
    )


@pytest.mark.parametrize(
    ("arguments", "shape", "values"),
    [
        (["sample", "run-bits", "--num-samples", "9"], (9, 4, 4), {0.0, 1.0}),
        (["sample", "run-bits", "--num-samples", "9", "--mean"], (9, 4, 4), None),
        (["sample", "run-real"], (64, 3), None),
        (["reconstruct", "run-bits", "--draw"], (6, 4, 4), {0.0, 1.0}),
        (["reconstruct", "run-real", "real.npy"], (60, 3), None),
        (["encode", "run-bits", "--num-samples", "5"], (6, 5, 2), None),
        (["decode", "run-bits", "z.npy", "--draw"], (300, 4, 4), {0.0, 1.0}),
    ],
)
def test_shapes_and_seeds(
    here: Path, arguments: list[str], shape: tuple[int, ...], values: set[float] | None
):
    np.save("z.npy", RNG.normal(size=(300, 2)))
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert call(*arguments, "--out", f"{name}.npy", "--seed", seed).exit_code == DONE
    a, b, c = (np.load(f"{name}.npy") for name in "abc")
    assert a.shape == shape
    assert values is None or set(a.flat) == values
    assert a.tobytes() == b.tobytes()
    deterministic = arguments[0] == "reconstruct" and "--draw" not in arguments
    assert (a.tobytes() == c.tobytes()) == deterministic


def test_formats(here: Path):
    assert call("sample", "run-real", "--num-samples", 4, "--out", "s.csv").exit_code == DONE
    assert call("sample", "run-real", "--num-samples", 4, "--out", "s.npy").exit_code == DONE
    assert Path("s.csv").read_text().splitlines()[0] == '"x0","x1","x2"'
    np.testing.assert_array_equal(
        np.loadtxt("s.csv", delimiter=",", dtype=np.float32, skiprows=1), np.load("s.npy")
    )
    for command in (
        ["sample", "run-bits"],
        ["reconstruct", "run-bits"],
        ["decode", "run-bits", "z.npy"],
    ):
        np.save("z.npy", np.zeros((1, 2)))
        result = call(*command, "--out", f"{command[0]}.png")
        assert result.exit_code == DONE
        assert Path(f"{command[0]}.png").read_bytes().startswith(b"\x89PNG")
        assert re.fullmatch(rf"{command[0]}\.png: \d+x4x4\n", result.stdout)


def test_a_run_works_from_another_folder_and_after_it_was_moved(
    here: Path, monkeypatch: pytest.MonkeyPatch
):
    assert call("fit", "bits.npy", "--out", "new", *QUICK).exit_code == DONE
    Path("elsewhere").mkdir()
    Path("new").rename("elsewhere/moved")
    monkeypatch.chdir("elsewhere")
    for command in ("score", "encode", "reconstruct", "resume"):
        assert call(command, "moved").exit_code == DONE


def test_an_array_of_an_npz_is_found_again(here: Path):
    np.savez("two.npz", a=BITS, b=BITS[::-1])
    assert call("fit", "two.npz", "--key", "a", "--out", "by-flag", *QUICK).exit_code == DONE
    assert call("fit", "two.npz:a", "--out", "by-name", *QUICK).exit_code == DONE
    for run in ("by-flag", "by-name"):
        assert call("score", run, "--out", f"{run}.csv").exit_code == DONE
    assert Path("by-flag.csv").read_bytes() == Path("by-name.csv").read_bytes()
    assert call("score", "by-flag", "two.npz", "--key", "b", "--out", "b.csv").exit_code == DONE


def test_an_unfinished_run_is_resumed_and_a_finished_one_left_alone(here: Path):
    before = {p.name: p.read_bytes() for p in Path("run-bits").iterdir() if p.is_file()}
    result = call("resume", "run-bits")
    assert result.exit_code == DONE
    assert "run-bits is finished; nothing to resume" in result.stderr
    for name in ("manifest.json", "evaluation.json", "model.safetensors", "samples.png"):
        Path("run-bits", name).unlink()
    refused(
        call("sample", "run-bits"),
        STORAGE,
        "run-bits is not finished: run `taut resume run-bits` first",
    )
    result = call("resume", "run-bits")
    assert result.exit_code == DONE
    assert "resuming at step 1 of 1" in result.stderr
    assert {p.name: p.read_bytes() for p in Path("run-bits").iterdir() if p.is_file()} == before


# ----------------------------------------------------------------------------------------- settings


def test_flag_over_environment_over_file_over_default(here: Path):
    Path("c.toml").write_text(
        "[training]\nseed = 11\nlearning_rate = 0.01\npatience = 0.7\nclip_norm = 9\n"
        "[model]\nlatent_dim = 3\n[data]\ntest_fraction = 0.2\n"
    )
    flags = [
        "--config",
        "c.toml",
        "--max-epochs",
        1,
        "--num-samples",
        5,
        "--encoder",
        MLP,
        "--decoder",
        MLP,
    ]
    result = call(
        "fit",
        "bits.npy",
        "--out",
        "new",
        *flags,
        "--seed",
        13,
        "--set",
        "training.patience=0.9",
        "--set",
        "training.seed=14",
        TAUT_SEED="12",
        TAUT_LEARNING_RATE="0.02",
        TAUT_PATIENCE="0.8",
    )
    assert result.exit_code == DONE
    config = taut.load("new").config
    assert config.training.seed == 14  # --set is the last word, then the flag ...
    assert config.training.patience == 0.9  # --set over the environment
    assert config.training.learning_rate == 0.02  # the environment over the file
    assert config.training.clip_norm == 9.0  # the file over the default
    assert (config.model.latent_dim, config.data.test_fraction) == (3, 0.2)
    assert config.training.averaging == 0.999
    result = call("fit", "bits.npy", "--out", "next", *flags, "--seed", 13, TAUT_SEED="12")
    assert taut.load("next").config.training.seed == 13  # a flag over the environment


def test_all_mistakes_of_the_settings_come_at_once(here: Path):
    Path("c.toml").write_text(
        "model = 3\n[training]\nbatch_sise = 5\nseed = 'x'\n[traning]\na = "
        "1\n[evaluation]\nnum_samples = nan\n"
    )
    result = call(
        "fit",
        "bits.npy",
        "--out",
        "new",
        "--config",
        "c.toml",
        "--set",
        "data.kind=bool",
        TAUT_LEARNING_RATE="-1",
    )
    refused(
        result, USAGE, "did you mean "
                       "'batch_size'", "did you mean "
                                       "'training'", "model is a section", "training.seed",
        "TAUT_LEARNING_RATE: expected a number of at least 0, not "
        "-1.0", "evaluation.num_samples", "data.kind", lines=7,
    )  # fmt: skip
    assert not Path("new").exists()


BAD_FILES = [
    (b"[training\n", ["c.toml is not valid TOML", "line 1"]),
    (b"[training]\nobjective='\xff'\n", ["c.toml is not valid TOML"]),
    (b"[training]\nseed = 1" + b"0" * 5000, ["c.toml is not valid TOML"]),
    (b"[training]\nlearning_rate = 1" + b"0" * 400, ["training.learning_rate: expected a number"]),
    (b"[training.seed]\na = 1\n", ["training.seed: expected a whole number"]),
]


@pytest.mark.parametrize(("content", "words"), BAD_FILES)
def test_a_bad_configuration_file(here: Path, content: bytes, words: list[str]):
    Path("c.toml").write_bytes(content)
    for command in (["fit", "bits.npy", "--out", "new"], ["check", "bits.npy"]):
        refused(call(*command, "--config", "c.toml"), USAGE, *words)


# ----------------------------------------------------------------------------------------- mistakes

MISTAKES: list[tuple[list[str], int, list[str]]] = [
    (["fit", "nothing.npy"], USAGE, ["nothing.npy", "no such file"]),
    (["fit", "bit.npy"], USAGE, ["did you mean bits.npy?"]),
    (["fit", "bits.npy", "--out", "run-bits"], USAGE, ["run-bits exists", "--overwrite"]),
    (
        ["fit", "bits.npy", "--out", "real.npy", "--overwrite"],
        USAGE,
        ["cannot make the folder real.npy", "choose another --out"],
    ),
    (
        ["fit", "bits.npy", "--out", "bits.npy/run"],
        USAGE,
        ["cannot make the folder bits.npy/run", "Not a directory"],
    ),
    (["fit", "bits.npy", "--out", "/proc/run"], USAGE, ["cannot make the folder /proc/run"]),
    (
        ["fit", "bits.npy", "--out", "a" * 300],
        USAGE,
        ["cannot make the folder", "File name too long"],
    ),
    (
        ["fit", "../here/bits.npy", "--out", ".", "--overwrite"],
        USAGE,
        [". holds what is read (../here/bits.npy)", "choose another --out"],
    ),
    (
        ["fit", "bits.npy", "--config", "nothing.toml"],
        USAGE,
        ["cannot read nothing.toml", "No such file"],
    ),
    (["fit", "bits.npy", "--config", "."], USAGE, ["cannot read .", "Is a directory"]),
    (
        ["fit", "bits.npy", "--set", "patience=1"],
        USAGE,
        ["--set patience=1", "--set training.patience=0.3"],
    ),
    (
        ["fit", "bits.npy", "--set", "training.patience"],
        USAGE,
        ["write it like --set training.patience=0.3"],
    ),
    (
        ["fit", "bits.npy", "--set", "traning.patience=1"],
        USAGE,
        ["unknown section 'traning'; did you mean 'training'?"],
    ),
    (["fit", "bits.npy", "--set", "training.patiense=1"], USAGE, ["did you mean 'patience'?"]),
    (
        ["fit", "bits.npy", "--latent-dim", "two"],
        USAGE,
        ["--latent-dim: expected a whole number, not 'two'"],
    ),
    (
        ["fit", "bits.npy", "--learning-rate", "nan"],
        USAGE,
        ["--learning-rate: expected a number of at least 0, not nan"],
    ),
    (
        ["fit", "bits.npy", "--batch-size=-3"],
        USAGE,
        ["--batch-size: expected a number of at least 1", "not -3"],
    ),
    (
        ["fit", "bits.npy", "--threads", "100000000"],
        USAGE,
        ["--threads: expected a number from 1 to 1024"],
    ),
    (["fit", "bits.npy", "--device", "cuda:77"], USAGE, ["no device 'cuda:77' here; there is cpu"]),
    (["fit", "bits.npy", "--device", "meta"], USAGE, ["no device 'meta' here"]),
    (
        ["fit", "bits.npy", "--likelihood", "Bernouli()"],
        USAGE,
        ["no likelihood is called 'Bernouli'; did you mean 'Bernoulli'?"],
    ),
    (
        ["fit", "bits.npy", "--likelihood", "Normal(scal=1)"],
        USAGE,
        ["no argument 'scal'; did you mean 'scale'?"],
    ),
    (
        ["fit", "bits.npy", "--objective", "IWAE(num_sample=3)"],
        USAGE,
        ["did you mean 'num_samples'?"],
    ),
    (["fit", "bits.npy", "--objective", "IWAE(3)"], USAGE, ["every argument needs its name"]),
    (["fit", "bits.npy", "--objective", "ELBO(beta=-1)"], USAGE, ["beta", "not -1"]),
    (
        ["fit", "bits.npy", "--objective", "__import__('os')"],
        USAGE,
        ["every argument needs its name"],
    ),
    (["fit", "bits.npy", "--prior", "nowhere:Prior()"], USAGE, ["cannot import 'nowhere'"]),
    (
        ["fit", "bits.npy", "--prior", "os:Prior()"],
        USAGE,
        ["os:Prior is not a subclass of taut.Prior"],
    ),
    (
        ["fit", "bits.npy", "--prior", "StandardNormal(latent_dim=5)"],
        USAGE,
        ["latent_dim follows from the data"],
    ),
    (
        ["fit", "bits.npy", "--posterior", "IndependentBernoulli()"],
        USAGE,
        ["IndependentBernoulli", "different spaces"],
    ),
    (
        ["fit", "bits.npy", "--binarize", "dynamic"],
        DATA,
        ["is binary already", "omit --binarize"],
    ),
    (["fit", "grey.npy", "--likelihood", "Bernoulli()"], DATA, ["0 or 1", "--binarize dynamic"]),
    (
        ["fit", "grey.npy", "--likelihood", "ContinuousBernoulli()"],
        DATA,
        ["0 to 1", "DiscretizedLogistic()"],
    ),
    (["fit", "real.npy", "--likelihood", "Bernoulli()"], DATA, ["0 or 1", "Normal()"]),
    (["fit", "nine.npy"], DATA, ["9 rows", "10"]),
    (["fit", "two.npz"], DATA, ["holds 2 arrays", "--key"]),
    (["fit", "weights.pt"], DATA, [".pt files are pickles"]),
    (["fit", "."], DATA, [".: images of 2 sizes", "--resize"]),
    (["fit", "/dev/zero"], USAGE, ["not a regular file"]),
    (["check", "nine.npy"], DATA, ["9 rows"]),
    (["load", "run-bits"], USAGE, []),
    (["sample", "weights.pt"], USAGE, ["weights.pt is never unpickled", "taut fit"]),
    (["resume", "weights.pt"], USAGE, ["weights.pt is never unpickled"]),
    (["encode", "bits.npy"], USAGE, ["bits.npy is a file", "run.json"]),
    (["encode", "nothing"], USAGE, ["nothing is not a run folder"]),
    (["encode", "."], USAGE, [". is not a run folder"]),
    (["encode", "run-bits", "wide.npy"], DATA, ["wide.npy", "(4, 4)"]),
    (["encode", "run-bits", "grey.npy"], DATA, ["neither 0 nor 1"]),
    (["encode", "run-bits", "nan.npy"], DATA, ["nan.npy", "NaN", "row 7"]),
    (["fit", "nan.npy"], DATA, ["nan.npy", "NaN", "row 7", "only rows of a table can have gaps"]),
    (
        ["fit", "hollow.npy"],
        DATA,
        ["hollow.npy", "columns (from 0) 1 hold no value at all; remove them"],
    ),
    (["encode", "run-bits", "two.npz", "--key", "c"], DATA, ["no array c"]),
    (["decode", "run-bits", "real.npy"], DATA, ["finite numbers of shape (N, 2), not (60, 3)"]),
    (["decode", "run-bits", "nanz.npy"], DATA, ["finite numbers of shape (N, 2), not (4, 2)"]),
    (["decode", "run-bits", "bits.npy"], DATA, ["of shape (N, 2), not (60, 4, 4)"]),
    (["decode", "run-bits", "nothing.npy"], USAGE, ["no such file"]),
    (["sample", "run-bits", "--out", "bits.npy"], USAGE, ["bits.npy exists", "--overwrite"]),
    (
        ["sample", "run-bits", "--out", "nowhere/s.npy"],
        USAGE,
        ["there is no folder nowhere to write s.npy into"],
    ),
    (
        ["sample", "run-bits", "--out", "s.txt"],
        USAGE,
        ["cannot write s.txt: name it .npy, or .png"],
    ),
    (["sample", "run-bits", "--out", "s.csv"], USAGE, ["s.csv", ".npy, or .png"]),
    (["sample", "run-real", "--out", "s.png"], USAGE, ["s.png", ".npy, or .csv, or .parquet"]),
    (
        ["encode", "run-bits", "--num-samples", "2", "--out", "s.csv"],
        USAGE,
        ["cannot write s.csv: name it .npy"],
    ),
    (["score", "run-bits", "--flag", "0.1"], USAGE, ["--flag", "give DATA"]),
    (["score", "run-bits", "bits.npy", "--flag", "1.5"], USAGE, ["between 0 and 1"]),
    (
        ["score", "run-bits", "bits.npy", "--flag", "1e-6"],
        USAGE,
        ["at least 999999 rows", "--set data.test_fraction="],
    ),
    (["score", "run-bits", "--out", "s.png"], USAGE, ["s.png", ".npy, or .csv, or .parquet"]),
    (["score", "run-bits", "--out", "run-bits"], USAGE, ["run-bits"]),
    (["score", "run-bits", "wide.npy"], DATA, ["is needed; give rows of that shape"]),
    (
        ["score", "run-bits", "--out", "folder.csv", "--overwrite"],
        USAGE,
        ["folder.csv is not a file"],
    ),
]


@pytest.mark.parametrize(
    ("arguments", "code", "words"), [pytest.param(*m, id=" ".join(m[0])[:60]) for m in MISTAKES]
)
def test_a_mistake_is_one_line(here: Path, arguments: list[str], code: int, words: list[str]):
    np.save("nine.npy", BITS[:9])
    np.save("wide.npy", BITS.reshape(60, 2, 8))
    np.savez("two.npz", a=BITS, b=BITS)
    np.save("nan.npy", np.where(np.arange(60)[:, None, None] == 7, np.nan, BITS))
    np.save("hollow.npy", np.where(np.arange(3) == 1, np.nan, REAL))
    np.save("nanz.npy", np.full((4, 2), np.nan))
    Path("weights.pt").write_bytes(pickle.dumps(Bomb()))
    Path("folder.csv").mkdir()
    before = sorted(p.name for p in here.iterdir())
    if arguments[0] == "fit" and "--out" not in arguments:
        arguments = [*arguments, "--out", "new"]
    result = call(*arguments)
    if arguments[0] == "load":  # of Typer's own words only the exit code is ours
        assert result.exit_code == code
    else:
        refused(result, code, *words)
    # nothing trained, nothing written, nothing unpickled
    assert sorted(p.name for p in here.iterdir()) == before


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.mkdir, ("unpickled",))


def test_a_mistyped_variable_of_the_environment(here: Path):
    result = call("fit", "bits.npy", "--out", "new", TAUT_LATENT_DIMS="3")
    refused(result, USAGE, "TAUT_LATENT_DIMS is not a setting; did you mean 'TAUT_LATENT_DIM'?")


def test_everything_wrong_with_the_data_at_once_and_check_says_what_fit_says(here: Path):
    bad = GREY.astype(np.float64)
    bad[3, 0, 0], bad[5, 1, 1], bad[6, 2, 2] = np.nan, np.inf, 0.5
    np.save("bad.npy", bad)
    flags = ["--kind", "levels", "--levels", "0:200"]
    fit, check = call("fit", "bad.npy", "--out", "new", *flags), call("check", "bad.npy", *flags)
    lines = len(check.stderr.splitlines())
    assert lines >= 3
    for result in (fit, check):
        refused(
            result,
            DATA,
            "NaN",
            "infinite",
            "not integers",
            "outside the levels 0..200",
            lines=lines,
        )
    assert fit.stderr == check.stderr
    assert not Path("new").exists()


def test_rows_with_gaps_are_trained_on_embedded_scored_and_filled(here: Path):
    gaps = np.where(RNG.random(REAL.shape) < 0.2, np.nan, REAL)
    np.save("gaps.npy", gaps)
    result = call("fit", "gaps.npy", "--out", "new", *QUICK)
    assert result.exit_code == DONE, result.stderr
    share = f"{100 * np.isnan(gaps).mean():.3g} % of the entries are missing"
    assert any(share in line for line in result.stderr.splitlines() if line.startswith("note "))
    run = taut.load("new")
    assert run.schema.missing
    for command in ("encode", "score", "impute"):
        result = call(command, "new", "gaps.npy", "--num-samples", 5, "--out", f"{command}.npy")
        assert result.exit_code == DONE, result.stderr
    assert np.load("encode.npy").shape == (60, 5, 2)
    expected = taut.importance(run.model, torch.from_numpy(gaps).float(), num_samples=5, seed=0)
    np.testing.assert_array_equal(
        np.load("score.npy")[:, 0], expected.log_evidence.double().numpy()
    )
    filled = np.load("impute.npy")
    seen = ~np.isnan(gaps)
    np.testing.assert_array_equal(filled[seen], gaps[seen].astype(np.float32))
    assert not np.isnan(filled).any()


def test_entries_come_with_errors_and_rows_that_failed_are_named(
    here: Path, monkeypatch: pytest.MonkeyPatch
):
    """A value of 1e30 in one row, whose square float32 does not hold.

    Its entries are flagged, its gap is named, and the other rows are as they were.
    """
    hurry(monkeypatch, "ascent", "cells")
    likelihood = "Normal(scale='per_feature')"
    taut.fit("real.npy", "run-normal", likelihood=likelihood, model="VAE", max_epochs=2, threads=1)
    values = REAL.copy()
    values[:, 2] = np.nan
    values[7, :2] = 1e30, -1e30
    np.save("odd.npy", values)
    result = call(
        "score", "run-normal", "odd.npy", "--cells", "--num-samples", 50, "--out", "s.csv"
    )
    assert result.exit_code == DONE, result.stderr
    scores = csv.read_csv("s.csv")
    for i in range(3):
        names = [f"{name}(x{i})" for name in ("log_p", "log_p_error", "log_p_reliable")]
        value, error, reliable = (np.array(scores[name].to_pylist(), float) for name in names)
        assert (i == 2) == np.isnan(value).all()
        assert not np.nan_to_num(reliable)[np.isnan(value) | np.isnan(error)].any()
    assert re.search(
        r"log p of some entries is not reliable in \d+ of 60 rows \(.*7.*\)", result.stderr
    )
    result = call(
        "impute",
        "run-normal",
        "odd.npy",
        "--num-samples",
        50,
        "--num-imputations",
        3,
        "--json",
        "--out",
        "filled.npy",
    )
    assert result.exit_code == DONE, result.stderr
    told = json.loads(result.stdout)
    assert told["uneven_rows"] + told["rows_without_a_number"] >= 1
    assert re.search(r"warning: .* rows \(7\)", result.stderr)
    others = np.arange(60) != 7
    assert not np.isnan(np.load("filled-3.npy")[others]).any()


def test_a_run_of_whole_rows_scores_what_is_observed_of_others(here: Path):
    """Nothing is made up: of a row with a gap the marginal density of the rest is estimated."""
    run, whole = taut.load("run-real"), torch.from_numpy(REAL).float()
    np.save("gaps.npy", np.where(np.arange(3) == 1, np.nan, REAL))
    result = call("score", "run-real", "gaps.npy", "--num-samples", 7, "--out", "s.npy")
    assert result.exit_code == DONE, result.stderr
    gaps = torch.where(torch.arange(3) == 1, torch.nan, whole)
    expected = taut.importance(run.model, gaps, num_samples=7, seed=0).log_evidence
    np.testing.assert_array_equal(np.load("s.npy")[:, 0], expected.double().numpy())


def test_a_run_that_held_nothing_out_asks_for_data(here: Path):
    off = ["--set", "data.test_fraction=0", "--set", "data.validation_fraction=0"]
    assert call("fit", "bits.npy", "--out", "new", *QUICK, *off).exit_code == DONE
    for command in ("score", "encode", "reconstruct"):
        refused(call(command, "new"), USAGE, "new has no rows that were held out: give DATA")
        assert call(command, "new", "bits.npy").exit_code == DONE


@pytest.mark.parametrize(
    "command", [["sample"], ["reconstruct"], ["encode"], ["decode", "z.npy"], ["score"]]
)
def test_nothing_is_overwritten_unless_asked(here: Path, command: list[str]):
    np.save("z.npy", np.zeros((3, 2)))
    Path("precious.npy").write_bytes(b"precious")
    arguments = [command[0], "run-bits", *command[1:], "--out", "precious.npy"]
    refused(
        call(*arguments),
        USAGE,
        "precious.npy exists: choose another --out, or --overwrite to replace it",
    )
    assert Path("precious.npy").read_bytes() == b"precious"
    assert call(*arguments, "--overwrite").exit_code == DONE
    assert Path("precious.npy").read_bytes().startswith(b"\x93NUMPY")


@pytest.mark.parametrize(
    "arguments",
    [
        ["score", "run-real", "real.npy", "--out", "real.npy"],
        ["score", "run-real", "linked.npy", "--out", "real.npy"],
        ["score", "run-real", "../here/real.npy", "--out", "real.npy"],
        ["score", "run-real", "same.npy", "--out", "real.npy"],
        ["encode", "run-real", "real.npy", "--out", "./real.npy"],
        ["reconstruct", "run-real", "real.npy", "--out", "real.npy"],
        ["impute", "run-real", "real.npy", "--out", "real.npy"],
        ["decode", "run-real", "z.npy", "--out", "z.npy"],
        ["impute", "run-real", "real-1.npy", "--num-imputations", "2", "--out", "real.npy"],
        ["encode", "run-real", "embedding.npy"],
        ["impute", "run-real", "imputed.npy"],
        ["reconstruct", "run-bits", "photos", "--out", "photos/a.png"],
        ["picture", "run-bits", "map", "photos", "--out", "photos/a.png"],
        ["check", "table.csv", "--schema", "table.toml", "--out", "table.toml"],
        ["check", "table.csv", "--config", "table.toml", "--out", "table.toml"],
        ["fit", "run-bits/.kept.npy", "--out", "run-bits"],
        ["fit", "real.npy", "--config", "run-bits/.kept.toml", "--out", "run-bits"],
        ["tighten", "run-real", "--out", "run-real"],
    ],
)
def test_no_command_replaces_what_it_reads(here: Path, arguments: list[str]):
    """With --overwrite or without, through links and other spellings, by the usual name too."""
    np.save("z.npy", np.zeros((3, 2)))
    Path("linked.npy").symlink_to("real.npy")
    os.link("real.npy", "same.npy")
    for name in ("real-1.npy", "imputed.npy", "embedding.npy"):
        shutil.copy("real.npy", name)
    Path("photos").mkdir()
    assert call("sample", "run-bits", "--num-samples", "3", "--out", "photos/a.png").exit_code == 0
    Path("table.csv").write_text("a,b\n" + "".join(f"{i % 7},{i * i % 11}\n" for i in range(60)))
    Path("table.toml").write_text("")
    shutil.copy("bits.npy", "run-bits/.kept.npy")
    Path("run-bits/.kept.toml").write_text("")
    before = {p: p.read_bytes() for p in Path().rglob("*") if p.is_file()}
    what = "is the run that is tightened" if arguments[0] == "tighten" else "holds what is read"
    for asked in ([], ["--overwrite"]):
        refused(call(*arguments, *asked), USAGE, what, "choose another --out")
    after = {p: p.read_bytes() for p in Path().rglob("*") if p.is_file()}
    assert {p for p in before if after.get(p) != before[p]} == set()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux alone has a full device")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_full_standard_output_is_named(here: Path, options: list[str]):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "taut", "check", "real.npy", *options],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == STORAGE
    assert done.stderr.splitlines()[-1] == "taut: standard output: No space left on device"


def test_the_shape_of_samples_is_that_of_their_file(here: Path):
    """A table has its derived columns, too."""
    rows = [f"{i % 7},{i * i % 11},{i % 7 + i * i % 11}" for i in range(80)]
    Path("sum.csv").write_text("\n".join(["a,b,both", *rows]))
    assert call("fit", "sum.csv", "--model", "Mixture(num_states=2)", "--out", "new").exit_code == 0
    result = call("sample", "new", "--num-samples", "5", "--out", "s.csv")
    assert len(Path("s.csv").read_text().splitlines()[0].split(",")) == 3
    assert result.stdout == "s.csv: 5x3\n"


@pytest.mark.parametrize("command", ["sample", "encode", "score", "reconstruct"])
def test_the_rows_of_the_training_are_not_replaced_either(here: Path, command: str):
    """Without DATA they are read again, and ``taut audit`` needs them."""
    assert call("fit", "real.npy", "--out", "new", *QUICK).exit_code == DONE
    before = Path("real.npy").read_bytes()
    refused(call(command, "new", "--out", "real.npy", "--overwrite"), USAGE, "holds what is read")
    assert Path("real.npy").read_bytes() == before


@pytest.mark.parametrize("file", ["run.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_damaged_run_is_one_line(here: Path, file: str, damage: str):
    path = Path("run-bits", file)
    content = path.read_bytes()
    path.write_bytes(
        content[:-9] + bytes([content[-9] ^ 16]) + content[-8:]
        if damage == "flip"
        else content[:-9]
    )
    for command in (["sample", "run-bits"], ["resume", "run-bits"]):
        refused(call(*command), STORAGE, f"{path} is damaged", "restore it from a copy")


def test_resuming_what_cannot_be_resumed(here: Path):
    assert call("fit", "bits.npy", "--out", "new", *QUICK).exit_code == DONE
    Path("new/manifest.json").unlink()
    np.save("bits.npy", BITS[::-1])
    refused(call("resume", "new"), DATA, "bits.npy: these are not the data of new", "fingerprint")
    np.save("bits.npy", BITS)
    step = checkpoint.latest(Path("new/checkpoints"))
    content = (step / "state.safetensors").read_bytes()
    (step / "state.safetensors").write_bytes(content[:-1])
    refused(call("resume", "new"), STORAGE, f"{step}/state.safetensors is damaged")
    shutil.copytree(step, step.with_name("step-000000000"))
    (step.with_name("step-000000000") / "state.safetensors").write_bytes(content)
    result = call("resume", "new")
    assert result.exit_code == DONE
    assert f"taut: {step}/state.safetensors is damaged: " in result.stderr
    assert "; resuming from step-000000000\n" in result.stderr
    Path("new/manifest.json").unlink()
    shutil.rmtree("new/checkpoints")
    refused(call("resume", "new"), STORAGE, "no checkpoint in new/checkpoints", "`taut fit` again")


def test_a_lost_history_is_said_and_ends_nothing(here: Path):
    assert call("fit", "bits.npy", "--out", "new", *QUICK).exit_code == DONE
    Path("new/manifest.json").unlink()
    Path("new/history.jsonl").unlink()
    result = call("resume", "new")
    assert result.exit_code == DONE
    assert (
        "taut: cannot read new/history.jsonl: No such file or directory; the lines before step 1 "
        "are lost" in result.stderr
    )


# ------------------------------------------------------------------------------- parts of one's own

MODULE = """
import math
import taut

class MyLikelihood(taut.Likelihood):
    def __init__(self, event_shape, latent_dim, power=1.0, decoder=taut.MLP):
        super().__init__()
        self.power, self.inner = power, taut.Bernoulli(event_shape, latent_dim, decoder)

    def forward(self, z, context=None):
        return self.inner(z * self.power)

class Nan(taut.Objective):
    num_samples = 1

    def __call__(self, model, x, context=None, progress=1.0):
        bound = taut.ELBO()(model, x, context, progress)
        return bound._replace(surrogate=bound.surrogate * math.nan)
"""


@pytest.fixture
def module(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    Path("mymod_of_cli.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "mymod_of_cli"
    sys.modules.pop("mymod_of_cli", None)


def test_a_likelihood_of_ones_own_beside_the_data(module: str):
    part = f"{module}:MyLikelihood(power=2.0)"
    assert call("fit", "bits.npy", "--out", "new", *QUICK, "--likelihood", part).exit_code == DONE
    for command in (["sample", "new"], ["resume", "new"]):
        refused(
            call(*command),
            USAGE,
            f"outside module '{module}'",
            f"if you trust it, --trust {module}",
        )
        assert call(*command, "--trust", module).exit_code == DONE


def test_diverging_ends_in_one_line_that_names_what_is_not_finite(module: str):
    result = call("fit", "bits.npy", "--out", "new", *QUICK, "--objective", f"{module}:Nan()")
    refused(
        result,
        DIVERGED,
        "training diverged after step 0",
        "is not finite at step 0",
        "lower learning rate",
        "taut check",
    )
    saved = checkpoint.load(checkpoint.latest(Path("new/checkpoints")))
    assert saved.step == 0
    assert all(bool(v.isfinite().all()) for v in saved.tensors.values())


def test_an_absurd_learning_rate_diverges(here: Path):
    result = call(
        "fit",
        "real.npy",
        "--out",
        "new",
        *QUICK,
        "--max-epochs",
        100,
        "--batch-size",
        8,
        "--set",
        "training.learning_rate=1e30",
    )
    refused(result, DIVERGED, "training diverged", "not finite", "lower learning rate")
    saved = checkpoint.load(checkpoint.latest(Path("new/checkpoints")))
    assert all(bool(v.isfinite().all()) for v in saved.tensors.values())


# ---------------------------------------------------------------------------------- hostile, broken

HOSTILE = "\x1b[2J[red]\n\r\x9b31mx"


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", HOSTILE + ".npy"],
        ["fit", "bits.npy", "--out", HOSTILE],
        ["fit", "bits.npy", "--config", HOSTILE],
        ["fit", "bits.npy", "--out", f"bits.npy/{HOSTILE}"],
        ["check", HOSTILE + ".pt"],
        ["sample", HOSTILE],
        ["resume", HOSTILE],
        ["sample", HOSTILE + ".pkl"],
        ["sample", "run-bits", "--out", HOSTILE + ".xyz"],
        ["sample", "run-bits", "--out", HOSTILE + "/s.npy"],
        ["decode", "run-bits", HOSTILE + "z.npy"],
        ["encode", "run-bits", HOSTILE + "z.npy"],
    ],
)
def test_a_hostile_name_is_shown_escaped_in_one_line(here: Path, arguments: list[str]):
    np.save(HOSTILE + "z.npy", np.zeros((2, 7)))
    for name in (HOSTILE + ".pt", HOSTILE + ".pkl"):
        Path(name).write_bytes(b"")
    if arguments[1:3] == ["bits.npy", "--out"] and arguments[3] == HOSTILE:
        Path(HOSTILE, "mine").mkdir(parents=True)
    result = call(*arguments)
    refused(result, result.exit_code, r"\x1b[2J[red]\n\r\x9b31mx")
    assert result.exit_code in (USAGE, DATA)
    assert not set("\x1b\r\x9b") & set(result.output)


def test_hostile_names_that_work_are_shown_escaped_too(here: Path):
    np.save(HOSTILE + ".npy", BITS)
    outputs = [
        call("fit", HOSTILE + ".npy", "--out", HOSTILE, *QUICK),
        call("resume", HOSTILE),
        call("check", HOSTILE + ".npy"),
        call("check", HOSTILE + ".npy", "--json"),
        call("sample", HOSTILE, "--out", HOSTILE + "s.npy"),
        call("score", HOSTILE, "--out", HOSTILE + "s.csv", "--json"),
    ]
    for result in outputs:
        assert result.exit_code == DONE, result.stderr
        assert not set("\x1b\r\x9b") & set(result.output)
    escaped = r"\x1b[2J[red]\n\r\x9b31mx"
    assert f"{escaped}.npy': 4x4 images, binary" in outputs[0].stderr
    assert f"reconstructions.png are in '{escaped}'" in outputs[0].stdout
    assert f"'{escaped}' is finished" in outputs[1].stderr
    assert outputs[4].stdout == f"'{escaped}s.npy': 64x4x4\n"


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (MemoryError(), MEMORY, "out of memory: use a smaller batch size"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            MEMORY,
            "out of memory",
        ),
        (
            RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."
            ),
            MEMORY,
            "out of memory",
        ),
        (
            OSError(28, "No space left on device", "x.npy"),
            STORAGE,
            "x.npy: No space left on device",
        ),
        (
            PermissionError(13, "Permission denied", "\x1b[31m"),
            STORAGE,
            r"\x1b[31m': Permission denied",
        ),
        (KeyboardInterrupt(), 130, "stopped"),
        (taut.DataError(["one", "two"]), DATA, "taut: two"),
    ],
)
def test_each_failure_has_its_exit_code(
    here: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, words: str
):
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("taut.use.tasks.sample", fail)
    refused(
        call("sample", "run-bits"), code, words, lines=2 if isinstance(error, taut.DataError) else 1
    )


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shapes differ"), KeyError("x"), AssertionError(), ZeroDivisionError("a")],
)
def test_what_nobody_foresaw_is_called_a_bug_of_ours(
    here: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("taut.use.tasks.sample", fail)
    result = call("sample", "run-bits")
    assert result.exit_code == BUG
    assert type(error).__name__ in result.stderr
    assert (
        result.stderr.splitlines()[-1]
        == "taut: this is a bug of ours; please report it with the lines above"
    )
    assert not Path("samples.npy").exists()


def test_a_full_disk_is_one_line_and_leaves_no_file(here: Path, monkeypatch: pytest.MonkeyPatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)
    refused(
        call("sample", "run-bits"), STORAGE, "cannot write samples.npy: No space left on device"
    )
    assert not list(here.glob("*samples*"))


# ----------------------------------------------------------------------------------- real processes


def taut_process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", "from taut.cli.app import main; main()", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | options.pop("env", {})
    return subprocess.run(
        command, env=environment, check=False, **{"capture_output": True} | options
    )


def test_a_file_larger_than_the_system_allows(here: Path):
    """300 steps in three intervals, each checkpointed.

    The limit lets small files through, and from step 200 on no large one.
    """
    flags = [
        "--batch-size",
        "8",
        "--set",
        "training.checkpoint_seconds=0",
        "--set",
        "training.patience=9",
    ]
    assert (
        call("fit", "bits.npy", "--out", "new", *QUICK, "--max-epochs", "50", *flags).exit_code
        == DONE
    )
    for path in ("manifest.json", "model.safetensors", "checkpoints/step-000000300"):
        shutil.rmtree(Path("new", path)) if Path("new", path).is_dir() else Path(
            "new", path
        ).unlink()
    size = Path("new/checkpoints/step-000000200/state.safetensors").stat().st_size
    result = taut_process(
        "resume",
        "new",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, size - 1)),
    )
    lines = result.stderr.decode().splitlines()
    assert result.returncode == STORAGE, lines
    assert re.search(
        r"cannot write new/checkpoints/\.taut-\w+/state\.safetensors: File too large", lines[-1]
    )
    assert not any("Traceback" in line for line in lines)
    assert checkpoint.load(checkpoint.latest(Path("new/checkpoints"))).step == 200
    assert call("resume", "new").exit_code == DONE
    assert taut.load("new").history()[-1]["step"] == 300


def test_a_reader_that_goes_away_does_not_stop_the_training(here: Path):
    read, write = os.pipe()
    os.close(read)
    result = taut_process(
        "fit", "bits.npy", "--out", "new", *QUICK, stdout=write, stderr=write, capture_output=False
    )
    os.close(write)
    assert result.returncode == DONE
    assert taut.load("new").evaluation()["num_data"] == 6


def test_a_terminal_of_another_encoding_and_the_version(here: Path):
    result = taut_process("resume", "run-bits", env={"PYTHONIOENCODING": "ascii"})
    assert result.returncode == DONE
    assert b"? Monte Carlo" in result.stdout
    assert (
        result.stderr
        == b"run-bits is finished; nothing to resume: --minutes or --max-epochs makes its training "
        b"longer\n"
    )
    from importlib.metadata import version

    assert call("--version").stdout == f"taut {version('taut')}\n"


def test_help_names_every_option():
    commands = ["fit", "resume", "check", "sample", "reconstruct", "encode", "decode", "score"]
    listed = call("--help").stdout
    for command in commands:
        assert command in listed
        result = CliRunner().invoke(app, [command, "--help"], terminal_width=110)
        assert result.exit_code == DONE
        options = [line.split() for line in result.stdout.splitlines() if line.startswith("  --")]
        # an option, its type, and what it means
        assert all(len(words) > 2 for words in options), options


def test_storage_is_what_the_manifest_says(here: Path):
    for name, digest in storage.read_json(Path("run-bits/manifest.json")).items():
        assert storage.read_checked(Path("run-bits", name))
        assert len(digest) == 64
