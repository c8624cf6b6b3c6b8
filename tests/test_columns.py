"""The rules by which a table is understood, each with the words that a person reads, and codes that
come back exactly.
"""

from __future__ import annotations

import datetime
import decimal
import math
import random
import tomllib
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from taut.data.tables.infer import KINDS, MISSING, Column, decode, encode, from_toml, infer, to_toml
from taut.system.errors import DataError, UsageError

ROW = "(from 0, header not counted)"
KEEP = "in a schema file keeps it"


def arrow(values, kind=None):
    return values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, kind)


def table(**columns):
    return pa.table({name: arrow(values) for name, values in columns.items()})


def one(values, name="x", **options):
    """The column of some values beside a harmless one, the notes and the problems."""
    values = arrow(values)
    beside = pa.array([i - 3.5 for i in range(len(values))])
    columns, notes, problems = infer(
        [pa.table([values, beside], names=[name, "beside"])], "t", **options
    )
    return next((c for c in columns if c.name == name), None), notes, problems


def ordered(values, levels):
    return pa.DictionaryArray.from_arrays(
        pa.array([levels.index(v) for v in values]), pa.array(levels), ordered=True
    )


def unordered(values):
    return pa.array(values).dictionary_encode()


def date(text):
    return datetime.date.fromisoformat(text)


def time(text):
    return datetime.datetime.fromisoformat(text)


NORMAL = np.random.default_rng(1).normal(size=400)
RULES = [
    # values, kind, type, levels or (low, high)
    (["1", "2", "3"] * 9, "levels", "int", (1, 3)),
    (["1.5", "-2", "3e0", ".5"], "real", "float", (-2, 3)),
    (["1", " 2", "NA", None, "300"], "count", "int", (1, 300)),
    (["-1", "+300"] + ["7"] * 3, "real", "int", (-1, 300)),
    (["b", "a", "c"], "category", "text", ("a", "b", "c")),
    (["b", "A", "c"], "category", "text", ("A", "b", "c")),
    (["yes", "No"], "binary", "text", ("No", "yes")),
    (["True", "false"], "binary", "text", ("false", "True")),
    (["Y", "n"], "binary", "text", ("n", "Y")),
    (["t", "F"], "binary", "text", ("F", "t")),
    (["10", "9"], "binary", "int", ("9", "10")),
    ([True, False, None], "binary", "bool", ("false", "true")),
    ([10, 9], "binary", "int", ("9", "10")),
    ([1.0, 0.0, None], "binary", "float", ("0", "1")),
    ([1.5, 0.5], "positive", "float", (0.5, 1.5)),
    ([1.5, -0.5], "real", "float", (-0.5, 1.5)),
    ([3, 3, 258], "binary", "int", ("3", "258")),
    ([3, 4, 258], "levels", "int", (3, 258)),
    ([3, 4, 259], "count", "int", (3, 259)),
    ([-1, 4, 259], "real", "int", (-1, 259)),
    ([3.0, 4.0, float("nan"), 259.0], "count", "float", (3, 259)),
    (["a"] * 5, "constant", "text", ("a",)),
    ([7, None, 7], "constant", "int", (7, 7)),
    ([True, None], "constant", "bool", ("true",)),
    (ordered(["lo", "hi", "lo"], ["lo", "mid", "hi"]), "ordinal", "text", ("lo", "mid", "hi")),
    (ordered(["lo", "hi", "lo"], ["lo", "hi"]), "binary", "text", ("lo", "hi")),
    (ordered([3, 1, 2], [3, 2, 1]), "ordinal", "int", ("3", "2", "1")),
    (unordered(["b", "a", "c"]), "category", "text", ("a", "b", "c")),
    (unordered(["10", "9", "8"]), "category", "text", ("8", "9", "10")),
    (unordered([10, 9, 8]), "category", "int", ("8", "9", "10")),
    (unordered([0.5, 1.5, None, 2.0]), "category", "float", ("0.5", "1.5", "2")),
    (list(NORMAL), "real", "float", (NORMAL.min(), NORMAL.max())),
    (list(NORMAL - NORMAL.min() + 9), "real", "float", (9, 9 + np.ptp(NORMAL))),
    (list(np.exp(NORMAL)), "positive", "float", (np.exp(NORMAL.min()), np.exp(NORMAL.max()))),
    (pa.array(np.float16([0.5, -1.0, 2.0])), "real", "float", (-1, 2)),
    ([decimal.Decimal("1.10"), decimal.Decimal("-2.20")], "real", "float", (-2.2, 1.1)),
    (["2020-01-01", "1970-01-02", None], "date", "date", (1, 18262)),
    (["2020-01-01", "1970-01-02 12:00"], "date", "timestamp", (1.5, 18262)),
    (
        ["2020-01-01T00:00:00.5Z", "1970-01-01 02:00:00+01:00"],
        "date",
        "timestamp UTC",
        (1 / 24, 18262 + 0.5 / 86400),
    ),
    ([date("1970-01-03"), date("1969-12-31")], "date", "date", (-1, 2)),
    (pa.array([date("1970-01-03"), date("1969-12-31")], pa.date64()), "date", "date", (-1, 2)),
    (
        pa.array([time("1970-01-03"), time("1970-01-01 06:00")], pa.timestamp("ns")),
        "date",
        "timestamp",
        (0.25, 2),
    ),
    (pa.array([0, 86400], pa.timestamp("s", "Asia/Tokyo")), "date", "timestamp UTC", (0, 1)),
    (["2020-02-30", "2020-01-01", "x"], "category", "text", ("2020-01-01", "2020-02-30", "x")),
    (["1_000", "٣", "0x1"], "category", "text", ("0x1", "1_000", "٣")),
]


@pytest.mark.parametrize(("values", "kind", "type_", "held"), RULES)
def test_the_kind_follows_from_the_values(values, kind, type_, held):
    column, _, problems = one(values)
    assert problems == []
    assert (column.kind, column.type) == (kind, type_)
    assert (
        column.levels == held
        if isinstance(held[0], str)
        else (column.low, column.high) == pytest.approx(held, abs=1e-12)
    )
    assert column.rows == len(values)
    assert column.missing == sum(
        v is None or v != v or v in MISSING for v in arrow(values).to_pylist()
    )


@pytest.mark.parametrize(
    ("values", "name", "kept"),
    [
        (list(range(50)), "x", "count"),
        (list(range(0, 150, 3)), "x", "count"),
        (list(range(5)), "key", "count"),
        ([5, 900, 70000], "user_id", "count"),
        ([5.0, 900.0, 70000.0], "userId", "count"),
        ([f"u{i}" for i in range(51)], "x", "category"),
        (["a", "b", "c", "a"], "user_id", "category"),
        (["a", "b", "c", "a"], "UUID", "category"),
    ],
)
def test_an_id_is_left_out_and_noted(values, name, kept):
    column, notes, problems = one(values, name)
    assert (column.kind, column.modelled, problems) == ("id", False, [])
    assert notes[0].startswith(f"t: '{name}' looks like an id, omitted; kind = \"{kept}\" ")
    assert one(values, name, given={name: {"kind": kept}})[0].kind == kept


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (list(range(49)), "x"),
        ([*range(50), None], "x"),
        ([*range(50), 49], "x"),
        (list(range(0, 250, 5)), "x"),
        ([1, 2, 3, 3], "user_id"),
        ([1, 2, 3], "paid"),
        ([f"u{i}" for i in range(50)], "x"),
        ([f"u{i // 2}" for i in range(100)], "x"),
    ],
)
def test_what_is_no_id(values, name):
    assert one(values, name)[0].kind != "id"


def test_constants_are_noted():
    column, notes, _ = one(["a", None, "a"])
    assert notes == ["t: 'x' is constant ('a'; 1 of 3 values missing), omitted"]
    assert column.describe() == ("constant", "'a'", "33.3 %")
    assert one([7, 7])[1] == ["t: 'x' is constant (7), omitted"]


