"""Delimited text comes out as it stands in the file.

Whatever does not add up is refused with its line.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from taut.data.tables.delimited import read_csv
from taut.system.errors import DataError, OutOfMemoryError, UsageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.csv"


def read(
    path: Path, content: str | bytes, **options: str | bool | list[str]
) -> tuple[dict[str, list[str]], list[str]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    table, notes = read_csv(path, **options)
    assert all(column.type == pa.string() and column.null_count == 0 for column in table.columns)
    assert all(note.startswith(f"{path}: ") for note in notes)
    return table.to_pydict(), [note.removeprefix(f"{path}: ") for note in notes]


def refused(path: Path, content: str | bytes, **options: str) -> list[str]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        read_csv(path, **options)
    assert all(
        problem.startswith(f"{path}: ") and "\n" not in problem for problem in caught.value.problems
    )
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        pytest.param("a,b\n1,x\n", {"a": ["1"], "b": ["x"]}, id="plain"),
        pytest.param(
            "a,b\r\n1,x\r\n2,y", {"a": ["1", "2"], "b": ["x", "y"]}, id="windows, no last newline"
        ),
        pytest.param("a,b\r1,x\r", {"a": ["1"], "b": ["x"]}, id="carriage returns"),
        pytest.param(
            "a , b\n 1,x \n",
            {"a": [" 1"], "b": ["x "]},
            id="blanks around values stay, around names go",
        ),
        pytest.param('a,b\n"x,y","p ""q"""\n', {"a": ["x,y"], "b": ['p "q"']}, id="quotes"),
        pytest.param('a,b\n"x\ny",2\n', {"a": ["x\ny"], "b": ["2"]}, id="newline in quotes"),
        pytest.param(
            'a,b\n5" pipe,2\n', {"a": ['5" pipe'], "b": ["2"]}, id="a quote inside a field"
        ),
        pytest.param(
            "a,b\n,NA\nnull,\n", {"a": ["", "null"], "b": ["NA", ""]}, id="nothing becomes null"
        ),
        pytest.param(
            "x\n1\n\n2\n", {"x": ["1", "", "2"]}, id="a blank line of one column is a missing entry"
        ),
        pytest.param("x\n007\n1e3\n", {"x": ["007", "1e3"]}, id="numbers stay text"),
        pytest.param(
            "a,b\n2024-02-29,yes\n", {"a": ["2024-02-29"], "b": ["yes"]}, id="B44 dates and yes"
        ),
        pytest.param(
            '<b>a</b>,"n\nm"\n1,2\n',
            {"<b>a</b>": ["1"], "n\nm": ["2"]},
            id="B42 names with HTML or newline",
        ),
    ],
)
def test_values_come_out_as_they_stand(
    path: Path, content: str, columns: dict[str, list[str]]
) -> None:
    assert read(path, content) == (columns, [])


def test_a_late_text_in_a_column_of_numbers_is_text_B38(path: Path) -> None:
    columns, notes = read(path, "n\n" + "3\n" * 99_999 + "3 apples\n")
    assert columns["n"] == ["3"] * 99_999 + ["3 apples"]
    assert notes == []


def test_gzip_is_known_by_its_content(path: Path) -> None:
    assert read(path, gzip.compress(b"a\tb\n1\t2\n")) == (
        {"a": ["1"], "b": ["2"]},
        ["read with delimiter tab"],
    )


def test_a_truncated_gzip_is_refused(path: Path) -> None:
    [line] = refused(path, gzip.compress(b"a,b\n1,2\n")[:-6])
    assert line.startswith("is truncated or damaged (")
    assert line.endswith("; write or download it again")


