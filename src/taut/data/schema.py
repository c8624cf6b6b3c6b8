"""The kind and shape of a data point, from which the likelihood follows: bits, grey levels and real
numbers are not the same.

A density of integers is unbounded and a Bernoulli of grey values is not a likelihood, so the kind
is inferred from the values, shown, saved with the run, and every later array is checked against it
(``taut.data.problems``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from taut.data.tables.column import Column
from taut.data.tables.constraints import constraint_of
from taut.system.errors import DataError, UsageError, and_more
from taut.types import image_layout

Kind = Literal["binary", "levels", "real", "count", "table"]
MAX_LEVELS = 65536
DEEP = 100  # columns of counts from which on their total says how deeply a row was measured


@dataclass(frozen=True)
class Schema:
    """Creates the description of a data point.

    Args:
        kind: ``"binary"`` (0 or 1), ``"levels"`` (the integers low..high), ``"count"`` (0, 1, 2,
            ...), ``"real"``, or ``"table"``: a kind of its own for each column.
        event_shape: The shape of a data point: of a table its columns, of counts what is counted;
            those of the context included.
        low: Smallest value: of the support, or for ``"real"`` and ``"count"`` of the values seen.
        high: Largest value, likewise.
        missing: Whether entries were missing in the training data: the encoder then gets the mask.
        columns: All columns of the source, of a table.
        condition: Names of the columns that are the context of the others.
        missing_values: Texts and numbers of the source that mean missing, other than the usual
            ones.
        context: Of counts, the columns of ``obs`` that are their context: their codes stand behind
            the counts of a row.
        names: Of counts, what is counted (genes), where the source says so.
        constraints: What holds between numbers of a table in every row, such as ``start <= end``:
            made rows keep it.
    """

    kind: Kind
    event_shape: tuple[int, ...]
    low: float
    high: float
    missing: bool = False
    columns: tuple[Column, ...] = ()
    condition: tuple[str, ...] = ()
    missing_values: tuple[str, ...] = ()
    context: tuple[Column, ...] = ()
    names: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UsageError(f"kind must be one of {', '.join(get_args(Kind))}, not {self.kind!r}")
        if not self.low <= self.high:
            raise UsageError(
                f"a schema's low must not exceed its high, but {self.low:g} > {self.high:g}"
            )
        if self.constraints and self.kind != "table":
            raise UsageError(f"constraints are between columns of a table, not of {self.kind} data")
        for text in self.constraints:
            constraint_of(text, self.columns)  # refuses what cannot be one

    @property
    def discrete(self) -> bool:
        if self.kind == "table":
            return all(c.discrete for c in self.modelled)
        return self.kind != "real"

    @property
    def num_levels(self) -> int:
        if self.kind not in ("binary", "levels"):
            raise UsageError(
                f"{self.kind} data have no levels of one kind; --kind levels if they are integers"
            )
        return int(self.high - self.low) + 1

    @cached_property
    def modelled(self) -> tuple[Column, ...]:
        """The columns of a table that a data point holds: all but ids and constants, in order."""
        return tuple(c for c in self.columns if c.modelled)

    @cached_property
    def written(self) -> tuple[Column, ...]:
        """The columns that a made row has: those that are modelled, what follows from them, and a
        key.
        """
        return tuple(c for c in self.columns if c.modelled or c.rules.made)

    @cached_property
    def given(self) -> list[int]:
        """Numbers of the columns of a data point that are the context of the others."""
        if self.context:
            return list(range(self.num_elements - len(self.context), self.num_elements))
        context = set(self.condition)
        return [i for i, c in enumerate(self.modelled) if c.name in context]

    @cached_property
    def rest(self) -> list[int]:
        """Numbers of the columns of a data point whose density is modelled."""
        if self.context:
            return list(range(self.num_elements - len(self.context)))
        context = set(self.given)
        return [i for i in range(len(self.modelled)) if i not in context]

    @property
    def given_columns(self) -> tuple[Column, ...]:
        """The columns that are the context of the others, in the order of ``given``."""
        return self.context or tuple(self.modelled[i] for i in self.given)

    @cached_property
    def element_names(self) -> tuple[str, ...]:
        """What is modelled of a row of columns, by names that all differ: columns of a table,
        genes, or x0, x1, ...
        """
        if self.kind == "table":
            return tuple(self.modelled[i].name for i in self.rest)
        return told_apart(self.names) or tuple(f"x{i}" for i in range(self.num_elements))

    @property
    def num_elements(self) -> int:
        return math.prod(self.event_shape)

    @property
    def is_rows(self) -> bool:
        """True if a data point is a row of columns, each in a unit of its own."""
        return self.kind == "table" or (self.kind == "real" and len(self.event_shape) == 1)

    @property
    def is_count_matrix(self) -> bool:
        """True of counts of at least 100 columns, such as genes in cells or words in texts: the
        total of a row says how deeply it was measured.
        """
        wide = self.num_elements - len(self.context) >= DEEP
        return self.kind == "count" and wide and len(self.event_shape) == 1

    @property
    def usual_latent_dim(self) -> int:
        """Latent dimensions of a model by default: one for each column of rows, else one for two
        elements; at least 2, at most 32; 10 for a matrix of counts.
        """
        if self.is_count_matrix:
            return 10
        elements = len(self.rest) or self.num_elements
        return min(32, max(2, elements // (1 if self.is_rows else 2)))

    @property
    def is_image(self) -> bool:
        try:
            _, height, width, _ = image_layout(self.event_shape)
        except ValueError:
            return False
        return min(height, width) >= 4

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "event_shape": list(self.event_shape),
            "low": self.low,
            "high": self.high,
            "missing": self.missing,
            "condition": list(self.condition),
            "missing_values": list(self.missing_values),
            "columns": [c.to_dict() for c in self.columns],
            "context": [c.to_dict() for c in self.context],
            "names": list(self.names),
            "constraints": list(self.constraints),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Schema:
        try:
            return cls(
                kind=fields["kind"],
                event_shape=tuple(int(n) for n in fields["event_shape"]),
                low=float(fields["low"]),
                high=float(fields["high"]),
                missing=bool(fields.get("missing", False)),
                columns=tuple(Column.from_dict(c) for c in fields.get("columns", ())),
                condition=tuple(str(name) for name in fields.get("condition", ())),
                missing_values=tuple(str(v) for v in fields.get("missing_values", ())),
                context=tuple(Column.from_dict(c) for c in fields.get("context", ())),
                names=tuple(str(name) for name in fields.get("names", ())),
                constraints=_texts(fields.get("constraints", [])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"not a schema ({type(error).__name__}: {error})") from error

    def describe(self) -> str:
        """Returns one line for people, such as ``8x8 images, 17 levels 0..16``."""
        if self.kind == "table":
            return f"a table of {len(self.columns)} columns, {len(self.modelled)} of them modelled"
        form = self._form()
        if self.kind == "binary":
            return f"{form}, binary"
        values = {"count": "counts", "real": "real values"}
        held = f"{self.num_levels} levels" if self.kind == "levels" else values[self.kind]
        return f"{form}, {held} {self.low:.6g}..{self.high:.6g}"

    def _form(self) -> str:
        sizes = "x".join(map(str, self.event_shape))
        if self.context:
            sizes = str(len(self.rest))
        if self.is_image:
            return f"{sizes} images"
        if len(self.event_shape) > 1:
            return f"{sizes} arrays"
        if self.num_elements == 1:
            return "1 column"
        return f"{sizes} columns"


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
        raise TypeError("constraints must be a list of texts")
    return tuple(values)


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

    Raises:
        UsageError: the given kind or levels are not possible for these values.
        DataError: there is no finite value.
    """
    if levels is not None:
        least, most = levels
        possible = kind in (None, "levels") and 0 < most - least < MAX_LEVELS
        if not possible:
            raise UsageError(
                f"--levels {least}:{most} needs LOW < HIGH, at most {MAX_LEVELS} levels, kind "
                f"levels"
            )
        return Schema("levels", array.shape[1:], float(least), float(most), has_gaps(array))
    if not any(np.isfinite(x).any() for x in chunks(array)):
        raise DataError("the data hold no finite value at all; check how they were saved")
    low, high = finite_range(array)
    if kind is None:
        kind = _usual_kind(array, low, high)
    if kind == "binary":
        low, high = 0.0, 1.0
    elif kind == "levels":
        low, high = float(math.floor(low)), float(math.ceil(high))
        if array.dtype == np.uint8:
            low, high = 0.0, 255.0
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


