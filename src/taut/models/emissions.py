r"""What a column of data may be in each of S states: $p(x_c \mid s)$, in the user's own units.

*Integers* are divided into cells. A value that is common is a cell of its own, those in between
share one evenly; beyond the ends lies a small fixed share. A state is a table of the cells'
probabilities.

*Real numbers* may have atoms, values with a probability of their own, which are cells too. The rest
is a density: a share of it is Normal in each state, on the scale of the warp G of the column
(``distributions.warps``: close to the logit of its distribution function), and a share is the
column's own marginal,

$$ p(x \mid s) = \bigl( t_{s,\mathrm{near}} \, \mathcal N(G(x); m_s, \sigma_s^2)
   + t_{s,\mathrm{far}} \, \mathrm{logistic}(G(x)) \bigr) \, G'(x)
   + \sum_i t_{si} \, [x \in \mathrm{cell}_i] / h: $$

a value far from all states is improbable by the tail of the marginal, which is exponential, and not
by that of a Normal. Where the values lie on a grid, such as cents, common ones have a cell as wide
as a step h of the grid: no density is above the data's own precision.

So all that is learned are tables and Normals, in closed form from expected counts. Each column's
emission is one measure and normalised: it compares with other models of the same atoms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.nn import functional

from taut.data.tables.kinds import KINDS
from taut.distributions import OUTSIDE, warps
from taut.model import Resizing
from taut.system.precision import wide

__all__ = ["Counts", "Emissions", "Emitted", "Resizing", "Seen", "Terms"]

TABLE = 400  # distinct values of an integer column up to which each is a cell
CELLS = 200  # of the values between the common ones, at most
COMMON = 10  # rows of a value of its own in a column of more values
FEW, MANY = 2.0, 100.0  # rows of the column's own frequencies that each state begins with
NORMAL_COUNT = 1.0  # rows of its own variance, likewise
FAR = 0.05  # share of the marginal in a density, likewise
MIDPOINTS = 64


class Seen(NamedTuple):
    r"""Data as the emissions see them: C columns of B rows.

    Args:
        row: Of the table, (C, B); any where no cell holds the value.
        held: Whether a cell holds it, (C, B).
        constant: What is added to the table's log-probability, the same in all states, (C, B).
        height: G of the columns that have a density, (D, B).
        log_slope: log G' of them, (D, B).
        dense: Whether the value of such a column has a density, (D, B): neither missing nor an
            atom.
    """

    row: Tensor
    held: Tensor
    constant: Tensor
    height: Tensor
    log_slope: Tensor
    dense: Tensor


class Terms(NamedTuple):
    r"""Log-probabilities.

    Args:
        each: $\log p(x_c \mid s)$, (C, B, S): zero where missing.
        near: Share of the Normal in them, of columns that have a density, (D, B, S).
        far: Share of the marginal, likewise; the rest is the cell's.
    """

    each: Tensor
    near: Tensor
    far: Tensor


class Counts(NamedTuple):
    r"""Expected counts, from which the tables and Normals follow.

    Args:
        table: Rows in each cell and state, (R, S).
        normal: Number, sum and sum of squares of the heights in each Normal, (3, D, S).
    """

    table: Tensor
    normal: Tensor


class Emissions(Resizing):
    """Creates the emissions of the columns of rows, the same in all states until they are fitted.

    Args:
        kinds: Of each column, words of ``KINDS``.
        num_levels: Of each column, 0 for numbers.
        low: Smallest value of each column, minus infinity where none is known.
        high: Largest value, likewise.
        knots: Of the marginals of mixed numbers, (C, 2, M), for their atoms; or None.
        num_states: S.
    """

    starts: Tensor
    offset: Tensor
    owner: Tensor
    log_size: Tensor
    width: Tensor
    ends: Tensor
    outside: Tensor
    base: Tensor
    knots: Tensor
    moments: Tensor
    strength: Tensor

    def __init__(
        self,
        kinds: Sequence[str],
        num_levels: Sequence[int],
        low: Tensor,
        high: Tensor,
        knots: Tensor | None,
        num_states: int,
    ) -> None:
        super().__init__()
        self.kinds, self.levels = [KINDS[word] for word in kinds], list(num_levels)
        self.low, self.high = nn.Buffer(low, persistent=False), nn.Buffer(high, persistent=False)
        self.densities = [c for c, kind in enumerate(self.kinds) if not kind.discrete]
        self.atoms = [np.zeros(0)] * len(kinds)
        if knots is not None:
            x = knots[..., 0, :].double().numpy()
            self.atoms = [
                np.unique(own[1:][(own[1:] == own[:-1]) & np.isfinite(own[1:])]) for own in x
            ]

        def mask(values: list[bool]) -> Tensor:
            return nn.Buffer(torch.tensor(values)[:, None], persistent=False)

        self.discrete = mask([kind.discrete for kind in self.kinds])
        self.nominal = mask([kind.nominal for kind in self.kinds])
        self.positive = mask([self.kinds[c].transform == "log" for c in self.densities])
        self._make([np.zeros(0)] * len(kinds))
        self.resize(num_states)

    @property
    def num_states(self) -> int:
        return self.table.shape[-1]

    def resize(self, num_states: int) -> None:
        """Makes all states alike, so many of them."""
        d = len(self.densities)
        self.table = nn.Parameter(self.base.log()[:, None].repeat(1, num_states))
        self.loc = nn.Parameter(self.moments[0][:, None].repeat(1, num_states))
        self.log_scale = nn.Parameter(0.5 * self.moments[1].log()[:, None].repeat(1, num_states))
        assert self.loc.shape == (d, num_states)

    # --- What follows from the training rows ---

    def fit(self, x: Tensor) -> None:
        """Takes cells, warps and marginals from training rows, (N, C)."""
        columns = [column[~column.isnan()].double().cpu().numpy() for column in x.T]
        self._make(columns)
        self.to(x.device)

    def _make(self, columns: Sequence[np.ndarray]) -> None:
        made = [self._cells(c, values) for c, values in enumerate(columns)]
        most = max(len(m.starts) for m in made)
        like: dict[str, Any] = {"dtype": torch.get_default_dtype()}

        def padded(starts: np.ndarray) -> Tensor:
            row = torch.as_tensor(starts, **like)
            return functional.pad(row, (0, most - len(starts)), value=math.inf)

        rows = [len(m.base) for m in made]
        self.starts = nn.Buffer(torch.stack([padded(m.starts) for m in made]))
        self.offset = nn.Buffer(torch.tensor([0, *np.cumsum(rows)[:-1]])[:, None])
        self.owner = nn.Buffer(torch.repeat_interleave(torch.arange(len(made)), torch.tensor(rows)))
        parts = {
            name: torch.as_tensor(np.concatenate([getattr(m, name) for m in made]), **like)
            for name in ("log_size", "width", "base")
        }
        self.log_size, self.width, self.base = (nn.Buffer(part) for part in parts.values())
        # Of the cells of a column of many values each state sees few rows.
        wide = [
            kind.discrete and len(np.unique(x)) > TABLE
            for kind, x in zip(self.kinds, columns, strict=True)
        ]
        self.strength = nn.Buffer(torch.tensor([MANY if w else FEW for w in wide], **like))
        self.ends = nn.Buffer(torch.tensor([m.ends for m in made], **like))
        self.outside = nn.Buffer(torch.tensor([m.outside for m in made], **like))
        warp = [self._warp(c, columns[c]) for c in self.densities]
        self.knots = nn.Buffer(
            torch.stack([torch.zeros(2, warps.MAX_KNOTS), *[w[0] for w in warp]])[1:].to(**like)
        )
        self.moments = nn.Buffer(
            torch.tensor([w[1] for w in warp], **like).view(-1, 2).T.contiguous()
        )

    def _cells(self, c: int, values: np.ndarray) -> _Cells:
        kind = self.kinds[c]
        if not kind.discrete:
            return _spikes(values, self.atoms[c])
        low, high = float(self.low[c]), float(self.high[c])
        if kind.nominal:
            return _cells(values, 0, self.levels[c] - 1, (0.0, 0.0), every=True)
        if math.isfinite(high):
            return _cells(values, low, high, (OUTSIDE / 2, OUTSIDE / 2))
        # counts, of which nobody knows the largest
        most = float(values.max(initial=1.0))
        return _cells(values, low, most, (0.0, 1 / (len(values) + 2)))

    def _warp(self, c: int, values: np.ndarray) -> tuple[Tensor, tuple[float, float]]:
        """Returns the knots of the density of a column, and mean and variance of its heights."""
        plain = ~np.isin(values, self.atoms[c])
        ends = float(self.low[c]), float(self.high[c])
        values = values[plain]
        if self.kinds[c].transform == "log":
            values, ends = np.log(values), (-math.inf, math.inf)
        if not len(values):  # the standard logistic distribution
            knots = warps.padded(np.array([[-1.0, 1.0], [-1.0, 1.0]]))
            return knots, (0.0, math.pi**2 / 3)
        knots = warps.padded(warps.fit_knots(values, values[:0], ends, False))
        y = warps.heights(torch.from_numpy(values), knots, False).upper
        return knots, (float(y.mean()), float(y.var(correction=0)) + 1e-3)

    # --- Probabilities ---

    def tables(self) -> Tensor:
        """Returns the log-probabilities of the cells of each column, (R, S), of sum 1 a column."""
        return self.table - _by_column(self.owner, len(self.kinds), self.table)[self.owner]

    def see(self, x: Tensor) -> Seen:
        """Returns rows, (B, C), as the emissions see them."""
        value, d = x.T.contiguous(), self.densities
        missing = value.isnan()
        near = torch.where(self.discrete, value.round(), value).nan_to_num(0.0)
        place = (torch.searchsorted(self.starts, near, right=True) - 1).clamp(min=0)
        row = self.offset + place
        low, high = self.ends[:, :1], self.ends[:, 1:]
        below, above = near < low, near > high
        # Beyond the ends w^2 / (w + d - 1)^2 - w^2 / (w + d)^2 at a distance d, of a range w.
        width, distance = high - low + 1, torch.where(below, low - near, near - high)
        share = torch.where(below, self.outside[:, :1], self.outside[:, 1:])
        far = width + distance
        tail = 2 * width.log() + (2 * far - 1).log() - 2 * ((far - 1) * far).log()
        beyond = share.log() + tail
        inside = torch.log1p(-self.outside.sum(1, keepdim=True))
        constant = torch.where(below | above, beyond, inside - self.log_size[row])
        # With a small share a level has noise between -1/2 and 1/2 on it, but one without order.
        noise = torch.where(value == near, math.log1p(-OUTSIDE), math.log(OUTSIDE))
        never = torch.where(value == near, 0.0, -math.inf).to(noise)
        noise = torch.where(self.nominal, never, noise)
        constant = torch.where(missing, 0.0, constant + torch.where(self.discrete, noise, 0.0))
        held = ~(missing | below | above)
        if not d:
            nothing = near.new_zeros(0, near.shape[1])
            return Seen(row, held, constant, nothing, nothing, nothing.bool())
        own, start = near[d], self.starts[d].gather(1, place[d])
        atom = own == start
        held[d] &= atom | ((own >= start) & (own < start + self.width[row[d]]))
        dense = ~(missing[d] | (atom & (self.width[row[d]] == 0)))
        return Seen(row, held, constant, *self._heights(own), dense)

    def _heights(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Returns G and log G' of the densities, (D, B) each."""
        slope = torch.zeros_like(value)
        if bool(self.positive.any()):
            logs = torch.where(self.positive & (value > 0), value, 1.0).log()
            slope = torch.where(self.positive & ~(value > 0), -math.inf, -logs)
            value = torch.where(self.positive, logs, value)
        found = warps.heights(value.T, self.knots, False)
        return found.upper.T, found.log_slope.T + slope

    def _near(self) -> Tensor:
        """Returns the row of the Normal of each density, (D,); that of the marginal is next."""
        sizes = torch.bincount(self.owner, minlength=len(self.kinds))
        return (self.offset[:, 0] + sizes - 2)[self.densities]

    def terms(self, seen: Seen, table: Tensor) -> Terms:
        """Returns the log-probabilities in all states, of tables (R, S)."""
        each, d = functional.embedding(seen.row, table), self.densities
        if not bool(seen.held.all()):
            each = torch.where(seen.held[..., None], each, 0.0)
        each = each + seen.constant[..., None]
        if not d:
            return Terms(each, each[:0], each[:0])
        row = self._near()
        standard = (seen.height[..., None] - self.loc[:, None]) / self.log_scale.exp()[:, None]
        normal = -0.5 * standard.square() - self.log_scale[:, None] - 0.5 * math.log(2 * math.pi)
        near = table[row][:, None] + normal
        far = table[row + 1][:, None] + _logistic(seen.height)[..., None]
        dense, slope = seen.dense[..., None], seen.log_slope[..., None]
        total = _either(torch.logaddexp(near, far) + slope, dense, each[d], seen.held[d][..., None])
        shares = [torch.where(dense, (part + slope - total).exp(), 0.0) for part in (near, far)]
        index = torch.tensor(d, device=each.device)
        return Terms(each.index_copy(0, index, total), *shares)

    # --- Expectation maximisation ---

    def counts(self, seen: Seen, terms: Terms, states: Tensor) -> Counts:
        """Returns the expected counts of rows whose columns are in states with probabilities
        (C, B, S).
        """
        table, d = torch.zeros_like(self.table), self.densities
        normal = table.new_zeros(3, len(d), self.num_states)
        if d:
            near, far = states[d] * terms.near, states[d] * terms.far
            y = torch.where(seen.dense, seen.height, 0.0)
            powers = torch.stack([torch.ones_like(y), y, y.square()], 1)  # (D, 3, B)
            normal = (powers @ near).transpose(0, 1)
            table[self._near()], table[self._near() + 1] = normal[0], far.sum(1)
            states = states.index_copy(0, torch.tensor(d, device=y.device), states[d] - near - far)
        row, flat = seen.row.flatten(), states.reshape(-1, states.shape[-1])
        if not bool(seen.held.all()):
            where = seen.held.flatten().nonzero()[:, 0]
            row, flat = row[where], flat[where]
        return Counts(table.index_add_(0, row, flat), normal)

    def maximize(self, counts: Counts, step: float) -> None:
        """Moves the tables and Normals a step towards the most probable ones given expected counts
        and pseudo-counts.
        """
        table = counts.table + (self.strength[self.owner] * self.base)[:, None]
        table /= _sums(self.owner, len(self.kinds), table)[self.owner]
        number, total, squares = counts.normal
        mean, variance = self.moments[0][:, None], self.moments[1][:, None]
        weight = number + NORMAL_COUNT
        loc = (total + NORMAL_COUNT * mean) / weight
        spread = squares - 2 * loc * total + number * loc.square()
        spread = (spread + NORMAL_COUNT * ((loc - mean).square() + variance)) / weight
        # Of a Normal the first two moments move, so that between two places it is wide.
        between = step * (1 - step) * (loc - self.loc).square()
        spread = (2 * self.log_scale).exp().lerp(spread, step) + between
        self.table.data = self.table.exp().lerp(table, step).log()
        self.loc.data = self.loc.lerp(loc, step)
        self.log_scale.data = 0.5 * spread.log()

    def log_prior(self) -> Tensor:
        """Returns what the pseudo-counts add to log p(x) of all rows, (), up to a constant."""
        tables = (self.tables().T * self.strength[self.owner] * self.base).sum()
        mean, variance = self.moments[0][:, None], self.moments[1][:, None]
        square = ((self.loc - mean).square() + variance) * (-2 * self.log_scale).exp()
        return tables - NORMAL_COUNT * (0.5 * square + self.log_scale).sum()

    def begin(self, x: Tensor) -> None:
        """Puts state k at row k of x, (S, C), half way from the marginal."""
        self.resize(len(x))
        seen = self.see(x)
        here = torch.arange(len(x), device=x.device).expand_as(seen.row)
        table = 0.5 * self.base[:, None].repeat(1, len(x))
        row, put = seen.row.clone(), seen.held.clone()
        if self.densities:
            own = torch.where(seen.held[self.densities], row[self.densities], self._near()[:, None])
            row[self.densities], put[self.densities] = own, put[self.densities] | seen.dense
        extra = torch.zeros_like(table)
        extra[row[put], here[put]] = 0.5
        given = extra.new_zeros(len(self.kinds), len(x)).index_add_(0, self.owner, extra)
        self.table.data = (table + extra + (0.5 - given)[self.owner] * self.base[:, None]).log()
        if self.densities:
            mean = self.moments[0][:, None]
            self.loc.data = torch.where(seen.dense, seen.height, mean)
            self.log_scale.data = self.log_scale.data + math.log(0.5)

    # --- What is said of single columns ---

    def probabilities(self, c: int, table: Tensor) -> Tensor:
        """Returns the probability of each cell of a column in each state, (cells, S)."""
        return table[self._rows(c)].exp()

    def _rows(self, c: int) -> slice:
        """Returns where the cells of a column stand in the table."""
        ends = [*self.offset[:, 0].tolist(), len(self.owner)]
        return slice(ends[c], ends[c + 1])

    def means(self, table: Tensor) -> Tensor:
        """Returns the mean of each column in each state, (C, S): of levels, of their numbers."""
        found = [self._mean(c, self.probabilities(c, table)) for c in range(len(self.kinds))]
        return torch.stack(found)

    def _mean(self, c: int, p: Tensor) -> Tensor:
        start = self.starts[c, : len(p)]
        if self.kinds[c].discrete:
            return (start + 0.5 * (self.width[self._rows(c)] - 1)) @ p
        start = start + 0.5 * self.width[self._rows(c)]
        d = self.densities.index(c)
        share = (torch.arange(MIDPOINTS, device=p.device, dtype=p.dtype) + 0.5) / MIDPOINTS
        normal = self.loc[d] + self.log_scale[d].exp() * torch.special.ndtri(share)[:, None]
        near, far = self._value(d, normal).mean(0), self._value(d, share.logit()).mean(0)
        return start[:-2] @ p[:-2] + near * p[-2] + far * p[-1]

    def _value(self, d: int, height: Tensor) -> Tensor:
        """Returns the value of a density at a height, within the ends of its column."""
        x = warps.inverse(height.reshape(-1, 1), self.knots[d : d + 1], True).view(height.shape)
        if bool(self.positive[d]):
            x = x.exp()
        c = self.densities[d]
        return x.clamp(self.low[c], self.high[c])

    def expected(self, table: Tensor, states: Tensor) -> list[Tensor]:
        """Returns of each column, in states with probabilities (C, B, S), the probability of each
        level, (B, levels), or of numbers their mean, (B, 1).
        """
        found = []
        for c, kind in enumerate(self.kinds):
            p = self.probabilities(c, table)
            found.append(states[c] @ (p.T if kind.nominal else self._mean(c, p)[:, None]))
        return found

    def typical(self, expected: Sequence[Tensor]) -> Tensor:
        """Returns the mean of numbers, the median of ordered and the most probable of other levels,
        (B, C), of what each column is expected to be.
        """
        found = [self._typical(c, each) for c, each in enumerate(expected)]
        return torch.stack(found, 1)

    def _typical(self, c: int, each: Tensor) -> Tensor:
        if not self.kinds[c].nominal:
            return each[:, 0]
        if not self.kinds[c].ordered:
            return each.argmax(1).to(each)
        return (each.cumsum(1) < 0.5).sum(1).clamp(max=each.shape[1] - 1).to(each)

    def draw(self, c: int, p: Tensor, state: Tensor, u: Tensor) -> Tensor:
        """Returns draws of a column in states (M,), by two uniform numbers each, (2, M)."""
        # The distribution functions of all states in one ascending list: state + P(cell <= l).
        below = wide(p).cumsum(0)
        ladder = (below / below[-1]).T + torch.arange(p.shape[1], device=below.device)[:, None]
        place = torch.searchsorted(ladder.flatten(), wide(u[0]) + wide(state), right=True)
        cell = (place.to(state.device) - len(p) * state).clamp(0, len(p) - 1)
        start, width = self.starts[c][cell], self.width[self._rows(c)][cell]
        if self.kinds[c].discrete:
            return start + torch.minimum((u[1] * width).floor(), width - 1)
        d = self.densities.index(c)
        v = u[1].clamp(1e-7, 1 - 1e-7)
        normal = self.loc[d][state] + self.log_scale[d].exp()[state] * torch.special.ndtri(v)
        height = torch.where(cell == len(p) - 2, normal, v.logit())
        return torch.where(cell < len(p) - 2, start + u[1] * width, self._value(d, height))