QUOTE = "put quotes around a field that holds ','"


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        pytest.param(
            "a,b\n1,2\n1,2,3\n", [f"line 3: expected 2 fields, found 3; {QUOTE}"], id="B39 too many"
        ),
        pytest.param(
            "a,b\n1\n1,2\n",
            ["line 2: expected 2 fields, found 1; complete the row"],
            id="B39 too few",
        ),
        pytest.param(
            'a,b\n"x\ny",2\n\n1\n1,2,3\n',
            [
                "line 5: expected 2 fields, found 1; complete the row",
                f"line 6: expected 2 fields, found 3; {QUOTE}",
            ],
            id="B39 lines, not rows, are counted",
        ),
        pytest.param(
            "a,b\n1,2,3\n4,5,6\n",
            ["line 1: the header has 2 fields, but every row has 3 fields; name every column"],
            id="B39 row names without a header",
        ),
        pytest.param(
            "name\nDoe, Jane\nRoe, Jo\n",
            [
                "line 1: the header has 1 field, but every row has 2 fields; name every column, or "
                "--delimiter ';' if its"
                " commas separate no columns"
            ],
            id="B39 commas in one column",
        ),
        pytest.param(
            'a,b\n1,"x\n3,4\n',
            ["line 2: a quote opens and is never closed; close it, or remove it"],
            id="B39 unclosed quote",
        ),
        pytest.param(
            'a,b\n1,"x\n' + "3,4\n" * 50_000,  # a field longer than Python's reader takes by itself
            ["line 2: a quote opens and is never closed; close it, or remove it"],
            id="B39 unclosed quote far from the end",
        ),
        pytest.param(
            'a,b\n1,"2',
            ["line 2: a quote opens and is never closed; close it, or remove it"],
            id="B39 at the end",
        ),
        pytest.param(
            'a,"b\n1,2\n',
            ["line 1: a quote opens and is never closed; close it, or remove it"],
            id="B39 in the header",
        ),
        pytest.param(
            'a,b\n1,2\n"x,3\ny,4\n"z,5\n',  # two quotes that open: the second would close the first
            ["line 3: text follows a closing quote; write a quote inside a quoted field twice"],
            id="B39 two unclosed quotes",
        ),
        pytest.param(
            'a,b\n"say \\"hi\\"",2\n',
            ["line 2: text follows a closing quote; write a quote inside a quoted field twice"],
            id="B39 quotes escaped by backslashes",
        ),
        pytest.param(
            "a,b\n1,2\n3,\0\n",
            ["line 3: holds a NUL byte; it is damaged or not text: write it again as text"],
            id="B39 NUL byte",
        ),
        pytest.param(
            "a,a,b,,\n1,2,3,4,5\n1\n",
            [
                "line 1: columns 3, 4 (from 0) have no name; name or remove them",
                "line 1: columns 0, 1 (from 0) are all named a; give each its own name",
                "line 3: expected 5 fields, found 1; complete the row",
            ],
            id="B42 names, and all problems at once",
        ),
        pytest.param(
            ",a\n0,1\n0,2\n",
            [
                "line 1: columns 0 (from 0) have no name; name or remove them (pandas writes its "
                "index so: save with index=False)"
            ],
            id="B42 the index of pandas",
        ),
        pytest.param(
            "", ["is empty; give a file whose first line names the columns"], id="B43 empty"
        ),
        pytest.param(
            "\n \n", ["is empty; give a file whose first line names the columns"], id="B43 blank"
        ),
        pytest.param(
            "a,b\n",
            ["has a header but no rows; give a file with at least one row of data"],
            id="B43 header only",
        ),
        pytest.param(
            "1.5,2,-3,1e3\n4,5,6,7\n",
            [
                "line 1 holds only numbers (1.5, 2, -3, ...): a header is missing; --no-header, or "
                "add a first line with names"
            ],
            id="B43 header missing",
        ),
    ],
)
def test_a_bad_file_is_refused_with_its_lines(path: Path, content: str, lines: list[str]) -> None:
    assert refused(path, content) == lines


def test_many_ragged_rows_are_listed_in_part_B39(path: Path) -> None:
    lines = refused(path, "a,b\n1,2\n" + "1\n" * 1000)
    assert lines[9] == "line 12: expected 2 fields, found 1; complete the row"
    assert lines[10:] == ["990 more rows have too few or too many fields"]


def test_a_quote_that_swallows_a_large_file_is_found_B39(path: Path) -> None:
    lines = refused(path, 'a,b\n1,"2\n' + "1,2\n" * 200_000)
    assert lines == ["line 2: a quote opens and is never closed; close it, or remove it"]


