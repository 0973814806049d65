"""The commands that only tell."""

import json
import re

from conftest import ALL, PROJECT, align, attempt

from pipeline.recipe.reading import load_recipe
from pipeline.stage import specs


def test_status_for_a_program(built):
    rows = json.loads(align("status", "-r", "micro.yaml", "--json", cwd=built).stdout)
    assert [row["stage"] for row in rows] == ALL
    assert rows[1]["metrics"]["after"]["n"] == 8
    other = ["dpo", "--policy", attempt(built, "dpo")]
    (row,) = json.loads(align("status", "-r", "micro.yaml", "--json", *other, cwd=built).stdout)
    assert row["state"] == "run" and row["parent"] == "dpo"


def test_the_version_is_told():
    said = align("--version", cwd=PROJECT).stdout
    assert re.match(r"align \d+\.\d+", said) and "trl 1." in said


def test_recipes_are_listed_with_their_chain():
    said = align("recipes", cwd=PROJECT).stdout
    assert "recipes/tiny.yaml  pretrain -> sft -> dpo, reward, grpo, kto, orpo, ppo, rloo, simpo\n" in said
    assert "recipes/qwen3-4b-16gb.yaml  sft -> reward, (dpo -> ppo)\n" in said


def test_a_shown_recipe_is_whole_and_the_same(tmp_path):
    from pipeline.recipe.effect import NEVER
    from pipeline.recipe.fields import ON_A_GPU, fields_of
    from pipeline.recipe.owned import OWNED, adapter_owned

    shown = align("recipe", "show", "recipes/tiny.yaml", cwd=PROJECT).stdout
    assert shown == align("recipe", "show", "--recipe", "recipes/tiny.yaml", cwd=PROJECT).stdout  # as of every command
    (tmp_path / "shown.yaml").write_text(shown)
    loaded, again = load_recipe(PROJECT / "recipes" / "tiny.yaml"), load_recipe(tmp_path / "shown.yaml")
    assert again.resolved() == loaded.resolved()
    for name, stage in again.stages.items():
        config = specs()[name].config
        left = fields_of(config).keys() - stage.train.keys()
        assert left == (left & (OWNED.keys() | NEVER.get(config, {}).keys())) | set(ON_A_GPU)
    adapter = again.stages["sft"].adapter.resolved()
    assert fields_of("LoraConfig").keys() - adapter.keys() == adapter_owned("LoraConfig").keys()


def test_methods_are_told_apart_by_what_they_train_and_need(built):
    rows = json.loads(align("methods", "-r", "micro.yaml", "--json", "lora", "full", "bitfit", cwd=built).stdout)
    lora, full, bitfit = rows
    assert lora["trained"] < full["trained"] and full["share"] == 1 and lora["of"] == full["of"] == "sft"
    assert 0 < lora["saved"] < lora["memory"] and "biases" in bitfit["why_not"] and bitfit["memory"] is None
    said = align("methods", "-r", "micro.yaml", "lora", "bitfit", cwd=built).stdout
    assert "sft on a GPU" in said and "GiB" in said


def test_what_there_is_no_proof_of_is_said(built):
    """Weights of the model's own, new tokens that a method cannot train, and what a method lacks."""
    asked = ("methods", "-r", "micro.yaml", "--prove", "--json")
    full, bottleneck = json.loads(align(*asked, "full", "bottleneck", cwd=built).stdout)
    assert "model's own weights" in full["not_tried"] and not full["fails"]
    assert bottleneck["proofs"] and "merged" not in bottleneck["proofs"]
    grown = f"model={{id: {attempt(built, 'pretrain') / 'model'}, template: chatml}}"
    done = align(*asked, "ia3", "--set", grown, cwd=built, check=False)
    assert done.returncode == 2 and "the template's new tokens, <|im_start|>" in done.stdout
