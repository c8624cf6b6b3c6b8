"""Runs of a VAE with several levels: every kind of data from a file to an audit, stopped and gone
on with, and what is refused in one line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner, Result

import taut
from taut.build.config import Config, ModelConfig, TrainingConfig
from taut.build.usual import complete, exact_of, hierarchy_of
from taut.cli.app import app
from taut.data import prepare
from taut.runs import fit
from taut.training import checkpoint

QUICK = {"max_epochs": 2, "threads": 1, "num_samples": 10}
SMALL = "HierarchicalVAE(levels=3, width=8)"
NETWORKS = {"encoder": "MLP(hidden=(8,))", "decoder": "MLP(hidden=(8,))"}
WORDS = {"model": SMALL, "latent_dim": 2, **NETWORKS}


@pytest.fixture(autouse=True)
def _alone(_seeded: None) -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def table(rows: int = 120) -> pd.DataFrame:
    """A word, a level and a number that depend on each other, with gaps."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 3, rows)
    made = pd.DataFrame(
        {
            "word": np.array(list("xyz"))[group],
            "level": rng.poisson(1 + 3 * group),
            "number": 2.0 * group + 0.3 * rng.normal(size=rows),
        }
    )
    made.loc[::7, "number"] = np.nan
    return made


def array(kind: str, rows: int = 90) -> np.ndarray:
    rng = np.random.default_rng(0)
    made = {
        "binary": (rng.random((rows, 4, 4)) < 0.4).astype(np.uint8),
        "levels": rng.integers(0, 9, (rows, 4, 4)).astype(np.uint8),
        "count": rng.poisson(3.0, (rows, 5)),
        "real": rng.normal(size=(rows, 4)),
    }
    return made[kind]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> taut.Run:
    """A hierarchy of a table with gaps, in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    folder = tmp_path_factory.mktemp("levels")
    table().to_csv(folder / "table.csv", index=False)
    made = taut.fit(str(folder / "table.csv"), folder / "run", **WORDS, **QUICK)
    torch.set_default_dtype(before)
    return made


def command(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


# --- What is built --------------------------------------------------------------------------------


def test_specifications_are_completed() -> None:
    schema = prepare(array("binary")).schema
    made = complete(ModelConfig(model="HierarchicalVAE(levels=3)"), schema)
    own = {"likelihood": "Bernoulli()", "encoder": "MLP()", "decoder": "MLP()"}
    assert made == ModelConfig("HierarchicalVAE(levels=3)", 8, **own)
    assert complete(made, schema) == made
    assert exact_of(made) is None
    assert str(hierarchy_of(made)) == "HierarchicalVAE(levels=3)"
    assert hierarchy_of(ModelConfig()) is hierarchy_of(ModelConfig(model="VAE")) is None
    large = prepare(np.random.default_rng(0).integers(0, 2, (60, 33, 33))).schema
    found = complete(ModelConfig(model="HierarchicalVAE"), large)
    assert (found.encoder, found.decoder) == ("ConvEncoder()", "ConvDecoder()")


@pytest.mark.parametrize("kind", ["binary", "levels", "count", "real"])
def test_every_kind_of_array_makes_a_run(kind: str, tmp_path: Path) -> None:
    made = taut.fit(array(kind), tmp_path / "r", kind=kind, **WORDS, **QUICK)
    assert isinstance(made.model, taut.HierarchicalVAE)
    assert made.model.posterior.encoder.hidden == (8,)
    assert made.model.likelihood.decoder.hidden == (8,)
    assert made.evaluation()["latent_dim"] == 6
    drawn = np.asarray(made.sample(7))
    assert drawn.shape == (7, *array(kind).shape[1:])
    assert drawn.min() >= (0 if kind != "real" else -np.inf)
    assert made.encode(array(kind)[:5]).shape == (5, 6)
    assert made.reconstruct(array(kind)[:5]).shape == array(kind)[:5].shape


def test_a_network_that_the_user_names_is_used() -> None:
    config = Config(
        model=ModelConfig(model="HierarchicalVAE(levels=2, width=6, network=GatedMLP(hidden=(5,)))")
    )
    model = fit.assemble(prepare(array("real")), config)[2]
    assert [type(n).__name__ for n in model.prior.networks] == ["GatedMLP"]
    assert [n.hidden for n in model.posterior.heads] == [(5,)]


def test_counts_are_given_their_total(tmp_path: Path) -> None:
    words = WORDS | {"likelihood": "Multinomial()"}
    made = taut.fit(array("count"), tmp_path / "r", kind="count", **words, **QUICK)
    assert made.model.condition is not None
    drawn = np.asarray(made.sample(6))
    assert drawn.shape == (6, 5)


def test_columns_are_modelled_given_others(tmp_path: Path) -> None:
    made = taut.fit(table(), tmp_path / "r", condition=("word",), **WORDS, **QUICK)
    given, rows = made.model.condition, made.data().test.to(torch.get_default_dtype())
    assert given is not None
    other = rows.clone()
    other[:, 0] = (other[:, 0] + 1) % 3
    first, second = (made.model.encode(x).descend(lambda _, q: q.mean)[0] for x in (rows, other))
    assert not torch.allclose(first, second)
    assert taut.load(made.path).score(table().iloc[:5])["log_evidence"].notna().all()


# --- A run ----------------------------------------------------------------------------------------


def test_a_run_is_the_same_from_its_folder(run: taut.Run) -> None:
    loaded = taut.load(run.path)
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name]), name
    assert "HierarchicalVAE" in repr(loaded)
    info = json.loads((run.path / "run.json").read_text())["config"]["model"]
    assert (info["model"], info["prior"], info["posterior"]) == (SMALL, None, None)


def test_gaps_are_filled_and_nothing_else_is_changed(run: taut.Run) -> None:
    whole = run.impute(table())
    assert not whole.isna().to_numpy().any()
    there = table()["number"].notna()
    assert np.array_equal(whole["number"][there], table()["number"][there])


def test_the_audit_says_what_cannot_be(run: taut.Run) -> None:
    audit = run.audit(num_data=10, effort=taut.Effort(num_samples=20, samples=12))
    assert audit["gaps"] is None
    assert "depends on z above it" in json.dumps(audit)
    rates = [[v["value"] for v in found["levels"]] for found in (run.evaluation(), audit["levels"])]
    assert [len(found) for found in rates] == [3, 3]
    assert audit["levels"]["levels"][1]["name"] == "z2"
    total = sum(rates[0])
    assert abs(total - run.evaluation()["rate"]["value"]) < 0.5
    assert audit["evidence"]["log_evidence"]["value"] >= audit["evidence"]["elbo"]["value"] - 1e-6
    assert (run.path / "report.html").exists()


MAPS = "HierarchicalVAE(levels=2, channels=3, top=VampPrior(components=5))"


@pytest.mark.parametrize("words", [WORDS, {"model": MAPS, "latent_dim": 2}], ids=["rows", "maps"])
def test_a_training_that_was_stopped_ends_in_the_same_bits(words: dict, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array("binary", 300))
    config = Config(model=ModelConfig(**words), training=TrainingConfig(max_epochs=60, threads=1))
    folders = [tmp_path / name for name in ("whole", "stopped")]
    whole, data, state = fit.start(str(tmp_path / "x.npy"), folders[0], config)
    list(fit.train_run(whole, data, state))
    stopped, data, state = fit.start(str(tmp_path / "x.npy"), folders[1], config)
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
    text = f'[model]\nmodel = "{SMALL}"\nlatent_dim = 3\n'
    Path("taut.toml").write_text(f"{text}[training]\nmax_epochs = 1\n")
    done = command("fit", "t.csv", "--config", "taut.toml", "--out", "r", "--num-samples", 8)
    assert done.exit_code == 0, done.stderr
    assert f"model      {SMALL}, 3 latent dimensions a level" in done.stderr
    assert taut.load("r").model.prior.groups == [("z1", 3), ("z2", 3), ("z3", 3)]


def test_maps_with_a_prior_on_top_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of images, from the command line to rates of levels."""
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).normal(size=(90, 5, 6))
    np.save("x.npy", images)
    Path("taut.toml").write_text(f'[model]\nmodel = "{MAPS}"\n[training]\nmax_epochs = 1\n')
    done = command("fit", "x.npy", "--config", "taut.toml", "--out", "r", "--num-samples", 8)
    assert done.exit_code == 0, done.stderr
    assert f"model      {MAPS}, 8 channels a level" in done.stderr
    assert "None" not in done.stderr
    run = taut.load("r")
    model = run.model
    assert model.prior.groups == [("z1", 8 * 4), ("z2", 8 * 9)]
    assert model.prior.top.pseudo_inputs.shape == (5, 5, 6)
    assert np.asarray(run.sample(3)).shape == (3, 5, 6)
    assert run.encode(images[:4]).shape == (4, 104)
    assert run.reconstruct(images[:4]).shape == (4, 5, 6)
    assert "8 channels a level" in repr(run)
    assert [level["name"] for level in run.evaluation()["levels"]] == ["z1", "z2"]
    own = ModelConfig(model=MAPS, latent_dim=8, likelihood='Normal(scale="shared")')
    assert complete(ModelConfig(model=MAPS), run.schema) == complete(own, run.schema)


