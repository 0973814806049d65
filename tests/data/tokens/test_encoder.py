"""Rows: read with their places, shaped, split, tokenized, and accounted for to the last one."""

import json

import pytest
from conftest import write_rows
from prepared import asked, encode, lines, plain_tokenizer, prepared, reasons

from pipeline.data.read.reader import read
from pipeline.data.shapes.shape import BadRow, shape
from pipeline.data.tokens.encoder import IGNORED
from pipeline.data.tokens.template import Template
from pipeline.data.tokens.template_files import named
from pipeline.errors import PipelineError
from pipeline.model.tokenizer import train


@pytest.fixture(scope="module")
def tokenizer():
    return plain_tokenizer("User: what is red?\nAssistant: red is a colour.")


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


@pytest.mark.parametrize(
    "row, prompt, answer",
    [
        ({"instruction": "Add.", "input": "1 2", "output": "3"}, "Add.\n\n1 2", "3"),
        ({"instruction": "Hi", "input": None, "output": "Ho"}, "Hi", "Ho"),
        ({"prompt": "Hi", "completion": "Ho"}, "Hi", "Ho"),
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}, "Hi", "Ho"),
        (
            {"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Ho"}]},
            "Hi",
            "Ho",
        ),
    ],
)
def test_shapes_of_conversations(row, prompt, answer):
    example = shape(row, "conversation")
    assert (example.prompt, example.messages[-1]["content"]) == (prompt, answer)


@pytest.mark.parametrize(
    "row, reason",
    [
        (None, "the row is null"),
        ({"prompt": "a"}, 'no "completion"'),
        ({"prompt": "a", "completion": 3}, "is a number, not text"),
        ({"messages": []}, "empty list"),
        ({"messages": [{"role": "user", "content": "a"}]}, "nothing to learn"),
        ({"messages": [{"role": "bot", "content": "a"}]}, "the role 'bot'"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "no prompt"),
    ],
)
def test_bad_rows_say_why(row, reason):
    with pytest.raises(BadRow, match=reason):
        shape(row, "conversation")


def test_the_same_question_never_stands_on_both_sides_and_later_rows_move_none(tmp_path):
    def sides(rows):
        write_rows(tmp_path / "rows.jsonl", rows)
        return asked(prepared(tmp_path / "rows.jsonl", held_out=0.3, folder=tmp_path))

    rows = [{"prompt": f"q{n % 40}", "completion": f"a{n}"} for n in range(120)]
    trained, held_out = sides(rows)
    assert held_out and not trained & held_out
    more_trained, more_held_out = sides([{"prompt": f"new{n}", "completion": "a"} for n in range(50)] + rows)
    assert trained <= more_trained and held_out <= more_held_out


CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "what is red?"},
    {"role": "assistant", "content": "a colour"},
    {"role": "user", "content": "a colour"},
    {"role": "assistant", "content": "yes"},
]


@pytest.mark.parametrize("template, stop", [("plain", "</s>"), ("raw", "</s>"), ("chatml", "<|im_end|>")])
def test_loss_stands_on_the_answers_through_their_stop_token_and_on_nothing_else(tmp_path, template, stop):
    tokenizer = train(["what is red? a colour"] * 5, 300)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = named(template)
    (row,), _ = encode(tokenizer, tmp_path, [{"messages": CHAT}])
    runs, inside = [], False
    for label in row["labels"]:
        if label != IGNORED and not inside:
            runs.append([])
        inside = label != IGNORED
        if inside:
            runs[-1].append(label)
    assert [tokenizer.decode(run).strip() for run in runs] == [f"a colour{stop}", f"yes{stop}"]
    assert tokenizer.decode(row["input_ids"]).count("<s>") == (template != "chatml")


def test_the_prompt_gives_way_first_then_the_answers_end(tokenizer, tmp_path):
    long_prompt = {"prompt": "x " * 60, "completion": "red"}
    long_answer = {"prompt": "what is red?", "completion": "y " * 60}
    (first, second), found = encode(tokenizer, tmp_path, [long_prompt, long_answer], max_length=40)
    assert len(first["input_ids"]) == len(second["input_ids"]) == 40
    assert tokenizer.decode([t for t in first["labels"] if t != IGNORED]).strip() == "red</s>"
    assert first["input_ids"][0] == tokenizer.bos_token_id
    assert sum(label == IGNORED for label in second["labels"]) == 10  # a quarter stays the prompt's
    assert [line["line"] for line in lines(found, "truncated.jsonl")] == [1, 2]


def test_too_long_can_be_dropped_instead(tokenizer, tmp_path):
    columns, found = encode(
        tokenizer, tmp_path, [{"prompt": "x " * 60, "completion": "red"}], max_length=40, on_too_long="drop"
    )
    assert not columns and "max_length is 40" in reasons(found)[0]


def test_pairs_share_their_prompt_and_end_in_the_stop_token(tokenizer, tmp_path):
    rows = [{"prompt": "what is red?", "chosen": "a colour", "rejected": "red"}]
    (row,), _ = encode(tokenizer, tmp_path, rows, "preference")
    assert tokenizer.decode(row["prompt_ids"]) == "<s>User: what is red?\nAssistant:"
    assert (
        row["prompt_ids"]
        == tokenizer(
            Template(tokenizer).render([{"role": "user", "content": "what is red?"}], ask=True),
            add_special_tokens=False,
        ).input_ids
    )
    assert row["chosen_ids"][-1] == row["rejected_ids"][-1] == tokenizer.eos_token_id


def test_a_reward_model_reads_what_the_template_writes_after_the_stop(tmp_path):
    tokenizer = train(["what is red? a colour"] * 5, 300)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = named("chatml")
    rows = [{"prompt": "what?", "chosen": "a", "rejected": "b"}]
    (policy,), _ = encode(tokenizer, tmp_path, rows, "preference")
    (reward,), _ = encode(tokenizer, tmp_path, rows, "preference", through_suffix=True)
    assert tokenizer.decode(policy["chosen_ids"]) == "a<|im_end|>"
    assert tokenizer.decode(reward["chosen_ids"]) == "a<|im_end|>\n"


def test_an_unknown_template_lists_those_there_are():
    with pytest.raises(PipelineError, match="no such template") as error:
        named("chatm")
    assert "chatml" in error.value.fix


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
