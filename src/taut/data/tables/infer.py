"""Turns a table of mixed types into columns, each of one kind, and its cells into codes and back.

What a column is follows from all its values, never from the first rows alone; the first rule that
fits decides:

====================================================================
================================================== the values that are not missing
kind ====================================================================
================================================== none; times, durations, lists, records, bytes; an
infinity            refused, saying how to mend it one value
constant: left out, noted texts that are all numbers, or all ISO dates                          what
such numbers or dates are an ordered categorical
ordinal (binary if it has two levels) two texts, truth values or integers
binary; levels sorted: false < true, no < yes
texts: a name such as ``user_id``                                     id: left out, noted texts that
    are 20 or more different numbers, or dates, but for 5 %    refused, saying which and how to mend
    it
texts: more than 50 of which more than half differ                    id: left out, noted texts, or
    the numbers of a categorical                                category; refused beyond 1,000
    levels
dates and times                                                       date: days since 1970-01-01 in
UTC integers that all differ: with a name such as ``id``; or 50 or more,  id: left out, noted none
missing, and on average no gap above 3; any from 2^53 on integers such as 20240131 that are all
dates, 50 or more              date, noted integers that span fewer than 256
levels integers of which one repeats far above 9 others (0 beside incomes)   mixed: a density, and
that one with a probability integers from near 0, skewed to the right
count other integers from 0, at most 65,536 steps of their grid             levels integers
as numbers numbers on a grid, each different one ten times or more               levels numbers of
which some come 10 times as often as the others            mixed numbers that are all positive and
whose log-normal likelihood         positive (with its Jacobian, at its maximum) is above the normal
one numbers that crowd at an end of their range (humidity at 100)         mixed numbers
real ====================================================================
==================================================

A schema file overrides each. What looks like a stand-in for a missing value ("?", -999) is
reported, never guessed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from taut.data.tables import shape
from taut.data.tables.cells import Tokens, as_numbers, days_of, read_cells
from taut.data.tables.codes import decode, encode
from taut.data.tables.column import (
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
from taut.data.tables.notation import affix, is_currency
from taut.data.tables.notes import (
    FROM_0,
    MANY,
    View,
    circle_notes,
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
from taut.data.tables.seen import CAP, Numbers, Seen, some
from taut.data.tables.toml import from_toml, to_toml
from taut.system.errors import shown

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
    """Returns the columns of a table, what a person should know about them, and what is wrong: a
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
    pairs = [
        (s, c)
        for s, c in zip(seen, columns, strict=True)
        if c is not None and c.kind in ("real", "positive")
    ]
    notes += unbounded_notes(
        [(quoted(c.name), _viewed(s, c.kind).numbers) for s, c in pairs]
    ) + token_notes(seen)
    notes = _condensed(notes)
    return (
        tuple(c for c in columns if c is not None),
        [where + n for n in notes],
        [where + p for p in problems],
    )


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
        pandas = (
            "; pandas writes its index so, which index=False leaves away" if nameless == [0] else ""
        )
        lines.append(
            f"column {', '.join(map(str, nameless[:10]))} (from 0) has no name; give it one, or "
            f"remove it{pandas}"
        )
    if twice := [h for h, n in Counter(headers).items() if n > 1 and h.strip()]:
        lines.append(f"{some(twice)} names more than one column; rename all but one")
    known = set(headers)
    extra = [h for h in given if h not in known]
    lines += [
        f"the schema file describes {quoted(h)}, which is no column{nearest_to(h, headers)}"
        for h in extra
    ]
    return [where + line for line in lines]


def _column(
    seen: Seen, entry: Mapping[str, Any], notes: list[str], problems: list[str]
) -> Column | None:
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
    if (
        column is not None
        and column.modelled
        and view.family in ("number", "date")
        and seen.family == "text"
    ):
        column = replace(column, notation=seen.texts.dress.notation)
    if column is not None and kind != "id":
        notes += dress_notes(label, seen, view)
    if column is not None and column.modelled:
        notes += precision_notes(label, column, problems) + circle_notes(label, column)
    elif column is not None and kind == "constant":
        gone = f"; {seen.missing:,} of {seen.rows:,} values missing" if seen.missing else ""
        notes.append(f"{label}{CONSTANT}{column.describe()[1]}{gone}), left out")
    return column


