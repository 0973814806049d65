"""What DeepSpeed is given for a strategy: from strategies.yaml beside this file, or a file of one's own on top of it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.recipe import yaml_lines
from pipeline.recipe.launch import Launch
from pipeline.recipe.problem import RecipeError
from pipeline.wording import did_you_mean

PRESETS = Path(__file__).with_name("strategies.yaml")
AUTO = "auto"  # for transformers to fill in
YES, NUMBER, SEVERAL = "true or false", "a whole number", "a mapping"
# Of DeepSpeed 0.19.8: what says how it is done, and never what is trained; each with its kind.
_SWITCHES = {
    "zero_optimization": SEVERAL,
    "comms_logger": SEVERAL,
    "flops_profiler": SEVERAL,
    "steps_per_print": NUMBER,
    **dict.fromkeys(("wall_clock_breakdown", "memory_breakdown", "dump_state"), YES),
    **dict.fromkeys(("zero_force_ds_cpu_optimizer", "zero_allow_untested_optimizer"), YES),
}
_OF_ANY = {
    "stage": NUMBER,
    "reduce_bucket_size": NUMBER,
    "offload_optimizer": SEVERAL,
    **dict.fromkeys(("contiguous_gradients", "reduce_scatter", "overlap_comm"), YES),
}
_OF_WHOLE_WEIGHTS = {"allgather_bucket_size": NUMBER, "allgather_partitions": YES, "round_robin_gradients": YES}
_OF_ZERO3 = {
    "offload_param": SEVERAL,
    "sub_group_size": NUMBER,
    **dict.fromkeys(("stage3_prefetch_bucket_size", "stage3_param_persistence_threshold"), NUMBER),
    **dict.fromkeys(("stage3_max_live_parameters", "stage3_max_reuse_distance"), NUMBER),
    "stage3_gather_16bit_weights_on_model_save": YES,
}
_OFFLOADED = ("offload_optimizer", "offload_param")
_OF_OFFLOADED = {"device": "cpu or none", "pin_memory": YES}
# What stands in such files, and is the recipe's.
_SAID_BY = {
    "optimizer": "train.optim",
    "scheduler": "train.lr_scheduler_type",
    "gradient_clipping": "train.max_grad_norm",
    "train_batch_size": "train.gradient_accumulation_steps",
    "train_micro_batch_size_per_gpu": "train.per_device_train_batch_size",
    "gradient_accumulation_steps": "train.gradient_accumulation_steps",
    "fp16": "model.dtype",
    "bf16": "model.dtype",
    "amp": "model.dtype",
    "activation_checkpointing": "train.gradient_checkpointing",
}
# The only values that are right here, and why.
_ONLY = {
    "zero_force_ds_cpu_optimizer": (False, "the recipe's optimizer runs on the CPU, too"),
    "zero_allow_untested_optimizer": (True, "the optimizer is the recipe's"),
    "stage3_param_persistence_threshold": (
        0,
        "small weights would be kept whole, in one dtype, and an adapter's is fp32",
    ),
    "stage3_gather_16bit_weights_on_model_save": (True, "what is saved is whole"),
}


def deepspeed(strategy: str, offload: str | None, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """DeepSpeed's configuration of `zero1`, `zero2` or `zero3`; `own` is what a file of one's own says, whose word it is then also
    whether anything is offloaded.
    """
    presets = yaml.safe_load(PRESETS.read_text(encoding="utf-8"))
    found = presets["each"] | presets[strategy]
    if own is not None:
        return found | own | {"zero_optimization": found["zero_optimization"] | own["zero_optimization"]}
    if offload:
        found["zero_optimization"] |= presets["offload"][strategy]
    return found


def read(file: str) -> yaml_lines.Source:
    """A file of DeepSpeed's, as it is written. Raises OSError and UnicodeDecodeError."""
    written = Path(file).expanduser().read_text(encoding="utf-8-sig")
    return yaml_lines.load(written.expandtabs(2), file)  # JSON may have tabs, YAML may not


