r"""Approximate posteriors $q(z \mid x)$: amortized inference, one encoder for all data.

Each takes the class of a network (or a ``functools.partial`` of one) as ``encoder``, which sees the
``features`` of x: by default x standardized with the location and scale of the training data.

An encoder says nothing sensible of rows far from those it was trained on, but what it says stays a
distribution that can be drawn from: it sees no difference beyond ``features.FAR`` standard
deviations, and the scales of a Gaussian have a floor, ``min_scale``. Without it they would shrink
until all samples are equal, which looks just like the exact posterior.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, MultivariateNormal, Normal
from torch.nn import functional

from taut.autoregressive import Autoregressive
from taut.couplings import Couplings
from taut.distributions import sphere
from taut.distributions.codebook import Quantized
from taut.distributions.codes import Codes, check_codes
from taut.distributions.flows import Flow
from taut.features import Features, Standardize
from taut.model import Posterior
from taut.networks import MLP, Network, NetworkFactory, positive
from taut.types import Context

__all__ = [
    "Categorical",
    "CouplingFlow",
    "DiagonalNormal",
    "FullCovarianceNormal",
    "IndependentBernoulli",
    "InverseAutoregressive",
    "PowerSpherical",
    "VectorQuantized",
]

MIN_SCALE = 1e-4
# largest correlation of rounding errors: with it float32 knows the noise of a sample to a
# thousandth
STEEP = 1e4


def _scale(raw: Tensor, loc: Tensor, min_scale: float) -> Tensor:
    """Returns positive scales that are at least ``min_scale`` of the prior's unit, and of the
    distance from its centre.

    The second keeps samples apart from each other in the precision of numbers as large as their
    mean.
    """
    return positive(raw) + min_scale * (1 + loc.abs())


def _positive(value: float, name: str = "min_scale") -> float:
    if not value > 0:
        raise ValueError(f"{name} must be positive, not {value}")
    return value


class Categorical(Posterior):
    r"""Creates $q(z \mid x) = \prod_n \pi_n(k_n; x)$ of N codes of K levels each, of which z is the
    joined one-hot vectors, $D = N K$: not to be reparameterized.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D; it follows from the codes and levels.
        encoder: Network from x to the logits of each code, (N, K).
        context_dim: C.
        data_loc: Mean of the training data, in the user's units.
        data_scale: Standard deviation of the training data, likewise.
        features: What the encoder sees of a datum, instead of its standardized values.
        codes: N.
        levels: K, at least 2.

    Raises:
        ValueError: a number is too small, or ``latent_dim`` is not N K.

    References: jang2017, maddison2017.
    """

    usual_prior = "IndependentCategorical()"

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int | None = None,
        encoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float = 0.0,
        data_scale: Tensor | float = 1.0,
        features: Features | None = None,
        codes: int = 20,
        levels: int = 10,
    ) -> None:
        super().__init__()
        check_codes(codes, levels, latent_dim)
        self.codes, self.levels = codes, levels
        self.features = features or Standardize(event_shape, data_loc, data_scale)
        self.encoder = encoder(self.features.out_shape, (codes, levels), context_dim)

    @classmethod
    def sizes(cls, codes: Any = 20, levels: Any = 10, **others: Any) -> dict[str, int]:
        if not (isinstance(codes, int) and isinstance(levels, int)):
            return {}  # the constructor says what is wrong
        return {"latent_dim": codes * levels, "codes": codes, "levels": levels}

    def parameters_seen(self, seen: Tensor, context: Context | None = None) -> dict[str, Tensor]:
        return {"logits": self.encoder(seen, context)}

    def distribution(self, parameters: dict[str, Tensor]) -> Distribution:
        return Codes(parameters["logits"])


class DiagonalNormal(Posterior):
    r"""Creates $q(z \mid x) = \mathcal{N}(m(x), \mathrm{diag}(s(x)^2))$, the mean-field Gaussian.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D.
        encoder: Network from x to (m, raw s), (2, D).
        context_dim: C.
        data_loc: Mean of the training data, in the user's units.
        data_scale: Standard deviation of the training data, likewise.
        features: What the encoder sees of a datum, instead of its standardized values.
        min_scale: Smallest scale, in units of the prior and of the mean's distance from its centre.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        encoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float = 0.0,
        data_scale: Tensor | float = 1.0,
        features: Features | None = None,
        min_scale: float = MIN_SCALE,
    ) -> None:
        super().__init__()
        self.latent_dim, self.min_scale = latent_dim, _positive(min_scale)
        self.features = features or Standardize(event_shape, data_loc, data_scale)
        self.encoder = encoder(self.features.out_shape, (2, latent_dim), context_dim)

    def parameters_seen(self, seen: Tensor, context: Context | None = None) -> dict[str, Tensor]:
        loc, raw_scale = self.encoder(seen, context).unbind(-2)
        return {"loc": loc, "scale": _scale(raw_scale, loc, self.min_scale)}

    def distribution(self, parameters: dict[str, Tensor]) -> Distribution:
        normal = Normal(parameters["loc"], parameters["scale"], validate_args=False)
        return Independent(normal, 1, validate_args=False)


