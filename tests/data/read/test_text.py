"""Encodings told, found and suggested; plain text as one document or several."""

import gzip
import json
import random

import pytest
from containers import LINES, ROWS, WRITERS, refused, written

from pipeline.data.read.reader import read
from pipeline.errors import PipelineError


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


@pytest.mark.parametrize("name", ["utf-9", "hex", ""])
def test_an_unknown_encoding_is_refused(tmp_path, name):
    assert "data.encoding" in refused(written(tmp_path, "rows.jsonl", LINES), encoding=name)


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
