"""The commands that show what was learned."""

from pathlib import Path

from pipeline.cli.options import DEFAULT_RECIPE, PolicyOption, RecipeOption, RunsOption, SetOption
from pipeline.console import tables
from pipeline.console.display import Display
from pipeline.console.screen import make_console
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
