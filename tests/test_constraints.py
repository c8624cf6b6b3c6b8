"""What holds between columns: read, found, and kept by whatever a model makes."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.stats import chi2

import taut
from taut.data.dataset import prepare
from taut.data.schema import Schema
from taut.data.tables.column import Column
from taut.data.tables.constraints import constraint_of, holding, kept, learned
from taut.data.tables.toml import from_toml, to_toml
from taut.runs.making import fill_rows, sample_rows
from taut.system.errors import DataError, UsageError

LEVELS = [Column(name, "levels", high=3, type="int") for name in "ab"]
REALS = [Column(name, "real", low=-1, high=1) for name in ("net", "tax", "gross pay")]
DAYS = [Column(name, "date", high=20_000, type="date") for name in ("start", "end")]


def stays(rows: int = 400) -> pa.Table:
    """Half of the stays of 0 to 5 nights have no day of departure, a tenth none of arrival."""
    r = np.random.default_rng(0)
    arrival = r.integers(0, 20, rows)
    departure = arrival + r.integers(0, 6, rows)
    return pa.table(
        {
            "arrival": pa.array(arrival, mask=r.random(rows) < 0.1),
            "departure": pa.array(departure, mask=r.random(rows) < 0.5),
            "guests": r.integers(1, 5, rows),
        }
    )


@pytest.mark.parametrize(
    ("text", "columns", "meant"),
    [
        ("a <= b", LEVELS, "a <= b"),
        ("b>a", LEVELS, "a < b"),
        ("2*b + 1 >= a - 3", LEVELS, "a - 3 <= 2 * b + 1"),
        ('net + tax <= "gross pay"', REALS, 'net + tax <= "gross pay"'),
        ("end >= start", DAYS, "start <= end"),
    ],
)
def test_a_constraint_is_what_it_says(text: str, columns: list[Column], meant: str) -> None:
    found = constraint_of(text, columns)
    assert str(found) == meant
    assert constraint_of(meant, columns) == found


def test_it_holds_up_to_rounding_and_where_something_is_missing() -> None:
    values = np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.29], [np.nan, 0.2, 0.0], [0.1, 0.2, 0.4]])
    rows = holding(values, REALS, ['net + tax <= "gross pay"'])
    assert rows.tolist() == [True, False, True, True]  # .1 + .2 > .3 in float64
    equal = np.array([[2.0, 2.0], [1.0, 2.0], [1.0, np.nan]])
    assert holding(equal, LEVELS, ["a < b"]).tolist() == [False, True, True]
    assert holding(equal, LEVELS, ["a <= b", "b <= a"]).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("text", "columns", "line"),
    [
        ("a = b", LEVELS, "write two sums of columns with <=, <, >= or > between them"),
        ("a <= b <= a", LEVELS, "write two sums of columns"),
        ("a <= c", LEVELS, "'c' is not a column of numbers or dates that a model sees"),
        ("a <= 3", LEVELS, "it names no column"),
        ("a b <= a", LEVELS, "cannot read 'b' in it"),
        ("a <= start", [*LEVELS, *DAYS], "dates compare with dates, numbers with numbers"),
        (
            "a <= c",
            [LEVELS[0], Column("c", "binary", ("x", "y"))],
            "'c' is not a column of numbers",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, columns: list[Column], line: str) -> None:
    with pytest.raises(UsageError, match=re.escape(line)):
        constraint_of(text, columns)


def test_kept_rows_are_draws_given_that_the_constraint_holds() -> None:
    """Two levels of 4 are uniform, so the 10 pairs with a <= b are; chi squared, alpha 1e-6."""

    def draw(number: int, count: int) -> np.ndarray:
        return np.random.default_rng([7, number]).integers(0, 4, (count, 2)).astype(float)

    rows = kept(draw, 20_000, LEVELS, ["a <= b"])
    times = Counter(map(tuple, rows.tolist()))
    assert set(times) == {(a, b) for a in range(4) for b in range(a, 4)}
    assert sum((n - 2000) ** 2 / 2000 for n in times.values()) < chi2.isf(1e-6, 9)
    first = draw(0, 20_000)
    same = first[first[:, 0] <= first[:, 1]]
    assert np.array_equal(rows[: len(same)], same)  # nothing that held is drawn again


def test_a_constraint_that_hardly_a_row_keeps_is_refused() -> None:
    asked = []

    def draw(number: int, count: int) -> np.ndarray:
        asked.append(count)
        return np.tile([3.0, 0.0], (count, 1))

    with pytest.raises(UsageError, match=r"only 0 of 1,010 rows that the model made keep a <= b"):
        kept(draw, 10, LEVELS, ["a <= b"])
    assert sum(asked) == 1010


def test_only_what_chance_would_break_is_learned() -> None:
    r = np.random.default_rng(1)
    a = r.integers(0, 90, 300).astype(float)
    b = a + r.integers(0, 30, 300)
    c = b + r.integers(0, 30, 300)
    far = 1000 + a  # never below a, and not because of it
    columns = [Column(n, "levels", high=2000, type="int") for n in ("c", "a", "far", "b")]
    codes = np.column_stack([c, a, far, b])
    assert sorted(learned(codes, columns)) == ["a <= b", "b <= c"]  # a <= c follows
    assert learned(codes[:20], columns) == []  # too few rows to tell
    codes[5, 3] = a[5] - 1
    assert sorted(learned(codes, columns)) == ["a <= c", "b <= c"]
    days = [Column("c", "date", high=2000, type="date"), *columns[1:]]
    assert learned(codes, days) == []


def test_made_rows_keep_what_the_data_keep(tmp_path: Path) -> None:
    """The exact model of these columns, independent given a category, breaks it in many rows."""
    table = stays()
    run = taut.fit(table, tmp_path / "run", model="Mixture(num_states=2)", max_epochs=10)
    assert run.schema.constraints == ("arrival <= departure",)
    free = run.model.sample(2000)
    assert float((free[:, 0] > free[:, 1]).double().mean()) > 0.05
    made = sample_rows(run, 2000, seed=3)
    assert bool((made[:, 0] <= made[:, 1]).all())
    assert torch.equal(sample_rows(run, 2000, seed=3), made)
    loaded = taut.load(tmp_path / "run")
    assert loaded.schema.constraints == run.schema.constraints
    for whole in (loaded.impute(table), *loaded.impute(table, num_imputations=3)):
        arrival, departure = (whole.column(n).to_numpy() for n in ("arrival", "departure"))
        assert (arrival <= departure).all()
        for name in ("arrival", "departure", "guests"):
            old, new = table.column(name), whole.column(name)
            seen = old.is_valid().to_numpy()
            assert np.array_equal(new.to_numpy()[seen], old.drop_null().to_numpy())


def test_gaps_of_which_none_contradicts_a_constraint_are_filled() -> None:
    """A VAE was asked for draws of no rows at all, and raised."""
    model = taut.VAEstimator(model="VAE", latent_dim=1, max_epochs=1, num_samples=10)
    model.fit(stays().to_pandas())
    assert model.schema_.constraints
    rows = pa.table({"arrival": [3, 4] * 10, "departure": [6, 7] * 10, "guests": [None, *[2] * 19]})
    whole = model.impute(rows)
    assert whole.column("guests").null_count == 0
    assert whole.select([0, 1]).equals(rows.select([0, 1]))


def test_draws_that_fill_gaps_are_those_of_the_model_that_keep_the_constraint(
    tmp_path: Path,
) -> None:
    """A mixture of one state: departure is independent of arrival, so its draws are its marginal
    above the arrival; z-test of the mean of 400, alpha 1e-6.
    """
    table = stays()
    run = taut.fit(table, tmp_path / "run", model="Mixture(num_states=1)", max_epochs=10)
    row = torch.tensor([[12.0, torch.nan, 2.0]]).expand(400, 3)
    column = run.schema.modelled[1]
    codes = row.clone()
    codes[:, 0] = float(run.schema.modelled[0].codes(12.0))
    filled = fill_rows(run, codes, num_imputations=1, seed=5)
    levels = torch.arange(column.num_levels)
    rows = codes[:1].expand(len(levels), 3).clone()
    rows[:, 1] = levels
    p = run.model.log_prob(rows).detach().double().softmax(0)
    allowed = torch.from_numpy(holding(rows.numpy(), run.schema.columns, run.schema.constraints))
    p = torch.where(allowed, p, 0.0) / p[allowed].sum()
    mean = float((p * levels).sum())
    spread = float((p * (levels - mean) ** 2).sum().sqrt())
    draws = filled.draws[0, :, 1].double()
    assert abs(float(draws.mean()) - mean) < 4.9 * spread / 20


def test_a_schema_file_states_constraints(tmp_path: Path) -> None:
    r = np.random.default_rng(2)
    low = r.integers(0, 90, 400)
    table = pa.table({"low": low, "high": low + r.integers(0, 9, 400), "other": low[::-1]})
    path = tmp_path / "schema.toml"
    path.write_text('constraints = ["high >= low"]\n')
    data = prepare(table, schema=path)
    assert data.schema.constraints == ("low <= high",)
    text = to_toml(data.schema.columns, (), data.schema.constraints)
    assert from_toml(text, "s").constraints == ("low <= high",)
    path.write_text("constraints = []\n")
    assert prepare(table, schema=path).schema.constraints == ()
    assert prepare(table).schema.constraints == ("low <= high",)
    for rule, line in (
        ('["high <= low"]', "rows contradict high <= low, the first is row"),
        ('["high <= lwo"]', "'lwo' is not a column of numbers or dates that a model sees; did you"),
        ('"high"', 'constraints must be a list of texts, such as ["start <= end"]'),
    ):
        path.write_text(f"constraints = {rule}\n")
        with pytest.raises((DataError, UsageError), match=re.escape(line)):
            prepare(table, schema=path)


def test_new_rows_that_contradict_are_counted(tmp_path: Path) -> None:
    run = taut.fit(stays(), tmp_path / "run", model="Mixture(num_states=1)", max_epochs=2)
    odd = pa.table({"arrival": [5, 5, 5], "departure": [5, 4, 6], "guests": [1, 1, 1]})
    notes = run._handed(odd).new.notes
    assert any(
        "1 of 3 rows contradict arrival <= departure, the first is row 1" in n for n in notes
    )


def test_a_key_counts_on_in_made_rows(tmp_path: Path) -> None:
    number = np.random.default_rng(3).permutation(400) + 1000
    table = stays().append_column("number", pa.array(number))
    path = tmp_path / "schema.toml"
    path.write_text('[columns.number]\nkind = "key"\n')
    run = taut.fit(
        table, tmp_path / "run", schema=path, model="Mixture(num_states=1)", max_epochs=2
    )
    assert 'kind = "key"' in to_toml(run.schema.columns, ())
    made = taut.load(tmp_path / "run").sample(5)
    assert list(made["number"]) == [1400, 1401, 1402, 1403, 1404]
    some = table.slice(3, 4)
    assert run.score(some).column("number").to_pylist() == number[3:7].tolist()
    assert run.impute(some).column("number").to_pylist() == number[3:7].tolist()
    lacking = some.set_column(3, "number", pa.array([None, 1, 2, 3]))
    assert run.impute(lacking).column("number").to_pylist() == [None, 1, 2, 3]
    for values in (number // 2, number + 0.5):
        with pytest.raises(DataError, match="kind key needs whole numbers that are all different"):
            prepare(table.set_column(3, "number", pa.array(values)), schema=path)


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("a <= b", "constraints must be a list of texts"),
        ([3], "constraints must be a list of texts"),
        (["a <= c"], "'c' is not a column of numbers"),
        (["a"], "write two sums of columns"),
    ],
)
def test_a_damaged_schema_is_refused(value: object, line: str) -> None:
    fields = Schema("table", (2,), 0.0, 0.0, columns=tuple(LEVELS)).to_dict()
    assert Schema.from_dict(fields | {"constraints": ["a <= b"]}).constraints == ("a <= b",)
    with pytest.raises(UsageError, match=re.escape(line)):
        Schema.from_dict(fields | {"constraints": value})
    with pytest.raises(UsageError, match="constraints are between columns of a table"):
        Schema("real", (2,), 0.0, 1.0, constraints=("x0 <= x1",))
