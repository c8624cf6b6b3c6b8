r"""The referee: what is true of a model with one or two latent dimensions, by summing over z.

$\log p(x) = \log \int p(x \mid z) p(z) \, dz$ needs no sampling where z has one or two dimensions:
the integral is a sum over cells, each by a Gauss-Legendre rule, and a cell is split until its
halves agree with it. Bits are enumerated. The densities are written here in numpy and scipy, in
float64, from the saved weights: nothing of ``taut.distributions``, ``taut.likelihoods.forward``,
``taut.priors.forward`` or of an estimator takes part, so that a fault there cannot hide here.

``Oracle(model)`` knows the decoders ``MLP``, ``Residual`` and ``Linear``, the likelihoods and
priors in ``FAMILIES`` and ``_Prior``, tables (``Columns``), gaps (NaN) and conditions. A posterior
q is given by its mean and the lower factor of its covariance (``moments_of``), as the encoder says
them.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import optimize, special, stats
from scipy.special import expit, gammaln, log_expit, logsumexp
from torch import Tensor

import taut

Array = np.ndarray
TOLERANCE = 1e-9  # share of p(x) that all splits together may still move
FAR = 1000.0  # the box of z reaches this far from zero
NODES = {1: 10, 2: 5}  # Gauss-Legendre nodes an axis of a cell
OUTSIDE = 2.0**-24  # of a family whose support ends where that of the training data does
MOST_POINTS = 4_000_000  # evaluations of the decoder for one row


def softplus(x: Array) -> Array:
    return np.logaddexp(0.0, x)


def positive(raw: Array) -> Array:
    """softplus with 1 at a raw 0."""
    return softplus(raw + math.log(math.expm1(1.0)))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "gelu": lambda x: x * stats.norm.cdf(x),
    "silu": lambda x: x * expit(x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "softplus": softplus,
}


class Saved:
    """The saved weights and arguments of one module, as float64 arrays and plain attributes."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module
        self.name = type(module).__name__

    def __getitem__(self, name: str) -> Array:
        value = getattr(self.module, name)
        return np.asarray(value.detach().double() if isinstance(value, Tensor) else value, float)

    def argument(self, name: str) -> Any:
        return getattr(self.module, name)


def network(module: torch.nn.Module, inputs: Array) -> Array:
    """Returns the outputs of an ``MLP``, ``Residual`` or ``Linear`` for inputs (G, I): (G,
    *out_shape).
    """
    state = {k: v.detach().double().numpy() for k, v in module.state_dict().items()}
    straight: Array | float = 0.0
    if isinstance(module, taut.Residual):
        straight = inputs @ state.pop("linear.weight").T + state.pop("linear.bias")
    weights = [state[k] for k in state if k.endswith("weight")]
    biases = [state[k] for k in state if k.endswith("bias")]
    activation = ACTIVATIONS[module.activation] if len(weights) > 1 else None
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        inputs = inputs @ weight.T + bias
        if activation is not None and i < len(weights) - 1:
            inputs = activation(inputs)
    return (inputs + straight).reshape(len(inputs), *module.out_shape)


# --- Likelihoods: (saved, raw (G, P, *event), x (*event), context (C,) or None) -> log-density of
# --- each element, its mean and its variance given z, each (G, *event). NaN in x is a gap.

Terms = tuple[Array, Array, Array]


def _levels(saved: Saved, shape: tuple[int, ...]) -> tuple[Array, Array]:
    low, high = (np.broadcast_to(saved[name], shape) for name in ("low", "high"))
    return low, high


def _enumerated(log_mass: Callable[[Array], Array], low: Array, high: Array) -> tuple[Array, Array]:
    """Returns mean and variance of levels from their masses."""
    first = second = np.zeros(1)
    for step in range(int((high - low).max()) + 1):
        level = low + step
        p = np.where(level <= high, np.exp(log_mass(level)), 0.0)
        first, second = first + p * level, second + p * level**2
    return first, second - first**2


def bernoulli(saved: Saved, raw: Array, x: Array, context: Array | None) -> Terms:
    logits = raw[:, 0] + saved["offset"]
    p = expit(logits)
    return log_expit(np.where(x > 0.5, logits, -logits)), p, p * (1 - p)


