"""Tables: from what was read to the codes that a model sees, split by content.

In memory, or from a file that stays on disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from taut.data.problems import flat_columns, too_few
from taut.data.readers import Streamed
from taut.data.rows import Rows, blocks
from taut.data.schema import Schema
from taut.data.split import Copies, copies_of, row_hashes, split_hashes
from taut.data.tables.cells import Tokens, read_cells
from taut.data.tables.codes import closeness, last_digit, plain_numbers
from taut.data.tables.column import Column
from taut.data.tables.constraints import constraint_of, contradiction, holding, learned, settled
from taut.data.tables.formula import CONTRADICTING, Formula, neat, on_grid
from taut.data.tables.infer import decode, encode, from_toml, infer
from taut.data.tables.notes import FROM_0
from taut.data.tables.numeric_notes import MOST, SOME, linear_functions, written_to
from taut.data.tables.parquet import row_groups
from taut.data.tables.parquet_files import plain_type
from taut.data.tables.parquet_rows import ParquetRows
from taut.data.tables.words import float_storage, quoted
from taut.system.errors import DataError, UsageError, and_more, nearest, shown

__all__ = ["MISSING_NOTE", "Asked", "Prepared", "check_table", "fill", "prepare_tables", "to_table"]

MISSING_NOTE = "they are integrated out of log p(x), and the encoder receives the mask"


class Asked(NamedTuple):
    """What the user said of a table.

    A schema (a TOML file, or one made before), what means missing, what is the context.
    """

    schema: Path | Schema | None
    missing_values: tuple[str, ...]
    condition: tuple[str, ...]


class Prepared(NamedTuple):
    """A table ready to train on.

    Its schema, its three parts, what to know of it, its name by content, its copies of rows.
    """

    schema: Schema
    parts: list[Rows]
    notes: list[str]
    fingerprint: str
    copies: Copies


class _Coded(NamedTuple):
    hashes: np.ndarray  # of each row
    rows: Any  # Rows, all of them
    problems: list[str]
    refuted: list[str]  # constraints that too many rows contradict, a line each
    notes: list[str]
    missing: int  # entries
    empty: int  # rows


def prepare_tables(
    sources: Sequence[Any],
    names: Sequence[str],
    asked: Asked,
    fractions: tuple[float, float],
    min_rows: int,
    by: str | None = None,
) -> Prepared:
    """Returns the training table (and an official test table, if there is one) understood, checked,
    coded and split.

    Args:
        sources: One or two tables, or files to be streamed.
        names: What to call them in messages.
        asked: What the user said of them.
        fractions: Shares for validation and for testing.
        min_rows: Fewest rows allowed.
        by: Whether the split is by "rows" or "copies"; None decides.

    Raises:
        DataError: it lists every problem of both.
        UsageError: the schema file cannot be read, or a column of the context is none.
    """
    schema, notes = (
        (asked.schema, [])
        if isinstance(asked.schema, Schema)
        else _understood(sources[0], names[0], asked)
    )
    if not isinstance(asked.schema, Schema | Path) and not isinstance(sources[0], Streamed):
        for learn in (_with_formulas, _with_constraints):
            schema, told = learn(sources[0], schema, names[0])
            notes += told
    coded = [_code(s, schema, name) for s, name in zip(sources, names, strict=True)]
    wrong = [line for c in coded for line in (*c.problems, *c.refuted)]
    if len(coded[0].hashes) < min_rows:
        wrong.append(too_few(names[0], len(coded[0].hashes), min_rows))
    if wrong:
        raise DataError(wrong)
    schema = replace(schema, missing=schema.missing or bool(coded[0].missing))
    with _causes(notes):
        copies = copies_of(
            coded[0].hashes, *fractions, by, by_nature=all(c.discrete for c in schema.modelled)
        )
        parts = split_hashes(coded[0].hashes, *fractions, copies.most)
    rows: list[Rows] = [_subset(coded[0].rows, part) for part in parts]
    if len(coded) > 1:
        rows[2] = coded[1].rows
    if wrong := flat_columns(
        (x.numpy() for x in blocks(rows[0])), schema, f"{names[0]}, its training rows"
    ):
        raise DataError(wrong)
    notes = [
        *notes,
        *(line for c in coded for line in c.notes),
        *_told(coded, len(schema.modelled), copies),
    ]
    return Prepared(
        schema,
        rows,
        notes,
        "+".join(_fingerprint(c.hashes, schema.modelled) for c in coded),
        copies,
    )


def _understood(source: Any, name: str, asked: Asked) -> tuple[Schema, list[str]]:
    """Returns the schema of a table that has none yet, and notes."""
    given: dict[str, dict[str, Any]] = {}
    missing_values, stated = asked.missing_values, tuple[str, ...]()
    if isinstance(asked.schema, Path):
        given, also, stated = from_toml(_text(asked.schema), shown(asked.schema))
        missing_values = (*missing_values, *also)
    columns, notes, wrong = infer(_pieces(source), name, missing_values=missing_values, given=given)
    modelled = [c.name for c in columns if c.modelled]
    if not wrong and not modelled:
        wrong = [
            f"{name}: no column is left to model; say what the columns are with --schema FILE "
            f"(taut check DATA --out FILE)"
        ]
    if wrong:
        raise DataError([*wrong, *_omitted(notes)])
    for wanted in asked.condition:
        if wanted not in modelled:
            known = ", ".join(shown(m) for m in modelled[:20])
            raise UsageError(
                f"--condition {shown(wanted)}: no such column is "
                f"modelled{nearest(wanted, modelled)}; there are {known}"
            )
    if len(set(asked.condition)) == len(modelled):
        raise UsageError("--condition names every column: none is left to model")
    schema = Schema(
        "table",
        (len(modelled),),
        0.0,
        0.0,
        False,
        tuple(columns),
        asked.condition,
        tuple(missing_values),
        constraints=tuple(str(constraint_of(text, columns)) for text in stated),
    )
    return schema, notes


def _with_formulas(table: Any, schema: Schema, name: str) -> tuple[Schema, list[str]]:
    """Returns the schema in which columns that are a linear function of others are derived from
    them, and notes that say so, and where a few rows contradict what all others hold.

    It holds in every row, to the last digit. A file that stays on disk is not searched.
    """
    numeric = [
        i for i, c in enumerate(schema.modelled) if not c.levels and c.rules.reads == "number"
    ]
    enough = table.num_rows >= 2 * len(numeric) + 20
    if schema.condition or not enough or not 2 <= len(numeric) <= MOST:
        return schema, []
    codes = _complete_codes(_some_rows(table), schema, name)[:, numeric]
    if len(codes) < 2 * len(numeric) + 20:
        return schema, []
    columns = [schema.modelled[i] for i in numeric]

    def numbers(codes: np.ndarray) -> np.ndarray:
        return np.column_stack([c.values(x) for c, x in zip(columns, codes.T, strict=True)])

    found = list(linear_functions(numbers(codes), codes))
    if not found:
        return schema, []
    known = _codes_of(table, schema, name)[:, numeric]
    values = {c.name: plain_numbers(c, x) for c, x in zip(columns, known.T, strict=True)}
    derived, told = {}, []
    for j, used, factors, constant in found:
        parts = {columns[i].name: float(f) for i, f in zip(used, factors, strict=True)}
        column, total = columns[j], values[columns[j].name]
        unit, blur = last_digit(column), 0.0
        if not unit or not on_grid(total[~np.isnan(total)], unit).all():
            # large numbers of many digits are read to a grid that they are not on
            blur = min(written_to(total), unit / 2 if unit else closeness(column))
            unit = 0.0
        best = neat(Formula(parts, constant), values, total, unit, blur)
        if best is None:
            continue
        formula, agree = best
        if not agree.all():
            told.append(_nearly(column.name, formula, agree, values))
            continue
        derived[column.name] = replace(
            column, kind="derived", formula=str(formula), offset=0.0, atoms=(), bounded=""
        )
        rounded = _rounded_to(formula, values, total, unit)
        told.append(
            f"{quoted(column.name)} = {formula} in every row{rounded}: it is computed, and not "
            f"modelled; a --schema FILE that gives it a kind keeps it"
        )
    schema = replace(schema, columns=tuple(derived.get(c.name, c) for c in schema.columns))
    schema = replace(schema, event_shape=(len(schema.modelled),))
    return schema, [f"{shown(name)}: {line}" for line in told]


def _nearly(
    name: str, formula: Formula, agree: np.ndarray, values: Mapping[str, np.ndarray]
) -> str:
    """Returns the line on a formula that all but a few rows hold."""
    wrong = np.flatnonzero(~agree)
    first = int(wrong[0])
    made = formula.of(values)
    held = int(np.count_nonzero(~np.isnan(values[name] - made)))
    return (
        f"{quoted(name)} = {formula} but for {len(wrong):,} of {held:,} rows, the first is row "
        f"{first} {FROM_0}, which has {values[name][first]:.15g}, not {made[first]:.15g}: it is "
        f"modelled as it stands; where those rows are slips, correct them, and it is computed"
    )


def _rounded_to(
    formula: Formula, values: Mapping[str, np.ndarray], total: np.ndarray, unit: float
) -> str:
    """Returns to what a formula is rounded that does not give every last digit itself."""
    if not unit or np.nanmax(np.abs(total - formula.of(values))) < 0.01 * unit:
        return ""
    return f", rounded to {unit:.15g}"


def _with_constraints(table: Any, schema: Schema, name: str) -> tuple[Schema, list[str]]:
    """Returns the schema with the inequalities between two columns that hold in every row, and not
    by chance, and a note that says so.
    """
    if schema.condition:
        return schema, []

    def codes(rows: Any) -> np.ndarray:
        return encode(rows, schema.columns, name, missing_values=schema.missing_values)[0]

    found = learned(codes(_some_rows(table)), schema.columns)
    if found and table.num_rows > SOME:
        whole = codes(table)
        found = [rule for rule in found if holding(whole, schema.columns, [rule]).all()]
    if not found:
        return schema, []
    return replace(schema, constraints=tuple(found)), [
        f"{shown(name)}: {', '.join(found[:3])}{and_more(found, 3)} in every row: made rows keep "
        f"it; constraints in a --schema FILE say what holds"
    ]


def _some_rows(table: Any) -> Any:
    """Returns about SOME rows of an Arrow table, in blocks from all of it: not every type of column
    can be taken row by row.
    """
    if table.num_rows <= SOME:
        return table
    import pyarrow as pa

    size = SOME // 20
    starts = np.linspace(0, table.num_rows - size, 20).astype(int)
    return pa.concat_tables([table.slice(start, size) for start in starts.tolist()])


def _codes_of(table: Any, schema: Schema, name: str) -> np.ndarray:
    return encode(table, schema.columns, name, missing_values=schema.missing_values)[0]


def _complete_codes(table: Any, schema: Schema, name: str) -> np.ndarray:
    """Returns the codes of the rows in which no number is missing."""
    values = _codes_of(table, schema, name)
    numeric = [i for i, c in enumerate(schema.modelled) if not c.levels]
    return np.asarray(values[~np.isnan(values[:, numeric]).any(1)])


@contextmanager
def _causes(notes: Sequence[str]) -> Iterator[None]:
    """Too few different rows may be so because of what was omitted, which is said with
    the error.
    """
    try:
        yield
    except DataError as error:
        raise DataError([*error.problems, *_omitted(notes)]) from error


def _omitted(notes: Iterable[str]) -> list[str]:
    return [note for note in notes if "omitted" in note or "read as a category" in note]


def check_table(source: Any, schema: Schema, name: str) -> tuple[Rows, list[str], Any]:
    """Returns new rows coded by the schema of a trained model, what to know of them, and the table
    itself.

    Raises:
        DataError: it lists every problem.
    """
    coded = _code(source, schema, name)
    if coded.problems:
        raise DataError(coded.problems)
    return coded.rows, coded.notes, None if isinstance(source, Streamed) else source


def to_table(values: Any, columns: Sequence[Column]) -> Any:
    """Returns the table of codes (N, C) that a model made: on the grid and in the range of the
    data, texts, dates.

    Args:
        values: An array or a tensor of codes; NaN becomes null.
        columns: The columns that they are of, and those that follow from them.
    """
    return decode(settled(np.asarray(values, np.float64), columns), columns)


def fill(table: Any, values: Any, schema: Schema) -> tuple[Any, int]:
    """Returns a table whose missing entries come from codes (N, C), and how many these are; every
    other cell, and column, is as it was.

    A level that the training never saw is missing to the model, but stays what it is.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    filled = to_table(values, schema.written)
    made = dict(zip(filled.column_names, filled.columns, strict=True))
    fields, arrays = list(table.schema), list(table.columns)
    places, count = {header: i for i, header in enumerate(table.column_names)}, 0
    for column in schema.written:
        if column.name not in places or column.kind == "key":
            continue  # what follows from others need not be there, and a key is no one's to guess
        place = places[column.name]
        old = arrays[place]
        cells = read_cells(old, Tokens(schema.missing_values, column.levels))
        assert not isinstance(cells, str)  # it was read before
        if not cells.missing.any():
            continue
        kind = plain_type(old.type)
        new = made[column.name]
        there = new.is_valid().to_numpy()
        if not new.type.equals(kind) and pa.types.is_integer(kind):
            new = pc.round(new)
        if pa.types.is_null(kind):
            kind = pa.float64()
        if pa.types.is_integer(kind) and new.null_count < len(new) and not _fits(new, kind):
            kind = pa.int64()
        gaps = pa.array(cells.missing & there)
        count += int((cells.missing & there).sum())
        arrays[place], fields[place] = (
            pc.if_else(gaps, new.cast(kind), old.cast(kind)),
            pa.field(column.name, kind),
        )
    return pa.table(arrays, schema=pa.schema(fields, table.schema.metadata)), count


