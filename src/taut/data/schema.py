"""Says what one datum is, because the likelihood follows from it: bits, grey levels and real
numbers are not the same.

A density of integers is unbounded and a Bernoulli of grey values is no likelihood, so the kind is
inferred from the values, shown, saved with the run, and every later array is checked against it:
all problems at once, a line each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from taut.data.counts import problems as count_problems
from taut.data.tables.column import Column
from taut.data.tables.words import exact_integers, float_storage, quoted
from taut.system.errors import DataError, UsageError
from taut.types import image_layout

Kind = Literal["binary", "levels", "real", "count", "table"]
MAX_LEVELS = 65536


@dataclass(frozen=True)
class Schema:
    """Creates the description of one datum.

    Args:
        kind: ``"binary"`` (0 or 1), ``"levels"`` (the integers low..high), ``"count"`` (0, 1, 2,
            ...), ``"real"``, or
            ``"table"``: a kind of its own for each column.
        event_shape: The shape of one datum; of a table, its columns, those of the context included.
        low: Smallest value: of the support, or for ``"real"`` and ``"count"`` of the values seen.
        high: Largest value, likewise.
        missing: Whether entries were missing in the training data, so that the encoder is told
            which.
        columns: Of a table, all columns of the source.
        condition: Names of the columns that are the context of the others.
        missing_values: Texts and numbers of the source that mean missing, beside the usual ones.
    """

    kind: Kind
    event_shape: tuple[int, ...]
    low: float
    high: float
    missing: bool = False
    columns: tuple[Column, ...] = ()
    condition: tuple[str, ...] = ()
    missing_values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UsageError(f"kind must be one of {', '.join(get_args(Kind))}, not {self.kind!r}")
        if not self.low <= self.high:
            raise UsageError(
                f"a schema's low must not exceed its high, but {self.low:g} > {self.high:g}"
            )

    @property
    def discrete(self) -> bool:
        return (
            all(c.discrete for c in self.modelled) if self.kind == "table" else self.kind != "real"
        )

    @property
    def num_levels(self) -> int:
        if self.kind not in ("binary", "levels"):
            raise UsageError(
                f"{self.kind} data have no levels of one kind; --kind levels if they are integers"
            )
        return int(self.high - self.low) + 1

    @cached_property
    def modelled(self) -> tuple[Column, ...]:
        """The columns of a table that a datum holds: all but ids and constants, in this order."""
        return tuple(c for c in self.columns if c.modelled)

    @cached_property
    def given(self) -> list[int]:
        """Numbers of the columns of a datum that are the context of the others."""
        context = set(self.condition)
        return [i for i, c in enumerate(self.modelled) if c.name in context]

    @cached_property
    def rest(self) -> list[int]:
        """Numbers of the columns of a datum whose density is modelled."""
        context = set(self.given)
        return [i for i in range(len(self.modelled)) if i not in context]

    @property
    def num_elements(self) -> int:
        return math.prod(self.event_shape)

    @property
    def is_rows(self) -> bool:
        """Whether a datum is a row of columns, each in a unit of its own."""
        return self.kind == "table" or (self.kind == "real" and len(self.event_shape) == 1)

    @property
    def usual_latent_dim(self) -> int:
        """How many latent dimensions a model gets by default.

        One for each column of rows, else one for two elements, 2 to 32.
        """
        return min(32, max(2, len(self.rest) or self.num_elements // (1 if self.is_rows else 2)))

    @property
    def is_image(self) -> bool:
        try:
            _, height, width, _ = image_layout(self.event_shape)
        except ValueError:
            return False
        return min(height, width) >= 4

    def to_dict(self) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "kind": self.kind,
            "event_shape": list(self.event_shape),
            "low": self.low,
            "high": self.high,
        }
        fields |= {
            "missing": self.missing,
            "condition": list(self.condition),
            "missing_values": list(self.missing_values),
        }
        return fields | {"columns": [c.to_dict() for c in self.columns]}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Schema:
        try:
            shape = tuple(int(n) for n in fields["event_shape"])
            columns = tuple(Column.from_dict(c) for c in fields.get("columns", ()))
            condition, values = (
                tuple(str(v) for v in fields.get(k, ())) for k in ("condition", "missing_values")
            )
            missing = bool(fields.get("missing", False))
            return cls(
                fields["kind"],
                shape,
                float(fields["low"]),
                float(fields["high"]),
                missing,
                columns,
                condition,
                values,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"not a schema ({type(error).__name__}: {error})") from error

    def describe(self) -> str:
        """Returns one line for people, such as ``8x8 images, 17 levels 0..16``."""
        sizes = "x".join(map(str, self.event_shape))
        columns = "1 column" if self.num_elements == 1 else f"{sizes} columns"
        if self.kind == "table":
            return f"a table of {len(self.columns)} columns, {len(self.modelled)} of them modelled"
        what = (
            f"{sizes} images"
            if self.is_image
            else columns
            if len(self.event_shape) <= 1
            else f"{sizes} arrays"
        )
        if self.kind == "binary":
            return f"{what}, binary"
        count = (
            f"{self.num_levels} levels"
            if self.kind == "levels"
            else "counts"
            if self.kind == "count"
            else "real values"
        )
        return f"{what}, {count} {self.low:.6g}..{self.high:.6g}"


def infer(
    array: np.ndarray, kind: Kind | None = None, levels: tuple[int, int] | None = None
) -> Schema:
    """Returns the schema of the rows of ``array``.

    Values that are all 0 or 1 are binary; uint8 has the levels of its type, 0..255; other integers,
    also when stored as floats, have the levels smallest..largest if there are fewer than 65536;
    everything else is real.

    Args:
        array: The data, N first.
        kind: Overrides the inferred kind.
        levels: Overrides the inferred levels (lowest, highest).
    """
    if levels is not None:
        if (
            kind not in (None, "levels")
            or not levels[0] < levels[1]
            or levels[1] - levels[0] >= MAX_LEVELS
        ):
            raise UsageError(
                f"--levels {levels[0]}:{levels[1]} needs LOW < HIGH, at most {MAX_LEVELS} levels, "
                f"kind levels"
            )
        return Schema(
            "levels", array.shape[1:], float(levels[0]), float(levels[1]), has_gaps(array)
        )
    if not any(np.isfinite(x).any() for x in chunks(array)):
        raise DataError("the data hold no finite value at all; check how they were saved")
    low, high = _finite_range(array)
    if kind is None:
        few = high - low < MAX_LEVELS and integers_only(array)
        kind = "real" if not few else "binary" if low >= 0 and high <= 1 else "levels"
    if kind == "binary":
        low, high = 0.0, 1.0
    elif kind == "levels":
        low, high = (
            (0.0, 255.0)
            if array.dtype == np.uint8
            else (float(math.floor(low)), float(math.ceil(high)))
        )
        if high - low >= MAX_LEVELS:
            raise UsageError(
                f"--kind levels takes at most {MAX_LEVELS} levels, the values span "
                f"{low:g}..{high:g}; use real"
            )
    elif kind == "count":
        low = 0.0
    elif kind == "table":
        raise UsageError(
            "--kind table is for tables with named columns: give a CSV or Parquet file, or a data "
            "frame"
        )
    return Schema(kind, array.shape[1:], low, high, has_gaps(array))


def has_gaps(array: np.ndarray) -> bool:
    """Returns whether rows of numbers have missing entries.

    An array of images or the like has none, NaN is an error there.
    """
    return (
        array.dtype.kind == "f"
        and array.ndim == 2
        and any(bool(np.isnan(x).any()) for x in chunks(array))
    )


def problems(
    array: np.ndarray,
    schema: Schema,
    name: str,
    min_rows: int = 1,
    *,
    training: bool = True,
    beyond: bool = False,
) -> list[str]:
    """Returns everything that keeps ``array`` from being data of ``schema``: a line each with
    count, place and mend.

    Args:
        array: The data, N first.
        schema: What one datum must be.
        name: What to call the data in the lines.
        min_rows: Fewest rows allowed.
        training: Also refuse what one can score but not learn from: constant columns and identical
            rows.
        beyond: Whether integers in rows of columns may lie outside the levels, as those of new data
            may.
    """
    lines = []
    if array.shape[1:] != schema.event_shape:
        one = " (give one row as shape (1, ...))" if array.shape == schema.event_shape else ""
        lines.append(
            f"{name}: rows have shape {array.shape[1:]}, but {schema.event_shape} is needed{one}; "
            f"reshape with --shape"
        )
    if len(array) < min_rows:
        lines.append(
            f"{name}: has {len(array)} rows, but at least {min_rows} are needed; give more data"
        )
    if array.dtype.kind == "f":
        if array.ndim > 2:
            lines += found(
                name,
                array,
                np.isnan,
                "NaN",
                "only rows of a table can have gaps, so fill them or drop those data",
            )
        lines += found(name, array, np.isinf, "infinite", "replace them or drop the rows")
    lines += _outside(array, schema, name)
    if not beyond or array.ndim > 2:
        lines += outside_levels(array, schema, name, "correct them, or {}")
    if training and len(array) > 1:
        if all((rows == array[0]).all() for rows in chunks(array)):
            lines.append(
                f"{name}: all {len(array)} rows are identical, there is nothing to learn; check "
                f"how they were saved"
            )
        elif array.ndim == 2:
            lines += flat_columns(chunks(array), schema, name)
    return lines


def flat_columns(pieces: Iterable[np.ndarray], schema: Schema, name: str) -> list[str]:
    """Returns a line if columns hold no value at all, and one if real ones are constant once
    stored: their density has no bound.

    Args:
        pieces: The rows, (n, C) each.
        schema: What one row is.
        name: What to call the data in the lines.
    """
    low = high = np.array(np.nan)
    for rows in pieces:
        with np.errstate(over="ignore"):
            stored = rows.astype(float_storage())
        low, high = np.fmin(low, np.fmin.reduce(stored)), np.fmax(high, np.fmax.reduce(stored))
    real = (
        np.array([not c.discrete for c in schema.modelled])
        if schema.columns
        else not schema.discrete
    )
    constant = f"are constant in {np.dtype(float_storage()).name}, where a density is infinite"
    lines = []
    for flat, what in ((np.isnan(low), "hold no value at all"), ((low == high) & real, constant)):
        which = np.flatnonzero(flat)
        names = [quoted(schema.modelled[i].name) for i in which] if schema.columns else which
        where, leave = (
            ("", ', or set kind = "id" in a schema file') if schema.columns else ("(from 0) ", "")
        )
        lines += (
            [f"{name}: columns {where}{listing(names)} {what}; remove them{leave}"]
            if len(which)
            else []
        )
    return lines


def _outside(array: np.ndarray, schema: Schema, name: str) -> list[str]:
    low, high = schema.low, schema.high
    if schema.kind == "count":
        return count_problems(array, name)[0]
    if schema.kind == "binary":
        return found(
            name,
            array,
            lambda x: np.isfinite(x) & (x != 0) & (x != 1),
            "neither 0 nor 1",
            _binary_mend(array),
        )
    if schema.kind == "real":
        return _outside_real(array, schema, name)
    lines = []
    if max(-low, high) > exact_integers():
        lines.append(
            f"{name}: levels {low:.0f}..{high:.0f} are too large to be told apart in "
            f"{np.dtype(float_storage()).name};"
            f" subtract {low:.0f}"
        )
    if array.dtype.kind == "f":
        smallest, largest = _finite_range(array)
        scaled = smallest >= 0 and largest <= 1
        mend = (
            f"multiply by {high if high > 1 else 255:g} and round if they were divided by it"
            if scaled
            else "use --kind real"
        )
        lines += found(
            name, array, lambda x: np.isfinite(x) & (x != np.trunc(x)), "not integers", mend
        )
    return lines


def outside_levels(array: np.ndarray, schema: Schema, name: str, mend: str) -> list[str]:
    """Returns a line if integers lie outside the levels of a schema.

    ``{}`` in the mend is what would make them levels.
    """
    low, high, (smallest, largest) = schema.low, schema.high, _finite_range(array)
    if schema.kind != "levels" or (low <= smallest and largest <= high):
        return []
    wider = math.floor(min(low, smallest)), math.ceil(max(high, largest))
    remedy = (
        f"train with --levels {wider[0]}:{wider[1]}"
        if wider[1] - wider[0] < MAX_LEVELS
        else "use --kind real"
    )
    outside = f"outside the levels {low:g}..{high:g}"
    return found(
        name,
        array,
        lambda x: np.isfinite(x) & ((x < low) | (x > high)),
        outside,
        mend.format(remedy),
    )


def _outside_real(array: np.ndarray, schema: Schema, name: str) -> list[str]:
    largest = float(np.finfo(float_storage()).max)
    lines = []
    if array.dtype == np.float64 and float_storage() == np.float32:
        beyond = "beyond the range of float32"
        lines = found(
            name,
            array,
            lambda x: np.isfinite(x) & (np.abs(x) > largest),
            beyond,
            "rescale, or drop the column",
        )
    if schema.low >= 0 and schema.high <= 1:
        low, high = _finite_range(array)
        if low >= 0 and 1 < high <= 255 and integers_only(array):
            lines.append(
                f"{name}: holds levels up to {high:g} where values in [0, 1] are expected; divide "
                f"by 255"
            )
    return lines


def _binary_mend(array: np.ndarray) -> str:
    low, high = _finite_range(array)
    grey = low >= 0 and (high <= 1 or (high <= 255 and integers_only(array)))
    return (
        "grey values: use --binarize dynamic or threshold, or leave --kind away"
        if grey
        else "leave --kind binary away"
    )


def found(
    name: str, array: np.ndarray, test: Callable[[np.ndarray], np.ndarray], what: str, mend: str
) -> list[str]:
    """Returns one line with count, share and first place of the values that ``test`` marks, or
    none.
    """
    count, row, first = 0, 0, ""
    for rows in chunks(array):
        marked = test(rows)
        here = int(np.count_nonzero(marked))
        if here and not count:
            place = [int(i) for i in np.unravel_index(int(marked.argmax()), marked.shape)]
            element = (
                f", column {place[1]}"
                if len(place) == 2
                else f", element {tuple(place[1:])}"
                if place[1:]
                else ""
            )
            first = f"row {row + place[0]}{element}"
        count, row = count + here, row + len(rows)
    share = f"{100 * count / array.size:.3g} %"
    return (
        [f"{name}: {count} values ({share}) are {what}, the first at {first} (from 0); {mend}"]
        if count
        else []
    )


def chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the rows in views of a few million values, so that checks need little memory and may
    stop early.
    """
    step = max(1, 2**22 * len(array) // max(1, array.size))
    return (array[start : start + step] for start in range(0, len(array), step))


def integers_only(array: np.ndarray) -> bool:
    """Returns whether every finite value is an integer."""
    if array.dtype.kind != "f":
        return True
    return all(bool(np.all(~np.isfinite(x) | (x == np.trunc(x)))) for x in chunks(array))


def listing(columns: np.ndarray | Sequence[str]) -> str:
    """Returns the numbers or names of the first ten columns, and how many more there are."""
    more = f" and {len(columns) - 10} more" if len(columns) > 10 else ""
    return ", ".join(map(str, columns[:10])) + more


def _finite_range(array: np.ndarray) -> tuple[float, float]:
    """Returns the smallest and largest finite value; (0, 0) if there is none.

    Then each value is a problem itself.
    """
    low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        low = min(float(np.min(x, where=np.isfinite(x), initial=np.inf)) for x in chunks(array))
        high = max(float(np.max(x, where=np.isfinite(x), initial=-np.inf)) for x in chunks(array))
    return (low, high) if low <= high else (0.0, 0.0)
