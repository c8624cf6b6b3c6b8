r"""Whether rows that the model makes can stand for real ones, and whether they give real ones away.

N rows of the model are compared with N rows that were held out, beside as many whose columns are
drawn independently from the training rows, and training rows themselves: what a perfect model
comes to.

* *Told apart*: the area under the curve of boosted trees, five-fold cross-validated; 1/2 is not at
  all.
* *Columns* and *pairs*: half the sum of $|p - p'|$ over the levels of a column, or of two; the
  largest difference of the distribution functions of a number. Of pairs a number is in ten bins of
  equal counts. For finite N neither is zero: the training rows show what is left.
* *Nearer*: the probability that a made row is nearer to its nearest training row than a held-out
  row is. Above 1/2 rows are copied.
* *Membership*: who has the made rows, or the model, tells rows of the training from held-out ones
  by their distance to the nearest made row, or by $\log p(x)$; the area under the curve, 1/2 is not
  at all.

The errors of areas are those of both sides (DeLong), the others a bootstrap over held-out rows.

References: lopezpaz2017, delong1988, meehan2020, shokri2017, efron1979.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from taut.evidence.samples import area
from taut.evidence.section import Scene, Section, Table
from taut.evidence.task_data import (
    Array,
    Sheet,
    affordable,
    by_bootstrap,
    estimate,
    log_p,
    sheet_of,
    too_few,
    work_of,
)
from taut.evidence.text import number, plus_minus
from taut.models.exact import ExactModel
from taut.system.records import COUNT, ESTIMATE
from taut.system.seeds import derive
from taut.use import tasks

__all__ = ["SyntheticRows", "distances", "independent_rows", "told_apart"]

ROWS, SAMPLES = 1000, 100  # N, and K of log p(x)
MADE, KNOWN = 4000, 4000  # rows that membership is told by, and training rows that are searched
FEWEST, FOLDS = 50, 5
BINS, PAIRS, LEVELS = 10, 100, 254  # of a number; of columns, at most; that boosted trees take
SHARE, PER_CELL = 0.2, 5e-6  # of the seconds of all tasks, and those of a cell in boosted trees
SIDES = {"model": "the model", "independent": "independent columns", "train": "training rows"}
STATISTICS = {
    "told_apart": "told apart by boosted trees (one half: not at all)",
    "columns": "distance of the columns",
    "pairs": "distance of pairs of columns",
    "nearer": "nearer to training rows than held-out rows are (one half: as near)",
    "member": "membership by the nearest made row (one half: none)",
    "member_log_p": "membership by log p(x) (one half: none)",
}


def told_apart(sheet: Sheet, made: Array, real: Array, seed: int) -> dict[str, float | None]:
    """Returns the area under the curve of boosted trees that tell made rows from real ones.

    Their settings are not scikit-learn's own, which do worse with more rows of rare levels.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    few = np.array([len(np.unique(column)) <= LEVELS for column in sheet.train.T])
    trees = HistGradientBoostingClassifier(
        learning_rate=0.05,
        l2_regularization=1.0,
        early_stopping=True,
        categorical_features=sheet.nominal & few,
        random_state=seed,
    )
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    label = np.repeat([1, 0], [len(made), len(real)])
    rows = np.concatenate([made, real])
    chance = cross_val_predict(trees, rows, label, cv=folds, method="predict_proba")[:, 1]
    return area(
        torch.from_numpy(chance[label == 1]), torch.from_numpy(chance[label == 0])
    ).to_dict()


def independent_rows(train: Array, count: int, seed: int) -> Array:
    """Returns rows whose columns are drawn independently of each other, gaps among them."""
    rng = np.random.default_rng(seed)
    place = rng.integers(len(train), size=(count, train.shape[1]))
    return np.take_along_axis(train, place, 0)


