"""The run folder: what a training leaves behind, and how it is read again.

``run.json`` (resolved configuration, schema, versions, fingerprint of the data), ``history.jsonl``
(a line an interval), ``checkpoints/``, ``model.safetensors``, ``evaluation.json``, for images
``samples.png`` and ``reconstructions.png``, and ``manifest.json`` (SHA-256 of each file), which is
written last: a run that has one is finished. ``taut audit`` adds ``audit.json``, of an image or a
table ``map.png`` and ``traversal.png``, ``taut gradients`` ``gradients.json``, and both
``report.html``. Nothing in it is pickled.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from taut.build.config import Config, ModelConfig
from taut.build.model import build, build_objective
from taut.build.spec import parse
from taut.build.usual import exact_of, usual_objective
from taut.data import Dataset, New, Options, Rows, Schema, prepare
from taut.model import VAE, Model, Resizing
from taut.models.exact import ExactModel
from taut.runs.fitted import Fitted, Source, new_data
from taut.runs.formats import (
    FORMAT,
    READ,
    Info,
    migrate,
    migrate_evaluation,
    same_in_1,
    with_empty,
)
from taut.runs.place import FILES, abandon, check_apart, check_target, make_folder, stem
from taut.system import records, storage
from taut.system.errors import DataError, StorageError, UsageError, clause, shown
from taut.system.seeds import accelerator, untouched

__all__ = [
    "FILES",
    "FORMAT",
    "TRAINED_ALONE",
    "Info",
    "Source",
    "Stored",
    "abandon",
    "check_apart",
    "check_fit",
    "check_target",
    "data_of",
    "find_device",
    "freeze_the_rest",
    "held_out",
    "held_out_as_new",
    "load",
    "make_folder",
    "new_data",
    "read_data",
    "rebuild",
    "run_folder",
    "stem",
    "version",
]


# What a run trains alone, by what became of the run it came from: parts and single parameters.
TRAINED_ALONE = {
    "tightened": ("posterior",),
    "refitted": ("prior",),
    "observed": ("posterior", "likelihood.raw_scale"),
    "rescaled": ("likelihood.raw_scale",),
}


@dataclass(eq=False, repr=False, kw_only=True)
class Stored(Fitted):
    """Creates a fitted model with the folder that holds it.

    ``taut.Run`` is one that can also be audited, reported, refitted and looked at.

    Args:
        path: The folder.
        info: What is in its ``run.json``.
        kept: The data of its training, where this session trained it on data in memory.
    """

    path: Path
    info: Info
    kept: Dataset | None = None

    @property
    def data_seed(self) -> int:
        """The seed that the bits of dynamically binarized data are drawn with: a tightened run
        keeps that of the run it came from.
        """
        return int(self.info.get("data_seed", super().data_seed))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the files that it was trained on: they are read again, and never replaced by
        what it makes.
        """
        named = self.info["source"], self.info["test"], self.config.data.schema
        return tuple(name for name in named if name)

    def history(self) -> list[dict[str, Any]]:
        """Returns the lines of the history, one for each interval of the training."""
        return storage.read_lines(self.path / "history.jsonl", records.HISTORY)

    def evaluation(self) -> dict[str, Any]:
        """Returns the numbers of the final measurement."""
        path = self.path / "evaluation.json"
        if self.model.no_density:
            return cast(
                dict[str, Any],
                records.checked(storage.read_checked_json(path), records.SAMPLES, path),
            )
        found = migrate_evaluation(storage.read_checked_json(path))
        return cast(dict[str, Any], records.checked(found, records.EVALUATION, path))

    def data(self) -> Dataset:
        """Returns the data that it was trained on: those of this session, or read again.

        Raises:
            UsageError: they were in memory, and in another session.
            DataError: they have changed.
        """
        if self.kept is not None:
            return self.kept
        return data_of(self)

    def _held_out(self) -> New:
        return held_out_as_new(self, self.data())


