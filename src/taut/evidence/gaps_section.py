"""What an audit says of the gaps between the ELBO and log p(x)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from taut.evidence import trial
from taut.evidence.best_section import choose
from taut.evidence.finding import Finding, counts, show
from taut.evidence.gaps import decompose, optima_blocks
from taut.evidence.remedies import again, kind_of, more_samples
from taut.evidence.results import Estimate
from taut.evidence.section import Row, Scene, Section, UnmeasuredError
from taut.evidence.text import number
from taut.model import Model
from taut.system.errors import TautError
from taut.system.records import COUNT, ESTIMATE, KNOWN, TEXT

__all__ = ["GapsSection", "tighten_first"]

RICHER = {  # families that there are beyond each kind
    "Gaussian": "a family beyond the Gaussian, or ",
    "flow": "more layers of the flow, or ",
    "sphere": "",
    "discrete": "",
}


class GapsSection(Section):
    """The gaps between the ELBO and log p(x)."""

    name, title, chapter = "gaps", "Where the nats are lost", "why"
    order, stage, share = 50, "the best posterior of each row", 0.23
    needs = ("approximation",)
    divergences = ("inference_gap", "approximation_gap")
    references = ("cremer2018",)
    caption = (
        "From the ELBO on the left to log p(x) on the right. Fitting the posterior to each {noun} "
        "on its own closes the amortization gap; what remains is the approximation gap, part of "
        "which a Gaussian with full covariance may close."
    )
    shape: ClassVar = {
        "num_data": COUNT,
        **dict.fromkeys(
            (
                "log_evidence", "elbo", "elbo_best", "inference_gap", "amortization_gap",
                "approximation_gap", "full_covariance_gain?", "elbo_full?", "trial_gain?",
            ),
            ESTIMATE,
        ),
        "trials?": [{"posterior": TEXT, "gain": ESTIMATE}],
        "warnings?": [TEXT],
        "rise": {"family": KNOWN, "full_covariance": KNOWN},
    }  # fmt: skip

    @classmethod
    def work(cls, scene: Scene) -> float:
        work = 70.0 * len(scene.x) * scene.effort.optimum_steps
        if scene.train is None or scene.model.own_posterior() is None:
            return work
        return work + trial.WORK * (1 + len(scene.richer))

    @classmethod
    def run(cls, scene: Scene) -> Section:
        assert scene.evidence is not None
        n = len(scene.x)
        try:
            blocks = optima_blocks(
                scene.model, scene.x, steps=scene.effort.optimum_steps, seed=scene.seed
            )
            scene.optima = scene.clock.blocks(blocks, lambda o: len(o.own.ess), n)
        except ValueError as error:
            raise UnmeasuredError(error) from error
        found = decompose(scene.evidence, scene.annealed, scene.optima)
        names = ("log_evidence", "log_evidence_error", "method", "reliable")
        found = replace(found, **dict(zip(names, choose(scene), strict=True)))
        groups = None
        if scene.groups is not None:
            groups = scene.groups[: len(found.elbo)].unique(return_inverse=True)[1]
        result = found.to_dict(groups)
        if any(counts(result[gap]) for gap in ("amortization_gap", "approximation_gap")):
            result |= _tried(scene, result, groups)
        return cls(result)

    def rows(self) -> list[Row]:
        rows = [
            Row("log p(x) by these methods", self["log_evidence"]),
            Row(f"ELBO of the best posterior of each {self.noun}", self["elbo_best"]),
            Row("ELBO of the encoder", self["elbo"]),
            Row("inference gap, log p(x) - ELBO", self["inference_gap"], 0, "  inference gap"),
            Row(
                "approximation gap: the family",
                self["approximation_gap"],
                1,
                "  = approximation gap (the family)",
            ),
        ]
        if self.get("full_covariance_gain"):
            closes = self["full_covariance_gain"]
            rows.append(Row("of it, a full covariance closes", closes, 2))
        encoder, brief = "amortization gap: the encoder", "  + amortization gap (the encoder)"
        rows.append(Row(encoder, self["amortization_gap"], 1, brief))
        if self.get("trial_gain"):
            rows.append(Row("of it, a trial of training on closes", self["trial_gain"], 2))
        for tried in self.get("trials") or []:
            rows.append(Row(f"a trial of {tried['posterior']} closes of both", tried["gain"], 1))
        return rows

    def small(self) -> list[str]:
        rise = self["rise"]
        return [
            f"{number(self['num_data'])} {self.noun}s; errors of gaps are of paired differences. "
            f"The last block of steps toward the best posteriors still gained, on average, "
            f"{number(rise['family'])} nats, for those with full covariance "
            f"{number(rise['full_covariance'])}."
        ]

    def findings(self, others: Mapping[str, Section]) -> Iterator[Finding]:
        gap, tried = self["amortization_gap"], self.get("trial_gain")
        if counts(gap):
            why = (
                f"fitted to each {self.noun} on its own, the same family reaches a bound higher by "
                f"{show(gap)} (inference gap {show(self['inference_gap'])})"
            )
            if tried:
                why += (
                    f"; of it an encoder closed {show(tried)} on held-out {self.noun}s in a trial "
                    f"of {trial.STEPS} steps"
                )
            worth = tried or gap
            yield Finding(
                "amortization gap",
                worth["value"],
                worth["test_error"],
                "ELBO",
                "the encoder does not find the best posterior of its own family",
                why,
                "train the posterior on with the decoder frozen, or give it a larger encoder",
                "taut tighten RUN",
                gap["value"] if tried else None,
                gap["test_error"] if tried else None,
            )
        gap, full = self["approximation_gap"], self.get("full_covariance_gain")
        if not counts(gap):
            return
        even = (
            f"even fitted to each {self.noun} on its own, its bound lies {show(gap)} below log p(x)"
        )
        what = "the best member of the posterior's family is far from the true posterior"
        better = [
            each
            for each in self.get("trials") or []
            if tried is None or each["gain"]["value"] > tried["value"]
        ]
        if better:
            best = max(better, key=lambda each: each["gain"]["value"])
            # where log p(x) is low, the gap to it is, too; what the ascents reached is not
            most = max(self["inference_gap"], self._reached(), key=lambda each: each["value"])
            as_it_is = "" if tried is None else f", the family as it is {show(tried)}"
            yield Finding(
                "approximation gap",
                best["gain"]["value"],
                best["gain"]["test_error"],
                "ELBO",
                what,
                f"{even}; in a trial of {trial.STEPS} steps {best['posterior']} closed "
                f"{show(best['gain'])} on held-out {self.noun}s{as_it_is}",
                "a richer family of posteriors",
                f'taut tighten RUN --posterior "{best["posterior"]}"',
                most["value"],
                most["test_error"],
            )
            return
        if full and counts(full):
            yield Finding(
                "approximation gap",
                full["value"],
                full["test_error"],
                "ELBO",
                what,
                f"{even}; a full covariance closes {show(full)} of it",
                "a richer family of posteriors",
                'taut tighten RUN --posterior "FullCovarianceNormal()"',
                self._reached()["value"],
                self._reached()["test_error"],
            )
            return
        yield Finding(
            "approximation gap",
            gap["value"],
            gap["test_error"],
            "ELBO",
            what,
            even,
            f"{RICHER[kind_of(self.run_parts)]}an objective with more samples",
            again(self.run_parts, objective=more_samples(self.run_parts)),
        )

    def _reached(self) -> dict[str, float]:
        """Returns what the best posteriors close of the inference gap, those with full covariance
        where they were found, with its error.
        """
        parts = [self["amortization_gap"], self.get("full_covariance_gain")]
        known = [part for part in parts if part]
        # they are of the same rows, so their errors may add up
        error = sum(part["test_error"] or 0.0 for part in known)
        return {"value": sum(part["value"] for part in known), "test_error": error}


def _tried(scene: Scene, gaps: Mapping[str, Any], groups: Tensor | None) -> dict[str, Any]:
    """Returns what trials of training the posterior on close, where there can be any: of its own
    family, and of richer ones where the family is a limit.
    """
    if scene.train is None or scene.model.own_posterior() is None:
        return {}
    model, train, x = scene.model, scene.train, scene.x[: gaps["num_data"]]

    def rise(make: Callable[[], Model] | None = None) -> dict[str, Any] | None:
        try:
            to = None if make is None else make()
        except TautError:  # parts of the user's own that cannot be built again
            return None
        found = trial.trial(model, train, x, to=to, stop=scene.clock.over, seed=scene.seed)
        if found is None or not found[0].isfinite().any():
            return None
        return Estimate.of(*found, groups).to_dict()

    found: dict[str, Any] = {}
    if counts(gaps["amortization_gap"]) and (gain := rise()):
        found["trial_gain"] = gain
    if counts(gaps["approximation_gap"]):
        made = ((name, rise(make)) for name, make in scene.richer.items())
        found["trials"] = [{"posterior": name, "gain": gain} for name, gain in made if gain]
    return found


def tighten_first(others: Mapping[str, Section]) -> str:
    """Returns what must be said of a number that is measured at z ~ q where q is far from the best
    posterior.
    """
    gap = others["gaps"].get("amortization_gap") if "gaps" in others else None
    if not gap or not counts(gap):
        return ""
    return " (measured under an inaccurate encoder: run `taut tighten` first)"
