"""An adapter that goes on from stage to stage: which one it is, and what a stage may change in it."""

import json
from collections.abc import Mapping
from typing import Any

from pipeline.model.adapters import DEFAULT, METHODS
from pipeline.recipe.chain import stages_below, start_of


def merged_adapter(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's adapter with a stage's own keys on top; what belongs to another method than the stage's is left out.

    A stage that names fields of an adapter and no method means the recipe's, or LoRA where that is full tuning.
    """
    shared_method = common.get("method", DEFAULT)
    method = own.get("method") or (
        DEFAULT if is_full(shared_method) and own.keys() - METHODS[shared_method].numbers.keys() else shared_method
    )
    shared = common if shared_method == method else {}
    return {**shared, **own, "method": method}


def is_full(method: object) -> bool:
    """Whether it trains every weight. Takes what was written, which may be no method at all."""
    return method in METHODS and METHODS[method].whole


def changeable(method: object) -> tuple[str, ...]:
    """What a stage may set on an adapter that goes on; all else is in its tensors."""
    return METHODS[method].changeable if method in METHODS else ()


def changes_of(own: Mapping[str, Any], method: object) -> dict[str, Any]:
    """What a stage sets on an adapter of this method that goes on."""
    return {key: own[key] for key in changeable(method) if key in own}


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
            adapter |= changes_of(own[above], adapter["method"])
            continue
        first = start_of(above, policies) is None
        if first and policies[above] is not None:
            return None, {}
        merged = merged_adapter(common, own[above])
        if not is_full(merged["method"]) and not (first and from_scratch):
            maker, adapter = above, left_by(merged)
    return maker, adapter


def left_by(adapter: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage with this adapter leaves to those after it. Takes what was written, which may be no method at all."""
    method = METHODS.get(adapter["method"])
    return method.of(adapter).left(adapter) if method else dict(adapter)


def learning_of(own: Mapping[str, Any], method: object) -> dict[str, Any]:
    """What a stage says of how an adapter of this method is trained."""
    return {key: own[key] for key in METHODS[method].learning if key in own} if method in METHODS else {}


def unchangeable(key: str, value: object, adapter: str, method: str) -> str:
    """The complaint about a key of a stage that an adapter from before it cannot follow."""
    only = *changeable(method), *METHODS[method].learning
    rest = f"only {', '.join(only)} can be changed on the way" if only else "nothing of it can be changed on the way"
    return f"cannot take effect: {adapter} goes on here, whose {key} is {json.dumps(value, ensure_ascii=False)}; {rest}. Leave it out"
