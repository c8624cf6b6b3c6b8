"""One training for ``study.py``: taut with one setting changed, on rows whose log p(x) is then
computed, one by one.

What is no setting of taut is changed in taut itself, in this process alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from peers.common import Job, answer, job_given
from peers.quality import cpu_seconds

import taut
from taut.build.config import Config, TrainingConfig
from taut.runs.fit import start, train_run
from taut.training import loop
from taut.training.loop import State


def constant_rate(step: int, config: TrainingConfig, state: State) -> float:
    """No cosine, but the same warm-up."""
    return (
        config.learning_rate
        * state.lr_scale
        * min((step + 1) / max(1.0, loop.LR_WARMUP * state.total_steps), 1.0)
    )


def growing_batches(total: int, whole: Any = loop._rows) -> Any:
    """A third of each batch in the first half of the steps, and all of it in the second."""

    def rows(seed: int, data: Any, size: int, step: int) -> torch.Tensor:
        index: torch.Tensor = whole(seed, data, size, step)
        return index[: size // 3] if step < total / 2 else index

    return rows


def measure(job: Job) -> None:
    with np.load(job["file"]) as file:
        x = file[job["key"]]
    x = x[np.random.default_rng(0).permutation(len(x))]
    held = min(job["test_rows"], len(x) // 5)
    test, x = x[:held], x[held:]
    grey = x.dtype == np.uint8
    growing = job["patch"] == "growing"
    # Passes are what is held fixed, whatever the batch. Where it grows from 64 to 192 the mean is
    # 128.
    epochs = max(2, round(job["steps"] * 128 / len(x) / 2) * 2)
    settings = {
        "threads": 1,
        "device": "cpu",
        "compile": "on" if grey and not growing else "off",
        "seed": job["seed"],
    }
    settings |= {"max_epochs": epochs * 3 // 2 if growing else epochs, "patience": 1.0} | job[
        "training"
    ]
    model = {
        "latent_dim": 50,
        **dict.fromkeys(("encoder", "decoder"), 'MLP(hidden=(200, 200), activation="tanh")'),
    }
    config = Config.from_dict(
        {
            "data": {"test_fraction": 0.0} | ({"binarize": "dynamic"} if grey else {}),
            "training": settings,
        }
        | ({"model": model} if grey else {})
    )
    began = cpu_seconds()
    run, data, state = start(x, f"{job['folder']}/run", config, test=test)
    # the last layer of the decoder starts at its own random numbers
    if job["patch"] == "no offset":
        for name, tensor in run.model.named_buffers():
            if name.endswith("offset"):
                tensor.zero_()
    elif job["patch"] == "constant":
        loop._rate = constant_rate
    elif growing:
        loop._rows = growing_batches(state.total_steps)
    for _ in train_run(run, data, state):
        pass
    used = cpu_seconds() - began
    evidence = taut.importance(run.model, data.test, job["num_samples"], seed=1)
    answer(cpu_s=used, steps=state.step, epochs=epochs, log_evidence=evidence.log_evidence.tolist())


if __name__ == "__main__":
    measure(job_given())
