"""Files of other tools as recipes: each loads, means the same numbers, and says of every key what became of it."""

import json
from pathlib import Path

import pytest
from conftest import refused

from pipeline.errors import PipelineError
from pipeline.recipe.problem import RecipeError
from pipeline.recipe.reading import load_recipe
from pipeline.start.from_another import report, text, translated
from pipeline.start.translation import REST

LORA = "finetuning_type: lora\nlora_rank: 8\nlora_target: all\n"
COMMON = """\
template: qwen
cutoff_len: 1024
preprocessing_num_workers: 16
output_dir: saves/mine
plot_loss: true
overwrite_output_dir: true
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
logging_steps: 10
save_steps: 500
report_to: none
resume_from_checkpoint: null
"""
BASE = "model_name_or_path: Qwen/Qwen2.5-0.5B-Instruct\ntrust_remote_code: true\ndo_train: true\n"
LLAMA_FACTORY = {
    "sft": BASE + LORA + COMMON + "stage: sft\ndataset: identity,chat\n",
    "pretrain": BASE + LORA + COMMON + "stage: pt\ndataset: texts\n",
    "reward": BASE + LORA + COMMON + "stage: rm\ndataset: pairs\n",
    "dpo": BASE + LORA + COMMON + "stage: dpo\ndataset: pairs\npref_beta: 0.2\npref_loss: ipo\npref_ftx: 0.5\n",
    "orpo": BASE + LORA + COMMON + "stage: dpo\ndataset: pairs\npref_loss: orpo\n",
    "simpo": BASE + LORA + COMMON + "stage: dpo\ndataset: pairs\npref_loss: simpo\nsimpo_gamma: 0.4\n",
    "kto": BASE + LORA + COMMON + "stage: kto\ndataset: labeled\nkto_chosen_weight: 0.5\n",
    "full": BASE
    + COMMON
    + "stage: sft\nfinetuning_type: full\ndeepspeed: ds_z3.json\nlora_rank: 8\ndataset: identity\n",
    "qlora": BASE + LORA + COMMON + "stage: sft\nquantization_bit: 4\nquantization_method: bnb\ndataset: identity\n",
    "freeze": BASE + COMMON + "stage: sft\nfinetuning_type: freeze\nfreeze_trainable_layers: 3\ndataset: identity\n",
}
INFO = {
    "identity": {"file_name": "identity.json"},
    "chat": {"file_name": "chat.json", "formatting": "sharegpt", "columns": {"messages": "talk", "tools": "tools"}},
    "texts": {"file_name": "texts.json", "columns": {"prompt": "text"}},
    "pairs": {
        "hf_hub_url": "owner/pairs",
        "subset": "en",
        "ranking": True,
        "columns": {"prompt": "ask", "query": "input"},
    },
    "labeled": {
        "file_name": "labeled.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "kto_tag": "good"},
    },
}
AXOLOTL_BASE = """\
base_model: NousResearch/Llama-3.2-1B
val_set_size: 0.1
output_dir: ./outputs
sequence_len: 2048
gradient_accumulation_steps: 2
micro_batch_size: 2
num_epochs: 2
optimizer: adamw_torch_fused
lr_scheduler: cosine
learning_rate: 0.0002
bf16: auto
tf32: false
gradient_checkpointing: true
logging_steps: 1
flash_attention: true
warmup_ratio: 0.1
evals_per_epoch: 4
saves_per_epoch: 1
weight_decay: 0.0
wandb_project:
special_tokens:
  pad_token: "<|end_of_text|>"
"""
ADAPTER = "lora_r: 16\nlora_alpha: 32\nlora_dropout: 0.05\nlora_target_linear: true\n"
CHAT = "datasets:\n  - path: owner/chat\n    type: chat_template\n    field_messages: talk\n"
PAIRS = "datasets:\n  - path: owner/pairs\n    type: chatml.intel\n    split: train\n"
AXOLOTL = {
    "lora": AXOLOTL_BASE + ADAPTER + CHAT + "adapter: lora\nsample_packing: true\nchat_template: llama3\n",
    "qlora": AXOLOTL_BASE + ADAPTER + CHAT + "adapter: qlora\nload_in_4bit: true\nload_in_8bit: false\n",
    "full": AXOLOTL_BASE + CHAT + "adapter:\n",
    "dpo": AXOLOTL_BASE + ADAPTER + PAIRS + "adapter: lora\nrl: dpo\nrl_beta: 0.2\n",
    "kto": AXOLOTL_BASE + ADAPTER + PAIRS + "adapter: lora\nrl: kto\nkto_desirable_weight: 0.2\n",
    "orpo": AXOLOTL_BASE + ADAPTER + PAIRS + "adapter: lora\nrl: orpo\norpo_alpha: 0.3\n",
    "reward": AXOLOTL_BASE + ADAPTER + PAIRS + "adapter: lora\nreward_model: true\n",
    "texts": AXOLOTL_BASE + ADAPTER + "adapter: lora\ndatasets:\n  - path: notes.txt\n    type: completion\n",
}
EVERY = [("llama", name) for name in LLAMA_FACTORY] + [("axolotl", name) for name in AXOLOTL]


