"""The sandwich: both directions of annealing on data points that the model makes.

Of what the model itself made, an exact draw of p(z|x) is known, and with it an upper bound of
log p(x) (annealing in reverse from that draw). The width between the bounds is the most that
annealing can be off by there.

References: grosse2015.
"""

from __future__ import annotations

from typing import Any, ClassVar

from taut.evidence.annealing import Annealed, annealing_blocks, simulate
from taut.evidence.importance import importance
from taut.evidence.results import Estimate
from taut.evidence.section import Effort, Row, Scene, Section, at_least_zero
from taut.evidence.text import number
from taut.model import Model
from taut.system.records import COUNT, ESTIMATE
from taut.system.seeds import derive

__all__ = ["Sandwich", "sandwich"]


def sandwich(model: Model, effort: Effort, seed: int) -> dict[str, Any]:
    """Returns both directions of annealing, and importance sampling, on simulated data points."""
    z, x = simulate(model, effort.simulated, seed=seed)
    own = derive(seed, "sandwich")
    both = [
        Annealed.concatenate(
            list(
                annealing_blocks(
                    model,
                    x,
                    effort.num_chains,
                    exact=exact,
                    max_temperatures=effort.max_temperatures,
                    seed=own,
                )
            )
        )
        for exact in (None, z)
    ]
    lower, upper = (a.log_evidence for a in both)
    sampled = importance(model, x, effort.num_samples, seed=own)
    return {
        "num_data": len(x),
        "lower": Estimate.of(lower, both[0].log_evidence_error).to_dict(),
        "upper": Estimate.of(upper).to_dict(),
        "width": Estimate.of(upper - lower).to_dict(),
        "importance": Estimate.of(sampled.log_evidence, sampled.log_evidence_error).to_dict(),
        "importance_short_by": Estimate.of(upper - sampled.log_evidence).to_dict(),
    }


class Sandwich(Section):
    """Both bounds of log p(x) on simulated data points."""

    name, title, chapter = "sandwich", "Sandwich on simulated data", "loose"
    order, stage, share = 40, "sandwich on simulated data", 0.1
    needs = ("approximation", "simulation", "annealing")
    references = ("grosse2015",)
    shape: ClassVar = {
        "num_data": COUNT,
        **dict.fromkeys(("lower", "upper", "width", "importance", "importance_short_by"), ESTIMATE),
    }

    @classmethod
    def work(cls, scene: Scene) -> float:
        effort = scene.effort
        return 0.6 * effort.simulated * effort.num_chains * effort.max_temperatures

    @classmethod
    def run(cls, scene: Scene) -> Section:
        return cls(sandwich(scene.model, scene.effort, scene.seed))

    def text(self) -> list[str]:
        return [
            f"Of {self.noun}s that the model itself made an exact draw of p(z|x) is known, and "
            f"with it an upper bound. The width is the most that annealing can be off by there."
        ]

    def rows(self) -> list[Row]:
        width = at_least_zero(self["width"])
        short = self["importance_short_by"]
        return [
            Row("upper bound, annealing in reverse", self["upper"]),
            Row("lower bound, annealing", self["lower"]),
            Row("width", width, 1, "  sandwich on simulated data, width"),
            Row("importance sampling", self["importance"]),
            Row("short of the upper bound by", short, 1, "  importance sampling there short by"),
        ]

    def small(self) -> list[str]:
        return [f"{number(self['num_data'])} simulated {self.noun}s."]
