"""Making a run: read the data, build the model, train it, measure it.

And going on with one that was stopped.
"""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from taut.build.config import Config, ModelConfig, TrainingConfig
from taut.build.model import describe_exact
from taut.build.usual import exact_of
from taut.data import Dataset
from taut.model import Likelihood, Model, Posterior, Prior
from taut.models.exact import ExactModel
from taut.objectives import Objective
from taut.runs.assemble import assemble, build_exact, merge, to_device, use_threads
from taut.runs.candidates import planned, tidy
from taut.runs.fitted import Fitted, Source
from taut.runs.folder import (
    FORMAT,
    Info,
    Stored,
    check_fit,
    data_of,
    described,
    find_device,
    rebuild,
    run_folder,
    version,
)
from taut.runs.formats import with_empty
from taut.runs.logs import Log, open_log
from taut.runs.measure import evaluate
from taut.runs.place import abandon, check_apart, make_folder, stem
from taut.system import locks, parallel, records, storage
from taut.system.errors import StorageError, TautWarning, UsageError, shown
from taut.system.signals import held, watched
from taut.training import checkpoint
from taut.training.exact import PASSES, train_exact
from taut.training.exact import why_ended as why_passes_ended
from taut.training.loop import Record, State, batch_size, finish, train
from taut.training.pace import choose, plan_steps

__all__ = [
    "assemble",
    "begin",
    "begun",
    "evaluate",
    "merge",
    "resume",
    "start",
    "to_device",
    "train_run",
    "use_threads",
]


def start(
    source: Source,
    out: str | Path | None,
    config: Config,
    *,
    parts: Mapping[str, Prior | Likelihood | Posterior] | None = None,
    test: Source | None = None,
    overwrite: bool = False,
    data_seed: int | None = None,
) -> tuple[Stored, Dataset, State]:
    """Reads the data, builds the model and makes the folder; nothing is trained yet.

    Where torchrun restarted the processes, it is the training that they were in the midst of, and
    its last checkpoint.

    Args:
        source: The data; a ``Dataset`` is taken as it is.
        out: The folder to make; by default the next free one below runs/.
        config: All settings.
        parts: Parts of a VAE that are built already.
        test: An official test set.
        overwrite: Whether a run folder that exists is replaced.
        data_seed: The seed that a ``Dataset`` was split with, where that is not the training's.
    """
    if config.training.simulated:
        raise UsageError(
            "training.simulated is for `taut tighten`: a decoder that learns from its own draws "
            "learns nothing"
        )
    if out is not None:
        check_apart(Path(out), (source, test, config.data.test, config.data.schema))
    find_device(config.training.device)  # refused before anything is read
    exact_of(config.model)
    asked = config
    config, data, model, objective = assemble(source, config, parts=parts, test=test)
    fitted = Fitted(model=model, schema=data.schema, config=config, objective=objective)
    left = None
    if parallel.restarts():
        left = parallel.on_main(lambda: _left_behind(out, config, data))
    if left is not None and any((left / "checkpoints").glob("step-*")):
        return _again(left, fitted, data)
    facts: dict[str, Any] = {
        "source": _absolute(data.name),
        "test": _absolute(config.data.test) if test is None else "",
        "fingerprint": data.fingerprint,
        "rows": {part: len(getattr(data, part)) for part in ("train", "validation", "test")},
        "notes": list(data.notes),
        "schema": data.schema.to_dict(),
        **planned(asked, data),
    }
    if data_seed is not None:
        facts["data_seed"] = data_seed
    return begin(
        fitted,
        data,
        lambda: make_folder(left or out, data.name, overwrite or left is not None),
        facts,
    )


