"""What is said of each cell: columns of ``obs`` of an AnnData, as the context of its counts.

A column of texts, categories or truth values is one of levels, and so are whole numbers of few
different values (batches are numbered). Other numbers are refused: cutting them into levels is the
user's decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from taut.data.tables.column import Column
from taut.system.errors import DataError, UsageError, and_more, nearest, shown

__all__ = ["code_of", "codes_of", "columns_of"]

MOST = 50  # different whole numbers that are levels
LISTED = 20


def columns_of(obs: Any, names: Sequence[str], where: str) -> tuple[Column, ...]:
    """Returns the columns of ``obs`` that counts are modelled given, with the levels that occur.

    Args:
        obs: A pandas frame with a row for each cell; None where the source has none.
        names: The columns.
        where: The name of the data in the lines.

    Raises:
        UsageError: there is no such column, or it does not hold levels.
        DataError: a cell has no value of it, or all cells have the same.
    """
    columns = []
    for name in dict.fromkeys(names):
        texts = _texts(obs, name, where)
        found = np.unique(texts)
        if len(found) < 2:
            raise DataError(
                f"{where}: every cell has {shown(name)} = {shown(found[0])}: there is nothing to "
                f"condition on; omit --condition {shown(name)}"
            )
        levels = _in_order(obs[name], found.tolist())
        columns.append(Column(name, "category", levels, type="text", rows=len(texts)))
    return tuple(columns)


def codes_of(obs: Any, columns: Sequence[Column], where: str) -> np.ndarray:
    """Returns the numbers of the levels of each cell, (N, C).

    Raises:
        UsageError: ``obs`` lacks a column.
        DataError: a cell has no value, or one that was not seen in training.
    """
    coded = []
    for column in columns:
        texts = _texts(obs, column.name, where)
        found, place = np.unique(texts, return_inverse=True)
        own = [_number(text, column) for text in found.tolist()]
        new = [text for text, code in zip(found.tolist(), own, strict=True) if code is None]
        if new:
            count = int(np.isin(texts, new).sum())
            raise DataError(
                f"{where}: {count:,} cells have a {shown(column.name)} never seen in training "
                f"({_list(new)}); known are {_list(column.levels)}: omit these cells, or train "
                f"with them"
            )
        coded.append(np.array(own, np.int64)[place.reshape(-1)])
    return np.stack(coded, 1)


def code_of(text: str, column: Column) -> int:
    """Returns the number of the level that the user gave.

    Raises:
        UsageError: the column has no such level.
    """
    code = _number(text, column)
    if code is None:
        raise UsageError(
            f"--given {shown(column.name)}={shown(text)}: no such level"
            f"{nearest(text, column.levels)}; known are {_list(column.levels)}"
        )
    return code


def _number(text: str, column: Column) -> int | None:
    if text in column.levels:
        return column.levels.index(text)
    return None


def _texts(obs: Any, name: str, where: str) -> np.ndarray:
    """Returns the level of each cell as a text, (N,)."""
    if obs is None:
        raise UsageError(f"{where}: says nothing of its cells: --condition needs obs of an .h5ad")
    known = [str(column) for column in obs.columns]
    if name not in known:
        raise UsageError(
            f"{where}: obs has no column {shown(name)}{nearest(name, known)}; there are "
            f"{_list(known) or 'none'}"
        )
    values = obs[name]
    if missing := int(values.isna().sum()):
        raise DataError(
            f"{where}: {missing:,} of {len(values):,} cells have no {shown(name)}: fill it in obs, "
            f"or omit these cells"
        )
    if hasattr(values, "cat"):
        return np.asarray(values.astype(object)).astype(str)
    array = np.asarray(values)
    if array.dtype.kind in "iufc":
        whole = bool((np.isfinite(array) & (array == np.trunc(array))).all())
        if not whole or len(np.unique(array)) > MOST:
            raise UsageError(
                f"{where}: obs column {shown(name)} holds numbers, and --condition takes levels: "
                f"cut them into a few, such as adata.obs[{name!r}] = "
                f"pandas.cut(adata.obs[{name!r}], 4).astype(str)"
            )
        array = array.astype(np.int64)
    return array.astype(str)


def _in_order(values: Any, found: list[str]) -> tuple[str, ...]:
    """Returns the levels that occur: in the order of a categorical, numbers by size, else sorted
    as texts.
    """
    if hasattr(values, "cat"):
        declared = [str(level) for level in values.cat.categories]
        return tuple(level for level in declared if level in set(found))
    if np.asarray(values).dtype.kind in "iuf":
        return tuple(sorted(found, key=float))
    return tuple(found)


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:LISTED])) + and_more(names, LISTED)
