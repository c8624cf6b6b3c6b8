"""Likelihoods of bits and levels: the integers low, ..., high."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical as CategoricalDistribution
from torch.distributions import Distribution, MixtureSameFamily
from torch.nn import functional

from taut import distributions
from taut.distributions.observed import Observed
from taut.likelihoods.common import full
from taut.model import Likelihood
from taut.networks import MLP, NetworkFactory, check_positive, positive
from taut.types import Context

__all__ = ["Bernoulli", "Binomial", "Categorical", "DiscretizedLogistic", "Ordinal", "WarpedPixels"]


class Bernoulli(Likelihood):
    r"""Creates $p(x \mid z) = \prod_i \mathrm{Bernoulli}(x_i; \sigma(\ell_i(z)))$ for data that are
    0 or 1.

    Args:
        event_shape: Shape of one data point.
        latent_dim: D.
        decoder: Network from z to the logits, (1, \*event).
        context_dim: C.
        log_frequencies: Log-probabilities of 0 and 1 in the training data, (\*event, 2): what raw
            zero stands for.
    """

    offset: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        log_frequencies: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.event_dims = len(event_shape)
        if log_frequencies is None:
            log_frequencies = torch.zeros(*event_shape, 2)
        self.register_buffer("offset", log_frequencies[..., 1] - log_frequencies[..., 0])
        self.decoder = decoder((latent_dim,), (1, *event_shape), context_dim)

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        logits = self.decoder(z, context).squeeze(-1 - self.event_dims) + self.offset
        made = distributions.Bernoulli(logits=logits, validate_args=False)
        return Observed(made, self.event_dims, 0.0)


class _OfLevels(Likelihood):
    """What ``Categorical`` and ``Ordinal`` share: all but their distribution."""

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        low: int | Tensor,
        high: int | Tensor,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        log_frequencies: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.event_dims = len(event_shape)
        self.low, self.high = _range(low, high, event_shape)
        maps = self.start(_log_frequencies(log_frequencies, self.low, self.high, event_shape))
        self.decoder = decoder((latent_dim,), (maps, *event_shape), context_dim)

    @abc.abstractmethod
    def start(self, log_frequencies: Tensor) -> int:
        r"""Starts at the log-frequencies of the levels, (\*event, levels); returns how many numbers
        of each element are decoded.
        """


class Categorical(_OfLevels):
    r"""Creates $p(x \mid z) = \prod_i \mathrm{Categorical}(x_i; \mathrm{softmax}(\ell_i(z)))$ over
    the levels low, ..., high.

    Args:
        event_shape: Shape of one data point.
        latent_dim: D.
        low: The smallest level, or that of each element.
        high: The largest level, likewise: an element gives the levels beyond its own exactly zero.
        decoder: Network from z to the logits, (levels, \*event).
        context_dim: C.
        log_frequencies: Log-probabilities of the levels in the training data, (\*event, levels):
            what raw zero stands for.
    """

    offset: Tensor

    def start(self, log_frequencies: Tensor) -> int:
        self.register_buffer("offset", log_frequencies)
        return log_frequencies.shape[-1]

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        logits = self.decoder(z, context).movedim(-1 - self.event_dims, -1) + self.offset
        made = distributions.CategoricalLevels(logits, self.low, self.high, validate_args=False)
        return Observed(made, self.event_dims, self.low)


class DiscretizedLogistic(Likelihood):
    r"""Creates a mixture of logistic distributions rounded to the levels low, ..., high, for each
    element.

    Unlike ``Categorical`` it knows that 7 is close to 8, and its size does not grow with the number
    of levels.

    Args:
        event_shape: Shape of one data point.
        latent_dim: D.
        low: The smallest level, or that of each element.
        high: The largest level, likewise.
        components: Number of logistic distributions mixed for each element.
        min_scale: Smallest scale, in levels; with 0.01 a level can have all but e^-50 of the mass.
        decoder: Network from z to (loc, raw scale, logit) of each component, (2, \*event) where
            there is only one.
        context_dim: C.
        data_loc: Mean of the training data, in levels.
        data_scale: Standard deviation of the training data, in levels.

    References: kingma2016, salimans2017.
    """

    data_loc: Tensor
    data_scale: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        low: int | Tensor,
        high: int | Tensor,
        components: int = 1,
        min_scale: float = 0.01,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float = 0.0,
        data_scale: Tensor | float = 1.0,
    ) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"components must be at least 1, not {components}")
        self.event_dims, self.components = len(event_shape), components
        self.min_scale = check_positive(min_scale)
        self.low, self.high = _range(low, high, event_shape)
        self.register_buffer("data_loc", full(data_loc, event_shape))
        self.register_buffer("data_scale", full(data_scale, event_shape))
        parameters = 2 if components == 1 else 3 * components
        self.decoder = decoder((latent_dim,), (parameters, *event_shape), context_dim)
        # Components that start alike would stay alike: each starts at its own quantile of the data.
        quantiles = (torch.arange(components) + 0.5) / components
        self.register_buffer("start", quantiles.logit(), persistent=False)

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        raw = self.decoder(z, context).movedim(-1 - self.event_dims, -1)
        if self.components == 1:
            one = self._logistic(raw[..., 0], raw[..., 1], ...)
            return Observed(one, self.event_dims, self.low)
        loc, scale, logits = raw.unflatten(-1, (3, -1)).unbind(-2)
        parts = self._logistic(loc + self.start, scale, (..., None))
        mixture = MixtureSameFamily(
            CategoricalDistribution(logits=logits, validate_args=False), parts, validate_args=False
        )
        return Observed(mixture, self.event_dims, self.low)

    def _logistic(self, loc: Tensor, raw_scale: Tensor, each: Any) -> Distribution:
        data_loc, data_scale = self.data_loc[each], self.data_scale[each]
        low, high = (end[each] if isinstance(end, Tensor) else end for end in (self.low, self.high))
        # A logistic distribution of scale s has standard deviation s pi / sqrt(3), about 1.8 s:
        # hence the half.
        scale = self.min_scale + 0.5 * data_scale * positive(raw_scale)
        return distributions.DiscretizedLogistic(
            data_loc + data_scale * loc, scale, low, high, validate_args=False
        )


class WarpedPixels(Likelihood):
    r"""Creates $P(x_i \le l \mid z) = \sigma((g_l - m_i(z)) / s_i(z))$ for images of levels.

    The edges g between levels are shared by all pixels: the logit of the distribution function of
    all pixels of the training images. So m = 0, s = 1 is their histogram, with its masses at black
    and at white and whatever else it has; a large s gives both ends and little between them, a
    small s one level. A saturated image has most pixels at the ends, where ``DiscretizedLogistic``,
    which measures in levels, must choose between a narrow peak and the rest of the range.

    Args:
        event_shape: Shape of one image.
        latent_dim: D.
        low: The smallest level.
        high: The largest level.
        min_scale: Smallest s; the histogram has 1.
        decoder: Network from z to the location and the raw scale, (2, \*event).
        context_dim: C.
        histogram: Probabilities of the levels among all pixels of the training images, (levels,),
            none of them zero; all the same if it is not given.

    Raises:
        ValueError: the elements have levels of their own, or one level only, or
            ``min_scale`` is not between 0 and 1.

    References: mccullagh1980.
    """

    edges: Tensor
    widths: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        low: int | Tensor,
        high: int | Tensor,
        min_scale: float = 1e-3,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        histogram: Tensor | None = None,
    ) -> None:
        super().__init__()
        if isinstance(low, Tensor) or isinstance(high, Tensor):
            raise ValueError("WarpedPixels is for elements of the same levels: take WarpedLevels()")
        if low >= high:
            raise ValueError(f"WarpedPixels needs two levels or more, not {low}..{high}")
        self.event_dims, self.low, self.high = len(event_shape), int(low), int(high)
        self.min_scale = check_positive(min_scale, limit=1)
        if histogram is None:
            histogram = torch.ones(self.high - self.low + 1)
        edges, widths = _warp(histogram)
        self.register_buffer("edges", edges)
        self.register_buffer("widths", widths)
        self.decoder = decoder((latent_dim,), (2, *event_shape), context_dim)

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        raw = self.decoder(z, context).movedim(-1 - self.event_dims, 0)
        # A logistic distribution has a standard deviation of 1.8: a location of as many units for
        # each unit of the decoder.
        loc, scale = 1.8 * raw[0], self.min_scale + (1 - self.min_scale) * positive(raw[1])
        made = distributions.WarpedPixels(
            loc, scale, self.edges, self.widths, self.low, validate_args=False
        )
        return Observed(made, self.event_dims, self.low)


class Binomial(Likelihood):
    r"""Creates low + $\mathrm{Binomial}(x_i; n_i, \sigma(\ell_i(z)))$ with n = high - low, for each
    element.

    An element that never leaves an end of its range in training starts within 1e-4 of it.

    Args:
        event_shape: Shape of one data point.
        latent_dim: D.
        low: The smallest level, or that of each element.
        high: The largest level, likewise.
        decoder: Network from z to the logits, (1, \*event).
        context_dim: C.
        data_loc: Mean of the training data, in levels; the middle of the range if not given.
    """

    offset: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        low: int | Tensor,
        high: int | Tensor,
        decoder: NetworkFactory = MLP,
        context_dim: int = 0,
        data_loc: Tensor | float | None = None,
    ) -> None:
        super().__init__()
        self.event_dims = len(event_shape)
        self.low, self.high = _range(low, high, event_shape)
        first, last = full(low, event_shape), full(high, event_shape)
        loc = (first + last) / 2 if data_loc is None else full(data_loc, event_shape)
        self.register_buffer(
            "offset", ((loc - first) / (last - first).clamp(min=1)).logit(eps=1e-4)
        )
        self.decoder = decoder((latent_dim,), (1, *event_shape), context_dim)

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        logits = self.decoder(z, context).squeeze(-1 - self.event_dims) + self.offset
        made = distributions.Binomial(logits, self.low, self.high, validate_args=False)
        return Observed(made, self.event_dims, self.low)


class Ordinal(_OfLevels):
    r"""Creates $P(x_i \le \mathrm{low} + l \mid z) = \sigma(c_{il} - s_i m_i(z))$ for levels that
    have an order and no distances.

    The cutpoints c ascend and are learned, and so is the scale s, one for each element. At m = 0
    the levels start with the frequencies of the training data; one whose frequency is given as
    zero, after the last that occurs, has no probability at all. Its arguments are those of
    ``Categorical``, but that its decoder gives m alone, (1, \*event).

    Raises:
        ValueError: a level of frequency zero lies below one that occurs.
    """

    present: Tensor

    def start(self, log_frequencies: Tensor) -> int:
        p = log_frequencies.double().softmax(-1)
        if bool(((p > 0).int().diff(dim=-1) > 0).any()):
            raise ValueError(
                "a level of frequency zero lies below one that occurs: only levels after the last "
                "can be absent"
            )
        below, above = p.cumsum(-1)[..., :-1], p.flip(-1).cumsum(-1).flip(-1)[..., 1:]
        cutpoints = below.log() - above.log()
        gaps = cutpoints.diff(dim=-1)
        # the inverse of softplus
        raw = torch.cat([cutpoints[..., :1], gaps + torch.log(-torch.expm1(-gaps))], -1)
        self.register_buffer("present", above > 0)
        raw = raw.masked_fill(~self.present, 0.0).to(torch.get_default_dtype())
        self.raw_cutpoints = nn.Parameter(raw)
        self.raw_scale = nn.Parameter(torch.zeros(p.shape[:-1]))
        return 1

    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        loc = positive(self.raw_scale) * self.decoder(z, context).squeeze(-1 - self.event_dims)
        first, gaps = self.raw_cutpoints[..., :1], functional.softplus(self.raw_cutpoints[..., 1:])
        cutpoints = torch.where(self.present, torch.cat([first, gaps], -1).cumsum(-1), torch.inf)
        made = distributions.Ordinal(loc, cutpoints, self.low, validate_args=False)
        return Observed(made, self.event_dims, self.low)


def _range(
    low: int | Tensor, high: int | Tensor, event_shape: Sequence[int]
) -> tuple[int | Tensor, int | Tensor]:
    """Returns the ends of the levels.

    Numbers, or buffers (they follow from the data and so are not stored with the weights).
    """
    if not isinstance(low, Tensor) and not isinstance(high, Tensor):
        return int(low), int(high)
    return nn.Buffer(full(low, event_shape), persistent=False), nn.Buffer(
        full(high, event_shape), persistent=False
    )


def _warp(histogram: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the logit of the distribution function of levels at the edges between them,
    (levels - 1,), and the width of each level, (levels,).
    """
    p = histogram.double() / histogram.double().sum()
    # summed from both ends: one minus a sum near one has no digits
    below, above = p.cumsum(0)[:-1], p.flip(0).cumsum(0).flip(0)[1:]
    inner = torch.log1p(p[1:-1] / below[:-1]) + torch.log1p(p[1:-1] / above[1:])
    widths = functional.pad(inner, (1, 1), value=1.0)
    dtype = torch.get_default_dtype()
    return (below.log() - above.log()).to(dtype), widths[: len(p)].to(dtype)


def _log_frequencies(
    given: Tensor | None, low: int | Tensor, high: int | Tensor, event_shape: Sequence[int]
) -> Tensor:
    """Returns log-frequencies (*event, levels), all zero where none are given, and -inf beyond the
    levels of an element.
    """
    last = torch.as_tensor(high - low)
    level = torch.arange(int(last.max()) + 1)
    if given is None:
        given = torch.zeros(*event_shape, len(level))
    return given.masked_fill(level > last[..., None], -torch.inf)
