r"""What a column of data may be in each of S states: $p(x_c \mid s)$, in the user's own units.

*Levels* have a table of probabilities in each state. *Numbers* are seen through the marginal of the
training rows: G is a warp (``distributions.warps``) close to the logit of their distribution
function, in which values that repeat have a mass of their own (``distributions.grids``). Where they
lie on a grid, a state gives a cell about x, of a width h,

$$ P(x \mid s) = t_{s,\mathrm{near}} \Bigl(\Phi\bigl(\tfrac{G(x + h/2) - m_s}{\sigma_s}\bigr) -
   \Phi\bigl(\tfrac{G(x - h/2) - m_s}{\sigma_s}\bigr)\Bigr) + t_{s,\mathrm{far}} \, P(x)
   + \sum_i t_{si} \, [x \in \mathrm{spike}_i], $$

a Normal on the scale of the warp, a share of the column's own marginal $P(x)$, and the most common
cells, whose shares are a table; the density is $P(x \mid s) / h$, and never above the data's own
precision. Without a grid the first two are densities, $\mathcal N(G(x); m_s, \sigma_s^2) \, G'(x)$
and that of the marginal, and atoms are all that the table has. A value far from all states is
improbable by the tail of the marginal, which is exponential, and not by that of a Normal. Beyond
the ends of a grid, and at and below zero of positive numbers, lies a share of ``OUTSIDE``.

So all that is learned are tables and Normals, in closed form from expected counts; of a Normal that
is seen through cells the first two moments given the cell are expected. Each column's emission is
one measure and normalised: it compares with other models of the same atoms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from taut.data.tables.kind import Grid
from taut.data.tables.kinds import KINDS
from taut.distributions import OUTSIDE, warps
from taut.distributions.grids import Gridded
from taut.model import Resizing
from taut.models.cells import Marginal, of_levels, of_numbers
from taut.system.precision import wide

__all__ = ["Counts", "Emissions", "Seen", "Terms"]

FEW = 2.0  # rows of the column's own frequencies that each state begins with
NORMAL_COUNT = 1.0  # rows of its own variance, likewise
ENDLESS = 1e3  # height of an end of the support, beyond which there is nothing
REACH = 40.0  # standard deviations, beyond which a Normal has no mass


class Seen(NamedTuple):
    r"""Data as the emissions see them: C columns of B rows, D of them numbers.

    Args:
        row: Of the table, (C, B); any where no cell holds the value.
        held: Whether a level or a spike holds it, (C, B).
        constant: What is added to the log-probability of a cell, the same in all states, (C, B):
            how its values share it.
        dense: Whether the value of a number is seen through the warp, (D, B): neither missing, nor
            an atom without a width, nor beyond the ends.
        place: Number of its interval, (D, B); any where it has none.
        interval: The distinct intervals, or points, of the warp.
    """

    row: Tensor
    held: Tensor
    constant: Tensor
    dense: Tensor
    place: Tensor
    interval: Interval

    def of(self, rows: Tensor) -> Seen:
        """Returns numbered rows, (B,), with the intervals of them alone."""
        row, held, constant, dense, place = (part[:, rows] for part in self[:5])
        distinct, place = place.unique(return_inverse=True)
        interval = Interval(*(part[distinct] for part in self.interval))
        return Seen(row, held, constant, dense, place, interval)


class Interval(NamedTuple):
    """Parts of the scales of the warps, (U,) each: of which number, from where to where, and how
    wide; a point has a width of 0.
    """

    number: Tensor
    lower: Tensor
    upper: Tensor
    gap: Tensor


class Terms(NamedTuple):
    r"""Log-probabilities.

    Args:
        each: $\log p(x_c \mid s)$, (C, B, S), less what is common: zero where missing.
        common: What all states have in common, (C, B): for a number far out it is so large that
            beside it what they differ by would be rounding.
        near: Share of the Normal in them, of numbers, (D, B, S).
        far: Share of the marginal, likewise; the rest is the cell's.
        mean: Of a height in each interval under the Normal of each state, (U, S).
        square: Its mean square, likewise.
    """

    each: Tensor
    common: Tensor
    near: Tensor
    far: Tensor
    mean: Tensor
    square: Tensor


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
        grids: Of each column of numbers on a known grid; or None.
        knots: Of the marginals of mixed numbers, (C, 2, M), for their atoms; or None.
        num_states: S.
    """

    cells: Tensor
    start: Tensor
    step: Tensor
    offset: Tensor
    owner: Tensor
    base: Tensor
    knots: Tensor
    moments: Tensor

    def __init__(
        self,
        kinds: Sequence[str],
        num_levels: Sequence[int],
        low: Tensor,
        high: Tensor,
        grids: Sequence[Grid | None] | None,
        knots: Tensor | None,
        num_states: int,
    ) -> None:
        super().__init__()
        self.kinds, self.levels = [KINDS[word] for word in kinds], list(num_levels)
        self.grids = list(grids or [None] * len(kinds))
        self.numbers = [c for c, kind in enumerate(self.kinds) if not kind.nominal]
        self.atoms = [np.zeros(0)] * len(kinds)
        if knots is not None:
            x = knots[..., 0, :].double().numpy()
            self.atoms = [
                np.unique(own[1:][(own[1:] == own[:-1]) & np.isfinite(own[1:])]) for own in x
            ]
        numbers = [self.kinds[c] for c in self.numbers]

        def buffer(values: Tensor | list[bool]) -> Tensor:
            return nn.Buffer(torch.as_tensor(values)[:, None], persistent=False)

        self.low, self.high = buffer(low), buffer(high)
        self.nominal = buffer([kind.nominal for kind in self.kinds])
        self.positive = buffer([kind.transform == "log" for kind in numbers])
        self.ranged = buffer([kind.word == "levels" for kind in numbers])
        self.counted = buffer([kind.word == "count" for kind in numbers])
        ends = [self._ends(c) for c in self.numbers]
        self.first, self.last = (
            nn.Buffer(torch.tensor(part, dtype=low.dtype), persistent=False)
            for part in (zip(*ends, strict=True) if ends else ([], []))
        )
        most = max([len(grid.atoms) for grid in self.grids if grid], default=0)
        atoms = [list(grid.atoms if grid else ()) for grid in (self.grids[c] for c in self.numbers)]
        atoms = [own + [math.inf] * (most - len(own)) for own in atoms]
        self.on_grid = nn.Buffer(
            torch.tensor(atoms, dtype=low.dtype).view(len(atoms), most), persistent=False
        )
        self._make([np.zeros(0)] * len(kinds))
        self.resize(num_states)

    def _ends(self, c: int) -> tuple[float, float]:
        """Returns the numbers of the first and of the last cell of a column of numbers."""
        grid, kind = self.grids[c], self.kinds[c]
        if grid is not None:
            return grid.first, grid.last
        if not kind.discrete:
            return -math.inf, math.inf
        low, high = float(self.low[c]), float(self.high[c])
        return (max(low, 0.0), math.inf) if kind.word == "count" else (low, high)

    @property
    def num_states(self) -> int:
        return self.table.shape[-1]

    def resize(self, num_states: int) -> None:
        """Makes all states alike, so many of them."""
        self.table = nn.Parameter(self.base.log()[:, None].repeat(1, num_states))
        self.loc = nn.Parameter(self.moments[0][:, None].repeat(1, num_states))
        self.log_scale = nn.Parameter(0.5 * self.moments[1].log()[:, None].repeat(1, num_states))

    # --- What follows from the training rows ---

    def fit(self, x: Tensor) -> None:
        """Takes cells, warps and marginals from training rows, (N, C)."""
        columns = [column[~column.isnan()].double().cpu().numpy() for column in x.T]
        self._make(columns)
        self.to(x.device)

    def _make(self, columns: Sequence[np.ndarray]) -> None:
        made = [self._marginal(c, values) for c, values in enumerate(columns)]
        like: dict[str, Any] = {"dtype": torch.get_default_dtype()}

        def together(rows: list[np.ndarray]) -> Tensor:
            most = max([row.shape[-1] for row in rows], default=0)
            wide = [
                np.pad(
                    r, [(0, 0)] * (r.ndim - 1) + [(0, most - r.shape[-1])], constant_values=math.inf
                )
                for r in rows
            ]
            return torch.as_tensor(np.array(wide), **like)

        sizes = [len(m.base) for m in made]
        self.cells = nn.Buffer(together([np.append(m.cells, math.inf) for m in made]))
        self.offset = nn.Buffer(torch.tensor([0, *np.cumsum(sizes)[:-1]])[:, None])
        owner = torch.repeat_interleave(torch.arange(len(made)), torch.tensor(sizes))
        self.owner = nn.Buffer(owner)
        self.base = nn.Buffer(torch.as_tensor(np.concatenate([m.base for m in made]), **like))
        numbers = [made[c] for c in self.numbers]
        self.start = nn.Buffer(torch.tensor([m.start for m in numbers], **like))
        self.step = nn.Buffer(torch.tensor([m.step for m in numbers], **like))
        knots = together([m.knots for m in numbers])
        self.knots = nn.Buffer(knots.view(len(numbers), 2, -1) if numbers else knots)
        moments = torch.tensor([m.moments for m in numbers], **like)
        self.moments = nn.Buffer(moments.view(-1, 2).T.contiguous())

    def _marginal(self, c: int, values: np.ndarray) -> Marginal:
        kind = self.kinds[c]
        if kind.nominal:
            return of_levels(values, self.levels[c])
        ends = float(self.low[c]), float(self.high[c])
        return of_numbers(kind, values, ends, self.grids[c], self.atoms[c])

    # --- Probabilities ---

    def tables(self) -> Tensor:
        """Returns the log-probabilities of the cells of each column, (R, S), of sum 1 a column."""
        return self.table - _by_column(self.owner, len(self.kinds), self.table)[self.owner]

    def see(self, x: Tensor) -> Seen:
        """Returns rows, (B, C), as the emissions see them."""
        value = x.T.contiguous()
        missing, number = value.isnan(), value.nan_to_num(0.0)
        never = torch.where(number == number.round(), 0.0, -math.inf).to(number)
        beyond = (number < 0) | (number >= self._levels(number))
        constant = torch.where(beyond, -math.inf, never)
        if d := self.numbers:
            at, within = self._intervals(number[d])
            constant = constant.index_copy(0, self._index(number), within)
            cell = torch.where(self._celled(), self._cell(number[d]), number[d])
            number = number.index_copy(0, self._index(number), cell)
        place = (torch.searchsorted(self.cells, number.contiguous(), right=True) - 1).clamp(min=0)
        held = (self.cells.gather(1, place) == number) & ~missing
        constant = torch.where(missing, 0.0, constant)
        row = torch.where(held, self.offset + place, self.offset)
        if not d:
            nothing = held[:0]
            return Seen(row, held, constant, nothing, nothing.long(), _NO_INTERVAL)
        outside = self._outside(cell)
        held[d] &= ~outside
        # An atom where there is no grid is no density, and has no slope.
        atom = held[d] & ~self._celled()
        constant[d] = torch.where(atom, 0.0, constant[d])
        dense = ~missing[d] & ~outside & ~atom
        place, interval = _distinct(at, torch.where(self._celled(), cell, math.nan))
        return Seen(row, held, constant, dense, place, interval)

    def _levels(self, like: Tensor) -> Tensor:
        return torch.tensor(self.levels, device=like.device)[:, None].to(like)

    def _index(self, like: Tensor) -> Tensor:
        return torch.tensor(self.numbers, device=like.device)

    def _celled(self) -> Tensor:
        """Returns which numbers lie on a grid, (D, 1)."""
        return self.step[:, None] > 0

    def _unit(self) -> Tensor:
        return torch.where(self.step > 0, self.step, 1.0)[:, None]

    def _cell(self, value: Tensor) -> Tensor:
        """Returns the number of the cell of each value, (D, B)."""
        most = torch.finfo(value.dtype).max / 4  # as far out as cells go: see ``Gridded``
        return ((value - self.start[:, None]) / self._unit()).clamp(-most, most).round()

    def _outside(self, cell: Tensor) -> Tensor:
        """Returns which values lie beyond the ends of their grid, or of the positive numbers."""
        below, above = cell < self.first[:, None], cell > self.last[:, None]
        return (self._celled() & (below | above)) | self._below_zero(cell)

    def _below_zero(self, value: Tensor) -> Tensor:
        """Returns which values of positive numbers without a grid are not positive."""
        return self.positive & ~self._celled() & ~(value > 0)

    def _beyond_zero(self, value: Tensor) -> Tensor:
        r"""Returns the log-density there, the same in all states: a share of ``OUTSIDE``, as far
        out as the median of the training rows (see ``distributions.LogNormal``).
        """
        loc = warps.inverse(torch.zeros_like(value[:, :1]).T, self.knots, False).T
        out = (-value).clamp(min=0).log() - loc
        return math.log(2 * OUTSIDE) - loc - 3 * functional.softplus(out)

    def _intervals(self, value: Tensor) -> tuple[Interval, Tensor]:
        """Returns the interval of each value of the numbers, (D, B), on the scale of its warp, and
        the log-density of a value within its cell, or log G' where there is no cell; beyond the
        ends it is that of the marginal.
        """
        first, last, zero = self.first[:, None], self.last[:, None], torch.zeros_like(self.step)
        logs = torch.where(self.positive & (value > 0), value, 1.0).log()
        slope = torch.where(self.positive, math.log1p(-OUTSIDE) - logs, 0.0)
        at = warps.heights(torch.where(self.positive, logs, value).T, self.knots, False)
        lower = upper = _finite(at.upper.T)
        gap, within = torch.zeros_like(value), at.log_slope.T + slope
        within = torch.where(self._below_zero(value), self._beyond_zero(value), within)
        if bool((self.step > 0).any()):
            cell = self._cell(value)
            inside = torch.minimum(torch.maximum(cell, first), last)
            at = warps.heights(inside.T, self.knots, True, True)
            ends = (
                torch.where(cell <= first, -ENDLESS, _finite(at.lower.T)),
                torch.where(cell >= last, ENDLESS, _finite(at.upper.T)),
            )
            whole = torch.where((cell <= first) | (cell >= last), ends[1] - ends[0], at.gap.T)
            cells = warps.Warped(
                zero, zero + 1, self.knots, self.first, self.last, True, False, True
            )
            marginal = Gridded(cells, self.start, self._unit()[:, 0], self.on_grid)
            log_p = marginal.log_prob(value.T).T
            exact = value == cell
            noise = torch.where(exact, 0.0, math.log(OUTSIDE) - math.log1p(-OUTSIDE)).to(value)
            log_p = torch.where(self.ranged, log_p + noise, log_p)
            log_p = torch.where(self.counted & ~(exact & (value >= 0)), -math.inf, log_p)
            outside = (cell < first) | (cell > last)
            log_p = log_p - torch.where(outside, 0.0, _logistic_mass(*ends, whole))
            celled = self._celled()
            lower, upper = torch.where(celled, ends[0], lower), torch.where(celled, ends[1], upper)
            gap, within = torch.where(celled, whole, gap), torch.where(celled, log_p, within)
        number = torch.arange(len(value), device=value.device)[:, None].expand_as(value)
        return Interval(number, lower, upper, gap), within

    def _near(self) -> Tensor:
        """Returns the row of the Normal of each number, (D,); that of the marginal is next."""
        sizes = torch.bincount(self.owner, minlength=len(self.kinds))
        return (self.offset[:, 0] + sizes - 2)[self.numbers]

    def normals(self, at: Interval) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the log-probability of intervals, or log-density of points, under the Normal of
        each state, (U, S), and the mean and mean square of a height given that it lies there.
        """
        loc, scale = self.loc[at.number], self.log_scale[at.number].exp()
        lower, upper = (
            ((end[:, None] - loc) / scale).clamp(-REACH, REACH) for end in (at.lower, at.upper)
        )
        width, point = at.gap[:, None] / scale, at.gap[:, None] == 0
        middle = 0.5 * (at.lower + at.upper)[:, None].expand_as(loc)
        standard = (middle - loc) / scale
        # Where the difference of two shares would be rounding, its middle stands for the interval.
        thin = (width < torch.finfo(width.dtype).eps ** 0.25) | (lower == upper)
        size = torch.where(point, 1 / scale, torch.where(thin, width, 1.0)).log()
        log_p = -0.5 * standard.square() - 0.5 * math.log(2 * math.pi) + size
        a, b = torch.where(thin, 0.0, lower), torch.where(thin, 1.0, upper)
        log_share = _normal_share(a, b)
        first, last = (
            (-0.5 * (end.square() + math.log(2 * math.pi)) - log_share).exp() for end in (a, b)
        )
        mean = first - last
        square = loc.square() + 2 * scale * loc * mean + scale.square() * (1 + a * first - b * last)
        return (
            torch.where(thin, log_p, log_share),
            torch.where(thin, middle, loc + scale * mean),
            torch.where(thin, middle.square(), square),
        )

    def terms(self, seen: Seen, table: Tensor) -> Terms:
        """Returns the log-probabilities in all states, of tables (R, S)."""
        each, d = functional.embedding(seen.row, table), self.numbers
        each = torch.where(seen.held[..., None], each, 0.0)
        if not d:
            none = each[:0]
            return Terms(each, seen.constant, none, none, none, none)
        row, at = self._near(), seen.interval
        log_p, mean, square = self.normals(at)
        marginal = _logistic_mass(at.lower, at.upper, at.gap)[seen.place]
        common = torch.where(seen.dense, marginal, 0.0)
        dense, apart = seen.dense[..., None], common[..., None]
        near = table[row][:, None] + functional.embedding(seen.place, log_p) - apart
        far = table[row + 1][:, None].expand_as(near)
        cell, held = each[d] - apart, seen.held[d][..., None]
        total = _either(torch.logaddexp(near, far), dense, cell, held)
        near, far = (torch.where(dense, (part - total).exp(), 0.0) for part in (near, far))
        index = self._index(each)
        each, common = each.index_copy(0, index, total), seen.constant.index_add(0, index, common)
        return Terms(each, common, near, far, mean, square)

    def given(self, x: Tensor, states: Tensor) -> Tensor:
        r"""Returns the log-probability of each entry of rows, (\*batch, C), in known states,
        likewise: zero where it is missing.
        """
        seen, table = self.see(x.reshape(-1, x.shape[-1])), self.tables()

        def shaped(part: Tensor) -> Tensor:
            return part.T.view(*x.shape[:-1], -1)

        held = shaped(seen.held)
        each = torch.where(held, table[shaped(seen.row), states], 0.0)
        if d := self.numbers:
            row, at, s, place = self._near(), seen.interval, states[..., d], shaped(seen.place)
            near = table[row, s] + self.normals(at)[0][place, s]
            far = table[row + 1, s] + _logistic_mass(at.lower, at.upper, at.gap)[place]
            both = torch.logaddexp(near, far)
            total = _either(both, shaped(seen.dense), each[..., d], held[..., d])
            each = each.index_copy(-1, self._index(each), total)
        return each + shaped(seen.constant)

    # --- Expectation maximisation ---

    def counts(self, seen: Seen, terms: Terms, states: Tensor) -> Counts:
        """Returns the expected counts of rows whose columns are in states with probabilities
        (C, B, S).
        """
        table, d = torch.zeros_like(self.table), self.numbers
        normal = table.new_zeros(3, len(d), self.num_states)
        if d:
            near, far = states[d] * terms.near, states[d] * terms.far
            at, flat = seen.interval, near.reshape(-1, self.num_states)
            times = near.new_zeros(len(at.number), self.num_states)
            times.index_add_(0, seen.place.flatten(), flat)
            powers = torch.stack([times, times * terms.mean, times * terms.square])
            normal.index_add_(1, at.number, powers)
            table[self._near()], table[self._near() + 1] = normal[0], far.sum(1)
            states = states.index_copy(0, self._index(near), states[d] - near - far)
        where = seen.held.flatten().nonzero()[:, 0]
        row, flat = seen.row.flatten()[where], states.reshape(-1, self.num_states)[where]
        return Counts(table.index_add_(0, row, flat), normal)

    def maximize(self, counts: Counts, step: float) -> None:
        """Moves the tables and Normals a step towards the most probable ones given expected counts
        and pseudo-counts.
        """
        table = counts.table + FEW * self.base[:, None]
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
        tables = (self.tables().T * FEW * self.base).sum()
        mean, variance = self.moments[0][:, None], self.moments[1][:, None]
        square = ((self.loc - mean).square() + variance) * (-2 * self.log_scale).exp()
        return tables - NORMAL_COUNT * (0.5 * square + self.log_scale).sum()

    def begin(self, x: Tensor) -> None:
        """Puts state k at row k of x, (S, C), half way from the marginal."""
        self.resize(len(x))
        seen = self.see(x)
        here = torch.arange(len(x), device=x.device).expand_as(seen.row)
        table = 0.5 * self.base[:, None].repeat(1, len(x))
        row, put, d = seen.row.clone(), seen.held.clone(), self.numbers
        if d:
            row[d] = torch.where(seen.held[d], row[d], self._near()[:, None])
            put[d] |= seen.dense
        extra = torch.zeros_like(table)
        extra[row[put], here[put]] = 0.5
        given = extra.new_zeros(len(self.kinds), len(x)).index_add_(0, self.owner, extra)
        self.table.data = (table + extra + (0.5 - given)[self.owner] * self.base[:, None]).log()
        if d:
            at = seen.interval
            low = torch.where(at.lower > -ENDLESS, at.lower, at.upper - 2)
            high = torch.where(at.upper < ENDLESS, at.upper, low + 2)
            middle = (0.5 * (low + high)).clamp(-ENDLESS / 50, ENDLESS / 50)[seen.place]
            self.loc.data = torch.where(seen.dense, middle, self.moments[0][:, None])
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
        found = [self.mean(c, self.probabilities(c, table)) for c in range(len(self.kinds))]
        return torch.stack(found)

    def mean(self, c: int, p: Tensor) -> Tensor:
        """Returns the mean of a column in each state, (S,), whose cells have probabilities p."""
        if self.kinds[c].nominal:
            return self.cells[c, : len(p)] @ p
        d, spikes = self.numbers.index(c), self.cells[c, : len(p) - 2]
        share, weight = (torch.cat(part) for part in zip(*warps.parts(p), strict=True))
        normal = self.loc[d] + self.log_scale[d].exp() * torch.special.ndtri(share)[:, None]
        most = self._most(d)
        near = self._value(d, normal).clamp(max=most)
        far = self._value(d, share.logit()).clamp(max=most)
        near, far = (weight @ x / warps.MIDPOINTS for x in (near, far))
        return self._at(d, spikes) @ p[:-2] + near * p[-2] + far * p[-1]

    def _most(self, d: int) -> Tensor:
        """Returns up to where a number counts in its mean, (): see ``warps.most``."""
        if bool(self.step[d] > 0):
            return self._at(d, warps.most(self.knots[d]))
        if not bool(self.positive[d]):
            return warps.most(self.knots[d])
        end = self.knots[d, 0][self.knots[d, 0].isfinite()].max()
        return 2 * end.exp()

    def _at(self, d: int, cell: Tensor) -> Tensor:
        """Returns the values of cells of a number; without a grid they are atoms themselves."""
        return self.start[d] + self._unit()[d] * cell

    def _value(self, d: int, height: Tensor) -> Tensor:
        """Returns the value of a number at a height, within its ends."""
        celled, c = bool(self.step[d] > 0), self.numbers[d]
        flat = height.reshape(-1, 1)
        x = warps.inverse(flat, self.knots[d : d + 1], True).view(height.shape)
        if celled:
            return self._at(d, torch.ceil(x - 0.5).clamp(self.first[d], self.last[d]))
        if bool(self.positive[d]):
            x = x.exp()
        return x.clamp(self.low[c], self.high[c])

    def expected(self, table: Tensor, states: Tensor) -> list[Tensor]:
        """Returns of each column, in states with probabilities (C, B, S), the probability of each
        level, (B, levels), or of numbers their mean, (B, 1).
        """
        found = []
        for c, kind in enumerate(self.kinds):
            p = self.probabilities(c, table)
            found.append(states[c] @ (p.T if kind.nominal else self.mean(c, p)[:, None]))
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
        if self.kinds[c].nominal:
            return self.cells[c][cell]
        d = self.numbers.index(c)
        v = u[1].clamp(1e-7, 1 - 1e-7)
        normal = self.loc[d][state] + self.log_scale[d].exp()[state] * torch.special.ndtri(v)
        height = torch.where(cell == len(p) - 2, normal, v.logit())
        spike = self._at(d, self.cells[c][cell.clamp(max=max(0, len(p) - 3))])
        return torch.where(cell < len(p) - 2, spike, self._value(d, height))


_NO_INTERVAL = Interval(torch.zeros(0, dtype=torch.long), *[torch.zeros(0)] * 3)


def _distinct(at: Interval, cell: Tensor) -> tuple[Tensor, Interval]:
    """Returns the number of each interval, (D, B), among the distinct ones: a cell of a column is
    one however many rows have it; where there is none (NaN) each value is one of its own.
    """
    alone = torch.arange(cell.shape[1], device=cell.device).expand_as(cell)
    near = cell.abs() < 2.0**40
    code = torch.where(near, torch.where(near, cell, 0.0).long() + 2**41, alone)
    distinct, place = torch.unique(code + at.number * 2**43, return_inverse=True)

    def of_each(values: Tensor) -> Tensor:
        return values.new_empty(len(distinct)).scatter_(0, place.flatten(), values.flatten())

    return place, Interval(*(of_each(part) for part in at))


def _finite(height: Tensor) -> Tensor:
    """Returns heights of which a difference and a sum are numbers, however far out a value lies."""
    most = torch.finfo(height.dtype).max / 8
    return height.clamp(-most, most)


def _normal_share(lower: Tensor, upper: Tensor) -> Tensor:
    """Returns the log of the share of the standard Normal between two values, in either tail."""
    flip = lower + upper > 0
    a, b = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
    below = torch.special.log_ndtr(b)
    return below + torch.log(-torch.expm1(torch.special.log_ndtr(a) - below))


def _logistic_mass(lower: Tensor, upper: Tensor, gap: Tensor) -> Tensor:
    """Returns the log of the share of the standard logistic distribution between two heights, and
    of a point, which is no gap wide, its log-density.
    """
    inner = torch.log(-torch.expm1(-torch.where(gap > 0, gap, 1.0)))
    tails = functional.logsigmoid(upper) + functional.logsigmoid(-lower)
    return tails + torch.where(gap > 0, inner, 0.0)


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


def _either(warped: Tensor, dense: Tensor, cell: Tensor, held: Tensor) -> Tensor:
    """Returns the log of the sum of what a number has by its warp and by its cell, of those that
    there are; 0 of none.

    No gradient meets the difference of two infinities.
    """
    nothing = torch.where(dense, -math.inf, 0.0).to(cell)
    return torch.logaddexp(torch.where(dense, warped, -math.inf), torch.where(held, cell, nothing))
