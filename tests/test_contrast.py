"""A generator and its critic: the game by hand, and its density by annealing."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from instances import CRITICS, exact_elbo
from torch import Tensor, nn
from ztest import assert_mean

import taut
from taut.contrast import GAN, Adversarial, Critic
from taut.evidence.importance import prior_proposal
from taut.features import Standardize
from taut.networks import MLP, Linear, Network
from taut.objectives import ELBO
from taut.use import tasks

D, EVENT = 2, (5,)


class Square(Network):
    """A critic f(x) = |x|^2 / 2 + w, whose gradient is x."""

    def __init__(self, in_shape: Any, out_shape: Any, context_dim: int = 0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return 0.5 * x.square().sum(-1, keepdim=True) + self.w


class Given(Network):
    """A critic that is a given function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function, self.w = function, nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.function(x) + self.w


SMALL = partial(MLP, hidden=(7,))


def gan(critic: Any = SMALL, decoder: Any = Linear, **own: Any) -> GAN:
    event = own.pop("event", EVENT)
    likelihood = taut.Normal(event, D, scale=own.pop("scale", "shared"), decoder=decoder)
    return GAN(event, D, likelihood, critic, Standardize(event, 0.0, 1.0), **own)


# ----------------------------------------------------------------------------- the game, by hand


@pytest.mark.parametrize(("loss", "r1"), [("non-saturating", 0.7), ("wasserstein-gp", 1.0)])
def test_the_game_of_a_critic_with_a_known_gradient(loss: str, r1: float) -> None:
    model, x = gan(Square, loss=loss, r1=r1), torch.randn(6, *EVENT)
    torch.manual_seed(3)
    game = model.play(x)
    torch.manual_seed(3)
    fake = model.generate(model.prior().sample(torch.Size((6,))))
    of_real, of_fake = (0.5 * t.square().sum(1) for t in (x, fake))
    if loss == "non-saturating":
        both = nn.functional.softplus(-of_real) + nn.functional.softplus(of_fake)
        penalty = 0.5 * r1 * x.square().sum(1)
        own, distance = nn.functional.softplus(-of_fake), math.log(2) - 0.5 * both
    else:
        both, own, distance = of_fake - of_real, -of_fake, of_real - of_fake
        between = fake + torch.rand(6, 1) * (x - fake)
        penalty = 10 * (between.norm(dim=1) - 1).square()
    torch.testing.assert_close(game.loss, both + own + penalty, rtol=0, atol=1e-10)
    torch.testing.assert_close(game.distance, distance, rtol=0, atol=1e-10)


@pytest.mark.parametrize("loss", ["non-saturating", "wasserstein-gp"])
def test_each_player_moves_by_the_gradient_of_its_own_loss(loss: str) -> None:
    """The generator is blind to the critic's terms, and the critic to the generator's."""
    model, x = gan(loss=loss, r1=0.0), torch.randn(6, *EVENT)
    generator = list(model.likelihood.decoder.parameters())
    critic = list(model.critic.parameters())
    torch.manual_seed(3)
    found = torch.autograd.grad(model.play(x).loss.sum(), [*generator, *critic])
    torch.manual_seed(3)
    fake = model.generate(model.prior().sample(torch.Size((6,))))
    of_fake, of_real = model.critic(fake)[:, 0], model.critic(x)[:, 0]
    softplus = nn.functional.softplus
    own = {"non-saturating": softplus(-of_fake), "wasserstein-gp": -of_fake}[loss]
    expected = torch.autograd.grad(own.sum(), generator, retain_graph=True)
    for a, b in zip(found, expected, strict=False):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    judged = {"non-saturating": softplus(-of_real) + softplus(of_fake)}.get(loss)
    if judged is None:
        between = (fake + torch.rand(6, 1) * (x - fake)).detach().requires_grad_()
        (slope,) = torch.autograd.grad(model.critic(between).sum(), between, create_graph=True)
        judged = of_fake - of_real + 10 * (slope.norm(dim=1) - 1).square()
    expected = torch.autograd.grad(judged.sum(), critic)
    for a, b in zip(found[len(generator) :], expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)  # 1e-12 below the root


