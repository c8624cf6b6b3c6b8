r"""The baseline: independent marginals of the same data. A model that does not beat it has learned
no dependence.

Each marginal is at least as rich as what a latent variable can make of one column, or a model would
beat the baseline on columns that have nothing to do with each other. Levels have their frequencies.
Numbers have a mixture

$$ p(x) = \sum_{k=1}^{K} w_k \, t_\nu\bigl((h(x) - m_k) / s_k\bigr) \, h'(x) / s_k, $$

with K up to 8, $\nu$ = 3 or infinity (a Normal) and h the identity or, of positive numbers, the
logarithm: what predicts a quarter of the training data best from the other three. Counts and levels
of a table have frequencies, too, drawn towards such a mixture (summed over each integer) as
strongly as predicts each training datum best from the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal

from taut.build.statistics import Statistics, summarize
from taut.data import Dataset, Rows, Schema, blocks
from taut.distributions import NegativeBinomial
from taut.distributions.warps import Warped
from taut.evidence.finding import Finding, counts, show
from taut.evidence.results import Estimate
from taut.evidence.section import Row, Scene, Section
from taut.system.records import ESTIMATE
from taut.types import PerDatum

__all__ = ["independent_marginals"]

ROWS = 20_000  # that a marginal is fitted to: 24 parameters need no more
# that stand for the rows of a column in a fit; so many at each end are single rows
POINTS, TAIL = (
    256,
    16,
)
COMPONENTS, DEGREES, STEPS = (1, 2, 3, 5, 8), (3.0, math.inf), 40
ROWS_EACH = 20  # for each component, at least
FLOOR = 1e-4  # of a component's scale, as a share of the data's: the likelihoods have the same
# columns: of more, mixtures are small, and counts are drawn towards a negative binomial, which
# takes no time
WIDE = 500
ENTRIES = 2**22


def independent_marginals(data: Dataset, x: Rows) -> PerDatum | None:
    r"""Returns log p(x) under a product of marginals fitted to the training data, (N,), nats; what
    is missing drops out.

    In a table, mixed numbers and dates have the marginal that their likelihood starts from. Images
    of real numbers have a Normal each, with the pooled scale for a pixel that never varied (the
    density of a constant has no limit).

    Args:
        data: Whose training part the marginals are fitted to.
        x: Data, (N, \*event).

    Returns:
        None where the levels are too many for a table of frequencies.
    """
    schema, statistics = data.schema, summarize(data)
    if schema.kind in ("binary", "levels"):
        if statistics.log_frequencies is None:
            return None
        table = statistics.log_frequencies.double().flatten(0, -2)
        return torch.cat(
            [_looked_up(table, b.flatten(1).double() - schema.low).sum(-1) for b in blocks(x)]
        )
    if schema.kind == "real" and schema.is_image:
        loc, scale = statistics.loc.double(), statistics.scale.double()
        scale = torch.where(scale > 0, scale, scale.square().mean().sqrt())
        return torch.cat([_normal(loc, scale, b.double()).flatten(1).sum(1) for b in blocks(x)])
    parts: list[_Part] = []
    if schema.kind == "table":
        kinds = [c.kind for c in schema.modelled]
        levels = [i for i in schema.rest if schema.modelled[i].levels]
        whole = [i for i in schema.rest if kinds[i] in ("count", "levels")]
        numbers = [i for i in schema.rest if i not in set(levels + whole)]
    else:
        levels, everything = [], list(range(schema.num_elements))
        whole, numbers = (everything, []) if schema.kind == "count" else ([], everything)
    if levels:
        assert statistics.log_frequencies is not None
        table = statistics.log_frequencies[levels].double()
        parts.append(_Part(levels, lambda values: _looked_up(table, values)))
    warped = [i for i in numbers if schema.columns and kinds[i] in ("mixed", "date")]
    numbers = [i for i in numbers if i not in warped]
    if warped:
        parts += [_Part([i], _warped(schema, statistics, i)) for i in warped]
    if whole:
        low, high = _ranges(schema, whole)
        moments = (
            statistics.loc.flatten()[whole].double(),
            statistics.scale.flatten()[whole].double(),
        )
        parts.append(_Part(whole, _Integers(data, whole, low, high, moments).log_prob))
    if numbers:
        reals = _Reals(_sample(data.train, numbers))
        parts.append(_Part(numbers, lambda values: reals.log_prob(values.T).T))

    def total(block: Tensor) -> Tensor:
        return torch.stack([part.log_prob(block[:, part.columns]).sum(1) for part in parts]).sum(0)

    return torch.cat([total(b.flatten(1).double()) for b in blocks(x)])


class _Part(NamedTuple):
    """Columns of one sort, and the log-probabilities of their values (N, columns).

    0 where they are missing.
    """

    columns: list[int]
    log_prob: Callable[[Tensor], Tensor]


def _warped(schema: Schema, statistics: Statistics, i: int) -> Callable[[Tensor], Tensor]:
    """Returns the log-probabilities of one column of mixed numbers or dates, from values (N, 1)."""
    column, zero = schema.modelled[i], torch.zeros(1, dtype=torch.float64)
    assert statistics.knots is not None
    low, high = (torch.tensor([end], dtype=torch.float64) for end in column.support)
    knots, cut = statistics.knots[i : i + 1].double(), column.kind == "mixed"
    marginal = Warped(zero, zero + 1, knots, low, high, False, cut)
    middle = marginal.quantile(zero + 0.5)

    def log_prob(values: Tensor) -> Tensor:
        missing = values.isnan()
        return torch.where(missing, 0.0, marginal.log_prob(torch.where(missing, middle, values)))

    return log_prob


def _ranges(schema: Schema, columns: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Returns the ends of the supports of columns of whole numbers."""
    ranges = torch.tensor([[0.0, math.inf]], dtype=torch.float64).repeat(len(columns), 1)
    if schema.kind == "table":
        for place, column in enumerate(schema.modelled[i] for i in columns):
            if column.kind == "levels":
                ranges[place] = torch.tensor(column.support, dtype=torch.float64)
    return ranges[:, 0], ranges[:, 1]


