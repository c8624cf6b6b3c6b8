r"""What a row may be, given the state of each of its columns: columns that are independent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from taut.models.emissions import Emissions

__all__ = ["Emitted", "EmittedValues"]


class Emitted(Distribution):
    r"""Creates $p(x \mid z)$: columns that are independent, each in a state of its own.

    Args:
        emissions: Of all states.
        states: Of each column, (\*, C), integers.
        event_shape: Of a data point of C elements.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, emissions: Emissions, states: Tensor, event_shape: Sequence[int]) -> None:
        self.emissions, self.states = emissions, states
        super().__init__(states.shape[:-1], torch.Size(event_shape), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Emitted:
        shape = torch.Size(batch_shape)
        states = self.states.expand(*shape, self.states.shape[-1])
        return Emitted(self.emissions, states, self.event_shape)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(EmittedValues(self.emissions), len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """The mean of numbers, the most probable of levels."""
        own, made = self.emissions, []
        table = own.tables()
        for c, kind in enumerate(own.kinds):
            p = own.probabilities(c, table)
            each = p.argmax(0).to(p) if kind.nominal else own.mean(c, p)
            made.append(each[self.states[..., c]])
        return torch.stack(made, -1).unflatten(-1, self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.terms(value).flatten(-len(self.event_shape)).sum(-1)

    def terms(self, value: Tensor) -> Tensor:
        r"""Returns the log-probability of each element, (\*batch, \*event): zero if missing."""
        each = self.emissions.given(value.flatten(-len(self.event_shape)), self.states)
        return each.unflatten(-1, self.event_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        own, shape = self.emissions, torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            states = self.states.expand(*shape, -1)
            u = torch.rand(*states.shape, 2, device=states.device, dtype=own.base.dtype)
            table, made = own.tables(), []
            for c in range(len(own.kinds)):
                p = own.probabilities(c, table)
                flat = u[..., c, :].reshape(-1, 2).T
                made.append(own.draw(c, p, states[..., c].reshape(-1), flat).view(shape))
            return torch.stack(made, -1).unflatten(-1, self.event_shape)


class EmittedValues(constraints.Constraint):
    """Where the values of each column may lie."""

    def __init__(self, emissions: Emissions) -> None:
        self.emissions = emissions
        self.is_discrete = all(kind.discrete for kind in emissions.kinds)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        seen = self.emissions.see(value.reshape(-1, len(self.emissions.kinds)))
        possible: Tensor = seen.constant > -torch.inf
        return possible.T.reshape(value.shape)
