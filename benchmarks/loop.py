"""What `taut improve` and `taut choose` do on problems whose answers are known.

    python benchmarks/loop.py improve --seeds 10 --healthy 50
    python benchmarks/loop.py choose --seeds 50

`improve` plants the faults of tests/test_improve.py in linear models of rows with 5 columns (a
scale of twice its size, a shifted encoder, a diagonal posterior under correlated latents, a
standard prior where the latents are two clusters), and leaves others as they are. It prints what
share of the predicted nats came true, in how many the prediction covered that, and how many changes
of models that are well were kept in error.

`choose` draws rows of a linear model of rank 2 with 6 columns and lets it choose among factor
analysers of rank 1 to 5: in how many the true rank is chosen, and how far log p(x) of the rows that
it is told of lies above that of 20,000 fresh rows, for validation rows (that it was chosen by) and
test rows (read once).
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import test_improve as tests

import taut
from taut.runs.choose import choose
from taut.runs.improve import improve

FAULTS = ("scale", "encoder", "diagonal", "prior")
RANKS, RANK, COLUMNS, NOISE = (1, 2, 3, 4, 5), 2, 6, 0.5


def improved(seed: int, fault: str, minutes: float) -> dict[str, Any]:
    """Returns what was tried on a run with a fault, or on one that is well."""
    tests.RNG = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if fault:
            path, _ = tests.planted(fault, folder)
        else:
            path = folder / "run"
            tests.healthy(path)
        epochs = 100 if fault == "prior" else 40
        return improve(
            path, folder / "loop", minutes=minutes, max_epochs=epochs, num_data=160,
            trials=1 if fault else 8, seed=seed,
        )  # fmt: skip


def faults(seeds: int, healthy: int) -> None:
    print("| fault | share of the predicted nats | covered | kept |\n|---|---|---|---|")
    for fault in FAULTS:
        steps = [improved(seed, fault, 60)["steps"] for seed in range(seeds)]
        done = [each[0] for each in steps if each]
        shares = [step["came_true"]["value"] / step["predicted"]["value"] for step in done]
        print(
            f"| {fault} | {statistics.mean(shares):.3f} ({min(shares):.3f} to {max(shares):.3f}) | "
            f"{sum(step['covered'] for step in done)} of {len(done)} | "
            f"{sum(step['kept'] for step in done)} of {seeds} |",
            flush=True,
        )
    well = [improved(seed, "", 60)["steps"] for seed in range(healthy)]
    tried = sum(len(steps) for steps in well)
    kept = sum(step["kept"] for steps in well for step in steps)
    print(f"\n{healthy} models that are well: {tried} changes tried, {kept} kept")


def rank(seeds: int, first: int) -> None:
    right, apart = 0, {"validation": list[float](), "test": list[float]()}
    specs = [{"model.model": f"FactorAnalysis(latent_dim={r})"} for r in RANKS]
    for seed in range(first, first + seeds):
        rng = np.random.default_rng(seed)
        weight = rng.normal(size=(RANK, COLUMNS))

        def rows(count: int, rng: Any = rng, weight: Any = weight) -> np.ndarray:
            z = rng.normal(size=(count, RANK))
            return (z @ weight + NOISE * rng.normal(size=(count, COLUMNS))).astype(np.float32)

        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            np.save(folder / "x.npy", rows(600))
            answer = choose(
                str(folder / "x.npy"), folder / "study", candidates=specs, minutes=60,
                baselines=False,
            )  # fmt: skip
            (row,) = [row for row in answer["rows"] if row["chosen"]]
            model: Any = taut.load(folder / "study" / row["run"]).model
            with torch.no_grad():
                fresh = float(model.log_prob(torch.from_numpy(rows(20_000))).double().mean())
        right += f"latent_dim={RANK})" in row["candidate"]
        apart["validation"].append(row["log_evidence"]["value"] - fresh)
        apart["test"].append(answer["test"]["log_evidence"]["value"] - fresh)
    print(f"rank {RANK} of {RANKS} chosen: {right} of {seeds}")
    for part, values in apart.items():
        error = statistics.stdev(values) / len(values) ** 0.5
        print(f"log p(x) of {part} rows above that of fresh rows: {statistics.mean(values):+.3f} "
              f"± {error:.3f} nats")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("improve", "choose"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--healthy", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="of the seeds of choose")
    options = parser.parse_args()
    torch.set_num_threads(1)
    from taut.runs import improve as room

    room.LITTLE = dataclasses.replace(tests.LITTLE, max_temperatures=50)
    if options.what == "improve":
        faults(options.seeds, options.healthy)
    else:
        rank(options.seeds, options.first)


if __name__ == "__main__":
    main()
