"""The commands that let people and programs talk to what was trained."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import DEFAULT_RECIPE, RecipeOption, RunsOption, SetOption
from pipeline.console.screen import Screen, make_console
from pipeline.errors import PipelineError
from pipeline.recipe.reading import load_recipe
from pipeline.train.job.machine import importing

Subjects = Annotated[
    list[str] | None,
    typer.Argument(
        help="Stages, or folders of adapters or models; `base` is what they stand on. "
        "The last policy of the recipe that is trained, where none is named."
    ),
]

Served = Annotated[
    list[str] | None,
    typer.Argument(
        help="Stages, or folders of adapters or models; `base` is what they stand on. "
        "Every finished stage of the recipe that gives answers where none is named."
    ),
]


class Engine(StrEnum):
    transformers = "transformers"
    vllm = "vllm"


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
    as_json: Annotated[
        bool, typer.Option("--json", help="Over a pipe: a line for each question, with its answers.")
    ] = False,
) -> None:
    """Talk to what was trained, with several at once side by side. Over a pipe, each line is a question of its own.

    Sampling is that of the model's own generation config where no option says otherwise.
    """
    from pipeline.use import subject

    loaded = load_recipe(recipe, overrides or [])
    subjects = subject.all_of(names or [subject.last_policy(loaded, runs)], loaded, runs, "chat")

    with importing():
        from pipeline.use.chat.start import start

    sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
    raise typer.Exit(start(subjects, system, sampling, max_new_tokens, as_json))


def serve(
    names: Served = None,
    recipe: RecipeOption = DEFAULT_RECIPE,
    runs: RunsOption = Path("runs"),
    overrides: SetOption = None,
    host: Annotated[
        str, typer.Option("--host", help="Where to listen; anywhere but here demands a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Of the server on this machine.")] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", help="Holds the key to ask for; else ALIGN_API_KEY does.")
    ] = None,
    web: Annotated[bool, typer.Option("--web", help="Also a page to chat on.")] = False,
    engine: Annotated[
        Engine, typer.Option("--engine", help="vllm is another program, for a GPU.")
    ] = Engine.transformers,
    max_batch: Annotated[int, typer.Option("--max-batch", min=1, help="Answers of a model at once.")] = 16,
    max_waiting: Annotated[
        int, typer.Option("--max-waiting", min=0, help="Requests that wait; more are answered with 429.")
    ] = 512,
) -> None:
    """Serve what was trained to any client of OpenAI's API: one base in memory, each stage of the recipe a model."""
    from pipeline.use import subject
    from pipeline.use.serve import start, vllm

    if engine is Engine.vllm and web:
        raise PipelineError("--web: the page asks this server's own engine.", "Leave out --web or --engine vllm.")
    place = start.Place(host, port, start.key_of(api_key_file))
    loaded = load_recipe(recipe, overrides or [])
    if names:
        subjects = subject.all_of(names, loaded, runs, "serve")
    else:
        subjects, others = subject.finished(loaded, runs)
        for name, why in others.items():
            Screen(make_console(stderr=True)).say(f"{name} is not served ({why})")
    if engine is Engine.vllm:
        vllm.start(subjects, place, max_batch)
    start.serve(subjects, place, max_batch, max_waiting, web)
