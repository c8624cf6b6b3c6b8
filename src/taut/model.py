r"""A latent-variable model $p(x, z) = p(x \mid z) \, p(z)$ with an inference model $q(z \mid x)$.
Read this page first.

Three distributions make a model, each a module whose ``forward`` returns a
``torch.distributions.Distribution``: the prior $p(z)$, the likelihood $p(x \mid z)$ and the
posterior $q(z \mid x)$. A model does one thing with them: it *draws* $z_1, \dots, z_K \sim q(z \mid
x)$ and says how likely each of the three finds the draw. Everything that taut trains or reports is
a function of those log-densities, above all of

$$ \log w_k = \log p(x \mid z_k) + \log p(z_k) - \log q(z_k \mid x), $$

because $\mathbb{E}_q[w] = p(x)$ and hence $\mathbb{E}_q[\log w] \le \log p(x)$ (Jensen), with a
slack of exactly $\mathrm{KL}(q(z \mid x) \,\|\, p(z \mid x))$.

References: kingma2014, rezende2014.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from taut.distributions.chain import Chain, Part
from taut.distributions.correlated import CorrelatedNormal
from taut.distributions.sphere import UnitSphere
from taut.features import Condition, Features
from taut.system.memory import keep_freed
from taut.system.seeds import generator_states, replaying
from taut.types import Context, Data, Latent, PerDatum, PerSample

__all__ = [
    "VAE",
    "Draw",
    "Group",
    "Likelihood",
    "Model",
    "Posterior",
    "Prior",
    "Resizing",
    "evaluating",
    "frozen",
    "nearest",
]


class Prior(nn.Module, abc.ABC):
    r"""Abstract prior $p(z)$, or $p(z \mid c)$ where there is a context."""

    @abc.abstractmethod
    def forward(self, context: Context | None = None) -> Distribution:
        r"""Returns $p(z)$: batch shape () or (B,), event shape (D,)."""

    def share(self, posterior: Posterior) -> None:
        """Takes note of the posterior of the model that this is the prior of: a prior that is made
        of it keeps it, and others need not know.
        """

    def unshared(self) -> dict[str, Tensor]:
        """Returns the state of the same prior with nothing of the posterior's in it."""
        return self.state_dict()


