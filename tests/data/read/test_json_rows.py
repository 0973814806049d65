"""JSON in all the layouts that people write, each row with its line, and what is broken told by its line."""

import json

import pytest
from conftest import write_rows
from containers import refused, written

from pipeline.data.read.reader import read


@pytest.mark.parametrize("name", ["one.json", "one.jsonl"])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function"}]},
        {"prompt": "a", "completion": "b"},
        {"question": "a", "reply": "b", "source": {"page": 3}},
    ],
)
def test_an_object_that_is_one_row(tmp_path, name, indent, row):
    (only,) = read(written(tmp_path, name, json.dumps(row, indent=indent)))
    assert (only.line, only.value) == (1, row)


@pytest.mark.parametrize("value", [{"train": [{"a": 1}], "test": [{"a": 1}]}, {"text": {"0": "a"}, "n": {"0": 1}}, {}])
def test_an_object_whose_rows_cannot_be_told_is_refused(tmp_path, value):
    if "text" in value:
        value["body"] = value.pop("text")
    said = refused(written(tmp_path, "rows.json", json.dumps(value)))
    assert "rows.json:1: the file is one object" in said and "JSON Lines" in said


@pytest.mark.parametrize(
    "content, expected",
    [
        ('[{"a": 1},\n{"a": 2}]\n{"a": 3}', "rows.json:3: something follows the end"),
        ('{\n"a": 1\n}\n{\n"a": 2\n}\n', "rows.json:4: something follows the end"),
        ('[\n{"a": 1},\n{"a": "', "rows.json:3: the JSON array breaks off"),
        ('[\n{"a": 1},\n', "not closed"),
        ('{\n"data": [\n{"a": 1},\n', "rows.json:2: the JSON object breaks off"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": [\n' * 100_000, "nested too deeply"),
        ("[1, " + "9" * 5000 + "]", "rows.json:1: the JSON array breaks off"),
        (" \n\n", "rows.json: the file is empty"),
    ],
)
def test_broken_json_names_its_line(tmp_path, content, expected):
    assert expected in refused(written(tmp_path, "rows.json", content))


def test_bad_lines_are_rows_with_a_problem(tmp_path):
    lines = ['{"a": 1}', "{", '{"a": 1} {"a": 2}', "\0\0", '{"a": "' + "\0", "[" * 100_000, "9" * 5000, '{"a": 2}']
    rows = list(read(written(tmp_path, "rows.jsonl", "\n".join(lines))))
    assert [row.line for row in rows if row.problem] == [2, 3, 4, 5, 6, 7]
    assert [row.value for row in rows if not row.problem] == [{"a": 1}, {"a": 2}]


def test_a_first_line_that_is_cut_is_a_problem_of_that_line_alone(tmp_path):
    rows = list(read(written(tmp_path, "rows.jsonl", '{"a": 1,\n{"a": 2}\n{"a": 3}\n')))
    assert [(row.line, bool(row.problem)) for row in rows] == [(1, True), (2, False), (3, False)]


@pytest.mark.parametrize(
    "name, layout", [("big.json", json.dumps), ("big.jsonl", lambda v: "\n".join(map(json.dumps, v)))]
)
def test_rows_longer_than_what_is_read_at_once(tmp_path, name, layout):
    rows = [
        {"text": character * size} for character, size in (("a", 2 << 20), ("é", 1 << 20), ("\\", 3 << 20), ("b", 1))
    ]
    assert [row.value for row in read(written(tmp_path, name, layout(rows)))] == rows


def test_an_array_reads_alike_wherever_it_is_cut_into_blocks(tmp_path, monkeypatch):
    rows = [12.5e-7, -1234567, 'a\\\u1234"', True, None, [], {"a": [1, {"b": "c"}]}]
    path = written(tmp_path, "rows.json", json.dumps(rows, indent=1))
    for block in range(1, 60):
        monkeypatch.setattr("pipeline.data.read.json_rows.BLOCK", block)
        assert [(row.line, row.value) for row in read(path)] == list(zip([2, 3, 4, 5, 6, 7, 8], rows, strict=True))


def test_a_row_knows_its_line_in_an_array_and_in_lines(tmp_path):
    rows = [{"text": "a\nb"}, {"text": "c"}]
    (tmp_path / "array.json").write_text(json.dumps(rows, indent=2))
    write_rows(tmp_path / "lines.jsonl", rows)
    assert [row.line for row in read(str(tmp_path / "array.json"))] == [2, 5]
    assert [row.line for row in read(str(tmp_path / "lines.jsonl"))] == [1, 2]


@pytest.mark.parametrize("prefix, ending", [(b"\xef\xbb\xbf", "\n"), (b"", "\r\n"), (b"\n \n", "\n\n")])
def test_marks_line_ends_and_blank_lines_are_harmless(tmp_path, prefix, ending):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(prefix + ending.join(json.dumps({"text": t}) for t in "ab").encode())
    assert [row.value["text"] for row in read(str(file))] == ["a", "b"]


def test_the_suffix_may_lie(tmp_path):
    write_rows(tmp_path / "rows.json", [{"text": "a"}])
    assert [row.value for row in read(str(tmp_path / "rows.json"))] == [{"text": "a"}]
