"""Scores of disentanglement on planted codes whose scores are known, and what a run says of one."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from test_cells import run
from torch.distributions import Independent, Normal
from ztest import limit

import taut
from taut.data.factors import Factors, chosen, read_columns
from taut.evidence import disentanglement as d
from taut.system.errors import DataError, UsageError


def grid(*sizes: int) -> np.ndarray:
    """Returns all combinations of levels, (N, F)."""
    return np.array(list(itertools.product(*(range(n) for n in sizes))), float)


def factors_of(values: np.ndarray) -> Factors:
    return Factors.of({f"v{k}": values[:, k] for k in range(values.shape[1])})


def by_name(codes: np.ndarray, factors: Factors) -> dict[str, d.Score]:
    return {score.name: score for score in d.scores(codes, factors)}


# --- Planted codes --------------------------------------------------------------------------------


def test_the_factors_themselves_reach_one_with_a_dead_dimension() -> None:
    values = grid(4, 3, 5)
    codes = np.column_stack([values, np.zeros(len(values))])
    factors = factors_of(values)
    for score in (d.mig(codes, factors), d.sap(codes, factors), d.modularity(codes, factors)):
        np.testing.assert_allclose(score, 1.0, rtol=0, atol=1e-12)
    assert d.irs(codes, factors) == pytest.approx(1, abs=1e-12)
    assert d.factor_vae(codes, factors) == 1
    assert d.beta_vae(codes, factors) == 1
    many = np.repeat(codes, 20, 0), factors[np.repeat(np.arange(60), 20)]
    np.testing.assert_allclose(d.dci(*many), 1.0, rtol=0, atol=1e-12)


def test_a_factor_that_is_copied_has_no_gap() -> None:
    values = grid(4, 3)
    codes = values[:, [0, 0, 1]]
    for score in (d.mig(codes, factors_of(values)), d.sap(codes, factors_of(values))):
        np.testing.assert_allclose(score, [0.0, 1.0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [8, 40])
def test_a_factor_that_is_split_in_two(n: int) -> None:
    v = grid(n)
    codes = np.column_stack([v // 2, v % 2])
    gap = d.mig(codes, factors_of(v))[0]
    assert gap == pytest.approx((math.log(n / 2) - math.log(2)) / math.log(n), abs=1e-12)
    assert d.sap(codes, factors_of(v))[0] == pytest.approx((n**2 - 7) / (n**2 - 1), abs=1e-12)


def test_a_rotation_by_45_degrees() -> None:
    values = grid(8, 8)
    codes = np.column_stack([values.sum(1), values[:, 0] - values[:, 1]])
    factors = factors_of(values)
    for score in (d.mig(codes, factors), d.sap(codes, factors), d.modularity(codes, factors)):
        np.testing.assert_allclose(score, 0.0, rtol=0, atol=1e-12)
    assert d.irs(codes, factors, quantile=1.0) == pytest.approx(0.5, abs=1e-12)
    # the share of a common part that is one half, by ranks: |r| = 1 / sqrt 2 of each pair
    ranking = d.udr([values, codes])
    r = d._spearman(values, codes)
    np.testing.assert_allclose(ranking, r[0, 0] / 2, rtol=0, atol=1e-12)


def test_robustness_is_weighted_by_how_far_a_dimension_moves() -> None:
    """v0 has 1, and moves 3.5 from its mean; v0 + v1 has .5, and moves 7."""
    values = grid(8, 8)
    codes = np.column_stack([values[:, 0], values.sum(1)])
    assert d.irs(codes, factors_of(values), quantile=1.0) == pytest.approx(2 / 3, abs=1e-12)


def test_the_ranking_of_a_rotation_is_half_the_correlation() -> None:
    """Of the four points of a square the ranks are the points, and r is exactly 1 / sqrt 2."""
    values = grid(2, 2)
    codes = np.column_stack([values.sum(1), values[:, 0] - values[:, 1]])
    np.testing.assert_allclose(d.udr([values, codes]), 0.353553390593, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("sizes", "expected"), [((4, 4), 0.0), ((8, 4), 5 / 9)])
def test_the_modularity_of_a_code_of_two_factors(sizes: tuple[int, ...], expected: float) -> None:
    values = grid(*sizes)
    joint = values[:, :1] * sizes[1] + values[:, 1:]
    found = d.modularity(joint, factors_of(values), bins=sizes[0] * sizes[1])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_importances_by_hand() -> None:
    found = d.dci_of(np.array([[0.5, 0.5], [0.5, 0.0], [0.0, 0.5]]))
    np.testing.assert_allclose(found, [0.5, 1 - math.log(2, 3)], rtol=0, atol=1e-12)
    assert d.dci_of(np.zeros((2, 2))) == (0.0, 0.0)


def test_the_ceiling_of_20_bins_on_the_factors_of_dsprites() -> None:
    levels = [np.arange(n) for n in (3, 6, 40, 32, 32)]
    ceilings = [d.mig(v[:, None].astype(float), factors_of(v[:, None]))[0] for v in levels]
    by_hand = [1, 1, math.log(20) / math.log(40), 0.85, 0.85]
    np.testing.assert_allclose(ceilings, by_hand, rtol=0, atol=1e-12)
    assert np.mean(ceilings) == pytest.approx(0.9024, abs=5e-5)


def test_a_random_code_has_scores_at_their_chance_levels() -> None:
    """Votes of a random code are right 1 in F times: 5 standard errors, a false alarm in 1e6."""
    values = np.repeat(grid(5, 4, 3), 20, 0)
    codes = np.random.default_rng(0).normal(size=(len(values), 4))
    for score in (d.factor_vae, d.beta_vae):
        error = math.sqrt(1 / 3 * 2 / 3 / d.VOTES)
        assert abs(score(codes, factors_of(values)) - 1 / 3) < 5 * error
    found = by_name(codes, factors_of(values))
    for name in ("mig", "sap", "modularity", "dci_disentanglement"):
        score = found[name]
        ends = score.to_dict()
        assert abs(ends["value"] - ends["chance"]) < 0.25 * ends["ceiling"], name


def test_information_in_bins_is_biased_upward_by_half_the_degrees_of_freedom() -> None:
    """(a - 1) (b - 1) / 2N nats: .037 at 20 x 40 bins and 10,000 rows, whose spread is .0019."""
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 20, (10_000, 1)), rng.integers(0, 40, (10_000, 1))
    spread = math.sqrt(2 * 19 * 39) / 20_000
    assert abs(d.information(a, b)[0, 0] - 19 * 39 / 20_000) < limit(1) * spread


def test_a_perfect_code_of_a_nominal_factor() -> None:
    kinds = np.repeat(["a", "b"], 30)
    codes = np.column_stack([np.where(kinds == "a", -1.0, 1.0), np.zeros(60)])
    factors = Factors.of({"kind": kinds})
    assert factors.ordered == (False,)
    gap = d.sap(codes, factors)[0]
    assert 0 < gap <= 0.7  # what a constant tells is a half, or what the halves have of one kind


# --- By densities ---------------------------------------------------------------------------------


class _Known(taut.Posterior):
    """q(z|x) = N(x, s^2), of the first D numbers of x."""

    def __init__(self, scale: float, dims: int) -> None:
        super().__init__()
        self.scale, self.dims = scale, dims

    def forward(self, x, context=None):  # type: ignore[no-untyped-def]
        loc = x[:, : self.dims]
        return Independent(Normal(loc, torch.full_like(loc, self.scale)), 1)


def model_of(dims: int, scale: float) -> taut.VAE:
    return taut.LinearGaussian(dims, dims).model(_Known(scale, dims))


def test_the_gap_by_densities_of_a_sharp_code_is_one_and_has_no_bins() -> None:
    values = grid(40, 3)
    found = d.mig_density(model_of(2, 1e-3), torch.tensor(values), factors_of(values))
    assert found is not None
    assert found.value == pytest.approx(1, abs=1e-12)
    assert found.ceiling == pytest.approx(1, abs=1e-12)
    assert d.mig(values, factors_of(values)).mean() < 0.91


def test_the_information_by_densities_is_that_of_a_mixture() -> None:
    """One dimension, two levels at -1 and 1 with scale 1: I by quadrature; 5 standard errors."""
    v = np.repeat([-1.0, 1.0], 1500)
    found = d.mig_density(model_of(1, 1.0), torch.tensor(v[:, None]), Factors.of({"v": v}))
    assert found is not None
    assert found.error
    assert found.value
    z = torch.linspace(-12, 12, 4001)
    a, b = (Normal(m, 1.0).log_prob(z) for m in (-1.0, 1.0))
    both = torch.logaddexp(a, b) - math.log(2)
    exact = float((a.exp() * (a - both)).sum() * (z[1] - z[0])) / math.log(2)
    assert abs(found.value - exact) < 5 * found.error


def test_shuffled_rows_have_no_gap_by_densities() -> None:
    values = np.repeat(grid(4, 3), 40, 0)
    found = d.mig_density(model_of(2, 0.3), torch.tensor(values), factors_of(values))
    assert found is not None
    assert found.chance is not None
    assert 0 <= found.chance < 0.05 < 0.8 < (found.value or 0)


# --- Without factors ------------------------------------------------------------------------------


def test_the_ranking_is_one_under_permutation_and_sign() -> None:
    z = np.random.default_rng(2).normal(size=(500, 4))
    np.testing.assert_allclose(np.abs(d._spearman(z, z)).diagonal(), 1, atol=1e-12)
    orthogonal = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], float)
    found = d.udr([orthogonal, -orthogonal[:, [2, 0, 1]], orthogonal[:, [1, 0, 2]]])
    np.testing.assert_allclose(found, 1.0, rtol=0, atol=1e-12)


def test_a_weaker_agreement_is_its_correlation() -> None:
    """Ranks with a correlation of .8: swapped neighbours of 4, and an unrelated second one."""
    a = np.array([1.0, 2, 3, 4])
    b = np.array([2.0, 1, 4, 3])  # Spearman: 1 - 6 * 4 / 60 = .6
    assert d.udr([a[:, None], b[:, None]])[0] == pytest.approx(0.6, abs=1e-12)
    c = np.array([1.0, 2, 4, 3])  # 1 - 6 * 2 / 60 = .8
    assert d.udr([a[:, None], c[:, None]])[0] == pytest.approx(0.8, abs=1e-12)


def test_uninformative_dimensions_take_no_part_in_the_ranking() -> None:
    z = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], float)
    rates = [np.array([1.0, 1.0, 0.001]), np.array([1.0, 0.001, 1.0])]
    one = d.udr([z, z[:, [0, 2, 1]]], rates)
    np.testing.assert_allclose(one, 1.0, rtol=0, atol=1e-12)
    assert d.udr([z, z], [rates[0], 0 * rates[0]])[0] == 0


def test_a_ranking_by_lasso_knows_a_permutation() -> None:
    """A Lasso shrinks a coefficient of standardized columns by its penalty, .01."""
    z = np.random.default_rng(3).normal(size=(2000, 3))
    assert d.udr([z, z[:, [1, 2, 0]]], linear=True)[0] == pytest.approx(0.99, abs=1e-3)


def test_total_correlation_of_a_gaussian() -> None:
    s = torch.tensor([[2.0, 0.6, 0.0], [0.6, 1.0, 0.0], [0.0, 0.0, 5.0]])
    exact = -0.5 * math.log(1 - 0.36 / 2)
    assert d.gaussian_correlation(s) == pytest.approx(exact, abs=1e-12)
    assert d.gaussian_correlation(torch.diag(s.diagonal())) == pytest.approx(0, abs=1e-12)


def test_the_parts_of_the_rate_add_up_to_it() -> None:
    model, x = model_of(2, 0.7), torch.randn(300, 2) @ torch.tensor([[1.0, 0.8], [0.0, 0.6]])
    found = d.decomposition(model, x)
    parts = sum(
        found[name]["value"] for name in ("information", "total_correlation", "dimension_wise_kl")
    )
    assert parts == pytest.approx(found["rate"]["value"], abs=1e-9)
    assert sum(found["by_dimension"]) == pytest.approx(
        found["dimension_wise_kl"]["value"], abs=1e-9
    )


# --- Errors ---------------------------------------------------------------------------------------


def test_the_error_is_the_spread_over_data_sets() -> None:
    """Of 10 halves the error has a spread of a quarter; over 8 data sets, within a half of it."""
    rng, values, errors = np.random.default_rng(5), [], []
    for _ in range(8):
        v = rng.integers(0, 4, (400, 2)).astype(float)
        codes = v + rng.normal(size=v.shape)
        factors = factors_of(v)
        halves = [rng.permutation(400)[:200] for _ in range(10)]
        values.append(d.sap(codes, factors).mean())
        errors.append(d._spread([d.sap(codes[h], factors[h]).mean() for h in halves]))
    assert 0.4 < np.mean(errors) / np.std(values, ddof=1) < 2.5


# --- Factors --------------------------------------------------------------------------------------


def test_the_error_of_a_maximum_holds_the_truth() -> None:
    """Of 150 data sets at least 122 are within two errors of the mean of all: fewer of those whose
    share is .93 are there with a probability of 1e-6. By the spread over halves alone it was .75
    of 1,000 rows.
    """
    noise, found = np.random.default_rng(0), []
    for _ in range(150):
        values = np.stack([noise.integers(0, 5, 500), noise.integers(0, 3, 500)], 1)
        away = noise.normal(size=(500, 3)) * [0.7, 0.35, 1.0]
        codes = away + np.column_stack([values @ [[1.0, 0.5], [0.0, 1.0]], np.zeros(500)])
        factors = factors_of(values.astype(float))
        halves = [noise.permutation(500)[:250] for _ in range(d.REPEATS)]
        value, error = d.irs(codes, factors), d._of_largest(codes, factors, halves, 0.0)
        found.append((value, error))
    value, error = np.array(found).T
    assert (np.abs(value - value.mean()) < 2 * error).sum() >= 122
    assert np.median(error) < 2 * value.std()  # and no error is one that holds everything


def test_votes_that_are_all_right_have_an_error() -> None:
    """Of 804 votes, two of them wrong; of data sets of a share of .9995 it was 0 for many."""
    values = np.repeat(grid(4, 3), 10, 0)
    for name in ("factor_vae", "beta_vae"):
        score = by_name(values, factors_of(values))[name]
        assert score.value == 1
        assert score.error == pytest.approx(math.sqrt(2 / 804 * 802 / 804 / 804))


def test_factors_are_ordered_where_they_are_numbers() -> None:
    found = Factors.of({"a": [3, 1, 1], "b": ["x", "y", None], "c": [True, False, True]})
    assert found.names == ("a", "b", "c")
    assert found.ordered == (True, False, False)
    assert found.levels.tolist() == [[1, 0, 1], [0, 1, 0], [0, -1, 1]]
    assert found.known.tolist() == [True, True, False]


def test_many_numbers_are_cut_into_20_levels_of_equal_count() -> None:
    found = Factors.of({"size": np.arange(1000) / 7})
    assert np.bincount(found.levels[:, 0]).tolist() == [50] * 20
    assert "1000 different numbers" in found.notes[0]
    far = Factors.of({"size": [-np.inf, np.inf, *range(98)]})
    assert np.bincount(far.levels[:, 0]).tolist() == [5] * 20


def test_large_integers_are_told_apart_though_no_float_does() -> None:
    assert Factors.of({"id": [2**62, 2**62 + 1, 2**62]}).levels[:, 0].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"a": [1, 1, 1]}, "is the same in every row"),
        ({"a": [str(i) for i in range(60)]}, "60 different texts"),
        ({"a": [1, 2], "b": [1, 2, 3]}, "different numbers of rows"),
        ({"a": np.zeros((3, 2))}, "one value a row"),
        ({"a": []}, "factor a has no rows"),
    ],
)
def test_what_is_not_a_factor_is_refused(columns: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Factors.of(columns)


def test_a_file_of_factors_is_put_in_the_order_of_the_images(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("file,kind\nb.png,1\na.png,0\nc.png,2\n")
    found = read_columns(tmp_path / "f.csv", ["a.png", "c.png"])
    assert found["kind"].tolist() == [0, 2]
    with pytest.raises(DataError, match=r"no line for d\.png"):
        read_columns(tmp_path / "f.csv", ["d.png"])
    # two of one name in two folders were given the line of the last
    (tmp_path / "g.csv").write_text("file,kind\na/1.png,1\nb/1.png,0\n")
    assert read_columns(tmp_path / "g.csv", ["b/1.png", "a/1.png"])["kind"].tolist() == [0, 1]
    for names, words in (
        (["c/1.png", "d/1.png"], r"several rows are called 1\.png, in other folders"),
        (["c/1.png"], r"more than one line for 1\.png; keep one of each"),
    ):
        with pytest.raises(DataError, match=words):
            read_columns(tmp_path / "g.csv", names)
    (tmp_path / "g.csv").write_bytes(b"\xe9,a\n1,2\n")
    with pytest.raises(DataError, match="its header is not UTF-8"):
        read_columns(tmp_path / "g.csv")
    (tmp_path / "g.csv").unlink()
    with pytest.raises(UsageError, match="a table"):
        read_columns(tmp_path / "f.json")
    with pytest.raises(UsageError, match=r"g\.csv: no such file"):
        read_columns(tmp_path / "g.csv")
    (tmp_path / "f.csv").write_text("kind,kind\n1,2\n0,1\n")
    with pytest.raises(DataError, match="kind names more than one column"):
        read_columns(tmp_path / "f.csv")


def test_columns_are_found_by_name() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"kind": ["a", None, "b"], "n": [1.0, 2.0, float("nan")]})
    assert Factors.of(chosen(frame, ["kind", "n"], "obs")).levels.tolist() == [
        [0, 0],
        [-1, 1],
        [1, -1],
    ]
    with pytest.raises(UsageError, match="obs has no column knd; did you mean 'kind'"):
        chosen(frame, ["knd"], "obs")
    twice = pandas.DataFrame([[1, 2, 3]], columns=["kind", "n", "n"])
    assert list(chosen(twice, ["kind"], "obs")) == ["kind"]
    with pytest.raises(DataError, match="obs: n names more than one column"):
        chosen(twice, ["n"], "obs")


# --- The command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bars at a place and of a length, their factors, and two runs of them."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    path = tmp_path_factory.mktemp("bars")
    rng = np.random.default_rng(0)
    place, length = rng.integers(0, 4, 300), rng.integers(1, 5, 300)
    images = np.zeros((300, 4, 4), np.uint8)
    for image, p, n in zip(images, place, length, strict=True):
        image[p, :n] = 1
    np.save(path / "bars.npy", images)
    lines = [f"{p},{n}" for p, n in zip(place, length, strict=True)]
    (path / "bars.csv").write_text("\n".join(["place,length", *lines]))
    for seed in (0, 1):
        options = ["--latent-dim", "2", "--max-epochs", "30", "--threads", "1", "--seed", seed]
        done = run("fit", path / "bars.npy", *options, "--out", path / f"run-{seed}")
        assert done.exit_code == 0, done.stderr
    torch.set_default_dtype(before)
    return path


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.set_default_dtype(torch.float64)


def test_the_command_prints_each_score_beside_its_ends(folder: Path) -> None:
    options = ("--factors", folder / "bars.csv", "--with", folder / "run-1")
    done = run("disentangle", folder / "run-0", *options)
    assert done.exit_code == 0, done.stderr
    assert "factors and their levels: place (4), length (4)" in done.stdout
    for words in ("ceiling", "chance", "MIG, by densities", "DCI completeness", "IRS", "UDR"):
        assert words in done.stdout
    found = json.loads(run("disentangle", folder / "run-0", *options, "--json").stdout)
    assert found["num_data"] == 300
    assert set(found["scores"]) == {
        *("mig", "mig_density", "sap", "dci_disentanglement", "dci_completeness"),
        *("dci_informativeness", "factor_vae", "beta_vae", "modularity", "irs"),
    }
    informed = found["scores"]["dci_informativeness"]
    assert informed["value"] > informed["chance"] + 4 * informed["error"]
    assert 0 < found["udr"] <= 1
    parts = found["parts"]
    assert parts["rate"]["value"] == pytest.approx(
        sum(parts[k]["value"] for k in ("information", "total_correlation", "dimension_wise_kl"))
    )


def test_python_gives_the_numbers_of_the_command(folder: Path) -> None:
    printed = run("disentangle", folder / "run-0", "--factors", folder / "bars.csv", "--json")
    loaded = taut.load(folder / "run-0")
    found = loaded.disentangle(folder / "bars.npy", folder / "bars.csv")
    assert found.to_dict() == json.loads(printed.stdout)
    values = np.loadtxt(folder / "bars.csv", delimiter=",", skiprows=1)
    by_name = {"place": values[:, 0], "length": values[:, 1]}
    few = [loaded.disentangle(None, f, num_data=60) for f in (by_name, folder / "bars.csv")]
    assert few[0].to_dict() == few[1].to_dict()


def test_factors_of_another_number_of_rows_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "few.csv").write_text("a\n1\n2\n")
    done = run("disentangle", folder / "run-0", "--factors", tmp_path / "few.csv")
    assert done.exit_code == 3
    assert "factors of 2 rows, and 300 rows of data" in done.stderr
    done = run("disentangle", folder / "run-0", "--factors", "place")
    assert done.exit_code == 2
    assert "no columns" in done.stderr
