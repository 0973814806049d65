"""CSV: which line is the header, what parts the columns, and where the quoting broke."""

import pytest
from containers import refused, written

from pipeline.data.read.reader import read


def test_records_with_other_numbers_of_columns_are_problems(tmp_path):
    path = written(tmp_path, "rows.csv", 'a,b\n1,2\n\n"x\ny"\n1,2,3\n4,"5\0"\n')
    rows = list(read(path))
    assert [(row.line, row.problem) for row in rows[:3]] == [
        (2, ""),
        (4, "1 column, but the header has 2"),
        (6, "3 columns, but the header has 2"),
    ]
    assert rows[3].line == 7 and "NUL" in rows[3].problem


@pytest.mark.parametrize(
    "content, expected",
    [
        ('a,b\n1,2\n"x "y" z",2\n1,2\n"p "q" r",2\n', "rows.csv:3: the quoting is broken"),
        ('a,b\n1,2\n"never closed,2\n3,4\n', "rows.csv:3: the quoting is broken"),
        ("a,a\n1,2\n", "rows.csv:1: two columns of the header have the same name"),
        ("a,b\n", "rows.csv: the file is empty but for its header (a, b)"),
        ("", "rows.csv: the file is empty"),
    ],
)
def test_broken_csv_is_refused_with_its_line(tmp_path, content, expected):
    assert expected in refused(written(tmp_path, "rows.csv", content))


def test_other_places_of_broken_quoting_are_named_too(tmp_path):
    said = refused(written(tmp_path, "rows.csv", 'a,b\n"x "y" z",2\n1,2\n"p "q" r",2\n'))
    assert "rows.csv:2" in said and "on line 4" in said


@pytest.mark.parametrize(
    "first, shown",
    [
        ('"What is red, and how does one tell?",A colour', "What is red, and how does one tell? | A colour"),
        (f"{'so long a text ' * 20},positive", "so long a text so long"),
        ("3,Hi there", "3 | Hi there"),
        ('"two\nlines of a text that is a row",b', "two lines of a text"),
    ],
)
def test_a_first_row_is_not_taken_for_a_header(tmp_path, first, shown):
    told = refused(written(tmp_path, "rows.csv", f"{first}\nmore,rows\n"))
    assert "rows.csv:1: the first line has to name the columns, and it looks like a row: " in told and shown in told
    assert "such as prompt,completion" in told and "data.columns" in told


@pytest.mark.parametrize("header", ["frage,antwort", "0,prompt", "How content are you with all of it?,completion"])
def test_an_unusual_header_is_one(tmp_path, header):
    (row,) = read(written(tmp_path, "rows.csv", f"{header}\na,b\n"))
    assert list(row.value) == header.split(",")


def test_a_header_that_is_mapped_is_one_however_it_reads(tmp_path):
    from pipeline.data.read.reader import read_rows
    from pipeline.data.source import Data

    path = written(tmp_path, "rows.csv", "0,Was halten Sie insgesamt von dem neuen Produkt?\na,b\n")
    refused(path)
    (row,) = read_rows(Data(path=path, columns={"prompt": "0"}))
    assert row.value["0"] == "a"


@pytest.mark.parametrize(
    ("name", "delimiter"), [("rows.csv", ";"), ("rows.csv", "\t"), ("rows.csv", ","), ("rows.tsv", "\t")]
)
def test_a_header_tells_the_delimiter(tmp_path, name, delimiter):
    file = tmp_path / name
    file.write_text(f'\n"a"{delimiter}b\n"x; y, z"{delimiter}2\n')
    assert [row.value for row in read(str(file))] == [{"a": "x; y, z", "b": "2"}]


@pytest.mark.parametrize(
    "rows",
    [
        ["Wie geht es, mein Freund?;Danke, mir geht es gut, und dir?", "Was ist rot?;Eine Farbe"],  # as many or not
        ["1;Hello, world;Hi, there", "2;How are you, dear?;Fine, thanks"],
    ],
)
def test_a_missing_header_is_asked_for_with_the_separator_of_the_file(tmp_path, rows):
    told = refused(written(tmp_path, "rows.csv", "\n".join(rows)))
    first = rows[0].replace(";", " | ")
    assert f"looks like a row: {first}" in told and "such as prompt;" in told and "prompt," not in told


def test_a_known_name_tells_the_separator_though_another_has_a_comma(tmp_path):
    path = written(tmp_path, "rows.csv", "prompt;answer, as given\na, b;c\n")
    assert [row.value for row in read(path)] == [{"prompt": "a, b", "answer, as given": "c"}]


def test_excels_line_about_the_separator_is_no_header(tmp_path):
    (tmp_path / "rows.csv").write_text("sep=;\nprompt;completion\na, b;c\n")
    (row,) = read(str(tmp_path / "rows.csv"))
    assert row.value == {"prompt": "a, b", "completion": "c"} and row.line == 3
