"""The baseline: independent marginals of the same data. A model that does not beat it has learned
no dependence.

Each marginal is at least as rich as that which a latent variable can give a column. Otherwise a
model would beat the baseline on columns that have nothing to do with each other. Levels have their
frequencies, and numbers a mixture (``evidence/marginals.py``). Counts and levels of a table have
frequencies too, drawn towards such a mixture (summed over each integer), as strongly as predicts
each training row best from the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from taut.build.statistics import Statistics, summarize
from taut.data import Dataset, Rows, Schema, blocks
from taut.distributions import Multinomial, NegativeBinomial
from taut.distributions.grids import Gridded
from taut.distributions.warps import Warped
from taut.evidence.finding import Finding, counts, show
from taut.evidence.marginals import ENTRIES, WIDE, Reals
from taut.evidence.results import Estimate
from taut.evidence.section import Row, Scene, Section
from taut.system.records import ESTIMATE
from taut.types import PerDatum

__all__ = ["independent_marginals", "marginals_of_columns"]

ROWS = 20_000  # to which a marginal is fitted: 24 parameters need no more


def independent_marginals(data: Dataset, x: Rows, *, given_total: bool = False) -> PerDatum | None:
    r"""Returns log p(x) under a product of marginals fitted to the training data, (N,), nats;
    missing entries are integrated out.

    In a table, mixed numbers and dates have the marginal from which their likelihood starts. Pixels
    of real numbers have a normal distribution each, with the pooled scale for a pixel that never
    varied (the density of a constant has no limit).

    Args:
        data: The marginals are fitted to its training part.
        x: Data, (N, \*event).
        given_total: Whether the total of each row of counts is known, as to a model that takes it:
            the best, on the training rows, of marginals that do not use it, of shares of it that
            are the same in all rows (a multinomial), and of negative binomials with means in
            proportion to it.

    Returns:
        None if the levels are too many for a table of frequencies.
    """
    schema, statistics = data.schema, summarize(data)
    if schema.kind in ("binary", "levels") and statistics.log_frequencies is None:
        return None
    if schema.kind == "real" and schema.is_image:
        loc, scale = statistics.loc.double(), statistics.scale.double()
        scale = torch.where(scale > 0, scale, scale.square().mean().sqrt())
        return torch.cat([_normal(loc, scale, b.double()).flatten(1).sum(1) for b in blocks(x)])
    parts = _parts(data, statistics)

    def total(block: Tensor) -> Tensor:
        return torch.stack([part.log_prob(block[:, part.columns]).sum(1) for part in parts]).sum(0)

    best = _knowing_total(data, total) if given_total else total
    return torch.cat([best(block.flatten(1).double()) for block in blocks(x)])


def _knowing_total(data: Dataset, apart: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Returns log p(x | total of the row), as a function of rows, under columns that know of the
    total and of nothing else of the row.

    Args:
        data: Its training part says which of three is best.
        apart: The first, log p(x) of rows under marginals that do not know the total.
    """
    columns = data.schema.rest or list(range(data.schema.num_elements))
    mean = summarize(data).loc.double().flatten()[columns].clamp(min=1e-4)
    train = data.train[:ROWS]

    def expected(counted: Tensor) -> Tensor:
        return mean * counted.sum(1, keepdim=True).clamp(min=0.5) / mean.sum()

    above, squares = torch.zeros_like(mean), torch.zeros_like(mean)
    for block in blocks(train):
        counted = block.flatten(1).double()[:, columns]
        at = expected(counted)
        above += ((counted - at).square() - at).sum(0)
        squares += at.square().sum(0)
    log_r = (squares / above.clamp(min=1e-8)).clamp(max=1e8).log()

    def shares(rows: Tensor) -> Tensor:
        counted = rows[:, columns]
        return Multinomial(mean.log().expand_as(counted), counted.sum(1), 1).log_prob(counted)

    def spread(rows: Tensor) -> Tensor:
        counted = rows[:, columns]
        return NegativeBinomial(expected(counted).log(), log_r).log_prob(counted).sum(1)

    def reached(marginals: Callable[[Tensor], Tensor]) -> float:
        return sum(float(marginals(b.flatten(1).double()).sum()) for b in blocks(train))

    return max((apart, shares, spread), key=reached)


