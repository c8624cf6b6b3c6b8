"""Each column of a table, or gene of counts: what it was read as, and what the others say of it.

log p of each entry given the others of its row, by the model, next to log p under the marginal of
its column: the difference is what the model knows of the column from the others. Where columns are
many that would take a posterior for each entry, and the mean of log p(entry | z) over the posterior
of the whole row stands for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from taut.distributions.observed import terms
from taut.evidence.cells import cell_scores
from taut.evidence.results import Estimate
from taut.evidence.section import ColumnFacts, Scene, Section, Table, UnmeasuredError
from taut.evidence.text import number, plus_minus
from taut.model import Model
from taut.system.records import COUNT, ESTIMATE, TEXT, TRUTH
from taut.system.seeds import derive, stream
from taut.use.blocks import Block, blocks_of

__all__ = ["ColumnFacts", "EachColumn"]

ROWS, SAMPLES = 100, 200  # looked at, and K
MANY, DRAWS = 50, 16  # columns from which on the posterior of the row serves, and draws of it
LISTED = 30  # columns, those that gain most; of a table all that fit on a page
TABLE = 200


class EachColumn(Section):
    """Columns of tables and counts, one by one."""

    name, title, chapter = "columns", "Column by column", "good"
    order, stage, share = 85, "each column given the others", 0.03
    needs = ("columns", "conditionals")
    told = False
    shape: ClassVar = {
        "num_data": COUNT,
        "num_columns": COUNT,
        "word": TEXT,
        "many": TRUTH,
        "columns": [
            {
                "name": TEXT,
                "kind?": TEXT,
                "read_as?": TEXT,
                "missing?": TEXT,
                "alone": ESTIMATE,
                "given_others": ESTIMATE,
                "gain": ESTIMATE,
            }
        ],
    }

    @classmethod
    def work(cls, scene: Scene) -> float:
        assert scene.columns is not None
        n, columns = len(scene.x[:ROWS]), len(scene.columns.names)
        return 7.0 * n * columns * SAMPLES if columns < MANY else float(n * DRAWS)

    @classmethod
    def run(cls, scene: Scene) -> Section:
        known = scene.columns
        assert known is not None
        x = scene.x[:ROWS]
        n, many = len(x), len(known.names) >= MANY
        measure = _at_posterior if many and scene.lacks("code") is None else _given_others
        try:
            value, error = measure(scene.model, x, derive(scene.seed, "columns"))
        except ValueError as why:  # a likelihood of the user's own need not say it
            raise UnmeasuredError(why) from None
        there = ~scene.model.split(x)[0].isnan().cpu()
        alone = known.marginals[:n].double()
        columns = [
            _column(known, i, there[:, i], alone[:, i], value[:, i], error[:, i])
            for i in range(len(known.names))
            if bool(there[:, i].any())
        ]
        most = TABLE if known.facts else LISTED
        columns.sort(key=lambda c: -(c["gain"]["value"] or 0.0))
        values = {"num_data": n, "num_columns": len(known.names), "word": known.word, "many": many}
        return cls({**values, "columns": columns[:most]})

    def tables(self) -> list[Table]:
        given = "at the posterior" if self["many"] else "given the others"
        titles: list[str] = [self["word"], "gain, nats", given, "alone"]
        facts = any(c.get("kind") for c in self["columns"])
        if facts:
            titles += ["kind", "missing", "read as"]
        lines = []
        for column in self["columns"]:
            cells = [plus_minus(column[key]) for key in ("gain", "given_others", "alone")]
            if facts:
                cells += [column["kind"], column["missing"] or "0 %", column["read_as"]]
            lines.append((column["name"], 0, cells))
        return [Table(self.title, titles, lines)]

    def text(self) -> list[str]:
        word, listed, count = self["word"], len(self["columns"]), self["num_columns"]
        which = f"The {number(listed)} of {number(count)} {word}s"
        how = f"log p of a value given the others of its {self.noun}"
        if self["many"]:
            how = (
                f"log p of a value given z, z by the posterior of the {self.noun} (it has seen the "
                f"value, so that gains are somewhat too large)"
            )
        return [
            f"{which} that gain most over knowing each {word} alone: {how}, less log p of it by "
            f"the distribution of its {word}, on average over {number(self['num_data'])} "
            f"{self.noun}s. A {word} without a gain tells nothing of the others, or the model has "
            f"not learnt what."
        ]


def _given_others(model: Model, x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Returns log p of each entry given the others of its row and its error, (N, C) each."""
    scores = cell_scores(model, x, SAMPLES, seed=seed)
    return scores.value, scores.error


def _at_posterior(model: Model, x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Returns the mean of log p(entry | z) over the posterior and its error, (N, C) each."""

    def compute(block: Block) -> Tensor:
        modelled, context = model.split(block.x)
        with stream(seed, "columns", block.number):
            z = model.encode(block.x).sample(torch.Size((DRAWS,)))
        each = terms(model.decode(z, context), modelled).double()
        return torch.stack([each.mean(0), each.std(0) / DRAWS**0.5], 1).cpu()

    both = torch.cat(list(blocks_of(model, x, ROWS, compute)))
    return both[:, 0], both[:, 1]


def _column(
    known: ColumnFacts, i: int, there: Tensor, alone: Tensor, value: Tensor, error: Tensor
) -> Mapping[str, Any]:
    """Returns what is known of one column, over the rows where it is there."""
    alone, value, error = alone[there], value[there].double(), error[there].double()
    exact = torch.zeros_like(alone)
    facts: dict[str, str] = {}
    if known.facts:
        facts = dict(zip(("kind", "read_as", "missing"), known.facts[i], strict=True))
    return {
        "name": known.names[i],
        **facts,
        "alone": Estimate.of(alone, exact).to_dict(),
        "given_others": Estimate.of(value, error).to_dict(),
        "gain": Estimate.of(value - alone, error).to_dict(),
    }
