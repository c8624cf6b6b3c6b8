r"""Discrete latent variables whose values are few are summed over: nothing is estimated.

With z of S values, each with $p(x, z)$,

$$ p(x) = \sum_z p(x, z), \qquad
   \mathrm{ELBO} = \sum_z q(z \mid x) \log \frac{p(x, z)}{q(z \mid x)}, \qquad
   \mathrm{gap} = \log p(x) - \mathrm{ELBO} = \mathrm{KL}(q(z \mid x) \,\|\, p(z \mid x)), $$

all exact to rounding. The values go in chunks, so that memory does not grow with S; each is decoded
once for a block of rows, unless there is a context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from taut.data import Rows
from taut.distributions.codes import Listed
from taut.evidence.annealing import support_of
from taut.model import Model
from taut.system.precision import wide
from taut.types import Context, PerDatum
from taut.use.blocks import Block, blocks_of, device_of, some_of

__all__ = ["Enumeration", "States", "enumeration", "enumeration_blocks", "states_of", "too_many"]

MOST_STATES = 10**6  # that are summed
ALWAYS = 4096  # summed however many rows there are
MOST_ELEMENTS = 10**10  # of x whose probability is evaluated: states times rows times elements
AT_ONCE = 2**21  # of them
ROWS = 32  # of a block


class States(NamedTuple):
    """The values of a discrete z.

    Args:
        number: How many there are, S.
        at: From numbers, (M,), each below S, to those values, (M, D).
    """

    number: int
    at: Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Enumeration:
    r"""What sums over all values of z say of N rows, in nats; tensors are (N,), float64.

    Args:
        log_evidence: log p(x).
        elbo: The ELBO of the model's posterior.
        rate: KL(q(z|x), p(z)).
        posterior_mean: E[z] under p(z|x), (N, D): of a one-hot code the probabilities of its
            levels.
    """

    log_evidence: Tensor
    elbo: Tensor
    rate: Tensor
    posterior_mean: Tensor

    @property
    def gap(self) -> PerDatum:
        """KL(q(z|x), p(z|x))."""
        return self.log_evidence - self.elbo

    @property
    def error(self) -> PerDatum:
        """By how much log p(x) may be rounded."""
        return torch.finfo(torch.get_default_dtype()).eps * self.log_evidence.abs()

    @property
    def distortion(self) -> PerDatum:
        """Minus the mean of log p(x|z) under q."""
        return -self.elbo - self.rate

    @classmethod
    def concatenate(cls, parts: list[Enumeration]) -> Enumeration:
        names = [field.name for field in fields(cls)]
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def states_of(prior: Distribution) -> States | None:
    """Returns the values of z under a prior; None where they are not known to be finitely many."""
    support = support_of(prior)
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if isinstance(support, Listed):
        return States(support.num_states, support.states)
    if support is constraints.boolean:
        bits = prior.event_shape.numel()
        powers = torch.arange(bits - 1, -1, -1)
        return States(2**bits, lambda n: (n[:, None] >> powers.to(n.device)) & 1)
    return None


def too_many(states: States | None, rows: int, elements: int) -> str:
    """Returns in a line why the values of z are not summed over; nothing where they are.

    Args:
        states: The values of z.
        rows: How many rows there are.
        elements: Of one row.
    """
    if states is None:
        return "the latent variables are not discrete: their values cannot be enumerated"
    if states.number > MOST_STATES:
        return (
            f"z has {_short(states.number)} values, and at most {MOST_STATES:,} are summed: fewer "
            "codes or levels would make log p(x) exact"
        )
    if states.number > ALWAYS and states.number * rows * elements > MOST_ELEMENTS:
        most = max(1, MOST_ELEMENTS // (states.number * elements))
        return (
            f"z has {states.number:,} values, too many to sum for {rows:,} rows of {elements:,} "
            f"elements: give at most {most:,} rows"
        )
    return ""


def _short(count: int) -> str:
    """Returns a large number as text, which has no limit as a float has."""
    if count < 10**9:
        return f"{count:,}"
    return f"about 10^{len(str(count)) - 1}"


def enumeration(model: Model, x: Rows, *, context: Context | None = None) -> Enumeration:
    r"""Returns log p(x), the ELBO and the posterior of each data point by sums over all z.

    Args:
        model: A model whose z is discrete, of at most 10^6 values.
        x: Data, (N, \*event).
        context: What the model is conditioned on, (N, C).

    Raises:
        ValueError: z is not discrete, or has too many values.
    """
    return Enumeration.concatenate(list(enumeration_blocks(model, x, context=context)))


def enumeration_blocks(
    model: Model, x: Rows, *, context: Context | None = None, most_elements: int | None = None
) -> Iterator[Enumeration]:
    """Yields the same block by block."""
    states, elements = values_of(model, x, context), max(1, x[:1].numel())
    if why := too_many(states, 1, 1):
        raise ValueError(why)
    assert states is not None
    step = max(1, AT_ONCE // (ROWS * elements))

    def of_block(block: Block) -> Enumeration:
        return _summed(model, block.x, block.context, states, step)

    yield from blocks_of(model, x, ROWS, of_block, context=context)


def values_of(model: Model, x: Rows, context: Context | None = None) -> States | None:
    """Returns the values of z of a model; None where they are not known to be finitely many."""
    device = device_of(model)
    first = x[:1].to(device=device, dtype=torch.get_default_dtype())
    with torch.no_grad():
        c = model.split(first, some_of(context, slice(1), device))[1]
        return states_of(model.latent_prior(c))


def _summed(
    model: Model, x: Tensor, context: Tensor | None, states: States, step: int
) -> Enumeration:
    seen, context = model.split(x, context)
    prior, q = model.latent_prior(context), model.encode(x, context)
    zero = wide(torch.zeros(len(x), device=x.device))
    total, elbo, rate = zero - torch.inf, zero, zero
    mean = zero[:, None]
    for start in range(0, states.number, step):
        number = torch.arange(start, min(start + step, states.number), device=x.device)
        values = states.at(number).to(x)  # (S, D)
        each = values[:, None].expand(-1, len(x), -1)
        z = values[:, None] if context is None else each
        log_prior, log_q = wide(prior.log_prob(z)), wide(q.log_prob(each))
        log_joint = wide(model.decode(z, context).log_prob(seen)) + log_prior
        new = torch.logaddexp(total, log_joint.logsumexp(0))
        mean = mean * (total - new).exp()[:, None] + (log_joint - new).exp().T @ wide(values)
        total, weight = new, log_q.exp()
        # a value that q gives no mass adds nothing, though its logarithm is infinite
        elbo = elbo + torch.where(weight > 0, weight * (log_joint - log_q), 0.0).sum(0)
        rate = rate + torch.where(weight > 0, weight * (log_q - log_prior), 0.0).sum(0)
    return Enumeration(total.cpu(), elbo.cpu(), rate.cpu(), mean.cpu())