def test_a_delimiter_that_was_found_is_named_where_rows_do_not_fit_B40(path: Path) -> None:
    content = "a;b\n1;2\n3\n"
    short = "line 3: expected 2 fields, found 1; complete the row"
    assert refused(path, content) == [
        short,
        "the delimiter ';' was found from the first rows; --delimiter gives another",
    ]
    assert refused(path, content, delimiter=";") == [short]


def test_names_in_the_terminal_are_escaped_B42(path: Path) -> None:
    [line] = refused(path, "\x1b[31m,\x1b[31m\n1,2\n")
    assert line == r"line 1: columns 0, 1 (from 0) are all named '\x1b[31m'; give each its own name"


def test_blank_lines_are_skipped_and_said(path: Path) -> None:
    assert read(path, "\na,b\n\n1,2\n\n\n") == (
        {"a": ["1"], "b": ["2"]},
        ["2 blank lines were skipped"],
    )
    assert read(path, "\nx\n1\n\n2\n") == ({"x": ["1", "", "2"]}, ["1 blank lines were skipped"])


def test_columns_named_by_their_numbers_are_a_header(path: Path) -> None:
    assert read(path, "0,1,2\n5,6,7\n") == (
        {"0": ["5"], "1": ["6"], "2": ["7"]},
        ["the columns are named by their numbers, 0 to 2"],
    )


@pytest.mark.parametrize(
    ("content", "columns", "notes"),
    [
        ("a;b\n1;x\n2;y\n", {"a": ["1", "2"], "b": ["x", "y"]}, ["read with delimiter ';'"]),
        ("a|b\n1|2\n", {"a": ["1"], "b": ["2"]}, ["read with delimiter '|'"]),
        (
            "a\tb\n1,5\t2\n",
            {"a": ["1.5"], "b": ["2"]},
            ["read with delimiter tab and decimal comma"],
        ),
        (
            "a;b\n1,5;2\n-2,25e3;NA\n",
            {"a": ["1.5", "-2.25e3"], "b": ["2", "NA"]},
            ["read with delimiter ';' and decimal comma"],
        ),
        # by commas, these rows too have as many fields as their header; but by semicolons all
        # fields are numbers
        (
            "A, EUR;b\n1,5;2\n2,5;3\n",
            {"A, EUR": ["1.5", "2.5"], "b": ["2", "3"]},
            ["read with delimiter ';' and decimal comma"],
        ),
        ('a,b\n"0,5",2\n', {"a": ["0.5"], "b": ["2"]}, ["read with decimal comma"]),
        (
            "a;b\n1,5;x\nNA;y, z\n",
            {"a": ["1.5", "NA"], "b": ["x", "y, z"]},
            ["read with delimiter ';' and decimal comma"],
        ),
        # a column that is not all numbers stays as it is, and one alone shows no decimal comma
        (
            "a;b\n1,5;1\nlow;2\n",
            {"a": ["1,5", "low"], "b": ["1", "2"]},
            ["read with delimiter ';'"],
        ),
        ("a;b\n1,5;1\n2.5;2\n", {"a": ["1,5", "2.5"], "b": ["1", "2"]}, None),
        # the thousands of one country are the decimals of another
        ("a;b\n1,234;1\n", {"a": ["1,234"], "b": ["1"]}, None),
        (
            "a;b\n1,234;0,5\n",
            {"a": ["1.234"], "b": ["0.5"]},
            ["read with delimiter ';' and decimal comma"],
        ),
        ("a;b\n1.234;0,5\n", {"a": ["1234"], "b": ["0.5"]}, None),
        ("a;b\n1.234,5;1.234\n", {"a": ["1.234,5"], "b": ["1.234"]}, None),
    ],
)
def test_delimiter_and_decimal_comma_are_found_and_said_B40(
    path: Path, content: str, columns: dict[str, list[str]], notes: list[str] | None
) -> None:
    found, said = read(path, content)
    assert found == columns
    assert notes is None or said == notes


