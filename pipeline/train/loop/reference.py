"""What the frozen reference says of the rows: computed once for the same weights, rows and tokenizer, and kept beside the rows.

Another beta, seed or learning rate over the same rows finds it there, and neither runs the reference nor holds it in memory.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from datasets import Dataset
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline.artifact.digests import canonical
from pipeline.errors import MachineError
from pipeline.evaluate.forward import batches, tokens_at_once
from pipeline.plan.inputs import reference_key
from pipeline.train.loop.half import running_so

ADAPTER = "ref"  # TRL's name for the frozen copy of the policy
# How far a reward (beta times nats) may be from 0 before the first step, where policy and reference are the same. In half
# precision another batch is another rounding: a wrong reference is off by whole nats.
LIMITS = {"float32": 1e-4}
HALF = 0.1


@dataclass(frozen=True)
class Reference:
    """The log-probabilities of one stage's reference, in the folder of its prepared rows."""

    inputs: dict  # of the stage
    rows: Path  # the prepared rows' folder
    how: str  # what computes it: backend and device

    @property
    def file(self) -> Path:
        how = sha256(canonical({"how": self.how})).hexdigest()[:8]
        return self.rows / f"{reference_key(self.inputs)}-{how}.safetensors"

    def is_kept(self) -> bool:
        return self.file.is_file()

    def beside(self, rows: Dataset, trainer) -> Dataset:
        """The rows with a column for each of the reference's sums, found or computed now by the trainer."""
        columns = trainer.context.spec.reference_columns
        needed = columns if getattr(trainer, "calculate_KL", True) else columns[:1]
        ranks = trainer.context.ranks
        if ranks.sharded:  # all of them run it
            there = ranks.told(self._kept(len(rows), needed) is not None)
            found = self._kept(len(rows), needed) if there else self._computed(rows, trainer)
            ranks.wait()
        else:
            with ranks.first_before_the_rest():
                found = self._kept(len(rows), needed) or self._computed(rows, trainer)
        for name, values in found.items():
            rows = rows.add_column(name, values.numpy())
        return rows

    def _kept(self, number: int, needed: Sequence[str]) -> dict[str, torch.Tensor] | None:
        """None where nothing is there, or what cannot be read: it is then computed again."""
        try:
            found = load_file(self.file)
        except (OSError, SafetensorError):
            return None
        whole = all(len(values) == number for values in found.values())
        return found if whole and set(needed) <= set(found) else None

    def _computed(self, rows: Dataset, trainer) -> dict[str, torch.Tensor]:
        trainer.context.report("phase", name="reference")
        sums = sums_of(rows, trainer)
        if not trainer.context.ranks.together.first:
            return sums
        partial = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        try:
            save_file(sums, partial)
            os.replace(partial, self.file)
        except OSError as error:
            raise MachineError(
                f"{self.file}: cannot be written: {error.strerror or error}.",
                "Make room, or choose another --runs folder.",
            ) from None
        return sums


def sums_of(rows: Dataset, trainer) -> dict[str, torch.Tensor]:
    """For each of the trainer's reference columns (rows,) log-probabilities in nats, in fp32, in the order of the rows.

    TRL's own function computes them, on rows of like length, without dropout.
    """
    training, found, reference = trainer.model.training, None, trainer.ref_model
    if reference is None and ADAPTER not in getattr(trainer.model, "peft_config", {}):
        # The policy before its first step; of an adapter TRL would take the bare base.
        trainer.ref_model = trainer.model
    trainer.model.eval()
    # The batches are those of the rows, not of the recipe: what is found must be, to the bit, what would be computed.
    with torch.no_grad(), running_so(trainer):
        for batch in batches(trainer.lengths, tokens_at_once(trainer.model)):
            inputs = trainer._prepare_inputs(trainer.data_collator([rows[number] for number in batch]))
            sums = trainer.compute_ref_log_probs(trainer.model, inputs)
            sums = [one.float().cpu() for one in sums if one is not None]
            found = found or [torch.empty(len(rows)) for _ in sums]
            for whole, part in zip(found, sums, strict=True):
                whole[batch] = part
    trainer.model.train(training)
    trainer.ref_model = reference
    return dict(zip(trainer.context.spec.reference_columns, found or [], strict=False))


def forget(trainer) -> None:
    """Let go of the reference itself: its log-probabilities are in the rows. Where the model is cut, its parts stay: FSDP and
    DeepSpeed have them in their books, and would look for them.
    """
    if ADAPTER in getattr(trainer.model, "peft_config", {}) and not trainer.context.ranks.sharded:
        trainer.model.delete_adapter(ADAPTER)
    trainer.ref_model = None
    trainer.precompute_ref_logps = True


def check_unmoved(trainer, dtype: str) -> None:
    """Before the first step the policy is its reference: raises where the trainer's own figures say otherwise.

    A reference that is not the parent trains towards something else, without any other sign.
    """
    if any(isinstance(module, torch.nn.Dropout) and module.p for module in trainer.model.modules()):
        return  # the policy is then another one in every step
    limit = LIMITS.get(dtype, HALF)
    for name in trainer.context.spec.zero_at_first:
        for value in trainer._metrics["train"].get(name, [])[-1:]:
            if not abs(value) <= limit:
                raise MachineError(
                    f"The reference is not the policy that training starts from: {name} is {value:.3g} before the first "
                    f"step, and has to be 0.",
                    "Please report it with stage.log; use_unsloth: false, or another adapter.method, may do without it.",
                )
