"""Rows of a sparse matrix: kept sparse, returned dense a batch at a time.

A matrix of single cells is 95 % zeros, so its dense form would waste memory.
``SparseRows`` keeps the non-zero values in the smallest integer type that holds them and scatters
the wanted rows into zeros, on any device.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taut.system.errors import DataError, shown

__all__ = ["SparseRows", "check_numbers", "float_dtype", "from_scipy", "native", "only_counts"]

BLOCK = 2**22  # values looked at in one step


class SparseRows:
    """Creates rows (``taut.data.rows.Rows``) over a sparse matrix: indexed like a tensor, they come
    out dense.

    Values that are all counts are kept as uint8, int16, int32 or int64, whichever is smallest;
    others as they are.

    Args:
        matrix: A scipy CSR matrix or array (N, C). ``from_scipy`` takes the other formats, and
            checks.
    """

    def __init__(self, matrix: Any) -> None:
        matrix = _canonical(matrix)
        lengths = np.diff(matrix.indptr).astype(np.int64)
        self._columns = torch.from_numpy(matrix.indices.astype(np.int32))
        self._values = torch.from_numpy(_small(matrix.data))
        self._lengths = torch.from_numpy(lengths)
        self._starts = torch.from_numpy(np.cumsum(lengths) - lengths)
        self._num_columns = int(matrix.shape[1])

    @classmethod
    def of(cls, array: np.ndarray) -> SparseRows:
        """Returns the rows of a dense array (N, C)."""
        from scipy.sparse import csr_array

        return cls(csr_array(array.astype(native(array.dtype), copy=False)))

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self._num_columns

    @property
    def dtype(self) -> torch.dtype:
        return float_dtype()

    @property
    def device(self) -> torch.device:
        return self._values.device

    def __getitem__(self, index: Any, /) -> Tensor:
        """Returns the rows of a slice or of an index tensor, dense; of an integer, that row."""
        sizes = self._lengths[index].shape
        where, lengths = self._where(index)
        width, size = self._num_columns, len(lengths) * self._num_columns
        first = torch.arange(0, size, width, device=self.device)
        places = first.repeat_interleave(lengths, output_size=len(where))
        places = places.add_(self._columns.index_select(0, where))
        values = self._values.index_select(0, where).to(self.dtype)
        dense = torch.zeros(size, dtype=self.dtype, device=self.device)
        return dense.scatter_(0, places, values).view(*sizes, width)

    def split(self, split_size: int, /) -> Iterator[Tensor]:
        """Returns consecutive blocks of rows, each made dense when it is asked for."""
        return (self[start : start + split_size] for start in range(0, len(self), split_size))

    def to(self, device: torch.device | str, /) -> SparseRows:
        """Returns the same rows on a device; they travel there in sparse form."""
        parts = (self._lengths, self._starts, self._columns, self._values)
        return self._with(*(part.to(device) for part in parts))

    def subset(self, rows: np.ndarray) -> SparseRows:
        """Returns the rows of these numbers, in that order, still sparse."""
        index = torch.from_numpy(np.asarray(rows, dtype=np.int64)).to(self.device)
        where, lengths = self._where(index)
        starts = lengths.cumsum(0) - lengths
        return self._with(lengths, starts, self._columns[where], self._values[where])

    def joined(self, codes: np.ndarray) -> SparseRows:
        """Returns the rows with further columns behind the others, (N, C)."""
        from scipy.sparse import csr_array, hstack

        where, lengths = self._where(torch.arange(len(self)))
        starts = np.concatenate([[0], lengths.cumsum(0).numpy()])
        parts = (self._values[where].numpy(), self._columns[where].numpy(), starts)
        return SparseRows(hstack([csr_array(parts, self.shape), csr_array(codes)], format="csr"))

    def largest(self) -> float:
        """Returns the largest value, at least 0."""
        if not len(self._values):
            return 0.0
        return max(float(self._values.max()), 0.0)

    def totals(self) -> Tensor:
        """Returns the sum of each row, (N,), in float64: in single cells, the library size."""
        totals = torch.zeros(len(self), dtype=torch.float64, device=self.device)
        for rows, _, values in self.blocks():
            totals.index_add_(0, rows, values)
        return totals

    def column_moments(self) -> tuple[Tensor, Tensor]:
        """Returns the mean and the standard deviation (of the population, divided by N) of each
        column, (C,), in float64.
        """
        zeros = torch.zeros(3, self._num_columns, dtype=torch.float64, device=self.device)
        sums, squares, counts = zeros
        for _, columns, values in self.blocks():
            sums.index_add_(0, columns, values)
            counts.index_add_(0, columns, torch.ones_like(values))
        mean = sums / len(self)
        for _, columns, values in self.blocks():
            squares.index_add_(0, columns, (values - mean[columns]) ** 2)
        return mean, ((squares + (len(self) - counts) * mean**2) / len(self)).sqrt()

    def row_hashes(self) -> np.ndarray:
        """Returns 128 bits for each row: equal for equal rows, however the matrix stored them."""
        columns, values = self._columns.cpu().numpy(), self._values.cpu().numpy()
        hashes = []
        for start, length in zip(self._starts.tolist(), self._lengths.tolist(), strict=True):
            row = slice(start, start + length)
            content = columns[row].tobytes() + values[row].astype(np.float64).tobytes()
            hashes.append(blake2b(content, digest_size=16).digest())
        return np.array(hashes, dtype="S16")

    def fingerprint(self) -> str:
        """Returns 128 bits in hex over shape and rows: the name of exactly these counts."""
        digest = blake2b(f"{self.shape} sparse ".encode(), digest_size=16)
        digest.update(self.row_hashes().tobytes())
        return digest.hexdigest()

    def _with(self, lengths: Tensor, starts: Tensor, columns: Tensor, values: Tensor) -> SparseRows:
        other = copy.copy(self)
        other._lengths, other._starts = lengths, starts
        other._columns, other._values = columns, values
        return other

    def _where(self, index: Any) -> tuple[Tensor, Tensor]:
        """Returns the places of the stored values of rows, one row after the other, and the number
        of values of each row.
        """
        starts, lengths = self._starts[index].reshape(-1), self._lengths[index].reshape(-1)
        first = starts - lengths.cumsum(0) + lengths
        where = first.repeat_interleave(lengths, output_size=int(lengths.sum()))
        return where.add_(torch.arange(len(where), device=self.device)), lengths

    def blocks(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields row numbers, column numbers and values (float64) of the stored values, whole rows
        at a time.
        """
        step = max(1, BLOCK * len(self) // max(1, len(self._values)))
        for start in range(0, len(self), step):
            rows = torch.arange(start, min(start + step, len(self)), device=self.device)
            where, lengths = self._where(rows)
            yield (
                rows.repeat_interleave(lengths),
                self._columns[where].long(),
                self._values[where].double(),
            )


def float_dtype() -> torch.dtype:
    """Returns the type of dense rows: float64 if torch computes in it, else float32."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Returns a dtype as scipy takes it: without float16, and without a foreign byte order."""
    if dtype == np.float16:
        return np.dtype(np.float32)
    return dtype.newbyteorder("=")


def from_scipy(matrix: Any, name: str = "the matrix") -> SparseRows:
    """Returns the rows of a scipy sparse matrix or array of any format.

    Args:
        matrix: The matrix (N, C); it is not changed.
        name: Its name in an error.

    Raises:
        DataError: it is empty, does not hold real numbers, or its indices are damaged.
    """
    check_numbers(matrix, name)
    try:
        if matrix.format in ("csr", "csc"):
            # scipy's loops trust the indices of a file, and could write anywhere.
            matrix.check_format(full_check=True)
    except ValueError as error:
        raise DataError(
            f"{name}: its sparse indices are damaged ({shown(error)}); write it again"
        ) from error
    if matrix.format != "csr":
        matrix = _widened(matrix).tocsr()
    return SparseRows(matrix)


def check_numbers(matrix: Any, name: str) -> None:
    """Refuses anything but a matrix (N, C) of real numbers, sparse or dense.

    Raises:
        DataError: it has other axes, an empty one, or another type.
    """
    kind, itemsize = matrix.dtype.kind, matrix.dtype.itemsize
    if len(matrix.shape) != 2 or 0 in matrix.shape:
        raise DataError(
            f"{name}: has shape {tuple(matrix.shape)}; rows and columns are needed, at least one "
            f"of each"
        )
    if kind not in "biuf" or itemsize > 8:
        raise DataError(
            f"{name}: holds {matrix.dtype} values, not numbers; save it as integers or float32"
        )


def _canonical(matrix: Any) -> Any:
    """Returns the same matrix with sorted columns, no repeated entries and no stored zeros, so that
    equal rows are equal bytes.
    """
    if matrix.has_canonical_format and matrix.data.all():
        return matrix
    matrix = _widened(matrix).copy()
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def _widened(matrix: Any) -> Any:
    """Returns a matrix whose integers are wide enough to add up repeated entries."""
    if matrix.dtype.kind in "biu" and matrix.dtype.itemsize < 8:
        return matrix.astype(np.int64)
    return matrix


def _small(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind in "bu" or only_counts([values]):
        high = int(values.max(initial=0))
        for small in (np.uint8, np.int16, np.int32, np.int64):
            if high <= np.iinfo(small).max:
                return values.astype(small)
    return values.astype(np.float64 if values.dtype.kind == "u" else values.dtype)


def only_counts(blocks: Iterable[Any]) -> bool:
    """Returns whether all values of some arrays are finite integers of at least 0."""
    return all(_are_counts(np.asarray(block)) for block in blocks)


def _are_counts(x: np.ndarray) -> bool:
    if x.dtype.kind not in "iuf":
        return x.dtype == bool
    return bool(np.all((x >= 0) & (x == np.trunc(x)) & (x < np.inf)))
