"""What each of several processes holds of a stage: all of its model (ddp), or a part of every tensor and whole layers for a while (fsdp).

As torch 2.13 does it: its DDP keeps a second copy of the gradients, which is what is exchanged; its FSDP2 is cut by
pipeline.train.loop.sharding: each layer is a unit, and what is outside of the layers is one. Counted in its code and held against
two processes on a CPU (benchmarks/memory_of_processes.py); what NCCL takes on a GPU is not measured here. Of DeepSpeed zero3 is
taken for the like of fsdp, and of zero1 and zero2 the optimizer is divided; neither was held against a run.
"""

from dataclasses import dataclass, replace

from pipeline.plan.memory.tuned import Tensor, Tuned
from pipeline.recipe import strategies
from pipeline.recipe.launch import DIVIDING, SHARDING, Launch

REDUCED = 4  # bytes of a gradient's number while FSDP adds it up


@dataclass(frozen=True)
class Held:
    """So many processes, what they have in common, and whether their parts wait in the host's memory."""

    processes: int = 1
    strategy: str = "ddp"
    offloaded: bool = False

    @property
    def sharded(self) -> bool:
        return self.processes > 1 and self.strategy in SHARDING

    @property
    def shares_optimizer(self) -> bool:
        return self.processes > 1 and self.strategy in DIVIDING

    def part(self, size: int) -> int:
        """Bytes that a process has on its GPU all the time, of so many in all."""
        if not self.sharded:
            return size
        return 0 if self.offloaded else -(-size // self.processes)

    def part_of(self, tuned: Tuned) -> Tuned:
        """Of what is trained: of each tensor the rows that the first process has, which has most; of vectors the numbers."""
        return self._divided(tuned) if self.sharded else tuned

    def optimized(self, tuned: Tuned) -> Tuned:
        """Of what is trained: that whose optimizer state a process has."""
        return self._divided(tuned) if self.shares_optimizer else tuned

    def _divided(self, tuned: Tuned) -> Tuned:
        return replace(tuned, tensors=tuple(map(self._rows_of, tuned.tensors)))

    def _rows_of(self, tensor: Tensor) -> Tensor:
        rows, columns, count = tensor
        if self.offloaded:
            return rows, columns, 0
        if rows > 1:
            return -(-rows // self.processes), columns, count
        return rows, -(-columns // self.processes), count


def held_by(launch: Launch) -> Held:
    """As a recipe has it."""
    return Held(launch.size, launch.strategy, "offload" in strategies.told(launch))


ALONE = Held()
