"""What latent dimensions mean: traversals and the Jacobian by closed forms, and the pictures."""

from __future__ import annotations

import base64
import dataclasses
import errno
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from explored import Umap
from instances import make_models
from sklearn.decomposition import PCA
from test_cells import run
from torch import Tensor

import taut
from taut.build.config import Config
from taut.data import New, Schema
from taut.evidence.audit import Effort
from taut.report import latent as figures
from taut.runs import audit as audit_room
from taut.runs import meaning
from taut.runs.fitted import Fitted
from taut.runs.meaning import jacobian, traversal
from taut.system import storage
from taut.system.errors import UsageError


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.set_default_dtype(torch.float64)


def fitted_of(model: taut.Model) -> Fitted:
    schema = Schema("real", (5,), -9.0, 9.0)
    return Fitted(model=model, schema=schema, config=Config(), objective=taut.ELBO())


def linear() -> tuple[Any, Tensor, New]:
    """Returns a linear-Gaussian model as a run, its matrix, and rows."""
    torch.manual_seed(0)
    problem = taut.LinearGaussian(5, 3)
    x = problem.sample(200)
    encoder = taut.DiagonalNormal((5,), 3, taut.Linear)
    return fitted_of(problem.model(encoder)), problem.likelihood.weight, New(x, ())


# --- The Jacobian ---------------------------------------------------------------------------------


def test_the_jacobian_of_a_linear_decoder_is_its_matrix() -> None:
    fitted, weight, new = linear()
    torch.testing.assert_close(jacobian(fitted, new), weight.T.data, rtol=0, atol=1e-12)


def test_the_jacobian_of_a_network_is_that_of_differences() -> None:
    _, _, new = linear()
    likelihood = taut.Bernoulli((5,), 2, taut.MLP)
    encoder = taut.DiagonalNormal((5,), 2, taut.Linear)
    model = taut.VAE(taut.StandardNormal(2), likelihood, encoder)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    found = jacobian(fitted_of(model.eval()), new)
    with torch.no_grad():
        z = model.point(new.rows)
        for j, step in enumerate(1e-5 * torch.eye(2)):
            both = [model.decode((z + s * step)[None]).mean[0] for s in (1, -1)]
            slope = ((both[0] - both[1]) / 2e-5).mean(0)
            torch.testing.assert_close(found[j], slope, rtol=0, atol=1e-8)


# --- Traversals -----------------------------------------------------------------------------------


def test_a_traversal_moves_one_dimension_between_quantiles_and_keeps_the_others() -> None:
    fitted, weight, new = linear()
    found = traversal(fitted, new, dimensions=[2, 0], steps=5)
    z, means, rates, _, _ = meaning.encoded(fitted.model, new.rows, None, 0)
    for i, dimension in enumerate((2, 0)):
        ends = torch.quantile(z[:, dimension], torch.tensor([0.025, 0.975]))
        torch.testing.assert_close(found.places[i, [0, -1]], ends, rtol=0, atol=1e-12)
        steps = found.places[i].diff()
        torch.testing.assert_close(steps, steps[:1].expand(4), rtol=0, atol=1e-12)
        point = means.mean(0).repeat(5, 1)
        point[:, dimension] = found.places[i]
        by_hand = point @ weight.T.data + fitted.model.likelihood.bias.data
        torch.testing.assert_close(found.values[i], by_hand, rtol=0, atol=1e-12)
    assert found.rates == pytest.approx(rates.mean(0)[[2, 0]].tolist())
    torch.testing.assert_close(found.spread, new.rows.std(0, correction=0), rtol=0, atol=1e-12)


def test_dimensions_are_told_in_the_order_of_their_rates_without_dead_ones() -> None:
    fitted, _, new = linear()
    network = fitted.model.posterior.encoder.map
    with torch.no_grad():  # q(z_1|x) = p(z_1)
        for row in (1, 4):
            network.weight[row] = 0
            network.bias[row] = 0
        q = fitted.model.encode(new.rows)
    assert torch.allclose(q.mean[:, 1], torch.zeros(200))
    found = traversal(fitted, new)
    rates = meaning.encoded(fitted.model, new.rows, None, 0)[2].mean(0)
    order = rates.argsort(descending=True).tolist()
    assert list(found.dimensions) == [d for d in order if rates[d] >= 0.01]
    assert found.rates is not None
    assert list(found.rates) == sorted(found.rates, reverse=True)


