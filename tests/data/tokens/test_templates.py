"""What a chat template makes of a conversation: where answers end, where reasoning is shown, and what it cannot do."""

import json
import re
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from prepared import encode, learned, lines, reasons, tokenizer_of, tokenizer_with

from pipeline.data.shapes.examples import BadRow, example_of
from pipeline.data.tokens.template import Template
from pipeline.data.tokens.template_files import named
from pipeline.errors import PipelineError
from pipeline.model.tokenizer import prepare, train
from pipeline.plan.planner import Planner
from pipeline.recipe.reading import load_recipe

SHIPPED = Path(find_spec("trl").origin).parent / "chat_templates"
ASK = [{"role": "user", "content": "Hi"}]
TALK = [*ASK, {"role": "assistant", "content": "Ho"}]
TWICE = [*TALK, {"role": "user", "content": "Once more"}, {"role": "assistant", "content": "Hey"}]
CALL = {"type": "function", "function": {"name": "weigh", "arguments": {"what": "tea"}}}
CALLING = [
    *ASK,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "3 grams"},
    TALK[1],
]
TOOLS = [{"type": "function", "function": {"name": "weigh", "description": "Weighs."}}]


def tokenizer_like(name, *specials, eos="<|im_end|>"):
    """With a chat template of a real model, as TRL ships it, and some of that model's special tokens."""
    tokenizer = train(["what is red? a colour"] * 5, 300)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", *specials]})
    tokenizer.eos_token = eos
    tokenizer.chat_template = (SHIPPED / f"{name}.jinja").read_text()
    model = SimpleNamespace(template=None, pad_token=None, id=name)
    return prepare(tokenizer, SimpleNamespace(model=model)).tokenizer


def gpt_oss():
    harmony = "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>", "<|return|>"
    return tokenizer_like("gptoss", *harmony, eos="<|return|>")


def thinking(reasoning, content, field="reasoning_content"):
    return {"role": "assistant", field: reasoning, "content": content}


def test_eos_is_the_stop_though_another_special_token_comes_before_it(tmp_path):
    eos = "<|END_OF_TURN_TOKEN|>"
    tokenizer = tokenizer_like("cohere2", "<|START_RESPONSE|>", "<|END_RESPONSE|>", eos, eos=eos)
    assert tokenizer.eos_token == Template(tokenizer).stop == eos and not Template(tokenizer).suffix
    (row,), _ = encode(tokenizer, tmp_path, [{"messages": TWICE}])
    assert [run.removeprefix("<|START_RESPONSE|>") for run in learned(tokenizer, row)] == [
        f"Ho<|END_RESPONSE|>{eos}",
        f"Hey<|END_RESPONSE|>{eos}",
    ]


def test_eos_behind_white_space_ends_the_conversation_and_not_the_answer(tmp_path):
    tokenizer = tokenizer_like("phi3", "<|end|>", "<|user|>", "<|assistant|>", "<|endoftext|>", eos="<|endoftext|>")
    assert Template(tokenizer).stop == "<|end|>"
    (row,), _ = encode(tokenizer, tmp_path, [{"messages": TWICE}])
    assert learned(tokenizer, row) == ["Ho<|end|>", "Hey<|end|>"]


def test_an_earlier_answer_ends_in_its_own_stop_token(tmp_path):
    tokenizer, final = gpt_oss(), "<|channel|>final<|message|>"
    (row, calling), _ = encode(tokenizer, tmp_path, [{"messages": TWICE}, {"messages": CALLING, "tools": TOOLS}])
    assert learned(tokenizer, row) == [f"{final}Ho<|end|>", f"{final}Hey<|return|>"]
    call = 'to=functions.weigh<|channel|>commentary json<|message|>{"what": "tea"}<|call|>'
    assert learned(tokenizer, calling) == [call, f"{final}Ho<|return|>"]


def test_what_begins_a_users_turn_ends_no_answer_before_it(tmp_path):
    tokenizer = tokenizer_like("glm4moe", "<|user|>", "<|assistant|>", "<|endoftext|>", eos="<|endoftext|>")
    (row,), _ = encode(tokenizer, tmp_path, [{"messages": TWICE}])
    assert learned(tokenizer, row) == ["<think></think>\nHo", "<think></think>\nHey<|endoftext|>"]


