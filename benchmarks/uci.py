"""Held-out log p(x) of six UCI tables beside Gaussian mixtures and factor analysis.

    python benchmarks/uci.py UCI.npz --out uci.json
    python benchmarks/uci.py UCI.npz --out uci.json --only taut --seeds 1    # the others are kept
    python benchmarks/uci.py UCI.npz --out moved.json --moved 0.01    # a share of a column's scale

Rows 80/20, a seed each; columns that never vary are omitted. Every side sees the same training
rows, has the same floor of its scales (.03 of the standard deviation of a column; the variances of
the mixtures have 1e-3, a scale of .032) and chooses by validation rows of its own out of the
training rows:

* taut: ``taut.fit`` with no options.
* before: the defaults before training started at factor analysis, but with that floor, since a
  density has no upper limit: ``StudentT()``, ``DiagonalNormal()`` and ``MLP()``.
* Gaussian mixture: scikit-learn's, of 1 to 20 components and four kinds of covariance.
* factor analysis, and a mixture of 1, 2, 4 or 8 factor analysers: taut's own, exact.
* hidden trees: ``taut.fit`` with ``HiddenForest()``; "unblurred": with the rows as they are.

``--moved`` adds noise to the held-out rows, of such a share of each column's standard deviation: a
density that has learned the decimals that numbers were rounded to gives them far less.

In nats a row in the units of the table, with the standard error of the difference from the best
Gaussian mixture, paired over the held-out rows; of that mixture itself, and where it was not run,
it is the standard error over the rows.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.mixture import GaussianMixture

import taut
from taut.models import MixtureOfFactorAnalysers

TABLES = ("breast_cancer", "concrete_centred", "wine_red", "wine_white", "banknote", "yeast")
VALIDATION = 0.15
PASSES = (2000, 1000)  # of factor analysis, and of a mixture of it
BEFORE = {
    "likelihood": "StudentT(min_scale=0.03)",
    "posterior": "DiagonalNormal()",
    "encoder": "MLP()",
    "decoder": "MLP()",
}


def split(x: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    x = x.astype(float)[:, x.std(0) > 0]
    order = np.random.default_rng(seed).permutation(len(x))
    rows = int(0.8 * len(x))
    return x[order[:rows]], x[order[rows:]]


def ours(train: np.ndarray, test: np.ndarray, seed: int, **parts: str) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        run = taut.fit(train, f"{folder}/run", test_fraction=0.0, seed=seed, **parts)
        scores = run.score(test, num_samples=2000)
    return np.asarray(scores["log_evidence"])


def gaussian_mixture(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    loc, scale = train.mean(0), train.std(0)
    u, held_out = (train - loc) / scale, (test - loc) / scale
    rows = int((1 - VALIDATION) * len(u))
    fitted = (
        GaussianMixture(k, covariance_type=kind, reg_covar=1e-3, random_state=seed).fit(u[:rows])
        for kind in ("full", "tied", "diag", "spherical")
        for k in (1, 2, 3, 4, 6, 8, 10, 15, 20)
    )
    best = max(fitted, key=lambda mixture: mixture.score(u[rows:]))
    return best.score_samples(held_out) - np.log(scale).sum()


def factors(numbers: tuple[int, ...]) -> Callable[[np.ndarray, np.ndarray, int], np.ndarray]:
    def fit(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
        x, new = torch.from_numpy(train), torch.from_numpy(test)
        rows = int((1 - VALIDATION) * len(x))
        best = (-math.inf, np.zeros(len(test)))
        for components in numbers:
            model = MixtureOfFactorAnalysers((x.shape[1],), components).double()
            passes = list(
                model.maximize(x[:rows], x[rows:], max_passes=PASSES[components > 1], seed=seed)
            )
            value = max(p.validation for p in passes)
            best = max(best, (value, model.log_prob(new).detach().numpy()), key=lambda b: b[0])
        return best[1]

    return fit


METHODS: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "taut": ours,
    "before": lambda train, test, seed: ours(train, test, seed, **BEFORE),
    "Gaussian mixture": gaussian_mixture,
    "factor analysis": factors((1,)),
    "mixture of factor analysers": factors((1, 2, 4, 8)),
    "hidden trees": lambda train, test, seed: ours(train, test, seed, model="HiddenForest()"),
    "unblurred": lambda train, test, seed: ours(train, test, seed, model="HiddenForest(blur=0)"),
}


def markdown(results: dict[str, dict[str, list[dict[str, object]]]]) -> str:
    lines = ["| table | " + " | ".join(METHODS) + " |", "|---" * (1 + len(METHODS)) + "|"]
    for table, methods in results.items():
        base = [np.array(run["log_prob"]) for run in methods.get("Gaussian mixture", [])]
        cells = []
        for name in METHODS:
            runs = methods.get(name, [])
            if not runs:
                cells.append("")
                continue
            values = [np.array(run["log_prob"]) for run in runs]
            mean = np.mean([v.mean() for v in values])
            text = f"{mean:.2f}"
            paired = name != "Gaussian mixture" and len(base) == len(values)
            each = [v - b for v, b in zip(values, base, strict=True)] if paired else values
            error = np.sqrt(np.mean([d.var(ddof=1) / len(d) for d in each]) / len(each))
            text += f" ± {error:.2f}"
            seconds = np.mean([run["cpu_seconds"] for run in runs])
            cells.append(f"{text} ({seconds:.0f} s)")
        lines.append(f"| {table} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tables", nargs="+", default=TABLES, choices=TABLES)
    parser.add_argument("--only", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--moved", type=float, default=0.0, help="noise of the held-out rows")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    results: dict[str, dict[str, list[dict[str, object]]]] = {}
    if args.out and args.out.exists():  # of other methods or tables
        results = json.loads(args.out.read_text())
    data = np.load(args.data)
    for name in args.tables:
        for method in args.only:
            runs = []
            for seed in range(args.seeds):
                train, test = split(data[name], seed)
                noise = np.random.default_rng(seed).standard_normal(test.shape)
                test = test + args.moved * train.std(0) * noise
                began = time.process_time()
                log_prob = METHODS[method](train, test, seed)
                seconds = time.process_time() - began
                runs.append({"log_prob": log_prob.tolist(), "cpu_seconds": seconds})
                print(name, method, seed, f"{log_prob.mean():.2f}, {seconds:.0f} CPU s", flush=True)
            results.setdefault(name, {})[method] = runs
            if args.out:
                args.out.write_text(json.dumps(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
