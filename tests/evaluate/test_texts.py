"""Answers held against references by their words: the libraries' own figures, in every script, with an interval."""

import pytest
from conftest import plan

from pipeline.errors import PipelineError
from pipeline.evaluate.figures import Figures
from pipeline.evaluate.intervals import differences
from pipeline.evaluate.texts import ByWord, measure, tokenizer_for
from pipeline.plan.planner import Planner
from pipeline.recipe.reading import load_recipe

ALL = ["chrf", "bleu", "rouge_l"]
REFERENCES = [f"the cat sat on the mat and ate {n} mice" for n in range(40)]
NEAR = [f"the cat sat on the mat and ate {n % 7} mice" for n in range(40)]
FAR = [f"a dog lies under {n} trees" for n in range(40)]


def measured(texts: list[str], references: list[str] = REFERENCES) -> Figures:
    figures = Figures()
    measure(ALL, texts, references, figures)
    return figures


def test_they_are_the_libraries_own():
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU, CHRF

    found, rouge = measured(NEAR).metrics, RougeScorer(["rougeL"])
    assert found["chrf"] == CHRF().corpus_score(NEAR, [REFERENCES]).score
    assert found["bleu"] == BLEU().corpus_score(NEAR, [REFERENCES]).score
    each = [rouge.score(*one)["rougeL"].fmeasure for one in zip(REFERENCES, NEAR, strict=True)]
    assert found["rouge_l"] == pytest.approx(sum(each) / 40)


@pytest.mark.parametrize(
    ("text", "tokenizer"),
    [
        ("The cat sat.", "13a"),
        ("我们今天去 Beijing 看长城。", "zh"),
        ("今日は東京へ行きます。", "char"),
        ("วันนี้อากาศดี", "char"),
        ("오늘은 날씨가 좋다", "13a"),
        ("Peking is 北京 in Chinese", "13a"),
        ("12:30", "13a"),
    ],
)
def test_the_script_of_the_references_chooses_the_tokenizer(text, tokenizer):
    assert tokenizer_for([text]) == tokenizer


def test_of_chinese_something_is_left():
    rights = ["我们今天去看长城。", "他喜欢喝绿茶。"] * 3
    right, wrong = measured(rights, rights), measured(["天气很好", "再见"] * 3, rights)
    assert right.metrics == pytest.approx({"chrf": 100, "bleu": 100, "rouge_l": 1})
    assert "tok:zh" in right.how["bleu"] and wrong.metrics["rouge_l"] < 0.2
    assert ByWord().tokenize("GPT4模型很好, it's Ünï_ok") == ["gpt4", *"模型很好", "it", "s", "ünï", "ok"]


def test_their_difference_has_an_interval():
    found = differences(measured(FAR), measured(NEAR))
    for name in ALL:
        assert 0 < found[name].low < found[name].value < found[name].high
    # On the same rows: where nothing is other nothing can be.
    assert differences(measured(NEAR), measured(NEAR))["bleu"].to_json() == {"value": 0, "low": 0, "high": 0}


def test_answers_that_are_empty_are_no_failure():
    assert measured([""] * 40).metrics == {"rouge_l": 0, "chrf": 0, "bleu": 0}


def test_a_stage_measures_what_its_recipe_asks_for(stage_of):
    stage = stage_of("sft", "stages.sft.evaluation={text: [chrf, bleu], answer_pattern: null}")
    found = stage.measuring.evaluation.run(stage.models.at_the_start())
    assert {"chrf", "bleu"} <= found.metrics.keys() and not {"rouge_l", "exact_match"} & found.metrics.keys()
    assert len(found.parts["chrf"]) == found.metrics["n"] == len(found.completions)


def test_nothing_is_measured_again_where_it_is_not_asked_for(built):
    assert {row["state"] for row in plan(built).values()} == {"up to date"}
    asked = plan(built, "--set", "stages.sft.evaluation.text=chrf")["sft"]
    assert asked["state"] == "evaluate" and asked["why"] == 'evaluation.text: [] -> ["chrf"]; the weights stay'


def test_a_missing_package_is_told_in_the_plan(micro, monkeypatch):
    monkeypatch.chdir(micro)
    recipe = load_recipe("micro.yaml", ["stages.sft.evaluation.text=[bleu, chrf]"])
    monkeypatch.setattr("pipeline.recipe.texts.importlib.util.find_spec", lambda name: None)
    with pytest.raises(PipelineError, match=r"sft: evaluation.text: needs sacrebleu, .*\n.*-e \S+\[text\]") as caught:
        Planner(recipe, micro / "runs").plan(["sft"])
    assert "rouge_score" not in str(caught.value)


def test_a_figure_that_there_is_not_is_a_mistake(problems):
    (said,) = problems("{name: a, model: {id: x}, evaluation: {text: rouge}, stages: {sft: {data: {path: a}}}}")
    assert 'must be one of chrf, bleu, rouge_l, not "rouge"; did you mean rouge_l?' in said
