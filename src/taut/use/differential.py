r"""Differential expression: which columns of counts differ between two groups of rows.

The totals of the rows are given. Of each column the null says that the mean of a count is the same
share $\mu$ of the row's total t in both groups. With $w = 1 / (1 + t \mu / r)$, r the inverse
dispersion, $e = x - t \mu$ and $f_A = \sum_A w t / \sum_{A \cup B} w t$, the efficient score of a
difference and its variance are

$$ U = \sum_{n \in A} w_n e_n, \qquad
   V = (1 - f_A)^2 \sum_A w^2 v + f_A^2 \sum_B w^2 v, $$

where $\sum w^2 v$ of a group is between what its residuals show, $\sum w^2 e^2$, and what the model
says, $\sum w^2 t \mu (1 + t \mu / r)$. The residuals are trusted by k / (k + 20) where k rows have
a count: a few counts that happen to lie in one group have residuals that are too small. U and V are
summed over the levels that the model is conditioned on (batches, donors), so that a difference
between batches is none between groups.

The dispersion 1 / r that the model decodes is of a count given z. Cells of several kinds in a
group, zeros beyond it, or a likelihood without any (Poisson) make counts vary more, and of few rows
their own residuals say little. So it is corrected by the counts: with $m$ the mean by the row's own
group, n rows there and $u = 1 / (1 + m)^2$, all columns together show that

$$ \delta = \frac{\sum u (\frac{n}{n - 1} (x - m)^2 - m - m^2 / r)}{\sum u m^2} $$

is missing; what a column shows by itself, the same sums without $m^2 / r$, is trusted by k / (k +
20) and the model's 1 / r + max(\delta, 0) by the rest.

What a total is shared among is scaled, too: where many columns are larger in A, all others have
smaller shares there. The log ratios of columns of enough counts are a mixture of Normals with one
centre, of the width of their errors and of wider ones; the centre is where nothing differs.

Over the columns, $z = U / \sqrt V$ is $\mathcal{N}(0, 1)$ where nothing differs, and else a mixture
of wider Normals with the same centre, whose weights are found by EM (adaptive shrinkage, with its
weight of ten columns in favour of no difference). That gives each column a posterior probability of
a difference. The false-discovery rate does not rest on that prior: it is that of Benjamini and
Hochberg for the two-sided p-values of z.

References: stephens2017, benjamini1995.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from taut.features import Split
from taut.model import Model
from taut.system.errors import DataError, UsageError, and_more, nearest, shown
from taut.use.blocks import Block, blocks_of
from taut.use.tasks import ROWS

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Differential", "differential", "labels_of", "members", "probabilities"]

LISTED = 20
FEWEST = 3  # rows of a group: fewer say nothing of their spread
FEWEST_COUNTS = 10.0  # of a column, in both groups together: fewer are not tested
ENOUGH = 20.0  # rows with a count, from which on residuals weigh more than the model
ANCHORS = 20.0  # counts in each group from which on a column tells how the groups are scaled
FOLDS = torch.arange(-3, 3.1, 0.25, dtype=torch.float64)  # log ratios of columns that differ
FAVOUR = 10.0  # columns' worth of prior weight on no difference
WIDTHS = 2.0 ** torch.arange(-2, 6.5, 0.5, dtype=torch.float64)  # of z, in standard deviations
STARTS = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)  # quantiles
CENTRING, CENTRED = 100, 1e-4  # passes, and errors by which a centre may still move
PASSES, SETTLED = 2000, 1e-8


@dataclass(frozen=True, eq=False)
class Differential:
    """What differs between two groups of rows, by column of counts; arrays are (C,).

    Args:
        names: Of the columns.
        groups: Names of the two groups, A and B.
        rows: Number of rows of each.
        expression: Denoised: the mean over the rows of each group of what the model decodes at one
            total, (2, C).
        total: That total: the median of these rows.
        log2_fold_change: log2 of A's share of counts over B's.
        error: Its standard error.
        z: The standardized score; N(0, 1) where nothing differs.
        probability: Posterior probability that something does.
        fdr: Expected share of false columns, at most, among those with a z at least as far from 0.
    """

    names: tuple[str, ...]
    groups: tuple[str, str]
    rows: tuple[int, int]
    expression: np.ndarray
    total: float
    log2_fold_change: np.ndarray
    error: np.ndarray
    z: np.ndarray
    probability: np.ndarray
    fdr: np.ndarray

    def found(self, rate: float = 0.05) -> list[str]:
        """Returns the names of the columns that differ, the surest first: of them a share of at
        most ``rate`` is expected to be false.
        """
        return [self.names[i] for i in self.order if self.fdr[i] <= rate]

    @property
    def order(self) -> np.ndarray:
        """Numbers of the columns, the surest difference first."""
        return np.argsort(-np.abs(self.z), kind="stable")

    def table(self) -> pa.Table:
        """Returns a row for each column of counts, the surest difference first."""
        import pyarrow as pa

        a, b = self.groups
        columns = {
            f"mean {a}": self.expression[0],
            f"mean {b}": self.expression[1],
            "log2_fold_change": self.log2_fold_change,
            "error": self.error,
            "z": self.z,
            "probability": self.probability,
            "fdr": self.fdr,
        }
        order = self.order
        names = pa.array([self.names[i] for i in order])
        return pa.table({"column": names} | {k: v[order] for k, v in columns.items()})


def differential(
    model: Model,
    x: Any,
    in_a: np.ndarray,
    in_b: np.ndarray,
    names: Sequence[str],
    groups: tuple[str, str],
) -> Differential:
    """Returns what differs between two groups of rows of counts.

    Args:
        model: A model of counts.
        x: Rows of counts, (N, C), and what they are given, as the model takes them.
        in_a: Which rows are of group A, (N,).
        in_b: Which are of group B.
        names: Of the columns of counts.
        groups: What A and B are called.

    Raises:
        DataError: a group has fewer than 3 rows.
    """
    for name, members in zip(groups, (in_a, in_b), strict=True):
        if (count := int(members.sum())) < FEWEST:
            raise DataError(
                f"group {shown(name)} has {count} rows: at least {FEWEST} are needed to say how "
                "much its counts vary"
            )
    side = torch.full((len(in_a),), -1)
    side[torch.from_numpy(in_a)], side[torch.from_numpy(in_b)] = 0, 1
    strata = _strata(model, x)
    sums = _decoded_sums(model, x, side)
    score = _scores(model, x, side, strata, sums.concentration)
    tested = score.counts >= FEWEST_COUNTS
    z = torch.where(tested, score.z, 0.0)
    probability = torch.full_like(z, torch.nan)
    probability[tested] = probabilities(z[tested])
    return Differential(
        names=tuple(names),
        groups=groups,
        rows=(int(in_a.sum()), int(in_b.sum())),
        expression=sums.expression.numpy(),
        total=sums.total,
        log2_fold_change=(score.log_ratio / math.log(2)).numpy(),
        error=(score.error / math.log(2)).numpy(),
        z=z.numpy(),
        probability=probability.numpy(),
        fdr=_false_rates(z, tested).numpy(),
    )


def labels_of(obs: Any, column: str) -> np.ndarray:
    """Returns the label of each row as a text, (N,), None where it has none.

    Args:
        obs: A pandas frame with a row for each row of counts.
        column: A column of it.

    Raises:
        UsageError: there is no such column.
    """
    known = [str(name) for name in obs.columns]
    if column not in known:
        raise UsageError(
            f"obs has no column {shown(column)}{nearest(column, known)}; there are "
            f"{', '.join(map(shown, known[:LISTED])) or 'none'}{and_more(known, LISTED)}"
        )
    values = obs[column]
    texts = np.asarray(values.astype(object).astype(str), object)
    texts[values.isna().to_numpy()] = None
    return texts


def members(labels: Sequence[Any], a: str, b: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns which rows are of group A and which of B, (N,) each.

    Args:
        labels: The label of each row, None where it has none.
        a: The label of A.
        b: That of B; by default all other rows that have a label.

    Raises:
        UsageError: no row has such a label, or both are the same.
    """
    texts = np.array([None if label is None else str(label) for label in labels], object)
    known = sorted({text for text in texts if text is not None})
    for name in (a, b):
        if name is not None and name not in known:
            raise UsageError(
                f"no row is labelled {shown(name)}{nearest(name, known)}; there are "
                f"{', '.join(map(shown, known[:LISTED]))}{and_more(known, LISTED)}"
            )
    if a == b:
        raise UsageError(f"both groups are {shown(a)}: give two labels")
    in_a = np.array([text == a for text in texts])
    in_b = np.array([text is not None and text != a for text in texts])
    if b is not None:
        in_b = np.array([text == b for text in texts])
    return in_a, in_b