def marginals_of_columns(data: Dataset, x: Rows) -> Tensor | None:
    """Returns log p of each entry under the marginal of its column, (N, C), as ``Split`` orders the
    modelled columns; 0 where it is missing.

    Args:
        data: The marginals are fitted to its training part.
        x: Rows of columns, (N, C), those of the context among them.

    Returns:
        None if the levels are too many for a table of frequencies.
    """
    schema, statistics = data.schema, summarize(data)
    if schema.kind in ("binary", "levels") and statistics.log_frequencies is None:
        return None
    parts = _parts(data, statistics)
    modelled = schema.rest or list(range(schema.num_elements))

    def terms(block: Tensor) -> Tensor:
        made = torch.zeros(block.shape, dtype=torch.float64)
        for part in parts:
            made[:, part.columns] = part.log_prob(block[:, part.columns])
        return made[:, modelled]

    return torch.cat([terms(block.double()) for block in blocks(x)])


class _Part(NamedTuple):
    """Columns of one kind, and a function that gives the log-probabilities of their values
    (N, columns), 0 for missing ones.
    """

    columns: list[int]
    log_prob: Callable[[Tensor], Tensor]


def _parts(data: Dataset, statistics: Statistics) -> list[_Part]:
    """Returns the marginals of all columns or elements, those of one kind together."""
    schema = data.schema
    everything = schema.rest or list(range(schema.num_elements))
    if schema.kind in ("binary", "levels"):
        assert statistics.log_frequencies is not None
        table = statistics.log_frequencies.double().flatten(0, -2)
        return [_Part(everything, lambda values: _looked_up(table, values - schema.low))]
    if schema.kind == "count":
        return [_whole_numbers(data, statistics, everything)]
    if schema.kind == "real":
        return [_real_numbers(data, everything)]
    parts: list[_Part] = []
    rules = {i: schema.modelled[i].rules for i in schema.rest}
    grids = [i for i in rules if schema.modelled[i].grid and statistics.cells is not None]
    levels = [i for i, r in rules.items() if r.nominal]
    whole = [i for i, r in rules.items() if r.discrete and not r.nominal and i not in grids]
    warped = [i for i, r in rules.items() if r.warped and not r.discrete and i not in grids]
    numbers = [i for i in schema.rest if i not in {*grids, *levels, *whole, *warped}]
    if levels:
        assert statistics.log_frequencies is not None
        frequencies = statistics.log_frequencies[levels].double()
        parts.append(_Part(levels, lambda values: _looked_up(frequencies, values)))
    parts += [_Part([i], _warped(schema, statistics, i)) for i in warped]
    parts += [_Part([i], _gridded(schema, statistics, i)) for i in grids]
    if whole:
        parts.append(_whole_numbers(data, statistics, whole))
    if numbers:
        parts.append(_real_numbers(data, numbers))
    return parts


def _whole_numbers(data: Dataset, statistics: Statistics, columns: list[int]) -> _Part:
    low, high = _ranges(data.schema, columns)
    loc = statistics.loc.flatten()[columns].double()
    scale = statistics.scale.flatten()[columns].double()
    return _Part(columns, _Integers(data, columns, low, high, (loc, scale)).log_prob)


def _real_numbers(data: Dataset, columns: list[int]) -> _Part:
    reals = Reals(_sample(data.train, columns))
    return _Part(columns, lambda values: reals.log_prob(values.T).T)


def _warped(schema: Schema, statistics: Statistics, i: int) -> Callable[[Tensor], Tensor]:
    """Returns the log-probabilities of one column of mixed numbers or dates, from values (N, 1)."""
    column, zero = schema.modelled[i], torch.zeros(1, dtype=torch.float64)
    assert statistics.knots is not None
    low, high = (torch.tensor([end], dtype=torch.float64) for end in column.support)
    knots, cut = statistics.knots[i : i + 1].double(), "low" in column.rules.entries
    marginal = Warped(zero, zero + 1, knots, low, high, False, cut)
    return _observed(marginal, marginal.quantile(zero + 0.5))


def _gridded(schema: Schema, statistics: Statistics, i: int) -> Callable[[Tensor], Tensor]:
    """Returns the log-probabilities of one column on a grid, from values (N, 1)."""
    grid, zero = schema.modelled[i].grid, torch.zeros(1, dtype=torch.float64)
    assert grid is not None
    assert statistics.cells is not None
    knots = statistics.cells[i : i + 1].double()
    ends = zero + grid.first, zero + grid.last
    cells = Warped(zero, zero + 1, knots, *ends, True, False, True)
    atoms = torch.tensor([grid.atoms], dtype=torch.float64)
    marginal = Gridded(cells, zero + grid.start, zero + grid.step, atoms)
    return _observed(marginal, zero + grid.start)


