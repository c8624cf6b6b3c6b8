"""What an audit says of the latent space, and of the width of the posterior."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from torch import Tensor

from taut.evidence.annealing import support_of
from taut.evidence.ascent import is_real
from taut.evidence.finding import Finding, counts, show
from taut.evidence.gaps import latent_dim_of
from taut.evidence.gaps_section import tighten_first
from taut.evidence.latents import CATEGORIES, calibration, latents
from taut.evidence.remedies import again, family_of, is_exact, kind_of, smaller, tightened
from taut.evidence.section import Row, Scene, Section, at_least_zero
from taut.evidence.text import number, plus_minus
from taut.models.exact import ExactModel
from taut.system.records import BRACKET, COUNT, ESTIMATE, KNOWN, NUMBER, TEXT

__all__ = ["Calibration", "LatentSpace"]


class LatentSpace(Section):
    """How the latent space is used."""

    name, title, chapter = "latents", "The latent space", "why"
    order, stage, share = 80, "use of the latent space", 0.04
    references = ("hoffman2016", "tomczak2018", "chen2018")
    caption = (
        "What each latent dimension costs, largest first. An active dimension tells {noun}s "
        "apart; a dead one costs and carries nothing; a noisy one costs nats without telling them "
        "apart."
    )
    shape: ClassVar = {
        "num_data": COUNT,
        "latent_dim": COUNT,
        "active_units": COUNT,
        "rate": ESTIMATE,
        "prior_gain?": ESTIMATE,
        "dead": [COUNT],
        "noisy": [COUNT],
        "warnings?": [TEXT],
        "information": BRACKET,
        "information_limit": KNOWN,
        "marginal_kl": BRACKET,
        "total_correlation?": BRACKET,
        "noisy_rate?": ESTIMATE,
        "dimensions": {"rate?": [KNOWN], "mean_variance": [KNOWN]},
    }

    @classmethod
    def lacks(cls, scene: Scene) -> str | None:
        if len(scene.x) < 2:
            return "a single data point is too few"
        if (why := scene.lacks("code")) is not None:
            return why
        if isinstance(scene.model, ExactModel) and not is_real(
            support_of(scene.model.latent_prior())
        ):
            return CATEGORIES
        return None

    @classmethod
    def work(cls, scene: Scene) -> float:
        rows = len(scene.x)
        if scene.train is not None:
            rows += len(scene.train)
        return 350 * rows

    @classmethod
    def run(cls, scene: Scene) -> Section:
        train = scene.train
        if train is not None:
            train = train[: scene.effort.train]
        return cls(latents(scene.model, _affordable(scene), train=train, seed=scene.seed))

    def rows(self) -> list[Row]:
        information, marginal = self["information"], self["marginal_kl"]
        total = self.get("total_correlation") or {}
        nothing = {"own": None, "left_out": None}
        correlation = {k: at_least_zero(e) for k, e in (total or nothing).items()}
        return [
            Row("a better prior would buy", self.get("prior_gain"), 0, "  a better prior buys"),
            Row(f"information of z about the {self.noun}, from", at_least_zero(information["own"])),
            Row("to", at_least_zero(information["left_out"]), 1),
            Row(
                "marginal KL, aggregate posterior to prior, from",
                at_least_zero(marginal["left_out"]),
            ),
            Row("to", at_least_zero(marginal["own"]), 1),
            Row(f"total correlation, with each {self.noun}'s own part", correlation["own"]),
            Row("without it", correlation["left_out"], 1),
        ]

    def text(self) -> list[str]:
        lines = [
            f"{number(self['active_units'])} of {number(self['latent_dim'])} latent dimensions are "
            f"active: their posterior mean varies over the {self.noun}s."
        ]
        if self["noisy"]:
            names = ", ".join(number(j) for j in self["noisy"])
            lines.append(
                f"Noisy dimensions: {names}; together they cost "
                f"{plus_minus(self.get('noisy_rate'))} nats."
            )
        return lines

    def small(self) -> list[str]:
        return [
            f"Information and marginal KL add up to the rate, here {plus_minus(self['rate'])}, by "
            f"one draw of z for each {self.noun}. What a better prior buys was measured with a "
            f"Gaussian mixture, fitted to other data, instead of the prior. "
            f"{number(self['num_data'])} {self.noun}s can show at most "
            f"{number(self['information_limit'])} nats of information; where z holds more the "
            f"bracket is wide."
        ]

    def line(self) -> str:
        return f"active units: {self['active_units']} of {self['latent_dim']}"

    def findings(self, others: Mapping[str, Section]) -> Iterator[Finding]:
        if len(self["dead"]) >= self["latent_dim"]:
            yield self._collapse(others.get("gain_over_baseline"))
        gain = self.get("prior_gain")
        if gain and counts(gain):
            yield Finding(
                "prior",
                gain["value"],
                gain["test_error"],
                "ELBO",
                "the prior is not where the posteriors are: samples of it fall into holes",
                f"a Gaussian mixture instead of the prior raises the held-out ELBO by "
                f"{show(gain)}{tighten_first(others)}",
                "a prior that is learned",
                self._learned_prior(others),
            )
        rate = self.get("noisy_rate")
        if self["noisy"] and rate and counts(rate):
            yield Finding(
                "noisy dimensions",
                rate["value"],
                rate["test_error"],
                "ELBO",
                "some latent dimensions pay rate and carry no information",
                f"the posterior of {len(self['noisy'])} dimensions differs from the prior and is "
                f"the same for all {self.noun}s: {show(rate)}",
                "train longer, or omit them",
                tightened(self.run_parts),
            )
        dead, dimensions = len(self["dead"]), self["latent_dim"]
        if dimensions / 2 < dead < dimensions:
            yield Finding(
                "dead dimensions",
                0.0,
                None,
                "",
                f"{dead} of {dimensions} latent dimensions are unused: harmless",
                "each has a rate below 0.01 nat",
                "nothing, or fewer dimensions for the same numbers",
                smaller(self.run_parts, max(2, self["active_units"] + 2)),
            )

    def _learned_prior(self, others: Mapping[str, Section]) -> str:
        """Returns the command that makes the prior another one; that of factor analysis cannot be
        refitted. A model that is not a run is taken for that where its gaps were not measured.
        """
        if is_exact(self.run_parts) or not (self.run_parts or "gaps" in others):
            return "taut fit DATA --model MixtureOfFactorAnalysers"
        prior = "GaussianMixture(components=20)"
        if str(self.run_parts.get("prior")).startswith("GaussianMixture"):
            prior = "GaussianMixture(components=100)"
        return f'taut refit RUN --prior "{prior}"'

    def _collapse(self, gain: Section | None) -> Finding:
        beyond = ""
        if gain:
            beyond = f", and log p(x) is {show(gain.values)} above independent marginals"
        return Finding(
            "collapse",
            None,
            None,
            "log p(x)",
            "the posterior has collapsed onto the prior: z says nothing about x",
            f"none of {self['latent_dim']} latent dimensions carries anything; the rate is "
            f"{show(self['rate'])}{beyond}",
            *self._uncollapsed(),
        )

    def _uncollapsed(self) -> tuple[str, str]:
        """Returns what to do against a collapse, and its command.

        The rate of a discrete posterior has no weight that could grow: its objectives have none.
        Free bits are of families that factorise.
        """
        if is_exact(self.run_parts):
            return (
                "check that rows and columns are what you think: no factor is shared by them",
                "taut check DATA",
            )
        if kind_of(self.run_parts) == "discrete":
            return (
                "a weaker decoder, which needs z; more samples for the objective; other first "
                "weights (seed)",
                again(self.run_parts, decoder="Linear()"),
            )
        objective, free = "ELBO(warmup=0.2)", ""
        prior = self.run_parts.get("prior") or "StandardNormal()"
        if family_of(self.run_parts) == "DiagonalNormal" and prior == "StandardNormal()":
            objective, free = "ELBO(warmup=0.2, free_bits=0.1)", "free bits, "
        return (
            f"let the rate grow before it is charged for: a warm-up, {free}beta of at most 1, or a "
            "weaker decoder",
            again(self.run_parts, objective=objective),
        )


class Calibration(Section):
    """Whether q is as wide as the posterior, where the true z is known."""

    name, title, chapter, order = "calibration", "Is the posterior calibrated?", "why", 81
    needs = ("approximation", "simulation")
    references = ("talts2018",)
    caption = (
        "For {noun}s that the model itself made the true z is known. Its rank among draws of q "
        "is equally often anywhere (dashed) if q is the posterior; high ends say that q is too "
        "narrow, a hump that it is too wide."
    )
    shape: ClassVar = {
        "verdict": TEXT,
        "num_data": COUNT,
        "histogram": [NUMBER],
        "coverage_90": ESTIMATE,
        "spread?": NUMBER,
        "p_value": KNOWN,
    }

    @classmethod
    def lacks(cls, scene: Scene) -> str | None:
        return LatentSpace.lacks(scene) or super().lacks(scene)

    @classmethod
    def run(cls, scene: Scene) -> Section:
        return cls(calibration(scene.model, seed=scene.seed))

    def text(self) -> list[str]:
        return [f"Verdict: {self._verdict()}."]

    def small(self) -> list[str]:
        spread, far = self.get("spread"), ""
        if spread is not None:
            far = (
                f"; z lies {number(spread)} of q's standard deviations from its mean (root mean "
                f"square; 1 if calibrated)"
            )
        return [
            f"{number(self['num_data'])} simulated {self.noun}s. The central 90 % of q hold the "
            f"true z with frequency {plus_minus(self['coverage_90'])}"
            f"{far}; p-value of a flat histogram "
            f"{number(self['p_value'])}."
        ]

    def line(self) -> str:
        return f"calibration: {self._verdict()}"

    def _verdict(self) -> str:
        if not self["verdict"].startswith("calibrated"):
            return str(self["verdict"])
        tested = f"tested on {number(self['num_data'])} simulated {self.noun}s"
        return f"the widths of the posterior are right ({tested})"


def _affordable(scene: Scene) -> Tensor:
    """Returns the data, or so many of them that their $N^2$ densities, each a pass for each latent
    dimension, cost what those of all would at one pass.
    """
    if not scene.model.slow_density:
        return scene.x
    dim = latent_dim_of(scene.model, scene.x)
    return scene.x[: max(2, int(len(scene.x) / dim**0.5))]
