"""Hierarchies of maps, and a learned prior on top: convolutions set to the exact posterior of a
linear hierarchy, levels beside their densities, and the mean of the top's own posteriors.
"""

from __future__ import annotations

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from test_hierarchical import PLAIN, WIDTH, gradients, linear_problem, solved
from torch import Tensor, nn
from ztest import assert_mean

import taut
from taut import features
from taut.networks.maps import Maps, ToImage, halved, resized
from taut.priors import IndependentBernoulli, UniformSphere, VampPrior

SIZES = [(5, 5), (3, 8, 6), (12, 7, 1), (2, 2)]
SMALL = partial(taut.MLP, hidden=(8,))


def of_maps(shape: tuple[int, ...], levels: int, **settings: object) -> taut.HierarchicalVAE:
    """Returns a hierarchy of maps whose blocks and heads say something."""
    normal = partial(taut.Normal, shape, scale=1.0)
    model = taut.HierarchicalVAE(shape, 2, normal, levels, channels=3, **settings)
    for p in model.parameters():
        nn.init.normal_(p, std=0.15)
    return model


# --- Closed form ----------------------------------------------------------------------------------


def linear_maps(levels: int) -> taut.HierarchicalVAE:
    """Returns zeros over images of two by two, whose maps are single values, each network with its
    matrix as ``map``: the tap of a convolution that sees the value.
    """
    normal = partial(taut.Normal, (2, 2), scale=0.7)
    settings = {"levels": levels, "channels": WIDTH, "min_scale": 1e-300}
    model = taut.HierarchicalVAE((2, 2), 1, normal, **settings)
    for p in model.parameters():
        nn.init.zeros_(p)
    for network in model.modules():
        if isinstance(network, Maps):
            first, last = network.layers[1], network.layers[-1]
            with torch.no_grad():  # all but the head of a prior has a convolution to set
                last.weight[:, :, 0, 0] = torch.eye(len(last.weight), WIDTH)
            taps = first.weight[:, :, 1, 1]
            if first.stride == (2, 2):  # of an image: its pixels are the other corners
                taps = first.weight[:, 0, 1:, 1:].flatten(1)
                assert network is model.posterior.encoder
            network.map = SimpleNamespace(weight=Later(taps, first, network), bias=first.bias)
    return model


class Later:
    """A matrix of a convolution, written where its taps are."""

    def __init__(self, taps: Tensor, layer: nn.Conv2d, network: Maps) -> None:
        self.layer, self.image = layer, layer.stride == (2, 2)
        self.columns = taps.shape[1]

    def __setitem__(self, place: tuple, value: Tensor) -> None:
        weight = self.layer.weight
        if not self.image:
            weight[:, :, 1, 1][place] = value
            return
        matrix = weight[:, 0, 1:, 1:].flatten(1).clone()
        matrix[place] = value
        weight[:, 0, 1:, 1:] = matrix.unflatten(1, (2, 2))


CORNERS = [(2, 2), (2, 0), (0, 2), (0, 0)]  # the tap that one of four equal pixels alone sees


def solved_maps(problem: taut.LinearHierarchy, levels: int) -> taut.HierarchicalVAE:
    model = linear_maps(levels)
    decoder = model.likelihood.decoder
    assert isinstance(decoder, ToImage)
    size = model.prior.out_dim
    decoder.map = SimpleNamespace(weight=torch.zeros(4, size), bias=torch.zeros(4))
    solved(problem, levels, model)
    first, last = decoder.layers[0], decoder.layers[-1]
    with torch.no_grad():
        first.weight[0, -1, 1, 1] = 1.0  # the last z
        first.bias[1] = 1.0
        for pixel, (i, j) in enumerate(CORNERS):
            last.weight[0, 0, i, j] = decoder.map.weight[pixel, -1]
            last.weight[0, 1, i, j] = decoder.map.bias[pixel]
    return model