def test_all_problems_are_told_at_once():
    gone = pa.nulls(3)
    data = pa.table(
        [[1.0, 2.5, np.inf], gone, [["a"], ["b"], []]], names=["a\nb", "empty", "nested"]
    )
    assert infer([data], "f")[2] == [
        "f: 1 values (33.3 %) of 'a\\nb' are infinite, the first (inf) in row 2 "
        f"{ROW}; replace them, or list inf in --missing-values",
        "f: column 'empty' holds nothing but missing values; remove it, or set kind = \"id\" in a "
        "schema file",
        "f: column 'nested' holds 'list<item: string>' values, several in one cell; give each "
        "entry a column of its own",
    ]


@pytest.mark.parametrize(
    ("kind", "mend"),
    [
        (pa.time32("s"), "which are not supported; give them as a number, such as seconds"),
        (pa.duration("ms"), "which are not supported; give them as a number, such as seconds"),
        (pa.struct([("a", pa.int8())]), "several in one cell; give each entry a column of its own"),
        (
            pa.binary(),
            'which are not supported; give them as text or numbers, or omit them (kind = "id" '
            "in a schema file)",
        ),
    ],
)
def test_types_that_are_refused(kind, mend):
    column, _, problems = one(pa.nulls(3, kind))
    assert (column, problems) == (None, [f"t: column 'x' holds '{kind}' values, {mend}"])
    assert one(pa.nulls(3, kind), given={"x": {"kind": "id"}})[0] == Column(
        "x", "id", missing=3, type="text", rows=3
    )


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (
            ["", "a"],
            "column 0 (from 0) has no name; give it one, or remove it; pandas writes its index so: "
            "save with index=False",
        ),
        (["a", " "], "column 1 (from 0) has no name; give it one, or remove it"),
        (["a\x1b[31m", "a\x1b[31m"], "'a\\x1b[31m' names more than one column; rename all but one"),
    ],
)
def test_names_must_tell_columns_apart(names, line):
    assert infer([pa.table([[1, 2], [3, 4]], names=names)], "t") == ((), [], [f"t: {line}"])


@pytest.mark.parametrize("tables", [[], [pa.table({"a": pa.array([], pa.int64())})]])
def test_no_rows(tables):
    assert infer(tables, "t")[2] == ["t: holds no rows; at least one is needed"]


def test_nothing_left_to_model():
    line = 't: has no column left to model; keep one with a schema file (such as kind = "category")'
    assert infer([table(a=[1, 1], b=["x", "x"])], "t")[2] == [line]


# What may mean missing


@pytest.mark.parametrize(
    ("values", "notes"),
    [
        (["?", "a", "b", "?"], ["'?' in 'x' (2 values) may mean missing: --missing-values '?'"]),
        (
            ["Unknown", "a", "b"],
            ["'Unknown' in 'x' (1 values) may mean missing: --missing-values 'Unknown'"],
        ),
        (
            [" -", "a", "."],
            [
                "' -' in 'x' (1 values) may mean missing: --missing-values '-'",
                "'.' in 'x' (1 values) may mean missing: --missing-values '.'",
            ],
        ),
        (
            ["?", "1", "2", "3"],
            [
                "'?' in 'x' (1 values) may mean missing: --missing-values '?' (all its other "
                "values are numbers)"
            ],
        ),
        (
            [1.5, -2.5, 3.5, -999.0, -999, -999],
            ["-999 in 'x' (3 values) may mean missing: --missing-values=-999"],
        ),
        (
            [1, 5, 9, 99] + [9999] * 3,
            ["9999 in 'x' (3 values) may mean missing: --missing-values=9999"],
        ),
        (
            ["1", "5", "9", "99"] + ["9999"] * 3,
            ["9999 in 'x' (3 values) may mean missing: --missing-values=9999"],
        ),
        (
            [1, 5, -99, -99, -99, -999, -999, -999],
            [
                "-999 in 'x' (3 values) may mean missing: --missing-values=-999",
                "-99 in 'x' (3 values) may mean missing: --missing-values=-99",
            ],
        ),
        ([1.5, -2.5, 3.5, -999.0, -999], []),
        ([1, 5, 300, 999, 999, 999], []),
        ([1, 5000, 999, 999, 999], []),
        (["what?", "a-b", "c"], []),
    ],
)
def test_stand_ins_for_missing_are_reported_and_not_guessed(values, notes):
    column, told, problems = one(values)
    assert ([*told], problems, column.missing) == ([f"t: {note}" for note in notes], [], 0)


def test_few_texts_among_many_different_numbers_are_refused():
    numbers, mend = (
        [str(i / 4) for i in range(20)] * 4,
        'kind = "category" or "id" in a --schema FILE',
    )
    for words, told in (
        (["oops"], "'oops'"),
        (["n.d.", "?", "n.d.", "?"], "'n.d.', '?'"),
        (["a", "b", "c", "d"], "'a', 'b', 'c', ..."),
    ):
        column, _, problems = one([*numbers, *words, None])
        share = (
            f"80 of its {80 + len(words)} values are numbers, but not {told}, the first in row 80 "
            f"{ROW}"
        )
        missing = f"correct the file, or --missing-values '{words[0]}' if that means missing"
        assert (column, problems) == (None, [f"t: column 'x': {share}; {missing}, or {mend}"])
        assert one([*numbers, *words], missing_values=words)[0].kind == "real"
        assert one([*numbers, *words], given={"x": {"kind": "category"}})[0].num_levels == 20 + len(
            set(words)
        )
        assert one([*numbers, *words], given={"x": {"kind": "id"}})[0].kind == "id"
    dates = [f"2020-01-{1 + i % 20:02d}" for i in range(80)]
    assert (
        "80 of its 81 values are dates, but not 'soon', the first in row 80"
        in one([*dates, "soon"])[2][0]
    )


@pytest.mark.parametrize(
    ("values", "name", "kind"),
    [
        (
            [str(i % 19) for i in range(380)] + ["a"],
            "x",
            "category",
        ),  # one number fewer than are no levels
        ([str(i % 20) for i in range(80)] + ["a"] * 5, "x", "category"),  # more than a twentieth
        (["0", "1", "2"] * 200 + ["unknown"], "x", "category"),
        ([str(i) for i in range(400)] + ["a17"], "user_id", "id"),
        (
            unordered([str(i % 40) for i in range(400)] + ["a"]),
            "x",
            "category",
        ),  # a person has said so
    ],
)
def test_levels_that_are_mostly_numbers_are_kept(values, name, kind):
    column, _, problems = one(values, name)
    assert (column.kind, problems) == (kind, [])


ABSENT = [
    "?",
    "missing",
    "n.a.",
    "#N/A",
    "--",
    "nil",
    "ND",
    "*",
    "N.D.",
    "#DIV/0!",
    "no data",
    "<NA>",
    "Unknown",
    "none",
]


@pytest.mark.parametrize("word", ABSENT)
@pytest.mark.parametrize("share", [0.02, 0.12, 0.7])
def test_a_word_for_missing_among_many_numbers_is_refused_at_any_share(word, share):
    values = [f"{i / 7:.3f}" for i in range(1000)]
    rows = range(3, 3 + int(share * 900))
    for i in rows:
        values[i] = word
    held = (
        f"t: column 'x': {1000 - len(rows)} of its 1,000 values are numbers, but not {word!r}, the "
        f"first in row 3 {ROW}"
    )
    column, _, problems = one(values)
    assert column is None
    assert problems[0].startswith(
        f"{held}; correct the file, or --missing-values {word!r} if that means missing"
    )
    kept = one(values, missing_values=[word])[0]
    assert (kept.kind, kept.missing) == ("mixed", len(rows))  # uniform numbers have edges


