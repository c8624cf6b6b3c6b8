"""The command line, one function a command. Results go to stdout, progress and messages to stderr.

Only here and in ``terminal`` is anything printed. Every error that a person can mend is one line
and an exit code: 2 usage, 3 data refused, 4 diverged, 5 reading or writing failed, 6 out of memory,
7 a process was lost, 130 and 143 stopped with the state saved; 1 is a bug of ours. Of several
processes (``torchrun``) the first one prints, and all end with the same code.
"""

from __future__ import annotations

import functools
import io
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from taut.build.config import gather
from taut.cli import terminal
from taut.system import locks, parallel, signals
from taut.system.errors import (
    DataError,
    OutOfMemoryError,
    ParallelError,
    TautError,
    TautWarning,
    UsageError,
    shown,
)
from taut.system.memory import out_of_memory
from taut.system.signals import Terminated

if TYPE_CHECKING:
    import torch

    from taut.data import Dataset, New
    from taut.runs.folder import Run, check_target
    from taut.training.loop import State

app = typer.Typer(
    help="Trains latent-variable models on your data and measures, in nats, how tight their bound "
    "is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
F = TypeVar("F", bound=Callable[..., None])

DataArg = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A table (.csv, .tsv, .parquet), a folder of images, counts (.h5ad), an array (.npy, "
        ".npz, idx), digits.",
    ),
]
RunArg = Annotated[Path, typer.Argument(metavar="RUN", help="The folder that taut fit made.")]
HeldOut = Annotated[
    str | None,
    typer.Argument(
        metavar="[DATA]", help="A file; by default the held-out data of the run itself."
    ),
]
Key = Annotated[str | None, typer.Option(help="Which array of an .npz file.")]
Json = Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")]
Out = Annotated[
    Path | None, typer.Option(help="The file to write: .csv or .parquet, .npy, or .png for images.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same numbers.")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="Threads of the processor.")]
Kind = Annotated[
    str | None,
    typer.Option(help="Of an array: binary, levels, real or count, in place of what is inferred."),
]
Levels = Annotated[
    str | None, typer.Option(help="Smallest and largest level of an array, such as 0:255.")
]
Shape = Annotated[
    str | None, typer.Option(help="Shape of one datum that is stored flat, such as 28x28.")
]
Binarize = Annotated[
    str | None, typer.Option(help="Read grey as probabilities: none, dynamic or threshold.")
]
Test = Annotated[str | None, typer.Option(help="An official test set: FILE or FILE.npz:KEY.")]
SchemaFile = Annotated[
    str | None,
    typer.Option("--schema", help="A TOML file that says what the columns of a table are."),
]
MissingValues = Annotated[
    list[str] | None,
    typer.Option(help="A text or number that means missing in a table; repeatable."),
]
Condition = Annotated[
    list[str] | None, typer.Option(help="A column that the others are modelled given; repeatable.")
]
Delimiter = Annotated[
    str | None, typer.Option(help="Of a text table, in place of the one that is found.")
]
Decimal = Annotated[str | None, typer.Option(help="Decimal sign of a text table: . or ,")]
Encoding = Annotated[
    str | None, typer.Option(help="Of a text table that is not UTF-8, such as latin-1.")
]
Header = Annotated[
    bool | None, typer.Option(help="Whether the first line of a text table names its columns.")
]
Layer = Annotated[str | None, typer.Option(help="Which matrix of an .h5ad file: a layer, or raw.")]
Resize = Annotated[
    str | None, typer.Option(help="Height and width that images are scaled to, such as 64x64.")
]
Crop = Annotated[
    bool,
    typer.Option("--crop", help="Cut the centre out of images, so that their proportions stay."),
]
Alpha = Annotated[
    str | None,
    typer.Option(help="Transparent images: drop the transparency, or composite on white."),
]
SkipBad = Annotated[
    str | None, typer.Option(help="Share of unreadable images that may be left out, such as 0.01.")
]
Stream = Annotated[
    bool | None,
    typer.Option(help="Leave a Parquet file on disk, or read it whole; by default by its size."),
]
Split = Annotated[
    str | None,
    typer.Option(help="By rows, or all copies of a row in one part; by default what is right."),
]
Trust = Annotated[
    list[str] | None, typer.Option(help="An outside module that the run may import; repeatable.")
]