class Emitted(Distribution):
    r"""Creates $p(x \mid z)$: columns that are independent, each in a state of its own.

    Args:
        emissions: Of all states.
        states: Of each column, (\*, C), integers.
        event_shape: Of a data point of C elements.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, emissions: Emissions, states: Tensor, event_shape: Sequence[int]) -> None:
        self.emissions, self.states = emissions, states
        super().__init__(states.shape[:-1], torch.Size(event_shape), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Emitted:
        shape = torch.Size(batch_shape)
        states = self.states.expand(*shape, self.states.shape[-1])
        return Emitted(self.emissions, states, self.event_shape)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(_Values(self.emissions), len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """The mean of numbers, the most probable of levels."""
        own, made = self.emissions, []
        table = own.tables()
        for c, kind in enumerate(own.kinds):
            p = own.probabilities(c, table)
            each = p.argmax(0).to(p) if kind.nominal else own._mean(c, p)
            made.append(each[self.states[..., c]])
        return torch.stack(made, -1).unflatten(-1, self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.terms(value).flatten(-len(self.event_shape)).sum(-1)

    def terms(self, value: Tensor) -> Tensor:
        r"""Returns the log-probability of each element, (\*batch, \*event): zero if missing."""
        own, dims = self.emissions, len(self.event_shape)
        x = value.flatten(-dims)
        seen = own.see(x.reshape(-1, x.shape[-1]))
        table, state = own.tables(), self.states

        def shaped(part: Tensor) -> Tensor:
            return part.T.view(*x.shape[:-1], -1)

        held = shaped(seen.held)
        each = torch.where(held, table[shaped(seen.row), state], 0.0) + shaped(seen.constant)
        if own.densities:
            index = torch.tensor(own.densities, device=state.device)
            every, d = torch.arange(len(index), device=state.device), state[..., index]
            row, scale, height = own._near(), own.log_scale[every, d], shaped(seen.height)
            normal = -0.5 * ((height - own.loc[every, d]) / scale.exp()).square() - scale
            near = table[row, d] + normal - 0.5 * math.log(2 * math.pi)
            both = torch.logaddexp(near, table[row + 1, d] + _logistic(height))
            both = both + shaped(seen.log_slope)
            both = _either(both, shaped(seen.dense), each[..., index], held[..., index])
            each = each.index_copy(-1, index, both)
        return each.unflatten(-1, self.event_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        own, shape = self.emissions, torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            states = self.states.expand(*shape, -1)
            u = torch.rand(*states.shape, 2, device=states.device, dtype=own.base.dtype)
            table, made = own.tables(), []
            for c in range(len(own.kinds)):
                p = own.probabilities(c, table)
                flat = u[..., c, :].reshape(-1, 2).T
                made.append(own.draw(c, p, states[..., c].reshape(-1), flat).view(shape))
            return torch.stack(made, -1).unflatten(-1, self.event_shape)


class _Values(constraints.Constraint):
    """Where the values of each column may lie."""

    def __init__(self, emissions: Emissions) -> None:
        self.emissions = emissions
        self.is_discrete = not emissions.densities
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        own = self.emissions
        seen = own.see(value.reshape(-1, len(own.kinds)))
        possible = seen.constant > -torch.inf
        if own.densities:
            possible[own.densities] = seen.held[own.densities] | (seen.log_slope > -torch.inf)
        return possible.T.reshape(value.shape)


class _Cells(NamedTuple):
    """The cells of a column.

    The smallest value of each, the log of how many values it holds or how wide it is, the same
    without the log, its share in the training rows, the ends of all, and the shares beyond them.
    """

    starts: np.ndarray
    log_size: np.ndarray
    width: np.ndarray
    base: np.ndarray
    ends: tuple[float, float]
    outside: tuple[float, float]


def _cells(
    values: np.ndarray,
    low: float,
    high: float,
    outside: tuple[float, float],
    every: bool = False,
) -> _Cells:
    """Returns the cells of the integers low, ..., high; every integer is one where they are few."""
    seen, counts = np.unique(values, return_counts=True)
    inside = (seen >= low) & (seen <= high)
    seen, counts = seen[inside], counts[inside]
    if every or high - low < TABLE:
        starts = np.arange(low, high + 1)
    else:
        own = seen
        if len(seen) > TABLE:
            own = seen[(counts >= COMMON) & (counts >= np.sort(counts)[-TABLE])]
        rest = ~np.isin(seen, own)
        edges = _quantiles(seen[rest], counts[rest]) + 1
        starts = np.unique(np.concatenate([[low], own, own + 1, edges]))
        starts = starts[(starts >= low) & (starts <= high)]
    size = np.diff(np.append(starts, high + 1))
    held = np.zeros(len(starts))
    np.add.at(held, np.searchsorted(starts, seen, side="right") - 1, counts)
    # Cells without rows share the probability of the cells of one row (Good and Turing).
    empty = held == 0
    new = min(0.5 * (held.sum() + 1), max(1.0, np.count_nonzero(held == 1))) if empty.any() else 0.0
    held[empty] = new * size[empty] / max(1.0, size[empty].sum())
    return _Cells(starts, np.log(size), size, held / held.sum(), (low, high), outside)


def _quantiles(seen: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns values at shares that are evenly spaced in the logit, so that tails are resolved."""
    if not len(seen):
        return seen
    n = counts.sum()
    reach = max(0.0, math.log(max(n, 12) / 5 - 1))
    number = int(min(CELLS, max(1, n // COMMON)))
    shares = 1 / (1 + np.exp(-np.linspace(-reach, reach, number)))
    return seen[np.minimum(np.searchsorted(counts.cumsum(), shares * n), len(seen) - 1)]


def _spikes(values: np.ndarray, atoms: np.ndarray) -> _Cells:
    """Returns the cells of a density: atoms, and common values of a grid as wide as its steps; last
    come the share of the Normals and that of the marginal.
    """
    seen, counts = np.unique(values, return_counts=True)
    plain = ~np.isin(seen, atoms)
    step = _step(seen[plain])
    fewest = COMMON if len(seen) > TABLE else 2
    often = plain & (counts >= fewest) & (step > 0)
    if often.sum() > TABLE:
        often &= counts >= np.sort(counts[often])[-TABLE]
    own = seen[often]
    held = np.array([np.count_nonzero(values == atom) for atom in atoms] or [], dtype=float)
    spikes = 0.5 * counts[often]
    rest = len(values) - held.sum() - spikes.sum() + 0.5
    starts, width = np.append(atoms, own - step / 2), np.repeat([0.0, step], [len(atoms), len(own)])
    order = starts.argsort()
    base = np.append(np.append(held + 0.5, spikes)[order], rest * np.array([1 - FAR, FAR]))
    width = np.append(width[order], [0.0, 0.0])
    log_size = np.log(np.where(width > 0, width, 1.0))
    starts = np.append(starts[order], [math.inf, math.inf])  # the last two are not cells
    ends = (-math.inf, math.inf)
    return _Cells(starts, log_size, width, base / base.sum(), ends, (0.0, 0.0))


def _step(seen: np.ndarray) -> float:
    """Returns the step of the grid that distinct values lie on, 0 where they lie on none."""
    for decimals in range(5):
        scaled = seen * 10.0**decimals
        whole = scaled.round()
        if (
            np.abs(scaled - whole).max(initial=0.0) < 1e-3
            and np.abs(whole).max(initial=0.0) < 2**53
        ):
            step = np.gcd.reduce(np.diff(whole).astype(np.int64)) if len(seen) > 1 else 0
            return float(step) / 10.0**decimals
    return 0.0


def _sums(owner: Tensor, columns: int, rows: Tensor) -> Tensor:
    """Returns the sum over the cells of each column."""
    return rows.new_zeros(columns, *rows.shape[1:]).index_add(0, owner, rows)


def _by_column(owner: Tensor, columns: int, table: Tensor) -> Tensor:
    """Returns the log of the sum of the exponentials of the cells of each column, (C, S)."""
    index = owner[:, None].expand_as(table)
    top = table.detach().new_full((columns, table.shape[1]), -torch.inf)
    top = top.scatter_reduce(0, index, table.detach(), "amax")
    total = torch.zeros_like(top).index_add(0, owner, (table - top[owner]).exp())
    return total.log() + top


def _either(density: Tensor, dense: Tensor, cell: Tensor, held: Tensor) -> Tensor:
    """Returns the log of the sum of a density and a cell, of those that there are; 0 of none.

    No gradient meets the difference of two infinities.
    """
    nothing = torch.where(dense, -math.inf, 0.0).to(cell)
    return torch.logaddexp(torch.where(dense, density, -math.inf), torch.where(held, cell, nothing))


def _logistic(y: Tensor) -> Tensor:
    return functional.logsigmoid(y) + functional.logsigmoid(-y)
