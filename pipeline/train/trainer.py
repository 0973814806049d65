"""What every stage's trainer has in common: whole checkpoints, exact resume, and a word about each step."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import torch
import trl
from datasets import Dataset
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from safetensors import SafetensorError
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.trainer_pt_utils import get_length_grouped_indices

from pipeline.artifact.attempt import Attempt, seal
from pipeline.artifact.writing import write_atomically
from pipeline.data.prepare.table import lengths
from pipeline.data.shapes.shape import Example
from pipeline.errors import MachineError, PipelineError
from pipeline.model.loader import load_adapter
from pipeline.ppo.config import PPOConfig
from pipeline.recipe.fields import ON_A_GPU, effective
from pipeline.stage import Spec

# What must reach the trainer as the recipe has it; a library may not have its own opinion.
LEARNED_WITH = (
    "learning_rate", "weight_decay", "max_grad_norm", "num_train_epochs", "max_steps", "warmup_steps", "adam_beta1",
    "adam_beta2", "adam_epsilon", "per_device_train_batch_size", "gradient_accumulation_steps", "seed", "bf16", "fp16",
    "max_length", "packing", "padding_free", "label_smoothing_factor", "neftune_noise_alpha", "beta",
)  # fmt: skip


@dataclass(frozen=True)
class Context:
    """What a stage's `build_trainer` is given."""

    spec: Spec
    model: torch.nn.Module
    tokenizer: object
    rows: Dataset  # token columns, see pipeline.data.tokens.encoder
    held_out: Dataset
    examples: Sequence[Example]  # what `rows` were made from
    given: dict  # training arguments that differ from TRL's defaults
    seed: int
    dtype: str
    folder: Path
    parent_adapter: Path | None
    load_reference: Callable[[], torch.nn.Module]
    report: Callable[..., None]  # (kind, **fields): a word to whoever watches
    interrupted: Event
    reward: Callable | None  # see pipeline.ppo.rewards
    evaluate: Callable[[torch.nn.Module, int], dict[str, float]]  # held-out figures of the model, at a step

    def trainer(self, kind: type[Trainer], *, rows: Callable[[dict], dict] | None = None, config: dict | None = None):
        """A `kind` of TRL trainer that saves, resumes and reports as all stages do.

        `rows` maps the columns of a row to those that the trainer takes; `config` overrides arguments.
        """
        args = self._arguments((config or {}) | self._when_evaluated())
        data, evaluation = (some.map(rows, remove_columns=some.column_names) if rows else some
                            for some in (self.rows, self.held_out))  # fmt: skip
        if getattr(args, "packing", False):
            data = packed(data, args.max_length, self.model)
        elif getattr(args, "padding_free", False):
            refuse_mixed_attention(self.model, "padding_free")
        options = {}
        if self.spec.reference and not isinstance(self.model, PeftModel):
            options["ref_model"] = self.load_reference()
        with _adapters_stay_fp32(self.model):
            trainer = type(kind.__name__, (StageTrainer, kind), {})(
                model=self.model,
                args=args,
                train_dataset=data,
                eval_dataset=evaluation if args.eval_strategy != "no" else None,  # asked for; see StageTrainer.evaluate
                processing_class=self.tokenizer,
                **options,
            )
        trainer.context = self
        trainer.lengths = lengths(data).tolist()
        if self.spec.reference and isinstance(self.model, PeftModel):
            self._freeze_reference()
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Progress(self, trainer))
        return trainer

    def _when_evaluated(self) -> dict:
        """Without held-out rows never, which is said where the recipe asks for it."""
        if len(self.held_out):
            return {}
        if self.given.get("eval_strategy", "no") != "no":
            self.report("note", text="eval_strategy has nothing to do: no row is held out")
        return {"eval_strategy": "no"}

    def _arguments(self, config: dict):
        cuda = torch.cuda.is_available()
        owned = {
            "output_dir": str(self.folder / "checkpoints"),
            "seed": self.seed,
            "bf16": self.dtype == "bfloat16",
            "fp16": self.dtype == "float16",
            "use_cpu": not cuda,
            "disable_tqdm": True,
            "logging_nan_inf_filter": False,
        }
        how = dict.fromkeys(ON_A_GPU, cuda)
        fused = cuda and "unsloth" in sys.modules
        if self.spec.config == "SFTConfig" and (self._head_is_adapted() or fused):
            # TRL's chunked default reads the bare head, without what is trained on it; and it goes round the fused loss
            # that Unsloth has on a GPU. On a CPU both backends take TRL's, and are equal to the bit.
            how["loss_type"] = "nll"
        if self.given.get("padding_free") and not self.given.get("packing"):
            config = config | {"max_length": None}  # rows are cut already, and TRL could not cut them then
        # Every one of them is said: Unsloth changes the defaults of TRL's configs.
        values = effective(self.spec.config, how | self.given | owned | config)
        try:
            args = config_class(self.spec.config)(**values)
        except (ValueError, TypeError) as error:
            raise PipelineError(f"train: {self.spec.config} refuses it: {error}") from None
        if changed := [name for name in LEARNED_WITH if name in values and getattr(args, name) != values[name]]:
            raise PipelineError(
                f"train: {', '.join(f'{name} became {getattr(args, name)}' for name in changed)} with this backend.",
                "Set use_unsloth: false, or the value that it has there.",
            )
        return args

    def _head_is_adapted(self) -> bool:
        head = self.model.get_output_embeddings()
        return isinstance(head, BaseTunerLayer | AuxiliaryTrainingWrapper)

    def _freeze_reference(self) -> None:
        """TRL copies LoRA tensors into the adapter `ref`, but not trained embeddings: take them all from the parent."""
        if self.parent_adapter is not None:
            load_adapter(self.model, self.parent_adapter, "ref")
        for name, parameter in self.model.named_parameters():
            if ".ref" in name:
                parameter.requires_grad_(False)


