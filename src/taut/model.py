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
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from taut.features import Condition
from taut.system.memory import keep_freed
from taut.system.seeds import generator_states, set_generator_states, untouched
from taut.types import Context, Data, Latent, PerSample

__all__ = ["VAE", "Draw", "Likelihood", "Model", "Posterior", "Prior", "evaluating", "frozen"]


class Prior(nn.Module, abc.ABC):
    r"""Abstract prior $p(z)$, or $p(z \mid c)$ where there is a context."""

    @abc.abstractmethod
    def forward(self, context: Context | None = None) -> Distribution:
        r"""Returns $p(z)$: batch shape () or (B,), event shape (D,)."""


class Likelihood(nn.Module, abc.ABC):
    r"""Abstract likelihood $p(x \mid z)$.

    A normalised density or mass of the datum in the user's own units.
    """

    @abc.abstractmethod
    def forward(self, z: Tensor, context: Context | None = None) -> Distribution:
        r"""Returns $p(x \mid z)$ for z (\*, B, D).

        Batch shape (\*, B), event shape that of one datum.
        """


class Posterior(nn.Module, abc.ABC):
    r"""Abstract approximate posterior $q(z \mid x)$."""

    @abc.abstractmethod
    def forward(self, x: Data, context: Context | None = None) -> Distribution:
        r"""Returns $q(z \mid x)$: batch shape (B,), event shape (D,)."""


class Draw(NamedTuple):
    r"""K samples $z_k \sim q(z \mid x_b)$ for each of B data, and their log-densities in nats.

    Args:
        z: The samples, (K, B, D).
        log_likelihood: $\log p(x_b \mid z_k)$, (K, B).
        log_prior: $\log p(z_k)$, (K, B).
        log_posterior: $\log q(z_k \mid x_b)$, (K, B).
        prior: The distribution that ``log_prior`` comes from: what an analytic KL needs.
        posterior: The distribution that z comes from.
        likelihood: $p(x \mid z_k)$, batch shape (K, B): what single entries are judged and filled
            in by.
    """

    z: Latent
    log_likelihood: PerSample
    log_prior: PerSample
    log_posterior: PerSample
    prior: Distribution
    posterior: Distribution
    likelihood: Distribution

    @property
    def log_joint(self) -> PerSample:
        r"""$\log p(x, z_k)$, (K, B)."""
        return self.log_likelihood + self.log_prior

    @property
    def log_weight(self) -> PerSample:
        r"""$\log w_k = \log p(x, z_k) - \log q(z_k \mid x)$, (K, B)."""
        return self.log_joint - self.log_posterior


class Model(nn.Module, abc.ABC):
    """Abstract model: what objectives and evaluations know of one."""

    @abc.abstractmethod
    def encode(self, x: Data, context: Context | None = None) -> Distribution:
        r"""Returns $q(z \mid x)$, batch shape (B,)."""

    @abc.abstractmethod
    def decode(self, z: Tensor, context: Context | None = None) -> Distribution:
        r"""Returns $p(x \mid z)$ for z (\*, B, D), batch shape (\*, B)."""

    @abc.abstractmethod
    def draw(
        self,
        x: Data,
        num_samples: int = 1,
        *,
        context: Context | None = None,
        reparameterize: bool = True,
        stop_posterior: bool = False,
        posterior: Distribution | None = None,
    ) -> Draw:
        r"""Returns K = ``num_samples`` samples of the posterior for each datum, with their
        log-densities.

        Args:
            x: Data, (B, \*event).
            num_samples: K.
            context: What the model is conditioned on, (B, C).
            reparameterize: Whether gradients flow through z (``rsample``) or not (``sample``).
            stop_posterior: Whether the parameters of the posterior are left out of the gradient of
                ``log_posterior``, so that they are reached through z alone.
            posterior: A $q(z \mid x)$ to draw from in place of the model's own, so that it need not
                be encoded again.

        Fails:
            ValueError: reparameterization was asked for and the posterior has none,
                ``stop_posterior`` was asked of a given posterior, or a part's log-density is not
                (K, B).
        """

    @abc.abstractmethod
    def sample(self, num_samples: int, *, context: Context | None = None) -> Tensor:
        r"""Returns draws of x: (N, \*event), or (N, B, \*event) for a context of B rows."""

    def redraw(self, x: Data) -> Tensor:
        r"""Returns a draw of the model in place of each datum.

        Given what it is conditioned on of that, with the same gaps.
        """
        drawn = self.sample(len(x)).to(x)
        return torch.where(x.isnan(), x, drawn)


