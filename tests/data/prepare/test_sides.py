"""Which side of the split a row is on, which rows say the same, and what is told of both."""

import json

from conftest import align, write_micro, write_rows
from prepared import QUESTIONS, lines, made_of, prepared, prompts_of


def test_the_same_question_never_stands_on_both_sides_and_later_rows_move_none(tmp_path):
    def sides(rows):
        write_rows(tmp_path / "rows.jsonl", rows)
        return prompts_of(prepared(tmp_path / "rows.jsonl", held_out=0.3, folder=tmp_path))

    rows = [{"prompt": f"q{n % 40}", "completion": f"a{n}"} for n in range(120)]
    trained, held_out = sides(rows)
    assert held_out and not trained & held_out
    more_trained, more_held_out = sides([{"prompt": f"new{n}", "completion": "a"} for n in range(50)] + rows)
    assert trained <= more_trained and held_out <= more_held_out


def test_rows_that_say_the_same_are_listed_and_left_out_when_asked(tmp_path):
    same = {"prompt": "what IS  3?", "completion": "It is 3, so they say\n"}
    other_answer = {"prompt": "What is 3?", "completion": "Three"}
    rows = [*QUESTIONS, same, other_answer, QUESTIONS[5]]
    kept = made_of(tmp_path, rows)
    assert kept.account.summary()["duplicates_kept"] == 2 and len(kept.trained) == 43
    listed = [(line["line"], line["same_as"].rpartition(":")[2]) for line in lines(kept, "duplicates.jsonl")]
    assert listed == [(41, "4"), (43, "6")]
    dropped = made_of(tmp_path, rows, duplicates="drop")
    assert dropped.account.dropped_by_reason == {"says the same as an earlier row": 2}
    assert len(dropped.trained) == 41 and not dropped.account.bad


def test_case_and_white_space_do_not_bring_a_question_to_the_other_side(tmp_path):
    shouted = [row | {"prompt": f"  {row['prompt'].upper()}"} for row in QUESTIONS]
    found = made_of(tmp_path, QUESTIONS + shouted, held_out=0.4)
    sides = [{prompt.strip().lower() for prompt in side} for side in prompts_of(found)]
    assert sides[1] and not sides[0] & sides[1]


def test_duplicates_that_were_asked_to_go_are_no_bad_rows(tmp_path):
    write_micro(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "chat.jsonl").read_text().splitlines()]
    write_rows(tmp_path / "chat.jsonl", rows + rows[:3])
    said = align(
        "run", "sft", "-r", "micro.yaml", "--set", "stages.sft.data.duplicates=drop", cwd=tmp_path
    ).stdout  # on_bad_row is error
    assert "dropped 3 x says the same as an earlier row" in said
