"""A job as its process finds it: the inputs hashed afresh and still what was planned, the machine agreed on."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock

from pipeline.artifact.attempt import Attempt
from pipeline.artifact.digests import Digests
from pipeline.errors import MachineError, PipelineError
from pipeline.plan import checks, judges, methods
from pipeline.plan.planner import Planner
from pipeline.plan.step import Step
from pipeline.ranks import ALONE, Ranks
from pipeline.recipe.launch import divided
from pipeline.recipe.reading import load_recipe
from pipeline.recipe.recipe import Recipe, StageRecipe
from pipeline.stage import Spec, specs
from pipeline.train.job import machine
from pipeline.train.job.job import Job
from pipeline.train.job.shrinking import Shrinking


@dataclass(frozen=True)
class CheckedJob:
    """What all parts of a stage's run stand on, and none of them changes."""

    job: Job
    attempt: Attempt
    recipe: Recipe
    planner: Planner
    step: Step
    settings: StageRecipe  # the stage's own, its data sets pinned to commits
    machine: dict  # how it is run: backend, device, processes, threads
    started: float  # by the monotonic clock
    ranks: Ranks = ALONE
    note: str | None = None  # what is to be said of how it is run
    shrunk: int = 0  # how often memory had run out when this process began

    @property
    def spec(self) -> Spec:
        return specs()[self.job.stage]

    @property
    def folder(self) -> Path:
        return self.attempt.folder

    @property
    def given(self) -> dict:
        """The training arguments of this process."""
        return self.shrinking.train()

    @property
    def shrinking(self) -> Shrinking:
        own = divided(self.spec, self.step.given, self.ranks.size)
        return Shrinking(self.folder, self.spec, own, self.settings.evaluation)

    @property
    def parent_adapter(self) -> Path | None:
        """The adapter that goes on; None where the stage starts from a whole model."""
        parent = self.step.parent
        return parent.folder if parent and not parent.is_model else None


def check(job: Job, attempt: Attempt, ranks: Ranks = ALONE) -> CheckedJob:
    """Hash the inputs and the parents' files, and load the heavy libraries as the backend wants it.

    Raises PipelineError where something is not what was planned, or where the attempt was begun otherwise.
    """
    recipe, started = load_recipe(job.recipe, job.overrides), time.monotonic()
    planner = Planner(recipe, Path(job.runs), job.policy, Digests())
    step = planner.plan([job.stage])[-1]
    if step.fingerprint != job.fingerprint:
        raise PipelineError(f"{job.stage}: its data or parent changed while it was started.", "Run it again.")
    checks.trackers_ready(recipe, [step])
    judges.need_keys(recipe, [step])
    for parent in (step.parent, step.reward):
        if parent and parent.attempt:
            parent.attempt.check_content()
    settings = recipe.stage(job.stage)
    settings = replace(settings, data=settings.data.pinned(planner.folder))
    ranks, agreed, note = machine.agreed(job, recipe, attempt, ranks)
    if found := methods.not_here(recipe, step, gpu=agreed["device"] == "cuda"):
        raise PipelineError(f"{job.stage}: {found[0]}.", found[1])
    checked = CheckedJob(job, attempt, recipe, planner, step, settings, agreed, started, ranks, note)
    return replace(checked, shrunk=len(checked.shrinking.history))


def smaller(checked: CheckedJob, phase: str, error: BaseException) -> str | None:
    """Have the attempt continue with fewer rows at a time, since memory ran out in `phase`: what was done, in words.

    None where another process of the stage has done it.

    Raises MachineError where that is not wanted, or would not help.
    """
    # Of several machines only this one would start afresh.
    stop = checked.recipe.on_out_of_memory == "stop" or checked.job.nodes > 1
    with FileLock(checked.folder / ".shrinking"):
        if len(checked.shrinking.history) > checked.shrunk:  # another process of the stage was before this one
            return None
        done = None if stop else checked.shrinking.shrink(phase)
    if done is None:
        raise MachineError(
            f"{checked.job.stage}: memory ran out ({phase}).", checked.shrinking.advice(phase)
        ) from error
    return done