def test_reasoning_is_read_however_it_is_written():
    words = [{"type": "text", "text": "Ho"}]
    answers = [
        thinking("Hm", "Ho"),
        thinking("Hm", "Ho", "thinking"),
        thinking("Hm", "Ho", "reasoning") | {"reasoning_content": None, "thinking": "Hm"},
        {"role": "assistant", "content": [{"type": "reasoning", "value": "Hm"}, *words]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm", "signature": "x"}, *words]},
    ]
    for answer in answers:
        assert example_of({"messages": [*ASK, answer]}, "conversation").messages[-1] == thinking(
            "Hm", "Ho", "reasoning"
        )
    blank = {"messages": [*ASK, thinking(" ", "Ho")]}
    assert example_of(blank, "conversation") == example_of({"messages": TALK}, "conversation")


@pytest.mark.parametrize(
    "messages, reason",
    [
        ([*ASK, thinking("Hm", "Ho") | {"thinking": "Oh"}], "more than one reasoning: in reasoning_content, thinking"),
        ([*ASK, {"role": "assistant", "content": ["Ho", {"type": "thinking", "text": "Hm"}]}], "behind its words"),
        ([ASK[0] | {"thinking": "Hm"}, TALK[1]], "only the assistant can have"),
        ([*ASK, thinking({"effort": "high"}, "Ho", "reasoning")], '"reasoning" is an object, not text'),
    ],
)
def test_what_cannot_be_an_answers_reasoning_makes_a_bad_row(messages, reason):
    with pytest.raises(BadRow, match=reason):
        example_of({"messages": messages}, "conversation")


@pytest.mark.parametrize(
    "make, answer",
    [
        (lambda: tokenizer_with("qwen3"), "<think>\n{}\n</think>\n\nHo<|im_end|>"),
        (lambda: tokenizer_like("qwen3"), "<think>\n{}\n</think>\n\nHo<|im_end|>"),
        (lambda: tokenizer_like("qwen3_5_think"), "{}\n</think>\n\nHo<|im_end|>"),  # it invites with <think>
        (lambda: tokenizer_like("qwen3_5_nothink"), "{}\n</think>\n\nHo<|im_end|>"),  # it invites with no thought
        (lambda: tokenizer_like("glm4moe", eos="</s>"), "<think>{}</think>\nHo</s>"),
        (lambda: tokenizer_like("lfm2_2_5"), "<think>{}</think>Ho<|im_end|>"),
        (gpt_oss, "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>Ho<|return|>"),
    ],
)
def test_reasoning_is_learned_where_the_template_shows_it(tmp_path, make, answer):
    tokenizer, why = make(), "They say Hi, and I say Ho to that"  # the answer's own words stand in it
    (row,), found = encode(tokenizer, tmp_path, [{"messages": [*ASK, thinking(why, "Ho")]}])
    assert learned(tokenizer, row) == [answer.format(why)]
    assert "reasoning_left_out" not in found.account.summary()


def test_reasoning_before_a_tool_call_is_learned_with_it(tmp_path):
    why = "I weigh it"
    talk = [*ASK, CALLING[1] | {"reasoning_content": why}, *CALLING[2:3], thinking("Three", "Ho")]
    tokenizer = tokenizer_with("qwen3")
    (row,), _ = encode(tokenizer, tmp_path, [{"messages": talk, "tools": TOOLS}])
    call, last = learned(tokenizer, row)
    assert call.startswith(f"<think>\n{why}\n</think>\n\n<tool_call>") and call.endswith("</tool_call><|im_end|>")
    assert last == "<think>\nThree\n</think>\n\nHo<|im_end|>"
    # gpt-oss shows what was thought before a call only until there is an answer.
    tokenizer = gpt_oss()
    (row,), found = encode(tokenizer, tmp_path, [{"messages": talk, "tools": TOOLS}])
    assert [run.count("<|message|>") for run in learned(tokenizer, row)] == [1, 2]
    assert [line["reasoning_left_out_of_turns"] for line in lines(found, "truncated.jsonl")] == [[2]]


@pytest.mark.parametrize(
    "name, before, earlier",
    [
        ("qwen3_5_nothink", "I weigh it\n</think>\n\n", ""),  # it invites with an empty thought, as minimind does
        ("qwen3_5_think", "I weigh it\n</think>\n\n", ""),  # it invites with <think>, and shows earlier calls without
        ("nemotron_3_nano", "I weigh it\n</think>\n", "</think>\n"),  # an earlier thought is shown as none
    ],
)
def test_a_call_is_learned_where_the_template_invites_with_another_thought(tmp_path, name, before, earlier):
    talk = [*ASK, CALLING[1] | {"reasoning_content": "I weigh it"}, *CALLING[2:]]
    rows = [{"messages": some, "tools": TOOLS} for some in (talk, [*talk, *TALK])]
    tokenizer = tokenizer_like(name)
    (last, going_on), _ = encode(tokenizer, tmp_path, rows)
    for row, words in ((last, before), (going_on, earlier)):
        call = learned(tokenizer, row)[0]
        assert call.startswith(f"{words}<tool_call>\n<function=weigh>"), call
        assert call.endswith("<|im_end|>") and "3 grams" not in call


@pytest.mark.parametrize("make", [lambda: tokenizer_with("qwen3"), gpt_oss])
@pytest.mark.parametrize("options", [{}, {"max_length": 60}])
def test_reasoning_that_is_shown_only_until_the_next_question_is_accounted_for(tmp_path, make, options):
    row, tokenizer = {"messages": [*ASK, thinking("First", "Ho"), ASK[0], thinking("Then", "Hey")]}, make()
    (encoded,), found = encode(tokenizer, tmp_path, [row], **options)
    told = "".join(learned(tokenizer, encoded))
    assert "First" not in told and "Then" in told
    assert found.account.summary()["reasoning_left_out"] == 1
    listed = [line for line in lines(found, "truncated.jsonl") if "reasoning_left_out_of_turns" in line]
    assert [(line["line"], line["reasoning_left_out_of_turns"]) for line in listed] == [(1, [2])]


@pytest.mark.parametrize("name, eos", [("qwen2_5", "<|im_end|>"), ("llama3", "</s>"), ("deepseekv3", "</s>")])
@pytest.mark.parametrize("kind", ["conversation", "prompt"])
def test_reasoning_that_a_template_never_shows_makes_a_bad_row(tmp_path, name, eos, kind):
    rows = [{"messages": [*ASK, thinking("First", "Ho"), *TALK]}, {"messages": TWICE}]
    columns, found = encode(tokenizer_like(name, eos=eos), tmp_path, rows, kind)
    assert len(columns) == 1
    (reason,) = reasons(found)
    assert "leaves out the reasoning of turn 2" in reason and "model.template: qwen3" in reason


def test_the_reasoning_of_a_pair_is_part_of_its_answers(tmp_path):
    tokenizer = tokenizer_with("qwen3")
    rows = [
        {"prompt": "Hi", "chosen": [thinking("Good", "Ho")], "rejected": thinking("Bad", "Ho", "thinking")},
        {"prompt": "Hi", "chosen": thinking("Bad", "Ho"), "rejected": thinking("Good", "Ho")},
    ]
    (row, turned), found = encode(tokenizer, tmp_path, rows, "preference")
    sides = [tokenizer.decode(row[side]) for side in ("chosen_ids", "rejected_ids")]
    assert sides == [f"<think>\n{why}\n</think>\n\nHo<|im_end|>" for why in ("Good", "Bad")]
    assert row["chosen_ids"] == turned["rejected_ids"] and found.account.contradictions == 1
    _, found = encode(tokenizer_with("chatml"), tmp_path, rows[:1], "preference")
    assert "leaves out the reasoning of turn 2" in reasons(found)[0]


def test_our_qwen3_template_writes_what_qwens_own_does():
    both = [Template(make("qwen3")) for make in (tokenizer_with, tokenizer_like)]
    talks = [TALK, TWICE, CALLING, [{"role": "system", "content": "Be kind."}, *TALK]]
    talks += [
        [*talk[:-1], talk[-1] | last]
        for talk in talks
        for last in ({"reasoning": "\nHm\n"}, {"content": "<think>Hm</think>\n\nHo"}, {"content": "\nHo"})
    ]
    for talk in talks:
        for tools in (None, TOOLS):
            for said, ask in ((talk, False), (talk[:-1], True)):
                ours, theirs = (one.render(said, ask=ask, tools=tools) for one in both)
                assert ours == theirs


def test_a_row_on_which_a_template_fails_is_a_bad_row(tmp_path):
    fails = "{% for m in messages %}\n{{ m.role + m.content }}{{ 1 + m.content if 'No' in m.content }}{% endfor %}"
    columns, found = encode(tokenizer_of(fails), tmp_path, [{"messages": TALK}, {"prompt": "No", "completion": "Ho"}])
    assert len(columns) == 1 and "fails on it in line 2: TypeError" in reasons(found)[0]


@pytest.mark.parametrize(
    "text, said", [("\n{% if %}", ":2: Expected an expression"), ("{{ messages | lend }}", ":1: No filter named")]
)
def test_a_template_that_is_not_jinja_is_a_mistake_with_its_line_before_anything_is_loaded(tmp_path, text, said):
    file, recipe = tmp_path / "mine.jinja", tmp_path / "r.yaml"
    file.write_text(text)
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    stages = f"stages: {{sft: {{data: {{path: {tmp_path / 'a.jsonl'}}}}}}}"
    recipe.write_text(f"model: {{id: {tmp_path}, template: {file}}}\n{stages}\n")
    with pytest.raises(PipelineError) as error:
        Planner(load_recipe(recipe), tmp_path / "runs").plan(["sft"])
    assert error.value.what.startswith(f"{file}{said}") and "model.template" in error.value.fix


def test_the_tags_of_transformers_are_no_mistake(tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}")
    assert named(str(file)) == file.read_text()


@pytest.mark.parametrize(
    "text, said",
    [
        ("\n{{ ''.__class__.__mro__ }}", ":2: access to attribute '__class__'"),
        ("{{ raise_exception('No.') }}", ":1: No"),
        ("{% for m in messages %}\n\n{{ tell(m) }}{% endfor %}", ":3: 'tell' is undefined"),
        ("{% for m in messages %}{{ m.content + 1 }}{% endfor %}", ":1: TypeError: "),
        ("{% if not add_generation_prompt %}{{ 1 / 0 }}{% endif %}", ":1: ZeroDivisionError: "),
        ("{{ ''.__class__ }}", ": leaves the assistant's answer out"),
    ],
)
@pytest.mark.parametrize("own", [False, True])
def test_a_template_that_fails_on_the_simplest_exchange_is_a_mistake(tmp_path, text, said, own):
    file, tokenizer = tmp_path / "mine.jinja", train(["a"], 300)
    file.write_text(text)
    tokenizer.name_or_path, tokenizer.chat_template = "base", text if own else None
    model = SimpleNamespace(template=None if own else str(file), pad_token=None, id="base")
    with pytest.raises(PipelineError) as error:
        prepare(tokenizer, SimpleNamespace(model=model))
    own_place = "base: the model's own chat template" + re.sub(r"^:(\d+)", r", line \1", said)
    assert error.value.what.startswith(own_place if own else f"{file}{said}")
    assert "model.template" in error.value.fix


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content", "thinking"])
@pytest.mark.parametrize("names", [("question", "answer"), ("instruction", "output"), ("prompt", "response")])
def test_reasoning_beside_an_answer_of_a_row_is_learned_or_makes_a_bad_row(tmp_path, names, field):
    row = dict(zip(names, ("Hi", "Ho"), strict=True)) | {field: "I weigh it"}
    tokenizer = tokenizer_with("qwen3")
    (made,), _ = encode(tokenizer, tmp_path, [row])
    assert learned(tokenizer, made) == ["<think>\nI weigh it\n</think>\n\nHo<|im_end|>"]
    _, refused = encode(tokenizer_with("qwen"), tmp_path, [row])
    (reason,) = reasons(refused)
    assert "leaves out the reasoning" in reason
