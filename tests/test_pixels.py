"""Images of levels, saturated ones above all: a logistic distribution seen through the histogram of
all pixels.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import taut
from taut import likelihoods
from taut.build.config import ModelConfig
from taut.build.model import build_vae
from taut.build.statistics import summarize
from taut.build.usual import complete
from taut.data import prepare
from taut.distributions import OUTSIDE, WarpedPixels
from taut.likelihoods.levels import _warp


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


LEVELS = f64(*range(7))
SATURATED = f64(0.8, 0.01, 0.001, 1e-9, 0.002, 0.05, 0.137)
SATURATED /= SATURATED.sum()
LOC, SCALE = f64(1.3, 2.5, -40.0, 0.2), f64(1.0, 0.05, 0.3, 9.0)


def made(dtype: torch.dtype = torch.float64, low: int = 0) -> WarpedPixels:
    edges, widths = _warp(SATURATED)
    given = (LOC.to(dtype), SCALE.to(dtype), edges.to(dtype), widths.to(dtype))
    return WarpedPixels(*given, low, validate_args=False)


def shares() -> Tensor:
    """Returns what the levels have of the mass: the two ends leave a share beyond themselves."""
    rest = torch.full((7, 1), 1 - OUTSIDE)
    rest[[0, -1]] *= 1 - OUTSIDE
    return rest


def test_the_masses_are_differences_of_the_distribution_function() -> None:
    edges, _ = _warp(SATURATED)
    below = torch.sigmoid((edges[:, None] - LOC) / SCALE)
    mass = torch.cat([below[:1], below.diff(dim=0), 1 - below[-1:]])
    d = made(low=3)
    found = d.log_prob(LEVELS[:, None] + 3).exp()
    torch.testing.assert_close(found, shares() * mass, rtol=0, atol=1e-12)
    torch.testing.assert_close(d.mean, 3 + (LEVELS[:, None] * mass).sum(0), rtol=0, atol=1e-12)


def test_all_integers_have_the_mass_one() -> None:
    integers = torch.arange(-100_000.0, 100_000.0)[:, None]
    total = made().log_prob(integers).logsumexp(0)
    torch.testing.assert_close(total, torch.full((4,), math.log1p(-OUTSIDE)), rtol=0, atol=1e-10)


def test_256_levels_have_the_mass_one_at_wild_locations_and_scales() -> None:
    histogram = torch.rand(256) ** 8 + 1e-9
    histogram[[0, 255]] = torch.tensor([900.0, 9.0])
    edges, widths = _warp(histogram)
    loc, scale = 20 * torch.randn(50), torch.logspace(-3, 3, 50)
    d = WarpedPixels(loc, scale, edges, widths, 0, validate_args=False)
    mass = d.log_prob(torch.arange(256.0)[:, None]).exp()
    mass[[0, 255]] /= 1 - OUTSIDE
    whole = torch.full((50,), 1 - OUTSIDE)
    torch.testing.assert_close(mass.sum(0), whole, rtol=0, atol=1e-10)


def test_a_decoder_output_of_zero_is_the_histogram_of_the_pixels() -> None:
    part = likelihoods.WarpedPixels((2, 3), 1, 0, 6, decoder=taut.Linear, histogram=SATURATED)
    for parameter in part.parameters():
        torch.nn.init.zeros_(parameter)
    images = LEVELS[:, None, None].expand(7, 2, 3)
    expected = 6 * (SATURATED * shares()[:, 0]).log()
    torch.testing.assert_close(
        part(torch.zeros(1, 1)).log_prob(images), expected, rtol=1e-10, atol=0
    )


def test_far_from_its_centre_there_is_no_cancellation_and_float32_agrees() -> None:
    """The third element is 40 / 0.3 scales beyond its edges; gradients, too."""
    gradients, found = [], []
    for dtype in (torch.float32, torch.float64):
        d = made(dtype)
        d.loc, d.scale = d.loc.clone().requires_grad_(), d.scale.clone().requires_grad_()
        found.append(d.log_prob(LEVELS[:, None].to(dtype)))
        gradients.append(torch.autograd.grad(found[-1].sum(), (d.loc, d.scale)))
    edges, widths = _warp(SATURATED)
    a, b = (edges[3] + 40) / 0.3, (edges[2] + 40) / 0.3
    # sigma(a) - sigma(b) = exp(-b) (1 - exp(b - a)) to e^-130
    by_hand = -b + torch.log(-torch.expm1(-widths[3] / 0.3)) + math.log1p(-OUTSIDE)
    torch.testing.assert_close(found[1][3, 2], by_hand, rtol=1e-12, atol=0)
    assert float(a - b) == pytest.approx(float(widths[3] / 0.3), rel=1e-5)
    # a distance of 133 scales in float32 is known to 133 * 2^-24 of a nat; twenty roundings of it
    torch.testing.assert_close(found[0].double(), found[1], rtol=2e-6, atol=2e-5)
    for single, double in zip(*gradients, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=2e-5, atol=2e-4)


def test_samples_follow_the_mass() -> None:
    d, n = made(), 50_000
    x = d.sample((n,))
    p = d.log_prob(LEVELS[:, None]).exp()
    counts = torch.stack([(x == level).sum(0) for level in LEVELS])
    z = (counts - n * p) / (n * p * (1 - p)).sqrt()
    # Binomial z of levels that 25 draws or more are expected of: at most 28 of them, two-sided, 5.5
    # is passed by chance with probability 1e-6. The others have their mean + 6 deviations + 8.
    often = (n * p > 25) & (n * (1 - p) > 25)
    assert float(z[often].abs().max()) < 5.5
    assert bool((counts <= n * p + 6 * (n * p).sqrt() + 8).all())


def saturated_images(rows: int = 80) -> np.ndarray:
    rng = np.random.default_rng(0)
    grey = rng.integers(1, 255, (rows, 6, 5))
    place = rng.random(grey.shape)
    return np.where(place < 0.8, 0, np.where(place < 0.9, 255, grey)).astype(np.uint8)


def test_the_histogram_is_that_of_all_pixels_of_the_training_images() -> None:
    data = prepare(saturated_images())
    counts = torch.bincount(torch.as_tensor(data.train).flatten(), minlength=256).double()
    found = summarize(data).histogram
    assert found is not None
    # the same pseudo-count for each level, one of six
    tried = [1 / 256, 0.01, 0.03, 0.1, 0.3, 1.0]
    fits = [(counts + a) / (counts.sum() + 256 * a) for a in tried]
    assert min(float((found - fit).abs().max()) for fit in fits) < 1e-12
    assert float(found.sum()) == pytest.approx(1, abs=1e-12)


def test_images_of_levels_get_it_and_rows_of_levels_do_not(tmp_path: Path) -> None:
    images = saturated_images()
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number:02}.png")
    for source in (images, str(tmp_path)):
        data = prepare(source)
        config = complete(ModelConfig(latent_dim=2), data.schema)
        assert config.likelihood == "WarpedPixels()"
        part = build_vae(config, data.schema, summarize(data)).likelihood
        expected, _ = _warp(summarize(data).histogram)
        torch.testing.assert_close(part.edges, expected.to(part.edges), rtol=0, atol=0)
    others = (images.reshape(80, 30), np.stack([images] * 3, -1), 200 * images.astype(np.uint16))
    # rows, colours, 16 bits, and few levels
    found = [*(prepare(x) for x in others), prepare(images // 16, levels=(0, 15))]
    for schema in (data.schema for data in found):
        assert complete(ModelConfig(), schema).likelihood == "DiscretizedLogistic()"


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (torch.zeros(3), torch.ones(3), r"same levels: take WarpedLevels\(\)"),
        (2, 2, r"two levels or more, not 2\.\.2"),
    ],
)
def test_other_levels_are_refused(low, high, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        likelihoods.WarpedPixels((3,), 2, low, high)


def test_images_that_are_mostly_black_or_white_are_offered_bits() -> None:
    images = np.zeros((40, 8, 8), np.uint8)
    images[:, 2:5, 2:6] = np.random.default_rng(0).integers(1, 255, (40, 3, 4))
    assert prepare(images).notes[0] == (
        "81 % of the pixels are 0 or 255: --binarize dynamic learns black and white, with grey as "
        "the probability of white"
    )
    images[:, :4] = np.random.default_rng(1).integers(1, 255, (40, 4, 8))
    assert not any("--binarize" in note for note in prepare(images).notes)
    assert not any("--binarize" in note for note in prepare(images.reshape(40, 64)).notes)
