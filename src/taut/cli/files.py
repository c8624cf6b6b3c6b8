"""What commands read and write: a run, the rows for it, and the files of the answer."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import typer

from taut.cli import terminal
from taut.system.errors import shown

if TYPE_CHECKING:
    import torch

    from taut.data import New
    from taut.runs.folder import Stored
    from taut.runs.handed import Handed

Into: TypeAlias = "Callable[[Handed], Any]"  # puts a result into the AnnData that was handed over

__all__ = [
    "data_for",
    "data_target",
    "first_line",
    "load_run",
    "numbered",
    "of_cells",
    "say_written",
    "write",
    "write_cells",
    "write_data",
]


def load_run(path: Path, trust: list[str] | None) -> Stored:
    """Returns a finished run; the outside modules that are trusted may be imported."""
    terminal.reading(path)
    from taut.runs.folder import load

    return load(path, trust=trust or ())


def data_for(run: Stored, source: str | None, key: str | None) -> New:
    """Returns new data checked against the run's schema, or the data that the run
    itself held out.
    """
    from taut.runs.folder import data_of, held_out_as_new, new_data

    if source is None:
        return held_out_as_new(run, data_of(run))
    terminal.reading(source)
    new = new_data(run, source, key)
    for note in new.notes:
        terminal.message(f"taut: {note}")
    return new


def first_line(source: str | None, rows: int) -> int | None:
    """Returns the line that holds row 0 of a text table, from 1; None where lines are not rows."""
    if source is None or Path(source).suffix not in (".csv", ".tsv", ".txt"):
        return None
    with Path(source).open("rb") as file:
        lines = sum(1 for line in file if line.strip())
    return {rows + 1: 2, rows: 1}.get(lines)


def data_target(
    out: Path | None, name: str, run: Stored, overwrite: bool, read: str | Path | None = None
) -> Path:
    """Returns the file to write data of a run into, checked before anything is computed.

    Args:
        out: Its name; by default ``name`` with the usual ending.
        name: See ``out``.
        run: The run.
        overwrite: Whether a file that exists is replaced.
        read: What is read besides the run, which is never replaced.
    """
    from taut.runs.folder import check_target
    from taut.use import export

    schema = run.schema
    usual = Path(f"{name}.npy")
    formats: tuple[str, ...] = export.ARRAYS
    if schema.kind == "table":
        usual, formats = Path(f"{name}.csv"), (*export.TABLES, ".npy")
    elif schema.is_image:
        formats = export.IMAGES
    elif len(schema.event_shape) == 1:
        formats = export.NUMBERS + of_cells(run)
    return check_target(out or usual, formats, overwrite, (read, *run.inputs))


def of_cells(run: Stored) -> tuple[str, ...]:
    """Returns the further formats of results where the data are cells and genes."""
    from taut.use import export

    if run.schema.kind == "count" or run.schema.names:
        return export.CELLS
    return ()


def write_cells(out: Path, run: Stored, new: New, source: str | None, into: Into) -> None:
    """Writes an .h5ad file: the AnnData of the data, with what ``into`` puts in a copy of it."""
    from taut.runs.annotated import annotated, write_h5ad
    from taut.runs.handed import Handed

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that repeat: reading has noted them
        handed = Handed(annotated(source, new, run.schema), new, run.schema)
        write_h5ad(into(handed), out)


def numbered(out: Path, count: int, overwrite: bool, inputs: Iterable[Any]) -> list[Path]:
    """Returns a file name for each of so many imputations, or the one name where there are none;
    none of them is among the inputs.
    """
    from taut.runs.folder import check_target

    paths = [out.with_name(f"{out.stem}-{i + 1}{out.suffix}") for i in range(count)]
    return [check_target(path, (out.suffix,), overwrite, inputs) for path in paths] or [out]


def write(
    values: torch.Tensor,
    out: Path,
    run: Stored,
    as_json: bool,
    ids: Mapping[str, Any] | None = None,
) -> None:
    """Writes data, of several processes the first one alone, and says so."""
    from taut.system import parallel

    shape = parallel.on_main(lambda: write_data(values, out, run, ids))
    say_written(out, shape, as_json)


def write_data(
    values: torch.Tensor, out: Path, run: Stored, ids: Mapping[str, Any] | None = None
) -> tuple[int, ...]:
    """Writes data of a run: a table with its own types, images, or numbers, with the names of
    their rows. Returns the shape of what is in the file: a table has its derived columns, too.
    """
    from taut.data import to_table
    from taut.use import export

    schema = run.schema
    if schema.kind == "table" and out.suffix != ".npy":
        whole = values.shape[1] == len(schema.modelled)
        absent = [] if whole else [schema.modelled[i] for i in schema.given]
        columns = [c for c in schema.written if c not in absent]
        table = to_table(export.shortest(values), columns)
        for name, own in (ids or {}).items():  # rows of the data keep their key
            if name in table.column_names:
                table = table.set_column(table.column_names.index(name), name, own)
        export.write_table(table, out)
        return table.shape
    if schema.is_image:
        export.write_images(values, out, schema.low, schema.high)
    else:
        export.write_numbers(values, out, schema.element_names if schema.names else (), ids=ids)
    return tuple(values.shape)


def say_written(out: Path, shape: Any, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"file": str(out), "shape": list(shape)}))
    else:
        terminal.answer(f"{shown(out)}: {'x'.join(map(str, shape))}")
