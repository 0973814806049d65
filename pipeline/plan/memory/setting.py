"""All that the memory of a stage depends on, and what follows from it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from pipeline.plan.memory import loss
from pipeline.plan.memory.activations import Pass
from pipeline.plan.memory.held import ALONE, Held
from pipeline.plan.memory.shape import Shape
from pipeline.plan.memory.tuned import Tuned
from pipeline.recipe.launch import EACH, PASSES, divided
from pipeline.stage import Spec


@dataclass(frozen=True)
class Setting:
    """Of one stage."""

    spec: Spec
    shape: Shape
    tuned: Tuned
    train: Mapping[str, Any]  # every training argument, with its default; of all processes together
    dtype: str
    bits: int | None
    length: int  # tokens of the longest row; with its response where it samples one
    prompt: int  # tokens of the longest prompt
    attention: str = "sdpa"
    unsloth: bool = False
    second_model: bool = False  # whether the reference is a model of its own
    reference: bool = False  # whether one stands there while it trains
    scored: bool = False  # whether a reward model stands beside
    answers: int = 0  # tokens of a held-out answer; 0 where none is asked for
    batch_of_answers: int = 0
    evaluated: int = 0  # held-out rows that an evaluation reads
    longest_row: int = 0  # tokens, where the rows are prepared
    quantizable: bool = False  # whether the base could be kept in 4 bits, and is not
    quantizable_in_parts: bool = False  # whether it could be so where each process has a part of it
    whole_loss: bool = False  # whether an adapter on the head keeps TRL from its chunked loss
    gpu: bool = True
    held: Held = ALONE

    @property
    def reference_stands(self) -> bool:
        """Whether a frozen reference is there while it trains. In parts its adapter is, also where what it says is kept."""
        in_parts = self.held.sharded and bool(self.spec.reference_columns) and not self.tuned.whole
        return self.reference or in_parts

    @property
    def half(self) -> bool:
        return self.dtype != "float32"

    @cached_property
    def own(self) -> Mapping[str, Any]:
        """The training arguments of each process. Raises ValueError where its steps cannot be dealt out."""
        return divided(self.spec, self.train, self.held.processes)

    @property
    def can_be_dealt_out(self) -> bool:
        try:
            return bool(self.own)
        except ValueError:
            return False

    @property
    def micro(self) -> int:
        return int(self.own[EACH])

    @property
    def accumulates(self) -> bool:
        return int(self.own[PASSES]) > 1

    @property
    def checkpointing(self) -> bool:
        return bool(self.train.get("gradient_checkpointing"))

    @property
    def rollout(self) -> int:
        """Sequences that a process samples together."""
        own = self.own
        if "local_rollout_forward_batch_size" in own:
            steps = int(own[PASSES]) * int(own["num_mini_batches"])
            return min(int(own["local_rollout_forward_batch_size"]), self.micro * steps)
        if whole := own.get("generation_batch_size"):  # of all processes
            return -(-int(whole) // self.held.processes)
        return self.micro * int(own.get("steps_per_generation") or own[PASSES])

    @property
    def loss(self) -> str:
        config = self.spec.config
        if self.spec.head == "score":
            return loss.NONE
        if config == "PPOConfig":
            return loss.IN_PIECES
        if config == "SFTConfig":
            if self.unsloth:
                return loss.FUSED
            plain = self.whole_loss or self.train.get("label_smoothing_factor")
            wanted = self.train.get("loss_type") or ("nll" if plain else "chunked_nll")
            return loss.CHUNKED if wanted == "chunked_nll" else loss.WHOLE
        if config == "ORPOConfig":
            return loss.SELECTED_AND_WHOLE
        return loss.SELECTED

    @property
    def step(self) -> Pass:
        """What goes through the model in one micro-batch."""
        rows, length = self.micro * (2 if self.spec.row_kind == "preference" else 1), self.length + self.tuned.positions
        masked = rows > 1
        if self.train.get("padding_free") or self.train.get("packing"):
            rows, length, masked = 1, rows * length, bool(self.train.get("packing"))
        return Pass(rows, length, self.half, self.attention, masked, self.unsloth)


def smaller(setting: Setting, **train: object) -> Setting:
    """The same with other training arguments."""
    return replace(setting, train={**setting.train, **train})
