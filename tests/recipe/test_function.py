"""A function of the user's: whatever is wrong with it is told by the key that names it and its place in the file."""

import pytest

from pipeline.errors import PipelineError
from pipeline.plan.planner import Planner
from pipeline.recipe import function
from pipeline.recipe.reading import load_recipe

RECIPE = """\
model: {id: some/model}
stages:
  sft: {data: {path: rows.jsonl}}
  ppo: {data: {path: rows.jsonl}, reward_function: 'mine.py:score'}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def score(prompts):\n    return [1.0\n", "mine.py:2: not valid Python: '[' was never closed"),
        ("def scores():\n    return 1\n", "mine.py: has no function score; did you mean scores?"),
        (None, "mine.py: no such file"),
    ],
)
def test_a_plan_names_the_key_whose_function_is_wrong(folder, text, said):
    (folder / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (folder / "my.yaml").write_text(RECIPE)
    if text:
        (folder / "mine.py").write_text(text)
    with pytest.raises(PipelineError) as caught:
        Planner(load_recipe("my.yaml"), folder / "runs").plan(["ppo"])
    assert f"ppo: reward_function: {said}" in str(caught.value) and "score_function" not in str(caught.value)
    scored = load_recipe(
        "my.yaml", ["stages.ppo.reward_function=null", "stages.ppo.reward=.", "evaluation.score_function=mine.py:score"]
    )
    with pytest.raises(PipelineError) as caught:
        Planner(scored, folder / "runs").plan(["sft"])
    assert f"sft: evaluation.score_function: {said}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("score = 3\n", "the.key: mine.py:score is no function but 3."),
        ("x = 1\nx / 0\ndef score(): pass\n", "the.key: mine.py:2: ZeroDivisionError: division by zero"),
        ("import there_is_no_such\ndef score(): pass\n", "the.key: mine.py:1: ModuleNotFoundError: No module named"),
        ("raise SystemExit(3)\ndef score(): pass\n", "the.key: mine.py:1: SystemExit: 3"),
    ],
)
def test_what_shows_only_when_the_file_is_run(folder, text, said):
    (folder / "mine.py").write_text(text)
    with pytest.raises(PipelineError) as caught:
        function.load("mine.py:score", "the.key")
    assert str(caught.value).startswith(said)


def test_a_function_that_fails_is_told_by_its_own_line(folder):
    (folder / "mine.py").write_text("import json\ndef score(text):\n    return json.loads(text)\n")
    score = function.load("mine.py:score", "the.key")
    assert score("3") == 3
    with pytest.raises(PipelineError, match=r"the\.key: mine\.py:3: JSONDecodeError: "):
        score("no JSON")
    with pytest.raises(PipelineError, match=r"the\.key: mine\.py:score: TypeError: .*unexpected keyword"):
        score(prompts=["a"])


@pytest.mark.parametrize(
    "text", ["from os.path import exists as score", "if True:\n    score = len", "from os import *"]
)
def test_a_function_may_come_from_anywhere(folder, text):
    (folder / "mine.py").write_text(text)
    assert function.problem("mine.py:score") is None


def test_what_a_file_does_when_it_is_tried_out_stays_there(tmp_path):
    import torch

    (tmp_path / "mine.py").write_text("import torch\ntorch.set_default_dtype(torch.float64)\ndef score(): ...\n")
    function.try_out(f"{tmp_path}/mine.py:score", "key")
    assert torch.get_default_dtype() == torch.float32
    (tmp_path / "mine.py").write_text("1 / 0\ndef score(): ...\n")
    with pytest.raises(PipelineError, match=r"key: .*mine.py:1: ZeroDivisionError"):
        function.try_out(f"{tmp_path}/mine.py:score", "key")
