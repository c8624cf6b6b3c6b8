"""Static MNIST, 784-300-300-40 gated: the standard prior against a VampPrior, and against a prior
refitted to the codes of the first, in nats for CPU minutes.

    python benchmarks/vamp.py STATIC.npz --epochs 1000 --vamp-epochs 190 --out runs/vamp
    python benchmarks/vamp.py STATIC.npz --minutes 15 --out runs/vamp

STATIC.npz is Larochelle's binarized MNIST, 8 pixels a byte: train_packed and test_packed. The
official training images, of which 2 % are held out to watch the training, and the official test
images, every n-th of them. With ``--minutes`` each prior is given so many passes that both take
these CPU minutes of one thread, by what a pass of each took in a training of a few; reading and
measuring are not included. log p(x) of the same test images is
compared image by image. Prints the curve of each training and a table as Markdown, and writes both
as vamp.json into the folder.

    python benchmarks/vamp.py STATIC.npz --model "HierarchicalVAE(top=VampPrior(components=500))"

trains that model alone, of ``--epochs`` passes or of as many as ``--minutes`` allow.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import taut
from taut.build.config import Config
from taut.data import Dataset
from taut.evidence.results import Estimate, Evidence
from taut.runs.fit import evaluate, start, train_run
from taut.runs.refit import refit

NETWORK = "GatedMLP(hidden=(300, 300))"
POINTS = 8  # of the curve that is printed
TRIED = 3  # passes by which the cost of a pass is known; the first one is not counted
REFITTED = "GaussianMixture(components=100)"


def unpacked(source: Path, out: Path) -> tuple[Path, Path]:
    """Returns files of the training and of the test images, one byte a pixel."""
    out.mkdir(parents=True, exist_ok=True)
    files = out / "train.npy", out / "test.npy"
    with np.load(source) as packed:
        for file in files:
            bits = np.unpackbits(packed[f"{file.stem}_packed"], axis=1)
            np.save(file, bits.reshape(-1, 28, 28))
    return files


def config(part: str, epochs: int, test: Path, options: argparse.Namespace) -> Config:
    """Returns the settings of a training: the part is its prior, or its model if one is given."""
    return Config.from_dict(
        {
            "data": {"test": str(test), "validation_fraction": 0.02},
            "model": {
                "latent_dim": 40,
                "model" if options.model else "prior": part,
                "encoder": options.encoder,
                "decoder": options.decoder,
            },
            "training": {
                "max_epochs": epochs,
                "batch_size": options.batch_size,
                "objective": options.objective,
                "weight_decay": options.weight_decay,
                "patience": 1.0,
                "threads": 1,
                "seed": options.seed,
            },
            "evaluation": {"num_samples": 20},
        }
    )


def trained(run: Any, data: Dataset, state: Any, name: str) -> dict[str, Any]:
    """Trains a run; returns its curve, as CPU minutes and held-out bound, and the minutes."""
    began, curve = time.process_time(), []
    for record in train_run(run, data, state):
        curve.append(((time.process_time() - began) / 60, record.validation))
        print(f"{name}: {curve[-1][0]:.2f} CPU min, held-out {record.validation:.2f}", flush=True)
    minutes = (time.process_time() - began) / 60
    for _ in evaluate(run, data):  # which makes it a run that is done
        pass
    return {"prior": name, "cpu_min": minutes, "curve": curve}


def affordable(minutes: float, train: Path, out: Path, settings: Config) -> int:
    """Returns how many passes are trained in CPU minutes."""
    run, data, state = start(train, out, settings)
    ends = [time.process_time() for _ in train_run(run, data, state)]
    return max(1, round(60 * minutes * (len(ends) - 1) / (ends[-1] - ends[0])))


def compared(found: Evidence, first: Evidence) -> Estimate:
    """Returns the mean rise of log p(x), image by image."""
    error = (found.log_evidence_error.square() + first.log_evidence_error.square()).sqrt()
    return Estimate.of(found.log_evidence - first.log_evidence, error)


def curves(rows: list[dict[str, Any]]) -> list[str]:
    """Returns the best held-out bound so far of the first two trainings, at equal minutes."""
    lines = ["| CPU min | " + " | ".join(row["prior"] for row in rows) + " |"]
    lines.append("|---" * (1 + len(rows)) + "|")
    end = max(row["cpu_min"] for row in rows)
    for i in range(1, POINTS + 1):
        now = end * i / POINTS
        so_far = [[bound for at, bound in row["curve"] if at <= now] for row in rows]
        cells = [f"{max(bounds):.2f}" if bounds else "" for bounds in so_far]
        lines.append(f"| {now:.1f} | " + " | ".join(cells) + " |")
    return lines


def written(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ± {estimate.test_error:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/vamp"))
    parser.add_argument("--epochs", type=int, default=1000, help="under the standard prior")
    parser.add_argument("--vamp-epochs", type=int, default=190, help="under the VampPrior")
    parser.add_argument("--minutes", type=float, help="CPU minutes of each, instead of passes")
    parser.add_argument("--model", help="train this one alone, instead of the two priors")
    parser.add_argument("--refit-epochs", type=int, default=3, help="of the refitted prior")
    parser.add_argument("--components", type=int, default=500)
    parser.add_argument("--encoder", default=NETWORK)
    parser.add_argument("--decoder", default=NETWORK)
    parser.add_argument("--objective", default="ELBO()")
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-samples", type=int, default=5000)
    parser.add_argument("--every", type=int, default=20, help="measure every n-th test image only")
    options = parser.parse_args()
    train, test = unpacked(options.data, options.out)
    vamp = f"VampPrior(components={options.components})"
    plans = {"StandardNormal()": options.epochs, vamp: options.vamp_epochs}
    if options.model:
        plans = {options.model: options.epochs}
    runs, rows, data = [], [], None
    for number, (prior, epochs) in enumerate(plans.items()):
        if options.minutes:
            few = config(prior, TRIED, test, options)
            epochs = affordable(options.minutes, train, options.out / f"tried-{number}", few)
        settings = config(prior, epochs, test, options)
        run, data, state = start(train, options.out / f"prior-{number}", settings)
        rows.append(trained(run, data, state, prior))
        runs.append(run)
    assert data is not None
    assert data.test is not None
    if not options.model:
        run, _, state = refit(
            runs[0], options.out / "refitted", prior=REFITTED, max_epochs=options.refit_epochs
        )
        rows.append(trained(run, data, state, f"{REFITTED}, refitted"))
        runs.append(run)
    x = data.test[:: options.every]
    evidence = [taut.importance(run.model, x, options.num_samples) for run in runs]
    for row, found in zip(rows, evidence, strict=True):
        row |= found.to_dict() | {"gain": compared(found, evidence[0]).to_dict()}
    print("\n".join(curves(rows[:2])))
    (options.out / "vamp.json").write_text(json.dumps(rows, indent=2) + "\n")
    print("| prior | CPU min | -ELBO | -log p(x) | log p(x) above the first |")
    print("|---|---|---|---|---|")
    for row, found in zip(rows, evidence, strict=True):
        nats, elbo = (found.summary()[name] for name in ("log_evidence", "elbo"))
        cells = [
            row["prior"],
            f"{row['cpu_min']:.1f}",
            f"{-elbo.value:.2f}",
            f"{-nats.value:.2f} ± {nats.test_error:.2f}",
            written(compared(found, evidence[0])),
        ]
        print("| " + " | ".join(cells) + " |")
    print(f"{len(x)} test images, K = {options.num_samples}")


if __name__ == "__main__":
    main()
