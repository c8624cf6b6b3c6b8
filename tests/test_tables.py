"""The likelihood of a table is the sum of its columns', whatever families they fall into, and a fit
is a density of the table.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, parquet
from torch import Tensor
from typer.testing import CliRunner
from ztest import assert_mean

import taut
from taut.build.config import Config, ModelConfig
from taut.build.model import build, describe_part
from taut.build.statistics import summarize
from taut.build.usual import complete
from taut.cli.app import app
from taut.data import Schema, check_against, prepare, to_table
from taut.data.tables import kinds
from taut.data.tables.column import Column
from taut.distributions.observed import terms
from taut.evidence.baseline import independent_marginals
from taut.evidence.cells import impute
from taut.likelihoods.columns import Columns, Joint, level_probs
from taut.runs.fitted import Fitted
from taut.runs.folder import new_data
from taut.runs.making import sample_rows
from taut.system.errors import DataError

KINDS = [
    "category",
    "real",
    "binary",
    "category",
    "count",
    "ordinal",
    "positive",
    "levels",
    "date",
    "category",
    "real",
]
LEVELS = [3, 0, 2, 4, 0, 4, 0, 0, 0, 30, 0]
SMALL = partial(taut.MLP, hidden=(7,))
LOW = torch.tensor([0, 0, 0, 0, 0, 0, 0, 5.0, 0, 0, 0])
HIGH = torch.tensor([0, 0, 0, 0, 9.0, 0, 0, 9.0, 0, 0, 0])


def columns(**families: object) -> Columns:
    loc = torch.tensor([0, 10.0, 0.5, 0, 3.0, 0, 2.0, 7.0, 19_000.0, 0, -1.0])
    scale = torch.tensor([1, 3.0, 0.5, 1, 2.5, 1, 1.0, 1.5, 300.0, 1, 1e-3])
    part = Columns(
        KINDS, LEVELS, 2, SMALL, data_loc=loc, data_scale=scale, low=LOW, high=HIGH, **families
    )  # type: ignore[arg-type]
    for p in part.decoder.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return part


def rows(n: int) -> Tensor:
    """Data in the support of every column."""
    part = [
        torch.randint(0, levels, (n,)).double() if levels else torch.zeros(n) for levels in LEVELS
    ]
    part[1], part[10], part[8] = (
        10 + 3 * torch.randn(n),
        -1 + 1e-3 * torch.randn(n),
        19_000 + 300 * torch.randn(n),
    )
    part[4], part[6], part[7] = (
        torch.randint(0, 9, (n,)).double(),
        torch.randn(n).exp(),
        torch.randint(5, 10, (n,)).double(),
    )
    return torch.stack(part, 1)


def test_a_table_is_the_sum_of_its_columns() -> None:
    """Each family alone, on its own columns and the same raw outputs, gives the same terms."""
    part, x, z = columns(), rows(6), torch.randn(3, 6, 2)
    joint = part(z)
    assert isinstance(joint, Joint)
    each = joint.terms(x)
    torch.testing.assert_close(joint.log_prob(x), each.sum(-1), rtol=0, atol=1e-10)
    raws = part.decoder(z).split(part.sizes, -1)
    seen = []
    for (_, index, _), family, raw in zip(part.groups, part.parts, raws, strict=True):
        torch.testing.assert_close(
            each[..., index], terms(family(raw), x[:, index]), rtol=0, atol=1e-12
        )
        seen += index
    assert sorted(seen) == list(range(len(KINDS)))


def test_columns_of_a_family_go_together_and_padding_stays_below_half() -> None:
    groups = {(kind.family, tuple(index)) for kind, index, _ in columns().groups}
    assert {("real", (1, 10)), ("mixed", (8,))} < groups  # a date is a number of days, of any shape
    assert ("category", (0, 3)) in groups  # 3 and 4 levels
    assert ("category", (9,)) in groups  # 30 would pad them to 30
    assert len(groups) == 9
    two = Columns(["mixed", "date"], [0, 0], 2, SMALL)
    assert [index for _, index, _ in two.groups] == [[0, 1]]


def test_every_discrete_column_sums_to_one_over_its_own_levels() -> None:
    joint = columns()(torch.randn(2, 1, 2))
    for family in joint.families:
        if family.kind.word in ("binary", "category", "ordinal"):
            probs = level_probs(family)
            torch.testing.assert_close(
                probs.sum(0), torch.ones(2, 1, len(family.columns)), rtol=0, atol=1e-10
            )
            for place, column in enumerate(family.columns.tolist()):
                assert (probs[LEVELS[column] :, ..., place] == 0).all()


def test_samples_lie_in_the_support_and_agree_with_the_mean() -> None:
    joint = columns()(torch.randn(1, 1, 2))
    x = joint.sample((4000,))
    assert joint.support.check(x).all()
    assert not joint.support.is_discrete
    numbers = [
        i
        for i, levels in enumerate(LEVELS)
        if not levels and KINDS[i] not in ("positive", "levels")
    ]
    assert_mean(x[:, 0, 0][:, numbers], joint.mean[0, 0, numbers])
    modes = joint.mean[0, 0]
    for i, levels in enumerate(LEVELS):
        if levels:
            counts = torch.bincount(x[:, 0, 0, i].long(), minlength=levels)
            assert counts[int(modes[i])] >= 0.9 * counts.max()
    outside = x[0, 0, 0].clone()
    outside[6] = -1.0
    assert joint.support.check(outside).logical_not().nonzero().flatten().tolist() == [6]


def test_a_family_of_ones_own_takes_the_place_of_the_usual_one() -> None:
    part = columns(real=partial(taut.StudentT, scale="per_datum"), count=taut.Poisson)
    kinds = {type(p).__name__ for p in part.parts}
    assert {"StudentT", "Poisson"} <= kinds
    assert not {"Normal", "NegativeBinomial"} & kinds
    text = 'Columns(real=StudentT(scale="per_datum"), count=Poisson())'
    schema = Schema(
        "table", (2,), 0, 0, columns=(Column("a", "real", std=1.0), Column("b", "count", high=9.0))
    )
    plain = ModelConfig(likelihood=text, encoder="MLP()", decoder="MLP()")
    model = build(complete(plain, schema), schema)
    assert (
        str(describe_part(model.likelihood))
        == "Columns(count=Poisson(), real=StudentT(scale='per_datum'))"
    )


# --- From a frame to a run and back ---------------------------------------------------------------


def frame(n: int = 400, seed: int = 0) -> pa.Table:
    """A table whose columns hang on one hidden cause, with gaps."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    size = np.exp(0.5 * z + 0.1 * rng.normal(size=n))
    colour = np.where(
        z + 0.5 * rng.normal(size=n) > 0, "red", np.where(rng.random(n) < 0.5, "green", "=cmd()")
    )
    visits = rng.poisson(np.exp(1 + 0.3 * z)) * 100
    gap = rng.random((n, 2)) < 0.2
    return pa.table(
        {
            "size": pa.array(np.where(gap[:, 0], np.nan, size), from_pandas=True),
            "colour": pa.array(colour.tolist()),
            "member": pa.array((z > 0).tolist(), mask=gap[:, 1]),
            "visits": visits,
            "heat": z * 3 + rng.normal(size=n),
            "id": [f"row-{i}" for i in range(n)],
            "planet": ["earth"] * n,
        }
    )


