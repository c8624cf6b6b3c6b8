"""taut.VAEstimator: all of scikit-learn's own checks, then what it must add to them, exactly."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import io
import pickle
import re
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn.datasets
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import taut
from taut import VAEstimator
from taut.build.config import Config
from taut.data.in_memory import given_back
from taut.data.split import row_hashes
from taut.evidence import own
from taut.evidence.own import own_keys, own_proposal
from taut.runs import assemble
from taut.system.errors import OutOfMemoryError

FAST: dict[str, Any] = {
    "encoder": "MLP(hidden=[8])",
    "decoder": "MLP(hidden=[8])",
    "max_epochs": 2,
    "num_samples": 10,
    "device": "cpu",
    "random_state": 0,
    "latent_dim": 2,
}
EXACT: dict[str, Any] = {"model": "Mixture(num_states=2)", "max_epochs": 5, "random_state": 0}


@pytest.fixture
def _float32() -> None:
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_float32")
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([VAEstimator(**FAST), VAEstimator(**EXACT)])
def test_it_passes_all_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    """In float32, which is torch's own default: float64 hides what depends on the size
    of a block.
    """
    check(estimator)


def _normal(rows: int = 60, columns: int = 3, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(rows, 2)) @ generator.normal(
        size=(2, columns)
    ) + 0.5 * generator.normal(size=(rows, columns))


def _mixed(rows: int = 60) -> pd.DataFrame:
    generator = np.random.default_rng(1)
    colours = pd.Categorical(generator.choice(["red", "green", "blue"], rows))
    frame = pd.DataFrame(
        {
            "user_id": [f"u{i}" for i in range(rows)],
            "height": generator.normal(170, 9, rows),
            "colour": colours,
            "site": "Ulm",
            "smokes": pd.array(generator.integers(0, 2, rows).astype(bool), dtype="boolean"),
            "visits": pd.array(generator.integers(0, 5, rows), dtype="Int64"),
            "day": pd.Timestamp("2024-01-01")
            + pd.to_timedelta(generator.integers(0, 700, rows), unit="D"),
        }
    )
    for column, row in (
        ("height", 3),
        ("colour", 4),
        ("smokes", 5),
        ("visits", 6),
        ("day", 7),
        ("colour", 8),
    ):
        frame.loc[row, column] = None
    return frame


# --- settings


def test_every_argument_is_a_setting_of_that_name() -> None:
    known = {
        f.name
        for section in dataclasses.fields(Config)
        for f in dataclasses.fields(getattr(Config(), section.name))
    }
    assert set(VAEstimator().get_params()) - known == {"flag", "random_state"}
    defaults = {k: v for section in Config().to_dict().values() for k, v in section.items()}
    mine = VAEstimator().get_params()
    del mine["random_state"], mine["flag"]
    assert {k: v for k, v in mine.items() if v != defaults[k]} == {}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"latent_dim": 0}, "model.latent_dim: expected a number of at least 1, not 0"),
        (
            {"prior": "StandardNorml()"},
            "no prior is called 'StandardNorml'; did you mean 'StandardNormal'?",
        ),
        (
            {"schema": "columns.toml"},
            "schema is for a data frame, and X is an array: omit it",
        ),
        ({"condition": ["a"]}, "condition is for a data frame"),
        ({"layer": "counts"}, "layer is for an AnnData, and X is an array: omit it"),
        ({"device": "abacus"}, "no device 'abacus' here"),
    ],
)
def test_a_wrong_setting_is_a_value_error(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        VAEstimator(**FAST | settings).fit(_normal())


def test_kind_and_levels_are_for_arrays() -> None:
    with pytest.raises(ValueError, match="kind is for an array, and X is a data frame: omit it"):
        VAEstimator(**FAST, kind="real").fit(_mixed())


def test_numbers_of_numpy_are_settings_too() -> None:
    estimator = VAEstimator(
        **FAST | {"latent_dim": np.int64(1), "learning_rate": np.float32(0.01)}
    ).fit(_normal())
    assert estimator.transform(_normal()).shape == (60, 1)


def test_torch_is_left_as_it_was(request: pytest.FixtureRequest) -> None:
    torch.set_default_dtype(torch.float32)
    before = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(before))
    torch.set_num_threads(2)
    state = torch.get_rng_state()
    estimator = VAEstimator(**FAST).fit(_normal())
    estimator.score_samples(_normal())
    estimator.sample(3)
    estimator.impute(np.where(_normal() > 1, np.nan, _normal()))
    with pytest.raises(ValueError, match="latent dimensions"):
        estimator.inverse_transform(np.zeros((1, 9)))
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_num_threads() == 2  # so small a model is trained on one
    assert torch.equal(torch.get_rng_state(), state)


# --- numbers


def test_score_samples_is_importance_of_each_row_by_itself() -> None:
    x = _normal(12)
    estimator = VAEstimator(**FAST).fit(x)
    rows, keys = torch.from_numpy(x), own_keys(row_hashes(x), 0)
    assert len(set(keys.tolist())) == 12
    alone = [
        (rows[i : i + 1], own_proposal(estimator.model_, keys[i : i + 1])) for i in range(len(rows))
    ]
    expected = [
        float(taut.importance(estimator.model_, row, 10, proposal=own).log_evidence)
        for row, own in alone
    ]
    assert estimator.score_samples(x) == pytest.approx(expected, abs=1e-12)
    assert estimator.score(x) == pytest.approx(np.mean(expected), abs=1e-12)


def test_a_row_gets_the_same_score_wherever_it_stands() -> None:
    x = _normal(30)
    x[3, 1] = np.nan
    estimator = VAEstimator(**FAST).fit(x)
    scores = estimator.score_samples(x)
    assert np.array_equal(estimator.score_samples(x[::-1]), scores[::-1])
    assert np.array_equal(estimator.score_samples(np.repeat(x[:2], 3, 0)), np.repeat(scores[:2], 3))


def test_rows_that_few_samples_tell_well_get_no_more_and_the_others_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = _normal(200, 4)
    estimator = VAEstimator(**FAST | {"num_samples": 400}).fit(x)
    asked = []
    importance = own._importance
    monkeypatch.setattr(
        own,
        "_importance",
        lambda model, x, keys, k: asked.append((k, len(x))) or importance(model, x, keys, k),
    )
    value, reliable = own.own_evidence(estimator.model_, torch.from_numpy(x), 400, seed=0)
    (few, everyone), (many, rest) = asked
    assert (few, everyone, many) == (50, 200, 400)
    assert 0 < rest < 200
    keys = own_keys(row_hashes(x), 0)
    found = taut.importance(
        estimator.model_, torch.from_numpy(x), 50, proposal=own_proposal(estimator.model_, keys)
    )
    enough = found.reliable & (found.log_evidence_error < 0.05)
    assert int((~enough).sum()) == rest
    torch.testing.assert_close(value[enough], found.log_evidence[enough], rtol=0, atol=1e-12)
    whole = taut.importance(
        estimator.model_, torch.from_numpy(x), 400, proposal=own_proposal(estimator.model_, keys)
    )
    taken = ~enough & whole.reliable
    torch.testing.assert_close(value[taken], whole.log_evidence[taken], rtol=0, atol=1e-12)
    assert bool(reliable[enough].all())


@pytest.mark.parametrize("posterior", ["DiagonalNormal()", "FullCovarianceNormal()"])
def test_own_noise_gives_the_log_evidence_of_a_linear_model(posterior: str) -> None:
    """x = W z + b + noise with z ~ N(0, 1) is normal. The z of 300 rows are independent.

    6 are passed once in 10^9 means.
    """
    x = _normal(300, 4)
    estimator = VAEstimator(
        **FAST
        | {"decoder": "Linear()", "max_epochs": 3, "posterior": posterior, "likelihood": "Normal()"}
    ).fit(x)
    with torch.no_grad():
        decoded = estimator.model_.decode(torch.cat([torch.zeros(1, 2), torch.eye(2)])[None])
    b, w = decoded.mean[0, 0], (decoded.mean[0, 1:] - decoded.mean[0, :1]).T
    exact = torch.distributions.MultivariateNormal(
        b, w @ w.T + decoded.variance[0, 0].diag()
    ).log_prob(torch.from_numpy(x))
    keys = own_keys(row_hashes(x), 0)
    found = taut.importance(
        estimator.model_, torch.from_numpy(x), 2000, proposal=own_proposal(estimator.model_, keys)
    )
    z = ((found.log_evidence - exact) / found.log_evidence_error)[found.reliable]
    assert len(z) > 200
    assert abs(float(z.mean())) * len(z) ** 0.5 < 6
    assert float(z.abs().max()) < 7


def test_own_noise_is_uniform_and_independent_within_rows_and_between_them() -> None:
    noise = own._Noise(own_keys(row_hashes(_normal(8)), 0))
    first, second = noise(3000, 5), noise(3000, 5)
    u = torch.cat([first, second]).reshape(6000, 40)
    assert 0 < float(u.min()) < float(u.max()) < 1
    z = (u - 0.5) * 12**0.5
    # Means and correlations of 6,000 uniform numbers: 6 is passed with 2e-9 each, of 40 * 40 + 80
    # of them with 3e-6.
    assert float((z.mean(0) * 6000**0.5).abs().max()) < 6
    correlation = z.T @ z / 6000**0.5
    assert float(correlation.fill_diagonal_(0.0).abs().max()) < 6
    assert float((z[1:] * z[:-1]).sum(0).abs().max()) / 6000**0.5 < 6
    assert float((z[:3000] * z[3000:]).sum(0).abs().max()) / 3000**0.5 < 6
    # var z^2 of a uniform is 9 / 5 - 1
    assert float((((z**2).mean(0) - 1) * (6000 / 0.8) ** 0.5).abs().max()) < 6


@pytest.mark.parametrize(
    ("model", "data"),
    [
        ("FactorAnalysis(latent_dim=1)", _normal()),
        ("HiddenForest(num_states=2)", _mixed()),
    ],
)
def test_an_exact_model_is_an_estimator_too(model: str, data: Any) -> None:
    estimator = VAEstimator(model=model, max_epochs=5, random_state=0).fit(data)
    scores = estimator.score_samples(data)
    again = pickle.loads(pickle.dumps(estimator))
    assert np.array_equal(again.score_samples(data), scores)
    rows = torch.tensor(data) if isinstance(data, np.ndarray) else None
    if rows is not None:  # the Gaussian that factor analysis is
        part = estimator.model_
        one = part.log_prob(rows).detach().numpy()
        np.testing.assert_allclose(scores, one, rtol=1e-12)
        centre, far = rows.mean(0, keepdim=True), rows.mean(0, keepdim=True) + torch.eye(3)
        assert (part.log_prob(far) < part.log_prob(centre)).all()
    z = estimator.transform(data)
    assert z.shape == (len(data), len(estimator.get_feature_names_out()))
    made = estimator.sample(5)
    assert type(made) is type(data)
    assert len(made) == 5
    assert list(estimator.predict(data)).count(-1) <= len(data) / 4
    gaps = data.copy()
    if rows is not None:
        gaps[3, 1] = np.nan
        filled = estimator.impute(gaps)
        assert np.array_equal(np.delete(filled, 3, 0), np.delete(data, 3, 0))
        assert np.isfinite(filled).all()


def test_what_is_of_a_vae_is_refused_for_an_exact_model() -> None:
    estimator = VAEstimator(model="Mixture(num_states=2)", max_epochs=2).fit(_mixed())
    with pytest.raises(ValueError, match="a Mixture decodes states, and Z holds what is known"):
        estimator.inverse_transform(estimator.transform(_mixed()))
    for setting in ({"objective": "IWAE()"}, {"latent_dim": 2}, {"prior": "GaussianMixture()"}):
        with pytest.raises(ValueError, match="Mixture"):
            VAEstimator(model="Mixture(num_states=2)", **setting).fit(_mixed())
    with pytest.raises(ValueError, match="no model is called 'Mixtur'"):
        VAEstimator(model="Mixtur()").fit(_mixed())


def test_bits_are_scored_with_their_own_noise() -> None:
    x = _normal(20)
    bits = {
        "prior": "IndependentBernoulli()",
        "posterior": "IndependentBernoulli()",
        "objective": "VIMCO(num_samples=2)",
    }
    for num_samples in (10, 4000):
        estimator = VAEstimator(**FAST | bits | {"num_samples": num_samples}).fit(x)
        scores = estimator.score_samples(x)
        assert np.array_equal(estimator.score_samples(x[::-1]), scores[::-1])
    model, rows = estimator.model_, torch.from_numpy(x)
    corners = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    with torch.no_grad():
        z = corners[:, None].expand(-1, len(rows), -1)
        exact = (
            model.prior().log_prob(corners)[:, None] + model.decode(z).log_prob(rows)
        ).logsumexp(0)
    assert scores == pytest.approx(exact.numpy(), abs=0.3)  # 6 standard errors of at most CLOSE


def test_random_state_decides_all_that_is_random() -> None:
    x = _normal()
    one, same = (VAEstimator(**FAST).fit(x) for _ in range(2))
    other = VAEstimator(**FAST | {"random_state": 1}).fit(x)
    assert np.array_equal(one.transform(x), same.transform(x))
    assert np.array_equal(one.sample(4), same.sample(4))
    assert not np.array_equal(one.transform(x), other.transform(x))
    generators = [
        VAEstimator(**FAST | {"random_state": np.random.RandomState(5)}).fit(x) for _ in range(2)
    ]
    assert np.array_equal(*(g.transform(x) for g in generators))
    anew = one.set_params(random_state=None)
    assert not np.array_equal(anew.sample(4), anew.sample(4))


def test_transform_and_back_are_those_of_the_run() -> None:
    x = _normal()
    estimator = VAEstimator(**FAST).fit(x)
    assert np.array_equal(
        estimator.transform(x), taut.use.tasks.encode(estimator.model_, torch.from_numpy(x)).numpy()
    )
    z = np.array([[0.5, -1.0], [0.0, 2.0]])
    assert np.array_equal(
        estimator.inverse_transform(z),
        taut.use.tasks.decode(estimator.model_, torch.from_numpy(z)).numpy(),
    )


def test_impute_gives_the_conditional_mean_of_a_linear_model() -> None:
    r"""With x = W z + b + noise and z ~ N(0, 1), E[x_mis | x_obs] is that of a joint normal.

    Samples come in pairs that mirror each other about the mean of q, whose weights are unequal as
    far as q is not the posterior. The error is at most sd / sqrt(ESS), sd of E[x_mis | z] under the
    posterior; six of these fail once in 10^9 rows.
    """
    x = _normal(400, 4)
    settings = FAST | {"decoder": "Linear()", "max_epochs": 60, "num_samples": 4000}
    estimator = VAEstimator(**settings).fit(x)
    with torch.no_grad():
        decoded = estimator.model_.decode(torch.cat([torch.zeros(1, 2), torch.eye(2)])[None])
    b, w = decoded.mean[0, 0].numpy(), (decoded.mean[0, 1:] - decoded.mean[0, :1]).numpy().T
    covariance = w @ w.T + np.diag(decoded.variance[0, 0].numpy())
    gaps = x[:20].copy()
    gaps[:, 0] = np.nan
    gain = covariance[0, 1:] @ np.linalg.inv(covariance[1:, 1:])
    expected = b[0] + (gaps[:, 1:] - b[1:]) @ gain
    sd = np.sqrt(covariance[0, 0] - gain @ covariance[1:, 0] - decoded.variance[0, 0, 0].item())
    ess = taut.impute(estimator.model_, torch.from_numpy(gaps), 4000, seed=0).ess.numpy()
    filled = estimator.impute(gaps)
    assert ess.min() > 100
    assert (np.abs(filled[:, 0] - expected) < 6 * sd / np.sqrt(ess)).all()
    assert filled[:, 1:].tobytes() == gaps[:, 1:].tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_observed_stays_bit_for_bit(dtype: type) -> None:
    torch.set_default_dtype(torch.float32)
    x = _normal().astype(dtype)
    x[0, 0], x[1, 1], x[2] = np.nan, -0.0, np.nan
    estimator = VAEstimator(**FAST).fit(x)
    filled = estimator.impute(x)
    seen = ~np.isnan(x)
    assert filled.dtype == dtype
    assert filled[seen].tobytes() == x[seen].tobytes()
    assert not np.isnan(filled).any()
    assert estimator.sample(2).dtype == estimator.inverse_transform(np.zeros((1, 2))).dtype == dtype


def test_lists_are_arrays_and_none_is_missing() -> None:
    estimator = VAEstimator(**FAST).fit(_normal(columns=2).tolist())
    filled = estimator.impute([[1.0, None], [2.0, 3.0]])
    assert filled[0, 0] == 1.0
    assert filled[1].tolist() == [2.0, 3.0]
    assert np.array_equal(filled, estimator.impute(np.array([[1.0, np.nan], [2.0, 3.0]])))


# --- what arrays are


@pytest.mark.parametrize(
    ("array", "kind", "sampled"),
    [
        (np.random.default_rng(0).integers(0, 2, (40, 3)).astype(bool), "binary", bool),
        (np.random.default_rng(0).integers(-3, 4, (40, 3)), "levels", np.int64),
        (np.random.default_rng(0).integers(0, 9, (40, 3)).astype(float), "levels", np.float64),
        (_normal(40), "real", np.float64),
    ],
)
def test_an_array_is_what_taut_fit_says_it_is(array: np.ndarray, kind: str, sampled: type) -> None:
    estimator = VAEstimator(**FAST).fit(array)
    assert estimator.schema_.kind == kind
    drawn = estimator.sample(50)
    assert drawn.dtype == sampled
    assert drawn.shape == (50, 3)
    if kind != "real":
        assert array.min() <= drawn.min()
        assert drawn.max() <= array.max()
    assert estimator.inverse_transform(np.zeros((1, 2))).dtype == np.float64


def test_kind_and_levels_overrule_it() -> None:
    x = np.random.default_rng(0).integers(0, 9, (40, 3)).astype(float)
    assert VAEstimator(**FAST).fit(x).notes_ == (
        "integers stored as float64, read as levels; kind='real' reads them as real numbers",
    )
    real = VAEstimator(**FAST, kind="real").fit(x)
    assert real.schema_.kind == "real"
    assert real.notes_ == ()
    assert VAEstimator(**FAST, levels=(0, 20)).fit(x).schema_.num_levels == 21
    counts = VAEstimator(**FAST, kind="count").fit(x)
    assert type(counts.model_.likelihood) is taut.NegativeBinomial
    with pytest.warns(
        UserWarning,
        match=r"outside the levels 0..8, the first at row 0, column 0 \(from 0\); .* low; train "
        r"with levels 0:13",
    ):
        assert np.isfinite(VAEstimator(**FAST).fit(x).score(x + 5))


def test_a_constant_column_is_left_out_and_given_back() -> None:
    varying = _normal(40, 3)
    x = np.column_stack([np.full(40, 7.25), varying, np.full(40, -1e9)])
    x[2, 0], x[3, 2] = np.nan, np.nan
    estimator = VAEstimator(**FAST).fit(x)
    assert estimator.notes_ == ("columns (from 0) 0, 4 are constant, omitted",)
    assert estimator.n_features_in_ == 5
    assert estimator.schema_.event_shape == (3,)
    for made in (
        estimator.sample(2),
        estimator.inverse_transform(np.zeros((2, 2))),
        estimator.impute(x)[2:4],
    ):
        assert made.shape == (2, 5)
        assert (made[:, 0] == 7.25).all()
        assert (made[:, 4] == -1e9).all()
        assert not np.isnan(made).any()
    integers = np.column_stack([np.arange(40) % 7, np.full(40, 0.5)])
    assert VAEstimator(**FAST).fit(integers).schema_.kind == "real"
    varying[3, 1] = np.nan
    alone = VAEstimator(**FAST).fit(varying)
    assert alone.notes_ == ()
    other = x.copy()
    other[:, 0] = 0.0
    assert np.array_equal(estimator.score_samples(other), estimator.score_samples(x))


def test_what_is_constant_where_it_trains_is_left_out() -> None:
    """A column that varies in one held-out row alone has no density either."""
    x = np.column_stack([_normal(40, 2), np.zeros(40)])
    held_out = []
    for row in range(40):
        odd = x.copy()
        odd[row, 2] = 0.5
        estimator = VAEstimator(**FAST | {"validation_fraction": 0.3}).fit(odd)
        held_out.append(estimator.schema_.event_shape == (2,))
    assert 0 < sum(held_out) < 40


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (
            np.full((9, 3), 0.5),
            "X: every column is constant in training, there is nothing to learn",
        ),
        (np.full((20, 3), 0.5), "only 1 distinct rows"),
        (
            np.column_stack([_normal(20, 2), np.full(20, np.nan)]),
            r"X: columns \(from 0\) 2 hold no value at all; remove them",
        ),
        (_normal(1), "Found array with 1 sample"),
        (np.array([["a", "b"], ["c", "d"]]), "Convert your data to numeric values explicitly"),
        (np.full((20, 2), np.inf), "infinity"),
    ],
)
def test_what_cannot_be_learned_from_is_a_value_error(array: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VAEstimator(**FAST).fit(array)


def test_below_ten_rows_nothing_is_held_out() -> None:
    assert [r["validation"] for r in VAEstimator(**FAST).fit(_normal(9)).history_] == [None]
    assert VAEstimator(**FAST).fit(_normal(10)).history_[0]["validation"] is not None
    counts = np.arange(40).reshape(20, 2)
    for make in (sparse.csr_array, lambda x: pd.DataFrame(x / 7)):
        assert VAEstimator(**FAST).fit(make(counts)).history_[0]["validation"] is not None
        assert VAEstimator(**FAST).fit(make(counts[:9])).history_[0]["validation"] is None
    two = VAEstimator(**FAST).fit(_normal(2))
    assert two.transform(_normal(2)).shape == (2, 2)
    assert two.n_iter_ == 2


def test_before_fit_nothing_is_known() -> None:
    for method in ("transform", "score_samples", "impute", "inverse_transform"):
        with pytest.raises(NotFittedError):
            getattr(VAEstimator(), method)(_normal())
    with pytest.raises(NotFittedError):
        VAEstimator().sample()


# --- pickling


class _WithoutTorch(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("torch") or (module.startswith("taut") and name != "VAEstimator"):
            raise AssertionError(f"{module}.{name} is in the pickle")
        return super().find_class(module, name)


def _fits() -> list[tuple[VAEstimator, Any]]:
    x = _normal()
    x[3, 1] = np.nan
    constant = np.column_stack([x, np.ones(60)])
    counts = sparse.csr_array(np.random.default_rng(0).poisson(2, (30, 4)))
    return [
        (VAEstimator(**FAST), x),
        (VAEstimator(**FAST), constant),
        (VAEstimator(**FAST), _mixed()),
        (VAEstimator(**FAST), counts),
    ]


@pytest.mark.parametrize("which", range(4))
def test_a_pickle_holds_nothing_of_torch_and_gives_the_same_bits(which: int) -> None:
    estimator, x = _fits()[which]
    estimator.fit(x)
    again = _WithoutTorch(io.BytesIO(pickle.dumps(estimator))).load()
    assert np.array_equal(again.score_samples(x), estimator.score_samples(x))
    assert np.array_equal(again.transform(x), estimator.transform(x))
    assert again.schema_ == estimator.schema_
    assert again.history_ == estimator.history_
    one, other = again.sample(5), estimator.sample(5)
    assert one.equals(other) if isinstance(one, pd.DataFrame) else np.array_equal(one, other)
    assert np.array_equal(copy.deepcopy(estimator).transform(x), estimator.transform(x))


def test_a_pickle_keeps_its_precision() -> None:
    torch.set_default_dtype(torch.float32)
    x = _normal()
    estimator = VAEstimator(**FAST).fit(x)
    scores, data = estimator.score_samples(x), pickle.dumps(estimator)
    torch.set_default_dtype(torch.float64)
    again = pickle.loads(data)
    assert {p.dtype for p in again.model_.parameters()} == {torch.float32}
    assert np.array_equal(again.score_samples(x), scores)
    assert np.array_equal(estimator.score_samples(x), scores)


# --- parts


def test_built_parts_are_used_as_they_are_and_not_changed() -> None:
    x = _normal()
    prior = taut.GaussianMixture(2, 3)
    before = {k: v.clone() for k, v in prior.state_dict().items()}
    estimator = VAEstimator(**FAST, prior=prior, objective=taut.IWAE(num_samples=2))
    assert clone(estimator).prior is not prior
    estimator.fit(x)
    assert {k: torch.equal(v, before[k]) for k, v in prior.state_dict().items()} == dict.fromkeys(
        before, True
    )
    assert type(estimator.model_.prior) is taut.GaussianMixture
    assert estimator.config_.training.objective == "IWAE(num_samples=2)"
    again = _WithoutTorch(io.BytesIO(pickle.dumps(estimator))).load()
    assert again.objective == "IWAE(num_samples=2)"
    assert isinstance(again.prior, str)
    assert np.array_equal(again.score_samples(x), estimator.score_samples(x))


def test_weights_that_a_pickle_would_lose_are_refused() -> None:
    estimator = VAEstimator(**FAST, prior=taut.GaussianMixture(2, 3))
    with pytest.raises(
        ValueError,
        match="prior is a built part whose weights an estimator that is not fitted cannot carry",
    ):
        pickle.dumps(estimator)
    assert (
        pickle.loads(pickle.dumps(VAEstimator(prior=taut.StandardNormal(2)))).prior
        == "StandardNormal()"
    )


class _Secret(taut.Prior):
    def __init__(self, latent_dim: int, hidden: Any) -> None:
        super().__init__()
        self.inner = taut.StandardNormal(latent_dim)

    def forward(self, context: Any = None) -> Any:
        return self.inner(context)


def test_a_part_that_cannot_be_written_down_is_fitted_but_not_pickled() -> None:
    estimator = VAEstimator(**FAST, prior=_Secret(2, object())).fit(_normal())
    assert estimator.transform(_normal()).shape == (60, 2)
    with pytest.raises(
        ValueError, match=r"_Secret cannot be pickled .*'hidden'.*give it as a specification"
    ):
        pickle.dumps(estimator)


# --- scikit-learn's own tools


def test_grid_search_chooses_the_latent_dimension_by_score() -> None:
    search = GridSearchCV(VAEstimator(**FAST), {"latent_dim": [1, 2]}, cv=2).fit(_normal())
    scores = search.cv_results_["mean_test_score"]
    assert search.best_params_ == {"latent_dim": [1, 2][int(scores.argmax())]}
    halves = [slice(30, 60), slice(0, 30)]
    by_hand = [
        VAEstimator(**FAST | {"latent_dim": 1}).fit(_normal()[h]).score(_normal()[o])
        for h, o in zip(halves, halves[::-1], strict=True)
    ]
    assert scores[0] == pytest.approx(np.mean(by_hand), rel=1e-12)


def test_it_stands_in_a_pipeline() -> None:
    x = _normal()
    pipeline = make_pipeline(
        StandardScaler(), VAEstimator(**FAST), FunctionTransformer(np.tanh)
    ).fit(x)
    scaled = StandardScaler().fit_transform(x)
    assert np.array_equal(
        pipeline.transform(x), np.tanh(VAEstimator(**FAST).fit(scaled).transform(scaled))
    )


def test_names_of_the_latent_dimensions() -> None:
    estimator = VAEstimator(**FAST).set_output(transform="pandas").fit(_mixed())
    assert estimator.feature_names_in_.tolist() == [
        "user_id",
        "height",
        "colour",
        "site",
        "smokes",
        "visits",
        "day",
    ]
    assert estimator.get_feature_names_out().tolist() == ["vaestimator0", "vaestimator1"]
    z = estimator.transform(_mixed().set_index("user_id", drop=False))
    assert z.columns.tolist() == ["vaestimator0", "vaestimator1"]
    assert z.index[0] == "u0"
    assert not hasattr(VAEstimator(**FAST).fit(_normal()), "feature_names_in_")


# --- data frames


def test_a_pandas_frame_comes_back_as_one() -> None:
    frame = _mixed()
    estimator = VAEstimator(**FAST).fit(frame)
    assert [c.kind for c in estimator.schema_.columns] == [
        "id",
        "positive",
        "category",
        "constant",
        "binary",
        "levels",
        "date",
    ]
    filled = estimator.impute(frame)
    assert filled.dtypes.equals(frame.dtypes)
    assert filled.isna().sum().sum() == 0
    seen = frame.notna()
    assert filled.where(seen).equals(frame.where(seen))
    assert filled["colour"].iloc[4] in ("red", "green", "blue")
    for made in (estimator.sample(4), estimator.inverse_transform(np.zeros((4, 2)))):
        assert made.columns.tolist() == frame.columns.tolist()
        assert made["site"].tolist() == ["Ulm"] * 4
        assert made["user_id"].isna().all()
        assert set(made["colour"]) <= {"red", "green", "blue"}
        assert made.drop(columns="user_id").dtypes.equals(frame.drop(columns="user_id").dtypes)
        assert made["visits"].between(0, 4).all()
        assert estimator.transform(made).shape == (4, 2)


def _typed(rows: int = 60) -> pd.DataFrame:
    r = np.random.default_rng(2)
    hours = pd.to_timedelta(r.integers(0, 900, rows), unit="h")
    return pd.DataFrame(
        {
            "float32": r.normal(size=rows).astype("float32"),
            "float16": r.normal(size=rows).astype("float16"),
            "uint8": r.integers(0, 9, rows).astype("uint8"),
            "Int64": pd.array(r.integers(0, 9, rows), dtype="Int64"),
            "int8 of Arrow": pd.array(r.integers(0, 9, rows), dtype=pd.ArrowDtype(pa.int8())),
            "category": pd.Categorical(r.choice(list("abc"), rows), list("cab")),
            "ordered": pd.Categorical(
                r.choice(["low", "high"], rows), ["low", "high", "never"], ordered=True
            ),
            "numbers": pd.Categorical(r.choice([3, 1, 7], rows)),
            "cut": pd.cut(r.random(rows), [0, 0.3, 0.6, 1]),
            "string": pd.array(r.choice(["x", "y", "z"], rows), dtype="string"),
            "Berlin": pd.Timestamp("2024-01-01", tz="Europe/Berlin") + hours,
            "naive": pd.Timestamp("2024-01-01") + hours,
            "boolean": pd.array(r.random(rows) < 0.5, dtype="boolean"),
            "decimal": [Decimal(int(v)) / 100 for v in r.integers(100, 9999, rows)],
            "date": [
                datetime.date(2024, 1, 1) + datetime.timedelta(int(d))
                for d in r.integers(0, 500, rows)
            ],
            "sparse": pd.arrays.SparseArray(
                np.where(r.random(rows) < 0.5, np.nan, r.normal(size=rows))
            ),
            "id": [f"k{i}" for i in range(rows)],
            "constant": pd.Categorical(["only"] * rows),
        }
    )


def test_what_is_made_has_the_types_and_names_of_the_frame() -> None:
    frame = _typed()
    estimator = VAEstimator(**FAST).fit(frame)
    for made in (estimator.sample(20), estimator.inverse_transform(np.zeros((3, 2)))):
        assert made.dtypes.to_dict() == frame.dtypes.to_dict()
        assert {type(v) for v in made["decimal"]} == {Decimal}
        assert {v.as_tuple().exponent for v in made["decimal"]} == {-2}
        assert {type(v) for v in made["date"]} == {datetime.date}
        assert set(made["cut"]) <= set(frame["cut"])
        # which warns of its own ways
        both = pd.concat([frame.drop(columns="sparse"), made.drop(columns="sparse")])
        assert both.dtypes.to_dict() == frame.drop(columns="sparse").dtypes.to_dict()
    again = pickle.loads(pickle.dumps(estimator))
    assert again.sample(20).equals(estimator.sample(20))
    numbers = pd.DataFrame(_normal())
    of_numbers = VAEstimator(**FAST).fit(numbers)
    assert of_numbers.sample(2).columns.equals(numbers.columns)
    z = of_numbers.set_output(transform="pandas").transform(numbers.set_axis(numbers.index + 7))
    assert of_numbers.inverse_transform(z).index.equals(numbers.index + 7)


def test_a_type_that_cannot_hold_a_value_gives_way() -> None:
    frame = pd.DataFrame(
        {
            "count": np.random.default_rng(0).integers(0, 200, 40).astype("uint8"),
            "x": _normal(40)[:, 0],
        }
    )
    estimator = VAEstimator(**FAST).fit(frame)
    like, types = estimator._like, estimator._types
    count, x = estimator.schema_.columns
    schema = dataclasses.replace(
        estimator.schema_, columns=(dataclasses.replace(count, kind="count", offset=0.0), x)
    )
    made = given_back(np.array([[199.0, 0.5], [300.0, 1.5]]), schema, like, types)
    assert made["count"].tolist() == [199, 300]
    assert made["count"].dtype == np.int64


def test_gaps_of_every_type_are_filled_in_their_type() -> None:
    frame = _typed()
    gaps = frame.copy()
    for i, name in enumerate(frame.columns[:-3]):
        gaps.loc[gaps.index[i], name] = None
    gaps["uint8"] = frame["uint8"]  # which has no missing value
    filled = VAEstimator(**FAST).fit(gaps).impute(gaps.set_index("id", drop=False))
    assert filled.dtypes.to_dict() == gaps.dtypes.to_dict()
    assert filled.index.tolist() == frame["id"].tolist()
    assert all(filled[name].notna().all() for name in frame)
    for name in frame:
        kept = zip(filled[name], gaps[name], gaps[name].isna(), strict=True)
        assert all(gap or new == old for new, old, gap in kept)


def test_constants_of_each_type_are_given_back() -> None:
    values = {
        "whole": 5,
        "half": 2.5,
        "day": pd.Timestamp("2024-01-01"),
        "truth": True,
        "text": "u",
    }
    frame = pd.DataFrame({"x": _normal(30)[:, 0], **values})
    estimator = VAEstimator(**FAST).fit(frame)
    made = estimator.sample(2)
    assert made.iloc[1, 1:].to_dict() == values
    assert [made[name].dtype.kind for name in values] == ["i", "f", "M", "b", "O"]
    assert estimator.transform(made).shape == (2, 2)


def test_a_level_never_seen_stays_what_it_is() -> None:
    frame = pd.DataFrame({"x": _normal(30)[:, 0], "level": ["a", "b", "c"] * 10})
    estimator = VAEstimator(**FAST).fit(frame)
    odd = frame.assign(level=["zebra", None, *frame["level"][2:]])
    with pytest.warns(
        UserWarning,
        match="1 values of 'level' are levels never seen in training \\('zebra'\\): read as "
        "missing",
    ):
        filled = estimator.impute(odd)["level"].tolist()
    assert (filled[0], filled[1] in "abc", filled[2:]) == (
        "zebra",
        True,
        frame["level"].tolist()[2:],
    )


def test_tomorrows_rows_have_a_number_each_and_odd_ones_a_low_one() -> None:
    r = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": r.integers(19, 90, 300),
            "price": np.exp(r.normal(3, 1, 300)),
            "flag": r.random(300) < 0.5,
            "real": r.normal(size=300),
        }
    )
    estimator = VAEstimator(**FAST).fit(frame)
    assert [c.kind for c in estimator.schema_.columns] == ["levels", "positive", "binary", "real"]
    usual = frame[:1].astype({"age": float})
    scores = []
    for column, value in (
        ("age", 18),
        ("age", 200),
        ("age", 30.5),
        ("price", 0.0),
        ("price", -7.5),
    ):
        with pytest.warns(
            UserWarning,
            match=f"1 values .* of '{column}' are .*: log p|1 values .* of '{column}' are .*; log "
            f"p",
        ):
            scores.append(float(estimator.score_samples(usual.assign(**{column: value}))[0]))
    assert np.isfinite(scores).all()
    # 2^-24 is 16.6 nats; one age of 71 costs 4.3 itself
    assert max(scores) < float(estimator.score_samples(usual)[0]) - 10
    for same in (
        usual.astype(str),
        usual.assign(flag=usual["flag"].astype(int)),
        usual.assign(flag=np.where(usual["flag"], "Y", "N")),
    ):
        assert estimator.score_samples(same) == estimator.score_samples(usual)


def test_truth_values_contradict_their_row_in_any_spelling() -> None:
    truth = np.random.default_rng(0).random(200) < 0.5
    frame = pd.DataFrame(
        {"ok": truth, "y": np.where(truth, 3, -3) + np.random.default_rng(1).normal(size=200)}
    )
    estimator = VAEstimator(**FAST | {"max_epochs": 60}).fit(frame)
    right, wrong = estimator.score(frame), estimator.score(frame.assign(ok=~frame["ok"]))
    assert estimator.score(frame.assign(ok=truth.astype(int))) == right
    # read as missing, it would be above
    assert estimator.score(frame.assign(ok=(~truth).astype(int))) == wrong < right
    with pytest.raises(
        ValueError,
        match=r"all 200 values of 'ok' are levels never seen in training \('ja', "
        r"'nein'\)|\('nein', 'ja'\)",
    ):
        estimator.score(frame.assign(ok=np.where(truth, "ja", "nein")))


def test_what_is_impossible_is_minus_infinity_and_said(tmp_path: Any) -> None:
    r = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"count": r.poisson(300, 100) * (r.random(100) < 0.5), "x": r.normal(size=100)}
    )
    (tmp_path / "columns.toml").write_text('[columns.count]\nkind = "count"\n')
    estimator = VAEstimator(**FAST, schema=tmp_path / "columns.toml").fit(frame)
    odd = frame.astype({"count": float})
    odd.loc[3, "count"], odd.loc[5, "count"] = -1.0, 2.5
    with pytest.warns(
        UserWarning, match="2 values .* outside the support .*: log p.* of 2 rows is minus infinity"
    ):
        scores = estimator.score_samples(odd)
    rest = np.delete(np.arange(100), [3, 5])
    assert np.isneginf(scores[[3, 5]]).all()
    assert scores[rest] == pytest.approx(estimator.score_samples(frame)[rest], abs=1e-10)
    with pytest.warns(UserWarning, match="minus infinity"):
        assert estimator.score(odd) == -np.inf
    with pytest.warns(UserWarning, match="minus infinity"):
        filled = estimator.impute(odd.assign(x=odd["x"].mask(odd.index < 9)))
    assert filled["count"].equals(odd["count"])
    assert filled["x"].notna().all()
    with pytest.raises(ValueError, match="are negative"):
        estimator.score(frame.assign(count=-1.0 - frame["count"]))


@pytest.mark.parametrize(
    "name", ["diabetes", "iris", "wine", "breast_cancer", "linnerud", "digits"]
)
@pytest.mark.filterwarnings("ignore:the data. :UserWarning")
def test_cross_validation_is_finite_on_the_frames_of_scikit_learn(name: str) -> None:
    settings = {"scaled": False} if name == "diabetes" else {}
    frame = getattr(sklearn.datasets, f"load_{name}")(as_frame=True, **settings).data[:400]
    for data in (frame, frame.to_numpy()):
        scores = cross_val_score(VAEstimator(**FAST), data, cv=5, error_score="raise")
        assert np.isfinite(scores).all()
    search = GridSearchCV(
        VAEstimator(**FAST), {"latent_dim": [1, 2]}, cv=2, error_score="raise"
    ).fit(frame)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_a_frame_without_gaps_comes_back_as_it_was() -> None:
    frame = _mixed()[["height", "site"]].dropna().assign(weight=lambda f: f["height"] ** 2)
    filled = VAEstimator(**FAST).fit(frame).impute(frame)
    assert filled is not frame
    assert filled.equals(frame)


def test_polars_and_arrow_frames_come_back_as_such() -> None:
    table = pa.Table.from_pandas(
        _mixed().astype({"colour": str}).replace({"colour": {"nan": None}}), preserve_index=False
    )
    frame = pl.DataFrame(table).cast({"height": pl.Float32, "colour": pl.Categorical})
    estimator = VAEstimator(**FAST).fit(frame)
    filled = estimator.impute(frame)
    assert filled.schema == frame.schema
    assert filled.null_count().sum_horizontal()[0] == 0
    for name in frame.columns:
        seen = frame[name].is_not_null()
        assert filled[name].filter(seen).equals(frame[name].filter(seen))
    assert estimator.sample(2).schema == frame.schema
    assert pl.concat([frame, estimator.sample(2)]).height == len(frame) + 2
    of_table = VAEstimator(**FAST).fit(table)
    assert of_table.sample(2).schema.types == table.schema.types
    assert of_table.impute(table).column("colour").null_count == 0
    assert of_table.impute(table).column("user_id").equals(table.column("user_id"))


def test_an_array_may_follow_a_frame() -> None:
    frame = _mixed()[["height", "visits"]].astype(float)
    frame.columns = [0, 1]  # numbers are no names to scikit-learn
    estimator = VAEstimator(**FAST).fit(frame)
    assert not hasattr(estimator, "feature_names_in_")
    assert np.array_equal(estimator.transform(frame.to_numpy()), estimator.transform(frame))
    objects = _mixed()[["colour", "height"]].rename(columns={"colour": 0, "height": 1})
    of_objects = VAEstimator(**FAST).fit(objects)
    assert np.array_equal(of_objects.transform(objects.to_numpy()), of_objects.transform(objects))


def test_names_are_checked_as_scikit_learn_does() -> None:
    estimator = VAEstimator(**FAST).fit(_mixed())
    with pytest.raises(
        ValueError, match="Feature names must be in the same order as they were in fit"
    ):
        estimator.transform(_mixed()[_mixed().columns[::-1]])


def test_all_problems_of_a_frame_are_told() -> None:
    with pytest.raises(ValueError, match=r"a.*infinite(.|\n)*b.*nothing but missing"):
        VAEstimator(**FAST).fit(
            pd.DataFrame({"a": [1.5, np.inf, 2.5], "b": [None] * 3, "c": [1.5, 2.5, 4.0]})
        )


def test_missing_values_and_schema_are_those_of_a_table(tmp_path: Any) -> None:
    frame = pd.DataFrame({"a": [1, 2, -99, 3] * 10, "b": _normal(40)[:, 0]})
    estimator = VAEstimator(**FAST, missing_values=["-99"]).fit(frame)
    assert (estimator.schema_.columns[0].missing, estimator.schema_.columns[0].low) == (10, 1.0)
    filled = estimator.impute(frame)
    assert (filled["a"] >= 0).all()
    assert filled["a"][frame["a"] != -99].equals(frame["a"][frame["a"] != -99])
    (tmp_path / "columns.toml").write_text('[columns.a]\nkind = "category"\n')
    of_file = VAEstimator(**FAST, schema=tmp_path / "columns.toml").fit(frame)
    assert of_file.schema_.columns[0].kind == "category"
    assert VAEstimator(**FAST, schema=of_file.schema_).fit(frame).schema_ == of_file.schema_


def test_a_condition_is_the_context_of_the_rest() -> None:
    frame = _mixed()[["height", "colour", "visits"]].dropna()
    estimator = VAEstimator(**FAST, condition=["colour"]).fit(frame)
    drawn = estimator.sample(5, given={"colour": "red"})
    assert drawn.columns.tolist() == ["height", "colour", "visits"]
    assert drawn["colour"].tolist() == ["red"] * 5
    with pytest.raises(ValueError, match="this model is conditioned on colour: give exactly that"):
        estimator.sample(5)
    with pytest.raises(ValueError, match="conditioned on a context, which Z does not hold"):
        estimator.inverse_transform(np.zeros((1, 2)))
    row = frame.iloc[:1]
    x = torch.from_numpy(taut.data.check_against(row, estimator.schema_).rows.numpy())
    own = own_proposal(estimator.model_, own_keys(row_hashes(x.numpy()), 0))
    alone = taut.importance(estimator.model_, x, 10, proposal=own).log_evidence.item()
    assert estimator.score_samples(row)[0] == pytest.approx(alone, abs=1e-12)


def test_what_is_given_has_a_value() -> None:
    frame = _mixed()[["height", "visits"]].dropna()
    estimator = VAEstimator(**FAST, condition=["height"]).fit(frame)
    assert set(estimator.sample(2, given={"height": "1.5"})["height"]) == {1.5}
    for missing in ("", "NA"):
        with pytest.raises(ValueError, match="a value of what is given is missing"):
            estimator.sample(2, given={"height": missing})


# --- counts


def test_sparse_counts_are_fitted_as_they_are() -> None:
    dense = np.random.default_rng(0).poisson(0.7, (40, 6))
    for matrix in (sparse.csr_array(dense), sparse.coo_matrix(dense)):
        estimator = VAEstimator(**FAST).fit(matrix)
        assert estimator.schema_.kind == "count"
        assert np.array_equal(estimator.transform(matrix), estimator.transform(dense))
        assert np.array_equal(estimator.score_samples(matrix), estimator.score_samples(dense))
        assert estimator.sample(3).dtype == np.int64
        assert estimator.impute(matrix).toarray().tolist() == dense.tolist()
    assert VAEstimator(kind="count").__sklearn_tags__().input_tags.sparse
    with pytest.raises(ValueError, match=r"X, which is sparse: .* are not integers"):
        VAEstimator(**FAST).fit(sparse.csr_array(dense / 3))
    with pytest.raises(
        ValueError, match="a sparse matrix holds counts; for kind='real' give it dense"
    ):
        VAEstimator(**FAST, kind="real").fit(sparse.csr_array(dense))


def _cells(dense: bool = False) -> Any:
    anndata = pytest.importorskip("anndata")
    counts = np.random.default_rng(0).poisson(2, (30, 5)).astype(np.float32)
    cells = anndata.AnnData(counts if dense else sparse.csr_matrix(counts))
    cells.layers["raw counts"] = cells.X.copy()
    return cells


def test_counts_may_be_given_their_totals() -> None:
    counts = np.random.default_rng(0).poisson(3, (40, 4))
    estimator = VAEstimator(**FAST, kind="count", likelihood="NegativeBinomial(library=True)").fit(
        counts
    )
    few, many = (
        estimator.sample(200, given={"total": total}).sum(1).mean() for total in (10, 1000)
    )
    assert 50 < many / few < 200  # the mean is proportional to the total


@pytest.mark.parametrize("dense", [False, True])
def test_an_anndata_is_embedded(dense: bool) -> None:
    cells = _cells(dense)
    estimator = VAEstimator(**FAST).fit(cells)
    assert estimator.schema_.kind == "count"
    assert estimator.feature_names_in_.tolist() == ["0", "1", "2", "3", "4"]
    taut.embed_anndata(cells, estimator)
    assert np.array_equal(cells.obsm["X_taut"], estimator.transform(cells))
    cells.X = cells.X * 0.5
    layered = VAEstimator(**FAST, layer="raw counts").fit(cells)
    assert np.array_equal(layered.transform(cells), cells.obsm["X_taut"])
    with pytest.raises(ValueError, match="Feature names"):
        layered.transform(cells[:, ::-1])


def test_an_anndata_is_embedded_by_a_run(tmp_path: Any) -> None:
    cells = _cells()
    run = taut.fit(
        cells,
        tmp_path / "run",
        max_epochs=1,
        encoder="MLP(hidden=[8])",
        decoder="MLP(hidden=[8])",
        device="cpu",
    )
    taut.embed_anndata(cells, run, key="X_run")
    counts = torch.from_numpy(cells.X.toarray()).double()
    assert np.array_equal(cells.obsm["X_run"], taut.use.tasks.encode(run.model, counts).numpy())


@pytest.mark.parametrize("flag", [0, 1, 2, -0.1, float("nan"), "a", None])
def test_a_flag_that_is_no_share_is_refused_before_the_training(flag: Any) -> None:
    with pytest.raises(ValueError, match="a rate of false alarms lies between 0 and 1"):
        VAEstimator(**FAST | {"flag": flag}).fit(np.random.default_rng(0).normal(size=(40, 2)))


def test_counts_are_checked_as_everywhere() -> None:
    x = np.random.default_rng(0).normal(size=(40, 2))
    with pytest.raises(ValueError, match="num_samples: expected at least 1, not 0"):
        VAEstimator(**FAST | {"num_samples": 0}).fit(x)
    made = VAEstimator(**FAST).fit(x)
    for wrong in (0, -1, True):
        with pytest.raises(ValueError, match=r"n_samples: expected .*at least 1, not"):
            made.sample(wrong)


def test_a_model_larger_than_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: Any, **__: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4")

    monkeypatch.setattr(assemble, "build", build)
    with pytest.raises(
        OutOfMemoryError, match=r"^the model needs .* smaller latent_dim \(here 2\)"
    ):
        VAEstimator(**FAST).fit(np.random.default_rng(0).normal(size=(40, 2)))


def test_gaps_of_what_follows_from_others_are_filled_where_no_other_is() -> None:
    """A frame whose only gaps followed from a formula came back with them."""
    r = np.random.default_rng(0)
    frame = pd.DataFrame({"net": r.integers(1, 999, 200) / 4, "tax": r.integers(1, 99, 200) / 4})
    frame["gross"] = frame.net + frame.tax
    estimator = VAEstimator(model="Mixture(num_states=1)", max_epochs=2).fit(frame)
    gaps = frame.copy()
    gaps.loc[:4, "gross"], gaps.loc[5:9, "net"] = np.nan, np.nan
    with pytest.warns(UserWarning, match="5 missing entries follow from 'gross' = net"):
        pd.testing.assert_frame_equal(estimator.impute(gaps), frame)
    pd.testing.assert_frame_equal(estimator.impute(frame), frame)
