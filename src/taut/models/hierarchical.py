r"""A VAE with several levels of latent variables, drawn from top to bottom.

One deterministic pass from the bottom up reads the data point, and one pass from the top down,
which prior and posterior share, draws the levels:

$$ h_l = h_{l-1} + f_l(h_{l-1}, z_{l-1}), \quad
   p(z_l \mid z_{<l}) = \mathcal{N}(m_l(h_l), s_l(h_l)^2), \quad
   q(z_l \mid z_{<l}, x) = \mathcal{N}(m_l + s_l \, d_l(h_l, u_l), (s_l \, t_l(h_l, u_l))^2), $$

in which $u_l$ is what the first pass saw of x. The posterior is relative to the prior: where $d_l =
0$ and $t_l = 1$ a level has no rate. At the top $p(z_1) = \mathcal{N}(0, I)$. The data point is
decoded from the last state and the last level, $p(x \mid z) = p(x \mid h_L, z_L)$: one level is a
VAE.

References: sonderby2016, kingma2016, vahdat2020.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from taut.distributions.chain import Chain, Part
from taut.features import Condition, Features, Standardize
from taut.model import VAE, Draw, Group, Likelihood, Posterior, Prior, frozen
from taut.networks import MLP, Linear, NetworkFactory, Residual, check_positive
from taut.networks.common import positive
from taut.posteriors.common import MIN_SCALE, floored
from taut.system.seeds import generator_states, replaying
from taut.types import Context, Data

__all__ = ["HierarchicalVAE"]


class HierarchicalVAE(VAE):
    r"""Creates a VAE with levels of latent variables, of rows and images of any kind.

    Args:
        event_shape: Shape of one datum.
        latent_dim: Dimensions of each level.
        likelihood: Makes $p(x \mid z)$, given the number of dimensions that it decodes: those of
            the last state and of the last level.
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

    Raises:
        ValueError: ``levels``, ``width`` or ``latent_dim`` is not a whole number of at least 1.

    References: sonderby2016, kingma2016, vahdat2020.
    """

    prior: TopDown
    posterior: BottomUp

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        likelihood: Callable[[int], Likelihood],
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
    ) -> None:
        for name, value in (("levels", levels), ("width", width), ("latent_dim", latent_dim)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
        inner = network or partial(Residual, hidden=(width,))
        seen = features or Standardize(event_shape, data_loc, data_scale)
        prior = TopDown(latent_dim, levels, width, inner, check_positive(min_scale))
        posterior = BottomUp(prior, seen, encoder, inner, context_dim)
        super().__init__(prior, likelihood(prior.out_dim), posterior, condition)
        self.levels, self.width, self.latent_dim = levels, width, latent_dim
        self.network, self.min_scale = network, min_scale

    def decode(self, z: Tensor, context: Context | None = None) -> Distribution:
        return self.likelihood(self.prior.lowest(z), context)

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
            _, _, way = self.prior().descend(lambda here, part: z[..., here])
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
        latent_dim: Dimensions of each level.
        levels: L.
        width: Dimensions of a state.
        network: The networks between states.
        min_scale: Smallest scale.
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self, latent_dim: int, levels: int, width: int, network: NetworkFactory, min_scale: float
    ) -> None:
        super().__init__()
        self.min_scale, self.width, self.latent_dim = min_scale, width, latent_dim
        self.groups = [("z", latent_dim)]
        if levels > 1:
            self.groups = [(f"z{number}", latent_dim) for number in range(1, levels + 1)]
        self.register_buffer("loc", torch.zeros(latent_dim))
        self.register_buffer("scale", torch.ones(latent_dim))
        sizes = [latent_dim, *[width + latent_dim] * (levels - 2)][: levels - 1]
        self.networks = nn.ModuleList(network((size,), (width,), 0) for size in sizes)
        self.heads = nn.ModuleList(Linear((width,), (2, latent_dim)) for _ in sizes)
        for parameter in self.heads.parameters():  # every level starts at N(0, I)
            nn.init.zeros_(parameter)

    @property
    def out_dim(self) -> int:
        """Dimensions of what is decoded."""
        return self.latent_dim + (self.width if len(self.groups) > 1 else 0)

    def joined(self, state: Tensor | None, z: Tensor) -> Tensor:
        """Returns what is known below a level: the state above it and its z; at the top z alone."""
        if state is None:
            return z
        shape = torch.broadcast_shapes(state.shape[:-1], z.shape[:-1])
        return torch.cat([state.expand(*shape, -1), z.expand(*shape, -1)], -1)

    def below(self, number: int, state: Tensor | None, z: Tensor) -> Tensor:
        """Returns the state of a level, given the state and the z of the one above it."""
        new: Tensor = self.networks[number - 1](self.joined(state, z))
        return new if state is None else state + new

    def lowest(self, z: Tensor) -> Tensor:
        r"""Returns what is decoded of a joined z, (\*, B, D)."""
        *above, last = z.split(self.latent_dim, -1)
        state = None
        for number, each in enumerate(above, 1):
            state = self.below(number, state, each)
        return self.joined(state, last)

    def at(self, state: Tensor | None, number: int) -> tuple[Tensor, Tensor]:
        """Returns mean and scale of a level at a state."""
        if state is None:
            return self.loc, self.scale
        loc, raw = self.heads[number - 1](state).unbind(-2)
        return loc, floored(raw, loc, self.min_scale)

    def forward(self, context: Context | None = None) -> Descent:
        return Descent(self)


class BottomUp(Posterior):
    r"""Creates $q(z \mid x) = \prod_l q(z_l \mid h_l, u_l)$, relative to a prior.

    Args:
        down: The prior.
        features: What the encoder sees of a datum.
        encoder: Network from x to $u_L$.
        network: The other networks.
        context_dim: C.
    """

    def __init__(
        self,
        down: TopDown,
        features: Features,
        encoder: NetworkFactory,
        network: NetworkFactory,
        context_dim: int,
    ) -> None:
        super().__init__()
        # in a tuple, or the weights of the prior would count as the posterior's own, too
        self._down = (down,)
        self.features = features
        below, width, top = len(down.groups) - 1, down.width, (2, down.latent_dim)
        shapes = [*[(width,)] * below, top]  # of what each network says, the bottom first
        self.encoder = encoder(features.out_shape, shapes[0], context_dim)
        self.networks = nn.ModuleList(network((width,), shape, 0) for shape in shapes[1:])
        self.heads = nn.ModuleList(network((2 * width,), top, 0) for _ in range(below))

    def forward(self, x: Data, context: Context | None = None) -> Descent:
        seen = [self.encoder(self.features(x), context)]
        for number, network in enumerate(self.networks, 1):
            above = network(seen[-1])
            last = number == len(self.networks)  # the top: the parameters of its q
            seen.append(above if last else seen[-1] + above)
        return Descent(self._down[0], self, seen[::-1], x.shape[:1])

    def at(
        self, state: Tensor | None, number: int, seen: Tensor, prior: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Returns mean and scale of a level, relative to the prior's."""
        if state is not None:
            seen = self.heads[number - 1](self._down[0].joined(state, seen))
        shift, raw = seen.unbind(-2)
        loc = prior[0] + prior[1] * shift
        return loc, prior[1] * positive(raw) + self._down[0].min_scale * (1 + loc.abs())


