"""Parquet files: which there are, what each holds, and whether they fit together."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from taut.system.errors import DataError, shown

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".parquet", ".pq")
PARTITION = re.compile(r"([^=/]+)=([^/]*)")  # a folder of Hive's, which is a column: country=Italy
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
Mark = tuple[int, int, int] | None  # inode, size and time of the last change of a file


def marks(path: Path) -> tuple[Mark, ...]:
    """Returns what tells whether the files of a source change from now on, while they are read
    again and again.
    """
    return tuple(mark(file) for file in files_of(path))


def mark(file: Path) -> Mark:
    """Returns what changes when a file is written or replaced; nothing where it is gone."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def holds_parquet(folder: Path) -> bool:
    """Returns whether a folder, or folders KEY=VALUE in it, hold Parquet files.

    Raises:
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


def files_of(path: Path) -> list[Path]:
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
            f"{shown(path)}: holds {shown(other.name)} next to Parquet files; give a folder with "
            f"nothing else in it"
        )
    return files + [file for folder in folders for file in files_of(folder)]


def partition(file: Path, root: Path) -> dict[str, str | None]:
    parts = file.relative_to(root).parts[:-1] if file != root else ()
    pairs = [match.groups() for part in parts if (match := PARTITION.fullmatch(part)) is not None]
    return {unquote(key): None if value == NO_VALUE else unquote(value) for key, value in pairs}


def metadata_of(files: Sequence[Path]) -> tuple[list[Any], pa.Schema]:
    """Returns the metadata of the files, and the schema that takes all of theirs in."""
    import pyarrow as pa

    found: list[Any] = []
    problems: list[str] = []
    schemas: list[Any] = []
    for file in files:
        try:
            with opened(file) as source:
                schema = source.schema_arrow.remove_metadata()
                if schemas and not schema.equals(schemas[0]):
                    problems += _differences(schema, file, schemas[0], files[0])
                schemas.append(schema)
                found.append(source.metadata)
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
    plain = [plain_type(kind) for kind in kinds]
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
        if len(zones) <= 1:
            return pa.timestamp("us", next(iter(zones), None))
        return None
    return None


def promoted(column: pa.ChunkedArray, kind: Any) -> pa.ChunkedArray:
    import pyarrow as pa

    if column.type.equals(kind):
        return column
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(kind, safe=not pa.types.is_floating(kind))


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Returns the type of the values of a column, also of one that is stored by a dictionary."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return kind.value_type
    return kind


def check_texts(table: pa.Table, file: Path, group: int) -> None:
    import pyarrow as pa

    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = plain_type(column.type)
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


def opened(file: Path, metadata: Any = None, **options: Any) -> Any:
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
            f"{shown(file)}: is not a Parquet file, or truncated or damaged ({shown(error)}); "
            f"write "
            f"it again"
        ) from error


@contextmanager
def damage(file: Path, group: int, metadata: Any) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, StopIteration) as error:
        place = f"row group {group} of {metadata.num_row_groups} (from 0)"
        raise DataError(
            f"{shown(file)}: {place} is damaged ({shown(error)}); write or download the file again"
        ) from error
