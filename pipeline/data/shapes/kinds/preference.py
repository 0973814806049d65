"""Two answers to one prompt: given beside it, or as two transcripts that part at their last turn."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from pipeline.data.shapes.fields import BadRow, first_present, text
from pipeline.data.shapes.kinds.kind import Kind
from pipeline.data.shapes.labels import label_fields_of_row
from pipeline.data.shapes.shape import SHAPES, TALKS, Shape
from pipeline.data.shapes.turns import (
    check_answered,
    check_asks,
    message,
    tools_of,
    turn,
    turns_of,
    unweighted,
    with_system,
)

_GRADE = re.compile("score|rating|reward|grade", re.IGNORECASE)
_SIDES = {side for name in (*TALKS, "transcripts") for pair in SHAPES[name].pairs for side in pair}
_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")


@dataclass(frozen=True, slots=True)
class Preference(Kind):
    messages: list[dict]  # the prompt, ending with the user's turn or a tool's
    chosen: str
    rejected: str
    tools: list[dict] | None = None
    chosen_reasoning: str = ""
    rejected_reasoning: str = ""

    NAME = "preference"
    WORDS = "preference rows"
    ROW = "{prompt: ..., chosen: ..., rejected: ...}"
    COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")
    WRITTEN_AS = (*TALKS, "transcripts")

    @classmethod
    def groups(cls, shape: Shape) -> list[tuple[tuple[str, ...], ...]]:
        prompt = (shape.prompt,) if shape.prompt else ()
        return [(*prompt, (chosen,), (rejected,)) for chosen, rejected in shape.pairs]

    @classmethod
    def read(cls, row: dict, shape: Shape, label_fields: Collection[str]) -> "Preference":
        if not row.keys() & _SIDES and (labeled := label_fields_of_row(row, label_fields)):
            said = f'is one answer, labeled by "{labeled[0]}", and no pair: it has no "rejected"'
            raise BadRow(f"{said}; kto learns from such answers")
        if shape.prompt:
            field = first_present(row, *shape.prompt)
            prompt = with_system(row, shape.turns(row, field))
            return cls._of(*_beside_prompt(prompt, row, field), tools_of(row))
        chosen, rejected = next((pair for pair in shape.pairs if any(side in row for side in pair)), shape.pairs[-1])
        prompt, better, worse = _transcripts(row, chosen, rejected)
        return cls._of(with_system(row, prompt), better, worse, tools_of(row))

    @classmethod
    def _of(cls, prompt: list[dict], chosen: dict, rejected: dict, tools: list[dict] | None) -> "Preference":
        thoughts = (one.get("reasoning", "") for one in (chosen, rejected))
        return cls(prompt, chosen["content"], rejected["content"], tools, *thoughts)

    @classmethod
    def doubt(cls, row: Mapping) -> str:
        """What its scores say against it, as in {"score_chosen": 1, "score_rejected": 4}."""
        for field, score in row.items():
            other = str(field).replace("chosen", "rejected")
            scored = other != field and _GRADE.search(other) and _is_number(score) and _is_number(row.get(other))
            if scored and score < row[other]:
                return f'"{field}" is {score}, and "{other}" is {row[other]}'
        return ""

    @property
    def answers(self) -> list[dict]:
        """The chosen and the rejected one."""
        told = ((self.chosen, self.chosen_reasoning), (self.rejected, self.rejected_reasoning))
        return [
            {"role": "assistant", "content": words} | ({"reasoning": thought} if thought else {})
            for words, thought in told
        ]

    @property
    def reference(self) -> str:
        return self.chosen

    @property
    def opposite(self) -> "Preference":
        """The pair the other way."""
        return replace(
            self,
            chosen=self.rejected,
            rejected=self.chosen,
            chosen_reasoning=self.rejected_reasoning,
            rejected_reasoning=self.chosen_reasoning,
        )


def _beside_prompt(prompt: list[dict], row: dict, field: str) -> tuple[list[dict], dict, dict]:
    """(prompt, chosen, rejected) of a row that has its prompt, in `field`, apart from the answers: all as messages."""
    check_asks(prompt, field)
    prompt, _ = unweighted(prompt)
    return (prompt, *_different(*(_answer(row, side, prompt) for side in ("chosen", "rejected"))))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _transcripts(row: dict, chosen: str, rejected: str) -> tuple[list[dict], dict, dict]:
    """(prompt, chosen, rejected) of two fields that each tell the whole conversation."""
    one, other = _transcript(row, chosen), _transcript(row, rejected)
    if one == other:
        raise BadRow(f'"{chosen}" and "{rejected}" are the same')
    parted = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    if not parted == len(one) - 1 == len(other) - 1:
        raise BadRow(
            f'"{chosen}" ({len(one)} turns) and "{rejected}" ({len(other)}) part at turn {parted + 1}; '
            "they may differ only in the last, the assistant's"
        )
    return (one[:-1], *_different(_words(one[-1], chosen), _words(other[-1], rejected)))


def _transcript(row: dict, field: str) -> list[dict]:
    turns = _told(text(row, field), field) if isinstance(row.get(field), str) else turns_of(row, field)
    try:
        check_answered(turns)
    except BadRow as bad:
        raise BadRow(f'"{field}": {bad}') from None
    return unweighted(turns)[0]


def _told(told: str, field: str) -> list[dict]:
    """The turns of "\\n\\nHuman: ...\\n\\nAssistant: ..."."""
    before, *parts = _SPEAKER.split(told)
    if not parts or before.strip():
        raise BadRow(
            f'"{field}" is neither a list of turns nor text that begins with "Human:"; '
            'give the prompt as "prompt", or name its field in data.columns'
        )
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [turn(roles[speaker], said.strip()) for speaker, said in zip(parts[::2], parts[1::2], strict=True)]
    for number, one in enumerate(turns, start=1):
        if not one["content"]:
            raise BadRow(f'turn {number} of "{field}" is empty')
    return turns


def _answer(row: dict, field: str, prompt: list[dict]) -> dict:
    """An answer, written as text, as a message, or as a list of messages that may repeat the prompt."""
    value = row.get(field)
    if isinstance(value, dict):
        return _words(message(value, f'"{field}"'), field)
    if not isinstance(value, list):
        return turn("assistant", text(row, field))
    turns, _ = unweighted(turns_of(row, field))
    if len(turns) > 1 and turns[:-1] not in (prompt, prompt[1:] if prompt[0]["role"] == "system" else prompt):
        raise BadRow(f'"{field}" has {len(turns)} turns: it must be one answer, or the prompt\'s turns and one answer')
    return _words(turns[-1], field)


def _words(answer: dict, field: str) -> dict:
    if answer["role"] != "assistant":
        raise BadRow(f'"{field}" is a turn with the role {answer["role"]!r}; it must be one message of the assistant')
    if answer.get("tool_calls"):
        raise BadRow(f'"{field}" is a tool call; only answers in words can be compared')
    return answer


def _different(chosen: dict, rejected: dict) -> tuple[dict, dict]:
    if all(chosen.get(key) == rejected.get(key) for key in ("content", "reasoning")):
        raise BadRow('"chosen" and "rejected" are the same')
    return chosen, rejected
