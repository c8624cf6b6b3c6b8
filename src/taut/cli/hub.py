"""The commands that hand a run on: push and pull."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taut.cli import bars, terminal
from taut.cli.options import Overwrite, Trust, complete_runs, option
from taut.system.errors import shown

__all__ = ["pull", "push"]


def push(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="The folder of a run.", autocompletion=complete_runs),
    ],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="A folder to make, or hf:OWNER/NAME.")
    ],
    license_: Annotated[
        str,
        option(
            "Of the weights, as the hub spells it, such as apache-2.0; none is claimed without.",
            "--license",
            type_="text",
        ),
    ] = "",
    public: Annotated[
        bool, option("A new repository on the hub can be read by everybody.", "--public")
    ] = False,
    overwrite: Overwrite = False,
    trust: Trust = None,
) -> None:
    """Hand a run on with a model card, as a folder or on the Hugging Face hub.

    What leaves is what is needed to load, score and sample: no row of the data, and no folder of
    this machine, but the names, levels and ranges of the columns.

    Examples:
        taut push runs/wine-1 wine-model
        taut push runs/wine-1 hf:ann/wine --license apache-2.0
    """
    terminal.reading(run)
    from taut.runs import hub

    with bars.blocks("writing"):
        where = hub.push(
            run, target, license=license_, public=public, overwrite=overwrite, trust=trust or ()
        )
    terminal.message(
        "in it, from the data: the names, levels and ranges of the columns and how their values "
        "are distributed; read README.md before others do"
    )
    terminal.answer(shown(where))


def pull(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="hf:OWNER/NAME, hf:OWNER/NAME@REVISION, or a pushed folder."
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The run folder to make.")],
    overwrite: Overwrite = False,
    trust: Trust = None,
) -> None:
    """Make a run folder of what taut push handed on, for all that takes a run.

    Nothing in it is run or unpickled, and every file but the card is checked.

    Examples:
        taut pull hf:ann/wine wine
        taut pull wine-model wine
    """
    terminal.reading(source)
    from taut.runs import hub

    with bars.blocks("reading"):
        run = hub.pull(source, folder, overwrite=overwrite, trust=trust or ())
    terminal.message(run.schema.describe())
    terminal.answer(shown(folder))
