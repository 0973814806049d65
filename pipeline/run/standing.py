"""What the contestants of a trial stand on: built once as the recipe says, with its seed, and then named by its folder, so
that the seed of a run is its own alone.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.console.display import Display
from pipeline.errors import PipelineError
from pipeline.plan import checks
from pipeline.plan.planner import Planner
from pipeline.plan.step import UP_TO_DATE, Step
from pipeline.recipe.reading import load_recipe
from pipeline.recipe.recipe import Recipe
from pipeline.run.contestants import Contestant, common_start
from pipeline.run.process import job_of
from pipeline.run.run import Run
from pipeline.train.job.job import Job


class Stopped(Exception):
    """Ctrl-C: what is done is kept, and the same command continues. Holds the exit code."""


class Standing:
    """The common start of all contestants, and what rewards each. `judge` is asked of all, wherever its own stage starts,
    and `place` is where the runs lie.
    """

    def __init__(self, contestants: Sequence[Contestant], judge: Contestant, runs: Path, place: Path, display: Display):
        self.contestants, self.judge, self.runs, self.place, self.display = contestants, judge, runs, place, display
        self.start = common_start(contestants)

    def build(self) -> None:
        """What is not there yet, by each recipe as any other command would. Raises PipelineError, or Stopped."""
        for path in dict.fromkeys(one.recipe for one in self.contestants):
            those = [one for one in (*self.contestants, self.judge) if one.recipe == path]
            recipe = those[0].load()
            start = self.start if path == self.contestants[0].recipe else None
            named = [start, *(one.load().reward(one.stage) for one in those)]
            goals = [name for name in recipe.stages if name in named]
            if all(self._plan(recipe, name).state == UP_TO_DATE for name in goals):
                continue
            common = load_recipe(path, those[0].common)
            run = Run(common, self.runs, goals, fresh=False, policy=None, display=self.display)
            if code := run.execute():
                raise Stopped(code)

    def given(self, one: Contestant) -> list[str]:
        """Overrides that let a stage start from the folder of the common start, and be rewarded by its own reward's."""
        policy = self._folder(self.contestants[0].load(), self.start)
        recipe = one.load()
        roles = {"policy": policy, "reward": self._folder(recipe, recipe.reward(one.stage))}
        return [f"stages.{one.stage}.{role}={json.dumps(folder)}" for role, folder in roles.items() if folder]

    def step(self, one: Contestant, overrides: Sequence[str]) -> Step:
        """What is to be done for a run, in the folder of the trial. Raises PipelineError where it could not report to its trackers."""
        recipe = one.load(overrides)
        step = self._plan(recipe, one.stage, self.place)
        checks.trackers_ready(recipe, [step])
        return step

    def job(self, one: Contestant, overrides: Sequence[str], step: Step, folder: Path) -> Job:
        recipe = one.load(overrides)
        if recipe.launch.nodes > 1:
            raise PipelineError(f"{recipe.path}: launch.nodes: methods are compared on one machine.", "Leave it out.")
        return job_of(step, recipe, self.runs, folder)

    def _folder(self, recipe: Recipe, name: str | None) -> str | None:
        """Of a stage's artifact; what is a folder already, or nothing, as it is."""
        return str(self._plan(recipe, name).known_attempt.output.resolve()) if name in recipe.stages else name

    def _plan(self, recipe: Recipe, stage: str, place: Path | None = None) -> Step:
        planner = Planner(recipe, self.runs, place=place)
        steps = planner.plan([stage])
        return (planner.plan([stage]) if planner.resolve_commits(steps) else steps)[-1]
