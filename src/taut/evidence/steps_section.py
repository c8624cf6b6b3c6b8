r"""What an audit says of a model of many steps: what a sample costs, what more steps would buy, and
where along the way the nats go.

$\mathrm{ELBO}_T$ of one network rises with T, without training, towards that of continuous time;
its error falls with 1 / T, so that $2 \, \mathrm{ELBO}_{2T} - \mathrm{ELBO}_T$ (Richardson) misses
it by the order of 1 / T². Both are measured, on the same noise: they check each other.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from taut.evidence.results import Estimate
from taut.evidence.section import Row, Scene, Section
from taut.evidence.text import number
from taut.models.diffusion import Diffusion
from taut.models.stepwise import StepwiseModel, spread
from taut.system.precision import wide
from taut.system.records import COUNT, ESTIMATE, NUMBER
from taut.use.blocks import Block, blocks_of

__all__ = ["Steps"]

ROWS = 32
LATTICES, PLACES = 10, 40  # of times for each data point
QUARTERS = 4
NAMES = ("read_out", "top", "first", "second", "third", "fourth")


class Steps(Section):
    """What the steps of a model cost, and where the nats go along them."""

    name, title, chapter = "steps", "Many small steps", "why"
    order = 51
    told = False
    references = ("kingma2021", "uria2014")
    shape: ClassVar = {
        "num_data": COUNT,
        "passes?": NUMBER,
        "bounds?": [{"steps": COUNT, **ESTIMATE}],
        "richardson?": ESTIMATE,
        "continuous?": ESTIMATE,
        "more_steps?": ESTIMATE,
        "rates?": dict.fromkeys(NAMES, ESTIMATE),
    }

    @classmethod
    def lacks(cls, scene: Scene) -> str | None:
        return None if isinstance(scene.model, StepwiseModel) else ""

    @classmethod
    def run(cls, scene: Scene) -> Section:
        model = scene.model
        assert isinstance(model, StepwiseModel)
        values: dict[str, Any] = {"num_data": len(scene.x), "passes": model.passes}
        if isinstance(model, Diffusion):
            values |= _of_diffusion(model, scene.x, scene.seed, scene.groups)
        return cls(values)

    def rows(self) -> list[Row]:
        rows = [
            Row(f"ELBO of T = {number(each['steps'])} steps", each)
            for each in self.get("bounds") or []
        ]
        if self.get("richardson"):
            rows.append(Row("ELBO of any number of steps, by Richardson", self["richardson"]))
            rows.append(Row("what more steps buy, without training", self["more_steps"]))
        if self.get("continuous"):
            rows.append(Row("ELBO of continuous time", self["continuous"]))
        if rates := self.get("rates"):
            ends = [f"quarter {i} of log-SNR, the clearest first" for i in range(1, QUARTERS + 1)]
            titles = ["distortion of the read-out", "rate of the top, z_1", *ends]
            rows += [Row(title, rates[name], 1) for title, name in zip(titles, NAMES, strict=True)]
        return rows

    def text(self) -> list[str]:
        if self.get("passes") is None:
            return ["In continuous time there is no path to weigh: the bound alone is known."]
        return [
            f"A sample takes {number(self['passes'])} passes of the network, and so does a whole "
            "draw, which alone has an importance weight. The posterior is fixed: the amortization "
            "gap is 0 by construction. What is left is the network's, and nothing tells its parts "
            "apart."
        ]


def _of_diffusion(model: Diffusion, x: Tensor, seed: int, groups: Tensor | None) -> dict[str, Any]:
    steps = model.steps
    twins = [model.of_steps(None)]
    if steps is not None:
        twins = [model.of_steps(n) for n in (max(1, steps // 2), steps, 2 * steps, None)]

    def compute(block: Block) -> Tensor:
        lattices = []
        for _ in range(LATTICES):
            place = spread(PLACES, len(block.x), model.start.detach())
            shape = (*place.shape, model.dim)
            noise, last = (torch.randn(shape, device=place.device).to(place) for _ in range(2))
            own = [_parts(twin, block.x, place, noise, last) for twin in twins]
            lattices.append(torch.stack(own))
        return torch.stack(lattices).cpu()  # (lattices, twins, parts, B)

    every = torch.cat(list(blocks_of(model, x, ROWS, compute, seed=seed, name="steps")), -1)
    bounds = every[:, :, 0] - every[:, :, 1:].sum(2)

    def estimate(values: Tensor) -> dict[str, float | None]:
        error = values.std(0) / LATTICES**0.5
        return Estimate.of(values.mean(0), error, groups).to_dict()

    own = 0 if steps is None else 1
    rates = every[:, own].clone()
    rates[:, 0] = -rates[:, 0]
    found: dict[str, Any] = {
        "continuous": estimate(bounds[:, -1]),
        "rates": {name: estimate(rates[:, i]) for i, name in enumerate(NAMES)},
    }
    if steps is None:
        return found
    limit = 2 * bounds[:, 2] - bounds[:, 1]
    return found | {
        "bounds": [
            {"steps": twin.steps, **estimate(bounds[:, i])} for i, twin in enumerate(twins[:-1])
        ],
        "richardson": estimate(limit),
        "more_steps": estimate(limit - bounds[:, 1]),
    }


def _parts(model: Diffusion, x: Tensor, place: Tensor, noise: Tensor, last: Tensor) -> Tensor:
    """Returns the log-likelihood, the rate of the top and those of the quarters of the log-SNR,
    means over the places, (6, B).
    """
    time = model.times(place)
    found = model.terms(x, time, noise, last)
    first, final = model.gamma(torch.tensor([0.0, 1.0], dtype=time.dtype, device=time.device))
    middle = time if model.steps is None else time - 0.5 / model.steps
    share = (model.gamma(middle) - first) / (final - first)
    quarter = (QUARTERS * share).floor().clamp(0, QUARTERS - 1)
    steps = [wide(found.step_rate * (quarter == q)).mean(0) for q in range(QUARTERS)]
    return torch.stack([wide(found.log_likelihood).mean(0), wide(found.prior_rate).mean(0), *steps])
