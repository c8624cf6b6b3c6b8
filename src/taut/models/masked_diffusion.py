r"""Masked diffusion: a data point is told one element at a time, in any order.

The latent variable is the order, a permutation $z$ of the D elements that is uniform both a priori
and a posteriori, $p(z) = q(z \mid x) = 1 / D!$. Given it

$$ p(x \mid z) = \prod_{d=1}^{D} p(x_{z_d} \mid x_{z_1}, \dots, x_{z_{d-1}}), $$

each factor by one network that sees the elements told so far and a mask of the others. So log w =
log p(x | z): importance sampling, IWAE and k-hat hold as for any model, the slack of the ELBO is
what the orders disagree by, and it is zero if the conditionals are those of one joint distribution.
Forward in time it is diffusion whose noise *absorbs*: elements fall silent one by one.

The ELBO needs one pass for each number k of elements that are still untold,

$$ \mathrm{ELBO} = \sum_{k=1}^{D} \frac1k \, \mathbb{E}_{|M| = k} \sum_{i \in M} \log p(x_i \mid
   x_{\setminus M}), $$

of which a glance takes one, by chance. A missing element is one that is never told: it is the same
mask. So $p(x_A \mid x_B)$ of any two sets of elements is the model's own.

References: uria2014, austin2021, shi2024.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from taut.distributions.observed import terms
from taut.features import Features
from taut.likelihoods.columns import reach_of
from taut.model import Draw, Likelihood
from taut.models.stepwise import StepwiseModel, spread
from taut.types import Context, Data, PerSample

__all__ = ["MaskedDiffusion"]


class MaskedDiffusion(StepwiseModel):
    r"""Creates a masked diffusion of bits, levels, categories, numbers or the columns of a table.

    Args:
        event_shape: Shape of one data point, of D elements.
        likelihood: Of each element given the features of those that are told; its decoder is the
            network.
        features: What the network sees of a data point: values, and which are missing.

    References: uria2014, austin2021, shi2024.
    """

    fixed = (
        "its q is the prior over orders: there is no encoder to tighten, no path to anneal along, "
        "and its whole gap is what the orders disagree by"
    )
    conditionals = True
    why_no_code = (
        "the latent variable of MaskedDiffusion is an order, which says nothing of a row: there is "
        "nothing to encode or to reconstruct from; take --model VAE for an embedding"
    )

    def __init__(
        self, event_shape: Sequence[int], likelihood: Likelihood, features: Features
    ) -> None:
        super().__init__(likelihood, features)
        self.event_shape = tuple(event_shape)
        self.dim = math.prod(event_shape)

    @property
    def passes(self) -> int:
        return self.dim

    def conditional(self, x: Tensor) -> Distribution:
        r"""Returns $p(x_i \mid \text{the elements of } x \text{ that are not NaN})$ of every
        element i, batch shape (\*).

        Args:
            x: Data with gaps, (\*, \*event).
        """
        flat = x.reshape(-1, *self.event_shape)
        code = self.seen(flat).flatten(1)
        return self.likelihood(code.unflatten(0, x.shape[: x.dim() - len(self.event_shape)]))

    def encode(self, x: Data, context: Context | None = None) -> Distribution:
        return Orders(self.dim, (len(x),), x.device)

    def latent_prior(self, context: Context | None = None) -> Distribution:
        return Orders(self.dim, device=self._device)

    @property
    def _device(self) -> torch.device:
        return next(iter(self.state_dict().values())).device

    def decode(self, z: Tensor, context: Context | None = None) -> Distribution:
        return InOrder(self, z)

    def glance(self, x: Data, num_samples: int = 1, *, context: Context | None = None) -> Draw:
        r"""Returns one term of the ELBO for each sample, (K, B): k of the observed elements are
        masked, k by chance, and told at once.
        """
        k, b = num_samples, len(x)
        whole = x.expand(k, *x.shape)
        observed = ~whole.flatten(2).isnan()
        count = observed.sum(-1)  # D, but for missing elements
        masked = (spread(k, b, x) * count).floor().clamp(max=count - 1) + 1
        order = torch.rand(k, b, self.dim, device=x.device)
        order = torch.where(observed, order, torch.inf)
        rank = order.argsort(-1).argsort(-1)
        untold = (rank < masked[..., None]).unflatten(-1, self.event_shape)
        likelihood = self.conditional(torch.where(untold, torch.nan, whole))
        each = torch.where(untold, terms(likelihood, whole), 0.0).flatten(2).sum(-1)
        log_p = torch.where(count > 0, each * count / masked, 0.0)
        nothing = torch.zeros_like(log_p)
        return Draw(order, log_p, nothing, nothing, (), likelihood, None, False)

    def log_prob_given(self, x: Data, given: Tensor, num_samples: int = 1) -> PerSample:
        r"""Returns $\log p(x_A \mid x_B, z)$ for K orders z of the elements that are not given,
        (K, B): log mean exp over them tends to $\log p(x_A \mid x_B)$ from below.

        Args:
            x: Data, (B, \*event); a missing element belongs to neither.
            given: Which elements are $x_B$, (\*event) or (B, \*event).
            num_samples: K.
        """
        return self._told(x, self.encode(x).sample(torch.Size((num_samples,))), given)

    def complete(self, x: Tensor) -> Tensor:
        r"""Returns x (\*, \*event) with the missing elements drawn given the others, told one by
        one in a random order: exact conditional sampling.
        """
        orders = Orders(self.dim, x.shape[: x.dim() - len(self.event_shape)], x.device)
        return self._drawn(x, orders.sample())

    def sample(self, num_samples: int, *, context: Context | None = None) -> Tensor:
        blank = torch.full(
            (num_samples, *self.event_shape),
            torch.nan,
            dtype=torch.get_default_dtype(),
            device=self._device,
        )
        return self.complete(blank)

    def _told(self, x: Data, order: Tensor, given: Tensor | None = None) -> PerSample:
        """Returns the log-probability of the observed elements of x (B, *event) that are not given,
        told in an order (K, B, D).
        """
        whole = x.expand(len(order), *x.shape)
        rank = order.argsort(-1)
        if given is not None:  # what is given comes first, and is not counted
            first = given.expand(whole.shape).flatten(2)
            rank = torch.where(first, -1, rank)
        total = torch.zeros(order.shape[:-1], dtype=x.dtype, device=x.device)
        for d in range(self.dim):
            now = (rank == d).unflatten(-1, self.event_shape)
            untold = (rank >= d).unflatten(-1, self.event_shape)
            seen = self.conditional(torch.where(untold, torch.nan, whole))
            each = torch.where(now, terms(seen, whole), 0.0)  # a missing one has zero
            total = total + each.flatten(2).sum(-1)
        return total

    def _drawn(self, x: Tensor, order: Tensor) -> Tensor:
        """Returns x (*, *event) with its gaps drawn in the order (*, D)."""
        lead = x.dim() - len(self.event_shape)
        gaps = x.flatten(lead).isnan()
        rank = torch.where(gaps, order, torch.inf).argsort(-1).argsort(-1)
        rank = torch.where(gaps, rank, -1).unflatten(-1, self.event_shape)
        for d in range(int(gaps.sum(-1).max()) if gaps.numel() else 0):
            x = torch.where(rank == d, self.conditional(x).sample().to(x), x)
        return x


class Orders(Distribution):
    r"""Creates the uniform distribution over the permutations of D elements.

    Args:
        dim: D.
        batch_shape: Of as many independent ones.
        device: Where they are drawn.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own protocol)
    has_rsample = False

    def __init__(
        self,
        dim: int,
        batch_shape: Sequence[int] = (),
        device: torch.device | None = None,
    ) -> None:
        self.dim, self.device = dim, device
        super().__init__(torch.Size(batch_shape), torch.Size((dim,)), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.nonnegative_integer, 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Orders:
        return Orders(self.dim, batch_shape, self.device)

    def log_prob(self, value: Tensor) -> Tensor:
        constant = -math.lgamma(self.dim + 1)
        return torch.full_like(value[..., 0], constant, dtype=torch.get_default_dtype())

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        return torch.rand(shape, device=self.device).argsort(-1).to(torch.get_default_dtype())


class InOrder(Distribution):
    r"""Creates $p(x \mid z)$: the elements told in the order z, each given those before it.

    Args:
        model: Whose conditionals they are.
        order: z, (\*, B, D).
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, model: MaskedDiffusion, order: Tensor) -> None:
        self.model, self.order = model, order
        super().__init__(order.shape[:-1], torch.Size(model.event_shape), validate_args=False)

    @property
    def reach(self) -> constraints.Constraint | None:
        """Where an element has a probability, whatever is told before it."""
        return reach_of(self._first())

    @property
    def support(self) -> constraints.Constraint | None:
        return self._first().support

    def _first(self) -> Distribution:
        blank = torch.full((1, *self.event_shape), torch.nan, dtype=torch.get_default_dtype())
        return self.model.conditional(blank.to(self.order.device))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.model._told(value, self.order)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        blank = torch.full(
            (*shape, *self.event_shape),
            torch.nan,
            dtype=torch.get_default_dtype(),
            device=self.order.device,
        )
        with torch.no_grad():
            return self.model._drawn(blank, self.order.expand(*shape, -1))
