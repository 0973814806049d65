"""`align init` without a terminal: what it writes loads and fits its data, and nothing is overwritten."""

import json
from pathlib import Path

import pytest
from conftest import write_rows
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.errors import PipelineError
from pipeline.plan.memory.card import Card
from pipeline.plan.planner import Planner
from pipeline.recipe.reading import load_recipe


@pytest.fixture
def init(tmp_path, monkeypatch):
    """Runs it in a folder with a file of each kind of row and a model of a known shape."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.plan.memory.card.own", lambda: None)
    write_rows(tmp_path / "chat.jsonl", [{"prompt": f"Say {n}", "completion": f"{n} it is"} for n in range(9)])
    write_rows(tmp_path / "text.jsonl", [{"text": f"The number {n}. " * 900} for n in range(9)])
    write_rows(tmp_path / "pairs.jsonl", [{"prompt": f"Say {n}", "chosen": "a", "rejected": "b"} for n in range(9)])
    write_rows(tmp_path / "kto.jsonl", [{"prompt": f"Say {n}", "completion": "a", "label": True} for n in range(9)])
    write_rows(tmp_path / "sums.jsonl", [{"question": f"{n} + 1?", "answer": f"so #### {n + 1}"} for n in range(9)])
    write_rows(tmp_path / "math.jsonl", [{"prompt": f"{n} + 1?", "solution": f"\\boxed{{{n + 1}}}"} for n in range(9)])
    shape = {"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 32}
    shape |= {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "tie_word_embeddings": False}
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(shape))
    (tmp_path / "base" / "model.safetensors").write_bytes(b"")  # the plan looks only whether there are weights

    def run(*arguments: str, answers: str = "") -> str:
        done = CliRunner().invoke(app, ["init", *arguments], input=answers)
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.output

    return run


@pytest.mark.parametrize(
    ("files", "goal", "stages"),
    [
        ("chat.jsonl", "chat", ["sft"]),
        ("text.jsonl", "domain", ["pretrain"]),
        ("text.jsonl chat.jsonl pairs.jsonl", "preferences", ["pretrain", "sft", "dpo"]),
        ("kto.jsonl", "preferences", ["kto"]),
        ("sums.jsonl", "verifiable", ["grpo"]),
        ("chat.jsonl math.jsonl", "verifiable", ["sft", "grpo"]),
    ],
)
def test_rows_and_goal_make_the_stages(init, files, goal, stages):
    data = [word for file in files.split() for word in ("--data", file)]
    init("mine.yaml", "--model", "base", *data, "--goal", goal, "--card", "0", "--yes")
    assert list(load_recipe("mine.yaml").stages) == stages


def test_rows_are_no_longer_than_the_model_has_positions(init):
    config = json.loads(Path("base/config.json").read_text())
    Path("base/config.json").write_text(json.dumps(config | {"max_position_embeddings": 128}))
    init("mine.yaml", "--model", "base", "--data", "chat.jsonl", "--card", "0", "--yes")
    assert load_recipe("mine.yaml").stage("sft").train["max_length"] == 128


def test_the_reward_reads_the_column_that_the_rows_have(init):
    init("a.yaml", "--model", "base", "--data", "sums.jsonl", "--goal", "verifiable", "--yes")
    init("b.yaml", "--model", "base", "--data", "math.jsonl", "--goal", "verifiable", "--yes")
    (sums,), (boxed,) = (load_recipe(name).stage("grpo").rewards for name in ("a.yaml", "b.yaml"))
    assert sums.function == "number" and boxed.function == "math" and boxed.options == {"column": "solution"}


def test_columns_of_other_names_and_texts_that_are_not_utf_8_are_said_in_the_recipe(init):
    rows = [{"问题": f"几加{n}？", "答案": f"{n}。"} for n in range(9)]
    Path("qa.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="gb18030")
    write_rows(Path("dolly.jsonl"), [{"instruction": f"Say {n}", "context": "", "response": f"{n}"} for n in range(9)])
    write_rows(Path("capital.jsonl"), [{"Problem": f"{n} + 1?", "Solution": f"{n + 1}"} for n in range(9)])
    rest = ("--model", "base", "--card", "0", "--yes")
    said = init("zh.yaml", "--data", "qa.jsonl", "--encoding", "gb18030", *rest)
    assert "问题 is taken for question and 答案 is taken for answer" in said
    data = load_recipe("zh.yaml").stage("sft").data
    assert data.columns == {"question": "问题", "answer": "答案"} and data.encoding == "gb18030"
    init("two.yaml", "--data", "dolly.jsonl", "--data", "capital.jsonl", "--data", "chat.jsonl", *rest)
    parts = load_recipe("two.yaml").stage("sft").data.mixture
    assert [part.columns for part in parts] == [
        {"input": "context", "output": "response"},
        {"question": "Problem", "answer": "Solution"},
        {},
    ]
    with pytest.raises(PipelineError, match="not UTF-8 text") as refused:
        init("other.yaml", "--data", "qa.jsonl", *rest)
    assert "--encoding gb18030 for `align data check` and `align init`" in refused.value.fix


def test_without_a_goal_the_rows_say_it(init):
    said = init("mine.yaml", "--model", "base", "--data", "pairs.jsonl", "--yes")
    assert "rows of the kind preference" in said and list(load_recipe("mine.yaml").stages) == ["dpo"]


def test_it_is_made_to_fit_the_card(init):
    init("wide.yaml", "--model", "base", "--data", "chat.jsonl", "--card", "80", "--yes")
    said = init("tight.yaml", "--model", "base", "--data", "chat.jsonl", "--card", "4", "--yes")
    assert "by the plan" in said and "does not fit" not in said
    assert not load_recipe("wide.yaml").model.load_in_4bit and load_recipe("tight.yaml").model.load_in_4bit


def test_a_card_before_ampere_gets_float16_and_the_plan_says_why(init, monkeypatch):
    t4 = Card("Tesla T4", 15360 << 20, "float16")
    monkeypatch.setattr("pipeline.plan.memory.card.own", lambda: t4)
    init("own.yaml", "--model", "base", "--data", "chat.jsonl", "--yes")
    init("sold.yaml", "--model", "base", "--data", "chat.jsonl", "--card", "16", "--yes")
    assert load_recipe("sold.yaml").model.dtype == "float16"
    init("another.yaml", "--model", "base", "--data", "chat.jsonl", "--card", "24", "--yes")
    assert load_recipe("own.yaml").model.dtype == "float16" and load_recipe("another.yaml").model.dtype == "bfloat16"
    init("named.yaml", "--model", "base", "--data", "chat.jsonl", "--card", "t4", "--yes")
    assert load_recipe("named.yaml").model.dtype == "float16"
    said = {name: str(Planner(load_recipe(name), Path("runs")).plan(["sft"])) for name in ("own.yaml", "another.yaml")}
    assert "Tesla T4 has no bfloat16" in said["another.yaml"] and "has no bfloat16" not in said["own.yaml"]


def test_rows_with_tools_get_a_template_that_shows_them(init, tmp_path):
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
    (tmp_path / "tools.jsonl").write_text(json.dumps(row | {"tools": [{"name": "look", "parameters": {}}]}) + "\n")
    init("with.yaml", "--model", "base", "--data", "tools.jsonl", "--card", "0", "--yes")
    init("without.yaml", "--model", "base", "--data", "chat.jsonl", "--card", "0", "--yes")
    assert [load_recipe(f"{name}.yaml").model.template for name in ("with", "without")] == ["qwen", "chatml"]


def test_nothing_is_overwritten(init, tmp_path):
    (tmp_path / "mine.yaml").write_text("mine")
    with pytest.raises(PipelineError, match="is not overwritten"):
        init("mine.yaml", "--model", "base", "--data", "chat.jsonl", "--yes")
    assert (tmp_path / "mine.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--data chat.jsonl", "--model is missing"),
        ("--model base", "--data is missing"),
        ("--model nothing --data chat.jsonl", "neither a folder nor a hub id"),
        ("--model base --data none.jsonl", "none.jsonl: no such file.\nThere are: chat.jsonl, "),
        ("--model base --data chat.jsonl --card 0.2", "is no size of a card"),
        ("--model base --data chat.jsonl --goal win", "must be one of chat, domain"),
        ("--model base --data chat.jsonl --goal domain", "needs text rows"),
        ("--model base --data chat.jsonl --from chat.jsonl", "Leave the other options out"),
    ],
)
def test_what_is_missing_or_does_not_go_together_is_told(init, tmp_path, arguments, said):
    with pytest.raises(PipelineError) as error:
        init("mine.yaml", *arguments.split(), "--yes")
    assert said in str(error.value) and not (tmp_path / "mine.yaml").exists()


def test_on_a_terminal_it_asks(init, monkeypatch):
    monkeypatch.setattr("pipeline.cli.init._a_terminal", lambda: True)
    init(answers="base\nchat.jsonl pairs.jsonl\n\n0\nmine.yaml\n")
    assert list(load_recipe("mine.yaml").stages) == ["sft", "dpo"]
