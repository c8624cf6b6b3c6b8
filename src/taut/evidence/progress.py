r"""The gain from a longer training, extrapolated from the course of the held-out bound.

A schedule whose rate falls to zero flattens every curve at its end, so the bound is followed over
the *sum of the learning rates* u, which is what moves weights, and only where the rate r was at
least a twentieth of its peak R. There it is fitted, for many shapes $\varphi$ of one parameter
(exponential approaches and powers, from a straight line to one that has all but arrived),

$$ v(u) = v(U) + G \, \varphi(u / U) - c \, r / R, \quad \varphi(1) = 0, \ \varphi(2) = 1,
\ c \ge 0, $$

so that G is what a training as long again adds. The last term is the noise of steps: it fades with
the rate, once, and what the bound gains by that no longer training gains again. The shapes are
weighted by their likelihood; the scatter of their G is the part of the error that comes from not
knowing the shape.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["as_long_again"]

FEWEST = 5  # points on the course; with fewer nothing is extrapolated
FULL = 0.05  # share of the peak rate from which on steps are on the course
LATE = 0.8  # share of the steps before which a best bound means that the course no longer rises
EXACT = 0.005  # share of the rise on the course by which the truth may differ from all shapes
# Largest number of independent points, since no shape is exact: two errors then hold 90 to 100 % of
# known courses.
MOST = 12.0
TIMES = np.geomspace(0.08, 8, 40)  # of the exponentials, in units of U
POWERS = np.linspace(-0.95, 8, 40)


def as_long_again(history: Sequence[Mapping[str, Any]]) -> dict[str, float | None] | None:
    """Returns the gain in the held-out bound from a training as long again, in nats per data point,
    with its error.

    Args:
        history: The lines of ``history.jsonl``: ``step``, ``validation`` and ``learning_rate`` of
            each.

    Returns:
        ``value`` and ``error``, and ``last``, the rise of the bound over the last quarter of the
        steps. ``value`` and ``error`` are None if the history is too short to extrapolate, ``last``
        if it has only one line; all are zero if the best bound came long before the end. None if
        nothing was held out.
    """
    names = ("step", "validation", "learning_rate")
    known = [line for line in history if all(line.get(name) is not None for name in names)]
    if not known:
        return None
    step, bound, rate = (np.array([float(line[name]) for line in known]) for name in names)
    if step[bound == bound.max()][-1] < LATE * step[-1]:
        return {"value": 0.0, "error": 0.0, "last": 0.0}
    earlier = bound[step <= 0.75 * step[-1]]
    last = None
    if len(earlier):
        last = float(bound[-1] - earlier[-1])
    between = (rate + np.append(rate[:1], rate[:-1])) / 2  # each line has the rate of its last step
    done = np.cumsum(between * np.diff(step, prepend=0.0))
    course = (done >= done[-1] / 2) & (rate >= FULL * rate.max())
    if course.sum() < FEWEST or done[-1] <= 0:
        return {"value": None, "error": None, "last": last}
    value, error = _extrapolate(done[course] / done[-1], rate[course] / rate.max(), bound[course])
    return {"value": value, "error": error, "last": last}


def _extrapolate(u: np.ndarray, rate: np.ndarray, bound: np.ndarray) -> tuple[float, float]:
    """Returns G and its standard error from points of the course, at u in units of U and a rate in
    units of its peak.
    """
    shapes = [np.expm1(-(u - 1) / t) / np.expm1(-1 / t) for t in TIMES]
    shapes += [np.expm1(-p * np.log(u)) / np.expm1(-p * math.log(2)) for p in POWERS]
    n = len(u)
    fits = []
    for shape, noisy in itertools.product(shapes, (False, True)):
        design = np.stack([np.ones(n), shape, rate][: 2 + noisy], 1)
        solution = np.linalg.lstsq(design, bound, rcond=None)[0]
        if noisy and solution[2] > 0:  # noise does not help
            continue
        residual = bound - design @ solution
        fits.append((solution[1], residual, np.linalg.inv(design.T @ design)[1, 1], noisy))
    gains, leverage = np.array([f[0] for f in fits]), np.array([f[2] for f in fits])
    # No course is one of these shapes exactly, and a bound is a sum in float32: no fit is better
    # than that.
    rounding = n * ((EXACT * np.ptp(bound)) ** 2 + (1e-7 * np.abs(bound).max()) ** 2)
    squares = np.array([float(f[1] @ f[1]) for f in fits]) + rounding
    best = fits[int(squares.argmin())][1]
    # The noise is the same at every measurement, and weights are averaged: neighbouring points have
    # similar errors, and count for fewer.
    alike = float(np.clip(best[1:] @ best[:-1] / (best @ best + rounding), 0.0, 0.9))
    count = float(np.clip(n * (1 - alike) / (1 + alike), 4.0, MOST))
    weight = (squares / squares.min()) ** (-count / 2)
    weight[[f[3] for f in fits]] /= math.sqrt(count)  # a term more: the criterion of Schwarz
    weight /= weight.sum()
    variance = squares / max(count - 4, 1.0) * leverage
    mean = float(weight @ gains)
    # From few points the error itself is not known well: that of Student's t, not of the normal.
    few = (n - 1) / (n - 3)
    return mean, math.sqrt(few * float(weight @ (gains - mean) ** 2 + weight @ variance))
