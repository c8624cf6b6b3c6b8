r"""Several groups of latent variables as one distribution, $\prod_l p(z_l \mid z_{<l})$, over the
joined z.

The groups stand next to each other in the last axis, the top first. Each is drawn given those
above it, and its density is evaluated at slices of the joined z, so that all that objectives and
evaluations do with a z (a hook on its gradient, importance weights, a walk along its gradient)
works for any number of groups.

References: sonderby2016.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

__all__ = ["Chain", "Part"]


class Part(NamedTuple):
    r"""One group of a chain at a given z.

    Args:
        name: What reports call it.
        slice: Where it stands in the joined z.
        distribution: $p(z_l \mid z_{<l})$, batch shape that of the chain or of z without its last
            axis.
        log_prob: Its log-density at z, nats.
    """

    name: str
    slice: slice
    distribution: Distribution
    log_prob: Tensor


class Chain(Distribution):
    r"""Creates $\prod_l p(z_l \mid z_{<l})$ over the joined z.

    Args:
        groups: Name and number of dimensions of each group, the top first.
        conditional: From the number of a group and those above it, joined, (\*, d), or None at the
            top, to $p(z_l \mid z_{<l})$: batch shape (\*) or one that it can be expanded from.
        batch_shape: () or (B,).
        support: Where z lives.
        has_rsample: Whether every group can be reparameterized.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(
        self,
        groups: Sequence[tuple[str, int]],
        conditional: Callable[[int, Tensor | None], Distribution],
        batch_shape: Sequence[int] = (),
        support: constraints.Constraint = constraints.real_vector,
        has_rsample: bool = True,
    ) -> None:
        self.groups, self.conditional = tuple(groups), conditional
        self._support, self.has_rsample = support, has_rsample
        size = sum(size for _, size in self.groups)
        super().__init__(torch.Size(batch_shape), torch.Size((size,)), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return self._support

    def expand(self, batch_shape: Any, _instance: Any = None) -> Chain:
        return Chain(self.groups, self.conditional, batch_shape, self._support, self.has_rsample)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self._drawn(sample_shape, "rsample")

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self._drawn(sample_shape, "rsample" if self.has_rsample else "sample")

    def _drawn(self, sample_shape: Any, method: str) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        drawn: list[Tensor] = []
        for number in range(len(self.groups)):
            part = self.conditional(number, torch.cat(drawn, -1) if drawn else None)
            rest = shape[: len(shape) - len(part.batch_shape)]
            drawn.append(getattr(part, method)(rest))
        return torch.cat(drawn, -1)

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.stack([part.log_prob for part in self.parts(value)]).sum(0)

    def parts(self, value: Tensor) -> list[Part]:
        r"""Returns each group at a joined z, (\*, D)."""
        parts, start = [], 0
        for number, (name, size) in enumerate(self.groups):
            here = slice(start, start + size)
            part = self.conditional(number, value[..., :start] if start else None)
            parts.append(Part(name, here, part, part.log_prob(value[..., here])))
            start += size
        return parts
