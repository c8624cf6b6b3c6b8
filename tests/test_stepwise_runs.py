"""Runs of models of many steps: from a file to numbers, the same from the folder and after a stop,
and one line for each thing that they cannot do. What the numbers must be is in ``test_stepwise``.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner, Result

import taut
from taut.build.config import Config, ModelConfig, TrainingConfig
from taut.build.model import build
from taut.build.usual import complete, exact_of, stepwise_of
from taut.cli.app import app
from taut.data import prepare
from taut.evidence import importance
from taut.evidence.section import Scene
from taut.evidence.steps_section import Steps
from taut.models.diffusion import Diffusion
from taut.models.masked_diffusion import MaskedDiffusion
from taut.runs import fit
from taut.system.errors import UsageError
from taut.training import checkpoint

MASKED = {"model": "MaskedDiffusion()", "decoder": "MLP(hidden=(16,))"}
SMALL = "Diffusion(steps=8, width=16, blocks=1)"
QUICK = {"max_epochs": 6, "threads": 1, "num_samples": 40}


@pytest.fixture(autouse=True)
def _alone(_seeded: None) -> Iterator[None]:
    threads, before = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    yield
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, before)


def table(rows: int = 240, gaps: bool = True) -> pd.DataFrame:
    """A group, given which a category, a bit, a level and a number are independent."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 3, rows)
    made = pd.DataFrame(
        {
            "word": np.array(list("xyz"))[group],
            "bit": np.where(group == 1, "yes", "no"),
            "level": rng.poisson(1 + 3 * group),
            "number": 2.0 * group + 0.3 * rng.normal(size=rows),
        }
    )
    if gaps:
        made.loc[::7, "number"] = np.nan
        made.loc[::5, "word"] = None
    return made


