"""A step's micro-batches dealt out to the processes of a stage, as one process would have made them and in its order.

Process r of n has micro-batches r, r + n, r + 2n, ... of an epoch. Where the last round has fewer than n, those without one
repeat the first of the round, and it counts for nothing: no process may wait for another that has nothing to do.
"""

from collections.abc import Iterator

import torch
from accelerate.utils import DistributedType
from torch.utils.data import BatchSampler, Sampler

from pipeline.data.tokens.encoded import IGNORED
from pipeline.errors import MachineError
from pipeline.ranks import Ranks


class Dealt(BatchSampler):
    """The micro-batches of one process. `sampler` gives the rows of all."""

    def __init__(self, sampler: Sampler[int], batch_size: int, drop_last: bool, ranks: Ranks):
        super().__init__(sampler, batch_size, drop_last)
        self.ranks = ranks

    @property
    def of_all(self) -> int:
        """How many micro-batches an epoch has."""
        return super().__len__()

    def __len__(self) -> int:
        return -(-self.of_all // self.ranks.size)

    def __iter__(self) -> Iterator[list[int]]:
        round_: list[list[int]] = []
        for batch in super().__iter__():
            round_.append(batch)
            if len(round_) == self.ranks.size:
                yield round_[self.ranks.rank]
                round_ = []
        if round_:
            yield round_[self.ranks.rank if self.ranks.rank < len(round_) else 0]


def dealt(loader, ranks: Ranks):
    """A data loader of accelerate's, with the micro-batches of this process in place of its own choice, which would fill up
    the last ones with rows from the beginning.
    """
    shard = loader.batch_sampler
    own = shard.batch_sampler
    shard.batch_sampler = Dealt(own.sampler, own.batch_size, own.drop_last, ranks)
    shard.num_processes, shard.process_index, shard.even_batches = 1, 0, False  # it hands on what it gets
    # Where accelerate looks for it to tell it the epoch, when an epoch is resumed in its middle.
    shard.sampler = own.sampler
    return loader


def counts(number: int, passes: int, in_epoch: int, dealt: Dealt) -> list[float]:
    """What each of this process's micro-batches of a step counts, whose loss is a mean over its rows, so that all of them
    together weigh what they would in one process; 0 for one that is only repeated.

    `number` of them make up the step, which is step `in_epoch` (from 0) of its epoch, and `passes` a full one.
    """
    n, r = dealt.ranks.size, dealt.ranks.rank
    there = min(dealt.of_all - in_epoch * passes * n, number * n)  # of all processes
    return [number * n / there if place * n + r < there else 0.0 for place in range(number)]


def without_labels(sample: dict) -> None:
    """Have a batch of tokens count for nothing where tokens are counted."""
    for name in ("labels", "shift_labels"):
        if name in sample:
            sample[name] = torch.full_like(sample[name], IGNORED)


def share(trainer, ranks: Ranks) -> None:
    """Have a trainer be one of several. Raises MachineError where the libraries have not made of it what was asked for."""
    if not ranks.alone:
        _check_processes(trainer, ranks)
        _gather_what_there_is(trainer, ranks)


def _gather_what_there_is(trainer, ranks: Ranks) -> None:
    """TRL's figures of all processes, in the last step of an epoch, too: there processes may have unlike many rows, or only repeated
    ones. (accelerate would cut what is gathered by a reckoning of its own; KTO's KL goes into the loss.)
    """
    accelerator = trainer.accelerator
    evenly = accelerator.gather

    def gather(tensor: torch.Tensor, **_: object) -> torch.Tensor:
        if not trainer.uneven:
            return evenly(tensor)
        own = tensor.detach()
        parts = [one for one in ranks.of_all(own.cpu() if trainer.counts else None) if one is not None]
        return torch.cat([one if one.dim() else one[None] for one in parts]).to(own.device)

    accelerator.gather = accelerator.gather_for_metrics = gather


def correct_count(trainer) -> None:
    """TRL counts tokens for its log, and with them those of a micro-batch that is only repeated."""
    if hasattr(trainer, "_total_train_tokens"):
        trainer._total_train_tokens = trainer.tokens_of_all
        figures = trainer._metrics["train"]
        if "num_tokens" in figures:
            figures["num_tokens"] = [trainer.tokens_of_all]


def _check_processes(trainer, ranks: Ranks) -> None:
    """The libraries fall back without a word."""
    state = trainer.accelerator.state
    whole = DistributedType.MULTI_GPU if trainer.args.device.type == "cuda" else DistributedType.MULTI_CPU
    expected = trainer.context.engine.kind or whole
    if state.num_processes != ranks.size or trainer.args.world_size != ranks.size or state.distributed_type != expected:
        raise MachineError(
            f"{ranks.size} processes were started, and accelerate made {state.num_processes} of them "
            f"({state.distributed_type.value}).",
            "Please report it with stage.log; --processes 1 (PROCESSES=1) trains in one process.",
        )
