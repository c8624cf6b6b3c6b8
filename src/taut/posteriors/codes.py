"""Discrete z: bits, codes, and vectors of a codebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent
from torch.nn import functional

from taut.distributions.codebook import Quantized
from taut.distributions.codes import Codes, check_codes
from taut.features import Features, Standardize
from taut.model import Posterior
from taut.networks import MLP, NetworkFactory, check_positive
from taut.types import Context

__all__ = ["Categorical", "IndependentBernoulli", "VectorQuantized"]


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
            check_positive(scale, "scale")
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
