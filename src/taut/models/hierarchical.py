r"""A VAE with several levels of latent variables, drawn from top to bottom.

One deterministic pass from the bottom up reads the data point, and one pass from the top down,
which prior and posterior share, draws the levels:

$$ h_l = h_{l-1} + f_l(h_{l-1}, z_{l-1}), \quad
   p(z_l \mid z_{<l}) = \mathcal{N}(m_l(h_l), s_l(h_l)^2), \quad
   q(z_l \mid z_{<l}, x) = \mathcal{N}(m_l + s_l \, d_l(h_l, u_l), (s_l \, t_l(h_l, u_l))^2), $$

in which $u_l$ is what the first pass saw of x. The posterior is relative to the prior: where $d_l =
0$ and $t_l = 1$ a level has no rate. At the top $p(z_1) = \mathcal{N}(0, I)$. The data point is
decoded from the last state and the last level, $p(x \mid z) = p(x \mid h_L, z_L)$: one level is a
VAE. Of images, states and levels may be maps, whose sides rise from level to level (``levels``).

The top may have a prior that is learned, such as the mean of its own posteriors at pseudo-inputs,
$p(z_1) = \frac1K \sum_k q(z_1 \mid u_k)$.

References: sonderby2016, kingma2016, tomczak2018, vahdat2020.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from taut.distributions.chain import Chain, Part
from taut.features import Condition, Features, Standardize
from taut.model import VAE, Draw, Group, Likelihood, Posterior, Prior, frozen
from taut.models.levels import Levels, MapLevels, VectorLevels
from taut.networks import MLP, NetworkFactory, check_positive
from taut.networks.common import positive
from taut.posteriors.common import MIN_SCALE, floored
from taut.priors import VampPrior
from taut.system.seeds import generator_states, replaying
from taut.types import Context, Data

__all__ = ["HierarchicalVAE"]


class HierarchicalVAE(VAE):
    r"""Creates a VAE with levels of latent variables, of rows and images of any kind.

    Args:
        event_shape: Shape of one datum.
        latent_dim: Dimensions of each level; of maps, channels.
        likelihood: Makes $p(x \mid z)$, given the number of dimensions that it decodes: those of
            the last state and of the last level; of maps, given the ``decoder``, too.
        levels: L; the levels are called z1, the top, to zL.
        width: Dimensions of the states $h_l$ and $u_l$.
        encoder: Network from x to $u_L$; to the parameters of $q(z_1 \mid x)$ where L = 1.
        network: The other networks; by default a ``Residual`` with one hidden layer of ``width``:
            without a linear path what was seen of x fades from network to network, and the levels
            stay empty.
        context_dim: C, of the encoder.
        data_loc: Mean of the training data, in the user's units.
        data_scale: Standard deviation of the training data, likewise.
        features: What the encoder sees of a datum, instead of its standardized values.
        min_scale: Smallest scale, in units of the top prior and of the mean's distance from zero.
        condition: What of a data point is the context of the rest.
        channels: Of images, channels of the states, which are then maps, as the levels are:
            residual convolutions instead of ``width``, ``encoder`` and ``network``. None for
            vectors.
        blocks: Residual blocks of each network of maps.
        top: Makes the prior of the top level instead of N(0, I), given its ``latent_dim``.

    Raises:
        ValueError: a size is not a whole number of at least 1, ``channels`` is given for rows that
            are not images, with a ``network`` or with a context, or ``top`` is a prior of something
            else than real numbers.

    References: sonderby2016, kingma2016, tomczak2018, vahdat2020.
    """

    prior: TopDown
    posterior: BottomUp

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        likelihood: Callable[..., Likelihood],
        levels: int = 2,
        width: int = 200,
        encoder: NetworkFactory = MLP,
        network: NetworkFactory | None = None,
        context_dim: int = 0,
        data_loc: Tensor | float = 0.0,
        data_scale: Tensor | float = 1.0,
        features: Features | None = None,
        min_scale: float = MIN_SCALE,
        condition: Condition | None = None,
        channels: int | None = None,
        blocks: int = 1,
        top: Callable[..., Prior] | None = None,
    ) -> None:
        sizes = {"levels": levels, "width": width, "latent_dim": latent_dim, "blocks": blocks}
        if channels is not None:
            sizes["channels"] = channels
        for name, value in sizes.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
        made: Levels
        if channels is None:
            made = VectorLevels(latent_dim, levels, width, encoder, network)
        elif network is not None:
            raise ValueError("channels is of maps, whose networks are convolutions: omit network")
        else:
            made = MapLevels(event_shape, latent_dim, levels, channels, blocks)
        seen = features or Standardize(event_shape, data_loc, data_scale)
        prior = TopDown(made, check_positive(min_scale), top)
        posterior = BottomUp(prior, seen, context_dim)
        own = {} if made.decoder is None else {"decoder": made.decoder}
        super().__init__(prior, likelihood(prior.out_dim, **own), posterior, condition)
        self.levels, self.width, self.latent_dim = levels, width, latent_dim
        self.network, self.min_scale = network, min_scale
        self.channels, self.blocks, self.top = channels, blocks, top

    def decode(self, z: Tensor, context: Context | None = None) -> Distribution:
        return self.likelihood(self.prior.lowest(z), context)

    def own_posterior(self) -> nn.Module | None:
        return None  # it is made of the prior's states

    def embed(self, x: Data, context: Context | None = None) -> Tensor:
        r"""Returns numbers that stand for each data point, (B, D): each level at the mean of
        $q(z_l \mid z_{<l}, x)$, given those above it at theirs.
        """
        return self.point(x, context)

    def point(self, x: Data, context: Context | None = None) -> Tensor:
        """Returns the z that stands for each data point, (B, D): as ``embed``."""
        q = self.posterior(*self.split(x, context))
        return q.descend(lambda here, part: part.mean)[0]

    def draw(
        self,
        x: Data,
        num_samples: int = 1,
        *,
        context: Context | None = None,
        reparameterize: bool = True,
        stop_posterior: bool = False,
        proposal: Distribution | None = None,
        given: Tensor | None = None,
    ) -> Draw:
        if proposal is not None and (stop_posterior or not isinstance(proposal, Descent)):
            return super().draw(
                x,
                num_samples,
                context=context,
                reparameterize=reparameterize,
                stop_posterior=stop_posterior,
                proposal=proposal,
                given=given,
            )
        x, context = self.split(x, context)
        before = generator_states() if stop_posterior else []
        shape = torch.Size((num_samples, len(x)))

        def choose(here: slice, part: Distribution) -> Tensor:
            z = part.rsample(shape[: len(shape) - len(part.batch_shape)])
            return z if reparameterize else z.detach()

        q = self.posterior(x, context) if proposal is None else proposal
        if given is None:
            z, posterior, way = q.descend(choose)
        else:
            z = given if reparameterize else given.detach()
            _, posterior, way = q.descend(lambda here, part: z[..., here])
        if stop_posterior:
            # All that q is made of is frozen, the states that it shares with the prior too. The
            # log-densities are those of slices of the joined z, through which q is reached.
            with frozen(self.posterior), frozen(self.prior), replaying(before):
                posterior = self.posterior(x, context).parts(z)
            _, _, way = self.prior(context).descend(lambda here, part: z[..., here])
        groups = tuple(
            Group(q.name, q.slice, p, q.distribution, p.log_prob(z[..., q.slice]), q.log_prob)
            for p, q in zip(way.priors, posterior, strict=True)
        )
        last = z[..., posterior[-1].slice]
        likelihood = self.likelihood(self.prior.joined(way.state, last), context)
        log_prior = torch.stack([group.log_prior for group in groups]).sum(0)
        log_posterior = torch.stack([group.log_posterior for group in groups]).sum(0)
        log_likelihood = likelihood.log_prob(x)
        draw = Draw(z, log_likelihood, log_prior, log_posterior, groups, likelihood)
        self._check(draw, torch.Size((len(z), len(x))))
        return draw


class TopDown(Prior):
    r"""Creates $p(z) = \prod_l p(z_l \mid h_l)$, and the states $h_l$ that q shares.

    Args:
        levels: The networks between states.
        min_scale: Smallest scale.
        top: Makes the prior of the top level; N(0, I) where it is None.

    Raises:
        ValueError: that is not a prior of as many real numbers.
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self, levels: Levels, min_scale: float, top: Callable[..., Prior] | None = None
    ) -> None:
        super().__init__()
        self.levels, self.min_scale = levels, min_scale
        self.groups = [("z", levels.sizes[0])]
        if len(levels) > 1:
            self.groups = [(f"z{number}", size) for number, size in enumerate(levels.sizes, 1)]
        self.register_buffer("loc", torch.zeros(levels.sizes[0]))
        self.register_buffer("scale", torch.ones(levels.sizes[0]))
        below = range(1, len(levels))
        self.networks = nn.ModuleList(levels.down(number) for number in below)
        self.heads = nn.ModuleList(levels.prior_head(number) for number in below)
        self.top = None if top is None else _prior_of(top, levels.sizes[0])

    @property
    def out_dim(self) -> int:
        """Dimensions of what is decoded."""
        return self.levels.sizes[-1] + (self.levels.widths[-1] if len(self.groups) > 1 else 0)

    def share(self, posterior: Posterior) -> None:
        if self.top is not None and isinstance(posterior, BottomUp):
            self.top.share(Top(posterior))

    def unshared(self) -> dict[str, Tensor]:
        found = self.state_dict()
        if self.top is not None:
            found |= {f"top.{name}": value for name, value in self.top.unshared().items()}
        return found

    def joined(self, state: Tensor | None, z: Tensor) -> Tensor:
        """Returns what is known below a level: the state above it and its z; at the top z alone."""
        if state is None:
            return z
        shape = torch.broadcast_shapes(state.shape[:-1], z.shape[:-1])
        return torch.cat([state.expand(*shape, -1), z.expand(*shape, -1)], -1)

    def below(self, number: int, state: Tensor | None, z: Tensor) -> Tensor:
        """Returns the state of a level, given the state and the z of the one above it."""
        new: Tensor = self.networks[number - 1](self.joined(state, z))
        if state is None:
            return new
        return self.levels.carried(state, number - 1, number) + new

    def lowest(self, z: Tensor) -> Tensor:
        r"""Returns what is decoded of a joined z, (\*, B, D)."""
        *above, last = z.split(self.levels.sizes, -1)
        state = None
        for number, each in enumerate(above, 1):
            state = self.below(number, state, each)
        return self.joined(state, last)

    def at(self, state: Tensor | None, number: int) -> tuple[Tensor, Tensor]:
        """Returns mean and scale of a level at a state, which the posterior is relative to; those
        of N(0, I) at the top.
        """
        if state is None:
            return self.loc, self.scale
        loc, raw = self.heads[number - 1](state).unbind(-2)
        return loc, floored(raw, loc, self.min_scale)

    def first(self, context: Context | None) -> Distribution:
        """Returns the prior of the top level."""
        return _normal(self.loc, self.scale) if self.top is None else self.top(context)

    def forward(self, context: Context | None = None) -> Descent:
        return Descent(self, context)


