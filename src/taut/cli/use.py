"""Commands that use a run: sample, reconstruct, encode, impute, decode, score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taut.cli import terminal
from taut.cli.files import (
    data_for,
    data_target,
    first_line,
    load_run,
    numbered,
    say_written,
    write,
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
    Verbose,
    count,
    option,
)
from taut.system.errors import DataError, UsageError, shown

if TYPE_CHECKING:
    import torch

    from taut.data import New
    from taut.runs.folder import Run

__all__ = ["decode", "encode", "impute", "reconstruct", "sample", "score"]

CLIMBING = 1000  # rows that get a better method than importance sampling, at most
Draw = Annotated[bool, option("A draw from p(x|z) instead of its mean.", "--draw")]


def sample(
    run: RunArg,
    num_samples: Annotated[int, count("How many.")] = 64,
    given: Annotated[
        list[str] | None,
        option(
            "A value that the model is conditioned on; total=VALUE for counts; repeatable.",
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
    """
    loaded = load_run(run, trust)
    from taut.runs.folder import sample_run

    target = data_target(out, "samples", loaded, overwrite)
    with terminal.blocks("sampling"):
        values = sample_run(
            loaded, num_samples, given=_assignments(given or []), mean=mean, seed=seed
        )
    write(values, target, loaded, as_json)


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
    """
    loaded = load_run(run, trust)
    from taut.use import tasks

    target = data_target(out, "reconstructions", loaded, overwrite)
    x = data_for(loaded, data, key).rows
    with terminal.blocks("reconstructing"):
        values = tasks.reconstruct(loaded.model, x, draw=draw, seed=seed)
    write(values, target, loaded, as_json)


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
    """
    loaded = load_run(run, trust)
    from taut.runs.folder import check_target
    from taut.runs.handed import ids_of
    from taut.system import parallel
    from taut.use import export, tasks

    formats = export.NUMBERS if num_samples is None else export.ARRAYS
    target = check_target(out or Path("embedding.npy"), formats, overwrite)
    new = data_for(loaded, data, key)
    with terminal.blocks("encoding"):
        values = tasks.encode(loaded.model, new.rows, num_samples, seed=seed)
    names, ids = [f"z{i}" for i in range(values.shape[-1])], ids_of(new, loaded.schema)
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
    from taut.evidence import cells
    from taut.system import parallel

    base = data_target(out, "imputed", loaded, overwrite or num_imputations > 0)
    targets = numbered(base, num_imputations, overwrite)
    new = data_for(loaded, data, key)
    with terminal.blocks("imputing"):
        result = cells.impute(
            loaded.model, new.rows, num_samples, num_imputations=num_imputations, seed=seed
        )
    filled = _count_filled(new.rows, result.values)
    complete = result.draws if num_imputations else [result.values]

    def write() -> None:
        for values, target in zip(complete, targets, strict=True):
            _write_filled(values, target, new, loaded)

    parallel.on_main(write)
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
        share = filled / max(1, len(new.rows) * new.rows[:1].numel())
        terminal.answer(f"{filled:,} cells filled ({100 * share:.2g} %), in {files}")
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


def _write_filled(values: torch.Tensor, target: Path, new: New, run: Run) -> None:
    """Writes completed rows, into the table that they came from if there is one."""
    if new.table is None or target.suffix == ".npy":
        write_data(values, target, run)
        return
    from taut.data import fill
    from taut.use.export import shortest, write_table

    write_table(fill(new.table, shortest(values), run.schema), target, own=True)


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
    from taut.use import tasks

    if loaded.model.condition is not None:
        raise UsageError(
            "this model is conditioned on a context, which Z does not hold: use taut sample "
            "--given, or Python"
        )
    target = data_target(out, "decoded", loaded, overwrite)
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
    with terminal.blocks("decoding"):
        values = tasks.decode(loaded.model, points, draw=draw, seed=seed)
    write(values, target, loaded, as_json)


