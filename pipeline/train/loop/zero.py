"""Optimizer and gradients divided among the processes by DeepSpeed (`strategy: zero1, zero2`), by way of accelerate.

Each process has the whole model, and keeps the optimizer's state of its part of it; with zero2 its part of the gradients, too.
"""

from collections.abc import Callable
from types import MethodType

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from accelerate.utils.operations import ConvertOutputsToFp32

from pipeline.errors import MachineError
from pipeline.recipe import strategies


def arguments(strategy: str, offload: str | None) -> dict[str, object]:
    """What transformers' training arguments say of it."""
    _compile_nothing()
    return {"deepspeed": strategies.deepspeed(strategy, offload), "bf16": False}


def take(trainer) -> None:
    """Have accelerate work with DeepSpeed on a CPU, too, where it would fall back to DDP without a word."""
    state = trainer.accelerator.state
    if state.distributed_type != DistributedType.DEEPSPEED:
        plugin = trainer.args.deepspeed_plugin
        for shared in (AcceleratorState._shared_state, PartialState._shared_state):
            shared["distributed_type"] = DistributedType.DEEPSPEED
        state.deepspeed_plugins = plugin
        plugin.select(_from_accelerator_state=True)
        trainer.is_deepspeed_enabled = True


def check(trainer, strategy: str) -> None:
    """Once the engine is up. Raises MachineError where it is not what was asked for."""
    engine, size = trainer.model_wrapped, trainer.context.ranks.size
    stage = engine.zero_optimization_stage()
    if stage != int(strategy[-1]) or engine.world_size != size:
        raise MachineError(
            f"{strategy} of {size} processes was asked for, and DeepSpeed made stage {int(stage)} of {engine.world_size} of it.",
            "Please report it with stage.log; --strategy ddp (STRATEGY=ddp) does without it.",
        )


def _compile_nothing() -> None:
    """On a CPU DeepSpeed would compile collectives of its own for the processes of one machine, for minutes."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
