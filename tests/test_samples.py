"""How good samples are and how sharp images are, against closed forms and by hand."""

from __future__ import annotations

import cmath
import json
import math
from collections.abc import Callable
from typing import Any

import instances
import pytest
import torch
from instances import EVENT, LATENT, make_likelihoods
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    Normal,
    TransformedDistribution,
    constraints,
)
from torch.distributions.transforms import ExpTransform
from ztest import assert_mean, limit

import taut
from taut import priors
from taut.evidence import samples
from taut.evidence.samples import _balls, _nearest, _sharpness, _unit, area, blur, sample_quality
from taut.system.seeds import stream

STATISTICS = ("classifier", "precision", "recall", "density", "coverage", "nearer")
IMAGES = ("data", "mean", "draw", "mean_at_optimum", "mean_from_prior", "draw_from_prior")


@pytest.fixture(autouse=True)
def _fewer_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    # less power, the same expectations: the tests are quicker
    monkeypatch.setattr(samples, "TREES", 40)


def assert_close_to(found: dict[str, Any], expected: float, comparisons: int) -> None:
    """Asserts that an estimate is as expected, by its own error."""
    assert found["test_error"] > 0
    assert abs(found["value"] - expected) < limit(comparisons) * found["test_error"], (
        found,
        expected,
    )


def assert_same(found: dict[str, Any], values: Tensor, rel: float = 1e-10) -> None:
    """Asserts that an estimate is that of these values of the data."""
    assert found["mc_error"] is None
    assert found["value"] == pytest.approx(values.mean().item(), rel=rel)
    assert found["test_error"] == pytest.approx(
        values.std().item() / math.sqrt(len(values)), rel=rel
    )


# --- Samples against held-out data ----------------------------------------------------------------


def playing(rows: Callable[[int], Tensor]) -> taut.VAE:
    """Returns a model whose samples are what the function returns for a number of them."""
    model = taut.LinearGaussian().model()
    model.sample = lambda num_samples, context=None: rows(num_samples)
    return model


def picked(rows: Tensor) -> taut.VAE:
    """Returns a model that repeats rows."""
    return playing(lambda n: rows[torch.randint(len(rows), (n,))])


def test_area_by_hand() -> None:
    # the samples beat 1/2, 3/4 and all, the data 1/2 and 0
    e = area(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 0.0]))
    assert e.value == pytest.approx(0.75, abs=1e-12)
    assert e.mc_error == pytest.approx(math.sqrt((1 / 16) / 3), abs=1e-12)
    assert e.test_error == pytest.approx(math.sqrt((1 / 16) / 3 + (1 / 8) / 2), abs=1e-12)


def test_area_is_that_under_the_curve() -> None:
    from sklearn.metrics import roc_auc_score

    a, b = torch.randint(0, 9, (70,)).double(), torch.randint(1, 12, (50,)).double()  # with ties
    expected = roc_auc_score([1] * 70 + [0] * 50, torch.cat([a, b]).numpy())
    assert area(a, b).value == pytest.approx(expected, abs=1e-12)


def test_error_of_the_area_is_that_of_repetition() -> None:
    """For one distribution the variance is that of Mann and Whitney, (n + m + 1) / (12 n m).

    DeLong's is 1 / (12 n m) more.
    """
    n, m = 30, 20
    areas = [area(torch.randn(n), torch.randn(m)) for _ in range(4000)]
    value, mc_error, test_error = (
        torch.tensor([getattr(a, k) for a in areas]) for k in ("value", "mc_error", "test_error")
    )
    assert_mean(value, 0.5)
    assert_mean((value - 0.5).square(), (n + m + 1) / (12 * n * m))
    assert_mean(test_error.square(), (n + m + 2) / (12 * n * m))
    assert_mean(mc_error.square(), (m + 1) / (12 * n * m))


@pytest.mark.parametrize(
    ("second", "k", "expected"),
    [
        (3.5, 1, (0.5, 0.75, 1.0, 1.0)),
        (2.5, 1, (0.5, 0.75, 0.75, 0.75)),
        (2.5, 2, (0.5, 1.0, 0.875, 1.0)),
        (3.5, 2, (0.5, 1.0, 0.625, 1.0)),
    ],
)
def test_balls_by_hand(second: float, k: int, expected: tuple[float, ...]) -> None:
    """The data's balls have radii 1, 1, 2, 4, and 3, 2, 3, 6 for k = 2.

    The samples far off have small ones for k = 1 alone.
    """
    data, drawn = (
        torch.tensor([[0.0], [1.0], [3.0], [7.0]]),
        torch.tensor([[0.5], [second], [20.0], [20.5]]),
    )
    assert tuple(e.value for e in _balls(drawn, data, k).values()) == pytest.approx(
        expected, abs=1e-12
    )


