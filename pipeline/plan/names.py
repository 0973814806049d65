"""Modules and layers that an adapter names and its model has not, as far as the model's config.json tells."""

from collections.abc import Mapping
from typing import Any

from pipeline.errors import PipelineError
from pipeline.plan.memory.shape import Shape, UnknownShape, shape_of
from pipeline.wording import did_you_mean

# Beside linear layers and norms.
_OTHERS = frozenset("model layers self_attn mlp act_fn rotary_emb embed_tokens norm lm_head score".split())


def refuse_absent(where: str, fields: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raises PipelineError for what the model has not, where its architecture is one whose modules are known here."""
    try:
        shape = shape_of(config, vocabulary=1)
    except UnknownShape:
        return  # the loaded model will tell
    for key in ("target_modules", "exclude_modules"):
        names = fields.get(key)
        for name in names if isinstance(names, list) else ():
            _check_module(f"{where}: adapter.{key}", name, shape)
    numbers = fields.get("layers_to_transform")
    for number in [numbers] if isinstance(numbers, int) else numbers or ():
        if not 0 <= number < shape.layers:
            raise PipelineError(
                f"{where}: adapter.layers_to_transform: the model has no layer {number}.",
                f"They are numbered 0 to {shape.layers - 1}.",
            )
    if fields.get("layers", 0) > shape.layers:
        raise PipelineError(
            f"{where}: adapter.layers: the model has no {fields['layers']} layers.",
            f"It has {shape.layers}; method full trains all.",
        )


def _check_module(where: str, name: str, shape: Shape) -> None:
    there = sorted({*_OTHERS, *shape.norms, *(one.name for one in shape.linears)})
    last = name.rpartition(".")[2]
    if last not in there and not last.isdigit():
        raise PipelineError(
            f"{where}: {name} is no module of the model{did_you_mean(last, there)}.",
            "Its linear layers are all meant by target_modules: all-linear.",
        )
