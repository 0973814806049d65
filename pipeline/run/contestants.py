"""Who takes part in a trial: stages of a recipe, the same stage with several values of a key, stages of another recipe."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.recipe.problem import RecipeError
from pipeline.recipe.reading import load_recipe
from pipeline.recipe.recipe import Recipe
from pipeline.stage import specs
from pipeline.wording import did_you_mean

SEVERAL = re.compile(r",(?![^\[{(]*[\]})])")  # commas between values, not those inside of one


@dataclass(frozen=True)
class Contestant:
    """A stage of a recipe, with overrides."""

    name: str  # as it is shown
    recipe: Path
    overrides: tuple[str, ...]  # those that all contestants have, and then its own
    stage: str
    common: tuple[str, ...]  # the former alone

    def load(self, more: Sequence[str] = ()) -> Recipe:
        return load_recipe(self.recipe, [*self.overrides, *more])


@dataclass(frozen=True)
class Variation:
    """A key with the values that are tried of it: `stages.dpo.train.beta=0.05,0.1`."""

    key: str
    values: tuple[str, ...]

    @property
    def stage(self) -> str:
        return self.key.split(".")[1]

    @classmethod
    def read(cls, text: str) -> "Variation":
        key, _, values = text.partition("=")
        several = tuple(dict.fromkeys(value.strip() for value in SEVERAL.split(values)))
        if not re.fullmatch(r"stages\.[^.]+\..+", key) or len(several) < 2 or "" in several:
            what = f"--vary {text}: must look like stages.dpo.train.beta=0.05,0.1,0.3: a stage's key and two values at least."
            raise PipelineError(what, "Give a value that is the same for all with --set.")
        return cls(key, several)


def contestants(
    path: Path, overrides: Sequence[str], methods: Sequence[str], vary: Sequence[str], against: Path | None
) -> list[Contestant]:
    """Those of the recipe at `path`, and then those of the recipe `against`. Where no method is named, those that are
    varied; where nothing is, all stages that start where the last one does.

    Raises PipelineError for what cannot be in one trial.
    """
    variations = [Variation.read(text) for text in vary]
    recipe = load_recipe(path, overrides)
    words = [word for one in methods for word in one.split()]  # "dpo kto" in quotes, as make has it
    named = list(dict.fromkeys(words or (one.stage for one in variations))) or _siblings(recipe)
    for name in words:
        recipe.stage(name)  # that there is one
    if unused := [one for one in variations if one.stage not in named]:
        raise PipelineError(
            f"--vary {unused[0].key}: {unused[0].stage} takes no part.", f"Name {unused[0].stage}, too."
        )
    found = [one for name in named for one in _varied(path, overrides, name, variations)]
    if against:
        other = load_recipe(against, overrides)
        there = [name for name in named if name in other.stages]
        of_other = [one for name in there for one in _varied(against, overrides, name, variations)]
        same_name = {one.name for one in found} & {one.name for one in of_other} and path.stem == against.stem
        label = str(against.with_suffix("")) if same_name else against.stem
        found += [replace(one, name=f"{one.name} {label}") for one in of_other]
    if len(found) < 2:
        raise PipelineError(
            f"{path}: {', '.join(one.name for one in found) or 'nothing'} has nothing to be compared with.",
            f"Name several stages ({', '.join(recipe.stages)}), or --vary a key of one.",
        )
    for one in found:
        _check(one)
    return found


def start_of(one: Contestant) -> str | None:
    """What its recipe lets a contestant start from: a stage, a folder, or None for the base."""
    recipe = one.load()
    return recipe.parent(one.stage) or recipe.stage(one.stage).policy


def _siblings(recipe: Recipe) -> list[str]:
    policies = [name for name in recipe.stages if specs()[name].head == "causal"]
    parent = recipe.parent(policies[-1]) if policies else None
    return [name for name in policies if recipe.parent(name) == parent]


def _varied(path: Path, overrides: Sequence[str], stage: str, variations: Sequence[Variation]) -> Iterator[Contestant]:
    """A contestant for each way to choose a value of every key that is varied in the stage."""
    own = [one for one in variations if one.stage == stage]
    for values in itertools.product(*(one.values for one in own)):
        chosen = list(zip(own, values, strict=True))
        name = " ".join([stage, *(f"{one.key.rpartition('.')[2]}={value}" for one, value in chosen)])
        own_overrides = (f"{one.key}={value}" for one, value in chosen)
        yield Contestant(name, path, (*overrides, *own_overrides), stage, tuple(overrides))


def _check(one: Contestant) -> None:
    try:
        recipe = one.load()
    except RecipeError as error:
        problems = [*error.problems]
        for own in one.overrides[len(one.common) :]:
            problems = [problem.replace(f"--set {own}", f"--vary {own}") for problem in problems]
        raise RecipeError(problems, error.fix) from None
    if one.stage not in recipe.stages:
        raise PipelineError(
            f"{one.recipe}: has no stage {one.stage}{did_you_mean(one.stage, recipe.stages)}.",
            f"It has {', '.join(recipe.stages)}.",
        )
    if specs()[one.stage].head != "causal":
        what = f"{one.stage}: trains a reward model, which gives no answers that a trial could judge."
        raise PipelineError(what, "Leave it out.")


def common_start(all_of_them: Sequence[Contestant]) -> str | None:
    """What all start from. Raises PipelineError where they do not start from the same."""
    starts = {one.name: start_of(one) for one in all_of_them}
    first, start = next(iter(starts.items()))
    for name, other in starts.items():
        if other != start:
            raise PipelineError(
                f"{name} starts from {other or 'the base'}, and {first} from {start or 'the base'}: what is learned after "
                "different beginnings cannot be compared.",
                f"Give them one: --set stages.{name.split()[0]}.policy={start or 'null'}",
            )
    return start
