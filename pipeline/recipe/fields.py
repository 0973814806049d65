"""The fields of TRL's configs and of PEFT's LoraConfig, so that a plan needs to import neither.

The list stands in `fields.json`; `python -m pipeline.train.list_fields` rewrites it for new versions.
"""

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline.wording import must_be, nearest, not_among

LIST = Path(__file__).with_suffix(".json")
LORA = "LoraConfig"

# Where the pipeline departs from TRL's defaults, for every stage.
DEFAULTS = {
    "save_steps": 0.1,  # ten checkpoints a stage, however long it is
    "save_total_limit": 2,
    "train_sampling_strategy": "group_by_length",
    "report_to": "none",
}
COMMON = "TrainingArguments"

_KIND_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "list": "a list",
    "dict": "a mapping",
    "null": "null",
}


@dataclass(frozen=True)
class Field:
    """One field of a config: the YAML kinds it takes, its default, its choices where they are limited."""

    name: str
    kinds: tuple[str, ...]
    default: object
    choices: tuple[str, ...] = ()

    def normalized(self, value: object) -> object:
        """The one spelling of equal values: 1 and 1.0, or "sigmoid" and ["sigmoid"], are the same setting."""
        if kind_of(value) == "int" and "float" in self.kinds and "int" not in self.kinds:
            return float(value)
        if kind_of(value) == "str" and "list" in self.kinds and "str" not in self.kinds:
            return [value]
        return value

    def complaint(self, value: object) -> str | None:
        """What is wrong with a value, or None."""
        value = self.normalized(value)
        if value is False and "no" in self.choices and "bool" not in self.kinds:
            return 'must be "no" in quotes: YAML reads a bare no as false'
        if kind_of(value) not in self.kinds and not (kind_of(value) == "int" and "float" in self.kinds):
            return must_be(" or ".join(_KIND_WORDS[kind] for kind in self.kinds), value)
        if self.name == "target_modules" and (wrong := _no_modules(value)):
            return wrong
        wanted, possible = RANGES.get(self.name, ("", None))
        if possible and kind_of(value) in ("int", "float") and not possible(value):
            return must_be(wanted, value)
        words = [word for word in (value if isinstance(value, list) else [value]) if isinstance(word, str)]
        refused, reason = REFUSED_VALUES.get(self.name, ((), ""))
        for word in words:
            if word.startswith(tuple(refused)):
                return f"{word} is refused: {reason}"
        choices = [choice for choice in self.choices if not choice.startswith(tuple(refused))]
        return next((not_among(word, choices) for word in words if choices and word not in choices), None)


def kind_of(value: object) -> str:
    """The YAML kind of a value; "other" for what no config takes, such as a date."""
    by_type = {
        bool: "bool",
        int: "int",
        float: "float",
        str: "str",
        list: "list",
        dict: "dict",
        type(None): "null",
    }
    return by_type.get(type(value), "other")


def _no_modules(named: object) -> str | None:
    """What is wrong with adapter.target_modules, as far as it can be told without the model."""
    listed = named if isinstance(named, list) else []
    if named in ([], "") or not all(isinstance(one, str) and one for one in listed):
        return must_be("all-linear, or a list of names of modules", named)
    if any(one.lower() in ("all", "all-linear") for one in listed):
        return must_be("all-linear, and not a list, where every linear layer is meant", named)
    if not isinstance(named, str) or named.lower() == "all-linear":
        return None
    if re.fullmatch(r"\w+([, ]+\w+)*", named):  # PEFT takes text for a pattern of modules' whole paths
        names = re.split("[, ]+", named)
        meant = nearest(named, ["all-linear"]) or f"[{', '.join(names)}]"
        return f"{must_be('all-linear, or a list of names of modules', named)}; did you mean {meant}?"
    try:
        re.compile(named)
    except re.error as error:
        return f"is not a regular expression: {error}; give names of modules as a list"
    return None


@cache
def _configs() -> dict[str, dict[str, Field]]:
    def read(rows: Mapping[str, dict]) -> dict[str, Field]:
        return {
            name: Field(name, tuple(row["kinds"]), row["default"], tuple(row.get("choices", ())))
            for name, row in rows.items()
        }

    listed = {config: read(rows) for config, rows in json.loads(LIST.read_text(encoding="utf-8")).items()}
    return {config: own if config == LORA else listed[COMMON] | own for config, own in listed.items()}


def is_listed(config_name: str) -> bool:
    """Whether the list has this config."""
    return config_name in _configs()


def fields_of(config_name: str) -> dict[str, Field]:
    """Every field of a config, inherited ones first. Raises KeyError for a config that is not listed."""
    return _configs()[config_name]


