"""Stages as their processes would set them up, for the tests that look inside of them."""

from pathlib import Path

from conftest import attempt
from safetensors.torch import load_file
from torch import Tensor

from pipeline.artifact.attempt import Attempt
from pipeline.data.prepare.table import tokens
from pipeline.plan.planner import Planner
from pipeline.recipe.reading import load_recipe
from pipeline.train.job.checked_job import check
from pipeline.train.job.interruption import Interruption
from pipeline.train.job.job import Job
from pipeline.train.stage_run import StageRun


def silent(*_, **__) -> None:
    """Stands for the way to the parent process."""


def stage_run(recipe: str, name: str, *overrides: str, folder: Path, report=silent) -> StageRun:
    """A stage that would be run in `folder`. The recipe's runs lie in ./runs."""
    step = Planner(load_recipe(recipe, overrides), Path("runs")).plan([name])[-1]
    job = Job(recipe, list(overrides), "runs", name, str(folder), step.fingerprint, "run")
    return StageRun(check(job, Attempt(folder)), report, Interruption())


def trainer_of(stage: StageRun) -> tuple:
    """(the stage's trainer, the columns of its rows)"""
    return stage.trainer(stage.models.at_the_start()), list(tokens(stage.rows.prepared.trained))


def adapter_of(folder: Path, stage: str) -> dict[str, Tensor]:
    """What a stage of the micro chain saved."""
    return load_file(attempt(folder, stage) / "adapter" / "adapter_model.safetensors")


def without_clock(lines: list[dict]) -> list[dict]:
    """Lines of a log as they have to be again, whenever the run was killed and however long it took."""
    clock = ("step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second")
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]
