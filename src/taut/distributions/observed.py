r"""Missing data: an element of x that is NaN is integrated out of $p(x \mid z)$, which leaves the
observed elements.

Given z the elements are independent, so that $p(x_\mathrm{obs} \mid z) = \prod_{i \in \mathrm{obs}}
p(x_i \mid z)$: a missing element contributes zero nats. Every bound, estimator and sampler sees the
model through its log-densities alone, and so becomes one of $\log p(x_\mathrm{obs})$. That the
entries are missing at random is an assumption that no number here can check.

References: mattei2019, nazabal2020.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent
from torch.fx.experimental.proxy_tensor import get_proxy_mode

__all__ = ["NoTermsError", "Observed", "terms"]


class NoTermsError(ValueError):
    """A distribution is not made of elements that are independent given z."""


class Observed(Independent[Distribution]):
    r"""Creates a distribution of independent elements, from which those that are NaN drop out.

    Args:
        base_distribution: The distribution of the single elements, batch shape (\*, \*event).
        event_dims: Number of axes of a data point.
        fill: A value in the support of every element, or one of each, (\*event); missing elements
            are evaluated there, so that no gradient meets a NaN.
    """

    def __init__(
        self, base_distribution: Distribution, event_dims: int, fill: Tensor | float
    ) -> None:
        super().__init__(base_distribution, event_dims, validate_args=False)
        self.fill = fill

    def expand(self, batch_shape: Any, _instance: Any = None) -> Observed:
        event = self.event_shape
        base = self.base_dist.expand(torch.Size(batch_shape) + event)
        return Observed(base, len(event), self.fill)

    def log_prob(self, value: Tensor) -> Tensor:
        return _summed(self.terms(value), len(self.event_shape))

    def terms(self, value: Tensor) -> Tensor:
        r"""Returns the log-density of each element, (\*batch, \*event): zero if it is missing."""
        # To ask for NaN costs less than the mask, but on an accelerator it would wait, and a step
        # that is being recorded has no answer.
        traced = torch.compiler.is_compiling() or get_proxy_mode() is not None
        if value.device.type == "cpu" and not traced and not value.sum().isnan():
            return self.base_dist.log_prob(value)
        missing = value.isnan()
        fill = torch.as_tensor(self.fill, dtype=value.dtype, device=value.device)
        return torch.where(missing, 0.0, self.base_dist.log_prob(torch.where(missing, fill, value)))


def terms(distribution: Distribution, value: Tensor) -> Tensor:
    r"""Returns the log-density of each element of a data point given z, (\*batch, \*event).

    Raises:
        NoTermsError: the distribution is not made of elements that are independent given z.
    """
    if not hasattr(distribution, "terms"):
        raise NoTermsError(
            f"a {type(distribution).__name__} does not say how much each element contributes"
        )
    return distribution.terms(value)


def _summed(terms: Tensor, event_dims: int) -> Tensor:
    return terms.sum(tuple(range(-event_dims, 0))) if event_dims else terms
