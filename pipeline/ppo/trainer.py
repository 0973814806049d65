"""PPO in the loop of transformers' Trainer: one of its steps is one optimizer step on a part of a rollout.

The Trainer is fed with numbers ("ticks"), one a micro-batch: a tick alone says which rollout, which pass over it and
which of its rows are due, so a resumed run finds its place by counting.
"""

import json
from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import Trainer

from pipeline.evaluate.forward import untouched_random_state
from pipeline.ppo import arithmetic, roles
from pipeline.ppo.config import PPOConfig
from pipeline.ppo.rollout import Rollout, answer, padded
from pipeline.ppo.warnings import warnings

STATE = "ppo.json"
TENSORS = "ppo.safetensors"


class PPOTrainer(Trainer):
    """Trains the policy and the value adapter of a model that `roles.add_roles` made.

    `train_dataset` has a column `prompt_ids`; the context has the reward and the examples that the prompts come from.
    """

    args: PPOConfig

    def __init__(self, model, args: PPOConfig, train_dataset, eval_dataset=None, processing_class=None):
        self.prompts = train_dataset["prompt_ids"]
        episodes = args.total_episodes or int(args.num_train_epochs * len(self.prompts))
        rollouts = max(-(-episodes // args.rollout_size), 1)
        self.steps_each = args.num_ppo_epochs * args.num_mini_batches
        args.max_steps = (
            min(args.max_steps, rollouts * self.steps_each) if args.max_steps > 0 else rollouts * self.steps_each
        )
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
        )
        self.kl = arithmetic.AdaptiveKL(args.kl_coef, args.kl_target, args.kl_horizon)
        self.scale = arithmetic.RunningScale()
        self.rollout: Rollout | None = None
        self.rollout_number = -1
        self.history: list[dict[str, float]] = []  # one entry a rollout
        self.warned: set[str] = set()
        self._sums: dict[str, list[float]] = defaultdict(list)

    # -- what the Trainer's loop asks for --------------------------------------------------------------

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

    def training_step(self, model, inputs, num_items_in_batch=None):
        micro, tick = self.args.gradient_accumulation_steps, inputs["tick"]
        step, part = divmod(tick, micro)
        number, within = divmod(step, self.steps_each)
        epoch, mini_batch = divmod(within, self.args.num_mini_batches)
        model.train()
        if number != self.rollout_number:
            self._roll_out(number)
        due = self._parts(epoch)[mini_batch * micro : (mini_batch + 1) * micro]
        tokens = sum(int(self.rollout.response[rows].sum()) for rows in due)
        batch = self.rollout.rows(due[part], self.args.device)
        return self._learn(model, batch, max(tokens, 1), policy=step >= self.args.value_warmup_steps)

    def _parts(self, epoch: int) -> list[list[int]]:
        """The rows of each micro-batch of one pass over the rollout, from the seed and the numbers alone.

        Rows of like length stand together within an optimizer step, whose sum does not depend on how it is parted.
        """
        generator = torch.Generator().manual_seed((self.args.seed * 1_000_003 + self.rollout_number) * 1009 + epoch)
        order = torch.randperm(self.args.rollout_size, generator=generator).tolist()
        lengths = self.rollout.mask.sum(1).tolist()
        size = self.args.per_device_train_batch_size
        step = size * self.args.gradient_accumulation_steps
        order = [
            row for at in range(0, len(order), step) for row in sorted(order[at : at + step], key=lengths.__getitem__)
        ]
        return [order[at : at + size] for at in range(0, len(order), size)]

    def _learn(self, model, batch: Rollout, tokens: int, *, policy: bool) -> torch.Tensor:
        """Two backwards, one a role: under gradient checkpointing a joint one would compute again what the first role
        did with the adapter of the second. Both losses are per token of the whole optimizer step.
        """
        args, real = self.args, batch.response
        roles.activate(model, roles.POLICY)
        with torch.set_grad_enabled(policy), self.compute_loss_context_manager():
            new, entropy = roles.response_log_probabilities(model, batch.ids, batch.mask, real, args.temperature)
            policy_loss, clipped = arithmetic.policy_loss(new, batch.old, batch.advantages, real, args.cliprange)
        if policy:
            self.accelerator.backward(policy_loss / tokens)
        try:
            roles.activate(model, roles.VALUE)
            with self.compute_loss_context_manager():
                values = roles.response_values(model, batch.ids, batch.mask, real)
                value_loss, value_clipped = arithmetic.value_loss(
                    values, batch.values, batch.returns, real, args.cliprange_value
                )
            self.accelerator.backward(args.vf_coef * value_loss / tokens)
        finally:
            roles.activate(model, roles.POLICY)
        with torch.no_grad():
            moved = (new - batch.old).masked_fill(real == 0, 0)
            for name, total in {
                "loss/policy_avg": policy_loss,
                "loss/value_avg": value_loss,
                "policy/clipfrac_avg": clipped.sum(),
                "policy/approxkl_avg": 0.5 * (moved**2).sum(),
                "policy/entropy_avg": entropy.sum(),
                "val/clipfrac_avg": value_clipped.sum(),
                "val/ratio": (moved.exp() * real).sum(),
            }.items():
                self._sums[name].append((float(total), int(real.sum())))
            return (policy_loss + args.vf_coef * value_loss) / tokens

    # -- rollouts ----------------------------------------------------------------------------------------

    def _roll_out(self, number: int) -> None:
        args, tokenizer = self.args, self.processing_class
        self.context.report("phase", name="rollout", step=self.state.global_step)
        which = self._prompts_of(number)
        prompts = [list(self.prompts[row]) for row in which]
        with untouched_random_state(), self.compute_loss_context_manager():
            torch.manual_seed((args.seed * 1_000_003 + number) % 2**63)
            responses = answer(
                self.model, prompts, length=args.response_length, temperature=args.temperature,
                eos=tokenizer.eos_token_id, pad=tokenizer.pad_token_id, batch_size=args.local_rollout_forward_batch_size,
            )  # fmt: skip
            scores = self.context.reward(self.model, [self.context.examples[row] for row in which], prompts, responses)
        ids, mask, response = padded(prompts, responses, tokenizer.pad_token_id)
        stopped = torch.tensor([float(one[-1] == tokenizer.eos_token_id) for one in responses])
        blank = (torch.zeros(response.shape, dtype=torch.float32) for _ in range(6))
        self.rollout = Rollout(ids, mask, response, torch.tensor(which), scores, stopped, *blank)
        self.rollout_number = number
        self._appraise(self.rollout)
        self.tokens += int(mask.sum())
        self._watch()
        self.context.report("phase", name="training", step=self.state.global_step)

    def _prompts_of(self, number: int) -> list[int]:
        """Row numbers: the data in a fresh order each pass, a rollout after the other."""
        rows = []
        for at in range(number * self.args.rollout_size, (number + 1) * self.args.rollout_size):
            passes, place = divmod(at, len(self.prompts))
            if not rows or place == 0:
                generator = torch.Generator().manual_seed(self.args.seed * 1_000_003 + passes)
                order = torch.randperm(len(self.prompts), generator=generator).tolist()
            rows.append(order[place])
        return rows

    @torch.no_grad()
    def _appraise(self, rollout: Rollout) -> None:
        """Log-probabilities, values and advantages of what was sampled.

        In the micro-batches of the first pass, and by the function that trains: so its ratio is exactly 1 there.
        """
        args, response = self.args, rollout.response
        for rows in self._parts(0):
            part = rollout.rows(rows, args.device)
            batch, filled = (part.ids, part.mask, part.response), (rows, slice(part.response.shape[1]))
            with self.compute_loss_context_manager():
                found, spread = roles.response_log_probabilities(self.model, *batch, args.temperature)
                rollout.old[filled], rollout.entropy[filled] = found.cpu(), spread.cpu()
                with roles.acting_as(self.model, roles.REFERENCE):
                    found, _ = roles.response_log_probabilities(self.model, *batch, args.temperature)
                rollout.reference[filled] = found.cpu()
                with roles.acting_as(self.model, roles.VALUE):
                    rollout.values[filled] = roles.response_values(self.model, *batch).cpu()
        kl = arithmetic.kl_estimate(rollout.old, rollout.reference, args.kl_estimator).masked_fill(response == 0, 0)
        used = self._shaped(rollout.scores, rollout.stopped)
        rewards = arithmetic.rewards_per_token(used, kl, response, self.kl.coefficient)
        if args.whiten_rewards:
            rewards = arithmetic.whiten(rewards, response, shift_mean=False)
        rollout.advantages, rollout.returns = arithmetic.generalized_advantages(
            rewards, rollout.values, response, args.gamma, args.lam
        )
        penalty = (self.kl.coefficient * kl).sum(1)
        lengths = response.sum(1).float()
        self.history.append(
            {
                "objective/kl": float(kl.sum(1).mean()),
                "objective/entropy": float(arithmetic.masked_mean(rollout.entropy, response)),
                "objective/scores": float(rollout.scores.mean()),
                "objective/rlhf_reward": float((used - penalty).mean()),
                "objective/non_score_reward": float(-penalty.mean()),
                "objective/kl_coef": self.kl.coefficient,
                "val/eos_rate": float(rollout.stopped.mean()),
                "val/response_length": float(lengths.mean()),
                "val/explained_variance": arithmetic.explained_variance(rollout.values, rollout.returns, response),
                "episode": (self.rollout_number + 1) * args.rollout_size,
            }
        )
        self.kl.update(self.history[-1]["objective/kl"], args.rollout_size)
        if args.whiten_advantages:
            rollout.advantages = arithmetic.whiten(rollout.advantages, response)

    def _shaped(self, scores: torch.Tensor, stopped: torch.Tensor) -> torch.Tensor:
        """Scores scaled, clipped, and less for responses that never ended."""
        args = self.args
        if args.normalize_reward:
            self.scale.update(scores)
            scores = scores / (self.scale.deviation + 1e-8)
        if args.reward_clip is not None:
            scores = scores.clamp(-args.reward_clip, args.reward_clip)
        if args.missing_eos_penalty is not None:
            scores = scores - args.missing_eos_penalty * (1 - stopped)
        return scores

    def _watch(self) -> None:
        for name, text in warnings(self.history, self.args.kl_limit).items():
            if name not in self.warned:
                self.warned.add(name)
                self.context.report("note", text=text)

    # -- figures -----------------------------------------------------------------------------------------

    def log(self, logs, start_time=None):
        if self.history and "loss" in logs:
            tokens = {name: max(sum(n for _, n in parts), 1) for name, parts in self._sums.items()}
            means = {name: sum(total for total, _ in parts) / tokens[name] for name, parts in self._sums.items()}
            self._sums.clear()
            logs = logs | {name: value for name, value in self.history[-1].items() if "/" in name} | means
            logs |= {"episode": self.history[-1]["episode"]}
        super().log(logs, start_time)

    def watch_held_out(self, metrics: dict[str, float]) -> None:
        """A reward that rises while the checkable score falls shows on the held-out prompts."""
        if self.history and "mean_reward" in metrics:
            self.history[-1]["held_out/reward"] = metrics["mean_reward"]
            checked = metrics.get("exact_match", metrics.get("mean_score"))
            if checked is not None:
                self.history[-1]["held_out/score"] = checked
            self._watch()

    def figures(self) -> dict[str, float]:
        """For the manifest: how far the policy went from its parent, in nats a response, in the last rollout."""
        return {"kl": self.history[-1]["objective/kl"]} if self.history else {}

    # -- resume --------------------------------------------------------------------------------------------

    def _save_optimizer_and_scheduler(self, output_dir):
        """And beside them all that PPO keeps: the value model, the rollout, the KL coefficient, the history."""
        super()._save_optimizer_and_scheduler(output_dir)
        tensors = {f"value/{name}": tensor.cpu() for name, tensor in roles.save_value(self.model).items()}
        if self.rollout is not None:
            tensors |= {f"rollout/{name}": tensor for name, tensor in self.rollout.tensors().items()}
        save_file(tensors, Path(output_dir) / TENSORS)
        state = {
            "rollout": self.rollout_number,
            "kl_coefficient": self.kl.coefficient,
            "scale": vars(self.scale),
            "history": self.history,
            "warned": sorted(self.warned),
            "sums": self._sums,
        }
        (Path(output_dir) / STATE).write_text(json.dumps(state), encoding="utf-8")

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        state = json.loads((Path(checkpoint) / STATE).read_text(encoding="utf-8"))
        tensors = load_file(Path(checkpoint) / TENSORS)
        roles.load_value(self.model, {k[6:]: v for k, v in tensors.items() if k.startswith("value/")})
        kept = {k[8:]: v for k, v in tensors.items() if k.startswith("rollout/")}
        self.rollout, self.rollout_number = Rollout(**kept) if kept else None, state["rollout"]
        self.kl.coefficient = state["kl_coefficient"]
        self.scale = arithmetic.RunningScale(**state["scale"])
        self.history, self.warned = state["history"], set(state["warned"])
        self._sums = defaultdict(list, state["sums"])
