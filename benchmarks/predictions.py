"""What the audit predicts of each remedy against what comes true: nats of ELBO, with their errors.

    python benchmarks/predictions.py MNIST.npz OMNIGLOT.npz HIVAE.npz CELLS.npz --out runs/predicted

What a file holds is told by its arrays: train_images (MNIST) or images (OMNIGLOT) are made bits,
drawn again at each use; adult_data and adult_types (HI-VAE) become a Parquet file; data, indices,
indptr and shape are a matrix of counts, cells by genes, of which the 500 with the largest totals
are taken. Of each a modest VAE is trained, audited on held-out rows, and every finding whose
command is `taut tighten` or `taut refit` is carried out by that command. The run that was tightened
to a richer posterior is audited in turn, and so on for --rounds rounds.

The prediction is that of the finding: its nats, to `most` where a short trial reached the nats and
that is the most there can be. What came true is the paired rise of the ELBO of the same rows. It
is covered if it is not further from the range than two errors of the difference. Prints a table as
Markdown, and writes it as predictions.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import scipy.sparse
import tables
import torch

import taut
from taut.build.config import Config, TrainingConfig
from taut.data import Dataset
from taut.evidence.results import Estimate
from taut.evidence.section import Effort
from taut.model import Model
from taut.runs.audit import audit_run, some_rows
from taut.runs.fit import evaluate, start, train_run
from taut.runs.folder import read_data
from taut.runs.measure import copies
from taut.runs.remedy import Remedy, begin, read
from taut.runs.run import Run

LITTLE = Effort(  # that of `taut improve`
    num_chains=8,
    max_temperatures=50,
    simulated=4,
    naive=4,
    samples=200,
    train=4000,
    task_seconds=0.0,
)
DRAWS, ROWS = 256, 100  # of the posterior of a row, and rows at a time
GENES = 500
TESTED = 1000  # rows
VERBS = ("tighten", "refit")
Row = dict[str, Any]


def source_of(file: Path, out: Path) -> tuple[str, str, dict[str, Any]]:
    """Returns the name of a data set, what `taut fit` reads, and the settings that it is given."""
    with np.load(file) as arrays:
        names = set(arrays.files)
        if "train_images" in names:
            test = {"test": f"{file}:test_images"}
            bits = {"key": "train_images", "binarize": "dynamic", **test}
            return "MNIST", str(file), {"data": bits}
        if "images" in names:
            return "OMNIGLOT", str(file), {"data": {"key": "images", "binarize": "dynamic"}}
        if "adult_data" in names:
            table, path = tables.load(file, "adult"), out / "adult.parquet"
            pq.write_table(tables.to_arrow(table, table.values), path)
            return "adult", str(path), {"model": {"model": "VAE"}}
        parts, path = (arrays["data"], arrays["indices"], arrays["indptr"]), out / "cells.npz"
        counts = scipy.sparse.csr_matrix(parts, shape=tuple(arrays["shape"]))
        largest = np.argsort(-np.asarray(counts.sum(0)).ravel(), kind="stable")[:GENES]
        scipy.sparse.save_npz(path, counts[:, np.sort(largest)])
        return "cells", str(path), {}


def trained(run: Any, data: Dataset, state: Any) -> tuple[Run, float]:
    """Trains a run; returns it and the CPU minutes."""
    began = time.process_time()
    for _ in train_run(run, data, state):
        pass
    minutes = (time.process_time() - began) / 60
    for _ in evaluate(run, data):  # which makes it a run that is done
        pass
    return taut.load(run.path), minutes


def elbo(model: Model, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the ELBO of each row and its Monte Carlo error."""
    found = []
    with torch.no_grad():
        for first in range(0, len(x), ROWS):
            torch.manual_seed(first)
            each = model.draw(x[first : first + ROWS].to(torch.get_default_dtype()), DRAWS).elbo
            found.append(torch.stack([each.double().mean(0), each.double().std(0) / DRAWS**0.5]))
    value, error = torch.cat(found, 1)
    return value, error


def predicted(finding: dict[str, Any]) -> dict[str, float]:
    """Returns the least and the most nats that a finding promises, with their errors."""
    low, error = finding["nats"], finding["error"] or 0.0
    if finding.get("most") is None:
        return {"low": low, "low_error": error, "high": low, "high_error": error}
    most_error = finding.get("most_error")
    return {
        "low": low,
        "low_error": error,
        "high": max(low, finding["most"]),
        "high_error": error if most_error is None else most_error,
    }


