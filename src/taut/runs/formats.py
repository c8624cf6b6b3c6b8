"""What ``run.json`` says, and run folders of earlier releases in the words of this one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from torch import Tensor, nn

from taut.build.spec import Spec, parse
from taut.data import Options, Schema, hashes_of, read
from taut.data.readers import kind_of
from taut.data.tables.prepare import check_table
from taut.system.errors import StorageError, shown

__all__ = [
    "FORMAT",
    "READ",
    "Info",
    "migrate",
    "migrate_evaluation",
    "same_in_1",
    "with_empty",
]

FORMAT = 2
READ = (1, FORMAT)
COLUMN = {"offset": 0.0, "step": 0.0, "atoms": [], "bounded": "", "notation": ""}


class Info(TypedDict):
    """What ``run.json`` says of a training, see ``records.RUN``."""

    format: int
    taut: str
    torch: str
    python: str
    machine: str
    threads: int
    device: str
    source: str
    test: str
    fingerprint: str
    rows: dict[str, int]
    notes: list[str]
    pace: str
    total_steps: int
    schema: dict[str, Any]
    config: dict[str, Any]
    ended: NotRequired[str]
    extended: NotRequired[list[int]]
    data_seed: NotRequired[int]
    tightened: NotRequired[dict[str, Any]]
    refitted: NotRequired[dict[str, Any]]
    observed: NotRequired[dict[str, Any]]
    rescaled: NotRequired[dict[str, Any]]
    exact: NotRequired[dict[str, Any]]
    candidates: NotRequired[dict[str, Any]]


def migrate(info: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Returns what a ``run.json`` of format 1 says in the words of format 2.

    What changed, and what it is read as:

    * A column of numbers has an offset, which is subtracted before a number is stored, a grid,
      atoms, bounds and a notation. Format 1 stored numbers as they are: offset 0 and no grid, but
      for levels, which were whole numbers: a grid of 1.
    * ``Columns()`` made levels a discretized logistic, and makes them ``WarpedLevels()`` now: the
      family is written into the specification.
    * The split can be by rows or by copies. All copies of a row were in one part: ``copies``.

    The weights mean what they meant, and buffers without elements came (``with_empty``). Dates
    were real numbers, in one family with them, and have their own now: such a run cannot be read.
    ``format`` stays 1 until the folder is written again, since the fingerprint of its data is the
    old one until then (``fingerprint_of_1``).

    Raises:
        StorageError: the run has dates.
    """
    if info.get("format") != 1:
        return dict(info)
    config, schema = dict(info["config"]), dict(info["schema"])
    config["data"] = {"split": "copies", **config.get("data", {})}
    columns = schema.get("columns") or []
    old = [c for c in columns if "offset" not in c]
    if dates := [c["name"] for c in old if c["kind"] == "date"]:
        raise StorageError(
            f"{shown(path)} was made by an earlier taut, which modelled dates ({shown(dates[0])}) "
            "in another way: train again"
        )
    if old:
        schema["columns"] = [
            COLUMN | {"step": 1.0 if c["kind"] == "levels" else 0.0} | c for c in columns
        ]
        likelihood = parse(config["model"]["likelihood"])
        if likelihood.name == "Columns" and "levels" not in dict(likelihood.arguments):
            levels = ("levels", Spec("DiscretizedLogistic", ()))
            likelihood = replace(likelihood, arguments=(*likelihood.arguments, levels))
            config["model"] = config["model"] | {"likelihood": str(likelihood)}
    return {**info, "config": config, "schema": schema}


def migrate_evaluation(found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an ``evaluation.json`` with what gave log p(x) of its rows: importance sampling gave
    all of them where format 1 does not say it.
    """
    return {"by": {"importance": found.get("num_data")}, **found}


def with_empty(
    tensors: Mapping[str, Tensor], model: nn.Module, prefixes: Iterable[str] = ("",)
) -> dict[str, Tensor]:
    """Returns the weights of a model with its tensors that have no elements: format 1 had no warps,
    whose knots are such a tensor where no column has one.

    Args:
        tensors: Weights by name.
        model: The model that they are of.
        prefixes: Before the names: weights, averages and best ones are in one checkpoint.
    """
    empty = {name: t for name, t in model.state_dict().items() if not t.numel()}
    there = [p for p in prefixes if any(name.startswith(p) for name in tensors)]
    return {p + name: t for p in there for name, t in empty.items()} | dict(tensors)


def same_in_1(
    info: Info, schema: Schema, options: Options, sources: tuple[Any, Any], key: str | None
) -> bool:
    """Returns whether a table, and its test set, have the fingerprint that format 1 gave them."""
    if info["format"] != 1 or schema.kind != "table":
        return False
    source, test = sources
    marks = [fingerprint_of_1(source, schema, options, key)]
    if test is not None:
        marks.append(fingerprint_of_1(test, schema, options))
    return "+".join(marks) == info["fingerprint"]


def fingerprint_of_1(source: Any, schema: Schema, options: Options, key: str | None = None) -> str:
    """Returns the fingerprint that format 1 gave a table: without the offsets and grids of its
    columns, which it did not have.
    """
    data = read(source, key, kind_of(source).meant(options)).data
    rows, _, _ = check_table(data, schema, "the data")
    described = repr([(c.name, c.kind, c.levels) for c in schema.modelled])
    digest = blake2b(described.encode(), digest_size=16)
    digest.update(np.ascontiguousarray(hashes_of(rows)).tobytes())
    return digest.hexdigest()