def test_numbers_that_can_be_read_two_ways_are_named_B40(path: Path) -> None:
    _, notes = read(path, 'a;b;c\n"1,234";1.234,5;x\n9;2;y\n')
    assert notes == [
        "read with delimiter ';'",
        "column a holds numbers such as '1,234', and is read as text; --decimal , if that is a "
        "decimal comma, --decimal . if it"
        " groups thousands",
    ]
    _, notes = read(path, "a;b\n1.234;0,5\n")
    assert notes[1] == (
        "column a holds numbers such as '1.234', whose point is read as one that groups thousands, "
        "since other columns hold decimal commas; correct the file if it is none"
    )


@pytest.mark.parametrize("decimal", [None, ","])
def test_points_group_thousands_where_commas_are_decimal_marks(path: Path, decimal) -> None:
    text = "a;b;c\n51.257;29,24;1.5\n999;26,25;2.25\n1.048.678;3,5;3\n"
    options = {} if decimal is None else {"decimal": decimal}
    table, notes = read(path, text, **options)
    assert table["a"] == ["51257", "999", "1048678"]
    assert table["b"] == ["29.24", "26.25", "3.5"]
    assert table["c"] == ["1.5", "2.25", "3"]
    assert any("such as '51.257', whose point is read as one that groups" in n for n in notes)


def test_a_late_decimal_comma_is_found_B40(path: Path) -> None:
    columns, _ = read(path, "a;b\n" + "1;2\n" * 5000 + "1,5;2\n")
    assert columns["a"][-2:] == ["1", "1.5"]


@pytest.mark.parametrize(
    ("content", "options", "columns"),
    [
        ("a;b,c\n1;2,3\n", {"delimiter": ","}, {"a;b": ["1;2"], "c": ["3"]}),
        ("a\tb\n1\t2\n", {"delimiter": "tab"}, {"a": ["1"], "b": ["2"]}),
        ("a\tb\n1\t2\n", {"delimiter": r"\t"}, {"a": ["1"], "b": ["2"]}),
        ("a b\n1 2\n", {"delimiter": " "}, {"a": ["1"], "b": ["2"]}),
        ("x\n1,5\n", {"delimiter": ";", "decimal": ","}, {"x": ["1.5"]}),
        ("a;b\n1,234;1\n", {"decimal": ","}, {"a": ["1.234"], "b": ["1"]}),
        ("a;b\n1,5;1\n", {"decimal": "."}, {"a": ["1,5"], "b": ["1"]}),
        ("a;b\n1,234;1\n", {"decimal": "."}, {"a": ["1234"], "b": ["1"]}),
        ("a,b\nx,y\n", {"header": False}, {"0": ["a", "x"], "1": ["b", "y"]}),
        ("1,2\n3,4\n", {"header": False}, {"0": ["1", "3"], "1": ["2", "4"]}),
        ("0,1,2\n3,4,5\n", {"header": False}, {"0": ["3"], "1": ["4"], "2": ["5"]}),
        ("1960,1961\n3,4\n", {"header": True}, {"1960": ["3"], "1961": ["4"]}),
        ("a;b\n1,5;1\n?;2\n", {"missing_values": ["?"]}, {"a": ["1.5", "?"], "b": ["1", "2"]}),
    ],
)
def test_options_override_what_is_found_B40(
    path: Path,
    content: str,
    options: dict[str, str | bool | list[str]],
    columns: dict[str, list[str]],
) -> None:
    assert read(path, content, **options)[0] == columns


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"delimiter": ";;"},
            "--delimiter takes one character, such as ',' or ';', or tab; not ';;'",
        ),
        ({"delimiter": ""}, "--delimiter takes one character, such as ',' or ';', or tab; not ''"),
        ({"delimiter": '"'}, "--delimiter takes one character"),
        ({"decimal": ";"}, "--decimal takes '.' or ',', not ';'"),
        (
            {"encoding": "latin-99"},
            "--encoding latin-99 is not known; give one such as utf-8, latin-1 or utf-16",
        ),
    ],
)
def test_a_wrong_option_is_refused(path: Path, options: dict[str, str], words: str) -> None:
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError) as caught:
        read_csv(path, **options)
    assert words in str(caught.value)


