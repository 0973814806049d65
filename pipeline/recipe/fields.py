"""The fields of TRL's configs and of PEFT's, so that a plan needs to import neither.

The list stands in `fields.json`; `python -m pipeline.train.list_fields` rewrites it for new versions.
"""

import json
import re
from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.model.adapters import CONFIGS
from pipeline.recipe.foreign import loss_meant
from pipeline.recipe.owned import ACCEPTED_ONCE, OWNED, RANGES, REFUSED_VALUES, adapter_owned
from pipeline.wording import must_be, nearest, not_among

LIST = Path(__file__).with_suffix(".json")

# Where the pipeline departs from TRL's defaults, for every stage.
DEFAULTS = {
    "save_steps": 0.1,  # ten checkpoints a stage, however long it is
    "save_total_limit": 2,
    "train_sampling_strategy": "group_by_length",
    "report_to": "none",
    "project": "align",
}
COMMON = "TrainingArguments"

KIND_WORDS = {
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
    """One field of a config: the YAML kinds it takes, its default, its choices where they are limited.

    `items` are the kinds of what stands in a list; of one without any the list says nothing.
    """

    name: str
    kinds: tuple[str, ...]
    default: Any
    choices: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    config: str = ""

    def normalized(self, value: Any) -> Any:
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
        if not _is_of(value, self.kinds):
            return must_be(" or ".join(KIND_WORDS[kind] for kind in self.kinds), value)
        if self.name == "target_modules" and (wrong := _no_modules(value)):
            return wrong
        listed = value if isinstance(value, list) else [value]
        if self.items and isinstance(value, list) and not all(_is_of(item, self.items) for item in value):
            return must_be(f"a list, each of it {' or '.join(KIND_WORDS[kind] for kind in self.items)}", value)
        within = RANGES.get(f"{self.config}.{self.name}") or RANGES.get(self.name)
        if within and kind_of(value) in ("int", "float") and not within[1](value):
            return must_be(within[0], value)
        return next((wrong for word in listed if isinstance(word, str) and (wrong := self._no_word(word))), None)

    def _no_word(self, word: str) -> str | None:
        """What is wrong with a word, where they are limited."""
        refused = REFUSED_VALUES.get(self.name, {})
        for beginning, reason in refused.items():
            if word.startswith(beginning):
                return f"{word} is refused: {reason}"
        choices = [choice for choice in self.choices if not choice.startswith(tuple(refused))]
        if not choices or word in choices or word == self.default:
            return None
        counted = (choice.partition("[")[0] for choice in choices if "[" in choice)  # pissa_niter_[number of iters]
        if any(word.startswith(one) and word.removeprefix(one).isdigit() for one in counted):
            return None
        return (self.name == "loss_type" and loss_meant(word)) or not_among(word, choices)


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


def _is_of(value: object, kinds: tuple[str, ...]) -> bool:
    return kind_of(value) in kinds or (kind_of(value) == "int" and "float" in kinds)


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
    def field(config: str, name: str, row: Mapping) -> Field:
        choices, items = (tuple(row.get(key, ())) for key in ("choices", "items"))
        return Field(name, tuple(row["kinds"]), row["default"], choices, items, config)

    def learning(config: str) -> dict[str, Field]:
        """Of a method's keys that are none of PEFT's."""
        keys = CONFIGS[config].learning if config in CONFIGS else {}
        return {key: Field(key, ("float",), default, config=config) for key, default in keys.items()}

    listed = json.loads(LIST.read_text(encoding="utf-8"))
    return {
        config: {
            name: field(config, name, row) for name, row in (own if config in CONFIGS else listed[COMMON] | own).items()
        }
        | learning(config)
        for config, own in listed.items()
    }


def is_listed(config_name: str) -> bool:
    """Whether the list has this config."""
    return config_name in _configs()


def fields_of(config_name: str) -> dict[str, Field]:
    """Every field of a config, inherited ones first. Raises KeyError for a config that is not listed."""
    return _configs()[config_name]


def effective(config_name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every field of a config with its value: the given one, else the default."""
    known = fields_of(config_name)
    defaults = {name: deepcopy(field.default) for name, field in known.items()}
    values = defaults | dict(given)
    return {name: known[name].normalized(value) if name in known else value for name, value in values.items()}


def hashed(config_name: str, given: Mapping[str, Any], also: Collection[str] = ()) -> dict[str, Any]:
    """The effective values that say what is trained: they are what the fingerprint hashes.

    `also` are fields that elsewhere say how.
    """
    values = effective(config_name, given)
    owned = (OWNED | adapter_owned(config_name) if config_name in CONFIGS else OWNED).keys() - ACCEPTED_ONCE
    left = {name: value for name, value in values.items() if name in also or (name not in HOW and name not in owned)}
    if config_name in CONFIGS:
        return {name: value for name, value in left.items() if name not in CONFIGS[config_name].learning}
    each, steps = values["per_device_train_batch_size"], values["gradient_accumulation_steps"]
    if "steps_per_generation" in left:  # another way to say how many responses the same policy gives
        left["generation_batch_size"] = values["generation_batch_size"] or each * (
            left.pop("steps_per_generation") or steps
        )
    if values.get("loss_type") == "bnpo":  # normalized within each piece of a batch
        left["per_device_train_batch_size"] = each
    # How a batch is cut into pieces is a matter of memory; how many rows an update sees is not.
    return left | {"global_batch": each * steps}


# Fields that a config has and its trainer does nothing with.
UNSERVED = {
    "DPOConfig": ("padding_free",),
    "ORPOConfig": ("max_completion_length", "padding_value"),
    "CPOConfig": ("max_completion_length",),
}

# Fields that say how, not what, is trained: the fingerprint leaves them out.
HOW = frozenset(
    """
    per_device_train_batch_size gradient_accumulation_steps
    gradient_checkpointing gradient_checkpointing_kwargs activation_offloading padding_free torch_empty_cache_steps
    torch_compile torch_compile_backend torch_compile_mode tf32 use_liger_kernel liger_kernel_config
    full_determinism debug pad_to_multiple_of precompute_ref_log_probs
    logging_strategy logging_steps logging_first_step log_level
    include_num_input_tokens_seen report_to run_name project
    trackio_space_id trackio_bucket_id trackio_static_space_id
    eval_strategy eval_steps eval_delay eval_on_start
    save_strategy save_steps save_total_limit
    dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers
    dataloader_prefetch_factor dataloader_multiprocessing_context
    cache_implementation use_vllm vllm_mode vllm_model_impl vllm_enable_sleep_mode vllm_server_base_url vllm_server_host
    vllm_server_port vllm_server_timeout vllm_group_port vllm_gpu_memory_utilization vllm_max_model_length
    vllm_tensor_parallel_size
    """.split()
)

# Those that are true on a GPU and false without one, where the recipe does not say.
ON_A_GPU = ("gradient_checkpointing", "dataloader_pin_memory")
