"""What can be looked at before anything is planned or trained: the files and functions that a recipe names, its trackers."""

from collections.abc import Iterable
from pathlib import Path

from pipeline.data.read.files import TABLES, TEXTS, container, files_of
from pipeline.data.source import Rows
from pipeline.errors import PipelineError
from pipeline.plan import trackers
from pipeline.plan.step import CONTINUE, RUN, Step
from pipeline.recipe import function
from pipeline.recipe.recipe import Recipe

SEPARATED = {*TEXTS, *TABLES} - {".txt"}  # files whose rows stand apart by themselves


def trackers_installed(recipe: Recipe, steps: Iterable[Step]) -> None:
    """Those of the stages that are to be trained: a missing package would stop them at their first step."""
    to_train = [step.stage for step in steps if step.state in (RUN, CONTINUE)]
    reported = {name: recipe.stage(name).train.get("report_to") for name in to_train}
    wrong = dict(one for name, report_to in reported.items() for one in trackers.missing(name, report_to))
    if wrong:
        raise PipelineError("\n".join(wrong), "\n".join(dict.fromkeys(wrong.values())))


def _check_options(rows: Rows, files: Iterable[str]) -> None:
    """Refuse what cannot take effect on these files."""
    fix = "Leave it out."
    if rows.revision != "main" and not rows.data_sets():
        raise PipelineError(f"data.revision: {', '.join(rows.paths)}: only data sets of the hub have revisions.", fix)
    if getattr(rows, "separator", None) is not None and all(container(file) in SEPARATED for file in files):
        raise PipelineError(f"data.separator: {', '.join(rows.paths)}: only plain texts are parted by one.", fix)


def files_there(recipe: Recipe, names: Iterable[str]) -> None:
    """All missing files of all stages at once."""
    missing, fixes = [], []
    for name in names:
        stage = recipe.stage(name)
        for rows in stage.data.sources:
            try:
                _check_options(rows, files_of(rows))
            except PipelineError as error:
                missing.append(f"{name}: {error.what}")
                fixes.append(error.fix)
        keys = {
            "evaluation.score_function": stage.evaluation.score_function,
            "reward_function": stage.reward_function,
        }
        for key, one in keys.items():
            if one and (wrong := function.problem(one)):
                missing.append(f"{name}: {key}: {wrong}")
                fixes += [function.FIX] if Path(one.rpartition(":")[0]).is_file() else []
    if missing:
        raise PipelineError(
            f"{recipe.path}:\n  " + "\n  ".join(missing),
            "\n".join(dict.fromkeys(fixes)) or "Paths are relative to the folder you run in.",
        )
