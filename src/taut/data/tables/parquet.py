"""Reads Parquet files, whole or a row group at a time: a file larger than memory is trained on from
the disk.

A row group is the least that can be read of such a file. One random row would cost a whole group,
so an epoch's order (``block_order``) permutes the groups, takes a window of a few at a time and
permutes the rows inside it: every row comes once, a batch needs only the groups of its window, and
``ParquetRows`` keeps their codes.
"""

from __future__ import annotations

import copy
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import torch
from torch import Tensor

from taut.system.errors import DataError, shown

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Mark",
    "ParquetRows",
    "block_order",
    "holds_parquet",
    "marks",
    "num_bytes",
    "read_parquet",
    "row_groups",
]

SUFFIXES = (".parquet", ".pq")
MAX_ROWS = 65_536  # of a piece; a larger row group is read in several
ADVISED_ROWS, SMALL_ROWS = 50_000, 1000
PARTITION = re.compile(r"([^=/]+)=([^/]*)")  # a folder of Hive's, which is a column: country=Italy
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
INDEX_NAME = re.compile(r"__index_level_\d+__")  # what pandas calls an index that has no name

Mark = tuple[int, int, int] | None  # inode, size and time of the last change of a file

NO_STREAM: tuple[int, Iterator[Any]] = (-1, iter(()))


