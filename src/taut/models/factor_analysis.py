r"""Factor analysis and mixtures of it: the linear-Gaussian models, whose integral over z is known.

With $u_i = (x_i - \mu_i) / s_i$, the columns in units of the training data,

$$ z \sim \mathcal{N}(0, I), \quad u \mid z \sim \mathcal{N}(W z + b, \Psi), \quad
   \Psi = \mathrm{diag}(\psi_1, \dots, \psi_d), \qquad
   u \sim \mathcal{N}(b, W W^\top + \Psi), $$

and with $P = I + W^\top \Psi^{-1} W$ the posterior is $p(z \mid u) = \mathcal{N}(P^{-1} W^\top
\Psi^{-1} (u - b), P^{-1})$. A mixture has a $b$, $W$ and $\Psi$ for each component. Columns of a
row that are missing drop out of every sum over columns, which is exact.

A pass of expectation maximisation has the components and the missing cells as latent variables.
Given the expected mean and covariance S of a component, $W$ is the maximum for the present $\Psi$,

$$ W = \Psi^{1/2} U_K (\Lambda_K - I)_+^{1/2}, \qquad
   \Psi^{-1/2} S \, \Psi^{-1/2} = U \Lambda U^\top, $$

after which the usual update of $\Psi$ is $\mathrm{diag}(S - W W^\top)$: neither lowers the
likelihood, and they need tens of passes where updates of W by expectation maximisation need
thousands.

References: rubin1982, ghahramani1996.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    constraints,
)
from torch.nn import functional

from taut.distributions.observed import Observed
from taut.likelihoods.common import full
from taut.model import Resizing
from taut.models.exact import ExactModel, Pass
from taut.networks import check_positive
from taut.system.precision import wide
from taut.system.seeds import generator
from taut.types import Context, Data, PerDatum

__all__ = ["MIN_SCALE", "REALS", "FactorAnalysis", "MixtureOfFactorAnalysers"]

MIN_SCALE = 0.03
TOLERANCE = 1e-4
MOST_COMPONENTS = 32  # that are tried where their number is left to the validation rows
PATIENCE = 3  # numbers of factors that may follow the best one without being better
REALS = ("real", "positive")
BLOCK = 2**22  # numbers that a block of rows may take
EMPTY = 1e-6  # rows; a component with fewer keeps its parameters


class _Moments(NamedTuple):
    """What the components make of rows: log p(u, c), (N, C), and of the factors given u and c the
    mean, (N, C, K), and the Cholesky factor of the precision, (N or 1, C, K, K).
    """

    log_joint: Tensor
    mean: Tensor
    chol: Tensor


class _Expected(NamedTuple):
    """The expectation step: how many rows each component has, (C,), the expected mean, (C, d), and
    covariance, (C, d, d), of these rows, and log p(u) of each row, (N,).
    """

    rows: Tensor
    mean: Tensor
    covariance: Tensor
    log_prob: Tensor


class _Parameters(NamedTuple):
    """Of all components, in units of the training data: log weights (C,), b (C, d), W (C, d, K) and
    the variances of the noise, (C, d).
    """

    log_weight: Tensor
    loc: Tensor
    factors: Tensor
    variance: Tensor

    def moments(self, u: Tensor) -> _Moments:
        r"""Returns the moments at rows u, (N, d), NaN where missing."""
        there = (~u.isnan()).to(u)
        if bool(there.all()):
            there = there[:1]
        weight = there[:, None] / self.variance  # (N or 1, C, d)
        off = torch.where(u.isnan()[:, None], 0.0, u[:, None] - self.loc)
        eye = torch.eye(self.factors.shape[-1], dtype=u.dtype, device=u.device)
        precision = eye + self.factors.mT @ (weight[..., None] * self.factors)
        chol = torch.linalg.cholesky(precision)
        right = torch.einsum("ncd,cdk->nck", weight * off, self.factors)
        if len(chol) == 1:  # all rows have one precision
            mean = torch.cholesky_solve(right.permute(1, 2, 0), chol[0]).permute(2, 0, 1)
        else:
            mean = torch.cholesky_solve(right[..., None], chol)[..., 0]
        log_det = 2 * chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_det = log_det + (there[:, None] * (2 * math.pi * self.variance).log()).sum(-1)
        square = (weight * off.square()).sum(-1) - (right * mean).sum(-1)
        return _Moments(self.log_weight - 0.5 * (log_det + square), mean, chol)

    def log_prob(self, u: Tensor) -> Tensor:
        """Returns log p(u), (N,)."""
        return self.moments(u).log_joint.logsumexp(-1)

    def expected(self, u: Tensor) -> _Expected:
        """Returns the expectation step over rows u, (N, d): missing cells are filled in with their
        mean, and their covariance is added.
        """
        components, columns, most = self.factors.shape
        sums = [u.new_zeros(components, *(columns,) * power) for power in (0, 1, 2)]
        log_probs = []
        for block in u.split(max(1, BLOCK // (components * columns * max(columns, most)))):
            found = self.moments(block)
            log_prob = found.log_joint.logsumexp(-1)
            share = (found.log_joint - log_prob[:, None]).exp()
            gaps = block.isnan()[:, None]
            off = block[:, None] - self.loc
            if bool(gaps.any()):
                decoded = torch.einsum("nck,cdk->ncd", found.mean, self.factors)
                off = torch.where(gaps, decoded, off)
                root = torch.linalg.solve_triangular(found.chol, self.factors.mT, upper=False)
                root = root * gaps[..., None, :] * share[..., None, None].sqrt()
                sums[2] += torch.einsum("nckd,ncke->cde", root, root)
                left = (share[..., None] * gaps * self.variance).sum(0)
                sums[2] += torch.diag_embed(left)
            shared = share[..., None] * off
            sums[0] += share.sum(0)
            sums[1] += shared.sum(0)
            sums[2] += torch.einsum("nci,ncj->cij", shared, off)
            log_probs.append(log_prob)
        count, first, second = sums
        mean = first / count[:, None]
        covariance = second / count[:, None, None] - mean[..., None] * mean[:, None]
        return _Expected(count, self.loc + mean, covariance, torch.cat(log_probs))

    def maximum(self, found: _Expected, rank: int, min_scale: float) -> _Parameters:
        """Returns the parameters after a maximisation step with so many factors."""
        used = found.rows > EMPTY  # a component without rows stays as it is
        scale = self.variance.sqrt()
        covariance = torch.where(used[:, None, None], found.covariance, torch.diag_embed(scale**2))
        values, vectors = torch.linalg.eigh(covariance / (scale[..., None] * scale[:, None]))
        rank = min(rank, scale.shape[-1])
        size = (values[:, -rank:] - 1).clamp_min(0).sqrt()
        factors = torch.zeros_like(self.factors)
        factors[..., :rank] = (scale[..., None] * vectors[..., -rank:] * size[:, None]).flip(-1)
        left = covariance.diagonal(dim1=-2, dim2=-1) - factors.square().sum(-1)
        return _Parameters(
            (found.rows.clamp_min(EMPTY) / found.rows.sum()).log(),
            torch.where(used[:, None], found.mean, self.loc),
            torch.where(used[:, None, None], factors, self.factors),
            torch.where(used[:, None], left.clamp_min(min_scale**2), self.variance),
        )


class _LinearModel(ExactModel):
    """Abstract mixture of factor analysers; one of a single component is factor analysis.

    Its parameters are those of ``_Parameters``, stored as they are trained: logits, and the
    logarithm of the noise's scale.
    """

    data_loc: Tensor
    data_scale: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        num_components: int | None,
        latent_dim: int | None,
        most_factors: int,
        min_scale: float,
        kinds: Sequence[str] | str | None,
        data_loc: Tensor | float | None,
        data_scale: Tensor | float | None,
    ) -> None:
        super().__init__()
        if len(event_shape) != 1:
            raise ValueError(
                f"{type(self).__name__} is for rows of columns, and not for data points of "
                f"{len(event_shape)} axes: train a VAE"
            )
        for kind in [kinds] if isinstance(kinds, str) else kinds or ():
            if kind not in REALS:
                raise ValueError(
                    f"{type(self).__name__} is a density of real numbers, and one of the columns "
                    f"is {kind}: take HiddenTree() or train a VAE"
                )
        if latent_dim is not None and latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, not {latent_dim}")
        if most_factors < 1:
            raise ValueError(f"most_factors must be at least 1, not {most_factors}")
        self.latent_dim, self.most_factors, self.kinds = latent_dim, most_factors, kinds
        self.min_scale = check_positive(min_scale)
        self.num_components = num_components
        self._measures = data_loc is None and data_scale is None
        self.register_buffer("data_loc", full(0.0 if data_loc is None else data_loc, event_shape))
        self.register_buffer(
            "data_scale", full(1.0 if data_scale is None else data_scale, event_shape)
        )
        self._allot(num_components or 1)

    def _allot(self, components: int) -> None:
        """Makes so many components, all alike, in the precision of the units."""
        columns, like = len(self.data_loc), self.data_loc
        most = self.latent_dim or min(self.most_factors, columns)
        self.logits = nn.Parameter(like.new_zeros(components))
        self.loc = nn.Parameter(like.new_zeros(components, columns))
        self.factors = nn.Parameter(like.new_zeros(components, columns, most))
        self.log_scale = nn.Parameter(like.new_zeros(components, columns))

    @property
    def scale_floor(self) -> Tensor | None:
        return self.min_scale * self.data_scale

    @property
    def num_factors(self) -> int:
        """How many factors are used: some column depends on them."""
        return int((self.factors != 0).any(0).any(0).sum())

    @abc.abstractmethod
    def _joined(self, z: Tensor) -> tuple[Tensor | int, Tensor]:
        """Returns the component (whole numbers, or the one that there is) and the factors of z,
        (*, B) and (*, B, K).
        """

    def log_prob(self, x: Data, context: Context | None = None) -> PerDatum:
        # in float64: where the noise is small, two large squares differ by little
        log_p = _Parameters(*map(wide, self._components())).log_prob(self._standardized(wide(x)))
        return log_p.to(x) + self._units(x)

    def decode(self, z: Tensor, context: Context | None = None) -> Distribution:
        component, factors = self._joined(z)
        p = self._components()
        loc = p.loc[component] + (p.factors[component] @ factors[..., None])[..., 0]
        scale = p.variance.sqrt()[component]
        normal = Normal(
            self.data_loc + self.data_scale * loc, self.data_scale * scale, validate_args=False
        )
        return Observed(normal, 1, self.data_loc)

    def typical(self, x: Data, context: Context | None = None) -> Tensor:
        r"""Returns the mean of each entry given the observed ones, (B, d): those themselves."""
        found, p = self._moments(x), self._components()
        decoded = p.loc + (p.factors @ found.mean[..., None])[..., 0]  # (B, C, d)
        mean = (found.log_joint.softmax(-1)[..., None] * decoded).sum(1)
        return torch.where(x.isnan(), self.data_loc + self.data_scale * mean, x)

    def maximize(
        self,
        train: Tensor,
        validation: Tensor,
        *,
        max_passes: int = 1000,
        seed: int = 0,
        tolerance: float = TOLERANCE,
    ) -> Generator[Pass, None, None]:
        r"""Fits the model to rows, (N, d), and yields each pass; no pass lowers the likelihood.

        Where ``latent_dim`` is None there is one factor at first; as soon as the fit has converged
        it gets another one, until the validation rows have not become more probable for three
        numbers of factors. At the end the model has the parameters that were best on the validation
        rows, and where there are none the last.

        Args:
            train: Training rows, (N, d).
            validation: Validation rows, (M, d).
            max_passes: Most passes.
            seed: Of the first components of a mixture.
            tolerance: Nats a row that a pass must gain; below it the fit has converged.

        Raises:
            ValueError: fewer training rows than components, or the number of factors is to be
                chosen and there are no validation rows.
        """
        fewest = max(2, len(self.logits))
        if len(train) < fewest:
            raise ValueError(
                f"{type(self).__name__} needs at least {fewest} training rows, not {len(train)}"
            )
        if self.latent_dim is None and not len(validation):
            raise ValueError(
                f"the number of factors of {type(self).__name__} is chosen on validation rows, and "
                "there are none: give latent_dim"
            )
        train, validation = wide(train), wide(validation)
        if self._measures:
            self._measure(train)
        u, held_out = self._standardized(train), self._standardized(validation)
        units = [float(self._units(part).mean()) for part in (train, validation)]
        p, rank = self._start(u, seed), self.latent_dim or 1
        kept, best, best_rank, before = p, -math.inf, rank, -math.inf
        try:
            for number in range(1, max_passes + 1):
                found = p.expected(u)
                value = float(found.log_prob.mean())
                on_held_out = float(p.log_prob(held_out).mean())
                if not len(held_out) or on_held_out > best:
                    kept, best, best_rank = p, on_held_out, rank
                settled = value - before < tolerance
                another = self.latent_dim is None and rank < self.factors.shape[-1]
                another = another and rank < best_rank + PATIENCE
                done = number == max_passes or (settled and not another)
                share = 1.0 if done else number / max_passes
                self.limited = done and not settled
                yield Pass(number, value + units[0], on_held_out + units[1], share)
                if done:
                    break
                rank += settled
                before, p = value, p.maximum(found, rank, self.min_scale)
        finally:
            self._take(kept)

    def _standardized(self, x: Tensor) -> Tensor:
        """Returns rows in units of the training data."""
        return (x - self.data_loc.to(x)) / self.data_scale.to(x)

    def _units(self, x: Tensor) -> Tensor:
        """Returns what log p(x) has that log p(u) has not, (B,): the units of the columns."""
        return -torch.where(x.isnan(), 0.0, self.data_scale.to(x).log()).sum(-1)

    def _components(self) -> _Parameters:
        scale = self.log_scale.exp().clamp_min(self.min_scale)
        return _Parameters(self.logits.log_softmax(0), self.loc, self.factors, scale.square())

    def _moments(self, x: Tensor) -> _Moments:
        return self._components().moments(self._standardized(x))

    def _measure(self, x: Tensor) -> None:
        """Takes the units from the training rows."""
        there = ~x.isnan()
        loc = x.nanmean(0)
        scale = torch.where(there, (x - loc).square(), 0.0).sum(0).div(there.sum(0)).sqrt()
        self.data_loc.copy_(loc)
        self.data_scale.copy_(torch.where(scale > 0, scale, 1.0))

    def _start(self, u: Tensor, seed: int) -> _Parameters:
        """Returns components of unit variance around rows that k-means++ has picked."""
        components, columns, most = self.factors.shape
        rows = u.nan_to_num(0.0)
        loc = rows.mean(0, keepdim=True)
        if components > 1:
            noise = generator(seed, "start")
            loc = rows[torch.randint(len(rows), (1,), generator=noise)]
            for _ in range(components - 1):
                distance = torch.cdist(rows, loc).amin(1).square()
                # where all rows are equal, any of them
                distance = distance + torch.finfo(distance.dtype).tiny
                pick = torch.multinomial(distance.cpu(), 1, generator=noise)
                loc = torch.cat([loc, rows[pick]])
        return _Parameters(
            u.new_full((components,), -math.log(components)),
            loc,
            u.new_zeros(components, columns, most),
            u.new_ones(components, columns),
        )

    def _take(self, p: _Parameters) -> None:
        with torch.no_grad():
            self.logits.copy_(p.log_weight)
            self.loc.copy_(p.loc)
            self.factors.copy_(p.factors)
            self.log_scale.copy_(0.5 * p.variance.log())


class FactorAnalysis(_LinearModel):
    r"""Creates factor analysis: $x = s (W z + b) + \mu + \text{noise}$ of a scale for each column.

    Evidence, posterior and conditionals are exact, for rows with missing entries too. ``encode``
    returns a Gaussian with its full covariance.

    Args:
        event_shape: (d,), of one row.
        latent_dim: K, the number of factors; by default it is chosen on the validation rows, from 1
            on, and the factors that are not used have weights of zero.
        most_factors: The most that are tried, and at most d.
        min_scale: Smallest scale of the noise, as a share of the standard deviation of a column: a
            density has no upper limit.
        kinds: Of the columns of a table; all must be real or positive.
        data_loc: Mean of the training data, in the user's units; by default ``maximize`` takes it
            from its rows.
        data_scale: Standard deviation of the training data, likewise.

    Raises:
        ValueError: rows that are not columns of real numbers, or a number out of range.

    References: rubin1982.

    Examples:
        >>> import taut, torch
        >>> from taut.models import FactorAnalysis
        >>> x = taut.LinearGaussian(dim_x=5, dim_z=2).sample(400)
        >>> model = FactorAnalysis((5,), latent_dim=2)
        >>> passes = list(model.maximize(x[:300], x[300:]))
        >>> model.log_prob(x[300:]).shape
        torch.Size([100])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int | None = None,
        most_factors: int = 32,
        min_scale: float = MIN_SCALE,
        kinds: Sequence[str] | str | None = None,
        data_loc: Tensor | float | None = None,
        data_scale: Tensor | float | None = None,
    ) -> None:
        super().__init__(
            event_shape, 1, latent_dim, most_factors, min_scale, kinds, data_loc, data_scale
        )

    def encode(self, x: Data, context: Context | None = None) -> MultivariateNormal:
        found = self._moments(x)
        scale = _inverse_root(found.chol[:, 0]).expand(len(x), -1, -1)
        return MultivariateNormal(found.mean[:, 0], scale_tril=scale, validate_args=False)

    def latent_prior(self, context: Context | None = None) -> Distribution:
        zeros = self.factors.new_zeros(self.factors.shape[-1])
        normal = Normal(zeros, torch.ones_like(zeros), validate_args=False)
        return Independent(normal, 1, validate_args=False)

    def _joined(self, z: Tensor) -> tuple[Tensor | int, Tensor]:
        return 0, z


