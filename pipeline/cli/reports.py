"""The commands that show what was learned."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline import installing
from pipeline.artifact.attempt import CURVES
from pipeline.cli.options import DEFAULT_RECIPE, JsonOption, PolicyOption, RecipeOption, RunsOption, SetOption
from pipeline.console import diff as shown
from pipeline.console import tables
from pipeline.console.display import Display
from pipeline.console.for_programs import show_json
from pipeline.console.screen import make_console
from pipeline.errors import PipelineError
from pipeline.plan.planner import Planner
from pipeline.recipe.reading import load_recipe
from pipeline.run.report import Report


def report(
    recipe: RecipeOption = DEFAULT_RECIPE,
    runs: RunsOption = Path("runs"),
    overrides: SetOption = None,
    policy: PolicyOption = None,
) -> None:
    """Write the page on which a chain is judged: runs/<recipe>/report.html. `run` does it by itself."""
    loaded, display = load_recipe(recipe, overrides or []), Display(make_console())
    written = Report(Planner(loaded, runs, policy), list(loaded.stages), display)
    written.write()
    if written.file:
        tables.where(display, [("report", written.file)])


def diff(
    a: Annotated[str, typer.Argument(help="A stage, an attempt's folder, or the beginning of its fingerprint.")],
    b: Annotated[str, typer.Argument(help="What is held against it.")],
    recipe: RecipeOption = DEFAULT_RECIPE,
    runs: RunsOption = Path("runs"),
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hold two attempts against each other: which keys differ, what each ended with, and whether that is more than chance."""
    from pipeline.report.beside import Beside, find

    loaded = load_recipe(recipe, overrides or [])
    beside = Beside(*(find(name, loaded, runs) for name in (a, b)))
    if as_json:
        show_json(beside.to_json())
        return
    display = Display(make_console())
    shown.show(display, beside)
    of_recipe = beside.b.folder.parent.parent  # runs/<recipe>, which is another's where an attempt's folder was named
    tables.where(display, [("page", beside.write(of_recipe))])


def tensorboard(
    recipe: RecipeOption = DEFAULT_RECIPE,
    runs: RunsOption = Path("runs"),
    overrides: SetOption = None,
    port: Annotated[int, typer.Option(help="Of the page on this machine.")] = 6006,
) -> None:
    """Show the curves of a recipe's stages in TensorBoard: of those that were run with train.report_to: tensorboard."""
    folder = runs / load_recipe(recipe, overrides or []).name / CURVES
    if importlib.util.find_spec("tensorboard") is None:
        raise PipelineError(
            "TensorBoard is not installed.",
            f"Install it: {installing.extra('tensorboard')}",
        )
    if not any(folder.glob("*/*/*")):
        raise PipelineError(
            f"{folder}: no stage has written curves.",
            "Run one with train.report_to: tensorboard (--set train.report_to=tensorboard).",
        )
    serving = ["--logdir", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, [sys.executable, "-P", "-m", "tensorboard.main", *serving])