def categorical(saved: Saved, raw: Array, x: Array, context: Array | None) -> Terms:
    logits = np.moveaxis(raw, 1, -1) + saved["offset"]
    log_p = logits - logsumexp(logits, axis=-1, keepdims=True)
    low, _ = _levels(saved, x.shape)
    index = np.broadcast_to((np.nan_to_num(x, nan=0.0) - low).clip(0).astype(int), log_p.shape[:-1])
    levels = low[..., None] + np.arange(log_p.shape[-1])
    mean = (np.exp(log_p) * levels).sum(-1)
    variance = (np.exp(log_p) * levels**2).sum(-1) - mean**2
    return np.take_along_axis(log_p, index[..., None], -1)[..., 0], mean, variance


def discretized_logistic(saved: Saved, raw: Array, x: Array, context: Array | None) -> Terms:
    low, high = _levels(saved, x.shape)
    loc, scale, min_scale = saved["data_loc"], saved["data_scale"], saved.argument("min_scale")
    k = saved.argument("components")
    parts = raw[:, None] if k == 1 else np.moveaxis(raw.reshape(len(raw), 3, k, *x.shape), 1, 2)
    log_weight = np.zeros((len(raw), 1, *x.shape))
    if k > 1:
        log_weight = parts[:, :, 2] - logsumexp(parts[:, :, 2], axis=1, keepdims=True)
    start = special.logit((np.arange(k) + 0.5) / k).reshape(k, *(1 for _ in x.shape))
    m = loc + scale * (parts[:, :, 0] + (start if k > 1 else 0.0))
    s = min_scale + 0.5 * scale * positive(parts[:, :, 1])

    def log_mass(level: Array) -> Array:
        upper, lower = (level + 0.5 - m) / s, (level - 0.5 - m) / s
        inner = log_expit(upper) + log_expit(-lower) + np.log(-np.expm1(-1 / s))
        ends = np.where(level <= low, log_expit(upper), log_expit(-lower))
        mass = np.where((level > low) & (level < high), inner, ends)
        return logsumexp(np.where(low == high, 0.0, mass) + log_weight, axis=1)

    # Each end leaves a small share of itself to the integers beyond it, and all of it to noise.
    whole = np.rint(x)
    inside = np.clip(whole, low, high)
    d = np.abs(whole - inside)
    rest = np.log(1 - OUTSIDE * ((inside == low).astype(float) + (inside == high)))
    with np.errstate(divide="ignore"):
        beyond = np.log(4 * OUTSIDE) - np.log(d * (d + 1) * (d + 2))
    noise = np.where(x == whole, np.log1p(-OUTSIDE), np.log(OUTSIDE))
    log_p = log_mass(inside) + np.where(d > 0, beyond, rest) + noise
    return log_p, *_enumerated(log_mass, low, high)


def _lines(x: Array, y: Array, bend: bool, value: float) -> tuple[float, float]:
    """Returns the height and the slope of a warp: lines between its knots, of log x
    where x grows.
    """
    place = int(np.clip(np.searchsorted(x, value, "right") - 1, 0, len(x) - 2))
    x0, x1, y0, y1 = x[place], x[place + 1], y[place], y[place + 1]
    if bend and x0 > 0 and x1 > 1.5 * x0:
        growth = math.log(x1 / x0)
        if value <= x0:
            slope = (y1 - y0) / (x0 * growth)
            return y0 + slope * (value - x0), slope
        return y0 + (y1 - y0) * math.log(value / x0) / growth, (y1 - y0) / (value * growth)
    slope = (y1 - y0) / (x1 - x0) if x1 > x0 else math.nan
    return y0 + slope * (value - x0), slope


