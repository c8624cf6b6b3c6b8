"""A run folder that others write into, that a kill left behind, or that someone planted.

One line, and nothing is lost.
"""

from __future__ import annotations

import copy as copying
import errno
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from typer.testing import CliRunner, Result

import taut
from taut.build.config import Config
from taut.cli.app import app
from taut.data.tables import prepare as tabular
from taut.evidence import section
from taut.runs.audit import _write_all, write_report
from taut.runs.fit import evaluate, merge, resume, start, train_run
from taut.system import locks, records, storage
from taut.system.errors import DataError, StorageError, TautWarning, UsageError
from taut.training import checkpoint

BITS = (np.random.default_rng(0).random((60, 4, 4)) < 0.4).astype(np.uint8)
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
SETTINGS: dict[str, Any] = {
    "latent_dim": 2,
    "encoder": MLP,
    "decoder": MLP,
    "max_epochs": 50,
    "batch_size": 8,
    "checkpoint_seconds": 0.0,
    "num_samples": 5,
    "threads": 1,
    "compile": "off",
    "patience": 9.0,
}
EFFORT = [
    "--num-data",
    "10",
    "--num-samples",
    "10",
    "--num-chains",
    "2",
    "--max-temperatures",
    "3",
    "--threads",
    "1",
]
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "NO_COLOR": "1",
    "PYTHONPATH": str(Path(taut.__file__).parents[1]),
}
DONE, BUG, USAGE, DATA, DIVERGED, STORAGE, MEMORY = range(7)
HOSTILE = "\x1b[2J\x1b]0;owned\x07[red]\u202e"


