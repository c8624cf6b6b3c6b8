r"""The best posterior of a data point, found however far the encoder is off.

*Starts.* The encoder's q; and two modes of $p(x, z)$ in z, found by L-BFGS from the encoder's mean
and from the best of a few draws of the prior, each with the Gaussian of the curvature there
(Laplace). Each data point takes the start of the largest bound.

*Ascent.* A block of Adam in units of the member that it starts from (for a full covariance: in the
coordinates in which that member is the standard normal), by the gradient without its score term,
whose noise vanishes as q approaches the posterior (with it where the density of a given z costs D
passes). Units are taken again before each block, so that
steps grow and shrink with the posterior, and a data point whose bound leaps doubles them.

*Arrival.* All blocks have the same rate at their beginning. A data point has arrived when a whole
block no longer changed its bound, measured before and after with the same fresh noise, by more than
``TOLERANCE`` with two errors. The rate inside a block falls to zero, and so the last steps of one
say nothing. Data that have not arrived go on, up to ``BLOCKS`` blocks, and are named.

References: cremer2018, liu1989, roeder2017.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    MultivariateNormal,
    TransformedDistribution,
    constraints,
    transform_to,
)

from taut.distributions.chain import Chain
from taut.distributions.correlated import CorrelatedNormal
from taut.evidence.annealing import support_of
from taut.evidence.results import in_parts
from taut.model import Model, evaluating, frozen
from taut.system.seeds import stream
from taut.types import Context, Data
from taut.use.blocks import some_of

__all__ = [
    "Best",
    "best_gaussians",
    "best_members",
    "check_family",
    "curvature",
    "is_real",
    "members",
    "modes",
    "starts",
]

RATE = 0.05  # of Adam at the start of a block, in standard deviations
BLOCKS = 12  # at most; of half of ``steps`` steps each
LEAP = 1.0  # nats in a block: the next one has twice the rate
PACES = (0.25, 8.0)  # times the rate, at least and at most
TOLERANCE = 0.05  # nats
FRESH, MORE = 64, 512  # samples that measure a block; those where the first cannot tell
DRAWN = 32  # of the prior, of which the best is a start
CLIMBS = 120  # evaluations of L-BFGS
MEMORY = 10
TRUST = 4.0  # units of the prior that one step of L-BFGS may go
FARTHEST = 20.0  # units of the prior at which the encoder's mean may start a climb
STEEP = 0.5  # standard deviations at which the gradients are taken that give the curvature


class Best(NamedTuple):
    """The best members of a family.

    The distributions (batch (B,)), what the last block still gained, and who arrived, (B,).
    """

    q: Distribution
    rise: Tensor
    arrived: Tensor


def best_gaussians(
    model: Model,
    x: Data,
    context: Context | None = None,
    *,
    seed: int = 0,
    steps: int = 100,
    num_samples: int = 8,
) -> Distribution:
    r"""Returns for each data point the best Gaussian with a full covariance, or of the posterior's
    own family where z has a boundary.

    As a proposal it needs no word of who arrived: the weights tell.

    Args:
        model: A model whose posterior can be reparameterized.
        x: Data, (B, \*event), on the model's device; a block that fits into memory.
        context: What the model is conditioned on, (B, C).
        seed: The same seed gives the same numbers.
        steps: As for ``optima_blocks``.
        num_samples: Likewise.

    Raises:
        ValueError: as ``optima_blocks``.
    """
    with evaluating(model), frozen(model), stream(seed, "best Gaussians"):
        with torch.no_grad():
            q = model.encode(x, context)
            prior = model.latent_prior(model.split(x, context)[1])
        if not is_real(support_of(prior)):
            check_family(q)
        own, gaussians = starts(model, x, context, q, prior, num_samples)
        return best_members(model, x, context, gaussians or own, steps, num_samples).q


def starts(
    model: Model,
    x: Tensor,
    context: Tensor | None,
    q: Distribution,
    prior: Distribution,
    num_samples: int,
) -> tuple[list[Distribution], list[Distribution]]:
    """Returns what the ascent may start from, in the family of q and among the Gaussians with full
    covariance.

    There are no such Gaussians where z has a boundary, and no modes.
    """
    if not is_real(support_of(prior)):
        return [q], []
    points, precision = modes(model, x, context, q, prior, num_samples)
    own = [
        q,
        *(p for z, h in zip(points, precision, strict=True) if (p := _placed(q, z, h)) is not None),
    ]
    full: list[Distribution] = [_gaussian(z, h) for z, h in zip(points, precision, strict=True)]
    if isinstance(q, MultivariateNormal):
        full = [q, *full]
    return own, full


def best_members(
    model: Model,
    x: Tensor,
    context: Tensor | None,
    candidates: list[Distribution],
    steps: int,
    num_samples: int,
) -> Best:
    """Returns the best members of the family that the candidates, (B,) each, belong to."""
    with torch.no_grad():
        bounds = [_log_weights(model, x, context, q, FRESH, seed=0) for q in candidates]
    best, bound = candidates[0], bounds[0]
    for q, other in zip(candidates[1:], bounds[1:], strict=True):
        gain, error = _difference(bound, other)
        better = (gain > TOLERANCE + 2 * error) | (
            ~bound.mean(0).isfinite() & other.mean(0).isfinite()
        )
        best, bound = _where(better, q, best), torch.where(better, other, bound)
    rise = torch.full((len(x),), math.nan, dtype=torch.float64)
    arrived, pace = torch.zeros(len(x), dtype=torch.bool), torch.ones(len(x))
    rows = torch.arange(len(x))
    for block in range(BLOCKS):
        here = rows.to(x.device)
        part, c = x[here], some_of(context, here)
        before = members(best, here)
        after = _block(model, part, c, before, pace[rows], max(1, steps // 2), num_samples)
        with torch.no_grad():
            gain, error = _rise(model, part, c, before, after, block + 1)
        best = _put(best, here, _where(gain > 0, after, before))
        rise[rows] = gain
        arrived[rows] = gain.abs() + 2 * error <= TOLERANCE  # false for NaN
        factor = torch.where(gain > LEAP, 2.0, torch.where(gain > -error, 1.0, 0.5))
        pace[rows] = (pace[rows] * factor.to(pace)).clamp(*PACES)
        rows = rows[~arrived[rows]]
        if not len(rows):
            break
    return Best(best, rise, arrived)


def is_real(support: constraints.Constraint | None) -> bool:
    """Returns whether a support is all of the real vectors."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real


