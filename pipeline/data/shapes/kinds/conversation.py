"""A conversation whose answers are learned."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pipeline.data.shapes.fields import BadRow, first_present
from pipeline.data.shapes.kinds.kind import Kind
from pipeline.data.shapes.labels import check_wanted
from pipeline.data.shapes.shape import BESIDE, TALKS, Shape
from pipeline.data.shapes.turns import REASONING, check_answered, tools_of, unweighted, with_reasoning, with_system


@dataclass(frozen=True, slots=True)
class Conversation(Kind):
    """`messages` are {"role", "content"}, and end with the assistant's, which may have "reasoning" and "tool_calls"."""

    messages: list[dict]
    tools: list[dict] | None = None
    skipped: frozenset[int] = frozenset()  # the messages, counted from 0, that are answers and yet not learned

    NAME = "conversation"
    WORDS = "prompts with their answers"
    ROW = "{prompt: ..., completion: ...}"
    COLUMNS = ("input_ids", "labels")
    WRITTEN_AS = (*TALKS, "review")
    HEEDS_LABELS = True

    @classmethod
    def groups(cls, shape: Shape) -> list[tuple[tuple[str, ...], ...]]:
        return [(shape.prompt, shape.answer) if shape.answer else (shape.prompt,)]

    @classmethod
    def used(cls, shape: Shape) -> set[str]:
        return {*cls.fields(shape), *BESIDE, *REASONING}

    @classmethod
    def read(cls, row: dict, shape: Shape, label_fields: Collection[str]) -> "Conversation":
        example = cls.told(row, shape)
        check_wanted(row, label_fields)
        return example

    @classmethod
    def rather(cls, row: dict) -> str:
        pair = {"chosen", "rejected"} <= row.keys()
        return 'with "chosen" and "rejected" it is a pair, for reward or dpo' if pair else ""

    @classmethod
    def told(cls, row: dict, shape: Shape) -> "Conversation":
        """What a row says, whatever its label."""
        turns = shape.turns(row, first_present(row, *shape.prompt))
        if shape.answer:
            turns = turns + shape.answer_turns(row, first_present(row, *shape.answer))
        check_answered(turns)
        turns = with_reasoning(row, turns)
        messages, skipped = unweighted(with_system(row, turns))
        if all(number in skipped for number, one in enumerate(messages) if one["role"] == "assistant"):
            raise BadRow('every answer has "loss_weight" 0: there is nothing to learn')
        return cls(messages, tools_of(row), skipped)

    @classmethod
    def from_json(cls, fields: dict) -> "Conversation":
        return cls(**fields | {"skipped": frozenset(fields["skipped"])})

    @property
    def prompt(self) -> str:
        first = next(i for i, message in enumerate(self.messages) if message["role"] == "assistant")
        return "\n".join(message["content"] for message in self.messages[:first])

    @property
    def question(self) -> list[dict]:
        return self.messages[:-1]

    @property
    def reference(self) -> str:
        return self.messages[-1]["content"]

    def to_json(self) -> dict[str, Any]:
        return {"messages": self.messages, "tools": self.tools, "skipped": sorted(self.skipped)}