class Way:
    """A pass from the top down: the state that it has reached, and the prior of each level.

    Args:
        down: The prior.
        up: The posterior, to be drawn from instead.
        seen: What the posterior saw of the data, the top first.
    """

    def __init__(self, down: TopDown, up: BottomUp | None, seen: Sequence[Tensor]) -> None:
        self.down, self.up, self.seen = down, up, seen
        self.state: Tensor | None = None
        self.priors: list[Distribution] = []

    def level(self, number: int, above: Tensor | None) -> Distribution:
        """Returns the distribution of a level, given the z of the one above it."""
        if above is not None:
            self.state = self.down.below(number, self.state, above)
        found = self.down.at(self.state, number)
        self.priors.append(_normal(*found))
        if self.up is None:
            return self.priors[-1]
        return _normal(*self.up.at(self.state, number, self.seen[number], found))


class Descent(Chain):
    """Creates the levels of a hierarchy as one distribution over the joined z: each draw and each
    density is one pass from the top down.

    Args:
        down: The prior.
        up: The posterior, where it is the distribution.
        seen: What the posterior saw of the data, the top first.
        batch_shape: () or (B,).
    """

    def __init__(
        self,
        down: TopDown,
        up: BottomUp | None = None,
        seen: Sequence[Tensor] = (),
        batch_shape: Sequence[int] = (),
    ) -> None:
        self.down, self.up, self.seen = down, up, seen
        super().__init__(down.groups, self._conditional, batch_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Descent:
        seen = [each.expand(*batch_shape, *each.shape[-2:]) for each in self.seen[:1]]
        seen += [each.expand(*batch_shape, each.shape[-1]) for each in self.seen[1:]]
        return Descent(self.down, self.up, seen, batch_shape)

    def descend(
        self, choose: Callable[[slice, Distribution], Tensor]
    ) -> tuple[Tensor, list[Part], Way]:
        """Returns the joined z of a pass, each level at it, and the pass.

        Args:
            choose: From the place of a level in the joined z and its distribution to its z.
        """
        way = Way(self.down, self.up, self.seen)
        drawn: list[Tensor] = []
        parts: list[Part] = []
        for number, (name, size) in enumerate(self.groups):
            here = slice(number * size, (number + 1) * size)
            part = way.level(number, drawn[-1] if drawn else None)
            z = choose(here, part)
            drawn.append(z)
            parts.append(Part(name, here, part, part.log_prob(z)))
        return torch.cat(drawn, -1), parts, way

    def rsample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Returns draws and their log-density."""
        shape = torch.Size(sample_shape) + self.batch_shape

        def choose(here: slice, part: Distribution) -> Tensor:
            return part.rsample(shape[: len(shape) - len(part.batch_shape)])

        z, parts, _ = self.descend(choose)
        return z, torch.stack([part.log_prob for part in parts]).sum(0)

    def parts(self, value: Tensor) -> list[Part]:
        return self.descend(lambda here, part: value[..., here])[1]

    def _drawn(self, sample_shape: Any, method: str) -> Tensor:
        return self.rsample_and_log_prob(sample_shape)[0]

    def _conditional(self, number: int, above: Tensor | None) -> Distribution:
        way = Way(self.down, self.up, self.seen)
        over: list[Tensor | None] = [None]
        if above is not None:
            over += above.split(self.down.latent_dim, -1)
        *_, found = [way.level(level, z) for level, z in enumerate(over[: number + 1])]
        return found


def _normal(loc: Tensor, scale: Tensor) -> Distribution:
    return Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)
