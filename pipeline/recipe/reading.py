"""A YAML file to a recipe, or to all of its mistakes at once, each with its line."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline import stage
from pipeline.data.source import Data
from pipeline.recipe import foreign, shipped, yaml_lines
from pipeline.recipe.mistakes import contradictions
from pipeline.recipe.problem import Problem, RecipeError
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.unknown import worded
from pipeline.wording import must_be, nearest


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, with `a.b.c=value` overrides on top. Raises RecipeError with every mistake in it."""
    path = Path(path)
    source = yaml_lines.load(_text(path), str(path))
    source.value = shipped.with_own_data(path, source.value)
    for override in overrides:
        yaml_lines.set_override(source, override)
    problems = list(source.problems)
    if not problems and source.value is None:
        problems = [((), "the recipe is empty; it needs at least model and stages")]
    elif not problems and not isinstance(source.value, dict):
        problems = [((), must_be("a mapping of keys such as model and stages", source.value))]
    recipe = None
    if isinstance(source.value, dict):
        recipe, wrong_shape = _parsed({"name": path.stem} | source.value)
        if "name" not in source.value:
            of_file = "is missing, and that of the file cannot stand for it, for it "
            wrong_shape = [(place, of_file * (place == ("name",)) + what) for place, what in wrong_shape]
        problems += wrong_shape
        problems += contradictions(source.value)
    if problems or recipe is None:
        if theirs := _theirs(path, source.value):
            said = f"{path}: is {theirs}, and no recipe."
            raise RecipeError([said], f"Make a recipe of it, which runs: align init --from {shlex.quote(str(path))}")
        raise RecipeError(_in_order(problems, source))
    recipe._path, recipe._place, recipe._overrides = path, source.place, tuple(map(str, overrides))
    return recipe


def data_section(**keys: Any) -> Data:
    """A stage's data from outside of a recipe. Raises RecipeError with every mistake in it."""
    try:
        return Data(**keys)
    except ValidationError as error:
        worded = (worded(each) for each in error.errors(include_url=False))
        raise RecipeError([f"{'.'.join(map(str, path))}: {what}" for path, what in worded], "") from None


def _theirs(path: Path, value: object) -> str | None:
    """What of another tool's a file is that was given for a recipe."""
    if path.suffix in (".sh", ".bash"):
        return "a saved command"
    tool = foreign.tool_of(value) if isinstance(value, dict) and "stages" not in value else None
    return f"a training file of {tool}" if tool else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        beside = sorted(file.name for file in path.parent.glob("*.y*ml"))
        close = nearest(path.name, beside)
        hint = f"; did you mean {path.parent / close}?" if close else ""
        there = f"There are: {', '.join(beside)}." if beside else f"There is no recipe in {path.parent}/."
        if (shipped.root() / "recipes" / path.name).is_file():
            there += f" The one that came with align is {shipped.root() / 'recipes' / path.name}."
        raise RecipeError([f"{path}: no such recipe{hint}"], there) from None
    except UnicodeDecodeError as error:
        what = f"{path}: not UTF-8 text (byte {error.start})"
        raise RecipeError([what], "Save the file as UTF-8.") from None
    except OSError as error:
        raise RecipeError([f"{path}: {error.strerror}"], "Give a recipe file that can be read.") from None


def _in_order(problems: Iterable[Problem], source: yaml_lines.Source) -> list[str]:
    """One line a problem: the file's from top to bottom, then those of the overrides."""

    def position(problem: Problem) -> tuple[bool, int]:
        line = source.line(problem[0])
        return line == 0, line

    lines = []
    for path, what in sorted(problems, key=position):
        place, dotted = source.place(path), ".".join(map(str, path))
        lines.append(f"{place}: {what}" if dotted in ("", place) else f"{place}: {dotted}: {what}")
    return list(dict.fromkeys(lines))


def _parsed(raw: Mapping[str, Any]) -> tuple[Recipe | None, list[Problem]]:
    stages = raw.get("stages")
    if isinstance(stages, dict):
        known = [name for name in stage.specs() if stages.get(name) is not None]  # what is empty is told elsewhere
        raw = {**raw, "stages": {name: stages[name] for name in known}}
    try:
        return Recipe.model_validate(raw), []
    except ValidationError as error:
        return None, [worded(each) for each in error.errors(include_url=False)]
