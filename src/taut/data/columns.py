"""Turns a table of mixed types into columns, each of one kind, and its cells into codes and back.

What a column is follows from all its values, never from the first rows alone; the first rule that fits decides:

====================================================================  ==================================================
the values that are not missing                                       kind
====================================================================  ==================================================
none; times, durations, lists, records, bytes; an infinity            refused, saying how to mend it
one value                                                             constant: left out, noted
texts that are all numbers, or all ISO dates                          what such numbers or dates are
an ordered categorical                                                ordinal (binary if it has two levels)
two texts, truth values or integers                                   binary; levels sorted: false < true, no < yes
texts: a name such as ``user_id``                                     id: left out, noted
texts that are 20 or more different numbers, or dates, but for 5 %    refused, saying which and how to mend it
texts: more than 50 of which more than half differ                    id: left out, noted
texts, or the numbers of a categorical                                category; refused beyond 1,000 levels
dates and times                                                       date: days since 1970-01-01 in UTC
integers that all differ: with a name such as ``id``; or 50 or more,  id: left out, noted
none missing, and on average no gap above 3
integers that span fewer than 256                                     levels
integers from 0                                                       count
integers                                                              real
numbers that are all positive and whose log-normal likelihood         positive
(with its Jacobian, at its maximum) is above the normal one
numbers                                                               real
====================================================================  ==================================================

A schema file overrides each. What looks like a stand-in for a missing value ("?", -999) is reported, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from taut.data.column import (
    KINDS,
    LEVEL_KINDS,
    MAX_LEVELS,
    MISSING,
    NUMBER_KINDS,
    Column,
    entry_problems,
    is_id_name,
    nearest_to,
    quoted,
    value_text,
)
from taut.data.columns_cells import Tokens, as_numbers, read_cells
from taut.data.columns_codes import decode, encode
from taut.data.columns_notes import (
    FROM_0,
    MANY,
    View,
    disguise,
    dress_notes,
    may_mean,
    mixed,
    only_other,
    precision_notes,
    sentinel_notes,
    strays,
    token_notes,
    two_notations,
    unbounded_notes,
)
from taut.data.columns_seen import CAP, Numbers, Seen, some
from taut.data.columns_toml import from_toml, to_toml
from taut.data.notation import affix, is_currency
from taut.errors import shown

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["KINDS", "MISSING", "Column", "decode", "encode", "from_toml", "infer", "to_toml"]

MAX_CATEGORIES = 1000
CONSTANT = " is constant ("
LISTED = 3  # columns of which each gets a line of its own


def infer(
    tables: Iterable[pa.Table],
    name: str,
    *,
    missing_values: Sequence[str] = (),
    given: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[tuple[Column, ...], list[str], list[str]]:
    """Returns the columns of a table, what a person should know about them, and what is wrong: a line each.

    Args:
        tables: The table in pieces, in order (the row groups of a file); each is read once and let go.
        name: What to call the data in the lines.
        missing_values: Texts and numbers that mean missing, besides ``MISSING``.
        given: What a schema file says: for a column's name any of kind, levels, low and high.
    """
    where, given = f"{shown(name)}: ", given or {}
    problems = [where + line for header, entry in given.items() for line in entry_problems(header, entry)]
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
                one.add(read_cells(column, Tokens(missing_values, given.get(one.name, {}).get("levels", ()))))
    if not rows:
        return (), [], [*problems, f"{where}holds no rows; at least one is needed"]
    notes: list[str] = []
    columns = [_column(one, given.get(one.name, {}), notes, problems) for one in seen]
    if not problems and not any(c is not None and c.modelled for c in columns):
        problems.append('has no column left to model; keep one with a schema file (such as kind = "category")')
    pairs = [(s, c) for s, c in zip(seen, columns, strict=True) if c is not None and c.kind in ("real", "positive")]
    notes += unbounded_notes([(quoted(c.name), _viewed(s, c.kind).numbers) for s, c in pairs]) + token_notes(seen)
    notes = _condensed(notes)
    return tuple(c for c in columns if c is not None), [where + n for n in notes], [where + p for p in problems]


def _condensed(notes: list[str]) -> list[str]:
    """Many columns that do not vary, such as the border of images, are one line."""
    constant = [note for note in notes if CONSTANT in note and note.endswith(", left out")]
    if len(constant) <= LISTED:
        return notes
    names = [note.partition(CONSTANT)[0] for note in constant]
    first = notes.index(constant[0])
    others = [note for note in notes if note not in set(constant)]
    told = f"{len(constant)} columns are constant, left out: {', '.join(names[:3])}, ..."
    return [*others[:first], told, *others[first:]]


def _header_problems(headers: list[str], given: Mapping[str, Any], where: str) -> list[str]:
    lines = []
    if nameless := [i for i, header in enumerate(headers) if not header.strip()]:
        pandas = "; pandas writes its index so, which index=False leaves away" if nameless == [0] else ""
        lines.append(f"column {', '.join(map(str, nameless[:10]))} (from 0) has no name; give it one, or remove it{pandas}")
    if twice := [h for h in dict.fromkeys(headers) if headers.count(h) > 1 and h.strip()]:
        lines.append(f"{some(twice)} names more than one column; rename all but one")
    extra = [h for h in given if h not in headers]
    lines += [f"the schema file describes {quoted(h)}, which is no column{nearest_to(h, headers)}" for h in extra]
    return [where + line for line in lines]


def _column(seen: Seen, entry: Mapping[str, Any], notes: list[str], problems: list[str]) -> Column | None:
    label, kind = quoted(seen.name), entry.get("kind")
    if kind == "id":
        return Column(seen.name, "id", missing=seen.missing, type="text", rows=seen.rows)
    if seen.problem or seen.family == "null":
        nothing = 'holds nothing but missing values; remove it, or set kind = "id" in a schema file'
        problems.append(f"column {label} {seen.problem or nothing}")
        return None
    view = _viewed(seen, kind)
    if view.numbers.infinite:
        problems.append(_infinite(label, view.numbers, seen.rows))
        return None
    notes += sentinel_notes(label, seen, view)
    if view.family == "date" and (both := two_notations(seen)) and kind is None:
        problems.append(f"column {label} {both}")
        return None
    if kind is not None and not _fits(kind, label, view, seen, problems):
        return None
    kind = kind or _guess(seen, view, notes, problems)
    if kind is None:
        return None
    column = _built(seen, view, kind, entry, problems)
    if column is not None and column.modelled and view.family in ("number", "date") and seen.family == "text":
        column = replace(column, notation=seen.texts.dress.notation)
    if column is not None and kind != "id":
        notes += dress_notes(label, seen, view)
    if column is not None and column.modelled:
        notes += precision_notes(label, column, view, problems)
    elif column is not None and kind == "constant":
        gone = f"; {seen.missing:,} of {seen.rows:,} values missing" if seen.missing else ""
        notes.append(f"{label}{CONSTANT}{column.describe()[1]}{gone}), left out")
    return column


def _viewed(seen: Seen, kind: str | None) -> View:
    """Texts that a person calls levels stay texts (01234 is a postcode); two of them are read as rule 1 would."""
    texts = seen.texts
    if seen.family != "text":
        return View(seen.family, seen.type, seen.days if seen.family == "date" else seen.numbers)
    if (seen.declared and kind in (None, "constant", *LEVEL_KINDS)) or kind in ("category", "ordinal"):
        return View("text", "text", Numbers())
    if not texts.others["number"] and not (kind is None and _may_be_levels(seen)):
        return View("number", "int" if texts.integers else "float", texts.numbers)
    if not texts.others["date"]:
        return View("date", texts.day_type, texts.days)
    return View("text", "text", Numbers())


def _may_be_levels(seen: Seen) -> bool:
    """A few texts such as 4dr and 5dr name things; %, and a currency, are of numbers, and so is a unit beside many."""
    worn = affix(seen.texts.dress.notation)
    return bool(worn) and seen.texts.numbers.distinct < MANY and worn != "%" and not is_currency(worn)


def _guess(seen: Seen, view: View, notes: list[str], problems: list[str]) -> str | None:
    label = quoted(seen.name)
    distinct = seen.texts.distinct if view.family == "text" else view.numbers.distinct
    if distinct == 1:
        return "constant"
    if seen.order and view.family != "date":
        return "binary" if len(seen.order) == 2 else "ordinal"
    if distinct == 2 and (view.family in ("text", "bool") or (view.family == "number" and view.numbers.integers)):
        return "binary"
    if view.family == "text":
        return _guess_text(seen, notes, problems)
    if view.family == "date":
        return "date"
    if seen.declared:
        return "category"
    if seen.family == "text" and seen.texts.padded:
        keep = 'kind = "category" in a schema file keeps the texts'
        notes.append(f"{label} holds numbers with leading zeros such as {quoted(seen.texts.padded)}, read as numbers; {keep}")
    if view.numbers.integers:
        return _guess_integer(seen, view.numbers, notes)
    _, std, log_mean, log_std = view.numbers.moments()
    with np.errstate(divide="ignore"):
        log_normal = -np.log(log_std) - log_mean  # both without the terms that they share, per value
        return "positive" if view.numbers.low > 0 and log_normal > -np.log(std) else "real"


def _guess_text(seen: Seen, notes: list[str], problems: list[str]) -> str | None:
    label, texts = quoted(seen.name), seen.texts
    hint = mixed(texts)
    only = only_other(seen)
    if only:
        hint = f"; all its other values are numbers, so {may_mean(only, texts.counts[only])}"
    id_name = is_id_name(seen.name)
    if not id_name and not seen.declared and (wrong := strays(seen) or disguise(seen)):
        problems.append(f"column {label}: {wrong}")
        return None
    if id_name or (texts.count > 50 and texts.share_different > 0.5):
        notes.append(f'{label} looks like an id, left out; kind = "category" in a schema file keeps it{hint}')
        return "id"
    if texts.distinct > MAX_CATEGORIES:
        problems.append(_too_many(label, texts.distinct) + hint)
        return None
    if hint and not only:
        notes.append(f"{label} is read as a category{hint}")
    return "category"


def _guess_integer(seen: Seen, numbers: Numbers, notes: list[str]) -> str:
    span = numbers.high - numbers.low
    different = numbers.all_different or max(-numbers.low, numbers.high) >= 2**53  # a float no longer tells those apart
    if different and (is_id_name(seen.name) or (seen.rows >= 50 and not seen.missing and span < 4 * seen.rows)):
        notes.append(f'{quoted(seen.name)} looks like an id, left out; kind = "count" or "real" in a schema file keeps it')
        return "id"
    return "levels" if span < 256 else "count" if numbers.low >= 0 else "real"


def _fits(kind: str, label: str, view: View, seen: Seen, problems: list[str]) -> bool:
    """Says what is wrong with a kind that a person gave."""
    numbers, say = view.numbers, f"column {label}: kind {kind} "
    if kind == "constant":
        several = (seen.texts.distinct if view.family == "text" else numbers.distinct) > 1
        problems += [f'{say}needs one value, but it holds several; kind = "id" leaves it out'] if several else []
        return not several
    families = ("text", "bool", "number") if kind in LEVEL_KINDS else ("date",) if kind == "date" else ("number",)
    if view.family not in families:
        first = seen.texts.first_other.get("date" if kind == "date" else "number")
        where = f", the first ({quoted(first[1])}) in row {first[0]} {FROM_0}" if first and seen.family == "text" else ""
        held = {"text": "texts", "bool": "truth values", "number": "numbers", "date": "dates"}[view.family]
        problems.append(f"{say}needs {' or '.join(families)}s, but it holds {held}{where}; mend them, or choose another kind")
        return False
    if kind in NUMBER_KINDS:
        if kind in ("count", "levels") and not numbers.integers:
            problems.append(f"{say}needs integers, but it holds others; choose real or positive")
        elif kind == "count" and numbers.low < 0:
            problems.append(f"{say}needs integers from 0, but it holds {numbers.low:.15g}; choose levels or real")
        elif kind == "positive" and numbers.low <= 0:
            problems.append(f"{say}needs numbers above 0, but it holds {numbers.low:.15g}; choose real")
        else:
            return True
        return False
    return True


def _built(seen: Seen, view: View, kind: str, entry: Mapping[str, Any], problems: list[str]) -> Column | None:
    label, numbers = quoted(seen.name), view.numbers
    column = partial(Column, seen.name, kind, missing=seen.missing, type=view.type, rows=seen.rows)
    if kind == "id":
        return Column(seen.name, kind, missing=seen.missing, type="text", rows=seen.rows)
    if kind in LEVEL_KINDS or (kind == "constant" and view.family in ("text", "bool")):
        levels = _levels(seen, view, kind, entry, problems)
        return None if levels is None else column(levels=levels)
    if kind == "constant":
        return column(low=numbers.low, high=numbers.high)
    low, high = float(entry.get("low", numbers.low)), float(entry.get("high", numbers.high))
    if numbers.low < low or numbers.high > high:
        held = f"holds {value_text(numbers.low)}..{value_text(numbers.high)}, outside its levels {low:.15g}..{high:.15g}"
        problems.append(f"column {label} {held}; correct the values, or low and high")
        return None
    if kind == "levels" and high - low >= MAX_LEVELS:
        problems.append(f"column {label} spans {high - low + 1:,.0f} levels, at most {MAX_LEVELS:,} are taken; use count or real")
        return None
    mean, std, _, _ = numbers.moments()
    return column(low=low, high=high, mean=mean, std=std)


def _levels(seen: Seen, view: View, kind: str, entry: Mapping[str, Any], problems: list[str]) -> tuple[str, ...] | None:
    """Returns the levels: those given, those that the source declares in order, or those seen, sorted."""
    label, order = f"column {quoted(seen.name)}", seen.order
    if view.family == "text":
        held = seen.texts.counts
    else:
        texts = [("false", "true")[int(v)] if view.family == "bool" else value_text(v) for v in view.numbers.values.tolist()]
        held = dict(zip(texts, view.numbers.counts.tolist(), strict=True))
    if len(held) > MAX_CATEGORIES:
        problems.append(_too_many(quoted(seen.name), len(held)))
        return None
    if given := tuple(entry.get("levels", ())):
        plain = given if view.family == "text" else tuple(_plain_level(level, view.family) for level in given)
        if others := [t for t in held if t not in plain]:
            count = f"{sum(held[t] for t in others):,} values that are none of its levels ({some(others)})"
            problems.append(f"{label} holds {count}; add them to levels, or list them in --missing-values")
            return None
        return plain
    if kind == "ordinal" and not order and view.family == "text" and not _all_numbers(held):
        problems.append(f'{label}: kind ordinal needs the levels in their order, such as levels = ["low", "high"]')
        return None
    kept = kind == "ordinal" or (kind == "binary" and len(order) == 2)
    levels = order if order and kept else _sorted(held) if view.family == "text" else tuple(held)
    if kind != "constant" and (len(levels) < 2 or (kind == "binary" and len(levels) > 2)):
        problems.append(f"{label}: kind {kind} needs two levels{'' if kind == 'binary' else ' or more'}, it holds {len(levels)}")
        return None
    return levels


def _sorted(texts: Iterable[str]) -> tuple[str, ...]:
    texts = list(texts)
    if _all_numbers(texts):
        return tuple(sorted(texts, key=lambda t: (float(t), t)))
    return tuple(sorted(texts, key=lambda t: (t.casefold(), t)))


def _all_numbers(texts: Iterable[str]) -> bool:
    return not np.isnan(as_numbers(list(texts))).any()


def _plain_level(level: str, family: str) -> str:
    number = as_numbers([level])[0]
    return level.lower() if family == "bool" else level if not math.isfinite(number) else value_text(float(number))


def _too_many(label: str, distinct: int) -> str:
    number = f"more than {CAP - 1:,}" if distinct == CAP else f"{distinct:,}"
    ways = 'join levels until at most 1,000 are left, or leave the column out with kind = "id" in a schema file'
    return f"column {label} holds {number} different texts, too many for a category; {ways}"


def _infinite(label: str, numbers: Numbers, rows: int) -> str:
    row, value = numbers.first_infinite
    share = f"{numbers.infinite:,} values ({100 * numbers.infinite / rows:.3g} %) of {label} are infinite"
    return f"{share}, the first ({value:g}) in row {row} {FROM_0}; replace them, or list {value:g} in --missing-values"