def fit(table: pa.Table | str, path: Path, **settings: object) -> taut.Run:
    torch.set_default_dtype(torch.float32)
    small = {
        "max_epochs": 3,
        "latent_dim": 2,
        "num_samples": 20,
        "encoder": "MLP(hidden=(16,))",
        "decoder": "MLP(hidden=(16,))",
    }
    return taut.fit(table, path, **small | settings)  # type: ignore[arg-type]


def test_a_frame_is_understood_fitted_and_read_again(tmp_path: Path) -> None:
    run = fit(frame(), tmp_path / "run")
    kinds = {c.name: c.kind for c in run.schema.columns}
    assert kinds == {
        "size": "positive",
        "colour": "category",
        "member": "binary",
        "visits": "count",
        "heat": "real",
        "id": "id",
        "planet": "constant",
    }
    again = taut.load(tmp_path / "run")
    # in another order, without an id
    new = new_data(again, frame(30, 1).select(["visits", "heat", "member", "colour", "size"]))
    assert new.rows.shape == (30, 5)
    one, two = (taut.importance(r.model, new.rows, 10).log_evidence for r in (run, again))
    assert torch.equal(one, two)


def test_ids_travel_into_embeddings_and_scores(tmp_path: Path) -> None:
    """They come first, as they stand in the file; a file without them has none."""
    run = fit(frame(), tmp_path / "run")
    csv.write_csv(frame(12, 1), tmp_path / "new.csv")
    csv.write_csv(frame(12, 1).drop(["id"]), tmp_path / "bare.csv")
    for command in (["encode"], ["score", "--num-samples", "10"]):
        for source, first in (("new.csv", "id"), ("bare.csv", None)):
            out = tmp_path / f"{command[0]}-{source}"
            arguments = [*command, str(run.path), str(tmp_path / source), "--out", str(out)]
            assert CliRunner().invoke(app, arguments).exit_code == 0
            written = csv.read_csv(out)
            assert (written.column_names[0] == "id") is (first == "id")
            if first:
                assert written.column("id").to_pylist() == [f"row-{i}" for i in range(12)]


