"""A run that is handed on: it is a run again, its card says what was measured, and what is private
or hostile stays out.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from test_tighten import call

import taut
from taut.evidence.audit import Effort
from taut.runs import hub
from taut.runs.hub import CARD, FILES, place_of
from taut.system import storage
from taut.system.errors import StorageError, UsageError

PUSHED = {*FILES, CARD}
LITTLE = Effort(
    **{"num_samples": 20, "num_chains": 2, "max_temperatures": 4, "optimum_steps": 2},
    **{"simulated": 4, "naive": 4, "train": 60, "samples": 12, "task_seconds": 0.01},
)
SECRET = "Zebedee Quillfeather"


@pytest.fixture(autouse=True)
def _single_precision(_seeded: None) -> None:
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, a run of it and what was pushed of that."""
    before, path = torch.get_default_dtype(), tmp_path_factory.mktemp("secret-study")
    torch.set_default_dtype(torch.float32)
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "weight|kg": rng.normal(70, 10, 120).round(1),
            "<b>kind</b>": rng.choice(["x`y", "a*b"], 120),
            "patient_id": [f"{SECRET} {i}" for i in range(120)],
        }
    )
    table.to_csv(path / "people.csv", index=False)
    few = {"max_epochs": 2, "num_samples": 20, "latent_dim": 2, "verbose": False}
    taut.fit(path / "people.csv", path / "run", likelihood="Columns()", **few)
    taut.push(path / "run", path / "pushed", license="apache-2.0")
    torch.set_default_dtype(before)
    return path


def line(*arguments: object, code: int = 2) -> str:
    """Returns the one line with which a command is refused."""
    result = call(*arguments)
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("taut: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("taut: ").strip()


def front_matter(folder: Path) -> dict[str, Any]:
    _, head, _ = (folder / CARD).read_text("utf-8").split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(head)
    return found


def test_a_pulled_run_is_a_run_again(home: Path, tmp_path: Path) -> None:
    run, source = taut.load(home / "run"), home / "people.csv"
    pulled = taut.pull(home / "pushed", tmp_path / "pulled")
    assert pulled.path == tmp_path / "pulled"
    assert {p.name for p in pulled.path.iterdir()} == PUSHED - {"samples.png"}
    again = taut.load(pulled.path)
    for name, weight in run.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], weight, rtol=0, atol=0)
    for do in (
        lambda r: r.sample(5, seed=1).to_csv(),
        lambda r: np.asarray(r.encode(source)).tolist(),
        lambda r: np.asarray(r.score(source, num_samples=100)["log_evidence"]).tolist(),
    ):
        assert do(again) == do(run)
    assert again.evaluation() == run.evaluation()
    assert again.history() == run.history()
    audit = again.audit(source, num_data=20, effort=LITTLE)
    assert audit["num_data"]
    second = taut.push(again, tmp_path / "second")
    assert (Path(second) / "model.safetensors").read_bytes() == (
        home / "pushed" / "model.safetensors"
    ).read_bytes()


def test_nothing_of_the_rows_or_of_this_machine_leaves(home: Path) -> None:
    """Not even after an audit that had to say where the data should have been."""
    run = taut.load(home / "run")
    hidden = home / "people.csv"
    hidden.rename(home / "away.csv")
    try:
        run.audit(home / "away.csv", num_data=20, effort=LITTLE)
    finally:
        (home / "away.csv").rename(hidden)
    before = storage.read_json(home / "run" / "audit.json")
    assert any(str(home) in note for note in before["notes"])
    taut.push(run, home / "audited")
    assert taut.load(home / "run").info["source"] == str(hidden)
    for folder in (home / "pushed", home / "audited"):
        assert {p.name for p in folder.iterdir()} == PUSHED - {"samples.png"}
        for file in folder.iterdir():
            content = file.read_bytes()
            for private in (home.name, str(home), SECRET, str(Path.cwd()), str(Path.home()) + "/"):
                assert private.encode() not in content, (file, private)
        info = storage.read_json(folder / "run.json")
        assert info["source"] == "people.csv"
        assert (info["machine"], info["notes"]) == ("", [])


