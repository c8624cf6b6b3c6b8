r"""The rate-distortion curve of one decoder: how many nats of z buy how much of x.

For a decoder p(x|z) and a prior p(z), the best that any encoder can do at a weight $\beta$ is

$$ q_\beta(z \mid x) \propto p(z) \, p(x \mid z)^\beta, \qquad
   \log Z_\beta(x) = \log \int p(z) \, p(x \mid z)^\beta \, dz = -R - \beta D, $$

with the distortion $D = -\mathbb{E}_{q_\beta}[\log p(x \mid z)]$ and the rate $R =
\mathrm{KL}(q_\beta \,\|\, p)$, both in nats per datum. At $\beta = 1$, R + D is $-\log p(x)$; large
$\beta$ is autoencoding, small ones ignore z. A run has one point, its own R and D, above the curve
by what its encoder and its aim lose.

Chains of annealed importance sampling pass through all $q_\beta$ on their way from the prior, so
one pass gives the whole curve: their weights estimate $Z_\beta$, and with those weights they are
draws of $q_\beta$. In expectation R is an upper bound. Where the decoder is affine and its noise a
Normal that does not depend on z, all of it is known: with $A = W / \sigma$ and $P = I + \beta
A^\top A$, $q_\beta$ is Gaussian with precision P and mean $P^{-1} \beta A^\top (x - b) / \sigma$.

References: huang2020, alemi2018, neal2001.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from taut.evidence.annealing import SPREAD, Path, Plan, pilot, rows_for, transition
from taut.evidence.results import Estimate
from taut.model import Model, evaluating, frozen
from taut.objectives import log_mean_exp
from taut.system.precision import home, wide
from taut.system.seeds import derive, stream
from taut.types import Context, Data
from taut.use.blocks import Block, blocks_of, device_of

__all__ = ["Affine", "Point", "affine_of", "exact_curve", "rate_distortion"]

PROBES = 16  # points at which a decoder is asked whether it is affine
ALIKE = 1e-5  # of it, relative to its scale: single precision


@dataclass(frozen=True)
class Point:
    """A point of the curve.

    Args:
        beta: Weight of the distortion.
        rate: R, nats per datum.
        distortion: D, nats per datum.
        method: "exact" or "annealing".
        unreliable: Rows whose chains disagree.
    """

    beta: float
    rate: Estimate
    distortion: Estimate
    method: str
    unreliable: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        both = {"rate": self.rate.to_dict(), "distortion": self.distortion.to_dict()}
        return {"beta": self.beta, **both, "method": self.method, "unreliable": self.unreliable}


class Affine(NamedTuple):
    r"""$p(x \mid z) = \mathcal{N}(W z + b, \sigma^2)$, float64.

    Args:
        weight: W, (E, D).
        bias: b, (E,).
        scale: $\sigma$, (E,).
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor


def rate_distortion(
    model: Model,
    x: Data,
    betas: Sequence[float] = (0.1, 0.3, 1.0, 3.0, 10.0),
    num_chains: int = 16,
    *,
    max_temperatures: int = 1000,
    context: Context | None = None,
    seed: int = 0,
) -> list[Point]:
    r"""Returns the rate-distortion curve of a decoder at some weights, ascending.

    Args:
        model: A model with continuous latent variables; its encoder plays no part.
        x: Data, (N, \*event).
        betas: Positive weights.
        num_chains: C, for each data point, where the curve is not exact.
        max_temperatures: Most steps from the prior to the largest weight.
        context: What the model is conditioned on, (N, C).
        seed: The same seed gives the same numbers.

    Raises:
        ValueError: a weight is not positive, there are no data, or the latent variables are
            discrete.
    """
    ascending = sorted(set(map(float, betas)))
    if not ascending or not 0 < ascending[0] <= ascending[-1] < math.inf or not len(x):
        raise ValueError("a curve needs data and positive weights beta")
    affine = None
    if context is None and model.condition is None:
        affine = affine_of(model, x)
    if affine is not None:
        return exact_curve(affine, x, ascending)

    def walk(block: Block) -> Tensor:
        with frozen(model):
            with stream(seed, "pilot", block.number):
                path = Path(model, block.x, block.context, "prior")
                plan = pilot(path, num_chains, max_temperatures, ascending[-1])
            with stream(derive(seed, "curve"), "forward", block.number):
                return _walk(path, _through(plan, ascending), ascending, num_chains)

    parts = blocks_of(model, x, rows_for(x, num_chains), walk, context=context)
    found = torch.cat(list(parts), 2)  # (betas, 5, N)
    return [
        Point(
            beta,
            Estimate.of(rate, rate_error),
            Estimate.of(distortion, distortion_error),
            "annealing",
            int((~(spread <= SPREAD)).sum()),
        )
        for beta, (rate, distortion, rate_error, distortion_error, spread) in zip(
            ascending, found, strict=True
        )
    ]