def covers(promise: dict[str, float], value: float, error: float) -> bool:
    below = promise["low"] - value <= 2 * math.hypot(promise["low_error"], error)
    above = value - promise["high"] <= 2 * math.hypot(promise["high_error"], error)
    return below and above


def carried_out(
    name: str, run: Run, data: Dataset, number: int, options: argparse.Namespace
) -> Iterator[tuple[Row, Run]]:
    """Audits a run, and yields a row for each of its findings that was carried out, and the run
    that this made.
    """
    run.kept = data
    rows = data.test if len(data.test) else data.validation
    x = some_rows(rows, options.num_data, options.seed, "audit")
    groups, before = copies(x, data.divided), elbo(run.model, x)
    effort = dataclasses.replace(LITTLE, num_samples=options.num_samples)
    audit = audit_run(run, num_data=options.num_data, effort=effort, seed=options.seed)
    for finding in audit["findings"]:
        remedy = read(finding["command"])
        if remedy is None or remedy.verb not in VERBS or finding["nats"] is None:
            continue
        if finding["raises"] != "ELBO":
            continue
        new, minutes = made(remedy, run, data, number, options)
        after = elbo(new.model, x)
        error = torch.hypot(after[1], before[1])
        rise = Estimate.of(after[0] - before[0], error, groups)
        spread = max(e for e in (rise.test_error, rise.mc_error, 0.0) if e is not None)
        promise = predicted(finding)
        row = {
            "data": name,
            "posterior": run.config.model.posterior,
            "finding": finding["name"],
            "remedy": str(remedy),
            **promise,
            "came_true": rise.value,
            "error": spread,
            "covered": covers(promise, rise.value, spread),
            "cpu_min": minutes,
            "num_data": len(x),
        }
        print(written(row), flush=True)
        yield row, new


def made(
    remedy: Remedy, run: Run, data: Dataset, number: int, options: argparse.Namespace
) -> tuple[Run, float]:
    words = "-".join([remedy.verb, *(value.partition("(")[0] for _, value in remedy.options)])
    out = run.path.parent / f"{number}-{words}"
    epochs = epochs_of(data, options)
    new = begin(remedy, run, data, out, trained=run.config, minutes=None, max_epochs=epochs)
    return trained(*new)


def epochs_of(data: Dataset, options: argparse.Namespace) -> int:
    return math.ceil(options.steps * TrainingConfig().batch_size / len(data.train))


def written(row: Row) -> str:
    promise = f"{row['low']:.2f} ± {row['low_error']:.2f}"
    if row["high"] > row["low"]:
        promise += f" to {row['high']:.2f} ± {row['high_error']:.2f}"
    cells = [
        row["data"],
        row["posterior"],
        f"`{row['remedy']}`",
        promise,
        f"{row['came_true']:.2f} ± {row['error']:.2f}",
        "yes" if row["covered"] else "**no**",
        f"{row['cpu_min']:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("runs/predicted"))
    parser.add_argument("--steps", type=int, default=4000, help="of each training, about")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--num-data", type=int, default=300, help="rows that are looked at")
    parser.add_argument("--num-samples", type=int, default=1000, help="K of the audit")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for file in options.data:
        options.out.mkdir(parents=True, exist_ok=True)
        name, source, settings = source_of(file, options.out)
        settings |= {"training": {"threads": 1, "seed": options.seed}}
        config = Config.from_dict({**settings, "evaluation": {"num_samples": 50}})
        data = read_data(source, config)
        data = dataclasses.replace(data, test=data.test[:TESTED])
        epochs = epochs_of(data, options)
        config = Config.from_dict(
            config.to_dict() | {"training": settings["training"] | {"max_epochs": epochs}}
        )
        run, data, state = start(data, options.out / name / "start", config)
        now, _ = trained(run, data, state)
        for number in range(options.rounds):
            after = None
            for row, new in carried_out(name, now, data, number, options):
                rows.append(row)
                if "--posterior" in row["remedy"]:
                    after = new
            if after is None:
                break
            now = after
        (options.out / "predictions.json").write_text(json.dumps(rows, indent=2) + "\n")
    print("| data | posterior | remedy | predicted | came true | covered | CPU min |")
    print("|" + "---|" * 7)
    for row in rows:
        print(written(row))
    print(f"\ncovered: {sum(row['covered'] for row in rows)} of {len(rows)}")


if __name__ == "__main__":
    main()