class _Decoded(NamedTuple):
    """What the model says of the columns, (C,) each.

    Args:
        concentration: r, such that the decoded variances are m + m^2 / r on average; infinite of a
            Poisson.
        expression: Mean decoded share of each group times the total, (2, C).
        total: The median total of the rows of both groups.
    """

    concentration: Tensor
    expression: Tensor
    total: float


class _Score(NamedTuple):
    """What the counts say of the columns, (C,) each: z, log(share of A / share of B) and its
    standard error, and the counts in both groups.
    """

    z: Tensor
    log_ratio: Tensor
    error: Tensor
    counts: Tensor


def _decoded_sums(model: Model, x: Any, side: Tensor) -> _Decoded:
    def block(part: Block) -> tuple[Tensor, ...]:
        here = side[part.rows]
        rows = part.x[(here >= 0).to(part.x.device)]
        counts, context = model.split(rows)
        totals = counts.double().sum(1).cpu()
        decoded = model.decode(model.point(rows)[None], context)
        mean, variance = decoded.mean[0].double().cpu(), decoded.variance[0].double().cpu()
        share = mean / mean.sum(1, keepdim=True)
        members = torch.nn.functional.one_hot(here[here >= 0], 2).double()
        return members.T @ share, mean.square().sum(0), (variance - mean).sum(0), totals

    parts = list(zip(*blocks_of(model, x, ROWS, block), strict=True))
    shares, squares, excess = (torch.stack(part).sum(0) for part in parts[:3])
    total = float(torch.cat(parts[3]).median())
    sizes = torch.stack([(side == 0).sum(), (side == 1).sum()])[:, None]
    concentration = torch.where(excess > 1e-9 * squares, squares / excess, torch.inf)
    return _Decoded(concentration, total * shares / sizes, total)


