"""Commands that use a run: sample, reconstruct, encode, impute, decode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taut.cli import bars, terminal
from taut.cli.files import (
    data_for,
    data_target,
    first_line,
    load_run,
    numbered,
    of_cells,
    say_written,
    write,
    write_cells,
    write_data,
)
from taut.cli.options import (
    HeldOut,
    Json,
    Key,
    Numbers,
    Out,
    Overwrite,
    RunArg,
    Seed,
    Trust,
    count,
    option,
)
from taut.system.counting import COMPLETIONS
from taut.system.errors import DataError, UsageError, shown

if TYPE_CHECKING:
    import torch

    from taut.data import New
    from taut.runs.folder import Stored

__all__ = ["decode", "encode", "impute", "reconstruct", "sample"]

Draw = Annotated[bool, option("A draw from p(x|z) instead of its mean.", "--draw")]


def sample(
    run: RunArg,
    num_samples: Annotated[int, count("How many.")] = 64,
    given: Annotated[
        list[str] | None,
        option(
            "A value that the model is conditioned on, such as batch=A; total=VALUE for counts "
            "given their total, by default the mean of the training; repeatable.",
            type_="column=value",
        ),
    ] = None,
    mean: Annotated[
        bool,
        option("The mean of p(x|z) instead of a draw: smoother than any real row.", "--mean"),
    ] = False,
    out: Out = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Make new rows: z from the prior, then x from p(x|z).

    Examples:
        taut sample runs/wine-1 --num-samples 100 --out new.csv
        taut sample runs/digits-1 --out new.png
        taut sample runs/cells-1 --given batch=A --out new.h5ad
    """
    loaded = load_run(run, trust)
    from taut.runs.making import sample_rows

    target, fixed = data_target(out, "samples", loaded, overwrite), _assignments(given or [])
    with bars.blocks("sampling"):
        values = sample_rows(loaded, num_samples, given=fixed, mean=mean, seed=seed)
    if target.suffix != ".h5ad":
        write(values, target, loaded, as_json)
        return
    from taut.runs.annotated import sampled, write_h5ad
    from taut.system import parallel

    parallel.on_main(lambda: write_h5ad(sampled(values, loaded.schema, fixed), target))
    say_written(target, values.shape, as_json)


