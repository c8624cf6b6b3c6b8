"""Handing a run on: the folder that ``taut push`` makes of it, and ``taut pull`` back again.

The layout is that of a model on the Hugging Face hub, flat: ``README.md`` (the card), the weights
as safetensors, JSON, and ``manifest.json`` with the SHA-256 of each. What leaves is what is needed
to load, score and sample, and no row of the data: checkpoints, the audit, its report and pictures
of held-out rows stay, and so do the folders that lead to the data and what the machine was.

What comes in is read by name from a fixed list, without following a link out of where it came from,
checked, and loaded once before the folder is there; nothing in it is run or unpickled.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from taut.priors import VampPrior
from taut.runs.card import file_name, write_card
from taut.runs.folder import Stored, load, run_folder
from taut.runs.making import sample_rows
from taut.runs.place import free_folder
from taut.runs.run import Run, able
from taut.system import locks, storage
from taut.system.errors import StorageError, TautError, UsageError, shown
from taut.use import pictures

__all__ = ["Place", "place_of", "pull", "push"]

CARD, PICTURE = "README.md", "samples.png"
NEEDED = {
    "run.json": "settings, the schema (names, levels and ranges of the columns), versions",
    "model.safetensors": "the weights",
    "evaluation.json": "what was measured after the training",
    "history.jsonl": "the bound in the course of the training",
}
FILES = {**NEEDED, PICTURE: "draws from the model", storage.MANIFEST: "SHA-256 of each file"}
LARGEST = {CARD: 2**22, PICTURE: 2**26}  # bytes; of weights as many as there are
SCHEMES = ("hf:", "https://huggingface.co/")
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")
REVISION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
SAID = {  # what the hub's errors mean
    "RepositoryNotFoundError": "there is no such repository, or you may not read it: hf auth login",
    "GatedRepoError": "you must ask for access to it on its page first",
    "RevisionNotFoundError": "it has no such revision",
    "LocalTokenNotFoundError": "you are not logged in: hf auth login",
    "LocalEntryNotFoundError": "the hub cannot be reached, and no copy is in the cache",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE forbids to reach the hub",
}


class Place(NamedTuple):
    """A repository on the hub.

    Args:
        repo: OWNER/NAME.
        revision: A branch, tag or commit; None is the newest.
    """

    repo: str
    revision: str | None


def place_of(target: str) -> Place | None:
    """Returns the repository that a target names, None where it is a folder.

    Examples:
        >>> place_of("hf:ann/wine@v2"), place_of("runs/wine")
        (Place(repo='ann/wine', revision='v2'), None)

    Raises:
        UsageError: it is meant for the hub and is no name there.
    """
    scheme = next((s for s in SCHEMES if target.startswith(s)), None)
    if scheme is None:
        return None
    repo, at, revision = target.removeprefix(scheme).partition("@")
    parts = repo.split("/")
    good = len(parts) == 2 and all(NAME.fullmatch(p) and ".." not in p for p in parts)
    if not good or (at and (not REVISION.fullmatch(revision) or ".." in revision)):
        raise UsageError(f"{shown(target)}: write it like hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    return Place(repo, revision or None)


def push(
    run: Stored | str | Path,
    target: str | Path,
    *,
    license: str = "",  # noqa: A002 (the word of the model card)
    public: bool = False,
    overwrite: bool = False,
    trust: Sequence[str] = (),
) -> str:
    """Hands a run on with a model card, as a folder or to the Hugging Face hub, and returns where
    it is.

    Args:
        run: The run, or its folder.
        target: A folder to make, or hf:OWNER/NAME.
        license: Of the weights, as the hub spells it ("apache-2.0"); none is claimed if it is
            empty.
        public: Whether a new repository can be read by everybody.
        overwrite: Whether a folder that was pushed before is replaced.
        trust: Outside modules that the run may import.

    Raises:
        UsageError: the folder exists, or huggingface_hub is not installed.
        StorageError: the run is damaged, or the hub refuses.
    """
    place = place_of(str(target))
    if place is not None and place.revision is not None:
        raise UsageError(f"{shown(target)}: a push goes to the newest revision: omit @...")
    if place is None:
        folder = Path(target)
        _apart(run if isinstance(run, str | Path) else run.path, folder)
        free_folder(folder, {CARD, *FILES}, overwrite)
    else:
        _library()  # refused before anything is read
    stored = run if isinstance(run, Stored) else load(run, trust=trust)
    if place is None:
        name = folder.absolute().name  # without the folders that lead to it
        made = _written(stored, folder.absolute().parent, name, name, license)
        storage.commit_folder(made, folder)
        return str(folder)
    return _uploaded(stored, place, license, public)


def pull(
    source: str | Path,
    folder: str | Path,
    *,
    overwrite: bool = False,
    trust: Sequence[str] = (),
) -> Run:
    """Makes a run folder of what ``push`` handed on, and returns the run.

    Args:
        source: hf:OWNER/NAME, hf:OWNER/NAME@REVISION, a folder, or a repository in the cache of
            the hub (models--OWNER--NAME).
        folder: The run folder to make.
        overwrite: Whether a run folder of that name is replaced.
        trust: Outside modules that the run may import.

    Raises:
        UsageError: the source is no run, the folder exists, or the run names a module that is not
            trusted.
        StorageError: a file is missing or damaged, or lies outside of the source.
    """
    folder, place = Path(folder), place_of(str(source))
    free_folder(folder, {CARD, *FILES, locks.LOCK}, overwrite)
    if place is None:
        found, inside = _local(Path(source))
    else:
        found, inside = _local(_downloaded(place, str(source)))
    temporary = storage.temporary_folder(folder.absolute().parent)
    try:
        try:
            _copy(found, inside, temporary, shown(source))
            loaded = load(temporary, trust=trust)
            for name in {*NEEDED, PICTURE} & {path.name for path in temporary.iterdir()}:
                storage.read_checked(temporary / name)
        except TautError as error:
            at: object = source
            if str(error).startswith("cannot write"):
                at = folder
            raise type(error)(str(error).replace(str(temporary), str(at))) from None
        if folder.exists():
            with locks.locked(folder):  # refused where another process writes there
                pass
        storage.commit_folder(temporary, folder)
    finally:
        if temporary.exists():
            storage.remove_folder(temporary)
    return able(dataclasses.replace(loaded, path=folder))


def _apart(run: str | Path, folder: Path) -> None:
    """Refuses to replace the run that is to be pushed."""
    if Path(run).resolve() == folder.resolve():
        raise UsageError(f"{shown(folder)} is the run itself: choose another folder")


# ------------------------------------------------------------------------------------ what leaves


def _written(run: Stored, parent: Path, name: str, source: str, licensed: str) -> Path:
    """Returns a temporary folder that holds what leaves of a run."""
    temporary = storage.temporary_folder(parent)
    try:
        files: dict[str, bytes] = {
            "run.json": storage.as_json(_public(run.info)),
            "model.safetensors": storage.read_checked(run.path / "model.safetensors"),
            "evaluation.json": storage.as_json(run.evaluation()),
            "history.jsonl": storage.read_checked(run.path / "history.jsonl"),
        }
        if run.schema.is_image and run.model.condition is None:
            # drawn here: a picture of the run folder may show held-out images, too
            drawn = sample_rows(run, 40)
            sheet = pictures.grid(drawn, run.schema.low, run.schema.high, 10)
            files[PICTURE] = pictures.to_png([sheet])
        told = {each: FILES[each] for each in (*files, storage.MANIFEST)}
        if isinstance(getattr(run.model, "prior", None), VampPrior):
            told["model.safetensors"] += "; pseudo-inputs that began as rows of the training"
        card = write_card(run, name=name, source=source, files=told, license=licensed)
        for each, content in files.items():
            storage.write_bytes(temporary / each, content)
        storage.write_manifest(temporary)
        # after the manifest: a card is edited by hand
        storage.write_bytes(temporary / CARD, card.encode())
    except BaseException:
        storage.remove_folder(temporary)
        raise
    return temporary


def _public(info: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what ``run.json`` says without folders of this machine, notes on the data and the
    baseline that stays.
    """
    kept = {k: v for k, v in info.items() if k != "exact"}
    data = dict(kept["config"]["data"])
    for name in ("test", "schema"):
        data[name] = None if data.get(name) is None else file_name(data[name])
    kept |= {
        "source": file_name(info["source"]),
        "test": file_name(info["test"]),
        "notes": [],
        "machine": "",
        "config": {**kept["config"], "data": data},
    }
    for word in ("tightened", "refitted", "observed", "rescaled"):
        if word in kept:
            kept[word] = {**kept[word], "from": file_name(kept[word]["from"])}
    return storage.fingerprinted(kept)