def test_the_baseline_is_the_product_of_the_marginals() -> None:
    """Of a table it is the sum over its columns, each alone; of levels the smoothed frequencies."""
    torch.set_default_dtype(torch.float64)
    table = frame(400)
    data = prepare(table)
    statistics = summarize(data)
    x = data.test[:20]
    total = torch.zeros(20)
    for i, column in enumerate(data.schema.modelled):
        if column.levels:
            part = statistics.log_frequencies[i][x[:, i].nan_to_num().long()]  # type: ignore[index]
            total += torch.where(x[:, i].isnan(), 0.0, part)
        else:
            schema = replace(data.schema, event_shape=(1,), columns=(column,))
            one = replace(data, schema=schema, train=data.train[:, [i]])  # type: ignore[index]
            total += independent_marginals(one, x[:, [i]])  # type: ignore[operator]
    torch.testing.assert_close(independent_marginals(data, x), total, rtol=0, atol=1e-8)


def test_the_logarithm_of_a_count_is_of_one_more() -> None:
    data = prepare(frame())
    place = [c.name for c in data.schema.modelled].index("visits")
    seen = data.train[:, place].double().log1p()
    statistics = summarize(data)
    assert float(statistics.log_loc[place]) == pytest.approx(float(seen.mean()))
    assert float(statistics.log_scale[place]) == pytest.approx(float(seen.std(correction=0)))


def test_frequencies_of_levels_count_what_was_seen() -> None:
    data = prepare(
        pa.table({"a": ["x", "y", None, "x"] * 10, "b": [float(i) + 0.5 for i in range(40)]}),
        test_fraction=0,
        validation_fraction=0,
    )
    statistics = summarize(data)
    expected = torch.tensor([20.5 / 31, 10.5 / 31]).log()
    torch.testing.assert_close(statistics.log_frequencies[0], expected)  # type: ignore[index]
    assert statistics.loc[0] == pytest.approx(1 / 3)