def _viewed(seen: Seen, kind: str | None) -> View:
    """Texts that a person calls levels stay texts (01234 is a postcode).

    Two of them are read as rule 1 would.
    """
    texts = seen.texts
    if seen.family != "text":
        return View(seen.family, seen.type, seen.days if seen.family == "date" else seen.numbers)
    if (seen.declared and kind in (None, "constant", *LEVEL_KINDS)) or kind in (
        "category",
        "ordinal",
    ):
        return View("text", "text", Numbers())
    if not texts.others["number"] and not (kind is None and _may_be_levels(seen)):
        return View("number", "int" if texts.integers else "float", texts.numbers)
    if not texts.others["date"]:
        return View("date", texts.day_type, texts.days)
    return View("text", "text", Numbers())


def _may_be_levels(seen: Seen) -> bool:
    """A few texts such as 4dr and 5dr name things.

    %, and a currency, are of numbers, and so is a unit beside many.
    """
    worn = affix(seen.texts.dress.notation)
    return (
        bool(worn) and seen.texts.numbers.distinct < MANY and worn != "%" and not is_currency(worn)
    )


def _guess(seen: Seen, view: View, notes: list[str], problems: list[str]) -> str | None:
    label = quoted(seen.name)
    distinct = seen.texts.distinct if view.family == "text" else view.numbers.distinct
    if distinct == 1:
        return "constant"
    if seen.order and view.family != "date":
        return "binary" if len(seen.order) == 2 else "ordinal"
    if distinct == 2 and (
        view.family in ("text", "bool") or (view.family == "number" and view.numbers.integers)
    ):
        return "binary"
    if view.family == "text":
        return _guess_text(seen, notes, problems)
    if view.family == "date":
        return "date"
    if seen.declared:
        return "category"
    if seen.family == "text" and seen.texts.padded:
        keep = 'kind = "category" in a schema file keeps the texts'
        notes.append(
            f"{label} holds numbers with leading zeros such as {quoted(seen.texts.padded)}, read "
            f"as numbers; {keep}"
        )
    numbers = view.numbers
    if numbers.integers and (kind := _guess_integer(seen, numbers, notes)):
        return kind
    if not numbers.integers and shape.few_values(numbers, shape.step_of(numbers)):
        return "levels"
    return _guess_density(numbers)


def _guess_density(numbers: Numbers) -> str:
    if shape.atoms_of(numbers):
        return "mixed"
    mean, std, log_mean, log_std = numbers.moments()
    with np.errstate(divide="ignore"):
        # both without the terms that they share, per value
        log_normal = -np.log(log_std) - log_mean
    # Positive numbers that hardly vary need an offset, which a logarithm cannot have.
    if numbers.low > 0 and log_normal > -np.log(std) and mean < shape.FAR * std:
        return "positive"
    return "mixed" if shape.has_edge(numbers) else "real"


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
        notes.append(
            f'{label} looks like an id, left out; kind = "category" in a schema file keeps it{hint}'
        )
        return "id"
    if texts.distinct > MAX_CATEGORIES:
        problems.append(_too_many(label, texts.distinct) + hint)
        return None
    if hint and not only:
        notes.append(f"{label} is read as a category{hint}")
    return "category"


def _guess_integer(seen: Seen, numbers: Numbers, notes: list[str]) -> str | None:
    """Returns the kind of integers; None if they are modelled as numbers with a density."""
    label, span = quoted(seen.name), numbers.high - numbers.low
    large = max(-numbers.low, numbers.high) >= 2**53  # a float no longer tells those apart
    if large:
        keep = 'give it as text with kind = "category" in a schema file to keep it'
        notes.append(
            f"{label} looks like an id, left out: no float tells its integers from 2^53 on apart; "
            f"{keep}"
        )
        return "id"
    if numbers.all_different and (
        is_id_name(seen.name) or (seen.rows >= 50 and not seen.missing and span < 4 * seen.rows)
    ):
        notes.append(
            f'{label} looks like an id, left out; kind = "count" or "real" in a schema file keeps '
            f"it"
        )
        return "id"
    if _is_yyyymmdd(numbers):
        keep = 'kind = "levels" in a schema file keeps them integers'
        notes.append(
            f"{label} holds dates such as {numbers.low:.0f}, read as dates and written again so; "
            f"{keep}"
        )
        return "date"
    if span < 256:
        return "levels"
    atoms = shape.atoms_of(numbers)
    if atoms and _lone(numbers, atoms):
        return None
    if shape.is_count(numbers):
        return "count"
    return (
        "levels"
        if numbers.low >= 0 and shape.num_steps(numbers, shape.step_of(numbers)) < MAX_LEVELS
        else None
    )


