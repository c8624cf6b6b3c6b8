"""Likelihoods that start from the marginal of the data.

Levels, counts, numbers on a grid, and reals with atoms, bounds and any skew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from taut.data.tables.kind import Grid
from taut.distributions import warps
from taut.distributions.grids import Counted, Gridded, fit_cells
from taut.distributions.observed import Observed
from taut.likelihoods.common import full
from taut.model import Likelihood, Resizing
from taut.networks import MLP, NetworkFactory, check_positive, inverse_positive, positive
from taut.types import Context

__all__ = ["WarpedCounts", "WarpedGrid", "WarpedLevels", "WarpedLogistic"]

UNIT = 1.8  # the standard deviation of a logistic distribution: a unit of the decoder's location
EDGE = 1e-6  # least probability beside a value of which it is scored


class WarpedLikelihood(Likelihood):
    """What they have in common.

    The warp of each element, and a location and a scale that are decoded.
    """

    knots: Tensor
    whole = bends = False
    kind: type[warps.Warped] = warps.Warped

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
        self.min_scale = check_positive(min_scale, limit=1)
        first, last = (full(end, event_shape) for end in (low, high))
        self.low, self.high = nn.Buffer(first, persistent=False), nn.Buffer(last, persistent=False)
        self.levels = float((last - first).max()) + 1
        self.cut = not self.whole and bool((first.isfinite() | last.isfinite()).any())
        self.register_buffer(
            "knots", _plain(first, last, self.whole) if knots is None else knots.clone()
        )
        self.decoder = decoder((latent_dim,), (2, *event_shape), context_dim)

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        return Observed(self._made(z, context), self.event_dims, self._fill())

    def _made(self, z: Tensor, context: Context | None) -> warps.Warped:
        raw = self.decoder(z, context).movedim(-1 - self.event_dims, 0)
        loc, scale = UNIT * raw[0], self.min_scale + (1 - self.min_scale) * positive(raw[1])
        bend = self.bends or not self.whole
        given = (self.knots, self.low, self.high, self.whole, self.cut, bend, self.levels)
        return self.kind(loc, scale, *given, validate_args=False)

    def scores(self, x: Tensor) -> Tensor:
        r"""Returns the heights of values in the units of the decoder's location, (\*, \*event): of
        an atom or a cell that of the middle of its probability; NaN where missing.
        """
        value = torch.where(x.isnan(), self._fill(), self._inner(x))
        found = warps.heights(value, self.knots, self.whole, self.bends or not self.whole)
        cells = found.atom if not self.whole else torch.ones_like(found.atom)
        # the first and the last cell have all that lies beyond the knots
        below = torch.where(cells & (value <= self.low), 0.0, found.lower.sigmoid())
        above = torch.where(cells & (value >= self.high), 1.0, found.upper.sigmoid())
        middle = (below + above) / 2
        return torch.where(x.isnan(), torch.nan, middle.logit(eps=EDGE) / UNIT)

    def start_scale(self, scale: Tensor) -> Tensor:
        """Returns what the decoder must return for the raw scale of noise of standard deviations in
        the units of ``scores``, above ``min_scale``.
        """
        return inverse_positive((scale - self.min_scale).clamp_min(0) / (1 - self.min_scale))

    def _inner(self, x: Tensor) -> Tensor:
        """Returns values as the warp takes them."""
        return x

    def _fill(self) -> Tensor:
        """Returns a value in the support of each element."""
        x = self.knots[..., 0, :]
        inner = x.gather(
            -1, (x.isfinite().sum(-1, keepdim=True) // 2).clamp(max=x.shape[-1] - 1)
        ).squeeze(-1)
        if self.whole:
            return torch.ceil(inner - 0.5)
        return inner


class WarpedLevels(WarpedLikelihood):
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


class WarpedLogistic(WarpedLikelihood):
    r"""Creates logistic distributions of $G_i(x_i)$ for reals with atoms, bounds and any skew.

    G is the logit of the distribution function of the training data (see ``warps``): a raw decoder
    output of zero is their marginal. With atoms $\log p$ is a log-probability at an atom and a
    log-density elsewhere, normalised as a whole.

    Its arguments are those of ``WarpedLevels``. ``low`` is what no value lies below, minus infinity
    where there is no such end, ``high`` likewise; without knots it is the standard logistic
    distribution.
    """


class _Celled(Resizing, WarpedLikelihood):
    """What those have in common whose warps have as many knots as the data ask for."""

    whole = bends = True

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        low: Tensor | float,
        high: Tensor | float,
        min_scale: float,
        decoder: NetworkFactory,
        context_dim: int,
        cells: Tensor | None,
    ) -> None:
        if cells is None:
            cells = _plain_cells(full(low, event_shape), full(high, event_shape))
        super().__init__(event_shape, latent_dim, low, high, min_scale, decoder, context_dim, cells)


class WarpedCounts(_Celled):
    r"""Creates $P(x_i = n \mid z)$ for counts 0, 1, 2, ...: the share of a logistic distribution of
    $G_i$ between $n - \tfrac12$ and $n + \tfrac12$.

    Counts that repeat have a mass of their own in G (see ``grids``), so that a raw decoder output
    of zero is the marginal of the data, whatever its shape; its tail is that of the data.

    Args:
        event_shape: Shape of one data point, (C,).
        latent_dim: D.
        min_scale: Smallest s; the data have 1.
        decoder: Network from z to the location and the raw scale, (2, \*event).
        context_dim: C.
        cells: Knots of the warps, (\*event, 2, M); the geometric distribution of mean 1 if they are
            not given.
    """

    kind = Counted

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        min_scale: float = 1e-3,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        cells: Tensor | None = None,
    ) -> None:
        super().__init__(
            event_shape, latent_dim, 0.0, torch.inf, min_scale, decoder, context_dim, cells
        )


class WarpedGrid(_Celled):
    r"""Creates distributions of numbers on a grid, whose density is that of the cell of a number,
    and never above 1 / step.

    G is the logit of the distribution function of the training data, in which values that repeat
    have a mass of their own (see ``grids``): a raw decoder output of zero is their marginal.

    Args:
        event_shape: Shape of one data point, (C,).
        latent_dim: D.
        grids: The grid of each element; integers without them.
        min_scale: Smallest s; the data have 1.
        decoder: Network from z to the location and the raw scale, (2, \*event).
        context_dim: C.
        cells: Knots of the warps, in numbers of cells, (\*event, 2, M); without them most lies
            about cell 0.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        grids: Sequence[Grid] | None = None,
        min_scale: float = 1e-3,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        cells: Tensor | None = None,
    ) -> None:
        self.grids = list(grids or [Grid()] * math.prod(event_shape))
        dtype = torch.get_default_dtype()

        def each(name: str) -> Tensor:
            values = torch.tensor([getattr(grid, name) for grid in self.grids], dtype=dtype)
            return values.view(*event_shape)

        ends = each("first"), each("last")
        super().__init__(event_shape, latent_dim, *ends, min_scale, decoder, context_dim, cells)
        most = max(len(grid.atoms) for grid in self.grids)
        atoms = [[*grid.atoms, *[torch.inf] * (most - len(grid.atoms))] for grid in self.grids]
        self.start = nn.Buffer(each("start"), persistent=False)
        self.step = nn.Buffer(each("step"), persistent=False)
        self.atoms = nn.Buffer(
            torch.tensor(atoms, dtype=dtype).view(*event_shape, most), persistent=False
        )

    def _inner(self, x: Tensor) -> Tensor:
        return ((x - self.start) / self.step).round()

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        made = Gridded(self._made(z, context), self.start, self.step, self.atoms)
        return Observed(made, self.event_dims, self.start + self.step * self._fill())


def _plain_cells(low: Tensor, high: Tensor) -> Tensor:
    """Returns the knots of cells from ``low`` to ``high``: up to 2 about 0 where an end is open."""
    made = []
    for a, b in zip(low.flatten().tolist(), high.flatten().tolist(), strict=True):
        first, last = max(a, -2.0), min(b, max(a, 0.0) + 2.0)
        made.append(fit_cells(np.arange(first, last + 1), (a, b)))
    most = max(m.shape[1] for m in made)
    return torch.stack([warps.padded(m, most) for m in made]).unflatten(0, low.shape).to(low)


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