class MixtureOfFactorAnalysers(Resizing, _LinearModel):
    r"""Creates a mixture of factor analysers: $p(x) = \sum_c \pi_c \, p_c(x)$, each $p_c$ factor
    analysis.

    The joined z is the number of the component and its factors, [c, z_1, ..., z_K]. Evidence,
    posterior and conditionals are exact, for rows with missing entries too.

    Args:
        event_shape: (d,), of one row.
        num_components: C; by default the one of 1, 2, 4, 8, 16, 32 that is best on the validation
            rows.
        latent_dim: K, the number of factors of each component; chosen as in ``FactorAnalysis``.
        most_factors: The most that are tried, and at most d.
        min_scale: Smallest scale of the noise, as a share of the standard deviation of a column.
        kinds: Of the columns of a table; all must be real or positive.
        data_loc: Mean of the training data, as in ``FactorAnalysis``.
        data_scale: Standard deviation of the training data, likewise.

    Raises:
        ValueError: rows that are not columns of real numbers, or a number out of range.

    References: ghahramani1996.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        num_components: int | None = None,
        latent_dim: int | None = None,
        most_factors: int = 32,
        min_scale: float = MIN_SCALE,
        kinds: Sequence[str] | str | None = None,
        data_loc: Tensor | float | None = None,
        data_scale: Tensor | float | None = None,
    ) -> None:
        if num_components is not None and num_components < 1:
            raise ValueError(f"num_components must be at least 1, not {num_components}")
        super().__init__(
            event_shape,
            num_components,
            latent_dim,
            most_factors,
            min_scale,
            kinds,
            data_loc,
            data_scale,
        )

    def maximize(
        self,
        train: Tensor,
        validation: Tensor,
        *,
        max_passes: int = 1000,
        seed: int = 0,
        tolerance: float = TOLERANCE,
    ) -> Generator[Pass, None, None]:
        """Fits the model as ``FactorAnalysis`` is fitted.

        Where ``num_components`` is None their number doubles, 1, 2, 4, ..., until the validation
        rows are no longer more probable; ``max_passes`` is of each number.

        Raises:
            ValueError: fewer training rows than components, or the number of factors or components
                is to be chosen and there are no validation rows.
        """
        if self.num_components is None:
            yield from self._searched(train, validation, max_passes, seed, tolerance)
            return
        yield from super().maximize(
            train, validation, max_passes=max_passes, seed=seed, tolerance=tolerance
        )

    def _searched(
        self, train: Tensor, validation: Tensor, max_passes: int, seed: int, tolerance: float
    ) -> Generator[Pass, None, None]:
        if not len(validation):
            raise ValueError(
                f"the number of components of {type(self).__name__} is chosen on validation rows, "
                "and there are none: give num_components"
            )
        sizes = [1]
        while sizes[-1] < MOST_COMPONENTS and 4 * sizes[-1] < len(train):
            sizes.append(2 * sizes[-1])
        best, kept, number, done = -math.inf, None, 0, 0
        for components in sizes:
            self._allot(components)
            highest = -math.inf
            passes = super().maximize(
                train, validation, max_passes=max_passes, seed=seed, tolerance=tolerance
            )
            try:
                with closing(passes):
                    for step in passes:
                        number, highest = number + 1, max(highest, step.validation)
                        share = (done + components * step.share) / sum(sizes)
                        yield step._replace(number=number, share=share)
            finally:  # also where the passes are stopped
                better = kept is None or highest > best
                if kept is not None and not better:
                    self.load_state_dict(kept)
                self.num_components = len(self.logits)
            if not better:
                break
            done, best = done + components, highest
            kept = {name: value.clone() for name, value in self.state_dict().items()}

    def encode(self, x: Data, context: Context | None = None) -> Distribution:
        found = self._moments(x)
        scale = _inverse_root(found.chol).expand(len(x), -1, -1, -1)
        return _ComponentAndFactors(found.log_joint, found.mean, scale)

    def point(self, x: Data, context: Context | None = None) -> Tensor:
        """Returns the most probable component and the mean of its factors, (B, 1 + K)."""
        found = self._moments(x)
        component = found.log_joint.argmax(-1)
        factors = found.mean[torch.arange(len(x), device=component.device), component]
        return torch.cat([component[:, None].to(factors), factors], -1)

    def latent_prior(self, context: Context | None = None) -> Distribution:
        components, _, most = self.factors.shape
        eye = torch.eye(most, dtype=self.factors.dtype, device=self.factors.device)
        zeros = self.factors.new_zeros(components, most)
        return _ComponentAndFactors(self.logits, zeros, eye.expand(components, -1, -1))

    def _joined(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z[..., 0].long(), z[..., 1:]


class _ComponentAndFactors(Distribution):
    r"""A component c and factors given it: logits (\*batch, C), means (\*batch, C, K) and
    lower-triangular scales (\*batch, C, K, K). A value is [c, z_1, ..., z_K].
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own protocol)
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, logits: Tensor, loc: Tensor, scale_tril: Tensor) -> None:
        self.component = Categorical(logits=logits, validate_args=False)
        self.factors = MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)
        event = torch.Size((1 + loc.shape[-1],))
        super().__init__(logits.shape[:-1], event, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _ComponentAndFactors:
        loc, scale = self.factors.loc, self.factors.scale_tril
        shape = tuple(batch_shape)
        return _ComponentAndFactors(
            self.component.logits.expand(*shape, -1),
            loc.expand(*shape, *loc.shape[-2:]),
            scale.expand(*shape, *scale.shape[-3:]),
        )

    @property
    def mean(self) -> Tensor:
        return self._average(self._values(self.factors.loc))

    @property
    def variance(self) -> Tensor:
        within = functional.pad(self.factors.variance, (1, 0))
        between = self._values(self.factors.loc) - self.mean[..., None, :]
        return self._average(within + between.square())

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            component = self.component.sample(torch.Size(sample_shape))
            values = self._values(self.factors.sample(torch.Size(sample_shape)))
            index = component[..., None, None].expand(*component.shape, 1, values.shape[-1])
            return values.gather(-2, index)[..., 0, :]

    def log_prob(self, value: Tensor) -> Tensor:
        of_factors = self.factors.log_prob(value[..., None, 1:])
        joint = self.component.logits + of_factors
        return joint.gather(-1, value[..., :1].long())[..., 0]

    def _values(self, factors: Tensor) -> Tensor:
        """Returns the values whose factors these are, one for each component, (*, C, 1 + K)."""
        number = torch.arange(factors.shape[-2]).to(factors)[:, None]
        return torch.cat([number.expand(*factors.shape[:-1], 1), factors], -1)

    def _average(self, values: Tensor) -> Tensor:
        return (self.component.probs[..., None] * values).sum(-2)


def _inverse_root(chol: Tensor) -> Tensor:
    """Returns the Cholesky factor of the inverse of a matrix, from that of the matrix."""
    return torch.linalg.cholesky(torch.cholesky_inverse(chol))
