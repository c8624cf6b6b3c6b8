r"""Pareto k-hat: whether an importance-weighted mean can be believed.

The largest of K weights follow a generalized Pareto distribution whose shape k says how many of their moments exist: the
variance for k < 1/2, the mean for k < 1. From a finite sample the error of the mean is usable up to
$\min(1 - 1 / \log_{10} K, \; 0.7)$; above it the estimate is biased low and its standard error is too small.

The fit is Zhang and Stephens' posterior mean on a grid, drawn toward 1/2 with the weight of ten observations.

References: vehtari2024, zhang2009.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from taut.types import PerDatum

__all__ = ["pareto_k", "tail_length", "threshold"]


def tail_length(num_samples: int) -> int:
    """Returns how many of the largest of K weights are the tail: a fifth, or three square roots if that is less."""
    return math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))


def threshold(num_samples: int) -> float:
    """Returns the k-hat up to which an estimate from K weights is reliable.

    Examples:
        >>> round(threshold(100), 3), threshold(5000)
        (0.5, 0.7)
    """
    return min(1 - 1 / math.log10(num_samples), 0.7) if num_samples > 1 else -math.inf


def pareto_k(largest: Tensor, rounding: Tensor | float = 0.0) -> PerDatum:
    r"""Returns k-hat of the tail of the weights of each datum, (B,).

    Args:
        largest: The M + 1 largest log-weights in any order, (M + 1, B): the smallest of them is the cutoff.
        rounding: Nats by which equal log-weights may differ, a number or (B,).

    Returns:
        -inf where all of them are equal to rounding, as with the exact posterior; NaN where M < 5, or where weights of zero are
        among them: the tail is too short to tell.
    """
    ordered = largest.double().sort(0).values
    if len(ordered) < 6:
        return torch.full(ordered.shape[1:], math.nan, dtype=torch.float64, device=ordered.device)
    weights = (ordered - ordered[-1]).exp()
    x = (weights[1:] - weights[0]).T  # exceedances of each datum, ascending, (B, M)
    constant = ordered[-1] - ordered[0] <= rounding
    x = torch.where(constant[:, None], torch.ones_like(x), x)  # any numbers: their answer is replaced below
    k = torch.where(constant, -math.inf, _shape(x))
    return torch.where(ordered[0].isfinite(), k, math.nan)


def _shape(x: Tensor) -> Tensor:
    """Returns the shape of a generalized Pareto distribution fitted to each row of ascending exceedances (B, M)."""
    m = x.shape[1]
    quartile = x[:, int(m / 4 + 0.5) - 1]
    # Ties at the cutoff (discrete latents) can make the quartile zero: the smallest positive exceedance stands for it.
    positive = torch.where(x > 0, x, math.inf).amin(1)
    quartile = torch.maximum(quartile, positive)
    size = 30 + int(math.sqrt(m))
    grid = 1 - (size / (torch.arange(1, size + 1, dtype=x.dtype, device=x.device) - 0.5)).sqrt()
    b = grid / (3 * quartile[:, None]) + 1 / x[:, -1:]  # (B, size)
    k = torch.log1p(-b[:, :, None] * x[:, None]).mean(-1)
    profile = m * ((-b / k).log() - k - 1)
    b = (profile.softmax(-1) * b).sum(-1)
    k = torch.log1p(-b[:, None] * x).mean(-1)
    return (m * k + 10 * 0.5) / (m + 10)
