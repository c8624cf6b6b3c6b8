"""z-tests that state their false-alarm rate.

A test with a right implementation fails by chance with probability ALPHA.
"""

from __future__ import annotations

import torch
from torch import Tensor

ALPHA = 1e-6


def limit(comparisons: int) -> float:
    """Returns the two-sided limit on the largest of so many |z|, by Bonferroni."""
    return (
        torch.distributions.Normal(0.0, 1.0)
        .icdf(torch.tensor(1 - ALPHA / (2 * comparisons), dtype=torch.float64))
        .item()
    )


def assert_mean(samples: Tensor, expected: Tensor | float) -> None:
    """Asserts that the mean over the first axis of independent samples is as expected, element by
    element.
    """
    samples = samples.detach().reshape(len(samples), -1)
    expected = torch.as_tensor(expected).detach().reshape(-1)
    difference, error = samples.mean(0) - expected, samples.std(0) / len(samples) ** 0.5
    # an estimator without variance must be right to rounding
    exact = error <= 1e-12 * (1 + expected.abs())
    assert bool(
        (difference[exact].abs() <= 1e-9 * (1 + expected.expand_as(difference)[exact].abs())).all()
    ), difference[exact]
    z = difference[~exact] / error[~exact]
    assert float(z.abs().max() if len(z) else 0.0) < limit(samples.shape[1]), z