def _warped_element(saved: Saved, i: tuple[int, ...], value: float, m: Array, s: Array) -> Array:
    """Returns the log-probability of one element for all z."""
    knots = saved["knots"][i]
    x, y = knots[:, np.isfinite(knots[0])]
    low, high = float(saved["low"][i]), float(saved["high"][i])
    levels, bend = saved.argument("whole"), saved.argument("bends") or not saved.argument("whole")
    near = float(np.rint(value)) if levels else value
    inside = min(max(near, low), high)
    sides = math.isfinite(low) + math.isfinite(high)
    first, last = -math.inf, math.inf  # between which heights a value must lie
    if levels:
        lower = -math.inf if inside <= low else _lines(x, y, bend, inside - 0.5)[0]
        upper = math.inf if inside >= high else _lines(x, y, bend, inside + 0.5)[0]
    else:
        at = np.flatnonzero(x == inside)
        if len(at) > 1:
            lower = -math.inf if inside <= low else float(y[at[0]])
            upper = math.inf if inside >= high else float(y[at[-1]])
        else:
            lower = upper = _lines(x, y, True, inside)[0]
        if math.isfinite(low) and x[0] < x[1]:
            first = float(y[0])
        if math.isfinite(high) and x[-1] > x[-2]:
            last = float(y[-1])

    def log_between(a: float, b: float) -> Array:
        below = log_expit((b - m) / s) if math.isfinite(b) else np.zeros_like(m)
        above = log_expit(-(a - m) / s) if math.isfinite(a) else np.zeros_like(m)
        gap = np.log(-np.expm1(-(b - a) / s)) if math.isfinite(b - a) else 0.0
        return below + above + gap

    if lower == upper:
        t = (lower - m) / s
        slope = _lines(x, y, True, inside)[1]
        log_p = log_expit(t) + log_expit(-t) - np.log(s) + math.log(slope)
    else:
        log_p = log_between(lower, upper)
    log_p = log_p - log_between(first, last)
    d = abs(near - inside)
    if d > 0 and levels:
        log_p = np.full_like(m, math.log(4 * OUTSIDE / (d * (d + 1) * (d + 2)) / sides))
    elif d > 0:
        width = x[-1] - x[0]
        density = 2 / (math.pi * width * (1 + (d / width) ** 2))
        log_p = np.full_like(m, math.log(OUTSIDE * density / sides))
    elif sides:
        log_p = log_p + math.log1p(-OUTSIDE)
    if levels:
        log_p = log_p + (math.log1p(-OUTSIDE) if value == near else math.log(OUTSIDE))
    return log_p


def warped(saved: Saved, raw: Array, x: Array, context: Array | None) -> Terms:
    """Mean and variance are left open (NaN): nothing here asks for them."""
    least = saved.argument("min_scale")
    m, s = 1.8 * raw[:, 0], least + (1 - least) * positive(raw[:, 1])
    log_p = np.zeros(m.shape)
    for i in np.ndindex(x.shape):
        each = (slice(None), *i)
        if not math.isnan(x[i]):
            log_p[each] = _warped_element(saved, i, float(x[i]), m[each], s[each])
    unknown = np.full(m.shape, math.nan)
    return log_p, unknown, unknown


def gridded(saved: Saved, raw: Array, x: Array, context: Array | None) -> Terms:
    """The probability of the cell of each number, over its width unless it is an atom."""
    start, step, atoms = (saved[name] for name in ("start", "step", "atoms"))
    place = (x - start) / step
    near = np.rint(place)
    log_p, *unknown = warped(saved, raw, near, context)
    atom = (near[..., None] == atoms).any(-1)
    share = np.where(atom, math.log1p(-OUTSIDE), -np.log(step))
    between = atom & (np.abs(place - near) > 1e-3)
    share = np.where(between, math.log(OUTSIDE) - np.log(step), share)
    return log_p + np.where(np.isnan(x), 0.0, share), *unknown


def binomial(saved: Saved, raw: Array, x: Array, context: Array | None) -> Terms:
    low, high = _levels(saved, x.shape)
    logits, n = raw[:, 0] + saved["offset"], high - low
    k, p = x - low, expit(logits)
    choices = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    log_p = choices + k * log_expit(logits) + (n - k) * log_expit(-logits)
    return log_p, low + n * p, n * p * (1 - p)