@pytest.fixture
def translate(tmp_path, monkeypatch):
    """The recipe of a file's text, and the translation."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(INFO))

    def made(written: str):
        source, to = tmp_path / "theirs.yaml", tmp_path / "ours.yaml"
        source.write_text(written)
        translation = translated(source)
        to.write_text(text([translation], "align init --from theirs.yaml", to))
        return load_recipe(to), translation

    return made


def written(tool: str, name: str) -> str:
    return {"llama": LLAMA_FACTORY, "axolotl": AXOLOTL}[tool][name]


@pytest.mark.parametrize(("tool", "name"), EVERY)
def test_every_usual_file_becomes_a_recipe_that_loads_with_nothing_unsaid(translate, tool, name):
    recipe, translation = translate(written(tool, name))
    recipe.resolved()
    assert set(translation.given) <= translation.told
    assert not any(one.why == REST for one in translation.dropped)


@pytest.mark.parametrize("both", ["packing: true\nneat_packing: true\n", "packing: true\nneat_packing: false\n"])
def test_keys_that_say_one_thing_together_are_both_named(translate, both):
    recipe, translation = translate(LLAMA_FACTORY["sft"] + both)
    assert recipe.stage("sft").train["packing"] is True
    assert "packing, neat_packing (line 28)" in translation.origins.values()
    said = dict(report(translation))["What was taken over"]
    assert any(line.startswith("packing: true, neat_packing: ") for line in said)


def test_no_key_goes_without_a_word(translate):
    """Also those that were only looked at beside others."""
    more = "eval_dataset: pairs\nval_size: 0\npure_bf16: true\ninterleave_probs: 0.5,0.5\n"
    _, translation = translate(LLAMA_FACTORY["sft"] + more)
    assert set(translation.given) <= translation.told
    assert [one.key for one in translation.dropped if one.why == REST] == ["val_size", "pure_bf16"]


def test_so_many_rows_of_each_data_set_are_still_to_do(translate):
    recipe, translation = translate(LLAMA_FACTORY["sft"] + "max_samples: 60\n")
    assert recipe.stage("sft").data.max_rows == 120
    assert any("max_samples: 60 of each of 2 data sets there" in one for one in translation.to_do)
    assert not translate(LLAMA_FACTORY["dpo"] + "max_samples: 60\n")[1].to_do


def test_another_tools_file_given_as_a_recipe_is_called_so_alone(tmp_path):
    for tool, written in (("LLaMA-Factory", LLAMA_FACTORY["sft"]), ("Axolotl", AXOLOTL["lora"])):
        (file := tmp_path / "theirs.yaml").write_text(written)
        with pytest.raises(RecipeError) as error:
            load_recipe(file)
        assert error.value.problems == (f"{file}: is a training file of {tool}, and no recipe.",)
        assert f"align init --from {file}" in error.value.fix


def test_what_does_not_go_together_here_is_mended_in_their_file(tmp_path):
    (tmp_path / "theirs.yaml").write_text(LLAMA_FACTORY["freeze"] + "quantization_bit: 4\n")
    said = refused(tmp_path, "init", "mine.yaml", "--from", "theirs.yaml")
    assert "none was written" in said and "Mend theirs.yaml." in said and not (tmp_path / "mine.yaml").exists()


@pytest.mark.parametrize(("tool", "name"), EVERY)
def test_the_numbers_are_theirs(translate, tool, name):
    recipe, _ = translate(written(tool, name))
    (stage,) = recipe.stages
    train = recipe.stage(stage).train
    rows = train["per_device_train_batch_size"] * train["gradient_accumulation_steps"]
    assert rows == (8 if tool == "llama" else 4)
    assert train["learning_rate"] == (1e-4 if tool == "llama" else 2e-4)
    assert train["max_length"] == (1024 if tool == "llama" else 2048)
    # LLaMA-Factory trains weights themselves in float32, whatever the arithmetic.
    whole = tool == "llama" and name in ("full", "freeze")
    assert train["warmup_steps"] == 0.1 and recipe.model.dtype == ("float32" if whole else "bfloat16")


def test_llama_factory_data_sets_come_from_their_dataset_info(translate):
    recipe, _ = translate(LLAMA_FACTORY["sft"])
    first, second = recipe.stage("sft").data.parts
    assert (first.path, second.path) == ("data/identity.json", "data/chat.json")
    assert second.columns == {"conversations": "talk"}
    pairs = translate(LLAMA_FACTORY["dpo"])[0].stage("dpo").data
    assert (pairs.path, pairs.config, pairs.split) == ("hub:owner/pairs", "en", "train")
    assert pairs.columns == {"instruction": "ask"}
    assert translate(LLAMA_FACTORY["kto"])[0].stage("kto").data.columns == {"label": "good"}
    assert translate(LLAMA_FACTORY["pretrain"])[0].stage("pretrain").data.columns == {}


def test_a_preference_loss_becomes_its_stage_or_its_loss(translate):
    dpo = translate(LLAMA_FACTORY["dpo"])[0].stage("dpo").train
    assert (dpo["beta"], dpo["loss_type"], dpo["loss_weights"]) == (0.2, ["ipo", "sft"], [1.0, 0.5])
    simpo = translate(LLAMA_FACTORY["simpo"])[0].stage("simpo").train
    assert (simpo["beta"], simpo["simpo_gamma"]) == (0.1, 0.4)  # 0.1 is their default, 2.0 is ours
    assert translate(AXOLOTL["orpo"])[0].stage("orpo").train["beta"] == 0.3
    assert translate(AXOLOTL["kto"])[0].stage("kto").train["desirable_weight"] == 0.2


def test_the_tuning_is_theirs(translate):
    assert translate(LLAMA_FACTORY["full"])[0].tuning("sft")["method"] == "full"
    assert translate(AXOLOTL["full"])[0].tuning("sft")["method"] == "full"
    assert translate(LLAMA_FACTORY["freeze"])[0].tuning("sft")["layers"] == 3
    lora = translate(LLAMA_FACTORY["qlora"])[0]
    assert lora.model.load_in_4bit and lora.tuning("sft")["lora_alpha"] == 16  # twice the rank, unless it is given
    assert translate(AXOLOTL["qlora"])[0].model.load_in_4bit


def test_a_quantized_base_without_an_adapter_is_told_and_not_loaded(translate):
    recipe, translation = translate(AXOLOTL["full"] + "load_in_8bit: true\n")
    assert recipe.model.bits is None and [one.key for one in translation.dropped if one.key == "load_in_8bit"]


def test_a_reference_that_was_the_base_is_said_to_be_another_here(translate):
    recipe, translation = translate(LLAMA_FACTORY["dpo"] + "adapter_name_or_path: saves/sft\n")
    assert recipe.stage("dpo").policy is None and any("saves/sft is not there" in one for one in translation.to_do)
    Path("saves/sft").mkdir(parents=True)
    recipe, translation = translate(LLAMA_FACTORY["dpo"] + "adapter_name_or_path: saves/sft\n")
    assert recipe.stage("dpo").policy == "saves/sft"
    assert any("reference" in one and "base" in one for one in translation.means)
    _, merged = translate(LLAMA_FACTORY["dpo"] + "adapter_name_or_path: saves/sft\ncreate_new_adapter: true\n")
    assert not any("reference" in one for one in merged.means)


def test_axolotls_shares_of_an_epoch_become_shares_of_all_steps(translate):
    train = translate(AXOLOTL["lora"])[0].stage("sft").train
    assert (train["eval_strategy"], train["eval_steps"], train["save_strategy"]) == ("steps", 0.125, "epoch")


def test_axolotls_columns_of_a_known_type_are_named(translate):
    assert translate(AXOLOTL["dpo"])[0].stage("dpo").data.columns == {"prompt": "question"}
    assert translate(AXOLOTL["lora"])[0].stage("sft").data.columns == {"messages": "talk"}


def test_a_key_that_nobody_knows_is_told_with_its_line(translate):
    _, translation = translate(LLAMA_FACTORY["sft"] + "brand_new_key: 3\n")
    said = [line for line in dict(report(translation))["Still to do"] if "brand_new_key" in line]
    assert said and said[0].startswith("line ") and "look it up" in said[0]


def test_what_trains_otherwise_when_it_is_left_out_is_still_to_do(translate):
    _, translation = translate(
        LLAMA_FACTORY["sft"] + "additional_target: embed_tokens\nlora_rnak: 4\nlora_dropout: five\n"
    )
    said = dict(report(translation))
    for key in ("additional_target", "lora_rnak", "lora_dropout"):
        assert any(f" {key}: " in line for line in said["Still to do"])
    assert any(" plot_loss: " in line for line in said["What was not taken over, and why"])


def test_a_value_that_no_field_takes_leaves_what_the_other_tool_does_unasked(translate):
    recipe, translation = translate(
        AXOLOTL["lora"].replace("lora_r: ", "lora_r: -").replace("lr_scheduler: cosine", "lr_scheduler: rex")
    )
    assert recipe.stage("sft").train["lr_scheduler_type"] == "cosine"
    assert recipe.stage("sft").adapter["r"] == 8
    assert any("lr_scheduler" in line for line in dict(report(translation))["Still to do"])


def test_rows_that_are_held_out_by_number_or_not_at_all_are_told(translate):
    said = {size: dict(report(translate(f"{LLAMA_FACTORY['kto']}val_size: {size}\n")[1])) for size in (0, 20)}
    assert any("val_size: 20: a number of rows" in line for line in said[20]["Still to do"])
    assert any("val_size: 0: none were held out there" in line for line in said[0]["What was not taken over, and why"])


def test_whole_weights_in_float32_leave_out_an_attention_that_cannot_take_them(translate):
    recipe, translation = translate(LLAMA_FACTORY["full"] + "flash_attn: fa2\n")
    assert recipe.model.dtype == "float32" and recipe.model.attn_implementation is None
    assert any("takes no float32" in line for line in dict(report(translation))["What was not taken over, and why"])


@pytest.mark.parametrize(
    "odd", ["pissa_init: true\npissa_iter: x\n", "pref_ftx: x\n", "flash_attn: [fa2]\n", "val_size: '0.1'\n"]
)
def test_an_odd_value_is_told_and_no_crash(translate, odd):
    translate(LLAMA_FACTORY["dpo"].replace("pref_ftx: 0.5\n", "") + odd)


def test_pissa_is_translated(translate):
    recipe, _ = translate(LLAMA_FACTORY["sft"] + "pissa_init: true\npissa_iter: -1\n")
    assert recipe.stage("sft").adapter["init_lora_weights"] == "pissa"


def test_axolotls_words_about_what_is_learned_and_in_which_bits(translate):
    written = (
        "base_model: base\nadapter: qlora\nlora_target_linear: true\ndatasets:\n- path: chat.jsonl\n  type: chat_template\n"
        "  roles_to_train: [user, assistant]\n  train_on_eos: last\n"
    )
    recipe, translation = translate(written)
    said = dict(report(translation))
    assert recipe.model.load_in_4bit and recipe.model.dtype == "bfloat16"  # bf16: auto
    assert any("refuses it without load_in_4bit" in line for line in said["What means something else here"])
    assert all(any(f": {key}: " in line for line in said["Still to do"]) for key in ("roles_to_train", "train_on_eos"))
    assert translate(written + "bf16: false\n")[0].model.dtype == "float32"


def test_a_field_that_would_do_nothing_is_taken_out_and_told(translate):
    recipe, translation = translate(LLAMA_FACTORY["sft"] + "eval_steps: 100\n")
    assert "eval_steps" not in recipe.stage("sft").train
    assert any(one.key == "eval_steps" and "eval_strategy" in one.why for one in translation.dropped)


def test_several_files_become_one_chain(translate, tmp_path):
    translate(LLAMA_FACTORY["sft"])
    (tmp_path / "sft.yaml").write_text(LLAMA_FACTORY["sft"])
    later = LLAMA_FACTORY["dpo"].replace("lora_rank: 8", "lora_rank: 16") + "adapter_name_or_path: saves/sft\n"
    (tmp_path / "dpo.yaml").write_text(later)
    both = [translated(tmp_path / name) for name in ("sft.yaml", "dpo.yaml")]
    (tmp_path / "chain.yaml").write_text(text(both, "align init", tmp_path / "chain.yaml"))
    recipe = load_recipe(tmp_path / "chain.yaml")
    assert recipe.name == "chain" and list(recipe.stages) == ["sft", "dpo"] and recipe.parent("dpo") == "sft"
    assert recipe.stage("dpo").policy is None and not any("saves/sft" in one for one in both[1].to_do)
    assert any("adapter.r is 16 here and 8 in sft.yaml" in one for one in both[1].to_do)
    with pytest.raises(PipelineError, match="is that of another file"):
        text(
            [translated(tmp_path / "sft.yaml"), translated(tmp_path / "sft.yaml")],
            "align init",
            tmp_path / "chain.yaml",
        )


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (BASE + "stage: ppo\ndataset: pairs\n", "stage: ppo is not translated"),
        (BASE + "stage: dpo\npref_loss: kto_pair\ndataset: pairs\n", "no stage has the loss kto_pair"),
        (BASE + "stage: sft\ndataset: identiti\n", "did you mean identity?"),
        (BASE + "stage: sft\n", "dataset is missing"),
        ("base_model: m/m\nrl: grpo\ndatasets: [{path: a/b}]\n", "rl: grpo is not translated"),
        ("stages: {}\n", "neither a file of LLaMA-Factory"),
        ("a: [\n", "not valid YAML"),
    ],
)
def test_what_cannot_be_translated_is_refused_with_its_line(translate, written, said):
    with pytest.raises(PipelineError) as error:
        translate(written)
    assert said in str(error.value)
    assert not Path("ours.yaml").exists()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("deepspeed: ds_z3_offload.json\n", "--strategy zero3, and launch.offload: cpu"),
        ("deepspeed: configs/zero2.json\n", "--strategy zero2."),
        ("deepspeed: mine.json\n", "a --strategy of zero1, zero2, zero3"),
        ("deepspeed: there.json\n", "--strategy zero1, with launch.deepspeed: there.json"),
        ("fsdp: [full_shard]\nfsdp_config: {offload_params: false}\n", "--strategy fsdp;"),
        ("fsdp:\nfsdp_config: '{\"offload_params\": true}'\n", "--strategy fsdp, and launch.offload: cpu"),
        ("deepspeed: nothing.json\n", "a --strategy of zero1"),
        ("fsdp_version: 2\nfsdp_config: {offload_params: true}\n", "--strategy fsdp, and launch.offload: cpu"),
    ],
)
def test_how_several_gpus_hold_a_model_is_still_to_do(translate, tmp_path, lines, said):
    (tmp_path / "there.json").write_text('{"zero_optimization": {"stage": 1}}')
    (tmp_path / "nothing.json").write_text('{"zero_optimization": null}')
    for theirs in (LLAMA_FACTORY["sft"], AXOLOTL_BASE + CHAT):
        translation = translate(theirs + lines)[1]
        told = [one for one in translation.to_do if "strategy" in one]
        assert len(told) == 1 and said in told[0]


def test_without_a_dataset_info_the_path_is_still_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("theirs.yaml").write_text(LLAMA_FACTORY["sft"])
    told = next(one for one in translated(Path("theirs.yaml")).to_do if "dataset_info.json was not found" in one)
    assert "so data.path is a guess: put the path of the rows there" in told
