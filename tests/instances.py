"""THE TABLE: every public part, built, one row. A new part is one row here.

The tests of its family find it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from ztest import assert_mean

import taut
from taut import likelihoods, models, networks, posteriors, priors
from taut import objectives as objectives  # for rows of parts that taut itself does not export
from taut.contrast import GAN, Adversarial, Critic, ImplicitModel
from taut.data.tables.kind import Grid
from taut.distributions import warps
from taut.distributions.grids import fit_cells
from taut.features import Standardize

EVENT = (3, 4)  # of the data of the likelihoods below
LATENT = 2
SMALL = partial(taut.MLP, hidden=(7,))

# --- Objectives: (objective, check of the bound that its value is, reparameterized?) --------------
#
# A check is given many values at one datum, (N,), the linear-Gaussian problem that it is of, a
# model with a wrong posterior, and the datum, (1, event).


def exact_elbo(problem: taut.LinearGaussian, model: taut.VAE, x: Tensor) -> Tensor:
    """Returns log p(x) - KL(q, posterior), both Gaussian."""
    q, p = model.encode(x).base_dist, problem.posterior(x)
    precision = torch.linalg.inv(p.covariance_matrix)
    delta = p.mean - q.loc
    trace = (precision.diagonal(dim1=-2, dim2=-1) * q.scale**2).sum(-1)
    square = (delta[:, None] @ precision @ delta[..., None]).flatten()
    log_det = p.covariance_matrix.logdet() - 2 * q.scale.log().sum(-1)
    kl = 0.5 * (trace + square - q.loc.shape[-1] + log_det)
    return problem.log_evidence(x) - kl


def mean_over_posterior(model: taut.VAE, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns the mean of a function of log w over z ~ q(z|x), two-dimensional, by a sum over a
    grid: exact to rounding for what is smooth, and small beyond 15 scales of q.
    """
    q = model.encode(x)
    line = torch.linspace(-15, 15, 301)
    z = q.mean + q.stddev * torch.cartesian_prod(line, line)[:, None]  # (points, 1, D)
    log_q = q.log_prob(z)
    log_weight = model.decode(z).log_prob(x) + model.prior().log_prob(z) - log_q
    mass = log_q.exp() * q.stddev.prod() * (line[1] - line[0]) ** 2
    return (mass * function(log_weight)).sum()


def is_elbo(value: Tensor, problem: taut.LinearGaussian, model: taut.VAE, x: Tensor) -> None:
    assert_mean(value, exact_elbo(problem, model, x))


def is_importance_weighted(
    value: Tensor, problem: taut.LinearGaussian, model: taut.VAE, x: Tensor
) -> None:
    """E[exp L_K] = p(x)."""
    assert_mean((value - problem.log_evidence(x)).exp(), 1.0)


Check = Callable[[Tensor, taut.LinearGaussian, taut.VAE, Tensor], None]
OBJECTIVES: list[tuple[taut.Objective, Check, bool]] = [
    (taut.ELBO(), is_elbo, True),
    (taut.ELBO(num_samples=3), is_elbo, True),
    (taut.ELBO(num_samples=3, analytic_kl=False), is_elbo, True),
    (taut.ELBO(num_samples=2, beta=4.0), is_elbo, True),
    (taut.ELBO(num_samples=2, warmup=0.5), is_elbo, True),
    (taut.IWAE(num_samples=1), is_importance_weighted, True),
    (taut.IWAE(num_samples=5), is_importance_weighted, True),
    (taut.StickingTheLanding(num_samples=3), is_elbo, True),
    (taut.DReG(num_samples=5), is_importance_weighted, True),
    (taut.ScoreFunction(num_samples=5), is_elbo, False),
    (taut.ScoreFunction(num_samples=3, baseline="none"), is_elbo, False),
    (taut.VIMCO(num_samples=5), is_importance_weighted, False),
]
# Of discrete posteriors alone, and biased.
RELAXED = [
    (objectives.StraightThrough(num_samples=2),),
    (objectives.StraightThrough(num_samples=2, hard=False),),
]
# Of a whole batch, and not bounds: checked in test_organising.py.
COUPLED = [
    (objectives.TotalCorrelation(num_samples=2, beta=6.0),),
    (objectives.TotalCorrelation(beta=3.0, sampler="stratified", rows=50),),
    (objectives.TotalCorrelation(num_samples=2, beta=4.0, sampler="critic"),),
    (objectives.DIP(num_samples=2),),
    (objectives.DIP(of="samples", off_diagonal=5.0, diagonal=5.0),),
    (objectives.Capacity(num_samples=2, capacity=1.5, weight=30.0, warmup=0.5),),
    (objectives.Capacity(capacity=0.5, warmup=0.0),),
]
# Of a critic as well, and not bounds: checked in test_contrast.py.
CRITICS = [(Critic(num_samples=2, weight=3.0),), (Critic(r1=0.0),)]
# Of models without a density.
GAMES = [(Adversarial(),)]
# Free bits need a posterior that factorises, which the exact one does not.
FREE_BITS = taut.ELBO(num_samples=2, free_bits=0.5)


