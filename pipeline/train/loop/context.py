"""What a stage's `build_trainer` is given, and how it makes a trainer of TRL's into one of this pipeline's."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from datasets import Dataset
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from transformers import PrinterCallback, Trainer

from pipeline.data.prepare.table import lengths
from pipeline.data.shapes.kinds import Kind
from pipeline.errors import PipelineError
from pipeline.model.adapter_tensors import load_adapter
from pipeline.model.adapters import method_on
from pipeline.model.counted import counted
from pipeline.ranks import ALONE, Ranks
from pipeline.recipe.fields import effective
from pipeline.recipe.launch import DIVIDING, ZERO
from pipeline.stage import Spec
from pipeline.train.job.interruption import Interruption
from pipeline.train.loop import dealing, pairs, reference
from pipeline.train.loop.arguments import built
from pipeline.train.loop.best import Best
from pipeline.train.loop.callback import StageCallback
from pipeline.train.loop.engine import Engine
from pipeline.train.loop.packing import packed, refuse_mixed_attention, without_suspicion
from pipeline.train.loop.reference import Reference
from pipeline.train.loop.sharding import Sharding
from pipeline.train.loop.shared_prompt.fit import Choice, choose
from pipeline.train.loop.trainer import StageTrainer
from pipeline.train.loop.zero import Zero


@dataclass(frozen=True)
class Context:
    """What a stage's `build_trainer` is given."""

    spec: Spec
    model: torch.nn.Module
    tokenizer: object
    rows: Dataset  # token columns, see pipeline.data.tokens.encoder
    held_out: Dataset
    examples: Sequence[Kind]  # what `rows` were made from
    given: dict  # training arguments that differ from TRL's defaults
    seed: int
    dtype: str
    folder: Path
    parent_adapter: Path | None
    load_reference: Callable[[], torch.nn.Module]
    report: Callable[..., None]  # (kind, **fields): a word to whoever watches
    interruption: Interruption
    reward: Callable | None  # see pipeline.reward.reward
    learning: Mapping[str, float]  # how the adapter is trained beside what `given` says
    evaluate: Callable[[torch.nn.Module, int], dict[str, float]]  # held-out figures of the model, at a step
    best: Best | None  # keeps the weights of the best step, where the recipe asks for it
    kept: Reference  # what the frozen reference says of the rows
    ranks: Ranks = ALONE
    strategy: str = "ddp"  # what each of them holds, see pipeline.recipe.launch
    deepspeed: dict | None = None  # what a file of one's own tells DeepSpeed
    offload: str | None = None  # where what each of them holds a part of is kept
    share_prompt: bool | str = "auto"  # whether a pair's prompt is run once, where the stage can

    @cached_property
    def engine(self) -> Engine:
        """What its processes have in common while they train."""
        kind = Zero if self.strategy in ZERO else Sharding if self.ranks.sharded else Engine
        return kind(self)

    def effective(self, name: str) -> object:
        """A training argument with its default."""
        return effective(self.spec.config, self.given).get(name)

    def pair_trainer(self, kind: type[Trainer]):
        """A `kind` of TRL trainer that would tokenize pairs by itself."""
        collator = partial(pairs.batch, self.tokenizer.pad_token_id)
        return self.trainer(kind, wrapped=pairs.Rows, collator=collator, config={"remove_unused_columns": False})

    def trainer(
        self,
        kind: type[Trainer],
        *,
        data: Callable[[Dataset], Dataset] | None = None,
        config: dict | None = None,
        collator: Callable[[Sequence[dict]], dict] | None = None,
        wrapped: type = lambda rows: rows,
        front: type | None = None,
        **options: object,
    ):
        """A `kind` of TRL trainer that saves, resumes and reports as all stages do.

        `data` makes of our token columns those that the trainer takes, `config` overrides arguments, `collator` takes
        the place of TRL's, `wrapped` is what the rows are handed over in, `front` a class to stand before StageTrainer, and
        `options` are what the trainer takes beside what all of them do.
        """
        args = self._arguments((config or {}) | self._when_evaluated())
        rows, evaluation = ((data(some) if data and len(some) else some) for some in (self.rows, self.held_out))
        if getattr(args, "packing", False):
            rows = packed(rows, args.max_length, self.model)
        elif getattr(args, "padding_free", False):
            refuse_mixed_attention(self.model, "padding_free")
        sharing = self._sharing(args)
        kept = sharing.kept(self.kept)
        keeps = self._keeps_reference(kept, args, len(rows))
        options |= {"data_collator": collator} if collator else {}
        beside = self._reference_stands_beside()
        if self.spec.reference and not beside:
            # Where it is kept, it is the model itself before its first step; TRL would load another one all the same.
            options["ref_model"] = self.engine.reference(keeps)
        with _adapters_stay_fp32(self.model), without_suspicion(), _refusals(kind.__name__):
            trainer = type(kind.__name__, (*([front] if front else []), StageTrainer, kind), {"context": self})(
                model=self.model,
                args=args,
                train_dataset=wrapped(rows),
                eval_dataset=wrapped(evaluation) if args.eval_strategy != "no" else None,  # see StageTrainer.evaluate
                processing_class=self.tokenizer,
                **options,
            )
        dealing.share(trainer, self.ranks)
        trainer.lengths = lengths(rows).tolist()
        trainer.num_virtual_tokens = 0  # TRL's SFT would take them off the logits, which hold none of them here
        if self.spec.reference and beside and "ref" in self.model.peft_config:
            self._freeze_reference()
        trainer.parameters = counted(self.model)
        self.engine.divide(trainer, apart=self.spec.reference and not beside and not keeps)
        sharing.put_on(trainer)
        if keeps:
            if not beside:
                trainer.ref_model = None
            trainer.train_dataset = kept.beside(rows, trainer)
            reference.forget(trainer)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(StageCallback(self, trainer))
        return trainer

    def _reference_stands_beside(self) -> bool:
        """Whether the reference is an adapter on the policy's own base; else it is a model of its own."""
        return isinstance(self.model, PeftModel) and method_on(self.model).beside

    def _sharing(self, args) -> Choice:
        if not self.spec.shares_prompt or self.strategy in DIVIDING:  # it runs parts of the model by themselves
            return Choice()
        return choose(self.share_prompt, self.model, args, self.rows)

    def _keeps_reference(self, kept: Reference, args, rows: int) -> bool:
        """Whether its log-probabilities are taken from what is kept, or computed to be kept: then for every row at once."""
        if not self.spec.reference_columns or not self.effective("precompute_ref_log_probs"):
            return False
        step = args.per_device_train_batch_size * args.gradient_accumulation_steps * self.ranks.size
        trained = args.max_steps * step
        return kept.is_kept() or args.max_steps <= 0 or trained >= rows

    def _when_evaluated(self) -> dict:
        """Without held-out rows never, which is said where the recipe asks for it."""
        if len(self.held_out):
            return {}
        never = {"eval_strategy": "no", "eval_on_start": False}
        if asked := [key for key, off in never.items() if self.given.get(key, off) != off]:
            self.report("note", text=f"{' and '.join(asked)} has nothing to do: no row is held out")
        return never

    def _arguments(self, config: dict):
        given = self.given | ({"loss_type": self._loss()} if self.spec.config == "SFTConfig" else {})
        if self.spec.reference_columns:  # TRL would do it before its copy is what it should be
            config = config | {"precompute_ref_log_probs": False}
        config = config | self.engine.arguments()
        return built(self.spec, given, seed=self.seed, dtype=self.dtype, folder=self.folder, config=config)

    def _loss(self) -> str | None:
        """SFT's. TRL's chunked default reads the head's weights alone, without an adapter on them, and gives no logits,
        which smoothing needs; and it goes round the fused loss that Unsloth has on a GPU. On a CPU both backends take
        TRL's, and are equal to the bit.
        """
        wanted, adapted = self.given.get("loss_type"), self._head_is_adapted()
        if wanted == "chunked_nll" and adapted:
            raise PipelineError(
                "train.loss_type: chunked_nll goes round the adapter on the output embeddings here.",
                "Leave it out: the same loss is then computed otherwise.",
            )
        fused = torch.cuda.is_available() and "unsloth" in sys.modules
        return wanted or ("nll" if adapted or fused or self.given.get("label_smoothing_factor") else None)

    def _head_is_adapted(self) -> bool:
        """Whether it is more than its weights, which PEFT's wrapper of trained tokens or of a whole head has in them."""
        head = self.model.get_output_embeddings()
        if not isinstance(head, AuxiliaryTrainingWrapper):
            return isinstance(head, BaseTunerLayer)
        if getattr(head.original_module, "bias", None) is not None:
            return True
        head.bias = None  # TRL asks for it, and the wrapper does not know of any
        return False

    def _freeze_reference(self) -> None:
        """TRL copies LoRA tensors into the adapter `ref`, but not trained embeddings: take them all from the parent."""
        if self.parent_adapter is not None:
            load_adapter(self.model, self.parent_adapter, "ref")
        for name, parameter in self.model.named_parameters():
            if ".ref" in name:
                parameter.requires_grad_(False)


@contextmanager
def _refusals(trainer: str):
    """What a trainer says while it is set up is of its arguments; the stage's log keeps where it comes from."""
    try:
        yield
    except (ValueError, NotImplementedError, ImportError) as error:
        said = " ".join(str(error).split())
        raise PipelineError(f"train: {trainer} refuses it: {said}", "Mend the recipe and run it again.") from error


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
