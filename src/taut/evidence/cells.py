r"""What a model says of single entries: the missing ones filled in, and how odd each observed one
is given the others.

With $z_k \sim q(z \mid x_\mathrm{obs})$ and $\tilde w_k \propto p(x_\mathrm{obs}, z_k) / q(z_k \mid
x_\mathrm{obs})$, of sum 1,

$$ \mathbb{E}[x_\mathrm{mis} \mid x_\mathrm{obs}] \approx
   \sum_k \tilde w_k \, \mathbb{E}[x_\mathrm{mis} \mid z_k]; $$

multiple imputations pick the $z_k$ by their weights, as evenly as the weights allow, and draw
$x_\mathrm{mis} \sim p(x \mid z_k)$ again for each pick.

*Why* a row is odd is said by the log-probability of each entry given all others of its row, $\log
p(x) - \log p(x_{-i})$. Both are estimated from the same draws of $\tfrac12 q(z \mid x) + \tfrac12
q(z \mid x_{-i})$, so that neither has weights of a heavy tail: the posterior with an odd entry and
the one without lie far apart, and draws of one alone know little of the other.

A model whose posterior is exact says both in closed form, without an error.

Where the weights say that the encoder's posteriors do not serve, as on odd rows, the best Gaussian
of the very row takes their place, beside a copy three times as wide and a share of prior samples:
one ascent a row, whose draws tell of all its entries. An entry whose weights still say no, or
without which the row has more probability than these draws found, gets the best Gaussian of the row
without it, too.

References: mattei2019, owen2000, kitagawa1996.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, MultivariateNormal, Normal

from taut.distributions.correlated import density, told
from taut.distributions.grids import Gridded
from taut.distributions.observed import Observed, terms
from taut.distributions.warps import Warped
from taut.evidence.ascent import FRESH, best_gaussians, members
from taut.evidence.importance import Defensive, importance, in_nats, weighed
from taut.evidence.pareto import pareto_k, tail_length, tail_surplus, threshold
from taut.evidence.results import in_parts
from taut.evidence.rows import believed, own_gaussians
from taut.features import Split
from taut.likelihoods.columns import Joint, level_probs
from taut.model import Model
from taut.models.exact import ExactModel
from taut.models.masked_diffusion import MaskedDiffusion
from taut.models.stepwise import StepwiseModel
from taut.system.counting import COMPLETIONS, check_count
from taut.system.errors import UsageError
from taut.system.seeds import derive
from taut.use.blocks import Block, blocks_of
from taut.use.door import takes_model_and_data

__all__ = ["CellScores", "Imputed", "cell_scores", "impute"]

MAX_ELEMENTS = 2**20  # of K samples of x for the data of a block
MAX_DATA = 64
MAX_DRAWS = 2**15  # of z for the data of a block: the layers of a network fit into kept memory
MOST_AT_ONCE = 512  # rows whose best Gaussians are found together
EXACT_ROWS = 256  # of a model that needs no samples
SAMPLES = 2000  # of the better proposals, at least
WIDE = 3.0  # times as wide as the best Gaussian is its copy
PRIOR = 0.2  # share of prior samples beside the best Gaussians
COARSE = 0.1  # nats of error from which on an entry gets proposals of its own
SURPRISE = 0.1  # nats by which another proposal may see more of a row without an entry
FEWEST = 20.0  # effective samples below which an imputation is named


class CellScores(NamedTuple):
    r"""$\log p(x_i \mid x_{-i})$ of each entry given the others of its data point, (N, C) each; NaN
    where missing.

    Args:
        value: The log-probability, nats.
        error: Its Monte Carlo standard error.
        reliable: Whether both can be believed; false where missing.
    """

    value: Tensor
    error: Tensor
    reliable: Tensor


class Imputed(NamedTuple):
    r"""Data with their gaps filled in.

    Args:
        values: The mean of a number, the median of ordered levels, the most probable level of a
            category, (N, \*event); observed entries as they were. A data point to which no z gives
            a number keeps its gaps.
        draws: Multiple imputations, (M, N, \*event).
        ess: Effective sample size of the weights, (N,); 0 for a data point without a number.
        reliable: Whether the weights are even enough to be believed, (N,).
    """

    values: Tensor
    draws: Tensor
    ess: Tensor
    reliable: Tensor


@takes_model_and_data("taut.impute", "impute(data)")
def impute(
    model: Model,
    x: Any,
    num_samples: int = 1000,
    *,
    num_imputations: int = 0,
    improve: bool = True,
    seed: int = 0,
) -> Imputed:
    r"""Returns the data with their missing entries filled in by importance-weighted means, and
    draws of them.

    What the model is conditioned on is no part of what it models: it stays as it is, missing or
    not.

    Args:
        model: The model.
        x: Data, (N, \*event), a tensor or rows; NaN is missing.
        num_samples: K.
        num_imputations: M, independent completions of each data point.
        improve: Whether a data point whose weights are uneven gets a better proposal, which takes
            about a tenth of a second.
        seed: The same seed gives the same numbers.
    """
    num_samples = check_count("num_samples", num_samples)
    num_imputations = check_count("num_imputations", num_imputations, 0, COMPLETIONS)
    if isinstance(model, ExactModel):
        return _exactly_imputed(model, x, num_samples, num_imputations, seed)
    if isinstance(model, StepwiseModel):
        return _told(_masked(model, "fill in"), x, num_samples, num_imputations, seed)

    def filled(rows: Tensor, count: int, q: Distribution) -> Imputed:
        draw = weighed(model, rows, q, count)
        log_weight = _numbers(draw.log_weight)
        known = log_weight.isfinite().any(0)
        share = torch.where(known, log_weight, 0.0).softmax(0)
        values = _typical(draw.likelihood, share, model.split(rows)[0].isnan())[None]
        if num_imputations:
            z = draw.z.gather(
                0, _picked(share, num_imputations)[..., None].expand(-1, -1, draw.z.shape[-1])
            )
            values = torch.cat([values, model.decode(z, model.split(rows)[1]).sample()])
        values = torch.where(_like(known[None], values), values, torch.nan)
        values = _complete(model, rows, values)
        ess = torch.where(known, 1 / share.square().sum(0), 0.0).cpu()
        believed = (_khat(log_weight) <= threshold(count)).cpu()
        reliable = known.cpu() & believed & (ess >= min(FEWEST, count / 2))
        return Imputed(values[0].cpu(), values[1:].cpu(), ess, reliable | (ess >= count / 2))

    def completed(block: Block) -> tuple[Imputed, Tensor]:
        """Returns the rows of a block filled in, and which are to be again."""
        rows = block.x
        result = filled(rows, num_samples, _mirrored(model.encode(rows)))
        doubtful = result.ess == 0
        if improve and tail_length(num_samples) > 4:  # else they are too few to tell
            first = importance(model, rows, num_samples, seed=seed)
            doubtful |= ~(result.reliable & believed(model, rows, first, seed=seed))
        return result, doubtful & rows.isnan().flatten(1).any(1).cpu()

    count, elements = max(SAMPLES, num_samples), x[:1].numel()

    def improved(block: Block) -> Imputed:
        best = _best(model, block.x, derive(seed, "impute", block.number))
        parts = []
        for some in in_parts(torch.arange(len(block.x)), MAX_ELEMENTS // (count * elements)):
            here = some.to(block.x.device)
            part = block.x[here]
            parts.append(filled(part, count, _around(model, part, [members(best, here)])))
        return _joined(parts)

    size = _rows(x, num_samples)
    pairs = list(blocks_of(model, x, size, completed, seed=seed, name="impute"))
    result, again = _joined([first for first, _ in pairs]), torch.cat([d for _, d in pairs])
    if again.any():
        # An ascent takes as many small steps for many rows as for one.
        size = max(1, min(MOST_AT_ONCE, MAX_ELEMENTS // (FRESH * elements)))
        rows = x[again.nonzero()[:, 0]]
        blocks = blocks_of(model, rows, size, improved, seed=seed, name="impute again")
        better = _joined(list(blocks))
        result.values[again], result.draws[:, again] = better.values, better.draws
        result.ess[again], result.reliable[again] = better.ess, better.reliable
    return result


@takes_model_and_data("taut.cell_scores", "score(data, cells=True)")
def cell_scores(
    model: Model, x: Any, num_samples: int = 500, *, improve: bool = True, seed: int = 0
) -> CellScores:
    r"""Returns $\log p(x_i \mid x_{-i})$ of each entry given the others of its data point.

    Args:
        model: The model, whose likelihood knows its elements one by one.
        x: Data, (N, C); of a model with a condition the result is of the columns that are modelled.
        num_samples: K, half of them drawn without the entry; more where the encoder's posteriors do
            not serve.
        improve: Whether an entry whose weights are uneven gets better proposals, which takes about
            a tenth of a second.
        seed: The same seed gives the same numbers.

    Raises:
        ValueError: the likelihood does not say how much each element contributes.
    """
    num_samples = check_count("num_samples", num_samples)
    if isinstance(model, ExactModel):
        return _exactly_scored(model, x)
    if isinstance(model, StepwiseModel):
        return _told_scores(_masked(model, "score"), x)
    half, count = (num_samples + 1) // 2, max(SAMPLES, num_samples)
    columns = list(range(x.shape[1]))
    if isinstance(model.condition, Split):
        columns = model.condition.rest.tolist()

    def measure_again(
        rows: Tensor, again: Tensor, result: CellScores, lowest: Tensor, number: int
    ) -> None:
        """Measures entries again, (B, C): from the best Gaussian of the row and, in few dimensions,
        that of the row without the entry; those that these do not tell from the latter in any.
        """
        best = _best(model, rows, number)
        shared, left = _weights(model, rows, [best], count), again.clone()
        for i in again.any(0).nonzero()[:, 0]:
            some = again[:, i].nonzero()[:, 0]
            here = some.to(rows.device)
            other = rows[here]
            other[:, columns[i]] = torch.nan
            # A row without an odd entry may lie where the row itself never looks.
            own = own_gaussians(model, other, seed=derive(number, "without", int(i)))
            weights = shared[0][:, here], shared[1][:, here]
            if own is not None:
                weights = _weights(model, rows[here], [members(best, here), own], count)
            *found, without = _ratio(*weights, i)
            told = found[2] & (found[1] <= COARSE) & ~(without < lowest[some, i] - SURPRISE)
            for whole, new in zip(result, found, strict=True):
                whole[some[told], i] = new[told]
            left[some[told], i] = False
        b, i = left.nonzero().T
        for few in in_parts(torch.arange(len(b)), MAX_ELEMENTS // (count * len(columns))):
            here = b[few].to(rows.device)
            part, c = rows[here], torch.tensor(columns)[i[few]]
            other = part.clone()
            other[torch.arange(len(few)), c] = torch.nan
            bests = [members(best, here), _best(model, other, derive(number, "own"))]
            *found, _ = _ratio(*_weights(model, part, bests, count), i[few])
            for whole, new in zip(result, found, strict=True):
                whole[b[few], i[few]] = new

    def scored(block: Block) -> CellScores:
        rows = block.x
        q = model.encode(rows)
        first = _drawn(model, rows, q, half)
        shape = model.split(rows)[0].shape
        value = torch.full(shape, torch.nan, dtype=torch.float64)
        error, lowest = value.clone(), value.clone()
        reliable = torch.zeros(shape, dtype=torch.bool)
        of_rows = importance(model, rows, num_samples, seed=seed)
        sound = believed(model, rows, of_rows, seed=seed)
        for i, column in enumerate(columns):
            there = ~rows[:, column].isnan().cpu()
            without = rows.clone()
            without[:, column] = torch.nan
            other = model.encode(without)
            second = _drawn(model, rows, other, half)
            each, log_prior, own, _ = (torch.cat(pair) for pair in zip(first, second, strict=True))
            across = [density(r, z, rows.dtype) for r, z in ((other, first[3]), (q, second[3]))]
            log_r = torch.logaddexp(own, torch.cat(across)) - math.log(2)
            found = _ratio(each, log_prior - log_r, torch.tensor(i))
            for whole, part in zip((value, error, reliable, lowest), found, strict=True):
                whole[there, i] = part[there]
            reliable[:, i] &= sound
        observed = ~rows.cpu()[:, columns].isnan()
        # else the samples are too few to tell
        telling = improve and tail_length(2 * half) > 4
        again = observed & (value.isnan() | (~reliable & telling))
        result = CellScores(value, error, reliable)
        number = derive(seed, "cells", block.number)
        for some in in_parts(again.any(1).nonzero()[:, 0], MAX_ELEMENTS // (count * len(columns))):
            scores = CellScores(*(t[some] for t in result))
            measure_again(rows[some.to(rows.device)], again[some], scores, lowest[some], number)
            for whole, new in zip(result, scores, strict=True):
                whole[some] = new
        return result

    parts = blocks_of(model, x, _rows(x, 2 * half), scored, seed=seed, name="cells")
    return CellScores(*map(torch.cat, zip(*parts, strict=True)))


def _exactly_imputed(
    model: ExactModel, x: Any, num_samples: int, num_imputations: int, seed: int
) -> Imputed:
    def completed(block: Block) -> Imputed:
        rows = block.x
        values = torch.where(rows.isnan(), model.typical(rows), rows)
        drawn = rows.new_empty(0, *rows.shape)
        if num_imputations:
            z = model.encode(rows).sample(torch.Size((num_imputations,)))
            drawn = torch.where(rows.isnan(), model.decode(z).sample(), rows)
        every = torch.ones(len(rows))
        return Imputed(values.cpu(), drawn.cpu(), num_samples * every, every.bool())

    parts = list(blocks_of(model, x, EXACT_ROWS, completed, seed=seed, name="impute"))
    return _joined(parts)


def _exactly_scored(model: ExactModel, x: Any) -> CellScores:
    def scored(block: Block) -> CellScores:
        value = model.cell_scores(block.x).double().cpu()
        there = ~value.isnan()
        return CellScores(value, torch.where(there, 0.0, value), there)

    parts = blocks_of(model, x, EXACT_ROWS, scored)
    return CellScores(*map(torch.cat, zip(*parts, strict=True)))


def _masked(model: StepwiseModel, what: str) -> MaskedDiffusion:
    if isinstance(model, MaskedDiffusion):
        return model
    raise UsageError(
        f"{type(model).__name__} has no conditionals to {what} single entries by: take --model "
        "'MaskedDiffusion()', whose conditionals are its own, or --model VAE"
    )


def _told(
    model: MaskedDiffusion, x: Any, num_samples: int, num_imputations: int, seed: int
) -> Imputed:
    """Fills gaps by the model's own conditionals: each as if it were the next to be told, and draws
    one after the other.
    """

    def completed(block: Block) -> Imputed:
        rows = block.x
        likelihood = model.conditional(rows[None])
        share = torch.ones(1, len(rows), device=rows.device)
        values = torch.where(rows.isnan(), _typical(likelihood, share, rows.isnan()), rows)
        drawn = model.complete(rows.expand(num_imputations, *rows.shape))
        every = torch.ones(len(rows))
        return Imputed(values.cpu(), drawn.cpu(), num_samples * every, every.bool())

    return _joined(list(blocks_of(model, x, EXACT_ROWS, completed, seed=seed, name="impute")))


def _told_scores(model: MaskedDiffusion, x: Any) -> CellScores:
    """Returns log p of each entry as the last one that is told: one pass each, without an error."""

    def scored(block: Block) -> CellScores:
        flat = block.x.flatten(1)
        value = torch.full_like(flat, torch.nan)
        for i in range(flat.shape[1]):
            without = flat.clone()
            without[:, i] = torch.nan
            told = terms(model.conditional(without.view(block.x.shape)), block.x)
            value[:, i] = told.flatten(1)[:, i]
        value = torch.where(flat.isnan(), torch.nan, value).view(block.x.shape).double().cpu()
        there = ~value.isnan()
        return CellScores(value, torch.where(there, 0.0, value), there)

    parts = blocks_of(model, x, EXACT_ROWS, scored)
    return CellScores(*map(torch.cat, zip(*parts, strict=True)))


def _joined(parts: list[Imputed]) -> Imputed:
    return Imputed(
        *(torch.cat(c, 1 if i == 1 else 0) for i, c in enumerate(zip(*parts, strict=True)))
    )


def _ratio(each: Tensor, rest: Tensor, column: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns log p(x) - log p(x without an entry), its error, whether both weights can be
    believed, and log p(x without the entry), (B,) each.

    Args:
        each: Log-density of each entry given z, (K, B, C).
        rest: log p(z) - log r(z), (K, B).
        column: Of the entry in question, () or (B,).
    """
    each, rest, column = each.cpu().double(), rest.cpu().double(), column.expand(each.shape[1])
    own = each.gather(-1, column.expand(len(each), -1)[..., None])[..., 0]
    weight = _numbers(each.sum(-1) + rest)
    without = _numbers(each.sum(-1) - own + rest)
    rest_alone, k = without.logsumexp(0), len(each)
    value = weight.logsumexp(0) - rest_alone
    known = value.isfinite()
    influence = k * (
        torch.where(known, weight, 0.0).softmax(0) - torch.where(known, without, 0.0).softmax(0)
    )
    tail = influence.abs().clamp_min(1e-300).log().topk(min(tail_length(k) + 1, k), dim=0).values
    unseen = tail_surplus(tail) * (tail[0].exp() / k).square()
    error = in_nats((influence.var(0) / k + unseen).sqrt())
    reliable = known & (_khat(weight) <= threshold(k)) & (_khat(without) <= threshold(k))
    value, error = (torch.where(known, t, torch.nan) for t in (value, error))
    return value, error, reliable, rest_alone - math.log(k)


