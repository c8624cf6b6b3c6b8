"""NumPyro: SVI with TraceMeanField_ELBO, its ``update`` compiled (``jit``), or many in one
``lax.scan`` (``scan``).

Bits are drawn anew at each step.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.infer import SVI, TraceMeanField_ELBO
from peers.common import LATENT, Job, Watch, answer, grey, job_given, order
from peers.jax_networks import decode, encode, initial


def train(job: Job) -> None:
    network, key = job["model"], jax.random.key(job["seed"])
    first = initial(network, key)

    def model(x: Array) -> None:
        parameters = numpyro.param("decoder", first[1])
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros((len(x), LATENT)), 1.0).to_event(1))
            numpyro.sample(
                "x", dist.Bernoulli(logits=decode(network, parameters, z)).to_event(1), obs=x
            )

    def guide(x: Array) -> None:
        parameters = numpyro.param("encoder", first[0])
        with numpyro.plate("data", len(x)):
            mean, raw = encode(network, parameters, x)
            numpyro.sample("z", dist.Normal(mean, jax.nn.softplus(raw)).to_event(1))

    watch, inference = (
        Watch(job),
        SVI(model, guide, numpyro.optim.Adam(1e-3), TraceMeanField_ELBO()),
    )
    images, rows = jnp.asarray(grey(job).reshape(-1, 784)), order(job, job["warmup"] + job["steps"])

    def bits(key: Array, here: Array) -> Array:
        return jax.random.bernoulli(key, images[here] / 255.0).astype(jnp.float32)

    def one_step(state: Any, here: Array) -> tuple[Any, Array]:
        return inference.update(state, bits(jax.random.fold_in(key, here[0]), here))

    state = inference.init(key, bits(key, rows[0]))
    if job["variant"] == "jit":
        step = jax.jit(one_step)
        for number, here in enumerate(rows, 1):
            state, value = step(state, here)
            if number in (job["warmup"], len(rows)):
                value.block_until_ready()
            watch.tick()
    else:
        most = min(job["warmup"], job["steps"])
        scan = jax.jit(lambda s, r: jax.lax.scan(one_step, s, r))
        watch.warmup, watch.steps = most, job["steps"] // most * most
        for start in range(0, watch.warmup + watch.steps, most):
            state, value = scan(state, rows[start : start + most])
            value.block_until_ready()
            watch.tick(most)
    answer(**watch.result, version=numpyro.__version__)


if __name__ == "__main__":
    train(job_given())
