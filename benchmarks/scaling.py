"""How the cost of taut grows: seconds and memory of training and of evaluation over N, K, the
dimensions and the batch.

    python benchmarks/scaling.py

One size is varied at a time, the others stay at ``BASE``. An exponent is the slope of log cost over
log size: 1 is linear growth, 0 is none, and between them a part of the cost does not depend on that
size. The time is that of a training step, or of the importance-weighted log p(x) of all N data, in
CPU seconds. Each point is a process of its own with one thread, warmed up before the clock. Memory
is the peak above what the process held before: after a tiny training, or with model and data made.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

Size = dict[str, int]
Cost = dict[str, float]
BASE: dict[str, Size] = {
    "training": {"N": 4000, "K": 4, "D": 16, "d": 256, "batch": 128},
    "evaluation": {"N": 64, "K": 1000, "D": 16, "d": 256},
}
VALUES: dict[str, dict[str, list[int]]] = {
    "training": {
        "N": [4_000, 16_000, 64_000],
        "K": [4, 16, 64],
        "D": [16, 64, 256],
        "d": [256, 1024, 4096],
        "batch": [128, 512, 2048],
    },
    "evaluation": {
        "N": [64, 256, 1024],
        "K": [1_000, 4_000, 16_000],
        "D": [16, 64, 256],
        "d": [256, 1024, 4096],
    },
}
NAMES = {
    "N": "N, rows",
    "K": "K, samples",
    "D": "D, latent dimensions",
    "d": "elements of a datum",
    "batch": "batch",
}


def training(size: Size) -> Cost:
    from peers.common import Memory, Watch
    from peers.taut import timed_training

    def run(size: Size, warmup: int, steps: int) -> Watch:
        watch = Watch({"batch": size["batch"], "warmup": warmup, "steps": steps})
        with tempfile.TemporaryDirectory() as folder:
            timed_training(bits(size["N"], size["d"]), configured(size), watch, folder)
        return watch

    run({"N": 64, "K": 1, "D": 1, "d": 8, "batch": 8}, 1, 1)
    memory = Memory()
    watch = run(size, 5, 20)
    return {"seconds": watch.result["cpu_s"] / watch.steps, "mib": memory.grown()}


def evaluation(size: Size) -> Cost:
    import torch
    from peers.common import Memory, cpu_seconds

    import taut
    from taut.runs.fit import assemble

    torch.set_num_threads(1)
    x = bits(size["N"], size["d"])
    model = assemble(x, configured(size | {"batch": 64}))[2]
    rows = torch.from_numpy(x)
    taut.importance(model, rows[:32], 50)
    memory, began = Memory(), cpu_seconds()
    taut.importance(model, rows, size["K"])
    return {"seconds": cpu_seconds() - began, "mib": memory.grown()}


def bits(rows: int, elements: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, 2, (rows, elements), np.uint8)


def configured(size: Size) -> Any:
    from taut.build.config import Config

    return Config.from_dict(
        {
            "data": {"validation_fraction": 0.0, "test_fraction": 0.0},
            "model": {"latent_dim": size["D"], "encoder": "MLP()", "decoder": "MLP()"},
            "training": {
                "objective": f"IWAE(num_samples={size['K']})",
                "batch_size": size["batch"],
                "max_epochs": 10**6,
                "threads": 1,
                "device": "cpu",
                "compile": "off",  # twenty compilations would take longer than all the rest
            },
        }
    )


def cost(what: str, size: Size) -> Cost:
    """Returns the cost of one point, measured in a process of its own."""
    command = [sys.executable, __file__, "--work", json.dumps([what, size])]
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    result: Cost = json.loads(done.stdout.splitlines()[-1])
    return result


def exponent(sizes: list[int], costs: list[float]) -> float:
    """Returns the slope of the line of least squares through log cost over log size."""
    if min(costs) <= 0:
        return math.nan  # a peak that did not rise
    return statistics.linear_regression(
        [math.log(s) for s in sizes], [math.log(c) for c in costs]
    ).slope


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--repetitions", type=int, default=1, help="of each point; the median counts"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    points = {
        (what, name, value): BASE[what] | {name: value}
        for what, axes in VALUES.items()
        for name, v in axes.items()
        for value in v
    }
    # the base belongs to every axis
    sizes = {json.dumps([what, size]): (what, size) for (what, _, _), size in points.items()}
    costs: dict[str, list[Cost]] = {key: [] for key in sizes}
    for _ in range(options.repetitions):
        for key, (what, size) in sizes.items():
            costs[key].append(cost(what, size))
    rows: list[dict[str, Any]] = []
    for what, axes in VALUES.items():
        for name, values in axes.items():
            runs = [costs[json.dumps([what, points[what, name, value]])] for value in values]
            row: dict[str, Any] = {"what": what, "name": name, "values": values}
            for of in ("seconds", "mib"):
                row[of] = [statistics.median(r[of] for r in repetitions) for repetitions in runs]
                slope = exponent(values, row[of])
                row[f"{of}_exponent"] = None if math.isnan(slope) else slope
            rows.append(row)
    base = "; ".join(
        f"{what}: " + ", ".join(f"{k} = {v:,}" for k, v in size.items())
        for what, size in BASE.items()
    )
    print(f"Elsewhere {base}. One thread; median of {options.repetitions}.\n")
    print(
        "| what | over | values | CPU time of a step, or of all N | exponent | peak memory, MiB | "
        "exponent |\n" + "|---" * 7 + "|"
    )
    for row in rows:
        scale, form, unit = (1000, ".1f", "ms") if row["what"] == "training" else (1, ".2f", "s")
        slopes = [
            "" if row[n] is None else f"{row[n]:.2f}" for n in ("seconds_exponent", "mib_exponent")
        ]
        seconds = ", ".join(f"{scale * s:{form}}" for s in row["seconds"])
        memory = ", ".join(f"{m:.1f}" for m in row["mib"])
        over = ", ".join(f"{v:,}".replace(",", " ") for v in row["values"])
        print(
            f"| {row['what']} | {NAMES[row['name']]} | {over} | {seconds} {unit} | {slopes[0]} | "
            f"{memory} | {slopes[1]} |"
        )
    if options.json:
        options.json.write_text(
            json.dumps({"base": BASE, "rows": rows}, indent=2, allow_nan=False) + "\n"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        task, given = json.loads(sys.argv[2])
        print(
            json.dumps(
                {"training": training, "evaluation": evaluation}[task](given), allow_nan=False
            )
        )
    else:
        main()
