"""The rows of a part of the data: a dense tensor, or an object that makes dense rows on demand.

A count matrix is mostly zeros and a Parquet file may be larger than memory: both return dense rows
for a batch and keep the rest as it is. A ``torch.Tensor`` satisfies the protocol.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["Joined", "Rows", "block_size", "blocks"]


@runtime_checkable
class Rows(Protocol):
    """Rows that are indexed like a tensor and come out dense."""

    @property
    def shape(self) -> Any:
        r"""N, \*event."""

    @property
    def dtype(self) -> torch.dtype: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Tensor:
        """Returns the rows of a slice or of an index tensor, dense; of an integer, that row."""

    def split(self, split_size: int, /) -> Any:
        """Returns consecutive blocks of rows, dense, as an iterable."""

    def to(self, device: torch.device, /) -> Any:
        """Returns the same rows, which then come out on a device."""


class Joined:
    """Creates the rows of several parts as those of one, dense on demand.

    Args:
        parts: At least one; of rows of one shape.
        order: Which rows of all of them, one part after the other, stand where, (N,).
    """

    def __init__(self, parts: Sequence[Rows], order: Tensor) -> None:
        self.parts, self.order = parts, order
        self.starts = [0, *itertools.accumulate(len(part) for part in parts)]

    @property
    def shape(self) -> Any:
        return torch.Size((len(self.order), *self.parts[0].shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0].dtype

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: Any, /) -> Tensor:
        asked = self.order[index]
        rows = asked.reshape(-1)
        here, found = [], []
        for part, start, end in zip(self.parts, self.starts, self.starts[1:], strict=False):
            own = ((rows >= start) & (rows < end)).nonzero()[:, 0]
            if len(own):
                here.append(own)
                found.append(part[rows[own] - start])
        if not found:
            return self.parts[0][:0]
        whole = torch.cat(found)[torch.cat(here).argsort()]
        return whole if asked.dim() else whole[0]

    def split(self, split_size: int, /) -> Any:
        return (self[i : i + split_size] for i in range(0, len(self), split_size))

    def to(self, device: torch.device, /) -> Any:
        return Joined([part.to(device) for part in self.parts], self.order)


def blocks(rows: Rows, elements: int = 2**22, most: int = 4096) -> Iterable[Tensor]:
    """Returns the rows in consecutive dense blocks of a few million values."""
    return rows.split(block_size(rows, elements, most))


def block_size(rows: Rows, elements: int = 2**22, most: int = 4096) -> int:
    """Returns the number of rows that have a few million values together."""
    return max(1, min(most, elements // max(1, math.prod(rows.shape[1:]))))
