"""How a mistake is put into words: what a value must be, and what its author may have meant."""

import json
from collections.abc import Iterable
from difflib import get_close_matches

_FEW_CHOICES = 16


def must_be(wanted: str, value: object) -> str:
    """The complaint about a value of the wrong kind."""
    shown = json.dumps(value, default=str, ensure_ascii=False)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    quoted = isinstance(value, str) and "number" in wanted and _reads_as_number(value)
    return f"must be {wanted}, not {shown}" + ("; leave out the quotes" if quoted else "")


def not_among(word: object, choices: Iterable[str]) -> str:
    """The complaint about a value that is none of the choices."""
    choices = list(choices)
    if not isinstance(word, str):
        return must_be(f"one of {', '.join(choices)}", word)
    hint = did_you_mean(word, choices)
    if hint and len(choices) > _FEW_CHOICES:
        return f'"{word}" is none of the {len(choices)} it can be{hint}'
    return f'must be one of {", ".join(choices)}, not "{word}"{hint}'


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The first of the names that begins with this one, else the most similar, else None."""
    names = list(names)
    begun = [each for each in names if len(name) > 2 and each.startswith(name)]
    return next(iter(begun or get_close_matches(name.lower(), names, n=1)), None)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of a complaint about a name: the nearest one as a question, or nothing."""
    close = nearest(name, names)
    return f"; did you mean {close}?" if close else ""


def listed(names: Iterable[str]) -> str:
    """a, b and c."""
    *before, last = names
    return f"{', '.join(before)} and {last}" if before else last


def duration(seconds: float) -> str:
    """1 h 5 min, 1 min 54 s or 12 s."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