def _strata(model: Model, x: Any) -> Tensor:
    """Returns the number of the level that each row is given, (N,); zeros where none is."""
    condition = model.condition
    if not isinstance(condition, Split):
        return torch.zeros(len(x), dtype=torch.long)
    given = torch.cat([part[:, condition.given.cpu()].cpu() for part in x.split(ROWS)])
    return torch.unique(given, dim=0, return_inverse=True)[1]


class _Totals(NamedTuple):
    """Sums over the rows of each group within each level: strata x 2 groups.

    Args:
        counts: Of each column, (strata, 2, C).
        totals: Of the rows' totals, (strata, 2).
        squares: Of their squares, likewise.
        rows: How many there are, likewise.
    """

    counts: Tensor
    totals: Tensor
    squares: Tensor
    rows: Tensor


def _scores(model: Model, x: Any, side: Tensor, strata: Tensor, concentration: Tensor) -> _Score:
    """Returns the score of each column, from three passes over the counts."""
    number = int(strata.max()) + 1
    member = torch.where(side >= 0, 2 * strata + side, 2 * number)  # the last one: neither group
    sums = _totals(model, x, member, number)
    dispersion = _dispersion(model, x, member, sums, 1 / concentration)
    concentration = 1 / dispersion
    counts, totals = sums.counts, sums.totals
    each = (counts, totals, sums.squares)
    scale = torch.stack([_scale(*own, dispersion) for own in zip(*each, strict=True)])
    totals = totals * scale
    own = counts / totals.clamp(min=1e-300)[..., None]  # shares, (strata, 2, C)
    null = (counts.sum(1) / totals.sum(1).clamp(min=1e-300)[:, None])[:, None].expand_as(own)
    null, own, scales = null.flatten(0, 1), own.flatten(0, 1), scale.flatten()

    def squares_of(part: Block) -> Tensor:
        found = torch.zeros(7, 2 * number, null.shape[1], dtype=torch.float64)
        x, of = model.split(part.x)[0].double().cpu(), member[part.rows]
        for group in of.unique().tolist():
            if group == 2 * number:
                continue
            rows = x[of == group]
            t = scales[group] * rows.sum(1, keepdim=True)
            expected, there = t * null[group], t * own[group]
            w = 1 / (1 + expected / concentration)
            found[:, group] = torch.stack(
                [
                    (w * rows).sum(0),
                    (w * t).sum(0),
                    (w * (rows - expected)).square().sum(0),
                    (w * expected).sum(0),  # w^2 v, as v = expected / w
                    (w * (rows - there)).square().sum(0),
                    (w.square() * there * (1 + there / concentration)).sum(0),
                    (rows > 0).double().sum(0),
                ]
            )
        return found

    found = torch.stack(list(blocks_of(model, x, ROWS, squares_of))).sum(0)
    weighted, exposure, residual, modelled, own_residual, own_modelled, seen = found.unflatten(
        1, (number, 2)
    )
    # Of a level that has one of the groups only, the other's exposure is 0, and so is its score.
    share = exposure / exposure.sum(1, keepdim=True).clamp(min=1e-300)
    far = share.flip(1)
    score = (far * weighted)[:, 0] - (far * weighted)[:, 1]
    trust = seen / (seen + ENOUGH)
    variance = (far.square() * torch.lerp(modelled, residual, trust)).sum((0, 1))
    sides = (far * (weighted + 0.5)).sum(0)
    of_sides = (far.square() * torch.lerp(own_modelled, own_residual, trust)).sum(0)
    return _Score(
        torch.where(variance > 0, score.sum(0) / variance.sqrt(), 0.0),
        sides[0].log() - sides[1].log(),
        (of_sides / sides.square()).sum(0).sqrt(),
        counts.sum((0, 1)),
    )


