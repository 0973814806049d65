"""Keys of LLaMA-Factory, of Axolotl, of bitsandbytes, and of earlier versions of transformers and TRL: what they are here."""

from collections.abc import Callable
from fnmatch import fnmatchcase

from pipeline import stage
from pipeline.model.adapters import METHODS
from pipeline.recipe.owned import by_name

# By the key that says the same. One that begins with "data." is meant where it stands among a stage's data.
NEAREST = by_name(
    {
        "max_length": """cutoff_len sequence_len max_seq_length max_seq_len max_prompt_length max_target_length
            model_max_length""",
        "per_device_train_batch_size": """micro_batch_size batch_size train_batch_size mini_batch_size
            per_gpu_train_batch_size""",
        "evaluation.batch_size": "eval_batch_size per_gpu_eval_batch_size",
        "num_train_epochs": "num_epochs epochs num_train_epoch",
        "max_steps": "max_train_steps num_train_steps total_steps",
        "learning_rate": "lr",
        "lr_scheduler_type": "lr_scheduler scheduler",
        "lr_scheduler_kwargs": "cosine_min_lr_ratio min_lr_ratio cosine_constant_lr_ratio min_lr",
        "optim": "optimizer adafactor",
        "warmup_steps": "warmup_ratio",
        "max_grad_norm": "gradient_clipping max_norm clip_grad_norm",
        "train_sampling_strategy": "group_by_length",
        "packing": "sample_packing neat_packing",
        "padding_free": "batch_flattening",
        "beta": "pref_beta dpo_beta rl_beta",
        "loss_type": "pref_loss dpo_loss",
        "loss_weights": "rpo_alpha pref_ftx dpo_ftx",
        "label_smoothing": "dpo_label_smoothing pref_label_smoothing cdpo_label_smoothing",
        "use_weighting": "dpo_use_weighting",
        "neftune_noise_alpha": "noisy_embedding_alpha",
        "router_aux_loss_coef": "moe_aux_loss_coef",
        "use_liger_kernel": """enable_liger_kernel liger_rope liger_rms_norm liger_layer_norm liger_glu_activation
            liger_swiglu liger_cross_entropy liger_fused_linear_cross_entropy""",
        "gradient_checkpointing": "disable_gradient_checkpointing",
        "gradient_checkpointing_kwargs": "use_reentrant use_reentrant_gc",
        "eval_strategy": "evaluation_strategy evals_per_epoch",
        "save_strategy": "saves_per_epoch",
        "report_to": "use_wandb use_tensorboard use_mlflow use_comet use_swanlab use_trackio log_with",
        "run_name": "wandb_name wandb_run_name mlflow_run_name swanlab_run_name exp_name",
        "threads": "preprocessing_num_workers dataset_processes",
        "kl_coef": "init_kl_coef",
        "kl_target": "ppo_target target_kl",
        "num_ppo_epochs": "ppo_epochs",
        "num_mini_batches": "ppo_buffer_size",
        "normalize_reward": "ppo_score_norm use_score_scaling use_score_norm",
        "reward_clip": "score_clip",
        "whiten_rewards": "ppo_whiten_rewards",
        "adapter": "lora qlora peft peft_config lora_config",
        "adapter.layers": "freeze_trainable_layers num_layer_trainable",
        "adapter.r": "lora_rank lora_r rank",
        "adapter.lora_alpha": "alpha",
        "adapter.lora_dropout": "dropout",
        "adapter.target_modules": "lora_target lora_target_modules lora_target_linear oft_target",
        "adapter.fan_in_fan_out": "lora_fan_in_fan_out",
        "adapter.layers_to_transform": "lora_layers_to_transform peft_layers_to_transform",
        "adapter.use_dora": "peft_use_dora",
        "adapter.use_rslora": "peft_use_rslora",
        "adapter.init_lora_weights": "peft_init_lora_weights",
        "adapter.method": "finetuning_type",
        "model.id": """model_name_or_path model_name base_model hf_hub_id model_id model_path
            pretrained_model_name_or_path""",
        "model.config": "train_from_scratch",
        "model.revision": "model_revision revision_of_model",
        "model.dtype": """torch_dtype infer_dtype pure_bf16 bfloat16 float16 compute_dtype fp16_backend
            half_precision_backend fp16_opt_level""",
        "model.load_in_4bit": "quantization_bit quantization",
        "model.load_in_8bit": "quantization_bit=8 load_8bit",
        "model.attn_implementation": """flash_attn flash_attention sdp_attention eager_attention flex_attention
            xformers_attention""",
        "model.template": "chat_template chat_template_jinja",
        "model.pad_token": "special_tokens",
        "data.path": """dataset datasets dataset_name dataset_path dataset_dir train_file data_path train_dataset
            pretraining_dataset data.data_files data.file_name data.hf_hub_url data.ds""",
        "data.config": "dataset_config_name data.name data.subset",
        "data.split": "dataset_split train_split",
        "data.shape": "data.type data.formatting",
        "data.columns": """field_messages message_property_mappings message_field_role message_field_content
            field_instruction field_input field_output field_system field_chosen field_rejected""",
        "data.learn": "train_on_inputs train_on_prompt mask_history roles_to_train",
        "data.mixture": "mix_strategy interleave_probs",
        "data.held_out": """val_size val_set_size validation_split validation_split_percentage test_size eval_dataset
            test_datasets validation_file eval_file""",
        "data.max_rows": "max_samples max_train_samples num_samples",
        "data.on_too_long": "excess_length_strategy",
        "data.duplicates": "dataset_exact_deduplication",
        "evaluation.max_rows": "max_eval_samples",
        "evaluation.max_new_tokens": "eval_max_new_tokens eval_table_max_new_tokens generation_max_length",
        "evaluation.samples": "num_sample_generations eval_table_size",
        "policy": "adapter_name_or_path lora_model_dir sft_model_path",
        "reward": "reward_model reward_model_path reward_model_adapters",
        "reward_function": "reward_fn",
        "reward_functions": "reward_funcs",
        "num_generations": "num_return_sequences group_size rollout_n",
        "max_completion_length": "max_response_length",
    }
)

