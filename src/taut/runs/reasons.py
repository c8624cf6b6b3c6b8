"""Why the oddest rows are odd: their entries, the most improbable first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from taut.data.tables.kinds import KINDS
from taut.evidence.tails import entry_tails

if TYPE_CHECKING:
    from taut.runs.fitted import Fitted

__all__ = ["reasons"]

ROWS = 5  # that are explained
CANDIDATES = 8  # entries of each: those that lie furthest below the median of their column


def reasons(
    fitted: Fitted, x: Any, log_evidence: Tensor, scores: Tensor, *, seed: int = 0
) -> list[dict[str, Any]]:
    r"""Returns the least likely rows, the least likely first, each with its number (row), its
    log_evidence and its reasons: the entries that lie furthest below the median of their column,
    each with column, log_p, median (nats) and tail (its probability: ``taut.evidence.tails``), the
    smallest tail first.

    Args:
        fitted: The model and its schema.
        x: Rows, (N, C), a tensor or rows.
        log_evidence: log p(x) of each row, (N,); a row without a number is the least likely.
        scores: log p of each entry of what is modelled given the others of its row, (N, C).
        seed: The same seed gives the same numbers.
    """
    median = scores.nanmedian(0).values
    chosen = log_evidence.nan_to_num(-torch.inf).argsort(stable=True)[:ROWS]
    below = (scores - median)[chosen]
    order = below.nan_to_num(torch.inf, neginf=-torch.inf).argsort(1)[:, :CANDIDATES]
    asked = torch.full_like(below, torch.nan).scatter_(1, order, scores[chosen].gather(1, order))
    names = fitted.schema.element_names
    tails = entry_tails(fitted.model, x[chosen], asked, _levels(fitted), seed=seed)
    found = []
    for place, row in enumerate(chosen.tolist()):
        entries = [
            {
                "column": names[i],
                "tail": float(tails[place, i]),
                "log_p": float(scores[row, i]),
                "median": float(median[i]),
            }
            for i in order[place].tolist()
            if not tails[place, i].isnan()
        ]
        entries.sort(key=lambda each: (each["tail"], each["log_p"] - each["median"]))
        found.append({"row": row, "log_evidence": float(log_evidence[row]), "reasons": entries})
    return found


def _levels(fitted: Fitted) -> Tensor:
    """Returns which columns are of levels, (C,)."""
    schema = fitted.schema
    kinds: list[str] = [schema.kind] * len(schema.element_names)
    if schema.kind == "table":
        kinds = [schema.modelled[i].kind for i in schema.rest]
    known = [KINDS.get(kind) for kind in kinds]
    return torch.tensor([kind is not None and kind.nominal for kind in known])
