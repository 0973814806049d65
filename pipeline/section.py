"""What all sections of a recipe are made of."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of a recipe: exact types, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def empty_for_null(value: object) -> object:
    """`train:` with every line below it commented out is an empty mapping."""
    return {} if value is None else value
