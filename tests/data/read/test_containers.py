"""Files to rows: the same rows from every container, each with its line, and words for what is broken."""

import gzip
import json
import random
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest
from conftest import write_rows
from containers import (
    COMPRESSORS,
    LINES,
    ROWS,
    WRITERS,
    as_table,
    refused,
    write_arrow_file,
    write_arrow_stream,
    write_csv,
    written,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.read.reader import read
from pipeline.errors import PipelineError


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
