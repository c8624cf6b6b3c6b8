r"""Codes: N discrete variables of K levels each, as one vector z of $N K$ zeros and ones.

Each code is a *one-hot* vector, one at its level and zero elsewhere, so that a network that decodes
z sees levels without an order. Codes are independent (``Codes``) or each depends on those before
it (``ChainOfCodes``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl
from torch.nn import functional

__all__ = ["ChainOfCodes", "Codes", "Listed", "OneHots", "check_codes"]


def check_codes(
    codes: int, size: int, latent_dim: int | None = None, name: str = "levels", least: int = 2
) -> None:
    """Refuses sizes that are none, and latent dimensions that are not those of the codes.

    Args:
        codes: N.
        size: Of a code: levels, or the width of a vector.
        latent_dim: What must be the product of both, where it is given.
        name: What the size is called.
        least: The smallest size.

    Raises:
        ValueError: which it is.
    """
    for word, value, smallest in (("codes", codes, 1), (name, size, least)):
        if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
            raise ValueError(f"{word} must be a whole number of at least {smallest}, not {value!r}")
    if latent_dim not in (None, codes * size):
        raise ValueError(
            f"{codes} codes of {name} {size} have {codes * size} latent dimensions, not "
            f"{latent_dim}: omit latent_dim"
        )


class Listed(constraints.Constraint):
    """Abstract set of the values of N discrete variables of K levels each, which can be listed.

    Args:
        codes: N.
        levels: K.
    """

    is_discrete = True
    event_dim = 1

    def __init__(self, codes: int, levels: int) -> None:
        self.codes, self.levels = codes, levels

    @property
    def num_states(self) -> int:
        """How many values z has."""
        return self.levels**self.codes

    def states(self, number: Tensor) -> Tensor:
        """Returns the values of z with these numbers, (S, D); the first variable changes
        slowest.
        """
        raise NotImplementedError

    def digits(self, number: Tensor) -> Tensor:
        """Returns the level of each variable, (S, N)."""
        powers = self.levels ** torch.arange(self.codes - 1, -1, -1, device=number.device)
        return (number[:, None] // powers) % self.levels


class OneHots(Listed):
    """Creates the set of N joined one-hot vectors of K levels."""

    def check(self, value: Tensor) -> Tensor:
        if value.shape[-1] != self.codes * self.levels:
            return torch.zeros(value.shape[:-1], dtype=torch.bool, device=value.device)
        parts = value.unflatten(-1, (self.codes, self.levels))
        bits = ((parts == 0) | (parts == 1)).all(-1)
        return (bits & (parts.sum(-1) == 1)).all(-1)

    def states(self, number: Tensor) -> Tensor:
        return functional.one_hot(self.digits(number), self.levels).flatten(-2)


class Codes(Distribution):
    r"""Creates $\prod_n \pi_n(k_n)$ over z of N one-hot codes.

    Args:
        logits: Unnormalised $\log \pi$, (\*, N, K), finite.
    """

    arg_constraints: dict[str, Any] = {  # noqa: RUF012 (torch's own protocol)
        "logits": constraints.independent(constraints.real, 2)
    }
    has_rsample = False

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits.log_softmax(-1)
        self.codes, self.levels = logits.shape[-2:]
        event = torch.Size((self.codes * self.levels,))
        super().__init__(logits.shape[:-2], event, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return OneHots(self.codes, self.levels)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Codes:
        return Codes(self.logits.expand(*batch_shape, self.codes, self.levels))

    def like(self, parameters: dict[str, Tensor]) -> Codes:
        """Returns the member of the family with other parameters."""
        return Codes(parameters["logits"])

    @property
    def probs(self) -> Tensor:
        r"""$\pi$, (\*, N, K)."""
        return self.logits.exp()

    @property
    def mean(self) -> Tensor:
        return self.probs.flatten(-2)

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            noisy = self._noisy(torch.Size(sample_shape))
            return functional.one_hot(noisy.argmax(-1), self.levels).to(noisy).flatten(-2)

    def relaxed(self, sample_shape: Any, temperature: float) -> tuple[Tensor, Tensor]:
        r"""Returns samples of z, and the same noise as points between the levels, softmax$((\log
        \pi + g) / t)$ with Gumbel noise g: they have a gradient.

        References: jang2017, maddison2017.
        """
        noisy = self._noisy(torch.Size(sample_shape))
        hard = functional.one_hot(noisy.argmax(-1), self.levels).to(noisy)
        return hard.flatten(-2), (noisy / temperature).softmax(-1).flatten(-2)

    def _noisy(self, sample_shape: torch.Size) -> Tensor:
        """Returns log-probabilities with Gumbel noise: the largest is at a level drawn by them."""
        logits = self.logits.expand(*sample_shape, *self.logits.shape)
        # -log of an exponential variable, which is above zero; a uniform one may be exactly zero
        return logits - torch.empty_like(logits).exponential_().log()

    def log_prob(self, value: Tensor) -> Tensor:
        parts = value.unflatten(-1, (self.codes, self.levels))
        return (parts * self.logits).sum((-2, -1))

    def entropy(self) -> Tensor:
        return -(self.probs * self.logits).sum((-2, -1))


@register_kl(Codes, Codes)  # type: ignore[untyped-decorator]
def _kl_codes(p: Codes, q: Codes) -> Tensor:
    return (p.probs * (p.logits - q.logits)).sum((-2, -1))


class ChainOfCodes(Distribution):
    r"""Creates $\prod_n p(k_n \mid k_1, \dots, k_{n-1})$ over z of N one-hot codes.

    Args:
        conditional: From z, (\*, N K), to unnormalised log-probabilities, (\*, N, K), of which
            those of code n may depend on the codes before it alone.
        like: Any tensor of the device and the precision that samples have.
        codes: N.
        levels: K.
        batch_shape: () or (B,).
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own protocol)
    has_rsample = False

    def __init__(
        self,
        conditional: Callable[[Tensor], Tensor],
        like: Tensor,
        codes: int,
        levels: int,
        batch_shape: Any = (),
    ) -> None:
        self.conditional, self.like = conditional, like
        self.codes, self.levels = codes, levels
        event = torch.Size((codes * levels,))
        super().__init__(torch.Size(batch_shape), event, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return OneHots(self.codes, self.levels)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ChainOfCodes:
        return ChainOfCodes(self.conditional, self.like, self.codes, self.levels, batch_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        z = self.like.new_zeros(shape)
        with torch.no_grad():
            for n in range(self.codes):
                here = slice(n * self.levels, (n + 1) * self.levels)
                z[..., here] = Codes(self.conditional(z)[..., n : n + 1, :]).sample()
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        return Codes(self.conditional(value)).log_prob(value)
