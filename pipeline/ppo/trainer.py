"""PPO in the loop of transformers' Trainer: one of its steps is one optimizer step on a part of a rollout.

The Trainer is fed with numbers ("ticks"), one a micro-batch. `schedule` tells from a tick which rollout, which pass over
it and which of its rows are due; `experience` makes the rollout; here the policy and the value are trained on it.
"""

from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers import Trainer

from pipeline.ppo import arithmetic, checkpoint, roles
from pipeline.ppo.config import PPOConfig
from pipeline.ppo.experience import Experience
from pipeline.ppo.history import History
from pipeline.ppo.rollout import Rollout
from pipeline.ppo.schedule import Schedule
from pipeline.ranks import ALONE, Ranks
from pipeline.reward.adapter import POLICY, activate


class AsItIs(torch.nn.Module):
    """A model that transformers takes for one that is wrapped already."""

    def __init__(self, model):
        super().__init__()
        self.module = model


class PPOTrainer(Trainer):
    """Trains the policy of a model that may have a `reward` beside it, and a value adapter; `roles.add_roles` adds the rest.

    `train_dataset` has a column `prompt_ids`; the context has the reward and the examples that the prompts come from.
    """

    args: PPOConfig

    def __init__(
        self, model, args: PPOConfig, train_dataset, eval_dataset=None, processing_class=None, ranks: Ranks = ALONE
    ):
        self.prompts = train_dataset["prompt_ids"]
        self.schedule = Schedule(args, len(self.prompts), ranks)
        args.max_steps = self.schedule.steps()
        super().__init__(
            model=roles.add_roles(model),
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
        )
        self.experience = Experience(processing_class, self.schedule, precision=self.compute_loss_context_manager)
        self.history = History(
            args.kl_limit, args.response_length, note=lambda text: self.context.report("note", text=text)
        )

    # -- a step ------------------------------------------------------------------------------------------

    def get_train_dataloader(self):
        ticks = range(self.args.max_steps * self.args.gradient_accumulation_steps)
        return DataLoader(ticks, batch_size=1, collate_fn=lambda tick: {"tick": tick[0]})

    def floating_point_ops(self, inputs):
        return 0

    def create_optimizer(self, model=None):
        """Two groups: the value model has a learning rate of its own."""
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            mine, value = [], []
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    (value if roles.is_value(name) else mine).append(parameter)
            rate = self.args.value_learning_rate or self.args.learning_rate
            decay = self.args.weight_decay
            groups = [{"params": mine, "weight_decay": decay}, {"params": value, "weight_decay": decay, "lr": rate}]
            self.optimizer = kind(groups, **options)
        return self.optimizer

    def _wrap_model(self, model, training=True, dataloader=None):
        """Several processes add their gradients up by themselves: there are two backwards a step, and torch's DDP takes one."""
        return model if self.schedule.ranks.alone else AsItIs(model)

    def training_step(self, model, inputs, num_items_in_batch=None):
        due = self.schedule.due(inputs["tick"])
        self.model.train()
        if due.rollout != self.experience.number:
            self._roll_out(due.rollout)
        rollout = self.experience.rollout
        micro_batches = self.schedule.micro_batches_of_step(due, rollout.lengths())
        tokens = sum(int(rollout.response[rows].sum()) for rows in micro_batches)
        own = self.schedule.own(micro_batches)[due.micro_batch]
        batch = rollout.part(own, self.args.device)
        loss = self._learn(self.model, batch, max(tokens, 1), policy=due.step >= self.args.value_warmup_steps)
        if self.accelerator.sync_gradients:
            self._add_up_gradients()
        return loss * self.schedule.ranks.size  # what is logged is the mean over processes, and this is a part of a sum

    def _add_up_gradients(self) -> None:
        if self.schedule.ranks.alone:
            return
        gradients = [one.grad for one in self.model.parameters() if one.grad is not None]
        flat = torch._utils._flatten_dense_tensors(gradients)
        torch.distributed.all_reduce(flat)
        for gradient, added in zip(gradients, torch._utils._unflatten_dense_tensors(flat, gradients), strict=True):
            gradient.copy_(added)

    def _roll_out(self, number: int) -> None:
        self.context.report("phase", name="rollout", step=self.state.global_step)
        figures = self.experience.collect(number, self.model, self.prompts, self.context.examples, self.context.reward)
        self.tokens += int(self.experience.rollout.mask.sum()) if self.schedule.ranks.first else 0  # all have all of it
        self.history.rolled_out(figures)
        self.context.report("phase", name="training", step=self.state.global_step)

    def _learn(self, model, batch: Rollout, tokens: int, *, policy: bool) -> torch.Tensor:
        """Two backwards, one a role: under gradient checkpointing a joint one would compute again what the first role
        did with the adapter of the second. Both losses are per token of the whole optimizer step.
        """
        args, real = self.args, batch.response
        activate(model, POLICY)
        with torch.set_grad_enabled(policy), self.compute_loss_context_manager():
            new, entropy = roles.response_log_probabilities(model, batch.ids, batch.mask, real, args.temperature)
            policy_loss, clipped = arithmetic.policy_loss(new, batch.old, batch.advantages, real, args.cliprange)
        if policy:
            self.accelerator.backward(policy_loss / tokens)
        try:
            activate(model, roles.VALUE)
            with self.compute_loss_context_manager():
                values = roles.response_values(model, batch.ids, batch.mask, real)
                value_loss, value_clipped = arithmetic.value_loss(
                    values, batch.values, batch.returns, real, args.cliprange_value
                )
            self.accelerator.backward(args.vf_coef * value_loss / tokens)
        finally:
            activate(model, POLICY)
        with torch.no_grad():
            moved = (new - batch.old).masked_fill(real == 0, 0)
            sums = {
                "loss/policy_avg": policy_loss,
                "loss/value_avg": value_loss,
                "policy/clipfrac_avg": clipped.sum(),
                "policy/approxkl_avg": 0.5 * (moved**2).sum(),
                "policy/entropy_avg": entropy.sum(),
                "val/clipfrac_avg": value_clipped.sum(),
                "val/ratio": (moved.exp() * real).sum(),
            }
            self.history.learned(sums, int(real.sum()))
            return (policy_loss + args.vf_coef * value_loss) / tokens

    # -- what is told and kept ---------------------------------------------------------------------------

    def log(self, logs, start_time=None):
        if "loss" in logs:
            self.history.add_up(self.schedule.ranks)
        super().log(logs | self.history.line() if "loss" in logs else logs, start_time)

    def watch_held_out(self, metrics: dict[str, float]) -> None:
        self.history.held_out(metrics)

    def figures(self) -> dict[str, float]:
        return self.history.figures()

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        self.history.add_up(self.schedule.ranks)
        if self.args.should_save:
            checkpoint.save(Path(output_dir), self.model, self.experience, self.history)

    def _load_optimizer_and_scheduler(self, checkpoint_folder):
        super()._load_optimizer_and_scheduler(checkpoint_folder)
        if checkpoint_folder is not None:
            checkpoint.load(Path(checkpoint_folder), self.model, self.experience, self.history)
            if not self.schedule.ranks.first:
                self.history.sums.clear()  # the first has those of all
