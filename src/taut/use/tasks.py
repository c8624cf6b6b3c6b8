"""What users want of a trained model: samples, reconstructions, embeddings, decoded points.

In evaluation mode, by blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from taut.distributions.chain import Chain
from taut.model import Model
from taut.models.stepwise import StepwiseModel
from taut.system.errors import UsageError
from taut.system.memory import Chunks
from taut.system.parallel import Share
from taut.system.seeds import stream
from taut.types import Context
from taut.use.blocks import Block, blocks_of, device_of
from taut.use.door import takes_model_and_data

__all__ = ["context_of", "decode", "drawn_below", "encode", "reconstruct", "sample"]

ROWS = 256


def sample(
    model: Model,
    num_samples: int,
    *,
    mean: bool = False,
    context: Context | None = None,
    seed: int = 0,
) -> Tensor:
    r"""Returns draws of x, (N, \*event): $z \sim p(z)$ and then $x \sim p(x \mid z)$, or the mean
    of $p(x \mid z)$.

    Args:
        model: The model.
        num_samples: N.
        mean: Whether to return $\mathbb{E}[x \mid z]$ instead of a draw: smoother than any data
            point is.
        context: What all samples are conditioned on, (1, C), or what each is, (N, C).
        seed: The same seed gives the same samples.
    """
    if mean and isinstance(model, StepwiseModel):
        raise UsageError(
            f"{type(model).__name__} makes a row step by step and has no mean of one: omit --mean"
        )
    if mean and model.no_density:
        raise UsageError(
            f"{type(model).__name__} shows what it generates, without noise: omit --mean"
        )
    rows = torch.empty(num_samples, 0) if context is None else context.expand(num_samples, -1)

    def block(rows: Tensor) -> Tensor:
        c = None if context is None else rows
        if not mean:
            return model.sample(len(rows)) if c is None else model.sample(1, context=c)[0]
        prior = model.latent_prior(c)
        return _decoded(
            model,
            prior.sample() if prior.batch_shape else prior.sample(torch.Size((len(rows),))),
            False,
            c,
        )

    return _by_blocks(model, rows, block, seed, "sample")


@takes_model_and_data("taut.use.tasks.reconstruct", "reconstruct(data)")
def reconstruct(model: Model, x: Any, *, draw: bool = False, seed: int = 0) -> Tensor:
    r"""Returns the mean of (or a draw from) $p(x \mid z)$ at the posterior mean of each row, or at
    the most probable categories, (N, \*event).
    """

    def block(rows: Tensor) -> Tensor:
        context = model.split(rows)[1]
        return _decoded(model, _known(model, model.point, rows), draw, context)

    return _by_blocks(model, x, block, seed, "reconstruct")


@takes_model_and_data("taut.use.tasks.encode", "encode(data)")
def encode(model: Model, x: Any, num_samples: int | None = None, *, seed: int = 0) -> Tensor:
    r"""Returns the embedding of each row, (N, E), or K draws of the posterior, (N, K, D).

    The embedding is the posterior mean; of a model of categories their probabilities.
    """
    if num_samples is None:
        return _by_blocks(model, x, lambda rows: _known(model, model.embed, rows), seed, "encode")
    shape = torch.Size((num_samples,))
    return _by_blocks(
        model,
        x,
        lambda rows: model.encode(rows).sample(shape).transpose(0, 1),
        seed,
        "encode",
        num_samples,
    )


def decode(
    model: Model, z: Tensor, *, draw: bool = False, context: Context | None = None, seed: int = 0
) -> Tensor:
    r"""Returns the mean of (or a draw from) $p(x \mid z)$ for z (N, D), (N, \*event), given a
    context of one row or none.
    """
    return _by_blocks(model, z, lambda rows: _decoded(model, rows, draw, context), seed, "decode")


def drawn_below(
    model: Model, z: Tensor, kept: int, *, context: Context | None = None, seed: int = 0
) -> Tensor:
    r"""Returns latent points (N, D) whose first levels are kept, and the levels below drawn again,
    $z_l \sim p(z_l \mid z_{<l})$: what the levels above leave open.

    Args:
        model: A model with several levels of latent variables.
        z: The points, (N, D), all levels joined, the top first.
        kept: How many levels stay as they are.
        context: What all are conditioned on, (1, C).
        seed: The same seed gives the same points.

    Raises:
        UsageError: the model has no levels, or fewer than are to be kept.
    """
    prior = model.latent_prior(context)
    if not isinstance(prior, Chain):
        raise UsageError("this model has one level of latent variables, and none below it")
    if not 0 <= kept <= len(prior.groups):
        raise UsageError(f"this model has {len(prior.groups)} levels: keep from 0 to all of them")

    def block(rows: Tensor) -> Tensor:
        drawn: list[Tensor] = []
        start = 0
        for number, (_, size) in enumerate(prior.groups):
            here, start = rows[:, start : start + size], start + size
            if number >= kept:
                above = torch.cat(drawn, -1) if drawn else None
                part = prior.conditional(number, above)
                shape = torch.Size((len(rows),) if above is None else ())
                here = part.sample(shape).reshape(here.shape)
            drawn.append(here)
        return torch.cat(drawn, -1)

    return _by_blocks(model, z, block, seed, "below")


def context_of(model: Model, values: Tensor) -> Context:
    """Returns the context of a model for values of what it is conditioned on: given columns (N, C),
    or totals (N, 1).

    Raises:
        UsageError: the model is not conditioned on anything.
    """
    if model.condition is None:
        raise UsageError(
            "this model is not conditioned on anything: train one with --condition COLUMN"
        )
    with torch.no_grad():
        return model.condition.context(values.to(device_of(model)))


def _decoded(model: Model, z: Tensor, draw: bool, context: Context | None = None) -> Tensor:
    distribution = model.decode(z[None], context)
    return (distribution.sample() if draw else mean_of(distribution))[0]


def _known(model: Model, place: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Returns the embedding or the latent point of rows, where the posterior has one."""
    try:
        return place(rows)
    except NotImplementedError as error:
        if str(error):
            raise UsageError(str(error)) from None
        raise _without_mean(model.encode(rows)) from None


def mean_of(distribution: Distribution) -> Tensor:
    try:
        return distribution.mean
    except NotImplementedError:
        raise _without_mean(distribution) from None


def _without_mean(distribution: Distribution) -> UsageError:
    return UsageError(
        f"a {type(distribution).__name__} has no mean: ask for draws (--draw, or --num-samples "
        f"with encode)"
    )


def _by_blocks(
    model: Model,
    rows: Any,
    function: Callable[[Tensor], Tensor],
    seed: int,
    name: str,
    num_samples: int = 1,
) -> Tensor:
    """Returns what a function makes of the rows, block by block.

    One too large for the memory in parts, with the same noise.
    """
    chunks = Chunks(ROWS)

    def compute(block: Block) -> Tensor:
        def part(own: Share) -> Tensor:
            with stream(seed, name, block.number), own.noise(num_samples):
                return function(own.of(block.x)).cpu()

        return torch.cat(list(chunks(len(block.x), part)))

    return torch.cat(list(blocks_of(model, rows, ROWS, compute)))