def test_the_best_critic_says_the_divergence_of_jensen_and_shannon() -> None:
    """f = log p - log p_G: the mean of the distance is the divergence, here by a sum over a grid
    (false alarm 1e-6).
    """
    model = gan(event=(1,))
    with torch.no_grad():  # G = z_1: a standard normal
        model.likelihood.decoder.map.weight.copy_(torch.tensor([[1.0, 0.0]]))
        model.likelihood.decoder.map.bias.zero_()
    data, made = torch.distributions.Normal(1.0, 1.5), torch.distributions.Normal(0.0, 1.0)
    model.critic = Given(lambda x: data.log_prob(x) - made.log_prob(x))
    line = torch.linspace(-20, 20, 40001)
    p, q = data.log_prob(line).exp(), made.log_prob(line).exp()
    middle = 0.5 * (p + q)
    step = line[1] - line[0]
    divergence = 0.5 * step * (torch.xlogy(p, p / middle) + torch.xlogy(q, q / middle)).nansum()
    with torch.no_grad():
        game = model.play(data.sample(torch.Size((200_000, 1))))
    assert_mean(game.distance, divergence)
    assert float(divergence) < math.log(2)


def test_the_wasserstein_critic_says_how_far_two_points_are_apart() -> None:
    """Of a shift by d the distance is |d|: f(x) = x is the best critic, with no penalty."""
    model = gan(event=(1,), loss="wasserstein-gp")
    with torch.no_grad():
        model.likelihood.decoder.map.weight.zero_()
        model.likelihood.decoder.map.bias.fill_(-0.4)
    model.critic = Given(lambda x: x)
    game = model.play(torch.full((4, 1), 1.1))
    torch.testing.assert_close(game.distance, torch.full((4,), 1.5), rtol=0, atol=1e-12)
    # the generator's own loss is left: -f(G(z)) = 0.4
    torch.testing.assert_close(game.loss, torch.full((4,), -1.5 + 0.4), rtol=0, atol=1e-9)


