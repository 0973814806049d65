"""Recipes of other tools, put in as they are: every key gets the one that says it here, or the reason why there is none."""

from fnmatch import fnmatchcase

import pytest

from pipeline.data.source import Data
from pipeline.recipe import foreign
from pipeline.recipe.fields import fields_of
from pipeline.recipe.owned import OWNED
from pipeline.recipe.problem import RecipeError
from pipeline.recipe.reading import load_recipe
from pipeline.recipe.unknown import sections
from pipeline.stage import specs

# What the answer has to say, and of which keys: those of LLaMA-Factory, Axolotl, and of tutorials' TrainingArguments,
# LoraConfig and BitsAndBytesConfig, at the top level, where the first two have them all.
AT_THE_TOP = {
    "mean model.id?": "model_name_or_path base_model pretrained_model_name_or_path",
    "set model.trust_remote_code instead": "trust_remote_code",
    "mean model.dtype? (its value is bfloat16)": "pure_bf16 bfloat16",
    "mean model.dtype?": "torch_dtype infer_dtype",
    "set model.dtype (float32, bfloat16 or float16) instead": "bf16 fp16",
    "mean model.load_in_4bit?": "quantization_bit load_in_4bit",
    "mean model.load_in_8bit?": "load_in_8bit",
    "set model.load_in_8bit: true": "llm_int8_threshold",
    "NF4 with double quantization, computed in model.dtype": """bnb_4bit_quant_type bnb_4bit_compute_dtype
        bnb_4bit_use_double_quant quantization_method double_quantization""",
    "mean model.attn_implementation?": "flash_attn sdp_attention xformers_attention",
    "(its value is flash_attention_2)": "flash_attention",
    "mean model.template?": "template chat_template",
    "mean model.pad_token?": "special_tokens",
    "the model says it itself": "model_type is_llama_derived_model",
    "config.json is taken as it is": "rope_scaling",
    "the tokenizer is the model's own": "tokenizer_type use_fast_tokenizer",
    "places the model on its device itself": "device_map low_cpu_mem_usage no_cuda",
    "set HF_HOME in the environment": "cache_dir",
    "HF_TOKEN in the environment": "hf_hub_token use_auth_token",
    "a stage stands by its name under stages": "stage rl",
    "name the stages to run on the command line": "do_train",
    "held-out rows are measured before and after every stage": "do_eval do_predict",
    "mean adapter.method?": "finetuning_type",
    "mean adapter.layers?": "freeze_trainable_layers",
    "mean adapter.r?": "lora_rank lora_r",
    "mean adapter.target_modules?": "lora_target lora_target_modules target_modules",
    "(its value is all-linear)": "lora_target_linear",
    "mean adapter.lora_alpha?": "lora_alpha",
    "mean adapter.lora_dropout?": "lora_dropout",
    "mean adapter.bias?": "bias",
    "mean adapter?": "peft_config",
    "the stage decides what is adapted": "task_type",
    "score head": "modules_to_save",
    "an adapter trains no whole modules beside itself": "lora_modules_to_save additional_target",
    "mean stages.<stage>.policy?": "adapter_name_or_path lora_model_dir",
    "mean stages.<stage>.reward?": "reward_model",
    "the policy's own base": "reward_model_type reward_model_quantization_bit",
    "the reference is the incoming policy": "ref_model ref_model_adapters",
    "a stage trains one adapter, or every weight": "use_llama_pro",
    "write adapter: {method: freeze, layers: 2}": "unfrozen_parameters freeze_trainable_modules",
    "set adapter.init_lora_weights: pissa": "pissa_init pissa_convert",
    "mean stages.<stage>.data.path?": "dataset datasets dataset_dir pretraining_dataset train_file",
    "mean data.max_rows?": "max_train_samples",
    "mean data.max_rows? (there it is of each file, here of all rows of a stage)": "max_samples",
    "mean evaluation.max_rows?": "max_eval_samples",
    "mean data.held_out?": "val_size val_set_size validation_split",
    "files are given to a stage": "eval_dataset test_datasets validation_file",
    "mean data.on_too_long?": "excess_length_strategy",
    "mean data.duplicates?": "dataset_exact_deduplication",
    "mean stages.<stage>.data.learn?": "train_on_prompt train_on_inputs mask_history",
    "learned through the stop token behind it": "train_on_eos",
    "see data.learn": "response_template completion_only_loss",
    "set data.columns: {text: its name} instead, or nothing where it is text": "dataset_text_field",
    "prepared rows are kept": "overwrite_cache tokenized_path dataset_prepared_path",
    "one fixed order": "shuffle_merged_datasets disable_shuffling dispatch_batches",
    "prepares and pads the rows itself": "pad_to_sequence_len eval_sample_packing data_collator padding_side",
    "prepares the columns": "remove_unused_columns",
    "mean stages.<stage>.train.packing?": "packing sample_packing neat_packing",
    "mean train.max_length?": "cutoff_len sequence_len max_seq_length max_prompt_length",
    "--runs": "output_dir",
    "nothing is ever overwritten": "overwrite_output_dir",
    "log.jsonl": "plot_loss logging_dir",
    "mean train.project?": "wandb_project",
    "W&B reads it from the environment": "wandb_entity wandb_watch wandb_log_model",
    "such as WANDB_PROJECT": "mlflow_tracking_uri swanlab_project",
    "mean train.run_name?": "wandb_name run_name",
    "mean train.report_to?": "report_to use_wandb",
    "mean train.logging_steps?": "logging_steps",
    "mean train.save_steps?": "save_steps",
    "mean train.save_strategy? (epoch for once an epoch": "saves_per_epoch",
    "mean train.eval_steps?": "eval_steps",
    "mean train.eval_strategy? (epoch for once an epoch": "evals_per_epoch",
    "mean train.eval_strategy?": "evaluation_strategy eval_strategy",
    "resuming is automatic": "resume_from_checkpoint auto_resume_from_checkpoints",
    "nothing is uploaded": "push_to_hub hub_model_id hub_token",
    "set keep: {best: a figure} in the stage": "load_best_model_at_end metric_for_best_model save_best_checkpoint",
    "keep: {best: a figure} in the stage keeps the best step": "early_stopping_patience loss_watchdog_threshold",
    "mean train.per_device_train_batch_size?": "per_device_train_batch_size micro_batch_size",
    "mean train.gradient_accumulation_steps?": "gradient_accumulation_steps",
    "mean train.learning_rate?": "learning_rate lr",
    "mean train.num_train_epochs?": "num_train_epochs num_epochs",
    "mean train.lr_scheduler_type?": "lr_scheduler_type lr_scheduler",
    "mean train.warmup_steps? (below 1": "warmup_ratio",
    "mean train.optim?": "optim optimizer",
    "train.optim names the optimizers": "use_galore galore_layerwise use_badam badam_mode",
    "did you mean adapter.loraplus_lr_ratio?": "loraplus_lr_ratio",
    "embeddings learn at train.learning_rate": "loraplus_lr_embedding",
    "mean train.train_sampling_strategy?": "group_by_length",
    "mean train.gradient_checkpointing?": "gradient_checkpointing",
    "mean train.gradient_checkpointing_kwargs?": "use_reentrant_gc gradient_checkpointing_kwargs",
    "mean train.use_liger_kernel?": "enable_liger_kernel liger_rope",
    "mean threads?": "preprocessing_num_workers dataset_processes",
    "as many threads as the recipe's top-level threads": "dataset_num_proc",
    "said by launch": "ddp_timeout deepspeed fsdp fsdp_config local_rank ray_run_name",
    "set the recipe's top-level seed instead": "data_seed",
    "set use_unsloth instead": "lora_mlp_kernel use_unsloth_gc",
    "mean stages.<stage>.train.beta?": "pref_beta rl_beta",
    "mean stages.<stage>.train.loss_type?": "pref_loss",
    "mean stages.<stage>.train.loss_weights? (loss_type: [sigmoid, sft], loss_weights: [1.0, 1])": "rpo_alpha pref_ftx",
    "(only with loss_type: robust, exo_pair, aot or aot_unpaired)": "dpo_label_smoothing pref_label_smoothing",
    "[sigmoid, bco_pair] with loss_weights": "pref_bco_weight",
    "stages.kto.train.desirable_weight": "kto_chosen_weight",
    "stages.orpo.train.beta": "orpo_alpha",
    "mean stages.<stage>.train.simpo_gamma?": "simpo_gamma",
    "mean stages.<stage>.train.num_ppo_epochs?": "ppo_epochs",
    "mean stages.<stage>.train.kl_coef?": "init_kl_coef",
    "answered greedily": "predict_with_generate do_sample num_beams",
    "mean stages.<stage>.train.top_p?": "top_p",
    "mean stages.<stage>.train.use_vllm?": "use_vllm",
    "mean stages.<stage>.train.num_generations?": "num_generations num_return_sequences",
    "mean stages.<stage>.train.max_completion_length?": "max_completion_length",
    "mean stages.<stage>.reward_functions?": "reward_funcs",
    "set weight beside each of reward_functions instead": "reward_weights",
    "measured before and after": "compute_accuracy",
    "mean evaluation.max_new_tokens?": "max_new_tokens eval_max_new_tokens",
    "every key is checked": "strict",
    "models of text alone": "image_max_pixels video_max_pixels",
    "there are no plugins": "plugins flash_attn_cross_entropy",
}

