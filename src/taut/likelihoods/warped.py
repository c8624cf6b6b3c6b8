"""Likelihoods that start from the marginal of the data.

Levels, and reals with atoms, bounds and any skew.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from taut.distributions import warps
from taut.distributions.observed import Observed
from taut.likelihoods.common import full
from taut.model import Likelihood
from taut.networks import MLP, NetworkFactory, positive
from taut.types import Context

__all__ = ["WarpedLevels", "WarpedLogistic"]


class _Warped(Likelihood):
    """What the two have in common.

    The warp of each element, and a location and a scale that are decoded.
    """

    knots: Tensor
    whole = False

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        low: int | Tensor | float = -torch.inf,
        high: int | Tensor | float = torch.inf,
        min_scale: float = 1e-3,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        knots: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.event_dims, self.event_shape = len(event_shape), tuple(event_shape)
        self.min_scale = min_scale
        first, last = (full(end, event_shape) for end in (low, high))
        self.low, self.high = nn.Buffer(first, persistent=False), nn.Buffer(last, persistent=False)
        self.cut = not self.whole and bool((first.isfinite() | last.isfinite()).any())
        self.register_buffer(
            "knots", _plain(first, last, self.whole) if knots is None else knots.clone()
        )
        self.decoder = decoder((latent_dim,), (2, *event_shape), context_dim)

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        raw = self.decoder(z, context).movedim(-1 - self.event_dims, 0)
        # A logistic distribution has a standard deviation of 1.8: a location of as many units for
        # each unit of the decoder.
        loc, scale = 1.8 * raw[0], self.min_scale + (1 - self.min_scale) * positive(raw[1])
        made = warps.Warped(
            loc, scale, self.knots, self.low, self.high, self.whole, self.cut, validate_args=False
        )
        return Observed(made, self.event_dims, self._fill())

    def _fill(self) -> Tensor:
        """Returns a value in the support of each element."""
        x = self.knots[..., 0, :]
        inner = x.gather(
            -1, (x.isfinite().sum(-1, keepdim=True) // 2).clamp(max=x.shape[-1] - 1)
        ).squeeze(-1)
        if self.whole:
            return torch.ceil(inner - 0.5)
        return inner


class WarpedLevels(_Warped):
    r"""Creates $P(x_i \le l \mid z) = \sigma((G_i(l + \tfrac12) - m_i(z)) / s_i(z))$ for the levels
    low, ..., high of rows.

    G is the logit of the distribution function of the training data (see ``warps``): a raw decoder
    output of zero is their frequencies, of any shape, and its size does not grow with the number of
    levels.

    Args:
        event_shape: Shape of one data point, (C,).
        latent_dim: D.
        low: The smallest level, or that of each element.
        high: The largest level, likewise.
        min_scale: Smallest s; the data have 1.
        decoder: Network from z to the location and the raw scale, (2, \*event).
        context_dim: C.
        knots: Of the warps, (\*event, 2, M); the levels are equally probable if they are not given.
    """

    whole = True


class WarpedLogistic(_Warped):
    r"""Creates logistic distributions of $G_i(x_i)$ for reals with atoms, bounds and any skew.

    G is the logit of the distribution function of the training data (see ``warps``): a raw decoder
    output of zero is their marginal. With atoms $\log p$ is a log-probability at an atom and a
    log-density elsewhere, normalised as a whole.

    Its arguments are those of ``WarpedLevels``. ``low`` is what no value lies below, minus infinity
    where there is no such end, ``high`` likewise; without knots it is the standard logistic
    distribution.
    """


def _plain(low: Tensor, high: Tensor, whole: bool) -> Tensor:
    """Returns the knots of levels that are equally probable, and of the standard logistic
    distribution.
    """
    if not whole:
        x = torch.stack([low.nan_to_num(neginf=-1.0), high.nan_to_num(posinf=1.0)], -1)
        return torch.nn.functional.pad(
            torch.stack([x, x], -2), (0, warps.MAX_KNOTS - 2), value=torch.inf
        )
    made = []
    for a, b in zip(low.flatten().tolist(), high.flatten().tolist(), strict=True):
        levels = np.arange(a, b + 1)
        made.append(warps.padded(warps.fit_knots(levels, levels[:0], (a, b), True)))
    if low.dim():
        return torch.stack(made).unflatten(0, low.shape).to(low)
    return made[0].to(low)
