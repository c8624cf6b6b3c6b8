"""Writes the columns of a table as a schema file that the user can edit, and reads it."""

from __future__ import annotations

import json
import textwrap
import tomllib
from collections.abc import Sequence
from typing import Any, NamedTuple

from taut.data.tables.column import Column
from taut.data.tables.entries import entry_problems
from taut.data.tables.kinds import KINDS
from taut.data.tables.words import nearest_to, quoted, value_text
from taut.system.errors import UsageError, shown

HEADER = """\
# What each column of the table is. Edit it, then give it with --schema.
{kinds}
# step: the grid of the values; low, high: what they cannot pass.
# constraints: what holds between numbers, or dates, in every row, such as "start <= end".
"""


def _kinds() -> str:
    told = [f"{word} ({kind.told})" if kind.told else word for word, kind in KINDS.items()]
    lines = textwrap.wrap(f"Kinds: {', '.join(told)}.", 70)
    return "\n".join(f"# {line}" for line in lines)


class Said(NamedTuple):
    """What a schema file says.

    Args:
        columns: Of each column (``given`` of ``infer``).
        missing_values: Texts and numbers that mean missing.
        constraints: What holds between columns in every row.
    """

    columns: dict[str, dict[str, Any]]
    missing_values: tuple[str, ...]
    constraints: tuple[str, ...]


def to_toml(
    columns: Sequence[Column], missing_values: Sequence[str], constraints: Sequence[str] = ()
) -> str:
    """Returns the schema file of the columns; ``from_toml`` reads it."""
    lines = [
        HEADER.format(kinds=_kinds()),
        f"missing_values = {_list(missing_values)}",
        f"constraints = {_list(constraints)}",
    ]
    for column in columns:
        lines += [f"\n[columns.{_text(column.name)}]", f"kind = {_text(column.kind)}"]
        lines += [f"{key} = {_value(v)}" for key, v in column.rules.entry(column).items()]
    return "\n".join(lines) + "\n"


def from_toml(text: str, where: str) -> Said:
    """Returns what a schema file says.

    Args:
        text: The file's text.
        where: What to call the file in the lines.

    Raises:
        UsageError: it is not TOML, or holds unknown keys or kinds: all of them, a line each.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{shown(where)}: is not valid TOML ({shown(error)})") from None
    keys = ("columns", "missing_values", "constraints")
    other = [key for key in content if key not in keys]
    lines = [
        f"unknown key {quoted(key)}{nearest_to(key, keys) or '; a column is [columns.NAME]'}"
        for key in other
    ]
    tables, missing = content.get("columns", {}), content.get("missing_values", [])
    if not isinstance(tables, dict):
        lines.append("columns must be tables, such as [columns.age]")
        tables = {}
    if not isinstance(missing, list) or any(
        isinstance(m, bool) or not isinstance(m, str | int | float) for m in missing
    ):
        lines.append('missing_values must be a list of texts and numbers, such as ["?", -999]')
        missing = []
    rules = content.get("constraints", [])
    if not isinstance(rules, list) or not all(isinstance(rule, str) for rule in rules):
        lines.append('constraints must be a list of texts, such as ["start <= end"]')
    given = {}
    for header, entry in tables.items():
        if not isinstance(entry, dict):
            lines.append(
                f"column {quoted(header)}: must be a table, such as [columns.{_text(header)}]"
            )
            continue
        if isinstance(entry.get("levels"), list):
            entry["levels"] = [_level(level) for level in entry["levels"]]
        lines += entry_problems(header, entry)
        given[header] = entry
    if lines:
        raise UsageError("\n".join(f"{shown(where)}: {line}" for line in lines))
    return Said(given, tuple(str(_level(m)) for m in missing), tuple(rules))


def _level(value: Any) -> Any:
    """Levels may be written as numbers or truth values: levels = [1, 2, 3]."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return value_text(value)
    return value


def _text(text: str) -> str:
    """JSON's strings are TOML's basic strings, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, tuple):
        return _list(value)
    return value_text(value)


def _list(values: Sequence[Any]) -> str:
    return f"[{', '.join(map(_value, values))}]"
