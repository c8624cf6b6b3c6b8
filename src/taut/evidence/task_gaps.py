r"""How well gaps are filled in, in the units of each column.

A tenth of the observed entries of held-out rows is hidden at random. The model fills them in with
``taut.impute`` and draws M = 99 completions. Beside it stand simple methods that learn from the
same training rows: mean, median or most frequent level of the column; the 10 nearest training rows
by the entries that are left; iterated forests, each column from all others, in three rounds.

A number is judged by the root of its mean squared error, levels by the share that is right, ordered
levels by how many levels they are off.

*Coverage.* The truth and 99 draws of $p(x_\mathrm{mis} \mid x_\mathrm{obs})$ can be exchanged, so
the truth has each of the ranks 1 to 100 among them with probability 1/100, and lies between the
6th and the 95th with probability 0.9. Equal values share their ranks: the truth counts by the share
of those that it may have. Levels without an order are ranked by how many of the 100 are equal.
Coverage is thus 0.9 on average for a model that is right, of whatever kind the column is.

References: mattei2019, stekhoven2012, troyanskaya2001, efron1979.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from taut.evidence.cells import Imputed, impute
from taut.evidence.section import Scene, Section, Table, UnmeasuredError
from taut.evidence.task_data import (
    Array,
    Sheet,
    affordable,
    by_bootstrap,
    error_of_share,
    estimate,
    given_totals,
    rows_of_forests,
    sheet_of,
    too_expensive,
    too_few,
    work_of,
)
from taut.evidence.text import number, plus_minus
from taut.models.exact import ExactModel
from taut.system.records import COUNT, ESTIMATE, NUMBER, TEXT
from taut.system.seeds import derive, generator

__all__ = ["GapsFilled", "covered", "fill_by_neighbours", "fill_by_trees", "fill_by_typical"]

HIDDEN = 0.1  # of the observed entries
DRAWS, INSIDE = 99, (5, 94)  # M, and the ranks from 0 that an interval of 90 % holds
SAMPLES = 300  # K
FEWEST = 20  # rows
NEAREST, KNOWN = 10, 4000  # neighbours, and the training rows that simple methods see
TREES, ROUNDS = 50, 3
# of the seconds of all tasks: the first attempt, the second, and forests
SHARE = 0.25
# Evaluations of p(x, z) that a sample takes, of which there are mean and draws, and that the second
# attempt at a row takes, about
FILLING, AGAIN = 10, 50_000
LISTED = 60  # columns, the first
METHODS = {
    "model": "the model",
    "typical": "mean or mode",
    "neighbours": "10 neighbours",
    "trees": "iterated forests",
}
MEASURES = {"number": "RMSE", "level": "share right", "ordered": "levels off"}


def covered(truth: Array, draws: Array, nominal: bool) -> Array:
    """Returns the share of the ranks that each true value may have among draws of it that lie in
    the interval of 90 %, (N,): 0.9 on average where truth and draws can be exchanged.

    Args:
        truth: The values, (N,).
        draws: 99 draws of each, (99, N).
        nominal: Whether they are levels without an order, ranked by how many are equal.
    """
    equal = (draws == truth).sum(0)
    low, high = INSIDE
    if nominal:
        # a draw's level is as frequent, the truth among them, as that level is
        every = np.concatenate([draws, truth[None]])
        often = (every[:, None] == every[None]).sum(1)
        below, equal = (often[:-1] < often[-1]).sum(0), (often[:-1] == often[-1]).sum(0)
        low, high = DRAWS + 1 - (high - low + 1), DRAWS
    else:
        below = (draws < truth).sum(0)
    inside = np.minimum(below + equal, high) - np.maximum(below, low) + 1
    return np.clip(inside, 0, None) / (equal + 1)


def fill_by_typical(sheet: Sheet, rows: Array) -> Array:
    """Returns rows whose gaps hold the mean, the median or the mode of the training rows."""
    filled = rows.copy()
    for i in range(rows.shape[1]):
        known = sheet.train[~np.isnan(sheet.train[:, i]), i]
        filled[np.isnan(rows[:, i]), i] = _middle(sheet, i, known)
    return filled


def fill_by_neighbours(sheet: Sheet, rows: Array) -> Array:
    """Returns rows whose gaps hold the mean, the median or the mode of the 10 training rows that
    are nearest by the entries that both have.
    """
    from sklearn.metrics import pairwise_distances

    train = sheet.train[:KNOWN]
    filled = fill_by_typical(sheet, rows)
    gaps = np.isnan(rows)
    some = np.flatnonzero(gaps.any(1))
    if not len(some):
        return filled
    known, there = (sheet.features(x)[0] for x in (train, rows[some]))
    distance = pairwise_distances(there, known, metric="nan_euclidean")
    distance = np.where(np.isnan(distance), np.inf, distance)
    for i in np.flatnonzero(gaps.any(0)).tolist():
        donors = np.flatnonzero(~np.isnan(train[:, i]))
        asked = np.flatnonzero(gaps[some, i])
        near = distance[np.ix_(asked, donors)].argsort(1)[:, :NEAREST]
        for place, few in zip(some[asked], donors[near], strict=True):
            filled[place, i] = _middle(sheet, i, train[few, i])
    return filled


def fill_by_trees(sheet: Sheet, rows: Array, known: int, seed: int) -> Array:
    """Returns rows whose gaps hold what a forest makes of the other entries, in three rounds.

    Args:
        sheet: Its training rows are learnt from, their own gaps filled by the typical value.
        rows: The rows, (N, C).
        known: Training rows, at most.
        seed: The same seed gives the same forests.
    """
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    gaps, filled = np.isnan(rows), fill_by_typical(sheet, rows)
    train = sheet.train[:known]
    whole = fill_by_typical(sheet, train)
    features, owner = sheet.features(whole)
    forests = {}
    for i in np.flatnonzero(gaps.any(0)).tolist():
        there = ~np.isnan(train[:, i])
        kind = RandomForestRegressor
        if sheet.nominal[i]:
            kind = RandomForestClassifier
        forest = kind(TREES, min_samples_leaf=3, max_features=1 / 3, random_state=seed)
        forests[i] = forest.fit(features[there][:, owner != i], train[there, i])
    for _ in range(ROUNDS):
        seen = sheet.features(filled)[0]
        for i, forest in forests.items():
            gap = gaps[:, i]
            filled[gap, i] = forest.predict(seen[gap][:, owner != i])
    return filled


def _middle(sheet: Sheet, i: int, values: Array) -> float:
    """Returns the mean, the median or the most frequent of values of a column."""
    if not sheet.nominal[i]:
        return float(values.mean())
    if sheet.ordered[i]:
        return float(np.sort(values)[(len(values) - 1) // 2])
    levels, counts = np.unique(values, return_counts=True)
    return float(levels[counts.argmax()])


def _loss(sheet: Sheet, truth: Array, filled: Array) -> Array:
    """Returns the loss of each entry, (N, C): squared, wrong, or levels off."""
    wrong = np.where(sheet.ordered, np.abs(filled - truth), filled != truth)
    return np.where(sheet.nominal, wrong, (filled - truth) ** 2)


class GapsFilled(Section):
    """Entries of held-out rows that were hidden, and what fills them in."""

    name, title, chapter = "task_gaps", "Gaps filled in", "tasks"
    order, stage, share = 86, "gaps filled in", 0.01
    needs = ("train", "conditionals")
    told = False
    references = ("mattei2019", "stekhoven2012", "troyanskaya2001", "efron1979")
    shape: ClassVar = {
        "num_data": COUNT,
        "num_train": COUNT,
        "hidden": COUNT,
        "num_samples": COUNT,
        "warnings?": [TEXT],
        "without": {f"{method}?": TEXT for method in METHODS},
        "columns": [
            {
                "name": TEXT,
                "measure": TEXT,
                "hidden": COUNT,
                "spread": NUMBER,
                **{f"{method}?": ESTIMATE for method in METHODS},
                "coverage": ESTIMATE,
            }
        ],
        "whole": {
            f"{measure}?": {**{f"{method}?": ESTIMATE for method in METHODS}, "columns": COUNT}
            for measure in MEASURES
        },
        "coverage": ESTIMATE,
    }

    @classmethod
    def lacks(cls, scene: Scene) -> str | None:
        if (why := super().lacks(scene)) is not None:
            return why
        if scene.columns is None and scene.levels is None:
            return ""
        if given_totals(scene.model):
            return "the model is given the total of a row, which holds what is hidden"
        if few := too_few(scene, FEWEST):
            return few
        if _rows(scene) < FEWEST:
            return too_expensive(scene, FILLING * SAMPLES * FEWEST, SHARE)
        return None

    @classmethod
    def work(cls, scene: Scene) -> float:
        return work_of(scene, 3 * SHARE)

    @classmethod
    def run(cls, scene: Scene) -> Section:
        sheet = sheet_of(scene, _rows(scene))
        test, seed = sheet.test, derive(scene.seed, "task gaps")
        draw = torch.rand(test.shape, generator=generator(seed, "hidden"), dtype=torch.float64)
        hidden = (draw.numpy() < HIDDEN) & ~np.isnan(test)
        if not hidden.any():
            raise UnmeasuredError("no entry was hidden: there are too few")
        model, draws = _by_model(scene, sheet, hidden, seed)
        hidden, test = hidden[: len(model)], test[: len(model)]
        left, without = np.where(hidden, np.nan, test), {}
        filled = {"typical": fill_by_typical(sheet, left)}
        filled["neighbours"] = fill_by_neighbours(sheet, left)
        known = rows_of_forests(sheet, scene.effort.task_seconds * SHARE, KNOWN)
        if known >= min(len(sheet.train), 5 * FEWEST):
            filled["trees"] = fill_by_trees(sheet, left, known, derive(seed, "forest") % 2**32)
        else:
            without["trees"] = "they take too long on so many columns"
        unfilled = hidden & np.isnan(model)
        warning = []
        if unfilled.any():
            warning = [f"{int(unfilled.sum())} entries were not filled in: the mean or mode counts"]
        filled["model"] = np.where(unfilled, filled["typical"], model)
        values = _judged(sheet._replace(test=test), hidden, filled, draws, seed)
        counts = {"num_data": len(test), "num_train": len(sheet.train)}
        counts |= {"hidden": int(hidden.sum()), "num_samples": SAMPLES}
        return cls({**counts, "without": without, "warnings": warning, **values})

    def line(self) -> str:
        parts = []
        for name, word in MEASURES.items():
            if (found := self["whole"].get(name)) is not None:
                beside = ", ".join(
                    f"{METHODS[m]} {_plain(found[m])}" for m in METHODS if m in found
                )
                parts.append(f"{_unit(name, word)}: {beside}")
        inside = _plain(self["coverage"])
        return f"gaps filled in, {'; '.join(parts)}; 90 % intervals hold {inside} of the truth"

    def tables(self) -> list[Table]:
        methods = [
            m for m in METHODS if any(m in found for found in self["whole"].values() if found)
        ]
        lines = []
        for name, word in MEASURES.items():
            if (found := self["whole"].get(name)) is not None:
                title = f"{_unit(name, word)}, mean of {number(found['columns'])} columns"
                lines.append((title, 0, [plus_minus(found.get(m)) for m in methods]))
        heads = [METHODS[m] for m in methods]
        tables = [Table(self.title, ["all columns", *heads], lines)]
        each = []
        for found in self["columns"]:
            cells = [found["measure"], *(plus_minus(found.get(m)) for m in methods)]
            cells += [plus_minus(found["coverage"]), number(found["hidden"])]
            each.append((found["name"], 0, cells))
        if len(each) > 1:
            titles = ["column", "measure", *heads, "90 % interval holds", "hidden"]
            tables.append(Table("Gaps filled in, column by column", titles, each))
        return tables

    def text(self) -> list[str]:
        return [
            f"Of {number(self['num_data'])} held-out {self.noun}s, {number(self['hidden'])} "
            f"observed entries (a tenth) were hidden and filled in, by the model and by simple "
            f"methods that learnt from the same {number(self['num_train'])} training "
            f"{self.noun}s. The intervals of 90 % hold {plus_minus(self['coverage'])} of the "
            f"hidden values."
        ]

    def small(self) -> list[str]:
        lines = [
            "RMSE is in the units of the column; of all columns together each counts in its "
            "standard deviations. The errors are a bootstrap over the rows. Equal values share "
            "their ranks, so that 0.9 is right for columns of every kind."
        ]
        for method, why in self["without"].items():
            lines.append(f"{METHODS[method].capitalize()} are not here: {why}.")
        return lines


def _unit(measure: str, word: str) -> str:
    if measure == "number":
        return f"{word} in standard deviations"
    return word


def _plain(found: Mapping[str, Any]) -> str:
    return plus_minus(found).replace("\N{NO-BREAK SPACE}", " ")


def _rows(scene: Scene) -> int:
    """Returns how many held-out rows the time is enough for."""
    rows = len(scene.x)
    if isinstance(scene.model, ExactModel):
        return min(rows, affordable(scene, DRAWS, SHARE))
    return min(rows, affordable(scene, FILLING * SAMPLES, SHARE))


def _by_model(scene: Scene, sheet: Sheet, hidden: Array, seed: int) -> tuple[Array, Array]:
    """Returns what the model fills in, (n, C), and its draws, (99, n, C), of the first n rows.

    Rows whose weights are uneven get their second attempt, as in ``taut impute``; n is how many
    rows there is time for.
    """
    x = scene.x[: len(hidden)].to(torch.get_default_dtype()).cpu().clone()
    flat = x.flatten(1)
    rows, columns = np.nonzero(hidden)
    flat[torch.from_numpy(rows), torch.from_numpy(sheet.places[columns])] = torch.nan
    try:
        found = _filled(scene, x, False, seed)
        again = (~found.reliable & torch.from_numpy(hidden.any(1))).nonzero()[:, 0]
        afforded = max(1, affordable(scene, AGAIN, SHARE))
        if len(again) > afforded:
            first = max(FEWEST, int(again[afforded]))
            parts = (found.ess[:first], found.reliable[:first])
            found = Imputed(found.values[:first], found.draws[:, :first], *parts)
            again = again[again < first]
        if len(again):
            better = _filled(scene, x[again], True, derive(seed, "again"))
            found.values[again], found.draws[:, again] = better.values, better.draws
    except NotImplementedError as why:  # a likelihood without a mean
        raise UnmeasuredError(why) from None
    values, draws = (
        part.flatten(-x.dim() + 1)[..., torch.from_numpy(sheet.places)].cpu().double().numpy()
        for part in (found.values, found.draws)
    )
    return values, draws


def _filled(scene: Scene, x: Tensor, improve: bool, seed: int) -> Imputed:
    """Returns rows with their gaps filled in by the model."""
    options: dict[str, Any] = {"num_imputations": DRAWS, "improve": improve, "seed": seed}
    return impute(scene.model, x, SAMPLES, **options)


def _judged(
    sheet: Sheet, hidden: Array, filled: Mapping[str, Array], draws: Array, seed: int
) -> dict[str, Any]:
    """Returns how good each method is, column by column and on the whole."""
    truth, asked = sheet.test, hidden.astype(float)
    methods = [m for m in METHODS if m in filled]
    losses = np.stack([np.where(hidden, _loss(sheet, truth, filled[m]), 0.0) for m in methods])
    kinds = np.where(sheet.nominal, np.where(sheet.ordered, "ordered", "level"), "number")
    inside = np.zeros_like(truth)
    for i in np.flatnonzero(hidden.any(0)):
        gap = hidden[:, i]
        inside[gap, i] = covered(truth[gap, i], draws[:, gap, i], kinds[i] == "level")

    def each(counts: Array) -> Array:
        """Returns each method's measure of each column, and the coverage, (R, methods + 1, C)."""
        number = counts @ asked
        mean = np.stack([counts @ loss / number for loss in losses], 1)
        measure = np.where(kinds == "number", np.sqrt(mean), mean)
        measure = np.where(kinds == "level", 1 - mean, measure)
        return np.concatenate([measure, (counts @ inside / number)[:, None]], 1)

    def whole(counts: Array) -> Array:
        """Returns the means over the columns of each kind and over all coverage, (R, 3, ...)."""
        found = each(counts)
        found[:, :-1] /= np.where(kinds == "number", sheet.spread, 1.0)
        means = [np.nanmean(found[:, :, kinds == kind], 2) for kind in MEASURES]
        total = (counts * inside.sum(1)).sum(1) / (counts * asked.sum(1)).sum(1)
        means[0] = np.where(np.arange(len(methods) + 1) == len(methods), total[:, None], means[0])
        return np.stack(means, 1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a kind that no column is
        value, error = by_bootstrap(each, len(truth), seed)
        mean, off = by_bootstrap(whole, len(truth), seed)
    alike = np.isin(kinds, ["level"])[None] | (np.arange(len(value)) == len(methods))[:, None]
    error = np.where(alike, error_of_share(value, asked.sum(0), error), error)
    columns = []
    for i in np.flatnonzero(hidden.any(0))[:LISTED]:
        found = {m: estimate(value[j, i], error[j, i]) for j, m in enumerate(methods)}
        facts = {
            "name": sheet.names[i],
            "measure": MEASURES[str(kinds[i])],
            "hidden": int(asked[:, i].sum()),
            "spread": float(sheet.spread[i]),
            "coverage": estimate(value[-1, i], error[-1, i]),
        }
        columns.append(facts | found)
    total: dict[str, Any] = {}
    for place, kind in enumerate(MEASURES):
        if count := int((hidden.any(0) & (kinds == kind)).sum()):
            found = {m: estimate(mean[place, j], off[place, j]) for j, m in enumerate(methods)}
            total[kind] = {**found, "columns": count}
    return {"columns": columns, "whole": total, "coverage": estimate(mean[0, -1], off[0, -1])}
