r"""Variational diffusion: a data point is made out of noise in T steps.

A data point, as features $u$ of it, is drowned in noise, $z_t = \alpha_t u + \sigma_t \epsilon$,
with $\alpha_t^2 = \sigma(-\gamma_t)$, $\sigma_t^2 = \sigma(\gamma_t)$ and $\gamma$, minus the
log-SNR, rising from $\gamma_0$ to $\gamma_1$, both learned. That is a fixed posterior over a path,

$$ q(z \mid x) = q(z_1 \mid u) \prod_{s < t} q(z_s \mid z_t, u), $$

of Gaussians, and the prior is the same with the network's guess $\hat u(z_t)$ in the place of u,
from $z_1 \sim N(0, 1)$ on. So every rate is that of two Gaussians of equal variance:

$$ \mathrm{ELBO}_T = \mathbb{E} \log p(x \mid z_0) - \mathrm{KL}(q(z_1) \,\|\, N(0, 1)) - \tfrac12
   \sum_{s < t} (\mathrm{SNR}_s - \mathrm{SNR}_t) \, \mathbb{E} \| u - \hat u(z_t) \|^2. $$

In continuous time the sum is an integral over the log-SNR: it depends on the two ends of the
schedule and not on what lies between. The network predicts $v = (u - \alpha z) / \sigma$, in which
the weight of an error is $\alpha^2$, at most 1; a network of zeros is exact for features that are
standard normal. Of elements that have few levels it predicts which of them u is, as logits that are
added to those of the level's frequency and of its distance,

$$ \hat u_i = \sum_l g_{l} \; \mathrm{softmax}_l \Big( \log f_{il} - \frac{(z_i - \alpha g_l)^2}{2
   \sigma^2} + \text{network} \Big), $$

so that a network of zeros is exact for independent elements.

$p(x \mid z_0)$ is a likelihood of the data in the user's own units, so the whole is a density or a
mass of them.

References: sohldickstein2015, ho2020, kingma2021, salimans2022.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.nn import functional

from taut.features import Features
from taut.model import Draw, Likelihood
from taut.models.stepwise import StepwiseModel, spread
from taut.networks import Linear, Network, NetworkFactory
from taut.system.precision import wide
from taut.system.products import Affine
from taut.types import Context, Data, PerSample

__all__ = ["Diffusion"]

ROWS = 4096  # that the network sees at a time, of all steps together
WAVES = 16  # sines and cosines of the log-SNR that the network sees


class Terms(NamedTuple):
    """What one look at the ELBO finds, (K, B) each, nats."""

    log_likelihood: PerSample
    prior_rate: PerSample
    step_rate: PerSample


class Diffusion(StepwiseModel):
    r"""Creates a variational diffusion model of rows, bits, levels or the columns of a table.

    Args:
        likelihood: $p(x \mid z_0)$ of a data point given its features and a little noise.
        features: u, the data point in numbers of about unit variance.
        levels: The features of the data points all of whose elements are of one level, (L, F),
            where there are few; None for numbers.
        log_frequencies: Log-probabilities of the levels in the training data, (\*event, L).
        steps: T; None for continuous time, which has a bound and no weights.
        schedule: How $\gamma$ rises: "linear" or "cosine" in time.
        low: $\gamma_0$ at first: minus the log-SNR of $z_0$.
        high: $\gamma_1$ at first, of $z_1$.
        width: Units of a layer of the network.
        blocks: Residual blocks of the network.
        dropout: Probability that a hidden unit of a block is dropped in training.
        network: Another network, such as ``UNet`` for images: from the features in their own shape
            and, as its context, waves of the log-SNR, to (L or 1, \*features). None for a
            perceptron of ``width``, ``blocks`` and ``dropout``.

    Raises:
        ValueError: no steps, an unknown schedule, ends that do not ascend, or no network.

    References: kingma2021, salimans2022.
    """

    level: Tensor
    log_frequencies: Tensor

    fixed = (
        "its q is noise without parameters: the amortization gap is 0 by construction, there is "
        "nothing to tighten, and a path of so many numbers cannot be annealed"
    )
    why_no_code = (
        "the latent variable of Diffusion is a path of noise that ends in the row itself: there "
        "is nothing to encode or to reconstruct from; take --model VAE for an embedding"
    )

    def __init__(
        self,
        likelihood: Likelihood,
        features: Features,
        levels: Tensor | None = None,
        log_frequencies: Tensor | None = None,
        steps: int | None = 1000,
        schedule: str = "linear",
        low: float = -7.0,
        high: float = 5.0,
        width: int = 512,
        blocks: int = 3,
        dropout: float = 0.0,
        network: NetworkFactory | None = None,
    ) -> None:
        super().__init__(likelihood, features)
        if steps is not None and (not isinstance(steps, int) or steps < 1):
            raise ValueError(f"steps must be a whole number of at least 1, or None, not {steps!r}")
        if schedule not in ("linear", "cosine"):
            raise ValueError(f"unknown schedule {schedule!r}: 'linear' or 'cosine'")
        if not low < high:
            raise ValueError(f"low must be less than high, not {low} and {high}")
        if min(width, blocks) < 1:
            raise ValueError(f"width and blocks must be at least 1, not {width} and {blocks}")
        self.steps, self.schedule, self.low, self.high = steps, schedule, low, high
        self.width, self.blocks, self.dropout = width, blocks, dropout
        self.network = network
        self.dim = math.prod(features.out_shape)
        self.start = nn.Parameter(torch.tensor(float(low)))
        self.log_span = nn.Parameter(torch.tensor(math.log(high - low)))
        outputs = 1 if levels is None else len(levels)
        if levels is not None:
            if log_frequencies is None:
                log_frequencies = torch.full((self.dim, outputs), -math.log(outputs))
            self.register_buffer("level", levels.T.clone())
            self.register_buffer("log_frequencies", log_frequencies.reshape(self.dim, outputs))
        self.denoiser: nn.Module
        if network is None:
            self.denoiser = Denoiser(self.dim, outputs, width, blocks, dropout)
        else:
            self.denoiser = Shaped(network, features.out_shape, outputs)
        _begin_at_identity(likelihood, self.dim)

    # --- The noise ---

    def gamma(self, time: Tensor) -> Tensor:
        r"""Returns $\gamma_t$, minus the log-SNR, for times from 0 to 1."""
        share = time
        if self.schedule == "cosine":
            share = (0.5 * math.pi * time).sin().square()
        return self.start + self.log_span.exp() * share

    def slope(self, time: Tensor) -> Tensor:
        r"""Returns $\mathrm{d} \gamma / \mathrm{d} t$."""
        slope = torch.ones_like(time)
        if self.schedule == "cosine":
            slope = 0.5 * math.pi * (math.pi * time).sin()
        return self.log_span.exp() * slope

    @property
    def passes(self) -> int | None:
        return self.steps

    def features_of(self, x: Data) -> Tensor:
        """Returns u, (B, F)."""
        return self.seen(x).flatten(1)

    def guess(self, z: Tensor, gamma: Tensor) -> Tensor:
        r"""Returns $\hat u(z_t)$, (\*, F), of z (\*, F) at gammas (\*)."""
        return _alpha(gamma)[..., None] * z + _sigma(gamma)[..., None] * self.velocity(z, gamma)

    def velocity(self, z: Tensor, gamma: Tensor) -> Tensor:
        r"""Returns $\hat v = (\hat u - \alpha z) / \sigma$, (\*, F), likewise."""
        found: Tensor = self.denoiser(z, gamma)
        if not hasattr(self, "level"):
            return found
        alpha, sigma = _alpha(gamma)[..., None], _sigma(gamma)[..., None]
        away = (z[..., None] - alpha[..., None] * self.level) / sigma[..., None]
        logits = found.unflatten(-1, self.level.shape) + self.log_frequencies
        share = (logits - 0.5 * away.square()).softmax(-1)
        return ((share * self.level).sum(-1) - alpha * z) / sigma

    def read_out(self, z: Tensor) -> Distribution:
        r"""Returns $p(x \mid z_0)$ for z_0 (\*, B, F)."""
        return self.likelihood(z / _alpha(self.gamma(torch.zeros_like(self.start))))

    def of_steps(self, steps: int | None) -> Diffusion:
        """Returns a diffusion of the same network and parameters, of other steps."""
        twin = copy.copy(self)
        twin.steps = steps
        return twin

    # --- The bound ---

    def terms(self, x: Data, time: Tensor, noise: Tensor, last: Tensor) -> Terms:
        r"""Returns what the ELBO is made of at one time of each sample.

        Args:
            x: Data, (B, \*event).
            time: Upper end t of a step, i / T for i = 1, ..., T; any time in continuous time, (K,
                B).
            noise: $\epsilon$ of $z_t$, (K, B, F).
            last: $\epsilon$ of $z_0$, (K, B, F).
        """
        u = self.features_of(x)
        gamma = self.gamma(time)
        alpha, sigma = _alpha(gamma)[..., None], _sigma(gamma)[..., None]
        z = alpha * u + sigma * noise
        wrong = sigma * u - alpha * noise - self.velocity(z, gamma)  # v less its guess
        if self.steps is None:
            share = self.slope(time)
        else:
            share = self.steps * torch.expm1(gamma - self.gamma(time - 1 / self.steps))
        step_rate = 0.5 * share * (alpha * wrong).square().sum(-1)
        ends = self.gamma(torch.tensor([0.0, 1.0], dtype=u.dtype, device=u.device))
        first = _alpha(ends[0]) * u + _sigma(ends[0]) * last
        log_likelihood = self.read_out(first).log_prob(x)
        variance, mean = torch.sigmoid(ends[1]), _alpha(ends[1]) * u
        log_variance = functional.logsigmoid(ends[1])
        top = 0.5 * (variance + mean.square() - 1 - log_variance).sum(-1)
        return Terms(log_likelihood, top.expand_as(step_rate), step_rate)

    def times(self, place: Tensor) -> Tensor:
        """Returns the times that places between 0 and 1 stand for: ends of steps, if there are
        steps.
        """
        if self.steps is None:
            return place
        number = (place * self.steps).floor().clamp(max=self.steps - 1) + 1
        return number / self.steps

    def glance(self, x: Data, num_samples: int = 1, *, context: Context | None = None) -> Draw:
        """Returns one term of the ELBO for each sample, at one time by chance; low-discrepancy
        times.
        """
        shape = (num_samples, len(x), self.dim)
        time = self.times(spread(num_samples, len(x), self.start.detach()))
        noise, last = (torch.randn(shape, device=x.device).to(self.start) for _ in range(2))
        found = self.terms(x, time, noise, last)
        rate = found.prior_rate + found.step_rate
        nothing = torch.zeros_like(rate)
        z = torch.cat([noise, last], -1)
        return Draw(z, found.log_likelihood, -rate, nothing, (), _Unknown(x), None, complete=False)

    # --- The path ---

    def encode(self, x: Data, context: Context | None = None) -> Distribution:
        return Path(self, self.features_of(x))

    def latent_prior(self, context: Context | None = None) -> Distribution:
        return Path(self, None)

    def decode(self, z: Tensor, context: Context | None = None) -> Distribution:
        return self.read_out(z[..., -self.dim :])

    def sample(self, num_samples: int, *, context: Context | None = None) -> Tensor:
        *_, z = Path(self, None, steps=self.steps or 1000).walk(torch.Size((num_samples,)))
        return self.read_out(z).sample()


class Path(Distribution):
    r"""Creates the distribution of a path $[z_1, \dots, z_0]$ of T + 1 states, (\*, (T + 1) F).

    Args:
        model: Whose path.
        known: u, (B, F), of the posterior; None for the prior, which guesses it.
        steps: T, if not that of the model.

    Raises:
        ValueError: continuous time has no finite path.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own protocol)
    has_rsample = False

    def __init__(self, model: Diffusion, known: Tensor | None, steps: int | None = None) -> None:
        number = steps or model.steps
        if number is None:
            raise ValueError(
                "no finite path in continuous time, and so no weight: choose steps, such as "
                "Diffusion(steps=1000)"
            )
        self.model, self.known, self.steps = model, known, number
        batch = torch.Size() if known is None else known.shape[:1]
        event = torch.Size(((number + 1) * model.dim,))
        super().__init__(batch, event, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real_vector

    def expand(self, batch_shape: Any, _instance: Any = None) -> Path:
        if self.known is None:
            return _Repeated(self.model, batch_shape, self.steps)
        return Path(self.model, self.known.expand(*batch_shape, -1), self.steps)

    def gammas(self) -> Tensor:
        """Returns gamma of each state, from the top, (T + 1,)."""
        time = torch.arange(self.steps, -1, -1, device=self.model.start.device)
        return self.model.gamma(time.to(self.model.start) / self.steps)

    def _target(self, z: Tensor, gamma: Tensor) -> Tensor:
        """Returns u, or the guess of it, at states (n, *, F) of gammas (n,)."""
        if self.known is not None:
            return self.known
        return self.model.guess(z, gamma.view(-1, *[1] * (z.dim() - 2)).expand(z.shape[:-1]))

    def walk(self, shape: torch.Size) -> Iterator[Tensor]:
        r"""Yields the states from the top, (\*shape, \*batch, F)."""
        gammas, model = self.gammas(), self.model
        full = shape + self.batch_shape + torch.Size((model.dim,))

        def noise() -> Tensor:
            return torch.randn(full, device=gammas.device).to(gammas)

        with torch.no_grad():
            z = noise()
            if self.known is not None:
                z = _alpha(gammas[0]) * self.known + _sigma(gammas[0]) * z
            yield z
            for above, below in itertools.pairwise(gammas):
                keep, add, scale = transition(above, below)
                target = self.known
                if target is None:
                    target = model.guess(z, above.expand(z.shape[:-1]))
                z = keep * z + add * target + scale * noise()
                yield z

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return torch.cat(list(self.walk(torch.Size(sample_shape))), -1)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns the log-density of paths (\*, (T + 1) F), (\*), summed in double precision."""
        model, gammas = self.model, self.gammas()
        states = value.unflatten(-1, (-1, model.dim))
        top = states[..., 0, :]
        if self.known is None:
            total = wide(_log_normal(top, torch.ones_like(gammas[0]))).sum(-1)
        else:
            at = top - _alpha(gammas[0]) * self.known
            total = wide(_log_normal(at, _sigma(gammas[0]))).sum(-1)
        states = states.movedim(-2, 0)
        slab = max(1, ROWS // max(1, states[0, ..., 0].numel()))
        for first in range(0, self.steps, slab):
            last = min(first + slab, self.steps)
            above, below = gammas[first:last], gammas[first + 1 : last + 1]
            each = (-1, *[1] * (states.dim() - 1))
            keep, add, scale = (t.view(each) for t in transition(above, below))
            z, nearer = states[first:last], states[first + 1 : last + 1]
            at = nearer - keep * z - add * self._target(z, above)
            total = total + wide(_log_normal(at, scale)).sum((0, -1))
        return total


class _Repeated(Path):
    """The prior of a path, of a batch of as many independent ones."""

    def __init__(self, model: Diffusion, batch_shape: Any, steps: int) -> None:
        super().__init__(model, None, steps)
        self._batch_shape = torch.Size(batch_shape)


class _Unknown(Distribution):
    """What a glance says of single elements: nothing."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, x: Tensor) -> None:
        super().__init__(x.shape[:1], x.shape[1:], validate_args=False)


class Denoiser(nn.Module):
    """Creates the network from z_t and its log-SNR to v: a residual perceptron, zero at first.

    Args:
        dim: F.
        outputs: Numbers of each feature.
        width: Units of a layer.
        blocks: Residual blocks.
        dropout: Of the hidden units of each.
    """

    def __init__(
        self, dim: int, outputs: int, width: int, blocks: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.waves = Waves()
        self.enter = Affine(dim + 2 * WAVES, width)
        self.inner = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width + 2 * WAVES),
                Affine(width + 2 * WAVES, width),
                nn.SiLU(),
                nn.Dropout(dropout),
                Affine(width, width),
            )
            for _ in range(blocks)
        )
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), Affine(width, dim * outputs))
        for parameter in self.leave[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, z: Tensor, gamma: Tensor) -> Tensor:
        r"""Returns v or logits, (\*, F outputs), of z (\*, F) at gammas (\*)."""
        seen = self.waves(gamma).expand(*z.shape[:-1], -1)
        units = self.enter(torch.cat([z, seen], -1))
        for block in self.inner:
            units = units + block(torch.cat([units, seen], -1))
        velocity: Tensor = self.leave(units)
        return velocity


