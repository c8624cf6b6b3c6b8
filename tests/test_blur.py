"""Blur whose cause was planted: the posterior, the likelihood, and a scale that is too large."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal
from ztest import limit

import taut
from taut.evidence.audit import audit
from taut.evidence.samples import blur
from taut.evidence.samples_section import CAUSES, Sharpness
from taut.evidence.scale import scale_check

SIDE, WAVES = 8, 3  # 3 waves in 8 pixels: above half of Nyquist's frequency
PLACE = 2 * math.pi * WAVES * torch.arange(SIDE) / SIDE


def wave(phase: Tensor) -> Tensor:
    r"""Returns images whose rows are cos(k u + phase), (\*, SIDE, SIDE)."""
    rows = torch.cos(PLACE + phase[..., None])
    return rows[..., None, :].expand(*rows.shape[:-1], SIDE, SIDE)


def phase_of(x: Tensor) -> Tensor:
    """Returns the phase of the wave that is nearest to an image, (B,)."""
    row = x.mean(-2)
    return torch.atan2(-(row * torch.sin(PLACE)).sum(-1), (row * torch.cos(PLACE)).sum(-1))


class Waves(taut.Likelihood):
    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        return Independent(Normal(wave(z[..., 0]), self.sigma), 2)


class Unsure(taut.Posterior):
    """The right phase, with a spread."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.spread = spread

    def forward(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        return Independent(Normal(phase_of(x)[:, None], self.spread), 1)


def measured(sigma: float, spread: float, x: Tensor) -> dict[str, Any]:
    model = taut.VAE(taut.StandardNormal(1), Waves(sigma), Unsure(spread))
    return blur(model, x, low=-1.0, high=1.0, steps=8, seed=1)


def test_a_posterior_that_is_unsure_of_a_phase_blurs_by_what_theory_says() -> None:
    """The mean of cos(k u + theta + e) over e ~ N(0, s^2) is exp(-s^2 / 2) cos(k u + theta): with
    s = 0.7 it keeps exp(-0.49) = 0.612626 of the energy, while every m(z) has all of it (false
    alarm 1e-6).
    """
    x = wave(torch.rand(400) * 2 * math.pi)
    found = measured(1e-3, 0.7, x)
    ratio = found["averaged"]["ratio"]
    assert math.exp(-0.49) == pytest.approx(0.612626, abs=1e-6)
    assert abs(ratio["value"] - math.exp(-0.49)) < limit(1) * ratio["test_error"]
    assert ratio["test_error"] < 0.01
    energy = found["high_frequency_energy"]
    for name in ("mean", "mean_at_optimum"):
        assert energy[name]["value"] == pytest.approx(energy["data"]["value"], rel=1e-3)
    assert found["cause"] == "posterior"


def test_what_no_z_shows_is_of_the_likelihood() -> None:
    """White noise of sigma has sigma^2 times the share of high frequencies: what draws have more
    than means, and data more than m(z*) (false alarm 1e-6 each).
    """
    sigma, spread = 0.3, 0.3 / (SIDE * SIDE / 2) ** 0.5  # of the exact posterior
    x = wave(torch.rand(600) * 2 * math.pi) + sigma * torch.randn(600, SIDE, SIDE)
    found = measured(sigma, spread, x)
    u = torch.minimum(torch.arange(SIDE), SIDE - torch.arange(SIDE)) / SIDE
    share = float(((u[:, None] ** 2 + u**2) > 1 / 16).double().mean())
    noise = found["split"]["noise"]
    assert abs(noise["value"] - sigma**2 * share / 4) < limit(1) * noise["test_error"]
    assert found["cause"] == "likelihood"
    ratio = found["averaged"]["ratio"]
    whole = found["high_frequency_energy"]["data"]["value"]
    # a phase that is as uncertain as that costs next to nothing
    expected = math.exp(-(spread**2)) * found["high_frequency_energy"]["mean"]["value"] / whole
    assert abs(ratio["value"] - expected) < limit(1) * ratio["test_error"]


def test_no_blur_has_no_cause() -> None:
    found = measured(1e-3, 1e-6, wave(torch.rand(20) * 2 * math.pi))
    assert found["cause"] is None
    assert found["averaged"]["ratio"]["value"] == pytest.approx(1, abs=1e-6)


def test_the_energy_of_an_average_has_no_bias_from_few_draws() -> None:
    """The mean over pairs of different draws: the energy of the average of 16 itself would keep
    (1 - exp(-s^2)) / 16 too much, 0.024 of the whole, five errors of this test.
    """
    ratios = [
        measured(1e-3, 0.7, wave(torch.rand(300) * 2 * math.pi))["averaged"]["ratio"]
        for _ in range(2)
    ]
    mean = sum(r["value"] for r in ratios) / 2
    error = math.hypot(*(r["test_error"] for r in ratios)) / 2
    assert abs(mean - math.exp(-0.49)) < limit(1) * error < (1 - math.exp(-0.49)) / 16


def test_the_report_says_the_cause() -> None:
    found = measured(1e-3, 0.7, wave(torch.rand(50) * 2 * math.pi))
    section = Sharpness(found)
    assert any(CAUSES["posterior"] in line for line in section.small())
    titles = [line[0] for line in section.tables()[0].lines]
    assert titles[2] == "reconstructions: mean over z from q"


class Constant(taut.Likelihood):
    """p(x|z) = N(0, s^2), whatever z is."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        shape = (*z.shape[:-1], 5)
        return Independent(Normal(torch.zeros(shape), torch.full(shape, self.scale)), 1)


@pytest.mark.parametrize(
    ("scale", "right", "nats"), [(1.0, 0.1, 1.807585), (0.1, 0.2, 0.806853), (0.2, 0.1, 0.318147)]
)
def test_a_wrong_scale_is_worth_what_theory_says_and_the_doctor_finds_it(
    scale: float, right: float, nats: float
) -> None:
    """log(s / s*) + (s*^2 / s^2 - 1) / 2 a dimension, of residuals of s* exactly."""
    assert math.log(scale / right) + (right**2 / scale**2 - 1) / 2 == pytest.approx(nats, abs=1e-6)
    x = right * torch.randint(0, 2, (80, 5)).double().mul(2).sub(1)
    posterior = taut.DiagonalNormal((5,), 1, taut.Linear)
    model = taut.VAE(taut.StandardNormal(1), Constant(scale), posterior)
    gain = scale_check(model, x)
    assert gain is not None
    assert gain["gain"]["value"] == pytest.approx(5 * nats, abs=5e-6)
    few = taut.Effort(
        num_samples=20, num_chains=2, max_temperatures=5, optimum_steps=5, naive=2, task_seconds=0
    )
    found = audit(model, x[:8], effort=few)
    (finding,) = [each for each in found["findings"] if each["name"] == "scale"]
    assert finding["nats"] == pytest.approx(5 * nats, abs=5e-6)
