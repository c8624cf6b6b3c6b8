r"""Models whose posterior is known in closed form: $\log p(x)$ without an integral.

Every sample of the exact posterior has the same importance weight, $p(x, z) / p(z \mid x) = p(x)$:
the ELBO, importance sampling and annealing all return $\log p(x)$, and every gap is zero.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from taut.features import Features
from taut.model import Draw, Group, Model
from taut.types import Context, Data, PerDatum

__all__ = ["ExactModel", "Pass"]


class Pass(NamedTuple):
    r"""One pass of expectation maximisation over the training rows.

    Args:
        number: How many passes there have been.
        training: Mean $\log p(x)$ of the training rows before the pass, nats.
        validation: That of the validation rows; NaN without any.
        share: How much of the planned work is done, from 0 to 1.
    """

    number: int
    training: float
    validation: float
    share: float


class ExactModel(Model):
    """Abstract model with a posterior in closed form, trained by expectation maximisation."""

    @abc.abstractmethod
    def log_prob(self, x: Data, context: Context | None = None) -> PerDatum:
        r"""Returns $\log p(x)$, (B,), nats in the user's units; missing entries (NaN) are summed
        out.
        """

    @abc.abstractmethod
    def maximize(
        self, train: Tensor, validation: Tensor, *, max_passes: int, seed: int = 0
    ) -> Iterator[Pass]:
        r"""Fits the model to rows, (N, \*event), and yields each pass.

        At the end the model has the parameters that were best on the validation rows. Where the
        iteration is stopped early, it has the best so far.
        """

    seen: Features | None = None

    @property
    def features(self) -> Features | None:
        """What samples and data are compared by: see ``taut.build``, which sets it."""
        return self.seen

    def point(self, x: Data, context: Context | None = None) -> Tensor:
        r"""Returns the z that stands for each data point, (B, D): the most probable categories, or
        the mean of real numbers.
        """
        q = self.encode(x, context)
        support = q.support
        if support is not None and support.is_discrete:
            return q.mode
        return q.mean

    @property
    def halves(self) -> dict[str, nn.Module]:
        return {"encoder": nn.Module(), "decoder": self}

    def draw(
        self,
        x: Data,
        num_samples: int = 1,
        *,
        context: Context | None = None,
        reparameterize: bool = True,
        stop_posterior: bool = False,
        proposal: Distribution | None = None,
        given: Tensor | None = None,
    ) -> Draw:
        x, context = self.split(x, context)
        q = self.encode(x, context) if proposal is None else proposal
        if given is not None:
            z = given
        elif reparameterize and q.has_rsample:
            z = q.rsample(torch.Size((num_samples,)))
        else:
            z = q.sample(torch.Size((num_samples,)))
        prior = self.latent_prior(context)
        likelihood = self.decode(z, context)
        log_prior, log_posterior = prior.log_prob(z), q.log_prob(z)
        group = Group("z", slice(0, z.shape[-1]), prior, q, log_prior, log_posterior)
        return Draw(z, likelihood.log_prob(x), log_prior, log_posterior, (group,), likelihood)
