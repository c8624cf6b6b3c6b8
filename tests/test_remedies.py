"""The command of each finding parses, fits the run that it is of, and changes one part alone."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

import instances
import numpy as np
import pytest
import typer.main

import taut
from taut.build.config import Config, gather
from taut.build.model import is_slow
from taut.build.spec import known, parse
from taut.build.usual import exact_of
from taut.cli.app import app
from taut.evidence.doctor import diagnose
from taut.evidence.remedies import again
from taut.runs.assemble import assemble
from taut.runs.tighten import TIGHTENING, TIGHTENING_SLOW

ROWS = 20
DISCRETE = {  # with the prior and the objective that they need
    "IndependentBernoulli()": ("IndependentBernoulli()", "VIMCO(num_samples=2)"),
    "Categorical(codes=3, levels=4)": ("IndependentCategorical()", "ScoreFunction()"),
    "VectorQuantized(codes=3, levels=4, width=2)": ("Codebook()", "StraightThrough()"),
    "VectorQuantized(codes=3, levels=4, width=2, scale=1.0)": ("Codebook()", "VIMCO()"),
}
PRIORS = {  # with the posterior that they need, where it is not the usual one
    "UniformSphere": "PowerSpherical()",
    "IndependentBernoulli": "IndependentBernoulli()",
    "IndependentCategorical": "Categorical(codes=3, levels=4)",
    "AutoregressiveCategorical": "Categorical(codes=3, levels=4)",
    "Codebook": "VectorQuantized(codes=3, levels=4, width=2)",
}
SMALL = {"VampPrior": "VampPrior(components=5)"}  # of few rows
NUMBER = {"value": 1.0, "mc_error": 0.0, "test_error": 0.01}
NONE = {**NUMBER, "value": 0.0}


def posteriors() -> list[dict[str, str]]:
    """Returns the parts of a run of each family of posteriors."""
    real = sorted(set(known(taut.Posterior)) - {parse(spec).name for spec in DISCRETE})
    parts = [{"posterior": f"{name}()"} for name in real]
    for part in parts:
        if part["posterior"] == "PowerSpherical()":
            part["prior"] = "UniformSphere()"
    discrete = [
        {"posterior": spec, "prior": prior, "objective": objective}
        for spec, (prior, objective) in DISCRETE.items()
    ]
    return [*parts, *discrete]


def priors() -> list[dict[str, str]]:
    """Returns the parts of a run of each prior."""
    found = []
    for name in sorted(known(taut.Prior)):
        parts = {"prior": SMALL.get(name, f"{name}()")}
        if name in PRIORS:
            parts["posterior"] = PRIORS[name]
            if PRIORS[name] in DISCRETE:
                parts["objective"] = DISCRETE[PRIORS[name]][1]
        found.append(parts)
    return found


def objectives() -> list[dict[str, str]]:
    """Returns the parts of a run of each objective."""
    categorical = {"posterior": "Categorical(codes=3, levels=4)"}
    rows = [{"objective": repr(o)} | ({} if real else categorical) for o, _, real in _rows()]
    rows += [{"objective": repr(o)} for (o,) in [*instances.COUPLED, *instances.CRITICS]]
    return [*rows, *({"objective": repr(o), **categorical} for (o,) in instances.RELAXED)]


def _rows() -> list[tuple[taut.Objective, Any, bool]]:
    return instances.OBJECTIVES


WHOLE = {
    "FactorAnalysis()": "reals",
    "FactorAnalysis(latent_dim=2)": "reals",
    "MixtureOfFactorAnalysers()": "reals",
    "Mixture()": "reals",
    "HiddenTree(num_states=3)": "reals",
    "HiddenForest()": "reals",
    "MaskedDiffusion()": "bits",
    "Diffusion(steps=8)": "reals",
}


def data(name: str) -> np.ndarray:
    """Returns rows of four elements, or images of 8 by 8 pixels."""
    random = np.random.default_rng(0)
    if name == "reals":
        return random.normal(size=(ROWS, 4)).astype("float32")
    shape = (ROWS, 8, 8) if name == "images" else (ROWS, 4)
    return random.integers(0, 2, size=shape).astype("uint8")


def findings(config: Config, empty: bool) -> list[dict[str, Any]]:
    """Returns all that could be found of a run, by an audit in which everything is wrong."""
    exact = exact_of(config.model)
    name, posterior = parse(str(config.model.model)).name, config.model.posterior
    discrete = posterior is not None and parse(posterior).name in (
        parse(spec).name for spec in DISCRETE
    )
    sphere = posterior == "PowerSpherical()"
    space = {
        "active_units": 0 if empty else 1,
        "latent_dim": 9,
        "dead": list(range(9 if empty else 7)),
        "noisy": [] if empty or exact else [8],
        "noisy_rate": NUMBER,
        "rate": NUMBER,
        "prior_gain": None if discrete or sphere else NUMBER,
    }
    gaps = dict.fromkeys(("amortization_gap", "approximation_gap", "inference_gap"), NUMBER)
    if not empty and not sphere:
        gaps["full_covariance_gain"] = NUMBER
    over = dict.fromkeys(("train", "held_out", "difference"), NUMBER)
    factor = {"median": 1.0, "smallest": 0.5, "largest": 2.0}
    audit: dict[str, Any] = {
        "model": {
            **dataclasses.asdict(config.model),
            "objective": config.training.objective,
        },
        "overfitting": {"log_evidence": over, "elbo": over, "num_samples": 5},
        "gain_over_baseline": NONE,
        "log_evidence": {**NUMBER, "reliable_share": 0.1},
    }
    if name in ("VAE", "FactorAnalysis"):
        audit["latents"] = space
    if name == "VAE" and not discrete:
        audit["gaps"] = gaps
    if name == "VAE" and str(config.model.likelihood).startswith("Normal"):
        floor = 0.5 if empty else None
        audit["scale"] = {"gain": NUMBER, "factor": factor, "at_floor": floor}
    return diagnose(audit)


def typed(command: str) -> tuple[str, dict[str, Any], Any]:
    """Returns the name of a command, the values of its flags and its --set, read as taut does."""
    program, name, *words = shlex.split(command)
    assert program == "taut"
    group = typer.main.get_command(app)
    found = group.get_command(group.make_context("taut", [name, *words]), name)
    assert found is not None, command
    params = found.make_context(name, words).params
    return name, params, params.get("set_", ())


def followed(name: str, params: dict[str, Any], sets: Any, config: Config) -> Config:
    """Returns the configuration of the run that a command makes."""
    names = [field.name for field in dataclasses.fields(config.model)]
    flags = {key: params[key] for key in [*names, "objective"] if params.get(key) is not None}
    if name == "fit":
        return gather(flags, sets=sets)
    objective = flags.pop("objective", None)
    model = dataclasses.replace(config.model, **flags)
    if name == "tighten" and objective is None:
        objective = TIGHTENING_SLOW if is_slow(str(model.posterior)) else TIGHTENING
    training = dataclasses.replace(config.training, objective=objective or "ELBO()")
    return dataclasses.replace(config, model=model, training=training)


def check(asked: dict[str, str], x: np.ndarray) -> None:
    """Asserts that what each finding of a run says fits it, and changes one part of it alone."""
    objective = {"training": {"objective": asked["objective"]}} if "objective" in asked else {}
    model = {name: spec for name, spec in asked.items() if name != "objective"}
    was, *_ = assemble(x, Config.from_dict({"model": model, **objective}))
    found = {f["command"]: f["name"] for empty in (False, True) for f in findings(was, empty)}
    for command, finding in found.items():
        name, params, sets = typed(command)
        if name in ("check", "audit", "score"):
            continue
        now, *_ = assemble(x, followed(name, params, sets, was))  # refuses what does not fit
        parts = [field.name for field in dataclasses.fields(was.model)]
        changed = [part for part in parts if getattr(was.model, part) != getattr(now.model, part)]
        limit = 1 + ("codes=" in command)  # the latent dimensions follow from the codes
        assert len(changed) <= limit, (finding, command, changed)


@pytest.mark.parametrize("parts", posteriors(), ids=lambda parts: parts["posterior"])
def test_commands_fit_runs_of_each_posterior(parts: dict[str, str]) -> None:
    check(parts, data("bits"))


@pytest.mark.parametrize("parts", priors(), ids=lambda parts: parts["prior"])
def test_commands_fit_runs_of_each_prior(parts: dict[str, str]) -> None:
    check(parts, data("bits"))


@pytest.mark.parametrize("parts", objectives(), ids=lambda parts: parts["objective"])
def test_commands_fit_runs_of_each_objective(parts: dict[str, str]) -> None:
    check(parts, data("bits"))


@pytest.mark.parametrize("model", WHOLE)
def test_commands_fit_runs_of_models_that_are_no_vae(model: str) -> None:
    check({"model": model}, data(WHOLE[model]))


@pytest.mark.parametrize(
    "decoder", ["ConvDecoder()", "ResidualConvDecoder()", "Residual()", "GatedMLP(hidden=(9,))"]
)
def test_commands_fit_runs_of_other_decoders(decoder: str) -> None:
    check({"decoder": decoder}, data("images"))


def test_commands_fit_runs_of_numbers() -> None:
    check({"likelihood": "Normal()"}, data("reals"))
    check({}, data("reals"))  # factor analysis to start at


def test_every_model_has_a_row() -> None:
    models = {parse(model).name for model in WHOLE}
    assert models == {*known(taut.ExactModel), *known(taut.StepwiseModel)}


@pytest.mark.parametrize(
    ("decoder", "named"),
    [
        ("GatedMLP(hidden=(9, 9))", "GatedMLP(hidden=(9, 9), dropout=0.2)"),
        ("MLP()", "MLP(dropout=0.2)"),
        ("GatedMLP(dropout=0.3)", "GatedMLP(dropout=0.3, hidden=(300,))"),  # it drops units already
    ],
)
def test_a_decoder_that_overfits_drops_units(decoder: str, named: str) -> None:
    config = Config.from_dict({"model": {"model": "VAE()", "decoder": decoder}})
    found = {f["name"]: f for f in findings(config, True)}
    assert f'--decoder "{named}"' in found["overfitting"]["command"].replace("'", '"')


def test_what_overfits_is_regularised_and_then_smaller_and_then_decays() -> None:
    """What is recommended is what was measured to help: benchmarks/README.md."""

    def told(**parts: str) -> str:
        given: dict[str, Any] = {"model": {"model": "VAE()"} | parts}
        if "objective" in parts:
            given["training"] = {"objective": given["model"].pop("objective")}
        found = {f["name"]: f for f in findings(Config.from_dict(given), True)}
        return str(found["overfitting"]["command"])

    first = told(objective="ELBO()")
    assert first.endswith('--decoder "MLP(dropout=0.2)" --objective "ELBO(warmup=0.2)"')
    then = told(objective="ELBO(warmup=0.2)", decoder="MLP(dropout=0.1)")
    assert '--decoder "MLP(dropout=0.1, hidden=(200,))"' in then
    assert "weight_decay" not in then
    last = told(objective="ELBO(warmup=0.2)", decoder="MLP(hidden=(50,), dropout=0.1)")
    assert last.endswith("--set training.weight_decay=0.01")
    assert '--decoder "MLP(hidden=(50,), dropout=0.1)"' in last
    codes = told(posterior="Categorical(codes=3, levels=4)", objective="VIMCO(num_samples=4)")
    assert "warmup" not in codes


def test_what_is_said_is_true_of_the_family() -> None:
    """Neither warm-up nor free bits are for discrete posteriors, and a flow is no Gaussian."""

    def said(name: str, parts: dict[str, str]) -> dict[str, Any]:
        config = Config.from_dict({"model": parts})
        return next(f for f in findings(config, True) if f["name"] == name)

    codes = said("collapse", {"model": "VAE()", "posterior": "Categorical()"})
    assert "warm" not in codes["action"] + codes["command"]
    full = said("collapse", {"model": "VAE()", "posterior": "FullCovarianceNormal()"})
    assert "free" not in full["action"] + full["command"]
    assert "warmup" in full["command"]
    words = {
        family: said("approximation gap", {"model": "VAE()", "posterior": f"{family}()"})["action"]
        for family in ("DiagonalNormal", "CouplingFlow", "PowerSpherical")
    }
    assert ["Gaussian" in text for text in words.values()] == [True, False, False]
    assert "refit" not in said("prior", {"model": "FactorAnalysis()"})["command"]


def test_the_prior_of_a_vae_is_refitted_where_its_gaps_were_not_measured() -> None:
    space = {"dead": [], "noisy": [], "latent_dim": 2, "active_units": 2, "rate": NUMBER}
    vae = {"latents": {**space, "prior_gain": NUMBER}, "model": {"model": "VAE()"}}
    (found,) = diagnose(vae)
    assert found["command"] == 'taut refit RUN --prior "GaussianMixture(components=20)"'


def test_nothing_is_known_of_a_model_that_is_no_run() -> None:
    assert again({}, latent_dim=3) == "taut fit DATA --latent-dim 3"