def distances(sheet: Sheet, made: Array, real: Array, seed: int) -> dict[str, Any]:
    """Returns the mean distance of columns, and of pairs of them, between made and real rows."""
    binned = [_binned(sheet, rows) for rows in (made, real)]
    pairs = list(combinations(range(made.shape[1]), 2))
    rng = np.random.default_rng(seed)
    chosen = [pairs[i] for i in rng.permutation(len(pairs))[:PAIRS]]

    def columns(counts: Array) -> Array:
        each = []
        for i in range(made.shape[1]):
            if sheet.nominal[i]:
                each.append(_variation(binned[0][:, i], binned[1][:, i], counts))
            else:
                each.append(_largest(made[:, i], real[:, i], counts))
        return np.nanmean(each, 0)

    def joint(counts: Array) -> Array:
        width = max(int(part.max()) for part in binned) + 1
        both = ([part[:, i] * width + part[:, j] for part in binned] for i, j in chosen)
        return np.mean([_variation(one, other, counts) for one, other in both], 0)

    found = {"columns": estimate(*map(float, by_bootstrap(columns, len(real), seed)))}
    if chosen:
        found["pairs"] = estimate(*map(float, by_bootstrap(joint, len(real), seed)))
    return found


def _binned(sheet: Sheet, rows: Array) -> Array:
    """Returns the level of each entry, or which tenth of the training rows a number lies in, or a
    level of their own for gaps, (N, C).
    """
    codes = np.empty(rows.shape, int)
    for i, column in enumerate(rows.T):
        known = sheet.train[~np.isnan(sheet.train[:, i]), i]
        edges = np.unique(known)
        if not sheet.nominal[i]:
            edges = np.unique(np.quantile(known, np.arange(1, BINS) / BINS))
        codes[:, i] = np.searchsorted(edges, column)
        codes[np.isnan(column), i] = len(edges) + 1
    return codes


def _variation(made: Array, real: Array, counts: Array) -> Array:
    """Returns the total variation between codes of made and of real rows, each real row counted so
    often, (R,).
    """
    codes, place = np.unique(np.concatenate([made, real]), return_inverse=True)
    hot = np.eye(len(codes))[place]
    shares = counts @ hot[len(made) :] / counts.sum(1, keepdims=True)
    return np.abs(shares - hot[: len(made)].mean(0)).sum(1) / 2


def _largest(made: Array, real: Array, counts: Array) -> Array:
    """Returns the largest difference of two distribution functions, (R,); NaN without numbers."""
    made, there = np.sort(made[~np.isnan(made)]), ~np.isnan(real)
    if not len(made) or not there.any():
        return np.full(len(counts), np.nan)
    real, counts = real[there], counts[:, there]
    points = np.unique(np.concatenate([made, real]))
    below = np.searchsorted(made, points, side="right") / len(made)
    order = np.argsort(real)
    summed = np.concatenate([np.zeros((len(counts), 1)), counts[:, order].cumsum(1)], 1)
    reached = summed[:, np.searchsorted(real[order], points, side="right")] / summed[:, -1:]
    return np.abs(reached - below).max(1)


