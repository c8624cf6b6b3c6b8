"""Objectives with a critic: of a generator that has no other, and of a VAE beside its bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from taut.contrast.gan import GAN, squared_gradient
from taut.features import Standardize
from taut.model import VAE, Model, frozen
from taut.networks import MLP
from taut.objectives import Bound, Objective
from taut.types import Context, Data, PerDatum

__all__ = ["Adversarial", "Critic"]

WIDTHS = (200, 200)  # of the critic of a VAE


@dataclass(frozen=True)
class Adversarial(Objective):
    """Creates the game of a generator and its critic, which has no bound and no value to grow.

    The last weights, averaged, are what is kept: early stopping would wait for a number that no
    player maximises.

    Bound:
        None. ``value`` is a lower bound of the distance of samples from data, as far as this critic
        can tell (``taut.contrast.Game``): it falls as the generator learns, and rises as the critic
        does.

    References: goodfellow2014.
    """

    warmup = 1.0
    betas = (0.5, 0.99)  # a long memory of gradients makes the players circle
    compiles = False
    caveat = "a game, not a bound"

    def __call__(
        self, model: Model, x: Data, context: Context | None = None, progress: float | Tensor = 1.0
    ) -> Bound:
        if not isinstance(model, GAN):
            raise ValueError(f"Adversarial() is for a GAN, not for {type(model).__name__}")
        game = model.play(x)
        return Bound(game.distance, -game.loss)


@dataclass(frozen=True)
class Critic(Objective):
    r"""Creates the ELBO of a VAE less what a critic holds against its pictures, $\mathbb{E}_q
    [\log p(x \mid z) - \lambda \log(1 + e^{-f(m(z))})] - \mathrm{KL}$.

    $m(z)$ is the mean of p(x|z). The critic f tells data from such means, by the non-saturating
    game of ``taut.contrast.gan`` with R1, and sees both standardized. It is trained in the same
    step, by the same optimizer, and is no part of the run that is kept.

    Args:
        num_samples: K.
        weight: $\lambda$, nats; 0 is the ELBO.
        r1: $\gamma$, weight of the critic's squared gradient at data.

    Bound:
        ``value`` is the plain ELBO. What is maximised is not a bound: it is of a critic, and not of
        the data alone.

    Raises:
        ValueError: the model is no VAE, or sees its data otherwise than standardized and whole.

    References: larsen2016, goodfellow2014, mescheder2018.
    """

    compiles = False  # R1 is a gradient of a gradient
    caveat = "not a bound: a critic of its pictures has a say"
    weight: float = 10.0
    r1: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(weight=self.weight, r1=self.r1)

    @property
    def is_bound(self) -> bool:
        return False

    def __call__(
        self, model: Model, x: Data, context: Context | None = None, progress: float | Tensor = 1.0
    ) -> Bound:
        seen = self._features(model)
        assert isinstance(model, VAE)
        self.prepare(model)
        critic: Any = model.opponent
        draw = model.draw(x, self.num_samples, context=context)
        means = model.decode(draw.z, context).mean.flatten(0, 1)
        with frozen(critic):
            held = functional.softplus(-critic(seen(means))[..., 0]).unflatten(0, (-1, len(x)))
        rate = torch.stack([group.rate for group in draw.groups]).sum(0)
        aim = draw.log_likelihood.mean(0) - rate - self.weight * held.mean(0)
        if draw.penalty is not None:
            aim = aim - draw.penalty
        loss = self._loss(critic, seen(x).detach(), seen(means.detach()))
        return Bound(draw.elbo.detach().mean(0), aim - loss, aim.detach())

    def prepare(self, model: Model) -> None:
        if isinstance(model, VAE) and not hasattr(model, "opponent"):
            shape = self._features(model).out_shape
            model.opponent = MLP(shape, (1,), hidden=WIDTHS).to(next(model.parameters()))

    def _loss(self, critic: nn.Module, real: Tensor, means: Tensor) -> PerDatum:
        """Returns what the critic minimises, (B,)."""
        real.requires_grad_(torch.is_grad_enabled())
        of_real = critic(real)[..., 0]
        of_means = critic(means)[..., 0].unflatten(0, (-1, len(real)))
        loss = functional.softplus(-of_real) + functional.softplus(of_means).mean(0)
        if self.r1:
            loss = loss + 0.5 * self.r1 * squared_gradient(of_real, real)
        return loss

    def _features(self, model: Model) -> Standardize:
        seen = getattr(model.posterior, "features", None) if isinstance(model, VAE) else None
        if not isinstance(seen, Standardize) or seen.missing or seen.counts:
            raise ValueError(
                "Critic needs a VAE of rows of one kind without gaps (images, levels, bits or real "
                "numbers): the pictures that it judges are means of p(x|z)"
            )
        return seen