def ordinal(saved: Saved, raw: Array, x: Array, context: Array | None) -> Terms:
    low, high = _levels(saved, x.shape)
    loc = positive(saved["raw_scale"]) * raw[:, 0]
    raw_cut = saved["raw_cutpoints"]
    cut = np.concatenate([raw_cut[..., :1], softplus(raw_cut[..., 1:])], -1).cumsum(-1)
    cut = np.where(saved["present"] > 0, cut, np.inf)

    def log_mass(level: Array) -> Array:
        edges = np.concatenate([np.full((*cut.shape[:-1], 1), -np.inf), cut,
                                np.full((*cut.shape[:-1], 1), np.inf)], -1)  # fmt: skip
        index = np.broadcast_to((level - low).astype(int)[..., None], (*x.shape, 1))
        lower, upper = (np.take_along_axis(edges, index + i, -1)[..., 0] for i in (0, 1))
        with np.errstate(divide="ignore"):
            return np.log(expit(upper - loc) - expit(lower - loc))

    present = np.where(np.isnan(x), low, x)
    return log_mass(present), *_enumerated(log_mass, low, high)


def _count_mean(saved: Saved, raw: Array, context: Array | None) -> Array:
    log_mean = np.log(saved["data_loc"]) + saved["known"] * raw
    if saved.argument("library"):
        assert context is not None
        log_mean = log_mean + context[0]
    return log_mean


def poisson(saved: Saved, raw: Array, x: Array, context: Array | None) -> Terms:
    log_rate = _count_mean(saved, raw[:, 0], context)
    rate = np.exp(log_rate)
    return x * log_rate - rate - gammaln(x + 1), rate, rate


def negative_binomial(saved: Saved, raw: Array, x: Array, context: Array | None) -> Terms:
    log_mean = _count_mean(saved, raw[:, 0], context)
    log_r = np.broadcast_to(10.0 * saved["raw_concentration"], log_mean.shape)
    if saved.argument("dispersion") == "per_datum":
        log_r = log_r + raw[:, -1]
    r, d = np.exp(log_r), log_mean - log_r
    # Gamma(x + r) / Gamma(r) as a product where the difference of two large numbers would cancel
    rising = np.where(r < 1e6, gammaln(x + r) - gammaln(r) - x * log_r,
                      (x + r - 0.5) * np.log1p(x / r) - x - x / (12 * r * (x + r)))  # fmt: skip
    log_p = rising - gammaln(x + 1) + x * log_mean - (x + r) * softplus(d)
    mean = np.exp(log_mean)
    return log_p, mean, mean + mean**2 / r


def zero_inflated(saved: Saved, raw: Array, x: Array, context: Array | None) -> Terms:
    base, mean, variance = negative_binomial(saved, raw, x, context)
    logits = raw[:, 1] + math.log(0.01 / 0.99)
    share = expit(logits)
    mixed = np.where(x == 0, np.logaddexp(log_expit(logits), log_expit(-logits) + base),
                     log_expit(-logits) + base)  # fmt: skip
    return mixed, (1 - share) * mean, (1 - share) * (variance + share * mean**2)


def _scale(saved: Saved, raw: Array, event: tuple[int, ...]) -> tuple[Array, Array]:
    """Returns the unit of a location and the learned scale of the four choices, (G, *event)."""
    learned = Saved(saved.argument("learned"))
    if learned.argument("raw") is not None:
        raw_scale = learned["raw"]
    elif learned.argument("choice") == "per_entry":
        raw_scale = raw[:, -1]
    else:
        raw_scale = raw[:, -1].mean(tuple(range(1, 1 + len(event))), keepdims=True)
    scale = learned["unit"] * (learned.argument("min_scale") + positive(raw_scale))
    return learned["unit"], np.broadcast_to(scale, (len(raw), *event))


def normal(saved: Saved, raw: Array, x: Array, context: Array | None) -> Terms:
    unit, kind = saved["data_scale"], saved.argument("scale")
    loc = saved["data_loc"] + unit * raw[:, 0]
    if not isinstance(kind, str):
        scale = np.full(loc.shape, float(kind))
    elif kind == "per_datum":
        axes = tuple(range(1, 1 + x.ndim))
        scale = unit * (saved.argument("min_scale") + positive(raw[:, 1].mean(axes, keepdims=True)))
    elif kind == "per_entry":
        scale = unit * (saved.argument("min_scale") + positive(raw[:, 1]))
    else:
        scale = unit * (saved.argument("min_scale") + positive(saved["raw_scale"]))
    scale = np.broadcast_to(scale, loc.shape)
    return stats.norm.logpdf(x, loc, scale), loc, scale**2