def score(
    run: RunArg,
    data: HeldOut = None,
    key: Key = None,
    num_samples: Annotated[
        int, count("Samples per row (K) of the importance-weighted estimate.")
    ] = 500,
    cells: Annotated[
        bool,
        option(
            "Also log p of each entry given the others of its row: why a row is odd.", "--cells"
        ),
    ] = False,
    regret: Annotated[
        bool,
        option(
            "Also the likelihood regret: what the best posterior of each row adds to its ELBO.",
            "--regret",
        ),
    ] = False,
    flag: Annotated[
        float | None,
        option(
            "Flag odd rows: the share of usual rows that may be flagged, such as 0.01. Adds "
            "p_value and typicality of each row, from the rows that the run held out.",
            "--flag",
        ),
    ] = None,
    out: Numbers = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    trust: Trust = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Say how likely each row is: log p(x) in nats, its error, and whether it is reliable.

    Where importance sampling fails, up to 1,000 rows get a better proposal each, and up to 100 of
    them annealing.

    Examples:
        taut score runs/orders-1 orders-new.csv --cells
        taut score runs/digits-1 --out scores.parquet
    """
    loaded = load_run(run, trust)
    import torch

    from taut.evidence.outliers import oddity
    from taut.runs.folder import check_target
    from taut.runs.handed import ids_of
    from taut.system import parallel
    from taut.use import export

    if flag is not None and data is None:
        raise UsageError("--flag compares data with the rows that the run held out: give DATA")
    target = check_target(out or Path("scores.csv"), export.NUMBERS, overwrite)
    new = data_for(loaded, data, key)
    rows = _evidence(loaded, new, num_samples, seed)
    evidence = rows.first
    names = ("log_evidence", "log_evidence_error", "reliable", "method")
    columns = {name: getattr(rows, name) for name in names}
    columns |= {name: getattr(evidence, name) for name in ("ess", "khat", "elbo")}
    line = first_line(data, len(new.rows))
    if flag is not None:
        usual = _evidence(loaded, data_for(loaded, None, None), num_samples, seed).log_evidence
        odd_rows = oddity(rows.log_evidence, usual, flag)
        columns |= odd_rows._asdict()
    if regret:
        columns |= _regret(loaded, new, evidence, seed, line)
    odd = _cell_columns(loaded, new, num_samples, seed, line) if cells else {}
    for name, (value, error, reliable) in odd.items():
        columns |= {
            f"log_p({name})": value,
            f"log_p_error({name})": error,
            f"log_p_reliable({name})": reliable,
        }
    table = torch.stack([c.double() for c in columns.values()], 1)
    parallel.on_main(
        lambda: export.write_numbers(
            table, target, list(columns), {"method": rows.methods}, ids_of(new, loaded.schema)
        )
    )
    result = {"file": str(target), **rows.to_dict()}
    if flag is not None:
        result["flagged"] = {
            "count": int(odd_rows.flagged.sum()),
            "rate": flag,
            "held_out": len(usual),
        }
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    units = terminal.units_of(loaded.schema)
    terminal.show_numbers(result, units, str(run), verbose)
    if odd:
        values = {name: found[0] for name, found in odd.items()}
        terminal.show_oddest(rows.log_evidence, values, first_line=line)
    if flag is not None:
        terminal.answer(
            f"flagged: {int(odd_rows.flagged.sum())} of {len(new.rows)}; of {units.one}s like the "
            f"{len(usual)} that were held out, at most {flag:.2g} would be"
        )
    terminal.answer(f"the numbers of each {units.one} are in {shown(target)}")


def _evidence(run: Run, new: New, num_samples: int, seed: int) -> Any:
    """Returns log p(x) of each row by the best method that it needs."""
    from taut.evidence import Evidence, importance_blocks, settle

    x, blocks = new.rows, []
    with terminal.progress("scoring", len(x)) as advance:
        for block in importance_blocks(run.model, x, num_samples, seed=seed):
            blocks.append(block)
            advance(len(block.ess), "")
    first = Evidence.concatenate(blocks)
    doubtful = min(CLIMBING, max(1, int((~first.reliable).sum())))
    with terminal.progress("improving", doubtful, quiet=True) as advance:
        rows = settle(
            run.model,
            x,
            first,
            seed=seed,
            climbing=CLIMBING,
            advance=lambda count: advance(count, ""),
        )
    return rows.impossible(new.impossible)


def _regret(
    run: Run, new: New, evidence: Any, seed: int, line: int | None
) -> dict[str, torch.Tensor]:
    import torch

    from taut.evidence.gaps import optima_blocks
    from taut.models.exact import ExactModel

    if isinstance(run.model, ExactModel):
        raise UsageError(
            f"--regret: the posterior of {run.config.model.model} is exact, and none is better: "
            "omit it"
        )
    rows: Any = new.rows
    parts, arrived = [], []
    with terminal.progress("best posteriors", len(rows)) as advance:
        for optima in optima_blocks(run.model, rows, seed=seed):
            parts.append(optima.own.elbo)
            arrived.append(optima.arrived[:, 0])
            advance(len(parts[-1]), "")
    if named := terminal.name_rows(~torch.cat(arrived), line):
        terminal.message(
            f"warning: the best posterior was not quite reached in {named}: the regret is at least "
            f"the number given"
        )
    return {"regret": torch.cat(parts) - evidence.elbo}


def _cell_columns(
    run: Run, new: New, num_samples: int, seed: int, line: int | None
) -> dict[str, tuple[torch.Tensor, ...]]:
    """Returns log p of each entry given the others of its row, its error and whether it is
    reliable, by its column.
    """
    import torch

    from taut.evidence.cells import cell_scores

    schema, x = run.schema, new.rows
    if len(schema.event_shape) != 1:
        raise UsageError("--cells is for rows of columns, not for images")
    with terminal.blocks("scoring entries"):
        scores = cell_scores(run.model, x, num_samples, seed=seed)
    names = [f"x{i}" for i in range(scores.value.shape[1])]
    if schema.kind == "table":
        names = [schema.modelled[i].name for i in schema.rest]
    missing = torch.cat([run.model.split(part)[0].isnan() for part in x.split(4096)])
    if rows := terminal.name_rows((~scores.reliable & ~missing).any(1), line):
        terminal.message(
            f"warning: log p of some entries is not reliable in {rows}: see log_p_reliable(NAME)"
        )
    return {name: tuple(part[:, i] for part in scores) for i, name in enumerate(names)}


def _assignments(texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    if wrong := [text for text, (_, equals, _) in zip(texts, pairs, strict=True) if not equals]:
        raise UsageError(f"--given {shown(wrong[0])}: write it like --given COLUMN=VALUE")
    return {name: value for name, _, value in pairs}
