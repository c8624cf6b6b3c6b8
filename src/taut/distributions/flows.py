r"""Flows: Gaussians bent by an invertible map.

With $z = m + s \odot f(u)$ and $u \sim \mathcal{N}(0, I)$,

$$ \log q(z) = \log \mathcal{N}(u; 0, I) - \sum_j \log s_j
   - \log \left|\det \frac{\partial f}{\partial u}\right|. $$

References: rezende2015, durkan2019.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn import functional

__all__ = ["Flow", "rational_quadratic"]

EDGE = 5.0  # a spline bends within so many standard deviations; beyond them it is the identity
LEAST_SHARE = 1e-3  # of the width and the height of a spline that a bin has at least
LEAST_SLOPE = 1e-3
POINTS = 512  # at which mean and variance are taken

# f(u, features, inverse) -> f(u) (*, B, D) and log |det df/du| (*, B), of u (*, B, D) and the
# features (B, F) of the data points; with inverse=True the same of the inverse of f
Bijection = Callable[..., tuple[Tensor, Tensor]]


def rational_quadratic(x: Tensor, raw: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
    r"""Returns a monotone rational-quadratic spline of x, elementwise, and the logarithm of its
    slope.

    It maps [-EDGE, EDGE] to itself with slope 1 at both ends, and is the identity beyond.

    Args:
        x: (\*,).
        raw: (\*, 3 bins - 1): unconstrained widths, heights and inner slopes; zeros are the
            identity.
        inverse: Whether the inverse is wanted, of x as a value of the spline.

    References: durkan2019.
    """
    bins = (raw.shape[-1] + 1) // 3
    knots = [_knots(part) for part in (raw[..., :bins], raw[..., bins : 2 * bins])]
    inner = LEAST_SLOPE + functional.softplus(raw[..., 2 * bins :] + math.log(math.expm1(1.0)))
    inner = inner / (1 + LEAST_SLOPE)  # zeros are slopes of 1
    slopes = functional.pad(inner, (1, 1), value=1.0)
    within = x.clamp(-EDGE, EDGE)
    searched = knots[1] if inverse else knots[0]
    number = (within[..., None] >= searched[..., 1:-1]).sum(-1, keepdim=True)

    def at(values: Tensor, step: int = 0) -> Tensor:
        return values.gather(-1, number + step)[..., 0]

    left, bottom = at(knots[0]), at(knots[1])
    width, height = at(knots[0], 1) - left, at(knots[1], 1) - bottom
    low, high, mean = at(slopes), at(slopes, 1), height / width
    bend = low + high - 2 * mean
    if inverse:
        rise = within - bottom
        a = height * (mean - low) + rise * bend
        b = height * low - rise * bend
        c = -mean * rise
        root = (b.square() - 4 * a * c).clamp(min=0).sqrt()
        share = (2 * c / (-b - root)).clamp(0, 1)
        result = left + share * width
    else:
        share = (within - left) / width
        curve = mean * share.square() + low * share * (1 - share)
        result = bottom + height * curve / (mean + bend * share * (1 - share))
    slope = high * share.square() + 2 * mean * share * (1 - share) + low * (1 - share).square()
    log_slope = 2 * mean.log() + slope.log() - 2 * (mean + bend * share * (1 - share)).log()
    if inverse:
        log_slope = -log_slope
    return torch.where(within == x, result, x), log_slope  # beyond the ends the slope is 1, too


def _knots(raw: Tensor) -> Tensor:
    """Returns the ends of bins whose shares of [-EDGE, EDGE] are softmax(raw), but for a least
    share.
    """
    bins = raw.shape[-1]
    shares = LEAST_SHARE + (1 - LEAST_SHARE * bins) * torch.softmax(raw, -1)
    inner = 2 * EDGE * shares.cumsum(-1)[..., :-1] - EDGE
    low, high = (torch.full_like(raw[..., :1], end) for end in (-EDGE, EDGE))
    return torch.cat([low, inner, high], -1)


class Flow(Distribution):
    r"""Creates the distribution of $z = m + s \odot f(u; h)$ with $u \sim \mathcal{N}(0, I)$.

    Mean and variance are those over fixed points of u, of which half are the negatives of the
    others and whose variance is 1: right for a Gaussian, and an approximation where f bends it.

    Args:
        loc: m, (\*, D).
        scale: s, positive, (\*, D).
        features: h, (\*, F), what f sees of a data point; None where it sees nothing.
        bijection: f.
    """

    arg_constraints: dict[str, Any] = {  # noqa: RUF012 (torch's own protocol)
        "loc": constraints.real,
        "scale": constraints.positive,
        "features": constraints.real,
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        features: Tensor | None,
        bijection: Bijection,
    ) -> None:
        self.loc, self.scale, self.bijection = loc, scale, bijection
        self.features = features
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @property
    def slow_density(self) -> bool:
        """Whether the density of a z that is given costs a pass for each dimension."""
        return getattr(self.bijection, "slow_inverse", False)

    def like(self, parameters: dict[str, Tensor]) -> Flow:
        """Returns the flow of the same layers with other parameters."""
        return Flow(**parameters, bijection=self.bijection)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Flow:
        def expanded(part: Tensor) -> Tensor:
            return part.expand(*batch_shape, part.shape[-1])

        features = None if self.features is None else expanded(self.features)
        return Flow(expanded(self.loc), expanded(self.scale), features, self.bijection)

    def rsample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Returns samples and their log-densities, which need no inverse."""
        shape = torch.Size(sample_shape) + self.loc.shape
        u = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        bent, log_det = self.bijection(u, self.features)
        log_prob = _standard(u) - log_det - self.scale.log().sum(-1)
        return self.loc + self.scale * bent, log_prob

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.rsample_and_log_prob(sample_shape)[0]

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        u, log_det = self.bijection((value - self.loc) / self.scale, self.features, inverse=True)
        return _standard(u) + log_det - self.scale.log().sum(-1)

    @property
    def mean(self) -> Tensor:
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        return self._moments()[1]

    def _moments(self) -> tuple[Tensor, Tensor]:
        u = _points(self.loc.shape[-1]).to(self.loc)
        u = u.reshape(-1, *[1] * (self.loc.dim() - 1), u.shape[-1])
        z = self.bijection(u.expand(-1, *self.loc.shape), self.features)[0]
        return self.loc + self.scale * z.mean(0), self.scale.square() * z.var(0, correction=0)


def _standard(u: Tensor) -> Tensor:
    return -0.5 * (u.square() + math.log(2 * math.pi)).sum(-1)


@functools.cache
def _points(dim: int) -> Tensor:
    """Returns points that stand for a standard Normal, (POINTS, D), float64."""
    engine = torch.quasirandom.SobolEngine(dim, scramble=True, seed=0)
    uniform = engine.draw(POINTS // 2, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    half = math.sqrt(2) * torch.erfinv(2 * uniform - 1)
    return torch.cat([half, -half]) / half.square().mean(0).sqrt()
