"""One stage with both backends."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import DEFAULT_RECIPE, JsonOption, RecipeOption, RunsOption, SetOption
from pipeline.console import picture, tables
from pipeline.console.display import Display
from pipeline.console.screen import make_console
from pipeline.run.compare import PICTURE, RESULT, Comparison


def compare(
    stage: Annotated[str, typer.Argument(help="The stage to train with both backends.")],
    recipe: RecipeOption = DEFAULT_RECIPE,
    runs: RunsOption = Path("runs"),
    overrides: SetOption = None,
    steps: Annotated[int, typer.Option(min=4, help="Optimizer steps of a trial.")] = 40,
    repeats: Annotated[int, typer.Option(min=1, help="Trials of each backend, in turn.")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Train a stage with and without Unsloth, on the same rows from the same adapter: speed, memory and loss."""
    if not as_json:
        picture.require()
    display = Display(make_console(stderr=as_json))
    comparison = Comparison(recipe, overrides or [], runs, stage, steps, repeats, display)
    result = comparison.run()
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        picture.draw(result, comparison.folder / PICTURE)
        tables.comparison(display, result)
        display.say(f"{comparison.folder / RESULT}\n{comparison.folder / PICTURE}")