WITHIN = [
    ("data", "type: alpaca", "did you mean shape?"),
    ("data", "name: default", "did you mean config?"),
    ("data", "data_files: x", "did you mean path?"),
    ("data", "field_messages: x", "did you mean columns?"),
    ("data", "max_samples: 3", "did you mean max_rows?"),
    ("data", "val_set_size: 0.1", "did you mean held_out?"),
    ("train", "validation_split: 0.1", "did you mean stages.dpo.data.held_out?"),
    ("train", "max_samples: 3", "did you mean stages.dpo.data.max_rows?"),
    ("train", "sample_packing: true", "did you mean stages.pretrain.train.packing or stages.sft.train.packing?"),
    ("train", "bf16: true", "is not set here; set model.dtype (float32, bfloat16 or float16) instead"),
    ("train", "plot_loss: true", "log.jsonl"),
    ("train", "lora_r: 8", "did you mean adapter.r?"),
    ("train", "task_type: CAUSAL_LM", "is not set in a recipe: the stage decides"),
]


def problems(folder, text: str) -> list[str]:
    (file := folder / "my.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    return [problem.removeprefix(f"{file}:") for problem in caught.value.problems]


def test_every_key_of_another_tool_is_answered(tmp_path):
    expected = [(key, words) for words, keys in AT_THE_TOP.items() for key in keys.split()]
    text = "".join(f"{key}: 1\n" for key, _ in expected)
    found = problems(tmp_path, f"{text}model: {{id: m}}\nstages: {{sft: {{data: {{path: c}}}}}}\n")
    assert len(found) == len(expected) == len(dict(expected))
    for line, ((key, words), said) in enumerate(zip(expected, found, strict=True), 1):
        assert said.startswith(f"{line}: {key}: ") and words in said, (key, words, said)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("group_by_length: false", "(its value is random)"),
        ("group_by_length: true", "(its value is group_by_length, the default)"),
        ("group_by_length:", "is empty, and no key of a recipe; leave it out"),
        ("deepspeed:", "is empty, and no key of a recipe; leave it out"),
        ("rl:", "is empty, and no key of a recipe; leave it out"),
        ("rl: dpo", "a stage stands by its name under stages, here as stages.dpo"),
        ("rl: ipo", "here as stages.dpo, with train.loss_type: ipo"),
        ("stage: rm", "here as stages.reward"),
        ("pref_loss: sigmoid", "mean stages.<stage>.train.loss_type?"),
    ],
)
def test_what_is_said_of_a_key_depends_on_its_value(tmp_path, written, words):
    (said,) = problems(tmp_path, f"{written}\nmodel: {{id: m}}\nstages: {{sft: {{data: {{path: c}}}}}}\n")
    assert said.startswith(f"1: {written.partition(':')[0]}: ") and words in said


