"""Answers on a terminal as they grow: side by side where there is room, else one under the other."""

import unicodedata
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.text import Text

_NARROWEST, _GAP = 30, 3  # cells
_TAB = 4


class Columns:
    """Used as a context while `texts` come. Lines that are sure are printed for good; the last ones are still redrawn."""

    def __init__(self, console: Console, names: Sequence[str]):
        self._console, self._names = console, names
        room = (console.width - _GAP * (len(names) - 1)) // len(names)
        self.beside = len(names) > 1 and room >= _NARROWEST
        self._width = room if self.beside else console.width
        self._printed = [0] * len(names)  # lines of each answer that are out for good
        self._headed = [False] * len(names)
        self._live = Live(console=console, refresh_per_second=12, transient=True)

    def __enter__(self) -> "Columns":
        self._live.start()
        if self.beside:
            self._console.print(self._row([Text(name, style="bold") for name in self._names]))
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, texts: Sequence[str], ended: Sequence[bool]) -> None:
        wrapped = [self._wrapped(text) for text in texts]
        sure = [len(lines) if end else len(lines) - 1 for lines, end in zip(wrapped, ended, strict=True)]
        self._live.update(Text("\n").join((self._beside if self.beside else self._below)(wrapped, sure, ended)))

    def _beside(self, wrapped: list[list[Text]], sure: list[int], ended: Sequence[bool]) -> list[Text]:
        """Print the rows that no column can change any more; returns the others, as many as the screen has room for."""
        longest = max(map(len, wrapped))
        upto = min((number for number, end in zip(sure, ended, strict=True) if not end), default=longest)
        for number in range(self._printed[0], upto):
            self._console.print(self._row_of(wrapped, number))
        self._printed[0] = max(upto, self._printed[0])
        rest = range(max(self._printed[0], longest - self._console.height + 2), longest)
        return [self._row_of(wrapped, number) for number in rest]

    def _below(self, wrapped: list[list[Text]], sure: list[int], ended: Sequence[bool]) -> list[Text]:
        for at, lines in enumerate(wrapped):
            if len(self._names) > 1 and not self._headed[at]:
                self._console.print(Text(self._names[at], style="bold"))
                self._headed[at] = True
            for line in lines[self._printed[at] : sure[at]]:
                self._console.print(line)
            self._printed[at] = max(sure[at], self._printed[at])
            if not ended[at]:  # the next answer waits for its place
                return lines[self._printed[at] :]
        return []

    def _row_of(self, wrapped: list[list[Text]], number: int) -> Text:
        return self._row([lines[number] if number < len(lines) else Text() for lines in wrapped])

    def _row(self, cells: Sequence[Text]) -> Text:
        row = Text(no_wrap=True)
        for at, cell in enumerate(cells):
            cell = cell.copy()
            cell.truncate(self._width, pad=at < len(cells) - 1)
            row.append_text(cell)
            row.append(" " * _GAP if at < len(cells) - 1 else "")
        return row

    def _wrapped(self, text: str) -> list[Text]:
        return [line for part in _visible(text).split("\n") for line in Text(part).wrap(self._console, self._width)]


def _visible(text: str) -> str:
    """Nothing that a model writes may steer the terminal."""
    text = text.replace("\r\n", "\n").expandtabs(_TAB)
    return "".join("\ufffd" if unicodedata.category(one) == "Cc" and one != "\n" else one for one in text)
