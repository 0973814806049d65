"""What happens at each step of training beside the step: it is reported, logged, and the last one if Ctrl-C says so."""

import json
from typing import TYPE_CHECKING

from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from pipeline.artifact.writing import write_atomically
from pipeline.train.loop import dealing

if TYPE_CHECKING:
    from pipeline.train.loop.context import Context
    from pipeline.train.loop.trainer import StageTrainer


class StageCallback(TrainerCallback):
    """Reports what happens, keeps log.jsonl, and stops after the step in which Ctrl-C was pressed."""

    def __init__(self, context: "Context", trainer: "StageTrainer"):
        self.context, self.trainer = context, trainer
        self.log = context.folder / "log.jsonl"

    def on_train_begin(self, args, state, control, **_):
        if self.context.ranks.first:
            self._forget_after(state.global_step)
        self.trainer.begin(state.max_steps)
        self.context.report("train", step=state.global_step, steps=state.max_steps)
        warm_up = args.get_warmup_steps(state.max_steps)
        if warm_up >= state.max_steps != args.max_steps:  # where max_steps is written, the plan has said it
            text = f"train.warmup_steps: {warm_up}, and there are {state.max_steps} steps: learning_rate is not reached"
            self.context.report("note", text=text)
        for kind, what in (("eval", "no figure is taken"), ("save", "no checkpoint is kept")):
            every = getattr(args, f"{kind}_steps")
            if getattr(args, f"{kind}_strategy") == IntervalStrategy.STEPS and every >= 1 and every > state.max_steps:
                text = f"train.{kind}_steps: {every:g}, and there are {state.max_steps} steps: {what} in between"
                self.context.report("note", text=text)

    def _forget_after(self, step: int) -> None:
        """A resumed run repeats the steps after its checkpoint, and ends anew: those lines are written again."""
        if self.log.is_file():
            lines = self.log.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [(line, json.loads(line)) for line in lines if line.endswith("\n")]
            kept = [line for line, said in whole if said["step"] <= step and "train_loss" not in said]
            write_atomically(self.log, "".join(kept))

    def on_optimizer_step(self, args, state, control, **_):
        if self.trainer.alongside:
            self.trainer.alongside.stepped(state.global_step + 1)

    def on_step_end(self, args, state, control, **_):
        said = self.context.ranks.of_all((self.context.interruption.is_set(), self.trainer.tokens), in_step=True)
        self.trainer.tokens_of_all = sum(tokens for _, tokens in said)
        if len(said) > 1:
            dealing.correct_count(self.trainer)
        self.context.report("step", step=state.global_step, tokens=self.trainer.tokens_of_all)
        if any(asked for asked, _ in said):
            self.context.interruption.set()
            control.should_save = control.should_training_stop = True
        if state.global_step >= state.max_steps and args.logging_strategy != "no":
            control.should_log = True  # the last steps have a line as well, however many logging_steps there are
        return control

    def on_log(self, args, state, control, logs=None, **_):
        if not self.context.ranks.first:
            return
        line = {"step": state.global_step} | {k: v for k, v in (logs or {}).items() if isinstance(v, int | float)}
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if "loss" in line:
            self.context.report("log", **line)
