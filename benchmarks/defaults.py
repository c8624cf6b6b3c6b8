"""What the usual settings of a VAE cost where data are few, and what regularises best.

    python benchmarks/defaults.py digits MNIST.npz:train --rows 2000

Each setting is trained on the same rows (of a file `--rows` of them) with the same rows held out,
and compared with a plain one row by row: log p(x) and the ELBO of the test rows, nats a row, with
the errors of the paired differences over rows (K = 500).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import taut
from taut.evidence.rows import RowEvidence
from taut.runs.folder import load
from taut.runs.gain import bound_of, gain_of
from taut.runs.measure import copies, evidence_of

BOUNDS = ("log_evidence", "elbo")
PLAIN = {"objective": "ELBO()", "decoder": "MLP()"}
WARM = PLAIN | {"objective": "ELBO(warmup=0.2)"}
ONE_LAYER = {"decoder": "MLP(hidden=(200,), dropout=0.1)"}
BOTH = {"decoder": "MLP(dropout=0.1)", "encoder": "MLP(dropout=0.1)"}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "no options": {},
    "dropout 0.1": PLAIN | {"decoder": "MLP(dropout=0.1)"},
    "dropout 0.2": PLAIN | {"decoder": "MLP(dropout=0.2)"},
    "dropout 0.1 in both": PLAIN | BOTH,
    "warm-up": WARM,
    "warm-up, dropout 0.1": WARM | {"decoder": "MLP(dropout=0.1)"},
    "warm-up, dropout 0.2": WARM | {"decoder": "MLP(dropout=0.2)"},
    "warm-up, dropout 0.1 in both": WARM | BOTH,
    "warm-up, dropout 0.2, encoder 0.1": WARM | BOTH | {"decoder": "MLP(dropout=0.2)"},
    "warm-up, 400 wide, dropout 0.2": WARM | {"decoder": "MLP(hidden=(400, 400), dropout=0.2)"},
    "one layer, dropout 0.1": PLAIN | ONE_LAYER,
    "warm-up, one layer, dropout 0.1": WARM | ONE_LAYER,
    "one layer, dropout 0.1, weight decay 0.01": PLAIN | ONE_LAYER | {"weight_decay": 0.01},
}


def rows_of(name: str, count: int, folder: Path) -> str:
    """Returns data as they are named, or a file of some rows of an array."""
    path, _, key = name.partition(":")
    if not Path(path).exists():
        return name
    rows = np.load(path)[key]
    out = folder / "rows.npy"
    np.save(out, rows[np.random.default_rng(0).permutation(len(rows))[:count]])
    return str(out)


def trained(
    data: str, setting: dict[str, Any], seed: int, folder: Path
) -> tuple[RowEvidence, torch.Tensor | None, float]:
    """Returns what is known of the test rows, which of them are alike, and CPU seconds."""
    began = time.process_time()
    taut.fit(data, folder, threads=1, verbose=False, seed=seed, **setting)
    seconds = time.process_time() - began
    run = load(folder)
    held = run.data()
    found = evidence_of(run.model, held.test, run.config.evaluation.num_samples, 0)
    return found, copies(held.test, held.divided), seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.data:
        print(f"{name}\n\n| setting | log p(x) | ELBO | CPU s |\n|---|---|---|---|", flush=True)
        plain = None
        with tempfile.TemporaryDirectory() as folder:
            data = rows_of(name, options.rows, Path(folder))
            for number, title in enumerate(options.only):
                path = Path(folder) / str(number)
                found, groups, seconds = trained(data, SETTINGS[title], options.seed, path)
                if plain is None:
                    plain = found
                    cells = [f"{float(bound_of(found, b)[0].mean()):.2f}" for b in BOUNDS]
                else:
                    gains = [gain_of(found, plain, b, groups) for b in BOUNDS]
                    cells = [f"{gain.value:+.2f} ± {gain.test_error:.2f}" for gain in gains]
                print(f"| {title} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)
        print()


if __name__ == "__main__":
    main()
