"""``taut compare``: runs of any kind on the same held-out rows."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from instances import make_steps
from test_tighten import BITS, REAL, SMALL, call
from torch.distributions import Normal

import taut
from taut.evidence.samples import sharpness
from taut.runs.compare import _calls, _energy, _ratio
from taut.runs.gain import paired_gain
from taut.runs.measure import log_prob_of
from taut.system.errors import DataError, UsageError
from taut.use import tasks

FEW = SMALL | {"max_epochs": 3}
LIKE = {"num_data": 20, "num_samples": 20}
IMAGES = (np.random.default_rng(3).random((120, 4, 5)) < 0.4).astype(np.uint8)


@pytest.fixture(autouse=True)
def _alone(_seeded: None) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs of images of bits, of each kind, and one of other data."""
    folder = tmp_path_factory.mktemp("made")
    before, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    np.save(folder / "images.npy", IMAGES)
    np.save(folder / "bits.npy", BITS)
    np.save(folder / "real.npy", REAL)
    networks = {k: FEW[k] for k in ("encoder", "decoder", "latent_dim")}
    rest = {k: v for k, v in FEW.items() if k not in networks}
    for name, own in {
        "vae": networks,
        "mixture": {"model": "Mixture(num_states=3)"},
        "masked": {"model": "MaskedDiffusion()", "decoder": "MLP(hidden=(8,))"},
    }.items():
        taut.fit(folder / "images.npy", folder / name, **rest, **own)
    taut.fit(folder / "images.npy", folder / "other", **FEW, kind="real")
    taut.fit(folder / "images.npy", folder / "split", **FEW, test_fraction=0.3)
    taut.fit(folder / "bits.npy", folder / "bits", **FEW)
    taut.fit(folder / "real.npy", folder / "real", **FEW)
    torch.set_default_dtype(before)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return tmp_path


def test_a_paired_gain_by_hand() -> None:
    a, b = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.5, 2.5, 1.0])
    errors = torch.tensor([0.3, 0.0, 0.4])
    found = paired_gain(a, errors, b, torch.tensor([0.4, 0.0, 0.3]), None)
    assert found.value == pytest.approx(1.0, abs=1e-12)
    assert found.mc_error == pytest.approx(math.hypot(0.5, 0.5) / 3, abs=1e-7)
    assert found.test_error == pytest.approx(
        float(torch.tensor([0.5, -0.5, 3.0]).std()) / 3**0.5, abs=1e-6
    )


def test_a_row_without_a_number_is_counted_and_copies_are_one_row() -> None:
    a = torch.tensor([1.0, -torch.inf, 3.0, 3.0], dtype=torch.float64)
    zero = torch.zeros(4, dtype=torch.float64)
    found = paired_gain(a, zero, zero, zero, torch.tensor([0, 1, 2, 2]))
    assert found.without == 1
    assert found.value == pytest.approx(7 / 3, abs=1e-12)
    # deviations -4/3 and 2/3 + 2/3, two observations
    assert found.test_error == pytest.approx(math.sqrt(2 * (4 / 3) ** 2) / 3 * 2**0.5, abs=1e-12)


def test_sharpness_of_white_noise_and_of_a_wave() -> None:
    """Noise has its variance times the share of coefficients above half of Nyquist's; the error is
    4 standard errors of 2,000 images (false alarm 6e-5). A wave has all of its energy or none.
    """
    noise = Normal(0.0, 0.2).sample((2000, 8, 8)).double()
    u = torch.minimum(torch.arange(8), 8 - torch.arange(8)) / 8
    share = float(((u[:, None] ** 2 + u**2) > 1 / 16).double().mean())
    energy = sharpness(noise, low=0.0, high=1.0)[0]
    error = float(energy.std()) / 2000**0.5
    assert abs(float(energy.mean()) - 0.04 * share) < 4 * error
    wave = torch.cos(2 * math.pi * 3 * torch.arange(8.0, dtype=torch.float64) / 8)
    low = torch.cos(2 * math.pi * torch.arange(8.0, dtype=torch.float64) / 8)
    both = torch.stack([wave, low])[:, None, :].expand(2, 8, 8)
    assert sharpness(both, low=-1.0, high=1.0)[0].tolist() == pytest.approx([0.125, 0.0], abs=1e-12)


def test_the_error_of_a_ratio_is_that_of_draws_of_it() -> None:
    """By the delta method: within 15 % of the scatter over 2,000 repetitions (its own error is
    1.6 %).
    """
    a, b = (
        Normal(3.0, 1.0).sample((2000, 50)).double(),
        Normal(2.0, 0.5).sample((2000, 70)).double(),
    )
    ratios = a.mean(1) / b.mean(1)
    found = _ratio(taut.Estimate.of(a[0]), taut.Estimate.of(b[0]))
    assert found.value == pytest.approx(float(ratios[0]), abs=1e-12)
    errors = [
        _ratio(taut.Estimate.of(i), taut.Estimate.of(j)).test_error or 0.0
        for i, j in zip(a[:200], b[:200], strict=True)
    ]
    assert np.mean(errors) == pytest.approx(float(ratios.std()), rel=0.15)


