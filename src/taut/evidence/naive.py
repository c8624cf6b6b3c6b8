"""Naive Monte Carlo: z from the prior.

It needs about exp(KL(p(z|x), p(z))) samples.

References: chatterjee2018.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from taut.evidence.importance import importance, prior_proposal
from taut.evidence.results import Estimate, Evidence
from taut.evidence.section import Scene, Section, at_least_zero
from taut.evidence.text import number, plus_minus
from taut.model import Model
from taut.system.records import COUNT, ESTIMATE, NUMBER
from taut.types import Data

__all__ = ["Naive", "naive"]


def naive(model: Model, x: Data, evidence: Evidence, num_samples: int, seed: int) -> dict[str, Any]:
    """Returns what the prior as proposal finds, and how many samples it would need."""
    n = len(x)
    found = importance(model, x, num_samples, seed=seed, proposal=prior_proposal(model))
    information = evidence.information[:n]
    unknown = bool(found.khat.isnan().all())
    return {
        "num_data": n,
        "num_samples": num_samples,
        "log_evidence": Estimate.of(found.log_evidence, found.log_evidence_error).to_dict(),
        "short_by": Estimate.of(evidence.log_evidence[:n] - found.log_evidence).to_dict(),
        "ess": {"mean": float(found.ess.mean()), "median": float(found.ess.median())},
        "reliable_share": None if unknown else float(found.reliable.double().mean()),
        "information": Estimate.of(information).to_dict(),
        "samples_needed_log10": {
            "median": float(information.median()) / math.log(10),
            "largest": float(information.max()) / math.log(10),
        },
    }


class Naive(Section):
    """What samples of the prior find."""

    name, title, chapter = "naive", "Naive Monte Carlo: z from the prior", "loose"
    order, stage, share = 70, "the prior as proposal", 0.03
    needs = ("approximation",)
    references = ("chatterjee2018",)
    shape: ClassVar = {
        "num_data": COUNT,
        "num_samples": COUNT,
        "short_by": ESTIMATE,
        "ess": {"mean": NUMBER},
        "information": ESTIMATE,
        "samples_needed_log10": {"median?": NUMBER, "largest?": NUMBER},
    }

    @classmethod
    def work(cls, scene: Scene) -> float:
        return 0.4 * min(len(scene.x), scene.effort.naive) * scene.effort.num_samples

    @classmethod
    def run(cls, scene: Scene) -> Section:
        assert scene.evidence is not None
        effort, x = scene.effort, scene.x[: scene.effort.naive]
        return cls(naive(scene.model, x, scene.evidence, effort.num_samples, scene.seed))

    def text(self) -> list[str]:
        needed, information = self["samples_needed_log10"], at_least_zero(self["information"])
        usual, largest = number(needed.get("median")), number(needed.get("largest"))
        return [
            f"On {number(self['num_data'])} {self.noun}s, {number(self['num_samples'])} samples of "
            f"the prior fall short by {plus_minus(self['short_by'])} nats; on average "
            f"{number(self['ess']['mean'])} of them carry the weight. The posterior lies "
            f"{plus_minus(information)} nats from the prior, so that about 10^{usual} samples "
            f"would be needed for a typical {self.noun}, 10^{largest} for the worst."
        ]
