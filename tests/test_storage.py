"""Files of a run: there whole or not at all, and never believed unless their checksum agrees."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from taut.system import storage
from taut.system.errors import StorageError, TautWarning
from taut.training import checkpoint
from taut.training.loop import State


class Killed(BaseException):
    """What stands for SIGKILL here: nothing of taut's may catch it and tidy up."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def one_line(error: pytest.ExceptionInfo[StorageError], *words: str) -> str:
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


# ------------------------------------------------------------------------------------- single files


def test_a_write_replaces_the_content_and_leaves_nothing_else(tmp_path: Path):
    path = tmp_path / "a.json"
    storage.write_bytes(path, b"first, and longer")
    storage.write_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    assert names(tmp_path) == ["a.json"]


def test_the_longest_name_that_a_file_can_have(tmp_path: Path):
    path = tmp_path / ("a" * 251 + ".csv")
    storage.write_bytes(path, b"x")
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize("there", [True, False])
def test_a_refused_write_leaves_the_file_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, there: bool
):
    path = tmp_path / "a.json"
    if there:
        path.write_bytes(b"before")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    owner, name = {"write": (os, "open"), "fsync": (os, "fsync"), "replace": (Path, "replace")}[
        step
    ]
    with monkeypatch.context() as patch:
        patch.setattr(storage.time, "sleep", lambda seconds: None)
        patch.setattr(owner, name, full)
        with pytest.raises(StorageError) as caught:
            storage.write_bytes(path, b"after")
    message = one_line(caught, f"cannot write {path}: No space left on device")
    assert ("the file there before is unchanged" in message) == there
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([b"before"] if there else [])


