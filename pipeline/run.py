"""The spine: plan, then one process a stage, then what was learned."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from pipeline import artifact, recipe
from pipeline.base import resolve_commit
from pipeline.console import Display
from pipeline.errors import MachineError, PipelineError
from pipeline.plan import UP_TO_DATE, Planner, Step
from pipeline.training import INTERRUPTED, Job

WARM_UP_AT = 0.8  # the share of a stage's steps after which the next stage's process is started


class Run:
    """One `align run`."""

    def __init__(
        self,
        recipe_path: Path,
        overrides: Sequence[str],
        runs: Path,
        goals: Sequence[str],
        *,
        fresh: bool,
        policy: str | None,
        display: Display,
    ):
        self.recipe_path, self.overrides, self.runs = recipe_path, list(overrides), runs
        self.recipe = recipe.load(recipe_path, overrides)
        self.goals = list(goals) or list(self.recipe.stages)
        if unknown := [goal for goal in self.goals if goal not in self.recipe.stages]:
            raise PipelineError(
                f"{recipe_path}: has no stage {', '.join(unknown)}.",
                f"It has {', '.join(self.recipe.stages)}.",
            )
        self.policy, self.display = policy, display
        self.planner = Planner(self.recipe, runs, policy)
        self.pending = Pending(self.planner.folder, self.goals) if fresh else None
        self._warm: subprocess.Popen | None = None  # the next stage's process, getting ready

    def execute(self) -> int:
        """Run what is not up to date. Returns the exit code; raises PipelineError."""
        steps = self._plan()
        if any(step.base and step.base.identity is None for step in steps):
            resolve_commit(self.recipe, self.planner.folder)
            steps = self._plan()
        self.display.plan(steps, f"{self.recipe.name}: the plan")
        try:
            done, ran, code = self._run_stages(steps)
        finally:
            self._cool_down()
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
                if code := self._run_stage(
                    step, another=any(later.state != UP_TO_DATE for later in steps[number + 1 :])
                ):
                    return done, ran, code
                ran = True
                step = next(one for one in self._plan(finished=step.stage) if one.stage == planned.stage)
            self._point_latest(step)
            done.append(step)
        return done, ran, 0

    def _plan(self, finished: str | None = None) -> list[Step]:
        if self.pending is None:
            return self.planner.plan(self.goals)
        if finished:
            self.pending.done(finished)
        return self.planner.plan(self.goals, fresh=self.pending.left())

    def _run_stage(self, step: Step, *, another: bool) -> int:
        job = Job(
            recipe=str(self.recipe_path),
            overrides=self.overrides,
            runs=str(self.runs),
            stage=step.stage,
            folder=str(step.attempt.folder),
            fingerprint=step.fingerprint,
            mode=step.state,
            policy=self.policy if self.policy and step.stage == self.planner.overridden(self.goals) else None,
        )
        self.display.begin(step)
        process, self._warm = self._warm or start_worker(), None
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(asdict(job)) + "\n")
            process.stdin.flush()
        error = self._watch(process, another)
        code = process.wait()
        self.display.end()
        if error:
            raise (PipelineError if code == 2 else MachineError)(error["what"], error["fix"])
        if code == INTERRUPTED:
            return INTERRUPTED
        if code:
            raise _died(step, code)
        return 0

    def _watch(self, process: subprocess.Popen, another: bool) -> dict | None:
        """Show what the stage says until it is gone. Ctrl-C once asks it to save and stop, twice stops it."""
        error, asked, steps = None, False, None
        while True:
            try:
                for line in process.stdout:
                    event = json.loads(line)
                    if event["kind"] == "error":
                        error = event
                    elif event["kind"] == "train":
                        steps = event["steps"]
                    elif event["kind"] == "step" and another and event["step"] >= WARM_UP_AT * steps:
                        self._warm, another = start_worker(self.recipe), False
                    elif event["kind"] == "interrupted":
                        self.display.end()
                        self.display.say(
                            f"  saved a checkpoint at step {event['step']}; the same command continues from there"
                        )
                    self.display.event(event)
                if asked and error is None and process.wait() == INTERRUPTED:
                    self.display.end()
                    self.display.say("  stopped; the same command continues")
                return error
            except KeyboardInterrupt:
                if asked:
                    process.kill()
                else:
                    self.display.say("  stopping after this step (Ctrl-C again: at once)")
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGINT)
                asked = True

    def _cool_down(self) -> None:
        if self._warm:
            self._warm.kill()
            self._warm.wait()

    def _point_latest(self, step: Step) -> None:
        """For people; nothing reads it."""
        link = step.attempt.folder.parent / "latest"
        with suppress(OSError):
            if not (link.is_symlink() and os.readlink(link) == step.attempt.folder.name):
                temporary = link.with_name(f".latest.{os.getpid()}")
                temporary.symlink_to(step.attempt.folder.name)
                os.replace(temporary, link)

    def _close(self, done: Sequence[Step], ran: bool) -> None:
        manifests = [step.attempt.manifest for step in done]
        self.display.learned(manifests)
        policies = [manifest for manifest in manifests if manifest["head"] == "causal" and manifest["samples"]]
        if policies and ran:
            self.display.samples(policies[-1])
        self.display.where([(step.stage, step.attempt.output) for step in done])
        if not ran:
            self.display.say("Everything is up to date.")


def start_worker(warm_for: recipe.Recipe | None = None) -> subprocess.Popen:
    """A stage's process, waiting for its job; warm, it loads what a stage of this recipe needs while it waits."""
    # -P: a file of the user's named like a library must not be taken for it.
    command = [sys.executable, "-P", "-m", "pipeline.worker"]
    if warm_for:
        command += ["--warm", *(["--bitsandbytes"] if warm_for.needs_bitsandbytes() else [])]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,  # Ctrl-C reaches it through us alone
    )


class Pending:
    """The stages that a FRESH command has still to do: a killed one goes on, it does not begin anew."""

    def __init__(self, folder: Path, goals: Sequence[str]):
        self.file = folder / ".fresh.json"
        self.goals = list(goals)
        try:
            known = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        self._left = known["left"] if known.get("goals") == self.goals else list(goals)

    def left(self) -> list[str]:
        return self._left

    def done(self, stage: str) -> None:
        self._left = [name for name in self._left if name != stage]
        artifact.write_json(self.file, {"goals": self.goals, "left": self._left})

    def clear(self) -> None:
        self.file.unlink(missing_ok=True)


def _died(step: Step, code: int) -> PipelineError:
    log = step.attempt.folder / "stage.log"
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (the system may have run out of memory)" if name == "SIGKILL" else ""
        return MachineError(f"{step.stage}: its process was killed by {name}{hint}.", "The same command continues.")
    return MachineError(f"{step.stage}: its process ended with code {code}.", f"The whole story is in {log}.")