def begin(
    fitted: Fitted, data: Dataset, place: Callable[[], Path], facts: Mapping[str, Any]
) -> tuple[Stored, Dataset, State]:
    """Makes the folder of a training that is to begin, and decides its pace.

    Args:
        fitted: The model, its first weights.
        data: What it is trained on.
        place: Makes the folder, once, in the process that writes.
        facts: What ``run.json`` says of the data and of where the weights come from.
    """
    model, objective, config = fitted.model, fitted.objective, fitted.config
    device = _ready(fitted)
    path = parallel.on_main(place)
    with begun(path):
        if isinstance(model, ExactModel):
            config, note, state = _passes(config)
        else:
            config, note, state = paced(path, model, objective, to_device(data, device), config)
        info = storage.fingerprinted(
            {
                **facts,
                "format": FORMAT,
                "taut": version(),
                "torch": str(torch.__version__),
                "python": platform.python_version(),
                "machine": platform.platform(),
                "threads": torch.get_num_threads(),
                "device": str(device),
                "pace": note,
                "total_steps": state.total_steps,
                "config": config.to_dict(),
            }
        )
        parallel.on_main(lambda: storage.write_json(path / "run.json", info))
    return _run(fitted, config, path, info), data, state


def _again(path: Path, fitted: Fitted, data: Dataset) -> tuple[Stored, Dataset, State]:
    """Returns the training that torchrun restarted, from its last checkpoint."""
    _ready(fitted)
    parallel.on_main(lambda: locks.acquire(path))
    info = records.checked(storage.read_json(path / "run.json"), records.RUN, path / "run.json")
    newest, state, shapes = _last_state(path)
    fitted.objective.prepare(fitted.model)
    check_fit(fitted.model, shapes, newest)
    parallel.on_main(lambda: _cut(path / "history.jsonl", state.step))
    return _run(fitted, Config.from_dict(info["config"]), path, info), data, state


def _ready(fitted: Fitted) -> torch.device:
    """Takes as many threads as a model is to be trained in, moves it to its device and returns
    that.
    """
    use_threads(fitted.config)
    device = find_device(fitted.config.training.device)
    if isinstance(fitted.model, ExactModel) and fitted.config.training.device == "auto":
        device = torch.device("cpu")  # for passes of seconds
    fitted.model.to(device)
    return device


def _passes(config: Config) -> tuple[Config, str, State]:
    """Returns the configuration of a model that is exact with its threads, nothing to say of its
    pace, and a training that is to begin.
    """
    passes = config.training.max_epochs or PASSES
    training = dataclasses.replace(
        config.training, threads=torch.get_num_threads(), compile="off", max_epochs=passes
    )
    return dataclasses.replace(config, training=training), "", State(passes)


def _run(fitted: Fitted, config: Config, path: Path, info: Mapping[str, Any]) -> Stored:
    known = {f.name: getattr(fitted, f.name) for f in dataclasses.fields(Fitted)}
    return Stored(**known | {"config": config}, path=path, info=cast(Info, info))


@contextmanager
def begun(path: Path) -> Iterator[None]:
    """Removes a new folder where the block that fills it does not come to its end."""
    try:
        yield
    except BaseException:
        if parallel.main():
            with watched(), held():
                abandon(path)
        raise


