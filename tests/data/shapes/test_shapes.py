"""Rows as people have them: each shape gives the same example, and a row that cannot be used says why."""

import json
import random

import pytest
from conftest import write_rows
from prepared import encode, learned, lines, prepared, reasons, tokenizer_of, tokenizer_with

from pipeline.data.shapes.forms import SHAPES
from pipeline.data.shapes.shape import BadRow, shape, shapes_of
from pipeline.data.tokens.template import Template
from pipeline.recipe.problem import RecipeError
from pipeline.recipe.reading import load_recipe

ASK = [{"role": "user", "content": "Hi"}]
TALK = [*ASK, {"role": "assistant", "content": "Ho"}]
OTHER = [*ASK, {"role": "assistant", "content": "No"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "value": "i"}]}, TALK[1]]
HUMAN, GPT, BAD_GPT = [
    {"from": speaker, "value": said} for speaker, said in (("human", "Hi"), ("gpt", "Ho"), ("gpt", "No"))
]

CONVERSATIONS = {
    "prompt": [
        {"prompt": "Hi", "completion": "Ho"},
        {"prompt": "Hi", "response": "Ho"},
        {"prompt": ASK, "completion": TALK[1:]},
        {"prompt": ASK, "completion": TALK[1], "label": True},
    ],
    "messages": [
        {"messages": TALK},
        {"messages": PARTS},
        {"messages": TALK, "label": True},
        {"messages": [HUMAN, GPT]},
    ],
    "sharegpt": [
        {"conversations": [HUMAN, GPT]},
        {"conversation": [HUMAN, GPT], "kto_tag": True},
        {"conversations": [{"from": "user", "value": "Hi"}, {"from": "bard", "value": "Ho"}]},
        {"conversations": TALK},
    ],
    "alpaca": [
        {"instruction": "Hi", "output": "Ho"},
        {"instruction": "Hi", "input": "", "output": "Ho", "system": "", "history": []},
        {"instruction": "Hi", "input": None, "output": "Ho", "system": None, "history": None},
    ],
    "question": [{"question": "Hi", "answer": "Ho", "id": 3}],
}
PREFERENCES = {
    "prompt": [
        {"prompt": "Hi", "chosen": "Ho", "rejected": "No"},
        {"prompt": ASK, "chosen": TALK[1:], "rejected": OTHER[1:]},
        {"prompt": ASK, "chosen": TALK[1], "rejected": OTHER[1]},
        {"prompt": "Hi", "chosen": TALK, "rejected": OTHER, "messages": TALK},
    ],
    "messages": [{"messages": ASK, "chosen": "Ho", "rejected": "No"}],
    "sharegpt": [{"conversations": [HUMAN], "chosen": GPT, "rejected": BAD_GPT}],
    "alpaca": [{"instruction": "Hi", "input": "", "chosen": "Ho", "rejected": "No"}],
    "question": [{"question": "Hi", "chosen": "Ho", "rejected": "No"}],
    "transcripts": [
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Ho", "rejected": "\n\nHuman: Hi\n\nAssistant: No"},
        {"chosen": TALK, "rejected": OTHER},
        {"chosen": [HUMAN, GPT], "rejected": [HUMAN, BAD_GPT]},
        {"chosen_messages": PARTS, "rejected_messages": OTHER},
    ],
}
PROMPTS = {
    "prompt": [{"prompt": "Hi"}, {"prompt": ASK}],
    "messages": [{"messages": ASK}, {"messages": TALK}],
    "sharegpt": [{"conversations": [HUMAN]}, {"conversations": [HUMAN, GPT]}],
    "alpaca": [{"instruction": "Hi", "input": ""}],
    "question": [{"question": "Hi"}],
    "turns": [{"turns": ["Hi", "And then?"]}],
}
TEXTS = {"text": [{"text": "Hi"}, {"content": "Hi"}, {"document": "Hi", "label": 1}]}


def cases():
    for kind, shapes in {"conversation": CONVERSATIONS, "preference": PREFERENCES, "prompt": PROMPTS}.items():
        for name, rows in shapes.items():
            yield from ((kind, name, row) for row in rows)


