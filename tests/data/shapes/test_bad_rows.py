"""A row that cannot be used says why: the field, the turn, and what was found there."""

import pytest
from conversations import ASK, HUMAN, TALK

from pipeline.data.shapes.examples import BadRow, example_of

OTHER = [*ASK, {"role": "assistant", "content": "No"}]


def conversation(*turns):
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return {"messages": [{"role": roles[turn[0]], "content": turn[2:]} for turn in turns]}


@pytest.mark.parametrize(
    "kind, row, reason",
    [
        (
            "conversation",
            {"a": 1, "b": 2},
            "no shape known for conversation rows; its fields are 'a', 'b'.*data.columns",
        ),
        ("text", {"prompt": "a"}, "has no \"text\", .*; its fields are 'prompt': say in data.columns"),
        ("conversation", conversation("u 1", "a 2", "s 3", "a 4"), "turn 3 is the system's"),
        ("conversation", conversation("u 1", "u 2", "a 3"), "turns 1 and 2 are both the user's"),
        ("conversation", conversation("s 1", "a 2"), "turn 2 is the assistant's and nothing was asked"),
        ("conversation", conversation("u 1", "a 2", "u 3"), "ends with turn 3, the user's"),
        ("conversation", conversation("u 1", "a 2", "t 3", "a 4"), "turn 3 is a tool's, but .* calls no tool"),
        ("conversation", conversation("u 1", "a  "), 'turn 2 of "messages": "content" is empty'),
        ("conversation", conversation("s 1") | {"system": "x"}, "there is no prompt"),
        ("conversation", conversation("s 1", "u 2", "a 3") | {"system": "x"}, 'system turn and a field "system"'),
        (
            "conversation",
            {"conversations": [{"from": "USER", "value": "a"}]},
            "turn 1 .* the role 'USER'; .* human, user",
        ),
        ("conversation", {"conversations": [HUMAN, {"from": "gpt"}]}, 'turn 2 of "conversations": has no "value"'),
        (
            "conversation",
            {"conversations": [HUMAN, {"from": "function_call", "value": "{oops"}]},
            "turn 2 .*: the function call is not valid JSON",
        ),
        ("conversation", {"messages": TALK, "tools": "{oops"}, '"tools" is not valid JSON'),
        (
            "conversation",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "turn 1 .*: part 1 is of the type 'image_url'; only text",
        ),
        ("conversation", {"messages": [*ASK, TALK[1] | {"loss_weight": 0.5}]}, 'turn 2 .* "loss_weight" is 0.5'),
        ("conversation", {"messages": [ASK[0] | {"loss_weight": 1}, TALK[1]]}, "only answers are learned"),
        ("conversation", {"messages": [*ASK, TALK[1] | {"loss_weight": 0}]}, "every answer .* nothing to learn"),
        ("conversation", {"review": "a", "sentiment": "neutral"}, "'neutral'; it must be positive or negative"),
        ("conversation", {"instruction": "a", "output": "b", "history": ["a"]}, 'pair 1 of "history"'),
        ("preference", {"prompt": "a", "chosen": "b"}, 'has no "rejected"'),
        ("preference", {"prompt": "a", "chosen": "b", "rejected": "b"}, "are the same"),
        ("preference", {"chosen": TALK, "rejected": TALK}, "are the same"),
        ("preference", {"chosen": "b", "rejected": "c"}, 'neither a list .* nor text that begins with "Human:"'),
        (
            "preference",
            {"chosen": [*TALK, *TALK], "rejected": [*OTHER, *TALK]},
            r"part at turn 2; they may differ only in the last",
        ),
        ("preference", {"chosen": TALK, "rejected": [*TALK, *TALK]}, r'"rejected" \(4\) part at turn 3'),
        ("preference", {"chosen": ASK, "rejected": OTHER}, '"chosen": ends with turn 1, the user'),
        ("preference", {"chosen": "\n\nHuman: a\n\nAssistant:", "rejected": "b"}, 'turn 2 of "chosen" is empty'),
        ("prompt", {"turns": []}, '"turns" is an empty list'),
        ("prompt", {"prompt": TALK}, "ends with an assistant's turn"),
    ],
)
def test_bad_rows_name_the_field_the_turn_and_what_was_found(kind, row, reason):
    with pytest.raises(BadRow, match=reason):
        example_of(row, kind)


@pytest.mark.parametrize(
    "row, reason",
    [
        (None, "the row is null"),
        ({"prompt": "a"}, 'no "completion"'),
        ({"prompt": "a", "completion": 3}, "is a number, not text"),
        ({"messages": []}, "empty list"),
        ({"messages": [{"role": "user", "content": "a"}]}, "nothing to learn"),
        ({"messages": [{"role": "bot", "content": "a"}]}, "the role 'bot'"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "no prompt"),
    ],
)
def test_bad_rows_say_why(row, reason):
    with pytest.raises(BadRow, match=reason):
        example_of(row, "conversation")