class Resizing(nn.Module):
    """A module whose parameters take the shapes that a saved state has: they follow from the
    training rows.
    """

    def allocate(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Gives parameters and buffers these shapes, by their names; their values are to be
        loaded.
        """
        for name, own in [*self.named_parameters(), *self.named_buffers()]:
            if name in shapes and tuple(own.shape) != tuple(shapes[name]):
                own.data = own.new_zeros(tuple(shapes[name]))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        inner = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        self.allocate({name: value.shape for name, value in inner.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)


class Likelihood(nn.Module, abc.ABC):
    r"""Abstract likelihood $p(x \mid z)$.

    A normalised density or mass of the data point in the user's own units.
    """

    @abc.abstractmethod
    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        r"""Returns $p(x \mid z)$ for z (\*, B, D).

        Batch shape (\*, B), event shape that of one data point.
        """


class Posterior(nn.Module, abc.ABC):
    r"""Abstract approximate posterior $q(z \mid x)$: a network and a family of distributions.

    One that is known in another way, such as in closed form, defines ``forward`` alone.
    """

    features: Features
    slow_density = False
    """Whether log q of a z that is given costs a pass for each latent dimension."""
    usual_prior = "StandardNormal()"
    """The specification of the prior that it goes with, unless the user names one."""

    @classmethod
    def sizes(cls, **arguments: Any) -> dict[str, int]:
        """Returns the sizes that its arguments decide: ``latent_dim``, and what the prior must
        share. Of most posteriors they decide none.
        """
        return {}

    def parameters_at(self, x: Data, context: Context | None = None) -> dict[str, Tensor]:
        r"""Returns what the network says of each data point, (B, \*), by name: q's parameters."""
        if not hasattr(self, "features"):
            raise self._unknown()
        return self.parameters_seen(self.features(x), context)

    def parameters_seen(self, seen: Tensor, context: Context | None = None) -> dict[str, Tensor]:
        r"""Returns the same of data points as ``features`` shows them, (\*, B, \*features)."""
        raise self._unknown()

    def _unknown(self) -> NotImplementedError:
        return NotImplementedError(f"{type(self).__name__} has no parameters for each data point")

    def distribution(self, parameters: dict[str, Tensor]) -> Distribution:
        r"""Returns the member of the family with these parameters: batch shape (B,), event (D,)."""
        raise self._unknown()

    def forward(self, x: Data, context: Context | None = None) -> Distribution:
        r"""Returns $q(z \mid x)$: batch shape (B,), event shape (D,)."""
        return self.distribution(self.parameters_at(x, context))


class Group(NamedTuple):
    r"""One group of latent variables at K samples of B data, drawn given those above it.

    Args:
        name: What reports call it: "z", or "z1", "z2", ... from the top.
        slice: Where it stands in the joined z.
        prior: $p(z_l \mid z_{<l})$: batch shape (), (B,) or (K, B).
        posterior: $q(z_l \mid z_{<l}, x)$: batch shape (B,) or (K, B).
        log_prior: $\log p(z_l \mid z_{<l})$, (K, B), nats.
        log_posterior: $\log q(z_l \mid z_{<l}, x)$, (K, B), nats.
    """

    name: str
    slice: slice
    prior: Distribution
    posterior: Distribution
    log_prior: PerSample
    log_posterior: PerSample

    @property
    def rate(self) -> PerDatum:
        r"""$\mathrm{KL}(q(z_l \mid z_{<l}, x) \,\|\, p(z_l \mid z_{<l}))$, (B,), nats.

        The mean over the samples above; in closed form where torch has one, else the mean of
        log q - log p.
        """
        rate = self.analytic_rate
        if rate is None:
            rate = self.log_posterior - self.log_prior
        return rate.mean(0) if rate.dim() == 2 else rate

    @property
    def analytic_rate(self) -> Tensor | None:
        """The same for each sample above, (B,) or (K, B); None where torch has no closed form."""
        try:
            return kl_divergence(self.posterior, self.prior)
        except NotImplementedError:
            return None


class Draw(NamedTuple):
    r"""K samples $z_k \sim q(z \mid x_b)$ for each of B data, and their log-densities in nats.

    Args:
        z: The samples, (K, B, D): all groups of latent variables joined, the top first.
        log_likelihood: $\log p(x_b \mid z_k)$, (K, B).
        log_prior: $\log p(z_k)$, (K, B).
        log_posterior: $\log q(z_k \mid x_b)$, (K, B).
        groups: The groups of latent variables; most models have one.
        likelihood: $p(x \mid z_k)$, batch shape (K, B): what single entries are judged and filled
            in by.
        penalty: A term that is minimised and never reported, (B,): the commitment of a codebook.
        complete: Whether all of z was looked at. Where some groups were picked by chance (one time
            of a diffusion) the draw is an unbiased ELBO and no importance weight.
    """

    z: Latent
    log_likelihood: PerSample
    log_prior: PerSample
    log_posterior: PerSample
    groups: tuple[Group, ...]
    likelihood: Distribution
    penalty: PerDatum | None = None
    complete: bool = True

    @property
    def log_joint(self) -> PerSample:
        r"""$\log p(x, z_k)$, (K, B).

        Raises:
            ValueError: the draw is not complete.
        """
        self._whole()
        return self.log_likelihood + self.log_prior

    @property
    def elbo(self) -> PerSample:
        """An unbiased sample of the ELBO, (K, B)."""
        return self.log_likelihood + self.log_prior - self.log_posterior

    @property
    def log_weight(self) -> PerSample:
        r"""$\log w_k = \log p(x, z_k) - \log q(z_k \mid x)$, (K, B).

        Raises:
            ValueError: the draw is not complete.
        """
        self._whole()
        return self.elbo

    def _whole(self) -> None:
        if not self.complete:
            raise ValueError(
                "this model looks at some of its latent variables at a time: its glances give the "
                "ELBO, and not the weights of importance sampling; train it with ELBO(), and "
                "weigh a whole draw"
            )


class Model(nn.Module, abc.ABC):
    """Abstract model: what objectives and evaluations know of one.

    Five methods make a model. ``condition`` is what of a data point is the context of the rest, if
    anything is.
    """

    condition: Condition | None
    started = False
    """Whether the first weights are a fit, which training keeps unless it improves on it."""
    no_density = ""
    """Why there is no p(x) to speak of: one clause, of a model that only makes samples."""

    def __init__(self) -> None:
        super().__init__()
        self.condition = None

    @abc.abstractmethod
    def encode(self, x: Data, context: Context | None = None) -> Distribution:
        r"""Returns $q(z \mid x)$ over the joined z, batch shape (B,)."""

    @abc.abstractmethod
    def decode(self, z: Tensor, context: Context | None = None) -> Distribution:
        r"""Returns $p(x \mid z)$ for z (\*, B, D), batch shape (\*, B)."""

    @abc.abstractmethod
    def latent_prior(self, context: Context | None = None) -> Distribution:
        r"""Returns $p(z)$ over the joined z: batch shape () or (B,)."""

    @abc.abstractmethod
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
        r"""Returns K = ``num_samples`` samples of the posterior for each data point, with their
        log-densities.

        Args:
            x: Data, (B, \*event).
            num_samples: K.
            context: What the model is conditioned on, (B, C).
            reparameterize: Whether gradients flow through z (``rsample``) or not (``sample``).
            stop_posterior: Whether the gradient of ``log_posterior`` omits the parameters of the
                posterior, so that they are reached through z alone.
            proposal: What to draw from, and to weigh by, instead of the model's own posterior,
                batch shape (B,).
            given: The z to evaluate instead of drawing, (K, B, D).

        Raises:
            ValueError: reparameterization was asked for and the posterior has none,
                ``stop_posterior`` was asked of a proposal, or a part's log-density is not (K, B).
        """

    def glance(self, x: Data, num_samples: int = 1, *, context: Context | None = None) -> Draw:
        """Returns a draw for the ELBO alone: where a whole one takes many passes, one that looks at
        some of its latent variables by chance, and has no weight.
        """
        return self.draw(x, num_samples, context=context)

    @property
    @abc.abstractmethod
    def halves(self) -> dict[str, nn.Module]:
        """The modules of "encoder" and "decoder": what infers, and what generates."""

    @property
    def features(self) -> Features | None:
        """What the encoder sees of data, where it does not see them as they are."""
        return None

    @property
    def scale_floor(self) -> Tensor | None:
        """The smallest scales that a likelihood can learn, in the units of the data."""
        return None

    @property
    def slow_density(self) -> bool:
        """Whether log q of a z that is given costs a pass for each latent dimension."""
        return False

    def split(self, x: Data, context: Context | None = None) -> tuple[Tensor, Context | None]:
        """Returns what of a data point is modelled, and the context.

        The given one, or that of the condition.
        """
        if self.condition is None:
            return x, context
        return self.condition(x)

    def embed(self, x: Data, context: Context | None = None) -> Tensor:
        r"""Returns numbers that stand for each data point, (B, E): the mean of $q(z \mid x)$.

        Raises:
            NotImplementedError: the posterior has no mean.
        """
        return self.encode(x, context).mean

    def point(self, x: Data, context: Context | None = None) -> Tensor:
        r"""Returns the z that stands for each data point, (B, D): the mean of $q(z \mid x)$, or its
        direction on a sphere.

        Raises:
            NotImplementedError: the posterior has no mean.
        """
        q = self.encode(x, context)
        return nearest(q, q.mean)

    def log_joint(self, z: Tensor, x: Data, context: Context | None = None) -> PerSample:
        r"""Returns $\log p(x_b, z_{kb})$ of z (K, B, D), (K, B), nats."""
        x, context = self.split(x, context)
        log_prior = self.latent_prior(context).log_prob(z)
        return self.decode(z, context).log_prob(x) + log_prior

    def sample(self, num_samples: int, *, context: Context | None = None) -> Tensor:
        r"""Returns draws of x: (N, \*event), or (N, B, \*event) for a context of B rows."""
        if self.condition is not None and context is None:
            raise ValueError("this model is conditioned on a context: give it")
        prior = self.latent_prior(context)
        if context is not None and not prior.batch_shape:
            prior = prior.expand((len(context),))
        return self.decode(prior.sample(torch.Size((num_samples,))), context).sample()

    def own_posterior(self) -> nn.Module | None:
        """Returns the posterior where it can be trained on while all else stays as it is."""
        return None

    def redraw(self, x: Data) -> Tensor:
        r"""Returns a draw of the model for each data point, given its context, with the same
        gaps.
        """
        if self.condition is None:
            drawn = self.sample(len(x)).to(x)
        else:
            context = self.condition(x)[1]
            drawn = self.condition.join(x, self.sample(1, context=context)[0].to(x))
        return torch.where(x.isnan(), x, drawn)


class VAE(Model):
    r"""Creates a variational autoencoder from its three distributions.

    Where prior and posterior are ``taut.distributions.Chain``s of the same groups, it has several
    groups of latent variables.

    Args:
        prior: $p(z)$.
        likelihood: $p(x \mid z)$.
        posterior: $q(z \mid x)$.
        condition: What of a data point is the context of the rest: columns, or a row's total.
            Everything said of x is then of p(rest | context), and ``decode`` and ``sample`` need
            the context.

    References: kingma2014, rezende2014, sonderby2016.
    """

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        posterior: Posterior,
        condition: Condition | None = None,
    ) -> None:
        super().__init__()
        self.prior = prior
        self.likelihood = likelihood
        self.posterior = posterior
        self.condition = condition
        prior.share(posterior)

    def encode(self, x: Data, context: Context | None = None) -> Distribution:
        return self.posterior(*self.split(x, context))

    def decode(self, z: Tensor, context: Context | None = None) -> Distribution:
        return self.likelihood(z, context)

    def latent_prior(self, context: Context | None = None) -> Distribution:
        return self.prior(context)

    @property
    def features(self) -> Features | None:
        return getattr(self.posterior, "features", None)

    @property
    def scale_floor(self) -> Tensor | None:
        return getattr(self.likelihood, "scale_floor", None)

    @property
    def slow_density(self) -> bool:
        return self.posterior.slow_density

    def own_posterior(self) -> nn.Module | None:
        learns = next(self.posterior.parameters(), None) is not None
        # a prior that is made of the posterior would move with it
        apart = self.prior.unshared().keys() == self.prior.state_dict().keys()
        return self.posterior if learns and apart else None

    @property
    def halves(self) -> dict[str, nn.Module]:
        return {"encoder": self.posterior, "decoder": nn.ModuleList([self.likelihood, self.prior])}

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
        if stop_posterior and proposal is not None:
            raise ValueError(
                "stop_posterior needs the model's own posterior: a proposal has no parameters to "
                "stop"
            )
        x, context = self.split(x, context)
        before = generator_states() if stop_posterior else []
        q = self.posterior(x, context) if proposal is None else proposal
        if reparameterize and given is None and not q.has_rsample:
            biased = ", or StraightThrough(), which is biased" if hasattr(q, "relaxed") else ""
            raise ValueError(
                f"{type(self.posterior).__name__} cannot be reparameterized: train it with "
                f"ScoreFunction(num_samples=8) or VIMCO(num_samples=8){biased}"
            )
        z, log_posterior = _sampled(q, num_samples) if given is None else (given, None)
        made = q if given is None and isinstance(q, CorrelatedNormal) else None
        if not reparameterize:
            z = z.detach()
            if hasattr(q, "attached"):  # a value of z may have parameters, whichever it is
                z = q.attached(z)
            if torch.is_grad_enabled():
                # What came with the samples is followed along their path, and z stays where it is.
                log_posterior = None if made is None else made.log_prob_at(z, made.noise)
        if stop_posterior:
            # Evaluated again with its parameters frozen, on the same noise: dropout must not make
            # it another q.
            with frozen(self.posterior), replaying(before):
                fixed = self.posterior(x, context)
                at = None if made is None else fixed.log_prob_at(z, made.noise)
                posterior = _parts(fixed, z, at)
        else:
            posterior = _parts(q, z, log_posterior)
        prior = _parts(self.latent_prior(context), z)
        likelihood = self.decode(z, context)
        draw = Draw(
            z,
            likelihood.log_prob(x),
            _total(prior),
            _total(posterior),
            _groups(prior, posterior),
            likelihood,
            getattr(q, "penalty", None),
        )
        self._check(draw, torch.Size((len(z), len(x))))
        return draw

    def _check(self, draw: Draw, shape: torch.Size) -> None:
        """Refuses log-densities of another shape.

        A forgotten Independent would broadcast: each data point would silently be trained on the
        sum of the batch.
        """
        for name in ("log_likelihood", "log_prior", "log_posterior"):
            found = getattr(draw, name).shape
            if found != shape:
                part = type(getattr(self, name.removeprefix("log_"))).__name__
                raise ValueError(
                    f"{name} of {part} has shape {tuple(found)}, not {tuple(shape)}: its "
                    "distribution needs the event dimensions of a data point, as "
                    "Independent(distribution, dims) gives them"
                )


