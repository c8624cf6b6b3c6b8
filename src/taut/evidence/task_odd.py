r"""Which planted errors are found, at a stated rate of false alarms, and if the reason is right.

An error is planted in one entry of a held-out row, or two: two numbers of one kind change places; a
number is ten times what it was; a level, or a number, is that of another row. A row is *found* if
its $\log p(x)$ has a conformal p-value of at most the rate among the held-out rows as they were,
its own left out: then of untouched rows no more than that rate are found, whatever the model. With
fewer than 99 such rows the rate is that of the smallest p-value.

Of the planted rows, each entry's log p given the others, less the median of its column over rows
that were left as they were, names a *reason*: the least. (``taut score --cells`` orders such
entries by their probability, ``tails``, which takes draws of each.)

Beside the model stand an isolation forest and the mean distance to the 10 nearest training rows,
at the same rate; the neighbours' reason is the column in which they differ most from the row. The
error of a share counts both sides: planted rows and those they are compared with are drawn again.

References: vovk2005, bates2023, liu2008, efron1979.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from taut.data.tables.kinds import KINDS
from taut.evidence.cells import cell_scores
from taut.evidence.section import Scene, Section, Table
from taut.evidence.task_data import (
    RESAMPLES,
    Array,
    Sheet,
    affordable,
    error_of_share,
    estimate,
    given_totals,
    log_p,
    sheet_of,
    too_expensive,
    too_few,
    work_of,
)
from taut.evidence.text import number, plus_minus
from taut.evidence.text import share as per_cent
from taut.models.exact import ExactModel
from taut.system.records import COUNT, ESTIMATE, NUMBER, TEXT
from taut.system.seeds import derive

__all__ = ["OddRows", "found_share", "planted"]

RATE = 0.01  # of false alarms
SAMPLES, CELL_SAMPLES = 300, 100  # K of log p(x), and of that of an entry
PLANTED, EXPLAINED = 200, 40  # rows of each kind, and those of them that a reason is asked of
FEWEST, MANY = 20, 50  # rows; columns from which on no reason is asked
NEAREST, KNOWN = 10, 4000  # neighbours, and the training rows that simple methods see
SHARE = 0.1  # of the seconds of all tasks, for log p(x); twice as much for the reasons
KINDS_OF_ERROR = {
    "swap": "two numbers change places",
    "unit": "a number ten times as large",
    "level": "the level of another row",
    "number": "the number of another row",
}
METHODS = {"model": "the model", "forest": "isolation forest", "neighbours": "10 neighbours"}
METHOD = {"found": ESTIMATE, "right?": ESTIMATE}


def planted(sheet: Sheet, kind: str, most: int, seed: int) -> tuple[Array, Array, Array]:
    """Returns rows with one error each, (n, C), the held-out rows they were, (n,), and which
    entries are wrong, (n, C).

    An error changes its entry, and stays within the range of the training rows where a column's
    kind has no values outside it.

    Args:
        sheet: The rows.
        kind: Of ``KINDS_OF_ERROR``.
        most: Rows.
        seed: The same seed plants the same errors.
    """
    rng = np.random.default_rng(seed)
    rows, origin, where = [], [], []
    for place in rng.permutation(len(sheet.test)):
        row = sheet.test[place]
        changed = _swapped(sheet, row, rng) if kind == "swap" else _changed(sheet, row, kind, rng)
        if changed is not None:
            rows.append(changed)
            origin.append(place)
            where.append((changed != row) & ~np.isnan(row))
        if len(rows) == most:
            break
    shape = (len(rows), sheet.test.shape[1])
    return (
        np.array(rows).reshape(shape),
        np.array(origin, int),
        np.array(where, bool).reshape(shape),
    )


def _changed(sheet: Sheet, row: Array, kind: str, rng: np.random.Generator) -> Array | None:
    """Returns a row with one entry changed; None where that cannot be."""
    for i in rng.permutation(np.flatnonzero(sheet.nominal == (kind == "level"))).tolist():
        if np.isnan(row[i]):
            continue
        value = 10 * row[i]
        if kind != "unit":
            value = sheet.train[rng.integers(len(sheet.train)), i]
        if value != row[i] and not np.isnan(value) and _possible(sheet, i, value):
            changed = row.copy()
            changed[i] = value
            return changed
    return None


def _swapped(sheet: Sheet, row: Array, rng: np.random.Generator) -> Array | None:
    """Returns a row in which two numbers of one kind changed places; None where that cannot be."""
    order = rng.permutation(np.flatnonzero(~sheet.nominal & ~np.isnan(row))).tolist()
    for place, i in enumerate(order):
        for j in order[place + 1 :]:
            alike = sheet.kinds[i] == sheet.kinds[j] and row[i] != row[j]
            if alike and _possible(sheet, i, row[j]) and _possible(sheet, j, row[i]):
                changed = row.copy()
                changed[[i, j]] = row[[j, i]]
                return changed
    return None


def _possible(sheet: Sheet, i: int, value: float) -> bool:
    if not KINDS[sheet.kinds[i]].ranged:
        return True
    return bool(np.nanmin(sheet.train[:, i]) <= value <= np.nanmax(sheet.train[:, i]))


def found_share(
    scores: Array, origin: Array, usual: Array, rate: float, seed: int
) -> dict[str, float | None]:
    """Returns the share of planted rows whose p-value is at most a rate, with its error.

    Args:
        scores: Of the planted rows, (n,); the smaller, the odder.
        origin: The usual row that each was, which it is not compared with, (n,).
        usual: Scores of the rows as they were, (N,).
        rate: Share of usual rows that may be found.
        seed: The same seed gives the same error.
    """

    def found(counts: Array) -> Array:
        at_most = counts @ (usual[None] <= scores[:, None]).T - counts[:, origin] * (
            usual[origin] <= scores
        )
        others = counts.sum(1)[:, None] - counts[:, origin]
        return (1 + at_most) / (1 + others) <= rate + 1e-12

    scores, usual = (np.nan_to_num(s, nan=-np.inf) for s in (scores, usual))
    value = found(np.ones((1, len(usual)))).mean()
    rng = np.random.default_rng(derive(seed, "found"))
    of_usual = rng.multinomial(len(usual), np.full(len(usual), 1 / len(usual)), RESAMPLES)
    of_planted = rng.multinomial(len(scores), np.full(len(scores), 1 / len(scores)), RESAMPLES)
    again = (found(of_usual.astype(float)) * of_planted).sum(1) / len(scores)
    error = error_of_share(value, len(scores), again.std(ddof=1))
    return estimate(float(value), float(error))


class OddRows(Section):
    """Errors that were planted in held-out rows, and what finds them."""

    name, title, chapter = "task_odd", "Planted errors found", "tasks"
    order, stage, share = 87, "planted errors", 0.01
    needs = ("train", "columns")
    told = False
    references = ("vovk2005", "bates2023", "liu2008", "efron1979")
    shape: ClassVar = {
        "num_data": COUNT,
        "num_train": COUNT,
        "rate": NUMBER,
        "without": {"reasons?": TEXT},
        "kinds": {
            f"{kind}?": {
                "planted": COUNT,
                "explained": COUNT,
                **dict.fromkeys(METHODS, METHOD),
            }
            for kind in KINDS_OF_ERROR
        },
    }

    @classmethod
    def lacks(cls, scene: Scene) -> str | None:
        if (why := super().lacks(scene)) is not None:
            return why
        if given_totals(scene.model):
            return "the model is given the total of a row, which an error changes"
        if few := too_few(scene, FEWEST):
            return few
        if _rows(scene) < FEWEST:
            return too_expensive(scene, 5.0 * SAMPLES * FEWEST, SHARE)
        return None

    @classmethod
    def work(cls, scene: Scene) -> float:
        return work_of(scene, 3 * SHARE)

    @classmethod
    def run(cls, scene: Scene) -> Section | None:
        seed = derive(scene.seed, "task odd")
        sheet = sheet_of(scene, _rows(scene))
        sheet = sheet._replace(train=sheet.train[:KNOWN])
        rate = max(RATE, 1 / len(sheet.test))
        wrong = {kind: planted(sheet, kind, PLANTED, derive(seed, kind)) for kind in KINDS_OF_ERROR}
        wrong = {kind: made for kind, made in wrong.items() if len(made[0]) >= FEWEST}
        if not wrong:
            return None
        usual = _scores(scene, sheet, sheet.test, np.arange(len(sheet.test)), seed)
        explained, without = _explained(scene, len(wrong))
        medians = None
        if explained:
            count = min(len(sheet.test), 2 * explained)
            of_entries = _entries(scene, sheet, sheet.test[:count], np.arange(count), seed)
            medians = np.nanmedian(of_entries, 0)
        kinds = {}
        for kind, (rows, origin, where) in wrong.items():
            scores = _scores(scene, sheet, rows, origin, seed)
            found: dict[str, Any] = {"planted": len(rows), "explained": 0}
            for method in METHODS:
                share = found_share(scores[method], origin, usual[method], rate, seed)
                found[method] = {"found": share}
            if medians is not None:
                some = slice(0, explained)
                model = _entries(scene, sheet, rows[some], origin[some], seed) - medians
                found["explained"] = len(model)
                found["model"]["right"] = _right(np.nan_to_num(model, nan=np.inf), where[some])
                apart = _apart(sheet, rows[some])
                found["neighbours"]["right"] = _right(-apart, where[some])
            kinds[kind] = found
        counts = {"num_data": len(sheet.test), "num_train": len(sheet.train)}
        return cls({**counts, "rate": rate, "without": without, "kinds": kinds})

    def _found(self) -> list[tuple[str, Mapping[str, Any]]]:
        return [(kind, found) for kind, found in self["kinds"].items() if found]

    def line(self) -> str:
        parts = []
        for kind, found in self._found():
            beside = ", ".join(f"{METHODS[m]} {plus_minus(found[m]['found'])}" for m in METHODS)
            parts.append(f"{KINDS_OF_ERROR[kind]}: {beside}")
        listed = "; ".join(parts).replace("\N{NO-BREAK SPACE}", " ")
        rate = per_cent(self["rate"]).replace("\N{NO-BREAK SPACE}", " ")
        return f"planted errors found at {rate} of false alarms, {listed}"

    def tables(self) -> list[Table]:
        titles = ["error", *METHODS.values(), "planted"]
        lines, reasons = [], []
        for kind, found in self._found():
            title, cells = KINDS_OF_ERROR[kind], [plus_minus(found[m]["found"]) for m in METHODS]
            lines.append((title, 0, [*cells, number(found["planted"])]))
            if found["explained"]:
                right = [plus_minus(found[m].get("right")) for m in ("model", "neighbours")]
                reasons.append((title, 0, [*right, number(found["explained"])]))
        tables = [Table("Share of planted errors found", titles, lines)]
        if reasons:
            titles = ["error", METHODS["model"], METHODS["neighbours"], "asked"]
            tables.append(Table("Share of reasons that name the planted entry", titles, reasons))
        return tables

    def text(self) -> list[str]:
        return [
            f"Errors were planted in copies of {number(self['num_data'])} held-out {self.noun}s, "
            f"one kind at a time. Found is what is odder than all but {per_cent(self['rate'])} of "
            f"them as they were, by log p(x), or by simple methods that learnt from "
            f"{number(self['num_train'])} training {self.noun}s."
        ]

    def small(self) -> list[str]:
        lines = [
            "The errors count both the planted rows and those that they are compared with. Many "
            "errors cannot be found by anything: the number of another row is often a likely one."
        ]
        if (why := self["without"].get("reasons")) is not None:
            lines.append(f"Reasons were not asked: {why}.")
        return lines


def _rows(scene: Scene) -> int:
    """Returns how many held-out rows the time is enough for, planted ones beside them."""
    if isinstance(scene.model, ExactModel):
        return min(len(scene.x), affordable(scene, 5.0, SHARE))
    return min(len(scene.x), affordable(scene, 5.0 * SAMPLES, SHARE))


def _explained(scene: Scene, kinds: int) -> tuple[int, dict[str, str]]:
    """Returns of how many rows of each kind of error a reason is asked, and why not."""
    assert scene.columns is not None
    if (why := scene.lacks("conditionals")) is not None:
        return 0, {"reasons": why}
    columns = len(scene.columns.names)
    if columns >= MANY:
        return 0, {"reasons": f"there are {MANY} columns or more"}
    each = 2.0 * columns * CELL_SAMPLES
    if isinstance(scene.model, ExactModel):
        each = 1.0 + columns
    count = min(EXPLAINED, affordable(scene, each * (kinds + 2), 2 * SHARE))
    if count < FEWEST / 2:
        return 0, {"reasons": "they take too long: see --task-seconds"}
    return count, {}


def _whole(scene: Scene, sheet: Sheet, rows: Array, origin: Array) -> Tensor:
    """Returns whole rows of the model: the columns of the sheet, and what else the held-out rows
    they were hold.
    """
    x = scene.x[: len(sheet.test)].to(torch.get_default_dtype()).cpu()[torch.from_numpy(origin)]
    x[:, torch.from_numpy(sheet.places)] = torch.from_numpy(rows).to(x)
    return x


def _scores(
    scene: Scene, sheet: Sheet, rows: Array, origin: Array, seed: int
) -> Mapping[str, Array]:
    """Returns how usual rows are to each method, (n,) each."""
    from sklearn.ensemble import IsolationForest

    x = _whole(scene, sheet, rows, origin)
    train, here = (np.nan_to_num(sheet.features(each)[0]) for each in (sheet.train, rows))
    forest = IsolationForest(random_state=derive(seed, "forest") % 2**32).fit(train)
    distance, _ = _nearest(train, here)
    return {
        "model": log_p(scene.model, x, SAMPLES, seed).numpy(),
        "forest": forest.score_samples(here),
        "neighbours": -distance.mean(1),
    }


def _nearest(train: Array, rows: Array) -> tuple[Array, Array]:
    """Returns the distances to the nearest training rows, and which they are, (n, 10) each."""
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=min(NEAREST, len(train))).fit(train)
    distance, index = near.kneighbors(rows)
    return distance, index


def _entries(scene: Scene, sheet: Sheet, rows: Array, origin: Array, seed: int) -> Array:
    """Returns log p of each entry given the others, (n, C)."""
    x = _whole(scene, sheet, rows, origin)
    scores = cell_scores(scene.model, x, CELL_SAMPLES, improve=False, seed=seed).value.numpy()
    order = np.searchsorted(np.sort(_all_places(scene)), sheet.places)
    return scores[:, order]


def _all_places(scene: Scene) -> Array:
    """Returns where the modelled columns stand in a whole row."""
    from taut.features import Split

    if isinstance(scene.model.condition, Split):
        return scene.model.condition.rest.cpu().numpy()
    return np.arange(scene.x.shape[1])


def _apart(sheet: Sheet, rows: Array) -> Array:
    """Returns how far each entry lies from its row's nearest training rows, (n, C)."""
    train, owner = sheet.features(sheet.train)
    here, train = (np.nan_to_num(each) for each in (sheet.features(rows)[0], train))
    square = (here - train[_nearest(train, here)[1]].mean(1)) ** 2
    return np.stack([square[:, owner == i].sum(1) for i in range(rows.shape[1])], 1)


def _right(scores: Array, where: Array) -> dict[str, float | None]:
    """Returns the share of rows whose least score is that of a planted entry, with its error."""
    right = where[np.arange(len(scores)), scores.argmin(1)]
    error = right.std(ddof=1) / np.sqrt(len(right))
    return estimate(float(right.mean()), float(error_of_share(right.mean(), len(right), error)))
