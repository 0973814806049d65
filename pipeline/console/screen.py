"""Lines on a terminal or a pipe: what every other file of this room writes on."""

import re

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from pipeline.errors import PipelineError
from pipeline.installing import as_typed


def make_console(*, stderr: bool = False) -> Console:
    console = Console(highlight=False, stderr=stderr)
    if not console.is_terminal:  # a pipe has no width, and a log no colors
        console = Console(highlight=False, width=160, color_system=None, stderr=stderr)
    return console


class Screen:
    """A console on which no word is broken."""

    def __init__(self, console: Console):
        self.console = console

    def error(self, error: PipelineError) -> None:
        self.message(Text("error: ", style="bold red") + Text(as_typed(error.what)))
        if error.fix:
            self.say(error.fix)

    def say(self, text: str) -> None:
        self.message(Text(as_typed(text)))

    def message(self, text: Text | str, style: str = "") -> None:
        """A line on a pipe; on a terminal broken between words, and never inside of one."""
        text = Text.from_markup(as_typed(text), style=style) if isinstance(text, str) else text
        if self.console.is_terminal:
            lines = [_wrapped(line, self.console.width) for line in text.split("\n", allow_blank=True)]
            text = Text("\n").join(lines)
        self.console.print(text, soft_wrap=True)


def _wrapped(line: Text, width: int) -> Text:
    """Broken between words, with an indent on; a word that is longer than the width, such as a path, stays whole."""
    plain = line.plain
    indent = " " * (len(plain) - len(plain.lstrip()) + 2)
    breaks, begin, room = [], 0, width
    for word in re.finditer(r"\S+", plain):
        if plain[begin : word.start()].strip() and cell_len(plain[begin : word.end()]) > room:
            breaks.append(word.start())
            begin, room = word.start(), width - len(indent)
    pieces = line.divide(breaks)
    for piece in pieces[:-1]:
        piece.rstrip()
    return Text(f"\n{indent}").join(pieces)
