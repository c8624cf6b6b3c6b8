"""Known factors of variation of rows of data: what scores of a latent space are measured against.

A factor is a column of levels. Numbers are ordered; texts and truth values are not. More than 50
different numbers are cut into 20 levels of equal count, which the notes say. Rows that lack a
factor are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from taut.data.paths import regular_size
from taut.system.errors import DataError, UsageError, and_more, nearest, shown

__all__ = ["FILES", "Factors", "chosen", "read_columns"]

MOST, CUT = 50, 20  # levels of a factor, and into how many more numbers are cut
LISTED = 20
FILES = (".csv", ".tsv", ".parquet")
KEYS = ("file", "name", "image")  # columns that say which row a line is of


@dataclass(frozen=True, eq=False)
class Factors:
    """Levels of F factors of N rows.

    Args:
        names: Of the factors.
        levels: The number of the level, (N, F), from 0, in ascending order; -1 where it is missing.
        ordered: Whether the levels are numbers, which have an order.
        notes: Lines for the user.
    """

    names: tuple[str, ...]
    levels: np.ndarray
    ordered: tuple[bool, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> Factors:
        """Returns factors from a column of N values each.

        Raises:
            DataError: a column has one level only, or texts of more than 50.
        """
        if not columns:
            raise UsageError("there are no factors: name at least one column")
        coded = {name: _coded(np.asarray(values), name) for name, values in columns.items()}
        if len({len(levels) for levels, _, _ in coded.values()}) > 1:
            sizes = ", ".join(f"{shown(n)}: {len(c[0])}" for n, c in coded.items())
            raise DataError(f"the factors have different numbers of rows ({sizes})")
        levels = np.stack([levels for levels, _, _ in coded.values()], 1)
        ordered = tuple(order for _, order, _ in coded.values())
        notes = tuple(note for _, _, note in coded.values() if note)
        return cls(tuple(coded), levels, ordered, notes)

    def __getitem__(self, rows: Any) -> Factors:
        """Returns those of some rows."""
        return replace(self, levels=self.levels[rows])

    def __len__(self) -> int:
        return len(self.levels)

    @property
    def known(self) -> np.ndarray:
        """Which rows have all factors, (N,)."""
        return np.asarray((self.levels >= 0).all(1))


def read_columns(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Returns the columns of a table with a line for each row of the data, by name.

    A column called file, name or image that says which row a line is of puts the lines in order.

    Args:
        path: A .csv, .tsv or .parquet file.
        names: What the rows of the data are called, (N,), where they have names.

    Raises:
        DataError: the file cannot be read, or lacks a row.
    """
    if path.suffix.lower() not in FILES:
        raise UsageError(f"{shown(path)}: factors are a table ({', '.join(FILES)})")
    regular_size(path)
    columns = _columns(path)
    key = next((name for name in columns if name.lower() in KEYS), None)
    if key is None:
        return columns
    lines = [str(value) for value in columns.pop(key)]
    if names is None:
        return columns
    order = _order(lines, [str(name) for name in names], shown(path))
    return {name: values[order] for name, values in columns.items()}


def _order(lines: list[str], names: list[str], where: str) -> list[int]:
    """Returns the line of each row, by its whole name, or else by that without its folder.

    Raises:
        DataError: a row has no line, or two lines or rows have the same name.
    """
    wanted = names
    if not set(wanted) <= set(lines):
        lines, wanted = ([Path(text).name for text in texts] for texts in (lines, names))
        if len(set(wanted)) < len(set(names)):
            twice = next(n for n, times in Counter(wanted).items() if times > 1)
            raise DataError(
                f"{where}: several rows are called {shown(twice)}, in other folders: give their "
                "lines the names with the folder"
            )
    place = {line: i for i, line in enumerate(lines)}
    if absent := [name for name in wanted if name not in place]:
        raise DataError(
            f"{where}: has no line for {', '.join(map(shown, absent[:3]))}"
            f"{and_more(absent, 3)}; add them"
        )
    times = Counter(lines)
    if repeated := [name for name in wanted if times[name] > 1]:
        raise DataError(
            f"{where}: has more than one line for {', '.join(map(shown, repeated[:3]))}"
            f"{and_more(repeated, 3)}; keep one of each"
        )
    return [place[name] for name in wanted]


