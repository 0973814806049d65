"""Fields of TRL and PEFT that a recipe may not set, values that it may not give, and why."""

from collections.abc import Mapping

from pipeline.model.adapters import CONFIGS


def by_name(names_by_meaning: Mapping[str, str]) -> dict[str, str]:
    """Each of the names with its meaning."""
    return {name: meaning for meaning, names in names_by_meaning.items() for name in names.split()}


def _owned(elsewhere: Mapping[str, str], reasons: Mapping[str, str]) -> dict[str, str]:
    """What to say of each name: sentences that are true wherever in a recipe it stands."""
    return by_name({f"is not set here; set {place}": names for place, names in elsewhere.items()}) | by_name(
        {f"is not set in a recipe: {reason}": names for reason, names in reasons.items()}
    )


# Fields that a recipe may not set, under the key that says it instead, or the reason its author is given.
OWNED = _owned(
    {
        "the recipe's top-level seed instead": "seed data_seed",
        "model.dtype (float32, bfloat16 or float16) instead": "bf16 fp16 bf16_full_eval fp16_full_eval",
        "data.columns: {text: its name} instead, or nothing where it is text": "dataset_text_field",
        "data.on_too_long instead": "truncation_mode",
        "model.template instead": "chat_template_path eos_token",
        "model.pad_token instead": "pad_token",
        "the keys under model instead": "model_init_kwargs",
        "model.trust_remote_code instead": "trust_remote_code",
        "weight beside each of reward_functions instead": "reward_weights",
        "vllm_importance_sampling_clip_max instead": "vllm_importance_sampling_cap",
        "evaluation.batch_size instead": "per_device_eval_batch_size",
        "keep: {best: a figure} in the stage instead": """load_best_model_at_end metric_for_best_model
            greater_is_better""",
    },
    {
        "what a stage trains goes into its artifact's folder, under the folder that --runs (RUNS=) names": "output_dir",
        "resuming is automatic": "resume_from_checkpoint restore_callback_states_from_checkpoint",
        "with true a resumed run would not be exact, and false is what is done": "ignore_data_skip save_only_model",
        "rows come in one fixed order, for a resume to be exact": "dataloader_in_order accelerator_config",
        "checkpoints come every save_steps, and Ctrl-C saves one; it would end a stage half trained": """
            enable_jit_checkpoint""",
        "nothing is uploaded": """push_to_hub hub_token hub_private_repo hub_model_id hub_strategy
            hub_always_push hub_revision log_completions_hub_repo""",
        "the pipeline prepares the columns": "remove_unused_columns label_names length_column_name",
        "the pipeline reads and tokenizes the rows; see data": "dataset_kwargs",
        "the pipeline prepares the rows, with as many threads as the recipe's top-level threads says": "dataset_num_proc",
        "the kind of the rows decides which tokens are learned; see data.learn": """completion_only_loss
            assistant_only_loss""",
        "packed rows stay whole and apart from each other": "packing_strategy eval_packing",
        "the reference is the incoming policy and stays frozen": """sync_ref_model ref_model_mixup_alpha
            ref_model_sync_steps""",
        "the reference is asked about rows of like length together": "precompute_ref_batch_size",
        "a causal language model is trained": "is_encoder_decoder",
        "the held-out answers are kept in samples.jsonl": "generate_during_eval",
        "what several processes hold is said by launch.strategy, and DeepSpeed's own switches by launch.deepspeed": """deepspeed
            fsdp fsdp_config""",
        "how many processes and machines there are is said by launch": """parallelism_config local_rank ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph
            ddp_backend ddp_timeout ds3_gather_for_generation average_tokens_across_devices log_on_each_node log_level_replica
            save_on_each_node""",
        "no optimizer that can be chosen here reads it": "optim_target_modules",
        "a cache is of no use in training": "use_cache",
        "the device is chosen when a stage runs": "use_cpu",
        "the batch size is part of what is trained": "auto_find_batch_size",
        "name the stages to run on the command line": "do_train",
        "held-out rows are measured before and after every stage, and asked for answers; see evaluation": """do_eval
            do_predict""",
        "the pipeline shows progress itself": "disable_tqdm",
        "a loss that is not a number has to be seen": "logging_nan_inf_filter",
        "held-out rows are measured by the pipeline; see evaluation": """eval_accumulation_steps batch_eval_metrics prediction_loss_only eval_do_concat_batches
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
    {"model.id and model.revision instead": "base_model_name_or_path revision"},
    {
        "the stage decides what is adapted, and how": "task_type peft_type auto_mapping",
        "the policy is trained and the reference frozen": "inference_mode",
        "the pipeline sets it for the score head": "modules_to_save",
        "it is set from the new tokens of the template": "trainable_token_indices",
        "PEFT sets it when it runs": "peft_version runtime_config",
        "PEFT sets it as the layers need it": "fan_in_fan_out",
        "it belongs to an init_lora_weights that is refused": "loftq_config eva_config corda_config lora_ga_config",
        "it changes the base; a policy is the untouched base + one adapter": "layer_replication kasa_config",
        "it needs a term in the loss that no trainer here adds": "monteclora_config",
        "it routes among adapters that are trained already": "arrow_config",
        "it is for bases in GPTQ form": "use_qalora qalora_group_size",
        "no model of Megatron's is trained here": "megatron_config megatron_core",
        "a row without these tokens would train nothing, and nothing looks for them": "alora_invocation_tokens",
    },
)


def adapter_owned(config: str) -> dict[str, str]:
    """Those of PEFT's config for an adapter, its method's own among them."""
    return ADAPTER_OWNED | {name: f"is not set in a recipe: {why}" for name, why in CONFIGS[config].refused.items()}


# Those of them that were accepted once: the fingerprint keeps their defaults, so that what was trained stays up to date.
ACCEPTED_ONCE = frozenset(
    """
    average_tokens_across_devices optim_target_modules fan_in_fan_out loftq_config eva_config corda_config
    lora_ga_config layer_replication kasa_config monteclora_config arrow_config use_qalora qalora_group_size
    megatron_config megatron_core alora_invocation_tokens
    """.split()
)


# Values that would break a promise of the pipeline: how they begin, and why they are refused.
REFUSED_VALUES = {
    field: by_name(names_by_reason)
    for field, names_by_reason in {
        "lr_scheduler_type": {
            "evaluation would steer the training, and a changed evaluation must never retrain": """
                reduce_lr_on_plateau greedy""",
        },
        "save_strategy": {
            "evaluation would decide what is kept, and a stopped run could not go on; name steps or epoch, and set keep: {best: a figure} in the stage": "best",
        },
        "train_sampling_strategy": {
            "it balances several devices, in an order that the recipe's seed does not draw": "batch_rebalance",
        },
        "optim": {
            "a stopped run could not go on from its checkpoints as exactly": "galore apollo grokadamw",
            "it changes weights within the backward pass: no gradient is clipped, accumulated or looked at": """
                lomo adalomo""",
            "the weights that it trains are not those that it is evaluated with, and the first would be saved": """
                schedule_free""",
            "it is for other devices than GPUs and CPUs": "adamw_torch_xla adamw_torch_npu",
            "its package, torchdistx, is not made for this torch": "adamw_anyprecision",
        },
        "init_lora_weights": {
            "it rewrites the base or needs data of its own; a policy is the untouched base + one adapter": """
                corda loftq lora_ga eva""",
        },
        "bias": {"PEFT allows one adapter with trained biases, and the reference is a second": "all lora_only"},
    }.items()
}


# What a number has to be for the libraries to take it, and whether one is.
RANGES = {
    name: (wanted, possible)
    for wanted, possible, names in (
        (
            "at least 1",
            lambda value: value >= 1,
            """per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps max_length r lora_alpha
            reduction_factor loraplus_lr_ratio init_r target_r deltaT
            response_length num_ppo_epochs num_mini_batches local_rollout_forward_batch_size total_episodes
            max_completion_length generation_batch_size steps_per_generation num_iterations pad_to_multiple_of
            dataloader_prefetch_factor torch_empty_cache_steps kl_horizon num_virtual_tokens encoder_hidden_size encoder_num_layers""",
        ),
        (
            "at least 2, since each response is judged by the others to its prompt",
            lambda value: value >= 2,
            "num_generations",
        ),
        (
            "0 or more",
            lambda value: value >= 0,
            """weight_decay warmup_steps adam_epsilon dataloader_num_workers eval_delay kl_coef vf_coef beta epsilon
            value_warmup_steps center_rewards_coefficient tinit tfinal orth_reg_weight router_aux_loss_coef""",
        ),
        (
            "more than 0",
            lambda value: value > 0,
            """save_steps logging_steps eval_steps temperature num_train_epochs neftune_noise_alpha discopop_tau cliprange
            cliprange_value reward_clip kl_target kl_limit""",
        ),
        (
            "more than 0 (at 0 nothing is trained; the shortest trial is max_steps: 1)",
            lambda value: value > 0,
            "learning_rate value_learning_rate DPOConfig.beta KTOConfig.beta CPOConfig.beta",
        ),
        ("at least 1, or null to keep them all", lambda value: value >= 1, "save_total_limit"),
        ("at least 1, or -1 for as many as the epochs have", lambda value: value == -1 or value >= 1, "max_steps"),
        ("from 0 to below 1", lambda value: 0 <= value < 1, "lora_dropout bottleneck_dropout adam_beta1 adam_beta2"),
        ("between 0 and 1", lambda value: 0 < value < 1, "AdaLoraConfig.beta1 AdaLoraConfig.beta2"),
        ("from 0 to below 0.5, where labels are turned round", lambda value: 0 <= value < 0.5, "label_smoothing"),
        ("from 0 to 1", lambda value: 0 <= value <= 1, "label_smoothing_factor ld_alpha gamma lam"),
    )
    for name in names.split()
}
