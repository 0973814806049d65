"""Rows as people have them: each shape gives the same example, by itself and by its name."""

import pytest
from conversations import ASK, BAD_GPT, CALLING, GPT, HUMAN, TALK, TOOLS
from prepared import encode, prepared, reasons, tokenizer_with

from pipeline.data.shapes.examples import BadRow, example_of, shapes_of
from pipeline.data.shapes.shape import SHAPES
from pipeline.recipe.problem import RecipeError
from pipeline.recipe.reading import load_recipe

OTHER = [*ASK, {"role": "assistant", "content": "No"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "value": "i"}]}, TALK[1]]
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
        assert told(example_of(row, kind, named=named), kind) == same[kind]


@pytest.mark.parametrize("row", TEXTS["text"])
def test_shapes_of_texts(row):
    assert example_of(row, "text").text == example_of(row, "text", named="text").text == "Hi"


def test_every_shape_of_every_kind_is_tested():
    tested = {"text": TEXTS, "conversation": CONVERSATIONS, "preference": PREFERENCES, "prompt": PROMPTS}
    assert {kind: {*shapes_of(kind)} - {"review"} for kind in tested} == {
        kind: {*rows} for kind, rows in tested.items()
    }


def test_a_review_is_asked_and_its_label_answered():
    assert told(example_of({"review": "Fine.", "sentiment": " Positive "}, "conversation"), "conversation") == [
        ("user", "Fine."),
        ("assistant", "positive"),
    ]


def test_what_came_before_comes_first():
    row = {"instruction": "c", "output": "d", "input": "i", "system": "s", "history": [["a", "b"]]}
    assert told(example_of(row, "conversation"), "conversation") == [
        ("system", "s"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c\n\ni"),
        ("assistant", "d"),
    ]
    assert [m["content"] for m in example_of(row, "prompt").messages] == ["s", "a", "b", "c\n\ni"]
    developer = {"messages": [{"role": "developer", "content": "s"}, *TALK]}
    assert example_of(developer, "conversation").messages[0] == {"role": "system", "content": "s"}


def test_the_other_fields_of_a_prompt_reach_the_reward_function():
    assert example_of({"question": "Hi", "answer": "#### 4"}, "prompt").columns == {"answer": "#### 4"}
    assert example_of({"turns": ["Hi"], "category": "a", "label": None}, "prompt").columns == {
        "category": "a",
        "label": None,
    }


def test_columns_name_the_fields_and_come_before_what_a_row_has_besides():
    columns = {"prompt": "q", "completion": "a"}
    row = {"q": "Hi", "a": "Ho", "messages": OTHER, "prompt": "not this"}
    assert told(example_of(row, "conversation", columns=columns), "conversation") == [
        ("user", "Hi"),
        ("assistant", "Ho"),
    ]
    assert example_of({"body": "Hi", "text": "no"}, "text", columns={"text": "body"}).text == "Hi"
    with pytest.raises(BadRow, match=r'has no "a", which data\.columns maps to "completion"; its fields are .q.'):
        example_of({"q": "Hi"}, "conversation", columns=columns)


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


def test_tool_calls_are_kept_in_one_form_however_they_were_written():
    messages = example_of(CALLING, "conversation").messages
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
    example = example_of({"messages": openai, "tools": [{"type": "function", "function": TOOLS[0]}]}, "conversation")
    assert example == example_of(CALLING, "conversation")
    assert example.tools[0]["function"] == TOOLS[0]
    assert example_of({"messages": TALK}, "conversation").tools is None


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
    made = example_of({"messages": talk}, "conversation")
    assert made.skipped == {1} and unlearned.keys().isdisjoint(made.messages[1])
    with pytest.raises(BadRow, match=r"do not agree|can be"):
        example_of({"messages": [asked, talk[1] | {"train": "no"}]}, "conversation")


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
    example = example_of(row, "conversation")
    assert (example.prompt, example.messages[-1]["content"]) == (prompt, answer)
