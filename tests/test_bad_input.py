"""Files that are broken in the ways that files are: refused with file and line, or exactly their bad rows left out."""

import pytest

from pipeline.data.account import Account, refuse_bad_rows, refuse_empty, take
from pipeline.errors import PipelineError
from pipeline.recipe import Data

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
    "kto_bad_labels.json": [0, 1, 2, 3, 4, 5, 7, "labelled as unwanted"],
    "natural_lf_duplicates.json": [],
    "pref_bad_pairs.json": [0, 1, 2, 3, 5],  # 4 has its answers in lists, which is a way to write them
    "sharegpt_bad_turns.json": [0, 1, 2, 3, 4, 5, 6, 7, 9, 10],  # 8 has role and content, which is understood
    "special_tokens_in_text.jsonl": [],
}
REFUSED = {
    "alpaca_truncated.json": "alpaca_truncated.json:92: .* breaks off",
    "empty.jsonl": "empty.jsonl: the file is empty",
    "empty_list.json": "no row is left to train on",
    "imdb_header_only.csv": "imdb_header_only.csv: .* but for its header",
    "imdb_unescaped_quotes.csv": "imdb_unescaped_quotes.csv:3: the quoting is broken",
}


def kind_of(name: str) -> str:
    return {"pref": "preference", "spec": "text"}.get(name[:4], "conversation")


def numbered(shared, name: str) -> dict[int, int]:
    """The row of each line, from 0."""
    from pipeline.data.read import read

    return {row.line: number for number, row in enumerate(read(str(shared / "data/bad" / name)))}


@pytest.mark.parametrize("name", ROWS)
def test_exactly_the_bad_rows_are_left_out(shared, name):
    account = Account()
    take(Data(path=str(shared / "data/bad" / name), held_out=0.1), kind_of(name), account)
    summary = account.summary()
    assert summary["read"] == summary["trained"] + summary["held_out"] + summary["dropped"]
    by_line, expected = numbered(shared, name), ROWS[name]
    if name == "kto_bad_labels.json":
        account.dropped = [one for one in account.dropped if expected[-1] not in one[1]]
        expected = expected[:-1]
    if expected and isinstance(expected[0], str):
        assert [f"line {row.line}" for row, _ in account.dropped] == expected
    else:
        assert [by_line[row.line] for row, _ in account.dropped] == expected
    if account.dropped:
        with pytest.raises(PipelineError) as caught:
            refuse_bad_rows(account, "sft")
        first = account.dropped[0][0]
        assert f"{name}:{first.line}" in caught.value.what and "on_bad_row=drop" in caught.value.fix


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_told_apart_is_refused(shared, name):
    with pytest.raises(PipelineError, match=REFUSED[name]):
        account = Account()
        take(Data(path=str(shared / "data/bad" / name)), kind_of(name), account)
        refuse_empty(account, "sft")


def test_a_pair_that_contradicts_an_earlier_one_is_named(shared):
    account = Account()
    take(Data(path=str(shared / "data/bad/pref_bad_pairs.json")), "preference", account)
    assert len(account.contradictions) == 1 and len(account.duplicates) == 1
