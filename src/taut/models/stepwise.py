r"""Models that make a data point in many small steps.

Their latent variable is a path, and what infers it is fixed: $q(z \mid x)$ has no parameters, so
that there is no encoder to train and none that could lag behind. A *whole* draw follows a path from
end to end and costs a network pass a step; a *glance* looks at one step by chance, costs one pass
and is an unbiased sample of the same ELBO:

$$ \mathrm{ELBO} = \sum_{t=1}^{T} \ell_t(x) = T \; \mathbb{E}_{t} \, \ell_t(x). $$

The first has an importance weight. The second has none, since the log of a product of which one
factor is known is not known.
"""

from __future__ import annotations

import abc
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from taut.features import Features
from taut.model import Draw, Group, Likelihood, Model
from taut.types import Context, Data

__all__ = ["StepwiseModel", "spread"]


class StepwiseModel(Model):
    """Abstract model that makes a data point in many steps, trained by the ELBO.

    Args:
        likelihood: What a step, or the last one, says of the data point.
        features: The data point as the network sees it.
    """

    fixed = ""
    """Why nothing of its q can be tightened, annealed or split into gaps: one clause."""
    why_no_code = ""
    """Why it has no embedding of a row."""
    conditionals = False
    """Whether it has p of a single entry given others."""

    def __init__(self, likelihood: Likelihood, features: Features) -> None:
        super().__init__()
        self.likelihood, self.seen = likelihood, features

    @property
    @abc.abstractmethod
    def passes(self) -> int | None:
        """Network passes of a whole draw, and of a sample; None where no path is finite."""

    @property
    def size(self) -> int:
        """Numbers of a joined z."""
        return self.latent_prior().event_shape.numel()

    @property
    def features(self) -> Features | None:
        return self.seen

    @property
    def scale_floor(self) -> Tensor | None:
        return getattr(self.likelihood, "scale_floor", None)

    @property
    def halves(self) -> dict[str, nn.Module]:
        return {"encoder": nn.Module(), "decoder": self}

    def embed(self, x: Data, context: Context | None = None) -> NoReturn:
        raise NotImplementedError(self.why_no_code)

    def point(self, x: Data, context: Context | None = None) -> NoReturn:
        raise NotImplementedError(self.why_no_code)

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
        q = self.encode(x) if proposal is None else proposal
        z = q.sample(torch.Size((num_samples,))) if given is None else given
        prior, likelihood = self.latent_prior(), self.decode(z)
        log_prior, log_posterior = prior.log_prob(z), q.log_prob(z)
        group = Group("z", slice(0, z.shape[-1]), prior, q, log_prior, log_posterior)
        return Draw(z, likelihood.log_prob(x), log_prior, log_posterior, (group,), likelihood)


def spread(num_samples: int, rows: int, like: Tensor) -> Tensor:
    r"""Returns places between 0 and 1 for K samples of B data, (K, B): one lattice with a random
    start, so that each place is uniform and all of them are spread evenly.

    The samples of a data point lie 1 / K apart, and the data points share out what is between.

    References: kingma2021.
    """
    k = torch.arange(num_samples, device=like.device)[:, None]
    b = torch.arange(rows, device=like.device)
    start = torch.rand((), dtype=like.dtype, device=like.device)
    lattice = k.to(like) / num_samples + b.to(like) / (num_samples * rows)
    return (lattice + start).remainder(1.0)