def told(example, kind):
    if kind == "conversation":
        return [(one["role"], one["content"]) for one in example.messages]
    return (example.prompt, *((example.chosen, example.rejected) if kind == "preference" else ()))


@pytest.mark.parametrize("kind, name, row", list(cases()))
def test_every_shape_gives_the_same_example_by_itself_and_by_name(kind, name, row):
    same = {
        "conversation": [("user", "Hi"), ("assistant", "Ho")],
        "preference": ("Hi", "Ho", "No"),
        "prompt": ("Hi",),
    }
    for named in (None, name):
        assert told(shape(row, kind, named=named), kind) == same[kind]


@pytest.mark.parametrize("row", TEXTS["text"])
def test_shapes_of_texts(row):
    assert shape(row, "text").text == shape(row, "text", named="text").text == "Hi"


def test_every_shape_of_every_kind_is_tested():
    tested = {"text": TEXTS, "conversation": CONVERSATIONS, "preference": PREFERENCES, "prompt": PROMPTS}
    assert {kind: {*shapes_of(kind)} - {"review"} for kind in tested} == {
        kind: {*rows} for kind, rows in tested.items()
    }


def test_a_review_is_asked_and_its_label_answered():
    assert told(shape({"review": "Fine.", "sentiment": " Positive "}, "conversation"), "conversation") == [
        ("user", "Fine."),
        ("assistant", "positive"),
    ]


