"""The command that hands a model over to other programs: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taut.cli import bars, terminal
from taut.cli.files import data_for, load_run
from taut.cli.options import HeldOut, Key, Overwrite, Trust, complete_runs, option
from taut.system.errors import shown

__all__ = ["export"]


def export(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="The folder of a run.", autocompletion=complete_runs),
    ],
    data: HeldOut = None,
    key: Key = None,
    onnx: Annotated[bool, option("As ONNX graphs, which is the only format.", "--onnx")] = True,
    out: Annotated[
        Path | None, option("The folder to make; RUN-onnx by default.", type_="folder")
    ] = None,
    overwrite: Overwrite = False,
    trust: Trust = None,
) -> None:
    """Write encoder and decoder as ONNX graphs, for programs without Python or torch.

    encoder.onnx gives the parameters of q(z|x), decoder.onnx those of p(x|z) and its mean; neither
    draws. Both are checked against torch on rows that the run held out, or on DATA.

    Examples:
        taut export runs/digits-1
        taut export runs/table-1 new.csv --out model
    """
    from taut.runs.export import target, write

    loaded = load_run(run, trust)
    folder = target(loaded, out, overwrite, data)
    new = data_for(loaded, data, key)
    with bars.blocks("exporting"):
        graphs = write(loaded, new.rows, folder)
    worst = max(graph.apart for graph in graphs.values())
    terminal.message(f"the graphs agree with torch within {worst:.0e} of 1 + the largest number")
    terminal.answer(shown(folder))
