"""``taut audit``, ``gradients``, ``report``.

Files that agree, mistakes in one line, and stops that keep what is done.
"""

from __future__ import annotations

import dataclasses
import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

import taut
import taut.evidence.audit
from taut.cli.app import app
from taut.runs import audit as audits
from taut.system import storage
from taut.system.errors import StorageError
from taut.system.seeds import generator

RNG = np.random.default_rng(0)
FACTORS = RNG.normal(size=(200, 2))
BITS = (
    (RNG.random((200, 16)) < 1 / (1 + np.exp(-FACTORS @ (2 * RNG.normal(size=(2, 16))))))
    .astype(np.uint8)
    .reshape(200, 4, 4)
)
REAL = FACTORS[:60] @ RNG.normal(size=(2, 3)) + 0.3 * RNG.normal(size=(60, 3))
MLP = "MLP(hidden=(8,))"
QUICK: dict[str, Any] = {
    "latent_dim": 2,
    "encoder": MLP,
    "decoder": MLP,
    "max_epochs": 2,
    "num_samples": 20,
    "threads": 1,
}
DISCRETE = {
    "prior": "IndependentBernoulli()",
    "posterior": "IndependentBernoulli()",
    "objective": "ScoreFunction(num_samples=8)",
}
SMALL = [
    "--num-data",
    "10",
    "--num-samples",
    "100",
    "--num-chains",
    "4",
    "--max-temperatures",
    "5",
    "--threads",
    "1",
]
LEAST = [*SMALL, "--minutes", "0"]  # importance sampling alone
FEW = ["--batch-size", "10", "--num-samples", "3", "--repeats", "3"]
DONE, BUG, USAGE, DATA, DIVERGED, STORAGE = range(6)
HOSTILE = ["a b", "x\n\x1b[2J\r\x9by", "<script>alert(1)</script>", os.fsdecode(b"not\xffutf8")]


