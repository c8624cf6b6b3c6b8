r"""A check of the scale of a Normal likelihood: is it right, and is it at its floor?

With standardized residuals $e = (x - m(z)) / \sigma(z)$, $z \sim q(z \mid x)$, a right scale has
$\mathbb{E}[e_i^2] = 1$. Multiplying it by $c_i = \sqrt{\mathbb{E}[e_i^2]}$, found on one half of
the data, changes the log-likelihood of the other half by $\sum_i \tfrac12 e_i^2 (1 - c_i^{-2}) -
\log c_i$: the immediate gain from a better scale. A density has no upper limit, so a scale at its
floor means that the floor, and not the data, decides how good the number looks.

References: rybkin2021.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from taut.evidence.results import Estimate
from taut.model import Model
from taut.types import Context, Data
from taut.use.blocks import Block, blocks_of

__all__ = ["scale_check"]

ROWS = 512
NEAR = 2.0  # multiple of the floor up to which a scale counts as being there


def scale_check(
    model: Model, x: Data, *, context: Context | None = None, seed: int = 0
) -> dict[str, Any] | None:
    r"""Returns the gain from refitting the scale of a Normal likelihood, in nats per data point, as
    plain values.

    Args:
        model: The model.
        x: Data, (N, \*event), at least 4.
        context: The context of the model, (N, C), if it is conditional.
        seed: The same seed gives the same numbers.

    Returns:
        ``gain`` of a refit, ``factor`` (median, smallest and largest $c_i$), ``at_floor`` (share of
        the scales within twice the floor of a learned scale; None if there is no floor). None for
        another likelihood.
    """

    def standardized(block: Block) -> tuple[Tensor, Tensor | None] | None:
        q = model.encode(block.x, block.context)
        values, c = model.split(block.x, block.context)
        decoded = model.decode(q.sample(torch.Size((1,))), c)
        base = decoded.base_dist if isinstance(decoded, Independent) else decoded
        if not isinstance(base, Normal):
            return None
        residual = ((values - base.loc[0]) / base.scale[0]).flatten(1).cpu().double()
        return residual, _at_floor(model, base.scale[0])

    found = list(blocks_of(model, x, ROWS, standardized, context=context, seed=seed, name="scale"))
    known_parts = [part for part in found if part is not None]
    if len(x) < 4 or not known_parts:
        return None
    residuals, floors = zip(*known_parts, strict=True)
    square = torch.cat(residuals).square()
    fit, measure = square[::2], square[1::2]
    factor = fit.nanmean(0).sqrt()  # missing entries have no residual
    gain = torch.where(measure.isnan(), 0.0, 0.5 * measure * (1 - factor**-2) - factor.log()).sum(1)
    known = [f for f in floors if f is not None]
    at_floor = float(torch.cat(known).double().mean()) if known else None
    return {
        "gain": Estimate.of(gain).to_dict(),
        "factor": {
            "median": float(factor.median()),
            "smallest": float(factor.min()),
            "largest": float(factor.max()),
        },
        "at_floor": at_floor,
    }


def _at_floor(model: Model, scale: Tensor) -> Tensor | None:
    """Returns a mask of the scales at the floor of a learned scale; None if it has no floor."""
    floor = model.scale_floor
    return None if floor is None else (scale < NEAR * floor).flatten().cpu()