def read_parquet(path: Path) -> pa.Table:
    """Returns all rows of a Parquet file, or of a folder of them in the order of their names;
    pandas' index is dropped.

    Fails:
        DataError: a file is damaged, or empty, or its columns are not those of the first.
    """
    import pyarrow as pa

    pieces = _Pieces([path])
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

    Fails:
        DataError: as ``read_parquet``.
    """
    pieces = _Pieces([path])
    return 4 * int(pieces.starts[-1]) * len(pieces.columns)


def row_groups(path: Path, marks: Sequence[Mark] = ()) -> Iterator[pa.Table]:
    """Yields the rows in tables of at most 65,536, one or more for each row group.

    Args:
        path: A file, or a folder of them.
        marks: Of the files, where they were read before.

    Fails:
        DataError: as ``read_parquet``, or a file has changed since.
    """
    pieces = _Pieces([path], marks)
    return (pieces.read(i) for i in range(len(pieces)))


class ParquetRows:
    """Creates the rows of Parquet files, read when they are asked for (it is
    ``taut.data.rows.Rows``).

    Args:
        paths: A file, a folder of them, or several.
        encode: Returns the codes (n, C) of a table and the number of its first row.
        num_columns: C, the columns that ``encode`` gives.
        rows: The ascending numbers of the rows that belong to this part; ``None`` for all.
        cache: How many pieces (row groups, or runs of 65,536 rows of larger ones) are kept as
            codes: those last used.
        marks: Of the files, where they were read before.

    ``blocks`` are the boundaries of the pieces in the numbers of these rows, for ``block_order``;
    ``notes`` says what makes reading slow.

    Fails:
        DataError: as ``read_parquet``; a damaged row group, or a file that has changed, when it is
            read.
    """

    dtype = torch.float32

    def __init__(
        self,
        paths: Path | Sequence[Path],
        encode: Callable[[Any, int], np.ndarray],
        num_columns: int,
        rows: np.ndarray | None = None,
        cache: int = 8,
        marks: Sequence[Mark] = (),
    ) -> None:
        self._pieces = _Pieces([paths] if isinstance(paths, Path) else list(paths), marks)
        self._encode = encode
        self._num_columns = num_columns
        self._rows = rows
        self._cache_size = cache
        self._cached: OrderedDict[int, np.ndarray] = OrderedDict()
        self._device = torch.device("cpu")
        self.notes = self._pieces.notes
        self.blocks = self._boundaries()

    def _boundaries(self) -> np.ndarray:
        starts = self._pieces.starts
        return starts if self._rows is None else np.searchsorted(self._rows, starts)

    def __len__(self) -> int:
        return int(self.blocks[-1])

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self._num_columns

    def __getitem__(self, index: int | slice | Tensor, /) -> Tensor:
        if isinstance(index, slice):
            return self._gather(np.arange(*index.indices(len(self))))
        if isinstance(index, int):
            return self._gather(np.array([index]))[0]
        if index.ndim != 1 or index.is_floating_point() or index.dtype == torch.bool:
            raise TypeError(
                f"rows are taken by a vector of integers, not by {index.dtype} of shape "
                f"{tuple(index.shape)}"
            )
        return self._gather(index.cpu().numpy().astype(np.int64))

    def split(self, split_size: int, /) -> Iterator[Tensor]:
        """Yields consecutive blocks of rows."""
        return (self[start : start + split_size] for start in range(0, len(self), split_size))

    def to(self, device: torch.device | str, /) -> ParquetRows:
        """Returns the same rows, to come out on a device."""
        moved = copy.copy(self)
        moved._device = torch.device(device)
        return moved

    def subset(self, rows: np.ndarray) -> ParquetRows:
        """Returns a part of these rows, by their ascending numbers, with a cache of its own."""
        part = copy.copy(self)
        part._rows = np.asarray(rows) if self._rows is None else self._rows[rows]
        part._cached = OrderedDict()
        part.blocks = part._boundaries()
        return part

    def _gather(self, index: np.ndarray) -> Tensor:
        index = np.where(index < 0, index + len(self), index)
        if len(index) and not (index.min() >= 0 and index.max() < len(self)):
            raise IndexError(f"row numbers go from 0 to {len(self) - 1}")
        codes = np.empty((len(index), self._num_columns), np.float32)
        piece = np.searchsorted(self.blocks, index, side="right") - 1
        # Those at hand first: reading another might throw them out.
        for i in sorted(np.unique(piece).tolist(), key=lambda i: i not in self._cached):
            here = np.flatnonzero(piece == i)
            codes[here] = self._codes(i)[index[here] - self.blocks[i]]
        return torch.from_numpy(codes).to(self._device)

    def _codes(self, i: int) -> np.ndarray:
        if i in self._cached:
            self._cached.move_to_end(i)
            return self._cached[i]
        first, last = (int(start) for start in self._pieces.starts[i : i + 2])
        while len(self._cached) >= self._cache_size:
            self._cached.popitem(last=False)
        codes = np.asarray(self._encode(self._pieces.read(i), first), np.float32)
        if self._rows is not None and self.blocks[i + 1] - self.blocks[i] < last - first:
            codes = codes[self._rows[self.blocks[i] : self.blocks[i + 1]] - first]
        self._cached[i] = codes
        return codes


def block_order(blocks: np.ndarray, window: int, generator: torch.Generator) -> Tensor:
    """Returns an order of the rows, each once, that stays inside a few blocks at a time.

    The blocks are permuted, and then the rows inside each window of them. A batch no larger than a
    window reaches into two.

    Args:
        blocks: The boundaries of the blocks, ascending from 0: one more than there are blocks.
        window: How many blocks make up a window: half of what a cache holds.
        generator: Where the permutations come from, on the CPU.
    """
    starts = torch.from_numpy(np.asarray(blocks, np.int64))
    order = torch.randperm(len(starts) - 1, generator=generator)
    parts = []
    for together in order.split(window):
        rows = torch.cat([torch.arange(int(starts[i]), int(starts[i + 1])) for i in together])
        parts.append(rows[torch.randperm(len(rows), generator=generator)])
    return torch.cat(parts)


class _Pieces:
    """Creates the list of what is read at once.

    A row group, or a run of 65,536 rows of a larger one.
    """

    def __init__(self, paths: Sequence[Path], marks: Sequence[Mark] = ()) -> None:
        self.files = [file for path in paths for file in _files(path)]
        self.marks = list(marks) or [_mark(file) for file in self.files]
        if len(self.marks) != len(self.files):
            raise DataError(
                f"{shown(paths[0])}: files came or went while it was read; give back the original "
                f"folder"
            )
        for file in range(len(self.files)):
            self._check_same(file)
        self.metadata, self.schema = _metadata(self.files)
        roots = [path for path in paths for _ in _files(path)]
        self.partitions = [
            _partition(file, root) for file, root in zip(self.files, roots, strict=True)
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
        with _damage(self.files[file], group, self.metadata[file]):
            if rows <= MAX_ROWS:
                with _open(self.files[file], self.metadata[file]) as opened:
                    table = opened.read_row_group(group)
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

        _check_texts(table, self.files[file], group)
        if not table.schema.equals(self.schema):
            names = table.column_names
            order = (
                range(len(names))
                if names == self.schema.names
                else [names.index(n) for n in self.schema.names]
            )
            columns = [
                _promoted(table.column(i), field.type)
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
        if _mark(path) != self.marks[file]:
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


def marks(path: Path) -> tuple[Mark, ...]:
    """Returns what tells whether the files of a source change from now on, while they are read
    again and again.
    """
    return tuple(_mark(file) for file in _files(path))


def _mark(file: Path) -> Mark:
    """Returns what changes when a file is written or replaced; nothing where it is gone."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def holds_parquet(folder: Path) -> bool:
    """Returns whether a folder, or folders KEY=VALUE in it, hold Parquet files.

    Fails:
        OSError: it must not be listed.
    """
    entries = list(folder.iterdir())
    if any(entry.suffix.lower() in SUFFIXES for entry in entries):
        return True
    return any(
        holds_parquet(entry)
        for entry in entries
        if PARTITION.fullmatch(entry.name) and entry.is_dir()
    )


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    seen = sorted(file for file in path.iterdir() if file.name[0] not in "._")
    folders = [file for file in seen if PARTITION.fullmatch(file.name) and file.is_dir()]
    files = [file for file in seen if file.suffix.lower() in SUFFIXES and file not in folders]
    if not files and not folders:
        raise DataError(
            f"{shown(path)}: holds no .parquet files; give a folder that does, or a file"
        )
    if len(files) + len(folders) < len(seen):
        other = next(file for file in seen if file not in files and file not in folders)
        raise DataError(
            f"{shown(path)}: holds {shown(other.name)} beside Parquet files; give a folder with "
            f"nothing else in it"
        )
    return files + [file for folder in folders for file in _files(folder)]


