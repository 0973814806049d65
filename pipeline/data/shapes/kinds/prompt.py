"""A question without an answer, or whose answer is left aside: the model gives its own."""

from collections.abc import Collection
from dataclasses import dataclass

from pipeline.data.shapes.fields import BadRow, first_present
from pipeline.data.shapes.kinds.kind import Kind
from pipeline.data.shapes.shape import BESIDE, TALKS, Shape
from pipeline.data.shapes.turns import check_asks, tools_of, unweighted, with_system


@dataclass(frozen=True, slots=True)
class Prompt(Kind):
    messages: list[dict]  # ending with the user's turn or a tool's
    columns: dict  # the row's other fields, which reach a reward function
    tools: list[dict] | None = None

    NAME = "prompt"
    WORDS = "prompts without answers"
    ROW = "{prompt: ...}"
    COLUMNS = ("prompt_ids",)
    WRITTEN_AS = (*TALKS, "turns")

    @classmethod
    def used(cls, shape: Shape) -> None:
        return None  # a reward function may read the others

    @classmethod
    def read(cls, row: dict, shape: Shape, label_fields: Collection[str]) -> "Prompt":
        field = first_present(row, *shape.prompt)
        turns = shape.turns(row, field)
        if not shape.answer and turns[-1]["role"] == "assistant":
            turns = turns[:-1]
        if not turns:
            raise BadRow("there is no prompt before the answer")
        check_asks(turns, field)
        messages, _ = unweighted(with_system(row, turns))
        used = {field, *shape.beside, *BESIDE}
        return cls(messages, {name: value for name, value in row.items() if name not in used}, tools_of(row))