def test_each_number_is_that_of_its_own_estimator(here: Path) -> None:
    found = taut.compare("vae", "mixture", "masked", **LIKE)
    vae, mixture, masked = found.to_dict()["runs"]
    data = found.to_dict()["data"]
    assert (data["part"], data["rows"], data["num_data"], data["each"]) == ("test", 12, 12, "image")
    run = taut.load("mixture")
    x = run.data().test.to(torch.float32)
    exact = log_prob_of(run.model, x)
    assert mixture["log_evidence"]["value"] == pytest.approx(float(exact.mean()), abs=1e-6)
    assert mixture["by"] == "closed form"
    assert mixture["elbo"] is None
    assert mixture["network_calls"] == 0
    assert vae["network_calls"] == 1
    assert masked["network_calls"] == 20  # pixels
    assert masked["by"] in ("importance of paths", "ELBO, a bound")
    assert vae["parameters"] == sum(p.numel() for p in taut.load("vae").model.parameters())
    assert mixture["parameters"] > 0
    assert vae["training_minutes"] > 0
    bits = vae["bits_per_dimension"]["value"]
    assert bits == pytest.approx(-vae["log_evidence"]["value"] / 20 / math.log(2), abs=1e-9)
    for of_run in (vae, mixture, masked):
        assert of_run["samples"]["num_data"] == 12
        assert of_run["cpu_seconds_per_sample"] > 0
    samples = tasks.sample(taut.load("vae").model, 12, seed=0)
    ratio = _ratio(_energy(samples, (0, 1)), _energy(x, (0, 1)))
    assert vae["sharpness"]["draws"]["value"] == pytest.approx(ratio.value, rel=0.3)
    assert masked["sharpness"]["means"] is None
    assert vae["sharpness"]["means"] is not None


def test_a_model_of_many_steps_says_how_many_its_sample_takes() -> None:
    """Its network may be called once and its denoiser, which is none of the family, many times."""
    found = [_calls(model) for model in make_steps()]
    assert found == [4, 8, 8]


def test_differences_are_paired_and_of_the_second_over_the_first(here: Path) -> None:
    found = taut.compare("vae", "mixture", "masked", **LIKE).to_dict()
    vae, mixture, _ = found["runs"]
    pairs = [(each["of"], each["over"]) for each in found["differences"]]
    assert pairs == [("mixture", "vae"), ("masked", "vae"), ("masked", "mixture")]
    gain = found["differences"][0]["log_evidence"]
    expected = mixture["log_evidence"]["value"] - vae["log_evidence"]["value"]
    assert gain["value"] == pytest.approx(expected, abs=1e-9)
    assert mixture["over_first"]["log_evidence"] == gain
    # what makes a row likely for both cancels
    assert gain["test_error"] < math.hypot(
        mixture["log_evidence"]["test_error"], vae["log_evidence"]["test_error"]
    )


def test_the_table_the_page_and_the_json_say_the_same(here: Path) -> None:
    names = ["vae", "mixture"]
    page = here / "page.html"
    table = call("compare", *names, "--num-data", "20", "--num-samples", "20", "--out", page)
    printed = json.loads(
        call("compare", *names, "--num-data", "20", "--num-samples", "20", "--out",
             here / "other.html", "--json").stdout
    )  # fmt: skip
    found = taut.compare(*names, **LIKE)
    for where in (printed, found.to_dict()):
        assert [run["name"] for run in where["runs"]] == names
    value = printed["runs"][0]["log_evidence"]["value"]
    assert value == found.to_dict()["runs"][0]["log_evidence"]["value"]
    text = page.read_text()
    for title, cells in found.rows():
        if "milliseconds" not in title:
            assert title.strip() in text
            assert title in table.stdout
            assert title in str(found)
            for cell in cells:
                assert cell in text, (title, cell)
    assert 'src="data:image/png;base64,' in text
    assert "<script" not in text
    assert found.sheet is not None
    assert found.sheet.startswith(b"\x89PNG")


def test_what_an_audit_measured_stands_beside_the_gap(here: Path) -> None:
    shutil.copytree("vae", here / "vae")
    run = taut.load(here / "vae")
    few = taut.Effort(num_samples=20, num_chains=2, max_temperatures=5, task_seconds=0)
    audit = run.audit(num_data=4, effort=few)
    found = taut.compare(run, "mixture", **LIKE)
    gaps = found.to_dict()["runs"][0]["gaps"]
    assert gaps["amortization_gap"] == audit["gaps"]["amortization_gap"]
    assert any("the encoder (audit)" in title for title, _ in found.rows())


def test_rows_that_are_no_images_have_no_sheet_and_no_sharpness(here: Path) -> None:
    found = taut.compare("real", "real", **LIKE)
    assert found.sheet is None
    assert found.to_dict()["data"]["sharpness"] is None
    assert not any("sharpness" in title for title, _ in found.rows())
    gain = found.to_dict()["differences"][0]["log_evidence"]
    assert gain["value"] == 0
    assert gain["test_error"] == 0
    assert found.to_dict()["runs"][0]["bits_per_dimension"] is None


def test_a_model_that_is_conditioned_makes_no_samples_of_its_own(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    rows = ["kind,size"] + [f"{'ab'[i % 2]},{i % 7 + 0.5 * (i % 2)}" for i in range(200)]
    Path("t.csv").write_text("\n".join(rows))
    for name in ("a", "b"):
        taut.fit("t.csv", name, **FEW, condition=["kind"], model="VAE()")
    found = taut.compare("a", "b", **LIKE).to_dict()["runs"][0]
    assert found["samples"] is None
    assert found["network_calls"] is None
    assert found["log_evidence"]["value"] is not None


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        (["vae"], UsageError, ["one run is compared with nothing"]),
        (["vae", "bits"], DataError, ["trained on other data", "give runs of the same data"]),
        (["vae", "other"], UsageError, ["binary for the one" , "real for the other"]),
        (["vae", "split"], DataError, ["hold out other rows of the same data"]),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_in_one_line(
    names: list[str], error: Any, words: list[str], here: Path
) -> None:
    with pytest.raises(error) as caught:
        taut.compare(*reversed(names))
    said = str(caught.value)
    assert "\n" not in said
    assert all(word in said for word in words), said
    failed = call("compare", *names, "--out", here / "page.html")
    assert failed.exit_code == caught.value.exit_code
    assert not (here / "page.html").exists()