LOST = "another process was lost; what was saved is kept: go on with `taut resume RUN`"
# what several processes share; the rest is for one
TOGETHER = (
    "fit",
    "resume",
    "tighten",
    "audit",
    "score",
    "encode",
    "impute",
)


def command(function: F) -> F:
    """Registers a command whose errors end as one line and an exit code."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        with signals.watched(command=True), _warnings_in_a_line():
            if function.__name__ in TOGETHER:
                # until the error has been said: the others end when this process goes
                with ExitStack() as joined:
                    run(joined, args, kwargs)
            elif not parallel.launched():
                run(None, args, kwargs)

    def run(joined: ExitStack | None, args: Any, kwargs: Any) -> None:
        try:
            if joined is not None:
                joined.enter_context(parallel.ranks())
            function(*args, **kwargs)
        except (KeyboardInterrupt, Terminated) as stop:
            _stopped(stop)
        except (typer.Exit, SystemExit):
            raise
        except TautError as error:
            _fail(str(error), error.exit_code)
        except BrokenPipeError:
            # the reader of the pipe went away
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except BaseException as error:  # a library in Rust has one of its own
            if signals.came():
                _stopped(error)
            if parallel.lost(error):
                _fail(LOST, ParallelError.exit_code)
            if out_of_memory(error):
                _fail(
                    "out of memory: use a smaller batch size or fewer data, or a machine with more",
                    OutOfMemoryError.exit_code,
                )
            if isinstance(error, OSError):
                _fail(f"{shown(error.filename or 'a file')}: {error.strerror or error}", 5)
            raise _bug() from error
        finally:
            locks.release_all()

    app.command()(wrapped)
    return function


@command
def fit(
    data: DataArg,
    out: Annotated[
        Path | None,
        typer.Option(help="The run folder to make; by default the next free below runs/."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A TOML file with sections data, model, training, evaluation."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=V", help="Any setting, such as training.patience=0.3."),
    ] = None,
    key: Key = None,
    kind: Kind = None,
    levels: Levels = None,
    shape: Shape = None,
    binarize: Binarize = None,
    schema: SchemaFile = None,
    missing_values: MissingValues = None,
    condition: Condition = None,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
    header: Header = None,
    layer: Layer = None,
    resize: Resize = None,
    crop: Crop = False,
    alpha: Alpha = None,
    skip_bad: SkipBad = None,
    stream: Stream = None,
    split: Split = None,
    test: Test = None,
    latent_dim: Annotated[str | None, typer.Option(help="Dimensions of the latent space.")] = None,
    prior: Annotated[str | None, typer.Option(help="p(z), such as StandardNormal().")] = None,
    likelihood: Annotated[
        str | None, typer.Option(help="p(x|z); by default what follows from the data.")
    ] = None,
    posterior: Annotated[str | None, typer.Option(help="q(z|x), such as DiagonalNormal().")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Network of the posterior, such as 'MLP(hidden=(200,))'.")
    ] = None,
    decoder: Annotated[str | None, typer.Option(help="Network of the likelihood.")] = None,
    objective: Annotated[
        str | None, typer.Option(help="What is maximised, such as 'IWAE(num_samples=50)'.")
    ] = None,
    batch_size: Annotated[str | None, typer.Option(help="Data a step.")] = None,
    max_epochs: Annotated[str | None, typer.Option(help="Passes over the training data.")] = None,
    minutes: Annotated[str | None, typer.Option(help="Time for training.")] = None,
    learning_rate: Annotated[str | None, typer.Option(help="Peak of the schedule.")] = None,
    averaging: Annotated[
        str | None, typer.Option(help="Decay of the running average of the weights; 0 for none.")
    ] = None,
    seed: Annotated[str | None, typer.Option(help="Everything random is derived from it.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    threads: Annotated[str | None, typer.Option(help="Threads of the processor.")] = None,
    num_samples: Annotated[
        str | None, typer.Option(help="K of the importance-weighted estimate of log p(x).")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train a model on DATA and measure it.

    Held-out bound, log p(x) with its errors, and a folder with everything.
    """
    flags = {
        k: v
        for k, v in locals().items()
        if k not in ("data", "out", "config", "set_", "overwrite", "as_json")
    }
    settings = gather(_given(flags), config, set_ or ())
    from taut.runs.fit import start

    run, dataset, state = start(data, out, settings, overwrite=overwrite)
    terminal.show_data(terminal.message, dataset, settings)
    if run.info["pace"]:
        terminal.message(f"{'steps':<11}{run.info['pace']}")
    if state.step:
        terminal.message(f"started again: going on from step {state.step} of {state.total_steps}")
    _train_and_measure(run, dataset, state, as_json)


