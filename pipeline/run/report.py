"""The page of a run: written while a stage runs, as often as costs next to nothing, and when the command ends."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifact.attempt import all_attempts
from pipeline.console.display import Display
from pipeline.errors import PipelineError
from pipeline.plan import graph
from pipeline.plan.planner import Planner
from pipeline.plan.step import RUN, UP_TO_DATE, Step

EVERY = 10  # seconds between two pages while a stage runs, at least
SHARE = 0.01  # of the time that may go into writing them
WORTH_IT = {"before", "train", "log", "evaluated"}  # events after which a page says more


class Report:
    """`file` is the page that was last written; None where there is none. A page that cannot be written stops no run.

    `has_more` is whether anything was measured or trained since the command began.
    """

    def __init__(self, planner: Planner, goals: Sequence[str], display: Display):
        self.planner, self.goals, self.display = planner, goals, display
        self.file: Path | None = None
        self.has_more = False

    def write(self) -> None:
        """As everything stands now."""
        self._write(*planned(self.planner, self.goals))

    def of(self, stage: str) -> Callable[[dict], None]:
        """Listens to the events of a stage that begins now."""
        from pipeline.report.page import Live

        live, due, known = Live(stage), 0.0, None

        def listen(event: dict) -> None:
            nonlocal due, known
            if event["kind"] == "train":
                live.steps, due = event["steps"], 0.0
            self.has_more = self.has_more or event["kind"] in WORTH_IT
            if event["kind"] in WORTH_IT and (begun := time.monotonic()) >= due:
                known = known or planned(self.planner, self.goals)
                self._write(*known, live)
                took = time.monotonic() - begun
                live.every = max(EVERY, took / SHARE)
                due = time.monotonic() + live.every

        return listen

    def _write(self, steps: Sequence[Step], notes: Sequence[str], live: Any = None) -> None:
        from pipeline.report import page  # a template's language, which no other command waits for

        try:
            self.file = page.write(self.planner.recipe, steps, self.planner.folder, notes=notes, live=live)
        except OSError as error:
            self.display.say(f"note: the report could not be written: {error}")


def planned(planner: Planner, goals: Sequence[str]) -> tuple[list[Step], list[str]]:
    """(the steps of every stage of the recipe, what kept them from being planned).

    Where the command gives a policy, the goals start from it, and the others from what the recipe says.
    """
    whole = Planner(planner.recipe, planner.runs, digests=planner.digests) if planner.policy else planner
    try:
        steps = {step.stage: step for step in whole.plan(list(planner.recipe.stages))}
        if planner.policy:
            steps |= {step.stage: step for step in planner.plan(goals)}
    except PipelineError as error:
        stages = graph.ordered(planner.recipe, planner.recipe.stages)
        return [_without_plan(planner, stage) for stage in stages], [str(error)]
    return list(steps.values()), []


def _without_plan(planner: Planner, stage: str) -> Step:
    """What there is of a stage, whatever the recipe now says: its newest attempt that is finished."""
    found = next((one for one in all_attempts(planner.folder / stage) if one.finished), None)
    why = "whether it is what the recipe asks for could not be told"
    return Step(stage, UP_TO_DATE if found else RUN, why, attempt=found)
