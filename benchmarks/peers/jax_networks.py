"""The two architectures in JAX, as functions of nested lists of parameters.

The same layers as in ``networks``.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax
from peers.common import HIDDEN, LATENT, SIDE

Parameters = list[tuple[Array, Array]]
LAYOUT = ("NHWC", "HWIO", "NHWC")


def initial(model: str, key: Array) -> tuple[Parameters, Parameters]:
    """Returns parameters of the encoder and of the decoder."""
    if model == "mlp":
        shapes: list[list[tuple[int, ...]]] = [
            [(SIDE * SIDE, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 2 * LATENT)],
            [(LATENT, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, SIDE * SIDE)],
        ]
    else:
        shapes = [
            [(3, 3, 1, 32), (3, 3, 32, 64), (3, 3, 64, 128), (4 * 4 * 128, 2 * LATENT)],
            [(LATENT, 4 * 4 * 128), (3, 3, 128, 64), (3, 3, 64, 32), (3, 3, 32, 1)],
        ]
    parts: list[Parameters] = []
    for layers in shapes:
        keys = jax.random.split(key, len(layers) + 1)
        key = keys[-1]
        parts.append(
            [
                (
                    jax.random.normal(k, shape) * (jnp.prod(jnp.array(shape[:-1])) ** -0.5),
                    jnp.zeros(shape[-1]),
                )
                for k, shape in zip(keys, layers, strict=False)
            ]
        )
    return parts[0], parts[1]


def encode(model: str, parameters: Parameters, x: Array) -> tuple[Array, Array]:
    """Returns mean and raw scale of q(z|x) for x (B, 784)."""
    *hidden, (w, b) = parameters
    h = x if model == "mlp" else x.reshape(-1, SIDE, SIDE, 1)
    for v, c in hidden:
        if model == "mlp":
            h = jnp.tanh(h @ v + c)
        else:
            h = jax.nn.silu(
                lax.conv_general_dilated(h, v, (2, 2), ((1, 1), (1, 1)), dimension_numbers=LAYOUT)
                + c
            )
    mean, raw = jnp.split(h.reshape(len(x), -1) @ w + b, 2, -1)
    return mean, raw


def decode(model: str, parameters: Parameters, z: Array) -> Array:
    """Returns logits (B, 784) for z (B, D)."""
    if model == "mlp":
        *hidden, (w, b) = parameters
        for v, c in hidden:
            z = jnp.tanh(z @ v + c)
        return z @ w + b
    (w, b), *convolutions = parameters
    h = (z @ w + b).reshape(-1, 4, 4, 128)
    for (v, c), extra in zip(convolutions, (0, 1, 1), strict=True):
        ends = ((1, 1 + extra), (1, 1 + extra))
        h = (
            lax.conv_general_dilated(
                jax.nn.silu(h), v, (1, 1), ends, lhs_dilation=(2, 2), dimension_numbers=LAYOUT
            )
            + c
        )
    return h.reshape(len(z), -1)