def test_the_card_says_what_was_measured_with_its_errors(home: Path, tmp_path: Path) -> None:
    run, found = taut.load(home / "run"), front_matter(home / "pushed")
    assert (found["library_name"], found["license"]) == ("taut", "apache-2.0")
    assert "tabular" in found["tags"]
    (result,) = found["model-index"][0]["results"]
    assert result["dataset"]["name"] == "people.csv"
    told = {m["name"]: {"value": m["value"], **m["args"]} for m in result["metrics"]}
    measured = run.evaluation()
    assert told == {
        "log p(x), nats": {k: v for k, v in measured["log_evidence"].items() if v is not None},
        "ELBO, nats": {k: v for k, v in measured["elbo"].items() if v is not None},
    }
    text = (home / "pushed" / CARD).read_text("utf-8")
    value, mc, test = (measured["log_evidence"][k] for k in ("value", "mc_error", "test_error"))
    cells = [taut.evidence.text.number(*e) for e in ((value, test), (mc, mc), (test, test))]
    assert f"| log p(x) | {' | '.join(cells)} |" in text
    assert "the run was not audited" in text
    assert "privacy" in text
    assert "Columns()" in text

    made = json.loads(json.dumps(run.audit(num_data=12, effort=LITTLE)))
    taut.push(run, tmp_path / "a card & <b>|")
    text = (tmp_path / "a card & <b>|" / CARD).read_text("utf-8")
    (result,) = front_matter(tmp_path / "a card & <b>|")["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == made["log_evidence"]["value"]
    assert "license" not in front_matter(tmp_path / "a card & <b>|")
    assert "on 12 of 12 test rows" in text
    assert "Where the sharpness goes: it is for images" in text
    body = text.split("---\n", 2)[2]
    assert "# a card &amp; &lt;b&gt;\\|" in body
    assert "weight\\|kg" in body
    assert "<b>" not in re.sub(r"```.*?```|`[^`\n]*`", "", body, flags=re.DOTALL)
    for row in re.findall(r"^\|.*\|$", body, re.MULTILINE):  # each table keeps its columns
        assert re.fullmatch(r"\|(?:(?:[^|\\]|\\.)*\|)+", row)
    for finding in made["findings"]:
        assert finding["name"] in body


def test_an_image_run_shows_draws_and_no_held_out_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 17, (60, 4, 4)).astype(np.float32)
    few = {"max_epochs": 1, "num_samples": 20, "latent_dim": 2, "verbose": False}
    run = taut.fit(x, tmp_path / "images", kind="levels", levels=(0, 16), **few)
    assert (run.path / "reconstructions.png").exists()
    (run.path / "samples.png").write_bytes(b"held-out images")  # as that of a diffusion shows
    taut.push(run, tmp_path / "pushed")
    assert {p.name for p in (tmp_path / "pushed").iterdir()} == PUSHED
    assert (tmp_path / "pushed" / "samples.png").read_bytes()[:4] == b"\x89PNG"
    assert front_matter(tmp_path / "pushed")["pipeline_tag"] == "unconditional-image-generation"
    assert "an array in memory" in (tmp_path / "pushed" / CARD).read_text("utf-8")
    assert taut.pull(tmp_path / "pushed", tmp_path / "pulled").sample(3).shape == (3, 4, 4)


