"""Fields that would be accepted and do nothing: where each takes effect, as data about the pinned libraries.

A test holds it to them: it trains with each field where it takes effect and where it does not, and compares.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.model.adapters import CONFIGS
from pipeline.recipe import steps
from pipeline.recipe.fields import COMMON
from pipeline.recipe.owned import by_name

ADAPTER = "adapter"  # the rules of every config of PEFT's
Values = tuple[str, Callable[[Any], bool]]  # in words, and whether a value is one of them


@dataclass(frozen=True)
class Only:
    """`fields` are read only where `key` has certain values."""

    fields: str
    key: str
    values: Values
    even_off: bool = False  # also where `key` is written and off: that is not argued with, but here it would fail
    unless: Callable[[Mapping], bool] = lambda values: False  # what else lets them be read


def _words(value: object) -> set[str]:
    return {str(word) for word in value} if isinstance(value, list) else {str(value)}


def _any(words: str, said: str = "") -> Values:
    return said or ", ".join(words.split()), lambda value: bool(_words(value) & {*words.split()})


def _each(words: str) -> Values:
    return f"nothing but {', '.join(words.split())}", lambda value: _words(value) <= {*words.split()}


def _other(words: str, said: str = "any other") -> Values:
    return said, lambda value: not _words(value) <= {*words.split()}


def _none(words: str) -> Values:
    return "any other", lambda value: not _words(value) & {*words.split()}


_ADAM = """adamw_torch adamw_torch_fused adamw_torch_4bit adamw_torch_8bit adamw_bnb_8bit adamw_8bit paged_adamw_32bit
    paged_adamw_8bit ademamix ademamix_8bit paged_ademamix_32bit paged_ademamix_8bit stable_adamw"""
_OF_PAIRS = """sigmoid hinge ipo exo_pair nca_pair robust bco_pair sppo_hard aot aot_unpaired apo_zero apo_down discopop
    sigmoid_norm"""
_LION = "lion_8bit lion_32bit paged_lion_32bit paged_lion_8bit"
_TRACKIO = "trackio_space_id trackio_bucket_id trackio_static_space_id"
_WORKERS = "dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context"
_VLLM = """vllm_mode vllm_model_impl vllm_enable_sleep_mode vllm_structured_outputs_regex vllm_server_base_url
    vllm_server_host vllm_server_port vllm_server_timeout vllm_group_port vllm_gpu_memory_utilization vllm_max_model_length
    vllm_tensor_parallel_size vllm_importance_sampling_correction vllm_importance_sampling_mode
    vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min"""
_TRUE: Values = ("true", bool)
_NUMBER: Values = ("a number", lambda value: value is not None)
_NAMES: Values = ("a list of names", lambda value: isinstance(value, list))
_AGAIN: Values = ("more, or with several steps for each rollout", lambda value: value > 1)


def _later_steps(values: Mapping[str, Any]) -> bool:
    """Whether a rollout lasts more than one step of the optimizer: in the first the policy is still the one that answered."""
    each, passes = values["per_device_train_batch_size"], values["gradient_accumulation_steps"]
    generated = values["generation_batch_size"]
    return (values["steps_per_generation"] or (generated // each if generated else passes)) > passes


_RATIO = "epsilon epsilon_high delta off_policy_mask_threshold importance_sampling_level"
_SAPO, _VESPO = "sapo_temperature_neg sapo_temperature_pos", "vespo_k_pos vespo_lambda_pos vespo_k_neg vespo_lambda_neg"


def _ratio_counts(values: Mapping[str, Any]) -> bool:
    """Whether that of new and old probabilities is more than 1 in disguise; CISPO's bound may lie below 1."""
    return _later_steps(values) or values["loss_type"] == "cispo" or values["top_entropy_quantile"] < 1


