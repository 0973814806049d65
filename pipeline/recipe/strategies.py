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
# Of DeepSpeed 0.19.8: what says how it is done, and never what is trained.
_SWITCHES = """zero_optimization wall_clock_breakdown steps_per_print comms_logger flops_profiler memory_breakdown dump_state
    zero_force_ds_cpu_optimizer zero_allow_untested_optimizer""".split()
_OF_ZERO = """stage contiguous_gradients reduce_scatter reduce_bucket_size allgather_partitions allgather_bucket_size overlap_comm
    round_robin_gradients sub_group_size offload_optimizer offload_param stage3_prefetch_bucket_size stage3_max_live_parameters
    stage3_max_reuse_distance stage3_param_persistence_threshold stage3_gather_16bit_weights_on_model_save
    zero_hpz_partition_size""".split()
_OFFLOADED = ("offload_optimizer", "offload_param")
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
        return found | own | {"zero_optimization": found["zero_optimization"] | own.get("zero_optimization", {})}
    if offload:
        found["zero_optimization"] |= presets["offload"][strategy]
    return found


def own(file: str, strategy: str) -> dict[str, Any]:
    """What a file of DeepSpeed's (JSON or YAML) says for a strategy, without what the recipe says anyway. Raises RecipeError with
    every key that is the recipe's, that is unknown, or that would train something else.
    """
    try:
        source = yaml_lines.load(Path(file).read_text(encoding="utf-8-sig"), file)
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            [f"launch.deepspeed: {file}: cannot be read: {getattr(error, 'strerror', None) or error}"]
        ) from None
    found = source.value
    if wrong := source.problems or list(_problems(found, strategy)):
        raise RecipeError(
            [f"{source.place(path)}: {'.'.join(map(str, path))}: {said}".replace(": : ", ": ") for path, said in wrong],
            f"Mend {file}.",
        )
    kept = {key: value for key, value in found.items() if key not in _SAID_BY and value != AUTO}
    zero = {key: value for key, value in found.get("zero_optimization", {}).items() if value != AUTO}
    return kept | {"zero_optimization": zero}


def told(launch: Launch) -> dict[str, Any]:
    """`offload`, where what processes hold a part of waits, and what a file of one's own says: each as far as it is given."""
    if launch.deepspeed is None:
        return {"offload": launch.offload} if launch.offload else {}
    found = own(launch.deepspeed, launch.strategy)
    waits = any(found["zero_optimization"].get(key, {}).get("device", "none") != "none" for key in _OFFLOADED)
    return {"deepspeed": found} | ({"offload": "cpu"} if waits else {})


def _problems(found: object, strategy: str) -> Iterator[tuple[tuple, str]]:
    if not isinstance(found, dict):
        yield (), "must be a mapping, as DeepSpeed's own files are"
        return
    for key, value in found.items():
        if key in _SAID_BY:
            if value != AUTO and not (isinstance(value, dict) and value.get("enabled") in (AUTO, False)):
                yield (key,), f'is said by the recipe ({_SAID_BY[key]}): leave it out, or make it "auto"'
        elif key not in _SWITCHES:
            yield (key,), f"is no switch that can be set here{did_you_mean(str(key), _SWITCHES)}"
        yield from _not_the_only((key,), value)
    zero = found.get("zero_optimization", {})
    if not isinstance(zero, dict):
        yield ("zero_optimization",), "must be a mapping"
        return
    if (stage := zero.get("stage")) != int(strategy[-1]):
        yield (
            ("zero_optimization", "stage"),
            f"must be {strategy[-1]}, for launch.strategy is {strategy}, and is {stage}",
        )
    for key, value in zero.items():
        path = ("zero_optimization", key)
        if key not in _OF_ZERO:
            yield path, f"is unknown, or could train something else: leave it out{did_you_mean(str(key), _OF_ZERO)}"
        elif key in _OFFLOADED and (not isinstance(value, dict) or value.get("device") not in ("none", "cpu")):
            yield path, "device must be cpu or none"
        yield from _not_the_only(path, value)


def _not_the_only(path: tuple, value: object) -> Iterator[tuple[tuple, str]]:
    right, why = _ONLY.get(path[-1], (value, ""))
    if value not in (right, AUTO):
        yield path, f"must be {str(right).lower()}: {why}"
