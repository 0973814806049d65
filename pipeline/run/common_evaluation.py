"""One evaluation for all runs of a trial: the held-out prompts, the score and the answers of one stage."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.artifact.attempt import Attempt
from pipeline.artifact.digests import fingerprint
from pipeline.console.quiet import Quiet
from pipeline.errors import PipelineError
from pipeline.plan.planner import Planner
from pipeline.recipe.recipe import Recipe
from pipeline.run.contestants import Contestant
from pipeline.run.process import start_worker, watch
from pipeline.run.standing import Standing, Stopped
from pipeline.train.job.job import JUDGE

# Inputs of the stage that say, beside its evaluation, what is asked of whom.
ASKED = ("policy", "reward", "reward_function", "base", "model", "data")


class CommonEvaluation:
    """Judges by the stage of `one`; what it found is kept, in a folder for each way to judge."""

    def __init__(self, one: Contestant, standing: Standing, quiet: Quiet):
        self.one, self.standing, self.quiet = one, standing, quiet

    def figures(self, attempts: Sequence[Attempt]) -> tuple[dict[str, dict], dict]:
        """(the figures of each attempt by its name, those of what all start from): found, or made by one process."""
        one, given = self.one, self.standing.given(self.one)
        step = self.standing.step(one, given)
        asked = {key: step.known_inputs.get(key) for key in ASKED}
        asked["evaluation"] = Planner(one.load(given), self.standing.runs).evaluations.sha256(one.stage)
        folder = self.standing.place / f".judged-{fingerprint(asked)}"
        missing = [attempt for attempt in attempts if not _file(folder, attempt).is_file()]
        if missing:
            self.quiet.say(f"  judging {len(missing)} runs by the evaluation of {one.stage}")
            job = self.standing.job(one, given, step, folder)
            places = tuple(str(attempt.folder.resolve()) for attempt in missing)
            if code := watch(start_worker(), replace(job, mode=JUDGE, judged=places, processes=1), self.quiet):
                raise Stopped(code)
        return {attempt.folder.name: _read(_file(folder, attempt)) for attempt in attempts}, _read(
            folder / "before.json"
        )


def judging(recipe: Recipe, named: str | None, stages: Sequence[str]) -> str:
    """The stage whose evaluation is for all: the one that is named, else the first whose answers get a score, else
    the first whose answers are right or wrong. Raises PipelineError where nothing judges.
    """
    recipe.stage(named or stages[0])  # that there is one
    for wanted in ("score_function", "labels", "answer_pattern"):
        for name in [named] if named else stages:
            if name in recipe.stages and getattr(recipe.stage(name).evaluation, wanted):
                return name
    raise PipelineError(
        f"{recipe.path}: nothing judges the answers of {named or ', '.join(dict.fromkeys(stages))}.",
        "Set evaluation.score_function (a function in a file), evaluation.labels or evaluation.answer_pattern.",
    )


def _file(folder: Path, attempt: Attempt) -> Path:
    return folder / f"{attempt.folder.name}.json"


def _read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))
