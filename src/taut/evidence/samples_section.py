"""What an audit says of samples, and of where the sharpness of images goes."""

from __future__ import annotations

from typing import ClassVar

from taut.evidence.samples import IMAGES, SPLIT, blur, sample_quality
from taut.evidence.section import Scene, Section, Table
from taut.evidence.text import number, plus_minus
from taut.system.records import COUNT, ESTIMATE, TEXT

__all__ = ["Samples", "Sharpness"]

CAUSES = {  # of what the mean over z from q lacks
    "posterior": "; most of what it lacks, the posterior averages away, and sharper z are known",
    "likelihood": "; most of what it lacks, no z shows: the likelihood takes it for noise",
}

TOO_FEW = 9  # data points, with which an audit does not compare samples

REFERRED = {"samples": ESTIMATE, "reference": ESTIMATE}


class Samples(Section):
    """Samples of the model against held-out data."""

    name, title, chapter = "samples", "Samples against held-out data", "samples"
    order, stage, share = 90, "samples", 0.05
    needs = ("train", "simulation")
    references = ("lopezpaz2017", "delong1988", "kynkaanniemi2019", "naeem2020", "meehan2020")
    statistics: ClassVar = {
        "classifier": "told apart by a classifier (one half: not at all)",
        "precision": "precision: samples among the data",
        "recall": "recall: data among the samples",
        "density": "density",
        "coverage": "coverage",
        "nearer": "nearer to training data than held-out data are (one half: as near)",
    }
    shape: ClassVar = {
        "num_data": COUNT,
        "neighbours": COUNT,
        "warnings?": [TEXT],
        **dict.fromkeys(statistics, REFERRED),
        "copies": {"samples": ESTIMATE, "held_out": ESTIMATE},
    }

    @classmethod
    def lacks(cls, scene: Scene) -> str | None:
        if (why := super().lacks(scene)) is not None or scene.train is None:
            return why
        for count, what in ((len(scene.x), ""), (len(scene.train), "training ")):
            if count <= TOO_FEW:
                return f"there are {count} {what}data points, and at least {TOO_FEW + 1} are needed"
        return None

    @classmethod
    def work(cls, scene: Scene) -> float:
        return 230 * scene.effort.samples

    @classmethod
    def run(cls, scene: Scene) -> Section:
        assert scene.train is not None
        train, effort = scene.train[: scene.effort.train], scene.effort
        return cls(
            sample_quality(scene.model, train, scene.x, num_data=effort.samples, seed=scene.seed)
        )

    def tables(self) -> list[Table]:
        lines = []
        for name, title in self.statistics.items():
            sides = [plus_minus(self[name][side]) for side in ("samples", "reference")]
            lines.append((title, 0, sides))
        return [Table(self.title, ("statistic", "samples", "reference"), lines)]

    def small(self) -> list[str]:
        copies = self["copies"]
        return [
            f"{number(self['num_data'])} samples and as many held-out {self.noun}s, "
            f"{number(self['neighbours'])} neighbours. The reference is training data instead of "
            f"samples: a perfect model has its numbers. Exact copies of training data: "
            f"{plus_minus(copies['samples'])} of the samples, {plus_minus(copies['held_out'])} of "
            f"the held-out {self.noun}s, as shares."
        ]


class Sharpness(Section):
    """How sharp images, reconstructions and samples are, and where sharpness is lost."""

    name, title, chapter = "blur", "Where the sharpness goes", "samples"
    order, stage, needs = 91, "sharpness", ("images", "samples", "code")
    absent = "it is for images"
    names: ClassVar = {
        "data": "held-out data",
        "mean": "reconstructions: mean at z from q",
        "mean_at_optimum": "mean at the best z of each image",
        "draw": "draws at z from q",
        "mean_from_prior": "mean at z from the prior",
        "draw_from_prior": "draws at z from the prior",
    }
    parts: ClassVar = {
        "loss": ("lost between data and reconstructions", 0),
        "decoder": ("by the decoder: no z is sharper", 1),
        "posterior": ("by the posterior: one z stands for several x", 1),
        "noise": ("added by drawing, as noise of each pixel", 0),
        "unexplained": ("left: data above draws (below zero: draws are noisier)", 0),
    }
    shape: ClassVar = {
        "num_data": COUNT,
        "steps": COUNT,
        "warnings?": [TEXT],
        **dict.fromkeys(
            ("high_frequency_energy", "laplacian_variance"),
            dict.fromkeys(map("{}?".format, IMAGES), ESTIMATE),
        ),
        "split": dict.fromkeys(map("{}?".format, SPLIT), ESTIMATE),
        "averaged?": dict.fromkeys(
            ("high_frequency_energy", "laplacian_variance", "ratio"), ESTIMATE
        ),
        "cause?": TEXT,
        "optimum?": dict.fromkeys(("rise", "late_rise", "log_prior"), ESTIMATE),
    }

    @classmethod
    def run(cls, scene: Scene) -> Section:
        assert scene.levels is not None
        low, high = scene.levels
        x = scene.x[: scene.effort.samples]
        return cls(blur(scene.model, x, low=low, high=high, seed=scene.seed))

    def tables(self) -> list[Table]:
        both = ("high_frequency_energy", "laplacian_variance")
        lines = []
        for name, title in self.names.items():
            lines.append((title, 0, [plus_minus(self[which].get(name)) for which in both]))
        if averaged := self.get("averaged"):
            cells = [plus_minus(averaged[which]) for which in both]
            lines.insert(2, ("reconstructions: mean over z from q", 0, cells))
        split = [
            (title, depth, [plus_minus(self["split"].get(name))])
            for name, (title, depth) in self.parts.items()
        ]
        columns = ("images", "high-frequency energy", "variance of the Laplacian")
        return [
            Table("Sharpness", columns, lines),
            Table(
                "The split of the lost sharpness", ("of the high-frequency energy", "energy"), split
            ),
        ]

    def small(self) -> list[str]:
        lines = [
            f"{number(self['num_data'])} images; the larger, the sharper. It is draws that should "
            f"be as sharp as the data; means lack what the model takes for noise."
        ]
        if averaged := self.get("averaged"):
            lines.append(
                f"The mean over z from q has {plus_minus(averaged['ratio'])} of the energy of the "
                f"data{CAUSES.get(self.get('cause') or '', '')}."
            )
        if optimum := self.get("optimum"):
            lines.append(
                f"On the way to the best z, log p(x|z) rose by {plus_minus(optimum['rise'])} nats, "
                f"by {plus_minus(optimum['late_rise'])} in the last quarter of "
                f"{number(self['steps'])} steps; log p(z) changed by "
                f"{plus_minus(optimum['log_prior'])} nats (far below zero: the model would never "
                f"draw that z)."
            )
        return lines
