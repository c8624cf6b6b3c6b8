"""Training starts at factor analysis, with a gap of zero, and does not end below it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import taut
from taut.build.config import Config, DataConfig, ModelConfig, TrainingConfig
from taut.build.usual import complete
from taut.data import Dataset, prepare
from taut.data.schema import infer
from taut.models import FactorAnalysis
from taut.networks import inverse_positive, positive
from taut.runs.assemble import assemble
from taut.training.loop import State, finish, train, validate

FLOORLESS = "FullCovarianceNormal(min_scale=1e-12)"
NORMAL = "Normal(scale='per_entry', min_scale=0.03)"


def numbers(rows: int = 300, columns: int = 6) -> np.ndarray:
    generator = np.random.default_rng(0)
    z = generator.standard_normal((rows, 2))
    noise = 0.4 * generator.standard_normal((rows, columns))
    return 5 + (z @ generator.standard_normal((2, columns)) + noise) * np.arange(1, columns + 1)


def started(x: Any, **model: Any) -> tuple[taut.VAE, Dataset]:
    parts = {"encoder": "Residual()", "decoder": "Residual()"}
    parts["posterior"] = "FullCovarianceNormal()"
    config = Config(model=ModelConfig(**(parts | model)), data=DataConfig(test_fraction=0.1))
    _, data, vae, _ = assemble(x, config)
    return vae.eval(), data


def weights(model: taut.VAE, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.draw(x, 5).log_weight


def fitted(data: Dataset) -> FactorAnalysis:
    """Factor analysis of the same rows, by its own class and in the user's units."""
    real = FactorAnalysis(data.schema.event_shape, min_scale=0.033)
    x, validation = (part.double() for part in (data.train, data.validation))
    list(real.maximize(x, validation, max_passes=2000, tolerance=1e-4))
    return real


def test_the_first_bound_is_the_evidence_of_factor_analysis_with_a_gap_of_zero():
    model, data = started(numbers(), likelihood=NORMAL, posterior=FLOORLESS)
    assert model.started
    x = data.test.double()
    expected = fitted(data).log_prob(x).detach().expand(5, -1)
    torch.testing.assert_close(weights(model, x), expected, rtol=0.0, atol=1e-6)


def test_the_floor_of_the_posterior_costs_almost_nothing():
    model, data = started(numbers(), likelihood=NORMAL)
    x = data.test.double()
    expected = fitted(data).log_prob(x).detach()
    assert float((weights(model, x) - expected).mean().abs()) < 1e-4
    assert float(taut.importance(model, x, 50).ess.min()) > 49.99


@pytest.mark.parametrize("likelihood", ["StudentT(min_scale=0.03)", None, "Normal()"])
def test_other_likelihoods_start_near_it(likelihood: str | None):
    model, data = started(numbers(), likelihood=likelihood)
    x = data.test.double()
    expected = fitted(data).log_prob(x).detach()
    assert model.started
    assert float((weights(model, x).mean(0) - expected).mean().abs()) < 0.05


def test_a_mean_field_posterior_starts_at_its_best():
    """With the scales of the best q without correlations, KL(q, p) is half the log-determinant of
    the correlations of the precision.
    """
    model, data = started(numbers(), likelihood=NORMAL, posterior="DiagonalNormal()")
    x = data.test.double()
    with torch.no_grad():
        precision = torch.linalg.inv(fitted(data).encode(x[:1]).covariance_matrix[0])
        gap = precision.diagonal().log().sum() - precision.logdet()
        bound = model.draw(x, 4000).elbo.mean(0)
        expected = fitted(data).log_prob(x) - gap / 2
    torch.testing.assert_close(bound.mean(), expected.mean(), rtol=0.0, atol=0.05)


