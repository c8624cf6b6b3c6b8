"""How fast taut trains and measures a VAE, beside its peers and beside the multiplications alone.

    python benchmarks/speed.py train --model mlp --batch 20 128 1024 --threads 1 2 --data MNIST.npz
    python benchmarks/speed.py train --model mlp --objective iwae50 --batch 20 128
    python benchmarks/speed.py train --model conv --threads 1
    python benchmarks/speed.py evaluate --threads 1 2
    python benchmarks/speed.py linear

``train`` counts samples a second, ``evaluate`` tells what the importance-weighted log p(x) with K =
5000 costs, ``linear`` compares with factor analysis. The networks are 784-200-200-50 with tanh
(mlp) and those of ``ConvEncoder`` and ``ConvDecoder`` (conv); the images are the train_images of an
.npz file, or drawn from a seed: the speed does not depend on what they show.

Each peer is one script and one list of packages in ``peers/``; its environment is made on first
use, and what cannot be installed costs its row alone. Each measurement is a process of its own. The
processes run one at a time, each side once, then again: what else the machine does meets all sides
alike, and is in the table. A warm-up, compilation included, comes before the clock. Ratios are
medians of the ratios within one repetition.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from peers.common import factors, log_normal

HERE = Path(__file__).resolve().parent
SECONDS = 900  # for one process
MULTIPLICATIONS = "multiplications alone"
Result = dict[str, Any]  # what a worker measured, or {"error": why not}


class Side(NamedTuple):
    """One row of a table.

    Args:
        name: As it is printed.
        peer: The script in peers/.
        variant: Of the script.
        only: Models that it is for.
    """

    name: str
    peer: str
    variant: str = ""
    only: tuple[str, ...] = ("mlp", "conv")


SIDES = {
    "elbo": [
        Side(MULTIPLICATIONS, "multiplications"),
        Side(f"{MULTIPLICATIONS}, oneDNN", "multiplications", "oneDNN"),
        Side("taut (eager)", "taut", "eager"),
        Side("taut (compiled)", "taut", "compiled"),
        Side("pythae", "pythae"),
        Side("plain PyTorch loop", "plain", "loop"),
        Side("Lightning", "lightning"),
        Side("Pyro, Trace_ELBO", "pyro", "trace"),
        Side("Pyro, TraceMeanField_ELBO", "pyro", "mean field"),
        Side(
            "NumPyro, scan", "numpyro", "scan", ("mlp",)
        ),  # XLA compiles convolutions in a loop to something far slower
        Side("NumPyro, jit", "numpyro", "jit", ("conv",)),
        Side("JAX, scan", "jax", "scan", ("mlp",)),
        Side("JAX, jit", "jax", "jit"),
    ],
    "iwae50": [
        Side(MULTIPLICATIONS, "multiplications"),
        Side(f"{MULTIPLICATIONS}, oneDNN", "multiplications", "oneDNN"),
        Side("taut (eager)", "taut", "eager"),
        Side("taut (compiled)", "taut", "compiled"),
        Side("input replicated, torch.distributions", "plain", "replicate"),
        Side("pythae", "pythae"),
    ],
    "evaluate": [
        Side(MULTIPLICATIONS, "multiplications"),
        Side(f"{MULTIPLICATIONS}, oneDNN", "multiplications", "oneDNN"),
        Side("taut.importance", "taut"),
        Side("pythae", "pythae", "100"),  # batch_size, 100 by default
        Side("pythae, batch_size=1000", "pythae", "1000"),
    ],
    "linear": [
        Side("taut", "taut"),
        Side("FactorAnalysis, randomized", "sklearn", "randomized"),  # scikit-learn's default
        Side("FactorAnalysis, lapack", "sklearn", "lapack"),
    ],
}
OWN = ("multiplications", "taut")  # run in the environment of this process
SAMPLES = {
    ("mlp", "elbo"): 30_000,
    ("conv", "elbo"): 2_500,
    ("mlp", "iwae50"): 1_500,
    ("conv", "iwae50"): 150,
}
ROWS = {"mlp": 32, "conv": 4}  # whose log p(x) is computed


def interpreter(peer: str, environments: Path) -> Path:
    """Returns the Python of a peer's environment, which is made where it is missing or its packages
    have changed.

    Fails:
        CalledProcessError: it cannot be made; its stderr says why.
    """
    if peer in OWN:
        return Path(sys.executable)
    packages, folder = HERE / "peers" / f"{peer}.txt", environments / peer
    wanted = f"{sys.version}\n{packages.read_text()}"
    mark, python = folder / "installed", folder / "bin" / "python"
    if not mark.exists() or mark.read_text() != wanted:
        print(f"installing {peer} into {folder}", file=sys.stderr, flush=True)
        venv: list[str | Path] = [sys.executable, "-m", "venv", "--clear", folder]
        install: list[str | Path] = [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-compile",
            "--disable-pip-version-check",
            "-r",
            packages,
        ]
        for command in (venv, install):
            subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
        mark.write_text(wanted)
    return python


def measured(side: Side, job: Result, python: Path, seconds: float = SECONDS) -> Result:
    """Returns the result of a worker process, which has so many seconds."""
    threads = str(job["threads"])
    limits = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC"), threads
    )
    # JAX: NPROC is the size of XLA's pool of threads; its matrix products have a pool of their own.
    limits["XLA_FLAGS"] = (
        f"--xla_cpu_multi_thread_eigen={'true' if job['threads'] > 1 else 'false'}"
    )
    limits |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as folder:
        given = json.dumps(job | {"variant": side.variant, "folder": folder})
        command: list[str | Path] = [python, "-m", f"peers.{side.peer}", given]
        try:
            done = subprocess.run(
                command,
                cwd=HERE,
                env=os.environ | limits,
                capture_output=True,
                text=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            return {"error": f"took more than {seconds:.0f} s"}
    if done.returncode:
        return {"error": last_line(done.stderr)}
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def last_line(text: str | None) -> str:
    return next(
        (line.strip() for line in reversed((text or "").splitlines()) if line.strip()), "no message"
    )


def all_measured(
    sides: list[Side], jobs: list[Result], repetitions: int, environments: Path
) -> list[Result]:
    """Returns for each job and each side the results of its repetitions.

    Those of a job are interleaved.
    """
    pythons: dict[str, Path | str] = {}
    for peer in dict.fromkeys(side.peer for side in sides):
        try:
            pythons[peer] = interpreter(peer, environments)
        except subprocess.CalledProcessError as error:
            pythons[peer] = f"not installed: {last_line(error.stderr)}"
    rows = []
    for job in jobs:
        results: dict[str, list[Result]] = {side.name: [] for side in sides}
        for repetition in range(repetitions):
            for side in sides:
                python, earlier = pythons[side.peer], results[side.name]
                if isinstance(python, str):
                    earlier.append({"error": python})
                elif earlier and "error" in earlier[-1]:
                    earlier.append(earlier[-1])  # it would fail again
                else:
                    earlier.append(measured(side, job | {"seed": repetition}, python))
        rows += [{"who": side.name, "job": job, "runs": results[side.name]} for side in sides]
        print(
            "measured:",
            ", ".join(f"{k} {job[k]}" for k in ("threads", "batch") if k in job),
            file=sys.stderr,
            flush=True,
        )
    return rows


def spread(values: list[float], form: str) -> str:
    """Returns the median and, of more than one value, the least and the most."""
    middle = format(statistics.median(values), form)
    return f"{middle} ({min(values):{form}}–{max(values):{form}})" if len(values) > 1 else middle


def ratio(row: Result, rows: list[Result], other: str, by: str) -> str:
    """Returns how many times as fast a row is as another of the same job.

    Nothing where one of them is missing.
    """
    base = next((r for r in rows if r["who"] == other and r["job"] == row["job"]), None)
    if base is None or any("error" in r for r in row["runs"] + base["runs"]):
        return ""
    pairs = zip(row["runs"], base["runs"], strict=True)
    ratios = [(a["samples"] / a[by]) / (b["samples"] / b[by]) for a, b in pairs]
    return f"{statistics.median(ratios):.2f}"


def table(rows: list[Result], columns: dict[str, Callable[[Result], str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        error = row["runs"][0].get("error")
        if error is None:
            lines.append("| " + " | ".join(column(row) for column in columns.values()) + " |")
        else:
            cells = [
                column(row)
                for name, column in columns.items()
                if name in ("threads", "batch", "who")
            ]
            lines.append(
                "| "
                + " | ".join([*cells, error.replace("|", "/")])
                + " |"
                + " |" * (len(columns) - len(cells) - 1)
            )
    return "\n".join(lines)


def values(row: Result, value: Callable[[Result], float | None], form: str) -> str:
    known = [v for v in map(value, row["runs"]) if v is not None]
    return spread(known, form) if known else ""


def columns_of(what: str, rows: list[Result], by: str) -> dict[str, Callable[[Result], str]]:
    """Returns the columns of a table: a heading and what stands below it for a row."""
    columns: dict[str, Callable[[Result], str]] = {"threads": lambda r: str(r["job"]["threads"])}
    if what == "train":
        columns["batch"] = lambda r: str(r["job"]["batch"])
    columns["who"] = lambda r: r["who"]
    if what == "linear":
        columns["log p(x), new rows, nats"] = lambda r: values(
            r, lambda m: m["log_evidence"], ".4f"
        )
        columns["wall s"] = lambda r: values(r, lambda m: m["wall_s"], ".2f")
        columns["CPU s"] = lambda r: values(r, lambda m: m["cpu_s"], ".2f")
        return columns
    if what == "train":
        columns["samples/s"] = lambda r: values(r, lambda m: m["samples_per_s"], ",.0f")
    else:
        columns["wall s for 1,000 data"] = lambda r: values(
            r, lambda m: 1000 * m["wall_s"] / m["samples"], ".1f"
        )
    columns["÷ multiplications"] = lambda r: ratio(r, rows, MULTIPLICATIONS, by)
    columns["÷ pythae"] = lambda r: ratio(r, rows, "pythae", by)
    if what == "train":
        columns["CPU s for 10,000"] = lambda r: values(
            r, lambda m: 1e4 * m["cpu_s"] / m["samples"], ".2f"
        )
    else:
        columns["CPU s for 1,000 data"] = lambda r: values(
            r, lambda m: 1000 * m["cpu_s"] / m["samples"], ".1f"
        )
        columns["peak memory, MiB"] = lambda r: values(r, lambda m: m["peak_mib"], ".1f")
    columns["cores used by others"] = lambda r: values(r, lambda m: m["other_cores"], ".2f")
    return columns


def jobs_of(options: argparse.Namespace, data: str) -> list[Result]:
    common = {"do": options.what, "data": data, "objective": "elbo"}
    if options.what == "linear":
        return [
            common | {"threads": t, "epochs": 20 if options.short else 200} for t in options.threads
        ]
    common["model"] = options.model
    if options.what == "evaluate":
        rows = ROWS[options.model] // (2 if options.short else 1)
        common |= {"num_samples": options.num_samples, "steps": rows, "warmup": 1, "batch": 1}
        return [common | {"threads": threads} for threads in options.threads]
    jobs = []
    for threads in options.threads:
        for batch in options.batch:
            samples = options.samples or SAMPLES[options.model, options.objective] // (
                2 if options.short else 1
            )
            steps = max(3, samples // batch)
            job = {
                "objective": options.objective,
                "threads": threads,
                "batch": batch,
                "steps": steps,
                "warmup": min(steps, 20),
            }
            jobs.append(common | job)
    return jobs


def write_images(source: Path | None, target: str) -> None:
    if source is None:
        random = np.random.default_rng(0)
        images = (255 * random.random((12_000, 28, 28)) ** 4).astype(np.uint8)
    else:
        with np.load(source) as arrays:
            images = arrays["train_images"]
    np.save(target, images)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    for what in ("train", "evaluate", "linear"):
        command = commands.add_parser(what)
        command.add_argument("--threads", type=int, nargs="+", help="1 2; with --short 1")
        command.add_argument(
            "--short",
            action="store_true",
            help="batches of 128, one thread, two repetitions, half as long",
        )
        command.add_argument("--repetitions", type=int)
        command.add_argument(
            "--peers", nargs="+", help=f"scripts in peers/; {', '.join(OWN)} always run"
        )
        command.add_argument("--environments", type=Path, default=HERE / ".environments")
        command.add_argument("--json", type=Path)
        command.add_argument(
            "--by",
            choices=("wall", "cpu"),
            default="wall",
            help="seconds of the ratios; cpu where others work too",
        )
        if what != "linear":
            command.add_argument("--model", choices=("mlp", "conv"), default="mlp")
            command.add_argument("--data", type=Path, help=".npz with train_images, uint8, 28 x 28")
        if what == "train":
            command.add_argument("--objective", choices=("elbo", "iwae50"), default="elbo")
            command.add_argument(
                "--batch", type=int, nargs="+", help="20 128 1024; with --short 128"
            )
            command.add_argument(
                "--samples",
                type=int,
                help="that are timed, in place of a number that takes seconds",
            )
        if what == "evaluate":
            command.add_argument(
                "--num-samples", type=int, default=5000, help="K, a multiple of 1000"
            )
    options = parser.parse_args()
    options.threads = options.threads or ([1] if options.short else [1, 2])
    options.repetitions = options.repetitions or (2 if options.short else 3)
    if options.what == "train":
        options.batch = options.batch or ([128] if options.short else [20, 128, 1024])
    if options.what == "evaluate" and options.num_samples % 1000:
        parser.error(
            "--num-samples must be a multiple of 1000: get_nll leaves out the remainder of its "
            "batches"
        )
    return options


def main() -> None:
    options = arguments()
    sides = SIDES[options.objective if options.what == "train" else options.what]
    if options.what != "linear":
        sides = [side for side in sides if options.model in side.only]
    if options.peers is not None:
        if unknown := set(options.peers) - {side.peer for side in sides}:
            sys.exit(
                f"no such peer here: {', '.join(sorted(unknown))}; there are "
                f"{', '.join({s.peer: 0 for s in sides})}"
            )
        sides = [side for side in sides if side.peer in (*options.peers, *OWN)]
    with tempfile.TemporaryDirectory() as folder:
        if options.what != "linear":
            write_images(options.data, f"{folder}/images.npy")
        jobs = jobs_of(options, f"{folder}/images.npy")
        rows = all_measured(sides, jobs, options.repetitions, options.environments.resolve())
    title = " ".join(
        [options.what, getattr(options, "model", ""), getattr(options, "objective", "")]
    ).strip()
    machine = (
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch "
        f"{version('torch')}"
    )
    print(f"{title}; median (least–most) of {options.repetitions}; {machine}\n")
    print(table(rows, columns_of(options.what, rows, f"{options.by}_s")))
    if options.what == "linear":
        _, test, loadings, noise = factors()
        print(
            f"\nThe model that made the rows: {log_normal(test, 0 * noise, loadings, noise):.4f} "
            f"nats."
        )
    if options.json:
        report = {
            "what": title,
            "machine": machine,
            "python": platform.python_version(),
            "rows": rows,
        }
        options.json.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