def test_what_came_before_comes_first():
    row = {"instruction": "c", "output": "d", "input": "i", "system": "s", "history": [["a", "b"]]}
    assert told(shape(row, "conversation"), "conversation") == [
        ("system", "s"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c\n\ni"),
        ("assistant", "d"),
    ]
    assert [m["content"] for m in shape(row, "prompt").messages] == ["s", "a", "b", "c\n\ni"]
    developer = {"messages": [{"role": "developer", "content": "s"}, *TALK]}
    assert shape(developer, "conversation").messages[0] == {"role": "system", "content": "s"}


def test_the_other_fields_of_a_prompt_reach_the_reward_function():
    assert shape({"question": "Hi", "answer": "#### 4"}, "prompt").columns == {"answer": "#### 4"}
    assert shape({"turns": ["Hi"], "category": "a", "label": None}, "prompt").columns == {
        "category": "a",
        "label": None,
    }


def test_columns_name_the_fields_and_come_before_what_a_row_has_besides():
    columns = {"prompt": "q", "completion": "a"}
    row = {"q": "Hi", "a": "Ho", "messages": OTHER, "prompt": "not this"}
    assert told(shape(row, "conversation", columns=columns), "conversation") == [("user", "Hi"), ("assistant", "Ho")]
    assert shape({"body": "Hi", "text": "no"}, "text", columns={"text": "body"}).text == "Hi"
    with pytest.raises(BadRow, match=r'has no "a", which data\.columns maps to "completion"; its fields are .q.'):
        shape({"q": "Hi"}, "conversation", columns=columns)


def conversation(*turns):
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return {"messages": [{"role": roles[turn[0]], "content": turn[2:]} for turn in turns]}


@pytest.mark.parametrize(
    "kind, row, reason",
    [
        (
            "conversation",
            {"a": 1, "b": 2},
            "no shape known for conversation rows; its fields are 'a', 'b'.*data.columns",
        ),
        ("text", {"prompt": "a"}, "has no \"text\", .*; its fields are 'prompt': say in data.columns"),
        ("conversation", conversation("u 1", "a 2", "s 3", "a 4"), "turn 3 is the system's"),
        ("conversation", conversation("u 1", "u 2", "a 3"), "turns 1 and 2 are both the user's"),
        ("conversation", conversation("s 1", "a 2"), "turn 2 is the assistant's and nothing was asked"),
        ("conversation", conversation("u 1", "a 2", "u 3"), "ends with turn 3, the user's"),
        ("conversation", conversation("u 1", "a 2", "t 3", "a 4"), "turn 3 is a tool's, but .* calls no tool"),
        ("conversation", conversation("u 1", "a  "), 'turn 2 of "messages": "content" is empty'),
        ("conversation", conversation("s 1") | {"system": "x"}, "there is no prompt"),
        ("conversation", conversation("s 1", "u 2", "a 3") | {"system": "x"}, 'system turn and a field "system"'),
        (
            "conversation",
            {"conversations": [{"from": "USER", "value": "a"}]},
            "turn 1 .* the role 'USER'; .* human, user",
        ),
        ("conversation", {"conversations": [HUMAN, {"from": "gpt"}]}, 'turn 2 of "conversations": has no "value"'),
        (
            "conversation",
            {"conversations": [HUMAN, {"from": "function_call", "value": "{oops"}]},
            "turn 2 .*: the function call is not valid JSON",
        ),
        ("conversation", {"messages": TALK, "tools": "{oops"}, '"tools" is not valid JSON'),
        (
            "conversation",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "turn 1 .*: part 1 is of the type 'image_url'; only text",
        ),
        ("conversation", {"messages": [*ASK, TALK[1] | {"loss_weight": 0.5}]}, 'turn 2 .* "loss_weight" is 0.5'),
        ("conversation", {"messages": [ASK[0] | {"loss_weight": 1}, TALK[1]]}, "only answers are learned"),
        ("conversation", {"messages": [*ASK, TALK[1] | {"loss_weight": 0}]}, "every answer .* nothing to learn"),
        ("conversation", {"review": "a", "sentiment": "neutral"}, "'neutral'; it must be positive or negative"),
        ("conversation", {"instruction": "a", "output": "b", "history": ["a"]}, 'pair 1 of "history"'),
        ("preference", {"prompt": "a", "chosen": "b"}, 'has no "rejected"'),
        ("preference", {"prompt": "a", "chosen": "b", "rejected": "b"}, "are the same"),
        ("preference", {"chosen": TALK, "rejected": TALK}, "are the same"),
        ("preference", {"chosen": "b", "rejected": "c"}, 'neither a list .* nor text that begins with "Human:"'),
        (
            "preference",
            {"chosen": [*TALK, *TALK], "rejected": [*OTHER, *TALK]},
            r"part at turn 2; they may differ only in the last",
        ),
        ("preference", {"chosen": TALK, "rejected": [*TALK, *TALK]}, r'"rejected" \(4\) part at turn 3'),
        ("preference", {"chosen": ASK, "rejected": OTHER}, '"chosen": ends with turn 1, the user'),
        ("preference", {"chosen": "\n\nHuman: a\n\nAssistant:", "rejected": "b"}, 'turn 2 of "chosen" is empty'),
        ("prompt", {"turns": []}, '"turns" is an empty list'),
        ("prompt", {"prompt": TALK}, "ends with an assistant's turn"),
    ],
)
def test_bad_rows_name_the_field_the_turn_and_what_was_found(kind, row, reason):
    with pytest.raises(BadRow, match=reason):
        shape(row, kind)


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
        shape(ALPACA | {"ok": 0}, "conversation", columns={"label": "ok"})


def test_a_recipe_with_an_unknown_shape_is_refused_with_all_names(tmp_path):
    def problems(text):
        (tmp_path / "r.yaml").write_text("model: {id: m}\nstages: " + text)
        with pytest.raises(RecipeError) as error:
            load_recipe(tmp_path / "r.yaml")
        return str(error.value)

    unknown = problems("{sft: {data: {path: a, shape: alpacca}}}")
    assert all(name in unknown for name in SHAPES) and "did you mean alpaca?" in unknown
    assert "turns is no shape of preference rows; those are prompt" in problems(
        "{dpo: {data: {path: a, shape: turns}}}"
    )


TOOLS = [{"name": "weigh", "description": "Weighs.", "parameters": {"type": "object", "properties": {}}}]
CALL = {"from": "function_call", "value": '{"name": "weigh", "arguments": {"what": "tea"}}'}
CALLING = {
    "conversations": [HUMAN, CALL, {"from": "observation", "value": '{"grams": 3}'}, GPT],
    "tools": json.dumps(TOOLS),
}


def test_tool_calls_are_kept_in_one_form_however_they_were_written():
    messages = shape(CALLING, "conversation").messages
    calls = [{"type": "function", "function": {"name": "weigh", "arguments": {"what": "tea"}}}]
    assert messages[1] == {"role": "assistant", "content": "", "tool_calls": calls}
    assert messages[2] == {"role": "tool", "content": '{"grams": 3}'}
    function = {"name": "weigh", "arguments": '{"what": "tea"}'}
    openai = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "content": '{"grams": 3}'},
        TALK[1],
    ]
    example = shape({"messages": openai, "tools": [{"type": "function", "function": TOOLS[0]}]}, "conversation")
    assert example == shape(CALLING, "conversation")
    assert example.tools[0]["function"] == TOOLS[0]
    assert shape({"messages": TALK}, "conversation").tools is None


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
    "{% for m in messages %}{{ '<' + m.role + '>' }}{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ m.content + '</s>' }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
