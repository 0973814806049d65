"""Commands of TRL's, and the YAML of their --config, as recipes: each loads, means the same, and says what became of every argument."""

import dataclasses
import json
from pathlib import Path

import pytest
from conftest import refused

from pipeline.errors import PipelineError
from pipeline.recipe.reading import load_recipe
from pipeline.start.from_another import report, text, translated
from pipeline.start.trl_command import COMMANDS, OF_MIXTURES, OF_MODELS, OF_REWARDS, OF_SCRIPTS, arguments

COMMON = """\
    --model_name_or_path Qwen/Qwen3-0.6B \\
    --dataset_name owner/rows \\
    --learning_rate 2.0e-4 \\
    --num_train_epochs=1 --per-device-train-batch-size 2 --gradient_accumulation_steps 8 \\
    --eval_strategy steps --eval_steps 100 \\
    --use_peft --lora_r 32 --lora_alpha 16 --lora_target_modules q_proj v_proj \\
    --no_gradient_checkpointing --warmup_steps 0.1 \\
    --output_dir out --push_to_hub{}
"""
OWN = {
    "sft": " --packing --eos_token '<|im_end|>'",
    "dpo": " --beta 0.2 --loss_type sigmoid sft --loss_weights 1 0.5 --no_remove_unused_columns",
    "reward": " --lora_task_type SEQ_CLS",
    "kto": " --desirable_weight 0.5",
    "grpo": " --reward_funcs accuracy_reward think_format_reward --num_generations 4 --log_completions",
    "rloo": " --reward_funcs get_soft_overlong_punishment mine.rewards.brief --reward_weights 1 0.5 --num_generations 4",
}
STARTS = {
    "sft": "trl sft",
    "dpo": "CUDA_VISIBLE_DEVICES=0 python trl/scripts/dpo.py",
    "reward": "$ trl reward",
    "kto": "python3 -m trl.scripts.kto",
    "grpo": "nohup uv run grpo.py",
    "rloo": "accelerate launch --mixed_precision bf16 examples/rloo.py",
}
every = pytest.mark.parametrize("name", COMMANDS)


def command(name: str, more: str = "") -> str:
    return f"#!/bin/sh\n# what we ran\nset -e\n{STARTS[name]} \\\n{COMMON.format(OWN[name] + more)}"


@pytest.fixture
def translate(tmp_path, monkeypatch):
    """The recipe of a file's text, and the translation."""
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("mine/rewards.py").write_text("")

    def made(written: str, name: str = "run.sh", stage: str | None = None):
        source, to = Path(name), Path("ours.yaml")
        source.write_text(written)
        translation = translated(source, stage)
        to.write_text(text([translation], "align init --from run.sh", to))
        return load_recipe(to), translation

    return made


def said_of(translation) -> str:
    return json.dumps(report(translation)) + "".join(translation.origins.values())


@every
def test_every_argument_there_is_is_known(name):
    """With the kind of value that TRL's own parser would read; the config's fields are held to TRL elsewhere."""
    trl = pytest.importorskip("trl")
    from trl.scripts import grpo, rloo

    script = {"grpo": grpo.GRPOScriptArguments, "rloo": rloo.RLOOScriptArguments}.get(name, trl.ScriptArguments)
    theirs = {
        one.name: str(one.type)
        for kind in (script, trl.ModelConfig, trl.DatasetMixtureConfig)
        for one in dataclasses.fields(kind)
    }
    beside = OF_SCRIPTS | OF_MODELS | OF_MIXTURES | (OF_REWARDS if name in ("grpo", "rloo") else {})
    assert beside.keys() == theirs.keys() and set(beside) <= set(arguments(name))
    assert {key: kind for key, kind in beside.items() if kind not in theirs[key]} == {}


@every
def test_a_saved_command_becomes_a_recipe_with_nothing_unsaid(translate, name):
    recipe, translation = translate(command(name))
    recipe.resolved()
    train = recipe.stage(name).train
    assert set(translation.given) <= translation.told
    assert (train["learning_rate"], train["num_train_epochs"], train["warmup_steps"]) == (2e-4, 1, 0.1)
    assert train["per_device_train_batch_size"] * train["gradient_accumulation_steps"] == 16
    assert train["gradient_checkpointing"] is False
    tuning = recipe.tuning(name)
    assert (tuning["method"], tuning["r"], tuning["lora_alpha"], tuning["lora_dropout"]) == ("lora", 32, 16, 0.05)
    assert tuning["target_modules"] == ["q_proj", "v_proj"]
    data = recipe.stage(name).data
    assert (data.path, data.split, data.held_out.split) == ("hub:owner/rows", "train", "test")


