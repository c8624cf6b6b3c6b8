r"""Latent categories whose sum is exact: one for the whole row, or one for each column, on a tree.

$$ p(x) = \sum_{z_1, \dots, z_n} p(z_r) \prod_{j \ne r} p(z_j \mid z_{\mathrm{pa}(j)})
   \prod_c p(x_c \mid z_{n(c)}) $$

A column hangs on one node; given the states of the nodes the columns are independent. A missing
entry is a column without a factor. Training is expectation maximisation: the passes over the tree
give the expected number of rows in each state and on each edge, and tables, Normals and transitions
that fit such counts best are known in closed form. Rows are taken in batches, each of which moves
the parameters a step towards its own, and the step falls (stepwise EM); with one batch of all rows
and a step of 1 it is the textbook's, under which $\log p$ of rows and pseudo-counts never falls.
(Averages of the counts instead reach the same $\log p$ of validation rows and synthetic rows that
are told apart more easily: states that a batch does not visit then stay as sharp as they are.)

References: dempster1977, chow1968, cappe2009, liu2021.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from taut.data.tables.kind import Grid
from taut.distributions.trees import CategoricalTree, Tree, downward, upward
from taut.model import Resizing
from taut.models.emissions import Counts, Emissions, Seen, Terms
from taut.models.emitted import Emitted
from taut.models.exact import ExactModel, Pass
from taut.models.factor_analysis import MIN_SCALE
from taut.models.structure import chow_liu, spanning_tree
from taut.system.errors import UsageError
from taut.system.seeds import generator
from taut.types import Context, Data, PerDatum

__all__ = ["HiddenTree", "Mixture", "blurred"]

BATCH = 1024
STEP, LAST_STEP = 0.5, 0.02  # of the parameters towards those of the last batch
AVERAGED = 0.1  # of the average of the parameters that is validated and kept
STEPS, FEWEST_PASSES = 250, 20  # planned: the step falls from the first to the last of them
PATIENCE = 10  # passes without better validation rows, and a tenth of those planned
EDGE_COUNT = 1.5  # rows that each state of a parent begins with, spread over the node's states
START_COUNT = 1.0
ELEMENTS = 2**23  # of nodes x rows x states at a time
KEPT = 2**22  # entries whose places in the emissions are kept from pass to pass
FEWEST, MOST = 4, 512  # states that are tried where their number is left to the rows


class _Expected(NamedTuple):
    """Expected counts of rows: in the cells, at the root, (S,), on the edges, (n, S, S)."""

    cells: Counts
    start: Tensor
    edges: Tensor


class _LatentTree(Resizing, ExactModel):
    """What the two have in common: nodes on a tree, and a node for each column."""

    parents: Tensor
    num_states: int | None

    def __init__(
        self,
        event_shape: Sequence[int],
        kinds: Sequence[str] | str,
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
        if not slack >= 0:
            raise ValueError(f"slack is in nats and not negative, and it is {slack}")
        self.slack, self.blur = slack, blur
        self.noise = _usual_blur(kinds, grids) if blur is None else blur
        if not self.noise >= 0:
            raise ValueError(f"blur is a share of a scale and not negative, and it is {blur}")
        if self.noise and not _usual_blur(kinds, grids):
            raise ValueError("blur is for real numbers of which no grid is known: omit it")
        if num_states is not None and num_states < 1:
            raise ValueError(f"num_states must be at least 1, not {num_states}")
        self.event_shape, self.num_states = tuple(event_shape), num_states
        columns = math.prod(self.event_shape)
        if isinstance(kinds, str):
            kinds = [kinds] * columns
        levels = num_levels
        if levels is None:
            levels = [2 if word == "binary" else 0 for word in kinds]
        dtype = torch.get_default_dtype()
        first, last = (
            torch.as_tensor(end, dtype=dtype).expand(self.event_shape) for end in (low, high)
        )
        states = num_states or 1
        self.emissions = Emissions(
            kinds, levels, first.flatten().clone(), last.flatten().clone(), grids, knots, states
        )
        self.register_buffer("parents", torch.tensor(self.usual_parents(columns)))
        self.start = nn.Parameter(torch.zeros(0))
        self.transitions = nn.Parameter(torch.zeros(0))
        self._begin_at_random(states)

    # --- The tree ---

    def usual_parents(self, columns: int) -> list[int]:
        """Returns the tree before the rows are known."""
        return [-1]

    def find_parents(self, x: Tensor) -> list[int]:
        """Returns the tree of training rows, (N, C)."""
        return [-1]

    def _begin_at_random(self, states: int) -> None:
        """Makes transitions that stay in their state half of the time."""
        nodes, base = len(self.parents), self.emissions.base
        stay = (0.5 * torch.eye(states) + 0.5 / states).log().to(base)
        self.start.data = base.new_full((states,), -math.log(states))
        self.transitions.data = stay.expand(nodes if nodes > 1 else 0, -1, -1).clone()

    def tree(self) -> Tree:
        """Returns the distribution of the states, normalised."""
        return self._tree(self.start.log_softmax(-1), self.transitions.log_softmax(-1))

    def _tree(self, start: Tensor, transitions: Tensor) -> Tree:
        if not len(transitions):  # one node has no edge
            transitions = start.new_zeros(1, 1, 1).expand(1, len(start), len(start))
        return Tree(tuple(self.parents.tolist()), start, transitions)

    def _potentials(self, each: Tensor) -> Tensor:
        """Returns what the columns (C, B, S) say of each node, (n, B, S)."""
        if len(self.parents) == 1:
            return each.sum(0, keepdim=True)
        return each

    def _terms(self, x: Tensor) -> Terms:
        own = self.emissions
        return own.terms(own.see(x.flatten(1)), own.tables())

    # --- A model ---

    def encode(self, x: Data, context: Context | None = None) -> CategoricalTree:
        return CategoricalTree(self.tree(), self._potentials(self._terms(x).each))

    def decode(self, z: Tensor, context: Context | None = None) -> Distribution:
        states = z.long()
        if len(self.parents) == 1:
            states = states.expand(*states.shape[:-1], len(self.emissions.kinds))
        return Emitted(self.emissions, states, self.event_shape)

    def embed(self, x: Data, context: Context | None = None) -> Tensor:
        """Returns the posterior probability of each state of each node, (B, n S)."""
        return self.encode(x).marginals.flatten(1)

    def point(self, x: Data, context: Context | None = None) -> Tensor:
        """Returns the most probable state of each node, (B, n)."""
        return self.encode(x).marginals.argmax(-1).to(x)

    def latent_prior(self, context: Context | None = None) -> CategoricalTree:
        return CategoricalTree(self.tree())

    def log_prob(self, x: Data, context: Context | None = None) -> PerDatum:
        return self._log_prob(x)

    def _log_prob(self, x: Data | Seen) -> PerDatum:
        return torch.stack(self.separate(x)).sum(0)

    def separate(self, x: Data | Seen) -> tuple[PerDatum, PerDatum]:
        """Returns log p(x) of rows less what all states have in common, and that, (B,) each: beside
        a number far out the first would be rounding.
        """
        tree, tables, parts = self.tree(), self.emissions.tables(), []
        for seen in self._blocks(x):
            terms = self.emissions.terms(seen, tables)
            own = upward(tree, self._potentials(terms.each)).log_normalizer
            parts.append(torch.stack([own, terms.common.sum(0)]))
        own, common = torch.cat(parts, 1)
        return own, common

    def _blocks(self, x: Data | Seen) -> Iterator[Seen]:
        """Yields rows as the emissions see them, as many at a time as there is memory for."""
        size = max(1, ELEMENTS // (len(self.emissions.kinds) * len(self.start)))
        if isinstance(x, Seen):
            yield from (x.of(rows) for rows in torch.arange(x.row.shape[1]).split(size))
        else:
            yield from (self.emissions.see(some.flatten(1)) for some in x.split(size))

    def _seen(self, x: Tensor) -> Seen | Tensor:
        """Returns rows as the emissions see them, which stays the same in all passes, or the rows
        themselves where they are too many to keep that of them.
        """
        x = x.to(self.emissions.base)
        return x if x.numel() > KEPT else self.emissions.see(x.flatten(1))

    def typical(self, x: Data, context: Context | None = None) -> Tensor:
        return self.emissions.typical(self.expected(x)).view(x.shape)

    def expected(self, x: Data) -> list[Tensor]:
        """Returns of each column the probability of each level given the rows, (B, levels), or of
        numbers their mean, (B, 1).
        """
        tree, own = self.tree(), self.emissions
        table, parts = own.tables(), []
        for seen in self._blocks(x):
            states = self._states(tree, self._potentials(own.terms(seen, table).each))
            parts.append(own.expected(table, states))
        return [torch.cat(column) for column in zip(*parts, strict=True)]

    def _states(self, tree: Tree, potentials: Tensor) -> Tensor:
        """Returns the posterior probability of the state of each column, (C, B, S)."""
        up = upward(tree, potentials)
        states = (up.below + downward(tree, up).above).exp()
        return states.expand(len(self.emissions.kinds), -1, -1)

    def cell_scores(self, x: Data, context: Context | None = None) -> Tensor:
        tree, own = self.tree(), self.emissions
        table, parts = own.tables(), []
        for seen in self._blocks(x):
            each, common, *_ = own.terms(seen, table)
            up = upward(tree, self._potentials(each))
            log_states = up.below + downward(tree, up).above
            # p(x without the entry) / p(x) is the posterior mean of 1 / p(entry | state).
            parts.append((common - (log_states - each).logsumexp(-1)).T)
        scores = torch.cat(parts).view(x.shape)
        return torch.where(x.isnan(), torch.nan, scores)

    # --- Training ---

    def maximize(
        self, train: Tensor, validation: Tensor, *, max_passes: int, seed: int = 0
    ) -> Iterator[Pass]:
        self.limited = False
        rows = blurred(train, validation, self.noise, seed)
        yield from self.searched(*rows, max_passes, seed)

    def searched(
        self, train: Tensor, validation: Tensor, max_passes: int, seed: int
    ) -> Iterator[Pass]:
        """Fits rows as they are; doubles the number of states until the validation rows are worse,
        unless it is given.
        """
        if self.num_states is not None:
            yield from self.fitted(train, validation, self.num_states, max_passes, seed)
            return
        sizes = [FEWEST]
        while sizes[-1] < MOST and 4 * sizes[-1] < len(train):
            sizes.append(2 * sizes[-1])
        if not len(validation):
            sizes = [min(64, sizes[-1])]
        best, kept, number, done = -math.inf, None, 0, 0.0
        total = sum(sizes)
        try:
            for states in sizes:
                highest = -math.inf
                for step in self.fitted(train, validation, states, max_passes, seed):
                    number, highest = number + 1, max(highest, step.validation)
                    share = (done + states * step.share) / total
                    yield step._replace(number=number, share=share)
                done += states
                if kept is not None and not highest > best:
                    break
                best, kept = highest, self._state()
        finally:
            if kept is not None and len(validation):
                self.load_state_dict(kept)
            self.num_states = len(self.start)

    def fitted(
        self,
        train: Tensor,
        validation: Tensor,
        states: int,
        max_passes: int,
        seed: int,
        others: Tensor | None = None,
    ) -> Iterator[Pass]:
        r"""Stepwise EM with so many states, up to the passes that were best on validation rows.

        Args:
            train: Training rows, (N, \*event).
            validation: Validation rows, (M, \*event).
            states: S.
            max_passes: Most passes.
            seed: Of the rows that the states start at, and of the batches.
            others: The log of the sum of the densities of trees that this one is to be added to,
                at the validation rows, (M,): the pass is kept that is best added to them.
        """
        random = generator(seed, "states")
        self.begin(train, states, random)
        size = min(BATCH, len(train))
        each = math.ceil(len(train) / size)
        enough = max(FEWEST_PASSES, math.ceil(STEPS / each))
        passes = min(max_passes, enough)
        patience = max(PATIENCE, passes // 10)
        best, kept, worse, step = -math.inf, None, 0, 0
        average = self._moments()
        seen, held_out = self._seen(train), self._seen(validation)
        try:
            for number in range(1, passes + 1):
                total = 0.0
                for rows in torch.randperm(len(train), generator=random).split(size):
                    some = seen.of(rows) if isinstance(seen, Seen) else seen[rows]
                    value, expected = self.expect(some, len(train) / len(rows))
                    total += value
                    self.update(expected, max(LAST_STEP, STEP * (1 - step / (each * passes))))
                    step += 1
                    for mean, now in zip(average, self._moments(), strict=True):
                        mean.lerp_(now, max(AVERAGED, 1 / step))
                current = self._moments()
                self._take(average)
                reached = self._mean(held_out, others)
                worse = 0 if reached > best else worse + 1
                best = max(best, reached)
                # without validation rows the last pass is kept
                close = not reached < best - self.slack
                if close:
                    kept = self._state()
                self._take(current)
                yield Pass(number, total / len(train), reached, number / passes)
                if worse >= patience and not close:
                    break
            else:
                self.limited = self.limited or passes < enough
        finally:
            if kept is not None:
                self.load_state_dict(kept)

    def begin(self, train: Tensor, num_states: int, random: torch.Generator | None = None) -> None:
        """Takes tree, cells and warps from the training rows, (N, \\*event), and starts each state
        at one of them.
        """
        flat = train.flatten(1)
        if len(flat) < num_states:
            raise UsageError(
                f"{num_states} states need at least as many training rows, and there are "
                f"{len(flat)}"
            )
        if len(self.parents) > 1:
            self.parents = torch.tensor(self.find_parents(flat), device=self.parents.device)
        self.emissions.fit(flat)
        chosen = torch.randperm(len(flat), generator=random)[:num_states]
        self.emissions.begin(flat[chosen].to(self.emissions.base))
        self._begin_at_random(num_states)

    @torch.no_grad()
    def expect(self, x: Tensor | Seen, weight: float = 1.0) -> tuple[float, _Expected]:
        r"""Returns the sum of log p(x) of rows, (B, \*event), and the expected counts, times a
        weight.
        """
        own, tree = self.emissions, self._tree(self.start, self.transitions)
        total, result = 0.0, None
        if isinstance(x, Tensor):
            x = x.to(own.base)
        for seen in self._blocks(x):
            terms = own.terms(seen, own.table)
            up = upward(tree, self._potentials(terms.each))
            down = downward(tree, up)
            states = (up.below + down.above).exp()
            cells = own.counts(seen, terms, states.expand(len(own.kinds), -1, -1))
            found = [cells.table, cells.normal, states[tree.root].sum(0), down.edges]
            total += float((up.log_normalizer + terms.common.sum(0)).double().sum())
            result = (
                found if result is None else [a + b for a, b in zip(result, found, strict=True)]
            )
        assert result is not None
        table, normal, start, edges = (weight * part for part in result)
        return total, _Expected(Counts(table, normal), start, edges)

    @torch.no_grad()
    def update(self, expected: _Expected, step: float = 1.0) -> None:
        """Moves the parameters a step towards the most probable ones given expected counts and
        pseudo-counts; a step of 1 goes there.
        """
        self.emissions.maximize(expected.cells, step)
        start = expected.start + START_COUNT / len(self.start)
        self.start.data = (self.start.exp().lerp(start / start.sum(), step)).log()
        if len(self.transitions):
            edges = expected.edges + EDGE_COUNT / len(self.start)
            edges /= edges.sum(-1, keepdim=True)
            self.transitions.data = self.transitions.exp().lerp(edges, step).log()

    @torch.no_grad()
    def _moments(self) -> list[Tensor]:
        """Returns the parameters as probabilities and moments, which may be averaged."""
        own = self.emissions
        squares = own.loc.square() + (2 * own.log_scale).exp()
        parts = [part.exp() for part in (self.start, self.transitions, own.table)]
        return [*parts, own.loc.detach().clone(), squares]

    @torch.no_grad()
    def _take(self, moments: list[Tensor]) -> None:
        """Takes such probabilities and moments as parameters."""
        own, (*parts, loc, squares) = self.emissions, moments
        self.start.data, self.transitions.data, own.table.data = (part.log() for part in parts)
        own.loc.data = loc.clone()
        own.log_scale.data = 0.5 * (squares - loc.square()).clamp(min=1e-12).log()

    def log_prior(self) -> Tensor:
        """Returns what the pseudo-counts add to log p(x) of all rows, (), up to a constant."""
        tree, states = self.tree(), len(self.start)
        total = self.emissions.log_prior() + START_COUNT / states * tree.start.sum()
        for node, parent in enumerate(tree.parents):
            if parent >= 0:
                total = total + EDGE_COUNT / states * tree.transitions[node].sum()
        return total

    @torch.no_grad()
    def _mean(self, x: Tensor | Seen, others: Tensor | None) -> float:
        """Returns the mean of log p(x) of rows, or of the log of it and others; NaN of none."""
        log_p = self._log_prob(x).double()
        if others is not None:
            log_p = torch.logaddexp(log_p, others)
        return float(log_p.mean())

    def _state(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.state_dict().items()}


def _usual_blur(kinds: Sequence[str] | str, grids: Sequence[Grid | None] | None) -> float:
    """Returns the blur of real numbers of which nothing says how they were rounded, 0 of others."""
    words = {kinds} if isinstance(kinds, str) else set(kinds)
    return MIN_SCALE if grids is None and words == {"real"} else 0.0


def blurred(train: Tensor, validation: Tensor, blur: float, seed: int) -> tuple[Tensor, Tensor]:
    r"""Returns training and validation rows, (N, \*event), with noise of a scale that is a share of
    the standard deviation of each column of the training rows; as they are where it is zero.
    """
    if not blur:
        return train, validation
    # a column without a value in training has no scale, and is not moved
    scale = blur * (train - train.nanmean(0)).square().nanmean(0).sqrt().nan_to_num(0.0)

    def moved(rows: Tensor, name: str) -> Tensor:
        noise = torch.randn(rows.shape, generator=generator(seed, f"blur {name}"), dtype=rows.dtype)
        return rows + scale * noise.to(rows.device)

    return moved(train, "training"), moved(validation, "validation")


class Mixture(_LatentTree):
    r"""Creates a mixture: a latent category, given which the columns are independent.

    Args:
        event_shape: Shape of one data point.
        kinds: Of each column of a table, or of all elements of an array: binary, category, ordinal,
            count, levels, real, date, positive or mixed (``taut.data.tables.kinds``).
        num_states: Number of states; by default the one of 16, 32, 64, ... that is best on the
            validation rows.
        num_levels: Of each column, 0 for numbers.
        low: Smallest value of each column, minus infinity where none is known.
        high: Largest value, likewise.
        grids: Of each column of numbers that lie on a known grid (``Columns``).
        knots: Of the marginal of each column of mixed numbers, (columns, 2, knots): see ``warps``.
        slack: Nats a row of validation log p(x) that may be given up: the last pass within them is
            kept instead of the best. Later passes follow the training rows more closely, and their
            synthetic rows are harder to tell from real ones (``benchmarks/exact.py``).
        blur: Scale of the noise that is added to the rows before they are learned from, as a share
            of the standard deviation of each column: a density resolves nothing finer, such as the
            decimals that numbers were rounded to. By default 0.03, as of the scales of a mixture of
            factor analysers, where all columns are real numbers and no grids are given.

    Raises:
        ValueError: fewer than one state, or a negative slack or blur.

    References: dempster1977.
    """


class HiddenTree(_LatentTree):
    r"""Creates a hidden Chow-Liu tree: a latent category for each column, on the tree of their
    strongest dependences.

    Its arguments are those of ``Mixture``.

    References: chow1968, liu2021.
    """

    def usual_parents(self, columns: int) -> list[int]:
        return [-1] + [0] * (columns - 1)

    information: np.ndarray | None = None  # of pairs of columns, where others than the rows say it

    def find_parents(self, x: Tensor) -> list[int]:
        if self.information is None:
            return chow_liu(x)
        return spanning_tree(self.information)
