"""What the end of the training said of log p(x), and how this audit compares with it: two numbers
of one name say what sets them apart.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from taut.evidence.finding import RELIABLE
from taut.evidence.results import Estimate
from taut.evidence.section import Scene, Section, both
from taut.evidence.text import plus_minus, share
from taut.system.errors import clause
from taut.system.records import COUNT, ESTIMATE, NUMBER, TEXT

__all__ = ["AfterTraining"]


class AfterTraining(Section):
    """log p(x) as ``taut fit`` measured it on all held-out rows, beside that of the audit."""

    name, title, chapter, order, always = "after_training", "", "good", 61, True
    told = False
    shape: ClassVar = {
        **ESTIMATE,
        "num_data": COUNT,
        "num_samples?": COUNT,
        "part": TEXT,
        "reliable_share?": NUMBER,
        "here": {"num_data": COUNT, "num_samples": COUNT},
        "difference": ESTIMATE,
    }

    @classmethod
    def lacks(cls, scene: Scene) -> str | None:
        return None if scene.fitted is not None else ""

    @classmethod
    def run(cls, scene: Scene) -> Section:
        assert scene.fitted is not None
        assert scene.evidence is not None
        now: Any = scene.results["log_evidence"]
        fitted, before = scene.fitted, scene.fitted["log_evidence"]
        n, exact = now["num_data"], set(fitted["by"]) == {"exact"}
        values = {
            **{name: before[name] for name in ("value", "mc_error", "test_error")},
            "num_data": fitted["num_data"],
            "num_samples": None if exact else fitted["num_samples"],
            "part": fitted["data"],
            "reliable_share": fitted.get("reliable_share"),
            "here": {"num_data": n, "num_samples": scene.evidence.num_samples},
        }
        left_out = 1 - n / fitted["num_data"]
        return cls({**values, "difference": _difference(now.values, before, left_out)})

    def line(self) -> str:
        n, total, known = self["here"]["num_data"], self["num_data"], self.get("reliable_share")
        samples = clause(" with K = {:,}", self.get("num_samples"))
        rows, why = f"the same {n:,}", "Monte Carlo error"
        if n < total:
            rows = f"{n:,} of them, drawn at random,"
            why = "the error of the draw and of the samples"
        how = f"with K = {self['here']['num_samples']:,}" if samples else "in closed form"
        apart = f" and differs by {plus_minus(self['difference'])} ({why})"
        if n == total and not samples:
            apart = ""
        doubt = ""
        if known is not None and known < RELIABLE:
            doubt = f", reliable for {share(known)} of them"
        return (
            f"After training, log p(x) of all {total:,} {self['part']} {self.noun}s was measured "
            f"as {plus_minus(self.values)}{samples}{doubt}; this audit measures {rows} "
            f"{how}{apart}."
        )


def _difference(now: Any, before: Any, left_out: float) -> dict[str, float | None]:
    """Returns how far log p(x) lies above what it was.

    Args:
        now: The estimate of the audit.
        before: That of the training.
        left_out: The share of its rows that the audit does not measure.
    """
    if now["value"] is None or before["value"] is None:
        return Estimate(math.nan, None, None).to_dict()
    samples, rows = both(now["mc_error"], before["mc_error"]), None
    if left_out and now["test_error"] is not None:
        # of a mean of rows drawn from finitely many
        rows = both(samples or 0.0, now["test_error"] * math.sqrt(left_out))
    return Estimate(now["value"] - before["value"], samples, rows).to_dict()
