r"""A check of the scale of a Normal likelihood: is it right, and is it at its floor?

With standardized residuals $e = (x - m(z)) / \sigma(z)$, $z \sim q(z \mid x)$, a right scale has
$\mathbb{E}[e_i^2] = 1$. Multiplying it by $c_i = \sqrt{\mathbb{E}[e_i^2]}$, found on one half of
the data, changes the log-likelihood of the other half by $\sum_i \tfrac12 e_i^2 (1 - c_i^{-2}) -
\log c_i$: the immediate gain from a better scale. A density has no upper limit, so a scale at its
floor means that the floor, and not the data, decides how good the number looks.

References: rybkin2021.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Normal

from taut.evidence.ascent import base_of
from taut.evidence.finding import Finding, counts, show
from taut.evidence.gaps_section import tighten_first
from taut.evidence.remedies import again, rescaled
from taut.evidence.results import Estimate
from taut.evidence.section import Scene, Section
from taut.evidence.text import number, plus_minus, share
from taut.model import Model
from taut.system.records import ESTIMATE, KNOWN, NUMBER
from taut.types import Context, Data
from taut.use.blocks import Block, blocks_of

__all__ = ["scale_check"]

ROWS, DRAWS = 128, 4  # at a time, and of z for each
NEAR = 2.0  # multiple of the floor up to which a scale counts as being there


def scale_check(
    model: Model, x: Data, *, context: Context | None = None, seed: int = 0
) -> dict[str, Any] | None:
    r"""Returns the gain from refitting the scale of a Normal likelihood, in nats per data point, as
    plain values.

    Args:
        model: The model.
        x: Data, (N, \*event), at least 4.
        context: The context of the model, (N, C), if it is conditional.
        seed: The same seed gives the same numbers.

    Returns:
        ``gain`` of a refit, ``factor`` (median, smallest and largest $c_i$), ``at_floor`` (share of
        the scales within twice the floor of a learned scale; None if there is no floor). None for
        another likelihood.
    """

    def squared(block: Block) -> tuple[Tensor, Tensor | None] | None:
        q = model.encode(block.x, block.context)
        values, c = model.split(block.x, block.context)
        decoded = model.decode(q.sample(torch.Size((DRAWS,))), c)
        base = base_of(decoded)
        if not isinstance(base, Normal):
            return None
        square = ((values - base.loc) / base.scale).square().double().mean(0)
        return square.flatten(1).cpu(), _at_floor(model, base.scale[0])

    found = list(blocks_of(model, x, ROWS, squared, context=context, seed=seed, name="scale"))
    known_parts = [part for part in found if part is not None]
    if len(x) < 4 or not known_parts:
        return None
    squares, floors = zip(*known_parts, strict=True)
    square = torch.cat(squares)
    fit, measure = square[::2], square[1::2]
    factor = fit.nanmean(0).sqrt()  # missing entries have no residual
    gain = torch.where(measure.isnan(), 0.0, 0.5 * measure * (1 - factor**-2) - factor.log()).sum(1)
    known = [f for f in floors if f is not None]
    at_floor = float(torch.cat(known).double().mean()) if known else None
    return {
        "gain": Estimate.of(gain).to_dict(),
        "factor": {
            "median": float(factor.median()),
            "smallest": float(factor.min()),
            "largest": float(factor.max()),
        },
        "at_floor": at_floor,
    }


def _at_floor(model: Model, scale: Tensor) -> Tensor | None:
    """Returns a mask of the scales at the floor of a learned scale; None if it has no floor."""
    floor = model.scale_floor
    if floor is None:
        return None
    return (scale < NEAR * floor).flatten().cpu()


class Scale(Section):
    """Whether the scale of a Normal likelihood is the right one."""

    name, title, chapter, order, place = "scale", "The scale of the likelihood", "why", 21, 101
    needs = ("code",)
    absent = "it is for a Normal likelihood"
    references = ("rybkin2021",)
    shape: ClassVar = {
        "gain": ESTIMATE,
        "factor": {"median": KNOWN, "smallest": KNOWN, "largest": KNOWN},
        "at_floor?": NUMBER,
    }

    @classmethod
    def run(cls, scene: Scene) -> Section | None:
        found = scale_check(scene.model, scene.x, seed=scene.seed)
        if found is None:
            return None
        return cls(found)

    def text(self) -> list[str]:
        factor, floor = self["factor"], self.get("at_floor")
        at_floor = ""
        if floor is not None:
            at_floor = f" {share(floor)} of the scales stand at their floor."
        return [
            f"Refitting the scale alone would gain {plus_minus(self['gain'])} nats. The median "
            f"held-out residual is {number(factor['median'])} scales wide, "
            f"{number(factor['smallest'])} to {number(factor['largest'])} over the "
            f"elements.{at_floor}"
        ]

    def findings(self, others: Mapping[str, Section]) -> Iterator[Finding]:
        gain, floor = self["gain"], self.get("at_floor") or 0.0
        if gain["value"] is None or (floor == 0 and not counts(gain)):
            return
        factor = self["factor"]
        numbers = (
            f"the median held-out residual is {factor['median']:.3g} scales wide "
            f"({factor['smallest']:.3g} to {factor['largest']:.3g}); refitting the scale alone "
            f"gives {show(gain)}{tighten_first(others)}"
        )
        if floor > 0:
            yield Finding(
                "scale at its floor",
                max(gain["value"], 0.0),
                gain["test_error"],
                "density",
                "the scale of the Normal likelihood stands at its floor: the floor decides how "
                "good the density looks, not the data",
                f"{floor:.0%} of the scales are within twice the floor; {numbers}",
                "look for constant or rounded columns (levels have no density), or choose the "
                "floor on purpose",
                again(self.run_parts, likelihood="Normal(scale='per_feature', min_scale=0.0001)"),
            )
            return
        yield Finding(
            "scale",
            gain["value"],
            gain["test_error"],
            "density",
            "the scale of the Normal likelihood does not fit the residuals",
            numbers,
            "let the scale be learned, for each feature",
            rescaled(self.run_parts),
        )
