"""When memory runs out: fewer rows at a time from then on, in a fresh process, and as many as before in each step.

Halving the rows of a forward pass and doubling how many passes an optimizer step gathers leaves the step what it was, to
rounding (where the last step of an epoch is not full, DPO and reward weigh its rows a little otherwise). Where the cut counts,
nothing is cut anew. What an attempt was made smaller to is kept in its folder, for this
run and for whoever continues it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifact.writing import write_json
from pipeline.recipe.fields import effective
from pipeline.recipe.launch import EACH, PASSES, SLICES
from pipeline.recipe.sections import Evaluation
from pipeline.stage import Spec

FILE = "shrunk.json"  # in an attempt's folder: a list, an entry each time
TRAIN, EVALUATION = f"train.{EACH}", "evaluation.batch_size"
# What libraries say, where their error has no type of its own.
_SAID = ("can't allocate memory", "CUDA error: out of memory", "ALLOC_FAILED")


@dataclass(frozen=True)
class Shrinking:
    """How many rows an attempt takes at a time."""

    folder: Path
    spec: Spec
    given: Mapping[str, object]  # training arguments as the recipe has them
    evaluation: Evaluation

    @property
    def history(self) -> list[dict]:
        """Each time that memory ran out: the key, from and to how many rows, and what was being done."""
        file = self.folder / FILE
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []

    def train(self) -> dict[str, object]:
        """The training arguments, with no more rows at a time than fit."""
        values = effective(self.spec.config, dict(self.given))
        each, passes = values[EACH], values[PASSES]
        at_most = self._at_most(TRAIN, each)
        if at_most >= each:
            return dict(self.given)
        split = {EACH: at_most, PASSES: each * passes // at_most}
        if self.given.get(SLICES):
            split[SLICES] = self.given[SLICES] * each // at_most
        return self.given | split

    def evaluated(self) -> Evaluation:
        """The evaluation, with no more rows at a time than fit."""
        at_most = self._at_most(EVALUATION, self.evaluation.batch_size)
        return self.evaluation.model_copy(update={"batch_size": at_most})

    def shrink(self, phase: str) -> str | None:
        """Take fewer rows at a time from now on, since memory ran out in `phase`; what was done, in words.

        None where that would not help: while the model is loaded, its reference asked, or responses sampled, where rows
        stand alone already, and where how many there are at a time is part of what is trained.
        """
        key = _key(phase)
        if key is None or (key == TRAIN and self._cut_counts):
            return None
        rows = self.evaluated().batch_size if key == EVALUATION else effective(self.spec.config, self.train())[EACH]
        fewer = next((number for number in range(rows // 2, 0, -1) if rows % number == 0), None)
        if fewer is None:
            return None
        entry = {"key": key, "from": rows, "to": fewer, "while": phase}
        write_json(self.folder / FILE, [*self.history, entry])
        steps = ", in as many passes as make up the same step" if key == TRAIN else ""
        return f"memory ran out ({phase}): {key} {rows} -> {fewer}{steps}; it continues in a fresh process"

    @property
    def _cut_counts(self) -> bool:
        """Whether how a step is cut is part of what is trained, as KTO's KL is of each piece."""
        return self.spec.cut_counts(effective(self.spec.config, dict(self.given)))

    def advice(self, phase: str) -> str:
        """What a person can do where it does not help by itself."""
        known = effective(self.spec.config, dict(self.given))
        if _key(phase) == EVALUATION:
            lower = "Lower evaluation.batch_size, evaluation.max_new_tokens or train.max_length"
        elif phase == "rollout":
            sizes = ("local_rollout_forward_batch_size", "num_generations", "max_completion_length", "response_length")
            lower = "Lower " + " or ".join(f"train.{name}" for name in sizes if name in known)
        elif _key(phase) == TRAIN:
            counts = "How a step is cut counts in this stage, so it was not cut anew. " if self._cut_counts else ""
            lower = f"{counts}Lower {TRAIN} (and raise {PASSES} as much) or train.max_length, set train.gradient_checkpointing: true"
        elif phase == "reference":
            lower = "Set train.precompute_ref_log_probs: false"
        else:
            lower = "Set model.dtype: bfloat16"
        return f"{lower}, or set model.load_in_4bit: true; then run it again."

    def _at_most(self, key: str, asked: int) -> int:
        """The largest divisor of what is asked that is known to fit."""
        known = min((one["to"] for one in self.history if one["key"] == key), default=asked)
        return next(number for number in range(min(known, asked), 0, -1) if asked % number == 0)


def _key(phase: str) -> str | None:
    if phase.startswith("evaluation") or phase.endswith(" taught"):
        return EVALUATION
    return TRAIN if phase == "training" else None


def memory_ran_out(error: BaseException) -> bool:
    """Whether that is what an error, of torch or of Python, says."""
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)
    return said or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