def nearest(distribution: Distribution, z: Tensor) -> Tensor:
    """Returns the points that are nearest to z where a distribution lives, (*, D): z itself but on
    a sphere.
    """
    try:
        support = distribution.support
    except NotImplementedError:  # it does not say
        return z
    return support.nearest(z) if isinstance(support, UnitSphere) else z


def _sampled(q: Distribution, num_samples: int) -> tuple[Tensor, Tensor | None]:
    """Returns samples, (K, B, D), and their log-density where q gives both at once.

    A flow needs no inverse at its own samples. Where q can be reparameterized it is, also without
    gradients: a scale that overflowed gives NaN then, which training skips.
    """
    shape = torch.Size((num_samples,))
    if hasattr(q, "rsample_and_log_prob"):
        return q.rsample_and_log_prob(shape)
    if q.has_rsample:
        return q.rsample(shape), None
    return q.sample(shape), None


def _parts(distribution: Distribution, z: Tensor, log_prob: Tensor | None = None) -> list[Part]:
    """Returns the groups of a distribution at z: of one that is not a chain it is one group."""
    if isinstance(distribution, Chain):
        return distribution.parts(z)
    if log_prob is None:
        log_prob = distribution.log_prob(z)
    return [Part("z", slice(0, z.shape[-1]), distribution, log_prob)]


def _total(parts: list[Part]) -> Tensor:
    total = parts[0].log_prob
    for part in parts[1:]:
        total = total + part.log_prob
    return total


def _groups(prior: list[Part], posterior: list[Part]) -> tuple[Group, ...]:
    """Returns the groups that prior and posterior share.

    None where one of them is a chain and the other, such as a proposal, is not.
    """
    if [p.slice for p in prior] != [q.slice for q in posterior]:
        return ()
    return tuple(
        Group(p.name, p.slice, p.distribution, q.distribution, p.log_prob, q.log_prob)
        for p, q in zip(prior, posterior, strict=True)
    )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module into evaluation mode for a block, whatever happens in it, and then back."""
    keep_freed()
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Stops gradients to the parameters of a module, but not through its inputs."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    for p in trainable:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trainable:
            p.requires_grad_(True)
