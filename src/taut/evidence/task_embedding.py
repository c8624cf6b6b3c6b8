r"""What the embedding knows of labels that the model never saw.

A held-out row gets the most frequent label among the 15 nearest training rows, by the embedding of
the encoder; beside it by as many principal components, by the rows themselves, and the most
frequent label of all. Numbers are in standard deviations and levels one-hot, counts as
$\log(1 + x)$, for all but the model. The error of a share is binomial, that of the difference of
two is over the same rows.

References: cover1967.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

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
from taut.system.errors import UsageError
from taut.system.records import COUNT, ESTIMATE
from taut.system.seeds import derive
from taut.use import tasks

__all__ = ["Embedding", "labels_of_neighbours"]

NEAREST, KNOWN = 15, 4000  # neighbours, and training rows among which they are
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
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=min(NEAREST, len(train))).fit(train)
    votes = np.eye(int(labels.max()) + 1)[labels[near.kneighbors(test, return_distance=False)]]
    return votes.sum(1).argmax(1)


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
        guessed = {
            "model": labels_of_neighbours(embedded[0], train, embedded[1]),
            "components": labels_of_neighbours(
                components.transform(rows[0]), train, components.transform(rows[1])
            ),
            "rows": labels_of_neighbours(rows[0], train, rows[1]),
            "most": np.full(len(test), np.bincount(train).argmax()),
        }
        right = {method: (guess == test).astype(float) for method, guess in guessed.items()}
        gain = right["model"] - right["components"]
        values: dict[str, Any] = {"num_data": len(test), "num_train": len(train), "size": size}
        values |= {"neighbours": NEAREST, "labels": len(names)}
        values["right"] = {method: _share(each) for method, each in right.items()}
        error = float(gain.std(ddof=1) / np.sqrt(len(gain)))
        return cls({**values, "gain": estimate(float(gain.mean()), error)})

    def line(self) -> str:
        beside = ", ".join(f"{METHODS[m]} {plus_minus(self['right'][m])}" for m in METHODS)
        text = f"labels by {self['neighbours']} neighbours, share right: {beside}"
        return text.replace("\N{NO-BREAK SPACE}", " ")

    def tables(self) -> list[Table]:
        each = [(title, plus_minus(self["right"][m])) for m, title in METHODS.items()]
        lines = [(title, 0, [cell]) for title, cell in each]
        lines.append(("the model's less that of the components", 0, [plus_minus(self["gain"])]))
        return [Table(self.title, ["neighbours by", "share of labels that are right"], lines)]

    def text(self) -> list[str]:
        return [
            f"The {number(self['labels'])} labels of {number(self['num_data'])} held-out "
            f"{self.noun}s by the {number(self['neighbours'])} nearest of "
            f"{number(self['num_train'])} training {self.noun}s. No method learnt from labels. "
            f"There are {number(self['size'])} components."
        ]


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
