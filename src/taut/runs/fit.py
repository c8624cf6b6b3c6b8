"""Making a run: read the data, build the model, train it, measure it.

And going on with one that was stopped.
"""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import time
import traceback
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from taut.build.checks import check_parts
from taut.build.config import Config, TrainingConfig
from taut.build.model import (
    build,
    build_objective,
    complete,
    describe_part,
    usual_objective,
    usual_rate,
)
from taut.build.spec import to_spec
from taut.build.statistics import summarize
from taut.data import Dataset
from taut.data.readers import kind_of
from taut.evidence import Evidence, doctor, importance_blocks, settle
from taut.model import VAE, Likelihood, Posterior, Prior
from taut.objectives import Objective
from taut.runs.folder import (
    FORMAT,
    Run,
    Source,
    abandon,
    check_fit,
    data_of,
    find_device,
    make_folder,
    read_data,
    rebuild,
    run_folder,
    stem,
    version,
)
from taut.runs.measure import draw_pictures, measured_part, numbers
from taut.system import locks, parallel, records, storage
from taut.system.errors import StorageError, TautError, TautWarning, UsageError, shown
from taut.system.seeds import stream
from taut.system.signals import held, watched
from taut.training import checkpoint
from taut.training.loop import Record, State, batch_size, finish, train
from taut.training.pace import choose, plan_steps

__all__ = [
    "assemble",
    "begun",
    "evaluate",
    "fit",
    "going_together",
    "merge",
    "paced",
    "resume",
    "start",
    "to_device",
    "train_run",
    "use_threads",
]

CLIMBING = (
    100  # rows of the final measurement that get a better method than importance sampling, at most
)


def fit(
    source: Source,
    out: str | Path | None = None,
    *,
    config: Config | None = None,
    objective: Objective | str | None = None,
    prior: Prior | str | None = None,
    likelihood: Likelihood | str | None = None,
    posterior: Posterior | str | None = None,
    test: Source | None = None,
    **settings: Any,
) -> Run:
    """Trains a model on data, measures it and returns the run.

    Args:
        source: What ``taut fit`` takes (a file, digits, openml:NAME), an array or a tensor, (N,
            *event).
        out: The folder to make; by default the next free one below runs/.
        config: All settings at once; the arguments that follow are laid over it.
        objective: An objective or its specification.
        prior: A prior or its specification.
        likelihood: A likelihood or its specification.
        posterior: A posterior or its specification.
        test: An official test set.
        **settings: Any other setting of ``taut.build.config``, by its name: latent_dim, max_epochs,
          seed ...

    Fails:
        DataError: the data are refused.
        UsageError: a setting is wrong, or the folder exists.
        DivergedError: training met numbers that are not finite and could not be cured.

    Examples:
        >>> import taut, tempfile, torch
        >>> x = torch.randn(200, 1) @ torch.randn(1, 5) + 0.1 * torch.randn(200, 5)
        >>> run = taut.fit(x, tempfile.mkdtemp() + "/run", latent_dim=1, max_epochs=2)
        >>> sorted(run.evaluation()["log_evidence"])
        ['mc_error', 'test_error', 'value']
    """
    parts: dict[str, Prior | Likelihood | Posterior] = {}
    for name, part in (("prior", prior), ("likelihood", likelihood), ("posterior", posterior)):
        if isinstance(part, str):
            settings[name] = part
        elif part is not None:
            parts[name], settings[name] = part, str(describe_part(part))
    if objective is not None:
        settings["objective"] = objective if isinstance(objective, str) else str(to_spec(objective))
    if isinstance(test, str | Path):
        settings["test"], test = str(test), None
    threads = torch.get_num_threads()
    try:
        run, data, state = start(
            source, out, merge(config or Config(), settings), parts=parts, test=test
        )
        with closing(train_run(run, data, state)) as records:
            for _ in records:
                pass
        for _ in evaluate(run, data):
            pass
    finally:
        torch.set_num_threads(threads)
    return run


