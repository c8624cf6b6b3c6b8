"""What a schema file says of one column: is it right?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from taut.data.tables.formula import parse
from taut.data.tables.kind import Kind, words_that_take
from taut.data.tables.kinds import KINDS
from taut.data.tables.words import MAX_ATOMS, MAX_LEVELS, listed_levels, quoted, unknown

KEYS = ("kind", "levels", "low", "high", "step", "atoms", "formula")


def entry_problems(header: str, entry: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with what a schema file says of one column.

    Its kind, levels, low, high, step and atoms.
    """
    say = f"column {quoted(header)}: "
    lines = [unknown("key", key, KEYS) for key in entry if key not in KEYS]
    word = entry.get("kind")
    if word is not None and word not in KINDS:
        lines.append(unknown("kind", word, KINDS))
    else:
        kind = KINDS.get(word or "")
        if problem := _level_problem(kind, entry):
            lines.append(problem)
        lines += _number_problems(kind, entry)
        if problem := _formula_problem(kind, entry):
            lines.append(problem)
    return [say + line for line in lines]


def _level_problem(kind: Kind | None, entry: Mapping[str, Any]) -> str:
    if "levels" not in entry:
        return ""
    levels = entry["levels"]
    if kind is None or "levels" not in kind.entries:
        kinds = ", ".join(words_that_take("levels"))
        return f"levels belong to the kinds {kinds}; set kind to one of them, or remove levels"
    if not isinstance(levels, list | tuple) or not all(isinstance(x, str) for x in levels):
        return 'levels must be a list of texts, such as ["low", "high"]'
    needed = kind.wrong_levels(len(levels))
    if not needed and len(set(levels)) == len(levels):
        return ""
    needed = kind.wrong_levels(0).replace("levels ", "").removesuffix(" levels")
    return f"levels must be {needed} different texts, not {listed_levels(tuple(levels))}"


def _formula_problem(kind: Kind | None, entry: Mapping[str, Any]) -> str:
    takes = kind is not None and "formula" in kind.entries
    if not takes and "formula" in entry:
        return 'a formula belongs to the kind derived; set kind = "derived", or remove it'
    if not takes:
        return ""
    text = entry.get("formula", "")
    if not isinstance(text, str) or not text:
        return 'kind derived needs a formula, such as formula = "net + tax"'
    found = parse(text)
    if isinstance(found, str):
        return found
    return ""


def _number_problems(kind: Kind | None, entry: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with low, high, step and atoms."""
    allowed = kind.entries if kind else frozenset()
    for keys in (("low", "high"), ("step",), ("atoms",)):
        if any(key in entry and key not in allowed for key in keys):
            return [_belongs(keys)]
    step, atoms = entry.get("step", 1), entry.get("atoms", [])
    if not _is_number(step) or not 0 < step < math.inf:
        return ["step must be a number above 0"]
    is_list = isinstance(atoms, list | tuple)
    if not is_list or not all(map(_is_number, atoms)) or len(atoms) > MAX_ATOMS:
        return [f"atoms must be a list of at most {MAX_ATOMS} numbers, such as [0]"]
    bounds = [entry[key] for key in ("low", "high") if key in entry]
    discrete = kind is not None and kind.discrete
    if not all(map(_is_number, bounds)):
        return [f"low and high must be {'integers' if discrete else 'numbers'}"]
    if discrete:
        return _level_bounds(bounds, step)
    if len(bounds) == 2 and not bounds[0] < bounds[1]:
        return ["needs low < high"]
    return []


def _belongs(keys: tuple[str, ...]) -> str:
    """Returns the line about keys that do not belong to the kind."""
    words, name = words_that_take(keys[0]), " and ".join(keys)
    belong, it = "belong", "them"
    if name == "step":
        belong, it = "belongs", "it"
    if len(words) == 1:
        return f'{name} {belong} to the kind {words[0]}; set kind = "{words[0]}", or remove {it}'
    listed = " and ".join([", ".join(words[:-1]), words[-1]])
    if len(words) == 2:
        way = f'set kind = "{words[0]}" or "{words[1]}"'
    else:
        way = f'set kind = "{words[0]}" or another'
    return f"{name} {belong} to the kinds {listed}; {way}, or remove {it}"


def _level_bounds(bounds: list[float], step: float) -> list[str]:
    if any(abs(b / step - round(b / step)) > 1e-6 for b in bounds):
        of_step = f"multiples of step, {step:g}"
        return [f"low and high must be {'integers' if step == 1 else of_step}"]
    if len(bounds) == 2 and not 0 < (bounds[1] - bounds[0]) / step < MAX_LEVELS:
        return [
            f"needs low < high and at most {MAX_LEVELS:,} levels, not "
            f"{bounds[0]:.15g}..{bounds[1]:.15g}"
        ]
    return []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
