"""Columns on a grid seen through their marginal, beside the families that they had before: held-out
log p(x) of the same rows with the same budget, and how far the columns of synthetic rows are off.

    python benchmarks/marginals.py HIVAE.npz --epochs 20

HIVAE.npz is the file of benchmarks/tables.py. A VAE is fitted to the rows without a gap, once with
``Columns()`` (negative binomial, Student t, log-normal, a density with one atom) and once with
``Columns(warp=True)``, the default. The difference is paired: of the same held-out rows, in nats a
row, with the standard error of its mean. Marginals are the measure of benchmarks/synthetic.py:
total variation of a category, Kolmogorov-Smirnov of a number, a mean over the columns, against the
held-out rows; beside it that of as many training rows.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from synthetic import marginals
from tables import Array, Table, from_arrow, load, schema_file, show, to_arrow

import taut
from taut.data import to_table
from taut.runs.making import sample_rows

BEFORE, NOW = "Columns()", "Columns(warp=True)"


def fitted(table: Table, rows: Array, likelihood: str, epochs: int) -> tuple[Array, Array, float]:
    """Returns log p(x) of the held-out rows, synthetic rows, and CPU seconds."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        schema = schema_file(table, Path(folder) / "schema.toml")
        run = taut.fit(
            to_arrow(table, rows),
            f"{folder}/run",
            schema=str(schema),
            model="VAE()",
            likelihood=likelihood,
            max_epochs=epochs,
            threads=1,
        )
        seconds = time.process_time() - began
        log_p = np.asarray(run.score(num_samples=200)["log_evidence"])
        made = to_table(sample_rows(run, len(rows) // 2), run.schema.written)
        return log_p, from_arrow(table, made), seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--tables", nargs="+", default=["adult", "defaultcredit", "spam"], help="which"
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--max-rows", type=int, help="for a quick look")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for name in options.tables:
        table = load(options.data, name)
        whole = table.values[~np.isnan(table.values).any(1)]
        whole = whole[np.random.default_rng(0).permutation(len(whole))[: options.max_rows]]
        half = len(whole) // 2
        found = [fitted(table, whole, which, options.epochs) for which in (BEFORE, NOW)]
        gain = found[1][0] - found[0][0]
        off = [marginals(table, made, whole[half:])[0] for _, made, _ in found]
        lines.append(
            [
                name,
                f"{found[0][0].mean():.2f}",
                f"{found[1][0].mean():.2f}",
                f"{gain.mean():+.2f} ± {gain.std() / len(gain) ** 0.5:.2f}",
                *(f"{o:.3f}" for o in (*off, marginals(table, whole[:half], whole[half:])[0])),
                " and ".join(f"{seconds:.0f}" for *_, seconds in found),
            ]
        )
        show(["table", BEFORE, NOW, "gain", "marginals", "now", "of the data", "CPU s"], lines)


if __name__ == "__main__":
    main()
