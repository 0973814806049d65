"""Look at recipes."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import DEFAULT_RECIPE, RecipeOption, SetOption
from pipeline.console.screen import make_console
from pipeline.errors import PipelineError
from pipeline.plan import graph
from pipeline.recipe import shipped
from pipeline.recipe.fields import ON_A_GPU
from pipeline.recipe.reading import load_recipe


def list_recipes(
    folder: Annotated[Path | None, typer.Argument(help="Else recipes/, or what came with align.")] = None,
) -> None:
    """List the recipes of a folder."""
    console = make_console()
    if folder is None:
        folder = shipped.DEFAULT.parent if shipped.DEFAULT.parent.is_dir() else shipped.root() / shipped.DEFAULT.parent
    for path in sorted(folder.glob("*.yaml")):
        try:
            loaded = load_recipe(path)
            console.print(f"[bold]{path}[/bold]  {graph.chain(loaded)}", soft_wrap=True)
        except PipelineError as error:
            console.print(f"[bold]{path}[/bold]  [red]{len(error.what.splitlines())} mistakes[/red]", soft_wrap=True)


def show_recipe(
    recipe: Annotated[Path | None, typer.Argument(help="The recipe.")] = None,
    named: RecipeOption = DEFAULT_RECIPE,
    overrides: SetOption = None,
) -> None:
    """Print a recipe as it is understood: every key that can be set, of every stage, with its value."""
    import yaml

    if recipe and named not in (DEFAULT_RECIPE, shipped.default()):
        raise PipelineError(f"--recipe {named}: {recipe} is named, too, and one recipe is shown.", "Leave one out.")
    print(f"# {' and '.join(ON_A_GPU)}, where they do not stand under train: true on a GPU, else false")
    print(
        yaml.safe_dump(load_recipe(recipe or named, overrides or []).resolved(), sort_keys=False, allow_unicode=True),
        end="",
    )