def train_run(
    run: Stored, data: Dataset, state: State, log: str | Log | None = None
) -> Generator[Record, None, None]:
    """Trains the model of a run from a state on, writing its history and its checkpoints, and
    yields each interval's record.

    Args:
        run: The run.
        data: Its data.
        state: Where its training stands.
        log: What is told of each row of the history, see ``taut.runs.logs``.
    """
    folder = run.path / "checkpoints"
    training, model = run.config.training, run.model
    exact = isinstance(model, ExactModel)
    if not exact:
        data = to_device(data, torch.device(run.info["device"]))
    saved, began, before = time.monotonic(), time.monotonic(), state.seconds
    written = state.step if state.tensors else -1  # the last checkpoint
    # a signal can arrive while ``train`` is in the midst of changing ``state``
    whole = dataclasses.replace(state)
    late, ended = False, None
    if state.done:
        ended = run.info.get("ended")

    def keep(record: Record) -> None:
        nonlocal saved, whole, written
        assert lines is not None
        lines.add(json.dumps(record._asdict(), allow_nan=False))
        whole = dataclasses.replace(state)
        tell(record._asdict())
        if state.done or time.monotonic() - saved >= training.checkpoint_seconds:
            lines.sync()
            checkpoint.save(folder, state)
            saved, written = time.monotonic(), state.step

    try:
        with (
            open_log(log, run, state.step) as tell,
            _history(run.path / "history.jsonl", state) as lines,
        ):
            for record in _records(run, data, state):
                state.seconds = before + time.monotonic() - began
                parallel.on_main(partial(keep, record))
                yield record
                if training.minutes is not None and parallel.agreed(
                    time.monotonic() - began >= 60 * training.minutes
                ):
                    state.done = late = True
    except (
        BaseException
    ):  # a signal, a full disk, a divergence: what is done is kept, then the error goes on its way
        if not state.step:  # in the first interval the tensors are those of the start
            whole = dataclasses.replace(whole, tensors=state.tensors)
        if whole.tensors and whole.step != written and parallel.main():
            with watched(), held():  # users press Ctrl-C twice
                checkpoint.save(folder, whole)
        if parallel.main():
            with watched(), held():
                abandon(run.path)
        raise

    def end() -> None:
        if exact:
            _end_exact(run, state)
            return
        # First: the checkpoint is that of an end whose reason is kept.
        storage.write_json(run.path / "run.json", run.info)
        if training.minutes is not None:
            checkpoint.save(folder, state)  # the clock may have ended it after its last checkpoint
        storage.write_tensors(run.path / "model.safetensors", run.model.state_dict())

    if isinstance(model, ExactModel):
        why = ended or why_passes_ended(model, state, late)
        state.tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    else:
        finish(run.model, state)
        why = ended or _why_ended(training, data, state, late)
    run.info = cast(Info, _written_now({**run.info, "ended": why}))
    parallel.on_main(end)


def _records(run: Stored, data: Dataset, state: State) -> Iterator[Record]:
    """Trains the model of a run in the way of its kind."""
    if isinstance(run.model, ExactModel):
        return train_exact(run.model, data, run.config.training, state)
    return train(run.model, run.objective, data, run.config.training, state)


def _end_exact(run: Stored, state: State) -> None:
    """Writes the parameters of a model that is exact, and then that they are there: with what the
    training chose, such as the number of states, in its specification.
    """
    assert isinstance(run.model, ExactModel)
    spec = str(describe_exact(run.model))
    run.config = dataclasses.replace(run.config, model=ModelConfig(model=spec))
    run.model.eval()
    checkpoint.save(run.path / "checkpoints", state)
    storage.write_tensors(run.path / "model.safetensors", run.model.state_dict())
    info = {**run.info, "config": run.config.to_dict()}
    run.info = cast(Info, _written_now(info))
    storage.write_json(run.path / "run.json", run.info)


def _history(path: Path, state: State) -> AbstractContextManager[storage.Lines | None]:
    """Opens the history, where this is the process that writes it."""
    if not parallel.main():
        return nullcontext()
    return closing(storage.Lines(path, keep=state.step > 0))


def _why_ended(training: TrainingConfig, data: Dataset, state: State, late: bool) -> str:
    """Returns what ended a training.

    ``time``, ``epochs`` (those that were planned) or ``patience`` (nothing grew any more).
    """
    if state.step < state.total_steps:
        if late:
            return "time"
        return "patience"
    per_epoch = len(data.train) / batch_size(data, training)
    shortened = training.max_epochs is None or state.step < training.max_epochs * per_epoch
    if training.minutes is not None and shortened:
        return "time"
    return "epochs"


