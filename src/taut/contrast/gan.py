r"""A generator and its critic.

With data x, samples $G(z)$ and a critic f, the *non-saturating* game is

$$ f: \min \; \mathbb{E} \log(1 + e^{-f(x)}) + \mathbb{E} \log(1 + e^{f(G(z))})
   + \tfrac{\gamma}{2} \mathbb{E} \lVert \nabla f(x) \rVert^2, \qquad
   G: \min \; \mathbb{E} \log(1 + e^{-f(G(z))}), $$

where the last term of the critic's is R1: without it the two circle around each other near the
solution. The *Wasserstein* game with a gradient penalty is

$$ f: \min \; \mathbb{E} f(G(z)) - \mathbb{E} f(x) + \lambda \mathbb{E} (\lVert \nabla
   f(\hat x) \rVert - 1)^2, \qquad G: \min \; -\mathbb{E} f(G(z)), $$

with $\hat x$ between a data point and a sample, one place for each pair, and the norm over all
elements. Both players move in one step, by the gradient of the sum of what each minimises, in which
the other is held fixed.

References: goodfellow2014, mescheder2018, gulrajani2017.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional

from taut.features import Features
from taut.likelihoods import Normal
from taut.likelihoods.common import DECODED
from taut.model import Likelihood, Model, frozen
from taut.networks import NetworkFactory
from taut.priors import StandardNormal
from taut.system.errors import UsageError
from taut.types import Context, Data, PerDatum

__all__ = ["GAN", "Game", "ImplicitModel", "squared_gradient"]

LOSSES = ("non-saturating", "wasserstein-gp")
PENALTY = 10.0  # weight of the Wasserstein game's penalty


class Game(NamedTuple):
    """What a batch of B data is worth to both players.

    Args:
        loss: What is minimised, (B,): each player's own loss, the other being held fixed.
        distance: A lower bound of the distance of samples from data that the critic knows of, (B,),
            detached: Jensen-Shannon's divergence in nats, at most log 2, or for the Wasserstein
            game the distance in units of the standardized data, as far as the penalty holds.
    """

    loss: PerDatum
    distance: PerDatum


class ImplicitModel(Model):
    """Abstract model that makes samples and has no density: what asks for one is refused."""

    def encode(self, x: Data, context: Context | None = None) -> NoReturn:
        raise self._refusal()

    def decode(self, z: Tensor, context: Context | None = None) -> NoReturn:
        raise self._refusal()

    def draw(self, x: Data, num_samples: int = 1, **given: object) -> NoReturn:
        raise self._refusal()

    def _refusal(self) -> UsageError:
        return UsageError(f"{type(self).__name__} has no density: {self.no_density}")


class GAN(ImplicitModel):
    r"""Creates a generative adversarial network whose generator is the decoder of a VAE.

    The generator is the location of a ``Normal`` likelihood, and has the weights of the decoder of
    a VAE with that likelihood; the critic has the architecture of the encoder. The width of the
    likelihood has no part in the training.

    Args:
        event_shape: Shape of one data point.
        latent_dim: D.
        likelihood: A ``Normal`` whose scale is not decoded: its mean is the generator.
        encoder: The network of the critic.
        features: The data as the critic sees them: standardized.
        loss: "non-saturating" or "wasserstein-gp".
        r1: $\gamma$, weight of the critic's squared gradient at data, for the non-saturating game.
        levels: The smallest and the largest level of data that are levels: samples are rounded to
            them, as a picture is saved.

    Raises:
        ValueError: another loss, a weight below zero, or a likelihood that decodes its scale.

    References: goodfellow2014, mescheder2018, gulrajani2017.
    """

    no_density = (
        "a generator has samples, each with probability zero, and no encoder; `taut tighten RUN` "
        "gives it a Gaussian observation of fitted width, and so a density and codes"
    )

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        likelihood: Likelihood,
        encoder: NetworkFactory,
        features: Features,
        loss: str = "non-saturating",
        r1: float = 1.0,
        levels: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"loss must be {' or '.join(map(repr, LOSSES))}, not {loss!r}")
        if not 0 <= r1 < math.inf:
            raise ValueError(f"r1 must be a number of at least 0, not {r1!r}")
        if not isinstance(likelihood, Normal) or likelihood.scale in DECODED:
            raise ValueError(
                "its generator is the mean of Normal(scale='shared') or "
                "Normal(scale='per_feature'), a density whose scale is not decoded"
            )
        self.loss, self.r1, self.levels = loss, r1, levels
        if levels is not None:  # a density of what are levels could grow without limit
            self.no_density = (
                "a generator has samples, each with probability zero, and no encoder; trained with "
                "--kind real it can be given a density, and codes, by `taut tighten`"
            )
        self.prior, self.likelihood = StandardNormal(latent_dim), likelihood
        if isinstance(likelihood.scale, str):  # it is fitted once the generator is
            likelihood.own_scale.requires_grad_(False)
        self.critic = encoder(features.out_shape, (1,), 0)
        self.seen = features

    def generate(self, z: Tensor) -> Tensor:
        r"""Returns $G(z)$ for z (\*, D): (\*, \*event), in the user's units."""
        return self.likelihood(z).mean

    def play(self, x: Data) -> Game:
        r"""Returns what data x, (B, \*event), and as many samples are worth to both players."""
        fake = self.generate(self.prior().sample(torch.Size((len(x),))))
        real = self.seen(x).detach().requires_grad_(torch.is_grad_enabled())
        of_real = self._judge(real)
        of_fake = self._judge(self.seen(fake.detach()))
        with frozen(self.critic):
            of_generator = self._judge(self.seen(fake))
        if self.loss == "non-saturating":
            loss = functional.softplus(-of_real) + functional.softplus(of_fake)
            distance = math.log(2) - 0.5 * loss.detach()
            loss = loss + functional.softplus(-of_generator)
            if self.r1:
                loss = loss + 0.5 * self.r1 * squared_gradient(of_real, real)
        else:
            distance = (of_real - of_fake).detach()
            loss = of_fake - of_real - of_generator
            between = self._between(real.detach(), self.seen(fake).detach())
            norm = (squared_gradient(self._judge(between), between) + 1e-12).sqrt()
            loss = loss + PENALTY * (norm - 1).square()
        return Game(loss, distance)

    def _judge(self, seen: Tensor) -> PerDatum:
        return self.critic(seen)[..., 0]

    def _between(self, real: Tensor, fake: Tensor) -> Tensor:
        place = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device).to(real)
        return torch.lerp(fake, real, place).requires_grad_(torch.is_grad_enabled())

    def sample(self, num_samples: int, *, context: Context | None = None) -> Tensor:
        x = self.generate(self.prior().sample(torch.Size((num_samples,))))
        if self.levels is None:
            return x
        return x.round().clamp(*self.levels)

    def latent_prior(self, context: Context | None = None) -> Distribution:
        return self.prior(context)

    @property
    def halves(self) -> dict[str, nn.Module]:
        return {"encoder": self.critic, "decoder": self.likelihood}


def squared_gradient(values: PerDatum, x: Tensor) -> PerDatum:
    """Returns the squared norm of the gradient of each value at its own x, over all elements, (B,);
    zero where no gradients are followed, as in a validation.
    """
    if not torch.is_grad_enabled():
        return torch.zeros_like(values)
    (gradient,) = torch.autograd.grad(values.sum(), x, create_graph=True)
    return gradient.flatten(1).square().sum(1)
