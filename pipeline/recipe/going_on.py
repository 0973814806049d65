"""An adapter that goes on from stage to stage: which one it is, and what a stage may change in it."""

import json
from collections.abc import Mapping
from typing import Any

from pipeline.recipe.chain import stages_below, start_of

LORA_DEFAULTS = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}


CHANGEABLE = ("lora_dropout",)  # what a stage may set on an adapter that goes on; all else is in its tensors


def merged_adapter(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's adapter with a stage's own keys on top; what belongs to another method than the stage's is left out.

    A stage that names LoRA fields and no method means LoRA.
    """
    method = own.get("method") or ("lora" if own else common.get("method", "lora"))
    shared = common if common.get("method", "lora") == method else {}
    return {**shared, **own, "method": method}


def changes_of(own: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage sets on an adapter that goes on."""
    return {key: own[key] for key in CHANGEABLE if key in own}


def incoming_adapter_of(
    name: str,
    policies: Mapping[str, str | None],
    common: Mapping[str, Any],
    own: Mapping[str, Mapping[str, Any]],
    from_scratch: bool,
) -> tuple[str | None, dict[str, Any]]:
    """(the stage that makes the adapter which goes on in `name`, that adapter); (None, {}) where there is none, or
    where it comes from a folder. `common` and `own` are the recipe's adapter and that of each stage, as written.
    """
    maker, adapter = None, {}
    for above in reversed(stages_below(name, policies)):
        if maker:
            adapter |= changes_of(own[above])
            continue
        first = start_of(above, policies) is None
        if first and policies[above] is not None:
            return None, {}
        merged = merged_adapter(common, own[above])
        if merged["method"] != "full" and not (first and from_scratch):
            maker, adapter = above, merged
    return maker, adapter


def unchangeable(key: str, value: object, adapter: str) -> str:
    """The complaint about a key of a stage that an adapter from before it cannot follow."""
    return (
        f"cannot take effect: {adapter} goes on here, whose {key} is {json.dumps(value)}; only "
        f"{', '.join(CHANGEABLE)} can be changed on the way. Leave it out"
    )