def bits(rows: int = 300) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.random((rows, 2, 3)) < np.linspace(0.1, 0.9, 6).reshape(2, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> taut.Run:
    """A masked diffusion of a table with gaps, in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    folder = tmp_path_factory.mktemp("masked")
    table().to_csv(folder / "table.csv", index=False)
    made = taut.fit(str(folder / "table.csv"), folder / "run", **MASKED, **QUICK)
    torch.set_default_dtype(before)
    return made


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> taut.Run:
    """A diffusion of images of bits."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    folder = tmp_path_factory.mktemp("diffusion")
    np.save(folder / "bits.npy", bits())
    made = taut.fit(str(folder / "bits.npy"), folder / "run", model=SMALL, **QUICK)
    torch.set_default_dtype(before)
    assert isinstance(made.model, Diffusion)
    return made


def command(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


# --- What is built --------------------------------------------------------------------------------


def test_specifications_are_completed() -> None:
    schema = prepare(table(gaps=False)).schema
    masked = complete(ModelConfig(model="MaskedDiffusion"), schema)
    assert masked.model == "MaskedDiffusion()"
    assert masked.likelihood == "Columns(warp=True)"
    assert masked.decoder == "MLP(hidden=(512, 512))"
    assert masked.prior is None
    own = complete(ModelConfig(model="Diffusion(steps=9)", decoder="MLP"), schema)
    assert (own.model, own.decoder) == ("Diffusion(steps=9)", "MLP()")
    few = complete(ModelConfig(model="Diffusion"), prepare(bits()).schema)
    assert (few.likelihood, few.decoder) == ("Categorical()", None)
    assert complete(few, prepare(bits()).schema) == few
    assert exact_of(few) is None
    assert str(stepwise_of(few)) == "Diffusion()"
    assert stepwise_of(ModelConfig()) is None


UNET = "Diffusion(steps=8, network=UNet(channels=3))"


@pytest.mark.parametrize("words", [SMALL, UNET])
def test_a_network_of_zeros_starts_at_independent_levels(words: str) -> None:
    """The ELBO of continuous time is log p(x) there: the denoiser and the read-out are the best.

    Of 400 lattices of 50 times; the ends of the schedule cost less than 0.01 nats.
    """
    data = prepare(bits(2000))
    built = fit.assemble(data, Config(model=ModelConfig(model=words)))[2]
    assert isinstance(built, Diffusion)
    model = built.of_steps(None)
    with torch.no_grad():
        model.start.fill_(-9.0)
        model.log_span.fill_(float(np.log(18.0)))
        model.likelihood.decoder.log_precision.fill_(9.0)
        x = data.test[:4].to(torch.get_default_dtype())
        found = torch.stack([model.glance(x, 50).elbo.mean(0) for _ in range(400)])
        frequencies = model.log_frequencies.view(1, 2, 3, 2).expand(4, -1, -1, -1)
        known = frequencies.gather(-1, x.long()[..., None])[..., 0].flatten(1).sum(1)
    error = found.std(0) / 20
    assert bool(((found.mean(0) - known).abs() < 0.01 + 5.1 * error).all())
    assert float(error.max()) < 0.1


@pytest.mark.parametrize("kind", ["real", "count", "levels"])
@pytest.mark.parametrize("model", ["MaskedDiffusion", SMALL])
def test_every_kind_of_array_has_a_bound(model: str, kind: str) -> None:
    rng = np.random.default_rng(0)
    values = {"real": rng.normal(size=(60, 4)), "count": rng.poisson(3.0, (60, 4))}
    values["levels"] = rng.integers(0, 200, (60, 4))
    config = Config.from_dict({"data": {"kind": kind}, "model": {"model": model}})
    _, data, made, _ = fit.assemble(values[kind], config)
    x = data.train[:5].to(torch.get_default_dtype())
    assert bool(made.glance(x, 3).elbo.isfinite().all())
    assert bool(made.draw(x, 2).log_weight.isfinite().all())
    assert made.sample(3).shape == (3, 4)


def test_samples_lie_in_the_support(run: taut.Run, path: taut.Run) -> None:
    drawn = run.sample(40)
    assert set(drawn["word"]) <= {"x", "y", "z"}
    assert (drawn["level"] >= 0).all()
    assert set(np.unique(path.sample(40))) <= {0, 1}


# --- What is measured -----------------------------------------------------------------------------


def test_an_evaluation_has_a_bound_and_an_evidence(run: taut.Run, path: taut.Run) -> None:
    found = run.evaluation()
    assert found["rate"]["value"] == 0
    assert found["by"] == {"importance": found["num_data"]}
    gap = found["inference_gap"]
    assert gap["value"] > -5 * gap["mc_error"]
    x = run.data().test.to(torch.get_default_dtype())
    assert importance(run.model, x, 40, seed=0).num_samples == 40
    both = path.evaluation()
    total = both["rate"]["value"] + both["distortion"]["value"]
    assert abs(both["elbo"]["value"] + total) < 1e-5
    assert both["bits_per_dimension"]["elbo"]["value"] > 0


def test_gaps_are_filled_and_nothing_else_is_changed(run: taut.Run, tmp_path: Path) -> None:
    source = run.path.parent / "table.csv"
    done = command("impute", run.path, source, "--out", tmp_path / "filled.csv")
    assert done.exit_code == 0, done.stderr
    before, after = pd.read_csv(source), pd.read_csv(tmp_path / "filled.csv")
    assert not after.isna().any().any()
    for name in before:
        there = before[name].notna()
        assert (before[name][there] == after[name][there]).all()


def test_the_audit_says_what_cannot_be(run: taut.Run, path: taut.Run) -> None:
    effort = taut.Effort(num_samples=60, samples=20, train=60)
    x = run.data().test.to(torch.get_default_dtype())
    masked, audit = taut.audit(run.model, x, effort=effort), path.audit(effort=effort)
    for made, found, word in (
        (run, masked, "orders disagree"),
        (path, audit, "the amortization gap is 0"),
    ):
        for name in ("annealing", "sandwich", "gaps", "naive", "latents"):
            assert found[name] is None
            assert word in found["missing"][name]
        assert found["steps"]["passes"] == made.model.passes
    assert "A sample takes" in (path.path / "report.html").read_text()
    assert [each["steps"] for each in audit["steps"]["bounds"]] == [4, 8, 16]


def test_the_limit_of_many_steps_is_found_two_ways() -> None:
    """Of the gaussian whose bounds are known, at the two points whose mean is theirs."""
    from test_stepwise import elbo, gaussian

    model = gaussian(64, -6.0)
    found = Steps.run(Scene(model, torch.tensor([[1.0], [-1.0]] * 200)))
    for each in found["bounds"]:
        known = elbo(gaussian(each["steps"], -6.0))
        # t of nine degrees of freedom for each row: of 400 rows all but a Normal
        assert abs(each["value"] - known) < 5 * each["mc_error"]
    richardson, continuous = found["richardson"], found["continuous"]
    assert richardson["mc_error"] < 0.02
    apart = abs(richardson["value"] - continuous["value"])
    assert apart < 5 * np.hypot(richardson["mc_error"], continuous["mc_error"]) + 0.002
    rates = [found["rates"][name]["value"] for name in found["rates"]]
    own = found["bounds"][1]["value"]
    assert abs(sum(rates) + own) < 1e-9
    assert all(rate > 0 for rate in rates[1:])


# --- The folder -----------------------------------------------------------------------------------


def test_a_run_is_the_same_from_its_folder(run: taut.Run, path: taut.Run) -> None:
    for made in (run, path):
        loaded = taut.load(made.path)
        for name, value in made.model.state_dict().items():
            assert torch.equal(value, loaded.model.state_dict()[name]), name
        assert type(made.model).__name__ in repr(loaded)
    info = json.loads((path.path / "run.json").read_text())
    assert info["config"]["model"]["model"] == SMALL
    assert info["config"]["training"]["objective"] == "ELBO()"


def test_a_training_that_was_stopped_ends_in_the_same_bits(tmp_path: Path) -> None:
    np.save(tmp_path / "bits.npy", bits())
    for number, words in enumerate(({"model": SMALL}, {"model": UNET}, MASKED)):
        config = Config(
            model=ModelConfig(**words), training=TrainingConfig(max_epochs=60, threads=1)
        )
        folders = [tmp_path / f"{name}{number}" for name in ("whole", "stopped")]
        whole, data, state = fit.start(str(tmp_path / "bits.npy"), folders[0], config)
        list(fit.train_run(whole, data, state))
        stopped, data, state = fit.start(str(tmp_path / "bits.npy"), folders[1], config)
        records = fit.train_run(stopped, data, state)
        next(records)
        with pytest.raises(KeyboardInterrupt):
            records.throw(KeyboardInterrupt())
        kept = checkpoint.load_last(folders[1] / "checkpoints")[1]
        assert 0 < kept.step < whole.history()[-1]["step"]
        resumed, data, state = fit.resume(folders[1])
        list(fit.train_run(resumed, data, state))
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_a_model_from_a_configuration_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table(80).to_csv("t.csv", index=False)
    text = '[model]\nmodel = "MaskedDiffusion()"\ndecoder = "MLP(hidden=(8,))"\n'
    Path("taut.toml").write_text(f"{text}[training]\nmax_epochs = 1\n")
    done = command("fit", "t.csv", "--config", "taut.toml", "--out", "r", "--num-samples", 8)
    assert done.exit_code == 0, done.stderr
    assert isinstance(taut.load("r").model, MaskedDiffusion)


@pytest.mark.parametrize("shape", [(5, 7), (6, 3, 3)])
def test_a_u_net_from_a_file(
    shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers, and colours of few levels, to samples and a bound; the same when loaded."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(80, *shape))
    np.save("x.npy", values if len(shape) == 2 else rng.integers(0, 9, (80, *shape)))
    Path("taut.toml").write_text(f'[model]\nmodel = "{UNET}"\n[training]\nmax_epochs = 2\n')
    done = command("fit", "x.npy", "--config", "taut.toml", "--out", "r", "--num-samples", 8)
    assert done.exit_code == 0, done.stderr
    run = taut.load("r")
    assert type(run.model.denoiser.network).__name__ == "UNet"
    assert np.asarray(run.sample(3)).shape == (3, *shape)
    x = run.data().test[:4].to(torch.get_default_dtype())
    with torch.no_grad():
        z = run.model.encode(x).sample((2,))
        draws = [taut.load("r").model.draw(x, given=z).log_weight, run.model.draw(x, given=z)]
    assert torch.equal(draws[0], draws[1].log_weight)


# --- What is refused ------------------------------------------------------------------------------


def test_one_line_for_each_wrong_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table(60).to_csv("t.csv", index=False)
    masked = ("--model", "MaskedDiffusion")
    for words, expected in (
        ((*masked, "--prior", "StandardNormal"), "prior is of a VAE"),
        ((*masked, "--latent-dim", 3), "latent_dim is of a VAE"),
        ((*masked, "--condition", "bit"), "models all columns together"),
        ((*masked, "--objective", "IWAE()"), "it is trained by ELBO()"),
        ((*masked, "--objective", "ELBO(free_bits=0.1)"), "it is trained by ELBO()"),
        (("--model", "Diffusion"), "take --model 'MaskedDiffusion()'"),
        (("--model", "MaskedDiffusion(steps=3)"), "has no argument 'steps'"),
        (("--model", "MaskedDifusion"), "did you mean 'MaskedDiffusion'?"),
    ):
        done = command("fit", "t.csv", *words)
        assert done.exit_code == 2, done.output
        assert expected in done.stderr.strip().splitlines()[-1]
    table(60, gaps=False).to_csv("full.csv", index=False)
    done = command("fit", "full.csv", "--model", "Diffusion(steps=0)")
    assert "steps must be a whole number" in done.stderr
    done = command("fit", "full.csv", "--model", "Diffusion(network=UNet())")
    assert done.exit_code == 2
    assert "is not an image" in done.stderr.strip().splitlines()[-1]
    counts = ("fit", "c.npy", "--kind", "count", "--likelihood", "Multinomial()", *masked)
    np.save("c.npy", np.random.default_rng(0).poisson(3.0, (60, 4)))
    done = command(*counts)
    assert "is of a row given its total" in done.stderr.strip().splitlines()[-1]


def test_what_has_no_meaning_without_an_encoder(
    run: taut.Run, path: taut.Run, tmp_path: Path
) -> None:
    z, out = tmp_path / "z.npy", tmp_path / "x.csv"
    np.save(z, np.zeros((2, 4)))
    data = run.path.parent / "table.csv"
    for words, expected in (
        (("tighten", run.path), "there is no encoder to tighten"),
        (("refit", run.path, "--prior", "StandardNormal()"), "there is no encoder to tighten"),
        (("gradients", run.path), "there are none to compare"),
        (("encode", run.path, data, "--out", out), "says nothing of a row"),
        (("reconstruct", run.path, data, "--out", out), "take --model VAE"),
        (("decode", run.path, z, "--out", out), "nothing to encode or to reconstruct from"),
        (("score", run.path, data, "--regret", "--out", out), "there is no encoder to tighten"),
        (("sample", run.path, "--mean", "--out", out), "has no mean of one: omit --mean"),
        (("impute", path.path, path.path.parent / "bits.npy"), "has no conditionals"),
    ):
        done = command(*words)
        assert done.exit_code == 2, (words, done.output)
        assert expected in done.stderr.strip().splitlines()[-1], words
    with pytest.raises(UsageError, match="is of a VAE"):
        fit.start(
            table(),
            tmp_path / "r",
            Config(model=ModelConfig(**MASKED)),
            parts={"prior": taut.StandardNormal(2)},
        )


@pytest.mark.parametrize("model", [SMALL, "MaskedDiffusion()"])
@pytest.mark.parametrize("data", ["table.csv", "bits.npy"])
def test_what_is_to_be_done_next_can_be_done(
    model: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table(60, gaps=False).to_csv("table.csv", index=False)
    np.save("bits.npy", bits(60).reshape(60, 6))
    quick = ("--max-epochs", 1, "--num-samples", 4, "--threads", 1)
    done = command("fit", data, "--model", model, "--out", "run", *quick)
    assert done.exit_code == 0, done.output
    told = done.stderr.partition("next:")[2].splitlines()
    lines = [line.partition("#")[0].split() for line in told]
    commands = [words for words in lines if words[:1] == ["taut"] and words[1] != "audit"]
    assert commands
    for words in commands:
        there = command(*words[1:], *(["--num-samples", 4] if words[1] == "score" else []))
        assert there.exit_code == 0, (words, there.output)


def test_a_diffusion_refuses_gaps_in_new_rows_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound of a row counts the noise of every entry, so that a gap would make it odd."""
    monkeypatch.chdir(tmp_path)
    whole = table(60, gaps=False)
    whole.to_csv("table.csv", index=False)
    done = command("fit", "table.csv", "--model", SMALL, "--out", "run", "--max-epochs", 1)
    assert done.exit_code == 0, done.output
    new = whole.head(5).copy()
    new.loc[3, "number"] = np.nan
    new.to_csv("gaps.csv", index=False)
    new.assign(number=0.5, word=["x", "y", "new", "x", "z"]).to_csv("unseen.csv", index=False)
    for name, row in (("gaps", 3), ("unseen", 2)):
        for verb in ("score", "audit"):
            done = command(verb, "run", f"{name}.csv")
            assert done.exit_code == 3, done.output
            said = done.stderr.strip().splitlines()[-1]
            assert f"1 of 5 rows have gaps, the first of them row {row} (from 0)" in said, said


def test_parts_that_the_user_names_are_used() -> None:
    schema = prepare(bits()).schema
    named = ModelConfig(model=SMALL, likelihood="Bernoulli()", decoder="Linear()")
    model = build(complete(named, schema), schema)
    assert isinstance(model.likelihood, taut.Bernoulli)
    weight = model.likelihood.decoder.map.weight
    assert torch.equal(weight, torch.eye(6))