def test_the_untrained_model_is_near_the_marginals() -> None:
    """A raw output of zero is the marginal by its moments: log-Normal, Normal, negative binomial.

    Of levels the frequencies.
    """
    data = prepare(frame())
    config = complete(replace(Config().model, likelihood="Columns()"), data.schema)
    statistics = summarize(data)
    model = build(config, data.schema, statistics)
    with torch.no_grad():
        for parameter in model.likelihood.decoder.parameters():
            parameter.zero_()
        p = model.decode(torch.zeros(1, len(data.train), config.latent_dim or 1)).log_prob(
            data.train
        )[0]
    total = torch.zeros(len(data.train))
    for x, column, table in zip(
        data.train.T, data.schema.modelled, statistics.log_frequencies, strict=True
    ):  # type: ignore[arg-type]
        seen = x[~x.isnan()]
        here = x.nan_to_num(float(seen[0]))
        if column.kind == "positive":
            part = torch.distributions.LogNormal(
                seen.log().mean(), seen.log().std(correction=0)
            ).log_prob(here)
        elif column.kind == "real":
            part = torch.distributions.Normal(seen.mean(), seen.std(correction=0)).log_prob(here)
        elif column.kind == "count":
            mean, excess = seen.mean(), seen.var(correction=0) - seen.mean()
            part = torch.distributions.NegativeBinomial(
                mean**2 / excess, logits=(excess / mean).log()
            ).log_prob(here)
        else:
            part = table[here.long()]
        total += torch.where(x.isnan(), 0.0, part)
    assert abs(float(p.mean() - total.mean())) < 0.02


def test_samples_are_tables_of_the_right_types(tmp_path: Path) -> None:
    run = fit(frame(), tmp_path / "run")
    table = to_table(sample_rows(run, 50), run.schema.modelled)
    assert table.column_names == ["size", "colour", "member", "visits", "heat"]
    assert [str(t) for t in table.schema.types] == ["double", "string", "bool", "int64", "double"]
    assert set(table["colour"].to_pylist()) <= {"red", "green", "=cmd()"}
    assert min(table["visits"].to_pylist()) >= 0
    assert min(table["size"].to_pylist()) > 0


def test_a_condition_is_a_context_and_samples_have_it(tmp_path: Path) -> None:
    run = fit(frame(), tmp_path / "run", condition=("colour",))
    assert run.schema.rest == [0, 2, 3, 4]
    rows = sample_rows(run, 30, given={"colour": "green"})
    table = to_table(rows, run.schema.modelled)
    assert set(table["colour"].to_pylist()) == {"green"}
    again = taut.load(tmp_path / "run")
    assert torch.equal(sample_rows(again, 30, given={"colour": "green"}), rows)
    assert not torch.equal(sample_rows(again, 30, given={"colour": "red"})[:, 4], rows[:, 4])
    with pytest.raises(taut.UsageError, match="conditioned on colour: give exactly that"):
        sample_rows(again, 3)
    levels = "none of the column's 3 levels: =cmd(), green, red"
    for value, mend in (
        ("teal", "give one of them"),
        ("reed", "did you mean 'red'?"),
        ("NA", "give one of them"),
    ):
        with pytest.raises(taut.UsageError) as caught:
            sample_rows(again, 3, given={"colour": value})
        assert str(caught.value) == f"--given colour={value}: {levels}; {mend}"
    x = prepare(frame(), schema=run.schema).test
    filled = impute(again.model, x, 20).values
    assert not filled[:, run.schema.rest].isnan().any()
    assert torch.equal(filled[:, 1], x[:, 1])


def test_the_condition_is_left_out_of_the_density() -> None:
    """log p(rest | given) of two rows that differ in the given column only differs by the context
    alone.
    """
    data = prepare(frame(), condition=("heat",))
    config = complete(Config().model, data.schema)
    model = build(config, data.schema, summarize(data))
    x = data.train[:5].double()
    draw = model.draw(x, 7)
    assert model.split(x)[0].shape == (5, 4)
    expected = model.decode(draw.z, model.split(x)[1]).log_prob(x[:, data.schema.rest])
    torch.testing.assert_close(draw.log_likelihood, expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="conditioned on a context"):
        model.sample(3)


