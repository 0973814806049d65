"""What may be thrown away."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pipeline import installing
from pipeline.cli.options import DEFAULT_RECIPE, RecipeOption, RunsOption, said_of
from pipeline.console.screen import make_console
from pipeline.plan import gc as garbage
from pipeline.recipe.reading import load_recipe


def gc(
    recipe: RecipeOption = DEFAULT_RECIPE,
    runs: RunsOption = Path("runs"),
    delete: Annotated[bool, typer.Option("--delete", help="Remove them; without it they are only shown.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Also what was made with --set or --policy.")] = False,
) -> None:
    """Show the attempts and the prepared rows that no recipe at hand and no artifact needs; remove them when told to."""
    console = make_console()
    found = garbage.Garbage(load_recipe(recipe), runs)
    for note in found.notes:
        console.print(escape(note), style="yellow", soft_wrap=True)
    going = found.unneeded(everything)
    rows = garbage.unused_rows(runs, {one.attempt.folder for one in going})
    going_too = {one.attempt.folder: one.what for one in going} | dict.fromkeys(rows, "prepared rows of no artifact")
    staying = {one.attempt.folder: one.what for one in found.unneeded(True)}.items() - going_too.items()
    for folder, what in (*going_too.items(), *sorted(staying)):
        only = "; goes only with --all" if (folder, what) in staying else ""
        console.print(escape(f"{folder}  {what}, {garbage.size(folder) / 1e6:,.1f} MB{only}"), soft_wrap=True)
        if delete and not only:
            garbage.remove(folder)
    if delete:
        found.point_latest()
    command = f"{installing.command()} gc{said_of(recipe, runs)} {'--all ' if everything else ''}--delete"
    end = "removed." if delete else f"can go: `{command}` removes them."
    if not going_too:
        console.print(f"Nothing can go without --all; {len(staying)} with it." if staying else "Nothing to remove.")
    else:
        console.print(f"{len(going_too)} {end}" + (f" {len(staying)} more with --all." if staying else ""))
