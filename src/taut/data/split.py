"""The split into training, validation and test rows, by the content of a row: neither its place nor
a seed matters.

Each row's bytes are hashed and the rows ranked by hash: the same data give the same test set on
every machine, in any order, for any seed. Copies of a row have one hash and stay on one side, since
a copied row that is trained on and tested on makes the test optimistic. A row that repeats by its
nature, such as an answer to a survey, is different: if all its copies were held out, the training
would lack a part of the distribution. So rows with many copies are divided among the parts, and
each part gets its share of every one of them; ``copies_of`` decides which rows these are.
"""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from taut.data.rows import Rows, blocks
from taut.system.errors import DataError, UsageError

BY = ("rows", "copies")
FEW = 4
"""So many copies can stay on one side by chance.

With 80 % of the rows in training it holds f c = 0.8 c of c copies on average, with a standard
deviation of sqrt(c f (1 - f)) = 0.4 sqrt(c). To hold none of them is 2 sqrt(c) deviations off, four
for four copies.
"""


class Copies(NamedTuple):
    """The treatment of copied rows.

    Args:
        most: Rows that occur at most so often have all their copies on one side; others are divided
            among the parts.
        divided: Hashes of the rows that are divided.
        notes: A line for the user, or none.
    """

    most: float
    divided: np.ndarray
    notes: list[str]


