"""The audit: how good is the model, how loose its bound, why, and what would buy the next nat.

Each section of ``taut.evidence.section.sections()`` is measured on the same data, in the order of
importance; one that was not measured is None, and ``missing`` says why: an empty reason means that
it is for models or data of another kind. Sections that go block by block stop between two blocks
and report on what is done. The result is plain values: ``audit.json``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from taut.evidence import doctor
from taut.evidence.clock import Clock, Report
from taut.evidence.columns import ColumnFacts
from taut.evidence.section import (
    LATE,
    NEEDS,
    Effort,
    Scene,
    Section,
    UnmeasuredError,
    sections,
)
from taut.model import Model
from taut.models.stepwise import StepwiseModel
from taut.system.defaults import never, silent
from taut.system.parallel import agreed
from taut.types import Data, PerDatum
from taut.use.door import takes_model_and_data

__all__ = ["Effort", "audit", "measure", "summary"]

CONDITIONED = (
    "the model is conditioned on a context, which the data give: what needs data of its own making "
    "is omitted"
)
NOTHING_TO_DO: tuple[str, ...] = ("", NEEDS["approximation"])
ENDS = {"time": "the time was up before it", "stopped": "the audit was stopped before it"}


@takes_model_and_data("taut.audit", "audit()")
def audit(
    model: Model,
    x: Data,
    *,
    train: Tensor | None = None,
    groups: Tensor | None = None,
    baseline: PerDatum | None = None,
    exact: tuple[str, PerDatum] | None = None,
    levels: tuple[float, float] | None = None,
    columns: ColumnFacts | None = None,
    labels: tuple[Any, Any] | None = None,
    fitted: Mapping[str, Any] | None = None,
    richer: Mapping[str, Callable[[], Model]] | None = None,
    effort: Effort | None = None,
    seed: int = 0,
    stop: Callable[[], bool] = never,
    report: Report = silent,
) -> dict[str, Any]:
    r"""Returns the audit of a model on held-out data as plain values, in nats per data point.

    Args:
        model: The model.
        x: Held-out data, (N, \*event).
        train: Training data, (M, \*event), for what only they can tell; None where they are not at
            hand.
        groups: The group of equal rows of each data point, (N,), where there are copies: see
            ``Estimate.of``.
        baseline: log p(x) under independent marginals, (N,).
        exact: The specification of an exact model that was fitted to the same data, and log p(x)
            under it, (N,): another baseline.
        levels: Values shown black and white, where the data are images.
        columns: Names and marginals of the columns, where the data are rows of columns.
        labels: Of the training data, (M,), and of the held-out data, (N,): numbers or texts.
        fitted: What was measured after the training on the rows that x was drawn from, as
            ``evaluation.json`` has it.
        richer: Makes the model with a richer posterior that starts at its own, by the
            specification: those that are tried where the family of the posterior is the limit.
        effort: How much work.
        seed: The same seed gives the same numbers.
        stop: Asked between blocks; true ends the audit with what is done.
        report: Told the stage, how much of it is done, and how far the whole is.

    Returns:
        ``num_data``, each section by its name (None where it was not measured), ``stopped``,
        ``notes``, ``missing`` (the reasons) and ``findings``.

    Raises:
        ValueError: there are no data.
    """
    if not len(x):
        raise ValueError("an audit needs at least one data point")
    effort = effort or Effort()
    clock = Clock(effort.minutes, stop, report)
    scene = Scene(model, x, train, groups, baseline, levels, effort, seed, clock, exact=exact)
    scene.columns, scene.labels, scene.fitted = columns, labels, fitted
    scene.richer = richer or {}
    for _ in measure(scene):
        pass
    return summary(scene)


def measure(scene: Scene) -> Iterator[tuple[str, Section | None]]:
    """Yields the name of each section and what was found, as soon as it is measured."""
    scene.clock.expect({s.stage: s.work(scene) for s in sections() if _comes(s, scene)})
    for section in sections():
        found = _measured(section, scene)
        scene.results[section.name] = found
        yield section.name, found


def _comes(section: type[Section], scene: Scene) -> bool:
    """Returns whether a section has a stage that will be run, as far as that is known before."""
    known = [scene.lacks(need) for need in section.needs if need in NEEDS]
    return bool(section.stage) and not any(why is not None for why in known)


def _measured(section: type[Section], scene: Scene) -> Section | None:
    lacks = section.lacks(scene)
    nothing = NOTHING_TO_DO
    if isinstance(scene.model, StepwiseModel):
        nothing = (*NOTHING_TO_DO, scene.model.fixed)
    if section.stage and lacks not in nothing:
        there = scene.clock.stage(section.stage, section.share)
    else:
        scene.clock.share += section.share
        there = section.always or not scene.clock.over()
    if lacks is not None:
        scene.reasons[section.name] = lacks
        if "simulation" in section.needs and scene.lacks("simulation") is not None:
            scene.note(CONDITIONED)
        return None
    if not there and not section.always:
        scene.reasons[section.name] = LATE
        return None
    try:
        found = section.run(scene)
    except UnmeasuredError as error:
        scene.reasons[section.name] = str(error)
        scene.note(f"no {section.name}: {error}")
        return None
    if found is None:
        scene.reasons[section.name] = ""
    return found


def summary(scene: Scene) -> dict[str, Any]:
    """Returns what was found in a scene as plain values, with the findings."""
    stopped = None
    if scene.clock.cut:
        stopped = "stopped" if agreed(scene.clock.word()) else "time"
    told = [s.name for s in sections() if s.told and scene.results[s.name] is None]
    reasons = {name: scene.reasons[name] for name in told}
    result = {
        "num_data": len(scene.x),
        **{n: None if f is None else f.to_dict() for n, f in scene.results.items()},
        "stopped": stopped,
        "notes": scene.notes,
        "missing": {n: ENDS[stopped or "time"] if r == LATE else r for n, r in reasons.items()},
    }
    result = _finite(result)
    return {**result, "findings": doctor.diagnose(result)}


def _finite(value: Any) -> Any:
    """Returns plain values with None for every number that is none: JSON has no infinity."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