def test_many_other_words_among_many_numbers_are_told_where_the_column_is_lost():
    values = [str(i) for i in range(1200)] + [f"PC {i}" for i in range(400)]
    _, notes, problems = one(values)
    hint = "1,200 of its 1,600 values are numbers, the first that is none ('PC 0') in row 1200"
    assert problems == []
    assert (
        f'looks like an id, omitted; kind = "category" in a schema file keeps it; {hint}'
        in notes[0]
    )


@pytest.mark.parametrize(
    ("values", "missing_values", "missing", "held"),
    [
        ([1.5, -999, 2.5], ["-999"], 1, (1.5, 2.5)),
        ([15, -999, 16, 2500], ["-999.0"], 1, (15, 2500)),
        (["1.5", "-999.00", " ?", "2.5"], ["-999", "?"], 2, (1.5, 2.5)),
        ([1.5, np.inf, -np.inf, 2.5], ["inf", "-inf"], 2, (1.5, 2.5)),
        (["1.5", "-inf", "Infinity", "2.5"], ["inf", "-inf"], 2, (1.5, 2.5)),
        ([date("1970-01-02"), date("9999-12-31"), date("1970-01-03")], ["9999-12-31"], 1, (1, 2)),
        (["1970-01-02", "9999-12-31", "1970-01-03"], ["9999-12-31"], 1, (1, 2)),
        (["a", "?", "x", "b"], ["?", "x"], 2, ("a", "b")),
        (ordered(["lo", "?", "hi"], ["lo", "?", "hi"]), ["?"], 1, ("lo", "hi")),
    ],
)
def test_what_a_person_says_means_missing(values, missing_values, missing, held):
    column, notes, problems = one(values, missing_values=missing_values)
    assert (column.missing, notes, problems) == (missing, [], [])
    assert held == (column.levels or (column.low, column.high))
    coded, problems, notes = encode(
        pa.table({"x": arrow(values)}), [column], "t", missing_values=missing_values
    )
    assert (np.isnan(coded).sum(), problems, notes) == (missing, [], [])


def test_a_default_token_that_was_text_is_told_and_can_be_kept():
    values = ["NA", "brick", "NA", "wood", "n/a", ""]
    column, notes, _ = one(values)
    assert (column.levels, column.missing) == (("brick", "wood"), 4)
    assert notes == [
        "t: 'NA' in 'x' (2 values) is read as missing; levels in a schema file that name it keep "
        "it",
        "t: 'n/a' in 'x' (1 values) is read as missing; levels in a schema file that name it keep "
        "it",
    ]
    kept, _, problems = one(
        values, given={"x": {"kind": "category", "levels": ["NA", "brick", "wood"]}}
    )
    assert (kept.levels, kept.missing, problems) == (("NA", "brick", "wood"), 2, [])
    assert encode(table(x=values), [kept], "t")[0][:, 0] == pytest.approx(
        [0, 1, 0, 2, np.nan, np.nan], nan_ok=True
    )


# What a person should know


def test_mixed_texts_and_numbers():
    values = [str(i % 7) for i in range(40)] + ["abc"]
    line = "40 of its 41 values are numbers, the first that is none ('abc') in row 40 " + ROW
    assert one(values)[1] == [f"t: 'x' is read as a category; {line}"]
    dates = [f"2020-01-{1 + i % 7:02d}" for i in range(40)] + ["soon"]
    assert one(dates)[1] == [
        f"t: 'x' is read as a category; {line.replace('numbers', 'dates').replace('abc', 'soon')}"
    ]
    assert one(["1", "2", "3", "a"])[1] == []


def test_leading_zeros():
    values = ["01234", "99999", "00501"]
    column, notes, _ = one(values)
    note = (
        "holds numbers with leading zeros such as '01234', read as numbers; kind = \"category\" in "
        "a schema file keeps the texts"
    )
    assert (column.kind, notes) == ("count", [f"t: 'x' {note}"])
    column = one(values, given={"x": {"kind": "category"}})[0]
    assert (column.type, column.levels) == ("text", ("00501", "01234", "99999"))
    assert encode(pa.table({"x": [99999, 1234, 501]}), [column], "t")[0][:, 0].tolist() == [2, 1, 0]
    assert one(["0", "0.5", "-0.5"])[1] == []


def test_a_thousand_levels_are_too_many():
    levels = [f"v{i}" for i in range(1001)]
    ways = (
        'join levels until at most 1,000 are left, or omit the column with kind = "id" in a '
        "schema file"
    )
    line = f"t: column 'x' holds 1,001 different texts, too many for a category; {ways}"
    assert one(levels * 2)[2] == [line]
    assert one(levels, given={"x": {"kind": "category"}})[2] == [line]
    assert one(levels[:-1] * 2)[0].num_levels == 1000


def test_a_density_without_bound_is_told():
    heavy = [0.0] * 51 + [0.5 + i for i in range(49)]
    end = "a density may have no bound there, so log p(x) can grow without end"
    first = "t: more than half of the values are one value in 'x' (51 of 100 are 0)"
    real = {"x": {"kind": "real"}}
    assert one(heavy)[1] == []  # an atom has a probability
    assert one(heavy, given=real)[1] == [f"{first}: {end}"]
    assert one(heavy[1:-1] + [9.25] * 3, given=real)[1] == []
    rounded = [i % 100 / 10 for i in range(1001)]
    few = "t: rounded, few different values in 'x' (100 in 1,001)"
    assert one(rounded)[1] == []  # and so have levels
    assert one(rounded, given=real)[1] == [f"{few}: {end}"]
    assert one(rounded[:1000], given=real)[1] == []
    assert one([f"{v:.1f}" for v in rounded], given=real)[1] == [f"{few}: {end}"]
    both = infer([table(x=heavy * 11, y=heavy * 11)], "t", given=real | {"y": real["x"]})[1]
    assert both == [f"{first.replace('51 of 100', '561 of 1,100')} and 1 more column: {end}"]


def test_what_storage_in_float32_loses():
    integers, days = [0, 2**24 + 1, 5], pa.array([0, 1577836800, 86399], pa.timestamp("s"))
    close = [1e9, 1e9 + 1, 1e9 + 0.5]
    assert one(integers)[1] == one(days)[1] == one(close)[2] == one([1e40, 1.5, 2.5])[2] == []
    keep = 'give it as text with kind = "category" in a schema file to keep it'
    assert one([0, 2**53, 5])[1] == [
        f"t: 'x' looks like an id, omitted: no float tells its integers from 2^53 on apart; {keep}"
    ]
    assert one([1e200, 1.5, 2.5])[2] == [
        "t: column 'x' holds values up to 1e+200, beyond the range of float64; rescale it"
    ]
    torch.set_default_dtype(torch.float32)
    assert one(integers)[1] == [
        "t: 'x' holds integers up to 16,777,217; float32 tells them apart only to 16,777,216"
    ]
    assert one(days)[1] == ["t: 'x' is stored in float32 as days: times are kept to 2.8 minutes"]
    assert one(close)[2] == []  # an offset keeps them apart
    assert one([1e40, 1.5, 2.5])[2] == [
        "t: column 'x' holds values up to 1e+40, beyond the range of float32; rescale it"
    ]


# What a schema file says


