"""The kinds of sources, one class each: how each is recognised, read, and what can be chosen of it.

A new kind of file is one class; ``KINDS`` finds it.
"""

from __future__ import annotations

import abc
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from taut.data.arrays import read_array
from taut.data.formats import COUNTS, TABLES, conversion, is_counts_folder
from taut.data.paths import regular_size
from taut.data.tables.parquet_files import SUFFIXES, holds_parquet
from taut.system.errors import DataError, shown
from taut.system.memory import available, check_fits
from taut.system.reading import Options

__all__ = ["AS_FOUND", "KINDS", "Source", "SourceKind", "Streamed", "kind_of"]

TEXT_TABLE = re.compile(r"\.(csv|tsv|txt)(\.(gz|zip|bz2|xz))?$", re.IGNORECASE)


class Streamed(NamedTuple):
    """A Parquet file, or a folder of them, that is read again and again instead of being held in
    memory.
    """

    path: Path
    marks: tuple[
        tuple[int, int, int] | None, ...
    ] = ()  # of its files, to see that they do not change


class Source(NamedTuple):
    """What was read.

    Args:
        data: An array (N first, native byte order, C order), a ``pyarrow.Table``, sparse counts, or
            a file to be streamed.
        labels: Of the rows, if the source has them.
        name: The string to read it again; empty for what was in memory.
        notes: What the user should know, a line each.
        columns: The names of the columns of counts, if the source has them.
        rows: The names of the rows of counts (cells), likewise.
        obs: What else it says of each row: a pandas frame.
    """

    data: Any
    labels: np.ndarray | None
    name: str
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    obs: Any = None

    @property
    def is_table(self) -> bool:
        return isinstance(self.data, Streamed) or type(self.data).__module__.startswith("pyarrow")


AS_FOUND = Options()
KINDS: list[SourceKind] = []


class SourceKind(abc.ABC):
    """Abstract kind of source. The first in ``KINDS`` that claims a source reads it."""

    name: ClassVar[str]  # what messages call its sources
    options: ClassVar[tuple[str, ...]] = ()  # those that mean something for it
    streams = False  # can it stay on disk?

    def __init_subclass__(cls) -> None:
        KINDS.append(cls())

    def meant(self, options: Options) -> Options:
        """Returns options without those that mean nothing for this kind."""
        return Options(**{name: getattr(options, name) for name in self.options})

    def foreign(self, options: Options) -> list[str]:
        """Returns the names of options that are set and mean nothing for this kind."""
        return [
            f.name
            for f in fields(Options)
            if getattr(options, f.name) != f.default and f.name not in self.options
        ]

    def claims_file(self, path: Path) -> bool:
        """Returns whether it reads a file of this name."""
        return False

    def claims_folder(self, path: Path) -> bool:
        """Returns whether it reads a folder that holds this."""
        return False

    def claims_object(self, source: object) -> bool:
        """Returns whether it is for this object in memory."""
        return False

    @abc.abstractmethod
    def read(self, path: Path, options: Options) -> Source:
        """Returns what a file or a folder holds.

        Raises:
            UsageError: there is no such file.
            DataError: it cannot be read, or holds nothing that can be modelled.
        """


class CountMatrices(SourceKind):
    name = "matrices of counts"

    def claims_file(self, path: Path) -> bool:
        return path.name.lower().endswith(COUNTS)

    def claims_folder(self, path: Path) -> bool:
        return is_counts_folder(path)

    def read(self, path: Path, options: Options) -> Source:
        from taut.data.formats import read_counts

        regular_size(path, folder_too=True)
        counts, notes, (cells, genes) = read_counts(path)
        return Source(counts, None, str(path.absolute()), tuple(notes), genes, cells)


