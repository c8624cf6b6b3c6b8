"""The two architectures in torch, as taut's ``MLP`` with tanh and its ``ConvEncoder`` and
``ConvDecoder`` make them.

Both map rows of 784 to the 2 x 50 numbers of q(z|x), and z to 784 logits.
"""

from __future__ import annotations

from peers.common import HIDDEN, LATENT, SIDE
from torch import nn


def encoder(model: str) -> nn.Sequential:
    if model == "mlp":
        return nn.Sequential(
            nn.Linear(SIDE * SIDE, HIDDEN),
            nn.Tanh(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.Tanh(),
            nn.Linear(HIDDEN, 2 * LATENT),
        )
    return nn.Sequential(
        nn.Unflatten(-1, (1, SIDE, SIDE)),
        nn.Conv2d(1, 32, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Conv2d(64, 128, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(128 * 4 * 4, 2 * LATENT),
    )


def decoder(model: str) -> nn.Sequential:
    if model == "mlp":
        return nn.Sequential(
            nn.Linear(LATENT, HIDDEN),
            nn.Tanh(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.Tanh(),
            nn.Linear(HIDDEN, SIDE * SIDE),
        )
    return nn.Sequential(
        nn.Linear(LATENT, 128 * 4 * 4),
        nn.Unflatten(-1, (128, 4, 4)),
        nn.SiLU(),
        nn.ConvTranspose2d(128, 64, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.ConvTranspose2d(64, 32, 3, stride=2, padding=1, output_padding=1),
        nn.SiLU(),
        nn.ConvTranspose2d(32, 1, 3, stride=2, padding=1, output_padding=1),
        nn.Flatten(),
    )
