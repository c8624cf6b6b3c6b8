r"""How well latent dimensions separate the factors that made the data.

With codes $z$ (D dimensions) of rows whose factors $v$ (F, of levels) are known, and the mutual
information $I(z_j; v_k)$, seven scores have been published; each is 1 at best. Two share a name and
disagree:

* ``mig``: $\frac1F \sum_k (I(z_{(1)}; v_k) - I(z_{(2)}; v_k)) / H(v_k)$, the gap between the two
  most informative dimensions, with z the posterior *means* cut into 20 bins of equal width
  (locatello2019). Bins hold factors of more than 20 levels below 1.
* ``mig_density``: the same gap with z ~ q(z|x) and the *densities* of the aggregate posterior
  (chen2018), which has no bins.
* ``dci``: how few factors each dimension serves (disentanglement), how few dimensions each factor
  needs (completeness) by the importances of a random forest that predicts each factor, and its
  accuracy on rows that it has not seen (informativeness) (eastwood2018).
* ``sap``: the gap between the two dimensions that alone predict a factor best: by $r^2$ of a line
  where its levels are numbers, else by the accuracy of a linear classifier (kumar2018).
* ``factor_vae``: rows share one factor; which it is, is told by the dimension that varies least
  (kim2018).
* ``beta_vae``: pairs of rows share one factor; which it is, is told from their mean distance in
  each dimension by a linear classifier (higgins2017).
* ``modularity``: how far each active dimension informs of one factor alone (ridgeway2018).
* ``irs``: how little a dimension moves while a factor stays, beside how far it moves at all
  (suter2019).

No score is comparable without its scale: each comes with its *ceiling*, what the factors themselves
would reach as a code; its *chance level*, what the same codes reach where rows and factors are
shuffled (the mean of 3 shuffles); and its error, the spread over 10 random halves of the rows (a
jackknife that omits one half, which holds for scores that are not smooth, too: shao1989). Of
``irs``, which is by the largest distance of all rows, it is that of halves and of tenths that share
no row, as it is: a maximum of many rows is no surer than one of few. Of ``factor_vae`` and
``beta_vae`` it is at least that of a share of so many votes, which no spread shows near 1.

Without factors: *unsupervised disentanglement ranking* (duan2020) asks whether models of other
seeds found the same dimensions, and the *total correlation* $\mathrm{KL}(q(z) \,\|\, \prod_j
q(z_j))$ and the dimension-wise $\mathrm{KL}(q(z_j) \,\|\, p(z_j))$ say in nats how dependent the
dimensions are and how far each is from the prior.

References: chen2018, locatello2019, eastwood2018, kumar2018, kim2018, ridgeway2018.

References: higgins2017, suter2019, duan2020, shao1989.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from taut.data.factors import Factors
from taut.evidence.latents import DEAD, encoded, marginals_of, mixture
from taut.evidence.results import ACTIVE, Estimate, finite
from taut.model import Model, evaluating
from taut.system.seeds import derive, stream
from taut.types import Context
from taut.use.blocks import blocks_of, device_of

__all__ = [
    "Score", "beta_vae", "dci", "dci_of", "decomposition", "factor_vae", "gaussian_correlation",
    "information", "irs", "mig", "mig_density", "modularity", "sap", "scores", "udr",
]  # fmt: skip

BINS = 20
VOTES, MEMBERS = 800, 64  # to fit and to test by, and the rows of each
TREES, ROWS_OF_TREES = 20, 2000
REPEATS, SHUFFLES = 10, 3
PARTS, FEWEST = 10, 10  # that share no row, and the rows of one
ROWS = 256
Codes = np.ndarray  # (N, D), float64


@dataclass(frozen=True)
class Score:
    """A score of a latent space.

    Args:
        name: Which.
        value: It; 1 at best. None where it is not defined (one factor, no active dimension).
        error: Its standard error for new rows.
        ceiling: What the factors themselves reach as a code.
        chance: What these codes reach on shuffled rows.
        by_factor: Its parts, where it is a mean over factors.
    """

    name: str
    value: float | None
    error: float | None = None
    ceiling: float | None = None
    chance: float | None = None
    by_factor: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return {name: value for name, value in self.__dict__.items() if name != "name"}


# ------------------------------------------------------------------------------ mutual information


def discretize(codes: Codes, bins: int = BINS) -> np.ndarray:
    """Returns codes cut into bins of equal width between the ends of each dimension, (N, D)."""
    low, high = codes.min(0), codes.max(0)
    share = (codes - low) / np.where(high > low, high - low, 1.0)
    # equal numbers that were rounded differently are in one bin
    return np.minimum(np.floor(share * bins + 1e-9), bins - 1).astype(np.int64)


def information(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the mutual information of the columns of two arrays of levels, (A, B), in nats.

    Args:
        a: Levels, (N, A), from 0.
        b: Levels, (N, B), from 0.
    """
    result = np.zeros((a.shape[1], b.shape[1]))
    for i, x in enumerate(a.T):
        for j, y in enumerate(b.T):
            table = np.bincount(x * (y.max() + 1) + y, minlength=(x.max() + 1) * (y.max() + 1))
            joint = table.reshape(x.max() + 1, y.max() + 1) / len(x)
            alone = joint.sum(1, keepdims=True) * joint.sum(0)
            there = joint > 0
            result[i, j] = (joint[there] * np.log(joint[there] / alone[there])).sum()
    return result


