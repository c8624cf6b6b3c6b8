"""The command that judges rows: score."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taut.cli import bars, terminal
from taut.cli.files import data_for, first_line, load_run, of_cells, write_cells
from taut.cli.options import (
    HeldOut,
    Json,
    Key,
    Numbers,
    Overwrite,
    RunArg,
    Seed,
    Trust,
    Verbose,
    count,
    option,
)
from taut.system.errors import UsageError, shown

if TYPE_CHECKING:
    import torch

    from taut.data import New
    from taut.runs.folder import Stored

__all__ = ["score"]

CLIMBING = 1000  # rows that get a better method than importance sampling, at most


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
            type_="float",
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
        taut score runs/cells-1 cells.h5ad --out scored.h5ad
    """
    loaded = load_run(run, trust)
    import torch

    from taut.evidence.outliers import caution, oddity, ranks
    from taut.runs.folder import check_target
    from taut.runs.handed import ids_of
    from taut.runs.reasons import reasons
    from taut.system import parallel
    from taut.use import export

    formats = export.NUMBERS + of_cells(loaded)
    target = check_target(out or Path("scores.csv"), formats, overwrite, (data, *loaded.inputs))
    if flag is not None:
        if data is None:
            raise UsageError("--flag compares data with the rows that the run held out: give DATA")
        held_out = data_for(loaded, None, None)
        ranks(flag, len(held_out.rows))  # refused before anything is scored
    new = data_for(loaded, data, key)
    parts = [new] if flag is None else [new, held_out]
    measured = _evidence(loaded, parts, num_samples, seed)
    rows = measured[0]
    evidence = rows.first
    names = ("log_evidence", "log_evidence_error", "reliable", "method")
    columns = {name: getattr(rows, name) for name in names}
    columns |= {name: getattr(evidence, name) for name in ("ess", "khat", "elbo")}
    line = first_line(data, len(new.rows))
    if flag is not None:
        usual = measured[1].log_evidence
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
    if target.suffix == ".h5ad":
        named = columns | {"method": rows.methods}
        parallel.on_main(
            lambda: write_cells(
                target, loaded, new, data, lambda handed: handed.named(named, "taut_")
            )
        )
    else:
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
            "part": held_out.part,
        }
        if line_of_part := caution(held_out.part):
            result["warnings"] = [*result["warnings"], line_of_part]
    oddest = []
    if odd:
        values = torch.stack([found[0] for found in odd.values()], 1)
        oddest = reasons(loaded, new.rows, rows.log_evidence, values, seed=seed)
        result["oddest"] = oddest
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    units = terminal.units_of(loaded.schema)
    terminal.show_numbers(result, units, str(run), verbose)
    terminal.show_oddest(oddest, first_line=line)
    if flag is not None:
        terminal.answer(
            f"flagged: {int(odd_rows.flagged.sum())} of {len(new.rows)}; of {units.one}s like the "
            f"{len(usual)} {held_out.part} {units.one}s, at most {100 * flag:.3g} % would be"
        )
    terminal.answer(f"the numbers of each {units.one} are in {shown(target)}")


def _evidence(run: Stored, parts: Sequence[New], num_samples: int, seed: int) -> list[Any]:
    """Returns log p(x) of each row of each part by the best method that it needs."""
    from taut.evidence import Evidence, importance_blocks
    from taut.evidence.rows import settle_together

    firsts = []
    with bars.progress("scoring", sum(len(part.rows) for part in parts)) as advance:
        for part in parts:
            blocks = []
            for block in importance_blocks(run.model, part.rows, num_samples, seed=seed):
                blocks.append(block)
                advance(len(block.ess), "")
            firsts.append(Evidence.concatenate(blocks))
    with bars.progress("improving", 1, quiet=True) as advance:
        measured = settle_together(
            run.model,
            [part.rows for part in parts],
            firsts,
            seed=seed,
            climbing=CLIMBING,
            advance=lambda count, of: advance(count, "", of),
        )
    return [rows.impossible(part.impossible) for rows, part in zip(measured, parts, strict=True)]


def _regret(
    run: Stored, new: New, evidence: Any, seed: int, line: int | None
) -> dict[str, torch.Tensor]:
    import torch

    from taut.evidence.gaps import optima_blocks
    from taut.models.exact import ExactModel
    from taut.models.stepwise import StepwiseModel

    if isinstance(run.model, StepwiseModel):
        raise UsageError(f"--regret: {run.config.model.model}: {run.model.fixed}; omit it")
    if isinstance(run.model, ExactModel):
        raise UsageError(
            f"--regret: the posterior of {run.config.model.model} is exact, and none is better: "
            "omit it"
        )
    rows: Any = new.rows
    parts, arrived = [], []
    with bars.progress("best posteriors", len(rows)) as advance:
        for optima in optima_blocks(run.model, rows, full=False, seed=seed):
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
    run: Stored, new: New, num_samples: int, seed: int, line: int | None
) -> dict[str, tuple[torch.Tensor, ...]]:
    """Returns log p of each entry given the others of its row, its error and whether it is
    reliable, by its column.
    """
    import torch

    from taut.distributions.observed import NoTermsError
    from taut.evidence.cells import cell_scores

    schema, x = run.schema, new.rows
    if len(schema.event_shape) != 1:
        raise UsageError("--cells is for rows of columns, not for images")
    try:
        with bars.blocks("scoring entries"):
            scores = cell_scores(run.model, x, num_samples, seed=seed)
    except NoTermsError as error:
        raise UsageError(f"no --cells: {error}") from error
    missing = torch.cat([run.model.split(part)[0].isnan() for part in x.split(4096)])
    if rows := terminal.name_rows((~scores.reliable & ~missing).any(1), line):
        terminal.message(
            f"warning: log p of some entries is not reliable in {rows}: see log_p_reliable(NAME)"
        )
    names = enumerate(schema.element_names)
    return {name: tuple(part[:, i] for part in scores) for i, name in names}
