r"""Discrete latent variables on a tree, summed exactly.

With states $z_1, \dots, z_n$, one a node, and potentials $\phi$,

$$ p(z) \propto \pi(z_r) \, \phi_r(z_r) \prod_{j \ne r} A_j(z_{\mathrm{pa}(j)}, z_j) \,
   \phi_j(z_j). $$

The potentials $\phi$ are what a data point says of each node. One pass from the leaves to the root
sums over all states, $\log Z$; one back gives the marginals of every node and of every edge. Both
take $n S^2$ operations for S states, nodes of equal depth together, in log space, so that no
potential is too small.

References: pearl1988.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

__all__ = ["CategoricalTree", "Marginals", "Tree", "Upward", "downward", "upward"]


class Level(NamedTuple):
    """The nodes of equal depth, and their parents, as indices."""

    nodes: Tensor
    parents: Tensor


class Tree(NamedTuple):
    r"""The parameters of a tree of states.

    Args:
        parents: Of each node, (n,); -1 at the root, of which there is one.
        start: $\log \pi$, (S,).
        transitions: $\log A_j$, (n, S, S), parent's state first; the root's are not used.
    """

    parents: tuple[int, ...]
    start: Tensor
    transitions: Tensor

    @property
    def root(self) -> int:
        return self.parents.index(-1)


class Upward(NamedTuple):
    r"""What the pass from the leaves to the root knows.

    Args:
        log_normalizer: $\log Z$, (B,).
        below: Of each node the log of all that it and those below it say of its state, (n, B, S).
        messages: The part of it that reaches its parent, (n, B, S), in the parent's states.
    """

    log_normalizer: Tensor
    below: Tensor
    messages: Tensor


class Marginals(NamedTuple):
    r"""What both passes know.

    Args:
        above: Of each node the log of all that the rest of the tree says of its state, (n, B, S):
            ``below + above`` is $\log p(z_j)$.
        edges: Sum over the batch of $p(z_{\mathrm{pa}(j)}, z_j)$, (n, S, S); zero at the root.
    """

    above: Tensor
    edges: Tensor


@functools.lru_cache(maxsize=64)
def _levels(parents: tuple[int, ...]) -> tuple[Level, ...]:
    """Returns the levels below the root, the highest first.

    Raises:
        ValueError: the parents are not those of one tree.
    """
    if parents.count(-1) != 1:
        raise ValueError(f"a tree has one root (parent -1), not {parents.count(-1)}")
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(parents):
        children.setdefault(parent, []).append(node)
    here, levels, seen = children[-1], [], 1
    while here := [node for parent in here for node in children.get(parent, ())]:
        seen += len(here)
        levels.append(Level(torch.tensor(here), torch.tensor([parents[node] for node in here])))
    if seen != len(parents):
        raise ValueError("the parents of a tree lead to its root, and these do not")
    return tuple(levels)


def upward(tree: Tree, potentials: Tensor) -> Upward:
    r"""Returns the pass from the leaves to the root, for potentials $\log \phi$, (n, B, S)."""
    below, levels = potentials.clone(), _levels(tree.parents)
    messages = torch.zeros_like(below)
    for level in reversed(levels):
        nodes, parents = (index.to(below.device) for index in level)
        message = _product(below[nodes], tree.transitions[nodes].exp().mT)
        messages.index_copy_(0, nodes, message)
        below.index_add_(0, parents, message)
    return Upward((below[tree.root] + tree.start).logsumexp(-1), below, messages)


def downward(tree: Tree, up: Upward) -> Marginals:
    """Returns the pass from the root to the leaves."""
    above, edges = torch.empty_like(up.below), torch.zeros_like(tree.transitions)
    above[tree.root] = tree.start - up.log_normalizer[:, None]
    for level in _levels(tree.parents):
        nodes, parents = (index.to(above.device) for index in level)
        # of the parent's state by all but this node
        rest = up.below[parents] + above[parents] - up.messages[nodes]
        steps = tree.transitions[nodes].exp()
        above[nodes] = _product(rest, steps)
        below = up.below[nodes]
        top = below.amax(-1, keepdim=True)
        edges[nodes] = steps * ((rest + top).exp().mT @ (below - top).exp())
    return Marginals(above, edges)


def _product(log_rows: Tensor, matrix: Tensor) -> Tensor:
    """Returns log(exp(rows) @ matrix), whatever the size of the rows."""
    top = log_rows.detach().amax(-1, keepdim=True)
    top = top.masked_fill(top == -torch.inf, 0.0)
    return ((log_rows - top).exp() @ matrix).log() + top


class CategoricalTree(Distribution):
    r"""Creates the distribution of the states of a tree: integers stored as floats, (\*, n).

    Args:
        tree: Its parameters.
        potentials: $\log \phi$, (n, B, S): what each of B data points says of each node; without
            them it is the distribution before anything is seen.
        batch_shape: Without potentials.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own protocol)
    has_rsample = False

    def __init__(
        self, tree: Tree, potentials: Tensor | None = None, batch_shape: Sequence[int] = ()
    ) -> None:
        self.tree, self.potentials = tree, potentials
        self.passed = None
        if potentials is not None:
            batch_shape, self.passed = potentials.shape[1:2], upward(tree, potentials)
        event = torch.Size((len(tree.parents),))
        super().__init__(torch.Size(batch_shape), event, validate_args=False)

    @property
    def num_states(self) -> int:
        return len(self.tree.start)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.integer_interval(0, self.num_states - 1), 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> CategoricalTree:
        if self.potentials is not None:
            if tuple(batch_shape) == tuple(self.batch_shape):
                return self
            raise NotImplementedError("a posterior belongs to its data points: it has one shape")
        return CategoricalTree(self.tree, None, batch_shape)

    @property
    def log_normalizer(self) -> Tensor:
        r"""$\log Z$, (B,): the log-probability of the data that the potentials are of, less what
        these omit that all states have in common.
        """
        if self.passed is None:
            return self.tree.start.new_zeros(self.batch_shape)
        return self.passed.log_normalizer

    @property
    def marginals(self) -> Tensor:
        r"""The probability of each state of each node, (\*batch, n, S)."""
        n, batch = self.event_shape[0], self.batch_shape
        up = self.passed
        if up is None:
            up = upward(self.tree, self.tree.start.new_zeros(n, 1, self.num_states))
        found = (up.below + downward(self.tree, up).above).exp().transpose(0, 1)
        if self.passed is None:
            return found[0].expand(*batch, n, -1)
        return found

    @property
    def mode(self) -> Tensor:
        r"""The most probable states of all nodes together, (\*batch, n)."""
        tree, levels = self.tree, _levels(self.tree.parents)
        zeros = self.tree.start.new_zeros(self.event_shape[0], 1, self.num_states)
        best = zeros if self.potentials is None else self.potentials.detach().clone()
        z = torch.zeros(best.shape[1], len(best), dtype=torch.long, device=best.device)
        chosen: dict[int, Tensor] = {}
        with torch.no_grad():
            for level in reversed(levels):
                for node, parent in zip(*(i.tolist() for i in level), strict=True):
                    found = (best[node][:, None] + tree.transitions[node]).max(-1)
                    best[parent] += found.values
                    chosen[node] = found.indices
            z[:, tree.root] = (best[tree.root] + tree.start).argmax(-1)
        for level in levels:
            for node, parent in zip(*(i.tolist() for i in level), strict=True):
                z[:, node] = chosen[node].gather(1, z[:, parent, None])[:, 0]
        if self.potentials is None:
            return z[0].expand(self.batch_shape + self.event_shape).to(tree.start)
        return z.to(tree.start)

    def log_prob(self, value: Tensor) -> Tensor:
        tree, state = self.tree, value.long()
        pairs = [(node, parent) for node, parent in enumerate(tree.parents) if parent >= 0]
        nodes, parents = torch.tensor(pairs, dtype=torch.long, device=state.device).view(-1, 2).T
        steps = tree.transitions[nodes, state[..., parents], state[..., nodes]].sum(-1)
        total = tree.start[state[..., tree.root]] + steps
        if self.potentials is None:
            return total
        every = torch.arange(len(tree.parents), device=state.device)
        rows = torch.arange(self.potentials.shape[1], device=state.device)[:, None]
        return total + self.potentials[every, rows, state].sum(-1) - self.log_normalizer

    def sample(self, sample_shape: Any = ()) -> Tensor:
        tree, shape = self.tree, torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            u = torch.rand(shape + self.event_shape, device=tree.start.device)
            z = torch.zeros(shape + self.event_shape, dtype=torch.long, device=u.device)
            z[..., tree.root] = _picked(self._logits(tree.start, tree.root), u[..., tree.root])
            for level in _levels(tree.parents):
                for node, parent in zip(*(i.tolist() for i in level), strict=True):
                    logits = self._logits(tree.transitions[node][z[..., parent]], node)
                    z[..., node] = _picked(logits, u[..., node])
            return z.to(tree.start)

    def _logits(self, given: Tensor, node: int) -> Tensor:
        if self.passed is None:
            return given
        return given + self.passed.below[node]


def _picked(logits: Tensor, u: Tensor) -> Tensor:
    """Returns the state that a uniform number picks, of log-probabilities up to a constant."""
    total = logits.softmax(-1).cumsum(-1)
    return (total <= u[..., None] * total[..., -1:]).sum(-1)
