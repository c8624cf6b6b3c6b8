"""A linear VAE against probabilistic PCA, whose maximum likelihood is known in closed form: how far
does ``fit`` get?

    python benchmarks/ppca.py UCI.npz

UCI.npz holds the tables as arrays (N, d); each is z-scored. For every table and latent dimension
the model is trained by ``taut.fit`` on all rows with beta 1 and 4, and measured on the same rows.
Prints one table of Markdown: the closed form, the ELBO, their difference (aim: within 0.01 nat for
beta = 1), and the active units beside the number that the closed form predicts: dimension j is
active iff lambda_j > beta sigma^2 (Lucas et al. 2019).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import taut

TABLES = {
    "wine_red": 11,
    "wine_white": 11,
    "banknote": 4,
    "concrete_centred": 8,
    "yeast": 8,
    "breast_cancer": 30,
}


def fit_linear(
    x: np.ndarray, latent_dim: int, beta: float, folder: Path, epochs_per_row: float = 4e6
) -> taut.Run:
    """Trains a linear VAE with a shared scale on all rows of x."""
    return taut.fit(
        x,
        folder,
        test=x,
        validation_fraction=0.0,
        latent_dim=latent_dim,
        likelihood='Normal(scale="shared")',
        encoder="Linear()",
        decoder="Linear()",
        objective=taut.ELBO(beta=beta),
        batch_size=256,
        max_epochs=max(1, round(epochs_per_row / max(len(x), 256) / 2)),
        learning_rate=2e-2,
        num_samples=20,
        threads=1,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    worst = 0.0
    print("| table | N, d | q | beta | pPCA, exact | ELBO | short by | active | predicted |")
    print("|---|---|---|---|---|---|---|---|---|")
    with np.load(options.data) as tables, tempfile.TemporaryDirectory() as scratch:
        for name, d in TABLES.items():
            if options.only not in name:
                continue
            x = tables[name][:, :d]
            x = (x - x.mean(0)) / x.std(0)
            for q in (2, 3 if d == 4 else 5):
                exact = taut.probabilistic_pca(torch.from_numpy(x), q)
                for beta in (1.0, 4.0):
                    run = fit_linear(x, q, beta, Path(scratch) / f"{name}-{q}-{beta}")
                    result = run.evaluation()
                    scale = run.model.likelihood(torch.zeros(1, 1, q)).stddev[0, 0, 0].item()
                    predicted = int((exact.eigenvalues[:q] > beta * scale**2).sum())
                    short = exact.log_likelihood - result["elbo"]["value"]
                    if beta == 1:
                        worst = max(worst, abs(short))
                    print(
                        f"| {name} | {len(x)}, {d} | {q} | {beta:g} | {exact.log_likelihood:.4f} | "
                        f"{result['elbo']['value']:.4f} "
                        f"| {short:.4f} | {result['active_units']} | {predicted} |",
                        flush=True,
                    )
    print(f"\nlargest distance for beta = 1: {worst:.4f} nat")
    sys.exit(worst > 0.01)


if __name__ == "__main__":
    main()
