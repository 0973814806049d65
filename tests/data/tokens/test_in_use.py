"""A chat template that would be trained on one thing and asked for another is refused or told before any row is."""

import json
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import align, write_rows
from prepared import encode, learned

from pipeline.data.check import check
from pipeline.data.source import Data
from pipeline.data.tokens.encoder import Encoder
from pipeline.data.tokens.template_files import FOLDER
from pipeline.errors import PipelineError
from pipeline.model.tokenizer import inherited, prepare, train

SHIPPED = Path(find_spec("trl").origin).parent / "chat_templates"
MARKS = ["<|im_start|>", "<|im_end|>", "<|end|>"]
TURN = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
ASKED = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
PLAIN = "{{ m.role + ': ' + m.content + (eos_token if m.role == 'assistant' else '') + '\n' }}"
END = (
    "{{ '<|im_start|>' + m.role + '\n' + m.content "
    "+ ('<|im_end|>' if loop.last or m.role == 'user' else 'EARLIER') + '\n' }}"
)
ROWS = [{"prompt": "Hi", "completion": "Ho"}]


def talk(turn=TURN, asked=ASKED, first=""):
    return first + "{% for m in messages %}" + turn + "{% endfor %}" + asked


def tokenizer_of(template, specials=MARKS):
    made = train(["what is red? a colour Yes it is"] * 5, 320)
    made.add_special_tokens({"additional_special_tokens": list(specials)})
    made.chat_template, made.name_or_path = template, "base"
    return made


def notes(template, **options):
    """What is told of a model's own template, but for its pad token and its stop."""
    model = SimpleNamespace(template=None, pad_token=None, id="base")
    made = prepare(tokenizer_of(template, **options), SimpleNamespace(model=model))
    return [note for note in made.notes if "EOS" not in note]


@pytest.mark.parametrize(
    "template, said",
    [
        (talk(asked=ASKED.replace("assistant", "model")), r"asked for with '<|im_start|>model\n'"),
        (talk(asked=ASKED.replace("im_start", "im_strat")), "asked for with '<|im_strat|>"),
        (talk(PLAIN, "{% if add_generation_prompt %}assistant: {% endif %}"), "joins the end of that"),
        (
            talk(PLAIN.replace("': '", "':'"), "{% if add_generation_prompt %}assistant: {% endif %}"),
            "stands behind 'assistant:'",
        ),
        (talk("{{ m.content }}{{ '\nA: ' if m.role == 'user' else eos_token + '\n' }}", ""), "joins the end of that"),
        (talk(END.replace(" or m.role == 'user'", "")), "stands behind 'EARLIER"),
        (talk(first="{{ strftime_now('%H:%M:%S') }}"), "writes the time of day"),
        (talk(first="{{ strftime_now('%d %b %Y, %H h') }}"), "writes the time of day"),
        (talk(first="{{ ['a', 'b'] | random }}"), "something else each time"),
    ],
)
def test_what_would_be_trained_on_one_thing_and_asked_for_another_is_refused(template, said):
    with pytest.raises(PipelineError) as error:
        notes(template)
    assert error.value.what.startswith("base: the model's own chat template: ") and said in error.value.what
    assert "model.template" in error.value.fix


@pytest.mark.parametrize(
    "template, said",
    [
        (talk(), []),
        (talk(PLAIN, "{% if add_generation_prompt %}assistant:{% endif %}"), []),  # the space is the answer's
        (talk(first="{{ strftime_now('%d %b %Y') }}"), ["writes the date"]),
        (talk(asked=""), ["does not heed add_generation_prompt"]),
        (talk(END.replace("EARLIER", "")), ["no stop token after an earlier answer"]),
        (
            talk(END.replace("EARLIER", "<|end|>")),
            ["ends the last answer of a conversation in <|im_end|> and earlier ones"],
        ),
        (
            talk(TURN.replace("end", "ned")),
            ["no stop token", "<|im_ned|> (did you mean <|im_end|>?), which is no token"],
        ),
        (
            talk(
                TURN.replace("im_start", "' + m.role + '"),
                "{% if add_generation_prompt %}<|assistant|>assistant\n{% endif %}",
            ),
            ["<|assistant|>, <|user|> as text"],
        ),
        (
            talk(asked=ASKED.replace("t\n", "t\n<think>\n")),
            ["asks for an answer with '<|im_start|>assistant\\n<think>"],
        ),
    ],
)
def test_what_may_be_meant_is_told(template, said):
    found = [note for note in notes(template) if "<|im_start|>assistant" not in note or "stands" not in note]
    if said and "asks for" in said[0]:
        assert "answers are not trained behind" in found[0]
    assert len(found) == len(said) and all(part in note for part, note in zip(said, found, strict=True)), found


def test_an_earlier_answer_is_learned_through_its_own_stop_where_the_template_asks_which_is_the_last(tmp_path):
    tokenizer = tokenizer_of(talk(END.replace("EARLIER", "<|end|>")))
    turns = [{"role": role, "content": said} for role, said in (("user", "Hi"), ("assistant", "Ho"))]
    (row,), _ = encode(tokenizer, tmp_path, [{"messages": turns * 2}])
    assert learned(tokenizer, row) == ["Ho<|end|>", "Ho<|im_end|>"]


