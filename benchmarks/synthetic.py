"""Synthetic rows of a table: can they be told from real ones, and can one learn from them?

    python benchmarks/synthetic.py HIVAE.npz --json synthetic.json
    python benchmarks/synthetic.py HIVAE.npz --table spam --seeds 3 --peers

HIVAE.npz is the file of benchmarks/tables.py; its adult table has twelve columns and no income.
Rows with a gap are left out (6 % of adult), since only taut would take them. A random half of the
rest, another one for each seed, trains each generator, which then makes as many rows as the other,
real half holds:

* taut: ``taut.fit(table)`` with its defaults (it holds out a fifth of the half to stop and to
  measure by), then ``sample_run``.
* Gaussian copula: normal scores of each column, equal values in random order, one correlation
  matrix, the quantiles of the half.
* independent columns: each drawn anew from the half.
* with ``--peers``: what ``benchmarks/peers/tabular.py`` makes of other libraries
  (``pip install -r benchmarks/peers/tabular.txt``).
* real: the training half itself, which is what a perfect generator would come to.

Measures, all against the held-out half:

* told apart: AUC of boosted trees that tell synthetic from real rows, five-fold cross-validated;
  0.5 is indistinguishable.
* marginals: distance of each column, total variation of a category, Kolmogorov-Smirnov of a number,
  a mean over the columns.
* learnt: boosted trees trained on the synthetic rows and tested on the real ones, for the columns
  of ``LEARNT``: AUC of two levels, accuracy of more.

Each measure is a mean over the seeds and over ``--draws`` independent draws of synthetic rows; its
error is that of other held-out rows in one seed, by a jackknife over blocks of them (told apart:
over the scores of both sides), a mean over the seeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.stats import ks_2samp, norm
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from tables import Array, Job, Table, from_arrow, jackknife, load, schema_file, show, to_arrow

import taut
from taut.data import to_table
from taut.runs.making import sample_rows

# what is learnt from the rows of each table: the measure and the column's number
LEARNT = {
    "adult": {"sex, AUC": 8, "marital, accuracy": 4},
    "defaultcredit": {"default, AUC": 23, "education, accuracy": 2},
    "spam": {"spam, AUC": 57},
}


def taut_rows(table: Table, train: Array, settings: Job) -> tuple[Callable[[int, int], Array], Job]:
    """Returns a generator of rows by taut, (how many, seed) -> (N, C), and what is known of the
    run.
    """
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        schema = schema_file(table, Path(folder) / "schema.toml")
        run = taut.fit(to_arrow(table, train), f"{folder}/run", schema=str(schema), **settings)
        evaluation, history = run.evaluation(), run.history()
    told: Job = {
        name: evaluation[name] for name in ("log_evidence", "elbo", "baseline", "warnings")
    }
    told |= {
        "notes": run.info["notes"],
        "epochs": history[-1]["epoch"],
        "fit_cpu_s": time.process_time() - began,
    }

    def draw(count: int, seed: int) -> Array:
        return from_arrow(
            table,
            to_table(sample_rows(run, count, seed=seed), run.schema.modelled),
        )

    return draw, told


def copula(train: Array) -> Callable[[int, int], Array]:
    """Returns a generator of rows by a Gaussian copula.

    The columns' own quantiles, joined by one correlation matrix.
    """
    rng = np.random.default_rng(0)
    n = len(train)
    ranks = np.stack([np.lexsort((rng.random(n), column)).argsort() for column in train.T], 1)
    factor = np.linalg.cholesky(np.corrcoef(norm.ppf((ranks + 0.5) / n), rowvar=False))
    ordered = np.sort(train, 0)

    def draw(count: int, seed: int) -> Array:
        scores = np.random.default_rng(seed).standard_normal((count, train.shape[1])) @ factor.T
        place = np.minimum((norm.cdf(scores) * n).astype(int), n - 1)
        return np.take_along_axis(ordered, place, 0)

    return draw


def independent(train: Array) -> Callable[[int, int], Array]:
    def draw(count: int, seed: int) -> Array:
        place = np.random.default_rng(seed).integers(len(train), size=(count, train.shape[1]))
        return np.take_along_axis(train, place, 0)

    return draw


def trees(nominal: Array) -> HistGradientBoostingClassifier:
    # sklearn's own settings come to grief on rare levels: more rows then make them worse, and the
    # real rows no ceiling.
    return HistGradientBoostingClassifier(
        learning_rate=0.05,
        l2_regularization=1.0,
        early_stopping=True,
        categorical_features=nominal,
        random_state=0,
    )


def told_apart(table: Table, made: Array, real: Array) -> tuple[float, float]:
    x = np.concatenate([made, real])
    y = np.repeat([0, 1], [len(made), len(real)])
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    chance = cross_val_predict(
        trees(np.array(table.types) == "cat"), x, y, cv=folds, method="predict_proba"
    )[:, 1]
    pair = np.stack([chance, y], 1)[np.random.default_rng(0).permutation(len(y))]
    return with_error(pair, lambda part: roc_auc_score(part[:, 1], part[:, 0]))


def marginals(table: Table, made: Array, real: Array) -> tuple[float, float]:
    def distance(real: Array) -> float:
        each = []
        for kind, levels, a, b in zip(table.types, table.levels, made.T, real.T, strict=True):
            shares = (
                [np.bincount(c.astype(int), minlength=levels + 1) / len(c) for c in (a, b)]
                if kind == "cat"
                else []
            )
            each.append(
                np.abs(shares[0] - shares[1]).sum() / 2
                if shares
                else ks_2samp(a, b, method="asymp").statistic
            )
        return float(np.mean(each))

    return with_error(real, distance)


def learnt(table: Table, target: int, made: Array, real: Array) -> tuple[float, float]:
    others = np.arange(made.shape[1]) != target
    levels, counts = np.unique(made[:, target], return_counts=True)
    # the trees hold some rows of each level out to stop by, and cannot of a single one
    made = made[np.isin(made[:, target], levels[counts > 1])]
    fitted = trees((np.array(table.types) == "cat")[others]).fit(made[:, others], made[:, target])
    chance, truth = fitted.predict_proba(real[:, others]), real[:, target]
    if len(fitted.classes_) == 2:
        pair = np.stack([chance[:, 1], truth == fitted.classes_[1]], 1)
        return with_error(pair, lambda part: roc_auc_score(part[:, 1], part[:, 0]))
    right = (fitted.classes_[chance.argmax(1)] == truth).astype(float)
    return with_error(right, lambda part: part.mean())


def with_error(rows: Array, statistic: Callable[[Array], float]) -> tuple[float, float]:
    return float(statistic(rows)), float(jackknife(rows, lambda part: np.array(statistic(part))))


def measure(table: Table, draw: Callable[[int, int], Array], real: Array, draws: int) -> Job:
    """Returns the mean of each measure over draws, its error for new rows, and the spread of the
    draws.
    """
    found = []
    for seed in range(draws):
        made = draw(len(real), seed)
        found.append([told_apart(table, made, real), marginals(table, made, real)])
        found[-1] += [learnt(table, target, made, real) for target in LEARNT[table.name].values()]
    mean, spread = np.mean(found, 0), np.std(found, 0)[:, 0]
    return {
        name: {"value": float(m[0]), "se": float(m[1]), "std_of_draws": float(s)}
        for name, m, s in zip(measures(table), mean, spread, strict=True)
    }


def measures(table: Table) -> list[str]:
    return ["told apart, AUC", "marginals", *LEARNT[table.name]]


def one_seed(table: Table, seed: int, settings: Job, options: argparse.Namespace) -> Job:
    """Returns the measures of each generator on the halves of one seed, and what is known of taut's
    run.
    """
    whole = table.values[~np.isnan(table.values).any(1)]
    order = np.random.default_rng(seed).permutation(len(whole))
    half = min(len(whole) // 2, options.max_rows or len(whole))
    train, real = whole[order[:half]], whole[order[-half:]]
    draw, run = taut_rows(table, train, settings | {"seed": seed})
    generators = {
        "real": lambda count, seed: train,
        "taut": draw,
        "Gaussian copula": copula(train),
        "independent columns": independent(train),
    }
    fits = {"taut": run["fit_cpu_s"]}
    if options.peers:
        from peers.tabular import PEERS

        for name, fit in PEERS.items():
            began = time.process_time()
            generators[name] = fit(train, table.types)
            fits[name] = time.process_time() - began
    results = {}
    for name, generator in generators.items():
        began = time.process_time()
        results[name] = measure(table, generator, real, 1 if name == "real" else options.draws)
        results[name] |= {"measure_cpu_s": time.process_time() - began, "fit_cpu_s": fits.get(name)}
    return {"rows": len(train), "run": run, "results": results}


def line(table: Table, name: str, found: list[Job]) -> list[str]:
    """Returns a row of the table that is printed: means over the seeds."""
    cells = [
        " ± ".join(
            f"{np.mean([seed[measure][part] for seed in found]):.3f}" for part in ("value", "se")
        )
        for measure in measures(table)
    ]
    fits = [seed["fit_cpu_s"] for seed in found if seed["fit_cpu_s"] is not None]
    return [name, *cells, f"{np.mean(fits):.0f}" if fits else ""]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--table", default="adult", choices=list(LEARNT))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--max-rows", type=int, help="of each half, for a quick look")
    parser.add_argument("--max-epochs", type=int, help="for a quick look; by default taut's own")
    parser.add_argument("--model", help="such as MaskedDiffusion(); by default taut's own choice")
    parser.add_argument("--peers", action="store_true", help="other libraries in the same run")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings: Job = {"threads": 1} | (
        {"max_epochs": options.max_epochs} if options.max_epochs else {}
    )
    if options.model:
        settings["model"] = options.model
    table = load(options.data, options.table)
    seeds = []
    for seed in range(options.seeds):
        seeds.append(one_seed(table, seed, settings, options))
        if options.json:  # what is done stays, whatever becomes of the next seed
            options.json.write_text(json.dumps({"settings": settings, "seeds": seeds}, indent=2))
    runs = [seed["run"] for seed in seeds]
    print(f"{seeds[0]['rows']} real rows to train on, as many held out; taut's fit:", end=" ")
    print(", ".join(f"{run['fit_cpu_s']:.0f} CPU s" for run in runs), end="; log p(x) ")
    print(", ".join(f"{run['log_evidence']['value']:.2f}" for run in runs) + "\n")
    show(
        ["rows", *measures(table), "fit, CPU s"],
        [
            line(table, name, [seed["results"][name] for seed in seeds])
            for name in seeds[0]["results"]
        ],
    )


if __name__ == "__main__":
    main()