def resume(
    path: str | Path,
    *,
    minutes: float | None = None,
    max_epochs: int | None = None,
    source: Source | None = None,
    test: Source | None = None,
    trust: Sequence[str] = (),
) -> tuple[Stored, Dataset, State]:
    """Returns a run, its data and the state of its last checkpoint, ready for ``train_run`` and
    ``evaluate``.

    Without a time or passes it goes on as if it had never been stopped, to the bit. With either a
    training that has ended, too, is made longer: the steps that are added have a schedule of their
    own, the rate rises to its peak again and falls to zero, and all of them are taken, since the
    bound first falls while the rate is high. The best weights of the whole are kept.

    Args:
        path: The run folder.
        minutes: Time to train for from here on.
        max_epochs: Passes over the training data in all, those that are done among them.
        source: The data, where they were an array or have moved.
        test: The official test set, likewise.
        trust: Outside modules that the run may import.

    Raises:
        DataError: the data are not those of the run.
        StorageError: no checkpoint, or a damaged one.
        UsageError: so many passes are done already.
    """
    path = run_folder(path)
    parallel.on_main(lambda: locks.acquire(path))
    if exact_of(described(path, trust)[1].model) is not None:
        return _resume_exact(path, minutes or max_epochs, source, test, trust)
    newest, state, shapes = _last_state(path)
    run = rebuild(path, trust, shapes)
    run.objective.prepare(run.model)
    check_fit(run.model, shapes, newest)
    state.tensors = with_empty(state.tensors, run.model, ("model.", "average.", "best."))
    parallel.on_main(lambda: _cut(path / "history.jsonl", state.step))
    use_threads(run.config)
    data = data_of(run, source, test)
    run.info["fingerprint"] = data.fingerprint  # that of format 1 is another
    run.model.to(find_device(run.info["device"]))
    if minutes is not None or max_epochs is not None:
        run = _extend(run, data, state, minutes, max_epochs)
    return run, data, state


def _resume_exact(
    path: Path,
    longer: float | None,
    source: Source | None,
    test: Source | None,
    trust: Sequence[str],
) -> tuple[Stored, Dataset, State]:
    """Returns a run of a model that is exact: trained and to be measured, or to make the passes
    that it had made again and to go on.
    """
    if longer is not None:
        raise UsageError(
            f"{shown(path)} holds a model that is exact, whose training cannot be made longer: "
            "train it again with `taut fit DATA --model ...`"
        )
    run = rebuild(path, trust)
    use_threads(run.config)
    data = data_of(run, source, test)
    if "ended" in run.info:
        kept = "candidates" in run.info
        _, state = checkpoint.load_last(path / ("exact" if kept else "checkpoints"))
        own = {k.removeprefix("model."): v for k, v in state.tensors.items()}
        run.model.load_state_dict(own)
        if kept:
            tidy(path)
        return run, data, dataclasses.replace(state, done=True)
    _, state, _ = _last_state(path)
    _cut(path / "history.jsonl", state.step)
    run.model = build_exact(run.config, data)
    return run, data, State(state.total_steps, step=state.step)


def _extend(
    run: Stored, data: Dataset, state: State, minutes: float | None, max_epochs: int | None
) -> Stored:
    """Plans more steps for a run, in its state and its folder, and returns it so."""
    data = to_device(data, torch.device(run.info["device"]))
    training = dataclasses.replace(
        run.config.training, minutes=minutes, max_epochs=max_epochs, patience=1.0
    )
    # checks the numbers
    config = Config.from_dict(dataclasses.replace(run.config, training=training).to_dict())
    passes = state.step * batch_size(data, training) / len(data.train)
    if max_epochs is not None and max_epochs <= passes:
        raise UsageError(
            f"{shown(run.path)} has made {passes:g} passes over its training data: give "
            f"--max-epochs a larger number, "
            "or --minutes"
        )
    more = math.inf
    if minutes is not None:
        more = plan_steps(run.model, run.objective, data, training)
    if max_epochs is not None:
        whole = plan_steps(
            run.model, run.objective, data, dataclasses.replace(training, minutes=None)
        )
        more = min(more, max(1, whole - state.step))
    more = parallel.on_main(lambda: more)
    state.since, state.total_steps, state.done = state.step, state.step + int(more), False
    info = {k: v for k, v in run.info.items() if k not in ("ended", "candidates")} | {
        "total_steps": state.total_steps,
        "config": config.to_dict(),
    }
    more_than_once = [*run.info.get("extended", []), state.step]
    info = _written_now({**info, "extended": more_than_once})

    def write() -> None:
        # In this order: a kill between two of them leaves a training that goes on, with the old
        # plan or with the new one.
        (run.path / storage.MANIFEST).unlink(missing_ok=True)
        checkpoint.save(run.path / "checkpoints", state)
        storage.write_json(run.path / "run.json", info)

    parallel.on_main(write)
    return dataclasses.replace(run, config=config, info=cast(Info, info))