def _totals(model: Model, x: Any, member: Tensor, number: int) -> _Totals:
    def block(part: Block) -> tuple[Tensor, ...]:
        counts = model.split(part.x)[0].double().cpu()
        hot = torch.nn.functional.one_hot(member[part.rows], 2 * number + 1).double()
        totals = counts.sum(1)
        return hot.T @ counts, hot.T @ totals, hot.T @ totals.square(), hot.sum(0)

    parts = zip(*blocks_of(model, x, ROWS, block), strict=True)
    return _Totals(*(torch.stack(part).sum(0)[:-1].unflatten(0, (number, 2)) for part in parts))


def _dispersion(model: Model, x: Any, member: Tensor, sums: _Totals, decoded: Tensor) -> Tensor:
    """Returns 1 / r of each column, (C,): that of the model, corrected by how far the counts of
    each group vary about its own mean.
    """
    own = (sums.counts / sums.totals.clamp(min=1e-300)[..., None]).flatten(0, 1)
    rows = sums.rows.flatten()

    def block(part: Block) -> Tensor:
        found = torch.zeros(4, own.shape[1], dtype=torch.float64)
        counts, of = model.split(part.x)[0].double().cpu(), member[part.rows]
        for group in of.unique().tolist():
            if group == len(rows) or rows[group] < 2:
                continue
            there = counts[of == group]
            mean = there.sum(1, keepdim=True) * own[group]
            u = 1 / (1 + mean).square()
            squares = (there - mean).square() * rows[group] / (rows[group] - 1)
            terms = (u * (squares - mean), u * mean.square(), u * mean.square() * decoded)
            found += torch.stack([*(term.sum(0) for term in terms), (there > 0).double().sum(0)])
        return found

    parts = blocks_of(model, x, ROWS, block)
    excess, size, told, seen = torch.stack(list(parts)).sum(0)
    if not float(size.sum()):
        return decoded
    missing = float((excess - told).sum() / size.sum())
    shown = torch.where(size > 0, excess / size.clamp(min=1e-300), 0.0).clamp(min=0.0)
    return torch.lerp(decoded + max(missing, 0.0), shown, seen / (seen + ENOUGH))


