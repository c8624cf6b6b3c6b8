"""The command that says what latent dimensions separate: disentangle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from taut.cli import bars, terminal
from taut.cli.files import load_run
from taut.cli.options import Json, Key, RunArg, Seed, Trust, count, option

__all__ = ["disentangle"]


def disentangle(
    run: RunArg,
    data: Annotated[
        str | None,
        typer.Argument(metavar="[DATA]", help="A file; by default all rows of the training data."),
    ] = None,
    factors: Annotated[
        str | None,
        option(
            "What is known of each row: a table with a line for each (.csv, .tsv, .parquet), or "
            "columns of DATA (of obs, for cells), such as shape,size.",
            type_="file|columns",
        ),
    ] = None,
    others: Annotated[
        list[Path] | None,
        option(
            "Another run of the same data, to rank by how nearly both found the same dimensions; "
            "repeatable.",
            "--with",
            type_="folder",
        ),
    ] = None,
    num_data: Annotated[
        int, count("Rows to look at, drawn at random if there are more.", 40)
    ] = 2000,
    key: Key = None,
    seed: Seed = 0,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Say what the latent dimensions separate: scores of disentanglement, and how the rate splits.

    Each score has its error, its ceiling (what the factors themselves would reach) and its chance
    level beside it. Without --factors, and with other runs, only what needs no labels is told.

    Examples:
        taut disentangle runs/shapes-1 --factors shapes.csv
        taut disentangle runs/cells-1 cells.h5ad --factors kind,batch
        taut disentangle runs/digits-1 --with runs/digits-2 --with runs/digits-3
    """
    loaded = load_run(run, trust)
    from taut.cli.files import data_for
    from taut.runs import disentangle as work

    source = data if data is not None else work.own_source(loaded)
    new = data_for(loaded, source, key)
    rest = [load_run(path, trust) for path in others or []]
    with bars.blocks("measuring"):
        found = work.disentangle(
            loaded,
            source,
            new,
            factors,
            [(other, data_for(other, source, key)) for other in rest],
            num_data=num_data,
            seed=seed,
        )
    for note in found.notes:
        terminal.message(f"taut: {note}")
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
        return
    for line in str(found).split("\n"):
        terminal.answer(line)