def _written_now(info: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what ``run.json`` says as this release writes it, with the SHA-256 of itself."""
    return storage.fingerprinted({**info, "format": FORMAT})


def _last_state(path: Path) -> tuple[Path, State, dict[str, tuple[int, ...]]]:
    """Returns the last whole checkpoint of a run, the state in it and the shapes of its weights."""
    newest, state = checkpoint.load_last(path / "checkpoints")
    shapes = {
        k.removeprefix("model."): tuple(v.shape)
        for k, v in state.tensors.items()
        if k.startswith("model.")
    }
    return newest, state, shapes


def _cut(history: Path, step: int) -> None:
    """Removes the lines of a history that are of later steps, or that a kill cut off."""
    try:
        lines = storage.read_file(history, storage.MOST_JSON).decode(errors="replace").splitlines()
    except StorageError as error:
        if history.exists() or history.is_symlink():
            raise
        warnings.warn(f"{error}; the lines before step {step} are lost", TautWarning, stacklevel=2)
        lines = []
    kept = [line for line in lines if _step(line) <= step]
    storage.write_bytes(history, "".join(line + "\n" for line in kept).encode())


def _left_behind(out: str | Path | None, config: Config, data: Dataset) -> Path | None:
    """Returns the unfinished folder that these processes left before torchrun restarted them, if
    they made one.
    """
    if out is not None:
        names = [Path(out)]
    else:
        names = sorted(Path("runs").glob(f"{stem(data.name)}-*"), key=lambda p: p.stat().st_mtime)
    if not names or not names[-1].is_dir():
        return None
    path = names[-1]
    if not any(path.iterdir()):
        return path
    if not (path / "run.json").is_file() or (path / storage.MANIFEST).exists():
        return None
    info = storage.read_json(path / "run.json")
    asked = json.loads(json.dumps(config.to_dict()))
    # decided since
    asked["training"] |= {name: info["config"]["training"][name] for name in ("compile", "threads")}
    if info["config"] != asked or info["fingerprint"] != data.fingerprint:
        return None
    return path


def paced(
    path: Path, model: Model, objective: Objective, data: Dataset, config: Config
) -> tuple[Config, str, State]:
    """Returns the configuration with the pace decided, what was measured, and a training that is to
    begin in a new folder.
    """
    training, note = choose(model, objective, data, config.training)
    steps = plan_steps(model, objective, data, training)
    return (
        dataclasses.replace(config, training=training),
        note,
        State(parallel.on_main(lambda: steps)),
    )


def _absolute(name: str | None) -> str:
    """Returns a source that can be read from another folder too.

    The path of a file made absolute, all else as it is.
    """
    if not name:
        return ""
    file, colon, key = name.rpartition(":")
    if colon and Path(file).is_file():
        return f"{Path(file).absolute()}:{key}"
    if Path(name).exists():
        return str(Path(name).absolute())
    return name


def _step(line: str) -> float:
    """Returns the step of a line of the history; a line cut off by a kill belongs to no
    checkpoint.
    """
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
