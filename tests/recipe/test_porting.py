"""What users of LLaMA-Factory and of Axolotl have said of tuning, written into a recipe here: each word with its key."""

import pytest

LLAMA_FACTORY = [
    ("finetuning_type: lora", "adapter.method? (adapter: {method: lora})"),
    ("finetuning_type: full", "adapter.method? (adapter: {method: full})"),
    ("finetuning_type: freeze", "adapter.method? (adapter: {method: freeze})"),
    ("finetuning_type: oft", "adapter.method? (adapter: {method: oft})"),
    ("lora_rank: 8", "adapter.r?"),
    ("lora_alpha: 16", "adapter.lora_alpha?"),
    ("lora_dropout: 0.1", "adapter.lora_dropout?"),
    ("lora_target: all", "adapter.target_modules? (its value is all-linear)"),
    ("lora_target: q_proj, v_proj", "adapter.target_modules? (its value is [q_proj, v_proj])"),
    ("oft_target: all", "adapter.target_modules? (its value is all-linear)"),
    ("oft_block_size: 32", "adapter.oft_block_size?"),
    ("oft_rank: 8", "set adapter.oft_block_size instead"),
    ("additional_target: embed_tokens", "an adapter trains no whole modules beside itself"),
    ("freeze_trainable_layers: 2", "adapter.layers? (adapter: {method: freeze, layers: 2})"),
    ("freeze_trainable_layers: -2", "adapter.layers? (with method: freeze; the last layers alone, and not the first)"),
    ("freeze_trainable_modules: all", "write adapter: {method: freeze, layers: 2}"),
    ("freeze_extra_modules: norm", "write adapter: {method: freeze, layers: 2}"),
    ("quantization_bit: 4", "model.load_in_4bit? (its value is true)"),
    ("quantization_bit: 8", "model.load_in_8bit? (its value is true)"),
    ("use_dora: true", "adapter.use_dora?"),
    ("use_rslora: true", "adapter.use_rslora?"),
    ("create_new_adapter: true", "a stage always trains a copy of the incoming adapter"),
    ("pref_loss: sigmoid", "train.loss_type?"),
    ("pref_loss: hinge", "here as stages.dpo, with train.loss_type: hinge"),
    ("pref_loss: orpo", "here as stages.orpo"),
    ("pref_loss: simpo", "here as stages.simpo"),
    ("use_dft_loss: true", "train.loss_type? (its value is dft)"),
    ("export_dir: out", "make merge and make export write it in another form"),
    ("tensor_model_parallel_size: 2", "how many processes train is said by launch"),
    ("default_system: You are kind.", "one for all rows stands in a model.template of your own"),
    ("adapter: {finetuning_type: freeze}", "did you mean method? (adapter: {method: freeze})"),
    ("adapter: {method: freeze, freeze_trainable_layers: 2}", "did you mean layers?"),
    ("adapter: {method: full, lora_rank: 8}", "full tuning has no adapter"),
]
AXOLOTL = [
    ("adapter: lora", "write adapter: {method: lora}"),
    ("adapter: qlora", "write adapter: {method: lora} and model: {load_in_4bit: true}"),
    ("adapter: llama-adapter", "llama-adapter is not there; prefix, keys and values in each layer, comes nearest"),
    ("adapter: {method: llama-adapter}", "llama-adapter is not there; prefix"),
    ("lora_r: 8", "adapter.r?"),
    ("lora_target_linear: true", "adapter.target_modules? (its value is all-linear)"),
    ("lora_target_modules: [q_proj, v_proj]", "adapter.target_modules?"),
    ("lora_modules_to_save: [embed_tokens]", "an adapter trains no whole modules beside itself"),
    ("load_in_8bit: true", "model.load_in_8bit?"),
    ("load_in_4bit: true", "model.load_in_4bit?"),
    ("gptq: true", "in 4 bit (model.load_in_4bit) or in 8 (load_in_8bit)"),
    ("peft_use_dora: true", "adapter.use_dora?"),
    ("peft_use_rslora: true", "adapter.use_rslora?"),
    ("peft_layers_to_transform: [1]", "adapter.layers_to_transform?"),
    ("peft_init_lora_weights: gaussian", "adapter.init_lora_weights?"),
    ("unfrozen_parameters: [lm_head]", "write adapter: {method: freeze, layers: 2}"),
    ("lora_model_dir: out", "stages.<stage>.policy?"),
    ("rl: dpo", "here as stages.dpo"),
    ("adapter:", "write adapter: {method: full} to train every weight"),
    ("dpo_loss_type: [sigmoid, sft]", "train.loss_type?"),
    ("lora_rank_pattern: {q_proj: 4}", "adapter.rank_pattern?"),
    ("chunked_cross_entropy: true", "train.loss_type? (its value is chunked_nll"),
]


@pytest.mark.parametrize(("written", "said"), LLAMA_FACTORY + AXOLOTL)
def test_what_another_tool_calls_it_leads_to_our_key(problems, written, said):
    (found,) = problems(f"{written}\nmodel: {{id: m}}\nstages: {{sft: {{data: {{path: c}}}}}}\n")
    assert found.startswith("my.yaml:1: ") and said in found
