"""What a recipe says of its stages: defaults, what stands under each one's own, overrides."""

import json
import subprocess
import sys

import pytest
from conftest import PROJECT

from pipeline.recipe.problem import RecipeError
from recipes import GOOD


def test_a_good_recipe_has_its_defaults_and_the_pipelines_order(read):
    read_recipe = read(GOOD)
    assert (read_recipe.name, read_recipe.seed, str(read_recipe.path)) == ("my", 42, "my.yaml")
    assert list(read_recipe.stages) == ["sft", "dpo"]
    assert read_recipe.model.revision == "main"
    assert read_recipe.stage("sft").data.held_out == 0.05


def test_a_stage_stands_on_what_the_recipe_says_of_all(read):
    dpo = read(GOOD).stage("dpo")
    assert dpo.train == {
        "per_device_train_batch_size": 4,
        "learning_rate": 5e-6,
        "beta": 1.0,
        "loss_type": ["ipo"],
    }
    assert (dpo.evaluation.max_rows, dpo.evaluation.samples, dpo.evaluation.batch_size) == (50, 1, 32)
    assert dpo.adapter == {"method": "lora", "r": 8, "lora_alpha": 32, "target_modules": "all-linear"}
    assert (dpo.data.path, dpo.data.held_out, dpo.policy) == (["a.jsonl", "b.jsonl"], 0.0, None)


def test_data_of_every_stage_stand_under_each_ones_own(read):
    every = "data: {held_out: 0.2, on_bad_row: drop, on_too_long: error, duplicates: drop, max_rows: 90}\n"
    loaded = read(every + GOOD.replace("held_out: 0}", "held_out: pairs.jsonl, max_rows: null, on_bad_row: error}"))
    sft, dpo = loaded.stage("sft").data, loaded.stage("dpo").data
    assert (sft.path, sft.held_out, sft.on_bad_row, sft.on_too_long, sft.duplicates, sft.max_rows) == (
        "chat.jsonl",
        0.2,
        "drop",
        "error",
        "drop",
        90,
    )
    assert (dpo.held_out, dpo.on_bad_row, dpo.on_too_long, dpo.max_rows) == ("pairs.jsonl", "error", "error", None)
    resolved = loaded.resolved()
    assert "data" not in resolved and resolved["stages"]["sft"]["data"]["max_rows"] == 90
    assert read(GOOD).stage("sft").data == read("data:\n" + GOOD).stage("sft").data


def test_a_recipe_cannot_be_changed(read):
    loaded = read(GOOD)
    with pytest.raises(ValueError, match="frozen"):
        loaded.seed = 1
    loaded.stage("dpo").train["beta"] = 9
    assert loaded.stage("dpo").train["beta"] == 1.0


def test_resolved_is_plain_and_has_the_defaults(read):
    resolved = json.loads(json.dumps(read(GOOD).resolved()))
    assert resolved["model"]["load_in_4bit"] is False
    assert resolved["stages"]["sft"]["train"]["weight_decay"] == 0.0
    assert "output_dir" not in resolved["stages"]["sft"]["train"]


def test_a_model_from_scratch(read):
    loaded = read("""\
        model: {config: {model_type: llama, hidden_size: 96}, tokenizer: {vocab_size: 4096}}
        stages: {pretrain: {data: {path: text.jsonl}}, sft: {data: {path: chat.jsonl}}}
        """)
    assert loaded.model.config["hidden_size"] == 96
    assert loaded.resolved()["stages"]["pretrain"]["adapter"] == {"method": "full"}
    assert loaded.resolved()["stages"]["sft"]["adapter"]["method"] == "lora"


def test_a_policy_may_be_a_stage_or_a_folder(read, tmp_path):
    (tmp_path / "adapter").mkdir()
    assert read(GOOD, "stages.dpo.policy=adapter").stage("dpo").policy == "adapter"
    assert read(GOOD, "stages.dpo.policy=sft").stage("dpo").policy == "sft"


def test_overrides_are_yaml_and_make_their_way(read):
    loaded = read(GOOD, "stages.sft.train.learning_rate=1e-5", "adapter.target_modules=[q_proj]", "threads=null")
    assert loaded.stage("sft").train["learning_rate"] == 1e-5
    assert loaded.stage("dpo").train["learning_rate"] == 5e-6
    assert loaded.stage("sft").adapter["target_modules"] == ["q_proj"]
    assert loaded.threads is None


def test_an_override_does_not_reach_through_an_anchor(read):
    loaded = read(
        """\
        model: {id: m}
        stages:
          sft: {data: {path: a}, train: &rate {learning_rate: 1e-4}}
          dpo: {data: {path: b}, train: *rate}
        """,
        "stages.dpo.train.learning_rate=1e-6",
    )
    assert loaded.stage("sft").train == {"learning_rate": 1e-4}
    assert loaded.stage("dpo").train == {"learning_rate": 1e-6}


def test_a_stage_that_the_recipe_lacks(read):
    with pytest.raises(RecipeError, match="no stage reward in this recipe"):
        read(GOOD).stage("reward")


def test_reading_a_recipe_imports_nothing_heavy(read):
    read(GOOD)
    heavy = "{'torch', 'transformers', 'trl', 'peft', 'unsloth', 'datasets'}"
    code = (
        "import sys; from pipeline.recipe.reading import load_recipe; load_recipe('my.yaml').resolved(); "
        f"sys.exit(bool({heavy} & set(sys.modules)))"
    )
    root = str(PROJECT)
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": root}).returncode == 0
