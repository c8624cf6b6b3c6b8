"""The sections of an audit: one class each, which measures it, keeps it and says it.

A section is a subclass of ``Section`` in a module of this folder, and nothing else: the audit
measures all that it finds there, in their ``order``; terminal, report, doctor and the table of
types of ``audit.json`` go over the same list. The class says what the section needs and measures
it (``run``), an instance is what was found: plain values, those of ``audit.json``, with their rows,
sentences, warnings and findings. So what was read from a file is shown as what was just measured.
"""

from __future__ import annotations

import abc
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from taut.data.tables.column import Column
from taut.evidence.clock import Clock
from taut.evidence.finding import Finding
from taut.evidence.results import Estimate, both
from taut.evidence.text import ABSENT, UNKNOWN, error_of, number
from taut.models.exact import ExactModel
from taut.models.masked_diffusion import MaskedDiffusion
from taut.models.stepwise import StepwiseModel
from taut.system import records

if TYPE_CHECKING:
    from torch import Tensor

    from taut.evidence.annealing import Annealed
    from taut.evidence.best import Best
    from taut.evidence.gaps import Optima
    from taut.evidence.results import Evidence
    from taut.model import Model
    from taut.types import PerDatum

__all__ = [
    "CHAPTERS", "ColumnFacts", "Effort", "Row", "Scene", "Section", "Table", "UnmeasuredError",
    "both", "chapters", "found", "sections", "shape", "shown",
]  # fmt: skip

T = TypeVar("T")
CHAPTERS = {  # the questions that an audit answers
    "good": "How good is it?",
    "tasks": "How good is it at the task?",
    "loose": "How loose is the bound?",
    "why": "Why?",
    "samples": "Samples",
}
NEEDS = {  # what a section may need, and the reason where it is not there
    "train": "the training data are not at hand",
    "images": "",
    "columns": "",
    "labels": "",
    "simulation": "the model is conditioned and makes no data of its own",
    "approximation": "the posterior is exact: every gap is zero",
    "code": "",
    "conditionals": "the model has no conditionals of single entries",
}
OF_STEPS = ("approximation", "code", "conditionals")  # of which a model of many steps has none
LATE = "late"  # stands for a reason until it is known what ended the audit
NATS = ("quantity", "nats per {}", "± Monte Carlo", "± test set")


@dataclass(frozen=True)
class Effort:
    """How much work an audit is.

    Args:
        num_samples: K of importance sampling.
        num_chains: C of annealing.
        max_temperatures: Largest T of annealing.
        optimum_steps: Steps toward the best posterior of each data point.
        simulated: Data points that the model makes, to be sandwiched between both directions of
            annealing.
        naive: Data points on which the prior is tried as proposal.
        train: Rows of training that the prior is fitted to and that overfitting and copies are
            looked for in.
        samples: Samples compared with real data.
        task_seconds: CPU time for the tasks, about: fewer rows where a model is large, and none of
            a task that takes more.
        minutes: Time for all of it.
    """

    num_samples: int = 5000
    num_chains: int = 16
    max_temperatures: int = 400
    optimum_steps: int = 200
    simulated: int = 100
    naive: int = 100
    train: int = 10_000
    samples: int = 1000
    task_seconds: float = 30.0
    minutes: float | None = None


class ColumnFacts(NamedTuple):
    """What is known of the modelled columns of rows.

    Args:
        names: Their names, (C,).
        marginals: log p of each entry under the marginal of its column, (N, C); 0 where missing.
        facts: Of a table, the kind of each column, what it was read as, and the share missing.
        word: What a column is called.
        kinds: Words of their kinds, such as "real" or "category"; real numbers if it is empty.
        columns: Of a table, the columns themselves, which know how values are written.
    """

    names: Sequence[str]
    marginals: Tensor
    facts: Sequence[tuple[str, str, str]] = ()
    word: str = "column"
    kinds: Sequence[str] = ()
    columns: Sequence[Column] = ()


