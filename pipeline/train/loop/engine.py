"""What a stage's processes have in common while they train. Each strategy of `launch` that divides a model has a class of its own."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from accelerate.utils import DistributedType

if TYPE_CHECKING:
    from pipeline.train.loop.context import Context

INSTEAD = "Please report it with stage.log; --strategy ddp (STRATEGY=ddp) does without it."


class Engine:
    """Each process has the whole model: `ddp`, and one process alone."""

    kind: DistributedType | None = None  # what accelerate calls it, where that does not depend on the device
    loads_weights = False  # whether it puts a checkpoint's weights back by itself
    copies = 0  # how often a checkpoint has the trained weights once more

    def __init__(self, context: "Context"):
        self.context = context

    def arguments(self) -> dict[str, object]:
        """What transformers' training arguments say of it."""
        return {}

    def take(self, trainer) -> None:
        """Once the trainer has its accelerator."""

    def reference(self, kept: bool) -> torch.nn.Module:
        """A reference model of its own; nothing in its place where what it says is kept."""
        return torch.nn.Identity() if kept else self.context.load_reference()

    def divide(self, trainer, apart: bool) -> None:
        """Leave each process its part of the model, and of the reference where that stands `apart`."""

    def check(self, trainer) -> None:
        """Before the first step. Raises MachineError where the libraries made something else of it."""

    def save_optimizer(self, trainer, folder: str, whole: Callable[[str], None]) -> None:
        """Of the optimizer and the schedule what a checkpoint needs; `whole` is how the library does it."""
        whole(folder)
