"""What an audit says of importance sampling: log p(x), the ELBO and its parts, and the curve."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from taut.evidence.importance import MIXED, curve_sizes, importance_blocks
from taut.evidence.results import Estimate, Evidence
from taut.evidence.section import Row, Scene, Section
from taut.evidence.text import number, share
from taut.models.exact import ExactModel
from taut.system.records import COUNT, ESTIMATE, MEASURED, NUMBER
from taut.types import Data
from taut.use.blocks import Block, blocks_of

__all__ = ["ImportanceSampling"]

CHECKED = 100  # data whose weights are looked at, where they must all be p(x)


class ImportanceSampling(Section):
    """Importance sampling from the encoder's posterior: log p(x), the ELBO and its parts."""

    name, title, chapter = "evidence", "Importance sampling", "loose"
    order, stage, share, always, required = 0, "log p(x) by importance sampling", 0.2, True, True
    divergences = ("rate", "inference_gap")
    references = ("burda2016", "vehtari2024")
    caption = (
        "The bound from K samples: K = 1 is the ELBO, and more samples come nearer to log p(x). A "
        "curve that still rises at its right end has not arrived; one that crosses the line of log "
        "p(x) by no more than the errors agrees with it. Bars and bands, where they can be seen, "
        "are Monte Carlo errors."
    )
    shape: ClassVar = {
        **MEASURED,
        "curve?": [{"num_samples": COUNT, **ESTIMATE}],
        "exact?": {"num_data": COUNT, "num_samples": COUNT, "off_by": NUMBER},
    }

    @classmethod
    def work(cls, scene: Scene) -> float:
        return len(scene.x) * scene.effort.num_samples

    @classmethod
    def run(cls, scene: Scene) -> Section:
        blocks = importance_blocks(scene.model, scene.x, scene.effort.num_samples, seed=scene.seed)
        parts = scene.clock.blocks(blocks, lambda e: len(e.ess), len(scene.x))
        scene.evidence = Evidence.concatenate(parts)
        n = len(scene.evidence.ess)
        scene.x = scene.x[:n]
        if scene.groups is not None:
            scene.groups = scene.groups[:n].unique(return_inverse=True)[1]
        values = scene.evidence.to_dict(scene.groups)
        if isinstance(scene.model, ExactModel):
            return cls(values | {"exact": _check_weights(scene.model, scene.x, scene.seed)})
        return cls({**values, "curve": _curve(scene.evidence, scene.groups)})

    def rows(self) -> list[Row]:
        rows = [
            Row("ELBO", self["elbo"], 0, "ELBO", "good"),
            Row("rate, KL(q, prior)", self.get("rate"), 1, "  rate", "good"),
            Row("distortion, -E log p(x|z)", self.get("distortion"), 1, "", "good"),
        ]
        if self.get("exact"):
            return rows
        sampled = "log p(x), importance sampling"
        return [*rows, Row(sampled, self["log_evidence"], 0, sampled)]

    def text(self) -> list[str]:
        if exact := self.get("exact"):
            return [
                f"The posterior is exact, so every sample of it has the weight p(x), and the ELBO "
                f"is log p(x). Of {number(exact['num_samples'])} samples for each of "
                f"{number(exact['num_data'])} {self.noun}s none is off by more than "
                f"{number(exact['off_by'])} nats."
            ]
        ess, khat = self["ess"], self["khat"]
        lines = [
            f"With K = {number(self['num_samples'])} samples, on average {number(ess['mean'])} "
            f"carry the weight, {number(ess['smallest'])} for the worst {self.noun}."
        ]
        if khat["reliable_share"] is not None:
            lines.append(
                f"It is reliable for {share(khat['reliable_share'])} of the {self.noun}s (Pareto "
                f"k-hat of at most {number(khat['threshold'])}, or weights that hardly differ)."
            )
        return lines


def _check_weights(model: ExactModel, x: Data, seed: int) -> dict[str, Any]:
    """Returns by how many nats the weights of samples of an exact posterior differ from log p(x),
    at most: by rounding, if it is exact.
    """

    def off_by(block: Block) -> Tensor:
        draw = model.draw(block.x, MIXED, context=block.context, reparameterize=False)
        known = model.log_prob(block.x, block.context)
        return (draw.log_weight - known).nan_to_num(0.0).abs().max().cpu()

    some = x[:CHECKED]
    largest = max(blocks_of(model, some, CHECKED, off_by, seed=seed, name="weights"))
    return {"num_data": len(some), "num_samples": MIXED, "off_by": float(largest)}


def _curve(evidence: Evidence, groups: Tensor | None) -> list[dict[str, Any]]:
    """Returns the bounds from few to K samples as plain values."""
    values = zip(
        curve_sizes(evidence.num_samples), evidence.curve.T, evidence.curve_error.T, strict=True
    )
    return [{"num_samples": k, **Estimate.of(v, e, groups).to_dict()} for k, v, e in values]
