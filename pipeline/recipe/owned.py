"""Fields of TRL and PEFT that a recipe may not set, values that it may not give, and why."""

from collections.abc import Mapping


def by_name(names_by_meaning: Mapping[str, str]) -> dict[str, str]:
    """Each of the names with its meaning."""
    return {name: meaning for meaning, names in names_by_meaning.items() for name in names.split()}


def _owned(elsewhere: Mapping[str, str], reasons: Mapping[str, str]) -> dict[str, str]:
    """What to say of each name: sentences that are true wherever in a recipe it stands."""
    return by_name({f"is not set here; set {place} instead": names for place, names in elsewhere.items()}) | by_name(
        {f"is not set in a recipe: {reason}": names for reason, names in reasons.items()}
    )


# Fields that a recipe may not set, under the key that says it instead, or the reason its author is given.
OWNED = _owned(
    {
        "the recipe's top-level seed": "seed data_seed",
        "model.dtype (float32, bfloat16 or float16)": "bf16 fp16 bf16_full_eval fp16_full_eval",
        "data.columns": "dataset_text_field",
        "data.on_too_long": "truncation_mode",
        "model.template": "chat_template_path eos_token",
        "model.pad_token": "pad_token",
        "the keys under model": "model_init_kwargs",
        "model.trust_remote_code": "trust_remote_code",
        "weight beside each of reward_functions": "reward_weights",
        "vllm_importance_sampling_clip_max": "vllm_importance_sampling_cap",
    },
    {
        "what a stage trains goes into its artifact's folder, under the folder that --runs (RUNS=) names": "output_dir",
        "resuming is automatic": "resume_from_checkpoint restore_callback_states_from_checkpoint",
        "a resumed run would not be exact": "ignore_data_skip save_only_model",
        "rows come in one fixed order, for a resume to be exact": "dataloader_in_order accelerator_config",
        "the last weights are the artifact": "load_best_model_at_end metric_for_best_model greater_is_better",
        "nothing is uploaded": """push_to_hub hub_token hub_private_repo hub_model_id hub_strategy
            hub_always_push hub_revision log_completions_hub_repo""",
        "the pipeline prepares the columns": "remove_unused_columns label_names length_column_name",
        "the pipeline reads and tokenizes the rows; see data": "dataset_kwargs",
        "the kind of the rows decides which tokens are learned; see data.learn": """completion_only_loss
            assistant_only_loss""",
        "packed rows stay whole and apart from each other": "packing_strategy eval_packing",
        "the reference is the incoming policy and stays frozen": """sync_ref_model ref_model_mixup_alpha
            ref_model_sync_steps""",
        "the reference is asked about rows of like length together": "precompute_ref_batch_size",
        "a causal language model is trained": "is_encoder_decoder",
        "the held-out answers are kept in samples.jsonl": "generate_during_eval",
        "a stage trains in one process, on one device": """deepspeed fsdp fsdp_config parallelism_config
            local_rank ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph
            ddp_backend ddp_timeout ds3_gather_for_generation""",
        "the device is chosen when a stage runs": "use_cpu",
        "the batch size is part of what is trained": "auto_find_batch_size",
        "name the stages to run on the command line": "do_train do_eval do_predict",
        "the pipeline shows progress itself": "disable_tqdm",
        "a loss that is not a number has to be seen": "logging_nan_inf_filter",
        "held-out rows are measured by the pipeline; see evaluation": """per_device_eval_batch_size
            eval_accumulation_steps batch_eval_metrics prediction_loss_only eval_do_concat_batches
            eval_use_gather_object include_for_metrics num_generations_eval""",
        "answers to held-out prompts stand in samples.jsonl; see evaluation": """log_completions log_multimodal
            num_completions_to_print log_unique_prompts""",
        "the pipeline writes the prompts with the chat template": "chat_template_kwargs",
        "a response ends with the template's EOS token, and temperature and its like say how it is sampled": """
            generation_kwargs""",
        "it would cast the adapter, which trains in float32": """use_transformers_continuous_batching
            transformers_continuous_batching_config use_transformers_paged""",
        "what is not an adapter is in model.dtype": "cast_lm_head_to_fp32",
        "a policy calls no tools while it is trained": "max_tool_calling_iterations",
        "the pipeline measures memory itself": "skip_memory_metrics",
    },
)