def test_the_prior_on_top_begins_at_rows_as_the_encoder_sees_them() -> None:
    config = Config(model=ModelConfig(model="HierarchicalVAE(top=VampPrior(components=7))"))
    data = prepare(array("real"))
    model = fit.assemble(data, config)[2]
    seen = model.features(data.train.to(torch.get_default_dtype()))
    each = (model.prior.top.pseudo_inputs[:, None] == seen).all(-1)
    assert bool(each.any(1).all())


def test_an_estimator_has_several_levels() -> None:
    made = taut.VAEstimator(**WORDS, max_epochs=2).fit(array("real"))
    assert made.transform(array("real")[:4]).shape == (4, 6)


# --- What is refused ------------------------------------------------------------------------------


def test_one_line_for_each_wrong_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table(60).to_csv("t.csv", index=False)
    own = ("--model", "HierarchicalVAE")
    for words, expected in (
        ((*own, "--prior", "Flow()"), "from a prior and a posterior of its own"),
        ((*own, "--posterior", "DiagonalNormal"), "from a prior and a posterior of its own"),
        (("--model", "HierarchicalVAE(levels=0)"), "levels must be a whole number of at least 1"),
        (("--model", "HierarchicalVAE(levls=2)"), "did you mean 'levels'?"),
        (("--model", "HierarchicalVAE(latent_dim=2)"), "latent_dim follows from the data"),
        (("--model", "HierarchicalVae"), "did you mean 'HierarchicalVAE'?"),
        ((*own, "--encoder", "MLPP"), "did you mean 'MLP'?"),
        (("--model", "HierarchicalVAE(channels=4)"), "channels is for images, and (3,) is not"),
        (("--model", MAPS, "--encoder", "MLP"), "are convolutions: omit it"),
        (
            ("--model", "HierarchicalVAE(top=VampPrior())"),
            "there are 48: take VampPrior(components",
        ),
        (("--model", "HierarchicalVAE(top=VampPriors())"), "did you mean 'VampPrior'?"),
        (("--model", "HierarchicalVAE(top=UniformSphere())"), "not a prior of any real numbers"),
    ):
        done = command("fit", "t.csv", *words)
        assert done.exit_code == 2, done.output
        assert expected in done.stderr.strip().splitlines()[-1]


def test_no_part_can_be_another(run: taut.Run) -> None:
    for word in ("tighten", "refit"):
        done = command(word, run.path)
        assert done.exit_code == 2
        assert "whose posterior is made of its prior" in done.stderr.strip().splitlines()[-1]
    with pytest.raises(taut.UsageError, match="prior: "):
        taut.fit(array("real"), model=SMALL, prior=taut.StandardNormal(2))
