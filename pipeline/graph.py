"""Which stage stands on which."""

from collections.abc import Iterable

from pipeline.recipe import Recipe
from pipeline.stage import specs


def parent(recipe: Recipe, name: str) -> str | None:
    """The stage of the recipe whose policy `name` starts from; None where it starts from the base, or from a folder."""
    named = recipe.stage(name).policy
    if named is not None:
        return named if named in recipe.stages else None
    present = [stage for stage in specs()[name].after if stage in recipe.stages]
    return present[-1] if present else None


def ordered(recipe: Recipe, goals: Iterable[str], overridden: str | None = None) -> list[str]:
    """The goals and every stage they stand on, parents first.

    `overridden` is the stage whose parent was given on the command line: nothing is built for it.
    """
    needed: list[str] = []

    def need(name: str) -> None:
        above = None if name == overridden else parent(recipe, name)
        if above and above not in needed:
            need(above)
        if name not in needed:
            needed.append(name)

    for name in (stage for stage in specs() if stage in set(goals)):
        need(name)
    return needed
