r"""How each column is distributed in rows that the model makes, beside the rows that were held out.

The values of a column fall into bins: its commonest values where they are few or levels, else ten
of equal width over the central 98 % of the data, of which the outer ones are open. With shares
$p_k$ of N values of the data and $p'_k$ of M made ones, the *distance* is $\frac12 \sum_k |p_k -
p'_k|$. Were both drawn from one distribution, of shares $\bar p_k$, it would be

$$ \sum_k \sqrt{\frac{\bar p_k (1 - \bar p_k)}{2 \pi} \Bigl(\frac1N + \frac1M\Bigr)} $$

*by chance*, by the normal approximation of each share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np

from taut.data.tables.codes import decode
from taut.data.tables.kinds import KINDS
from taut.evidence.columns import ColumnFacts
from taut.evidence.section import Scene, Section, Table
from taut.evidence.text import number, share
from taut.system.errors import shown
from taut.system.records import COUNT, NUMBER, TEXT
from taut.system.seeds import derive
from taut.use import tasks

__all__ = ["ColumnShapes", "compared"]

ROWS, FEWEST = 1000, 10  # held out and made, at most; held out, at least
LEVELS, BINS = 12, 10  # values that have a bin of their own, at most, and those of other numbers
LISTED = 30  # columns, those that differ most
TAIL = 0.01  # of the data beyond either end of the bins

Array = np.ndarray
Texts = Callable[[Array], Sequence[str]]


class ColumnShapes(Section):
    """Columns of samples beside columns of data, one by one."""

    name, title, chapter, order = (
        "column_shapes",
        "Column by column, samples and data",
        "samples",
        92,
    )
    needs = ("columns", "simulation")
    told = False
    caption = (
        "The columns that differ most: the share of each value, or range of values, among the "
        "held-out {noun}s (bars) and among the samples (diamonds). Each has a scale of its own."
    )
    shape: ClassVar = {
        "num_data": COUNT,
        "num_made": COUNT,
        "num_columns": COUNT,
        "word": TEXT,
        "columns": [
            {
                "name": TEXT,
                "distance": NUMBER,
                "by_chance": NUMBER,
                "bins": [TEXT],
                "data": [NUMBER],
                "samples": [NUMBER],
            }
        ],
    }

    @classmethod
    def lacks(cls, scene: Scene) -> str | None:
        if (why := super().lacks(scene)) is not None:
            return why
        return None if len(scene.x) >= FEWEST else f"it takes {FEWEST} rows held out"

    @classmethod
    def run(cls, scene: Scene) -> Section:
        known = scene.columns
        assert known is not None
        count = min(ROWS, scene.effort.samples)
        made = tasks.sample(scene.model, count, seed=derive(scene.seed, "column shapes"))
        sides = [x.flatten(1).cpu().double().numpy() for x in (scene.x[:ROWS], made)]
        columns = []
        for i, name in enumerate(known.names):
            real, own = (side[~np.isnan(side[:, i]), i] for side in sides)
            if len(real) and len(own):
                own, nominal, texts = _settled(known, i, own)
                columns.append({"name": name, **compared(real, own, nominal, texts)})
        columns.sort(key=lambda c: c["by_chance"] - c["distance"])
        values = {"num_columns": len(known.names), "word": known.word, "columns": columns[:LISTED]}
        return cls({"num_data": len(sides[0]), "num_made": count, **values})

    def tables(self) -> list[Table]:
        titles = (self["word"], "distance", "by chance", "differs most at", "data", "samples")
        lines = []
        for column in self["columns"]:
            pairs = list(zip(column["data"], column["samples"], strict=True))
            most = max(range(len(pairs)), key=lambda k: abs(pairs[k][0] - pairs[k][1]))
            two = [number(column[key]) for key in ("distance", "by_chance")]
            lines.append(
                (column["name"], 0, [*two, column["bins"][most], *map(share, pairs[most])])
            )
        return [Table(self.title, titles, lines)]

    def text(self) -> list[str]:
        word, listed, count = self["word"], len(self["columns"]), self["num_columns"]
        return [
            f"The {number(listed)} of {number(count)} {word}s that differ most between "
            f"{number(self['num_made'])} samples and {number(self['num_data'])} held-out "
            f"{self.noun}s. The distance is the share of values that would have to change; by "
            f"chance it is not zero, either."
        ]


def _settled(known: ColumnFacts, i: int, made: Array) -> tuple[Array, bool, Texts]:
    """Returns values that a model made as ``taut sample`` writes them, whether they are levels
    without an order, and what gives their words.
    """
    nominal = bool(known.kinds) and KINDS[known.kinds[i]].nominal
    if not known.columns:
        return made, nominal, _words
    column = known.columns[i]

    def texts(values: Array) -> Sequence[str]:
        return _words(decode(values[:, None], [column]).column(0).to_pylist())

    return np.asarray(column.settled(made)), nominal, texts


def _words(values: Iterable[Any]) -> list[str]:
    return [f"{v:.4g}" if isinstance(v, float) else shown(v) for v in values]


class _Bins(NamedTuple):
    """Bins of a column: their words, and the number of that in which each value lies."""

    words: Sequence[str]
    place: Callable[[Array], Array]


def compared(real: Array, made: Array, nominal: bool, texts: Texts = _words) -> dict[str, Any]:
    """Returns the shares of bins of a column, and how far they are from each other.

    Args:
        real: Values of the data, (N,).
        made: Those of the samples, (M,).
        nominal: Whether they are levels.
        texts: Gives the words of values, (K,).
    """
    low, high = np.quantile(real, [TAIL, 1 - TAIL])
    if nominal or low == high or len(np.unique(real)) <= LEVELS:
        bins = _levels(real, made, texts)
    else:
        bins = _ranges(low, high, texts)
    hot = np.eye(len(bins.words))
    p, q = (hot[bins.place(side)].mean(0) for side in (real, made))
    both = (len(real) * p + len(made) * q) / (len(real) + len(made))
    variance = np.clip(both * (1 - both), 0, None) * (1 / len(real) + 1 / len(made))
    return {
        "distance": float(np.abs(p - q).sum() / 2),
        "by_chance": float(np.sqrt(variance / (2 * np.pi)).sum()),
        "bins": list(bins.words),
        "data": p.tolist(),
        "samples": q.tolist(),
    }


def _ranges(low: float, high: float, texts: Texts) -> _Bins:
    edges = np.linspace(low, high, BINS + 1)[1:-1]
    words = texts(edges)
    between = [f"{a} to {b}" for a, b in pairwise(words)]
    return _Bins(
        [f"below {words[0]}", *between, f"from {words[-1]}"],
        lambda values: np.searchsorted(edges, values, side="right"),
    )


def _levels(real: Array, made: Array, texts: Texts) -> _Bins:
    """Returns a bin for each of the commonest values of the data, and one for all others."""
    values, counts = np.unique(real, return_counts=True)
    kept = np.sort(values[np.argsort(-counts, kind="stable")[:LEVELS]])
    words = texts(kept)
    if not np.isin(np.concatenate([real, made]), kept).all():
        words = [*words, "others"]

    def place(some: Array) -> Array:
        near = np.searchsorted(kept, some).clip(max=len(kept) - 1)
        return np.where(kept[near] == some, near, len(kept))

    return _Bins(words, place)
