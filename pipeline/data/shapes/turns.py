"""The turns of a conversation, in either way of writing them, and the order in which they make sense.

While a row is read, an answer that is not to be learned carries `loss_weight: 0`; `unweighted` takes it off.
"""

from collections.abc import Mapping, Sequence

from pipeline.data.shapes.fields import BadRow, first_present, from_json, optional_text, text, type_of

# What each way of writing turns calls the roles.
MESSAGE_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
REASONING = "reasoning_content", "reasoning", "thinking"  # as messages, parts of a content and templates call it
# By which a turn says whether it is learned: 0 and 1, as OpenAI's fine-tuning has it; or the flag that means "learned".
WEIGHTS, FLAGS = ("loss_weight", "weight"), {"train": True, "training": True, "mask": False, "masked": False}
SPEAKERS = {"user": "the user's", "assistant": "the assistant's", "tool": "a tool's", "system": "the system's"}


def turn(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def turns_of(row: dict, field: str) -> list[dict]:
    """A field that holds a list of turns, as messages with "role" and "content"."""
    if field not in row:
        text(row, field)  # says that it is missing
    turns = row[field]
    if not isinstance(turns, list) or not turns:
        raise BadRow(f'"{field}" is {type_of(turns)}, not a list of turns')
    return [message(one, f'turn {number} of "{field}"') for number, one in enumerate(turns, start=1)]


def message(value: object, where: str) -> dict:
    """One turn, written with role and content or with from and value."""
    if not isinstance(value, dict):
        raise BadRow(f"{where} is {type_of(value)}, not an object")
    sharegpt = "from" in value and "role" not in value
    role_field, content_field, roles = (
        ("from", "value", SHAREGPT_ROLES) if sharegpt else ("role", "content", MESSAGE_ROLES)
    )
    named = value.get(role_field)
    if not isinstance(named, str) or named not in roles:
        raise BadRow(f"{where} has the role {named!r}; the roles are {', '.join(roles)}")
    role, calls = roles[named], value.get("tool_calls") or []
    if named == "function_call":
        calls, content = from_json(text(value, content_field, f"{where}: "), f"{where}: the function call"), ""
        calls = calls if isinstance(calls, list) else [calls]
    else:
        content = _content(value, content_field, where, may_be_empty=role == "assistant" and bool(calls))
    made = turn(role, content)
    if reasoning := _reasoning(value, content_field, where):
        if role != "assistant":
            raise BadRow(f"{where} has reasoning, which only the assistant can have")
        made["reasoning"] = reasoning
    if calls and role != "assistant":
        raise BadRow(f'{where} has "tool_calls", which only the assistant can make')
    if calls or named == "function_call":
        made["tool_calls"] = _tool_calls(calls, where)
    if role == "tool":
        made |= {key: value[key] for key in ("name", "tool_call_id") if isinstance(value.get(key), str)}
    if not _is_learned(value, role, where):
        made["loss_weight"] = 0
    return made


def _content(value: dict, field: str, where: str, *, may_be_empty: bool) -> str:
    content = value.get(field)
    if isinstance(content, list):
        parts = [_part(part, f"{where}: part {number}") for number, part in enumerate(content, start=1)]
        content = "".join(words for words, is_reasoning in parts if not is_reasoning)
    if may_be_empty and (content is None or content == ""):
        return ""
    return text({**value, field: content} if field in value else value, field, f"{where}: ")


def _part(part: object, where: str) -> tuple[str, bool]:
    """(its words, whether they are reasoning)."""
    if isinstance(part, str):
        return part, False
    kind = part.get("type", "text") if isinstance(part, dict) else type_of(part)
    if kind not in ("text", *REASONING) or not isinstance(part, dict):
        raise BadRow(f"{where} is of the type {kind!r}; only text and reasoning can be trained on")
    value = part.get(first_present(part, "text", "value", *(REASONING if kind in REASONING else ())))
    if not isinstance(value, str):
        raise BadRow(f'{where} has no "text"')
    return value, kind in REASONING


def _reasoning(value: dict, content_field: str, where: str) -> str:
    """What the assistant thought before it answered, in a field of its own or in parts of the content; or ""."""
    found = {field: optional_text(value, field) for field in REASONING}
    if isinstance(value.get(content_field), list):
        parts = [_part(part, where) for part in value[content_field]]
        spoken = [is_reasoning for words, is_reasoning in parts if words.strip()]
        if spoken != sorted(spoken, reverse=True):
            raise BadRow(f"{where} has reasoning behind its words; a chat template shows it before them")
        found["content"] = "".join(words for words, is_reasoning in parts if is_reasoning)
    told = {field: words for field, words in found.items() if words.strip()}
    if len(set(told.values())) > 1:
        raise BadRow(f"{where} has more than one reasoning: in {', '.join(told)}")
    return next(iter(told.values()), "")


def _is_learned(value: dict, role: str, where: str) -> bool:
    """Whether a turn carries loss, as it says itself: by a weight of 0 or 1, or by a flag of true or false."""
    said = {}
    for field in WEIGHTS:
        if (weight := value.get(field)) is not None:
            if isinstance(weight, bool) or weight not in (0, 1):
                raise BadRow(f'{where}: "{field}" is {weight!r}; it can be 0 (not learned) or 1 (learned)')
            said[field] = weight == 1
    if role != "assistant":
        if any(said.values()):
            raise BadRow(f'{where}: "{next(iter(said))}" is 1, but it is {SPEAKERS[role]}; only answers are learned')
        return True
    for field, learned in FLAGS.items():
        if (flag := value.get(field)) is not None:
            if not isinstance(flag, bool):
                raise BadRow(f'{where}: "{field}" is {flag!r}; it can be true or false')
            said[field] = flag == learned
    if len(set(said.values())) > 1:
        raise BadRow(f"{where}: {' and '.join(said)} do not agree on whether it is learned")
    return all(said.values())


def _tool_calls(calls: object, where: str) -> list[dict]:
    """Calls as {"type": "function", "function": {"name", "arguments"}}, with the arguments as an object."""
    if not isinstance(calls, list) or not calls:
        raise BadRow(f"{where}: its tool calls are {type_of(calls)}, not a list of calls")
    made = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow(f'{where}: a tool call needs "name" and "arguments"')
        arguments = from_json(function.get("arguments", {}), f"{where}: the arguments of {function['name']}")
        if not isinstance(arguments, dict):
            raise BadRow(f"{where}: the arguments of {function['name']} are {type_of(arguments)}, not an object")
        number = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        made.append({**number, "type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return made


def tools_of(row: dict) -> list[dict] | None:
    """What the assistant can call, as {"type": "function", "function": {...}}; None where there is nothing."""
    if row.get("tools") in (None, "", "[]"):
        return None
    tools = from_json(row["tools"], '"tools"')
    if not isinstance(tools, list):
        raise BadRow(f'"tools" is {type_of(tools)}, not a list of tools')
    made = []
    for number, tool in enumerate(tools, start=1):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow(f'tool {number} of "tools" has no "name"')
        made.append({"type": "function", "function": function})
    return made or None


def with_reasoning(row: dict, turns: list[dict]) -> list[dict]:
    """The turns, the last answer with the reasoning that stands beside it in the row, where one does."""
    told = {field: row[field] for field in REASONING if isinstance(row.get(field), str) and row[field].strip()}
    *before, last = turns
    if own := last.get("reasoning"):
        told["its last answer"] = own
    if len(set(told.values())) > 1:
        raise BadRow(f"has more than one reasoning: in {', '.join(told)}")
    return [*before, last | {"reasoning": next(iter(told.values()))}] if told else turns


def with_system(row: dict, turns: list[dict]) -> list[dict]:
    """The turns behind the system prompt that stands beside them in the row, where one does."""
    system = optional_text(row, "system")
    if system and turns[0]["role"] == "system":
        raise BadRow('has a system turn and a field "system"; leave one of them out')
    return [turn("system", system), *turns] if system else turns


def check_order(turns: Sequence[dict]) -> None:
    """Raises BadRow unless a user asks first and nobody speaks out of turn."""
    before = None
    for number, role in enumerate((one["role"] for one in turns), start=1):
        if role == "system" and number > 1:
            raise BadRow(f"turn {number} is the system's; a system prompt can only come first")
        if role == "assistant" and before in (None, "system"):
            raise BadRow(f"turn {number} is the assistant's and nothing was asked before: there is no prompt")
        if role == before != "tool":
            raise BadRow(f"turns {number - 1} and {number} are both {SPEAKERS[role]}")
        if role == "tool" and before != "tool" and not (before and turns[number - 2].get("tool_calls")):
            raise BadRow(f"turn {number} is a tool's, but the turn before it calls no tool")
        before = role
    if before in (None, "system"):
        raise BadRow("there is no prompt: nothing but a system turn")


def check_answered(turns: Sequence[dict]) -> None:
    check_order(turns)
    if turns[-1]["role"] != "assistant":
        last = f"turn {len(turns)}, {SPEAKERS[turns[-1]['role']]},"
        raise BadRow(f"ends with {last} and not with an answer of the assistant: there is nothing to learn")


def check_asks(turns: Sequence[dict], field: str) -> None:
    check_order(turns)
    if turns[-1]["role"] == "assistant":
        raise BadRow(f'"{field}" ends with an assistant\'s turn; a prompt ends with what is to be answered')


def unweighted(turns: Sequence[Mapping]) -> tuple[list[dict], frozenset[int]]:
    """The turns without their weights, and which of them are not learned, counted from 0."""
    skipped = frozenset(number for number, one in enumerate(turns) if one.get("loss_weight") == 0)
    return [{key: value for key, value in one.items() if key != "loss_weight"} for one in turns], skipped