def _is_yyyymmdd(numbers: Numbers) -> bool:
    many = (
        numbers.count >= shape.MIN_ROWS and numbers.distinct >= MANY and numbers.capped_at is None
    )
    return many and numbers.low > 18_000_000 and not np.isnan(days_of(numbers.values)).any()


def _lone(numbers: Numbers, atoms: tuple[float, ...]) -> bool:
    """Returns whether integers keep away from an atom at 0.

    Counts that start there go on with 1, 2, 3.
    """
    return numbers.low != 0 or 0.0 not in atoms or float(numbers.values[1]) >= 10


def _fits(kind: str, label: str, view: View, seen: Seen, problems: list[str]) -> bool:
    """Says what is wrong with a kind that a person gave."""
    numbers, say = view.numbers, f"column {label}: kind {kind} "
    if kind == "constant":
        several = (seen.texts.distinct if view.family == "text" else numbers.distinct) > 1
        problems += (
            [f'{say}needs one value, but it holds several; kind = "id" leaves it out']
            if several
            else []
        )
        return not several
    if kind == "date" and view.family == "number" and not np.isnan(days_of(numbers.values)).any():
        return True
    families = (
        ("text", "bool", "number")
        if kind in LEVEL_KINDS
        else ("date",)
        if kind == "date"
        else ("number",)
    )
    if view.family not in families:
        first = seen.texts.first_other.get("date" if kind == "date" else "number")
        where = (
            f", the first ({quoted(first[1])}) in row {first[0]} {FROM_0}"
            if first and seen.family == "text"
            else ""
        )
        held = {"text": "texts", "bool": "truth values", "number": "numbers", "date": "dates"}[
            view.family
        ]
        problems.append(
            f"{say}needs {' or '.join(families)}s, but it holds {held}{where}; mend them, or "
            f"choose another kind"
        )
        return False
    if kind in NUMBER_KINDS:
        if kind == "count" and not numbers.integers:
            problems.append(f"{say}needs integers, but it holds others; choose real or positive")
        elif kind == "count" and numbers.low < 0:
            problems.append(
                f"{say}needs integers from 0, but it holds {numbers.low:.15g}; choose levels or "
                f"real"
            )
        elif kind == "positive" and numbers.low <= 0:
            problems.append(
                f"{say}needs numbers above 0, but it holds {numbers.low:.15g}; choose real"
            )
        elif kind == "count" and numbers.high >= 2**53:
            large = (
                f"{say}holds integers up to {numbers.high:.3g}, which no float tells apart from "
                f"2^53 on"
            )
            problems.append(f'{large}; leave the column out (kind = "id"), or divide it')
        else:
            return True
        return False
    return True


