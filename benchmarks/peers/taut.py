"""taut, through its own loop: ``fitting.start`` makes the run, ``training.loop.train`` is timed
between two of its records.

Nothing is held out for validation, so no step is counted but those of the training; the running
average of the weights and the clipping of the gradient, which the peers do not have, are on as they
are by default.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from peers.common import (
    LATENT,
    Job,
    Memory,
    Watch,
    answer,
    bits,
    cpu_seconds,
    factors,
    grey,
    job_given,
    log_normal,
)

import taut
from taut.build.config import Config
from taut.runs.fit import start
from taut.training.loop import State, train

NETWORKS = {
    "mlp": dict.fromkeys(("encoder", "decoder"), 'MLP(hidden=(200, 200), activation="tanh")'),
    "conv": {"encoder": "ConvEncoder(channels=32)", "decoder": "ConvDecoder(channels=32)"},
}
OBJECTIVES = {"elbo": "ELBO()", "iwae50": "IWAE(num_samples=50)"}


def configured(job: Job, **data: Any) -> Config:
    return Config.from_dict(
        {
            "data": {"validation_fraction": 0.0, "test_fraction": 0.02, **data},
            "model": {"latent_dim": LATENT, **NETWORKS[job["model"]]},
            "training": {
                "objective": OBJECTIVES[job["objective"]],
                "batch_size": job["batch"],
                "max_epochs": 10**6,  # the number of steps is set below
                "threads": job["threads"],
                "device": "cpu",
                "seed": job["seed"],
                "compile": "on" if job["variant"] == "compiled" else "off",
            },
        }
    )


def timed_training(source: Any, config: Config, watch: Watch, folder: str) -> None:
    """Runs the loop to the end of the warm-up, starts the watch, and lets it go on from there."""
    run, data, _ = start(source, f"{folder}/run", config)
    state = State(total_steps=watch.warmup)
    records = train(run.model, run.objective, data, run.config.training, state)
    while not state.done:  # an interval is 100 steps or more, of which a short warm-up is the first
        next(records)
    watch.tick(state.step)
    # between two records the state is the caller's
    state.total_steps, state.done = (
        watch.warmup + watch.steps,
        False,
    )
    for _ in records:
        pass
    if state.step != watch.warmup + watch.steps or state.skipped:
        raise SystemExit(
            f"{state.step} steps were made, {state.skipped} of them skipped: not those that were "
            f"to be timed"
        )
    watch.tick(watch.steps)


def measure_training(job: Job) -> None:
    watch = Watch(job)
    timed_training(grey(job), configured(job, binarize="dynamic"), watch, job["folder"])
    answer(**watch.result, version=version("taut"))


def evaluate(job: Job) -> None:
    run, _, _ = start(grey(job), f"{job['folder']}/run", configured(job, binarize="dynamic"))
    x = torch.from_numpy(bits(job, job["warmup"] + job["steps"])).unflatten(-1, (28, 28))
    taut.importance(run.model, x[:1], 2)
    watch, memory = Watch(job), Memory()
    taut.importance(run.model, x[: job["warmup"]], job["num_samples"])
    watch.start()
    evidence = taut.importance(run.model, x[job["warmup"] :], job["num_samples"])
    watch.stop()
    answer(
        **watch.result,
        peak_mib=memory.grown(),
        log_evidence=float(evidence.log_evidence.mean()),
        version=version("taut"),
    )


def linear(job: Job) -> None:
    """Fits a linear VAE with a noise variance for each column, which is factor analysis, and
    computes log p(x) in closed form.
    """
    x, test, _, _ = factors()
    model = {
        "latent_dim": 8,
        "encoder": "Linear()",
        "decoder": "Linear()",
        "likelihood": 'Normal(scale="per_feature")',
    }
    training = {
        "max_epochs": job["epochs"],
        "threads": job["threads"],
        "device": "cpu",
        "seed": job["seed"],
    }
    config = Config.from_dict(
        {
            "model": model,
            "training": training,
            "data": {"validation_fraction": 0.0, "test_fraction": 0.0},
        }
    )
    wall, cpu = time.perf_counter(), cpu_seconds()
    run, data, state = start(x.astype(np.float32), f"{job['folder']}/run", config)
    for _ in taut.runs.fit.train_run(run, data, state):
        pass
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    with torch.no_grad():
        at = run.model.decode(torch.cat([torch.zeros(1, 8), torch.eye(8)]))
        mean, scale = at.mean.double().numpy(), at.stddev[0].double().numpy()
    value = log_normal(test, mean[0], (mean[1:] - mean[0]).T, scale**2)
    answer(wall_s=wall, cpu_s=cpu, log_evidence=value, version=version("taut"))


if __name__ == "__main__":
    job = job_given()
    {"train": measure_training, "evaluate": evaluate, "linear": linear}[job["do"]](job)
