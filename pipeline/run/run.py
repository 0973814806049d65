"""The spine: plan, then one process a stage, then what was learned."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.artifact import command
from pipeline.artifact.attempt import point_latest
from pipeline.console import confusion, tables
from pipeline.console.display import Display
from pipeline.errors import PipelineError
from pipeline.plan import checks, judges, processes
from pipeline.plan.planner import Planner
from pipeline.plan.step import UP_TO_DATE, Step
from pipeline.recipe.recipe import Recipe
from pipeline.run.pending import Pending
from pipeline.run.process import job_of, start_worker, watch
from pipeline.run.report import Report

FALLS_SHORT = 3  # the exit code where a stage has lost what it must keep
WARM_UP_AT = 0.8  # the share of a stage's steps after which the next stage's process is started


class Run:
    """One `align run`."""

    def __init__(
        self,
        recipe: Recipe,
        runs: Path,
        goals: Sequence[str],
        *,
        fresh: bool,
        policy: str | None,
        display: Display,
        look_ahead: bool = True,
    ):
        self.recipe, self.runs = recipe, runs
        self.goals = list(goals) or list(recipe.stages)
        self.policy, self.display, self.look_ahead = policy, display, look_ahead
        self.planner = Planner(recipe, runs, policy)
        self.pending = Pending(self.planner.folder, self.goals) if fresh else None
        self.report = Report(self.planner, self.goals, display)
        self._warm: tuple[subprocess.Popen, str] | None = None  # the next stage's process and backend, getting ready

    def execute(self) -> int:
        """Run what is not up to date. Returns the exit code; raises PipelineError."""
        steps = self._plan()
        checks.trackers_ready(self.recipe, steps)
        judges.need_keys(self.recipe, steps)
        if self.planner.resolve_commits(steps):
            steps = self._plan()
        processes.check(self.recipe, steps)
        tables.plan(self.display, steps, f"{self.recipe.name}: the plan{self.recipe.launch.words}")
        refused = False
        try:
            done, ran, code = self._run_stages(steps)
        except PipelineError:
            refused = not self.report.has_more
            raise
        finally:
            self._cool_down()
            if not refused:  # else the page stays as it was
                self.report.write()
        if code == FALLS_SHORT:
            self._close(done, ran, short=True)
            tables.falls_short(self.display, done[-1])
        if code:
            return code
        if self.pending:
            self.pending.clear()
        self._close(done, ran)
        return 0

    def _run_stages(self, steps: Sequence[Step]) -> tuple[list[Step], bool, int]:
        """(the stages that are up to date now, whether any was run, the exit code)."""
        done: list[Step] = []
        ran = False
        for number, planned in enumerate(steps):
            step = next(one for one in self._plan() if one.stage == planned.stage) if ran else planned
            if step.state != UP_TO_DATE:
                coming = [later for later in steps[number + 1 :] if later.state != UP_TO_DATE]
                if code := self._run_stage(step, coming, ahead=self.look_ahead and not ran):
                    return done, ran, code
                ran = True
                step = next(one for one in self._plan(finished=step.stage) if one.stage == planned.stage)
            done.append(step)
            if step.falls_short:
                return done, ran, FALLS_SHORT
            point_latest(step.known_attempt)
        return done, ran, 0

    def _plan(self, finished: str | None = None) -> list[Step]:
        if self.pending is None:
            return self.planner.plan(self.goals)
        if finished:
            self.pending.done(finished)
        return self.planner.plan(self.goals, fresh=self.pending.left())

    def _run_stage(self, step: Step, coming: Sequence[Step], *, ahead: bool) -> int:
        """`coming` are the steps to be run after it; with `ahead` it looks at them first."""
        job = job_of(
            step,
            self.recipe,
            self.runs,
            step.known_attempt.folder,
            policy=self.policy if self.policy and step.stage == self.planner.overridden(self.goals) else None,
            goals=tuple(self.goals),
            goals_policy=self.policy,
            ahead=tuple(later.stage for later in coming) if ahead else (),
        )
        command.record(step.known_attempt.folder, self.recipe.path, self.recipe.overrides, self.policy)
        self.display.begin(step)
        if job.nodes > 1:
            self.display.say(f"  waiting for the other machines at {job.rendezvous}")
        if self._warm and (job.processes > 1 or self._warm[1] != step.known_backend.name):
            self._cool_down()
        process, self._warm = self._warm[0] if self._warm else start_worker(processes=job.processes), None
        listeners = [self.report.of(step.stage)]
        listeners += [self._get_ready(coming[0].known_backend.name)] if coming and self.recipe.launch.size == 1 else []
        return watch(process, job, self.display, listeners)

    def _get_ready(self, backend: str) -> Callable[[dict], None]:
        """Listens to a stage's events: towards its end the process of the next one is started."""
        steps = 0

        def listen(event: dict) -> None:
            nonlocal steps
            if event["kind"] == "train":
                steps = event["steps"]
            elif event["kind"] == "step" and self._warm is None and steps and event["step"] >= WARM_UP_AT * steps:
                self._warm = start_worker(self._warm_up_options(backend)), backend

        return listen

    def _cool_down(self) -> None:
        if self._warm:
            self._warm[0].kill()
            self._warm[0].wait()
            self._warm = None

    def _warm_up_options(self, backend: str) -> list[str]:
        """What a process that gets ready is told: it has no job yet."""
        quantized = ["--bitsandbytes"] if self.recipe.needs_bitsandbytes() else []
        return ["--warm", backend, str(self.runs), *quantized]

    def _close(self, done: Sequence[Step], ran: bool, *, short: bool = False) -> None:
        manifests = [step.known_attempt.manifest for step in done]
        tables.learned(self.display, manifests)
        confusion.show(self.display, manifests)
        policies = [manifest for manifest in manifests if manifest["head"] == "causal" and manifest["samples"]]
        if policies and ran:
            tables.samples(self.display, policies[-1])
        tables.where(self.display, [(step.stage, step.known_attempt.output) for step in done])
        if self.report.file:
            tables.where(self.display, [("report", self.report.file)])
        if not ran and not short:
            self.display.say("Everything is up to date.")