def _usual_kind(array: np.ndarray, low: float, high: float) -> Kind:
    if high - low >= MAX_LEVELS or not integers_only(array):
        return "real"
    if low >= 0 and high <= 1:
        return "binary"
    return "levels"


def told_apart(names: Sequence[str]) -> tuple[str, ...]:
    """Returns names of which those that repeat an earlier one have a number: a, b, a-1."""
    taken, seen, made = set(names), Counter[str](), []
    for name in names:
        own, number = name, seen[name]
        while number and own in taken:
            own, number = f"{name}-{number}", number + 1
        taken.add(own)
        seen[name] = max(1, number)
        made.append(own)
    return tuple(made)


def has_gaps(array: np.ndarray) -> bool:
    """Returns whether rows of numbers have missing entries.

    An array of images or the like has none: NaN is an error there.
    """
    if array.dtype.kind != "f" or array.ndim != 2:
        return False
    return any(bool(np.isnan(x).any()) for x in chunks(array))


def chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Returns the rows in views of a few million values each, so that checks need little memory and
    may stop early.
    """
    step = max(1, 2**22 * len(array) // max(1, array.size))
    return (array[start : start + step] for start in range(0, len(array), step))


def integers_only(array: np.ndarray) -> bool:
    """Returns whether every finite value is an integer."""
    if array.dtype.kind != "f":
        return True
    return all(bool(np.all(~np.isfinite(x) | (x == np.trunc(x)))) for x in chunks(array))


def listing(columns: np.ndarray | Sequence[str]) -> str:
    """Returns the numbers or names of the first ten columns, and the number of further ones."""
    return ", ".join(map(str, columns[:10])) + and_more(columns, 10)


def finite_range(array: np.ndarray) -> tuple[float, float]:
    """Returns the smallest and largest finite value; (0, 0) if there is none, where every value is
    a problem itself.
    """
    low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        low = min(float(np.min(x, where=np.isfinite(x), initial=np.inf)) for x in chunks(array))
        high = max(float(np.max(x, where=np.isfinite(x), initial=-np.inf)) for x in chunks(array))
    if low <= high:
        return low, high
    return 0.0, 0.0
