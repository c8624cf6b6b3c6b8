"""How the cost of taut grows: seconds and memory of training and of evaluation over N, K, the
dimensions and the batch; of convolutions over the side of the image, of a hierarchy over its
levels, and of a hidden tree over rows, columns and states.

    python benchmarks/scaling.py

One size is varied at a time, the others stay at ``BASE``. An exponent is the slope of log cost over
log size: 1 is linear growth, 0 is none, and between them a part of the cost does not depend on that
size. The time is that of a training step, of the importance-weighted log p(x) of all N data, or of
a pass of EM with what comes before the first one, in CPU seconds. Each point is a process of its
own with one thread, warmed up before the clock. Memory is the peak above what the process held
before: after a tiny training, or with model and data made.
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
    "convolutions": {"side": 16, "batch": 32},
    "hierarchy": {"levels": 2, "batch": 128},
    "hidden tree": {"N": 4000, "columns": 8, "states": 16},
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
    "convolutions": {"side": [16, 32, 64]},
    "hierarchy": {"levels": [2, 4, 8]},
    "hidden tree": {
        "N": [4_000, 16_000, 64_000],
        "columns": [8, 16, 32],
        "states": [16, 32, 64],
    },
}
NAMES = {
    "N": "N, rows",
    "K": "K, samples",
    "D": "D, latent dimensions",
    "d": "elements of a datum",
    "batch": "batch",
    "side": "side of the image",
    "levels": "levels",
    "columns": "columns of 10 levels",
    "states": "states of a column",
}
PASSES = 5


def step_of(rows: Any, config: Any, batch: int) -> Cost:
    """Returns what a training step costs."""
    from peers.common import Memory, Watch
    from peers.taut import timed_training

    def run(rows: Any, config: Any, watch: Watch) -> Watch:
        with tempfile.TemporaryDirectory() as folder:
            timed_training(rows, config, watch, folder)
        return watch

    small = configured({"K": 1, "D": 1, "batch": 8})
    run(bits(64, 8), small, Watch({"batch": 8, "warmup": 1, "steps": 1}))
    memory = Memory()
    watch = run(rows, config, Watch({"batch": batch, "warmup": 5, "steps": 20}))
    return {"seconds": watch.result["cpu_s"] / watch.steps, "mib": memory.grown()}


def training(size: Size) -> Cost:
    return step_of(bits(size["N"], size["d"]), configured(size), size["batch"])


def convolutions(size: Size) -> Cost:
    side = size["side"]
    config = configured({"K": 1, "D": 16} | size, encoder="ConvEncoder()", decoder="ConvDecoder()")
    return step_of(bits(1000, side * side).reshape(-1, side, side), config, size["batch"])


def hierarchy(size: Size) -> Cost:
    config = configured({"K": 1, "D": 16} | size, model=f"HierarchicalVAE(levels={size['levels']})")
    return step_of(bits(4000, 256), config, size["batch"])


def hidden_tree(size: Size) -> Cost:
    import numpy as np
    import torch
    from peers.common import Memory, cpu_seconds

    from taut.models import HiddenTree

    torch.set_num_threads(1)
    columns, states = size["columns"], size["states"]
    rows = torch.from_numpy(np.random.default_rng(0).integers(0, 10, (size["N"], columns))).float()
    model = HiddenTree((columns,), ["category"] * columns, states, [10] * columns)
    memory, began = Memory(), cpu_seconds()
    done = sum(1 for _ in model.maximize(rows, rows[:100], max_passes=PASSES))
    return {"seconds": (cpu_seconds() - began) / done, "mib": memory.grown()}


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


def configured(size: Size, **model: str) -> Any:
    from taut.build.config import Config

    networks = {} if "model" in model else {"encoder": "MLP()", "decoder": "MLP()"}
    return Config.from_dict(
        {
            "data": {"validation_fraction": 0.0, "test_fraction": 0.0},
            "model": {"latent_dim": size["D"], **networks, **model},
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
    parser.add_argument("--only", nargs="+", default=list(BASE), choices=list(BASE))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    points = {
        (what, name, value): BASE[what] | {name: value}
        for what in options.only
        for name, v in VALUES[what].items()
        for value in v
    }
    # the base belongs to every axis
    sizes = {json.dumps([what, size]): (what, size) for (what, _, _), size in points.items()}
    costs: dict[str, list[Cost]] = {key: [] for key in sizes}
    for _ in range(options.repetitions):
        for key, (what, size) in sizes.items():
            costs[key].append(cost(what, size))
    rows: list[dict[str, Any]] = []
    for what in options.only:
        for name, values in VALUES[what].items():
            runs = [costs[json.dumps([what, points[what, name, value]])] for value in values]
            row: dict[str, Any] = {"what": what, "name": name, "values": values}
            for of in ("seconds", "mib"):
                row[of] = [statistics.median(r[of] for r in repetitions) for repetitions in runs]
                slope = exponent(values, row[of])
                row[f"{of}_exponent"] = None if math.isnan(slope) else slope
            rows.append(row)
    base = "; ".join(
        f"{what}: " + ", ".join(f"{k} = {v:,}" for k, v in BASE[what].items())
        for what in options.only
    )
    print(f"Elsewhere {base}. One thread; median of {options.repetitions}.\n")
    print(
        "| what | over | values | CPU time of a step or pass, or of all N | exponent | "
        "peak memory, MiB | exponent |\n" + "|---" * 7 + "|"
    )
    for row in rows:
        whole = row["what"] == "evaluation"
        scale, form, unit = (1, ".2f", "s") if whole else (1000, ".1f", "ms")
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
        works = (training, evaluation, convolutions, hierarchy, hidden_tree)
        work = next(work for work in works if work.__name__ == task.replace(" ", "_"))
        print(json.dumps(work(given), allow_nan=False))
    else:
        main()
