"""What one does with a run in Python: results in the kind of the data, and a sentence for all that
people try and that is something else.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

import taut
from taut.build.config import Config
from taut.cli.use import _assignments
from taut.data.formats import read_table
from taut.runs.fitted import Fitted, new_data
from taut.runs.telling import Telling
from taut.system import html
from taut.system.counting import check_count
from taut.system.errors import DataError, OutOfMemoryError, StorageError, UsageError
from taut.use import tasks

QUICK: dict[str, Any] = {
    "latent_dim": 2,
    "encoder": "MLP(hidden=(8,))",
    "decoder": "MLP(hidden=(8,))",
    "max_epochs": 2,
    "batch_size": 16,
    "num_samples": 20,
    "threads": 1,
}
ROWS = 60


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


def mixed() -> pd.DataFrame:
    """A table with an index, an id, gaps, a category, bits, and numbers of two types."""
    generator = np.random.default_rng(0)
    z = generator.normal(size=ROWS)
    frame = pd.DataFrame(
        {
            "order_id": [f"o{i}" for i in range(ROWS)],
            "height": (170 + 8 * z + generator.normal(size=ROWS)).astype(np.float32),
            "weight": 70 + 9 * z + generator.normal(size=ROWS),
            "colour": pd.Categorical(generator.choice(["red", "green", "blue"], ROWS)),
            "member": generator.random(ROWS) < 0.5,
            "visits": generator.poisson(3, ROWS),
        },
        index=pd.Index([f"r{i}" for i in range(ROWS)], name="row"),
    )
    frame.loc[["r3", "r9"], "weight"] = np.nan
    return frame


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> taut.Run:
    path = tmp_path_factory.mktemp("python") / "run"
    return taut.fit(mixed(), path, objective="ELBO()", **QUICK)


@pytest.fixture(scope="module")
def bits(tmp_path_factory: pytest.TempPathFactory) -> taut.Run:
    x = (np.random.default_rng(0).random((ROWS, 4, 4)) < 0.4).astype(np.uint8)
    return taut.fit(x, tmp_path_factory.mktemp("python") / "bits", **QUICK)


def images() -> np.ndarray:
    return (np.random.default_rng(0).random((ROWS, 4, 4)) < 0.4).astype(np.uint8)


# --- frames in, the same frames out


def test_an_embedding_has_the_index_and_the_ids_of_its_frame(run: taut.Run):
    frame = mixed()
    z = run.encode(frame)
    assert list(z.columns) == ["order_id", "z0", "z1"]
    assert z.index.equals(frame.index)
    assert list(z["order_id"]) == list(frame["order_id"])
    expected = tasks.encode(run.model, new_data(run, frame).rows)
    np.testing.assert_array_equal(z[["z0", "z1"]].to_numpy(), expected.numpy())


@pytest.mark.parametrize("library", ["polars", "arrow"])
def test_other_libraries_get_their_own_frames(run: taut.Run, library: str):
    arrow = pa.Table.from_pandas(mixed(), preserve_index=False)
    frame: Any = pl.from_arrow(arrow) if library == "polars" else arrow
    kind = pl.DataFrame if library == "polars" else pa.Table
    for made in (
        run.encode(frame), run.score(frame, num_samples=50), run.impute(frame, num_samples=20),
        run.reconstruct(frame),
    ):  # fmt: skip
        assert isinstance(made, kind)
        assert list(made["order_id"].to_pylist() if library == "arrow" else made["order_id"]) == [
            f"o{i}" for i in range(ROWS)
        ]


def test_what_is_no_data_of_a_model_gets_no_number() -> None:
    """Grey is not a bit: the formula of a Bernoulli makes a number of it that is no probability."""
    torch.manual_seed(0)
    likelihood = taut.Bernoulli((4,), 2)
    model = taut.VAE(taut.StandardNormal(2), likelihood, taut.DiagonalNormal((4,), 2))
    bits = torch.tensor([[0.0, 1.0, 1.0, 0.0]])
    assert float(taut.importance(model, bits, 20).log_evidence) < 0
    for wrong in (bits / 2, 255 * bits, bits - 1):
        with pytest.raises(UsageError, match=r"outside the support of the likelihood, 0 or 1"):
            taut.importance(model, wrong, 20)
    with pytest.raises(UsageError, match="complex numbers"):
        taut.importance(model, bits + 1j, 20)


def test_gaps_of_texts_are_filled_in_polars(run: taut.Run, tmp_path: Path):
    """Whose texts are views, which Arrow cannot choose between; so are those of its files."""
    colours = mixed()["colour"].astype(object).where(lambda c: c.index != "r5", None)
    frame = pl.DataFrame(mixed().assign(colour=colours))
    path = tmp_path / "gaps.feather"
    frame.write_ipc(path)
    read = read_table(path)[0]
    assert read["colour"].type == pa.large_string()
    for given in (frame, read):
        filled = pl.DataFrame(run.impute(given, num_samples=20))
        assert filled["colour"].null_count() == 0
        assert filled["colour"].to_list()[:5] == list(colours[:5])


def test_gaps_are_filled_and_every_other_cell_stays(run: taut.Run):
    frame = mixed()
    filled = run.impute(frame, num_samples=50)
    pd.testing.assert_series_equal(filled.dtypes, frame.dtypes)
    assert filled.index.equals(frame.index)
    assert not filled.isna().any().any()
    known = frame.notna()
    assert filled.where(known).equals(frame.where(known))
    several = run.impute(frame, num_samples=50, num_imputations=3)
    assert len(several) == 3
    assert len({float(each.loc["r3", "weight"]) for each in several}) == 3


def test_reconstructions_and_samples_are_frames_of_the_same_types(run: taut.Run):
    frame = mixed()
    made = run.reconstruct(frame)
    assert made.index.equals(frame.index)
    assert list(made["order_id"]) == list(frame["order_id"])
    pd.testing.assert_series_equal(made.dtypes, frame.dtypes)
    drawn = run.sample(5)
    assert list(drawn.columns) == list(frame.columns)
    pd.testing.assert_series_equal(drawn.drop(columns="order_id").dtypes, frame.dtypes.iloc[1:])
    assert drawn["order_id"].isna().all()
    pd.testing.assert_frame_equal(drawn, run.sample(5))


def test_scores_are_those_of_importance_and_say_their_method(run: taut.Run):
    frame = mixed()
    scores = run.score(frame, num_samples=500)
    expected = taut.importance(run.model, new_data(run, frame).rows, 500)
    first = (scores["method"] == "importance").to_numpy()
    assert first.sum() > ROWS / 2
    np.testing.assert_array_equal(
        scores["log_evidence"].to_numpy()[first], expected.log_evidence.numpy()[first]
    )
    assert scores["reliable"].dtype == bool
    cells = run.score(frame.iloc[:4], num_samples=50, cells=True)
    assert cells["log_p(weight)"].isna().tolist() == [False, False, False, True]


def test_without_data_it_is_the_rows_that_were_held_out(run: taut.Run):
    assert len(run.encode()) == run.info["rows"]["test"] == 6
    assert len(run.score(num_samples=50)) == 6
    assert not run.impute(num_samples=20).isna().drop(columns="order_id").any().any()
    again = taut.load(run.path)
    with pytest.raises(UsageError, match="was trained on an array in memory"):
        again.encode()


def test_a_columns_order_and_columns_that_are_not_modelled_do_not_matter(run: taut.Run):
    frame = mixed()
    other = frame[["visits", "colour", "height", "member", "weight"]]
    np.testing.assert_array_equal(
        run.encode(other).to_numpy(), run.encode(frame)[["z0", "z1"]].to_numpy()
    )
    assert list(run.reconstruct(other).columns) == [
        "height",
        "weight",
        "colour",
        "member",
        "visits",
    ]


def test_a_table_of_a_file_is_read_as_the_frame_is(run: taut.Run, tmp_path: Path):
    frame = mixed()
    frame.to_parquet(tmp_path / "a.parquet", index=False)
    z = run.encode(tmp_path / "a.parquet")
    assert isinstance(z, pd.DataFrame)
    np.testing.assert_array_equal(z["z0"], run.encode(frame)["z0"])
    # a path may be a str, which has a method of the name index
    pd.testing.assert_frame_equal(run.encode(str(tmp_path / "a.parquet")), z)
    assert len(run.score(str(tmp_path / "a.parquet"))) == ROWS
    filled = run.impute(str(tmp_path / "a.parquet"), num_samples=20)
    assert list(filled.columns) == list(frame.columns)


# --- arrays, tensors, AnnData


def test_arrays_keep_their_shape_and_type(bits: taut.Run):
    x = images()
    assert bits.encode(x).shape == (ROWS, 2)
    drawn = bits.reconstruct(x.reshape(ROWS, 16), draw=True)
    assert (drawn.shape, drawn.dtype) == ((ROWS, 16), np.uint8)
    mean = bits.reconstruct(x)
    assert (mean.shape, mean.dtype) == ((ROWS, 4, 4), np.float32)
    assert 0 < mean.min() < mean.max() < 1
    tensor = torch.from_numpy(x)
    torch.testing.assert_close(bits.encode(tensor), torch.from_numpy(bits.encode(x)))
    assert bits.reconstruct(tensor, draw=True).dtype == torch.uint8
    sample = bits.sample(3)
    assert (sample.shape, sample.dtype) == ((3, 4, 4), np.uint8)
    assert bits.sample(3, mean=True).dtype == np.float32
    scores = bits.score(x, num_samples=50)
    assert scores.dtype.names[:4] == ("log_evidence", "log_evidence_error", "reliable", "method")
    assert scores.log_evidence.shape == (ROWS,)
    assert bits.encode(x, num_samples=7).shape == (ROWS, 7, 2)


def test_gaps_of_an_array_are_filled_in_its_own_type(tmp_path: Path):
    x = np.random.default_rng(0).normal(size=(ROWS, 3))
    run = taut.fit(x, tmp_path / "run", **QUICK)
    holes = x.copy()
    holes[0, 0] = holes[5, 2] = np.nan
    filled = run.impute(holes, num_samples=50)
    assert filled.dtype == np.float64
    known = ~np.isnan(holes)
    np.testing.assert_array_equal(filled[known], x[known])
    assert np.isfinite(filled).all()
    again = run.impute(torch.from_numpy(holes), num_samples=50)
    np.testing.assert_array_equal(again.numpy(), filled)


def test_an_anndata_comes_back_as_a_copy_with_obsm_obs_and_a_layer(tmp_path: Path):
    anndata = pytest.importorskip("anndata")
    counts = np.random.default_rng(0).poisson(2, (ROWS, 5)).astype(np.float32)
    adata = anndata.AnnData(
        counts,
        obs=pd.DataFrame(index=[f"cell{i}" for i in range(ROWS)]),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(5)]),
    )
    run = taut.fit(adata, tmp_path / "run", **QUICK)
    encoded = run.encode(adata)
    assert encoded.obsm["X_taut"].shape == (ROWS, 2)
    assert list(encoded.obs_names) == list(adata.obs_names)
    assert not adata.obsm
    scores = run.score(adata, num_samples=50)
    assert scores.obs["taut_log_evidence"].lt(0).all()
    smooth = run.reconstruct(adata)
    assert list(smooth.var_names) == list(adata.var_names)
    np.testing.assert_array_equal(
        smooth.layers["taut"], tasks.reconstruct(run.model, torch.from_numpy(counts)).numpy()
    )
    with pytest.raises(UsageError, match="counts have no missing entries"):
        run.impute(adata)
    assert run.sample(3).dtype == np.int64


def test_what_a_model_is_conditioned_on_stays_in_its_reconstructions(tmp_path: Path):
    frame = mixed().dropna()
    run = taut.fit(frame, tmp_path / "run", condition=["colour"], **QUICK)
    made = run.reconstruct(frame)
    assert list(made["colour"]) == list(frame["colour"])
    assert set(run.sample(4, given={"colour": "red"})["colour"]) == {"red"}


# --- a fitted model without a folder


def test_a_fitted_model_needs_no_folder(run: taut.Run):
    fitted = Fitted(model=run.model, schema=run.schema, config=run.config, objective=run.objective)
    pd.testing.assert_frame_equal(fitted.encode(mixed()), run.encode(mixed()))
    with pytest.raises(UsageError, match="has no run folder that says what it held out: give data"):
        fitted.encode()


# --- how it looks


def test_a_run_is_four_lines(run: taut.Run, tmp_path: Path):
    lines = repr(run).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith(f"Run({str(run.path)!r}): a table of 6 columns, 5 of them modelled")
    assert "Columns(warp=True)" in lines[1]
    assert re.match(r"  training ELBO\(\) on 48 rows, 6 steps, all that were planned", lines[2])
    value = run.evaluation()["log_evidence"]["value"]
    assert f"log p(x) {value:.3f} ± " in lines[3]
    assert "on 6 test rows" in lines[3]


def test_what_is_not_measured_yet_says_so(run: taut.Run, tmp_path: Path):
    elsewhere = dataclasses.replace(run, path=tmp_path / "<b>gone</b>")
    assert repr(elsewhere).endswith("measured not measured yet")
    page = elsewhere._repr_html_()
    assert "&lt;b&gt;gone&lt;/b&gt;" in page
    assert "<b>" not in page


def test_results_are_tables_in_a_notebook(run: taut.Run):
    problem = taut.LinearGaussian(dim_x=3, dim_z=2)
    evidence = taut.importance(problem.model(), problem.sample(5), 10)
    page = evidence._repr_html_()
    assert f"<td>{float(evidence.log_evidence.mean()):.3f}</td>" in page
    assert "K = 10" in page
    page = run._repr_html_()
    assert f"{run.evaluation()['log_evidence']['value']:.3f} ± " in page


def test_html_is_escaped():
    page = html.table("<i>", ("<a>",), [("<b>", "&")], ["<script>"])
    assert not re.search("<i>|<a>|<b>|<script>", page)
    assert "&lt;script&gt;" in page


def test_the_figure_holds_the_course_of_the_bound_and_samples(bits: taut.Run):
    figure = bits.plot()
    course, samples = figure.axes
    history = bits.history()
    assert course.lines[0].get_ydata().tolist() == [line["bound"] for line in history]
    assert len(samples.images) == 1


def test_an_audit_is_made_shown_and_reported(run: taut.Run):
    with pytest.raises(UsageError, match=r"was not audited: run\.audit\(\) first"):
        run.report()
    effort = taut.Effort(num_samples=20, num_chains=2, max_temperatures=4)
    found = run.audit(num_data=4, effort=effort)
    assert (run.path / "audit.json").exists()
    page = found._repr_html_()
    assert f"{found['log_evidence']['value']:.3f}" in page
    assert "Audit of run" in page
    assert run.report() == run.path / "report.html"


# --- telling


class _Terminal:
    def __init__(self, tty: bool) -> None:
        self.tty, self.text = tty, ""

    def isatty(self) -> bool:
        return self.tty

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None: ...


@pytest.mark.parametrize(
    ("tty", "verbose", "tells"), [(True, None, True), (False, None, False), (True, False, False),
                                  (False, True, True)],
)  # fmt: skip
def test_it_tells_in_terminals_and_where_it_is_asked_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tty: bool, verbose: bool | None, tells: bool
):
    stream = _Terminal(tty)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr("taut.runs.telling.PAUSE", 0.0)
    taut.fit(images(), tmp_path / "run", verbose=verbose, **QUICK)
    if not tells:
        assert stream.text == ""
        return
    assert "4x4 images, binary; 48 + 6 + 6 rows to train, validate and test\n" in stream.text
    assert re.search(r"training 100%, 0:00 left, held-out bound -\d+\.\d\d nats", stream.text)
    assert re.search(r"taut: done in \d+ s: .*run\n$", stream.text)


def test_a_notebook_is_told_though_it_is_no_terminal(monkeypatch: pytest.MonkeyPatch):
    class OutStream(_Terminal):
        __module__ = "ipykernel.iostream"

    monkeypatch.setattr(sys, "stderr", OutStream(False))
    assert Telling().on
    monkeypatch.setattr(sys, "stderr", _Terminal(False))
    assert not Telling().on


def test_a_piped_program_says_nothing():
    code = (
        "import taut, torch, tempfile\n"
        "torch.set_num_threads(1)\n"
        "x = torch.randn(30, 3)\n"
        "taut.fit(x, tempfile.mkdtemp() + '/run', max_epochs=1, num_samples=5, threads=1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


# --- keywords


def test_every_setting_is_a_keyword_with_the_type_of_the_configuration():
    hints = typing.get_type_hints(taut.fit)
    for section in dataclasses.fields(Config):
        kind = type(getattr(Config(), section.name))
        for name, hint in typing.get_type_hints(kind).items():
            if name in ("simulated", "gentle"):  # of tighten
                continue
            union = typing.get_origin(hint) is types.UnionType
            wanted = set(typing.get_args(hint)) if union else {hint}
            given = {hints[name], *typing.get_args(hints[name])}
            assert typing.Any in given or wanted - {type(None)} <= given, name
    signature = inspect.signature(taut.fit)
    text = taut.fit.__doc__ or ""
    for name in signature.parameters:
        assert re.search(rf"^        (\*\*)?{name}: ", text, re.MULTILINE), name
    assert "Raises:" in text


def test_no_default_hides_what_it_does():
    for name in taut.__all__:
        thing = getattr(taut, name)
        if inspect.isfunction(thing):
            assert not re.search("<(function|object)", str(inspect.signature(thing))), name
    assert re.search(r"stop: [^=]*Callable.* = never,", str(inspect.signature(taut.audit)))


def test_what_is_public_is_what_one_sees():
    shown = set(dir(taut))
    assert shown == set(taut.__all__)
    assert re.match(r"\d+\.\d+", taut.__version__)
    assert not {"TYPE_CHECKING", "Any", "runs", "annotations", "importlib"} & shown


# --- what people try


def tried(expression: str, run: taut.Run) -> Any:
    frame = mixed()
    numbers = torch.zeros(ROWS, 12)
    model = taut.LinearGaussian(dim_x=12, dim_z=2).model()
    return eval(  # the trials of a new user, as they wrote them
        expression,
        {"taut": taut, "run": run, "df": frame, "model": model, "x": numbers, "np": np},
    )


ANSWERS = [
    (
        "taut.importance(run.model, df)",
        "taut.importance takes rows as a tensor, not a DataFrame: run.score(data) of a run takes "
        "it as it is",
    ),
    (
        "taut.importance(run, df)",
        "taut.importance takes a model, not a run: call run.score(data), or give run.model",
    ),
    (
        "taut.impute(run, df)",
        "taut.impute takes a model, not a run: call run.impute(data), or give run.model",
    ),
    (
        "taut.cell_scores(run, df)",
        "taut.cell_scores takes a model, not a run: call run.score(data, cells=True), or give "
        "run.model",
    ),
    (
        "taut.annealing(run, df)",
        "taut.annealing takes a model, not a run: call run.audit(), or give run.model",
    ),
    (
        "taut.importance(model, x.numpy())",
        "taut.importance takes rows as a tensor, not a numpy array: give torch.as_tensor(x), "
        "(N, 12)",
    ),
    (
        "taut.importance(model, [1.0, 2.0])",
        "taut.importance takes rows as a tensor, not a list: give torch.as_tensor(x), (N, 12)",
    ),
    (
        "taut.use.tasks.encode(run.model, df)",
        "taut.use.tasks.encode takes rows as a tensor, not a DataFrame: run.encode(data) of a run "
        "takes it as it is",
    ),
    (
        "taut.importance(model, x[:, :7])",
        "taut.importance: x has shape (60, 7), but the model takes (N, 12)",
    ),
    (
        "taut.importance(model, x[:, :1])",
        "taut.importance: x has shape (60, 1), but the model takes (N, 12)",
    ),
    (
        "taut.importance(model, x[0])",
        "taut.importance: x has shape (12,), but the model takes (N, 12); one row is x[None]",
    ),
    (
        "taut.audit(run)",
        "taut.audit takes a model, not a run: call run.audit(), or give run.model",
    ),
    ("taut.audit(model)", "taut.audit needs data: a tensor of rows after the model"),
    (
        "taut.importance('runs/a', x)",
        "taut.importance takes a model, not 'runs/a': run = taut.load(...) reads a run",
    ),
    (
        "taut.importance(x, model)",
        "taut.importance takes a model (taut.VAE, or the .model of a run) first, not a Tensor",
    ),
    (
        "taut.importance(taut.VAEstimator(), x)",
        "taut.importance takes a model (taut.VAE, or the .model of a run) first, not a VAEstimator",
    ),
    ("taut.fit(df, latent_dims=3)", "unknown setting 'latent_dims'; did you mean 'latent_dim'?"),
    ("taut.fit(df, lr=3)", "unknown setting 'lr'; did you mean 'learning_rate'?"),
    ("taut.fit(df, epochs=3)", "unknown setting 'epochs'; did you mean 'max_epochs'?"),
    ("taut.fit(df, qqqqq=3)", "unknown setting 'qqqqq'; see help(taut.fit)"),
    (
        "taut.fit([1.0, 2.0])",
        "data must be a path, an array, a tensor, a data frame or a sparse matrix, not list",
    ),
    (
        "run.score([1.0, 2.0])",
        "data must be a path, an array, a tensor, a data frame or a sparse matrix, not list",
    ),
    (
        "run.score(df[['height', 'weight', 'colour']])",
        "the data: 2 of 6 columns are missing: 'member', 'visits'; add them",
    ),
    (
        "run.encode(df[['height']].to_numpy())",
        "the data: is an array, and the model was trained on a table with named columns: give such "
        "a table",
    ),
    ("taut.load('nothing')", "nothing is not a run folder: there is no run.json in it"),
    (
        "run.sample(3, given={'colour': 'red'})",
        "this model is conditioned on nothing: give exactly that, --given COLUMN=VALUE each (from "
        "Python: given={COLUMN: VALUE})",
    ),
    # counts, in the words of the command line
    ("run.sample(-1)", "num_samples: expected at least 1, not -1"),
    ("run.sample(0)", "num_samples: expected at least 1, not 0"),
    ("run.sample(True)", "num_samples: expected a whole number of at least 1, not True"),
    ("run.score(df, num_samples=0)", "num_samples: expected at least 1, not 0"),
    ("run.encode(df, num_samples=0)", "num_samples: expected at least 1, not 0"),
    ("run.impute(df, num_samples=0)", "num_samples: expected at least 1, not 0"),
    ("run.impute(df, num_imputations=-1)", "num_imputations: expected at least 0, not -1"),
    (
        "run.impute(df, num_imputations=10**9)",
        "num_imputations: expected at most 10000, not 1000000000",
    ),
    ("run.audit(num_data=0)", "num_data: expected at least 1, not 0"),
    ("run.disentangle(df, num_data=-3)", "num_data: expected at least 1, not -3"),
    ("run.traversal(df, steps=1)", "steps: expected at least 2, not 1"),
    ("taut.importance(model, x, num_samples=0)", "num_samples: expected at least 1, not 0"),
    ("taut.cell_scores(model, x, num_samples=0)", "num_samples: expected at least 1, not 0"),
    ("taut.impute(model, x, num_samples=-1)", "num_samples: expected at least 1, not -1"),
    ("taut.annealing(model, x, num_chains=0)", "num_chains: expected at least 1, not 0"),
    ("taut.compare(run, run, num_data=0)", "num_data: expected at least 1, not 0"),
    ("taut.improve(run.path, minutes=1, trials=0)", "trials: expected at least 1, not 0"),
    (
        "taut.choose('digits', candidates=[], minutes=1, seeds=0)",
        "seeds: expected at least 1, not 0",
    ),
]


@pytest.mark.parametrize(("trial", "answer"), ANSWERS, ids=[trial for trial, _ in ANSWERS])
def test_what_people_try_is_answered_in_one_line(run: taut.Run, trial: str, answer: str):
    with pytest.raises((UsageError, DataError, StorageError)) as caught:
        tried(trial, run)
    assert str(caught.value) == answer


@pytest.mark.parametrize("wrong", [1.5, "3", None, False, np.float64(2), torch.ones(2)])
def test_what_is_no_whole_number_is_no_count(wrong: Any):
    with pytest.raises(ValueError, match="a whole number of at least 1, not") as caught:
        check_count("num_samples", wrong)
    assert isinstance(caught.value, UsageError)


def test_a_count_may_be_one_of_numpy(run: taut.Run):
    assert len(run.sample(int(check_count("num_samples", np.int64(3))))) == 3


def test_more_rows_than_memory_holds_are_refused_at_once(run: taut.Run):
    with pytest.raises(OutOfMemoryError, match=r"^1,000,000,000,000 rows: .*make them in parts"):
        run.sample(10**12)


def test_one_column_for_many_gives_no_number():
    """It did: (x - mean) / scale makes a row of twelve of it, and so does the density."""
    x = np.random.default_rng(0).normal(size=(ROWS, 3)).astype(np.float32)
    model = taut.VAEstimator(latent_dim=1, max_epochs=1, random_state=0, device="cpu").fit(x).model_
    with pytest.raises(
        UsageError, match=re.escape("x has shape (60, 1), but the model takes (N, 3)")
    ):
        taut.importance(model, torch.zeros(ROWS, 1), 5)


def test_a_column_that_names_rows_and_is_called_as_a_number_of_theirs_is_kept(
    tmp_path: Path,
) -> None:
    """A column of ids called z0 was replaced by the first latent dimension."""
    x = np.random.default_rng(0).normal(size=(60, 2))
    frame = pd.DataFrame({"z0": [f"A{i:03}" for i in range(60)], "a": x[:, 0], "b": x[:, 1]})
    run = taut.fit(frame, tmp_path / "run", model="Mixture(num_states=2)", max_epochs=2)
    encoded = run.encode(frame)
    assert list(encoded.columns) == ["z0", "z0-1", "z1"]
    assert (encoded["z0"] == frame["z0"]).all()


def test_a_column_is_given_once() -> None:
    assert _assignments(["a=1", "b==2"]) == {"a": "1", "b": "=2"}
    with pytest.raises(UsageError, match="--given a comes twice"):
        _assignments(["a=1", "a=2"])