def effective(config_name: str, given: Mapping[str, object]) -> dict[str, object]:
    """Every field of a config with its value: the given one, else the default."""
    known = fields_of(config_name)
    defaults = {name: deepcopy(field.default) for name, field in known.items()}
    values = defaults | dict(given)
    return {name: known[name].normalized(value) if name in known else value for name, value in values.items()}


def what(config_name: str, given: Mapping[str, object]) -> dict[str, object]:
    """The effective values that say what is trained: they are what the fingerprint hashes."""
    values = effective(config_name, given)
    left = {name: value for name, value in values.items() if name not in HOW and name not in OWNED}
    if config_name == LORA:
        return {name: value for name, value in left.items() if name not in ADAPTER_OWNED}
    # How a batch is cut into pieces is a matter of memory; how many rows an update sees is not.
    return left | {"global_batch": values["per_device_train_batch_size"] * values["gradient_accumulation_steps"]}


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
    },
    {
        "what a stage trains goes into its artifact's folder, under the folder that --runs (RUNS=) names": "output_dir",
        "resuming is automatic": "resume_from_checkpoint restore_callback_states_from_checkpoint",
        "a resumed run would not be exact": "ignore_data_skip save_only_model",
        "rows come in one fixed order, for a resume to be exact": "dataloader_in_order accelerator_config",
        "the last weights are the artifact": "load_best_model_at_end metric_for_best_model greater_is_better",
        "nothing is uploaded": """push_to_hub hub_token hub_private_repo hub_model_id hub_strategy
            hub_always_push hub_revision""",
        "the pipeline prepares the columns": "remove_unused_columns label_names length_column_name",
        "the pipeline reads and tokenizes the rows; see data": "dataset_kwargs",
        "the kind of the rows decides which tokens are learned; see data.learn": """completion_only_loss
            assistant_only_loss""",
        "packed rows stay whole and apart from each other": "packing_strategy eval_packing",
        "the reference is the incoming policy and stays frozen": """sync_ref_model ref_model_mixup_alpha
            ref_model_sync_steps""",
        "a stage trains in one process, on one device": """deepspeed fsdp fsdp_config parallelism_config
            local_rank ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph
            ddp_backend ddp_timeout""",
        "the device is chosen when a stage runs": "use_cpu",
        "the batch size is part of what is trained": "auto_find_batch_size",
        "name the stages to run on the command line": "do_train do_eval do_predict",
        "the pipeline shows progress itself": "disable_tqdm",
        "a loss that is not a number has to be seen": "logging_nan_inf_filter",
        "held-out rows are measured by the pipeline; see evaluation": """per_device_eval_batch_size
            eval_accumulation_steps batch_eval_metrics prediction_loss_only eval_do_concat_batches
            eval_use_gather_object include_for_metrics""",
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
            response_length num_ppo_epochs num_mini_batches local_rollout_forward_batch_size total_episodes""",
        ),
        (
            "0 or more",
            lambda value: value >= 0,
            "learning_rate value_learning_rate weight_decay warmup_steps adam_epsilon dataloader_num_workers",
        ),
        ("more than 0", lambda value: value > 0, "save_steps logging_steps temperature"),
        ("from 0 to below 1", lambda value: 0 <= value < 1, "lora_dropout adam_beta1 adam_beta2"),
        ("from 0 to 1", lambda value: 0 <= value <= 1, "label_smoothing_factor"),
    )
    for name in names.split()
}

# Fields that a config has and its trainer does nothing with.
UNSERVED = {"DPOConfig": ("padding_free",)}

# Fields that say how, not what, is trained: the fingerprint leaves them out.
HOW = frozenset(
    """
    per_device_train_batch_size gradient_accumulation_steps use_cache
    gradient_checkpointing gradient_checkpointing_kwargs activation_offloading padding_free torch_empty_cache_steps
    torch_compile torch_compile_backend torch_compile_mode tf32 use_liger_kernel liger_kernel_config
    full_determinism debug pad_to_multiple_of precompute_ref_log_probs precompute_ref_batch_size
    logging_strategy logging_steps logging_first_step log_on_each_node log_level log_level_replica
    include_num_input_tokens_seen report_to run_name project
    trackio_space_id trackio_bucket_id trackio_static_space_id
    eval_strategy eval_steps eval_delay eval_on_start
    save_strategy save_steps save_on_each_node save_total_limit enable_jit_checkpoint
    dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataset_num_proc
    dataloader_prefetch_factor dataloader_multiprocessing_context
    """.split()
)

# Those that are true on a GPU and false without one, where the recipe does not say.
ON_A_GPU = ("gradient_checkpointing", "dataloader_pin_memory")
