"""What all sections of a recipe are made of."""

import re
from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of a recipe: exact types, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def empty_for_null(value: object) -> object:
    """`train:` with every line below it commented out is an empty mapping."""
    return {} if value is None else value


def regular_expression(value: Any) -> Any:
    try:
        re.compile(value or "")
    except (re.error, TypeError) as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    return value
