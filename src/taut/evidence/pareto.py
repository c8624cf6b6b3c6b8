r"""Pareto k-hat: a diagnostic of whether an importance-weighted mean can be believed.

The largest of K weights follow a generalized Pareto distribution whose shape k tells which of their
moments exist: the variance for k < 1/2, the mean for k < 1. From a finite sample the error of the
mean is usable up to $\min(1 - 1 / \log_{10} K, \; 0.7)$; above it the estimate is biased low and
its standard error is too small.

The fit is Zhang and Stephens' posterior mean on a grid, drawn toward 1/2 with the weight of ten
observations.

The same tail tells how much of the weights' variance the sample has probably missed. The sample
variance of heavy-tailed weights is usually too small, and so is the mean, in the same samples:
fewer than 95 % of the 95 % intervals hold the truth (benchmarks/coverage.py). Here the tail's mean
square is that of the fitted distribution, up to the quantile that a thousand times as many samples
would reach.

References: vehtari2024, zhang2009.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from taut.system.precision import wide
from taut.types import PerDatum

__all__ = ["pareto_k", "tail_length", "tail_surplus", "threshold"]

ALONE = 40.0  # nats between the largest weight and the median of the tail
WORST = 0.7  # shape beyond which the tail is taken to be no heavier
BEYOND = 1000  # times as many samples, up to whose largest weight the tail is believed


def tail_length(num_samples: int) -> int:
    """Returns the number of weights in the tail of K: a fifth, or three square roots if less."""
    return math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))


def threshold(num_samples: int) -> float:
    """Returns the k-hat up to which an estimate from K weights is reliable.

    Examples:
        >>> round(threshold(100), 3), threshold(5000)
        (0.5, 0.7)
    """
    if num_samples < 2:
        return -math.inf
    return min(1 - 1 / math.log10(num_samples), 0.7)


def pareto_k(largest: Tensor, rounding: Tensor | float = 0.0) -> PerDatum:
    r"""Returns k-hat of the tail of the weights of each data point, (B,).

    Args:
        largest: The M + 1 largest log-weights in any order, (M + 1, B): the smallest of them is the
            cutoff.
        rounding: Nats by which equal log-weights may differ, a number or (B,).

    Returns:
        inf if the largest stands alone; -inf if all are equal up to rounding, as with the exact
        posterior; NaN if M < 5, or if weights of zero are among them: the tail is too short.
    """
    ordered = wide(largest).sort(0).values
    if len(ordered) < 6:
        return torch.full(ordered.shape[1:], math.nan, dtype=torch.float64, device=ordered.device)
    weights = (ordered - ordered[-1]).exp()
    x = (weights[1:] - weights[0]).T  # exceedances of each data point, ascending, (B, M)
    constant = ordered[-1] - ordered[0] <= rounding
    # Any numbers will do for constant weights: their result is replaced below.
    x = torch.where(constant[:, None], torch.ones_like(x), x)
    k = torch.where(constant, -math.inf, _fit(x)[0])
    # In a tail that can be fitted, the largest weight is some (2 M)^k times the median. If it is
    # e^40 times the median, all others are zero compared with it, and a fit of zeros means nothing.
    k = torch.where(_alone(ordered), math.inf, k)
    return torch.where(ordered[0].isfinite(), k, math.nan)


def tail_surplus(largest: Tensor) -> PerDatum:
    r"""Returns the sum of squared weights of the fitted tail beyond that of the sample, in units of
    the largest squared, (B,).

    Args:
        largest: As for ``pareto_k``.

    Returns:
        0 if the sample's own tail is the heavier one, if the weights are equal, or if the tail is
        too short to tell.
    """
    ordered = wide(largest).sort(0).values
    if len(ordered) < 6:
        return torch.zeros(ordered.shape[1:], dtype=torch.float64, device=ordered.device)
    # In units of the largest, (B, M): the cutoff may be too far below for a number.
    tail = (ordered[1:] - ordered[-1]).exp().T
    cutoff = (ordered[0] - ordered[-1]).exp()
    x, m = tail - cutoff[:, None], tail.shape[1]
    fits = ordered[0].isfinite() & (x[:, -1] > 0) & ~_alone(ordered)
    k, scale = _fit(torch.where(fits[:, None], x, torch.ones_like(x)))
    k = torch.where(k.abs() < 1e-4, 1e-4, k)  # the formulas divide by it, and are smooth there
    # Beyond it no error can be believed: k-hat warns, and millions of nats would help nobody.
    k = k.clamp_max(WORST)
    # The quantile at probability 1 - v is a + b v^-k; its square is integrated over v from epsilon
    # to 1.
    a, b, log_epsilon = cutoff - scale / k, scale / k, -math.log(BEYOND * m)

    def power(c: Tensor) -> Tensor:  # integral of v^(c - 1)
        return -torch.where(c.abs() < 1e-9, log_epsilon, torch.expm1(c * log_epsilon) / c)

    constant, linear = a.square() * power(torch.ones_like(a)), 2 * a * b * power(1 - k)
    square = constant + linear + b.square() * power(1 - 2 * k)
    return torch.where(fits, (m * square - tail.square().sum(1)).clamp_min(0), 0.0)


def _alone(ordered: Tensor) -> Tensor:
    """Returns whether the largest of ascending log-weights (M + 1, B) stands alone, (B,)."""
    return ordered[-1] - ordered[len(ordered) // 2] > ALONE


def _fit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns shape and scale of a generalized Pareto distribution fitted to each row of ascending
    exceedances (B, M).
    """
    m = x.shape[1]
    quartile = x[:, int(m / 4 + 0.5) - 1]
    # Ties at the cutoff (discrete latents) can make the quartile zero: the smallest positive
    # exceedance is used instead.
    positive = torch.where(x > 0, x, math.inf).amin(1)
    quartile = torch.maximum(quartile, positive)
    size = 30 + int(math.sqrt(m))
    grid = 1 - (size / (torch.arange(1, size + 1, dtype=x.dtype, device=x.device) - 0.5)).sqrt()
    b = grid / (3 * quartile[:, None]) + 1 / x[:, -1:]  # (B, size)
    k = torch.log1p(-b[:, :, None] * x[:, None]).mean(-1)
    profile = m * ((-b / k).log() - k - 1)
    b = (profile.softmax(-1) * b).sum(-1)
    k = torch.log1p(-b[:, None] * x).mean(-1)
    return (m * k + 10 * 0.5) / (m + 10), -k / b
