"""Conversations as rows to train on, added to a file."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.use.chat.conversation import Conversation


class Saving:
    """Adds conversations to files, and each state of them to the same file once."""

    def __init__(self):
        self._last: dict[Path, list[dict]] = {}  # what was last added to a file

    def add(self, conversations: Sequence[Conversation], name: str) -> Iterator[str]:
        """What was done, for a person to read. Raises PipelineError where there is nothing to save, or no way to."""
        if not name:
            raise PipelineError("Save it where? Name a file: /save chat.jsonl")
        if not conversations[0].turns:
            raise PipelineError("There is no conversation to save.")
        rows = [row for one in conversations if (row := one.row)]
        if not rows:
            raise PipelineError(
                "No answer came to its end: training on these would teach to stop in the middle.", "Nothing was saved."
            )
        file = Path(name).expanduser()
        if self._last.get(file.absolute()) == rows:
            raise PipelineError(f"{file}: has this conversation already.", "Go on with it, or name another file.")
        try:
            with file.open("a", encoding="utf-8") as out:
                out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        except OSError as error:
            raise PipelineError(f"{file}: cannot be written: {error.strerror}.") from None
        self._last[file.absolute()] = rows
        yield f"{file}: the conversation is added"
        yield from filter(None, map(_left_out, conversations))


def _left_out(one: Conversation) -> str | None:
    if not one.cut:
        return None
    answers = "1 answer" if one.cut == 1 else f"{one.cut} answers"
    if one.row is None:
        return f"{one.name} is left out: none of its answers came to its end"
    return f"{one.name}: {answers} did not come to the end; weight 0 keeps {'it' if one.cut == 1 else 'them'} from being learned"
