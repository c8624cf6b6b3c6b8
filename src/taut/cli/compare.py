"""The command that puts runs side by side: compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from taut.cli import bars, terminal
from taut.cli.files import load_run
from taut.cli.options import (
    Json,
    Overwrite,
    Seed,
    Threads,
    Trust,
    complete_runs,
    count,
    option,
)
from taut.system.errors import shown

__all__ = ["compare"]

RunsArg = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN RUN",
        help="Two folders that taut fit made, or more.",
        autocompletion=complete_runs,
    ),
]
Page = Annotated[Path | None, option("The page to write, .html.", type_="file")]


def compare(
    runs: RunsArg,
    num_data: Annotated[
        int, count("Rows looked at, chosen at random if there are more; and samples.")
    ] = 1000,
    num_samples: Annotated[int, count("Samples per row (K) of importance sampling.")] = 500,
    out: Page = None,
    threads: Threads = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Put runs of any kind side by side on the same held-out rows.

    Nats and their paired differences, the quality of samples, sharpness, and what each costs. It
    writes a page with samples next to each other.

    Examples:
        taut compare runs/digits-1 runs/digits-2
        taut compare runs/vae runs/gan --out contrast.html
    """
    loaded = [load_run(run, trust) for run in runs]
    import torch

    from taut.runs.compare import compare_runs
    from taut.runs.folder import check_target
    from taut.system.storage import write_bytes

    if threads is not None:
        torch.set_num_threads(threads)
    target = check_target(
        out or Path("compare.html"),
        (".html",),
        overwrite,
        [name for run in loaded for name in run.inputs],
    )
    with bars.progress("comparing", len(loaded)) as advance:
        found = compare_runs(
            loaded, num_data=num_data, num_samples=num_samples, seed=seed, advance=advance
        )
    write_bytes(target, found.to_html().encode())
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
        return
    terminal.show_comparison(found)
    terminal.answer(f"\nthe page with samples is {shown(target)}")