# --- Likelihoods: (part, name of the function that draws data in its support) ---------------------
#
# Each such name has a row in ``MEASURES``, too: what the probability of one element is summed over.


class Measure(NamedTuple):
    """Points with the weights whose sum with the density is the total probability of one element.

    ``step`` is that of a trapezoid rule, whose error is at most half of it times the total
    variation of the summand; 0 where all is a plain sum.
    """

    points: Tensor
    weights: Tensor
    step: float = 0.0


def integers(low: int, high: int) -> Measure:
    points = torch.arange(low, high + 1).to(torch.get_default_dtype())
    return Measure(points, torch.ones_like(points))


def line(centre: float, width: float) -> Measure:
    """All real numbers: sinh-spaced, to four million widths on either side."""
    t = torch.linspace(-16, 16, 20_001)
    step = float(t[1] - t[0])
    return Measure(centre + width * t.sinh(), width * t.cosh() * step, step)


def above_zero() -> Measure:
    t = torch.linspace(-40, 40, 20_001)
    step = float(t[1] - t[0])
    return Measure(t.exp(), t.exp() * step, step)


def unit_interval() -> Measure:
    t = torch.linspace(-40, 40, 20_001)
    step = float(t[1] - t[0])
    return Measure(t.sigmoid(), t.sigmoid() * (-t).sigmoid() * step, step)


def halves_apart() -> Measure:
    """Returns points in the cells of a grid of halves; that of 0 has its atom in the middle."""
    cells = torch.arange(-20_000, 20_001) / 2
    return Measure(cells + 0.1, torch.full_like(cells, 0.5))


# Levels leave a share of 2^-24 to all integers beyond their range; counts end where a mean of 10
# leaves nothing.
MEASURES: dict[str, Callable[[], list[Measure]]] = {
    "bits": lambda: [integers(0, 1)],
    "levels": lambda: [integers(-4000, 4000)],
    "reals": lambda: [line(10.0, 3.0)],
    "fractions": lambda: [unit_interval()],
    "counts": lambda: [integers(0, 20_000)],
    "positives": lambda: [above_zero()],
    "spiked": lambda: [integers(0, 0), above_zero()],
    "halves": lambda: [integers(0, 0), halves_apart()],
}


def measured(data: str) -> list[tuple[tuple[int, ...], list[Measure]]]:
    """Returns elements of a datum, each with what its probability is summed over."""
    if data == "columns":
        return [((place,), [row.measure()]) for place, row in enumerate(COLUMN_KINDS)]
    return [(place, MEASURES[data]()) for place in ((0, 0), (2, 3))]


def bits(n: int) -> Tensor:
    return torch.randint(0, 2, (n, *EVENT)).to(torch.get_default_dtype())


def levels(n: int) -> Tensor:
    return torch.randint(2, 9, (n, *EVENT)).to(torch.get_default_dtype())


def reals(n: int) -> Tensor:
    return 10 + 3 * torch.randn(n, *EVENT)


def saturated() -> Tensor:
    """Returns the probabilities of such levels in images that are mostly black, and some white."""
    return torch.tensor([0.8, 0.01, 0.001, 1e-6, 0.002, 0.05, 0.137])


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


def halves(n: int) -> Tensor:
    """Returns multiples of a half, many of them zero."""
    return torch.where(torch.rand(n, *EVENT) < 0.3, 0.0, (8 * torch.randn(n, *EVENT)).round() / 2)


def cells(values: Tensor, support: tuple[float, float]) -> Tensor:
    """Returns the knots of the cells of whole numbers."""
    knots = fit_cells(values[:, 0, 0].double().numpy(), support)
    padded = warps.padded(knots, knots.shape[1])
    return padded.to(torch.get_default_dtype()).expand(*EVENT, 2, -1)