def test_equal_patterns_lie_in_each_others_balls() -> None:
    """Of three bits each pattern is there many times.

    All radii are zero, and a ball of radius zero holds its copies.
    """
    a, b = torch.randint(0, 2, (2, 200, 3)).double()
    assert [_balls(a, b, 5)[name].value for name in ("precision", "recall", "coverage")] == [
        1,
        1,
        1,
    ]


def test_density_and_coverage_of_one_distribution() -> None:
    """In expectation 1 and 1 - prod (N - i) / (2 N - i), whatever the distribution."""
    n, k = 30, 5
    found = [_balls(torch.randn(n, 3).exp(), torch.randn(n, 3).exp(), k) for _ in range(300)]
    assert_mean(torch.tensor([f["density"].value for f in found]), 1.0)
    assert_mean(
        torch.tensor([f["coverage"].value for f in found]),
        1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1)),
    )


def test_jackknife_by_hand_and_by_repetition() -> None:
    """By hand from the definition.

    Over repetitions the mean square is not below the variance (Efron and Stein).
    """
    drawn, data, k = torch.randn(47, 2) + 0.5, torch.randn(47, 2), 4
    parts = []
    for g in range(20):
        a, b = (
            [row for i, row in enumerate(rows.tolist()) if i % 20 != g] for rows in (drawn, data)
        )
        radius_a, radius_b = (
            [sorted(math.dist(p, q) for q in rows)[k] for p in rows] for rows in (a, b)
        )
        in_b = [[math.dist(p, q) <= r for q, r in zip(b, radius_b, strict=True)] for p in a]
        in_a = [[math.dist(p, q) <= r for p, r in zip(a, radius_a, strict=True)] for q in b]
        four = [
            sum(map(any, in_b)),
            sum(map(any, in_a)),
            sum(map(sum, in_b)) / k,
            sum(map(any, zip(*in_b, strict=True))),
        ]
        parts.append(torch.tensor(four) / len(a))
    expected = (torch.stack(parts).var(0, correction=0) * 19).sqrt()
    errors = [e.test_error for e in _balls(drawn, data, k).values()]
    torch.testing.assert_close(torch.tensor(errors), expected, rtol=1e-10, atol=0)

    found = [_balls(torch.randn(40, 2) + 0.5, torch.randn(40, 2), 5) for _ in range(200)]
    value, error = (
        torch.tensor([[getattr(e, k) for e in f.values()] for f in found])
        for k in ("value", "test_error")
    )
    surplus = error.square() - (value - value.mean(0)).square() * 200 / 199
    assert bool((surplus.mean(0) > -limit(4) * surplus.std(0) / math.sqrt(200)).all()), (
        surplus.mean(0)
    )


def test_nearest_by_hand_and_exactly_zero_for_copies() -> None:
    train = 1e8 + torch.randn(60, 4)
    points = torch.cat([train[7:9], 1e8 + torch.randn(300, 4)])
    expected = torch.tensor([min(math.dist(p, t) for t in train.tolist()) for p in points.tolist()])
    found = _nearest(points, train)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    assert found[:2].tolist() == [0, 0]


def test_units_of_columns_do_not_matter_and_pixels_and_bits_have_one() -> None:
    train, test, drawn = (torch.randn(n, 3) for n in (60, 20, 20))
    train[:, 1] = 3.0  # never varies
    scale = torch.tensor([1024.0, 1.0, 1 / 64])
    plain = sample_quality(playing(lambda n: drawn), train, test)
    assert plain == sample_quality(playing(lambda n: drawn * scale), train * scale, test * scale)
    assert _unit(train * scale)[1] == 1
    torch.testing.assert_close(
        _unit(train * scale)[0], 1024 * train[:, 0].std(correction=0), rtol=1e-12, atol=0
    )
    assert _unit(torch.randn(9, 2, 2)).tolist() == [1] * 4
    assert _unit((torch.rand(9, 3) < 0.1).double()).tolist() == [1] * 3


