"""What the latent dimensions of a run are, beside factors that are known, or beside other runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from taut.data import New
from taut.data.factors import FILES, Factors, chosen, read_columns
from taut.data.images import image_files
from taut.evidence.disentanglement import Score, decomposition, mig_density, scores, udr
from taut.evidence.latents import encoded
from taut.evidence.results import ACTIVE
from taut.evidence.text import number, plus_minus
from taut.models.exact import ExactModel
from taut.models.stepwise import StepwiseModel
from taut.runs.annotated import annotated
from taut.runs.fitted import Fitted, Source
from taut.runs.handed import library_of
from taut.system.counting import check_count
from taut.system.errors import DataError, UsageError, shown
from taut.system.seeds import derive

__all__ = ["Disentangled", "columns_for", "disentangle", "factors_for", "own_source"]

NAMES = {
    "mig": "MIG, of means in 20 bins",
    "mig_density": "MIG, by densities",
    "sap": "SAP",
    "dci_disentanglement": "DCI disentanglement",
    "dci_completeness": "DCI completeness",
    "dci_informativeness": "DCI informativeness",
    "factor_vae": "FactorVAE score",
    "beta_vae": "beta-VAE score",
    "modularity": "modularity",
    "irs": "IRS",
}
LEAST = 40  # rows: tenths of fewer say nothing


@dataclass(frozen=True)
class Disentangled:
    """What the latent space of a run is made of.

    Args:
        num_data: Rows that it was measured on.
        active: Dimensions whose mean varies, and all of them.
        levels: How many levels each factor has, by its name; none without factors.
        scores: Each score with its error, ceiling and chance level; none without factors.
        udr: The ranking of this run among the others, 1 at best; None without others.
        parts: How the rate splits, in nats (``evidence.disentanglement.decomposition``).
        notes: Lines for the user.
    """

    num_data: int
    active: tuple[int, int]
    levels: dict[str, int]
    scores: tuple[Score, ...]
    udr: float | None
    parts: dict[str, Any]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return {
            "num_data": self.num_data,
            "active_units": self.active[0],
            "latent_dim": self.active[1],
            "factors": self.levels,
            "scores": {score.name: score.to_dict() for score in self.scores},
            "udr": self.udr,
            "parts": self.parts,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        active, latent = self.active
        lines = [f"{self.num_data:,} rows; {active} of {latent} latent dimensions are active"]
        if self.scores:
            told = ", ".join(f"{shown(name)} ({size})" for name, size in self.levels.items())
            lines += [f"factors and their levels: {told}", ""]
            lines.append(f"{'':<26}{'score':>17}{'ceiling':>10}{'chance':>10}")
            lines += [_line(score) for score in self.scores]
        parts = self.parts
        lines += ["", f"rate {plus_minus(parts['rate'])} nats, of which"]
        words = (
            ("information", "information of z on x"),
            ("total_correlation", "total correlation of the dimensions"),
            ("dimension_wise_kl", "dimension-wise KL to the prior"),
        )
        lines += [f"  {word}: {plus_minus(parts[name])}" for name, word in words]
        if self.udr is not None:
            lines.append(f"UDR, agreement with the other runs: {number(self.udr)} (1 at best)")
        return "\n".join(lines)


def _line(score: Score) -> str:
    value = plus_minus({"value": score.value, "mc_error": None, "test_error": score.error})
    ends = "".join(f"{number(end):>10}" for end in (score.ceiling, score.chance))
    return f"{NAMES[score.name]:<26}{value:>17}{ends}"


def disentangle(
    run: Fitted,
    source: Source,
    new: New,
    factors: Any = None,
    others: Sequence[tuple[Fitted, New]] = (),
    *,
    num_data: int = 2000,
    seed: int = 0,
) -> Disentangled:
    """Returns what the latent dimensions of a run are.

    Args:
        run: The run.
        source: The data as the user gave them.
        new: Their rows.
        factors: The file of a table of factors, names of columns, or a column of values by name.
        others: Other runs with the rows of the same data, to rank by.
        num_data: Rows that are looked at, drawn at random if there are more.
        seed: The same seed gives the same numbers.

    Raises:
        UsageError: the model has no latent vector, or there is no such column.
        DataError: there are fewer than 40 rows, or factors for another number.
    """
    num_data = check_count("num_data", num_data)
    for each in (run, *(other for other, _ in others)):
        if isinstance(each.model, ExactModel | StepwiseModel):
            raise UsageError(
                f"{type(each.model).__name__} has no latent vector whose dimensions could be told "
                "apart: train a VAE"
            )
    known = None if factors is None else factors_for(run, source, new, factors)
    rows = np.arange(len(new.rows)) if known is None else np.flatnonzero(known.known)
    notes = () if known is None else known.notes
    if len(rows) < len(new.rows):
        notes = (*notes, f"{len(new.rows) - len(rows)} rows lack a factor and are left out")
    if len(rows) < LEAST:
        raise DataError(f"{len(rows)} rows are too few to tell dimensions apart: give {LEAST}")
    if len(rows) > num_data:
        some = np.random.default_rng(derive(seed, "rows")).permutation(len(rows))[:num_data]
        rows = rows[np.sort(some)]
    x = _some(new, rows)
    _, means, rates, _, _ = encoded(run.model, x, None, seed)
    found: list[Score] = []
    if known is not None:
        found = scores(means.numpy(), known[rows], seed=seed)
        if (dense := mig_density(run.model, x, known[rows], seed=seed)) is not None:
            found.insert(1, dense)
    return Disentangled(
        len(rows),
        (int((means.var(0, correction=0) > ACTIVE).sum()), means.shape[1]),
        {} if known is None else _sizes(known),
        tuple(found),
        _ranking(means, rates, [(r.model, _some(n, rows)) for r, n in others], seed),
        decomposition(run.model, x, seed=seed),
        notes,
    )


def own_source(run: Fitted) -> str:
    """Returns the source of all rows that a run was made of.

    Raises:
        UsageError: they were in memory.
    """
    source = getattr(run, "info", {}).get("source")
    if not isinstance(source, str) or not source:
        raise UsageError("the run was trained on data in memory: give the data")
    return source


def _some(new: New, rows: np.ndarray) -> Any:
    return new.rows[torch.from_numpy(rows)]


def _sizes(factors: Factors) -> dict[str, int]:
    return dict(zip(factors.names, (factors.levels.max(0) + 1).tolist(), strict=True))


def _ranking(means: Any, rates: Any, others: Sequence[tuple[Any, Any]], seed: int) -> float | None:
    """Returns the UDR of the first of several models."""
    if not others:
        return None
    codes, paid = [means.numpy()], [rates]
    for model, x in others:
        _, their, own, _, _ = encoded(model, x, None, seed)
        codes.append(their.numpy())
        paid.append(own)
    known = None
    if all(rate is not None for rate in paid):
        known = [rate.mean(0).numpy() for rate in paid]
    return float(udr(codes, known)[0])


def factors_for(run: Fitted, source: Source, new: New, factors: Any) -> Factors:
    """Returns the factors of the rows of data.

    Args:
        run: The run.
        source: The data as the user gave them.
        new: Their rows.
        factors: A file, names of columns (with commas between them), a frame, or a mapping.

    Raises:
        UsageError: there is no such column, or the data have no columns.
        DataError: there are factors for another number of rows.
    """
    found = Factors.of(columns_for(run, source, new, factors))
    if len(found) != len(new.rows):
        raise DataError(f"factors of {len(found)} rows, and {len(new.rows)} rows of data: one each")
    return found


def columns_for(run: Fitted, source: Source, new: New, factors: Any) -> Mapping[str, Any]:
    """Returns columns of values, (N,) by name, that the user named in any of these ways."""
    if isinstance(factors, Mapping):
        return factors
    if hasattr(factors, "columns") or hasattr(factors, "column_names"):
        columns = getattr(factors, "column_names", None) or list(factors.columns)
        return chosen(factors, [str(name) for name in columns], "the table of factors")
    one = isinstance(factors, str | Path)
    if one and (Path(factors).suffix.lower() in FILES or Path(factors).is_file()):
        return read_columns(Path(factors), _names(source, new))
    names = str(factors).split(",") if one else [str(name) for name in factors]
    if new.table is not None:
        found = chosen(new.table, names, "the table")
        return {name: _parsed(v, run.schema.missing_values) for name, v in found.items()}
    cells = library_of(source) == "anndata" or str(source).endswith(".h5ad")
    if cells:
        adata: Any = source
        if library_of(source) != "anndata":
            adata = annotated(str(source), new, run.schema)
        return chosen(adata.obs, names, "obs")
    raise UsageError(
        f"{shown(str(factors))} is not a file, and these data have no columns: give a table with "
        "a line for each row (.csv, .tsv, .parquet)"
    )


def _parsed(values: np.ndarray, missing: Sequence[str]) -> np.ndarray:
    """Returns a column that was read as texts, because some of them mean missing, as what it is."""
    own = [None if v is None or str(v) in missing else v for v in values.tolist()]
    try:
        return np.array([None if v is None else float(v) for v in own], object)
    except (TypeError, ValueError):
        return np.array(own, object)


def _names(source: Source, new: New) -> Sequence[str] | None:
    """Returns what rows are called: cells, or the files of images."""
    if new.names is not None:
        return [str(name) for name in new.names]
    if isinstance(source, str | Path) and Path(source).is_dir():
        folder = Path(source)
        return [path.relative_to(folder).as_posix() for path in image_files(folder)]
    return None