@dataclass
class Scene:
    r"""What the sections of an audit look at, and what the earlier ones leave for the later ones.

    Args:
        model: The model.
        x: Held-out data, (N, \*event); from the first section on those that it came to.
        train: Training data, (M, \*event), where they are at hand.
        groups: The group of equal rows of each data point, (N,): see ``Estimate.of``.
        baseline: log p(x) under independent marginals, (N,).
        exact: The specification of an exact model that was fitted to the same data, and log p(x)
            under it, (N,).
        levels: Values shown black and white, where the data are images.
        effort: How much work.
        seed: The same seed gives the same numbers.
        clock: When to stop.
        results: What was found so far, by the name of the section; None where it was not measured.
        reasons: Why it was not.
        notes: What else there is to say.
        evidence: Importance sampling from the encoder's posterior.
        annealed: Annealing.
        optima: The best posteriors of the first data points, block by block.
        best: log p(x) of the first data points by the first reliable method.
        columns: What is known of the columns, where the data are rows of columns.
        labels: Of the training data, (M,), and of the held-out data, (N,), where the source has
            any: numbers or texts.
        fitted: What was measured after the training on the rows that x was drawn from, as
            ``evaluation.json`` has it.
        richer: Makes the model with a richer posterior that starts at its own, by the
            specification.
    """

    model: Model
    x: Tensor
    train: Tensor | None = None
    groups: Tensor | None = None
    baseline: PerDatum | None = None
    levels: tuple[float, float] | None = None
    effort: Effort = field(default_factory=Effort)
    seed: int = 0
    clock: Clock = field(default_factory=Clock)
    results: dict[str, Section | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    evidence: Evidence | None = None
    annealed: Annealed | None = None
    optima: list[Optima] = field(default_factory=list)
    best: Best | None = None
    exact: tuple[str, PerDatum] | None = None
    columns: ColumnFacts | None = None
    labels: tuple[Any, Any] | None = None
    fitted: Mapping[str, Any] | None = None
    richer: Mapping[str, Callable[[], Model]] = field(default_factory=dict)

    def lacks(self, need: str) -> str | None:
        """Returns why something that a section needs is not there; None where it is."""
        there = {
            "train": self.train is not None,
            "images": self.levels is not None,
            "columns": self.columns is not None,
            "labels": self.labels is not None,
            "simulation": self.model.condition is None,
            "approximation": not isinstance(self.model, ExactModel),
            "code": True,
            "conditionals": True,
        }
        if need in OF_STEPS and isinstance(self.model, StepwiseModel):
            if need != "conditionals":
                return self.model.fixed
            return None if isinstance(self.model, MaskedDiffusion) else NEEDS[need]
        if need in there:
            return None if there[need] else NEEDS[need]
        return self.reasons[need] if self.results[need] is None else None

    def note(self, line: str) -> None:
        """Adds a note, once."""
        if line not in self.notes:
            self.notes.append(line)


class UnmeasuredError(Exception):
    """Says that a section cannot be measured on this model, and why: one line."""

    def __init__(self, why: object) -> None:
        super().__init__(str(why).partition("\n")[0])


class Row(NamedTuple):
    """A quantity with its errors.

    Args:
        title: What it is, on the page.
        estimate: The estimate as plain values; None where it was not measured.
        depth: How far it is indented: a part of what stands above it.
        brief: What it is called on the terminal; empty where it is not shown there.
        chapter: The chapter whose first table shows it; empty for the section's own table.
    """

    title: str
    estimate: Mapping[str, Any] | None
    depth: int = 0
    brief: str = ""
    chapter: str = ""

    def cells(self) -> list[str]:
        """Returns value and errors as text."""
        if not self.estimate:
            return [ABSENT]
        value, mc, test = (self.estimate.get(k) for k in ("value", "mc_error", "test_error"))
        if value is None:
            return [UNKNOWN]
        errors = ["–" if e is None else number(e, e) for e in (mc, test)]
        return [number(value, error_of(self.estimate)), *errors]


class Table(NamedTuple):
    """A table of texts: the title of each line, how far it is indented, and its cells."""

    label: str
    columns: Sequence[str]
    lines: Sequence[tuple[str, int, Sequence[str]]]


class Section(abc.ABC):
    """A section of the audit: the class measures it, an instance is what was found.

    Args:
        values: Plain values, as they stand in ``audit.json``.
        noun: What the data points are called: "row", "image", "cell".
        run_parts: The specifications of the parts of the run, see ``taut.evidence.remedies``; empty
            for a model that is not a run.
    """

    name: ClassVar[str]  # its key in audit.json
    title: ClassVar[str]  # its heading; an empty one has no block of its own
    chapter: ClassVar[str]  # of CHAPTERS
    order: ClassVar[float]  # when it is measured: the most important first
    place: ClassVar[float | None] = None  # where it stands in its chapter, if not in that order
    needs: ClassVar[tuple[str, ...]] = ()  # of NEEDS, and names of other sections
    stage: ClassVar[str] = ""  # what the progress shows; an empty one goes on in the last stage
    share: ClassVar[float] = 0.0  # of the time
    always: ClassVar[bool] = False  # measured whatever the time is
    told: ClassVar[bool] = True  # whether its absence is said
    absent: ClassVar[str] = ""  # what is said of it where it is for other models or data
    references: ClassVar[tuple[str, ...]] = ()  # keys of taut.references
    caption: ClassVar[str] = ""  # of its figure; "{noun}" is what a data point is called
    shape: ClassVar[Any] = {}  # of its values in audit.json: see taut.system.records
    required: ClassVar[bool] = False  # whether a file without it is damaged
    divergences: ClassVar[tuple[str, ...]] = ()  # values that are never below zero, nor shown so

    def __init__(
        self,
        values: Mapping[str, Any],
        noun: str = "data point",
        run_parts: Mapping[str, Any] | None = None,
    ) -> None:
        self.values, self.noun, self.run_parts = values, noun, run_parts or {}

    @classmethod
    @abc.abstractmethod
    def run(cls, scene: Scene) -> Section | None:
        """Measures it; None where there is nothing to measure.

        Raises:
            UnmeasuredError: it cannot be measured on this model.
        """

    @classmethod
    def lacks(cls, scene: Scene) -> str | None:
        """Returns why it cannot be measured: the first thing that it needs and that is not there.

        An empty text says that it is for other models or data.
        """
        return next((why for need in cls.needs if (why := scene.lacks(need)) is not None), None)

    @classmethod
    def work(cls, scene: Scene) -> float:
        """Returns how much work its stage is, in evaluations of p(x, z) by importance sampling:
        roughly, to foretell the time that is left.
        """
        return 0.0

    @classmethod
    def stands(cls) -> float:
        """Returns where it stands in its chapter."""
        if cls.place is None:
            return cls.order
        return cls.place

    def __getitem__(self, key: str) -> Any:
        if key in self.divergences:
            return at_least_zero(self.values[key])
        return self.values[key]

    def get(self, key: str) -> Any:
        """Returns a value, None where there is none."""
        return self[key] if key in self.values else None

    def rows(self) -> list[Row]:
        """Returns its quantities with their errors, in nats per data point."""
        return []

    def tables(self) -> list[Table]:
        """Returns the tables of its block: its rows, if it has no others."""
        own = [row for row in self.rows() if not row.chapter]
        if not own:
            return []
        return [nats(self.title, own, self.noun)]

    def legend(self) -> str:
        """Returns the caption of its figure."""
        return self.caption.format(noun=self.noun)

    def text(self) -> list[str]:
        """Returns what is said above its figure and tables, a paragraph each."""
        return []

    def small(self) -> list[str]:
        """Returns what is said below them."""
        return []

    def line(self) -> str:
        """Returns what the terminal says next to the rows; nothing if it is empty."""
        return ""

    @property
    def warnings(self) -> list[str]:
        """What keeps the numbers from being believed, a line each."""
        lines: list[str] = self.values.get("warnings") or []
        return lines

    def findings(self, others: Mapping[str, Section]) -> Iterator[Finding]:
        """Yields what is worth changing, by these numbers and those of the other sections."""
        yield from ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the plain values of ``audit.json``."""
        return dict(self.values)

    def __str__(self) -> str:
        lines = [self.title or self.name.replace("_", " ")]
        for row in self.rows():
            value = " ± ".join(cell for cell in row.cells() if cell != "–")
            lines.append(f"  {'  ' * row.depth}{row.title}: {value}")
        for table in self.tables():
            if not self.rows():
                lines += [
                    f"  {'  ' * depth}{title}: {', '.join(cells)}"
                    for title, depth, cells in table.lines
                ]
        lines += [f"  {line}" for line in [*self.text(), *self.small()]]
        return "\n".join(lines + [f"  warning: {line}" for line in self.warnings])


def nats(label: str, rows: Sequence[Row], noun: str) -> Table:
    """Returns rows as a table."""
    columns = [column.format(noun) for column in NATS]
    return Table(label, columns, [(row.title, row.depth, row.cells()) for row in rows])


def at_least_zero(estimate: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Returns an estimate of what is never negative.

    One below zero is zero where that is within two of its errors, else not known.
    """
    if estimate is None or estimate["value"] is None or estimate["value"] >= 0:
        return estimate
    rounding = 1e-6  # of values that are equal
    near = -estimate["value"] <= max(2 * (error_of(estimate) or 0.0), rounding)
    return {**estimate, "value": 0.0 if near else None}


def minus(a: Estimate, b: Estimate) -> dict[str, float | None]:
    """Returns the difference of means over different data, whose errors are independent."""
    errors = both(a.mc_error, b.mc_error), both(a.test_error, b.test_error)
    return Estimate(a.value - b.value, *errors).to_dict()


def sections() -> list[type[Section]]:
    """Returns all sections in the order in which they are measured."""
    _import_all()
    return sorted(_below(Section), key=lambda section: section.order)


@cache
def _import_all() -> None:
    """Imports the modules of this folder, so that their sections are known."""
    folder = importlib.import_module("taut.evidence")
    for module in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"taut.evidence.{module.name}")