def chosen(table: Any, names: Sequence[str], where: str) -> dict[str, np.ndarray]:
    """Returns some columns of a frame or an Arrow table, by name.

    Raises:
        UsageError: there is no such column.
    """
    known = [str(n) for n in getattr(table, "column_names", None) or table.columns]
    _check_names([name for name in known if name in names], where)
    for name in names:
        if name not in known:
            raise UsageError(
                f"{where} has no column {shown(name)}{nearest(name, known)}; there are "
                f"{', '.join(map(shown, known[:LISTED])) or 'none'}{and_more(known, LISTED)}"
            )
    return {name: _values(table, name) for name in names}


def _check_names(names: Sequence[str], where: str) -> None:
    if twice := sorted(name for name, times in Counter(names).items() if times > 1):
        raise DataError(
            f"{where}: {shown(twice[0])} names more than one column; rename all but one"
        )


def _columns(path: Path) -> dict[str, np.ndarray]:
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        if path.suffix.lower() == ".parquet":
            table = parquet.read_table(path)
        else:
            mark = "\t" if path.suffix.lower() == ".tsv" else ","
            table = csv.read_csv(path, parse_options=csv.ParseOptions(delimiter=mark))
        names = table.column_names
    except UnicodeDecodeError:
        raise DataError(f"{shown(path)}: its header is not UTF-8: save it as UTF-8") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{shown(path)}: cannot be read as a table ({error})") from None
    _check_names(names, shown(path))
    return {name: _values(table, name) for name in names}


def _values(table: Any, name: str) -> np.ndarray:
    """Returns a column as numbers, NaN where missing, or as texts, None where missing."""
    if hasattr(table, "column_names"):
        column = table.column(name)
        return np.asarray(column.to_pylist(), object)
    column = table[name]
    values = np.asarray(column.astype(object), object)
    values[column.isna().to_numpy()] = None
    return values


def _coded(values: np.ndarray, name: str) -> tuple[np.ndarray, bool, str]:
    """Returns the levels of a column, whether they are ordered, and a note."""
    if not values.size:
        raise DataError(f"factor {shown(name)} has no rows: give one value a row")
    flat = list(values.reshape(len(values), -1)[:, 0].tolist())
    if values.ndim != 1:
        raise DataError(f"factor {shown(name)} has shape {values.shape}: give one value a row")
    missing = np.array([value is None or value != value for value in flat])
    own = [value for value, gone in zip(flat, missing, strict=True) if not gone]
    ordered = all(isinstance(v, int | float) and not isinstance(v, bool) for v in own)
    if not ordered:
        own = [str(value) for value in own]
    # as Python compares them: no float tells large integers apart
    found, place = np.unique(np.asarray(own, object), return_inverse=True)
    if len(found) < 2:
        raise DataError(
            f"factor {shown(name)} is the same in every row: there is nothing to find; omit it"
        )
    note = ""
    if len(found) > MOST:
        if not ordered:
            raise DataError(
                f"factor {shown(name)} has {len(found)} different texts, more than {MOST}: it "
                "names rows; omit it"
            )
        cuts = np.linspace(0, 1, CUT + 1)[1:-1]
        # by rank, of which no number is infinite
        edges = np.unique(np.quantile(place, cuts, method="higher"))
        place = np.searchsorted(edges, place, side="right")
        place = np.unique(place, return_inverse=True)[1]
        note = (
            f"factor {shown(name)} has {len(found)} different numbers: it was cut into "
            f"{int(place.max()) + 1} levels of equal count"
        )
    levels = np.full(len(flat), -1)
    levels[~missing] = place
    return levels, ordered, note