LEVELS = [1, 2, 3]


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("objective", PLAIN, ids=repr)
def test_every_objective_is_the_evidence_under_the_exact_posterior(
    objective: taut.Objective, levels: int
) -> None:
    problem = linear_problem(levels, 4)
    x = problem.sample(6)
    value = objective(solved_maps(problem, levels), x.unflatten(1, (2, 2))).value
    torch.testing.assert_close(value, problem.log_evidence(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", [taut.DReG, taut.StickingTheLanding], ids=lambda k: k.__name__)
def test_no_gradient_of_q_is_left_under_the_exact_posterior(kind: type) -> None:
    problem = linear_problem(3, 4)
    model, x = solved_maps(problem, 3), problem.sample(4).unflatten(1, (2, 2))
    loss = kind(num_samples=3)(model, x).surrogate.sum()
    parameters = list(model.posterior.parameters())
    for gradient in torch.autograd.grad(loss, parameters, allow_unused=True):
        assert gradient is not None
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)


# --- Maps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("levels", [1, 2, 4])
def test_a_draw_is_what_its_distributions_say_of_it(shape: tuple[int, ...], levels: int) -> None:
    model, x = of_maps(shape, levels), torch.randn(3, *shape)
    draw = model.draw(x, 4)
    p, q = model.latent_prior(), model.encode(x)
    torch.testing.assert_close(draw.log_prior, p.log_prob(draw.z))
    torch.testing.assert_close(draw.log_posterior, q.log_prob(draw.z))
    torch.testing.assert_close(draw.log_likelihood, model.decode(draw.z).log_prob(x))
    for settings in ({}, {"stop_posterior": True}, {"proposal": q}):
        again = model.draw(x, given=draw.z, **settings)
        torch.testing.assert_close(again.log_weight, draw.log_weight)
    for number, group in enumerate(draw.groups):
        above = draw.z[..., : group.slice.start] if number else None
        part = q.conditional(number, above)
        torch.testing.assert_close(part.log_prob(draw.z[..., group.slice]), group.log_posterior)
    assert model.sample(2).shape == (2, *shape)
    # one row does not see another
    alone = model.draw(x[1:2], given=draw.z[:, 1:2])
    torch.testing.assert_close(alone.log_weight, draw.log_weight[:, 1:2])


def test_sides_rise_from_level_to_level() -> None:
    model = of_maps((3, 28, 20), 3)
    assert model.prior.levels.sides == [(4, 3), (7, 5), (14, 10)]
    assert [group.slice for group in model.draw(torch.randn(1, 3, 28, 20)).groups] == [
        slice(0, 24),
        slice(24, 94),
        slice(94, 374),
    ]
    assert of_maps((5, 3), 4).prior.levels.sides == [(1, 1), (1, 1), (2, 1), (3, 2)]


@pytest.mark.parametrize("shape", [(5, 5), (3, 8, 6)])
def test_the_rate_of_each_level_is_the_mean_of_the_densities(shape: tuple[int, ...]) -> None:
    """In closed form for each draw of those above it; alpha 1e-6 for all."""
    model, x = of_maps(shape, 3), torch.randn(2, *shape)
    with torch.no_grad():
        draw = model.draw(x, 4000)
        rates = [group.analytic_rate.expand(4000, 2) for group in draw.groups]
        sampled = [group.log_posterior - group.log_prior for group in draw.groups]
    assert_mean(torch.cat(sampled, 1) - torch.cat(rates, 1), 0.0)
    assert all(float(rate.min()) > 1e-3 for rate in rates)


def test_the_posterior_is_relative_to_the_prior() -> None:
    model, x = of_maps((5, 5), 3), torch.randn(3, 5, 5)
    for head in [*model.posterior.heads, model.posterior.networks[-1]]:
        for p in head.layers[-1].parameters():
            nn.init.zeros_(p)
    for group in model.draw(x, 4).groups:
        torch.testing.assert_close(group.rate, torch.zeros(3), rtol=0, atol=1e-6)
        assert group.slice.start == 0 or group.prior.mean.abs().max() > 0.01


def test_every_level_of_the_prior_starts_at_a_standard_normal_and_learns() -> None:
    model = taut.HierarchicalVAE((5, 5), 2, partial(taut.Normal, (5, 5)), 3, channels=4)
    x = torch.randn(6, 5, 5)
    draw = model.draw(x, 2)
    for group in draw.groups:
        assert torch.equal(group.prior.mean, torch.zeros_like(group.prior.mean))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(3):  # what is zero at first hides what comes before it
        optimizer.zero_grad()
        taut.ELBO()(model, x).surrogate.mean().neg().backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().amax()) > 0, name


