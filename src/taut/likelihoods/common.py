r"""What the likelihoods share: statistics as buffers, and the family of location and scale.

A density of location and scale is ``LocationScale`` with its distribution, and nothing else.
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from taut.distributions.observed import Observed
from taut.model import Likelihood
from taut.networks import MLP, NetworkFactory, positive
from taut.types import Context

__all__ = ["LocationScale", "full", "takes_total"]


def full(value: Tensor | float, event_shape: Sequence[int]) -> Tensor:
    """Returns a value for each element, (*event), in torch's default type."""
    return (
        torch.as_tensor(value, dtype=torch.get_default_dtype()).expand(tuple(event_shape)).clone()
    )


def takes_total(likelihood: Likelihood | Callable[..., Likelihood]) -> bool:
    """Returns whether a likelihood, built or to be built, is of a row given its total."""
    if isinstance(likelihood, Likelihood):
        return getattr(likelihood, "library", False) is True
    given = inspect.signature(likelihood).parameters.get("library")
    return given is not None and given.default is True


class LocationScale(Likelihood):
    r"""Abstract density of a location $m_i(z)$, decoded, and a learned scale $\sigma_i$ of each
    element.

    A family gives its ``distribution``; one with parameters of its own makes them in
    ``learn_shape``.

    Args:
        event_shape: Shape of one data point.
        latent_dim: D.
        scale: "per_feature" (one learned $\sigma_i$ each), "shared" (one learned $\sigma$) or
            "per_datum" ($\sigma(z)$, decoded).
        min_scale: Smallest scale, as a share of the standard deviation of the data: a density has
            no upper limit.
        decoder: Network from z to m in standardized units, and the raw scale if it is decoded,
            (1 or 2, \*event).
        context_dim: C.
        data_loc: Mean of the training data, in the user's units.
        data_scale: Standard deviation of the training data, likewise.

    Raises:
        ValueError: ``scale`` is none of the three.
    """

    data_loc: Tensor
    loc_name = "data_loc"  # of the buffer that holds the location
    fill: Tensor | float | None = None  # a value of the support; the location where it is None

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        scale: str | float = "per_feature",
        min_scale: float = 1e-4,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float = 0.0,
        data_scale: Tensor | float = 1.0,
    ) -> None:
        super().__init__()
        self.event_dims, self.scale, self.min_scale = len(event_shape), scale, min_scale
        self.register_buffer(self.loc_name, full(data_loc, event_shape))
        self.learn_scale(event_shape, data_scale)
        self.learn_shape(event_shape)
        maps = 2 if scale == "per_datum" else 1
        self.decoder = decoder((latent_dim,), (maps, *event_shape), context_dim)

    @abc.abstractmethod
    def distribution(self, loc: Tensor, scale: Tensor) -> Distribution:
        r"""Returns the distribution of each element, of a location and a scale, (\*, B, \*event)
        each, in the user's units.
        """

    def learn_shape(self, event_shape: Sequence[int]) -> None:
        """Makes what a family learns beside location and scale."""

    def learn_scale(self, event_shape: Sequence[int], data_scale: Tensor | float) -> None:
        """Makes the scale."""
        self.learned = Scale(self.scale, event_shape, self.min_scale, data_scale)

    def scaled(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the unit of the location and the scale, from what was decoded."""
        return self.learned.unit, self.learned(raw)

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        raw = self.decoder(z, context).movedim(-1 - self.event_dims, 0)
        data_loc = getattr(self, self.loc_name)
        unit, scale = self.scaled(raw)
        loc = data_loc + unit * raw[0]
        made = self.distribution(loc, scale.expand_as(loc))
        return Observed(made, self.event_dims, data_loc if self.fill is None else self.fill)


class Scale(nn.Module):
    """The learned scale of a density of location and scale, in units of that of the data."""

    unit: Tensor

    def __init__(
        self,
        choice: str | float,
        event_shape: Sequence[int],
        min_scale: float,
        data_scale: Tensor | float,
    ) -> None:
        super().__init__()
        if choice not in ("per_feature", "shared", "per_datum"):
            raise ValueError(f"unknown scale {choice!r}: 'per_feature', 'shared' or 'per_datum'")
        self.event_dims, self.min_scale = len(event_shape), min_scale
        unit, shape = full(data_scale, event_shape), tuple(event_shape)
        if choice != "per_feature":  # one sigma for all elements has one unit: the pooled one
            unit, shape = unit.square().mean().sqrt().expand_as(unit).clone(), ()
        self.register_buffer("unit", unit)
        self.raw = None if choice == "per_datum" else nn.Parameter(torch.zeros(shape))

    def forward(self, decoded: Tensor) -> Tensor:
        """Returns the scale.

        That of a whole data point is the mean of the last map that was decoded: it needs no network
        of its own.
        """
        event = tuple(range(-self.event_dims, 0))
        raw = decoded[-1].mean(event, keepdim=True) if self.raw is None else self.raw
        return self.unit * (self.min_scale + positive(raw))
