"""Columns that have nothing to do with each other: by how much does a model of them beat the
baseline? It should not.

    python benchmarks/baseline.py [--rows 3000] [--epochs 40] [--only NAME]

Six independent columns of each of ten shapes, a default model trained on each. Prints one table of
Markdown: log p(x) of the held-out rows above the baseline in nats a row (aim: at most 0.1), with
its error, and how far the baseline is below the distribution that the columns were drawn from.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

import taut
from taut.data import prepare
from taut.evidence import Estimate
from taut.evidence.baseline import independent_marginals

COLUMNS = 6
LEVELS = np.exp(-0.5 * ((np.arange(30) - 6) / 2) ** 2) + np.exp(
    -0.5 * ((np.arange(30) - 23) / 2) ** 2
)
LEVELS /= LEVELS.sum()
HEAVY = 1 / np.arange(1, 2001.0) ** 1.5
HEAVY /= HEAVY.sum()
Draw = Callable[[np.random.Generator, int], np.ndarray]
LogP = Callable[[np.ndarray], np.ndarray]


def peaks(*places: float) -> tuple[Draw, LogP]:
    return (
        lambda r, n: r.normal(r.choice(places, n)),
        lambda x: np.log(np.mean([stats.norm.pdf(x, place) for place in places], 0)),
    )


def inflated(share: float, r: float, mean: float) -> tuple[Draw, LogP]:
    p = r / (r + mean)
    return (
        lambda rng, n: np.where(rng.random(n) < share, 0, rng.negative_binomial(r, p, n)),
        lambda x: np.log(share * (x == 0) + (1 - share) * stats.nbinom.pmf(x, r, p)),
    )


# Name: how a column is drawn, its log-probability, the kind of the array, or a table.
SHAPES: dict[str, tuple[Draw, LogP, str]] = {
    "t of 3 degrees": (lambda r, n: r.standard_t(3, n), stats.t(3).logpdf, "real"),
    "two-peaked levels": (
        lambda r, n: r.choice(30, n, p=LEVELS),
        lambda x: np.log(LEVELS[x.astype(int)]),
        "table",
    ),
    "three-peaked reals": (*peaks(-10, 0, 10), "real"),
    "zero-inflated counts": (*inflated(0.5, 5, 20), "count"),
    "two-peaked reals": (*peaks(-4, 4), "real"),
    "uniform": (lambda r, n: r.random(n), stats.uniform.logpdf, "real"),
    "exponential": (lambda r, n: r.exponential(size=n), stats.expon.logpdf, "table"),
    "log-normal": (lambda r, n: r.lognormal(size=n), stats.lognorm(1).logpdf, "table"),
    "normal": (lambda r, n: r.normal(size=n), stats.norm.logpdf, "real"),
    "heavy counts": (
        lambda r, n: r.choice(2000, n, p=HEAVY),
        lambda x: np.log(HEAVY[x.astype(int)]),
        "table",
    ),
}


def measure(name: str, rows: int, **settings: Any) -> tuple[Estimate, float]:
    """Returns the gain of a model over the baseline, and how much the baseline lacks of the truth,
    in nats a row.
    """
    draw, log_p, kind = SHAPES[name]
    rng = np.random.default_rng(0)
    x = np.column_stack([draw(rng, rows) for _ in range(COLUMNS)])
    table = pd.DataFrame({f"c{i}": column for i, column in enumerate(x.T)})
    data = prepare(table) if kind == "table" else prepare(x, kind=kind)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as scratch:
        run = taut.fit(
            table if kind == "table" else x,
            Path(scratch) / "run",
            kind=None if kind == "table" else kind,
            **settings,
        )
    baseline = independent_marginals(data, data.test)
    assert baseline is not None
    evidence = taut.importance(run.model, data.test[:], 100, seed=0)
    truth = float(log_p(data.test[:].double().numpy()).sum(1).mean())
    return Estimate.of(evidence.log_evidence - baseline), truth - float(baseline.mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    print("| shape | gain over the baseline | baseline below the truth |\n|---|---|---|")
    for name in SHAPES:
        if options.only in name:
            gain, short = measure(
                name, options.rows, max_epochs=options.epochs, num_samples=20, threads=1
            )
            print(
                f"| {name} | {gain.value:.3f} ± {gain.test_error:.3f} | {short:.3f} |", flush=True
            )


if __name__ == "__main__":
    main()