@pytest.mark.parametrize(
    ("values", "entry", "expected"),
    [
        ([1, 2, 3], {"kind": "ordinal"}, ("ordinal", ("1", "2", "3"))),
        (["10", "9", "8"], {"kind": "ordinal"}, ("ordinal", ("8", "9", "10"))),
        (
            ["lo", "hi"],
            {"kind": "ordinal", "levels": ["lo", "mid", "hi"]},
            ("ordinal", ("lo", "mid", "hi")),
        ),
        (["hi", "hi"], {"kind": "binary", "levels": ["lo", "hi"]}, ("binary", ("lo", "hi"))),
        (
            [1, 2, 3],
            {"kind": "category", "levels": ["3", "2.0", "1", "0"]},
            ("category", ("3", "2", "1", "0")),
        ),
        (
            [True, False],
            {"kind": "binary", "levels": ["True", "False"]},
            ("binary", ("true", "false")),
        ),
        (
            ["2020-01-01", "2021-01-01"],
            {"kind": "category"},
            ("category", ("2020-01-01", "2021-01-01")),
        ),
        ([1, 2, 3], {"kind": "levels", "low": 0, "high": 9}, ("levels", (0, 9))),
        ([1, 2, 3], {"kind": "levels", "high": 9.0}, ("levels", (1, 9))),
        ([0, 1, 3], {"kind": "count"}, ("count", (0, 3))),
        ([0, 1], {"kind": "real"}, ("real", (0, 1))),
        (["1", "2"], {"kind": "positive"}, ("positive", (1, 2))),
        (unordered(["1", "2"]), {"kind": "real"}, ("real", (1, 2))),
        ([1, 2, 3], {}, ("levels", (1, 3))),
        ([4, 4, 4], {"kind": "constant"}, ("constant", (4, 4))),
        (["a", "b"], {"kind": "id"}, ("id", (0, 0))),
    ],
)
def test_a_schema_file_overrides(values, entry, expected):
    column, _, problems = one(values, given={"x": entry})
    assert (column.kind, column.levels or (column.low, column.high), problems) == (*expected, [])


@pytest.mark.parametrize(
    ("values", "entry", "line"),
    [
        (
            ["a", "b", "1"],
            {"kind": "real"},
            f"kind real needs numbers, but it holds texts, the first ('a') in row 0 {ROW}; correct "
            f"them, or choose another kind",
        ),
        (
            ["1", "2"],
            {"kind": "date"},
            f"kind date needs dates, but it holds numbers, the first ('1') in row 0 {ROW}; correct "
            f"them, or choose another kind",
        ),
        (
            [True, False],
            {"kind": "count"},
            "kind count needs numbers, but it holds truth values; correct them, or choose another "
            "kind",
        ),
        (
            [0.5, 1],
            {"kind": "count"},
            "kind count needs integers, but it holds others; choose real or positive",
        ),
        (
            [-3, 1],
            {"kind": "count"},
            "kind count needs integers from 0, but it holds -3; choose levels or real",
        ),
        (
            [0, 1],
            {"kind": "positive"},
            "kind positive needs numbers above 0, but it holds 0; choose real",
        ),
        (
            [0, 70000],
            {"kind": "levels"},
            "spans 70,001 levels, at most 65,536 are taken; use count or real",
        ),
        (
            [0, 7],
            {"kind": "levels", "high": 6},
            "holds 0..7, outside its levels 0..6; correct the values, or low and high",
        ),
        (
            ["a", "b"],
            {"kind": "ordinal"},
            'kind ordinal needs the levels in their order, such as levels = ["low", "high"]',
        ),
        ([1, 2, 3], {"kind": "binary"}, "kind binary needs two levels, it holds 3"),
        (["a", "a"], {"kind": "category"}, "kind category needs two levels or more, it holds 1"),
        (
            ["a", "b"],
            {"kind": "constant"},
            'kind constant needs one value, but it holds several; kind = "id" omits it',
        ),
        (
            ["a", "b", "c", "c"],
            {"kind": "binary", "levels": ["a", "b"]},
            "holds 2 values that are none of its levels ('c'); add them to levels, or list them in "
            "--missing-values",
        ),
        (
            ["a"],
            {"kind": "categorie"},
            "unknown kind 'categorie'; did you mean 'category'?; it is one of "
            + ", ".join(f"'{k}'" for k in KINDS),
        ),
        (
            ["a"],
            {"knid": "real"},
            "unknown key 'knid'; did you mean 'kind'?; it is one of 'kind', 'levels', 'low', "
            "'high', 'step', 'atoms', 'formula'",
        ),
        (
            ["a"],
            {"kind": "real", "levels": ["a", "b"]},
            "levels belong to the kinds binary, category, ordinal; set kind to one of them, or "
            "remove levels",
        ),
        (
            ["a"],
            {"kind": "category", "levels": "ab"},
            'levels must be a list of texts, such as ["low", "high"]',
        ),
        (
            ["a"],
            {"kind": "category", "levels": ["a", "a"]},
            "levels must be two or more different texts, not 2 levels: a, a",
        ),
        (
            ["a"],
            {"kind": "binary", "levels": ["a", "b", "c"]},
            "levels must be two different texts, not 3 levels: a, b, c",
        ),
        (
            ["a"],
            {"low": 0},
            'low and high belong to the kinds levels and mixed; set kind = "levels" or "mixed", or '
            "remove them",
        ),
        (["a"], {"kind": "levels", "low": 0.5}, "low and high must be integers"),
        (
            ["a"],
            {"kind": "levels", "low": 5, "high": 5},
            "needs low < high and at most 65,536 levels, not 5..5",
        ),
        (
            [1, 2, 1],
            {"kind": "constant"},
            'kind constant needs one value, but it holds several; kind = "id" omits it',
        ),
        (["0.5", "1.5"], {"kind": "mixed", "low": 5, "high": 3}, "needs low < high"),
        (["0.5", "1.5"], {"kind": "mixed", "low": 5, "high": 5}, "needs low < high"),
        (["1", "2"], {"kind": "levels", "low": "1"}, "low and high must be integers"),
        (["1", "2"], {"kind": "levels", "low": True}, "low and high must be integers"),
    ],
)
def test_a_schema_file_that_does_not_fit(values, entry, line):
    problem = one(values, given={"x": entry})[2][0]
    assert problem.replace("column 'x': ", "").replace("column 'x' ", "") == f"t: {line}"


def test_a_schema_file_for_another_table():
    problems = infer([table(age=[1, 2])], "t", given={"agee": {"kind": "real"}})[2]
    assert problems == [
        "t: the schema file describes 'agee', which is not a column; did you mean 'age'?"
    ]


# Pieces


@pytest.mark.parametrize("cuts", [[3], [1, 2, 50], list(range(0, 120, 7)), [119], [60, 60]])
def test_where_a_reader_cuts_the_rows_changes_nothing(cuts, monkeypatch):
    monkeypatch.setattr("taut.data.tables.seen.CAP", 41)
    monkeypatch.setattr("taut.data.tables.seen.BLOCK", 16)
    rng = np.random.default_rng(2)
    n = 120
    whole = table(
        real=rng.normal(size=n),
        positive=np.exp(rng.normal(size=n)),
        heavy=np.where(rng.random(n) < 0.7, 0.5, rng.normal(size=n)),
        sentinel=np.where(rng.random(n) < 0.1, -999, rng.normal(size=n)),
        gaps=[None if i < 60 else i % 9 for i in range(n)],
        text=[None if i < 60 else "abc"[i % 3] for i in range(n)],
        mixed=[str(i % 9) if i != 77 else "a" for i in range(n)],
        many=[f"{i % 70}x" for i in range(n)],
        name=[f"{i}x" for i in range(n)],
        row=range(n),
        numbers=[str(v) for v in rng.normal(size=n)],
        time=pa.array(rng.integers(0, 10**9, n), pa.timestamp("s")),
        flag=rng.random(n) < 0.5,
        levels=ordered([["lo", "hi"][i % 2] for i in range(n)], ["lo", "mid", "hi"]),
        fixed=["a"] * n,
    )
    edges = [0, *cuts, n]
    pieces = [whole.slice(a, b - a) for a, b in pairwise(edges)]
    expected = infer([whole], "t")
    assert infer(iter(pieces), "t") == expected
    assert len(expected[0]) == 15
    coded = encode(whole, expected[0], "t")[0]
    parts = [encode(p, expected[0], "t")[0] for p in pieces]
    np.testing.assert_array_equal(np.concatenate(parts), coded)