ONLY = {
    COMMON: (
        Only("warmup_steps", "lr_scheduler_type", _other("constant", "constant_with_warmup and others")),
        Only("lr_scheduler_kwargs", "lr_scheduler_type", _other("constant constant_with_warmup")),
        Only("adam_beta1 adam_beta2", "optim", _any(f"{_ADAM} {_LION}", "an Adam or a Lion")),
        Only("adam_epsilon", "optim", _any(_ADAM, "an Adam")),
        Only("logging_steps", "logging_strategy", _any("steps")),
        Only("eval_steps", "eval_strategy", _any("steps")),
        Only("eval_delay", "eval_strategy", _any("steps epoch")),
        Only("save_steps", "save_strategy", _any("steps")),
        Only("save_total_limit", "save_strategy", _any("steps epoch")),
        Only("run_name", "report_to", _other("None none tensorboard", "the name of a tracker other than tensorboard")),
        Only("project", "report_to", _any("wandb trackio")),
        Only(_TRACKIO, "report_to", _any("trackio")),
        Only("liger_kernel_config", "use_liger_kernel", _TRUE),
        Only(_WORKERS, "dataloader_num_workers", ("1 or more", lambda value: value >= 1), even_off=True),
    ),
    "SFTConfig": (
        Only("label_smoothing_factor", "loss_type", _any("None nll", "nll")),
        Only("label_smoothing_factor", "use_liger_kernel", ("false", lambda value: not value)),
        Only("packing", "max_length", _NUMBER, even_off=True),
    ),
    "DPOConfig": (
        Only("label_smoothing", "loss_type", _any("robust exo_pair aot aot_unpaired")),
        Only("discopop_tau", "loss_type", _any("discopop")),
        Only("beta ld_alpha f_divergence_type", "loss_type", _any(_OF_PAIRS, "a loss of pairs")),
        Only("f_divergence_type", "loss_type", _each("sigmoid sigmoid_norm hinge ipo exo_pair robust discopop sft")),
        Only("f_alpha_divergence_coef", "f_divergence_type", _any("alpha_divergence")),
        Only("loss_weights", "loss_type", ("several losses", lambda value: len(value) > 1)),
        Only("use_weighting", "loss_type", _none("aot aot_unpaired")),
    ),
    "CPOConfig": (
        Only("label_smoothing", "loss_type", _any("sigmoid simpo alphapo")),
        Only("simpo_gamma", "loss_type", _any("simpo alphapo")),
        Only("cpo_alpha", "loss_type", _other("alphapo")),
    ),
    "PPOConfig": (Only("kl_horizon", "kl_target", _NUMBER),),
    "RLOOConfig": (
        Only(_VLLM, "use_vllm", _TRUE),
        Only("epsilon epsilon_high", "num_iterations", _AGAIN, unless=_later_steps),
    ),
    "GRPOConfig": (
        Only(_VLLM, "use_vllm", _TRUE),
        Only("entropy_coef_min entropy_coef_max entropy_coef_delta entropy_target", "use_adaptive_entropy", _TRUE),
        Only(_SAPO, "loss_type", _any("sapo")),
        Only(_VESPO, "loss_type", _any("vespo")),
        Only(f"{_RATIO} {_SAPO} {_VESPO}", "num_iterations", _AGAIN, unless=_ratio_counts),
        Only("use_bias_correction_kl", "beta", ("more than 0", lambda value: value > 0)),
    ),
    ADAPTER: (
        Only("layers_to_transform layers_pattern", "target_modules", _NAMES, even_off=True),
        Only("layers_pattern", "layers_to_transform", ("the numbers of layers", _NUMBER[1]), even_off=True),
    ),
    "PrefixTuningConfig": (Only("encoder_hidden_size", "prefix_projection", _TRUE),),
    "PromptEncoderConfig": (Only("encoder_num_layers", "encoder_reparameterization_type", _any("LSTM")),),
    "PromptTuningConfig": (Only("prompt_tuning_init_text", "prompt_tuning_init", _any("TEXT")),),
    "BottleneckConfig": (Only("placement", "target_modules", ("blocks that are found", lambda value: value is None)),),
    "OFTConfig": (
        Only("eps", "coft", _TRUE),
        Only("num_cayley_neumann_terms", "use_cayley_neumann", _TRUE),
    ),
}

# Fields that a config has and its trainer never reads, or that would spoil what it does.
_ITS_OWN = {"its loss has no labels to smooth": "label_smoothing_factor"}
_NOISE = {"noise would make the policy another one than its reference from the start": "neftune_noise_alpha"}
_WHOLE = {"every rollout is a whole one": "dataloader_drop_last"}
NEVER = {
    "SFTConfig": by_name({"rows come in an order drawn from the seed; see train_sampling_strategy": "shuffle_dataset"}),
    "RewardConfig": by_name(_ITS_OWN),
    "DPOConfig": by_name({"its losses are smoothed by label_smoothing": "label_smoothing_factor"} | _NOISE),
    "KTOConfig": by_name(_ITS_OWN | _NOISE),
    "ORPOConfig": by_name(_ITS_OWN),
    "CPOConfig": by_name({"its losses are smoothed by label_smoothing": "label_smoothing_factor"}),
    "RLOOConfig": by_name(_ITS_OWN | _NOISE | _WHOLE),
    "GRPOConfig": by_name(_ITS_OWN | _NOISE | _WHOLE),
    "PPOConfig": by_name(
        {
            **_ITS_OWN,
            "its rows are made while it trains": f"""dataloader_drop_last dataloader_num_workers dataloader_pin_memory
                {_WORKERS} include_num_input_tokens_seen""",
            "its prompts come in an order drawn from the seed": "train_sampling_strategy",
            "noise would make its log-probabilities inexact": "neftune_noise_alpha",
        }
    ),
}


def idle(config: str, key: str, values: Mapping[str, Any], written: Mapping[str, Any]) -> str | None:
    """Why a field would do nothing in a stage with these values, or None; `written` are those that its author gave."""
    if reason := NEVER.get(config, {}).get(key):
        return f"cannot take effect: {reason}"
    rules = (*ONLY.get(config, ()), *ONLY[ADAPTER if config in CONFIGS else COMMON])
    for rule in rules:
        if key not in rule.fields.split():
            continue
        wanted, holds = rule.values
        on = values[rule.key]
        off = rule.key in written and on in (False, None, "no", "none") and not rule.even_off
        if not off and not holds(on) and not rule.unless(values):
            return f"cannot take effect with {rule.key}: {_shown(on)}; it does with {wanted}"
    return None


def _shown(value: object) -> str:
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def notes(values: Mapping[str, Any], written: Mapping[str, Any]) -> Iterator[str]:
    """What is written, does nothing, and is no mistake where a run is cut short on purpose."""
    each = {"max_steps": values["max_steps"], "total_episodes": steps.of_episodes(values)}
    said = {key: number for key, number in each.items() if isinstance(number, int) and number > 0}
    if not said:
        return
    ends = min(said, key=lambda key: said[key])
    idle = [key for key in said if said[key] > said[ends]]
    for key in [*idle, *(["num_train_epochs"] if "num_train_epochs" in written else [])]:
        yield f"{ends}: {values[ends]} says how long it trains, and {key} does not"
    warm_up, number = values["warmup_steps"], said[ends]
    warm_up = int(warm_up) if warm_up >= 1 else math.ceil(warm_up * number)
    if warm_up >= number and values["lr_scheduler_type"] != "constant":
        there = "there is 1 step" if number == 1 else f"there are {number} steps"
        yield f"warmup_steps: {warm_up}, and {there}: learning_rate is not reached"