def _through(plan: Plan, betas: Sequence[float]) -> Plan:
    """Returns a plan that stops at given weights, too, each with the transition that follows."""
    chosen = dict(zip(plan.betas, zip(plan.steps, plan.scales, strict=True), strict=True))
    for beta in betas:
        after = next(i for i, each in enumerate(plan.betas) if each >= beta)
        chosen.setdefault(beta, (plan.steps[after], plan.scales[after]))
    order = sorted(chosen)
    steps, scales = ([chosen[beta][i] for beta in order] for i in range(2))
    return Plan(order, steps, scales, plan.length)


def _walk(path: Path, plan: Plan, betas: Sequence[float], num_chains: int) -> Tensor:
    """Returns rate, distortion, their Monte Carlo errors and the variance of log w at each weight,
    (betas, 5, B).
    """
    size = (num_chains, len(path.x))
    log_w = torch.zeros(size, dtype=torch.float64, device=home(path.x.device))
    point, before, found = path.draw(num_chains), 0.0, []
    for beta, step, scale in zip(plan.betas, plan.steps, plan.scales, strict=True):
        log_w += (beta - before) * wide(point.energy)
        point, _ = transition(path, point, beta, step, scale)
        before = beta
        if beta in betas:
            share, cost = log_w.softmax(0), -wide(point.energy)
            distortion = (share * cost).sum(0)
            rate = -log_mean_exp(log_w) - beta * distortion
            # what each chain moves the two by, to first order: their errors by the delta method
            of_distortion = share * (cost - distortion)
            of_rate = 1 / num_chains - share - beta * of_distortion
            errors = [each.square().sum(0).sqrt() for each in (of_rate, of_distortion)]
            found.append(torch.stack([rate, distortion, *errors, log_w.var(0)]))
    return torch.stack(found).cpu()


# ------------------------------------------------------------------------------- affine decoders


def affine_of(model: Model, x: Data) -> Affine | None:
    """Returns the decoder of a model as a matrix, where it is one: affine, with Normal noise of
    one scale for all z, under a standard Normal prior; and where the data have no gaps.
    """
    dtype = torch.get_default_dtype()
    with torch.no_grad(), evaluating(model):
        first = x[:1].to(device=device_of(model), dtype=dtype)
        prior = model.latent_prior(model.split(first)[1])
        base = _normal(prior)
        if base is None or prior.batch_shape or bool(torch.as_tensor(x[:]).isnan().any()):
            return None
        if not (bool((base.loc == 0).all()) and bool((base.scale == 1).all())):
            return None
        zero = torch.zeros(1, base.loc.shape[-1]).to(base.loc)
        generator = torch.Generator().manual_seed(0)
        random = 3 * torch.randn(PROBES, zero.shape[1], generator=generator).to(zero)
        points = torch.cat([zero, torch.eye(zero.shape[1]).to(zero), random])
        decoded = _normal(model.decode(points[:, None]))
        if decoded is None:
            return None
        loc, scale = (wide(t[:, 0].flatten(1)).cpu() for t in (decoded.loc, decoded.scale))
    weight, bias = (loc[1 : 1 + zero.shape[1]] - loc[0]).T, loc[0]
    guess = wide(random).cpu() @ weight.T + bias
    unit = scale[0].mean() + loc.abs().max()
    same = (scale - scale[0]).abs().max() <= ALIKE * scale[0].max()
    if not same or (guess - loc[1 + zero.shape[1] :]).abs().max() > ALIKE * unit:
        return None
    return Affine(weight, bias, scale[0])


def _normal(distribution: Distribution) -> Any:
    """Returns the Normal of each element, if that is what a distribution is made of."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution if type(distribution) is Normal else None


def exact_curve(decoder: Affine, x: Data, betas: Sequence[float]) -> list[Point]:
    """Returns the curve of an affine decoder with Normal noise in closed form."""
    weight, bias, scale = decoder
    a = weight / scale[:, None]
    seen = (torch.as_tensor(x[:]).double().flatten(1).cpu() - bias) / scale
    eye = torch.eye(a.shape[1], dtype=a.dtype)
    constant = 0.5 * len(scale) * math.log(2 * math.pi) + scale.log().sum()
    points = []
    for beta in betas:
        precision = eye + beta * a.T @ a
        covariance = torch.linalg.inv(precision)
        mean = beta * seen @ a @ covariance
        noise = (a.T @ a * covariance).sum()  # tr(A cov A')
        distortion = constant + 0.5 * ((seen - mean @ a.T).square().sum(1) + noise)
        rate = 0.5 * (
            covariance.trace() + mean.square().sum(1) - len(eye) + torch.logdet(precision)
        )
        points.append(Point(beta, Estimate.of(rate), Estimate.of(distortion), "exact"))
    return points
