"""What a stage must keep is what something measures: told by the plan, not after the training."""

import re

import pytest
from conftest import manifest, write_micro

from pipeline.errors import PipelineError
from pipeline.plan.measured import NEEDS, measured
from pipeline.plan.planner import Planner
from pipeline.recipe.gates import DIFFERENCES, FACTORS
from pipeline.recipe.reading import load_recipe

NO_PATTERN = "evaluation.answer_pattern=null"


def test_the_plan_knows_the_figures_that_the_stages_have(chain, recipe):
    assert NEEDS.keys() == FACTORS | DIFFERENCES
    for name in recipe.stages:
        made = manifest(chain, name)
        every = [made["metrics"], *made["earlier"].values()]
        found = {figure for said in every for figure in said["before"].keys() & said["after"].keys()}
        assert measured(recipe, name) == found & NEEDS.keys(), name


@pytest.mark.parametrize(
    ("stage", "options", "said"),
    [
        ("dpo", ("must_keep={exact_match: -0.1}",), "nothing measures exact_match here, which needs evaluation.answer"),
        ("dpo", ("must_keep={mean_reward: -0.1}",), "which needs a stage that samples responses.\ndpo has loss, perp"),
        ("reward", ("must_keep={perplexity: 1}",), "reward has loss and reward_accuracy."),
        ("pretrain", ("must_keep={loss: 1}", "data.held_out=0"), "pretrain has no held-out rows to measure."),
        (
            "pretrain",
            ("must_keep={loss: 1}", "evaluation.max_rows=0"),
            "measures none of its held-out rows: evaluation.max",
        ),
    ],
)
def test_what_nothing_measures_is_refused(tmp_path, monkeypatch, stage, options, said):
    monkeypatch.chdir(tmp_path)
    given = [f"stages.{stage}.{option}" for option in options]
    recipe = load_recipe(write_micro(tmp_path), [NO_PATTERN, *given])
    with pytest.raises(PipelineError, match=re.escape(f"stages.{stage}.must_keep: nothing measures")) as error:
        Planner(recipe, tmp_path / "runs").plan([stage])
    assert said in str(error.value)


def test_what_an_earlier_stage_or_a_policy_from_elsewhere_brings_may_be_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_micro(tmp_path)
    keep = "stages.dpo.must_keep={exact_match: -0.1}"
    of_sft = [NO_PATTERN, "stages.sft.evaluation.answer_pattern=x", keep]
    Planner(load_recipe(path, of_sft), tmp_path / "runs").plan(["dpo"])
    (tmp_path / "mine").mkdir()
    assert measured(load_recipe(path, [NO_PATTERN, "stages.sft.policy=mine", keep]), "dpo") is None
    assert measured(load_recipe(path, [NO_PATTERN, keep]), "dpo", overridden="sft") is None