def test_json_has_no_nan(tmp_path: Path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        storage.write_json(tmp_path / "a.json", {"x": math.nan})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe{}", b"[1]", b"null", b'"a"', b"[" * 100_000, b"{} {}"]
)
def test_no_json_object(tmp_path: Path, content: bytes):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(StorageError) as caught:
        storage.read_json(tmp_path / "a.json")
    one_line(caught, "a.json is damaged: it ")


def test_tensors_come_back_to_the_bit(tmp_path: Path):
    base = torch.randn(4, 6)
    tied = torch.randn(3)
    tensors = {
        "strided": base.t()[1:3],
        "scalar": torch.tensor(0.1, dtype=torch.float64),
        "empty": torch.empty(0, 3),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "nan": torch.tensor([math.nan, -0.0, math.inf]),
        "tied": tied,
        "twin": tied,
        "expanded": torch.ones(1).expand(7),
    }
    storage.write_tensors(tmp_path / "t.safetensors", tensors)
    storage.write_manifest(tmp_path)
    found = storage.read_tensors(tmp_path / "t.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].numpy().tobytes() == tensor.contiguous().numpy().tobytes()


def test_the_manifest_names_each_file_but_itself_and_hidden_ones(tmp_path: Path):
    for name, content in (
        ("a", b"1"),
        ("b.json", b"2"),
        (".taut-5c1e", b"half"),
        ("manifest.json", b"old"),
    ):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    storage.write_manifest(tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_bytes()) == {
        "a": hashlib.sha256(b"1").hexdigest(),
        "b.json": hashlib.sha256(b"2").hexdigest(),
    }


def test_every_flipped_bit_and_every_truncation_is_seen(tmp_path: Path):
    path = tmp_path / "t.safetensors"
    storage.write_tensors(path, {"x": torch.arange(6.0)})
    storage.write_manifest(tmp_path)
    content = path.read_bytes()
    damaged = [content[:n] for n in range(len(content))] + [content + b"\0"]
    damaged += [
        content[:n] + bytes([content[n] ^ 1 << n % 8]) + content[n + 1 :]
        for n in range(len(content))
    ]
    for wrong in damaged:
        path.write_bytes(wrong)
        with pytest.raises(StorageError) as caught:
            storage.read_tensors(path)
        one_line(caught, f"{path} is damaged", "SHA-256", "manifest.json")


def test_no_safetensors_although_the_checksum_agrees(tmp_path: Path):
    (tmp_path / "t.safetensors").write_bytes(pickle.dumps({"x": 1}))
    storage.write_manifest(tmp_path)
    with pytest.raises(StorageError) as caught:
        storage.read_tensors(tmp_path / "t.safetensors")
    one_line(caught, "t.safetensors is not a safetensors file")


def test_a_file_that_the_manifest_does_not_know(tmp_path: Path):
    storage.write_manifest(tmp_path)
    (tmp_path / "a").write_bytes(b"smuggled in")
    with pytest.raises(StorageError) as caught:
        storage.read_checked(tmp_path / "a")
    one_line(caught, "a is damaged")
    with pytest.raises(StorageError) as caught:
        storage.read_checked(tmp_path / "nothing")
    one_line(caught, "cannot read", "nothing", "No such file")


def test_hostile_names_are_shown_escaped(tmp_path: Path):
    folder = tmp_path / "a\x1b[31m\nb"
    with pytest.raises(StorageError) as caught:
        storage.read_json(folder / "run.json")
    assert "\x1b" not in one_line(caught, r"\x1b[31m\nb")
    with pytest.raises(StorageError) as caught:
        storage.write_bytes(folder / "run.json", b"")
    assert "\x1b" not in one_line(caught, r"\x1b[31m\nb")


# -------------------------------------------------------------------------------------- checkpoints


def state(step: int) -> State:
    tensors = {"model.w": torch.full((3,), float(step)), "best.w": torch.full((3,), -float(step))}
    return State(1000, step, 0.5, 3, 1, step // 2, -1.25 * step, step == 300, tensors)


def assert_same(found: State, expected: State) -> None:
    assert {k: v.tolist() for k, v in found.tensors.items()} == {
        k: v.tolist() for k, v in expected.tensors.items()
    }
    assert vars(found) | {"tensors": 0} == vars(expected) | {"tensors": 0}


def test_a_checkpoint_comes_back_and_the_last_two_are_kept(tmp_path: Path):
    folder = tmp_path / "checkpoints"
    for step in (100, 200, 300):
        checkpoint.save(folder, state(step))
    assert names(folder) == ["step-000000200", "step-000000300"]
    assert_same(checkpoint.load(checkpoint.latest(folder)), state(300))
    assert_same(checkpoint.load(folder / "step-000000200"), state(200))
    for name in names(folder):
        manifest = json.loads((folder / name / "manifest.json").read_bytes())
        assert manifest == {
            file: hashlib.sha256((folder / name / file).read_bytes()).hexdigest()
            for file in ("state.json", "state.safetensors")
        }


def test_before_the_first_best_the_target_is_minus_infinity(tmp_path: Path):
    first = State(10, tensors={"model.w": torch.zeros(1)})
    checkpoint.save(tmp_path, first)
    assert_same(checkpoint.load(checkpoint.latest(tmp_path)), first)


def calls_of(
    function: Callable[[], object], monkeypatch: pytest.MonkeyPatch, kill_at: int, after: bool
) -> int:
    """Runs a function and dies before or after the n-th change it makes to the disk.

    Returns how many it made.
    """
    count = 0

    def patched(original: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            now = count == kill_at
            if now and not after:
                raise Killed
            try:
                return original(*args, **kwargs)
            finally:
                if now:
                    raise Killed

        return call

    with monkeypatch.context() as patch:
        for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir"):
            patch.setattr(os, name, patched(getattr(os, name)))
        function()
    return count


@pytest.mark.parametrize("again", [False, True], ids=["new step", "same step"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool, after: bool
):
    old, new = (state(200), state(200)) if again else (state(200), state(300))
    new.tensors = new.tensors | {"more": torch.ones(2)}

    def fresh(name: str) -> Path:
        folder = tmp_path / name
        for step in (100, 200):
            checkpoint.save(folder, state(step))
        return folder

    total = calls_of(lambda: checkpoint.save(fresh("whole"), new), monkeypatch, 0, after)
    start = calls_of(lambda: fresh("count"), monkeypatch, 0, after)
    assert total - start > 12
    for kill_at in range(1, total - start + 1):
        folder = fresh(f"{kill_at}")
        with pytest.raises(Killed):
            calls_of(
                lambda folder=folder: checkpoint.save(folder, new), monkeypatch, kill_at, after
            )
        for path in folder.glob("step-*"):
            if path.name > "step-000000100" or not again:
                checkpoint.load(path)  # whatever carries the name of a checkpoint is a whole one
        found = checkpoint.load(checkpoint.latest(folder))
        if again and found.step == 100:  # between the two renames of a step that is written again
            assert_same(found, state(100))
        else:
            assert_same(found, new if "more" in found.tensors or found.step == 300 else old)
        checkpoint.save(folder, state(400))  # what the kill left behind is cleared away
        assert all(not name.startswith(".") for name in names(folder))
        assert_same(checkpoint.load(checkpoint.latest(folder)), state(400))
        shutil.rmtree(folder)


def test_a_folder_that_cannot_be_copied_is_one_line(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    target.mkdir()
    (source / "x").write_text("1")
    (source / ".hidden").write_text("2")
    storage.copy_folder(source, target, (".*",))
    assert [path.name for path in target.iterdir()] == ["x"]
    (source / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageError, match=r"^cannot write \S*gone: .*No such file[^\[\]()]*$"):
        storage.copy_folder(source, target)


def test_a_full_disk_keeps_the_checkpoint_before_and_gives_the_space_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    checkpoint.save(tmp_path, state(100))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage.time, "sleep", lambda seconds: None)
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError) as caught:
            checkpoint.save(tmp_path, state(200))
    one_line(caught, "cannot write", "No space left on device")
    assert names(tmp_path) == ["step-000000100"]
    assert_same(checkpoint.load(checkpoint.latest(tmp_path)), state(100))


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError) as caught:
        checkpoint.save(tmp_path / "file", state(1))
    one_line(caught, "cannot write a checkpoint in", "File exists")


@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "empty"])
@pytest.mark.parametrize("older", [True, False])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, file: str, damage: str, older: bool
):
    for step in (100, 200) if older else (200,):
        checkpoint.save(tmp_path, state(step))
    path = tmp_path / "step-000000200" / file
    content = path.read_bytes()
    if damage == "flip":
        path.write_bytes(content[:-20] + bytes([content[-20] ^ 4]) + content[-19:])
    elif damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "truncate" else b"")
    if not older:
        with pytest.raises(StorageError) as caught:
            checkpoint.load_last(tmp_path)
        one_line(caught, str(path.parent))
        return
    with pytest.warns(
        TautWarning, match=f"{re.escape(str(path.parent))}.*; resuming from step-000000100$"
    ):
        found = checkpoint.load_last(tmp_path)
    assert found[0].name == "step-000000100"
    assert_same(found[1], state(100))


