"""What is due when, told from the seed and by counting alone: a resumed run finds its place without having kept it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipeline.ppo.config import PPOConfig
from pipeline.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Due:
    """Where a micro-batch belongs. All are numbers that begin at 0."""

    step: int  # of the optimizer
    rollout: int
    epoch: int  # a pass over the rollout
    mini_batch: int  # an optimizer step of the pass
    micro_batch: int  # a part of the optimizer step


@dataclass(frozen=True)
class Schedule:
    """The rollouts of a run over `prompts` rows of data, and the order in which they are trained on: the same in all of its
    processes, of which this is one.
    """

    args: PPOConfig
    prompts: int
    ranks: Ranks = ALONE

    @property
    def steps_a_rollout(self) -> int:
        return self.args.num_ppo_epochs * self.args.num_mini_batches

    def steps(self) -> int:
        """Optimizer steps in all: whole rollouts, unless max_steps is less."""
        args = self.args
        episodes = args.total_episodes or int(args.num_train_epochs * self.prompts)
        steps = max(-(-episodes // args.rollout_size), 1) * self.steps_a_rollout
        return min(args.max_steps, steps) if args.max_steps > 0 else steps

    def due(self, tick: int) -> Due:
        """`tick` counts the micro-batches of the run."""
        step, micro_batch = divmod(tick, self.args.gradient_accumulation_steps)
        rollout, within = divmod(step, self.steps_a_rollout)
        epoch, mini_batch = divmod(within, self.args.num_mini_batches)
        return Due(step, rollout, epoch, mini_batch, micro_batch)

    def seed(self, number: int) -> int:
        return self.args.seed * 1_000_003 + number

    def prompts_of(self, rollout: int) -> list[int]:
        """Row numbers: the data in a fresh order each pass, a rollout after the other."""
        rows, size = [], self.args.rollout_size
        for at in range(rollout * size, (rollout + 1) * size):
            passes, place = divmod(at, self.prompts)
            if not rows or place == 0:
                order = _shuffled(self.prompts, self.seed(passes))
            rows.append(order[place])
        return rows

    def micro_batches(self, rollout: int, epoch: int, lengths: Sequence[int]) -> list[list[int]]:
        """The rows of each micro-batch of one pass over a rollout, whose rows have these lengths.

        Rows of like length stand together within an optimizer step, whose sum does not depend on how it is parted.
        """
        size = self.args.per_device_train_batch_size
        step = size * self.args.gradient_accumulation_steps * self.ranks.size
        order = _shuffled(self.args.rollout_size, self.seed(rollout) * 1009 + epoch)
        order = [
            row for at in range(0, len(order), step) for row in sorted(order[at : at + step], key=lengths.__getitem__)
        ]
        return [order[at : at + size] for at in range(0, len(order), size)]

    def micro_batches_of_step(self, due: Due, lengths: Sequence[int]) -> list[list[int]]:
        """Those that make up the optimizer step which is due, in all processes."""
        count = self.args.gradient_accumulation_steps * self.ranks.size
        first = due.mini_batch * count
        return self.micro_batches(due.rollout, due.epoch, lengths)[first : first + count]

    def own(self, micro_batches: Sequence[list[int]]) -> Sequence[list[int]]:
        """Those of this process, of all of a step or a pass."""
        return micro_batches[self.ranks.rank :: self.ranks.size]


def _shuffled(count: int, seed: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