@pytest.mark.parametrize("seed", range(60))
def test_any_table_in_any_pieces_comes_back(seed):
    rng = random.Random(seed)
    values = [
        None,
        "NA",
        "a",
        "b",
        "?",
        "2020-01-01",
        "2020-01-01 06:30",
        "x y",
        "1",
        "2",
        "-999",
        "1.5",
        "007",
    ]
    length = rng.randint(1, 40)
    held = {name: rng.choices(rng.sample(values, rng.randint(1, 6)), k=length) for name in "abc"}
    whole = pa.table({name: pa.array(texts, pa.string()) for name, texts in held.items()})
    edges = [0, *sorted(rng.randint(0, length) for _ in range(rng.randint(0, 4))), length]
    expected = infer([whole], "t")
    assert infer([whole.slice(a, b - a) for a, b in pairwise(edges)], "t") == expected
    columns, _, refused = expected
    if not refused:
        codes, problems, notes = encode(whole, columns, "t")
        assert (problems, notes) == ([], [])
        again = encode(decode(codes, columns), columns, "t")
        np.testing.assert_array_equal(again[0], codes)
        assert again[1:] == ([], [])
        given, missing, _ = from_toml(to_toml(columns, ["?"]), "s")
        assert (infer([whole], "t", given=given)[0], missing) == (columns, ("?",))


def test_row_groups_of_a_file(tmp_path):
    whole = table(
        c=ordered(["lo", "hi", "lo", "lo"], ["lo", "mid", "hi"]), d=unordered(["b", "a", "b", "c"])
    )
    pq.write_table(whole, tmp_path / "t.parquet", row_group_size=1)
    with pq.ParquetFile(tmp_path / "t.parquet") as file:
        columns, _, problems = infer((file.read_row_group(i) for i in range(4)), "t")
    assert [(c.kind, c.levels) for c in columns] == [
        ("ordinal", ("lo", "mid", "hi")),
        ("category", ("a", "b", "c")),
    ]
    assert problems == []


def test_pieces_that_contradict_each_other():
    assert infer([table(a=[1]), table(b=[1])], "t")[2] == [
        "t: its pieces have different columns; write it with one header"
    ]
    line = (
        f"t: column 'a' holds number values up to row 1 and text values from there {ROW}; write "
        f"the whole column as one type"
    )
    assert infer([table(a=[1, 2]), table(a=["x"])], "t")[2] == [line]
    one_way, other = ordered(["a"], ["a", "b"]), ordered(["a"], ["b", "a"])
    line = "t: column 'a' declares its levels in two different orders; write it with one"
    assert infer([table(a=one_way), table(a=other)], "t")[2] == [line]
    assert infer([pa.table({"a": pa.chunked_array([one_way, other])})], "t")[2] == [line]
    assert infer([table(a=[1, 300]), table(a=[0.5])], "t")[0][0].type == "float"


def test_more_different_values_than_are_counted(monkeypatch):
    monkeypatch.setattr("taut.data.tables.seen.CAP", 1100)
    monkeypatch.setattr("taut.data.tables.guess.CAP", 1100)
    texts, numbers = [f"x{i}" for i in range(1101)], [float(i) + 0.5 for i in range(1101)]
    assert one(texts)[0].kind == "id"
    assert one(texts * 3)[2][0].startswith(
        "t: column 'x' holds more than 1,099 different texts, too many for a category"
    )
    assert one([i * 2 for i in range(1101)])[0].kind == "id"
    assert one(numbers[:1100])[0].kind == one(numbers)[0].kind  # just as many, and more
    assert one([0, *range(1101)])[0].kind == one([*range(1101)] * 2)[0].kind == "levels"
    real = {"x": {"kind": "real"}}
    # its first row is beyond what is counted
    assert one(numbers + [1100.5] * 1200, given=real)[1] == []
    assert one([0.5] * 1200 + numbers, given=real)[1][0].startswith(
        "t: more than half of the values are one value in 'x' (1,201 of 2,301 are 0.5)"
    )


# Codes and back


def test_columns_are_found_by_name_in_any_order():
    whole = table(id=range(60), a=["x", "y", "x"] * 20, c=[0.5, -1.5, 2.5] * 20, k=["z"] * 60)
    columns, _, problems = infer([whole], "t")
    assert ([c.kind for c in columns], problems) == (["id", "binary", "levels", "constant"], [])
    codes, problems, notes = encode(whole, columns, "t")
    assert (problems, notes, codes[:3].tolist()) == ([], [], [[0, 1], [1, 0], [0, 2]])
    for names in (["c", "a"], ["k", "c", "id", "a"]):
        again, problems, notes = encode(whole.select(names), columns, "t")
        assert (problems, notes) == ([], [])
        np.testing.assert_array_equal(again, codes)
    assert decode(codes, columns).equals(whole.select(["a", "c"]))


def test_columns_that_are_missing_or_extra_are_all_named():
    columns, _, _ = infer([table(age=[1, 2, 3], size=[1, 2, 4])], "t")
    new = pa.table([[1], [2], [3], [4]], names=["Age", "b\n", "size", "size"])
    codes, problems, _ = encode(new, columns, "f.csv")
    assert problems == [
        "f.csv: 1 of 2 columns are missing: 'age'; did you mean 'Age'?",
        "f.csv: 2 columns are not the model's: 'Age', 'b\\n'; did you mean 'age'?",
        "f.csv: 'size' names more than one column; rename all but one",
    ]
    assert codes.shape == (1, 2)
    assert np.isnan(codes).all()
    many = encode(pa.table({f"c{i}": [1] for i in range(12)}), columns, "t")[1]
    assert many[1].endswith("'c9' and 2 more; remove them")


def test_levels_never_seen_are_missing_and_noted():
    column = Column("colour", "category", ("blue", "red"), type="text")
    codes, problems, notes = encode(
        table(colour=["red", "teal", None, "teal", "grey", "blue"]), [column], "t"
    )
    assert codes[:, 0] == pytest.approx([1, np.nan, np.nan, np.nan, np.nan, 0], nan_ok=True)
    assert problems == []
    assert notes == [
        "t: 3 values of 'colour' are levels never seen in training ('teal', 'grey'): read as "
        "missing"
    ]


@pytest.mark.parametrize(
    ("column", "values", "codes"),
    [
        (Column("x", "binary", ("0", "1"), type="int"), ["1", "0.0", "1.0"], [1, 0, 1]),
        (Column("x", "binary", ("0", "1"), type="float"), [1, 0, 1], [1, 0, 1]),
        (
            Column("x", "binary", ("false", "true"), type="bool"),
            ["True", "FALSE", "true"],
            [1, 0, 1],
        ),
        (Column("x", "binary", ("True", "False"), type="text"), [True, False, True], [0, 1, 0]),
        (Column("x", "category", ("1", "2", "A"), type="text"), [2, 1, 2], [1, 0, 1]),
        (Column("x", "category", ("1", "01", "A"), type="text"), [1, 1, 1], [0, 0, 0]),
        (Column("x", "category", ("a", "b"), type="text"), unordered(["b", "a", "b"]), [1, 0, 1]),
        (Column("x", "real", type="float"), ["1", "2.5", "-3e1"], [1, 2.5, -30]),
        (Column("x", "real", low=1, high=2, type="int"), [decimal.Decimal("1.5")] * 3, [1.5] * 3),
        (
            Column("x", "date", type="date"),
            ["1970-01-02", "1970-01-03 12:00", " 1969-12-31"],
            [1, 2.5, -1],
        ),
        (Column("x", "category", ("a", "b"), type="text"), pa.nulls(3), [np.nan] * 3),
        (Column("x", "count", type="int"), pa.nulls(3), [np.nan] * 3),
        (Column("x", "date", type="date"), pa.nulls(3, pa.string()), [np.nan] * 3),
    ],
)
def test_however_a_file_stores_it_a_value_has_one_code(column, values, codes):
    result, problems, notes = encode(pa.table({"x": arrow(values)}), [column], "t")
    assert (problems, notes) == ([], [])
    assert result[:, 0] == pytest.approx(codes, nan_ok=True, abs=0)


