"""Which rows are odd? ROC AUC of -log p(x), beside a Gaussian mixture, isolation forest, ECOD,
neighbours and a one-class support vector machine.

    pip install -r benchmarks/peers/anomalies.txt
    python benchmarks/anomalies.py HIVAE.npz UCI.npz --json anomalies.json

A class that is never trained on stands for the anomalies. For each of three seeds, a random half of
the normal rows trains each method; the other half and the anomalies are scored (of each at most
``--max-rows``, at random). The label is no column. Tables:

* breast_cancer of sklearn: 30 real columns; malignant are the anomalies.
* breast of HIVAE.npz: nine ordinal columns with gaps; malignant.
* spam of HIVAE.npz: 57 columns, mostly zeros; spam.
* wine of HIVAE.npz: 12 columns; red wines, after white ones.
* yeast of UCI.npz: 8 columns; the classes of fewer than 60 rows (ERL, EXC, ME1, ME2, POX, VAC).
* banknote of UCI.npz: 4 columns; forged notes.
* cultivars, the wines of sklearn: 13 columns; the third cultivar.
* letter of HIVAE.npz: 16 columns; the letter Z.
* digits of sklearn: 64 pixels, 17 levels; one digit, after the nine others: 0, 1, 2 by the seed
  (``--digits``).

taut is ``taut.fit(table)`` with its defaults; -log p(x) is importance-weighted where it is not
exact. The others have the defaults of sklearn and of pyod (ECOD), neighbours the distance to the
tenth; the mixture has one to ten components with a full covariance, chosen by a tenth of the
training rows. They get gaps filled by the median of the training rows, and columns in units of
their deviation.

A mean over the seeds, and its standard error from their spread. A row that taut refuses (a value
outside what the training made possible) has log p(x) of minus infinity: the oddest of all; how many
there were is in the JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pyod.models.ecod import ECOD
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import OneClassSVM
from tables import Array, Job, Table, load, schema_file, show, to_arrow

import taut
from taut.runs.folder import new_data
from taut.system.errors import DataError

TABLES = [
    *("breast_cancer", "breast", "spam", "wine", "yeast", "banknote", "cultivars", "letter"),
    "digits",
]
METHODS = [
    *("taut, -log p(x)", "Gaussian mixture", "isolation forest", "ECOD", "neighbours"),
    "one-class SVM",
]


class Problem(NamedTuple):
    """Rows with their labels: a table or an array of images, and which rows are odd."""

    table: Table
    odd: Array
    image: bool = False


def problem_of(name: str, hivae: Path, uci: Path, digit: int) -> Problem:
    if name == "breast_cancer":
        found = load_breast_cancer()
        return Problem(numbers(name, found.data), found.target == 0)
    if name == "digits":
        found = load_digits()
        return Problem(numbers(name, found.data), found.target == digit, image=True)
    if name == "yeast":
        with np.load(uci) as file:
            values, labels = file["yeast"], file["yeast_labels"]
        return Problem(numbers(name, values), np.bincount(labels)[labels] < 60)
    if name == "banknote":
        with np.load(uci) as file:
            values = file["banknote"]
        return Problem(numbers(name, values[:, :-1]), values[:, -1] > 0)
    if name == "cultivars":
        found = load_wine()
        return Problem(numbers(name, found.data), found.target == 2)
    whole = load(hivae, name)
    if name == "letter":
        label = whole.values[:, 0]
        return Problem(
            Table(name, whole.values[:, 1:], whole.types[1:], whole.levels[1:]),
            label == label.max(),
        )
    label = whole.values[:, -1]
    odd = label == (2 if name == "breast" else 1)
    return Problem(Table(name, whole.values[:, :-1], whole.types[:-1], whole.levels[:-1]), odd)


def numbers(name: str, values: Array) -> Table:
    return Table(name, values, ["real"] * values.shape[1], [1] * values.shape[1])


def halves(odd: Array, max_rows: int, seed: int) -> tuple[Array, Array]:
    """Returns the normal rows to train on, and those to score, normal and odd."""
    rng = np.random.default_rng(seed)
    normal, anomalies = rng.permutation(np.flatnonzero(~odd)), rng.permutation(np.flatnonzero(odd))
    half = len(normal) // 2
    return normal[:half], np.concatenate([normal[half:][:max_rows], anomalies[:max_rows]])


def taut_scores(
    problem: Problem, train: Array, test: Array, seed: int, settings: Job
) -> tuple[Array, Job]:
    """Returns -log p(x) of the rows to score, and what is known of the run."""

    def source(rows: Array) -> Any:
        values = problem.table.values[rows]
        return (
            values.astype(np.uint8).reshape(-1, 8, 8)
            if problem.image
            else to_arrow(problem.table, values)
        )

    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        if not problem.image and "ordinal" in problem.table.types:
            settings = settings | {
                "schema": str(schema_file(problem.table, Path(folder) / "schema.toml"))
            }
        run = taut.fit(source(train), f"{folder}/run", seed=seed, **settings)
        evaluation, epochs = run.evaluation(), run.history()[-1]["epoch"]
    fitted, began = time.process_time() - began, time.process_time()
    try:
        refusals: list[str] = []
        new, taken = new_data(run, source(test)), np.full(len(test), True)
    except DataError:  # row by row, to know which
        refusals = [refusal(run, source(test[i : i + 1])) for i in range(len(test))]
        taken = np.array([not text for text in refusals])
        new = new_data(run, source(test[taken]))
    rows = new.rows[:]
    evidence = taut.importance(run.model, rows, seed=seed)
    scores = np.full(len(test), np.inf)
    scores[taken] = -evidence.log_evidence.numpy()
    told: Job = {
        "model": run.config.model.model,
        "fit_cpu_s": fitted,
        "log_p_cpu_s": time.process_time() - began,
        "epochs": epochs,
    }
    told |= {
        "notes": [*run.info["notes"], *new.notes],
        "refused": int((~taken).sum()),
        "refusals": sorted(set(refusals) - {""})[:5],
    }
    told |= {name: evaluation[name] for name in ("log_evidence", "baseline", "warnings")}
    told |= {"reliable_share": float(evidence.reliable.double().mean())}
    return scores, told


def refusal(run: taut.Run, source: Any) -> str:
    try:
        new_data(run, source)
    except DataError as error:
        return str(error)
    return ""


def classical(values: Array, train: Array, test: Array, seed: int) -> list[Array]:
    """Returns the scores of the methods after taut's, in their order."""
    x = values[train]
    x = np.where(np.isnan(values), np.nanmedian(x, 0), values)
    spread = x[train].std(0)
    x = (x - x[train].mean(0)) / np.where(spread > 0, spread, 1.0)
    known, new = x[train], x[test]
    held = len(known) // 10
    mixtures = [
        GaussianMixture(k, reg_covar=1e-3, random_state=seed).fit(known[held:])
        for k in range(1, 11)
        if k <= len(known) - held
    ]
    best = max(mixtures, key=lambda mixture: mixture.score(known[:held]))
    neighbours = NearestNeighbors(n_neighbors=10).fit(known)
    # pyod's ECOD ranks the rows to be scored among themselves and the known ones: of many odd rows
    # at a time each would make the others usual. One at a time it is the method of the paper.
    ecod = ECOD().fit(known)
    return [
        -best.score_samples(new),
        -IsolationForest(random_state=seed).fit(known).score_samples(new),
        np.concatenate([ecod.decision_function(row[None]) for row in new]),
        neighbours.kneighbors(new)[0][:, -1],
        -OneClassSVM().fit(known).score_samples(new),
    ]


