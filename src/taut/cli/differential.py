"""The command that compares two groups of rows of counts: differential."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from taut.cli import bars, terminal
from taut.cli.files import load_run
from taut.cli.options import DataArg, Json, Overwrite, RunArg, Trust, option
from taut.system.errors import UsageError, shown

__all__ = ["differential"]

SHOWN = 10  # columns of counts


def differential(
    run: RunArg,
    data: DataArg,
    groups: Annotated[
        str,
        option(
            "A column of obs and the labels to compare, such as kind:A,B; with one label, all "
            "others are the second group.",
            type_="column:a,b",
        ),
    ],
    rate: Annotated[
        float,
        option(
            "Share of false discoveries among those that are counted.",
            type_="float",
            low=0,
            high=1,
            words="from 0 to 1",
        ),
    ] = 0.05,
    out: Annotated[
        Path | None, option("The file (.csv, .parquet) to write.", "--out", type_="file")
    ] = None,
    overwrite: Overwrite = False,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Say which genes differ between two groups of cells, at a stated rate of false discoveries.

    The file has a line for each gene: denoised means of both groups at one total, the fold change
    of the counts and its error, the posterior probability of a difference, and the rate. Batches
    that the model is conditioned on are compared within themselves.

    Examples:
        taut differential runs/cells-1 cells.h5ad --groups kind:A,B
        taut differential runs/cells-1 cells.h5ad --groups kind:A --out A-or-not.csv
    """
    column, colon, labels = groups.rpartition(":")
    a, comma, b = labels.partition(",")
    if not (colon and column and a) or (comma and not b):
        raise UsageError(f"--groups {shown(groups)}: write it like --groups COLUMN:A,B")
    loaded = load_run(run, trust)
    from taut.runs.folder import check_target
    from taut.use import export

    target = check_target(
        out or Path("differential.csv"), export.TABLES, overwrite, (data, *loaded.inputs)
    )
    terminal.reading(data)
    with bars.blocks("comparing"):
        result = loaded.differential(data, column, a, b or None)
    export.write_table(result.table(), target)
    found = result.found(rate)
    if as_json:
        typer.echo(json.dumps({"file": str(target), "rows": list(result.rows), "found": found}))
        return
    sizes = [f"{n:,} {shown(name)}" for n, name in zip(result.rows, result.groups, strict=True)]
    terminal.answer(
        f"{len(found):,} of {len(result.names):,} columns differ between {' and '.join(sizes)}, "
        f"at most {rate:.2g} of them falsely"
    )
    for i in result.order[: min(SHOWN, len(found))]:
        terminal.answer(
            f"  {shown(result.names[i])}: log2 fold change {result.log2_fold_change[i]:+.2f} ± "
            f"{result.error[i]:.2f}, probability {result.probability[i]:.4f}"
        )
    terminal.answer(f"all of them are in {shown(target)}")
