r"""Importance sampling: $\log p(x) \approx \log \frac1K \sum_k w_k$ with $z_k \sim q(z \mid x)$.

The sums over K are streamed, and only the tail of the weights is kept (three square roots of K), so memory hardly grows with K
and not with N; the encoder runs once for each datum. The work
is cut into blocks whose size depends on K and the size of a datum alone, each with its own stream of randomness: no
setting of batch, thread or process changes a number.

The Monte Carlo error of $\log \bar w$ is that of $\bar w / p(x)$ to first order (delta method), from the weights themselves:
$\mathrm{se}^2 = (K \sum_k \tilde w_k^2 - 1) / (K - 1)$. Where few samples carry the weight it is too small: k-hat says where.

References: burda2016, wu2017.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from taut.evidence.pareto import pareto_k, tail_length
from taut.evidence.results import Evidence
from taut.model import Draw, Model
from taut.seeds import stream
from taut.types import Context, Data

__all__ = ["importance", "importance_blocks"]

MAX_ROWS = 512  # decoded at a time: more falls out of the processor's cache
MAX_ELEMENTS = 2**20  # of x in them
ROUNDING = 1000.0  # units in the last place of its terms that a log-weight may be off by


def importance(model: Model, x: Data, num_samples: int = 500, *, context: Context | None = None, seed: int = 0) -> Evidence:
    r"""Returns the importance-weighted estimate of log p(x) for each datum.

    Args:
        model: Any model; it is evaluated in evaluation mode.
        x: Data, (N, \*event), on any device; each datum is counted exactly once.
        num_samples: K.
        context: What the model is conditioned on, (N, C).
        seed: The same seed gives the same numbers.
    """
    return Evidence.concatenate(list(importance_blocks(model, x, num_samples, context=context, seed=seed)))


def importance_blocks(
    model: Model, x: Data, num_samples: int = 500, *, context: Context | None = None, seed: int = 0
) -> Iterator[Evidence]:
    """Yields the evidence of one block of data after the other, for those who show progress or stop early."""
    if num_samples < 1 or not len(x):
        raise ValueError(f"num_samples and the number of data must be at least 1, not {num_samples} and {len(x)}")
    rows = max(1, min(MAX_ROWS, MAX_ELEMENTS // max(1, x[0].numel())))
    data_rows, sample_rows = max(1, rows // num_samples), min(rows, num_samples)
    device = next((p.device for p in model.parameters()), x.device)
    was_training = model.training
    model.eval()
    try:
        for number, start in enumerate(range(0, len(x), data_rows)):
            block = x[start : start + data_rows].to(device=device, dtype=torch.get_default_dtype())
            c = None if context is None else context[start : start + data_rows].to(device)
            with torch.no_grad(), stream(seed, "importance", number):
                evidence = _block(model, block, c, num_samples, sample_rows)
            yield evidence  # outside: the caller's own randomness and gradients are none of ours
    finally:
        model.train(was_training)


def _block(model: Model, x: Tensor, context: Tensor | None, num_samples: int, rows: int) -> Evidence:
    posterior = model.encode(x, context)
    sums = _Sums(len(x), num_samples, x.device)
    for first in range(0, num_samples, rows):
        count = min(rows, num_samples - first)
        sums.add(model.draw(x, count, context=context, reparameterize=False, posterior=posterior))
    try:
        mean: Tensor = posterior.mean
    except NotImplementedError:  # a flow, say: the mean of its samples then
        mean = sums.z / num_samples
    return sums.evidence(mean)


class _Sums:
    """Running sums over samples, (B,) each, in float64; those of w are relative to the largest log-weight so far."""

    def __init__(self, n: int, num_samples: int, device: torch.device) -> None:
        self.count = 0
        self.rounding = torch.zeros(n, dtype=torch.float64, device=device)  # nats that log w is known to
        self.tail = torch.empty(0, n, dtype=torch.float64, device=device)  # the largest log-weights, for k-hat
        self.tail_size = tail_length(num_samples) + 1
        self.largest = torch.full((n,), -math.inf, dtype=torch.float64, device=device)
        self.w, self.w_squared, self.w_log = (torch.zeros(n, dtype=torch.float64, device=device) for _ in range(3))
        self.sums = torch.zeros(3, n, dtype=torch.float64, device=device)  # of log w, rate, distortion
        self.squares = torch.zeros_like(self.sums)
        self.z = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, draw: Draw) -> None:
        log_w = draw.log_weight.double()
        largest = torch.maximum(self.largest, log_w.amax(0))
        reference = torch.where(largest.isfinite(), largest, 0.0)  # all weights zero: any reference will do
        shrink = (self.largest - reference).exp()
        w = (log_w - reference).exp()
        self.w = self.w * shrink + w.sum(0)
        self.w_squared = self.w_squared * shrink.square() + w.square().sum(0)
        self.w_log = self.w_log * shrink + torch.where(w > 0, w * log_w, 0.0).sum(0)
        self.largest = largest
        terms = torch.stack([log_w, (draw.log_posterior - draw.log_prior).double(), -draw.log_likelihood.double()])
        unit = ROUNDING * torch.finfo(draw.log_likelihood.dtype).eps
        size = torch.stack([draw.log_likelihood, draw.log_prior, draw.log_posterior]).double().abs().amax((0, 1))
        self.rounding = torch.maximum(self.rounding, unit * size)
        self.sums += terms.sum(1)
        self.squares += terms.square().sum(1)
        self.z = self.z + draw.z.sum(0, dtype=torch.float64)
        self.count += len(log_w)
        candidates = torch.cat([self.tail, log_w])
        self.tail = candidates.topk(min(self.tail_size, len(candidates)), dim=0).values

    def evidence(self, posterior_mean: Tensor) -> Evidence:
        k = self.count
        means = self.sums / k
        # Differences that are zero in theory can come out below it by rounding: hence clamp_min, here and below.
        variances = (self.squares / k - means.square()).clamp_min(0) * (k / (k - 1) if k > 1 else math.nan)
        errors = (variances / k).sqrt()
        log_evidence = self.w.log() + torch.where(self.largest.isfinite(), self.largest, 0.0) - math.log(k)
        ess = torch.where(self.w > 0, self.w.square() / self.w_squared, 0.0)
        relative = (k / ess - 1).clamp_min(0) / (k - 1) if k > 1 else torch.full_like(ess, math.nan)  # variance of mean(w) / p(x)
        # log mean w and mean log w share their samples: covariance of w / p(x) with log w, over K.
        shared = (self.w_log / self.w - means[0]) / (k - 1) if k > 1 else torch.full_like(ess, math.nan)
        gap = (relative + errors[0].square() - 2 * shared).clamp_min(0)
        evidence = Evidence(
            num_samples=k,
            log_evidence=log_evidence,
            log_evidence_error=relative.sqrt(),
            elbo=means[0],
            elbo_error=errors[0],
            gap_error=gap.sqrt(),
            rate=means[1],
            rate_error=errors[1],
            distortion=means[2],
            distortion_error=errors[2],
            ess=ess,
            khat=pareto_k(self.tail, self.rounding),
            posterior_mean=posterior_mean.double(),
        )
        return evidence.cpu()
