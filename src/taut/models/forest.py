r"""Several hidden trees, one of which a row is of: what no tree has on its edges another may have.

$$ p(x) = \sum_m \frac{1}{M} \, p_m(x) $$

A tree of C columns has C - 1 edges and leaves out most dependences. Each tree of the mixture
therefore spans columns whose dependence the trees before it have not: the mutual information of a
pair counts half as much for every tree that it is already an edge of. The trees are trained one
after the other, each up to the pass at which the mixture of it and those before it is best on the
validation rows, so that a tree may follow the training rows more closely than one alone; a tree
that makes the mixture no better is the last, and omitted.

References: meila2000, chow1968.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, constraints

from taut.data.tables.kind import Grid
from taut.distributions.trees import CategoricalTree
from taut.model import Resizing
from taut.models.emitted import Emitted
from taut.models.exact import ExactModel, Pass
from taut.models.structure import mutual_information
from taut.models.trees import HiddenTree, blurred
from taut.types import Context, Data, PerDatum

__all__ = ["HiddenForest"]

AGAIN = 0.5  # of the information of a pair that is an edge of one more tree already


class HiddenForest(Resizing, ExactModel):
    r"""Creates a mixture of hidden trees of equal weights, each on a tree of its own.

    The joined z is the number of the tree and its states, [m, z_1, ..., z_n]. Evidence, posterior
    and conditionals are exact.

    Args:
        event_shape: Shape of one data point.
        kinds: Of each column of a table, or of all elements of an array: see ``Mixture``.
        num_trees: M, at most.
        num_states: Number of states of each node of every tree; by default it is chosen as by
            ``HiddenTree``, for the first.
        num_levels: Of each column, 0 for numbers.
        low: Smallest value of each column, minus infinity where none is known.
        high: Largest value, likewise.
        grids: Of each column of numbers that lie on a known grid (``Columns``).
        knots: Of the marginal of each column of mixed numbers, (columns, 2, knots): see ``warps``.
        slack: Nats a row of validation log p(x) that each tree may give up: see ``Mixture``.
        blur: Scale of the noise that is added to the rows: see ``Mixture``.

    Raises:
        ValueError: fewer than one tree or state, or a negative slack or blur.

    References: meila2000, chow1968.
    """

    log_weight: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        kinds: Sequence[str] | str,
        num_trees: int = 4,
        num_states: int | None = None,
        num_levels: Sequence[int] | None = None,
        low: Tensor | float = -math.inf,
        high: Tensor | float = math.inf,
        grids: Sequence[Grid | None] | None = None,
        knots: Tensor | None = None,
        slack: float = 0.0,
        blur: float | None = None,
    ) -> None:
        super().__init__()
        if num_trees < 1:
            raise ValueError(f"num_trees must be at least 1, not {num_trees}")
        self.event_shape, self.slack, self.blur = tuple(event_shape), slack, blur
        self.num_trees, self.num_states = num_trees, num_states
        self.trees = nn.ModuleList(
            HiddenTree(
                event_shape, kinds, num_states, num_levels, low, high, grids, knots, slack, blur
            )
            for _ in range(num_trees)
        )
        self.register_buffer("log_weight", torch.zeros(num_trees))
        self._grows = 0
        self._weigh(num_trees)

    def in_training(self) -> nn.Module:
        return self.trees[self._grows]

    def _weigh(self, used: int) -> None:
        """Gives the first trees equal weights, and the others none."""
        self.log_weight.fill_(-math.inf)
        self.log_weight[:used] = -math.log(used)

    @property
    def used(self) -> list[HiddenTree]:
        """The trees of a weight above zero."""
        number = int((self.log_weight > -math.inf).sum())
        return self._all()[:number]

    # --- A model ---

    def _each(self, x: Data) -> Tensor:
        """Returns log p(x, m), (B, M), less what all states of the first tree have in common."""
        return self._separate(x)[0]

    def _separate(self, x: Data) -> tuple[Tensor, Tensor]:
        """Returns that, and what they have in common, (B,)."""
        parts = (tree.separate(x) for tree in self.used)
        own, common = (torch.stack(part, 1) for part in zip(*parts, strict=True))
        apart = torch.where(common == common[:, :1], 0.0, common - common[:, :1])
        return own + apart + self.log_weight[: own.shape[1]], common[:, 0]

    def log_prob(self, x: Data, context: Context | None = None) -> PerDatum:
        each, common = self._separate(x)
        return each.logsumexp(1) + common

    def encode(self, x: Data, context: Context | None = None) -> TreeAndStates:
        trees = [tree.encode(x) for tree in self.used]
        return TreeAndStates(self._each(x), trees)

    def decode(self, z: Tensor, context: Context | None = None) -> Distribution:
        parts = [tree.decode(z[..., 1:]) for tree in self.used]
        return OneOf(z[..., 0].long(), [p for p in parts if isinstance(p, Emitted)])

    def embed(self, x: Data, context: Context | None = None) -> Tensor:
        """Returns the posterior probability of each state of each node of each tree, (B, M n S)."""
        share = self._each(x).softmax(1)
        parts = [tree.embed(x) for tree in self.used]
        return torch.cat([share[:, m : m + 1] * part for m, part in enumerate(parts)], 1)

    def point(self, x: Data, context: Context | None = None) -> Tensor:
        """Returns the most probable tree and the most probable state of each of its nodes,
        (B, 1 + n).
        """
        chosen = self._each(x).argmax(1)
        states = torch.stack([tree.point(x) for tree in self.used])
        own = states[chosen, torch.arange(len(x), device=chosen.device)]
        return torch.cat([chosen[:, None].to(own), own], 1)

    def latent_prior(self, context: Context | None = None) -> TreeAndStates:
        trees = [tree.latent_prior() for tree in self.used]
        return TreeAndStates(self.log_weight[: len(trees)], trees)

    def typical(self, x: Data, context: Context | None = None) -> Tensor:
        share, trees = self._each(x).softmax(1), self.used
        each = zip(*(tree.expected(x) for tree in trees), strict=True)
        expected = [
            torch.stack([share[:, m : m + 1] * part for m, part in enumerate(column)]).sum(0)
            for column in each
        ]
        return trees[0].emissions.typical(expected).view(x.shape)

    def cell_scores(self, x: Data, context: Context | None = None) -> Tensor:
        log_share = self._each(x).log_softmax(1).T
        scores = torch.stack([tree.cell_scores(x) for tree in self.used])
        # p(x without the entry) / p(x) is the posterior mean of the same of each tree.
        return -(log_share.view(-1, len(x), *[1] * (x.dim() - 1)) - scores).logsumexp(0)

    # --- Training ---

    @property
    def limited(self) -> bool:  # type: ignore[override]
        return any(tree.limited for tree in self._all())

    def maximize(
        self, train: Tensor, validation: Tensor, *, max_passes: int, seed: int = 0
    ) -> Iterator[Pass]:
        self._weigh(1)
        train, validation = blurred(train, validation, self._all()[0].noise, seed)
        information = mutual_information(train.flatten(1))
        others: Tensor | None = None
        number, best = 0, -math.inf
        for m, tree in enumerate(self._all()):
            self._grows, tree.information, tree.limited = m, information, False
            grown = self._grown(tree, train, validation, max_passes, seed + m, others)
            with closing(grown):
                try:
                    for step in grown:
                        number, share = number + 1, (m + step.share) / self.num_trees
                        reached = step.validation - math.log(m + 1)
                        yield step._replace(number=number, validation=reached, share=share)
                finally:  # also where the passes are stopped
                    grown.close()
                    tree.information = None
                    if m == 0:
                        self.num_states = tree.num_states
                    own = self._on(tree, validation)
                    others = own if others is None else torch.logaddexp(others, own)
                    reached = float(others.mean()) - math.log(m + 1)
                    better = not reached <= best  # there may be no validation rows
                    if better:
                        self._weigh(m + 1)
            if not better:
                break
            best = reached
            for node, parent in enumerate(tree.parents.tolist()):
                if parent >= 0:
                    less = (1 - AGAIN) * abs(information[node, parent])
                    information[[node, parent], [parent, node]] -= less

    def _all(self) -> list[HiddenTree]:
        return [tree for tree in self.trees if isinstance(tree, HiddenTree)]

    def _grown(
        self,
        tree: HiddenTree,
        train: Tensor,
        validation: Tensor,
        max_passes: int,
        seed: int,
        others: Tensor | None,
    ) -> Generator[Pass, None, None]:
        if others is None:
            yield from tree.searched(train, validation, max_passes, seed)
            return
        states = tree.num_states = self.num_states
        assert states is not None
        yield from tree.fitted(train, validation, states, max_passes, seed, others)

    @torch.no_grad()
    def _on(self, tree: HiddenTree, x: Tensor) -> Tensor:
        return tree.log_prob(x.to(self.log_weight)).double()


class TreeAndStates(Distribution):
    r"""Creates the distribution of the number of a tree and its states, (\*, 1 + n).

    Args:
        logits: Of the trees, (M,) or (B, M).
        trees: Distributions of the states of each.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own protocol)
    has_rsample = False

    def __init__(self, logits: Tensor, trees: Sequence[CategoricalTree]) -> None:
        self.chosen = Categorical(logits=logits, validate_args=False)
        self.trees, self.log_normalizer = list(trees), logits.logsumexp(-1)
        event = torch.Size((1 + trees[0].event_shape[0],))
        super().__init__(trees[0].batch_shape, event, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.nonnegative_integer, 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> TreeAndStates:
        trees = [tree.expand(batch_shape) for tree in self.trees]
        logits = self.chosen.logits
        return TreeAndStates(logits.expand(*batch_shape, logits.shape[-1]), trees)

    def log_prob(self, value: Tensor) -> Tensor:
        each = torch.stack([tree.log_prob(value[..., 1:]) for tree in self.trees], -1)
        return (self.chosen.logits + each).gather(-1, value[..., :1].long())[..., 0]

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            chosen = self.chosen.sample(torch.Size(sample_shape))
            chosen = chosen.expand(torch.Size(sample_shape) + self.batch_shape)
            z = self.trees[0].sample(torch.Size(sample_shape))
            for m, tree in enumerate(self.trees[1:], 1):
                own = tree.sample(torch.Size(sample_shape))
                z = torch.where((chosen == m)[..., None], own, z)
            return torch.cat([chosen[..., None].to(z), z], -1)


class OneOf(Distribution):
    r"""Creates $p(x \mid m, z)$: what the tree m emits.

    Args:
        chosen: m, (\*).
        parts: What each tree would, given its states.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, chosen: Tensor, parts: Sequence[Emitted]) -> None:
        self.chosen, self.parts = chosen, list(parts)
        super().__init__(chosen.shape, parts[0].event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> OneOf:
        return OneOf(
            self.chosen.expand(batch_shape), [part.expand(batch_shape) for part in self.parts]
        )

    @property
    def support(self) -> constraints.Constraint:
        return self.parts[0].support

    @property
    def mean(self) -> Tensor:
        """The mean of numbers, the most probable of levels."""
        return self._of([part.mean for part in self.parts], len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return self._of([part.log_prob(value) for part in self.parts], 0)

    def terms(self, value: Tensor) -> Tensor:
        r"""Returns the log-probability of each element, (\*batch, \*event): zero if missing."""
        return self._of([part.terms(value) for part in self.parts], len(self.event_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape)
        return self._of([part.sample(shape) for part in self.parts], len(self.event_shape))

    def _of(self, each: Sequence[Tensor], dims: int) -> Tensor:
        """Returns that of the chosen tree, of the same with so many axes of the event."""
        found = each[0]
        for m, own in enumerate(each[1:], 1):
            chosen = (self.chosen == m).view(*self.chosen.shape, *[1] * dims)
            found = torch.where(chosen, own, found)
        return found
