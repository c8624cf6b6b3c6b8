r"""Which rows are odd, at a stated rate of false alarms: log p(x) among that of rows held out.

A row like those of the training is as likely to have any rank among n rows that were held out.
With the number of those that are at most as probable,

$$ p = \frac{1 + \#\{i : \log p(x_i) \le \log p(x)\}}{n + 1}, $$

so $P(p \le \alpha) \le \alpha$ for such a row, whatever the model and however wrong it is: a bad
model has less power, and no more false alarms (a conformal p-value). Rows may also be *too*
probable, such as a constant picture under a model of photographs. The p-value of typicality is of
both sides.

References: vovk2005, bates2023, nalisnick2019.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from taut.system.errors import UsageError

__all__ = ["Oddity", "caution", "check_rate", "oddity", "ranks", "threshold"]


class Oddity(NamedTuple):
    """How odd each of N rows is.

    Args:
        p_value: Probability that a row like those held out is at most as probable, (N,).
        typicality: The same of both sides: also a row that is too probable has a small one, (N,).
        flagged: Whether ``p_value`` is at most the stated rate of false alarms, (N,).
    """

    p_value: Tensor
    typicality: Tensor
    flagged: Tensor


def oddity(scores: Tensor, usual: Tensor, rate: float) -> Oddity:
    r"""Returns how odd rows are.

    Args:
        scores: $\log p(x)$ of the rows, (N,), nats; a row without a number is the oddest.
        usual: That of rows held out, (n,).
        rate: Share of usual rows that may be flagged.

    Raises:
        UsageError: the rate is not between 0 and 1, or too small for so few rows.
    """
    number = ranks(rate, len(usual))
    known = usual.double().nan_to_num(-torch.inf).sort().values
    scores = scores.double().nan_to_num(-torch.inf)
    below = torch.searchsorted(known, scores, right=True)
    above = len(known) - torch.searchsorted(known, scores)
    low, high = ((1 + count.double()) / (len(known) + 1) for count in (below, above))
    both = (2 * torch.minimum(low, high)).clamp(max=1.0)
    return Oddity(low, both, 1 + below <= number)


def ranks(rate: float, held_out: int) -> int:
    """Returns how many ranks among so many rows held out are flagged; before they are scored.

    Raises:
        UsageError: the rate is not between 0 and 1, or too small for so few rows.
    """
    number = _number(held_out, rate)
    if not number:
        needed = math.ceil(1 / rate - 1 - 1e-9)
        raise UsageError(
            f"a rate of {rate:g} needs at least {needed} rows that were held out, and there are "
            f"{held_out}: take a larger rate, or hold out more (--set data.test_fraction=0.3)"
        )
    return number


def caution(part: str) -> str:
    """Returns what is to be known of ranks among this part of the held-out rows, or nothing."""
    if part != "validation":
        return ""
    return (
        "there are no test rows: odd rows are ranked among the validation rows, by which the "
        "training was stopped, so that a little more than the stated share may be flagged"
    )


def threshold(usual: Tensor, rate: float) -> float:
    r"""Returns the $\log p(x)$ below which a row has a p-value of at most ``rate``, nats.

    Minus infinity where no row has one, since too few were held out.

    Args:
        usual: $\log p(x)$ of rows held out, (n,).
        rate: Share of usual rows that may be flagged.

    Raises:
        UsageError: the rate is not between 0 and 1.
    """
    number = _number(len(usual), rate)
    if not number:
        return -math.inf
    return float(usual.double().nan_to_num(-torch.inf).kthvalue(number).values)


def check_rate(rate: Any) -> None:
    """Refuses what is no share of usual rows that may be flagged.

    Raises:
        UsageError: it is not a number between 0 and 1.
    """
    number = isinstance(rate, int | float | np.number) and not isinstance(rate, bool)
    if not number or not 0 < rate < 1:
        said = f"{rate:g}" if number else repr(rate)
        raise UsageError(f"a rate of false alarms lies between 0 and 1, and {said} does not")


def _number(held_out: int, rate: float) -> int:
    """Returns how many ranks among the rows held out have a p-value of at most the rate."""
    check_rate(rate)
    return math.floor(rate * (held_out + 1) + 1e-9)