@command
def resume(
    run: RunArg,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.0, help="Train for so long from here on, a finished run too."),
    ] = None,
    max_epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Train up to so many passes over the training data in all, a finished run too.",
        ),
    ] = None,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Go on with a training that was stopped, from its last checkpoint, as if it had never been.

    Or make one longer.
    """
    from taut.runs.fit import resume as resume_run
    from taut.runs.folder import load

    longer = minutes is not None or max_epochs is not None
    if (run / "manifest.json").exists():
        finished = load(run, trust=trust or ())
        if not longer:
            terminal.message(
                f"{shown(run)} is finished; nothing to resume: --minutes or --max-epochs makes its "
                f"training longer"
            )
            terminal.show_evaluation(finished, as_json)
            return
    resumed, dataset, state = resume_run(
        run, minutes=minutes, max_epochs=max_epochs, trust=trust or ()
    )
    terminal.message(f"going on from step {state.step} of {state.total_steps}")
    if longer:
        terminal.message(
            "the added steps have a schedule of their own; the best weights of the whole training "
            "are kept"
        )
    _train_and_measure(resumed, dataset, state, as_json)


@command
def check(
    data: DataArg,
    out: Annotated[
        Path | None,
        typer.Option(help="Write what the columns of a table are to this TOML file, to be edited."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file, as for fit.")] = None,
    key: Key = None,
    kind: Kind = None,
    levels: Levels = None,
    shape: Shape = None,
    binarize: Binarize = None,
    schema: SchemaFile = None,
    missing_values: MissingValues = None,
    condition: Condition = None,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
    header: Header = None,
    layer: Layer = None,
    resize: Resize = None,
    crop: Crop = False,
    alpha: Alpha = None,
    skip_bad: SkipBad = None,
    stream: Stream = None,
    split: Split = None,
    test: Test = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Read DATA as fit would and say what was found, or list everything that is wrong with it."""
    flags = {
        k: v
        for k, v in locals().items()
        if k not in ("data", "out", "config", "overwrite", "as_json")
    }
    settings = gather(_given(flags), config)
    from taut.runs.fit import assemble

    target = None if out is None else check_target(out, (".toml",), overwrite)
    _, dataset, _, _ = assemble(data, settings)
    if target is not None:
        _write_schema(dataset, target)
    if as_json:
        rows = {
            "train": len(dataset.train),
            "validation": len(dataset.validation),
            "test": len(dataset.test),
        }
        found = {
            "schema": dataset.schema.to_dict(),
            "rows": rows,
            "notes": list(dataset.notes),
            "fingerprint": dataset.fingerprint,
        }
        typer.echo(json.dumps(found, indent=2))
    else:
        terminal.show_data(terminal.answer, dataset, settings)
        terminal.show_columns(dataset.schema)


