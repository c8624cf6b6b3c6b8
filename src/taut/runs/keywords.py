"""``taut.fit``: a training and its measurement in one call, each setting a keyword."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from taut.build.config import Config
from taut.build.model import describe_part
from taut.build.spec import to_spec
from taut.data.in_memory import without_rows
from taut.model import Likelihood, Posterior, Prior
from taut.objectives import Objective
from taut.runs.assemble import merge
from taut.runs.carry_out import carry_out
from taut.runs.fit import start
from taut.runs.fitted import Source
from taut.runs.logs import Log, check_log
from taut.runs.run import Run, able
from taut.runs.telling import Telling

__all__ = ["fit"]

PARTS = ("prior", "likelihood", "posterior")
NO_SETTINGS = ("source", "out", "config", "verbose", "log", "others")


def fit(
    source: Source,
    out: str | Path | None = None,
    *,
    config: Config | None = None,
    model: str | None = None,
    latent_dim: int | None = None,
    objective: Objective | str | None = None,
    prior: Prior | str | None = None,
    likelihood: Likelihood | str | None = None,
    posterior: Posterior | str | None = None,
    encoder: str | None = None,
    decoder: str | None = None,
    max_epochs: int | None = None,
    minutes: float | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    clip_norm: float | None = None,
    averaging: float | None = None,
    patience: float | None = None,
    num_samples: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    threads: int | None = None,
    compile: str | None = None,  # noqa: A002 (the name of the setting)
    precision: str | None = None,
    checkpoint_seconds: float | None = None,
    test: Source | None = None,
    validation_fraction: float | None = None,
    test_fraction: float | None = None,
    split: str | None = None,
    schema: str | Path | None = None,
    missing_values: tuple[str, ...] | list[str] | None = None,
    condition: tuple[str, ...] | list[str] | None = None,
    kind: str | None = None,
    levels: tuple[int, int] | None = None,
    shape: tuple[int, ...] | None = None,
    binarize: str | None = None,
    key: str | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    layer: str | None = None,
    resize: tuple[int, int] | None = None,
    crop: bool | None = None,
    alpha: str | None = None,
    skip_bad: float | None = None,
    stream: bool | None = None,
    log: str | Log | None = None,
    verbose: bool | None = None,
    **others: Any,
) -> Run:
    """Trains a model on data, measures it and returns the run.

    What is None follows from the data, or is as in ``config``.

    Args:
        source: A data frame (pandas, polars, Arrow), an array or a tensor, (N, *event), a sparse
            matrix, an AnnData, or what ``taut fit`` takes: the name of a file, digits,
            openml:NAME.
        out: The folder to make; by default the next free one below runs/.
        config: All settings at once; the arguments that follow are laid over it.
        model: VAE, or the specification of a model whose log p(x) is exact, such as
            "HiddenTree(num_states=64)". By default a table is given to hidden trees and to a VAE,
            rows of real numbers to factor analysers as well, and what is best on the
            validation rows is kept, unless a part of a VAE or an objective is named; all else is
            given to a VAE.
        latent_dim: D; by default half the number of elements of a row, of a table as many as
            columns, 2 to 32.
        objective: What is maximised, or its specification; by default ELBO(), and
            DReG(num_samples=8) where entries are missing.
        prior: p(z), or its specification; by default StandardNormal().
        likelihood: p(x|z), or its specification; by default what follows from the data.
        posterior: q(z|x), or its specification; by default DiagonalNormal().
        encoder: Specification of the network of the posterior, such as "MLP(hidden=(200,))".
        decoder: That of the likelihood.
        max_epochs: Passes over the training rows; by default as many as make 20,000 steps, at least
            20 and at most 500 (2000 for tables).
        minutes: Time for training.
        batch_size: Rows a step, 128.
        learning_rate: Peak of the schedule; by default 2e-3, and 4e-3 for 10,000 rows or more of
            bits or levels.
        weight_decay: AdamW's, 0.
        clip_norm: Largest norm of the gradient, 200 nats per unit.
        averaging: Decay of the running average of the weights, 0.999; 0 keeps the weights
            themselves.
        patience: Share of the planned training without a better held-out bound after which it
            stops, 0.2.
        num_samples: K of the importance-weighted estimate of log p(x), 500.
        seed: Everything random is derived from it, 0.
        device: auto, cpu, cuda, cuda:1 or mps.
        threads: Threads of the processor; by default measured.
        compile: Whether a step runs as one compiled graph: on, off, or auto.
        precision: Of the networks in training: float32 or bfloat16.
        checkpoint_seconds: Seconds between checkpoints, 30.
        test: An official test set, like ``source``.
        validation_fraction: Share held out to watch the training by, 0.1.
        test_fraction: Share held out for the final measurement, 0.1.
        split: By "rows", or all "copies" of a row in one part; by default what suits the data.
        schema: Of a table: a TOML file that says what its columns are.
        missing_values: Of a table: further texts and numbers that mean missing.
        condition: Columns that the others are modelled given: of a table, or of ``obs`` of an
            AnnData (batch, donor), which must hold levels.
        kind: Of an array: binary, levels, real or count, instead of what is inferred.
        levels: Of an array: smallest and largest level.
        shape: Of an array: shape of a row that is stored flat.
        binarize: Of grey images: none, dynamic or threshold.
        key: Of an .npz file: which array.
        delimiter: Of a text table; by default the one that is found.
        decimal: Of a text table: "." or ",".
        encoding: Of a text table that is not UTF-8.
        header: Of a text table: whether its first line names the columns.
        layer: Of an AnnData or an .h5ad file: which matrix holds the counts.
        resize: Of image files: height and width.
        crop: Of image files: whether the centre is cut out.
        alpha: Of image files: drop or composite.
        skip_bad: Of image files: share of unreadable ones that may be omitted.
        stream: Of Parquet files: whether they stay on the disk.
        log: "tensorboard", "mlflow" or "wandb", which get each row of the history, or a function
            that is called with each of them, a mapping.
        verbose: Whether to tell of the data and the progress on stderr; by default in terminals and
            notebooks.
        **others: None; a wrong name is answered with the right one.

    Raises:
        DataError: the data are refused.
        UsageError: a setting is wrong, or the folder exists.
        DivergedError: training met numbers that are not finite and could not be cured.
        StorageError: the folder cannot be written.

    Examples:
        >>> import taut, tempfile, torch
        >>> x = torch.randn(200, 1) @ torch.randn(1, 5) + 0.1 * torch.randn(200, 5)
        >>> run = taut.fit(x, tempfile.mkdtemp() + "/run", latent_dim=1, max_epochs=2)
        >>> run.encode(x).shape
        torch.Size([200, 1])
    """
    given = {k: v for k, v in locals().items() if v is not None and k not in NO_SETTINGS}
    settings, parts, official = _settled(given | others)
    check_log(log)
    threads_before, began, tell = torch.get_num_threads(), time.monotonic(), Telling(verbose)
    try:
        run, data, state = start(
            source, out, merge(config or Config(), settings), parts=parts, test=official
        )
        run.kept = None if data.name else data
        run.like = without_rows(source) if run.schema.kind == "table" else None
        parts_of = f"{len(data.train)} + {len(data.validation)} + {len(data.test)} rows"
        tell.line(f"{data.schema.describe()}; {parts_of} to train, validate and test")
        for note in data.notes:
            tell.line(f"note: {note}")
        carry_out(run, data, state, tell, log)
    finally:
        torch.set_num_threads(threads_before)
    tell.line(f"done in {time.monotonic() - began:.0f} s: {run.path}")
    return able(run)


def _settled(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Returns plain settings, the parts that were given built, and a test set that is data."""
    settings, parts, official = dict(given), {}, None
    for name in PARTS:
        part = settings.get(name)
        if part is not None and not isinstance(part, str):
            parts[name], settings[name] = part, str(describe_part(part))
    if isinstance(settings.get("objective"), Objective):
        settings["objective"] = str(to_spec(settings["objective"]))
    if isinstance(settings.get("schema"), Path):
        settings["schema"] = str(settings["schema"])
    if isinstance(settings.get("test"), str | Path):
        settings["test"] = str(settings["test"])
    else:
        official = settings.pop("test", None)
    return settings, parts, official
