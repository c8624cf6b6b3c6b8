"""Commands that read data and train: fit, resume, check, tighten, refit."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taut.build.config import gather
from taut.cli import bars, terminal
from taut.cli.options import (
    PARTS,
    READING,
    TRAINING,
    Config,
    DataArg,
    Json,
    LogTo,
    NewRun,
    Overwrite,
    RunArg,
    Trust,
    Verbose,
    count,
    option,
    with_settings,
)
from taut.system.errors import UsageError, clause, shown
from taut.system.signals import Terminated

if TYPE_CHECKING:
    from taut.data import Dataset
    from taut.runs.folder import Stored
    from taut.training.loop import State

__all__ = ["check", "fit", "refit", "resume", "tighten"]

LONGER = "at least 0"


@with_settings(TRAINING)
def fit(
    data: DataArg,
    *,
    out: NewRun = None,
    config: Config = None,
    set_: Annotated[
        list[str] | None,
        option(
            "Any setting, such as training.patience=0.3; repeatable.",
            "--set",
            type_="section.name=value",
        ),
    ] = None,
    log: LogTo = None,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    as_json: Json = False,
    flags: Any = None,
) -> None:
    """Train a model on DATA and measure it.

    It says how good the model is on rows that it has not seen, and makes a folder with everything.

    Examples:
        taut fit wine.csv
        taut fit photos/ --binarize dynamic --minutes 5
        taut fit table.csv --latent-dim 8 --objective "DReG(num_samples=8)" --out runs/table
    """
    began = time.monotonic()
    settings = gather(flags, config, set_ or ())
    terminal.reading(data)
    from taut.runs.fit import start
    from taut.runs.folder import check_apart
    from taut.runs.logs import check_log

    check_log(log)
    if out is not None:
        check_apart(out, (config,))
    run, dataset, state = start(data, out, settings, overwrite=overwrite)
    terminal.show_data(terminal.message, dataset, settings)
    if run.info["pace"]:
        terminal.message(f"{'steps':<11}{run.info['pace']}")
    if state.step:
        terminal.message(f"started again: {_resuming(state)}")
    _train_and_measure(run, dataset, state, began, as_json, verbose, data, log)


def resume(
    run: RunArg,
    minutes: Annotated[
        float | None,
        option(
            "Train for so long from here on, a finished run too.",
            type_="float",
            low=0.0,
            words=LONGER,
        ),
    ] = None,
    max_epochs: Annotated[
        int | None,
        count("Train up to so many passes over the training data in all, a finished run too."),
    ] = None,
    log: LogTo = None,
    trust: Trust = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Go on with a training that was stopped, or make one longer.

    It begins at the last checkpoint and ends in the same bits as a training that was never stopped.

    Examples:
        taut resume runs/wine-1
        taut resume runs/wine-1 --minutes 5
    """
    began = time.monotonic()
    terminal.reading(run)
    from taut.runs.fit import resume as resume_run
    from taut.runs.folder import load
    from taut.runs.logs import check_log

    check_log(log)
    longer = minutes is not None or max_epochs is not None
    if (run / "manifest.json").exists():
        finished = load(run, trust=trust or ())
        if not longer:
            terminal.message(f"{shown(run)} is finished; nothing to resume{_longer(finished)}")
            terminal.show_evaluation(finished, as_json, verbose)
            return
    resumed, dataset, state = resume_run(
        run, minutes=minutes, max_epochs=max_epochs, trust=trust or ()
    )
    terminal.message(_resuming(state))
    if longer:
        terminal.message(
            "the added steps have a schedule of their own; the best weights of the whole training "
            "are kept"
        )
    _train_and_measure(resumed, dataset, state, began, as_json, verbose, log=log)


@with_settings(READING)
def check(
    data: DataArg,
    *,
    out: Annotated[
        Path | None,
        option(
            "Write what the columns of a table are to this TOML file, to be edited.", type_="file"
        ),
    ] = None,
    config: Config = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    flags: Any = None,
) -> None:
    """Read DATA as fit would and say what was found, or list everything that is wrong with it.

    Examples:
        taut check wine.csv
        taut check wine.csv --out wine.toml
    """
    settings = gather(flags, config)
    terminal.reading(data)
    from taut.runs.fit import assemble
    from taut.runs.folder import check_target

    target = None
    if out is not None:
        inputs = data, config, settings.data.schema, settings.data.test
        target = check_target(out, (".toml",), overwrite, inputs)
    _, dataset, _, _ = assemble(data, settings)
    if target is not None:
        _write_schema(dataset, target)
    if not as_json:
        terminal.show_data(terminal.answer, dataset, settings)
        terminal.show_columns(dataset.schema)
        return
    parts = {name: len(getattr(dataset, name)) for name in ("train", "validation", "test")}
    found = {
        "schema": dataset.schema.to_dict(),
        "rows": parts,
        "notes": list(dataset.notes),
        "fingerprint": dataset.fingerprint,
    }
    typer.echo(json.dumps(found, indent=2))


