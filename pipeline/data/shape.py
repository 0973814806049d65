"""Rows of the shapes that people have, made into the one shape that each kind of stage trains on."""

from collections.abc import Mapping
from dataclasses import dataclass

ROLES = ("system", "user", "assistant", "tool")


class BadRow(ValueError):
    """A row that cannot be trained on; its text is the reason."""


@dataclass(frozen=True, slots=True)
class Text:
    text: str

    @property
    def prompt(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Conversation:
    """`messages` are {"role", "content"} and end with the assistant's."""

    messages: list[dict]

    @property
    def prompt(self) -> str:
        """What is asked up to the first answer: two rows that ask the same belong on the same side of a split."""
        first = next(i for i, message in enumerate(self.messages) if message["role"] == "assistant")
        return "\n".join(message["content"] for message in self.messages[:first])


@dataclass(frozen=True, slots=True)
class Preference:
    messages: list[dict]  # the prompt, ending with the user's turn
    chosen: str
    rejected: str

    @property
    def prompt(self) -> str:
        return "\n".join(message["content"] for message in self.messages)


@dataclass(frozen=True, slots=True)
class Prompt:
    messages: list[dict]  # ending with the user's turn
    columns: dict  # the row's other fields, which reach a reward function

    @property
    def prompt(self) -> str:
        return "\n".join(message["content"] for message in self.messages)


Example = Text | Conversation | Preference | Prompt


def shape(value: object, kind: str, *, columns: Mapping[str, str] = {}, named: str | None = None) -> Example:
    """One row as an example of `kind` ("text", "conversation", "preference" or "prompt").

    Raises BadRow with the reason, in words that name the field.
    """
    if not isinstance(value, dict):
        raise BadRow(f"the row is {_name(value)}, not an object with named fields")
    shapes = {"text": _text, "conversation": _conversation, "preference": _preference, "prompt": _only_prompt}
    return shapes[kind](value)


def _text(row: dict) -> Text:
    return Text(_string(row, "text"))


def _conversation(row: dict) -> Conversation:
    if "messages" in row:
        messages = _messages(row, "messages")
    elif "instruction" in row or "output" in row:
        asked = "\n\n".join(s for s in (_string(row, "instruction"), _string(row, "input", optional=True)) if s)
        messages = [_user(asked), _assistant(_string(row, "output"))]
        if system := _string(row, "system", optional=True):
            messages.insert(0, {"role": "system", "content": system})
    elif "prompt" in row or "completion" in row:
        messages = [*_prompt(row), _assistant(_answer(row, "completion"))]
    else:
        raise BadRow(
            f'has none of "messages", "instruction"/"output", "prompt"/"completion"; its fields are {_fields(row)}'
        )
    if messages[-1]["role"] != "assistant":
        raise BadRow("the conversation does not end with an assistant's turn: there is nothing to learn")
    if messages[0]["role"] == "assistant":
        raise BadRow("the conversation starts with the assistant: there is no prompt")
    return Conversation(messages)


def _preference(row: dict) -> Preference:
    prompt, chosen, rejected = _prompt(row), _answer(row, "chosen"), _answer(row, "rejected")
    if chosen == rejected:
        raise BadRow('"chosen" and "rejected" are the same')
    return Preference(prompt, chosen, rejected)


def _only_prompt(row: dict) -> Prompt:
    """A row without an answer, or whose answer is left aside."""
    if "prompt" in row or not any(field in row for field in ("messages", "instruction")):
        return Prompt(_prompt(row), {key: value for key, value in row.items() if key != "prompt"})
    messages = _conversation({"output": "-"} | row).messages if "instruction" in row else _messages(row, "messages")
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if not messages:
        raise BadRow("there is no prompt before the answer")
    return Prompt(
        messages, {key: value for key, value in row.items() if key not in ("messages", "instruction", "input")}
    )


def _prompt(row: dict) -> list[dict]:
    if isinstance(row.get("prompt"), list):
        messages = _messages(row, "prompt")
        if messages[-1]["role"] == "assistant":
            raise BadRow('"prompt" ends with an assistant\'s turn')
        return messages
    return [_user(_string(row, "prompt"))]


def _answer(row: dict, field: str) -> str:
    """An answer given as a string or as a list with the one message of the assistant."""
    if isinstance(row.get(field), list):
        messages = _messages(row, field)
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            raise BadRow(f'"{field}" must be one message of the assistant, after the messages in "prompt"')
        return messages[0]["content"]
    return _string(row, field)


def _messages(row: dict, field: str) -> list[dict]:
    messages = row[field]
    if not isinstance(messages, list) or not messages:
        raise BadRow(f'"{field}" is {_name(messages)}, not a list of messages')
    turns = []
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict):
            raise BadRow(f'turn {number} of "{field}" is {_name(message)}, not an object')
        role = message.get("role")
        if role not in ROLES:
            raise BadRow(f'turn {number} of "{field}" has the role {role!r}; the roles are {", ".join(ROLES)}')
        turns.append({"role": role, "content": _string(message, "content", f'turn {number} of "{field}": ')})
    return turns


def _string(row: dict, field: str, where: str = "", *, optional: bool = False) -> str:
    value = row.get(field)
    if value is None and optional:
        return ""
    if field not in row:
        raise BadRow(f'{where}has no "{field}"; its fields are {_fields(row)}')
    if not isinstance(value, str):
        raise BadRow(f'{where}"{field}" is {_name(value)}, not text')
    if not value.strip() and not optional:
        raise BadRow(f'{where}"{field}" is empty')
    return value


def _user(content: str) -> dict:
    return {"role": "user", "content": content}


def _assistant(content: str) -> dict:
    return {"role": "assistant", "content": content}


def _fields(row: dict) -> str:
    return ", ".join(map(repr, list(row)[:8])) or "none"


def _name(value: object) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "true/false",
        int: "a number",
        float: "a number",
    }
    return "null" if value is None else "an empty list" if value == [] else names.get(type(value), "unreadable")
