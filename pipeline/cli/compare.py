"""One stage with both backends, or several methods from one start."""

import time
from pathlib import Path
from typing import Annotated

import typer

from pipeline import installing
from pipeline.artifact.writing import write_json
from pipeline.cli.options import DEFAULT_RECIPE, JsonOption, RecipeOption, RunsOption, SetOption
from pipeline.console import picture, tables
from pipeline.console import trial as shown
from pipeline.console.display import Display
from pipeline.console.for_programs import show_json
from pipeline.console.quiet import Quiet
from pipeline.console.screen import make_console
from pipeline.errors import PipelineError
from pipeline.run.compare import PICTURE, RESULT, Comparison
from pipeline.run.contestants import contestants
from pipeline.run.outcome import result
from pipeline.run.standing import Stopped
from pipeline.run.stopping import heeding_sigterm
from pipeline.run.trial import Trial

STEPS, REPEATS, SEEDS = 40, 2, 3


@heeding_sigterm()
def compare(
    stages: Annotated[
        list[str] | None, typer.Argument(help="The stage to train with both backends; the methods.")
    ] = None,
    methods: Annotated[
        bool, typer.Option("--methods", help="Compare the stages named as methods, from one start.")
    ] = False,
    vary: Annotated[list[str] | None, typer.Option(help="Compare values: stages.dpo.train.beta=0.05,0.1,0.3")] = None,
    against: Annotated[Path | None, typer.Option(help="Compare with the same stages of this recipe.")] = None,
    recipe: RecipeOption = DEFAULT_RECIPE,
    runs: RunsOption = Path("runs"),
    overrides: SetOption = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help=f"Of methods: seeds, from 0 on. ({SEEDS} by default)")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Of methods: trained on by each. (the fewest of the recipe's by default)")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="Of methods: the stage whose held-out prompts and evaluation judge all.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=4, help=f"Of backends: optimizer steps of a trial. ({STEPS} by default)")
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help=f"Of backends: trials of each, in turn. ({REPEATS} by default)")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a stage with and without Unsloth: speed, memory and loss. With --methods, --vary or --against: stages, values
    of a key or recipes, each from the same policy, on the same number of tokens, judged by one evaluation."""
    of_methods = methods or bool(vary) or against is not None
    _refuse(of_methods, {"--steps": steps, "--repeats": repeats}, "belongs to the comparison of backends")
    _refuse(
        not of_methods, {"--seeds": seeds, "--tokens": tokens, "--judge": judge}, "needs --methods, --vary or --against"
    )
    if not of_methods and len(stages or ()) != 1:
        raise PipelineError(
            "compare: which stage? One is trained with both backends; with --methods several are compared.",
            "Name it: align compare sft, or align compare --methods dpo kto.",
        )
    display = Display(make_console(stderr=as_json))
    if not of_methods:
        _backends(recipe, overrides or [], runs, stages[0], steps or STEPS, repeats or REPEATS, display, as_json)
        return
    taking_part = contestants(recipe, overrides or [], stages or [], vary or [], against)
    quiet = Quiet(display.console)
    trial = Trial(taking_part, runs, seeds=seeds or SEEDS, tokens=tokens, judge=judge, display=display, quiet=quiet)
    draws = not as_json and _draws(display, "make trial")
    try:
        outcomes, start = trial.run()
    except Stopped as stopped:
        raise typer.Exit(*stopped.args) from None
    found = {"recipe": trial.recipe, "from": trial.standing.start} | result(outcomes, start, trial.tokens)
    folder = trial.folder / time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "trial.json", found)
    if as_json:
        show_json(found)
    else:
        shown.show(display, found)
        written = [folder / "trial.json"]
        if found["figures"] and draws:
            shown.draw(found, folder / "trial.png")
            written.append(folder / "trial.png")
        display.say("\n".join(map(str, written)))
    if not found["figures"]:
        raise typer.Exit(1)


def _refuse(when: bool, options: dict[str, object], why: str) -> None:
    if given := [name for name, value in options.items() if when and value is not None]:
        raise PipelineError(f"{', '.join(given)}: {why}.", "Leave it out.")


def _draws(display: Display, goal: str) -> bool:
    """Whether there will be a picture; said before anything is trained."""
    if there := picture.is_possible():
        return there
    command = installing.extra("compare")
    display.say(f"note: no picture will be drawn, as matplotlib is not installed: {goal} installs it, or {command}")
    return False


def _backends(recipe, overrides, runs, stage, steps, repeats, display, as_json) -> None:
    comparison = Comparison(recipe, overrides, runs, stage, steps, repeats, display)
    draws = not as_json and _draws(display, "make compare")
    result = comparison.run()
    if as_json:
        show_json(result)
    else:
        tables.comparison(display, result)
        display.say(str(comparison.folder / RESULT))
        if draws:
            picture.draw(result, comparison.folder / PICTURE)
            display.say(str(comparison.folder / PICTURE))