def test_counts_given_their_total_scale_with_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(np.exp(rng.normal(size=(200, 1))) * np.array([[1.0, 5.0, 20.0]]))
    torch.set_default_dtype(torch.float32)
    run = taut.fit(
        counts,
        tmp_path / "run",
        kind="count",
        likelihood="NegativeBinomial(library=True)",
        max_epochs=2,
        latent_dim=1,
    )
    model = run.model.double()
    context = torch.tensor([[0.0], [math.log(3.0)]], dtype=torch.float64)
    decoder = model.likelihood.decoder
    with torch.no_grad():
        for p in decoder.parameters():
            p.zero_()
        mean = model.decode(torch.zeros(1, 2, 1, dtype=torch.float64), context).mean[0]
    torch.testing.assert_close(mean[1], 3 * mean[0], rtol=1e-6, atol=0)
    rows = sample_rows(taut.load(tmp_path / "run"), 2000, given={"total": "500"})
    assert 300 < float(rows.sum(1).mean()) < 750


def test_large_counts_of_new_data_do_not_wrap_around() -> None:
    """Training counts fit into bytes, those of the test set do not."""
    train = np.random.default_rng(0).poisson(3, (60, 4))
    test = train[:5].copy()
    test[0, 0] = 300
    data = prepare(train, kind="count", test=test)
    assert float(data.test[0, 0]) == 300.0
    assert float(check_against(test, data.schema).rows[0, 0]) == 300.0


@pytest.mark.parametrize("how", ["columns", "total"])
def test_a_conditioned_model_is_audited(how: str, tmp_path: Path) -> None:
    from taut.evidence.audit import Effort

    if how == "columns":
        parquet.write_table(frame(), tmp_path / "rows.parquet")
        run = fit(str(tmp_path / "rows.parquet"), tmp_path / "run", condition=("colour",))
    else:
        torch.set_default_dtype(torch.float32)
        np.save(tmp_path / "counts.npy", np.random.default_rng(0).poisson(3, (80, 4)))
        library = "NegativeBinomial(library=True)"
        run = taut.fit(
            str(tmp_path / "counts.npy"),
            tmp_path / "run",
            kind="count",
            likelihood=library,
            max_epochs=2,
            latent_dim=1,
        )
    effort = Effort(num_samples=50, num_chains=4, max_temperatures=8, optimum_steps=5)
    result = taut.audit_run(run, num_data=10, effort=effort)
    assert result["samples"] is None
    assert result["gaps"] is not None
    assert result["annealing"] is not None
    assert any("conditioned on a context" in note for note in result["notes"])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            [5] * 38 + [6, 7],
            None,
        ),  # levels that are constant in the training rows: measured all the same
        ([None] * 38 + [6, 7], "its training rows: columns 'a' hold no value at all"),
        ([None] * 38 + [0.5, 7.25], "its training rows: columns 'a' hold no value at all"),
        (
            [1.5] * 38 + [0.5, 7.25],
            "its training rows: columns 'a' are constant in float64, where a density is infinite",
        ),
    ],
)
def test_what_the_training_rows_do_not_show(
    values: list[float | None], words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"a": values, "b": [i + 0.5 for i in range(40)]})
    parts = (np.arange(30), np.arange(30, 34), np.arange(34, 40))
    monkeypatch.setattr("taut.data.tables.prepare.split_hashes", lambda *_: parts)
    if words is None:
        data = prepare(table)
        assert independent_marginals(data, data.test) is not None
    else:
        with pytest.raises(taut.DataError, match=words):
            prepare(table)


def test_an_array_column_without_a_value_in_training_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    array = np.random.default_rng(0).normal(size=(40, 2))
    array[:38, 0] = np.nan
    monkeypatch.setattr(
        "taut.data.dataset.split_hashes",
        lambda *_: (np.arange(30), np.arange(30, 34), np.arange(34, 40)),
    )
    with pytest.raises(taut.DataError, match=r"training rows: columns \(from 0\) 0 hold no value"):
        prepare(array)