ADAPTER_OWNED = _owned(
    {"model.id and model.revision": "base_model_name_or_path revision"},
    {
        "the stage decides what is adapted, and how": "task_type peft_type auto_mapping",
        "the policy is trained and the reference frozen": "inference_mode",
        "the pipeline sets it for the score head": "modules_to_save",
        "it is set from the new tokens of the template": "trainable_token_indices",
        "PEFT sets it when it runs": "peft_version runtime_config",
    },
)


# Values that would break a promise of the pipeline: how they begin, and why they are refused.
REFUSED_VALUES = {
    "lr_scheduler_type": (
        ("reduce_lr_on_plateau", "greedy"),
        "evaluation would steer the training, and a changed evaluation must never retrain",
    ),
    "init_lora_weights": (
        ("pissa", "olora", "corda", "loftq", "lora_ga", "eva"),
        "it rewrites the base or needs data of its own; a policy is the untouched base + one adapter",
    ),
    "bias": (
        ("all", "lora_only"),
        "PEFT allows one adapter with trained biases, and the reference is a second",
    ),
}


# What a number has to be for the libraries to take it, and whether one is.
RANGES = {
    name: (wanted, possible)
    for wanted, possible, names in (
        (
            "at least 1",
            lambda value: value >= 1,
            """per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps max_length r lora_alpha
            response_length num_ppo_epochs num_mini_batches local_rollout_forward_batch_size total_episodes
            max_completion_length generation_batch_size steps_per_generation num_iterations""",
        ),
        (
            "at least 2, since each response is judged by the others to its prompt",
            lambda value: value >= 2,
            "num_generations",
        ),
        (
            "0 or more",
            lambda value: value >= 0,
            """learning_rate value_learning_rate weight_decay warmup_steps adam_epsilon dataloader_num_workers beta
            epsilon""",
        ),
        ("more than 0", lambda value: value > 0, "save_steps logging_steps temperature num_train_epochs"),
        ("at least 1, or -1 for as many as the epochs have", lambda value: value == -1 or value >= 1, "max_steps"),
        ("from 0 to below 1", lambda value: 0 <= value < 1, "lora_dropout adam_beta1 adam_beta2"),
        ("from 0 to 1", lambda value: 0 <= value <= 1, "label_smoothing_factor"),
    )
    for name in names.split()
}


# Fields that do nothing but beside another: that one, what it has to be, and whether it is.
ONLY_WITH = {
    name: (switch, wanted, enough)
    for switch, wanted, enough, names in (
        (
            "use_vllm",
            "use_vllm: true",
            lambda value: value is True,
            """vllm_mode vllm_model_impl vllm_enable_sleep_mode vllm_structured_outputs_regex vllm_server_base_url
            vllm_server_host vllm_server_port vllm_server_timeout vllm_group_port vllm_gpu_memory_utilization
            vllm_max_model_length vllm_tensor_parallel_size vllm_importance_sampling_correction
            vllm_importance_sampling_mode vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min""",
        ),
        (
            "use_adaptive_entropy",
            "use_adaptive_entropy: true",
            lambda value: value is True,
            "entropy_coef_min entropy_coef_max entropy_coef_delta entropy_target",
        ),
        (
            "loss_type",
            "loss_type: sapo",
            lambda value: value == "sapo",
            "sapo_temperature_neg sapo_temperature_pos",
        ),
        (
            "loss_type",
            "loss_type: vespo",
            lambda value: value == "vespo",
            "vespo_k_pos vespo_lambda_pos vespo_k_neg vespo_lambda_neg",
        ),
        ("beta", "a beta above 0", lambda value: value != 0, "use_bias_correction_kl"),
    )
    for name in names.split()
}
