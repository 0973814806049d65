"""What is trained, divided among the processes by DeepSpeed (`strategy: zero1, zero2, zero3`), by way of accelerate.

Each process keeps a part of the optimizer's state, with zero2 of the gradients, too, and with zero3 of the weights themselves.
With zero3 the model is divided before anything runs on it, by an engine that only reads; the one that trains takes its place.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from types import SimpleNamespace

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from peft import PeftModel
from transformers.integrations import deepspeed as integration

from pipeline.errors import MachineError
from pipeline.recipe import strategies
from pipeline.train.loop import half
from pipeline.train.loop.engine import INSTEAD, Engine


class Zero(Engine):
    """The strategies `zero1`, `zero2` and `zero3`."""

    kind = DistributedType.DEEPSPEED
    loads_weights = True
    copies = 2  # its own, and that of its optimizer
    _reading = None  # with zero3, until another engine trains

    def arguments(self) -> dict[str, object]:
        import deepspeed

        context = self.context
        # On a CPU it would compile collectives of its own, for minutes. Those of gloo do.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        if context.dtype != "float32" and not isinstance(context.model, PeftModel):
            text = f"{context.strategy} trains an fp32 copy of the {context.dtype} weights: more exactly than one process does"
            context.report("note", text=text)
        return {"deepspeed": strategies.deepspeed(context.strategy, context.offload, context.deepspeed)}

    def take(self, trainer) -> None:
        """Have accelerate work with DeepSpeed on a CPU, too, where it would fall back to DDP without a word."""
        accelerator, state = trainer.accelerator, trainer.accelerator.state
        if state.distributed_type != DistributedType.DEEPSPEED:
            for shared in (AcceleratorState._shared_state, PartialState._shared_state):
                shared["distributed_type"] = DistributedType.DEEPSPEED
            state.deepspeed_plugins = trainer.args.deepspeed_plugin
            state.deepspeed_plugins.select(_from_accelerator_state=True)
            trainer.is_deepspeed_enabled = True
        # DeepSpeed's own would turn an adapter's fp32 weights into bf16. Its forward is made as one process makes it.
        state.deepspeed_plugin.deepspeed_config["bf16"] = {"enabled": False}
        accelerator.prepare = self._one_engine(trainer, accelerator.prepare)
        if trainer.args.bf16:
            accelerator.autocast = lambda *_, **__: torch.autocast(trainer.args.device.type, dtype=torch.bfloat16)

    def _one_engine(self, trainer, prepare: Callable) -> Callable:
        """accelerate's `prepare`, where the engine that trains takes the place of the one that only reads."""

        def prepared(*given, **named):
            if any(one is trainer.model for one in given):
                if self._reading:
                    _let_go(self._reading)
                    self._reading = None
                if trainer.args.bf16:
                    half.run_so(
                        trainer.model, trainer.accelerator.autocast
                    )  # accelerate does not where it is DeepSpeed's
            return prepare(*given, **named)

        return prepared

    def reference(self, kept: bool) -> torch.nn.Module:
        with _aside():
            return _nobody() if kept else self.context.load_reference()

    def divide(self, trainer, apart: bool) -> None:
        """TRL has DeepSpeed divide a reference that stands apart."""
        if self.context.ranks.sharded:
            self._reading = _reading_engine(trainer.model, trainer.accelerator)

    def check(self, trainer) -> None:
        engine, context = trainer.model_wrapped, self.context
        stage, size = int(engine.zero_optimization_stage()), context.ranks.size
        if stage != int(context.strategy[-1]) or engine.world_size != size:
            said = f"{context.strategy} of {size} processes was asked for, and DeepSpeed made stage {stage} of {engine.world_size} of it."
            raise MachineError(said, INSTEAD)
        whole = [name for name, one in trainer.model.named_parameters() if not hasattr(one, "ds_id")]
        if context.ranks.sharded and whole:
            raise MachineError(
                f"Each process was to hold a part of the model, and {', '.join(whole[:3])} stayed whole.", INSTEAD
            )


def _reading_engine(model: torch.nn.Module, accelerator):
    """Leave each process its part of the model's weights. Returns the engine that gathers them, layer by layer, wherever it runs."""
    import deepspeed

    config = deepcopy(accelerator.state.deepspeed_plugin.deepspeed_config)
    config["zero_optimization"].pop("offload_optimizer", None)  # there is none yet
    engine, *_ = deepspeed.initialize(model=model, config=config)
    return engine


def _let_go(engine) -> None:
    """Of the model that it has divided, which stays so."""
    engine.destroy()
    engine.module_forward_pre_hook.remove()
    engine.module_forward_post_hook.remove()


@contextmanager
def _aside() -> Iterator[None]:
    """Load a model whole: once the arguments say zero3, transformers would divide it while it is read."""
    kept = integration._hf_deepspeed_config_weak_ref
    integration.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        integration._hf_deepspeed_config_weak_ref = kept


def _nobody() -> torch.nn.Module:
    """In the place of a reference that is not needed: TRL makes an engine of whatever it is given."""
    model = torch.nn.Linear(1, 1)
    model.config = SimpleNamespace()
    return model
