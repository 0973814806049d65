"""The rows of JSON: an array, JSON Lines, or one object. The content decides, not the suffix."""

import io
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TextIO

from pipeline.data.read.files import container
from pipeline.data.read.row import Row, nothing_in
from pipeline.data.read.text import BLOCK
from pipeline.errors import PipelineError

_GAP = re.compile(r"[\s,]*")
_TAIL = 32  # a value that ends this close to the end of what was read may go on: 12 of 12.5e-7
_COLON = re.compile(r"\s*:\s*")
_OPEN = "{[,:"  # how a line ends inside an object that spans several
# Fields that a row has and a file of rows has not.
_FIELDS = {"text", "prompt", "completion", "chosen", "rejected", "instruction", "output", "messages", "conversations"}
_MEND = "Mend the file from this line on; rows after it cannot be told apart."
_LAYOUT = "Write the rows as JSON Lines (one object a line) or as one array."


def json_rows(path: str, text: TextIO) -> Iterator[Row]:
    """Raises PipelineError where an array or an object breaks off."""
    line, start = _start(text)
    if not start:
        raise nothing_in(path)
    if start == "[":
        yield from _array(path, text, start, 1, line)
        return
    ahead = [start + text.readline()]
    if start == "{" and _may_span(path, ahead, text):
        members = _members(path, "".join(ahead), line)
        if members is not None:
            yield from _object(path, "".join(ahead), members, line)
            return
    yield from _lines(path, chain(ahead, text), line)


def _start(text: TextIO) -> tuple[int, str]:
    """The first character that is no space, and its line."""
    line = 1
    while (character := text.read(1)).isspace():
        line += character == "\n"
    return line, character


def _lines(path: str, lines: Iterable[str], first: int) -> Iterator[Row]:
    loads = json.loads
    for number, line in enumerate(lines, start=first):
        if line.isspace() or not line:
            continue
        try:
            value = loads(line)
        except (ValueError, RecursionError) as error:
            yield Row(path, number, line.rstrip("\n"), f"not valid JSON ({_reason(error)})")
        else:
            yield Row(path, number, value)


def _past_gap(text: str, at: int) -> int:
    found = _GAP.match(text, at)
    return found.end() if found else at


def _array(path: str, text: TextIO, buffer: str, at: int, line: int) -> Iterator[Row]:
    """The elements of an array that is open at `at` in `buffer`, on `line`; the rest of it is still in `text`."""
    decode, counted, more = json.JSONDecoder().raw_decode, at, True
    while True:
        at = _past_gap(buffer, at)
        line, counted = line + buffer.count("\n", counted, at), at
        if at < len(buffer):
            if buffer[at] == "]":
                break
            try:
                value, end = decode(buffer, at)
                cut = end > len(buffer) - _TAIL
            except (ValueError, RecursionError) as error:
                if not (more and _cut(error, buffer)):
                    what = _reason(error, line + buffer.count("\n", at, getattr(error, "pos", at)))
                    raise PipelineError(
                        f"{path}:{line}: the JSON array breaks off in the row that starts here ({what}).", _MEND
                    ) from None
                cut = True
            if not (cut and more):
                yield Row(path, line, value)
                at = end
                continue
        elif not more:
            raise PipelineError(f"{path}: the JSON array is not closed: it was cut short.", "Export the file again.")
        # As much again as is held, so that a long row is not decoded from its start once for every block.
        block = text.read(max(BLOCK, len(buffer) - at))
        buffer, at, counted, more = buffer[at:] + block, 0, 0, bool(block)
    _refuse_more(path, chain([buffer[at + 1 :]], text), line)


def _cut(error: Exception, buffer: str) -> bool:
    """Whether the value may only lack what was not read yet."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos > len(buffer) - _TAIL


def _refuse_more(path: str, rest: Iterable[str], line: int) -> None:
    for part in rest:
        if stripped := part.lstrip():
            line += part.count("\n", 0, len(part) - len(stripped))
            raise PipelineError(f"{path}:{line}: something follows the end of the JSON that the file is.", _LAYOUT)
        line += part.count("\n")


def _may_span(path: str, ahead: list[str], text: TextIO) -> bool:
    """Whether the file may be one object, not lines of them; if so all of it is in `ahead` afterwards."""
    try:
        value = json.loads(ahead[0])
    except (ValueError, RecursionError):
        if ahead[0].rstrip()[-1] not in _OPEN:
            return False
        ahead.extend(text)
        return True
    if _is_row(value) or container(path) in (".jsonl", ".ndjson"):
        return False
    while ahead[-1] and (len(ahead) == 1 or ahead[-1].isspace()):
        ahead.append(text.readline())
    return not ahead[-1]


def _members(path: str, whole: str, line: int) -> list[tuple[str, object, int, int]] | None:
    """Key, value, start and end of the value for each member of the object, or None where they are rather lines.

    Raises PipelineError where it is plainly an object and breaks off, or something follows it.
    """
    decode, members, at = json.JSONDecoder().raw_decode, [], 1
    try:
        while (at := _past_gap(whole, at)) < len(whole) and whole[at] != "}":
            key, end = decode(whole, at)
            colon = _COLON.match(whole, end)
            if not isinstance(key, str) or not colon:
                raise ValueError("a name and a colon are expected")
            at = colon.end()
            value, end = decode(whole, at)
            members.append((key, value, at, end))
            at = end
        if at < len(whole):
            _refuse_more(path, [whole[at + 1 :]], line + whole.count("\n", 0, at))
            return members
        what = "it was cut short"
    except (ValueError, RecursionError) as error:
        if whole.partition("\n")[0].rstrip()[-1] not in "{[":
            return None
        what = _reason(error, line + whole.count("\n", 0, getattr(error, "pos", at)))
    line += whole.count("\n", 0, at)
    raise PipelineError(f"{path}:{line}: the JSON object breaks off in what starts here ({what}).", _MEND)


def _object(path: str, whole: str, members: list[tuple[str, object, int, int]], line: int) -> Iterator[Row]:
    """An object is a row, or holds the rows as its only list of objects."""
    value = {key: member for key, member, _, _ in members}
    if _is_row(value):
        yield Row(path, line, value)
        return
    lists = [(start, end) for _, member, start, end in members if _objects(member)]
    if len(lists) != 1:
        keys = ", ".join(list(value)[:8]) or "none"
        raise PipelineError(
            f"{path}:{line}: the file is one object, and it is not plain where its rows are (its keys: {keys}).",
            _LAYOUT,
        )
    start, end = lists[0]
    yield from _array(path, io.StringIO(), whole[:end], start + 1, line + whole.count("\n", 0, start))


def _is_row(value: object) -> bool:
    """Whether an object is a row itself, not a wrapper around a list of them."""
    if not isinstance(value, dict):
        return True
    lists = [member for member in value.values() if _objects(member)]
    if any(_turns(member) for member in lists):
        return True
    if any(key in _FIELDS and not _objects(member) for key, member in value.items()):
        return True
    return not lists and not all(isinstance(member, dict) for member in value.values())


def _objects(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _turns(value: list[dict]) -> bool:
    return any({"role", "content"} <= one.keys() or {"from", "value"} <= one.keys() for one in value)


def _reason(error: Exception, line: int | None = None) -> str:
    """`line` where the text spans several; else the column says it better."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, line {line}" if line else f"{error.msg}, column {error.colno}"
    return str(error).partition(";")[0]  # a number of thousands of digits; the rest is Python's own advice