def start(
    source: Source,
    out: str | Path | None,
    config: Config,
    *,
    parts: Mapping[str, Prior | Likelihood | Posterior] | None = None,
    test: Source | None = None,
    overwrite: bool = False,
) -> tuple[Run, Dataset, State]:
    """Reads the data, builds the model and makes the folder; nothing is trained yet.

    Where torchrun restarted the processes, it is the training that they were in the midst of, and
    its last checkpoint.
    """
    if config.training.simulated:
        raise UsageError(
            "training.simulated is for `taut tighten`: a decoder that learns from its own draws "
            "learns nothing"
        )
    device = find_device(config.training.device)
    config, data, model, objective = assemble(source, config, parts=parts, test=test)
    use_threads(config)
    model.to(device)
    left = (
        parallel.on_main(lambda: _left_behind(out, config, data)) if parallel.restarts() else None
    )
    if left is not None and any((left / "checkpoints").glob("step-*")):
        parallel.on_main(lambda: locks.acquire(left))
        info = records.checked(storage.read_json(left / "run.json"), records.RUN, left / "run.json")
        newest, state, shapes = _last_state(left)
        check_fit(model, shapes, newest)
        parallel.on_main(lambda: _cut(left / "history.jsonl", state.step))
        return (
            Run(left, Config.from_dict(info["config"]), data.schema, model, objective, info),
            data,
            state,
        )
    path = parallel.on_main(
        lambda: make_folder(left or out, data.name, overwrite or left is not None)
    )
    with begun(path):
        config, note, state = paced(path, model, objective, to_device(data, device), config)
        info = _info(config, data, device, note, state, test)
        parallel.on_main(lambda: storage.write_json(path / "run.json", info))
    return Run(path, config, data.schema, model, objective, info), data, state


