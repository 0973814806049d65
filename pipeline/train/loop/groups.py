"""TRL's trainers that sample several responses to a prompt and learn from how their rewards differ.

What TRL would do by itself and the pipeline does: the prompts' tokens, what a response ends with, the order of the prompts,
the rewards. A rollout lasts several optimizer steps, so a checkpoint holds what is left of it.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch.utils.data import SequentialSampler
from transformers import Trainer

from pipeline.errors import PipelineError
from pipeline.evaluate.generate import as_told
from pipeline.reward.reward import Part
from pipeline.reward.troubles import Settings, troubles
from pipeline.train.loop.context import Context
from pipeline.train.loop.order import InGroups, Order

STATE, TENSORS = "rollout.json", "rollout.safetensors"  # in a checkpoint
KL_LIMIT = 0.3  # nats a token
KEPT = ("_step", "entropy_coef", "_last_world_entropy")  # of what TRL counts from the start on, where it has them


def trainer_in_groups(context: Context, kind: type[Trainer]) -> Trainer:
    """A `kind` of TRL's trainer that is rewarded as the recipe says."""
    reward, scored = context.reward, {}
    config: dict = {"reward_weights": reward.weights}
    stop = [context.tokenizer.eos_token_id]
    if context.given.get("use_vllm"):
        config["generation_kwargs"] = {"stop_token_ids": stop}
    trainer = context.trainer(
        kind,
        data=_prompts,
        front=Groups,
        config=config,
        reward_funcs=[_as_function(part, context, scored) for part in reward.parts],
    )
    trainer.scored = scored
    trainer.eos_token_ids = stop  # not those that the base's configuration has beside the template's
    if not trainer.use_vllm:
        trainer.generation_config.eos_token_id = trainer.generation_kwargs["eos_token_id"] = stop
    adapters = context.model.peft_config
    if trainer.beta == 0 and "ref" in adapters:
        context.model.delete_adapter("ref")  # nobody asks it
    elif trainer.beta != 0 and "ref" not in adapters:
        raise PipelineError("The reference is gone: the backend has not kept it.", "Set use_unsloth: false.")
    return trainer


def _prompts(rows: Dataset) -> Dataset:
    """With the names that TRL has, and each row's number, by which its example is found."""
    return rows.rename_column("prompt_ids", "prompt").add_column("row", range(len(rows)))


def _as_function(part: Part, context: Context, scored: dict[str, list[float]]):
    """A part of the reward as TRL calls its functions. What it said last stays in `scored`."""

    def called(prompts: list[list[int]], completion_ids: list[list[int]], row: list[int], **_: object) -> list[float]:
        examples = [context.examples[number] for number in row]
        scored[part.name] = part.score(context.model, examples, prompts, completion_ids)
        return scored[part.name]

    called.__name__ = part.name  # in the log
    return called


def _cut_anew(slices: Sequence[dict[str, torch.Tensor]], number: int) -> list[dict[str, torch.Tensor]]:
    """A rollout in another number of slices, its rows in their order; what has no rows is the same in each."""
    if not slices:
        return []
    cut = {
        name: torch.cat([one[name] for one in slices]).chunk(number) if value.dim() else [value] * number
        for name, value in slices[0].items()
    }
    return [{name: values[at] for name, values in cut.items()} for at in range(number)]


