"""What an audit says where the values of z are few enough to be summed over: all is exact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from taut.evidence.enumeration import Enumeration, enumeration_blocks, too_many, values_of
from taut.evidence.finding import Finding, counts, show
from taut.evidence.results import METHODS, Estimate
from taut.evidence.section import Row, Scene, Section, UnmeasuredError
from taut.evidence.text import number
from taut.models.exact import ExactModel
from taut.system.records import COUNT, ESTIMATE, TEXT
from taut.system.seeds import stream
from taut.types import PerDatum
from taut.use.blocks import device_of

__all__ = ["EnumerationSection"]

METHOD = METHODS.index("enumeration")


class EnumerationSection(Section):
    """log p(x), the ELBO and the gap by sums over all values of z."""

    name, title, chapter = "enumeration", "All latent values", "loose"
    order, stage, told = 31, "log p(x) by enumeration", False
    divergences = ("rate", "inference_gap")
    shape: ClassVar = {
        "num_data": COUNT,
        "num_states": COUNT,
        **dict.fromkeys(("log_evidence", "elbo", "rate", "inference_gap"), ESTIMATE),
        "objective": TEXT,
    }

    @classmethod
    def lacks(cls, scene: Scene) -> str | None:
        if isinstance(scene.model, ExactModel) or values_of(scene.model, scene.x) is None:
            return ""
        return None

    @classmethod
    def run(cls, scene: Scene) -> Section:
        states = values_of(scene.model, scene.x)
        assert states is not None
        if why := too_many(states, len(scene.x), scene.x[:1].numel()):
            raise UnmeasuredError(why)
        blocks = enumeration_blocks(scene.model, scene.x)
        parts = scene.clock.blocks(blocks, lambda e: len(e.elbo), len(scene.x))
        found = Enumeration.concatenate(parts)
        n = len(found.elbo)
        groups = None
        if scene.groups is not None:
            groups = scene.groups[:n].unique(return_inverse=True)[1]
        if n == len(scene.x):  # log p(x) is by one method then
            method = torch.full_like(found.elbo, METHOD, dtype=torch.long)
            every = torch.ones_like(method, dtype=torch.bool)
            scene.best = (found.log_evidence, found.error, method, every)
        zero = torch.zeros_like(found.elbo)

        def mean(values: PerDatum, error: Tensor = zero) -> dict[str, float | None]:
            return Estimate.of(values, error, groups).to_dict()

        return cls(
            {
                "num_data": n,
                "num_states": states.number,
                "log_evidence": mean(found.log_evidence, found.error),
                "elbo": mean(found.elbo),
                "rate": mean(found.rate),
                "inference_gap": mean(found.gap),
                "objective": _trains(scene),
            }
        )

    def rows(self) -> list[Row]:
        return [
            Row("log p(x), by enumeration", self["log_evidence"], brief="log p(x), enumeration"),
            Row("ELBO, by enumeration", self["elbo"]),
            Row("inference gap, log p(x) - ELBO", self["inference_gap"], 0, "  inference gap"),
            Row("rate, KL(q, prior), by enumeration", self["rate"], 1),
        ]

    def text(self) -> list[str]:
        return [
            f"Exact by enumeration: sums over all {number(self['num_states'])} values of z, for "
            f"{number(self['num_data'])} {self.noun}s, without a Monte Carlo error."
        ]

    def line(self) -> str:
        return (
            f"log p(x) and the gap are exact by enumeration, sums over all "
            f"{number(self['num_states'])} values of z"
        )

    def findings(self, others: Mapping[str, Section]) -> Iterator[Finding]:
        gap = self["inference_gap"]
        if counts(gap):
            yield Finding(
                "inference gap",
                gap["value"],
                gap["test_error"],
                "ELBO",
                "the posterior is far from p(z|x)",
                f"by enumeration its bound lies {show(gap)} below log p(x)",
                "train the posterior on with the decoder frozen, or give it a larger encoder",
                f'taut tighten RUN --objective "{self["objective"]}"',
            )


def _trains(scene: Scene) -> str:
    """Returns an objective that trains the posterior: a choice has no score."""
    some = scene.x[:32].to(device=device_of(scene.model), dtype=torch.get_default_dtype())
    with torch.no_grad(), stream(scene.seed, "choice"):
        q = scene.model.encode(some)
        sure = bool((q.log_prob(q.sample()) == 0).all())
    return "StraightThrough()" if sure else "VIMCO(num_samples=8)"
