r"""What the likelihoods share: statistics as buffers, and the family of location and scale.

A density of location and scale is ``LocationScale`` with its distribution, and nothing else.
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from taut.distributions.observed import Observed
from taut.model import Likelihood
from taut.networks import MLP, NetworkFactory, check_positive, inverse_positive, positive
from taut.types import Context

__all__ = ["LocationScale", "full", "raw_scale", "takes_total"]

SCALES = ("per_feature", "shared", "per_datum", "per_entry")
DECODED = ("per_datum", "per_entry")


def full(value: Tensor | float, event_shape: Sequence[int]) -> Tensor:
    """Returns a value for each element, (*event), in torch's default type."""
    return (
        torch.as_tensor(value, dtype=torch.get_default_dtype()).expand(tuple(event_shape)).clone()
    )


def takes_total(likelihood: Likelihood | Callable[..., Likelihood]) -> bool:
    """Returns whether a likelihood, built or to be built, is of a row given its total."""
    always = getattr(likelihood, "func", likelihood)  # of a partial application
    if getattr(always, "library", False) is True:
        return True
    if isinstance(likelihood, Likelihood):
        return False
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
        scale: "per_feature" (one learned $\sigma_i$ each), "shared" (one learned $\sigma$),
            "per_datum" ($\sigma(z)$, decoded) or "per_entry" ($\sigma_i(z)$, decoded).
        min_scale: Smallest scale, as a share of the standard deviation of the data: a density has
            no upper limit.
        decoder: Network from z to m in standardized units, and the raw scale if it is decoded,
            (1 or 2, \*event).
        context_dim: C.
        data_loc: Mean of the training data, in the user's units.
        data_scale: Standard deviation of the training data, likewise.

    Raises:
        ValueError: ``scale`` is none of the four, or ``min_scale`` is not positive.
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
        self.event_dims, self.scale = len(event_shape), scale
        self.min_scale = check_positive(min_scale)
        self.register_buffer(self.loc_name, full(data_loc, event_shape))
        self.learn_scale(event_shape, data_scale)
        self.learn_shape(event_shape)
        maps = 2 if scale in DECODED else 1
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

    def start_scale(self, scale: Tensor) -> Tensor | None:
        r"""Starts the noise of each element at a standard deviation, in units of the data's.

        Args:
            scale: The standard deviation of each element, (\*event), above ``min_scale``.

        Returns:
            What the decoder must return at first for the raw scale, (\*event); None where the scale
            is a parameter, which is set.

        Raises:
            ValueError: the elements share a scale.
        """
        raw = inverse_positive(self.spread(scale) - self.min_scale)
        if self.scale == "per_entry":
            return raw
        if self.scale != "per_feature":
            raise ValueError(f"the elements share a scale: {self.scale!r}")
        with torch.no_grad():
            self.own_scale.copy_(raw)
        return None

    def spread(self, scale: Tensor) -> Tensor:
        """Returns the scale parameter of a standard deviation; may set the shape that it is for."""
        return scale

    @property
    def own_scale(self) -> Tensor:
        """The raw scale that is learned."""
        return cast(Tensor, self.learned.raw)

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
        if choice not in SCALES:
            raise ValueError(
                f"unknown scale {choice!r}: 'per_feature', 'shared', 'per_datum' or 'per_entry'"
            )
        self.event_dims, self.min_scale = len(event_shape), min_scale
        unit, shape = full(data_scale, event_shape), tuple(event_shape)
        if choice not in (
            "per_feature",
            "per_entry",
        ):  # one sigma for all elements has one unit: the pooled one
            unit, shape = unit.square().mean().sqrt().expand_as(unit).clone(), ()
        self.register_buffer("unit", unit)
        self.choice = choice
        self.raw = None if choice in DECODED else nn.Parameter(torch.zeros(shape))

    def forward(self, decoded: Tensor) -> Tensor:
        raw = raw_scale(self.choice, self.raw, decoded, self.event_dims)
        return self.unit * (self.min_scale + positive(raw))


def raw_scale(
    choice: str | float, learned: Tensor | None, decoded: Tensor, event_dims: int
) -> Tensor:
    """Returns the raw scale: the one that is learned, or the last of the maps that were decoded.

    That of a whole data point is the mean of the map: it needs no network of its own.
    """
    if learned is not None:
        return learned
    if choice == "per_entry":
        return decoded[-1]
    return decoded[-1].mean(tuple(range(-event_dims, 0)), keepdim=True)
