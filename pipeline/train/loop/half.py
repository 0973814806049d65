"""How a model in half precision runs while it is trained: under autocast, with outputs in fp32, as accelerate makes it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate.utils.operations import convert_outputs_to_fp32


def run_so(model: torch.nn.Module, autocast: Callable) -> None:
    """For good, where accelerate does not see to it. `autocast` makes the context, on the model's device."""
    model.forward = convert_outputs_to_fp32(autocast()(model.forward))


@contextmanager
def running_so(trainer) -> Iterator[None]:
    """The trainer's model for a while, before accelerate has it: log-probabilities of bf16 outputs are off by hundredths of a nat."""
    model = trainer.model
    if not (trainer.args.bf16 or trainer.args.fp16):
        yield
        return
    own = vars(model).get("forward")
    run_so(model, trainer.accelerator.autocast)
    try:
        yield
    finally:
        del model.forward
        if own:
            model.forward = own
