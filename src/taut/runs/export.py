"""The folder that ``taut export`` makes of a run: two ONNX graphs, and what their numbers mean."""

from __future__ import annotations

from pathlib import Path

import torch

from taut.data import Rows
from taut.runs.folder import Stored, check_apart, version
from taut.runs.place import free_folder
from taut.system import storage
from taut.system.errors import UsageError
from taut.use.onnx import Graph, export_onnx

__all__ = ["FILE", "ROWS", "target", "write"]

FILE = "onnx.json"
FILES = {"encoder.onnx", "decoder.onnx", FILE}
ROWS = 100  # that the graphs are checked on


def target(run: Stored, out: Path | None, overwrite: bool, read: str | Path | None = None) -> Path:
    """Returns the folder to make, after checking that its place is free.

    Raises:
        UsageError: it exists, holds other things, or there is no folder to make it in.
    """
    folder = out or Path(f"{run.path.resolve().name}-onnx")
    check_apart(folder, (run.path, read, *run.inputs))
    free_folder(folder, FILES, overwrite)
    return folder


def write(run: Stored, rows: Rows, folder: Path) -> dict[str, Graph]:
    """Writes encoder.onnx, decoder.onnx and onnx.json, all of them or none, and returns the graphs.

    Args:
        run: A run of a VAE.
        rows: Rows to check the graphs on; the first 100 are taken.
        folder: See ``target``.

    Raises:
        UsageError: the model is none that can be exported, or there are no rows to check it on.
    """
    if not len(rows):
        raise UsageError("there are no rows to check the graphs on: give DATA")
    x = rows[torch.arange(min(len(rows), ROWS))]
    graphs = export_onnx(run.model, x)
    info = {
        "taut": version(),
        "run": run.path.resolve().name,
        "model": run.config.to_dict()["model"],
        "schema": run.info["schema"],
        "rows_checked": len(x),
        "graphs": {
            name: {"inputs": g.inputs, "outputs": list(g.outputs), "apart": g.apart}
            for name, g in graphs.items()
        },
    }
    temporary = storage.temporary_folder(folder.absolute().parent)
    try:
        for name, graph in graphs.items():
            storage.write_bytes(temporary / f"{name}.onnx", graph.content)
        storage.write_json(temporary / FILE, info)
    except BaseException:
        storage.remove_folder(temporary)
        raise
    storage.commit_folder(temporary, folder)
    return graphs
