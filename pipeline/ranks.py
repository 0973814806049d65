"""The processes of a stage that has several: which of them this is, and how they wait for each other and agree.

torch.distributed counts them as ranks from 0, and rank 0 is the one that tells and keeps everything. What is said here goes
through a group of its own (gloo, on the CPU), in which one may wait for as long as another prepares rows or answers
held-out prompts; a collective of training may take half an hour. A process that dies is noticed by its launcher.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

TRAINING, WAITING = timedelta(minutes=30), timedelta(days=7)
T = TypeVar("T")
# What the collectives of gloo and NCCL say of a process that is not there any more.
_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "Timed out",
    "timed out",
    "remote process exited",
    "communicator was aborted",
)


@dataclass(frozen=True)
class Ranks:
    """This process among those of its stage; alone, where nothing is said."""

    rank: int = 0
    size: int = 1
    on_this_machine: int = 1  # how many of them
    sharded: bool = False  # whether each holds only a part of the weights
    _group: object = None
    _group_of_steps: object = None

    @property
    def first(self) -> bool:
        """Whether it is the one that tells and keeps."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.size == 1

    @property
    def together(self) -> "Ranks":
        """Those that take part where the model runs beside the training: all, where each holds a part of it, else the first."""
        return self if self.sharded else ALONE

    @property
    def takes_part(self) -> bool:
        """Whether this process is one of them."""
        return self.first or self.sharded

    @property
    def name(self) -> str:
        """What people call it: they count from 1."""
        return f"process {self.rank + 1} of {self.size}"

    def wait(self) -> None:
        """Until all of them are here."""
        if not self.alone:
            import torch.distributed as dist

            dist.barrier(self._group)

    @contextmanager
    def first_before_the_rest(self) -> Iterator[None]:
        """The first does what follows alone; then the others do, who find it done."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def told(self, value: T) -> T:
        """What the first has, to all of them."""
        if self.alone:
            return value
        import torch.distributed as dist

        said = [value]
        dist.broadcast_object_list(said, src=0, group=self._group)
        return said[0]

    def of_all(self, value: T, *, in_step: bool = False) -> list[T]:
        """What each of them has, in their order, to all of them; `in_step` where none of them can be long in coming."""
        if self.alone:
            return [value]
        import torch.distributed as dist

        said: list = [None] * self.size
        dist.all_gather_object(said, value, group=self._group_of_steps if in_step else self._group)
        return said


ALONE = Ranks()


def here() -> Ranks:
    """As the launcher's environment says; they are not joined yet."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        return ALONE
    return Ranks(int(os.environ["RANK"]), size, int(os.environ["LOCAL_WORLD_SIZE"]))


def joined(ranks: Ranks, device: str, *, sharded: bool = False) -> Ranks:
    """With the group in which they talk, once all of them are there. `device` is where they train, "cpu" or "cuda"; `sharded`,
    whether each of them is to hold only a part of the weights.
    """
    if ranks.alone:
        return ranks
    import torch.distributed as dist

    # What is kept on the CPU is gathered there.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=TRAINING)
    groups = [dist.new_group(backend="gloo", timeout=timeout) for timeout in (WAITING, TRAINING)]
    return Ranks(ranks.rank, ranks.size, ranks.on_this_machine, sharded, *groups)


def lost_another(error: BaseException) -> bool:
    """Whether an error only says that another process is gone."""
    said = str(error)
    return isinstance(error, RuntimeError) and any(words in said for words in _LOST)