def log_normal(saved: Saved, raw: Array, x: Array, context: Array | None) -> Terms:
    unit, scale = _scale(saved, raw, x.shape)
    loc = saved["log_loc"] + unit * raw[:, 0]
    mean = np.exp(loc + scale**2 / 2)
    above = np.log1p(-OUTSIDE) + stats.norm.logpdf(np.log(x), loc, scale) - np.log(x)
    below = np.log(2 * OUTSIDE) - loc - 3 * np.log1p(-x * np.exp(-loc))
    return np.where(x > 0, above, below), mean, np.expm1(scale**2) * mean**2


def student_t(saved: Saved, raw: Array, x: Array, context: Array | None) -> Terms:
    unit, scale = _scale(saved, raw, x.shape)
    loc, df = saved["data_loc"] + unit * raw[:, 0], 2 + 8 * positive(saved["raw_df"])
    scale = math.sqrt(0.8) * scale
    y = (x - loc) / scale
    constant = gammaln((df + 1) / 2) - gammaln(df / 2) - 0.5 * np.log(math.pi * df)
    # log1p(y^2 / df) without overflow for entries of any size
    tail = np.where(np.abs(y) > 1e8, 2 * np.log(np.maximum(np.abs(y), 1)) - np.log(df),
                    np.log1p(np.minimum(np.abs(y), 1e8) ** 2 / df))  # fmt: skip
    log_p = constant - np.log(scale) - (df + 1) / 2 * tail
    return log_p, loc, np.broadcast_to(scale**2 * df / (df - 2), loc.shape)


def continuous_bernoulli(saved: Saved, raw: Array, x: Array, context: Array | None) -> Terms:
    logits = raw[:, 0]
    near = np.abs(logits) < 1e-3
    safe = np.where(near, 1.0, logits)
    log_norm = np.where(near, -logits / 2 - logits**2 / 24,
                        np.log(np.abs(safe)) - np.log(np.abs(np.expm1(-np.abs(safe))))
                        - np.maximum(safe, 0))  # fmt: skip
    mean = np.where(near, 0.5 + logits / 12, 1 / -np.expm1(-safe) - 1 / safe)
    second = np.where(near, 1 / 12, 1 / safe**2 - 1 / (4 * np.sinh(safe / 2) ** 2))
    return logits * x + log_norm, mean, second


FAMILIES: dict[str, Callable[[Saved, Array, Array, Array | None], Terms]] = {
    "Bernoulli": bernoulli,
    "Categorical": categorical,
    "DiscretizedLogistic": discretized_logistic,
    "Binomial": binomial,
    "Ordinal": ordinal,
    "Poisson": poisson,
    "NegativeBinomial": negative_binomial,
    "ZeroInflatedNegativeBinomial": zero_inflated,
    "Normal": normal,
    "LogNormal": log_normal,
    "StudentT": student_t,
    "ContinuousBernoulli": continuous_bernoulli,
    "WarpedCounts": warped,
    "WarpedGrid": gridded,
    "WarpedLevels": warped,
    "WarpedLogistic": warped,
}