def test_dimensions_that_there_are_not_are_refused() -> None:
    fitted, _, new = linear()
    for dimensions in ([3], []):
        with pytest.raises(UsageError, match="numbered from 0 to 2"):
            traversal(fitted, new, dimensions=dimensions, steps=5)
    with pytest.raises(UsageError, match="steps: expected at least 2, not 1"):
        traversal(fitted, new, dimensions=[0], steps=1)
    exact = fitted_of(taut.FactorAnalysis((5,), latent_dim=2))
    with pytest.raises(UsageError, match="no latent vector"):
        traversal(exact, new)


def test_categories_have_no_traversal() -> None:
    problem, rows = taut.BinaryLatents(5, 2), New(torch.zeros(50, 5), ())
    for act in (traversal, jacobian):
        with pytest.raises(UsageError, match="draw a map instead"):
            act(fitted_of(problem.model()), rows)


def test_gaps_do_not_count_in_the_spread_of_a_column() -> None:
    x = torch.tensor([[1.0, math.nan], [3.0, 4.0], [math.nan, 8.0]])
    torch.testing.assert_close(meaning._spread(x), torch.tensor([1.0, 2.0]))


# --- Planes ---------------------------------------------------------------------------------------


def test_principal_components_are_those_of_scikit_learn() -> None:
    means = torch.randn(80, 4) @ torch.randn(4, 4)
    points, axes = meaning.plane(means, None, "pca", None, 0)
    theirs = PCA(2).fit(means.numpy())
    by_hand = theirs.transform(means.numpy())
    np.testing.assert_allclose(np.abs(points), np.abs(by_hand), rtol=0, atol=1e-9)
    assert axes[0] == f"component 1, {100 * theirs.explained_variance_ratio_[0]:.0f} %"


def test_one_latent_dimension_has_no_two_components() -> None:
    with pytest.raises(UsageError, match="need two latent dimensions, and there is one"):
        meaning.plane(torch.randn(9, 1), None, "pca", None, 0)


def test_a_plane_is_of_the_two_highest_rates() -> None:
    means, rates = torch.randn(9, 3), torch.tensor([[0.1, 3.0, 1.0]]).expand(9, -1)
    points, axes = meaning.plane(means, rates, "rates", None, 0)
    np.testing.assert_array_equal(points, means[:, [1, 2]].numpy())
    assert axes == ("z1, 3.00 nats", "z2, 1.00 nats")
    points, _ = meaning.plane(means, rates, "rates", [2, 0], 0)
    np.testing.assert_array_equal(points, means[:, [2, 0]].numpy())
    with pytest.raises(UsageError, match="two latent dimensions"):
        meaning.plane(means, rates, "rates", [2, 3], 0)
    with pytest.raises(UsageError, match="rates, pca or umap"):
        meaning.plane(means, rates, "tsne", None, 0)


def test_umap_is_asked_for_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(UsageError, match=r"pip install 'taut\[umap\]'"):
        meaning.plane(torch.randn(9, 3), None, "umap", None, 0)


def test_umap_places_some_of_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", Umap)
    means = torch.randn(20, 3)
    points, axes = meaning.plane(means, None, "umap", None, 7)
    np.testing.assert_array_equal(points, -means[:, :2].numpy())
    assert axes == ("UMAP 1", "UMAP 2")
    assert Umap.asked == {"n_neighbors": 15, "random_state": 7, "n_jobs": 1}
    monkeypatch.setattr(meaning, "UMAP_ROWS", 5)
    points, axes = meaning.plane(means, None, "umap", None, 7)
    placed = np.flatnonzero(np.isfinite(points).all(1))
    np.testing.assert_array_equal(points[placed], -means[placed, :2].numpy())
    assert len(placed) == 5
    assert np.isnan(points).all(1).sum() == 15
    assert axes == ("UMAP 1, 5 of 20 rows", "UMAP 2")
    assert Umap.asked["n_neighbors"] == 4
    with pytest.raises(UsageError, match="UMAP needs 4 rows, and there are 3"):
        meaning.plane(means[:3], None, "umap", None, 7)


@pytest.mark.slow  # umap-learn compiles itself for half a minute
@pytest.mark.filterwarnings("error::UserWarning", "ignore:Tensorflow not installed")
@pytest.mark.parametrize(("rows", "width"), [(4, 3), (10, 1), (200, 5)])
def test_umap_keeps_neighbours_together(rows: int, width: int) -> None:
    """Of two heaps that lie 50 standard deviations apart each row's nearest one is of its own."""
    half = torch.arange(rows) % 2
    means = torch.randn(rows, width) + 50 * half[:, None]
    points, _ = meaning.plane(means, None, "umap", None, 3)
    np.testing.assert_array_equal(points, meaning.plane(means, None, "umap", None, 3)[0])
    if rows >= 10:
        apart = np.linalg.norm(points[:, None] - points[None], axis=2)
        np.fill_diagonal(apart, np.inf)
        share = (half[apart.argmin(1)] == half).double().mean()
        assert share > 0.9