class BottomUp(Posterior):
    r"""Creates $q(z \mid x) = \prod_l q(z_l \mid h_l, u_l)$, relative to a prior.

    Args:
        down: The prior.
        features: What the encoder sees of a datum.
        context_dim: C.
    """

    def __init__(self, down: TopDown, features: Features, context_dim: int) -> None:
        super().__init__()
        # in a tuple, or the weights of the prior would count as the posterior's own, too
        self._down = (down,)
        self.features = features
        levels = down.levels
        self.encoder = levels.encoder(features, context_dim)
        self.networks = nn.ModuleList(levels.up(n) for n in reversed(range(len(levels) - 1)))
        self.heads = nn.ModuleList(levels.posterior_head(n) for n in range(1, len(levels)))

    def forward(self, x: Data, context: Context | None = None) -> Descent:
        seen = self.told(self.features(x), context)
        return Descent(self._down[0], context, self, seen, x.shape[:1])

    def told(self, shown: Tensor, context: Context | None) -> list[Tensor]:
        """Returns what the pass from the bottom up says to each level, the top first, of data
        points as ``features`` shows them.
        """
        said, number = [self.encoder(shown, context)], len(self.networks)
        for network in self.networks:
            above, number = network(said[-1]), number - 1
            if number > 0:  # what is said to the top are the parameters of its q
                above = self._down[0].levels.carried(said[-1], number + 1, number) + above
            said.append(above)
        return said[::-1]

    def at(
        self, state: Tensor | None, number: int, seen: Tensor, prior: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Returns mean and scale of a level, relative to the prior's."""
        if state is not None:
            seen = self.heads[number - 1](self._down[0].joined(state, seen))
        shift, raw = seen.unbind(-2)
        loc = prior[0] + prior[1] * shift
        return loc, prior[1] * positive(raw) + self._down[0].min_scale * (1 + loc.abs())


class Top(Posterior):
    """Creates the posterior of the top level by itself, of which a prior can be made.

    Args:
        up: The posterior of all levels.
    """

    def __init__(self, up: BottomUp) -> None:
        super().__init__()
        self.up, self.features = up, up.features

    def parameters_seen(self, seen: Tensor, context: Context | None = None) -> dict[str, Tensor]:
        return {"top": self.up.told(seen, context)[0]}

    def distribution(self, parameters: dict[str, Tensor]) -> Distribution:
        down = self.up._down[0]
        return _normal(*self.up.at(None, 0, parameters["top"], down.at(None, 0)))


class Way:
    """A pass from the top down: the state that it has reached, and the prior of each level.

    Args:
        descent: The distribution that is gone through.
    """

    def __init__(self, descent: Descent) -> None:
        self.descent = descent
        self.state: Tensor | None = None
        self.found: list[tuple[Tensor, Tensor]] = []  # mean and scale of each prior

    def level(self, number: int, above: Tensor | None) -> Distribution:
        """Returns the distribution of a level, given the z of the one above it."""
        down, up = self.descent.down, self.descent.up
        if above is not None:
            self.state = down.below(number, self.state, above)
        self.found.append(down.at(self.state, number))
        if up is None:
            return self.prior(number)
        seen = self.descent.seen[number]
        return _normal(*up.at(self.state, number, seen, self.found[number]))

    def prior(self, number: int) -> Distribution:
        """Returns the prior of a level that was passed."""
        return self.descent.first if number == 0 else _normal(*self.found[number])

    @property
    def priors(self) -> list[Distribution]:
        return [self.prior(number) for number in range(len(self.found))]


class Descent(Chain):
    """Creates the levels of a hierarchy as one distribution over the joined z: each draw and each
    density is one pass from the top down.

    Args:
        down: The prior.
        context: Of the prior of the top level, (B, C).
        up: The posterior, where it is the distribution.
        seen: What the posterior saw of the data, the top first.
        batch_shape: () or (B,).
    """

    def __init__(
        self,
        down: TopDown,
        context: Context | None = None,
        up: BottomUp | None = None,
        seen: Sequence[Tensor] = (),
        batch_shape: Sequence[int] = (),
    ) -> None:
        self.down, self.context, self.up, self.seen = down, context, up, seen
        super().__init__(down.groups, self._conditional, batch_shape)
        if up is None and down.top is not None:
            self.has_rsample = self.first.has_rsample

    @cached_property
    def first(self) -> Distribution:
        """The prior of the top level, which is made once for all passes."""
        return self.down.first(self.context)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Descent:
        seen = [each.expand(*batch_shape, *each.shape[-2:]) for each in self.seen[:1]]
        seen += [each.expand(*batch_shape, each.shape[-1]) for each in self.seen[1:]]
        return Descent(self.down, self.context, self.up, seen, batch_shape)

    def descend(
        self, choose: Callable[[slice, Distribution], Tensor]
    ) -> tuple[Tensor, list[Part], Way]:
        """Returns the joined z of a pass, each level at it, and the pass.

        Args:
            choose: From the place of a level in the joined z and its distribution to its z.
        """
        way, start = Way(self), 0
        drawn: list[Tensor] = []
        parts: list[Part] = []
        for number, (name, size) in enumerate(self.groups):
            here, start = slice(start, start + size), start + size
            part = way.level(number, drawn[-1] if drawn else None)
            z = choose(here, part)
            drawn.append(z)
            parts.append(Part(name, here, part, part.log_prob(z)))
        return torch.cat(drawn, -1), parts, way

    def rsample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Returns draws and their log-density."""
        shape = torch.Size(sample_shape) + self.batch_shape

        def choose(here: slice, part: Distribution) -> Tensor:
            draw = part.rsample if part.has_rsample else part.sample
            return draw(shape[: len(shape) - len(part.batch_shape)])

        z, parts, _ = self.descend(choose)
        return z, torch.stack([part.log_prob for part in parts]).sum(0)

    def parts(self, value: Tensor) -> list[Part]:
        return self.descend(lambda here, part: value[..., here])[1]

    def _drawn(self, sample_shape: Any, method: str) -> Tensor:
        return self.rsample_and_log_prob(sample_shape)[0]

    def _conditional(self, number: int, above: Tensor | None) -> Distribution:
        way = Way(self)
        over: list[Tensor | None] = [None]
        if above is not None:
            over += above.split(self.down.levels.sizes[:number], -1)
        *_, found = [way.level(level, z) for level, z in enumerate(over)]
        return found


def _prior_of(top: Callable[..., Prior], size: int) -> Prior:
    """Returns a prior of so many real numbers."""
    made = top(latent_dim=size)
    if isinstance(made, VampPrior):  # made of a posterior that is yet to be made
        if made.own is not None:
            raise ValueError("a VampPrior on top is made of the q of the top: omit its posterior")
        return made
    if not bool(made().support.check(torch.randn(size)).all()):
        raise ValueError(f"{type(made).__name__} is not a prior of any real numbers, as q is")
    return made


def _normal(loc: Tensor, scale: Tensor) -> Distribution:
    return Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)
