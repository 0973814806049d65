"""Modules and layers that an adapter names and its model has not, as far as the model's config.json tells."""

from collections.abc import Mapping
from typing import Any

from pipeline.model.adapters.absent import no_module, refuse_absent_layers
from pipeline.plan.memory.shape import Shape, UnknownShape, shape_of

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
    refuse_absent_layers(f"{where}: adapter", fields, shape.layers)


def _check_module(where: str, name: str, shape: Shape) -> None:
    there = sorted({*_OTHERS, *shape.norms, *(one.name for one in shape.linears)})
    last = name.rpartition(".")[2]
    if last not in there and not last.isdigit():
        raise no_module(where, name, there)