@pytest.fixture(autouse=True)
def _alone(_seeded: None) -> Iterator[None]:
    before, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    yield
    # a command gives back what it took
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGTERM, before)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and with runs of each kind.

    That of the digits is audited, with every section.
    """
    folder = tmp_path_factory.mktemp("made")
    before, threads, handler = (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        signal.getsignal(signal.SIGTERM),
    )
    torch.set_default_dtype(torch.float32)
    np.save(folder / "bits.npy", BITS)
    np.save(folder / "real.npy", REAL)
    taut.fit(folder / "bits.npy", folder / "run", **QUICK)
    taut.fit(folder / "real.npy", folder / "real", **QUICK)
    taut.fit(BITS, folder / "memory", **QUICK)
    taut.fit(folder / "bits.npy", folder / "discrete", **QUICK | DISCRETE)
    taut.fit("digits", folder / "digits", **QUICK | {"max_epochs": 5})
    result = CliRunner().invoke(app, ["audit", str(folder / "digits"), *SMALL])
    assert result.exit_code == DONE, result.stderr
    (folder / "digits.txt").write_text(result.stdout)
    torch.set_default_dtype(before)
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, handler)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the folder that the command is called in.

    Its runs name the copies of the data.
    """
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    for run in ("run", "real", "discrete"):
        path = Path(run, "run.json")
        info = storage.read_json(path)
        storage.write_json(
            path,
            info | {"source": str(Path(info["source"].replace(str(made), str(tmp_path / "here"))))},
        )
        storage.write_manifest(Path(run))
    return tmp_path / "here"


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every section of an audit, each with the least work.

    What is asked of it stays what is written down.
    """
    whole = audits.audit

    def less(*args: Any, effort: taut.evidence.audit.Effort, **kwargs: Any) -> dict[str, Any]:
        return whole(
            *args,
            effort=dataclasses.replace(effort, optimum_steps=3, simulated=4, naive=4, samples=20),
            **kwargs,
        )

    monkeypatch.setattr(audits, "audit", less)


def call(*arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env=environment)


def done(*arguments: object, code: int = DONE) -> Result:
    result = call(*arguments)
    assert result.exit_code == code, result.stderr
    return result


def refused(result: Result, code: int, *words: str) -> None:
    """Asserts that a command ended in an exit code and one line that holds some words, and showed
    no result.
    """
    messages = [line for line in result.stderr.splitlines() if line.startswith("taut: ")]
    assert result.exit_code == code, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert len(messages) == 1, result.stderr
    assert result.stderr.splitlines()[-1] == messages[0]
    for word in words:
        assert word in messages[0]


def contents(folder: str | Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(Path(folder).rglob("*"))
        if p.is_file()
    }


def strict(text: str | bytes) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return found


def audit_of(run: str) -> dict[str, Any]:
    return strict(storage.read_checked(Path(run, "audit.json")))


# ----------------------------------------------------------------------------------------- it works


def test_an_audit_adds_its_files_and_changes_no_other(here: Path):
    before = contents("run")
    done("audit", "run", *LEAST)
    after = contents("run")
    assert after.keys() - before.keys() == {"audit.json", "report.html"}
    assert {k: after[k] for k in before if k != "manifest.json"} == {
        k: v for k, v in before.items() if k != "manifest.json"
    }
    old, new = strict(before["manifest.json"]), strict(after["manifest.json"])
    assert new.keys() - old.keys() == {"audit.json", "report.html"}
    assert {k: new[k] for k in old} == old
    for name in new:
        storage.read_checked(Path("run", name))
    taut.load("run")


def test_what_is_damaged_while_an_audit_runs_is_found_after_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = audits.audit

    def damaging(*args: Any, **kwargs: Any) -> dict[str, Any]:
        content = Path("run/model.safetensors").read_bytes()
        Path("run/model.safetensors").write_bytes(
            content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]
        )
        return whole(*args, **kwargs)

    monkeypatch.setattr(audits, "audit", damaging)
    done("audit", "run", *LEAST)
    assert audit_of("run")["num_data"] == 10
    with pytest.raises(StorageError, match=r"model\.safetensors is damaged"):
        taut.load("run")
    refused(call("audit", "run", *LEAST), STORAGE, "model.safetensors is damaged")


ROWS: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("log p(x)", lambda a: a["log_evidence"]),
    ("ELBO", lambda a: a["evidence"]["elbo"]),
    ("inference gap", lambda a: a["gaps"]["inference_gap"]),
    ("= approximation gap (the family)", lambda a: a["gaps"]["approximation_gap"]),
    ("+ amortization gap (the encoder)", lambda a: a["gaps"]["amortization_gap"]),
    ("log p(x), importance sampling", lambda a: a["evidence"]["log_evidence"]),
    ("log p(x), annealing", lambda a: a["annealing"]["log_evidence"]),
    ("sandwich on simulated data, width", lambda a: a["sandwich"]["width"]),
    ("importance sampling there short by", lambda a: a["sandwich"]["importance_short_by"]),
    ("rate", lambda a: a["evidence"]["rate"]),
    ("a better prior buys", lambda a: a["latents"]["prior_gain"]),
    (
        "overfitting: training minus held-out log p(x)",
        lambda a: a["overfitting"]["log_evidence"]["difference"],
    ),
    ("baseline, independent marginals", lambda a: a["baseline"]),
]


def test_the_numbers_on_the_terminal_are_those_of_the_file(here: Path):
    found, text = audit_of("digits"), Path("digits.txt").read_text()
    lines = text.splitlines()
    shown = {
        m[1]: m[2].split() for line in lines if (m := re.match(r" *(.+?)  +(-?\d[-\d. ]*)$", line))
    }
    assert shown.keys() == {title for title, _ in ROWS}
    for title, of in ROWS:
        estimate = of(found)
        expected = [
            f"{estimate[k]:.3f}"
            for k in ("value", "mc_error", "test_error")
            if estimate[k] is not None
        ]
        assert shown[title] == expected, title
    assert found["findings"]
    for number, finding in enumerate(found["findings"], 1):
        assert any(line.startswith(f"{number}. {finding['name']}") for line in lines)
        if finding["nats"] is not None:
            error = f" ± {finding['error']:.2f}" if finding["error"] is not None else ""
            assert f"{number}. {finding['name']}: {finding['nats']:.2f}{error} nats" in text
        for part in (
            finding["what"],
            finding["evidence"],
            f"{finding['action']}: {finding['command']}",
        ):
            assert f"   {part}" in lines
    for section in (
        found["evidence"],
        found["gaps"],
        found["annealing"],
        found["latents"],
        found["samples"],
        found["blur"],
    ):
        for line in section.get("warnings", []):
            assert f"note: {line}" in lines
    assert lines[0].startswith("10 images, nats per image")
    assert lines[-1].endswith("report.html, its numbers are in " + lines[-1].split()[-1])
    assert found["stopped"] is None


def test_the_page_of_a_whole_audit(here: Path):
    page = Path("digits/report.html").read_text()
    assert "The bound under log p(x)" in page  # the emblem
    assert "<script" not in page
    assert page.count("data:image/png;base64,") == 4  # with the map and the traversals
    storage.read_checked(Path("digits/report.html"))


def test_json_is_the_file_and_a_seed_is_its_bytes(here: Path, cheap: None):
    torch.manual_seed(1)
    clock = re.compile(r'("|<dt>)(date|seconds)("|</dt>).*')  # all else is the same
    first = done("audit", "run", *SMALL, "--seed", 3, "--json")
    one = Path("run/audit.json").read_text()
    assert strict(first.stdout) == strict(one)
    page = Path("run/report.html").read_text()
    measured = strict(one)["measured"]
    command = "taut audit run --num-data 10 --num-samples 100 --num-chains 4 --max-temperatures 5"
    assert measured["command"] == f"{command} --seed 3"
    assert measured["seconds"] > 0
    torch.manual_seed(2)
    done("audit", "run", *SMALL, "--seed", 3)
    assert clock.sub("", Path("run/audit.json").read_text()) == clock.sub("", one)
    assert clock.sub("", Path("run/report.html").read_text()) == clock.sub("", page)
    assert strict(one)["effort"]["num_samples"] == 100
    assert None not in [
        strict(one)[k]
        for k in ("annealing", "sandwich", "gaps", "naive", "latents", "samples", "blur")
    ]
    done("audit", "run", *LEAST, "--seed", 4)
    assert audit_of("run")["evidence"]["elbo"] != strict(one)["evidence"]["elbo"]


def test_an_audit_without_time_holds_what_is_done_and_says_so(here: Path):
    result = done("audit", "run", *LEAST)
    found = audit_of("run")
    assert found["stopped"] == "time"
    (line,) = (
        line for line in result.stdout.splitlines() if line.startswith("note: not measured: ")
    )
    assert line.endswith(": the time was up before it")
    assert {"annealing", "gaps", "latents", "samples"} <= set(
        line[len("note: not measured: ") :].partition(":")[0].split(", ")
    )
    assert all(
        found[k] is None
        for k in ("annealing", "sandwich", "gaps", "naive", "latents", "samples", "blur")
    )
    assert found["evidence"]["log_evidence"]["value"] == found["log_evidence"]["value"]
    assert "the time was up before it" in Path("run/report.html").read_text()


def test_an_audit_of_given_data_is_of_them(here: Path):
    done("audit", "run", "bits.npy", *LEAST)
    found = audit_of("run")
    assert found["data"] == {
        "name": "bits.npy",
        "part": "given",
        "rows": 200,
        "fingerprint": storage.read_json(Path("run/run.json"))["fingerprint"],
        "each": "image",
    }
    np.save("others.npy", BITS[:30])
    done("audit", "run", "others.npy", *LEAST, "--num-data", 40, "--num-samples", 50, "--seed", 5)
    other = audit_of("run")
    assert (other["data"]["rows"], other["data"]["name"], other["num_data"]) == (
        30,
        "others.npy",
        30,
    )
    # the data's own, not that of the training
    assert other["data"]["fingerprint"] != found["data"]["fingerprint"]
    # a sorted file's first rows are not what a stopped audit sees
    order = torch.randperm(30, generator=generator(5, "audit"))
    expected = taut.importance(
        taut.load("run").model, torch.from_numpy(BITS[:30])[order], num_samples=50, seed=5
    ).log_evidence
    assert other["evidence"]["log_evidence"]["value"] == pytest.approx(
        float(expected.mean()), rel=1e-12
    )
    np.savez("two.npz", a=BITS[:3], b=BITS)
    done("audit", "run", "two.npz", "--key", "a", *LEAST)
    assert audit_of("run")["data"]["rows"] == 3


@pytest.mark.parametrize("lost", ["memory", "vanished", "changed", "broken"])
def test_with_data_of_ones_own_the_training_data_may_be_away(here: Path, lost: str):
    run = "memory" if lost == "memory" else "real"
    np.save("own.npy", BITS[:20] if lost == "memory" else REAL[:20])
    if lost == "vanished":
        Path("real.npy").unlink()
    elif lost == "changed":
        np.save("real.npy", REAL[::-1])
    elif lost == "broken":  # with several lines of complaint
        np.save("real.npy", np.concatenate([REAL, np.full((1, 3), 1e300), np.full((1, 3), np.inf)]))
    result = done("audit", run, "own.npy", *LEAST)
    found = audit_of(run)
    assert found["overfitting"] is None
    assert found["baseline"] is None
    words = {
        "memory": "array in memory",
        "vanished": "no such file",
        "changed": "not the data of",
        "broken": "infinite",
    }[lost]
    assert len(found["notes"]) == 1
    assert found["notes"][0].startswith("the training data are not at hand")
    assert words in found["notes"][0]
    assert f"note: {found['notes'][0]}" in result.stdout.splitlines()
    assert "the training data are not at hand" in Path(run, "report.html").read_text()


def test_rows_with_gaps_are_audited(here: Path):
    gaps = np.where(RNG.random((30, REAL.shape[1])) < 0.3, np.nan, REAL[:30])
    np.save("gaps.npy", gaps)
    done("audit", "real", "gaps.npy", *LEAST, "--num-data", 30, "--num-samples", 50, "--seed", 5)
    found = audit_of("real")
    assert (found["data"]["rows"], found["num_data"]) == (30, 30)
    order = torch.randperm(30, generator=generator(5, "audit"))
    model = taut.load("real").model
    expected = taut.importance(
        model, torch.from_numpy(gaps).float()[order], num_samples=50, seed=5
    ).log_evidence
    assert found["evidence"]["log_evidence"]["value"] == pytest.approx(
        float(expected.mean()), rel=1e-12
    )


def test_one_datum_has_no_test_error(here: Path, cheap: None):
    np.save("one.npy", BITS[:1])
    done("audit", "run", "one.npy", *SMALL)
    found = audit_of("run")
    assert found["num_data"] == 1
    for estimate in (
        found["log_evidence"],
        found["evidence"]["elbo"],
        found["gaps"]["inference_gap"],
        found["baseline"],
    ):
        assert estimate["value"] is not None
        assert estimate["test_error"] is None
    assert found["evidence"]["elbo"]["mc_error"] > 0


def test_one_sample_knows_nothing_of_its_error(here: Path):
    result = done("audit", "run", *LEAST, "--num-samples", 1)
    found = audit_of("run")["evidence"]
    for name in ("elbo", "log_evidence"):
        assert found[name]["mc_error"] is None
        assert found[name]["test_error"] > 0
    assert found["warnings"]
    assert f"note: {found['warnings'][0]}" in result.stdout.splitlines()
    assert html.escape(found["warnings"][0]) in Path("run/report.html").read_text()


def test_a_run_is_named_from_within_it(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir("run")
    done("audit", ".", *LEAST)
    assert audit_of(".")["run"] == "run"
    assert "<title>taut audit of run</title>" in Path("report.html").read_text()


# -------------------------------------------------------------------------------- gradients, report


def test_gradients_are_kept_shown_and_join_the_report(here: Path):
    before = contents("run")
    result = done("gradients", "run", *FEW, "--json")
    found = strict(storage.read_checked(Path("run/gradients.json")))
    assert strict(result.stdout) == found
    assert contents("run").keys() - before.keys() == {"gradients.json"}  # no page without an audit
    assert (found["num_samples"], found["repeats"], found["num_data"], found["run"]) == (
        3,
        3,
        10,
        "run",
    )
    assert [row["repeats"] for row in found["estimators"]] == [3] * 8
    Path("run/gradients.json").unlink()
    text = done("gradients", "run", *FEW).stdout
    again = strict(Path("run/gradients.json").read_bytes())
    for one, two in zip(found["estimators"], again["estimators"], strict=True):
        assert one["bound"] == two["bound"]  # the same seed
        assert one["encoder"]["variance"] == two["encoder"]["variance"]
        assert re.search(
            rf"^{re.escape(one['name'])} \({one['target']}\) +{one['bound']['value']:.2f} ",
            text,
            re.MULTILINE,
        )
    done("audit", "run", *LEAST)
    page = Path("run/report.html").read_text()
    assert "leave-one-out" in page
    Path("run/report.html").unlink()
    assert done("report", "run").stdout == "run/report.html\n"
    assert Path("run/report.html").read_text() == page
    storage.read_checked(Path("run/report.html"))
    Path("run/gradients.json").unlink()
    done("report", "run")
    assert "taut gradients RUN" in Path("run/report.html").read_text()


def test_what_cannot_be_reparameterized_is_measured_as_far_as_it_can_be(here: Path):
    text = done("gradients", "discrete", *FEW).stdout
    rows = strict(Path("discrete/gradients.json").read_bytes())["estimators"]
    missing = {row["name"] for row in rows if "reason" in row}
    assert {row["name"] for row in rows} - missing == {
        "score function, leave-one-out", "score function, no baseline", "VIMCO",
    }  # fmt: skip
    assert {row["reason"] for row in rows if "reason" in row} == {
        "needs a posterior that can be reparameterized"
    }
    assert all(re.search(rf"^{re.escape(name)} ", text, re.MULTILINE) for name in missing)


@pytest.mark.parametrize("picture", ["samples.png", "reconstructions.png"])
def test_a_damaged_picture_costs_the_page_and_no_numbers(here: Path, picture: str):
    Path("run", picture).write_bytes(b"damaged")
    refused(call("audit", "run", *LEAST), STORAGE, f"{picture} is damaged")
    assert audit_of("run")["num_data"] == 10
    assert not Path("run/report.html").exists()


# ----------------------------------------------------------------------------------------- mistakes

MISTAKES: list[tuple[list[str], int, list[str]]] = [
    (
        ["audit", "memory"],
        USAGE,
        ["memory was trained on an array in memory (fingerprint {fingerprint})", "give the data"],
    ),
    (
        ["gradients", "memory"],
        USAGE,
        ["memory was trained on an array in memory (fingerprint {fingerprint})"],
    ),
    (
        ["tighten", "memory"],
        USAGE,
        ["memory was trained on an array in memory (fingerprint {fingerprint})"],
    ),
    (["audit", "vanished"], USAGE, ["gone.npy", "no such file"]),
    (["gradients", "vanished"], USAGE, ["gone.npy", "no such file"]),
    (["tighten", "vanished"], USAGE, ["gone.npy", "no such file"]),
    (
        ["audit", "changed"],
        DATA,
        ["changed.npy: these are not the data of changed", "give back the original file"],
    ),
    (["gradients", "changed"], DATA, ["these are not the data of changed"]),
    (["tighten", "changed"], DATA, ["these are not the data of changed"]),
    (["audit", "run", "wide.npy"], DATA, ["wide.npy", "(4, 4)"]),
    (["audit", "run", "other.npy"], DATA, ["other.npy", "neither 0 nor 1"]),
    (["audit", "run", "grey.npy"], DATA, ["grey.npy", "neither 0 nor 1"]),
    (["audit", "run", "nan.npy"], DATA, ["nan.npy", "NaN", "row 7"]),
    (["audit", "run", "nothing.npy"], USAGE, ["nothing.npy", "no such file"]),
    (["audit", "run", "two.npz"], DATA, ["holds 2 arrays", "--key"]),
    (["audit", "run", "--key", "a"], USAGE, ["--key chooses an array of DATA: give DATA too"]),
    (
        ["audit", "unfinished"],
        STORAGE,
        ["unfinished is not finished: run `taut resume unfinished` first"],
    ),
    (["gradients", "unfinished"], STORAGE, ["unfinished is not finished"]),
    (["tighten", "unfinished"], STORAGE, ["unfinished is not finished"]),
    (["report", "unfinished"], STORAGE, ["unfinished is not finished"]),
    (["audit", "nowhere"], USAGE, ["nowhere is not a run folder"]),
    (["gradients", "bits.npy"], USAGE, ["bits.npy is a file", "run.json"]),
    (["tighten", "."], USAGE, [". is not a run folder"]),
    (["report", "nowhere"], USAGE, ["nowhere is not a run folder"]),
    (["report", "run"], STORAGE, ["run has no audit.json: run `taut audit run` first"]),
    (["audit", "all"], USAGE, ["all has no rows that were held out: give DATA"]),
    (
        ["tighten", "discrete"],
        USAGE,
        ["IndependentBernoulli", "ScoreFunction(num_samples=8)", "VIMCO(num_samples=8)"],
    ),
    (
        ["tighten", "run", "--posterior", "Nope()"],
        USAGE,
        ["no posterior is called 'Nope'", "FullCovarianceNormal"],
    ),
    (
        ["tighten", "run", "--posterior", "FullCovarianceNorma()"],
        USAGE,
        ["did you mean 'FullCovarianceNormal'?"],
    ),
    (
        ["tighten", "full", "--posterior", "DiagonalNormal()"],
        USAGE,
        ["does not fit the old one's weights: give --encoder"],
    ),
    (["tighten", "run", "--encoder", "MLP(hidden=(-3,))"], USAGE, ["MLP"]),
    (
        ["tighten", "run", "--posterior", "CouplingFlow(hidden=3)"],
        USAGE,
        ["CouplingFlow(hidden=3): hidden must list the widths of the layers"],
    ),
    (
        ["tighten", "run", "--posterior", "CouplingFlow(layers='2')"],
        USAGE,
        ["layers must be at least 1, not '2'"],
    ),
    (["tighten", "run", "--objective", "ELBOW()"], USAGE, ["no objective is called 'ELBOW'"]),
    (
        ["tighten", "run", "--out", "real"],
        USAGE,
        ["real exists: choose another --out, or --overwrite"],
    ),
    (
        ["tighten", "run", "--out", "bits.npy", "--overwrite"],
        USAGE,
        ["bits.npy holds what is read", "choose another --out"],
    ),
    (
        ["tighten", "run", "--out", "run", "--overwrite"],
        USAGE,
        ["run is the run that is tightened", "another --out"],
    ),
    (
        ["tighten", "run", "--out", "real/../run", "--overwrite"],
        USAGE,
        ["is the run that is tightened"],
    ),
]


@pytest.mark.parametrize(
    ("arguments", "code", "words"), [pytest.param(*m, id=" ".join(m[0])) for m in MISTAKES]
)
def test_a_mistake_is_one_line_and_leaves_no_file(
    here: Path, arguments: list[str], code: int, words: list[str]
):
    prepare(arguments)
    before = contents(".")
    result = call(*arguments)
    fingerprint = storage.read_json(Path("memory/run.json"))["fingerprint"]
    refused(result, code, *(word.replace("{fingerprint}", fingerprint) for word in words))
    assert contents(".") == before
    assert not Path("runs").exists()


def prepare(arguments: list[str]) -> None:
    """Makes what a row above names."""
    nan = np.where(np.arange(len(BITS))[:, None, None] == 7, np.nan, BITS)
    for name, array in (
        ("wide", BITS.reshape(200, 2, 8)),
        ("grey", 3 * BITS),
        ("other", BITS - 0.5),
        ("nan", nan),
    ):
        np.save(f"{name}.npy", array)
    np.savez("two.npz", a=BITS, b=BITS)
    for name, source in (
        ("vanished", "gone.npy"),
        ("changed", "changed.npy"),
        ("all", "bits.npy"),
        ("full", "bits.npy"),
    ):
        if name in arguments:
            shutil.copytree("run", name)
            info = storage.read_json(Path(name, "run.json")) | {
                "source": str(Path(source).absolute())
            }
            if name == "all":
                info["config"]["data"] |= {"test_fraction": 0.0, "validation_fraction": 0.0}
            if name == "full":
                info["config"]["model"]["posterior"] = "FullCovarianceNormal()"
                model = taut.build.model.build(
                    taut.build.config.ModelConfig(**info["config"]["model"]),
                    taut.load("run").schema,
                )
                storage.write_tensors(Path(name, "model.safetensors"), model.state_dict())
            storage.write_json(Path(name, "run.json"), info)
            storage.write_manifest(Path(name))
    np.save("changed.npy", BITS[::-1])
    if "unfinished" in arguments:
        shutil.copytree("run", "unfinished")
        Path("unfinished/manifest.json").unlink()


@pytest.mark.parametrize(
    "arguments",
    [
        ["audit", "run", "--num-samples", "0"],
        ["audit", "run", "--minutes", "-1"],
        ["audit", "run", "--threads", "100000000"],
        ["gradients", "run", "--repeats", "1"],
        ["gradients", "run", "--batch-size", "0"],
        ["tighten", "run", "--max-epochs", "0"],
        ["tighten", "run", "--learning-rate", "nan"],
    ],
)
def test_a_number_out_of_its_range_is_named(here: Path, arguments: list[str]):
    before = contents(".")
    result = call(*arguments)
    assert result.exit_code == USAGE
    assert arguments[2] in result.stderr
    assert contents(".") == before


@pytest.mark.parametrize("name", HOSTILE, ids=["space", "escapes", "script", "not UTF-8"])
def test_a_hostile_name_of_a_run(here: Path, name: str):
    Path("h").mkdir()
    folder = Path("h", name.replace("/", "\N{DIVISION SLASH}"))
    Path("run").rename(folder)
    results = [
        call("report", folder),
        done("audit", folder, *LEAST),
        done("gradients", folder, *FEW),
        done("report", folder),
        done("tighten", folder, "--max-epochs", 1),
    ]
    assert results[0].exit_code == STORAGE
    for result in results:
        assert not set("\x1b\r\x9b") & set(result.output)
    assert "\n" not in results[3].stdout[:-1]
    assert audit_of(str(folder))["run"] == folder.name
    page = Path(folder, "report.html").read_bytes().decode("utf-8")
    assert "<script" not in page
    assert not set("\x1b\r\x9b") & set(page)


# ------------------------------------------------------------------------------------------ stopped

# One process imports taut; each job is a child of it, which signals meet before the n-th call of a
# function.
HELPER = textwrap.dedent("""
    import importlib, json, os, sys
    import torch, taut, taut.cli.app, taut.runs.audit, taut.runs.fit

    weights = torch.nn.Parameter(torch.zeros(3))
    weights.grad = torch.ones(3)
    # imports what an optimizer needs, once for all children
    torch.optim.AdamW([weights], fused=True).step()

    def run(job):
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
                for number in job["signals"]:
                    os.kill(os.getpid(), number)
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
INT, TERM = int(signal.SIGINT), int(signal.SIGTERM)
BLOCK, GRADIENT, SANDWICH = (
    "taut.evidence.importance._block",
    "taut.evidence.gradients.stream",
    "taut.evidence.sandwich.sandwich",
)
STOPS = [([INT], 130), ([TERM], 143), ([INT, INT], 130), ([TERM, TERM], 143), ([INT, TERM], 143)]


