"""The rows of a Parquet file, read from the disk as they are asked for.

A row group is the least that can be read of such a file. One random row would cost a whole group,
so an epoch's order (``block_order``) permutes the groups, takes a window of a few at a time and
permutes the rows inside it: every row comes once, a batch needs only the groups of its window, and
``ParquetRows`` keeps their codes.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taut.data.tables.parquet import Pieces
from taut.data.tables.parquet_files import Mark

__all__ = ["ParquetRows", "block_order"]


class ParquetRows:
    """Creates the rows of Parquet files, read when they are asked for (it is
    ``taut.data.rows.Rows``).

    Args:
        paths: A file, a folder of them, or several.
        encode: Returns the codes (n, C) of a table and the number of its first row.
        num_columns: C, the columns that ``encode`` gives.
        rows: The ascending numbers of the rows that belong to this part; ``None`` for all.
        cache: How many pieces (row groups, or runs of 65,536 rows of larger ones) are kept as
            codes: those last used.
        marks: Of the files, where they were read before.

    ``blocks`` are the boundaries of the pieces in the numbers of these rows, for ``block_order``;
    ``notes`` says what makes reading slow.

    Raises:
        DataError: as ``read_parquet``; a damaged row group, or a file that has changed, when it is
            read.
    """

    dtype = torch.float32

    def __init__(
        self,
        paths: Path | Sequence[Path],
        encode: Callable[[Any, int], np.ndarray],
        num_columns: int,
        rows: np.ndarray | None = None,
        cache: int = 8,
        marks: Sequence[Mark] = (),
    ) -> None:
        self._pieces = Pieces([paths] if isinstance(paths, Path) else list(paths), marks)
        self._encode = encode
        self._num_columns = num_columns
        self._rows = rows
        self._cache_size = cache
        self._cached: OrderedDict[int, np.ndarray] = OrderedDict()
        self._device = torch.device("cpu")
        self.notes = self._pieces.notes
        self.blocks = self._boundaries()

    def _boundaries(self) -> np.ndarray:
        starts = self._pieces.starts
        if self._rows is None:
            return starts
        return np.searchsorted(self._rows, starts)

    def __len__(self) -> int:
        return int(self.blocks[-1])

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self._num_columns

    def __getitem__(self, index: int | slice | Tensor, /) -> Tensor:
        if isinstance(index, slice):
            return self._gather(np.arange(*index.indices(len(self))))
        if isinstance(index, int):
            return self._gather(np.array([index]))[0]
        if index.ndim != 1 or index.is_floating_point() or index.dtype == torch.bool:
            raise TypeError(
                f"rows are taken by a vector of integers, not by {index.dtype} of shape "
                f"{tuple(index.shape)}"
            )
        return self._gather(index.cpu().numpy().astype(np.int64))

    def split(self, split_size: int, /) -> Iterator[Tensor]:
        """Yields consecutive blocks of rows."""
        return (self[start : start + split_size] for start in range(0, len(self), split_size))

    def to(self, device: torch.device | str, /) -> ParquetRows:
        """Returns the same rows, to come out on a device."""
        moved = copy.copy(self)
        moved._device = torch.device(device)
        return moved

    def subset(self, rows: np.ndarray) -> ParquetRows:
        """Returns a part of these rows, by their ascending numbers, with a cache of its own."""
        part = copy.copy(self)
        part._rows = np.asarray(rows) if self._rows is None else self._rows[rows]
        part._cached = OrderedDict()
        part.blocks = part._boundaries()
        return part

    def _gather(self, index: np.ndarray) -> Tensor:
        index = np.where(index < 0, index + len(self), index)
        if len(index) and not (index.min() >= 0 and index.max() < len(self)):
            raise IndexError(f"row numbers go from 0 to {len(self) - 1}")
        codes = np.empty((len(index), self._num_columns), np.float32)
        piece = np.searchsorted(self.blocks, index, side="right") - 1
        # Those at hand first: reading another might throw them out.
        for i in sorted(np.unique(piece).tolist(), key=lambda i: i not in self._cached):
            here = np.flatnonzero(piece == i)
            codes[here] = self._codes(i)[index[here] - self.blocks[i]]
        return torch.from_numpy(codes).to(self._device)

    def _codes(self, i: int) -> np.ndarray:
        if i in self._cached:
            self._cached.move_to_end(i)
            return self._cached[i]
        first, last = (int(start) for start in self._pieces.starts[i : i + 2])
        while len(self._cached) >= self._cache_size:
            self._cached.popitem(last=False)
        codes = np.asarray(self._encode(self._pieces.read(i), first), np.float32)
        if self._rows is not None and self.blocks[i + 1] - self.blocks[i] < last - first:
            codes = codes[self._rows[self.blocks[i] : self.blocks[i + 1]] - first]
        self._cached[i] = codes
        return codes


def block_order(blocks: np.ndarray, window: int, generator: torch.Generator) -> Tensor:
    """Returns an order of the rows, each once, that stays inside a few blocks at a time.

    The blocks are permuted, and then the rows inside each window of them. A batch no larger than a
    window reaches into two.

    Args:
        blocks: The boundaries of the blocks, ascending from 0: one more than there are blocks.
        window: How many blocks make up a window: half of what a cache holds.
        generator: Where the permutations come from, on the CPU.
    """
    starts = torch.from_numpy(np.asarray(blocks, np.int64))
    order = torch.randperm(len(starts) - 1, generator=generator)
    parts = []
    for together in order.split(window):
        rows = torch.cat([torch.arange(int(starts[i]), int(starts[i + 1])) for i in together])
        parts.append(rows[torch.randperm(len(rows), generator=generator)])
    return torch.cat(parts)
