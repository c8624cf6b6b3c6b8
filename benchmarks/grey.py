"""Grey MNIST, 256 levels, official split, with the likelihood that images get by default: bits a
pixel for CPU minutes.

    python benchmarks/grey.py MNIST.npz --epochs 40 --out runs/grey

MNIST.npz holds train_images and test_images, uint8. Training and measuring are timed apart, in CPU
seconds of one thread. Prints one row of Markdown, and writes it with everything else as grey.json
into the run folder.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import taut
from taut.build.config import Config
from taut.data import Dataset
from taut.evidence import importance
from taut.runs.fit import start, train_run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("runs/grey"))
    parser.add_argument("--likelihood", help="by default the one that follows from the data")
    parser.add_argument("--posterior", default="FullCovarianceNormal()")
    parser.add_argument("--latent-dim", type=int, default=32)
    parser.add_argument("--encoder", default="MLP()")
    parser.add_argument("--decoder", default="MLP()")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-samples", type=int, default=500)
    parser.add_argument("--every", type=int, default=1, help="measure every n-th test image only")
    options = parser.parse_args()
    parts = ("likelihood", "posterior", "latent_dim", "encoder", "decoder")
    config = Config.from_dict(
        {
            "data": {"test": f"{options.data}:test_images", "validation_fraction": 0.02},
            "model": {name: getattr(options, name) for name in parts},
            "training": {
                "max_epochs": options.epochs,
                "patience": 1.0,
                "threads": 1,
                "seed": options.seed,
            },
        }
    )
    # reading the data, and measuring and compiling the step, belong to it
    began = time.process_time()
    run, data, state = start(f"{options.data}:train_images", options.out, config)
    print(run.info["pace"], f"CPU {time.process_time() - began:.0f} s", flush=True)
    for record in train_run(run, data, state):
        print(
            f"epoch {record.epoch:.0f}: held-out {record.validation:.2f}, CPU "
            f"{(time.process_time() - began) / 60:.1f} min",
            flush=True,
        )
    measure(run, data, options, time.process_time() - began)


def measure(run: taut.Run, data: Dataset, options: argparse.Namespace, trained: float) -> None:
    """Measures a trained run on the test images, and prints and writes what was found."""
    began = time.process_time()
    assert data.test is not None
    x = data.test[:: options.every]
    found = importance(run.model, x, options.num_samples, seed=options.seed)
    nats = {name: found.summary()[name] for name in ("elbo", "log_evidence")}
    reliable = float(found.reliable.double().mean())
    pixels = data.schema.num_elements
    bits = {name: -e.value / (pixels * math.log(2)) for name, e in nats.items()}
    error = (nats["log_evidence"].test_error or math.nan) / (pixels * math.log(2))
    result = {
        "config": run.config.to_dict(),
        "num_data": len(x),
        **{name: e.to_dict() for name, e in nats.items()},
        "bits_per_pixel": bits,
        "bits_error": error,
        "reliable": reliable,
        "train_cpu_s": trained,
        "measure_cpu_s": time.process_time() - began,
    }
    (run.path / "grey.json").write_text(json.dumps(result, indent=2) + "\n")
    print(
        "| likelihood | posterior | networks | epochs | training, CPU min | bits a pixel, ELBO "
        "| bits a pixel, log p(x) | ± test set | good k-hat | images |"
    )
    print("|" + "---|" * 10)
    cells = [
        run.config.model.likelihood,
        run.config.model.posterior,
        run.config.model.encoder,
        run.config.training.max_epochs,
        f"{trained / 60:.1f}",
        f"{bits['elbo']:.4f}",
        f"{bits['log_evidence']:.4f}",
        f"{error:.4f}",
        f"{reliable:.0%}",
        len(x),
    ]
    print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