@pytest.fixture(autouse=True)
def _alone(_seeded: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    for variable in [v for v in os.environ if v.startswith("TAUT_")]:
        monkeypatch.delenv(variable)
    yield
    locks.release_all()
    torch.set_num_threads(threads)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def refused(arguments: list[object], code: int, *words: str) -> None:
    result = call(*arguments)
    lines = [line for line in result.stderr.splitlines() if line.startswith("taut: ")]
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with an audit and a table of gradients."""
    folder = tmp_path_factory.mktemp("made")
    before, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    np.save(folder / "bits.npy", BITS)
    run = folder / "run"
    few = ["--repeats", "3", "--batch-size", "10", "--num-samples", "2", "--threads", "1"]
    for command in (
        ["fit", folder / "bits.npy", "--out", run, *QUICK],
        ["audit", run, *EFFORT],
        ["gradients", run, *few],
    ):
        result = call(*command)
        assert result.exit_code == DONE, result.output
    torch.set_default_dtype(before)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return Path("run")


def settings(**more: Any) -> Config:
    return merge(Config(), SETTINGS | more)


# --------------------------------------------------------------------------------------- one writer

HOLDER = """
import os, sys, time
from pathlib import Path
from taut.system import locks
locks.acquire(Path(sys.argv[1]))
print(os.getpid(), flush=True)
time.sleep(1000)
"""


@pytest.fixture
def holder(here: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes into the run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, "run"], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert process.stdout is not None
    assert int(process.stdout.readline()) == process.pid
    yield process
    process.kill()
    process.communicate()


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != ".lock"
    }


def test_who_comes_second_is_refused_and_a_killed_writer_is_not_waited_for(
    here: Path, holder: subprocess.Popen[str]
):
    before = tree(here)
    words = ["run is in use: process", str(holder.pid)]
    for command in (
        ["fit", "bits.npy", "--out", "run", "--overwrite", *QUICK],
        ["audit", "run", *EFFORT],
        ["gradients", "run"],
        ["report", "run"],
        ["sample", "run", "--out", "run/mine.npy"],
    ):
        refused(command, USAGE, *words)
    for library in (
        lambda: write_report(taut.load("run")),
        lambda: taut.fit(BITS, "run", **SETTINGS),
    ):
        with pytest.raises(UsageError):
            library()
    (here / "manifest.json").rename("manifest.json")
    refused(["resume", "run"], USAGE, *words)
    Path("manifest.json").rename(here / "manifest.json")
    assert tree(here) == before
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (here / ".lock").exists()
    assert call("report", "run").exit_code == DONE
    assert not (here / ".lock").exists()


@pytest.mark.parametrize(
    ("lock", "words"),
    [
        ({"pid": 2**22 + 1}, []),  # no such process: the system's numbers end before
        ({"pid": os.getppid(), "began": "1"}, []),  # a later process with its number
        ({"pid": "x"}, []),
        (["nothing of ours"], []),
        (None, []),
        (
            {"pid": os.getppid(), "began": ""},
            ["process", str(os.getppid()), "wait until it is done"],
        ),
        (
            {"pid": 7, "host": "else\x1b[31mwhere"},
            ["process 7 on", r"\x1b[31mwhere", "if it is not running any more, remove", ".lock"],
        ),
    ],
)
def test_a_lock_that_was_left(here: Path, lock: Any, words: list[str]):
    usual = {"began": "5", "host": socket.gethostname()}
    content = json.dumps(usual | lock if isinstance(lock, dict) else lock)
    (here / ".lock").write_text("" if lock is None else content)
    if words:
        refused(["report", "run"], USAGE, *words)
        assert (here / ".lock").read_text() == content
    else:
        assert call("report", "run").exit_code == DONE
        assert not (here / ".lock").exists()


def test_the_same_process_goes_on_and_a_child_of_it_does_not_hold_the_lock(here: Path):
    with locks.locked(here):
        assert not locks.acquire(here)
        write_report(taut.load(here))
        assert (here / ".lock").exists()
        child = os.fork()
        if not child:
            code = 1
            try:
                locks.acquire(here)
            except UsageError:
                code = 0
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not (here / ".lock").exists()


# ------------------------------------------------------------------------------------------ kill -9

KILLER = textwrap.dedent("""
    import json, os, shutil, signal, sys
    from pathlib import Path
    import taut, taut.runs.audit as auditing

    os_fsync = os.fsync

    run = taut.load("source")
    run.path = Path("run")
    results = {name: json.loads(Path(name).read_bytes()) for name in sys.argv[1:]}
    auditing.render = lambda *parts: "a page"

    def child(number):
        count = 0
        def patched(original):
            def call(*arguments, **options):
                nonlocal count
                count += 1
                result = None if original is os_fsync else original(*arguments, **options)
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result
            return call
        for name in ("fsync", "replace", "rename"):
            setattr(os, name, patched(getattr(os, name)))
        with auditing._writing(run):
            auditing._write(run, results)

    number = 0
    while True:
        number += 1
        shutil.rmtree("run", ignore_errors=True)
        shutil.copytree("source", "run")
        pid = os.fork()
        if pid == 0:
            code = 9
            try:
                child(number)
                code = 0
            finally:
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status == 0:
            break
        assert status == -signal.SIGKILL, status
        shutil.move("run", f"run-{number}")
    print(number - 1)
""")


@pytest.mark.parametrize(
    ("name", "again"), [("audit.json", True), ("audit.json", False), ("gradients.json", False)]
)
def test_killed_anywhere_a_finished_run_stays_whole(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, again: bool
):
    monkeypatch.chdir(tmp_path)
    shutil.move("here/run", "source")
    new = {n: json.loads(Path("source", n).read_bytes()) for n in ("audit.json", "gradients.json")}
    new[name]["seed"] = 77
    Path(name).write_text(json.dumps(new[name]))
    if not again:
        for file in (name, "report.html"):
            Path("source", file).unlink()
        storage.write_manifest(Path("source"))
    result = subprocess.run(
        [sys.executable, "-c", KILLER, name], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    killed = sorted(tmp_path.glob("run-*"))
    assert len(killed) == int(result.stdout) >= 15
    monkeypatch.setattr("taut.runs.audit.render", lambda *parts: "a page")
    monkeypatch.setattr(os, "fsync", lambda file: None)
    whole = {"audit.json", "gradients.json"} - ({name} if not again else set())
    for folder in killed:
        run = taut.load(folder)
        run.evaluation()
        for file in whole:
            storage.read_checked(folder / file)
        if (folder / "audit.json").exists():
            write_report(run)
        for file, content in new.items():
            _write_all(run, {file: content}, {})
        write_report(run)
        assert not list(folder.glob(".taut-*"))
        assert storage.read_checked_json(folder / name)["seed"] == 77


# ------------------------------------------------------------------------------------------ planted


@pytest.mark.parametrize(
    "name",
    [
        "audit.json",
        "gradients.json",
        "report.html",
        "manifest.json",
        "run.json",
        "model.safetensors",
    ],
)
@pytest.mark.parametrize("what", ["link", "fifo", "device", "folder"])
def test_what_is_no_file_is_refused_and_left_alone(
    here: Path, tmp_path: Path, name: str, what: str
):
    outside = tmp_path / "outside"
    content = (here / name).read_bytes()
    outside.write_bytes(content)
    (here / name).unlink()
    if what == "link":
        (here / name).symlink_to(outside)
    elif what == "fifo":
        os.mkfifo(here / name)
    elif what == "device":
        (here / name).symlink_to("/dev/zero")
    else:
        (here / name).mkdir()
    result = call("report", "run")
    if (name, what) == ("report.html", "fifo"):  # which is replaced, as any file there was
        assert result.exit_code == DONE
        assert (here / name).is_file()
        return
    assert result.exit_code in (USAGE, STORAGE), result.output
    assert "Traceback" not in result.stderr
    assert sum(line.startswith("taut: ") for line in result.stderr.splitlines()) == 1
    assert outside.read_bytes() == content


@pytest.mark.parametrize(
    "name",
    ["history.jsonl", "checkpoints", "model.safetensors", "evaluation.json", "manifest.json"],
)
def test_no_link_is_written_through(here: Path, tmp_path: Path, name: str):
    (tmp_path / "outside").mkdir()
    outside = tmp_path / "outside" / "file"
    outside.write_bytes(b"mine")
    run, data, state = start(BITS, "new", settings())
    Path("new", name).symlink_to(outside.parent if name == "checkpoints" else outside)

    def train_and_measure() -> None:
        list(train_run(run, data, state))
        list(evaluate(run, data))

    with pytest.raises(StorageError, match=f"{name} ?.* link"):
        train_and_measure()
    assert outside.read_bytes() == b"mine"
    assert [p.name for p in outside.parent.iterdir()] == ["file"]


def test_neither_is_a_lock_nor_a_link_to_write_into(here: Path, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    (here / ".lock").symlink_to(outside)
    refused(["report", "run"], STORAGE, "cannot write run/.lock: it is a link")
    (here / ".lock").unlink()
    refused(
        ["sample", "run", "--out", "run/samples.png", "--overwrite"],
        USAGE,
        "run/samples.png is a file of the run itself",
    )
    Path("samples.npy").symlink_to(outside)
    refused(["sample", "run", "--overwrite"], USAGE, "samples.npy is a link")
    assert outside.read_bytes() == b"mine"


def test_temporary_names_cannot_be_foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names: list[str] = []
    original = os.open

    def opened(path: Any, flags: int, *rest: Any) -> int:
        if flags & os.O_CREAT:
            names.append(Path(path).name)
            assert flags & os.O_EXCL
            assert flags & os.O_NOFOLLOW
        return original(path, flags, *rest)

    monkeypatch.setattr(os, "open", opened)
    for _ in range(2):
        storage.write_bytes(tmp_path / "a.csv", b"x")
    assert len({*names}) == len(names) == 2


# ----------------------------------------------------------------------------------- wrong contents


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if place:
        yield place
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value[:1])
        if isinstance(value, list)
        else ()
    )
    for key, each in items:
        yield from places(each, (*place, key))


def planted(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    value = copying.deepcopy(value)
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = new
    return value


def known(shape: Any, place: tuple[Any, ...]) -> bool:
    """Returns whether the table says what is at a place."""
    for key in place:
        if isinstance(shape, records.Each):
            shape = shape.shape
        elif isinstance(shape, list):
            shape = shape[0]
        elif isinstance(shape, dict):
            shape = shape.get(key, shape.get(f"{key}?"))
        else:
            return False
    return shape is not None


SHAPES = {
    "run.json": records.RUN, "evaluation.json": records.EVALUATION, "audit.json": section.shape(),
    "gradients.json": records.GRADIENTS, "manifest.json": records.MANIFEST,
}  # fmt: skip


@pytest.mark.parametrize("file", SHAPES)
def test_the_table_knows_what_is_written_and_refuses_another_type_in_each_field(
    here: Path, file: str
):
    value = json.loads((here / file).read_bytes())
    assert records.checked(value, SHAPES[file], here / file) is value
    wrong = [["\x1b[2J", [1], {"a": [HOSTILE]}, -1.5, True, "1"]]
    seen = 0
    for place in places(value):
        if known(SHAPES[file], place):
            seen += 1
            for new in wrong:
                with pytest.raises(StorageError) as caught:
                    records.checked(planted(value, place, new), SHAPES[file], here / file)
                assert "\x1b" not in str(caught.value)
                assert "\n" not in str(caught.value)
    assert seen > {"manifest.json": 5}.get(file, 10)


COMMANDS = {
    "run.json": ["sample", "run", "--num-samples", "1", "--overwrite"],
    "evaluation.json": ["resume", "run"],
    "audit.json": ["report", "run"],
    "gradients.json": ["report", "run"],
}


@pytest.mark.parametrize("file", COMMANDS)
@pytest.mark.parametrize(
    "new",  # every type in every field, without the commands, is above
    [
        pytest.param(HOSTILE, id="text"),
        pytest.param([], id="list", marks=pytest.mark.slow),
        pytest.param({}, id="mapping", marks=pytest.mark.slow),
        pytest.param(-7, id="negative", marks=pytest.mark.slow),
        pytest.param(None, id="null", marks=pytest.mark.slow),
        pytest.param(10**18, id="huge", marks=pytest.mark.slow),
    ],
)
def test_no_field_gives_a_traceback_or_reaches_the_terminal(
    here: Path, monkeypatch: pytest.MonkeyPatch, file: str, new: Any
):
    """All fields of the first two levels, and of ``config`` and ``schema``, by the command that
    reads them.
    """
    value = json.loads((here / file).read_bytes())
    manifest = json.loads((here / "manifest.json").read_bytes())
    # slow, and tested below
    monkeypatch.setattr(sys.modules["taut.report.render"], "_figures", lambda *parts: {})
    monkeypatch.setattr(os, "fsync", lambda file: None)
    depth = 3 if file == "run.json" else 1
    for place in [p for p in places(value) if len(p) <= depth]:
        content = json.dumps(planted(value, place, new)).encode()
        (here / file).write_bytes(content)
        (here / "manifest.json").write_text(json.dumps(manifest | {file: storage._sha256(content)}))
        result = call(*COMMANDS[file])
        assert result.exit_code in (DONE, DATA, STORAGE), (place, result.output)
        assert "Traceback" not in result.stderr
        assert not set("\x1b\x07\u202e") & set(result.output), place
        lines = [line for line in result.stderr.splitlines() if line.startswith("taut: ")]
        assert len(lines) == (result.exit_code != DONE), (place, lines)


def test_figures_of_what_is_not_numbers(here: Path):
    value = json.loads((here / "audit.json").read_bytes())
    latents = value["latents"]
    latents["dimensions"] = {"rate": HOSTILE, "mean_variance": None}
    storage.add_to_manifest(here, {"audit.json": storage.as_json(value)})
    refused(["report", "run"], STORAGE, "audit.json", "latents.dimensions.rate is not a list")


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[1]", b'{"step": "7"}', b"{", b'{"step": 1e999}'])
def test_a_history_of_something_else(here: Path, line: bytes):
    with (here / "history.jsonl").open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(StorageError, match=r"history\.jsonl is damaged"):
        taut.load(here).history()
    refused(["audit", "run", *EFFORT], STORAGE, "history.jsonl is damaged")


def test_a_size_that_no_file_of_a_run_has(here: Path):
    with (here / "evaluation.json").open("r+b") as file:
        file.truncate(2**34)  # a hole: it takes no space
    refused(["resume", "run"], STORAGE, "evaluation.json is damaged: it has 17,179,869,184 bytes")
    with (here / "model.safetensors").open("r+b") as file:
        file.truncate(2**40)
    refused(["sample", "run"], STORAGE, "model.safetensors is damaged")


@pytest.mark.parametrize(
    ("part", "value"),
    [("encoder", f"MLP(hidden=({'1,' * 20_000}))"),
     ("decoder", "MLP(hidden=(1000000000000000000,))"),
     ("latent_dim", 2**31 - 1),
     ("encoder", "MLP(hidden=(3000000000,))")],
)  # fmt: skip
def test_a_model_that_is_larger_than_its_file_is_not_built(
    here: Path, monkeypatch: pytest.MonkeyPatch, part: str, value: Any
):
    info = json.loads((here / "run.json").read_bytes())
    info["config"]["model"][part] = value
    storage.add_to_manifest(here, {"run.json": storage.as_json(info)})
    built: list[int] = []
    original = torch.nn.Linear.reset_parameters
    monkeypatch.setattr(
        torch.nn.Linear, "reset_parameters", lambda self: (built.append(1), original(self))[1]
    )
    refused(["score", "run"], STORAGE, "run.json is damaged")
    assert len(built) < 100


def test_every_flipped_byte_of_an_unfinished_run_is_seen(
    here: Path, monkeypatch: pytest.MonkeyPatch
):
    (here / "manifest.json").unlink()
    content = (here / "run.json").read_bytes()
    assert storage.unbroken(json.loads(content))
    monkeypatch.setattr("taut.runs.folder.build", lambda *arguments: 1 / 0)
    rng = np.random.default_rng(0)
    for at in rng.choice(len(content), 200, replace=False).tolist():
        (here / "run.json").write_bytes(
            content[:at] + bytes([content[at] ^ 1 << int(rng.integers(8))]) + content[at + 1 :]
        )
        try:
            info = storage.read_json(here / "run.json")
        except StorageError:
            continue
        own = {k: v for k, v in info.items() if k != "sha256"}
        same = storage.as_json(own) == storage.as_json(
            {k: v for k, v in json.loads(content).items() if k != "sha256"}
        )
        assert not storage.unbroken(info) or same or "sha256" not in info, at
        if not storage.unbroken(info):
            with pytest.raises(StorageError, match=r"SHA-256|format"):
                resume(here)


# --------------------------------------------------------------------------------------- full disks


def full(*arguments: object, **options: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_is_full_for_a_moment_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    slept: list[float] = []
    original, left = os.fsync, 2

    def fsync(file: int) -> None:
        nonlocal left
        if left:
            left -= 1
            full()
        original(file)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(storage.time, "sleep", slept.append)
    storage.write_bytes(tmp_path / "a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert slept == list(storage.PAUSES)
    monkeypatch.setattr(os, "fsync", lambda file: full())
    with pytest.raises(StorageError, match=r"cannot write .*/b: No space left on device"):
        storage.write_bytes(tmp_path / "b", b"x")
    assert len(slept) == 4


def test_a_history_on_a_full_disk_is_warned_of_once_and_the_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run, data, state = start(BITS, tmp_path / "run", settings())
    original = os.write
    writes = 0

    def write(file: int, content: bytes) -> int:
        nonlocal writes
        writes += 1
        if writes <= 6:  # three tries of the first line, three of the second
            return original(file, content[:5])
        return original(file, content)

    monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            records_ = list(train_run(run, data, state))
    assert [str(w.message) for w in found if w.category is TautWarning] == [
        f"cannot write {tmp_path / 'run' / 'history.jsonl'}: No space left on device; lines of it "
        f"are lost"
    ]
    assert [record.step for record in records_] == [100, 200, 300]
    assert [line["step"] for line in run.history()] == [300]


# -------------------------------------------------------------------------------- half-made folders


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), StorageError("cannot write"), UsageError("no"), MemoryError()]
)
@pytest.mark.parametrize(
    "at", ["taut.runs.fit.choose", "taut.system.storage.write_json", "taut.runs.fit.train"]
)
def test_what_stops_a_run_before_its_first_step_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, at: str
):
    def fail(*arguments: object, **options: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(at, fail)
        with pytest.raises(type(error)):
            taut.fit(BITS, tmp_path / "run", **SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_may_not_grow_leaves_a_name_that_is_free(here: Path):
    command = [
        sys.executable,
        "-c",
        "from taut.cli.app import main; main()",
        "fit",
        "bits.npy",
        "--out",
        "new",
        *QUICK,
    ]
    for most in (100, 3000):
        limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (most, most))
        result = subprocess.run(
            command, env=ENVIRONMENT, capture_output=True, text=True, preexec_fn=limit
        )
        lines = result.stderr.splitlines()
        assert result.returncode == STORAGE, lines
        assert "Traceback" not in result.stderr
        assert "File too large" in lines[-1]
    assert call("fit", "bits.npy", "--out", "new", *QUICK).exit_code == DONE


# ------------------------------------------------------------------------------------------ sources


@pytest.mark.parametrize("how", ["in place", "replaced", "gone"])
def test_a_source_that_changes_while_it_streams_ends_the_training_and_the_state_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
):
    """Same columns, same rows, same size: nothing but the time or the number of the file tells."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)

    def write(name: str) -> None:
        table = pa.table({f"x{i}": rng.normal(size=400) for i in range(3)})
        parquet.write_table(
            table, name, row_group_size=20, compression="none", use_dictionary=False
        )

    write("a.parquet")
    original = Path("a.parquet").read_bytes()
    run, data, state = start("a.parquet", "run", settings(stream=True, max_epochs=20))
    assert data.streamed
    records_ = train_run(run, data, state)
    assert next(records_).step == 100
    write("b.parquet")
    if how == "replaced":
        Path("b.parquet").replace("a.parquet")
    elif how == "gone":
        Path("a.parquet").unlink()
    else:
        Path("a.parquet").write_bytes(Path("b.parquet").read_bytes())
    with pytest.raises(DataError, match=r"a\.parquet: has changed while it was read") as caught:
        list(records_)
    assert "\n" not in str(caught.value)
    assert checkpoint.latest(Path("run/checkpoints")).name == "step-000000100"
    Path("a.parquet").write_bytes(original)
    run, data, state = resume("run")
    assert state.step == 100
    assert next(train_run(run, data, state)).step == 200


def test_a_source_that_changes_between_two_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.parquet"
    parquet.write_table(
        pa.table({"x": np.arange(400) / 7, "y": np.arange(400) / 3}), path, row_group_size=20
    )
    original = tabular.flat_columns

    def touched(*arguments: Any) -> Any:
        os.utime(path, ns=(1, 1))
        return original(*arguments)

    monkeypatch.setattr(tabular, "flat_columns", touched)
    with pytest.raises(DataError, match="has changed while it was read"):
        start(path, tmp_path / "run", settings(stream=True))
    assert not (tmp_path / "run").exists()


# --------------------------------------------------------------------------------- names and memory


def test_a_path_that_is_not_utf8(here: Path):
    name = os.fsdecode(b"caf\xe9")
    shutil.copy("bits.npy", f"{name}.npy")
    rows = pa.table({"x": np.random.default_rng(0).normal(size=60), "y": np.arange(60) / 7})
    parquet.write_table(rows, "a.parquet")
    Path("a.parquet").rename(f"{name}.parquet")
    for command in (
        ["fit", f"{name}.npy", "--out", name, *QUICK],
        ["audit", name, *EFFORT],
        ["sample", name],
        ["check", f"{name}.parquet"],
        ["check", f"{name}.parquet", "--stream"],
    ):
        result = call(*command)
        assert result.exit_code == DONE, result.output
    refused(["sample", name], USAGE, "samples.npy exists")
    refused(["fit", f"{name}.npy", "--out", name], USAGE, r"caf\udce9' exists")


class PanicException(BaseException):
    """As a library written in Rust raises it."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        ImportError("libx.so: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
        PanicException(
            "called `Result::unwrap()` on an `Err` value: Cannot allocate memory (os error 12)"
        ),
    ],
)
def test_little_address_space_is_memory(
    here: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
):
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("taut.use.tasks.sample", fail)
    refused(["sample", "run"], MEMORY, "out of memory")