def own(file: str, strategy: str) -> dict[str, Any]:
    """What a file of DeepSpeed's (JSON or YAML) says for a strategy, without what the recipe says anyway. Raises RecipeError with
    every key that is the recipe's, that is unknown, or that would train something else.
    """
    try:
        source = read(file)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise RecipeError([f"launch.deepspeed: {file}: cannot be read: {why}"]) from None
    found: Any = source.value  # a mapping, once it has no problems
    if wrong := source.problems or list(_problems(found, strategy)):
        said = [": ".join(filter(None, (source.place(path), ".".join(path), what))) for path, what in wrong]
        raise RecipeError(said, f"Mend {file}.")
    kept = {key: value for key, value in found.items() if key not in _SAID_BY and value != AUTO}
    zero = {key: value for key, value in found["zero_optimization"].items() if value != AUTO}
    return kept | {"zero_optimization": zero}


def told(launch: Launch) -> dict[str, Any]:
    """`offload`, where what processes hold a part of waits, and what a file of one's own says: each as far as it is given."""
    if launch.deepspeed is None:
        return {"offload": launch.offload} if launch.offload else {}
    found = own(launch.deepspeed, launch.strategy)
    return {"deepspeed": found} | ({"offload": "cpu"} if _waits(found["zero_optimization"], _OFFLOADED[0]) else {})


def _waits(zero: Mapping[str, Any], key: str) -> bool:
    return zero.get(key, {}).get("device", "none") != "none"


def _problems(found: object, strategy: str) -> Iterator[tuple[tuple, str]]:
    if not isinstance(found, dict):
        yield (), "must be a mapping, as DeepSpeed's own files are"
        return
    others = {key: value for key, value in found.items() if key not in _SAID_BY}
    for key in found.keys() & _SAID_BY:
        value = found[key]
        if value != AUTO and not (isinstance(value, dict) and value.get("enabled") in (AUTO, False)):
            yield (key,), f'is said by the recipe ({_SAID_BY[key]}): leave it out, or make it "auto"'
    yield from _checked((), others, _SWITCHES)
    zero, at = found.get("zero_optimization", {}), ("zero_optimization",)
    if not isinstance(zero, dict):
        return
    if (stage := zero.get("stage")) != int(strategy[-1]):
        yield (*at, "stage"), f"must be {strategy[-1]}, for launch.strategy is {strategy}, and is {stage}"
        return
    yield from _checked(at, zero, _OF_ANY | (_OF_ZERO3 if stage == 3 else _OF_WHOLE_WEIGHTS))
    offloaded = [key for key in _OFFLOADED if isinstance(zero.get(key), dict)]
    for key in offloaded:
        yield from _checked((*at, key), zero[key], _OF_OFFLOADED)
    if stage == 3 and len({_waits(zero, key) for key in _OFFLOADED if key in offloaded or key not in zero}) > 1:
        yield (*at, offloaded[0]), f"{' and '.join(_OFFLOADED)} go together with zero3, to cpu both or none"


def _checked(at: tuple, found: Mapping[str, Any], known: Mapping[str, str]) -> Iterator[tuple[tuple, str]]:
    """What is unknown, of the wrong kind, or has one value only."""
    for key, value in found.items():
        path, kind = (*at, str(key)), known.get(str(key))
        if kind is None:
            yield path, f"has no effect, or could train something else: leave it out{did_you_mean(str(key), known)}"
        elif value != AUTO and not _is(kind, value):
            yield path, f"must be {kind}"
        elif key in _ONLY and value not in (_ONLY[key][0], AUTO):
            yield path, f"must be {str(_ONLY[key][0]).lower()}: {_ONLY[key][1]}"


def _is(kind: str, value: object) -> bool:
    if kind == NUMBER:
        return isinstance(value, int | float) and not isinstance(value, bool) and value == int(value) and value >= 0
    return {YES: isinstance(value, bool), SEVERAL: isinstance(value, dict)}.get(kind, value in ("cpu", "none"))
