"""Likelihoods of counts: 0, 1, 2, ..."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from taut import distributions
from taut.distributions.observed import Observed
from taut.likelihoods.common import full
from taut.model import Likelihood
from taut.networks import MLP, NetworkFactory
from taut.types import Context

__all__ = ["Multinomial", "NegativeBinomial", "Poisson", "ZeroInflatedNegativeBinomial"]

# A count that training never saw starts at this rate, half a count in 5,000 data: at zero one such
# count would be impossible.
UNSEEN_RATE = 1e-4
# Steps of log r for one of its parameter: r moves over orders of magnitude while Adam moves a
# parameter by its small rate.
GAIN = 10.0
FEW_COUNTS = 200.0


class _OfCounts(Likelihood):
    """What the likelihoods of counts share: the mean of each element."""

    data_loc: Tensor
    known: Tensor

    def _start(
        self,
        event_shape: Sequence[int],
        library: bool,
        context_dim: int,
        data_loc: Tensor | float,
        data_total: Tensor | float,
    ) -> None:
        if library and context_dim < 1:
            raise ValueError(
                "library=True needs a context: its first column is the log of (total of the row / "
                "mean total)"
            )
        self.event_dims, self.library = len(event_shape), library
        loc = full(data_loc, event_shape)
        self.register_buffer("data_loc", torch.where(loc > 0, loc, UNSEEN_RATE))
        self.register_buffer("known", 1 / (1 + FEW_COUNTS / full(data_total, event_shape)))

    def _log_mean(self, raw: Tensor, context: Context | None) -> Tensor:
        log_mean = self.data_loc.log() + self.known * raw
        if not self.library:
            return log_mean
        if context is None:
            raise ValueError(
                "library=True needs the context: how many counts a data point has in all is not "
                "for the model to guess"
            )
        return log_mean + context[:, 0].view(-1, *(1 for _ in self.data_loc.shape))


class Poisson(_OfCounts):
    r"""Creates $p(x \mid z) = \prod_i \mathrm{Poisson}(x_i; \lambda_i e^{m_i(z)})$ for counts;
    $\lambda$ is the mean of the data.

    An element whose training data are all zero starts at a rate of 1e-4, half a count in 5,000
    data points. Its arguments are those of ``NegativeBinomial`` that it has.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        library: bool = False,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float = 1.0,
        data_total: Tensor | float = math.inf,
    ) -> None:
        super().__init__()
        self._start(event_shape, library, context_dim, data_loc, data_total)
        self.decoder = decoder((latent_dim,), (1, *event_shape), context_dim)

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        raw = self.decoder(z, context).squeeze(-1 - self.event_dims)
        made = distributions.Poisson(self._log_mean(raw, context), validate_args=False)
        return Observed(made, self.event_dims, 0.0)


class _NegativeBinomial(_OfCounts):
    """What the two negative binomials share: all but zero inflation."""

    maps = 1

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        dispersion: str = "per_feature",
        library: bool = False,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float = 1.0,
        data_scale: Tensor | float = 1.5,
        data_total: Tensor | float = math.inf,
    ) -> None:
        super().__init__()
        if dispersion not in ("per_feature", "per_datum"):
            raise ValueError(f"unknown dispersion {dispersion!r}: 'per_feature' or 'per_datum'")
        self._start(event_shape, library, context_dim, data_loc, data_total)
        self.dispersion = dispersion
        excess = full(data_scale, event_shape).square() - self.data_loc
        moments = torch.where(excess > 0, self.data_loc.square() / excess, torch.inf)
        # A rare count that looks like a Poisson's is not known to be one: its variance starts at
        # 1.1 means at least.
        moments = torch.minimum(moments, 10 * self.data_loc)
        self.raw_concentration = nn.Parameter(moments.clamp(1e-2, 1e4).log() / GAIN)
        maps = self.maps + (dispersion == "per_datum")
        self.decoder = decoder((latent_dim,), (maps, *event_shape), context_dim)

    def _decoded(self, z: Tensor, context: Context | None) -> tuple[Tensor, Distribution]:
        """Returns what was decoded, (maps, ...), and the negative binomials of it."""
        raw = self.decoder(z, context).movedim(-1 - self.event_dims, 0)
        log_concentration = GAIN * self.raw_concentration
        if self.dispersion == "per_datum":
            log_concentration = log_concentration + raw[-1]
        log_mean = self._log_mean(raw[0], context)
        return raw, distributions.NegativeBinomial(log_mean, log_concentration, validate_args=False)


