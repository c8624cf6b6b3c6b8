r"""How improbable an entry is given the others of its row, as a probability: the *reasons* of an
odd row.

A rare level has always lost more nats than a number that is merely far off, and densities of
columns in different units do not compare at all. The tail probability of an entry does,

$$ t_i = P\bigl( p(X_i \mid x_{-i}) \le p(x_i \mid x_{-i}) \bigr), \qquad X_i \sim p(\cdot \mid
   x_{-i}), $$

the share of values, drawn given the other entries, that are at most as probable: of a Gaussian both
tails beyond the entry, of levels all that are no more probable.

With M draws it is estimated by $(1 + \#\{m : p(x_i^m) \le p(x_i)\}) / (M + 1)$. Where no draw is
as improbable as the entry, the tail goes on as an exponential one does, in which $t \propto p$: it
falls by a factor of e for each nat that the entry lies below the least probable draw. (A Gaussian's
falls a little faster, that of a Student t with $\nu$ degrees of freedom by $\nu / (\nu + 1)$ of a
nat.) Of levels, the probabilities of all that were drawn are summed, each once, up to that of the
entry.

References: vovk2005, owen2000.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from taut.distributions.observed import terms
from taut.evidence.cells import SAMPLES, _around, _best, _numbers, _picked
from taut.evidence.importance import weighed
from taut.evidence.results import in_parts
from taut.features import Split
from taut.model import Model, evaluating
from taut.models.exact import ExactModel
from taut.models.masked_diffusion import MaskedDiffusion
from taut.system.seeds import derive, stream
from taut.use.blocks import device_of

__all__ = ["entry_tails"]

DRAWS = 200  # M
TOGETHER = 64  # entries of a block
EQUAL = 1e-4  # nats: rounding of log p(x) in single precision
ROWS = 2**15  # that an exact model is asked for at once


def entry_tails(
    model: Model,
    x: Tensor,
    scores: Tensor,
    levels: Tensor,
    num_samples: int = DRAWS,
    *,
    seed: int = 0,
) -> Tensor:
    r"""Returns the tail probability of single entries given the others of their rows, (N, C) in
    float64; NaN where none is asked for, and where it is missing.

    Args:
        model: The model, whose likelihood knows its elements one by one.
        x: Data, (N, C).
        scores: log p of each entry given the others, as ``cell_scores`` gives it, (N, C); NaN where
            nothing is asked for. Of a model with a condition of the columns that are modelled.
        levels: Which columns are of levels, likewise (C,).
        num_samples: M.
        seed: The same seed gives the same numbers.

    Raises:
        ValueError: the likelihood does not say how much each element contributes.
    """
    columns = torch.arange(x.shape[1])
    if isinstance(model.condition, Split):
        columns = model.condition.rest.cpu()
    found = torch.full(scores.shape, torch.nan, dtype=torch.float64)
    asked, rows = (~scores.isnan()).nonzero(), x.to(device_of(model), torch.get_default_dtype())
    with torch.no_grad(), evaluating(model):
        for number, some in enumerate(in_parts(torch.arange(len(asked)), TOGETHER)):
            row, place = asked[some].T
            with stream(seed, "tails", number):
                here = rows[row.to(rows.device)]
                values, drawn = _drawn(model, here, columns[place], place, num_samples)
            own = scores[row, place].double()
            found[row, place] = _tail(own, values, drawn, levels[place])
    return found


def _tail(own: Tensor, values: Tensor, scores: Tensor, level: Tensor) -> Tensor:
    """Returns the tail probabilities of R entries of log-probabilities (R,).

    Args:
        own: Of the entries, (R,).
        values: The entries and M draws of each, (1 + M, R).
        scores: Their log-probabilities as these draws tell them, likewise.
        level: Whether they are levels, (R,).
    """
    drawn = scores[1:]
    tail = (1 + (drawn <= own).sum(0).double()) / (1 + len(drawn))
    tail = tail * (own - drawn.min(0).values).clamp(max=0.0).exp()
    # A level is compared by the same draws, of which each value counts once.
    times = (values[:, None] == values).sum(1)
    no_more = scores <= scores[0] + EQUAL
    levels = torch.where(no_more, scores.exp() / times, 0.0).sum(0)
    return torch.where(level, levels, tail)


def _drawn(
    model: Model, x: Tensor, column: Tensor, place: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Returns one entry a row and draws of it, and the log p of each given the others in float64,
    (1 + M, R) each.

    Args:
        model: The model.
        x: Rows, (R, C).
        column: Of the entry in the row, (R,).
        place: Of the entry in what is modelled, (R,).
        count: M.
    """
    each = torch.arange(len(x), device=x.device)
    column, place = column.to(x.device), place.to(x.device)
    without = x.clone()
    without[each, column] = torch.nan
    if isinstance(model, ExactModel):
        made = model.decode(model.encode(without).sample(torch.Size((count,)))).sample()
        whole = torch.cat([x[None], without.expand(count, *x.shape)])
        whole[1:, each, column] = made[:, each, column]
        parts = [model.log_prob(part) for part in whole.flatten(0, 1).split(ROWS)]
        scores = torch.cat(parts).view(1 + count, -1) - model.log_prob(without)
        return whole[:, each, column].cpu(), scores.double().cpu()
    if isinstance(model, MaskedDiffusion):  # whose conditionals of one entry are its own
        given = model.conditional(without)
        whole = without.expand(1 + count, *x.shape).clone()
        made = torch.cat([x[None], given.sample(torch.Size((count,)))])
        whole[:, each, column] = made[:, each, column]
        scores = terms(given, whole)[:, each, column].double()
        return whole[:, each, column].cpu(), scores.cpu()
    best = _best(model, without, derive(0, "tails"))
    proposal = _around(model, without, [best])
    draw = weighed(model, without, proposal, max(SAMPLES, count))
    share = _numbers(draw.log_weight).softmax(0)
    picked = _picked(share, count)[..., None].expand(-1, -1, draw.z.shape[-1])
    modelled, context = model.split(without)
    given = model.decode(draw.z.gather(0, picked), context)
    values = torch.cat([model.split(x)[0][each, place][None], given.sample()[:, each, place]])
    whole, log_p = modelled.clone(), []
    for value in values:
        whole[each, place] = value
        found = terms(given, whole)[:, each, place].double()
        log_p.append((found.logsumexp(0) - math.log(count)).cpu())
    return values.cpu(), torch.stack(log_p)