# --- Figures --------------------------------------------------------------------------------------


def test_a_map_tells_labels_apart_by_shape_and_numbers_by_colour() -> None:
    points = np.random.default_rng(0).normal(size=(40, 2))
    labels = np.array(["a", "b", None, "b"] * 10, object)
    (plane,) = figures.latent_map(points, ("x", "y"), labels, "kind").axes
    drawn = {line.get_gid(): line for line in plane.lines}
    assert {"missing", "rows-0", "rows-1"} <= set(drawn)
    assert len(drawn["rows-0"].get_xdata()) == 20  # the commonest first
    assert drawn["rows-0"].get_label() == "b"
    assert drawn["rows-0"].get_marker() != drawn["rows-1"].get_marker()
    values = np.linspace(0, 1, 40)
    axes = figures.latent_map(points, ("x", "y"), values, "size").axes
    np.testing.assert_allclose(axes[0].collections[0].get_array(), values)
    assert axes[1].get_ylabel() == "size"
    many = np.array([f"l{i}" for i in range(40)], object)
    (plane,) = figures.latent_map(points, ("x", "y"), many, "kind").axes
    assert [line.get_label() for line in plane.lines][-1] == "others"


def test_a_curve_is_drawn_at_its_numbers() -> None:
    def row(beta: float, rate: float, distortion: float) -> dict[str, Any]:
        return {
            "beta": beta,
            "rate": {"value": rate, "test_error": 0.1},
            "distortion": {"value": distortion, "test_error": 0.2},
            "sharpness": {"reconstructions": 0.5 / beta, "samples": 0.4},
        }

    found = {"runs": [row(1, 5.0, 2.0), row(4, 3.0, 4.0)], "decoder": []}
    plane, sharp = figures.curve(found).axes
    assert plane.lines[0].get_xydata().tolist() == [[5.0, 2.0], [3.0, 4.0]]
    assert [text.get_text() for text in plane.texts] == ["1", "4"]
    assert sharp.lines[0].get_xydata().tolist() == [[5.0, 0.5], [3.0, 0.125]]


# --- Runs -----------------------------------------------------------------------------------------