def _below(base: Any) -> list[type[Section]]:
    inner = [found for each in base.__subclasses__() for found in _below(each)]
    if inspect.isabstract(base):
        return inner
    return [base, *inner]


def found(audit: Mapping[str, Any]) -> dict[str, Section]:
    """Returns the sections of an audit, given as plain values, that were measured, by name.

    They stand in the order of the page: chapter by chapter.
    """
    noun = str((audit.get("data") or {}).get("each") or "data point")
    parts = audit.get("model")
    return {s.name: s(audit[s.name], noun, parts) for s in shown() if audit.get(s.name) is not None}


def shown() -> list[type[Section]]:
    """Returns all sections in the order in which they are shown."""
    order = list(CHAPTERS)
    return sorted(sections(), key=lambda s: (order.index(s.chapter), s.stands()))


def chapters(sections: Mapping[str, Section]) -> dict[str, list[Row]]:
    """Returns the rows of each chapter, in the order in which they are shown."""
    rows: dict[str, list[Row]] = {chapter: [] for chapter in CHAPTERS}
    for section in sorted(sections.values(), key=lambda section: section.stands()):
        for row in section.rows():
            rows[row.chapter or section.chapter].append(row)
    return rows


def shape() -> dict[str, Any]:
    """Returns the table of types of ``audit.json``: see ``taut.system.records``."""
    return {
        **records.AUDIT,
        **{s.name if s.required else f"{s.name}?": s.shape for s in sections()},
    }