class Groups:
    """Goes in front of a StageTrainer of one of those trainers."""

    scored: dict[str, list[float]]  # what each part of the reward gave for the last rollout

    def __init__(self, *given, **named):
        self.history: list[dict[str, float]] = []  # one entry a rollout
        self.warned: set[str] = set()
        super().__init__(*given, **named)

    def _get_train_sampler(self, train_dataset=None):
        """TRL's shuffles anew with every process; this one knows where it was."""
        args = self.args
        prompts = args.generation_batch_size // args.num_generations
        if args.train_sampling_strategy == "sequential" or not args.shuffle_dataset:
            order = SequentialSampler(range(len(self.lengths)))
        else:
            order = Order(self.lengths, prompts, args.seed, group=args.train_sampling_strategy == "group_by_length")
        return InGroups(order, args.num_generations, prompts, args.steps_per_generation * self.num_iterations)

    def _tokenize_prompts(self, prompts: Sequence[list[int]]):
        """They are tokens: those of the account."""
        return [list(ids) for ids in prompts], None, {}

    def _generate(self, prompts):
        with as_told(self.model):
            return super()._generate(prompts)

    def _generate_and_score_completions(self, inputs):
        self.context.report("phase", name="rollout", step=self.state.global_step)
        batch = super()._generate_and_score_completions(inputs)
        self.tokens += int(batch["prompt_mask"].sum() + batch["completion_mask"].sum())
        metrics = self._metrics["train"]
        # TRL's own share of groups without signal is of rewards from which the KL is taken off already.
        metrics["groups_without_signal"].append(self._without_signal())
        self.history.append(
            {
                "length": metrics["completions/mean_length"][-1],
                "ended": 1 - metrics["completions/clipped_ratio"][-1],
                "no_signal": metrics["groups_without_signal"][-1],
            }
        )
        self.context.report("phase", name="training", step=self.state.global_step)
        return batch

    def _without_signal(self) -> float:
        """The share of groups in which every response has the same reward."""
        own = torch.tensor([self.scored[name] for name in self.context.reward.names]).T
        each = torch.cat(self.context.ranks.of_all(own))  # a group may be answered by several processes
        groups = self.context.reward.total(each).view(-1, self.num_generations)
        return float((groups == groups[:, :1]).all(1).float().mean())

    # -- figures -----------------------------------------------------------------------------------------

    def log(self, logs, start_time=None):
        super().log(logs, start_time)  # TRL puts into it what it has gathered
        if self.history and "loss" in logs:
            self.history[-1] |= {name: logs[name] for name in ("kl", "entropy") if logs.get(name) is not None}
            self._watch()

    def watch_held_out(self, metrics: dict[str, float]) -> None:
        checked = metrics.get("exact_match", metrics.get("mean_score"))
        if self.history and checked is not None:
            self.history[-1] |= {"held_out/reward": metrics["mean_reward"], "held_out/score": checked}
            self._watch()

    def _watch(self) -> None:
        settings = Settings(
            kl_limit=KL_LIMIT,
            kl_unit="nats a token",
            penalty="beta",
            length="max_completion_length",
            longest=self.max_completion_length,
            unended="mask_truncated_completions",
        )
        for name, text in troubles(self.history, settings).items():
            if name not in self.warned:
                self.warned.add(name)
                self.context.report("note", text=text)

    def figures(self) -> dict[str, float]:
        """For the manifest: how far the policy went from its parent, in nats a response, when it was last looked at."""
        last = next((one for one in reversed(self.history) if "kl" in one), None)
        return {"kl": last["kl"] * last["length"]} if last else {}

    # -- resume ------------------------------------------------------------------------------------------

    def _save_optimizer_and_scheduler(self, output_dir):
        """And beside them the rollout that is trained on, and what is told of those before it."""
        super()._save_optimizer_and_scheduler(output_dir)
        parts = enumerate(self._buffered_inputs or [])
        tensors = {f"{n}/{name}": tensor.cpu().clone() for n, part in parts for name, tensor in part.items()}
        Path(output_dir).mkdir(parents=True, exist_ok=True)  # another process may make it later
        save_file(tensors, Path(output_dir) / self._of_process(TENSORS))
        state = {
            "slices": self.args.steps_per_generation,
            "kept": {name: getattr(self, name) for name in KEPT if hasattr(self, name)},
            "history": self.history,
            "warned": sorted(self.warned),
        }
        (Path(output_dir) / self._of_process(STATE)).write_text(json.dumps(state), encoding="utf-8")

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        state = json.loads((Path(checkpoint) / self._of_process(STATE)).read_text(encoding="utf-8"))
        for name, value in state["kept"].items():
            setattr(self, name, value)
        before, now = state.get("slices", self.args.steps_per_generation), self.args.steps_per_generation
        self._step = self._step * now // before
        self.history, self.warned = state["history"], set(state["warned"])
        parts: dict[int, dict[str, torch.Tensor]] = {}
        for place, tensor in load_file(Path(checkpoint) / self._of_process(TENSORS)).items():
            number, _, name = place.partition("/")
            parts.setdefault(int(number), {})[name] = tensor.to(self.args.device)
        slices = [parts[number] for number in sorted(parts)]
        self._buffered_inputs = (slices if before == now else _cut_anew(slices, now)) or None
