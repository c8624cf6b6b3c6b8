"""The command that draws rate against distortion: curve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from taut.build.config import gather
from taut.cli import bars, terminal
from taut.cli.options import TRAINING, Config, Json, Seed, Trust, count, option, with_settings
from taut.system.errors import UsageError, shown

__all__ = ["curve"]

Weights = Annotated[
    str,
    option("Weights of the rate: a range, or a list such as 0.5,1,4.", "--beta", type_="low..high"),
]


@with_settings({k: v.replace("objective ", "").replace(" seed", "") for k, v in TRAINING.items()})
def curve(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA|RUN",
            help="Data: a run is trained at each weight. A run: the curve of its decoder.",
        ),
    ],
    *,
    betas: Weights = "0.1..16",
    out: Annotated[
        Path | None,
        option(
            "The folder of the runs; by default the next free one below runs/. Finished runs in it "
            "are kept.",
            type_="folder",
        ),
    ] = None,
    num_data: Annotated[int, count("Rows of a run that the curve of its decoder is of.")] = 100,
    config: Config = None,
    seed: Seed = 0,
    trust: Trust = None,
    as_json: Json = False,
    flags: Any = None,
) -> None:
    """Draw rate against distortion: what each nat of z buys, and at which price in sharpness.

    Of DATA, one run is trained at each weight beta, from the weights of the one before. Of a run,
    the best that any encoder could do with its decoder is found by annealing, without training.

    Examples:
        taut curve digits --beta 0.25..8 --max-epochs 20
        taut curve runs/digits-1 --beta 0.1..100
    """
    from taut.runs import curve as work

    weights = work.betas_of(betas)
    if (Path(data) / "run.json").exists():
        if out is not None or any(
            value is not None for value in flags.values() if value != "false"
        ):
            raise UsageError(f"{shown(data)} is a run: the curve of its decoder trains nothing")
        from taut.cli.files import data_for, load_run

        loaded = load_run(Path(data), trust)
        rows = data_for(loaded, None, None).rows
        with bars.blocks("annealing"):
            found = work.decoder_curve(loaded, rows, weights, num_data=num_data, seed=seed)
    else:
        terminal.reading(data)
        settings = gather({**flags, "seed": str(seed)}, config)
        found = work.study(data, weights, out, settings)
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
        return
    for line in str(found).split("\n"):
        terminal.answer(line)
    if unsure := max((point.unreliable for point in found.decoder), default=0):
        terminal.message(
            f"warning: the chains of {unsure} rows disagree at one of the weights: their rate is "
            "too high there"
        )
    if found.runs:
        terminal.answer(f"\nthe runs are in {shown(found.of)}; next:")
        terminal.answer(f"  taut picture {shown(found.of)} curve")