def test_a_misspelled_marker_of_a_template_of_ones_own_becomes_a_token_that_is_told(tmp_path):
    (tmp_path / "mine.jinja").write_text(talk(TURN.replace("end", "ned")))
    model = SimpleNamespace(template=str(tmp_path / "mine.jinja"), pad_token=None, id="base")
    made = prepare(tokenizer_of(None, ["<|end|>"]), SimpleNamespace(model=model))
    assert made.new_tokens == ("<|im_start|>", "<|im_ned|>")
    assert "<|im_start|>, <|im_ned|> (did you mean <|im_end|>?)" in made.notes[0]
    assert all("did you mean" not in note for note in notes(talk(), specials=MARKS))


# Of templates that ship with TRL: what is told of each, in its first words. The rest is told nothing.
TOLD = {
    "deepseek": "asks for an answer with '<｜Assistant｜><think>\\n', which answers are not",
    "nemotron": "asks for an answer with '<|im_start|>assistant\\n<think>\\n', which answers without reasoning are not",
    "qwen3_5_nothink_training": None,
    "qwen3_5_nothink": "which earlier answers of a conversation are not",
    "qwen3_5_think_training": None,
    "qwen3_5_think": "which earlier answers of a conversation are not",
    "qwen3_6_training": None,
    "qwen3_6": "which earlier answers of a conversation are not",
    "glm4moe_training": None,
    "glm4moe": "no stop token after an earlier answer",
    "gptoss": "in <|return|> and earlier ones in <|end|>",
    "llama3_2": "writes the date",
    "muse": "writes the date",
}
PARTS = ("idefics3", "llava_next")  # with pictures: they have no words for a text that is not a list of parts
REAL = [*SHIPPED.glob("*.jinja"), *FOLDER.glob("*.jinja")]


@pytest.mark.parametrize(
    "file", sorted(file for file in REAL if not file.stem.startswith(PARTS)), ids=lambda file: file.stem
)
def test_no_real_template_is_refused(file):
    template = file.read_text(encoding="utf-8").removesuffix("\n")
    specials = {"<|im_end|>", "<|end|>", "<|return|>", "<｜end▁of▁sentence｜>", "<|user|>"}
    found = [note for note in notes(template, specials=specials) if " as text" not in note and "no token" not in note]
    said = next((said for name, said in TOLD.items() if file.stem.startswith(name)), None)
    if file.parent == FOLDER or said is None:
        assert not [note for note in found if "stop token" not in note], found  # not all have theirs here
    else:
        assert said in " ".join(found), found


@pytest.mark.parametrize(
    "row, told",
    [
        (ROWS[0] | {"reasoning": "Hm"}, True),
        (
            {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho", "thinking": "Hm"}]},
            True,
        ),
        ({"prompt": "Hi", "completion": "<think>Hm</think>Ho"}, True),
        (ROWS[0] | {"reasoning": None, "thinking": ""}, False),
    ],
)
def test_rows_with_reasoning_are_told_where_the_template_asks_for_none(tmp_path, row, told):
    write_rows(tmp_path / "rows.jsonl", [row] * 5)
    tokenizer = tokenizer_of((SHIPPED / "qwen3_5_nothink.jinja").read_text(encoding="utf-8"))
    found = check(Data(path=str(tmp_path / "rows.jsonl")), "conversation", Encoder(tokenizer)).remarks
    assert ["which answers with reasoning are not trained behind" in one for one in found] == [True] * told
    thinks = tokenizer_of((SHIPPED / "qwen3_5_think.jinja").read_text(encoding="utf-8"))
    assert not check(Data(path=str(tmp_path / "rows.jsonl")), "conversation", Encoder(thinks)).remarks


def test_the_template_of_an_adapter_from_elsewhere_is_tried_out(tmp_path):
    tokenizer_of(talk(asked=ASKED.replace("assistant", "model"))).save_pretrained(tmp_path)
    wanted = SimpleNamespace(trust_remote_code=False)
    with pytest.raises(PipelineError, match="its chat template: an answer is asked for with"):
        inherited(tmp_path, wanted, tried=False)
    assert inherited(tmp_path, wanted, tried=True).tokenizer.chat_template


def test_a_check_of_data_tells_what_a_run_does(tmp_path):
    write_rows(tmp_path / "rows.jsonl", ROWS * 3)
    tokenizer_of(talk()).save_pretrained(tmp_path / "base")
    (tmp_path / "mine.jinja").write_text(talk(TURN.replace("end", "ned"), first="{{ strftime_now('%d %b %Y') }}"))
    options = ("--tokenizer", "base", "--template", "mine.jinja")
    said = align("data", "check", "rows.jsonl", *options, cwd=tmp_path).stdout
    assert "<|im_ned|> (did you mean <|im_end|>?)" in said and "writes the date" in said
    told = json.loads(align("data", "check", "rows.jsonl", *options, "--json", cwd=tmp_path).stdout)["notes"]
    assert any("which becomes the tokenizer's EOS" in note for note in told)
