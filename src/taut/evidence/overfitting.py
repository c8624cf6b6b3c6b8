"""Overfitting: how much better the training data are off, by the same bound on both sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor

from taut.build.spec import parse
from taut.evidence.finding import Finding, counts, show
from taut.evidence.importance import curve_sizes, importance
from taut.evidence.remedies import again, is_exact, kind_of, named_model, widths, with_arguments
from taut.evidence.results import Estimate, Evidence
from taut.evidence.section import Row, Scene, Section, Table, minus
from taut.evidence.text import number, plus_minus
from taut.model import Model
from taut.system.records import COUNT, ESTIMATE
from taut.system.seeds import derive

__all__ = ["Overfitting", "overfitting"]

SAMPLES = 500  # of each side, at most
DROPOUT = 0.2  # with a warm-up it helps both data of benchmarks/defaults.py
SIDES = {"train": ESTIMATE, "held_out": ESTIMATE, "difference": ESTIMATE}


def overfitting(
    model: Model, train: Tensor, evidence: Evidence, groups: Tensor | None, seed: int
) -> dict[str, Any]:
    """Returns how much better the training data are off, by the same bound with the same K on both
    sides.
    """
    k = max(size for size in curve_sizes(evidence.num_samples) if size <= SAMPLES)
    column = curve_sizes(evidence.num_samples).index(k)
    seen = importance(model, train[: len(evidence.ess)], k, seed=derive(seed, "train"))
    held, held_error = evidence.curve[:, column], evidence.curve_error[:, column]
    pairs = {
        "log_evidence": (
            Estimate.of(seen.log_evidence, seen.log_evidence_error),
            Estimate.of(held, held_error, groups),
        ),
        "elbo": (
            Estimate.of(seen.elbo, seen.elbo_error),
            Estimate.of(evidence.elbo, evidence.elbo_error, groups),
        ),
    }
    sides = {
        name: {"train": a.to_dict(), "held_out": b.to_dict(), "difference": minus(a, b)}
        for name, (a, b) in pairs.items()
    }
    return {"num_data": len(seen.ess), "num_samples": k, **sides}


class Overfitting(Section):
    """The training data against the held-out ones."""

    name, title, chapter = "overfitting", "Overfitting", "why"
    order, place, needs = 20, 100, ("train",)
    shape: ClassVar = {
        "num_data": COUNT,
        "num_samples": COUNT,
        "log_evidence": SIDES,
        "elbo": SIDES,
    }

    @classmethod
    def run(cls, scene: Scene) -> Section:
        assert scene.train is not None
        assert scene.evidence is not None
        return cls(overfitting(scene.model, scene.train, scene.evidence, scene.groups, scene.seed))

    def rows(self) -> list[Row]:
        title = "overfitting: training minus held-out log p(x)"
        return [Row(title, self["log_evidence"]["difference"], brief=title)]

    def tables(self) -> list[Table]:
        sides = ("train", "held_out", "difference")
        titles = (("log p(x)", "log_evidence"), ("ELBO", "elbo"))
        lines = [(title, 0, [plus_minus(self[name][s]) for s in sides]) for title, name in titles]
        columns = ("quantity", "training data", "held-out data", "difference")
        return [Table(self.title, columns, lines)]

    def small(self) -> list[str]:
        return [
            f"On {number(self['num_data'])} {self.noun}s of the training and on the held-out ones, "
            f"by the same bound with K = {number(self['num_samples'])}. A difference surely above "
            f"zero is overfitting."
        ]

    def findings(self, others: Mapping[str, Section]) -> Iterator[Finding]:
        gap = self["log_evidence"]["difference"]
        if not counts(gap):
            return
        yield Finding(
            "overfitting",
            gap["value"],
            gap["test_error"],
            "log p(x)",
            "the training data are better off than held-out ones",
            f"log p(x) differs by {show(gap)}, the ELBO by {show(self['elbo']['difference'])} "
            f"(K = {self['num_samples']} on both sides)",
            *self._remedy(),
        )

    def _remedy(self) -> tuple[str, str]:
        """Returns what to do and its command."""
        if is_exact(self.run_parts):
            return (
                "more data, or more rows held out, by which a model chooses its size",
                f"taut fit DATA --model {named_model(self.run_parts)} --set "
                "data.validation_fraction=0.2",
            )
        parts, changes = self.run_parts, {}
        decoder = parse(str(parts.get("decoder") or "MLP()"))
        hidden = widths(decoder)
        if hidden is not None and "dropout" not in dict(decoder.arguments):
            changes["decoder"] = with_arguments(decoder, dropout=DROPOUT)
        warms = named_model(parts) == "VAE" and kind_of(parts) != "discrete"
        if warms and parts.get("objective") == "ELBO()":
            changes["objective"] = "ELBO(warmup=0.2)"
        decay = ""
        if not changes and hidden and len(hidden) > 1:  # regularised, and it overfits still
            changes["decoder"] = with_arguments(decoder, hidden=hidden[:-1])
        elif not changes:
            decay = " --set training.weight_decay=0.01"
        command = again(parts, **changes) + decay
        return (
            "more data, regularised networks; dynamic binarization where the data are grey levels",
            command,
        )
