"""Splits by what a row *is*, not where it stands or which seed was drawn.

Each row's bytes are hashed and the rows ranked by hash: the same data give the same test set on every machine, in any
order, for any seed, and copies of a row, having one hash, never sit on both sides.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from taut.data.rows import Rows, blocks
from taut.errors import DataError, UsageError


def split(array: np.ndarray, validation: float, test: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the ascending row numbers of the training, validation and test parts of an array."""
    return split_hashes(row_hashes(array), validation, test)


def split_hashes(hashes: np.ndarray, validation: float, test: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the ascending row numbers of the training, validation and test parts.

    The smallest hashes are the test part, the next the validation part. A part grows by whole groups of identical rows
    until it has its share, and leaves at least one group to each part after it.

    Args:
        hashes: Of the rows.
        validation: Share of the rows for validation; 0 for none.
        test: Share of the rows for testing; 0 for none.

    Fails:
        UsageError: a share is negative, or nothing would be left to train on.
        DataError: there are fewer distinct rows than parts.
    """
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise UsageError(f"validation {validation:g} and test {test:g} must be shares >= 0 whose sum is below 1")
    _, group, sizes = np.unique(hashes, return_inverse=True, return_counts=True)
    parts = 1 + (validation > 0) + (test > 0)
    if len(sizes) < parts:
        raise DataError(f"only {len(sizes)} distinct rows: too few to split into {parts} parts; give more data")
    rows_before = np.concatenate([[0], np.cumsum(sizes)])

    def end(start: int, share: float, parts_after: int) -> int:
        wanted = rows_before[start] + max(1, round(share * len(hashes)))
        return min(int(np.searchsorted(rows_before, wanted)), len(sizes) - parts_after) if share else start

    test_end = end(0, test, 1 + (validation > 0))
    validation_end = end(test_end, validation, 1)
    in_validation = (group >= test_end) & (group < validation_end)
    return np.flatnonzero(group >= validation_end), np.flatnonzero(in_validation), np.flatnonzero(group < test_end)


def num_duplicates(array: np.ndarray) -> int:
    """Returns how many rows repeat an earlier row."""
    return len(array) - len(np.unique(row_hashes(array)))


def hashes_of(rows: Rows) -> np.ndarray:
    """Returns the hash of each row, dense or not; those that can tell it themselves need not be made dense."""
    own = getattr(rows, "row_hashes", None)
    return own() if own is not None else np.concatenate([row_hashes(b.numpy()) for b in blocks(rows)])


def row_hashes(array: np.ndarray) -> np.ndarray:
    """Returns 128 bits for each row: equal for equal rows of one dtype (-0.0 counts as 0.0)."""
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), np.nan, array + 0.0)  # -0.0 + 0.0 is 0.0, and all NaN are one
    rows = np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1)
    return np.array([blake2b(row.tobytes(), digest_size=16).digest() for row in rows], dtype="S16")


def fingerprint(array: np.ndarray) -> str:
    """Returns 128 bits in hex over shape, dtype and bytes: the name of exactly these data."""
    digest = blake2b(f"{array.shape} {array.dtype.str} ".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
