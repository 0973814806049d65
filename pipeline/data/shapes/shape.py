"""The shapes in which people write rows, and how the turns in each are read."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pipeline.data.shapes.fields import BadRow, optional_text, text, type_of
from pipeline.data.shapes.turns import message, turn, turns_of


def _one_or_more(row: dict, field: str, role: str) -> list[dict]:
    """Turns written as a text, as one message or as a list of messages."""
    value = row.get(field)
    if isinstance(value, dict):
        return [message(value, f'"{field}"')]
    return turns_of(row, field) if isinstance(value, list) else [turn(role, text(row, field))]


def _prompt(row: dict, field: str) -> list[dict]:
    return _one_or_more(row, field, "user")


def _completion(row: dict, field: str) -> list[dict]:
    return _one_or_more(row, field, "assistant")


def _question(row: dict, field: str) -> list[dict]:
    return [turn("user", text(row, field))]


def _words(row: dict, field: str) -> list[dict]:
    return [turn("assistant", text(row, field))]


def _instruction(row: dict, field: str) -> list[dict]:
    prompt = "\n\n".join(part for part in (text(row, field), optional_text(row, "input")) if part)
    return [*_history(row.get("history") or []), turn("user", prompt)]


def _history(pairs: object) -> Iterable[dict]:
    if not isinstance(pairs, list):
        raise BadRow(f'"history" is {type_of(pairs)}, not a list of [question, answer] pairs')
    for number, pair in enumerate(pairs, start=1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow(f'pair {number} of "history" is {type_of(pair)}, not [question, answer]')
        both = {"question": pair[0], "answer": pair[1]}
        for role, part in (("user", "question"), ("assistant", "answer")):
            yield turn(role, text(both, part, f'pair {number} of "history": '))


def _first_turn(row: dict, field: str) -> list[dict]:
    turns = row.get(field)
    if not isinstance(turns, list) or not turns:
        raise BadRow(f'"{field}" is {type_of(turns)}, not a list of questions')
    return [turn("user", text({"turn 1": turns[0]}, "turn 1", f'"{field}": '))]


def _sentiment(row: dict, field: str) -> list[dict]:
    label = text(row, field).strip().lower()
    if label not in ("positive", "negative"):
        raise BadRow(f'"{field}" is {row[field]!r}; it must be positive or negative')
    return [turn("assistant", label)]


@dataclass(frozen=True)
class Shape:
    """One way of writing rows. Of alternative names of a field the first that a row has is taken."""

    prompt: tuple[str, ...] = ()  # the field with it; without an `answer` the one with all turns, or with a text
    answer: tuple[str, ...] = ()
    turns: Callable[[dict, str], list[dict]] = turns_of
    answer_turns: Callable[[dict, str], list[dict]] = _words
    beside: tuple[str, ...] = ()  # further fields that `turns` reads
    pairs: tuple[tuple[str, str], ...] = field(default=(("chosen", "rejected"),))
    only_named: bool = False  # it is not recognized: data.shape has to ask for it


_TRANSCRIPTS = (("chosen_messages", "rejected_messages"), ("chosen", "rejected"))
PAIRS = "pairs"  # each answer of a pair by itself, labeled as wanted or unwanted
SHAPES = {
    "prompt": Shape(("prompt",), ("completion", "response"), _prompt, _completion),
    "messages": Shape(("messages",)),
    "sharegpt": Shape(("conversations", "conversation")),
    "alpaca": Shape(("instruction",), ("output",), _instruction, beside=("input", "history")),
    "question": Shape(("question",), ("answer",), _question),
    "review": Shape(("review",), ("sentiment",), _question, _sentiment),
    "turns": Shape(("turns",), turns=_first_turn),
    "transcripts": Shape(pairs=_TRANSCRIPTS),
    PAIRS: Shape(pairs=_TRANSCRIPTS, only_named=True),
    "text": Shape(("text", "content", "document")),
}
TALKS = ("prompt", "messages", "sharegpt", "alpaca", "question")  # that may hold a question, answered or not
BESIDE = {"system", "tools"}  # what any row but a text may have
