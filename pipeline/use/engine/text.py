"""Tokens to text as they come: no character before it is whole, and nothing that may still become a stop text."""

from collections.abc import Sequence
from functools import lru_cache

from transformers import PreTrainedTokenizerFast

_UNFINISHED = "\ufffd"  # what a decoder writes for bytes that are no character yet
_CONTEXT = 6  # tokens: a decoder looks no further back


class Detokenizer:
    """The text of a growing sequence of tokens, without its special tokens.

    A decoder writes a token by what stands before it (a first space is left out, bytes join to a character), so each
    one is decoded behind a few that were. `before` are the tokens that the text goes on after, where it does.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, before: Sequence[int] = ()):
        self._decode = tokenizer.backend_tokenizer.decode
        self._ids = list(before[-_CONTEXT:])
        self._start, self._told = 0, len(self._ids)  # tokens decoded for context; tokens whose text is out
        self._shown = self._decode(self._ids)

    def add(self, token: int) -> str:
        """What the token adds to the text; nothing while a character of several tokens is not whole."""
        self._ids.append(token)
        text = self._decode(self._ids[self._start :])
        return "" if text.endswith(_UNFINISHED) else self._tell(text)

    def finish(self) -> str:
        """What is left: bytes that became no character, as the mark for them."""
        return self._tell(self._decode(self._ids[self._start :])) if self._told < len(self._ids) else ""

    def _tell(self, text: str) -> str:
        new = text[len(self._shown) :]
        # Only whole characters begin a context: where nothing was shown the last time, the old one stays.
        self._start, self._told = (self._told if new else self._start), len(self._ids)
        self._shown = self._decode(self._ids[self._start :]) if new else text
        return new


class Lead:
    """Leaves a text out that an answer may begin with."""

    def __init__(self, lead: str):
        self._lead, self._held, self._open = lead, "", bool(lead)

    def add(self, text: str) -> str:
        if not self._open:
            return text
        self._held += text
        if self._lead.startswith(self._held) and self._held != self._lead:
            return ""
        self._open = False
        return self._held.removeprefix(self._lead)

    def finish(self) -> str:
        held, self._open = self._held if self._open else "", False
        return held


class StopTexts:
    """Holds text back that may be the beginning of a stop text, and ends at the first that is whole."""

    def __init__(self, stops: Sequence[str]):
        self._stops = stops
        self._held = ""
        self._things: list[tuple[int, object]] = []  # what belongs to the held text, and where in it its text begins

    def add(self, text: str, thing: object = None) -> tuple[str, list, bool]:
        """(text that is sure, the things that belong to it, whether a stop text was met)."""
        self._things.append((len(self._held), thing))
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            return *self._release(min(found)), True
        ends = range(min(max(map(len, self._stops), default=0) - 1, len(self._held)), 0, -1)
        kept = next((n for n in ends if any(stop.startswith(self._held[-n:]) for stop in self._stops)), 0)
        return *self._release(len(self._held) - kept, more=not kept), False

    def finish(self) -> tuple[str, list]:
        return self._release(len(self._held), more=True)

    def _release(self, upto: int, more: bool = False) -> tuple[str, list]:
        """`more`: also what begins at the end, for it has no text."""
        sure, self._held = self._held[:upto], self._held[upto:]
        out = [thing for at, thing in self._things if at < upto or more]
        self._things = [(at - upto, thing) for at, thing in self._things if not (at < upto or more)]
        return sure, out


@lru_cache(maxsize=1 << 14)
def text_of(tokenizer: PreTrainedTokenizerFast, token: int) -> str:
    """One token as it is written inside a text, its space included, special tokens by their name."""
    decode = tokenizer.backend_tokenizer.decode
    before = tokenizer("a", add_special_tokens=False).input_ids[-1:]
    return decode([*before, token], skip_special_tokens=False)[len(decode(before, skip_special_tokens=False)) :]
