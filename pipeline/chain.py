"""A chain from Python: what `align plan`, `run` and `status` do, for a notebook or a script.

    from pipeline import Chain

    chain = Chain("recipes/tiny.yaml")
    for step in chain.plan("dpo"):
        print(step.stage, step.state, step.why)
    dpo = chain.run("dpo")["dpo"]
    print(dpo.output, dpo.before["loss"], dpo.after["loss"])

Light: torch is loaded in the processes of the stages, never here.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.console.display import Display
from pipeline.console.screen import make_console
from pipeline.errors import PipelineError
from pipeline.plan.planner import Planner
from pipeline.plan.step import EVALUATE, UP_TO_DATE, Step
from pipeline.recipe.reading import load_recipe
from pipeline.recipe.recipe import Recipe
from pipeline.run.run import FALLS_SHORT, Run
from pipeline.train.job.job import INTERRUPTED


class FallsShort(PipelineError):
    """A stage was trained and has lost more than it `must_keep` allows: nothing was built on it."""

    exit_code = FALLS_SHORT


@dataclass(frozen=True)
class Artifact:
    """What a finished stage has left."""

    stage: str
    folder: Path
    """runs/<recipe>/<stage>/<fingerprint>: logs, samples, lists of rows."""
    output: Path
    """adapter/ or, where every weight was trained, model/: what PEFT and transformers load."""
    manifest: dict[str, Any]
    """What it was made from, what it measured, the row account; see docs/reference/manifest.md."""

    @property
    def before(self) -> dict[str, float]:
        """The held-out figures before the first step."""
        return self.manifest["metrics"]["before"]

    @property
    def after(self) -> dict[str, float]:
        """The same after the last."""
        return self.manifest["metrics"]["after"]


class Chain:
    """The stages of one recipe over one folder of artifacts.

    `overrides` are as of `--set`: `["stages.dpo.train.beta=0.05", "use_unsloth=false"]`. Paths are relative to the current
    folder. Raises PipelineError with every mistake in the recipe.
    """

    def __init__(self, recipe: str | Path, overrides: Sequence[str] = (), runs: str | Path = "runs"):
        self.recipe: Recipe = load_recipe(recipe, overrides)
        self.runs = Path(runs)

    def plan(self, *stages: str, fresh: bool = False, policy: str | None = None) -> list[Step]:
        """What `run` would do and why: one step a stage, those that the named ones stand on first. All without a name.

        Needs neither a network nor a GPU, nor data: `missing` has the files that are not there. Raises PipelineError for
        what cannot be run.
        """
        goals = self._goals(stages)
        return Planner(self.recipe, self.runs, policy).plan(goals, fresh=goals if fresh else (), without_data=True)

    def run(
        self,
        *stages: str,
        fresh: bool = False,
        policy: str | None = None,
        look_ahead: bool = True,
        quiet: bool = False,
    ) -> dict[str, Artifact]:
        """Train what is not up to date, each stage in a process of its own, and return what these stages have left.

        Prints what `align run` prints, unless `quiet`. Raises PipelineError for a mistake, MachineError where the machine
        failed, FallsShort where a stage has lost what it must keep, and KeyboardInterrupt after Ctrl-C, when a checkpoint
        is saved; the same call continues.
        """
        if self.recipe.launch.nodes > 1:
            raise PipelineError(
                f"{self.recipe.path}: launch.nodes: several machines are not driven from here.",
                "Use `align run` on each of them.",
            )
        console = Console(file=io.StringIO()) if quiet else make_console()
        run = Run(
            self.recipe,
            self.runs,
            stages,
            fresh=fresh,
            policy=policy,
            display=Display(console),
            look_ahead=look_ahead,
        )
        code = run.execute()
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code == FALLS_SHORT:
            short = [step for step in self.plan(*stages, policy=policy) if step.falls_short]
            what = "\n".join(f"{step.stage}: {lost}" for step in short for lost in step.falls_short)
            raise FallsShort(what, "Train it otherwise, or change what it must keep.")
        return self.artifacts(*stages, policy=policy)

    def artifacts(self, *stages: str, policy: str | None = None) -> dict[str, Artifact]:
        """What is finished, by stage: of the named stages and those that they stand on, or of all. Trains nothing.

        A stage that is not trained yet, or is out of date, is left out.
        """
        return {
            step.stage: Artifact(
                step.stage, step.known_attempt.folder, step.known_attempt.output, step.known_attempt.manifest
            )
            for step in self.plan(*stages, policy=policy)
            if step.state in (UP_TO_DATE, EVALUATE)
        }

    def _goals(self, stages: Sequence[str]) -> list[str]:
        return list(stages) or list(self.recipe.stages)
