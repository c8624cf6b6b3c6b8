"""The baseline of a model whose log p(x) is exact and that is fitted in seconds: an approximate
model that does not beat it is not worth its approximations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch

from taut.evidence.finding import Finding, counts, show
from taut.evidence.results import Estimate
from taut.evidence.section import Row, Scene, Section
from taut.evidence.text import error_of, plus_minus
from taut.system.records import ESTIMATE, TEXT

__all__ = ["ExactBaseline", "in_words"]

SURE = 2.0  # standard errors


class ExactBaseline(Section):
    """log p(x) under the exact model that was fitted next to this one."""

    name, title, chapter, order, always = "exact_baseline", "", "good", 12, True
    told = False
    shape: ClassVar = {"model": TEXT, **ESTIMATE, "gain": ESTIMATE}

    @classmethod
    def lacks(cls, scene: Scene) -> str | None:
        return None if scene.exact is not None else ""

    @classmethod
    def run(cls, scene: Scene) -> Section:
        assert scene.exact is not None
        assert scene.evidence is not None
        name, known = scene.exact
        known, evidence = known[: len(scene.x)], scene.evidence
        own = Estimate.of(known, torch.zeros_like(known), scene.groups)
        above = evidence.log_evidence - known
        gain = Estimate.of(above, evidence.log_evidence_error, scene.groups)
        return cls({"model": name, **own.to_dict(), "gain": gain.to_dict()})

    def rows(self) -> list[Row]:
        title = f"baseline, {self['model']}"
        own = {name: self[name] for name in ("value", "mc_error", "test_error")}
        return [
            Row(title, own, 0, title, "good"),
            Row("log p(x) above it", self["gain"], 0, "", "good"),
        ]

    @property
    def better(self) -> bool:
        """Whether the baseline is surely better than the model."""
        gain = self["gain"]
        return gain["value"] is not None and -gain["value"] > SURE * (error_of(gain) or 0.0)

    def first(self) -> str:
        """Returns what is to be read before all else; nothing where the model beats it."""
        if not self.better:
            return ""
        return (
            f"{self['model']}, fitted in seconds and exact, is better than this model: its "
            f"log p(x) is {plus_minus(_negative(self['gain']))} nats higher a {self.noun}. taut "
            f"fit DATA --model {self['model'].partition('(')[0]} trains it."
        )

    def findings(self, others: Mapping[str, Section]) -> Iterator[Finding]:
        gain = _negative(self["gain"])
        if not self.better or not counts(gain):
            return
        yield Finding(
            "exact baseline",
            gain["value"],
            gain["test_error"],
            "log p(x)",
            f"{self['model']}, fitted in seconds and exact, is better than this model",
            f"its log p(x) is {show(gain)} higher on the same {self.noun}s",
            "take it, or look for what this model lacks",
            f"taut fit DATA --model {self['model'].partition('(')[0]}",
        )


def _negative(estimate: Mapping[str, Any]) -> dict[str, Any]:
    value = estimate["value"]
    return {**estimate, "value": None if value is None else -value}


def in_words(candidates: Mapping[str, Any] | None, noun: str = "row") -> str:
    """Returns which of two models was kept and why, with both numbers; nothing without them.

    Args:
        candidates: What ``run.json`` says of them.
        noun: What a data point is called.
    """
    if not candidates:
        return ""
    kept, other = candidates["models"]  # the exact model and the VAE
    exact = kept["model"] == candidates["kept"]
    if not exact:
        kept, other = other, kept
    apart, word = candidates["difference"], "less"
    if apart["value"] is not None:
        word = "less" if (apart["value"] > 0) == exact else "more"
        apart = {**apart, "value": abs(apart["value"])}
    return (
        f"Kept: {kept['model']}, with a log p(x) of {plus_minus(kept)} nats on "
        f"{candidates['num_data']} validation {noun}s; {other['model']} has {plus_minus(other)}, "
        f"{plus_minus(apart)} {word}.{_of_filling(candidates.get('filling'), exact)} "
        f"--model {other['model'].partition('(')[0]} trains the other."
    )


def _of_filling(filling: Mapping[str, Any] | None, exact: bool) -> str:
    """Returns how well both models fill in hidden entries, by which data with gaps choose."""
    if not filling:
        return ""
    own = filling["exact" if exact else "vae"]
    word = "less" if (filling["value"] > 0) == exact else "more"
    apart = {**filling, "value": abs(filling["value"])}
    return (
        f" It fills in hidden entries with {plus_minus(own)} of the error that means and modes "
        f"make, {plus_minus(apart)} {word} than the other: data with gaps keep the model that is "
        "better at that, unless log p(x) alone is sure of the other."
    )
