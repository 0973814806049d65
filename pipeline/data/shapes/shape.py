"""Rows of the shapes that people have, made into the one shape that each kind of stage trains on.

A row is of the first shape, from the top, all of whose fields for its kind it has; `data.columns` puts the shapes
whose fields it names before the others, and `data.shape` takes one without looking. | stands for "or".

    shape        text                       conversation                  preference                     prompt
    prompt                                  prompt, completion | response prompt, chosen, rejected       prompt
    messages                                messages                      messages, chosen, rejected     messages
    sharegpt                                conversations | conversation  the same, chosen, rejected     the same
    alpaca                                  instruction, output           instruction, chosen, rejected  instruction
    question                                question, answer              question, chosen, rejected     question
    review                                  review, sentiment
    turns                                                                                                turns
    transcripts                                                           chosen_messages, rejected_messages
                                                                          | chosen, rejected
    text         text | content | document

Any but text may have `system` and `tools` beside these; alpaca also `input` and `history`. A conversation with a label,
as rows for KTO have, is learned if that says that it is wanted.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from pipeline.data.shapes import preference
from pipeline.data.shapes.conversation import (
    check_answered,
    check_asks,
    message,
    tools_of,
    turn,
    turns_of,
    unweighted,
    with_reasoning,
    with_system,
)
from pipeline.data.shapes.example import Conversation, Example, Preference, Prompt, Text
from pipeline.data.shapes.fields import BadRow, first_present, kind_of, names, optional_text, renamed, text
from pipeline.data.shapes.labels import check_wanted, label_fields


def _one_or_more(row: dict, field: str, role: str) -> list[dict]:
    """Turns written as a text, as one message or as a list of messages."""
    value = row.get(field)
    if isinstance(value, dict):
        return [message(value, f'"{field}"')]
    return turns_of(row, field) if isinstance(value, list) else [turn(role, text(row, field))]


def _asked(row: dict, field: str) -> list[dict]:
    return _one_or_more(row, field, "user")


def _answered(row: dict, field: str) -> list[dict]:
    return _one_or_more(row, field, "assistant")


def _question(row: dict, field: str) -> list[dict]:
    return [turn("user", text(row, field))]


def _words(row: dict, field: str) -> list[dict]:
    return [turn("assistant", text(row, field))]


def _instruction(row: dict, field: str) -> list[dict]:
    asked = "\n\n".join(part for part in (text(row, field), optional_text(row, "input")) if part)
    return [*_history(row.get("history") or []), turn("user", asked)]


def _history(pairs: object) -> Iterable[dict]:
    if not isinstance(pairs, list):
        raise BadRow(f'"history" is {kind_of(pairs)}, not a list of [question, answer] pairs')
    for number, pair in enumerate(pairs, start=1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow(f'pair {number} of "history" is {kind_of(pair)}, not [question, answer]')
        both = {"question": pair[0], "answer": pair[1]}
        for role, part in (("user", "question"), ("assistant", "answer")):
            yield turn(role, text(both, part, f'pair {number} of "history": '))


def _first_turn(row: dict, field: str) -> list[dict]:
    turns = row.get(field)
    if not isinstance(turns, list) or not turns:
        raise BadRow(f'"{field}" is {kind_of(turns)}, not a list of questions')
    return [turn("user", text({"turn 1": turns[0]}, "turn 1", f'"{field}": '))]


def _sentiment(row: dict, field: str) -> list[dict]:
    label = text(row, field).strip().lower()
    if label not in ("positive", "negative"):
        raise BadRow(f'"{field}" is {row[field]!r}; it must be positive or negative')
    return [turn("assistant", label)]


@dataclass(frozen=True)
class Shape:
    """One way of writing rows. Of alternative names of a field the first that a row has is taken."""

    kinds: tuple[str, ...]
    asked: tuple[str, ...] = ()  # the field with the prompt, or with all turns where there is no `answer`
    answer: tuple[str, ...] = ()
    turns: Callable[[dict, str], list[dict]] = turns_of
    answer_turns: Callable[[dict, str], list[dict]] = _words
    beside: tuple[str, ...] = ()  # further fields that `turns` reads
    pairs: tuple[tuple[str, str], ...] = field(default=(("chosen", "rejected"),))

    def groups(self, kind: str) -> Iterable[tuple[tuple[str, ...], ...]]:
        """The fields that a row of this shape has, as alternative lists of (alternative names)."""
        asked = (self.asked,) if self.asked else ()
        if kind == "conversation":
            return [(*asked, self.answer) if self.answer else asked]
        if kind == "preference":
            return [(*asked, (chosen,), (rejected,)) for chosen, rejected in self.pairs]
        return [asked]

    def fields(self, kind: str) -> set[str]:
        """All that rows of this shape may have."""
        return {*self.beside, *(name for group in self.groups(kind) for one in group for name in one)}

    def present(self, fields: Iterable[str], kind: str) -> float:
        """The share of its fields that a row has, of the alternative of which it has the most."""
        return max(
            sum(any(name in fields for name in one) for one in group) / len(group) for group in self.groups(kind)
        )

    def is_named_by(self, columns: Iterable[str], kind: str) -> bool:
        return any(name in columns for group in self.groups(kind) for one in group for name in one)


_TALK, _ASK = ("conversation", "preference", "prompt"), ("prompt",)
SHAPES = {
    "prompt": Shape(_TALK, ("prompt",), ("completion", "response"), _asked, _answered),
    "messages": Shape(_TALK, ("messages",)),
    "sharegpt": Shape(_TALK, ("conversations", "conversation")),
    "alpaca": Shape(_TALK, ("instruction",), ("output",), _instruction, beside=("input", "history")),
    "question": Shape(_TALK, ("question",), ("answer",), _question),
    "review": Shape(("conversation",), ("review",), ("sentiment",), _question, _sentiment),
    "turns": Shape(_ASK, ("turns",), turns=_first_turn),
    "transcripts": Shape(("preference",), pairs=(("chosen_messages", "rejected_messages"), ("chosen", "rejected"))),
    "text": Shape(("text",), ("text", "content", "document")),
}
BESIDE = {"system", "tools"}
FIELDS = BESIDE.union(*(one.fields(kind) for one in SHAPES.values() for kind in one.kinds))  # all that some shape reads
EXAMPLES = {
    "text": "{text: ...}",
    "conversation": "{prompt: ..., completion: ...}",
    "preference": "{prompt: ..., chosen: ..., rejected: ...}",
    "prompt": "{prompt: ...}",
}


def shapes_of(kind: str) -> list[str]:
    return [name for name, one in SHAPES.items() if kind in one.kinds]


def shape(
    value: object,
    kind: str,
    *,
    columns: Mapping[str, str] = {},
    named: str | None = None,
    labels: Collection[str] | None = None,
) -> Example:
    """One row as an example of `kind` ("text", "conversation", "preference" or "prompt").

    `columns` is {expected name: the file's name}, `named` the shape that the rows have where it is not to be
    recognized, `labels` the fields that say whether a conversation is wanted, if more is known of the file than this
    row. Raises BadRow with the reason, in words that name the field.
    """
    if not isinstance(value, dict):
        raise BadRow(f"the row is {kind_of(value)}, not an object with named fields")
    row = renamed(value, columns)
    read = {"text": _text, "conversation": _conversation, "preference": _preference, "prompt": _only_prompt}
    try:
        example = read[kind](row, SHAPES[named] if named else _recognized(row, kind, columns))
    except BadRow as bad:
        if kind == "conversation" and {"chosen", "rejected"} <= row.keys():
            raise BadRow(f'{bad}; with "chosen" and "rejected" it is a pair, for reward or dpo') from None
        raise
    if kind == "conversation":
        check_wanted(row, label_fields([row], columns) if labels is None else labels)
    return example


def _recognized(row: dict, kind: str, columns: Mapping[str, str]) -> Shape:
    if (best := _of_fields(tuple(row), kind, tuple(columns))) is None:
        lacks = 'has no "text", "content" or "document"' if kind == "text" else f"is of no shape known for {kind} rows"
        raise BadRow(
            f"{lacks}; its fields are {names(row)}: say in data.columns which is which, as in {EXAMPLES[kind]}"
        )
    return SHAPES[best]


def labels_of(values: Iterable[object], columns: Mapping[str, str]) -> frozenset[str]:
    """The fields by which the rows of a file say whether they are wanted, by their names in data.columns."""
    rows = (value for value in values if isinstance(value, dict) and set(columns.values()) <= value.keys())
    return label_fields((renamed(row, columns) for row in rows), columns)


def recognized(value: object, kind: str, columns: Mapping[str, str] = {}) -> str | None:
    """The name of the shape that a row is taken to have; None where it has none."""
    if not isinstance(value, dict) or not set(columns.values()) <= value.keys():
        return None
    return _of_fields(tuple(renamed(value, columns)), kind, tuple(columns))


@lru_cache  # the rows of a file have the same fields, most often
def _of_fields(fields: tuple[str, ...], kind: str, columns: tuple[str, ...]) -> str | None:
    possible = sorted(shapes_of(kind), key=lambda name: not SHAPES[name].is_named_by(columns, kind))
    best = max(possible, key=lambda name: SHAPES[name].present(fields, kind))
    return best if SHAPES[best].present(fields, kind) else None


def _text(row: dict, found: Shape) -> Text:
    return Text(text(row, first_present(row, *found.asked)))


def _conversation(row: dict, found: Shape) -> Conversation:
    turns = found.turns(row, first_present(row, *found.asked))
    if found.answer:
        turns = turns + found.answer_turns(row, first_present(row, *found.answer))
    check_answered(turns)
    turns = with_reasoning(row, turns)
    messages, skipped = unweighted(with_system(row, turns))
    if all(number in skipped for number, one in enumerate(messages) if one["role"] == "assistant"):
        raise BadRow('every answer has "loss_weight" 0: there is nothing to learn')
    return Conversation(messages, tools_of(row), skipped)


def _preference(row: dict, found: Shape) -> Preference:
    if found.asked:
        asked = first_present(row, *found.asked)
        prompt = with_system(row, found.turns(row, asked))
        return _pair(*preference.beside_prompt(prompt, row, asked), tools_of(row))
    chosen, rejected = next((pair for pair in found.pairs if any(side in row for side in pair)), found.pairs[-1])
    prompt, *answers = preference.transcripts(row, chosen, rejected)
    return _pair(with_system(row, prompt), *answers, tools_of(row))


def _pair(prompt: list[dict], chosen: dict, rejected: dict, tools: list[dict] | None) -> Preference:
    thoughts = (one.get("reasoning", "") for one in (chosen, rejected))
    return Preference(prompt, chosen["content"], rejected["content"], tools, *thoughts)


def _only_prompt(row: dict, found: Shape) -> Prompt:
    """A row without an answer, or whose answer is left aside."""
    asked = first_present(row, *found.asked)
    turns = found.turns(row, asked)
    if not found.answer and turns[-1]["role"] == "assistant":
        turns = turns[:-1]
    if not turns:
        raise BadRow("there is no prompt before the answer")
    check_asks(turns, asked)
    messages, _ = unweighted(with_system(row, turns))
    used = {asked, *found.beside, *BESIDE}
    return Prompt(messages, {name: value for name, value in row.items() if name not in used}, tools_of(row))