def make_grid() -> taut.Likelihood:
    """Returns the likelihood of multiples of a half with an atom at zero."""
    knots = cells(2 * halves(400), (-math.inf, math.inf))
    grids = [Grid(step=0.5, atoms=(0.0,))] * math.prod(EVENT)
    return likelihoods.WarpedGrid(EVENT, LATENT, grids, decoder=SMALL, cells=knots)


class ColumnRow(NamedTuple):
    """A kind of column: its word, how many levels, draws of n codes, and their measure."""

    kind: str
    num_levels: int
    draw: Callable[[int], Tensor]
    measure: Callable[[], Measure]


COLUMN_KINDS = [
    ColumnRow("category", 3, lambda n: torch.randint(0, 3, (n,)), lambda: integers(0, 2)),
    ColumnRow("real", 0, torch.randn, lambda: line(0.0, 1.0)),
    ColumnRow("binary", 2, lambda n: torch.randint(0, 2, (n,)), lambda: integers(0, 1)),
    ColumnRow("count", 0, lambda n: torch.randint(0, 9, (n,)), lambda: integers(0, 20_000)),
    ColumnRow("ordinal", 4, lambda n: torch.randint(0, 4, (n,)), lambda: integers(0, 3)),
    ColumnRow("positive", 0, lambda n: torch.randn(n).exp(), above_zero),
    ColumnRow("levels", 0, lambda n: torch.randint(0, 2, (n,)), lambda: integers(-4000, 4000)),
    ColumnRow("date", 0, torch.randn, lambda: line(0.0, 1.0)),
    ColumnRow(
        "mixed",
        0,
        lambda n: torch.where(torch.rand(n) < 0.5, 0.0, torch.randn(n).exp()),
        lambda: line(0.0, 1.0),
    ),
]
KINDS = [row.kind for row in COLUMN_KINDS]
NUM_LEVELS = [row.num_levels for row in COLUMN_KINDS]


def columns(n: int) -> Tensor:
    """Returns a table with a column of each kind."""
    return torch.stack([row.draw(n) for row in COLUMN_KINDS], 1).to(torch.get_default_dtype())


def make_columns_on_grids() -> taut.Likelihood:
    """Returns the likelihood of such a table whose counts are seen through their marginal."""
    grids = [Grid(first=0.0) if kind == "count" else None for kind in KINDS]
    knots = cells(torch.randint(0, 9, (400, *EVENT)), (0.0, math.inf))[0, 0]
    every = knots.expand(len(KINDS), 2, -1)
    return taut.Columns(KINDS, NUM_LEVELS, LATENT, SMALL, grids=grids, cells=every, warp=True)


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
        (make_columns_on_grids(), "columns"),
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
        (
            taut.Normal(EVENT, LATENT, "per_entry", decoder=SMALL, data_loc=loc, data_scale=scale),
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
        (likelihoods.Multinomial(EVENT, LATENT, SMALL, data_loc=loc), "counts"),
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
        (
            likelihoods.StudentT(
                EVENT, LATENT, "per_entry", 0.03, decoder=SMALL, data_loc=loc, data_scale=scale
            ),
            "reals",
        ),
        (likelihoods.Ordinal(EVENT, LATENT, **LEVELS), "levels"),
        (likelihoods.Binomial(EVENT, LATENT, **LEVELS), "levels"),
        (likelihoods.WarpedLevels(EVENT, LATENT, **LEVELS), "levels"),
        (likelihoods.WarpedPixels(EVENT, LATENT, **LEVELS), "levels"),
        (likelihoods.WarpedPixels(EVENT, LATENT, **LEVELS, histogram=saturated()), "levels"),
        (likelihoods.WarpedLogistic(EVENT, LATENT, low=0.0, decoder=SMALL, knots=warp()), "spiked"),
        (
            likelihoods.WarpedCounts(
                EVENT, LATENT, decoder=SMALL, cells=cells(counts(400), (0.0, math.inf))
            ),
            "counts",
        ),
        (make_grid(), "halves"),
    ]


# --- Posteriors, priors, networks -----------------------------------------------------------------