LIST = "correct them, or list what means missing in --missing-values"


@pytest.mark.parametrize(
    ("column", "values", "line"),
    [
        (
            Column("x", "real"),
            ["1", "b", "c"],
            f"2 values (66.7 %) of 'x' are not numbers, the first ('b') in row 11 {ROW}; {LIST}",
        ),
        (
            Column("x", "real"),
            [None, True, True],
            f"2 values (66.7 %) of 'x' are not numbers, the first ('truth values') in row 11 "
            f"{ROW}; "
            f"{LIST}",
        ),
        (
            Column("x", "count"),
            [date("2020-01-01")] * 3,
            f"3 values (100 %) of 'x' are not numbers, the first ('dates') in row 10 {ROW}; {LIST}",
        ),
        (
            Column("x", "date"),
            [7, 8, 9],
            f"3 values (100 %) of 'x' are not dates (YYYY-MM-DD), the first ('numbers') in row 10 "
            f"{ROW}; {LIST}",
        ),
        (
            Column("x", "category", ("a", "b"), type="text"),
            [date("2020-01-01")] * 3,
            f"3 values (100 %) of 'x' are not levels, the first ('dates') in row 10 {ROW}; {LIST}",
        ),
        (
            Column("x", "real"),
            [1, np.inf, -np.inf],
            "2 values (66.7 %) of 'x' are infinite (largest inf, first inf in row 11 "
            f"{ROW}); replace them, or list inf or -inf in --missing-values",
        ),
        (
            Column("x", "binary", ("0", "1"), type="int"),
            [1, np.inf, 0],
            "1 values (33.3 %) of 'x' are infinite (largest inf, first inf in row 11 "
            f"{ROW}); replace them, or list inf or -inf in --missing-values",
        ),
        (
            Column("x", "count"),
            [1, -3, -2] * 4,
            f"8 values (66.7 %) of 'x' are negative (largest -2, first -3 in row 11 {ROW}); give "
            f"raw counts",
        ),
        (
            Column("x", "count"),
            [0, 1.5, 2.25] * 4,
            "8 values (66.7 %) of 'x' are not integers (largest 2.25, first 1.5 in "
            f"row 11 {ROW}); they look log-normalised: give raw counts",
        ),
        (
            Column("x", "count"),
            [1.5, 0.5, 200] * 4,
            f"8 values (66.7 %) of 'x' are not integers (largest 1.5, first 1.5 in row 10 {ROW}); "
            f"give raw counts",
        ),
        (
            Column("x", "levels", high=9),
            [0.5, 1.5, 2] * 4,
            "8 values (66.7 %) of 'x' are not integers (largest 1.5, first 0.5 in row "
            f'10 {ROW}); correct them, or train with kind = "real"',
        ),
        (
            Column("x", "real"),
            [[1], [2], [3]],
            "column 'x' holds 'list<item: int64>' values, several in one cell; give each entry a "
            "column of its own",
        ),
    ],
)
def test_values_that_are_refused(column, values, line):
    problems = encode(table(x=values), [column], "t", first_row=10)[1]
    assert problems == [f"t: {line}"]


EXPECT = "log p(x) of their rows is finite, but low; train with {} in a schema file to expect them"


@pytest.mark.parametrize(
    ("column", "values", "line"),
    [
        (
            Column("x", "levels", high=9),
            [0, 10, 2],
            f"1 values (33.3 %) of 'x' are outside the levels 0..9 (largest 10, first 10 in row 11 "
            f"{ROW}); " + EXPECT.format("low = 0 and high = 10"),
        ),
        (
            Column("x", "levels", high=9),
            [0, 1.5, 2],
            f"1 values (33.3 %) of 'x' are not integers (largest 1.5, first 1.5 in row 11 {ROW}); "
            + EXPECT.format('kind = "real"'),
        ),
        (
            Column("x", "levels", low=0.5, high=5, step=0.5, offset=0.5),
            [0.5, 5.5, 2],
            f"1 values (33.3 %) of 'x' are outside the levels 0.5..5 (largest 5.5, first 5.5 in "
            f"row 11 {ROW}); " + EXPECT.format("low = 0.5 and high = 5.5"),
        ),
        (
            Column("x", "levels", low=0.08, high=0.85, step=0.01, offset=0.08),
            [0.5, 1.04, 0.07],
            f"2 values (66.7 %) of 'x' are outside the levels 0.08..0.85 (largest 1.04, first 1.04 "
            f"in row 11 {ROW}); " + EXPECT.format("low = 0.07 and high = 1.04"),
        ),
        (
            Column("x", "positive"),
            [1, 0, -2],
            f"2 values (66.7 %) of 'x' are not above 0 (largest 0, first 0 in row 11 {ROW}); "
            + EXPECT.format('kind = "real"'),
        ),
    ],
)
def test_values_that_training_never_saw_are_kept_and_noted(column, values, line):
    codes, problems, notes = encode(table(x=values), [column], "t", first_row=10)
    assert codes[:, 0].tolist() == column.codes(values).tolist()
    assert problems == []
    assert notes == [f"t: {line}"]


def test_counts_that_cannot_be_are_kept_for_the_model_to_judge():
    codes, problems, notes = encode(table(x=[0, 1.5, -2]), [Column("x", "count", high=9)], "t")
    assert codes[:, 0].tolist() == [0, 1.5, -2]
    assert problems == notes == []


@pytest.mark.parametrize(
    ("levels", "type_", "values"),
    [
        (("false", "true"), "bool", [0, 1]),
        (("false", "true"), "bool", [0.0, 1.0]),
        (("false", "true"), "bool", ["n", "Y"]),
        (("false", "true"), "bool", ["False", "TRUE"]),
        (("0", "1"), "int", [False, True]),
        (("0", "1"), "int", ["no", "yes"]),
        (("n", "y"), "text", [False, True]),
        (("f", "t"), "text", [0, 1]),
        (("yes", "no"), "text", [True, False]),
    ],
)
def test_truth_values_are_the_same_in_all_their_spellings(levels, type_, values):
    column = Column("x", "binary", levels, type=type_)
    codes, problems, notes = encode(table(x=[*values, None, *values]), [column], "t")
    assert [0 if c == 0 else 1 if c == 1 else None for c in codes[:, 0]] == [0, 1, None, 0, 1]
    assert problems == notes == []


@pytest.mark.parametrize(
    ("levels", "values"),
    [(("no", "yes"), ["no", "1"]), (("a", "b"), [0, 1]), (("0", "2"), [False, True])],
)
def test_what_is_no_spelling_of_the_same_truth_is_a_new_level(levels, values):
    codes, _, notes = encode(table(x=values), [Column("x", "binary", levels, type="text")], "t")
    assert np.isnan(codes[-1, 0])
    assert "levels never seen in training" in notes[0]


def test_a_whole_column_of_new_levels_is_another_column():
    column = Column("x", "category", ("red", "green"), type="text")
    assert encode(table(x=["rouge", "vert"] * 5), [column], "t")[1:] == (
        [
            "t: all 10 values of 'x' are levels never seen in training ('rouge', 'vert'); "
            "it was trained on 'red', 'green': write them like that, or leave them empty"
        ],
        [],
    )
    assert encode(table(x=["rouge"] * 9), [column], "t")[1:] == (
        [],
        ["t: 9 values of 'x' are levels never seen in training ('rouge'): read as missing"],
    )
    assert encode(table(x=["rouge"] * 10 + ["red"]), [column], "t")[1] == []