def _uploaded(run: Stored, place: Place, licensed: str, public: bool) -> str:
    hub, name = _library(), place.repo.rpartition("/")[2]
    parent = Path(tempfile.gettempdir())
    temporary = _written(run, parent, name, f"hf:{place.repo}", licensed)
    try:
        api = hub.HfApi(library_name="taut")
        api.create_repo(place.repo, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=place.repo,
            folder_path=temporary,
            allow_patterns=[CARD, *FILES],
            commit_message="A run of taut",
        )
    except Exception as error:  # of whatever the hub's library stands on
        raise StorageError(f"hf:{place.repo}: {_told(error)}") from None
    finally:
        storage.remove_folder(temporary)
    return f"https://huggingface.co/{place.repo}"


# --------------------------------------------------------------------------------- what comes in


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise UsageError("the hub needs huggingface_hub: pip install 'taut[hub]'") from None
    return huggingface_hub


def _downloaded(place: Place, source: str) -> Path:
    """Returns the folder in the cache of the hub that holds a repository; only files that a run
    has are fetched.
    """
    hub = _library()
    try:
        found = hub.snapshot_download(
            place.repo,
            revision=place.revision,
            allow_patterns=[CARD, *FILES],
            library_name="taut",
        )
    except Exception as error:  # of whatever the hub's library stands on
        raise StorageError(f"{shown(source)}: {_told(error)}") from None
    return Path(found)