@pytest.fixture(scope="module")
def stopped(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """Commands that signals met.

    Audits in their second block and in the sandwich, a table of gradients; with exit codes.
    """
    folder = tmp_path_factory.mktemp("stopped")
    audit = ["audit", str(made / "bits.npy"), *SMALL, "--num-data", "200"]
    jobs = [{"args": audit, "at": BLOCK, "n": 2, "signals": numbers} for numbers, _ in STOPS]
    jobs += [{"args": ["audit", *SMALL], "at": SANDWICH, "n": 1, "signals": [INT]}]
    jobs += [
        {
            "args": ["gradients", *FEW, "--repeats", "10"],
            "at": GRADIENT,
            "n": 2 + 3 * 8,
            "signals": [TERM],
        }
    ]
    for number, job in enumerate(jobs):
        shutil.copytree(made / "run", folder / f"run-{number}")
        job |= {
            "args": [job["args"][0], str(folder / f"run-{number}"), *job["args"][1:]],
            "out": str(folder / f"out-{number}"),
        }
    result = subprocess.run(
        [sys.executable, "-c", HELPER],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
    )
    return folder, json.loads(result.stdout)


@pytest.mark.parametrize(("number", "code"), [(0, 130), (1, 143)])
def test_a_signal_ends_an_audit_after_the_block_and_keeps_it(
    stopped: tuple[Path, list[int]], number: int, code: int
):
    folder, codes = stopped
    errors = (folder / f"out-{number}.stderr").read_text().splitlines()
    assert codes[number] == code, errors
    found = audit_of(str(folder / f"run-{number}"))
    assert found["num_data"] == 64  # two blocks of 32
    assert found["stopped"] == "stopped"
    assert found["gaps"] is None
    assert "stopping after this block; once more to stop at once" in errors
    assert errors[-1] == "stopped: what was done is kept"
    text = (folder / f"out-{number}.stdout").read_text()
    assert text.startswith("64 images, nats per image")
    assert re.search(
        "note: not measured: .*annealing, .*gaps, .*latents, .*samples.*: the audit was stopped "
        "before it",
        text,
    )
    assert (
        "the audit was stopped before it" in (folder / f"run-{number}" / "report.html").read_text()
    )
    taut.load(folder / f"run-{number}")


@pytest.mark.parametrize("number", [2, 3, 4])
def test_a_second_signal_ends_at_once_and_leaves_no_file(
    stopped: tuple[Path, list[int]], number: int
):
    folder, codes = stopped
    errors = (folder / f"out-{number}.stderr").read_text().splitlines()
    assert codes[number] == STOPS[number][1], errors
    assert errors[-1] in ("taut: stopped", "taut: terminated")
    assert (folder / f"out-{number}.stdout").read_text() == ""
    assert contents(folder / f"run-{number}").keys() == contents(folder / "run-6").keys() - {
        "gradients.json"
    }


def test_a_signal_late_in_an_audit_keeps_the_sections_before(stopped: tuple[Path, list[int]]):
    folder, codes = stopped
    found = audit_of(str(folder / "run-5"))
    assert (codes[5], found["stopped"], found["num_data"]) == (130, "stopped", 10)
    assert found["annealing"]["num_data"] == 10
    assert found["sandwich"] is not None
    assert found["gaps"] is None
    text = (folder / "out-5.stdout").read_text()
    assert re.search(
        "note: not measured: .*gaps, .*latents, .*samples.*: the audit was stopped before it", text
    )


def test_a_signal_ends_the_gradients_with_the_repeats_that_are_done(
    stopped: tuple[Path, list[int]],
):
    folder, codes = stopped
    found = strict(storage.read_checked(folder / "run-6" / "gradients.json"))
    assert codes[6] == 143, (folder / "out-6.stderr").read_text()
    assert [row["repeats"] for row in found["estimators"]] == [3, *[2] * 7]
    assert (folder / "out-6.stderr").read_text().splitlines()[
        -1
    ] == "stopped: what was done is kept"