def compare(problem: Problem, max_rows: int, seed: int, settings: Job) -> Job:
    train, test = halves(problem.odd, max_rows, seed)
    surprise, told = taut_scores(problem, train, test, seed, settings)
    scores = [surprise, *classical(problem.table.values, train, test, seed)]
    told |= {
        "train": len(train),
        "normal": int((~problem.odd[test]).sum()),
        "odd": int(problem.odd[test].sum()),
    }
    largest = np.finfo(float).max
    return told | {
        m: float(roc_auc_score(problem.odd[test], np.minimum(s, largest)))
        for m, s in zip(METHODS, scores, strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("hivae", type=Path)
    parser.add_argument("uci", type=Path)
    parser.add_argument("--tables", nargs="+", default=TABLES, choices=TABLES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--digits", nargs="+", type=int, default=[0, 1, 2], help="held out, by the seed in turn"
    )
    parser.add_argument(
        "--max-rows", type=int, default=300, help="normal rows scored, and odd ones"
    )
    parser.add_argument("--max-epochs", type=int, help="for a quick look; by default taut's own")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings: Job = {"threads": 1} | (
        {"max_epochs": options.max_epochs} if options.max_epochs else {}
    )
    results: dict[str, list[Job]] = {}
    lines = []
    for name in options.tables:
        results[name] = found = []
        for seed in range(options.seeds):
            problem = problem_of(
                name, options.hivae, options.uci, options.digits[seed % len(options.digits)]
            )
            found.append(compare(problem, options.max_rows, seed, settings))
            print(name, seed, {m: round(found[-1][m], 3) for m in METHODS}, flush=True)
        one = found[0]
        line = [
            name,
            f"{one['train']} x {problem.table.values.shape[1]}",
            f"{one['normal']} + {one['odd']}",
        ]
        for method in METHODS:
            values = [run[method] for run in found]
            error = (
                f" ± {np.std(values, ddof=1) / np.sqrt(len(values)):.3f}" if len(values) > 1 else ""
            )
            line.append(f"{np.mean(values):.3f}{error}")
        cpu_s = [
            f"{np.mean([run[what] for run in found]):.0f}" for what in ("fit_cpu_s", "log_p_cpu_s")
        ]
        lines.append([*line, " + ".join(cpu_s)])
        if options.json:
            options.json.write_text(
                json.dumps({"settings": settings, "results": results}, indent=2) + "\n"
            )
    means = np.array([[run[m] for m in METHODS] for f in results.values() for run in f])
    each = means.reshape(len(results), -1, len(METHODS)).mean(1)
    lines.append(["mean of the tables", "", "", *(f"{m:.3f}" for m in each.mean(0)), ""])
    print()
    show(["table", "trained on", "normal + odd", *METHODS, "fit + log p(x), CPU s"], lines)


if __name__ == "__main__":
    main()
