"""The order in which rows are trained on, drawn from the seed and the epoch alone."""

from collections.abc import Sequence

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class Order(Sampler[int]):
    """A fresh permutation every epoch, drawn from (seed, epoch) alone, so that a resumed epoch goes on as it began.

    With `group`, rows of like length share a batch (transformers' grouping), and the batches come in random order.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int, *, group: bool):
        self.lengths, self.batch, self.seed, self.group = lengths, batch, seed, group
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        if not self.group:
            return iter(torch.randperm(len(self), generator=generator).tolist())
        order = get_length_grouped_indices(self.lengths, self.batch, generator=generator)
        whole = len(order) // self.batch
        batches = [order[number * self.batch : (number + 1) * self.batch] for number in range(whole)]
        shuffled = torch.randperm(whole, generator=generator).tolist()
        return iter([row for number in shuffled for row in batches[number]] + order[whole * self.batch :])


class InGroups(Sampler[int]):
    """Rows of an order, so many of them a rollout, each as often as it is answered; and all of that once for every step
    that is made with the rollout.

    The last rollout of a pass is filled up with the rows that came first.
    """

    def __init__(self, order: Sampler[int], answers: int, rows: int, steps: int):
        self.order, self.answers, self.rows, self.steps = order, answers, rows, steps

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.order, "set_epoch"):
            self.order.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self.order) // self.rows) * self.rows * self.answers * self.steps

    def __iter__(self):
        order = list(self.order)
        for start in range(0, len(order), self.rows):
            rollout = [order[at % len(order)] for at in range(start, start + self.rows)]
            for _ in range(self.steps):
                for row in rollout:
                    yield from [row] * self.answers