class Parquet(SourceKind):
    name = "Parquet files"
    options = ("stream",)
    streams = True

    def claims_file(self, path: Path) -> bool:
        return path.suffix.lower() in SUFFIXES

    def claims_folder(self, path: Path) -> bool:
        return holds_parquet(path)

    def read(self, path: Path, options: Options) -> Source:
        from taut.data.tables.parquet import num_bytes, read_parquet
        from taut.data.tables.parquet_files import marks

        regular_size(path, folder_too=True)
        stream = options.stream
        if stream is None:
            stream = num_bytes(path) > _free_memory() / 4
        data: Any = Streamed(path, marks(path)) if stream else read_parquet(path)
        return Source(data, None, str(path.absolute()))


def _free_memory() -> int:
    return available() or 4 * 2**30  # not every system tells


class OtherTables(SourceKind):
    name = "tables of another format"

    def claims_file(self, path: Path) -> bool:
        return path.suffix.lower() in TABLES

    def read(self, path: Path, options: Options) -> Source:
        from taut.data.formats import read_table

        regular_size(path)
        table, notes = read_table(path)
        return Source(table, None, str(path.absolute()), tuple(notes))


class TextTables(SourceKind):
    name = "text tables"
    options = ("delimiter", "decimal", "encoding", "header")

    def claims_file(self, path: Path) -> bool:
        return TEXT_TABLE.search(path.name) is not None

    def read(self, path: Path, options: Options) -> Source:
        from taut.data.tables.delimited import read_csv

        remedy = "convert it to Parquet, which can stay on the disk (--stream)"
        check_fits(regular_size(path), shown(path), remedy)
        chosen = {name: getattr(options, name) for name in self.options}
        table, notes = read_csv(path, **chosen)
        return Source(table, None, str(path.absolute()), tuple(notes))


class AnnDataFiles(SourceKind):
    name = ".h5ad files"
    options = ("layer",)

    def claims_file(self, path: Path) -> bool:
        return path.suffix.lower() == ".h5ad"

    def claims_object(self, source: object) -> bool:
        return type(source).__name__ == "AnnData"

    def read(self, path: Path, options: Options) -> Source:
        from taut.data.h5ad import read_h5ad

        regular_size(path)
        matrix, labels, genes, notes, obs = read_h5ad(path, layer=options.layer)
        cells = tuple(map(str, obs.index))
        name = str(path.absolute())
        return Source(matrix, labels, name, tuple(notes), tuple(genes), cells, obs)


class Images(SourceKind):
    """A folder of images is any that holds nothing else."""

    name = "images"
    options = ("resize", "crop", "alpha", "skip_bad")

    def claims_folder(self, path: Path) -> bool:
        return True

    def read(self, path: Path, options: Options) -> Source:
        from taut.data.images import read_folder

        if path.suffix.lower() == ".zarr":
            raise DataError(f"{shown(path)}: cannot be read; convert it: {conversion(path)}")
        chosen = {name: getattr(options, name) for name in self.options}
        array, labels, notes = read_folder(path, **chosen)
        return Source(array, labels, str(path.absolute()), tuple(notes))


class Arrays(SourceKind):
    """Everything else: arrays in files and in memory, data sets by name."""

    name = "arrays"

    def claims_file(self, path: Path) -> bool:
        return True

    def claims_object(self, source: object) -> bool:
        return True

    def read(self, path: Path, options: Options) -> Source:
        return Source(read_array(path, None), None, str(path.absolute()))


def kind_of(source: object) -> SourceKind:
    """Returns the kind of a source, by its name, its type or, of a folder, what lies in it."""
    if not isinstance(source, str | Path):
        return next(kind for kind in KINDS if kind.claims_object(source))
    path = Path(source)
    if not _is_folder(path):
        return next(kind for kind in KINDS if kind.claims_file(path))
    try:
        return next(kind for kind in KINDS if kind.claims_folder(path))
    except OSError:  # it must not be listed: the reader says so
        return next(kind for kind in KINDS if isinstance(kind, Images))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # such as a name that is too long: the reader says so
        return False
