"""A run on another machine than the first: the same stages, of which the first alone tells and keeps what comes out."""

import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.console.display import Display
from pipeline.errors import PipelineError
from pipeline.plan.planner import Planner
from pipeline.plan.step import EVALUATE, UP_TO_DATE, Step
from pipeline.recipe.recipe import Recipe
from pipeline.run.process import job_of, start_worker, watch

LOOK_AGAIN = 2  # seconds until it is seen whether the first machine has done what it does alone


class Follow:
    """One `align run` of machine 1, 2, ... of several."""

    def __init__(self, recipe: Recipe, runs: Path, goals: Sequence[str], *, policy: str | None, display: Display):
        self.recipe, self.runs, self.policy, self.display = recipe, runs, policy, display
        self.goals = list(goals) or list(recipe.stages)
        self.planner = Planner(recipe, runs, policy)

    def execute(self) -> int:
        """Take part in what is not up to date. Returns the exit code; raises PipelineError."""
        launch = self.recipe.launch
        self.display.say(f"machine {launch.node_rank + 1} of {launch.nodes}: the first shows the progress")
        while step := self._next():
            if step.state == EVALUATE:
                time.sleep(LOOK_AGAIN)
                continue
            self.display.say(f"  {step.stage}")
            if code := self._take_part(step):
                return code
        return 0

    def _next(self) -> Step | None:
        steps = self.planner.plan(self.goals)
        if self.planner.resolve_commits(steps):
            steps = self.planner.plan(self.goals)
        for step in steps:
            if step.falls_short:
                raise PipelineError(f"{step.stage}: {'; '.join(step.falls_short)}.", "The first machine says more.")
            if step.state != UP_TO_DATE:
                return step
        return None

    def _take_part(self, step: Step) -> int:
        policy = self.policy if self.policy and step.stage == self.planner.overridden(self.goals) else None
        job = job_of(step, self.recipe, self.runs, step.known_attempt.folder, policy=policy)
        return watch(start_worker(processes=job.processes), job, self.display)