def test_a_mixed_table_starts_at_factor_analysis_of_its_numbers(tmp_path: Path):
    """Positive columns by their logarithm; other kinds at their marginals, apart from z."""
    x = numbers(400, 5)
    letters = np.random.default_rng(1).choice(list("abc"), len(x))
    lines = ["u,v,w,s,t,letter"]
    for row, letter in zip(x, letters, strict=True):
        cells = [f"{value:.6f}" for value in (*row[:3], *np.exp(row[3:] / 10))]
        lines.append(",".join([*cells, letter]))
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    schema = tmp_path / "schema.toml"
    schema.write_text("".join(f'[columns.{n}]\nkind = "positive"\n' for n in ("s", "t")))
    likelihood = "Columns(real=Normal(min_scale=0.03), positive=LogNormal(min_scale=0.03))"
    config = Config(
        data=DataConfig(schema=str(schema)),
        model=ModelConfig(
            likelihood=likelihood, posterior=FLOORLESS, encoder="Residual()", decoder="Residual()"
        ),
    )
    _, data, model, _ = assemble(str(path), config)
    assert [c.kind for c in data.schema.modelled] == ["real"] * 3 + ["positive"] * 2 + ["category"]
    assert model.started
    rows = data.test.double()
    log_weight = weights(model, rows)
    real = FactorAnalysis((5,), min_scale=0.033)
    parts = [
        torch.cat([part[:, :3], part[:, 3:5].log()], 1).double()
        for part in (data.train, data.validation, rows)
    ]
    list(real.maximize(parts[0], parts[1], max_passes=2000, tolerance=1e-4))
    of_letter = model.decode(torch.zeros(1, 1, model.posterior.latent_dim))
    letter = rows[:, 5].long()
    frequency = of_letter.terms(rows[None])[0, :, 5]
    expected = real.log_prob(parts[2]).detach() - parts[2][:, 3:].sum(1) + frequency.detach()
    torch.testing.assert_close(log_weight, expected.expand(5, -1), rtol=0.0, atol=1e-5)
    assert len(letter.unique()) > 1


def test_rows_with_gaps_have_the_evidence_too():
    """The decoder is factor analysis whatever the encoder sees: its evidence, from the Gaussian it
    stands for, is that of the fit. The encoder's linear guess leaves a gap that training closes.
    """
    x = numbers(400)
    x[np.random.default_rng(2).random(x.shape) < 0.1] = np.nan
    model, data = started(x, likelihood=NORMAL)
    rows = data.test.double()
    expected = fitted(data).log_prob(rows).detach()
    dims = model.posterior.latent_dim
    with torch.no_grad():
        decoded = model.decode(torch.cat([torch.zeros(1, dims), torch.eye(dims)])[:, None])
        loc, noise = decoded.mean[0, 0], decoded.stddev[0, 0]
        w = (decoded.mean[1:, 0] - loc).T
        bound = model.draw(rows, 2000).elbo.mean(0)
    for row, value in zip(rows, expected, strict=True):
        there = ~row.isnan()
        covariance = (w @ w.T + noise.square().diag())[there][:, there]
        found = MultivariateNormal(loc[there], covariance).log_prob(row[there])
        torch.testing.assert_close(found, value, rtol=0.0, atol=1e-6)
    assert 0 < float((expected - bound).mean()) < 4


@pytest.mark.parametrize(
    "model",
    [
        {"prior": "GaussianMixture()"},
        {"likelihood": "Normal(scale='shared')"},
        {"likelihood": "StudentT(scale='per_datum')"},
        {"encoder": "MLP()"},
        {"decoder": "Linear()"},
    ],
)
def test_other_parts_start_as_they_did(model: dict[str, str]):
    assert not started(numbers(60), **model)[0].started


def test_few_latent_dimensions_bound_the_number_of_factors():
    model, data = started(numbers(), likelihood=NORMAL, posterior=FLOORLESS, latent_dim=1)
    real = FactorAnalysis(data.schema.event_shape, 1, min_scale=0.033)
    parts = (part.double() for part in (data.train, data.validation))
    list(real.maximize(*parts, max_passes=2000, tolerance=1e-4))
    x = data.test.double()
    expected = real.log_prob(x).detach().expand(5, -1)
    torch.testing.assert_close(weights(model, x), expected, rtol=0.0, atol=1e-6)


def test_training_never_ends_below_the_start():
    """A rate at which everything gets worse at once."""
    model, data = started(numbers(120))
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = TrainingConfig(learning_rate=3.0, compile="off", averaging=0.0, clip_norm=1e9)
    start = validate(model, taut.ELBO(), data.validation, settings.seed)[1]
    state = State(400)
    list(train(model, taut.ELBO(), data, settings, state))
    finish(model, state)
    assert state.best_step == 0
    assert state.best_target == start
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, first[name], rtol=0.0, atol=0.0)


