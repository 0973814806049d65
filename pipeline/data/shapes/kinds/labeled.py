"""One answer, and whether it is wanted: what KTO learns from (https://arxiv.org/abs/2402.01306)."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pipeline.data.shapes.fields import BadRow, renamed
from pipeline.data.shapes.kinds.conversation import Conversation
from pipeline.data.shapes.kinds.kind import Kind
from pipeline.data.shapes.kinds.preference import Preference
from pipeline.data.shapes.labels import wanted
from pipeline.data.shapes.shape import BESIDE, PAIRS, SHAPES, TALKS, Shape
from pipeline.data.shapes.turns import REASONING

SIDE = "pairs: side"  # of a pair that is taken apart, which of its answers a row is


@dataclass(frozen=True, slots=True)
class Labeled(Kind):
    messages: list[dict]  # the prompt, ending with the user's turn or a tool's
    answer: dict  # the assistant's message
    label: bool  # whether it is wanted
    tools: list[dict] | None = None

    NAME = "labeled"
    WORDS = "answers labeled as wanted or unwanted"
    ROW = "{prompt: ..., completion: ..., label: true}"
    COLUMNS = ("prompt_ids", "completion_ids")
    NUMBERS = ("label",)
    WANTED = "label"
    WRITTEN_AS = (*TALKS, PAIRS)
    HEEDS_LABELS = True

    @classmethod
    def groups(cls, shape: Shape) -> list[tuple[tuple[str, ...], ...]]:
        if shape is SHAPES[PAIRS]:
            return Preference.groups(shape)
        return Conversation.groups(shape)

    @classmethod
    def used(cls, shape: Shape) -> set[str]:
        return {*cls.fields(shape), *BESIDE, *REASONING}

    @classmethod
    def read(cls, row: dict, shape: Shape, label_fields: Collection[str]) -> "Labeled":
        if shape is SHAPES[PAIRS]:
            pair, side = _pair(row), row.get(SIDE)
            return cls(pair.messages, pair.answers[side == "rejected"], side == "chosen", pair.tools)
        said = Conversation.told(row, shape)
        *messages, answer = said.messages
        if answer.get("tool_calls"):
            raise BadRow("its answer is a tool call; only answers in words can be labeled")
        if len(messages) in said.skipped:
            raise BadRow('its answer has "loss_weight" 0: there is nothing to learn')
        label = wanted(row, label_fields)
        if label is None:
            raise BadRow(
                "has no label that says whether its answer is wanted: name its field in data.columns, as in {label: "
                "...}"
            )
        return cls(messages, answer, label, said.tools)

    @classmethod
    def rather(cls, row: dict) -> str:
        pair = {"chosen", "rejected"} <= row.keys()
        return f"it is a pair: for reward or dpo, or two labeled answers with data.shape: {PAIRS}" if pair else ""

    @classmethod
    def apart(cls, value: object, shape: str | None, columns: Mapping[str, str]) -> list[object]:
        if shape != PAIRS or not isinstance(value, dict):
            return [value]
        try:
            _pair(renamed(value, columns))
        except (BadRow, AttributeError, TypeError):
            return [value]  # whoever reads it will say why
        return [value | {SIDE: side} for side in ("chosen", "rejected")]

    @property
    def answers(self) -> list[dict]:
        return [self.answer]

    @property
    def reference(self) -> str | None:
        """The answer, if it is one to be given."""
        return self.answer["content"] if self.label else None


def _pair(row: dict) -> Preference:
    asks = next((SHAPES[name] for name in TALKS if any(field in row for field in SHAPES[name].prompt)), None)
    return Preference.read(row, asks or SHAPES["transcripts"], ())
