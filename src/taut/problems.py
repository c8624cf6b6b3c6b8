r"""Models whose evidence and posterior are known in closed form: the ground truth of the tests.

They are public, so that anyone can check taut, or an estimator of their own, against them.

Examples:
    >>> import taut, torch
    >>> problem = taut.LinearGaussian(dim_x=5, dim_z=2)
    >>> x = problem.sample(3)
    >>> bound = taut.ELBO()(problem.model(), x).value  # tight for any sample: q is exact
    >>> torch.allclose(bound, problem.log_evidence(x), atol=1e-4)
    True
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    constraints,
)

from taut import priors
from taut.distributions.chain import Chain
from taut.distributions.observed import Observed
from taut.model import VAE, Likelihood, Posterior, Prior
from taut.types import Context, Data

__all__ = ["PPCA", "BinaryLatents", "LinearGaussian", "LinearHierarchy", "probabilistic_pca"]

LOWER_SCALE = 0.8  # of the groups below the top of a hierarchy


class LinearGaussian:
    r"""Creates $z \sim \mathcal{N}(m + A c, I)$, $x \sim \mathcal{N}(W z + B c + b, \sigma^2 I)$,
    with an optional context c.

    Then $x \sim \mathcal{N}(W(m + Ac) + Bc + b, \; W W^\top + \sigma^2 I)$, and with $P = I +
    W^\top W / \sigma^2$

    $$ p(z \mid x) =
       \mathcal{N}\big(P^{-1} [W^\top (x - b - Bc) / \sigma^2 + m + Ac], \; P^{-1}\big). $$

    Without a context, m = 0 makes it probabilistic PCA. Features that are NaN are missing:
    everything is then of the others.

    Args:
        dim_x: Features of x.
        dim_z: Latent dimensions.
        scale: $\sigma$.
        context_dim: C; 0 for none.

    References: tipping1999.
    """

    def __init__(
        self, dim_x: int = 5, dim_z: int = 2, scale: float = 0.7, context_dim: int = 0
    ) -> None:
        self.prior = _LinearPrior(dim_z, context_dim)
        self.likelihood = _LinearLikelihood(dim_x, dim_z, scale, context_dim)

    def log_evidence(self, x: Data, context: Context | None = None) -> Tensor:
        r"""Returns $\log p(x)$, (B,), nats."""
        w, sigma = self.likelihood.weight, self.likelihood.scale
        loc = self.prior.loc(context) @ w.T + self.likelihood.shift(context)
        eye = torch.eye(len(w), dtype=w.dtype, device=w.device)
        return _observed_log_prob(x, loc, w @ w.T + sigma**2 * eye)

    def posterior(self, x: Data, context: Context | None = None) -> Distribution:
        r"""Returns $p(z \mid x)$, batch shape (B,)."""
        w, sigma = self.likelihood.weight, self.likelihood.scale
        there = (~x.isnan()).to(w)  # a missing feature says nothing of z
        eye = torch.eye(w.shape[1], dtype=w.dtype, device=w.device)
        precision = eye + (w.T * there[:, None, :]) @ w / sigma**2
        rhs = (x - self.likelihood.shift(context)).nan_to_num(0.0) @ w / sigma**2 + self.prior.loc(
            context
        )
        return MultivariateNormal(torch.linalg.solve(precision, rhs), precision_matrix=precision)

    def conditional_mean(self, x: Data, context: Context | None = None) -> Tensor:
        r"""Returns x with its missing entries replaced by their mean given the observed ones, (B,
        dim_x).
        """
        decoded = self.posterior(
            x, context
        ).mean @ self.likelihood.weight.T + self.likelihood.shift(context)
        return torch.where(x.isnan(), decoded, x)

    def sample(self, num_samples: int, context: Context | None = None) -> Tensor:
        """Returns draws of x, (N, dim_x); for a context of N rows, one draw each."""
        with torch.no_grad():
            if context is not None:
                return self.model().sample(1, context=context)[0]
            return self.model().sample(num_samples)

    def model(self, posterior: Posterior | None = None) -> VAE:
        """Returns the problem as a model, with the exact posterior unless another one is given."""
        return VAE(self.prior, self.likelihood, posterior or ExactPosterior(self))


class LinearHierarchy:
    r"""Creates groups of latent variables above each other, all of them linear and Gaussian.

    $$ z_1 \sim \mathcal{N}(m + A c, I), \quad
       z_l \mid z_{l-1} \sim \mathcal{N}(F_l z_{l-1} + b_l, s_l^2 I), \quad
       x \mid z_L \sim \mathcal{N}(W z_L + B c + b, \sigma^2 I) $$

    All of them are jointly Gaussian, hence evidence, posterior and the rate of each group are
    known. Features that are NaN are missing: everything is then of the others.

    Args:
        dim_x: Features of x.
        dims: Dimensions of each group, the top first.
        scale: $\sigma$.
        context_dim: C; 0 for none.

    References: sonderby2016.
    """

    def __init__(
        self,
        dim_x: int = 5,
        dims: Sequence[int] = (2, 2),
        scale: float = 0.7,
        context_dim: int = 0,
    ) -> None:
        self.prior = _LinearChainPrior(dims, context_dim)
        self.likelihood = _LinearLikelihood(dim_x, dims[-1], scale, context_dim)
        self.dims = tuple(dims)

    def log_evidence(self, x: Data, context: Context | None = None) -> Tensor:
        r"""Returns $\log p(x)$, (B,), nats."""
        loc, covariance = self._joint(context)
        w, sigma = self._weight(), self.likelihood.scale
        mean = loc @ w.T + self.likelihood.shift(context)
        eye = torch.eye(len(w), dtype=w.dtype, device=w.device)
        return _observed_log_prob(x, mean, w @ covariance @ w.T + sigma**2 * eye)

    def posterior(self, x: Data, context: Context | None = None) -> Chain:
        r"""Returns $p(z \mid x)$ as a chain, batch shape (B,)."""
        mean, covariance = self.moments(x, context)
        return _gaussian_chain(self.prior.groups, mean, covariance)

    def moments(self, x: Data, context: Context | None = None) -> tuple[Tensor, Tensor]:
        """Returns mean, (B, D), and covariance, (B, D, D), of the posterior of the joined z."""
        loc, covariance = self._joint(context)
        w, sigma = self._weight(), self.likelihood.scale
        there = (~x.isnan()).to(w)
        precision = torch.linalg.inv(covariance) + (w.T * there[:, None, :]) @ w / sigma**2
        rest = (x - self.likelihood.shift(context) - loc @ w.T).nan_to_num(0.0) @ w / sigma**2
        inverse = torch.linalg.inv(precision)
        return loc + (inverse @ rest[..., None])[..., 0], inverse

    def rates(self, x: Data, context: Context | None = None) -> Tensor:
        r"""Returns the rate of each group, (B, L), nats.

        $\mathrm{KL}(p(z_l \mid z_{<l}, x) \,\|\, p(z_l \mid z_{<l}))$, averaged over the posterior
        of the groups above.
        """
        mean, covariance = self.moments(x, context)
        rates, start = [], 0
        for number, size in enumerate(self.dims):
            above, own = slice(0, start), slice(start, start + size)
            gain, rest = _regression(covariance, above, own)
            prior_gain, bias, scale = self.prior.group(number, context)
            off = mean[:, own] - mean[:, above] @ prior_gain.T - bias
            differs = gain - prior_gain
            spread = differs @ covariance[:, above, above] @ differs.mT + rest
            square = spread.diagonal(dim1=-2, dim2=-1).sum(-1) + off.square().sum(-1)
            log_det = 2 * size * math.log(scale) - rest.logdet()
            rates.append(0.5 * (square / scale**2 - size + log_det))
            start += size
        return torch.stack(rates, 1)

    def sample(self, num_samples: int, context: Context | None = None) -> Tensor:
        """Returns draws of x, (N, dim_x); for a context of N rows, one draw each."""
        with torch.no_grad():
            if context is not None:
                return self.model().sample(1, context=context)[0]
            return self.model().sample(num_samples)

    def model(self, posterior: Posterior | None = None) -> VAE:
        """Returns the problem as a model, with the exact posterior unless another one is given."""
        return VAE(self.prior, self.likelihood, posterior or ExactPosterior(self))

    def _weight(self) -> Tensor:
        """Returns W as a map of the joined z, (dim_x, D)."""
        w = self.likelihood.weight
        return torch.cat([w.new_zeros(len(w), sum(self.dims[:-1])), w], 1)

    def _joint(self, context: Context | None) -> tuple[Tensor, Tensor]:
        """Returns mean, (D,) or (B, D), and covariance, (D, D), of p(z)."""
        _, loc, scale = self.prior.group(0, context)
        covariance = scale**2 * torch.eye(self.dims[0], dtype=loc.dtype, device=loc.device)
        for number in range(1, len(self.dims)):
            gain, bias, scale = self.prior.group(number, context)
            cross = gain @ covariance
            eye = torch.eye(len(gain), dtype=loc.dtype, device=loc.device)
            own = cross @ gain.T + scale**2 * eye
            loc = torch.cat([loc, loc @ gain.T + bias], -1)
            covariance = torch.cat(
                [torch.cat([covariance, cross.T], 1), torch.cat([cross, own], 1)]
            )
        return loc, covariance


class BinaryLatents:
    r"""Creates D bits z behind 0/1 data: log p(x) is a sum over all $2^D$ states.

    $$ p(x) = \sum_{z \in \{0,1\}^D} \prod_j \mathrm{Bernoulli}(z_j; \sigma(\ell_j))
       \prod_i \mathrm{Bernoulli}(x_i; \sigma((Wz + b)_i)) $$

    Args:
        dim_x: Features of x.
        num_bits: D, at most 12.

    Raises:
        ValueError: more than 12 bits, so that the states could no longer be enumerated.
    """

    def __init__(self, dim_x: int = 6, num_bits: int = 3) -> None:
        if not 1 <= num_bits <= 12:
            raise ValueError(
                f"num_bits must lie between 1 and 12, not {num_bits}: all 2^num_bits states are "
                f"enumerated"
            )
        self.prior = priors.IndependentBernoulli(num_bits)
        with torch.no_grad():
            self.prior.logits.normal_()
        self.likelihood = _LinearBernoulli(dim_x, num_bits)
        states = torch.arange(2**num_bits)
        self.states = ((states[:, None] >> torch.arange(num_bits)) & 1).to(
            torch.get_default_dtype()
        )

    def _log_joint(self, x: Data) -> Tensor:
        z = self.states[:, None]  # (2^D, 1, D) against x (B, dim_x)
        return self.likelihood(z).log_prob(x) + self.prior().log_prob(z)

    def log_evidence(self, x: Data, context: Context | None = None) -> Tensor:
        r"""Returns $\log p(x)$, (B,), nats."""
        return self._log_joint(x).logsumexp(0)

    def posterior(self, x: Data, context: Context | None = None) -> Distribution:
        r"""Returns $p(z \mid x)$ over the states, batch shape (B,)."""
        return _States(self.states, self._log_joint(x).T)

    def sample(self, num_samples: int) -> Tensor:
        """Returns draws of x, (N, dim_x)."""
        with torch.no_grad():
            return self.model().sample(num_samples)

    def model(self, posterior: Posterior | None = None) -> VAE:
        """Returns the problem as a model, with the exact posterior unless another one is given."""
        return VAE(self.prior, self.likelihood, posterior or ExactPosterior(self))


class ExactPosterior(Posterior):
    r"""Creates the posterior $p(z \mid x)$ of a problem."""

    def __init__(self, problem: LinearGaussian | LinearHierarchy | BinaryLatents) -> None:
        super().__init__()
        self._problem = problem

    def forward(self, x: Data, context: Context | None = None) -> Distribution:
        return self._problem.posterior(x, context)


class PPCA(NamedTuple):
    r"""The maximum-likelihood solution of probabilistic PCA.

    Args:
        loc: Mean of the data, (D_x,).
        weight: W, (D_x, q): principal axes times $\sqrt{\lambda_j - \sigma^2}$.
        scale: $\sigma$.
        eigenvalues: $\lambda$ of the covariance (divided by N), descending, (D_x,).
        log_likelihood: Mean of $\log p(x)$ over the data, nats per datum.
    """

    loc: Tensor
    weight: Tensor
    scale: float
    eigenvalues: Tensor
    log_likelihood: float


def probabilistic_pca(x: Tensor, latent_dim: int) -> PPCA:
    r"""Returns the maximum-likelihood fit of probabilistic PCA: what a linear VAE with a shared
    scale converges to.

    With $\lambda_1 \ge \dots \ge \lambda_d$ the eigenvalues of the covariance, $\sigma^2 =
    \frac1{d-q} \sum_{j>q} \lambda_j$ and

    $$ \tfrac1N \sum_n \log p(x_n) =
       -\tfrac12 \Big[ d \log 2\pi + \sum_{j \le q} \log \lambda_j + (d - q) \log \sigma^2
       + d \Big]. $$

    Args:
        x: Data, (N, d).
        latent_dim: q, less than d.

    References: tipping1999, lucas2019.
    """
    x = x.double()
    d, q = x.shape[1], latent_dim
    if not 0 <= q < d:
        raise ValueError(f"latent_dim must lie between 0 and {d - 1} for {d} features, not {q}")
    loc = x.mean(0)
    values, vectors = torch.linalg.eigh((x - loc).T @ (x - loc) / len(x))
    values, vectors = values.flip(0), vectors.flip(1)
    variance = float(values[q:].mean())
    # below zero by rounding alone
    weight = vectors[:, :q] * (values[:q] - variance).clamp_min(0).sqrt()
    log_det = float(values[:q].log().sum()) + (d - q) * math.log(variance)
    return PPCA(
        loc, weight, math.sqrt(variance), values, -0.5 * (d * math.log(2 * math.pi) + log_det + d)
    )


class _LinearPrior(Prior):
    def __init__(self, dim_z: int, context_dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(dim_z))
        self.map = nn.Linear(context_dim, dim_z, bias=False) if context_dim else None

    def loc(self, context: Context | None) -> Tensor:
        return self.bias if context is None or self.map is None else self.bias + self.map(context)

    def forward(self, context: Context | None = None) -> Distribution:
        loc = self.loc(context)
        return Independent(Normal(loc, torch.ones_like(loc)), 1)


class _LinearChainPrior(Prior):
    """The prior of a linear hierarchy: each group is linear in the one above it."""

    def __init__(self, dims: Sequence[int], context_dim: int) -> None:
        super().__init__()
        self.groups = [(f"z{i}", size) for i, size in enumerate(dims, 1)]
        self.top = _LinearPrior(dims[0], context_dim)
        self.maps: Sequence[nn.Linear] = nn.ModuleList(  # type: ignore[assignment]
            nn.Linear(a, b) for a, b in pairwise(dims)
        )

    def group(self, number: int, context: Context | None) -> tuple[Tensor, Tensor, float]:
        """Returns the map from all groups above, (d, d of those), the bias and the scale."""
        if number == 0:
            loc = self.top.loc(context)
            return loc.new_zeros(loc.shape[-1], 0), loc, 1.0
        linear = self.maps[number - 1]
        further = sum(size for _, size in self.groups[: number - 1])
        gain = torch.cat([linear.weight.new_zeros(len(linear.weight), further), linear.weight], 1)
        return gain, linear.bias, LOWER_SCALE

    def forward(self, context: Context | None = None) -> Distribution:
        def conditional(number: int, above: Tensor | None) -> Distribution:
            gain, loc, scale = self.group(number, context)
            if above is not None:
                loc = above @ gain.T + loc
            factor = scale * torch.eye(len(gain), dtype=loc.dtype, device=loc.device)
            return MultivariateNormal(loc, scale_tril=factor, validate_args=False)

        return Chain(self.groups, conditional, self.top.loc(context).shape[:-1])


class _LinearLikelihood(Likelihood):
    def __init__(self, dim_x: int, dim_z: int, scale: float, context_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim_x, dim_z))
        self.bias = nn.Parameter(torch.randn(dim_x))
        self.map = nn.Linear(context_dim, dim_x, bias=False) if context_dim else None
        self.scale = scale

    def shift(self, context: Context | None) -> Tensor:
        return self.bias if context is None or self.map is None else self.bias + self.map(context)

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        lowest = z[..., -self.weight.shape[1] :]  # of a hierarchy; all of z elsewhere
        loc = lowest @ self.weight.T + self.shift(context)
        return Observed(Normal(loc, self.scale), 1, self.bias)


class _LinearBernoulli(Likelihood):
    def __init__(self, dim_x: int, dim_z: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(1.5 * torch.randn(dim_x, dim_z))
        self.bias = nn.Parameter(torch.randn(dim_x))

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        return Observed(Bernoulli(logits=z @ self.weight.T + self.bias), 1, 0.0)


class _States(Distribution):
    """A distribution over listed states (S, D) with unnormalised log-probabilities (B, S)."""

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own protocol)
    has_rsample = False

    def __init__(self, states: Tensor, logits: Tensor) -> None:
        self.states, self.index = states, Categorical(logits=logits)
        super().__init__(logits.shape[:-1], states.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.index.probs @ self.states

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.states[self.index.sample(sample_shape)]

    def log_prob(self, value: Tensor) -> Tensor:
        bits = (value.long() << torch.arange(value.shape[-1])).sum(-1)
        return self.index.log_prob(bits)


def _observed_log_prob(x: Tensor, loc: Tensor, covariance: Tensor) -> Tensor:
    """Returns the Gaussian log-density of the features that are there, (B,)."""
    # A missing feature is made independent of the others, at its mean, with a variance that costs
    # no nats: 1 / 2 pi.
    there = (~x.isnan()).to(covariance)
    covariance = covariance * there[:, :, None] * there[:, None, :]
    covariance = covariance + torch.diag_embed((1 - there) / (2 * math.pi))
    return MultivariateNormal(loc, covariance).log_prob(torch.where(x.isnan(), loc, x))


def _regression(covariance: Tensor, above: slice, own: slice) -> tuple[Tensor, Tensor]:
    """Returns the map from some Gaussian variables to others, (B, d, d above), and the covariance
    that is left, (B, d, d).
    """
    cross = covariance[:, own, above]
    gain = torch.linalg.solve(covariance[:, above, above], cross.mT).mT
    return gain, covariance[:, own, own] - gain @ cross.mT


def _gaussian_chain(groups: Sequence[tuple[str, int]], mean: Tensor, covariance: Tensor) -> Chain:
    """Returns the Gaussians of a mean, (B, D), and a covariance, (B, D, D), group by group."""
    slices, start = [], 0
    for _, size in groups:
        slices.append(slice(start, start + size))
        start += size

    def conditional(number: int, above: Tensor | None) -> Distribution:
        own, before = slices[number], slice(0, slices[number].start)
        gain, rest = _regression(covariance, before, own)
        loc = mean[:, own]
        if above is not None:
            loc = loc + (gain @ (above - mean[:, before])[..., None])[..., 0]
        factor = torch.linalg.cholesky(rest)
        return MultivariateNormal(loc, scale_tril=factor, validate_args=False)

    return Chain(groups, conditional, mean.shape[:-1])
