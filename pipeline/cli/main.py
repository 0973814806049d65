"""From a base model to an aligned one: each stage trains on the checkpoint of the stage before it."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pipeline.console import picture
from pipeline.console.display import Display, make_console
from pipeline.data.source import Data
from pipeline.errors import PipelineError
from pipeline.plan import gc as garbage
from pipeline.plan import graph
from pipeline.plan.planner import Planner
from pipeline.plan.step import EVALUATE, UP_TO_DATE
from pipeline.recipe.fields import ON_A_GPU
from pipeline.recipe.reading import data_section, load_recipe
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.sections import Model
from pipeline.run.compare import PICTURE, RESULT, Comparison
from pipeline.run.run import Run
from pipeline.stage import specs

DEFAULT_RECIPE = Path("recipes/tiny.yaml")

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
data_app = typer.Typer(no_args_is_help=True, help="Look at data.")
recipe_app = typer.Typer(no_args_is_help=True, help="Look at one recipe.")
app.add_typer(recipe_app, name="recipe")
app.add_typer(data_app, name="data")

RecipeOption = Annotated[Path, typer.Option("--recipe", "-r", help="The recipe: one YAML file for the whole chain.")]
RunsOption = Annotated[Path, typer.Option("--runs", help="Where artifacts go.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a key: stages.dpo.train.beta=0.05")]
PolicyOption = Annotated[str | None, typer.Option("--policy", help="Start the first stage named from this adapter.")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Another attempt, beside what is there.")]
UnslothOption = Annotated[
    bool | None, typer.Option("--unsloth/--no-unsloth", help="Load and run models with Unsloth, or not.")
]
NoLookAheadOption = Annotated[
    bool, typer.Option("--no-look-ahead", help="Train at once, without preparing the rows of the later stages first.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="The same for a program to read.")]
Stages = Annotated[list[str] | None, typer.Argument(help="The stages; all of the recipe where none is named.")]


def _show_version(asked: bool) -> None:
    if asked:
        print(f"align {_installed('align-pipeline')}")
        print(", ".join(f"{name} {_installed(name)}" for name in ("torch", "transformers", "trl", "peft", "unsloth")))
        raise typer.Exit


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show what is installed.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    stages: Stages = None,
    recipe: RecipeOption = DEFAULT_RECIPE,
    runs: RunsOption = Path("runs"),
    overrides: SetOption = None,
    policy: PolicyOption = None,
    unsloth: UnslothOption = None,
    fresh: FreshOption = False,
    no_look_ahead: NoLookAheadOption = False,
) -> None:
    """Run stages, and first those that they stand on, as far as they are not up to date."""
    display = Display(make_console())
    overrides = _with_switch(recipe, overrides or [], unsloth)
    run = Run(
        recipe,
        overrides,
        runs,
        stages or [],
        fresh=fresh,
        policy=policy,
        display=display,
        look_ahead=not no_look_ahead,
    )
    raise typer.Exit(run.execute())


@app.command()
def plan(
    stages: Stages = None,
    recipe: RecipeOption = DEFAULT_RECIPE,
    runs: RunsOption = Path("runs"),
    overrides: SetOption = None,
    policy: PolicyOption = None,
    unsloth: UnslothOption = None,
    fresh: FreshOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what `run` would do, and why."""
    loaded = load_recipe(recipe, _with_switch(recipe, overrides or [], unsloth))
    goals = stages or list(loaded.stages)
    steps = Planner(loaded, runs, policy).plan(goals, fresh=goals if fresh else ())
    if as_json:
        print(json.dumps([step.to_json() for step in steps], indent=1))
    else:
        Display(make_console()).plan(steps, f"{loaded.name}: the plan")


