"""What is said of modules and layers that an adapter names and its model has not, by the plan and by the loaded model alike."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.errors import PipelineError
from pipeline.wording import did_you_mean


def no_module(where: str, name: str, there: Iterable[str], what: str = "module") -> PipelineError:
    return PipelineError(
        f"{where}: {name} is no {what} of the model{did_you_mean(name, there)}.",
        "Its linear layers are all meant by target_modules: all-linear.",
    )


def refuse_absent_layers(where: str, fields: Mapping[str, Any], number: int) -> None:
    """Raises PipelineError where the settings of a method name layers of a model that has `number` of them, and others."""
    named = fields.get("layers_to_transform")
    for one in [named] if isinstance(named, int) else named or ():
        if not 0 <= one < number:
            raise PipelineError(
                f"{where}.layers_to_transform: the model has no layer {one}.", f"They are numbered 0 to {number - 1}."
            )
    if fields.get("layers", 0) > number:
        raise PipelineError(
            f"{where}.layers: the model has no {fields['layers']} layers.",
            f"It has {number}; method full trains all.",
        )
