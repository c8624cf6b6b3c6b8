"""Mixed tables with gaps, after HI-VAE (Nazabal et al. 2020): what ``taut.fit(table)`` with its
defaults imputes, and log p(x).

    python benchmarks/tables.py HIVAE.npz --json tables.json

HIVAE.npz holds for each of six tables NAME_data (numbers, NaN missing), NAME_types
(``type,dim,nclass`` of each column: count, cat, pos, ordinal, real) and NAME_masks_packed: the 50
official masks, ten each of 10, 20, 30, 40 and 50 % of the cells, as packed bits. A masked cell
becomes null, the table a ``pyarrow.Table``; which columns are ordinal, and with what levels, is
said in a schema file. Everything else is left to taut.

Errors as HI-VAE has them, over the masked cells of each column: RMSE / range of a number (count,
pos, real), error rate of a category, mean displacement / number of levels of an ordinal; a mean
over the columns of a type, and over all columns. The standard errors are a jackknife over 50 blocks
of rows: of the mean over new rows, for this mask and this fit.

Beside: the mean, median (ordinal) or mode of each column; and iterated trees in the manner of
    missForest, with boosted trees of
sklearn in place of forests: each column in turn is predicted from all others, three rounds. Both
are fitted on all rows; taut holds out 20 % of them to stop and to measure by. Large tables are
scored on some of their rows, the same for all, and those of more than 10,000 rows with the first of
the shares alone, unless ``--every-share`` is given.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

import taut
from taut.data import fill
from taut.runs.folder import new_data

TABLES = ["adult", "breast", "wine", "defaultcredit", "letter", "spam"]
SHARES = (10, 20, 30, 40, 50)  # of the cells, ten masks each, in this order
NUMERIC = ("count", "pos", "real")
GROUPS = {
    "numeric": NUMERIC,
    "category": ("cat",),
    "ordinal": ("ordinal",),
    "all": (*NUMERIC, "cat", "ordinal"),
}
BLOCKS = 50
LARGE = 10_000
Array = np.ndarray[Any, Any]
Job = dict[str, Any]


class Table(NamedTuple):
    """Numbers (N, C), NaN where missing, the type of each column, and its number of levels (1 for
    numbers).
    """

    name: str
    values: Array
    types: list[str]
    levels: list[int]

    @property
    def columns(self) -> list[str]:
        return [f"{kind}_{i}" for i, kind in enumerate(self.types)]


def load(path: Path, name: str) -> Table:
    with np.load(path) as file:
        entries = [str(entry).split(",") for entry in file[f"{name}_types"][1:]]
        return Table(
            name, file[f"{name}_data"], [e[0] for e in entries], [int(e[2] or 1) for e in entries]
        )


def mask_of(path: Path, table: Table, number: int) -> Array:
    with np.load(path) as file:
        bits = np.unpackbits(file[f"{table.name}_masks_packed"][number])
    return bits[: table.values.size].reshape(table.values.shape).astype(bool)


def to_arrow(table: Table, values: Array) -> pa.Table:
    """Returns the table as a person would have it: texts, integers, floats, null where missing."""
    columns = {}
    for name, kind, column in zip(table.columns, table.types, values.T, strict=True):
        gaps = np.isnan(column)
        if kind == "cat":
            texts = np.array([f"level {v:.0f}" for v in np.nan_to_num(column)])
            columns[name] = pa.array(texts, mask=gaps).dictionary_encode()
        elif kind in ("ordinal", "count"):
            columns[name] = pa.array(np.nan_to_num(column).astype(np.int64), mask=gaps)
        else:
            columns[name] = pa.array(column, mask=gaps)
    return pa.table(columns)


def from_arrow(table: Table, filled: pa.Table) -> Array:
    columns = []
    for name, kind in zip(table.columns, table.types, strict=True):
        column = filled.column(name).to_pylist()
        columns.append(
            [np.nan if v is None else float(v.split()[1] if kind == "cat" else v) for v in column]
        )
    return np.array(columns).T


def schema_file(table: Table, path: Path) -> Path:
    lines = []
    for name, kind, levels, column in zip(
        table.columns, table.types, table.levels, table.values.T, strict=True
    ):
        if kind == "ordinal":
            low = int(np.nanmin(column))
            lines += [
                f"[columns.{name}]",
                'kind = "ordinal"',
                f"levels = {list(range(low, low + levels))}",
            ]
    path.write_text("\n".join(lines) + "\n")
    return path


def taut_fills(
    table: Table, gappy: Array, rows: Array, folder: Path, settings: Job
) -> tuple[Array, Job]:
    """Returns the rows filled in by taut, and what is known of the run."""
    arrow, began = to_arrow(table, gappy), time.process_time()
    run = taut.fit(
        arrow, folder / "run", schema=str(schema_file(table, folder / "schema.toml")), **settings
    )
    fitted, began = time.process_time() - began, time.process_time()
    new = new_data(run, arrow.take(rows))
    imputed = taut.impute(run.model, new.rows)
    filled = from_arrow(table, fill(new.table, imputed.values, run.schema)[0])
    evaluation, history = run.evaluation(), run.history()
    told: Job = {
        name: evaluation[name]
        for name in ("log_evidence", "elbo", "baseline", "khat", "warnings")
        if name in evaluation
    }
    told |= {
        "notes": run.info["notes"],
        "rows": run.info["rows"],
        "kinds": [c.kind for c in run.schema.columns],
    }
    told |= {"latent_dim": run.config.model.latent_dim, "likelihood": run.config.model.likelihood}
    told |= {"epochs": history[-1]["epoch"], "steps_planned": run.info["total_steps"]}
    told |= {
        "fit_cpu_s": fitted,
        "cpu_s": fitted + time.process_time() - began,
        "median_ess": float(imputed.ess.median()),
    }
    return filled, told


def typical(table: Table, gappy: Array) -> Array:
    """Returns the mean of each number, the median of each ordinal and the most frequent level of
    each category, (C,).
    """
    values = []
    for kind, column in zip(table.types, gappy.T, strict=True):
        seen = column[~np.isnan(column)]
        if kind == "cat":
            levels, counts = np.unique(seen, return_counts=True)
            values.append(levels[counts.argmax()])
        else:
            values.append(np.round(np.median(seen)) if kind == "ordinal" else seen.mean())
    return np.array(values)


def trees_fill(table: Table, gappy: Array, rounds: int = 3) -> Array:
    """Returns the table with each column predicted from all others, by turns, the fullest first."""
    gaps = np.isnan(gappy)
    filled = np.where(gaps, typical(table, gappy), gappy)
    nominal = np.array([kind == "cat" for kind in table.types])
    for _ in range(rounds):
        for i in gaps.sum(0).argsort(kind="stable"):
            if not gaps[:, i].any():
                continue
            others = np.arange(gaps.shape[1]) != i
            maker = HistGradientBoostingClassifier if nominal[i] else HistGradientBoostingRegressor
            trees = maker(
                max_iter=40,
                early_stopping=False,
                categorical_features=nominal[others],
                random_state=0,
            )
            trees.fit(filled[np.ix_(~gaps[:, i], others)], gappy[~gaps[:, i], i])
            guess = trees.predict(filled[np.ix_(gaps[:, i], others)])
            filled[gaps[:, i], i] = np.round(guess) if table.types[i] == "ordinal" else guess
    return filled


def losses(table: Table, filled: Array, scored: Array, rows: Array) -> Array:
    """Returns the loss of each scored cell, NaN elsewhere.

    Of numbers the squared one, in units of the range of the column.
    """
    truth = table.values[rows]
    spread = np.nanmax(table.values, 0) - np.nanmin(table.values, 0)
    each = np.empty_like(truth)
    for i, (kind, levels) in enumerate(zip(table.types, table.levels, strict=True)):
        wrong = np.abs(filled[:, i] - truth[:, i])
        each[:, i] = (
            wrong != 0
            if kind == "cat"
            else wrong / levels
            if kind == "ordinal"
            else (wrong / spread[i]) ** 2
        )
    if np.isnan(each[scored]).any():
        raise ValueError(f"{table.name}: {int(np.isnan(each[scored]).sum())} cells were not filled")
    return np.where(scored, each, np.nan)


def errors(table: Table, loss: Array) -> Array:
    """Returns the mean error of the columns of each group, (4,), NaN where it has none."""
    numeric = np.isin(table.types, NUMERIC)
    mean = np.nanmean(loss, 0)
    each = np.where(numeric, np.sqrt(mean), mean)
    members = [np.isin(table.types, kinds) for kinds in GROUPS.values()]
    return np.array([each[here].mean() if here.any() else np.nan for here in members])


def jackknife(loss: Array, statistic: Callable[[Array], Array]) -> Array:
    """Returns the standard error of a statistic of rows by leaving out one block of them after the
    other.
    """
    block = np.arange(len(loss)) * BLOCKS // len(loss)
    left_out = np.array([statistic(loss[block != b]) for b in range(BLOCKS)])
    error: Array = np.sqrt((BLOCKS - 1) / BLOCKS * ((left_out - left_out.mean(0)) ** 2).sum(0))
    return error


def compare(table: Table, mask: Array, max_rows: int, settings: Job) -> Job:
    gappy = np.where(mask, np.nan, table.values)
    rows = np.sort(np.random.default_rng(0).permutation(len(gappy))[:max_rows])
    scored = mask[rows] & ~np.isnan(table.values[rows])
    began = time.process_time()
    fills = {"mean, median, mode": np.where(np.isnan(gappy), typical(table, gappy), gappy)[rows]}
    result: Job = {"rows_scored": len(rows), "cells_scored": int(scored.sum()), "methods": {}}
    cpu_s, began = {"mean, median, mode": time.process_time() - began}, time.process_time()
    fills["iterated trees"] = trees_fill(table, gappy)[rows]
    cpu_s["iterated trees"] = time.process_time() - began
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fills["taut"], result["run"] = taut_fills(table, gappy, rows, Path(folder), settings)
    result["python_warnings"] = sorted({str(w.message) for w in caught})
    cpu_s["taut"] = result["run"]["cpu_s"]
    loss = {name: losses(table, filled, scored, rows) for name, filled in fills.items()}
    for name in fills:
        pair = np.stack([loss[name], loss["taut"]], 1)

        def paired(pair: Array) -> Array:
            return errors(table, pair[:, 0]) - errors(table, pair[:, 1])

        found = {
            "error": errors(table, loss[name]),
            "se": jackknife(loss[name], lambda part: errors(table, part)),
        }
        found |= {"less_taut": paired(pair), "less_taut_se": jackknife(pair, paired)}
        by_group = {
            group: {what: float(v[i]) for what, v in found.items()}
            for i, group in enumerate(GROUPS)
            if not np.isnan(found["error"][i])
        }
        result["methods"][name] = {"cpu_s": cpu_s[name], **by_group}
    return result


def show(columns: list[str], rows: list[list[str]]) -> None:
    for cells in (columns, ["---"] * len(columns), *rows):
        print("| " + " | ".join(cells) + " |")
    print(flush=True)


def rows_of(what: list[str], result: Job) -> list[list[str]]:
    lines = []
    for name, method in result["methods"].items():
        cells = [
            f"{method[g]['error']:.3f} ± {method[g]['se']:.3f}" if g in method else ""
            for g in GROUPS
        ]
        gap = (
            ""
            if name == "taut"
            else "{less_taut:+.3f} ± {less_taut_se:.3f}".format(**method["all"])
        )
        lines.append([*what, name, *cells, gap, f"{method['cpu_s']:.0f}"])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--tables", nargs="+", default=TABLES, choices=TABLES)
    parser.add_argument("--shares", nargs="+", type=int, default=[20, 50], choices=SHARES)
    parser.add_argument("--every-share", action="store_true", help="of large tables too")
    parser.add_argument("--mask", type=int, default=0, help="which of the ten masks of a share")
    parser.add_argument("--max-rows", type=int, default=2000, help="rows that are scored")
    parser.add_argument("--max-epochs", type=int, help="for a quick look; by default taut's own")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings: Job = {"threads": 1} | (
        {"max_epochs": options.max_epochs} if options.max_epochs else {}
    )
    results: Job = {}
    imputed, likely = [], []
    for name in options.tables:
        table = load(options.data, name)
        large = len(table.values) > LARGE and not options.every_share
        for share in options.shares[: 1 if large else None]:
            mask = mask_of(options.data, table, 10 * SHARES.index(share) + options.mask)
            try:
                result = compare(table, mask, options.max_rows, settings)
            except Exception:  # the next table all the same
                traceback.print_exc()
                continue
            results[f"{name}, {share} %"] = result
            what, run = [name, f"{share} %"], result["run"]
            imputed += rows_of(what, result)
            nats, alone = run["log_evidence"], run["baseline"]
            cells = [
                f"{r['value']:.2f} ± {r['test_error']:.2f}" if r else ""
                for r in (nats, run["elbo"], alone)
            ]
            size = "{} x {}".format(*table.values.shape)
            likely.append(
                [
                    *what,
                    size,
                    str(run["rows"]["test"]),
                    *cells,
                    f"{run['epochs']:.0f}",
                    f"{run['fit_cpu_s']:.0f}",
                ]
            )
            show(
                ["table", "masked", "method", *GROUPS, "all, less taut's", "CPU s"],
                rows_of(what, result),
            )
            if options.json:
                options.json.write_text(
                    json.dumps({"settings": settings, "results": results}, indent=2) + "\n"
                )
    show(["table", "masked", "method", *GROUPS, "all, less taut's", "CPU s"], imputed)
    columns = [
        "table",
        "masked",
        "size",
        "held-out rows",
        "log p(x)",
        "ELBO",
        "independent columns",
        "epochs",
        "fit, CPU s",
    ]
    show(columns, likely)


if __name__ == "__main__":
    main()