def test_training_improves_on_the_start_where_the_data_are_curved():
    z = np.random.default_rng(0).standard_normal((600, 1))
    x = np.concatenate([z, z**2, np.sin(3 * z)], 1)
    x += 0.05 * np.random.default_rng(1).standard_normal(x.shape)
    model, data = started(x)
    start = validate(model, taut.ELBO(), data.validation, 0)[1]
    settings = TrainingConfig(compile="off", learning_rate=2e-3)
    state = State(600)
    list(train(model, taut.ELBO(), data, settings, state))
    assert state.best_target > start + 1.0


def test_it_is_the_default_of_rows_of_real_numbers_and_of_tables_of_numbers(tmp_path: Path):
    with_gaps = numbers(50)
    with_gaps[3, 2] = np.nan
    for x in (numbers(50), with_gaps):
        linear = complete(ModelConfig(), infer(x))
        assert linear.posterior == "FullCovarianceNormal()"
        assert linear.encoder == linear.decoder == "Residual()"
        assert linear.likelihood == "StudentT(scale='per_entry', min_scale=0.03)"
    named = ModelConfig(encoder="Residual(hidden=(64,))")  # with the path, too
    assert complete(named, infer(numbers(50))).likelihood == linear.likelihood
    other = complete(ModelConfig(encoder="MLP()"), infer(numbers(50)))  # it may have none
    assert other.likelihood == "StudentT(scale='per_feature')"
    others = [np.arange(60).reshape(20, 3), numbers(60).reshape(60, 2, 3), numbers(20, 129)]
    for x in others:
        assert complete(ModelConfig(), infer(x)).encoder == "MLP()"
    for letters, network in (("", "Residual()"), ("ab", "MLP()")):
        path = tmp_path / f"{network}.csv"
        lines = [f"{a:.1f},{b:.0f},{letters[int(a) % 2 :][:1]}" for a, b in numbers(80, 2)]
        if not letters:
            lines = [line + f"{0.37 * i:.2f}" for i, line in enumerate(lines)]
        path.write_text("\n".join(["x,y,c", *lines]) + "\n")
        schema = prepare(path).schema
        found = complete(ModelConfig(), schema)
        assert found.encoder == network, [c.kind for c in schema.modelled]
        assert found.likelihood == "Columns(warp=True)"


def test_a_table_of_rounded_numbers_starts_near_the_gaussian_that_it_was_drawn_from(
    tmp_path: Path,
):
    """Numbers of one decimal, counts and a bounded column, whose normal scores are those of a
    Gaussian: the bound of the start has most of the information between the columns, which is known
    in closed form, -log det of their correlations / 2.
    """
    generator = np.random.default_rng(3)
    z = generator.standard_normal((3000, 1))
    u = 0.9 * z + math.sqrt(1 - 0.81) * generator.standard_normal((3000, 4))
    columns = [20 + 5 * u[:, 0], 100 * np.exp(u[:, 1]), 50 + 12 * u[:, 2], 30 + 7 * u[:, 3]]
    lines = [f"{a:.1f},{b:.0f},{c:.0f},{d:.2f}" for a, b, c, d in zip(*columns, strict=True)]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["a,b,c,d", *lines]) + "\n")
    _, data, model, _ = assemble(str(path), Config())
    assert model.started
    x = data.validation[:500]
    correlations = torch.full((4, 4), 0.81).fill_diagonal_(1.0)
    information = -0.5 * float(torch.logdet(correlations))
    plain = assemble(str(path), Config(model=ModelConfig(encoder="MLP()", decoder="MLP()")))[2]
    with torch.no_grad():
        gain = model.draw(x, 20).elbo.mean() - plain.draw(x, 20).elbo.mean()
    assert 0.75 * information < float(gain) < information + 0.3, (float(gain), information)


def test_the_inverse_of_the_positive_map():
    y = torch.tensor([1e-6, 0.03, 1.0, 50.0])
    torch.testing.assert_close(positive(inverse_positive(y)), y, rtol=1e-9, atol=0.0)
