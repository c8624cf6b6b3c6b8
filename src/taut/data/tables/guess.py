"""What kind a column is, where nobody says so.

It follows from all its values, never from the first rows alone; the first rule that fits decides:

1.  none; times, durations, lists, records, bytes; an infinity: refused, saying what to do
2.  one value: constant, omitted, noted
3.  texts that are all numbers, or all ISO dates: what such numbers or dates are
4.  an ordered categorical: ordinal (binary if it has two levels)
5.  two texts, truth values or integers: binary; levels sorted: false < true, no < yes
6.  texts, a name such as ``user_id``: id, omitted, noted
7.  texts that are 20 or more different numbers, or dates, but for 5 %: refused, saying which
8.  texts, more than 50 of which more than half differ: id, omitted, noted
9.  texts, or the numbers of a categorical: category; refused beyond 1,000 levels
10. dates and times: date, days since 1970-01-01 in UTC
11. integers that all differ, with a name such as ``id``; or 50 or more, none missing, and on
    average no gap above 3: id, omitted, noted; any from 2^53 on likewise, before rule 2
12. integers such as 20240131 that are all dates, 50 or more: date, noted
13. integers that span fewer than 256: levels
14. integers of which one repeats far above 9 others (0 among incomes): mixed, a density, and that
    one with a probability
15. integers from near 0, skewed to the right: count
16. other integers from 0, at most 65,536 steps of their grid, which is not mostly empty: levels
17. integers: as numbers
18. numbers on a grid that is not mostly empty, each different one ten times or more: levels
19. numbers of which some come 10 times as often as the others: mixed
20. numbers that are all positive and whose log-normal likelihood (with its Jacobian, at its
    maximum) is above the normal one: positive
21. numbers that crowd at an end of their range (humidity at 100): mixed
22. numbers: real

A schema file overrides each. What looks like a stand-in for a missing value ("?", -999) is
reported, never guessed.
"""

from __future__ import annotations

import numpy as np

from taut.data.tables import shape
from taut.data.tables.cells import days_of
from taut.data.tables.notes import MANY, View, disguise, may_mean, mixed, only_other, strays
from taut.data.tables.seen import CAP, Numbers, Seen
from taut.data.tables.words import MAX_LEVELS, is_id_name, quoted

MAX_CATEGORIES = 1000


def guess(seen: Seen, view: View, notes: list[str], problems: list[str]) -> str | None:
    """Returns the kind of a column; None where it cannot be modelled, which is a problem then."""
    label = quoted(seen.name)
    distinct = seen.texts.distinct if view.family == "text" else view.numbers.distinct
    if view.type == "int" and _too_large(view.numbers):
        # before they are counted: floats see one value where there may be several
        return _guess_integer(view, seen, view.numbers, notes)
    if distinct == 1:
        return "constant"
    if seen.order and view.family != "date":
        if len(seen.order) == 2:
            return "binary"
        return "ordinal"
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
    if numbers.integers and (kind := _guess_integer(view, seen, numbers, notes)):
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
    if shape.has_edge(numbers):
        return "mixed"
    return "real"


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
            f'{label} looks like an id, omitted; kind = "category" in a schema file keeps it{hint}'
        )
        return "id"
    if texts.distinct > MAX_CATEGORIES:
        problems.append(too_many(label, texts.distinct) + hint)
        return None
    if hint and not only:
        notes.append(f"{label} is read as a category{hint}")
    return "category"


def _too_large(numbers: Numbers) -> bool:
    """Returns whether a float no longer tells such integers apart."""
    return max(-numbers.low, numbers.high) >= 2**53


def _guess_integer(view: View, seen: Seen, numbers: Numbers, notes: list[str]) -> str | None:
    """Returns the kind of integers; None if they are modelled as numbers with a density."""
    label, span = quoted(seen.name), numbers.high - numbers.low
    if _too_large(numbers):
        keep = 'give it as text with kind = "category" in a schema file to keep it'
        if view.type == "float":
            keep = 'kind = "real" in a schema file keeps it as a measured number'
        notes.append(
            f"{label} looks like an id, omitted: no float tells its integers from 2^53 on apart; "
            f"{keep}"
        )
        return "id"
    if numbers.all_different and (
        is_id_name(seen.name) or (seen.rows >= 50 and not seen.missing and span < 4 * seen.rows)
    ):
        notes.append(
            f'{label} looks like an id, omitted; kind = "count" or "real" in a schema file keeps '
            f'it, "key" counts on in made rows'
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
    step = shape.step_of(numbers)
    few = shape.num_steps(numbers, step) < MAX_LEVELS and not shape.is_sparse(numbers, step)
    if numbers.low >= 0 and few:
        return "levels"
    return None


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


def too_many(label: str, distinct: int) -> str:
    """Returns the line about a column of too many texts."""
    number = f"more than {CAP - 1:,}" if distinct == CAP else f"{distinct:,}"
    ways = (
        'join levels until at most 1,000 are left, or omit the column with kind = "id" in a '
        "schema file"
    )
    return f"column {label} holds {number} different texts, too many for a category; {ways}"