def _partition(file: Path, root: Path) -> dict[str, str | None]:
    parts = file.relative_to(root).parts[:-1] if file != root else ()
    pairs = [match.groups() for part in parts if (match := PARTITION.fullmatch(part)) is not None]
    return {unquote(key): None if value == NO_VALUE else unquote(value) for key, value in pairs}


def _metadata(files: Sequence[Path]) -> tuple[list[Any], pa.Schema]:
    """Returns the metadata of the files, and the schema that takes all of theirs in."""
    import pyarrow as pa

    found: list[Any] = []
    problems: list[str] = []
    schemas: list[Any] = []
    for file in files:
        try:
            with _open(file) as opened:
                schema = opened.schema_arrow.remove_metadata()
                if schemas and not schema.equals(schemas[0]):
                    problems += _differences(schema, file, schemas[0], files[0])
                schemas.append(schema)
                found.append(opened.metadata)
        except DataError as error:
            problems += error.problems
    if problems or not schemas:
        raise DataError(problems)
    if all(schema.equals(schemas[0]) for schema in schemas):
        return found, schemas[0]
    fields = []
    for field in schemas[0]:
        kinds = list(dict.fromkeys(schema.field(field.name).type for schema in schemas))
        if (kind := _common(kinds)) is None:
            held = shown(" and ".join(map(str, kinds)))
            problems.append(
                f"{shown(files[0].parent)}: its files hold {held} in column {shown(field.name)}; "
                f"write it as one type"
            )
        fields.append(pa.field(field.name, kind or field.type))
    if problems:
        raise DataError(problems)
    return found, pa.schema(fields)