@command
def sample(
    run: RunArg,
    num_samples: Annotated[int, typer.Option(min=1, help="How many.")] = 64,
    given: Annotated[
        list[str] | None,
        typer.Option(
            help="COLUMN=VALUE of what the model is conditioned on, or total=VALUE; repeatable."
        ),
    ] = None,
    mean: Annotated[
        bool,
        typer.Option(
            "--mean", help="The mean of p(x|z) in place of a draw: smoother than any datum is."
        ),
    ] = False,
    out: Out = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Draw data from the model: z from the prior, then x from p(x|z)."""
    from taut.runs.folder import sample_run

    loaded = _load(run, trust)
    target = _data_target(out, "samples", loaded, overwrite)
    values = sample_run(loaded, num_samples, given=_assignments(given or []), mean=mean, seed=seed)
    _write(values, target, loaded, as_json)


@command
def reconstruct(
    run: RunArg,
    data: HeldOut = None,
    key: Key = None,
    draw: Annotated[
        bool, typer.Option("--draw", help="A draw from p(x|z) in place of its mean.")
    ] = False,
    out: Out = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Encode DATA and decode it again, at the posterior mean."""
    from taut.use import tasks

    loaded = _load(run, trust)
    target = _data_target(out, "reconstructions", loaded, overwrite)
    x = _data(loaded, data, key).rows
    _write(tasks.reconstruct(loaded.model, x, draw=draw, seed=seed), target, loaded, as_json)


@command
def encode(
    run: RunArg,
    data: HeldOut = None,
    key: Key = None,
    num_samples: Annotated[
        int | None,
        typer.Option(min=1, help="Draws of the posterior for each datum, in place of its mean."),
    ] = None,
    out: Out = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Embed DATA: the mean of the posterior q(z|x), a row for each datum, the same at
    every call.
    """
    from taut.use import export, tasks

    loaded = _load(run, trust)
    formats = export.NUMBERS if num_samples is None else export.ARRAYS
    target = check_target(out or Path("embedding.npy"), formats, overwrite)
    x = _data(loaded, data, key).rows
    values = tasks.encode(loaded.model, x, num_samples, seed=seed)
    parallel.on_main(
        lambda: export.write_numbers(values, target, [f"z{i}" for i in range(values.shape[-1])])
    )
    _say_written(target, values.shape, as_json)


@command
def impute(
    run: RunArg,
    data: HeldOut = None,
    key: Key = None,
    num_samples: Annotated[int, typer.Option(min=1, help="K of the importance weights.")] = 1000,
    num_imputations: Annotated[
        int,
        typer.Option(
            min=0,
            help="Complete DATA so many times by draws, a file each, in place of once by means and "
            "modes.",
        ),
    ] = 0,
    out: Out = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Fill in what is missing in DATA; every observed cell stays exactly as it is."""
    import torch

    from taut.evidence import cells

    loaded = _load(run, trust)
    base = _data_target(out, "imputed", loaded, overwrite or num_imputations > 0)
    targets = _numbered(base, num_imputations, overwrite)
    new = _data(loaded, data, key)
    result = cells.impute(
        loaded.model, new.rows, num_samples, num_imputations=num_imputations, seed=seed
    )
    missing = sum(
        int((a.isnan() & ~b.isnan()).sum())
        for a, b in zip(new.rows.split(4096), result.values.split(4096), strict=True)
    )

    def write() -> None:
        for values, target in zip(
            result.draws if num_imputations else [result.values], targets, strict=True
        ):
            if new.table is not None and target.suffix != ".npy":
                from taut.data import fill
                from taut.use.export import shortest, write_table

                write_table(fill(new.table, shortest(values), loaded.schema), target, own=True)
            else:
                _write_data(values, target, loaded)

    parallel.on_main(write)
    gaps = torch.cat([a.isnan().flatten(1).any(1) for a in new.rows.split(4096)])
    without, uneven = gaps & (result.ess == 0), gaps & (result.ess > 0) & ~result.reliable
    if away := terminal.name_rows(without):
        terminal.message(f"warning: no latent point gives a number to {away}: their gaps stay")
    if away := terminal.name_rows(uneven):
        terminal.message(
            f"warning: few effective samples carry what is filled in, in {away}: do not rely on it "
            f"there"
        )
    written = {
        "files": [str(t) for t in targets],
        "filled": missing,
        "median_ess": float(result.ess.median()),
        "uneven_rows": int(uneven.sum()),
        "rows_without_a_number": int(without.sum()),
    }
    if as_json:
        typer.echo(json.dumps(written))
    else:
        terminal.answer(
            f"{missing} missing entries filled in, in {', '.join(shown(t) for t in targets)}"
            f" (median effective sample size {written['median_ess']:.0f} of {num_samples})"
        )


@command
def decode(
    run: RunArg,
    z: Annotated[Path, typer.Argument(metavar="Z", help="An .npy file of latent points, (N, D).")],
    draw: Annotated[
        bool, typer.Option("--draw", help="A draw from p(x|z) in place of its mean.")
    ] = False,
    out: Out = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Decode latent points: the mean of p(x|z) for each row of Z."""
    import torch

    from taut.data import read
    from taut.use import tasks

    loaded = _load(run, trust)
    if loaded.model.condition is not None:
        raise UsageError(
            "this model is conditioned on a context, which Z does not hold: use taut sample "
            "--given, or Python"
        )
    target = _data_target(out, "decoded", loaded, overwrite)
    latent = loaded.config.model.latent_dim
    points = torch.from_numpy(read(z).data).to(torch.get_default_dtype())
    if points.dim() != 2 or points.shape[1] != latent or not bool(points.isfinite().all()):
        raise DataError(
            f"{shown(z)}: latent points must be finite numbers of shape (N, {latent}), not "
            f"{tuple(points.shape)}"
        )
    _write(tasks.decode(loaded.model, points, draw=draw, seed=seed), target, loaded, as_json)


@command
def score(
    run: RunArg,
    data: HeldOut = None,
    key: Key = None,
    num_samples: Annotated[
        int, typer.Option(min=1, help="K of the importance-weighted estimate.")
    ] = 500,
    cells: Annotated[
        bool,
        typer.Option(
            "--cells",
            help="Also log p of each entry given the others of its row: why a row is odd.",
        ),
    ] = False,
    regret: Annotated[
        bool,
        typer.Option(
            "--regret",
            help="Also the likelihood regret: what the best posterior of each datum adds to its "
            "ELBO.",
        ),
    ] = False,
    out: Out = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Say how likely each row is: log p(x) in nats, its Monte Carlo error, whether it is reliable
    and by which method.

    Where importance sampling fails, up to 1,000 rows get a better proposal each, and up to 100 of
    them annealing.
    """
    from taut.evidence import Evidence, importance_blocks, settle
    from taut.use import export

    loaded = _load(run, trust)
    target = check_target(out or Path("scores.csv"), export.NUMBERS, overwrite)
    new = _data(loaded, data, key)
    x, blocks = new.rows, []
    with terminal.progress("scoring", len(x)) as advance:
        for block in importance_blocks(loaded.model, x, num_samples, seed=seed):
            blocks.append(block)
            advance(len(block.ess), "")
    evidence = Evidence.concatenate(blocks)
    rows = settle(loaded.model, x, evidence, seed=seed).impossible(new.impossible)
    evidence = rows.first
    columns = {
        c: getattr(rows, c) for c in ("log_evidence", "log_evidence_error", "reliable", "method")
    }
    columns |= {c: getattr(evidence, c) for c in ("ess", "khat", "elbo")}
    if regret:
        columns |= _regret(loaded, x, evidence, seed)
    odd = _cell_columns(loaded, x, num_samples, seed) if cells else {}
    for name, (value, error, reliable) in odd.items():
        columns |= {
            f"log_p({name})": value,
            f"log_p_error({name})": error,
            f"log_p_reliable({name})": reliable,
        }
    import torch

    table = torch.stack([c.double() for c in columns.values()], 1)
    parallel.on_main(
        lambda: export.write_numbers(table, target, list(columns), {"method": rows.methods})
    )
    result = {"file": str(target), **rows.to_dict()}
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        terminal.show_numbers(result)
        if odd:
            terminal.show_oddest(rows.log_evidence, {name: found[0] for name, found in odd.items()})
        terminal.answer(f"each datum's numbers are in {shown(target)}")


def _regret(run: Run, x: Any, evidence: Any, seed: int) -> dict[str, torch.Tensor]:
    import torch

    from taut.evidence.gaps import optima_blocks

    parts, arrived = [], []
    with terminal.progress("best posteriors", len(x)) as advance:
        for optima in optima_blocks(run.model, x, seed=seed):
            parts.append(optima.own.elbo)
            arrived.append(optima.arrived[:, 0])
            advance(len(parts[-1]), "")
    if away := terminal.name_rows(~torch.cat(arrived)):
        terminal.message(
            f"warning: the best posterior was not quite reached in {away}: the regret is at least "
            f"what is said"
        )
    return {"regret": torch.cat(parts) - evidence.elbo}


def _cell_columns(
    run: Run, x: Any, num_samples: int, seed: int
) -> dict[str, tuple[torch.Tensor, ...]]:
    """Returns log p of each entry given the others of its row, its error and whether it is
    reliable, by its column.
    """
    import torch

    from taut.evidence.cells import cell_scores

    schema = run.schema
    if len(schema.event_shape) != 1:
        raise UsageError("--cells is for rows of columns, not for images")
    scores = cell_scores(run.model, x, num_samples, seed=seed)
    names = (
        [schema.modelled[i].name for i in schema.rest]
        if schema.kind == "table"
        else [f"x{i}" for i in range(scores.value.shape[1])]
    )
    missing = torch.cat([run.model.split(part)[0].isnan() for part in x.split(4096)])
    if away := terminal.name_rows((~scores.reliable & ~missing).any(1)):
        terminal.message(
            f"warning: log p of some entries is not reliable in {away}: see log_p_reliable(NAME)"
        )
    return {name: tuple(part[:, i] for part in scores) for i, name in enumerate(names)}


@command
def audit(
    run: RunArg,
    data: HeldOut = None,
    key: Key = None,
    num_data: Annotated[
        int, typer.Option(min=1, help="Data looked at, at random if there are more.")
    ] = 1000,
    num_samples: Annotated[int, typer.Option(min=1, help="K of importance sampling.")] = 5000,
    num_chains: Annotated[
        int, typer.Option(min=1, help="Chains of annealing for each datum.")
    ] = 16,
    max_temperatures: Annotated[
        int, typer.Option(min=1, help="Most temperatures of annealing.")
    ] = 400,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.0, help="Time for all of it; what it does not allow is left out."),
    ] = None,
    threads: Threads = None,
    seed: Seed = 0,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Say how good a model is, how loose its bound, why, and what would buy the next nat.

    Audit.json and report.html.
    """
    from taut.evidence.audit import Effort
    from taut.runs.audit import audit_run

    loaded = _load(run, trust)
    _set_threads(threads)
    effort = Effort(
        num_samples=num_samples,
        num_chains=num_chains,
        max_temperatures=max_temperatures,
        minutes=minutes,
    )
    with _interruptible() as stop:
        with terminal.stages() as report:
            result = audit_run(
                loaded,
                data,
                key=key,
                num_data=num_data,
                effort=effort,
                seed=seed,
                stop=stop,
                report=report,
            )
        if as_json:
            typer.echo(json.dumps(result, indent=2))
        else:
            terminal.show_audit(result)
            terminal.answer(
                f"\nthe report is {shown(run / 'report.html')}, its numbers are in "
                f"{shown(run / 'audit.json')}"
            )


@command
def tighten(
    run: RunArg,
    out: Annotated[
        Path | None,
        typer.Option(help="The run folder to make; by default the next free below runs/."),
    ] = None,
    posterior: Annotated[
        str | None, typer.Option(help="A richer family, such as FullCovarianceNormal().")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="A larger network, such as 'MLP(hidden=(500, 500))'; it starts anew."),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="What is maximised; by default StickingTheLanding(num_samples=4)."),
    ] = None,
    simulated: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of each batch that the model draws; 0.5 for few data, else 0.",
        ),
    ] = None,
    max_epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training data.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0.0, help="Time for training.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0.0, help="Peak of the schedule.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Data a step.")] = None,
    seed: Annotated[int | None, typer.Option(help="Everything random is derived from it.")] = None,
    overwrite: Overwrite = False,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Train the posterior on with decoder and prior frozen.

    The ELBO rises toward the same log p(x).
    """
    from taut.runs.tighten import tighten as tighten_run

    given: dict[str, Any] = {
        "objective": objective,
        "max_epochs": max_epochs,
        "minutes": minutes,
        "learning_rate": learning_rate,
    }
    given |= {"batch_size": batch_size, "simulated": simulated, "seed": seed}
    settings: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    old = _load(run, trust)
    new, dataset, state = tighten_run(
        old, out, posterior=posterior, encoder=encoder, overwrite=overwrite, **settings
    )
    terminal.message(
        f"decoder and prior of {shown(run)} stay as they are; {shown(new.path)} gets a better "
        f"posterior"
    )
    _train_and_measure(new, dataset, state, as_json)
    if not as_json:
        terminal.show_tightening(new)


@command
def gradients(
    run: RunArg,
    batch_size: Annotated[int, typer.Option(min=1, help="Training data in the batch.")] = 100,
    num_samples: Annotated[int, typer.Option(min=1, help="K of every estimator.")] = 8,
    repeats: Annotated[
        int, typer.Option(min=2, help="Independent gradients of each estimator.")
    ] = 100,
    threads: Threads = None,
    seed: Seed = 0,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Compare gradient estimators on the run's own model and data: bias, variance,
    signal and cost.
    """
    from taut.runs.audit import gradients_run

    loaded = _load(run, trust)
    _set_threads(threads)
    with _interruptible() as stop:
        with terminal.stages() as report:
            done = 0

            def counted() -> bool:
                nonlocal done
                done += 1
                report("gradients", done / (8 * repeats))
                return stop()

            result = gradients_run(
                loaded,
                batch_size=batch_size,
                num_samples=num_samples,
                repeats=repeats,
                seed=seed,
                stop=counted,
            )
        if as_json:
            typer.echo(json.dumps(result, indent=2))
        else:
            terminal.show_gradients(result)
            terminal.answer(f"\nthe numbers are in {shown(run / 'gradients.json')}")


@command
def report(run: RunArg, trust: Trust = None) -> None:
    """Render report.html anew from audit.json and gradients.json."""
    from taut.runs.audit import write_report

    terminal.answer(shown(write_report(_load(run, trust))))


def _load(path: Path, trust: list[str] | None) -> Run:
    from taut.runs.folder import load

    return load(path, trust=trust or ())


def _data(run: Run, source: str | None, key: str | None) -> New:
    """Returns new data checked against the run's schema, or the data that the run
    itself held out.
    """
    from taut.data import New
    from taut.runs.folder import data_of, held_out, new_data

    if source is None:
        return New(held_out(run, data_of(run)), ())
    new = new_data(run, source, key)
    for note in new.notes:
        terminal.message(f"taut: {note}")
    return new


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings that were given as flags, as texts and lists.

    A switch that was not set says nothing.
    """
    texts = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in flags.items()
    }
    return {
        name: None if name == "crop" and value == "false" else value
        for name, value in texts.items()
    }


def _assignments(texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    if wrong := [text for text, (_, equals, _) in zip(texts, pairs, strict=True) if not equals]:
        raise UsageError(f"--given {shown(wrong[0])}: write it like --given COLUMN=VALUE")
    return {name: value for name, _, value in pairs}


def _data_target(out: Path | None, name: str, run: Run, overwrite: bool) -> Path:
    """Returns the file to write data of a run into, checked before anything is computed."""
    from taut.use import export

    schema = run.schema
    table = schema.kind == "table"
    formats: tuple[str, ...] = export.IMAGES if schema.is_image else export.NUMBERS
    if table:
        formats = (*export.TABLES, ".npy")
    elif not schema.is_image and len(schema.event_shape) != 1:
        formats = export.ARRAYS
    return check_target(out or Path(f"{name}.csv" if table else f"{name}.npy"), formats, overwrite)


def _numbered(out: Path, count: int, overwrite: bool) -> list[Path]:

    paths = [out.with_name(f"{out.stem}-{i + 1}{out.suffix}") for i in range(count)]
    return [check_target(path, (out.suffix,), overwrite) for path in paths] or [out]


def _write(values: torch.Tensor, out: Path, run: Run, as_json: bool) -> None:
    """Writes data and says so."""
    _write_data(values, out, run)
    _say_written(out, values.shape, as_json)


def _write_data(values: torch.Tensor, out: Path, run: Run) -> None:
    """Writes data of a run: a table with its own types, images, or numbers."""
    from taut.data import to_table
    from taut.use import export

    schema = run.schema
    if schema.kind == "table" and out.suffix != ".npy":
        columns = [
            c
            for i, c in enumerate(schema.modelled)
            if values.shape[1] == len(schema.modelled) or i in schema.rest
        ]
        export.write_table(to_table(export.shortest(values), columns), out)
    elif schema.is_image:
        export.write_images(values, out, schema.low, schema.high)
    else:
        export.write_numbers(values, out)


def _say_written(out: Path, shape: Any, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"file": str(out), "shape": list(shape)}))
    else:
        terminal.answer(f"{shown(out)}: {'x'.join(map(str, shape))}")


def _write_schema(dataset: Dataset, out: Path) -> None:
    from taut.data import to_toml
    from taut.system.storage import write_bytes

    if dataset.schema.kind != "table":
        raise UsageError("--out is for tables: what an array is is said by --kind and --levels")
    write_bytes(out, to_toml(dataset.schema.columns, dataset.schema.missing_values).encode())


def _train_and_measure(run: Run, dataset: Dataset, state: State, as_json: bool) -> None:
    began = time.monotonic()
    try:
        _train(run, dataset, state)
        _measure(run, dataset)
    except (KeyboardInterrupt, Terminated) as stop:
        if any((run.path / "checkpoints").glob("step-*")):
            stop.args = (
                f"stopped, the state is saved: go on with `taut resume {shown(run.path)}`",
            )
        raise
    if parallel.main():
        terminal.show_evaluation(run, as_json)
        terminal.show_next(run, time.monotonic() - began)


def _train(run: Run, dataset: Dataset, state: State) -> None:
    from taut.runs.fit import train_run

    done = state.step
    # closing: if a signal arrives here and not in the training, the training still gets to save its
    # state
    with (
        terminal.progress("training", state.total_steps) as advance,
        closing(train_run(run, dataset, state)) as records,
    ):
        advance(done, "")
        for record in records:
            bound = record.bound if record.validation is None else record.validation
            kind = "train" if record.validation is None else "held-out"
            note = f", {record.skipped} steps skipped" if record.skipped else ""
            advance(
                record.step - done, f"epoch {record.epoch:.0f}, {kind} bound {bound:.2f} nats{note}"
            )
            done = record.step
    if state.micro_batches > 1:
        terminal.message(
            f"memory was short: each step was taken in {state.micro_batches} micro-batches, with "
            f"the same result"
        )
    if done < state.total_steps:
        reason = (
            "time is up" if run.info["ended"] == "time" else "the held-out bound no longer grows"
        )
        terminal.message(f"stopped at step {done} of {state.total_steps}: {reason}")


def _measure(run: Run, dataset: Dataset) -> None:
    from taut.runs.fit import evaluate

    rows = len(dataset.test) or len(dataset.validation) or len(dataset.train)
    with terminal.progress("measuring", rows) as advance:
        for block in evaluate(run, dataset):
            advance(len(block.ess), "")


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Gives a function that is true once Ctrl-C or SIGTERM came, so that what is done is kept; the
    second one ends at once.

    The exit code of the first one comes at the end, when what was done is kept and shown.
    """
    asked: list[int] = []

    def ask(number: int) -> bool:
        if asked:
            return False
        asked.append(number)
        terminal.message("stopping after this block; once more to stop at once")
        return True

    with signals.asking(ask):
        yield lambda: bool(asked)
    if asked:
        terminal.message("stopped: what was done is kept")
        raise typer.Exit(128 + asked[0])


def _set_threads(threads: int | None) -> None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def _fail(message: str, code: int) -> None:
    first, code = parallel.claim(code)
    if first:
        with _speaking():
            for line in message.split("\n"):
                terminal.message(f"taut: {line}")
    raise typer.Exit(code)


@contextmanager
def _speaking() -> Iterator[None]:
    """Lets a process that is silent speak, for an error that it alone has."""
    silent, sys.stderr = (
        sys.stderr,
        sys.__stderr__ or sys.stderr if parallel.launched() else sys.stderr,
    )
    try:
        yield
    finally:
        sys.stderr = silent


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: Any = None,
            line: Any = None,
        ) -> None:
            if issubclass(category, TautWarning):
                terminal.message(f"taut: {message}")
            else:
                usual(message, category, filename, lineno, file, line)

        warnings.simplefilter("always", TautWarning)
        warnings.showwarning = show
        yield


def _stopped(stop: BaseException) -> None:
    """Ends a command that a signal stopped, whatever C++ has made of the signal on its way."""
    terminated = isinstance(stop, Terminated) or signals.came() == signal.SIGTERM
    if terminated and parallel.lost(stop):  # torchrun ends those that are left
        _fail(LOST, ParallelError.exit_code)
    said = str(stop) if isinstance(stop, KeyboardInterrupt | Terminated) else ""
    _fail(said or ("terminated" if terminated else "stopped"), 143 if terminated else 130)


def _bug() -> typer.Exit:
    first, code = parallel.claim(1)
    if first:
        with _speaking():
            traceback.print_exc()
            terminal.message("taut: this is a bug of ours; please report it with the lines above")
    return typer.Exit(code)


def _print_version(value: bool) -> bool:
    if value:
        from importlib.metadata import version

        typer.echo(f"taut {version('taut')}")
        raise typer.Exit
    return value  # the option takes what its callback returns


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None: ...


def main() -> None:
    """Runs the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a terminal of another encoding shows a question mark, and no traceback
            stream.reconfigure(errors="replace")
    if parallel.launched():  # one process speaks for all
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 (until the end)
    code: Any = 0
    with signals.watched(command=True):
        try:
            app()
        except SystemExit as end:
            code = end.code
        except Terminated:
            code = 143
        signals.ending()
    # a signal before the command had begun
    code = 128 + signals.came() if signals.came() and code == 1 else code
    if not parallel.is_launched():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    # threads of gloo that outlive the interpreter would abort the process
    os._exit(code if isinstance(code, int) else 0)
