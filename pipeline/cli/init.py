"""Begin a recipe: from a model and data, or from another tool's file."""

import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from pipeline.console.screen import Screen, make_console
from pipeline.errors import PipelineError
from pipeline.installing import as_typed
from pipeline.plan.memory import card as cards
from pipeline.plan.memory.card import Card
from pipeline.recipe.problem import RecipeError
from pipeline.recipe.reading import load_recipe
from pipeline.recipe.recipe import Recipe
from pipeline.start import fitting, from_another, new
from pipeline.start.goals import GOALS
from pipeline.start.looked import Looked, look
from pipeline.start.written import paragraph, recipe_text
from pipeline.wording import listed


def init(
    recipe: Annotated[Path | None, typer.Argument(help="The recipe to write; it must not be there yet.")] = None,
    from_file: Annotated[
        list[Path] | None,
        typer.Option("--from", help="A file of LLaMA-Factory, Axolotl or TRL to translate; again for another stage's."),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="Which of TRL's commands the file of --from is for, where it does not say it.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A hub id (owner/name) or a folder.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="A file or folder of rows; again for another.")] = None,
    encoding: Annotated[str | None, typer.Option(help="Of files that are not UTF-8, such as gb18030.")] = None,
    goal: Annotated[str | None, typer.Option(help=f"{', '.join(GOALS)}; else what the rows are for.")] = None,
    gpu: Annotated[
        str | None, typer.Option("--card", "--gpu", help="The card's GB, or T4; 0 for a CPU; else this machine's.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")] = False,
) -> None:
    """Write a recipe: for your model, data and card, or from another tool's file."""
    screen = Screen(make_console())
    if from_file:
        if any((model, data, goal, encoding, gpu is not None)):
            raise PipelineError("--from: the file says model and data.", "Leave the other options out.")
        if stage is not None and len(from_file) > 1:
            raise PipelineError(
                "--stage: is of one file, and there are several.", "Save the commands with their names."
            )
        _translate(screen, from_file, stage, _free(recipe or Path(f"{from_file[0].stem}.align.yaml")))
        return
    if stage is not None:
        raise PipelineError("--stage: is for a file of --from.", "Say with --goal what the recipe is for.")
    ask = _Asking(not yes and _a_terminal())
    model = _checked_model(model or ask("The model: a hub id (owner/name) or a folder", "--model"))
    paths = data or shlex.split(ask("The data: one or more files", "--data"))
    looked = [_looked(screen, path, encoding) for path in paths]
    goal = new.goal_of(goal or ask.among(GOALS, new.goal_of(None, looked)), looked)
    own = cards.own()
    said = gpu or ask("GB of the card (0: a CPU)", None, f"{own.bytes / cards.GIB:.0f}" if own else "0")
    card = _card(said, own)  # one that nobody has is told before anything is written
    to = _free(recipe or Path(ask("The recipe to write", None, "mine.yaml")))
    _begin(screen, to, model, looked, goal, card)
    _next(screen, to, said if card and card != own else None)


def _card(said: str, own: Card | None) -> Card | None:
    """The card that is meant: this machine's own where it is of about that size; None for a CPU, which is 0."""
    if re.fullmatch(r"0+(\.0*)?( *GB)?", said.strip()):
        return None
    asked = cards.asked_for(said, "--card")
    alike = own and asked.half is None and abs(asked.bytes - own.bytes) < own.bytes / 10
    return own if own and alike else asked


def _a_terminal() -> bool:
    return sys.stdin.isatty()


class _Asking:
    """Questions on a terminal; without one an option has to have said it."""

    def __init__(self, can: bool):
        self.can = can

    def __call__(self, question: str, option: str | None, default: str | None = None) -> str:
        if self.can:
            return typer.prompt(question, default=default)
        if default is not None:
            return default
        raise PipelineError(f"{option} is missing, and nobody can be asked.", "align init --model ... --data ... --yes")

    def among(self, choices: dict[str, str], default: str) -> str:
        if self.can:
            for name, what in choices.items():
                typer.echo(f"  {name:<12} {what}")
        return self("The goal", None, default)


def _free(path: Path) -> Path:
    if path.exists():
        raise PipelineError(f"{path}: is there already, and is not overwritten.", "Name another file to write.")
    if path.suffix not in (".yaml", ".yml"):
        raise PipelineError(f"{path}: a recipe is a .yaml file.", f"Write {path.with_suffix('.yaml')}.")
    return path


def _checked_model(model: str) -> str:
    folder = Path(model).expanduser()
    if (folder / "adapter_config.json").is_file():
        raise PipelineError(
            f"{model}: is an adapter, not a model.", "Name its base; the adapter goes under a stage's policy."
        )
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise PipelineError(f"{model}: has no config.json.", "Name the folder of a model, or a hub id (owner/name).")
    if not folder.is_dir() and (model.count("/") != 1 or model.startswith((".", "/", "~"))):
        raise PipelineError(f"{model}: is neither a folder nor a hub id (owner/name).", "Name one of the two.")
    return str(folder) if folder.is_dir() else model


def _looked(screen: Screen, path: str, encoding: str | None) -> Looked:
    found = look(path, encoding)
    bad = f", {len(found.bad)} of them bad" if found.bad else ""
    screen.say(f"{path}: rows of the kind {found.kind} (the first {found.rows} looked at{bad})")
    if columns := found.how.get("columns"):
        taken = listed([f"{theirs} is taken for {ours}" for ours, theirs in columns.items()])
        screen.say(f"  {taken}: see data.columns of the recipe")
    return found


def _translate(screen: Screen, sources: list[Path], stage: str | None, to: Path) -> None:
    froms = [word for source in sources for word in ("--from", source.name)] + (["--stage", stage] if stage else [])
    translations = [from_another.translated(source, stage) for source in sources]
    try:
        _write(to, lambda: from_another.text(translations, shlex.join(["align", "init", to.name, *froms]), to))
    except RecipeError as error:  # its lines are those of a file that is gone
        theirs = ", ".join(map(str, sources))
        raise PipelineError(
            f"{theirs}: as a recipe this does not load, and none was written:\n  {error.what}", f"Mend {theirs}."
        ) from None
    for source, translation in zip(sources, translations, strict=True):
        screen.say(f"{source} is of {translation.of}.")
        for title, entries in from_another.report(translation):
            if entries:
                screen.say(f"\n{title}")
                for entry in entries:
                    screen.say("\n".join(paragraph(as_typed(entry), "")))
        screen.say("")
    _next(screen, to)


def _begin(screen: Screen, to: Path, model: str, looked: list[Looked], goal: str, card: Card | None) -> None:
    name = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in to.stem) or "mine"
    draft = new.draft(name, model, looked, goal, card)
    said: list[str] = []

    def text() -> str:
        head = [f"{model} on {card.name if card else 'a CPU'}; the goal is {goal}: {GOALS[goal]}."]
        head += [line for note in (*draft.notes, *said) for line in paragraph(note)]
        head += [
            "",
            f"  align plan --recipe {to}    # what would be done",
            f"  align run --recipe {to}     # do it",
            "",
        ]
        return recipe_text(head, draft.tree, draft.behind)

    loaded = _write(to, text)
    if card:
        try:
            said += fitting.fit(draft, loaded, card)
        except PipelineError as error:  # a model that is not whole, say: the recipe stands, and its plan will say so
            said.append(f"not held against the card: {error.what} {error.fix}")
        to.unlink()
        _write(to, text)
    for note in (*draft.notes, *said):
        screen.say(note)


def _write(to: Path, text: Callable[[], str]) -> Recipe:
    """Write a recipe where none is, and see that it loads; else it is taken away again."""
    written = text()  # which may fail, and then leaves no file
    to.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w", encoding="utf-8") as file:
        file.write(written)
    try:
        return load_recipe(to)
    except PipelineError:
        to.unlink()
        raise


def _next(screen: Screen, to: Path, card: str | None = None) -> None:
    """`card` is one that this machine has not: the plan has to be told of it."""
    screen.say(f"\nWritten: {to}")
    of = f" --gpu {shlex.quote(card)}" if card else ""
    screen.say(f"  align plan --recipe {to}{of}       what would be done, and whether it fits")
    screen.say(f"  align run --recipe {to}        do it")