def load(path: str | Path, *, trust: Sequence[str] = ()) -> Stored:
    """Returns a finished run, its model in evaluation mode.

    Args:
        path: The run folder.
        trust: Outside modules that the run may import for the parts it names.

    Raises:
        StorageError: a file is missing or damaged, or the folder is not a finished run.
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
    run.model.load_state_dict(with_empty(storage.read_tensors(weights), run.model))
    run.model.eval()
    return run


def data_of(run: Stored, source: Source | None = None, test: Source | None = None) -> Dataset:
    """Returns the data that a run was trained on, read again.

    Args:
        run: The run.
        source: Where they are now, if not where they were.
        test: The official test set, likewise.

    Raises:
        DataError: they are not the same data any more (by their fingerprint).
        UsageError: they were an array in memory.
    """
    training = dataclasses.replace(run.config.training, seed=run.data_seed)
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
    same = data.fingerprint == run.info["fingerprint"]
    if not same and not same_in_1(
        run.info, run.schema, config.data, (source, test), config.data.key
    ):
        raise DataError(
            f"{shown(data.name) or 'the data'}: these are not the data of {where} (fingerprint "
            f"{data.fingerprint}, not {run.info['fingerprint']}); give back the original file or "
            f"start a new run"
        )
    return data


def held_out(run: Stored, data: Dataset) -> Rows:
    """Returns the data that a run held out: its test data, else its validation data."""
    return held_out_as_new(run, data).rows


def held_out_as_new(run: Stored, data: Dataset) -> New:
    """Returns the same with the names of its rows."""
    if not len(data.test) + len(data.validation):
        raise UsageError(f"{shown(run.path)} has no rows that were held out: give DATA")
    if len(data.test):
        return New(data.test, (), names=data.row_names[2], part="test")
    return New(data.validation, (), names=data.row_names[1], part="validation")


def read_data(
    source: Source, config: Config, test: Source | None = None, schema: Schema | None = None
) -> Dataset:
    """Returns the data of a source as a configuration says they are to be read; the same for every
    command.

    Args:
        source: The data.
        config: Its section data says how.
        test: An official test set, instead of that of the configuration.
        schema: Of a table, as it was understood before.
    """
    own = dataclasses.asdict(config.data)
    official, file = own.pop("test"), own.pop("schema")
    for name in (f.name for f in dataclasses.fields(Options)):
        del own[name]
    if test is not None:
        official = test
    return prepare(
        source,
        options=config.data,
        schema=schema or file,
        test=official,
        seed=config.training.seed,
        **own,
    )


def find_device(name: str) -> torch.device:
    """Returns the device of a name; auto is the first accelerator there is, else the processor.

    Raises:
        UsageError: there is no such device; the message names those that there are.
    """
    if name == "auto":
        return accelerator() or torch.device("cpu")
    try:
        device = torch.device(name)
        float(torch.zeros((), device=device))  # read back: meta has no numbers
    except (RuntimeError, AssertionError, NotImplementedError):
        there = accelerator()
        raise UsageError(
            f"no device {name!r} here; there is cpu{clause(' and {}', there)}"
        ) from None
    return device


def run_folder(path: str | Path) -> Path:
    path = Path(path)
    if path.is_file():
        why = "is a file"
        if path.suffix in (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin"):
            why = "is never unpickled, since that runs whatever code is in it"
        raise UsageError(
            f"{shown(path)} {why}: give the folder that `taut fit` made (with run.json and "
            f"model.safetensors)"
        )
    if not (path / "run.json").is_file():
        raise UsageError(f"{shown(path)} is not a run folder: there is no run.json in it")
    return path


def described(path: Path, trust: Sequence[str]) -> tuple[Info, Config, Schema]:
    """Returns what the ``run.json`` of a folder says; nothing is built yet.

    Raises:
        StorageError: it is damaged.
        UsageError: it names an outside module that is not trusted.
    """
    file = path / "run.json"
    found = storage.read_json(file)
    if found.get("format") not in READ:
        made = f"made by taut {shown(found.get('taut', 'of an unknown version'))}"
        raise StorageError(
            f"{shown(path)} has format {found.get('format')!r}, {made}; this taut ({version()}) "
            f"reads formats {' and '.join(map(str, READ))}"
        )
    # of a finished run the manifest knows it
    if not (path / storage.MANIFEST).exists() and not storage.unbroken(found):
        raise StorageError(
            f"{shown(file)} is damaged: its SHA-256 is not the one in it; restore it from a copy"
        )
    records.checked(found, records.RUN, file)
    with _damaged(file):
        info = cast(Info, migrate(found, path))
        config, schema = Config.from_dict(info["config"]), Schema.from_dict(info["schema"])
    with _damaged(file):
        modules = _modules(config, schema)
        if "refitted" in info:
            modules |= parse(info["refitted"]["prior"]).modules()
    outside = modules - set(trust)
    if outside:
        module = sorted(outside)[0]
        raise UsageError(
            f"{shown(path)} names a part of the outside module {module!r}, whose code would run: "
            f"if you trust it, --trust {module}"
        )
    with _damaged(file):
        exact_of(config.model)
    return info, config, schema


def _modules(config: Config, schema: Schema) -> set[str]:
    """Returns the outside modules that a configuration names."""
    specs = [
        config.training.objective or usual_objective(schema),
        *(str(v) for v in dataclasses.asdict(config.model).values() if isinstance(v, str)),
    ]
    return set().union(*(parse(s).modules() for s in specs))


def rebuild(
    path: Path, trust: Sequence[str], shapes: Mapping[str, tuple[int, ...]] | None = None
) -> Stored:
    """Returns a run as its ``run.json`` describes it, with first weights.

    Args:
        path: The folder.
        trust: Outside modules that the run may import.
        shapes: Of the tensors that were saved: a model that is larger by far is not built, and
            tensors whose shapes follow from the training rows get these.

    Raises:
        StorageError: ``run.json`` is damaged.
        UsageError: it names an outside module that is not trusted.
    """
    file = path / "run.json"
    info, config, schema = described(path, trust)
    with untouched(), _damaged(file):  # the first weights are drawn, to be replaced
        if shapes is not None and not _modules(config, schema):
            _check_size(config.model, schema, shapes, file)
        model = build(config.model, schema)
        allocate(model, shapes or {})
    for word in TRAINED_ALONE:
        if word in info and isinstance(model, VAE):
            freeze_the_rest(model, word)
    objective = build_objective(config.training.objective or usual_objective(schema))
    return Stored(
        model=model, schema=schema, config=config, objective=objective, path=path, info=info
    )


def freeze_the_rest(model: VAE, word: str) -> None:
    """Freezes what a run of such a kind leaves as it is: in a training that goes on, too."""
    alone = tuple(f"{name}." for name in TRAINED_ALONE[word])
    for name, weight in model.named_parameters():
        if not f"{name}.".startswith(alone):
            weight.requires_grad_(False)


def allocate(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Gives tensors whose shapes follow from the training rows the shapes that were saved."""
    for name, module in model.named_modules():
        if isinstance(module, ExactModel | Resizing):
            start = f"{name}." if name else ""
            module.allocate(
                {k.removeprefix(start): v for k, v in shapes.items() if k.startswith(start)}
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

    def registered(module: torch.nn.Module, name: str, parameter: torch.Tensor | None) -> None:
        nonlocal count, numel
        count += 1
        if parameter is not None:
            numel += parameter.numel()
        if count > most or numel > size:
            raise StorageError(
                f"{shown(file)} is damaged: its model has more weights than were saved"
            )

    hooks = [torch.nn.modules.module.register_module_parameter_registration_hook(registered)]
    if exact_of(config) is not None:  # whose parameters are buffers: nothing follows a gradient
        hooks.append(torch.nn.modules.module.register_module_buffer_registration_hook(registered))
    try:
        # a part may need the numbers in a tensor
        with (
            suppress(RuntimeError, NotImplementedError),
            torch.device("meta"),
        ):
            build(config, schema)
    finally:
        for hook in hooks:
            hook.remove()


def check_fit(model: Model, shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Refuses weights that are not those of the model, by their shapes; tensors without elements
    hold none.
    """
    wanted = {k: tuple(v.shape) for k, v in model.state_dict().items() if v.numel()}
    given = {k: shape for k, shape in shapes.items() if math.prod(shape)}
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
