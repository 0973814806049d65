"""What a policy scores on benchmarks, before and after."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import DEFAULT_RECIPE, JsonOption, RecipeOption, RunsOption, SetOption
from pipeline.console import benchmarks as shown
from pipeline.console import tables
from pipeline.console.display import Display
from pipeline.console.for_programs import show_json
from pipeline.console.screen import Screen, make_console
from pipeline.plan.planner import Planner
from pipeline.recipe.reading import load_recipe
from pipeline.report import benchmarks
from pipeline.run.report import Report

Of = Annotated[
    str | None,
    typer.Argument(
        help="A stage of the recipe, or an adapter's or a model's folder; else the last policy that is trained."
    ),
]


def evaluate(
    subject: Of = None,
    tasks: Annotated[str | None, typer.Option("--tasks", help="Tasks of lm-eval or your own: gsm8k,my_task")] = None,
    tasks_path: Annotated[
        str | None,
        typer.Option("--tasks-path", help="The folder of your own tasks; functions that these name are run."),
    ] = None,
    few_shot: Annotated[
        int | None, typer.Option("--few-shot", min=0, help="Examples before each question; else as the task says.")
    ] = None,
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="Ask through the chat template; else as plain text.")
    ] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first questions of each task.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Questions at once.")] = 8,
    before: Annotated[bool, typer.Option("--before/--no-before", help="Also ask what the stage started from.")] = True,
    recipe: RecipeOption = DEFAULT_RECIPE,
    runs: RunsOption = Path("runs"),
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask what was trained, and what it started from, the questions of lm-eval's benchmarks or of your own."""
    from pipeline.use.subject import find, last_policy
    from pipeline.use.tasks.process import check_installed, evaluated
    from pipeline.use.tasks.start import place_of, start_of
    from pipeline.use.tasks.wanted import Wanted

    how = {"few_shot": few_shot, "limit": limit, "chat_template": chat_template, "batch_size": batch_size}
    wanted = Wanted.told(tasks, tasks_path, **how)
    check_installed()
    loaded, screen = load_recipe(recipe, overrides or []), Screen(make_console(stderr=as_json))
    named = find(subject or last_policy(loaded, runs), loaded, runs).answers("evaluate").checked()
    if before:
        _, why_none = start_of(named, loaded, runs)
        if why_none:
            screen.say(f"{named.name}: no figures before it: {why_none}")
    files = evaluated(
        subject or named.name,
        place_of(named, runs),
        wanted,
        recipe=recipe,
        overrides=overrides or [],
        runs=runs,
        before=before,
        tell=screen.say,
    )
    found = benchmarks.read(files)
    page = Report(Planner(loaded, runs), list(loaded.stages), Display(make_console(stderr=as_json)))
    if named.name in loaded.stages:
        page.write()
    if as_json:
        told = [{"file": str(file)} | one.to_json() for file, one in zip(files, found, strict=True)]
        show_json(told)
        return
    shown.show(screen, found, named.name)
    screen.console.print()
    tables.where(screen, [("kept", file) for file in files] + ([("report", page.file)] if page.file else []))
