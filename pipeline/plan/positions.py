"""How many tokens of text a stage may have, by what its recipe says and by the positions that the model has."""

from collections.abc import Mapping
from typing import Any

from pipeline.errors import PipelineError
from pipeline.recipe.fields import effective
from pipeline.stage import specs


def told_by(config: Mapping[str, Any]) -> int | None:
    """The positions by a config.json; None where it is not at hand, or tells them by another name."""
    text = config.get("text_config")  # of a model that reads more than text
    found = (text if isinstance(text, Mapping) else config).get("max_position_embeddings")
    return found if isinstance(found, int) else None


def max_length(stage: str, given: Mapping[str, Any], most: int | None, taken: int = 0) -> int | None:
    """The tokens of a row: train.max_length, or the config's default as far as the model has positions.

    Of a row that is only a prompt it is what the response leaves. `most` is the number of positions for text, None where
    that is not known, of which an adapter has `taken` some already. Raises PipelineError where the model has too few.
    """
    spec = specs()[stage]
    values = effective(spec.config, given)
    length = values.get("max_length")
    if length is not None and most is not None and length > most:
        if "max_length" in given:
            rest = f"; the adapter's {taken} virtual tokens take the rest" if taken else ""
            raise PipelineError(
                f"{stage}: train.max_length is {length}, but the model has {most} positions for text.",
                f"Set it to {most} or less{rest}.",
            )
        length = most
    if spec.response is None:
        return length
    if (response := values[spec.response]) is None:
        raise PipelineError(f"{stage}: train.{spec.response}: a response has to end.", "Give it a number of tokens.")
    length = most if length is None else length
    if length is not None and length <= response:
        more = ", or raise train.max_length" if "max_length" in values else ""
        raise PipelineError(
            f"{stage}: responses of {response} tokens leave no room for a prompt in {length}.",
            f"Lower train.{spec.response}{more}.",
        )
    return length and length - response
