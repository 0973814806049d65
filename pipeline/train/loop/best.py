"""`keep: {best: exact_match}`: the weights of the best of the steps that are measured, until training ends.

Whatever checkpoints are kept for going on, these lie beside them, in `best/` of the stage's folder: of each step that was
better than all before it, as far back as a resumed run may begin. So a run that was killed chooses as one that never was.
"""

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from pipeline.artifact.attempt import Attempt
from pipeline.artifact.writing import write_json
from pipeline.errors import PipelineError
from pipeline.model.saving import could_not_save, save_weights
from pipeline.ranks import ALONE, Ranks
from pipeline.recipe.gates import LOWER_IS_BETTER

FOLDER, FILE = "best", "best.json"


class Best:
    """Of the stage in `folder`, by the held-out figure `figure`. `ranks` are the processes that keep it together."""

    def __init__(self, folder: Path, figure: str, report: Callable[..., None], ranks: Ranks = ALONE):
        self.folder, self.figure, self.report, self.ranks = folder, figure, report, ranks

    def begin(self, trainer) -> None:
        """Before the first step. Raises PipelineError where there would be nothing to choose from."""
        key = f"keep.best: {self.figure}"
        state, args = trainer.state, trainer.args
        if args.eval_strategy == "no":  # without held-out rows nothing is measured
            raise PipelineError(f"{key}: no row is held out, so nothing is measured.", "Set data.held_out.")
        if args.eval_strategy == "steps" and state.eval_steps >= state.max_steps:
            said = f"{key}: there is nothing to choose from: train.eval_steps is {state.eval_steps}, and there are"
            raise PipelineError(f"{said} {state.max_steps} steps.", "Lower train.eval_steps.")

    def consider(self, step: int, metrics: dict[str, float], model) -> None:
        """Of a step that was measured: its weights are kept where no earlier one is as good."""
        if not step:
            return  # what training starts from is no result of it
        if self.figure not in metrics:
            said = f"keep.best: {self.figure} was not measured at step {step}; there are {', '.join(metrics)}."
            raise PipelineError(said, "Name one of these, or mend the held-out rows.")
        # A resumed run measures again what was measured after its checkpoint.
        earlier = self.ranks.told([one for one in self.candidates if one["step"] < step])
        now = {"step": step, "value": metrics[self.figure]}
        if self._better(now, self._best(earlier)):
            self._save(model, self.folder / FOLDER / f"step-{step}")
        if self.ranks.first:
            write_json(self.folder / FILE, {"figure": self.figure, "candidates": [*earlier, now]})
            self._forget_what_no_resume_needs([*earlier, now])

    def settle(self, trainer) -> dict:
        """After training: the best weights into the trainer's model. Returns what the manifest says of the choice.

        Of steps that are equally good the first is taken: it moved the least.
        """
        last = trainer.state.global_step
        if last not in [one["step"] for one in self.ranks.told(self.candidates)]:
            trainer.evaluate()
        candidates = self.ranks.told(self.candidates)
        chosen = self._best(candidates)
        if chosen is None:
            said = f"keep.best: {self.figure} is no number at any of the {len(candidates)} steps that were measured."
            raise PipelineError(said, "Look for what broke it in the log, or leave keep out.")
        if chosen["step"] != last:
            trainer.put(self._weights(chosen["step"]))
        choice = {"best": self.figure, **chosen, "last": last, "candidates": candidates}
        self.report("kept", **choice)
        return choice

    def forget(self) -> None:
        """When the stage is signed: its artifact has the weights, and its manifest the choice."""
        shutil.rmtree(self.folder / FOLDER, ignore_errors=True)

    @property
    def candidates(self) -> list[dict]:
        """{"step", "value"} of all that were measured, the first first."""
        try:
            return json.loads((self.folder / FILE).read_text(encoding="utf-8"))["candidates"]
        except OSError:
            return []

    def _best(self, candidates: list[dict]) -> dict | None:
        best = None
        for one in candidates:
            best = one if self._better(one, best) else best
        return best

    def _better(self, one: dict, other: dict | None) -> bool:
        if not math.isfinite(one["value"]):
            return False
        if other is None:
            return True
        below = self.figure in LOWER_IS_BETTER
        return one["value"] < other["value"] if below else one["value"] > other["value"]

    def _forget_what_no_resume_needs(self, candidates: list[dict]) -> None:
        """A resume begins at the oldest checkpoint at the earliest: what was best there has to stay, and all since."""
        checkpoints = Attempt(self.folder).checkpoints()
        oldest = checkpoints[-1][0] if checkpoints else candidates[-1]["step"]
        there = self._best([one for one in candidates if one["step"] <= oldest])
        needed = {one["step"] for one in candidates if one["step"] > oldest} | ({there["step"]} if there else set())
        for folder in (self.folder / FOLDER).glob("step-*"):
            if int(folder.name.removeprefix("step-")) not in needed:
                shutil.rmtree(folder)

    def _weights(self, step: int) -> Path:
        folder = self.folder / FOLDER / f"step-{step}"
        if not folder.is_dir():
            said = f"{folder}: is gone, and keep.best needs it."
            raise PipelineError(said, "Train the stage anew with --fresh (FRESH=1).")
        return folder

    def _save(self, model, place: Path) -> None:
        """Whole, or not under its name."""
        partial = place.with_name(f".{place.name}")
        try:
            if self.ranks.first:
                shutil.rmtree(partial, ignore_errors=True)
            save_weights(model, partial, self.ranks)
            if self.ranks.first:
                shutil.rmtree(place, ignore_errors=True)
                os.replace(partial, place)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise could_not_save(self.folder, error) from error