def _fits(numbers: Any, kind: Any) -> bool:
    import pyarrow as pa

    try:
        numbers.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read the schema {shown(path)}: {getattr(error, 'strerror', None) or error}"
        ) from None


def _pieces(source: Any) -> Iterable[Any]:
    if isinstance(source, Streamed):
        return row_groups(source.path, source.marks)
    return [source]


# Of a number too large for its code, or for storage, there is a line, and numpy need not tell.
_too_large_is_told = np.errstate(over="ignore", invalid="ignore")


@_too_large_is_told
def _codes(table: Any, first_row: int, schema: Schema, name: str) -> np.ndarray:
    values, _, _ = encode(
        table, schema.columns, name, missing_values=schema.missing_values, first_row=first_row
    )
    return _stored(values)


def _stored(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what is beyond the storage has a line of its own
        return values.astype(float_storage())


@_too_large_is_told
def _code(source: Any, schema: Schema, name: str) -> _Coded:
    """Codes a table.

    Of a streamed one only the hashes are kept, and the rows are coded again when they are asked
    for.
    """
    hashes, kept, problems, notes, first_row = [], [], [], [], 0
    against: dict[str, list[np.ndarray]] = {text: [] for text in schema.constraints}
    missing, empty = 0, 0
    if not isinstance(source, Streamed) and not source.num_rows:
        raise DataError(f"{name}: holds no rows")
    for table in _pieces(source):
        values, wrong, told = encode(
            table, schema.columns, name, missing_values=schema.missing_values, first_row=first_row
        )
        problems += wrong
        notes += told
        for text, parts in against.items():
            parts.append(first_row + np.flatnonzero(~holding(values, schema.columns, [text])))
        values = _stored(values)
        hashes.append(row_hashes(values))
        gaps = np.isnan(values)
        missing, empty = missing + int(gaps.sum()), empty + int(gaps.all(1).sum())
        first_row += len(values)
        if not isinstance(source, Streamed):
            kept.append(values)
    refuted = []
    for text, parts in against.items():
        if len(broken := np.concatenate(parts)):
            notes.append(f"{name}: {contradiction(text, broken, first_row)}")
            refuted += notes[-1:] if len(broken) > CONTRADICTING * first_row else []
    rows: Any
    if isinstance(source, Streamed):
        code = partial(_codes, schema=schema, name=name)
        rows = ParquetRows(source.path, code, len(schema.modelled), marks=source.marks)
        notes += rows.notes
    else:
        rows = torch.from_numpy(np.concatenate(kept))
    return _Coded(
        np.concatenate(hashes), rows, _once(problems), refuted, _once(notes), missing, empty
    )


def _once(lines: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(lines))


def _subset(rows: Any, part: np.ndarray) -> Rows:
    if isinstance(rows, torch.Tensor):
        return rows[torch.from_numpy(part)]
    return rows.subset(part)


def _told(coded: Sequence[_Coded], num_columns: int, copies: Copies) -> Iterator[str]:
    n = len(coded[0].hashes)
    if coded[0].missing:
        share = 100 * coded[0].missing / (n * num_columns)
        yield f"{share:.3g} % of the entries are missing: {MISSING_NOTE}"
    if coded[0].empty:
        yield (
            f"{coded[0].empty} rows hold no value at all: they say nothing, and count as rows of "
            f"log p(x) = 0"
        )
    yield from copies.notes
    if len(coded) > 1:
        shared = int(np.isin(coded[1].hashes, coded[0].hashes).sum())
        if shared:
            yield (
                f"{shared} of {len(coded[1].hashes)} rows of the test set are also in the data: "
                f"its score is optimistic"
            )


def _fingerprint(hashes: np.ndarray, columns: Sequence[Column]) -> str:
    digest = blake2b(
        repr([(c.name, c.kind, c.levels, c.offset, c.step) for c in columns]).encode(),
        digest_size=16,
    )
    digest.update(np.ascontiguousarray(hashes).tobytes())
    return digest.hexdigest()