def make_posteriors() -> list[taut.Posterior]:
    scaled = {"data_loc": torch.full(EVENT, 10.0), "data_scale": torch.full(EVENT, 3.0)}
    return [
        taut.DiagonalNormal(EVENT, LATENT, SMALL, **scaled),
        taut.FullCovarianceNormal(EVENT, LATENT, SMALL, **scaled),
        posteriors.IndependentBernoulli(EVENT, LATENT, SMALL, **scaled),
        posteriors.Categorical(EVENT, LATENT, SMALL, **scaled, codes=1, levels=LATENT),
        quantized(**scaled),
        bent(posteriors.CouplingFlow(EVENT, LATENT, SMALL, **scaled)),
        bent(posteriors.CouplingFlow(EVENT, LATENT, SMALL, **scaled, layers=3, bins=0)),
        bent(posteriors.InverseAutoregressive(EVENT, LATENT, SMALL, **scaled)),
        bent(posteriors.InverseAutoregressive(EVENT, LATENT, SMALL, **scaled, bins=4)),
        posteriors.PowerSpherical(EVENT, LATENT, SMALL, **scaled),
    ]


def quantized(**settings: Any) -> taut.Posterior:
    """Returns a posterior over three vectors of a codebook."""
    found = posteriors.VectorQuantized(
        EVENT, LATENT, SMALL, **settings, codes=1, levels=3, width=LATENT
    )
    found.take(priors.Codebook(1, 3, LATENT))
    return found


def bent(part: nn.Module) -> Any:
    """Returns a part whose layers are not the identity any more."""
    layers = part.couplings if hasattr(part, "couplings") else part.autoregressive
    with torch.no_grad():
        for network in layers.networks:
            for parameter in network.layers[-1].parameters():
                parameter.normal_(0, 0.03)
    return part


def make_priors() -> list[taut.Prior]:
    bernoulli = priors.IndependentBernoulli(LATENT)
    with torch.no_grad():
        bernoulli.logits.normal_()
    mixture = taut.GaussianMixture(LATENT, components=3)
    with torch.no_grad():
        mixture.logits.normal_()
        mixture.raw_scale.normal_()
    flows = [bent(priors.Flow(LATENT)), bent(priors.Flow(LATENT, layers=3, bins=0))]
    flows += [bent(priors.Flow(LATENT, 2, (8,), bins, kind="autoregressive")) for bins in (0, 4)]
    own = partial(taut.DiagonalNormal, encoder=SMALL)
    vamp = priors.VampPrior(3, own, EVENT, LATENT, features=Standardize(EVENT))
    others = [shared(), priors.UniformSphere(LATENT), *of_codes()]
    return [taut.StandardNormal(LATENT), mixture, bernoulli, *flows, vamp, *others]


def of_codes() -> list[taut.Prior]:
    """Returns priors of one code."""
    found = [priors.IndependentCategorical(1, LATENT), priors.AutoregressiveCategorical(1, LATENT)]
    with torch.no_grad():
        found[0].logits.normal_()
        found[1].network.layers[-1].bias.normal_()
    return [priors.Codebook(1, 3, LATENT), *found]


def shared() -> taut.Prior:
    """Returns a prior that is made of a posterior that is not its own."""
    vamp = priors.VampPrior(4)
    vamp.share(taut.FullCovarianceNormal(EVENT, LATENT, SMALL))
    return vamp


# --- Models that are exact ------------------------------------------------------------------------


def of_columns(
    kind: type, num_states: int | None = 2, **settings: float
) -> taut.Mixture | taut.HiddenTree | taut.HiddenForest:
    """Returns a mixture, a hidden tree or a forest of a column of each kind, not yet trained."""
    ends = {"levels": (0.0, 1.0), "count": (0.0, torch.inf), "positive": (0.0, torch.inf)}
    low, high = torch.tensor([ends.get(word, (-torch.inf, torch.inf)) for word in KINDS]).T
    knots = torch.full((len(KINDS), 2, warps.MAX_KNOTS), torch.inf)
    knots[KINDS.index("mixed")] = warp()[0, 0]
    shape = (len(KINDS),)
    given = {"low": low, "high": high, "knots": knots, "num_levels": NUM_LEVELS}
    return kind(shape, KINDS, num_states=num_states, **given, **settings)


def make_models() -> list[taut.ExactModel]:
    linear = [
        models.FactorAnalysis((3,), latent_dim=2),
        models.MixtureOfFactorAnalysers((3,), num_components=2, latent_dim=2),
    ]
    trees = [of_columns(kind) for kind in (taut.Mixture, taut.HiddenTree, taut.HiddenForest)]
    return [*trees, *linear]