def _khat(log_weight: Tensor) -> Tensor:
    """Returns k-hat of log-weights (K, B); infinite where too few have a number to tell."""
    k = len(log_weight)
    khat = pareto_k(log_weight.topk(min(tail_length(k) + 1, k), dim=0).values, 1e-3)
    return torch.where(khat.isnan(), torch.inf, khat)


def _numbers(log_weight: Tensor) -> Tensor:
    """Returns log-weights of which those that are no number are none."""
    return torch.where(log_weight < torch.inf, log_weight, -torch.inf)


def _picked(share: Tensor, count: int) -> Tensor:
    """Returns which of K samples are picked by their shares (K, B), (M, B).

    Systematically, in a random order.
    """
    points = (
        torch.arange(count, device=share.device)[:, None]
        + torch.rand(share.shape[1:], device=share.device)
    ) / count
    picked = (
        torch.searchsorted(share.cumsum(0).T.contiguous(), points.T.contiguous())
        .clamp_max(len(share) - 1)
        .T
    )
    return picked.gather(0, torch.rand(picked.shape, device=share.device).argsort(0))


def _drawn(
    model: Model, rows: Tensor, q: Distribution, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the terms of samples of q, (K, B, C), their log p(z) and log q(z), (K, B), and
    themselves.
    """
    modelled, context = model.split(rows)
    z, log_q = told(q, count)
    near = z.to(rows.dtype)
    log_prior = model.latent_prior(context).log_prob(near)
    return terms(model.decode(near, context), modelled), log_prior, log_q, z


def _weights(
    model: Model, rows: Tensor, bests: list[Distribution], count: int
) -> tuple[Tensor, Tensor]:
    """Returns the terms of samples around Gaussians, (K, B, C), and what else weighs them, log
    p(z) - log r(z), (K, B).
    """
    each, log_prior, log_r, _ = _drawn(model, rows, _around(model, rows, bests), count)
    return each, log_prior - log_r


def _best(model: Model, rows: Tensor, seed: int) -> Distribution:
    """Returns the best Gaussian of each row; where z is discrete, the posterior of the model."""
    q = model.encode(rows)
    if not q.has_rsample:
        return q
    return own_gaussians(model, rows, seed=seed) or best_gaussians(model, rows, seed=seed)


def _around(model: Model, rows: Tensor, bests: list[Distribution]) -> Distribution:
    """Returns the mixture of Gaussians, of copies three times as wide, and of the prior."""
    parts: list[Distribution] = []
    for best in bests:
        parts.append(best)
        if isinstance(best, MultivariateNormal):
            wide = WIDE * best.scale_tril
            parts.append(MultivariateNormal(best.mean, scale_tril=wide, validate_args=False))
    prior = model.latent_prior(model.split(rows)[1])
    return Defensive(_Mixture(parts), prior, PRIOR)


class _Mixture(Distribution):
    """An even mixture, whose samples are stratified: each part gives its share of them."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, parts: list[Distribution]) -> None:
        self.parts, self.dtype = parts, torch.get_default_dtype()
        super().__init__(parts[0].batch_shape, parts[0].event_shape, validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        if not sample_shape:
            return self.parts[0].sample()
        (count,) = sample_shape
        return self.told(count)[0].to(self.dtype)

    def told(self, count: int) -> tuple[Tensor, Tensor]:
        """Returns samples and their log-densities."""
        bounds = [count * i // len(self.parts) for i in range(len(self.parts) + 1)]
        found = [told(q, b - a) for q, (a, b) in zip(self.parts, pairwise(bounds), strict=True)]
        each = [
            own if q is r else density(q, z, self.dtype)
            for q in self.parts
            for r, (z, own) in zip(self.parts, found, strict=True)
        ]
        log_p = torch.cat(each).unflatten(0, (len(self.parts), count))
        return torch.cat([z for z, _ in found]), self._mixed(log_p)

    def log_prob(self, value: Tensor) -> Tensor:
        return self._mixed(torch.stack([density(q, value, self.dtype) for q in self.parts]))

    def _mixed(self, log_p: Tensor) -> Tensor:
        return log_p.logsumexp(0) - math.log(len(self.parts))


def _rows(x: Any, num_samples: int) -> int:
    """Returns how many rows of the data make a block."""
    most = MAX_ELEMENTS // max(1, x[:1].numel())
    return max(1, min(MAX_DATA, min(most, MAX_DRAWS) // num_samples))


def _like(weights: Tensor, x: Tensor) -> Tensor:
    """Returns (K, B) with the axes of an event appended."""
    return weights[(..., *[None] * (x.dim() - weights.dim()))]


def _typical(likelihood: Distribution, share: Tensor, gaps: Tensor) -> Tensor:
    r"""Returns the weighted mean of each number, the median or the most probable of levels, (B,
    \*event): of the entries of tables that are gaps, and perhaps of others.
    """
    if not isinstance(likelihood, Joint):
        mean = likelihood.mean
        mean = (_like(share, mean) * mean).sum(0)
        bits = isinstance(likelihood, Observed) and isinstance(likelihood.base_dist, Bernoulli)
        if bits:
            return (mean >= 0.5).to(mean)
        return mean
    columns = torch.zeros(*likelihood.batch_shape[1:], *likelihood.event_shape, device=share.device)
    for family in likelihood.families:
        if family.kind.nominal:
            probs = (level_probs(family) * share[None, :, :, None]).sum(1)  # (levels, B, columns)
            median = (probs.cumsum(0) < 0.5).sum(0).clamp(max=len(probs) - 1)
            value = (median if family.kind.ordered else probs.argmax(0)).to(columns)
        else:
            value = _means(family.distribution, share, gaps[:, family.columns])
        columns[..., family.columns] = value
    return columns


def _means(numbers: Distribution, share: Tensor, gaps: Tensor) -> Tensor:
    """Returns the weighted means of numbers (B, columns): where a mean takes long, of the gaps
    alone.
    """
    base = numbers.base_dist if isinstance(numbers, Independent) else numbers
    if not isinstance(base, Warped | Gridded):
        return (share[..., None] * numbers.mean).sum(0)
    rows, columns = gaps.nonzero().T
    value = torch.zeros(gaps.shape, device=gaps.device)
    if len(rows):
        value[rows, columns] = base.at(rows, columns).mean_of_mixture(share[:, rows])
    return value


def _complete(model: Model, rows: Tensor, filled: Tensor) -> Tensor:
    r"""Returns M copies of the rows, (M, B, \*event), whose missing entries come from
    ``filled``.
    """
    if model.condition is None or filled.shape[2:] == rows.shape[1:]:
        return torch.where(rows.isnan(), filled, rows)
    assert isinstance(model.condition, Split)
    result, rest = rows.expand(len(filled), *rows.shape).clone(), model.condition.rest
    result[..., rest] = torch.where(rows[:, rest].isnan(), filled, rows[:, rest])
    return result


class _Mirrored(Distribution):
    """Pairs of samples that lie opposite each other about the mean: what is linear in z then has no
    noise at all.

    Each sample has the distribution q, so importance weights are what they were; only pairs are not
    independent.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, q: Distribution) -> None:
        self.q = q
        super().__init__(q.batch_shape, q.event_shape, validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        (count,) = sample_shape
        return self.told(count)[0].to(self.q.mean)

    def told(self, count: int) -> tuple[Tensor, Tensor]:
        """Returns samples and their log-densities: those of a pair are equal."""
        z, log_q = told(self.q, (count + 1) // 2)
        mirrored = torch.stack([z, 2 * self.q.mean - z], 1).flatten(0, 1)
        return mirrored[:count], log_q.repeat_interleave(2, 0)[:count]

    def log_prob(self, value: Tensor) -> Tensor:
        return self.q.log_prob(value)


def _mirrored(q: Distribution) -> Distribution:
    symmetric = isinstance(q, MultivariateNormal) or (
        isinstance(q, Independent) and isinstance(q.base_dist, Normal)
    )
    if symmetric:
        return _Mirrored(q)
    return q
