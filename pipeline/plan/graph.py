"""Which stage stands on which."""

from collections.abc import Iterable

from pipeline.plan.judges import judged_by
from pipeline.recipe.recipe import Recipe
from pipeline.stage import specs


def ordered(recipe: Recipe, goals: Iterable[str], overridden: str | None = None) -> list[str]:
    """The goals and every stage they stand on, parents first.

    `overridden` is the stage whose parent was given on the command line: nothing is built for it.
    """
    needed: list[str] = []

    def need(name: str) -> None:
        above = None if name == overridden else recipe.parent(name)
        for parent in (above, recipe.reward(name), judged_by(recipe, name)):
            if parent in recipe.stages and parent not in needed:
                need(parent)
        if name not in needed:
            needed.append(name)

    for name in (stage for stage in specs() if stage in set(goals)):
        need(name)
    return needed


def chain(recipe: Recipe) -> str:
    """The stages as they stand on each other: `pretrain -> sft -> reward, (dpo -> ppo)`."""
    above = {name: recipe.parent(name) for name in ordered(recipe, recipe.stages)}

    def under(parent: str | None) -> str:
        children = [name for name in above if above[name] == parent]
        branches = [f"{name} -> {below}" if (below := under(name)) else name for name in children]
        if len(branches) > 1:
            branches = sorted((f"({one})" if "->" in one else one for one in branches), key=lambda one: "->" in one)
        return ", ".join(branches)

    return under(None)