def _told(error: Exception) -> str:
    name = type(error).__name__
    return SAID.get(name) or f"{shown(str(error).strip().partition(chr(10))[0]) or name}"


def _local(path: Path) -> tuple[Path, Path | None]:
    """Returns the folder of a run, and the folder of blobs that links in it may lead to: that of
    the cache of the hub.
    """
    if (path / "refs").is_dir() and (path / "snapshots").is_dir():
        revision = storage.read_file(path / "refs" / "main", 100).decode(errors="replace").strip()
        if not REVISION.fullmatch(revision) or ".." in revision:
            raise StorageError(f"{shown(path)} is damaged: refs/main names no revision")
        path = path / "snapshots" / revision
    found = run_folder(path)
    blobs = found.parent.parent / "blobs"
    return found, blobs if found.parent.name == "snapshots" and blobs.is_dir() else None


def _copy(found: Path, blobs: Path | None, temporary: Path, where: str) -> None:
    """Copies the files of a run, with the sums that its manifest has for them."""
    content = _read(found / storage.MANIFEST, blobs, where)
    storage.write_bytes(temporary / storage.MANIFEST, content)
    manifest = storage.read_manifest(temporary)
    for name in manifest:
        if Path(name).name != name or "\\" in name or name in ("", ".", ".."):
            raise StorageError(f"{where} is refused: its manifest names {shown(name)}, outside it")
    for name in (*NEEDED, PICTURE, CARD):
        there = (found / name).exists() or (found / name).is_symlink()
        if not there and name in NEEDED:
            raise StorageError(f"{where} is not whole: there is no {name} in it")
        if there:
            storage.write_bytes(temporary / name, _read(found / name, blobs, where))
    sums = {name: manifest[name] for name in (*NEEDED, PICTURE) if name in manifest}
    storage.write_json(temporary / storage.MANIFEST, sums)


def _read(path: Path, blobs: Path | None, where: str) -> bytes:
    """Returns the content of a file; a link is followed only into the blobs beside it."""
    most = LARGEST.get(path.name)
    if path.suffix in (".json", ".jsonl"):
        most = storage.MOST_JSON
    if not path.is_symlink():
        return storage.read_file(path, most)
    target = path.resolve()
    if blobs is None or target.parent != blobs.resolve():
        raise StorageError(f"{where} is refused: {shown(path.name)} is a link that leads out of it")
    return storage.read_file(target, most)
