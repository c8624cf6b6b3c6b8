"""Do columns with spikes, bounds, grids and skew come back? Shares and medians of synthetic rows
against the data's.

    python benchmarks/columns.py            # ten tables, about three CPU minutes

Each table has the column in question beside a normal one that it depends on. What is compared, each
in units of its standard
error (that of the data and that of the sample together): the share of zeros, of values below zero,
    at and above the maximum of
the data, and the share of synthetic values below the data's median. |z| above 3.3 is marked; 50
numbers pass it by chance with probability 5 %.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import pandas as pd

import taut

ROWS, SAMPLES = 1500, 4000


def tables() -> dict[str, np.ndarray]:
    """Returns the columns by name, each with the normal variable ``z`` as its cause where it has
    one.
    """
    r = np.random.default_rng(0)
    z = r.normal(size=ROWS)
    wet = r.random(ROWS) < 1 / (1 + np.exp(2.2 - z))
    income = np.exp(10 + 0.5 * z + 0.6 * r.normal(size=ROWS))
    income[:3], income[3:200] = [4e8, 9e8, 2e9], 0
    days = pd.to_timedelta(r.integers(0, 700, ROWS), "D")
    moments = pd.Timestamp("2021-01-01") + pd.to_timedelta(r.integers(0, 30 * 86400, ROWS), "s")
    return {
        "z": z,
        "rain": np.where(wet, r.gamma(1, 3, ROWS), 0).round(1),
        "visibility": np.minimum(10, np.exp(3.2 + 0.7 * z + 0.4 * r.normal(size=ROWS))).round(2),
        "income": income.round(2),
        "wind": r.choice(np.arange(0, 361, 10), ROWS),
        "yyyymmdd": (pd.Timestamp("2021-01-01") + days).strftime("%Y%m%d").astype(int).to_numpy(),
        "stars": r.choice(np.arange(0.5, 5.5, 0.5), ROWS),
        "humidity": (100 / (1 + np.exp(-1 - z - 0.5 * r.normal(size=ROWS)))).round(2),
        "price": np.exp(3 + 0.5 * z + 0.3 * r.normal(size=ROWS)).round(2),
        "northing": (5413000 + 3 * z + r.normal(size=ROWS)).round(2),
        "isbn": r.integers(9_780_000_000_000, 9_790_000_000_000, ROWS),
        "moment": moments.to_numpy(),
    }


def compared(real: np.ndarray, made: np.ndarray) -> dict[str, float]:
    """Returns the z-scores of the shares."""
    highest, middle = real.max(), np.median(real)
    events = {
        "zeros": lambda x: x == 0,
        "below 0": lambda x: x < 0,
        "at the top": lambda x: x == highest,
        "above": lambda x: x > highest,
        "below median": lambda x: (x < middle) + 0.5 * (x == middle),
    }
    scores = {}
    for name, event in events.items():
        a, b = event(real), event(made)
        error = math.sqrt(a.var() / len(a) + b.var() / len(b) + 0.25 / len(a) ** 2)
        scores[name] = float((b.mean() - a.mean()) / error)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="one column")
    parser.add_argument("--epochs", type=int, default=150)
    arguments = parser.parse_args()
    held = tables()
    cause = held.pop("z")
    for name, real in held.items():
        if arguments.only not in (None, name):
            continue
        frame = pd.DataFrame(
            {name: real, "v": cause + 0.3 * np.random.default_rng(1).normal(size=ROWS)}
        )
        model = taut.VAEstimator(
            latent_dim=2, max_epochs=arguments.epochs, random_state=0, num_samples=50
        ).fit(frame)
        made = model.sample(SAMPLES)[name].to_numpy()
        kind = next(c for c in model.schema_.columns if c.name == name)
        numbers = [
            np.asarray(x).astype("datetime64[us]").astype(np.int64) if name == "moment" else x
            for x in (real, made)
        ]
        line = "  ".join(
            f"{what} {z:+.1f}{'!' if abs(z) > 3.3 else ''}"
            for what, z in compared(*numbers).items()
        )
        distinct = f"{len(np.unique(real)):,} / {len(np.unique(made)):,} different"
        print(f"{name:11} {kind.kind:9} {line}  {distinct}; {kind.describe()[1]}", flush=True)


if __name__ == "__main__":
    main()
