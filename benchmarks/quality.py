"""MNIST, dynamic binarization, 784-200-200-50 tanh: the curve of nats against CPU minutes, taut
beside pythae and a plain loop.

    python benchmarks/quality.py MNIST.npz --minutes 1.25 2.5 5 --objectives "ELBO()"
    "DReG(num_samples=5)" --json quality.json

One thread each. taut is trained anew for each budget, since its schedule knows the end; a peer
once, at its own constant rate, leaving its weights whenever a budget is used up
(``peers/quality.py``). ``plain`` is the loop of tutorials, ``lean`` the same without PIL and
DataLoader. All are measured in this process by taut's estimator with K = 500, on the same test
images, binarised once. A peer's weights are put into a taut model for it; the ELBO by the peer's
own formula must be that of taut for them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from peers.common import HIDDEN, LATENT, SIDE
from peers.quality import configured
from speed import HERE, Result, Side, interpreter, last_line, measured, write_images
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from taut import (
    MLP,
    VAE,
    Bernoulli,
    Estimate,
    Evidence,
    Posterior,
    StandardNormal,
    importance,
    load,
)
from taut.runs.folder import read_data

CHECKED = 500  # test images whose ELBO a peer computes itself
FALSE_ALARM = 5.0  # standard errors: once in two million runs
OTHER = "not the same model"
# What is printed, and the environment.
PEERS = {
    "pythae": ("pythae", "pythae"),
    "plain": ("plain loop", "plain"),
    "lean": ("plain loop, lean", "plain"),
}


class LogVariance(Posterior):
    """The diagonal Gaussian as the peers write it.

    Their encoder gives the mean and the logarithm of the variance of z.
    """

    def __init__(self, encoder: MLP) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        loc, log_variance = self.encoder(x).unbind(-2)
        return Independent(Normal(loc, torch.exp(0.5 * log_variance)), 1)


def peers_model(weights: Path) -> VAE:
    """Returns the taut model that is a peer's: nothing is standardised, and no logit
    has an offset.
    """
    network = partial(MLP, hidden=(HIDDEN, HIDDEN), activation="tanh")
    encoder, likelihood = (
        network((SIDE, SIDE), (2, LATENT)),
        Bernoulli((SIDE, SIDE), LATENT, network),
    )
    with np.load(weights) as arrays:
        for name, part in (("encoder", encoder), ("decoder", likelihood.decoder)):
            own = {
                k.removeprefix(f"{name}."): torch.from_numpy(v)
                for k, v in arrays.items()
                if k.startswith(f"{name}.")
            }
            part.layers.load_state_dict(own)
    return VAE(StandardNormal(LATENT), likelihood, LogVariance(encoder))


def measured_points(
    training: Result, x: Tensor, num_samples: int
) -> tuple[list[Result], list[str]]:
    """Returns a row of the table for each budget of a training, and what there is to
    say about it.
    """
    if "error" in training:
        return [], [f"{training['who']}, {training['minutes']} min: {training['error']}"]
    rows = []
    for point in training.pop("points"):
        path = Path(point.pop("weights"))
        evidence = importance(
            load(path).model if path.is_dir() else peers_model(path), x, num_samples
        )
        values = {
            n: Estimate.of(getattr(evidence, n), getattr(evidence, f"{n}_error"))
            for n in ("elbo", "log_evidence")
        }
        rows.append(
            {"who": training["who"], **point, **{n: value.to_dict() for n, value in values.items()}}
        )
    return rows, [checked(training["who"], training["own"], evidence)] if "own" in training else []


def checked(who: str, own: Result, evidence: Evidence) -> str:
    """Returns a line that compares a peer's own ELBO of the first test images with that of its
    weights in a taut model.
    """
    n = min(CHECKED, len(evidence.elbo))
    here, error = (
        float(evidence.elbo[:n].mean()),
        float(evidence.elbo_error[:n].square().sum().sqrt()) / n,
    )
    same = abs(here - own["elbo"]) < FALSE_ALARM * math.hypot(error, own["error"])
    theirs = f"{own['elbo']:.3f} ± {own['error']:.3f} by its own formula"
    line = f"{who}, ELBO of {n} test images: {theirs}, {here:.3f} ± {error:.3f} by taut"
    return line if same else f"{OTHER}: {line}"


def table(rows: list[Result]) -> str:
    lines = [
        "| who | training, CPU min | epochs | -ELBO | -log p(x) | ± MC | ± test set |",
        "|---" * 7 + "|",
    ]
    for row in rows:
        nats = row["log_evidence"]
        cells = [
            row["who"],
            f"{row['cpu_s'] / 60:.2f}",
            f"{row['epochs']:.1f}",
            f"{-row['elbo']['value']:.2f}",
        ]
        cells += [f"{-nats['value']:.2f}", f"{nats['mc_error']:.3f}", f"{nats['test_error']:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "data", type=Path, help=".npz with train_images and test_images, uint8, 28 x 28"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        nargs="+",
        default=[1.25, 2.5, 5.0],
        help="of CPU, for each training",
    )
    parser.add_argument(
        "--objectives", nargs="*", default=["ELBO()", "DReG(num_samples=5)"], help="of taut"
    )
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--test-images", type=int, default=2000, help="the first so many")
    parser.add_argument("--num-samples", type=int, default=500, help="K")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--environments", type=Path, default=HERE / ".environments")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    common: Result = {"threads": 1, "seed": options.seed, "source": str(options.data.resolve())}
    pythons: dict[str, Path | str] = {"taut": Path(sys.executable)}
    for peer in options.peers:
        try:
            pythons[peer] = interpreter(PEERS[peer][1], options.environments.resolve())
        except subprocess.CalledProcessError as error:
            pythons[peer] = f"not installed: {last_line(error.stderr)}"
    x = read_data(f"{options.data}:train_images", configured(common)).test[: options.test_images]
    minutes = sorted(options.minutes)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        write_images(options.data, f"{folder}/images.npy")
        np.save(f"{folder}/test.npy", x[:CHECKED].to(torch.float32).numpy())
        common |= {"data": f"{folder}/images.npy", "test": f"{folder}/test.npy"}

        def trained(job: Result) -> Result:
            who, python, last = job["who"], pythons[job["variant"]], job["minutes"][-1]
            if isinstance(python, str):
                return {"who": who, "minutes": job["minutes"], "error": python}
            result = measured(
                Side(who, "quality", job["variant"]), common | job, python, 600 + 240 * last
            )
            print(
                f"{who}, {job['minutes']} min:",
                result.get("error", "trained"),
                file=sys.stderr,
                flush=True,
            )
            return {"who": who, "minutes": job["minutes"]} | result

        jobs = [
            {"who": PEERS[p][0], "variant": p, "minutes": minutes, "out": folder}
            for p in options.peers
        ]
        for number, objective in enumerate(options.objectives):
            own = {"who": f"taut, {objective}", "variant": "taut", "objective": objective}
            jobs += [own | {"minutes": [m], "out": f"{folder}/{number}-{m}"} for m in minutes]
        # the longest first
        trainings = list(pool.map(trained, sorted(jobs, key=lambda job: -job["minutes"][-1])))
        results = [measured_points(training, x, options.num_samples) for training in trainings]
    rows, notes = (
        [each for part in parts for each in part] for parts in zip(*results, strict=True)
    )
    rows.sort(key=lambda row: (not row["who"].startswith("taut"), row["who"], row["minutes"]))
    machine = (
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch "
        f"{version('torch')}"
    )
    what = (
        f"{len(x)} test images, K = {options.num_samples}; {machine}, trainings at a time: "
        f"{options.jobs}"
    )
    print(f"{what}\n\n{table(rows)}\n", *notes, sep="\n")
    if options.json:
        report = {
            "what": what,
            "seed": options.seed,
            "rows": rows,
            "notes": notes,
            "trainings": trainings,
        }
        options.json.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    if any(note.startswith(OTHER) for note in notes):
        sys.exit(1)


if __name__ == "__main__":
    main()
