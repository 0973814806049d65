"""The loop: a line is a question or a command."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from rich.console import Console
from rich.text import Text

from pipeline.console.screen import Screen, make_console
from pipeline.errors import PipelineError
from pipeline.use.chat.columns import Columns
from pipeline.use.chat.conversation import Asked, Conversation
from pipeline.use.engine.request import FAILED, LENGTH
from pipeline.wording import did_you_mean

_COMMAND = re.compile(r"/[a-z]+(?=\s|$)")
HELP = {
    "/system TEXT": "begin anew with this system prompt; with none without TEXT",
    "/reset": "begin anew",
    "/undo": "take the last question and its answers back",
    "/save FILE": "add the conversation to FILE, as rows to train on",
    "/help": "this list",
    "/quit": "end, as Ctrl-D does; Ctrl-C stops an answer",
}


class Session:
    """Asks every conversation each question. On a terminal answers are shown as they come.

    Over a pipe each line is a conversation of its own, answers alone are printed, and what goes wrong is told on
    stderr; the exit code is then 2.
    """

    def __init__(self, conversations: Sequence[Conversation]):
        self._conversations = conversations
        self._console = make_console()
        self._terminal = self._console.is_terminal and sys.stdin.isatty()
        self._errors = Screen(self._console if self._terminal else make_console(stderr=True))
        self._failed = False

    def run(self) -> int:
        """The exit code."""
        for line in self._lines():
            try:
                if command := _COMMAND.match(line):
                    if not self._do(command[0], line[command.end() :].strip()):
                        break
                elif line.strip():
                    self._ask(line)
            except PipelineError as error:
                self._failed = True
                self._errors.error(error)
        return 2 if self._failed and not self._terminal else 0

    def _lines(self) -> Iterator[str]:
        if not self._terminal:
            yield from (line.rstrip("\n") for line in sys.stdin)
            return
        with suppress(ImportError):  # gives `input` its editing and its history; Windows has none
            import readline  # noqa: F401

        while True:
            try:
                yield input("> ")
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                self._say("\n/quit or Ctrl-D ends.")

    def _say(self, text: str) -> None:
        if self._terminal:
            Screen(self._console).message(Text(text, style="dim"))

    def _do(self, command: str, rest: str) -> bool:
        """Whether to go on."""
        if command in ("/quit", "/exit"):
            return False
        known = {one.split()[0] for one in HELP}
        if command not in known:
            raise PipelineError(f"There is no command {command}{did_you_mean(command, known)}", "/help lists them.")
        if command == "/save":
            self._save(rest)
        elif command == "/system":
            self.set_system(rest or None)
            self._say("The conversation begins anew.")
        elif rest:
            raise PipelineError(f"{command} takes nothing behind it, and here is {rest!r}.")
        elif command == "/help":
            for name, what in HELP.items():
                Screen(self._console).say(f"{name:14}{what}")
        elif command == "/reset":
            self._reset()
            self._say("The conversation begins anew.")
        else:
            for one in self._conversations:
                one.undo()
        return True

    def set_system(self, text: str | None) -> None:
        """Raises Unshowable, and changes nothing then, where a template leaves out system prompts."""
        before = [one.system for one in self._conversations]
        try:
            for one in self._conversations:
                one.system = text
                one.check()
        except PipelineError:
            for one, old in zip(self._conversations, before, strict=True):
                one.system = old
            raise
        self._reset()

    def _reset(self) -> None:
        for one in self._conversations:
            one.turns.clear()

    def _save(self, name: str) -> None:
        if not name:
            raise PipelineError("Save it where? Name a file: /save chat.jsonl")
        if not self._conversations[0].turns:
            raise PipelineError("There is no conversation to save.")
        file = Path(name).expanduser()
        try:
            with file.open("a", encoding="utf-8") as out:
                for one in self._conversations:
                    out.write(json.dumps({"model": one.name, "messages": one.messages}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise PipelineError(f"{file}: cannot be written: {error.strerror}.") from None
        self._say(f"{file}: the conversation is added")

    def _ask(self, question: str) -> None:
        if not self._terminal:
            self._reset()
        arriving: SimpleQueue = SimpleQueue()
        asked: dict[Conversation, Asked] = {}
        try:
            for one in self._conversations:
                asked[one] = one.ask(question, arriving)
        except PipelineError:
            for one in asked.values():
                one.ticket.cancel()
            raise
        if self._terminal:
            with Columns(self._console, [one.name for one in asked]) as columns:
                self._receive(asked, arriving, columns)
        else:
            self._receive(asked, arriving, None)
            self._print(asked)
        for conversation, answer in asked.items():
            if answer.last.finish == FAILED:
                raise answer.last.error
            conversation.keep(question, answer.text)
        self._tell_speed(asked)

    def _receive(self, asked: dict[Conversation, Asked], arriving: SimpleQueue, columns: Columns | None) -> None:
        """Until every answer is at its end; Ctrl-C brings that about, too."""
        while not all(one.last for one in asked.values()):
            try:
                conversation, piece = arriving.get()
                asked[conversation].take(piece)
                if columns and (arriving.empty() or piece.finish):
                    columns.show([one.text for one in asked.values()], [bool(one.last) for one in asked.values()])
            except KeyboardInterrupt:
                if not self._terminal:
                    raise
                for one in asked.values():
                    one.ticket.cancel()

    def _print(self, asked: dict[Conversation, Asked]) -> None:
        for conversation, answer in asked.items():
            print(f"{conversation.name}: {answer.text}" if len(asked) > 1 else answer.text, flush=True)

    def _tell_speed(self, asked: dict[Conversation, Asked]) -> None:
        for conversation, one in asked.items():
            name = f"{conversation.name} " if len(asked) > 1 else ""
            cut = {LENGTH: ", cut at its length", "cancelled": ", stopped"}.get(one.last.finish, "")
            self._say(f"{name}{one.last.count} tokens, {one.speed:,.0f} tokens/s, first after {one.first:.2f} s{cut}")


def header(console: Console, conversations: Sequence[Conversation], how: str) -> None:
    """What one talks to, and how it answers."""
    screen = Screen(console)
    for one in conversations:
        screen.say(f"{one.name}  {one.policy.subject.where}")
    screen.say(f"{how} /help lists the commands, Ctrl-D ends.")
