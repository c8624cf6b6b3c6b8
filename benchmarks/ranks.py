"""What several processes gain: milliseconds of a step of one process, and of two or more, with one
thread each.

    python benchmarks/ranks.py --model conv --batch 256
    torchrun --standalone --nproc-per-node 2 benchmarks/ranks.py --model conv --batch 256

The steps are those of taut's loop, eager and compiled, on images drawn from a seed. Warm-up comes
before the clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from taut.build.config import Config
from taut.runs.fit import start
from taut.system import parallel
from taut.training.loop import State, first_batch, run_steps
from taut.training.step import Learner

TANH = 'MLP(hidden=(200, 200), activation="tanh")'
NETWORKS = {
    "mlp": {"encoder": TANH, "decoder": TANH},
    "conv": {"encoder": "ConvEncoder", "decoder": "ConvDecoder"},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=list(NETWORKS), default="conv")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = np.random.default_rng(0).integers(0, 256, (4096, 28, 28), dtype=np.uint8)
    training = {
        "batch_size": options.batch,
        "threads": 1,
        "compile": "off",
        "device": "cpu",
        "max_epochs": 1,
    }
    model = {"latent_dim": 50, **NETWORKS[options.model]}
    config = Config.from_dict(
        {"data": {"binarize": "dynamic"}, "model": model, "training": training}
    )
    with tempfile.TemporaryDirectory() as folder, parallel.ranks():
        run, data, _ = start(images, parallel.on_main(lambda: Path(folder) / "run"), config)
        for form in ("eager", "compiled"):
            learner, state = (
                Learner(run.model, run.objective, run.config.training),
                State(total_steps=10**6),
            )
            if form == "compiled":
                learner.compile(first_batch(data, run.config.training))
            run_steps(learner, data, state, 5)
            seconds = []
            for _ in range(3):
                began = time.perf_counter()
                run_steps(learner, data, state, options.steps // 3)
                seconds.append(1000 * (time.perf_counter() - began) / (options.steps // 3))
            if parallel.main():
                times = ", ".join(f"{ms:.1f}" for ms in sorted(seconds))
                print(
                    f"{options.model}, batch {options.batch}, {form}, processes "
                    f"{parallel.world()}: {times} ms a step"
                )


if __name__ == "__main__":
    main()