def _built(
    seen: Seen, view: View, kind: str, entry: Mapping[str, Any], problems: list[str]
) -> Column | None:
    label, numbers = quoted(seen.name), view.numbers
    column = partial(Column, seen.name, kind, missing=seen.missing, type=view.type, rows=seen.rows)
    if kind == "id":
        return Column(seen.name, kind, missing=seen.missing, type="text", rows=seen.rows)
    if kind in LEVEL_KINDS or (kind == "constant" and view.family in ("text", "bool")):
        levels = _levels(seen, view, kind, entry, problems)
        return None if levels is None else column(levels=levels)
    if kind == "constant":
        return column(low=numbers.low, high=numbers.high)
    if kind == "date" and view.family == "number":
        days = Numbers()
        days.add(np.repeat(days_of(numbers.values), numbers.counts), 0)
        numbers, column = days, partial(column, type="yyyymmdd")
    low, high = float(entry.get("low", numbers.low)), float(entry.get("high", numbers.high))
    if numbers.low < low or numbers.high > high:
        held = (
            f"holds {value_text(numbers.low)}..{value_text(numbers.high)}, outside its levels "
            f"{low:.15g}..{high:.15g}"
        )
        problems.append(f"column {label} {held}; correct the values, or low and high")
        return None
    step = (
        shape.tick_of(numbers)
        if kind == "date"
        else float(entry.get("step", shape.step_of(numbers)))
    )
    if kind == "levels":
        if not step:
            problems.append(
                f"column {label}: kind levels needs numbers on a grid, such as step = 0.5, but it "
                f"holds others; choose real"
            )
            return None
        step = step if "step" in entry or numbers.count >= shape.MIN_ROWS else min(step, 1.0)
        if any(
            abs((end - numbers.low) / step - round((end - numbers.low) / step)) > 1e-6
            for end in (low, high)
        ):
            step = (
                math.gcd(
                    *(round((v - numbers.low) / 1e-6) for v in (low, high, numbers.low + step))
                )
                * 1e-6
            )
        if (high - low) / step >= MAX_LEVELS:
            held = f"spans {(high - low) / step + 1:,.0f} levels, at most {MAX_LEVELS:,} are taken"
            problems.append(f"column {label} {held}; use count or real")
            return None
    atoms: tuple[float, ...] = ()
    bounded = ""
    if kind in ("mixed", "date"):
        atoms = tuple(sorted(float(a) for a in entry.get("atoms", shape.atoms_of(numbers))))
        given = [end for end in ("low", "high") if end in entry]
        ends = (
            shape.ends_of(numbers, atoms)
            if not entry
            else "both"
            if len(given) == 2
            else "".join(given)
        )
        bounded = ends if kind == "mixed" else ""
    mean, std, _, _ = numbers.moments()
    offset = shape.offset_of(numbers, kind, step)
    if kind == "levels":
        offset = low if offset else 0.0
    shaped = partial(column, offset=offset, step=step, atoms=atoms, bounded=bounded)
    return shaped(low=low, high=high, mean=mean, std=std)


def _levels(
    seen: Seen, view: View, kind: str, entry: Mapping[str, Any], problems: list[str]
) -> tuple[str, ...] | None:
    """Returns the levels.

    Those given, those that the source declares in order, or those seen, sorted.
    """
    label, order = f"column {quoted(seen.name)}", seen.order
    if view.family == "text":
        held = seen.texts.counts
    else:
        texts = [
            ("false", "true")[int(v)] if view.family == "bool" else value_text(v)
            for v in view.numbers.values.tolist()
        ]
        held = dict(zip(texts, view.numbers.counts.tolist(), strict=True))
    if len(held) > MAX_CATEGORIES:
        problems.append(_too_many(quoted(seen.name), len(held)))
        return None
    if given := tuple(entry.get("levels", ())):
        plain = (
            given
            if view.family == "text"
            else tuple(_plain_level(level, view.family) for level in given)
        )
        if others := [t for t in held if t not in plain]:
            count = (
                f"{sum(held[t] for t in others):,} values that are none of its levels "
                f"({some(others)})"
            )
            problems.append(
                f"{label} holds {count}; add them to levels, or list them in --missing-values"
            )
            return None
        return plain
    if kind == "ordinal" and not order and view.family == "text" and not _all_numbers(held):
        problems.append(
            f'{label}: kind ordinal needs the levels in their order, such as levels = ["low", '
            f'"high"]'
        )
        return None
    kept = kind == "ordinal" or (kind == "binary" and len(order) == 2)
    levels = order if order and kept else _sorted(held) if view.family == "text" else tuple(held)
    if kind != "constant" and (len(levels) < 2 or (kind == "binary" and len(levels) > 2)):
        problems.append(
            f"{label}: kind {kind} needs two levels{'' if kind == 'binary' else ' or more'}, it "
            f"holds {len(levels)}"
        )
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
    return (
        level.lower()
        if family == "bool"
        else level
        if not math.isfinite(number)
        else value_text(float(number))
    )


def _too_many(label: str, distinct: int) -> str:
    number = f"more than {CAP - 1:,}" if distinct == CAP else f"{distinct:,}"
    ways = (
        'join levels until at most 1,000 are left, or leave the column out with kind = "id" in a '
        "schema file"
    )
    return f"column {label} holds {number} different texts, too many for a category; {ways}"


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
