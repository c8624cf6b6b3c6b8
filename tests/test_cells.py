"""Cells and genes keep their names in every output, and counts are modelled given obs columns."""

from __future__ import annotations

import gzip
import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import pytest
import torch
from scipy import io, sparse
from typer.testing import CliRunner, Result

import taut
from taut.cli.app import app
from taut.data import check_against, prepare
from taut.data.schema import Schema, told_apart
from taut.features import ColumnFeatures, Split, Totals
from taut.system.errors import DataError, UsageError
from taut.use import tasks

CELLS, GENES = 90, 5
pytestmark = pytest.mark.filterwarnings("ignore:Variable names are not unique")
QUICK = [
    "--latent-dim", "2", "--encoder", "MLP(hidden=(8,))", "--decoder", "MLP(hidden=(8,))",
    "--max-epochs", "2", "--batch-size", "16", "--num-samples", "20", "--threads", "1",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _single_precision() -> Iterator[None]:
    before = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before[0])
    torch.set_num_threads(before[1])


@pytest.fixture(autouse=True)
def _float32(_seeded: None) -> None:
    torch.set_default_dtype(torch.float32)


def cells() -> anndata.AnnData:
    """Counts of cells from three batches, with names, an age and a plate number."""
    rng = np.random.default_rng(0)
    batch = np.array(["late", "early", "mid"])[np.arange(CELLS) % 3]
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical(batch, ["early", "mid", "late", "never"]),
            "age": rng.normal(size=CELLS),
            "plate": np.arange(CELLS) % 2,
            "donor": ["d1"] * CELLS,
            "endless": [math.inf, *[1.0] * (CELLS - 1)],
        },
        index=[f"cell-{i}" for i in range(CELLS)],
    )
    obs["partly"] = obs["batch"].where(np.arange(CELLS) > 3)
    var = pd.DataFrame({"chromosome": list("11223")}, index=["A", "B", "C", "B", "E"])
    mean = 3 + 5 * (batch == "late")[:, None]
    counts = rng.poisson(mean * rng.gamma(4, 0.25, (CELLS, GENES))).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one name repeats
        return anndata.AnnData(sparse.csr_matrix(counts), obs, var)


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def line(*arguments: object) -> str:
    """Returns the one line with which a command is refused."""
    result = run(*arguments)
    assert result.exit_code in (1, 2), result.output
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of cells, and runs given nothing, the batch, and the batch and the total."""
    torch.set_default_dtype(torch.float32)
    path = tmp_path_factory.mktemp("cells")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells().write_h5ad(path / "cells.h5ad")
    library = ["--likelihood", "NegativeBinomial(library=True)"]
    for name, more in (
        ("plain", []),
        ("batch", ["--condition", "batch"]),
        ("both", ["--condition", "batch", "--condition", "plate", *library]),
    ):
        done = run("fit", path / "cells.h5ad", *QUICK, *more, "--out", path / name)
        assert done.exit_code == 0, done.stderr
    return path


# -- The context


def test_the_context_is_the_log_total_and_the_levels_one_hot() -> None:
    torch.set_default_dtype(torch.float64)
    zeros, ones = torch.zeros(2), torch.ones(2)
    features = ColumnFeatures([2, 3], ["none", "none"], zeros, ones)
    rule = Split([3, 4], 5, features, Totals(4.0))
    x = torch.tensor([[1.0, 2.0, 5.0, 1.0, 0.0], [0.0, 0.0, 2.0, 0.0, 2.0]])
    rest, context = rule(x)
    torch.testing.assert_close(rest, x[:, :3], rtol=0, atol=0)
    expected = torch.tensor([[np.log(8 / 4), 0, 1, 1, 0, 0], [np.log(2 / 4), 1, 0, 0, 0, 1]])
    torch.testing.assert_close(context, expected, rtol=0, atol=1e-15)
    given = torch.tensor([[1.0, 0.0, 8.0], [0.0, 2.0, 2.0]])  # as a user gives it, the total last
    torch.testing.assert_close(rule.context(given), expected, rtol=0, atol=1e-15)
    torch.testing.assert_close(rule.join(x, rest + 1), x + torch.tensor([1.0, 1, 1, 0, 0]))


@pytest.mark.parametrize("name", ["batch", "both"])
def test_log_p_is_that_of_the_counts_given_the_levels(folder: Path, name: str) -> None:
    run_, adata = taut.load(folder / name), cells()
    model = run_.model.double()
    counts = torch.from_numpy(adata.X.toarray()).double()
    codes = np.array([["early", "mid", "late"].index(b) for b in adata.obs["batch"]])
    context = torch.nn.functional.one_hot(torch.from_numpy(codes), 3).double()
    if name == "both":
        plates = torch.from_numpy(adata.obs["plate"].to_numpy())
        total = (counts.sum(1).clamp(min=0.5) / model.condition.totals.mean_total).log()
        plates = torch.nn.functional.one_hot(plates, 2).double()
        context = torch.cat([total[:, None], context, plates], 1)
    rows = check_against(adata, run_.schema).rows[torch.arange(CELLS)].double()
    with torch.no_grad():
        draw = model.draw(rows, 3, reparameterize=False)
        own = model.likelihood(draw.z, context).log_prob(counts)
        q = model.posterior(counts, context).log_prob(draw.z)
    torch.testing.assert_close(draw.log_likelihood, own, rtol=0, atol=1e-10)
    torch.testing.assert_close(draw.log_posterior, q, rtol=0, atol=1e-10)


def test_levels_are_those_that_occur_in_the_order_of_the_categories(folder: Path) -> None:
    schema = taut.load(folder / "both").schema
    assert (schema.condition, schema.rest) == (("batch", "plate"), [0, 1, 2, 3, 4])
    assert [c.levels for c in schema.context] == [("early", "mid", "late"), ("0", "1")]
    assert Schema.from_dict(schema.to_dict()) == schema
    assert schema.describe() == f"5 columns, counts 0..{cells().X.max():g}"


def test_the_baseline_and_the_split_are_of_the_counts(folder: Path) -> None:
    """The baseline knows nothing of the batch: it is that of the model without a condition, where
    the rows are the same.
    """
    from taut.evidence.baseline import independent_marginals

    plain, given = (prepare(cells(), condition=c) for c in ((), ("batch",)))
    both = plain.train[torch.arange(len(plain.train))], given.train[torch.arange(len(given.train))]
    assert both[1].shape[1] == both[0].shape[1] + 1
    rows = sorted(map(tuple, torch.cat([both[1][:, :5]]).tolist()))
    assert len(rows) == len(both[0])
    alone = independent_marginals(given, given.train)
    coded = given.train[torch.arange(len(given.train))].clone()
    coded[:, 5] = 0
    torch.testing.assert_close(alone, independent_marginals(given, coded), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("bach", r"obs has no column bach; did you mean 'batch'\?; there are batch, age, plate"),
        ("age", r"obs column age holds numbers, and --condition takes levels: cut them into a few"),
        ("endless", r"obs column endless holds numbers, and --condition takes levels"),
        ("donor", r"every cell has donor = d1: there is nothing to condition on"),
        ("partly", r"4 of 90 cells have no partly: fill it in obs, or omit these cells"),
    ],
)
def test_a_column_that_cannot_be_given_is_one_line(folder: Path, column: str, message: str) -> None:
    with pytest.raises((UsageError, DataError), match=message):
        prepare(cells(), condition=(column,))
    with pytest.raises((UsageError, DataError), match=message):
        prepare(folder / "cells.h5ad", condition=(column,))


def test_a_condition_needs_columns_with_names() -> None:
    counts = cells().X
    with pytest.raises(UsageError, match=r"--condition needs obs of an \.h5ad"):
        prepare(counts, condition=("batch",))
    with pytest.raises(UsageError, match=r"--condition is for tables with named columns"):
        prepare(counts.toarray(), condition=("batch",))


def test_new_cells_need_the_column_and_known_levels(folder: Path) -> None:
    schema, adata = taut.load(folder / "batch").schema, cells()
    strange = adata[:7].copy()
    strange.obs["batch"] = ["early"] * 5 + ["X", "Y"]
    with pytest.raises(
        DataError,
        match=r"2 cells have a batch never seen in training \(X, Y\); known are early, mid, late",
    ):
        check_against(strange, schema)
    del strange.obs["batch"]
    with pytest.raises(UsageError, match="obs has no column batch; there are age, plate"):
        check_against(strange, schema)
    with pytest.raises(UsageError, match="--condition needs obs"):
        check_against(adata.X, schema)
    few = check_against(adata[:3], schema)
    assert few.rows[torch.arange(3)][:, 5].tolist() == [2, 0, 1]


def test_genes_in_another_order_are_refused(folder: Path) -> None:
    run_, adata = taut.load(folder / "plain"), cells()
    with pytest.raises(DataError, match=r"in another order: column 0 \(from 0\) is E, and was A"):
        run_.encode(adata[:, ::-1].copy())
    adata.var_names = ["A", "B", "C", "B", "other"]
    with pytest.raises(DataError, match=r"are others \(1 differ\): column 4"):
        run_.encode(adata)


# -- Names


def test_names_that_repeat_have_a_number() -> None:
    assert told_apart(["a", "b", "a", "a", "a-1", "b"]) == ("a", "b", "a-2", "a-3", "a-1", "b-1")
    assert len(set(told_apart(["x"] * 50 + ["x-7"]))) == 51


@pytest.mark.parametrize("name", ["plain", "batch"])
def test_h5ad_out_is_what_python_gives(folder: Path, name: str, tmp_path: Path) -> None:
    loaded, adata = taut.load(folder / name), cells()
    files = {"encode": [], "score": ["--num-samples", "500"], "reconstruct": []}
    made = {}
    for command, more in files.items():
        out = tmp_path / f"{command}.h5ad"
        done = run(command, folder / name, folder / "cells.h5ad", "--out", out, *more)
        assert done.exit_code == 0, done.stderr
        made[command] = anndata.read_h5ad(out)
    own = {command: getattr(loaded, command)(adata) for command in files}
    for each in made.values():
        assert each.obs_names.equals(adata.obs_names)
        assert each.var["chromosome"].tolist() == list("11223")
        assert (each.obs["batch"] == adata.obs["batch"]).all()
        assert np.array_equal(each.X.toarray(), adata.X.toarray())
    assert np.array_equal(made["encode"].obsm["X_taut"], own["encode"].obsm["X_taut"])
    assert np.array_equal(made["reconstruct"].layers["taut"], own["reconstruct"].layers["taut"])
    columns = [column for column in own["score"].obs if column.startswith("taut_")]
    assert columns[:2] == ["taut_log_evidence", "taut_log_evidence_error"]
    for column in columns:
        assert (made["score"].obs[column].astype(str) == own["score"].obs[column].astype(str)).all()


def test_rows_and_columns_of_tables_have_names(folder: Path, tmp_path: Path) -> None:
    names = [f"cell-{i}" for i in range(CELLS)]
    for command in ("encode", "score", "reconstruct"):
        out = tmp_path / f"{command}.csv"
        run(command, folder / "batch", folder / "cells.h5ad", "--out", out)
        table = pd.read_csv(out)
        assert table.columns[0] == "cell"
        assert table["cell"].tolist() == names
    assert table.columns[1:].tolist() == ["A", "B", "C", "B-1", "E"]
    out = tmp_path / "score.parquet"
    run("score", folder / "plain", folder / "cells.h5ad", "--cells", "--out", out)
    held = parquet.read_table(out)
    assert held.column("cell").to_pylist() == names
    assert "log_p(B-1)" in held.column_names


def test_the_rows_that_were_held_out_have_their_names(folder: Path, tmp_path: Path) -> None:
    adata = cells()
    done = run("encode", folder / "batch", "--out", tmp_path / "z.h5ad")
    assert done.exit_code == 0, done.stderr
    held = anndata.read_h5ad(tmp_path / "z.h5ad")
    assert 0 < held.n_obs < CELLS
    same = adata[held.obs_names]
    assert np.array_equal(held.X.toarray(), same.X.toarray())
    assert held.obs["batch"].tolist() == same.obs["batch"].tolist()
    assert held.var_names.tolist() == ["A", "B", "C", "B-1", "E"]
    own = taut.load(folder / "batch").encode(same.copy()).obsm["X_taut"]
    np.testing.assert_allclose(held.obsm["X_taut"], own, atol=1e-5)  # other blocks: rounding


def test_samples_are_given_a_level_and_have_the_names_of_the_genes(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new.h5ad"
    done = run("sample", folder / "batch", "--given", "batch=late", "--out", out)
    assert done.exit_code == 0, done.stderr
    made = anndata.read_h5ad(out)
    assert (made.shape, made.var_names.tolist()) == ((64, 5), ["A", "B", "C", "B-1", "E"])
    assert set(made.obs["batch"]) == {"late"}
    own = taut.load(folder / "batch").sample(64, given={"batch": "late"})
    assert np.array_equal(made.X.toarray(), own)
    said = line("sample", folder / "batch", "--given", "batch=lat", "--out", tmp_path / "b.csv")
    assert "no such level; did you mean 'late'?; known are early, mid, late" in said
    said = line("sample", folder / "both", "--given", "batch=late", "--out", tmp_path / "b.csv")
    assert "conditioned on batch, plate, total: give exactly that" in said
    given = [word for text in ("total=50", "plate=1", "batch=mid") for word in ("--given", text)]
    assert run("sample", folder / "both", *given, "--out", tmp_path / "c.csv").exit_code == 0
    assert pd.read_csv(tmp_path / "c.csv").columns.tolist() == ["A", "B", "C", "B-1", "E"]


def test_the_total_is_given_next_to_the_levels(folder: Path) -> None:
    loaded = taut.load(folder / "both")
    given = [torch.tensor([[1.0, 1.0, total]]) for total in (10.0, 100.0)]
    few, many = (tasks.context_of(loaded.model, values) for values in given)
    torch.testing.assert_close(many[:, 1:], few[:, 1:], rtol=0, atol=0)
    assert float(many[0, 0] - few[0, 0]) == pytest.approx(np.log(10), abs=1e-6)
    made = loaded.sample(5, given={"batch": "mid", "plate": 1, "total": 100})
    assert made.shape == (5, 5)


def test_counts_are_not_imputed(folder: Path) -> None:
    said = line("impute", folder / "plain", folder / "cells.h5ad")
    assert said == (
        "taut: counts have no missing entries: there is nothing to impute; reconstruct smooths "
        "them\n"
    )


def test_a_table_is_not_written_as_h5ad(tmp_path: Path) -> None:
    pd.DataFrame(np.random.default_rng(0).normal(size=(40, 3))).to_csv(tmp_path / "t.csv")
    done = run("fit", tmp_path / "t.csv", *QUICK, "--out", tmp_path / "table")
    assert done.exit_code == 0
    assert ".h5ad" in line("encode", tmp_path / "table", "--out", tmp_path / "z.h5ad")


# -- 10x


def ten_x(path: Path, adata: anndata.AnnData) -> Path:
    """Writes cells as 10x does: a file, or a folder with a matrix and two lists."""
    matrix = sparse.csc_matrix(adata.X.T)
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            group = file.create_group("matrix")
            for name in ("data", "indices", "indptr"):
                group[name] = getattr(matrix, name)
            group["shape"] = matrix.shape
            group["barcodes"] = np.array(list(adata.obs_names), "S")
            group["features/name"] = np.array(list(adata.var_names), "S")
        return path
    path.mkdir()
    io.mmwrite(path / "matrix.mtx", matrix.astype(np.int64), field="integer")
    (path / "barcodes.tsv").write_text("\n".join(adata.obs_names) + "\n")
    features = [f"id{i}\t{name}\tGene Expression" for i, name in enumerate(adata.var_names)]
    (path / "features.tsv.gz").write_bytes(gzip.compress("\n".join(features).encode()))
    return path


@pytest.mark.parametrize("name", ["c.h5", "folder"])
def test_names_of_10x_travel(folder: Path, name: str, tmp_path: Path) -> None:
    adata = cells()
    path = ten_x(tmp_path / name, adata)
    found = taut.data.read(path)
    assert found.rows == tuple(adata.obs_names)
    assert found.columns == tuple(adata.var_names)
    done = run("encode", folder / "plain", path, "--out", tmp_path / "z.h5ad")
    assert done.exit_code == 0, done.stderr
    made = anndata.read_h5ad(tmp_path / "z.h5ad")
    assert made.obs_names.tolist() == adata.obs_names.tolist()
    assert np.array_equal(made.X.toarray(), adata.X.toarray())
    assert np.array_equal(
        made.obsm["X_taut"], taut.load(folder / "plain").encode(adata).obsm["X_taut"]
    )


def test_10x_with_another_number_of_names_is_refused(tmp_path: Path) -> None:
    path = ten_x(tmp_path / "folder", cells())
    (path / "barcodes.tsv").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"barcodes.tsv: names 2 cells, and the matrix has 90"):
        taut.data.read(path)


def test_without_a_total_samples_have_the_mean_total_of_the_training(folder: Path) -> None:
    loaded = taut.load(folder / "both")
    mean = float(loaded.model.condition.totals.mean_total)
    levels = {"batch": "mid", "plate": 1}
    own, same = loaded.sample(5, given=levels), loaded.sample(5, given=levels | {"total": mean})
    assert np.array_equal(own, same)
