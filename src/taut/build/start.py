r"""Training starts where the closed form ends: at factor analysis.

A VAE whose decoder and encoder have a linear path (``networks.Residual``) holds the linear-Gaussian
model and its exact posterior. Let $u$ be the standardized columns of real and positive numbers (the
latter by their logarithm), and the normal scores of columns that are seen through their marginal (a
Gaussian copula then, whose noise the likelihood has as a logistic). With factor analysis
$u \approx W z + b$ and noise $\Psi$ fitted to the training rows, the linear paths start at

$$ \text{decoder: } W z + b, \; \Psi^{1/2}, \qquad
   \text{encoder: } P^{-1} W^\top \Psi^{-1} (u - b), \; P^{-1}, \qquad
   P = I + W^\top \Psi^{-1} W, $$

and the networks that are added to them start at zero: the first bound is the evidence of factor
analysis, with a gap of zero where no entry is missing. Where some are, the posterior depends on
which, and scores are not what an encoder sees: there it starts at the linear regression of its mean
on what it sees.
Dimensions of z that factor analysis does not use start at the prior, and columns of other kinds at
their marginals.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from taut.data import Dataset, Rows, batch, blocks
from taut.features import ColumnFeatures, Features, Standardize
from taut.likelihoods.columns import Columns
from taut.likelihoods.common import LocationScale
from taut.likelihoods.warped import WarpedLikelihood
from taut.model import VAE
from taut.models.factor_analysis import MIN_SCALE, FactorAnalysis
from taut.networks import Residual, inverse_positive
from taut.posteriors import DiagonalNormal, FullCovarianceNormal
from taut.priors import Codebook, StandardNormal, VampPrior
from taut.system.errors import UsageError

__all__ = ["start", "start_prior"]

MOST_ROWS = 20_000  # that factor analysis is fitted to
MOST_ROWS_WITH_GAPS = 4_000  # each of them has a covariance of its own
FEWEST_ROWS = 10
MAX_PASSES = 2_000
TOLERANCE = 1e-4  # nats a row; training goes on from there
RIDGE = 1e-3  # of a regression, in units of a row's standardized features
ROOM = 1.1  # the noise starts at least so many times above its floor, where it can still move
TYPICAL = 1.8  # 1 + |z|, in the floor of the scales of a posterior


class _Path(NamedTuple):
    """Columns of one part whose location is decoded linearly.

    Args:
        part: Their likelihood.
        columns: Their numbers in a row.
        seen: Their numbers among the features of the encoder; None where it sees them in other
            units than those that they are decoded in.
        first: The number of the first of the outputs of the decoder that are theirs.
    """

    part: LocationScale | WarpedLikelihood
    columns: Tensor
    seen: Tensor | None
    first: int

    def units(self, x: Tensor, features: Tensor) -> Tensor:
        """Returns u of rows, NaN where missing, (N, columns)."""
        x = x[:, self.columns]
        if self.seen is not None:
            return torch.where(x.isnan(), torch.nan, features[:, self.seen])
        assert isinstance(self.part, WarpedLikelihood)
        return self.part.scores(x)


def start_prior(model: VAE, data: Dataset) -> None:
    """Starts the pseudo-inputs of a VampPrior, or the vectors of a codebook, at training rows drawn
    at random; another prior stays as it is, and so does one that was started.

    Raises:
        UsageError: there are fewer rows.
    """
    prior = getattr(model.prior, "top", None) or model.prior  # of a hierarchy that of the top level
    if isinstance(prior, Codebook):
        _start_codebook(model, prior, data)
    if not isinstance(prior, VampPrior) or prior.started:
        return
    if prior.components > len(data.train):
        raise UsageError(
            f"VampPrior has {prior.components:,} pseudo-inputs, which start at training rows, and "
            f"there are {len(data.train):,}: take VampPrior(components={len(data.train)}) or fewer"
        )
    rows = torch.randperm(len(data.train))[: prior.components].sort().values
    x, _ = model.split(batch(data.train, rows, data.binarize == "dynamic"))
    prior.start(model.posterior.features(x))


def _start_codebook(model: VAE, prior: Codebook, data: Dataset) -> None:
    """Starts the vectors of a codebook at points of the encoder at training rows drawn at
    random.
    """
    rows = torch.randint(len(data.train), (prior.levels,)).sort().values
    x, context = model.split(batch(data.train, rows, data.binarize == "dynamic"))
    with torch.no_grad():
        points = model.posterior.parameters_at(x, context)["point"]  # (K, N, W)
    number = torch.arange(prior.levels)
    prior.start(points[number, number % points.shape[1]])


def start(model: VAE, data: Dataset) -> bool:
    """Starts a model at factor analysis of the training rows, and returns whether it did: one whose
    parts do not hold the linear-Gaussian model keeps its weights.
    """
    likelihood, posterior = model.likelihood, model.posterior
    if not (
        isinstance(posterior, DiagonalNormal | FullCovarianceNormal)
        and isinstance(likelihood, LocationScale | Columns)
        and isinstance(model.prior, StandardNormal)
    ):
        return False
    encoder, decoder = posterior.encoder, likelihood.decoder
    if not (isinstance(encoder, Residual) and isinstance(decoder, Residual)):
        return False
    features = posterior.features
    paths = _paths(likelihood, features)
    if not paths:
        return False
    most = MOST_ROWS_WITH_GAPS if data.schema.missing else MOST_ROWS

    def standardized(rows: Rows) -> tuple[Tensor, Tensor]:
        """Returns the features of some of the rows, and u, NaN where missing."""
        step = max(1, math.ceil(len(rows) / most))
        parts = []
        for block in blocks(rows):
            x, _ = model.split(block[::step].to(torch.get_default_dtype()))
            found = features(x).flatten(1)
            parts.append((found, torch.cat([path.units(x, found) for path in paths], 1)))
        every, u = zip(*parts, strict=True)
        return torch.cat(every), torch.cat(u)

    every, train = standardized(data.train)
    validation = train[:0]
    if len(data.validation):
        validation = standardized(data.validation)[1]
    if len(train) < FEWEST_ROWS:
        return False
    fitted = train
    if not len(validation):  # the number of factors is chosen on some rows
        fitted, validation = train[torch.arange(len(train)) % 5 > 0], train[::5]
    analysis = FactorAnalysis(
        (train.shape[1],),
        most_factors=posterior.latent_dim,
        min_scale=max(MIN_SCALE, *(path.part.min_scale for path in paths)) * ROOM,
        data_loc=0.0,
        data_scale=1.0,
    )
    for _ in analysis.maximize(fitted, validation, max_passes=MAX_PASSES, tolerance=TOLERANCE):
        pass
    with torch.no_grad():
        _set_decoder(decoder.linear, paths, analysis)
        seen = [path.seen for path in paths if path.seen is not None]
        if data.schema.missing or len(seen) < len(paths):
            guess = _regressed(analysis, train, every)
        else:
            guess = _exact(analysis, torch.cat(seen), every.shape[1])
        _set_encoder(encoder.linear, posterior, guess)
    return True


def _paths(likelihood: LocationScale | Columns, features: Features) -> list[_Path]:
    """Returns the parts that have a scale for each column, and whose columns the encoder sees in
    the units that they are decoded in.
    """
    if isinstance(likelihood, LocationScale):
        if not isinstance(features, Standardize) or features.loc.dim() != 1 or features.counts:
            return []
        if not _startable(likelihood, "none"):
            return []
        every = torch.arange(len(features.loc))
        return [_Path(likelihood, every, every, 0)]
    if not isinstance(features, ColumnFeatures):
        return []
    found: list[_Path] = []
    places = {int(column): place for place, column in enumerate(features.numbers)}
    first = 0
    for (kind, columns, _), part, size in zip(
        likelihood.groups, likelihood.parts, likelihood.sizes, strict=True
    ):
        if _startable(part, kind.transform):
            seen = torch.tensor([places[column] for column in columns])
            found.append(_Path(part, torch.tensor(columns), seen, first))
        elif isinstance(part, WarpedLikelihood):
            found.append(_Path(part, torch.tensor(columns), None, first))
        first += size
    return found


def _startable(part: nn.Module, transform: str) -> TypeGuard[LocationScale]:
    """Returns whether a likelihood can start as a Gaussian of what the encoder sees."""
    if not isinstance(part, LocationScale) or part.scale not in ("per_feature", "per_entry"):
        return False
    return part.loc_name == {"none": "data_loc", "log": "log_loc"}.get(transform)


def _set_decoder(linear: nn.Linear, paths: list[_Path], analysis: FactorAnalysis) -> None:
    linear.weight.zero_()
    linear.bias.zero_()
    loc, factors, scale = analysis.loc[0], analysis.factors[0], analysis.log_scale[0].exp()
    begin = 0
    for path in paths:
        size = len(path.columns)
        own, here = slice(begin, begin + size), slice(path.first, path.first + size)
        linear.weight[here, : factors.shape[1]] = factors[own]
        linear.bias[here] = loc[own]
        raw = path.part.start_scale(scale[own])
        if raw is not None:
            linear.bias[path.first + size : path.first + 2 * size] = raw
        begin += size


class _Guess(NamedTuple):
    """A Gaussian over the factors whose mean is affine in the features: the slope, (K, features),
    the mean where all of them are zero, (K,), and the covariance, (K, K).
    """

    slope: Tensor
    loc: Tensor
    covariance: Tensor


def _exact(analysis: FactorAnalysis, seen: Tensor, features: int) -> _Guess:
    """Returns the posterior of rows without gaps."""
    at_zero = analysis.encode(torch.zeros(1, len(seen)))
    loc = at_zero.mean[0]
    slope = torch.zeros(len(loc), features)
    slope[:, seen] = (analysis.encode(torch.eye(len(seen))).mean - loc).T
    return _Guess(slope, loc, at_zero.covariance_matrix[0])


def _regressed(analysis: FactorAnalysis, u: Tensor, features: Tensor) -> _Guess:
    """Returns the regression of the posterior means on the features, gaps being among them; what it
    leaves is added to the mean covariance.
    """
    q = analysis.encode(u)
    off, target = features - features.mean(0), q.mean - q.mean.mean(0)
    ridge = RIDGE * len(u) * torch.eye(features.shape[1])
    slope = torch.linalg.solve(off.T @ off + ridge, off.T @ target).T
    left = target - off @ slope.T
    covariance = q.covariance_matrix.mean(0) + left.T @ left / len(u)
    return _Guess(slope, q.mean.mean(0) - slope @ features.mean(0), covariance)


def _set_encoder(
    linear: nn.Linear, posterior: DiagonalNormal | FullCovarianceNormal, guess: _Guess
) -> None:
    linear.weight.zero_()
    linear.bias.zero_()
    used, dims = len(guess.loc), posterior.latent_dim
    linear.weight[:used, : guess.slope.shape[1]] = guess.slope
    linear.bias[:used] = guess.loc
    scale = torch.ones(dims)
    if isinstance(posterior, FullCovarianceNormal):
        whole = torch.eye(dims)
        whole[:used, :used] = torch.linalg.cholesky(guess.covariance)
        scale = whole.diagonal()
        linear.bias[2 * dims :] = whole[posterior.rows, posterior.columns]
    else:  # the best q without correlations
        scale[:used] = torch.linalg.inv(guess.covariance).diagonal().rsqrt()
    least = posterior.min_scale
    linear.bias[dims : 2 * dims] = inverse_positive((scale - TYPICAL * least).clamp_min(least))
