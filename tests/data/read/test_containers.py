"""Files to rows: the same rows from every container, each with its line, and words for what is broken."""

import bz2
import csv
import gzip
import json
import random
import subprocess
import sys
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest
from conftest import PROJECT, write_micro, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifact.digests import file_sha256
from pipeline.data.read.files import files
from pipeline.data.read.reader import read
from pipeline.errors import PipelineError
from pipeline.plan.planner import Planner
from pipeline.recipe.reading import load_recipe

ROWS = [
    {"prompt": "what is red?", "completion": 'a "colour",\nof course'},
    {"prompt": "什么是红色？", "completion": "颜色"},
    {"prompt": "", "completion": "tab\there"},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def write_csv(path, rows=ROWS, delimiter=",", ending="\r\n"):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, lineterminator=ending)
        writer.writeheader()
        writer.writerows(rows)


def write_arrow_file(path, table):
    with pyarrow.ipc.new_file(path, table.schema) as file:
        file.write_table(table, max_chunksize=2)


def write_arrow_stream(path, table):
    with pyarrow.ipc.new_stream(path, table.schema) as file:
        file.write_table(table, max_chunksize=2)


def as_table(rows=ROWS):
    return pyarrow.Table.from_pylist(rows)


WRITERS = {
    "array.json": lambda path: path.write_text(json.dumps(ROWS)),
    "pretty.json": lambda path: path.write_text(json.dumps(ROWS, indent=2)),
    "lines.jsonl": lambda path: path.write_text(LINES),
    "wrapped.json": lambda path: path.write_text(json.dumps({"version": 1, "data": ROWS, "tags": ["a"]})),
    "pretty_wrapped.json": lambda path: path.write_text(json.dumps({"data": ROWS, "n": {"a": 1}}, indent=2)),
    "rows.csv": write_csv,
    "rows.tsv": lambda path: write_csv(path, delimiter="\t", ending="\n"),
    "rows.parquet": lambda path: pyarrow.parquet.write_table(as_table(), path, row_group_size=2),
    "file.arrow": lambda path: write_arrow_file(path, as_table()),
    "stream.arrow": lambda path: write_arrow_stream(path, as_table()),
}
COMPRESSORS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: pyarrow.compress(data, codec="zstd", asbytes=True),
}