def check_family(q: Distribution) -> None:
    """Refuses a distribution that has no gradient in z, or whose parameters cannot be read."""
    base = base_of(q)
    if not q.has_rsample:
        raise ValueError(
            "the best posterior of a data point is found by the gradient in z, and a "
            f"{type(base).__name__} posterior cannot be reparameterized"
        )
    if isinstance(base, Chain):
        raise ValueError(
            "the best posterior of a data point is sought in a family with parameters for it, and "
            "each level of this one depends on z above it"
        )
    if isinstance(base, TransformedDistribution) or not _names(base):
        raise ValueError(
            f"the family of a {type(base).__name__} posterior cannot be read off its parameters"
        )


def _log_weights(
    model: Model, x: Tensor, context: Tensor | None, q: Distribution, num_samples: int, seed: int
) -> Tensor:
    """Returns log w of samples whose noise is that of the seed, (K, B)."""
    with stream(seed, "bound"):
        return model.draw(x, num_samples, context=context, proposal=q).log_weight.cpu().double()


def _rise(
    model: Model,
    x: Tensor,
    context: Tensor | None,
    before: Distribution,
    after: Distribution,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Returns by how much the bound is larger after a block than before and its standard error,
    (B,).
    """

    def measured(
        part: Tensor, c: Tensor | None, pair: tuple[Distribution, Distribution], count: int
    ) -> tuple[Tensor, Tensor]:
        return _difference(*(_log_weights(model, part, c, q, count, seed) for q in pair))

    gain, error = measured(x, context, (before, after), FRESH)
    unclear = ((gain.abs() - TOLERANCE).abs() < 2 * error).nonzero()[:, 0]
    for some in in_parts(unclear, len(x) * FRESH // MORE):
        here = some.to(x.device)
        pair = members(before, here), members(after, here)
        gain[some], error[some] = measured(x[here], some_of(context, here), pair, MORE)
    return gain, error


def _difference(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean rise of log-weights with the same noise and its standard error, (B,)."""
    change = after - before
    return change.mean(0), change.std(0) / math.sqrt(len(change))


def _block(
    model: Model,
    x: Tensor,
    context: Tensor | None,
    q: Distribution,
    pace: Tensor,
    steps: int,
    num_samples: int,
) -> Distribution:
    """Returns members that some steps of Adam have moved from those of q."""
    moved = [torch.zeros_like(p).requires_grad_() for p in _parameters(q).values()]
    # Adam's eps is a gradient, in nats per standard deviation. Below it the steps are those of
    # plain gradient descent at a rate of one half, which settles; with a small eps noise is blown
    # up to whole steps.
    optimizer = torch.optim.Adam(moved, lr=RATE, betas=(0.9, 0.99), eps=2 * RATE)
    with torch.enable_grad():
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
            current = _moved(q, moved, pace)
            draw = model.draw(x, num_samples, context=context, proposal=current)
            log_q = draw.log_posterior
            if not getattr(current, "slow_density", False):
                fixed = _like(current, _parameters(current))
                if isinstance(current, CorrelatedNormal) and isinstance(fixed, CorrelatedNormal):
                    log_q = fixed.log_prob_at(draw.z, current.noise)
                else:
                    log_q = fixed.log_prob(draw.z)
            loss = -(draw.log_joint - log_q).mean(0).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return _moved(q, moved, pace)


# --- Modes ----------------------------------------------------------------------------------------


def modes(
    model: Model,
    x: Tensor,
    context: Tensor | None,
    q: Distribution,
    prior: Distribution,
    num_samples: int,
) -> tuple[Tensor, Tensor]:
    """Returns two modes of p(x, z) in z, (2, B, D), and minus the curvature of log p(x, z) there,
    (2, B, D, D).
    """
    with torch.no_grad():
        drawn = prior.sample(torch.Size((DRAWN,)))
        if not prior.batch_shape:
            drawn = drawn[:, None]
        centre, unit = drawn.mean(0), drawn.std(0)
        drawn = torch.cat([centre[None], drawn]).expand(-1, len(x), -1)
        value = model.log_joint(drawn, x, context)
        value = torch.where(value < math.inf, value, -math.inf)  # NaN is the last choice too
        from_prior = drawn.gather(0, value.argmax(0)[None, :, None].expand(1, -1, drawn.shape[-1]))
        try:
            mean = q.mean
        except NotImplementedError:  # a flow, or groups of latent variables
            mean = q.sample(torch.Size((DRAWN,))).mean(0)
        mean = torch.where(mean.isfinite(), mean, centre).clamp(
            centre - FARTHEST * unit, centre + FARTHEST * unit
        )
    z = _climb(model, x, context, torch.cat([mean[None], from_prior]), unit)
    return z, curvature(model, x, context, z, unit.expand_as(z), num_samples)


def curvature(
    model: Model, x: Tensor, context: Tensor | None, z: Tensor, unit: Tensor, num_samples: int
) -> Tensor:
    """Returns minus the second derivatives of log p(x, z) in z at z (S, B, D), (S, B, D, D),
    positive definite.

    By differences of gradients half a standard deviation apart: networks with kinks have no others.
    How wide that is, is first found by differences much closer.
    """
    dims = z.shape[-1]
    step, precision = 0.01 * unit, torch.empty(())
    for last in (False, True):
        rows = []
        for directions in torch.eye(dims, dtype=z.dtype, device=z.device).split(
            max(1, num_samples // 2)
        ):
            moves = directions[:, None, None] * step
            points = torch.stack([z + moves, z - moves]).flatten(0, 2)
            gradient = _gradient(model, x, context, points)[1].unflatten(
                0, (2, len(directions), len(z))
            )
            width = 2 * (directions[:, None, None] * step).sum(-1, keepdim=True)
            rows.append((gradient[1] - gradient[0]) / width)
        precision = (
            torch.stack([r for chunk in rows for r in chunk], -2)
            * unit[..., None]
            * unit[..., None, :]
        )
        precision = precision.nan_to_num(0.0, 0.0, 0.0)
        if not last:
            step = STEEP * unit * precision.diagonal(dim1=-2, dim2=-1).clamp(0.25, 1e8).rsqrt()
    unit = unit.cpu().double()  # some devices have neither
    precision = precision.cpu().double()
    values, vectors = torch.linalg.eigh((precision + precision.mT) / 2)
    values = values.abs().clamp(0.25, 1e12)  # twice as wide as the prior at most
    precision = (vectors * values[..., None, :]) @ vectors.mT
    return precision / unit[..., None] / unit[..., None, :]


def _climb(model: Model, x: Tensor, context: Tensor | None, start: Tensor, unit: Tensor) -> Tensor:
    """Returns where L-BFGS gets from each of the points (S, B, D).

    All climb at once, each with its own line search.
    """
    u, pairs = start / unit, list[tuple[Tensor, Tensor, Tensor]]()
    value, gradient = _gradient(model, x, context, start)
    gradient = gradient * unit
    length = torch.ones_like(value)
    for _ in range(CLIMBS):
        direction = _direction(gradient, pairs)
        slope = (gradient * direction).sum(-1)
        uphill = slope > 0
        direction = torch.where(
            uphill[..., None],
            direction,
            gradient / gradient.norm(dim=-1, keepdim=True).clamp_min(1e-30),
        )
        slope = (gradient * direction).sum(-1)
        reach = (TRUST / direction.norm(dim=-1).clamp_min(1e-30)).clamp_max(1.0) * length
        # twice what a Newton step would gain, in nats
        if not bool(((slope > 1e-3) & (reach > 1e-6)).any()):
            break
        step = reach[..., None] * direction
        tried, tried_gradient = _gradient(model, x, context, (u + step) * unit)
        tried_gradient = tried_gradient * unit
        # false for NaN
        taken = (tried >= value + 1e-4 * reach * slope) & tried_gradient.isfinite().all(-1)
        taken |= value.isneginf() & tried.isfinite()
        change = gradient - tried_gradient
        product = (step * change).sum(-1)
        useful = taken & (product > 1e-8 * step.norm(dim=-1) * change.norm(dim=-1))
        pairs = [*pairs, (step, change, torch.where(useful, 1 / product, 0.0))][-MEMORY:]
        u = torch.where(taken[..., None], u + step, u)
        value, gradient = (
            torch.where(taken, tried, value),
            torch.where(taken[..., None], tried_gradient, gradient),
        )
        length = torch.where(taken, 1.0, 0.25 * length)
    return u * unit


def _direction(gradient: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Returns the two-loop recursion's direction uphill; pairs of weight zero are omitted."""
    direction, weights = gradient, []
    scale = 1 / gradient.norm(dim=-1).clamp_min(1.0)  # before anything is known: one unit at most
    for step, change, rho in reversed(pairs):
        weights.append(rho * (step * direction).sum(-1))
        direction = direction - weights[-1][..., None] * change
    for _, change, rho in pairs:  # the scale of the last pair that says something
        square = change.square().sum(-1)
        scale = torch.where(rho > 0, 1 / (rho * square).clamp_min(1e-30), scale)
    direction = direction * scale[..., None]
    for (step, change, rho), weight in zip(pairs, reversed(weights), strict=True):
        back = rho * (change * direction).sum(-1)
        direction = direction + (weight - back)[..., None] * step
    return direction


def _gradient(model: Model, x: Tensor, context: Tensor | None, z: Tensor) -> tuple[Tensor, Tensor]:
    """Returns log p(x, z), (K, B), -inf where it is not a number, and its gradient in z, (K, B, D),
    zero there.
    """
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = model.log_joint(z, x, context)
        (gradient,) = torch.autograd.grad(value.nan_to_num(0.0, 0.0, 0.0).sum(), z)
    value = value.detach()
    value = torch.where(value.isnan() | value.isposinf(), -math.inf, value)
    return value, gradient.nan_to_num(0.0, 0.0, 0.0)


# --- Members of a family --------------------------------------------------------------------------


def base_of(q: Distribution) -> Distribution:
    """Returns the distribution within an Independent, and any other itself."""
    if isinstance(q, Independent):
        return q.base_dist
    return q


def _names(base: Distribution) -> list[str]:
    if isinstance(base, MultivariateNormal):
        return ["loc", "scale_tril"]
    return [n for n in base.arg_constraints if n in vars(base)]


def _parameters(q: Distribution, *, detach: bool = True) -> dict[str, Tensor]:
    base = base_of(q)
    values = {n: cast(Tensor, getattr(base, n)) for n in _names(base)}
    if detach:
        return {n: p.detach() for n, p in values.items()}
    return values


def _like(q: Distribution, parameters: dict[str, Tensor]) -> Distribution:
    """Returns the member of the family of q that has these parameters."""
    base: Any = base_of(q)
    if hasattr(base, "like"):  # it holds more than its parameters
        return cast(Distribution, base.like(parameters))
    member = type(base)(**parameters, validate_args=False)
    if isinstance(q, Independent):
        return Independent(member, q.reinterpreted_batch_ndims, validate_args=False)
    return member


def _moved(q: Distribution, moved: list[Tensor], pace: Tensor) -> Distribution:
    """Returns members some units off those of q.

    Standard deviations for places, and factors of e for scales.
    """
    base, old, new = base_of(q), _parameters(q), dict[str, Tensor]()
    for (name, p), m in zip(old.items(), moved, strict=True):
        m = pace.to(m)[(...,) + (None,) * (m.dim() - 1)] * m
        if isinstance(base, MultivariateNormal):
            factor = old["scale_tril"]
            if name == "loc":
                new[name] = p + (factor @ m[..., None])[..., 0]
            else:
                new[name] = factor @ transform_to(constraints.lower_cholesky)(m)
            continue
        limit = base.arg_constraints[name]
        transform = transform_to(
            limit if isinstance(limit, constraints.Constraint) else constraints.real
        )
        unit: Tensor | float = 1.0
        if name == "loc":
            unit = old["scale"] if "scale" in old else base.stddev.detach()
        new[name] = transform(transform.inv(p) + unit * m)
    return _like(q, new)


def members(q: Distribution, rows: Tensor | slice) -> Distribution:
    """Returns the members of some rows."""
    return _like(q, {n: p[rows] for n, p in _parameters(q).items()})


def _where(chosen: Tensor, q: Distribution, other: Distribution) -> Distribution:
    """Returns the members of q for the chosen data and those of another for the rest."""
    pairs, chosen = (
        zip(_parameters(q).items(), _parameters(other).values(), strict=True),
        chosen.to(next(iter(_parameters(q).values())).device),
    )
    return _like(
        q, {n: torch.where(chosen[(...,) + (None,) * (a.dim() - 1)], a, b) for (n, a), b in pairs}
    )


def _put(q: Distribution, rows: Tensor, part: Distribution) -> Distribution:
    """Returns the members of q with some rows replaced."""
    pairs = zip(_parameters(q).items(), _parameters(part).values(), strict=True)
    return _like(q, {n: p.index_copy(0, rows, new) for (n, p), new in pairs})


def _gaussian(mean: Tensor, precision: Tensor) -> CorrelatedNormal:
    """Returns the Gaussian of a precision, whose factor is found in float64."""
    inverse = torch.linalg.inv(precision)
    factor = torch.linalg.cholesky_ex((inverse + inverse.mT) / 2)[0]
    return CorrelatedNormal(mean, scale_tril=factor.to(mean), validate_args=False)


def _placed(q: Distribution, mean: Tensor, precision: Tensor) -> Distribution | None:
    """Returns the member of the family of q with a mean, and the scales that are best for a
    Gaussian target of a precision.

    None where the family has no place and scale to be set.
    """
    if isinstance(q, MultivariateNormal):
        return _gaussian(mean, precision)
    old, scales = _parameters(q), precision.diagonal(dim1=-2, dim2=-1).rsqrt().to(mean)
    if not {"loc", "scale"} <= set(old) or old["loc"].shape != mean.shape:
        return None
    one = _like(q, {**old, "loc": torch.zeros_like(mean), "scale": torch.ones_like(scales)})
    return _like(q, {**old, "loc": mean, "scale": scales / one.stddev})
