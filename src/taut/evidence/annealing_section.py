"""What an audit says of annealing."""

from __future__ import annotations

from typing import ClassVar

from taut.evidence.annealing import Annealed, annealing_blocks
from taut.evidence.section import Row, Scene, Section, UnmeasuredError
from taut.evidence.text import number
from taut.evidence.text import share as percent
from taut.system.records import COUNT, ESTIMATE, NUMBER, TEXT

__all__ = ["Annealing"]


class Annealing(Section):
    """log p(x) by annealing."""

    name, title, chapter = "annealing", "Annealing", "loose"
    order, stage, share = 30, "log p(x) by annealing", 0.28
    needs = ("approximation",)
    references = ("neal2001", "wu2017")
    shape: ClassVar = {
        "num_data": COUNT,
        "num_chains": COUNT,
        "num_temperatures": NUMBER,
        "acceptance?": NUMBER,
        "reliable_share?": NUMBER,
        "ess": {"mean": NUMBER, "smallest": NUMBER},
        "log_evidence": ESTIMATE,
        "warnings?": [TEXT],
    }

    @classmethod
    def work(cls, scene: Scene) -> float:
        return 0.3 * len(scene.x) * scene.effort.num_chains * scene.effort.max_temperatures

    @classmethod
    def run(cls, scene: Scene) -> Section:
        effort = scene.effort
        try:
            blocks = annealing_blocks(
                scene.model,
                scene.x,
                effort.num_chains,
                max_temperatures=effort.max_temperatures,
                seed=scene.seed,
            )
            parts = scene.clock.blocks(blocks, lambda a: len(a.ess), len(scene.x))
        except ValueError as error:
            raise UnmeasuredError(error) from error
        scene.annealed = Annealed.concatenate(parts)
        return cls(scene.annealed.to_dict())

    def rows(self) -> list[Row]:
        return [Row("log p(x), annealing", self["log_evidence"], brief="log p(x), annealing")]

    def text(self) -> list[str]:
        ess = self["ess"]
        return [
            f"{number(self['num_chains'])} chains for each {self.noun}, on average "
            f"{number(ess['mean'])} of them effective and {number(ess['smallest'])} for the worst, "
            f"{number(self['num_temperatures'])} temperatures, {percent(self.get('acceptance'))} "
            f"of the moves accepted; reliable for {percent(self.get('reliable_share'))} of the "
            f"{self.noun}s."
        ]