_SHARE = "epoch for once an epoch; or steps, and {}_steps, which below 1 is a share of all steps"
_SMOOTHED = "only with loss_type: robust, exo_pair, aot or aot_unpaired"
_ADDED = "loss_type: [sigmoid, sft], loss_weights: [1.0, {}]"


_LAST = "with method: freeze; the last layers alone, and not the first"


def _is_number(value: object) -> bool:
    return isinstance(value, int) and value >= 1


def _modules(value: object) -> str | None:
    """How target modules are written that were one text."""
    if not isinstance(value, str):
        return None
    names = [name.strip() for name in value.split(",")]
    return f"its value is {'all-linear' if value == 'all' else '[' + ', '.join(names) + ']'}"


def _weighed(value: object) -> str:
    return _ADDED.format(value if isinstance(value, int | float) else "its value")


# Where the other name also means another kind of value: what to write, said of the value that was given.
VALUES: dict[str, str | Callable[[object], str]] = {
    "warmup_ratio": "below 1 it is a share of all steps",
    "group_by_length": lambda value: f"its value is {'group_by_length, the default' if value else 'random'}",
    "max_samples": "there it is of each file, here of all rows of a stage",
    "dpo_label_smoothing": _SMOOTHED,
    "pref_label_smoothing": _SMOOTHED,
    "cdpo_label_smoothing": _SMOOTHED,
    "adafactor": "its value is adafactor",
    "quantization_bit": lambda value: (
        "its value is true" if value in (4, 8) else "true or false; a base is loaded whole, in 4 bit or in 8"
    ),
    "disable_gradient_checkpointing": "the opposite",
    "evals_per_epoch": _SHARE.format("eval"),
    "saves_per_epoch": _SHARE.format("save"),
    "lora_target_linear": "its value is all-linear",
    **dict.fromkeys(("lora_target", "oft_target", "lora_target_modules"), lambda value: _modules(value)),
    "finetuning_type": lambda value: f"adapter: {{method: {value}}}" if value in METHODS else None,
    **dict.fromkeys(
        ("freeze_trainable_layers", "num_layer_trainable"),
        lambda value: f"adapter: {{method: freeze, layers: {value}}}" if _is_number(value) else _LAST,
    ),
    "pure_bf16": "its value is bfloat16",
    "bfloat16": "its value is bfloat16",
    "float16": "its value is float16",
    "flash_attn": "such as flash_attention_2 or sdpa",
    "flash_attention": "its value is flash_attention_2",
    "sdp_attention": "its value is sdpa",
    "eager_attention": "its value is eager",
    "flex_attention": "its value is flex_attention",
    "xformers_attention": "such as flash_attention_2 or sdpa",
    "special_tokens": "the others come with the template",
    "train_on_inputs": "everything, where it was true",
    "train_on_prompt": "everything, where it was true",
    "mask_history": "last, where it was true",
    "dataset_exact_deduplication": "its value is drop",
    "rpo_alpha": _weighed,
    "pref_ftx": _weighed,
    "dpo_ftx": _weighed,
    "cosine_min_lr_ratio": "with lr_scheduler_type: cosine_with_min_lr",
    "min_lr_ratio": "with lr_scheduler_type: cosine_with_min_lr",
    "min_lr": "with lr_scheduler_type: cosine_with_min_lr",
    "use_reentrant": "a mapping, {use_reentrant: ...}",
    "use_reentrant_gc": "a mapping, {use_reentrant: ...}",
    "train_from_scratch": "with model.tokenizer; where model.id is named, training starts from that",
    "datasets": "several stand in data.mixture; their type is recognized, or named in data.shape",
    **dict.fromkeys(
        ("eval_dataset", "test_datasets", "validation_file", "eval_file"),
        "files are given to a stage, in its own data.held_out",
    ),
    **dict.fromkeys(
        ("use_wandb", "use_tensorboard", "use_mlflow", "use_comet", "use_swanlab", "use_trackio"),
        "its value is the tracker's name",
    ),
}

