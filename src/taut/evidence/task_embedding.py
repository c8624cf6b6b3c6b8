r"""What the embedding knows of labels that the model never saw.

A held-out row gets the most frequent label among the 15 nearest training rows, by the embedding of
the encoder; beside it by as many principal components, by the rows themselves, and the most
frequent label of all. Numbers are in standard deviations and levels one-hot, counts as
$\log(1 + x)$, for all but the model. The error of a share is binomial, that of the difference of
two is over the same rows.

Where the model is conditioned on levels, such as the batch of a cell, the *mixing* of these batches
is measured with the same neighbours: the share of them that are of another batch than the row, over
that share among all training rows of the row's label. It is 1 where neighbours of one label are of
any batch, and 0 where they are of the row's own alone.

References: cover1967.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from taut.evidence.section import Scene, Section, Table, UnmeasuredError
from taut.evidence.task_data import (
    Array,
    affordable,
    error_of_share,
    estimate,
    sheet_of,
    too_few,
    work_of,
)
from taut.evidence.text import number, plus_minus
from taut.features import Split
from taut.system.errors import UsageError
from taut.system.records import COUNT, ESTIMATE
from taut.system.seeds import derive
from taut.use import tasks

__all__ = ["Embedding", "labels_of_neighbours", "mixing"]

NEAREST, KNOWN = 15, 4000  # neighbours, and training rows among which they are
MOST_BATCHES = 50
FEWEST, SHARE = 20, 0.1  # rows, and share of the seconds of all tasks
METHODS = {
    "model": "the model's embedding",
    "components": "as many principal components",
    "rows": "the rows themselves",
    "most": "the most frequent label",
}


def labels_of_neighbours(train: Array, labels: Array, test: Array) -> Array:
    """Returns the most frequent label among the 15 nearest training rows, (N,).

    Args:
        train: Training rows, (M, F).
        labels: Their labels as numbers from 0, (M,).
        test: Rows, (N, F).
    """
    votes = np.eye(int(labels.max()) + 1)[labels[_nearest(train, test)]]
    return votes.sum(1).argmax(1)


def _nearest(train: Array, test: Array) -> Array:
    """Returns the 15 nearest training rows of each row, (N, 15)."""
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=min(NEAREST, len(train))).fit(train)
    found: Array = near.kneighbors(test, return_distance=False)
    return found


def mixing(
    train: Array, test: Array, batches: tuple[Array, Array], labels: tuple[Array, Array]
) -> dict[str, float | None]:
    """Returns how well batches are mixed among the neighbours of rows, 1 at best, with its error.

    Args:
        train: Training rows, (M, F).
        test: Rows, (N, F).
        batches: The batch of each training row, (M,), and of each row, (N,).
        labels: Their labels, likewise.
    """
    other = batches[0] != batches[1][:, None]
    alike = labels[0] == labels[1][:, None]
    known = (other & alike).any(1)  # else the label is of one batch alone
    if not known.any():
        return estimate(np.nan, None)
    found = np.take_along_axis(other, _nearest(train, test), 1).mean(1)[known]
    best = ((other & alike).sum(1)[known]) / alike.sum(1)[known]
    value = found.mean() / best.mean()
    error = (found - value * best).std(ddof=1) / (np.sqrt(len(found)) * best.mean())
    return estimate(float(value), float(error))


class Embedding(Section):
    """Labels of held-out rows by their neighbours in the embedding."""

    name, title, chapter = "task_embedding", "Labels by the embedding", "tasks"
    order, stage, share = 89, "labels by the embedding", 0.01
    needs = ("train", "labels")
    told = False
    references = ("cover1967",)
    shape: ClassVar = {
        "num_data": COUNT,
        "num_train": COUNT,
        "neighbours": COUNT,
        "labels": COUNT,
        "size": COUNT,
        "right": dict.fromkeys(METHODS, ESTIMATE),
        "gain": ESTIMATE,
        "mixing?": {"batches": COUNT, **dict.fromkeys(("model", "components", "rows"), ESTIMATE)},
    }

    @classmethod
    def lacks(cls, scene: Scene) -> str | None:
        if (why := super().lacks(scene)) is not None:
            return why
        if few := too_few(scene, FEWEST):
            return few
        return None

    @classmethod
    def work(cls, scene: Scene) -> float:
        return work_of(scene, SHARE)

    @classmethod
    def run(cls, scene: Scene) -> Section:
        assert scene.labels is not None
        assert scene.train is not None
        known = min(KNOWN, len(scene.train), max(FEWEST, affordable(scene, 2.0, SHARE)))
        of_train, of_test = (np.asarray(each).astype(str) for each in scene.labels)
        pair = [of_train[:known], of_test[: len(scene.x)]]
        names, codes = np.unique(np.concatenate(pair), return_inverse=True)
        train, test = codes[:known], codes[known:]
        seed = derive(scene.seed, "task embedding") % 2**32
        try:
            embedded = [
                tasks.encode(scene.model, x, seed=seed).flatten(1).double().numpy()
                for x in (scene.train[:known], scene.x)
            ]
        except UsageError as why:  # a posterior without a mean
            raise UnmeasuredError(why) from None
        rows = _rows(scene, known)
        size = min(embedded[0].shape[1], *rows[0].shape)
        from sklearn.decomposition import PCA

        components = PCA(size, random_state=seed).fit(rows[0])
        seen = {
            "model": embedded,
            "components": [components.transform(part) for part in rows],
            "rows": list(rows),
        }
        guessed = {name: labels_of_neighbours(a, train, b) for name, (a, b) in seen.items()}
        guessed["most"] = np.full(len(test), np.bincount(train).argmax())
        right = {method: (guess == test).astype(float) for method, guess in guessed.items()}
        gain = right["model"] - right["components"]
        values: dict[str, Any] = {"num_data": len(test), "num_train": len(train), "size": size}
        values |= {"neighbours": NEAREST, "labels": len(names)}
        values["right"] = {method: _share(each) for method, each in right.items()}
        error = float(gain.std(ddof=1) / np.sqrt(len(gain)))
        if (batches := _batches(scene, known)) is not None:
            values["mixing"] = {"batches": len(np.unique(np.concatenate(batches)))}
            for name, (a, b) in seen.items():
                values["mixing"][name] = mixing(a, b, batches, (train, test))
        return cls({**values, "gain": estimate(float(gain.mean()), error)})

    def line(self) -> str:
        beside = ", ".join(f"{METHODS[m]} {plus_minus(self['right'][m])}" for m in METHODS)
        text = f"labels by {self['neighbours']} neighbours, share right: {beside}"
        return text.replace("\N{NO-BREAK SPACE}", " ")

    def tables(self) -> list[Table]:
        each = [(title, plus_minus(self["right"][m])) for m, title in METHODS.items()]
        lines = [(title, 0, [cell]) for title, cell in each]
        lines.append(("the model's less that of the components", 0, [plus_minus(self["gain"])]))
        tables = [Table(self.title, ["neighbours by", "share of labels that are right"], lines)]
        if (found := self.get("mixing")) is not None:
            titles = [(METHODS[m], 0, [plus_minus(found[m])]) for m in METHODS if m in found]
            tables.append(
                Table("Mixing of batches", ["neighbours by", "mixing (1 at best)"], titles)
            )
        return tables

    def text(self) -> list[str]:
        return [
            f"The {number(self['labels'])} labels of {number(self['num_data'])} held-out "
            f"{self.noun}s by the {number(self['neighbours'])} nearest of "
            f"{number(self['num_train'])} training {self.noun}s. No method learnt from labels. "
            f"There are {number(self['size'])} components."
        ]


def _batches(scene: Scene, known: int) -> tuple[Array, Array] | None:
    """Returns the batch of each training row and of each row: the levels that the model is
    conditioned on. None where it is not, or on numbers.
    """
    condition = scene.model.condition
    if not isinstance(condition, Split):
        return None
    assert scene.train is not None
    given = [part[:, condition.given.to(part.device)] for part in (scene.train[:known], scene.x)]
    whole = torch.cat([part.double().cpu() for part in given]).numpy()
    levels, codes = np.unique(whole, axis=0, return_inverse=True)
    if not 1 < len(levels) <= MOST_BATCHES:
        return None
    codes = codes.reshape(-1)
    return codes[:known], codes[known:]


def _rows(scene: Scene, known: int) -> tuple[Array, Array]:
    """Returns training rows and held-out ones as others see them, (M, F) and (N, F)."""
    sheet = sheet_of(scene, len(scene.x))
    parts = [sheet.train[:known], sheet.test]
    whole = [np.nan_to_num(part) for part in parts]
    if set(sheet.kinds) == {"count"}:
        return np.log1p(whole[0]), np.log1p(whole[1])
    if scene.levels is not None:
        return whole[0], whole[1]
    features = [np.nan_to_num(sheet.features(part)[0]) for part in parts]
    return features[0], features[1]


def _share(right: Array) -> dict[str, float | None]:
    share = float(right.mean())
    error = np.sqrt(share * (1 - share) / len(right))
    return estimate(share, float(error_of_share(right.mean(), len(right), error)))
