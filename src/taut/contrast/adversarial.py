"""The objective of a generator and its critic, in the form that a training takes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from taut.contrast.gan import GAN
from taut.model import Model
from taut.objectives import Bound, Objective
from taut.types import Context, Data

__all__ = ["Adversarial"]


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
