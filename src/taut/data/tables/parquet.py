"""Reads Parquet files, whole or a row group at a time: a file larger than memory is trained on from
the disk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taut.data.tables.parquet_files import (
    Mark,
    check_texts,
    damage,
    files_of,
    mark,
    metadata_of,
    opened,
    partition,
    promoted,
)
from taut.system.errors import DataError, shown

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Pieces", "num_bytes", "read_parquet", "row_groups"]

MAX_ROWS = 65_536  # of a piece; a larger row group is read in several
ADVISED_ROWS, SMALL_ROWS = 50_000, 1000
INDEX_NAME = re.compile(r"__index_level_\d+__")  # what pandas calls an index that has no name


NO_STREAM: tuple[int, Iterator[Any]] = (-1, iter(()))


def read_parquet(path: Path) -> pa.Table:
    """Returns all rows of a Parquet file, or of a folder of them in the order of their names;
    pandas' index is dropped.

    Raises:
        DataError: a file is damaged, or empty, or its columns are not those of the first.
    """
    import pyarrow as pa

    pieces = Pieces([path])
    tables, problems = [], []
    for i in range(len(pieces)):
        try:
            tables.append(pieces.read(i))
        except DataError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise DataError(problems)
    return pa.concat_tables(tables)


def num_bytes(path: Path) -> int:
    """Returns what the rows take as float32, from the metadata alone.

    Raises:
        DataError: as ``read_parquet``.
    """
    pieces = Pieces([path])
    return 4 * int(pieces.starts[-1]) * len(pieces.columns)


def row_groups(path: Path, marks: Sequence[Mark] = ()) -> Iterator[pa.Table]:
    """Yields the rows in tables of at most 65,536, one or more for each row group.

    Args:
        path: A file, or a folder of them.
        marks: Of the files, where they were read before.

    Raises:
        DataError: as ``read_parquet``, or a file has changed since.
    """
    pieces = Pieces([path], marks)
    return (pieces.read(i) for i in range(len(pieces)))


class Pieces:
    """Creates the list of what is read at once.

    A row group, or a run of 65,536 rows of a larger one.
    """

    def __init__(self, paths: Sequence[Path], marks: Sequence[Mark] = ()) -> None:
        self.files = [file for path in paths for file in files_of(path)]
        self.marks = list(marks) or [mark(file) for file in self.files]
        if len(self.marks) != len(self.files):
            raise DataError(
                f"{shown(paths[0])}: files came or went while it was read; give back the original "
                f"folder"
            )
        for file in range(len(self.files)):
            self._check_same(file)
        self.metadata, self.schema = metadata_of(self.files)
        roots = [path for path in paths for _ in files_of(path)]
        self.partitions = [
            partition(file, root) for file, root in zip(self.files, roots, strict=True)
        ]
        keys = list(dict.fromkeys(key for partition in self.partitions for key in partition))
        self.keys = [key for key in keys if key not in self.schema.names]
        if any(set(partition) != set(keys) for partition in self.partitions):
            raise DataError(
                f"{shown(paths[0])}: its folders KEY=VALUE are not the same for all files; write "
                f"it with one set of keys"
            )
        self.kept = [
            i for i, name in enumerate(self.schema.names) if not INDEX_NAME.fullmatch(name)
        ]
        self.columns = [*self.kept, *self.keys]
        groups = [
            (file, group, metadata.row_group(group).num_rows)
            for file, metadata in enumerate(self.metadata)
            for group in range(metadata.num_row_groups)
        ]
        self.places = [
            (file, group, start)
            for file, group, rows in groups
            for start in range(0, rows, MAX_ROWS)
        ]
        sizes = [
            min(MAX_ROWS, rows - start)
            for _, _, rows in groups
            for start in range(0, rows, MAX_ROWS)
        ]
        if not sizes:
            raise DataError(
                f"{shown(paths[0])}: has no rows; give a file with at least one row of data"
            )
        self.starts = np.cumsum([0, *sizes])
        self.notes = _notes(shown(paths[0]), [rows for _, _, rows in groups])
        self.stream = NO_STREAM

    def __len__(self) -> int:
        return len(self.places)

    def read(self, i: int) -> pa.Table:
        file, group, start = self.places[i]
        rows = self.metadata[file].row_group(group).num_rows
        self._check_same(file)
        with damage(self.files[file], group, self.metadata[file]):
            if rows <= MAX_ROWS:
                with opened(self.files[file], self.metadata[file]) as source:
                    table = source.read_row_group(group)
            else:
                table = self._streamed(i, start // MAX_ROWS)
                if start + MAX_ROWS >= rows:
                    self.stream = NO_STREAM
            self._check_same(file)
            return self._aligned(table, file, group)

    def _aligned(self, table: pa.Table, file: int, group: int) -> pa.Table:
        """The columns in the order and the types of all files, with those that the names of folders
        are.
        """
        import pyarrow as pa

        check_texts(table, self.files[file], group)
        if not table.schema.equals(self.schema):
            names = table.column_names
            order = (
                range(len(names))
                if names == self.schema.names
                else [names.index(n) for n in self.schema.names]
            )
            columns = [
                promoted(table.column(i), field.type)
                for i, field in zip(order, self.schema, strict=True)
            ]
            table = pa.Table.from_arrays(columns, names=self.schema.names)
        table = table.select(self.kept)
        for key in self.keys:
            value = self.partitions[file][key]
            table = table.append_column(key, pa.array([value] * table.num_rows, pa.string()))
        return table

    def _check_same(self, file: int) -> None:
        """Refuses a file that was written, or replaced, since it was opened first.

        Its rows are not those that were checked.
        """
        path = self.files[file]
        if mark(path) != self.marks[file]:
            raise DataError(
                f"{shown(path)}: has changed while it was read; give back the original file or "
                f"start a new run"
            )

    def _streamed(self, i: int, before: int) -> pa.Table:
        """Reads on where the last run of the same row group ended, because a row group can only be
        read from its start.
        """
        upcoming, tables = self.stream
        if not i - before < upcoming <= i:
            file, group, _ = self.places[i]
            upcoming, tables = i - before, _runs(self.files[file], self.metadata[file], group)
        self.stream = NO_STREAM  # of a damaged group nothing must be read on
        for _ in range(i - upcoming):
            next(tables)
        table = next(tables)
        self.stream = (i + 1, tables)
        return table


def _notes(where: str, groups: list[int]) -> list[str]:
    large = [rows for rows in groups if rows > MAX_ROWS]
    mean = sum(groups) / len(groups)
    if len(large) == 1:
        what = f"one row group of {large[0]:,} rows"
    elif large:
        what = f"{len(large)} row groups of up to {max(large):,} rows"
    elif len(groups) > 8 and mean < SMALL_ROWS:
        what = f"{len(groups)} row groups of {mean:,.0f} rows on average"
    else:
        return []
    return [
        f"{where}: {what}: rewriting the file with row groups of {ADVISED_ROWS:,} trains faster"
    ]


def _runs(file: Path, metadata: Any, group: int) -> Iterator[pa.Table]:
    import pyarrow as pa

    # Without these two, the whole row group is read at once.
    with opened(file, metadata, pre_buffer=False, buffer_size=2**20) as source:
        rest = None
        # which may be shorter than asked for
        for batch in source.iter_batches(MAX_ROWS, row_groups=[group]):
            table = pa.Table.from_batches([batch])
            rest = table if rest is None else pa.concat_tables([rest, table])
            while rest.num_rows >= MAX_ROWS:
                yield rest.slice(0, MAX_ROWS)
                rest = rest.slice(MAX_ROWS)
        if rest is not None and rest.num_rows:
            yield rest
