"""Files that are broken in the ways that files are: refused with file and line, or exactly their bad rows left out."""

import pytest
from conftest import write_rows
from prepared import lines, plain_tokenizer, prepared

from pipeline.data.prepare.account import refuse_bad_rows, refuse_empty
from pipeline.data.source import Data
from pipeline.errors import PipelineError

# Of each file: the kind, and the bad rows by their number from 0, in order; or the words of a refusal.
ROWS = {
    "alpaca_bom.json": [],
    "alpaca_crlf.jsonl": [],
    "alpaca_duplicates.jsonl": [],
    "alpaca_garbage_lines.jsonl": ["line 8", "line 14", "line 15"],
    "alpaca_jsonl_named.json": [],
    "alpaca_missing_fields.json": [3, 7, 15],
    "alpaca_nulls.jsonl": [2, 5, 12, 20, 21],
    "alpaca_toplevel_object.json": [],
    "alpaca_truncated_last_line.jsonl": [29],
    "alpaca_wrong_types.json": [1, 4, 6, 9, 13, 17, 18],
    "alpaca_zh_mojibake.json": [],
    "huge_row.jsonl": [],
    "imdb_messy.csv": [6, 7, 8, 9, 10, 11],  # "Positive " with a space is harmless
    "kto_bad_labels.json": [3, 7, "labeled as unwanted"],
    "natural_lf_duplicates.json": [],
    "pref_bad_pairs.json": [0, 1, 2, 3, 5],  # 4 has its answers in lists, which is a way to write them
    "sharegpt_bad_turns.json": [0, 1, 2, 3, 4, 5, 6, 7, 9, 10],  # 8 has role and content, which is understood
    "special_tokens_in_text.jsonl": [],
}
REFUSED = {
    "alpaca_truncated.json": "alpaca_truncated.json:92: .* breaks off",
    "empty.jsonl": "empty.jsonl: the file is empty",
    "empty_list.json": "empty_list.json: no row is left to train on",
    "imdb_header_only.csv": "imdb_header_only.csv: .* but for its header",
    "imdb_unescaped_quotes.csv": "imdb_unescaped_quotes.csv:3: the quoting is broken",
}


def kind_of(name: str) -> str:
    return {"pref": "preference", "spec": "text"}.get(name[:4], "conversation")


def numbered(shared, name: str) -> dict[int, int]:
    """The row of each line, from 0."""
    from pipeline.data.read.reader import read

    return {row.line: number for number, row in enumerate(read(str(shared / "data/bad" / name)))}


@pytest.mark.parametrize("name", ROWS)
def test_exactly_the_bad_rows_are_left_out(shared, tmp_path, name):
    found = prepared(shared / "data/bad" / name, kind_of(name), held_out=0.1, folder=tmp_path)
    dropped = lines(found, "rejected.jsonl")
    by_line, expected = numbered(shared, name), ROWS[name]
    if name == "kto_bad_labels.json":
        dropped = [one for one in dropped if expected[-1] not in one["reason"]]
        expected = expected[:-1]
    if expected and isinstance(expected[0], str):
        assert [f"line {one['line']}" for one in dropped] == expected
    else:
        assert [by_line[one["line"]] for one in dropped] == expected
    if dropped:
        with pytest.raises(PipelineError) as caught:
            refuse_bad_rows(found.account, "sft")
        assert f"{name}:{dropped[0]['line']}" in caught.value.what and "on_bad_row=drop" in caught.value.fix


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_told_apart_is_refused(shared, tmp_path, name):
    with pytest.raises(PipelineError, match=REFUSED[name]):
        path = shared / "data/bad" / name
        refuse_empty(prepared(path, kind_of(name), folder=tmp_path).account, "sft", Data(path=str(path)))


def test_a_pair_that_contradicts_an_earlier_one_is_named(shared, tmp_path):
    account = prepared(shared / "data/bad/pref_bad_pairs.json", "preference", folder=tmp_path).account
    assert account.contradictions == 1 and account.duplicates == 1


def test_text_that_was_read_in_the_wrong_encoding_is_counted(tmp_path):
    good = [
        "Über Käse",
        "日本 café",
        "Ã",
        "plain",
        "£5 or Ã 5",
        "识别并解释给定列表中的两个科学理论。",
        "これは普通の日本語です",
    ]
    broken = ["Über Käse".encode().decode("latin-1"), "it’s".encode().decode("cp1252"), "两个字：锟斤拷锟斤拷"]
    broken += [
        one.encode().decode("gbk", "replace") for one in ("识别并解释给定列表中的两个科学理论。", "细胞理论和日心说")
    ]
    write_rows(tmp_path / "rows.jsonl", [{"text": one} for one in good + broken])
    summary = prepared(tmp_path / "rows.jsonl", "text", folder=tmp_path).account.summary()
    assert summary["trained"] == 12 and summary["garbled"] == 5 and summary["first_garbled"].endswith("rows.jsonl:8")


def test_the_shared_broken_encoding_is_counted(shared, tmp_path):
    account = prepared(shared / "data/bad/alpaca_zh_mojibake.json", folder=tmp_path).account
    assert account.garbled == account.read == 20


def test_half_of_a_character_is_a_bad_row_and_no_crash(tmp_path):
    rows = [r'{"prompt": "a", "completion": "so \ud83d"}', r'{"prompt": "b", "completion": "\ud83d\ude00"}']
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    found = prepared(tmp_path / "rows.jsonl", folder=tmp_path, tokenizer=plain_tokenizer("What is a? It is b"))
    (dropped,) = lines(found, "rejected.jsonl")
    assert dropped["line"] == 1 and r"half of a character ('\ud83d')" in dropped["reason"]
    assert found.account.trained == 1


def test_a_row_that_is_nested_too_deeply_is_a_bad_row_and_no_crash(tmp_path):
    rows = [f'{{"prompt": "a{depth}", "x": {"[" * depth}{"]" * depth}}}' for depth in (10, *range(900, 1000), 100_000)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    found = prepared(tmp_path / "rows.jsonl", "prompt", folder=tmp_path)
    assert found.account.trained >= 1 and found.account.dropped >= 1
    assert all(
        "nested too deeply" in line["reason"] or "JSON" in line["reason"] for line in lines(found, "rejected.jsonl")
    )
