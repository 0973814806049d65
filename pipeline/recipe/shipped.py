"""The recipes that come with align, wherever it is installed: in a clone beside the package, in a wheel inside of it."""

from pathlib import Path

import pipeline

_PACKAGE = Path(pipeline.__file__).parent
DEFAULT = Path("recipes/tiny.yaml")  # as it is called in a clone


def root() -> Path:
    """The folder that has recipes/ and data/tiny/."""
    inside = _PACKAGE / "shipped"
    return inside if inside.is_dir() else _PACKAGE.parent


def default() -> Path:
    """The embedded default: the one of the folder that align runs in, as in a clone, else the one that came with align."""
    return DEFAULT if DEFAULT.is_file() else root() / DEFAULT


def with_own_data(recipe: Path, value: object) -> object:
    """What was read from a recipe. A shipped one that is run from elsewhere finds its data where they were shipped:
    `data/tiny/sft.jsonl` becomes a whole path. Every other recipe's paths are relative to the folder that align runs in.
    """
    if Path.cwd() == root() or recipe.resolve().parent != (root() / "recipes").resolve():
        return value
    return _rooted(value)


def _rooted(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rooted(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_rooted(one) for one in value]
    return str(root() / value) if isinstance(value, str) and value.startswith("data/tiny/") else value
