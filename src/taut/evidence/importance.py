r"""Importance sampling: $\log p(x) \approx \log \frac1K \sum_k w_k$ with $z_k \sim r(z)$ and $w_k =
p(x, z_k) / r(z_k)$.

The proposal r is the posterior $q(z \mid x)$, unless another is given: with the prior it is naive
Monte Carlo, the same estimator whose weights then show why nobody can use it.

The encoder runs once for each data point; the decoder sees a few samples of each data point of a
block at a time, so that they stay in the processor's cache, and of each sample only its three
log-densities are kept until the block is done: memory hardly grows with K, nor with N beyond the
results. The size of the blocks depends on K and the size of a data point alone, and each has its
own stream of randomness: no setting of batch, thread or process changes a number. Where memory runs
out, fewer of the samples are decoded at a time; they are drawn before, and so are the same.

The Monte Carlo error of $\log \bar w$ is that of $\bar w / p(x)$ to first order (delta method),
$\mathrm{se}^2 = (K \sum_k \tilde w_k^2 - 1) / (K - 1)$, where the sum over the tail is at least
what the fitted Pareto tail expects of it (``pareto.tail_surplus``). Where few samples carry the
weight it is too small all the same: k-hat says where.

The same samples give the whole *curve* of bounds $\mathcal{L}_1 \le \mathcal{L}_2 \le \dots \le
\mathcal{L}_K$: the mean of $\log \frac1k \sum w$ over the $\lfloor K / k \rfloor$ disjoint groups
of k samples is unbiased for $\mathcal{L}_k$.

References: burda2016, wu2017.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from taut.data import Rows
from taut.distributions.correlated import density, told, told_apart
from taut.evidence.pareto import pareto_k, tail_length, tail_surplus
from taut.evidence.results import Evidence
from taut.model import Draw, Model
from taut.models.exact import ExactModel
from taut.models.stepwise import StepwiseModel
from taut.objectives import log_mean_exp
from taut.system.counting import check_count
from taut.system.memory import Chunks
from taut.system.parallel import Share
from taut.system.precision import home, wide
from taut.types import Context, Data
from taut.use.blocks import Block, blocks_of
from taut.use.door import takes_model_and_data

__all__ = [
    "Defensive",
    "Proposal",
    "curve_sizes",
    "importance",
    "importance_blocks",
    "prior_proposal",
    "weighed",
]

CHECKED = 1000  # samples whose density is solved for, to know whether it can be
MAX_ROWS = 2048  # decoded at a time
MAX_ELEMENTS = 2**18  # of x in them: more falls out of the processor's cache
MAX_DATA = 32  # of a block
MIXED = 16  # draws by which the rate of a model is estimated whose log p(x) is exact
# of a model of many steps: network passes of its whole draws, for each glance at a data point
WHOLE, FEWEST_WHOLE = 5, 8
LATTICES = 10  # of times, each spread evenly, by whose scatter the error of the ELBO is known
MAX_PATHS = 2**22  # numbers of the paths that are held at a time
MAX_WEIGHTS = 2**18  # of a block, kept until it is done
ROUNDING = 1000.0  # units in the last place of its terms by which equal log-weights may differ
FAINT = 40.0  # nats below the largest weight, from which on a sample adds nothing
COARSE = 0.1  # nats of rounding beyond which weights say nothing
# nats a dimension by which samples that carry the weight may be more surprising than others
NARROW = 0.4
MEAN_DRAWS = 256  # at least, of a proposal whose mean is not known
NEAR = 100.0  # units in the last place by which samples must differ to be different

# From the rows of a block, their data and their context to r(z), batch shape (B,).
Proposal = Callable[[slice, Data, Context | None], Distribution]


@takes_model_and_data("taut.importance", "score(data)")
def importance(
    model: Model,
    x: Rows,
    num_samples: int = 500,
    *,
    context: Context | None = None,
    seed: int = 0,
    proposal: Proposal | None = None,
) -> Evidence:
    r"""Returns the importance-weighted estimate of log p(x) for each data point.

    Args:
        model: Any model; it is evaluated in evaluation mode.
        x: Data, (N, \*event), on any device; each data point is counted exactly once.
        num_samples: K.
        context: What the model is conditioned on, (N, C).
        seed: The same seed gives the same numbers.
        proposal: What z is drawn from; by default the posterior. ``prior_proposal(model)`` is naive
            Monte Carlo.
    """
    blocks = importance_blocks(model, x, num_samples, context=context, seed=seed, proposal=proposal)
    return Evidence.concatenate(list(blocks))


def importance_blocks(
    model: Model,
    x: Rows,
    num_samples: int = 500,
    *,
    context: Context | None = None,
    seed: int = 0,
    proposal: Proposal | None = None,
) -> Iterator[Evidence]:
    """Yields the evidence of one block of data after the other, for those who show progress or stop
    early.
    """
    num_samples = check_count("num_samples", num_samples)
    if not len(x):
        raise ValueError("the number of data points must be at least 1, not 0")
    rows = max(1, min(MAX_ROWS, MAX_ELEMENTS // max(1, x[0].numel())))
    data_rows = max(1, min(MAX_DATA, rows, MAX_WEIGHTS // num_samples))
    if isinstance(model, ExactModel) and proposal is None:
        yield from _exact_blocks(model, x, num_samples, max(1, rows // MIXED), context, seed)
        return
    if isinstance(model, StepwiseModel):
        if proposal is not None:
            raise ValueError(f"no other proposal serves {type(model).__name__}: {model.fixed}")
        yield from _stepwise_blocks(model, x, num_samples, min(MAX_DATA, rows), rows, seed)
        return
    chunks, propose = Chunks(rows), proposal or posterior_proposal(model)

    def estimate(block: Block) -> Evidence:
        _, here, part, c = block
        r = propose(here, part, c)
        return _block(model, part, c, r, num_samples, max(1, rows // len(part)), chunks)

    yield from blocks_of(
        model, x, data_rows, estimate, context=context, seed=seed, name="importance"
    )


def _exact_blocks(
    model: ExactModel, x: Rows, num_samples: int, size: int, context: Context | None, seed: int
) -> Iterator[Evidence]:
    """Yields what is known of data whose log p(x) is exact: that, the bounds, which equal it, and
    the rate of a few draws of the posterior.
    """

    def known(block: Block) -> Evidence:
        log_p = wide(model.log_prob(block.x, block.context))
        draw = model.draw(block.x, MIXED, context=block.context, reparameterize=False)
        rates = wide(draw.log_posterior - draw.log_prior)
        rate, rate_error = rates.mean(0), _error(rates)
        zero, curve = torch.zeros_like(log_p), log_p[:, None].expand(-1, len(curve_sizes(k)))
        return Evidence(
            num_samples=k,
            log_evidence=log_p,
            log_evidence_error=zero,
            elbo=log_p,
            elbo_error=zero,
            gap_error=zero,
            rate=rate,
            rate_error=rate_error,
            distortion=-log_p - rate,
            distortion_error=rate_error,
            ess=torch.full_like(log_p, k),
            khat=torch.full_like(log_p, -math.inf),
            information=rate,
            curve=curve,
            curve_error=torch.zeros_like(curve),
            posterior_mean=wide(model.embed(block.x, block.context)),
        ).cpu()

    k = num_samples
    yield from blocks_of(model, x, size, known, context=context, seed=seed, name="importance")


def whole_draws(passes: int | None, num_samples: int) -> int:
    """Returns how many whole draws there are beside K glances of one pass each; 0 where they cost
    too much, or no path is finite.
    """
    if passes is None:
        return 0
    found = min(num_samples, WHOLE * num_samples // passes)
    return found if found >= FEWEST_WHOLE else 0


def _stepwise_blocks(
    model: StepwiseModel, x: Rows, num_samples: int, size: int, rows: int, seed: int
) -> Iterator[Evidence]:
    """Yields the ELBO by glances, and log p(x) by so many whole draws as the passes allow; without
    any it is the ELBO, a lower bound that nothing says how far below it is.
    """
    whole = whole_draws(model.passes, num_samples)
    lattices = min(LATTICES, num_samples)
    paths = max(1, min(rows, MAX_PATHS // model.size)) if whole else 1

    def estimate(block: Block) -> Evidence:
        means = []
        for _ in range(lattices):
            draw = model.glance(block.x, num_samples // lattices)
            rates = draw.log_posterior - draw.log_prior
            means.append(torch.stack([wide(t).mean(0) for t in (draw.log_likelihood, rates)]))
        likelihood, rate = torch.stack(means, 1)
        elbo = likelihood - rate
        known = {
            "elbo": elbo.mean(0),
            "elbo_error": _error(elbo),
            "rate": rate.mean(0),
            "rate_error": _error(rate),
            "distortion": -likelihood.mean(0),
            "distortion_error": _error(likelihood),
        }
        if not whole:
            return _bounded(known)
        step = max(1, paths // len(block.x))
        found = [
            draw
            for first in range(0, whole, step)
            for draw in [model.draw(block.x, min(step, whole - first))]
        ]
        terms = torch.stack(
            [
                torch.cat([wide(getattr(draw, name)) for draw in found])
                for name in ("log_likelihood", "log_prior", "log_posterior")
            ]
        )
        rounding = torch.finfo(block.x.dtype).eps * _largest(terms[:1] * torch.ones(3, 1, 1))
        sound = torch.ones_like(rounding, dtype=torch.bool)
        nothing = block.x.new_zeros(len(block.x), 0)
        by_weights = _summarize(terms, nothing, rounding, sound)
        gap_error = torch.hypot(by_weights.log_evidence_error, known["elbo_error"])
        return replace(by_weights, **known, gap_error=gap_error).cpu()

    yield from blocks_of(model, x, size, estimate, seed=seed, name="importance")


def _bounded(known: Mapping[str, Tensor]) -> Evidence:
    """Returns the evidence of a bound alone, without a weight."""
    elbo, error = known["elbo"], known["elbo_error"]
    unknown = torch.full_like(elbo, math.nan)
    return Evidence(
        num_samples=1,
        log_evidence=elbo,
        log_evidence_error=error,
        gap_error=unknown,
        ess=torch.zeros_like(elbo),
        khat=unknown,
        information=unknown,
        curve=elbo[:, None],
        curve_error=error[:, None],
        posterior_mean=elbo.new_zeros(len(elbo), 0),
        **known,
    ).cpu()


def posterior_proposal(model: Model) -> Proposal:
    """Returns the posterior of a model as a proposal."""
    return lambda rows, x, context: model.encode(x, context)


def for_rows(prior: Distribution, shape: torch.Size) -> Distribution:
    """Returns a prior of each row; one that is the same for all is expanded."""
    if prior.batch_shape:
        return prior
    return prior.expand(shape)


def prior_proposal(model: Model) -> Proposal:
    """Returns the prior of a model as a proposal: the same for every data point."""

    def proposal(rows: slice, x: Data, context: Context | None) -> Distribution:
        prior = model.latent_prior(model.split(x, context)[1])
        return for_rows(prior, torch.Size((len(x),)))

    return proposal


def curve_sizes(num_samples: int) -> list[int]:
    """Returns the numbers of samples at which the curve of bounds is known: 1, 2, 5, 10, ... up to
    K.

    Examples:
        >>> curve_sizes(50)
        [1, 2, 5, 10, 20, 50]
    """
    sizes = [m * 10**e for e in range(len(str(num_samples))) for m in (1, 2, 5)]
    return [k for k in sizes if k < num_samples] + [num_samples]


def _block(
    model: Model,
    x: Tensor,
    context: Tensor | None,
    proposal: Distribution,
    num_samples: int,
    step: int,
    chunks: Chunks,
) -> Evidence:
    place = home(x.device)
    # log p(x|z), log p(z), log r(z)
    terms = torch.empty(3, num_samples, len(x), dtype=torch.float64, device=place)
    z_sum, first, unit = torch.zeros((), dtype=torch.float64, device=place), 0, 0.0
    solved: Tensor | None = None  # log r(z) as those have it who have z alone
    low, high = torch.tensor(math.inf, device=x.device), torch.tensor(-math.inf, device=x.device)
    for count in (min(step, num_samples - start) for start in range(0, num_samples, step)):
        z, log_r = _sampled(proposal, count)
        z = z.to(x.dtype)
        if solved is None and isinstance(proposal, MultivariateNormal):
            solved = wide(proposal.log_prob(z[:CHECKED])).to(place)
        z_sum = z_sum + wide(z).sum(0)
        least, most = z.aminmax(dim=0)
        low, high = torch.minimum(low, least), torch.maximum(high, most)
        for draw in chunks(count, partial(_drawn, model, x, context, proposal, z, log_r)):
            last = first + len(draw.z)
            for term, values in zip(
                terms, (draw.log_likelihood, draw.log_prior, draw.log_posterior), strict=True
            ):
                term[first:last] = values
            unit, first = torch.finfo(draw.log_likelihood.dtype).eps, last
    try:
        mean: Tensor = proposal.mean
    except NotImplementedError:  # a flow, say: the mean of its samples then
        mean = _sample_mean(proposal, z_sum, num_samples, step)
    apart = high - low > NEAR * unit * torch.maximum(low.abs(), high.abs())
    apart = apart.to(place)
    # a bit may be certain, a real number never is
    moved = apart.all(-1) if proposal.has_rsample else apart.any(-1)
    rounding = unit * _largest(terms)
    own = terms[2] if solved is None else solved
    sound = moved & _sound(proposal, own) & (rounding < COARSE) & _wide(proposal, terms)
    return _summarize(terms, wide(mean), rounding, sound).cpu()


def _sample_mean(proposal: Distribution, z_sum: Tensor, drawn: int, step: int) -> Tensor:
    """Returns the mean of a proposal from the sum of its samples, (B, D).

    Of few samples the mean varies over the data by chance, as if its dimensions were active: more
    are drawn then, which are not decoded.
    """
    for first in range(drawn, MEAN_DRAWS, step):
        count = min(step, MEAN_DRAWS - first)
        z_sum = z_sum + wide(proposal.sample(torch.Size((count,)))).sum(0)
    return z_sum / max(drawn, MEAN_DRAWS)


def _largest(terms: Tensor) -> Tensor:
    """Returns the largest absolute term among the samples that carry weight, (B,).

    A sample far out, where a likelihood has 1e14 nats, adds nothing, and its rounding neither.
    """
    log_weight = (terms[0] + terms[1] - terms[2]).nan_to_num(-math.inf, -math.inf, -math.inf)
    carries = log_weight > log_weight.amax(0) - FAINT  # so that its terms are numbers, too
    return torch.where(carries, terms.abs(), 0.0).amax((0, 1))


def _wide(proposal: Distribution, terms: Tensor) -> Tensor:
    r"""Returns whether a proposal is about as wide as what its samples say of p(z|x), (B,).

    Under the weights $-\log r$ is on average what it is for the samples themselves, if r is right.
    Where r is far too narrow, or lies elsewhere, the samples at its rim carry the weight, and it is
    more. A tail of that few samples can look harmless: the weights of a narrow Gaussian have a
    k-hat of 1, which one in ten samples of 500 takes for less than 0.6. What the limit buys, and
    how many good ones it doubts, is told by `benchmarks/narrow.py`.
    """
    log_likelihood, log_prior, log_r = terms
    share = getattr(proposal, "share", 0.0)
    # how much of each sample is not the prior's
    own = (1 - share * (log_prior - log_r).exp()).clamp(0, 1)
    surprise = torch.where(own > 0, -log_r - own.log(), 0.0)
    weight = own * (log_likelihood + log_prior - log_r).nan_to_num(-math.inf).softmax(0)
    more = (weight * surprise).sum(0) / weight.sum(0) - (own * surprise).sum(0) / own.sum(0)
    limit = NARROW * proposal.event_shape.numel()
    return ~((more > limit) & (weight.sum(0) > 0.5))


def _sound(proposal: Distribution, log_proposal: Tensor) -> Tensor:
    """Returns whether the density of a proposal at its own samples, (K, B), is what it must be
    where z alone is known: minus its entropy on average.

    The triangular system that the density of a full covariance solves can be hopeless in the
    precision at hand.
    """
    if not isinstance(proposal, MultivariateNormal):
        return torch.ones_like(log_proposal[0], dtype=torch.bool)
    surprise = (log_proposal.mean(0) + wide(proposal.entropy())).abs()
    return surprise < 10 * math.sqrt(0.5 * proposal.event_shape.numel() / len(log_proposal)) + 0.1


def _sampled(proposal: Distribution, count: int) -> tuple[Tensor, Tensor | None]:
    """Returns samples, (K, B, D), and their log-densities, (K, B), where they must be known as the
    samples are made.
    """
    if told_apart(proposal):
        return told(proposal, count)
    shape = torch.Size((count,))
    return (proposal.rsample if proposal.has_rsample else proposal.sample)(shape), None


def _drawn(
    model: Model,
    x: Tensor,
    context: Tensor | None,
    proposal: Distribution,
    z: Tensor,
    log_r: Tensor | None,
    own: Share,
) -> Draw:
    """Returns the draw of a share of the samples z of a proposal, (K, B, D)."""
    if log_r is not None:
        proposal = _Known(proposal, own.of(log_r))
    return model.draw(x, context=context, reparameterize=False, proposal=proposal, given=own.of(z))


def weighed(model: Model, x: Tensor, proposal: Distribution, count: int) -> Draw:
    """Returns a draw of a proposal whose samples are weighed by their density as they were made."""
    z, log_r = told(proposal, count)
    known = _Known(proposal, log_r.to(x.dtype))
    return model.draw(x, reparameterize=False, proposal=known, given=z.to(x.dtype))


class _Known(Distribution):
    """A proposal at samples whose log-densities are known, (K, B)."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, proposal: Distribution, log_prob: Tensor) -> None:
        self.known = log_prob
        super().__init__(proposal.batch_shape, proposal.event_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.known


class Defensive(Distribution):
    r"""Creates the mixture $(1 - a) \, r(z) + a \, p(z)$ of a proposal and the prior: no weight
    exceeds $p(x \mid z) / a$.

    Samples are stratified: of K just the share a comes from the prior, and what is left over of a
    sample by chance. A proposal that has no numbers for a data point leaves it to the prior.

    Args:
        base: r(z), batch shape (B,).
        prior: p(z), batch shape () or (B,).
        share: a.

    References: owen2000.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, base: Distribution, prior: Distribution, share: float = 0.5) -> None:
        self.base = base
        self.prior = for_rows(prior, base.batch_shape)
        self.share = share
        one = base.sample(torch.Size((1,)))[0]
        self.dtype = one.dtype
        self.usable = one.isfinite().all(-1) & density(base, one, one.dtype).isfinite()
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        (count,) = sample_shape
        return self.told(count)[0].to(self.dtype)

    def told(self, count: int) -> tuple[Tensor, Tensor]:
        """Returns samples and their log-densities."""
        number = int(count * self.share + float(torch.rand(())))
        z, log_prior = told(self.prior, count)
        own, log_own = told(self.base, count - number)
        left = torch.where(self.usable[:, None], own, z[number:])
        there = torch.where(self.usable, log_own, log_prior[number:])
        of_base = torch.cat([self._own(z[:number], log_prior[:number]), there])
        of_prior = torch.cat([log_prior[:number], density(self.prior, left, self.dtype)])
        return torch.cat([z[:number], left]), self._mixed(of_base, of_prior)

    def log_prob(self, value: Tensor) -> Tensor:
        prior = density(self.prior, value, self.dtype)
        return self._mixed(self._own(value, prior), prior)

    def _own(self, z: Tensor, prior: Tensor) -> Tensor:
        return torch.where(self.usable, density(self.base, z, self.dtype), prior)

    def _mixed(self, own: Tensor, prior: Tensor) -> Tensor:
        return torch.logaddexp(own + math.log1p(-self.share), prior + math.log(self.share))


def _summarize(terms: Tensor, mean: Tensor, rounding: Tensor, sound: Tensor) -> Evidence:
    """Returns the evidence in K samples of B data.

    Args:
        terms: log p(x|z), log p(z) and log r(z), (3, K, B).
        mean: Of the proposal, (B, D).
        rounding: Nats by which a term may be off, (B,).
        sound: Whether the samples differ and their density can be believed, (B,): equal samples
            have equal weights, too.
    """
    log_likelihood, log_prior, log_proposal = terms
    log_w = log_likelihood + log_prior - log_proposal
    k = len(log_w)
    # a sample too far out for a number has none
    weight = log_w.masked_fill(log_w.isnan(), -math.inf)
    log_evidence = log_mean_exp(weight)
    possible = log_evidence.isfinite()
    # of each sample in the weight, (K, B)
    share = torch.where(possible, weight - log_evidence, -math.inf).exp() / k
    ess = torch.where(possible, 1 / share.square().sum(0), 0.0)
    # of each sample on log mean w, to first order
    influence = torch.where(possible, k * share - 1, math.nan)
    rate, distortion = log_proposal - log_prior, -log_likelihood
    largest = weight.topk(min(tail_length(k) + 1, k), dim=0).values
    unit = torch.where(possible, largest[0] - log_evidence, -math.inf).exp() / k
    # in the squared error
    unseen = tail_surplus(largest) * unit.square() * _unbiased(k)
    khat = pareto_k(largest, (ROUNDING * rounding).clamp_max(COARSE))
    # Under the weights z follows p(z|x): its mean log p(x|z) is log p(x) + KL(p(z|x), p(z)).
    information = torch.where(share > 0, share * log_likelihood, 0.0).sum(0) - log_evidence
    relative = (_error(influence).square() + unseen).sqrt()
    log_evidence_error = (in_nats(relative).square() + rounding.square()).sqrt()
    curve, curve_error = zip(*(_bound(log_w, size) for size in curve_sizes(k)), strict=True)
    return Evidence(
        num_samples=k,
        log_evidence=log_evidence,
        log_evidence_error=log_evidence_error,
        elbo=log_w.mean(0),
        elbo_error=_error(log_w),
        gap_error=_gap_error(influence, log_w - log_evidence, unseen),
        rate=rate.mean(0),
        rate_error=_error(rate),
        distortion=distortion.mean(0),
        distortion_error=_error(distortion),
        ess=ess,
        khat=torch.where(sound | khat.isnan(), khat, math.inf),
        information=information,
        curve=torch.stack(curve, 1),
        curve_error=torch.stack([*curve_error[:-1], log_evidence_error], 1),
        posterior_mean=mean,
    )


def _gap_error(influence: Tensor, log_w: Tensor, unseen: Tensor) -> Tensor:
    """Returns the standard error of log mean w - mean log w, from the influence of each sample on
    the first; log w is relative.

    Weights that are nearly equal leave a gap of second order, w - 1 - log w, whose tail is heavier
    than that of the weights. What each tail probably holds beyond the sample is counted, and the
    larger of both stands.
    """
    k, second = len(influence), influence - log_w
    largest = (
        second.clamp_min(torch.finfo(second.dtype).tiny)
        .log()
        .topk(min(tail_length(k) + 1, k), dim=0)
        .values
    )
    unit = largest[0].exp() / k
    beyond = tail_surplus(largest) * unit.square() * _unbiased(k)
    return in_nats((_error(second).square() + torch.maximum(unseen, beyond)).sqrt())


def in_nats(relative: Tensor) -> Tensor:
    """Returns the error of a logarithm from the relative error of the number.

    They are the same to first order. Where the second exceeds one, only its order of magnitude is
    known, and a mean over rows must not be told that one of them is off by millions of nats.
    """
    return torch.where(relative > 1, 1 + relative.clamp_min(1).log(), relative)


def _error(values: Tensor) -> Tensor:
    """Returns the standard error of the mean over the first axis.

    NaN for a single value, or for values not finite.
    """
    if len(values) < 2:
        return torch.full_like(values[0], math.nan)
    return values.std(0) / math.sqrt(len(values))


def _unbiased(k: int) -> float:
    """Returns by what the mean square of k deviations is too small; NaN for a single one."""
    if k > 1:
        return k / (k - 1)
    return math.nan


def _bound(log_w: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Returns the unbiased estimate of the bound of ``size`` samples and its standard error, (B,)
    each.
    """
    groups = log_w[: len(log_w) // size * size].unflatten(0, (-1, size))
    bounds = log_mean_exp(groups)
    return bounds.mean(0), _error(bounds)
