"""Look at the machine."""

from itertools import chain
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from pipeline.cli.options import JsonOption, RunsOption
from pipeline.console.for_programs import show_json
from pipeline.console.screen import Screen, make_console
from pipeline.recipe.reading import load_recipe
from pipeline.start import doctor as looking

_SIGNS = {looking.OK: ("ok", "green"), looking.NOTE: ("--", "yellow"), looking.MISSING: ("!!", "bold red")}


def doctor(
    recipe: Annotated[
        Path | None, typer.Option("--recipe", "-r", help="Also what this recipe needs; what is missing ends it with 2.")
    ] = None,
    runs: RunsOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Look at this machine: packages, card, disk, hub and extras, and what to do about each."""
    loaded = load_recipe(recipe) if recipe else None
    screen = Screen(make_console())
    every = []
    for finding in chain(looking.findings(runs), looking.of_recipe(loaded, runs) if loaded else ()):
        every.append(finding)
        if not as_json:
            _show(screen, finding)
    missing = [finding for finding in every if finding.state == looking.MISSING]
    if as_json:
        show_json([finding.to_json() for finding in every])
    elif missing:
        screen.say(f"\nMissing: {', '.join(finding.what for finding in missing)}")
    elif loaded:
        screen.say(f"\nNothing that {loaded.name} needs is missing.")
    raise typer.Exit(2 if missing and loaded else 0)


def _show(screen: Screen, finding: looking.Finding) -> None:
    sign, style = _SIGNS[finding.state]
    first, *more = finding.found.splitlines() or [""]
    screen.message(Text(f"{sign}  ", style=style) + Text(f"{finding.what:<24}") + Text(first))
    for line in (*more, *finding.do.splitlines()):
        screen.say(f"      {line}")