class VAE(Model):
    r"""Creates a variational autoencoder from its three distributions.

    Args:
        prior: $p(z)$.
        likelihood: $p(x \mid z)$.
        posterior: $q(z \mid x)$.
        condition: What of a datum is the context of the rest: columns, or a row's total. Everything
            said of x is then of p(rest | context), and ``decode`` and ``sample`` need the context.

    References: kingma2014, rezende2014.
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

    def split(self, x: Data, context: Context | None = None) -> tuple[Tensor, Context | None]:
        """Returns what of a datum is modelled, and the context.

        The one that is given, or that of the condition.
        """
        return (x, context) if self.condition is None else self.condition(x)

    def encode(self, x: Data, context: Context | None = None) -> Distribution:
        return self.posterior(*self.split(x, context))

    def decode(self, z: Tensor, context: Context | None = None) -> Distribution:
        return self.likelihood(z, context)

    def draw(
        self,
        x: Data,
        num_samples: int = 1,
        *,
        context: Context | None = None,
        reparameterize: bool = True,
        stop_posterior: bool = False,
        posterior: Distribution | None = None,
    ) -> Draw:
        if stop_posterior and posterior is not None:
            raise ValueError(
                "stop_posterior needs the model's own posterior: a given one has no parameters to "
                "stop"
            )
        x, context = self.split(x, context)
        before = generator_states() if stop_posterior else []
        q = self.posterior(x, context) if posterior is None else posterior
        if reparameterize and not q.has_rsample:
            raise ValueError(
                f"{type(self.posterior).__name__} cannot be reparameterized: train it with "
                f"ScoreFunction(num_samples=8) "
                "or VIMCO(num_samples=8)"
            )
        shape = torch.Size((num_samples,))
        # By rsample without gradients too, where there is one: a scale that overflowed gives NaN,
        # which training skips.
        z = q.rsample(shape) if q.has_rsample else q.sample(shape)
        z = z if reparameterize else z.detach()
        if stop_posterior:
            # Evaluated again with its parameters frozen, and with the same noise: dropout must not
            # make it another q.
            with frozen(self.posterior), untouched():
                set_generator_states(before)
                log_posterior = self.posterior(x, context).log_prob(z)
        else:
            log_posterior = q.log_prob(z)
        prior = self.prior(context)
        likelihood = self.decode(z, context)
        draw = Draw(
            z, likelihood.log_prob(x), prior.log_prob(z), log_posterior, prior, q, likelihood
        )
        for name in ("log_likelihood", "log_prior", "log_posterior"):
            # A forgotten Independent would broadcast: each datum would silently be trained on the
            # sum of the batch.
            if getattr(draw, name).shape != (num_samples, len(x)):
                part = type(getattr(self, name.removeprefix("log_"))).__name__
                raise ValueError(
                    f"{name} of {part} has shape {tuple(getattr(draw, name).shape)}, not "
                    f"{(num_samples, len(x))}: its "
                    "distribution needs the event dimensions of a datum, as "
                    "Independent(distribution, dims) gives them"
                )
        return draw

    def sample(self, num_samples: int, *, context: Context | None = None) -> Tensor:
        if self.condition is not None and context is None:
            raise ValueError("this model is conditioned on a context: give it")
        prior = self.prior(context)
        if context is not None and not prior.batch_shape:
            prior = prior.expand((len(context),))
        return self.decode(prior.sample(torch.Size((num_samples,))), context).sample()

    def redraw(self, x: Data) -> Tensor:
        if self.condition is None:
            return super().redraw(x)
        drawn = self.condition.join(x, self.sample(1, context=self.condition(x)[1])[0].to(x))
        return torch.where(x.isnan(), x, drawn)


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