def test_dreg_is_unbiased_with_maps() -> None:
    """Beside the reparameterized gradient of the same bound; alpha 1e-6."""
    shape = (3, 2)
    normal = partial(taut.Normal, shape, scale=1.0)
    model = taut.HierarchicalVAE(shape, 1, normal, 2, channels=2)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    x = torch.full((1, *shape), 0.5)
    found = [gradients(kind(num_samples=3), model, x, 40) for kind in (taut.DReG, taut.IWAE)]
    assert_mean(found[0] - found[1], 0.0)
    assert found[1].mean(0).abs().max() > 0.1


def test_gaps_are_seen() -> None:
    shape = (3, 6, 5)
    seen = features.Standardize(shape, missing=True)
    model, x = of_maps(shape, 2, features=seen), torch.randn(4, *shape)
    gone = x.clone()
    gone[:, 1, 2, 3] = torch.nan
    zero = gone.nan_to_num(0.0)
    with torch.no_grad():
        found = [model.embed(each) for each in (x, gone, zero)]
    for a, b in ((0, 1), (1, 2)):  # a gap is not a zero
        assert float((found[a] - found[b]).abs().amax()) > 1e-6


def test_maps_change_their_side_by_hand() -> None:
    maps = torch.arange(15.0).view(1, 1, 3, 5)
    assert halved((3, 5)) == (2, 3)
    small = resized(maps, (2, 3))
    expected = torch.tensor([[3.0, 5.0, 6.5], [10.5, 12.5, 14.0]])  # what is there, at the edges
    torch.testing.assert_close(small[0, 0], expected, rtol=0, atol=1e-12)
    large = resized(small, (3, 5))
    rows, columns = torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1, 1, 2])
    torch.testing.assert_close(large[0, 0], expected[rows][:, columns], rtol=0, atol=1e-12)
    assert resized(maps, (3, 5)) is maps


def test_a_state_keeps_those_above_it() -> None:
    model, z = of_maps((5, 5), 3), torch.randn(1, 2, 2 * (1 + 4 + 9))
    for p in model.prior.networks[-1].parameters():
        nn.init.zeros_(p)
    other = z.clone()
    other[..., :2] += 1
    assert (model.decode(z).mean - model.decode(other).mean).abs().min() > 1e-6


# --- The prior of the top -------------------------------------------------------------------------


def with_top(top: object, levels: int = 2, **settings: object) -> taut.HierarchicalVAE:
    normal = partial(taut.Normal, (2, 3), decoder=SMALL)
    model = taut.HierarchicalVAE((2, 3), 2, normal, levels, top=top, **settings)
    for name, p in model.named_parameters():
        if "pseudo" not in name:
            nn.init.normal_(p, std=0.3)
    return model


VAMP = partial(VampPrior, components=3)


@pytest.mark.parametrize("settings", [{"width": 6, "encoder": SMALL}, {"channels": 3}], ids=str)
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_the_top_is_the_mean_of_its_own_posteriors(levels: int, settings: dict) -> None:
    """Rows as pseudo-inputs: then the density of z_1 is the mean of those of q(z_1 | x)."""
    model, x = with_top(VAMP, levels, **settings), torch.randn(3, 2, 3)
    model.prior.top.start(model.features(x))
    draw = model.draw(torch.randn(5, 2, 3), 4)
    top = draw.groups[0]
    z = draw.z[..., top.slice]
    each = model.encode(x).conditional(0, None).log_prob(z[..., None, :])  # (4, 5, 3)
    known = each.logsumexp(-1) - torch.tensor(3.0).log()
    torch.testing.assert_close(top.log_prior, known, rtol=0, atol=1e-10)
    torch.testing.assert_close(draw.log_prior, model.latent_prior().log_prob(draw.z))
    total = sum(group.log_prior for group in draw.groups)
    torch.testing.assert_close(draw.log_prior, total, rtol=0, atol=1e-10)


@pytest.mark.parametrize("settings", [{"width": 6, "encoder": SMALL}, {"channels": 3}], ids=str)
def test_samples_of_the_top_are_those_of_its_posteriors(settings: dict) -> None:
    model, x = with_top(VAMP, 2, **settings), torch.randn(3, 2, 3)
    model.prior.top.start(model.features(x))
    prior = model.latent_prior()
    assert not prior.has_rsample
    z = prior.sample(torch.Size((40_000,)))
    q = model.encode(x).conditional(0, None)
    size = q.event_shape[0]
    assert_mean(z[:, :size], q.mean.mean(0))
    assert_mean(z[:, :size].square(), (q.mean.square() + q.variance).mean(0))
    assert model.sample(3).shape == (3, 2, 3)