def test_an_exact_model_is_not_told_apart() -> None:
    problem = taut.LinearGaussian(dim_x=4)
    found = sample_quality(problem.model(), problem.sample(500), problem.sample(250), num_data=200)
    assert (found["num_data"], found["num_train"], found["neighbours"], found["warnings"]) == (
        200,
        500,
        5,
        [],
    )
    for which in ("samples", "reference"):
        for name in ("classifier", "nearer"):
            assert_close_to(found[name][which], 0.5, comparisons=8)
        assert_close_to(found["density"][which], 1.0, comparisons=8)
        assert_close_to(
            found["coverage"][which],
            1 - math.prod((200 - i) / (400 - i) for i in range(1, 6)),
            comparisons=8,
        )
    for name in ("precision", "recall"):
        a, b = found[name]["samples"], found[name]["reference"]
        assert abs(a["value"] - b["value"]) < limit(2) * math.hypot(
            a["test_error"], b["test_error"]
        )
    assert found["copies"]["samples"]["value"] == found["copies"]["held_out"]["value"] == 0


@pytest.mark.parametrize("which", [0, 1])
def test_the_order_of_the_data_does_not_matter(which: int) -> None:
    """Fewer than there are are compared: chosen at random, and not the first ones of a
    sorted set.
    """
    problem = taut.LinearGaussian(dim_x=4)
    data = [problem.sample(600), problem.sample(600)]
    data[which] = data[which][data[which][:, 0].argsort()]
    found = sample_quality(problem.model(), *data, num_data=100)
    for name in ("samples", "reference"):
        assert_close_to(found["classifier"][name], 0.5, comparisons=2)


def test_a_wrong_model_is() -> None:
    problem = taut.LinearGaussian(dim_x=4)
    train, test = problem.sample(200), problem.sample(100)
    far = sample_quality(playing(lambda n: problem.sample(n) + 1000), train, test)
    assert [far[name]["samples"]["value"] for name in STATISTICS] == [1, 0, 0, 0, 0, 0]
    assert far["classifier"]["samples"]["test_error"] == 0
    near = sample_quality(playing(lambda n: problem.sample(n) * 2), train, test)
    assert (
        near["classifier"]["samples"]["value"]
        > 0.5 + 3 * near["classifier"]["samples"]["test_error"]
    )
    assert near["nearer"]["samples"]["value"] < 0.5 - 3 * near["nearer"]["samples"]["test_error"]
    # all in the middle: precise, without recall
    few = sample_quality(playing(lambda n: problem.sample(n) / 4), train, test)
    assert few["precision"]["samples"]["value"] > 0.9 > 0.5 > few["recall"]["samples"]["value"]
    assert all(
        abs(r[name]["reference"]["value"] - far[name]["reference"]["value"]) == 0
        for r in (near, few)
        for name in STATISTICS
    )


def test_copies_are_found() -> None:
    problem = taut.LinearGaussian(dim_x=4)
    train, test = problem.sample(400), problem.sample(200)
    found = sample_quality(picked(train), train, test)
    assert found["copies"]["samples"]["value"] == found["nearer"]["samples"]["value"] == 1
    assert found["copies"]["held_out"]["value"] == 0
    assert_close_to(found["nearer"]["reference"], 0.5, comparisons=1)
    close = sample_quality(
        playing(lambda n: train[torch.randint(400, (n,))] + 1e-3 * torch.randn(n, 4)), train, test
    )
    assert close["copies"]["samples"]["value"] == 0
    assert close["nearer"]["samples"]["value"] > 0.99

    def half(n: int) -> Tensor:
        return torch.where(
            torch.rand(n, 1) < 0.5, train[torch.randint(400, (n,))], problem.sample(n)
        )

    found = sample_quality(playing(half), train, torch.cat([test[:100], train[:100]]))
    assert_close_to(found["copies"]["samples"], 0.5, comparisons=3)
    assert_close_to(found["copies"]["held_out"], 0.5, comparisons=3)
    found = sample_quality(playing(half), train, test)
    # a copy is always nearer, another sample half of the time
    assert_close_to(found["nearer"]["samples"], 0.75, comparisons=3)