@pytest.mark.parametrize("written", ["rl: {}", "pref_loss: {}"])
@pytest.mark.parametrize("method", ["kto", "orpo", "simpo", "grpo"])
def test_a_method_of_another_tool_is_a_stage_or_is_not_there(tmp_path, written, method):
    (said,) = problems(
        tmp_path, f"{written.format(method)}\nmodel: {{id: m}}\nstages: {{sft: {{data: {{path: c}}}}}}\n"
    )
    assert (f"here as stages.{method}" if method in specs() else f"no stage is {method} (there are pretrain, ") in said


@pytest.mark.parametrize(("section", "key", "words"), WITHIN)
def test_a_key_of_another_tool_within_a_section(tmp_path, section, key, words):
    data, train = (f"path: c, {key}", "") if section == "data" else ("path: c", key)
    text = f"model: {{id: m}}\nstages: {{dpo: {{data: {{{data}}}, train: {{{train}}}}}}}\n"
    (said,) = problems(tmp_path, text)
    assert words in said


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (
            "adapter: qlora",
            'must be a mapping, not "qlora"; write adapter: {method: lora} and model: {load_in_4bit: true}',
        ),
        ("adapter: lora", 'must be a mapping, not "lora"; write adapter: {method: lora}'),
        ("adapter: full", 'must be a mapping, not "full"; write adapter: {method: full}'),
        ("adapter:", "leave it out for LoRA"),
        ("adapter: {target_modules: all}", "did you mean all-linear?"),
    ],
)
def test_an_adapter_as_others_write_it(tmp_path, written, said):
    (found,) = problems(tmp_path, f"{written}\nmodel: {{id: m}}\nstages: {{sft: {{data: {{path: c}}}}}}\n")
    assert found.startswith("1: adapter") and found.endswith(said)


def test_a_model_in_a_word(tmp_path):
    found = problems(tmp_path, "model: some/model\nstages: {sft: {data: {path: c}}}\n")
    assert found == ['1: model: must be a mapping, not "some/model"; write model: {id: some/model}']


def test_every_foreign_name_leads_to_a_key_and_is_none_itself():
    fields = {name for config in {spec.config for spec in specs().values()} for name in fields_of(config)}
    places = {section.rpartition(".")[2]: set(keys) for section, keys in sections().items()}
    places["data"] = set(Data.model_fields)
    words = foreign.words()
    for target in words.means.values():
        section, _, key = target.rpartition(".")
        known = places[section] if section else fields | places[""] | places["<stage>"]
        assert key in known, target
        assert section or key not in OWNED, target
    # In one stage a field, elsewhere the name that another tool has for something else.
    names = {name for name in words.means if "." not in name} - {"alpha"}
    own = fields | places[""] | set(fields_of("LoraConfig"))
    assert not names & own and not [
        name for name in own if any(fnmatchcase(name, one) for one in words.answers if "*" not in one)
    ]
    assert not names & words.answers.keys()
    assert words.values.keys() | foreign.BY_VALUE.keys() <= names
    assert not words.values.keys() & foreign.BY_VALUE.keys()
