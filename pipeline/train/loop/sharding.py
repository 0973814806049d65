"""A model of which each process holds a part (`strategy: fsdp`, torch's FSDP2 by way of accelerate): how it is cut, saved and
filled again.

It is cut before anything runs on it, so that nothing here ever needs a card that holds all of it. From then on every process
takes part wherever it runs: in the figures before and after, and in saving.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import save_fsdp_optimizer
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from transformers.trainer import SCHEDULER_NAME

from pipeline.errors import MachineError
from pipeline.model.parts import close
from pipeline.train.loop import half
from pipeline.train.loop.engine import INSTEAD, Engine

_GENERATES = "_generates"  # on a model that is in the midst of it


class Sharding(Engine):
    """The strategy `fsdp`."""

    kind = DistributedType.FSDP

    def arguments(self) -> dict[str, object]:
        """NO_WRAP: it is cut below, before accelerate has it.

        Gradients are shared out in every pass: until then each process has all of them, in fp32, which is more than the model itself.
        """
        config = {"version": 2, "state_dict_type": "SHARDED_STATE_DICT", "auto_wrap_policy": "NO_WRAP"}
        config["cpu_offload"] = self.context.offload == "cpu"
        each_pass = {"gradient_accumulation_kwargs": {"sync_each_batch": True}}
        return {"fsdp": True, "accelerator_config": each_pass, "fsdp_config": config}

    def take(self, trainer) -> None:
        """Have accelerate work with FSDP on a CPU, too, where it would fall back to whole copies without a word."""
        state = trainer.accelerator.state
        trainer.accelerator.prepare = _keeping_parameters(trainer.accelerator.prepare)
        if state.distributed_type == DistributedType.FSDP:
            return
        plugin = FullyShardedDataParallelPlugin(**trainer.args.fsdp_plugin_args)
        for shared in (AcceleratorState._shared_state, PartialState._shared_state):
            shared["distributed_type"] = DistributedType.FSDP
        state.fsdp_plugin = plugin
        trainer.is_fsdp_enabled = True

    def reference(self, kept: bool) -> torch.nn.Module:
        return torch.nn.Identity()  # what is needed is loaded where it is cut

    def divide(self, trainer, apart: bool) -> None:
        trainer.model = trainer.model_wrapped = cut(trainer.model, trainer.accelerator)
        if apart:
            frozen = self.context.load_reference().eval().requires_grad_(False)
            trainer.ref_model = cut(frozen, trainer.accelerator)

    def check(self, trainer) -> None:
        """What is trained has to be parts, and the optimizer's."""
        trained = {id(one): one for one in trainer.model.parameters() if one.requires_grad}
        held = {id(one) for group in trainer.optimizer.param_groups for one in group["params"]}
        if held != set(trained) or not all(isinstance(one, DTensor) for one in trained.values()):
            raise MachineError("The optimizer does not hold the parts that are trained.", INSTEAD)

    def save_optimizer(self, trainer, folder: str, whole: Callable[[str], None]) -> None:
        """Each process its own part, in torch's form for that (DCP), and the first one the schedule."""
        accelerator = trainer.accelerator
        save_fsdp_optimizer(accelerator.state.fsdp_plugin, accelerator, trainer.optimizer, trainer.model, folder)
        if trainer.args.should_save:
            torch.save(trainer.lr_scheduler.state_dict(), Path(folder) / SCHEDULER_NAME)


def _keeping_parameters(prepare: Callable) -> Callable:
    """accelerate's `prepare` gives an optimizer the parts of a model that it cuts, and finds them by their address, which an empty
    part (of fewer rows than there are processes) does not have. Here the optimizer is made of the parts, and keeps them.
    """

    def prepared(*given):
        optimizers = [one for one in given if isinstance(one, torch.optim.Optimizer)]
        held = [[list(group["params"]) for group in one.param_groups] for one in optimizers]
        found = prepare(*given)
        for one, parameters in zip(optimizers, held, strict=True):
            for group, own in zip(one.param_groups, parameters, strict=True):
                group["params"] = own
        return found

    return prepared


def cut(model: torch.nn.Module, accelerator) -> torch.nn.Module:
    """Leave each process its part of the model, layer by layer, and what is outside of the layers as one. Raises MachineError
    where that is not what came of it.

    Every weight stays in its dtype: accelerate would train other ones than one process does. Gradients are added up in fp32.
    What runs in half precision is what does so in one process.
    """
    precision = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    options = {"mp_policy": precision, "offload_policy": accelerator.state.fsdp_plugin.cpu_offload}
    layers = set(getattr(model, "_no_split_modules", None) or ())
    for module in list(model.modules()):
        if type(module).__name__ in layers:
            fully_shard(module, **options)
    fully_shard(model, **options)
    model.register_forward_hook(_let_go)
    if accelerator.native_amp:
        half.run_so(model, accelerator.autocast)
    if hasattr(model, "generate"):  # one that scores rows does not
        register_fsdp_forward_method(model, "generate")
        model.generate = _letting_go_once(model, model.generate)
    whole = [name for name, one in model.named_parameters() if not isinstance(one, DTensor)]
    parts = sum(isinstance(module, FSDPModule) for module in model.modules())
    if parts < 2 or whole:
        raise MachineError(
            f"Each process was to hold a part of the model, and {', '.join(whole[:3]) or 'it has no layers that'} stayed whole.",
            INSTEAD,
        )
    return model


def _let_go(model: torch.nn.Module, *_) -> None:
    """Of the others' parts of what is outside of the layers, where no backward pass follows: whoever then changes which adapter
    is trained would change that of the whole weights, and not of the part.
    """
    if not torch.is_grad_enabled() and not vars(model).get(_GENERATES):
        close(model)


def _letting_go_once(model: torch.nn.Module, generate: Callable) -> Callable:
    """`generate` runs the model for every token: it lets go when all are there."""

    def generated(*given, **named):
        vars(model)[_GENERATES] = True
        try:
            return generate(*given, **named)
        finally:
            del vars(model)[_GENERATES]
            close(model)

    return generated