@pytest.mark.parametrize("top", [VAMP, partial(taut.GaussianMixture, components=2)], ids=str)
def test_gradients_with_a_prior_on_top_agree(top: object) -> None:
    """DReG, which freezes q and not the prior that is made of it; alpha 1e-6."""
    settings = {"width": 3, "encoder": taut.Linear, "network": taut.Linear}
    normal = partial(taut.Normal, (3,), scale=1.0, decoder=taut.Linear)
    model = taut.HierarchicalVAE((3,), 1, normal, 2, top=top, **settings)
    for p in model.parameters():
        nn.init.normal_(p, std=0.4)
    x = torch.full((1, 3), 0.5)
    found = [gradients(kind(num_samples=3), model, x, 100) for kind in (taut.DReG, taut.IWAE)]
    assert_mean(found[0] - found[1], 0.0)
    assert found[1].mean(0).abs().max() > 0.1


def test_the_prior_on_top_of_a_conditioned_model_is_given_the_context() -> None:
    normal = partial(taut.Normal, (2,), decoder=SMALL, context_dim=1)
    split = features.Split([0], 3, features.Standardize((1,)), None)
    settings = {"encoder": SMALL, "width": 4, "context_dim": 1, "condition": split}
    model, x = taut.HierarchicalVAE((2,), 2, normal, 2, top=VAMP, **settings), torch.randn(4, 3)
    with torch.no_grad():
        draw = model.draw(x, 5)
    for settings in ({}, {"stop_posterior": True}):
        again = model.draw(x, given=draw.z, **settings)
        torch.testing.assert_close(again.log_weight, draw.log_weight)
    other = x.clone()
    other[:, 0] += 1
    with torch.no_grad():
        moved = model.draw(other, given=draw.z).groups[0]
    assert float((moved.log_prior - draw.groups[0].log_prior).abs().amax()) > 1e-6
    torch.testing.assert_close(model.log_joint(draw.z, x), draw.log_joint)


def test_a_copy_has_a_prior_of_its_own_posterior() -> None:
    model, x = with_top(VAMP, 2, width=6, encoder=SMALL), torch.randn(4, 2, 3)
    twin, z = copy.deepcopy(model), model.draw(x).z
    for p in model.posterior.parameters():
        nn.init.zeros_(p)
    with torch.no_grad():
        moved = twin.latent_prior().log_prob(z) - model.latent_prior().log_prob(z)
    assert float(moved.abs().amax()) > 1e-6
    names = [name for name, _ in twin.named_parameters()]
    assert sum("encoder" in name for name in names) == len(
        list(twin.posterior.encoder.parameters())
    )
    # the audit asks by these names whether the prior moves with the encoder
    assert model.prior.unshared().keys() != model.prior.state_dict().keys()
    plain = with_top(None, 2, width=6, encoder=SMALL)
    assert plain.prior.unshared().keys() == plain.prior.state_dict().keys()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"top": IndependentBernoulli}, "IndependentBernoulli is not a prior of any real numbers"),
        ({"top": UniformSphere}, "UniformSphere is not a prior of any real numbers"),
        ({"top": partial(VampPrior, posterior=taut.DiagonalNormal)}, "omit its posterior"),
        ({"channels": 0}, "channels must be a whole number of at least 1, not 0"),
        ({"channels": True}, "channels must be a whole number of at least 1, not True"),
        ({"channels": 4, "blocks": 0}, "blocks must be a whole number of at least 1, not 0"),
        ({"channels": 4}, r"channels is for images, and \(3,\) is not an image"),
        ({"channels": 4, "network": SMALL}, "whose networks are convolutions: omit network"),
    ],
    ids=str,
)
def test_what_is_refused(settings: dict, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        taut.HierarchicalVAE((3,), 2, partial(taut.Normal, (3,)), **settings)


def test_maps_are_given_no_context() -> None:
    normal = partial(taut.Normal, (4, 4))
    with pytest.raises(ValueError, match="maps are not given a context: omit channels"):
        taut.HierarchicalVAE((4, 4), 2, normal, channels=3, context_dim=1)