# Methods, by the names that others have for them: stages here, as far as there are such, or losses of one.
_STAGES = by_name(
    {"pretrain": "pt", "reward": "rm reward_modeling", "dpo": "ipo hinge", "kto": "kto_pair", "simpo": "cpo"}
)
_METHODS = {name: name for name in "pretrain sft reward dpo kto orpo simpo grpo rloo ppo".split()} | _STAGES
_LOSSES = ("ipo", "hinge")
# Keys whose value is a method.
_NAME_A_METHOD = ("rl", "stage", "training_stage", "pref_loss", "dpo_loss")

_FOUR_BIT = "a 4-bit base is NF4 with double quantization, computed in model.dtype"

# What to say of names, or patterns of them, that nothing here corresponds to.
_ANSWERS = by_name(
    {
        "is not needed: a stage stands by its name under stages, such as stages.dpo": "stage rl training_stage",
        "is not needed: nothing is ever overwritten; --fresh (FRESH=1) trains another attempt beside the first": """
            overwrite_output_dir""",
        "is not needed: every logged loss stands in log.jsonl in the artifact's folder": "plot_loss",
        "is not set in a recipe: what is logged goes into log.jsonl in the artifact's folder": "logging_dir",
        "is not set in a recipe: trackers read their settings from the environment, such as WANDB_PROJECT": """
            wandb_* mlflow_* hf_mlflow_* comet_* swanlab_* tensorboard_* clearml_* neptune_*""",
        "is not set in a recipe: an 8-bit base is LLM.int8 with its own threshold; set model.load_in_8bit: true": """
            llm_int8_*""",
        f"is not set in a recipe: {_FOUR_BIT}; set model.load_in_4bit: true": """bnb_4bit_* quantization_method
            quantization_type double_quantization quantization_config bnb_config bnb_config_kwargs
            qlora_sharded_model_loading""",
        "is not there: a base is loaded whole, in 4 bit (model.load_in_4bit) or in 8 (load_in_8bit)": "gptq gptq_* awq hqq fp8 fp8_* qat qat_*",
        "is not set in a recipe: the pipeline places the model on its device itself": """device device_map max_memory
            low_cpu_mem_usage offload_folder offload_state_dict gpu_memory_limit lora_on_cpu quantization_device_map
            no_cuda use_mps_device use_ipex""",
        "is not set in a recipe: a stage trains in one process, on one device": """fsdp_* deepspeed_* ddp zero_stage
            num_processes num_gpus nproc_per_node ray_* use_ray placement_strategy resources_per_worker
            sequence_parallel_* context_parallel_size tensor_parallel_size dp_shard_size dp_replicate_size tpu_*
            mp_parameters sharded_ddp heads_k_stride""",
        "is not set in a recipe: set HF_HOME in the environment": "cache_dir",
        "is not set in a recipe: log in with `hf auth login`, or set HF_TOKEN in the environment": """token hf_token
            use_auth_token hf_use_auth_token hf_hub_token ms_hub_token om_hub_token""",
        "is not set in a recipe: nothing is uploaded": """push_to_hub_* push_dataset_to_hub""",
        "is not set in a recipe: the tokenizer is the model's own": """tokenizer_type tokenizer_config tokenizer_name
            tokenizer_name_or_path tokenizer_use_fast tokenizer_legacy tokenizer_use_mistral_common use_fast_tokenizer
            use_fast processing_class""",
        "is not set in a recipe: the model says it itself": """model_type config_name base_model_config is_*_derived_model
            rope_scaling rope_theta overrides_of_model_config overrides_of_model_kwargs architectures""",
        "is not set in a recipe: the tokens that the template needs are added and trained with the adapter": """tokens
            add_tokens add_special_tokens new_special_tokens added_tokens_overrides resize_vocab eot_tokens
            resize_token_embeddings_* mean_resizing_embeddings shrink_embeddings split_special_tokens""",
        "is not set in a recipe: the pipeline sets PEFT's modules_to_save for the score head": """additional_target
            lora_modules_to_save""",
        "is not needed: prepared rows are kept under --runs, and made again where anything changed": """overwrite_cache
            dataset_prepared_path tokenized_path dataset_keep_in_memory preprocessing_batch_size skip_prepare_dataset
            data_shared_file_system keep_in_memory dataset_batch_size""",
        "is not set in a recipe: rows come in one fixed order, for a resume to be exact": """shuffle disable_shuffling
            shuffle_merged_datasets shuffle_before_merging_datasets buffer_size dispatch_batches split_batches""",
        "is not set in a recipe: the kind of the rows decides which tokens are learned; see data.learn": """
            response_template instruction_template mask_prompt train_on_completions_only""",
        "is not set in a recipe: the pipeline prepares and pads the rows itself": """formatting_func data_collator
            label_pad_token_id ignore_pad_token_for_loss padding_value padding_side truncation_side padding truncation
            use_logits_to_keep chars_per_token num_of_sequences pad_to_sequence_len
            sample_packing_* eval_sample_packing multipack_real_batches pretrain_multipack_*""",
        "is not set in a recipe: a row has its own system prompt, and the template writes it": """default_system
            default_system_message""",
        "is not set in a recipe: the template decides it": "tool_format enable_thinking",
        "is not there: models of text alone are trained": """image_* video_* audio_* media_dir processor_type
            freeze_vision_tower freeze_multi_modal_projector train_mm_proj_only""",
        "is not set in a recipe: held-out prompts are answered greedily; see evaluation": """predict_with_generate do_sample
            num_beams eval_num_beams length_penalty
            generation_num_beams generation_config""",
        "is not needed: every stage is measured before and after; see evaluation": """compute_accuracy compute_metrics
            eval_causal_lm_metrics do_causal_lm_eval do_bench_eval bench_* eval_on_each_dataset""",
        "is not needed: tokens per second are always shown": """include_tokens_per_second
            include_effective_tokens_per_second""",
        "is not needed: weights are always saved as safetensors": "save_safetensors",
        "is not needed: resuming is automatic": "auto_resume_from_checkpoints resume",
        "is not needed: every key is checked": "strict",
        "is not needed: a stage always trains a copy of the incoming adapter": "create_new_adapter",
        "is not needed: an answer is always learned through the stop token behind it; see data.learn for which answers": """
            train_on_eos train_on_eot""",
        "is not there: the last weights are the artifact, and evaluation never steers the training": """
            early_stopping_* loss_watchdog_* save_best_*""",
        "is not set in a recipe: the reference is the incoming policy and stays frozen": """ref_model ref_model_*
            reference_model reference_free force_use_ref_model model_adapter_name ref_adapter_name""",
        "is not set in a recipe: the reward model is an adapter on the policy's own base": """reward_model_type
            reward_model_quantization_bit""",
        "is not set in a recipe: a response ends with the template's EOS token": "stop_token stop_token_id stop_strings",
        "is not set for every stage; give it as stages.kto.train.desirable_weight": "kto_chosen_weight kto_desirable_weight",
        "is not set for every stage; give it as stages.kto.train.undesirable_weight": """kto_rejected_weight
            kto_undesirable_weight""",
        "is not set for every stage; give it as stages.orpo.train.beta": "orpo_alpha orpo_beta",
        "is not there: no stage has such a loss": "pref_bco_weight",
        "is not there: a stage trains one adapter, or every weight (adapter.method)": """use_llama_pro mixture_of_depths shift_attn
            s2_attention relora relora_*""",
        "is not there: whole layers are trained, the last ones; write adapter: {method: freeze, layers: 2}": """
            freeze_trainable_modules freeze_extra_modules unfrozen_parameters""",
        "is not set here; set adapter.oft_block_size instead: the rank follows from it": "oft_rank",
        "is not set here; set adapter.init_lora_weights: pissa (or pissa_niter_16), which is left as a plain LoRA": "pissa_*",
        "is not there: adapters of embeddings learn at train.learning_rate": "loraplus_lr_embedding",
        "is not there: train.optim names the optimizers that there are": """use_galore galore_* use_apollo
            apollo_* use_badam badam_* use_adam_mini use_muon use_mca embedding_lr embedding_lr_scale lr_groups
            lr_quadratic_warmup""",
        "is not set here; set use_unsloth instead": """use_unsloth_gc unsloth_* lora_mlp_kernel lora_qkv_kernel
            lora_o_kernel lora_embedding_kernel""",
        "is not set in a recipe: what is not an adapter is in model.dtype, adapters train in float32": """
            upcast_layernorm upcast_lmhead_output cast_*""",
        "is not set in a recipe: evaluation runs the very model that was trained": "infer_backend sglang_*",
        "is not there: there are no plugins; train.use_liger_kernel and use_unsloth choose other kernels": """plugins
            flash_attn_* flash_optimum""",
        "is no section of a recipe: fields of TRL's configs stand under train": """trl training_args training_arguments
            trainer_args sft_config dpo_config""",
        "is no field of transformers any more": """past_index jit_mode_eval torchdynamo ray_scope xpu_backend
            include_inputs_for_metrics better_transformer""",
    }
)