class FullCovarianceNormal(Posterior):
    r"""Creates $q(z \mid x) = \mathcal{N}(m(x), L(x) L(x)^\top)$ with a lower-triangular $L$ of
    positive diagonal.

    The density of z needs $L^{-1} (z - m)$. An entry of L that is huge beside the diagonal entries
    of its row and its column makes that a difference of large numbers, so entries are bounded by
    their product, smoothly and far above what data ask for.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D.
        encoder: Network from x to D means, D raw diagonal and D(D-1)/2 lower entries of L.
        context_dim: C.
        data_loc: Mean of the training data, in the user's units.
        data_scale: Standard deviation of the training data, likewise.
        features: What the encoder sees of a datum, instead of its standardized values.
        min_scale: Smallest scale, in units of the prior and of the mean's distance from its centre.
    """

    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        encoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float = 0.0,
        data_scale: Tensor | float = 1.0,
        features: Features | None = None,
        min_scale: float = MIN_SCALE,
    ) -> None:
        super().__init__()
        self.latent_dim, self.min_scale = latent_dim, _positive(min_scale)
        self.features = features or Standardize(event_shape, data_loc, data_scale)
        rows, columns = torch.tril_indices(latent_dim, latent_dim, offset=-1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.encoder = encoder(self.features.out_shape, (2 * latent_dim + len(rows),), context_dim)

    def parameters_seen(self, seen: Tensor, context: Context | None = None) -> dict[str, Tensor]:
        d = self.latent_dim
        loc, raw_diagonal, lower = self.encoder(seen, context).split([d, d, len(self.rows)], -1)
        scale = _scale(raw_diagonal, loc, self.min_scale)
        known = STEEP * scale / (1 + loc.abs() + scale)  # in units of the rounding of z
        limit = scale[..., self.rows] * known[..., self.columns]
        scale_tril = torch.diag_embed(scale)
        scale_tril[..., self.rows, self.columns] = lower / (1 + (lower / limit).square()).sqrt()
        return {"loc": loc, "scale_tril": scale_tril}

    def distribution(self, parameters: dict[str, Tensor]) -> Distribution:
        loc, scale_tril = parameters["loc"], parameters["scale_tril"]
        return MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)


class _BentNormal(Posterior):
    """Abstract diagonal Gaussian that a bijection bends, which sees features of the encoder."""

    latent_dim: int
    num_features: int
    min_scale: float
    encoder: Network

    def parameters_seen(self, seen: Tensor, context: Context | None = None) -> dict[str, Tensor]:
        sizes = [self.latent_dim, self.latent_dim, self.num_features]
        loc, raw_scale, features = self.encoder(seen, context).split(sizes, -1)
        return {
            "loc": loc,
            "scale": _scale(raw_scale, loc, self.min_scale),
            "features": torch.tanh(features),
        }


