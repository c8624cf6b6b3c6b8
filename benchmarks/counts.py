"""Counts of single cells: log p(x) under each family of counts, memory, and what the embedding
knows of the cell types.

    python benchmarks/counts.py COUNTS.npz

COUNTS.npz holds a matrix of cells by genes as the parts of scipy's CSR (data, indices, indptr,
shape) and labels (from 1; the cell types). Each family is fitted through what ``taut.fit`` is made
of, from the sparse matrix, in a process of its own with one thread. The test set is the same for
all, so differences of log p(x) are paired, cell by cell. With library=True the model is of p(x |
total of the cell): such numbers are compared with each other, never with those of p(x).

The embedding (the posterior mean of all cells; no label is used in training) is measured by the
silhouette of the labels and the accuracy of a vote of 15 neighbours in five-fold cross-validation,
beside as many principal components of the log counts, log(1 + counts scaled to the median total).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Only the workers import torch: a process starts with the peak memory of the one that made it.
FAMILIES = ["Poisson()", "NegativeBinomial()", "ZeroInflatedNegativeBinomial()"]
GIVEN_TOTALS = ["Poisson(library=True)", "NegativeBinomial(library=True)"]
NEIGHBOURS = 15
Job = dict[str, Any]


def matrix(path: str) -> Any:
    import numpy as np
    from scipy.sparse import csr_matrix

    with np.load(path) as parts:
        return csr_matrix(
            (parts["data"], parts["indices"], parts["indptr"]), shape=tuple(parts["shape"])
        )


def fit(job: Job) -> Job:
    import numpy as np
    import torch

    from taut.build.config import Config
    from taut.data.sparse import SparseRows
    from taut.runs.fit import evaluate, start, train_run
    from taut.use.tasks import encode

    counts, out = matrix(job["data"]), Path(job["out"])
    began = time.process_time()
    run, data, state = start(counts, out, Config.from_dict(job["config"]))
    for _ in train_run(run, data, state):
        pass
    trained, began = time.process_time() - began, time.process_time()
    blocks = [block.log_evidence for block in evaluate(run, data)]
    measured, peak = time.process_time() - began, peak_mib()
    np.save(f"{out}.npy", encode(run.model, SparseRows(counts)).numpy())
    return run.evaluation() | {
        "per_cell": torch.cat(blocks).tolist(),
        "epochs": run.history()[-1]["epoch"],
        "best_epoch": max((r["epoch"] for r in run.history() if r["best"]), default=None),
        "train_cpu_s": trained,
        "cpu_ms_per_step": 1000 * trained / state.step,
        "measure_cpu_s": measured,
        "peak_mib": peak,
    }


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**20 if sys.platform == "darwin" else 2**10
    )


def run_alone(job: Job) -> Job:
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, __file__, "--work", json.dumps(job)]
    result: Job = json.loads(
        subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
    )
    return result


def principal_components(counts: Any, number: int) -> Any:
    import numpy as np
    from sklearn.decomposition import PCA

    totals = np.asarray(counts.sum(1), np.float64)
    scaled = counts.multiply(np.median(totals) / totals).tocsr().log1p()
    return PCA(number, svd_solver="arpack", random_state=0).fit_transform(scaled)


def knowledge(embedding: Any, labels: Any) -> Job:
    """Returns what an embedding (N, D) knows of labels.

    Their silhouette, and the accuracy of a vote of neighbours.
    """
    from sklearn.metrics import silhouette_score
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    accuracy = cross_val_score(KNeighborsClassifier(NEIGHBOURS), embedding, labels, cv=folds)
    return {
        "silhouette": float(silhouette_score(embedding, labels)),
        "accuracy": float(accuracy.mean()),
    }


def difference(mine: Job, other: Job) -> tuple[float, float]:
    """Returns the mean difference of log p(x) over the same cells, and its standard error for new
    cells.
    """
    pairs = [a - b for a, b in zip(mine["per_cell"], other["per_cell"], strict=True)]
    return statistics.mean(pairs), statistics.stdev(pairs) / math.sqrt(len(pairs))


def table(columns: list[str], rows: list[list[str]]) -> None:
    for cells in (columns, ["---"] * len(columns), *rows):
        print("| " + " | ".join(cells) + " |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--max-epochs", type=int, default=40)
    parser.add_argument("--latent-dim", type=int, default=10)
    parser.add_argument("--num-samples", type=int, default=500, help="K of the held-out log p(x)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    training = {"max_epochs": options.max_epochs, "seed": options.seed, "threads": 1}
    results: dict[str, Job] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, family in enumerate(FAMILIES + GIVEN_TOTALS):
            model = {"likelihood": family, "latent_dim": options.latent_dim}
            config = {
                "model": model,
                "training": training,
                "evaluation": {"num_samples": options.num_samples},
            }
            results[family] = run_alone(
                {"data": options.data, "out": f"{folder}/{number}", "config": config}
            )
            print(f"{family}: {results[family]['train_cpu_s'] / 60:.1f} CPU min", file=sys.stderr)
        import numpy as np

        with np.load(options.data) as parts:
            labels = parts["labels"]
        known, counts = labels > 0, matrix(options.data)
        for number, result in enumerate(results.values()):
            result["embedding"] = knowledge(np.load(f"{folder}/{number}.npy")[known], labels[known])
    pca = knowledge(principal_components(counts, options.latent_dim)[known], labels[known])

    print(
        f"{counts.shape[0]} cells, {counts.shape[1]} genes, "
        f"{len(results[FAMILIES[0]]['per_cell'])} cells held out; "
        f"latent_dim {options.latent_dim}, {options.max_epochs} epochs planned, one thread\n"
    )
    for families in (FAMILIES, GIVEN_TOTALS):
        rows = []
        for family in families:
            r, (gain, error) = results[family], difference(results[family], results[families[0]])
            nats, elbo = r["log_evidence"], r["elbo"]["value"]
            row = [
                f"`{family}`",
                f"{elbo:.2f}",
                f"{nats['value']:.2f}",
                f"{nats['mc_error']:.3f}",
                f"{nats['test_error']:.1f}",
            ]
            row += [
                "" if family == families[0] else f"{gain:+.2f} ± {error:.2f}",
                f"{r['best_epoch']:.0f} of {r['epochs']:.0f}",
            ]
            rows.append(
                [
                    *row,
                    f"{r['train_cpu_s'] / 60:.1f}",
                    f"{r['measure_cpu_s']:.0f}",
                    f"{r['peak_mib']:.0f}",
                ]
            )
        what = "log p(x)" if families is FAMILIES else "log p(x given total)"
        columns = [
            "family",
            "ELBO",
            f"{what}, K = {options.num_samples}",
            "± MC",
            "± test set",
            "less Poisson's, paired",
        ]
        table(
            [*columns, "best epoch", "training, CPU min", "measuring, CPU s", "peak memory, MiB"],
            rows,
        )
    shown = {f"`{family}`": r["embedding"] for family, r in results.items()} | {
        "principal components": pca
    }
    table(
        ["embedding of all cells", "silhouette", f"accuracy, {NEIGHBOURS} neighbours"],
        [
            [name, f"{k['silhouette']:.3f}", f"{100 * k['accuracy']:.1f}%"]
            for name, k in shown.items()
        ],
    )
    if options.json:
        report = {
            "training": training,
            "latent_dim": options.latent_dim,
            "families": results,
            "pca": pca,
        }
        options.json.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        print(json.dumps(fit(json.loads(sys.argv[2])), allow_nan=False))
    else:
        main()