LISTENS = (
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if 'yes' in messages[-1].content %}<think></think>{% endif %}{% endif %}"
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


@pytest.mark.parametrize(
    "name, kind, rows, bad",
    [
        ("chat/fastchat_dummy_conversation.json", "conversation", 500, 0),
        ("chat/glaive_toolcall_en_demo.json", "conversation", 300, 0),
        ("chat/glaive_toolcall_zh_demo.json", "conversation", 300, 2),
        ("chat/v1_sft_demo.jsonl", "conversation", 500, 0),
        ("instruct/code_alpaca_2k.json", "conversation", 2017, 2),
        ("pref/dpo_en_demo.json", "preference", 300, 0),
        ("pref/dpo_zh_demo.json", "preference", 300, 0),
        ("pref/hh_harmless_test_0000-1155.jsonl", "preference", 1156, 6),
        ("pref/v1_dpo_demo.jsonl", "preference", 10, 0),
        ("pref/kto_en_demo.json", "conversation", 300, 150),
        ("prompts/gsm8k_test.jsonl", "prompt", 1319, 0),
        ("prompts/vicuna_bench_question.jsonl", "prompt", 80, 0),
        ("bad/sharegpt_bad_turns.json", "conversation", 14, 10),
        ("bad/pref_bad_pairs.json", "preference", 14, 5),
        ("bad/kto_bad_labels.json", "conversation", 12, 5),
    ],
)
def test_shared_real_files_are_recognized(shared, tmp_path, name, kind, rows, bad):
    account = prepared(shared / "data" / name, kind, folder=tmp_path).account
    assert (account.read, account.dropped) == (rows, bad), account.dropped_by_reason


def test_a_pair_given_to_sft_is_called_one(tmp_path):
    _, found = encode(tokenizer_with("chatml"), tmp_path, [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    assert "it is a pair, for reward or dpo" in reasons(found)[0]


@pytest.mark.parametrize("unlearned", [{"weight": 0}, {"loss_weight": 0}, {"train": False}, {"mask": True}])
def test_a_turn_that_says_so_is_not_learned(unlearned):
    asked, again = {"role": "user", "content": "a"}, {"role": "user", "content": "b"}
    talk = [asked, {"role": "assistant", "content": "bad"} | unlearned, again, {"role": "assistant", "content": "good"}]
    made = shape({"messages": talk}, "conversation")
    assert made.skipped == {1} and unlearned.keys().isdisjoint(made.messages[1])
    with pytest.raises(BadRow, match=r"do not agree|can be"):
        shape({"messages": [asked, talk[1] | {"train": "no"}]}, "conversation")


def test_labels_that_come_late_or_in_another_file_are_not_learned_either(tmp_path):
    plain = [{"prompt": f"a {n}", "completion": "b"} for n in range(1000)]
    labeled = [{"prompt": f"c {n}", "completion": "d", "label": n % 2} for n in range(100)]
    write_rows(tmp_path / "late.jsonl", plain + labeled)
    write_rows(tmp_path / "a.jsonl", plain)
    write_rows(tmp_path / "b.jsonl", labeled)
    for path in (tmp_path / "late.jsonl", tmp_path / "[ab].jsonl"):
        account = prepared(path, folder=tmp_path, on_bad_row="drop").account
        assert (account.read, account.dropped) == (1100, 50)
