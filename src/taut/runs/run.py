"""A run that can do things: what ``taut.load`` and ``taut.fit`` return."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from taut.runs import folder, looks
from taut.runs.carry_out import carry_out
from taut.runs.fitted import Source, new_data
from taut.runs.folder import Stored
from taut.runs.refit import refit
from taut.runs.telling import Telling
from taut.system.errors import UsageError, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from taut.evidence.audit import Effort
    from taut.runs.disentangle import Disentangled
    from taut.runs.meaning import Traversal

__all__ = ["Run", "load"]


@dataclass(eq=False, repr=False, kw_only=True)
class Run(Stored):
    """Creates a fitted model that has a run folder.

    ``load`` and ``taut.fit`` return one. What is done without data is done with the rows that it
    held out.

    Args:
        path: The folder.
        info: What is in its ``run.json``.
        kept: The data of its training, where this session trained it on data in memory.
    """

    def __repr__(self) -> str:
        return looks.in_four_lines(self)

    def _repr_html_(self) -> str:
        return looks.as_html(self)

    def refit(
        self,
        prior: str = "Flow()",
        out: str | Path | None = None,
        *,
        verbose: bool | None = None,
        **settings: Any,
    ) -> Run:
        """Returns a new run with another prior, fitted to the codes of the training rows under the
        same encoder and decoder; ``evaluation()["gain_of_prior"]`` says what it gained.

        Args:
            prior: Specification of the prior, such as "GaussianMixture(components=50)".
            out: The folder to make; by default the next free one below runs/.
            verbose: Whether to tell of the progress; by default in terminals and notebooks.
            **settings: ``source``, ``test``, ``overwrite`` and any setting of the training, such as
                ``max_epochs``.

        Raises:
            UsageError: a prior that learns nothing or is over another space, a setting is wrong,
                or the model is exact.
            DataError: the data are not what the model was trained on.
        """
        threads_before, tell = torch.get_num_threads(), Telling(verbose)
        try:
            stored, data, state = refit(self, out, prior=prior, **settings)
            stored.kept, stored.like = self.kept, self.like
            carry_out(stored, data, state, tell)
        finally:
            torch.set_num_threads(threads_before)
        return able(stored)

    def audit(
        self,
        data: Source | None = None,
        *,
        num_data: int = 1000,
        effort: Effort | None = None,
        seed: int = 0,
        verbose: bool | None = None,
    ) -> dict[str, Any]:
        """Returns how good the model is, how loose its bound, why, and what would buy the next nat;
        writes ``audit.json`` and ``report.html``.

        Args:
            data: Data to audit it on; by default the rows that it held out.
            num_data: Rows that are looked at, drawn at random if there are more.
            effort: How much work.
            seed: The same seed gives the same numbers.
            verbose: Whether to tell of the progress; by default in terminals and notebooks.

        Raises:
            UsageError: it was trained on data in memory and none are given.
            DataError: the data are not what the model was trained on, or have changed.
        """
        from taut.runs.audit import audit_run

        with Telling(verbose).stages() as report:
            found = audit_run(
                self, data, num_data=num_data, effort=effort, seed=seed, report=report
            )
        return looks.Audited(found)

    def disentangle(
        self,
        data: Source | None = None,
        factors: Any = None,
        *,
        others: Sequence[Run] = (),
        num_data: int = 2000,
        seed: int = 0,
    ) -> Disentangled:
        """Returns what the latent dimensions separate: scores of disentanglement with their
        ceilings, chance levels and errors, and how the rate splits.

        Args:
            data: Data like those of the training; by default all rows of it.
            factors: What is known of each row: a table with a line for each (a file or a frame),
                names of columns of the data, or columns of values by name.
            others: Other runs of the same data, to rank by how nearly all found the same
                dimensions.
            num_data: Rows to look at, drawn at random if there are more.
            seed: The same seed gives the same numbers.

        Raises:
            UsageError: the model has no latent vector, or there is no such column.
            DataError: there are fewer than 40 rows, or factors for another number.
        """
        from taut.runs.disentangle import disentangle, own_source

        source = own_source(self) if data is None else data
        return disentangle(
            self,
            source,
            new_data(self, source),
            factors,
            [(other, new_data(other, source)) for other in others],
            num_data=num_data,
            seed=seed,
        )

    def report(self) -> Path:
        """Writes ``report.html`` of the last audit again, and returns its path.

        Raises:
            UsageError: it was not audited.
        """
        from taut.runs.audit import write_report

        if not (self.path / "audit.json").exists():
            raise UsageError(f"{shown(self.path)} was not audited: run.audit() first")
        return write_report(self)

    def picture(
        self,
        kind: str,
        data: Source | None = None,
        *,
        colour: Any = None,
        by: str = "rates",
        dimensions: Sequence[int] | None = None,
        draw: bool = False,
        seed: int = 0,
    ) -> Figure:
        """Returns a figure of matplotlib: a "map" of the rows in the latent plane, a "traversal" of
        each dimension, the rate-distortion "curve" of the decoder, or the "history" of the
        training.

        Args:
            kind: Which of the four.
            data: Data like those of the training; by default the rows that it held out.
            colour: What a map is coloured by: a column of the data, a file, or values by name.
            by: The plane of a map: "rates", "pca" or "umap".
            dimensions: Of a traversal, or the two of a map.
            draw: Whether a traversal draws from p(x|z) instead of its mean.
            seed: The same seed gives the same picture.

        Raises:
            UsageError: another kind, or nothing to draw.
            DataError: the data are not what the model was trained on.
        """
        from taut.runs.meaning import picture

        new = None
        if kind != "history":
            new = self._held_out() if data is None else new_data(self, data)
        options = {"colour": colour, "by": by, "dimensions": dimensions, "draw": draw}
        return picture(self, kind, data, new, **options, seed=seed)

    def traversal(
        self,
        data: Source | None = None,
        *,
        dimensions: Sequence[int] | None = None,
        steps: int = 7,
        draw: bool = False,
        seed: int = 0,
    ) -> Traversal:
        """Returns what the decoder makes of points along latent dimensions, in the order of their
        rates: ``values``, ``moved()`` and ``figure()``.

        Args:
            data: Data like those of the training; by default the rows that it held out.
            dimensions: Their numbers; by default the six of the highest rate.
            steps: Points along each.
            draw: Whether to draw from p(x|z) instead of its mean.
            seed: The same seed gives the same draws.
        """
        from taut.runs.meaning import traversal

        new = self._held_out() if data is None else new_data(self, data)
        return traversal(self, new, dimensions=dimensions, steps=steps, draw=draw, seed=seed)

    def jacobian(self, data: Source | None = None, *, seed: int = 0) -> torch.Tensor:
        r"""Returns how the mean of each entry moves with each latent dimension, (D, \*event), the
        mean over the rows, in the user's units.

        Args:
            data: Data like those of the training; by default the rows that it held out.
            seed: Which rows are looked at, if there are more than 2,000.
        """
        from taut.runs.meaning import jacobian

        return jacobian(self, self._held_out() if data is None else new_data(self, data), seed=seed)

    def plot(self) -> Figure:
        """Returns a figure of matplotlib: the bound in training, and of images also samples."""
        return looks.plot(self)


def able(stored: Stored) -> Run:
    """Returns a stored run that can do things."""
    return Run(**{field.name: getattr(stored, field.name) for field in dataclasses.fields(stored)})


def load(path: str | Path, *, trust: Sequence[str] = ()) -> Run:
    """Returns a finished run, its model in evaluation mode.

    Args:
        path: The run folder.
        trust: Outside modules that the run may import for the parts it names.

    Raises:
        StorageError: a file is missing or damaged, or the folder is not a finished run.
        UsageError: the run names an outside module that is not trusted.
    """
    return able(folder.load(path, trust=trust))
