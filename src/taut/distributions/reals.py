"""Distributions over real numbers that torch lacks, or has in a form that is not good enough."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Chi2, Distribution, constraints
from torch.distributions import LogNormal as TorchLogNormal
from torch.distributions import StudentT as TorchStudentT
from torch.nn import functional

from taut.distributions.levels import OUTSIDE
from taut.system.precision import wide

__all__ = ["ContinuousBernoulli", "LogNormal", "StudentT"]

FAR = 1e12  # scales, whose square float32 holds; beyond it the 1 of 1 + y^2 is below any rounding


class ContinuousBernoulli(Distribution):
    r"""Creates the density $p(x) = e^{l x} \, l / (e^l - 1)$ on [0, 1].

    torch's own clamps the probability inside its normaliser: in float32 it integrates to 0.32 at a
    logit of 50. Here, with $a = |l|$, $\log p(x) = l x - \max(l, 0) + \log (a / (1 - e^{-a}))$, and
    a series where a is small.

    Args:
        logits: l, any real numbers.

    References: loaiza2019.
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012 (torch's own protocol)
    support = constraints.unit_interval

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ContinuousBernoulli:
        return ContinuousBernoulli(self.logits.expand(batch_shape), validate_args=False)

    @property
    def mean(self) -> Tensor:
        small, l = self._small()
        return torch.where(small, 0.5 + self.logits / 12, 1 / -torch.expm1(-l) - 1 / l)

    def log_prob(self, value: Tensor) -> Tensor:
        small, l = self._small()
        a, size = l.abs(), self.logits.abs()
        series = size / 2 - size**2 / 24
        log_normalizer = torch.where(small, series, a.log() - torch.log(-torch.expm1(-a)))
        return self.logits * value - functional.relu(self.logits) + log_normalizer

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            small, l = self._small()
            u = torch.rand(shape, dtype=l.dtype, device=l.device)
            a = l.abs()  # the quantile function for -a, mirrored where l is positive
            x = torch.where(small, u, torch.log1p(u * torch.expm1(-a)) / -a)
            return torch.where(l > 0, 1 - x, x)

    def _small(self) -> tuple[Tensor, Tensor]:
        """Returns a mask of the logits too small for the closed form, and the logits with 1 in
        their places.
        """
        small = self.logits.abs() < 0.01  # the next term of the series is below 4e-12
        return small, torch.where(small, 1.0, self.logits)


class LogNormal(TorchLogNormal):
    r"""Creates torch's log-normal density with the share $\epsilon = 2^{-24}$ of its mass at and
    below zero.

    If training saw positive numbers only, a later zero is improbable, but not impossible. With u =
    -x and the median $e^m$, the density there is $\epsilon \cdot 2 e^{-m} (1 + u e^{-m})^{-3}$.
    Samples stay above zero.

    Args:
        loc: m, the mean of log x.
        scale: Standard deviation of log x.
    """

    reach = constraints.real
    """The values with a density above zero; the support is what it is meant for."""

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogNormal:
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return LogNormal(loc, scale, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        above = value > 0
        log_x = torch.where(above, value, 1.0).log()
        y = (log_x - self.loc) / self.scale
        density = (
            math.log1p(-OUTSIDE)
            - 0.5 * math.log(2 * math.pi)
            - 0.5 * y.square()
            - self.scale.log()
            - log_x
        )
        beyond = (
            math.log(2 * OUTSIDE)
            - self.loc
            - 3 * functional.softplus((-value).clamp(min=0).log() - self.loc)
        )
        return torch.where(above, density, beyond)


class StudentT(TorchStudentT):
    r"""Creates torch's Student t with its normaliser in float64, once for each element.

    $\log \Gamma((\nu + 1) / 2) - \log \Gamma(\nu / 2)$ is the difference of two large numbers where
    $\nu$ is large: in float32 torch's density is off by 0.005 nats an element at $\nu = 10^4$ and
    by 0.9 at $10^8$, which training would exploit. Far out $\log(1 + y^2 / \nu)$ is that of
    $y^2 / \nu$, since the square of $10^{20}$ is more than float32 holds.

    Args:
        df: $\nu$, degrees of freedom.
        loc: Location.
        scale: Scale; the standard deviation is $\sqrt{\nu / (\nu - 2)}$ times as large.
    """

    def __init__(
        self, df: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None
    ) -> None:
        self._each_df = df  # torch's df is expanded to the whole batch
        self.df, self.loc, self.scale = torch.broadcast_tensors(df, loc, scale)
        self._chi2 = Chi2(self.df, validate_args=False)  # torch's own would check it in every step
        Distribution.__init__(self, self.df.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> StudentT:
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return StudentT(self._each_df, loc, scale, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        df, half = self._each_df, wide(self._each_df) / 2
        log_gammas = torch.lgamma(half + 0.5) - torch.lgamma(half)
        log_normalizer = log_gammas - 0.5 * torch.log(2 * math.pi * half)
        apart, log_scale = value - self.loc, self.scale.log()
        y = apart / self.scale
        far = y.abs() > FAR
        spread = torch.log1p(torch.where(far, 0.0, y).square() / df)
        tail = 2 * (torch.where(far, apart.abs(), 1.0).log() - log_scale) - df.log()
        spread = torch.where(far, tail, spread)
        return log_normalizer.to(y) - log_scale - (df + 1) / 2 * spread
