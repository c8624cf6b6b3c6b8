r"""What training the posterior on would close of the gap: a short trial of it.

The best posterior of each data point bounds the amortization gap from above; how much of it an
encoder closes on *new* data no closed form says, and as little what a richer family closes that an
encoder has to serve. So a copy of the posterior, or another family that starts at it, is trained
on for a few hundred steps, as ``taut tighten`` does it, decoder and prior frozen, and the rise of
the ELBO is measured on the held-out data. A longer training closes more, so it is about a lower
bound of what the command buys, and the inference gap an upper one.

References: cremer2018.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor

from taut.model import Model
from taut.objectives import ELBO, Objective, StickingTheLanding
from taut.system.precision import wide
from taut.system.seeds import generator, stream
from taut.types import Data
from taut.use.blocks import Block, blocks_of

__all__ = ["FEW", "STEPS", "trial"]

STEPS, BATCH = 500, 100
# A fifth of the usual rate for what ``taut tighten`` takes over, all of it for what is new.
RATE, NEW = 4e-4, 2e-3
# Training rows that an encoder may learn by heart: with fewer, half of each batch is drawn by the
# model, of which rows never run out.
FEW = 10_000
ASKED = 10  # steps after which it is asked again whether to stop
MOST = 200.0  # norm of the gradient, as in training
# In evaluations of p(x, z): four draws of each row, forward and backward.
WORK = 12.0 * STEPS * BATCH
DRAWS, ROWS = 64, 100  # that the rise is measured with, and rows at a time


def trial(
    model: Model,
    train: Tensor,
    x: Data,
    *,
    to: Model | None = None,
    steps: int | None = None,
    stop: Callable[[], bool] | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor] | None:
    r"""Returns what the ELBO of each data point rises by, and its Monte Carlo error, (N,) each, or
    None where it was stopped.

    The draws before and after are those of the same noise.

    Args:
        model: The model, whose posterior can be reparameterized and is its own
            (``Model.own_posterior``); it is not changed.
        train: Training data, (M, \*event).
        x: Held-out data, (N, \*event).
        to: The same model with another posterior, which starts at that of the model; it is trained.
            By default a copy of the model.
        steps: Steps of Adam; ``STEPS`` by default.
        stop: Says whether to stop; asked every ``ASKED`` steps.
        seed: The same seed gives the same numbers.
    """
    steps = STEPS if steps is None else steps
    after = (copy.deepcopy(model) if to is None else to).eval().requires_grad_(False)
    before, posterior = model.own_posterior(), after.own_posterior()
    assert before is not None
    assert posterior is not None
    posterior.requires_grad_(True).train()
    objective: Objective = StickingTheLanding(num_samples=4)
    if after.slow_density:
        objective = ELBO(num_samples=4)
    weights = list(posterior.parameters())
    taken = {name.partition(".")[0] for name, _ in before.named_parameters()}
    rates = [
        RATE if name.partition(".")[0] in taken else NEW for name, _ in posterior.named_parameters()
    ]
    optimizer = torch.optim.Adam([{"params": [w]} for w in weights])
    size = min(BATCH, len(train))
    drawn = size // 2 if len(train) < FEW else 0
    for step in range(steps):
        if stop is not None and step % ASKED == 0 and stop():
            return None
        index = torch.randint(len(train), (size,), generator=generator(seed, "trial", step))
        batch = train[index].to(weights[0])
        with stream(seed, "trial", step):
            if drawn:
                batch[-drawn:] = after.redraw(batch[-drawn:]).detach()
            loss = -objective(after, batch).surrogate.mean()
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * cosine
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, MOST)
        optimizer.step()
    after.eval()

    def rise(block: Block) -> Tensor:
        bounds = []
        for each in (model, after):
            with stream(seed, "rise", block.number):
                bounds.append(wide(each.draw(block.x, DRAWS).elbo))
        apart = bounds[1] - bounds[0]
        return torch.stack([apart.mean(0), apart.std(0) / math.sqrt(DRAWS)])

    value, error = torch.cat([part.cpu() for part in blocks_of(model, x, ROWS, rise)], 1)
    return value, error