def _common(kinds: Sequence[Any]) -> Any:
    """Returns the type that takes several in.

    A number's where others hold numbers or nothing, or None if there is none.
    """
    import pyarrow as pa

    kinds = [kind for kind in kinds if not pa.types.is_null(kind)] or [pa.null()]
    if len(set(map(str, kinds))) == 1:
        return kinds[0]
    plain = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in kinds]
    tests = pa.types
    if all(tests.is_integer(kind) for kind in plain):
        return pa.int64()
    if all(
        tests.is_integer(kind) or tests.is_floating(kind) or tests.is_decimal(kind)
        for kind in plain
    ):
        return pa.float64()
    if all(
        tests.is_string(kind) or tests.is_large_string(kind) or tests.is_string_view(kind)
        for kind in plain
    ):
        return pa.large_string()
    if all(tests.is_timestamp(kind) or tests.is_date(kind) for kind in plain):
        zones = {kind.tz for kind in plain if tests.is_timestamp(kind)}
        return pa.timestamp("us", next(iter(zones), None)) if len(zones) <= 1 else None
    return None


def _promoted(column: pa.ChunkedArray, kind: Any) -> pa.ChunkedArray:
    import pyarrow as pa

    if column.type.equals(kind):
        return column
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(kind, safe=not pa.types.is_floating(kind))


def _check_texts(table: pa.Table, file: Path, group: int) -> None:
    import pyarrow as pa

    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if not (
            pa.types.is_string(kind)
            or pa.types.is_large_string(kind)
            or pa.types.is_string_view(kind)
        ):
            continue
        for chunk in column.chunks:
            texts = chunk.dictionary if pa.types.is_dictionary(column.type) else chunk
            try:
                texts.validate(full=True)
            except pa.ArrowInvalid as error:
                place = f"column {shown(name)}, row group {group} (from 0)"
                raise DataError(
                    f"{shown(file)}: {place}: holds text that is not UTF-8; write it again as UTF-8"
                ) from error


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


def _differences(schema: pa.Schema, file: Path, first: pa.Schema, first_file: Path) -> list[str]:
    """Columns may be in any order, and of types of which one takes the other in."""
    unique = len(set(schema.names)) == len(schema.names) == len(first.names)
    if unique and set(schema.names) == set(first.names):
        other = [
            name
            for name in first.names
            if _common([schema.field(name).type, first.field(name).type]) is None
        ]
        if not other:
            return []
        here, there = (shown(f"{other[0]} {one.field(other[0]).type}") for one in (schema, first))
    else:
        held, wanted = (
            [(field.name, str(field.type)) for field in fields] for fields in (schema, first)
        )
        pairs = zip_longest(held, wanted, fillvalue=("no column", ""))
        here, there = next(
            (shown(" ".join(a).strip()), shown(" ".join(b).strip())) for a, b in pairs if a != b
        )
    return [
        f"{shown(file)}: has {here} where {shown(first_file)} has {there}; write all files of a "
        f"folder with the same columns"
    ]


def _open(file: Path, metadata: Any = None, **options: Any) -> Any:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        # A name that is not UTF-8 goes in as the system has it.
        source = file if str(file).isascii() or os.name != "posix" else pa.OSFile(os.fsencode(file))
        return pyarrow.parquet.ParquetFile(
            source, metadata=metadata, page_checksum_verification=True, **options
        )
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{shown(file)}: is no Parquet file, or truncated or damaged ({shown(error)}); write "
            f"it again"
        ) from error


@contextmanager
def _damage(file: Path, group: int, metadata: Any) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, StopIteration) as error:
        place = f"row group {group} of {metadata.num_row_groups} (from 0)"
        raise DataError(
            f"{shown(file)}: {place} is damaged ({shown(error)}); write or download the file again"
        ) from error


def _runs(file: Path, metadata: Any, group: int) -> Iterator[pa.Table]:
    import pyarrow as pa

    # Without these two, the whole row group is read at once.
    with _open(file, metadata, pre_buffer=False, buffer_size=2**20) as opened:
        rest = None
        # which may be shorter than asked for
        for batch in opened.iter_batches(MAX_ROWS, row_groups=[group]):
            table = pa.Table.from_batches([batch])
            rest = table if rest is None else pa.concat_tables([rest, table])
            while rest.num_rows >= MAX_ROWS:
                yield rest.slice(0, MAX_ROWS)
                rest = rest.slice(MAX_ROWS)
        if rest is not None and rest.num_rows:
            yield rest
