"""What people want of a trained model: samples, reconstructions, embeddings, decoded points; in evaluation mode, by blocks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

from taut.errors import UsageError
from taut.model import VAE, Model, evaluating
from taut.seeds import stream

__all__ = ["decode", "encode", "reconstruct", "sample"]

ROWS = 256


def sample(model: VAE, num_samples: int, *, mean: bool = False, seed: int = 0) -> Tensor:
    r"""Returns draws of x, (N, \*event): $z \sim p(z)$ and then $x \sim p(x \mid z)$, or the mean of $p(x \mid z)$.

    Args:
        model: The model.
        num_samples: N.
        mean: Whether to return $\mathbb{E}[x \mid z]$ in place of a draw: smoother than any datum is.
        seed: The same seed gives the same samples.
    """
    rows = torch.empty(num_samples)  # only their number counts

    def block(rows: Tensor) -> Tensor:
        if mean:
            return _decoded(model, model.prior().sample(torch.Size((len(rows),))), draw=False)
        return model.sample(len(rows))

    return _by_blocks(model, rows, block, seed, "sample")


def reconstruct(model: Model, x: Tensor, *, draw: bool = False, seed: int = 0) -> Tensor:
    r"""Returns the mean of (or a draw from) $p(x \mid z)$ at the posterior mean of each datum, (N, \*event)."""
    return _by_blocks(model, x, lambda rows: _decoded(model, _mean(model.encode(rows)), draw), seed, "reconstruct")


def encode(model: Model, x: Tensor, num_samples: int | None = None, *, seed: int = 0) -> Tensor:
    r"""Returns the posterior mean of each datum, (N, D), or K draws of the posterior, (N, K, D)."""
    if num_samples is None:
        return _by_blocks(model, x, lambda rows: _mean(model.encode(rows)), seed, "encode")
    shape = torch.Size((num_samples,))
    return _by_blocks(model, x, lambda rows: model.encode(rows).sample(shape).transpose(0, 1), seed, "encode")


def decode(model: Model, z: Tensor, *, draw: bool = False, seed: int = 0) -> Tensor:
    r"""Returns the mean of (or a draw from) $p(x \mid z)$ for z (N, D), (N, \*event)."""
    return _by_blocks(model, z, lambda rows: _decoded(model, rows, draw), seed, "decode")


def _decoded(model: Model, z: Tensor, draw: bool) -> Tensor:
    distribution = model.decode(z[None])
    return (distribution.sample() if draw else _mean(distribution))[0]


def _mean(distribution: Distribution) -> Tensor:
    try:
        return distribution.mean
    except NotImplementedError:
        raise UsageError(
            f"a {type(distribution).__name__} has no mean: ask for draws (--draw, or --num-samples with encode)"
        ) from None


def _by_blocks(model: Model, rows: Tensor, function: Callable[[Tensor], Tensor], seed: int, name: str) -> Tensor:
    device = next((p.device for p in model.parameters()), rows.device)
    blocks = []
    with torch.no_grad(), evaluating(model):
        for number, block in enumerate(rows.split(ROWS)):
            with stream(seed, name, number):
                blocks.append(function(block.to(device=device, dtype=torch.get_default_dtype())).cpu())
    return torch.cat(blocks)