def _scale(counts: Tensor, totals: Tensor, squares: Tensor, dispersion: Tensor) -> Tensor:
    """Returns what the totals of each group are multiplied by, (2,): the ratio of A's shares to B's
    where nothing differs for A, and 1 for B.

    Where some columns take more of a group's counts, the shares of all others are lower there.

    Args:
        counts: Of each column in each group, (2, C).
        totals: Sums of the rows' totals, (2,).
        squares: Sums of their squares, (2,).
        dispersion: 1 / r of each column, (C,).
    """
    anchors = (counts >= ANCHORS).all(0)
    if int(anchors.sum()) < FEWEST_COUNTS:
        return torch.ones(2, dtype=torch.float64)
    shares = counts[:, anchors] / totals[:, None]
    spread = (squares / totals.square())[:, None] * dispersion[anchors]
    variance = (1 / counts[:, anchors] + spread).sum(0)
    middle = _centre((shares[0] / shares[1]).log(), variance).exp()
    return torch.stack([middle, torch.ones_like(middle)])


def _centre(values: Tensor, variance: Tensor) -> Tensor:
    """Returns where values lie that differ by their errors only, ().

    By EM of a mixture of one centre, at which values have their errors alone, and of fixed places
    for all others; values that differ may be a cluster, too, so of a few starts the one is taken
    at whose centre most values are.
    """
    places = values.quantile(0.5) + FOLDS
    log_wide = (variance + (FOLDS[1] - FOLDS[0]).square() / 4)[:, None]
    around = -0.5 * ((values[:, None] - places).square() / log_wide + log_wide.log())
    favour = FAVOUR * (torch.arange(1 + len(FOLDS)) == 0).double()
    best, most = values.quantile(0.5), 0.0
    for start in values.quantile(STARTS):
        centre, prior = start, torch.full_like(favour, 1 / len(favour))
        for _ in range(CENTRING):
            own = -0.5 * ((values - centre).square() / variance + variance.log())
            share = (torch.cat([own[:, None], around], 1) + prior.log()).softmax(1)
            prior = share.sum(0) + favour
            prior = prior / prior.sum()
            weight = share[:, 0] / variance
            before, centre = centre, (weight * values).sum() / weight.sum()
            if float((centre - before).abs() * weight.sum().sqrt()) < CENTRED:
                break
        if float(prior[0]) > most:
            best, most = centre, float(prior[0])
    return best


def probabilities(z: Tensor) -> Tensor:
    """Returns the posterior probability that each effect is not zero, (C,), from their standardized
    estimates, by adaptive shrinkage.
    """
    scales = torch.cat([torch.zeros(1, dtype=torch.float64), WIDTHS])
    variance = 1 + scales.square()
    log_p = -0.5 * (z.double()[:, None].square() / variance + variance.log())
    prior = torch.full_like(scales, 1 / len(scales))
    favour = torch.zeros_like(scales)
    favour[0] = FAVOUR
    posterior = torch.zeros_like(log_p)
    for _ in range(PASSES):
        posterior = (log_p + prior.log()).softmax(1)
        new = posterior.sum(0) + favour
        new = new / new.sum()
        moved = float((new - prior).abs().max())
        prior = new
        if moved < SETTLED:
            break
    return 1 - posterior[:, 0]


def _false_rates(z: Tensor, tested: Tensor) -> Tensor:
    """Returns the false-discovery rate of each column and all with a larger |z|, (C,); 1 of those
    that were not tested.
    """
    p = torch.special.erfc(z[tested].abs() / math.sqrt(2))
    order = p.argsort(descending=True)
    ranks = torch.arange(len(p), 0, -1, dtype=torch.float64)
    rates = torch.ones_like(p)
    rates[order] = (p[order] * len(p) / ranks).cummin(0).values
    result = torch.ones_like(z)
    result[tested] = rates.clamp(max=1.0)
    return result
