"""The command that draws what a model learned: picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import typer

from taut.cli import bars, terminal
from taut.cli.files import load_run
from taut.cli.options import HeldOut, Key, Overwrite, Seed, Trust, complete_runs, option
from taut.system.errors import UsageError, shown

__all__ = ["picture"]

FORMATS = (".png", ".svg", ".pdf")
DRAWN = ("map", "traversal", "curve", "history")


def picture(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="The folder of a run, or of a study for its curve.",
            autocompletion=complete_runs,
        ),
    ],
    kind: Annotated[
        str,
        typer.Argument(
            metavar="map|traversal|curve|history",
            help="Rows in the latent plane; what each dimension does; rate and distortion; the "
            "training.",
            autocompletion=lambda incomplete: [d for d in DRAWN if d.startswith(incomplete)],
        ),
    ],
    data: HeldOut = None,
    key: Key = None,
    colour: Annotated[
        str | None,
        option(
            "What a map is coloured by: a column of DATA (of obs, for cells), or a table with a "
            "line for each row.",
            type_="column|file",
        ),
    ] = None,
    by: Annotated[
        str,
        option(
            "The plane of a map: the two dimensions of the highest rate, principal components, or "
            "UMAP where umap-learn is installed.",
            type_="rates|pca|umap",
            values=("rates", "pca", "umap"),
        ),
    ] = "rates",
    dimensions: Annotated[
        str | None,
        option("Latent dimensions of a traversal or a map, such as 3,0.", type_="numbers"),
    ] = None,
    draw: Annotated[
        bool, option("A traversal of draws from p(x|z) instead of its means.", "--draw")
    ] = False,
    out: Annotated[
        Path | None, option("The file (.png, .svg, .pdf) to write.", type_="file")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    trust: Trust = None,
) -> None:
    """Draw what a model learned, as a picture.

    Without DATA a map and a traversal are of the rows that the run held out; to colour by a column,
    give DATA.

    Examples:
        taut picture runs/digits-1 traversal
        taut picture runs/cells-1 map cells.h5ad --colour kind --by pca
        taut picture runs/digits-curve-1 curve --out curve.svg
    """
    from taut.runs.curve import FILE
    from taut.runs.folder import check_target
    from taut.runs.meaning import KINDS
    from taut.runs.meaning import picture as draw_picture
    from taut.system.storage import write_bytes

    if kind not in KINDS:
        raise UsageError(f"a picture is one of {', '.join(KINDS)}, not {shown(kind)}")
    if colour is not None and data is None:
        raise UsageError("--colour is a column of DATA, or a line for each of its rows: give DATA")
    is_study = (run / FILE).is_file()
    loaded = None if is_study else load_run(run, trust)
    inputs = [data, colour, *(() if loaded is None else loaded.inputs)]
    target = check_target(out or Path(f"{kind}.png"), FORMATS, overwrite, inputs)
    if loaded is None:
        figure = draw_picture(run, kind)
    else:
        new = None
        if kind != "history":
            from taut.cli.files import data_for

            new = data_for(loaded, data, key)
        with bars.blocks("drawing"):
            figure = draw_picture(
                loaded,
                kind,
                data,
                new,
                colour=colour,
                by=by,
                dimensions=_numbers(dimensions),
                draw=draw,
                seed=seed,
            )
    drawn = io.BytesIO()
    figure.savefig(drawn, format=target.suffix.removeprefix("."), dpi=150)
    write_bytes(target, drawn.getvalue())
    terminal.answer(shown(target))


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--dimensions {shown(text)}: write it like --dimensions 3,0") from None
