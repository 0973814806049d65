"""What is said of the rows that cannot be trained on: each counted, a few shown, and what they look like."""

import pytest
from prepared import QUESTIONS, made_of, prepared

from pipeline.data.prepare.account import refuse_bad_rows
from pipeline.errors import PipelineError


def test_every_shared_good_file_of_a_known_shape_is_read(shared, tmp_path):
    known = {
        "instruct/alpaca_en_demo.json": ("conversation", 999),
        "instruct/alpaca_zh_demo.json": ("conversation", 1000),
        "chat/openai_messages_en_zh.jsonl": ("conversation", 500),
        "pref/tinystories_shuffle_pairs.jsonl": ("preference", 600),
        "pref/imdb_sentiment_pairs.jsonl": ("preference", 237),
        "pretrain/c4_demo_000-199.jsonl": ("text", 200),
    }
    for name, (kind, rows) in known.items():
        summary = prepared(shared / "data" / name, kind, held_out=0.1, folder=tmp_path).account.summary()
        assert (summary["read"], summary["dropped"]) == (rows, 0), name


def refusal(folder, rows, kind, stage):
    with pytest.raises(PipelineError) as error:
        refuse_bad_rows(made_of(folder, rows, kind=kind).account, stage)
    return error.value


def test_a_mistake_is_shown_on_three_rows_and_then_counted(tmp_path):
    turns = [{"messages": [{"role": "user", "content": "a"}] * n} for n in (2, 3, 2, 4)]
    error = refusal(tmp_path, [*QUESTIONS, *[{"prompt": "a", "completion": ""}] * 9, *turns, {}], "conversation", "sft")
    shown = error.what.splitlines()
    assert [line.partition("rows.jsonl:")[2].partition(" ")[0] for line in shown[1:]] == [
        "41",
        "42",
        "43",
        "",
        "50",
        "51",
        "52",
        "",
        "54",
    ]
    assert shown[4].strip() == "... and 6 more like these" and shown[8].strip() == "... and 1 more like these"
    assert "on_bad_row=drop" in error.fix


@pytest.mark.parametrize(
    "kind, row, looks",
    [
        (
            "conversation",
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            "like preference rows, for dpo, orpo, reward and simpo",
        ),
        ("preference", {"prompt": "a", "completion": "b"}, "like prompts with their answers, for sft"),
        ("conversation", {"text": "a"}, "like texts, for pretrain"),
        (
            "conversation",
            {"messages": [{"role": "user", "content": "a"}]},
            "like prompts without answers, for grpo, ppo and rloo",
        ),
        (
            "conversation",
            {"frage": "a", "antwort": "b"},
            "fields are frage, antwort: say in data.columns which is which",
        ),
        ("conversation", {"prompt": "a", "completion": ""}, "Mend what the rows have in common"),
    ],
)
def test_where_all_rows_are_bad_it_is_said_what_they_are(tmp_path, kind, row, looks):
    error = refusal(tmp_path, [row] * 30, kind, "sft")
    assert looks in error.fix and "on_bad_row" not in error.fix
    assert len(error.what.splitlines()) == 5 and "... and 27 more like these" in error.what


def test_unwanted_answers_can_be_left_out_however_many_they_are(tmp_path):
    error = refusal(tmp_path, [row | {"label": False} for row in QUESTIONS], "conversation", "sft")
    assert "learns wanted answers only" in error.fix and "on_bad_row=drop" in error.fix