def test_beyond_float32():
    torch.set_default_dtype(torch.float32)
    problems = encode(table(x=[1, 1e39]), [Column("x", "real")], "t")[1]
    assert problems == [
        "t: 1 values (50 %) of 'x' are beyond the range of float32 (largest 1e+39, "
        f"first 1e+39 in row 1 {ROW}); rescale the column"
    ]


def test_drift_is_told_beyond_ten_standard_deviations():
    column = Column("x", "real", low=-9, high=9, mean=1.0, std=2.0)
    assert encode(table(x=[46.0, 48.0, None]), [column], "t")[2] == [
        "t: the mean of 'x' lies 23 standard deviations from that of the training data; check its "
        "unit"
    ]
    assert encode(table(x=[-19.0]), [column], "t")[2] == []
    assert encode(table(x=[-19.1]), [column], "t")[2] != []
    assert encode(table(x=[1e9]), [replace(column, std=0.0)], "t")[2] == []


BACK = [
    pa.array(["ü", "b", None, "日本", "\x00\n"]),
    pa.array([True, None, False, True, True]),
    pa.array([2**53 - 1, 1 - 2**53, None, 0, 17]),
    pa.array([3, 900, None, 5, 17]),
    pa.array([1, 0, None, 0, 0]),
    pa.array([1.0, 0.0, None, 0.0, 0.0]),
    pa.array([0.1, -5e-324, None, 1e150, 1 / 3]),
    pa.array(
        [date("2020-02-29"), None, date("0001-01-01"), date("9999-12-31"), date("1970-01-01")]
    ),
    pa.array([1577836800123457, None, 0, 1, 1893456000999999], pa.timestamp("us")),
    pa.array([1577836800123457, None, 0, -1, 5], pa.timestamp("us", "UTC")),
]


@pytest.mark.parametrize("values", BACK)
def test_what_was_read_comes_back_exactly(values):
    whole = pa.table({"x": values})
    columns, _, problems = infer([whole], "t")
    codes, wrong, notes = encode(whole, columns, "t")
    assert (problems, wrong, notes) == ([], [], [])
    assert decode(codes, columns).equals(whole)
    assert torch.from_numpy(codes).isnan().sum() == 1


def test_a_zone_is_converted_to_utc():
    zoned = pa.array(
        [time("2020-06-01 12:00:00"), time("2020-06-02 12:00:00")], pa.timestamp("us")
    ).cast(pa.timestamp("us", "UTC"))
    whole = table(x=zoned.cast(pa.timestamp("us", "Europe/Paris")))
    columns, _, _ = infer([whole], "t")
    back = decode(encode(whole, columns, "t")[0], columns)
    assert back["x"].to_pylist() == zoned.to_pylist()
    texts = table(x=["2020-06-01 14:00:00+02:00", "2020-06-02 12:00:00Z"])
    columns, _, _ = infer([texts], "t")
    assert decode(encode(texts, columns, "t")[0], columns)["x"].to_pylist() == zoned.to_pylist()


def test_what_a_model_samples_is_written_as_it_is():
    columns = [
        Column("n", "real", type="int"),
        Column("d", "date", type="date"),
        Column("k", "count", type="int"),
    ]
    written = decode(np.array([[1.5, 1.4, 3], [2, np.nan, np.nan]]), columns)
    assert written.to_pydict() == {"n": [1.5, 2.0], "d": [date("1970-01-02"), None], "k": [3, None]}
    assert decode(np.array([[1.0, 0, 3], [1e19, 0, 2]]), columns)["n"].to_pylist() == [1.0, 1e19]
    assert decode(np.array([[1.0, 0, 3]]), columns)["n"].to_pylist() == [1]
    with pytest.raises(DataError, match="1 values of 'd' are 1e\\+10 days from 1970: not dates"):
        decode(np.array([[1.0, 1e10, 3]]), columns)
    with pytest.raises(UsageError, match="codes of shape \\(1, 2\\) do not fit 3 columns"):
        decode(np.zeros((1, 2)), columns)
    with pytest.raises(UsageError, match=r"column 'x': codes must be 0\.\.1"):
        decode(np.array([[2.0]]), [Column("x", "binary", ("a", "b"), type="text")])


# The schema file

NAMES = [
    "plain",
    "a b.c",
    'quote"s',
    "back\\slash",
    "line\nbreak",
    "\x1b[31mred",
    "<script>",
    "\x7f\x00\x85",
    "日本 😀",
    "a]\n[b",
    "",
]


def test_hostile_names_and_levels_come_back():
    columns = tuple(Column(n, "category", (*NAMES, "é" * 10**6), type="text") for n in NAMES)
    given, missing, _ = from_toml(to_toml(columns, NAMES), "s")
    assert list(given) == NAMES
    assert all(
        entry == {"kind": "category", "levels": [*NAMES, "é" * 10**6]} for entry in given.values()
    )
    assert missing == tuple(NAMES)


@pytest.mark.parametrize("seed", range(30))
def test_any_text_comes_back(seed):
    rng = random.Random(seed)
    letters = [*map(chr, range(256)), "\u2028", "\ufeff", "\uffff", "😀", "ا"]
    name, *texts = ["".join(rng.choices(letters, k=rng.randint(0, 12))) + str(i) for i in range(6)]
    columns = [Column(name, "ordinal", tuple(texts), type="text")]
    assert from_toml(to_toml(columns, texts), "s") == (
        {name: {"kind": "ordinal", "levels": texts}},
        tuple(texts),
        (),
    )


def test_a_schema_file_in_full():
    columns = [
        Column("a", "levels", low=-1, high=3, type="int"),
        Column("b", "binary", ("x", "y")),
        Column("c", "id"),
    ]
    text = to_toml(columns, ["?", "-999"])
    assert tomllib.loads(text) == {
        "missing_values": ["?", "-999"],
        "constraints": [],
        "columns": {
            "a": {"kind": "levels", "low": -1, "high": 3},
            "b": {"kind": "binary", "levels": ["x", "y"]},
            "c": {"kind": "id"},
        },
    }
    assert text.startswith(
        "# What each column of the table is. Edit it, then give it with --schema.\n"
    )
    numbers = (
        'missing_values = [-999, 1.5, "?"]\ncolumns.a = {kind = "ordinal", levels = [1, 2.0, 0.5, '
        "true]}"
    )
    assert from_toml(numbers, "s") == (
        {"a": {"kind": "ordinal", "levels": ["1", "2", "0.5", "true"]}},
        ("-999", "1.5", "?"),
        (),
    )


def test_all_that_is_wrong_with_a_schema_file():
    text = """
    colums = 1
    other = 2
    missing_values = "?"
    [columns]
    a = "real"
    b = {kind = "rael"}
    c = {kind = "real", low = 1, levls = []}
    """
    with pytest.raises(UsageError) as caught:
        from_toml(text, "my\nfile")
    kinds = ", ".join(f"'{k}'" for k in KINDS)
    assert str(caught.value).replace("'my\\nfile': ", "") == "\n".join(
        [
            "unknown key 'colums'; did you mean 'columns'?",
            "unknown key 'other'; a column is [columns.NAME]",
            'missing_values must be a list of texts and numbers, such as ["?", -999]',
            "column 'a': must be a table, such as [columns.\"a\"]",
            f"column 'b': unknown kind 'rael'; did you mean 'real'?; it is one of {kinds}",
            "column 'c': unknown key 'levls'; did you mean 'levels'?; it is one of 'kind', "
            "'levels', 'low', 'high', "
            "'step', 'atoms', 'formula'",
            "column 'c': low and high belong to the kinds levels and mixed; set kind = \"levels\" "
            'or "mixed", or remove them',
        ]
    )
    with pytest.raises(UsageError, match=r"s.toml: is not valid TOML \(.*line 2"):
        from_toml("a = 1\nb = =", "s.toml")
    with pytest.raises(UsageError, match=r"columns must be tables, such as \[columns.age\]"):
        from_toml("columns = 1", "s.toml")


