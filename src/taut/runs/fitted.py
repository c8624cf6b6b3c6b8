r"""A fitted model: what it is, what its data are, and all that can be done with it, with no folder.

Data come in as a frame (pandas, polars, Arrow), an array, a tensor, an AnnData or the name of a
file, and results come back in the same kind (``handed``).
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taut.build.checks import unsupported
from taut.build.config import Config
from taut.data import New, Schema, check_against
from taut.data.tables.oddities import MANY
from taut.evidence import Evidence, cells, importance_blocks
from taut.evidence.outliers import caution, oddity, ranks
from taut.evidence.rows import RowEvidence, settle_together
from taut.model import Model
from taut.models.exact import ExactModel
from taut.models.stepwise import StepwiseModel
from taut.objectives import Objective
from taut.runs.annotated import annotated
from taut.runs.handed import Handed, library_of, made
from taut.runs.making import fill_rows, sample_rows
from taut.runs.telling import Telling
from taut.system.counting import COMPLETIONS, check_count
from taut.system.errors import DataError, TautWarning, UsageError, shown
from taut.use import tasks
from taut.use.differential import Differential, differential, labels_of, members

__all__ = ["Fitted", "Source", "new_data", "score_columns"]

Source = str | Path | np.ndarray | Tensor | Any  # a data frame, a sparse matrix, an AnnData
OF_READING = re.compile(
    "--(encoding|delimiter|decimal|(no-)?header|missing-values|shape|skip-bad|resize|crop|alpha|"
    "layer|binarize)\\b"
)
SCORES = ("log_evidence", "log_evidence_error", "reliable", "method", "ess", "khat", "elbo")


@dataclass(eq=False, repr=False, kw_only=True)
class Fitted:
    """Creates a fitted model with what is needed to use it on data.

    Args:
        model: The model, trained.
        schema: What a row of its data is.
        config: How data are read, what the parts are, how it was trained.
        objective: What was maximised.
        like: The columns of the frame that it was trained on in this session, without rows: tables
            that it makes are like it.
    """

    model: Model
    schema: Schema
    config: Config
    objective: Objective
    like: Any = None

    @property
    def data_seed(self) -> int:
        """The seed that the bits of dynamically binarized data are drawn with."""
        return self.config.training.seed

    def sample(
        self,
        num_samples: int = 64,
        *,
        given: Mapping[str, Any] | None = None,
        mean: bool = False,
        seed: int = 0,
    ) -> Any:
        r"""Returns new rows, $z \sim p(z)$ and then $x \sim p(x \mid z)$: a frame of a table, an
        array (N, \*event) of all else.

        Args:
            num_samples: N.
            given: Values of what the model is conditioned on, by column, or ``total`` for counts;
                by default the mean total of the training rows.
            mean: Whether to return the mean of p(x|z) instead of a draw: smoother than data are.
            seed: The same seed gives the same rows.

        Raises:
            UsageError: what the model is conditioned on is not given, or is not a value of it.
        """
        texts = {name: str(value) for name, value in (given or {}).items()}
        num_samples = check_count("num_samples", num_samples)
        values = sample_rows(self, num_samples, given=texts, mean=mean, seed=seed)
        return made(values, self.schema, self.like, mean=mean)

    def encode(
        self, data: Source | None = None, *, num_samples: int | None = None, seed: int = 0
    ) -> Any:
        """Returns the posterior mean of each row, (N, D): a frame with the index and the ids of the
        data, an array, or a copy of an AnnData with ``obsm["X_taut"]``.

        Args:
            data: Data like those of the training; by default the rows that a run held out.
            num_samples: So many draws of the posterior instead, as an array (N, K, D).
            seed: The same seed gives the same draws.

        Raises:
            DataError: the data are not what the model was trained on.
        """
        if num_samples is not None:
            num_samples = check_count("num_samples", num_samples)
        handed = self._handed(data)
        z = tasks.encode(self.model, handed.new.rows, num_samples, seed=seed)
        if num_samples is not None:
            return z if isinstance(data, Tensor) else z.numpy()
        return handed.embedding(z, [f"z{i}" for i in range(z.shape[1])])

    def reconstruct(self, data: Source | None = None, *, draw: bool = False, seed: int = 0) -> Any:
        """Returns the mean of p(x|z) at the posterior mean of each row, in the kind of the data; of
        an AnnData a copy with ``layers["taut"]``.

        Args:
            data: Data like those of the training; by default the rows that a run held out.
            draw: Whether to return a draw from p(x|z) instead.
            seed: The same seed gives the same draws.

        Raises:
            DataError: the data are not what the model was trained on.
        """
        handed = self._handed(data)
        values = tasks.reconstruct(self.model, handed.new.rows, draw=draw, seed=seed)
        if self.schema.kind == "table" and self.schema.condition:  # what is given is as it was
            values = self._joined(handed.new.rows, values)
        return handed.rows(values, mean=not draw)

    def score(
        self,
        data: Source | None = None,
        *,
        num_samples: int = 500,
        cells: bool = False,
        flag: float | None = None,
        seed: int = 0,
        verbose: bool | None = None,
    ) -> Any:
        """Returns how likely each row is, as columns: ``log_evidence`` (log p(x) in nats), its
        Monte Carlo error, whether it is ``reliable`` and by which ``method``, ``ess``, ``khat``,
        ``elbo``.

        A frame with the index and the ids of the data, a record array (N,) of all else, or a copy
        of an AnnData with ``obs["taut_log_evidence"]`` and so on.

        Args:
            data: Data like those of the training; by default the rows that a run held out.
            num_samples: K of the importance-weighted estimate; rows of which it cannot tell get a
                better proposal each.
            cells: Whether to add ``log_p(NAME)``, its error and whether it is reliable, for each
                entry given the others of its row: why a row is odd.
            flag: Share of usual rows that may be called odd, such as 0.01: adds ``p_value``,
                ``typicality`` and ``flagged``, from the rows that the run held out.
            seed: The same seed gives the same numbers.
            verbose: Whether to tell of the progress; by default in terminals and notebooks.

        Raises:
            DataError: the data are not what the model was trained on.
        """
        num_samples = check_count("num_samples", num_samples)
        if flag is not None and data is None:
            raise UsageError("flag= compares data with the rows that were held out: give data")
        handed = self._handed(data)
        tell = Telling(verbose)
        x = handed.new.rows
        parts, part = [x], ""
        if flag is not None:
            usual = self._held_out()
            ranks(flag, len(usual.rows))  # refused before anything is scored
            parts, part = [x, usual.rows], usual.part
        measured = self._evidence(parts, num_samples, seed, tell)
        rows = measured[0].impossible(handed.new.impossible)
        columns = score_columns(rows)
        if flag is not None:
            columns |= oddity(rows.log_evidence, measured[1].log_evidence, flag)._asdict()
        if cells:
            columns |= self._cells(x, num_samples, seed)
        for line in filter(None, (*rows.warnings, caution(part))):
            warnings.warn(line, TautWarning, stacklevel=2)
        return handed.named(columns, "taut_")

    def impute(
        self,
        data: Source | None = None,
        *,
        num_samples: int = 1000,
        num_imputations: int = 0,
        seed: int = 0,
    ) -> Any:
        """Returns the data with what is missing filled in: the mean of a number, the median of
        ordered levels, the most probable of others. Every observed cell stays as it is.

        Args:
            data: Data like those of the training; by default the rows that a run held out.
            num_samples: K of the importance weights.
            num_imputations: Return so many completions by draws instead, as a list.
            seed: The same seed gives the same values.

        Raises:
            DataError: the data are not what the model was trained on.
            UsageError: the data are counts, which have no gaps.
        """
        num_samples = check_count("num_samples", num_samples)
        num_imputations = check_count("num_imputations", num_imputations, 0, COMPLETIONS)
        handed = self._handed(data)
        if self.schema.kind == "count":
            handed.filled(torch.empty(0))  # refuses
        found = fill_rows(self, handed.new.rows, num_samples, num_imputations, seed=seed)
        gaps = torch.cat([rows.isnan().flatten(1).any(1) for rows in handed.new.rows.split(4096)])
        if doubtful := int((gaps & ~found.reliable).sum()):
            warnings.warn(
                f"few effective samples carry what is filled in, in {doubtful} of {len(gaps)} "
                "rows: do not rely on it there; a larger num_samples may help",
                TautWarning,
                stacklevel=2,
            )
        if num_imputations:
            return [handed.filled(values) for values in found.draws]
        return handed.filled(found.values)

    def differential(
        self, data: Source, groups: str | Sequence[Any], a: str, b: str | None = None
    ) -> Differential:
        """Returns which columns of counts differ between two groups of rows, with a posterior
        probability and a false-discovery rate.

        Rows of one level of what the model is conditioned on (batch, donor) are compared with each
        other only.

        Args:
            data: Counts like those of the training.
            groups: A column of ``obs`` of an AnnData or an .h5ad file, or a label for each row.
            a: The label of the first group.
            b: That of the second; by default all other rows that have a label.

        Raises:
            UsageError: the model is not one of counts, or there is no such column or label.
            DataError: a group has fewer than 3 rows.
        """
        if self.schema.kind != "count":
            raise UsageError(
                f"differential expression is of counts, and this model is of "
                f"{self.schema.describe()}"
            )
        handed = self._handed(data)
        labels: Sequence[Any] = groups
        if isinstance(groups, str):
            adata: Any = data
            if library_of(data) != "anndata":
                adata = annotated(str(data), handed.new, self.schema)
            labels = list(labels_of(adata.obs, groups))
        if len(labels) != len(handed.new.rows):
            raise UsageError(f"{len(labels)} labels for {len(handed.new.rows)} rows: one each")
        return differential(
            self.model,
            handed.new.rows,
            *members(labels, a, b),
            names=self.schema.element_names,
            groups=(a, b or "others"),
        )

    def _evidence(
        self, parts: Sequence[Any], num_samples: int, seed: int, tell: Telling
    ) -> list[RowEvidence]:
        """Returns log p(x) of each row of each part by the method that it needs."""
        firsts = []
        with tell.progress("scoring", sum(map(len, parts))) as advance:
            for x in parts:
                blocks = []
                for block in importance_blocks(self.model, x, num_samples, seed=seed):
                    blocks.append(block)
                    advance(len(block.ess), "")
                firsts.append(Evidence.concatenate(blocks))
        return settle_together(self.model, parts, firsts, seed=seed)

    def _handed(self, data: Source | None) -> Handed:
        """Returns data of the user checked and coded, or the rows that were held out."""
        if data is None:
            return Handed(None, self._held_out(), self.schema, self.like)
        new = new_data(self, data)
        for note in new.notes:
            Telling().line(note)
        return Handed(data, new, self.schema, self.like)

    def _held_out(self) -> New:
        raise UsageError("this model has no run folder that says what it held out: give data")

    def _joined(self, rows: Any, modelled: Tensor) -> Tensor:
        """Returns whole rows: what the model is conditioned on as it was, the rest as given."""
        whole = torch.cat(list(rows.split(4096))).to(modelled)
        whole[:, self.schema.rest] = modelled
        return whole

    def _cells(self, x: Any, num_samples: int, seed: int) -> dict[str, Tensor]:
        if len(self.schema.event_shape) != 1:
            raise UsageError("cells=True is for rows of columns, not for images")
        scores = cells.cell_scores(self.model, x, num_samples, seed=seed)
        result = {}
        for i, name in enumerate(self.schema.element_names):
            result[f"log_p({name})"] = scores.value[:, i]
            result[f"log_p_error({name})"] = scores.error[:, i]
            result[f"log_p_reliable({name})"] = scores.reliable[:, i]
        return result


def score_columns(rows: RowEvidence) -> dict[str, Any]:
    """Returns what is known of each row, (N,) by name: ``SCORES``."""
    first = {name: getattr(rows.first, name) for name in ("ess", "khat", "elbo")}
    own = {name: getattr(rows, name) for name in SCORES if name not in first}
    return own | {"method": rows.methods} | first


def new_data(fitted: Fitted, source: Source, key: str | None = None) -> New:
    """Returns data that a model has not seen, checked against its schema and its
    likelihood's support.
    """
    # of the file itself
    options = dataclasses.replace(fitted.config.data, delimiter=None, stream=None)
    try:
        new = check_against(
            source,
            fitted.schema,
            key=key,
            options=options,
            binarize=fitted.config.data.binarize,
            seed=fitted.data_seed,
        )
    except DataError as error:
        raise DataError([_read_as_trained(line) for line in error.problems]) from None
    if isinstance(fitted.model, StepwiseModel) and not fitted.model.conditionals:
        _check_whole(fitted, new, source)
    latent = _some_latent(fitted.model, new.rows[:1])
    found = unsupported(fitted.model, new.rows, latent, fitted.schema, new=True)
    if found is None:
        return new
    problem, places = found
    name = shown(str(source)) if isinstance(source, str | Path) else "the data"
    odd = tuple(places[:, 0].unique().tolist())
    if (
        not isinstance(new.rows, Tensor)
        or new.rows.dim() > 2
        or len(odd) > max(MANY, len(new.rows)) / 2
    ):
        raise DataError(
            f"{name}: {problem}: the model gives them no probability; correct them, or train a "
            "model of such values"
        )
    rows = new.rows.to(torch.get_default_dtype()).clone()
    rows[places[:, 0], places[:, 1]] = torch.nan
    line = (
        f"{name}: {problem}: log p(x) of {len(odd)} rows is minus infinity, and elsewhere these "
        f"values are read as missing"
    )
    return new._replace(rows=rows, notes=(*new.notes, line), impossible=odd)


def _check_whole(fitted: Fitted, new: New, source: Source) -> None:
    """Refuses rows with gaps where a model is of whole rows: the bound of such a row would count
    the noise that its gaps are drowned in.
    """
    if not isinstance(new.rows, Tensor):
        return
    gaps = new.rows.isnan().flatten(1).any(1).nonzero()[:, 0]
    if not len(gaps):
        return
    name = shown(str(source)) if isinstance(source, str | Path) else "the data"
    raise DataError(
        (
            *new.notes,
            f"{name}: {len(gaps)} of {len(new.rows)} rows have gaps, the first of them row "
            f"{int(gaps[0])} (from 0), and {fitted.config.model.model} is of whole rows: fill or "
            "omit them, or train --model 'MaskedDiffusion()', which is made of gaps",
        )
    )


def _read_as_trained(line: str) -> str:
    """Returns a line about a file that names no way out which there is not: what reads a run's new
    data has no options for reading.
    """
    if OF_READING.search(line) is None:
        return line
    return (
        f"{line}; that is an option of `taut fit`, and new data are read as those of the training "
        "were: save the file like that one"
    )


def _some_latent(model: Model, x: Any) -> Tensor:
    """Returns a latent point of a row, (1, D)."""
    if isinstance(model, StepwiseModel):
        return torch.zeros(1, model.size)
    if isinstance(model, ExactModel):
        with torch.no_grad():
            return model.latent_prior().sample(torch.Size((1,)))
    return tasks.encode(model, x).to(torch.get_default_dtype())
