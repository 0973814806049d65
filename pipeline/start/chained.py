"""Files that were one stage each, as one chain: a stage begins from the one before it, on one base."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path

from pipeline import stage
from pipeline.errors import PipelineError
from pipeline.start.translation import BY_DEFAULT, Place, Translation


def chained(translations: Sequence[Translation]) -> tuple[dict, dict[Place, str]]:
    """The recipe's keys, and where each came from. What a later file says otherwise of the base or the adapter is told in it.

    Raises PipelineError where two files are the same stage, or nothing rewards a stage that needs it.
    """
    first, *others = translations
    tree, origins = deepcopy(first.tree), _origins(first, len(translations) > 1)
    for other in others:
        if other.stage in tree["stages"]:
            raise PipelineError(
                f"{other.source.file}: stages.{other.stage} is that of another file, too.", "Translate each by itself."
            )
        written = [one.value("output_dir") for one in translations if one is not other]
        for place, value, kept in _differences(tree, other.tree):
            if place == ("model", "id") and value in written:
                continue  # what another of the files writes: the chain hands it on
            other.to_do.append(
                f"{'.'.join(place)} is {value} here and {kept} in {Path(first.source.file).name}: a chain has one base and "
                "one shape of adapter, and the first file's is kept."
            )
        _launched(other, tree, origins)
        tree["stages"][other.stage] = deepcopy(other.tree["stages"][other.stage])
        origins |= {place: origin for place, origin in _origins(other, True).items() if place[0] == "stages"}
    for one in translations:
        _begin_from_parent(one, tree, origins)
        _be_rewarded(one, tree)
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


def _launched(other: Translation, tree: dict, origins: dict[Place, str]) -> None:
    """How many processes train is said once."""
    if "launch" not in other.tree:
        return
    mine, theirs = tree.setdefault("launch", dict(other.tree["launch"])), other.tree["launch"]
    if mine != theirs:
        other.to_do.append(
            f"launch.processes is {theirs['processes']} here and {mine['processes']} in a file before it, whose is kept; "
            "--processes says otherwise for one run."
        )
    else:
        named = _origins(other, True)
        origins |= {place: named[place] for place in named if place[0] == "launch" and place not in origins}


def _be_rewarded(one: Translation, tree: dict) -> None:
    """By a stage of the chain, or by what the file says."""
    section, by = tree["stages"][one.stage], f"stages.{one.stage}.reward"
    rewarding = next((name for name in stage.specs()[one.stage].rewarded_by if name in tree["stages"]), None)
    if not stage.specs()[one.stage].rewarded_by or "reward" in section:
        return
    if rewarding is not None and (said := [told for told in one.to_do if by in told]):
        one.to_do = [told for told in one.to_do if told not in said]
        one.means.append(
            f"{one.stage} is rewarded by {rewarding}, a stage of this chain, and needs no folder of a model."
        )
        if "reward_functions" in section:
            section["reward"] = rewarding
    elif rewarding is None and "reward_functions" not in section:
        raise PipelineError(
            f"{one.source.file}: {one.stage} needs a reward, and none of it could be translated.",
            "Translate the command that trained its reward model, too (--from reward.sh --from this one), or name functions: "
            "reward_funcs.",
        )


def _begin_from_parent(one: Translation, tree: dict, origins: dict[Place, str]) -> None:
    parent = next((name for name in reversed(stage.specs()[one.stage].after) if name in tree["stages"]), None)
    if parent is None:
        return
    policy = f"stages.{one.stage}.policy"
    one.to_do = [said for said in one.to_do if policy not in said]
    tree["stages"][one.stage].pop("policy", None)
    origins.pop(("stages", one.stage, "policy"), None)
    one.means.append(f"{one.stage} begins from {parent}, the stage before it, and needs no folder of an adapter.")
