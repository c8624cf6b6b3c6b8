"""Single imputation of six UCI tables with half of the entries missing completely at random.

    python benchmarks/imputation.py UCI.npz --out imputation.json
    python benchmarks/imputation.py UCI.npz --out imputation.json --tables yeast --only taut

The second one measures a part again and keeps the rest.

Protocol of Mattei and Frellsen (MIWAE, 2019): columns z-scored, half of the entries removed, the
methods see the incomplete table and fill it in; mean squared error over the removed entries. taut
with its defaults, nothing chosen per table: ``taut.fit`` holds out a tenth of the rows to stop by,
and ``taut.impute`` fills in the mean. It is given the table as a person has it, in its own units,
and, as "taut, array", the z-scored numbers that all others are given: columns of a table have
marginals of their own, those of an array Student's. Beside it: column means, the mean of 10 nearest
neighbours, iterated forests (missForest-style: scikit-learn's IterativeImputer with random
forests), a Gaussian with full covariance fitted by EM, and the figures published for MIWAE, which
are on other masks.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from sklearn.ensemble import RandomForestRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

import taut
from taut.data import fill
from taut.runs.folder import new_data

# (mean, standard deviation over runs), as our notes of the paper's table have them
PUBLISHED = {
    "banknote": (0.446, 0.038),
    "breast": (0.280, 0.021),
    "concrete": (0.501, 0.040),
    "red": (0.643, 0.026),
    "white": (0.735, 0.033),
    "yeast": (0.964, 0.057),
}


def tables(path: Path) -> dict[str, np.ndarray]:
    """Returns the tables in their own units."""
    data = np.load(path)
    return {
        "banknote": data["banknote"][:, :4],
        "breast": data["breast_cancer"],
        "concrete": data["concrete_centred"][:, :8],
        "red": data["wine_red"][:, :11],
        "white": data["wine_white"][:, :11],
        "yeast": data["yeast"],
    }


def gaussian_em(x: np.ndarray, rounds: int = 50, ridge: float = 1e-3) -> np.ndarray:
    """Fills in the conditional means under a Gaussian with full covariance, fitted to the observed
    entries by EM.
    """
    missing = np.isnan(x)
    mean, covariance = np.nanmean(x, 0), np.diag(np.nanvar(x, 0))
    filled = np.where(missing, mean, x)
    patterns, which = np.unique(missing, axis=0, return_inverse=True)
    for _ in range(rounds):
        extra = np.zeros_like(covariance)
        for number, gap in enumerate(patterns):
            rows = np.flatnonzero(which == number)
            if not gap.any():
                continue
            gain = (
                covariance[np.ix_(gap, ~gap)] @ np.linalg.inv(covariance[np.ix_(~gap, ~gap)])
                if (~gap).any()
                else None
            )
            known = (x[np.ix_(rows, ~gap)] - mean[~gap]) @ gain.T if gain is not None else 0.0
            filled[np.ix_(rows, gap)] = mean[gap] + known
            left = covariance[np.ix_(gap, gap)]
            extra[np.ix_(gap, gap)] += len(rows) * (
                left - gain @ covariance[np.ix_(~gap, gap)] if gain is not None else left
            )
        mean = filled.mean(0)
        centred = filled - mean
        covariance = (centred.T @ centred + extra) / len(x) + ridge * np.eye(x.shape[1])
    return filled


def ours(raw: np.ndarray, seed: int) -> np.ndarray:
    """Fills in a table in its own units."""
    columns = {f"x{i}": pa.array(column, from_pandas=True) for i, column in enumerate(raw.T)}
    with tempfile.TemporaryDirectory() as folder:
        run = taut.fit(pa.table(columns), Path(folder) / "run", test_fraction=0.0, seed=seed)
        new = new_data(run, pa.table(columns))
        values = taut.impute(run.model, new.rows, seed=seed).values
        filled, _ = fill(new.table, values, run.schema)
    return np.array([filled.column(name).to_pylist() for name in columns], dtype=float).T


def ours_of_array(x: np.ndarray, seed: int) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        run = taut.fit(x, Path(folder) / "run", test_fraction=0.0, seed=seed)
    return taut.impute(run.model, torch.from_numpy(x), seed=seed).values.numpy()


def forests(x: np.ndarray, seed: int) -> np.ndarray:
    forest = RandomForestRegressor(50, min_samples_leaf=3, max_features=1 / 3, random_state=seed)
    return IterativeImputer(forest, max_iter=5, random_state=seed, tol=1e-9).fit_transform(x)


METHODS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "taut": ours,
    "taut, array": ours_of_array,
    "Gaussian EM": lambda x, _: gaussian_em(x),
    "iterated forests": forests,
    "10 neighbours": lambda x, _: KNNImputer(n_neighbors=10).fit_transform(x),
    "mean": lambda x, _: SimpleImputer().fit_transform(x),
}


def measure(raw: np.ndarray, seed: int, method: str) -> dict[str, float]:
    loc, scale = raw.mean(0), raw.std(0)
    missing = np.random.default_rng(seed).random(raw.shape) < 0.5
    given = np.where(missing, np.nan, raw if method == "taut" else (raw - loc) / scale)
    began = time.process_time()
    filled = METHODS[method](given, seed)
    if method == "taut":
        filled = (filled - loc) / scale
    return {
        "mse": float(np.mean((filled - (raw - loc) / scale)[missing] ** 2)),
        "cpu_seconds": time.process_time() - began,
    }


def markdown(results: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    """Returns the table.

    Mean over the masks and its standard error, the best and all within one standard error of it in
    bold.
    """
    names = [*METHODS, "MIWAE, published"]
    lines = ["| table | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    for table, methods in results.items():
        cells = {}
        for method, runs in methods.items():
            errors = np.array([run["mse"] for run in runs])
            cells[method] = (
                errors.mean(),
                errors.std(ddof=1) / np.sqrt(len(errors)) if len(errors) > 1 else float("nan"),
            )
        cells["MIWAE, published"] = PUBLISHED[table]
        best = min((c for n, c in cells.items() if n in METHODS), key=lambda c: c[0])
        shown = []
        for name in names:
            value, error = cells[name]
            text = f"{value:.3f} ± {error:.3f}"
            good = name in METHODS and value <= best[0] + np.hypot(best[1], error)
            shown.append(f"**{text}**" if good else text)
        lines.append(f"| {table} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--masks", type=int, default=3)
    parser.add_argument("--tables", nargs="+", default=list(PUBLISHED), choices=list(PUBLISHED))
    parser.add_argument("--only", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*Early stopping criterion not reached.*")
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    if args.out and args.out.exists():  # of other methods or tables
        results = json.loads(args.out.read_text())
    data = tables(args.data)
    for name in args.tables:
        for method in args.only:
            runs = [measure(data[name], seed, method) for seed in range(args.masks)]
            results.setdefault(name, {})[method] = runs
            seconds = sum(run["cpu_seconds"] for run in runs)
            print(
                name,
                method,
                *(f"{run['mse']:.3f}" for run in runs),
                f"{seconds:.0f} CPU s",
                flush=True,
            )
        if args.out:
            args.out.write_text(json.dumps(results, indent=2))
    if all(set(methods) == set(METHODS) for methods in results.values()):
        print(markdown(results))


if __name__ == "__main__":
    main()
