"""One training for ``quality.py``: weights at given CPU minutes, by taut, by pythae or by a plain
loop, each in its environment.

The peers run as a person would run them: Adam at 1e-3, batches of 100, all 60,000 images, new bits
for each image in each epoch. They are one training each, and leave their weights whenever a budget
is used up. taut's schedule knows its end, so that each budget is a training of its own. What is
counted: reading the data, measuring and compiling, training; not the imports.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from peers.common import HIDDEN, LATENT, SIDE, Job, answer, grey, job_given

BATCH, DRAWS = 100, 100


def cpu_seconds() -> float:
    """Returns the CPU seconds of this process and of the compilers that it has called."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


class SpentError(Exception):
    """The last budget is used up."""


class Budgets:
    """Creates the clock of a peer's training, which saves the weights whenever a budget
    is used up.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.began, self.steps = job, cpu_seconds(), 0
        self.left, self.points = sorted(job["minutes"]), list[dict[str, Any]]()

    def tick(self, encoder: Any, decoder: Any) -> None:
        """Notes that a step is over.

        Fails:
            SpentError: it was the last.
        """
        self.steps += 1
        used = cpu_seconds() - self.began
        if used < 60 * self.left[0]:
            return
        path = Path(self.job["out"]) / f"{self.job['variant']}-{len(self.points)}.npz"
        parts = {"encoder": encoder, "decoder": decoder}
        np.savez(
            path,
            **{
                f"{name}.{k}": v.numpy()
                for name, part in parts.items()
                for k, v in part.state_dict().items()
            },
        )
        epochs = self.steps * BATCH / len(grey(self.job))
        self.points.append(
            {"minutes": self.left.pop(0), "cpu_s": used, "epochs": epochs, "weights": str(path)}
        )
        if not self.left:
            raise SpentError

    def answer(self, loss: Callable[[Any], Any], version: str) -> None:
        """Answers with the points and, for the last one, with the peer's own ELBO of the test
        images and its error.
        """
        import torch

        x = torch.from_numpy(np.load(self.job["test"])).flatten(1)
        with torch.no_grad():
            elbos = -np.array([float(loss(x)) for _ in range(DRAWS)])
        own = {"elbo": elbos.mean(), "error": elbos.std(ddof=1) / DRAWS**0.5}
        answer(points=self.points, own=own, version=version)


def pythae(job: Job) -> None:
    """Its trainer has no hook that could change a batch.

    A callback draws the bits of all images anew before each epoch.
    """
    import torch
    from peers.pythae import made
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    logging.disable()
    budgets = Budgets(job)
    p = torch.from_numpy(grey(job)).flatten(1) / 255
    model = made({"model": "mlp", "objective": "elbo"})

    class Bits(TrainingCallback):
        def on_epoch_begin(self, training_config: Any, **kwargs: Any) -> None:
            torch.bernoulli(p, out=data.data)

        def on_train_step_end(self, training_config: Any, **kwargs: Any) -> None:
            budgets.tick(trainer.model.encoder.layers, trainer.model.decoder.layers)

    data = BaseDataset(torch.bernoulli(p), torch.zeros(len(p)))
    settings = BaseTrainerConfig(
        output_dir=job["folder"],
        num_epochs=10**6,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-3,
        no_cuda=True,
        seed=job["seed"],
    )
    trainer = BaseTrainer(model, data, training_config=settings, callbacks=[Bits()])
    try:
        trainer.train()
    except SpentError:
        budgets.answer(lambda x: trainer.model.eval()({"data": x}).loss, "0.1.2")


def loop(job: Job, batches: Callable[[Job], Iterator[Any]]) -> None:
    """The loop of pytorch/examples, with bits in place of grey levels."""
    import torch
    from peers.plain import VAE
    from torch.nn import functional

    def loss_of(x: Any) -> Any:
        mean_image, mean, log_variance = model(x)
        error = functional.binary_cross_entropy(mean_image, x, reduction="sum")
        return error - 0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())

    budgets = Budgets(job)
    model = VAE("mlp").train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    total = 0.0
    try:
        for p in batches(job):
            optimizer.zero_grad()
            loss = loss_of(torch.bernoulli(p))
            loss.backward()
            total += loss.item()
            optimizer.step()
            budgets.tick(model.encoder, model.decoder)
    except SpentError:
        budgets.answer(lambda x: loss_of(x) / len(x), torch.__version__)


def loaded(job: Job) -> Iterator[Any]:
    """Yields batches as tutorials load them.

    A PIL image for each item, a DataLoader with its defaults.
    """
    from peers.plain import Images
    from torch.utils.data import DataLoader

    loader = DataLoader(Images(grey(job)), batch_size=BATCH, shuffle=True)
    while True:
        for x, _ in loader:
            yield x.view(-1, SIDE * SIDE)


def indexed(job: Job) -> Iterator[Any]:
    """Yields batches as cheaply as plain PyTorch can: rows of one tensor."""
    import torch

    images = torch.from_numpy(grey(job)).flatten(1) / 255
    while True:
        for rows in torch.randperm(len(images)).split(BATCH):
            yield images[rows]


def configured(job: Job, objective: str = "ELBO()", minutes: float | None = None) -> Any:
    """Returns taut's configuration: that of ``mnist.py``."""
    from taut.build.config import Config

    network = f'MLP(hidden=({HIDDEN}, {HIDDEN}), activation="tanh")'
    return Config.from_dict(
        {
            "data": {
                "binarize": "dynamic",
                "test": f"{job['source']}:test_images",
                "validation_fraction": 0.02,
            },
            "model": {"latent_dim": LATENT, "encoder": network, "decoder": network},
            "training": {
                "objective": objective,
                "minutes": minutes,
                "batch_size": BATCH,
                "learning_rate": 3e-3,
                "averaging": 0.999,
                "patience": 1.0,
                "device": "cpu",
                "threads": 1,
                "seed": job["seed"],
            },
        }
    )


def taut(job: Job) -> None:
    """``start`` plans by the clock on the wall.

    After two intervals the end is moved to where the CPU minutes will be used up.
    """
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = (
        "1"  # compilers as children, whose CPU time is known
    )
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = (
        f"{job['folder']}/compiled"  # nothing is left over from an earlier run
    )

    from importlib.metadata import version

    from taut.runs.fit import start, train_run
    from taut.system.storage import write_manifest

    (minutes,) = job["minutes"]
    began, marks = cpu_seconds(), list[tuple[float, int]]()
    run, data, state = start(
        f"{job['source']}:train_images", job["out"], configured(job, job["objective"], minutes)
    )
    run.config = dataclasses.replace(
        run.config, training=dataclasses.replace(run.config.training, minutes=None)
    )
    for record in train_run(run, data, state):
        marks.append((cpu_seconds() - began, record.step))
        if len(marks) == 2 and not state.done:
            (before, first), (used, second) = marks
            left = (60 * minutes - used) / ((used - before) / (second - first))
            state.total_steps = second + max(1, round(left))
    point = {
        "minutes": minutes,
        "cpu_s": cpu_seconds() - began,
        "epochs": record.epoch,
        "weights": str(run.path),
    }
    write_manifest(run.path)
    answer(points=[point], pace=run.info["pace"], version=version("taut"))


if __name__ == "__main__":
    job = job_given()
    if job["variant"] == "taut":
        taut(job)
    else:
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(job["seed"])
        if job["variant"] == "pythae":
            pythae(job)
        else:
            loop(job, {"plain": loaded, "lean": indexed}[job["variant"]])