def nearest_key(key: str, section: str, value: object = None) -> str:
    """The key that says the same, with its section where it has to be another; else the key itself."""
    return NEAREST.get(f"{key}={value}") or NEAREST.get(f"{section}.{key}") or NEAREST.get(key, key)


def is_known(key: str) -> bool:
    """Whether it is a key of another tool."""
    return key in NEAREST or answer(key) is not None


def answer(key: str) -> str | None:
    """What to say of a key that nothing here corresponds to; None where it is not known."""
    return next((what for name, what in _ANSWERS.items() if fnmatchcase(key, name)), None)


def note(key: str, value: object) -> str | None:
    """What to write instead of a value, where the key that says the same takes another one."""
    said = VALUES.get(key)
    return said(value) if callable(said) else said


def method_of(key: str, value: object) -> str | None:
    """What to say of a key whose value names a method; None where it does not, or the method is not known."""
    word = value.lower() if isinstance(value, str) else ""
    if key not in _NAME_A_METHOD or word not in _METHODS:
        return None
    meant = _METHODS[word]
    if meant not in stage.specs():
        return f"is not there: no stage is {word} (there are {', '.join(stage.specs())})"
    loss = f", with train.loss_type: {word}" if word in _LOSSES else ""
    return f"is not needed: a stage stands by its name under stages, here as stages.{meant}{loss}"


def loss_meant(word: str) -> str | None:
    """What to say of a loss that is a method of its own; None where it is none."""
    if word not in _METHODS or word in _LOSSES:
        return None
    if word == "dpo":
        return "must be one of its losses; that of DPO's own paper is sigmoid"
    meant = _METHODS[word]
    there = f"stages.{meant}" if meant in stage.specs() else f"no stage (there are {', '.join(stage.specs())})"
    return f"{word} is no loss here but a method of its own, and that is {there}"