def _observed(marginal: Distribution, middle: Tensor) -> Callable[[Tensor], Tensor]:
    """Returns the log-probabilities of values (N, 1) under a marginal, 0 where they are missing.

    ``middle`` is any value that has one.
    """

    def log_prob(values: Tensor) -> Tensor:
        missing = values.isnan()
        return torch.where(missing, 0.0, marginal.log_prob(torch.where(missing, middle, values)))

    return log_prob


def _ranges(schema: Schema, columns: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Returns the ends of the supports of columns of whole numbers."""
    ends = [schema.modelled[i].support if schema.columns else (0.0, math.inf) for i in columns]
    ranges = torch.tensor(ends, dtype=torch.float64)
    return ranges[:, 0], ranges[:, 1]


def _looked_up(table: Tensor, values: Tensor) -> Tensor:
    """Returns the entry of each column of ``values`` (N, columns) in its row of ``table`` (columns,
    levels); 0 for missing values.
    """
    missing = values.isnan()
    index = values.nan_to_num(0.0).long()
    return torch.where(missing, 0.0, table.gather(1, index.T).T)


def _normal(loc: Tensor, scale: Tensor, values: Tensor) -> Tensor:
    missing = values.isnan()
    return torch.where(missing, 0.0, Normal(loc, scale).log_prob(torch.where(missing, loc, values)))


def _sample(rows: Rows, columns: Sequence[int]) -> Tensor:
    """Returns some training rows in a random order that is always the same, as columns, (C, n),
    float64.
    """
    count = min(ROWS, len(rows), max(500, 4 * ENTRIES // max(1, len(columns))))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    index = order[:count].sort().values
    picked = [rows[part].flatten(1)[:, columns].cpu().double() for part in index.split(4096)]
    mixed = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    return torch.cat(picked)[mixed].T.contiguous()


class _Integers:
    """The marginals of columns of whole numbers from ``low`` to ``high``, (C,)."""

    def __init__(
        self,
        data: Dataset,
        columns: Sequence[int],
        low: Tensor,
        high: Tensor,
        moments: tuple[Tensor, Tensor],
    ) -> None:
        self.columns, self.low, self.last = list(columns), low, high - low
        self.size = self._levels(data)
        self.moments, self.reals = moments, None
        if len(self.columns) <= WIDE:
            train = _sample(data.train, self.columns) - low[:, None]
            # Spread over the interval that each integer stands for, whose share of the density is
            # the integer's probability.
            fixed = torch.Generator().manual_seed(2)
            self.reals = Reals(train + torch.rand(train.shape, generator=fixed, dtype=train.dtype))
        seen, size = self._frequencies(data), self.size
        inside = torch.arange(size, dtype=torch.float64).expand(len(seen), -1)
        prior = self._prior(inside).exp().where(inside <= self.last[:, None], 0.0)
        self.rest = (1 - prior.sum(1, keepdim=True)).clamp(min=1e-12)
        prior = torch.cat([prior, self.rest], 1)
        rows = seen.sum(1, keepdim=True)
        strengths = 10.0 ** torch.arange(-1, 6.5, 0.5, dtype=torch.float64)
        scores = []
        for strength in strengths:
            # The log-probability of each row, given all others.
            log_p = ((seen - 1 + strength * prior) / (rows - 1 + strength)).log()
            scores.append(torch.where(seen > 0, seen * log_p, 0.0).sum(1))
        best = strengths[torch.stack(scores).argmax(0)][:, None]
        self.table = ((seen + best * prior) / (rows + best)).log()

    def _levels(self, data: Dataset) -> int:
        """Returns the number of levels in the table; larger values have the smooth marginal."""
        largest = float(self.last.max())
        if not bool(self.last.isfinite().all()):
            largest = max(float(b.nan_to_num(0.0).max()) for b in self._values(data))
        most = max(64, min(4096, ENTRIES // len(self.columns)))
        return int(min(most, largest + 1))

    def _frequencies(self, data: Dataset) -> Tensor:
        """Returns the number of training rows with each level, and with larger values, (C,
        levels + 1).
        """
        size = self.size
        seen = torch.zeros(len(self.columns) * (size + 1), dtype=torch.float64)
        first = torch.arange(len(self.columns)) * (size + 1)
        for values in self._values(data):
            there = ~values.isnan()
            places = (values.nan_to_num(0.0).clamp(max=size).long() + first)[there]
            seen += torch.bincount(places, minlength=len(seen))
        return seen.view(-1, size + 1)

    def _values(self, data: Dataset) -> Iterator[Tensor]:
        """Returns the training values above ``low``, (n, C), a block at a time."""
        return (b.flatten(1)[:, self.columns].double() - self.low for b in blocks(data.train))

    def _prior(self, values: Tensor) -> Tensor:
        """Returns the log-probability of whole numbers (C, n) under the smooth marginal."""
        if self.reals is None:
            return _counts(*self.moments).log_prob(values.T).T
        below = torch.where(values > 0, self.reals.below(values), 0.0)
        above = torch.where(values < self.last[:, None], self.reals.below(values + 1), 1.0)
        mass = above - below
        smooth = self.reals.log_prob(values + 0.5)  # where the difference is mostly rounding
        return torch.where(mass > 1e-8, mass.clamp(min=1e-8).log(), smooth)

    def log_prob(self, values: Tensor) -> Tensor:
        """Returns the log-probability of each value (n, C), 0 where it is missing."""
        x = (values - self.low).T
        missing = x.isnan()
        x = x.nan_to_num(0.0)
        # New rows can have levels outside the range: the smooth marginal has a tail there.
        outside = (x < 0) | (x > self.last[:, None])
        found = self.table.gather(1, x.clamp(min=0, max=self.size).long())
        beyond = x >= self.size
        if bool(beyond.any()):
            found = torch.where(beyond, found + self._prior(x) - self.rest.log(), found)
        if bool(outside.any()):
            tail = torch.full_like(x, -math.inf)
            if self.reals is not None:
                tail = self.reals.log_prob(x + 0.5)
            found = torch.where(outside, tail, found)
        return torch.where(missing, 0.0, found).T


def _counts(loc: Tensor, scale: Tensor) -> NegativeBinomial:
    """Returns a negative binomial with given moments; a count that was never above zero has the
    mean at which its likelihood starts.
    """
    mean = loc.clamp(min=1e-4)
    excess = (scale.square() - mean).clamp(min=1e-8)
    return NegativeBinomial(mean.log(), (mean.square() / excess).clamp(max=1e8).log())


class Baseline(Section):
    """log p(x) under independent marginals."""

    name, title, chapter, order, always = "baseline", "", "good", 10, True
    shape: ClassVar = ESTIMATE

    @classmethod
    def lacks(cls, scene: Scene) -> str | None:
        if scene.baseline is not None:
            return None
        return scene.lacks("train") or ""

    @classmethod
    def run(cls, scene: Scene) -> Section:
        assert scene.baseline is not None
        known = scene.baseline[: len(scene.x)]
        return cls(Estimate.of(known, torch.zeros(len(known)), scene.groups).to_dict())

    def rows(self) -> list[Row]:
        title = "baseline, independent marginals"
        return [Row(title, self.values, 0, title, "good")]


class Gain(Section):
    """How far log p(x) lies above that of independent marginals."""

    name, title, chapter, order, always = "gain_over_baseline", "", "good", 11, True
    needs, told = ("baseline",), False
    shape: ClassVar = ESTIMATE

    @classmethod
    def run(cls, scene: Scene) -> Section:
        assert scene.baseline is not None
        assert scene.evidence is not None
        evidence = scene.evidence
        gain = evidence.log_evidence - scene.baseline[: len(evidence.ess)]
        return cls(Estimate.of(gain, evidence.log_evidence_error, scene.groups).to_dict())

    def rows(self) -> list[Row]:
        return [Row("log p(x) above the baseline", self.values, chapter="good")]

    def findings(self, others: Mapping[str, Section]) -> Iterator[Finding]:
        gain = self.values
        if gain["value"] is None or gain["test_error"] is None or counts(gain):
            return
        yield Finding(
            "baseline",
            None,
            None,
            "log p(x)",
            "the model hardly beats independent marginals: it has found no dependence between the "
            "elements",
            f"log p(x) exceeds that of independent marginals by {show(gain)}",
            "check that rows and columns are what you think, give the latent space more "
            "dimensions, train longer",
            "taut check DATA",
        )
