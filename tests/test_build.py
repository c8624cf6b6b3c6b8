"""From schema and specifications to a model: what follows from the data is right, and
is filled in.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

import taut
from taut import likelihoods
from taut.build import statistics
from taut.build.checks import check_parts, unsupported
from taut.build.config import Config, ModelConfig, TrainingConfig
from taut.build.model import build, needs_total
from taut.build.statistics import FENCE, summarize
from taut.build.usual import complete, usual_objective
from taut.data import Dataset, Schema, prepare
from taut.runs.fit import assemble
from taut.runs.remedy import limits
from taut.training.pace import epochs_of, plan_steps

RNG = np.random.default_rng(0)
BITS = RNG.integers(0, 2, (60, 5, 6)).astype(np.uint8)
GREY = RNG.integers(0, 256, (60, 5, 6)).astype(np.uint8)
TABLE = RNG.normal(3.0, 2.0, (60, 4))


def model_of(source, latent_dim: int = 2, **model) -> tuple[taut.VAE, object]:
    data = prepare(source)
    config = complete(ModelConfig(latent_dim=latent_dim, **model), data.schema)
    return build(config, data.schema, summarize(data)), data


def test_summary_of_levels_is_their_smoothed_frequencies(monkeypatch: pytest.MonkeyPatch) -> None:
    data = prepare(GREY)
    # blocks that do not divide the rows
    monkeypatch.setattr(statistics, "blocks", lambda rows: rows.split(7))
    s = summarize(data)
    x = data.train.double()
    torch.testing.assert_close(s.loc, x.mean(0), rtol=0, atol=1e-10)
    torch.testing.assert_close(s.scale, x.std(0, correction=0), rtol=0, atol=1e-10)
    counts = torch.stack([(x == level).sum(0) for level in range(256)], -1)
    # the bytes are uniform, so of the six pseudo-counts the largest predicts a left-out datum best
    torch.testing.assert_close(
        s.log_frequencies.exp(), (counts + 1.0) / (len(x) + 256), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(
        s.log_frequencies.logsumexp(-1), torch.zeros(5, 6), rtol=0, atol=1e-12
    )


def test_the_pseudo_count_is_that_of_the_best_leave_one_out_prediction() -> None:
    """By brute force: every datum is predicted from the frequencies of all the others."""
    for x in (RNG.integers(0, 9, (40, 1)), np.minimum(RNG.geometric(0.9, (40, 1)), 9) - 1):
        data = prepare(x, levels=(0, 8), validation_fraction=0.0, test_fraction=0.1)
        rows, n = data.train[:, 0].long(), len(data.train)
        counts = torch.bincount(rows, minlength=9).double()

        def left_out(extra: float, rows=rows, counts=counts, n=n) -> float:
            return sum(((counts[v] - 1 + extra) / (n - 1 + 9 * extra)).log().item() for v in rows)

        best = max((1 / 9, 0.01, 0.03, 0.1, 0.3, 1.0), key=left_out)
        found = summarize(data).log_frequencies[0].exp()
        torch.testing.assert_close(found, (counts + best) / (n + 9 * best), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "grey", [GREY, GREY / 255 + 1e-4 * (GREY < 200)], ids=["bytes", "probabilities"]
)
def test_summary_of_binarised_grey_is_that_of_its_bits(grey) -> None:
    data = prepare(grey, binarize="dynamic")
    s = summarize(data)
    p = data.train.double() / (255 if data.train.dtype == torch.uint8 else 1)
    torch.testing.assert_close(s.loc, p.mean(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(s.scale, (p.mean(0) * (1 - p.mean(0))).sqrt(), rtol=0, atol=1e-6)
    ones = (len(p) * p.mean(0) + 0.5) / (len(p) + 1)
    torch.testing.assert_close(
        s.log_frequencies.exp(), torch.stack([1 - ones, ones], -1), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("source", "likelihood", "network"),
    [
        (BITS, "Bernoulli()", "MLP()"),
        (GREY, "WarpedPixels()", "MLP()"),
        (TABLE, "StudentT(scale='per_entry', min_scale=0.03)", "Residual()"),
    ],
)
def test_the_likelihood_follows_from_the_data(source, likelihood: str, network: str) -> None:
    config = complete(ModelConfig(), prepare(source).schema)
    assert config.likelihood == likelihood
    assert config.encoder == network


def test_a_likelihood_that_does_not_know_gaps_is_refused() -> None:
    class Plain(taut.Likelihood):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = taut.Linear((2,), (4,))

        def forward(self, z, context=None):
            return torch.distributions.Independent(
                torch.distributions.Normal(self.decoder(z), 1.0, validate_args=False), 1
            )

    gaps = np.where(np.random.default_rng(0).random(TABLE.shape) < 0.2, np.nan, TABLE)
    data = prepare(gaps)
    config = complete(ModelConfig(latent_dim=2), data.schema)
    for likelihood, right in ((Plain(), False), (None, True)):
        parts = {} if likelihood is None else {"likelihood": likelihood}
        model = build(config, data.schema, summarize(data), parts=parts)
        if right:
            check_parts(model, taut.ELBO(), data, "x")
        else:
            with pytest.raises(
                taut.UsageError, match=r"Plain gives no density .* taut\.distributions\.Observed"
            ):
                check_parts(model, taut.ELBO(), data, "x")


def test_gaps_ask_for_a_bound_of_several_samples() -> None:
    assert usual_objective(Schema("real", (4,), 0.0, 1.0, missing=True)) == "DReG(num_samples=8)"
    assert usual_objective(Schema("real", (4,), 0.0, 1.0)) == "ELBO()"


def test_a_matrix_of_many_counts_is_given_its_totals_and_a_code_that_says_more() -> None:
    few, many = (Schema("count", (number,), 0.0, 9.0) for number in (99, 100))
    before, now = complete(ModelConfig(), few), complete(ModelConfig(), many)
    assert (before.likelihood, before.decoder, before.latent_dim) == (
        "NegativeBinomial()",
        "MLP()",
        32,
    )
    assert now == dataclasses.replace(
        before,
        likelihood="NegativeBinomial(library=True)",
        encoder="MLP(hidden=(128,), dropout=0.1)",
        decoder="MLP(hidden=(200, 200), dropout=0.4)",
        latent_dim=10,
    )
    assert usual_objective(few) == "ELBO()"
    assert usual_objective(many) == "ELBO(warmup=0.6)"
    own = ModelConfig(likelihood="Poisson()", encoder="MLP()", latent_dim=3)
    given = complete(own, many)
    assert (given.likelihood, given.encoder, given.latent_dim) == ("Poisson()", "MLP()", 3)


def test_few_images_are_regularised() -> None:
    """Images of bits or levels for a perceptron, fewer than 10,000; nothing that the user named."""

    def parts(source: Any, **model: Any) -> tuple[Any, Any]:
        data = prepare(source, validation_fraction=0.1, test_fraction=0.1)
        config, *_ = assemble(data, Config(model=ModelConfig(**model)))
        return config.model.decoder, config.training.objective

    few, plain = ("MLP(dropout=0.2)", "ELBO(warmup=0.2)"), ("MLP()", "ELBO()")
    images = RNG.integers(0, 2, (12_499, 5, 6))
    assert parts(images[:100]) == parts(images[:100] * 3) == few
    assert parts(images) == few
    assert parts(RNG.integers(0, 2, (12_500, 5, 6))) == plain
    assert parts(images[:100].reshape(100, 30)) == plain
    assert parts(RNG.integers(0, 2, (30, 33, 32))) == ("ConvDecoder()", "ELBO()")
    assert parts(images[:100], decoder="MLP()") == ("MLP()", "ELBO(warmup=0.2)")
    assert parts(images[:100], model="HierarchicalVAE(levels=2)") == plain


def test_few_images_that_are_regularised_are_trained_for_longer() -> None:
    data = prepare(RNG.integers(0, 2, (128, 5, 6)), validation_fraction=0.0, test_fraction=0.0)
    rows = prepare(RNG.normal(size=(128, 3)), validation_fraction=0.0, test_fraction=0.0)
    for objective, passes in (("ELBO(warmup=0.2)", 1000), ("ELBO()", 500)):
        assert epochs_of(data, TrainingConfig(objective=objective)) == passes
        assert epochs_of(rows, TrainingConfig(objective=objective)) == 2000
        assert epochs_of(data, TrainingConfig(objective=objective, max_epochs=7)) == 7


def test_the_loop_gives_a_training_as_many_passes_as_usual() -> None:
    """Where the objective is left to the data, too; a posterior that is trained on has its own."""
    data = prepare(RNG.integers(0, 2, (128, 5, 6)), validation_fraction=0.0, test_fraction=0.0)
    usual = Config()
    plain = dataclasses.replace(usual, training=TrainingConfig(objective="ELBO()"))
    assert limits(data, usual, 2.0, None) == {"max_epochs": 1000, "minutes": 2.0}
    assert limits(data, plain, None, None) == {"max_epochs": 500, "minutes": None}
    assert limits(data, usual, None, 7) == {"max_epochs": 7, "minutes": None}


@pytest.mark.parametrize(
    ("columns", "batch_size", "steps"), [(100, 128, 1000), (100, 2, 6400), (99, 128, 2500)]
)
def test_how_long_counts_are_trained(columns: int, batch_size: int, steps: int) -> None:
    """1,000 steps, and 20 passes at least; else 500 passes at most."""
    counts = scipy.sparse.csr_matrix(RNG.poisson(1.0, (640, columns)))
    data = prepare(counts, validation_fraction=0.0, test_fraction=0.0)
    config = Config(training=TrainingConfig(batch_size=batch_size))
    config, data, model, objective = assemble(data, config)
    assert plan_steps(model, objective, data, config.training) == steps
    assert config.training.peak == {99: 2e-3, 100: 4e-3}[columns]
    long = dataclasses.replace(config.training, minutes=1e4)  # far more than the passes take
    if columns == 100:
        assert plan_steps(model, objective, data, long) == steps


@pytest.mark.parametrize(
    ("rows", "form", "rate"),
    [
        (10_000, "bits", 4e-3),
        (9_999, "bits", 2e-3),
        (10_000, "levels", 4e-3),
        (10_000, "real", 2e-3),
    ],
)
def test_many_images_get_a_larger_rate_and_a_given_rate_stays(
    rows: int, form: str, rate: float
) -> None:
    x = {
        "bits": RNG.integers(0, 2, (rows, 3)),
        "levels": RNG.integers(0, 9, (rows, 3)),
        "real": RNG.normal(size=(rows, 3)),
    }[form]
    data = prepare(x, validation_fraction=0.0, test_fraction=0.0)
    assert len(data.train) == rows
    for given, expected in ((None, rate), (0.0, 0.0), (1e-3, 1e-3)):
        config = Config(training=TrainingConfig(learning_rate=given))
        assert assemble(data, config)[0].training.peak == expected
    assert TrainingConfig().peak == 2e-3


def test_large_images_get_convolutions_and_small_data_few_latents() -> None:
    large = complete(ModelConfig(), Schema("levels", (3, 32, 32), 0.0, 255.0))
    assert (large.encoder, large.decoder, large.latent_dim) == (
        "ConvEncoder()",
        "ConvDecoder()",
        32,
    )
    assert complete(ModelConfig(), Schema("real", (4,), 0.0, 1.0)).latent_dim == 4
    assert complete(ModelConfig(), Schema("binary", (8,), 0.0, 1.0)).latent_dim == 4
    assert complete(ModelConfig(), Schema("real", (1,), 0.0, 1.0)).latent_dim == 2


def test_units_are_filled_in() -> None:
    table, _ = model_of(TABLE, likelihood="Normal()")
    s = summarize(prepare(TABLE))
    torch.testing.assert_close(table.likelihood.data_loc, s.loc)
    torch.testing.assert_close(table.likelihood.data_scale, s.scale)
    torch.testing.assert_close(table.posterior.features.scale, s.scale)
    images, data = model_of(GREY, likelihood="DiscretizedLogistic()")
    s = summarize(data)
    pooled = s.scale.square().mean().sqrt()
    torch.testing.assert_close(images.likelihood.data_scale, pooled.expand(5, 6))
    # 30 pixels together have the variance of ten
    torch.testing.assert_close(images.posterior.features.scale, pooled.expand(5, 6) * 3**0.5)
    assert (images.likelihood.low, images.likelihood.high) == (0, 255)


def test_an_element_that_never_varies_keeps_its_units() -> None:
    still = GREY.copy()
    still[:, 0, 0] = 7
    flat, _ = model_of(still.reshape(60, 30))
    assert flat.likelihood.data_scale[0] == 1
    assert flat.posterior.features.scale[0] == 1
    blank, _ = model_of(TABLE, likelihood="Normal(scale='shared')")
    assert bool((blank.likelihood.data_scale > 0).all())


@pytest.mark.parametrize("source", [BITS, GREY, TABLE], ids=["bits", "grey", "table"])
def test_an_untrained_decoder_of_zeros_is_the_baseline(source) -> None:
    """Raw zero stands for the marginal of the training data, so a model starts where independent
    marginals end.
    """
    from taut.evidence.baseline import independent_marginals

    model, data = model_of(
        source,
        likelihood="Categorical()" if source is GREY else "Normal()" if source is TABLE else None,
    )
    with torch.no_grad():
        for p in model.likelihood.decoder.parameters():
            p.zero_()
    x = data.test.to(torch.get_default_dtype())
    log_p = model.likelihood(torch.zeros(1, len(x), 2)).log_prob(x)[0]
    baseline = independent_marginals(data, data.test)
    if source is TABLE:  # of which the baseline has mixtures, and the model Normals
        loc, scale = data.train.double().mean(0), data.train.double().std(0, correction=0)
        baseline = torch.distributions.Normal(loc, scale).log_prob(data.test).sum(1)
    # min_scale adds 1e-4 to the learned share of a Normal's scale: 1e-4 in the log of each of 4
    # features
    torch.testing.assert_close(log_p, baseline, rtol=0, atol=2e-3 if source is TABLE else 1e-10)


def test_blank_model_takes_the_tensors_of_a_trained_one() -> None:
    for source in (BITS, GREY, TABLE):
        trained, data = model_of(source)
        config = complete(ModelConfig(latent_dim=2), data.schema)
        blank = build(config, data.schema)
        blank.load_state_dict(trained.state_dict())
        x = data.test.to(torch.get_default_dtype())
        z = torch.randn(1, len(x), 2)
        torch.testing.assert_close(
            blank.decode(z).log_prob(x), trained.decode(z).log_prob(x), rtol=0, atol=0
        )
        torch.testing.assert_close(blank.encode(x).mean, trained.encode(x).mean, rtol=0, atol=0)


def test_parts_given_as_objects_are_used() -> None:
    data = prepare(TABLE)
    prior = taut.StandardNormal(2)
    config = complete(ModelConfig(latent_dim=2), data.schema)
    assert build(config, data.schema, parts={"prior": prior}).prior is prior


@pytest.mark.parametrize(
    ("source", "likelihood", "words"),
    [
        (
            GREY,
            "Bernoulli()",
            ("outside the support of the likelihood, 0 or 1", "--binarize dynamic"),
        ),
        (GREY, "ContinuousBernoulli()", ("0 to 1", "DiscretizedLogistic()")),
        (TABLE, "Bernoulli()", ("0 or 1", "Normal()")),
        (TABLE, "ContinuousBernoulli()", ("0 to 1", "divided by 255")),
        (BITS * 2, "Bernoulli()", ("0 or 1", "--binarize dynamic")),
    ],
)
def test_data_outside_the_support_are_refused(
    source, likelihood: str, words: tuple[str, ...]
) -> None:
    data = prepare(source)
    config = complete(ModelConfig(latent_dim=2, likelihood=likelihood), data.schema)
    model = build(config, data.schema, summarize(data))
    with pytest.raises(taut.DataError) as caught:
        check_parts(model, taut.ELBO(), data, "my.npy")
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("my.npy: ")
    assert all(w in line for w in (*words, "the first is"))


@pytest.mark.parametrize(
    ("source", "parts", "words"),
    [
        (
            TABLE,
            {"likelihood": "Categorical()"},
            "Categorical() needs low and high, which the data do not give",
        ),
        (
            BITS,
            {"likelihood": "Normal(scale='shared')"},
            "Normal is a density, and the data are binary",
        ),
        (BITS, {"likelihood": "ContinuousBernoulli()"}, "--kind real"),
        (TABLE, {"prior": "IndependentBernoulli()"}, "over different spaces"),
        (TABLE, {"posterior": "IndependentBernoulli()"}, "over different spaces"),
        (TABLE, {"prior": "UniformSphere()"}, 'on the sphere take --prior "Uniform'),
        (TABLE, {"posterior": "PowerSpherical()"}, "PowerSpherical are over different spaces"),
        (TABLE, {"encoder": "MLP(hidden=(0,))"}, "hidden must list the widths"),
        (TABLE, {"prior": "StandardNormal(latent_dim=7)"}, "latent_dim follows from the data"),
        (TABLE, {"encoder": "ConvEncoder()"}, "is not an image"),
    ],
)
def test_parts_whose_bound_would_mean_nothing_are_refused(
    source, parts: dict[str, str], words: str
) -> None:
    data = prepare(source)
    config = complete(ModelConfig(latent_dim=2, **parts), data.schema)
    with pytest.raises(taut.UsageError) as caught:
        check_parts(build(config, data.schema, summarize(data)), taut.IWAE(), data, "my.npy")
    assert words in str(caught.value)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_every_part_of_the_data_is_checked_against_the_support(part: str) -> None:
    data = prepare(TABLE[:, :2] * 0 + RNG.random((60, 2)))
    bad = getattr(data, part).clone()
    bad[-1, 0] = 1.5
    config = complete(ModelConfig(latent_dim=2, likelihood="ContinuousBernoulli()"), data.schema)
    model = build(config, data.schema, summarize(data))
    check_parts(model, taut.ELBO(), data, "my.npy")
    with pytest.raises(taut.DataError, match=r"1 values .* 0 to 1; the first is 1.5"):
        check_parts(model, taut.ELBO(), dataclasses.replace(data, **{part: bad}), "my.npy")


def test_the_first_value_outside_is_named_with_its_place() -> None:
    x = torch.zeros(5000, 3)
    x[4999, 2] = 0.5
    model = taut.VAE(taut.StandardNormal(2), taut.Bernoulli((3,), 2), taut.DiagonalNormal((3,), 2))
    line, places = unsupported(model, x, torch.zeros(1, 2))
    assert places.tolist() == [[4999, 2]]
    assert "1 values (0.0%)" in line
    assert "the first is 0.5 (row 4999, element 2)" in line
    assert unsupported(model, torch.ones(5, 3), torch.zeros(1, 2)) is None


def test_mixture_support_is_checked_too() -> None:
    model, data = model_of(GREY, likelihood="DiscretizedLogistic(components=2)")
    assert unsupported(model, data.train, torch.zeros(1, 2)) is None
    assert unsupported(model, data.train.double() + 0.5, torch.zeros(1, 2)) is not None


def test_one_wild_value_does_not_make_a_scale_of_its_own() -> None:
    """The mean and the standard deviation of regular data are what they are, to the bit.

    A value of 1e5 is pulled in.
    """
    rows = RNG.normal(size=(1000, 3))
    # a spike: the spread is that of the rest
    rows[:, 2] = np.where(RNG.random(1000) < 0.8, 0.0, rows[:, 2])
    plain = summarize(_all_in_training(rows))
    torch.testing.assert_close(plain.loc, torch.from_numpy(rows.mean(0)), rtol=1e-12, atol=0)
    torch.testing.assert_close(plain.scale, torch.from_numpy(rows.std(0)), rtol=1e-12, atol=0)
    wild = rows.copy()
    wild[7] = 1e5
    found = summarize(_all_in_training(wild))
    reach = 1.1 * FENCE  # of a standard deviation of about 1: one value in 1,000 at that distance
    assert bool(((found.loc - plain.loc).abs() < reach / 1000).all())
    assert bool((found.scale.square() - plain.scale.square() < reach**2 / 1000).all())
    positive = np.exp(rows[:, :1])
    positive[7] = 1e30
    log = summarize(_all_in_training(positive))
    assert float(log.log_scale) < 1.3


def test_one_wild_value_costs_no_column(tmp_path: Path) -> None:
    """3,000 rows of one factor in four columns, one entry of 1e5.

    Log p(x) of clean rows was lower by 3 nats, and is the truth within what 3,000 rows teach (0.02)
    and four standard errors of the difference (0.02, measured without the entry).
    """
    torch.set_default_dtype(torch.float32)
    rng = np.random.default_rng(0)
    w = rng.normal(size=(1, 4))
    x, clean = (rng.normal(size=(n, 1)) @ w + 0.3 * rng.normal(size=(n, 4)) for n in (3000, 2000))
    x[11, 2] = 1e5
    networks = {"encoder": "MLP(hidden=(32,))", "decoder": "MLP(hidden=(32,))"}
    run = taut.fit(
        x,
        tmp_path / "run",
        test=clean,
        latent_dim=2,
        max_epochs=40,
        num_samples=50,
        learning_rate=0.01,
        **networks,
    )
    covariance = torch.from_numpy(w.T @ w + 0.09 * np.eye(4))
    truth = torch.distributions.MultivariateNormal(torch.zeros(4).double(), covariance).log_prob(
        torch.from_numpy(clean)
    )
    assert run.evaluation()["log_evidence"]["value"] == pytest.approx(float(truth.mean()), abs=0.04)
    assert any("the largest |x - median| is" in note for note in run.info["notes"])


def _all_in_training(rows: np.ndarray) -> Dataset:
    torch.set_default_dtype(torch.float64)
    return prepare(rows, kind="real", validation_fraction=0, test_fraction=0)


def test_a_likelihood_is_asked_whether_it_is_given_the_total_of_a_row() -> None:
    """By its argument, its default or itself, and not by the text of its specification."""

    class Always(likelihoods.Poisson):
        def __init__(
            self, event_shape: tuple[int, ...], latent_dim: int, library: bool = True
        ) -> None:
            super().__init__(event_shape, latent_dim, library, taut.Linear, context_dim=1)

    assert needs_total("Poisson(library=True)")
    assert needs_total("NegativeBinomial( library = True )")
    assert not needs_total("Poisson(library=False)")
    assert not needs_total("Poisson()")
    assert not needs_total("Normal()")
    assert needs_total(Always((3,), 1))
    assert needs_total(Always)
    assert not needs_total(likelihoods.Poisson((3,), 1))