def make_steps() -> list[taut.StepwiseModel]:
    """Returns the models of many steps, of bits and of numbers."""
    seen, shape = Standardize((4,), missing=True), (4,)
    bits = taut.Bernoulli(shape, 8, decoder=SMALL)
    numbers = taut.Normal(shape, 4, decoder=taut.Linear)
    network = {"width": 8, "blocks": 1}
    image, unet = (3, 5), partial(networks.UNet, channels=4)
    pixels = taut.Normal(image, 15, decoder=taut.Linear)
    return [
        taut.MaskedDiffusion(shape, bits, seen),
        taut.Diffusion(numbers, Standardize(shape), steps=8, low=-4.0, **network),
        taut.Diffusion(pixels, Standardize(image), steps=8, low=-4.0, network=unet),
    ]


def make_hierarchies() -> list[taut.VAE]:
    normal = partial(taut.Normal, (4,), decoder=SMALL)
    settings = {"width": 6, "encoder": SMALL}
    vamp = partial(priors.VampPrior, components=3)
    image, maps = partial(taut.Normal, (5, 4)), {"channels": 3, "top": vamp}
    return [
        *(taut.HierarchicalVAE((4,), 2, normal, levels, **settings) for levels in (1, 3)),
        taut.HierarchicalVAE((4,), 2, normal, top=vamp, **settings),
        taut.HierarchicalVAE((5, 4), 2, image, 3, channels=3),
        taut.HierarchicalVAE((5, 4), 2, image, **maps),
    ]


NETWORKS: list[tuple[networks.NetworkFactory, tuple[int, ...], tuple[int, ...]]] = [
    (taut.Linear, (3, 4), (2, 5)),
    (taut.MLP, (6,), (4,)),
    (partial(taut.MLP, hidden=(), activation="relu"), (3, 4), (2, 5)),
    (partial(taut.MLP, hidden=(8, 8), activation="silu", dropout=0.5), (6,), (2, 3, 4)),
    (networks.GatedMLP, (6,), (4,)),
    (partial(networks.GatedMLP, hidden=(8, 8), dropout=0.5), (3, 4), (2, 5)),
    (taut.Residual, (6,), (4,)),
    (partial(taut.Residual, hidden=(8,)), (3, 4), (2, 5)),
    (taut.ConvEncoder, (28, 28), (2, 5)),
    (taut.ConvEncoder, (3, 13, 9), (2, 5)),
    (partial(taut.ConvEncoder, channels=4), (7, 5, 3), (10,)),
    (taut.ConvDecoder, (5,), (1, 28, 28)),
    (taut.ConvDecoder, (5,), (2, 3, 13, 9)),
    (partial(taut.ConvDecoder, channels=4), (5,), (6, 7, 5, 3)),
    (taut.ConvDecoder, (5,), (1, 64, 48)),
    (partial(networks.ResidualConvEncoder, channels=4), (3, 13, 9), (2, 5)),
    (partial(networks.ResidualConvEncoder, channels=4, attention=True), (33, 47), (10,)),
    (partial(networks.ResidualConvDecoder, channels=4), (5,), (2, 3, 13, 9)),
    (partial(networks.ResidualConvDecoder, channels=4, attention=True), (5,), (1, 33, 47)),
    (partial(networks.UNet, channels=4), (3, 13, 9), (2, 3, 13, 9)),
    (partial(networks.UNet, channels=2, blocks=2, attention=True), (7, 10), (3, 7, 10)),
]


def make_gans() -> list[tuple[GAN]]:
    """Returns each model that makes samples and has no density."""
    likelihood = taut.Normal(EVENT, LATENT, scale="shared", decoder=SMALL)
    return [(GAN(EVENT, LATENT, likelihood, SMALL, Standardize(EVENT, 0.0, 1.0)),)]


def rows() -> dict[type, list]:
    """Returns the rows of each family of parts."""
    return {
        taut.Objective: [*OBJECTIVES, *RELAXED, *COUPLED, *CRITICS, *GAMES],
        taut.Likelihood: make_likelihoods(),
        taut.Posterior: make_posteriors(),
        taut.Prior: make_priors(),
        taut.ExactModel: make_models(),
        taut.StepwiseModel: make_steps(),
        taut.VAE: make_hierarchies(),
        ImplicitModel: make_gans(),
        taut.Network: NETWORKS,
    }