def entropies(levels: np.ndarray) -> np.ndarray:
    """Returns the entropy of each column of levels, (F,), nats."""
    return np.array([information(column[:, None], column[:, None])[0, 0] for column in levels.T])


def _gaps(matrix: np.ndarray) -> np.ndarray:
    """Returns the gap between the two largest of each column of a (D, F) matrix, (F,)."""
    ordered = np.sort(np.vstack([matrix, np.zeros((1, matrix.shape[1]))]), 0)
    return ordered[-1] - ordered[-2]


def mig(codes: Codes, factors: Factors, bins: int = BINS) -> np.ndarray:
    """Returns the mutual information gap of means in bins, by factor, (F,)."""
    matrix = information(discretize(codes, bins), factors.levels)
    return _gaps(matrix) / entropies(factors.levels)


def modularity(codes: Codes, factors: Factors, bins: int = BINS) -> np.ndarray:
    """Returns the modularity of each dimension that informs of anything, (at most D,)."""
    matrix = information(discretize(codes, bins), factors.levels)
    matrix = matrix[matrix.max(1) > 1e-12]
    if matrix.shape[1] < 2:
        return np.zeros(0)
    squares = (matrix / matrix.max(1, keepdims=True)) ** 2
    return 1 - (squares.sum(1) - 1) / (matrix.shape[1] - 1)


def mig_density(
    model: Model,
    x: Any,
    factors: Factors,
    *,
    context: Context | None = None,
    seed: int = 0,
) -> Score | None:
    r"""Returns the mutual information gap of chen2018: z ~ q(z|x), by densities.

    The aggregate posterior of the N rows, and of those of one level, are known mixtures, so the
    information is exact but for the draw of z; the cost grows with $N^2$.

    Args:
        model: The model.
        x: Data, (N, \*event).
        factors: Of the same rows.
        context: What the model is conditioned on, (N, C).
        seed: The same seed gives the same draws.

    Returns:
        None where the posterior's marginals are not known.
    """
    parts = list(
        blocks_of(model, x, ROWS, lambda b: marginals_of(model.encode(b.x, b.context)),
                  context=context)
    )  # fmt: skip
    if any(part is None for part in parts):
        return None
    shuffled = [_shuffled(factors, seed, i) for i in range(SHUFFLES)]
    sets = [factors.levels, *(s.levels for s in shuffled)]
    gains = _density_gains(parts, np.concatenate(sets, 1), seed)  # (N, D, F * sets)
    size = len(factors.names)
    entropy = entropies(factors.levels)
    own = [gains[:, :, i * size : (i + 1) * size] for i in range(len(sets))]
    value, rows = _density_gap(own[0], entropy)
    chance = float(np.mean([_density_gap(other, entropy)[0].mean() for other in own[1:]]))
    ceiling = _gaps(information(factors.levels, factors.levels)) / entropy
    return Score(
        "mig_density",
        float(value.mean()),
        Estimate.of(torch.from_numpy(rows)).test_error,
        float(ceiling.mean()),
        chance,
        dict(zip(factors.names, value.tolist(), strict=True)),
    )


