"""A text, learned as it is."""

from collections.abc import Collection
from dataclasses import dataclass

from pipeline.data.shapes.fields import first_present, text
from pipeline.data.shapes.kinds.kind import Kind
from pipeline.data.shapes.shape import Shape


@dataclass(frozen=True, slots=True)
class Text(Kind):
    text: str

    NAME = "text"
    WORDS = "texts"
    ROW = "{text: ...}"
    COLUMNS = ("input_ids",)
    ASKS = False
    WRITTEN_AS = ("text",)

    @classmethod
    def read(cls, row: dict, shape: Shape, label_fields: Collection[str]) -> "Text":
        return cls(text(row, first_present(row, *shape.prompt)))

    @classmethod
    def used(cls, shape: Shape) -> None:
        return None  # the others are notes

    @property
    def prompt(self) -> str:
        return self.text