def packed(rows: Dataset, length: int | None, model) -> Dataset:
    """Rows in packs of at most `length` tokens, each whole; positions begin anew with each, and none sees another.

    Raises PipelineError where the model's attention would let them see each other.
    """
    if length is None:
        raise PipelineError("train.packing needs a length to fill.", "Set train.max_length.")
    refuse_mixed_attention(model, "packing")
    return trl.pack_dataset(rows, length, strategy="bfd")


def refuse_mixed_attention(model, key: str) -> None:
    """Raises PipelineError where rows that stand in one sequence would see each other."""
    if "unsloth" in sys.modules or not _keeps_documents_apart(model):
        raise PipelineError(
            f"train.{key}: with this backend and attention, rows in one sequence would see each other.",
            f"Set train.{key}: false, use_unsloth: false, or another model.attn_implementation.",
        )


@torch.no_grad()
def _keeps_documents_apart(model) -> bool:
    """Whether a document in a pack has the logits that it has alone: not every attention goes by the positions."""
    ids = torch.arange(3, 19, device=model.device)[None] % model.config.get_text_config().vocab_size
    positions = torch.arange(8, device=model.device).repeat(2)[None]
    training = model.training
    model.eval()
    together = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0, 8:].float()
    alone = model(input_ids=ids[:, 8:], use_cache=False).logits[0].float()
    model.train(training)
    return bool((together - alone).abs().mean() < 0.05 * alone.std())


def config_class(name: str) -> type:
    """The config of a stage: TRL's, or our own for PPO, which TRL has no more."""
    return PPOConfig if name == "PPOConfig" else getattr(trl, name)


@contextmanager
def _adapters_stay_fp32(model):
    """TRL casts the adapter of a quantized base to bf16, in which small steps round to nothing: hide the quantization."""
    hidden = [name for name in ("is_loaded_in_4bit", "is_loaded_in_8bit") if getattr(model, name, False)]
    if isinstance(model, PeftModel):
        for name in hidden:
            setattr(model, name, False)
    yield
    if isinstance(model, PeftModel):
        for name in hidden:
            delattr(model, name)


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


