"""Embeddings of single cells: nats beside neighbours, for a few settings of one model.

    python benchmarks/cells_embedding.py COUNTS.npz [--seeds 3]

COUNTS.npz is that of ``benchmarks/counts.py``, which trains and measures here too: each setting in
a process of its own with one thread, labels only for measuring. All are given the totals and have
ten latent dimensions. From two plain layers and the ELBO there are three steps: the weight of the
rate, one hidden layer, and the settings for embeddings of ``docs/counts.md`` (dropout, twice the
learning rate, and nothing held out to stop the training, so that it goes on past the best log p(x),
and the code with it). "no options" is what ``taut fit COUNTS`` does.

log p(x) is given the totals, importance-weighted, of the same tenth of the cells.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import numpy as np
from counts import Job, knowledge, matrix, principal_components, run_alone, table

MODEL = {"likelihood": "NegativeBinomial(library=True)", "latent_dim": 10}
TWO = {"encoder": "MLP()", "decoder": "MLP()"}
PLAIN = {"max_epochs": 40, "objective": "ELBO()", "learning_rate": 2e-3}
ONE = {"encoder": "MLP(hidden=(128,))", "decoder": "MLP(hidden=(128,))"}
DROPPED = {
    "encoder": "MLP(hidden=(128,), dropout=0.2)",
    "decoder": "MLP(hidden=(128,), dropout=0.4)",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "no options": {},
    "totals given": {"model": MODEL | TWO, "training": PLAIN},
    "and ELBO(beta=0.3)": {
        "model": MODEL | TWO,
        "training": PLAIN | {"objective": "ELBO(beta=0.3)"},
    },
    "and one layer of 128": {
        "model": MODEL | ONE,
        "training": PLAIN | {"objective": "ELBO(beta=0.3)"},
    },
    "for embeddings": {
        "data": {"validation_fraction": 0.0},
        "model": MODEL | DROPPED,
        "training": {"max_epochs": 60, "objective": "ELBO(beta=0.3)", "learning_rate": 4e-3},
    },
}


def measured(job: Job, labels: np.ndarray) -> list[float]:
    """Returns accuracy, silhouette, log p(x), its error, rate and CPU seconds of a run."""
    result = run_alone(job)
    known = labels > 0
    found = knowledge(np.load(f"{job['out']}.npy")[known], labels[known])
    nats = result["log_evidence"]
    rate = result["rate"]["value"]
    return [
        100 * found["accuracy"],
        found["silhouette"],
        nats["value"],
        nats["test_error"],
        rate,
        result["train_cpu_s"],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--num-samples", type=int, default=500, help="K of the held-out log p(x)")
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    options = parser.parse_args()
    with np.load(options.data) as parts:
        labels = parts["labels"]
    rows = []
    for name in options.settings:
        for seed in range(options.seeds):
            config = dict(SETTINGS[name]) | {"evaluation": {"num_samples": options.num_samples}}
            config["training"] = config.get("training", {}) | {"seed": seed, "threads": 1}
            with tempfile.TemporaryDirectory() as folder:
                job = {"data": options.data, "out": f"{folder}/run", "config": config}
                accuracy, silhouette, nats, error, rate, seconds = measured(job, labels)
            row = [name, f"{seed}", f"{accuracy:.1f} %", f"{silhouette:.3f}"]
            rows.append([*row, f"{nats:.2f} ± {error:.1f}", f"{rate:.1f}", f"{seconds:.0f}"])
            print(" | ".join(rows[-1]), flush=True)
    found = knowledge(
        principal_components(matrix(options.data), 10)[labels > 0], labels[labels > 0]
    )
    accuracy, silhouette = 100 * found["accuracy"], found["silhouette"]
    rows.append(
        ["10 principal components", "", f"{accuracy:.1f} %", f"{silhouette:.3f}", *3 * [""]]
    )
    print()
    columns = ["setting", "seed", "15 neighbours", "silhouette", "log p(x given total)", "rate"]
    table([*columns, "training, CPU s"], rows)


if __name__ == "__main__":
    main()
