"""log p(x) of rows far from the training data, against sums over z: right, or openly unsure.

    python benchmarks/far_rows.py [--short]

Six small models of data that scikit-learn brings: three likelihoods, three posteriors, three
priors. Each scores 2,000 rows: those it was trained on with one entry times 10^-6 to 10^6, or bits
turned over, and 100 rows of another class. `--short` takes 100 rows of each. The referee,
tests/quadrature.py, sums over z in float64, for 2,000 rows where z has one dimension and 300 where
it has two. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits

import taut
from taut.evidence import settle

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import quadrature

quadrature.TOLERANCE = 1e-4  # of p(x): 0.0001 nats are enough here
FACTORS = 10.0 ** np.arange(-6, 7)
SMALL = {
    "encoder": "MLP(hidden=(32,))",
    "decoder": "MLP(hidden=(32,))",
    "max_epochs": 60,
    "learning_rate": 0.01,
}


def models() -> list[tuple[str, np.ndarray, np.ndarray, dict[str, Any]]]:
    """Name, rows to train on, rows of another class, settings."""
    cells, kind = load_breast_cancer(return_X_y=True)
    cells = cells[:, :5]  # radius, texture, perimeter, area, smoothness
    digits, digit = load_digits(return_X_y=True)
    bits = (digits > 8).astype(float)
    benign, malignant = cells[kind == 1], cells[kind == 0]
    low, high = bits[digit < 5], bits[digit >= 5]
    six = {
        "posterior": "IndependentBernoulli()",
        "prior": "IndependentBernoulli()",
        "objective": "VIMCO(num_samples=8)",
    }
    return [
        ("StudentT, diagonal, 1 dimension", benign, malignant, {"latent_dim": 1}),
        (
            "StudentT, full covariance, 2",
            benign,
            malignant,
            {"latent_dim": 2, "posterior": "FullCovarianceNormal()"},
        ),
        (
            "LogNormal, diagonal, 1",
            benign,
            malignant,
            {"latent_dim": 1, "likelihood": "LogNormal()"},
        ),
        (
            "LogNormal, diagonal, 2, mixture prior",
            benign,
            malignant,
            {
                "latent_dim": 2,
                "likelihood": "LogNormal()",
                "prior": "GaussianMixture(components=3)",
            },
        ),
        (
            "Bernoulli, full covariance, 2",
            low,
            high,
            {"latent_dim": 2, "posterior": "FullCovarianceNormal()"},
        ),
        ("StudentT, 6 bits", benign, malignant, {"latent_dim": 6, **six}),
    ]


def far(
    x: np.ndarray, other: np.ndarray, number: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows, and the factor of one entry of each: 0 for rows of another class."""
    some = max(1, number // 20)
    rows = x[rng.integers(len(x), size=number - some)].copy()
    factors, entry = rng.choice(FACTORS, size=len(rows)), rng.integers(x.shape[1], size=len(rows))
    if set(np.unique(x)) <= {0.0, 1.0}:
        turned = rng.random(rows.shape) < rng.choice([0.02, 0.1, 0.5], size=(len(rows), 1))
        rows, factors = np.where(turned, 1 - rows, rows), np.ones(len(rows))
    else:
        rows[np.arange(len(rows)), entry] *= factors
    rows = np.concatenate([rows, other[rng.integers(len(other), size=some)]])
    return torch.tensor(rows).float(), torch.tensor(np.concatenate([factors, np.zeros(some)]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true")
    number = 100 if parser.parse_args().short else 2000
    rng = np.random.default_rng(0)
    print(
        "| model | no number | first method reliable | reliable | reliable up to a factor of 100 | "
        "above by 4 errors |",
        end="",
    )
    print(
        " reliable, off by 4 errors | largest error of a reliable row | CPU s: first, all, referee "
        "|"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, x, other, settings in models():
            run = taut.fit(x, Path(folder) / name.replace(" ", "-"), **settings, **SMALL)
            rows, factors = far(x, other, number, rng)
            clock = [time.process_time()]
            first = taut.importance(run.model, rows)
            clock.append(time.process_time())
            found = settle(run.model, rows, first, climbing=len(rows))
            clock.append(time.process_time())
            referee = quadrature.Oracle(run.model)
            judged = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[
                : 300 if referee.dim == 2 else None
            ]
            exact = torch.tensor([_exact(referee, row) for row in rows[judged].double().numpy()])
            clock.append(time.process_time())
            off = found.log_evidence[judged] - exact
            allowed = 4 * found.log_evidence_error[judged] + quadrature.TOLERANCE
            near = (factors <= 100) & (factors >= 0.01)
            sure, judged_sure = found.reliable, found.reliable[judged]
            cells = [
                name,
                int((~found.known).sum()),
                f"{float(first.reliable.double().mean()):.0%}",
                f"{float(sure.double().mean()):.1%}",
                f"{float(sure[near].double().mean()):.1%}",
                int((off > allowed).sum()),
                f"{float((off.abs() > allowed)[judged_sure].double().mean()):.2%}",
                f"{float(off[judged_sure].abs().max()):.2f}",
                ", ".join(f"{b - a:.1f}" for a, b in itertools.pairwise(clock)),
            ]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
            if not bool(exact.isfinite().all()):
                print(f"the referee gave no number for {int((~exact.isfinite()).sum())} rows")


def _exact(referee: quadrature.Oracle, row: np.ndarray) -> float:
    try:
        return referee.log_evidence(row)
    except ArithmeticError:
        return float("nan")


if __name__ == "__main__":
    main()
