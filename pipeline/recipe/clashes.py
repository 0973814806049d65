"""Values that cannot go together, or that a library would not read: told from the recipe alone."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.recipe.owned import by_name

_EACH, _PASSES = "per_device_train_batch_size", "gradient_accumulation_steps"
# What an optimizer reads of optim_args; `name=value` where it takes whatever is written for that value.
OPTIM_ARGS = by_name(
    {
        "momentum dampening nesterov": "sgd",
        "lr_decay eps": "adagrad",
        "momentum alpha eps centered": "rmsprop",
        "beta1 beta2 beta3 alpha eps t_alpha t_beta3": "ademamix ademamix_8bit paged_ademamix_32bit paged_ademamix_8bit",
        "block_size bf16_stochastic_round": "adamw_torch_4bit adamw_torch_8bit",
        "max_lr kahan_sum=true decouple_lr=true": "stable_adamw",
    }
)
# What each schedule reads of lr_scheduler_kwargs; one that is not here is none that could be asked for them.
SCHEDULE_ARGS = {
    "linear": "",
    "cosine": "num_cycles",
    "cosine_with_restarts": "num_cycles",
    "polynomial": "lr_end power",
    "inverse_sqrt": "timescale",
    "cosine_with_min_lr": "num_cycles min_lr min_lr_rate",
    "cosine_warmup_with_min_lr": "num_cycles min_lr min_lr_rate warmup_lr_rate",
    "warmup_stable_decay": "num_decay_steps num_stable_steps warmup_type decay_type min_lr_ratio num_cycles",
}
# What optim_args are given for and fields of `train` say.
_OWN_FIELDS = {
    "betas": "adam_beta1 and adam_beta2",
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
    "eps": "adam_epsilon",
    "lr": "learning_rate",
    "weight_decay": "weight_decay",
}


def clashes(config: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(a field, what is wrong) where values cannot go together, or leave nothing to train."""
    if values.get("optim_args"):
        yield from (("optim_args", what) for what in _wrong_arguments(values["optim"], values["optim_args"]))
    if wants := _lacking(str(values.get("lr_scheduler_type")), values.get("lr_scheduler_kwargs") or {}):
        yield "lr_scheduler_type", wants
    if isinstance(values.get("lr_scheduler_kwargs"), dict):
        written = _wrong_of_schedule(values["lr_scheduler_type"], values["lr_scheduler_kwargs"])
        yield from (("lr_scheduler_kwargs", what) for what in written)
    if "num_generations" in values:
        yield from _wrong_groups(values)
    if values.get("prompt_tuning_init") == "TEXT" and not values["prompt_tuning_init_text"]:
        yield "prompt_tuning_init", "TEXT needs prompt_tuning_init_text, the text to begin with"
    if config == "AdaLoraConfig" and values["init_r"] <= values["target_r"]:
        yield "init_r", f"must be more than target_r, {values['target_r']}: it begins with more ranks than it ends with"
    if str(values.get("init_lora_weights")).lower().startswith(("pissa", "olora")):
        beside = [key for key in ("use_dora", "use_rslora", "lora_bias", "target_parameters") if values[key]]
        yield from ((key, f"does not go with init_lora_weights: {values['init_lora_weights']}") for key in beside)
    if config == "DPOConfig":
        losses, weights = values["loss_type"], values["loss_weights"]
        if not losses:
            yield "loss_type", "must name at least one loss"
        if "exo_pair" in losses and not values["label_smoothing"]:
            yield "loss_type", "exo_pair needs label_smoothing above 0; its paper has 0.001"
        if weights is not None and len(losses) > 1 and len(weights) != len(losses):
            yield "loss_weights", f"must be one for each of {', '.join(losses)}, not {json.dumps(weights)}"
        elif weights is not None and not any(weights):
            yield "loss_weights", "must not all be 0: nothing would be trained"


def _wrong_arguments(optimizer: str, written: str) -> Iterator[str]:
    """What an optimizer would not read of its arguments."""
    readable = OPTIM_ARGS.get(optimizer, "").split()
    for one in re.split(r",(?![^(]*\))", written.replace(" ", "")):
        name, equals, value = one.partition("=")
        if not name.isidentifier() or not equals or not value:
            yield f"must look like name=value,name=value; {one} does not"
        elif name not in readable and one not in readable:
            own = f"; set train.{_OWN_FIELDS[name]}" if name in _OWN_FIELDS else ""
            yield f"cannot take effect: {optimizer} reads {', '.join(readable) or 'none'}, and not {one}{own}"


def _lacking(schedule: str, written: object) -> str | None:
    """What a schedule cannot do without."""
    least = ("min_lr", "min_lr_rate")
    if isinstance(written, dict) and schedule.endswith("_with_min_lr") and not any(written.get(one) for one in least):
        return f"{schedule} needs lr_scheduler_kwargs: {{min_lr: ...}}, or {{min_lr_rate: 0.1}} of the learning rate"
    return None


def _wrong_of_schedule(schedule: str, written: Mapping[str, Any]) -> Iterator[str]:
    """What a schedule would not read of its arguments."""
    readable = SCHEDULE_ARGS[schedule].split() if schedule in SCHEDULE_ARGS else [*written]
    for name in written.keys() - {*readable}:
        takes = f"takes {', '.join(readable)}, and not {name}" if readable else f"takes none, and not {name}"
        others = [other for other, names in SCHEDULE_ARGS.items() if name in names.split()]
        yield f"{schedule} {takes}" + (f"; it goes with {', '.join(others)}" if others else "")


def _wrong_groups(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Where the responses that are sampled together are no whole groups."""
    each, passes, number = (values[key] for key in (_EACH, _PASSES, "num_generations"))
    together, slices = values["generation_batch_size"], values["steps_per_generation"]
    if together and slices:
        yield "generation_batch_size", "stands beside steps_per_generation, which says the same; leave one of them out"
    elif together and together % each:
        yield "generation_batch_size", f"must be a multiple of {_EACH}, {each}, not {together}"
    elif (together or each * (slices or passes)) % number:
        said = (
            f"generation_batch_size, {together}"
            if together
            else f"{_EACH} * {'steps_per_generation' if slices else _PASSES}, {each} * {slices or passes}"
        )
        yield "num_generations", f"must go into {said}, without a rest: {number} does not"
