r"""How the latent space is used: what z knows of x, where the aggregate posterior lies, and whether
q is calibrated.

With the aggregate posterior $q(z) = \frac1N \sum_n q(z \mid x_n)$ the mean rate splits (ELBO
surgery) into

$$ \frac1N \sum_n \mathrm{KL}(q(z \mid x_n) \,\|\, p(z)) = \underbrace{I_q(n; z)}_{\le \log N}
   + \underbrace{\mathrm{KL}(q(z) \,\|\, p(z))}_{\text{marginal KL: holes}} $$

and $\mathrm{KL}(q(z) \,\|\, \prod_j q(z_j))$ is the *total correlation*. For the N data themselves
the mixture is known exactly. As a number about the population they come from, its logarithm is too
large where it holds the data point's own component and too small where that is omitted: hence two
numbers for each of the three, which bracket it in expectation. Where the information exceeds log N
the first only says so.

*What a better prior would buy* does not saturate: for any density r fitted to other data,
$\mathbb{E}_q[\log r(z) - \log p(z)]$ is what the held-out ELBO would rise by if r were the prior,
and a lower bound of the marginal KL.

*Simulation-based calibration*: for z drawn from the prior and x from p(x|z), the rank of z among
draws of q(z|x) is uniform in each dimension if q is the posterior. A hollow middle says that q is
too narrow.

References: hoffman2016, chen2018, poole2019, tomczak2018, talts2018.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, kl_divergence

from taut.evidence.annealing import simulate, support_of
from taut.evidence.ascent import is_real
from taut.evidence.results import ACTIVE, Estimate
from taut.model import Draw, Group, Model, evaluating
from taut.system.seeds import derive, stream
from taut.types import Context, Data
from taut.use.blocks import Block, blocks_of, device_of, some_of

__all__ = ["calibration", "encoded", "latents", "marginals_of", "mixture", "prior_gain"]

ROWS = 256  # data encoded, and components of the mixture evaluated, at a time
DEAD = 0.01  # nats of rate below which a dimension is paid nothing
COMPONENTS = (1, 5, 20)
CATEGORIES = "the latent variables are categories, which have no directions"
DRAWS = 256  # of a posterior whose mean is not known
RANKS = 63  # draws that a simulated z is ranked among
BINS = 8


def latents(
    model: Model,
    x: Data,
    *,
    train: Tensor | None = None,
    context: Context | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    r"""Returns the use of the latent space for N data as plain values, in nats per datum.

    Args:
        model: The model.
        x: Data, (N, \*event), at least 2; the cost grows with $N^2$.
        train: Data that a better prior is fitted to; without them half of x is, and the other half
            measured.
        context: What the model is conditioned on, (N, C).
        seed: The same seed gives the same numbers.

    Returns:
        ``rate``, ``information``, ``marginal_kl`` and ``total_correlation``, the last three with
        ``own`` and ``left_out`` (see above; None where the posterior's marginals are not known),
        ``dimensions`` (``rate`` and ``mean_variance`` of each), ``active_units``, ``dead`` and
        ``noisy`` dimensions, ``noisy_rate``, ``prior_gain`` (see that function), and ``warnings``.
    """
    if len(x) < 2:
        raise ValueError(
            "the use of the latent space shows over several data points: give at least 2"
        )
    z, means, rates, log_q, log_prior = encoded(model, x, context, seed)
    n = len(x)
    joint, joint_left, marginal, marginal_left = mixture(model, x, context, z)
    information = {"own": log_q - joint, "left_out": log_q - joint_left}
    rate = log_q - log_prior
    variance = means.var(0, correction=0)
    inactive = variance <= ACTIVE
    empty, rate_of, noisy_rate = inactive, None, None
    if rates is not None:
        empty = inactive & (rates.mean(0) < DEAD)
        rate_of = rates.mean(0).tolist()
        noisy_rate = Estimate.of(rates[:, inactive & ~empty].sum(1)).to_dict()
    noisy = inactive & ~empty
    result: dict[str, Any] = {
        "num_data": n,
        "rate": Estimate.of(rate).to_dict(),
        "information": {k: Estimate.of(v).to_dict() for k, v in information.items()},
        "information_limit": math.log(n),
        "marginal_kl": {k: Estimate.of(rate - v).to_dict() for k, v in information.items()},
        "total_correlation": None,
        "dimensions": {
            "rate": rate_of,
            "mean_variance": variance.tolist(),
        },
        "active_units": int((~inactive).sum()),
        "latent_dim": z.shape[1],
        "dead": empty.nonzero()[:, 0].tolist(),
        "noisy": noisy.nonzero()[:, 0].tolist(),
        "prior_gain": None,
        "noisy_rate": noisy_rate,
        "warnings": [],
    }
    if marginal is not None and marginal_left is not None:
        result["total_correlation"] = {
            "own": Estimate.of(joint - marginal.sum(1)).to_dict(),
            "left_out": Estimate.of(joint_left - marginal_left.sum(1)).to_dict(),
        }
    if context is None:
        fit, measure = (x[: len(x) // 2], x[len(x) // 2 :]) if train is None else (train, x)
        gain = prior_gain(model, fit, measure, seed=seed)
        if gain is not None:
            result["prior_gain"] = gain.to_dict()
    if float(information["own"].mean()) > math.log(n) - 1:
        result["warnings"].append(
            f"{n} rows can show at most log N = {math.log(n):.2f} nats, too few to measure "
            f"the information: it is at least {float(information['own'].mean()):.2f} nats, and the "
            f"marginal KL at most {float((rate - information['own']).mean()):.2f}; the other ends "
            f"are loose"
        )
    return result


def prior_gain(model: Model, train: Tensor, x: Data, *, seed: int = 0) -> Estimate | None:
    r"""Returns what the ELBO of x would rise by if a Gaussian mixture, fitted to z of the training
    data, were the prior.

    Args:
        model: The model.
        train: Data to fit to, (M, \*event); the number of components is chosen on a quarter of
            them.
        x: Data to measure on, (N, \*event).
        seed: The same seed gives the same numbers.

    Returns:
        None where z is not a vector of reals, or where M is too small (below 40) to fit anything.
    """
    import numpy as np
    from sklearn.mixture import GaussianMixture

    first = x[:1].to(device=device_of(model), dtype=torch.get_default_dtype())
    prior = model.latent_prior(model.split(first)[1])
    if not is_real(support_of(prior)) or len(train) < 40:
        return None
    z_train, _, rates, _, _ = encoded(model, train, None, derive(seed, "prior gain"))
    z, _, _, _, log_prior = encoded(model, x, None, seed)
    base = prior.base_dist if isinstance(prior, Independent) else None
    used = torch.ones(z.shape[1], dtype=torch.bool)
    if base is not None and rates is not None:
        used = rates.mean(0) > DEAD
    if not bool(used.any()):
        return Estimate.of(torch.zeros(len(x)), torch.zeros(len(x)))
    rest: Tensor | float = 0.0
    if base is not None:  # it stays as it is in the dimensions that carry nothing
        with torch.no_grad():
            rest = base.log_prob(z.to(prior.mean)).cpu().double()[:, ~used].sum(1)
    fit, choose = np.split(z_train[:, used].numpy(), [len(z_train) * 3 // 4])
    size = min(
        len(COMPONENTS), 1 + int(len(fit) >= 20 * z.shape[1]) + int(len(fit) >= 80 * z.shape[1])
    )
    random = derive(seed, "mixture") % 2**32
    mixtures = [
        GaussianMixture(c, reg_covar=1e-4, random_state=random).fit(fit) for c in COMPONENTS[:size]
    ]
    best = max(mixtures, key=lambda m: float(m.score(choose)))
    gain = torch.from_numpy(best.score_samples(z[:, used].numpy())) + rest - log_prior
    return Estimate.of(gain)


def calibration(model: Model, num_data: int = 1000, *, seed: int = 0) -> dict[str, Any]:
    """Returns the simulation-based calibration of q on data that the model makes, as plain values.

    Args:
        model: The model.
        num_data: Simulated data.
        seed: The same seed gives the same numbers.

    Returns:
        ``histogram`` (counts of the ranks in 8 bins, of the active dimensions together),
        ``p_value`` (smallest over the dimensions, by a chi-square test, times their number),
        ``coverage_90`` (how often the central 90 % of q hold z), ``spread`` (root mean square of (z
        - mean) / scale of q; None where q has none) and ``verdict``.
    """
    z, x = simulate(model, num_data, seed=derive(seed, "calibration"))
    device = z.device
    ranks, scores, means = [], [], []
    with torch.no_grad(), evaluating(model), stream(seed, "ranks"):
        for true, block in zip(z.split(ROWS), x.split(ROWS), strict=True):
            q = model.encode(block)
            draws = q.sample(torch.Size((RANKS,)))
            ties = (draws == true).sum(0)
            ranks.append(
                (draws < true).sum(0) + (torch.rand(ties.shape, device=device) * (ties + 1)).floor()
            )
            means.append(_mean(q))
            if q.has_rsample and isinstance(q, Independent | MultivariateNormal):
                scores.append((true - q.mean) / q.stddev)
    rank = torch.cat(ranks).cpu()
    active = torch.cat(means).cpu().double().var(0, correction=0) > ACTIVE
    if not bool(active.any()):
        active = torch.ones_like(active)
    bins = (rank[:, active] * BINS / (RANKS + 1)).long().clamp_max(BINS - 1)
    counts = torch.stack([(bins == b).sum(0) for b in range(BINS)]).double()  # (bins, D)
    expected = num_data / BINS
    chi = ((counts - expected).square() / expected).sum(0)
    p = torch.special.gammaincc(torch.full_like(chi, (BINS - 1) / 2), chi / 2)
    inside = (
        ((rank >= (RANKS + 1) * 0.05) & (rank < (RANKS + 1) * 0.95))[:, active].double().mean(1)
    )
    # (RANKS + 1) * 0.05 = 3.2: ranks 4 to 60 of 64 are inside, a share that is not quite 0.9
    share = 57 / 64
    coverage = Estimate.of(inside - share + 0.9)
    spread = None
    if scores:
        spread = float(torch.cat(scores).cpu().double()[:, active].square().mean().sqrt())
    p_value = min(1.0, float(p.min()) * int(active.sum()))
    return {
        "num_data": num_data,
        "histogram": counts.sum(1).long().tolist(),
        "p_value": p_value,
        "coverage_90": coverage.to_dict(),
        "spread": spread,
        "verdict": _verdict(
            p_value,
            coverage,
            float((rank[:, active].double().mean(0) / RANKS - 0.5).abs().max()),
            num_data,
        ),
    }


def _verdict(p_value: float, coverage: Estimate, off_centre: float, num_data: int) -> str:
    if p_value > 1e-3:
        return "calibrated, as far as these simulations can tell"
    # the latter of a mean rank
    off, noise = (
        coverage.value - 0.9,
        4.5 * math.sqrt(1 / 12 / num_data),
    )
    sure = coverage.test_error is not None and abs(off) > 4 * coverage.test_error
    if not sure or off_centre > max(noise, abs(off)):
        return "q is off-centre in some dimension"
    if off < 0:
        return "q is too narrow: it is surer of z than it may be"
    return "q is too wide: z lies nearer to its mean than it says"


def encoded(
    model: Model, x: Data, context: Context | None, seed: int
) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
    """Returns for each data point one z ~ q, the mean of q, the rate of each dimension (or None),
    log q(z|x) and log p(z).
    """

    def of_block(block: Block) -> list[Tensor]:
        with stream(seed, "latents", block.number):
            draw = model.draw(block.x, context=block.context, reparameterize=False)
        rate = _rates(draw)
        with stream(seed, "means", block.number):
            one = len(draw.groups) == 1
            q = draw.groups[0].posterior if one else model.encode(block.x, block.context)
            terms = [draw.z[0], _mean(q), draw.log_posterior[0], draw.log_prior[0]]
        if rate is not None:
            terms.append(rate)
        return [t.cpu().double() for t in terms]

    parts = blocks_of(model, x, ROWS, of_block, context=context)
    z, means, log_q, log_prior, *rates = (torch.cat(p) for p in zip(*parts, strict=True))
    return z, means, rates[0] if rates else None, log_q, log_prior


def mixture(
    model: Model, x: Data, context: Context | None, z: Tensor
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Returns log q(z_n) of the aggregate posterior with and without component n, (N,), and of its
    marginals, (N, D).
    """
    device = device_of(model)
    n, (s, d) = len(x), z.shape
    joint = torch.full((2, s), -math.inf, dtype=torch.float64)
    marginal: Tensor | None = torch.full((2, s, d), -math.inf, dtype=torch.float64)
    points = z.to(device=device, dtype=torch.get_default_dtype())
    with torch.no_grad(), evaluating(model):
        for first in range(0, n, ROWS):
            here = slice(first, first + ROWS)
            values = x[here].to(device=device, dtype=torch.get_default_dtype())
            q = model.encode(values, some_of(context, here, device))
            components = marginals_of(q)
            if components is None:
                marginal = None
            own = torch.arange(first, min(first + ROWS, n))
            for low in range(0, s, ROWS):
                here = slice(low, low + ROWS)
                mine = torch.arange(low, min(low + ROWS, s))[:, None] == own  # (S, B)
                log_prob = q.log_prob(points[here, None]).cpu().double()
                _add(joint[:, here], log_prob, mine)
                if components is not None and marginal is not None:
                    by_dimension = components.log_prob(points[here, None]).cpu().double()
                    _add(marginal[:, here], by_dimension, mine[..., None])
    sizes = torch.tensor([n, n - 1], dtype=torch.float64).log()
    joint = joint - sizes[:, None]
    if marginal is None:
        return joint[0], joint[1], None, None
    marginal = marginal - sizes[:, None, None]
    return joint[0], joint[1], marginal[0], marginal[1]


def _add(total: Tensor, log_prob: Tensor, mine: Tensor) -> None:
    """Adds components (S, B, ...) to the running logarithms of their sums, (2, S, ...).

    With all, and without one's own.
    """
    total[0] = torch.logaddexp(total[0], log_prob.logsumexp(1))
    total[1] = torch.logaddexp(total[1], log_prob.masked_fill(mine, -math.inf).logsumexp(1))


def marginals_of(q: Distribution) -> Distribution | None:
    """Returns the marginals of q, batch shape (B, D), where they are known."""
    if isinstance(q, Independent) and q.reinterpreted_batch_ndims == 1:
        return q.base_dist
    if isinstance(q, MultivariateNormal):
        return Normal(q.mean, q.stddev, validate_args=False)
    return None


def _rates(draw: Draw) -> Tensor | None:
    """Returns KL(q(z_j|x), p(z_j)), (B, D), where it has a closed form."""
    rates = [_rates_of(group) for group in draw.groups]
    known = [rate for rate in rates if rate is not None]
    if len(known) < len(rates):
        return None
    return torch.cat(known, -1)


def _rates_of(group: Group) -> Tensor | None:
    prior, marginals = group.prior, marginals_of(group.posterior)
    if marginals is None or not isinstance(prior, Independent):
        return None
    try:
        rate = kl_divergence(marginals, prior.base_dist.expand(marginals.batch_shape))
    except NotImplementedError:
        return None
    if rate.dim() == 3:
        return rate.mean(0)
    return rate


def _mean(q: Distribution) -> Tensor:
    """Returns the mean of q, (B, D), by draws where it is not known."""
    try:
        return q.mean
    except NotImplementedError:
        return q.sample(torch.Size((DRAWS,))).mean(0)
