"""The command line, one function a command. Results go to stdout, progress and messages to stderr.

Only here is anything printed. Every error that a person can mend is one line and an exit code: 2 usage, 3 data refused,
4 diverged, 5 reading or writing failed, 6 out of memory, 130 and 143 stopped with the state saved; 1 is a bug of ours.
"""

from __future__ import annotations

import functools
import io
import json
import os
import signal
import sys
import tomllib
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from taut.errors import DataError, TautError, UsageError, shown

if TYPE_CHECKING:
    import torch

    from taut.config import Config
    from taut.data import Dataset
    from taut.run import Run
    from taut.training.loop import State

app = typer.Typer(
    help="Trains latent-variable models on your data and measures, in nats, how tight their bound is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
F = TypeVar("F", bound=Callable[..., None])

DataArg = Annotated[str, typer.Argument(metavar="DATA", help="A file (.npy, .npz, idx), digits, or openml:NAME.")]
RunArg = Annotated[Path, typer.Argument(metavar="RUN", help="The folder that taut fit made.")]
HeldOut = Annotated[str | None, typer.Argument(metavar="[DATA]", help="A file; by default the held-out data of the run itself.")]
Key = Annotated[str | None, typer.Option(help="Which array of an .npz file.")]
Json = Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")]
Out = Annotated[Path | None, typer.Option(help="The file to write: .npy, .csv, or .png for images.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same numbers.")]
Trust = Annotated[list[str] | None, typer.Option(help="An outside module that the run may import; repeatable.")]


OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # torch's words on its three systems


class Terminated(BaseException):
    """SIGTERM arrived."""


def command(function: F) -> F:
    """Registers a command whose errors end as one line and an exit code."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        signal.signal(signal.SIGTERM, _terminate)
        try:
            function(*args, **kwargs)
        except KeyboardInterrupt as stop:
            _fail(str(stop) or "stopped", 130)
        except Terminated as stop:
            _fail(str(stop) or "terminated", 143)
        except typer.Exit:
            raise
        except TautError as error:
            _fail(str(error), error.exit_code)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of the pipe went away
            raise typer.Exit(0) from None
        except OSError as error:
            _fail(f"{shown(error.filename or 'a file')}: {error.strerror or error}", 5)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
                _fail("out of memory: use a smaller batch size or fewer data, or a machine with more", 6)
            raise _bug() from error
        except Exception as error:
            raise _bug() from error

    app.command()(wrapped)
    return function


@command
def fit(
    data: DataArg,
    out: Annotated[Path | None, typer.Option(help="The run folder to make; by default the next free below runs/.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file with sections data, model, training, evaluation.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=V", help="Any setting, such as training.patience=0.3.")
    ] = None,
    key: Key = None,
    kind: Annotated[str | None, typer.Option(help="binary, levels or real, in place of what is inferred.")] = None,
    levels: Annotated[str | None, typer.Option(help="Smallest and largest level, such as 0:255.")] = None,
    shape: Annotated[str | None, typer.Option(help="Shape of one datum that is stored flat, such as 28x28.")] = None,
    binarize: Annotated[str | None, typer.Option(help="Read grey as probabilities: none, dynamic or threshold.")] = None,
    test: Annotated[str | None, typer.Option(help="An official test set: FILE or FILE.npz:KEY.")] = None,
    latent_dim: Annotated[str | None, typer.Option(help="Dimensions of the latent space.")] = None,
    prior: Annotated[str | None, typer.Option(help="p(z), such as StandardNormal().")] = None,
    likelihood: Annotated[str | None, typer.Option(help="p(x|z); by default what follows from the data.")] = None,
    posterior: Annotated[str | None, typer.Option(help="q(z|x), such as DiagonalNormal().")] = None,
    encoder: Annotated[str | None, typer.Option(help="Network of the posterior, such as 'MLP(hidden=(200,))'.")] = None,
    decoder: Annotated[str | None, typer.Option(help="Network of the likelihood.")] = None,
    objective: Annotated[str | None, typer.Option(help="What is maximised, such as 'IWAE(num_samples=50)'.")] = None,
    batch_size: Annotated[str | None, typer.Option(help="Data a step.")] = None,
    max_epochs: Annotated[str | None, typer.Option(help="Passes over the training data.")] = None,
    minutes: Annotated[str | None, typer.Option(help="Time for training.")] = None,
    learning_rate: Annotated[str | None, typer.Option(help="Peak of the schedule.")] = None,
    averaging: Annotated[str | None, typer.Option(help="Decay of the running average of the weights; 0 for none.")] = None,
    seed: Annotated[str | None, typer.Option(help="Everything random is derived from it.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    threads: Annotated[str | None, typer.Option(help="Threads of the processor.")] = None,
    num_samples: Annotated[str | None, typer.Option(help="K of the importance-weighted estimate of log p(x).")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train a model on DATA and measure it: held-out bound, log p(x) with its errors, and a folder with everything."""
    flags = {k: v for k, v in locals().items() if k not in ("data", "out", "config", "set_", "overwrite", "as_json")}
    settings = _settings(flags, config, set_ or [])
    from taut.run import start

    console = _stderr()
    run, dataset, state = start(data, out, settings, overwrite=overwrite)
    _show_data(console, dataset, settings)
    _train_and_measure(run, dataset, state, console, as_json)


@command
def resume(run: RunArg, trust: Trust = None, as_json: Json = False) -> None:
    """Go on with a training that was stopped, from its last checkpoint, as if it had never been."""
    from taut.run import load
    from taut.run import resume as resume_run

    console = _stderr()
    if (run / "manifest.json").exists():
        finished = load(run, trust=trust or ())
        console.print(Text(f"{shown(run)} is finished; nothing to resume"), soft_wrap=True)
        _show_evaluation(finished, as_json)
        return
    resumed, dataset, state = resume_run(run, trust=trust or ())
    console.print(Text(f"going on from step {state.step} of {state.total_steps}"))
    _train_and_measure(resumed, dataset, state, console, as_json)


@command
def check(
    data: DataArg,
    config: Annotated[Path | None, typer.Option(help="A TOML file, as for fit.")] = None,
    key: Key = None,
    kind: Annotated[str | None, typer.Option(help="binary, levels or real, in place of what is inferred.")] = None,
    levels: Annotated[str | None, typer.Option(help="Smallest and largest level, such as 0:255.")] = None,
    shape: Annotated[str | None, typer.Option(help="Shape of one datum that is stored flat, such as 28x28.")] = None,
    binarize: Annotated[str | None, typer.Option(help="Read grey as probabilities: none, dynamic or threshold.")] = None,
    test: Annotated[str | None, typer.Option(help="An official test set: FILE or FILE.npz:KEY.")] = None,
    as_json: Json = False,
) -> None:
    """Read DATA as fit would and say what was found, or list everything that is wrong with it."""
    flags = {k: v for k, v in locals().items() if k not in ("data", "config", "as_json")}
    settings = _settings(flags, config, [])
    from taut.run import assemble

    _, dataset, _, _ = assemble(data, settings)
    if as_json:
        rows = {"train": len(dataset.train), "validation": len(dataset.validation), "test": len(dataset.test)}
        found = {
            "schema": dataset.schema.to_dict(),
            "rows": rows,
            "notes": list(dataset.notes),
            "fingerprint": dataset.fingerprint,
        }
        typer.echo(json.dumps(found, indent=2))
    else:
        _show_data(_stdout(), dataset, settings)


@command
def sample(
    run: RunArg,
    num_samples: Annotated[int, typer.Option(min=1, help="How many.")] = 64,
    mean: Annotated[
        bool, typer.Option("--mean", help="The mean of p(x|z) in place of a draw: smoother than any datum is.")
    ] = False,
    out: Out = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Draw data from the model: z from the prior, then x from p(x|z)."""
    from taut import tasks

    loaded = _load(run, trust)
    target = _target(out or Path("samples.npy"), loaded, overwrite)
    _write(tasks.sample(loaded.model, num_samples, mean=mean, seed=seed), target, loaded, as_json)


@command
def reconstruct(
    run: RunArg,
    data: HeldOut = None,
    key: Key = None,
    draw: Annotated[bool, typer.Option("--draw", help="A draw from p(x|z) in place of its mean.")] = False,
    out: Out = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Encode DATA and decode it again, at the posterior mean."""
    from taut import tasks

    loaded = _load(run, trust)
    target = _target(out or Path("reconstructions.npy"), loaded, overwrite)
    x = _data(loaded, data, key)
    _write(tasks.reconstruct(loaded.model, x, draw=draw, seed=seed), target, loaded, as_json)


@command
def encode(
    run: RunArg,
    data: HeldOut = None,
    key: Key = None,
    num_samples: Annotated[
        int | None, typer.Option(min=1, help="Draws of the posterior for each datum, in place of its mean.")
    ] = None,
    out: Out = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Embed DATA: the mean of the posterior q(z|x), a row for each datum, the same at every call."""
    from taut import tasks

    loaded = _load(run, trust)
    target = _target(out or Path("embedding.npy"), 2 if num_samples is None else 3, overwrite)
    x = _data(loaded, data, key)
    _write(tasks.encode(loaded.model, x, num_samples, seed=seed), target, loaded, as_json)


@command
def decode(
    run: RunArg,
    z: Annotated[Path, typer.Argument(metavar="Z", help="An .npy file of latent points, (N, D).")],
    draw: Annotated[bool, typer.Option("--draw", help="A draw from p(x|z) in place of its mean.")] = False,
    out: Out = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Decode latent points: the mean of p(x|z) for each row of Z."""
    import torch

    from taut import tasks
    from taut.data import read

    loaded = _load(run, trust)
    target = _target(out or Path("decoded.npy"), loaded, overwrite)
    latent = loaded.config.model.latent_dim
    points = torch.from_numpy(read(z).array).to(torch.get_default_dtype())
    if points.dim() != 2 or points.shape[1] != latent or not bool(points.isfinite().all()):
        raise DataError(f"{shown(z)}: latent points must be finite numbers of shape (N, {latent}), not {tuple(points.shape)}")
    _write(tasks.decode(loaded.model, points, draw=draw, seed=seed), target, loaded, as_json)


@command
def score(
    run: RunArg,
    data: HeldOut = None,
    key: Key = None,
    num_samples: Annotated[int, typer.Option(min=1, help="K of the importance-weighted estimate.")] = 500,
    out: Out = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Say how likely each datum is: log p(x) in nats, its Monte Carlo error, the effective sample size and the ELBO."""
    import torch

    from taut.evidence import Evidence, importance_blocks

    loaded = _load(run, trust)
    target = _target(out or Path("scores.csv"), 2, overwrite)
    x = _data(loaded, data, key)
    blocks = []
    with _progress(_stderr(), "scoring", len(x)) as advance:
        for block in importance_blocks(loaded.model, x, num_samples, seed=seed):
            blocks.append(block)
            advance(len(block.ess), "")
    evidence = Evidence.concatenate(blocks)
    columns = ("log_evidence", "log_evidence_error", "ess", "elbo")
    _write_file(torch.stack([getattr(evidence, c) for c in columns], 1), target, loaded, columns)
    result = {"file": str(target), **evidence.to_dict()}
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        _show_numbers(result)
        _stdout().print(Text(f"each datum's numbers are in {shown(target)}"), soft_wrap=True)


def _settings(flags: Mapping[str, str | None], file: Path | None, sets: list[str]) -> Config:
    """Returns the configuration: --set and flags over the environment over the file over the defaults."""
    import dataclasses

    from taut.config import Config
    from taut.spec import nearest

    values: dict[str, dict[str, Any]] = {name: {} for name in Config().to_dict()}
    if file is not None:
        try:
            given = tomllib.loads(file.read_text("utf-8"))
        except OSError as error:
            raise UsageError(f"cannot read {shown(file)}: {error.strerror or error}") from None
        except (ValueError, RecursionError) as error:  # TOMLDecodeError, UnicodeDecodeError, a number of 5000 digits
            raise UsageError(f"{shown(file)} is not valid TOML: {error}") from None
        values |= {k: dict(v) if isinstance(v, Mapping) else v for k, v in given.items()}
    names = {s.name: f.name for f in dataclasses.fields(Config) for s in dataclasses.fields(getattr(Config(), f.name))}
    variables = [f"TAUT_{name.upper()}" for name in names]
    for variable in sorted(os.environ):
        if variable.startswith("TAUT_") and variable not in variables:
            raise UsageError(f"the environment variable {shown(variable)} is no setting{nearest(variable, variables)}")
    for name, section_name in names.items():
        section = values[section_name]
        for source in (os.environ.get(f"TAUT_{name.upper()}"), flags.get(name)):
            if source is not None and isinstance(section, dict):
                section[name] = source
    for item in sets:
        path, equals, value = item.partition("=")
        section_name, dot, name = path.partition(".")
        if not (equals and dot):
            raise UsageError(f"--set {item}: write it like --set training.patience=0.3")
        section = values.setdefault(section_name, {})
        if isinstance(section, dict):
            section[name] = value
    return Config.from_dict(values)


def _load(path: Path, trust: list[str] | None) -> Run:
    from taut.run import load

    return load(path, trust=trust or ())


def _data(run: Run, source: str | None, key: str | None) -> torch.Tensor:
    """Returns new data checked against the run's schema, or the data that the run itself held out."""
    from taut.data import check_against
    from taut.run import data_of

    if source is not None:
        data = run.config.data
        return check_against(source, run.schema, key=key, binarize=data.binarize, seed=run.config.training.seed)
    dataset = data_of(run)
    if not len(dataset.test) + len(dataset.validation):
        raise UsageError(f"{shown(run.path)} held no data out: give DATA")
    return dataset.test if len(dataset.test) else dataset.validation


def _target(out: Path, rows: Run | int, overwrite: bool) -> Path:
    """Returns the file to write after checking, before anything is computed, that it can hold such rows and is free.

    Args:
        out: The file.
        rows: The number of axes of what will be written, or the run whose data are.
        overwrite: Whether a file that exists is replaced.
    """
    image = not isinstance(rows, int) and rows.schema.is_image
    axes = rows if isinstance(rows, int) else 1 + len(rows.schema.event_shape)
    where = shown(out)
    if out.suffix not in (".npy", *([".csv"] if axes <= 2 else []), *([".png"] if image else [])):
        formats = ".npy" + (", or .csv" if axes <= 2 else "") + (", or .png" if image else "")
        raise UsageError(f"cannot write {where}: these are {'images' if image else f'rows of {axes} axes'}, so name it {formats}")
    if out.exists() and not out.is_file():
        raise UsageError(f"{where} is not a file: choose another --out")
    if out.exists() and not overwrite:
        raise UsageError(f"{where} exists: choose another --out, or --overwrite to replace it")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {shown(out.parent)} to write {shown(out.name)} into")
    return out


def _write(values: torch.Tensor, out: Path, run: Run, as_json: bool) -> None:
    """Writes rows and says so."""
    _write_file(values, out, run)
    shape, dtype = list(values.shape), str(values.dtype).removeprefix("torch.")
    if as_json:
        typer.echo(json.dumps({"file": str(out), "shape": shape, "dtype": dtype}))
    else:
        _stdout().print(Text(f"{shown(out)}: {'x'.join(map(str, shape))} {dtype}"), soft_wrap=True)


def _write_file(values: torch.Tensor, out: Path, run: Run, header: tuple[str, ...] = ()) -> None:
    """Writes rows in the format that the name of the file asks for."""
    import numpy as np

    from taut import pictures
    from taut.storage import write_bytes

    array = values.numpy()
    buffer = io.BytesIO()
    if out.suffix == ".npy":
        np.save(buffer, array, allow_pickle=False)
    elif out.suffix == ".csv":
        np.savetxt(buffer, array, delimiter=",", fmt="%.9g", header=",".join(header), comments="")
    else:
        buffer.write(pictures.to_png([pictures.grid(values, run.schema.low, run.schema.high, 10)]))
    write_bytes(out, buffer.getvalue())


def _train_and_measure(run: Run, dataset: Dataset, state: State, console: Console, as_json: bool) -> None:
    try:
        _train(run, dataset, state, console)
        _measure(run, dataset, console)
    except (KeyboardInterrupt, Terminated) as stop:
        if any((run.path / "checkpoints").glob("step-*")):
            stop.args = (f"stopped, the state is saved: go on with `taut resume {shown(run.path)}`",)
        raise
    _show_evaluation(run, as_json)


def _train(run: Run, dataset: Dataset, state: State, console: Console) -> None:
    from taut.run import train_run

    # closing: if a signal arrives here and not in the training, the training still gets to save its state
    with _progress(console, "training", state.total_steps) as advance, closing(train_run(run, dataset, state)) as records:
        done = 0
        advance(state.step, "")
        done = state.step
        for record in records:
            bound = record.bound if record.validation is None else record.validation
            kind = "train" if record.validation is None else "held-out"
            note = f", {record.skipped} steps skipped" if record.skipped else ""
            advance(record.step - done, f"epoch {record.epoch:.0f}, {kind} bound {bound:.2f} nats{note}")
            done = record.step
        if done < state.total_steps:
            console.print(
                Text(
                    f"stopped at step {done} of {state.total_steps}: "
                    + (
                        "time is up"
                        if run.config.training.minutes
                        and state.best_step + run.config.training.patience * state.total_steps > done
                        else "the held-out bound no longer grows"
                    )
                )
            )


def _measure(run: Run, dataset: Dataset, console: Console) -> None:
    from taut.run import evaluate

    rows = len(dataset.test) or len(dataset.validation) or len(dataset.train)
    with _progress(console, "measuring", rows) as advance:
        for block in evaluate(run, dataset):
            advance(len(block.ess), "")


def _show_data(console: Console, dataset: Dataset, config: Config) -> None:
    from taut.build import complete

    model = complete(config.model, dataset.schema)
    parts = f"train {len(dataset.train)}, validation {len(dataset.validation)}, test {len(dataset.test)}"
    lines = [
        ("data", f"{shown(dataset.name)}: {dataset.schema.describe()}"),
        ("rows", parts),
        ("binarize", dataset.binarize if dataset.binarize != "none" else ""),
        (
            "likelihood",
            f"{model.likelihood}{'' if config.model.likelihood == model.likelihood else ', which follows from the data'}",
        ),
        ("prior", model.prior),
        ("posterior", f"{model.posterior}, {model.latent_dim} latent dimensions"),
        ("networks", f"{model.encoder}, {model.decoder}"),
        ("objective", config.training.objective),
        *(("note", note) for note in dataset.notes),
    ]
    for name, text in lines:
        if text:
            console.print(Text(f"{name:<11}{_clean(text)}"), soft_wrap=True)


def _show_evaluation(run: Run, as_json: bool) -> None:
    result = run.evaluation()
    if as_json:
        typer.echo(json.dumps({"run": str(run.path), **result}, indent=2))
        return
    _show_numbers(result)
    files = "samples.png and reconstructions.png are" if run.schema.is_image else "everything is"
    _stdout().print(Text(f"\n{files} in {shown(run.path)}"), soft_wrap=True)


NAMES = {
    "elbo": "ELBO",
    "rate": "rate, KL(q, prior)",
    "distortion": "distortion, -E log p(x|z)",
    "log_evidence": "log p(x)",
    "inference_gap": "inference gap, log p(x) - ELBO",
    "baseline": "baseline, independent marginals",
}


def _show_numbers(result: Mapping[str, Any]) -> None:
    bits = result.get("bits_per_dimension", {})
    table = Table(box=None, pad_edge=False)
    table.add_column(f"{result['num_data']} held-out data" if "data" in result else f"{result['num_data']} data")
    for title in ("nats per datum", "± Monte Carlo", "± test set", *(["bits per dim"] if bits else [])):
        table.add_column(title, justify="right")
    for name, title in NAMES.items():
        if result.get(name):
            row = [_number(result[name][k]) for k in ("value", "mc_error", "test_error")]
            table.add_row(title, *row, *([_number(bits[name]["value"], 4) if name in bits else ""] if bits else []))
    console = _stdout()
    console.print(table)
    ess = result["ess"]
    console.print(
        Text(
            f"log p(x) by importance sampling, K = {result['num_samples']}: effective samples {ess['mean']:.1f} in the mean, "
            f"{ess['smallest']:.1f} at least\nactive units: {result['active_units']} of {result['latent_dim']}"
        ),
        soft_wrap=True,
    )
    for line in result["warnings"]:
        console.print(Text(f"warning: {line}"), soft_wrap=True)


def _number(value: float | None, digits: int = 3) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"


@contextmanager
def _progress(console: Console, title: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """Gives a function that advances a bar on a terminal, and prints a line each tenth of the way elsewhere."""
    if console.is_terminal:
        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(title, total=total, note="")
            yield lambda amount, note: bar.update(task, advance=amount, note=note)
        return
    done, shown = 0, 0

    def advance(amount: int, note: str) -> None:
        nonlocal done, shown
        done += amount
        if done * 10 // total > shown:
            shown = done * 10 // total
            console.print(Text(f"{title} {100 * done // total} %{', ' + note if note else ''}"), soft_wrap=True)

    yield advance


class _Console(Console):
    """A console that falls silent when its reader goes away (``taut fit ... | head``), so that the work goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def _stdout() -> Console:
    return _Console(width=None if sys.stdout.isatty() else 200, highlight=False)


def _stderr() -> Console:
    return _Console(stderr=True, highlight=False)


def _clean(text: str) -> str:
    """Returns a text without control characters, which could write anything on a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _fail(message: str, code: int) -> None:
    lines = _clean(message).split("\n")
    console = _stderr()
    for line in lines:
        console.print(Text(f"taut: {line}"), soft_wrap=True)
    raise typer.Exit(code)


def _bug() -> typer.Exit:
    traceback.print_exc()
    _stderr().print(Text("taut: this is a bug of ours; please report it with the lines above"))
    return typer.Exit(1)


def _terminate(number: int, frame: object) -> None:
    raise Terminated


def _print_version(value: bool) -> bool:
    if value:
        from importlib.metadata import version

        typer.echo(f"taut {version('taut')}")
        raise typer.Exit
    return value  # the option takes what its callback returns


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


def main() -> None:
    """Runs the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal of another encoding shows a question mark, and no traceback
    app()
