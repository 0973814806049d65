"""Examples to token ids: where loss stands, and how what is too long is cut."""

import pytest
from prepared import encode, lines, plain_tokenizer, reasons

from pipeline.data.tokens.encoded import IGNORED
from pipeline.data.tokens.template import Template
from pipeline.data.tokens.template_files import named
from pipeline.errors import PipelineError
from pipeline.model.tokenizer import train


@pytest.fixture(scope="module")
def tokenizer():
    return plain_tokenizer("User: what is red?\nAssistant: red is a colour.")


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