def _info(
    config: Config,
    data: Dataset,
    device: torch.device,
    note: str,
    state: State,
    test: Source | None,
) -> dict[str, Any]:
    """Returns what ``run.json`` says of a training that begins."""
    info = {
        "format": FORMAT,
        "taut": version(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "source": _absolute(data.name),
        "test": _absolute(config.data.test) if test is None else "",
        "fingerprint": data.fingerprint,
        "rows": {
            "train": len(data.train),
            "validation": len(data.validation),
            "test": len(data.test),
        },
        "notes": list(data.notes),
        "pace": note,
        "total_steps": state.total_steps,
        "schema": data.schema.to_dict(),
        "config": config.to_dict(),
    }
    return storage.fingerprinted(info)


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


def assemble(
    source: Source,
    config: Config,
    *,
    parts: Mapping[str, Prior | Likelihood | Posterior] | None = None,
    test: Source | None = None,
) -> tuple[Config, Dataset, VAE, Objective]:
    """Returns the completed configuration, the data, the model and the objective, all checked.

    What a training needs.
    """
    if isinstance(source, Dataset):
        data = source
    else:
        data = read_data(source, config, test)
        measured_part(data)  # refused before the training, not after it
    from_file = isinstance(source, str | Path) and kind_of(source).streams
    # Decided once and kept: it sets the order of the batches.
    read = dataclasses.replace(config.data, stream=data.streamed if from_file else None)
    aim, rate = (
        config.training.objective or usual_objective(data.schema),
        config.training.learning_rate,
    )
    rate = usual_rate(data) if rate is None else rate
    config = dataclasses.replace(
        config,
        model=complete(config.model, data.schema),
        data=read,
        training=dataclasses.replace(config.training, objective=aim, learning_rate=rate),
    )
    objective = build_objective(aim)
    statistics = summarize(data)
    # before the model is made: its first weights follow the seed
    with (
        stream(config.training.seed, "init"),
        going_together(),
    ):
        model = build(config.model, data.schema, statistics, parts=parts)
    with stream(config.training.seed, "check"), going_together():
        check_parts(model, objective, data, shown(data.name) or "the data")
        parallel.check_divisible(model, objective)
    return config, data, model, objective


def train_run(run: Run, data: Dataset, state: State) -> Generator[Record, None, None]:
    """Trains the model of a run from a state on, writing its history and its checkpoints, and
    yields each interval's record.
    """
    folder = run.path / "checkpoints"
    training = run.config.training
    data = to_device(data, torch.device(run.info["device"]))
    saved, began = time.monotonic(), time.monotonic()
    written = state.step if state.tensors else -1  # the last checkpoint
    # a signal can arrive while ``train`` is in the midst of changing ``state``
    whole = dataclasses.replace(state)
    late, ended = False, None if not state.done else run.info.get("ended")

    def keep(record: Record) -> None:
        nonlocal saved, whole, written
        assert lines is not None
        lines.add(json.dumps(record._asdict(), allow_nan=False))
        whole = dataclasses.replace(state)
        if state.done or time.monotonic() - saved >= training.checkpoint_seconds:
            lines.sync()
            checkpoint.save(folder, state)
            saved, written = time.monotonic(), state.step

    try:
        with _history(run.path / "history.jsonl", state) as lines:
            for record in train(run.model, run.objective, data, training, state):
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
            with watched(), held():  # people press Ctrl-C twice
                checkpoint.save(folder, whole)
        if parallel.main():
            with watched(), held():
                abandon(run.path)
        raise

    def end() -> None:
        # First: the checkpoint is that of an end whose reason is kept.
        storage.write_json(run.path / "run.json", storage.fingerprinted(run.info))
        if training.minutes is not None:
            checkpoint.save(folder, state)  # the clock may have ended it after its last checkpoint
        storage.write_tensors(run.path / "model.safetensors", run.model.state_dict())

    finish(run.model, state)
    run.info.update(
        storage.fingerprinted(
            {**run.info, "ended": ended or _why_ended(training, data, state, late)}
        )
    )
    parallel.on_main(end)


def _history(path: Path, state: State) -> AbstractContextManager[storage.Lines | None]:
    """Opens the history, where this is the process that writes it."""
    return closing(storage.Lines(path, keep=state.step > 0)) if parallel.main() else nullcontext()


def _why_ended(training: TrainingConfig, data: Dataset, state: State, late: bool) -> str:
    """Returns what ended a training.

    ``time``, ``epochs`` (those that were planned) or ``patience`` (nothing grew any more).
    """
    if state.step < state.total_steps:
        return "time" if late else "patience"
    per_epoch = len(data.train) / batch_size(data, training)
    shortened = training.max_epochs is None or state.step < training.max_epochs * per_epoch
    return "time" if training.minutes is not None and shortened else "epochs"


def evaluate(run: Run, data: Dataset) -> Iterator[Evidence]:
    """Measures the trained model on held-out data, yielding each block of them, and finishes the
    folder.
    """
    seed = run.config.training.seed
    x = getattr(data, measured_part(data))
    blocks: list[Evidence] = []
    try:
        for block in importance_blocks(run.model, x, run.config.evaluation.num_samples, seed=seed):
            blocks.append(block)
            yield block
        # The numbers after training are quick ones: few rows move to a better proposal, and an
        # audit does the rest.
        first = Evidence.concatenate(blocks)
        rows = settle(run.model, x, first, seed=seed, climbing=CLIMBING, annealed=0)

        def write() -> None:
            found = numbers(rows, data)
            ended = run.info.get("ended")
            found["unfinished"] = doctor.unfinished(run.history(), ended, run.config.training)
            storage.write_json(run.path / "evaluation.json", {"seed": seed, **found})
            # Of a run that was extended these are of other weights.
            for name in ("audit.json", "gradients.json", "report.html"):
                (run.path / name).unlink(missing_ok=True)
            for name, content in draw_pictures(run.model, data, seed).items():
                storage.write_bytes(run.path / name, content)
            storage.write_manifest(run.path)

        parallel.on_main(write)
    finally:
        locks.release(run.path)


def resume(
    path: str | Path,
    *,
    minutes: float | None = None,
    max_epochs: int | None = None,
    source: Source | None = None,
    test: Source | None = None,
    trust: Sequence[str] = (),
) -> tuple[Run, Dataset, State]:
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

    Fails:
        DataError: the data are not those of the run.
        StorageError: no checkpoint, or a damaged one.
        UsageError: so many passes are done already.
    """
    path = run_folder(path)
    parallel.on_main(lambda: locks.acquire(path))
    newest, state, shapes = _last_state(path)
    run = rebuild(path, trust, shapes)
    check_fit(run.model, shapes, newest)
    parallel.on_main(lambda: _cut(path / "history.jsonl", state.step))
    use_threads(run.config)
    data = data_of(run, source, test)
    run.model.to(find_device(run.info["device"]))
    if minutes is not None or max_epochs is not None:
        run = _extend(run, data, state, minutes, max_epochs)
    return run, data, state


def _extend(
    run: Run, data: Dataset, state: State, minutes: float | None, max_epochs: int | None
) -> Run:
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
        more = plan_steps(
            run.model, run.objective, data, dataclasses.replace(training, max_epochs=None)
        )
    if max_epochs is not None:
        whole = plan_steps(
            run.model, run.objective, data, dataclasses.replace(training, minutes=None)
        )
        more = min(more, whole - state.step)
    more = parallel.on_main(lambda: more)
    state.since, state.total_steps, state.done = state.step, state.step + int(more), False
    info = {k: v for k, v in run.info.items() if k != "ended"} | {
        "total_steps": state.total_steps,
        "config": config.to_dict(),
    }
    info = storage.fingerprinted({**info, "extended": [*run.info.get("extended", []), state.step]})

    def write() -> None:
        # In this order: a kill between two of them leaves a training that goes on, with the old
        # plan or with the new one.
        (run.path / storage.MANIFEST).unlink(missing_ok=True)
        checkpoint.save(run.path / "checkpoints", state)
        storage.write_json(run.path / "run.json", storage.fingerprinted(info))

    parallel.on_main(write)
    return dataclasses.replace(run, config=config, info=info)


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
    """Leaves out the lines of a history that are of later steps, or that a kill cut off."""
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
    names = (
        [Path(out)]
        if out is not None
        else sorted(Path("runs").glob(f"{stem(data.name)}-*"), key=lambda p: p.stat().st_mtime)
    )
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
    return path if info["config"] == asked and info["fingerprint"] == data.fingerprint else None


def paced(
    path: Path, model: VAE, objective: Objective, data: Dataset, config: Config
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


def to_device(data: Dataset, device: torch.device) -> Dataset:
    """Returns the data with their training and validation rows on a device."""
    return dataclasses.replace(
        data, train=data.train.to(device), validation=data.validation.to(device)
    )


def merge(config: Config, settings: Mapping[str, Any]) -> Config:
    """Returns the configuration with settings laid over it by their bare names, which are unique
    across sections.
    """
    values = config.to_dict()
    sections = {
        f.name: section for section in values for f in dataclasses.fields(getattr(config, section))
    }
    for name, value in settings.items():
        if name in sections:
            values[sections[name]][name] = value
        else:
            values.setdefault("training", {})[name] = (
                value  # refused by name, with the nearest right one
            )
    return Config.from_dict(values)


@contextmanager
def going_together() -> Iterator[None]:
    """Turns the complaints of parts that were wrongly put together into an error of usage."""
    try:
        yield
    except TautError:
        raise
    except (
        Exception
    ) as error:  # parts can be a person's own: whatever is wrong with them is theirs to mend
        if "memory" in str(error):
            raise
        line = str(error).partition("\n")[0]
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise UsageError(
            f"these parts do not go together: {type(error).__name__}: {line} "
            f"({Path(where.filename).name}, line {where.lineno})"
        ) from error


def use_threads(config: Config) -> None:
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)


def _absolute(name: str | None) -> str:
    """Returns a source that can be read from another folder too.

    The path of a file made absolute, all else as it is.
    """
    if not name:
        return ""
    file, colon, key = name.rpartition(":")
    if colon and Path(file).is_file():
        return f"{Path(file).absolute()}:{key}"
    return str(Path(name).absolute()) if Path(name).exists() else name


def _step(line: str) -> float:
    """Returns the step of a line of the history; a line cut off by a kill belongs to no
    checkpoint.
    """
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