def test_levels_are_rounded_as_a_picture_is_saved() -> None:
    model = gan(levels=(0, 3))
    with torch.no_grad():
        model.likelihood.decoder.map.weight.mul_(20)
    drawn = model.sample(50)
    assert set(drawn.unique().tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert not bool((gan().sample(50) == gan().sample(50).round()).any())


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"loss": "hinge"}, "loss must be 'non-saturating' or 'wasserstein-gp'"),
        ({"r1": -1.0}, "r1 must be a number of at least 0"),
        ({"scale": "per_entry"}, "a density whose scale is not decoded"),
    ],
)
def test_what_a_gan_cannot_be_is_refused(own: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gan(**own)


# -------------------------------------------------------------------------------- its density


def observed(model: GAN) -> taut.VAE:
    """Returns a generator with its Gaussian observation, and a posterior that knows nothing."""
    posterior = taut.DiagonalNormal(EVENT, D, encoder=Linear)
    return taut.VAE(model.prior, model.likelihood, posterior)


def test_the_density_of_a_linear_generator_by_annealing() -> None:
    """Exact: x is Gaussian with mean b and covariance W W' + sigma^2 I. Annealing is within 0.05
    nat of it for each row, and within 6 of its own errors.
    """
    torch.manual_seed(1)
    model = gan(scale=0.4)
    layer = model.likelihood.decoder.map
    covariance = layer.weight @ layer.weight.T + 0.16 * torch.eye(5)
    known = torch.distributions.MultivariateNormal(layer.bias, covariance)
    x = known.sample(torch.Size((4,)))
    exact = known.log_prob(x).detach()
    made = observed(model)
    start = prior_proposal(made)
    found = taut.annealing(made, x, 512, start=start, max_temperatures=400, seed=2)
    assert float((found.log_evidence - exact).abs().max()) < 0.05
    assert bool(((found.log_evidence - exact).abs() < 6 * found.log_evidence_error + 1e-3).all())


def test_a_game_moves_otherwise_than_a_bound() -> None:
    assert Adversarial().betas != ELBO().betas
    assert tasks.sample(gan(), 3).shape == (3, 5)


# ------------------------------------------------------------------ a critic of a VAE's pictures


CRITICISED = [row[0] for row in CRITICS]


def linear_vae() -> tuple[taut.VAE, Tensor]:
    problem = taut.LinearGaussian(5, 2)
    return problem.model(taut.DiagonalNormal((5,), 2, Linear)), problem.sample(6)


@pytest.mark.parametrize("objective", CRITICISED, ids=repr)
def test_the_critic_of_a_vae_leaves_its_value_the_plain_elbo(objective: Critic) -> None:
    """False alarm 1e-6, as all of these."""
    problem = taut.LinearGaussian(5, 2)
    model, x = problem.model(taut.DiagonalNormal((5,), 2, Linear)), problem.sample(1)
    values = [objective(model, x.expand(500, -1)).value for _ in range(20)]
    assert_mean(torch.cat(values), exact_elbo(problem, model, x))
    assert not objective.is_bound
    assert "not a bound" in objective.caveat
    assert not objective.couples_rows


def test_a_critic_of_a_vae_with_a_known_gradient() -> None:
    """f(x) = |x|^2 / 2, whose gradient is x: all terms by hand, of standardized pictures."""
    problem = taut.LinearGaussian(5, 2)
    posterior = taut.DiagonalNormal((5,), 2, Linear, data_loc=0.3, data_scale=2.0)
    model, x = problem.model(posterior), problem.sample(6)
    model.opponent = Square((5,), (1,))
    torch.manual_seed(3)
    bound = Critic(num_samples=4, weight=3.0, r1=0.7)(model, x)
    torch.manual_seed(3)
    draw = model.draw(x, 4)
    softplus = nn.functional.softplus
    means, seen = (model.decode(draw.z).mean - 0.3) / 2, (x - 0.3) / 2
    of_means, of_data = 0.5 * means.square().sum(-1), 0.5 * seen.square().sum(-1)
    aim = draw.log_likelihood.mean(0) - draw.groups[0].rate - 3.0 * softplus(-of_means).mean(0)
    loss = softplus(-of_data) + softplus(of_means).mean(0) + 0.35 * seen.square().sum(-1)
    torch.testing.assert_close(bound.target, aim.detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(bound.surrogate, aim - loss, rtol=0, atol=1e-10)


def test_a_vae_and_its_critic_move_each_by_its_own_loss() -> None:
    model, x = linear_vae()

    def gradients(objective: taut.Objective) -> dict[str, Tensor]:
        objective.prepare(model)
        torch.manual_seed(2)
        model.zero_grad()
        (-objective(model, x).surrogate.mean()).backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    torch.manual_seed(1)
    plain, none = gradients(ELBO()), gradients(Critic(weight=0.0))
    some, other = gradients(Critic(weight=3.0)), gradients(Critic(weight=3.0, r1=0.0))
    critic = {name for name in none if name.startswith("opponent.")}
    assert critic
    for name in set(none) - critic:
        torch.testing.assert_close(none[name], plain[name], rtol=0, atol=1e-10)
        torch.testing.assert_close(some[name], other[name], rtol=0, atol=1e-12)
    assert any(not torch.equal(some[name], none[name]) for name in set(none) - critic)
    assert any(not torch.equal(some[name], other[name]) for name in critic)
    for name in critic:
        torch.testing.assert_close(some[name], none[name], rtol=0, atol=1e-12)


def test_a_critic_makes_the_means_sharper(tmp_path: Path) -> None:
    """Pictures with noise of their own, which no z tells: means lack it, and a critic sees that.
    The kept run is without the critic.
    """
    torch.set_default_dtype(torch.float32)
    x = torch.randn(300, 2) @ torch.randn(2, 9) + 0.7 * torch.randn(300, 9)
    few = {"latent_dim": 2, "max_epochs": 60, "num_samples": 20, "threads": 1, "verbose": False}
    few |= {"encoder": "MLP(hidden=(20,))", "decoder": "MLP(hidden=(20,))"}
    energies = []
    for objective in ("ELBO()", "Critic(weight=30)"):
        run = taut.fit(x, tmp_path / objective[:4], objective=objective, **few)
        assert not any("opponent" in name for name in run.model.state_dict())
        with torch.no_grad():
            means = run.model.decode(run.model.encode(x).sample()).mean
        energies.append(float((means - means.mean(0)).square().sum()))
    assert energies[1] > 1.05 * energies[0]


@pytest.mark.parametrize("missing", [False, True])
def test_a_critic_refuses_what_has_no_pictures(missing: bool) -> None:
    if missing:
        seen = Standardize(EVENT, 0.0, 1.0, missing=True)
        likelihood = taut.Normal(EVENT, D, decoder=Linear)
        posterior = taut.DiagonalNormal(EVENT, D, Linear, features=seen)
        model: taut.Model = taut.VAE(taut.StandardNormal(D), likelihood, posterior)
    else:
        model = gan()
    with pytest.raises(ValueError, match="Critic needs a VAE of rows of one kind without gaps"):
        Critic()(model, torch.randn(3, *EVENT))


@pytest.mark.parametrize("name", ["weight", "r1"])
@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_weights_of_a_critic_are_numbers(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a number of at least 0"):
        Critic(**{name: value})
