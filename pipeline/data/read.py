"""Files to rows. Every row knows the file and the line it starts on; nothing is skipped in silence."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError

_GAP = re.compile(r"[\s,]*")


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it stands in the file. `problem` says why it could not be read, where it could not."""

    file: str
    line: int
    value: object = None
    problem: str = ""

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


def read(paths: str | Sequence[str], *, encoding: str = "utf-8", separator: str | None = None) -> Iterator[Row]:
    """The rows of JSON arrays and JSON Lines files, in order; the content decides which of the two it is.

    Raises PipelineError where a file is missing, empty, not UTF-8, or breaks off so that what
    follows cannot be told apart.
    """
    for path in [paths] if isinstance(paths, str) else paths:
        text = _text(path)
        yield from _array(path, text) if text.lstrip()[0] == "[" else _lines(path, text)


def _text(path: str) -> str:
    file = Path(path)
    if not file.is_file():
        nearby = sorted(str(p) for p in file.parent.glob("*.json*"))[:8] if file.parent.is_dir() else []
        fix = f"There are: {', '.join(nearby)}" if nearby else "Paths are relative to the folder you run in."
        raise PipelineError(f"{path}: no such file.", fix)
    try:
        # utf-8-sig drops the byte-order mark that Windows programs put first.
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = file.read_bytes()[: error.start].count(b"\n") + 1
        raise PipelineError(f"{path}:{line}: not UTF-8 text.", "Convert the file to UTF-8.") from None
    except OSError as error:
        raise PipelineError(f"{path}: cannot be read: {error.strerror}.") from None
    if not text.strip():
        raise PipelineError(f"{path}: the file is empty.", "Give a file with at least one row.")
    return text


def _lines(path: str, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield Row(path, number, json.loads(line))
        except (json.JSONDecodeError, RecursionError) as error:
            yield Row(path, number, line, f"not valid JSON ({_reason(error)})")


def _array(path: str, text: str) -> Iterator[Row]:
    decoder = json.JSONDecoder()
    at = _GAP.match(text, text.index("[") + 1).end()
    line, counted = 1, 0
    while at < len(text) and text[at] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, end = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError) as error:
            raise PipelineError(
                f"{path}:{line}: the JSON array breaks off in the row that starts here ({_reason(error)}).",
                "Mend the file from this line on; rows after it cannot be told apart.",
            ) from None
        yield Row(path, line, value)
        at = _GAP.match(text, end).end()
    if at >= len(text):
        raise PipelineError(f"{path}: the JSON array is not closed: it was cut short.", "Export the file again.")


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return f"{error.msg}, column {error.colno}"