class NegativeBinomial(_NegativeBinomial):
    r"""Creates $p(x \mid z) = \prod_i \mathrm{NB}(x_i; \mu_i, r_i)$ for counts that vary more than
    a Poisson's.

    The mean is $\mu_i = \lambda_i e^{m_i(z)}$ with $\lambda$ the mean of the data, the variance
    $\mu_i + \mu_i^2 / r_i$. An element starts with the r that gives the variance of the data,
    between 0.01 and ten times its mean; one whose training data are all zero starts at a mean of
    1e-4, half a count in 5,000 data.

    Args:
        event_shape: Shape of one data point.
        latent_dim: D.
        dispersion: "per_feature" (one learned $r_i$ each) or "per_datum" ($r_i(z)$, decoded).
        library: Whether means are proportional to a row's total: the first column of the context is
            then the logarithm of (total of the row / mean total) and is added to the log of each
            mean.
        decoder: Network from z to m, and log r relative to that of the element if decoded, (1 or 2,
            \*event).
        context_dim: C.
        data_loc: Mean of the training data.
        data_total: Sum of the training data: m is the decoder's output times total / (total + 200),
            so that an element of few counts, of which little can be known, stays near its mean for
            longer.
        data_scale: Standard deviation of the training data.
    """

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        _, made = self._decoded(z, context)
        return Observed(made, self.event_dims, 0.0)


class ZeroInflatedNegativeBinomial(_NegativeBinomial):
    r"""Creates $p(x \mid z) = \prod_i \{(1 - \pi_i(z)) \, \mathrm{NB}(x_i; \mu_i, r_i) + \pi_i(z)
    \, [x_i = 0]\}$ for counts.

    It is ``NegativeBinomial`` with a share $\pi$ of zeros of another origin, which starts at 1%.
    Its arguments are the same; the decoder also gives the logit of the share, relative to 1%,
    before log r: (2 or 3, \*event).
    """

    maps = 2

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        raw, counts = self._decoded(z, context)
        logits = raw[1] + math.log(0.01 / 0.99)
        made = distributions.ZeroInflated(counts, logits, validate_args=False)
        return Observed(made, self.event_dims, 0.0)


class Multinomial(_OfCounts):
    r"""Creates $p(x \mid z, n) = \mathrm{Mult}(x; n, \mathrm{softmax}_i(\log \lambda_i + m_i(z)))$
    for counts whose total n is given: the words of a text, the reads of a sample.

    It is what independent ``Poisson`` counts are given their total, and knows no more variance
    than that (``NegativeBinomial(library=True)`` does). The first column of the context is the
    logarithm of (total of the row / mean total); without a context a draw has the mean total. Its
    arguments are those of ``NegativeBinomial`` that it has.
    """

    library = True

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float = 1.0,
        data_total: Tensor | float = math.inf,
    ) -> None:
        super().__init__()
        self._start(event_shape, context_dim > 0, context_dim, data_loc, data_total)
        self.library = True
        self.decoder = decoder((latent_dim,), (1, *event_shape), context_dim)

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        raw = self.decoder(z, context).squeeze(-1 - self.event_dims)
        total = self.data_loc.sum()
        if context is not None:
            total = total * context[:, 0].exp()
        logits = self.data_loc.log() + self.known * raw
        return distributions.Multinomial(logits, total.round(), self.event_dims)