def test_what_is_no_checkpoint_is_left_alone(tmp_path: Path):
    folder = tmp_path / "checkpoints"
    checkpoint.save(folder, state(100))
    (folder / "step-notes.txt").write_bytes(b"mine")
    shutil.copytree(folder / "step-000000100", folder / "step-000000200 (copy)")
    (folder / "step-000000300").symlink_to(tmp_path, target_is_directory=True)
    assert checkpoint.load_last(folder)[0].name == "step-000000100"
    checkpoint.save(folder, state(1_000_000_000))  # ten digits come after nine
    checkpoint.save(folder, state(999_999_999))
    assert checkpoint.latest(folder).name == "step-1000000000"
    assert (folder / "step-notes.txt").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "wrong",
    [
        {"step": "7"},
        {"step": -1},
        {"step": 1001},
        {"lr_scale": None},
        {"done": 1},
        {"best_target": []},
        {"more": 1},
    ],
)
def test_a_state_of_another_type(tmp_path: Path, wrong: dict[str, Any]):
    checkpoint.save(tmp_path, state(100))
    file = tmp_path / "step-000000100" / "state.json"
    storage.write_json(file, json.loads(file.read_bytes()) | wrong)
    storage.write_manifest(file.parent)
    with pytest.raises(StorageError) as caught:
        checkpoint.load_last(tmp_path)
    one_line(caught, "state.json is damaged")


def test_no_checkpoint(tmp_path: Path):
    with pytest.raises(StorageError) as caught:
        checkpoint.latest(tmp_path / "checkpoints")
    one_line(caught, "no checkpoint in", "`taut fit` again")
