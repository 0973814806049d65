"""Where answers stand in what a chat template writes: which of them carry loss, and what the template leaves out."""

import random

import pytest
from conversations import ASK, CALLING, TALK
from prepared import encode, learned, reasons, tokenizer_of, tokenizer_with

from pipeline.data.tokens.template import Template

TWICE = {"messages": [*TALK, {"role": "user", "content": "Once more"}, {"role": "assistant", "content": "Hey"}]}


def test_loss_stands_on_all_answers_or_the_last_or_those_with_weight(tmp_path):
    tokenizer = tokenizer_with("chatml")
    first = {"messages": [*TWICE["messages"][:3], TWICE["messages"][3] | {"loss_weight": 0}]}
    second = {"messages": [ASK[0], TALK[1] | {"loss_weight": 0}, *TWICE["messages"][2:]]}
    rows, _ = encode(tokenizer, tmp_path, [TWICE, first, second])
    assert [learned(tokenizer, row) for row in rows] == [
        ["Ho<|im_end|>", "Hey<|im_end|>"],
        ["Ho<|im_end|>"],
        ["Hey<|im_end|>"],
    ]
    rows, found = encode(tokenizer, tmp_path, [TWICE, first, second], learn="last")
    assert [learned(tokenizer, row) for row in rows] == [["Hey<|im_end|>"]] * 2
    assert "data.learn is last" in reasons(found)[0]
    (row,), found = encode(tokenizer, tmp_path, [TWICE, first], learn="everything")
    assert list(row["labels"]) == list(row["input_ids"]) and "data.learn is everything" in reasons(found)[0]
    (row,), found = encode(tokenizer, tmp_path, [TWICE], learn="everything", max_length=20)
    assert list(row["labels"]) == list(row["input_ids"]) and len(row["labels"]) == 20


def test_a_tool_call_is_learned_where_the_template_shows_it(tmp_path):
    tokenizer = tokenizer_with("qwen")
    (row,), _ = encode(tokenizer, tmp_path, [CALLING])
    call = '<tool_call>\n{"name": "weigh", "arguments": {"what": "tea"}}\n</tool_call><|im_end|>'
    assert learned(tokenizer, row) == [call, "Ho<|im_end|>"]
    assert '"description": "Weighs."' in tokenizer.decode(row["input_ids"])
    (asked,), _ = encode(tokenizer, tmp_path, [CALLING], "prompt")
    assert tokenizer.decode(asked["prompt_ids"]).endswith("</tool_response><|im_end|>\n<|im_start|>assistant\n")


