"""What each kind of stage trains on, whatever the shape of its rows was."""

import json
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Text:
    text: str

    @property
    def prompt(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Conversation:
    """`messages` are {"role", "content"}, and end with the assistant's, which may have "reasoning" and "tool_calls"."""

    messages: list[dict]
    tools: list[dict] | None = None
    skipped: frozenset[int] = frozenset()  # the messages, counted from 0, that are answers and yet not learned

    @property
    def prompt(self) -> str:
        """What is asked up to the first answer: two rows that ask the same belong on the same side of a split."""
        first = next(i for i, message in enumerate(self.messages) if message["role"] == "assistant")
        return _told(self.messages[:first])


@dataclass(frozen=True, slots=True)
class Preference:
    messages: list[dict]  # the prompt, ending with the user's turn or a tool's
    chosen: str
    rejected: str
    tools: list[dict] | None = None
    chosen_reasoning: str = ""
    rejected_reasoning: str = ""

    @property
    def answers(self) -> list[dict]:
        """The chosen and the rejected one as messages."""
        told = ((self.chosen, self.chosen_reasoning), (self.rejected, self.rejected_reasoning))
        return [
            {"role": "assistant", "content": words} | ({"reasoning": thought} if thought else {})
            for words, thought in told
        ]

    @property
    def turned(self) -> "Preference":
        """The pair the other way."""
        return replace(
            self,
            chosen=self.rejected,
            rejected=self.chosen,
            chosen_reasoning=self.rejected_reasoning,
            rejected_reasoning=self.chosen_reasoning,
        )

    @property
    def prompt(self) -> str:
        return _told(self.messages)


@dataclass(frozen=True, slots=True)
class Prompt:
    messages: list[dict]  # ending with the user's turn or a tool's
    columns: dict  # the row's other fields, which reach a reward function
    tools: list[dict] | None = None

    @property
    def prompt(self) -> str:
        return _told(self.messages)


Example = Text | Conversation | Preference | Prompt
KINDS = {"text": Text, "conversation": Conversation, "preference": Preference, "prompt": Prompt}


_WRITER = json.JSONEncoder(ensure_ascii=False, default=str)  # what JSON has not, as dates in a table, becomes text


def to_bytes(example: Example) -> bytes:
    """As JSON; half of a surrogate pair is kept."""
    fields = {name: getattr(example, name) for name in example.__slots__}
    if "skipped" in fields:
        fields["skipped"] = sorted(fields["skipped"])
    return _WRITER.encode(fields).encode("utf-8", "surrogatepass")


def from_bytes(kind: str, written: bytes) -> Example:
    fields = json.loads(written.decode("utf-8", "surrogatepass"))
    if "skipped" in fields:
        fields["skipped"] = frozenset(fields["skipped"])
    return KINDS[kind](**fields)


def _told(messages: list[dict]) -> str:
    return "\n".join(message["content"] for message in messages)