@pytest.fixture
def folder(made: Path) -> Path:
    torch.set_default_dtype(torch.float32)
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with a factor behind a number, a kind and gaps, images, and a run of each."""
    torch.set_default_dtype(torch.float32)
    path = tmp_path_factory.mktemp("meaning")
    rng = np.random.default_rng(0)
    size = rng.normal(size=300)
    weight = np.round(70 + 12 * size + rng.normal(size=300), 1)
    kind = np.where(size + 0.3 * rng.normal(size=300) > 0, "large", "small")
    other = rng.integers(0, 5, 300)
    lines = [
        f"{'?' if i % 9 == 0 else w},{k},{o}"
        for i, (w, k, o) in enumerate(zip(weight, kind, other, strict=True))
    ]
    (path / "t.csv").write_text("\n".join(["weight,kind,other", *lines]))
    options = ["--latent-dim", "2", "--threads", "1", "--max-epochs"]
    table = ["--missing-values", "?", "--model", "VAE()", "--objective", "ELBO()"]
    done = run("fit", path / "t.csv", *table, *options, "60", "--out", path / "table")
    assert done.exit_code == 0, done.stderr
    np.save(path / "i.npy", rng.integers(0, 2, (200, 4, 4)).astype(np.uint8))
    done = run("fit", path / "i.npy", *options, "3", "--out", path / "images")
    assert done.exit_code == 0, done.stderr
    return path


def test_a_traversal_of_a_table_is_in_the_words_of_its_user(folder: Path) -> None:
    found = taut.load(folder / "table").traversal(folder / "t.csv")
    moved = {name: (change, words) for name, change, words in found.moved()[0]}
    assert {"weight", "kind"} <= set(moved)
    change, words = moved["weight"]
    first, last = (float(word) for word in words.split(" → "))
    assert (last - first) * change > 0
    assert abs(last - first) > 15
    assert moved["kind"] == (1.0, "small → large" if last > first else "large → small")
    assert found.figure().axes


@pytest.mark.parametrize("name", ["table", "images"])
@pytest.mark.parametrize("kind", ["map", "traversal", "history"])
def test_each_picture_is_written_by_the_command(
    folder: Path, name: str, kind: str, tmp_path: Path
) -> None:
    target = tmp_path / f"{kind}.svg"
    done = run("picture", folder / name, kind, "--out", target)
    assert done.exit_code == 0, done.stderr
    assert "<svg" in target.read_text()
    again = run("picture", folder / name, kind, "--out", target)
    assert again.exit_code == 2
    assert "exists" in again.stderr


def test_a_picture_that_a_full_disk_refuses_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "history.png"
    target.write_bytes(b"before")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage, "PAUSES", ())
    monkeypatch.setattr("os.fsync", full)
    done = run("picture", folder / "table", "history", "--out", target, "--overwrite")
    assert done.exit_code == 5
    assert "history.png: No space left on device; the file there before is unchanged" in done.stderr
    assert target.read_bytes() == b"before"


LITTLE = Effort(
    **{"num_samples": 20, "num_chains": 2, "max_temperatures": 4, "optimum_steps": 2},
    **{"simulated": 4, "naive": 4, "train": 60, "samples": 12, "task_seconds": 0.01},
)


@pytest.mark.parametrize("name", ["table", "images"])
def test_a_report_shows_the_map_and_the_traversals(folder: Path, name: str, tmp_path: Path) -> None:
    shutil.copytree(folder / name, tmp_path / name)
    audited = taut.load(tmp_path / name)
    audited.audit(num_data=20, effort=LITTLE)
    manifest = storage.read_manifest(audited.path)
    page = (audited.path / "report.html").read_text()
    block = page[page.index('id="section-latents"') :].partition("</section>")[0]
    for picture in ("map.png", "traversal.png"):
        assert picture in manifest
        content = storage.read_checked(audited.path / picture)
        assert base64.b64encode(content).decode() in block
    assert page == audited.report().read_text()  # made again without the data
    # of other weights
    done = run("resume", audited.path, "--max-epochs", "61")
    assert done.exit_code == 0, done.stderr
    assert not {"map.png", "traversal.png", "report.html"} & {
        path.name for path in audited.path.iterdir()
    }


def test_the_map_of_a_report_is_coloured_by_the_labels_that_there_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, seen = taut.load(folder / "images"), []
    monkeypatch.setattr(meaning, "picture", lambda *a, **given: seen.append((a[1], given)) or Drawn)
    x, labels = torch.zeros(3, 4, 4), np.array([7, 8, 9])
    drawn = audit_room._latent_pictures(loaded, x, (np.array([1]), labels), 0)
    assert drawn == {"map.png": b"picture", "traversal.png": b"picture"}
    assert [kind for kind, _ in seen] == ["map", "traversal"]
    assert seen[0][1]["colour"] == {"label": labels}


class Drawn:
    @staticmethod
    def savefig(page: Any, **given: Any) -> None:
        page.write(b"picture")


def test_counts_and_models_without_a_latent_plane_have_no_pictures_in_the_report(
    folder: Path,
) -> None:
    loaded, x = taut.load(folder / "images"), torch.zeros(3, 4, 4)
    tree = dataclasses.replace(loaded, model=make_models()[0])
    assert audit_room._latent_pictures(tree, x, None, 0) == {}
    counts = dataclasses.replace(loaded, schema=Schema("count", (16,), 0.0, 9.0))
    assert audit_room._latent_pictures(counts, x, None, 0) == {}


def test_a_map_is_coloured_by_a_column_whose_gaps_are_known(folder: Path, tmp_path: Path) -> None:
    loaded = taut.load(folder / "table")
    figure = loaded.picture("map", folder / "t.csv", colour="weight")
    shown = figure.axes[0].collections[0].get_array()
    assert len(shown) == 300 - 34
    assert 30 < float(shown.min()) < 70 < float(shown.max()) < 120
    options = ("--colour", "kind", "--by", "pca", "--out", tmp_path / "m.png")
    done = run("picture", folder / "table", "map", folder / "t.csv", *options)
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pie",), "a picture is one of map, traversal, curve, history"),
        (("map", "--colour", "kind"), "give DATA"),
        (("traversal", "--dimensions", "a"), "write it like --dimensions 3,0"),
        (("traversal", "--dimensions", "7"), "numbered from 0 to 1"),
        (("map", "--by", "tsne"), "rates, pca or umap"),
        (("map", "--out", "map.jpg"), "name it .png"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_line(
    folder: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = run("picture", folder / "table", *arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stderr.count("\n") <= 2