class Oracle:
    """Creates the referee of a trained ``VAE``; everything it says is of one row, in nats."""

    def __init__(self, model: taut.VAE) -> None:
        self.model = copy.deepcopy(model).double().eval()
        self.likelihood, self.prior = self.model.likelihood, Saved(self.model.prior)
        self.dim = self.model.likelihood.decoder.in_shape[0]
        if self.prior.name != "IndependentBernoulli" and self.dim not in NODES:
            raise ValueError(f"a sum over z needs one or two latent dimensions, not {self.dim}")
        self._decoded: tuple[bytes, Array] | None = None

    # What is summed

    def log_prior(self, z: Array) -> Array:
        """log p(z) for z (G, D): (G,)."""
        if self.prior.name == "StandardNormal":
            return stats.norm.logpdf(z).sum(-1)
        if self.prior.name == "IndependentBernoulli":
            logits = self.prior["logits"]
            return log_expit(np.where(z > 0.5, logits, -logits)).sum(-1)
        assert self.prior.name == "GaussianMixture", self.prior.name
        log_weight = self.prior["logits"] - logsumexp(self.prior["logits"])
        loc, scale = self.prior["loc"], positive(self.prior["raw_scale"])
        if hasattr(self.prior.module, "min_scale"):
            scale = scale + self.prior.argument("min_scale")
        each = stats.norm.logpdf(z[:, None], loc, scale).sum(-1)
        return logsumexp(log_weight + each, axis=-1)

    def terms(self, z: Array, x: Array) -> Terms:
        """Log-density of each element given z, its mean and variance, (G, *event); 0 at gaps."""
        x, context = self._split(x)
        inputs = z
        if context is not None:
            inputs = np.concatenate([z, np.broadcast_to(context, (len(z), len(context)))], 1)
        raw = network(self.likelihood.decoder, inputs)
        with np.errstate(all="ignore"):
            if type(self.likelihood).__name__ != "Columns":
                parts = FAMILIES[type(self.likelihood).__name__](
                    Saved(self.likelihood), raw, x, context
                )
            else:
                parts = self._columns(raw, x, context)
        log_p = np.where(np.isnan(x), 0.0, parts[0])
        return log_p, parts[1], parts[2]

    def _columns(self, raw: Array, x: Array, context: Array | None) -> Terms:
        result = tuple(np.zeros((len(raw), len(x))) for _ in range(3))
        start = 0
        for (_, index, _), part, size in zip(
            self.likelihood.groups, self.likelihood.parts, self.likelihood.sizes, strict=True
        ):
            shape = part.decoder.out_shape
            own = raw[:, start : start + size].reshape(len(raw), *shape)
            values = FAMILIES[type(part).__name__](Saved(part), own, x[index], context)
            for whole, here in zip(result, values, strict=True):
                whole[:, index] = here
            start += size
        return result[0], result[1], result[2]

    def _split(self, x: Array) -> tuple[Array, Array | None]:
        rest, context = self.model.split(torch.as_tensor(x, dtype=torch.float64)[None])
        return rest[0].numpy(), None if context is None else context[0].detach().numpy()

    def log_joint(self, z: Array, x: Array) -> Array:
        """log p(x, z) for z (G, D): (G,)."""
        log_p = self.terms(z, x)[0]
        return log_p.reshape(len(z), -1).sum(-1) + self.log_prior(z)

    # How it is summed

    def posterior(self, x: Array) -> tuple[Array, Array, float]:
        """Points z (G, D), their log-shares of p(z|x), which sum to 1, and log p(x)."""
        x = np.asarray(x, float)
        if self.prior.name == "IndependentBernoulli":
            z = np.array(list(itertools.product((0.0, 1.0), repeat=self.dim)))
            log_f = self.log_joint(z, x)
            return z, log_f - logsumexp(log_f), float(logsumexp(log_f))
        # A sum over cells can miss a narrow peak between its points and invents none. So it is
        # taken twice, over z as it is and in the units of the highest peak, and the larger stands.
        plain = self._sum(x, np.zeros(self.dim), np.eye(self.dim))
        near = self._sum(x, *self._peak(x, plain[0][plain[1].argmax()]))
        return max(plain, near, key=lambda result: result[2])

    def _sum(self, x: Array, center: Array, unit: Array) -> tuple[Array, Array, float]:
        """Sums over z = center + unit u, cell by cell of u."""

        def values_of(low: Array, high: Array) -> tuple[Array, Array]:
            points = center + _points(low, high) @ unit.T
            log_f = self.log_joint(points.reshape(-1, self.dim), x).reshape(len(low), -1)
            log_size = np.log(high - low).sum(1) + np.linalg.slogdet(unit)[1]
            return points, log_f + _log_rule(self.dim) + log_size[:, None]

        low, high = _first_cells(self.dim)
        points, values = values_of(low, high)
        done: list[tuple[Array, Array]] = []
        spent, log_cells = values.size, logsumexp(values, axis=1)
        total = float(logsumexp(log_cells))
        while len(low):
            # A cell is split where it may matter: its largest value, over all of it, is not
            # negligible beside the whole.
            peak = (values - _log_rule(self.dim)).max(1)
            matters = peak > total + math.log(TOLERANCE / len(values))
            done.append((points[~matters].reshape(-1, self.dim), values[~matters].ravel()))
            parents = log_cells[matters]
            low, high = _halves(low[matters], high[matters])
            if not len(low):
                break
            points, values = values_of(low, high)
            spent += values.size
            if spent > MOST_POINTS:
                raise ArithmeticError("the sum over z did not settle")
            log_cells = logsumexp(values, axis=1)
            children = logsumexp(log_cells.reshape(2**self.dim, -1), axis=0)
            rest = logsumexp(np.concatenate([v for _, v in done]))
            total = float(np.logaddexp(rest, logsumexp(log_cells)))
            with np.errstate(over="ignore"):  # of a parent that was far too large
                moved = np.abs(np.exp(children - total) - np.exp(parents - total))
            settled = np.tile(moved < TOLERANCE / 100, 2**self.dim)
            done.append((points[settled].reshape(-1, self.dim), values[settled].ravel()))
            low, high, log_cells = low[~settled], high[~settled], log_cells[~settled]
            points, values = points[~settled], values[~settled]
        z = np.concatenate([p for p, _ in done])
        log_f = np.concatenate([v for _, v in done])
        total = float(logsumexp(log_f))
        keep = log_f > total - 60
        return z[keep], log_f[keep] - total, total

    def _peak(self, x: Array, start: Array) -> tuple[Array, Array]:
        """Returns the highest point of log p(x, z) near a start and a unit of length there."""

        def height(z: Array) -> float:
            return float(self.log_joint(z[None], x)[0])

        options = {"xatol": 1e-10, "fatol": 1e-9, "maxiter": 2000}
        best = optimize.minimize(lambda z: -height(z), start, method="Nelder-Mead", options=options)
        top, steps = best.x, np.ones(self.dim)
        for i, axis in enumerate(np.eye(self.dim)):
            while -best.fun - height(top + steps[i] * axis) > 0.5 and steps[i] > 1e-12:
                steps[i] /= 2
        precision = np.empty((self.dim, self.dim))
        for i, j in itertools.product(range(self.dim), repeat=2):
            a, b = steps[i] * np.eye(self.dim)[i], steps[j] * np.eye(self.dim)[j]
            twice = height(top + a + b) - height(top + a - b) - height(top - a + b)
            precision[i, j] = -(twice + height(top - a - b)) / (4 * steps[i] * steps[j])
        size, axes = np.linalg.eigh((precision + precision.T) / 2)
        return top, axes / np.sqrt(np.maximum(size, 1e-6 * max(size.max(), 1.0)))

    # What it says

    def log_evidence(self, x: Array | Tensor) -> float:
        """log p(x)."""
        return self.posterior(np.asarray(x, float))[2]

    def log_conditional(self, x: Array | Tensor, columns: Any) -> float:
        """log p(x_A | x_B) of the columns A given all others that are there."""
        whole = np.asarray(x, float)
        rest = whole.copy()
        rest[columns] = np.nan
        return self.log_evidence(whole) - self.log_evidence(rest)

    def posterior_moments(self, x: Array | Tensor) -> tuple[Array, Array]:
        """Mean (D,) and covariance (D, D) of p(z|x)."""
        z, log_share, _ = self.posterior(np.asarray(x, float))
        share = np.exp(log_share)[:, None]
        mean = (share * z).sum(0)
        return mean, ((z - mean) * share).T @ (z - mean)

    def information(self, x: Array | Tensor) -> float:
        """KL(p(z|x), p(z))."""
        z, log_share, log_p = self.posterior(np.asarray(x, float))
        log_likelihood = self.log_joint(z, np.asarray(x, float)) - self.log_prior(z)
        return float((np.exp(log_share) * log_likelihood).sum() - log_p)

    def predictive(self, x: Array | Tensor) -> tuple[Array, Array]:
        """Mean and variance of every element given those that are there, (*event) each."""
        z, log_share, _ = self.posterior(np.asarray(x, float))
        _, mean, variance = self.terms(z, np.asarray(x, float))
        share = np.exp(log_share).reshape(-1, *(1 for _ in mean.shape[1:]))
        center = (share * mean).sum(0)
        return center, (share * (variance + (mean - center) ** 2)).sum(0)

    def elbo(self, x: Array | Tensor, loc: Array, scale_tril: Array, nodes: int = 48) -> float:
        """The ELBO of a Gaussian q with a mean (D,) and a lower factor (D, D)."""
        z, weight, log_q = _under_gaussian(loc, scale_tril, nodes)
        return float((weight * (self.log_joint(z, np.asarray(x, float)) - log_q)).sum())

    def rate(self, loc: Array, scale_tril: Array, nodes: int = 48) -> float:
        """KL(q, p(z)) of a Gaussian q."""
        z, weight, log_q = _under_gaussian(loc, scale_tril, nodes)
        return float((weight * (log_q - self.log_prior(z))).sum())

    def moments_of(self, x: Array | Tensor) -> tuple[Array, Array]:
        """Mean (D,) and lower factor (D, D) of the model's own q(z|x)."""
        q = self.model.encode(torch.as_tensor(np.asarray(x, float))[None])
        if hasattr(q, "scale_tril"):
            return q.mean[0].detach().numpy(), q.scale_tril[0].detach().numpy()
        return q.mean[0].detach().numpy(), np.diag(q.stddev[0].detach().numpy())


