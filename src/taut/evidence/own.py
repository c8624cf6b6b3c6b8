r"""log p(x) of many rows, each with noise of its own that follows from a seed and the row's values.

So the number of a row depends on no other row, as scikit-learn asks of an estimator: not on their
order, nor on how many there are. Rows are computed by blocks all the same. Noise is counted, not
drawn one after the other: number i of a row is a hash of the row's key and i (the generator of
Steele, Lea and Flood, 2014), for a whole block at a time.

Rows are sorted by their hash and computed once each; a block that is not full is filled up with
copies. Its shape then never changes, since matrices of another shape may be multiplied in another
order, and rounded otherwise.

References: burda2016, vehtari2024.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, MultivariateNormal, Normal
from torch.nn import functional

from taut.data import Rows, blocks
from taut.data.split import row_hashes
from taut.distributions.codes import Codes
from taut.distributions.correlated import CorrelatedNormal
from taut.evidence.ascent import base_of
from taut.evidence.importance import MAX_DATA, MAX_ELEMENTS, Proposal, importance
from taut.evidence.results import Evidence
from taut.evidence.rows import settle
from taut.model import Model
from taut.models.exact import ExactModel
from taut.models.stepwise import StepwiseModel
from taut.system.seeds import derive
from taut.types import Context, Data
from taut.use.blocks import device_of

__all__ = ["own_evidence", "own_keys", "own_proposal"]

FIRST = 50  # samples of every row
CLOSE = 0.05  # nats of error at which a row needs no more
CLIMBING = 20  # rows that get a better proposal each
ROWS = 4096  # dense at a time


def own_evidence(
    model: Model, x: Rows, num_samples: int, *, seed: int = 0
) -> tuple[Tensor, Tensor]:
    r"""Returns log p(x) of each row and whether it can be believed, (N,) each; false, too, where
    there is no telling.

    Args:
        model: The model.
        x: Data, (N, \*event).
        num_samples: K. A row whose error is below 0.05 nats after 50 samples is left at that.
        seed: The same seed gives the same numbers.
    """
    if isinstance(model, ExactModel):
        found = importance(model, x, 1, seed=seed)
        return found.log_evidence.cpu(), found.reliable.cpu()
    if isinstance(model, StepwiseModel):
        found = importance(model, x, num_samples, seed=seed)
        return found.log_evidence, found.reliable
    dtype = torch.get_default_dtype()
    hashes = np.concatenate([row_hashes(block.to(dtype).numpy()) for block in blocks(x)])
    unique, place, back = np.unique(hashes, return_index=True, return_inverse=True)
    keys = own_keys(unique, seed)
    pick = partial(_rows, x, torch.from_numpy(place))
    value, reliable = _sampled(
        model, pick, keys, np.arange(len(keys)), min(FIRST, num_samples), num_samples
    )
    return value[back], reliable[back]


def own_keys(hashes: np.ndarray, seed: int) -> np.ndarray:
    """Returns the key of the noise of each row, (N,), from its hash."""
    return np.array([derive(seed, f"row {h.hex()}") for h in hashes.tolist()], np.uint64)


def own_proposal(model: Model, keys: np.ndarray) -> Proposal:
    """Returns the posterior of each data point as a proposal whose samples follow from the keys of
    the data, (N,).
    """

    def proposal(rows: slice, x: Data, context: Context | None) -> Distribution:
        q = model.encode(x, context)
        vars(q)["told"] = partial(_told, q, _Noise(keys[rows]))
        return q

    return proposal


class _Noise:
    """Uniform numbers between 0 and 1, as many as are asked for, of a stream for each key."""

    def __init__(self, keys: np.ndarray) -> None:
        self.keys, self.count = keys, 0

    def __call__(self, num_samples: int, size: int) -> Tensor:
        """Returns the next numbers, (K, B, size), float64."""
        number = np.arange(self.count, self.count + num_samples * size, dtype=np.uint64).reshape(
            num_samples, 1, size
        )
        self.count += num_samples * size
        state = self.keys[None, :, None] + (number + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
        state ^= state >> np.uint64(31)
        return torch.from_numpy(((state >> np.uint64(11)) + 0.5) * 2.0**-53)


def _told(q: Distribution, noise: _Noise, count: int) -> tuple[Tensor, Tensor]:
    """Returns samples of a posterior, (K, B, D), from noise of each data point's own, and their
    log-densities, (K, B).
    """
    base: Any = base_of(q)
    u = noise(count, q.event_shape.numel()).reshape(count, *q.batch_shape, *q.event_shape)
    if isinstance(base, Bernoulli):
        z = (u.to(base.probs.device) < base.probs).to(base.probs)
    elif isinstance(base, Codes):  # the first number of each code decides its level
        below = u.unflatten(-1, base.logits.shape[-2:])[..., :1].to(base.probs.device)
        level = (base.probs.cumsum(-1)[..., :-1] <= below).sum(-1)
        z = functional.one_hot(level, base.levels).to(base.probs).flatten(-2)
    elif isinstance(base, MultivariateNormal):
        normal = CorrelatedNormal(base.loc, scale_tril=base.scale_tril, validate_args=False)
        return normal.made_of(torch.special.ndtri(u).to(base.loc))
    else:
        z = base.loc + base.scale * torch.special.ndtri(u).to(base.loc)
    return z, q.log_prob(z)


def _known(q: Distribution) -> bool:
    """Returns whether the posterior is one that ``_drawn`` can draw from."""
    return isinstance(q, MultivariateNormal | Codes) or (
        isinstance(q, Independent) and isinstance(q.base_dist, Normal | Bernoulli)
    )


def _rows(x: Rows, place: Tensor, index: np.ndarray) -> Tensor:
    return x[place[torch.from_numpy(index)]].to(torch.get_default_dtype())


def _sampled(
    model: Model, pick: Any, keys: np.ndarray, index: np.ndarray, first: int, num_samples: int
) -> tuple[Tensor, Tensor]:
    """Returns log p(x) of the rows ``index`` and whether it can be believed.

    By few samples or, where needed, all.
    """
    parts = [
        _importance(model, pick(some), keys[some], first)
        for some in np.split(index, range(ROWS, len(index), ROWS))
    ]
    found = Evidence.concatenate(parts)
    value, reliable = found.log_evidence, found.reliable
    if first < num_samples:
        more = ~(reliable & (found.log_evidence_error < CLOSE)).numpy()
        if more.any():
            value[more], reliable[more] = _sampled(
                model, pick, keys, index[more], num_samples, num_samples
            )
        return value, reliable
    doubtful = ~found.log_evidence.isfinite() | ~(reliable | found.khat.isnan())
    worst = torch.where(value.isfinite(), found.khat, torch.inf).argsort(
        descending=True, stable=True
    )
    for i in worst[doubtful[worst]][:CLIMBING].tolist():
        own = settle(
            model, pick(index[i : i + 1]), found.of(torch.tensor([i])), seed=int(keys[i]) >> 1
        )
        value[i], reliable[i] = own.log_evidence[0], own.reliable[0]
    return value, reliable | found.khat.isnan()


def _importance(model: Model, x: Tensor, keys: np.ndarray, num_samples: int) -> Evidence:
    """Returns the evidence of each row with its own noise, computed in blocks that are all of one
    size.
    """
    size = max(1, min(MAX_DATA, MAX_ELEMENTS // max(1, x[0].numel())))
    with torch.no_grad():
        device = device_of(model)
        known = _known(model.encode(x[:1].to(device)))
    if not known:  # a flow, say, whose noise is its own affair
        own = zip(x.split(1), keys.tolist(), strict=True)
        return Evidence.concatenate(
            [importance(model, row, num_samples, seed=key) for row, key in own]
        )
    whole = np.minimum(np.arange(-(-len(x) // size) * size), len(x) - 1)
    filled = importance(
        model, x[torch.from_numpy(whole)], num_samples, proposal=own_proposal(model, keys[whole])
    )
    return filled.of(torch.arange(len(x)))
