"""The loop: a line is a question or a command."""

import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from queue import SimpleQueue

from rich.console import Console
from rich.text import Text

from pipeline.console.for_programs import show_json
from pipeline.console.screen import Screen, make_console
from pipeline.errors import PipelineError
from pipeline.use.chat.columns import Columns
from pipeline.use.chat.conversation import Asked, Conversation
from pipeline.use.chat.saving import Saving
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

    Over a pipe each line is a conversation of its own, answers alone are printed, or an object in JSON for each question,
    and what goes wrong is told on stderr; the exit code is then 2.
    """

    def __init__(self, conversations: Sequence[Conversation], as_json: bool = False):
        self._conversations, self._as_json = conversations, as_json
        self._console = make_console()
        self._terminal = self._console.is_terminal and sys.stdin.isatty()
        self._errors = Screen(self._console if self._terminal else make_console(stderr=True))
        self._failed = False
        self._saving = Saving()
        if self._terminal and as_json:
            raise PipelineError("--json: is for questions over a pipe.", "Leave it out, or: align chat --json < FILE")

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
                if self._as_json and not command:
                    self._print_json({"question": line, "error": error.what})
        return 2 if self._failed and not self._terminal else 0

    def _lines(self) -> Iterator[str]:
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="surrogateescape")  # what cannot be read is one bad question, not the end
        if not self._terminal:
            # Files of Windows end their lines in two characters, and some begin with a mark of their encoding.
            yield from (line.rstrip("\r\n").removeprefix("\ufeff") for line in sys.stdin)
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
            for line in self._saving.add(self._conversations, rest):
                self._say(line)
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
            taken = [one.undo() for one in self._conversations]
            self._say(f"Taken back: {taken[0]}")
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
            one.reset()

    def _ask(self, question: str) -> None:
        if not self._terminal:
            self._reset()
        asked: dict[Conversation, Asked] = {}
        with _stopping(asked) if self._terminal else nullcontext():
            self._answer(question, asked)

    def _answer(self, question: str, asked: dict[Conversation, Asked]) -> None:
        arriving: SimpleQueue = SimpleQueue()
        try:
            for one in self._conversations:
                asked[one] = one.ask(question, arriving)
        except PipelineError:
            _cancel(asked)
            raise
        if self._terminal:
            with Columns(self._console, [one.name for one in asked]) as columns:
                self._receive(asked, arriving, columns)
        else:
            self._receive(asked, arriving, None)
        for conversation, answer in asked.items():
            if answer.last.finish == FAILED:
                raise answer.last.error
            conversation.keep(question, answer)
        if self._as_json:
            told = [{"model": of.name, "text": one.text, **_end_of(one)} for of, one in asked.items()]
            self._print_json({"question": question, "answers": told})
        elif not self._terminal:
            self._print(asked)
        self._tell_speed(asked)

    def _receive(self, asked: dict[Conversation, Asked], arriving: SimpleQueue, columns: Columns | None) -> None:
        """Until every answer is at its end."""
        while not all(one.last for one in asked.values()):
            conversation, piece = arriving.get()
            asked[conversation].take(piece)
            if columns and (arriving.empty() or piece.finish):
                columns.show([one.text for one in asked.values()], [bool(one.last) for one in asked.values()])

    @staticmethod
    def _print_json(told: dict) -> None:
        show_json(told, indent=None)

    def _print(self, asked: dict[Conversation, Asked]) -> None:
        for conversation, answer in asked.items():
            print(f"{conversation.name}: {answer.text}" if len(asked) > 1 else answer.text, flush=True)

    def _tell_speed(self, asked: dict[Conversation, Asked]) -> None:
        for conversation, one in asked.items():
            name = f"{conversation.name} " if len(asked) > 1 else ""
            cut = {LENGTH: ", cut at its length", "cancelled": ", stopped"}.get(one.last.finish, "")
            self._say(f"{name}{one.last.count} tokens, {one.speed:,.0f} tokens/s, first after {one.first:.2f} s{cut}")


@contextmanager
def _stopping(asked: Mapping[Conversation, Asked]) -> Iterator[None]:
    """Ctrl-C ends the answers, as long as this lasts, and nothing else: raised anywhere, it could lose a piece of one."""
    before = signal.signal(signal.SIGINT, lambda *_: _cancel(asked))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _cancel(asked: Mapping[Conversation, Asked]) -> None:
    for one in [*asked.values()]:
        one.ticket.cancel()


def _end_of(answer: Asked) -> dict:
    return {"finish": answer.last.finish, "tokens": answer.last.count}


def header(console: Console, conversations: Sequence[Conversation], how: str) -> None:
    """What one talks to, and how it answers."""
    screen = Screen(console)
    for one in conversations:
        screen.say(f"{one.name}  {one.policy.subject.where}")
    screen.say(f"{how} /help lists the commands, Ctrl-D ends.")
