"""The run folder: what a training leaves behind, and how it is read again.

``run.json`` (resolved configuration, schema, versions, fingerprint of the data), ``history.jsonl``
(a line an interval), ``checkpoints/``, ``model.safetensors``, ``evaluation.json``, for images
``samples.png`` and ``reconstructions.png``, and ``manifest.json`` (SHA-256 of each file), which is
written last: a run that has one is finished. ``taut audit`` adds ``audit.json``, ``taut gradients``
``gradients.json``, and both ``report.html``. Nothing in it is pickled.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taut.build.checks import unsupported
from taut.build.config import Config, DataConfig, ModelConfig
from taut.build.model import build, build_objective, usual_objective
from taut.build.spec import parse
from taut.data import Column, Dataset, New, Options, Rows, Schema, check_against, prepare
from taut.data.tables.infer import encode as encode_columns
from taut.data.tables.oddities import MANY
from taut.data.tables.words import nearest_to
from taut.distributions.counts import LARGEST_COUNT
from taut.model import VAE
from taut.objectives import Objective
from taut.system import locks, parallel, records, storage
from taut.system.errors import DataError, StorageError, UsageError, shown
from taut.system.seeds import untouched
from taut.use.tasks import context_of, encode, sample

__all__ = [
    "FILES",
    "FORMAT",
    "Run",
    "Source",
    "abandon",
    "check_fit",
    "check_target",
    "data_of",
    "find_device",
    "held_out",
    "load",
    "make_folder",
    "new_data",
    "read_data",
    "rebuild",
    "run_folder",
    "sample_run",
    "stem",
    "version",
]

FORMAT = 1
FILES = {
    "run.json",
    "history.jsonl",
    "checkpoints",
    "model.safetensors",
    "evaluation.json",
    "samples.png",
    "reconstructions.png",
    "audit.json",
    "gradients.json",
    "report.html",
    storage.MANIFEST,
}
Source = str | Path | np.ndarray | Tensor | Any  # a data frame, a sparse matrix, an AnnData


@dataclass(eq=False)
class Run:
    """A run folder and the model in it."""

    path: Path
    config: Config
    schema: Schema
    model: VAE
    objective: Objective
    info: dict[str, Any]  # run.json

    def history(self) -> list[dict[str, Any]]:
        """Returns the lines of the history, one for each interval of the training."""
        return storage.read_lines(self.path / "history.jsonl", records.HISTORY)

    def evaluation(self) -> dict[str, Any]:
        """Returns the numbers of the final measurement."""
        path = self.path / "evaluation.json"
        return records.checked(storage.read_checked_json(path), records.EVALUATION, path)


def load(path: str | Path, *, trust: Sequence[str] = ()) -> Run:
    """Returns a finished run, its model in evaluation mode.

    Args:
        path: The run folder.
        trust: Outside modules that the run may import for the parts it names.

    Fails:
        StorageError: a file is missing or damaged, or the folder is no finished run.
        UsageError: the run names an outside module that is not trusted.
    """
    path = run_folder(path)
    if not (path / storage.MANIFEST).exists():
        raise StorageError(f"{shown(path)} is not finished: run `taut resume {shown(path)}` first")
    storage.read_checked(path / "run.json")
    weights = path / "model.safetensors"
    # before anything is built or read that a hostile size could make endless
    shapes = storage.read_shapes(weights)
    run = rebuild(path, trust, shapes)
    check_fit(run.model, shapes, weights)
    tensors = storage.read_tensors(weights)
    run.model.load_state_dict(tensors)
    run.model.eval()
    return run


def data_of(run: Run, source: Source | None = None, test: Source | None = None) -> Dataset:
    """Returns the data that a run was trained on, read again.

    Args:
        run: The run.
        source: Where they are now, if not where they were.
        test: The official test set, likewise.

    Fails:
        DataError: they are not the same data any more (by their fingerprint).
        UsageError: they were an array in memory.
    """
    training = dataclasses.replace(run.config.training, seed=_data_seed(run))
    config = dataclasses.replace(run.config, training=training)
    if source is None:
        source = run.info["source"]
        # it is in the source
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, key=None))
    if test is None:
        test = run.info["test"] or None
    where = shown(run.path)
    if isinstance(source, str) and not source:
        raise UsageError(
            f"{where} was trained on an array in memory (fingerprint {run.info['fingerprint']}): "
            f"give the data, from Python or "
            "as a file"
        )
    if test is None and "+" in run.info["fingerprint"]:
        raise UsageError(
            f"{where} was trained with a test set that was an array in memory: give it again, from "
            f"Python"
        )
    data = read_data(
        source, config, test, schema=run.schema if run.schema.kind == "table" else None
    )
    if data.fingerprint != run.info["fingerprint"]:
        raise DataError(
            f"{shown(data.name) or 'the data'}: these are not the data of {where} (fingerprint "
            f"{data.fingerprint}, "
            f"not {run.info['fingerprint']}); give back the original file or start a new run"
        )
    return data


def held_out(run: Run, data: Dataset) -> Rows:
    """Returns the data that a run held out: its test data, else its validation data."""
    if not len(data.test) + len(data.validation):
        raise UsageError(f"{shown(run.path)} held no data out: give DATA")
    return data.test if len(data.test) else data.validation


def new_data(run: Run, source: Source, key: str | None = None) -> New:
    """Returns data that the model of a run has not seen, checked against its schema and its
    likelihood's support.
    """
    # of the file itself
    options = dataclasses.replace(_options(run.config.data), delimiter=None, stream=None)
    new = check_against(
        source,
        run.schema,
        key=key,
        options=options,
        binarize=run.config.data.binarize,
        seed=_data_seed(run),
    )
    latent = encode(run.model, new.rows[:1]).to(torch.get_default_dtype())
    found = unsupported(run.model, new.rows, latent, run.schema, new=True)
    if found is None:
        return new
    problem, places = found
    name = shown(str(source)) if isinstance(source, str | Path) else "the data"
    odd = tuple(places[:, 0].unique().tolist())
    if (
        not isinstance(new.rows, Tensor)
        or new.rows.dim() > 2
        or len(odd) > max(MANY, len(new.rows)) / 2
    ):
        raise DataError(f"{name}: {problem}: the model gives them no probability")
    rows = new.rows.to(torch.get_default_dtype()).clone()
    rows[places[:, 0], places[:, 1]] = torch.nan
    line = (
        f"{name}: {problem}: log p(x) of {len(odd)} rows is minus infinity, and elsewhere these "
        f"values are read as missing"
    )
    return New(rows, (*new.notes, line), new.table, odd)


def sample_run(
    run: Run,
    num_samples: int,
    *,
    given: Mapping[str, str] | None = None,
    mean: bool = False,
    seed: int = 0,
) -> Tensor:
    r"""Returns draws of x of a run, (N, \*event); of a table the columns that are given are in
    them.

    Args:
        run: The run.
        num_samples: N.
        given: Values of what the model is conditioned on, by column, or ``total`` for counts.
        mean: Whether to return the mean of p(x|z) in place of a draw.
        seed: The same seed gives the same samples.

    Fails:
        UsageError: a column is not given that must be, a value is none of its column, or it lies so
            far outside of the training data that counts pass what floats can count.
    """
    schema, given = run.schema, dict(given or {})
    wanted = list(schema.condition) or (["total"] if run.model.condition is not None else [])
    if set(given) != set(wanted):
        names = ", ".join(shown(name) for name in wanted) or "nothing"
        raise UsageError(
            f"this model is conditioned on {names}: give exactly that, --given COLUMN=VALUE each"
        )
    if not wanted:
        return sample(run.model, num_samples, mean=mean, seed=seed)
    codes = torch.from_numpy(_given_codes(schema, given)).to(torch.get_default_dtype())
    rows = sample(
        run.model, num_samples, mean=mean, context=context_of(run.model, codes), seed=seed
    )
    counts = (
        [c.kind == "count" for c in (schema.modelled[i] for i in schema.rest)]
        if schema.condition
        else ...
    )
    if not bool((rows[:, counts] < LARGEST_COUNT).all()):
        said = ", ".join(f"{shown(name)}={shown(value)}" for name, value in given.items())
        raise UsageError(
            f"--given {said}: counts pass 2^53 there, more than floats can count; give values like "
            f"those of training"
        )
    if not schema.condition:
        return rows
    full = torch.empty(num_samples, len(schema.modelled))
    full[:, schema.rest], full[:, schema.given] = rows, codes
    return full


def _given_codes(schema: Schema, given: Mapping[str, str]) -> np.ndarray:
    """Returns the codes of given values, (1, number of them)."""
    if not schema.condition:
        try:
            total = float(given["total"])
        except ValueError:
            total = math.nan
        if not 0 <= total < math.inf:
            raise UsageError(
                f"--given total={shown(given['total'])}: a number of at least 0 is needed"
            )
        return np.array([[total]])
    columns = [schema.modelled[i] for i in schema.given]
    values, problems, _ = encode_columns(
        _one_row(given, columns), columns, "--given", missing_values=schema.missing_values
    )
    problems += [
        _no_level(given[c.name], c)
        for c, x in zip(columns, values[0], strict=True)
        if c.levels and np.isnan(x)
    ]
    if problems or np.isnan(values).any():
        raise UsageError(
            "; ".join(problems)
            or "--given: a value of what is given is missing; write COLUMN=VALUE"
        )
    return values


def _no_level(value: str, column: Column) -> str:
    near = nearest_to(value, column.levels) or "; give one of them"
    return (
        f"--given {shown(column.name)}={shown(value)}: none of the column's "
        f"{column.describe()[1]}{near}"
    )


def _one_row(given: Mapping[str, str], columns: Sequence[Column]) -> Any:
    import pyarrow as pa

    return pa.table({c.name: [given[c.name]] for c in columns})


def _options(config: DataConfig) -> Options:
    return Options(**{f.name: getattr(config, f.name) for f in dataclasses.fields(Options)})


def _data_seed(run: Run) -> int:
    """Returns the seed that the bits of the data were drawn with.

    A tightened run keeps that of the run it came from.
    """
    return int(run.info.get("data_seed", run.config.training.seed))


def read_data(
    source: Source, config: Config, test: Source | None = None, schema: Schema | None = None
) -> Dataset:
    """Returns the data of a source as a configuration says they are to be read; the same for every
    command.

    Args:
        source: The data.
        config: Its section data says how.
        test: An official test set, in place of that of the configuration.
        schema: Of a table, as it was understood before.
    """
    own = dataclasses.asdict(config.data)
    official, file = own.pop("test"), own.pop("schema")
    options = Options(**{f.name: own.pop(f.name) for f in dataclasses.fields(Options)})
    official = official if test is None else test
    return prepare(
        source,
        options=options,
        schema=schema or file,
        test=official,
        seed=config.training.seed,
        **own,
    )


def find_device(name: str) -> torch.device:
    """Returns the device of a name; auto is the first accelerator there is, else the processor.

    Fails:
        UsageError: there is no such device; those there are are named.
    """
    if name == "auto":
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    try:
        device = torch.device(name)
        float(torch.zeros((), device=device))  # read back: meta has no numbers
    except (RuntimeError, AssertionError, NotImplementedError):
        there = torch.accelerator.current_accelerator()
        raise UsageError(
            f"no device {name!r} here; there is cpu{f' and {there}' if there else ''}"
        ) from None
    return device


def run_folder(path: str | Path) -> Path:
    path = Path(path)
    if path.is_file():
        pickled = path.suffix in (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin")
        why = (
            "is never unpickled, since that runs whatever code is in it" if pickled else "is a file"
        )
        raise UsageError(
            f"{shown(path)} {why}: give the folder that `taut fit` made (with run.json and "
            f"model.safetensors)"
        )
    if not (path / "run.json").is_file():
        raise UsageError(f"{shown(path)} is no run folder: there is no run.json in it")
    return path


def make_folder(out: str | Path | None, name: str, overwrite: bool) -> Path:
    """Makes the folder of a new run and returns it: a given one, or the next free one below runs/.

    Fails:
        UsageError: it cannot be made, or exists and is not to be replaced.
    """
    if out is None:
        return _next_folder(name)
    path = Path(out)
    where = shown(path)
    try:
        if path.exists() and not overwrite and not _nothing_trained(path):
            raise UsageError(f"{where} exists: choose another --out, or --overwrite to replace it")
        if path.is_dir() and (inside := {p.name for p in path.iterdir() if not _passing(p.name)}):
            if "run.json" not in inside and not inside <= FILES:
                raise UsageError(
                    f"{where} is not a run folder, so it is not replaced: choose another --out"
                )
            if foreign := sorted(n for n in inside - FILES if not n.startswith(".")):
                raise UsageError(
                    f"{where} holds {shown(foreign[0])}, which is not of the run: move it, or "
                    f"choose another --out"
                )
        path.mkdir(parents=True, exist_ok=True)
        locks.acquire(path)
        _empty(path)
    except OSError as error:
        raise UsageError(
            f"cannot make the folder {where}: {error.strerror or error}; choose another --out"
        ) from None
    return path


def abandon(path: Path) -> None:
    """Removes a folder in which nothing was trained, so that the next try finds its name free."""
    with suppress(OSError):
        if _nothing_trained(path):
            _empty(path)
            locks.release(path)
            path.rmdir()
    locks.release(path)


def _nothing_trained(path: Path) -> bool:
    """Returns whether a folder is empty, or what a training that was stopped before its first
    checkpoint left behind.
    """
    if path.is_symlink() or not path.is_dir():
        return False
    inside = {p.name for p in path.iterdir() if not _passing(p.name)}
    kept = {
        "model.safetensors",
        "evaluation.json",
        "audit.json",
        "gradients.json",
        storage.MANIFEST,
    }
    return inside <= FILES - kept and not any((path / "checkpoints").glob("[!.]*"))


def _passing(name: str) -> bool:
    return name == locks.LOCK or name.startswith(storage.TEMPORARY)


def _empty(path: Path) -> None:
    """Removes all that is in a folder but its lock."""
    for each in path.iterdir():
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        elif each.name != locks.LOCK:
            each.unlink()


def _next_folder(name: str) -> Path:
    """Makes the next free folder below runs/; two trainings that start at once get two."""
    start, number = stem(name), 1
    while True:
        path = Path("runs") / f"{start}-{number}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise UsageError(
                f"cannot make the folder {path}: {error.strerror or error}; choose another with "
                f"--out"
            ) from None
        else:
            locks.acquire(path)
            return path


def stem(name: str) -> str:
    """Returns what the folders of runs on some data are called, less their number."""
    return (
        re.sub(r"[^\w.-]+", "_", Path(name.removeprefix("openml:")).name).partition(".")[0]
        or "array"
    )


def rebuild(
    path: Path, trust: Sequence[str], shapes: Mapping[str, tuple[int, ...]] | None = None
) -> Run:
    """Returns a run as its ``run.json`` describes it, with first weights.

    Args:
        path: The folder.
        trust: Outside modules that the run may import.
        shapes: Of the tensors that were saved: a model that is larger by far is not built.

    Fails:
        StorageError: ``run.json`` is damaged.
        UsageError: it names an outside module that is not trusted.
    """
    file = path / "run.json"
    info = storage.read_json(file)
    if info.get("format") != FORMAT:
        made = f"made by taut {shown(info.get('taut', 'of an unknown version'))}"
        raise StorageError(
            f"{shown(path)} has format {info.get('format')!r}, {made}; this taut ({version()}) "
            f"reads format {FORMAT}"
        )
    # of a finished run the manifest knows it
    if not (path / storage.MANIFEST).exists() and not storage.unbroken(info):
        raise StorageError(
            f"{shown(file)} is damaged: its SHA-256 is not the one in it; restore it from a copy"
        )
    records.checked(info, records.RUN, file)
    with suppress(KeyError, TypeError, AttributeError):  # said below
        # as every run was split before this could be said
        info["config"]["data"].setdefault("split", "copies")
    with _damaged(file):
        config, schema = Config.from_dict(info["config"]), Schema.from_dict(info["schema"])
    specs = [
        config.training.objective or usual_objective(schema),
        *(str(v) for v in dataclasses.asdict(config.model).values() if isinstance(v, str)),
    ]
    with _damaged(file):
        modules = set().union(*(parse(s).modules() for s in specs))
    outside = modules - set(trust)
    if outside:
        module = sorted(outside)[0]
        raise UsageError(
            f"{shown(path)} names a part of the outside module {module!r}, whose code would run: "
            f"if you trust it, --trust {module}"
        )
    with untouched(), _damaged(file):  # the first weights are drawn, to be replaced
        if shapes is not None and not modules:
            _check_size(config.model, schema, shapes, file)
        model = build(config.model, schema)
    if "tightened" in info:  # a training that goes on must leave them alone
        model.prior.requires_grad_(False)
        model.likelihood.requires_grad_(False)
    return Run(
        path,
        config,
        schema,
        model,
        build_objective(config.training.objective or usual_objective(schema)),
        info,
    )


@contextmanager
def _damaged(file: Path) -> Iterator[None]:
    """Turns whatever is wrong with a description of a run into one line about its file."""
    try:
        yield
    except StorageError:
        raise
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
        UsageError,
    ) as error:
        reason = "; ".join(str(error).splitlines()) or type(error).__name__
        raise StorageError(f"{shown(file)} is damaged: {shown(reason)}") from None


def _check_size(
    config: ModelConfig, schema: Schema, shapes: Mapping[str, tuple[int, ...]], file: Path
) -> None:
    """Refuses a model that has far more weights than were saved, by building it without memory
    until that is certain.
    """
    most, size = 2 * len(shapes), 2 * sum(math.prod(shape) for shape in shapes.values())
    count = numel = 0

    def registered(
        module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None
    ) -> None:
        nonlocal count, numel
        count, numel = count + 1, numel + (0 if parameter is None else parameter.numel())
        if count > most or numel > size:
            raise StorageError(
                f"{shown(file)} is damaged: its model has more weights than were saved"
            )

    hook = torch.nn.modules.module.register_module_parameter_registration_hook(registered)
    try:
        # a part may need the numbers in a tensor
        with (
            suppress(RuntimeError, NotImplementedError),
            torch.device("meta"),
        ):
            build(config, schema)
    finally:
        hook.remove()


def check_fit(model: VAE, shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Refuses weights that are not those of the model, by their shapes."""
    wanted, given = {k: tuple(v.shape) for k, v in model.state_dict().items()}, dict(shapes)
    if wanted != given:
        name = sorted(k for k in wanted.keys() | given.keys() if wanted.get(k) != given.get(k))[0]
        raise StorageError(
            f"{shown(path)} does not fit the model in run.json: {shown(name)} is "
            f"{given.get(name, 'missing')}, "
            f"not {wanted.get(name, 'there')}"
        )


def version() -> str:
    """Returns the version of this taut."""
    return importlib.metadata.version("taut")


def check_target(out: Path, formats: Sequence[str], overwrite: bool) -> Path:
    """Returns the file to write after checking, before anything is computed, that its format is
    known and its place free.

    Fails:
        UsageError: another ending, a file that exists, a folder that does not, a run folder that is
            in use.
    """
    where = shown(out)
    if out.suffix not in formats:
        raise UsageError(f"cannot write {where}: name it {', or '.join(formats)}")
    if out.exists() and not out.is_file():
        raise UsageError(f"{where} is not a file: choose another --out")
    if out.exists() and not overwrite:
        raise UsageError(f"{where} exists: choose another --out, or --overwrite to replace it")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {shown(out.parent)} to write {shown(out.name)} into")
    if out.is_symlink():
        raise UsageError(f"{where} is a link, and links are not followed: give the file itself")
    if (out.parent / "run.json").exists():
        if out.name in FILES:
            raise UsageError(f"{where} is a file of the run itself: choose another --out")
        parallel.on_main(lambda: locks.acquire(out.parent))  # another process may be writing there
    return out