MaxEpochs = Annotated[int | None, count("Passes over the training data.")]
Minutes = Annotated[
    float | None, option("Time for training.", type_="float", low=0.0, words=LONGER)
]
Rate = Annotated[
    float | None, option("Peak of the schedule.", type_="float", low=0.0, words=LONGER)
]
BatchSize = Annotated[int | None, count("Rows per step.")]
Seed = Annotated[int | None, option("Everything random is derived from it.", type_="int")]


def tighten(
    run: RunArg,
    out: NewRun = None,
    posterior: Annotated[
        str | None,
        option(
            "A richer family, such as FullCovarianceNormal().",
            type_="text",
            values=PARTS["posterior"],
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        option(
            "A larger network, such as 'MLP(hidden=(500, 500))', with new weights.",
            type_="text",
            values=PARTS["encoder"],
        ),
    ] = None,
    objective: Annotated[
        str | None,
        option(
            "What is maximised; by default StickingTheLanding(num_samples=4).",
            type_="text",
            values=PARTS["objective"],
        ),
    ] = None,
    simulated: Annotated[
        float | None,
        option(
            "Share of each batch that the model draws; by default 0.5 for few rows, else 0.",
            type_="float",
            low=0.0,
            high=1.0,
            words="from 0 to 1",
        ),
    ] = None,
    max_epochs: MaxEpochs = None,
    minutes: Minutes = None,
    learning_rate: Rate = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    overwrite: Overwrite = False,
    trust: Trust = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Train the posterior on with decoder and prior frozen.

    The ELBO rises toward the same log p(x).

    Examples:
        taut tighten runs/digits-1
        taut tighten runs/digits-1 --posterior "FullCovarianceNormal()" --minutes 5
    """
    began = time.monotonic()
    terminal.reading(run)
    from taut.runs.folder import load
    from taut.runs.tighten import tighten as tighten_run

    settings = _given(
        objective=objective,
        max_epochs=max_epochs,
        minutes=minutes,
        learning_rate=learning_rate,
        batch_size=batch_size,
        simulated=simulated,
        seed=seed,
    )
    new, dataset, state = tighten_run(
        load(run, trust=trust or ()),
        out,
        posterior=posterior,
        encoder=encoder,
        overwrite=overwrite,
        **settings,
    )
    if "observed" in new.info:
        terminal.message(
            f"the generator of {shown(run)} stays as it is; {shown(new.path)} observes it with "
            "Gaussian noise of fitted width, through a new posterior: log p(x) is of both"
        )
    else:
        terminal.message(
            f"decoder and prior of {shown(run)} stay as they are; {shown(new.path)} gets a better "
            f"posterior"
        )
    _train_and_measure(new, dataset, state, began, as_json, verbose)
    if not as_json and "observed" not in new.info:
        terminal.show_tightening(new)


def refit(
    run: RunArg,
    out: NewRun = None,
    prior: Annotated[
        str | None,
        option(
            "The prior that is fitted; by default Flow().",
            type_="text",
            values=PARTS["prior"],
        ),
    ] = None,
    likelihood: Annotated[
        str | None,
        option(
            "Instead of a prior: the scales of a Normal, as in Normal(scale='per_feature').",
            type_="text",
            values=PARTS["likelihood"],
        ),
    ] = None,
    objective: Annotated[
        str | None,
        option(
            "What is maximised; by default ELBO().",
            type_="text",
            values=PARTS["objective"],
        ),
    ] = None,
    max_epochs: MaxEpochs = None,
    minutes: Minutes = None,
    learning_rate: Rate = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    overwrite: Overwrite = False,
    trust: Trust = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Fit another prior, or other scales of a Normal likelihood, with encoder and decoder frozen.

    A prior is fitted to the codes of the training rows, and what it gains is measured on those held
    out. Scales are those of the residuals.

    Examples:
        taut refit runs/digits-1
        taut refit runs/digits-1 --prior "VampPrior(components=100)" --minutes 5
    """
    began = time.monotonic()
    terminal.reading(run)
    from taut.runs.folder import load
    from taut.runs.refit import refit as refit_run
    from taut.runs.rescale import rescale

    settings = _given(
        objective=objective,
        max_epochs=max_epochs,
        minutes=minutes,
        learning_rate=learning_rate,
        batch_size=batch_size,
        seed=seed,
    )
    old = load(run, trust=trust or ())
    if likelihood is not None:
        if prior is not None:
            raise UsageError("--prior and --likelihood: refit one after the other")
        new, dataset, state = rescale(
            old, out, likelihood=likelihood, overwrite=overwrite, **settings
        )
    else:
        new, dataset, state = refit_run(
            old, out, prior=prior or "Flow()", overwrite=overwrite, **settings
        )
    what = f"another prior, {new.config.model.prior}" if likelihood is None else "other scales"
    terminal.message(
        f"encoder and decoder of {shown(run)} stay as they are; {shown(new.path)} gets {what}"
    )
    _train_and_measure(new, dataset, state, began, as_json, verbose)
    if not as_json and likelihood is None:
        terminal.show_refit(new)


def _given(**settings: Any) -> dict[str, Any]:
    return {k: v for k, v in settings.items() if v is not None}


def _longer(run: Stored) -> str:
    from taut.models.exact import ExactModel

    if isinstance(run.model, ExactModel):
        return ""
    return ": --minutes or --max-epochs makes its training longer"


def _resuming(state: State) -> str:
    return f"resuming at step {state.step:,} of {state.total_steps:,}"


def _write_schema(dataset: Dataset, out: Path) -> None:
    from taut.data import to_toml
    from taut.system.storage import write_bytes

    if dataset.schema.kind != "table":
        raise UsageError("--out is for tables: --kind and --levels say what an array is")
    schema = dataset.schema
    text = to_toml(schema.columns, schema.missing_values, schema.constraints)
    write_bytes(out, text.encode())


def _train_and_measure(
    run: Stored,
    dataset: Dataset,
    state: State,
    began: float,
    as_json: bool,
    verbose: bool,
    data: str = "",
    log: str | None = None,
) -> None:
    from taut.system import parallel

    try:
        _fit_exact(run, dataset)
        _train(run, dataset, state, log)
        _compare(run, dataset)
        _measure(run, dataset)
    except (KeyboardInterrupt, Terminated) as stop:
        if any((run.path / "checkpoints").glob("step-*")):
            stop.args = (
                f"stopped, the state is saved: go on with `taut resume {shown(run.path)}`",
            )
        raise
    if parallel.main():
        terminal.show_evaluation(run, as_json, verbose)
        terminal.show_next(run, time.monotonic() - began, data)


def _train(run: Stored, dataset: Dataset, state: State, log: str | None) -> None:
    from taut.models.exact import ExactModel
    from taut.runs.fit import train_run

    exact = isinstance(run.model, ExactModel)
    unit = "" if run.model.no_density else " nats"
    done, total = state.step, state.total_steps
    # closing: if a signal arrives here and not in the training, the training still gets to save its
    # state
    with (
        bars.progress("training", total) as advance,
        closing(train_run(run, dataset, state, log)) as records,
    ):
        advance(done, "")
        for record in records:
            kind, bound = "held-out", record.validation
            if bound is None:
                kind, bound = "train", record.bound
            what, each = ("log p(x)", "pass") if exact else ("bound", "epoch")
            if run.model.no_density:
                what = "distance as the critic sees it"
            note = clause(", {} steps skipped", record.skipped)
            # of a model that is exact the plan follows from its passes
            place = total * record.step // state.total_steps
            advance(
                place - done,
                f"{each} {record.epoch:.0f}, {kind} {what} {bound:.2f}{unit}{note}",
            )
            done = place
    if state.micro_batches > 1:
        terminal.message(
            f"memory was short: each step was taken in {state.micro_batches} micro-batches, with "
            f"the same result"
        )
    if state.step < state.total_steps and not (exact and run.info["ended"] == "patience"):
        reasons = {"time": "time is up"}
        reason = reasons.get(run.info["ended"], "the held-out bound no longer grows")
        terminal.message(f"stopped at step {state.step:,} of {state.total_steps:,}: {reason}")


def _fit_exact(run: Stored, dataset: Dataset) -> None:
    from taut.runs.candidates import beside, fit_exact

    total, done = 1000, 0
    with (
        bars.progress(beside(run, dataset), total, quiet=True) as advance,
        closing(fit_exact(run, dataset)) as passes,
    ):
        for record, share in passes:
            note = f"pass {record.step}, held-out log p(x) {record.validation or 0:.2f} nats"
            advance(int(total * share) - done, note)
            done = int(total * share)


def _compare(run: Stored, dataset: Dataset) -> None:
    from taut.runs.candidates import COMPARED, compare

    rows = min(COMPARED, len(dataset.validation))
    with bars.progress("comparing", max(1, rows), quiet=True) as advance:
        for block in compare(run, dataset):
            advance(len(block.ess), "")


def _measure(run: Stored, dataset: Dataset) -> None:
    from taut.runs.fit import evaluate

    rows = len(dataset.test) or len(dataset.validation) or len(dataset.train)
    with bars.progress("measuring", rows) as advance:
        for block in evaluate(run, dataset):
            advance(len(block.ess), "")
