r"""Priors $p(z)$: what the latent variables look like before any datum is seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal

from taut.distributions import sphere
from taut.distributions.codebook import Quantized
from taut.distributions.codes import ChainOfCodes, Codes, check_codes
from taut.distributions.flows import Flow as FlowDistribution
from taut.distributions.mixtures import mixture
from taut.features import Features
from taut.model import Posterior, Prior
from taut.networks import check_positive, positive
from taut.networks.autoregressive import Autoregressive
from taut.networks.couplings import Couplings
from taut.networks.masked import Masked
from taut.types import Context

__all__ = [
    "AutoregressiveCategorical",
    "Codebook",
    "Flow",
    "GaussianMixture",
    "IndependentBernoulli",
    "IndependentCategorical",
    "StandardNormal",
    "UniformSphere",
    "VampPrior",
]


class StandardNormal(Prior):
    r"""Creates $p(z) = \mathcal{N}(0, I)$.

    Args:
        latent_dim: D.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent_dim))
        self.register_buffer("scale", torch.ones(latent_dim))

    def forward(self, context: Context | None = None) -> Distribution:
        return Independent(
            Normal(self.loc, self.scale, validate_args=False), 1, validate_args=False
        )


class UniformSphere(Prior):
    r"""Creates $p(z) = \Gamma(D/2) / (2 \pi^{D/2})$ on the unit sphere of D dimensions, with
    respect to its area; for a ``PowerSpherical`` posterior.

    Args:
        latent_dim: D, at least 2.

    Raises:
        ValueError: there is one latent dimension.

    References: davidson2018.
    """

    centre: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        sphere.check_dim(latent_dim)
        self.register_buffer("centre", torch.zeros(latent_dim))

    def forward(self, context: Context | None = None) -> Distribution:
        return sphere.UniformSphere(self.centre)