def test_bits_and_pixels() -> None:
    """Bits have many equal distances and copies.

    Samples that are the data's own distribution pass, noise of other odds fails.
    """
    odds = torch.rand(12)
    draw = lambda n: (torch.rand(n, 12) < odds).double().unflatten(1, (3, 4))  # noqa: E731
    train, test = draw(600), draw(300)
    found = sample_quality(playing(draw), train, test)
    for name in ("classifier", "nearer"):
        assert_close_to(found[name]["samples"], 0.5, comparisons=2)
    a, b = found["copies"]["samples"], found["copies"]["held_out"]
    assert abs(a["value"] - b["value"]) < limit(1) * math.hypot(a["test_error"], b["test_error"])
    assert min(a["value"], b["value"]) > 0
    wrong = sample_quality(playing(lambda n: 1 - draw(n)), train, test)
    assert (
        wrong["classifier"]["samples"]["value"]
        > 0.5 + 5 * wrong["classifier"]["samples"]["test_error"]
    )


def test_sample_quality_is_repeatable_and_leaves_no_trace() -> None:
    problem = taut.LinearGaussian()
    model, train, test = problem.model().train(), problem.sample(60), problem.sample(20)
    before, rows = torch.random.get_rng_state(), train.clone()
    found = sample_quality(model, train, test, seed=3)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(rows, train)
    assert model.training
    torch.rand(1)
    assert sample_quality(model, train, test, seed=3) == found
    assert sample_quality(model, train, test, seed=4) != found
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found) == {"num_data", "num_train", "neighbours", "copies", "warnings", *STATISTICS}


def test_number_of_data_and_warnings() -> None:
    problem = taut.LinearGaussian()
    train, test, model = problem.sample(60), problem.sample(25), problem.model()
    for num_data, m, l, expected in (
        (1000, 60, 25, 25),
        (1000, 41, 25, 20),
        (7, 60, 25, 7),
        (4, 8, 4, 4),
    ):
        found = sample_quality(model, train[:m], test[:l], num_data=num_data)
        assert found["num_data"] == expected
        assert found["neighbours"] == min(5, expected - 2)
        assert any(f"only {expected} samples" in w for w in found["warnings"])
    assert sample_quality(model, problem.sample(100), problem.sample(50))["warnings"] == []
    (warning,) = sample_quality(model, problem.sample(100) + 100, problem.sample(50))["warnings"]
    assert "told apart" in warning


@pytest.mark.parametrize(
    ("m", "l", "num_data"), [(7, 4, 1000), (8, 3, 1000), (0, 50, 1000), (50, 0, 1000), (50, 50, 1)]
)
def test_too_few_data(m: int, l: int, num_data: int) -> None:
    problem = taut.LinearGaussian()
    with pytest.raises(
        ValueError, match=f"too few rows .* {m} for training and {min(num_data, l)} held out"
    ):
        sample_quality(
            problem.model(), problem.sample(50)[:m], problem.sample(50)[:l], num_data=num_data
        )


def test_training_and_test_data_of_different_shapes() -> None:
    problem = taut.LinearGaussian()
    with pytest.raises(ValueError, match=r"\(4,\), of the training data \(5,\)"):
        sample_quality(problem.model(), problem.sample(50), problem.sample(50)[:, :4])


# --- Sharpness ------------------------------------------------------------------------------------


