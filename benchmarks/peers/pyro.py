"""Pyro.

SVI with Trace_ELBO or TraceMeanField_ELBO, argument checks off, bits drawn anew at each step.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from peers import networks
from peers.common import LATENT, Job, Watch, answer, grey, job_given, order
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.nn import functional


class VAE(nn.Module):
    def __init__(self, model: str) -> None:
        super().__init__()
        self.encoder, self.decoder = networks.encoder(model), networks.decoder(model)

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample(
                "z",
                dist.Normal(x.new_zeros(len(x), LATENT), x.new_ones(len(x), LATENT)).to_event(1),
            )
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            mean, raw = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, functional.softplus(raw)).to_event(1))


def train(job: Job) -> None:
    vae, watch, images = VAE(job["model"]), Watch(job), torch.from_numpy(grey(job)).flatten(1)
    bound = {"trace": Trace_ELBO, "mean field": TraceMeanField_ELBO}[job["variant"]]()
    inference = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), bound)
    for rows in order(job, job["warmup"] + job["steps"]):
        inference.step(torch.bernoulli(images[torch.from_numpy(rows)] / 255))
        watch.tick()
    answer(**watch.result, version=pyro.__version__)


if __name__ == "__main__":
    job = job_given()
    torch.set_num_threads(job["threads"])
    pyro.set_rng_seed(job["seed"])
    pyro.enable_validation(False)
    train(job)