class CouplingFlow(_BentNormal):
    r"""Creates $q(z \mid x)$ as the law of $m(x) + s(x) \odot f(u; h(x))$, $u \sim \mathcal{N}(0,
    I)$, where coupling layers f, the same for all data, see features h(x) of the encoder.

    It starts as the diagonal Gaussian, and its samples and densities cost the same. Posteriors that
    are curved or have several modes need it; for one that is merely tilted ``FullCovarianceNormal``
    is cheaper.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D, at least 2.
        encoder: Network from x to D means, D raw scales and the features h.
        context_dim: C.
        data_loc: Mean of the training data, in the user's units.
        data_scale: Standard deviation of the training data, likewise.
        features: What the encoder sees of a datum, instead of its standardized values.
        min_scale: Smallest scale, in units of the prior and of the mean's distance from its centre.
        layers: Number of couplings.
        hidden: Width of each hidden layer of their networks; () for linear ones.
        num_features: Number of features h.
        bins: Bins of the splines that the couplings are; 0 for affine ones.

    Raises:
        ValueError: there is one latent dimension, or a number is too small.

    References: dinh2017, durkan2019, rezende2015.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        encoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float = 0.0,
        data_scale: Tensor | float = 1.0,
        features: Features | None = None,
        min_scale: float = MIN_SCALE,
        layers: int = 4,
        hidden: Sequence[int] = (64,),
        num_features: int = 32,
        bins: int = 8,
    ) -> None:
        super().__init__()
        self.latent_dim, self.min_scale = latent_dim, _positive(min_scale)
        self.couplings = Couplings(latent_dim, num_features, layers, hidden, bins)
        self.layers, self.hidden, self.bins = layers, tuple(hidden), bins
        self.num_features = num_features
        self.features = features or Standardize(event_shape, data_loc, data_scale)
        self.encoder = encoder(
            self.features.out_shape, (2 * latent_dim + num_features,), context_dim
        )

    def distribution(self, parameters: dict[str, Tensor]) -> Distribution:
        return Flow(**parameters, bijection=self.couplings)


class InverseAutoregressive(_BentNormal):
    r"""Creates $q(z \mid x)$ as the law of $m(x) + s(x) \odot f(u; h(x))$, $u \sim \mathcal{N}(0,
    I)$, where each of the autoregressive layers f, the same for all data, makes $u_i
    \mapsto e^{a_i} u_i + b_i$ with a and b of $u_{<i}$ and of features h(x) of the encoder.

    It starts as the diagonal Gaussian. A sample with its log-density costs one pass through the
    layers. The density of a z that is given costs D: where it is asked for (``StickingTheLanding``,
    ``DReG``, ``taut score`` of doubtful rows) a latent dimension costs as much as a layer. ``ELBO``
    and ``IWAE`` ask for none, nor does importance sampling from q. Annealing starts at the Gaussian
    of q's mean and variances, and an audit looks at the latent space of fewer rows.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D, at least 2.
        encoder: Network from x to D means, D raw scales and the features h.
        context_dim: C.
        data_loc: Mean of the training data, in the user's units.
        data_scale: Standard deviation of the training data, likewise.
        features: What the encoder sees of a datum, instead of its standardized values.
        min_scale: Smallest scale, in units of the prior and of the mean's distance from its centre.
        layers: Number of autoregressive layers, whose orders alternate.
        hidden: Width of each hidden layer of their networks; () for linear ones. At least D - 1
            lets each dimension see all before it.
        num_features: Number of features h.
        bins: Bins of the splines that the layers are; 0 for affine ones.

    Raises:
        ValueError: there is one latent dimension, or a number is too small.

    References: kingma2016, germain2015, rezende2015.
    """

    slow_density = True

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        encoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float = 0.0,
        data_scale: Tensor | float = 1.0,
        features: Features | None = None,
        min_scale: float = MIN_SCALE,
        layers: int = 4,
        hidden: Sequence[int] = (128,),
        num_features: int = 32,
        bins: int = 0,
    ) -> None:
        super().__init__()
        self.latent_dim, self.min_scale = latent_dim, _positive(min_scale)
        self.autoregressive = Autoregressive(latent_dim, num_features, layers, hidden, bins)
        self.layers, self.hidden, self.bins = layers, tuple(hidden), bins
        self.num_features = num_features
        self.features = features or Standardize(event_shape, data_loc, data_scale)
        self.encoder = encoder(
            self.features.out_shape, (2 * latent_dim + num_features,), context_dim
        )

    def distribution(self, parameters: dict[str, Tensor]) -> Distribution:
        return Flow(**parameters, bijection=self.autoregressive)


class PowerSpherical(Posterior):
    r"""Creates $q(z \mid x) \propto (1 + \mu(x) \cdot z)^{\kappa(x)}$ on the unit sphere of D
    dimensions, for a ``UniformSphere`` prior.

    The concentration is $\kappa = 2 / s^2$: where the spread s is small, it is the standard
    deviation of the angle in each of D - 1 directions. Its floor keeps samples apart. z has D - 1
    degrees of freedom, and all directions are alike to the prior: for data on a sphere or a circle
    (angles, times of day, orientations), not for many unrelated latent numbers.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D, at least 2.
        encoder: Network from x to the direction of $\mu$ and the raw s, (D + 1,).
        context_dim: C.
        data_loc: Mean of the training data, in the user's units.
        data_scale: Standard deviation of the training data, likewise.
        features: What the encoder sees of a datum, instead of its standardized values.
        min_scale: Smallest s, in radians.

    Raises:
        ValueError: there is one latent dimension, or ``min_scale`` is not positive.

    References: decao2020, davidson2018.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        encoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float = 0.0,
        data_scale: Tensor | float = 1.0,
        features: Features | None = None,
        min_scale: float = MIN_SCALE,
    ) -> None:
        super().__init__()
        sphere.check_dim(latent_dim)
        self.latent_dim, self.min_scale = latent_dim, _positive(min_scale)
        self.features = features or Standardize(event_shape, data_loc, data_scale)
        self.encoder = encoder(self.features.out_shape, (latent_dim + 1,), context_dim)

    def parameters_seen(self, seen: Tensor, context: Context | None = None) -> dict[str, Tensor]:
        direction, raw = self.encoder(seen, context).split([self.latent_dim, 1], -1)
        spread = self.min_scale + positive(raw[..., 0])
        return {"loc": direction, "concentration": 2 / spread.square()}

    def distribution(self, parameters: dict[str, Tensor]) -> Distribution:
        return sphere.PowerSpherical(parameters["loc"], parameters["concentration"])


