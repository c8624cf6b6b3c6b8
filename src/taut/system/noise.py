"""Noise that does not depend on the number of processes: each draws that of all rows, and keeps its
own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["SharedNoise"]


class SharedNoise(TorchFunctionMode):
    """Creates a mode in which noise is drawn for the rows of all ranks, and one rank's are kept.

    The shape of a tensor tells whether it holds data points: (K, rows, ...) or (rows, ...). Noise
    of any other shape is drawn once for each rank.

    Args:
        first: The first of this rank's rows.
        rows: Number of this rank's rows.
        total: Number of all rows.
        num_samples: K.
        rank: Number of this rank.
        world: Number of ranks.
    """

    def __init__(
        self, first: int, rows: int, total: int, num_samples: int, rank: int, world: int
    ) -> None:
        super().__init__()
        self.first, self.rows, self.total = first, rows, total
        self.num_samples, self.rank, self.world = num_samples, rank, world

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in RANDOM or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        if func in FILLED:
            return self._drawn(FILLED[func], (torch.empty(*args, **kwargs),), {})
        drawn = self._drawn(func, args, kwargs)
        return args[0].copy_(drawn) if func.__name__.endswith("_") else drawn

    def _drawn(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        axis = self._axis(args[0])
        if axis is None:
            # Every rank draws for all: generators stay in step, and each rank has its own noise.
            drawn = [func(*map(_copied, args), **kwargs) for _ in range(self.world)]
            return drawn[self.rank]
        args, kwargs = map(self._whole, args), {k: self._whole(v) for k, v in kwargs.items()}
        return func(*args, **kwargs).narrow(axis, self.first, self.rows)

    def _whole(self, value: Any) -> Any:
        """Returns a tensor for the rows of all ranks, with copies of this rank's rows in the places
        of the others.
        """
        axis = self._axis(value)
        if axis is None:
            return value
        place = torch.arange(self.total, device=value.device) - self.first
        return value.index_select(axis, place.clamp_(0, self.rows - 1))

    def _axis(self, value: Any) -> int | None:
        if not isinstance(value, Tensor):
            return None
        if value.shape[:2] == (self.num_samples, self.rows):
            return 1
        if value.shape[:1] == (self.rows,):
            return 0
        return None


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


FILLED: dict[Any, Any] = {torch.rand: Tensor.uniform_, torch.randn: Tensor.normal_}
RANDOM: set[Any] = {
    *FILLED,
    Tensor.normal_,
    Tensor.uniform_,
    Tensor.random_,
    Tensor.bernoulli_,
    Tensor.exponential_,
    Tensor.cauchy_,
    Tensor.geometric_,
    Tensor.log_normal_,
    Tensor.bernoulli,
    Tensor.multinomial,
    torch.bernoulli,
    torch.binomial,
    torch.normal,
    torch.multinomial,
    torch.poisson,
    torch.rand_like,
    torch.randn_like,
    torch.randint_like,
    torch._standard_gamma,
    torch._sample_dirichlet,
    torch.dropout,
    nn.functional.dropout,
    nn.functional.alpha_dropout,
    nn.functional.dropout1d,
    nn.functional.dropout2d,
    nn.functional.dropout3d,
    nn.functional.feature_alpha_dropout,
}
