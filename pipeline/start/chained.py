"""Files that were one stage each, as one chain: a stage begins from the one before it, on one base."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path

from pipeline import stage
from pipeline.errors import PipelineError
from pipeline.start.translation import BY_DEFAULT, Place, Translation


def chained(translations: Sequence[Translation]) -> tuple[dict, dict[Place, str]]:
    """The recipe's keys, and where each came from. What a later file says otherwise of the base or the adapter is told in it.

    Raises PipelineError where two files are the same stage.
    """
    first, *others = translations
    tree, origins = deepcopy(first.tree), _origins(first, len(translations) > 1)
    for other in others:
        if other.stage in tree["stages"]:
            raise PipelineError(
                f"{other.source.file}: stages.{other.stage} is that of another file, too.", "Translate each by itself."
            )
        for place, value, kept in _differences(tree, other.tree):
            other.to_do.append(
                f"{'.'.join(place)} is {value} here and {kept} in {Path(first.source.file).name}: a chain has one base and "
                "one shape of adapter, and the first file's is kept."
            )
        tree["stages"][other.stage] = deepcopy(other.tree["stages"][other.stage])
        origins |= {place: origin for place, origin in _origins(other, True).items() if place[0] == "stages"}
    for one in translations:
        _begin_from_parent(one, tree, origins)
    return tree, origins


def _origins(translation: Translation, named: bool) -> dict[Place, str]:
    behind = f" of {Path(translation.source.file).name}" if named else ""
    return {
        place: origin if origin == BY_DEFAULT else f"{origin}{behind}" for place, origin in translation.origins.items()
    }


def _differences(tree: Mapping, other: Mapping) -> Iterator[tuple[Place, object, object]]:
    """(key, its value in the other, its value in the tree) of what is said of all stages."""
    for section in ("model", "adapter", "use_unsloth", "seed"):
        mine, theirs = tree.get(section), other.get(section)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            for key in dict.fromkeys([*theirs, *mine]):
                if mine.get(key) != theirs.get(key):
                    yield (section, key), theirs.get(key, "left out"), mine.get(key, "left out")
        elif mine != theirs:
            yield (section,), "left out" if theirs is None else theirs, "left out" if mine is None else mine


def _begin_from_parent(one: Translation, tree: dict, origins: dict[Place, str]) -> None:
    parent = next((name for name in reversed(stage.specs()[one.stage].after) if name in tree["stages"]), None)
    if parent is None:
        return
    policy = f"stages.{one.stage}.policy"
    one.to_do = [said for said in one.to_do if policy not in said]
    tree["stages"][one.stage].pop("policy", None)
    origins.pop(("stages", one.stage, "policy"), None)
    one.means.append(f"{one.stage} begins from {parent}, the stage before it, and needs no folder of an adapter.")
