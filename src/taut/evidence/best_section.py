"""What an audit says of log p(x) by the first reliable method of each data point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from taut.evidence.best import METHODS, Best, best, log_evidence, settled
from taut.evidence.finding import RELIABLE, Finding
from taut.evidence.results import some_rows
from taut.evidence.rows import settle
from taut.evidence.section import Row, Scene, Section, at_least_zero
from taut.evidence.text import error_of, number, plus_minus, share
from taut.models.exact import ExactModel
from taut.models.stepwise import StepwiseModel
from taut.system.records import COUNT, ESTIMATE, NUMBER, Each

__all__ = ["LogEvidence", "choose"]

CLOSE = 0.05  # nats between two methods that matter to nobody


def choose(scene: Scene) -> Best:
    """Returns the best estimates of a scene, and keeps them there."""
    assert scene.evidence is not None
    if isinstance(scene.model, ExactModel | StepwiseModel):
        found = settle(scene.model, scene.x, scene.evidence)
        scene.best = (found.log_evidence, found.log_evidence_error, found.method, found.reliable)
    if scene.best is None:
        scene.best = best(scene.evidence, scene.annealed, scene.optima)
        if not scene.clock.over():
            scene.best = settled(scene.model, scene.x, scene.evidence, scene.best, scene.seed)
    return scene.best


class LogEvidence(Section):
    """log p(x) of all data points by the first reliable method of each."""

    name, title, chapter = "log_evidence", "", "good"
    order, place, always, required = 60, -1, True, True
    shape: ClassVar = {
        **ESTIMATE,
        "num_data": COUNT,
        "num_unknown?": COUNT,
        "by": Each(COUNT),
        "reliable_share?": NUMBER,
        "above_importance?": ESTIMATE,
    }

    @classmethod
    def run(cls, scene: Scene) -> Section:
        assert scene.evidence is not None
        best = choose(scene)
        found = cls(log_evidence(scene.evidence, best, scene.groups))
        if not bool(best[0].isfinite().all()):
            scene.note(some_rows(~best[0].isfinite()))
        sampled = scene.results["evidence"]
        if sampled is not None and (line := _more_precise(sampled, found)):
            scene.note(line)
        return found

    def rows(self) -> list[Row]:
        return [Row("log p(x)", self.values, brief="log p(x)", chapter="good")]

    def methods(self) -> str:
        """Returns how many rows each method gave."""
        by = self["by"].items()
        return ", ".join(f"{METHODS.get(n, n)} for {number(count)}" for n, count in by if count)

    def line(self) -> str:
        known = self.get("reliable_share")
        return f"log p(x) is by {self.methods()}; reliable for {share(known)} of the {self.noun}s"

    def believed(self, others: Mapping[str, Section]) -> str:
        """Returns in one sentence whether log p(x) can be believed."""
        known = self.get("reliable_share")
        if known is None:
            return "Not known: how many of the numbers are reliable was not kept."
        where = f"log p(x) of {share(known)} of the {self.noun}s is reliable"
        if known < RELIABLE / 2:
            return f"No: {where}. For the others it is a lower bound, maybe a loose one."
        if known < RELIABLE:
            return f"In part: {where}. For the others it is a lower bound."
        methods = {name for name, count in self["by"].items() if count}
        if methods == {"exact"}:
            return f"Yes: log p(x) of each {self.noun} is exact, without a Monte Carlo error."
        if methods == {"enumeration"}:
            return f"Yes: log p(x) of each {self.noun} is exact by enumeration."
        checks = [*self._agreement(), *_width(others.get("sandwich"))]
        return f"Yes: {where}{''.join(f', {line}' for line in checks)}."

    def _agreement(self) -> list[str]:
        """Returns how log p(x) compares with importance sampling alone, where it is by another
        method.
        """
        above = self.get("above_importance")
        others = [name for name, count in self["by"].items() if count and name != "importance"]
        if not above or above["value"] is None or not others:
            return []
        if abs(above["value"]) <= max(2 * (error_of(above) or 0.0), CLOSE):
            return ["it agrees with importance sampling"]
        side = "above" if above["value"] > 0 else "below"
        return [f"it lies {side} importance sampling alone"]

    def findings(self, others: Mapping[str, Section]) -> Iterator[Finding]:
        if count := self.get("num_unknown"):
            yield Finding(
                "rows without a number",
                None,
                None,
                "",
                "log p(x) of some rows is not a finite number",
                f"{count} of {self['num_data']} rows: the model gives them no probability, or its "
                f"numbers overflow for them",
                "look at these rows: their columns log_evidence and elbo in scores.csv",
                "taut score RUN",
            )
        known = self.get("reliable_share")
        if known is None or known >= RELIABLE:
            return
        evidence = others.get("evidence")
        curve = (evidence.get("curve") if evidence is not None else None) or []
        values = [c["value"] for c in curve if c["value"] is not None]
        rise = values[-1] - values[-2] if len(values) > 1 else 0.0
        yield Finding(
            "too few samples",
            max(rise, 0.0),
            None,
            "",
            "log p(x) itself is not known well: what is reported is a lower bound",
            f"the estimate is reliable for {known:.0%} of the {self.noun}s; the bound still "
            f"rose by {rise:.2f} nats with "
            "the last samples",
            "more samples and temperatures",
            "taut audit RUN --num-samples 50000 --max-temperatures 4000",
        )


def _width(sandwich: Section | None) -> list[str]:
    """Returns how far the two bounds of annealing lie apart, where that is known."""
    width = None if sandwich is None else at_least_zero(sandwich["width"])
    if width is None or width["value"] is None:
        return []
    return [f"and annealing's two bounds on simulated data lie {plus_minus(width)} nats apart"]


def _more_precise(sampled: Section, chosen: Section) -> str:
    """Returns a note where importance sampling is reliable and much more precise than what the
    fixed order of methods chose.
    """
    share, one, two = sampled["khat"]["reliable_share"], sampled["log_evidence"], chosen.values
    errors = one["mc_error"], two["mc_error"]
    unknown = share is None or None in errors or one["value"] is None
    if unknown or not errors[1] or share < RELIABLE or errors[0] > errors[1] / 2:
        return ""
    return (
        f"importance sampling alone is reliable for {share:.0%} of the {chosen.noun}s and more "
        f"precise: it says log p(x) {one['value']:.4f} ± {errors[0]:.4f} (Monte Carlo), and the "
        f"first reliable method of each {two['value']:.4f} ± {errors[1]:.4f}"
    )