TEXT = "a,b\ncafé,it’s\n"


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        pytest.param(TEXT.encode(), None, id="B41 utf-8"),
        pytest.param(codecs.BOM_UTF8 + TEXT.encode(), None, id="B41 utf-8 with mark"),
        pytest.param(codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"), None, id="B41 utf-16-le"),
        pytest.param(codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), None, id="B41 utf-16-be"),
        pytest.param(codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"), None, id="B41 utf-32-le"),
        pytest.param(TEXT.encode("utf-16-le"), "utf-16-le", id="B41 utf-16-le told"),
        pytest.param(TEXT.encode("cp1252"), "cp1252", id="B41 cp1252 told"),
    ],
)
def test_encodings_are_read_by_mark_or_option(
    path: Path, content: bytes, encoding: str | None
) -> None:
    path.write_bytes(content)
    assert read_csv(path, encoding=encoding)[0].to_pydict() == {"a": ["café"], "b": ["it’s"]}


@pytest.mark.parametrize(
    ("content", "encoding", "line"),
    [
        (
            "a,b\n1,2\nx,café\n".encode("latin-1"),
            None,
            "is not UTF-8: line 3, byte 0xe9; --encoding latin-1 if it should read 'x,café' there",
        ),
        (
            "a,b\nx,it’s\n".encode("cp1252"),
            None,
            "is not UTF-8: line 2, byte 0x92; --encoding cp1252 if it should read 'x,it’s' there",
        ),
        (
            TEXT.encode("utf-16-le"),
            None,
            "line 1: holds a NUL byte; --encoding utf-16-le if it is that",
        ),
        (
            TEXT.encode("utf-16-be"),
            None,
            "line 1: holds a NUL byte; --encoding utf-16-be if it is that",
        ),
        (
            "a,b\n1,é\n".encode("latin-1"),
            "ascii",
            "is not ascii ('ascii' codec can't decode byte 0xe9 in position 6: ordinal not in "
            "range(128)); omit --encoding"
            ", or give another",
        ),
    ],
)
def test_an_encoding_is_never_guessed_B41(
    path: Path, content: bytes, encoding: str | None, line: str
) -> None:
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_csv(path, encoding=encoding)
    assert caught.value.problems == [f"{path}: {line}"]


def test_a_wide_table_is_read(path: Path) -> None:
    columns, _ = read(
        path,
        ",".join(f"g{i}" for i in range(3000)) + "\n" + ",".join("7" for _ in range(3000)) + "\n",
    )
    assert list(columns) == [f"g{i}" for i in range(3000)]
    assert columns["g2999"] == ["7"]


ROWS = "".join(f"{i % 7}.5,{i % 3},{'xyz'[i % 3]}\n" for i in range(30))
NUMBERS = "".join(f"{i % 7}.5,{i % 3},{i}\n" for i in range(30))


def columns_of(rows: str) -> dict[str, list[str]]:
    a, b, k = zip(*(line.split(",") for line in rows.splitlines()), strict=True)
    return {"a": list(a), "b": list(b), "k": list(k)}


@pytest.mark.parametrize(
    ("content", "rows", "said"),
    [
        pytest.param(
            "sep=;\na;b;k\n" + ROWS.replace(",", ";"),
            ROWS,
            "the first line, sep=;, says the delimiter",
            id="Excel",
        ),
        pytest.param(
            "a b k\n" + ROWS.replace(",", " "), ROWS, "read with blanks as delimiter", id="blanks"
        ),
        pytest.param(
            "  a   b k \n" + ROWS.replace(",", "    ").replace("\n", " \r\n"),
            ROWS,
            "read with blanks",
            id="aligned",
        ),
        pytest.param(
            "# a b k\n" + NUMBERS.replace(",", " "),
            NUMBERS,
            "line 1 names the columns behind a #",
            id="numpy.savetxt",
        ),
        pytest.param(
            "# made, by x\n#\na,b,k\n" + ROWS + "# end\n",
            ROWS,
            "3 lines that begin with #",
            id="comments",
        ),
        pytest.param(
            '"World Bank",\n\n"Updated 2024",\n\na,b,k\n' + ROWS,
            ROWS,
            "4 lines before the header",
            id="preamble",
        ),
        pytest.param(
            "a,b,k,\n" + ROWS.replace("\n", ",\n"),
            ROWS,
            "the empty last column was omitted",
            id="trailing comma",
        ),
    ],
)
def test_what_stands_around_the_rows_is_taken_away_and_said(
    path: Path, content: str, rows: str, said: str
) -> None:
    found, notes = read(path, content)
    assert found == columns_of(rows)
    assert any(said in note for note in notes)


