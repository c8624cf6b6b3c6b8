r"""Objectives: a bound to report (``value``) and a function to differentiate (``surrogate``).

For one datum write $w_k = p(x, z_k) / q(z_k \mid x)$ with $z_k \sim q$, and $\tilde w_k = w_k /
\sum_j w_j$. Two families of lower bounds of $\log p(x)$, in nats, larger is better:

$$ \mathrm{ELBO} = \mathbb{E}_q \Big[ \tfrac1K \sum_k \log w_k \Big] \;\le\;
   \mathcal{L}_K = \mathbb{E}_q \Big[ \log \tfrac1K \sum_k w_k \Big] \;\le\; \log p(x). $$

``value`` is always an unbiased sample of exactly one of these two. The objectives differ in
``surrogate``, whose gradient is the estimator: by reparameterization ($z = g(\epsilon, x)$,
gradients flow through z) or by the score function ($\nabla \mathbb{E}_q[f] = \mathbb{E}_q[f \,
\nabla \log q] + \mathbb{E}_q[\nabla f]$, for any q). What is reported is not what is
differentiated: weights, baselines, beta, warm-up and free bits change the surrogate and never the
value.

Three more organise the latent space, ``TotalCorrelation``, ``DIP`` and ``Capacity``: what they
maximise is not a bound, and ``value`` stays the plain ELBO.

An objective is a frozen dataclass: its ``repr`` is the specification that makes it again.

References: kingma2014, burda2016, roeder2017, tucker2019, mnih2016, higgins2017, kingma2016.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Independent, kl_divergence
from torch.nn import functional

from taut.model import VAE, Draw, Group, Model, frozen
from taut.networks import MLP
from taut.types import Context, Data, PerDatum, PerSample

__all__ = [
    "DIP",
    "ELBO",
    "IWAE",
    "VIMCO",
    "Bound",
    "Capacity",
    "DReG",
    "Objective",
    "ScoreFunction",
    "StickingTheLanding",
    "StraightThrough",
    "TotalCorrelation",
    "log_mean_exp",
]

CRITIC = (200, 200)  # widths of the network that tells codes from permuted ones
SAMPLES = 256  # compared with all rows of a batch at a time


class Bound(NamedTuple):
    """One objective at B data.

    Args:
        value: What is reported: the bound, (B,), nats, detached.
        surrogate: What is differentiated, (B,): its gradient estimates the gradient of the
            objective.
        target: What is maximised, (B,), detached, where that is not the value: a beta-weighted
            bound. Training is stopped by it.
    """

    value: PerDatum
    surrogate: PerDatum
    target: PerDatum | None = None


@dataclass(frozen=True)
class Objective(abc.ABC):
    """Abstract objective.

    The class attributes are what a training asks of one: ``warmup``, the share of the training over
    which it changes, for which early stopping waits, ``betas`` of Adam, whether a step of it
    ``compiles``, ``free_bits``, and ``couples_rows``, a clause that says what of it is of the whole
    batch: processes that share it cannot each take a mean. ``is_bound`` says whether what is
    maximised is a lower bound of log p(x), and ``caveat`` what the user must know of it or of its
    gradient.

    Args:
        num_samples: K, samples of the posterior for each datum.
    """

    warmup = 0.0
    free_bits = 0.0
    betas = (0.9, 0.999)
    compiles = True
    caveat = ""
    num_samples: int = 1

    @property
    def couples_rows(self) -> str:
        return ""

    @property
    def is_bound(self) -> bool:
        return True

    def prepare(self, model: Model) -> None:
        """Gives a model the network that only its training needs, ``model.opponent``, if it has
        none; a training that ends takes it away.
        """
        del model  # most need none

    def __post_init__(self) -> None:
        if (
            isinstance(self.num_samples, bool)
            or not isinstance(self.num_samples, int)
            or self.num_samples < 1
        ):
            raise ValueError(
                f"num_samples must be a whole number of at least 1, not {self.num_samples!r}"
            )

    def _check(self, least: float = 0.0, **values: float) -> None:
        for name, value in values.items():
            known = isinstance(value, int | float) and not isinstance(value, bool)
            if not known or not least <= value < math.inf:
                raise ValueError(f"{name} must be a number of at least {least:g}, not {value!r}")

    @abc.abstractmethod
    def __call__(
        self, model: Model, x: Data, context: Context | None = None, progress: float | Tensor = 1.0
    ) -> Bound:
        r"""Returns the bound at x.

        Args:
            model: Any model.
            x: Data, (B, \*event).
            context: What the model is conditioned on, (B, C).
            progress: Share of the training that is done, from 0 to 1: what a warm-up goes by; a
                compiled step gives a tensor.
        """


@dataclass(frozen=True)
class ELBO(Objective):
    r"""Creates the evidence lower bound $\mathbb{E}_q[\log p(x \mid z)] - \beta \, \mathrm{KL}(q
    \,\|\, p(z))$, reparameterized.

    Args:
        num_samples: K.
        beta: Weight of the rate in the surrogate; more than 1 buys an organised latent space with
            softer reconstructions.
        warmup: Share of the training over which the weight grows linearly from 0 to beta.
        free_bits: Nats of rate, for each latent dimension, that cost nothing: a dimension whose
            mean rate over the batch lies below has no gradient toward the prior.
        free_bits_of: What has so many: each "dimension", or each "level" (group of latent
            variables) as a whole, which need not factorise then.
        analytic_kl: Whether the surrogate's rate is in closed form where torch knows one; else, and
            where it knows none, it is the sample mean of log q - log p(z).

    Bound:
        ``value`` is the plain ELBO, whatever beta, warm-up and free bits do. The gradient is
        unbiased for the surrogate.

    Raises:
        ValueError: the posterior cannot be reparameterized, or free bits are asked of one that does
            not factorise.

    References: kingma2014, higgins2017, kingma2016.
    """

    beta: float = 1.0
    warmup: float = 0.0
    free_bits: float = 0.0
    analytic_kl: bool = True
    free_bits_of: str = "dimension"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.free_bits_of not in ("dimension", "level"):
            raise ValueError(
                f"free_bits_of must be 'dimension' or 'level', not {self.free_bits_of!r}"
            )
        for name, limit in (("beta", math.inf), ("warmup", 1.0), ("free_bits", math.inf)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value <= limit:
                raise ValueError(f"{name} must be a number between 0 and {limit:g}, not {value!r}")

    def __call__(
        self, model: Model, x: Data, context: Context | None = None, progress: float | Tensor = 1.0
    ) -> Bound:
        draw = model.glance(x, self.num_samples, context=context)
        beta: float | Tensor = self.beta
        if self.warmup:  # as a tensor, since a compiled step is given the progress as one
            beta = self.beta * torch.as_tensor(progress / self.warmup, dtype=torch.float64).clamp(
                max=1.0
            )
        surrogate = draw.log_likelihood.mean(0) - beta * self._rate(draw)
        target = surrogate.detach() if self._reweighted else None
        return _bound(draw, draw.elbo.detach().mean(0), surrogate, target)

    @property
    def couples_rows(self) -> str:
        return "free_bits averages over the whole batch" if self.free_bits else ""

    @property
    def is_bound(self) -> bool:
        return self.beta >= 1

    @property
    def _reweighted(self) -> bool:
        return self.beta != 1 or self.free_bits > 0

    def _rate(self, draw: Draw) -> PerDatum:
        if self.free_bits:
            each = _rate_per_level if self.free_bits_of == "level" else _rate_per_dimension
            return _sum([_paid(each(group), self.free_bits) for group in draw.groups])
        if self.analytic_kl and draw.groups:
            return _sum([group.rate for group in draw.groups])
        return (draw.log_posterior - draw.log_prior).mean(0)


@dataclass(frozen=True)
class IWAE(Objective):
    r"""Creates the importance-weighted bound $\mathcal{L}_K$, reparameterized.

    Bound:
        ``value`` is $\log \frac1K \sum_k w_k$; the gradient is unbiased. With growing K the
        encoder's gradient drowns in noise: see ``DReG``.

    References: burda2016, rainforth2018.
    """

    num_samples: int = 5

    def __call__(
        self, model: Model, x: Data, context: Context | None = None, progress: float | Tensor = 1.0
    ) -> Bound:
        draw = model.draw(x, self.num_samples, context=context)
        bound = log_mean_exp(draw.log_weight)
        return _bound(draw, bound.detach(), bound)


@dataclass(frozen=True)
class StickingTheLanding(Objective):
    r"""Creates the ELBO with the path derivative alone: the score $\nabla \log q$, which is zero in
    expectation, is omitted.

    Bound:
        ``value`` is the ELBO. The gradient is unbiased, and zero for every sample where q is the
        exact posterior.

    References: roeder2017.
    """

    def __call__(
        self, model: Model, x: Data, context: Context | None = None, progress: float | Tensor = 1.0
    ) -> Bound:
        draw = model.draw(x, self.num_samples, context=context, stop_posterior=True)
        elbo = draw.elbo.mean(0)
        return _bound(draw, elbo.detach(), elbo)


@dataclass(frozen=True)
class DReG(Objective):
    r"""Creates the importance-weighted bound $\mathcal{L}_K$ with the doubly reparameterized
    gradient.

    The encoder's gradient is $\sum_k \tilde w_k^2 \, \partial_z \log w_k \, \partial_\phi z_k$, the
    decoder's $\sum_k \tilde w_k \, \partial_\theta \log w_k$.

    Bound:
        ``value`` is $\mathcal{L}_K$. The gradient is unbiased; the encoder's is zero for every
        sample where q is the exact posterior.

    References: tucker2019.
    """

    num_samples: int = 5

    def __call__(
        self, model: Model, x: Data, context: Context | None = None, progress: float | Tensor = 1.0
    ) -> Bound:
        draw = model.draw(x, self.num_samples, context=context, stop_posterior=True)
        log_weight = draw.log_weight
        weight = log_weight.detach().softmax(0)
        # The surrogate carries each weight once. The encoder needs it twice and lies behind z, so
        # it is multiplied in once more on the way back through z.
        if draw.z.requires_grad:
            draw.z.register_hook(lambda gradient: weight[..., None] * gradient)
        return _bound(draw, log_mean_exp(log_weight).detach(), (weight * log_weight).sum(0))


@dataclass(frozen=True)
class ScoreFunction(Objective):
    r"""Creates the ELBO with the score-function gradient, for any posterior, discrete ones too; far
    noisier.

    Args:
        num_samples: K, at least 2 with a baseline.
        baseline: "leave_one_out" (the mean of the other samples' log-weights, hence independent of
            the sample) or "none".

    Bound:
        ``value`` is the ELBO; the gradient is unbiased with either baseline.

    References: williams1992, mnih2016.
    """

    num_samples: int = 8
    baseline: str = "leave_one_out"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.baseline not in ("leave_one_out", "none"):
            raise ValueError(f"unknown baseline {self.baseline!r}: 'leave_one_out' or 'none'")
        if self.baseline == "leave_one_out" and self.num_samples < 2:
            raise ValueError("a leave-one-out baseline needs num_samples of at least 2")

    def __call__(
        self, model: Model, x: Data, context: Context | None = None, progress: float | Tensor = 1.0
    ) -> Bound:
        draw = model.draw(x, self.num_samples, context=context, reparameterize=False)
        elbo = draw.elbo.detach()
        baseline: Tensor | float = 0.0
        if self.baseline == "leave_one_out":
            baseline = (elbo.sum(0) - elbo) / (self.num_samples - 1)
        log_joint = draw.log_likelihood + draw.log_prior
        surrogate = ((elbo - baseline) * draw.log_posterior + log_joint).mean(0)
        return _bound(draw, elbo.mean(0), surrogate)


@dataclass(frozen=True)
class StraightThrough(Objective):
    r"""Creates the ELBO of a discrete posterior with a *biased* gradient of little noise, by a
    relaxation.

    A sample z of q has the gradient of a point between the values of z: for one-hot codes of
    softmax$((\log \pi + g) / t)$, whose Gumbel noise g drew z itself.

    Args:
        num_samples: K.
        temperature: t; the bias is small where it is, and the noise large.
        hard: Whether the decoder sees z, or else the point itself, as if it were one
            (Gumbel-softmax, Concrete); the gradient of the decoder is then biased, too.

    Bound:
        ``value`` is the ELBO, at the same draws of q. The gradient is biased: training ends where
        the ELBO has no maximum.

    Raises:
        ValueError: the posterior has no such relaxation, or ``temperature`` is not positive.

    References: jang2017, maddison2017.
    """

    caveat = "its gradient is biased: it is of a relaxation of the bound, and not of the bound"
    temperature: float = 0.5
    hard: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.temperature, int | float) or not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be a positive number, not {self.temperature!r}")

    def __call__(
        self, model: Model, x: Data, context: Context | None = None, progress: float | Tensor = 1.0
    ) -> Bound:
        q: Any = model.encode(x, context)
        if not hasattr(q, "relaxed"):
            raise ValueError(
                "StraightThrough needs a posterior with a relaxation, such as "
                "Categorical(codes=20, levels=10)"
            )
        z, point = q.relaxed(torch.Size((self.num_samples,)), self.temperature)
        seen = z + (point - point.detach()) if self.hard else point
        draw = model.draw(x, context=context, proposal=q, given=seen)
        value = draw.elbo
        if not self.hard:
            value = model.draw(x, context=context, proposal=q, given=z.detach()).elbo
        surrogate = draw.log_likelihood.mean(0) - _sum([group.rate for group in draw.groups])
        return _bound(draw, value.detach().mean(0), surrogate)


@dataclass(frozen=True)
class VIMCO(Objective):
    r"""Creates the importance-weighted bound $\mathcal{L}_K$ with a score-function gradient, for
    any posterior.

    Sample k is credited with $\mathcal{L}_K - \mathcal{L}_{-k}$, where in $\mathcal{L}_{-k}$ its
    weight is replaced by the geometric mean of the others.

    Bound:
        ``value`` is $\mathcal{L}_K$; the gradient is unbiased.

    Args:
        num_samples: K, at least 2.

    References: mnih2016.
    """

    num_samples: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_samples < 2:
            raise ValueError("VIMCO needs num_samples of at least 2")

    def __call__(
        self, model: Model, x: Data, context: Context | None = None, progress: float | Tensor = 1.0
    ) -> Bound:
        draw = model.draw(x, self.num_samples, context=context, reparameterize=False)
        bound = log_mean_exp(draw.log_weight)
        log_weight = draw.log_weight.detach()
        credit = bound.detach() - self._without_one(log_weight)
        return _bound(draw, bound.detach(), (credit * draw.log_posterior).sum(0) + bound)

    def _without_one(self, log_weight: PerSample) -> PerSample:
        """Returns the bound with weight k replaced by the geometric mean of the others,
        for each k.
        """
        others = (log_weight.sum(0) - log_weight) / (self.num_samples - 1)
        own = torch.eye(self.num_samples, dtype=torch.bool, device=log_weight.device)[..., None]
        return log_mean_exp(torch.where(own, others, log_weight))


@dataclass(frozen=True)
class _Organising(Objective, abc.ABC):
    """Abstract ELBO with a term that organises the latent space and is of the whole batch."""

    caveat = "it is not a bound of log p(x): the ELBO, a bound, is told beside it"

    @property
    def couples_rows(self) -> str:
        return f"{type(self).__name__} is of the whole batch"

    @property
    def is_bound(self) -> bool:
        return False

    def __call__(
        self, model: Model, x: Data, context: Context | None = None, progress: float | Tensor = 1.0
    ) -> Bound:
        draw = model.draw(x, self.num_samples, context=context)
        if len(draw.groups) != 1:
            raise ValueError(f"{type(self).__name__} needs one group of latent variables")
        aim = self._aim(draw, progress, model)
        surrogate = aim - self._opponent_loss(draw, model)
        return _bound(draw, draw.elbo.detach().mean(0), surrogate, aim.detach())

    @abc.abstractmethod
    def _aim(self, draw: Draw, progress: float | Tensor, model: Model) -> PerDatum:
        """Returns what is maximised, (B,)."""

    def _opponent_loss(self, draw: Draw, model: Model) -> PerDatum | float:
        """Returns what the opponent minimises, (B,): nothing where there is none."""
        return 0.0


@dataclass(frozen=True)
class TotalCorrelation(_Organising):
    r"""Creates the ELBO whose total correlation $\mathrm{KL}(q(z) \,\|\, \prod_j q(z_j))$ has the
    weight beta (beta-TCVAE): dependent dimensions cost more, and informative ones do not.

    The aggregate posterior q(z) of N rows is estimated from the B of a batch. "weighted":
    $\frac1{NB} \sum_b q(z \mid x_b)$. "stratified": the row that z came from has the weight 1/N and
    each other (N - 1) / (N (B - 1)), which is unbiased for q(z); for log q(z) neither is, and the
    bias falls with B. "critic" (FactorVAE) needs no density of q: a network f tells z from z whose
    dimensions are permuted over the batch, each on its own, by $\min_f \mathbb{E} \log(1 +
    e^{-f(z)}) + \mathbb{E} \log(1 + e^{f(\bar z)})$, at whose optimum $f = \log q(z) / \prod_j
    q(z_j)$. It lags behind q, and what it cannot tell it does not count. It moves in the same step
    as the model, by the same optimizer, and is no part of the run that is kept.

    Args:
        num_samples: K.
        beta: Weight of the total correlation; 1 is the ELBO.
        sampler: "weighted", "stratified" or "critic".
        rows: N. Without it "weighted" omits (D - 1) log N, which changes no gradient; "stratified"
            needs it.

    Bound:
        ``value`` is the plain ELBO. What is maximised is not a bound, since the estimate may be
        too small.

    Raises:
        ValueError: the posterior does not factorise, and the sampler is not "critic".

    References: chen2018, kim2018.
    """

    beta: float = 6.0
    sampler: str = "weighted"
    rows: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(beta=self.beta)
        if self.sampler not in ("weighted", "stratified", "critic"):
            raise ValueError(
                f"sampler must be 'weighted' or 'stratified' or 'critic', not {self.sampler!r}"
            )
        if self.rows is not None:
            self._check(1, rows=self.rows)
        elif self.sampler == "stratified":
            raise ValueError("sampler 'stratified' needs rows, the number of training rows")

    def _aim(self, draw: Draw, progress: float | Tensor, model: Model) -> PerDatum:
        rate = draw.groups[0].rate
        if self.sampler == "critic":
            with frozen(self._opponent(model)):
                total_correlation = self._opponent(model)(draw.z)[..., 0].mean(0)
        else:
            total_correlation = self.estimate(draw).mean(0)
        return draw.log_likelihood.mean(0) - rate - (self.beta - 1) * total_correlation

    def prepare(self, model: Model) -> None:
        if self.sampler == "critic" and isinstance(model, VAE) and not hasattr(model, "opponent"):
            like = next(model.parameters())
            dims = math.prod(model.latent_prior().event_shape)
            model.opponent = MLP((dims,), (1,), hidden=CRITIC).to(like)

    def _opponent(self, model: Model) -> nn.Module:
        self.prepare(model)
        found: Any = model.opponent
        return found

    def _opponent_loss(self, draw: Draw, model: Model) -> PerDatum | float:
        if self.sampler != "critic":
            return 0.0
        return density_ratio_loss(self._opponent(model), draw.z.detach())

    def estimate(self, draw: Draw) -> PerSample:
        """Returns the total correlation at each sample, (K, B), nats: its mean estimates it."""
        q = draw.groups[0].posterior
        if not isinstance(q, Independent):
            raise ValueError(
                "TotalCorrelation needs a posterior that factorises over the latent dimensions, "
                "such as DiagonalNormal"
            )
        size = draw.z.shape[1]
        weights = self._log_weights(size).to(draw.z)
        # what each row of the batch gives to each sample: (K, samples, rows, D)
        parts = []
        for first in range(0, size, SAMPLES):
            own = slice(first, first + SAMPLES)
            each = q.base_dist.log_prob(draw.z[:, own, None]) + weights[own, :, None]
            joint = each.sum(-1) - (each.shape[-1] - 1) * weights[own]
            parts.append(joint.logsumexp(2) - each.logsumexp(2).sum(-1))
        return torch.cat(parts, 1)

    def _log_weights(self, size: int) -> Tensor:
        """Returns the logarithm of the weight of row b for a sample of row a, (B, B)."""
        rows = self.rows or 1
        if self.sampler == "weighted" or size == 1:
            return torch.full((size, size), -math.log(rows * size))
        others = math.log(max(rows - 1, 1)) - math.log(rows * (size - 1))
        return torch.full((size, size), others).fill_diagonal_(-math.log(rows))


@dataclass(frozen=True)
class DIP(_Organising):
    r"""Creates the ELBO less a penalty on how far a covariance of the latent space is from the
    identity (DIP-VAE).

    $$ \lambda_{od} \sum_{i \ne j} C_{ij}^2 + \lambda_d \sum_i (C_{ii} - 1)^2, $$

    where C is the covariance over the batch of the posterior means (I), or of z, which adds the
    mean posterior variances (II).

    Args:
        num_samples: K.
        of: "means" (DIP-VAE-I) or "samples" (II).
        off_diagonal: $\lambda_{od}$, nats per datum.
        diagonal: $\lambda_d$.

    Bound:
        ``value`` is the plain ELBO. What is maximised is of the batch, and not a bound that would
        hold for each datum.

    Raises:
        ValueError: the posterior does not factorise.

    References: kumar2018.
    """

    of: str = "means"
    off_diagonal: float = 10.0
    diagonal: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.of not in ("means", "samples"):
            raise ValueError(f"of must be 'means' or 'samples', not {self.of!r}")
        self._check(off_diagonal=self.off_diagonal, diagonal=self.diagonal)

    def _aim(self, draw: Draw, progress: float | Tensor, model: Model) -> PerDatum:
        q = draw.groups[0].posterior
        if not isinstance(q, Independent):
            raise ValueError(
                "DIP needs a posterior that factorises over the latent dimensions, such as "
                "DiagonalNormal"
            )
        rate = draw.groups[0].rate
        return draw.log_likelihood.mean(0) - rate - self.penalty(q.mean, q.variance)

    def penalty(self, means: Tensor, variances: Tensor) -> Tensor:
        """Returns the penalty of a batch, nats per datum, from means and variances, (B, D)."""
        centred = means - means.mean(0)
        covariance = centred.T @ centred / len(means)
        if self.of == "samples":
            covariance = covariance + variances.mean(0).diag()
        off = covariance - covariance.diagonal().diag()
        squares = (covariance.diagonal() - 1).square().sum()
        return self.off_diagonal * off.square().sum() + self.diagonal * squares


@dataclass(frozen=True)
class Capacity(_Organising):
    r"""Creates the ELBO whose rate is held at a capacity, $\mathbb{E}_q[\log p(x \mid z)] - \gamma
    |\mathrm{KL} - C|$, which grows in training: dimensions are taken up one after another.

    The KL is the mean over the batch.

    Args:
        num_samples: K.
        capacity: C at the end, nats.
        weight: $\gamma$; more than the nats of reconstruction that a nat of rate buys.
        warmup: Share of the training over which C grows linearly from 0.

    Bound:
        ``value`` is the plain ELBO. What is maximised is not a bound: it may be above log p(x)
        where a rate above 0 costs nothing.

    References: burgess2018.
    """

    capacity: float = 25.0
    weight: float = 100.0
    warmup: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(capacity=self.capacity, weight=self.weight, warmup=self.warmup)
        if self.warmup > 1:
            raise ValueError(f"warmup must be a number between 0 and 1, not {self.warmup!r}")

    def _aim(self, draw: Draw, progress: float | Tensor, model: Model) -> PerDatum:
        capacity: float | Tensor = self.capacity
        if self.warmup:
            share = torch.as_tensor(progress / self.warmup, dtype=torch.float64).clamp(max=1.0)
            capacity = self.capacity * share
        apart = (draw.groups[0].rate.mean() - capacity).abs()
        return draw.log_likelihood.mean(0) - self.weight * apart


def density_ratio_loss(critic: Callable[[Tensor], Tensor], z: Tensor) -> PerDatum:
    r"""Returns the logistic loss of a critic that tells z, (K, B, D), from the product of its
    marginals, (B,); at its optimum the critic is $\log q(z) / \prod_j q(z_j)$.
    """
    order = torch.rand(z.shape, device=z.device).argsort(1)
    permuted = z.gather(1, order)
    told = functional.softplus(-critic(z)) + functional.softplus(critic(permuted))
    return told[..., 0].mean(0)


def log_mean_exp(a: Tensor) -> Tensor:
    r"""Returns $\log \frac1K \sum_k e^{a_k}$ over the first of the last two axes (samples), without
    overflow.

    Examples:
        >>> log_mean_exp(torch.tensor([[1000.0], [1000.0]]))
        tensor([1000.])
    """
    return a.logsumexp(-2) - math.log(a.shape[-2])


def _bound(
    draw: Draw, value: PerDatum, surrogate: PerDatum, target: PerDatum | None = None
) -> Bound:
    """Returns a bound whose surrogate pays the penalty of its draw."""
    paid = surrogate if draw.penalty is None else surrogate - draw.penalty
    return Bound(value, paid, target)


def _sum(parts: list[PerDatum]) -> PerDatum:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _paid(rate: Tensor, free_bits: float) -> PerDatum:
    """Returns the rate of dimensions, (B, D), or of a level, (B, 1), of which the first nats of
    each cost nothing.
    """
    return torch.where(rate.mean(0) > free_bits, rate, free_bits).sum(-1)


def _rate_per_level(group: Group) -> Tensor:
    """Returns the KL of a group, (B, 1)."""
    return group.rate[:, None]


def _rate_per_dimension(group: Group) -> Tensor:
    """Returns the KL of each latent dimension of a group, (B, D)."""
    posterior, prior = group.posterior, group.prior
    if isinstance(posterior, Independent) and isinstance(prior, Independent):
        try:
            rate = kl_divergence(posterior.base_dist, prior.base_dist)
            return rate.mean(0) if rate.dim() == 3 else rate
        except NotImplementedError:
            pass
    raise ValueError(
        "free_bits needs a posterior and a prior that factorise over the latent dimensions and "
        "have a closed-form KL"
    )
