"""Counts, checked to be counts before a model sees them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from taut.data.sparse import BLOCK, SparseRows, float_dtype
from taut.system.errors import shown

__all__ = ["other_names", "pieces", "problems"]


def pieces(data: Any) -> Iterator[Any]:
    """Returns consecutive parts of an array, in memory or in a file, of a few million values
    each.
    """
    step = max(1, BLOCK * data.shape[0] // max(1, data.size))
    return (data[start : start + step] for start in range(0, data.shape[0], step))


def problems(
    counts: SparseRows | np.ndarray, name: str, advice: str = "", columns: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Returns (problems, notes) of data of kind count, a line each, in one pass over the non-zero
    values.

    Args:
        counts: The counts (N, C), sparse or dense.
        name: The name of the data in the lines.
        advice: What to do if the numbers are not counts.
        columns: The names of the columns, if they have any.
    """
    seen = _Seen(counts)
    marked: dict[str, tuple[int, str]] = {}
    for rows, where, values in _nonzero(counts):
        seen.add(rows, where, values)
        for wrong, places in _wrong(values).items():
            if not len(places):
                continue
            row, column = rows[places[0]], where[places[0]]
            called = f" ({shown(columns[column])})" if len(columns) else ""
            count, first = marked.get(wrong, (0, f"row {row}, column {column}{called}"))
            marked[wrong] = count + len(places), first
    lines = []
    for wrong, (count, first) in marked.items():
        share = f"{100 * count / seen.stored:.3g} % of those not zero"
        lines.append(
            f"{name}: {count} values ({share}) are {wrong}, the first at {first} (from 0); "
            f"{_remedy(wrong, seen.low, seen.high, advice)}"
        )
    if lines:
        return lines, []
    return [], _notes(name, seen, columns)


def other_names(names: Sequence[str], wanted: Sequence[str], where: str) -> list[str]:
    """Returns a line where the columns of counts have other names than those of the training, or
    another order; counts without names are taken to be in the order of the training.
    """
    if not names or not wanted or len(names) != len(wanted) or list(names) == list(wanted):
        return []
    differ = [i for i, (a, b) in enumerate(zip(names, wanted, strict=True)) if a != b]
    first = differ[0]
    what = "are in another order"
    if sorted(names) != sorted(wanted):
        what = f"are others ({len(differ):,} differ)"
    return [
        f"{where}: its columns {what}: column {first} (from 0) is {shown(names[first])}, and was "
        f"{shown(wanted[first])} in training; give the same columns in the same order "
        f"(adata[:, names])"
    ]


class _Seen:
    """Sums over the non-zero values of counts (N, C)."""

    def __init__(self, counts: SparseRows | np.ndarray) -> None:
        self.stored, self.low, self.high = 0, 0.0, 0.0
        self.totals = np.zeros(len(counts))
        self.rows = np.zeros(len(counts), bool)  # whether a row has a value that is not zero
        self.columns = np.zeros(math.prod(counts.shape[1:]), bool)

    def add(self, rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> None:
        finite = values[np.isfinite(values)]
        self.stored += len(values)
        self.low = min(self.low, finite.min(initial=0))
        self.high = max(self.high, finite.max(initial=0))
        self.totals += np.bincount(rows, values, minlength=len(self.totals))
        self.rows[rows], self.columns[columns] = True, True


def _nonzero(
    counts: SparseRows | np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields rows, columns and values (float64) of the non-zero values, a block at a time."""
    if isinstance(counts, SparseRows):
        for block in counts.blocks():
            rows, columns, values = (part.cpu().numpy() for part in block)
            yield rows, columns, values
        return
    start = 0
    for dense in pieces(counts.reshape(len(counts), -1)):
        rows, columns = np.nonzero(dense)
        yield rows + start, columns, dense[rows, columns].astype(np.float64)
        start += len(dense)


def _wrong(values: np.ndarray) -> dict[str, np.ndarray]:
    finite = np.isfinite(values)
    return {
        "NaN": np.flatnonzero(np.isnan(values)),
        "infinite": np.flatnonzero(np.isinf(values)),
        "negative": np.flatnonzero(finite & (values < 0)),
        "not integers": np.flatnonzero(finite & (values != np.trunc(values))),
        "too large": np.flatnonzero(finite & (np.abs(values) > _exact())),
    }


def _exact() -> int:
    """Returns the largest integer up to which the floats of a batch hold every integer: 2^24 in
    float32.
    """
    return int(2 / torch.finfo(float_dtype()).eps)


def _remedy(wrong: str, low: float, high: float, advice: str) -> str:
    advice = advice or "counts are needed"
    if wrong == "negative":
        return f"the smallest is {low:.6g}: {advice}"
    if wrong == "not integers":
        look = ", so they look log-normalised" if high < 20 else ""
        return f"the largest is {high:.6g}{look}: {advice}"
    if wrong == "too large":
        return (
            f"the largest is {high:.0f}, and only up to {_exact()} are integers exact once stored; "
            f"drop the columns"
        )
    return "counts cannot be missing or infinite, so drop the rows or the columns"


def _notes(name: str, seen: _Seen, columns: Sequence[str]) -> list[str]:
    lines = []
    if seen.high == 1:
        more = "which give mass to 2 and more; a dense array of them is modelled as bits"
        lines.append(f"{name}: holds nothing but 0 and 1, read as counts, {more}")
    lines += _all_zero(name, "rows", seen.rows, ())
    lines += _all_zero(name, "columns", seen.columns, columns)
    least, most = seen.totals[seen.rows].min(initial=np.inf), seen.totals.max(initial=0)
    if most > 1e4 * least:
        lines.append(
            f"{name}: the sums of the rows span {least:.0f}..{most:.0f}, more than a factor of "
            f"10^4; are all rows alike?"
        )
    return lines


def _all_zero(name: str, axis: str, seen: np.ndarray, names: Sequence[str]) -> list[str]:
    if seen.all():
        return []
    empty = np.flatnonzero(~seen)
    first = [f"{i} {shown(names[i])}" if len(names) else str(i) for i in empty[:10]]
    if len(empty) > 10:
        first.append("...")
    which = f"{len(empty)} of {len(seen)} {axis} (from 0: {', '.join(first)})"
    return [f"{name}: {which} are all zero; they are kept"]
