"""What every stage's trainer has in common: whole checkpoints, exact resume, and a word about each step."""

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import Trainer

from pipeline.artifact.attempt import Attempt, seal
from pipeline.artifact.writing import write_json
from pipeline.errors import MachineError
from pipeline.model.adapter_tensors import load_adapter
from pipeline.model.adapters import method_on
from pipeline.model.parts import close, load_whole
from pipeline.model.saving import could_not_save, save_weights
from pipeline.plan.methods import refuse_too_short
from pipeline.ranks import lost_another
from pipeline.train.loop import dealing, reference
from pipeline.train.loop.gathered import gathered, give_back
from pipeline.train.loop.order import Order

if TYPE_CHECKING:
    from pipeline.train.loop.context import Context

MASKS = ("attention_mask", "chosen_attention_mask", "rejected_attention_mask")
ALONGSIDE = "alongside.safetensors"  # in a checkpoint: what the method needs to go on, where it needs anything
SO_FAR = "so_far.json"  # in a checkpoint: what was trained when it was written


class StageTrainer:
    """Goes in front of a TRL trainer."""

    context: "Context"
    lengths: Sequence[int]
    parameters: dict[str, int]  # trained, and in all
    tokens: int = 0  # trained on so far by this process, padding left out
    tokens_of_all: int = 0  # and by all of them
    before: float = 0.0  # seconds that were trained before this process
    begun: float | None = None  # when this process began to train
    kept_from_before: dict | None = None  # see pipeline.train.loop.gathered
    _dealt: dealing.Dealt | None = None  # this process's part of the micro-batches, where there are several processes
    uneven: bool = False  # whether processes may have unlike many rows in this micro-batch
    counts: float = 1.0  # what this micro-batch counts
    _counts: Sequence[float] = ()  # and those of this step that are still to come
    _ends_epoch: bool = False  # whether this step is the last of an epoch
    alongside = None  # what the method does beside the optimizer, from when training begins
    _resumed_from: Path | None = None
    _into: Path | None = None
    _begun: bool = False

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        self.context.engine.take(self)

    def _prepare_dataset(self, dataset, *_, **__):
        return dataset  # tokenized, cut and accounted for before TRL sees it

    def _get_train_sampler(self, train_dataset=None):
        args, strategy = self.args, self.context.effective("train_sampling_strategy")
        if strategy not in ("group_by_length", "random"):
            return super()._get_train_sampler(train_dataset)
        batch = args.train_batch_size * args.gradient_accumulation_steps * self.context.ranks.size
        return Order(self.lengths, batch, args.seed, group=strategy == "group_by_length")

    def _get_dataloader(self, *given, is_training=False, **named):
        loader = super()._get_dataloader(*given, is_training=is_training, **named)
        if is_training and not self.context.ranks.alone:
            loader = dealing.dealt(loader, self.context.ranks)
            self._dealt = loader.batch_sampler.batch_sampler
        return loader

    def _get_num_items_in_batch(self, batch_samples, device):
        """Also how much each micro-batch of the step counts, where several processes share it."""
        if self._dealt is None or not batch_samples:
            return super()._get_num_items_in_batch(batch_samples, device)
        number, passes = len(batch_samples), self.args.gradient_accumulation_steps
        steps = -(-len(self._dealt) // passes)
        in_epoch = self.state.global_step % steps
        self._ends_epoch = in_epoch == steps - 1
        self._counts = dealing.counts(number, passes, in_epoch, self._dealt)
        for sample, counts in zip(batch_samples, self._counts, strict=True):
            if not counts:
                dealing.without_labels(sample)
        items = super()._get_num_items_in_batch(batch_samples, device)
        if items is not None:  # its loss is a sum over tokens, divided by those of the whole step
            self._counts = [float(bool(one)) for one in self._counts]
        return items

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.counts == 1:
            return found
        return (found[0] * self.counts, found[1]) if return_outputs else found * self.counts

    def create_optimizer(self, model=None):
        new = self.optimizer is None
        close(self.model)
        optimizer = super().create_optimizer(model)
        if new and (method := method_on(self.model)):
            method.spread(optimizer, self.model, self.context.learning)
        return optimizer

    def begin(self, steps: int) -> None:
        """Before the first of so many steps, or the first after a checkpoint."""
        self.begun = time.monotonic()
        self.tokens_of_all = sum(self.context.ranks.of_all(self.tokens))
        self.context.engine.check(self)
        if self.kept_from_before:
            give_back(self, self.kept_from_before)
        if method := method_on(self.model):
            self._begin_alongside(method, steps)
        if best := self.context.best:
            best.begin(self)

    def _begin_alongside(self, method, steps: int) -> None:
        refuse_too_short("train", method, vars(self.model.peft_config["default"]), steps)
        self.alongside = method.alongside(self.model, steps)
        if self.alongside and self._resumed_from:
            self.alongside.put(load_file(self._resumed_from / ALONGSIDE))

    def finish(self) -> None:
        """After training: what is measured and saved is the adapter in the form in which it is kept."""
        if method := method_on(self.model):
            self.model = method.finished(self.model)

    def _run_epoch(self, *given, **named):
        if self.state.global_step < self.state.max_steps:
            return super()._run_epoch(*given, **named)
        # Killed after its last step: in mid-epoch transformers would make another.
        self.control.should_training_stop = True
        return None

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.counts = self._counts.pop(0) if self._counts else 1.0
        if not self.counts:
            pass  # its rows are trained on by another process
        elif masks := [inputs[name] for name in MASKS if name in inputs]:
            self.tokens += int(sum(mask.sum() for mask in masks))
        elif "input_ids" in inputs:  # rows in one sequence have no padding
            self.tokens += inputs["input_ids"].numel()
        first = not self.state.global_step and not self._begun
        self.uneven = self._ends_epoch
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.uneven = False
        if self.alongside and self.accelerator.sync_gradients:
            self.accelerator.backward(self.alongside.penalty())
        if first:
            self._begun = True
            reference.check_unmoved(self, self.context.dtype)
        if not torch.isfinite(loss):
            self._not_finite("loss")
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not torch.isfinite(torch.as_tensor(norm)) and not self.args.fp16:
            self._not_finite("gradient")  # before the optimizer step that would spoil every weight
        return norm

    def _not_finite(self, what: str) -> None:
        last = Attempt(self.context.folder).checkpoints()
        kept = f"The last good checkpoint is of step {last[0][0]}." if last else "There is no checkpoint yet."
        raise MachineError(
            f"The {what} became NaN or infinite at step {self.state.global_step + 1}. {kept}",
            "Lower train.learning_rate, add train.warmup_steps, or look for a broken row; then run it again.",
        )

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """The held-out figures of the model as it is now, by the evaluation that gives those before and after."""
        metrics = self.context.evaluate(self.model, self.state.global_step)
        logs = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        Trainer.log(self, logs)  # TRL's would add what it gathers of training, and forget it
        if watch := getattr(self, "watch_held_out", None):
            watch(metrics)
        if best := self.context.best:
            best.consider(self.state.global_step, metrics, self.model)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
        return logs

    def _get_output_dir(self, trial):
        return str(self._into or self.args.output_dir)

    def _save_checkpoint(self, model, trial):
        """A checkpoint appears under its name only when it is whole. TRL's model card is left out."""
        folder = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        if self.context.ranks.told((folder / name).is_dir()):
            return
        self.context.report("phase", name="checkpoint", step=self.state.global_step)
        self._into, ranks = folder / ".partial", self.context.ranks
        try:
            if ranks.first:
                shutil.rmtree(self._into, ignore_errors=True)
            ranks.wait()
            Trainer._save_checkpoint(self, model, trial)
            said = ranks.of_all((self.tokens, self._tr_loss.item()))
            of_all = {"tokens": sum(tokens for tokens, _ in said), "loss": sum(loss for _, loss in said) / ranks.size}
            so_far = {"tokens": self.tokens, "seconds": self.seconds, "gathered": gathered(self)}
            so_far |= {"processes": ranks.size, "of_all": of_all}
            write_json(self._into / name / self._of_process(SO_FAR), so_far)
            if self.alongside:
                save_file(self.alongside.kept(), self._into / name / ALONGSIDE)
            ranks.wait()
            if ranks.first:
                seal(self._into / name)
                os.replace(self._into / name, folder / name)
            ranks.wait()
        except (OSError, RuntimeError, SafetensorError) as error:
            if lost_another(error):
                raise
            shutil.rmtree(self._into, ignore_errors=True)
            raise could_not_save(folder, error) from error
        finally:
            self._into = None
        if (limit := self.args.save_total_limit) and ranks.first:
            for _, old in Attempt(self.context.folder).checkpoints()[limit:]:
                shutil.rmtree(old)
        self.context.report("phase", name="training", step=self.state.global_step)

    def _of_process(self, name: str) -> str:
        """What each process keeps for itself in a checkpoint, under its own name."""
        rank = self.context.ranks.rank
        return f"{rank}-{name}" if rank else name

    def save_model(self, output_dir=None, _internal_call=False):
        save_weights(self.model, Path(output_dir), self.context.ranks)

    def _save_optimizer_and_scheduler(self, output_dir):
        self.context.engine.save_optimizer(self, output_dir, super()._save_optimizer_and_scheduler)

    @property
    def seconds(self) -> float:
        """Trained so far."""
        return self.before + (time.monotonic() - self.begun if self.begun is not None else 0.0)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        """The policy alone: the reference is loaded from the parent, whatever a checkpoint holds."""
        self._read_so_far(resume_from_checkpoint)
        self.put(self._resumed_from)

    def _load_optimizer_and_scheduler(self, checkpoint):
        if self.context.engine.loads_weights and checkpoint:
            self._read_so_far(checkpoint)
        super()._load_optimizer_and_scheduler(checkpoint)

    def _read_so_far(self, resume_from_checkpoint) -> None:
        self._resumed_from = Path(resume_from_checkpoint)
        if (file := Path(resume_from_checkpoint) / self._of_process(SO_FAR)).is_file():
            so_far = json.loads(file.read_text(encoding="utf-8"))
            self.tokens, self.before = so_far["tokens"], so_far["seconds"]
            self.kept_from_before = so_far.get("gathered")
            if so_far.get("processes", 1) != (ranks := self.context.ranks).size:
                # The first takes over what all have trained; a line of the log has the mean over processes.
                self.tokens = so_far["of_all"]["tokens"] if ranks.first else 0
                self.kept_from_before["loss"] = so_far["of_all"]["loss"] * ranks.size if ranks.first else 0.0

    def put(self, weights: Path) -> None:
        """The policy of a folder into the model."""
        if isinstance(self.model, PeftModel):
            load_adapter(self.model, weights)
        elif self.context.ranks.sharded:
            load_whole(self.model, weights)
        else:
            super()._load_from_checkpoint(str(weights), self.model)