class Images(taut.Likelihood):
    """Creates x ~ Normal(W z + b, scale) as an image.

    Data, posterior and energies are those of a linear-Gaussian problem.
    """

    def __init__(self, problem: taut.LinearGaussian, event: tuple[int, ...]) -> None:
        super().__init__()
        self.flat, self.event = problem.likelihood, event

    def forward(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        return Independent(
            Normal(self.flat(z).mean.unflatten(-1, self.event), self.flat.scale), len(self.event)
        )


class Flattened(taut.Posterior):
    """Creates the posterior of a problem, moved by so many of its standard deviations,
    for images.
    """

    def __init__(self, problem: taut.LinearGaussian, shift: float = 0.0) -> None:
        super().__init__()
        self.problem, self.shift = problem, shift

    def forward(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        q = self.problem.posterior(x.flatten(1))
        return torch.distributions.MultivariateNormal(
            q.mean + self.shift * q.stddev, scale_tril=q.scale_tril
        )


def linear_images(
    event: tuple[int, ...] = (4, 5), shift: float = 0.0
) -> tuple[taut.LinearGaussian, taut.VAE]:
    problem = taut.LinearGaussian(dim_x=math.prod(event), dim_z=3)
    return problem, taut.VAE(problem.prior, Images(problem, event), Flattened(problem, shift))


def high_modes(height: int, width: int) -> list[tuple[int, int]]:
    """Returns the frequencies above half of Nyquist's, decided by integers.

    16 (u^2 W^2 + v^2 H^2) > H^2 W^2.
    """
    fold = [[min(k, n - k) for k in range(n)] for n in (height, width)]
    return [
        (u, v)
        for u in range(height)
        for v in range(width)
        if 16 * ((fold[0][u] * width) ** 2 + (fold[1][v] * height) ** 2) > (height * width) ** 2
    ]


def quadratic_forms(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Returns M with E(x) = x' M x, and the same for the variance of the Laplacian, from the
    definitions.
    """
    pixels = [(i, j) for i in range(height) for j in range(width)]
    waves = torch.tensor(
        [
            [cmath.exp(-2j * math.pi * (u * i / height + v * j / width)) for i, j in pixels]
            for u, v in high_modes(height, width)
        ]
    )
    energy = (waves.mH @ waves).real / len(pixels) ** 2
    stencil = {(0, 0): -4.0, (1, 0): 1.0, (-1, 0): 1.0, (0, 1): 1.0, (0, -1): 1.0}
    inner = [(i, j) for i, j in pixels if 0 < i < height - 1 and 0 < j < width - 1]
    laplacian = torch.tensor(
        [[stencil.get((k - i, l - j), 0.0) for k, l in pixels] for i, j in inner]
    )
    centred = laplacian - laplacian.mean(0)
    return energy, centred.T @ centred / len(inner)


@pytest.mark.parametrize("size", [(8, 8), (20, 20), (28, 28), (40, 5), (7, 9), (3, 4)])
def test_sharpness_is_the_quadratic_form_of_its_definition(size: tuple[int, int]) -> None:
    x = torch.randn(3, 2, *size)
    forms = torch.stack(quadratic_forms(*size))
    expected = torch.einsum("bcp,spq,bcq->sbc", x.flatten(2), forms, x.flatten(2)).mean(-1)
    torch.testing.assert_close(_sharpness(x), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("u", "v", "share"),
    [(0, 0, 0.0), (5, 0, 0.0), (0, 5, 0.0), (3, 4, 0.0), (4, 4, 0.5), (6, 0, 0.5), (10, 0, 1.0)],
)
def test_single_waves(u: int, v: int, share: float) -> None:
    """20 by 20 pixels.

    Half of Nyquist's is 5 waves, and (5, 0) and (3, 4) lie just on it, hence are not above.
    """
    i, j = torch.arange(20.0)[:, None], torch.arange(20.0)
    wave = 0.3 * torch.cos(2 * math.pi * (u * i + v * j) / 20)
    energy, laplacian = _sharpness((0.5 + wave)[None, None])[:, 0].tolist()
    assert energy == pytest.approx(share * 0.09, abs=1e-12)
    response = 2 * math.cos(2 * math.pi * u / 20) + 2 * math.cos(2 * math.pi * v / 20) - 4
    assert laplacian == pytest.approx(
        response**2 * wave[1:-1, 1:-1].var(correction=0).item(), abs=1e-12
    )


def test_white_noise_has_its_variance_times_the_share_of_the_frequencies() -> None:
    noise = 0.3 * torch.randn(4000, 1, 7, 6)
    energy, laplacian = _sharpness(noise)
    assert_mean(energy, 0.09 * len(high_modes(7, 6)) / 42)
    assert_mean(laplacian, 0.09 * quadratic_forms(7, 6)[1].trace())


def test_layouts_of_images() -> None:
    """Grey, (H, W, C) and (C, H, W): the mean over the channels of the energy of each."""
    x = torch.rand(9, 3, 6, 5)
    for event, images in (
        ((3, 6, 5), x),
        ((6, 5, 3), x.movedim(1, -1)),
        ((6, 5, 1), x[:, 0, ..., None]),
        ((6, 5), x[:, 0]),
    ):
        found = blur(linear_images(event)[1], images, low=-1.0, high=3.0, steps=4)
        energy, laplacian = _sharpness((x + 1) / 4 if 3 in event else (x[:, :1] + 1) / 4)
        for name, values in (("high_frequency_energy", energy), ("laplacian_variance", laplacian)):
            assert found[name]["data"]["value"] == pytest.approx(values.mean().item(), rel=1e-12)
            assert found[name]["data"]["test_error"] == pytest.approx(
                values.std().item() / 3, rel=1e-10
            )


def test_blur_by_hand_from_the_same_draws(monkeypatch) -> None:
    monkeypatch.setattr(samples, "ROWS", 4)  # two blocks
    problem, model = linear_images()
    x = problem.sample(6).unflatten(1, (4, 5))
    images: dict[str, list[Tensor]] = {name: [] for name in IMAGES}
    for number, block in enumerate((x[:4], x[4:])):
        with stream(3, "blur", number), torch.no_grad():
            q = model.encode(block)
            z, z0 = q.sample(), model.prior().sample((len(block),))
            p, p0 = model.decode(z), model.decode(z0)
            drawn, drawn0 = p.sample(), p0.sample()
        for name, image in (
            ("mean", p.mean),
            ("draw", drawn),
            ("mean_from_prior", p0.mean),
            ("draw_from_prior", drawn0),
        ):
            images[name].append(image)
    images["data"] = [x]
    w, b = problem.likelihood.weight.detach(), problem.likelihood.bias.detach()
    # least squares
    images["mean_at_optimum"] = [
        (b + (x.flatten(1) - b) @ torch.linalg.pinv(w).T @ w.T).unflatten(1, (4, 5))
    ]
    stacked = {
        name: ((torch.cat(parts) + 3) / 7).detach()[:, None] for name, parts in images.items()
    }
    sharp = {name: _sharpness(image) for name, image in stacked.items()}
    found = blur(model, x, low=-3.0, high=4.0, seed=3)
    assert found["warnings"] == []
    tolerance = {"mean_at_optimum": 1e-5}  # 300 steps of Adam come to within 1e-6 of the optimum
    for row, statistic in enumerate(("high_frequency_energy", "laplacian_variance")):
        for name in IMAGES:
            assert_same(found[statistic][name], sharp[name][row], rel=tolerance.get(name, 1e-10))
    energy = {name: values[0] for name, values in sharp.items()}
    for name, a, b_, rel in (
        ("loss", "data", "mean", 1e-10),
        ("decoder", "data", "mean_at_optimum", 1e-5),
        ("posterior", "mean_at_optimum", "mean", 1e-5),
        ("noise", "draw", "mean", 1e-10),
        ("unexplained", "data", "draw", 1e-10),
    ):
        assert_same(found["split"][name], energy[a] - energy[b_], rel=rel)
    start = problem.posterior(x.flatten(1)).mean
    optimum = (x.flatten(1) - b) @ torch.linalg.pinv(w).T
    with torch.no_grad():
        rise = model.decode(optimum).log_prob(x) - model.decode(start).log_prob(x)
        prior = model.prior().log_prob(optimum) - model.prior().log_prob(start)
    assert_same(found["optimum"]["rise"], rise, rel=1e-6)
    assert_same(found["optimum"]["log_prior"], prior, rel=1e-4)
    assert 0 <= found["optimum"]["late_rise"]["value"] < 1e-6 * found["optimum"]["rise"]["value"]
    assert abs(found["optimum"]["late_energy"]["value"]) < 1e-6


def test_an_exact_model_is_as_sharp_as_its_data_in_draws_and_not_in_means() -> None:
    """Energies in closed form.

    E[x' M x] = b' M b + tr(M C), with C = W W' + scale^2 I of draws and W W' of means.
    """
    problem, model = linear_images()
    x = problem.sample(3000).unflatten(1, (4, 5))
    found = blur(model, x, low=-2.0, high=3.0, steps=4)
    # the range maps -2 to 0 and 3 to 1
    w, b = (
        problem.likelihood.weight.detach(),
        problem.likelihood.bias.detach() + 2,
    )
    noise = problem.likelihood.scale**2 * torch.eye(20)
    for statistic, form in zip(
        ("high_frequency_energy", "laplacian_variance"), quadratic_forms(4, 5), strict=True
    ):
        for name in set(IMAGES) - {"mean_at_optimum"}:
            c = w @ w.T + (0 if name.startswith("mean") else noise)
            expected = (b @ form @ b + (form @ c).trace()).item() / 25
            assert_close_to(found[statistic][name], expected, comparisons=12)
    share = len(high_modes(4, 5)) / 20
    assert_close_to(
        found["split"]["noise"], problem.likelihood.scale**2 * share / 25, comparisons=12
    )
    assert_close_to(found["split"]["unexplained"], 0.0, comparisons=12)


def test_the_split_adds_up() -> None:
    problem, model = linear_images(shift=0.5)
    found = blur(model, problem.sample(50).unflatten(1, (4, 5)), low=0.0, high=1.0)
    energy = {name: found["high_frequency_energy"][name]["value"] for name in IMAGES}
    split = {name: part["value"] for name, part in found["split"].items()}
    assert split["loss"] == pytest.approx(split["decoder"] + split["posterior"], rel=1e-10)
    assert split["unexplained"] == pytest.approx(split["loss"] - split["noise"], rel=1e-10)
    assert split["loss"] == pytest.approx(energy["data"] - energy["mean"], rel=1e-10)


class Linearly(taut.Posterior):
    """Creates a posterior around a linear function of the image, with z in some unit."""

    def __init__(self, weight: Tensor, unit: float) -> None:
        super().__init__()
        self.weight, self.unit = weight, unit

    def forward(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        return Independent(Normal(x.flatten(1) @ self.weight / self.unit, 0.2 / self.unit), 1)


def test_the_unit_of_z_does_not_matter() -> None:
    """W a thousand times as large, means and scales of q so much smaller.

    The same way to z*, after any number of steps.
    """
    problem, model = linear_images()
    x, weight = problem.sample(6).unflatten(1, (4, 5)), 0.1 * torch.randn(20, 3)
    found = []
    for unit in (1.0, 1024.0):
        with torch.no_grad():
            problem.likelihood.weight.mul_(unit)
        model = taut.VAE(model.prior, model.likelihood, Linearly(weight, unit))
        found.append(blur(model, x, low=0.0, high=1.0, steps=20))
    for name in ("value", "test_error"):
        a, b = (f["high_frequency_energy"]["mean_at_optimum"][name] for f in found)
        assert a == pytest.approx(b, rel=1e-10)
        assert found[0]["optimum"]["rise"][name] == pytest.approx(
            found[1]["optimum"]["rise"][name], rel=1e-10
        )


def test_too_few_steps_are_told() -> None:
    problem, model = linear_images(shift=30.0)
    x = problem.sample(20).unflatten(1, (4, 5))
    (warning,) = blur(model, x, low=0.0, high=1.0, steps=20)["warnings"]
    assert "z* was not reached" in warning
    assert blur(model, x, low=0.0, high=1.0, steps=1000)["warnings"] == []


def test_a_rise_without_sharpness_is_told_too_and_so_is_sharpness_without_a_rise() -> None:
    problem, model = linear_images(shift=30.0)
    x = problem.sample(20).unflatten(1, (4, 5))
    with torch.no_grad():
        problem.likelihood.weight[:] = problem.likelihood.weight[:1]  # images of one grey
    found = blur(model, x, low=0.0, high=1.0, steps=20)
    assert abs(found["optimum"]["late_energy"]["value"]) < 1e-12
    assert any("z* was not reached" in w for w in found["warnings"])
    problem, model = linear_images(shift=5.0)
    problem.likelihood.scale = 1000.0
    found = blur(model, torch.randn(20, 4, 5), low=0.0, high=1.0, steps=20)
    assert found["optimum"]["late_rise"]["value"] < 0.01
    assert any("z* was not reached" in w for w in found["warnings"])


@pytest.mark.parametrize(
    "row", [i for i, (_, data) in enumerate(make_likelihoods()) if data != "columns"]
)
def test_every_likelihood_has_means_draws_and_an_optimum(row: int) -> None:
    likelihood, data = make_likelihoods()[row]
    model = taut.VAE(
        taut.StandardNormal(LATENT), likelihood, taut.DiagonalNormal(EVENT, LATENT, instances.SMALL)
    )
    found = blur(model, getattr(instances, data)(5), low=0.0, high=10.0, steps=8)
    assert not [w for w in found["warnings"] if "z* was not reached" not in w]
    assert None not in [
        *found["high_frequency_energy"].values(),
        *found["laplacian_variance"].values(),
        *found["split"].values(),
    ]
    assert found["optimum"]["rise"]["value"] > 0
    json.dumps(found, allow_nan=False)


def test_discrete_latents_have_no_optimum() -> None:
    model = taut.VAE(
        priors.IndependentBernoulli(LATENT),
        taut.Bernoulli(EVENT, LATENT, instances.SMALL),
        taut.posteriors.IndependentBernoulli(EVENT, LATENT, taut.Linear),
    )
    x = torch.randint(0, 2, (6, *EVENT)).double()
    found = blur(model, x, low=0.0, high=1.0)
    (warning,) = found["warnings"]
    assert "there is no z*" in warning
    assert (
        found["high_frequency_energy"]["mean_at_optimum"]
        is found["optimum"]
        is found["split"]["decoder"]
        is None
    )
    assert found["split"]["posterior"] is None
    assert found["split"]["noise"]["value"] == pytest.approx(
        found["split"]["loss"]["value"] - found["split"]["unexplained"]["value"], rel=1e-10
    )


class NoMean(Normal):
    """Creates a normal distribution that does not tell its mean."""

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012

    @property
    def mean(self) -> Tensor:
        raise NotImplementedError


def test_parts_without_a_mean() -> None:
    class Coy(taut.Likelihood):
        def __init__(self) -> None:
            super().__init__()
            self.map = torch.nn.Linear(LATENT, 12)

        def forward(self, z: Tensor, context: Tensor | None = None) -> Distribution:
            return Independent(NoMean(self.map(z).unflatten(-1, EVENT), 1.0), 2)

    class Flow(taut.Posterior):
        def forward(self, x: Tensor, context: Tensor | None = None) -> Distribution:
            return Independent(
                TransformedDistribution(Normal(x[:, 0, :LATENT], 1.0), [ExpTransform()]), 1
            )

    found = blur(
        taut.VAE(taut.StandardNormal(LATENT), Coy(), Flow()),
        torch.rand(5, *EVENT),
        low=0.0,
        high=1.0,
        steps=100,
    )
    (warning,) = found["warnings"]
    assert "only its draws" in warning
    energy = found["high_frequency_energy"]
    assert (
        energy["mean"]
        is energy["mean_at_optimum"]
        is energy["mean_from_prior"]
        is found["split"]["loss"]
        is None
    )
    assert (
        min(energy["data"]["value"], energy["draw"]["value"], energy["draw_from_prior"]["value"])
        > 0
    )
    assert found["split"]["unexplained"]["value"] == pytest.approx(
        energy["data"]["value"] - energy["draw"]["value"], rel=1e-10
    )
    assert set(found["optimum"]) == {"rise", "late_rise", "log_prior"}
    assert found["optimum"]["rise"]["value"] > 0


def test_blur_is_repeatable_and_leaves_no_trace() -> None:
    problem, model = linear_images()
    model.train()
    next(iter(model.parameters())).requires_grad_(False)
    trainable = [p.requires_grad for p in model.parameters()]
    x = problem.sample(5).unflatten(1, (4, 5))
    before = torch.random.get_rng_state()
    found = blur(model, x, low=0.0, high=1.0, steps=10, seed=3)
    assert torch.equal(before, torch.random.get_rng_state())
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == trainable
    assert all(p.grad is None for p in model.parameters())
    torch.rand(1)
    assert blur(model, x, low=0.0, high=1.0, steps=10, seed=3) == found
    assert blur(model, x, low=0.0, high=1.0, steps=10, seed=4) != found
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    one = blur(model, x[:1], low=0.0, high=1.0, steps=4)
    assert one["high_frequency_energy"]["data"]["test_error"] is None


def test_dropout_is_switched_off() -> None:
    from functools import partial

    likelihood = taut.Normal(EVENT, LATENT, decoder=partial(taut.MLP, hidden=(50,), dropout=0.9))
    model = taut.VAE(
        taut.StandardNormal(LATENT), likelihood, taut.DiagonalNormal(EVENT, LATENT, taut.Linear)
    )
    x = torch.randn(4, *EVENT)
    training = blur(model.train(), x, low=0.0, high=1.0, steps=4)
    assert training == blur(model.eval(), x, low=0.0, high=1.0, steps=4)
    assert not model.training


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((0, 4, 5), {}, "at least one image"),
        ((3, 2, 5), {}, "at least 3 by 3"),
        ((3, 20), {}, "is not an image"),
        ((3, 4, 5), {"low": 1.0}, "low must lie below high"),
        ((3, 4, 5), {"steps": 3}, "steps must be at least 4"),
    ],
)
def test_what_is_refused(shape: tuple[int, ...], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        blur(linear_images()[1], torch.rand(shape), **{"low": 0.0, "high": 1.0, **arguments})