# The column itself


def test_a_column_comes_back_from_its_dict():
    column = Column("a\n", "category", ("x", "y"), 0.0, 0.0, 3, "text", 1.5, 2.5, 9)
    assert Column.from_dict(column.to_dict()) == column
    as_json = {**column.to_dict(), "low": 0, "missing": 3.0}  # JSON knows one kind of number
    assert repr(Column.from_dict(as_json)) == repr(column)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "reel"}, "column 'a': unknown kind 'reel'; did you mean 'real'?"),
        ({"type": "txt"}, "column 'a': unknown type 'txt'; did you mean 'text'?"),
        ({"levels": ["x", "x"]}, "column 'a': its levels are not all different"),
        ({"levels": ["x"]}, "column 'a': kind category needs two levels or more, not 1"),
        (
            {"kind": "binary", "levels": ["x", "y", "z"]},
            "column 'a': kind binary needs two levels, not 3",
        ),
        ({"low": 2.0}, "column 'a': low must not exceed high, but 2 > 0"),
        ({"levels": [1, 2]}, "not a column (TypeError: levels must be texts)"),
        (
            {"levels": "xy"},
            "not a column (TypeError: name and formula must be texts, levels a list)",
        ),
        (
            {"mean": float("nan")},
            "not a column (ValueError: low, high, mean, std, offset, step and atoms must be "
            "finite)",
        ),
        ({"rows": "many"}, "not a column (ValueError: "),
        ({"extra": 1}, "not a column (TypeError: "),
    ],
)
def test_a_damaged_column_is_refused(change, words):
    fields = {**Column("a", "category", ("x", "y"), type="text").to_dict(), **change}
    with pytest.raises(UsageError) as caught:
        Column.from_dict(fields)
    assert str(caught.value).startswith(words)


def test_a_column_without_a_name_is_refused():
    with pytest.raises(UsageError, match="not a column \\(KeyError: 'name'\\)"):
        Column.from_dict({})


@pytest.mark.parametrize(
    ("column", "what", "missing"),
    [
        (
            Column("x", "category", ("Private", "State-gov"), missing=18, rows=1000),
            "2 levels: Private, State-gov",
            "1.8 %",
        ),
        (
            Column("x", "category", tuple(f"level {i}" for i in range(20)), rows=1),
            "20 levels: level 0, level 1, level 2, level 3, level 4, ...",
            "",
        ),
        (
            Column("x", "category", ("a" * 10**6, "\x1b[31m"), missing=1, rows=10**6),
            "2 levels: aaaaaaaaaaaaaaaaaaaa..., '\\x1b[31m'",
            "< 0.1 %",
        ),
        (Column("x", "levels", low=-1, high=20000), "20,002 levels: -1 .. 20,000", ""),
        (Column("x", "positive", low=0.12345678, high=1e20), "0.123457 .. 1e+20", ""),
        (
            Column("x", "date", low=0, high=18262.5, type="timestamp"),
            "1970-01-01 .. 2020-01-01",
            "",
        ),
        (Column("x", "date", low=-1e9, high=1e9, type="date"), "day -1e+09 .. day 1e+09", ""),
        (Column("x", "id", missing=1, rows=1), "omitted", "100.0 %"),
        (Column("x", "constant", low=7, high=7, type="int"), "7", ""),
    ],
)
def test_what_check_prints(column, what, missing):
    assert column.describe() == (column.kind, what, missing)
    assert all(len(text) <= 60 for text in column.describe())


def test_properties_follow_from_the_kind():
    modelled = [k for k in KINDS if Column("x", k, ("a", "b")).modelled]
    discrete = [k for k in KINDS if Column("x", k, ("a", "b")).discrete]
    assert modelled == [
        "binary",
        "category",
        "ordinal",
        "count",
        "levels",
        "real",
        "positive",
        "mixed",
        "date",
    ]
    assert discrete == ["binary", "category", "ordinal", "count", "levels"]
    assert Column("x", "levels", low=-2, high=3).num_levels == 6
    assert Column("x", "category", ("a", "b", "c")).num_levels == 3


def test_hostile_texts_are_shown_short_and_escaped():
    huge = "\x1b[2J" + "a" * 10**6
    column = Column(huge, "category", ("b", "c"), type="text")
    note = encode(pa.table({huge: [huge, "b"]}), [column], "t\x1b")[2][0]
    assert len(note) < 250
    assert note.isprintable()
    _, notes, problems = infer([pa.table({huge: [huge] * 3, "x": [1, 2, np.inf]})], "t\x1b")
    assert all(line.isprintable() and len(line) < 250 for line in notes + problems)


def test_many_constant_columns_are_one_line():
    pixels = {f"pixel{i}": [0] * 30 if i < 20 else range(i, i + 30) for i in range(24)}
    columns, notes, _ = infer([table(**pixels)], "t")
    assert sum(c.kind == "constant" for c in columns) == 20
    assert [n for n in notes if "constant" in n] == [
        "t: 20 columns are constant, omitted: 'pixel0', 'pixel1', 'pixel2', ..."
    ]
    notes = infer([table(a=[1, 1], b=["x", "x"], c=[0.5, 1.5])], "t")[1]
    assert notes == ["t: 'a' is constant (1), omitted", "t: 'b' is constant ('x'), omitted"]


@pytest.mark.parametrize(
    ("name", "values", "round_"),
    [
        ("wind", [str(10 * (i % 37)) for i in range(400)], True),
        ("angle", [str(i % 360) for i in range(800)], True),
        ("hour", [str(i % 24) for i in range(400)], True),
        ("visits", [str(i % 24) for i in range(400)], False),
        ("score", [str(i % 301) for i in range(800)], False),
        ("score", [str(60 * (i % 6)) for i in range(800)], False),
    ],
)
def test_what_goes_round_is_noted(name, values, round_):
    notes = one(values, name=name)[1]
    assert any("may go round" in line for line in notes) == round_


def test_integers_that_floats_do_not_tell_apart_are_no_constant() -> None:
    large = [2**60 + i % 5 for i in range(200)]
    for kind in (pa.int64(), pa.uint64()):
        table = pa.table({"x": pa.array(large, kind), "b": np.arange(200) % 7 / 4})
        columns, notes, problems = infer([table], "a.csv")
        assert (columns[0].kind, problems) == ("id", [])
        assert any("no float tells its integers from 2^53 on apart" in n for n in notes)
    # measured numbers are no ids, and there is a word that keeps them
    table = pa.table({"x": np.random.default_rng(0).normal(3, 0.1, 200).round(4) * 1e16})
    columns, notes, _ = infer([table], "a.csv")
    assert 'kind = "real" in a schema file keeps it' in notes[0]
    columns, _, problems = infer([table], "a.csv", given={"x": {"kind": "real"}})
    assert (columns[0].kind, problems) == ("real", [])


def test_a_column_of_nan_holds_nothing() -> None:
    for gone in (pa.array([math.nan] * 60), pa.array([None] * 60, pa.float64())):
        table = pa.table({"x": gone, "b": np.arange(60.0)})
        _, _, problems = infer([table], "a.csv")
        assert "column 'x' holds nothing but missing values" in problems[0]


def test_the_century_of_years_of_two_digits_is_said() -> None:
    table = pa.table({"x": [f"{1 + i % 9}/{13 + i % 9}/{40 + i % 30}" for i in range(90)]})
    _, notes, _ = infer([table], "a.csv")
    assert "years of two digits are taken as 1969 to 2068, which gives 1969-" in notes[0]
    table = pa.table({"x": [f"{1 + i % 9}/{13 + i % 9}/{1940 + i % 30}" for i in range(90)]})
    assert "two digits" not in " ".join(infer([table], "a.csv")[1])