def test_empty_tables_are_one_line() -> None:
    with pytest.raises(taut.DataError, match="no rows"):
        check_against(frame(5).slice(0, 0), prepare(frame()).schema)


def test_a_log_normal_may_stand_for_real_columns_that_are_positive() -> None:
    table = pa.table(
        {"a": (10 + np.random.default_rng(0).normal(size=100)).tolist(), "b": ["x", "y"] * 50}
    )
    data = prepare(table)
    config = complete(ModelConfig(likelihood="Columns(real=LogNormal())"), data.schema)
    model = build(config, data.schema, summarize(data))
    assert not taut.ELBO()(model, data.train.double()).value.isnan().any()


@pytest.mark.parametrize("total", ["nan", "inf", "-5", "many"])
def test_a_total_must_be_a_number(total: str, tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    counts = np.random.default_rng(0).poisson(3, (60, 3))
    library = "Poisson(library=True)"
    run = taut.fit(
        counts,
        tmp_path / "run",
        kind="count",
        likelihood=library,
        max_epochs=1,
        latent_dim=1,
        num_samples=5,
    )
    with pytest.raises(taut.UsageError, match="at least 0"):
        sample_rows(run, 3, given={"total": total})


def test_a_total_is_for_a_matrix_of_counts_only() -> None:
    with pytest.raises(ValueError, match="is for a matrix of counts"):
        columns(count=partial(taut.NegativeBinomial, library=True))


def test_sparse_counts_stay_sparse_and_give_the_numbers_of_dense_ones(tmp_path: Path) -> None:
    from scipy import sparse

    torch.set_default_dtype(torch.float32)
    counts = np.random.default_rng(0).poisson(0.7, size=(120, 6))
    settings = {"max_epochs": 2, "latent_dim": 2, "num_samples": 10}
    dense = taut.fit(counts, tmp_path / "dense", kind="count", **settings)  # type: ignore[arg-type]
    thin = taut.fit(sparse.csr_matrix(counts), tmp_path / "sparse", **settings)  # type: ignore[arg-type]
    x = torch.from_numpy(counts[:20]).float()
    assert thin.schema.kind == "count"
    for run in (dense, thin):
        assert (
            run.info["rows"]["train"] + run.info["rows"]["validation"] + run.info["rows"]["test"]
            == 120
        )
    a, b = (
        taut.importance(dense.model, rows, 10).log_evidence
        for rows in (x, new_data(dense, sparse.csc_matrix(counts[:20])).rows)
    )
    assert torch.equal(a, b)


def test_ordered_levels_are_filled_in_by_their_median_and_others_by_their_mode() -> None:
    from torch.distributions import Independent

    from taut.distributions import CategoricalLevels
    from taut.evidence.cells import _typical
    from taut.likelihoods.columns import Family

    # (1, 1, 2 columns, 4 levels)
    probs = torch.tensor([[0.4, 0.15, 0.15, 0.3], [0.4, 0.15, 0.15, 0.3]]).log()[None, None]
    part = Independent(CategoricalLevels(probs, 0), 1)
    part.terms = part.base_dist.log_prob  # type: ignore[attr-defined]
    share = torch.ones(1, 1)
    for kind, level in (("category", 0.0), ("ordinal", 1.0)):
        joint = Joint([Family(kinds.KINDS[kind], torch.tensor([0, 1]), 4, part)])
        assert _typical(joint, share, torch.ones(1, 2).bool()).tolist() == [[level, level]]


def test_a_contingency_table_is_learned_and_its_rows_come_in_their_shares(tmp_path: Path) -> None:
    """UC Berkeley's admissions of 1973, 24 patterns of 4,526 rows.

    The most that log p(x) can be is minus their entropy.
    """
    men = [(512, 313), (353, 207), (120, 205), (138, 279), (53, 138), (22, 351)]
    women = [(89, 19), (17, 8), (202, 391), (131, 244), (94, 299), (24, 317)]
    rows = []
    for department, *both in zip("ABCDEF", men, women, strict=True):
        for gender, (admitted, rejected) in zip("MF", both, strict=True):
            rows += [("yes", gender, department)] * admitted + [
                ("no", gender, department)
            ] * rejected
    table = pa.table(dict(zip(("admit", "gender", "dept"), zip(*rows, strict=True), strict=True)))
    data = prepare(table)
    codes = torch.tensor([12, 6, 1])
    patterns = [
        (part @ codes.to(part)).long().bincount(minlength=24).double()
        for part in (data.train, data.validation, data.test)
    ]
    everything = sum(patterns)
    for part, share in zip(patterns, (0.8, 0.1, 0.1), strict=True):
        assert float((part - share * everything).abs().max()) < 2
    networks = {"encoder": "MLP(hidden=(32,))", "decoder": "MLP(hidden=(32,))"}
    run = fit(
        table, tmp_path / "run", max_epochs=60, num_samples=100, learning_rate=0.005, **networks
    )
    p = everything / everything.sum()
    found = run.evaluation()
    assert abs(found["log_evidence"]["value"] + float(-(p * p.log()).sum())) < 0.1
    assert any("453 of 453 rows repeat rows of the training" in line for line in found["warnings"])
    drawn = (sample_rows(run, 20_000, seed=1) @ codes.float()).long().bincount(
        minlength=24
    ) / 20_000
    assert float((drawn - p).abs().max()) < 0.05


def test_rows_of_impossible_values_are_minus_infinity_and_the_rest_is_as_without_them(
    tmp_path: Path,
) -> None:
    r = np.random.default_rng(0)
    table = pa.table({"count": r.poisson(300, 80) * (r.random(80) < 0.5), "x": r.normal(size=80)})
    (tmp_path / "columns.toml").write_text('[columns.count]\nkind = "count"\n')
    run = fit(table, tmp_path / "run", schema=str(tmp_path / "columns.toml"))
    odd = table.slice(0, 40).set_column(
        0, "count", pa.array([-1.0, 2.5, *table["count"].to_pylist()[2:40]])
    )
    new = new_data(run, odd)
    assert new.impossible == (0, 1)
    assert (
        "2 values (in 2 of 40 rows) lie outside the support of the likelihood, whole numbers from "
        "0; the first is -1 (row 0, column count)" in new.notes[-1]
    )
    assert "log p(x) of 2 rows is minus infinity" in new.notes[-1]
    parquet.write_table(odd, tmp_path / "odd.parquet")
    arguments = [
        "score",
        str(run.path),
        str(tmp_path / "odd.parquet"),
        "--num-samples",
        "20",
        "--out",
        str(tmp_path / "s.csv"),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "log p(x) of 2 rows is minus infinity" in result.stderr
    assert (
        "log p(x) of 2 of 40 rows is minus infinity, rows 0, 1 (from 0), which the model"
        in result.stderr + result.stdout
    )
    lines = [line.split(",") for line in (tmp_path / "s.csv").read_text().splitlines()]
    place = lines[0].index('"log_evidence"')
    scores = [float(line[place]) for line in lines[1:]]
    assert scores[:2] == [-math.inf, -math.inf]
    assert all(math.isfinite(s) for s in scores[2:])


@pytest.mark.parametrize("name", ["HiddenTree(num_states=2)", "Mixture(num_states=2)", "VAE"])
def test_what_a_note_says_of_log_p_is_what_it_is(name: str) -> None:
    """Finite or minus infinity, of each kind of column, with a grid and without, however far out:
    the cube of 2^43 is more than float32 holds.
    """
    torch.set_default_dtype(torch.float32)
    r, n = np.random.default_rng(0), 400
    data = prepare(
        pa.table(
            {
                "count": r.negative_binomial(2, 0.01, n),
                "levels": r.integers(-2, 7, n),
                "marks": r.integers(0, 5, n) / 2,
                "free": r.lognormal(size=n),
                "cents": r.lognormal(3, size=n).round(2) + 0.01,
                "rain": np.where(r.random(n) < 0.4, 0, r.lognormal(size=n)),
                "mm": np.where(r.random(n) < 0.4, 0, r.lognormal(2, size=n)).round(1),
                "real": r.normal(size=n),
            }
        )
    )
    kinds = ["count", "levels", "levels", "positive", "positive", "mixed", "mixed", "real"]
    assert [c.kind for c in data.schema.columns] == kinds
    config = complete(replace(Config().model, model=name, latent_dim=None), data.schema)
    model = build(config, data.schema, summarize(data))
    if isinstance(model, taut.ExactModel):
        model.begin(data.train, 2)
    fitted = Fitted(
        model=model,
        schema=data.schema,
        config=replace(Config(), model=config),
        objective=taut.ELBO(),
    )
    usual = to_table(data.train[:40].numpy(), data.schema.columns)
    noted = set()
    for column, kind in zip(data.schema.columns, kinds, strict=True):
        near = [-1.0, 0.0, 0.3, 7.0]
        for value in (*near, 2.0**52, -(2.0**60), 1e30, -3e38, 1e39, 1e308):
            place = usual.column_names.index(column.name)
            cells = pa.array([value, *usual[column.name].to_pylist()[1:]], pa.float64())
            rows = usual.set_column(place, column.name, cells)
            code = value / (column.step if kind == "levels" else 1)
            if abs(code) > 3.4e38 or (kind == "count" and value >= 2**53):
                # nothing but the line, and no warning of numpy; of a step's number, too
                with pytest.raises(DataError, match=r"beyond the range of float32|2\^53"):
                    new_data(fitted, rows)
                continue
            new = new_data(fitted, rows)
            lines = [line for line in new.notes if "log p(x) of" in line]
            finite = not any("minus infinity" in line for line in lines)
            assert not any("is finite" in line for line in lines) or finite
            with torch.no_grad():
                draw = model.draw(new.rows[:1])
            log_p = -torch.inf if new.impossible else draw.log_weight[0, 0]
            assert bool(torch.as_tensor(log_p).isfinite()) == finite, (column.name, value, lines)
            noted |= {(kind, finite) for _ in lines}
    everything = {(kind, True) for kind in ("levels", "positive", "mixed")} | {("count", False)}
    assert noted == everything


def test_the_untrained_model_of_columns_on_a_grid_is_the_baseline() -> None:
    r = np.random.default_rng(0)
    counts = np.where(r.random(600) < 0.03, 500, r.negative_binomial(2, 0.01, 600))
    cents = np.where(r.random(600) < 0.5, 0, np.exp(3 + r.normal(size=600))).round(2)
    data = prepare(
        pa.table({"visits": counts, "cents": cents, "heat": r.normal(size=600).round(2)})
    )
    assert [c.kind for c in data.schema.columns] == ["count", "mixed", "real"]
    config = complete(Config().model, data.schema)
    assert config.likelihood == "Columns(warp=True)"
    statistics = summarize(data)
    model = build(config, data.schema, statistics)
    with torch.no_grad():
        for parameter in model.likelihood.decoder.parameters():
            parameter.zero_()
        given = model.decode(torch.zeros(1, len(data.test), config.latent_dim or 1))
        own = terms(given, data.test)[0]
    marginals = independent_marginals(data, data.test)
    assert marginals is not None
    torch.testing.assert_close(own.sum(1).double(), marginals, rtol=0, atol=2e-3)
    # no density is above the precision of its column
    assert float(own[:, 1][data.test[:, 1] > 0].max()) <= math.log(100) + 1e-6
    assert float(own[:, 2].max()) <= math.log(100) + 1e-6
