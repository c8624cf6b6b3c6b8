r"""What an audit says of a model with several groups of latent variables: the rate of each,
$\mathrm{KL}(q(z_l \mid z_{<l}, x) \,\|\, p(z_l \mid z_{<l}))$, averaged over the groups above it.

Their sum is the rate of the model. How it is shared out belongs to the order in which the groups
are drawn, and the sum does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from taut.data.rows import Rows
from taut.distributions.chain import Chain
from taut.evidence.finding import Finding
from taut.evidence.latents import DEAD
from taut.evidence.results import Estimate
from taut.evidence.section import Row, Scene, Section
from taut.evidence.text import number
from taut.model import Group, Model
from taut.models.hierarchical import HierarchicalVAE
from taut.system.precision import wide
from taut.system.records import COUNT, ESTIMATE, TEXT
from taut.use.blocks import Block, blocks_of, device_of

__all__ = ["Levels", "rates_of_groups"]

DRAWS = 16
ROWS = 32
LEVELS = {"name": TEXT, **ESTIMATE}


class Levels(Section):
    """The rate of each level of a model that has several."""

    name, title, chapter = "levels", "The levels", "why"
    order, told = 79, False
    references = ("sonderby2016",)
    shape: ClassVar = {"num_data": COUNT, "num_samples": COUNT, "levels": [LEVELS]}

    @classmethod
    def lacks(cls, scene: Scene) -> str | None:
        return None if _has_groups(scene.model, scene.x) else ""

    @classmethod
    def run(cls, scene: Scene) -> Section:
        levels = rates_of_groups(scene.model, scene.x, groups=scene.groups, seed=scene.seed)
        return cls({"num_data": len(scene.x), "num_samples": DRAWS, "levels": levels})

    def rows(self) -> list[Row]:
        return [
            Row(f"rate of {level['name']}", level, 1, f"  rate of {level['name']}")
            for level in self["levels"]
        ]

    def text(self) -> list[str]:
        return [
            f"Each level is drawn given those above it, the top first, and pays a rate of its own; "
            f"by {number(self['num_samples'])} draws for each {self.noun}. Another order would "
            "share the same sum out in another way."
        ]

    def findings(self, others: Mapping[str, Section]) -> Iterator[Finding]:
        levels = self["levels"]
        dead = [level["name"] for level in levels if _is_dead(level)]
        if dead and len(dead) < len(levels):  # all of them are a collapse, which is another finding
            one = len(dead) == 1
            yield Finding(
                "dead levels",
                0.0,
                None,
                "",
                f"{len(dead)} of {len(levels)} levels {'is' if one else 'are'} unused: harmless",
                f"{', '.join(dead)}: a rate below {DEAD} nat each",
                "fewer levels for the same numbers, or free bits, by which a level may fill up",
                f'taut fit DATA --model "HierarchicalVAE(levels={len(levels) - len(dead)})"',
            )


def _is_dead(level: Mapping[str, Any]) -> bool:
    return level["value"] is not None and level["value"] < DEAD


def _has_groups(model: Model, x: Tensor) -> bool:
    """Returns whether the latent variables of a model stand in several groups."""
    if isinstance(model, HierarchicalVAE):
        return model.levels > 1
    some = x[:1].to(device=device_of(model), dtype=torch.get_default_dtype())
    with torch.no_grad():
        prior = model.latent_prior(model.split(some)[1])
    return isinstance(prior, Chain) and len(prior.groups) > 1


def rates_of_groups(
    model: Model, x: Rows, *, groups: Tensor | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """Returns the rate of each group of latent variables, nats a data point, as plain values.

    Args:
        model: A model whose groups are known.
        x: Data.
        groups: The group of equal rows of each data point: see ``Estimate.of``.
        seed: The same seed gives the same numbers.
    """
    names: list[str] = []

    def compute(block: Block) -> Tensor:
        draw = model.draw(block.x, DRAWS, context=block.context, reparameterize=False)
        names[:] = [group.name for group in draw.groups]
        rates = torch.stack([_each(group) for group in draw.groups])  # (L, K, B)
        return torch.stack([wide(rates).mean(1), wide(rates).std(1) / DRAWS**0.5]).cpu()

    every = torch.cat(list(blocks_of(model, x, ROWS, compute, seed=seed, name="levels")), -1)
    return [
        {"name": name, **Estimate.of(every[0, i], every[1, i], groups).to_dict()}
        for i, name in enumerate(names)
    ]


def _each(group: Group) -> Tensor:
    """Returns the rate of a group given each sample of those above, (K, B)."""
    rate = group.analytic_rate
    if rate is None:
        rate = group.log_posterior - group.log_prior
    return rate.expand_as(group.log_prior)
