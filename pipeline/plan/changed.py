"""What changed between two inputs of a stage, by the keys that its recipe has."""

import re
from collections.abc import Iterator

from pipeline.artifact.digests import difference
from pipeline.plan.contents import Contents
from pipeline.recipe.recipe import Recipe

_REWARD = re.compile(r"reward_functions\[(\d+)\]\.(?:options\.)?(\w+)")
_FUNCTION = {"name", "built_in"}  # of a reward's inputs, what the recipe's `function` says


def changes(contents: Contents, name: str, old: dict, new: dict) -> Iterator[str]:
    """One line a key, `train.learning_rate: 0.0002 -> 0.0001`. Of another method of tuning its name, and of its settings
    what the recipe itself says: the others are its defaults, and those of the former are gone with it.
    """
    written = _written(contents.recipe, name) if _method(old) != _method(new) else None
    for change in difference(old, new):
        key, _, values = change.partition(": ")
        if written is None or not key.startswith("adapter.") or key.split(".")[1] in written:
            if key == "policy":
                values = values.replace("null", "the base")  # what a stage without a policy begins from
            yield contents.renamed(name, f"{_of_recipe(contents.recipe, name, key)}: {values}")


def _method(inputs: dict) -> str | None:
    return inputs["adapter"].get("method") if isinstance(inputs.get("adapter"), dict) else None


def _written(recipe: Recipe, name: str) -> set[str]:
    return {"method", *recipe.adapter.given, *recipe.own_adapter(name)}


def _of_recipe(recipe: Recipe, name: str, key: str) -> str:
    """The key of one of several rewards, which the inputs have by their numbers."""
    found, rewards = _REWARD.fullmatch(key), recipe.stage(name).rewards
    if not found or int(found[1]) >= len(rewards):
        return key
    own, what = rewards[int(found[1])].key, found[2]
    return f"content of {own}" if what == "sha256" else f"{own}.{'function' if what in _FUNCTION else what}"