def test_a_field_is_read_as_trls_own_parser_reads_it(translate):
    train = translate(command("dpo"))[0].stage("dpo").train
    assert (train["beta"], train["loss_type"], train["loss_weights"]) == (0.2, ["sigmoid", "sft"], [1, 0.5])
    train = translate(command("sft", " --packing false --lr_scheduler_kwargs '{\"num_cycles\": 2}' --run_name 7"))[1]
    assert train.given["packing"] is False and train.given["run_name"] == "7"
    assert train.given["lr_scheduler_kwargs"] == {"num_cycles": 2} and train.given["push_to_hub"] is True
    assert translate(command("sft", " --max_len 256"))[0].stage("sft").train["max_length"] == 256  # a beginning will do


def test_what_it_does_unasked_is_said(translate):
    recipe, translation = translate("trl sft --model_name_or_path owner/model --dataset_name owner/rows\n")
    assert recipe.tuning("sft")["method"] == "full" and recipe.model.dtype == "float32"
    assert recipe.stage("sft").train["learning_rate"] == 2e-5 and recipe.stage("sft").data.held_out == 0.05
    assert any("every token" in one for one in translation.means)
    lora = translate("trl sft --model_name_or_path owner/model --dataset_name owner/rows --use_peft\n")[0]
    assert lora.tuning("sft")["target_modules"] is None and lora.model.dtype == "bfloat16"  # PEFT's own few layers
    half = translate(
        "trl sft --model_name_or_path owner/model --dataset_name owner/rows --dtype float16 --load_in_4bit\n"
    )
    assert half[0].model.dtype == "float16" and half[0].model.bits is None
    assert any(one.key == "load_in_4bit" for one in half[1].dropped)


def test_a_config_stands_behind_the_command(translate, tmp_path):
    (tmp_path / "sft.yaml").write_text(
        "model_name_or_path: owner/model\ndataset_name: owner/rows\nlearning_rate: 1e-5\nmax_length: 512\nenv: {A: 1}\n"
    )
    recipe, translation = translate("trl sft --config sft.yaml --learning_rate 2e-5 > log.txt 2>&1\n")
    train = recipe.stage("sft").train
    assert (train["learning_rate"], train["max_length"]) == (2e-5, 512)
    assert translation.origins["stages", "sft", "train", "max_length"] == "max_length (sft.yaml:4)"
    assert translation.origins["stages", "sft", "train", "learning_rate"] == "learning_rate (line 1)"
    alone = translate((tmp_path / "sft.yaml").read_text(), "theirs.yaml", "sft")[0]
    assert alone.stage("sft").train["learning_rate"] == 1e-5
    assert any("set A in the shell" in one for one in translation.to_do)


def test_a_config_alone_is_for_the_command_that_its_keys_or_its_name_say(translate):
    base = "model_name_or_path: owner/model\ndataset_name: owner/rows\n"
    assert list(translate(base + "desirable_weight: 1.0\n", "any.yaml")[0].stages) == ["kto"]
    assert list(translate(base, "my-dpo.yaml")[0].stages) == ["dpo"]
    with pytest.raises(PipelineError, match=r"(?s)does not say which.*--stage sft"):
        translate(base, "any.yaml")
    assert list(translate(base, "any.yaml", "reward")[0].stages) == ["reward"]


def test_a_saved_command_that_is_given_for_a_recipe_is_told_how_to_become_one(tmp_path):
    (tmp_path / "train.sh").write_text("#!/bin/bash\n" + command("sft"))
    said = refused(tmp_path, "plan", "sft", "-r", "train.sh")
    assert "train.sh: is a saved command, and no recipe." in said and "align init --from train.sh" in said


