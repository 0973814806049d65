"""Rewards that a recipe names and no file has to be written for: each judges one response, by itself or by its row's answer.

The fields of each are its options in a recipe.
"""

import importlib.util
import re
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Annotated

from pydantic import BeforeValidator, Field

from pipeline.section import Section, regular_expression

Pattern = Annotated[str, BeforeValidator(regular_expression)]

MARK = "####"  # behind which an answer of GSM8K stands
_BOXED = "\\boxed{"
_SIGNS = ("$", "\\(", "\\[", _BOXED)  # by which mathematics are known in a text
_COMMAND, _WORD = re.compile(r"\\(?:text|mathrm|mbox)\s*\{[^}]*\}|\\[a-zA-Z]+"), re.compile(r"[A-Za-z]{3,}")
# A minus belongs to a number where nothing is taken from anything: "5-3" ends in 3.
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|(?<![\w.])[-+]?\.\d+")


class Verifiable(Section):
    """A reward that is built in."""

    @property
    def reads(self) -> str | None:
        """The column of the rows that it has to find in every one."""
        return None

    def problem(self, answer: object) -> str | None:
        """What is wrong with what that column says, or None."""
        return None

    def score(self, text: str, tokens: Sequence[int], answer: object) -> float:
        """Of one response: its text, its token ids up to the stop token, and what the column says."""
        raise NotImplementedError


class _Answered(Verifiable):
    column: str = "answer"
    """The field of the row that holds the right answer."""

    @property
    def reads(self) -> str:
        return self.column

    def problem(self, answer: object) -> str | None:
        return None if str(answer).strip() else "is empty"


class ExactMatch(_Answered):
    """1 where the response, or the part of it that the pattern finds, is the row's answer; else 0."""

    pattern: Pattern | None = None
    """A regular expression that finds the part of the response to compare; its first group, where it has one."""

    def score(self, text: str, tokens: Sequence[int], answer: object) -> float:
        if self.pattern is not None:
            found = re.search(self.pattern, text)
            text = (found[1] if found.re.groups else found[0]) or "" if found else ""
        return float(text.strip() == str(answer).strip())


class Number(_Answered):
    """1 where the response ends in the number that the row's answer ends in; else 0.

    The one behind `####` or in `\\boxed{}`, where there is one: see `number_in`.
    """

    def problem(self, answer: object) -> str | None:
        return None if number_in(str(answer)) is not None else f"has no number in it: {str(answer)[:40]!r}"

    def score(self, text: str, tokens: Sequence[int], answer: object) -> float:
        said = number_in(text)
        return float(said is not None and said == number_in(str(answer)))


class Math(_Answered):
    """1 where the response is the row's answer, or math-verify finds its last expression equal to it; else 0."""

    def problem(self, answer: object) -> str | None:
        return None if _formula(_behind_mark(str(answer))) else f"is no mathematics: {str(answer)[:40]!r}"

    def score(self, text: str, tokens: Sequence[int], answer: object) -> float:
        from math_verify import verify

        right, answered = _behind_mark(str(answer)), _behind_mark(text)
        if answered.strip() == right.strip():
            return 1.0
        wanted = _formula(right)
        said = _formula(answered) if MARK in text else _expressions(answered)
        # Its own time limit would end that of the pipeline: both are the process's one alarm.
        return float(bool(wanted and said) and verify(wanted, said, timeout_seconds=None))


class Format(Verifiable):
    """1 where the pattern is found in the response; else 0."""

    pattern: Pattern
    """A regular expression."""

    def score(self, text: str, tokens: Sequence[int], answer: object) -> float:
        return float(re.search(self.pattern, text) is not None)


class Length(Verifiable):
    """0 up to `at_most` tokens, from there in a straight line down to -1 at `margin` tokens more, and -1 beyond.

    https://arxiv.org/abs/2503.14476, equation 13.
    """

    at_most: Annotated[int, Field(ge=1)]
    """Tokens that cost nothing."""
    margin: Annotated[int, Field(ge=1)] | None = None
    """Tokens more, over which the reward falls to -1. Left out, as many as `at_most`."""

    def score(self, text: str, tokens: Sequence[int], answer: object) -> float:
        return -min(max(len(tokens) - self.at_most, 0) / (self.margin or self.at_most), 1.0)


class NonRepetition(Verifiable):
    """The share of the response's runs of `n` tokens that occur once only or for the first time: 1 where nothing is repeated."""

    n: Annotated[int, Field(ge=1)] = 4
    """Tokens of a run."""

    def score(self, text: str, tokens: Sequence[int], answer: object) -> float:
        runs = [tuple(tokens[at : at + self.n]) for at in range(len(tokens) - self.n + 1)]
        return len(set(runs)) / len(runs) if runs else 1.0


BUILT_IN: dict[str, type[Verifiable]] = {
    "exact_match": ExactMatch,
    "number": Number,
    "math": Math,
    "format": Format,
    "length": Length,
    "non_repetition": NonRepetition,
}
LIBRARIES = {"math": ("math_verify", "math-verify")}  # what one needs beside Python: its module, and what to install


def missing_library(name: str) -> str | None:
    """What would have to be installed for a built-in reward, or None."""
    module, package = LIBRARIES.get(name, (None, None))
    return package if module and importlib.util.find_spec(module) is None else None


def number_in(text: str) -> Decimal | None:
    """The number that an answer gives: the first behind its last `####` or in its last `\\boxed{}`, else the last of all."""
    text = text.replace("\N{MINUS SIGN}", "-")
    for mark in (MARK, _BOXED):
        if mark in text:
            found = _NUMBER.search(text.rpartition(mark)[2])
            return _decimal(found[0]) if found else None
    found = _NUMBER.findall(text)
    return _decimal(found[-1]) if found else None


def _decimal(written: str) -> Decimal:
    return Decimal(written.replace(",", ""))


def _behind_mark(text: str) -> str:
    return text.rpartition(MARK)[2] if MARK in text else text


@lru_cache(maxsize=4096)
def _expressions(text: str) -> list:
    """The last expressions of a text, which are known in it by the signs around them, and numbers without any."""
    from math_verify import parse

    return parse(text, parsing_timeout=None)


def _formula(text: str) -> list:
    """What a text that is an answer and nothing else says; mostly it is written without those signs. [] for words."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return _expressions(f"{_decimal(text):f}")
    if any(sign in text for sign in _SIGNS):
        return _expressions(text)
    found = _expressions(f"${text}$")
    read = [one for one in found if not isinstance(one, str)]
    if _WORD.search(_COMMAND.sub(" ", text)) and any(getattr(one, "free_symbols", ()) for one in read):
        return []  # it takes the letters of a word for factors
    return found if read else []