def _looked_up(table: Tensor, values: Tensor) -> Tensor:
    """Returns the entry of each column of ``values`` (N, columns) in its row of ``table`` (columns,
    levels); 0 where missing.
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
    index = (
        torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:count].sort().values
    )
    picked = [rows[part].flatten(1)[:, columns].cpu().double() for part in index.split(4096)]
    picked_rows = torch.cat(picked)
    return picked_rows[
        torch.randperm(count, generator=torch.Generator().manual_seed(1))
    ].T.contiguous()


class _Mixtures(NamedTuple):
    """Mixtures of K components each of C columns, (C, K): log-weights, locations, scales.

    Degrees of freedom of all.
    """

    log_weights: Tensor
    loc: Tensor
    scale: Tensor
    df: float

    def log_prob(self, y: Tensor) -> Tensor:
        """Returns the log-density of points (C, n)."""
        return torch.logsumexp(self.log_terms(y), -1)

    def log_terms(self, y: Tensor) -> Tensor:
        d = (y[..., None] - self.loc[:, None]) / self.scale[:, None]
        log_p = -0.5 * d.square() - 0.5 * math.log(2 * math.pi)
        if math.isfinite(self.df):
            unit = (
                math.lgamma((self.df + 1) / 2)
                - math.lgamma(self.df / 2)
                - 0.5 * math.log(self.df * math.pi)
            )
            log_p = unit - (self.df + 1) / 2 * torch.log1p(d.square() / self.df)
        return log_p + (self.log_weights - self.scale.log())[:, None]

    def below(self, y: Tensor) -> Tensor:
        """Returns the probability of less than points (C, n)."""
        d = (y[..., None] - self.loc[:, None]) / self.scale[:, None]
        share = torch.special.ndtr(d)
        if math.isfinite(self.df):  # three degrees of freedom
            u = d / math.sqrt(3)
            share = 0.5 + (u / (1 + u.square()) + u.atan()) / math.pi
        return (share * self.log_weights.exp()[:, None]).sum(-1)


def _fitted(y: Tensor, weights: Tensor, components: int, df: float) -> _Mixtures:
    """Returns mixtures fitted to weighted points (C, P), about 0 with a scale about 1, by
    expectation maximisation.
    """
    share = weights.cumsum(1) / weights.sum(1, keepdim=True)
    quantiles = (torch.arange(components, dtype=y.dtype) + 0.5) / components
    loc = y.gather(
        1,
        torch.searchsorted(share, quantiles.expand(len(y), -1).contiguous()).clamp(
            max=y.shape[1] - 1
        ),
    )
    spread = (weights * (y - loc.mean(1, keepdim=True)).square().clamp(max=100)).sum(
        1, keepdim=True
    ) / weights.sum(1, keepdim=True)
    scale = spread.sqrt().clamp(min=FLOOR).expand_as(loc) / components**0.5
    log_weights = torch.full_like(loc, -math.log(components))
    mixtures = _Mixtures(log_weights, loc, scale, df)
    for _ in range(1 if components == 1 and not math.isfinite(df) else STEPS):
        shares = torch.softmax(mixtures.log_terms(y), -1) * weights[..., None]
        total = shares.sum(1) + 1e-12
        pull = shares
        if math.isfinite(df):
            d = (y[..., None] - mixtures.loc[:, None]) / mixtures.scale[:, None]
            pull = shares * (df + 1) / (df + d.square())
        loc = (pull * y[..., None]).sum(1) / (pull.sum(1) + 1e-300)
        variance = (pull * (y[..., None] - loc[:, None]).square()).sum(1) / total
        log_weights = (total / total.sum(1, keepdim=True)).log()
        mixtures = _Mixtures(log_weights, loc, variance.sqrt().clamp(min=FLOOR), df)
    return mixtures


def _points(y: Tensor) -> tuple[Tensor, Tensor]:
    """Returns POINTS weighted points (C, P) that stand for the values of columns (C, n).

    What is NaN counts for nothing.
    """
    ordered = y.sort(1).values
    sums = torch.nn.functional.pad(ordered.nan_to_num(0.0).cumsum(1), (1, 0))
    count = (~y.isnan()).sum(1, keepdim=True)
    ends = torch.arange(TAIL)
    inner = (
        torch.linspace(0, 1, POINTS - 2 * TAIL + 1, dtype=torch.float64) * (count - 2 * TAIL) + TAIL
    )
    edges = torch.cat([ends.expand(len(y), -1), inner.round().long(), count - TAIL + 1 + ends], 1)
    edges = torch.where(count <= POINTS, torch.minimum(torch.arange(POINTS + 1), count), edges)
    weights = edges.diff(dim=1).double()
    return sums.gather(1, edges).diff(dim=1) / weights.clamp(min=1), weights


class _Scaled(NamedTuple):
    """Columns in units of their quartiles, after the logarithm or not."""

    loc: Tensor
    scale: Tensor
    log: bool
    valid: Tensor  # whether there is a logarithm of every training value

    @classmethod
    def of(cls, train: Tensor, log: bool) -> _Scaled:
        valid = ~(train <= 0).any(1) if log else torch.ones(len(train), dtype=torch.bool)
        # what is missing comes last
        ordered = (train.clamp(min=1e-300).log() if log else train).sort(1).values
        last = (~train.isnan()).sum(1, keepdim=True) - 1
        shares = torch.tensor([[0.25, 0.5, 0.75]], dtype=torch.float64)
        low, loc, high = ordered.gather(1, (shares * last).round().long().clamp(min=0)).unbind(1)
        spread = (ordered - loc[:, None]).square().nanmean(1).sqrt()
        scale = torch.where(high > low, (high - low) / 1.349, spread)
        return cls(loc.nan_to_num(0.0), torch.where(scale > 0, scale, 1.0), log, valid)

    def at(self, columns: Tensor) -> _Scaled:
        return _Scaled(self.loc[columns], self.scale[columns], self.log, self.valid[columns])

    def to_y(self, x: Tensor) -> Tensor:
        """Returns values (C, n) in these units: NaN where there is no logarithm."""
        values = torch.where(x > 0, x, math.nan).log() if self.log else x
        return (values - self.loc[:, None]) / self.scale[:, None]

    def log_slope(self, y: Tensor) -> Tensor:
        """Returns log dy/dx where y is."""
        slope = -self.scale.log()[:, None].expand_as(y)
        return slope - (y * self.scale[:, None] + self.loc[:, None]) if self.log else slope


class _Fit(NamedTuple):
    """Some columns, with the marginals that suit them."""

    columns: Tensor
    scaled: _Scaled
    mixtures: _Mixtures


class _Reals:
    """The marginals of columns of real numbers, fitted to training values (C, n)."""

    def __init__(self, train: Tensor) -> None:
        self.rows = (~train.isnan()).sum(1).double()
        self.plain = _Scaled.of(train, False)
        self.fits = [
            fit
            for columns in torch.arange(len(train)).split(
                max(1, ENTRIES // (1000 * max(COMPONENTS)))
            )
            for fit in self._chosen(train, columns)
        ]

    def _chosen(self, train: Tensor, columns: Tensor) -> list[_Fit]:
        held = torch.arange(train.shape[1]) % 4 == 3
        options, scores = [], []
        for log in (False, True):
            scaled = _Scaled.of(train[columns], log)
            able = scaled.valid.nonzero()[:, 0]
            y = scaled.at(able).to_y(train[columns[able]])
            points, told, rows = (
                _points(y[:, ~held]),
                y[:, held][:, :1000],
                self.rows[columns[able]],
            )
            for components, df in product(
                COMPONENTS if len(train) <= WIDE else COMPONENTS[:2], DEGREES
            ):
                log_p = _fitted(*points, components, df).log_prob(told) + scaled.at(able).log_slope(
                    told
                )
                few = (rows < components * ROWS_EACH) & (components > 1)
                score = torch.full((len(columns),), -math.inf, dtype=torch.float64)
                score[able] = log_p.nansum(1).masked_fill(few, -math.inf)
                scores.append(score)
                options.append((log, components, df))
        best = torch.stack(scores).argmax(0)
        fits = []
        for number in best.unique().tolist():
            log, components, df = options[number]
            mine = columns[best == number]
            scaled = _Scaled.of(train[mine], log)
            fits.append(
                _Fit(mine, scaled, _fitted(*_points(scaled.to_y(train[mine])), components, df))
            )
        return fits

    def log_prob(self, x: Tensor) -> Tensor:
        """Returns the log-density of values (C, n), 0 where they are missing."""
        result = torch.zeros_like(x)
        for columns, scaled, mixtures in self.fits:
            y = scaled.to_y(x[columns])
            near = (mixtures.log_prob(y) + scaled.log_slope(y)).nan_to_num(-math.inf)
            wide, plain, n = self._wide(columns)
            y = plain.to_y(x[columns])
            far = wide.log_prob(y) + plain.log_slope(y)
            result[columns] = torch.logaddexp(near + (n / (n + 1)).log(), far - (n + 1).log())
        return torch.where(x.isnan(), 0.0, result)

    def below(self, x: Tensor) -> Tensor:
        """Returns the probability of less than values (C, n)."""
        result = torch.zeros_like(x)
        for columns, scaled, mixtures in self.fits:
            wide, plain, n = self._wide(columns)
            near = mixtures.below(scaled.to_y(x[columns])).nan_to_num(0.0)
            result[columns] = (n * near + wide.below(plain.to_y(x[columns]))) / (n + 1)
        return result

    def _wide(self, columns: Tensor) -> tuple[_Mixtures, _Scaled, Tensor]:
        """Returns a wide t that counts as one row, so that no value lies where there is nothing at
        all, and the others.
        """
        zero = torch.zeros(len(columns), 1, dtype=torch.float64)
        return (
            _Mixtures(zero, zero, zero + 3, 3.0),
            self.plain.at(columns),
            self.rows[columns, None],
        )


class _Integers:
    """The marginals of columns of whole numbers from ``low``, (C,).

    What is above ``high`` cannot be.
    """

    def __init__(
        self,
        data: Dataset,
        columns: Sequence[int],
        low: Tensor,
        high: Tensor,
        moments: tuple[Tensor, Tensor],
    ) -> None:
        self.columns, self.low, self.last = list(columns), low, high - low
        largest = max(
            float((b.flatten(1)[:, self.columns].double() - low).nan_to_num(0.0).max())
            for b in blocks(data.train)
        )
        most = max(64, min(4096, ENTRIES // len(self.columns)))
        size = self.size = int(
            min(
                most,
                largest + 1 if not bool(self.last.isfinite().all()) else float(self.last.max()) + 1,
            )
        )
        seen = torch.zeros(len(self.columns) * (size + 1), dtype=torch.float64)
        first = torch.arange(len(self.columns)) * (size + 1)
        for block in blocks(data.train):
            values = block.flatten(1)[:, self.columns].double() - low
            there = ~values.isnan()
            places = (values.nan_to_num(0.0).clamp(max=size).long() + first)[there]
            seen += torch.bincount(places, minlength=len(seen))
        seen = seen.view(-1, size + 1)
        self.moments, self.reals = moments, None
        if len(self.columns) <= WIDE:
            train = _sample(data.train, self.columns) - low[:, None]
            # Spread over the interval that each integer stands for: what a density has of it is the
            # integer's probability.
            self.reals = _Reals(
                train
                + torch.rand(
                    train.shape, generator=torch.Generator().manual_seed(2), dtype=train.dtype
                )
            )
        inside = torch.arange(size, dtype=torch.float64).expand(len(seen), -1)
        prior = self._prior(inside).exp().where(inside <= self.last[:, None], 0.0)
        self.rest = (1 - prior.sum(1, keepdim=True)).clamp(min=1e-12)
        prior = torch.cat([prior, self.rest], 1)
        rows = seen.sum(1, keepdim=True)
        strengths = 10.0 ** torch.arange(-1, 6.5, 0.5, dtype=torch.float64)
        left_out = [
            torch.where(seen > 0, seen * ((seen - 1 + a * prior) / (rows - 1 + a)).log(), 0.0).sum(
                1
            )
            for a in strengths
        ]
        strength = strengths[torch.stack(left_out).argmax(0)][:, None]
        self.table = ((seen + strength * prior) / (rows + strength)).log()

    def _prior(self, values: Tensor) -> Tensor:
        """Returns the log-probability of whole numbers (C, n) under the smooth marginal."""
        if self.reals is None:
            return _counts(*self.moments).log_prob(values.T).T
        below = torch.where(values > 0, self.reals.below(values), 0.0)
        above = torch.where(values < self.last[:, None], self.reals.below(values + 1), 1.0)
        mass = above - below
        return torch.where(
            mass > 1e-8, mass.clamp(min=1e-8).log(), self.reals.log_prob(values + 0.5)
        )

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
            tail = (
                torch.full_like(x, -math.inf)
                if self.reals is None
                else self.reals.log_prob(x + 0.5)
            )
            found = torch.where(outside, tail, found)
        return torch.where(missing, 0.0, found).T


def _counts(loc: Tensor, scale: Tensor) -> NegativeBinomial:
    """A negative binomial by its moments.

    A count that was never above zero has the mean that the likelihood starts it at.
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