def _first_cells(dim: int) -> tuple[Array, Array]:
    """Lower and upper corners of the cells to begin with: narrow near zero, wide far from it."""
    near = 8.0 if dim == 1 else 6.0
    width = 0.1 if dim == 1 else 0.5
    half = np.arange(0, near + width / 2, width)
    far = near * (FAR / near) ** (np.arange(1, 19) / 18)
    edges = np.concatenate([-far[::-1], -half[:0:-1], half, far])
    axes = [np.stack(np.meshgrid(*[e] * dim, indexing="ij"), -1).reshape(-1, dim)
            for e in (edges[:-1], edges[1:])]  # fmt: skip
    return axes[0], axes[1]


def _rule(dim: int) -> tuple[Array, Array]:
    nodes, weights = np.polynomial.legendre.leggauss(NODES[dim])
    z = np.stack(np.meshgrid(*[(nodes + 1) / 2] * dim, indexing="ij"), -1).reshape(-1, dim)
    w = np.stack(np.meshgrid(*[weights / 2] * dim, indexing="ij"), -1).reshape(-1, dim)
    return z, w.prod(1)


def _log_rule(dim: int) -> Array:
    return np.log(_rule(dim)[1])


def _points(low: Array, high: Array) -> Array:
    return low[:, None] + (high - low)[:, None] * _rule(low.shape[1])[0]


def _halves(low: Array, high: Array) -> tuple[Array, Array]:
    """The 2^D parts of each cell, part by part: the cells of one part stand together."""
    middle = (low + high) / 2
    lows, highs = [], []
    for side in itertools.product((False, True), repeat=low.shape[1]):
        lows.append(np.where(side, middle, low))
        highs.append(np.where(side, high, middle))
    return np.concatenate(lows), np.concatenate(highs)


def _under_gaussian(loc: Array, scale_tril: Array, nodes: int) -> tuple[Array, Array, Array]:
    """Gauss-Hermite points (G, D) of a Gaussian, their weights and its log-density there."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    dim = len(loc)
    noise = np.stack(np.meshgrid(*[x] * dim, indexing="ij"), -1).reshape(-1, dim)
    weight = np.stack(np.meshgrid(*[w] * dim, indexing="ij"), -1).reshape(-1, dim).prod(1)
    log_q = stats.norm.logpdf(noise).sum(-1) - np.log(np.abs(np.diag(scale_tril))).sum()
    return loc + noise @ scale_tril.T, weight / weight.sum(), log_q
