"""What the policy is trained on: a rollout, made by the policy of the moment, scored, and weighed before it is used."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from peft import PeftModel
from torch import Tensor

from pipeline.data.shapes.kinds import Prompt
from pipeline.evaluate.forward import untouched_random_state
from pipeline.ppo import arithmetic, roles
from pipeline.ppo.config import PPOConfig
from pipeline.ppo.rollout import Rollout, answer, padded
from pipeline.ppo.schedule import Schedule
from pipeline.reward.adapter import acting_as
from pipeline.reward.reward import Reward

REMEMBERED = ("old", "entropy", "reference", "values")


class Experience:
    """The rollout that is trained on now, and what changes from one to the next: KL coefficient, scale of the scores.

    `precision` is the context in which the trainer's forward passes run.
    """

    def __init__(self, tokenizer, schedule: Schedule, precision: Callable[[], AbstractContextManager]):
        self.tokenizer, self.schedule, self.precision = tokenizer, schedule, precision
        self.args: PPOConfig = schedule.args
        self.kl = arithmetic.AdaptiveKL(self.args.kl_coef, self.args.kl_target, self.args.kl_horizon)
        self.scale = arithmetic.RunningScale()
        self.rollout: Rollout | None = None
        self.number = -1  # of the rollout

    def collect(
        self,
        number: int,
        model: PeftModel,
        all_prompts: Sequence[list[int]],
        examples: Sequence[Prompt],
        reward: Reward,
    ) -> dict[str, float]:
        """Make rollout `number`; returns its figures. `all_prompts` are the token ids of all `examples`."""
        which, args, tokenizer = self.schedule.prompts_of(number), self.args, self.tokenizer
        own, ranks = self._own_part(len(which)), self.schedule.ranks
        prompts = [list(all_prompts[row]) for row in which]
        sampling = {
            "length": args.response_length,
            "temperature": args.temperature,
            "eos": tokenizer.eos_token_id,
            "pad": tokenizer.pad_token_id,
            "batch_size": args.local_rollout_forward_batch_size,
        }
        with untouched_random_state(), self.precision():
            torch.manual_seed((self.schedule.seed(number) + (ranks.rank << 48)) % 2**63)
            responses = answer(model, prompts[own], **sampling)
            each = reward.each(model, [examples[row] for row in which[own]], prompts[own], responses)
        parts = ranks.of_all((responses, each))
        responses, each = [one for part, _ in parts for one in part], torch.cat([one for _, one in parts])
        ids, mask, response = padded(prompts, responses, tokenizer.pad_token_id)
        stopped = torch.tensor([float(one[-1] == tokenizer.eos_token_id) for one in responses])
        blank = (torch.zeros(response.shape, dtype=torch.float32) for _ in range(6))
        self.rollout = Rollout(ids, mask, response, torch.tensor(which), reward.total(each), stopped, *blank)
        self.number = number
        self._remember(model, self.rollout)
        means = zip(reward.names, each.mean(0).tolist(), strict=True)
        return self._weigh(self.rollout) | {f"rewards/{name}/mean": mean for name, mean in means}

    def _own_part(self, rows: int) -> slice:
        """The prompts that this process answers."""
        ranks = self.schedule.ranks
        return slice(rows * ranks.rank // ranks.size, rows * (ranks.rank + 1) // ranks.size)

    @torch.no_grad()
    def _remember(self, model: PeftModel, rollout: Rollout) -> None:
        """What policy, reference and value say of it before it is trained on.

        In the micro-batches of the first pass, and by the function that trains: so its ratio is exactly 1 there.
        """
        temperature = self.args.temperature
        of_all = self.schedule.micro_batches(self.number, 0, rollout.lengths())
        for rows in self.schedule.own(of_all):
            part = rollout.part(rows, self.args.device)
            batch, filled = (part.ids, part.mask, part.response), (rows, slice(part.response.shape[1]))
            with self.precision():
                found, spread = roles.response_log_probabilities(model, *batch, temperature)
                rollout.old[filled], rollout.entropy[filled] = found.cpu(), spread.cpu()
                with acting_as(model, roles.REFERENCE):
                    found, _ = roles.response_log_probabilities(model, *batch, temperature)
                rollout.reference[filled] = found.cpu()
                with acting_as(model, roles.VALUE):
                    rollout.values[filled] = roles.response_values(model, *batch).cpu()
        for name in REMEMBERED:  # each row by one process, and 0 in all others
            setattr(rollout, name, sum(self.schedule.ranks.of_all(getattr(rollout, name))))

    @torch.no_grad()
    def _weigh(self, rollout: Rollout) -> dict[str, float]:
        """Advantages and returns; the figures are of the time before the KL coefficient moves."""
        args, response, coefficient = self.args, rollout.response, self.kl.coefficient
        kl = arithmetic.kl_estimate(rollout.old, rollout.reference, args.kl_estimator).masked_fill(response == 0, 0)
        used = shaped(rollout.scores, rollout.stopped, args, self.scale)
        rewards = arithmetic.rewards_per_token(used, kl, response, coefficient)
        if args.whiten_rewards:
            rewards = arithmetic.whiten(rewards, response, shift_mean=False)
        rollout.advantages, rollout.returns = arithmetic.generalized_advantages(
            rewards, rollout.values, response, args.gamma, args.lam
        )
        penalty = (coefficient * kl).sum(1)
        figures = {
            "objective/kl": float(kl.sum(1).mean()),
            "objective/entropy": float(arithmetic.masked_mean(rollout.entropy, response)),
            "objective/scores": float(rollout.scores.mean()),
            "objective/rlhf_reward": float((used - penalty).mean()),
            "objective/non_score_reward": float(-penalty.mean()),
            "objective/kl_coef": coefficient,
            "val/eos_rate": float(rollout.stopped.mean()),
            "val/response_length": float(response.sum(1).float().mean()),
            "val/no_signal": float(bool((rollout.scores == rollout.scores[0]).all())),
            "val/explained_variance": arithmetic.explained_variance(rollout.values, rollout.returns, response),
            "episode": (self.number + 1) * args.rollout_size,
        }
        self.kl.update(figures["objective/kl"], args.rollout_size)
        if args.whiten_advantages:
            rollout.advantages = arithmetic.whiten(rollout.advantages, response)
        return figures


def shaped(scores: Tensor, stopped: Tensor, args: PPOConfig, scale: arithmetic.RunningScale) -> Tensor:
    """(rows,): scores scaled, clipped, and less for responses that never ended. The `scale` takes them in."""
    if args.normalize_reward:
        scale.update(scores)
        scores = scores / (scale.deviation + 1e-8)
    if args.reward_clip is not None:
        scores = scores.clamp(-args.reward_clip, args.reward_clip)
    if args.missing_eos_penalty is not None:
        scores = scores - args.missing_eos_penalty * (1 - stopped)
    return scores