class Shaped(nn.Module):
    """Creates the denoiser of a network that sees the features in their own shape.

    Args:
        network: Makes it; the waves of the log-SNR are its context.
        shape: Shape of the features.
        outputs: Numbers of each feature.
    """

    def __init__(self, network: NetworkFactory, shape: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.shape, self.waves = tuple(shape), Waves()
        self.network = network(self.shape, (outputs, *self.shape), 2 * WAVES)

    def forward(self, z: Tensor, gamma: Tensor) -> Tensor:
        r"""Returns v or logits, (\*, F outputs), of z (\*, F) at gammas (\*)."""
        rows = z.shape[:-1]
        seen = self.waves(gamma).expand(*rows, -1).reshape(-1, 2 * WAVES)
        found: Tensor = self.network(z.reshape(-1, *self.shape), seen)
        return found.flatten(2).mT.reshape(*rows, -1)


class Waves(nn.Module):
    """Creates sines and cosines of the log-SNR, by which a network knows the time."""

    waves: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("waves", torch.logspace(-1.5, 0.5, WAVES), persistent=False)

    def forward(self, gamma: Tensor) -> Tensor:
        r"""Returns the waves of gammas (\*), (\*, 2 WAVES)."""
        angle = gamma[..., None] * self.waves
        return torch.cat([angle.sin(), angle.cos()], -1)


class Distances(Network):
    """Creates the logits of levels at a point, by its distance from each: the read-out of levels.

    What it learns is how near is near.

    Args:
        in_shape: (F,).
        out_shape: (L, *event) of F elements.
        context_dim: 0.
        levels: Where each level lies, (L, F).
        log_precision: Logarithm of the inverse square of a distance that tells nothing, at first.
    """

    level: Tensor

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        context_dim: int = 0,
        *,
        levels: Tensor,
        log_precision: float = 7.0,
    ) -> None:
        super().__init__()
        self.out_shape = tuple(out_shape)
        self.register_buffer("level", levels.clone())
        self.log_precision = nn.Parameter(torch.tensor(float(log_precision)))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        away = 0.5 * (x[..., None, :] - self.level).square()
        return (-self.log_precision.exp() * away).unflatten(-1, self.out_shape[1:])