def _density_gap(gains: np.ndarray, entropy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the gaps by factor, (F,), and what each row adds to their mean, (N,)."""
    matrix = gains.mean(0)
    order = np.argsort(matrix, 0)
    k = np.arange(matrix.shape[1])
    first = gains[:, order[-1], k]
    second = gains[:, order[-2], k] if len(matrix) > 1 else np.zeros_like(first)
    rows = (first - second) / entropy
    return rows.mean(0), rows.mean(1)


def _density_gains(parts: Sequence[Any], levels: np.ndarray, seed: int) -> np.ndarray:
    """Returns log q(z_j | v_k) - log q(z_j) at one z ~ q(z|x) for each row, (N, D, F)."""
    with stream(seed, "density"):
        z = torch.cat([part.sample() for part in parts]).double()
    n, d = z.shape
    starts = np.cumsum([0, *(levels.max(0) + 1)])
    member = torch.zeros(n, int(starts[-1]), dtype=torch.float64, device=z.device)
    columns = torch.from_numpy(levels + starts[:-1]).to(z.device)  # (N, F)
    member.scatter_(1, columns, 1.0)
    sizes = member.sum(0)
    gains = torch.empty(n, d, levels.shape[1], dtype=torch.float64)
    for low in range(0, n, ROWS):
        here = slice(low, low + ROWS)
        log_prob = torch.cat([p.log_prob(z[here, None]).double() for p in parts], 1)  # (S, N, D)
        top = log_prob.amax(1, keepdim=True)
        mass = (log_prob - top).exp().transpose(1, 2)  # (S, D, N)
        within = (mass @ member) / sizes  # (S, D, levels): q(z_j | level), up to the top
        own = columns[here, None, :].expand(-1, d, -1)
        gains[here] = (within.gather(2, own).log() - mass.mean(2, keepdim=True).log()).cpu()
    return gains.numpy()


# --------------------------------------------------------------------------------- scores by codes


def dci_of(importance: np.ndarray) -> tuple[float, float]:
    """Returns disentanglement and completeness of importances, (D, F), not negative."""
    total = importance.sum()
    if total <= 0:
        return 0.0, 0.0
    d, f = importance.shape
    weight = importance.sum(1) / total
    separate = 1 - _entropy_share(importance.T, f)
    complete = 1 - _entropy_share(importance, d)
    return float((weight * separate).sum()), float((complete * importance.sum(0) / total).sum())


def _entropy_share(columns: np.ndarray, size: int) -> np.ndarray:
    """Returns the entropy of each column, normalised, as a share of the largest that there is."""
    if size < 2:
        return np.zeros(columns.shape[1])
    share = columns / np.where(columns.sum(0) > 0, columns.sum(0), 1.0)
    logs = np.log(np.where(share > 0, share, 1.0))
    return -(share * logs).sum(0) / math.log(size)


def dci(codes: Codes, factors: Factors, seed: int = 0) -> np.ndarray:
    """Returns disentanglement, completeness and informativeness, (3,).

    A forest for each factor is fitted to half of the rows, at most 2,000, and tested on others.
    """
    from sklearn.ensemble import RandomForestClassifier

    fit, test = _halves(len(codes), seed)
    importance, accuracy = [], []
    for levels in factors.levels.T:
        forest = RandomForestClassifier(TREES, max_features=None, random_state=seed % 2**32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of many levels, one for each tree
            forest.fit(codes[fit], levels[fit])
            importance.append(forest.feature_importances_)
            accuracy.append(forest.score(codes[test], levels[test]))
    return np.array([*dci_of(np.stack(importance, 1)), np.mean(accuracy)])


def _halves(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(derive(seed, "halves")).permutation(n)[: 2 * ROWS_OF_TREES]
    fit, test = np.array_split(order, 2)
    return fit, test


def sap(codes: Codes, factors: Factors, seed: int = 0) -> np.ndarray:
    """Returns the separated attribute predictability by factor, (F,)."""
    matrix = [
        _squared_correlation(codes, levels) if ordered else _accuracies(codes, levels, seed)
        for levels, ordered in zip(factors.levels.T, factors.ordered, strict=True)
    ]
    return _gaps(np.stack(matrix, 1))


def _squared_correlation(codes: Codes, levels: np.ndarray) -> np.ndarray:
    """Returns r^2 of each dimension with a factor, (D,); 0 of a dimension that is constant."""
    z, v = codes - codes.mean(0), levels - levels.mean()
    scale = (z**2).sum(0) * (v**2).sum()
    return (z.T @ v) ** 2 / np.where(scale > 0, scale, 1.0)


def _accuracies(codes: Codes, levels: np.ndarray, seed: int) -> np.ndarray:
    """Returns how often a linear classifier that sees one dimension tells the level, (D,)."""
    from sklearn.svm import LinearSVC

    fit, test = _halves(len(codes), seed)
    if len(np.unique(levels[fit])) < 2:
        return np.zeros(codes.shape[1])
    result = []
    for z in codes.T:
        line = LinearSVC(C=0.01, class_weight="balanced", random_state=seed % 2**32)
        line.fit(z[fit, None], levels[fit])
        result.append(line.score(z[test, None], levels[test]))
    return np.array(result)


def _votes(factors: Factors, count: int, members: int, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows that share a level of one factor, (count, members), and which factor it is.

    The level is that of a row drawn at random, of those whose level has at least 2 rows.
    """
    which = rng.integers(0, len(factors.names), count)
    rows = np.empty((count, members), np.int64)
    for k, levels in enumerate(factors.levels.T):
        sizes = np.bincount(levels)
        order = np.argsort(levels, kind="stable")
        first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        several = levels[sizes[levels] > 1]
        if not len(several):
            raise ValueError(f"no level of {factors.names[k]} has 2 rows")
        here = which == k
        level = rng.choice(several, int(here.sum()))
        place = (rng.random((len(level), members)) * sizes[level, None]).astype(np.int64)
        rows[here] = order[first[level, None] + place]
    return rows, which


def factor_vae(codes: Codes, factors: Factors, seed: int = 0) -> float:
    """Returns the FactorVAE score: how often a majority of votes tells the factor.

    Dimensions whose variance is at most 0.01 take no part.
    """
    active = codes.var(0) > ACTIVE
    if not active.any():
        return 0.0
    z = codes[:, active] / codes[:, active].std(0)
    rows, which = _votes(factors, 2 * VOTES, MEMBERS, np.random.default_rng(derive(seed, "votes")))
    least = np.array([z[own].var(0).argmin() for own in rows])
    table = np.zeros((z.shape[1], len(factors.names)))
    np.add.at(table, (least[:VOTES], which[:VOTES]), 1)
    return float((table.argmax(1)[least[VOTES:]] == which[VOTES:]).mean())


def beta_vae(codes: Codes, factors: Factors, seed: int = 0) -> float:
    """Returns the beta-VAE score: how often a linear classifier tells the factor that pairs
    share.
    """
    from sklearn.linear_model import LogisticRegression

    if len(factors.names) < 2:
        return 1.0
    scale = codes.std(0)
    z = codes / np.where(scale > 0, scale, 1.0)
    rng = np.random.default_rng(derive(seed, "pairs"))
    rows, which = _votes(factors, 2 * VOTES, 2 * MEMBERS, rng)
    apart = np.stack([np.abs(z[own[:MEMBERS]] - z[own[MEMBERS:]]).mean(0) for own in rows])
    line = LogisticRegression(C=100.0, max_iter=1000).fit(apart[:VOTES], which[:VOTES])
    return float(line.score(apart[VOTES:], which[VOTES:]))


def irs(codes: Codes, factors: Factors, quantile: float = 0.99) -> float:
    """Returns the interventional robustness score: a mean over the dimensions, weighted by how far
    each moves.

    Args:
        codes: Codes.
        factors: Of the same rows.
        quantile: Which of the distances from the mean of a level is the largest that counts; 1 for
            the very largest.
    """
    farthest = np.abs(codes - codes.mean(0)).max(0)
    if not farthest.sum():
        return 0.0
    moved = np.zeros((codes.shape[1], len(factors.names)))
    for k, levels in enumerate(factors.levels.T):
        for level in np.unique(levels):
            own = codes[levels == level]
            moved[:, k] += np.quantile(np.abs(own - own.mean(0)), quantile, axis=0)
        moved[:, k] /= len(np.unique(levels))
    still = 1 - moved / np.where(farthest > 0, farthest, 1.0)[:, None]
    return float(np.average(still.max(1), weights=farthest))


def scores(codes: Codes, factors: Factors, *, seed: int = 0) -> list[Score]:
    """Returns all scores that need codes alone, each with its error, ceiling and chance level.

    Args:
        codes: Posterior means, (N, D).
        factors: Of the same rows.
        seed: The same seed gives the same numbers.
    """
    if len(codes) != len(factors):
        raise ValueError(f"{len(codes)} codes and factors of {len(factors)} rows: one each")
    codes = np.asarray(codes, float)
    perfect = factors.levels.astype(float)
    rng = np.random.default_rng(derive(seed, "error"))
    halves = [rng.permutation(len(codes))[: len(codes) // 2] for _ in range(REPEATS)]
    # with noise of their own, so that the spread holds that of votes and forests, too
    by_half = [_scores(derive(seed, "half", i)) for i in range(REPEATS)]
    found = []
    for name, score in _scores(seed).items():
        whole = score(codes, factors)
        parts = [
            _mean(own[name](codes[half], factors[half]))
            for own, half in zip(by_half, halves, strict=True)
        ]
        error = None if _mean(whole) is None else _spread(parts)
        if name == "irs":
            error = _of_largest(codes, factors, halves, error)
        elif name in VOTED and error is not None:
            error = max(error, _of_votes(float(whole)))
        chance = [score(codes, _shuffled(factors, seed, i)) for i in range(SHUFFLES)]
        value = _mean(whole)
        found.append(
            Score(
                name,
                value,
                error,
                _mean(score(perfect, factors)),
                None if value is None else float(np.mean([_mean(each) or 0 for each in chance])),
                dict(zip(factors.names, whole.tolist(), strict=True))
                if name in BY_FACTOR
                else None,
            )
        )
    return found


BY_FACTOR = ("mig", "sap")
VOTED = ("factor_vae", "beta_vae")


def _scores(seed: int) -> dict[str, Callable[[Codes, Factors], Any]]:
    """Returns the scores by name. The three numbers of DCI are of the same forests."""
    known: dict[int, np.ndarray] = {}

    def part(place: int, codes: Codes, factors: Factors) -> float:
        key = hash((codes.tobytes(), factors.levels.tobytes()))
        if key not in known:
            known[key] = dci(codes, factors, seed)
        return float(known[key][place])

    return {
        "mig": mig,
        "sap": partial(sap, seed=seed),
        "dci_disentanglement": partial(part, 0),
        "dci_completeness": partial(part, 1),
        "dci_informativeness": partial(part, 2),
        "factor_vae": partial(factor_vae, seed=seed),
        "beta_vae": partial(beta_vae, seed=seed),
        "modularity": modularity,
        "irs": irs,
    }


def _mean(value: Any) -> float | None:
    """Returns the mean of the parts of a score; None where there are none."""
    parts = np.atleast_1d(value)
    return finite(float(parts.mean())) if parts.size else None


def _spread(parts: Sequence[float | None]) -> float | None:
    values = np.array([value for value in parts if value is not None])
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _of_largest(
    codes: Codes, factors: Factors, halves: Sequence[np.ndarray], error: float | None
) -> float | None:
    """Returns the error of a score by the largest of many distances: its spread over parts of the
    rows that have none in common, which holds for a maximum of all rows, too; at least ``error``.
    """
    every, apart = np.arange(len(codes)), []
    for half in halves:
        other = np.setdiff1d(every, half)
        both = [irs(codes[part], factors[part]) for part in (half, other) if len(part)]
        apart.append(both[0] - both[-1])
    found = [math.sqrt(np.mean(np.square(apart)) / 2)]
    tenths = np.array_split(np.concatenate([halves[0], np.setdiff1d(every, halves[0])]), PARTS)
    if len(tenths[-1]) >= FEWEST:
        found.append(float(np.std([irs(codes[t], factors[t]) for t in tenths], ddof=1)))
    return None if error is None else float(max(error, *found))


def _of_votes(share: float) -> float:
    """Returns the standard error of a share of ``VOTES`` votes, which is not zero where all are
    right: of four more, two of them wrong (Agresti and Coull).
    """
    count = VOTES + 4
    p = (share * VOTES + 2) / count
    return math.sqrt(p * (1 - p) / count)


def _shuffled(factors: Factors, seed: int, number: int) -> Factors:
    order = np.random.default_rng(derive(seed, "shuffle", number)).permutation(len(factors))
    return factors[order]


# --------------------------------------------------------------------------------- without factors


def udr(
    codes: Sequence[Codes], rates: Sequence[np.ndarray] | None = None, *, linear: bool = False
) -> np.ndarray:
    r"""Returns the unsupervised disentanglement ranking of each of M models, (M,): the median over
    the others of how nearly they found the same dimensions, up to order and sign; 1 at best.

    Of two models, R is the absolute Spearman correlation of their informative dimensions. A
    dimension whose best partner is r has $r^2 / \sum R$, and the mean is over the dimensions of
    both.

    Args:
        codes: Posterior means of the same rows under each model, (N, D) each.
        rates: Mean rate of each dimension, (D,) each; those below 0.01 nats are not informative.
            Without them, constant ones are not.
        linear: Whether R is by the coefficients of a Lasso instead.

    Raises:
        ValueError: there are fewer than 2 models.
    """
    if len(codes) < 2:
        raise ValueError("a ranking compares models: give at least 2")
    known = rates or [np.where(z.std(0) > 0, np.inf, 0.0) for z in codes]
    used = [z[:, rate > DEAD] for z, rate in zip(codes, known, strict=True)]
    pairs = np.full((len(used), len(used)), np.nan)
    for i, a in enumerate(used):
        for j in range(i):
            pairs[i, j] = pairs[j, i] = _agreement(a, used[j], linear)
    return np.nanmedian(pairs, 1)


def _agreement(a: Codes, b: Codes, linear: bool) -> float:
    if not a.shape[1] or not b.shape[1]:
        return 0.0
    matrix = _lasso(a, b) if linear else _spearman(a, b)
    total = sum(
        (m.max(0) ** 2 / np.where(m.sum(0) > 0, m.sum(0), 1.0)).sum() for m in (matrix, matrix.T)
    )
    return float(total / sum(matrix.shape))


def _spearman(a: Codes, b: Codes) -> np.ndarray:
    from scipy.stats import rankdata

    x, y = (rankdata(z, axis=0) for z in (a, b))
    x, y = ((z - z.mean(0)) / np.where(z.std(0) > 0, z.std(0), 1.0) for z in (x, y))
    return np.abs(x.T @ y) / len(x)


def _lasso(a: Codes, b: Codes) -> np.ndarray:
    """Returns the absolute coefficients of each dimension of b on those of a, standardized."""
    from sklearn.linear_model import Lasso

    x, y = ((z - z.mean(0)) / np.where(z.std(0) > 0, z.std(0), 1.0) for z in (a, b))
    return np.stack([np.abs(Lasso(alpha=0.01).fit(x, column).coef_) for column in y.T], 1)


def gaussian_correlation(covariance: Tensor) -> float:
    r"""Returns the total correlation of $\mathcal{N}(m, S)$, $-\frac12 \log\det$ of its
    correlations, in nats.
    """
    scale = covariance.diagonal().sqrt()
    return float(-0.5 * torch.linalg.slogdet(covariance / scale / scale[:, None])[1])


def decomposition(
    model: Model, x: Any, *, context: Context | None = None, seed: int = 0
) -> dict[str, Any]:
    r"""Returns how the rate splits (chen2018), in nats per datum.

    $$ \mathrm{KL} = I_q(n; z) + \mathrm{KL}(q(z) \,\|\, \prod_j q(z_j)) + \sum_j \mathrm{KL}(q(z_j)
       \,\|\, p(z_j)). $$

    Args:
        model: The model.
        x: Data, (N, \*event); the cost grows with $N^2$.
        context: What the model is conditioned on, (N, C).
        seed: The same seed gives the same numbers.

    Returns:
        ``rate``, ``information``, ``total_correlation``, ``dimension_wise_kl`` (their sum), each an
        estimate over the rows, of the aggregate posterior of these rows; ``by_dimension``;
        ``gaussian``, the total correlation of a Gaussian with the moments of z. What is not known
        (a posterior without marginals, a prior that does not factorise) is None.
    """
    z, _, _, log_q, log_prior = encoded(model, x, context, seed)
    joint, _, marginal, _ = mixture(model, x, context, z)
    result: dict[str, Any] = {
        "num_data": len(z),
        "rate": Estimate.of(log_q - log_prior).to_dict(),
        "information": Estimate.of(log_q - joint).to_dict(),
        "total_correlation": None,
        "dimension_wise_kl": None,
        "by_dimension": None,
        "gaussian": None,
    }
    spread = z.std(0) > 0
    if int(spread.sum()) > 1 and len(z) > z.shape[1]:
        result["gaussian"] = finite(gaussian_correlation(torch.cov(z[:, spread].T)))
    if marginal is None:
        return result
    result["total_correlation"] = Estimate.of(joint - marginal.sum(1)).to_dict()
    if (own := _prior_by_dimension(model, x, z)) is not None:
        result["dimension_wise_kl"] = Estimate.of((marginal - own).sum(1)).to_dict()
        result["by_dimension"] = (marginal - own).mean(0).tolist()
    return result


def _prior_by_dimension(model: Model, x: Any, z: Tensor) -> Tensor | None:
    """Returns log p(z_j), (N, D), where the prior factorises and is the same for all rows."""
    device = device_of(model)
    with torch.no_grad(), evaluating(model):
        first = x[:1].to(device=device, dtype=torch.get_default_dtype())
        prior: Distribution = model.latent_prior(model.split(first)[1])
        if not isinstance(prior, Independent) or prior.batch_shape:
            return None
        return prior.base_dist.log_prob(z.to(first)).cpu().double()
