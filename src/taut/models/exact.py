r"""Models whose posterior is known in closed form: $\log p(x)$ without an integral.

Every sample of the exact posterior has the same importance weight, $p(x, z) / p(z \mid x) = p(x)$:
the ELBO, importance sampling and annealing all return $\log p(x)$, and every gap is zero.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
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
        training: Mean $\log p(x)$ of the training rows, each before the step that it is in, nats.
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
        iteration is stopped early, it has the best so far. ``max_passes`` is a limit: a model may
        plan fewer, and sets ``limited`` to whether the limit ended it before.
        """

    limited = False

    def in_training(self) -> nn.Module:
        """Returns what a pass moves: all of the model, unless its parts are trained in turn."""
        return self

    seen: Features | None = None

    @property
    def features(self) -> Features | None:
        """What samples and data are compared by: see ``taut.build``, which sets it."""
        return self.seen

    def allocate(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Makes room for saved weights, whose shapes are given by name, where they follow from the
        training rows and not from the arguments; then ``load_state_dict`` takes them.
        """

    def log_prob_given(self, x: Data, given: Tensor, context: Context | None = None) -> PerDatum:
        r"""Returns $\log p(x_A \mid x_B)$, (B,), of the entries that are not given, by $\log
        p(x) - \log p(x_B)$.

        Args:
            x: Data, (B, \*event); a missing entry belongs to neither.
            given: Which entries are $x_B$, (\*event) or (B, \*event).
            context: What the model is conditioned on, (B, C).
        """
        without = torch.where(given, x, torch.nan)
        return self.log_prob(x, context) - self.log_prob(without, context)

    def cell_scores(self, x: Data, context: Context | None = None) -> Tensor:
        r"""Returns $\log p(x_i \mid x_{-i})$ of each entry given all others, (B, \*event), nats;
        NaN where it is missing.
        """
        flat, whole = x.flatten(1), self.log_prob(x, context)
        scores = torch.full_like(flat, torch.nan)
        for i in range(flat.shape[1]):
            without = flat.clone()
            without[:, i] = torch.nan
            scores[:, i] = whole - self.log_prob(without.view(x.shape), context)
        return torch.where(x.isnan(), torch.nan, scores.view(x.shape))

    def typical(self, x: Data, context: Context | None = None) -> Tensor:
        r"""Returns the conditional mean of each number given the observed entries, the median of
        ordered levels and the most probable of others, (B, \*event): what to fill a gap with.

        By default $\mathbb{E}[x \mid z]$ at the posterior mean, which is right where it is linear
        in z.
        """
        z = self.encode(x, context).mean
        return self.decode(z[None], context).mean[0]

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
