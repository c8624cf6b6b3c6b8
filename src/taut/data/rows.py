"""The rows of a part of the data: a dense tensor, or an object that makes dense rows on demand.

A count matrix is mostly zeros and a Parquet file may be larger than memory: both return dense rows
for a batch and keep the rest as it is. A ``torch.Tensor`` satisfies the protocol.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["Rows", "block_size", "blocks"]


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


def blocks(rows: Rows, elements: int = 2**22, most: int = 4096) -> Iterable[Tensor]:
    """Returns the rows in consecutive dense blocks of a few million values."""
    return rows.split(block_size(rows, elements, most))


def block_size(rows: Rows, elements: int = 2**22, most: int = 4096) -> int:
    """Returns the number of rows that have a few million values together."""
    return max(1, min(most, elements // max(1, math.prod(rows.shape[1:]))))