def test_processes_share_what_each_had_for_itself(translate):
    recipe, translation = translate(command("sft", " --num_processes 4 --accelerate_config zero3"))
    assert recipe.launch.processes == 4 and recipe.stage("sft").train["gradient_accumulation_steps"] == 32
    assert recipe.launch.strategy == "zero3" and not any("accelerate_config" in one for one in translation.means)
    recipe, translation = translate(command("sft", " --num_processes 4 --accelerate_config fsdp1"))
    assert recipe.launch.strategy == "fsdp" and any("fsdp1" in one for one in translation.means)
    _, translation = translate(command("sft", " --config_file mine.yaml"))
    assert any("mine.yaml" in one and "strategy: fsdp" in one for one in translation.to_do)
    one, _ = translate("torchrun --nproc-per-node 2 sft.py --model_name_or_path a/b --dataset_name c/d\n")
    assert one.launch.processes == 2 and one.stage("sft").train["gradient_accumulation_steps"] == 2


def test_a_mixture_is_one_here(translate, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n')
    datasets = "datasets:\n  - {path: json, data_files: rows.jsonl, fraction: 0.3}\n  - {path: owner/rows, name: en, fraction: 0.7}\n"
    recipe, _ = translate("model_name_or_path: owner/model\ntest_split_size: 0.1\n" + datasets, "sft.yaml")
    first, second = recipe.stage("sft").data.parts
    assert (first.path, first.weight, recipe.stage("sft").data.held_out) == ("rows.jsonl", 0.3, 0.1)
    assert (second.path, second.config, second.weight) == ("hub:owner/rows", "en", 0.7)


def test_plain_texts_are_pretraining_here(translate, tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    datasets = "datasets: [{path: json, data_files: texts.jsonl}]\n"
    recipe, translation = translate("model_name_or_path: owner/model\n" + datasets, "sft.yaml")
    assert list(recipe.stages) == ["pretrain"] and any("pretrain" in one for one in translation.means)
    recipe, _ = translate(command("sft", " --dataset_text_field body"))
    assert recipe.stage("pretrain").data.columns == {"text": "body"}


def test_rows_of_strings_are_trained_on_without_a_template_as_there(translate, tmp_path):
    turn = [{"role": "user", "content": "Hi"}]
    pairs = {"strings": ("Hi", "Ho", "Hm"), "talks": (turn, [{"role": "assistant", "content": "Ho"}], turn)}
    for name, row in pairs.items():
        written = json.dumps(dict(zip(("prompt", "chosen", "rejected"), row, strict=True)))
        (tmp_path / f"{name}.jsonl").write_text(f"{written}\n" * 3)
    given = "trl dpo --model_name_or_path Qwen/Qwen3-0.6B --dataset_name {} --use_peft\n"
    strings, talks, unknown = (translate(given.format(one)) for one in ("strings.jsonl", "talks.jsonl", "owner/rows"))
    assert strings[0].model.template == "raw" and talks[0].model.template is unknown[0].model.template is None
    assert [any("plain strings" in one for one in made[1].means) for made in (strings, talks, unknown)] == [
        True,
        False,
        True,
    ]


def test_rewards_are_those_that_are_built_in_or_functions_of_files(translate):
    by_name = {one.name: one for one in translate(command("grpo"))[0].stage("grpo").rewards}
    assert by_name["accuracy_reward"].function == "math" and by_name["accuracy_reward"].options == {
        "column": "solution"
    }
    form = by_name["think_format_reward"].built_in
    thought = ["<think>\nso\n</think>\nit is", "<think>so it is", "so <think>a</think>", "<think><think>a</think>"]
    assert [form.score(one, [], None) for one in thought] == [1.0, 0.0, 0.0, 0.0]
    length, brief = translate(command("rloo"))[0].stage("rloo").rewards
    assert [length.built_in.score("", [0] * n, None) for n in (1024, 1152, 1280, 2000)] == [0.0, -0.5, -1.0, -1.0]
    assert (brief.function, brief.weight, length.weight) == ("mine/rewards.py:brief", 0.5, 1.0)


def test_a_reward_model_is_a_stage_of_the_chain(translate, tmp_path):
    call = "trl {} --model_name_or_path {} --dataset_name a/b --use_peft --output_dir out/{}"
    for name, model in (("sft", "owner/model"), ("reward", "out/sft"), ("grpo", "out/sft")):
        more = " --reward_model_name_or_path out/reward" if name == "grpo" else ""
        (tmp_path / f"{name}.sh").write_text(call.format(name, model, name) + more)
    files = [translated(tmp_path / f"{name}.sh") for name in ("sft", "reward", "grpo")]
    (tmp_path / "chain.yaml").write_text(text(files, "align init", tmp_path / "chain.yaml"))
    recipe = load_recipe(tmp_path / "chain.yaml")
    assert recipe.parent("grpo") == "sft" and [one.to_do for one in files] == [[], [], []]
    assert any("rewarded by reward" in one for one in files[2].means)
    with pytest.raises(PipelineError, match="needs a reward"):
        text(files[2:], "align init", tmp_path / "alone.yaml")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("echo hello\n", "has no command that trains"),
        ("trl ppo --x 1\n", "ppo is none of TRL's commands"),
        ("python train.py --model_name_or_path a/b\n", "name that with --stage"),
        ("trl sft --dataset_name a/b\n", "model_name_or_path is missing"),
        ("trl sft --model_name_or_path a/b\n", "there is nothing to train on"),
        ("trl sft --model_name_or_path $MODEL --dataset_name a/b\n", "$MODEL is not set in this file"),
        ("trl sft --config none.yaml\n", "none.yaml: no such file"),
        ("trl sft --x 'a\n", "a quotation has no end"),
        ("trl sft --a 1\ntrl dpo --b 2\n", "several commands that train (lines 1, 2)"),
    ],
)
def test_what_cannot_be_translated_is_refused_with_its_line(translate, written, said):
    with pytest.raises(PipelineError) as error:
        translate(written)
    assert said in str(error.value)


