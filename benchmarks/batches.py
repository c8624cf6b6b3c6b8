"""Batches planted in one tissue: are they mixed in the embedding, and do types stay apart?

    python benchmarks/batches.py

2,000 cells of four kinds and two batches, 300 genes of which half differ between the batches by a
log factor of standard deviation 0.5. ``taut.fit`` with no options, and conditioned on the batch;
500 cells have their 15 nearest among the other 1,500. Mixing is that of
``taut.evidence.task_embedding``: 1 is perfect.
"""

from __future__ import annotations

import tempfile
import time

import anndata
import numpy as np
import pandas as pd
import torch
from scipy import sparse

import taut
from taut.evidence.task_embedding import labels_of_neighbours, mixing

CELLS, GENES, KNOWN = 2000, 300, 1500


def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    kind = rng.choice(4, CELLS, p=[0.4, 0.3, 0.2, 0.1])
    batch = rng.integers(2, size=CELLS)
    shift = np.where(rng.random((4, GENES)) < 0.15, rng.normal(0, 1.5, (4, GENES)), 0)
    effect = np.where(rng.random((2, GENES)) < 0.5, rng.normal(0, 0.5, (2, GENES)), 0)
    depth = rng.lognormal(0, 0.4, (CELLS, 1))
    mean = depth * np.exp(rng.normal(-1.5, 1, GENES) + shift[kind] + effect[batch])
    counts = rng.poisson(mean * rng.gamma(2, 0.5, mean.shape)).astype(np.float32)
    obs = pd.DataFrame({"batch": batch.astype(str)}, index=[f"cell{i}" for i in range(CELLS)])
    cells = anndata.AnnData(sparse.csr_matrix(counts), obs=obs)
    print("| | mixing of batches | types by 15 neighbours | CPU s |\n|---|---|---|---|")
    for name, condition in (("no options", ()), ("condition batch", ("batch",))):
        began = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            given = {"condition": condition} if condition else {}
            run = taut.fit(cells, f"{folder}/run", seed=0, num_samples=20, **given)
            z = np.asarray(run.encode(cells).obsm["X_taut"])
        known, new = slice(0, KNOWN), slice(KNOWN, CELLS)
        pairs = [(each[known], each[new]) for each in (z, batch, kind)]
        mixed = mixing(*pairs[0], pairs[1], pairs[2])
        right = (labels_of_neighbours(pairs[0][0], pairs[2][0], pairs[0][1]) == pairs[2][1]).mean()
        print(
            f"| {name} | {mixed['value']:.3f} ± {mixed['test_error']:.3f} | {100 * right:.1f} % | "
            f"{time.process_time() - began:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
