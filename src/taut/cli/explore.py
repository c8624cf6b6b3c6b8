"""The command that shows what a model learned on a page: explore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taut.cli import terminal
from taut.cli.options import Key, Threads, Trust, complete_runs, option
from taut.system.errors import UsageError

__all__ = ["explore"]

RunsArg = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN",
        help="A folder that taut fit made or is filling, or several.",
        autocompletion=complete_runs,
    ),
]


def explore(
    runs: RunsArg,
    data: Annotated[
        str | None,
        option("A file of rows to look at; by default those that each run held out.", type_="file"),
    ] = None,
    key: Key = None,
    port: Annotated[
        int | None,
        option(
            "The port of this machine; by default 8765, or any that is free.",
            type_="int",
            low=1,
            high=65535,
            words="from 1 to 65535",
        ),
    ] = None,
    threads: Threads = None,
    trust: Trust = None,
) -> None:
    """Show what a model learned on a page in the browser.

    All numbers with their errors, the latent map with every data point and why it is odd, sliders
    that decode, traversals, samples, runs side by side, and the curve of a run that still trains.
    The page is for this machine alone and loads nothing from elsewhere; Ctrl-C ends it.

    Examples:
        taut explore runs/digits-1
        taut explore runs/cells-1 --data cells.h5ad
        taut explore runs/digits-1 runs/digits-2 --port 9000
    """
    try:
        from taut.explorer import server
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "taut":
            raise
        raise UsageError(
            "taut explore needs FastAPI and uvicorn: pip install 'taut[explore]'"
        ) from None
    import torch

    from taut.explorer.shelf import Shelf

    if threads is not None:
        torch.set_num_threads(threads)
    with server.open_socket(port) as opened:
        for run in runs:
            terminal.reading(run)
        shelf = Shelf(runs, trust or (), data, key)
        for note in shelf.notes():
            terminal.message(f"taut: {note}")
        terminal.answer(f"the page is at {server.address(opened)} (Ctrl-C ends it)")
        server.serve(shelf, opened)