class IndependentBernoulli(Prior):
    r"""Creates $p(z) = \prod_j \mathrm{Bernoulli}(z_j; \sigma(\ell_j))$ with learned logits $\ell$,
    zero at first.

    Args:
        latent_dim: D, the number of bits.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(latent_dim))

    def forward(self, context: Context | None = None) -> Distribution:
        return Independent(
            Bernoulli(logits=self.logits, validate_args=False), 1, validate_args=False
        )


class IndependentCategorical(Prior):
    r"""Creates $p(z) = \prod_n \pi_n(k_n)$ of N codes of K levels each with learned probabilities,
    equal at first; z is the joined one-hot vectors.

    Args:
        codes: N.
        levels: K, at least 2.

    Raises:
        ValueError: a number is too small.
    """

    def __init__(self, codes: int, levels: int) -> None:
        super().__init__()
        check_codes(codes, levels)
        self.codes, self.levels = codes, levels
        self.logits = nn.Parameter(torch.zeros(codes, levels))

    def forward(self, context: Context | None = None) -> Distribution:
        return Codes(self.logits)


class AutoregressiveCategorical(Prior):
    r"""Creates $p(z) = \prod_n p(k_n \mid k_1, \dots, k_{n-1})$ of N codes of K levels each; z is
    the joined one-hot vectors.

    One masked network says the probabilities of all codes, each from those before it. They are
    equal at first. A density costs one pass of the network, a sample N.

    Args:
        codes: N.
        levels: K, at least 2.
        hidden: Width of each hidden layer.

    Raises:
        ValueError: a number is too small.

    References: germain2015.
    """

    def __init__(self, codes: int, levels: int, hidden: Sequence[int] = (64,)) -> None:
        super().__init__()
        check_codes(codes, levels)
        self.codes, self.levels, self.hidden = codes, levels, tuple(hidden)
        self.network = Masked(codes, levels, 0, hidden, width=levels)

    def forward(self, context: Context | None = None) -> Distribution:
        like = next(self.network.parameters())
        return ChainOfCodes(self.network, like, self.codes, self.levels)


class Codebook(Prior):
    r"""Creates $p(z) = \prod_n \pi_n(k_n)$ of N codes, each of which is one of K learned vectors of
    width W: z is $(e_{k_1}, \dots, e_{k_N})$.

    The probabilities are learned, and equal at first. The vectors belong to the generative model:
    its posterior, ``VectorQuantized``, takes them from here, and ``taut tighten`` leaves them as
    they are. They start at points of the encoder at training rows.

    Args:
        codes: N.
        levels: K, at least 2.
        width: W.

    Raises:
        ValueError: a number is too small.

    References: vandenoord2017.
    """

    def __init__(self, codes: int, levels: int, width: int) -> None:
        super().__init__()
        check_codes(codes, levels)
        check_codes(codes, width, None, "width", 1)
        self.codes, self.levels, self.width = codes, levels, width
        self.logits = nn.Parameter(torch.zeros(codes, levels))
        self.vectors = nn.Parameter(torch.randn(levels, width))

    def share(self, posterior: Posterior) -> None:
        take: Any = getattr(posterior, "take", None)
        if take is not None:
            take(self)

    def start(self, points: Tensor) -> None:
        """Starts the vectors at points, (K, W), a little apart where two are equal."""
        with torch.no_grad():
            apart = 0.01 * (points.std() + 1e-3) * torch.randn_like(points)
            self.vectors.copy_(points + apart)

    def forward(self, context: Context | None = None) -> Distribution:
        return Quantized(self.logits.log_softmax(-1), self.vectors)


class GaussianMixture(Prior):
    r"""Creates $p(z) = \sum_c \pi_c \prod_j \mathcal{N}(z_j; m_{cj}, s_{cj}^2)$ with learned
    weights, means and scales.

    It starts as components of scale 1 around points near zero: close to a standard Normal.

    Args:
        latent_dim: D.
        components: Number of components.
        min_scale: Smallest scale of a component, in units of the scales at the start: no component
            collapses to a point.

    References: tomczak2018.
    """

    def __init__(self, latent_dim: int, components: int = 20, min_scale: float = 1e-3) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"components must be at least 1, not {components}")
        self.components, self.min_scale = components, check_positive(min_scale)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(0.5 * torch.randn(components, latent_dim))
        self.raw_scale = nn.Parameter(torch.zeros(components, latent_dim))

    def forward(self, context: Context | None = None) -> Distribution:
        scale = self.min_scale + positive(self.raw_scale)
        parts = Independent(Normal(self.loc, scale, validate_args=False), 1, validate_args=False)
        return mixture(self.logits, parts)


class Flow(Prior):
    r"""Creates $p(z)$ as the law of $m + s \odot f(u)$, $u \sim \mathcal{N}(0, I)$, with learned
    layers f, means and scales: a standard Normal at first.

    Coupling layers cost the same in both directions. Autoregressive ones bend each dimension given
    all those before it: a density costs one pass, and a sample D. Training, importance sampling and
    annealing ask for densities.

    Args:
        latent_dim: D, at least 2.
        layers: Number of layers.
        hidden: Width of each hidden layer of their networks.
        bins: Bins of the splines that the layers are; 0 for affine ones.
        min_scale: Smallest scale.
        kind: What the layers are, "coupling" or "autoregressive".

    Raises:
        ValueError: there is one latent dimension, a number is too small, or the kind is unknown.

    References: dinh2017, durkan2019, papamakarios2017.
    """

    def __init__(
        self,
        latent_dim: int,
        layers: int = 4,
        hidden: Sequence[int] = (64,),
        bins: int = 8,
        min_scale: float = 1e-3,
        kind: str = "coupling",
    ) -> None:
        super().__init__()
        if kind == "coupling":
            self.couplings = Couplings(latent_dim, 0, layers, hidden, bins)
        elif kind == "autoregressive":
            self.autoregressive = Autoregressive(latent_dim, 0, layers, hidden, bins, density=True)
        else:
            raise ValueError(f"unknown kind {kind!r}: 'coupling' or 'autoregressive'")
        self.layers, self.hidden, self.bins = layers, tuple(hidden), bins
        self.min_scale, self.kind = check_positive(min_scale), kind
        self.loc = nn.Parameter(torch.zeros(latent_dim))
        self.raw_scale = nn.Parameter(torch.zeros(latent_dim))

    def forward(self, context: Context | None = None) -> Distribution:
        scale = self.min_scale + positive(self.raw_scale)
        layers = self.couplings if self.kind == "coupling" else self.autoregressive
        return FlowDistribution(self.loc, scale, None, layers)


class VampPrior(Prior):
    r"""Creates $p(z) = \frac1K \sum_k q(z \mid u_k)$, the mean posterior of K learned
    pseudo-inputs $u_k$; in a conditioned model $p(z \mid c) = \frac1K \sum_k q(z \mid u_k, c)$.

    It is made of the posterior of its model, whose encoder it shares: both are trained by the same
    bound. The pseudo-inputs are rows as the encoder sees them (``features``), in which levels of
    columns and gaps are numbers that can be learned, and start at training rows. All rows as
    pseudo-inputs make it the aggregate posterior. A density costs those of K members of q, and a
    batch K more rows of the encoder.

    What moves the encoder moves this prior, and with it log p(x). With a ``posterior`` of its own
    it stays where it is: ``taut tighten`` gives it a copy of the one that it shared.

    Args:
        components: K, at most the number of training rows.
        posterior: Makes a posterior of its own, instead of that of the model.
        event_shape: Shape of one datum, for a posterior of its own.
        latent_dim: D, likewise.
        context_dim: C, likewise.
        features: What its encoder sees of a datum, likewise.

    Raises:
        ValueError: ``components`` is not a whole number of at least 1, or the posterior does not
            say what it makes of features.

    References: tomczak2018.
    """

    pseudo_inputs: nn.Parameter

    def __init__(
        self,
        components: int = 500,
        posterior: Callable[..., Posterior] | None = None,
        event_shape: Sequence[int] = (),
        latent_dim: int = 1,
        context_dim: int = 0,
        features: Features | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(components, int) or components < 1:
            raise ValueError(f"components must be a whole number of at least 1, not {components!r}")
        self.components, self.posterior = components, posterior
        self.started = False  # at rows
        # in a tuple, or the weights of the encoder would count as the prior's own, too
        self._shared: tuple[Posterior, ...] = ()
        self.register_parameter("pseudo_inputs", None)
        self.own: Posterior | None = None
        if posterior is not None:
            self.own = posterior(
                event_shape, latent_dim, context_dim=context_dim, features=features
            )
            self._take(self.own)

    def share(self, posterior: Posterior) -> None:
        if self.own is None:
            self._take(posterior)

    def _take(self, posterior: Posterior) -> None:
        if type(posterior).parameters_seen is Posterior.parameters_seen:
            raise ValueError(
                f"a VampPrior is made of posteriors at features, and {type(posterior).__name__} "
                "has no parameters_seen(seen, context)"
            )
        self._shared = (posterior,)
        shape = (self.components, *posterior.features.out_shape)
        if self.pseudo_inputs is None or self.pseudo_inputs.shape != shape:
            self.pseudo_inputs = nn.Parameter(0.5 * torch.randn(shape))

    def start(self, seen: Tensor) -> None:
        r"""Starts the pseudo-inputs at rows as the encoder sees them, (K, \*features)."""
        with torch.no_grad():
            self.pseudo_inputs.copy_(seen)
        self.started = True

    def unshared(self) -> dict[str, Tensor]:
        """Returns the state of the same prior with a copy of the posterior as its own."""
        (posterior,) = self._shared
        own = {f"own.{name}": value for name, value in posterior.state_dict().items()}
        return {"pseudo_inputs": self.pseudo_inputs.detach(), **own}

    def forward(self, context: Context | None = None) -> Distribution:
        if not self._shared:
            raise ValueError("a VampPrior is made of the posterior of its model: make a VAE first")
        (posterior,) = self._shared
        seen: Tensor = self.pseudo_inputs
        if context is not None:
            seen = seen[:, None].expand(-1, len(context), *seen.shape[1:])
        parameters = posterior.parameters_seen(seen, context)
        if context is not None:  # components last: (B, K)
            parameters = {name: value.movedim(0, 1) for name, value in parameters.items()}
        members = posterior.distribution(parameters)
        even = self.pseudo_inputs.new_zeros(members.batch_shape)
        return mixture(even, members)
