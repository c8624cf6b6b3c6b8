"""New data for a trained model: read, checked against its schema, stored as its test set was."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from taut.data.bits import fixed_bits, grey_schema
from taut.data.counts import other_names
from taut.data.counts import problems as problems_of_counts
from taut.data.dataset import array_problems, stored
from taut.data.notes import drift_notes
from taut.data.obs import codes_of
from taut.data.problems import outside_levels
from taut.data.readers import AS_FOUND, Options, Source, kind_of, read
from taut.data.rows import Rows
from taut.data.schema import Schema
from taut.data.sparse import SparseRows
from taut.data.tables.prepare import check_table
from taut.system.errors import DataError, shown

__all__ = ["New", "check_against"]


class New(NamedTuple):
    """New data for a trained model.

    Args:
        rows: Its rows; a value to which the model gives no probability at all is missing in them.
        notes: Lines for the user about them.
        table: The table they came from, if any.
        impossible: Numbers of the rows that held such a value: their log p(x) is minus infinity.
        names: Names of the rows (cells), where the source has them.
        part: Which of the rows that a run held out they are: test or validation.
    """

    rows: Rows
    notes: tuple[str, ...]
    table: Any = None
    impossible: tuple[int, ...] = ()
    names: Any = None
    part: str = ""


def check_against(
    source: object,
    schema: Schema,
    *,
    key: str | None = None,
    options: Options = AS_FOUND,
    binarize: str = "none",
    seed: int = 0,
) -> New:
    """Returns new data for a trained model, stored as its own test set was.

    Flat rows take the schema's event shape. Grey data are binarised once, with the bits that
    ``prepare`` gives an official test set under this ``seed``; data that are bits already stay as
    they are. The columns of a table are found by name.

    Raises:
        DataError: the data are not of the kind that the model was trained on; it lists every
            problem.
    """
    found = read(source, key, kind_of(source).meant(options))
    data, name, notes = found.data, found.name, found.notes
    where = shown(name) or "the data"
    if schema.kind == "table":
        if not Source(data, None, name).is_table:
            raise DataError(
                f"{where}: is an array, and the model was trained on a table with named columns: "
                f"give such a table"
            )
        rows, more, table = check_table(data, schema, where)
        return New(rows, (*notes, *more), table)
    if Source(data, None, name).is_table:
        raise DataError(
            f"{where}: is a table, and the model was trained on {schema.describe()}: give an array"
        )
    names = np.array(found.rows) if found.rows else None
    if schema.context and isinstance(data, np.ndarray):
        data = SparseRows.of(data.reshape(len(data), -1))
    if not isinstance(data, np.ndarray):
        wrong = [*_sparse_problems(data, schema, where)]
        wrong += other_names(found.columns, schema.names, where)
        if wrong:
            raise DataError(wrong)
        if schema.context:
            data = data.joined(codes_of(found.obs, schema.context, where))
        return New(data, notes, names=names)
    if data.ndim <= 2 and data.size == len(data) * schema.num_elements:
        data = data.reshape(len(data), *schema.event_shape)
    seen = schema if binarize == "none" else grey_schema(data, None, None)
    expected = Schema(seen.kind, schema.event_shape, seen.low, seen.high)
    wrong = array_problems(data, expected, where, binarize, training=False)
    if wrong := [*wrong, *other_names(found.columns, schema.names, where)]:
        raise DataError(wrong)
    low = "log p(x) of their rows is finite, but low; {} to expect them"
    notes = (
        *notes,
        *outside_levels(data, schema, where, low),
        *drift_notes(data, schema),
    )
    rows = torch.from_numpy(stored(data, seen, binarize))
    if binarize == "dynamic":
        rows = fixed_bits(rows, seed, "test")
    return New(rows, notes, names=names)


def _sparse_problems(rows: SparseRows, schema: Schema, where: str) -> list[str]:
    wrong, needed = [], schema.event_shape
    if schema.context:
        needed = (len(schema.rest),)
    if rows.shape[1:] != needed:
        wrong.append(
            f"{where}: rows have shape {rows.shape[1:]}, but {needed} is needed; give "
            f"the same columns in the same order"
        )
    if schema.kind != "count":
        wrong.append(f"{where}: is sparse, and the model is of {schema.kind} data: give it dense")
    return wrong + problems_of_counts(rows, where)[0]
