"""PyTorch Lightning: a lean module and a Trainer without logger, checkpoints and progress bar.

Bits drawn once.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import lightning
import torch
from peers import networks
from peers.common import Job, Watch, answer, bits, job_given
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


class VAE(lightning.LightningModule):
    def __init__(self, job: Job) -> None:
        super().__init__()
        self.encoder, self.decoder = networks.encoder(job["model"]), networks.decoder(job["model"])
        self.watch = Watch(job)

    def training_step(self, batch: list[Tensor], number: int) -> Tensor:
        (x,) = batch
        mean, log_variance = self.encoder(x).chunk(2, -1)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        error = functional.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        return (error - 0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())) / len(
            x
        )

    def on_train_batch_end(self, *given: Any) -> None:
        self.watch.tick()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def train(job: Job) -> None:
    data = TensorDataset(torch.from_numpy(bits(job, (job["warmup"] + job["steps"]) * job["batch"])))
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=job["folder"],
    )
    module = VAE(job)
    trainer.fit(module, DataLoader(data, batch_size=job["batch"], shuffle=True))
    answer(**module.watch.result, version=lightning.__version__)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    job = job_given()
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    train(job)