@app.command()
def status(
    stages: Stages = None,
    recipe: RecipeOption = DEFAULT_RECIPE,
    runs: RunsOption = Path("runs"),
    overrides: SetOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show where every stage of a recipe stands, and what it learned."""
    loaded = load_recipe(recipe, overrides or [])
    steps = Planner(loaded, runs, policy).plan(stages or list(loaded.stages))
    finished = [step for step in steps if step.state in (UP_TO_DATE, EVALUATE)]
    if as_json:
        rows = [
            step.to_json() | {"metrics": step.attempt.manifest["metrics"] if step in finished else None}
            for step in steps
        ]
        print(json.dumps(rows, indent=1))
        return
    display = Display(make_console())
    display.plan(steps, f"{loaded.name}: where it stands")
    if finished:
        display.learned([step.attempt.manifest for step in finished])
        display.where([(step.stage, step.attempt.output) for step in finished])


@app.command()
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
        display.comparison(result)
        display.say(f"{comparison.folder / RESULT}\n{comparison.folder / PICTURE}")


@app.command()
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
    end = "removed." if delete else "can go: `align gc --delete` removes them."
    more = f" {len(staying)} more with --all." if staying else ""
    console.print((f"{len(going_too)} {end}" if going_too else "Nothing to remove.") + more)


@app.command("recipes")
def list_recipes(folder: Annotated[Path, typer.Argument()] = Path("recipes")) -> None:
    """List the recipes of a folder."""
    console = make_console()
    for path in sorted(folder.glob("*.yaml")):
        try:
            loaded = load_recipe(path)
            console.print(f"[bold]{path}[/bold]  {graph.chain(loaded)}", soft_wrap=True)
        except PipelineError as error:
            console.print(f"[bold]{path}[/bold]  [red]{len(error.what.splitlines())} mistakes[/red]", soft_wrap=True)


@recipe_app.command("show")
def show_recipe(recipe: Annotated[Path, typer.Argument()] = DEFAULT_RECIPE, overrides: SetOption = None) -> None:
    """Print a recipe as it is understood: every key that can be set, of every stage, with its value."""
    import yaml

    print(f"# {' and '.join(ON_A_GPU)}, where they do not stand under train: true on a GPU, else false")
    print(
        yaml.safe_dump(load_recipe(recipe, overrides or []).resolved(), sort_keys=False, allow_unicode=True),
        end="",
    )


@data_app.command("check")
def check_data(
    files: Annotated[
        list[str] | None,
        typer.Argument(help="Files, folders, globs, or hub:owner/name; else what the recipe gives --stage."),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="The stage that would train on them; else it is told by the rows.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", "-r", help="The recipe whose tokenizer and lengths hold, and its data.")
    ] = None,
    runs: RunsOption = Path("runs"),
    tokenizer: Annotated[
        str | None, typer.Option(help="A model's id or folder; else the recipe's, and without one words are counted.")
    ] = None,
    columns: Annotated[list[str] | None, typer.Option("--column", help="expected=name in the file")] = None,
    shape: Annotated[str | None, typer.Option(help="How the rows are written.")] = None,
    config: Annotated[str | None, typer.Option(help="Of a folder or a data set of the hub.")] = None,
    split: Annotated[str | None, typer.Option(help="Of a folder or a data set of the hub.")] = None,
    revision: Annotated[str, typer.Option(help="Of a data set of the hub.")] = "main",
    encoding: Annotated[str, typer.Option(help="Of the text.")] = "utf-8",
    separator: Annotated[str | None, typer.Option(help="Between the documents of a plain text.")] = None,
    template: Annotated[str | None, typer.Option(help="A chat template by name or file; else the model's.")] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens; else the stage's in the recipe, and no limit with --tokenizer.")
    ] = None,
    held_out: Annotated[float, typer.Option(help="Share of the rows.")] = 0.05,
    learn: Annotated[str, typer.Option(help="What carries loss: answers, last or everything.")] = "answers",
    as_json: JsonOption = False,
) -> None:
    """Show what would become of a file's rows, and which of their tokens would be learned. Exit code 2 for bad rows."""
    model = Model(id=tokenizer, template=template) if tokenizer else None
    loaded = None
    if not files or (recipe and not model):
        loaded = load_recipe(recipe or DEFAULT_RECIPE)
    elif model:
        loaded = Recipe(name="check", model=model, stages={})
    elif template or max_length:
        raise PipelineError(
            f"--{'template' if template else 'max-length'}: without a tokenizer there are no tokens, only words.",
            "Name a model with --tokenizer, or a recipe.",
        )
    if unpaired := [pair for pair in columns or [] if "=" not in pair]:
        raise PipelineError(f"--column {unpaired[0]}: names no column.", "Write --column expected=name.")
    if not files and not stage:
        raise PipelineError("There is nothing to check.", "Name files, or a stage of the recipe with --stage.")
    if not files and (any((columns, shape, config, split, separator)) or learn != "answers"):
        raise PipelineError("The recipe says how its own rows are read.", "Name files, or leave these options out.")
    own = None if files else loaded
    if model:
        loaded = loaded.model_copy(update={"model": model, "stages": {}})
    elif template:
        loaded = loaded.model_copy(update={"model": loaded.model.model_copy(update={"template": template})})
    if own:
        data = own.stage(stage).data
    else:
        data = data_section(
            path=files,
            config=config,
            split=split,
            revision=revision,
            held_out=held_out,
            columns=dict(pair.split("=", 1) for pair in columns or []),
            shape=shape,
            encoding=encoding,
            separator=separator,
            learn=learn,
        )
    report = _checked(data.pinned(runs / (loaded.name if loaded else "check")), stage, loaded, runs, max_length, own)
    if as_json:
        print(json.dumps(report.to_json(), indent=1, ensure_ascii=False))
    else:
        Display(make_console()).checked(report, ", ".join(files or [f"the data of {stage}"]))
    raise typer.Exit(2 if report.bad else 0)


def _checked(
    data: Data,
    stage: str | None,
    loaded: Recipe | None,
    runs: Path,
    max_length: int | None,
    own: Recipe | None,
):
    """The report. `own` is the recipe where the rows are those that it gives the stage; `loaded` has the tokenizer."""
    from pipeline.data import check
    from pipeline.data.prepare import kinds
    from pipeline.data.tokens.words import Words

    if stage and stage not in specs():
        raise PipelineError(f"--stage {stage}: no such stage.", f"There are {', '.join(specs())}.")
    kind = specs()[stage].rows if stage else kinds.kind_of(data)
    if loaded is None:
        return check.check(data, kind, Words(data.learn))
    from pipeline.model.base import positions
    from pipeline.train.machine import available_cores, before_imports

    before_imports(False)
    # A row that is longer than the model is told by the report, in better words.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with nullcontext() if loaded.model.trust_remote_code else _without_torch():
        from pipeline.model.tokenizer import of_recipe
    from pipeline.data.tokens.encoder import Encoder
    from pipeline.recipe.fields import effective
    from pipeline.train.rows import enough

    stage = stage or next(iter(kinds.stages_of(kind)))
    tokenizer = of_recipe(loaded, runs).tokenizer
    if stage in loaded.stages and not max_length:
        given = effective(specs()[stage].config, loaded.given(stage, full=False))
        if max_length := given.get("max_length"):
            most = positions(loaded, loaded.model.id, loaded.model.revision)
            max_length = min(max_length, most or max_length) - given.get("response_length", 0)  # that has its own room
    encoder = Encoder(
        tokenizer,
        max_length,
        data.on_too_long,
        through_suffix=specs()[stage].head == "score",
        learn=data.learn,
    )
    return check.check(data, kind, encoder, enough(own, stage, max_length) if own else None, available_cores())


@contextmanager
def _without_torch() -> Iterator[None]:
    """Import transformers for its tokenizers alone: torch, which they do not need, takes most of its seconds."""
    heavy = set() if {"torch", "transformers"} & sys.modules.keys() else {"torch", "accelerate"}
    sys.modules.update(dict.fromkeys(heavy))
    try:
        yield
    finally:
        for name in heavy:
            del sys.modules[name]


def _with_switch(recipe: Path, overrides: list[str], unsloth: bool | None) -> list[str]:
    """The switch of the command line goes before all that the recipe says of it, for the chain and for a stage."""
    if unsloth is None:
        return overrides
    own = [f"stages.{name}.use_unsloth=null" for name in load_recipe(recipe, overrides).stages]
    return [*overrides, f"use_unsloth={str(unsloth).lower()}", *own]


def main() -> None:
    try:
        app()
    except PipelineError as error:
        Display(make_console()).error(error)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
