"""THE TABLE: every public part, built, one row. A new part is one row here.

The tests of its family find it.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

import taut
from taut import likelihoods, networks, objectives, posteriors, priors
from taut.distributions import warps

EVENT = (3, 4)  # of the data of the likelihoods below
LATENT = 2
SMALL = partial(taut.MLP, hidden=(7,))

# --- Objectives: (objective, name of the bound its value is, reparameterized?) --------------------

ELBO_VALUE, IWAE_VALUE = "elbo", "importance-weighted"
OBJECTIVES = [
    (taut.ELBO(), ELBO_VALUE, True),
    (taut.ELBO(num_samples=3), ELBO_VALUE, True),
    (taut.ELBO(num_samples=3, analytic_kl=False), ELBO_VALUE, True),
    (taut.ELBO(num_samples=2, beta=4.0), ELBO_VALUE, True),
    (taut.ELBO(num_samples=2, warmup=0.5), ELBO_VALUE, True),
    (taut.IWAE(num_samples=1), IWAE_VALUE, True),
    (taut.IWAE(num_samples=5), IWAE_VALUE, True),
    (taut.StickingTheLanding(num_samples=3), ELBO_VALUE, True),
    (taut.DReG(num_samples=5), IWAE_VALUE, True),
    (taut.ScoreFunction(num_samples=5), ELBO_VALUE, False),
    (taut.ScoreFunction(num_samples=3, baseline="none"), ELBO_VALUE, False),
    (taut.VIMCO(num_samples=5), IWAE_VALUE, False),
]
# Free bits need a posterior that factorises, which the exact one does not.
FREE_BITS = taut.ELBO(num_samples=2, free_bits=0.5)


# --- Likelihoods: (part, data in its support, a grid or None if it is a density over the reals) ---


def bits(n: int) -> Tensor:
    return torch.randint(0, 2, (n, *EVENT)).to(torch.get_default_dtype())


def levels(n: int) -> Tensor:
    return torch.randint(2, 9, (n, *EVENT)).to(torch.get_default_dtype())


def reals(n: int) -> Tensor:
    return 10 + 3 * torch.randn(n, *EVENT)


def fractions(n: int) -> Tensor:
    return torch.rand(n, *EVENT)


def counts(n: int) -> Tensor:
    return torch.randint(0, 30, (n, *EVENT)).to(torch.get_default_dtype())


def positives(n: int) -> Tensor:
    return torch.randn(n, *EVENT).exp()


def spiked(n: int) -> Tensor:
    """Returns positive numbers of which half are zero."""
    return torch.where(torch.rand(n, *EVENT) < 0.5, 0.0, positives(n))


def warp() -> Tensor:
    """Returns the knots of such numbers."""
    values = spiked(400)[:, 0, 0].double().numpy()
    knots = warps.padded(warps.fit_knots(values, np.zeros(1), (0.0, np.inf), False))
    return knots.to(torch.get_default_dtype()).expand(*EVENT, 2, -1)


KINDS = ["category", "real", "binary", "count", "ordinal", "positive", "levels", "date", "mixed"]
NUM_LEVELS = [3, 0, 2, 0, 4, 0, 0, 0, 0]


def columns(n: int) -> Tensor:
    """Returns a table with a column of each kind."""
    numbers = [
        torch.randn(n),
        torch.randint(0, 9, (n,)),
        torch.randn(n).exp(),
        torch.randint(0, 2, (n,)),
        torch.randn(n),
    ]
    numbers.append(torch.where(torch.rand(n) < 0.5, 0.0, torch.randn(n).exp()))
    values = iter(numbers)
    return torch.stack(
        [torch.randint(0, k, (n,)) if k else next(values) for k in NUM_LEVELS], 1
    ).to(torch.get_default_dtype())


LEVELS = {"low": 2, "high": 8, "decoder": SMALL}


def make_likelihoods() -> list[tuple[taut.Likelihood, str]]:
    """Returns each likelihood with the name of the function above that draws data in
    its support.
    """
    loc, scale = torch.full(EVENT, 10.0), torch.full(EVENT, 3.0)
    level = {"data_loc": torch.full(EVENT, 5.0), "data_scale": torch.full(EVENT, 2.0)}
    odds = torch.log(torch.tensor([0.3, 0.7])).expand(*EVENT, 2)
    return [
        (taut.Columns(KINDS, NUM_LEVELS, LATENT, SMALL), "columns"),
        (taut.Bernoulli(EVENT, LATENT, SMALL), "bits"),
        (taut.Bernoulli(EVENT, LATENT, SMALL, log_frequencies=odds), "bits"),
        (taut.Categorical(EVENT, LATENT, **LEVELS), "levels"),
        (taut.DiscretizedLogistic(EVENT, LATENT, **LEVELS, **level), "levels"),
        (taut.DiscretizedLogistic(EVENT, LATENT, components=3, **LEVELS, **level), "levels"),
        (taut.Normal(EVENT, LATENT, decoder=SMALL, data_loc=loc, data_scale=scale), "reals"),
        (
            taut.Normal(EVENT, LATENT, "shared", decoder=SMALL, data_loc=loc, data_scale=scale),
            "reals",
        ),
        (
            taut.Normal(EVENT, LATENT, "per_datum", decoder=SMALL, data_loc=loc, data_scale=scale),
            "reals",
        ),
        (taut.Normal(EVENT, LATENT, 0.5, decoder=SMALL, data_loc=loc, data_scale=scale), "reals"),
        (taut.ContinuousBernoulli(EVENT, LATENT, SMALL), "fractions"),
        (likelihoods.Poisson(EVENT, LATENT, decoder=SMALL, data_loc=loc), "counts"),
        (
            likelihoods.NegativeBinomial(
                EVENT, LATENT, decoder=SMALL, data_loc=loc, data_scale=2 * scale
            ),
            "counts",
        ),
        (
            likelihoods.NegativeBinomial(
                EVENT, LATENT, "per_datum", decoder=SMALL, data_loc=loc, data_scale=2 * scale
            ),
            "counts",
        ),
        (
            likelihoods.ZeroInflatedNegativeBinomial(
                EVENT, LATENT, decoder=SMALL, data_loc=loc, data_scale=2 * scale
            ),
            "counts",
        ),
        (
            likelihoods.ZeroInflatedNegativeBinomial(
                EVENT, LATENT, "per_datum", decoder=SMALL, data_loc=loc
            ),
            "counts",
        ),
        (
            likelihoods.LogNormal(
                EVENT, LATENT, decoder=SMALL, log_loc=loc / 5, log_scale=scale / 6
            ),
            "positives",
        ),
        (likelihoods.LogNormal(EVENT, LATENT, "shared", decoder=SMALL), "positives"),
        (likelihoods.LogNormal(EVENT, LATENT, "per_datum", decoder=SMALL), "positives"),
        (
            likelihoods.StudentT(EVENT, LATENT, decoder=SMALL, data_loc=loc, data_scale=scale),
            "reals",
        ),
        (
            likelihoods.StudentT(
                EVENT, LATENT, "shared", decoder=SMALL, data_loc=loc, data_scale=scale
            ),
            "reals",
        ),
        (
            likelihoods.StudentT(
                EVENT, LATENT, "per_datum", decoder=SMALL, data_loc=loc, data_scale=scale
            ),
            "reals",
        ),
        (likelihoods.Ordinal(EVENT, LATENT, **LEVELS), "levels"),
        (likelihoods.Binomial(EVENT, LATENT, **LEVELS), "levels"),
        (likelihoods.WarpedLevels(EVENT, LATENT, **LEVELS), "levels"),
        (likelihoods.WarpedLogistic(EVENT, LATENT, low=0.0, decoder=SMALL, knots=warp()), "spiked"),
    ]


# --- Posteriors, priors, networks -----------------------------------------------------------------


def make_posteriors() -> list[taut.Posterior]:
    scaled = {"data_loc": torch.full(EVENT, 10.0), "data_scale": torch.full(EVENT, 3.0)}
    return [
        taut.DiagonalNormal(EVENT, LATENT, SMALL, **scaled),
        taut.FullCovarianceNormal(EVENT, LATENT, SMALL, **scaled),
        posteriors.IndependentBernoulli(EVENT, LATENT, SMALL, **scaled),
    ]


def make_priors() -> list[taut.Prior]:
    bernoulli = priors.IndependentBernoulli(LATENT)
    with torch.no_grad():
        bernoulli.logits.normal_()
    mixture = taut.GaussianMixture(LATENT, components=3)
    with torch.no_grad():
        mixture.logits.normal_()
        mixture.raw_scale.normal_()
    return [taut.StandardNormal(LATENT), mixture, bernoulli]


NETWORKS: list[tuple[networks.NetworkFactory, tuple[int, ...], tuple[int, ...]]] = [
    (taut.Linear, (3, 4), (2, 5)),
    (taut.MLP, (6,), (4,)),
    (partial(taut.MLP, hidden=(), activation="relu"), (3, 4), (2, 5)),
    (partial(taut.MLP, hidden=(8, 8), activation="silu", dropout=0.5), (6,), (2, 3, 4)),
    (taut.ConvEncoder, (28, 28), (2, 5)),
    (taut.ConvEncoder, (3, 13, 9), (2, 5)),
    (partial(taut.ConvEncoder, channels=4), (7, 5, 3), (10,)),
    (taut.ConvDecoder, (5,), (1, 28, 28)),
    (taut.ConvDecoder, (5,), (2, 3, 13, 9)),
    (partial(taut.ConvDecoder, channels=4), (5,), (6, 7, 5, 3)),
    (taut.ConvDecoder, (5,), (1, 64, 48)),
]

# Public parts that the rows above must cover, found by their type: a part without a row fails
# test_instances.
FAMILIES = (
    (taut.Objective, objectives),
    (taut.Likelihood, likelihoods),
    (taut.Posterior, posteriors),
    (taut.Prior, priors),
    (taut.Network, networks),
)
