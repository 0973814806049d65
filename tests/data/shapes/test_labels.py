"""Labels of answers, as for KTO: what they call unwanted is not learned, what only looks like one is left alone."""

import json

import pytest
from conftest import write_rows
from conversations import TALK
from prepared import lines, prepared, reasons

from pipeline.data.shapes.examples import BadRow, example_of

ALPACA = {"instruction": "Hi", "output": "Ho"}


@pytest.mark.parametrize("row", [{"messages": TALK}, {"prompt": "Hi", "completion": "Ho"}, ALPACA])
@pytest.mark.parametrize(
    "field, wanted, unwanted",
    [
        ("label", True, False),
        ("tag", True, False),
        ("kto_tag", "true", "False"),
        ("label", 1, 0),
        ("label", 1.0, 0.0),
        ("Label", "1", "0"),
        ("desirable", "yes", "no"),
        ("is_good", 1, -1),
        ("label", "good", "BAD "),
        ("label", "chosen", "rejected"),
        ("tag", "desirable", "undesirable"),
        ("feedback", "thumbs_up", "Thumbs down"),
    ],
)
def test_what_is_labelled_as_unwanted_is_not_learned(tmp_path, row, field, wanted, unwanted):
    rows = [row | {field: label} for label in (wanted, unwanted, wanted)]
    write_rows(tmp_path / "rows.jsonl", rows)
    found = prepared(tmp_path / "rows.jsonl", folder=tmp_path)
    assert [line["line"] for line in lines(found, "rejected.jsonl")] == [2]
    assert reasons(found)[0].startswith(f'labeled as unwanted ("{field}" is ')


@pytest.mark.parametrize(
    "field, values",
    [
        ("label", [0, 1, 2, 1, 0]),
        ("label", ["0", "1", "2"]),
        ("label", [-1, 0, 1]),
        ("label", ["positive", "negative", "neutral"]),
        ("label", ["good", "bad", "neutral"]),
        ("tag", ["python", "java"]),
        ("rating", [5, 1, 1]),
    ],
)
def test_a_class_is_no_label_of_the_answer(tmp_path, field, values):
    write_rows(tmp_path / "rows.jsonl", [ALPACA | {field: value} for value in values])
    assert not prepared(tmp_path / "rows.jsonl", folder=tmp_path).account.dropped


@pytest.mark.parametrize("slip", [None, "maybe", 2, ["x"]])
def test_a_label_among_labels_that_says_nothing_is_a_bad_row(tmp_path, slip):
    write_rows(tmp_path / "rows.jsonl", [ALPACA | {"tag": value} for value in [True] * 5 + [slip]])
    (reason,) = reasons(prepared(tmp_path / "rows.jsonl", folder=tmp_path))
    assert f'"tag" is {json.dumps(slip)}; a label says wanted' in reason


def test_a_column_can_be_named_as_the_label():
    with pytest.raises(BadRow, match="labeled as unwanted"):
        example_of(ALPACA | {"ok": 0}, "conversation", columns={"label": "ok"})


def test_labels_that_come_late_or_in_another_file_are_not_learned_either(tmp_path):
    plain = [{"prompt": f"a {n}", "completion": "b"} for n in range(1000)]
    labeled = [{"prompt": f"c {n}", "completion": "d", "label": n % 2} for n in range(100)]
    write_rows(tmp_path / "late.jsonl", plain + labeled)
    write_rows(tmp_path / "a.jsonl", plain)
    write_rows(tmp_path / "b.jsonl", labeled)
    for path in (tmp_path / "late.jsonl", tmp_path / "[ab].jsonl"):
        account = prepared(path, folder=tmp_path, on_bad_row="drop").account
        assert (account.read, account.dropped) == (1100, 50)
