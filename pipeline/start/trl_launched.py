"""How the launcher of a command of TRL's was told to share the work, and what that is here. Of TRL 1.14.2, accelerate 1.15, torchrun."""

from collections.abc import Callable
from functools import partial

from pipeline.recipe.launch import ZERO
from pipeline.start.translation import Translation

_PROCESSES = ("num_processes", "nproc_per_node")
_LAUNCHED = """multi_gpu mixed_precision main_process_port machine_rank standalone dynamo_backend same_network rdzv_backend
    rdzv_endpoint node_rank tee log_dir gpu_ids m module""".split()
# TRL's own files for accelerate with which a process holds a part of anything.
_STRATEGIES = {"fsdp1": "fsdp", "fsdp2": "fsdp"} | {name: name for name in ZERO}


def handlers(t: Translation) -> dict[str, Callable[[object], None]]:
    """What becomes of each of the launcher's own arguments."""
    return {
        **{key: partial(_launched, t, key) for key in _LAUNCHED},
        **{key: partial(_accelerate, t, key) for key in ("accelerate_config", "config_file")},
        **{key: partial(_machines, t, key) for key in ("num_machines", "nnodes")},
        **{key: partial(_counted, t, key) for key in _PROCESSES},
    }


def share(t: Translation) -> None:
    """There each process takes per_device_train_batch_size rows; here that, with the accumulation, is the whole step."""
    key = next((one for one in _PROCESSES if str(t.value(one, "")).isdigit()), None)
    if key is None or (count := int(t.value(key))) < 2:
        return
    t.put("launch.processes", count, key)
    if strategy := _STRATEGIES.get(config := t.value("accelerate_config")):
        t.put("launch.strategy", strategy, "accelerate_config")
        if config == "fsdp1":
            t.means.append("accelerate_config: fsdp1: torch's FSDP2 is its like here.")
    passes = int(t.value("gradient_accumulation_steps", 1))
    t.put("train.gradient_accumulation_steps", passes * count, key)
    if t.value("steps_per_generation"):
        t.put("train.steps_per_generation", int(t.value("steps_per_generation")) * count, key)
    t.means.append(
        f"gradient_accumulation_steps: {passes} became {passes * count}: there each of {count} processes takes "
        "per_device_train_batch_size rows, here they share a step of that times the accumulation. An update has as many rows."
    )


def _counted(t: Translation, key: str, value: object) -> None:
    if not str(value).isdigit():
        t.drop(key, "is no number; launch.processes: auto takes every GPU that is seen")
    elif int(str(value)) == 1:
        t.drop(key, "is one, as here where nothing is said")


def _launched(t: Translation, key: str, value: object) -> None:
    t.drop(key, "is the launcher's; how many processes train is said by launch")


def _accelerate(t: Translation, key: str, value: object) -> None:
    counted = any(str(t.value(one, "1")) != "1" for one in _PROCESSES)
    if value in _STRATEGIES and key == "accelerate_config" and counted:
        return  # share() says it
    if value not in ("single_gpu", "multi_gpu"):
        strategy = _STRATEGIES.get(str(value), "fsdp or zero3 where each holds a part of the model")
        t.to_do.append(
            f"{key}: {value}: if it is for several processes, say so: launch: {{processes: 2}}, with strategy: {strategy}."
        )
    t.drop(key, "how many processes train, and what each holds, is said by launch")


def _machines(t: Translation, key: str, value: object) -> None:
    if str(value) != "1":
        t.to_do.append(
            f"{key}: {value}: each machine runs the same command here, with --nodes, --node-rank and --rendezvous."
        )
    t.drop(key, "is said on the command line; see --nodes")
