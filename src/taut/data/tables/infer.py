"""Turns a table of mixed types into columns, each of one kind (``guess`` says which)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from taut.data.tables.cells import HELD, Tokens, as_numbers, days_of, read_cells
from taut.data.tables.codes import decode, encode
from taut.data.tables.column import Column
from taut.data.tables.entries import entry_problems
from taut.data.tables.formula import Formula
from taut.data.tables.guess import MAX_CATEGORIES, guess, too_many
from taut.data.tables.kind import Kind, Number
from taut.data.tables.kinds import KINDS
from taut.data.tables.notation import affix, is_currency
from taut.data.tables.notes import (
    FROM_0,
    MANY,
    View,
    circle_notes,
    dress_notes,
    precision_notes,
    sentinel_notes,
    token_notes,
    two_notations,
    unbounded_notes,
)
from taut.data.tables.seen import Numbers, Seen, some
from taut.data.tables.toml import from_toml, to_toml
from taut.data.tables.words import MISSING, nearest_to, quoted, value_text
from taut.system.errors import shown

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["KINDS", "MISSING", "Column", "decode", "encode", "from_toml", "infer", "to_toml"]

CONSTANT = " is constant ("
LISTED = 3  # columns of which each gets a line of its own


def infer(
    tables: Iterable[pa.Table],
    name: str,
    *,
    missing_values: Sequence[str] = (),
    given: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[tuple[Column, ...], list[str], list[str]]:
    """Returns the columns of a table, what the user should know about them, and what is wrong: a
    line each.

    Args:
        tables: The table in pieces, in order (the row groups of a file); each is read once and let
            go.
        name: What to call the data in the lines.
        missing_values: Texts and numbers that mean missing, besides ``MISSING``.
        given: What a schema file says: for a column's name any of kind, levels, low and high.
    """
    where, given = f"{shown(name)}: ", given or {}
    problems = [
        where + line for header, entry in given.items() for line in entry_problems(header, entry)
    ]
    seen: list[Seen] = []
    rows = 0
    for table in tables:
        rows += table.num_rows
        if not seen:
            problems += _header_problems(table.column_names, given, where)
            seen = [Seen(header) for header in table.column_names]
        elif table.column_names != [s.name for s in seen]:
            problems.append(f"{where}its pieces have different columns; write it with one header")
        if problems:
            return (), [], problems
        for one, column in zip(seen, table.columns, strict=True):
            if given.get(one.name, {}).get("kind") == "id":
                one.rows, one.missing = one.rows + len(column), one.missing + column.null_count
            else:
                one.add(
                    read_cells(
                        column, Tokens(missing_values, given.get(one.name, {}).get("levels", ()))
                    )
                )
    if not rows:
        return (), [], [*problems, f"{where}holds no rows; at least one is needed"]
    notes: list[str] = []
    columns = [_column(one, given.get(one.name, {}), notes, problems) for one in seen]
    if not problems and not any(c is not None and c.modelled for c in columns):
        problems.append(
            'has no column left to model; keep one with a schema file (such as kind = "category")'
        )
    problems += _sum_problems([c for c in columns if c is not None])
    pairs = [
        (s, c) for s, c in zip(seen, columns, strict=True) if c is not None and c.rules.unbounded
    ]
    notes += unbounded_notes(
        [(quoted(c.name), _viewed(s, c.rules).numbers) for s, c in pairs]
    ) + token_notes(seen)
    notes = _condensed(notes)
    return (
        tuple(c for c in columns if c is not None),
        [where + n for n in notes],
        [where + p for p in problems],
    )


def _sum_problems(columns: Sequence[Column]) -> list[str]:
    """Formulas are of numbers that a model sees."""
    numbers = [c.name for c in columns if c.modelled and c.rules.reads == "number" and not c.levels]
    lines = []
    for column in columns:
        if isinstance(column.sum, Formula):
            lines += [
                f"column {quoted(column.name)}: its formula has {quoted(name)}, which is not a "
                f"column of numbers that is modelled{nearest_to(name, numbers)}"
                for name in column.sum.factors
                if name not in numbers
            ]
    return lines


def _condensed(notes: list[str]) -> list[str]:
    """Many columns that do not vary, such as the border of images, are one line."""
    constant = [note for note in notes if CONSTANT in note and note.endswith(", omitted")]
    if len(constant) <= LISTED:
        return notes
    names = [note.partition(CONSTANT)[0] for note in constant]
    first = notes.index(constant[0])
    others = [note for note in notes if note not in set(constant)]
    told = f"{len(constant)} columns are constant, omitted: {', '.join(names[:3])}, ..."
    return [*others[:first], told, *others[first:]]


def _header_problems(headers: list[str], given: Mapping[str, Any], where: str) -> list[str]:
    lines = []
    if nameless := [i for i, header in enumerate(headers) if not header.strip()]:
        pandas = "; pandas writes its index so: save with index=False" if nameless == [0] else ""
        lines.append(
            f"column {', '.join(map(str, nameless[:10]))} (from 0) has no name; give it one, or "
            f"remove it{pandas}"
        )
    if twice := [h for h, n in Counter(headers).items() if n > 1 and h.strip()]:
        lines.append(f"{some(twice)} names more than one column; rename all but one")
    known = set(headers)
    extra = [h for h in given if h not in known]
    lines += [
        f"the schema file describes {quoted(h)}, which is not a column{nearest_to(h, headers)}"
        for h in extra
    ]
    return [where + line for line in lines]


def _column(
    seen: Seen, entry: Mapping[str, Any], notes: list[str], problems: list[str]
) -> Column | None:
    label, word = quoted(seen.name), entry.get("kind")
    if word == "id":
        return Column(seen.name, word, missing=seen.missing, type="text", rows=seen.rows)
    if seen.problem or seen.family == "null" or seen.missing == seen.rows:
        nothing = 'holds nothing but missing values; remove it, or set kind = "id" in a schema file'
        problems.append(f"column {label} {seen.problem or nothing}")
        return None
    view = _viewed(seen, KINDS.get(word or ""))
    if view.numbers.infinite:
        problems.append(_infinite(label, view.numbers, seen.rows))
        return None
    notes += sentinel_notes(label, seen, view)
    if view.family == "date" and (both := two_notations(seen)) and word is None:
        problems.append(f"column {label} {both}")
        return None
    if word is not None and (misfit := _misfit(KINDS[word], view, seen)):
        problems.append(f"column {label}: kind {word} {misfit}")
        return None
    word = word or guess(seen, view, notes, problems)
    if word is None:
        return None
    column = _built(seen, view, KINDS[word], entry, problems)
    if column is None:
        return None
    return _noted(column, seen, view, notes, problems)


def _noted(column: Column, seen: Seen, view: View, notes: list[str], problems: list[str]) -> Column:
    """Returns the column with its notation, and notes what a user should know of it."""
    label = quoted(seen.name)
    if column.modelled and view.family in ("number", "date") and seen.family == "text":
        column = replace(column, notation=seen.texts.dress.notation)
    if column.kind != "id":
        notes += dress_notes(label, seen, view)
    if column.modelled:
        notes += precision_notes(label, column, problems) + circle_notes(label, column)
    elif column.kind == "constant":
        gone = f"; {seen.missing:,} of {seen.rows:,} values missing" if seen.missing else ""
        notes.append(f"{label}{CONSTANT}{column.describe()[1]}{gone}), omitted")
    return column


def _viewed(seen: Seen, kind: Kind | None) -> View:
    """Texts that the user calls levels stay texts (01234 is a postcode).

    Two of them are read as rule 1 would.
    """
    texts = seen.texts
    if seen.family != "text":
        return View(seen.family, seen.type, seen.days if seen.family == "date" else seen.numbers)
    if kind is None:
        stays = seen.declared
    else:
        stays = kind.keeps_text or (seen.declared and "text" in kind.cells)
    if stays:
        return View("text", "text", Numbers())
    if not texts.others["number"] and not (kind is None and _may_be_levels(seen)):
        return View("number", "int" if texts.integers else "float", texts.numbers)
    if not texts.others["date"]:
        return View("date", texts.day_type, texts.days)
    return View("text", "text", Numbers())


def _may_be_levels(seen: Seen) -> bool:
    """A few texts such as 4dr and 5dr name things.

    %, and a currency, are of numbers, and so is a unit next to many.
    """
    worn = affix(seen.texts.dress.notation)
    return (
        bool(worn) and seen.texts.numbers.distinct < MANY and worn != "%" and not is_currency(worn)
    )


def _misfit(kind: Kind, view: View, seen: Seen) -> str:
    """Returns why a column cannot be of the kind that a schema file gives it, or nothing."""
    if kind.holds(view.family, view.numbers):
        texts = view.family == "text"
        return kind.refuses(view.numbers, seen.texts.distinct if texts else view.numbers.distinct)
    first = seen.texts.first_other.get(kind.reads)
    where = ""
    if first and seen.family == "text":
        where = f", the first ({quoted(first[1])}) in row {first[0]} {FROM_0}"
    return (
        f"needs {' or '.join(kind.cells)}s, but it holds {HELD[view.family]}{where}; correct "
        f"them, or "
        f"choose another kind"
    )


def _built(
    seen: Seen, view: View, kind: Kind, entry: Mapping[str, Any], problems: list[str]
) -> Column | None:
    label, numbers, type_ = quoted(seen.name), view.numbers, view.type
    if kind.word == "id":
        type_ = "text"
    column = partial(Column, seen.name, kind.word, missing=seen.missing, rows=seen.rows)
    if kind.word == "id":
        return column(type=type_)
    if kind.nominal or (not kind.modelled and view.family in ("text", "bool")):
        levels = _levels(seen, view, kind, entry, problems)
        if levels is None:
            return None
        return column(type=type_, levels=levels)
    if not kind.modelled and not isinstance(kind, Number):
        return column(type=type_, low=numbers.low, high=numbers.high)
    if kind.reads == "date" and view.family == "number":
        days = Numbers()
        days.add(np.repeat(days_of(numbers.values), numbers.counts), 0)
        numbers, type_ = days, "yyyymmdd"
    assert isinstance(kind, Number)
    shaped = kind.shaped(numbers, entry)
    if isinstance(shaped, str):
        problems.append(f"column {label}{shaped}")
        return None
    mean, std, _, _ = numbers.moments()
    column = partial(column, formula=entry.get("formula", ""))
    return column(type=type_, mean=mean, std=std, **shaped._asdict())


def _levels(
    seen: Seen, view: View, kind: Kind, entry: Mapping[str, Any], problems: list[str]
) -> tuple[str, ...] | None:
    """Returns the levels.

    Those given, those that the source declares in order, or those seen, sorted.
    """
    label, held = f"column {quoted(seen.name)}", _held_levels(seen, view)
    if len(held) > MAX_CATEGORIES:
        problems.append(too_many(quoted(seen.name), len(held)))
        return None
    if given := tuple(entry.get("levels", ())):
        if view.family != "text":
            given = tuple(_plain_level(level, view.family) for level in given)
        if others := [t for t in held if t not in given]:
            count = (
                f"{sum(held[t] for t in others):,} values that are none of its levels "
                f"({some(others)})"
            )
            problems.append(
                f"{label} holds {count}; add them to levels, or list them in --missing-values"
            )
            return None
        return given
    if kind.ordered and not seen.order and view.family == "text" and not _all_numbers(held):
        problems.append(
            f'{label}: kind ordinal needs the levels in their order, such as levels = ["low", '
            f'"high"]'
        )
        return None
    levels = _sorted(held) if view.family == "text" else tuple(held)
    if seen.order and kind.keeps_order(seen.order):
        levels = seen.order
    if needed := kind.wrong_levels(len(levels)):
        problems.append(f"{label}: kind {kind.word} needs {needed}, it holds {len(levels)}")
        return None
    return levels


def _held_levels(seen: Seen, view: View) -> Mapping[str, int]:
    """Returns the texts of the levels that were seen, and how often each was."""
    if view.family == "text":
        return seen.texts.counts
    values = view.numbers.values.tolist()
    if view.family == "bool":
        texts = [("false", "true")[int(v)] for v in values]
    else:
        texts = [value_text(v) for v in values]
    return dict(zip(texts, view.numbers.counts.tolist(), strict=True))


def _sorted(texts: Iterable[str]) -> tuple[str, ...]:
    texts = list(texts)
    if _all_numbers(texts):
        return tuple(sorted(texts, key=lambda t: (float(t), t)))
    return tuple(sorted(texts, key=lambda t: (t.casefold(), t)))


def _all_numbers(texts: Iterable[str]) -> bool:
    return not np.isnan(as_numbers(list(texts))).any()


def _plain_level(level: str, family: str) -> str:
    if family == "bool":
        return level.lower()
    number = as_numbers([level])[0]
    if math.isfinite(number):
        return value_text(float(number))
    return level


def _infinite(label: str, numbers: Numbers, rows: int) -> str:
    row, value = numbers.first_infinite
    share = (
        f"{numbers.infinite:,} values ({100 * numbers.infinite / rows:.3g} %) of {label} are "
        f"infinite"
    )
    return (
        f"{share}, the first ({value:g}) in row {row} {FROM_0}; replace them, or list {value:g} in "
        f"--missing-values"
    )
