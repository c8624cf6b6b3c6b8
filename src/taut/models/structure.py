"""Which columns depend on which: the tree that explains most of their mutual information.

References: chow1968, paninski2003.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["chow_liu", "mutual_information", "spanning_tree"]

BINS = 20  # of equal shares of the rows
WORK = 2**38  # multiplications at most: above it some of the rows serve
BLOCK = 2**11  # bins taken together


def chow_liu(x: Tensor) -> list[int]:
    """Returns the parent of each column of rows (N, C) in the tree of largest total mutual
    information, -1 at its root.
    """
    return spanning_tree(mutual_information(x))


def spanning_tree(information: np.ndarray) -> list[int]:
    """Returns the parent of each column in the tree whose edges have most information, (C, C), in
    total; -1 at its root, which is a middle of the tree: few levels are fast.
    """
    columns = len(information)
    # Prim: of the columns outside, the one most strongly tied to one inside comes next.
    best, tied = information[0].copy(), np.zeros(columns, dtype=int)
    outside = np.ones(columns, dtype=bool)
    outside[0] = False
    neighbours: list[list[int]] = [[] for _ in range(columns)]
    for _ in range(columns - 1):
        new = int(np.where(outside, best, -np.inf).argmax())
        old = int(tied[new])
        neighbours[new].append(old)
        neighbours[old].append(new)
        outside[new] = False
        closer = information[new] > best
        best[closer], tied[closer] = information[new][closer], new
    one, _ = _farthest(neighbours, 0)
    other, parents = _farthest(neighbours, one)
    path = [other]
    while parents[path[-1]] >= 0:
        path.append(parents[path[-1]])
    return _farthest(neighbours, path[len(path) // 2])[1]


def _farthest(neighbours: list[list[int]], start: int) -> tuple[int, list[int]]:
    """Returns the column farthest from one, and the parents of the tree that hangs on that one."""
    parents, order = [-2] * len(neighbours), [start]
    parents[start] = -1
    for node in order:
        for other in neighbours[node]:
            if parents[other] == -2:
                parents[other] = node
                order.append(other)
    return order[-1], parents


def mutual_information(x: Tensor) -> np.ndarray:
    """Returns the mutual information of each pair of columns of rows (N, C), nats, (C, C), less
    what columns of so many bins would have by chance if they were independent.

    Of 20 bins of equal shares a column, or of its values where they are fewer; rows in which one of
    the two is missing are omitted for this pair.
    """
    codes = [_bins(column) for column in x.T]
    sizes = [int(code.max(initial=0)) + 1 for code in codes]
    rows = min(len(x), max(1000, WORK // max(1, sum(sizes) ** 2)))
    chosen = np.linspace(0, len(x) - 1, rows).astype(int)
    groups, total = [[0]], sizes[0]
    for c in range(1, len(codes)):
        if total + sizes[c] > BLOCK:
            groups.append([])
            total = 0
        groups[-1].append(c)
        total += sizes[c]
    found = np.zeros((len(codes), len(codes)))
    for i, first in enumerate(groups):
        one, ends = _one_hot([codes[c][chosen] for c in first], [sizes[c] for c in first])
        for second in groups[i:]:
            other, others = _one_hot([codes[c][chosen] for c in second], [sizes[c] for c in second])
            part = _of_counts((one.T @ other).double().numpy(), ends, others)
            found[np.ix_(first, second)] = part
            found[np.ix_(second, first)] = part.T
    return found


def _bins(column: Tensor) -> np.ndarray:
    """Returns the bin of each value, -1 where it is missing."""
    values = column.double().cpu().numpy()
    there = ~np.isnan(values)
    codes = np.full(len(values), -1)
    if not there.any():
        return codes
    distinct, place = np.unique(values[there], return_inverse=True)
    if len(distinct) > BINS:
        edges = np.unique(np.quantile(values[there], np.linspace(0, 1, BINS + 1)[1:-1]))
        place = np.searchsorted(edges, values[there])
        place = np.unique(place, return_inverse=True)[1]
    codes[there] = place
    return codes


def _one_hot(codes: list[np.ndarray], sizes: list[int]) -> tuple[Tensor, np.ndarray]:
    """Returns the bins as zeros and ones, (N, all bins), and where each column begins."""
    starts = np.cumsum([0, *sizes])
    hot = torch.zeros(len(codes[0]), int(starts[-1]))
    for code, start in zip(codes, starts, strict=False):
        there = torch.from_numpy((code >= 0).nonzero()[0])
        hot[there, torch.from_numpy(code[code >= 0] + int(start))] = 1.0
    return hot, starts[:-1]


def _of_counts(counts: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the mutual information of two groups of columns from counts of pairs of bins."""
    by_first = np.add.reduceat(counts, first, 0)
    by_second = np.add.reduceat(counts, second, 1)
    total = np.add.reduceat(by_first, second, 1)
    both = np.add.reduceat(np.add.reduceat(_log_sum(counts), first, 0), second, 1)
    margins = np.add.reduceat(_log_sum(by_second), first, 0)
    margins = margins + np.add.reduceat(_log_sum(by_first), second, 1)
    n = np.maximum(total, 1.0)
    chance = np.outer(_sizes(first, len(counts)) - 1, _sizes(second, counts.shape[1]) - 1) / 2
    return np.asarray((both - margins + _log_sum(total) - chance) / n)


def _sizes(starts: np.ndarray, end: int) -> np.ndarray:
    """Returns how many bins each column has."""
    return np.diff(np.append(starts, end))


def _log_sum(counts: np.ndarray) -> np.ndarray:
    """Returns n log n of counts, 0 at 0."""
    return np.asarray(counts * np.log(np.maximum(counts, 1.0)))