def split(
    array: np.ndarray, validation: float, test: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the ascending row numbers of the training, validation and test parts of an array.

    Copies stay together.
    """
    return split_hashes(row_hashes(array), validation, test)


def copies_of(
    hashes: np.ndarray, validation: float, test: float, by: str | None, *, by_nature: bool
) -> Copies:
    """Returns the treatment of copied rows.

    By default a row is divided among the parts if it could make them unlike the data: if its copies
    exceed a fifth of the smaller held-out part, whose size they would spoil, and also, if rows
    repeat by nature, if it occurs so often (five times) that holding out all copies would change
    its share in training by more than the sampling error.

    Args:
        hashes: Hashes of the rows.
        validation: Share of the rows for validation.
        test: Share of the rows for testing.
        by: "rows" divides the copies of every row, "copies" of none; None decides.
        by_nature: Whether equal rows are to be expected: all columns are levels or counts, and the
            rows are not images.

    Raises:
        UsageError: ``by`` is another word.
    """
    if by not in (None, *BY):
        raise UsageError(f"--split is {' or '.join(BY)}, not {by!r}")
    rows = len(hashes)
    parts = [max(1, round(share * rows)) for share in (validation, test) if share > 0]
    most = math.inf
    distinct, sizes = np.unique(hashes, return_counts=True)
    if parts and by == "rows":
        most = 1
    elif parts and by is None and by_nature:
        most = FEW
    elif parts and by is None and len(distinct) > len(parts):
        # Fewer distinct real rows are nothing to learn from, and are refused later.
        most = max(FEW, min(parts) // 5)
    divided = distinct[sizes > most]
    repeats = rows - len(distinct)
    if not repeats:
        return Copies(most, divided, [])
    note = f"{repeats} of {rows} rows ({100 * repeats / rows:.3g} %) repeat another; "
    if not len(divided):
        note += "copies stay on one side"
    elif by == "rows":
        note += "each is split by itself, so rows of the training are also in the other parts"
    else:
        there, largest = int(sizes[sizes > most].sum()), 100 * sizes.max() / rows
        alone = ", others stay on one side" if np.any((sizes > 1) & (sizes <= most)) else ""
        note += (
            f"the {there} that occur more than {most:g} times (the commonest are {largest:.3g} % "
            f"of all) are divided among the parts, since a part would have all or none of "
            f"them{alone}; --split copies keeps copies together"
        )
    return Copies(most, divided, [note])


def split_hashes(
    hashes: np.ndarray, validation: float, test: float, most: float = math.inf
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the ascending row numbers of the training, validation and test parts.

    Rows with more than ``most`` copies are divided: of each, every part has its share to within one
    row or two. Of the others the smallest hashes are the test part, the next the validation part. A
    part grows by whole groups of identical rows until it has its share, and leaves at least one
    group to each part after it that has no rows yet.

    Args:
        hashes: Hashes of the rows.
        validation: Share of the rows for validation; 0 for none.
        test: Share of the rows for testing; 0 for none.
        most: Largest number of copies of a row that stay together.

    Raises:
        UsageError: a share is negative, or nothing would be left to train on.
        DataError: there are fewer distinct rows than parts.
    """
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise UsageError(
            f"validation {validation:g} and test {test:g} must be shares >= 0 whose sum is below 1"
        )
    _, group, sizes = np.unique(hashes, return_inverse=True, return_counts=True)
    divided = sizes > most
    parts = 1 + (validation > 0) + (test > 0)
    # The two levels of one column can both be in every part.
    needed = 2 if divided.any() else parts
    if len(sizes) < needed:
        raise DataError(
            f"only {len(sizes)} distinct rows: too few to split into {parts} parts; give more data"
        )
    wanted_test, wanted_validation = (_wanted(s, len(hashes)) for s in (test, validation))
    part = np.zeros(len(hashes), np.int64)  # 0 training, 1 validation, 2 test
    loose = np.argsort(group, kind="stable")
    loose = loose[divided[group[loose]]]  # copies after each other, in the order of their hashes
    for number, wanted in ((2, wanted_test), (1, wanted_validation)):
        left = len(hashes) - (wanted_test if number == 1 else 0)
        steps = np.round(np.arange(len(loose) + 1) * (wanted / left))
        chosen = steps[1:] > steps[:-1]  # evenly spaced: of every group its share
        part[loose[chosen]] = number
        loose = loose[~chosen]
    there = np.bincount(part[divided[group]], minlength=3)
    rows_before = np.concatenate([[0], np.cumsum(sizes[~divided])])

    def end(start: int, wanted: int, parts_after: int) -> int:
        found = int(np.searchsorted(rows_before, rows_before[start] + max(0, wanted)))
        return max(start, min(found, len(rows_before) - 1 - parts_after))

    train_empty, validation_empty = not there[0], bool(wanted_validation) and not there[1]
    test_end = end(0, wanted_test - int(there[2]), train_empty + validation_empty)
    validation_end = end(test_end, wanted_validation - int(there[1]), int(train_empty))
    rank = np.where(divided, len(sizes), np.cumsum(~divided) - 1)[group]
    part[rank < validation_end] = 1
    part[rank < test_end] = 2
    return np.flatnonzero(part == 0), np.flatnonzero(part == 1), np.flatnonzero(part == 2)


def _wanted(share: float, rows: int) -> int:
    return max(1, round(share * rows)) if share else 0


def num_duplicates(array: np.ndarray) -> int:
    """Returns the number of rows that repeat an earlier row."""
    return len(array) - len(np.unique(row_hashes(array)))


def hashes_of(rows: Rows) -> np.ndarray:
    """Returns the hash of each row; sparse rows compute their own, without becoming dense."""
    own = getattr(rows, "row_hashes", None)
    if own is not None:
        return own()
    return np.concatenate([row_hashes(block.numpy()) for block in blocks(rows)])


def row_hashes(array: np.ndarray) -> np.ndarray:
    """Returns 128 bits for each row: equal for equal rows of one dtype (-0.0 counts as 0.0)."""
    if array.dtype.kind == "f":
        # -0.0 + 0.0 is 0.0, and all NaN are one
        array = np.where(np.isnan(array), np.nan, array + 0.0)
    rows = np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1)
    return np.array([blake2b(row.tobytes(), digest_size=16).digest() for row in rows], dtype="S16")


def fingerprint(array: np.ndarray) -> str:
    """Returns 128 bits in hex over shape, dtype and bytes: the name of exactly these data."""
    digest = blake2b(f"{array.shape} {array.dtype.str} ".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
