r"""What the sections on tasks share: rows as numbers, simple methods, errors, and what they cost.

A task is judged in its own units on rows that were held out, beside simple methods that see the
same training rows. Its errors are by the bootstrap over those rows: a statistic of sums over rows
is computed again with each row counted $w_i$ times, $w$ multinomial, and its error is the scatter.

References: efron1979.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from taut.data.tables.kinds import KINDS
from taut.evidence.importance import WHOLE, importance
from taut.evidence.section import Scene
from taut.features import Split, Totals
from taut.model import Model
from taut.models.exact import ExactModel
from taut.models.stepwise import StepwiseModel
from taut.system.seeds import derive
from taut.use.blocks import Block, blocks_of

__all__ = [
    "Array",
    "Sheet",
    "affordable",
    "by_bootstrap",
    "error_of_share",
    "estimate",
    "given_totals",
    "log_p",
    "rows_of_forests",
    "sheet_of",
    "too_expensive",
    "too_few",
    "work_of",
]

Array = np.ndarray
RESAMPLES = 200  # of the bootstrap: errors within 5 %
# CPU s of an evaluation of p(x, z) for each weight and each value, and of a node of a forest
PER_WEIGHT, PER_ELEMENT, PER_NODE = 3e-11, 3e-8, 1e-6
REAL = "real"
BLOCK = 256


class Sheet(NamedTuple):
    """Rows of columns as numbers; NaN where missing.

    Args:
        names: Of the columns, (C,).
        kinds: The word of each column's kind, (C,).
        nominal: Whether a column holds levels, (C,).
        ordered: Whether these have an order, (C,).
        train: Training rows, (M, C).
        test: Rows held out, (N, C).
        places: Where the columns stand in a whole row, (C,).
    """

    names: Sequence[str]
    kinds: Sequence[str]
    nominal: Array
    ordered: Array
    train: Array
    test: Array
    places: Array

    @property
    def spread(self) -> Array:
        """Standard deviation of each column in the training rows, (C,); 1 where it is zero."""
        spread = np.nanstd(self.train, 0)
        return np.where(spread > 0, spread, 1.0)

    def features(self, rows: Array) -> tuple[Array, Array]:
        """Returns numbers in which distances mean something, (N, F), and their columns, (F,).

        Numbers are in standard deviations of the training rows. Levels are one-hot, so that two
        levels that differ are 1 apart. What is missing is NaN.
        """
        parts, owner = [], []
        centre, spread = np.nanmean(self.train, 0), self.spread
        for i in range(rows.shape[1]):
            column = rows[:, i]
            if self.nominal[i]:
                levels = np.unique(self.train[~np.isnan(self.train[:, i]), i])
                part = (column[:, None] == levels) / np.sqrt(2.0)
                part[np.isnan(column)] = np.nan
            else:
                part = ((column - centre[i]) / spread[i])[:, None]
            parts.append(part)
            owner += [i] * part.shape[1]
        return np.concatenate(parts, 1), np.array(owner)


def sheet_of(scene: Scene, rows: int) -> Sheet:
    """Returns the first held-out rows of a scene, and the training rows, as numbers.

    Images are rows of pixels; pixels of two values are levels.
    """
    test, train = (_modelled(scene.model, x) for x in (scene.x[:rows], scene.train))
    keep = ~np.isnan(train).all(0)
    count, condition = test.shape[1], scene.model.condition
    places = np.arange(count)
    if isinstance(condition, Split):
        places = condition.rest.cpu().numpy()
    names: Sequence[str] = [f"element {i}" for i in range(count)]
    kinds = [REAL] * count
    if scene.columns is not None:
        names = scene.columns.names
        kinds = list(scene.columns.kinds or kinds)
    elif scene.levels is not None and np.isin(train, scene.levels).all():
        kinds = ["binary"] * count
    chosen = np.flatnonzero(keep).tolist()
    kinds = [kinds[i] for i in chosen]
    nominal = np.array([KINDS[kind].nominal for kind in kinds], bool)
    ordered = np.array([KINDS[kind].ordered for kind in kinds], bool)
    names = [names[i] for i in chosen]
    return Sheet(names, kinds, nominal, ordered, train[:, keep], test[:, keep], places[keep])


def given_totals(model: Model) -> bool:
    """Returns whether a model is given the total of a row, which tells what is hidden in it."""
    condition = model.condition
    if isinstance(condition, Split):
        return condition.totals is not None
    return isinstance(condition, Totals)


def _modelled(model: Model, x: Tensor | None) -> Array:
    assert x is not None
    parts = [
        model.split(part.to(torch.get_default_dtype()))[0].flatten(1) for part in x.split(4096)
    ]
    return torch.cat(parts).cpu().double().numpy()


def by_bootstrap(statistic: Callable[[Array], Array], rows: int, seed: int) -> tuple[Array, Array]:
    """Returns a statistic of rows and its standard error by the bootstrap.

    Args:
        statistic: Takes how often each row counts, (R, N), and returns (R, ...).
        rows: N.
        seed: The same seed gives the same error.
    """
    rng = np.random.default_rng(derive(seed, "bootstrap"))
    counts = rng.multinomial(rows, np.full(rows, 1 / rows), RESAMPLES).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = statistic(np.ones((1, rows)))[0]
        resampled = statistic(counts)
    return np.asarray(value), np.asarray(np.nanstd(resampled, 0, ddof=1))


def estimate(value: float, error: float | None) -> dict[str, float | None]:
    """Returns a number and its error for new rows as plain values."""
    if error is not None and error < 1e-9 * abs(value):
        error = 0.0  # rounding
    known = [None if v is None or not np.isfinite(v) else float(v) for v in (value, error)]
    return {"value": known[0], "mc_error": None, "test_error": known[1]}


def error_of_share(share: Any, count: Any, error: Any) -> Any:
    """Returns the error of a share: by the bootstrap, or where all cases are alike by the rule that
    one of each kind more was seen, since no resample differs then; of numbers, or arrays of them.
    """
    likely = (np.clip(share, 0, 1) * count + 1) / (count + 2)
    return np.where(error > 1e-9, error, np.sqrt(likely * (1 - likely) / (count + 2)))


def affordable(scene: Scene, evaluations: float, share: float) -> int:
    """Returns how many rows an allowance of CPU time is enough for.

    By the size of the model and not by the clock: the same seed gives the same rows anywhere.

    Args:
        scene: Its effort says how many seconds the tasks may take.
        evaluations: Evaluations of p(x, z) that a row takes.
        share: Of the seconds.
    """
    seconds = scene.effort.task_seconds * share
    return int(seconds / (evaluations * seconds_of_evaluation(scene.model, scene.x)))


def work_of(scene: Scene, share: float) -> float:
    """Returns the evaluations of p(x, z) that take a share of the seconds: the work of a stage."""
    return scene.effort.task_seconds * share / seconds_of_evaluation(scene.model, scene.x)


def seconds_of_evaluation(model: Model, x: Tensor) -> float:
    """Returns about how many CPU seconds an evaluation of p(x, z) takes."""
    weights = sum(p.numel() for p in model.parameters())
    if isinstance(model, ExactModel):
        weights += sum(b.numel() for b in model.buffers())
    if isinstance(model, StepwiseModel):
        weights *= 1 + WHOLE
    return PER_WEIGHT * weights + PER_ELEMENT * x[:1].numel()


def too_few(scene: Scene, fewest: int) -> str:
    """Returns that there are too few rows, held out or of training; nothing where there are not."""
    assert scene.train is not None
    if min(len(scene.x), len(scene.train)) < fewest:
        return f"it takes {fewest} rows held out and as many of training"
    return ""


def too_expensive(scene: Scene, evaluations: float, share: float) -> str:
    """Returns that a section takes more than its share of the seconds, and how to allow it."""
    needed = evaluations * seconds_of_evaluation(scene.model, scene.x) / share
    allowed = scene.effort.task_seconds
    return (
        f"it takes more time than the tasks may ({allowed:.3g} CPU s): allow it with "
        f"--task-seconds {math.ceil(needed)}"
    )


def log_p(model: Model, x: Tensor, samples: int, seed: int) -> Tensor:
    """Returns log p(x), (N,), float64, by the encoder's posterior where it is not exact; a row
    without a number has minus infinity.
    """
    if isinstance(model, ExactModel):
        exact = model

        def known(block: Block) -> Tensor:
            return exact.log_prob(block.x).double().cpu()

        found = torch.cat(list(blocks_of(model, x, BLOCK, known)))
    else:
        found = importance(model, x, samples, seed=seed).log_evidence.cpu().double()
    return found.nan_to_num(-torch.inf, torch.inf, -torch.inf)


def rows_of_forests(sheet: Sheet, seconds: float, most: int) -> int:
    """Returns on how many training rows a forest of 50 trees for each column can be grown in a
    time, at most so many.
    """
    width = sheet.features(sheet.train[:1])[0].shape[1] * len(sheet.names)
    rows = min(most, len(sheet.train))
    while rows > 1 and PER_NODE * width * rows * math.log2(rows) > seconds:
        rows //= 2
    return rows
