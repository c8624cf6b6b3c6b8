"""pythae: its VAE (or IWAE) with our networks, its BaseTrainer with its default settings, its
``get_nll``.

Its data are bits drawn once, since it has no binarization of its own. The trainer has a rate of
1e-4 and its progress bar.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from peers import networks
from peers.common import LATENT, SIDE, Job, Memory, Watch, answer, bits, job_given
from pythae.data.datasets import BaseDataset
from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor


class Encoder(BaseEncoder):
    def __init__(self, model: str) -> None:
        super().__init__()
        self.layers = networks.encoder(model)

    def forward(self, x: Tensor) -> Any:
        mean, log_covariance = self.layers(x).chunk(2, -1)
        return ModelOutput(embedding=mean, log_covariance=log_covariance)


class Decoder(BaseDecoder):
    def __init__(self, model: str) -> None:
        super().__init__()
        self.layers = networks.decoder(model)

    def forward(self, z: Tensor) -> Any:
        return ModelOutput(reconstruction=self.layers(z).sigmoid())


class Count(TrainingCallback):
    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_train_step_end(self, training_config: Any, **kwargs: Any) -> None:
        self.watch.tick()


def made(job: Job) -> VAE:
    parts = {"encoder": Encoder(job["model"]), "decoder": Decoder(job["model"])}
    settings = {"input_dim": (SIDE * SIDE,), "latent_dim": LATENT, "reconstruction_loss": "bce"}
    if job["objective"] == "iwae50":
        return IWAE(IWAEConfig(number_samples=50, **settings), **parts)
    return VAE(VAEConfig(**settings), **parts)


def train(job: Job) -> None:
    rows, watch = (job["warmup"] + job["steps"]) * job["batch"], Watch(job)
    data = BaseDataset(torch.from_numpy(bits(job, rows)), torch.zeros(rows))
    settings = BaseTrainerConfig(
        output_dir=job["folder"],
        num_epochs=1,
        per_device_train_batch_size=job["batch"],
        no_cuda=True,
        seed=job["seed"],
    )
    BaseTrainer(made(job), data, training_config=settings, callbacks=[Count(watch)]).train()
    answer(**watch.result, version="0.1.2")


def evaluate(job: Job) -> None:
    model, x = made(job).eval(), torch.from_numpy(bits(job, job["warmup"] + job["steps"]))
    batch = int(job["variant"])
    with torch.no_grad():
        model.get_nll(x[:1], 2, 2)
        watch, memory = Watch(job), Memory()
        model.get_nll(x[: job["warmup"]], job["num_samples"], batch)
        watch.start()
        # log p(x), its name notwithstanding
        value = model.get_nll(x[job["warmup"] :], job["num_samples"], batch)
        watch.stop()
    answer(**watch.result, peak_mib=memory.grown(), log_evidence=float(value), version="0.1.2")


if __name__ == "__main__":
    logging.disable()
    job = job_given()
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    {"train": train, "evaluate": evaluate}[job["do"]](job)
