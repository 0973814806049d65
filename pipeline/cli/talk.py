"""The commands that let people and programs talk to what was trained."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import DEFAULT_RECIPE, RecipeOption, RunsOption, SetOption
from pipeline.recipe.reading import load_recipe

Subjects = Annotated[
    list[str] | None,
    typer.Argument(
        help="Stages, or folders of adapters or models; `base` is what they stand on. "
        "The last policy of the recipe where none is named."
    ),
]


def chat(
    names: Subjects = None,
    recipe: RecipeOption = DEFAULT_RECIPE,
    runs: RunsOption = Path("runs"),
    overrides: SetOption = None,
    system: Annotated[str | None, typer.Option("--system", help="The system prompt.")] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0, max=10, help="0 takes the likeliest token each time.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", min=0.000001, max=1, help="Of the likeliest tokens.")
    ] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", min=0, help="Of so many tokens; 0 of all.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", min=1, help="The longest answer.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="The same draws every time.")] = None,
) -> None:
    """Talk to what was trained, with several at once side by side. Over a pipe, each line is a question of its own.

    Sampling is that of the model's own generation config where no option says otherwise.
    """
    from pipeline.use import subject

    loaded = load_recipe(recipe, overrides or [])
    subjects = subject.all_of(names or [subject.last_policy(loaded)], loaded, runs, "chat")

    from pipeline.use.chat.start import start

    sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
    raise typer.Exit(start(subjects, system, sampling, max_new_tokens))
