r"""Rows that a model makes, samples and what fills gaps, as a table keeps them: what is given is
in them, and its constraints hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from taut.data import Column, Schema
from taut.data.obs import code_of
from taut.data.rows import Rows
from taut.data.tables.constraints import constrained, holding, kept, settled
from taut.data.tables.infer import encode as encode_columns
from taut.data.tables.words import nearest_to
from taut.distributions.counts import LARGEST_COUNT
from taut.evidence import cells
from taut.evidence.cells import Imputed
from taut.features import Split, Totals
from taut.model import Model
from taut.system.errors import UsageError, shown
from taut.system.memory import check_fits
from taut.system.seeds import derive
from taut.use import tasks
from taut.use.export import shortest

__all__ = ["fill_rows", "given_codes", "sample_rows", "totals_of"]

TRIES = 64  # completions of a row of which some must keep the constraints
ROWS = 4096  # at a time


@runtime_checkable
class Made(Protocol):
    """What makes rows: a model, and what they are."""

    model: Model
    schema: Schema


def sample_rows(
    fitted: Made,
    num_samples: int,
    *,
    given: Mapping[str, str] | None = None,
    mean: bool = False,
    seed: int = 0,
) -> Tensor:
    r"""Returns draws of x, (N, \*event); of a table the columns that are given are in them, and
    its constraints hold.

    Args:
        fitted: The model, and what its rows are.
        num_samples: N.
        given: Values of what the model is conditioned on, by column, and ``total`` for counts given
            their total, by default the mean of the training rows.
        mean: Whether to return the mean of p(x|z) instead of a draw.
        seed: The same seed gives the same samples.

    Raises:
        UsageError: a column is not given that must be, a value is not one of its column, or it lies
            so far outside of the training data that counts pass what floats can count; or hardly a
            row keeps the constraints of the table.
    """
    model, schema, given = fitted.model, fitted.schema, dict(given or {})
    wanted = list(schema.condition)
    if (totals := totals_of(model)) is not None:
        wanted.append("total")
        given.setdefault("total", f"{float(totals.mean_total)}")
    if set(given) != set(wanted):
        names = ", ".join(shown(name) for name in wanted) or "nothing"
        raise UsageError(
            f"this model is conditioned on {names}: give exactly that, --given COLUMN=VALUE each "
            "(from Python: given={COLUMN: VALUE})"
        )
    size = len(schema.modelled) or math.prod(schema.event_shape)
    bytes_each = size * torch.get_default_dtype().itemsize
    check_fits(
        num_samples * bytes_each,
        f"{num_samples:,} rows",
        "make them in parts, each with a seed of its own",
    )
    if not schema.constraints or mean:
        return _drawn(model, schema, num_samples, given, mean, seed)

    def draw(number: int, more: int) -> np.ndarray:
        own = derive(seed, "again", number) if number else seed
        return shortest(_drawn(model, schema, more, given, mean, own))

    rows = kept(draw, num_samples, schema.columns, schema.constraints)
    return torch.from_numpy(rows).to(torch.get_default_dtype())


def fill_rows(
    fitted: Made,
    rows: Rows,
    num_samples: int = 1000,
    num_imputations: int = 0,
    *,
    seed: int = 0,
) -> Imputed:
    """Returns rows with their gaps filled in (``taut.impute``), so that the constraints of a table
    hold.

    What contradicts one is drawn again. Means and modes that do become the mean of draws that keep
    it, or, where rounding them breaks it, such a draw. A row of which too few draws in ``TRIES``
    keep the constraints is filled as the model says, and not reliable.
    """
    model, schema = fitted.model, fitted.schema
    found = cells.impute(model, rows, num_samples, num_imputations=num_imputations, seed=seed)
    if not schema.constraints:
        return found
    places = torch.tensor(constrained(schema.columns, schema.constraints))

    def keeps(values: Tensor) -> Tensor:
        codes = settled(shortest(values.flatten(0, -2)), schema.columns)
        good = holding(codes, schema.columns, schema.constraints)
        return torch.from_numpy(good).reshape(values.shape[:-1])

    filled, wanted = torch.cat([found.values[None], found.draws]), num_imputations + 1
    gaps = torch.cat([part[:, places].isnan().any(1) for part in rows.split(ROWS)])
    again = (gaps & ~keeps(filled).all(0)).nonzero()[:, 0]
    if not len(again):
        return found  # a model need not take no rows
    reliable = found.reliable.clone()
    for number, some in enumerate(again.split(ROWS)):
        own = derive(seed, "again", number)
        count = max(TRIES, 4 * wanted)
        more = cells.impute(model, rows[some], num_samples, num_imputations=count, seed=own)
        good = keeps(more.draws)
        first = (~good).long().argsort(dim=0, stable=True)[:wanted, :, None]
        chosen = more.draws.gather(0, first.expand(-1, -1, more.draws.shape[-1]))
        mean = filled[0, some]
        kept_draws = torch.where(good[..., None], more.draws, torch.nan)
        mean[:, places] = kept_draws.nanmean(0)[:, places]
        chosen[0] = torch.where(keeps(mean)[:, None], mean, chosen[0])
        enough = good.sum(0) >= wanted
        filled[:, some[enough]] = chosen[:, enough]
        reliable[some[~enough]] = False
    return Imputed(filled[0], filled[1:], found.ess, reliable)


def _drawn(
    model: Model,
    schema: Schema,
    num_samples: int,
    given: Mapping[str, str],
    mean: bool,
    seed: int,
) -> Tensor:
    if not given:
        return tasks.sample(model, num_samples, mean=mean, seed=seed)
    codes = torch.from_numpy(given_codes(schema, given)).to(torch.get_default_dtype())
    rows = tasks.sample(
        model,
        num_samples,
        mean=mean,
        context=tasks.context_of(model, codes),
        seed=seed,
    )
    counts: Any = ...
    if schema.kind == "table":
        counts = [schema.modelled[i].kind == "count" for i in schema.rest]
    if not bool((rows[:, counts] < LARGEST_COUNT).all()):
        said = ", ".join(f"{shown(name)}={shown(value)}" for name, value in given.items())
        raise UsageError(
            f"--given {said}: counts pass 2^53 there, more than floats can count; give values like "
            f"those of training"
        )
    if schema.kind != "table":
        return rows
    full = torch.empty(num_samples, len(schema.modelled))
    full[:, schema.rest], full[:, schema.given] = rows, codes
    return full


def given_codes(schema: Schema, given: Mapping[str, str]) -> np.ndarray:
    """Returns the codes of given values, (1, number of them)."""
    if schema.kind != "table":
        codes: list[float] = [code_of(given[c.name], c) for c in schema.context]
        if "total" in given:
            codes.append(_total(given["total"]))
        return np.array([codes], np.float64)
    columns = [schema.modelled[i] for i in schema.given]
    values, problems, _ = encode_columns(
        _one_row(given, columns), columns, "--given", missing_values=schema.missing_values
    )
    problems += [
        _no_level(given[c.name], c)
        for c, x in zip(columns, values[0], strict=True)
        if c.levels and np.isnan(x)
    ]
    if problems or np.isnan(values).any():
        raise UsageError(
            "; ".join(problems)
            or "--given: a value of what is given is missing; write COLUMN=VALUE"
        )
    return values


def totals_of(model: Model) -> Totals | None:
    """Returns the rule for the total of a row, where that is given."""
    condition = model.condition
    if isinstance(condition, Split):
        return condition.totals
    return condition if isinstance(condition, Totals) else None


def _total(text: str) -> float:
    try:
        total = float(text)
    except ValueError:
        total = math.nan
    if not 0 <= total < math.inf:
        raise UsageError(f"--given total={shown(text)}: a number of at least 0 is needed")
    return total


def _no_level(value: str, column: Column) -> str:
    near = nearest_to(value, column.levels) or "; give one of them"
    return (
        f"--given {shown(column.name)}={shown(value)}: none of the column's "
        f"{column.describe()[1]}{near}"
    )


def _one_row(given: Mapping[str, str], columns: Sequence[Column]) -> Any:
    import pyarrow as pa

    return pa.table({c.name: [given[c.name]] for c in columns})
