"""Labels and scores beside an answer: understood where they are clear, told where they could be meant otherwise."""

import json

import pytest
from conftest import align, write_rows
from prepared import lines, prepared, reasons

from pipeline.data.check import check
from pipeline.data.prepare.kinds import kind_of
from pipeline.data.source import Data
from pipeline.data.tokens.words import Words

ANSWERED = {"prompt": "Hi", "completion": "Ho"}
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]


def report(folder, rows, kind="conversation", **options):
    write_rows(folder / "rows.jsonl", rows)
    return check(Data(path=str(folder / "rows.jsonl"), held_out=0.0, **options), kind, Words())


@pytest.mark.parametrize(
    "field, wanted, unwanted",
    [
        ("label", "好", "坏"),
        ("label", "对", "错误"),
        ("label", "correct", "incorrect"),
        ("feedback", "positive", "negative"),
        ("is_bad", False, True),
        ("is_bad", 0, 1),
        ("is_bad", "no", "yes"),
        ("bad", False, True),
        ("thumbs_down", 0, 1),
        ("rejected", False, True),
        ("is_correct", True, False),
    ],
)
def test_a_label_that_is_clear_is_understood(tmp_path, field, wanted, unwanted):
    write_rows(tmp_path / "rows.jsonl", [ANSWERED | {field: value} for value in (wanted, unwanted) * 3])
    found = prepared(tmp_path / "rows.jsonl", folder=tmp_path)
    assert found.account.trained == 3
    shown = json.dumps(unwanted, ensure_ascii=False)
    assert reasons(found) == [f'labeled as unwanted ("{field}" is {shown}): not something to learn'] * 3


def test_a_bad_label_says_what_it_can_be_by_what_its_name_says(tmp_path):
    write_rows(tmp_path / "rows.jsonl", [ANSWERED | {"is_bad": value} for value in (True, "maybe")])
    told = reasons(prepared(tmp_path / "rows.jsonl", folder=tmp_path))[1]
    assert "wanted (false, 0) or unwanted (true, 1)" in told


@pytest.mark.parametrize("field", ["label", "tag"])
def test_what_may_be_a_class_or_a_label_is_told_with_the_way_to_have_it_otherwise(tmp_path, field):
    rows = [ANSWERED | {field: value} for value in ("positive", "Negative") * 3]
    told = report(tmp_path, rows)
    (remark,) = told.remarks
    assert told.summary["trained"] == 6 and f'"{field}" ("positive", "Negative") is taken for a class' in remark
    assert f"--column label={field}" in remark
    named = report(tmp_path, rows, columns={"label": field})
    assert named.summary["trained"] == 3 and named.unwanted == 3 and not named.remarks


@pytest.mark.parametrize(
    "field, values, told",
    [
        ("rating", [1, 2, 3, 4, 5], '"rating" (1, 2, 3, 4, 5) is not read'),
        ("label", [0, 1, 2], None),
        ("label", ["positive", "negative", "neutral"], None),
        ("tag", ["python", "java"], None),
        ("label", ["positive"], None),
        ("label", ["good", "bad"], None),  # these are labels
    ],
)
def test_grades_are_told_and_plain_classes_are_not(tmp_path, field, values, told):
    found = report(tmp_path, [ANSWERED | {field: value} for value in values]).remarks
    assert len(found) == bool(told) and all(told in one for one in found)


def test_the_check_of_a_file_tells_it(tmp_path):
    write_rows(tmp_path / "rows.jsonl", [ANSWERED | {"label": value} for value in ("positive", "negative") * 3])
    assert "taken for a class of the text" in align("data", "check", "rows.jsonl", cwd=tmp_path).stdout


PAIR = {"prompt": "Hi", "chosen": "Ho", "rejected": "He"}


@pytest.mark.parametrize("names", [("score_chosen", "score_rejected"), ("chosen-rating", "rejected-rating")])
def test_pairs_whose_scores_say_the_opposite_are_counted_and_listed(tmp_path, names):
    scores = [(4.0, 1), (1, 4.5), (2, 2), (0, 1), (None, 1), (1, 2), (1, 3)]
    rows = [PAIR | {"prompt": f"Hi {n}", **dict(zip(names, some, strict=True))} for n, some in enumerate(scores)]
    rows += [PAIR | {"chosen_length": 1, "rejected_length": 3}, PAIR | {names[0]: 1}]
    write_rows(tmp_path / "rows.jsonl", rows)
    found = prepared(tmp_path / "rows.jsonl", "preference", folder=tmp_path)
    assert [line["line"] for line in lines(found, "doubtful.jsonl")] == [2, 4, 6, 7]
    assert lines(found, "doubtful.jsonl")[0]["why"] == f'"{names[0]}" is 1, and "{names[1]}" is 4.5'
    summary = found.account.summary()
    assert summary["trained"] == 9 and summary["scored_against"] == 4
    said = align("data", "check", "rows.jsonl", cwd=tmp_path).stdout
    assert "4 pairs have a higher score for the rejected answer" in said
    assert "rows.jsonl:2, rows.jsonl:4, rows.jsonl:6, ..." in said


@pytest.mark.parametrize(
    "row", [ANSWERED | {"label": True}, {"messages": TALK, "kto_tag": True}, ANSWERED | {"tag": True}]
)
def test_labeled_answers_that_are_given_for_pairs_are_told_so(tmp_path, row):
    told = report(tmp_path, [row] * 9, "preference")
    label = list(row)[-1]
    assert f'is one answer, labeled by "{label}", and no pair: it has no "rejected"' in told.bad[0]["reason"]
    assert "kto learns" in told.bad[0]["reason"] and "for kto" in told.looks_like and not told.unused
    (other,) = report(tmp_path, [PAIR | {"rejected": None, "label": True}], "preference").bad
    assert other["reason"] == '"rejected" is null, not text'


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Hi", "answer": "Ho", "reasoning": "one", "thinking": "two"},
        {"instruction": "Hi", "output": "Ho", "reasoning": "one", "reasoning_content": "two"},
        {"messages": [TALK[0], TALK[1] | {"reasoning": "one", "thinking": "two"}]},
    ],
)
def test_rows_that_contradict_themselves_are_still_of_a_kind(tmp_path, row):
    write_rows(tmp_path / "rows.jsonl", [row] * 9)
    assert kind_of(Data(path=str(tmp_path / "rows.jsonl"))) == "conversation"
    done = align("data", "check", "rows.jsonl", cwd=tmp_path, check=False)
    assert done.returncode == 2 and "has more than one reasoning: in reasoning" in done.stdout