def refused(path, **options):
    with pytest.raises(PipelineError) as error:
        list(read(str(path), **options))
    return str(error.value)


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_rows_from_every_container(tmp_path, name):
    WRITERS[name](tmp_path / name)
    assert [row.value for row in read(str(tmp_path / name))] == ROWS


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize("name", ["pretty.json", "lines.jsonl", "rows.csv", "rows.tsv"])
def test_compressed_files_read_like_plain_ones(tmp_path, name, suffix):
    WRITERS[name](tmp_path / name)
    packed = written(tmp_path, name + suffix, COMPRESSORS[suffix]((tmp_path / name).read_bytes()))
    plain = [(row.line, row.value) for row in read(str(tmp_path / name))]
    assert [(row.line, row.value) for row in read(packed)] == plain


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_compressed_file_that_is_cut_or_none_says_so(tmp_path, suffix):
    packed = COMPRESSORS[suffix](random.Random(0).randbytes(5000).hex().encode())
    for content in (packed[:-9], packed[: len(packed) // 2], b"no such thing"):
        path = written(tmp_path, "rows.jsonl" + suffix, content)
        assert f"{path}: cannot be read: " in refused(path)


@pytest.mark.parametrize("name", ["pretty.json", "lines.jsonl", "rows.csv", "rows.tsv", "pretty_wrapped.json"])
@pytest.mark.parametrize("ending", ["\r\n", "\r"])
def test_line_ends_and_marks_change_neither_rows_nor_lines(tmp_path, name, ending):
    WRITERS[name](tmp_path / name)
    text = (tmp_path / name).read_text(encoding="utf-8")  # every line end is LF here
    plain = [(row.line, row.value) for row in read(str(tmp_path / name))]
    other = written(tmp_path, "other_" + name, ("\ufeff" + text.replace("\n", ending)).encode())
    assert [(row.line, row.value) for row in read(other)] == plain


def test_lines_are_those_an_editor_shows(tmp_path):
    WRITERS["rows.csv"](tmp_path / "rows.csv")
    assert [row.line for row in read(str(tmp_path / "rows.csv"))] == [2, 4, 5]
    wrapped = written(tmp_path, "wrapped.json", '{"n": 1,\n"data": [\n{"text": "a"},\n\n{"text": "b"}\n]}')
    assert [row.line for row in read(wrapped)] == [3, 5]
    WRITERS["rows.parquet"](tmp_path / "rows.parquet")
    assert [row.line for row in read(str(tmp_path / "rows.parquet"))] == [1, 2, 3]


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


def test_text_is_one_document_or_split(tmp_path):
    path = written(tmp_path, "rows.txt", "one\r\nstill one\r\n---\r\n\r\ntwo\r\n---\r\n\r\n---\r\nthree\r\n---\r\n")
    documents = [(row.line, row.value["text"]) for row in read(path, separator="---\n")]
    assert documents == [(1, "one\nstill one"), (5, "two"), (7, ""), (9, "three")]
    (whole,) = read(path)
    assert whole.value["text"].startswith("one\nstill one\n---\n\ntwo")
    assert "separator" in refused(path, separator="")
    assert "the file is empty" in refused(written(tmp_path, "blank.txt", "\n \n"), separator="---")


def test_a_separator_is_found_across_blocks(tmp_path, monkeypatch):
    path = written(tmp_path, "rows.txt", "a<|end|>bc<|end|><|en<|end|>d")
    for block in range(1, 12):
        monkeypatch.setattr("pipeline.data.read.containers.BLOCK", block)
        assert [row.value["text"] for row in read(path, separator="<|end|>")] == ["a", "bc", "<|en", "d"]


@pytest.mark.parametrize("encoding", ["utf-16", "gb18030", "utf-8"])
@pytest.mark.parametrize("name", ["lines.jsonl", "rows.csv"])
def test_an_encoding_is_honored(tmp_path, name, encoding):
    WRITERS[name](tmp_path / name)
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert [
        row.value for row in read(written(tmp_path, "other_" + name, text.encode(encoding)), encoding=encoding)
    ] == ROWS


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("rows", [3, 30_000])
def test_what_is_not_utf_8_is_told_with_its_line(tmp_path, ending, rows):
    path = written(tmp_path, "rows.jsonl", (b'{"text": "a"}' + ending) * rows + '{"text": "é"}'.encode("latin-1"))
    said = refused(path)
    assert f"rows.jsonl:{rows + 1}: not UTF-8 text" in said and "data.encoding" in said
    assert len(list(read(path, encoding="latin-1"))) == rows + 1


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize("name", ["pretty.json", "lines.jsonl", "rows.csv"])
def test_a_compressed_file_is_read_whatever_its_name(tmp_path, name, suffix):
    WRITERS[name](tmp_path / name)
    packed = written(tmp_path, f"packed_{name}", COMPRESSORS[suffix]((tmp_path / name).read_bytes()))
    assert [row.value for row in read(packed)] == ROWS
    assert "cannot be read" in refused(written(tmp_path, f"cut_{name}", (tmp_path / packed).read_bytes()[:-9]))


@pytest.mark.parametrize("name", ["rows.parquet", "file.arrow", "stream.arrow"])
def test_a_table_is_read_whatever_its_name(tmp_path, name):
    WRITERS[name](tmp_path / name)
    assert [row.value for row in read(written(tmp_path, "rows.json", (tmp_path / name).read_bytes()))] == ROWS


def test_a_text_that_begins_as_a_table_or_an_archive_does_is_a_text(tmp_path):
    for text in ("PAR1 is a word", "ARROW1 too", "BZh, and this"):
        assert [row.value["text"] for row in read(written(tmp_path, "a.txt", text))] == [text]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("name", ["lines.jsonl", "pretty.json", "rows.csv"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_byte_order_mark_says_the_encoding_and_is_no_text(tmp_path, name, encoding, pack):
    WRITERS[name](tmp_path / name)
    text = "\ufeff" + (tmp_path / name).read_text(encoding="utf-8")
    path = written(tmp_path, "other_" + name, pack(text.encode(encoding)))
    assert [row.value for row in read(path)] == ROWS
    assert [row.value for row in read(path, encoding=encoding)] == ROWS
    assert [row.value for row in read(path, encoding=encoding.removesuffix("-le").removesuffix("-be"))] == ROWS


FRENCH = "Qu’est-ce que le café préféré des Français ? C’est une très bonne boisson, préparée à l’été."
RUSSIAN = "Что такое красный цвет? Это один из цветов, который часто используют люди."
JAPANESE = "赤とは何ですか？それは色の一種で、よく使われます。短い文を書いてください。"


@pytest.mark.parametrize(
    "encoding, said",
    [
        ("cp1252", FRENCH),
        ("cp1251", RUSSIAN),
        ("gb18030", "什么是红色？它是一种颜色，人们经常用它表示喜庆。"),
        ("cp932", JAPANESE),
    ],
)
@pytest.mark.parametrize("layout", ["lines", "array"])
def test_the_likeliest_encoding_is_suggested_and_reads_the_file(tmp_path, encoding, said, layout):
    rows = [{"text": f"row {n}"} for n in range(400)] + [{"text": f"{said} {n}"} for n in range(400)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    text = "\n".join(lines) if layout == "lines" else f"[{', '.join(lines)}]"
    path = written(tmp_path, "rows.json", text.encode(encoding))
    told = refused(path)
    assert f"rows.json:{401 if layout == 'lines' else 1}: not UTF-8 text" in told
    assert f"set data.encoding: {encoding} " in told and said[:9] in told
    assert [row.value for row in read(path, encoding=encoding)] == rows


def test_no_encoding_is_suggested_for_what_is_no_text(tmp_path):
    told = refused(written(tmp_path, "rows.json", b"\x89PNG\r\n\x1a\n" + random.Random(0).randbytes(5000)))
    assert "not UTF-8 text." in told and "It may be" not in told


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_recognized(tmp_path, encoding):
    path = written(tmp_path, "rows.jsonl", LINES.encode(encoding))
    assert "UTF-16 without a byte-order mark" in refused(path) and f"data.encoding: {encoding}" in refused(path)
    assert [row.value for row in read(path, encoding=encoding)] == ROWS


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


@pytest.mark.parametrize("name", ["utf-9", "hex", ""])
def test_an_unknown_encoding_is_refused(tmp_path, name):
    assert "data.encoding" in refused(written(tmp_path, "rows.jsonl", LINES), encoding=name)


def test_tables_give_plain_values_and_say_what_is_wrong_with_them(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "a"}], "n": n} for n in range(1200)]
    pyarrow.parquet.write_table(as_table(rows), tmp_path / "rows.parquet")
    assert [row.value for row in read(str(tmp_path / "rows.parquet"))] == rows
    write_arrow_stream(tmp_path / "rows.arrow", as_table(rows))
    whole = (tmp_path / "rows.arrow").read_bytes()
    for name, content in (
        ("cut.arrow", whole[:-8]),
        ("half.arrow", whole[: len(whole) // 2]),
        ("twice.arrow", whole * 2),
        ("no.parquet", b"PAR1 no"),
    ):
        assert name in refused(written(tmp_path, name, content))


def test_a_saved_dataset_is_read_as_a_folder(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved", num_shards=2)
    (tmp_path / "saved" / "cache-0123.arrow").write_bytes(b"left by map()")
    assert [row.value for row in read(str(tmp_path / "saved"))] == ROWS


def test_folders_and_globs_mean_their_files_sorted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = ["d/a.jsonl", "d/b/c.csv.gz", "d/c.TXT", "d/d.parquet"]
    for name in [*wanted, "d/.hidden.jsonl", "d/.git/x.json", "d/README.md", "d/state.json", "d/dataset_info.json"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert files("d") == wanted
    assert files("d/*.json*") == ["d/a.jsonl"]
    assert files("d/**/*.gz") == ["d/b/c.csv.gz"]
    assert files(["d/d.parquet", "d/README.md", "d/b"]) == ["d/d.parquet", "d/README.md", "d/b/c.csv.gz"]
    (tmp_path / "d/[1].jsonl").write_text("x")
    assert files("d/[1].jsonl") == ["d/[1].jsonl"]


def test_paths_that_mean_no_file_say_what_was_looked_for(tmp_path):
    (tmp_path / "empty").mkdir()
    write_rows(tmp_path / "rows.jsonl", ROWS)
    for path, expected in (
        ("empty", ".parquet"),
        ("*.csv", "no file matches"),
        ("row.jsonl", str(tmp_path / "rows.jsonl")),
    ):
        with pytest.raises(PipelineError, match="no ") as error:
            files(str(tmp_path / path))
        assert str(tmp_path / path) in error.value.what and expected in str(error.value)


def test_finding_files_imports_no_table_library():
    code = "import sys, pipeline.data.read.reader; print([m for m in ('pyarrow', 'pandas', 'datasets') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=PROJECT, text=True).strip() == "[]"


def test_a_plan_takes_folders_and_keeps_the_fingerprint_of_a_plain_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_micro(tmp_path)
    (tmp_path / "rows").mkdir()
    (tmp_path / "text.jsonl").rename(tmp_path / "rows" / "text.jsonl")
    (tmp_path / "held").mkdir()
    for part in "ab":
        write_rows(tmp_path / "held" / f"{part}.jsonl", [{"text": part}])

    def step(path, held_out):
        made = load_recipe("micro.yaml", [f"stages.pretrain.data={{path: '{path}', held_out: '{held_out}'}}"])
        return Planner(made, tmp_path / "runs").plan(["pretrain"])[0]

    digests = [file_sha256(tmp_path / name) for name in ("rows/text.jsonl", "held/a.jsonl", "held/b.jsonl")]
    plain = step("rows/text.jsonl", "held/a.jsonl")
    assert (plain.inputs["data"]["files"], plain.inputs["data"]["held_out"]) == ([digests[0]], digests[1])
    assert step("rows", "held/a*").fingerprint == plain.fingerprint
    assert step("ro*/*.jsonl", "held").inputs["data"]["held_out"] == digests[1:]
    with pytest.raises(
        PipelineError, match=r"pretrain: none: no such file(.|\n)*pretrain: held/\*.csv: no file matches"
    ):
        step("none", "held/*.csv")


def peak(path, **options):
    """Bytes that reading added, at its most."""
    tracemalloc.start()
    number = sum(1 for _ in read(str(path), **options))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return number, most


def test_reading_holds_a_few_blocks_not_the_file(tmp_path):
    text = "many words " * 160
    rows = [{"text": f"{number} {text}"} for number in range(10_000)]  # 18 MB
    write_rows(tmp_path / "rows.jsonl", rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows, indent=0))
    write_csv(tmp_path / "rows.csv", rows)
    (tmp_path / "rows.txt").write_text("\n---\n".join(row["text"] for row in rows))
    pyarrow.parquet.write_table(as_table(rows), tmp_path / "rows.parquet")
    write_arrow_file(tmp_path / "rows.arrow", as_table(rows))
    for suffix in ("jsonl", "json", "csv", "txt", "parquet", "arrow"):
        number, most = peak(tmp_path / f"rows.{suffix}", separator="\n---\n")
        assert number == len(rows) and most < 8 << 20, (suffix, most)


GOOD = {
    ".jsonl": LINES.encode(),
    ".json": json.dumps(ROWS, indent=1).encode(),
    ".csv": b'a,b\n1,"two\nlines"\n"say ""hi""",4\n',
    ".txt": b"one\n---\ntwo\n",
    ".csv.gz": gzip.compress(b"a,b\n1,2\n" * 9, mtime=0),
    ".jsonl.zst": pyarrow.compress(LINES.encode() * 9, codec="zstd", asbytes=True),
}
WRAPPED = json.dumps({"data": ROWS, "n": 1}, indent=1).encode()


@settings(max_examples=300, deadline=None, database=None)
@given(st.data())
def test_damaged_files_end_in_rows_problems_or_a_plain_error(tmp_path_factory, data):
    suffix = data.draw(st.sampled_from(sorted(GOOD)))
    content = data.draw(st.sampled_from([GOOD[suffix], WRAPPED])) if suffix == ".json" else GOOD[suffix]
    for _ in range(data.draw(st.integers(1, 3))):
        start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2)))
        put = data.draw(
            st.sampled_from([b"", content[start:end] * 2]) | st.binary(max_size=6) | st.sampled_from(HARMFUL)
        )
        content = content[:start] + put + content[end:]
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    path.write_bytes(content)
    try:
        rows = list(read(str(path), separator="---"))
    except PipelineError as error:
        assert str(path) in error.what
    else:
        assert all(row.line >= 1 and row.file == str(path) for row in rows)


HARMFUL = [b'"', b"\n", b"\r", b"\0", b"[", b"{", b"}", b"]", b"\\", b"\xff", b"\xef\xbb\xbf", b"9" * 5000, b"[" * 9999]


@pytest.mark.parametrize(
    ("name", "delimiter"), [("rows.csv", ";"), ("rows.csv", "\t"), ("rows.csv", ","), ("rows.tsv", "\t")]
)
def test_a_header_tells_the_delimiter(tmp_path, name, delimiter):
    file = tmp_path / name
    file.write_text(f'\n"a"{delimiter}b\n"x; y, z"{delimiter}2\n')
    assert [row.value for row in read(str(file))] == [{"a": "x; y, z", "b": "2"}]


def test_excels_line_about_the_separator_is_no_header(tmp_path):
    (tmp_path / "rows.csv").write_text("sep=;\nprompt;completion\na, b;c\n")
    (row,) = read(str(tmp_path / "rows.csv"))
    assert row.value == {"prompt": "a, b", "completion": "c"} and row.line == 3


def test_western_text_is_not_taken_for_that_of_an_old_mac(tmp_path):
    rows = [{"prompt": f"Frage {n}: was weiß man über Äpfel?", "completion": f"Antwort {n}, schön."} for n in range(30)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_bytes(text.encode("cp1252"))
    with pytest.raises(PipelineError, match=r"cp1252.*über Äpfel"):
        list(read(str(tmp_path / "rows.jsonl")))


@pytest.mark.parametrize("encoding", ["gbk", "ascii", "cp932"])
def test_an_encoding_named_for_a_file_in_utf_8_is_told_as_such(tmp_path, encoding):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "“always-on” — ä", "completion": "ok"}\n' * 9, encoding="utf-8")
    with pytest.raises(PipelineError, match="it is UTF-8") as refused:
        list(read(str(tmp_path / "rows.jsonl"), encoding=encoding))
    assert "out" in refused.value.fix