def transition(above: Tensor, below: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Returns a, b and the scale of $q(z_s \mid z_t, u) = N(a z_t + b u, \mathrm{scale}^2)$.

    Args:
        above: $\gamma_t$.
        below: $\gamma_s$, less than it.
    """
    lost = -torch.expm1(below - above)  # 1 - SNR_t / SNR_s
    keep = (_alpha(below) / _alpha(above)) * (below - above).exp()
    return keep, _alpha(below) * lost, _sigma(below) * lost.sqrt()


def _alpha(gamma: Tensor) -> Tensor:
    return torch.sigmoid(-gamma).sqrt()


def _sigma(gamma: Tensor) -> Tensor:
    return torch.sigmoid(gamma).sqrt()


def _log_normal(x: Tensor, scale: Tensor) -> Tensor:
    return -0.5 * (x / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)


def _begin_at_identity(likelihood: Likelihood, dim: int) -> None:
    """Starts a linear read-out at the features themselves, where each is of one element."""
    decoder = getattr(likelihood, "decoder", None)
    if not isinstance(decoder, Linear) or math.prod(decoder.out_shape[1:]) != dim:
        return
    with torch.no_grad():
        decoder.map.weight.zero_()
        decoder.map.bias.zero_()
        decoder.map.weight[:dim] = torch.eye(dim)
