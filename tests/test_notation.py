"""Numbers and dates in disguise: read as what they are, with a note, or refused with the remedy."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pytest

from taut.data.dataset import prepare
from taut.data.schema import Schema
from taut.data.tables.column import Column
from taut.data.tables.infer import encode, infer
from taut.data.tables.notation import days_in, find, numbers_in
from taut.data.tables.prepare import Asked, fill, prepare_tables
from taut.system.errors import DataError, UsageError

VALUES = np.round(np.random.default_rng(0).lognormal(7, 1, 300), 2)
SIGNED = np.round(np.random.default_rng(1).normal(0, 30, 300), 1)
DAYS = [
    datetime.date(2021, 1, 1) + datetime.timedelta(int(d))
    for d in np.random.default_rng(2).integers(0, 700, 300)
]
EPOCH = datetime.date(1970, 1, 1)


def understood(values, name="x", **options):
    """The column of some texts, the lines on it, and its codes."""
    table = pa.table({name: pa.array(values), "other": pa.array(np.arange(len(values)) / 7 + 0.01)})
    columns, notes, problems = infer([table], "t", **options)
    if problems:
        return None, notes, problems, None
    codes, wrong, _ = encode(table, columns, "t")
    assert wrong == []
    return columns[0], notes, problems, codes[:, 0] if columns[0].modelled else None


def french(x: float, space: str) -> str:
    return f"{x:,.2f}".replace(",", "_").replace(".", ",").replace("_", space)


@pytest.mark.parametrize(
    ("write", "notation", "values"),
    [
        (lambda x: f"${x:,.2f}", "$#.", VALUES),
        (lambda x: f"{x:.2f} €", "#.€", VALUES),
        (lambda x: f"{x:.2f}\u00a0€".replace(".", ","), "#,€", VALUES),
        (lambda x: f"R$ {french(x, '.')}", "R$#,", VALUES),
        (lambda x: f"USD {x:.2f}", "USD#.", VALUES),
        (lambda x: f"{x:.1f}%", "#.%", SIGNED),
        (lambda x: f"{x:.1f} kg", "#.kg", SIGNED),
        (lambda x: f"{x:.1f}°C", "#.°C", SIGNED),
        (lambda x: f"({-x:,.1f})" if x < 0 else f"{x:,.1f}", "#.", SIGNED),
        (lambda x: f"-${-x:,.1f}" if x < 0 else f"${x:,.1f}", "$#.", SIGNED),
        (lambda x: f"{-x:.1f}-" if x < 0 else f"{x:.1f}", "#.", SIGNED),
        (lambda x: french(x, " "), "#,", VALUES),
        (lambda x: french(x, "\u00a0"), "#,", VALUES),
        (lambda x: french(x, "\u202f"), "#,", VALUES),
        (lambda x: french(x, "\u2009"), "#,", VALUES),
        (lambda x: french(x, "."), "#,", VALUES),
        (lambda x: f"{x:,.2f}".replace(",", "'"), "#.", VALUES),
        (lambda x: f"{x:,.2f}", "#.", VALUES),
        (lambda x: f"{x:.1f}".replace("-", "\u2212"), "#.", SIGNED),
        (lambda x: f"{x:.2f}".replace(".", ","), "#,", VALUES),
    ],
)
def test_numbers_in_disguise_are_read_as_numbers(write, notation, values):
    texts = [write(float(x)) for x in values]
    column, notes, _, codes = understood(texts)
    assert (column.kind in ("real", "positive"), column.notation) == (True, notation)
    np.testing.assert_array_equal(codes, values)
    assert any("'x' holds numbers such as" in line and "read as" in line for line in notes)
    assert Column.from_dict(column.to_dict()) == column


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (
            [f"{i * 37 + 1000:,}" for i in range(100)],
            "'1,000', which may be 1000 or 1.000; write them without that mark",
        ),
        (
            [f"{i * 37 + 1000:,} €".replace(",", ".") for i in range(100)],
            "'1.000', which may be 1000 or 1.000",
        ),
        (
            ["1,234.5", "1.234,5", "7,5"] * 50,
            "decimal points and with decimal commas, '1,234.5' and '1.234,5'",
        ),
        (
            [f"{i} {'kg' if i % 3 else 'lb'}" for i in range(100)],
            "numbers with 'kg' and with 'lb', such as '0 lb'",
        ),
        (
            [f"{i % 24:02d}:{i % 60:02d}" for i in range(100)],
            "times of day such as '00:00'; give them as a number",
        ),
        (
            [f"{i % 24:02d}:{i % 60:02d}:30" for i in range(100)],
            "times of day such as '00:00:30'; give them as a number",
        ),
        (
            ["03/04/2021", "05/06/2021", "07/08/2021"] * 50,
            "'03/04/2021', whose day and month cannot be told apart; write",
        ),
        (
            ["31/01/2021", "01/31/2021", "01/02/2021"] * 50,
            "month, day ('01/31/2021') and of the order day, month ('31/01/2021')",
        ),
        (
            ["31/01/2021", "2021-01-31"] * 50,
            "dates in two notations, '2021-01-31' (50 values) and '31/01/2021' (50)",
        ),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(texts, said):
    column, _, problems, _ = understood(texts)
    assert column is None
    assert said in problems[0]
    assert understood(texts, given={"x": {"kind": "category"}})[0].kind == "category"
    assert understood(texts, given={"x": {"kind": "id"}})[0].kind == "id"


@pytest.mark.parametrize(
    ("pattern", "notation"),
    [
        ("%m/%d/%Y", "MDY"),
        ("%d.%m.%Y", "DMY"),
        ("%d/%m/%Y", "DMY"),
        ("%d-%m-%y", "DMY"),
        ("%Y/%m/%d", "YMD"),
        ("%Y.%m.%d", "YMD"),
        ("%b %d, %Y", "YMD"),
        ("%d %B %Y", "YMD"),
        ("%d-%b-%y", "YMD"),
        ("%A, %d %b %Y", "YMD"),
    ],
)
def test_dates_in_common_notations_are_read_as_dates(pattern, notation):
    column, notes, _, codes = understood([day.strftime(pattern) for day in DAYS])
    assert (column.kind, column.type, column.notation) == ("date", "date", notation)
    assert column.values(codes).tolist() == [(day - EPOCH).days for day in DAYS]
    assert any("'x' holds dates such as" in line for line in notes)


@pytest.mark.parametrize(
    ("text", "when", "type_"),
    [
        ("12/31/2021 13:45:30", datetime.datetime(2021, 12, 31, 13, 45, 30), "timestamp"),
        ("12/31/2021 1:45 PM", datetime.datetime(2021, 12, 31, 13, 45), "timestamp"),
        ("12/31/2021 12:05 am", datetime.datetime(2021, 12, 31, 0, 5), "timestamp"),
        ("2021-12-31 13:45:30 UTC", datetime.datetime(2021, 12, 31, 13, 45, 30), "timestamp UTC"),
        ("2021-12-31 13:45:30 +0230", datetime.datetime(2021, 12, 31, 11, 15, 30), "timestamp UTC"),
        (
            "Fri, 31 Dec 2021 13:45:30 GMT",
            datetime.datetime(2021, 12, 31, 13, 45, 30),
            "timestamp UTC",
        ),
        ("2021-12-31 UTC", datetime.datetime(2021, 12, 31), "timestamp UTC"),
        ("2021-12", datetime.datetime(2021, 12, 1), "date"),
        ("2021Q4", datetime.datetime(2021, 10, 1), "date"),
        ("2021-12-27/2022-01-02", datetime.datetime(2021, 12, 27), "date"),
    ],
)
def test_times_and_zones(text, when, type_):
    notation = find([text]).notation
    days, kind = days_in([text, "12/32/2021", "soon"], notation)
    assert days[0] == (when - datetime.datetime(1970, 1, 1)) / datetime.timedelta(days=1)
    assert np.isnan(days[1:]).all()
    assert kind == type_


def test_periods_of_pandas_are_dates():
    pandas = pytest.importorskip("pandas")
    from taut.data.tables.frames import from_frame

    table = from_frame(pandas.DataFrame({"x": pandas.PeriodIndex(DAYS, freq="M"), "y": VALUES}))
    column = infer([table], "t")[0][0]
    assert (column.kind, column.low) == ("date", (datetime.date(2021, 1, 1) - EPOCH).days)


@pytest.mark.parametrize(
    "texts",
    [
        [f"A{i:04d}" for i in range(300)],
        [f"{i}-{i * 7919 % 1009}" for i in range(300)],
        [f"192.168.{i % 7}.{i}" for i in range(300)],
        [f"+49 {i * 37 + 100} {i * 7919 + 1000000}" for i in range(300)],
        [f"{i % 17}.{i % 19}.{i % 23}" for i in range(300)],
    ],
)
def test_what_names_the_rows_stays_an_id(texts):
    assert understood(texts)[0].kind == "id"


def test_few_texts_with_a_number_stay_levels_and_are_told():
    column, notes, _, _ = understood(["4dr", "5dr", "2dr"] * 100)
    assert column.levels == ("2dr", "4dr", "5dr")
    assert "'x' holds texts such as '4dr', which may be numbers (4)" in notes[0]
    assert understood(["4dr", "5dr", "2dr"] * 100, given={"x": {"kind": "real"}})[3][
        :3
    ].tolist() == [4, 5, 2]
    column, _, _, codes = understood(["10%", "20%"] * 100)
    assert (column.kind, column.levels, codes[:2].tolist()) == ("binary", ("10", "20"), [0, 1])


def test_new_rows_wear_the_dress_of_the_training_or_none():
    column = understood([f"{x:.1f} kg" for x in SIGNED])[0]
    codes, problems, _ = encode(pa.table({"x": ["70 kg", "71.5", "154 lb"]}), [column], "t")
    assert codes[:2, 0].tolist() == [70, 71.5]
    assert "1 values (33.3 %) of 'x' are not numbers, the first ('154 lb') in row 2" in problems[0]
    column = understood([day.strftime("%m/%d/%Y") for day in DAYS])[0]
    codes, problems, _ = encode(pa.table({"x": ["01/02/2021", "2021-01-02"]}), [column], "t")
    assert (codes[0, 0], problems) == (codes[1, 0], [])


def test_a_notation_of_a_folder_is_believed_only_if_it_is_one():
    fields = Column("x", "real", high=1.0).to_dict()
    for notation in ("XYZ", "#;kg", "a" * 99 + "#."):
        with pytest.raises(UsageError, match="its notation is unknown"):
            Column.from_dict({**fields, "notation": notation})


@pytest.mark.parametrize(
    ("base", "sentinel", "remedy"),
    [
        ([str(day) for day in DAYS], "9999-12-31", "'9999-12-31'"),
        ([str(day) for day in DAYS], "1900-01-01", "'1900-01-01'"),
        ([str(day) for day in DAYS], "1970-01-01", "'1970-01-01'"),
        ([str(day) for day in DAYS], "0001-01-01", "'0001-01-01'"),
        ([day.strftime("%d.%m.%Y") for day in DAYS], "31.12.9999", "'31.12.9999'"),
        (DAYS, datetime.date(9999, 12, 31), "'9999-12-31'"),
        (SIGNED.tolist(), -9999.0, "=-9999"),
        (np.abs(SIGNED * 10).tolist(), -999.0, "=-999"),
        ([f"{x} kg" for x in SIGNED], "-99999 kg", "=-99999"),
    ],
)
def test_stand_ins_for_no_date_and_no_number_are_told(base, sentinel, remedy):
    values = list(base)
    values[::50] = [sentinel] * 6
    _, notes, problems, _ = understood(values)
    assert problems == []
    assert any(
        "may mean missing" in line
        and line.endswith("--missing-values" + " " * (remedy[0] != "=") + remedy)
        for line in notes
    )
    assert not any("may mean missing" in line for line in understood(base)[1])


def test_numbers_do_not_wear_what_they_cannot():
    for text in ("$", "€5€", "(5", "5)", "--5", "-5-", "1,23,4.5", "1 2 3", "12:30", "R12", "5 @"):
        assert np.isnan(numbers_in([text], "$#.")[0]), text


def test_an_error_says_what_was_left_out():
    table = pa.table({"k": ["a"] * 60, "ref": [f"R{i:03d}" for i in range(60)]})
    with pytest.raises(DataError) as caught:
        prepare_tables([table], ["t"], Asked(None, (), ()), (0.1, 0.1), 10)
    assert "has no column left to model" in caught.value.problems[0]
    assert any("'ref' looks like an id, omitted" in line for line in caught.value.problems[1:])


def test_a_file_of_disguised_numbers_becomes_a_data_set(tmp_path):
    path = tmp_path / "t.csv"
    rows = (
        f'"${x:,.2f}",{day:%m/%d/%Y},{y:.1f}%'
        for x, y, day in zip(VALUES, SIGNED, DAYS, strict=True)
    )
    path.write_text("\n".join(["price,when,share", *rows]))
    assert [c.kind for c in prepare(path).schema.columns] == ["positive", "date", "real"]


def test_gaps_of_disguised_numbers_are_filled_and_the_rest_stays():
    texts = [f"{x:.1f} kg" for x in SIGNED]
    texts[3] = "NA"
    table = pa.table({"w": texts, "y": VALUES})
    columns = infer([table], "t")[0]
    values = encode(table, columns, "t")[0]
    values[3, 0] = 71.5
    schema = Schema("table", (2,), 0.0, 0.0, True, tuple(columns))
    filled = fill(table, values, schema)[0]
    assert filled["w"].to_pylist() == [*texts[:3], "71.5", *texts[4:]]
    assert encode(filled, columns, "t")[0][:5, 0].tolist() == [*SIGNED[:3], 71.5, SIGNED[4]]