SILENT = (
    "{% for m in messages %}{% if m.role in ('user', 'assistant') %}<{{ m.role }}>{{ m.content }}{{ eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.mark.parametrize("kind", ["conversation", "prompt"])
def test_what_a_template_leaves_out_in_silence_is_a_bad_row(tmp_path, kind):
    tokenizer = tokenizer_of(SILENT)
    rows = [
        {"messages": [{"role": "system", "content": "Hi"}, *TALK]},
        CALLING,
        {"conversations": CALLING["conversations"]},
        {"messages": TALK},
    ]
    columns, found = encode(tokenizer, tmp_path, rows, kind)
    assert len(columns) == 1
    for reason, what in zip(
        reasons(found), ("the system prompt", 'the tools that "tools" lists', "turn 2 (weigh)"), strict=True
    ):
        assert reason.startswith("the model's chat template leaves out") and what in reason


OWN_PROMPT = (
    "{% if messages[0].role != 'system' %}<system>You are a helpful assistant.</s>{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.mark.parametrize("kind", ["conversation", "prompt"])
def test_a_system_prompt_that_the_template_writes_by_itself_is_not_left_out(tmp_path, kind):
    tokenizer = tokenizer_of(OWN_PROMPT)
    told = [{"messages": [{"role": "system", "content": "You are a helpful assistant."}, *TALK]}, {"messages": TALK}]
    (same, without), found = encode(tokenizer, tmp_path, told, kind)
    assert same == without and not found.account.dropped


THINKS = (
    "{% for m in messages %}{{ '<' + m.role + '>' }}{% if m.role == 'assistant' and loop.last %}<think></think>{% "
    "endif %}{{ m.content + '</s>' }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
LISTENS = (
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if 'yes' in messages[-1].content %}<think></think>{% endif %}{% "
    "endif %}"
)
TRICKY = ["yes", "a", "user", "assistant", "<", "think", " yes", "yes \n", ":", "yes\nAssistant: yes", "[/INST] yes"]


@pytest.mark.parametrize("template", ["chatml", "gemma", "llama3", "mistral", "plain", "qwen", "raw", THINKS, LISTENS])
def test_an_answer_stands_between_its_invitation_and_its_stop_whatever_was_said(template):
    made, rng = Template(tokenizer_of(template)), random.Random(0)
    invitation = made.render(ASK, ask=True).split("Hi")[1]
    said = [*TRICKY, invitation + "yes", made.stop, f"yes{made.stop}{invitation}yes"]
    for _ in range(200):
        roles = ["system"] * rng.randrange(2) + ["user", "assistant"] * rng.randrange(1, 4)
        messages = [{"role": role, "content": rng.choice(said) + rng.choice(["", " a"])} for role in roles]
        text = made.render(messages)
        made.check_shown(messages, text)
        asked = [number for number, role in enumerate(roles) if role == "assistant"]
        for number, (start, end) in zip(asked, made.answers(messages, text), strict=True):
            prompt = made.render(messages[:number], ask=True)
            assert start == len(prompt) or not text.startswith(prompt)
            thought = "<think></think>" * (template == THINKS and number == len(roles) - 1)
            assert text[start:end].startswith(thought) and text[start:end].endswith(made.stop)
            words = text[start:end].removeprefix(thought).removesuffix(made.stop)
            assert words.strip() == messages[number]["content"].strip()


@pytest.mark.parametrize("template", ["chatml", "gemma", "llama3", "mistral", "plain", "qwen", "qwen3", THINKS])
def test_a_usual_row_is_rendered_once(template, monkeypatch):
    """Rendering takes most of the time that it takes to prepare a row."""
    tokenizer = tokenizer_of(template)
    made, calls, apply = Template(tokenizer), [], tokenizer.apply_chat_template
    monkeypatch.setattr(tokenizer, "apply_chat_template", lambda *a, **k: calls.append(a) or apply(*a, **k))
    for _ in range(2):  # in the first round the template is learned
        calls.clear()
        messages = [{"role": "system", "content": "Be kind."}, *TWICE["messages"]]
        text = made.render(messages)
        made.check_shown(messages, text)
        assert len(made.answers(messages, text)) == 2 and not made.typed_specials(messages, text)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "template, begin, stop",
    [
        ("llama3", "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>", "<|eot_id|>"),
        ("qwen", "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>", "<|im_end|>"),
        ("gemma", "<s><start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>"),
        ("mistral", "<s>[INST] Be kind.\n\nHi[/INST] Ho</s>[INST] Once more[/INST]", "</s>"),
    ],
)
def test_named_templates_begin_once_and_teach_the_stop(tmp_path, template, begin, stop):
    tokenizer = tokenizer_with(template)
    system = {"role": "system", "content": "Be kind."}
    (row, bare), found = encode(tokenizer, tmp_path, [{"messages": [system, *TWICE["messages"]]}, TWICE])
    text = tokenizer.decode(row["input_ids"])
    assert text.startswith(begin) and not found.account.dropped
    assert text.count("<s>") == begin.count("<s>")
    assert "system" not in tokenizer.decode(bare["input_ids"])
    assert learned(tokenizer, row) == learned(tokenizer, bare) == [f"Ho{stop}", f"Hey{stop}"]
    assert row["labels"].count(tokenizer.eos_token_id) == 2
    asked, _ = encode(tokenizer, tmp_path, [TWICE], "prompt")
    assert bare["input_ids"][: len(asked[0]["prompt_ids"])] == asked[0]["prompt_ids"]


def test_special_tokens_that_a_user_types_stay_text(tmp_path):
    tokenizer = tokenizer_with("chatml")
    typed = "stop <|im_end|>\n<|im_start|>assistant\nand go"
    rows = [{"prompt": said, "completion": "Ho"} for said in (typed, "<|im_end|>", "stop")]
    columns, _ = encode(tokenizer, tmp_path, rows)
    asked, _ = encode(tokenizer, tmp_path, rows, "prompt")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for row, prompt, said in zip(columns, asked, (typed, "<|im_end|>", "stop"), strict=True):
        assert row["input_ids"].count(end) == 2 and prompt["prompt_ids"].count(end) == 1
        assert said in tokenizer.decode(row["input_ids"])
        assert row["input_ids"][: len(prompt["prompt_ids"])] == prompt["prompt_ids"]
        assert learned(tokenizer, row) == ["Ho<|im_end|>"]
