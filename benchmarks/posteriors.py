"""Families of posteriors under one frozen decoder: what each closes of the gap, and what it costs.

    python benchmarks/posteriors.py MNIST.npz --out runs/posteriors

MNIST.npz holds train_images and test_images, uint8. The model of ``mnist.py`` is trained for a few
passes with a diagonal Gaussian; then ``taut tighten`` trains each family on for a few more, from
where that one ended. The ELBO of the same test images, each with 200 samples, is compared image by
image. CPU seconds are those of one thread, reading and measuring not included. Prints a table as
Markdown, and writes it as posteriors.json into the folder.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import taut
from taut.build.config import Config
from taut.evidence.results import Estimate, Evidence
from taut.runs.fit import evaluate, start, train_run
from taut.runs.folder import data_of
from taut.runs.tighten import tighten

FAMILIES = (
    "DiagonalNormal()",
    "FullCovarianceNormal()",
    "CouplingFlow()",
    "InverseAutoregressive()",
)
SAMPLES, MANY = 200, 2000


def trained(run: taut.Run, data: Any, state: Any) -> float:
    """Returns the CPU seconds that the training of a run took."""
    began = time.process_time()
    for _ in train_run(run, data, state):
        pass
    return time.process_time() - began


def gain(after: Evidence, before: Evidence) -> Estimate:
    """Returns the mean rise of the bound, image by image."""
    error = (after.elbo_error.square() + before.elbo_error.square()).sqrt()
    return Estimate.of(after.elbo - before.elbo, error)


def row(run: taut.Run, found: Evidence, before: Evidence, log_p: Evidence, seconds: float) -> dict:
    error = (found.elbo_error.square() + log_p.log_evidence_error.square()).sqrt()
    return {
        "posterior": run.config.model.posterior,
        "gain": gain(found, before).to_dict(),
        "left": Estimate.of(log_p.log_evidence - found.elbo, error).to_dict(),
        "parameters": sum(p.numel() for p in run.model.posterior.parameters()),
        "cpu_s": seconds,
    }


def written(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.3f} ± {estimate['test_error']:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/posteriors"))
    parser.add_argument("--epochs", type=int, default=6, help="of the model")
    parser.add_argument("--more", type=int, default=2, help="of each posterior")
    parser.add_argument("--images", type=int, default=500, help="that the bound is measured on")
    options = parser.parse_args()
    network = 'MLP(hidden=(200, 200), activation="tanh")'
    config = Config.from_dict(
        {
            "data": {
                "binarize": "dynamic",
                "test": f"{options.data}:test_images",
                "validation_fraction": 0.02,
            },
            "model": {"latent_dim": 50, "encoder": network, "decoder": network},
            "training": {
                "objective": "ELBO()",
                "max_epochs": options.epochs,
                "batch_size": 100,
                "learning_rate": 3e-3,
                "averaging": 0.999,
                "patience": 1.0,
                "threads": 1,
            },
            "evaluation": {"num_samples": 20},
        }
    )
    first, data, state = start(f"{options.data}:train_images", options.out / "first", config)
    runs = [(first, trained(first, data, state))]
    for _ in evaluate(first, data):  # which makes it a run that is done
        pass
    for number, family in enumerate(FAMILIES):
        new, data, state = tighten(
            first, options.out / f"tight-{number}", posterior=family, max_epochs=options.more
        )
        runs.append((new, trained(new, data, state)))
        print(f"{family}: {runs[-1][1]:.0f} CPU s", flush=True)
    x = data_of(first).test[: options.images]
    found = [taut.importance(run.model, x, SAMPLES) for run, _ in runs]
    # one estimate for all rows: that of the full covariance, a lower bound in expectation
    log_p = taut.importance(runs[2][0].model, x, MANY, seed=1)
    rows = [
        row(run, evidence, found[0], log_p, seconds)
        for (run, seconds), evidence in zip(runs, found, strict=True)
    ]
    result = {"rows": rows, "log_p": log_p.to_dict()}
    (options.out / "posteriors.json").write_text(json.dumps(result, indent=2) + "\n")
    print("| posterior | gap closed, nats an image | gap left | parameters | CPU s |")
    print("|---|---|---|---|---|")
    for number, r in enumerate(rows):
        name = f"`{r['posterior']}`" + (", as trained" if not number else "")
        closed = written(r["gain"]) if number else ""
        print(
            f"| {name} | {closed} | {written(r['left'])} | {r['parameters']:,} | {r['cpu_s']:.0f} |"
        )


if __name__ == "__main__":
    main()
