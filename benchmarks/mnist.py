"""MNIST with dynamic binarization and the network of the IWAE paper, 784-200-200-50 tanh: nats for
CPU minutes.

    python benchmarks/mnist.py MNIST.npz --epochs 330 --out runs/mnist

MNIST.npz holds train_images and test_images, uint8. Training and measuring are timed apart, in CPU
seconds of one thread. Prints one row of Markdown, and writes it with everything else as mnist.json
into the run folder.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from taut.build.config import Config
from taut.runs.fit import evaluate, start, train_run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=330)
    parser.add_argument("--out", type=Path, default=Path("runs/mnist"))
    parser.add_argument("--objective", default="ELBO()")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--averaging", type=float, default=0.999)
    parser.add_argument("--seed", type=int, default=0)
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
                "objective": options.objective,
                "max_epochs": options.epochs,
                "batch_size": options.batch_size,
                "learning_rate": options.learning_rate,
                "averaging": options.averaging,
                "patience": 1.0,
                "threads": 1,
                "seed": options.seed,
            },
            "evaluation": {"num_samples": 500},
        }
    )
    # reading the data, and measuring and compiling the step, belong to it
    began = time.process_time()
    run, data, state = start(f"{options.data}:train_images", options.out, config)
    print(run.info["pace"], f"CPU {time.process_time() - began:.0f} s", flush=True)
    for record in train_run(run, data, state):
        if round(record.epoch) % 10 == 0:
            print(
                f"epoch {record.epoch:.0f}: held-out {record.validation:.2f}, CPU "
                f"{(time.process_time() - began) / 60:.1f} min",
                flush=True,
            )
    trained = time.process_time() - began
    began = time.process_time()
    for _ in evaluate(run, data):
        pass
    measured = time.process_time() - began
    result = run.evaluation() | {
        "train_cpu_s": trained,
        "measure_cpu_s": measured,
        "epochs": options.epochs,
    }
    (run.path / "mnist.json").write_text(json.dumps(result, indent=2) + "\n")
    nats, elbo = result["log_evidence"], result["elbo"]
    print(
        "| objective | epochs | training, CPU min | -ELBO | -log p(x), K = 500 | ± MC | ± test set "
        "| active | measuring, CPU s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    cells = [
        options.objective,
        options.epochs,
        f"{trained / 60:.1f}",
        f"{-elbo['value']:.2f}",
        f"{-nats['value']:.2f}",
    ]
    cells += [
        f"{nats['mc_error']:.3f}",
        f"{nats['test_error']:.2f}",
        result["active_units"],
        f"{measured:.0f}",
    ]
    print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
