"""What the numbers of a column look like besides their mean: the grid they lie on, values that
repeat, sharp ends, an offset.

Each rule asks for evidence from enough rows, so that a small table, or a fold of it, is not
over-read.
"""

from __future__ import annotations

import math

import numpy as np

from taut.data.tables.seen import Numbers
from taut.data.tables.words import MAX_ATOMS, MAX_LEVELS

MIN_ROWS = 50
MIN_EDGE_ROWS = 200
ATOM_SHARE = 0.05
MIN_REST = 20
MANY_STEPS = 1000
SPARSE = 32
"""A grid of more steps than both, this many for each different value, is mostly empty."""
OFTEN = 10.0
"""A value that comes so many times as often as the others is an atom."""
FAR = 64.0
"""Numbers that are so many times larger than they vary are stored as differences.

Float32 would cut their last digits.
"""
DECIMALS = 6


def step_of(numbers: Numbers) -> float:
    """Returns the distance of the grid that all values lie on; 0 where there is none.

    A column of few rows has only the decimals that it is written with: 0.5 and 1.5 do not make a
    grid of halves.
    """
    values = numbers.values
    if (
        not len(values)
        or not math.isfinite(numbers.low)
        or max(abs(numbers.low), abs(numbers.high)) >= 1e15
    ):
        if numbers.integers:
            return 1.0
        return 0.0
    for k in range(DECIMALS + 1):
        scaled = values * 10.0**k
        whole = np.round(scaled)
        if (
            np.all(np.abs(scaled - whole) <= 1e-9 * np.maximum(1.0, np.abs(scaled)))
            and np.abs(whole).max() < 2**53
        ):
            few = numbers.count < MIN_ROWS or numbers.capped_at is not None or len(values) < 3
            unit = 1 if few else int(np.gcd.reduce((whole - whole[0]).astype(np.int64)))
            return max(unit, 1) / 10**k
    return 0.0


def tick_of(numbers: Numbers) -> float:
    """Returns the unit of time that all dates are multiples of, in days.

    A day, an hour, ..., a millisecond; 0 for none.
    """
    for ticks in (1, 24, 1440, 86_400, 86_400_000):
        scaled = numbers.values * ticks
        # days since 1970 are kept to a microsecond
        if np.all(np.abs(scaled - np.round(scaled)) <= 1e-5 * ticks / 86_400):
            return 1.0 / ticks
    return 0.0


def num_steps(numbers: Numbers, step: float) -> float:
    """Returns how many steps the range has."""
    if step:
        return (numbers.high - numbers.low) / step
    return math.inf


def few_values(numbers: Numbers, step: float) -> bool:
    """Returns whether numbers that are not integers are levels.

    On a grid that is not mostly empty, with ten rows or more for each value.
    """
    if numbers.count < MIN_ROWS or numbers.capped_at is not None:
        return False
    # what one value repeats says nothing of the others
    others = numbers.count - numbers.most_common[1]
    enough = 10 * numbers.distinct <= numbers.count and 5 * numbers.distinct <= others
    return enough and num_steps(numbers, step) < MAX_LEVELS and not is_sparse(numbers, step)


def is_sparse(numbers: Numbers, step: float) -> bool:
    """Returns whether most of a grid is empty, as where few of the alcohols 9.5, 9.6, ... have four
    decimals more: a probability of each of thousands of levels says less of them than a density
    with masses at the values that repeat.
    """
    return num_steps(numbers, step) > max(MANY_STEPS, SPARSE * numbers.distinct)


def is_count(numbers: Numbers) -> bool:
    """Returns whether integers are counts: from near 0 and skewed as what has no upper bound is.

    Where the median lies in the middle of the range, or far above 0, there is no sign that larger
    values are only rarer.
    """
    if numbers.count < MIN_ROWS:
        return numbers.low >= 0
    middle = median(numbers)
    near = numbers.low <= middle / 2
    return (
        numbers.low >= 0
        and bool(near)
        and middle - numbers.low < 0.4 * (numbers.high - numbers.low)
    )


def atoms_of(numbers: Numbers) -> tuple[float, ...]:
    """Returns the values that come far more often than the others do.

    5 % of the rows or more, and ten times as often.
    """
    if numbers.count < MIN_ROWS or numbers.distinct < 3:
        return ()
    if numbers.capped_at is not None:
        value, times = numbers.most_common
        if times >= ATOM_SHARE * numbers.count:
            return (value,)
        return ()
    often = numbers.counts >= max(ATOM_SHARE * numbers.count, 10)
    rest = numbers.counts[~often]
    if len(rest) < MIN_REST:
        return ()
    usual = float(rest.mean())
    found = numbers.values[often & (numbers.counts >= OFTEN * usual)]
    if len(found) <= MAX_ATOMS:
        return tuple(float(a) for a in found[:MAX_ATOMS])
    return ()


def ends_of(numbers: Numbers, atoms: tuple[float, ...]) -> str:
    """Returns which ends nothing passes: those that are atoms (rain is never below its zeros)."""
    low, high = numbers.low in atoms, numbers.high in atoms
    return {(True, True): "both", (True, False): "low", (False, True): "high"}.get((low, high), "")


def has_edge(numbers: Numbers) -> bool:
    """Returns whether values crowd at an end of their range, where a bell-shaped density would have
    a tail.
    """
    if numbers.count < MIN_EDGE_ROWS:
        return False
    width = 0.02 * (numbers.high - numbers.low)
    for near in (numbers.values <= numbers.low + width, numbers.values >= numbers.high - width):
        # Half of what a uniform distribution has there; of a normal one of 1,500 values it is 0.2
        # %.
        if np.count_nonzero(near) >= 5 and numbers.counts[near].sum() >= max(
            10.0, 0.01 * numbers.counts.sum()
        ):
            return True
    return False


def median(numbers: Numbers) -> float:
    """Returns the median (of the first different values that are counted, if there are more)."""
    total = numbers.counts.cumsum()
    return float(numbers.values[np.searchsorted(total, total[-1] / 2)])


def offset_of(numbers: Numbers, step: float) -> float:
    """Returns what to subtract in float64 before numbers are stored, a multiple of their step.

    0 where it is not needed.
    """
    if numbers.distinct < 2:
        return 0.0
    _, std, _, _ = numbers.moments()
    if max(abs(numbers.low), abs(numbers.high)) < FAR * std:
        return 0.0
    middle = median(numbers)
    if step:
        return round(middle / step) * step
    if abs(middle) > FAR * std:
        return float(round(middle))
    return middle