def test_the_commands_answer_with_the_folder_and_refuse_in_one_line(
    home: Path, tmp_path: Path
) -> None:
    pushed = call("push", home / "run", tmp_path / "out")
    assert (pushed.exit_code, pushed.stdout.strip()) == (0, str(tmp_path / "out"))
    pulled = call("pull", tmp_path / "out", tmp_path / "in")
    assert (pulled.exit_code, pulled.stdout.strip()) == (0, str(tmp_path / "in"))
    assert call("sample", tmp_path / "in", "--out", tmp_path / "new.csv").exit_code == 0
    push, pull = ("push", home / "run"), ("pull", tmp_path / "out")
    assert "exists" in line(*push, tmp_path / "out")
    assert call(*push, tmp_path / "out", "--overwrite").exit_code == 0
    assert call(*pull, tmp_path / "in", "--overwrite").exit_code == 0
    assert "is the run itself" in line(*push, home / "run", "--overwrite", code=2)
    (tmp_path / "in" / "letter.txt").write_text("mine")
    assert "holds other things (letter.txt)" in line(*pull, tmp_path / "in", "--overwrite")
    assert "no run.json" in line("pull", tmp_path, tmp_path / "x")
    assert "there is no folder" in line(*pull, tmp_path / "not" / "there")
    assert "hf:OWNER/NAME" in line(*push, "hf:wine")
    assert "omit @" in line(*push, "hf:ann/wine@v2")
    pickled = tmp_path / "model.pt"
    pickled.write_bytes(b"\x80\x04.")
    assert "never unpickled" in line("pull", pickled, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert not list(tmp_path.glob(".taut-*"))


BROKEN = {
    "a flipped bit in the weights": (
        lambda f: _flip(f / "model.safetensors"),
        "model.safetensors is damaged",
        5,
    ),
    "numbers that were made better": (
        lambda f: (f / "evaluation.json").write_text("{}"),
        "evaluation.json is damaged",
        5,
    ),
    "a file that is not there": (
        lambda f: (f / "model.safetensors").unlink(),
        "there is no model.safetensors in it",
        5,
    ),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "manifest.json", 5),
    "a manifest that names what is outside": (
        lambda f: _manifest(f, {"../../letter": "0"}),
        "names ../../letter, outside it",
        5,
    ),
    "a link that leads out": (
        lambda f: _link(f / "history.jsonl", Path("/etc/passwd")),
        "history.jsonl is a link that leads out of it",
        5,
    ),
    "a card without an end": (
        lambda f: (f / CARD).write_bytes(b"x" * (2**22 + 1)),
        "README.md is damaged",
        5,
    ),
    "a part of an outside module": (
        lambda f: _edit(f, "Columns()", "antigravity:Part()"),
        "outside module 'antigravity'",
        2,
    ),
    "a part that there is not": (
        lambda f: _edit(f, "Columns()", "Nothing()"),
        "Nothing",
        5,
    ),
}


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _manifest(folder: Path, more: dict[str, str]) -> None:
    storage.write_json(folder / "manifest.json", storage.read_manifest(folder) | more)


