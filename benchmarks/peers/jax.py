"""JAX by hand: value_and_grad and Adam in one compiled step (``jit``), or many such steps in one
``lax.scan`` (``scan``).

The images are on the device as bytes; rows are gathered and bits drawn anew inside the compiled
step.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from peers.common import Job, Watch, answer, grey, job_given, order
from peers.jax_networks import decode, encode, initial


def loss(model: str, parameters: Any, key: Array, x: Array) -> Array:
    mean, raw = encode(model, parameters[0], x)
    scale = jax.nn.softplus(raw)
    logits = decode(model, parameters[1], mean + scale * jax.random.normal(key, mean.shape))
    error = (jax.nn.softplus(logits) - x * logits).sum()
    rate = 0.5 * (mean**2 + scale**2 - 1 - 2 * jnp.log(scale)).sum()
    return (error + rate) / len(x)


def adam(state: Any, gradient: Any) -> Any:
    parameters, first, second, step = state
    step = step + 1
    rate = 1e-3 * jnp.sqrt(1 - 0.999**step) / (1 - 0.9**step)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)
    parameters = jax.tree.map(
        lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), parameters, first, second
    )
    return parameters, first, second, step


def one_step(model: str, images: Array, key: Array, state: Any, rows: Array) -> tuple[Any, Array]:
    for_bits, for_z = jax.random.split(jax.random.fold_in(key, state[3].astype(int)))
    x = jax.random.bernoulli(for_bits, images[rows] / 255.0).astype(jnp.float32)
    value, gradient = jax.value_and_grad(partial(loss, model))(state[0], for_z, x)
    return adam(state, gradient), value


def train(job: Job) -> None:
    watch, key = Watch(job), jax.random.key(job["seed"])
    images, rows = jnp.asarray(grey(job).reshape(-1, 784)), order(job, job["warmup"] + job["steps"])
    parameters = initial(job["model"], key)
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    state = (parameters, zeros, jax.tree.map(jnp.zeros_like, parameters), jnp.zeros(()))
    if job["variant"] == "jit":
        step = jax.jit(partial(one_step, job["model"]), donate_argnums=2)
        for number, here in enumerate(rows, 1):
            state, value = step(images, key, state, here)
            if number in (job["warmup"], len(rows)):
                value.block_until_ready()
            watch.tick()
    else:
        most = min(job["warmup"], job["steps"])
        scan = jax.jit(
            lambda i, k, s, r: jax.lax.scan(partial(one_step, job["model"], i, k), s, r),
            donate_argnums=2,
        )
        watch.warmup, watch.steps = most, job["steps"] // most * most
        for start in range(0, watch.warmup + watch.steps, most):
            state, value = scan(images, key, state, rows[start : start + most])
            value.block_until_ready()
            watch.tick(most)
    answer(**watch.result, version=jax.__version__)


if __name__ == "__main__":
    train(job_given())
