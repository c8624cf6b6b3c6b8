"""Loops in plain PyTorch, written as tutorials write them.

``loop`` has the habits of the VAE in pytorch/examples: a dataset that makes a PIL image of each
item and turns it into a tensor, a DataLoader with its defaults, grey levels as targets, binary
cross-entropy of probabilities, Adam with its defaults and the loss as a Python number after each
step. ``replicate`` is IWAE in the usual form: the input is repeated 50 times before the encoder,
the densities are those of torch.distributions (without argument checks), the bits are drawn anew at
each step.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from peers import networks
from peers.common import SIDE, Job, Watch, answer, grey, job_given, order
from PIL import Image
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset


class Images(Dataset[tuple[Tensor, int]]):
    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = torch.from_numpy(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = Image.fromarray(self.images[index].numpy())
        levels = torch.from_numpy(np.array(picture, np.uint8, copy=True)).view(SIDE, SIDE, 1)
        return levels.permute(2, 0, 1).contiguous().to(torch.get_default_dtype()).div(255), 0


class VAE(nn.Module):
    def __init__(self, model: str) -> None:
        super().__init__()
        self.encoder, self.decoder = networks.encoder(model), networks.decoder(model)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(x.view(-1, SIDE * SIDE)).chunk(2, -1)
        scale = torch.exp(0.5 * log_variance)
        z = mean + torch.randn_like(scale) * scale
        return torch.sigmoid(self.decoder(z)), mean, log_variance


def loop(job: Job) -> None:
    steps, watch = job["warmup"] + job["steps"], Watch(job)
    images = np.resize(grey(job), (steps * job["batch"], SIDE, SIDE))
    model = VAE(job["model"]).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    total = 0.0
    for x, _ in DataLoader(Images(images), batch_size=job["batch"], shuffle=True):
        optimizer.zero_grad()
        mean_image, mean, log_variance = model(x)
        error = functional.binary_cross_entropy(
            mean_image, x.view(-1, SIDE * SIDE), reduction="sum"
        )
        loss = error - 0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
        loss.backward()
        total += loss.item()
        optimizer.step()
        watch.tick()
    answer(**watch.result, version=torch.__version__)


def replicate(job: Job) -> None:
    samples, watch, images = 50, Watch(job), torch.from_numpy(grey(job)).flatten(1)
    encoder, decoder = networks.encoder(job["model"]), networks.decoder(job["model"])
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    prior = Independent(Normal(torch.zeros(50), torch.ones(50)), 1)
    for rows in order(job, job["warmup"] + job["steps"]):
        x = torch.bernoulli(images[torch.from_numpy(rows)] / 255).repeat(samples, 1)
        mean, raw = encoder(x).chunk(2, -1)
        posterior = Independent(Normal(mean, functional.softplus(raw)), 1)
        z = posterior.rsample()
        likelihood = Independent(Bernoulli(logits=decoder(z)), 1)
        log_weight = likelihood.log_prob(x) + prior.log_prob(z) - posterior.log_prob(z)
        loss = -(log_weight.view(samples, -1).logsumexp(0) - math.log(samples)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        watch.tick()
    answer(**watch.result, version=torch.__version__)


if __name__ == "__main__":
    job = job_given()
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    torch.distributions.Distribution.set_default_validate_args(False)
    {"loop": loop, "replicate": replicate}[job["variant"]](job)