class IndependentBernoulli(Posterior):
    r"""Creates $q(z \mid x) = \prod_j \mathrm{Bernoulli}(z_j; \sigma(\ell_j(x)))$: not to be
    reparameterized.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D, the number of bits.
        encoder: Network from x to the D logits.
        context_dim: C.
        data_loc: Mean of the training data, in the user's units.
        data_scale: Standard deviation of the training data, likewise.
        features: What the encoder sees of a datum, instead of its standardized values.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        encoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float = 0.0,
        data_scale: Tensor | float = 1.0,
        features: Features | None = None,
    ) -> None:
        super().__init__()
        self.features = features or Standardize(event_shape, data_loc, data_scale)
        self.encoder = encoder(self.features.out_shape, (latent_dim,), context_dim)

    def parameters_seen(self, seen: Tensor, context: Context | None = None) -> dict[str, Tensor]:
        return {"logits": self.encoder(seen, context)}

    def distribution(self, parameters: dict[str, Tensor]) -> Distribution:
        bits = Bernoulli(logits=parameters["logits"], validate_args=False)
        return Independent(bits, 1, validate_args=False)


class VectorQuantized(Posterior):
    r"""Creates $q(z \mid x)$ over N vectors of the codebook of its prior, each the one that is
    nearest to a point h(x) of the encoder.

    That is a choice and not a distribution. With a scale s it is one:

    $$ q(k_n \mid x) \propto \exp(-\|h_n(x) - e_{k_n}\|^2 / 2 s^2). $$

    The bound of the choice is $\log p(x \mid e_k) + \log \pi_k$, below log p(x) by exactly $-\log
    p(k \mid x)$. ``StraightThrough`` trains it: the gradient of the vector stands for that of h,
    and a penalty, which no value holds, draws the two together.

    Args:
        event_shape: Shape of one datum.
        latent_dim: D; it follows from the codes and their width.
        encoder: Network from x to the points h, (N, W).
        context_dim: C.
        data_loc: Mean of the training data, in the user's units.
        data_scale: Standard deviation of the training data, likewise.
        features: What the encoder sees of a datum, instead of its standardized values.
        codes: N.
        levels: K, vectors of the codebook.
        width: W, of a vector.
        scale: s; None for the nearest vector alone.
        commitment: Weight of the squared distance between h and its vector in the penalty.

    Raises:
        ValueError: a number is too small, or ``latent_dim`` is not N W.

    References: vandenoord2017, takida2022.
    """

    usual_prior = "Codebook()"

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int | None = None,
        encoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float = 0.0,
        data_scale: Tensor | float = 1.0,
        features: Features | None = None,
        codes: int = 8,
        levels: int = 16,
        width: int = 4,
        scale: float | None = None,
        commitment: float = 1.0,
    ) -> None:
        super().__init__()
        check_codes(codes, levels)
        check_codes(codes, width, latent_dim, "width", 1)
        if scale is not None:
            _positive(scale, "scale")
        if not commitment >= 0:
            raise ValueError(f"commitment must be at least 0, not {commitment}")
        self.codes, self.levels, self.width = codes, levels, width
        self.scale, self.commitment = scale, commitment
        # in a tuple, or the prior would count as a part of the posterior
        self._shared: tuple[nn.Module, ...] = ()
        self.features = features or Standardize(event_shape, data_loc, data_scale)
        self.encoder = encoder(self.features.out_shape, (codes, width), context_dim)

    @classmethod
    def sizes(
        cls, codes: Any = 8, levels: Any = 16, width: Any = 4, **others: Any
    ) -> dict[str, int]:
        if not all(isinstance(size, int) for size in (codes, levels, width)):
            return {}  # the constructor says what is wrong
        return {"latent_dim": codes * width, "codes": codes, "levels": levels, "width": width}

    def take(self, prior: nn.Module) -> None:
        """Takes the vectors of a prior, (K, W), as its own.

        Raises:
            ValueError: they have other sizes.
        """
        levels, width = cast(Tensor, prior.vectors).shape
        if (levels, width) != (self.levels, self.width):
            raise ValueError(
                f"the codebook of the prior has {levels} vectors of width {width}, and the "
                f"posterior is over {self.levels} of width {self.width}: give both the same"
            )
        self._shared = (prior,)

    def parameters_seen(self, seen: Tensor, context: Context | None = None) -> dict[str, Tensor]:
        return {"point": self.encoder(seen, context)}

    def distribution(self, parameters: dict[str, Tensor]) -> Distribution:
        if not self._shared:
            raise ValueError("VectorQuantized is of vectors of its prior: take Codebook() as prior")
        (prior,), point = self._shared, parameters["point"]
        codebook = cast(Tensor, prior.vectors)
        square = (point[..., None, :] - codebook).square().sum(-1)
        if self.scale is None:
            nearest = functional.one_hot(square.argmin(-1), self.levels)
            log_probs = torch.where(nearest == 1, 0.0, -torch.inf).to(point)
        else:
            log_probs = (-0.5 * square / self.scale**2).log_softmax(-1)
        return Quantized(log_probs, codebook, point, self.commitment)
