"""The table is complete, and what holds for every part of a family holds for each row."""

from __future__ import annotations

import copy
import inspect
import math
from functools import partial

import instances
import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution
from ztest import assert_mean

import taut
from taut import likelihoods, networks
from taut.build.spec import known, resolve
from taut.data.tables.kinds import KINDS
from taut.distributions import OUTSIDE, Observed
from taut.distributions.codes import Listed
from taut.distributions.sphere import UnitSphere
from taut.likelihoods import reals
from taut.likelihoods.columns import reach_of


def _classes(rows: list) -> set[str]:
    found = set()
    for row in rows:
        part = row[0] if isinstance(row, tuple) else row
        found.add(getattr(part, "func", part if isinstance(part, type) else type(part)).__name__)
    return found


def check_rows(base: type) -> None:
    """What the command line can name has a row, and nothing else has."""
    assert set(known(base)) == _classes(instances.rows()[base])


@pytest.mark.parametrize("base", instances.rows())
def test_every_part_that_can_be_named_has_a_row(base: type) -> None:
    check_rows(base)


def test_a_part_without_a_row_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own module alone need export it: that is where the command line looks."""
    unlisted = type("Unlisted", (taut.Normal,), {"__module__": reals.__name__})
    check_rows(taut.Likelihood)
    monkeypatch.setattr(reals, "__all__", [*reals.__all__, "Unlisted"])
    assert resolve("Unlisted()", taut.Likelihood, {"event_shape": (2,), "latent_dim": 1}, {})
    with pytest.raises(AssertionError, match="Unlisted"):
        check_rows(taut.Likelihood)
    assert unlisted.__name__ not in likelihoods.__all__


def check_normalised(likelihood: taut.Likelihood, data: str) -> None:
    """The probability of one element, the others missing, sums to one, at weights that are not the
    initial ones.

    A trapezoid rule is off by at most half a step times the variation of what it sums, which is
    mass / step, and a share of OUTSIDE may lie where no point is.
    """
    for parameter in likelihood.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    check_measures(likelihood(torch.randn(1, 3, instances.LATENT)), instances.measured(data))


def check_measures(distribution: Distribution, measured: list) -> None:
    """The same of a distribution of three data points, batch shape (1, 3)."""
    for place, measures in measured:
        total, allowed = torch.zeros(3), torch.full((3,), 2 * OUTSIDE)
        for points, weights, step in measures:
            x = torch.full((len(points), 1, *distribution.event_shape), torch.nan)
            element = (slice(None), 0, *place)
            x[element] = points
            if (reach := reach_of(distribution)) is not None:
                inside = reach.check(x)[element]  # a table of levels cannot be asked of others
                x, weights = x[inside], weights[inside]
            mass = weights[:, None] * distribution.log_prob(x).exp()
            total = total + mass.sum(0)
            if step:
                allowed = allowed + 0.5 * mass.diff(dim=0).abs().sum(0)
        assert (allowed < 0.01).all(), f"element {place}: {allowed.tolist()}"
        assert ((total - 1).abs() <= allowed).all(), f"element {place}: {total.tolist()}"


@pytest.mark.parametrize("row", range(len(instances.make_likelihoods())))
def test_a_likelihood_is_normalised(row: int) -> None:
    check_normalised(*instances.make_likelihoods()[row])


def test_every_kind_of_column_has_a_row() -> None:
    modelled = {word for word, kind in KINDS.items() if kind.modelled}
    assert {row.kind for row in instances.COLUMN_KINDS} == modelled


def test_the_usual_likelihood_of_a_kind_is_the_one_that_a_table_takes() -> None:
    """The defaults of ``Columns`` say again what the kinds say."""
    signature = inspect.signature(taut.Columns).parameters
    for kind in KINDS.values():
        if kind.family in signature:
            assert signature[kind.family].default.__name__ == kind.usual


class _Unnormalised(torch.distributions.Laplace):
    def log_prob(self, value: Tensor) -> Tensor:
        return -(value - self.loc).abs() / self.scale


@pytest.mark.parametrize("density", [torch.distributions.Laplace, _Unnormalised])
def test_an_unnormalised_density_is_found(density: type) -> None:
    class Planted(taut.Likelihood):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = instances.SMALL((instances.LATENT,), instances.EVENT)

        def forward(self, z: Tensor, context: Tensor | None = None) -> Observed:
            loc = 10 + self.decoder(z, context)
            return Observed(density(loc, 2.0, validate_args=False), 2, 0.0)

    if density is _Unnormalised:  # it integrates to twice its scale
        with pytest.raises(AssertionError, match=r"\(0, 0\): \[(4\.0|3\.99999)"):
            check_normalised(Planted(), "reals")
    else:
        check_normalised(Planted(), "reals")


@pytest.mark.parametrize("row", range(len(instances.make_likelihoods())))
def test_likelihood_shapes_samples_and_gradients(row: int) -> None:
    likelihood, kind = instances.make_likelihoods()[row]
    z = torch.randn(6, 5, instances.LATENT, requires_grad=True)
    distribution = likelihood(z)
    assert distribution.batch_shape == (6, 5)
    event = getattr(instances, kind)(1).shape[1:]
    assert distribution.event_shape == event
    assert distribution.mean.shape == (6, 5, *event)
    sample = distribution.sample()
    assert sample.dtype == torch.get_default_dtype()
    assert bool(distribution.support.check(sample).all())
    log_prob = distribution.log_prob(getattr(instances, kind)(5))
    assert log_prob.shape == (6, 5)
    log_prob.sum().backward()
    assert z.grad is not None
    assert bool((z.grad.abs().sum(-1) > 0).all())


@pytest.mark.parametrize("row", range(len(instances.make_likelihoods())))
def test_one_datum_does_not_see_another(row: int) -> None:
    likelihood, kind = instances.make_likelihoods()[row]
    x, z = getattr(instances, kind)(5), torch.randn(6, 5, instances.LATENT)
    together = likelihood(z).log_prob(x)
    alone = torch.stack(
        [likelihood(z[:, i : i + 1]).log_prob(x[i : i + 1])[:, 0] for i in range(5)], 1
    )
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("row", range(len(instances.make_posteriors())))
def test_posterior_shapes_and_units(row: int) -> None:
    posterior = instances.make_posteriors()[row]
    x = instances.reals(5)
    q = posterior(x)
    assert (q.batch_shape, q.event_shape) == ((5,), (instances.LATENT,))
    assert q.sample((3,)).shape == (3, 5, instances.LATENT)
    # Standardizing is inside: the same network fed with z-scores directly gives the same posterior.
    raw = copy.deepcopy(posterior)
    raw.features.loc.zero_()
    raw.features.scale.fill_(1.0)
    torch.testing.assert_close(raw((x - 10) / 3).mean, q.mean, rtol=0, atol=1e-10)


def test_full_covariance_is_the_cholesky_factor_of_its_covariance() -> None:
    q = instances.make_posteriors()[1](instances.reals(5))
    tril = q.scale_tril
    assert bool((tril.diagonal(dim1=-2, dim2=-1) > 0).all())
    assert bool((tril[:, 0, 1] == 0).all())
    assert bool((tril[:, 1, 0] != 0).all())
    torch.testing.assert_close(q.covariance_matrix, tril @ tril.mT)


@pytest.mark.parametrize("row", range(len(instances.make_priors())))
def test_prior_shapes_and_total_probability(row: int) -> None:
    prior = instances.make_priors()[row]
    p = prior()
    assert (p.batch_shape, p.event_shape) == ((), (instances.LATENT,))
    assert p.log_prob(p.sample((3, 5))).shape == (3, 5)
    if isinstance(p.support, UnitSphere):
        angle = torch.arange(600) * math.pi / 300
        circle = torch.stack([angle.cos(), angle.sin()], 1)
        mass = p.log_prob(circle).exp().sum().item() * math.pi / 300
        assert mass == pytest.approx(1, abs=1e-10)
        return
    line = torch.arange(2.0) if p.support.is_discrete else torch.linspace(-15, 15, 601)
    cell = 1.0 if p.support.is_discrete else 0.05**2
    # a sum over a grid integrates a Gaussian to exp(-2 pi^2 (scale / step)^2): far below 1e-12 for
    # scales above 0.2; a flow reaches a little beyond it, and one of splines has corners
    off = {None: 1e-9, 0: 1e-7}.get(getattr(prior, "bins", None), 1e-3)
    z = torch.cartesian_prod(line, line)
    if isinstance(p.support, Listed):
        z = p.support.states(torch.arange(p.support.num_states)).to(line)
    with torch.no_grad():
        mass = p.log_prob(z).exp().sum().item() * cell
    assert mass == pytest.approx(1, abs=off)


def test_a_mixture_by_hand_and_its_moments() -> None:
    prior = instances.make_priors()[1]
    p, z = prior(), torch.randn(7, instances.LATENT)
    weights = prior.logits.softmax(0)
    scales = 1e-3 + torch.nn.functional.softplus(prior.raw_scale + math.log(math.e - 1))
    each = torch.distributions.Normal(prior.loc, scales).log_prob(z[:, None]).sum(-1)
    torch.testing.assert_close(p.log_prob(z), (weights.log() + each).logsumexp(1))
    assert_mean(p.sample((20000,)), weights @ prior.loc)
    with pytest.raises(ValueError, match="components must be at least 1"):
        taut.GaussianMixture(2, components=0)


@pytest.mark.parametrize(("factory", "in_shape", "out_shape"), instances.NETWORKS)
@pytest.mark.parametrize("context_dim", [0, 3])
def test_network_shapes_and_context(factory, in_shape, out_shape, context_dim: int) -> None:
    network = factory(in_shape, out_shape, context_dim).eval()
    for parameter in network.parameters():  # some are zero at first
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = torch.randn(2, 5, *in_shape)
    context = torch.randn(5, context_dim) if context_dim else None
    y = network(x, context)
    assert y.shape == (2, 5, *out_shape)
    alone = network(x[1, 3:4], None if context is None else context[3:4])
    torch.testing.assert_close(alone[0], y[1, 3], rtol=0, atol=1e-10)
    if context is not None:
        assert not torch.allclose(network(x, context + 1), y)


def test_a_network_has_no_context_unless_it_is_asked_for() -> None:
    assert taut.MLP((2,), (3,))(torch.zeros(5, 2)).shape == (5, 3)


def test_a_gated_layer_by_hand() -> None:
    network, x = networks.GatedMLP((3,), (2,), hidden=(4,)), torch.randn(5, 3)
    (layer,) = network.layers
    (value, gate), (b, c) = layer.weight.chunk(2), layer.bias.chunk(2)
    units = (x @ value.T + b) / (1 + torch.exp(-(x @ gate.T + c)))
    expected = units @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-10)


def test_gated_units_are_dropped_in_training_alone() -> None:
    """Each at its probability (z-test, alpha 1e-6), the others scaled up: their mean stays."""
    for wrong in (1.5, -0.5):
        with pytest.raises(ValueError, match="between 0 and 1"):
            networks.GatedMLP((3,), (4,), dropout=wrong)
    dropped, x = networks.GatedMLP((3,), (400,), hidden=(400,), dropout=0.25), torch.randn(50, 3)
    (layer,) = dropped.layers
    with torch.no_grad():
        dropped.head.weight.copy_(torch.eye(400))
        dropped.head.bias.zero_()
    units = torch.nn.functional.glu(layer(x), -1)
    assert torch.equal(dropped.eval()(x), units)
    seen = dropped.train()(x)
    kept = seen != 0
    torch.testing.assert_close(seen[kept], units[kept] / 0.75, rtol=1e-10, atol=0)
    assert_mean(kept.flatten().to(x), 0.75)
    assert not torch.equal(dropped(x) != 0, kept)


def test_tanh_is_torchs_to_the_rounding_of_one() -> None:
    x = torch.linspace(-30, 30, 1001)
    network = taut.MLP((1001,), (1001,), hidden=(1001,), activation="tanh")
    torch.testing.assert_close(network.layers[1](x), x.tanh(), rtol=0, atol=4 * torch.finfo().eps)


def test_convolutions_keep_the_layout_of_the_image() -> None:
    # The same image, channels first and channels last, through the same weights.
    first, last = taut.ConvEncoder((3, 9, 7), (4,)), taut.ConvEncoder((9, 7, 3), (4,))
    last.load_state_dict(first.state_dict())
    x = torch.randn(2, 3, 9, 7)
    torch.testing.assert_close(first(x), last(x.movedim(1, -1)), rtol=0, atol=1e-10)
    up_first, up_last = taut.ConvDecoder((4,), (2, 3, 9, 7)), taut.ConvDecoder((4,), (2, 9, 7, 3))
    up_last.load_state_dict(up_first.state_dict())
    z = torch.randn(2, 4)
    torch.testing.assert_close(up_first(z).movedim(2, -1), up_last(z), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: taut.MLP((2,), (2,), activation="tanhh"), "unknown activation"),
        (lambda: taut.Normal((2,), 1, "per_pixel"), "unknown scale"),
        (lambda: taut.Normal((2,), 1, -1.0), "positive"),
        (lambda: taut.DiscretizedLogistic((2,), 1, 0, 3, components=0), "at least 1"),
        (lambda: taut.ConvEncoder((5,), (2,)), "not an image"),
        (lambda: taut.BinaryLatents(num_bits=13), "between 1 and 12"),
        (lambda: taut.ELBO(num_samples=0), "at least 1"),
        (lambda: taut.ELBO(beta=-1.0), "beta"),
        (lambda: taut.ELBO(warmup=1.5), "warmup"),
        (lambda: taut.ScoreFunction(num_samples=1), "at least 2"),
        (lambda: taut.ScoreFunction(baseline="mean"), "unknown baseline"),
        (lambda: taut.VIMCO(num_samples=1), "at least 2"),
        (lambda: taut.probabilistic_pca(torch.randn(9, 3), 3), "latent_dim"),
        (lambda: taut.IndependentBernoulli, "taut.priors.IndependentBernoulli and taut.posteriors"),
    ],
)
def test_refuses(make, words: str) -> None:
    with pytest.raises((ValueError, AttributeError), match=words):
        make()


def smallest_scales() -> list[tuple[type, float]]:
    """Returns each part that takes a smallest scale, and its own choice."""
    found = []
    for part in (part for base in instances.rows() for part in known(base).values()):
        if (argument := inspect.signature(part).parameters.get("min_scale")) is not None:
            found.append((part, argument.default))
    return found


@pytest.mark.parametrize(("part", "usual"), smallest_scales())
def test_a_smallest_scale_is_positive_and_small(part: type, usual: float) -> None:
    """Of warps, whose own scale is 1, it is also below that."""
    assert 0 < usual <= 0.05
    wanted = inspect.signature(part).parameters
    given = {"event_shape": (3,), "latent_dim": 2, "low": 0, "high": 5}
    given |= {"likelihood": partial(taut.Normal, (3,))}
    given = {name: value for name, value in given.items() if name in wanted}
    for scale in [0.0, -1.0, math.nan, *[1.0] * part.__name__.startswith("Warped")]:
        with pytest.raises(ValueError, match=f"min_scale must be .*, not {scale}"):
            part(**given, min_scale=scale)