def test_asked_for_blanks_are_any_number_of_them(path: Path) -> None:
    assert read(path, "name  n\nx     1\nyy   10\n", delimiter=" ")[0] == {
        "name": ["x", "yy"],
        "n": ["1", "10"],
    }


def test_texts_of_several_words_are_no_columns(path: Path) -> None:
    assert read(path, "full name\nJane Doe\nJohn Roe\n")[0] == {
        "full name": ["Jane Doe", "John Roe"]
    }


@pytest.mark.parametrize(
    "index", [[str(i) for i in range(30)], [f"row {i * 7}" for i in range(30)]]
)
def test_names_of_rows_without_a_name_are_an_index(path: Path, index: list[str]) -> None:
    content = ",a,b,k\n" + "".join(
        f"{i},{line}\n" for i, line in zip(index, ROWS.splitlines(), strict=True)
    )
    found, notes = read(path, content)
    assert found == {"index": index, **columns_of(ROWS)}
    assert notes == ["column 0 (from 0) has no name and names the rows; it is called 'index'"]


def test_a_row_that_took_the_place_of_names_is_refused_or_told(path: Path) -> None:
    [line] = refused(path, ROWS)
    assert line == (
        "line 1: '0.5' names column 0 (from 0) and is also one of its values; --no-header if line "
        "1 is a row, --header if it"
        " names the columns"
    )
    assert read(path, ROWS, header=False)[0] == dict(
        zip("012", columns_of(ROWS).values(), strict=True)
    )
    assert len(read(path, ROWS, header=True)[0]["x"]) == 29
    years = "country,1960,1961\n" + "".join(f"c{i},{i}.5,{i}\n" for i in range(9))
    assert list(read(path, years)[0]) == ["country", "1960", "1961"]
    _, [note] = read(path, "a,yes,b\n1,yes,2\n3,no,4\n")
    assert note.startswith(
        "line 1: 'yes' names column 1 (from 0) and is also one of its values; --no-header"
    )


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zip"])
def test_packed_tables_are_read_and_damaged_ones_refused(tmp_path: Path, suffix: str) -> None:
    from taut.data.readers import kind_of

    pack = {
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
        ".zip": lambda data: zipped({"t.csv": data}),
    }[suffix]
    path = tmp_path / f"t.csv{suffix}"
    packed = pack(("a,b,k\n" + ROWS).encode())
    assert kind_of(path).name == "text tables"
    assert read(path, packed) == (columns_of(ROWS), [])
    [line] = refused(path, packed[: len(packed) // 2])
    assert line.startswith("is truncated or damaged (")


def test_an_archive_of_several_files_is_refused(path: Path) -> None:
    assert refused(path, zipped({"a.csv": b"a\n1\n", "b.csv": b"a\n1\n"})) == [
        "holds 2 files (a.csv, b.csv); give an archive of one table, or unpack it"
    ]


@pytest.mark.parametrize(
    "pack", [gzip.compress, bz2.compress, lzma.compress, lambda data: zipped({"t.csv": data})]
)
def test_a_file_that_unpacks_to_more_than_memory_is_refused_in_time(
    path: Path, pack, monkeypatch
) -> None:
    monkeypatch.setattr("taut.system.memory.available", lambda: 2**25)
    path.write_bytes(pack(b"a,b\n" + b"1,2\n" * 2**23))
    with pytest.raises(OutOfMemoryError, match="GiB of data need at least"):
        read_csv(path)