def test_what_the_file_exports_is_named_and_its_values_are_not(translate):
    call = "trl sft --model_name_or_path $MODEL --dataset_name a/b\n"
    set_before = "MODEL=owner/model\nexport WANDB_MODE=offline\nexport HF_TOKEN=hf_secret\nNCCL_DEBUG=INFO nohup "
    _, translation = translate(set_before + call)
    assert translation.to_do == [
        "env: a recipe sets no environment: set WANDB_MODE, HF_TOKEN, NCCL_DEBUG in the shell, as it was."
    ]
    assert "(line 2)" not in said_of(translation) and "hf_secret" not in said_of(translation)
    assert [(one.line, one.key) for one in translation.dropped] == [(2, "env")]
    assert translate("export MODEL=owner/model\n" + call)[1].to_do == []  # it is put in, and needed no more


def test_each_key_of_a_data_set_is_named_by_itself(translate):
    more = " --dataset_train_split train --dataset_config en --warmup_ratio 0.1"
    recipe, translation = translate(f"trl sft --model_name_or_path owner/model --dataset_name owner/rows{more}\n")
    assert set(translation.given) <= translation.told
    assert translation.origins["stages", "sft", "data", "split"] == "dataset_train_split (line 1)"
    assert translation.origins["stages", "sft", "data", "config"] == "dataset_config (line 1)"
    assert recipe.stage("sft").train["warmup_steps"] == 0.1
    steps, translation = translate(
        "trl sft --model_name_or_path a/b --dataset_name c/d --warmup_ratio 0.1 --warmup_steps 5\n"
    )
    assert steps.stage("sft").train["warmup_steps"] == 5 and "warmup_ratio" in {one.key for one in translation.dropped}


def test_a_base_in_four_bits_is_not_said_to_have_been_whole(translate):
    _, translation = translate("trl sft --model_name_or_path a/b --dataset_name c/d --use_peft --load_in_4bit\n")
    (said,) = (one for one in translation.means if one.startswith("dtype"))
    assert "what of the base is not kept in 4 bits" in said and "frozen base" not in said


def test_variables_of_the_file_are_put_in(translate):
    written = "python prepare.py --rows $ROWS\nMODEL=owner/model\nexport OUT=o; trl sft --model_name_or_path ${MODEL} --dataset_name a/b --output_dir $OUT/x\n"
    recipe, translation = translate(written)
    assert recipe.model.id == "owner/model" and translation.given["output_dir"] == "o/x"
