"""Training from a Parquet file that stays on disk, against the same table in memory: speed, memory,
the held-out bound.

    python benchmarks/stream.py --max-epochs 2

Writes a table of 400,000 rows and 50 columns (a nonlinear function of eight Gaussian factors, with
noise; 20 row groups) into a temporary folder, and trains on it twice, each time in a process of its
own with one thread: ``stream=True``, ``stream=False``. Reading, training and measuring are timed
apart. Memory is the peak of the process above that of one that only imports torch and taut. The
order of the batches differs by design: a streamed one is drawn from a few row groups at a time.

A third run is streamed too, killed (SIGKILL) on its way and resumed; its weights must be those of
the first, bit for bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Only the workers import more: a process starts with the peak memory of the one that made it.
ROWS, COLUMNS, FACTORS, GROUPS = 400_000, 50, 8, 20
Job = dict[str, Any]


def write(job: Job) -> Job:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet

    random = np.random.default_rng(0)
    first, second = (
        random.normal(size=(FACTORS, 2 * COLUMNS)),
        random.normal(size=(2 * COLUMNS, COLUMNS)) / COLUMNS**0.5,
    )
    schema = pa.schema([(f"x{i}", pa.float32()) for i in range(COLUMNS)])
    with pyarrow.parquet.ParquetWriter(job["table"], schema) as file:
        for _ in range(GROUPS):
            x = np.tanh(random.normal(size=(ROWS // GROUPS, FACTORS)) @ first) @ second
            x = (x + 0.3 * random.normal(size=x.shape)).astype(np.float32)
            file.write_table(pa.table(list(x.T), schema=schema))
    return {"mib": Path(job["table"]).stat().st_size / 2**20}


def imports(job: Job) -> Job:
    import torch

    import taut  # noqa: F401

    return {"peak_mib": peak_mib(), "torch": str(torch.__version__)}


def train(job: Job) -> Job:
    import taut.runs.fit as fitting
    from taut.build.config import Config

    settings = {
        "data": {"stream": job["stream"]},
        "training": {
            "max_epochs": job["max_epochs"],
            "seed": job["seed"],
            "threads": 1,
            "checkpoint_seconds": 0 if "kill_after" in job else 600,
        },
        "evaluation": {"num_samples": job["num_samples"]},
    }
    began = time.process_time()
    if job.get("resume"):
        run, data, state = fitting.resume(job["out"])
    else:
        run, data, state = fitting.start(job["table"], job["out"], Config.from_dict(settings))
    read, began, clock, first = (
        time.process_time() - began,
        time.process_time(),
        time.perf_counter(),
        state.step,
    )
    for number, _ in enumerate(fitting.train_run(run, data, state)):
        if number == job.get("kill_after"):
            os.kill(os.getpid(), signal.SIGKILL)
    cpu, seconds, steps = (
        time.process_time() - began,
        time.perf_counter() - clock,
        state.step - first,
    )
    peak = peak_mib()
    for _ in fitting.evaluate(run, data):
        pass
    result = run.evaluation()
    return {
        "streamed": data.streamed,
        "read_cpu_s": read,
        "train_cpu_s": cpu,
        "steps": steps,
        "rows_per_s": steps * run.config.training.batch_size / seconds,
        "rows_per_cpu_s": steps * run.config.training.batch_size / cpu,
        "cpu_s_per_1000_steps": 1000 * cpu / steps,
        "training_peak_mib": peak,
        "peak_mib": peak_mib(),
        "elbo": result["elbo"],
        "log_evidence": result["log_evidence"],
        "validation": run.history()[-1]["validation"],
        "weights": hashlib.sha256((run.path / "model.safetensors").read_bytes()).hexdigest(),
    }


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**20 if sys.platform == "darwin" else 2**10
    )


def run_alone(job: Job) -> Job:
    """Returns the result of a job in a process of its own; of one that kills itself, nothing."""
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, __file__, "--work", json.dumps(job)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)
    if "kill_after" in job and done.returncode == -signal.SIGKILL:
        return {}
    done.check_returncode()
    result: Job = json.loads(done.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--max-epochs", type=int, default=2)
    parser.add_argument("--num-samples", type=int, default=20, help="K of the held-out log p(x)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        job: Job = {
            "table": f"{folder}/table.parquet",
            "max_epochs": options.max_epochs,
            "num_samples": options.num_samples,
            "seed": options.seed,
        }
        written, imported = run_alone({"do": "write", **job}), run_alone({"do": "imports"})
        memory = run_alone({"do": "train", **job, "stream": False, "out": f"{folder}/memory"})
        streamed = run_alone({"do": "train", **job, "stream": True, "out": f"{folder}/streamed"})
        again = {"do": "train", **job, "stream": True, "out": f"{folder}/killed"}
        if run_alone({**again, "kill_after": 0}):
            sys.exit("the training was over before it could be killed: more --max-epochs")
        resumed = run_alone({**again, "resume": True})
    same = resumed["weights"] == streamed["weights"]
    print(
        f"{ROWS:,} x {COLUMNS} float32, {written['mib']:.0f} MiB, {GROUPS} row groups; one thread, "
        f"torch {imported['torch']}\n"
    )
    columns = [
        "rows",
        "reading, CPU s",
        "steps",
        "CPU s per 1,000 steps",
        "rows per CPU s",
        "rows per s",
    ]
    columns += [
        "peak above imports, MiB",
        "ELBO, held out",
        f"log p(x), K = {options.num_samples}",
        "± test set",
    ]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for name, r in (("in memory", memory), ("streamed", streamed)):
        cells = [
            name,
            f"{r['read_cpu_s']:.1f}",
            f"{r['steps']:,}",
            f"{r['cpu_s_per_1000_steps']:.2f}",
        ]
        cells += [
            f"{r['rows_per_cpu_s']:,.0f}",
            f"{r['rows_per_s']:,.0f}",
            f"{r['peak_mib'] - imported['peak_mib']:.0f}",
        ]
        cells += [
            f"{r['elbo']['value']:.2f}",
            f"{r['log_evidence']['value']:.2f}",
            f"{r['log_evidence']['test_error']:.2f}",
        ]
        print("| " + " | ".join(cells) + " |")
    ratio = {name: streamed[name] / memory[name] for name in ("rows_per_cpu_s", "rows_per_s")}
    print(
        f"\nstreamed / in memory: {ratio['rows_per_cpu_s']:.2f} in rows per CPU second, "
        f"{ratio['rows_per_s']:.2f} per second"
    )
    print(
        f"killed after its first interval and resumed: the weights are "
        f"{'the same' if same else 'NOT the same'} bits"
    )
    if options.json:
        report = {
            "imports": imported,
            "written": written,
            "in memory": memory,
            "streamed": streamed,
            "ratio": ratio,
            "resumed_same_bits": same,
        }
        options.json.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    sys.exit(not same)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        task = json.loads(sys.argv[2])
        print(
            json.dumps(
                {"write": write, "imports": imports, "train": train}[task["do"]](task),
                allow_nan=False,
            )
        )
    else:
        main()