class StageTrainer:
    """Goes in front of a TRL trainer."""

    context: Context
    lengths: Sequence[int]
    tokens: int = 0  # trained on by this process, padding left out
    _into: Path | None = None

    def _prepare_dataset(self, dataset, *_, **__):
        return dataset  # tokenized, cut and accounted for before TRL sees it

    def _get_train_sampler(self, train_dataset=None):
        args = self.args
        if args.train_sampling_strategy not in ("group_by_length", "random"):
            return super()._get_train_sampler(train_dataset)
        batch = args.train_batch_size * args.gradient_accumulation_steps
        return Order(self.lengths, batch, args.seed, group=args.train_sampling_strategy == "group_by_length")

    def training_step(self, model, inputs, num_items_in_batch=None):
        if "attention_mask" in inputs:
            self.tokens += int(inputs["attention_mask"].sum())
        elif "input_ids" in inputs:  # rows in one sequence have no padding
            self.tokens += inputs["input_ids"].numel()
        loss = super().training_step(model, inputs, num_items_in_batch)
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
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
        return logs

    def _get_output_dir(self, trial):
        return str(self._into or self.args.output_dir)

    def _save_checkpoint(self, model, trial):
        """A checkpoint appears under its name only when it is whole. TRL's model card is left out."""
        folder = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        if (folder / name).is_dir():
            return
        self.context.report("phase", name="checkpoint", step=self.state.global_step)
        self._into = folder / ".partial"
        try:
            shutil.rmtree(self._into, ignore_errors=True)
            Trainer._save_checkpoint(self, model, trial)
            seal(self._into / name)
            os.replace(self._into / name, folder / name)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(self._into, ignore_errors=True)
            raise could_not_save(folder, error) from error
        finally:
            self._into = None
        if limit := self.args.save_total_limit:
            for _, old in Attempt(self.context.folder).checkpoints()[limit:]:
                shutil.rmtree(old)
        self.context.report("phase", name="training", step=self.state.global_step)

    def _save(self, output_dir=None, state_dict=None):
        save_weights(self.model, Path(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        """The policy alone: the reference is loaded from the parent, whatever a checkpoint holds."""
        if isinstance(self.model, PeftModel):
            load_adapter(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)


def save_weights(model, folder: Path) -> None:
    """The adapter `default` without the frozen ones beside it, or the whole model. Embeddings only as far as they are trained."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, PeftModel):
        model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    else:
        model.save_pretrained(folder)


def could_not_save(folder: Path, error: Exception) -> PipelineError:
    free = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free
    if free < 16 << 20 or "No space left" in str(error):
        return MachineError(
            f"{folder}: the disk is full ({free >> 20} MiB free); what is there is whole.",
            "Make room and give the same command again: it continues from the last checkpoint.",
        )
    if isinstance(error, PermissionError):
        return PipelineError(
            f"{error.filename or folder}: no permission to write there.", "Choose another --runs folder."
        )
    return MachineError(f"{folder}: cannot be written: {error}")


class Progress(TrainerCallback):
    """Says what happens, keeps log.jsonl, and stops at the next step when asked to."""

    def __init__(self, context: Context, trainer: StageTrainer):
        self.context, self.trainer = context, trainer
        self.log = context.folder / "log.jsonl"

    def on_train_begin(self, args, state, control, **_):
        self._forget_after(state.global_step)
        self.context.report("train", step=state.global_step, steps=state.max_steps)

    def _forget_after(self, step: int) -> None:
        """A resumed run repeats the steps after its checkpoint: their lines are written anew."""
        if self.log.is_file():
            lines = self.log.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            write_atomically(self.log, "".join(kept))

    def on_step_end(self, args, state, control, **_):
        self.context.report("step", step=state.global_step, tokens=self.trainer.tokens)
        if self.context.interrupted.is_set():
            control.should_save = control.should_training_stop = True
        if state.global_step >= state.max_steps and args.logging_strategy != "no":
            control.should_log = True  # the last steps have a line as well, however many logging_steps there are
        return control

    def on_log(self, args, state, control, logs=None, **_):
        line = {"step": state.global_step} | {k: v for k, v in (logs or {}).items() if isinstance(v, int | float)}
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if "loss" in line:
            self.context.report("log", **line)


def effective_beta(spec: Spec, given: dict) -> float | None:
    """DPO's beta where its loss is the plain sigmoid one, whose held-out value is then worth a figure."""
    values = effective(spec.config, given)
    return values.get("beta") if spec.reference and values.get("loss_type") in ("sigmoid", ["sigmoid"]) else None