class SyntheticRows(Section):
    """Rows that the model makes, beside real ones."""

    name, title, chapter = "task_synthetic", "Synthetic rows", "tasks"
    order, stage, share = 88, "synthetic rows", 0.01
    needs = ("train", "columns", "simulation")
    told = False
    references = ("lopezpaz2017", "delong1988", "meehan2020", "shokri2017", "efron1979")
    shape: ClassVar = {
        "num_data": COUNT,
        "num_train": COUNT,
        "num_made": COUNT,
        "statistics": {f"{name}?": {f"{side}?": ESTIMATE for side in SIDES} for name in STATISTICS},
    }

    @classmethod
    def lacks(cls, scene: Scene) -> str | None:
        if (why := super().lacks(scene)) is not None:
            return why
        if few := too_few(scene, FEWEST):
            return few
        assert scene.columns is not None
        needed = _seconds(FEWEST, len(scene.columns.names)) / SHARE
        if needed > scene.effort.task_seconds:
            return (
                f"it takes more time than the tasks may ({scene.effort.task_seconds:.3g} CPU s): "
                f"allow it with --task-seconds {int(needed) + 1}"
            )
        return None

    @classmethod
    def work(cls, scene: Scene) -> float:
        return work_of(scene, SHARE)

    @classmethod
    def run(cls, scene: Scene) -> Section:
        seed = derive(scene.seed, "task synthetic") % 2**32
        assert scene.columns is not None
        rows = min(ROWS, len(scene.x))
        while _seconds(rows, len(scene.columns.names)) > SHARE * scene.effort.task_seconds:
            rows //= 2
        sheet = sheet_of(scene, max(rows, FEWEST))
        train = sheet.train
        half = min(len(sheet.test), len(train) // 2)
        real = sheet.test[:half]  # as many on each side: what few rows differ by is then the same
        sheet, known = sheet._replace(train=train[half:]), train[half:][:KNOWN]
        made = {
            "model": _made(scene, sheet, max(MADE, len(real)), seed),
            "independent": independent_rows(train, max(MADE, len(real)), seed),
            "train": train[:half],
        }
        near = _to_nearest(sheet, known)
        own = train[: len(real)]
        statistics: dict[str, dict[str, Any]] = {name: {} for name in STATISTICS}
        for side, whole in made.items():
            some = whole[: len(real)]
            statistics["told_apart"][side] = told_apart(sheet, some, real, seed)
            for name, found in distances(sheet, some, real, seed).items():
                statistics[name][side] = found
            statistics["nearer"][side] = area(-near(some), -near(real)).to_dict()
            if side != "train":
                back = _to_nearest(sheet, whole)
                statistics["member"][side] = area(-back(own), -back(real)).to_dict()
        if (both := _log_p(scene, len(real), seed)) is not None:
            statistics["member_log_p"]["model"] = area(*both).to_dict()
        counts = {"num_data": len(real), "num_train": len(train), "num_made": len(made["model"])}
        return cls({**counts, "statistics": {n: found for n, found in statistics.items() if found}})

    def line(self) -> str:
        apart = self["statistics"].get("told_apart") or {}
        beside = ", ".join(f"{SIDES[s]} {plus_minus(apart[s])}" for s in SIDES if s in apart)
        text = f"synthetic rows told apart by boosted trees (0.5: not at all): {beside}"
        return text.replace("\N{NO-BREAK SPACE}", " ")

    def tables(self) -> list[Table]:
        lines = []
        for name, found in self["statistics"].items():
            if not found:
                continue
            cells = [plus_minus(found[side]) if side in found else "–" for side in SIDES]
            lines.append((STATISTICS[name], 0, cells))
        return [Table(self.title, ["statistic", *SIDES.values()], lines)]

    def text(self) -> list[str]:
        return [
            f"{number(self['num_data'])} {self.noun}s that the model makes and as many that were "
            f"held out. Training {self.noun}s in their place are what a perfect model comes to: "
            f"with so few, no distance is zero."
        ]

    def small(self) -> list[str]:
        return [
            f"Membership: whether training {self.noun}s are nearer to one of "
            f"{number(self['num_made'])} made ones, or more probable, than held-out {self.noun}s."
        ]


def _seconds(rows: int, columns: int) -> float:
    """Returns about how many CPU seconds boosted trees take for all sides."""
    return len(SIDES) * FOLDS * (0.1 + PER_CELL * 2 * rows * columns)


def _made(scene: Scene, sheet: Sheet, count: int, seed: int) -> Array:
    """Returns rows of the model, with the gaps of training rows."""
    made = tasks.sample(scene.model, count, seed=seed).flatten(1)[:, torch.from_numpy(sheet.places)]
    rows = made.cpu().double().numpy()
    rng = np.random.default_rng(seed)
    gaps = np.isnan(sheet.train[rng.integers(len(sheet.train), size=count)])
    return np.where(gaps, np.nan, rows)


def _to_nearest(sheet: Sheet, known: Array) -> Callable[[Array], Tensor]:
    """Returns a function that gives the distance of rows to the nearest known one, (N,)."""
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=1).fit(np.nan_to_num(sheet.features(known)[0]))

    def distance(rows: Array) -> Tensor:
        found, _ = near.kneighbors(np.nan_to_num(sheet.features(rows)[0]))
        return torch.from_numpy(found[:, 0])

    return distance


def _log_p(scene: Scene, rows: int, seed: int) -> tuple[Tensor, Tensor] | None:
    """Returns log p(x) of training rows and of held-out ones, (N,) each, if there is time."""
    assert scene.train is not None
    each = float(SAMPLES)
    if isinstance(scene.model, ExactModel):
        each = 1.0
    if affordable(scene, each, SHARE / 3) < 2 * rows:
        return None
    train, test = (log_p(scene.model, x[:rows], SAMPLES, seed) for x in (scene.train, scene.x))
    return train, test
