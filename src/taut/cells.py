r"""What a model says of single entries: the missing ones filled in, and how odd each observed one is given the others.

With $z_k \sim q(z \mid x_\mathrm{obs})$ and $\tilde w_k \propto p(x_\mathrm{obs}, z_k) / q(z_k \mid x_\mathrm{obs})$, of sum 1,

$$ \mathbb{E}[x_\mathrm{mis} \mid x_\mathrm{obs}] \approx \sum_k \tilde w_k \, \mathbb{E}[x_\mathrm{mis} \mid z_k]; $$

a multiple imputation draws one of the $z_k$ by its weight and then $x_\mathrm{mis} \sim p(x \mid z_k)$.

*Why* a row is odd is said by the log-probability of each entry given all others of its row, $\log p(x) - \log p(x_{-i})$.
Both are estimated from the same draws of $\tfrac12 q(z \mid x) + \tfrac12 q(z \mid x_{-i})$, so that neither has weights of a
heavy tail: the posterior with an odd entry and the one without lie far apart, and draws of one alone know little of the other.

References: mattei2019.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, MultivariateNormal, Normal

from taut.features import Split
from taut.likelihoods.columns import NOMINAL, Joint, level_probs
from taut.missing import Observed, terms
from taut.model import VAE, evaluating
from taut.parallel import in_order
from taut.seeds import stream

__all__ = ["Imputed", "cell_scores", "impute"]

MAX_ELEMENTS = 2**20  # of K samples of x for the data of a block
MAX_DATA = 64

T = TypeVar("T")


class Imputed(NamedTuple):
    r"""Data with their gaps filled in.

    Args:
        values: The mean of a number, the median of ordered levels, the most probable level of a category, (N, \*event);
            observed entries as they were.
        draws: Multiple imputations, (M, N, \*event).
        ess: Effective sample size of the weights, (N,).
    """

    values: Tensor
    draws: Tensor
    ess: Tensor


def impute(model: VAE, x: Any, num_samples: int = 1000, *, num_imputations: int = 0, seed: int = 0) -> Imputed:
    r"""Returns the data with their missing entries filled in by importance-weighted means, and draws of them.

    What the model is conditioned on is no part of what it models: it stays as it is, missing or not.

    Args:
        model: The model.
        x: Data, (N, \*event), a tensor or rows; NaN is missing.
        num_samples: K.
        num_imputations: M, independent completions of each datum.
        seed: The same seed gives the same numbers.
    """

    def block(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        draw = model.draw(rows, num_samples, reparameterize=False, posterior=_mirrored(model.encode(rows)))
        share = draw.log_weight.softmax(0)
        filled = _typical(draw.likelihood, share)[None]
        if num_imputations:
            drawn = draw.likelihood.sample()
            picked = torch.multinomial(share.T, num_imputations, replacement=True).T
            filled = torch.cat([filled, drawn.gather(0, _like(picked, drawn).expand(-1, *drawn.shape[1:]))])
        values = _complete(model, rows, filled)
        return values[0].cpu(), values[1:].cpu(), (1 / share.square().sum(0)).cpu()

    whole, completions, ess = zip(*_by_blocks(model, x, num_samples, seed, "impute", block), strict=True)
    return Imputed(torch.cat(whole), torch.cat(completions, 1), torch.cat(ess))


def cell_scores(model: VAE, x: Any, num_samples: int = 500, *, seed: int = 0) -> Tensor:
    r"""Returns $\log p(x_i \mid x_{-i})$ of each entry given the others of its datum, (N, C), nats; NaN where missing.

    Args:
        model: The model, whose likelihood knows its elements one by one.
        x: Data, (N, C); of a model with a condition the result is of the columns that are modelled.
        num_samples: K, half of them drawn without the entry.
        seed: The same seed gives the same numbers.

    Fails:
        ValueError: the likelihood does not say how much each element contributes.
    """
    half = (num_samples + 1) // 2
    columns = model.condition.rest.tolist() if isinstance(model.condition, Split) else range(x.shape[1])

    def block(rows: Tensor) -> Tensor:
        modelled, context = model.split(rows)
        prior = model.prior(context)

        def drawn(q: Distribution) -> tuple[Tensor, Tensor, Tensor]:
            z = q.sample(torch.Size((half,)))
            return z, terms(model.decode(z, context), modelled), prior.log_prob(z)

        q = model.encode(rows)
        z, each, log_prior = drawn(q)
        scores = torch.full_like(modelled, torch.nan)
        for i, column in enumerate(columns):
            there = ~rows[:, column].isnan()
            without = rows.clone()
            without[:, column] = torch.nan
            other = model.encode(without)
            z_i, each_i, log_prior_i = drawn(other)
            both, densities = torch.cat([z, z_i]), []
            for proposal in (q, other):
                densities.append(proposal.log_prob(both))
            log_terms = torch.cat([each, each_i])
            log_weight = log_terms.sum(-1) + torch.cat([log_prior, log_prior_i]) - torch.logaddexp(*densities)
            score = log_weight.logsumexp(0) - (log_weight - log_terms[..., i]).logsumexp(0)
            scores[there, i] = score[there]
        return scores.cpu()

    return torch.cat(list(_by_blocks(model, x, 2 * half, seed, "cells", block)))


def _by_blocks(model: VAE, x: Any, num_samples: int, seed: int, name: str, function: Callable[[Tensor], T]) -> Iterator[T]:
    """Yields what a function makes of each block of data, in evaluation mode and with a stream of randomness of its own."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    size = max(1, min(MAX_DATA, MAX_ELEMENTS // (num_samples * max(1, x[:1].numel()))))

    def compute(first: int) -> T:
        block = x[first : first + size].to(device=device, dtype=torch.get_default_dtype())
        with torch.no_grad(), stream(seed, name, first // size):
            return function(block)

    with evaluating(model):
        yield from in_order(range(0, max(len(x), 1), size), compute)


def _like(weights: Tensor, x: Tensor) -> Tensor:
    """Returns (K, B) with the axes of an event appended."""
    return weights[(..., *[None] * (x.dim() - weights.dim()))]


def _typical(likelihood: Distribution, share: Tensor) -> Tensor:
    r"""Returns the weighted mean of each number, the median or the most probable of levels, (B, \*event)."""
    if not isinstance(likelihood, Joint):
        mean = likelihood.mean
        mean = (_like(share, mean) * mean).sum(0)
        bits = isinstance(likelihood, Observed) and isinstance(likelihood.base_dist, Bernoulli)
        return (mean >= 0.5).to(mean) if bits else mean
    columns = torch.empty(*likelihood.batch_shape[1:], *likelihood.event_shape, device=share.device)
    for family in likelihood.families:
        if family.kind in NOMINAL:
            probs = (level_probs(family) * share[None, :, :, None]).sum(1)  # (levels, B, columns)
            median = (probs.cumsum(0) < 0.5).sum(0).clamp(max=len(probs) - 1)
            value = (median if family.kind == "ordinal" else probs.argmax(0)).to(columns)
        else:
            value = (share[..., None] * family.distribution.mean).sum(0)
        columns[..., family.columns] = value
    return columns


def _complete(model: VAE, rows: Tensor, filled: Tensor) -> Tensor:
    r"""Returns M copies of the rows, (M, B, \*event), whose missing entries come from ``filled``."""
    if model.condition is None or filled.shape[2:] == rows.shape[1:]:
        return torch.where(rows.isnan(), filled, rows)
    assert isinstance(model.condition, Split)
    result, rest = rows.expand(len(filled), *rows.shape).clone(), model.condition.rest
    result[..., rest] = torch.where(rows[:, rest].isnan(), filled, rows[:, rest])
    return result


class _Mirrored(Distribution):
    """Pairs of samples that lie opposite each other about the mean: what is linear in z then has no noise at all.

    Each sample has the distribution q, so importance weights are what they were; only pairs are not independent.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, q: Distribution) -> None:
        self.q = q
        super().__init__(q.batch_shape, q.event_shape, validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        (count,) = sample_shape
        z = self.q.sample(torch.Size(((count + 1) // 2,)))
        return torch.stack([z, 2 * self.q.mean - z], 1).flatten(0, 1)[:count]

    def log_prob(self, value: Tensor) -> Tensor:
        return self.q.log_prob(value)


def _mirrored(q: Distribution) -> Distribution:
    symmetric = isinstance(q, MultivariateNormal) or (isinstance(q, Independent) and isinstance(q.base_dist, Normal))
    return _Mirrored(q) if symmetric else q
