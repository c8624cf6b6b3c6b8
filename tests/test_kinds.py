"""Columns as real files have them: spikes, bounds, grids, wide integers, large offsets.

Understood, stored and given back.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import taut
from taut.data import to_table
from taut.data.tables.cells import days_of, yyyymmdd
from taut.data.tables.column import Column
from taut.data.tables.infer import decode, encode, from_toml, infer, to_toml
from taut.system.errors import UsageError

N = 1500


def one(values, **options):
    """The column of some values, the notes and the problems."""
    beside = np.random.default_rng(1).normal(size=len(values))
    columns, notes, problems = infer(
        [pa.table({"x": pa.array(values), "beside": beside})], "t", **options
    )
    return next((c for c in columns if c.name == "x"), None), notes, problems


def rng():
    return np.random.default_rng(0)


def zeros(values, share, r):
    return np.where(r.random(len(values)) < share, 0, values)


WHOLE = np.arange(0, 361, 10)
SHAPES = {  # values, kind, step, atoms, ends
    "rain": (lambda r: zeros(r.gamma(1, 30, N).round(1), 0.9, r), "mixed", 0.1, (0.0,), "low"),
    "rain, often the same": (
        lambda r: zeros(r.gamma(1, 0.3, N).round(1), 0.7, r),
        "levels",
        0.1,
        (),
        "",
    ),
    "visibility": (
        lambda r: np.minimum(10, r.lognormal(2.5, 1, N)).round(3),
        "mixed",
        0.001,
        (10.0,),
        "high",
    ),
    "incomes": (
        lambda r: zeros(r.lognormal(10, 1, N).round(2), 0.15, r),
        "mixed",
        0.01,
        (0.0,),
        "low",
    ),
    "gains": (lambda r: zeros(r.integers(100, 99_999, N), 0.9, r), "mixed", 1.0, (0.0,), "low"),
    "wind": (lambda r: r.choice(WHOLE, N), "levels", 10.0, (), ""),
    "degrees": (lambda r: r.integers(0, 361, N), "levels", 1.0, (), ""),
    "stars": (lambda r: r.choice(np.arange(0.5, 5.5, 0.5), N), "levels", 0.5, (), ""),
    "humidity": (
        lambda r: np.minimum(99.99, 100 - r.gamma(2, 4, N)).round(2),
        "mixed",
        0.01,
        (),
        "",
    ),
    "uniform": (lambda r: r.random(N), "mixed", 0.0, (), ""),
    "normal": (lambda r: r.normal(size=N), "real", 0.0, (), ""),
    "prices": (lambda r: r.lognormal(3, 1, N).round(2), "positive", 0.01, (), ""),
    "counts": (lambda r: r.negative_binomial(0.5, 0.002, N), "count", 1.0, (), ""),
    "counts with zeros": (
        lambda r: zeros(r.negative_binomial(1, 0.01, N), 0.6, r),
        "count",
        1.0,
        (),
        "",
    ),
    "northings": (lambda r: (5_413_000 + r.normal(0, 3, N)).round(2), "real", 0.01, (), ""),
    "ISBN": (lambda r: r.integers(9_780_000_000_000, 9_790_000_000_000, N), "mixed", 1.0, (), ""),
    "dates": (
        lambda r: yyyymmdd(18_000.0 + r.integers(0, 700, N)).astype(int),
        "date",
        1.0,
        (),
        "",
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_kind_follows_from_the_shape(name: str) -> None:
    make, kind, step, atoms, ends = SHAPES[name]
    values = make(rng())
    column, _, problems = one(values)
    assert problems == []
    assert (column.kind, column.step, column.atoms, column.bounded) == (kind, step, atoms, ends)


@pytest.mark.parametrize("name", SHAPES)
def test_every_digit_comes_back_through_storage(name: str) -> None:
    """Stored in float32, on the grid again by ``to_table``.

    No value has changed where a column has a grid.
    """
    values = SHAPES[name][0](rng())
    whole = pa.table({"x": values})
    columns, _, _ = infer([whole], "t")
    codes, problems, _ = encode(whole, columns, "t")
    assert problems == []
    assert decode(codes, columns).equals(whole)
    # more numbers than float32 tells apart, which is noted
    if columns[0].step and name not in (
        "ISBN",
        "incomes",
    ):
        assert to_table(codes.astype(np.float32), columns).equals(whole)
    again = Column.from_dict(columns[0].to_dict())
    assert again == columns[0]


@pytest.mark.parametrize("name", SHAPES)
def test_what_a_model_makes_is_in_range_and_on_the_grid(name: str) -> None:
    column = one(SHAPES[name][0](rng()))[0]
    wild = np.concatenate(
        [10 * rng().normal(size=200) * max(1.0, column.high - column.low), rng().normal(size=200)]
    )
    made = np.asarray(to_table(wild[:, None], [column]).column(0).to_pylist(), float)
    made = days_of(made) if column.kind == "date" else made
    if column.kind in ("levels", "mixed", "date"):
        assert made.min() >= column.low
        assert made.max() <= column.high
    if column.step:
        steps = (made - column.low) / column.step
        assert np.abs(steps - np.round(steps)).max() < 1e-3
    assert "x" in from_toml(to_toml([column], ()), "s")[0]


@pytest.mark.parametrize("name", SHAPES)
def test_the_schema_file_says_all_of_it(name: str) -> None:
    values = SHAPES[name][0](rng())
    column = one(values)[0]
    given, *_ = from_toml(to_toml([column], ()), "s")
    again, _, problems = one(values, given=given)
    assert (again, problems) == (column, [])


def test_a_person_says_what_a_column_is() -> None:
    values = rng().normal(50, 10, N).clip(0, 100).round(1)
    column, _, _ = one(values, given={"x": {"kind": "mixed", "low": 0, "high": 100}})
    assert (column.low, column.high, column.bounded, column.atoms) == (0, 100, "both", ())
    column, _, _ = one(values, given={"x": {"kind": "levels", "low": 0, "high": 100, "step": 0.1}})
    assert column.num_levels == 1001
    assert "outside its levels" in one(values, given={"x": {"kind": "mixed", "low": 60}})[2][0]
    for entry, words in (
        ({"kind": "real", "low": 1}, "low and high belong to the kinds levels and mixed"),
        ({"kind": "count", "step": 2}, "step belongs to the kinds"),
        ({"kind": "real", "atoms": [0]}, "atoms belong to the kind mixed"),
        ({"kind": "mixed", "atoms": ["0"]}, "atoms must be a list of at most 8 numbers"),
        ({"kind": "levels", "step": 0}, "step must be a number above 0"),
        (
            {"kind": "levels", "step": 0.5, "low": 0.2},
            "low and high must be multiples of step, 0.5",
        ),
        ({"kind": "mixed", "low": 2, "high": 1}, "needs low < high"),
        ({"kind": "mixed", "low": "a"}, "low and high must be numbers"),
    ):
        assert words in one(values, given={"x": entry})[2][0]


def test_dates_in_disguise_are_dates() -> None:
    days = 18_000.0 + np.arange(700)
    numbers = yyyymmdd(days)
    assert numbers[:3].tolist() == [20190414, 20190415, 20190416]
    np.testing.assert_array_equal(days_of(numbers), days)
    wrong = np.array([20210229, 20211301, 20210100, 17991231, 20210101.5, np.nan, -20210101])
    assert np.isnan(days_of(wrong)).all()
    column, notes, _ = one(numbers.astype(int))
    assert notes == [
        "t: 'x' holds dates such as 20190414, read as dates and written again so; "
        'kind = "levels" in a schema file keeps them integers'
    ]
    problems = encode(pa.table({"x": [20190414, 20210229]}), [column], "t")[1]
    assert (
        "1 values (50 %) of 'x' are not dates (YYYY-MM-DD), the first ('20210229') in row 1"
        in problems[0]
    )
    assert one(numbers.astype(int), given={"x": {"kind": "levels"}})[0].kind == "levels"
    assert one(numbers[:20].astype(int), given={"x": {"kind": "date"}})[0].type == "yyyymmdd"


def test_integers_that_no_float_tells_apart_are_left_out() -> None:
    cards = rng().choice(rng().integers(10**15, 9 * 10**18, 60), N)
    column, notes, _ = one(cards)
    assert column.kind == "id"
    assert "looks like an id, omitted: no float tells its integers from 2^53 on apart" in notes[0]
    problems = one(cards, given={"x": {"kind": "count"}})[2]
    assert "which no float tells apart from 2^53 on; omit the column" in problems[0]
    counted = replace(one(np.arange(0, 9000, 3) // 7)[0], kind="count")
    assert "integers from 2^53 on" in encode(pa.table({"x": [2**53]}), [counted], "t")[1][0]


def test_tiny_positive_numbers_are_said_with_their_row() -> None:
    torch.set_default_dtype(torch.float32)
    p = np.full(500, 0.5) + rng().random(500)
    p[7] = 1e-188
    column = one(p, given={"x": {"kind": "positive"}})[0]
    problems = encode(pa.table({"x": p}), [column], "t")[1]
    assert problems == [
        "t: 1 values (0.2 %) of 'x' are above 0 and below 1.18e-38, the smallest float32 (largest "
        "1e-188, first 1e-188 in row 7 "
        "(from 0, header not counted)); give their logarithms"
    ]


def test_times_keep_their_second() -> None:
    seconds = rng().integers(0, 30 * 86_400, N)
    times = pd.Series(pd.Timestamp("2021-01-01") + pd.to_timedelta(seconds, "s"))
    column, notes, _ = one(times)
    assert (column.kind, notes) == ("date", [])
    assert column.step == pytest.approx(1 / 86_400)
    codes = encode(pa.table({"x": pa.array(times)}), [column], "t")[0].astype(np.float32)
    back = to_table(codes, [column]).column(0).to_pandas()
    assert (back == times.astype("datetime64[us]")).all()


def test_a_column_of_another_version_is_refused() -> None:
    fields = {
        k: v
        for k, v in one(rng().normal(size=60))[0].to_dict().items()
        if k not in ("atoms", "offset")
    }
    with pytest.raises(
        UsageError,
        match=r"offset, atoms missing: it was written by another version of taut; train again",
    ):
        Column.from_dict(fields)


def test_samples_of_large_numbers_have_all_digits() -> None:
    torch.set_default_dtype(torch.float32)
    near = rng().normal(0, 3, 400).round(2)
    beside = near + rng().normal(size=400)
    digits = []
    for start in (0, 5_413_000):
        frame = pd.DataFrame({"x": (near + start).round(2), "v": beside})
        model = taut.VAEstimator(latent_dim=2, max_epochs=3, random_state=0, num_samples=20).fit(
            frame
        )
        made = model.sample(400).x.to_numpy()
        digits.append(len(np.unique(made)))
        assert np.abs(made * 100 - np.round(made * 100)).max() < 1e-6
    assert min(digits) > 300


def test_atoms_are_in_samples_and_gaps() -> None:
    torch.set_default_dtype(torch.float32)
    r = rng()
    rain = zeros(r.gamma(1, 3, 600), 0.7, r)
    frame = pd.DataFrame({"rain": rain, "v": rain + r.normal(size=600)})
    model = taut.VAEstimator(latent_dim=2, max_epochs=30, random_state=0, num_samples=20).fit(frame)
    made = model.sample(2000).rain.to_numpy()
    share = (rain == 0).mean()
    error = math.sqrt(share * (1 - share) * (1 / 600 + 1 / 2000))
    # z beyond 4.4 has a probability of 1e-5, and the model is off by a little
    assert abs((made == 0).mean() - share) < 4.4 * error
    assert made.min() == 0
    assert made.max() <= rain.max()
    gaps = frame.mask(r.random(frame.shape) < 0.2)
    filled = model.impute(gaps)
    assert (filled.rain >= 0).all()
    assert math.isfinite(model.score(gaps))


@pytest.mark.parametrize("kind", ["count", "levels", "real", "positive", "mixed"])
def test_what_is_written_of_a_column_on_a_grid_is_read_again(kind: str) -> None:
    """Counts of tens were written with a step, which belongs to other kinds."""
    values = 10 * np.random.default_rng(0).geometric(0.02, 400).astype(float)
    column, _, problems = one(values, given={"x": {"kind": kind}})
    assert not problems
    given, *_ = from_toml(to_toml((column,), ()), "s.toml")
    again, _, problems = one(values, given=given)
    assert (again, problems) == (column, [])