def reconstruct(
    run: RunArg,
    data: HeldOut = None,
    key: Key = None,
    draw: Draw = False,
    out: Out = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Encode DATA and decode it again, at the posterior mean.

    Examples:
        taut reconstruct runs/digits-1 photos/ --out again.png
        taut reconstruct runs/cells-1 cells.h5ad --out smooth.h5ad
    """
    loaded = load_run(run, trust)
    from taut.runs.handed import ids_of
    from taut.system import parallel
    from taut.use import tasks

    target = data_target(out, "reconstructions", loaded, overwrite, data)
    new = data_for(loaded, data, key)
    with bars.blocks("reconstructing"):
        values = tasks.reconstruct(loaded.model, new.rows, draw=draw, seed=seed)
    if target.suffix != ".h5ad":
        write(values, target, loaded, as_json, ids_of(new, loaded.schema))
        return
    parallel.on_main(
        lambda: write_cells(
            target, loaded, new, data, lambda handed: handed.rows(values, mean=not draw)
        )
    )
    say_written(target, values.shape, as_json)


def encode(
    run: RunArg,
    data: HeldOut = None,
    key: Key = None,
    num_samples: Annotated[
        int | None, count("Draws of the posterior for each row, instead of its mean.")
    ] = None,
    out: Numbers = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Embed DATA: the mean of the posterior q(z|x) of each row, the same at every call.

    Examples:
        taut encode runs/cells-1 cells.h5ad --out embedding.csv
        taut encode runs/cells-1 cells.h5ad --out embedded.h5ad
    """
    loaded = load_run(run, trust)
    from taut.runs.folder import check_target
    from taut.runs.handed import ids_of
    from taut.system import parallel
    from taut.use import export, tasks

    formats: tuple[str, ...] = export.ARRAYS
    if num_samples is None:
        formats = export.NUMBERS + of_cells(loaded)
    target = check_target(out or Path("embedding.npy"), formats, overwrite, (data, *loaded.inputs))
    new = data_for(loaded, data, key)
    with bars.blocks("encoding"):
        values = tasks.encode(loaded.model, new.rows, num_samples, seed=seed)
    names, ids = [f"z{i}" for i in range(values.shape[-1])], ids_of(new, loaded.schema)
    if target.suffix == ".h5ad":
        parallel.on_main(
            lambda: write_cells(
                target, loaded, new, data, lambda handed: handed.embedding(values, names)
            )
        )
    else:
        parallel.on_main(lambda: export.write_numbers(values, target, names, ids=ids))
    say_written(target, values.shape, as_json)


def impute(
    run: RunArg,
    data: HeldOut = None,
    key: Key = None,
    num_samples: Annotated[int, count("Samples per row (K) of the importance weights.")] = 1000,
    num_imputations: Annotated[
        int,
        count(
            "Complete DATA so many times by draws, a file each, not once by means and modes.",
            0,
            COMPLETIONS,
        ),
    ] = 0,
    out: Out = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Fill in what is missing in DATA; every observed cell stays exactly as it is.

    Examples:
        taut impute runs/orders-1 orders.csv --out full.csv
        taut impute runs/orders-1 orders.csv --num-imputations 5
    """
    loaded = load_run(run, trust)
    from taut.runs.handed import NO_GAPS
    from taut.runs.making import fill_rows
    from taut.system import parallel

    if loaded.schema.kind == "count":
        raise UsageError(NO_GAPS)
    base = data_target(
        out, "imputed", loaded, overwrite or num_imputations > 0, None if num_imputations else data
    )
    targets = numbered(base, num_imputations, overwrite, (data, *loaded.inputs))
    new = data_for(loaded, data, key)
    with bars.blocks("imputing"):
        result = fill_rows(loaded, new.rows, num_samples, num_imputations, seed=seed)
    complete = result.draws if num_imputations else [result.values]

    def write() -> list[int]:
        pairs = zip(complete, targets, strict=True)
        return [_write_filled(values, target, new, loaded) for values, target in pairs]

    filled, *_ = parallel.on_main(write)
    without, uneven = _doubtful(new.rows, result)
    line = first_line(data, len(new.rows))
    if rows := terminal.name_rows(without, line):
        terminal.message(f"warning: no latent point gives a number to {rows}: their gaps stay")
    if rows := terminal.name_rows(uneven, line):
        terminal.message(
            f"warning: few effective samples carry what is filled in, in {rows}: do not rely on it "
            f"there"
        )
    files = ", ".join(shown(t) for t in targets)
    if as_json:
        written = {
            "files": [str(t) for t in targets],
            "filled": filled,
            "median_ess": float(result.ess.median()),
            "uneven_rows": int(uneven.sum()),
            "rows_without_a_number": int(without.sum()),
        }
        typer.echo(json.dumps(written))
    elif filled:
        width = len(loaded.schema.written) or new.rows[:1].numel()
        share = float(f"{100 * filled / max(1, len(new.rows) * width):.2g}")
        terminal.answer(f"{filled:,} cells filled ({share:g} %), in {files}")
    else:
        terminal.answer(f"no cell is missing: {files} holds the same rows")


def _count_filled(before: Any, after: Any) -> int:
    pairs = zip(before.split(4096), after.split(4096), strict=True)
    return sum(int((a.isnan() & ~b.isnan()).sum()) for a, b in pairs)


def _doubtful(rows: Any, result: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns which rows keep their gaps, and which were filled by few effective samples, (N,)."""
    import torch

    gaps = torch.cat([part.isnan().flatten(1).any(1) for part in rows.split(4096)])
    return gaps & (result.ess == 0), gaps & (result.ess > 0) & ~result.reliable


def _write_filled(values: torch.Tensor, target: Path, new: New, run: Stored) -> int:
    """Writes completed rows, into the table that they came from if there is one; returns how many
    cells it filled.
    """
    if new.table is None or target.suffix == ".npy":
        write_data(values, target, run)
        return _count_filled(new.rows, values)
    from taut.data import fill
    from taut.use.export import shortest, write_table

    whole, count = fill(new.table, shortest(values), run.schema)
    write_table(whole, target, own=True)
    return count


def decode(
    run: RunArg,
    z: Annotated[Path, typer.Argument(metavar="Z", help="An .npy file of latent points, (N, D).")],
    draw: Draw = False,
    out: Out = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Decode latent points: the mean of p(x|z) for each row of Z.

    Examples:
        taut decode runs/digits-1 z.npy --out decoded.png
    """
    loaded = load_run(run, trust)
    import torch

    from taut.data import read
    from taut.models.exact import ExactModel
    from taut.models.stepwise import StepwiseModel
    from taut.use import tasks

    if loaded.model.condition is not None:
        raise UsageError(
            "this model is conditioned on a context, which Z does not hold: use taut sample "
            "--given, or Python"
        )
    target = data_target(out, "decoded", loaded, overwrite, z)
    if isinstance(loaded.model, StepwiseModel):
        raise UsageError(f"{shown(run)}: {loaded.model.why_no_code}; `taut sample` draws rows")
    prior = loaded.model.latent_prior()
    latent = prior.event_shape.numel()
    points = torch.from_numpy(read(z).data).to(torch.get_default_dtype())
    if points.dim() != 2 or points.shape[1] != latent or not bool(points.isfinite().all()):
        raise DataError(
            f"{shown(z)}: latent points must be finite numbers of shape (N, {latent}), not "
            f"{tuple(points.shape)}"
        )
    support = prior.support if isinstance(loaded.model, ExactModel) else None
    if support is not None and not bool(support.check(points).all()):
        raise DataError(
            f"{shown(z)}: the latent variables of {loaded.config.model.model} are categories, "
            "numbered from 0: `taut encode RUN --num-samples 1` gives some"
        )
    with bars.blocks("decoding"):
        values = tasks.decode(loaded.model, points, draw=draw, seed=seed)
    write(values, target, loaded, as_json)


def _assignments(texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    if wrong := [text for text, (_, equals, _) in zip(texts, pairs, strict=True) if not equals]:
        raise UsageError(f"--given {shown(wrong[0])}: write it like --given COLUMN=VALUE")
    names = [name for name, _, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"--given {shown(twice[0])} comes twice: give one value for each column")
    return {name: value for name, _, value in pairs}