def _link(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


def _edit(folder: Path, before: str, after: str) -> None:
    info = storage.read_json(folder / "run.json")
    info["config"]["model"]["likelihood"] = info["config"]["model"]["likelihood"].replace(
        before, after
    )
    storage.write_json(folder / "run.json", storage.fingerprinted(info))
    storage.write_manifest(folder)


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_or_hostile_source_is_one_line(home: Path, tmp_path: Path, how: str) -> None:
    source = tmp_path / "source"
    shutil.copytree(home / "pushed", source)
    spoil, words, code = BROKEN[how]
    spoil(source)
    said = line("pull", source, tmp_path / "pulled", code=code)
    assert words in said
    assert ".taut-" not in said  # where it was unpacked is nobody's business
    assert {p.name for p in tmp_path.iterdir()} == {"source"}
    assert "antigravity" not in sys.modules


def in_the_cache(pushed: Path, cache: Path) -> Path:
    """Returns a repository as the hub's library keeps it: links into blobs."""
    repo = cache / "models--ann--wine"
    snapshot = repo / "snapshots" / "0123abcd"
    for folder in (snapshot, repo / "refs", repo / "blobs"):
        folder.mkdir(parents=True)
    (repo / "refs" / "main").write_text("0123abcd")
    for number, file in enumerate(sorted(pushed.iterdir())):
        shutil.copy(file, repo / "blobs" / f"{number}")
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", f"{number}"))
    return repo


def test_a_repository_in_the_cache_of_the_hub_is_a_source(home: Path, tmp_path: Path) -> None:
    repo = in_the_cache(home / "pushed", tmp_path)
    pulled = taut.pull(repo, tmp_path / "pulled")
    assert not any(path.is_symlink() for path in pulled.path.iterdir())
    taut.pull(repo / "snapshots" / "0123abcd", tmp_path / "pulled", overwrite=True)
    history = repo / "snapshots" / "0123abcd" / "history.jsonl"
    _link(history, home / "people.csv")
    with pytest.raises(StorageError, match="a link that leads out of it"):
        taut.pull(repo, tmp_path / "x")
    for revision in ("../../..", "..", "", "a/b"):
        (repo / "refs" / "main").write_text(revision)
        with pytest.raises(StorageError, match="names no revision"):
            taut.pull(repo, tmp_path / "x")


class Hub:
    """A hub of one folder, which knows what it was asked for."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.asked = cache, []
        self.files: dict[str, bytes] = {}

    def HfApi(self, library_name: str) -> SimpleNamespace:
        return SimpleNamespace(create_repo=self.create_repo, upload_folder=self.upload_folder)

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        self.asked.append((repo_id, private, exist_ok))

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], commit_message: str
    ) -> None:
        self.files = {p.name: p.read_bytes() for p in folder_path.iterdir()}
        assert set(self.files) <= set(allow_patterns)

    def snapshot_download(
        self, repo_id: str, *, revision: str | None, allow_patterns: list[str], library_name: str
    ) -> str:
        if repo_id != "ann/wine":
            raise type("RepositoryNotFoundError", (OSError,), {})("404 Client Error.\n\nLong.")
        self.asked.append((repo_id, revision, sorted(allow_patterns)))
        folder = self.cache / "given"
        folder.mkdir()
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return in_the_cache(folder, self.cache) / "snapshots" / "0123abcd"


def test_the_hub_is_given_what_a_folder_is_and_gives_it_back(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Hub(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    pushed = call("push", home / "run", "hf:ann/wine")
    assert pushed.stdout.strip() == "https://huggingface.co/ann/wine"
    assert fake.asked == [("ann/wine", True, True)]  # private, unless it is said
    assert set(fake.files) == PUSHED - {"samples.png"}
    assert b"taut pull hf:ann/wine pulled" in fake.files[CARD]
    assert call("push", home / "run", "hf:ann/wine", "--public").exit_code == 0
    assert fake.asked[-1] == ("ann/wine", False, True)
    pulled = call("pull", "https://huggingface.co/ann/wine@v2", tmp_path / "pulled")
    assert pulled.exit_code == 0
    assert fake.asked[-1] == ("ann/wine", "v2", sorted(PUSHED))
    assert taut.load(tmp_path / "pulled").evaluation() == taut.load(home / "run").evaluation()
    said = line("pull", "hf:bob/wine", tmp_path / "x", code=5)
    assert said == (
        "hf:bob/wine: there is no such repository, or you may not read it: hf auth login"
    )


def test_what_cannot_be_written_is_named_and_not_what_is_read(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, content: bytes) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(storage, "_write", fail)
    with pytest.raises(StorageError, match=r"cannot write .*pulled.\w+\.json: File too large"):
        taut.pull(home / "pushed", tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()


def test_the_hub_needs_its_library_and_a_folder_does_not(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    words = "the hub needs huggingface_hub: pip install 'taut[hub]'"
    assert line("push", home / "run", "hf:ann/wine") == words
    assert line("pull", "hf:ann/wine", tmp_path / "x") == words
    assert call("push", home / "run", tmp_path / "out").exit_code == 0


def test_names_of_the_hub() -> None:
    assert place_of("ann/wine") is None
    for wrong in ("hf:", "hf:ann", "hf:a/b/c", "hf:../b", "hf:a/..", "hf:a/b@", "hf:a/b@../c"):
        with pytest.raises(UsageError, match="write it like"):
            place_of(wrong)
    assert hub.file_name("C:\\data\\a.csv") == "a.csv"
    assert hub.file_name("x/\udcff.csv").isascii()  # a name that is not UTF-8
